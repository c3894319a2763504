"""What a site reports of the transfers that it has made for a session, read with suspicion. Pure; imports the domain.

It is the site's word alone, and may be anything. What can be no transfer is left out without a word: nothing hangs on
it but how fast bytes are thought to reach that site.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum, isfinite
from typing import Any
from uuid import UUID

import msgspec

from broker.domain.learning import Transfer
from broker.domain.quantities import parse_instant

LEAST = 1e6  # bytes; a smaller file measures the latency
_MOST_BYTES, _MOST_RATE = 1e18, 1e12
_LONGEST = 1e8  # seconds
_MOST_NOTES = 1000
_LONGEST_NAME = 200  # characters


class Moved(msgspec.Struct, frozen=True):
    """One transfer, as far as it can be believed. `source`: the storage's name, "" where none is known; `ended`: epoch
    seconds, None: not told. `cached`: nothing moved."""

    source: str
    bytes: float
    seconds: float
    ended: float | None = None
    cached: bool = False


class _Body(msgspec.Struct):
    transfers: msgspec.Raw = msgspec.Raw(b"null")


def moves(body: bytes, storage_of: Callable[[str], str | None]) -> list[Moved]:
    """Those in a session's document, a thousand at most. `storage_of`: the storage that declares an address; it goes
    before the name that the site gives."""
    try:
        notes = msgspec.json.decode(msgspec.json.decode(body, type=_Body).transfers)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    found = [_moved(note, storage_of) for note in notes[:_MOST_NOTES]] if isinstance(notes, list) else []
    return [move for move in found if move is not None]


def _moved(note: Any, storage_of: Callable[[str], str | None]) -> Moved | None:
    if not isinstance(note, dict):
        return None
    count, seconds = _number(note.get("bytes"), _MOST_BYTES), _number(note.get("seconds"), _LONGEST)
    if count is None or seconds is None or count > LEAST + seconds * _MOST_RATE:
        return None
    url, name = note.get("url"), note.get("source")
    source = storage_of(url) if isinstance(url, str) and len(url) < 10_000 else None
    if source is None and isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isprintable():
        source = name
    return Moved(source or "", count, seconds, _instant(note.get("ended")), note.get("cached") is True)


def _number(value: object, most: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return None
    return float(value) if isfinite(value) else None


def _instant(value: object) -> float | None:
    try:
        return parse_instant(value).timestamp() if value is not None else None
    except (ValueError, OverflowError):
        return None


def moving(moves_: Sequence[Moved]) -> float | None:
    """Seconds in which any of the bytes moved; None: nothing is reported."""
    return _busy([move for move in moves_ if not move.cached]) if moves_ else None


def transfers(session: UUID, moves_: Sequence[Moved], at: float, over: float) -> dict[str, Transfer]:
    """By source: what a session that was accepted `at` and was seen to be `over` has shown of its ways. Files that
    moved side by side shared the way, so that all of one source are one transfer; small ones measure no rate, cached
    ones nothing. One that took longer than the session lived is not believed."""
    found: dict[str, list[Moved]] = {}
    for move in moves_:
        if not move.cached and move.bytes >= LEAST and 0.0 < move.seconds <= max(0.0, over - at) + 60.0:
            found.setdefault(move.source, []).append(move)
    return {
        source: Transfer(session, over, fsum(move.bytes for move in some), max(_busy(some), 1e-3), at)
        for source, some in found.items()
    }


def _busy(moves_: Sequence[Moved]) -> float:
    """The time in which at least one was under way; where one does not say when it ended, one after the other."""
    spans = sorted((move.ended - move.seconds, move.ended) for move in moves_ if move.ended is not None)
    if len(spans) < len(moves_):
        return fsum(move.seconds for move in moves_)
    busy, until = 0.0, float("-inf")
    for start, end in spans:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy
