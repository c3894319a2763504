"""One seed, one world, one history: set up, let live under faults, let come to rest. Imports its sister modules.

0 s … FAULTS s    people ask and accept; replicas die, sites misbehave, the network and the store fail
then              all faults end; what is left of the replicas finishes the work
at rest           no timer is left but those that forget by age; people read once more
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import structlog

from broker.services import keeping
from broker.services.doctor import Report
from broker.services.doubts import Doubt
from broker.services.keeping import TIMER as KEEP
from broker.services.keys import TIMER as FORGET
from broker.services.learning import FADE
from broker.store.database import connect
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.executor import InlineExecutor
from broker.testing.memory import MemoryLimits
from broker.testing.simulation.checker import Case, Timer
from broker.testing.simulation.clock import LoopClock
from broker.testing.simulation.history import History
from broker.testing.simulation.loop import OWNER, DrawnLoop, apart, world
from broker.testing.simulation.network import Network
from broker.testing.simulation.replicas import BOOT_AGAIN, Disk, Habits, Life, Surroundings
from broker.testing.simulation.replicas import Caller as Connection
from broker.testing.simulation.sites import Fact, Nature, Site
from broker.testing.simulation.users import Operator, Person, Stranger
from broker.testing.simulation.weather import Weather

FAULTS = 60.0  # seconds
SWEEP = 15.0  # seconds between two sweeps of the house-keeping, which has little time here
PEOPLE = 900.0  # seconds within which the last of them has surely been told something
REST = 1500.0  # seconds after the faults within which all that can be finished is
ENDINGS = 50  # seconds within which whatever was cancelled has surely ended
DOUBTS = 120.0  # seconds after the faults from which on an operator decides what no site will say any more
SEEN = 30.0  # seconds after which every replica has seen where the store's clock was moved, and what is due by it
LOOK = 15.0  # seconds between two looks whether all is at rest
TIMERS = (
    f"SELECT aggregate, key, due, ready FROM timers WHERE key NOT IN ('{FORGET}', '{KEEP}', '{FADE}') "  # noqa: S608 - constants
    "ORDER BY aggregate, key"
)
NAMES = ("alba", "borealis", "cirrus", "dune")


class World(Surroundings):
    """Everything there is, made from one seed. After `run` it can be judged (`checker.judge`)."""

    def __init__(self, seed: int, loop: DrawnLoop, random: Random) -> None:
        self.seed, self.loop, self.random = seed, loop, random
        self.weather = Weather.of(random)
        self.history = History(loop.time)
        self.network = Network(loop, self.weather)
        self.truth = LoopClock(loop)
        self.replicas = [f"r{number}" for number in range(random.choice((1, 2, 2, 3)))]
        self.clocks = {name: LoopClock(loop, random.choice((0.0, 0.5, -0.5, 180.0, -180.0))) for name in self.replicas}
        sites: dict[str, Site] = {}
        for name in NAMES[: random.choice((2, 3, 3, 4))]:
            nature = Nature.of(random, healthy=not sites)
            clock = LoopClock(loop, nature.offset)
            sites[name] = Site(name, nature, self.weather, clock, loop.time)
        self.sites: Mapping[str, Site] = sites
        self.people: list[Person] = [Person(name, self) for name in ("ada", "bob", "cyd")[: random.choice((1, 2, 3))]]
        self.people.append(Stranger("eve", self, list(self.people)))
        self.operator = Operator("olga", self)
        self.people.append(self.operator)
        self.habits = Habits.of(random)
        self.shared = MemoryLimits(self.truth)
        self.clock_told = [(loop.time(), 0.0)]  # (the loop's time, by how much the store's clock is ahead from then on)
        self.reports: list[Report] = []
        self.held: dict[str, frozenset[str]] = {}
        self.lives: dict[str, Life] = {}
        self.given_up: set[str] = set()
        self.left: list[Timer] = []
        self.now = self.rest = 0.0  # when all was at rest, by the store's clock and by the loop's
        self.lines: dict[tuple[str, str], str] = {}
        self.stuck: list[str] = []
        self._all: list[Life] = []
        self._changed = asyncio.Event()

    async def run(self, store: SqliteStore) -> None:
        self.disk = Disk(store, self.loop, self.weather, self.history)
        for name in self.replicas:
            self._start(name)
        troubles = self.loop.create_task(self._troubles(), context=apart())
        people = [self.loop.create_task(person.live(), context=apart()) for person in self.people]
        await asyncio.sleep(FAULTS)
        if troubles.done():
            troubles.result()  # it never ends by itself: what it raised is a fault of the simulation
        troubles.cancel()
        self._calm()
        _, still = await asyncio.wait(people, timeout=PEOPLE)
        self.stuck += [
            f"{person.name} still waits" for person, task in zip(self.people, people, strict=True) if task in still
        ]
        for task in people:
            if task.done() and (error := task.exception()) is not None:
                raise error
        await self._rest()
        for person in self.people:
            for set_ in person.sets:
                await self._read(person, set_)
        self.now, self.rest, self.lines = self.truth.now(), self.loop.time(), await self._listed()
        self.held = {
            name: frozenset(handle for handle in site.memory if site.phase(handle) == "OFFERED")
            for name, site in self.sites.items()
        }
        await self._doctor()
        await self._end()

    async def _end(self) -> None:
        """Nobody is left: what a task does at its end it does here, and not whenever it is collected."""
        self.given_up.update(self.replicas)
        for life in list(self.lives.values()):
            life.die("the end")
        for _ in range(ENDINGS):
            tasks = [task for life in self._all for task in life.tasks]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=1.0) if tasks else await asyncio.sleep(1.0)
            if not tasks:
                return
        self.stuck.append("a task that is cancelled does not end")

    # ── replicas ─────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, replica: str) -> None:
        if replica in self.given_up or (replica in self.lives and not self.lives[replica].dead):
            return
        life = self.lives[replica] = Life(replica, len(self._all) + 1, self)
        self._all.append(life)
        life.spawn(self._boot(life))

    async def _boot(self, life: Life) -> None:
        booting = life.spawn(life.boot())
        while not life.dead and life.bench is None and not booting.done():
            await asyncio.wait([booting], timeout=0.2)
        self._changed.set()
        await booting

    def died(self, life: Life) -> None:
        again = BOOT_AGAIN if self.weather.calm else self.random.choice((0.5, BOOT_AGAIN, 20.0, 100.0))
        self.loop.call_later(again, self._start, life.replica, context=apart())

    def spare(self, life: Life) -> bool:
        return life.bench is not None

    def clock(self, replica: str) -> LoopClock:
        return self.clocks[replica]

    async def open(self) -> Life:
        while True:
            alive = [
                life for life in self.lives.values() if not life.dead and life.bench is not None and not life.stopping
            ]
            if alive:
                return self.random.choice(alive)
            self._changed.clear()
            await self._changed.wait()

    # ── what goes wrong, and when it ends ────────────────────────────────────────────────────────────────────

    async def _troubles(self) -> None:
        """Every now and then one thing of the list, most often those that this history is about."""
        every = self.random.choice((5.0, 10.0, 30.0, 200.0))
        while True:
            await asyncio.sleep(self.random.expovariate(1.0 / every))
            troubles = [
                self._kill, self._kill, self._stop, self._cut, self._hang, self._restart, self._fill, self._jump
            ]  # fmt: skip
            if self.habits.measures:
                troubles += [self._move, self._move]
            self.random.choice(troubles)()

    def _kill(self) -> None:
        life = self.random.choice(list(self.lives.values()))
        life.die("killed")

    def _stop(self) -> None:
        life = self.random.choice(list(self.lives.values()))
        if not life.dead:
            life.spawn(life.stop())

    def _cut(self) -> None:
        faulty = [name for name, site in self.sites.items() if not site.nature.healthy]
        seconds = self.random.choice((2.0, 10.0, 30.0))
        replica = self.random.choice(self.replicas)
        for name in faulty if self.random.random() < 0.5 else [self.random.choice(faulty)]:
            self.network.cut(replica, name, seconds)
        self.history.note("network", "is cut", replica=replica, seconds=seconds)

    def _hang(self) -> None:
        site, seconds = self._faulty(), self.random.choice((5.0, 20.0, 40.0))
        self.network.hang(site.name, seconds)
        self.history.note(site.name, "hangs", seconds=seconds)

    def _restart(self) -> None:
        site, for_good = self._faulty(), self.random.random() < 0.3
        site.restart(for_good=for_good)
        self.history.note(site.name, "restarts and forgets", for_good=for_good, ends_jobs=site.nature.restart_ends_jobs)
        if not for_good:
            self.loop.call_later(self.random.uniform(5.0, 60.0), site.remember, context=apart())

    def _fill(self) -> None:
        seconds = self.random.choice((1.0, 5.0, 15.0))
        if self.random.random() < 0.5:
            self.disk.full_until = self.loop.time() + seconds
            self.history.note("store", "is full", seconds=seconds)
        else:
            self.disk.out_until = self.loop.time() + seconds
            self.history.note("store", "is gone", seconds=seconds)

    def _jump(self) -> None:
        replica = self.random.choice(self.replicas)
        self.clocks[replica].ahead = self.random.choice((-3600.0, -90.0, 0.0, 90.0, 3600.0))
        self.history.note(replica, "its clock jumps", ahead=self.clocks[replica].ahead)

    def _move(self) -> None:
        self.truth.ahead += self.random.choice((-90.0, -20.0, -3.0, 3.0, 20.0, 90.0, 600.0))
        self.clock_told.append((self.loop.time(), self.truth.ahead))
        for site in self.sites.values():
            site.measured(self.truth.ahead)
        self.history.note("store", "its clock jumps", ahead=self.truth.ahead)

    def _faulty(self) -> Site:
        return self.random.choice([site for site in self.sites.values() if not site.nature.healthy])

    def _calm(self) -> None:
        """All faults end. Of the replicas one is left at times, and never a chosen one."""
        self.weather.calm = True
        self.network.mend()
        self.disk.full_until = self.disk.out_until = 0.0
        for site in self.sites.values():
            site.remember()
        if self.random.random() < 0.7:
            left = self.random.choice(self.replicas)
            for name in self.replicas:
                if name != left:
                    self.given_up.add(name)
                    self.lives[name].die("for good")
        self.history.note("world", "is calm", given_up=",".join(sorted(self.given_up)))
        for name in self.replicas:
            self._start(name)

    # ── rest ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _rest(self) -> None:
        """Until nothing is left to do, or as long as it may take."""
        calm = self.loop.time()
        await asyncio.sleep(SEEN if self.habits.measures else 0.0)
        while self.loop.time() < calm + REST:
            self.left = await self._timers()
            if not self.left:
                break
            await asyncio.sleep(LOOK)
            if self.loop.time() > calm + DOUBTS:
                await self.operator.see_to_all(but_for=lambda doubt: not self._fact(doubt).forgotten)
        self.history.note("world", "is at rest", timers=len(self.left))

    def _fact(self, doubt: Doubt) -> Fact:
        return self.sites[doubt.site].ledger[doubt.handle]

    async def _doctor(self) -> None:
        """Looks at everything, mends what can be, and looks again where anything was found."""
        for mend in (True, False):
            life = await self.open()
            self.reports.append(await life.serve(lambda here: here.doctor(mend=mend).visit(), Connection(None), REST))  # noqa: B023 - it is called before the next turn
            if not self.reports[-1].findings:
                break

    async def _timers(self) -> list[Timer]:
        def work(sql: sqlite3.Connection) -> list[Timer]:
            return sql.execute(TIMERS).fetchall()

        return await self.disk.store.database.read(work)

    async def _listed(self) -> dict[tuple[str, str], str]:
        def work(sql: sqlite3.Connection) -> dict[tuple[str, str], str]:
            return {(kind, id): phase for kind, id, phase in sql.execute("SELECT kind, id, phase FROM listings")}

        return await self.disk.store.database.read(work)

    async def _read(self, person: Person, set_: Any) -> None:
        await person.call("reads at the end", lambda here: here.offers.get(set_, person.caller), set=set_)

    def case(self) -> Case:
        return Case(
            self.history,
            self.sites,
            self.left,
            self.lines,
            self.stuck,
            self.now,
            self.rest,
            self.clock_told,
            self.reports,
            self.held,
        )


# ── running one ──────────────────────────────────────────────────────────────────────────────────────────────


class Ground:
    """A folder in memory, where the system has one, with an empty store to copy for each world."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
        self._folder = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        self.path = Path(self._folder.name)
        # Not in a world: the first one would draw what the others do not.
        for connection in connect(self.path / "empty.db", 5.0):
            connection.close()
        self._empty = (self.path / "empty.db").read_bytes()

    async def open(self, clock: LoopClock) -> SqliteStore:
        path = self.path / "broker.db"
        for file in self.path.iterdir():
            file.unlink()
        path.write_bytes(self._empty)
        return await open_sqlite(path, clock, executor=InlineExecutor())

    def close(self) -> None:
        self._folder.cleanup()


