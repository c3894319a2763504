"""One acceptance at its site: claimed, sent, read back, recorded; and what to do while it is in doubt. Imports ports.

    claim (durable) → send → read back → record

Doubt is never guessed away: it is resolved by reading, by sending again where the site takes one session uuid once
(`Profile.repeatable`), or by fencing, that is withdrawing the offer and reading until it is over (design, section 4).
What is accepted, and what in its place, is for `services/acceptance`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from uuid import UUID

import structlog

from broker.domain import offerset, session
from broker.domain.deadline import Deadline
from broker.domain.offerset import SessionRecord, SetRecord
from broker.errors import (
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
from broker.services.offers import Offers
from broker.services.orders import order, seen
from broker.services.records import Records
from broker.services.sites import Sites
from broker.services.taken import Taken
from broker.services.window import Window

_log = structlog.get_logger(__name__)

READ_LIMIT = 5.0  # seconds for reading back what became of one
SLACK = 5.0  # seconds beyond sending and reading within which a live worker has written down how it ended
UNDO_FIRST = 1.0  # seconds until a claim that could not be undone is looked for again; doubled each time


class HeldBack(Unavailable):
    """Nothing was sent, by our own guard or for want of time: the offer stands as it stood."""


class Forwarding:
    """`forward`: seconds one acceptance may take before it is in doubt. `patience`: seconds a plain site may go on
    reading OFFERED before the acceptance is withdrawn."""

    def __init__(
        self,
        *,
        records: Records,
        offers: Offers,
        sites: Sites,
        window: Window,
        taken: Taken,
        clock: Clock,
        forward: float,
        patience: float,
    ) -> None:
        self._records, self._offers, self._sites = records, offers, sites
        self._window, self._taken, self._clock = window, taken, clock
        self._forward_limit, self._patience = forward, patience
        self._undoing: dict[str, asyncio.Task[None]] = {}  # by the token of the claim

    async def close(self) -> None:
        """Give up what is still being undone; others find it when its time is over."""
        tasks = list(self._undoing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ── the claim ────────────────────────────────────────────────────────────────────────────────────────────

    async def claim(
        self, record: SetRecord, uuid: UUID, offer: bytes, instead_of: UUID | None = None
    ) -> tuple[SetRecord, bool]:
        """Durable on return; whether the claim is ours to send. Raises Conflict for an offer that cannot be taken, and
        Unavailable: nothing is sent then, and what may have been written is undone."""
        if record.claim is not None and record.claim.token in self._undoing:
            await self._undo(uuid, record.claim.token)  # one of ours under which nothing was sent
        token = os.urandom(8).hex()

        def step(r: SetRecord) -> SetRecord:
            return offerset.claim(r, uuid, offer, self._clock.now(), self.within, token, instead_of)

        try:
            _, record = await self._records.change(uuid, step)
        except asyncio.CancelledError:
            self._undo_later(uuid, token)
            raise
        except Unavailable:
            if not await self._undo(uuid, token):
                self._undo_later(uuid, token)
            raise
        return record, record.claim is not None and record.claim.token == token

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
        task = self._undoing[token] = asyncio.create_task(self._undo_on(uuid, token))
        task.add_done_callback(lambda _: self._undoing.pop(token, None))

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

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────

    async def send(self, record: SetRecord, *, only: bool) -> SetRecord:
        """Send the acceptance once. The record comes back taken, refused, or in doubt.

        `only`: nothing was sent before. Then what surely did not reach the site, and a refusal, are proof, as long as
        nobody else took the claim up; of a repetition they prove nothing of what was sent first. Raises HeldBack:
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
        """Nothing was sent. Raises HeldBack; returns the record where others took the claim up meanwhile, and may
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
        self._taken.forget(claim.session)
        raise HeldBack(
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

        after = await self._resolve_to(record, step)
        if after.claim is None or after.claim.session != item.uuid:
            self._taken.forget(item.uuid)
        return after

    async def _doubt(self, record: SetRecord, reason: str, *, fencing: bool = False) -> SetRecord:
        return await self._resolve_to(record, lambda r: offerset.doubt(r, self._clock.now(), reason, fencing=fencing))

    async def _resolve_to(self, record: SetRecord, step: Callable[[SetRecord], SetRecord]) -> SetRecord:
        """Apply `step` while the claim is still this one; another worker's resolution stands. What comes back may hold
        the claim of another session then, which that worker has gone on to."""
        mine = _claimed(record).uuid

        def guarded(r: SetRecord) -> SetRecord:
            return step(r) if r.claim and r.claim.session == mine and r.claim.state != "taken" else r

        return (await self._records.change(mine, guarded))[1]

    # ── while it is in doubt ─────────────────────────────────────────────────────────────────────────────────

    async def pursue(self, record: SetRecord) -> SetRecord:
        """Bring a doubtful acceptance a step further: read, then send again or withdraw. A claim whose maker did not
        say how it ended is doubtful once its time is over: whether it was sent is not known."""
        died = record.claim is not None and record.claim.state == "forwarding"
        mine = _claimed(record).uuid
        record = await self._read(record, "whoever was asking did not say how it ended" if died else "")
        return await self._press(record) if _open(record, mine) else record

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
        if not _open(record, item.uuid):
            return record
        try:
            sighting = await entry.planner.update(order(record, item), "REJECTED", self._deadline(entry.site.timeout))
        except SiteError as error:
            return await self._doubt(record, error.detail, fencing=True)
        return await self._judge(record, sighting, f"it reads {sighting.phase} after the withdrawal")

    async def _repeat(self, record: SetRecord) -> SetRecord:
        """Send it once more. That it is being sent is written down first, for whoever would decide meanwhile."""
        until, mine = self._clock.now() + self.within, _claimed(record).uuid
        record = await self._resolve_to(record, lambda r: offerset.sending(r, until))
        if not _open(record, mine):
            return record
        record = await self.send(record, only=False)
        return (await self._records.change(record.uuid, lambda r: offerset.sent(r, until)))[1]

    def _planner(self, site: str) -> Planner:
        try:
            return self._sites.entry(site).planner
        except NotFound as error:
            raise SiteUnreachable(f"{site} is registered no more") from error

    def _deadline(self, seconds: float) -> Deadline:
        return Deadline.after(seconds, self._clock.monotonic())


def _claimed(record: SetRecord) -> SessionRecord:
    if record.claim is None:
        raise Conflict("the acceptance was resolved meanwhile.", remedy="Read the session again.")
    return record.session(record.claim.session)


def _open(record: SetRecord, uuid: UUID) -> bool:
    """Whether it is the acceptance of that session that is unresolved: another's is another worker's."""
    return record.claim is not None and record.claim.session == uuid and record.claim.state != "taken"


def _then(first: str, second: str) -> str:
    return f"{first.rstrip('.')}; then: {second}" if first else second
