"""Results that are written elsewhere: by real supervisors and children, to places that take them and places that do
not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from msgspec.structs import replace
from pydantic import ValidationError

from adapters.local import layout, processes, supervisor
from adapters.local.options import LocalOptions
from adapters.local.platform import LocalPlatform
from adapters.local.pump import Pump
from adapters.planning.platform import Job
from broker.domain.outputs import Outputs
from broker.errors import SiteForgot, SiteRefused
from broker.ports import Sighting
from tests.adapters.test_local_platform import a_job, a_platform, seen, soon, until

SOURCE = """
from pathlib import Path
Path("results/sub").mkdir()
Path("results/a.txt").write_text("hello")
Path("results/sub/b ü%.txt").write_bytes(b"x" * 1_000_000)
"""
NAMES = {"a.txt", "sub/b ü%.txt"}


class Store:
    """A place that takes what is put: path → body. `answer` may say something else first; `seen` is all that came."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.seen: list[web.Request] = []
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        if self.answer is not None and (other := await self.answer(request)) is not None:
            return other
        if request.method == "HEAD":
            body = self.files.get(request.path)
            return (
                web.Response(status=404) if body is None else web.Response(headers={"Content-Length": str(len(body))})
            )
        if request.method == "PUT":
            body = await request.read()
            stated = request.headers["Content-Digest"]
            assert stated == f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
            self.files[request.path] = body
        return web.Response(status=201)

    def count(self, method: str = "PUT") -> int:
        return sum(request.method == method for request in self.seen)


@asynccontextmanager
async def served(store: Store) -> AsyncIterator[Store]:
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", store.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    store.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield store
    finally:
        await runner.cleanup()


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    async with served(Store()) as one:
        yield one


def wanting(job: Job, **outputs: Any) -> Job:
    return replace(job, request=job.request.with_(outputs=Outputs.model_validate(outputs)))


def sending(job: Job, to: str) -> Job:
    return wanting(job, to=to)


def a_writer(tmp_path: Path, *writes: Any, **options: Any) -> LocalPlatform:
    return a_platform(tmp_path / "jobs", writes=writes, **{"delivering": "PT20S"} | options)


async def over(platform: LocalPlatform, job: Job) -> Sighting:
    async def ended() -> Sighting | None:
        sighting = await seen(platform, job)
        return sighting if sighting.phase in layout.TERMINAL else None

    found: Sighting = await until(ended)
    return found


async def run(platform: LocalPlatform, job: Job) -> Sighting:
    await platform.start(job, soon())
    return await over(platform, job)


# ── what goes well ───────────────────────────────────────────────────────────────────────────────────────────


async def test_results_are_where_they_are_wanted_and_are_listed_with_their_urls(tmp_path: Path, store: Store) -> None:
    platform = a_writer(tmp_path, f"{store.url}/r/")
    job = sending(a_job(SOURCE), f"{store.url}/r/{{session}}")
    sighting = await run(platform, job)
    place = f"/r/{job.session}"
    assert (sighting.phase, sighting.messages) == ("COMPLETED", (f"results were written to {store.url}{place}",))
    assert store.files == {f"{place}/a.txt": b"hello", f"{place}/sub/b ü%.txt": b"x" * 1_000_000}
    listed = await platform.results(job, soon())
    assert {result.name: result.url for result in listed} == {
        "a.txt": f"{store.url}{place}/a.txt",
        "sub/b ü%.txt": f"{store.url}{place}/sub/b%20%C3%BC%25.txt",
    }
    assert b"".join([piece async for piece in platform.fetch(job, "a.txt", soon())]) == b"hello"


async def test_they_are_listed_after_the_site_has_cleared_its_own(tmp_path: Path, store: Store) -> None:
    platform = a_writer(tmp_path, f"{store.url}/r/", keep="PT0S")
    job = sending(a_job(SOURCE), f"{store.url}/r/")
    await run(platform, job)
    platform._jobs.sweep(time.time() + 60)
    assert {result.url for result in await platform.results(job, soon())} == {
        f"{store.url}/r/a.txt",
        f"{store.url}/r/sub/b%20%C3%BC%25.txt",
    }
    with pytest.raises(SiteForgot):
        await anext(aiter(platform.fetch(job, "a.txt", soon())))


@pytest.mark.parametrize(("source", "phase"), [("raise SystemExit(1)", "FAILED"), ("pass", "COMPLETED")])
async def test_what_failed_or_left_nothing_writes_nothing(
    tmp_path: Path, store: Store, source: str, phase: str
) -> None:
    platform = a_writer(tmp_path, store.url)
    assert (await run(platform, sending(a_job(source), f"{store.url}/r/"))).phase == phase
    assert store.seen == []


