"""The real clock, and one clock for all replicas on a store. Imports ports and errors.

A shared store judges leases and ages by its own clock. Replicas whose clocks are minutes apart would disagree with it,
and with each other, on what has expired and what is due; so on such a store all of them tell the store's time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import structlog

from broker.errors import BrokerError, Unavailable
from broker.ports import Clock

_log = structlog.get_logger(__name__)

MEASURE_EVERY = 10.0  # seconds: what the store's clock may be set by, before we see it
LONGEST_TRIP = 1.0  # seconds; an answer that took longer says too little of what the store's clock shows
TRIES = 3  # the quickest of so many answers counts
_SAID = 1.0  # seconds between this machine's clock and the store's that are worth a line in the log


class SystemClock:
    """The Clock port. `monotonic` is the running event loop's own time, so that `asyncio.timeout_at(deadline.at)`
    means what it says under any loop; it raises RuntimeError where no loop runs. `now` may be called anywhere."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class StoreClock:
    """The Clock port: `now` is the store's clock, as last measured, carried on by our monotonic scale; so it makes no
    difference to what this machine's clock is set. `monotonic` and `sleep` are those of `local`.

    `ask` is `Store.now`. Until `measure` has succeeded once, `now` is the local one. A store that does not answer
    changes nothing: the time goes on from the last measurement."""

    def __init__(self, local: Clock, ask: Callable[[], Awaitable[float]]) -> None:
        self._local, self._ask = local, ask
        self._ahead: float | None = None  # of the store's clock over our monotonic scale
        self._apart = 0.0  # of the store's clock over our wall clock

    def now(self) -> float:
        if self._ahead is None:
            return self._local.now()
        try:
            return self._local.monotonic() + self._ahead
        except RuntimeError:  # outside the event loop there is no such scale
            return self._local.now() + self._apart

    def monotonic(self) -> float:
        return self._local.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self._local.sleep(seconds)

    async def measure(self) -> None:
        """Ask the store for the time. Raises Unavailable when it does not say, and then nothing changed."""
        found = [await self._once() for _ in range(TRIES)]
        trip, ahead = min(found)
        if trip > LONGEST_TRIP and self._ahead is not None:
            raise Unavailable(f"the store took {trip:.1f} s to say the time.")
        self._ahead = ahead
        before, self._apart = self._apart, self._local.monotonic() + ahead - self._local.now()
        if abs(self._apart - before) > _SAID:
            _log.warning("this machine's clock is not the store's, which counts", seconds_behind=round(self._apart, 1))

    async def run(self) -> None:
        """Measure, over and over, until cancelled."""
        while True:
            await self._local.sleep(MEASURE_EVERY)
            try:
                await self.measure()
            except BrokerError as error:
                _log.info("the store's clock was not read", why=error.detail)

    async def _once(self) -> tuple[float, float]:
        """Seconds that the answer took; how far the store's clock was ahead of our scale half-way."""
        began = self._local.monotonic()
        told = await self._ask()
        ended = self._local.monotonic()
        return ended - began, told - (began + ended) / 2
