"""The calendar and the limits in SQLite hold their contracts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.ports import Calendar, Limits
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.calendars import HOUR, CalendarContract, booking
from broker.testing.clock import FakeClock
from broker.testing.limits import LimitsContract


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    store = await open_sqlite(tmp_path / "store.db", clock)
    yield store
    await store.close()


class TestSqliteCalendar(CalendarContract):
    @pytest.fixture
    def calendar(self, store: SqliteStore) -> Calendar:
        return store.calendar

    async def test_what_ended_or_lapsed_long_ago_is_dropped(self, store: SqliteStore, clock: FakeClock) -> None:
        now = clock.now()
        put = [booking("ended", now, now + HOUR), booking("lapsed", now, now + 9e9, until=now + HOUR)]
        await store.calendar.write("s", 0, put)
        clock.advance(26 * HOUR)
        await store.calendar.write("s", 1, [])
        rows = await store.database.read(lambda sql: sql.execute("SELECT count(*) FROM bookings").fetchall())
        assert rows == [(0,)]


class TestSqliteLimits(LimitsContract):
    @pytest.fixture
    def limits(self, store: SqliteStore) -> Limits:
        return store.limits

    async def test_what_says_nothing_is_dropped(self, store: SqliteStore, clock: FakeClock) -> None:
        for n in range(20):
            await store.limits.take(f"k{n}", 1.0, 2)
            await store.limits.enter(f"k{n}", "m", 1, clock.now() + 10)
        clock.advance(60)
        await store.limits.take("k", 1.0, 2)
        await store.limits.enter("k", "m", 1, clock.now() + 10)
        both = "SELECT (SELECT count(*) FROM buckets), (SELECT count(*) FROM members)"
        assert await store.database.read(lambda sql: sql.execute(both).fetchone()) == (1, 1)

    @pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, 0)])
    async def test_a_bucket_that_never_holds_a_token_is_a_mistake(
        self, store: SqliteStore, rate: float, burst: int
    ) -> None:
        with pytest.raises(ValueError, match="no bucket"):
            await store.limits.take("k", rate, burst)
