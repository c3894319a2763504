"""All deferred work: durable timers, claimed with a lease, handled idempotently. Imports ports.

The loop only schedules; the services do the work. A handler gets the aggregate's key, and returns when the timer is
to come again (epoch seconds) or None when its work is done.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping

import structlog

from broker.errors import BrokerError
from broker.ports import Clock, Lease, Store

_log = structlog.get_logger(__name__)

Handler = Callable[[str], Awaitable[float | None]]

LEASE = 10.0  # seconds, renewed while the handler works: what a crash may cost before another takes over
RENEW_EVERY = 3.0  # seconds
AT_ONCE = 256  # timers handled side by side: many, for each waits on a site, and a hung one must not hold up the others
IDLE = 5.0  # seconds between looks at the store when nothing is known to be due: another replica may have set a timer
REFUSED = 1.0  # seconds between two looks while the store gives no timers, and two tries to settle one
TROUBLE = 5.0  # seconds until a timer whose handler failed comes again
FINISH = 5.0  # seconds that work under way gets when the process is to stop
_GIVE_BACK = 2.0  # seconds for giving back what was broken off; else its lease ends by itself


class Upkeep:
    """`handlers`: timer key → handler. A timer of an unknown key is left alone for a minute (a newer replica's)."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._wake = asyncio.Event()
        self._resting_until = math.inf  # epoch seconds; while not resting, every nudge counts
        self._running: set[asyncio.Task[None]] = set()
        self._handlers: Mapping[str, Handler] = {}
        self._refused = False  # the store gave no timers when it was last asked
        self._stopped = False
        self._over: asyncio.Event | None = None  # `run` has ended; None: it has not begun

    def nudge(self, due: float = 0.0) -> None:
        """A timer was set, due at that instant (epoch seconds): look now, unless the next look comes soon enough."""
        if due < self._resting_until:
            self._wake.set()

    def handle(self, handlers: Mapping[str, Handler]) -> None:
        """Called once, before `run`."""
        self._handlers = handlers

    async def run(self) -> None:
        """Until cancelled or stopped. Cancelled, it breaks off the work under way, which comes back when its leases
        end; `close` is for whoever has the time to stop in order."""
        self._over = asyncio.Event()
        try:
            while not self._stopped:
                self._wake.clear()
                claimed = await self._claim()
                if not claimed and not self._stopped:
                    await self._rest()
        finally:
            self._over.set()
            if not self._stopped:
                await self._break_off()

    def stop(self) -> None:
        """Claim nothing more; what is in hand goes on. What is due from now on is another replica's."""
        self._stopped = True
        self._wake.set()

    async def close(self, patience: float = FINISH) -> None:
        """Stop, let the work under way end within `patience` seconds, and break off what does not: its timers are
        given back, so that another replica need not wait for the ends of their leases."""
        self.stop()
        try:
            async with asyncio.timeout(patience):
                if self._over is not None:
                    await self._over.wait()
                while self._running:
                    await asyncio.wait(self._running)
        except TimeoutError:
            _log.info("work broken off", timers=len(self._running))
        await self._break_off()

    async def _break_off(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _claim(self) -> bool:
        room = AT_ONCE - len(self._running)
        if room <= 0:
            await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
            return True
        try:
            leases = await self._store.claim(room, LEASE)
        except BrokerError as error:
            _log.warning("timers unreadable", why=error.detail)
            self._refused = True
            return False
        self._refused = False
        if self._stopped:
            await asyncio.gather(*(self._give_back(lease) for lease in leases))
            return False
        for lease in leases:
            task = asyncio.create_task(self._handle(lease))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return bool(leases)

    async def _rest(self) -> None:
        """Until the next timer is due, or somebody nudges."""
        try:
            due = await self._store.next_due()
        except BrokerError:
            due = None
        # A store that can be read and not written shows what is due, and gives none of it: no hurry then.
        least = REFUSED if self._refused else 0.02
        seconds = IDLE if due is None else max(least, min(IDLE, due - self._clock.now()))
        self._resting_until = self._clock.now() + seconds
        nap = asyncio.create_task(self._clock.sleep(seconds))
        wake = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait((nap, wake), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._resting_until = math.inf
            nap.cancel()
            wake.cancel()

    async def _handle(self, lease: Lease) -> None:
        handler = self._handlers.get(lease.key)
        renewing = asyncio.create_task(self._renew(lease))
        try:
            again = await handler(lease.aggregate) if handler else self._clock.now() + 60
        except BrokerError as error:
            _log.warning("timer failed", timer=lease.key, aggregate=lease.aggregate, why=str(error))
            again = self._clock.now() + TROUBLE
        except asyncio.CancelledError:
            renewing.cancel()
            if self._stopped:
                await self._give_back(lease)
            raise
        except Exception:
            _log.exception("timer failed", timer=lease.key, aggregate=lease.aggregate)
            again = self._clock.now() + TROUBLE * 6
        finally:
            renewing.cancel()
        await self._settle(lease, again)
        self.nudge()

    async def _settle(self, lease: Lease, again: float | None) -> None:
        """Over and over while the lease may last: a store that comes back goes on with what was in hand at once."""
        until = self._clock.monotonic() + LEASE
        while True:
            try:
                await (self._store.done(lease) if again is None else self._store.postpone(lease, again))
                return
            except BrokerError as error:
                if self._clock.monotonic() + REFUSED >= until:
                    _log.warning("timer not settled; it comes again", timer=lease.key, why=error.detail)
                    return
            await self._clock.sleep(REFUSED)

    async def _give_back(self, lease: Lease) -> None:
        try:
            async with asyncio.timeout(_GIVE_BACK):
                await self._store.postpone(lease, self._clock.now())
        except (BrokerError, TimeoutError) as error:
            _log.info("timer not given back; it comes again when its lease ends", timer=lease.key, why=str(error))

    async def _renew(self, lease: Lease) -> None:
        """Until cancelled, or the lease is lost: then another worker has the timer, and both are idempotent."""
        while True:
            await self._clock.sleep(RENEW_EVERY)
            try:
                if not await self._store.renew(lease, LEASE):
                    return
            except BrokerError as error:
                _log.warning("lease not renewed", timer=lease.key, why=error.detail)
