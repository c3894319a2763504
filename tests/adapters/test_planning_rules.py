"""Whatever the sequence of quotes, acceptances, releases, cancellations, expiries and restarts: never over the room,
never more than a share of it held open, never a run without an acceptance, never two."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapters.planning.planner import PlanningPlanner
from adapters.planning.settings import site_settings
from adapters.simulated.options import SimulatedOptions
from adapters.simulated.platform import SimulatedPlatform
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.quantities import format_instant
from broker.domain.session import ScheduledExecutionSession
from broker.errors import SiteRefused
from broker.ports import Booking, Order, Sighting
from broker.testing.asks import ask, order
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryCalendar, MemoryLimits

CORES, SHARE, HOUR = 8, 0.5, 3600.0
T = TypeVar("T")


def charged(bookings: list[Booking], at: float, *, held: bool) -> float:
    """The sum over sets of the most that one of the set takes at that instant; `held`: by open offers alone."""
    sums: dict[str, float] = {}
    for b in bookings:
        if b.start <= at < b.end and (b.until is not None or not held):
            sums[b.set] = max(sums.get(b.set, 0.0), b.amounts.get("cores", 0.0))
    return sum(sums.values())


def document(item: Order) -> ScheduledExecutionSession:
    return ScheduledExecutionSession.model_validate(msgspec.json.decode(item.offer))


class Rules(RuleBasedStateMachine):
    @initialize(runs=st.integers(1, 60))
    def build(self, runs: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock, self.calendar = FakeClock(), MemoryCalendar()
        self.limits = MemoryLimits(self.clock)
        self.platform = SimulatedPlatform(
            SimulatedOptions.model_validate({"run": f"PT{runs}M", "keep": "P90D"}), self.calendar, self.clock, "alba"
        )
        self.open: list[Order] = []
        self.taken: list[Order] = []
        self.restart()

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @property
    def deadline(self) -> Deadline:
        return Deadline.after(5, self.clock.monotonic())

    @rule()
    def restart(self) -> None:
        terms = site_settings(
            {"capacity": {"cores": CORES}, "offers": {"open_share": SHARE, "look_ahead": "PT6H"}}
            | {"policies": {"quotas": {"offers": 1000}}}
        )
        self.planner = PlanningPlanner(self.platform, self.calendar, self.limits, self.clock, terms, "alba", "EUR")

    @rule(low=st.integers(1, 8), more=st.integers(0, 4), minutes=st.integers(1, 120), opens=st.integers(0, 300))
    def quote(self, low: int, more: int, minutes: int, opens: int) -> None:
        start = f"{format_instant(self.clock.now() + opens * 60)}/PT1H"
        asked = ask(
            self.clock,
            compute={"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": low, "max": low + more}},
            schedule={"requested": {"duration": f"PT{minutes}M", "start": start}},
        )
        quotes = self.do(self.planner.quote(asked))
        assert quotes.quotes or quotes.reasons
        self.open += [order(quote, set=asked.set) for quote in quotes.quotes]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.open))
        self.open.remove(item)
        offer = document(item)
        expired = offer.expires and offer.expires.timestamp() <= self.clock.now()
        may_be_refused = not offer.reserved or expired or any(other.set == item.set for other in self.taken)
        try:
            seen = self.do(self.planner.accept(item, self.deadline))
        except SiteRefused:
            assert may_be_refused
            return
        assert seen.phase in ("WAITING", "RUNNING")
        self.taken.append(item)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.open))
        same = [other for other in self.open if other.set == item.set]
        self.do(self.planner.release(same, self.deadline))
        self.open = [other for other in self.open if other.set != item.set]

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.taken))
        assert self.do(self.planner.update(item, "CANCELLED", self.deadline)).phase in (
            "CANCELLED",
            "COMPLETED",
            "FAILED",
        )

    @rule()
    def look(self) -> None:
        """As the broker does: at everything accepted. Nothing accepted is ever lost."""
        found = self.do(self.planner.status(self.taken, self.deadline))
        for item in self.taken:
            seen = found[item.session]
            assert isinstance(seen, Sighting)
            assert seen.phase in ("WAITING", "RUNNING", "COMPLETED", "FAILED", "CANCELLED")

    @rule(minutes=st.integers(1, 90))
    def time_passes(self, minutes: int) -> None:
        """The broker looks at least each minute, so nothing starts later than its turnaround."""
        for _ in range(minutes):
            self.clock.advance(60)
            if self.taken:
                self.look()

    @rule(hours=st.integers(1, 12))
    def nobody_is_there(self, hours: int) -> None:
        self.clock.advance(hours * HOUR)
        self.restart()

    @invariant()
    def the_rules_hold(self) -> None:
        if not hasattr(self, "loop"):
            return
        now = self.clock.now()
        bookings = list(self.do(self.calendar.read("alba", now)).bookings)
        for at in {now, *(b.start for b in bookings)}:
            if at >= now:
                assert charged(bookings, at, held=False) <= CORES
                assert charged(bookings, at, held=True) <= SHARE * CORES

    @invariant()
    def only_what_was_accepted_runs(self) -> None:
        if not hasattr(self, "loop"):
            return
        running = 0.0
        for item in self.open:
            assert self.do(self.platform._runs.get(item.session)) is None
        for item in self.taken:
            run = self.do(self.platform._runs.get(item.session))
            if run is not None and run.sighting(self.clock.now()).phase == "RUNNING":
                running += document(item).compute.cores.min  # type: ignore[union-attr]
        assert running <= CORES


Rules.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestRules = Rules.TestCase
