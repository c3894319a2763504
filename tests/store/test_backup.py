"""A copy of the store, taken while others write, is one moment's, whole, and never half there."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from broker.errors import BadInput, SettingsError, Unavailable
from broker.ports import Query, Stored
from broker.store.backup import backup
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.clock import FakeClock
from broker.testing.store_base import line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "copy.db"


@pytest.fixture
async def store(path: Path, copy: Path) -> SqliteStore:
    copy.parent.mkdir()
    store = await open_sqlite(path, FakeClock())
    for n in range(200):
        await store.write(f"a{n}", 0, b"%d" % n, body=os.urandom(4096), timers={"t": 5.0}, listings=[line(f"s{n}")])
    return store


@pytest.fixture
async def closed(store: SqliteStore) -> None:
    await store.close()


def found(copy: Path) -> list[tuple[str, int, int]]:
    files = [(file.name, file.stat()) for file in copy.parent.iterdir()]
    return [(name, stat.st_size, stat.st_mode & 0o777) for name, stat in files]


async def test_a_copy_is_a_store_and_holds_what_was_acknowledged(store: SqliteStore, path: Path, copy: Path) -> None:
    copied = await asyncio.to_thread(backup, path, copy)
    assert copied > 200 * 4096
    assert found(copy) == [("copy.db", copied, 0o600)]
    again = await open_sqlite(copy, FakeClock())
    assert await again.read("a199") == Stored(1, b"199")
    assert await again.body("a7") == await store.body("a7")
    assert len(await again.listings(Query("session", limit=1000))) == 200
    assert await again.write("a0", 1, b"goes on")
    await store.close()
    await again.close()


async def test_while_others_write_it_is_one_moments_and_ends(store: SqliteStore, path: Path, copy: Path) -> None:
    """Each write changes two aggregates' worth in one transaction; a copy made of two moments would tell."""
    stop, begun, written = threading.Event(), asyncio.Event(), 0

    async def writes() -> None:
        nonlocal written
        version = 1
        while not stop.is_set():
            tag = b"%d" % version
            assert await store.write("a0", version, tag, body=tag * 4096, listings=[line("s0", phase=tag.decode())])
            version, written = version + 1, written + 1
            begun.set()

    writer = asyncio.create_task(writes())
    await begun.wait()
    before = written
    await asyncio.to_thread(backup, path, copy, pages=4)
    during = written - before
    stop.set()
    await writer
    assert during > 10, "nobody was held up"
    with closing(sqlite3.connect(copy)) as sql:
        (tag,) = sql.execute("SELECT record FROM aggregates WHERE key = 'a0'").fetchone()
        assert sql.execute("SELECT body FROM bodies WHERE aggregate = 'a0'").fetchone() == (tag * 4096,)
        assert sql.execute("SELECT phase FROM listings WHERE id = 's0'").fetchone() == (tag.decode(),)
    assert before <= int(tag) <= before + during + 1
    await store.close()


@pytest.mark.usefixtures("closed")
def test_nothing_is_overwritten(path: Path, copy: Path) -> None:
    copy.write_text("mine")
    with pytest.raises(BadInput, match="is there already, and is left as it is"):
        backup(path, copy)
    assert copy.read_text() == "mine"


@pytest.mark.usefixtures("closed")
def test_what_is_made_there_meanwhile_is_not_overwritten_either(
    path: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.store.backup._examine", lambda _: copy.write_text("mine"))
    with pytest.raises(BadInput, match="is there already"):
        backup(path, copy)
    assert copy.read_text() == "mine"
    assert len(found(copy)) == 1


@pytest.mark.usefixtures("closed")
def test_a_damaged_store_makes_no_copy(path: Path, copy: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA writable_schema = ON")
        sql.execute(  # an index that knows of no row
            "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'bookings_by_end')"
            " WHERE name = 'bodies_by_age'"
        )
    with pytest.raises(Unavailable, match="damaged"):
        backup(path, copy)
    assert list(copy.parent.iterdir()) == []


def test_what_is_no_store_is_not_copied(path: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        backup(path, tmp_path / "copy.db")
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("CREATE TABLE theirs (x)")
    with pytest.raises(SettingsError, match="another program"):
        backup(path, tmp_path / "copy.db")
    assert [file.name for file in tmp_path.iterdir()] == ["store.db"]


@pytest.mark.usefixtures("closed")
def test_a_folder_that_is_not_there_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file or directory"):
        backup(path, tmp_path / "none" / "copy.db")


@pytest.mark.usefixtures("closed")
def test_where_there_is_no_room_there_is_no_copy(path: Path, copy: Path) -> None:
    ended = subprocess.run([sys.executable, __file__, path, copy], check=False, timeout=60, capture_output=True)
    assert (ended.returncode, ended.stdout) == (0, b"no copy was made\n"), ended.stderr
    assert list(copy.parent.iterdir()) == []


def narrow(path: str, copy: str) -> None:
    """Copies where no file may grow beyond 100 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        backup(Path(path), Path(copy))
    except Unavailable as error:
        print(error.detail.partition(":")[0])  # noqa: T201 - what the test reads


if __name__ == "__main__":
    narrow(sys.argv[1], sys.argv[2])
