"""Accepting an offer exactly once, and everything else a caller may do to a session. Imports ports and the domain.

    claim → send → read back → record (services/forwarding) → release the others (services/releasing)

After a proved refusal it goes on as far as the request asked for that: its site is asked anew, or the next-ranked is
taken. After a crash the timers `claim` and `owed` bring the same steps back.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from broker.domain import offerset, session
from broker.domain.deadline import Deadline
from broker.domain.identity import Caller, Hop
from broker.domain.offerset import SetRecord
from broker.domain.request import ExecutionRequest
from broker.domain.updates import AbstractUpdate, EnumValueUpdate
from broker.errors import BadInput, BrokerError, Conflict, NotFound, SiteError, Unavailable
from broker.ports import Clock
from broker.services.forwarding import Forwarding, HeldBack
from broker.services.offers import AT_ONCE, How, Offers
from broker.services.orders import order, seen
from broker.services.records import Records
from broker.services.requoting import Requoting
from broker.services.rights import Readers, must_change
from broker.services.sessions import Sessions, SessionState
from broker.services.sites import Sites
from broker.services.taken import Taken

RETRY_MOST = 30.0  # seconds between two looks at a doubtful acceptance, at most
CANCEL_LIMIT = 60.0  # seconds for a cancellation; a site's own limit, where lower, is kept by its guard


class Acceptance:
    """`guarded`: whether /direct wants a known or bounded price."""

    def __init__(
        self,
        *,
        records: Records,
        offers: Offers,
        forwarding: Forwarding,
        requoting: Requoting,
        sessions: Sessions,
        sites: Sites,
        taken: Taken,
        clock: Clock,
        readers: Readers,
        guarded: bool,
    ) -> None:
        self._records, self._offers, self._sessions, self._sites = records, offers, sessions, sites
        self._forwarding, self._requoting, self._taken = forwarding, requoting, taken
        self._clock, self._readers, self._guarded = clock, readers, guarded

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
        kept = await self._offers.kept(record, uuid)
        if onward and (other := await self._anew(record, uuid)):
            return await self._accept(await self._records.load(uuid), other, instead_of=uuid)
        record, ours = await self._forwarding.claim(record, uuid, kept.raw if kept else b"", instead_of)
        if not ours:
            return record  # taken already, or another worker is at it
        if kept is not None:
            self._taken.note(record.session(uuid).site, uuid, kept.work)
        record = await self._forwarding.send(record, only=True)
        return await self._go_on(record) if onward else record

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
            except HeldBack as error:
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

    # ── resolving doubt ──────────────────────────────────────────────────────────────────────────────────────

    async def resolve(self, key: str) -> float | None:
        """The timer `claim`: bring one doubtful acceptance a step further. Returns when to look again (epoch
        seconds), or None when it is resolved. Safe to repeat and to interrupt at any point."""
        record = await self._records.by_key(key)
        if record is None or record.claim is None or record.claim.state == "taken":
            return None
        if record.claim.state == "forwarding" and self._clock.now() < record.claim.until:
            return record.claim.until  # whoever claimed is at it
        record = await self._forwarding.pursue(record)
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
        deadline = Deadline.after(CANCEL_LIMIT, self._clock.monotonic())
        try:
            planner = self._sites.entry(item.site).planner
            sighting = await planner.update(order(record, item), "CANCELLED", deadline)
        except NotFound as error:
            raise Unavailable(f"{item.site} is registered no more.", remedy="Ask the operator.") from error
        except SiteError as error:
            text = f"{item.site} could not be told to cancel: {error.detail}"
            raise Unavailable(text, remedy="Cancel again; repeating it is safe.") from error
        self._taken.forget(uuid)
        return (await self._records.change(uuid, lambda r: offerset.see(r, uuid, seen(sighting), self._clock.now())))[1]


def _wanted(update: AbstractUpdate) -> str:
    """Of the four kinds of updates, the phase alone can be changed, by an enum value (protocol.md 1.3)."""
    if not isinstance(update, EnumValueUpdate) or update.path.lstrip("/") != "phase":
        text = f"{update.path} cannot be updated by a {update.kind}."
        raise BadInput(
            text, element="path", remedy='Send {"kind": "uri:enum-value-update", "path": "/phase", "value": …}.'
        )
    return update.value
