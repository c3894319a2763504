"""How jobs end on a real Slurm: by themselves, by people, by limits, and by what goes wrong beside them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import pytest

from adapters.planning.platform import Job
from adapters.planning.queued import QueuedPlatform
from adapters.slurm.adapter import make_queue
from adapters.slurm.options import SlurmOptions
from adapters.slurm.queue import SlurmQueue
from broker.domain import kinds
from broker.domain.request import ExecutionRequest
from broker.errors import SiteForbids, SiteRefused, SiteTimeout
from broker.ports import Sighting
from broker.testing.memory import MemoryCalendar
from broker.testing.resources import shared_http
from broker.testing.slurm_server import SlurmServer
from tests.adapters.slurm_site import (
    CLOCK,
    a_cluster,
    a_job,
    look,
    number,
    options,
    over,
    phase,
    platform,
    resources,
    soon,
    until,
)

SLEEPS = "import time\ntime.sleep(600)\n"


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmServer]:
    with a_cluster() as server:
        yield server


class Aside(NamedTuple):
    """What takes its time, on a node of its own: `job` will meet Slurm's limit, `done` has ended unseen."""

    given: SlurmOptions
    job: Job
    done: Job
    unseen: Sighting


@pytest.fixture(scope="module")
def aside(slurm: SlurmServer) -> Aside:
    given, job, done = options(slurm, partitions=["aside"]), a_job(SLEEPS), a_job("open('results/42', 'w').close()\n")

    async def begun() -> Sighting:
        async with shared_http() as http:
            site = platform(given, http)
            unseen = await site.start(done, soon())
            await site.start(job, soon())
            seen = await phase(site, job, "RUNNING")
            slurm.control("update", f"jobid={number(seen)}", "EndTime=now+1")
            return unseen

    return Aside(given, job, done, asyncio.run(begun()))


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.fixture
async def site(slurm: SlurmServer, http: aiohttp.ClientSession) -> AsyncIterator[QueuedPlatform]:
    """What runs is ended when the test is over, for the next one wants the nodes."""
    site = platform(options(slurm), http)
    yield site
    await clear(slurm)


async def clear(slurm: SlurmServer) -> None:
    async def cleared() -> bool:
        going = [job for job in slurm.jobs() if job["job_state"] in ("PENDING", "RUNNING", "COMPLETING")]
        going = [job for job in going if job["partition"] != "aside"]
        for job in going:
            slurm.call("DELETE", f"job/{job['job_id']}")
        return not going

    await until(cleared)


def queue(slurm: SlurmServer, http: aiohttp.ClientSession, **more: object) -> SlurmQueue:
    return make_queue(options(slurm, **more), resources(http), "here")


async def fill(site: QueuedPlatform, slurm: SlurmServer) -> None:
    """Both nodes are busy."""
    for cores in (4, 2):
        busy = a_job(SLEEPS, cores=cores)
        await site.start(busy, soon())
        await phase(site, busy, "RUNNING")


