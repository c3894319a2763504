"""Replicas of a broker that live and die: their services, their ways to the store and to the sites. Imports the bench.

A life is one process: what it holds in memory, and its tasks. When it dies, its tasks end where they stand, and its
ways out refuse whatever is tried behind it, so no `finally` of it reaches the world. What it had sent arrives all the
same. The store is one SQLite file for all, on which each call takes a while, and may go wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar
from uuid import UUID

from broker.domain.deadline import Deadline
from broker.domain.site import Profile
from broker.errors import BrokerError, SiteError, Unavailable, Unconfirmed
from broker.ports import Ask, Held, Logs, Order, Quotes, Result, Sighting
from broker.services.clock import StoreClock
from broker.services.doctor import Doctor
from broker.services.events import Events
from broker.services.fleet import Fleet
from broker.services.keeping import TIMER as KEEP
from broker.services.keeping import Keeping
from broker.services.keys import TIMER as FORGET
from broker.services.keys import Keys
from broker.services.upkeep import Upkeep
from broker.store.sqlite import SqliteStore
from broker.testing.bench import Bench
from broker.testing.memory import MemoryLimits
from broker.testing.simulation.clock import LoopClock
from broker.testing.simulation.history import History
from broker.testing.simulation.loop import OWNER, DrawnLoop, apart
from broker.testing.simulation.network import Letter, Network
from broker.testing.simulation.sites import Site
from broker.testing.simulation.weather import Weather
from broker.testing.tripwire import Died

T = TypeVar("T")

WRITES = frozenset({"write", "remove", "done", "postpone", "renew", "claim", "ping", "prune_bodies"})
BOOT_AGAIN = 3.0  # seconds until a replica that could not start is started again
STOP_WITHIN = 10.0  # seconds for calls under way of a replica that is told to stop


class Caller:
    """One call of a user, as the replica's code sees it. `left`: the number of calls to store and sites after which
    whoever called has gone away; None: stays."""

    def __init__(self, left: int | None) -> None:
        self.left = left
        self.task: asyncio.Task[Any] | None = None


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)


class Gone(Exception):
    """The connection to the replica broke off: whether it did what it was asked is not known."""


class Disk:
    """The one store of all replicas, and what befalls it. `full_until`, `out_until`: the loop's time."""

    def __init__(self, store: SqliteStore, loop: DrawnLoop, weather: Weather, history: History) -> None:
        self.store, self.loop, self.weather, self.history = store, loop, weather, history
        self.full_until = self.out_until = 0.0
        self.followers: dict[Life, tuple[Callable[[], Collection[str]], Callable[[str], None]]] = {}

    def wrote(self, life: Life, key: str, version: int, record: bytes) -> None:
        self.history.wrote(life.name, key, version, record)
        self._tell(life, key)

    def removed(self, life: Life, key: str) -> None:
        self.history.removed(life.name, key)
        self._tell(life, key)

    def _tell(self, life: Life, key: str) -> None:
        for other, (watched, ring) in list(self.followers.items()):
            if other is not life:
                missed = self.weather.strikes(0.1)
                self.loop.call_later(self.weather.way(), _news, other, watched, ring, key, missed, context=apart())


def _news(
    life: Life, watched: Callable[[], Collection[str]], ring: Callable[[str], None], key: str, missed: bool
) -> None:
    """`missed`: some news were lost, so whoever listens looks at all."""
    if life.dead:
        return
    for each in list(watched()) if missed else [key]:
        if each in watched():
            ring(each)


