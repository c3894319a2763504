"""A Calendar and Limits in memory, for tests of planners: gone when the process ends. Imports ports alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

from broker.errors import Unavailable
from broker.ports import Book, Booking, Clock


class MemoryCalendar:
    """The Calendar port. `broken`: every call raises Unavailable. `losing`: so many writes to come find that another
    was faster."""

    def __init__(self) -> None:
        self._books: dict[str, tuple[int, dict[str, Booking]]] = {}
        self.broken = False
        self.losing = 0

    async def read(self, site: str, now: float) -> Book:
        version, bookings = self._book(site)
        live = [b for b in bookings.values() if b.end > now and (b.until is None or b.until > now)]
        return Book(version, tuple(live))

    async def write(self, site: str, version: int, put: Sequence[Booking], remove: Sequence[str] = ()) -> bool:
        present, bookings = self._book(site)
        if self.losing > 0:
            self.losing -= 1
            present += 1
            self._books[site] = (present, bookings)
        if present != version:
            return False
        kept = {id_: booking for id_, booking in bookings.items() if id_ not in set(remove)}
        kept.update({booking.id: booking for booking in put})
        self._books[site] = (version + 1, kept)
        return True

    def all(self, site: str) -> tuple[Booking, ...]:
        """Everything ever put and not removed, also what has ended."""
        return tuple(self._book(site)[1].values())

    def _book(self, site: str) -> tuple[int, dict[str, Booking]]:
        if self.broken:
            raise Unavailable("the calendar is out of order.")
        return self._books.get(site, (0, {}))


class MemoryLimits:
    """The Limits port, by `clock`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._full_at: dict[str, float] = {}  # when each bucket would be full again
        self._members: dict[str, dict[str, float]] = {}

    async def take(self, key: str, rate: float, burst: int) -> float:
        now = self._clock.now()
        empty = now + burst / rate
        # An empty bucket is full again after burst / rate; more than that only a clock set back can make of it.
        self._full_at[key] = full_at = min(max(now, self._full_at.get(key, now)), empty)
        wait = full_at + 1.0 / rate - empty
        if wait > 1e-6:
            return wait
        self._full_at[key] = full_at + 1.0 / rate
        return 0.0

    async def enter(self, key: str, member: str, ceiling: int, until: float) -> bool:
        live = self._live(key)
        if member not in live and len(live) >= ceiling:
            return False
        live[member] = max(until, live.get(member, -math.inf))
        return True

    async def leave(self, key: str, member: str) -> None:
        self._members.get(key, {}).pop(member, None)

    async def members(self, key: str) -> frozenset[str]:
        return frozenset(self._live(key))

    def _live(self, key: str) -> dict[str, float]:
        now = self._clock.now()
        self._members[key] = {member: until for member, until in self._members.get(key, {}).items() if until > now}
        return self._members[key]
