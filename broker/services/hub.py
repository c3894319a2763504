"""Who waits in this process for which aggregate to change. Imports nothing of ours.

The services ring for what this process writes; a store that several processes share rings for what the others wrote
(`Store.follow`). Whoever waits looks again from time to time all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager


class Hub:
    def __init__(self) -> None:
        self._bells: dict[str, set[asyncio.Event]] = {}
        self.closed = False

    def watched(self) -> Collection[str]:
        """The aggregates that somebody listens for at present."""
        return self._bells.keys()

    def ring(self, aggregate: str) -> None:
        """It was written: wake whoever listens."""
        for bell in self._bells.get(aggregate, ()):
            bell.set()

    @contextmanager
    def listen(self, aggregate: str) -> Iterator[asyncio.Event]:
        """The bell rings for every write from here on; whoever waits clears it before looking."""
        bell = asyncio.Event()
        self._bells.setdefault(aggregate, set()).add(bell)
        try:
            yield bell
        finally:
            self._bells[aggregate].discard(bell)
            if not self._bells[aggregate]:
                del self._bells[aggregate]

    def close(self) -> None:
        """Nobody shall wait any more."""
        self.closed = True
        for bells in self._bells.values():
            for bell in bells:
                bell.set()