class Life:
    """One process of a replica, from its start to its death."""

    def __init__(self, replica: str, number: int, world: Surroundings) -> None:
        self.replica, self.name, self.world = replica, f"{replica}.{number}", world
        self.dead = self.stopping = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.calls: dict[asyncio.Task[Any], None] = {}  # of users
        self.context = Context()
        self.context.run(OWNER.set, self)
        self.bench: Services | None = None  # None: it is still starting

    def spawn(self, coroutine: Any, context: Context | None = None) -> asyncio.Task[Any]:
        return self.world.loop.create_task(coroutine, context=context or self.context)

    def die(self, why: str) -> None:
        if self.dead:
            return
        self.dead = True
        self.world.history.note(self.name, "dies", why=why)
        self.world.disk.followers.pop(self, None)
        for task in list(self.tasks):
            task.cancel()
        self.world.died(self)

    def step(self, what: str) -> None:
        """A call to the store or to a site begins or ends. Raises Died for the dead, and for whoever dies of it."""
        if self.dead:
            raise Died(self.name)
        if self.world.weather.strikes(self.world.weather.deaths) and self.world.spare(self):
            self.die(f"at {what}")
            raise Died(self.name)
        caller = CALLER.get()
        if caller is not None and caller.left is not None and caller.task is not None:
            caller.left -= 1
            if caller.left == 0:
                caller.task.cancel()

    async def boot(self) -> None:
        """Services on the store; then the loops that run as long as it lives."""
        local = self.world.clock(self.replica)
        bench = Services(self, local)
        try:
            await bench.told.measure()
            await bench.keeping.start()
            await bench.start()
        except BrokerError as error:
            self.die(f"could not start: {error.detail}")
            return
        self.bench = bench
        self.world.history.note(self.name, "lives", ahead=local.ahead)
        await asyncio.gather(*bench.loops())

    async def stop(self) -> None:
        """As a process does that is told to: it takes no new calls, claims no timers, and ends what it has in hand."""
        bench = self.bench
        if bench is None or self.stopping:
            return
        self.stopping = True
        self.world.history.note(self.name, "is to stop")
        bench.upkeep.stop()
        if self.calls:
            await asyncio.wait(self.calls, timeout=STOP_WITHIN)
        await bench.upkeep.close()
        await bench.forwarding.close()
        if bench.fleet is not None:
            await bench.fleet.close()
        self.die("stopped")

    async def serve(self, act: Callable[[Services], Awaitable[T]], caller: Caller, patience: float) -> T:
        """What a user's call brings. Raises Gone when the process dies of it or before, or when `patience` (seconds)
        is over; BrokerErrors as the services raise them."""
        if self.dead or self.bench is None:
            raise Gone(self.name)
        context = self.context.copy()
        context.run(CALLER.set, caller)
        caller.task = task = self.spawn(act(self.bench), context)
        self.calls[task] = None
        task.add_done_callback(lambda done: self.calls.pop(done, None))
        await asyncio.wait([task], timeout=patience)
        if not task.done():
            task.cancel()
            raise Gone(f"{self.name}: no answer in {patience} s")
        if self.dead or task.cancelled():
            raise Gone(self.name)
        error = task.exception()
        if isinstance(error, Died):
            raise Gone(self.name)
        if error is not None:
            raise error
        return task.result()  # type: ignore[no-any-return] # of the coroutine that `act` made


@dataclass(frozen=True)
class Habits:
    """How this world's brokers are set. Seconds: `keeps_offers`, `keeps_records` as in the settings (0: for ever).
    `fleet`: replicas share what they may ask of a site, and say which does not answer. `measures`: they look again
    what the store's clock shows, which moves."""

    keeps_offers: float
    keeps_records: float
    fleet: bool
    measures: bool

    @classmethod
    def of(cls, random: Random) -> Habits:
        keeps = random.choice((0.0, 0.0, 30.0, 90.0))
        return cls(
            keeps_offers=keeps * random.uniform(0.3, 0.9) or 600.0,
            keeps_records=keeps,
            fleet=random.random() < 0.15,
            measures=random.random() < 0.25,
        )


