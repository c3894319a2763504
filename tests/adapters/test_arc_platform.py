"""ARC, at a stand-in that really runs its jobs (broker/testing/arc_site): contracts, ends of runs, what goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import pytest

from adapters.arc.adapter import platform, plugin
from adapters.arc.options import ArcOptions
from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.platform import Job
from adapters.planning.queued import QueuedPlatform
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL
from broker.domain.site import Registration
from broker.errors import (
    SettingsError,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Credentials, Resources, load
from broker.ports import Planner, Sighting
from broker.services.clock import SystemClock
from broker.testing.arc_site import FakeArc
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.planner_contract import PATIENCE, PlannerContract, Stand, real_time
from broker.testing.resources import shared_http
from tests.conftest import want

CLOCK = SystemClock()
WARP = {"kind": "https://example.org/kinds/executable/warp-drive.yaml"}


def program(source: str) -> dict[str, Any]:
    return {
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": source},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 1}, "memory": {"min": 1, "max": 1}},
    }


SHORT = program("open('results/answer', 'w').write('42')\n")
LONG = program("import time\ntime.sleep(600)\n")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[FakeArc]:
    async with FakeArc(tmp_path / "sessions") as site:
        yield site


@pytest.fixture
async def resources() -> AsyncIterator[Resources]:
    async with shared_http() as http:
        yield resources_of(http)


def resources_of(http: aiohttp.ClientSession) -> Resources:
    settings = {"tariff": "free", "capacity": {"cores": 8, "memory": 32, "storage": 100}}
    limits = MemoryLimits(CLOCK)
    return Resources(
        Registration(name="here"), MemoryCalendar(), limits, CLOCK, http, None, "here", "us", "EUR", settings
    )


def began(site: FakeArc) -> Callable[[Any], int]:
    return lambda what: sum(job.began is not None for job in site.named(str(what.session)))


class TestArcPlatform(PlatformContract):
    @pytest.fixture
    async def stage(self, site: FakeArc, resources: Resources) -> Stage:
        options = ArcOptions(url=site.url, python=sys.executable, queue="grid")

        def make() -> QueuedPlatform:
            return platform(options, resources)

        failing, beyond = program("raise SystemExit(3)"), {"executable": WARP}
        return Stage(make, CLOCK, SHORT, LONG, failing, beyond, b"42", began(site))


class TestArcPlanner(PlannerContract):
    @pytest.fixture
    async def stand(self, site: FakeArc, resources: Resources) -> Stand:
        options = ArcOptions(url=site.url, python=sys.executable, queue="grid")

        def make() -> Planner:
            return plugin.make(options, resources)

        return Stand(make, CLOCK, SHORT, LONG, {"executable": WARP}, ran=began(site))


# ── one job, looked at closely ───────────────────────────────────────────────────────────────────────────────────

ADA, BOB = Owner("tests", "ada"), Owner("tests", "bob")
HELLO = "http://data.example/hello.txt"


def soon(seconds: float = PATIENCE) -> Deadline:
    return Deadline.after(seconds, CLOCK.monotonic())


def a_job(source: str = "", *, owner: Owner = ADA, duration: float = 3600.0, **request: Any) -> Job:
    executable = {**program(source)["executable"], **request.pop("executable", {})}
    asked = ExecutionRequest.model_validate({**program(source), "executable": executable, **request})
    return Job(uuid4(), "job", owner, asked, 2, 1, 0, {}, duration=duration, start=CLOCK.now())


def hello(**more: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_DATA, "meta": {"name": "hello.txt"}, "location": HELLO, **more}


@pytest.fixture
def arc(site: FakeArc, resources: Resources) -> QueuedPlatform:
    return at(site, resources)


def at(site: FakeArc, resources: Resources, **options: Any) -> QueuedPlatform:
    return platform(ArcOptions.model_validate({"url": site.url, "python": sys.executable, **options}), resources)


async def look(arc: QueuedPlatform, job: Job) -> Sighting:
    seen = (await arc.status([job], soon()))[job.session]
    assert isinstance(seen, Sighting), seen
    return seen


async def ended(arc: QueuedPlatform, job: Job) -> Sighting:
    async with asyncio.timeout(PATIENCE):
        while (seen := await look(arc, job)).phase not in TERMINAL:
            await real_time()
    return seen


async def run(arc: QueuedPlatform, job: Job) -> Sighting:
    await arc.start(job, soon())
    return await ended(arc, job)


async def left(arc: QueuedPlatform, job: Job) -> dict[str, bytes]:
    """The results, by name; each is what it was said to be."""
    found = {}
    for result in await arc.results(job, soon()):
        text = b"".join([piece async for piece in arc.fetch(job, result.name, soon())])
        assert (len(text), f"sha256:{hashlib.sha256(text).hexdigest()}") == (result.bytes, result.checksum)
        found[result.name] = text
    return found


# ── what a run finds and leaves ──────────────────────────────────────────────────────────────────────────────────


async def test_a_run_finds_its_data_and_its_surroundings_where_they_are_everywhere(
    arc: QueuedPlatform, site: FakeArc
) -> None:
    site.web[HELLO] = b"hello"
    source = """
