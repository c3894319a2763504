"""The real clock. Imports the standard library only."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The Clock port. `monotonic` is the running event loop's own time, so that `asyncio.timeout_at(deadline.at)`
    means what it says under any loop; it raises RuntimeError where no loop runs. `now` may be called anywhere."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
