"""What a real slurmrestd cannot be told to do: answers that are lost, late or nonsense; and later versions' shapes, as
the descriptions of 0.0.44 (Slurm 25.11) have them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapters.local import layout
from adapters.local.layout import State
from adapters.planning.platform import Job
from adapters.slurm.adapter import make_queue, plugin
from adapters.slurm.options import SlurmOptions
from adapters.slurm.queue import SlurmQueue
from adapters.slurm.runner import mark
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.errors import (
    SettingsError,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Credentials
from broker.ports import Sighting
from broker.testing.asks import ask
from broker.testing.resources import shared_http
from tests.adapters.slurm_site import ADA, CLOCK, a_job, resources, soon

NODES = [{"name": "n1", "cpus": 4, "real_memory": 8000, "state": "idle", "state_flags": [], "partitions": ["main"]}]
PARTITIONS = [{"name": "main", "flags": ["default"], "state": "UP", "max_time_limit": 600}]


def number(value: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": value}


LATE_NODES = [{"name": "n1", "cpus": 4, "real_memory": 8000, "state": ["IDLE"], "partitions": ["main"],
               "gres": "gpu:2", "features": ["a"], "alloc_cpus": 0, "alloc_memory": 0}]  # fmt: skip
LATE_PARTITIONS = [{"name": "main", "partition": {"state": ["UP"]}, "maximums": {"time": number(600)},
                    "accounts": {"allowed": "", "deny": ""}, "qos": {"allowed": "", "deny": ""}}]  # fmt: skip


class Stub:
    """A slurmrestd that knows jobs, and answers as a test says where it says so. `calls`: method and last words of the
    path, in order; `bodies`: what was submitted."""

    def __init__(self, *versions: str) -> None:
        self.versions = versions or ("v0.0.37", "v0.0.38")
        self.jobs: list[dict[str, Any]] = []
        self.calls: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.answers: dict[str, Callable[[web.Request], Any]] = {}
        self.url = ""

    @property
    def late(self) -> bool:
        return "v0.0.38" not in self.versions

    async def answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path.strip("/").split("/")
        call = f"{request.method} {'/'.join(path[2:] if path[0] == 'slurm' else path)}"
        self.calls.append(call)
        if call == "POST job/submit":
            self.bodies.append(await request.json())
        if call in self.answers:
            found = self.answers[call](request)
            return await found if asyncio.iscoroutine(found) else found
        if path[0] == "slurm" and path[1] not in self.versions:
            return web.Response(status=404, text="Unable find requested URL.")
        return self._well(call)

    def _well(self, call: str) -> web.Response:
        match call.split("/")[0].split(" ")[0], call.partition(" ")[2]:
            case _, "openapi/v3":
                return said(
                    paths={f"/slurm/{v}/{p}": {} for v in self.versions for p in ("jobs", "job/submit", "ping")}
                )
            case _, "partitions":
                return said(partitions=LATE_PARTITIONS if self.late else PARTITIONS)
            case _, "nodes":
                return said(nodes=LATE_NODES if self.late else NODES)
            case _, "reservations":
                return said(reservations=[])
            case _, "jobs":
                return said(jobs=self.jobs)
            case "POST", "job/submit":
                self.submitted()
                return said(job_id=7, step_id="BATCH", job_submit_user_msg="")
            case "GET", path if path.startswith("job/"):
                found = [job for job in self.jobs if path == f"job/{job['job_id']}"]
                return said(jobs=found) if found else wrong(2017, "Invalid job id specified")
        return wrong(2017, "Invalid job id specified")

    def submitted(self) -> None:
        name, comment = (self.bodies[-1]["job"][key] for key in ("name", "comment"))
        state = ["PENDING"] if self.late else "PENDING"
        self.jobs.append(
            {
                "job_id": 7,
                "name": name,
                "job_state": state,
                "state_reason": "Resources",
                "user_name": "me",
                "comment": comment,
            }
        )


def said(**document: Any) -> web.Response:
    return web.json_response({"meta": {}, "errors": [], **document})


def wrong(error: int, text: str, status: int = 500, name: str = "error_number") -> web.Response:
    return web.json_response({"errors": [{name: error, "error": text}], "jobs": []}, status=status)


async def hangs(request: web.Request) -> web.Response:
    while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return said()


async def cuts(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return said()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


async def served(stub: Stub) -> AsyncIterator[Stub]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    stub.url = "http://{}:{}".format(*runner.addresses[0])
    yield stub
    await runner.cleanup()


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async for each in served(Stub()):
        yield each


@pytest.fixture
async def late() -> AsyncIterator[Stub]:
    async for each in served(Stub("v0.0.42", "v0.0.44", "v0.0.99")):
        yield each


def queue(stub: Stub, http: aiohttp.ClientSession, folder: Path, **more: Any) -> SlurmQueue:
    token = folder / "token"
    token.write_text("not-so-secret-4711\n")
    given = {"url": stub.url, "folder": folder / "jobs", "user": "root", "token": {"token_file": token}, **more}
    return make_queue(SlurmOptions.model_validate(given), resources(http), "here")


def in_time() -> Deadline:
    return Deadline.after(0.5, CLOCK.monotonic())


async def seen(site: SlurmQueue, job: Job) -> Sighting | SiteError | None:
    return (await site.find([job], soon())).get(job.session)


# ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_newest_version_that_both_speak_is_spoken(
    late: Stub, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The whole course of a job, in its shapes."""
    site, job = queue(late, http, tmp_path), a_job("pass")
    room = await site.capacity(soon())
    assert (room.cores, room.memory, room.largest[kinds.GPU]) == (4, 7, 2.0)
    assert await site.estimate(job, soon()) is not None
    taken = await site.submit(job, soon())
    assert taken.native == "slurm job 7"
    (body,) = late.bodies
    assert body["job"]["environment"] == ["PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
    assert body["job"]["time_limit"] == number(12)
    assert body["job"]["requeue"] is False
    late.jobs[0]["user_name"] = "root"
    waits = await seen(site, job)
    assert isinstance(waits, Sighting)
    assert (waits.phase, waits.messages[0]) == (
        "WAITING", "slurm job 7 is PENDING (Resources): it waits for nodes to become free",
    )  # fmt: skip
    ended = {"end_time": number(int(CLOCK.now())), "exit_code": {"status": ["ERROR"], "return_code": number(0)}}
    late.jobs[0] |= {"job_state": ["OUT_OF_MEMORY"], "state_reason": "OutOfMemory", **ended}
    over = await seen(site, job)
    assert isinstance(over, Sighting)
    assert (over.phase, over.ended is not None) == ("FAILED", True)
    calls = len(late.calls)
    assert await seen(site, job) == over
    assert len(late.calls) == calls  # what is over is not asked for again
    assert "GET openapi/v3" in late.calls


async def test_a_version_that_is_named_is_not_negotiated(
    late: Stub, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await queue(late, http, tmp_path, api="v0.0.42").capacity(soon())
    assert "GET openapi/v3" not in late.calls
    with pytest.raises(SiteRefused, match=r"does not speak v0\.0\.41, as its settings have it under api"):
        await queue(late, http, tmp_path, api="v0.0.41").capacity(soon())


@pytest.mark.parametrize("versions", [("v0.0.36",), ("v1.2.3", "v0.0.999")])
async def test_a_server_of_other_versions_is_told_apart(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path, versions: tuple[str, ...]
) -> None:
    stub.versions = versions
    with pytest.raises(SiteMisbehaved, match=r"speaks v.*; here v0.0.44"):
        await queue(stub, http, tmp_path).capacity(soon())


async def test_a_server_that_was_replaced_is_asked_anew(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    site, job = queue(stub, http, tmp_path), a_job("pass")
    await site.submit(job, soon())
    stub.versions = ("v0.0.44",)
    assert isinstance(await seen(site, job), SiteRefused)
    stub.jobs[0] |= {"user_name": "root"}
    assert isinstance(await seen(site, job), Sighting)


# ── submitting ───────────────────────────────────────────────────────────────────────────────────────────────────

SUBMITS: list[tuple[str, Callable[[web.Request], Any], Callable[[web.Request], Any] | None, type[SiteError], bool]] = [
    ("no connection to slurmctld", lambda _: wrong(1800, "Unable to contact slurm controller (connect failure)"), None,
     SiteUnreachable, True),
    ("nor an answer from it", lambda _: wrong(1802, "Unable to contact slurm controller (receive failure)"), None,
     SiteMisbehaved, False),
    ("slurmctld says no", lambda _: wrong(2045, "Invalid account", name="error_code"), None, SiteRefused, True),
    ("its policy does", lambda _: wrong(2050, "Job violates accounting/QOS policy"), None, SiteRefused, True),
    ("slurmrestd does", lambda _: wrong(9001, "Failure during parsing", 400), None, SiteRefused, True),
    ("too many jobs", lambda _: wrong(11, "Resource temporarily unavailable"), None, SiteBusy, True),
    ("not this user", lambda _: wrong(2002, "Access/permission denied"), None, SiteForbids, True),
    ("credentials, by a closed connection", lambda _: wrong(5005, "Zero Bytes were transmitted or received"),
     lambda _: wrong(5005, "Zero Bytes were transmitted or received"), SiteForbids, True),
    ("slurmctld died", lambda _: wrong(5005, "Zero Bytes were transmitted or received"),
     lambda _: wrong(1800, "Unable to contact slurm controller"), SiteMisbehaved, False),
    ("it died, and is back", lambda _: wrong(5005, "Zero Bytes were transmitted or received"), None,
     SiteMisbehaved, False),
    ("nothing said", lambda _: wrong(-1, "Unspecified error"), None, SiteMisbehaved, False),
    ("no credentials", lambda _: web.Response(status=401, text="Authentication failure"), None, SiteForbids, True),
    ("a proxy's 502", lambda _: web.Response(status=502, text="<html>"), None, SiteMisbehaved, False),
    ("a proxy's 503", lambda _: web.Response(status=503, headers={"Retry-After": "5"}), None, SiteMisbehaved, False),
    ("no number", lambda _: said(), None, SiteMisbehaved, False),
    ("none of a job", lambda _: said(job_id=0), None, SiteMisbehaved, False),
    ("a no with a number that is none", lambda _: web.json_response({"job_id": 0, "errors": [{"error_number": 2045}]}),
     None, SiteRefused, True),
    ("nonsense", lambda _: web.Response(text="{]"), None, SiteMisbehaved, False),
    ("the connection cut", cuts, None, SiteMisbehaved, False),
    ("silence", hangs, None, SiteTimeout, False),
    ("elsewhere", lambda _: web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}), None,
     SiteMisbehaved, False),
    ("a flood", lambda _: web.Response(body=b" " * (2 << 20)), None, SiteMisbehaved, False),
]  # fmt: skip


@pytest.mark.parametrize(("what", "answer", "probe", "error", "proof"), SUBMITS, ids=[each[0] for each in SUBMITS])
async def test_what_a_submit_came_to(
    stub: Stub,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    what: str,
    answer: Callable[[web.Request], Any],
    probe: Callable[[web.Request], Any] | None,
    error: type[SiteError],
    proof: bool,
) -> None:
    """With proof nothing is left of it; without, its folder is there for the job that may be."""
    site, job = queue(stub, http, tmp_path, answer_cap_bytes=1 << 20), a_job("pass")
    await site.capacity(soon())
    stub.answers["POST job/submit"] = answer
    if probe is not None:
        stub.answers["DELETE job/0"] = probe
    with pytest.raises(error) as raised:
        await site.submit(job, in_time() if what == "silence" else soon())
    assert raised.value.proof is proof
    assert "4711" not in str(raised.value)
    assert (tmp_path / "jobs" / str(job.session)).exists() is not proof
    assert await seen(site, job) is None


async def test_a_job_whose_answer_was_lost_is_found_by_its_name(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    site, job = queue(stub, http, tmp_path), a_job("pass")

    async def lost(request: web.Request) -> web.Response:
        stub.submitted()
        stub.jobs[0]["user_name"] = "root"
        return await cuts(request)

    stub.answers["POST job/submit"] = lost
    with pytest.raises(SiteMisbehaved):
        await site.submit(job, soon())
    found = await seen(site, job)
    assert isinstance(found, Sighting)
    assert found.native == "slurm job 7"
    assert "GET jobs" in stub.calls
    stub.calls.clear()
    await seen(site, job)
    assert stub.calls == ["GET job/7"]  # its number is known from then on


async def test_many_are_looked_for_at_once(stub: Stub, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    site = queue(stub, http, tmp_path)
    jobs = [a_job("pass") for _ in range(9)]
    for i, job in enumerate(jobs):
        await site.submit(job, soon())
        stub.jobs[i] |= {"user_name": "root"}
    stub.calls.clear()
    await site.find(jobs, soon())
    assert stub.calls == ["GET jobs"]


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def submitted(stub: Stub, site: SlurmQueue) -> Job:
    job = a_job("pass")
    await site.submit(job, soon())
    stub.jobs[0]["user_name"] = "root"
    return job


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda _: wrong(-1, "Unspecified error"), SiteMisbehaved),
        (lambda _: wrong(1800, "Unable to contact slurm controller"), SiteUnreachable),
        (lambda _: web.Response(text='{"jobs": [{"job_id": "seven"}]}'), SiteMisbehaved),
        (lambda _: web.json_response({"jobs": [], "errors": [{"error_number": 1802}]}), SiteMisbehaved),
        (cuts, SiteMisbehaved),
    ],
)
async def test_that_slurm_cannot_be_asked_is_not_that_a_job_is_gone(
    stub: Stub,
    http: aiohttp.ClientSession,
    tmp_path: Path,
    answer: Callable[[web.Request], Any],
    error: type[SiteError],
) -> None:
    site = queue(stub, http, tmp_path)
    job = await submitted(stub, site)
    stub.answers["GET job/7"] = answer
    assert isinstance(await seen(site, job), error)
    # What the folder tells is told all the same.
    place = tmp_path / "jobs" / str(job.session)
    mark(place, "7 n1")
    layout.write_state(place, State("COMPLETED", began=1.0, ended=2.0, exit=0))
    found = await seen(site, job)
    assert isinstance(found, Sighting)
    assert (found.phase, found.began, found.ended) == ("COMPLETED", 1.0, 2.0)


