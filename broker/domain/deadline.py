"""A deadline as an object: one absolute moment that is handed down and only ever shrinks. Imports msgspec.

It holds no clock; whoever asks passes the present, on the same monotonic scale (Clock.monotonic).
"""

from __future__ import annotations

import msgspec


class Deadline(msgspec.Struct, frozen=True):
    at: float  # seconds, monotonic

    @classmethod
    def after(cls, seconds: float, now: float) -> Deadline:
        return cls(now + seconds)

    def left(self, now: float) -> float:
        """Seconds, never below zero."""
        return max(0.0, self.at - now)

    def less(self, seconds: float) -> Deadline:
        """An earlier deadline, for a step that must leave `seconds` to what follows it."""
        return Deadline(self.at - seconds)

    def at_most(self, seconds: float, now: float) -> Deadline:
        return Deadline(min(self.at, now + seconds))
