"""A site with a memory, scripted to misbehave: for tests of whatever accepts, releases and follows. Imports the ports.

It keeps the phase of every offer, counts what it was made to run, and survives the crash of the broker before it, as
a site does. Beside it `FakePlanner` (broker.testing.planners) is for whoever only asks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec

from broker.domain import kinds, session
from broker.domain.deadline import Deadline
from broker.domain.outcome import Quote, Reason
from broker.domain.quantities import format_instant
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot
from broker.ports import Ask, Clock, Held, Logs, Order, Quotes, Result, Sighting


@dataclass(frozen=True)
class Step:
    """What becomes of one call: whether the site does what it is asked, and what the caller then hears. `error`:
    raised; `says`: the phase in the answer, true or not; neither: the truth."""

    acts: bool = True
    error: BaseException | None = None
    says: str | None = None


def fails(error: BaseException) -> Step:
    """The site never saw the call."""
    return Step(acts=False, error=error)


def lost(error: BaseException) -> Step:
    """The site did what it was asked; its answer did not come."""
    return Step(error=error)


def says(phase: str) -> Step:
    """The site did nothing, and answers with this phase."""
    return Step(acts=False, says=phase)


TRUTH = Step()


@dataclass
class ScriptedSite:
    """The Planner port. `steps` holds what the next calls of an operation do; without any, the truth.

    `runs` counts what was started, by handle: with `repeatable` one session uuid starts one run, without, every
    acceptance that arrives starts one more. `phases` is what the site knows, by handle; `told` every call that came:
    operation and handle. `prices`: one offer each.
    """

    name: str
    clock: Clock
    prices: Sequence[float | None] = (1.0,)
    lifetime: float | None = 300.0
    profile: Profile = field(default_factory=Profile)
    phases: dict[str, str] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)
    told: list[tuple[str, str]] = field(default_factory=list)
    steps: dict[str, list[Step]] = field(default_factory=lambda: defaultdict(list))
    messages: tuple[str, ...] = ()
    closed: bool = False

    def calls(self, operation: str) -> list[str]:
        """The handles that it was called with."""
        return [handle for told, handle in self.told if told == operation]

    def forget(self) -> None:
        """It restarts, and knows nothing any more."""
        self.phases.clear()

    def all_over(self, phase: str = "COMPLETED") -> None:
        """Whatever runs ends."""
        for handle, now in self.phases.items():
            if session.taken(now) and now not in session.TERMINAL:
                self.phases[handle] = phase

    # ── the port ─────────────────────────────────────────────────────────────────────────────────────────────

    async def describe(self, deadline: Deadline) -> Profile:
        self._step("describe", "")
        return self.profile

    async def quote(self, ask: Ask) -> Quotes:
        step = self._step("quote", "")
        if not step.acts or not self.prices:
            return Quotes(reasons=(Reason("nothing is free"),))
        stem = f"{self.name}-{ask.set.hex[:6]}-"
        first = sum(handle.startswith(stem) for handle in self.phases)  # asked anew, it makes others
        made = [self._offer(f"{stem}{n}", price) for n, price in enumerate(self.prices, first)]
        self.phases.update(dict.fromkeys((quote.handle for quote in made), "OFFERED"))
        self._raise(step)
        return Quotes(tuple(made))

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        step = self._step("accept", order.handle)
        if step.acts:
            self._accept(order.handle)
        return self._answer(step, order.handle)

    async def release(self, orders: Sequence[Order], deadline: Deadline) -> None:
        for order in orders:
            step = self._step("release", order.handle)
            if step.acts:
                self._end(order.handle, "OFFERED", "REJECTED")
            self._raise(step)

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        found: dict[UUID, Sighting | SiteError] = {}
        for order in orders:
            try:
                found[order.session] = self._answer(self._step("status", order.handle), order.handle)
            except SiteForgot as error:
                found[order.session] = error
        return found

    async def update(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        step = self._step("update", order.handle)
        if step.acts and phase == "REJECTED":
            self._end(order.handle, "OFFERED", phase)
        elif step.acts and session.taken(self.phases.get(order.handle, "")):
            self._end(order.handle, self.phases[order.handle], phase)
        return self._answer(step, order.handle)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        self._raise(self._step("held", ""))
        return tuple(Held(handle, phase) for handle, phase in self.phases.items() if phase not in session.TERMINAL)

    async def logs(self, order: Order, deadline: Deadline) -> Logs:
        self._raise(self._step("logs", order.handle))
        return Logs("out", "err")

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]:
        self._raise(self._step("results", order.handle))
        return (Result("a.txt", 2),)

    async def fetch(self, order: Order, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        self._raise(self._step("fetch", order.handle))
        if name != "a.txt":
            raise SiteForgot(f"no {name}")
        yield b"a"
        yield b"b"

    async def close(self) -> None:
        self.closed = True

    # ── what it does ─────────────────────────────────────────────────────────────────────────────────────────

    def _step(self, operation: str, handle: str) -> Step:
        self.told.append((operation, handle))
        script = self.steps[operation]
        step = script.pop(0) if script else TRUTH
        if step.error is not None and not step.acts:
            raise step.error
        return step

    def _accept(self, handle: str) -> None:
        phase = self.phases.get(handle)
        if phase == "OFFERED" or (session.taken(phase or "") and not self.profile.repeatable):
            self.runs[handle] += 1
        self._end(handle, "OFFERED", "ACCEPTED")

    def _end(self, handle: str, now: str, then: str) -> None:
        if self.phases.get(handle) == now and now not in session.TERMINAL:
            self.phases[handle] = then

    def _answer(self, step: Step, handle: str) -> Sighting:
        self._raise(step)
        if step.says is not None:
            return Sighting(step.says, messages=self.messages)
        if handle not in self.phases:
            raise SiteForgot(f"{self.name} knows no {handle}.")
        return Sighting(self.phases[handle], native=f"job-{handle}", messages=self.messages)

    def _raise(self, step: Step) -> None:
        if step.error is not None:
            raise step.error

    def _offer(self, handle: str, price: float | None) -> Quote:
        now = self.clock.now()
        cost = {"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "min": price, "max": price}
        body: dict[str, Any] = {
            "kind": kinds.SCHEDULED_SESSION,
            "phase": "OFFERED",
            "executable": {"kind": kinds.DOCKER_CONTAINER},
            "compute": {
                "kind": kinds.SIMPLE_COMPUTE,
                "cores": {"min": 64, "max": 64},
                "memory": {"min": 64, "max": 64},
                "schedule": {"available": {"start": f"{format_instant(now)}/PT0S", "duration": "PT24H"}},
            },
            "costs": [] if price is None else [cost],
        }
        if self.lifetime is not None:
            body["expires"] = format_instant(now + self.lifetime)
        return Quote(handle, msgspec.json.encode(body))
