"""The planners and platforms that we ship, held to the contracts of their ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import aiohttp
import msgspec
import pytest

from adapters.ivoa.adapter import plugin as ivoa
from adapters.local import layout
from adapters.local.adapter import plugin as local
from adapters.local.options import LocalOptions
from adapters.local.platform import LocalPlatform
from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.platform import Job
from adapters.simulated.adapter import plugin as simulated
from adapters.simulated.options import SimulatedOptions
from adapters.simulated.platform import SimulatedPlatform
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.site import Profile, Registration
from broker.errors import SiteError
from broker.plugins import Plugin, Resources
from broker.ports import Clock, Order, Planner, Result, Sighting
from broker.services.clock import SystemClock
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryCalendar, MemoryLimits
from broker.testing.planner_contract import PATIENCE, PlannerContract, Stand, real_time
from broker.testing.planners import FakePlanner
from broker.testing.resources import planner, shared_http
from broker.testing.site import FakeSite

CLOCK = SystemClock()
COURSE = ("ACCEPTED", "PREPARING", "AVAILABLE", "RUNNING", "COMPLETED")
HUGE = {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1_000_000}}
WARP = {"kind": "https://example.org/kinds/executable/warp-drive.yaml"}


def program(source: str) -> dict[str, Any]:
    return {
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": source},
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


def planned(plugin: Plugin, clock: Clock, **options: Any) -> Any:
    """How to make a planner of a bare platform, again and again on one calendar."""
    calendar, limits = MemoryCalendar(), MemoryLimits(clock)

    def make() -> Planner:
        resources = Resources(
            registration=Registration(name="here"),
            calendar=calendar,
            limits=limits,
            clock=clock,
            http=cast(aiohttp.ClientSession, None),
            credentials=None,
            name="here",
            broker_id="us",
            currency="EUR",
            site_settings={"tariff": "free", "capacity": {"cores": 8, "memory": 32, "storage": 100}},
        )
        return plugin.make(plugin.options.model_validate(options), resources)

    return make


# ── simulated ────────────────────────────────────────────────────────────────────────────────────────────────


def passing(clock: FakeClock) -> Any:
    async def pass_time() -> None:
        clock.advance(300.0)

    return pass_time


class TestSimulatedPlanner(PlannerContract):
    queue: str | None = None

    @pytest.fixture
    async def stand(self) -> Stand:
        clock = FakeClock()
        return Stand(
            planned(simulated, clock, run="PT30M", queue=self.queue), clock, {}, {}, {"compute": HUGE}, passing(clock)
        )


class TestSimulatedPlannerWithAQueue(TestSimulatedPlanner):
    queue: str | None = "PT10M"


class TestSimulatedPlatform(PlatformContract):
    queue: str | None = None

    @pytest.fixture
    async def stage(self) -> Stage:
        clock, calendar = FakeClock(), MemoryCalendar()
        options = SimulatedOptions.model_validate({"run": "PT30M", "queue": self.queue})
        request = program("")

        def make() -> SimulatedPlatform:
            return SimulatedPlatform(options, calendar, clock, "here")

        return Stage(make, clock, request, request, pass_time=passing(clock))


class TestSimulatedPlatformWithAQueue(TestSimulatedPlatform):
    queue: str | None = "PT10M"


# ── local ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def marks(tmp_path: Path) -> AsyncIterator[Path]:
    """Where runs leave their marks. Whatever still runs when the test is over ends then."""
    marks = tmp_path / "marks"
    marks.mkdir()
    yield marks
    (marks / "over").touch()
    async with asyncio.timeout(PATIENCE):
        while any(layout.holder(folder) for folder in (tmp_path / "jobs").glob("*-*")):
            await real_time()


def began(marks: Path, what: Job | Order) -> int:
    return len(list(marks.glob(f"{what.session}.*")))


class TestLocalPlanner(PlannerContract):
    @pytest.fixture
    async def stand(self, tmp_path: Path, marks: Path) -> Stand:
        return Stand(
            make=planned(local, CLOCK, folder=tmp_path / "jobs", isolation="none", grace=0.5, nice=0),
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            beyond={"executable": WARP},
            ran=lambda order: began(marks, order),
        )


class TestLocalPlatform(PlatformContract):
    @pytest.fixture
    async def stage(self, tmp_path: Path, marks: Path) -> Stage:
        options = LocalOptions(folder=tmp_path / "jobs", isolation="none", grace=0.5, nice=0)
        return Stage(
            make=lambda: LocalPlatform(options, CLOCK),
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            failing=program("raise SystemExit(3)"),
            beyond={"executable": WARP},
            text=b"42",
            ran=lambda job: began(marks, job),
        )


# ── ivoa ─────────────────────────────────────────────────────────────────────────────────────────────────────


class TestIvoaPlanner(PlannerContract):
    """A site of version 1.0 as found in the field."""

    broker_id: str | None = None

    @pytest.fixture
    async def site(self) -> AsyncIterator[FakeSite]:
        async with FakeSite("alba", offers=2, broker_id=self.broker_id, profile={"results": True}) as site:
            yield site

    @pytest.fixture
    async def stand(self, site: FakeSite) -> AsyncIterator[Stand]:
        async with shared_http() as http:
            yield Stand(
                make=lambda: planner(ivoa, site.url, http, CLOCK),
                clock=CLOCK,
                short={},
                long={"schedule": {"requested": {"duration": "PT2H"}}},
                beyond={"executable": WARP},
                pass_time=lambda: one_step(site),
                ran=lambda order: site.executions[order.handle],
            )


class TestBrokerOfOurs(TestIvoaPlanner):
    """Another broker of ours, which knows batches, logs and results. It declines when it is told to."""

    broker_id = "below"

    async def test_a_no_has_no_offers_and_reasons_have_words(self, stand: Stand, site: FakeSite) -> None:
        site.declines = "too large"
        await super().test_a_no_has_no_offers_and_reasons_have_words(stand)


async def one_step(site: FakeSite) -> None:
    """Every session that was taken goes one phase on."""
    for session in site.sessions.values():
        if session.phase in COURSE[:-1]:
            session.phase = COURSE[COURSE.index(session.phase) + 1]
            site.files[session.uuid] = {"answer": b"42"}


# ── the contracts can fail ───────────────────────────────────────────────────────────────────────────────────


class ForgetsTheFirst(SimulatedPlatform):
    """Its runs are those of one process, so that a restart runs them again."""

    def __init__(self, options: SimulatedOptions, clock: FakeClock) -> None:
        super().__init__(options, MemoryCalendar(), clock, "here")


class CancelsWhatIsOver(SimulatedPlatform):
    async def cancel(self, job: Job, deadline: Deadline) -> Sighting:
        await super().cancel(job, deadline)
        return Sighting("CANCELLED")


class InventsResults(SimulatedPlatform):
    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        return tuple(msgspec.structs.replace(item, bytes=7) for item in await super().results(job, deadline))


class HasATraceOfEverything(SimulatedPlatform):
    async def status(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        return {job.session: Sighting("RUNNING") for job in jobs}


@pytest.mark.parametrize(
    ("wrong", "promise"),
    [
        ("forgets", PlatformContract.test_a_job_is_started_once),
        ("forgets", PlatformContract.test_what_runs_goes_on_without_the_process_that_started_it),
        ("cancels", PlatformContract.test_what_is_over_stays_as_it_was),
        ("invents", PlatformContract.test_results_are_what_they_are_said_to_be),
        ("traces", PlatformContract.test_of_a_job_never_started_there_is_no_trace),
    ],
)
async def test_a_platform_that_breaks_a_promise_is_found(
    wrong: str, promise: Callable[[PlatformContract, Stage], Awaitable[None]]
) -> None:
    clock, calendar, options = FakeClock(), MemoryCalendar(), SimulatedOptions(run=timedelta(minutes=30))
    make: Callable[[], SimulatedPlatform] = {
        "forgets": lambda: ForgetsTheFirst(options, clock),
        "cancels": lambda: CancelsWhatIsOver(options, calendar, clock, "here"),
        "invents": lambda: InventsResults(options, calendar, clock, "here"),
        "traces": lambda: HasATraceOfEverything(options, calendar, clock, "here"),
    }[wrong]
    with pytest.raises(AssertionError):
        await promise(PlatformContract(), Stage(make, clock, program(""), program(""), pass_time=passing(clock)))


class TakesTwice(FakePlanner):
    """Takes whatever it is given, and never what it gave back."""

    async def describe(self, deadline: Deadline) -> Profile:
        return Profile(repeatable=True)


@pytest.mark.parametrize(
    "promise",
    [
        PlannerContract.test_an_offer_stays_open_and_nothing_runs,
        PlannerContract.test_what_was_given_back_cannot_be_taken,
        PlannerContract.test_the_trouble_of_one_is_its_own,
        PlannerContract.test_a_no_has_no_offers_and_reasons_have_words,
    ],
)
async def test_a_planner_that_breaks_a_promise_is_found(
    promise: Callable[[PlannerContract, Stand], Awaitable[None]],
) -> None:
    stand = Stand(make=TakesTwice, clock=FakeClock(), short={}, long={}, beyond={})
    with pytest.raises(AssertionError):
        await promise(PlannerContract(), stand)
