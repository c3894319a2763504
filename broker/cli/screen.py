"""Where a command writes, and for whom: a person at a terminal or a program behind a pipe. Imports the client's table.

Data goes to `out`, everything about the work to `err`. Progress is drawn only where `err` is a terminal.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, TextIO

from broker.client.table import WIDE, Look
from broker.client.words import cut, plain

_TICK = 0.25  # seconds between two drawings of the progress


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Screen:
    """`zone` None: this machine's time zone. `clock` tells the present."""

    out: TextIO
    err: TextIO
    tty: bool
    width: int
    drawn: bool = False
    zone: tzinfo | None = None
    clock: Callable[[], datetime] = field(default=_now)
    _waits: bool = False

    @classmethod
    def real(cls) -> Screen:
        width = shutil.get_terminal_size((80, 24)).columns
        return cls(sys.stdout, sys.stderr, sys.stdout.isatty(), width, sys.stderr.isatty())

    def look(self, *, wide: bool = False, now: datetime | None = None, took: float | None = None) -> Look:
        width = max(self.width, WIDE) if wide else self.width
        return Look(width, now or self.clock(), self.zone, took)

    def say(self, text: str) -> None:
        """A line, or several, of the answer."""
        if self._waits:
            self._last_line("")
        print(text, file=self.out, flush=True)  # this is the command's one way out

    def note(self, text: str) -> None:
        """A line about the work."""
        print(plain(text), file=self.err, flush=True)

    def json(self, document: Any) -> None:
        # ASCII: what is escaped has no power over a terminal.
        self.say(json.dumps(document, indent=2))

    @asynccontextmanager
    async def waiting(self, text: Callable[[], str]) -> AsyncIterator[None]:
        """While the body runs, `text()` and the seconds gone by stand on the terminal's last line."""
        if not self.drawn:
            yield
            return
        drawing = asyncio.create_task(self._draw(text))
        self._waits = True
        try:
            yield
        finally:
            self._waits = False
            drawing.cancel()
            with suppress(asyncio.CancelledError):
                await drawing
            self._last_line("")

    async def _draw(self, text: Callable[[], str]) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while True:
            self._last_line(f"{text()} … {loop.time() - begun:.0f} s")
            await asyncio.sleep(_TICK)

    def _last_line(self, text: str) -> None:
        print(f"\r\x1b[K{cut(plain(text), self.width - 1)}", end="", file=self.err, flush=True)
