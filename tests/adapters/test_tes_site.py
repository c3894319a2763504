"""The kind `tes`, held to the contracts of its ports, against the stand-in of broker.testing.tes_server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import tes
from aiohttp import web

from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.platform import Job
from adapters.planning.queued import QueuedPlatform
from adapters.tes.adapter import plugin
from adapters.tes.options import TesOptions
from adapters.tes.queue import TesQueue
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.session import TERMINAL
from broker.domain.site import Registration
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Credentials, Resources
from broker.ports import Logs, Result, Sighting
from broker.services.clock import SystemClock
from broker.testing import tes_server
from broker.testing.faults import Sound
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.planner_contract import PATIENCE, PlannerContract, Stand, real_time
from broker.testing.resources import shared_http
from broker.testing.s3_server import Moto, moto
from broker.testing.tes_server import IMAGE, Run, TesServer
from tests.conftest import want_server

CLOCK = SystemClock()
WARP = {"kind": "https://example.org/kinds/executable/warp-drive.yaml"}


def program(source: str, **more: Any) -> dict[str, Any]:
    return {
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": source},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 1}, "memory": {"min": 1, "max": 1}},
        **more,
    }


def counted(marks: Path) -> dict[str, Any]:
    """A program that leaves a file in `marks` each time it runs, and a result."""
    return program(
        "import os, uuid\n"
        f"open(os.path.join({str(marks)!r}, os.environ['BROKER_SESSION'] + '.' + uuid.uuid4().hex), 'x').close()\n"
        "open('results/answer', 'w').write('42')\n"
    )


LASTING = program("import time\nwhile True:\n    time.sleep(1)\n")


def resources_for(
    server: TesServer, http: aiohttp.ClientSession, credentials: Credentials | None = None
) -> Callable[[], Resources]:
    """What processes of one broker are given for the site, again and again."""
    calendar, limits = MemoryCalendar(), MemoryLimits(CLOCK)
    return lambda: Resources(
        registration=Registration(name="here", url=server.url),
        calendar=calendar,
        limits=limits,
        clock=CLOCK,
        http=http,
        credentials=credentials,
        name="here",
        broker_id="us",
        currency="EUR",
        site_settings={"tariff": "free", "capacity": {"cores": 8, "memory": 32, "storage": 100}},
    )


def options_for(tmp_path: Path, **more: Any) -> Mapping[str, Any]:
    return {"program": {"image": IMAGE}, "outputs": {"place": f"file://{tmp_path}/outputs"}, **more}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TesServer]:
    async with TesServer(tmp_path / "tes") as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


class TestTesPlatform(PlatformContract):
    @pytest.fixture
    async def stage(self, tmp_path: Path, server: TesServer, http: aiohttp.ClientSession, marks: Path) -> Stage:
        options = TesOptions.model_validate(options_for(tmp_path))
        given = resources_for(server, http)

        def make() -> QueuedPlatform:
            resources = given()
            return QueuedPlatform(TesQueue(options, resources), resources.calendar, "here", CLOCK)

        return Stage(
            make=make,
            clock=CLOCK,
            short=counted(marks),
            long=LASTING,
            failing=program("raise SystemExit(3)"),
            beyond={"executable": WARP},
            text=b"42",
            ran=lambda job: len(list(marks.glob(f"{job.session}.*"))),
        )


class TestTesPlanner(PlannerContract):
    @pytest.fixture
    async def stand(self, tmp_path: Path, server: TesServer, http: aiohttp.ClientSession, marks: Path) -> Stand:
        options = TesOptions.model_validate(options_for(tmp_path))
        given = resources_for(server, http)
        return Stand(
            make=lambda: plugin.make(options, given()),
            clock=CLOCK,
            short=counted(marks),
            long=LASTING,
            beyond={"executable": WARP},
            ran=lambda order: len(list(marks.glob(f"{order.session}.*"))),
        )


# ── how runs end ─────────────────────────────────────────────────────────────────────────────────────────────────

Make = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path, server: TesServer, http: aiohttp.ClientSession) -> Make:
    """A stage at the server, with these options."""

    def make(credentials: Credentials | None = None, **more: Any) -> Stage:
        options = TesOptions.model_validate(options_for(tmp_path, **more))
        given = resources_for(server, http, credentials)

        def platform() -> QueuedPlatform:
            resources = given()
            return QueuedPlatform(TesQueue(options, resources), resources.calendar, "here", CLOCK)

        return Stage(platform, CLOCK, program("print('hello')"), LASTING)

    return make


async def shows(stage: Stage, job: Job, phase: str) -> Sighting:
    async with asyncio.timeout(PATIENCE):
        while (seen := await stage.look(job)).phase != phase:
            assert seen.phase not in TERMINAL, seen
            await stage.pass_time()
    return seen


def task_of(server: TesServer, job: Job) -> Run:
    (run,) = server.of("broker_session", str(job.session))
    return run


async def ran(make: Make, request: dict[str, Any], **more: Any) -> tuple[Stage, Job, Sighting]:
    stage = make(**more)
    job = await stage.started(request)
    return stage, job, await stage.ended(job)


async def test_what_a_run_has_said_and_left_is_handed_back(make: Make, server: TesServer) -> None:
    source = (
        "import os, sys\n"
        "os.makedirs('results/deep')\n"
        "open('results/deep/b c', 'w').write(open('data/sky').read() + open(os.environ['BROKER_DATA_SKY']).read())\n"
        "print('out', sys.argv[1:], os.environ['MODE'])\n"
        "print('err', file=sys.stderr)\n"
    )
    sky = server.folder / "sky"
    sky.write_text("stars\n")
    item = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "sky"}, "location": sky.as_uri()}
    request = program(source, data=[item])
    request["executable"] |= {"arguments": ["a b"], "environment": {"MODE": "x"}}
    stage, job, seen = await ran(make, request, reads=["file"])
    assert (seen.phase, seen.native) == ("COMPLETED", task_of(server, job).id)
    assert await stage.make().logs(job, stage.soon()) == Logs("out ['a b'] x\n", "err\n")
    (result,) = await stage.make().results(job, stage.soon())
    assert result == Result("deep/b c", 12)
    assert await whole(stage, job, "deep/b c") == b"stars\nstars\n"


async def whole(stage: Stage, job: Job, name: str) -> bytes:
    return b"".join([piece async for piece in stage.make().fetch(job, name, stage.soon())])


async def test_no_link_in_the_place_of_a_result_is_followed(make: Make, tmp_path: Path) -> None:
    stage, job, _ = await ran(make, program("open('results/x', 'w').write('mine')"))
    place = tmp_path / "outputs" / str(job.session) / "results" / "x"
    place.unlink()
    place.symlink_to("/etc/passwd")
    with pytest.raises(SiteForgot):
        await whole(stage, job, "x")


async def test_a_container_is_run_as_the_request_has_it(make: Make, server: TesServer) -> None:
    script = "echo $A; cp $BROKER_DATA_SKY $BROKER_RESULTS/copy"
    executable = {
        "kind": kinds.DOCKER_CONTAINER,
        "image": {"locations": [IMAGE]},
        "entrypoint": "sh",
        "command": ["-c", script],
        "environment": {"A": "b"},
    }
    sky = server.folder / "sky"
    sky.write_text("stars\n")
    item = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "sky"}, "location": sky.as_uri()}
    stage, job, seen = await ran(make, {"executable": executable, "data": [item]}, reads=["file"])
    assert seen.phase == "COMPLETED", seen
    assert (await stage.make().logs(job, stage.soon())).stdout == "b\n"
    assert await whole(stage, job, "copy") == b"stars\n"


async def test_the_code_that_a_program_ends_with_is_told(make: Make) -> None:
    _, _, seen = await ran(make, program("raise SystemExit(3)"))
    assert seen.phase == "FAILED"
    assert seen.messages == ("its program ended with an error (EXECUTOR_ERROR)", "exit code 3")
    assert seen.began is not None
    assert seen.ended is not None


async def test_what_uses_too_much_memory_is_told_so(make: Make) -> None:
    _, _, seen = await ran(make, program("import time\nheld = b'x' * 1_300_000_000\ntime.sleep(60)"))
    assert seen.phase == "FAILED"
    assert any("memory" in line for line in seen.messages)
    assert any("OOMKilled" in line for line in seen.messages)


async def test_what_is_killed_has_failed(make: Make, server: TesServer) -> None:
    stage = make()
    job = await stage.started(LASTING)
    await shows(stage, job, "RUNNING")
    task_of(server, job).kill()
    seen = await stage.ended(job)
    assert seen.phase == "FAILED"
    assert any("exit code 137" in line for line in seen.messages)


@pytest.mark.parametrize(
    ("executable", "words"),
    [
        ({"image": {"locations": ["nobody/knows:1"]}, "command": ["true"]}, "no such image: nobody/knows:1"),
        ({"image": {"locations": [IMAGE]}, "command": ["no-such-program"]}, "exit code 127"),
    ],
)
async def test_what_cannot_begin_is_told_in_the_platforms_words(
    make: Make, executable: dict[str, Any], words: str
) -> None:
    _, _, seen = await ran(make, {"executable": {"kind": kinds.DOCKER_CONTAINER, **executable}})
    assert seen.phase == "FAILED"
    assert words in seen.messages


async def test_data_that_is_not_there_is_told_in_the_platforms_words(make: Make, server: TesServer) -> None:
    item = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "x"}, "location": f"{server.url}/nothing"}
    _, _, seen = await ran(make, program("", data=[item]))
    assert (seen.phase, seen.began, seen.ended is not None) == ("FAILED", None, True)
    assert f"{server.url}/nothing: 404" in seen.messages


async def test_what_runs_for_longer_than_it_may_is_ended_and_has_failed(make: Make, server: TesServer) -> None:
    stage = make()
    job = msgspec.structs.replace(stage.job(LASTING), duration=0.3)
    await stage.make().start(job, stage.soon())
    seen = await stage.ended(job)
    assert seen.phase == "FAILED"
    assert "that it may run" in seen.messages[0]
    assert task_of(server, job).state == "CANCELED"


async def test_states_that_no_run_comes_to_by_itself_are_shown(make: Make, server: TesServer) -> None:
    stage = make()
    job = await stage.started(LASTING)
    await shows(stage, job, "RUNNING")
    server.pause(task_of(server, job).id)
    assert (await stage.look(job)).messages == ("the platform has paused it (PAUSED)",)
    server.show(task_of(server, job).id, "UNKNOWN")
    assert (await stage.look(job)).phase == "UNKNOWN"
    server.show(task_of(server, job).id, "")
    server.end(task_of(server, job).id, "PREEMPTED")
    seen = await stage.ended(job)
    assert seen.phase == "FAILED"
    assert seen.messages[0] == "the platform took its machine away (PREEMPTED)"


async def test_what_waits_for_room_waits(make: Make, server: TesServer) -> None:
    server.slots(0)
    stage = make()
    job = await stage.started(LASTING)
    seen = await stage.look(job)
    assert (seen.phase, seen.began) == ("WAITING", None)
    await stage.make().cancel(job, stage.soon())
    seen = await stage.ended(job)
    assert (seen.phase, seen.began) == ("CANCELLED", None)


async def test_backend_parameters_go_along(make: Make, server: TesServer) -> None:
    server.parameters = ("Queue",)
    _, job, seen = await ran(make, program(""), backend_parameters={"queue": "astro"})
    assert seen.phase == "COMPLETED"
    assert task_of(server, job).document["resources"]["backend_parameters"] == {"queue": "astro"}
    _, _, seen = await ran(make, program(""), backend_parameters={"partition": "astro"})
    assert seen.phase == "FAILED"
    assert "backend parameter partition is not supported" in seen.messages
    stage = make(backend_parameters={"partition": "astro"})
    platform = stage.make()
    await platform.describe(stage.soon())
    assert [reason.rule for reason in platform.refuse(stage.job(program("")).request)] == ["backend_parameters"]


# ── answers that are lost, late or nonsense ──────────────────────────────────────────────────────────────────────


async def test_a_task_whose_creation_was_not_answered_is_found_and_not_made_again(
    make: Make, server: TesServer
) -> None:
    stage = make()
    server.behave(create="after:reset")
    job = stage.job(LASTING)
    with pytest.raises(SiteMisbehaved) as raised:
        await stage.make().start(job, stage.soon())
    assert not raised.value.proof
    assert (await stage.make().start(job, stage.soon())).native == task_of(server, job).id
    assert server.calls["create"] == 1
    await stage.make().cancel(job, stage.soon())
    assert (await stage.ended(job)).phase == "CANCELLED"


async def test_a_creation_that_never_came_stays_in_doubt_for_a_while(make: Make, server: TesServer) -> None:
    stage = make()
    server.behave(create=["reset"])
    job = stage.job(LASTING)
    with pytest.raises(SiteMisbehaved):
        await stage.make().start(job, stage.soon())
    assert (await stage.look(job)).phase == "WAITING"
    with pytest.raises(SiteTimeout):
        await stage.make().start(job, Deadline.after(0.5, CLOCK.monotonic()))
    assert server.calls["create"] == 1
    assert (await stage.make().cancel(job, stage.soon())).phase == "WAITING"


@pytest.mark.parametrize(
    ("fault", "error", "proof"),
    [
        ("status:400", SiteRefused, True),
        ("status:401", SiteForbids, True),
        ("status:403", SiteForbids, True),
        ("status:409", SiteRefused, False),
        ("status:429:7", SiteBusy, True),
        ("status:500", SiteMisbehaved, False),
        ("status:503:7", SiteMisbehaved, False),
        ("after:garbage", SiteMisbehaved, False),
        ("after:empty", SiteMisbehaved, False),
        ("after:not-an-object", SiteMisbehaved, False),
        ("after:flood", SiteMisbehaved, False),
        ("after:redirect", SiteMisbehaved, False),
        ("after:half-close", SiteMisbehaved, False),
        ("hang", SiteTimeout, False),
    ],
)
async def test_what_a_creation_came_to_is_told_apart(
    make: Make, server: TesServer, fault: str, error: type[SiteError], proof: bool
) -> None:
    stage = make()
    platform, job = stage.make(), stage.job(LASTING)
    await platform.describe(stage.soon())
    server.behave(create=fault)
    with pytest.raises(error) as raised:
        await platform.start(job, Deadline.after(1.0, CLOCK.monotonic()) if fault == "hang" else stage.soon())
    assert raised.value.proof is proof
    server.behave(create=None)
    if proof:
        assert (await platform.start(job, stage.soon())).phase == "WAITING"
    assert len(server.of("broker_session", str(job.session))) == (1 if proof or fault.startswith("after") else 0)


@pytest.mark.parametrize("fault", ["status:404", "status:500", "garbage", "wrong-type", "flood", "see-other", "deep"])
async def test_a_list_that_is_none_is_no_proof_that_a_task_is_not_there(
    make: Make, server: TesServer, fault: str
) -> None:
    stage = make()
    job, other = await stage.started(LASTING), stage.job(LASTING)
    server.behave(list=fault)
    found = await stage.make().status([job, other], stage.soon())
    assert all(isinstance(seen, SiteError) and not isinstance(seen, SiteForgot) for seen in found.values()), found
    with pytest.raises(SiteError):
        await stage.make().start(other, stage.soon())
    assert server.calls["create"] == 1


async def test_reading_is_tried_again(make: Make, server: TesServer) -> None:
    stage = make()
    job = await stage.started(LASTING)
    server.behave(list=["reset", "half-close"])
    assert (await stage.look(job)).native == task_of(server, job).id


async def test_a_list_without_end_ends(make: Make, server: TesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = make()
    sound = server._list
    monkeypatch.setattr(
        server, "_list", lambda *asked: Sound(200, {**(sound(*asked).document or {}), "next_page_token": "0"})
    )
    seen = (await stage.make().status([job := stage.job(LASTING)], stage.soon()))[job.session]
    assert isinstance(seen, SiteMisbehaved)
    assert "circle" in seen.detail


async def test_a_server_that_knows_no_filters_and_gives_small_pages_is_read_to_the_end(
    make: Make, server: TesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tes_server, "_tagged", lambda tags, wanted: True)
    server.most = 2
    stage = make()
    strangers = [{"executors": [{"image": IMAGE, "command": ["sleep", "60"]}], "tags": {"n": str(i)}} for i in range(5)]
    async with aiohttp.ClientSession() as http:
        for document in strangers[:3]:
            await http.post(f"{server.url}/tasks", json=document)
        job = await stage.started(LASTING)
        for document in strangers[3:]:
            await http.post(f"{server.url}/tasks", json=document)
    other = stage.job(LASTING)
    found = await stage.make().status([job, other], stage.soon())
    assert isinstance(seen := found[job.session], Sighting)
    assert seen.native == task_of(server, job).id
    assert isinstance(found[other.session], SiteForgot)
    assert [one.session for one in await stage.make().held(stage.soon())] == [job.session]


async def test_why_a_cancel_failed_is_told_unless_it_is_over(make: Make, server: TesServer) -> None:
    stage = make()
    job = await stage.started(LASTING)
    server.behave(cancel="status:500")
    with pytest.raises(SiteMisbehaved):
        await stage.make().cancel(job, stage.soon())
    server.behave(cancel="after:status:500")  # as some servers do of what has just ended
    await stage.make().cancel(job, stage.soon())
    server.behave(cancel=None)
    assert (await stage.ended(job)).phase == "CANCELLED"


async def test_a_task_that_somebody_else_made_for_the_session_is_ended_as_well(make: Make, server: TesServer) -> None:
    stage = make()
    job = await stage.started(LASTING)
    first = task_of(server, job)
    forged = {"executors": [{"image": IMAGE, "command": ["sleep", "60"]}], "tags": {"broker_session": str(job.session)}}
    async with aiohttp.ClientSession() as http, http.post(f"{server.url}/tasks", json=forged) as answer:
        second = (await answer.json())["id"]
    assert (await stage.look(job)).native == first.id
    await stage.make().cancel(job, stage.soon())
    assert (await stage.ended(job)).native == first.id
    assert server.runs[second].state in ("CANCELING", "CANCELED")


async def test_what_says_that_it_is_no_tes_is_none(make: Make, server: TesServer, monkeypatch: Any) -> None:
    monkeypatch.setattr(server, "_info", lambda: {"type": {"artifact": "wes"}})
    stage = make()
    with pytest.raises(SiteMisbehaved, match="'wes'"):
        await stage.make().describe(stage.soon())
    with pytest.raises(SiteUnreachable):  # nothing was submitted
        await stage.make().start(stage.job(LASTING), stage.soon())
    assert server.calls["create"] == 0


async def test_where_data_may_be_is_learned_from_the_server(make: Make, server: TesServer) -> None:
    server.storage = ("s3://archive/sky", "gs:///", "file:///data")
    stage = make()
    platform = stage.make()
    assert (await platform.describe(stage.soon())).reads == ("http", "https", "s3", "gs", "file", "data")
    for location, good in (("s3://archive/sky/x", True), ("s3://archive/x", False), ("file:///data/x", True)):
        item = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "x"}, "location": location}
        assert (platform.refuse(stage.job(program("", data=[item])).request) == ()) is good


async def test_what_was_offered_before_the_operator_barred_it_is_not_read(make: Make, server: TesServer) -> None:
    """The server would read it by its own credentials."""
    item = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "x"}, "location": "file:///secrets/x"}
    stage = make(reads=["https"])
    job = stage.job(program("", data=[item]))
    with pytest.raises(SiteRefused, match="cannot be read from here"):
        await stage.make().start(job, stage.soon())
    assert not server.of("broker_session", str(job.session))


# ── many ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_many_are_looked_at_in_few_calls(make: Make, server: TesServer) -> None:
    server.slots(2)
    stage = make()
    jobs = [await stage.started(LASTING) for _ in range(12)]
    for job in jobs[:2]:
        await shows(stage, job, "RUNNING")
    platform = stage.make()
    server.calls.clear()
    first = await platform.status(jobs, stage.soon())
    assert (server.calls["list"], server.calls["task"]) == (1, 0)
    again = await platform.status(jobs, stage.soon())
    assert (server.calls["list"], server.calls["task"]) == (2, 0)
    assert first == again
    assert (
        sorted(seen.phase for seen in again.values() if isinstance(seen, Sighting))
        == ["RUNNING"] * 2 + ["WAITING"] * 10
    )
    await platform.cancel(jobs[-1], stage.soon())
    await stage.ended(jobs[-1])
    server.calls.clear()
    seen = (await platform.status(jobs, stage.soon()))[jobs[-1].session]
    assert isinstance(seen, Sighting)
    assert seen.phase == "CANCELLED"
    assert server.calls["list"] + server.calls["task"] <= 2


# ── who is asked as whom ─────────────────────────────────────────────────────────────────────────────────────────


async def test_tasks_run_under_the_token_of_their_owner(make: Make, server: TesServer, tmp_path: Path) -> None:
    server.tokens = {"t-all": "broker", "t-ada": "ada"}
    for name in ("all", "ada"):
        (tmp_path / name).write_text(f"t-{name}\n")
    users = {"tests ada": {"token_file": str(tmp_path / "ada")}}
    everybody = {"token": {"token_file": str(tmp_path / "all")}}
    stage = make(**everybody, users=users)
    job = stage.job(LASTING)
    bob = msgspec.structs.replace(stage.job(LASTING), owner=Owner("tests", "bob"))
    early = await make(**everybody).started(LASTING)  # from before ada had a token
    for one in (job, bob):
        await stage.make().start(one, stage.soon())
    assert (task_of(server, job).user, task_of(server, bob).user) == ("ada", "broker")
    found = await stage.make().status([job, bob, early], stage.soon())
    assert all(isinstance(seen, Sighting) for seen in found.values())
    held = {one.session: one.user for one in await stage.make().held(stage.soon())}
    assert held == {job.session: Owner("tests", "ada"), bob.session: bob.owner, early.session: Owner("tests", "ada")}
    bare = msgspec.structs.replace(job, owner=Owner("?", "?"), duration=0.0)
    await stage.make().cancel(bare, stage.soon())
    assert (await stage.ended(job)).phase == "CANCELLED"


async def test_a_token_that_is_not_taken_is_got_anew(make: Make, server: TesServer, tmp_path: Path) -> None:
    server.tokens = {"new": "broker"}
    file = tmp_path / "token"
    file.write_text("old")
    stage = make(token={"token_file": str(file)})
    platform = stage.make()
    with pytest.raises(SiteForbids):
        await platform.describe(stage.soon())
    file.write_text("new")
    assert (await platform.describe(stage.soon())).platform == "tes"


@pytest.mark.parametrize("by", ["the site", "the options"])
async def test_a_name_and_a_password_do_as_well(make: Make, server: TesServer, tmp_path: Path, by: str) -> None:
    server.passwords = {"broker": "pa:ss"}
    (tmp_path / "password").write_text("pa:ss\n")
    if by == "the site":
        stage = make(Credentials("broker", "pa:ss"))
    else:
        stage = make(basic={"username": "broker", "password_file": str(tmp_path / "password")})
    job = await stage.started(LASTING)
    assert task_of(server, job).user == "broker"


# ── where results lie ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def shelf() -> AsyncIterator[tuple[str, dict[str, bytes]]]:
    """A server that keeps what is PUT to it, for whoever knows the token."""
    kept: dict[str, bytes] = {}

    async def handle(request: web.Request) -> web.Response:
        if request.method == "PUT":
            kept[request.path] = await request.read()
            return web.Response(status=201)
        if request.headers.get("Authorization") != "Bearer reader":
            return web.Response(status=401)
        return web.Response(body=kept[request.path]) if request.path in kept else web.Response(status=404)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/kept/here", kept
    await runner.cleanup()


WRITES = program("import os\nos.makedirs('results/a')\nopen('results/a/x y', 'w').write('one')\n")


async def test_results_at_an_http_server_are_read_with_its_own_credentials(
    make: Make, shelf: tuple[str, dict[str, bytes]], tmp_path: Path
) -> None:
    place, kept = shelf
    (tmp_path / "keys").write_text("[default]\ntoken = reader\n")
    outputs = {"place": place, "credentials_file": str(tmp_path / "keys")}
    stage, job, seen = await ran(make, WRITES, outputs=outputs)
    assert seen.phase == "COMPLETED", seen
    assert await stage.make().results(job, stage.soon()) == (Result("a/x y", 3),)
    assert await whole(stage, job, "a/x y") == b"one"
    kept.clear()
    with pytest.raises(SiteForgot):
        await whole(stage, job, "a/x y")
    (tmp_path / "keys").write_text("[default]\n")
    with pytest.raises(SiteForbids):
        await whole(stage, job, "a/x y")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with moto(want_server("moto"), tmp_path_factory.mktemp("moto")) as server:
        server.call(("create_bucket", {"Bucket": "results"}))
        yield server


async def test_results_in_s3_are_listed_and_read(make: Make, server: TesServer, objects: Moto, tmp_path: Path) -> None:
    server.s3 = objects.url
    (tmp_path / "keys").write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n")
    keys = str(tmp_path / "keys")
    outputs = {"place": "s3://results/of broker", "endpoint": objects.url, "credentials_file": keys}
    outputs["place"] = "s3://results/of%20broker"
    asked = {**WRITES, "outputs": {"to": "s3://results/mine/{session}"}}
    stage, job, seen = await ran(make, asked, outputs=outputs, writes=["s3://results/mine"])
    assert seen.phase == "COMPLETED", seen
    (result,) = await stage.make().results(job, stage.soon())
    assert result == Result("a/x y", 3, url=f"s3://results/mine/{job.session}/a/x%20y")
    assert await whole(stage, job, "a/x y") == b"one"


async def test_without_a_place_for_them_there_are_no_results(make: Make) -> None:
    stage, job, seen = await ran(make, WRITES, outputs=None)
    assert seen.phase == "COMPLETED"
    assert not (await stage.make().describe(stage.soon())).results
    assert await stage.make().results(job, stage.soon()) == ()
    with pytest.raises(SiteForgot):
        await whole(stage, job, "a/x y")


# ── the stand-in, by a client that knows nothing of us ───────────────────────────────────────────────────────────


async def test_a_client_of_others_is_served_by_the_stand_in(server: TesServer) -> None:
    """py-tes reads every field by its own models, and takes no other."""

    def drive() -> None:
        client = tes.HTTPClient(server.url.removesuffix("/ga4gh/tes/v1"))
        assert client.get_service_info().type["artifact"] == "tes"
        executors = [
            tes.Executor(image=IMAGE, command=["sh", "-c", "cat /in/a; echo $B >&2"], env={"B": "c"}),
            tes.Executor(image=IMAGE, command=["cp", "/in/a", "/out/b"], workdir="/out"),
        ]
        task = tes.Task(
            name="theirs",
            executors=executors,
            inputs=[tes.Input(path="/in/a", content="hello")],
            outputs=[tes.Output(path="/out/b", url=f"file://{server.folder}/kept/b")],
            resources=tes.Resources(cpu_cores=1, ram_gb=0.5),
            tags={"mine": "yes"},
        )
        id = client.create_task(task)
        client.wait(id, timeout=PATIENCE)
        whole = client.get_task(id, "FULL")
        assert (whole.state, whole.name, whole.tags) == ("COMPLETE", "theirs", {"mine": "yes"})
        logs = whole.logs[0]
        assert [(log.stdout, log.stderr, log.exit_code) for log in logs.logs] == [("hello", "c\n", 0), ("", "", 0)]
        assert [(file.path, file.size_bytes) for file in logs.outputs] == [("/out/b", 5)]
        assert (server.folder / "kept" / "b").read_text() == "hello"
        assert logs.start_time <= logs.logs[0].start_time <= logs.logs[1].end_time <= logs.end_time
        long = client.create_task(tes.Task(executors=[tes.Executor(image=IMAGE, command=["sleep", "60"])]))
        client.cancel_task(long)
        assert client.wait(long, timeout=PATIENCE).state in ("CANCELING", "CANCELED")
        page = client.list_tasks(page_size=1)
        assert [found.id for found in page.tasks] == [long]
        rest = client.list_tasks("BASIC", page_size=1, page_token=page.next_page_token)
        assert [found.id for found in rest.tasks] == [id]
        assert not rest.next_page_token

    await asyncio.to_thread(drive)


async def test_nothing_of_a_run_outlives_it(make: Make, tmp_path: Path) -> None:
    source = (
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
    )
    _, _, seen = await ran(make, program(source))
    assert seen.phase == "COMPLETED"
    pid = (tmp_path / "pid").read_text()
    async with asyncio.timeout(PATIENCE):
        while is_alive(pid):
            await real_time()


def is_alive(pid: str) -> bool:
    """A process that nobody has waited for yet is none any more."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_the_stand_in_serves_in_a_process_of_its_own(tmp_path: Path) -> None:
    def drive() -> None:
        with tes_server.serving(tmp_path / "own", "theirs:1") as url:
            client = tes.HTTPClient(url.removesuffix("/ga4gh/tes/v1"))
            id = client.create_task(tes.Task(executors=[tes.Executor(image="theirs:1", command=["true"])]))
            assert client.wait(id, timeout=PATIENCE).state == "COMPLETE"

    await asyncio.to_thread(drive)
