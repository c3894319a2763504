"""Asking many sites one question, side by side, under one deadline. Imports ports and the domain.

One task a site, whose body catches everything: a site's failure is an outcome, never an exception that could reach
its neighbours. The answer goes out at the deadline; what is late is drained after it and handed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from msgspec import Struct
from msgspec.structs import replace

from broker.domain.outcome import Declined, Failed, Offered, Outcome, Reason, Skipped, TimedOut
from broker.errors import NotAsked, SiteBusy, SiteError, SiteRefused, SiteTimeout
from broker.ports import Ask, Clock, Planner, Quotes

_log = structlog.get_logger(__name__)

OnLate = Callable[[str, Outcome], Awaitable[None]]
Enough = Callable[[Mapping[str, Outcome]], bool]

_MOST_REASONS = 20  # of one site; more explain nothing
_SILENT = Reason("no answer by the deadline")
_NOT_WAITED_FOR = Reason("not waited for: enough good offers were in")


class Target(Struct, frozen=True):
    name: str
    planner: Planner


@dataclass(eq=False)
class _Round:
    """One question. While it is `open`, outcomes are collected; later ones are handed to `on_late`."""

    ask: Ask
    began: float
    on_late: OnLate
    watched: bool  # wake at every outcome, not only at the last
    missing: int
    wake: asyncio.Future[None]
    open: bool = True
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def collect(self, name: str, outcome: Outcome) -> None:
        self.outcomes[name] = outcome
        self.missing -= 1
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
        self, targets: Sequence[Target], ask: Ask, *, on_late: OnLate, enough: Enough | None = None
    ) -> dict[str, Outcome]:
        """One outcome a target, in the targets' order, a little before `ask.deadline` at the latest. Returns when all
        are in, or `enough` says so of those that are. A site without an answer reads TimedOut; its real outcome,
        where it comes within the grace, goes to `on_late(name, outcome)`.

        Cancelled, or when `enough` raises: the questions that are out are drained all the same, and every outcome,
        those that were in included, goes to `on_late`, so that no offer is left unknown.
        """
        began = self._clock.monotonic()
        wake: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        question = replace(ask, drain=self._grace)
        round_ = _Round(question, began, on_late, enough is not None, len(targets), wake)
        for target in targets:
            self._start(self._one(round_, target), round_.tasks)
        try:
            await self._wait(round_, enough)
        except BaseException:
            self._leave(round_)
            for name, outcome in round_.outcomes.items():
                self._start(self._hand_on(round_, name, outcome))
            raise
        self._leave(round_)
        silent = TimedOut(_NOT_WAITED_FOR if self._early(round_) else _SILENT, self._clock.monotonic() - began)
        return {target.name: round_.outcomes.get(target.name, silent) for target in targets}

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
        at = round_.ask.deadline.at - _reserve(len(round_.tasks), round_.ask.deadline.left(round_.began))
        while round_.missing:
            await asyncio.wait([round_.wake], timeout=max(0.0, at - self._clock.monotonic()))
            if not round_.wake.done():
                return
            round_.wake = asyncio.get_running_loop().create_future()
            if enough is not None and round_.missing and enough(round_.outcomes):
                return

    def _early(self, round_: _Round) -> bool:
        return round_.watched and round_.ask.deadline.left(self._clock.monotonic()) > 0.5

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

    def _start(self, body: Coroutine[Any, Any, None], also: set[asyncio.Task[None]] | None = None) -> None:
        task = asyncio.create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if also is not None:
            also.add(task)

    async def _one(self, round_: _Round, target: Target) -> None:
        task = asyncio.current_task()
        try:
            outcome = await self._outcome(round_, target)
        finally:
            self._draining.pop(task, None)  # type: ignore[arg-type]
        if round_.open:
            round_.collect(target.name, outcome)
        else:
            await self._hand_on(round_, target.name, outcome)

    async def _outcome(self, round_: _Round, target: Target) -> Outcome:
        try:
            quotes = await target.planner.quote(round_.ask)
            return _answered(quotes, self._clock.monotonic() - round_.began)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise
            return _failed(target.name, error, self._clock.monotonic() - round_.began)

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
