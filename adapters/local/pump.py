"""Carries what children write into their logs while the supervisor waits. Imports the standard library alone."""

from __future__ import annotations

import os
import selectors
from contextlib import suppress

from adapters.local.outputs import Log

PIECE = 1 << 16


class Pump:
    """`wake` is a descriptor that turns readable when a signal has come."""

    def __init__(self, wake: int) -> None:
        self._wake = wake
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake, selectors.EVENT_READ)

    def add(self, log: Log) -> int:
        """A descriptor for the child to write to; what comes there goes to `log`. The caller closes it."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._selector.register(reader, selectors.EVENT_READ, log)
        return writer

    def wait(self, seconds: float) -> None:
        """Returns when something was written, a signal came, or the time has passed."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            self._move(key.fd, key.data)

    def drain(self) -> None:
        """After the children's end: take what is left in their pipes, and close these."""
        for key in list(self._selector.get_map().values()):
            while key.data is not None and self._move(key.fd, key.data):
                continue
            if key.data is not None:
                self._drop(key.fd)

    def _move(self, reader: int, log: Log | None) -> bool:
        """True: there may be more."""
        try:
            piece = os.read(reader, PIECE)
        except BlockingIOError:
            return False
        if log is not None and piece:
            log.write(piece)
        elif log is not None:
            self._drop(reader)
        return bool(piece)

    def _drop(self, reader: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(reader)
            os.close(reader)
