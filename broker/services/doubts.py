"""Acceptances of which it is not known how they ended, and the word of a person who looked it up. Imports ports.

Doubt resolves itself as soon as its site answers (services/forwarding). A site that never answers again leaves it to
an operator, who asks there by other ways: that word is a proof like the site's own, and is kept with a name to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import msgspec
import structlog

from broker.domain import offerset, session
from broker.domain.identity import Caller, aggregate
from broker.domain.offerset import SetRecord
from broker.errors import BadInput, BrokerError, Conflict, NotAllowed, NotFound
from broker.ports import Clock, Query, Store
from broker.services.acceptance import Acceptance
from broker.services.forwarding import Forwarding
from broker.services.offers import Offers
from broker.services.records import Records
from broker.services.sessions import Sessions, SessionState

_log = structlog.get_logger(__name__)

MOST = 1000  # listed at once


class Doubt(msgspec.Struct, frozen=True):
    """An acceptance in doubt. `native`: the platform's own name of the job, where one is known; `handle`: the site's
    name of the session. `since` is epoch seconds; `tries`: how often the site was asked in vain; `fencing`: the offer
    is being withdrawn."""

    session: UUID
    set: UUID
    site: str
    handle: str
    native: str
    name: str
    owner: str
    since: float
    tries: int
    fencing: bool
    reason: str


class Doubts:
    def __init__(
        self,
        *,
        records: Records,
        store: Store,
        acceptance: Acceptance,
        forwarding: Forwarding,
        offers: Offers,
        sessions: Sessions,
        clock: Clock,
    ) -> None:
        self._records, self._store, self._acceptance, self._forwarding = records, store, acceptance, forwarding
        self._offers, self._sessions, self._clock = offers, sessions, clock

    async def list(self, caller: Caller) -> Sequence[Doubt]:
        """All of them, whoever asked, the newest first, but for records that cannot be read: `broker doctor` names
        those. For operators."""
        _operator(caller)
        found = []
        for line in await self._store.listings(Query("offerset", phases=("DOUBT",), limit=MOST)):
            record = await self._readable(UUID(line.id))
            if record is not None and record.claim is not None and record.claim.state in ("doubt", "fencing"):
                found.append(_doubt(record))
        return found

    async def _readable(self, uuid: UUID) -> SetRecord | None:
        try:
            return await self._records.by_key(aggregate(uuid))
        except BrokerError as error:
            _log.warning("a doubt cannot be read", set=str(uuid), why=error.detail)
            return None

    async def decide(self, uuid: UUID, taken: bool, because: str, caller: Caller) -> SessionState:
        """The site took this session, or surely did not, by the word of an operator. What follows a site's own word
        follows: the others are released, or the next-ranked is accepted where the request asked for failover.
        Idempotent. Raises Conflict for a session that is not in doubt."""
        _operator(caller)
        if not because.strip():
            raise BadInput("who at the site said so, or where it was seen, is wanted.", element="because")
        record = await self._records.load(uuid)
        record.session(uuid)
        decision = await self._offers.decision(record, uuid) if taken else None
        now, who, within = self._clock.now(), caller.owner.subject, self._forwarding.within

        def step(r: SetRecord) -> SetRecord:
            if _stands(r, uuid, taken):
                return r
            if r.claim is None or r.claim.session != uuid or r.taken:
                raise Conflict(f"the session is {r.session(uuid).phase}, and not in doubt.")
            return offerset.decided(r, taken, who, because.strip(), decision, now, within)

        before, after = await self._records.change(uuid, step)
        if after is not before:
            _log.warning("acceptance decided by a person", session=str(uuid), taken=taken, by=who, why=because)
            await self._acceptance.go_on(aggregate(uuid))
        return await self._sessions.state(await self._records.load(uuid), uuid)


def _stands(record: SetRecord, uuid: UUID, taken: bool) -> bool:
    """Whether it has ended like that already."""
    return record.taken == uuid if taken else record.session(uuid).phase in session.REFUSED


def _doubt(record: SetRecord) -> Doubt:
    claim = record.claim
    if claim is None:
        raise NotFound("no acceptance is in doubt there.")
    item = record.session(claim.session)
    return Doubt(
        session=item.uuid,
        set=record.uuid,
        site=item.site,
        handle=item.handle,
        native=item.native,
        name=record.name,
        owner=str(record.owner),
        since=claim.at,
        tries=claim.tries,
        fencing=claim.state == "fencing",
        reason=claim.reason,
    )


def _operator(caller: Caller) -> None:
    if not caller.may("operator"):
        raise NotAllowed("only an operator may see to acceptances in doubt.", remedy="Ask whoever runs this broker.")
