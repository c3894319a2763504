"""A store with one SQLite database per aggregate: what works on it needs no atomicity across two aggregates.

Imports ports, errors, store. For tests: lists and timers are gathered by asking every database.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path

from broker.errors import Unavailable
from broker.ports import Clock, Lease, Listing, Query, Stored, Whole
from broker.store.database import Database, connect
from broker.store.sqlite import SqliteStore
from broker.testing.executor import InlineExecutor


class StoreApart:
    """The Store port over a directory, which is made. At most `keep_open` databases are open at a time.

    A line of a list belongs to the aggregate that wrote it: the same kind and id from two aggregates are two lines.
    """

    def __init__(self, directory: Path, clock: Clock, *, keep_open: int = 32) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self._clock = clock
        self._keep_open = keep_open
        self._open: dict[Path, SqliteStore] = {}  # the least recently used first
        self._turn = asyncio.Lock()  # one call at a time, so that nothing is closed while in use
        self._closed = False

    def path(self, aggregate: str) -> Path:
        return self.directory / f"{hashlib.sha256(aggregate.encode()).hexdigest()[:40]}.db"

    async def now(self) -> float:
        return self._clock.now()

    async def read(self, aggregate: str) -> Stored | None:
        async with self._turn:
            store = await self._existing(aggregate)
            return await store.read(aggregate) if store else None

    async def body(self, aggregate: str) -> bytes | None:
        async with self._turn:
            store = await self._existing(aggregate)
            return await store.body(aggregate) if store else None

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
        async with self._turn:
            store = await (self._existing(aggregate) if version else self._at(self.path(aggregate)))
            if store is None:
                return False
            return await store.write(aggregate, version, record, body=body, timers=timers, listings=listings, cut=cut)

    async def remove(self, aggregate: str, version: int) -> bool:
        async with self._turn:
            store = await self._existing(aggregate)
            return await store.remove(aggregate, version) if store else False

    async def claim(self, limit: int, lease: float) -> list[Lease]:
        leases: list[Lease] = []
        async with self._turn:
            ready = [(due, path) async for path, store in self._all() if (due := await store.next_due()) is not None]
            for _, path in sorted(ready):
                store = await self._at(path)
                leases += await store.claim(limit - len(leases), lease)
        return sorted(leases, key=lambda lease: lease.due)

    async def done(self, lease: Lease) -> bool:
        async with self._turn:
            store = await self._existing(lease.aggregate)
            return await store.done(lease) if store else False

    async def postpone(self, lease: Lease, due: float) -> bool:
        async with self._turn:
            store = await self._existing(lease.aggregate)
            return await store.postpone(lease, due) if store else False

    async def renew(self, lease: Lease, seconds: float) -> bool:
        async with self._turn:
            store = await self._existing(lease.aggregate)
            return await store.renew(lease, seconds) if store else False

    async def next_due(self) -> float | None:
        async with self._turn:
            return min(
                [due async for _, store in self._all() if (due := await store.next_due()) is not None], default=None
            )

    async def listings(self, query: Query) -> list[Listing]:
        async with self._turn:
            lines = [line async for _, store in self._all() for line in await store.listings(query)]
        lines.sort(key=lambda line: (line.created, line.id), reverse=True)
        return lines[: query.limit]

    async def counts(self) -> Mapping[tuple[str, str, str], int]:
        total: Counter[tuple[str, str, str]] = Counter()
        async with self._turn:
            async for _, store in self._all():
                total.update(await store.counts())
        return total

    async def keys(self, cursor: str = "", limit: int = 100) -> tuple[list[str], str]:
        async with self._turn:
            found = sorted([key async for _, store in self._all() for key in (await store.keys(cursor, limit))[0]])
        piece = found[: max(1, limit)]
        return piece, piece[-1] if len(piece) < len(found) or len(piece) == limit else ""

    async def whole(self, aggregate: str) -> Whole | None:
        async with self._turn:
            store = await self._existing(aggregate)
            return await store.whole(aggregate) if store else None

    async def prune_bodies(self, before: float) -> int:
        async with self._turn:
            return sum([await store.prune_bodies(before) async for _, store in self._all()])

    async def follow(self, watched: Callable[[], Collection[str]], ring: Callable[[str], None]) -> None:
        """Nobody else writes."""

    async def ping(self) -> None:
        async with self._turn:
            await (await self._at(self.directory / "pulse.db")).ping()

    async def close(self) -> None:
        async with self._turn:
            self._closed = True
            while self._open:
                await self._open.pop(next(iter(self._open))).close()

    async def _existing(self, aggregate: str) -> SqliteStore | None:
        path = self.path(aggregate)
        return await self._at(path) if path in self._open or path.exists() or self._closed else None

    async def _at(self, path: Path) -> SqliteStore:
        if self._closed:
            raise Unavailable("the store is closed.")
        store = self._open.pop(path, None) or self._opened(path)
        self._open[path] = store
        while len(self._open) > self._keep_open:
            await self._open.pop(next(iter(self._open))).close()
        return store

    def _opened(self, path: Path) -> SqliteStore:
        return SqliteStore(Database(path, *connect(path, 5.0), InlineExecutor()), self._clock)

    async def _all(self) -> AsyncIterator[tuple[Path, SqliteStore]]:
        if self._closed:
            raise Unavailable("the store is closed.")
        for path in sorted(self.directory.glob("*.db")):
            yield path, await self._at(path)
