"""The embedded store: aggregates, timers and lists in one SQLite file. Imports ports and errors.

The calendar and the limits live in the same file (`sqlite_calendar`, `sqlite_limits`), and come with the store.
"""

from __future__ import annotations

import math
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

import msgspec

from broker.errors import Unavailable
from broker.ports import Clock, Lease, Listing, Query, Stored, Timer, Whole
from broker.store.database import Database, open_database
from broker.store.sqlite_calendar import SqliteCalendar
from broker.store.sqlite_limits import SqliteLimits

READ = "SELECT version, record FROM aggregates WHERE key = ?"
READ_BODY = "SELECT body FROM bodies WHERE aggregate = ?"

CREATE = "INSERT INTO aggregates VALUES (?, 1, ?) ON CONFLICT DO NOTHING"
REPLACE = "UPDATE aggregates SET version = version + 1, record = ? WHERE key = ? AND version = ?"
PUT_BODY = """
    INSERT INTO bodies VALUES (?, ?, ?)
    ON CONFLICT (aggregate) DO UPDATE SET written = excluded.written, body = excluded.body"""
PUT_TIMER = """
    INSERT INTO timers VALUES (?1, ?2, ?3, ?3, NULL)
    ON CONFLICT (aggregate, key) DO UPDATE SET due = excluded.due, ready = excluded.ready, token = NULL"""
CUT_TIMER = "DELETE FROM timers WHERE aggregate = ? AND key = ?"

CUT_LISTING = "DELETE FROM listings WHERE kind = ? AND id = ? AND aggregate = ?"
PUT_LISTINGS = "INSERT INTO listings (kind, id, aggregate, owner, created, phase, name, site) VALUES "
LISTING_ROW = "(?, ?, ?, ?, ?, ?, ?, ?)"
# A line that says what it said is not written again.
OVER_LISTINGS = """
    ON CONFLICT (kind, id) DO UPDATE SET
        aggregate = excluded.aggregate, owner = excluded.owner, created = excluded.created,
        phase = excluded.phase, name = excluded.name, site = excluded.site
    WHERE (aggregate, owner, created, phase, name, site) IS NOT
        (excluded.aggregate, excluded.owner, excluded.created, excluded.phase, excluded.name, excluded.site)"""

REMOVE = "DELETE FROM aggregates WHERE key = ? AND version = ?"
REMOVE_PARTS = tuple(f"DELETE FROM {table} WHERE aggregate = ?" for table in ("bodies", "timers", "listings"))  # noqa: S608 - constants

CLAIM = """
    UPDATE timers SET token = :token, ready = :until
    WHERE (aggregate, key) IN (SELECT aggregate, key FROM timers WHERE ready <= :now ORDER BY ready LIMIT :limit)
    RETURNING aggregate, key, due, token"""
DONE = "DELETE FROM timers WHERE aggregate = ? AND key = ? AND token = ?"
POSTPONE = """
    UPDATE timers SET due = ?1, ready = ?1, token = NULL
    WHERE aggregate = ?2 AND key = ?3 AND token = ?4"""
RENEW = "UPDATE timers SET ready = ? WHERE aggregate = ? AND key = ? AND token = ?"
NEXT_DUE = "SELECT min(ready) FROM timers"

PAGE = """
    SELECT kind, id, owner, created, phase, name, site FROM listings
    WHERE kind = :kind AND (created, id) < (:created, :id) AND created >= :since
        AND (:phases = '[]' OR phase IN (SELECT value FROM json_each(:phases)))
        AND (:site IS NULL OR site = :site) AND (:name IS NULL OR name = :name)
    ORDER BY created DESC, id DESC LIMIT :limit"""
OWN_PAGE = PAGE.replace("WHERE", "WHERE owner = :owner AND", 1)
COUNTS = "SELECT kind, site, phase, number FROM counts WHERE number > 0"

KEYS = """
    SELECT key FROM aggregates WHERE key > :after
    UNION SELECT aggregate FROM timers WHERE aggregate > :after
    UNION SELECT aggregate FROM listings WHERE aggregate > :after
    ORDER BY 1 LIMIT :limit"""
