"""What one request has brought in so far: offers read once, each with its session's uuid. Imports ports and the domain.

The fan-out hands in one outcome a site, before the answer or after it; `Gathering` turns them into the set's record
and body, and `Joiner` adds to a saved set what came late.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from uuid import UUID

import msgspec
import structlog

from broker.domain import kinds, offerset, setbody
from broker.domain.deadline import Deadline
from broker.domain.executables import AbstractExecutable, JupyterNotebook
from broker.domain.experience import BLANK, Experience, voice
from broker.domain.identity import members
from broker.domain.located import Item
from broker.domain.offer import Needs, Offer, Reading, Stated, read, unfit
from broker.domain.offerset import Line, SessionRecord, SetRecord
from broker.domain.outcome import Offered, Outcome, Quote, TimedOut
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, Ranked, good
from broker.domain.setbody import Kept, SetBody
from broker.domain.storages import Map
from broker.domain.wishes import Wishes
from broker.errors import SiteError
from broker.ports import Ask, Clock, Order
from broker.services.measuring import Measuring
from broker.services.records import Records
from broker.services.sites import Entry
from broker.services.taken import Lag
from broker.services.window import Window

_log = structlog.get_logger(__name__)


class Gathering:
    """What one request has brought in so far: offers read once, each with its session's uuid. `taken`: uuids of the
    set that are no longer free. `located`: what is known of the data now; all offers of a set are measured by the same
    knowledge, the latest. `asking`: the request as it was sent, where that is not what brokers below are sent. `lag`:
    how much later a site begins what it did not reserve."""

    def __init__(
        self,
        ask: Ask,
        wishes: Wishes,
        map_: Map,
        now: float,
        margin: float,
        entries: Sequence[Entry],
        *,
        taken: Collection[UUID] = (),
        located: Callable[[], tuple[Item, ...]] | None = None,
        asking: bytes = b"",
        experience: Experience = BLANK,
        lag: Callable[[Entry], Lag | None] = lambda entry: None,
    ) -> None:
        request = ask.request
        self.request, self.wishes, self.set, self.now = request, wishes, ask.set, now
        self.saved = asyncio.Event()  # also when it never will be: then it is `abandoned`
        self.abandoned = False
        self.lock = asyncio.Lock()
        self._map, self._margin, self._user = map_, margin, ask.user
        self._entries = {entry.name: entry for entry in entries}
        self._needs = Needs.of(request)
        self._run = Span.of(self._needs.duration)
        self._asked = tuple({component.kind for _, component in request.components()})
        self._measuring = Measuring(request, wishes, map_, experience, located)
        self._experience = experience
        self._kind = kinds.short(request.executable.kind)
        self._asking, self._lag = asking or ask.extended, lag
        self._taken = set(taken)
        self._read: dict[str, tuple[Line, list[SessionRecord], list[Kept]]] = {}
        self._said: dict[UUID, tuple[Stated | None, Entry]] = {}  # of the data, with each offer

    def take(self, site: str, outcome: Outcome) -> tuple[Line, list[SessionRecord], list[Kept]]:
        """Read a site's answer, once; the first reading of a site stands, but for a silence."""
        if site in self._read and self._read[site][0].outcome != "TimedOut":
            return self._read[site]
        sessions: list[SessionRecord] = []
        kept: list[Kept] = []
        if isinstance(outcome, Offered):
            self._offers(self._entries[site], outcome.quotes, sessions, kept)
        entry = offerset.line(outcome, [item.excluded for item in sessions if item.excluded])
        self._read[site] = (entry, sessions, kept)
        return self._read[site]

    def _offers(self, entry: Entry, quotes: Sequence[Quote], sessions: list[SessionRecord], kept: list[Kept]) -> None:
        unique = list({quote.handle: quote for quote in quotes}.values())  # one handle is one session
        uuids = members(self.set, os.urandom(4), self._taken, len(unique))
        self._taken.update(uuids)
        reading = self._reading(entry)
        for uuid, quote in zip(uuids, unique, strict=True):
            found = read(quote, reading, self.now, self._asked)
            if isinstance(found, str):
                sessions.append(
                    SessionRecord(uuid, entry.name, quote.handle, entry.name, excluded=found, modified=self.now)
                )
                continue
            reason, warnings = unfit(found, self._needs, entry.site.unreliable)
            candidate, later, work = self._candidate(uuid, found, entry, reason), 0.0, 0.0
            if not found.reserved:
                work = self._core_seconds(found)
                if (lag := self._lag(entry)) is not None:
                    candidate, later = _later(candidate, lag.seconds, self.now), lag.seconds
                    warnings = (*warnings, lag.why)
            self._said[uuid] = found.locality, entry
            item = setbody.keep(uuid, found, candidate, quote.body, (*found.repairs, *warnings))
            kept.append(msgspec.structs.replace(item, work=work, later=later) if work or later else item)
            sessions.append(
                SessionRecord(
                    uuid,
                    entry.name,
                    quote.handle,
                    found.origin,
                    expires=found.expires,
                    assumed=found.site_expires is None,
                    excluded=reason or "",
                    modified=self.now,
                )
            )

    def _core_seconds(self, offer: Offer) -> float:
        """That it takes of its site, at least."""
        cores = offer.cores.low if offer.cores is not None else self._needs.cores[0]
        return cores * self._needs.duration

    def _reading(self, entry: Entry) -> Reading:
        assert entry.profile is not None  # noqa: S101 - only described sites are asked
        base = self._map.exchange.base
        return Reading.of(entry.site, entry.profile, currency=base, ours=entry.ours, margin=self._margin)

    def _candidate(self, uuid: UUID, offer: Offer, entry: Entry, reason: str | None) -> Candidate:
        return Candidate(
            session=str(uuid),
            origin=offer.origin,
            site=entry.name,
            price=offer.price,
            currency=offer.currency,
            start=offer.start or Span.of(self.now),
            prepares=offer.prepares,
            run=self._run,
            interactive=_interactive(self.request.executable, ours=entry.ours),
            # Figures of plain sites are on no common scale (protocol.md 1.4); ours are relative to a reference core.
            performance=offer.metrics.get(kinds.COMPUTE_PERFORMANCE) if entry.ours else None,
            carbon=offer.carbon,
            locality=self._measuring.locality(offer.locality, entry),
            costs=offer.costs,
            metrics=offer.metrics,
            countries=(entry.site.country,) if entry.site.country else offer.countries,
            expires=offer.expires,
            unfit=reason,
            correction=self._experience.correction(voice(entry.name, offer.origin), self._kind),
        )

    def body(self) -> SetBody:
        """Where more is known of the data than when the offers were read, they are all measured anew."""
        if self._measuring.look_again():
            for _, _, kept in self._read.values():
                kept[:] = [self._measured(item) for item in kept]
        offers = tuple(item for _, _, kept in self._read.values() for item in kept)
        return SetBody(self._asking, self.wishes, self.now, offers, self._measuring.items)

    def _measured(self, item: Kept) -> Kept:
        locality = self._measuring.locality(*self._said[item.session])
        return msgspec.structs.replace(item, candidate=msgspec.structs.replace(item.candidate, locality=locality))

    def sessions(
        self,
        answers: Mapping[str, tuple[Line, list[SessionRecord], list[Kept]]],
        ranking: Sequence[Ranked],
    ) -> dict[str, tuple[Line, list[SessionRecord]]]:
        """The records of the sessions, with what the ranking excludes marked so, and the outcome's line saying it."""
        excluded = {ranked.session: ranked.excluded for ranked in ranking if ranked.excluded}
        found = {}
        for site, (entry, sessions, _) in answers.items():
            marked = [_marked(item, excluded) for item in sessions] if excluded else sessions
            reasons = tuple(dict.fromkeys(item.excluded for item in marked if item.excluded))
            found[site] = (msgspec.structs.replace(entry, reasons=reasons) if reasons else entry, marked)
        return found

    def abandon(self) -> None:
        """Nobody waits for the answer any more, and no set holds it: what comes is given back at once."""
        if not self.saved.is_set():
            self.abandoned = True
            self.saved.set()

    async def release(self, site: str, outcome: Outcome, clock: Clock) -> None:
        """Give back what a site offered to a question that was abandoned."""
        if not isinstance(outcome, Offered):
            return
        entry = self._entries[site]
        orders = [Order(self.set, self.set, quote.handle, quote.body, self._user) for quote in outcome.quotes]
        deadline = Deadline.after(entry.site.timeout, clock.monotonic())
        try:
            await entry.planner.release(orders, deadline)
        except SiteError as error:
            _log.info("abandoned offers not released; they expire", site=site, offers=len(orders), why=error.detail)

    def enough(self, outcomes: Mapping[str, Outcome]) -> bool:
        """Whether as many good offers are in as the request wants to wait for."""
        for site, outcome in outcomes.items():
            self.take(site, outcome)
        wanted = self.wishes.enough or 0
        return sum(len(kept) for _, _, kept in self._read.values()) >= wanted and (
            sum(good(ranked) for ranked in self.body().ranking()) >= wanted
        )


