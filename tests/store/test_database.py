"""Group commit, cancellation and every way in which the file or its disk can fail."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.errors import SettingsError, Unavailable
from broker.store import schema, sqlite
from broker.store.database import Database, Work, open_database
from broker.store.sqlite import PRUNE_STEP, open_sqlite
from broker.testing.clock import FakeClock
from broker.testing.executor import HeldExecutor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def executor() -> HeldExecutor:
    return HeldExecutor()


@pytest.fixture
async def database(path: Path, executor: HeldExecutor) -> AsyncIterator[Database]:
    """Its writes can be held back, so that a test decides what falls into one batch."""
    database = await open_database(path, executor=executor, patience=0.05)
    yield database
    executor.release()
    await database.close()


def put(key: str) -> Work[int]:
    return lambda sql: sql.execute("INSERT INTO aggregates VALUES (?, 1, x'')", (key,)).rowcount


def keys(path: Path) -> set[str]:
    """What is committed, seen past the database under test."""
    with closing(sqlite3.connect(path)) as sql:
        return {key for (key,) in sql.execute("SELECT key FROM aggregates")}


def contents(path: Path) -> bytes:
    return path.read_bytes()


def fill(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return data


def spoil(path: Path) -> None:
    """Keeps the header, and so what it says of version and program."""
    path.write_bytes(path.read_bytes()[:100] + bytes(8000))


def move(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))


async def start(*works: Coroutine[Any, Any, Any]) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(work) for work in works]
    await asyncio.sleep(0)
    return tasks


# ── group commit ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_writes_that_wait_are_committed_together(database: Database, executor: HeldExecutor, path: Path) -> None:
    seen: list[tuple[set[str], list[bool]]] = []

    def look(sql: sqlite3.Connection) -> None:
        seen.append((keys(path), [task.done() for task in tasks]))

    executor.hold()
    tasks = await start(database.write(put("a")), database.write(put("b")), database.write(look))
    executor.release()
    assert seen == [(set(), [False, False, False])]  # nothing committed, nobody answered
    assert keys(path) == {"a", "b"}
    assert await asyncio.gather(*tasks) == [1, 1, None]


async def test_one_that_fails_leaves_its_neighbours(database: Database, executor: HeldExecutor, path: Path) -> None:
    def half(sql: sqlite3.Connection) -> None:
        put("half")(sql)
        raise LookupError("a fault of the work itself")

    executor.hold()
    tasks = await start(
        database.write(put("a")), database.write(half), database.write(put("a")), database.write(put("b"))
    )
    executor.release()
    first, second, third, fourth = await asyncio.gather(*tasks, return_exceptions=True)
    assert (first, fourth) == (1, 1)
    assert isinstance(second, LookupError)
    assert isinstance(third, sqlite3.IntegrityError)
    assert keys(path) == {"a", "b"}


async def test_one_that_fails_alone_is_undone_and_the_next_is_written(database: Database, path: Path) -> None:
    def half(sql: sqlite3.Connection) -> None:
        put("half")(sql)
        raise LookupError("a fault of the work itself")

    with pytest.raises(LookupError):
        await database.write(half)
    assert await database.write(put("b")) == 1
    assert keys(path) == {"b"}


async def test_a_commit_that_fails_answers_all_and_undoes_all(
    database: Database, executor: HeldExecutor, path: Path
) -> None:
    """A deferred foreign key fails at the commit itself, and SQLite then leaves the transaction open."""
    database._writer.execute("PRAGMA foreign_keys = ON")
    deferred = "CREATE TABLE child (key TEXT REFERENCES aggregates (key) DEFERRABLE INITIALLY DEFERRED)"
    await database.write(lambda sql: sql.execute(deferred).rowcount)
    executor.hold()
    orphan = database.write(lambda sql: sql.execute("INSERT INTO child VALUES ('none')").rowcount)
    tasks = await start(database.write(put("a")), orphan)
    executor.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [sqlite3.IntegrityError] * 2
    assert await database.write(put("b")) == 1
    assert keys(path) == {"b"}


async def test_a_write_cancelled_before_it_ran_never_happens(
    database: Database, executor: HeldExecutor, path: Path
) -> None:
    executor.hold()
    first, second = await start(database.write(put("a")), database.write(put("b")))
    first.cancel()
    await asyncio.sleep(0)
    executor.release()
    assert await second == 1
    assert first.cancelled()
    assert keys(path) == {"b"}


async def test_a_write_cancelled_after_it_ran_has_happened(
    database: Database, executor: HeldExecutor, path: Path
) -> None:
    executor.hold()
    (task,) = await start(database.write(put("a")))
    executor.release()  # it ran, and its answer is on the way
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert keys(path) == {"a"}


async def test_what_is_queued_at_close_is_still_written(database: Database, executor: HeldExecutor, path: Path) -> None:
    executor.hold()
    (task,) = await start(database.write(put("a")))
    closing_task = asyncio.ensure_future(database.close())
    await asyncio.sleep(0)
    executor.release()
    await closing_task
    assert await task == 1
    assert keys(path) == {"a"}


async def test_more_writes_than_a_batch_holds(path: Path) -> None:
    database = await open_database(path)
    results = await asyncio.gather(*(database.write(put(str(n))) for n in range(1000)))
    await database.close()
    assert results == [1] * 1000
    assert len(keys(path)) == 1000


async def test_an_executor_that_was_shut_down_is_unavailable(path: Path) -> None:
    executor = ThreadPoolExecutor(1)
    database = await open_database(path, executor=executor)
    executor.shutdown()
    for _ in range(2):
        with pytest.raises(Unavailable):
            await database.write(put("a"))


# ── the file and its disk ────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_disk_acknowledges_nothing_and_heals(
    database: Database, executor: HeldExecutor, path: Path
) -> None:
    def limit(pages: int) -> Work[object]:
        return lambda sql: sql.execute(f"PRAGMA max_page_count = {pages}").fetchone()

    big = "INSERT INTO aggregates VALUES ('big', 1, zeroblob(1000000))"
    await database.write(put("before"))
    await database.write(limit(1))  # SQLite takes the present size for the limit
    executor.hold()
    tasks = await start(database.write(put("a")), database.write(lambda sql: sql.execute(big).rowcount))
    executor.release()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(second, Unavailable)
    assert "full" in second.detail
    assert keys(path) == {"before"} | ({"a"} if first == 1 else set())
    await database.write(limit(1_000_000))
    assert await database.write(lambda sql: sql.execute(big).rowcount) == 1
    assert "big" in keys(path)


FILL = """
import asyncio, resource, sys
from pathlib import Path
from broker.errors import Unavailable
from broker.store.sqlite import open_sqlite
from broker.testing.clock import FakeClock

