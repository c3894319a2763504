"""Asking many sites one question, side by side, under one deadline. Imports ports and the domain.

One task a site, whose body catches everything: a site's failure is an outcome, never an exception that could reach
its neighbours. The answer goes out at the deadline; what is late is drained after it and handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import structlog
from msgspec import Struct
from msgspec.structs import replace

from broker.domain.outcome import Declined, Failed, Offered, Outcome, Reason, Skipped, TimedOut
from broker.errors import NotAsked, SiteBusy, SiteError, SiteRefused, SiteTimeout
from broker.ports import Ask, Clock, Planner, Quotes

_log = structlog.get_logger(__name__)

OnLate = Callable[[str, Outcome], Awaitable[None]]
Enough = Callable[[Mapping[str, Outcome]], bool]

PATIENCE = 0.25  # of the time left: a site that says nothing for so long no longer keeps another from being asked
_MOST_REASONS = 20  # of one site; more explain nothing
_SILENT = Reason("no answer by the deadline")
_NOT_WAITED_FOR = Reason("not waited for: enough good offers were in")


class Target(Struct, frozen=True):
    name: str
    planner: Planner


class Course(Protocol):
    """Whom to ask one after the other, where there are too many to ask all at once."""

    @property
    def room(self) -> int:
        """How many may be out at a time."""

    def next(self, outcomes: Mapping[str, Outcome]) -> Target | None:
        """Who is asked next, given what is in; None: nobody. Nobody is named twice."""

    def left(self, *, early: bool) -> Mapping[str, Outcome]:
        """Who was not asked, and why. `early`: enough good offers were in before the time was over."""


@dataclass(eq=False)
class _Round:
    """One question. While it is `open`, outcomes are collected; later ones are handed to `on_late`. `names`: who was
    asked; `out`: of whom until when no other is asked in their stead, the soonest first (monotonic)."""

    ask: Ask
    began: float
    on_late: OnLate
    watched: bool  # wake at every outcome, not only at the last
    wake: asyncio.Future[None]
    course: Course | None = None
    missing: int = 0
    open: bool = True
    names: list[str] = field(default_factory=list)
    out: dict[str, float] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def collect(self, name: str, outcome: Outcome) -> None:
        self.outcomes[name] = outcome
        self.missing -= 1
        self.out.pop(name, None)
        if (self.watched or not self.missing) and not self.wake.done():
            self.wake.set_result(None)


class Fanout:
    """`grace`: seconds after an answer for which late ones are still taken; `settle`: seconds that handing one on may
    take; `most_draining`: late sites waited for at once, beyond it the oldest are given up."""

    def __init__(self, clock: Clock, *, grace: float = 10.0, settle: float = 30.0, most_draining: int = 5000) -> None:
        self._clock = clock
        self._grace, self._settle, self._most = grace, settle, most_draining
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining: dict[asyncio.Task[None], None] = {}  # still asking after their answer; oldest first

    @property
    def draining(self) -> int:
        return len(self._draining)

    async def ask(
        self,
        targets: Sequence[Target],
        ask: Ask,
        *,
        on_late: OnLate,
        enough: Enough | None = None,
        course: Course | None = None,
    ) -> dict[str, Outcome]:
        """One outcome a target, in the targets' order, a little before `ask.deadline` at the latest. Returns when all
        are in, or `enough` says so of those that are. A site without an answer reads TimedOut; its real outcome,
        where it comes within the grace, goes to `on_late(name, outcome)`. `course`: who is asked after the targets, as
        answers come in; whom it leaves out has the outcome that it says.

        Cancelled, or when `enough` raises: the questions that are out are drained all the same, and every outcome,
        those that were in included, goes to `on_late`, so that no offer is left unknown.
        """
        began = self._clock.monotonic()
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        question = replace(ask, drain=self._grace)
        watched = enough is not None or course is not None
        round_ = _Round(question, began, on_late, watched, wake, course)
        for target in targets:
            self._begin(round_, target, began)
        try:
            await self._wait(round_, enough)
        except BaseException:
            self._leave(round_)
            for name, outcome in round_.outcomes.items():
                self._start(self._hand_on(round_, name, outcome))
            raise
        self._leave(round_)
        now = self._clock.monotonic()
        early = enough is not None and self._early(round_, now)
        silent = TimedOut(_NOT_WAITED_FOR if early else _SILENT, now - began)
        left = course.left(early=early) if course is not None else {}
        return {**{name: round_.outcomes.get(name, silent) for name in round_.names}, **left}

    async def close(self, patience: float = 0.0) -> None:
        """Wait `patience` seconds for what is late, then give it up. Nothing runs afterwards."""
        if self._tasks and patience > 0:
            await asyncio.wait(self._tasks, timeout=patience)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5.0)

    # ── the answer ───────────────────────────────────────────────────────────────────────────────────────────

    async def _wait(self, round_: _Round, enough: Enough | None) -> None:
        self._go_on(round_, round_.began)
        while round_.missing:
            last = round_.ask.deadline.at - _reserve(len(round_.names), round_.ask.deadline.left(round_.began))
            until = min(last, self._next_place(round_))
            await asyncio.wait([round_.wake], timeout=max(0.0, until - self._clock.monotonic()))
            if round_.wake.done():
                round_.wake = asyncio.get_running_loop().create_future()
                if enough is not None and (round_.missing or round_.course) and enough(round_.outcomes):
                    return
                self._go_on(round_, self._clock.monotonic())
            elif until >= last:
                return
            else:
                self._go_on(round_, until)

    def _go_on(self, round_: _Round, now: float) -> None:
        """Ask whoever is next on the course, as long as there is room."""
        course = round_.course
        if course is None:
            return
        for name in [name for name, until in round_.out.items() if until <= now]:
            del round_.out[name]
        while len(round_.out) < course.room and (target := course.next(round_.outcomes)) is not None:
            round_.out[target.name] = now + PATIENCE * max(0.0, round_.ask.deadline.left(now))
            self._begin(round_, target, now)

    def _next_place(self, round_: _Round) -> float:
        """When the first of those who are out has kept its place long enough (monotonic)."""
        return next(iter(round_.out.values()), inf) if round_.course is not None else inf

    def _early(self, round_: _Round, now: float) -> bool:
        return round_.ask.deadline.left(now) > 0.5

    def _leave(self, round_: _Round) -> None:
        """From here on what comes is late. One timer ends the round's drain, whatever its planners do."""
        round_.open = False
        late = [task for task in round_.tasks if not task.done()]
        if not late:
            return
        self._draining.update(dict.fromkeys(late))
        for task in list(self._draining)[: max(0, len(self._draining) - self._most)]:
            del self._draining[task]
            task.cancel()
        left = round_.ask.until.left(self._clock.monotonic())
        asyncio.get_running_loop().call_later(left, self._give_up, late)

    def _give_up(self, late: Sequence[asyncio.Task[None]]) -> None:
        for task in late:
            if task in self._draining:
                task.cancel()

    # ── one site ─────────────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, round_: _Round, target: Target, now: float) -> None:
        round_.names.append(target.name)
        round_.missing += 1
        self._start(self._one(round_, target, now), round_.tasks)

    def _start(self, body: Coroutine[Any, Any, None], also: set[asyncio.Task[None]] | None = None) -> None:
        task = asyncio.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if also is not None:
            also.add(task)

    async def _one(self, round_: _Round, target: Target, began: float) -> None:
        task = asyncio.current_task()
        try:
            outcome = await self._outcome(round_.ask, target, began)
        finally:
            self._draining.pop(task, None)  # type: ignore[arg-type]
        if round_.open:
            round_.collect(target.name, outcome)
        else:
            await self._hand_on(round_, target.name, outcome)

    async def _outcome(self, ask: Ask, target: Target, began: float) -> Outcome:
        try:
            quotes = await target.planner.quote(ask)
            return _answered(quotes, self._clock.monotonic() - began)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            return _failed(target.name, error, self._clock.monotonic() - began)

    async def _hand_on(self, round_: _Round, name: str, outcome: Outcome) -> None:
        try:
            async with asyncio.timeout(self._settle):
                await round_.on_late(name, outcome)
        except Exception as error:
            _log.error("a late answer was lost", site=name, outcome=type(outcome).__name__, exc_info=error)


def _cancelled() -> bool:
    """Whether this very task was; a CancelledError that comes up otherwise is a planner's bug."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _reserve(sites: int, left: float) -> float:
    """Seconds kept for reading, ranking, storing and answering; a tenth of the time at most."""
    return min(0.1 * left, 0.01 + 60e-6 * sites)


def _answered(quotes: Quotes, latency: float) -> Outcome:
    if quotes.quotes:
        return Offered(quotes.quotes, latency)
    reasons = quotes.reasons[:_MOST_REASONS] or (Reason("it gave no reason"),)
    return Declined(reasons, latency, quotes.retry_after)


def _failed(site: str, error: BaseException, latency: float) -> Outcome:
    if not isinstance(error, SiteError):
        _log.error("a planner failed", site=site, exc_info=error)
        return Failed(Reason(f"the adapter for {site} failed ({type(error).__name__})"), latency, "operator")
    reason = Reason(str(error))
    match error:
        case NotAsked():
            return Skipped(reason, latency, error.retry_after)
        case SiteBusy():
            return Declined((reason,), latency, error.retry_after)
        case SiteRefused():
            return Declined((reason,), latency)
        case SiteTimeout():
            return TimedOut(reason, latency)
        case _:
            return Failed(reason, latency, error.acts)