@contextmanager
def ground() -> Iterator[Ground]:
    found = Ground()
    try:
        yield found
    finally:
        found.close()


def simulate(seed: int, here: Ground) -> World:
    """The world of one seed, lived to its end. Raises what a person in it raised, which is a fault of the simulation,
    and `loop.Stuck`."""
    random = Random(seed)  # noqa: S311 - it is there to be foretold
    with world(random) as loop, patch.object(keeping, "EVERY", SWEEP), patch.object(keeping, "PIECE", 2):
        made = World(seed, loop, random)
        with _logs_to(made):
            loop.run_until_complete(_lived(made, here))
        return made


async def _lived(made: World, here: Ground) -> None:
    store = await here.open(made.truth)
    try:
        await made.run(store)
    finally:
        await store.close()


@contextmanager
def _logs_to(made: World) -> Iterator[None]:
    """What services log goes to the history, by the life that logs it, and to no terminal."""

    def keep(_: Any, level: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        owner = OWNER.get()
        who = owner.name if isinstance(owner, Life) else "world"
        if event.get("exc_info") is True:
            event["exc_info"] = sys.exc_info()[1]
        made.history.logs.append({"at": made.loop.time(), "who": who, "level": level, **event})
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.reset_defaults()
    structlog.configure(processors=[keep])
    try:
        yield
    finally:
        structlog.configure(**before)
