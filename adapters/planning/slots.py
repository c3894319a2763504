"""Where a run fits into a site's calendar. Pure; imports the Booking of the ports.

The rules: offers of one set exclude each other, so a set is charged its maximum at each instant, not its sum.
Accepted bookings are charged to their end. What open offers hold is at most a share of each kind of room. A kind
that `room` does not name is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from math import inf

import msgspec

from broker.ports import Booking

Amounts = Mapping[str, float]
_SLACK = 1e-6  # what adding and subtracting floats may leave over


class Segment(msgspec.Struct, frozen=True):
    """From `start` to `end` nothing changes: `charged` in all, and what of `open` offers alone would be charged."""

    start: float
    end: float
    charged: Amounts
    open: Amounts


class Need(msgspec.Struct, frozen=True):
    """What a run takes. It is kept for `length` seconds from its start, or from `until` if that is later: an offer
    may be taken up at the last moment, and then begins at that moment."""

    amounts: Amounts
    length: float
    until: float

    def end(self, start: float) -> float:
        return max(start, self.until) + self.length


def segments(bookings: Iterable[Booking], besides: str = "") -> list[Segment]:
    """What is charged over all time, without the set `besides` (with itself a set never competes)."""
    others = [b for b in bookings if b.set != besides and b.amounts and b.end > b.start]
    edges = sorted({edge for b in others for edge in (b.start, b.end)})
    turns: dict[float, list[Booking]] = {}
    for booking in others:
        turns.setdefault(booking.start, []).append(booking)
        turns.setdefault(booking.end, []).append(booking)
    tally = _Tally()
    found = [Segment(-inf, edges[0] if edges else inf, {}, {})]
    for start, end in pairwise([*edges, inf]):
        for booking in turns[start]:
            tally.turn(booking, enters=booking.start == start)
        found.append(Segment(start, end, *tally.sums()))
    return found


def earliest(
    timeline: list[Segment], need: Need, room: Amounts, low: float, high: float, open_share: float | None
) -> float | None:
    """The first start within [low, high] at which `need` fits; None: there is none.

    `open_share` None: it is not to be held as an open offer, so that only the room itself counts.
    """
    start = low
    for segment in timeline:
        if segment.end <= start:
            continue
        if segment.start >= need.end(start):
            break
        if not _fits(segment, need.amounts, room, open_share):
            start = segment.end
            if start > high or start == inf:
                return None
    return start if start <= high else None


def within(amounts: Amounts, room: Amounts, share: float = 1.0) -> bool:
    """Whether `amounts` fit into an empty site, or into that share of it."""
    return all(amount <= share * room[what] + _SLACK for what, amount in amounts.items() if what in room)


def _fits(segment: Segment, amounts: Amounts, room: Amounts, open_share: float | None) -> bool:
    for what, amount in amounts.items():
        if what not in room or amount <= 0:
            continue
        if segment.charged.get(what, 0.0) + amount > room[what] + _SLACK:
            return False
        if open_share is not None and segment.open.get(what, 0.0) + amount > open_share * room[what] + _SLACK:
            return False
    return True


class _Tally:
    """Running sums over sets while time goes on; only the set that changes is worked out anew."""

    def __init__(self) -> None:
        self._active: dict[str, dict[str, Booking]] = {}
        self._charged: dict[str, float] = {}
        self._open: dict[str, float] = {}

    def turn(self, booking: Booking, *, enters: bool) -> None:
        active = self._active.setdefault(booking.set, {})
        self._add(active, -1)
        if enters:
            active[booking.id] = booking
        else:
            del active[booking.id]
        self._add(active, +1)
        if not active:
            del self._active[booking.set]

    def _add(self, active: Mapping[str, Booking], sign: int) -> None:
        _accumulate(self._charged, _most(active.values()), sign)
        # Not less what the same set has accepted: when that run ends early, its open siblings must not push the
        # open share over its limit.
        _accumulate(self._open, _most(b for b in active.values() if b.until is not None), sign)

    def sums(self) -> tuple[Amounts, Amounts]:
        return dict(self._charged), dict(self._open)


def _accumulate(sums: dict[str, float], amounts: Amounts, sign: int) -> None:
    for what, amount in amounts.items():
        sums[what] = sums.get(what, 0.0) + sign * amount


def _most(bookings: Iterable[Booking]) -> dict[str, float]:
    most: dict[str, float] = {}
    for booking in bookings:
        for what, amount in booking.amounts.items():
            most[what] = max(most.get(what, 0.0), amount)
    return most
