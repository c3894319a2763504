"""ARC, at a stand-in that really runs its jobs (broker/testing/arc_site): contracts, how runs end, what can go wrong."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.arc.adapter import platform, plugin
from adapters.arc.options import ArcOptions
from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.queued import QueuedPlatform
from broker.domain import kinds
from broker.domain.site import Registration
from broker.plugins import Resources
from broker.ports import Planner
from broker.services.clock import SystemClock
from broker.testing.arc_site import FakeArc
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.planner_contract import PlannerContract, Stand
from broker.testing.resources import shared_http

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