@pytest.mark.parametrize("change", [{"name": "another"}, {"user_name": "mallory"}])
async def test_a_job_of_others_by_our_number_or_name_is_not_ours(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path, change: dict[str, str]
) -> None:
    """What was submitted is gone then, and never begins."""
    site = queue(stub, http, tmp_path)
    job = await submitted(stub, site)
    stub.jobs[0] |= {"job_state": "COMPLETED", **change}
    found = await seen(site, job)
    assert isinstance(found, Sighting)
    assert (found.phase, found.messages) == ("FAILED", ("Slurm lost slurm job 7 before it began",))
    assert (tmp_path / "jobs" / str(job.session) / "taken").read_text() == "0 the broker\n"
    assert await site.held(soon()) == ()


async def test_a_run_that_begins_as_it_is_given_up_goes_on(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = queue(stub, http, tmp_path)
    job = await submitted(stub, site)
    stub.jobs.clear()
    monkeypatch.setattr(site._folders, "forbid", lambda session: False)
    found = await seen(site, job)
    assert isinstance(found, Sighting)
    assert found.phase == "PREPARING"


@pytest.mark.parametrize(
    "text",
    ["{]", "[1]", '{"phase": "OFFERED"}', '{"phase": "COMPLETED", "began": "now"}', '{"phase": "FAILED", "ended": -1}'],
)
async def test_what_a_job_writes_into_its_own_folder_is_not_trusted(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path, text: str
) -> None:
    site = queue(stub, http, tmp_path)
    job = await submitted(stub, site)
    place = tmp_path / "jobs" / str(job.session)
    for name in ("state.json", "results.json", "transfers.json"):
        (place / name).write_text(text)
    found = await seen(site, job)
    assert isinstance(found, Sighting)
    assert (found.phase, found.body) == ("WAITING", None)


async def test_the_trouble_of_one_is_its_own(stub: Stub, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    site = queue(stub, http, tmp_path)
    well, torn = await submitted(stub, site), a_job("pass")
    (tmp_path / "jobs" / ".notes" / f"{torn.session}.json").write_text('{"user": ')
    found = await site.find([torn, well], soon())
    assert isinstance(found[torn.session], SiteMisbehaved)
    assert isinstance(found[well.session], Sighting)


@pytest.mark.parametrize("text", ["9" * 5000, "\u0663", "", "9" * 400, "99 n1"])
async def test_what_a_job_writes_of_its_number_hurts_nobody_and_keeps_nothing_from_its_end(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path, text: str
) -> None:
    site = queue(stub, http, tmp_path)
    job = await submitted(stub, site)
    other = a_job("pass")
    await site.submit(other, soon())
    stub.jobs[1] |= {"job_id": 8, "user_name": "root"}
    (tmp_path / "jobs" / ".notes" / f"{other.session}.json").write_text('{"user": "root", "since": 0, "number": 8}')
    (tmp_path / "jobs" / str(job.session) / "taken").write_text(text)
    stub.jobs[0] |= {"job_state": "RUNNING"}
    for jobs in ([job, other], [job]):
        found = await site.find(jobs, soon())
        assert all(isinstance(one, Sighting) and one.phase in ("PREPARING", "WAITING") for one in found.values())
    stub.answers["DELETE job/7"] = stub.answers["DELETE job/99"] = lambda _: said()
    await site.end(job, soon())
    assert "DELETE job/7" in stub.calls


async def test_a_shared_folder_that_hangs_is_the_sites_own_trouble(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names of hosts are resolved in the threads of the process."""
    site, back = queue(stub, http, tmp_path), threading.Event()
    monkeypatch.setattr(site._folders, "note", lambda session: back.wait(30))
    try:
        looks = [site.find([a_job("pass")], in_time()) for _ in range(50)]
        assert {type(each) for each in await asyncio.gather(*looks, return_exceptions=True)} == {SiteTimeout}
        async with asyncio.timeout(5):
            assert await asyncio.to_thread(lambda: 1) == 1
    finally:
        back.set()


async def test_ending_is_asked_for_even_where_slurm_cannot_be(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """The run sees it in its folder."""
    site = queue(stub, http, tmp_path)
    job = await submitted(stub, site)
    stub.answers["DELETE job/7"] = lambda _: wrong(1800, "Unable to contact slurm controller")
    with pytest.raises(SiteUnreachable):
        await site.end(job, soon())
    assert (tmp_path / "jobs" / str(job.session) / "cancel").exists()
    stub.answers["DELETE job/7"] = lambda _: wrong(2021, "Job/step already completing or completed")
    await site.end(job, soon())


async def test_a_job_of_which_there_is_no_folder_is_held_and_ended_by_its_name(
    stub: Stub, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    first, other = queue(stub, http, tmp_path), tmp_path / "other"
    other.mkdir()
    job = await submitted(stub, first)
    site = queue(stub, http, other)
    (held,) = await site.held(soon())
    assert (held.session, held.phase) == (job.session, "WAITING")
    comment = stub.jobs[0]["comment"]
    stub.jobs[0]["comment"] = comment.replace(" of us for ", " of them for ")  # a broker whose site has our name
    assert await site.held(soon()) == ()
    stub.jobs[0]["comment"] = comment
    stub.calls.clear()
    await site.end(job, soon())
    assert stub.calls[-1] == "DELETE job/7"


async def test_what_was_kept_long_enough_is_cleared(stub: Stub, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    site = queue(stub, http, tmp_path, keep="PT1M")
    job = await submitted(stub, site)
    stub.jobs[0] |= {"job_state": "CANCELLED", "end_time": int(CLOCK.now()) - 3600}
    found = await seen(site, job)
    assert isinstance(found, Sighting)
    place = tmp_path / "jobs" / str(job.session)
    assert place.exists()
    site._folders.sweep(CLOCK.now())
    assert not place.exists()
    assert await seen(site, job) == found
    site._folders.sweep(CLOCK.now() + 31 * 86400)
    assert await seen(site, job) is None


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_offers_are_made_from_one_snapshot(stub: Stub, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    given = {"url": stub.url, "folder": tmp_path / "jobs", "user": "root", "token": {"token_file": token}}
    site = plugin.make(SlurmOptions.model_validate(given), resources(http))
    program = {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "pass"}}
    first = await site.quote(ask(CLOCK, cores=1, **program))
    assert len(first.quotes) == 1
    asked = len(stub.calls)
    for _ in range(5):
        await site.quote(ask(CLOCK, cores=1, **program))
    assert len(stub.calls) == asked
    assert not [call for call in stub.calls if "submit" in call]
    too_large = await site.quote(ask(CLOCK, cores=5, **program))
    assert [str(reason) for reason in too_large.reasons] == [
        "compute.cores.min: 5 cores asked, ceiling 4. Nearest yes: 4."
    ]


async def test_who_has_no_account_gets_a_no(stub: Stub, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t")
    given = {
        "url": stub.url, "folder": tmp_path / "jobs", "user": "root", "token": {"token_file": token},
        "others": False, "apply": "write to help@hpc.example.org", "users": {"ada": {"account": "stars"}},
    }  # fmt: skip
    site = plugin.make(SlurmOptions.model_validate(given), resources(http))
    program = {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "pass"}}
    no = await site.quote(ask(CLOCK, cores=1, **program))
    assert [str(reason) for reason in no.reasons] == [
        "you have no account on this cluster: write to help@hpc.example.org"
    ]
    assert (await site.quote(ask(CLOCK, cores=1, user=ADA, **program))).quotes


async def test_tokens_may_be_the_sites_credentials(stub: Stub, http: aiohttp.ClientSession, tmp_path: Path) -> None:
    given = SlurmOptions.model_validate({"url": stub.url, "folder": tmp_path / "jobs", "user": "root"})
    with pytest.raises(SettingsError, match="where tokens for slurmrestd come from"):
        make_queue(given, resources(http), "here")
    said_: list[str] = []

    def told(request: web.Request) -> web.Response:
        said_.append(f"{request.headers['X-SLURM-USER-NAME']} {request.headers['X-SLURM-USER-TOKEN']}")
        return said(nodes=NODES)

    stub.answers["GET nodes"] = told
    await make_queue(given, resources(http, credentials=Credentials(token="abc")), "here").capacity(soon())
    assert said_ == ["root abc"]
