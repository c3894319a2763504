"""What every Calendar must hold, as a class of tests to inherit. Imports pytest, ports, testing's clock."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from broker.ports import Booking, Calendar
from broker.testing.clock import FakeClock

HOUR = 3600.0


def booking(id: str, start: float, end: float, **changes: object) -> Booking:
    plain = Booking(id, set="set", start=start, end=end, amounts={"cores": 2.0})
    return msgspec.structs.replace(plain, **changes)


class CalendarContract:
    """Override `calendar`, which must judge "long ended" by `clock`."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def calendar(self, clock: FakeClock) -> Calendar:
        raise NotImplementedError("return an empty calendar")

    async def ids(self, calendar: Calendar, now: float, site: str = "s") -> list[str]:
        return sorted(booking.id for booking in (await calendar.read(site, now)).bookings)

    async def test_a_site_never_written_has_an_empty_book(self, calendar: Calendar, clock: FakeClock) -> None:
        book = await calendar.read("s", clock.now())
        assert (book.version, book.bookings) == (0, ())

    async def test_a_booking_comes_back_as_it_was(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        amounts = {"cores": 4.0, "memory": 0.1, "größe/GPU": 1e12, "nothing": 0.0}
        put = [
            Booking("a/ö", "set 1", now + 0.25, now + HOUR, amounts, until=now + 60.5),
            Booking("b", "", now + 1, now + 2, {}),
        ]
        assert await calendar.write("s", 0, put)
        assert sorted((await calendar.read("s", now)).bookings, key=lambda at: at.id) == put

    async def test_every_write_is_the_next_version(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        for version in range(3):
            assert (await calendar.read("s", now)).version == version
            assert await calendar.write("s", version, [])

    @pytest.mark.parametrize("wrong", [0, 1, 3])
    async def test_a_write_against_another_version_changes_nothing(
        self, calendar: Calendar, clock: FakeClock, wrong: int
    ) -> None:
        now = clock.now()
        await calendar.write("s", 0, [booking("a", now, now + HOUR)])
        await calendar.write("s", 1, [])
        before = await calendar.read("s", now)
        put = [booking("a", now, now + 9), booking("b", now, now + 9)]
        assert not await calendar.write("s", wrong, put)
        assert not await calendar.write("s", wrong, [], ["a"])
        assert await calendar.read("s", now) == before

    async def test_a_write_to_an_empty_book_wants_version_0(self, calendar: Calendar, clock: FakeClock) -> None:
        assert not await calendar.write("s", 1, [booking("a", clock.now(), clock.now() + HOUR)])
        assert await calendar.read("s", clock.now()) == await calendar.read("never", clock.now())

    async def test_put_replaces_and_remove_ignores_the_unknown(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        await calendar.write("s", 0, [booking(id, now, now + HOUR) for id in "abc"])
        new = booking("a", now + 5, now + 6, set="other", amounts={"memory": 1.5}, until=now + 7)
        assert await calendar.write("s", 1, [new], ["b", "never"])
        book = await calendar.read("s", now)
        assert sorted(at.id for at in book.bookings) == ["a", "c"]
        assert new in book.bookings

    async def test_sites_are_apart(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        await calendar.write("s", 0, [booking("a", now, now + HOUR)])
        await calendar.write("t", 0, [booking("a", now, now + 9)])
        assert await calendar.write("s", 1, [], ["a"])
        assert await self.ids(calendar, now) == []
        assert (await calendar.read("t", now)).bookings == (booking("a", now, now + 9),)
        assert (await calendar.read("t", now)).version == 1

    async def test_an_accepted_booking_counts_until_it_ends(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        await calendar.write(
            "s", 0, [booking("past", now - 9, now + 10), booking("future", now + HOUR, now + 2 * HOUR)]
        )
        assert await self.ids(calendar, now + 9.5) == ["future", "past"]
        assert await self.ids(calendar, now + 10) == ["future"]
        assert await self.ids(calendar, now + 2 * HOUR) == []

    async def test_a_hold_counts_until_it_lapses(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        await calendar.write("s", 0, [booking("a", now, now + HOUR, until=now + 10)])
        assert await self.ids(calendar, now + 9.5) == ["a"]
        assert await self.ids(calendar, now + 10) == []

    async def test_an_accepted_hold_stays_to_its_end(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        await calendar.write("s", 0, [booking("a", now, now + HOUR, until=now + 10)])
        await calendar.write("s", 1, [booking("a", now, now + HOUR)])
        assert await self.ids(calendar, now + 60) == ["a"]

    async def test_what_still_counts_is_never_dropped(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        year = 365 * 24 * HOUR
        bookings = [
            booking("long", now, now + year),
            booking("far", now + year, now + 2 * year, until=now + year),
            booking("short", now, now + HOUR),
        ]
        await calendar.write("s", 0, bookings)
        clock.advance(year / 2)
        await calendar.write("s", 1, [])
        assert await self.ids(calendar, clock.now()) == ["far", "long"]

    async def test_of_many_writers_one_wins(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        tries = [calendar.write("s", 0, [booking(f"b{n}", now, now + HOUR)]) for n in range(30)]
        won = [n for n, result in enumerate(await asyncio.gather(*tries)) if result]
        assert len(won) == 1
        book = await calendar.read("s", now)
        assert (book.version, [at.id for at in book.bookings]) == (1, [f"b{won[0]}"])
