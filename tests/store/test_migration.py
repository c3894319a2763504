"""Files of every release are brought forward, wholly or not at all.

Run as a program this file is the victim: it brings a file forward and is killed in the middle.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from broker.ports import Query, Stored, Timer
from broker.store import schema
from broker.store.sqlite import open_sqlite
from broker.testing.clock import FakeClock

RELEASED = sorted((Path(__file__).parent / "released").glob("schema-*.sql"))
NEXT = ("ALTER TABLE aggregates ADD COLUMN added TEXT", "CREATE TABLE further (x)", "UPDATE aggregates SET added = 'x'")
STEPS = len(NEXT)


def released(path: Path, text: Path = RELEASED[-1]) -> None:
    """A file as that release left it."""
    with closing(sqlite3.connect(path)) as sql:
        sql.executescript(text.read_text())


def contents(path: Path) -> Mapping[str, object]:
    with closing(sqlite3.connect(path)) as sql:
        tables = [name for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        rows = {name: sql.execute(f"SELECT * FROM {name}").fetchall() for name in tables}  # noqa: S608 - our own names
        return {**rows, "version": sql.execute("PRAGMA user_version").fetchone()[0]}


def test_there_is_a_file_of_each_release() -> None:
    assert [path.name for path in RELEASED] == [f"schema-{n + 1}.sql" for n in range(len(schema.MIGRATIONS))]


@pytest.mark.parametrize("text", RELEASED, ids=lambda path: path.stem)
async def test_a_file_of_a_release_is_opened_with_all_that_is_in_it(tmp_path: Path, text: Path) -> None:
    clock, path = FakeClock(), tmp_path / "store.db"
    released(path, text)
    store = await open_sqlite(path, clock)
    assert await store.read("a") == Stored(1, b"R")
    assert await store.body("a") == b"B"
    whole = await store.whole("a")
    assert whole is not None
    assert whole.timers == {"t": Timer(clock.now() + 5)}
    assert [line.id for line in await store.listings(Query("session"))] == ["s-1"]
    assert (await store.counts())["session", "alba", "RUNNING"] == 1
    assert [booking.id for booking in (await store.calendar.read("here", clock.now())).bookings] == ["b-1"]
    assert await store.limits.members("k") == {"m"}
    assert await store.write("a", 1, b"S", listings=whole.lines)
    await store.close()


@pytest.mark.parametrize("text", RELEASED, ids=lambda path: path.stem)
async def test_it_ends_as_a_new_file_begins(tmp_path: Path, text: Path) -> None:
    def drawn(path: Path) -> list[tuple[str, str]]:
        with closing(sqlite3.connect(path)) as sql:
            return sql.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()

    released(tmp_path / "old.db", text)
    for name in ("old.db", "new.db"):
        await (await open_sqlite(tmp_path / name, FakeClock())).close()
    assert drawn(tmp_path / "old.db") == drawn(tmp_path / "new.db")


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_a_migration_killed_in_the_middle_has_not_begun(tmp_path: Path, step: int) -> None:
    path = tmp_path / "store.db"
    released(path)
    before = contents(path)
    ended = subprocess.run([sys.executable, __file__, path, str(step)], check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    assert contents(path) == before
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        schema.migrate(sql, (*schema.MIGRATIONS, NEXT))
        assert schema.check(sql, (*schema.MIGRATIONS, NEXT)) == len(schema.MIGRATIONS) + 1
        assert sql.execute("SELECT key, added FROM aggregates ORDER BY key").fetchall() == [("a", "x"), ("broker", "x")]


def victim(path: str, step: int) -> None:
    """Dies before the statement with that number of the next migration."""
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("PRAGMA synchronous = FULL")
        sql.execute("PRAGMA cache_spill = 1")
        sql.create_function("die", 0, lambda: os.kill(os.getpid(), signal.SIGKILL))
        schema.migrate(sql, (*schema.MIGRATIONS, (*NEXT[:step], "SELECT die()", *NEXT[step:])))


if __name__ == "__main__":
    victim(sys.argv[1], int(sys.argv[2]))