async def test_what_a_failed_run_left_stays_here_and_does_not_cover_what_is_there(tmp_path: Path, store: Store) -> None:
    platform = a_writer(tmp_path, store.url)
    job = sending(a_job(f"{SOURCE}\nraise SystemExit(1)"), f"{store.url}/r/")
    assert (await run(platform, job)).phase == "FAILED"
    assert store.files == {}
    assert {result.name for result in await platform.results(job, soon())} == NAMES


async def test_the_session_is_releasing_while_results_are_on_their_way(tmp_path: Path, store: Store) -> None:
    gate, come = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> None:
        come.set()
        await gate.wait()

    store.answer = answer
    platform = a_writer(tmp_path, store.url)
    job = sending(a_job(SOURCE), f"{store.url}/r/")
    await platform.start(job, soon())
    await asyncio.wait_for(come.wait(), 60)
    assert (await seen(platform, job)).phase == "RELEASING"
    assert await platform.results(job, soon()) == ()
    gate.set()
    assert (await over(platform, job)).phase == "COMPLETED"


async def test_folders_are_made_where_a_place_wants_them_first_but_not_its_own(tmp_path: Path, store: Store) -> None:
    made = {"/own/"}

    async def answer(request: web.Request) -> web.Response | None:
        if request.method == "MKCOL":
            made.add(request.path)
        if request.method == "PUT" and request.path.rpartition("/")[0] + "/" not in made:
            return web.Response(status=409)
        return None

    store.answer = answer
    platform = a_writer(tmp_path, f"{store.url}/own/")
    job = sending(a_job(SOURCE), f"{store.url}/own/mine/")
    assert (await run(platform, job)).phase == "COMPLETED"
    assert made == {"/own/", "/own/mine/", "/own/mine/sub/"}
    assert len(store.files) == 2


async def test_results_of_a_program_in_a_sandbox_go_out_though_it_has_no_network(
    tmp_path: Path, store: Store, bubblewrap: None
) -> None:
    platform = a_writer(tmp_path, store.url, isolation="bwrap", network=False)
    sighting = await run(platform, sending(a_job(SOURCE), f"{store.url}/r/"))
    assert sighting.phase == "COMPLETED", sighting.messages
    assert len(store.files) == 2


# ── what a site can be told to write to ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"prefix": "https", "credentials_file": "/x"}, "to whomever a user names"),
        ("ftp://x/", "http, https or s3 is wanted"),
        ("results", "http, https or s3 is wanted"),
        ("s3://results/", "needs its endpoint"),
        ({"prefix": "https://x/", "endpoint": "https://y"}, "no other has one"),
        ({"prefix": "s3://x/", "endpoint": "ftp://y"}, "the endpoint is"),
        ({"prefix": "http://store.example.org/", "credentials_file": "/x"}, "not sent over http"),
        ("https://user:secret@x/", "no user, query or fragment"),
        ("https://x/a/../b", "no . or .."),
    ],
)
def test_a_place_that_would_not_be_safe_or_cannot_work_is_no_setting(tmp_path: Path, entry: Any, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        LocalOptions(folder=tmp_path, writes=(entry,))


async def test_the_longest_prefix_says_with_which_credentials(tmp_path: Path, store: Store) -> None:
    (tmp_path / "inner").write_text("[default]\ntoken = inner\n")
    inner = {"prefix": f"{store.url}/r/own/", "credentials_file": tmp_path / "inner"}
    platform = a_writer(tmp_path, f"{store.url}/r/", inner)
    assert (await platform.describe(soon())).writes == (f"{store.url}/r/", f"{store.url}/r/own/")
    await run(platform, sending(a_job(SOURCE), f"{store.url}/r/other/"))
    assert {request.headers.get("Authorization") for request in store.seen} == {None}
    store.seen.clear()
    await run(platform, sending(a_job(SOURCE), f"{store.url}/r/own/x/"))
    assert {request.headers.get("Authorization") for request in store.seen} == {"Bearer inner"}


async def test_credentials_that_cannot_be_read_are_the_operators_matter(tmp_path: Path, store: Store) -> None:
    platform = a_writer(tmp_path, {"prefix": store.url, "credentials_file": tmp_path / "none"})
    sighting = await run(platform, sending(a_job(SOURCE), f"{store.url}/r/"))
    assert sighting.phase == "FAILED"
    assert "its operator has to look" in sighting.messages[0]
    assert store.seen == []


async def test_a_place_that_is_no_setting_any_more_refuses_the_acceptance_with_proof(tmp_path: Path) -> None:
    with pytest.raises(SiteRefused, match="cannot be written to s3://results/x"):
        await a_writer(tmp_path).start(sending(a_job(SOURCE), "s3://results/x"), soon())


# ── what the site keeps ──────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_asked_to_be_kept_is_kept_longer(tmp_path: Path) -> None:
    platform = a_writer(tmp_path, keep="PT1H", keep_longest="P30D")
    profile = await platform.describe(soon())
    assert profile.keeps is not None
    assert profile.keeps.days == 30
    plain, asked = a_job(SOURCE), wanting(a_job(SOURCE), keep="P2D")
    for job, seconds in ((plain, 3600.0), (asked, 2 * 86400.0)):
        sighting = await run(platform, job)
        (first, *_) = await platform.results(job, soon())
        assert sighting.ended is not None
        assert first.kept_until == pytest.approx(sighting.ended + seconds)


# ── places that do not take it ───────────────────────────────────────────────────────────────────────────────


def failing(status: int, **headers: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, headers=headers)

    return answer


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, "401 Unauthorized"), (403, "403 Forbidden"), (413, "413"), (507, "507 Insufficient Storage"), (302, "302")],
)
async def test_a_place_that_will_not_have_it_ends_the_session_as_failed_and_nothing_is_lost(
    tmp_path: Path, store: Store, status: int, says: str
) -> None:
    store.answer = failing(status)
    platform = a_writer(tmp_path, store.url)
    job = sending(a_job(SOURCE), f"{store.url}/r/")
    sighting = await run(platform, job)
    assert sighting.phase == "FAILED"
    (message,) = sighting.messages
    assert message.startswith(f"ran, but results could not be written to {store.url}/r/: ")
    assert says in message
    assert ". They are kept here until 20" in message
    assert store.count() == 1
    assert {(result.name, result.url) for result in await platform.results(job, soon())} == {(n, None) for n in NAMES}


