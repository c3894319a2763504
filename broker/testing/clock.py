"""A clock that tests move by hand. Imports the standard library only."""

from __future__ import annotations

import asyncio
import time


class FakeClock:
    """The Clock port. Time stands still until a test calls `advance` or `jump`.

    The monotonic scale begins at the real one's present, so that a deadline made from it and given to
    `asyncio.timeout_at` lies in the real future: it is a safety net there, and never fires early.
    """

    def __init__(self, wall: float = 1_800_000_000.0, monotonic: float | None = None) -> None:
        self._wall = wall
        self._monotonic = time.monotonic() if monotonic is None else monotonic
        self._sleepers: dict[asyncio.Future[None], float] = {}  # → when it wakes, monotonic
        self._watchers: list[asyncio.Event] = []

    def now(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        """At least one turn of the event loop, as asyncio.sleep(0) is."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers[future] = self._monotonic + seconds
        for watcher in self._watchers:
            watcher.set()
        try:
            await future
        finally:
            self._sleepers.pop(future, None)

    def advance(self, seconds: float) -> None:
        """Both scales move on; whoever has slept long enough wakes in the event loop's next turn, the earliest
        first. Call it in the loop's thread."""
        self._wall += seconds
        self._monotonic += seconds
        due = [(at, future) for future, at in self._sleepers.items() if at <= self._monotonic and not future.done()]
        for _, future in sorted(due, key=lambda pair: pair[0]):
            future.set_result(None)

    def jump(self, seconds: float) -> None:
        """The wall clock alone is set forward, or back where `seconds` is negative; nobody wakes."""
        self._wall += seconds

    async def asleep(self, count: int = 1) -> None:
        """Returns when at least `count` sleep: a test that then advances wakes them for sure."""
        watcher = asyncio.Event()
        self._watchers.append(watcher)
        try:
            while sum(not future.done() for future in self._sleepers) < count:
                watcher.clear()
                await watcher.wait()
        finally:
            self._watchers.remove(watcher)

    def next_wake(self) -> float | None:
        """Seconds until the earliest sleeper wakes; None: nobody sleeps."""
        waiting = [at for future, at in self._sleepers.items() if not future.done()]
        return max(0.0, min(waiting) - self._monotonic) if waiting else None
