"""Whatever two replicas do to a calendar, in whatever order, it holds what a dictionary in memory holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from broker.ports import Booking, Calendar
from broker.store.redis_calendar import RedisCalendar
from broker.store.redis_nodes import Nodes
from broker.store.sqlite import SqliteStore
from broker.testing.machines import Machine, RedisClients, SqliteClients, drive
from broker.testing.memory import MemoryCalendar

SITES = ("s", "ö/2")
SITE = st.sampled_from(("s", "s", "s", "ö/2"))
IDS = ("a", "b", "c", "ö")
ID, CLIENT = st.sampled_from(IDS), st.sampled_from((0, 1))
# In seconds from now: some are over before they begin to count, none so long that a day's grace matters.
BOOKING = st.tuples(ID, st.integers(-20, 20), st.integers(-10, 60), st.none() | st.integers(-10, 60), st.integers(0, 3))


class CalendarMachine(Machine):
    """Override `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.books: dict[str, dict[str, Booking]] = {site: {} for site in SITES}
        self.versions = dict.fromkeys(SITES, 0)
        self.clients = [self.run(self.open(client)) for client in (0, 1)]

    async def open(self, client: int) -> Calendar:
        raise NotImplementedError("open a calendar of that client, closing the one that it had")

    def booking(self, id: str, start: int, end: int, until: int | None, cores: int) -> Booking:
        now = self.clock.now()
        held = None if until is None else now + until
        return Booking(id, "set", now + start, now + end, {"cores": cores / 2, "memory": 0.1} if cores else {}, held)

    @rule(
        who=CLIENT, site=SITE, off=st.sampled_from((0, 0, 0, 1, -1)), put=st.lists(BOOKING, max_size=3), cut=st.sets(ID)
    )
    def write(self, who: int, site: str, off: int, put: list[Any], cut: set[str]) -> None:
        bookings = {given[0]: self.booking(*given) for given in put}
        removed = sorted(cut - bookings.keys())
        version = self.versions[site] + off
        done = self.run(self.clients[who].write(site, version, list(bookings.values()), removed))
        assert done == (off == 0)
        if done:
            self.note(site, bookings, removed)

    @rule(site=SITE, ids=st.lists(ID, min_size=2, max_size=5))
    def many_write_at_once(self, site: str, ids: list[str]) -> None:
        version = self.versions[site]
        tries = [{id: self.booking(id, 0, 30, None, n)} for n, id in enumerate(ids)]
        done = self.together(
            *(self.clients[n % 2].write(site, version, list(one.values())) for n, one in enumerate(tries))
        )
        assert done.count(True) == 1
        self.note(site, tries[done.index(True)], [])

    def note(self, site: str, put: dict[str, Booking], cut: list[str]) -> None:
        self.versions[site] += 1
        self.books[site] = {id: at for id, at in self.books[site].items() if id not in cut} | put

    @rule(seconds=st.integers(0, 40))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(who=CLIENT)
    def reconnect(self, who: int) -> None:
        self.clients[who] = self.run(self.open(who))

    @invariant()
    def both_read_what_counts(self) -> None:
        for site in SITES:
            for lag in (0.0, 15.0):  # a reader may lag behind the clock
                now = self.clock.now() - lag
                live = [at for at in self.books[site].values() if at.end > now and (at.until is None or at.until > now)]
                for book in self.together(*(calendar.read(site, now) for calendar in self.clients)):
                    assert book.version == self.versions[site]
                    assert sorted(book.bookings, key=lambda at: at.id) == sorted(live, key=lambda at: at.id)


class MemoryMachine(CalendarMachine):
    async def open(self, client: int) -> Calendar:
        self.only = getattr(self, "only", None) or MemoryCalendar()
        return self.only


class SqliteMachine(SqliteClients[Calendar], CalendarMachine):
    def of(self, store: SqliteStore) -> Calendar:
        return store.calendar


class RedisMachine(RedisClients[Calendar], CalendarMachine):
    def of(self, nodes: Nodes) -> Calendar:
        return RedisCalendar(nodes, self.clock)


def test_in_memory() -> None:
    drive(MemoryMachine, examples=60)


def test_in_sqlite() -> None:
    drive(SqliteMachine, examples=30)


@pytest.mark.parametrize("kind", ["redis_url", "cluster_url"])
def test_in_redis(kind: str, request: pytest.FixtureRequest) -> None:
    drive(RedisMachine, request.getfixturevalue(kind), examples=30)
