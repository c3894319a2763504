"""Hears what other brokers on the same Redis have written. Imports errors and redis_nodes.

Asked for a few times a second, over the connections that are there anyway. A blocking read would hold a connection
to each server, and would have to be started anew whenever somebody watches another partition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection

import structlog

from broker.errors import Unavailable
from broker.store.redis_nodes import Nodes, partition_of
from broker.store.redis_scripts import NEWS_SINCE

EVERY = 0.2  # seconds between looks
TROUBLE = 1.0  # seconds until the next look after one that failed
AT_ONCE = 200  # entries taken from one partition at a look

_log = structlog.get_logger(__name__)


class News:
    """`origin` is what our own writes are marked with; they ring nobody."""

    def __init__(self, nodes: Nodes, origin: str) -> None:
        self._nodes, self._origin = nodes, origin.encode()
        self._read: dict[int, int] = {}  # partition → number of the last entry that was read
        self._troubles = nodes.troubles

    async def follow(self, watched: Callable[[], Collection[str]], ring: Callable[[str], None]) -> None:
        """Until cancelled. See `Store.follow`."""
        while True:
            pause = EVERY
            try:
                await self._look(watched(), ring)
            except Unavailable as trouble:
                _log.warning("news of other brokers unreadable", why=trouble.detail)
                self._read.clear()
                pause = TROUBLE
            await asyncio.sleep(pause)

    async def _look(self, watched: Collection[str], ring: Callable[[str], None]) -> None:
        by_partition: dict[int, set[str]] = {}
        for key in watched:
            by_partition.setdefault(partition_of(key), set()).add(key)
        troubles = self._nodes.troubles
        same = troubles == self._troubles  # else another server may count on from where it was: no gap would show
        self._read = {number: last for number, last in self._read.items() if same and number in by_partition}
        own = {number: (self._read.get(number, ""),) for number in by_partition}
        for group, reply in zip(
            self._nodes.groups(own), await self._nodes.each(NEWS_SINCE, AT_ONCE, numbers=own, own=own), strict=True
        ):
            for number, (last, missed, entries) in zip(group, reply, strict=True):
                # Whoever began to watch just now may have read before an entry that is older than our first look.
                lost = bool(missed) or number not in self._read
                self._read[number] = last
                for key in by_partition[number] if lost else self._of_others(by_partition[number], entries):
                    ring(key)
        self._troubles = troubles

    def _of_others(self, watched: Collection[str], entries: list[bytes]) -> set[str]:
        written = {
            key.decode() for key, origin in zip(entries[::2], entries[1::2], strict=True) if origin != self._origin
        }
        return written.intersection(watched)
