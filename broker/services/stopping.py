"""That this process is to end, said once and seen by whoever must know. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Callable


class Stopping:
    """From `begin` on the process is not ready for new callers, keeps no connection for a next call, and claims no
    timers; what it is asked it still answers. `at_once` are called then."""

    def __init__(self, *at_once: Callable[[], None]) -> None:
        self._at_once = at_once
        self.begun = False

    def begin(self) -> None:
        """Idempotent."""
        if not self.begun:
            self.begun = True
            for call in self._at_once:
                call()
