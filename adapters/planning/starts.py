"""What is known of the starting of jobs on a platform that cannot promise by itself to start one once. Imports ports,
errors and this package's ledger.

Kept in a calendar of its own beside the site's, so that it is durable, and one for all replicas:

    begun      somebody is about to submit it, or was when a crash came; until its lease ends nobody else does
    submitted  the platform has answered that it has the job
    ended      somebody asked for its end: it is never submitted after that

Each is one booking: its id is the session, its set the word, from when it was written to when it may be forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from adapters.planning.ledger import Ledger, Step
from broker.ports import Book, Booking, Calendar, Clock

BEGUN, SUBMITTED, ENDED = "begun", "submitted", "ended"

SETTLED = 60.0  # seconds after the deadline of a submit within which a job that it made is to be seen, clocks included
SEEN = 3600.0  # seconds after its submit for which a platform surely shows a job, though it be over
_KNOWN = 86400.0  # seconds for which any of this is known, however long no broker runs; no start comes later than that


class Start(NamedTuple):
    """`live`: of one begun, whether its lease holds; of one ended, whether what was begun before may still turn up.
    `old`: so long ago that the platform may have run it, and know it no more."""

    word: str
    live: bool
    old: bool = False


class Starts:
    """Of one site. Every change is a compare-and-set, durable on return. What all methods raise: SiteUnreachable and
    SiteBusy (nothing changed), SiteMisbehaved (it may have)."""

    def __init__(self, calendar: Calendar, site: str, clock: Clock) -> None:
        self._ledger, self._clock = Ledger(calendar, f"starts:{site}", clock), clock

    async def read(self, sessions: Iterable[UUID]) -> dict[UUID, Start]:
        """What is known of these."""
        book, now = await self._ledger.read(), self._clock.now()
        by_id = {booking.id: booking for booking in book.bookings}
        known = ((session, _start(by_id.get(str(session)), now)) for session in sessions)
        return {session: start for session, start in known if start is not None}

    async def begin(self, session: UUID, seconds: float, turn: float = 0.0) -> Start | None:
        """Take the right to submit it, for `seconds` and what it takes to settle. None: it is ours now, and nobody
        ever began; a Start: what was known before. Where that is begun, and neither live nor old, it is ours as well,
        but another may have submitted it. In all other cases nothing was changed. `turn`: tells whose right it is."""

        def step(book: Book) -> tuple[Step, Start | None]:
            now = self._clock.now()
            known = _start(_find(book, session), now)
            if known is not None and (known.word != BEGUN or known.live or known.old):
                return Step(), known
            return _put(session, BEGUN, now, lease=seconds + SETTLED, turn=turn), known

        return await self._ledger.change(step)

    async def submitted(self, session: UUID) -> bool:
        """It is at the platform. False: its end was asked for meanwhile, and that stays."""

        def step(book: Book) -> tuple[Step, bool]:
            booking = _find(book, session)
            if booking is not None and booking.set == ENDED:
                return Step(), False
            return _put(session, SUBMITTED, self._clock.now()), True

        return await self._ledger.change(step)

    async def withdraw(self, session: UUID, turn: float = 0.0) -> None:
        """With the right of that turn it surely was not submitted: whoever comes next may begin. Nothing, where another
        has the right by now."""

        def step(book: Book) -> Step:
            booking = _find(book, session)
            if booking is None or booking.set == SUBMITTED or booking.amounts.get("turn") != turn:
                return Step()
            if booking.set == ENDED:
                return _put(session, ENDED, booking.start)
            return Step(remove=[str(session)])

        await self._ledger.apply(step)

    async def end(self, session: UUID, *, unseen: bool = False) -> Start | None:
        """Its end is asked for, and it is never submitted from now on. Returns what was known before. Idempotent.
        `unseen`: the platform does not show it, though it may have been submitted."""

        def step(book: Book) -> tuple[Step, Start | None]:
            booking, now = _find(book, session), self._clock.now()
            known = _start(booking, now)
            if booking is None or known is None:
                return _put(session, ENDED, now), None
            if known.word == ENDED:
                return Step(), known
            # What was begun and not answered may turn up as long as it could have before.
            left = booking.start + booking.amounts.get("lease", 0.0) - now
            left = SETTLED if unseen and known == Start(SUBMITTED, False) else left
            return _put(session, ENDED, now, lease=max(0.0, left), turn=booking.amounts.get("turn", 0.0)), known

        return await self._ledger.change(step)


def _find(book: Book, session: UUID) -> Booking | None:
    id_ = str(session)
    return next((booking for booking in book.bookings if booking.id == id_), None)


def _start(booking: Booking | None, now: float) -> Start | None:
    if booking is None:
        return None
    live = booking.start + booking.amounts.get("lease", 0.0) > now
    return Start(booking.set, live, not live and booking.set != ENDED and now >= booking.start + SEEN)


def _put(session: UUID, word: str, now: float, *, lease: float = 0.0, turn: float = 0.0) -> Step:
    amounts = {"lease": lease, "turn": turn} if lease else {}
    return Step(put=[Booking(str(session), word, now, now + max(lease, _KNOWN), amounts)])