async def test_a_place_that_answers_500_for_ever_is_tried_until_the_time_is_up(tmp_path: Path, store: Store) -> None:
    store.answer = failing(500)
    platform = a_writer(tmp_path, store.url, delivering="PT4S")
    sighting = await run(platform, sending(a_job(SOURCE), f"{store.url}/r/"))
    assert sighting.phase == "FAILED"
    assert "answers 500 Internal Server Error. The time for it is up." in sighting.messages[0]
    assert store.count() >= 2


async def test_nobody_there_is_said_in_words(tmp_path: Path) -> None:
    platform = a_writer(tmp_path, "http://127.0.0.1:1/", delivering="PT0.5S")
    sighting = await run(platform, sending(a_job(SOURCE), "http://127.0.0.1:1/r/"))
    assert (
        "127.0.0.1:1 cannot be written to: [Errno 111] Connection refused. The time for it is up."
        in (sighting.messages[0])
    )


async def test_the_end_can_be_asked_for_while_results_are_on_their_way(tmp_path: Path, store: Store) -> None:
    come = asyncio.Event()

    async def answer(request: web.Request) -> None:
        come.set()
        await asyncio.sleep(60)

    store.answer = answer
    platform = a_writer(tmp_path, store.url)
    job = sending(a_job(SOURCE), f"{store.url}/r/")
    await platform.start(job, soon())
    await asyncio.wait_for(come.wait(), 60)
    await platform.cancel(job, soon())
    sighting = await over(platform, job)
    assert sighting.phase == "CANCELLED"
    assert {result.name for result in await platform.results(job, soon())} == NAMES


async def test_a_supervisor_that_is_killed_on_the_way_is_followed_by_another(tmp_path: Path, store: Store) -> None:
    come, gate = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> None:
        come.set()
        await gate.wait()

    store.answer = answer
    platform = a_writer(tmp_path, store.url)
    job = sending(a_job(SOURCE + "open('../ran', 'a').write('once ')"), f"{store.url}/r/")
    await platform.start(job, soon())
    await asyncio.wait_for(come.wait(), 60)
    pid = layout.holder(platform._jobs.place(job.session))
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    gate.set()
    sighting = await over(platform, job)
    assert sighting.phase == "COMPLETED"
    assert len(store.files) == 2
    assert (platform._jobs.place(job.session) / "ran").read_text() == "once "
    assert {result.url is None for result in await platform.results(job, soon())} == {False}


