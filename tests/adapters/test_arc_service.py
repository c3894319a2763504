"""ARC's real service: one round of jobs side by side, for it shows each state up to a minute late.

Not part of `make test`: `python -m pytest -m faults tests/adapters/test_arc_service.py`, with Debian's ARC installed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web

from adapters.arc.adapter import platform
from adapters.arc.options import ArcOptions
from adapters.planning.platform import Job
from adapters.planning.queued import QueuedPlatform
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL
from broker.domain.site import Registration
from broker.errors import SiteError, SiteForbids, SiteForgot
from broker.plugins import Resources
from broker.ports import Sighting
from broker.services.clock import SystemClock
from broker.testing.arc_server import ArcServer, missing
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.resources import shared_http

pytestmark = pytest.mark.faults

CLOCK = SystemClock()
LATEST = 400.0  # seconds: several cycles of its information


@pytest.fixture(scope="module")
def server() -> Iterator[ArcServer]:
    if left_out := missing():
        pytest.skip(left_out)
    with ArcServer() as server:
        yield server


@pytest.fixture
async def resources() -> AsyncIterator[Resources]:
    async with shared_http() as http:
        limits = MemoryLimits(CLOCK)
        yield Resources(Registration(name="here"), MemoryCalendar(), limits, CLOCK, http, None, "here", "us", "EUR", {})


@pytest.fixture
async def data() -> AsyncIterator[str]:
    """What the service is to stage."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=b"hello") if request.method in ("GET", "HEAD") else web.Response(status=405)

    app = web.Application()
    app.router.add_route("*", "/hello.txt", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def soon() -> Deadline:
    return Deadline.after(60.0, CLOCK.monotonic())


def a_job(source: str, *, cores: int = 1, duration: float = 600.0, words: list[str] | None = None, **parts: Any) -> Job:
    executable = {"kind": kinds.PYTHON_PROGRAM, "source": source, "arguments": words or []}
    asked = ExecutionRequest.model_validate({"executable": executable, **parts})
    return Job(uuid4(), "job", Owner("tests", "ada"), asked, cores, 1, 0, {}, duration=duration, start=CLOCK.now())


def hello(url: str, **more: Any) -> list[dict[str, Any]]:
    return [{"kind": kinds.SIMPLE_DATA, "meta": {"name": "hello.txt"}, "location": url, **more}]


WORDS = ["`touch pwned`", "$(touch pwned)", "two words", 'quo"te', "semi;colon", "new\nline"]
GOOD = """
import json, os, sys
os.makedirs("results/a b")
open("results/a b/;é%41.txt", "w").write("odd")
open("results/told", "w").write(json.dumps([sys.argv[1:], os.environ["BROKER_CORES"], sorted(os.listdir("."))]))
print("out", flush=True)
"""
# As large as a program may be: what cannot be made smaller by compressing it.
BULK = "# " + "".join(hashlib.sha256(b"%d" % i).hexdigest() for i in range(2200))
STAGED = "open('results/copy', 'w').write(open('data/hello.txt').read())"
SLEEPS = "import time\ntime.sleep(900)"


async def test_jobs_end_as_they_should(server: ArcServer, resources: Resources, data: str) -> None:
    options = ArcOptions(url=server.url, ca=server.ca, certificate=server.certificate, key=server.key, python="python3")
    arc = platform(options, resources)
    jobs = {
        "good": a_job(GOOD + BULK, cores=2, words=WORDS),
        "bad": a_job("raise SystemExit('no more')"),
        "late": a_job(SLEEPS, duration=5.0),
        "staged": a_job(STAGED, data=hello(f"{data}/hello.txt")),
        "unstaged": a_job(STAGED, data=hello(f"{data}/none")),
        "killed": a_job(SLEEPS),
    }
    assert (await arc.capacity(soon())).cores
    assert await arc.estimate(jobs["good"], soon()) is not None
    for name, job in jobs.items():
        assert arc.refuse(job.request) == (), name
        assert (await arc.start(job, soon())).phase == "WAITING"
    again = platform(options, resources)  # as another process would see them, at once
    found = await again.status([*jobs.values(), unknown := a_job("")], soon())
    assert isinstance(found[unknown.session], SiteForgot)
    assert all(isinstance(found[job.session], Sighting) for job in jobs.values())
    assert (await again.start(jobs["good"], soon())).native == (await _seen(arc, jobs["good"])).native

    ended = await _all_ended(arc, jobs)
    assert {name: seen.phase for name, seen in ended.items()} == {
        "good": "COMPLETED", "bad": "FAILED", "late": "FAILED", "staged": "COMPLETED", "unstaged": "FAILED",
        "killed": "CANCELLED",
    }  # fmt: skip
    assert "exit code 1" in ended["bad"].messages
    assert "time limit" in ended["late"].messages[-1]
    assert "Failed in data staging" in ended["unstaged"].messages[0]
    assert ended["good"].began is not None
    assert ended["good"].ended is not None

    told = await _files(again, jobs["good"])
    assert told.keys() == {"told", "a b/;é%41.txt"}
    assert told["a b/;é%41.txt"] == b"odd"
    words, cores, folder = json.loads(told["told"])
    assert (words, cores) == (WORDS, "2")
    assert "pwned" not in folder
    assert await _files(again, jobs["staged"]) == {"copy": b"hello"}
    assert (await again.logs(jobs["good"], soon())).stdout == "out\n"
    assert (await again.logs(jobs["bad"], soon())).stderr == "no more\n"
    assert await again.held(soon()) == ()
    # What was killed has ended, although the fork back-end leaves it.
    # That comes with the clearing of its folder, for which ARC takes its time.
    async with asyncio.timeout(LATEST):
        while server.running():  # noqa: ASYNC110  nothing tells of it
            await asyncio.sleep(0.5)


async def _seen(arc: QueuedPlatform, job: Job) -> Sighting:
    seen = (await arc.status([job], soon()))[job.session]
    assert isinstance(seen, Sighting), seen
    return seen


async def _all_ended(arc: QueuedPlatform, jobs: dict[str, Job]) -> dict[str, Sighting]:
    """`killed` is ended as soon as it is seen to run."""
    asked = False
    async with asyncio.timeout(LATEST):
        while True:
            found = await arc.status(list(jobs.values()), soon())
            seen = {name: entry for name, job in jobs.items() if isinstance(entry := found[job.session], Sighting)}
            assert len(seen) == len(jobs), found
            if not asked and seen["killed"].phase == "RUNNING":
                assert str(jobs["killed"].session) in [held.handle for held in await arc.held(soon())]
                await arc.cancel(jobs["killed"], soon())
                asked = True
            if all(entry.phase in TERMINAL for entry in seen.values()):
                return seen
            await asyncio.sleep(1.0)


async def _files(arc: QueuedPlatform, job: Job) -> dict[str, bytes]:
    names = [result.name for result in await arc.results(job, soon())]
    return {name: b"".join([piece async for piece in arc.fetch(job, name, soon())]) for name in names}


async def test_a_proxy_signs_in(server: ArcServer, resources: Resources) -> None:
    arc = platform(ArcOptions(url=server.url, ca=server.ca, certificate=server.proxy()), resources)
    await arc.held(soon())


async def test_who_is_not_known_there_is_told_so(server: ArcServer, resources: Resources) -> None:
    with pytest.raises(SiteForbids, match="403"):
        await platform(ArcOptions(url=server.url, ca=server.ca), resources).start(a_job(""), soon())
    with pytest.raises(SiteError) as caught:  # whom nobody here has signed for
        await platform(ArcOptions(url=server.url), resources).start(a_job(""), soon())
    assert caught.value.proof
