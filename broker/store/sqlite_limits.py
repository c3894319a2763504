"""Rates and caps in the store's SQLite file. Imports ports.

Both are judged by the store's wall clock, since they outlive the process. A clock that is set back cannot lock a
bucket for longer than it takes to fill.
"""

from __future__ import annotations

import sqlite3

from broker.ports import Clock
from broker.store.database import Database

SECOND = 1_000_000_000  # buckets count integer nanoseconds, so that rounding never adds up
SLACK = 1_000  # nanoseconds; a float of epoch seconds is exact to about 240

FULL_AT = 'SELECT "full" FROM buckets WHERE key = ?'
PUT_BUCKET = 'INSERT INTO buckets VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET "full" = excluded."full"'
CUT_FULL = 'DELETE FROM buckets WHERE "full" <= ?'

CUT_DEAD = "DELETE FROM members WHERE until <= ?"
IS_IN = "SELECT count(*) FROM members WHERE key = ? AND member = ?"
COUNT = "SELECT count(*) FROM members WHERE key = ?"
PUT_MEMBER = """
    INSERT INTO members VALUES (?, ?, ?)
    ON CONFLICT (key, member) DO UPDATE SET until = max(until, excluded.until)"""
CUT_MEMBER = "DELETE FROM members WHERE key = ? AND member = ?"
LIVE = "SELECT member FROM members WHERE key = ? AND until > ?"


class SqliteLimits:
    """The Limits port."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def take(self, key: str, rate: float, burst: int) -> float:
        """ValueError for a rate that is not above 0 or a burst below 1: such a bucket never holds a token."""
        if not rate > 0 or burst < 1:
            raise ValueError(f"no bucket refills {rate} a second up to {burst}")
        step = round(SECOND / rate)

        def work(sql: sqlite3.Connection) -> float:
            now = round(self._clock.now() * SECOND)
            empty = now + burst * step
            row = sql.execute(FULL_AT, (key,)).fetchone()
            full = max(row[0], now) if row else now
            if full > empty:  # the clock was set back, or the limit was changed: no emptier than empty
                full = empty
                sql.execute(PUT_BUCKET, (key, full))
            wait = full + step - empty
            if wait > SLACK:
                return wait / SECOND
            sql.execute(CUT_FULL, (now,))
            sql.execute(PUT_BUCKET, (key, full + step))
            return 0.0

        return await self._database.write(work)

    async def enter(self, key: str, member: str, ceiling: int, until: float) -> bool:
        def work(sql: sqlite3.Connection) -> bool:
            sql.execute(CUT_DEAD, (self._clock.now(),))
            (present,) = sql.execute(IS_IN, (key, member)).fetchone()
            (count,) = sql.execute(COUNT, (key,)).fetchone()
            if not present and count >= ceiling:
                return False
            sql.execute(PUT_MEMBER, (key, member, until))
            return True

        return await self._database.write(work)

    async def leave(self, key: str, member: str) -> None:
        await self._database.write(lambda sql: sql.execute(CUT_MEMBER, (key, member)).rowcount)

    async def members(self, key: str) -> frozenset[str]:
        now = self._clock.now()
        rows = await self._database.read(lambda sql: sql.execute(LIVE, (key, now)).fetchall())
        return frozenset(member for (member,) in rows)
