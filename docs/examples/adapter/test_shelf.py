"""The example adapter, held to both contracts: as a platform, and as the planner that comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from shelf.adapter import ShelfOptions, plugin
from shelf.platform import KIND, ShelfPlatform
from shelf.runs import Run

from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.domain.request import ExecutionRequest
from broker.domain.site import Registration
from broker.plugins import Resources
from broker.ports import Order, Planner
from broker.services.clock import SystemClock
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.planner_contract import PlannerContract, Stand

CLOCK = SystemClock()
TOOLS = {"sh": ("/bin/sh", "-c")}


def tool(script: str, name: str = "sh") -> dict[str, Any]:
    return {
        "executable": {"kind": KIND, "tool": name, "arguments": [script]},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 1}},
    }


SHORT = tool("echo once >> ../ran; printf 42 > results/answer")
LONG = tool("sleep 300")


def ran(folder: Path, what: Job | Order) -> int:
    try:
        return len((folder / str(what.session) / "ran").read_text().splitlines())
    except FileNotFoundError:
        return 0


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """What a test leaves running is ended after it."""
    yield tmp_path / "shelf"
    for job in (tmp_path / "shelf").glob("*-*"):
        Run(job).end()


class TestPlatform(PlatformContract):
    @pytest.fixture
    async def stage(self, folder: Path) -> Stage:
        return Stage(
            make=lambda: ShelfPlatform(folder, TOOLS),
            clock=CLOCK,
            short=SHORT,
            long=LONG,
            failing=tool("exit 3"),
            beyond=tool("true", "no-such-tool"),
            text=b"42",
            ran=lambda job: ran(folder, job),
        )


class TestPlanner(PlannerContract):
    @pytest.fixture
    async def stand(self, folder: Path) -> Stand:
        calendar, limits = MemoryCalendar(), MemoryLimits(CLOCK)
        options = ShelfOptions(folder=folder, tools=TOOLS)

        def make() -> Planner:
            return plugin.make(
                options,
                Resources(
                    registration=Registration(name="here", kind="shelf"),
                    calendar=calendar,
                    limits=limits,
                    clock=CLOCK,
                    http=cast(aiohttp.ClientSession, None),
                    credentials=None,
                    name="here",
                    broker_id="us",
                    currency="EUR",
                    site_settings={"tariff": "free", "capacity": {"cores": 8, "memory": 8, "storage": 8}},
                ),
            )

        return Stand(
            make=make,
            clock=CLOCK,
            short=SHORT,
            long=LONG,
            beyond=tool("true", "no-such-tool"),
            ran=lambda order: ran(folder, order),
        )


@pytest.mark.parametrize(
    ("asked", "element"),
    [
        ({"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "1"}}, "executable.kind"),
        (tool("true", "rm"), "executable.tool"),
        ({"executable": {"kind": KIND, "tool": "sh", "arguments": "true"}}, "executable.arguments"),
    ],
)
async def test_a_no_names_the_element(folder: Path, asked: dict[str, Any], element: str) -> None:
    reasons = ShelfPlatform(folder, TOOLS).refuse(ExecutionRequest.model_validate(asked))
    assert [reason.element for reason in reasons] == [element]
