"""Clocks on the simulated loop: each replica and each site has its own. Imports the fake clock, which benches want."""

from __future__ import annotations

import asyncio

from broker.testing.clock import FakeClock
from broker.testing.simulation.loop import BEGIN, EPOCH


class LoopClock(FakeClock):
    """The Clock port. `ahead`: seconds that its wall clock is ahead of the world's; setting it is a jump."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ahead: float = 0.0) -> None:
        super().__init__(EPOCH + ahead, loop.time())
        self._loop, self.ahead = loop, ahead

    def now(self) -> float:
        return EPOCH + self._loop.time() - BEGIN + self.ahead

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
