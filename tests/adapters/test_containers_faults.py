"""A container engine that misbehaves on purpose: answers that are lost, late, wrong, endless."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from adapters.containers import marks, preparing, results
from adapters.containers.states import Container
from adapters.containers.streams import File
from adapters.planning.contract import Stage
from broker.domain.deadline import Deadline
from broker.errors import SiteError, SiteMisbehaved, SiteTimeout, SiteUnreachable, Unavailable
from broker.ports import Sighting
from broker.testing.container_engines import Engine
from tests.adapters.container_sites import CLOCK, Sites, container

BOX = container("true")
STEPS = ("volume", "create", "put", "start")


def rfc3339(age: float = 0.0) -> str:
    return datetime.fromtimestamp(CLOCK.now() - age, UTC).isoformat()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FakeEngine(Engine):
    """What this adapter uses of an engine, in memory. A container is over as soon as it is started. `faults`: by the
    name of a call, what goes wrong the next time, before it is done or after."""

    kind = "fake"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.volumes: dict[str, dict[str, Any]] = {}
        self.boxes: dict[str, dict[str, Any]] = {}
        self.done: list[str] = []
        self.faults: dict[str, Handler] = {}
        self.after: dict[str, Handler] = {}
        self.always: dict[str, Handler] = {}
        self.version = "1.41"
        self.age = 0.0  # seconds since which its volumes are there

    async def serve(self) -> web.AppRunner:
        app = web.Application()
        for method, path, name in (
            ("GET", "/_ping", "ping"),
            ("GET", "/{v}/info", "info"),
            ("GET", "/{v}/volumes", "volumes"),
            ("POST", "/{v}/volumes/create", "volume"),
            ("GET", "/{v}/volumes/{name}", "marked"),
            ("DELETE", "/{v}/volumes/{name}", "unmark"),
            ("GET", "/{v}/containers/json", "list"),
            ("POST", "/{v}/containers/create", "create"),
            ("GET", "/{v}/containers/{name}/json", "inspect"),
            ("PUT", "/{v}/containers/{name}/archive", "put"),
            ("POST", "/{v}/containers/{name}/start", "start"),
            ("DELETE", "/{v}/containers/{name}", "remove"),
            ("GET", "/{v}/images/{name:.*}/json", "image"),
        ):
            app.router.add_route(method, path, self._handler(name))
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.UnixSite(runner, str(self.socket)).start()
        return runner

    def _handler(self, name: str) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if (fault := self.always.get(name) or self.faults.pop(name, None)) is not None:
                return await fault(request)
            answer = await getattr(self, f"_{name}")(request)
            self.done.append(name)
            if (fault := self.after.pop(name, None)) is not None:
                return await fault(request)
            if isinstance(answer, web.Response):
                return answer
            return web.json_response(answer) if answer is not None else web.Response(status=404)

        return handle

    async def _ping(self, request: web.Request) -> Any:
        return web.Response(headers={"Api-Version": self.version})

    async def _info(self, request: web.Request) -> Any:
        return {"NCPU": 2, "MemTotal": 4 << 30, "Architecture": "x86_64", "ServerVersion": "0"}

    async def _volumes(self, request: web.Request) -> Any:
        return {"Volumes": list(self.volumes.values())}

    async def _volume(self, request: web.Request) -> Any:
        body = await request.json()
        made = {"CreatedAt": rfc3339(self.age)} | body
        return self.volumes.setdefault(body["Name"], made)

    async def _marked(self, request: web.Request) -> Any:
        return self.volumes.get(request.match_info["name"])

    async def _unmark(self, request: web.Request) -> Any:
        return self.volumes.pop(request.match_info["name"], None)

    async def _list(self, request: web.Request) -> Any:
        return [
            {"Id": box["Id"], "State": box["State"]["Status"], "Labels": box["Config"]["Labels"]}
            for box in self.boxes.values()
        ]

    async def _create(self, request: web.Request) -> Any:
        name, body = request.query["name"], await request.json()
        if name in self.boxes:
            return web.Response(status=409)
        self.boxes[name] = {"Id": name, "State": {"Status": "created"}, "Config": {"Labels": body["Labels"]}}
        return web.Response(status=201)

    async def _inspect(self, request: web.Request) -> Any:
        return self.boxes.get(request.match_info["name"])

    async def _put(self, request: web.Request) -> Any:
        await request.read()
        return {}

    async def _start(self, request: web.Request) -> Any:
        now = rfc3339()
        self.boxes[request.match_info["name"]]["State"] = {
            "Status": "exited", "ExitCode": 0, "StartedAt": now, "FinishedAt": now,
        }  # fmt: skip
        return web.Response(status=204)

    async def _remove(self, request: web.Request) -> Any:
        return self.boxes.pop(request.match_info["name"], None)

    async def _image(self, request: web.Request) -> Any:
        return {"Architecture": "amd64", "Id": "sha256:1"}


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    engine = FakeEngine(tmp_path)
    runner = await engine.serve()
    yield engine
    await runner.cleanup()


@pytest.fixture
async def here(engine: FakeEngine) -> AsyncIterator[Sites]:
    here = Sites(engine)
    yield here
    await here.hang_up()


@pytest.fixture
def stage(here: Sites) -> Stage:
    return here.stage(BOX, BOX)


async def cut(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def failing(request: web.Request) -> web.StreamResponse:
    return web.json_response({"message": "the engine\x1b[31m has trouble"}, status=500)


async def garbage(request: web.Request) -> web.StreamResponse:
    return web.Response(body=b"[" * 100_000)


async def wrong(request: web.Request) -> web.StreamResponse:
    return web.json_response("what?")


async def redirect(request: web.Request) -> web.StreamResponse:
    return web.Response(status=307, headers={"Location": "http://127.0.0.1:1/"})


async def endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b" " * 1_000_000)


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(600)
    return web.Response()


@pytest.mark.parametrize("fault", [failing, garbage, wrong, redirect, endless])
@pytest.mark.parametrize("call", ["ping", "volumes", "list"])
async def test_what_an_engine_answers_wrongly_is_its_own_trouble(
    engine: FakeEngine, stage: Stage, call: str, fault: Handler
) -> None:
    job = await stage.started(BOX)
    assert (await stage.ended(job)).phase == "COMPLETED"
    engine.always[call] = fault
    with pytest.raises(SiteMisbehaved) as caught:
        await stage.make().status([job], stage.soon())
    engine.always.clear()
    assert "\x1b" not in str(caught.value)
    assert (await stage.look(job)).phase == "COMPLETED"


async def test_an_engine_that_says_nothing_is_not_waited_for_beyond_the_deadline(
    engine: FakeEngine, stage: Stage
) -> None:
    engine.faults["volumes"] = silent
    with pytest.raises(SiteTimeout):
        await stage.make().status([stage.job(BOX)], Deadline.after(0.3, CLOCK.monotonic()))


@pytest.mark.parametrize("version", ["1.24", "", "x"])
async def test_an_engine_of_another_age_is_not_spoken_to(engine: FakeEngine, stage: Stage, version: str) -> None:
    engine.version = version
    with pytest.raises(SiteMisbehaved, match="no version of the Engine API"):
        await stage.make().describe(stage.soon())


async def test_no_engine_is_surely_not_reached(here: Sites) -> None:
    with pytest.raises(SiteUnreachable):
        await here.platform(url="unix:///nonexistent.sock").describe(Deadline.after(5.0, CLOCK.monotonic()))


@pytest.mark.parametrize("fault", [cut, failing])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", STEPS)
async def test_whatever_answer_is_lost_it_runs_once_at_most(
    engine: FakeEngine, stage: Stage, call: str, when: str, fault: Handler
) -> None:
    (engine.faults if when == "before" else engine.after)[call] = fault
    job = stage.job(BOX)
    try:
        await stage.make().start(job, stage.soon())
    except SiteError as error:
        doubtful = not error.proof
    else:
        doubtful = False
    assert doubtful == (call == "volume" and (when == "before" or fault is cut))
    if (call, when) == ("volume", "before"):  # nothing was made, and nobody knows that yet
        shown = (await stage.make().status([job], stage.soon()))[job.session]
        assert isinstance(shown, Sighting)
        assert shown.phase == "WAITING"
        return
    seen = await stage.ended(job)
    hopeless = fault is failing and (call == "put" or (call, when) in (("create", "before"), ("start", "before")))
    assert seen.phase == ("FAILED" if hopeless else "COMPLETED"), seen
    assert not hopeless or "the engine [31m has trouble" in seen.messages[0]
    assert engine.done.count("start") == (0 if hopeless else 1)
    assert marks.name("broker", job.session) not in engine.volumes


@pytest.mark.parametrize("ticket", [True, False])
async def test_what_was_seen_before_it_ran_does_not_start_it_again(
    engine: FakeEngine, stage: Stage, ticket: bool
) -> None:
    job = await stage.started(BOX)
    assert (await stage.ended(job)).phase == "COMPLETED"
    name = marks.name("broker", job.session)
    labels = engine.boxes[name]["Config"]["Labels"]
    before = {"Id": name, "State": {"Status": "created"}, "Config": {"Labels": labels}}

    async def old(request: web.Request) -> web.StreamResponse:
        return web.json_response(before)

    async def volumes(request: web.Request) -> web.StreamResponse:
        return web.json_response({"Volumes": [{"Name": name, "CreatedAt": rfc3339(), "Labels": labels}]})

    engine.faults["inspect"] = old
    if ticket:
        engine.faults["volumes"] = volumes
    async with asyncio.timeout(60):
        platform = stage.make()
        shown = (await platform.status([job], stage.soon()))[job.session]
        assert isinstance(shown, Sighting)
        assert shown.phase == "PREPARING"
        await asyncio.sleep(0.3)
    assert engine.done.count("start") == 1
    assert engine.done.count("put") == 1
    assert (await stage.look(job)).phase == "COMPLETED"


async def test_who_cannot_renew_its_lease_goes_on_with_nothing(
    engine: FakeEngine, here: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another goes on with it once the lease is over."""
    monkeypatch.setattr(preparing, "LEASE", 0.9)
    enter, stage, queue = here.limits.enter, here.stage(BOX, BOX), here.queue()
    entered: list[str] = []

    async def cut_off(*words: Any) -> bool:
        entered.append(words[0])
        if len(entered) > 1:
            raise Unavailable("the store is gone.")
        return await enter(*words)

    monkeypatch.setattr(here.limits, "enter", cut_off)
    engine.faults["image"] = silent
    await queue.submit(stage.job(BOX), stage.soon())
    await asyncio.sleep(0.2)
    assert len(queue._preparer._tasks) == 1
    await asyncio.sleep(0.7)
    assert not queue._preparer._tasks


