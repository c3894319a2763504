"""Accepting an offer exactly once, and everything else a caller may do to a session. Imports ports and the domain.

    claim (durable) → forward → read back → record → release the others

Doubt is never guessed away: it is resolved by reading, by sending again where the site takes one session uuid once
(`Profile.repeatable`), or by fencing, that is withdrawing the offer and reading until it is over (design, section 4).
After a crash the timer `claim` brings the same steps back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from broker.domain import offerset, session
from broker.domain.deadline import Deadline
from broker.domain.identity import Caller, Hop
from broker.domain.offerset import SessionRecord, SetRecord
from broker.domain.request import ExecutionRequest
from broker.domain.updates import AbstractUpdate, EnumValueUpdate
from broker.errors import (
    BadInput,
    BrokerError,
    Conflict,
    NotAsked,
    NotFound,
    SiteError,
    SiteForgot,
    SiteUnreachable,
    Unavailable,
    Unconfirmed,
)
from broker.ports import Clock, Planner, Sighting
from broker.services.offers import AT_ONCE, How, Offers
from broker.services.orders import order, seen
from broker.services.records import Records
from broker.services.requoting import Requoting
from broker.services.rights import Readers, must_change
from broker.services.sessions import Sessions, SessionState
from broker.services.sites import Sites
from broker.services.window import Window

_log = structlog.get_logger(__name__)

RETRY_MOST = 30.0  # seconds between two looks at a doubtful acceptance, at most
READ_LIMIT = 5.0  # seconds for reading back what became of one
UNDO_FIRST = 1.0  # seconds until a claim that could not be undone is looked for again; doubled each time
SLACK = 5.0  # seconds beyond both within which a live worker has written down how it ended
CANCEL_LIMIT = 60.0  # seconds for a cancellation; a site's own limit, where lower, is kept by its guard


class _HeldBack(Unavailable):
    """Nothing was sent, by our own guard or for want of time: the offer stands as it stood."""


class Acceptance:
    """`forward`: seconds one acceptance may take before it is in doubt. `patience`: seconds a plain site may go on
    reading OFFERED before the acceptance is withdrawn. `guarded`: whether /direct wants a known or bounded price."""

    def __init__(
        self,
        *,
        records: Records,
        offers: Offers,
        requoting: Requoting,
        sessions: Sessions,
        sites: Sites,
        window: Window,
        clock: Clock,
        readers: Readers,
        forward: float,
        patience: float,
        guarded: bool,
    ) -> None:
        self._records, self._offers, self._sessions, self._sites = records, offers, sessions, sites
        self._requoting = requoting
        self._window, self._clock, self._readers = window, clock, readers
        self._forward_limit, self._patience, self._guarded = forward, patience, guarded
        self._undoing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up what is still being undone; others find it when its time is over."""
        for task in self._undoing:
            task.cancel()
        await asyncio.gather(*self._undoing, return_exceptions=True)

    # ── what callers do ──────────────────────────────────────────────────────────────────────────────────────

    async def update(self, uuid: UUID, update: AbstractUpdate, caller: Caller) -> SessionState:
        """Act on the phase. Idempotent for each phase. Raises BadInput for what cannot be updated at all, Conflict
        for what cannot be done now; both say why."""
        record = await self._records.load(uuid)
        must_change(record, caller, self._readers)
        match _wanted(update):
            case "ACCEPTED":
                record = await self._accept(record, uuid)
            case "REJECTED":
                record = await self._reject(uuid)
            case "CANCELLED":
                record = await self._cancel(record, uuid)
            case other:
                text = f'"{other}" cannot be asked for.'
                raise BadInput(text, element="value", remedy="Use ACCEPTED, REJECTED or CANCELLED.")
        return await self._sessions.state(record, uuid)

    async def direct(self, request: ExecutionRequest, caller: Caller, hop: Hop, how: How = AT_ONCE) -> SessionState:
        """Ask, and accept the best offer; on proof of refusal, the next. Where none is left the state is `refused`:
        a session FAILED, with the reasons as its messages."""
        gathered = await self._offers.ask(request, caller, hop, how, direct=True)
        return await self._settle(gathered.record)

    async def directed(self, set_: UUID, caller: Caller) -> SessionState:
        """What became of the direct request with this set; one that a crash broke off is taken further. Raises
        NotFound: nothing was kept of it."""
        record = await self._records.load(set_)
        must_change(record, caller, self._readers)
        return await self._settle(record)

    async def _settle(self, record: SetRecord) -> SessionState:
        held: dict[UUID, str] = {}
        if record.given_up is None:
            record = await self._next(record, held)
        if record.claim is not None:
            return await self._sessions.state(record, record.claim.session)
        if record.given_up is None:
            record = await self._offers.give_up(record, held)
        return await self._sessions.state(record, record.given_up or record.sessions[-1].uuid, refused=True)

    async def release(self, uuids: Sequence[UUID], caller: Caller) -> None:
        """Give back offers, many at once (a broker above us does). Unknown ones, and ones that are over, count as
        released; a taken one raises Conflict, after the others are released."""
        refused: list[BrokerError] = []
        for uuid in uuids:
            try:
                record = await self._records.load(uuid)
                must_change(record, caller, self._readers)
                if record.session(uuid).phase not in session.TERMINAL:
                    await self._reject(uuid)
            except NotFound:
                continue
            except Conflict as error:
                refused.append(error)
        if refused:
            raise refused[0]

    async def _reject(self, uuid: UUID) -> SetRecord:
        return (await self._records.change(uuid, lambda r: offerset.reject(r, uuid, self._clock.now())))[1]

    # ── accepting ────────────────────────────────────────────────────────────────────────────────────────────

    async def _accept(
        self, record: SetRecord, uuid: UUID, *, onward: bool = True, instead_of: UUID | None = None
    ) -> SetRecord:
        """`onward`: go on with another offer after a proved refusal, as far as the request asked for that."""
        offer = await self._offers.offer(record, uuid)
        if onward and (other := await self._anew(record, uuid)):
            return await self._accept(await self._records.load(uuid), other, instead_of=uuid)
        token = os.urandom(8).hex()
        record = await self._claim(uuid, offer, token, instead_of)
        if record.claim is None or record.claim.token != token:
            return record  # taken already, or another worker is at it
        record = await self._forward(record, only=True)
        return await self._go_on(record) if onward else record

    async def _claim(self, uuid: UUID, offer: bytes, token: str, instead_of: UUID | None) -> SetRecord:
        """Durable on return. Raises Unavailable: nothing is sent then, and what may have been written is undone."""

        def step(r: SetRecord) -> SetRecord:
            return offerset.claim(r, uuid, offer, self._clock.now(), self.within, token, instead_of)

        try:
            return (await self._records.change(uuid, step))[1]
        except asyncio.CancelledError:
            self._undo_later(uuid, token)
            raise
        except Unavailable:
            if not await self._undo(uuid, token):
                self._undo_later(uuid, token)
            raise

    async def _undo(self, uuid: UUID, token: str) -> bool:
        """Undo the claim of that token, under which nothing was sent. False: it is not there, or not to be had yet."""

        def step(r: SetRecord) -> SetRecord:
            mine = r.claim is not None and r.claim.token == token and r.claim.state == "forwarding"
            return offerset.unclaim(r, self._clock.now()) if mine else r

        try:
            before, after = await self._records.change(uuid, step)
        except BrokerError:
            return False
        return after is not before

    def _undo_later(self, uuid: UUID, token: str) -> None:
        """Whoever finds a claim of which nobody says what became would have to withdraw the offer. As long as we live
        we know better: look for it until its time is over."""
        task = asyncio.create_task(self._undo_on(uuid, token))
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    async def _undo_on(self, uuid: UUID, token: str) -> None:
        until, pause = self._clock.monotonic() + self.within, UNDO_FIRST
        while self._clock.monotonic() < until:
            await self._clock.sleep(pause)
            if await self._undo(uuid, token):
                return
            pause *= 2

    @property
    def within(self) -> float:
        """Seconds after which whoever claimed, or was to go on, has surely ended."""
        return self._forward_limit + READ_LIMIT + SLACK

    async def _anew(self, record: SetRecord, uuid: UUID) -> UUID | None:
        """What the site offers now in place of an offer that has expired, where the request accepts its price."""
        item = record.session(uuid)
        over = item.phase == "EXPIRED" or (item.phase == "OFFERED" and not offerset.acceptable(item, self._clock.now()))
        return await self._requoting.ask(record, uuid) if over and not item.excluded else None

    async def _go_on(self, record: SetRecord) -> SetRecord:
        """After a proved refusal, what is owed: the same site at a price that the request accepts, then the
        next-ranked offers where it asked for failover. It is owed still where our own guard held one of them back.
        Safe to repeat and to interrupt."""
        if record.owed is None or record.claim is not None:
            return record
        held: dict[UUID, str] = {}
        record = await self._next(record, held, others=record.failover or record.direct)
        if record.claim is not None or record.owed is None or held:
            return record
        owed = record.owed.session
        return (await self._records.change(record.uuid, lambda r: offerset.settled(r, owed)))[1]

    async def _next(self, record: SetRecord, held: dict[UUID, str], *, others: bool = True) -> SetRecord:
        """One offer after the other, until one is taken or in doubt, or none is left. What our own guard holds back is
        passed over and noted in `held` (session → why); it stays open. `others`: those of other sites as well."""
        tried: set[UUID] = set()
        anew: set[UUID] = set()
        while record.claim is None:
            best = await self._candidate(record, tried, anew, others=others)
            if best is None:
                break
            tried.add(best)
            try:
                record = await self._accept(record, best, onward=False)
            except _HeldBack as error:
                held[best] = error.detail
                record = await self._records.load(best)
            except Conflict:  # it expired meanwhile, or somebody else took one
                record = await self._records.load(best)
        return record

    async def _candidate(self, record: SetRecord, tried: set[UUID], anew: set[UUID], *, others: bool) -> UUID | None:
        """After a refusal what that site offers now, where the request accepts its price; else the first-ranked.
        `anew`: the refused ones whose site was asked already. A site that refuses also what it offered anew is not
        asked a third time: it could go on like that for ever."""
        refused = record.owed.session if record.owed else None
        if refused is not None and refused not in anew and not record.session(refused).requoted:
            anew.add(refused)
            fresh = await self._requoting.ask(record, refused)
            if fresh is not None and fresh not in tried:
                return fresh
        if not others:
            return None
        # One that was asked anew and costs more than the request accepts is for a person to take.
        dearer = {item.uuid for item in record.sessions if item.requoted}
        return await self._offers.best(record, guarded=record.direct and self._guarded, without=tried | dearer)

    async def _forward(self, record: SetRecord, *, only: bool) -> SetRecord:
        """Send the acceptance once. The record comes back taken, refused, or in doubt.

        `only`: nothing was sent before. Then what surely did not reach the site, and a refusal, are proof, as long as
        nobody else took the claim up; of a repetition they prove nothing of what was sent first. Raises _HeldBack:
        then the claim is undone."""
        item = _claimed(record)
        try:
            deadline = self._deadline(self._time_to_send(record, item))
            sighting = await self._planner(item.site).accept(order(record, item), deadline)
        except SiteError as error:
            _log.warning(
                "acceptance failed", site=item.site, session=str(item.uuid), proof=error.proof, why=error.detail
            )
            if only and isinstance(error, NotAsked):
                return await self._hand_back(record, error)
            if only and error.proof:
                return await self._refuse(record, "REJECTED", error.detail, untouched=True)
            return await self._read(record, error.detail)
        return await self._judge(record, sighting, f"its answer shows the phase {sighting.phase}")

    def _time_to_send(self, record: SetRecord, item: SessionRecord) -> float:
        """Seconds. Raises NotAsked where the time of the claim, or of the offer, went by while it was written down:
        others may be withdrawing it by now."""
        now = self._clock.now()
        until = record.claim.until - READ_LIMIT - SLACK if record.claim else now
        if now >= until or (item.expires is not None and now >= item.expires):
            raise NotAsked("it took too long to write down that it is accepted", retry_after=1.0)
        return min(self._forward_limit, until - now)

    async def _hand_back(self, record: SetRecord, error: NotAsked) -> SetRecord:
        """Nothing was sent. Raises _HeldBack; returns the record where others took the claim up meanwhile, and may
        have sent it: then what we know proves nothing."""
        claim = record.claim
        if claim is None:
            return record

        def step(r: SetRecord) -> SetRecord:
            return offerset.unclaim(r, self._clock.now(), self.within) if offerset.untouched(r, claim) else r

        try:
            before, after = await self._records.change(claim.session, step)
        except Unavailable:
            self._undo_later(claim.session, claim.token)
            raise
        if after is before:
            return after
        raise _HeldBack(
            error.detail, remedy="Nothing was sent: accept it again.", retry_after=error.retry_after
        ) from error

    async def _read(self, record: SetRecord, why: str = "") -> SetRecord:
        """One look at what the site knows of it; without an answer it stays in doubt. `why`: what is known already of
        how it came to that."""
        item = _claimed(record)
        try:
            sightings = await self._planner(item.site).status([order(record, item)], self._deadline(READ_LIMIT))
            entry = self._sites.entry(item.site)
        except (SiteError, NotFound) as error:
            return await self._doubt(record, _then(why, error.detail))
        found = sightings.get(item.uuid)
        if isinstance(found, Sighting):
            return await self._judge(record, found, _then(why, f"it reads {found.phase}"))
        if isinstance(found, SiteForgot) and entry.site.restart_ends_jobs:
            return await self._refuse(record, "REJECTED", "the site restarted and forgot the offer")
        return await self._doubt(record, _then(why, found.detail if found else "it says nothing of this session"))

    async def _judge(self, record: SetRecord, sighting: Sighting, why: str) -> SetRecord:
        phase = session.SYNONYMS.get(sighting.phase, sighting.phase)
        if session.taken(phase):
            return await self._record(record, phase, sighting)
        if phase in session.REFUSED:
            return await self._refuse(record, phase, f"it says {phase}")
        return await self._doubt(record, why)

    async def _record(self, record: SetRecord, phase: str, sighting: Sighting) -> SetRecord:
        item = _claimed(record)
        decision = await self._offers.decision(record, item.uuid)
        now = self._clock.now()

        def step(r: SetRecord) -> SetRecord:
            if r.claim is None or r.claim.session != item.uuid or r.taken:
                return r  # another worker resolved it; what it found stands
            taken = offerset.accepted(r, "ACCEPTED", decision, now)
            return offerset.see(taken, item.uuid, seen(sighting), now)

        try:
            before, after = await self._records.change(item.uuid, step)
        except Unconfirmed as error:
            # The site has it, and a failover of the store would have us find that out again: not acknowledged yet.
            _log.warning("acceptance recorded, not yet confirmed", session=str(item.uuid), why=error.detail)
            return offerset.doubt(record, now, f"it is taken, and the record of that is not safe yet: {error.detail}")
        if after is not before:
            self._window.accepted(item.site)
            _log.info("accepted", site=item.site, session=str(item.uuid), phase=phase)
        return after

    async def _refuse(self, record: SetRecord, phase: str, reason: str, *, untouched: bool = False) -> SetRecord:
        """`untouched`: it is proved for our own sending alone, and means nothing once others took the claim up."""
        item, claim = _claimed(record), record.claim
        _log.info("acceptance refused", site=item.site, session=str(item.uuid), why=reason)
        now = self._clock.now()

        def step(r: SetRecord) -> SetRecord:
            if untouched and claim is not None and not offerset.untouched(r, claim):
                return r
            return offerset.refused(r, phase, reason, now, self.within)

        return await self._resolve_to(record, step)

    async def _doubt(self, record: SetRecord, reason: str, *, fencing: bool = False) -> SetRecord:
        return await self._resolve_to(record, lambda r: offerset.doubt(r, self._clock.now(), reason, fencing=fencing))

    async def _resolve_to(self, record: SetRecord, step: Callable[[SetRecord], SetRecord]) -> SetRecord:
        """Apply `step` while the claim is still this one; another worker's resolution stands."""
        mine = _claimed(record).uuid

        def guarded(r: SetRecord) -> SetRecord:
            return step(r) if r.claim and r.claim.session == mine and r.claim.state != "taken" else r

        return (await self._records.change(mine, guarded))[1]

    # ── resolving doubt ──────────────────────────────────────────────────────────────────────────────────────

    async def resolve(self, key: str) -> float | None:
        """The timer `claim`: bring one doubtful acceptance a step further. Returns when to look again (epoch
        seconds), or None when it is resolved. Safe to repeat and to interrupt at any point."""
        record = await self._records.by_key(key)
        if record is None or record.claim is None or record.claim.state == "taken":
            return None
        if record.claim.state == "forwarding" and self._clock.now() < record.claim.until:
            return record.claim.until  # whoever claimed is at it
        # A forward that nobody finished: its worker died. Whether it was sent is not known.
        died = "whoever was asking did not say how it ended" if record.claim.state == "forwarding" else ""
        record = await self._read(record, died)
        if record.claim is not None and record.claim.state != "taken":
            record = await self._press(record)
        record = await self._go_on(record)
        if record.claim is None or record.claim.state == "taken":
            return None
        return self._clock.now() + min(RETRY_MOST, 0.5 * 2.0 ** min(record.claim.tries, 10))

    async def go_on(self, key: str) -> float | None:
        """The timer `owed`: take a set further after a refusal, as far as its request asked for that. Idempotent."""
        record = await self._records.by_key(key)
        if record is None:
            return None
        record = await self._go_on(record)
        return record.owed.at if record.owed else None

    async def _press(self, record: SetRecord) -> SetRecord:
        """The site reads OFFERED, or nothing. Send again where that is safe, while the offer lasts; withdraw where
        patience is over."""
        item = _claimed(record)
        try:
            entry = self._sites.entry(item.site)
        except NotFound:
            return record  # registered no more: nobody can be asked, until it is again
        lasts = item.expires is None or self._clock.now() < item.expires
        if entry.profile is not None and entry.profile.repeatable and lasts:
            return await self._repeat(record)
        if record.claim is None or self._clock.now() - record.claim.at < self._patience:
            return record
        record = await self._doubt(record, record.claim.reason, fencing=True)
        if record.claim is None or record.claim.state == "taken":
            return record
        try:
            sighting = await entry.planner.update(order(record, item), "REJECTED", self._deadline(entry.site.timeout))
        except SiteError as error:
            return await self._doubt(record, error.detail, fencing=True)
        return await self._judge(record, sighting, f"it reads {sighting.phase} after the withdrawal")

    async def _repeat(self, record: SetRecord) -> SetRecord:
        """Send it once more. That it is being sent is written down first, for whoever would decide meanwhile."""
        until = self._clock.now() + self.within
        record = await self._resolve_to(record, lambda r: offerset.sending(r, until))
        if record.claim is None or record.claim.state == "taken":
            return record
        record = await self._forward(record, only=False)
        return (await self._records.change(record.uuid, lambda r: offerset.sent(r, until)))[1]

    # ── cancelling ────────────────────────────────────────────────────────────────────────────────

    async def _cancel(self, record: SetRecord, uuid: UUID) -> SetRecord:
        item = record.session(uuid)
        if item.phase in session.TERMINAL:
            if item.phase == "CANCELLED":
                return record
            raise Conflict(f"the session is over ({item.phase}).", remedy="Nothing is left to cancel.")
        offerset.must_not_be_in_doubt(record, uuid)
        if record.taken != uuid:
            raise Conflict(f"the session is {item.phase}, not accepted.", remedy="Send REJECTED for an offer.")
        try:
            deadline = self._deadline(CANCEL_LIMIT)
            sighting = await self._planner(item.site).update(order(record, item), "CANCELLED", deadline)
        except SiteError as error:
            text = f"{item.site} could not be told to cancel: {error.detail}"
            raise Unavailable(text, remedy="Cancel again; repeating it is safe.") from error
        return (await self._records.change(uuid, lambda r: offerset.see(r, uuid, seen(sighting), self._clock.now())))[1]

    def _planner(self, site: str) -> Planner:
        try:
            return self._sites.entry(site).planner
        except NotFound as error:
            raise SiteUnreachable(f"{site} is registered no more") from error

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline.after(seconds, self._clock.monotonic())


def _wanted(update: AbstractUpdate) -> str:
    """Of the four kinds of updates, the phase alone can be changed, by an enum value (protocol.md 1.3)."""
    if not isinstance(update, EnumValueUpdate) or update.path.lstrip("/") != "phase":
        text = f"{update.path} cannot be updated by a {update.kind}."
        raise BadInput(
            text, element="path", remedy='Send {"kind": "uri:enum-value-update", "path": "/phase", "value": …}.'
        )
    return update.value


def _claimed(record: SetRecord) -> SessionRecord:
    if record.claim is None:
        raise Conflict("the acceptance was resolved meanwhile.", remedy="Read the session again.")
    return record.session(record.claim.session)


def _then(first: str, second: str) -> str:
    return f"{first.rstrip('.')}; then: {second}" if first else second
