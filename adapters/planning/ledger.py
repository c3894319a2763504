"""What the calendar of a site says of each of our offers, and the steps that change it. Imports ports and errors.

Planners hold no state, so the calendar holds it. An offer is at most two bookings:

    `handle`           its room: held (`until` set) while the offer is open, booked (no `until`) once it is accepted
    `handle/taken`     accepted, the platform has not yet confirmed a start: whoever looks starts it when it is due
    `handle/started`   a start was confirmed: never start it again, not even if the platform should forget the job

The last two take no room and outlive the slot, so that an acceptance whose time passed while the broker was down is
still known. All are removed when the job has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar
from uuid import UUID

import msgspec

from broker.errors import SiteBusy, SiteMisbehaved, SiteUnreachable, Unavailable
from broker.ports import Book, Booking, Calendar, Clock, Held

REMEMBERED = 30 * 86400.0  # seconds after its slot that an acceptance is known which nobody followed to its end
OVERRUN = 60.0  # seconds by which the booking of a run is lengthened that is still there when it should be over
_TRIES = 50  # each lost compare-and-set is another's success, so this many in a row mean a site under siege

T = TypeVar("T")


class Entry(msgspec.Struct, frozen=True):
    """What the calendar says of one offer. All empty: expired, released, or ended."""

    hold: Booking | None = None
    room: Booking | None = None
    taken: Booking | None = None
    started: Booking | None = None

    @property
    def accepted(self) -> bool:
        return self.taken is not None or self.started is not None


class Step(msgspec.Struct):
    """What one change writes."""

    put: list[Booking] = []
    remove: list[str] = []

    def also(self, other: Step) -> None:
        self.put.extend(other.put)
        self.remove.extend(other.remove)


class Ledger:
    """One site's calendar. Safe with other processes at the same calendar: every change is a compare-and-set."""

    def __init__(self, calendar: Calendar, site: str, clock: Clock) -> None:
        self._calendar, self._site, self._clock = calendar, site, clock
        self._turn = asyncio.Lock()  # changes of one process take turns; those of others cost another try

    async def read(self) -> Book:
        """Raises SiteUnreachable."""
        try:
            return await self._calendar.read(self._site, self._clock.now())
        except Unavailable as error:
            raise SiteUnreachable(f"the calendar cannot be read: {error.detail}") from error

    async def change(self, step: Callable[[Book], tuple[Step, T]]) -> T:
        """Apply `step` to the present book; it may be called again when another came first, and what it raises
        passes through with nothing changed. Raises SiteBusy (surely nothing changed) and SiteMisbehaved (the write
        may have happened)."""
        async with self._turn:
            for _ in range(_TRIES):
                book = await self.read()
                wanted, result = step(book)
                if not (wanted.put or wanted.remove) or await self._write(book.version, wanted):
                    return result
        raise SiteBusy("too many others are changing the site's calendar", retry_after=1.0)

    async def apply(self, step: Callable[[Book], Step]) -> None:
        """`change` without a result."""
        await self.change(lambda book: (step(book), None))

    async def _write(self, version: int, step: Step) -> bool:
        try:
            return await self._calendar.write(self._site, version, step.put, step.remove)
        except Unavailable as error:
            raise SiteMisbehaved(f"the calendar cannot be written: {error.detail}") from error


def find(book: Book, handle: str) -> Entry:
    """The entry of one offer."""
    return entries(book, [handle])[handle]


def entries(book: Book, handles: Iterable[str]) -> dict[str, Entry]:
    by_id = {booking.id: booking for booking in book.bookings}
    return {handle: _entry(by_id, handle) for handle in handles}


def _entry(by_id: dict[str, Booking], handle: str) -> Entry:
    room = by_id.get(handle)
    held = room is not None and room.until is not None
    return Entry(
        hold=room if held else None,
        room=None if held else room,
        taken=by_id.get(_taken(handle)),
        started=by_id.get(_started(handle)),
    )


def held(book: Book) -> Iterator[Held]:
    """What is offered, and what is accepted of which no start was confirmed; each by its handle."""
    for booking in book.bookings:
        if booking.until is not None:
            yield Held(booking.id, "OFFERED", set=_uuid(booking.set))
        elif booking.id.endswith(_taken("")):
            yield Held(booking.id.removesuffix(_taken("")), "ACCEPTED", set=_uuid(booking.set))


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def sibling_taken(book: Book, hold: Booking) -> bool:
    """Whether another offer of the set is accepted and not over: the set has room for one alone."""
    own = (hold.id, _taken(hold.id), _started(hold.id))
    return any(b.set == hold.set and b.until is None and b.id not in own for b in book.bookings)


def take(handle: str, set_: str, start: float, length: float, amounts: Mapping[str, float]) -> Step:
    """Accepted: to run from `start`. Also for an accepted one that is to run at another time than it was."""
    room = Booking(handle, set_, start, start + length, amounts)
    return Step(put=[room, _mark(_taken(handle), room)])


def lengthen(handle: str, set_: str, entry: Entry, end: float, amounts: Mapping[str, float]) -> Step:
    """It runs longer than planned: what runs takes its room, planned or not. `amounts`: where the calendar has
    dropped the booking."""
    if entry.room and entry.room.end >= end:
        return Step()
    start = entry.room.start if entry.room else end - OVERRUN
    return Step(put=[Booking(handle, set_, start, end, entry.room.amounts if entry.room else amounts)])


def confirm(handle: str, entry: Entry) -> Step:
    """A start was confirmed. Nothing, if that is known, or if it was ended meanwhile."""
    if entry.taken is None:
        return Step()
    room = entry.room or entry.taken
    return Step(put=[_mark(_started(handle), room)], remove=[_taken(handle)])


def free(handle: str, entry: Entry) -> Step:
    """It is over: the rest of the room is free."""
    present = entry.room or entry.taken or entry.started
    return Step(remove=[handle, _taken(handle), _started(handle)]) if present else Step()


def _mark(id_: str, room: Booking) -> Booking:
    return Booking(id_, room.set, room.start, room.end + REMEMBERED, {})


def _taken(handle: str) -> str:
    return f"{handle}/taken"


def _started(handle: str) -> str:
    return f"{handle}/started"
