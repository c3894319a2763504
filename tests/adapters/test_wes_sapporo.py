"""The contracts and the ends of the kind `wes`, held against a real sapporo behind a real OpenID Connect provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.queued import QueuedPlatform
from adapters.wes.adapter import plugin
from adapters.wes.options import WesOptions
from adapters.wes.queue import WesQueue
from broker.domain import kinds
from broker.domain.site import Registration
from broker.plugins import Resources
from broker.ports import Planner
from broker.services.clock import SystemClock
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.oidc_server import AUDIENCE, OidcServer
from broker.testing.planner_contract import PlannerContract, Stand
from broker.testing.resources import shared_http
from broker.testing.wes_servers import SapporoServer
from tests.conftest import want, want_server

CLOCK = SystemClock()
WARP = {"kind": "https://example.org/kinds/executable/warp-drive.yaml"}


def program(source: str, **more: Any) -> dict[str, Any]:
    return {
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": source, **more},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 1}, "memory": {"min": 1, "max": 1}},
    }


def counted(marks: Path) -> dict[str, Any]:
    """A program that leaves a file in `marks` each time it runs, and a result."""
    return program(
        "import os, uuid\n"
        f"open(os.path.join({str(marks)!r}, os.environ['BROKER_SESSION'] + '.' + uuid.uuid4().hex), 'x').close()\n"
        "open('results/answer', 'w').write('42')\n"
    )


def lasting(marks: Path) -> dict[str, Any]:
    """A program that runs until a test is over."""
    return program(f"import os, time\nwhile not os.path.exists({str(marks / 'over')!r}):\n    time.sleep(0.05)\n")


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "marks"
    folder.mkdir()
    yield folder
    (folder / "over").touch()


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcServer]:
    want("node", "nodejs")
    with OidcServer(want_server("oidc").parent, tmp_path_factory.mktemp("oidc")) as server:
        yield server


@pytest.fixture(scope="module")
def server(oidc: OidcServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SapporoServer]:
    want("jq", "jq")
    folder = tmp_path_factory.mktemp("sapporo")
    with SapporoServer(want_server("sapporo"), folder, issuer=oidc.issuer, audience=AUDIENCE) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as session:
        yield session


async def some_time() -> None:
    """A run takes a second: nobody need ask a hundred times for it."""
    await asyncio.sleep(0.1)


class TestSapporo(PlatformContract):
    @pytest.fixture
    async def stage(self, server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, marks: Path) -> Stage:
        calendar, broker = MemoryCalendar(), str(uuid4())
        options = WesOptions.model_validate({"program": {}, "token": oidc.options()})
        return Stage(
            make=lambda: QueuedPlatform(WesQueue(options, server.url, http, CLOCK, broker), calendar, "here", CLOCK),
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            failing=program("raise SystemExit(3)"),
            beyond={"executable": WARP},
            text=b"42",
            ran=lambda job: len(list(marks.glob(f"{job.session}.*"))),
            pass_time=some_time,
        )


class TestSapporoPlanner(PlannerContract):
    @pytest.fixture
    async def stand(self, server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, marks: Path) -> Stand:
        calendar, limits, broker = MemoryCalendar(), MemoryLimits(CLOCK), str(uuid4())

        def make() -> Planner:
            resources = Resources(
                registration=Registration(name="here", url=server.url),
                calendar=calendar,
                limits=limits,
                clock=CLOCK,
                http=http,
                credentials=None,
                name="here",
                broker_id=broker,
                currency="EUR",
                site_settings={"tariff": "free", "capacity": {"cores": 8, "memory": 32, "storage": 100}},
            )
            return plugin.make(plugin.options.model_validate({"program": {}, "token": oidc.options()}), resources)

        return Stand(
            make=make,
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            beyond={"executable": WARP},
            ran=lambda order: len(list(marks.glob(f"{order.session}.*"))),
            pass_time=some_time,
        )
