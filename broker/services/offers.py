"""Asking the federation: screen → fan out → read → rank → save. Imports ports, the domain, and its sister services.

The answer goes out at the deadline; what is late joins the set while it is open, and is released where it is not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from math import inf
from typing import Any
from uuid import UUID

import msgspec
import structlog

from broker.domain import kinds, located, offerset, setbody
from broker.domain.deadline import Deadline
from broker.domain.experience import Experience
from broker.domain.hops import share
from broker.domain.identity import Caller, Hop, Owner, members, new_set
from broker.domain.located import Item, learned, notes
from broker.domain.offerset import Decision, SessionRecord, SetRecord
from broker.domain.outcome import Outcome, Reason, Skipped
from broker.domain.plain import strict
from broker.domain.ranking import Ranked
from broker.domain.request import ExecutionRequest, check
from broker.domain.scoring import promises
from broker.domain.setbody import Kept, SetBody
from broker.domain.storages import Map
from broker.domain.wishes import Defaults, resolve
from broker.errors import BrokerError, NotAllowed, NotFound, Unavailable, Unconfirmed
from broker.ports import Ask, Clock, Limits, Listing, Query, Store
from broker.services.fanout import Course, Fanout, Target
from broker.services.gathering import Gathering, Joiner
from broker.services.growing import Grower
from broker.services.locating import Locating
from broker.services.records import Records
from broker.services.rights import Readers, must_read, owns
from broker.services.routing import Routing
from broker.services.sites import Entry, Sites
from broker.services.window import Window

_log = structlog.get_logger(__name__)

SHORTEST = 1.0  # seconds: what a caller may shorten the wait for an answer to
MOST_TOLD = 2 * 2**20  # bytes of a request with what was found out; brokers below refuse what is too large to them
ROOT_KEPT = 600.0  # seconds for which a request that came by one way is known, longer than any fan-out


class SetState(msgspec.Struct, frozen=True):
    """A set as it stands at `now` (epoch seconds). `body` is None once the offers were pruned by age."""

    record: SetRecord
    body: SetBody | None
    now: float
    ranking: tuple[Ranked, ...] = ()

    @property
    def uuid(self) -> UUID:
        return self.record.uuid


class Timing(msgspec.Struct, frozen=True):
    """Seconds: for an answer, the most a caller may ask for, for late sites after it, taken off an offer's expiry."""

    deadline: float = 10.0
    longest: float = 60.0
    grace: float = 10.0
    margin: float = 5.0


class How(msgspec.Struct, frozen=True):
    """What a caller wants of the asking itself. `set`: the uuid that the set gets, None: a fresh one; a set that is
    there already is never made again. `wait`: seconds within which to answer, None: our own default. `later`: answer
    with the open set at once, or when all is in or `wait` has passed; sites join it meanwhile."""

    set: UUID | None = None
    wait: float | None = None
    later: bool = False


AT_ONCE = How()


