"""Who waits in this process for which aggregate to change. Imports nothing of ours.

This is the one place where a store that several processes share would ring for what the others wrote. Until there is
one, whoever waits looks again from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Hub:
    def __init__(self) -> None:
        self._bells: dict[str, set[asyncio.Event]] = {}
        self.closed = False

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
