"""A copy of a SQLite store, taken while brokers write to it. Imports the database and errors.

The copy is one moment's: a reader's snapshot is held from the first page to the last, and with a write-ahead log that
holds up no writer. The log cannot be shortened meanwhile, so it grows by what is written during the copying.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from broker.errors import BadInput, SettingsError, Unavailable
from broker.store.database import cause, connection
from broker.store.schema import check

PAGES = 256  # copied at a stretch: 1 MiB
PAUSE = 0.002  # seconds between two stretches, in which others have the disk


def backup(source: Path, target: Path, *, pages: int = PAGES, patience: float = 5.0) -> int:
    """Copy the store to a file that is not there yet; returns its bytes. Blocks. The copy is durable, whole, checked
    by SQLite, and readable by its owner alone; on any error there is none.

    Raises BadInput where `target` is there already, SettingsError where `source` is no store, Unavailable where it
    cannot be read, or the copy not be written."""
    if target.exists():
        raise _there(target)
    if not source.exists():
        raise SettingsError("there is no such file, so nothing to copy.", file=str(source))
    with _translated(target), _part(target) as part:
        with closing(connection(source, patience)) as origin, closing(connection(part, patience)) as copy:
            check(origin)
            _copy(origin, copy, pages)
            _examine(copy)
        _settle(part, target)
        return target.stat().st_size


def _copy(origin: sqlite3.Connection, copy: sqlite3.Connection, pages: int) -> None:
    origin.execute("PRAGMA query_only = ON")
    origin.execute("BEGIN")
    # The snapshot begins with the first reading. Without it every commit of another begins the copying anew.
    origin.execute("SELECT count(*) FROM sqlite_master").fetchone()
    origin.backup(copy, pages=pages, progress=lambda *_: time.sleep(PAUSE))
    origin.execute("ROLLBACK")


def _examine(copy: sqlite3.Connection) -> None:
    """Raises Unavailable. Leaves the copy without a log of its own, so that it is one file."""
    copy.execute("PRAGMA journal_mode = DELETE")
    faults = [text for (text,) in copy.execute("PRAGMA integrity_check(3)").fetchall()]
    if faults != ["ok"]:
        raise Unavailable(f"the store is damaged, and so is its copy: {'; '.join(faults)}.", remedy="Keep both.")


@contextlib.contextmanager
def _part(target: Path) -> Iterator[Path]:
    """The file under another name while it is not whole; gone afterwards."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    try:
        yield part
    finally:
        for name in (part.name, f"{part.name}-journal", f"{part.name}-wal", f"{part.name}-shm"):
            part.with_name(name).unlink(missing_ok=True)


def _settle(part: Path, target: Path) -> None:
    """Under its own name, durably, unless somebody else has made a file there meanwhile."""
    _sync(part)
    try:
        os.link(part, target)
    except FileExistsError:
        raise _there(target) from None
    except OSError:  # a file system without links
        if target.exists():
            raise _there(target) from None
        part.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _there(target: Path) -> BadInput:
    return BadInput(f"{target} is there already, and is left as it is.", remedy="Name another file.")


@contextlib.contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"no copy was made: {cause(error)}.") from error
    except OSError as error:
        raise Unavailable(f"no copy was made: {target}: {error.strerror}.") from error
