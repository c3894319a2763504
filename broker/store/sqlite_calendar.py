"""The calendar of the sites that we plan for, in the store's SQLite file. Imports ports."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from broker.ports import Book, Booking, Clock
from broker.store.database import Database

KEPT = 86_400.0  # seconds a booking is kept after it charges nothing any more: readers may lag behind the clock

VERSION = "SELECT version FROM books WHERE site = ?"
BOOKINGS = """
    SELECT id, "set", start, "end", amounts, until FROM bookings
    WHERE site = :site AND "end" > :now AND (until IS NULL OR until > :now)
    ORDER BY start, id"""
CREATE = "INSERT INTO books VALUES (?, 1) ON CONFLICT DO NOTHING"
ADVANCE = "UPDATE books SET version = version + 1 WHERE site = ? AND version = ?"
PUT = """
    INSERT INTO bookings (site, id, "set", start, "end", amounts, until) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (site, id) DO UPDATE SET "set" = excluded."set", start = excluded.start, "end" = excluded."end",
        amounts = excluded.amounts, until = excluded.until"""
CUT = "DELETE FROM bookings WHERE site = ? AND id = ?"
FORGET = 'DELETE FROM bookings WHERE site = :site AND ("end" < :before OR until < :before)'

AMOUNTS = msgspec.json.Decoder(dict[str, float])


class SqliteCalendar:
    """The Calendar port. A site that was never written has version 0 and no bookings."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def read(self, site: str, now: float) -> Book:
        def work(sql: sqlite3.Connection) -> Book:
            version = sql.execute(VERSION, (site,)).fetchone()
            rows = sql.execute(BOOKINGS, {"site": site, "now": now}).fetchall()
            return Book(version[0] if version else 0, tuple(_booking(*row) for row in rows))

        return await self._database.read(work)

    async def write(self, site: str, version: int, put: Sequence[Booking], remove: Sequence[str] = ()) -> bool:
        cut = [(site, id) for id in remove]
        rows = [_row(site, booking) for booking in put]

        def work(sql: sqlite3.Connection) -> bool:
            changed = sql.execute(ADVANCE, (site, version)) if version else sql.execute(CREATE, (site,))
            if not changed.rowcount:
                return False
            sql.executemany(CUT, cut)
            sql.executemany(PUT, rows)
            sql.execute(FORGET, {"site": site, "before": self._clock.now() - KEPT})
            return True

        return await self._database.write(work)


def _booking(id: str, set: str, start: float, end: float, amounts: bytes, until: float | None) -> Booking:
    return Booking(id, set, start, end, AMOUNTS.decode(amounts), until)


def _row(site: str, booking: Booking) -> tuple[object, ...]:
    amounts = msgspec.json.encode(dict(booking.amounts))
    return site, booking.id, booking.set, booking.start, booking.end, amounts, booking.until
