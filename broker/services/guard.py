"""Around every planner, third-party ones too: admission, rate, circuit breakers, deadlines. Imports ports and errors.

What a site does to one call must not reach the next one, nor another site's. Nothing here retries. Where several
replicas share a store, a site's rate and room hold for all of them together (`services/fleet.py`), and an open breaker
is open on all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar
from uuid import UUID

import structlog

from broker.domain.deadline import Deadline
from broker.domain.site import Profile, Registration
from broker.errors import NotAsked, SiteBusy, SiteError, SiteMisbehaved, SiteTimeout, SiteUnreachable, Unavailable
from broker.ports import Ask, Clock, Held, Logs, Order, Planner, Quotes, Result, Sighting
from broker.services.breaker import Breaker, BreakerSettings, BreakerState, Turn
from broker.services.fleet import Fleet, Pace, Seat
from broker.services.throttle import Throttle

T = TypeVar("T")

_log = structlog.get_logger(__name__)

OPERATIONS = ("offers", "accept", "release", "status", "other")
_MOST_WAITING = {"offers": 4}  # for a token; a fan-out would rather leave the site out than queue at it
_MOST_WAITING_ELSE = 16
_QUEUE = 0.25  # seconds: as many may wait as the site's rate serves in that time, be they more than those
_ROOM_AGAIN = 0.1  # seconds between two tries for a place that other replicas may have given back
_NET = 0.05  # seconds after the deadline: a planner's own error, which may prove that nothing was sent, comes first


class GuardedPlanner:
    """The Planner port around another one.

    Raises NotAsked (nothing was sent) when there is no room, no token in time, or the breaker of that operation is
    open. What a planner raises that is no SiteError becomes SiteMisbehaved: doubt, for the call may have been sent.
    A planner that overruns its deadline is cut off; but for offers, none is longer than the registration's `timeout`.
    `describe` passes any breaker: it is how recovery is seen.
    """

    def __init__(
        self,
        planner: Planner,
        site: Registration,
        clock: Clock,
        settings: BreakerSettings | None = None,
        *,
        fleet: Fleet | None = None,
    ) -> None:
        """`fleet`: the other replicas; None: there can be none, and nobody is asked about them."""
        self._planner, self._clock, self._fleet = planner, clock, fleet
        self._site, self._timeout = site.name, site.timeout
        self._settings = settings or BreakerSettings()
        self._breakers = {name: Breaker(name, clock, self._settings, partial(self._tell, name)) for name in OPERATIONS}
        self._throttle = Throttle(site.calls_per_minute)
        # Offers leave some of the room to the rest, so that a site slow to offer can still be told to accept.
        self._ceiling, self._ceiling_offers = site.concurrency, max(1, site.concurrency - max(1, site.concurrency // 4))
        self._room, self._offers = asyncio.Semaphore(self._ceiling), asyncio.Semaphore(self._ceiling_offers)
        self._pace = Pace(f"calls:{site.name}", self._throttle.rate, self._throttle.burst)
        self._waiting = 0  # for a token of the fleet's
        if fleet is not None:
            fleet.join(site.name, self)

    # ── for the status ───────────────────────────────────────────────────────────────────────────────────────

    def state(self) -> tuple[BreakerState, ...]:
        return tuple(breaker.state() for breaker in self._breakers.values())

    def breakers(self) -> Mapping[str, str]:
        """operation → closed, open or half-open"""
        return {state.operation: state.state for state in self.state()}

    # ── the port ─────────────────────────────────────────────────────────────────────────────────────────────

    async def describe(self, deadline: Deadline) -> Profile:
        return await self._call("describe", self._shorter(deadline), lambda at: self._planner.describe(at))

    async def quote(self, ask: Ask) -> Quotes:
        return await self._call("offers", ask.until, lambda _: self._planner.quote(ask), start_by=ask.deadline)

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        return await self._call("accept", self._shorter(deadline), lambda at: self._planner.accept(order, at))

    async def release(self, orders: Sequence[Order], deadline: Deadline) -> None:
        await self._call("release", self._shorter(deadline), lambda at: self._planner.release(orders, at))

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        return await self._call("status", self._shorter(deadline), lambda at: self._planner.status(orders, at))

    async def update(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        return await self._call("other", self._shorter(deadline), lambda at: self._planner.update(order, phase, at))

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        return await self._call("other", self._shorter(deadline), lambda at: self._planner.held(at))

    async def logs(self, order: Order, deadline: Deadline) -> Logs:
        return await self._call("other", self._shorter(deadline), lambda at: self._planner.logs(order, at))

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]:
        return await self._call("other", self._shorter(deadline), lambda at: self._planner.results(order, at))

    async def fetch(self, order: Order, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        """The deadline holds for the whole file. A download holds no room: its reader sets the pace."""
        await self._admit("fetch", deadline, deadline)
        pieces = self._planner.fetch(order, name, deadline)
        try:
            while (piece := await self._send("fetch", deadline, lambda _: anext(pieces, None))) is not None:
                yield piece
        finally:
            if isinstance(pieces, AsyncGenerator):
                await pieces.aclose()

    async def close(self) -> None:
        if self._fleet is not None:
            self._fleet.part(self._site, self)
        await self._planner.close()

    # ── what other replicas say of the site ──────────────────────────────────────────────────────────────────

    def told(self, operation: str, turn: Turn) -> None:
        """Its breaker has opened there. An operation that we do not know is a newer replica's."""
        if operation in self._breakers:
            self._breakers[operation].told(turn)

    def relieved(self, operation: str) -> None:
        """It answered there."""
        if operation in self._breakers:
            self._breakers[operation].relieved()

    def _tell(self, operation: str, turn: Turn | None) -> None:
        if self._fleet is not None:
            self._fleet.turned(self._site, operation, turn)

    # ── one call ─────────────────────────────────────────────────────────────────────────────────────────────

    def _shorter(self, deadline: Deadline) -> Deadline:
        return deadline.at_most(self._timeout, self._clock.monotonic())

    async def _call(
        self,
        operation: str,
        deadline: Deadline,
        send: Callable[[Deadline], Awaitable[T]],
        *,
        start_by: Deadline | None = None,
    ) -> T:
        breaker = self._breakers.get(operation)
        start_by = start_by or deadline
        self._pass(breaker)
        held: list[asyncio.Semaphore] = []
        seat: Seat | None = None
        try:
            for lane in (self._offers, self._room) if operation == "offers" else (self._room,):
                await self._enter(lane, start_by)
                held.append(lane)
            seat = await self._admit(operation, start_by, deadline)
            self._pass(breaker)  # it may have opened meanwhile
            if breaker is None:
                return await self._send(operation, deadline, send)
            return await self._judged(breaker, operation, deadline, send)
        finally:
            for lane in held:
                lane.release()
            self._leave(seat)

    def _pass(self, breaker: Breaker | None) -> None:
        """Raises NotAsked while the breaker is open."""
        wait = breaker.blocked() if breaker else None
        if breaker is not None and wait is not None:
            why = f"; the last: {breaker.reason}" if breaker.reason else ""
            failed = "it failed too often" if not breaker.closed else "it asked to wait"
            raise NotAsked(f"{self._site} is left alone for {wait:.1f} s more, since {failed}{why}", retry_after=wait)

    async def _judged(
        self, breaker: Breaker, operation: str, deadline: Deadline, send: Callable[[Deadline], Awaitable[T]]
    ) -> T:
        began = self._clock.monotonic()
        probe = breaker.enter()
        seat = await self._alone(self._fleet, breaker, operation, deadline) if probe and self._fleet else None
        try:
            answer = await self._send(operation, deadline, send)
        except (SiteUnreachable, SiteMisbehaved) as error:
            breaker.failed(probe, error.detail)
            raise
        except SiteTimeout as error:
            fair = self._clock.monotonic() - began >= self._settings.fair
            breaker.failed(probe, error.detail) if fair else breaker.abandoned(probe)
            raise
        except SiteBusy as error:
            breaker.paused(probe, error.retry_after, error.detail)
            raise
        except SiteError:  # it refused, forbade or forgot: an answer
            breaker.succeeded(probe)
            raise
        except BaseException:
            breaker.abandoned(probe)
            raise
        finally:
            self._leave(seat)
        breaker.succeeded(probe)
        return answer

    async def _alone(self, fleet: Fleet, breaker: Breaker, operation: str, deadline: Deadline) -> Seat:
        """The one probe of all replicas. Raises NotAsked where another is at it."""
        try:
            seat = await fleet.probe(self._site, operation, deadline.left(self._clock.monotonic()))
        except BaseException:
            breaker.abandoned(True)
            raise
        if seat is None:
            breaker.abandoned(True)
            wait = self._settings.backoff
            raise NotAsked(f"{self._site} failed too often, and is being tried at the moment.", retry_after=wait)
        return seat

    async def _send(self, operation: str, deadline: Deadline, send: Callable[[Deadline], Awaitable[T]]) -> T:
        """Raises nothing but SiteErrors, and the caller's cancellation."""
        try:
            async with asyncio.timeout_at(deadline.at + _NET):
                return await send(deadline)
        except SiteError:
            raise
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self._told(operation, error) from error  # not ours: a planner's bug
        except Exception as error:
            raise self._told(operation, error) from error

    def _told(self, operation: str, error: BaseException) -> SiteError:
        if isinstance(error, TimeoutError):
            return SiteTimeout(f"{self._site} did not answer in time.")
        _log.error("the planner failed", site=self._site, operation=operation, exc_info=error)
        return SiteMisbehaved(f"the adapter for {self._site} failed ({type(error).__name__}).")

    # ── room and rate ────────────────────────────────────────────────────────────────────────────────────────

    async def _enter(self, lane: asyncio.Semaphore, start_by: Deadline) -> None:
        if not lane.locked():
            await lane.acquire()  # at once
            return
        try:
            async with asyncio.timeout_at(start_by.at):
                await lane.acquire()
        except TimeoutError:
            raise NotAsked(f"{self._site} is busy with other calls of ours.", retry_after=1.0) from None

    async def _admit(self, operation: str, start_by: Deadline, deadline: Deadline) -> Seat | None:
        """Room and a token of the whole fleet, or of this process where there is no other or the fleet's limits
        cannot be asked. The seat, where there is one, is given back by `_leave`. Raises NotAsked."""
        if self._fleet is not None:
            try:
                return await self._admit_among_all(self._fleet, operation, start_by, deadline)
            except Unavailable:
                pass  # said by the fleet; a site's rate is not worth losing the call
        await self._token(operation, start_by)
        return None

    async def _admit_among_all(
        self, fleet: Fleet, operation: str, start_by: Deadline, deadline: Deadline
    ) -> Seat | None:
        """One round of questions in the ordinary case."""
        seat = None if operation == "fetch" else fleet.seat(self._site)
        ceiling = self._ceiling_offers if operation == "offers" else self._ceiling
        seated, wait = seat is None, -1.0
        try:
            while True:
                left = deadline.left(self._clock.monotonic())
                wanted = None if seated else seat
                seated, wait = await fleet.admit(self._pace, wanted, ceiling, left, tokened=wait == 0.0)
                if seated and wait == 0.0:
                    return seat
                await self._wait(operation, seated, wait, start_by)
        except BaseException:
            self._leave(seat)
            raise

    async def _wait(self, operation: str, seated: bool, wait: float, start_by: Deadline) -> None:
        """Until it is worth asking again. Raises NotAsked where that would be too late, or too many wait already."""
        left = start_by.left(self._clock.monotonic())
        if wait > 0.0:
            self._refuse_crowd(operation, wait, left)
        elif not seated and left <= _ROOM_AGAIN:
            raise NotAsked(f"{self._site} is busy with other calls of ours.", retry_after=1.0)
        self._waiting += wait > 0.0
        try:
            await self._clock.sleep(max(wait, 0.0 if seated else _ROOM_AGAIN))
        finally:
            self._waiting -= wait > 0.0

    def _refuse_crowd(self, operation: str, wait: float, left: float) -> None:
        if wait > left or self._crowded(operation, self._waiting):
            raise self._too_often(wait)

    def _crowded(self, operation: str, waiting: int) -> bool:
        return waiting >= max(_MOST_WAITING.get(operation, _MOST_WAITING_ELSE), self._throttle.rate * _QUEUE)

    def _too_often(self, wait: float) -> NotAsked:
        again = max(wait, 0.1)  # as it is shown
        return NotAsked(f"{self._site} may not be called more often; room again in {again:.1f} s.", retry_after=wait)

    def _leave(self, seat: Seat | None) -> None:
        if seat is not None and self._fleet is not None:
            self._fleet.leave(seat)

    async def _token(self, operation: str, start_by: Deadline) -> None:
        wait = self._throttle.wait()
        if not wait:
            await self._throttle.take()
            return
        if self._crowded(operation, self._throttle.waiting) or self._clock.monotonic() + wait > start_by.at:
            raise self._too_often(wait)
        try:
            async with asyncio.timeout_at(start_by.at):
                await self._throttle.take()
        except TimeoutError:
            raise NotAsked(f"{self._site} may not be called more often.", retry_after=wait) from None
