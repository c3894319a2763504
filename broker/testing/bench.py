"""The services of a broker on any store, without a network: for tests of the use cases. Imports the services.

Time is a FakeClock, sites are `ScriptedSite`s, and deferred work is done when a test says so (`work`, `settle`). A
crash is to forget the bench and to make another on the same store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from broker.domain import kinds, session
from broker.domain.identity import Caller, Hop, Owner
from broker.domain.money import Exchange
from broker.domain.offerset import SetRecord
from broker.domain.request import ExecutionRequest
from broker.domain.site import Registration
from broker.domain.storages import Map
from broker.domain.updates import AbstractUpdate, EnumValueUpdate
from broker.domain.wishes import Defaults
from broker.errors import BrokerError
from broker.ports import Limits, Planner, Store
from broker.services.acceptance import Acceptance
from broker.services.doubts import Doubts
from broker.services.fanout import Fanout
from broker.services.fleet import Fleet
from broker.services.forwarding import Forwarding
from broker.services.guard import GuardedPlanner
from broker.services.hub import Hub
from broker.services.learning import FADE, Learning
from broker.services.locating import Bounds, Known, Locating
from broker.services.offers import Offers, SetState, Timing
from broker.services.records import Records
from broker.services.releasing import Releasing
from broker.services.requoting import Requoting
from broker.services.rights import Readers
from broker.services.routing import Routing
from broker.services.sessions import Sessions, SessionState
from broker.services.sites import Sites
from broker.services.taken import Taken
from broker.services.upkeep import LEASE, TROUBLE, Handler
from broker.services.watching import Watching
from broker.services.window import Window
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryLimits

ADA = Caller(Owner("here", "ada"), "ada")
BOB = Caller(Owner("here", "bob"), "bob")
OPERATOR = Caller(Owner("here", "olga"), "olga", frozenset({"user", "operator"}))
ADMIN = Caller(Owner("here", "root"), "root", frozenset({"user", "administrator"}))
PATIENCE = 30.0


def request(**more: Any) -> ExecutionRequest:
    """The smallest request; `more` are top-level properties."""
    return ExecutionRequest.model_validate({"executable": {"kind": kinds.DOCKER_CONTAINER}, **more})


def phase(value: str) -> AbstractUpdate:
    """The update that asks for a phase."""
    return EnumValueUpdate(kind=kinds.ENUM_UPDATE, path="/phase", value=value)


class Bench:
    """`planners`: site → what speaks to it, in the order of asking; `registrations` replaces a site's plain one.
    `catalogues` and `map_`: who says where data lies, and what lies between."""

    def __init__(
        self,
        store: Store,
        clock: FakeClock,
        planners: Mapping[str, Planner],
        *,
        registrations: Mapping[str, Registration] | None = None,
        limits: Limits | None = None,
        readers: Readers = "own",
        guarded: bool = False,
        grace: float = 10.0,
        forward: float = 20.0,
        fleet: Fleet | None = None,
        catalogues: Sequence[Known] = (),
        map_: Map = Map((), (), Exchange("EUR", {})),  # noqa: B008 - it does not change
        at_once: int = 200,
    ) -> None:
        self.store, self.clock, self.nudges = store, clock, 0
        self.hub = Hub()
        self.records = Records(store, clock, self._nudge, self.hub)
        self.window = Window(clock.now)
        given = registrations or {}
        self.learning = Learning(store=store, records=self.records, clock=clock, map_=map_)
        configured = [given.get(name, Registration(name=name, url="http://x/")) for name in planners]
        self.sites = Sites(
            configured,
            store=store,
            clock=clock,
            build=lambda site: GuardedPlanner(planners[site.name], site, clock, fleet=fleet),
            broker_id="us",
            memory=self.learning,
        )
        self.fanout = Fanout(clock, grace=grace)
        self.taken = Taken(clock, fleet)
        self.offers = Offers(
            records=self.records, sites=self.sites, fanout=self.fanout,
            routing=Routing(map_, self.taken, clock, at_once=at_once),
            locating=Locating(catalogues, clock, Bounds(patience=0.05)), window=self.window, store=store,
            limits=limits or MemoryLimits(clock), clock=clock, readers=readers,
            map_=map_, defaults=Defaults(), experience=lambda: self.learning.experience,
            timing=Timing(grace=grace), broker_id="us",
        )  # fmt: skip
        self.sessions = Sessions(
            records=self.records, offers=self.offers, sites=self.sites, store=store, clock=clock, readers=readers
        )
        requoting = Requoting(
            records=self.records, sites=self.sites, clock=clock, map_=map_, deadline=10.0,
            margin=5.0, broker_id="us", experience=lambda: self.learning.experience,
        )  # fmt: skip
        self.forwarding = Forwarding(
            records=self.records, offers=self.offers, sites=self.sites, window=self.window, taken=self.taken,
            clock=clock, forward=forward, patience=PATIENCE,
        )  # fmt: skip
        self.acceptance = Acceptance(
            records=self.records, offers=self.offers, forwarding=self.forwarding, requoting=requoting,
            sessions=self.sessions, sites=self.sites, taken=self.taken, clock=clock, readers=readers, guarded=guarded,
        )  # fmt: skip
        self.doubts = Doubts(
            records=self.records, store=store, acceptance=self.acceptance, forwarding=self.forwarding,
            offers=self.offers, sessions=self.sessions, clock=clock,
        )  # fmt: skip
        self.releasing = Releasing(records=self.records, sites=self.sites, clock=clock)
        self.watching = Watching(store=store, records=self.records, sites=self.sites, window=self.window, clock=clock)
        self.handlers: Mapping[str, Handler] = {
            "claim": self.acceptance.resolve,
            "owed": self.acceptance.go_on,
            "close": self.releasing.close,
            "expire": self.releasing.expire,
            "release": self.releasing.release,
            "follow": self.watching.follow,
            "look": self.watching.look,
            "learn": self.learning.learn,
            FADE: self.learning.fade,
        }

    def _nudge(self, due: float = 0.0) -> None:
        self.nudges += 1

    async def start(self) -> Bench:
        await self.learning.refresh()
        await self.sites.start()
        return self

    # ── what callers do ──────────────────────────────────────────────────────────────────────────────────────

    async def ask(self, caller: Caller = ADA, hop: Hop | None = None, **more: Any) -> SetState:
        return await self.offers.ask(request(**more), caller, hop or Hop())

    async def update(self, uuid: UUID, value: str, caller: Caller = ADA) -> SessionState:
        return await self.acceptance.update(uuid, phase(value), caller)

    async def accept(self, uuid: UUID, caller: Caller = ADA) -> SessionState:
        return await self.update(uuid, "ACCEPTED", caller)

    async def direct(self, caller: Caller = ADA, **more: Any) -> SessionState:
        return await self.acceptance.direct(request(**more), caller, Hop())

    async def record(self, uuid: UUID) -> SetRecord:
        return await self.records.load(uuid)

    # ── what happens meanwhile ───────────────────────────────────────────────────────────────────────────────

    async def work(self) -> int:
        """Every timer that is due now, as Upkeep does it, until none is. Returns how many came."""
        count = 0
        while leases := await self.store.claim(32, LEASE):
            count += len(leases)
            for lease in leases:
                try:
                    again = await self.handlers[lease.key](lease.aggregate)
                except BrokerError:
                    again = self.clock.now() + TROUBLE
                await (self.store.done(lease) if again is None else self.store.postpone(lease, again))
        return count

    async def settle(self, seconds: float, *, but: Sequence[str] = ()) -> None:
        """Let so much time pass, doing what falls due at its moment."""
        end = self.clock.now() + seconds
        await self.work()
        while (due := await self.store.next_due()) is not None and due <= end:
            self.clock.advance(max(0.01, due - self.clock.now()))
            await self.work()
        self.clock.advance(max(0.0, end - self.clock.now()))
        await self.work()


def uuids(state: SetState) -> list[UUID]:
    """The sessions of a set, best first."""
    return [UUID(ranked.session) for ranked in state.ranking]


def by_site(state: SetState) -> dict[str, UUID]:
    """site → its (last) session."""
    return {item.site: item.uuid for item in state.record.sessions}


def broken_rules(record: SetRecord, sites: Sequence[Any], now: float) -> list[str]:
    """Which invariants of an aggregate at rest are broken: at most one session taken, at most one run, and every other
    offer released or expired. `sites` are ScriptedSites."""
    broken = []
    runs = {handle: count for site in sites for handle, count in site.runs.items() if count}
    if sum(runs.values()) > 1:
        broken.append(f"more than one run: {runs}")
    mine = record.session(record.taken).handle if record.taken else None
    if runs and (mine is None or mine not in runs):
        broken.append(f"{runs} run, and {mine} is taken")
    for site in sites:
        held = [handle for handle, phase_ in site.phases.items() if phase_ == "OFFERED" and handle != mine]
        known = {item.handle: item for item in record.sessions}  # an offer whose answer never came is not known
        broken += [
            f"{handle} is held at {site.name}"
            for handle in held
            if handle in known and _still(known[handle].expires, now)
        ]
    taken = [item.uuid for item in record.sessions if session.taken(item.phase) and item.phase != "FAILED"]
    if len(taken) > 1:
        broken.append(f"more than one taken: {taken}")
    return broken


def _still(expires: float | None, now: float) -> bool:
    return expires is None or expires > now