async def test_a_writer_that_is_killed_says_nothing_and_neither_does_the_program_for_it(
    tmp_path: Path, store: Store
) -> None:
    come = asyncio.Event()

    async def answer(request: web.Request) -> None:
        come.set()
        await asyncio.Event().wait()

    store.answer = answer
    platform = a_writer(tmp_path, store.url)
    job = sending(a_job(SOURCE + "import sys; print('all is well', file=sys.stderr)"), f"{store.url}/r/")
    await platform.start(job, soon())
    await asyncio.wait_for(come.wait(), 60)
    (child,) = processes.marked(str(job.session), platform._jobs.place(job.session))
    os.kill(child, signal.SIGKILL)
    message = (await over(platform, job)).messages[0]
    assert "writing results was ended by SIGKILL" in message
    assert "all is well" not in message


async def killed_on_the_way(tmp_path: Path, store: Store, **options: Any) -> tuple[LocalPlatform, Job]:
    """A job whose supervisor was killed while it wrote results."""
    come, gate = asyncio.Event(), asyncio.Event()

    async def answer(request: web.Request) -> None:
        come.set()
        await gate.wait()

    store.answer = answer
    platform = a_writer(tmp_path, store.url, **options)
    job = sending(a_job(SOURCE), f"{store.url}/r/")
    await platform.start(job, soon())
    await asyncio.wait_for(come.wait(), 60)
    place = platform._jobs.place(job.session)
    pid = layout.holder(place)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    async def gone() -> bool:
        return layout.holder(place) is None

    await until(gone)
    gate.set()
    store.answer = None
    return platform, job


async def test_so_it_is_when_it_was_killed_before_it_had_counted_the_results(tmp_path: Path, store: Store) -> None:
    platform, job = await killed_on_the_way(tmp_path, store)
    (platform._jobs.place(job.session) / layout.RESULTS).unlink()
    assert (await over(platform, job)).phase == "COMPLETED"
    assert {result.name for result in await platform.results(job, soon())} == NAMES
    assert len(store.files) == 2


@pytest.mark.parametrize("phase", ["COMPLETED", "FAILED"])
def test_that_all_that_is_left_is_to_write_results_is_known_before_they_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """To sum ten gigabytes takes half a minute, in which a machine may go down."""
    seen = []

    def survey(folder: Path, root: str) -> tuple[list[dict[str, Any]], int]:
        seen.append(layout.read_state(folder))
        return [], 0

    monkeypatch.setattr(supervisor, "survey", survey)
    bounds = layout.Bounds(1, 1, 1.0, 1, 1, 1, 1, 1, 1.0, 1.0, 0)
    delivery = layout.Delivery("s3://r/", "http://x/r", "s3", within=60.0, kept=1.0)
    spec = layout.Spec("0", "program", bounds, "python", {}, delivery=delivery)
    state = layout.State("RUNNING", began=1.0)
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb"):
        one = supervisor.Supervisor(tmp_path, spec, state, Pump(reader))
        one._finish(supervisor.Over(phase, code=0))
    (state,) = seen
    assert (state.phase, state.exit) == ("RELEASING", 0)
    assert (state.delivering is not None) is (phase == "COMPLETED")


async def test_a_clock_that_was_set_back_gives_no_more_time(tmp_path: Path, store: Store) -> None:
    platform, job = await killed_on_the_way(tmp_path, store, delivering="PT3S")
    place = platform._jobs.place(job.session)
    state = layout.read_state(place)
    assert state is not None
    layout.write_state(place, state._replace(delivering=time.time() + 1e6))

    async def never(request: web.Request) -> web.StreamResponse:
        return web.Response(status=503)

    store.answer = never
    sighting = await over(platform, job)
    assert sighting.phase == "FAILED"
    assert "The time for it is up" in sighting.messages[0]


async def test_of_those_that_see_a_dead_supervisor_one_clears_up(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would drop the first one's lock, and might kill what the next supervisor has begun."""
    platform, job = await killed_on_the_way(tmp_path, store)
    begun, go_on, calls = threading.Event(), threading.Event(), []

    def slow(session: str, folder: Path) -> bool:
        calls.append(session)
        begun.set()
        return go_on.wait(60) and kill_marked(session, folder)

    kill_marked = processes.kill_marked
    monkeypatch.setattr(processes, "kill_marked", slow)
    first = asyncio.create_task(asyncio.to_thread(platform._jobs.look, job.session))
    assert await asyncio.to_thread(begun.wait, 60)
    second = asyncio.create_task(asyncio.to_thread(platform._jobs.look, job.session))
    done, _ = await asyncio.wait([second], timeout=20)
    go_on.set()
    await asyncio.gather(first, second)
    assert second in done
    assert len(calls) == 1
    assert (await over(platform, job)).phase == "COMPLETED"
