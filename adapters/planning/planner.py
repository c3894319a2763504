"""A Planner made of a bare platform, a calendar, limits and an operator's settings. Imports ports and the domain.

    quote     policies → sizes → slots → holds → documents      (quoting.py)
    accept    hold → booked, then start, if its time has come
    status    what the platform shows; starts what is due and frees what has ended

No state is kept between calls: the offer's bytes say what is to run, the calendar how far it has come (ledger.py).
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping, Sequence
from uuid import UUID

import msgspec
import structlog

from adapters.planning import ledger, offers, results
from adapters.planning.ledger import Entry, Ledger, Step
from adapters.planning.offers import Terms
from adapters.planning.platform import Job, Lost, Platform, Unseen
from adapters.planning.quoting import Quoting, tell
from adapters.planning.settings import SiteSettings
from adapters.planning.slots import Need, earliest, segments
from adapters.planning.tariff import Use
from broker.domain import kinds, session
from broker.domain.deadline import Deadline
from broker.domain.quantities import format_instant
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteRefused, SiteUnreachable, Unavailable
from broker.ports import Ask, Book, Booking, Calendar, Clock, Held, Limits, Logs, Order, Quotes, Result, Sighting

_log = structlog.get_logger(__name__)


_NOTHING = ExecutionRequest.model_validate({"executable": {"kind": kinds.DOCKER_CONTAINER}})


class PlanningPlanner:
    """The Planner port. `name` is the site's, `currency` that of prices where the tariff names none.

    `status` also acts: it starts what is due, moves what missed its slot while nobody looked, and frees the room of
    what has ended. All of it is safe to repeat, and from several processes at once.
    """

    def __init__(
        self,
        platform: Platform,
        calendar: Calendar,
        limits: Limits,
        clock: Clock,
        settings: SiteSettings,
        name: str,
        currency: str,
    ) -> None:
        self._platform, self._limits, self._clock, self._settings = platform, limits, clock, settings
        self._name, self._currency = name, currency
        self._ledger = Ledger(calendar, name, clock)
        self._quoting = Quoting(platform, self._ledger, limits, clock, settings, name, currency)

    async def describe(self, deadline: Deadline) -> Profile:
        """The platform's own profile, with what the site's settings add."""
        return await self._quoting.profile(deadline, fresh=True)

    async def quote(self, ask: Ask) -> Quotes:
        """Offers that hold their room until they expire, where the platform runs what it is given at once; else
        estimates. Reasons name element, rule and nearest yes."""
        return await self._quoting.quote(ask)

    # ── accepting ────────────────────────────────────────────────────────────────────────────────────────────

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        """WAITING: booked, and started by a later `status` when its time comes."""
        terms = offers.read(order)
        first, entry = await self._take(order, terms, deadline)
        if not entry.taken:
            return await self._look(order, deadline)
        try:
            return await self._begin(order, terms, entry, deadline)
        except SiteError as error:
            if error.proof:
                await self._not_begun(order, error, first=first)
            raise

    async def _take(self, order: Order, terms: Terms, deadline: Deadline) -> tuple[bool, Entry]:
        """Turn the hold into a booking. False: that was done before. Raises SiteRefused when there is no hold."""
        entry = ledger.find(await self._ledger.read(), order.handle)
        if entry.accepted:
            return False, entry
        if entry.hold is None:
            await self._must_have_ended(order, terms, deadline)
            return False, entry
        room = await self._room(deadline)
        await self._enter(order, terms)
        try:
            taken = await self._ledger.change(lambda book: self._booked(book, order, terms, room))
        except SiteError as error:
            if error.proof:
                await self._leave(order)
            raise
        await tell(self._limits.leave(self._quoting.offers_key(order.user), str(order.set)))
        return taken

    def _booked(
        self, book: Book, order: Order, terms: Terms, room: Mapping[str, float] | None
    ) -> tuple[Step, tuple[bool, Entry]]:
        entry = ledger.find(book, order.handle)
        if entry.accepted:
            return Step(), (False, entry)
        if entry.hold is None:
            raise SiteRefused(f"{self._expired(terms)}.")
        if ledger.sibling_taken(book, entry.hold):
            raise SiteRefused("another offer of the same set is taken.")
        start, length = max(entry.hold.start, self._clock.now()), self._length(terms)
        amounts = entry.hold.amounts
        if not amounts and room is not None:
            # Offered without holding room (it asked for more than open offers may hold): is there room now?
            amounts = terms.amounts
            need, timeline = Need(amounts, length, 0.0), segments(book.bookings, besides=entry.hold.set)
            if earliest(timeline, need, room, start, start, None) is None:
                raise SiteRefused("the offer held no room, and others have taken it meanwhile.")
        step = ledger.take(order.handle, entry.hold.set, start, length, amounts)
        return step, (True, Entry(room=step.put[0], taken=step.put[1]))

    async def _must_have_ended(self, order: Order, terms: Terms, deadline: Deadline) -> None:
        """No hold and no booking: it has ended and was cleared; else it never was accepted. Raises SiteRefused."""
        seen = (await self._platform.status([terms.job], deadline)).get(order.session)
        if seen is None or isinstance(seen, SiteForgot):
            raise SiteRefused(f"{self._expired(terms)}.")

    async def _begin(self, order: Order, terms: Terms, entry: Entry, deadline: Deadline) -> Sighting:
        """Start it, or say that it waits for its time. Idempotent."""
        room = entry.room or entry.taken
        if room is None or room.start > self._clock.now():
            return _waiting(room)
        seen = await self._platform.start(msgspec.structs.replace(terms.job, start=room.start), deadline)
        await self._settle([order], {order.session: terms}, {order.session: seen}, deadline)
        return self._shown(order, terms, seen)

    async def _not_begun(self, order: Order, error: SiteError, *, first: bool) -> None:
        """The platform surely did not start it on this call. Returns where that proves that nothing runs: this call
        was the first, and nobody else has started it. Raises SiteMisbehaved (no proof) where it does not."""
        if not first:
            raise SiteMisbehaved(f"asked again to start: {error.detail}") from error

        def give_back(book: Book) -> tuple[Step, bool]:
            entry = ledger.find(book, order.handle)
            return (Step(), True) if entry.started else (ledger.free(order.handle, entry), False)

        try:
            started = await self._ledger.change(give_back)
        except SiteError as trouble:
            raise SiteMisbehaved(f"{error.detail}; then: {trouble.detail}") from trouble
        if started:
            raise SiteMisbehaved(f"it was started by another process, then: {error.detail}") from error
        await self._leave(order)

    # ── offers not taken ─────────────────────────────────────────────────────────────────────────────────────

    async def release(self, orders: Sequence[Order], deadline: Deadline) -> None:
        """Open offers alone are released; an accepted one is left as it is."""

        def drop(book: Book) -> tuple[Step, set[str]]:
            entries = ledger.entries(book, [order.handle for order in orders])
            gone = {handle for handle, entry in entries.items() if entry.hold}
            left = {b.set for b in book.bookings if b.until is not None and b.id not in gone}
            return Step(remove=sorted(gone)), left

        left = await self._ledger.change(drop)
        for key, set_ in {(self._quoting.offers_key(order.user), str(order.set)) for order in orders}:
            if set_ not in left:
                await tell(self._limits.leave(key, set_))

    async def update(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        """An open offer takes REJECTED and CANCELLED; an accepted one CANCELLED alone. Everything else changes
        nothing, and shows what is."""
        if phase not in ("REJECTED", "CANCELLED"):
            return await self._look(order, deadline)
        if not order.offer:
            return await self._end_unknown(order, phase, deadline)

        def drop(book: Book) -> tuple[Step, Entry]:
            entry = ledger.find(book, order.handle)
            return (Step(remove=[order.handle]) if entry.hold else Step()), entry

        entry = await self._ledger.change(drop)
        if entry.hold:
            await self.release([order], deadline)  # the set may be open no more
            return Sighting(phase)
        if phase == "CANCELLED" and entry.accepted:
            return await self._cancel(order, deadline)
        return await self._look(order, deadline)

    async def _cancel(self, order: Order, deadline: Deadline) -> Sighting:
        terms = offers.read(order)
        # The platform first: should we die in between, a start that is still to come meets its refusal.
        seen = await self._platform.cancel(terms.job, deadline)
        await self._settle([order], {order.session: terms}, {order.session: seen}, deadline)
        return self._shown(order, terms, seen)

    # ── following ────────────────────────────────────────────────────────────────────────────────────────────

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        """EXPIRED: neither open nor accepted, and its slot is not over; after that, SiteForgot."""
        found: dict[UUID, Sighting | SiteError] = {}
        terms: dict[UUID, Terms] = {}
        for order in orders:
            try:
                terms[order.session] = offers.read(order)
            except SiteError as error:
                found[order.session] = SiteForgot(error.detail)
        known = [order for order in orders if order.session in terms]
        entries = ledger.entries(await self._ledger.read(), [order.handle for order in known])
        seen = await self._seen(known, terms, entries, deadline)
        await self._settle(known, terms, seen, deadline)
        for order in known:
            item, entry = terms[order.session], entries[order.handle]
            try:
                found[order.session] = await self._judge(order, item, entry, seen[order.session], deadline)
            except SiteError as error:
                found[order.session] = error
        return found

    async def _seen(
        self, orders: Sequence[Order], terms: Mapping[UUID, Terms], entries: Mapping[str, Entry], deadline: Deadline
    ) -> Mapping[UUID, Sighting | SiteError]:
        """What the platform says; it is not asked about what it was never told."""
        now = self._clock.now()
        asked = [order for order in orders if _told(entries[order.handle], now)]
        seen = await self._platform.status([terms[o.session].job for o in asked], deadline) if asked else {}
        absent = SiteForgot("the platform says nothing of it.")
        return {order.session: seen.get(order.session, absent) for order in orders}

    async def _settle(
        self,
        orders: Sequence[Order],
        terms: Mapping[UUID, Terms],
        seen: Mapping[UUID, Sighting | SiteError],
        deadline: Deadline,
    ) -> None:
        """Take over into the calendar, in one change, what the platform shows. Where that fails, what was seen is
        still true, and the next look takes it over; so nothing is raised, least of all as proof of a refusal."""
        shown = [order for order in orders if isinstance(seen[order.session], Sighting)]
        if not shown:
            return
        try:
            counted = await self._room(deadline) is not None

            def settle(book: Book) -> Step:
                step, entries = Step(), ledger.entries(book, [order.handle for order in shown])
                for order in shown:
                    amounts = terms[order.session].amounts if counted else {}
                    ended = _ended(seen[order.session])
                    step.also(self._settled(order, entries[order.handle], ended=ended, amounts=amounts))
                return step

            await self._ledger.apply(settle)
        except SiteError as error:
            _log.warning("calendar not updated", site=self._name, why=error.detail)
            return
        for order in shown:
            if _ended(seen[order.session]):
                await self._leave(order)

    def _settled(self, order: Order, entry: Entry, *, ended: bool, amounts: Mapping[str, float]) -> Step:
        if ended:
            return ledger.free(order.handle, entry)
        step, now = ledger.confirm(order.handle, entry), self._clock.now()
        if entry.accepted and (entry.room is None or entry.room.end < now + ledger.OVERRUN / 2):
            step.also(ledger.lengthen(order.handle, str(order.set), entry, now + ledger.OVERRUN, amounts))
        return step

    async def _judge(
        self, order: Order, terms: Terms, entry: Entry, seen: Sighting | SiteError, deadline: Deadline
    ) -> Sighting | SiteError:
        if isinstance(seen, Sighting):
            return self._shown(order, terms, seen)
        if entry.hold:
            return Sighting("OFFERED")
        if entry.taken and isinstance(seen, Unseen | Lost):
            # The platform knows for a while alone that there was a start; the calendar, as long as the acceptance.
            await self._ledger.apply(lambda book: ledger.confirm(order.handle, ledger.find(book, order.handle)))
            return seen
        if entry.taken and isinstance(seen, SiteForgot):
            return await self._due(order, terms, entry, deadline)
        if entry.accepted or not isinstance(seen, SiteForgot):
            return seen
        if self._clock.now() < terms.job.start + terms.length:
            await self._ledger.apply(lambda book: _bury(book, order.handle))
            return Sighting("EXPIRED", messages=(f"{self._expired(terms)}.",))
        return seen

    # ── what is due ──────────────────────────────────────────────────────────────────────────────────────────

    async def _due(self, order: Order, terms: Terms, entry: Entry, deadline: Deadline) -> Sighting:
        """An accepted job that the platform has not seen: start it, move it, or let it wait."""
        try:
            if self._missed(entry):
                entry = await self._move(order, terms, deadline)
            return await self._begin(order, terms, entry, deadline)
        except SiteRefused as error:
            if error.proof:
                await self._ledger.apply(lambda book: ledger.free(order.handle, ledger.find(book, order.handle)))
                await self._leave(order)
                return Sighting("FAILED", messages=(f"the platform would not start it: {error.detail}",))
            return _waiting(None, error)
        except SiteError as error:
            _log.info("start put off", site=self._name, session=str(order.session), why=error.detail)
            return _waiting(None, error)

    def _missed(self, entry: Entry) -> bool:
        """Its slot passed, or much of it, while nobody looked."""
        return entry.room is None or entry.room.start + self._turnaround < self._clock.now()

    async def _move(self, order: Order, terms: Terms, deadline: Deadline) -> Entry:
        """To the next slot in which it fits. Where it fits nowhere (the site has shrunk), it stays: an acceptance is
        kept."""
        room, length = await self._room(deadline), self._length(terms)

        def move(book: Book) -> tuple[Step, Entry]:
            entry, now = ledger.find(book, order.handle), self._clock.now()
            if entry.taken is None or not self._missed(entry):
                return Step(), entry
            amounts = entry.room.amounts if entry.room else {} if room is None else terms.amounts
            timeline = segments(book.bookings, besides=entry.taken.set)
            start = earliest(timeline, Need(amounts, length, 0.0), room or {}, now, math.inf, None)
            if start is None:
                return Step(), entry
            step = ledger.take(order.handle, entry.taken.set, start, length, amounts)
            return step, Entry(room=step.put[0], taken=step.put[1])

        return await self._ledger.change(move)

    async def _look(self, order: Order, deadline: Deadline) -> Sighting:
        found = (await self.status([order], deadline))[order.session]
        if isinstance(found, SiteError):
            raise found
        return found

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        """By the calendar, open offers and acceptances that wait for their start; by the platform, jobs."""
        book = await self._ledger.read()
        return (*ledger.held(book), *await self._platform.held(deadline))

    async def _end_unknown(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        """What `held` named, and of which there is no offer. A handle that the calendar does not know is a job's."""

        def drop(book: Book) -> tuple[Step, Entry]:
            entry = ledger.find(book, order.handle)
            ends = entry.hold or (entry.accepted and phase == "CANCELLED")
            return (ledger.free(order.handle, entry) if ends else Step()), entry

        entry = await self._ledger.change(drop)
        if entry.hold:
            return Sighting(phase)
        if phase != "CANCELLED":
            return Sighting("ACCEPTED")
        if entry.accepted:
            return Sighting("CANCELLED")
        return await self._platform.cancel(_bare(order), deadline)

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, order: Order, deadline: Deadline) -> Logs:
        return await self._platform.logs(offers.read(order).job, deadline)

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]:
        return await self._platform.results(offers.read(order).job, deadline)

    def fetch(self, order: Order, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        return self._platform.fetch(offers.read(order).job, name, deadline)

    async def close(self) -> None:
        await self._platform.close()

    # ── small matters ────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _turnaround(self) -> float:
        return self._settings.offers.turnaround.total_seconds()

    def _length(self, terms: Terms) -> float:
        return terms.length + self._turnaround

    async def _room(self, deadline: Deadline) -> Mapping[str, float] | None:
        """The site's whole room; None: the platform keeps its own queue, so it is not ours to count."""
        if not (await self._quoting.profile(deadline)).reserves:
            return None
        return (await self._quoting.bounds(deadline)).room

    def _expired(self, terms: Terms) -> str:
        when = f" at {format_instant(round(terms.expires))}" if terms.expires else ""
        return f"the offer expired{when} or was released"

    def _shown(self, order: Order, terms: Terms, seen: Sighting) -> Sighting:
        """With the whole session where the platform adds to it, and with its bill."""
        if seen.body is not None:
            seen = msgspec.structs.replace(seen, body=offers.gained(order.offer, seen.body))
        return self._billed(terms, seen)

    def _billed(self, terms: Terms, seen: Sighting) -> Sighting:
        """With the actual cost, once it is over and its times are known."""
        tariff, job = self._settings.tariff, terms.job
        if tariff is None or seen.cost is not None or seen.ended is None or not _ended(seen):
            return seen
        seconds = max(0.0, seen.ended - seen.began) if seen.began is not None else 0.0  # what never began took nothing
        keeping = results.keeping(job.request) if seen.began is not None else 0.0
        cost = tariff.bill(Use(job.cores, job.memory, job.storage, dict(job.extras), keeping), seconds)
        if cost is None:
            return seen
        return msgspec.structs.replace(seen, cost=cost, currency=tariff.currency or self._currency)

    async def _enter(self, order: Order, terms: Terms) -> None:
        """Raises SiteRefused when the user has as many sessions here as the quota allows."""
        quota = self._settings.policies.quotas.running
        if quota is None:
            return
        until = max(terms.job.start, self._clock.now()) + self._length(terms) + ledger.REMEMBERED
        try:
            entered = await self._limits.enter(self._quoting.running_key(order.user), str(order.session), quota, until)
        except Unavailable as error:
            raise SiteUnreachable(f"the limits cannot be read: {error.detail}") from error
        if not entered:
            raise SiteRefused(f"{quota} of your sessions are under way here, which is the quota.")

    async def _leave(self, order: Order) -> None:
        if self._settings.policies.quotas.running is not None:
            await tell(self._limits.leave(self._quoting.running_key(order.user), str(order.session)))


def _told(entry: Entry, now: float) -> bool:
    """Whether the platform can know of it: not while it is an open offer, nor before its time has come."""
    if entry.hold:
        return False
    return not (entry.taken and (entry.room or entry.taken).start > now)


def _bare(order: Order) -> Job:
    """A job of which the session alone is known."""
    return Job(order.session, order.name, order.user, _NOTHING, 0, 0, 0, {}, 0.0, 0.0)


def _ended(seen: Sighting | SiteError) -> bool:
    return isinstance(seen, Sighting) and seen.phase in session.TERMINAL


def _bury(book: Book, handle: str) -> Step:
    """For good: a clock that is behind ours must not find an expired hold alive."""
    return Step() if ledger.find(book, handle).accepted else Step(remove=[handle])


def _waiting(room: Booking | None, error: SiteError | None = None) -> Sighting:
    if error is not None:
        return Sighting("WAITING", messages=(f"not started yet: {error.detail}",))
    if room is None:
        return Sighting("WAITING")
    return Sighting("WAITING", messages=(f"starts {format_instant(round(room.start))}",), next_look=room.start)
