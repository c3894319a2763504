"""Asking one site anew, when its offer was refused at the acceptance or had expired. Imports ports and the domain.

A price moves while a person thinks. Where the request says what rise it accepts (`preferences.requote`), the site is
asked once more, and its next offer is taken in place of the first if it costs no more than that. What it offers joins
the set either way, so that the person can choose by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from uuid import UUID

import msgspec
import structlog

from broker.domain import kinds, offerset, setbody
from broker.domain.deadline import Deadline
from broker.domain.experience import BLANK, Experience
from broker.domain.located import items
from broker.domain.offerset import Note, SessionRecord, SetRecord
from broker.domain.outcome import Declined, Offered, Outcome
from broker.domain.plain import strict
from broker.domain.ranking import Ranked
from broker.domain.request import ExecutionRequest
from broker.domain.setbody import SetBody
from broker.domain.storages import Map
from broker.errors import BrokerError, NotFound, SiteError
from broker.ports import Ask, Clock
from broker.services.gathering import Gathering
from broker.services.records import Records
from broker.services.sites import Entry, Sites

_log = structlog.get_logger(__name__)


class Requoting:
    """`deadline`: seconds for the answer; `margin`: seconds taken off an offer's expiry."""

    def __init__(
        self,
        *,
        records: Records,
        sites: Sites,
        clock: Clock,
        map_: Map,
        deadline: float,
        margin: float,
        broker_id: str,
        experience: Callable[[], Experience] = lambda: BLANK,
    ) -> None:
        self._records, self._sites, self._clock, self._map = records, sites, clock, map_
        self._deadline, self._margin, self._id = deadline, margin, broker_id
        self._experience = experience

    async def ask(self, record: SetRecord, uuid: UUID) -> UUID | None:
        """A fresh offer from the site of the session `uuid`, which ended unaccepted, at a price that the request
        accepts; None: there is none, and the session's messages say why. Offers of it that are still open are taken
        before the site is asked again. Raises Unavailable of the store."""
        data = await self._records.body(record)
        old = record.session(uuid)
        if record.requote is None or record.claim is not None or data is None:
            return None
        body = setbody.decode(data)
        fresh = [item for item in self._open(record, old) if item.uuid != uuid]
        if not fresh:
            # Shielded: what the site offers is to be known, whether or not its caller is still there.
            record, body, fresh = await asyncio.shield(self._join(record, old, body))
        return _within(body, record, uuid, fresh)

    def _open(self, record: SetRecord, old: SessionRecord) -> list[SessionRecord]:
        """Younger offers of the same site, from an earlier asking anew."""
        open_ = record.open_sessions(self._clock.now())
        return [item for item in open_ if item.site == old.site and item.requoted]

    async def _join(
        self, record: SetRecord, old: SessionRecord, body: SetBody
    ) -> tuple[SetRecord, SetBody, list[SessionRecord]]:
        now = self._clock.now()
        outcome, gathering = await self._quote(record, old, body)
        _, sessions, kept = gathering.take(old.site, outcome)
        body = msgspec.structs.replace(body, kept=(*body.kept, *kept))
        added = {item.session for item in kept}
        excluded = {ranked.session: ranked.excluded for ranked in body.ranking() if ranked.excluded}
        fresh = [_marked(item, excluded) for item in sessions]
        words = _words(body, record, old, fresh, outcome, now)
        _log.info("asked anew", site=old.site, set=str(record.uuid), offers=len(fresh))

        async def step(r: SetRecord) -> tuple[SetRecord, bytes | None]:
            data = await self._records.body(r)  # others may have added to it since, and know more of the data
            present = setbody.decode(data) if data else msgspec.structs.replace(body, kept=())
            before = (item for item in present.kept if item.session not in added)  # a write of ours that was not heard
            grown = msgspec.structs.replace(present, kept=(*before, *kept))
            return offerset.requoted(r, old.uuid, fresh, words, now), setbody.encode(grown)

        try:
            _, after = await self._records.rewrite(record.uuid, step)
        except BrokerError:
            if await self._surely_lost(record, fresh):
                await gathering.release(old.site, outcome, self._clock)
            raise
        known = {item.uuid for item in fresh}
        return after, body, [item for item in after.open_sessions(now) if item.uuid in known]

    async def _surely_lost(self, record: SetRecord, fresh: list[SessionRecord]) -> bool:
        """Whether offers whose writing went wrong are not in the set. Where that cannot be read they are left to
        expire."""
        try:
            present = {item.uuid for item in (await self._records.load(record.uuid)).sessions}
        except BrokerError:
            return False
        return present.isdisjoint(item.uuid for item in fresh)

    async def _quote(self, record: SetRecord, old: SessionRecord, body: SetBody) -> tuple[Outcome, Gathering]:
        request = ExecutionRequest.model_validate(msgspec.json.decode(body.request))
        deadline = Deadline.after(self._deadline, self._clock.monotonic())
        ask = Ask(
            request=request,
            plain=msgspec.json.encode(strict(request)),
            extended=body.request,
            set=record.uuid,
            deadline=deadline,
            user=record.owner,
            root=record.root or record.uuid,
            path=(*record.path, self._id),
        )
        try:
            entry = self._sites.entry(old.site)
        except NotFound:
            return Declined(()), Gathering(ask, body.wishes, self._map, self._clock.now(), self._margin, ())
        taken = {item.uuid for item in record.sessions}
        known = body.located or items(request)  # a set of an older version does not say
        gathering = Gathering(
            ask, body.wishes, self._map, self._clock.now(), self._margin, (entry,),
            taken=taken, located=lambda: known, experience=self._picture(body, old.uuid, request),
        )  # fmt: skip
        return await self._outcome(entry, ask), gathering

    def _picture(self, body: SetBody, uuid: UUID, request: ExecutionRequest) -> Experience:
        """That by which the old offer was ranked, as far as it is kept: what the site wants now is compared with what
        it wanted then. What was measured of the ways is that of now."""
        old, measured = body.by_session().get(uuid), self._experience().measured
        if old is None or old.candidate.correction is None:
            return Experience(measured)
        return Experience(measured, usual={kinds.short(request.executable.kind): old.candidate.correction})

    async def _outcome(self, entry: Entry, ask: Ask) -> Outcome:
        if entry.profile is None:
            return Declined(())
        try:
            quotes = await entry.planner.quote(ask)
        except SiteError as error:
            _log.info("not asked anew", site=entry.name, why=error.detail)
            return Declined(())
        return Offered(quotes.quotes) if quotes.quotes else Declined(quotes.reasons)