import json, os, sys
told = {name: value for name, value in os.environ.items() if name.startswith("BROKER_")}
found = [told, os.getcwd(), sys.argv, os.environ["ASKED"], open("data/hello.txt").read()]
open("results/told", "w").write(json.dumps(found))
os.makedirs("results/a b")
open("results/a b/;é%41?#.txt", "w").write("odd")
os.symlink("/etc/passwd", "results/link")
"""
    volumes = [{"kind": kinds.SIMPLE_VOLUME, "meta": {"name": "v"}, "path": "/in/put", "resource": "hello.txt"}]
    compute = {**program("")["compute"], "volumes": volumes}
    words = {"arguments": ["`id`", "$HOME", "a\nb", 'c"'], "environment": {"ASKED": "$(id)", "BROKER_SESSION": "no"}}
    job = a_job(source, data=[hello()], compute=compute, executable=words)
    assert (await run(arc, job)).phase == "COMPLETED"
    files = await left(arc, job)
    told, folder, argv, asked, data = json.loads(files.pop("told"))
    assert (argv[1:], asked, data) == (words["arguments"], "$(id)", "hello")
    assert told == {  # and not what the launcher was handed
        "BROKER_SESSION": str(job.session), "BROKER_CORES": "2", "BROKER_MEMORY": str(1024**3),
        "BROKER_DATA": f"{folder}/data", "BROKER_RESULTS": f"{folder}/results",
        "BROKER_DATA_HELLO_TXT": f"{folder}/data/hello.txt", "BROKER_VOLUME_IN_PUT": f"{folder}/in/put",
    }  # fmt: skip
    assert files == {"a b/;é%41?#.txt": b"odd"}


async def test_a_program_by_its_location_is_fetched_by_the_service(arc: QueuedPlatform, site: FakeArc) -> None:
    site.web["https://code.example/p.py"] = b"open('results/x', 'w').write('1')"
    asked = {"executable": {"kind": kinds.PYTHON_PROGRAM, "location": "https://code.example/p.py"}}
    job = msgspec.structs.replace(a_job(), request=ExecutionRequest.model_validate(asked))
    assert (await run(arc, job)).phase == "COMPLETED"
    assert await left(arc, job) == {"x": b"1"}


async def test_the_end_of_long_logs_is_kept(arc: QueuedPlatform) -> None:
    job = a_job("import sys\nprint('a' * 40_000_000 + 'end')\nsys.stderr.write('é' * 600_000)\n")
    await run(arc, job)
    logs = await arc.logs(job, soon())
    assert logs.stdout is not None
    assert logs.stdout.endswith("aend\n")
    assert len(logs.stdout) == 1024**2
    assert set(logs.stderr or "") == {"é"}


async def test_a_run_that_failed_hands_back_what_it_left(arc: QueuedPlatform) -> None:
    job = a_job("open('results/part', 'w').write('1')\nraise SystemExit('no more')\n")
    seen = await run(arc, job)
    assert seen.messages == ("LRMS error: (1) Job finished with wrong exit code - 1 != 0", "exit code 1")
    assert await left(arc, job) == {"part": b"1"}
    assert (await arc.logs(job, soon())).stderr == "no more\n"


@pytest.mark.parametrize(
    "listed", ['[["../secret", 1, "00"], ["/etc/passwd", 1, "00"], ["", 1, "00"], ["a/../../b", 1, "0"]]', "[]"]
)
async def test_names_that_lead_out_of_the_results_are_no_results(
    arc: QueuedPlatform, site: FakeArc, listed: str
) -> None:
    job = a_job()
    await run(arc, job)
    (site.named(str(job.session))[0].folder / ".broker.json").write_text(listed)
    assert await arc.results(job, soon()) == ()
    with pytest.raises(SiteForgot):
        await anext(aiter(arc.fetch(job, "../secret", soon())))


async def test_a_checksum_that_is_none_and_an_endless_size_are_left_out(arc: QueuedPlatform, site: FakeArc) -> None:
    """The list is the program's word alone, and others read it."""
    job = a_job()
    await run(arc, job)
    listed = json.dumps([["a", 1, "x" * 64], ["b", 2**70, "0" * 64]])
    (site.named(str(job.session))[0].folder / ".broker.json").write_text(listed)
    assert [(result.name, result.checksum) for result in await arc.results(job, soon())] == [("a", None)]