def living(word: str) -> list[str]:
    """Processes with that word in their command."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if word.encode() in command:
            found.append(place.name)
    return found


# ── by themselves ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_several_at_once_end_each_in_its_way(aside: Aside, site: QueuedPlatform, slurm: SlurmServer) -> None:
    """Nothing of the environment that Slurm gives reaches a program, but for its accelerators."""
    well = a_job(
        "import os, json\n"
        "json.dump({'gpu': os.environ.get('CUDA_VISIBLE_DEVICES'), 'cwd': os.getcwd(), 'slurm': "
        "[n for n in os.environ if n.startswith('SLURM')], 'cores': os.environ['BROKER_CORES']},"
        "open('results/told.json', 'w'))\nprint('out')\n",
        extras=[{"type": kinds.GPU, "count": 1}],
    )
    badly = a_job("import sys\nsys.stderr.write('no such star\\n')\nraise SystemExit(3)\n")
    late, large = a_job(SLEEPS, duration=1.0), a_job("import time\nx = [b'x' * 10**8 for _ in range(40)]\n")
    signalled = a_job("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    started = await asyncio.gather(*(site.start(job, soon()) for job in (well, badly, late, large, signalled)))
    assert all(seen.native and seen.native.startswith("slurm job ") for seen in started)

    seen = await over(site, well)
    assert (seen.phase, seen.native) == ("COMPLETED", started[0].native)
    (told,) = await site.results(well, soon())
    text = b"".join([piece async for piece in site.fetch(well, told.name, soon())])
    place = str(Path(slurm.shared)) + "/"
    answer = msgspec.json.decode(text)
    assert answer.pop("cwd").startswith(place)
    assert answer == {"gpu": "0", "slurm": [], "cores": "1"}
    assert (await site.logs(well, soon())).stdout == "out\n"

    seen = await over(site, badly)
    assert (seen.phase, seen.messages) == ("FAILED", ("program ended with exit code 3: no such star",))
    seen = await over(site, late)
    assert (seen.phase, seen.messages) == ("FAILED", ("time limit: program did not end within 1 s",))
    seen = await over(site, large)
    assert seen.phase == "FAILED"
    assert "emory" in seen.messages[0]
    seen = await over(site, signalled)
    assert (seen.phase, seen.messages) == ("FAILED", ("program was ended by SIGSEGV",))


# ── by people ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_cancelled_while_it_runs_is_gone_with_all_that_it_started(site: QueuedPlatform) -> None:
    word = "nobody-expects-this-word"
    job = a_job(
        "import os, subprocess, time\n"
        f"subprocess.Popen(['sleep', '600.{int.from_bytes(word.encode()[:3])}'], start_new_session=True)\n"
        "open('results/going', 'w').close()\n"
        "time.sleep(600)\n"
    )
    await site.start(job, soon())
    child = f"600.{int.from_bytes(word.encode()[:3])}"
    await phase(site, job, "RUNNING")
    await until(lambda: _true(bool(living(child))))
    await site.cancel(job, soon())
    assert (await over(site, job)).phase == "CANCELLED"
    await until(lambda: _true(not living(child)))


async def _true(what: bool) -> bool:
    return what


async def test_what_waits_says_why_and_is_cancelled_before_it_begins(site: QueuedPlatform, slurm: SlurmServer) -> None:
    await fill(site, slurm)
    job, held = a_job(SLEEPS), a_job(SLEEPS)
    await site.start(job, soon())
    waits = await site.start(held, soon())
    slurm.control("hold", str(number(waits)))

    async def told() -> str:
        seen = await look(site, held)
        assert seen.phase == "WAITING"
        return seen.messages[0] if "JobHeld" in seen.messages[0] else ""

    assert "held, until an administrator of the cluster releases it" in await until(told)
    seen = await look(site, job)
    assert seen.phase == "WAITING"
    assert f"slurm job {number(seen)} is PENDING" in seen.messages[0]
    for one in (job, held):
        await site.cancel(one, soon())
        seen = await over(site, one)
        assert (seen.phase, seen.began) == ("CANCELLED", None)
    assert {one.session for one in await site.held(soon())}.isdisjoint({job.session, held.session})


async def test_an_administrator_ends_it(site: QueuedPlatform, slurm: SlurmServer) -> None:
    job = a_job(SLEEPS)
    await site.start(job, soon())
    seen = await phase(site, job, "RUNNING")
    slurm.call("DELETE", f"job/{number(seen)}")
    seen = await over(site, job)
    assert seen.phase == "CANCELLED"
    assert "CANCELLED, it was cancelled" in seen.messages[0]


# ── by Slurm ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_administrator_runs_it_again_and_it_runs_once(site: QueuedPlatform, slurm: SlurmServer) -> None:
    job = a_job("import time, uuid\nopen('results/' + uuid.uuid4().hex, 'w').close()\ntime.sleep(600)\n")
    await site.start(job, soon())
    seen = await phase(site, job, "RUNNING")
    native = number(seen)
    slurm.control("update", f"jobid={native}", "requeue=1")
    slurm.control("requeue", str(native))
    seen = await over(site, job)
    assert seen.phase == "FAILED"
    assert "was put back into the queue" in seen.messages[0]
    assert len(await site.results(job, soon())) <= 1


async def test_a_job_that_slurm_was_given_twice_runs_once(site: QueuedPlatform, slurm: SlurmServer) -> None:
    job = a_job("import time\nopen('results/ran', 'a').write('ran')\ntime.sleep(1)\n")
    seen = await site.start(job, soon())
    first = next(one for one in slurm.jobs() if one["job_id"] == number(seen))
    place = first["current_working_directory"]
    runner = next(Path(place).parent.glob(".runner-*.pyz"))
    again = slurm.call(
        "POST",
        "job/submit",
        {
            "script": f"#!/bin/sh\nexec /usr/bin/python3 {runner} run {place}\n",
            "job": {"name": first["name"], "environment": {"PATH": "/bin"}, "current_working_directory": place},
        },
    )
    assert again["job_id"]
    assert (await over(site, job)).phase == "COMPLETED"
    (ran,) = await site.results(job, soon())
    assert ran.bytes == 3


# ── answers that are lost, and jobs that are not taken ───────────────────────────────────────────────────────────


async def test_a_job_whose_answer_was_lost_is_found_and_not_submitted_again(
    slurm: SlurmServer, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    calendar, given = MemoryCalendar(), queue(slurm, http)
    submit = given._client.submit

    async def lost(*arguments: object) -> None:
        await submit(*arguments)  # type: ignore[arg-type]
        raise SiteTimeout("no answer")

    monkeypatch.setattr(given._client, "submit", lost)
    site = QueuedPlatform(given, calendar, "here", CLOCK)
    job = a_job("open('results/done', 'a').write('42')\n")
    with pytest.raises(SiteTimeout):
        await site.start(job, soon())
    seen = await site.start(job, soon())
    assert seen.native is not None
    assert (await over(site, job)).phase == "COMPLETED"
    assert len([one for one in slurm.jobs() if str(job.session) in one["name"]]) <= 1
    assert [result.bytes for result in await site.results(job, soon())] == [2]


async def test_what_slurm_would_let_wait_for_ever_is_taken_back(
    slurm: SlurmServer, http: aiohttp.ClientSession
) -> None:
    """The snapshot is older than the change, so that only Slurm can say it."""
    given = queue(slurm, http, partitions=["short"], snapshot="PT1H")
    await given.capacity(soon())
    job = a_job("pass", duration=1.0)
    slurm.control("update", "partitionname=short", "MaxTime=1")
    try:
        with pytest.raises(SiteRefused, match=r"wait for ever: slurm job \d+ is PENDING \(Partition") as refused:
            await given.submit(job, soon())
    finally:
        slurm.control("update", "partitionname=short", "MaxTime=2")
    assert refused.value.proof
    assert await given.find([job], soon()) == {}
    mine = [one["job_state"] for one in slurm.jobs() if str(job.session) in one["name"]]
    assert mine in ([], ["CANCELLED"])


async def test_what_slurm_refuses_leaves_nothing(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    given = queue(slurm, http, partitions=["gone"], snapshot="PT1H")
    slurm.control("create", "partitionname=gone", f"nodes={slurm.nodes[0]}", "maxtime=60")
    await given.capacity(soon())
    slurm.control("delete", "partitionname=gone")
    job = a_job("pass")
    with pytest.raises(SiteRefused, match="Invalid partition name") as refused:
        await given.submit(job, soon())
    assert refused.value.proof
    assert await given.find([job], soon()) == {}


async def test_a_bad_interpreter_is_told_of(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    site = platform(options(slurm, runner="/usr/bin/no-such-python"), http)
    job = a_job("pass")
    await site.start(job, soon())
    seen = await over(site, job)
    assert seen.phase == "FAILED"
    assert "no-such-python" in " ".join(seen.messages)
    assert "no-such-python" in ((await site.logs(job, soon())).stderr or "")


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_person_runs_as_their_own_user(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    """And what they put into the place of our files is not followed."""
    given = options(slurm, users={"ada": {"user": "nobody"}})
    site = platform(given, http)
    job = a_job(
        "import os\nopen('results/who', 'w').write(str(os.getuid()))\n"
        "os.remove('../stdout')\nos.symlink('/etc/shadow', '../stdout')\n"
    )
    await site.start(job, soon())
    assert (await over(site, job)).phase == "COMPLETED"
    pieces = [piece async for piece in site.fetch(job, "who", soon())]
    assert b"".join(pieces) == b"65534"
    assert (await site.logs(job, soon())).stdout is None
    one = next(one for one in slurm.jobs() if str(job.session) in one["name"])
    assert one["user_name"] == "nobody"
    assert one["name"] == f"here-{job.session}-ada"
    assert one["comment"] == f"session {job.session} of us for ada (https://idp.example.org): a job"


@pytest.mark.parametrize("seconds", [-3600.0, 600.0])
async def test_credentials_that_are_not_taken_are_the_operators_to_renew(
    slurm: SlurmServer, http: aiohttp.ClientSession, tmp_path: Path, seconds: float
) -> None:
    """Ended, by their own word; and of another user, which Slurm alone can tell. Nothing is submitted."""
    file = tmp_path / "token"
    file.write_text(slurm.token("nobody", seconds))
    given = queue(slurm, http, key_file=None, token={"token_file": file})
    for call in (given.capacity(soon()), given.submit(job := a_job("pass"), soon())):
        with pytest.raises(SiteForbids) as refused:
            await call
        assert refused.value.proof
        assert refused.value.acts == "operator"
    assert await given.find([job], soon()) == {}
    file.write_text(slurm.token("root"))
    if seconds < 0:  # what was refused is not tried again at once, but this is another
        assert (await given.capacity(soon())).cores == 6


# ── containers ───────────────────────────────────────────────────────────────────────────────────────────────────

APPTAINER = """#!/bin/sh
printf '%s\\n' "$@" > results/words
env > results/environment
"""


async def test_a_container_is_handed_to_apptainer(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    """A stand-in, which says what it was told: a real one is not to be had here."""
    program = slurm.folder / "apptainer"
    program.write_text(APPTAINER)
    program.chmod(0o755)
    site = platform(options(slurm, apptainer=str(program)), http)
    executable = {
        "kind": kinds.DOCKER_CONTAINER,
        "image": {"locations": ["registry.example/fit:1"], "digest": "sha256:" + "0" * 64},
        "command": ["--all", "the 'stars'"],
        "environment": {"COLOUR": "blue"},
    }
    request = ExecutionRequest.model_validate({"executable": executable})
    job = msgspec.structs.replace(a_job("pass"), request=request)
    await site.start(job, soon())
    assert (await over(site, job)).phase == "COMPLETED"
    words, environment = [
        b"".join([piece async for piece in site.fetch(job, name, soon())]).decode() for name in ("words", "environment")
    ]
    place = next(one["current_working_directory"] for one in slurm.jobs() if str(job.session) in one["name"])
    told = words.splitlines()
    assert told[:5] == ["run", "--containall", "--home", f"{place}/home", "--pwd"]
    assert [told[i + 1] for i, word in enumerate(told) if word == "--bind"][:2] == [f"{place}/store", f"{place}/work"]
    assert told[-3:] == [f"docker://registry.example/fit:1@sha256:{'0' * 64}", "--all", "the 'stars'"]
    assert {"APPTAINERENV_COLOUR=blue", f"APPTAINERENV_BROKER_SESSION={job.session}"} <= set(environment.splitlines())


# ── what there is ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_the_cluster_has_is_found_out(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    given = queue(slurm, http)
    room = await given.capacity(soon())
    assert (room.cores, room.memory, room.extras) == (6, 9, {kinds.GPU: 2.0})
    assert room.largest == {"cores": 4, "memory": 7, kinds.GPU: 2.0}
    profile = await given.describe(soon())
    assert profile.duration is not None
    assert profile.duration.total_seconds() == 3 * 3600 - 60 - 0.5
    old = await queue(slurm, http, constraint="old").capacity(soon())
    assert (old.cores, old.largest) == (2, {"cores": 2, "memory": 2})


async def test_when_it_would_begin_is_the_schedulers_word(
    site: QueuedPlatform, slurm: SlurmServer, http: aiohttp.ClientSession
) -> None:
    now = CLOCK.now()
    soonest = await queue(slurm, http).estimate(a_job("pass"), soon())
    assert soonest is not None
    assert now - 1 <= soonest.low <= soonest.high <= CLOCK.now() + 60
    await fill(site, slurm)
    later = await queue(slurm, http).estimate(a_job("pass"), soon())
    assert later is not None
    assert now + 600 < later.low <= later.high < now + 900  # when one of the two is over at the latest

    huge = await queue(slurm, http).estimate(a_job("pass", cores=64), soon())
    assert huge is not None
    assert huge.low == float("inf")


async def test_maintenance_keeps_jobs_off(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    now = CLOCK.now()
    nodes = ",".join(slurm.nodes[:2])
    slurm.control(
        "create", "reservation", "reservationname=repair", "starttime=now+5minutes", "duration=30", "user=root",
        "flags=maint", f"nodes={nodes}",
    )  # fmt: skip
    try:
        seen = await queue(slurm, http).estimate(a_job("pass", duration=600.0), soon())
        short = await queue(slurm, http).estimate(a_job("pass", duration=60.0), soon())
    finally:
        slurm.control("delete", "reservationname=repair")
    assert seen is not None
    assert seen.low > now + 34 * 60
    assert short is not None
    assert short.low < now + 60


async def test_a_node_that_is_down_is_named(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    node = slurm.nodes[0]
    slurm.control("update", f"nodename={node}", "state=drain", "reason=bad disk")
    try:
        given = queue(slurm, http)
        await given.capacity(soon())
        request = a_job("pass", cores=4).request
        (reason,) = given.refuse(request)
        assert str(reason) == f"compute: all nodes that could run it are down: {node} (DRAIN: bad disk)"
        assert given.refuse(a_job("pass", cores=2).request) == ()
    finally:
        slurm.control("update", f"nodename={node}", "state=resume")


# ── what takes its time ──────────────────────────────────────────────────────────────────────────────────────────


async def test_slurm_ends_it_at_its_own_limit(aside: Aside, slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    """The supervisor, which asks nobody, takes the signal for somebody's wish; Slurm knows better."""
    seen = await over(platform(aside.given, http), aside.job)
    assert seen.phase == "FAILED"
    assert "TIMEOUT, its time limit was reached" in seen.messages[-1]


async def test_what_slurmctld_forgot_before_anybody_looked_the_folder_knows(
    aside: Aside, slurm: SlurmServer, http: aiohttp.ClientSession
) -> None:
    slurm.forget(2)

    async def forgotten() -> bool:
        return aside.unseen.native not in [f"slurm job {one['job_id']}" for one in slurm.jobs()]

    await until(forgotten)
    site = platform(aside.given, http)
    seen = await look(site, aside.done)
    assert (seen.phase, seen.native) == ("COMPLETED", aside.unseen.native)
    assert (await site.cancel(aside.done, soon())).phase == "COMPLETED"
    assert (await look(site, aside.job)).phase == "FAILED"
