"""Pretended runs, kept durably as bookings. Imports ports and errors.

A pretended run is nothing but the time it takes, so one booking says it all, and every phase follows from it and the
clock: it survives restarts, and every replica sees the same. The books are not the site's own: nothing is charged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

import msgspec

from broker.errors import SiteBusy, SiteMisbehaved, SiteUnreachable, Unavailable
from broker.ports import Book, Booking, Calendar, Clock, Sighting

_TRIES = 50


class Run(msgspec.Struct, frozen=True):
    """`start` in epoch seconds, the rest in seconds. `rate`: bytes a second of its data, whose time is a part of
    `preparing`; 0: none is brought in. `cut`: its time limit ends it. `cancelled`: epoch seconds."""

    start: float
    queue: float = 0.0
    preparing: float = 0.0
    run: float = 0.0
    releasing: float = 0.0
    fails: bool = False
    cut: bool = False
    cancelled: float | None = None
    rate: float = 0.0

    @property
    def began(self) -> float:
        return self.start + self.queue + self.preparing

    @property
    def ended(self) -> float:
        return self.began + self.run

    @property
    def gone(self) -> float:
        return self.ended + self.releasing

    def sighting(self, now: float) -> Sighting:
        if self.cancelled is not None:
            began = self.began if self.began <= self.cancelled else None
            return Sighting("CANCELLED", began=began, ended=self.cancelled)
        for phase, until in (
            ("WAITING", self.start + self.queue),
            ("PREPARING", self.began),
            ("RUNNING", self.ended),
            ("RELEASING", self.gone),
        ):
            if now < until:
                return Sighting(phase, began=self.began if self.began <= now else None, next_look=until)
        phase, text = self._end()
        return Sighting(phase, messages=(text,), began=self.began, ended=self.ended)

    def _end(self) -> tuple[str, str]:
        if self.cut:
            return "FAILED", "the time limit was reached"
        return ("FAILED", "exit 1, as configured") if self.fails else ("COMPLETED", "exit 0")


class Runs:
    """`site` names the books; sessions are spread over many, so that each stays small."""

    def __init__(self, calendar: Calendar, site: str, clock: Clock, keep: float) -> None:
        self._calendar, self._site, self._clock, self._keep = calendar, site, clock, keep

    async def get(self, session: UUID) -> Run | None:
        """Raises SiteUnreachable."""
        return _find(await self._read(session), session)

    async def all(self) -> Mapping[UUID, Run]:
        """Those that are kept, over or not. Raises SiteUnreachable."""
        books = [await self._read_key(self._key_of(head)) for head in range(256)]
        return {UUID(booking.id): _run(booking) for book in books for booking in book.bookings}

    async def change(self, session: UUID, step: Callable[[Run | None], Run]) -> Run:
        """Compare and set; what `step` returns is kept. Raises SiteMisbehaved where the write may have happened."""
        for _ in range(_TRIES):
            book = await self._read(session)
            old = _find(book, session)
            new = step(old)
            if new == old or await self._write(session, book.version, new):
                return new
        raise SiteBusy("too many pretended runs start at once", retry_after=1.0)

    async def _read(self, session: UUID) -> Book:
        return await self._read_key(self._key(session))

    async def _read_key(self, key: str) -> Book:
        try:
            return await self._calendar.read(key, self._clock.now())
        except Unavailable as error:
            raise SiteUnreachable(f"the pretended runs cannot be read: {error.detail}") from error

    async def _write(self, session: UUID, version: int, run: Run) -> bool:
        amounts = {name: float(value) for name, value in msgspec.structs.asdict(run).items() if value is not None}
        end = max(run.gone, run.cancelled or 0.0) + self._keep
        booking = Booking(str(session), "", run.start, end, amounts)
        try:
            return await self._calendar.write(self._key(session), version, [booking])
        except Unavailable as error:
            raise SiteMisbehaved(f"the pretended runs cannot be written: {error.detail}") from error

    def _key(self, session: UUID) -> str:
        return self._key_of(session.bytes[0])

    def _key_of(self, head: int) -> str:
        return f"{self._site}/simulated/{head:02x}"


def _find(book: Book, session: UUID) -> Run | None:
    for booking in book.bookings:
        if booking.id == str(session):
            return _run(booking)
    return None


def _run(booking: Booking) -> Run:
    amounts = dict(booking.amounts)
    return Run(**{**amounts, "fails": bool(amounts["fails"]), "cut": bool(amounts["cut"])})  # type: ignore[arg-type]