def _marked(item: SessionRecord, excluded: Mapping[str, str]) -> SessionRecord:
    reason = item.excluded or excluded.get(str(item.uuid)) or ""
    return msgspec.structs.replace(item, excluded=reason, requoted=True)


def _within(body: SetBody, record: SetRecord, old: UUID, fresh: list[SessionRecord]) -> UUID | None:
    """The best of the fresh offers whose price is known to have risen no more than the request accepts."""
    was = _pay(body, old)
    if was is None:
        return None
    most = was * (1.0 + (record.requote or 0.0))
    for ranked in _ranked(body, fresh):
        pay = ranked.score.quoted if ranked.score else None
        if pay is not None and not pay.stand_in and pay.pessimistic <= most + 1e-9 * abs(most):
            return UUID(ranked.session)
    return None


def _pay(body: SetBody, uuid: UUID) -> float | None:
    """What the session would have cost at most, in the currency that is shown; None: that was not known."""
    ranked = next((ranked for ranked in body.ranking() if ranked.session == str(uuid)), None)
    if ranked is None or ranked.score is None or ranked.score.quoted.stand_in:
        return None
    return ranked.score.quoted.pessimistic


def _ranked(body: SetBody, fresh: list[SessionRecord]) -> list[Ranked]:
    """Best first."""
    uuids = {str(item.uuid) for item in fresh if not item.excluded}
    return [ranked for ranked in body.ranking() if ranked.session in uuids and ranked.excluded is None]


def _words(
    body: SetBody, record: SetRecord, old: SessionRecord, fresh: list[SessionRecord], outcome: Outcome, now: float
) -> Note:
    """What the owner of `old` is told, and may do."""
    within, ranking = _within(body, record, old.uuid, fresh), _ranked(body, fresh)
    best = next((ranked for ranked in ranking if within is None or ranked.session == str(within)), None)
    values = {
        "site": old.site,
        "currency": body.wishes.currency,
        "accepted": f"{100.0 * (record.requote or 0.0):g}%",
    }
    if best is None or best.score is None:
        reasons = "; ".join(map(str, outcome.reasons)) if isinstance(outcome, Declined) else ""
        values["reason"] = reasons or "it made no offer that fits"
        return Note(now, "uri:asked-anew", "{site} was asked anew and offers nothing: {reason}", values)
    values |= {"session": best.session, "price": f"{best.score.quoted.pessimistic:.2f}"}
    was = _pay(body, old.uuid)
    if was is None or best.score.quoted.stand_in:
        text = "{site} was asked anew. What the price was, or is, is not known" + _BY_HAND
    else:
        values["before"] = f"{was:.2f}"
        text = "{site} was asked anew and wants {price} {currency}, after {before}: "
        text += (
            "within the accepted rise of {accepted}."
            if within
            else "more than the accepted rise of {accepted}" + _BY_HAND
        )
    return Note(now, "uri:asked-anew", text, values)


_BY_HAND = ", so it is not taken by itself. If you want it, accept session {session}."
