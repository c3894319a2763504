"""Whatever two replicas do to a store, in whatever order, it holds what a dictionary in memory holds."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from broker.ports import Lease, Listing, Query, Store
from broker.store.redis import open_redis
from broker.store.redis_nodes import parse
from broker.store.sqlite import open_sqlite
from broker.testing.apart import StoreApart
from broker.testing.executor import InlineExecutor
from broker.testing.machines import Machine, drive

KEYS = ("a", "b", "ö")
IDS = ("1", "2")
PHASES = ("OFFERED", "RUNNING")
OWNERS, SITES, NAMES = ("me", "you"), ("s", "t"), ("", "run")

KEY, CLIENT = st.sampled_from(KEYS), st.sampled_from((0, 1))
TIMERS = st.dictionaries(st.sampled_from(("t", "u", "v")), st.none() | st.integers(-30, 60), max_size=3)
BODIES = st.none() | st.binary(max_size=9)
LINES = st.dictionaries(
    st.sampled_from(IDS),
    st.tuples(
        st.sampled_from(OWNERS),
        st.integers(1, 3),
        st.sampled_from(PHASES),
        st.sampled_from(NAMES),
        st.sampled_from(SITES),
    ),
    max_size=2,
)
CUTS = st.sets(st.sampled_from(IDS), max_size=1)
QUERIES = st.builds(
    Query,
    kind=st.just("session"),
    owner=st.none() | st.sampled_from(OWNERS),
    phases=st.sampled_from(((), ("RUNNING",), PHASES)),
    site=st.none() | st.sampled_from(SITES),
    limit=st.integers(1, 4),
    name=st.none() | st.sampled_from(NAMES),
    since=st.none() | st.sampled_from((1.5, 2.0)),
)


class Timer(msgspec.Struct):
    due: float
    until: float | None = None  # the end of its lease
    token: str | None = None

    @property
    def ready(self) -> float:
        return self.due if self.until is None else self.until


class Aggregate(msgspec.Struct):
    version: int
    record: bytes
    body: bytes | None = None
    written: float = 0.0
    timers: dict[str, Timer] = {}
    lines: dict[str, Listing] = {}


class StoreMachine(Machine):
    """Override `open`."""

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Aggregate] = {}
        self.leases: list[Lease] = []
        self.stores: dict[int, Store] = {}
        for client in (0, 1):
            self.stores[client] = self.run(self.open(client))

    async def open(self, client: int) -> Store:
        raise NotImplementedError("open the store for that client")

    async def ended(self) -> None:
        for store in self.stores.values():
            await store.close()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(who=CLIENT, key=KEY, off=st.sampled_from((0, 0, 0, 1, -1)), body=BODIES, timers=TIMERS, lines=LINES, cut=CUTS)
    def write(
        self,
        who: int,
        key: str,
        off: int,
        body: bytes | None,
        timers: dict[str, int | None],
        lines: dict[str, tuple[str, int, str, str, str]],
        cut: set[str],
    ) -> None:
        now = self.clock.now()
        at = self.model.get(key, Aggregate(0, b""))
        record = b"%d of %d" % (at.version, now)
        dues = {name: None if wait is None else now + wait for name, wait in timers.items()}
        rows = [Listing("session", key + id, *line) for id, line in lines.items()]
        gone = [("session", key + id) for id in sorted(cut - lines.keys())]
        done = self.run(
            self.stores[who].write(key, at.version + off, record, body=body, timers=dues, listings=rows, cut=gone)
        )
        assert done == (off == 0)
        if not done:
            return
        at.version, at.record = at.version + 1, record
        if body is not None:
            at.body, at.written = body, now
        for name, due in dues.items():
            at.timers.pop(name, None)
            if due is not None:
                at.timers[name] = Timer(due)
        for _, id in gone:
            at.lines.pop(id, None)
        at.lines |= {line.id: line for line in rows}
        self.model[key] = at

    @rule(key=KEY, times=st.integers(2, 5))
    def many_write_at_once(self, key: str, times: int) -> None:
        at = self.model.get(key, Aggregate(0, b""))
        done = self.together(*(self.stores[n % 2].write(key, at.version, b"by %d" % n) for n in range(times)))
        assert done.count(True) == 1
        at.version, at.record = at.version + 1, b"by %d" % done.index(True)
        self.model[key] = at

    @rule(who=CLIENT, key=KEY, off=st.sampled_from((0, 0, 1)))
    def remove(self, who: int, key: str, off: int) -> None:
        at = self.model.get(key)
        done = self.run(self.stores[who].remove(key, (at.version if at else 1) + off))
        assert done == (at is not None and off == 0)
        if done:
            del self.model[key]

    @rule(who=CLIENT, age=st.integers(0, 60))
    def prune(self, who: int, age: int) -> None:
        before = self.clock.now() - age
        old = [at for at in self.model.values() if at.body is not None and at.written < before]
        assert self.run(self.stores[who].prune_bodies(before)) == len(old)
        for at in old:
            at.body = None

    # ── timers ───────────────────────────────────────────────────────────────────────────────────────────────

    @rule(seconds=st.integers(0, 40))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    def ready(self) -> dict[tuple[str, str], Timer]:
        now = self.clock.now()
        return {
            (key, name): timer
            for key, at in self.model.items()
            for name, timer in at.timers.items()
            if timer.ready <= now
        }

    def hold(self, leases: list[Lease], ready: dict[tuple[str, str], Timer], seconds: int) -> None:
        """What one claim brought is theirs who made it, and nobody else's."""
        assert {old.token for old in self.leases}.isdisjoint(got.token for got in leases)
        for got in leases:
            timer = ready[got.aggregate, got.key]
            assert got.due == timer.due
            timer.until, timer.token = self.clock.now() + seconds, got.token
        self.leases += leases

    @rule(who=CLIENT, limit=st.integers(0, 4), seconds=st.integers(1, 30))
    def claim(self, who: int, limit: int, seconds: int) -> None:
        ready = self.ready()
        leases = self.run(self.stores[who].claim(limit, float(seconds)))
        held = [(lease.aggregate, lease.key) for lease in leases]
        assert len(set(held)) == len(held) == min(limit, len(ready))
        assert [lease.due for lease in leases] == sorted(lease.due for lease in leases)
        left = [timer.ready for name, timer in ready.items() if name not in held]
        assert all(ready[name].ready <= other for name in held for other in left)
        self.hold(leases, ready, seconds)

    @rule(limit=st.integers(1, 4), seconds=st.integers(1, 30))
    def both_claim_at_once(self, limit: int, seconds: int) -> None:
        ready = self.ready()
        first, second = self.together(*(store.claim(limit, float(seconds)) for store in self.stores.values()))
        held = [(lease.aggregate, lease.key) for lease in (*first, *second)]
        assert len(set(held)) == len(held)
        assert max(len(first), len(second)) <= limit
        assert min(limit, len(ready)) <= len(held) <= min(2 * limit, len(ready))
        self.hold(first, ready, seconds)
        self.hold(second, ready, seconds)

    def timer_of(self, lease: Lease) -> Timer | None:
        at = self.model.get(lease.aggregate)
        timer = at.timers.get(lease.key) if at else None
        return timer if timer and timer.token == lease.token else None

    @precondition(lambda self: self.leases)
    @rule(who=CLIENT, data=st.data())
    def done(self, who: int, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = self.timer_of(lease)
        assert self.run(self.stores[who].done(lease)) == (held is not None)
        if held:
            del self.model[lease.aggregate].timers[lease.key]

    @precondition(lambda self: self.leases)
    @rule(who=CLIENT, data=st.data(), wait=st.integers(-5, 30))
    def postpone(self, who: int, data: st.DataObject, wait: int) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = self.timer_of(lease)
        due = self.clock.now() + wait
        assert self.run(self.stores[who].postpone(lease, due)) == (held is not None)
        if held:
            held.due, held.until, held.token = due, None, None

    @precondition(lambda self: self.leases)
    @rule(who=CLIENT, data=st.data(), seconds=st.integers(1, 30))
    def renew(self, who: int, data: st.DataObject, seconds: int) -> None:
        """One that ended and that nobody claimed since may be renewed or not: then it is looked at what came of it."""
        lease = data.draw(st.sampled_from(self.leases))
        held = self.timer_of(lease)
        renewed = self.run(self.stores[who].renew(lease, float(seconds)))
        if held is None:
            assert not renewed
        elif renewed:
            held.until = self.clock.now() + seconds
        else:
            assert held.ready <= self.clock.now()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    @rule(who=CLIENT, query=QUERIES)
    def page_through(self, who: int, query: Query) -> None:
        lines = [line for at in self.model.values() for line in at.lines.values()]
        wanted = sorted(filter(lambda line: _meets(line, query), lines), key=lambda line: (line.created, line.id))
        found: list[Listing] = []
        page = self.run(self.stores[who].listings(query))
        while page:
            assert len(page) <= query.limit
            found += page
            query = msgspec.structs.replace(query, after=(page[-1].created, page[-1].id))
            page = self.run(self.stores[who].listings(query))
        assert found == wanted[::-1]

    @rule(who=CLIENT, limit=st.integers(1, 3))
    def walk_through(self, who: int, limit: int) -> None:
        found: set[str] = set()
        cursor: str | None = None
        while cursor != "":
            keys, cursor = self.run(self.stores[who].keys(cursor or "", limit))
            found |= set(keys)
        assert found == self.model.keys()

    @rule(who=CLIENT)
    def reconnect(self, who: int) -> None:
        self.run(self.stores[who].close())
        self.stores[who] = self.run(self.open(who))

    @invariant()
    def records_agree(self) -> None:
        for who, store in self.stores.items():
            for key in KEYS:
                at = self.model.get(key)
                stored = self.run(store.read(key))
                assert (at and (at.version, at.record)) == (stored and (stored.version, stored.record)), who
                assert self.run(store.body(key)) == (at and at.body)

    @invariant()
    def wholes_agree(self) -> None:
        for key in KEYS:
            at, whole = self.model.get(key), self.run(self.stores[0].whole(key))
            assert (at is None) == (whole is None)
            if at and whole:
                assert (at.version, at.record) == (whole.version, whole.record)
                assert {name: timer.due for name, timer in at.timers.items()} == {
                    name: timer.due for name, timer in whole.timers.items()
                }
                assert {line.id: line for line in whole.lines} == at.lines

    @invariant()
    def timers_agree(self) -> None:
        ready = [timer.ready for at in self.model.values() for timer in at.timers.values()]
        assert self.run(self.stores[1].next_due()) == min(ready, default=None)

    @invariant()
    def lists_agree(self) -> None:
        lines = {id: line for at in self.model.values() for id, line in at.lines.items()}
        assert {line.id: line for line in self.run(self.stores[0].listings(Query("session")))} == lines
        counts = {key: number for key, number in self.run(self.stores[1].counts()).items() if number}
        kinds = [(line.kind, line.site, line.phase) for line in lines.values()]
        assert counts == {kind: kinds.count(kind) for kind in kinds}


def _meets(line: Listing, query: Query) -> bool:
    return (
        query.owner in (None, line.owner)
        and (not query.phases or line.phase in query.phases)
        and query.site in (None, line.site)
        and query.name in (None, line.name)
        and (query.since is None or line.created >= query.since)
    )


class OneMachine(StoreMachine):
    """Of a store that only one process may write to: both are one, and a reconnection closes it and opens it anew."""

    async def open_one(self) -> Store:
        raise NotImplementedError("open the store")

    async def open(self, client: int) -> Store:
        if client == 1 and len(self.stores) < 2:
            return self.stores[0]
        self.stores[0] = self.stores[1] = await self.open_one()
        return self.stores[0]


class SqliteMachine(OneMachine):
    async def open_one(self) -> Store:
        return await open_sqlite(self.folder / "store.db", self.clock, executor=InlineExecutor())


class ApartMachine(OneMachine):
    async def open_one(self) -> Store:
        return StoreApart(self.folder, self.clock, keep_open=2)


class RedisMachine(StoreMachine):
    async def open(self, client: int) -> Store:
        return await open_redis(parse(self.url), self.clock)


def test_in_sqlite() -> None:
    drive(SqliteMachine, examples=20)


def test_with_one_database_for_each_aggregate() -> None:
    drive(ApartMachine, examples=8)


def test_in_redis(redis_url: str) -> None:
    drive(RedisMachine, redis_url, examples=15)


def test_in_a_redis_cluster(cluster_url: str) -> None:
    drive(RedisMachine, cluster_url, examples=6)