async def test_the_trouble_of_one_container_is_its_own(engine: FakeEngine, stage: Stage) -> None:
    first, second = await stage.started(BOX), await stage.started(BOX)
    await stage.ended(first)
    await stage.ended(second)
    engine.faults["inspect"] = garbage
    found = await stage.make().status([first, second], stage.soon())
    assert sorted(type(one).__name__ for one in found.values()) == ["Sighting", "SiteMisbehaved"]


async def test_an_image_whose_labels_fill_every_list_is_not_run(engine: FakeEngine, stage: Stage) -> None:
    """A list of containers shows them for each, and is read for all jobs."""

    async def labelled(request: web.Request) -> web.StreamResponse:
        return web.json_response({"Architecture": "amd64", "Config": {"Labels": {"a": "b" * 100_000}}})

    engine.faults["image"] = labelled
    seen = await stage.ended(await stage.started(BOX))
    assert seen.phase == "FAILED"
    assert "the labels of localhost/broker/tools:latest have 100001 bytes" in seen.messages[0]
    assert "create" not in engine.done


async def test_of_the_files_of_many_runs_so_many_are_remembered(here: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    found, surveyed = here.queue()._results, list[str]()

    async def survey(run: Container, deadline: Deadline) -> tuple[File, ...]:
        surveyed.append(run.id)
        return (File("a", 1, ""), File("b", 1, ""))

    monkeypatch.setattr(results, "_FILES", 5)
    monkeypatch.setattr(found, "_survey", survey)
    for id_ in "1231":
        await found.files(Container(id_, "exited", {}), Deadline.after(1.0, CLOCK.monotonic()))
    assert surveyed == ["1", "2", "3", "1"]


async def test_a_job_that_is_not_ready_in_time_is_given_up(engine: FakeEngine, here: Sites) -> None:
    stage = here.stage(BOX, BOX)
    engine.age = 4000.0
    seen = await stage.ended(await stage.started(BOX))
    assert seen.phase == "FAILED"
    assert "it was not ready within 3600 s" in seen.messages[0]