async def test_a_list_of_results_that_is_none_is_said_to_be_none(arc: QueuedPlatform, site: FakeArc) -> None:
    job = a_job()
    await run(arc, job)
    (site.named(str(job.session))[0].folder / ".broker.json").write_text('{"a": ')
    with pytest.raises(SiteMisbehaved, match="list of the results"):
        await arc.results(job, soon())


# ── how runs end ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (lambda: a_job("import time\ntime.sleep(600)", duration=0.3), "time limit"),
        (lambda: a_job("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"), "SIGKILL: was it out of memory"),
        (lambda: a_job("this is no Python"), "exit code 1"),
        (lambda: a_job(data=[hello(location="http://data.example/none")]), "Failed in data staging"),
        (lambda: a_job(data=[skao("00")]), "its data was not what was stated"),
    ],
    ids=["time", "memory", "program", "missing", "checksum"],
)
async def test_what_goes_wrong_fails_and_says_why(
    arc: QueuedPlatform, site: FakeArc, job: Callable[[], Job], words: str
) -> None:
    site.web[HELLO] = b"hello"
    seen = await run(arc, job())
    assert seen.phase == "FAILED"
    assert words in " ".join(seen.messages)


def skao(checksum: str) -> dict[str, Any]:
    stated = {"type": "SHA-256", "value": checksum}
    block = {"objecttype": "FILE", "checksum": stated, "replicas": [{"rsename": "HERE", "dataurl": HELLO}]}
    return {"kind": kinds.SKAO_DATA, "meta": {"name": "hello.txt"}, "skao": block}


async def test_a_stated_checksum_that_holds_lets_it_run(arc: QueuedPlatform, site: FakeArc) -> None:
    site.web[HELLO] = b"hello"
    assert (await run(arc, a_job(data=[skao(hashlib.sha256(b"hello").hexdigest())]))).phase == "COMPLETED"


FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("results/pids.new", "w").write(f"{os.getpid()} {child.pid}")
os.rename("results/pids.new", "results/pids")
time.sleep(600)
"""


async def family(site: FakeArc, job: Job) -> list[int]:
    """The processes of a job of FAMILY, once they are there."""
    file = site.named(str(job.session))[0].folder / "results" / "pids"
    async with asyncio.timeout(PATIENCE):
        while not file.exists():
            await real_time()
    return [int(pid) for pid in file.read_text().split()]


async def gone(pid: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while _state(pid) not in ("Z", "X", ""):
            await real_time()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


async def test_cancelling_ends_all_that_a_job_has_started(arc: QueuedPlatform, site: FakeArc) -> None:
    job = a_job(FAMILY)
    await arc.start(job, soon())
    pids = await family(site, job)
    await arc.cancel(job, soon())
    assert (await ended(arc, job)).phase == "CANCELLED"
    for pid in pids:
        await gone(pid)


async def test_a_job_whose_folder_is_cleared_ends_by_itself(arc: QueuedPlatform, site: FakeArc) -> None:
    """As ARC's fork back-end leaves it: killed by its own word, and running on."""
    job = a_job(FAMILY)
    await arc.start(job, soon())
    pids = await family(site, job)
    (site.named(str(job.session))[0].folder / ".broker.run").unlink()
    for pid in pids:
        await gone(pid)
    assert (await ended(arc, job)).phase == "FAILED"


async def test_states_are_told_as_they_are(arc: QueuedPlatform, site: FakeArc) -> None:
    site.holds = True
    job = a_job()
    await arc.start(job, soon())
    one = site.named(str(job.session))[0]
    for state, phase in (("QUEUING", "WAITING"), ("EXITINGLRMS", "RELEASING"), ("FROBNICATING", "FROBNICATING")):
        one.shows = state
        seen = await look(arc, job)
        assert seen.phase == phase
        assert "renewed about once a minute" in seen.messages[0]
        assert seen.native == one.id


