"""One SQLite file: opening it, group commit on a single writer, reads beside it. Imports ports and errors.

Work reaches SQLite only as closures over a connection, each run from beginning to end on one thread: so a caller
that is cancelled can never leave half a transaction behind for the next commit.

Group commit: while one transaction is being made durable, further writes gather; the next transaction takes them
all, each (but for one that is alone) under a savepoint of its own, and nobody is answered before the commit. One
fsync thus serves many.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

from broker.errors import SettingsError, Unavailable
from broker.store.schema import check, migrate

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

BATCH = 64  # writes in one transaction: bounds how long the first waits for the last
WAL_LIMIT = 64 * 2**20  # bytes the write-ahead log keeps after a checkpoint

WRITER_PRAGMAS = (
    "PRAGMA synchronous = FULL",  # with a write-ahead log: it is synced at every commit
    f"PRAGMA journal_size_limit = {WAL_LIMIT}",
    "PRAGMA cache_size = -16000",  # KiB
    # What undoes a savepoint or a statement is in files otherwise, written and thrown away with every offer set:
    # half of what its lines cost (measured). It is worth nothing after a crash anyway.
    "PRAGMA temp_store = MEMORY",
)

# What SQLite's primary result codes mean to the caller; https://www.sqlite.org/rescode.html
CAUSES = {
    sqlite3.SQLITE_FULL: "the store's disk is full",
    sqlite3.SQLITE_BUSY: "the store is locked by another process",
    sqlite3.SQLITE_READONLY: "the store's file cannot be written",
    sqlite3.SQLITE_CANTOPEN: "the store's file cannot be opened",
    sqlite3.SQLITE_CORRUPT: "the store's file is damaged",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_IOERR: "the store's disk fails",
}


class _Write(Generic[T]):
    """A queued write and what became of it."""

    def __init__(self, work: Work[T], future: asyncio.Future[T]) -> None:
        self.work = work
        self.future = future
        self.value: T | None = None
        self.error: Exception | None = None

    def deliver(self) -> None:
        if self.future.done():  # its caller was cancelled meanwhile
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)  # type: ignore[arg-type]  # T itself may be None


class Database:
    """`write` and `read` run closures on the file; see `open_database`."""

    def __init__(
        self, path: Path, writer: sqlite3.Connection, reader: sqlite3.Connection, executor: Executor | None
    ) -> None:
        self.path = path
        self._writer = writer
        self._reader = reader
        self._owned = (
            [ThreadPoolExecutor(1, "store-write"), ThreadPoolExecutor(1, "store-read")] if not executor else []
        )
        self._write_on: Executor = executor or self._owned[0]
        self._read_on: Executor = executor or self._owned[1]
        self._pending: deque[_Write[Any]] = deque()
        self._lock = threading.Lock()  # guards _pending, _draining and _closed
        self._draining = False
        self._closed = False
        self._identity = _identity(path)

    async def write(self, work: Work[T]) -> T:
        """What `work` returns, once it is durable. What it raises undoes its own changes only. `work` must fetch all
        rows that it asks for, and may be run later than now, or never when the caller is cancelled first."""
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        write = _Write(work, future)
        with self._lock:
            self._check_open()
            self._pending.append(write)
            start, self._draining = not self._draining, True
        if start:
            self._start_draining()
        return await future

    async def read(self, work: Work[T]) -> T:
        """What `work` returns, seen at one moment and after every write acknowledged before the call."""
        with self._lock:
            self._check_open()

        def snapshot() -> T:
            self._reader.execute("BEGIN")
            try:
                return work(self._reader)
            finally:
                self._reader.execute("ROLLBACK")

        with translated():
            return await asyncio.get_running_loop().run_in_executor(self._read_on, snapshot)

    async def close(self) -> None:
        """Writes already queued are still made durable. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._read_on, self._reader.close)
        await loop.run_in_executor(self._write_on, self._shut)
        for executor in self._owned:
            executor.shutdown()

    def in_place(self) -> bool:
        """Whether the path still leads to the file that is open: writes to a deleted file would be lost."""
        return _identity(self.path) == self._identity

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the store is closed.")

    def _start_draining(self) -> None:
        try:
            self._write_on.submit(self._drain)
        except RuntimeError as error:  # the executor was shut down
            with self._lock:
                self._pending.clear()
                self._draining = False
            raise Unavailable("the store is shut down.") from error

    # ── on the writer's thread ───────────────────────────────────────────────────────────────────────────────

    def _drain(self) -> None:
        while batch := self._next_batch():
            try:
                self._commit(batch)
            except Exception as error:
                for write in batch:
                    write.error = _translate(error)
            self._roll_back()
            _settle(batch)

    def _next_batch(self) -> list[_Write[Any]]:
        with self._lock:
            batch = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            self._draining = bool(batch)
        return batch

    def _commit(self, batch: list[_Write[Any]]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        for write in batch:
            if not write.future.cancelled():
                self._step(write, alone=len(batch) == 1)
        self._writer.execute("COMMIT")

    def _step(self, write: _Write[Any], *, alone: bool) -> None:
        """`alone` in its transaction: what it raises is raised, and undone with the transaction. A savepoint, which
        copies every page that is changed, is for neighbours."""
        if alone:
            write.value = write.work(self._writer)
            return
        self._writer.execute("SAVEPOINT step")
        try:
            write.value = write.work(self._writer)
        except Exception as error:
            if not self._writer.in_transaction:  # a full or failing disk: SQLite has undone the neighbours too
                raise
            write.error = _translate(error)
            self._writer.execute("ROLLBACK TO step")
        self._writer.execute("RELEASE step")

    def _roll_back(self) -> None:
        if self._writer.in_transaction:  # the commit failed
            with contextlib.suppress(sqlite3.Error):  # the next BEGIN will say so again
                self._writer.execute("ROLLBACK")

    def _shut(self) -> None:
        self._drain()
        self._writer.close()


def _settle(batch: list[_Write[Any]]) -> None:
    """Wake the callers, with one call into each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Write[Any]]] = {}
    for write in batch:
        by_loop.setdefault(write.future.get_loop(), []).append(write)
    for loop, writes in by_loop.items():
        with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits there
            loop.call_soon_threadsafe(_deliver, writes)


def _deliver(writes: list[_Write[Any]]) -> None:
    for write in writes:
        write.deliver()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raise SQLite's troubles as Unavailable."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error) from error


def _translate(error: Exception) -> Exception:
    """Unavailable for what the file or the disk did; anything else is a fault of ours and stays what it is.
    A fresh object each time: one error answers many callers."""
    if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
        return error
    unavailable = Unavailable(f"{cause(error)}.")
    unavailable.__cause__ = error
    return unavailable


def cause(error: Exception) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return f"{CAUSES[code]} ({error})" if code in CAUSES else f"the store failed: {error}"


# ── opening ──────────────────────────────────────────────────────────────────────────────────────────────────


async def open_database(path: str | Path, *, executor: Executor | None = None, patience: float = 5.0) -> Database:
    """Open or make the file (readable by its owner only) and bring its schema up to date.

    `executor` runs all work, one piece at a time (inline, or one thread); it is not shut down by `close`. None: a
    thread for writes and one for reads. `patience`: seconds to wait for another process's lock.
    SettingsError when the file cannot be used; then it is as it was.
    """
    path = Path(path)
    if executor is None:
        writer, reader = await asyncio.to_thread(connect, path, patience)
    else:
        writer, reader = await asyncio.get_running_loop().run_in_executor(executor, connect, path, patience)
    return Database(path, writer, reader, executor)


def connect(path: Path, patience: float) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    """The writer and the reader that a Database wants; blocks. Errors as for `open_database`."""
    with _told(path), contextlib.ExitStack() as opened:
        _make_private(path)
        writer = opened.enter_context(contextlib.closing(connection(path, patience)))
        _configure(writer)
        reader = opened.enter_context(contextlib.closing(connection(path, patience)))
        reader.execute("PRAGMA query_only = ON")
        opened.pop_all()
    return writer, reader


def look_at(path: Path, patience: float = 5.0) -> None:
    """Errors as for `open_database`, where the file is there; changes nothing and makes none. Blocks."""
    with _told(path):
        if path.exists():
            with contextlib.closing(connection(f"{path.resolve().as_uri()}?mode=ro", patience)) as reader:
                check(reader)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What is wrong with the file, as a fault of the settings that names it."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(error.detail, file=str(path), remedy=error.remedy) from None
    except OSError as error:
        raise SettingsError(f"the store cannot be opened: {error.strerror}.", file=str(path)) from error
    except sqlite3.Error as error:
        raise SettingsError(f"{cause(error)}.", file=str(path)) from error


def _configure(writer: sqlite3.Connection) -> None:
    check(writer)  # first, so that nothing of a file that is not ours is changed
    (mode,) = writer.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise SettingsError("the file system cannot hold a write-ahead log.", remedy="Use a local disk.")
    for pragma in WRITER_PRAGMAS:
        writer.execute(pragma)
    migrate(writer)


def _make_private(path: Path) -> None:
    """SQLite gives the log and its index the rights of the file itself."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def connection(path: Path | str, patience: float) -> sqlite3.Connection:
    """To a file, or by a `file:` URI."""
    # Transactions are ours (isolation_level None); each connection is used by one thread at a time.
    uri = isinstance(path, str)
    return sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False, uri=uri)
