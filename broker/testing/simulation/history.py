"""What happened: what users asked and were told, what sites saw, what the store was made to hold. Imports the domain.

A call of a user is an `invoke`, and then `ok` (told), `fail` (told no) or `info` (not known: hung up, or the replica
died). Everything else is a `note`. The checker reads this, and people do (`told`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import UUID

from broker.domain import offerset
from broker.domain.offerset import SetRecord
from broker.testing.simulation.loop import BEGIN

Kind = Literal["invoke", "ok", "fail", "info", "note"]


@dataclass(frozen=True)
class Entry:
    """`call`: the number of the user's call, 0 for a note. `phases`: what the answer showed, session → phase."""

    at: float
    who: str
    kind: Kind
    what: str
    call: int = 0
    phases: Mapping[UUID, str] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = " ".join(f"{name}={short(value)}" for name, value in self.detail.items())
        shown = " ".join(f"{short(uuid)}:{phase}" for uuid, phase in self.phases.items())
        number = f"#{self.call}" if self.call else ""
        mark = "" if self.kind == "note" else self.kind
        return f"{self.at - BEGIN:9.3f}  {self.who:<12} {mark:<7}{number:<5} {self.what} {said} {shown}".rstrip()


@dataclass(frozen=True)
class Written:
    """One write that the store has made. `record` is the aggregate's."""

    at: float
    who: str
    key: str
    version: int
    record: bytes

    def set(self) -> SetRecord | None:
        """None: it is no offer set's."""
        return offerset.decode(self.record) if len(self.key) == 24 else None


@dataclass(frozen=True)
class Removed:
    """An aggregate that the store was made to forget."""

    at: float
    who: str
    key: str


@dataclass(frozen=True)
class Call:
    """A user's call from its beginning to its end. `end` None: it has not ended."""

    begin: Entry
    end: Entry | None


class History:
    """`time` is the loop's."""

    def __init__(self, time: Callable[[], float]) -> None:
        self._time = time
        self.entries: list[Entry] = []
        self.writes: list[Written] = []
        self.removals: list[Removed] = []
        self.logs: list[Mapping[str, Any]] = []
        self._calls = 0

    def invoke(self, who: str, what: str, **detail: Any) -> int:
        self._calls += 1
        self.entries.append(Entry(self._time(), who, "invoke", what, self._calls, detail=detail))
        return self._calls

    def end(
        self, call: int, who: str, kind: Kind, what: str, phases: Mapping[UUID, str] | None = None, **detail: Any
    ) -> None:
        self.entries.append(Entry(self._time(), who, kind, what, call, phases or {}, detail))

    def note(self, who: str, what: str, **detail: Any) -> None:
        self.entries.append(Entry(self._time(), who, "note", what, detail=detail))

    def wrote(self, who: str, key: str, version: int, record: bytes) -> None:
        self.writes.append(Written(self._time(), who, key, version, record))

    def removed(self, who: str, key: str) -> None:
        self.removals.append(Removed(self._time(), who, key))

    def calls(self) -> list[Call]:
        ends = {entry.call: entry for entry in self.entries if entry.kind in ("ok", "fail", "info")}
        return [Call(entry, ends.get(entry.call)) for entry in self.entries if entry.kind == "invoke"]

    def told(self) -> str:
        """All of it for a person, in the order of time."""
        lines = [(entry.at, str(entry)) for entry in self.entries]
        lines += [(written.at, _decision(written)) for written in self.writes]
        lines += [(gone.at, f"{_stamp(gone.at)} {gone.who} removed {gone.key}") for gone in self.removals]
        lines += [(log["at"], _log(log)) for log in self.logs]
        return "\n".join(line for _, line in sorted(lines, key=lambda pair: pair[0]))


def short(value: Any) -> str:
    if isinstance(value, UUID):
        return str(value)[:8]
    if isinstance(value, SetRecord):
        return f"({len(value.sessions)} sessions)"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _decision(written: Written) -> str:
    record = written.set()
    begin = f"{_stamp(written.at)} {written.who} wrote"
    if record is None:
        return f"{begin} {written.key[:16]} version {written.version}"
    claim = f"claim {short(record.claim.session)} {record.claim.state}" if record.claim else "no claim"
    shown = " ".join(f"{short(s.uuid)}:{s.phase}{'' if not s.released else '·'}" for s in record.sessions)
    return f"{begin} set {short(record.uuid)} version {written.version}: {claim}; {shown}"


def _stamp(at: float) -> str:
    return f"{at - BEGIN:9.3f}  {'store':<12}"


def _log(log: Mapping[str, Any]) -> str:
    rest = " ".join(f"{key}={short(value)}" for key, value in log.items() if key not in ("at", "who", "event"))
    return f"{log['at'] - BEGIN:9.3f}  {log['who']:<12} log: {log['event']} {rest}"
