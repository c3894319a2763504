"""What the tests of the kind `wes` share: requests, sites, and looking at a job until it is where it should be."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import aiohttp
import msgspec

from adapters.planning.contract import Stage
from adapters.planning.platform import Job, Platform
from adapters.planning.queued import QueuedPlatform
from adapters.wes.options import WesOptions
from adapters.wes.queue import WesQueue
from broker.domain import kinds
from broker.domain.site import Registration
from broker.plugins import Resources
from broker.ports import Logs
from broker.services.clock import SystemClock
from broker.testing.memory import MemoryCalendar, MemoryLimits

CLOCK = SystemClock()
WARP = {"kind": "https://example.org/kinds/executable/warp-drive.yaml"}
SMALL = {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 1}, "memory": {"min": 1, "max": 1}}


def program(source: str, *data: dict[str, Any], **more: Any) -> dict[str, Any]:
    executable = {"kind": kinds.PYTHON_PROGRAM, "source": source, **more}
    return {"executable": executable, "compute": SMALL, **({"data": list(data)} if data else {})}


def datum(name: str, url: str, **more: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_DATA, "meta": {"name": name}, "location": url, **more}


def workflow(document: str, *data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Of one attachment, main.cwl."""
    attached = [{"path": "main.cwl", "source": document}]
    executable = {"kind": kinds.WORKFLOW, "type": "CWL", "location": "main.cwl", "attachments": attached, **more}
    return {"executable": executable, "compute": SMALL, **({"data": list(data)} if data else {})}


def counted(marks: Path) -> dict[str, Any]:
    """A program that leaves a file in `marks` each time it runs, and a result."""
    return program(
        "import os, uuid\n"
        f"open(os.path.join({str(marks)!r}, os.environ['BROKER_SESSION'] + '.' + uuid.uuid4().hex), 'x').close()\n"
        "open('results/answer', 'w').write('42')\n"
    )


def lasting(marks: Path) -> dict[str, Any]:
    """A program that says that it has begun, and runs until a test is over."""
    return program(
        "import os, time\n"
        f"open(os.path.join({str(marks)!r}, os.environ['BROKER_SESSION'] + '.began'), 'w').close()\n"
        f"while not os.path.exists({str(marks / 'over')!r}):\n    time.sleep(0.05)\n"
    )


async def some_time() -> None:
    """A run takes seconds: nobody need ask a hundred times for it."""
    await asyncio.sleep(0.1)


def resources(session: aiohttp.ClientSession, url: str = "", broker: str = "", **more: Any) -> Resources:
    """What the broker hands to a plugin; always the same calendar, of a broker that nobody else is."""
    given = Resources(
        registration=Registration(name="here", url=url or None),
        calendar=MemoryCalendar(),
        limits=MemoryLimits(CLOCK),
        clock=CLOCK,
        http=session,
        credentials=None,
        name="here",
        broker_id=broker or str(uuid4()),
        currency="EUR",
        site_settings={"tariff": "free", "capacity": {"cores": 8, "memory": 32, "storage": 100}},
    )
    return replace(given, **more)


def platform(url: str, session: aiohttp.ClientSession, broker: str = "", **options: Any) -> Callable[[], Platform]:
    """How to make the platform, again and again on one calendar."""
    given, read = resources(session, url, broker), WesOptions.model_validate({"program": {}, **options})
    return lambda: QueuedPlatform(WesQueue(read, given), given.calendar, "here", CLOCK)


def stage(url: str, session: aiohttp.ClientSession, broker: str = "", **options: Any) -> Stage:
    """For one request after the other: its own short and long ones are none."""
    return Stage(platform(url, session, broker, **options), CLOCK, {}, {}, pass_time=some_time)


def a_job(request: dict[str, Any] | None = None) -> Job:
    """For whoever asks a queue, and needs no more than its session."""
    return Stage(lambda: cast(Platform, None), CLOCK, {}, {}).job(request or program(""))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's files over HTTP: the address that they lie below."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


async def results(stage: Stage, job: Job) -> dict[str, bytes]:
    """Every result, by name; their sizes and checksums hold."""
    platform, found = stage.make(), {}
    for result in await platform.results(job, stage.soon()):
        pieces = [piece async for piece in platform.fetch(job, result.name, stage.soon())]
        found[result.name] = b"".join(pieces)
        assert len(found[result.name]) == result.bytes
    return found


async def logs(stage: Stage, job: Job) -> Logs:
    return await stage.make().logs(job, stage.soon())


def lasts(job: Job, seconds: float) -> Job:
    return msgspec.structs.replace(job, duration=seconds)