# ── answers that are lost ────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fault", "done"),
    [("reset", False), ("reset", True), ("status:500", False), ("status:500", True), ("half-close", True),
     ("garbage", True), ("empty", True), ("hang", True)],
)  # fmt: skip
async def test_a_submit_whose_answer_is_lost_is_never_sent_again(
    site: FakeArc, resources: Resources, fault: str, done: bool
) -> None:
    """What it made is found by its name, by any process."""
    site.behave("new", f"after:{fault}" if done else fault)
    job = a_job()
    with pytest.raises(SiteError) as caught:
        await at(site, resources).start(job, soon(2.0 if fault == "hang" else PATIENCE))
    assert not caught.value.proof
    for _ in range(2):
        seen = (await at(site, resources).status([job], soon()))[job.session]
        assert isinstance(seen, Sighting)
        assert seen.phase != "CANCELLED"
    assert site.calls["new"] == 1
    assert len(site.named(str(job.session))) == int(done)
    if done:
        assert (await ended(at(site, resources), job)).phase == "COMPLETED"


@pytest.mark.parametrize(
    ("fault", "error"),
    [("status:429:7", SiteBusy), ("status:403", SiteForbids), ("status:404", SiteRefused), ("status:400", SiteRefused)],
)
async def test_a_submit_that_was_refused_can_be_tried_again(
    arc: QueuedPlatform, site: FakeArc, fault: str, error: type[SiteError]
) -> None:
    site.behave("new", fault)
    job = a_job()
    with pytest.raises(error) as caught:
        await arc.start(job, soon())
    assert caught.value.proof
    assert (await run(arc, job)).phase == "COMPLETED"


async def test_a_description_that_the_service_does_not_take_is_refused_in_its_words(
    arc: QueuedPlatform, site: FakeArc
) -> None:
    site.refuses = "Requested queue nix is not allowed for this user"
    with pytest.raises(SiteRefused, match="queue nix is not allowed") as caught:
        await arc.start(a_job(), soon())
    assert caught.value.proof


@pytest.mark.parametrize(("operation", "fault"), [("versions", "reset"), ("list", "half-close"), ("info", "reset")])
async def test_reading_is_repeated(arc: QueuedPlatform, site: FakeArc, operation: str, fault: str) -> None:
    site.behave(operation, fault, fault)
    assert (await run(arc, a_job())).phase == "COMPLETED"


@pytest.mark.parametrize(
    ("operation", "fault"),
    [("versions", "not-an-object"), ("versions", "redirect:http://127.0.0.1:9/"), ("list", "garbage"), ("list", "deep"),
     ("list", "flood"), ("list", "not-http")],
)  # fmt: skip
async def test_nonsense_is_no_answer(site: FakeArc, resources: Resources, operation: str, fault: str) -> None:
    site.behave(operation, *[fault] * 3)
    seen = (await at(site, resources).status([job := a_job()], soon()))[job.session]
    assert isinstance(seen, SiteMisbehaved)


async def test_silence_ends_at_the_deadline(arc: QueuedPlatform, site: FakeArc) -> None:
    site.behave("list", *["hang"] * 3)
    seen = (await arc.status([job := a_job()], soon(0.5)))[job.session]
    assert isinstance(seen, SiteTimeout | SiteUnreachable)


async def test_what_is_not_there_says_that_nothing_was_sent(resources: Resources) -> None:
    arc = platform(ArcOptions(url="http://127.0.0.1:9/arex"), resources)
    with pytest.raises(SiteUnreachable):
        await arc.start(a_job(), soon())


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_jobs_are_looked_at_in_one_call(arc: QueuedPlatform, site: FakeArc) -> None:
    site.holds = True
    jobs = [a_job() for _ in range(20)]
    for job in jobs:
        await arc.start(job, soon())
    before = site.calls.copy()
    assert len(await arc.status(jobs, soon())) == 20
    assert site.calls - before == {"info": 1}


async def test_a_job_is_found_before_the_services_information_has_its_name(site: FakeArc, resources: Resources) -> None:
    site.holds = True
    job = a_job()
    await at(site, resources).start(job, soon())
    site.named(str(job.session))[0].nameless = True
    assert (await look(at(site, resources), job)).phase == "WAITING"


