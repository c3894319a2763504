"""Prints a session's way from acceptance to its end, a line a phase. Imports the client.

14:03 ACCEPTED   alba; 3 other offers released. Session 91c2, "fit". Ctrl-C is safe
14:22 RUNNING    data already there
15:20 COMPLETED  exit 0. Paid 1.14 (offered 1.20 EUR), 2 min early
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from broker.cli.exits import Exit
from broker.cli.screen import Screen
from broker.client.sessions import Session
from broker.client.words import clock, count, money, plain, short, size, span
from broker.domain.session import REFUSED, Promise
from broker.errors import BrokerError


class Follower:
    """Remembers what was shown, so that each phase stands once and each message too."""

    def __init__(self, screen: Screen, seen: Collection[str] = ()) -> None:
        """`seen`: messages that are no news."""
        self._screen = screen
        self._phase = ""
        self._seen = set(seen)

    def accepted(self, session: Session, others: int | None, *, watching: bool) -> None:
        released = f"; {count(others, 'other offer')} released" if others else ""
        safe = " Ctrl-C is safe" if watching else ""
        name = f', "{plain(session.name)}"' if session.name else ""
        self._line(session, f"{plain(session.site)}{released}. Session {short(session.uuid)}{name}.{safe}")

    def show(self, session: Session) -> None:
        if session.state == self._phase and self._seen.issuperset(session.messages):
            return
        self._line(session, note(session, self._seen))
        for connector in session.document.connectors or ():
            if connector.location and session.phase == "AVAILABLE":
                # Without what lets in whoever reads it over a shoulder, or in a log.
                place = plain(connector.location.partition("?")[0])
                protocol = plain(connector.protocol or "at")
                self._screen.say(f"      {protocol}  {place}    broker open {short(session.uuid)}")

    def silent(self, error: BrokerError) -> None:
        self._screen.note(f"{clock(self._screen.clock(), self._screen.zone, self._screen.clock())} {error.detail} "
                          "The run goes on; trying again.")  # fmt: skip

    def results(self, session: Session) -> None:
        if not session.results:
            self._screen.say("      no result files")
        for file in session.results.values():
            until = f"   kept until {self._time(file.kept_until)}" if file.kept_until else ""
            self._screen.say(
                f"      results/{plain(file.name)}  {size(file.bytes)}{until}    broker fetch {short(session.uuid)}"
                if file.written_to is None
                else f"      {plain(file.written_to)}  {size(file.bytes)}"
            )

    def _line(self, session: Session, text: str) -> None:
        self._phase = session.state
        self._seen.update(session.messages)
        self._screen.say(f"{self._time(moment(session) or self._screen.clock())} {session.state:<10} {text}".rstrip())

    def _time(self, when: datetime) -> str:
        return clock(when, self._screen.zone, self._screen.clock())


def moment(session: Session) -> datetime | None:
    """When the session came into its present phase, as far as anybody knows."""
    promise = session.document.promise or Promise()
    if session.ended and promise.actual_end:
        return promise.actual_end
    if session.state == "RUNNING" and promise.actual_start:
        return promise.actual_start
    return session.document.meta.modified if session.document.meta else None


def note(session: Session, seen: Collection[str]) -> str:
    """What there is to say at this phase: the last message that is news; at the end, the actual beside the promised."""
    news = [text for text in session.messages if text not in seen]
    said = plain(news[-1]) if news else ""
    if not session.ended or session.phase in REFUSED:
        return said
    promise = session.document.promise or Promise()
    known = promise.actual_cost is not None or session.phase == "COMPLETED"
    ends = [said.removesuffix("."), _kept(promise, session.phase) if known else ""]
    return ". ".join(part for part in ends if part)


def _kept(promise: Promise, phase: str) -> str:
    """`Paid 1.14 (offered 1.20 EUR), 2 min early`, as much of it as is known. What failed or was ended is not early."""
    punctual = _punctual(promise) if phase == "COMPLETED" else ""
    return ", ".join(part for part in (_paid(promise), punctual) if part)


def _paid(promise: Promise) -> str:
    unit = f" {plain(promise.unit)}" if promise.unit else ""
    offered = None if promise.cost is None else f"{money(promise.cost)}{unit}"
    if promise.actual_cost is None:
        return f"Offered {offered}; what is paid is not known" if promise.cost else ""
    if promise.actual_cost == 0 and not promise.cost:
        return "Free"
    if offered is None:
        return f"Paid {money(promise.actual_cost)}{unit}"
    return f"Paid {money(promise.actual_cost)} (offered {offered})"


def _punctual(promise: Promise) -> str:
    if promise.start is None or promise.duration is None or promise.actual_end is None:
        return ""
    late = (promise.actual_end - promise.start - promise.duration).total_seconds()
    if abs(late) < 60:
        return "on time"
    return f"{span(abs(late))} {'late' if late > 0 else 'early'}"


def verdict(session: Session) -> Exit:
    """What the session's phase means to a shell."""
    if session.phase == "COMPLETED" or not session.ended:
        return Exit.DONE
    return Exit.NO if session.phase in REFUSED else Exit.RUN_FAILED
