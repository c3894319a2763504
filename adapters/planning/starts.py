"""What is known of the starting of jobs on a platform that cannot promise by itself to start one once. Imports ports,
errors and this package's ledger.

Kept in a calendar of its own beside the site's, so that it is durable, and one for all replicas:

    begun      somebody is about to submit it, or was when a crash came; until its lease ends nobody else does
    submitted  the platform has answered that it has the job
    ended      somebody asked for its end: it is never submitted after that

Each is one booking: its id is the session, its set the word, from when it was written to when it may be forgotten.
"""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from adapters.planning.ledger import Ledger, Step
from broker.ports import Book, Booking, Calendar, Clock

BEGUN, SUBMITTED, ENDED = "begun", "submitted", "ended"

SETTLED = 60.0  # seconds after the deadline of a submit within which a job that it made is to be seen, clocks included
_KNOWN = 3600.0  # seconds for which a submit is known; the platform is believed to know its jobs for longer
_ENDED_KNOWN = 86400.0  # seconds for which an end is known; no start comes later than that


class Start(NamedTuple):
    """`live`: of one begun, whether its lease holds."""

    word: str
    live: bool


class Starts:
    """Of one site. Every change is a compare-and-set, durable on return. What all methods raise: SiteUnreachable and
    SiteBusy (nothing changed), SiteMisbehaved (it may have)."""

    def __init__(self, calendar: Calendar, site: str, clock: Clock) -> None:
        self._ledger, self._clock = Ledger(calendar, f"starts:{site}", clock), clock

    async def read(self) -> dict[UUID, Start]:
        """All that is known."""
        book, now = await self._ledger.read(), self._clock.now()
        return {UUID(booking.id): _start(booking, now) for booking in book.bookings}

    async def begin(self, session: UUID, seconds: float) -> Start | None:
        """Take the right to submit it, for `seconds` and what it takes to settle. None: it is ours now, and nobody
        ever began; a Start: what was known before. Where that is begun and not live it is ours as well, but another
        may have submitted it. In all other cases nothing was changed."""

        def step(book: Book) -> tuple[Step, Start | None]:
            known = _find(book, session, now := self._clock.now())
            if known is not None and (known.word != BEGUN or known.live):
                return Step(), known
            return _put(session, BEGUN, now, seconds + SETTLED), known

        return await self._ledger.change(step)

    async def submitted(self, session: UUID) -> bool:
        """It is at the platform. False: its end was asked for meanwhile, and that stays."""

        def step(book: Book) -> tuple[Step, bool]:
            known = _find(book, session, now := self._clock.now())
            if known is not None and known.word == ENDED:
                return Step(), False
            return _put(session, SUBMITTED, now, _KNOWN), True

        return await self._ledger.change(step)

    async def withdraw(self, session: UUID) -> None:
        """It surely was not submitted: whoever comes next may begin."""

        def step(book: Book) -> Step:
            known = _find(book, session, self._clock.now())
            return Step(remove=[str(session)]) if known is not None and known.word == BEGUN else Step()

        await self._ledger.apply(step)

    async def end(self, session: UUID) -> Start | None:
        """Its end is asked for, and it is never submitted from now on. Returns what was known before. Idempotent."""

        def step(book: Book) -> tuple[Step, Start | None]:
            known = _find(book, session, now := self._clock.now())
            if known is not None and known.word == ENDED:
                return Step(), known
            return _put(session, ENDED, now, _ENDED_KNOWN), known

        return await self._ledger.change(step)


def _find(book: Book, session: UUID, now: float) -> Start | None:
    return next((_start(booking, now) for booking in book.bookings if booking.id == str(session)), None)


def _start(booking: Booking, now: float) -> Start:
    return Start(booking.set, booking.start + booking.amounts.get("lease", 0.0) > now)


def _put(session: UUID, word: str, now: float, seconds: float) -> Step:
    known = max(seconds, _KNOWN) if word == BEGUN else seconds
    amounts = {"lease": seconds} if word == BEGUN else {}
    return Step(put=[Booking(str(session), word, now, now + known, amounts)])