async def test_jobs_of_others_are_left_alone(arc: QueuedPlatform, site: FakeArc) -> None:
    site.holds = True
    job = a_job()
    await arc.start(job, soon())
    one = site.named(str(job.session))[0]
    name = str(job.session).encode()
    for i, other in enumerate((b"mine", name.upper(), b"{" + name + b"}")):
        site.jobs[f"X{i}"] = replace(one, id=f"X{i}", description=one.description.replace(name, other))
    assert [held.session for held in await arc.held(soon())] == [job.session]


async def test_what_could_be_a_key_is_not_shown(arc: QueuedPlatform) -> None:
    refused = arc.refuse(a_job(data=[hello(location="s3://bucket/x?signature=secret")]).request)
    assert refused
    assert "secret" not in str(refused)


async def test_a_job_that_is_gone_is_forgotten(arc: QueuedPlatform, site: FakeArc) -> None:
    job = a_job()
    await run(arc, job)
    site.jobs.clear()
    seen = (await arc.status([job], soon()))[job.session]
    assert isinstance(seen, SiteBusy)  # it was taken not long ago
    with pytest.raises(SiteForgot):
        await arc.logs(job, soon())


async def test_ids_that_could_not_stand_in_an_address_are_nonsense(arc: QueuedPlatform, site: FakeArc) -> None:
    job = a_job()
    await run(arc, job)
    one = site.named(str(job.session))[0]
    site.jobs["../../x"] = replace(one, id="../../x")
    seen = (await arc.status([other := a_job()], soon()))[other.session]
    assert isinstance(seen, SiteMisbehaved)


# ── the service ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("versions", "path"), [(("1.0",), "/rest/1.0/"), (("1.0", "1.1"), "/rest/1.1/"), (("1.1", "2.0"), "/rest/1.1/")]
)
async def test_the_newest_version_that_both_speak_is_spoken(
    arc: QueuedPlatform, site: FakeArc, versions: tuple[str, ...], path: str
) -> None:
    site.versions = versions
    await arc.describe(soon())
    assert path in site.paths[-1]


async def test_a_service_that_is_not_there_says_nothing_of_any_job(site: FakeArc, resources: Resources) -> None:
    """A 404 of the whole, such as a proxy's in front of it, does not mean that a job is gone."""
    site.holds = True
    await at(site, resources).start(job := a_job(), soon())
    site.behave("versions", "status:404")
    seen = (await at(site, resources).status([job], soon()))[job.session]
    assert isinstance(seen, SiteMisbehaved)


async def test_a_service_of_another_version_is_not_spoken_to(arc: QueuedPlatform, site: FakeArc) -> None:
    site.versions = ("2.0",)
    with pytest.raises(SiteMisbehaved, match=r"1\.1 nor 1\.0"):
        await arc.describe(soon())


async def test_a_version_that_is_no_longer_spoken_is_asked_for_anew(arc: QueuedPlatform, site: FakeArc) -> None:
    await arc.describe(soon())
    site.versions = ("1.1",)
    for _ in range(2):
        found = await arc.status([job := a_job()], soon())
    assert isinstance(found[job.session], SiteForgot)


async def test_the_queue_says_what_it_has_and_when_it_would_begin(site: FakeArc, resources: Resources) -> None:
    arc = at(site, resources, queue="grid")
    assert (await arc.capacity(soon())).cores == 4
    now, span = CLOCK.now(), await arc.estimate(a_job(), soon())
    assert span is not None
    assert now - 1 <= span.low <= span.high <= CLOCK.now() + 60
    site.info |= {"WaitingJobs": "3", "MaxSlotsPerJob": "1", "MaxWallTime": "600", "MaxMainMemory": "500"}
    arc = at(site, resources, queue="grid")
    assert await arc.estimate(a_job(), soon()) is None
    large = {"cores": {"min": 2}, "memory": {"min": 1}, "kind": kinds.SIMPLE_COMPUTE}
    refused = arc.refuse(a_job(compute=large, schedule={"requested": {"duration": "PT1H"}}).request)
    assert [reason.element for reason in refused] == [
        "compute.cores.min", "compute.memory.min", "schedule.requested.duration"
    ]  # fmt: skip


# ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def token_files(tmp_path: Path) -> dict[str, Any]:
    """A token for everybody, and one for ada."""
    for name in ("all", "ada"):
        (tmp_path / name).write_text(f"secret-{name}")
    return {
        "tokens": {"token_file": str(tmp_path / "all")},
        "users": {"tests ada": {"tokens": {"token_file": str(tmp_path / "ada")}}},
    }