TIMERS = "SELECT key, due, ready, token IS NOT NULL FROM timers WHERE aggregate = ?"
LINES = "SELECT kind, id, owner, created, phase, name, site FROM listings WHERE aggregate = ? ORDER BY kind, id"

PRUNE = """
    DELETE FROM bodies WHERE aggregate IN
        (SELECT aggregate FROM bodies WHERE written < ? ORDER BY written LIMIT ?)"""
PRUNE_STEP = 200  # bodies dropped in one transaction: other writes go between

BEAT = "INSERT INTO pulse VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at"

# Rows in one statement. Every statement gives the interpreter's lock away and must win it back, which costs most
# when the event loop is busy; few sizes keep the prepared statements in the cache.
CHUNKS = (64, 8, 1)


async def open_sqlite(
    path: str | Path, clock: Clock, *, executor: Executor | None = None, patience: float = 5.0
) -> SqliteStore:
    """The store in the file at `path`, made when it is missing. `clock` judges leases, ages and holds; parameters
    and errors otherwise as for `broker.store.database.open_database`."""
    return SqliteStore(await open_database(path, executor=executor, patience=patience), clock)


class SqliteStore:
    """The Backend port, in one file that no other broker writes to."""

    shared = False

    def __init__(self, database: Database, clock: Clock) -> None:
        self.calendar = SqliteCalendar(database, clock)
        self.limits = SqliteLimits(database, clock)
        self.database = database
        self._clock = clock

    async def now(self) -> float:
        return self._clock.now()

    async def read(self, aggregate: str) -> Stored | None:
        row = await self.database.read(lambda sql: sql.execute(READ, (aggregate,)).fetchone())
        return Stored(*row) if row else None

    async def body(self, aggregate: str) -> bytes | None:
        row = await self.database.read(lambda sql: sql.execute(READ_BODY, (aggregate,)).fetchone())
        return row[0] if row else None

    async def write(
        self,
        aggregate: str,
        version: int,
        record: bytes,
        *,
        body: bytes | None = None,
        timers: Mapping[str, float | None] | None = None,
        listings: Sequence[Listing] = (),
        cut: Sequence[tuple[str, str]] = (),
    ) -> bool:
        timers = dict(timers or {})  # the caller may change its own while the write waits
        listings, cuts = tuple(listings), [(kind, id, aggregate) for kind, id in cut]

        def work(sql: sqlite3.Connection) -> bool:
            if not _compare_and_set(sql, aggregate, version, record):
                return False
            if body is not None:
                sql.execute(PUT_BODY, (aggregate, self._clock.now(), body))
            _put_timers(sql, aggregate, timers)
            sql.executemany(CUT_LISTING, cuts)
            _put_listings(sql, aggregate, listings)
            return True

        return await self.database.write(work)

    async def remove(self, aggregate: str, version: int) -> bool:
        def work(sql: sqlite3.Connection) -> bool:
            if not sql.execute(REMOVE, (aggregate, version)).rowcount:
                return False
            for statement in REMOVE_PARTS:
                sql.execute(statement, (aggregate,))
            return True

        return await self.database.write(work)

    async def claim(self, limit: int, lease: float) -> list[Lease]:
        def work(sql: sqlite3.Connection) -> list[Lease]:
            now = self._clock.now()
            values = {"token": secrets.token_hex(8), "until": now + lease, "now": now, "limit": max(0, limit)}
            return [Lease(*row) for row in sql.execute(CLAIM, values).fetchall()]

        return sorted(await self.database.write(work), key=lambda lease: lease.due)

    async def done(self, lease: Lease) -> bool:
        values = (lease.aggregate, lease.key, lease.token)
        return await self.database.write(lambda sql: sql.execute(DONE, values).rowcount == 1)

    async def postpone(self, lease: Lease, due: float) -> bool:
        values = (due, lease.aggregate, lease.key, lease.token)
        return await self.database.write(lambda sql: sql.execute(POSTPONE, values).rowcount == 1)

    async def renew(self, lease: Lease, seconds: float) -> bool:
        def work(sql: sqlite3.Connection) -> bool:
            values = (self._clock.now() + seconds, lease.aggregate, lease.key, lease.token)
            return sql.execute(RENEW, values).rowcount == 1

        return await self.database.write(work)

    async def next_due(self) -> float | None:
        def work(sql: sqlite3.Connection) -> float | None:
            (ready,) = sql.execute(NEXT_DUE).fetchone()
            return ready  # type: ignore[no-any-return]  # a REAL or NULL

        return await self.database.read(work)

    async def listings(self, query: Query) -> list[Listing]:
        created, id = query.after or (math.inf, "")
        values = {
            "kind": query.kind,
            "owner": query.owner,
            "phases": msgspec.json.encode(query.phases).decode(),
            "site": query.site,
            "name": query.name,
            "since": -math.inf if query.since is None else query.since,
            "created": created,
            "id": id,
            "limit": max(0, query.limit),
        }
        page = PAGE if query.owner is None else OWN_PAGE
        rows = await self.database.read(lambda sql: sql.execute(page, values).fetchall())
        return [Listing(*row) for row in rows]

    async def counts(self) -> Mapping[tuple[str, str, str], int]:
        rows = await self.database.read(lambda sql: sql.execute(COUNTS).fetchall())
        return {(kind, site, phase): number for kind, site, phase, number in rows}

    async def keys(self, cursor: str = "", limit: int = 100) -> tuple[list[str], str]:
        values = {"after": cursor, "limit": max(1, limit)}
        rows = await self.database.read(lambda sql: sql.execute(KEYS, values).fetchall())
        found = [key for (key,) in rows]
        return found, found[-1] if len(found) == values["limit"] else ""

    async def whole(self, aggregate: str) -> Whole | None:
        def work(sql: sqlite3.Connection) -> Whole | None:
            row, now = sql.execute(READ, (aggregate,)).fetchone(), self._clock.now()
            timers = sql.execute(TIMERS, (aggregate,)).fetchall()
            lines = sql.execute(LINES, (aggregate,)).fetchall()
            if row is None and not timers and not lines:
                return None
            version, record = row or (0, b"")
            standing = {key: Timer(due, bool(leased) and ready > now) for key, due, ready, leased in timers}
            return Whole(version, record, standing, tuple(Listing(*line) for line in lines))

        return await self.database.read(work)

    async def prune_bodies(self, before: float) -> int:
        pruned = 0
        while step := await self.database.write(lambda sql: sql.execute(PRUNE, (before, PRUNE_STEP)).rowcount):
            pruned += step
        return pruned

    async def follow(self, watched: Callable[[], Collection[str]], ring: Callable[[str], None]) -> None:
        """Nobody else writes."""

    async def ping(self) -> None:
        await self.database.write(lambda sql: sql.execute(BEAT, (self._clock.now(),)).rowcount)
        if not self.database.in_place():
            raise Unavailable("the store's file was moved or deleted.", remedy="Restore it, then restart the broker.")

    async def close(self) -> None:
        await self.database.close()


def _compare_and_set(sql: sqlite3.Connection, aggregate: str, version: int, record: bytes) -> bool:
    if version == 0:
        return sql.execute(CREATE, (aggregate, record)).rowcount == 1
    return sql.execute(REPLACE, (record, aggregate, version)).rowcount == 1


def _put_timers(sql: sqlite3.Connection, aggregate: str, timers: Mapping[str, float | None]) -> None:
    for key, due in timers.items():
        if due is None:
            sql.execute(CUT_TIMER, (aggregate, key))
        else:
            sql.execute(PUT_TIMER, (aggregate, key, due))


def _put_listings(sql: sqlite3.Connection, aggregate: str, listings: Sequence[Listing]) -> None:
    for chunk in _chunks(listings):
        values = [
            value
            for line in chunk
            for value in (line.kind, line.id, aggregate, line.owner, line.created, line.phase, line.name, line.site)
        ]
        sql.execute(PUT_LISTINGS + ", ".join([LISTING_ROW] * len(chunk)) + OVER_LISTINGS, values)


def _chunks(listings: Sequence[Listing]) -> Iterator[Sequence[Listing]]:
    start = 0
    for size in CHUNKS:
        while len(listings) - start >= size:
            yield listings[start : start + size]
            start += size
