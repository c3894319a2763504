"""A Slurm cluster as a site of ours, for tests. Imports the test kit and the adapter."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp

from adapters.planning.platform import Job
from adapters.planning.queued import QueuedPlatform
from adapters.slurm.adapter import make_queue
from adapters.slurm.options import SlurmOptions
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL
from broker.domain.site import Registration
from broker.plugins import Credentials, Resources
from broker.ports import Calendar, Sighting
from broker.services.clock import SystemClock
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.slurm_server import SlurmServer
from tests.conftest import want

CLOCK = SystemClock()
ADA = Owner("https://idp.example.org", "ada")
PATIENCE = 60.0  # seconds: a net for what hangs, not a measure

_numbers = itertools.count()


@contextmanager
def a_cluster(**how: Any) -> Iterator[SlurmServer]:
    want("slurmrestd", "slurm-wlm slurmrestd munge slurm-wlm-jwt-plugin")
    server = SlurmServer(**how)
    try:
        yield server.start()
    finally:
        server.stop()


def options(server: SlurmServer, folder: Path | None = None, **more: Any) -> SlurmOptions:
    """Of a site of its own, unless it is given another's folder."""
    folder = folder or server.shared / str(next(_numbers))
    given = {"url": server.url, "folder": folder, "user": "root", "key_file": server.key_file, "grace": 0.5}
    return SlurmOptions.model_validate({**given, **more})


def resources(
    http: aiohttp.ClientSession,
    calendar: Calendar | None = None,
    credentials: Credentials | None = None,
    site: str = "here",
) -> Resources:
    return Resources(
        registration=Registration(name=site),
        calendar=calendar or MemoryCalendar(),
        limits=MemoryLimits(CLOCK),
        clock=CLOCK,
        http=http,
        credentials=credentials,
        name="here",
        broker_id="us",
        currency="EUR",
        site_settings={"tariff": "free", "offers": {"turnaround": "PT1M"}},
    )


def platform(
    given: SlurmOptions, http: aiohttp.ClientSession, calendar: Calendar | None = None, site: str = "here"
) -> QueuedPlatform:
    calendar = calendar or MemoryCalendar()
    return QueuedPlatform(make_queue(given, resources(http, calendar), site), calendar, site, CLOCK)


def soon() -> Deadline:
    return Deadline.after(PATIENCE, time.monotonic())


def a_job(source: str, *, duration: float = 600.0, owner: Owner = ADA, cores: int = 1, **more: Any) -> Job:
    """A job of a program with `source`, of 1 GiB. `more`: properties of the executable."""
    compute = {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": cores, "max": cores}}
    compute |= {name: more.pop(name) for name in ("extras",) if name in more}
    executable = {"kind": kinds.PYTHON_PROGRAM, "source": source} | more
    request = ExecutionRequest.model_validate({"executable": executable, "compute": compute})
    return Job(uuid4(), "a job", owner, request, cores, 1, 0, request.extras, duration=duration, start=0.0)


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What `condition` returns as soon as it is true."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await condition()):  # noqa: ASYNC110  what is awaited happens in other processes
            await asyncio.sleep(0.05)
    return found


async def look(site: QueuedPlatform, job: Job) -> Sighting:
    seen = (await site.status([job], soon()))[job.session]
    assert isinstance(seen, Sighting), seen
    return seen


async def phase(site: QueuedPlatform, job: Job, *phases: str) -> Sighting:
    async def reached() -> Sighting | None:
        seen = await look(site, job)
        assert seen.phase in phases or seen.phase not in TERMINAL, seen
        return seen if seen.phase in phases else None

    found: Sighting = await until(reached)
    return found


async def over(site: QueuedPlatform, job: Job) -> Sighting:
    return await phase(site, job, *TERMINAL)


def number(seen: Sighting) -> int:
    """`slurm job 7` → 7"""
    assert seen.native is not None
    return int(seen.native.rpartition(" ")[2])