async def main():
    store = await open_sqlite(sys.argv[1], FakeClock())
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
    for n in range(100):
        writes = [store.write(f"{n}.{m}", 0, b"R", body=bytes(9_000), timers={"t": 1.0}) for m in range(3)]
        results = await asyncio.gather(*writes, return_exceptions=True)
        for m, result in enumerate(results):
            assert result is True or isinstance(result, Unavailable), result
            if result is True:
                print(f"{n}.{m}", flush=True)
        if results[0] is not True:
            print("failed:", results[0], flush=True)
            break
    try:
        await store.ping()
    except Unavailable:
        print("ping failed", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("healed" if await store.write("after", 0, b"R") else "lost", flush=True)

asyncio.run(main())
"""


def test_a_file_that_can_grow_no_more_loses_nothing_acknowledged(path: Path) -> None:
    """The kernel refuses to let the file grow, as a full disk does, in the middle of a commit."""
    run = subprocess.run([sys.executable, "-c", FILL, path], capture_output=True, text=True, check=True, timeout=60)
    lines = run.stdout.split("\n")[:-1]
    acknowledged = {line for line in lines if line[0].isdigit()}
    assert any(line.startswith("failed: ") for line in lines)
    assert lines[-1] == "healed"
    assert keys(path) >= acknowledged | {"after"}
    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        torn = "SELECT count(*) FROM aggregates WHERE key <> 'after' AND key NOT IN (SELECT aggregate FROM timers)"
        assert sql.execute(torn).fetchone() == (0,)


async def test_a_file_locked_by_another_process_is_unavailable_and_heals(database: Database, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            await database.write(put("a"))
        assert await database.read(lambda sql: sql.execute("SELECT count(*) FROM aggregates").fetchone()) == (0,)
    assert await database.write(put("b")) == 1
    assert keys(path) == {"b"}


async def test_a_file_that_another_destroyed_is_a_setting_error(path: Path) -> None:
    await (await open_database(path)).close()
    spoil(path)
    with pytest.raises(SettingsError, match="damaged"):
        await open_database(path)


async def test_ping_notices_that_the_file_is_gone(path: Path) -> None:
    store = await open_sqlite(path, FakeClock())
    await store.ping()
    move(path)
    with pytest.raises(Unavailable, match="moved or deleted"):
        await store.ping()
    await store.close()


async def test_the_reader_cannot_write(database: Database) -> None:
    with pytest.raises(Unavailable):
        await database.read(put("a"))


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_file_is_its_owners_alone(database: Database, path: Path) -> None:
    await database.write(put("a"))
    files = [path, *path.parent.glob("store.db-*")]
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


async def test_it_is_durable_at_every_commit(database: Database) -> None:
    def pragmas(sql: sqlite3.Connection) -> list[object]:
        return [sql.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]

    assert await database.write(pragmas) == ["wal", 2]


async def test_many_open_a_new_file_at_once(path: Path) -> None:
    databases = await asyncio.gather(*(open_database(path) for _ in range(8)))
    assert sum(await asyncio.gather(*(db.write(put(str(n))) for n, db in enumerate(databases)))) == 8
    await asyncio.gather(*(db.close() for db in databases))
    assert len(keys(path)) == 8


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file or directory") as caught:
        await open_sqlite(tmp_path / "none" / "store.db", FakeClock())
    assert caught.value.file == str(tmp_path / "none" / "store.db")


async def test_a_file_that_is_no_database_is_left_alone(path: Path) -> None:
    before = fill(path, b"a shopping list, long enough to be read as a header of a database file of SQLite\n" * 9)
    with pytest.raises(SettingsError, match="no SQLite database"):
        await open_sqlite(path, FakeClock())
    assert contents(path) == before


async def test_another_programs_database_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("CREATE TABLE theirs (x)")
    before = contents(path)
    with pytest.raises(SettingsError, match="another program"):
        await open_sqlite(path, FakeClock())
    assert contents(path) == before


async def test_a_newer_brokers_file_is_left_alone(path: Path) -> None:
    await (await open_database(path)).close()
    with closing(sqlite3.connect(path)) as sql:
        sql.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    before = contents(path)
    with pytest.raises(SettingsError, match="newer broker"):
        await open_sqlite(path, FakeClock())
    assert contents(path) == before


def test_an_older_file_is_brought_forward_wholly_or_not_at_all(path: Path) -> None:
    more = (*schema.MIGRATIONS, ("CREATE TABLE added (x)", "INSERT INTO aggregates VALUES ('new', 1, x'')"))
    broken = (*more, ("CREATE TABLE further (x)", "INSERT INTO nowhere VALUES (1)"))
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        schema.migrate(sql)
        put("old")(sql)
        with pytest.raises(sqlite3.OperationalError):
            schema.migrate(sql, broken)
        assert schema.check(sql) == len(schema.MIGRATIONS)
        assert keys(path) == {"old"}
        schema.migrate(sql, more)
        schema.migrate(sql, more)
        assert schema.check(sql, more) == len(more)
    assert keys(path) == {"old", "new"}


# ── the store's own ──────────────────────────────────────────────────────────────────────────────────────────


async def test_more_bodies_are_pruned_than_one_step_takes(path: Path) -> None:
    clock = FakeClock()
    store = await open_sqlite(path, clock)
    await asyncio.gather(*(store.write(str(n), 0, b"R", body=b"B") for n in range(PRUNE_STEP * 2 + 3)))
    clock.advance(1)
    assert await store.prune_bodies(clock.now()) == PRUNE_STEP * 2 + 3
    await store.close()


async def test_the_writer_sees_what_the_caller_meant_at_the_call(path: Path) -> None:
    executor = HeldExecutor()
    store = await open_sqlite(path, FakeClock(), executor=executor)
    timers: dict[str, float | None] = {"t": 1.0}
    executor.hold()
    (task,) = await start(store.write("a", 0, b"R", timers=timers))
    timers["u"] = 2.0
    executor.release()
    await task
    assert len(await store.claim(10, 60)) == 1
    await store.close()


VALUES = {
    "owner": "o", "kind": "k", "created": 1.0, "id": "i", "phases": "[]", "site": None, "name": None, "since": 0.0,
    "limit": 9,
}  # fmt: skip
CLAIMING = {"token": "t", "until": 2.0, "now": 1.0, "limit": 9}


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (sqlite.READ, ("a",)),
        (sqlite.REPLACE, (b"", "a", 1)),
        (sqlite.CLAIM, CLAIMING),
        (sqlite.DONE, ("a", "t", "x")),
        (sqlite.PAGE, VALUES),
        (sqlite.OWN_PAGE, VALUES),
        (sqlite.PRUNE, (1.0, 9)),
        *((statement, ("a",)) for statement in sqlite.REMOVE_PARTS),
    ],
)
async def test_hot_statements_use_an_index(database: Database, statement: str, values: Any) -> None:
    plan = await database.write(lambda sql: sql.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall())
    steps = [row[3] for row in plan if "json_each" not in row[3]]
    assert any(step.startswith("SEARCH") for step in steps)
    assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step]
