"""What a check may find: every check by name, with the text that it follows, and a report. Imports errors alone.

FAIL breaks the standard, its description, HTTP, or a client generated from the description. WARN is permitted, but
every client has to work around it. NOTE is a fact without judgement. SKIP: it could not be looked at, and why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

MOST_SAID = 8  # faults of one check that are told one by one


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    SKIP = "skip"
    WARN = "warn"
    FAIL = "fail"


class Check(NamedTuple):
    """`law`: where it is written."""

    title: str
    law: str


_ASK = "1.0 POST /requests"
_SET = "1.0 GET /offersets/{uuid}"
_SESSION = "1.0 GET /sessions/{uuid}"
_UPDATE = "1.0 POST /sessions/{uuid}"

# In the order in which they are told.
CHECKS: Mapping[str, Check] = {
    "version": Check("version 1.0 is spoken", "1.0 paths; docs/protocol.md 1.7"),
    "broker": Check("which implementation it is", "docs/protocol.md 2"),
    "clock": Check("its clock agrees with ours", "RFC 9110 6.6.1"),
    "ask.answer": Check("a request is answered by 303 or 200", _ASK),
    "ask.body": Check("the offer set stands in the answer", f"{_ASK}; docs/protocol.md 1.1"),
    "ask.location": Check("Location names the set, at the same origin", f"{_ASK}; docs/protocol.md 1.6"),
    "set.conforms": Check("the offer set is as described", "1.0 OfferSetResponse"),
    "set.additions": Check("nothing undocumented is in it", "1.0 OfferSetResponse"),
    "set.result": Check("YES with offers, NO without", "1.0 OfferSetResponse.result"),
    "set.read": Check("the set can be read again", _SET),
    "messages": Check("messages are filled in", "1.0 MessageItem; docs/protocol.md 1.4"),
    "offer.phase": Check("every offer is OFFERED, under a uuid of its own", "1.0 SimpleExecutionSessionPhase"),
    "offer.expires": Check("every offer ends, and later than now", "1.0 SimpleExecutionSession.expires"),
    "offer.options": Check("an offer says that it can be accepted and rejected", "1.0 ComponentMetadata.options"),
    "offer.costs": Check("every cost has a type and an amount", "1.0 SimpleMinMaxFloatCost"),
    "offer.start": Check("an offer says when it would start", "1.0 LifecycleSchedule; docs/protocol.md 1.4"),
    "offer.size": Check("an offer holds what was asked for", "1.0 SimpleComputeCores, SimpleComputeMemory"),
    "session.read": Check("an offer can be read as a session", _SESSION),
    "urls": Check("the URLs in the documents lead here", "1.0 ComponentMetadata.url"),
    "format.json": Check("JSON is written when asked for", _SET),
    "format.yaml": Check("YAML is written when asked for", _SET),
    "format.xml": Check("XML is written when asked for", _SET),
    "refuse.set": Check("an unknown set is 404", f"{_SET}; RFC 9110 15.5.5"),
    "refuse.session": Check("an unknown session is 404", f"{_SESSION}; RFC 9110 15.5.5"),
    "refuse.uuid": Check("what is no uuid is refused", f"{_SESSION}; RFC 9110 15.5"),
    "refuse.body": Check("a body that is no JSON is refused", f"{_ASK}; RFC 9110 15.5.1"),
    "refuse.shape": Check("a body of another shape is refused", f"{_ASK}; RFC 9110 15.5.1"),
    "refuse.media": Check("a body of another format is refused", f"{_ASK}; RFC 9110 15.5.16"),
    "refuse.kind": Check("an unknown kind is refused, or answered NO", f"{_ASK}; docs/protocol.md 1.1"),
    "refuse.update": Check("an unknown phase changes nothing", f"{_UPDATE}; docs/protocol.md 1.3"),
    "auth.post": Check("who may ask, and how one signs in", "RFC 9110 15.5.2, 11.6.1"),
    "auth.read": Check("who may read", "RFC 9110 15.5.2; docs/protocol.md 1.5"),
    "auth.identity": Check("answers name who signed in", "AuthVO 1.0, X-VO-Authenticated"),
    "release": Check("a rejected offer reads REJECTED afterwards", f"{_UPDATE}; docs/protocol.md 1.3"),
    "left": Check("nothing of this check is left open", f"{_UPDATE}"),
}

_ORDER = (Level.OK, Level.NOTE, Level.SKIP, Level.WARN, Level.FAIL)


@dataclass(frozen=True)
class Finding:
    check: str
    level: Level
    said: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        return CHECKS[self.check].title

    @property
    def law(self) -> str:
        return CHECKS[self.check].law


@dataclass
class Findings:
    """Gathers what is found. A check that is told of several times has the worst level, and the words of that."""

    _found: dict[str, Finding] = field(default_factory=dict)

    def say(self, check: str, level: Level, *said: str) -> None:
        """Raises KeyError for a check that is not in the table."""
        before = self._found.get(check, Finding(check, Level.OK))
        _ = CHECKS[check]
        if _ORDER.index(level) > _ORDER.index(before.level):
            before = Finding(check, level)
        if level == before.level:
            before = Finding(check, level, tuple(dict.fromkeys((*before.said, *said))))
        self._found[check] = before

    def ok(self, check: str, *said: str) -> None:
        self.say(check, Level.OK, *said)

    def note(self, check: str, *said: str) -> None:
        self.say(check, Level.NOTE, *said)

    def warn(self, check: str, *said: str) -> None:
        self.say(check, Level.WARN, *said)

    def fail(self, check: str, *said: str) -> None:
        self.say(check, Level.FAIL, *said)

    def skip(self, check: str, *said: str) -> None:
        self.say(check, Level.SKIP, *said)

    def judge(self, check: str, faults: list[str], level: Level = Level.FAIL, good: str = "") -> None:
        """OK where there are no faults; else the first of them, and how many more."""
        if not faults:
            self.ok(check, *([good] if good else []))
            return
        more = len(faults) - MOST_SAID
        self.say(check, level, *faults[:MOST_SAID], *([f"and {more} more"] if more > 0 else []))

    def all(self, reason: str) -> tuple[Finding, ...]:
        """One finding for every check; what nobody came to is skipped for that reason."""
        return tuple(self._found.get(name, Finding(name, Level.SKIP, (reason,))) for name in CHECKS)


@dataclass(frozen=True)
class Report:
    """`speaks` is the dialect's letter (docs/protocol.md 1.7), empty where none was understood; `asked` what offers
    were asked for; `left` what could not be given back, to be rejected by hand; `signed_out`: it wanted a sign-in that
    we did not have."""

    url: str
    speaks: str
    dialect: str
    asked: str
    findings: tuple[Finding, ...]
    left: tuple[str, ...] = ()
    signed_out: bool = False

    @property
    def conforms(self) -> bool:
        return not self.signed_out and not self.count(Level.FAIL)

    def count(self, level: Level) -> int:
        return sum(finding.level == level for finding in self.findings)