class Surroundings:
    """What a life needs to know of the world; `run.World` fills it in."""

    loop: DrawnLoop
    weather: Weather
    history: History
    network: Network
    disk: Disk
    sites: Mapping[str, Site]
    habits: Habits
    shared: MemoryLimits

    def clock(self, replica: str) -> LoopClock:
        raise NotImplementedError

    def died(self, life: Life) -> None:
        raise NotImplementedError

    def spare(self, life: Life) -> bool:
        """Whether that one may die now."""
        raise NotImplementedError


class Services(Bench):
    """A broker's services, with what runs beside them in a process."""

    def __init__(self, life: Life, local: LoopClock) -> None:
        self.life = life
        disk: Any = Way(life, life.world.disk)  # it is what it gets by name
        self.told = StoreClock(local, disk.now)
        clock: Any = self.told  # benches want a fake clock, to move it by hand; nobody does here
        self.upkeep = Upkeep(disk, clock)
        doors = {name: Door(life, site) for name, site in life.world.sites.items()}
        registrations = {name: site.registration for name, site in life.world.sites.items()}
        limits: Any = Way(life, life.world.disk, life.world.shared)
        self.fleet = Fleet(limits, clock) if life.world.habits.fleet else None
        super().__init__(disk, clock, doors, registrations=registrations, limits=disk.limits, fleet=self.fleet)
        self.keys = Keys(disk, clock)
        self.events = Events(
            records=self.records, offers=self.offers, sessions=self.sessions, hub=self.hub, clock=clock
        )
        habits = life.world.habits
        self.keeping = Keeping(
            store=disk, records=self.records, clock=clock, offers=habits.keeps_offers, records_for=habits.keeps_records
        )
        self.upkeep.handle({**self.handlers, FORGET: self.keys.forget, KEEP: self.keeping.keep})

    def doctor(self, *, mend: bool) -> Doctor:
        return Doctor(store=self.store, sites=self.sites, clock=self.clock, mend=mend)

    def loops(self) -> Iterator[Coroutine[Any, Any, None]]:
        """What runs as long as the process."""
        yield self.upkeep.run()
        yield self.sites.run()
        yield self.store.follow(self.hub.watched, self.hub.ring)
        if self.life.world.habits.measures:
            yield self.told.run()
        if self.fleet is not None:
            yield self.fleet.run()

    def _nudge(self, due: float = 0.0) -> None:
        self.upkeep.nudge(due)


# ── the way to the store ─────────────────────────────────────────────────────────────────────────────────────


