"""The rate at which one site is called, and how long the next call would wait. Imports asyncio-throttle.

asyncio-throttle looks every 10 ms whether there is room again, and serves its waiters in no order. So few may wait:
whoever can wait little asks `wait` first (engineering: a thousand waiters cost a quarter of a core).
"""

from __future__ import annotations

import time
from collections import deque

from asyncio_throttle.throttler import Throttler

_BURST = 10  # calls at once even where a minute allows few: a person's request is several calls


class Throttle:
    """At most `calls_per_minute`, in bursts of a second's share. For one event loop; measures real time."""

    def __init__(self, calls_per_minute: int) -> None:
        self._limit = max(min(calls_per_minute, _BURST), calls_per_minute // 60)
        self.rate = calls_per_minute / 60.0  # a second
        self._period = 60.0 * self._limit / calls_per_minute
        self._throttler = Throttler(self._limit, self._period)
        # The throttler does not tell when it has room again; these are the same moments as it keeps.
        self._taken: deque[float] = deque(maxlen=self._limit)
        self.waiting = 0

    @property
    def burst(self) -> int:
        return self._limit

    def wait(self) -> float:
        """Seconds until one more call would find a token, behind those that wait already; 0.0: at once."""
        now = time.monotonic()
        while self._taken and now - self._taken[0] > self._period:
            self._taken.popleft()
        behind = self.waiting - (self._limit - len(self._taken))
        if behind < 0:
            return 0.0
        rounds, place = divmod(behind, self._limit)
        freed = self._taken[place] if place < len(self._taken) else now
        return max(0.0, freed + (rounds + 1) * self._period - now)

    async def take(self) -> None:
        """A token; waits for it without end, so under the caller's deadline."""
        self.waiting += 1
        try:
            await self._throttler.acquire()  # type: ignore[no-untyped-call] # the library has no types
        finally:
            self.waiting -= 1
        self._taken.append(time.monotonic())
