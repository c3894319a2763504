"""The kind `tes`, held to the contracts of its ports, against the stand-in of broker.testing.tes_server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.queued import QueuedPlatform
from adapters.tes.adapter import plugin
from adapters.tes.options import TesOptions
from adapters.tes.queue import TesQueue
from broker.domain import kinds
from broker.domain.site import Registration
from broker.plugins import Credentials, Resources
from broker.services.clock import SystemClock
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.planner_contract import PlannerContract, Stand
from broker.testing.resources import shared_http
from broker.testing.tes_server import IMAGE, TesServer

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