class Way:
    """The Backend port of one life, on the store of all."""

    shared = True

    def __init__(self, life: Life, disk: Disk, target: Any = None) -> None:
        self._life, self._disk, self._target = life, disk, target or disk.store

    @property
    def calendar(self) -> Any:
        return Way(self._life, self._disk, self._disk.store.calendar)

    @property
    def limits(self) -> Any:
        return Way(self._life, self._disk, self._disk.store.limits)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, method, args, kwargs)

        setattr(self, name, call)
        return call

    async def follow(self, watched: Callable[[], Collection[str]], ring: Callable[[str], None]) -> None:
        self._disk.followers[self._life] = (watched, ring)
        await asyncio.Event().wait()

    async def close(self) -> None:
        """The file is everybody's."""

    async def _call(self, name: str, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        life, disk = self._life, self._disk
        life.step(f"{name} before")
        answer: asyncio.Future[Any] = disk.loop.create_future()
        # In nobody's name: what was sent arrives, whatever becomes of whoever sent it.
        disk.loop.create_task(self._carry(answer, name, method, args, kwargs), context=apart())
        value = await answer
        life.step(f"{name} after")
        return value

    async def _carry(
        self, answer: asyncio.Future[Any], name: str, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        """What happens to one call, whether or not anybody still waits for its answer."""
        try:
            await asyncio.sleep(self._disk.weather.disk())
            fate = self._fate(name)
            if fate == "before":
                raise Unavailable("the store does not answer.")
            if fate == "late":  # whoever waited has given up, and what was sent is done all the same
                _settle(answer, Unavailable("the store did not answer in time."))
                await asyncio.sleep(self._disk.weather.random.uniform(0.1, 3.0))
            value = await method(*args, **kwargs)
            if value is True and self._target is self._disk.store:
                self._note(name, args)
            await asyncio.sleep(self._disk.weather.disk())
            _settle(answer, _heard(fate, value))
        except Exception as error:
            _settle(answer, error)

    def _note(self, name: str, args: tuple[Any, ...]) -> None:
        if name == "write":
            self._disk.wrote(self._life, args[0], args[1] + 1, args[2])
        elif name == "remove":
            self._disk.removed(self._life, args[0])

    def _fate(self, name: str) -> str:
        disk, now = self._disk, self._disk.loop.time()
        if disk.out_until > now or (disk.full_until > now and name in WRITES):
            return "before"
        if not disk.weather.strikes(disk.weather.store):
            return ""
        fates = ["before", "after", "late"]
        fates += ["unconfirmed", "denied"] if name == "write" else ["denied"] if name == "remove" else []
        return disk.weather.random.choice(fates)


def _heard(fate: str, value: Any) -> Any:
    """What comes back of a call that was carried out."""
    if fate == "after":
        return Unavailable("the store's answer was lost.")
    if fate == "unconfirmed" and value is True:
        return Unconfirmed("written, and on one server only.")
    if fate == "denied" and value is True:
        return False  # it was made by a first sending, whose answer was lost
    return value


def _settle(answer: asyncio.Future[Any], told: Any) -> None:
    if answer.done():
        return
    answer.set_exception(told) if isinstance(told, Exception) else answer.set_result(told)


# ── the way to a site ────────────────────────────────────────────────────────────────────────────────────────


class Door:
    """The Planner port of one life, to one site through the network."""

    def __init__(self, life: Life, site: Site) -> None:
        self._life, self._site = life, site

    async def describe(self, deadline: Deadline) -> Profile:
        return await self._call("describe", self._site.describe, deadline, repeats=True)

    async def quote(self, ask: Ask) -> Quotes:
        return await self._call("quote", lambda: self._site.quote(ask), ask.until)

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        repeats = self._site.nature.repeatable
        fact, history = self._site.ledger[order.handle], self._life.world.history

        def sent() -> None:
            fact.sent.append(self._life.world.loop.time())

        history.note(self._life.name, "accepts", site=self._site.name, handle=order.handle, session=order.session)
        return await self._call("accept", lambda: self._site.accept(order), deadline, repeats=repeats, sent=sent)

    async def release(self, orders: Sequence[Order], deadline: Deadline) -> None:
        await self._call("release", lambda: self._site.release(orders), deadline, repeats=True)

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        return await self._call("status", lambda: self._site.status(orders), deadline, repeats=True)

    async def update(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        return await self._call("update", lambda: self._site.update(order, phase), deadline, repeats=True)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        return await self._call("held", self._site.held, deadline, repeats=True)

    async def logs(self, order: Order, deadline: Deadline) -> Logs:
        return Logs()

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]:
        return ()

    async def fetch(self, order: Order, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        yield b""

    async def close(self) -> None:
        """Nothing is held."""

    async def _call(
        self,
        operation: str,
        act: Callable[[], T],
        deadline: Deadline,
        *,
        repeats: bool = False,
        sent: Callable[[], None] = lambda: None,
    ) -> T:
        life, site = self._life, self._site
        life.step(f"{operation} at {site.name} before")
        letter = Letter(life.replica, site.name, operation, repeats, site.nature.healthy)
        try:
            answer = await life.world.network.call(letter, act, deadline, sent)
        except SiteError as error:
            said = type(error).__name__
            life.world.history.note(life.name, f"hears {said}", site=site.name, of=operation, why=error.detail)
            life.step(f"{operation} at {site.name} after")
            raise
        life.step(f"{operation} at {site.name} after")
        return answer