class Offers:
    def __init__(
        self,
        *,
        records: Records,
        sites: Sites,
        fanout: Fanout,
        locating: Locating,
        routing: Routing,
        window: Window,
        store: Store,
        limits: Limits,
        clock: Clock,
        readers: Readers,
        map_: Map,
        defaults: Defaults,
        experience: Callable[[], Experience],
        timing: Timing,
        broker_id: str,
    ) -> None:
        self._records, self._sites, self._fanout, self._window = records, sites, fanout, window
        self._locating, self._routing, self._experience = locating, routing, experience
        self._store, self._limits, self._clock, self._readers = store, limits, clock, readers
        self._map, self._defaults, self._timing, self._id = map_, defaults, timing, broker_id
        self._growing: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Give up the sets that grow. What is not in by then is not waited for: their timers close them."""
        for task in self._growing:
            task.cancel()
        await asyncio.gather(*self._growing, return_exceptions=True)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def ask(
        self, request: ExecutionRequest, caller: Caller, hop: Hop, how: How = AT_ONCE, *, direct: bool = False
    ) -> SetState:
        """One request to all sites that could host it. The set is durable on return. Raises BadInput before anybody
        is asked, Unavailable when it cannot be kept; the offers are then given back."""
        check(request)
        wishes = resolve(request.preferences, request, self._map.exchange, self._defaults)
        if hop.path and self._map.blank:  # the broker that asks judges it, since it knows more of where storages are
            wishes = msgspec.structs.replace(wishes, locality_required=False)
        set_ = how.set or new_set(os.urandom(16))
        deadline = self._deadline(hop, None if how.later else how.wait)
        entries, left = await self._whom(request, hop)
        # Who wants no answer yet is not kept waiting for the catalogues either: what they say joins, as the sites do.
        search = await self._locating.search(request, deadline, most=(how.wait or 0.0) if how.later else inf)
        await self._routing.taken.hear()
        wire = request.to_wire()
        asking = msgspec.json.encode(wire)
        ask = self._question(request, wire, asking, search.found(), set_, hop, caller.owner, deadline)
        experience = self._experience()
        gathering = Gathering(
            ask, wishes, self._map, self._clock.now(), self._timing.margin, entries,
            asking=asking, located=search.found, experience=experience, lag=self._routing.taken.lag,
        )  # fmt: skip
        blank = self._blank(gathering, caller, hop, direct, left, entries)
        course = self._routing.course(gathering, entries, search.found, experience)
        targets = _targets(entries) if course is None else []
        if how.later:
            return await self._ask_later(gathering, ask, blank, targets, course, left, how.wait or 0.0)
        enough = gathering.enough if wishes.enough is not None else None
        outcomes: Mapping[str, Outcome] = {}
        try:
            outcomes = await self._fanout.ask(
                targets, ask, on_late=self._joiner(gathering), enough=enough, course=course
            )
            self._window.asked({**left, **outcomes})
            return await self._save(gathering, {**left, **outcomes}, blank)
        except Unconfirmed:
            raise  # it is kept, as far as anybody knows
        except Unavailable:
            self._go_on(self._give_back(gathering, outcomes))
            raise
        finally:
            gathering.abandon()

    async def _give_back(self, gathering: Gathering, outcomes: Mapping[str, Outcome]) -> None:
        """Should the set have been kept all the same, its sites prove that its offers are gone."""
        await asyncio.gather(*(gathering.release(site, outcome, self._clock) for site, outcome in outcomes.items()))

    def _go_on(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Beside the answer."""
        task = asyncio.create_task(work)
        self._growing.add(task)
        task.add_done_callback(self._growing.discard)
        return task

    async def _ask_later(
        self,
        gathering: Gathering,
        ask: Ask,
        blank: SetRecord,
        targets: Sequence[Target],
        course: Course | None,
        left: Mapping[str, Outcome],
        wait: float,
    ) -> SetState:
        """The set is saved before anybody is asked: after a crash its timer closes it, naming who never answered."""
        state = await self._save(gathering, left, blank, ask.deadline.left(self._clock.monotonic()))
        grower = Grower(gathering, self._records, self._clock)
        task = self._go_on(self._grow(grower, ask, targets, course, left))
        if wait <= 0:
            return state
        await asyncio.wait([task], timeout=wait)
        now = self._clock.now()
        return await self._state(await self._records.load(gathering.set), now)

    async def _grow(
        self,
        grower: Grower,
        ask: Ask,
        targets: Sequence[Target],
        course: Course | None,
        left: Mapping[str, Outcome],
    ) -> None:
        try:
            outcomes = await grower.run(self._fanout, targets, ask, self._joiner(grower.gathering), course)
            self._window.asked({**left, **outcomes})
        except BrokerError as error:
            _log.error("a growing set was lost; its timer closes it", set=str(ask.set), why=error.detail)

    def _deadline(self, hop: Hop, wait: float | None) -> Deadline:
        seconds = self._timing.deadline if wait is None else min(self._timing.longest, max(SHORTEST, wait))
        if hop.left is not None:
            given = min(self._timing.longest, share(hop.left))
            seconds = given if wait is None else min(seconds, given)
        return Deadline.after(seconds, self._clock.monotonic())

    async def _whom(self, request: ExecutionRequest, hop: Hop) -> tuple[list[Entry], dict[str, Outcome]]:
        """The sites to ask. A request that came here by another way already is answered there."""
        if hop.root is not None:
            key, way = f"root:{hop.root}", ">".join(hop.path)
            if not await self._limits.enter(key, way, 1, self._clock.now() + ROOT_KEPT):
                others = ", ".join(sorted(await self._limits.members(key))) or "another broker"
                reason = Reason(f"asked by way of {others.replace('>', ' > ')}")
                return [], {entry.name: Skipped(reason) for entry in self._sites.entries()}
        return self._sites.screen(request)

    def _question(
        self,
        request: ExecutionRequest,
        wire: dict[str, Any],
        asking: bytes,
        found: Sequence[Item],
        set_: UUID,
        hop: Hop,
        user: Owner,
        deadline: Deadline,
    ) -> Ask:
        """Serialised once, for all sites. Brokers of ours are told where the data was found to be, unless that is more
        than they would read."""
        told, extended = None, asking
        if learned(found):
            written = msgspec.json.encode({**wire, "located": located.wire(found)})
            if len(written) <= max(MOST_TOLD, len(asking)):
                told, extended = request.with_(located=notes(found)), written
        return Ask(
            request=told or request,
            plain=msgspec.json.encode(strict(request, wire)),
            extended=extended,
            set=set_,
            deadline=deadline,
            user=user,
            root=hop.root or set_,
            path=(*hop.path, self._id),
            drain=self._timing.grace,
            batch=hop.batch,
        )

    def _blank(
        self,
        gathering: Gathering,
        caller: Caller,
        hop: Hop,
        direct: bool,
        left: Mapping[str, Outcome],
        entries: Sequence[Entry],
    ) -> SetRecord:
        now = gathering.now
        return SetRecord(
            uuid=gathering.set,
            owner=caller.owner,
            account=caller.account,
            name=gathering.request.name,
            created=now,
            sites=(*(entry.name for entry in entries), *left),
            closes=now + self._timing.longest + self._timing.grace,
            failover=gathering.wishes.failover,
            requote=gathering.wishes.requote,
            direct=direct,
            root=hop.root,
            path=hop.path,
        )

    async def _save(
        self, gathering: Gathering, outcomes: Mapping[str, Outcome], blank: SetRecord, ahead: float = 0.0
    ) -> SetState:
        """`ahead`: seconds until the answers are expected; the grace for late ones begins then."""
        answers = {site: gathering.take(site, outcome) for site, outcome in outcomes.items()}
        body = gathering.body()
        ranking = body.ranking()
        record = offerset.join(blank, gathering.sessions(answers, ranking), gathering.now)
        if not record.closed:
            record = msgspec.structs.replace(record, closes=self._clock.now() + ahead + self._timing.grace)
        # Shielded: the offers are in, and a caller that goes away now must not leave them known to nobody.
        await asyncio.shield(self._records.create(record, setbody.encode(body)))
        gathering.saved.set()
        return SetState(record, body, self._clock.now(), ranking)

    def _joiner(self, gathering: Gathering) -> Joiner:
        return Joiner(gathering, self._records, self._window, self._clock)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    async def get(self, uuid: UUID, caller: Caller) -> SetState:
        """Raises NotFound, also for a session's uuid and for what the caller may not read."""
        now = self._clock.now()
        record = await self._records.load(uuid)
        must_read(record, caller, self._readers)
        if record.uuid != uuid:
            raise NotFound("that is a session, not an offer set.", remedy=f"GET /sessions/{uuid}")
        return await self._state(record, now)

    async def _state(self, record: SetRecord, now: float) -> SetState:
        """As it stood at `now`, an instant before it was read: nothing that is shown as EXPIRED by then can become
        anything else. By a later instant it might have, while the record was on its way."""
        body = await self.body(record)
        return SetState(offerset.shown(record, now), body, now, body.ranking() if body else ())

    async def request(self, uuid: UUID, caller: Caller) -> bytes:
        """The request as it was sent, in JSON, for whoever sent it and for operators: its environment may hold what
        other readers of the set should not see. Raises NotFound also when it was pruned, with the offers."""
        state = await self.get(uuid, caller)
        if not owns(state.record, caller) and not caller.may("operator"):
            raise NotAllowed("only whoever asked may read the request.", remedy="Ask the owner of the set.")
        if state.body is None:
            raise NotFound("the request is not kept any more.", remedy="Submit its file again.")
        return state.body.request

    async def list(
        self,
        caller: Caller,
        *,
        after: tuple[float, str] | None = None,
        limit: int = 100,
        everyone: bool = False,
        name: str | None = None,
        since: float | None = None,
    ) -> list[Listing]:
        """The caller's own, newest first; `everyone`: all, for operators. `since`: epoch seconds."""
        owner = None if everyone and caller.may("operator") else caller.owner.by(caller.account)
        return await self._store.listings(Query("offerset", owner, after=after, limit=limit, name=name, since=since))

    async def body(self, record: SetRecord) -> SetBody | None:
        data = await self._records.body(record)
        return setbody.decode(data) if data is not None else None

    async def kept(self, record: SetRecord, uuid: UUID) -> Kept | None:
        """An offer in full; None when it was pruned."""
        body = await self.body(record)
        return body.by_session().get(uuid) if body else None

    # ── for acceptance ───────────────────────────────────────────────────────────────────────────────────────

    async def best(self, record: SetRecord, *, guarded: bool, without: Collection[UUID] = ()) -> UUID | None:
        """The first-ranked offer that can still be claimed, but for those in `without`. `guarded`: only with a known
        price, and one that is either nothing or bounded by a ceiling of the caller's."""
        free = (item.uuid for item in record.open_sessions(self._clock.now()) if item.uuid not in without)
        open_ = {str(uuid): uuid for uuid in free}
        body = await self.body(record) if open_ else None
        if body is None:
            return None
        for ranked in body.ranking():
            if ranked.session in open_ and ranked.score is not None and ranked.excluded is None:
                pay = ranked.score.pay
                safe = not pay.stand_in and (pay.pessimistic == 0 or body.wishes.budget is not None)
                if safe or not guarded:
                    return open_[ranked.session]
        return None

    async def decision(self, record: SetRecord, uuid: UUID) -> Decision:
        """The row that outlives the offers: what was chosen, among what, on what promise."""
        item = record.session(uuid)
        bare = Decision(uuid, item.site, item.origin, record.claim.at if record.claim else self._clock.now())
        body = await self.body(record)
        kept = body.by_session().get(uuid) if body else None
        if body is None or kept is None:
            return bare
        ranking = [ranked for ranked in body.ranking() if ranked.excluded is None and ranked.score is not None]
        mine = next((ranked for ranked in ranking if ranked.session == str(uuid)), None)
        paid = [r.score.quoted.expected for r in ranking if r.score is not None and not r.score.quoted.stand_in]
        price = kept.candidate.price
        staging, run = promises(kept.candidate)
        return msgspec.structs.replace(
            bare,
            kind=_work(body.request),
            alone=self._alone(item),
            prepares=kept.candidate.prepares,
            # A size that the asker states is no promise of the site's: whoever understates it would spoil its name.
            staging=None if any(found.by_asker for found in body.located) else staging,
            run=run,
            rank=mine.rank if mine else None,
            eligible=len(ranking),
            currency=kept.candidate.currency or body.wishes.exchange.base,
            cost=price.expected if price else None,
            start=kept.candidate.start.expected - kept.later,
            duration=kept.candidate.run.expected,
            all_in=mine.score.all_in.expected if mine and mine.score else None,
            bytes_moved=kept.locality.bytes.expected if kept.locality.bytes else None,
            cheapest=min(paid, default=None),
            mean=sum(paid) / len(paid) if paid else None,
            ranked_in=body.wishes.currency,
        )

    def _alone(self, item: SessionRecord) -> bool:
        """Whether its site is one place: where bytes come to behind a broker with several is none of our ways."""
        try:
            profile = self._sites.entry(item.site).profile
        except NotFound:  # registered no more
            profile = None
        return item.origin == item.site or (profile is not None and profile.origins == (item.origin,))

    async def give_up(self, record: SetRecord, held: Mapping[UUID, str]) -> SetRecord:
        """Close a direct request that nobody took; the last session of the record says why. `held`: the offers that
        our own guard did not let us accept, and why."""
        reasons = [f"{site}: {'; '.join(entry.reasons) or entry.outcome}" for site, entry in record.outcomes.items()]
        refused = [f"{item.site}: {item.notes[-1].values.get('reason', '')}" for item in record.sessions if item.notes]
        refused += [f"{record.session(uuid).site}: {why}" for uuid, why in held.items()]
        left = [item.site for item in record.open_sessions(self._clock.now()) if item.uuid not in held]
        if left:
            refused.append(f"{', '.join(left)}: the price is unknown or has no ceiling, and this broker wants one")
        taken = {item.uuid for item in record.sessions}
        uuid = members(record.uuid, os.urandom(4), taken, 1)[0]
        why = refused or reasons or ["no site is registered here"]
        now = self._clock.now()
        return (await self._records.change(record.uuid, lambda r: offerset.give_up(r, uuid, why, now)))[1]


class _Executable(msgspec.Struct, frozen=True):
    kind: str = ""


class _Asked(msgspec.Struct, frozen=True):
    executable: _Executable = _Executable()


def _work(request: bytes) -> str:
    """The kind of work that a request asks for, in its short name."""
    return kinds.short(msgspec.json.decode(request, type=_Asked).executable.kind)


def _targets(entries: Sequence[Entry]) -> list[Target]:
    return [Target(entry.name, entry.planner) for entry in entries]
