"""What can be wrong with one aggregate, seen by itself: pure. Imports ports and the domain.

A record is the truth. Lines of lists, timers and watch lists follow from it, so that each can be made anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import msgspec

from broker.domain import offerset
from broker.domain import session as phases
from broker.domain.offerset import SetRecord
from broker.ports import Listing, Timer, Whole
from broker.services import records

PATIENCE = 600.0  # seconds for which an acceptance may be in doubt before somebody should know
LATE = 300.0  # seconds after its time at which a timer that nobody has is overdue
PUT_OFF = 3600.0  # seconds by which a worker may have put a timer off; beyond it, it would not come

Level = Literal["ERROR", "WARN"]


class Finding(msgspec.Struct, frozen=True):
    """`level` ERROR: something is not being done, or is done and nobody knows; WARN: to be tidied up, or watched.
    `where`: a uuid, a site, or the key of an aggregate. `mends`: what mending does; empty: it takes a person, and
    `says` ends with what to do. `mended`: it was done."""

    level: Level
    what: Literal["line", "timer", "overdue", "watch", "doubt", "unreadable", "site", "orphan", "leftover"]
    where: str
    says: str
    mends: str = ""
    mended: bool = False

    def done(self) -> Finding:
        return msgspec.structs.replace(self, mended=True)


class Repair(msgspec.Struct, frozen=True):
    """What to write beside the record, so that what hangs on it follows from it again."""

    timers: Mapping[str, float | None] = {}
    put: tuple[Listing, ...] = ()
    cut: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.timers or self.put or self.cut)


def repair(record: SetRecord, whole: Whole, now: float) -> Repair:
    """Empty where all is as it should be."""
    wanted = {(line.kind, line.id): line for line in records.lines(record)}
    there = {(line.kind, line.id): line for line in whole.lines}
    derived = offerset.timers(record)
    timers: dict[str, float | None] = {key: None for key in whole.timers if key not in derived}
    timers.update({key: due for key, due in derived.items() if _astray(whole.timers.get(key), due, now)})
    return Repair(
        timers=timers,
        put=tuple(line for key, line in wanted.items() if there.get(key) != line),
        cut=tuple(key for key in there if key not in wanted),
    )


def _astray(timer: Timer | None, due: float, now: float) -> bool:
    """Missing, earlier than it may be, or later than any worker puts it off."""
    return timer is None or timer.due < due - 1.0 or timer.due > max(due, now) + PUT_OFF


def of_set(record: SetRecord, whole: Whole, now: float, sites: Collection[str]) -> Iterator[Finding]:
    """`sites`: the ones that are registered."""
    wrong, uuid = repair(record, whole, now), str(record.uuid)
    if wrong.put or wrong.cut:
        ids = sorted({line.id for line in wrong.put} | {id for _, id in wrong.cut})
        says = f"lists say otherwise of {', '.join(ids[:3])}{' …' if len(ids) > 3 else ''}."
        yield Finding("WARN", "line", uuid, says, "the lines are written anew from the record")
    for key, due in sorted(wrong.timers.items()):
        yield _timer(key, due, whole.timers.get(key), uuid)
    claim = record.claim
    if claim and claim.state != "taken" and now - claim.at > PATIENCE:
        site = record.session(claim.session).site
        says = f"whether {site} took it is not known for {long(now - claim.at)} ({claim.state}): {claim.reason}"
        yield Finding("ERROR", "doubt", str(claim.session), f"{says} Ask there, then: broker resolve.")
    for item in record.sessions:
        busy = item.uuid == record.taken and item.phase not in phases.TERMINAL
        if busy and item.site not in sites:
            says = f"it is {item.phase} at {item.site}, which is registered no more. Register it, or cancel it there."
            yield Finding("ERROR", "site", str(item.uuid), says)


def _timer(key: str, due: float | None, present: Timer | None, where: str) -> Finding:
    if due is None:
        return Finding("WARN", "timer", where, f"a timer {key} is there which nothing asks for.", "it is removed")
    if present is None:
        return Finding("ERROR", "timer", where, f"the timer {key} is missing.", "it is set")
    return Finding("ERROR", "timer", where, f"the timer {key} comes at another time than it should.", "it is set")


def leftover(key: str, whole: Whole) -> Finding:
    """What hangs on no record."""
    parts = [text for text in (_some(whole.lines, "line"), _some(whole.timers, "timer")) if text]
    return Finding("WARN", "leftover", key, f"{' and '.join(parts)} of what is there no more.", "they are removed")


def _some(things: Collection[object], name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}" if things else ""


def overdue(whole: Whole, now: float, changed: float = 0.0) -> Iterator[tuple[str, float]]:
    """Timers that nobody has though their time came long ago, and by how much. `changed`: when the record last was;
    a timer that is set to be done at once is due since then."""
    for key, timer in whole.timers.items():
        late = now - max(timer.due, changed)
        if not timer.leased and late > LATE:
            yield key, late


def changed(record: SetRecord) -> float:
    """When it last was, as far as it says so."""
    claimed = record.claim.at if record.claim else 0.0
    return max(record.created, claimed, *(item.modified for item in record.sessions), 0.0)


def is_set(key: str) -> bool:
    """Whether it can be the key of a set's aggregate."""
    return len(key) == 24 and all(digit in "0123456789abcdef" for digit in key)


def long(seconds: float) -> str:
    """In words."""
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} days"