def _later(offer: Candidate, seconds: float, now: float) -> Candidate:
    """What could have begun by now begins that much after now. A start that is no time at all stays one."""
    start = offer.start
    begins = Span(*(at if at != at else max(now, at) + seconds for at in (start.low, start.high)))
    return msgspec.structs.replace(offer, start=begins)


def _interactive(executable: AbstractExecutable, *, ours: bool) -> bool:
    """Whether a person's time in the session is wanted (design, section 5). Where the request does not say it, a
    notebook is a session for a person at a plain site, and is executed at ours."""
    if not isinstance(executable, JupyterNotebook):
        return False
    return executable.mode == "interactive" if executable.mode else not ours


def _marked(item: SessionRecord, excluded: Mapping[str, str]) -> SessionRecord:
    reason = "" if item.excluded else excluded.get(str(item.uuid), "")
    return msgspec.structs.replace(item, excluded=reason) if reason else item


def joining(
    answers: Mapping[str, tuple[Line, Sequence[SessionRecord]]], body: SetBody, now: float, records: Records
) -> Callable[[SetRecord], Awaitable[tuple[SetRecord, bytes | None]]]:
    """The step by which answers join a saved set (`Records.rewrite`): the body is that of the gathering as a whole, and
    what sites that were asked anew have added since."""

    async def step(record: SetRecord) -> tuple[SetRecord, bytes | None]:
        joined, whole = offerset.join(record, answers, now), body
        if any(item.requoted for item in record.sessions):
            if (data := await records.body(record)) is None:
                return joined, None
            mine = {item.session for item in body.kept}
            others = tuple(item for item in setbody.decode(data).kept if item.session not in mine)
            whole = msgspec.structs.replace(body, kept=(*body.kept, *others))
        return joined, setbody.encode(whole)

    return step


class Joiner:
    """What happens to an answer that comes after the set was saved. One at a time: each rewrites the set's body."""

    def __init__(self, gathering: Gathering, records: Records, window: Window, clock: Clock) -> None:
        self._gathering, self._records, self._window, self._clock = gathering, records, window, clock

    async def __call__(self, site: str, outcome: Outcome) -> None:
        gathering = self._gathering
        await gathering.saved.wait()
        if isinstance(outcome, TimedOut):
            return
        self._window.answered(site, outcome)
        if gathering.abandoned:
            await gathering.release(site, outcome, self._clock)
            return
        async with gathering.lock:
            answers = {site: gathering.take(site, outcome)}
            body = gathering.body()
            sessions = gathering.sessions(answers, body.ranking())

            await self._records.rewrite(gathering.set, joining(sessions, body, self._clock.now(), self._records))