async def test_each_users_jobs_go_by_their_own_account(
    site: FakeArc, resources: Resources, token_files: dict[str, Any]
) -> None:
    site.tokens, site.holds = ("secret-all", "secret-ada"), True
    arc = at(site, resources, **token_files)
    for owner, token in ((ADA, "secret-ada"), (BOB, "secret-all")):
        site.signed.clear()
        await arc.start(a_job(owner=owner), soon())
        assert site.signed[-1] == f"Bearer {token}"


async def test_an_account_that_is_not_taken_stops_its_own_jobs_alone(
    site: FakeArc, resources: Resources, token_files: dict[str, Any]
) -> None:
    site.tokens, site.holds = ("secret-all",), True
    arc = at(site, resources, **token_files)
    with pytest.raises(SiteForbids) as caught:
        await arc.start(a_job(owner=ADA), soon())
    assert "secret" not in str(caught.value)
    assert (await arc.start(a_job(owner=BOB), soon())).phase == "WAITING"


async def test_a_token_that_is_refused_is_renewed(
    site: FakeArc, resources: Resources, token_files: dict[str, Any], tmp_path: Path
) -> None:
    site.tokens = ("secret-new",)
    arc = at(site, resources, tokens=token_files["tokens"])
    with pytest.raises(SiteForbids):
        await arc.describe(soon())
    (tmp_path / "all").write_text("secret-new")
    await arc.describe(soon())


async def test_one_file_that_may_not_be_read_is_not_the_tokens_fault(
    site: FakeArc, resources: Resources, token_files: dict[str, Any]
) -> None:
    """A program can make its own results unreadable."""
    site.tokens = ("secret-all",)
    arc = at(site, resources, tokens=token_files["tokens"])
    await run(arc, job := a_job(owner=BOB))
    site.behave("file", "status:403")
    with pytest.raises(SiteForbids):
        await arc.results(job, soon())
    assert [result.name for result in await arc.results(job, soon())] == []


async def test_a_static_token_serves(site: FakeArc, resources: Resources) -> None:
    site.tokens = ("static",)
    await at(site, replace(resources, credentials=Credentials(token="static"))).describe(soon())


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────


def certify(folder: Path, name: str, subject: str, *words: str) -> Path:
    """A certificate, signed by itself, and its key in one file."""
    file = folder / name
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", subject, "-keyout", str(file), "-out", f"{file}.cert", *words]
    subprocess.run(command, check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + Path(f"{file}.cert").read_bytes())
    return file


async def test_certificates_are_shown_checked_and_read_again(tmp_path: Path, resources: Resources) -> None:
    want("openssl", "openssl")
    host = certify(tmp_path, "host.pem", "/CN=host", "-addext", "subjectAltName=IP:127.0.0.1")
    good, bad = certify(tmp_path, "good.pem", "/CN=good"), certify(tmp_path, "bad.pem", "/CN=bad")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(good))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(host)
    mine = tmp_path / "mine.pem"
    mine.write_bytes(bad.read_bytes())
    async with FakeArc(tmp_path / "sessions", tls=server) as site:
        with pytest.raises(SiteUnreachable, match="certificate"):
            await at(site, resources, certificate=str(good)).describe(soon())
        arc = at(site, resources, ca=str(host), certificate=str(mine))
        with pytest.raises(SiteError):
            await arc.describe(soon())
        mine.write_bytes(good.read_bytes())
        os.utime(mine, (1, 1))
        assert (await run(arc, a_job())).phase == "COMPLETED"


@pytest.mark.parametrize("text", [None, "", "no certificate"])
async def test_a_certificate_that_cannot_be_read_is_for_the_operator(
    tmp_path: Path, resources: Resources, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "cert.pem").write_text(text)
    options = ArcOptions(url="https://127.0.0.1:9/arex", certificate=tmp_path / "cert.pem")
    with pytest.raises(SiteForbids, match="certificate"):
        await platform(options, resources).start(a_job(), soon())


def test_an_address_that_is_none_is_found_at_once(resources: Resources) -> None:
    with pytest.raises(SettingsError):
        plugin.make(ArcOptions(url="arc.example.org"), resources)


def test_it_is_installed() -> None:
    assert load()["arc"].plans
