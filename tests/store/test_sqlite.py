"""The SQLite store and the store with one database per aggregate hold the contract; what is SQLite's own."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from broker.ports import Store
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.apart import StoreApart
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor
from broker.testing.stores import OpenStore, Peek, StoreContract


def peek_file(path: Path, aggregate: str) -> Peek | None:
    if not path.exists():
        return None
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("BEGIN")
        row = sql.execute("SELECT version, record FROM aggregates WHERE key = ?", (aggregate,)).fetchone()
        body = sql.execute("SELECT body FROM bodies WHERE aggregate = ?", (aggregate,)).fetchone()
        timers = sql.execute("SELECT key, due FROM timers WHERE aggregate = ?", (aggregate,)).fetchall()
        phases = sql.execute("SELECT id, phase FROM listings WHERE aggregate = ?", (aggregate,)).fetchall()
    if row is None:
        assert (body, timers, phases) == (None, [], []), "parts of an aggregate that is not there"
        return None
    version, record = row
    return Peek(version, record, body[0] if body else None, dict(timers), dict(phases))


class TestSqlite(StoreContract):
    @pytest.fixture
    async def open_store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[OpenStore]:
        async with AsyncExitStack() as stack:

            async def open_one() -> Store:
                store = await open_sqlite(tmp_path / "store.db", clock)
                stack.push_async_callback(store.close)
                return store

            yield open_one

    async def peek(self, store: Store, aggregate: str) -> Peek | None:
        assert isinstance(store, SqliteStore)
        return peek_file(store.database.path, aggregate)


class TestSqliteInline(TestSqlite):
    """As the deterministic tests of the services run it: no threads."""

    @pytest.fixture
    async def open_store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[OpenStore]:
        async with AsyncExitStack() as stack:

            async def open_one() -> Store:
                store = await open_sqlite(tmp_path / "store.db", clock, executor=InlineExecutor())
                stack.push_async_callback(store.close)
                return store

            yield open_one


class TestApart(StoreContract):
    @pytest.fixture
    async def open_store(self, tmp_path: Path, clock: FakeClock) -> AsyncIterator[OpenStore]:
        async with AsyncExitStack() as stack:

            async def open_one() -> Store:
                store = StoreApart(tmp_path / "apart", clock, keep_open=4)
                stack.push_async_callback(store.close)
                return store

            yield open_one

    async def peek(self, store: Store, aggregate: str) -> Peek | None:
        assert isinstance(store, StoreApart)
        return peek_file(store.path(aggregate), aggregate)
