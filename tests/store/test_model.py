"""Whatever is done to a store, in whatever order, it holds what a dictionary in memory holds."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker.ports import Lease, Listing, Query, Store
from broker.store.sqlite import open_sqlite
from broker.testing.apart import StoreApart
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor

T = TypeVar("T")

AGGREGATES = st.sampled_from(["a", "b", "ö"])
TIMERS = st.dictionaries(st.sampled_from(["t", "u", "v"]), st.none() | st.integers(-30, 60), max_size=3)
PHASES = st.dictionaries(st.sampled_from(["1", "2"]), st.sampled_from(["OFFERED", "RUNNING"]), max_size=2)
BODIES = st.none() | st.binary(max_size=9)


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
    phases: dict[str, str] = {}


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = FakeClock()
        self.model: dict[str, Aggregate] = {}
        self.leases: list[Lease] = []
        self.store = self.run(self.open(Path(self.folder.name)))

    async def open(self, folder: Path) -> Store:
        return await open_sqlite(folder / "store.db", self.clock, executor=InlineExecutor())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()
        self.folder.cleanup()

    @rule(key=AGGREGATES, off=st.sampled_from([0, 0, 0, 1, -1]), body=BODIES, timers=TIMERS, phases=PHASES)
    def write(
        self, key: str, off: int, body: bytes | None, timers: dict[str, int | None], phases: dict[str, str]
    ) -> None:
        now = self.clock.now()
        at = self.model.get(key, Aggregate(0, b""))
        record = b"%d of %d" % (at.version, now)
        dues = {name: None if wait is None else now + wait for name, wait in timers.items()}
        lines = [Listing("session", key + id, "me", 1.0, phase) for id, phase in phases.items()]
        done = self.run(self.store.write(key, at.version + off, record, body=body, timers=dues, listings=lines))
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
        at.phases |= {key + id: phase for id, phase in phases.items()}
        self.model[key] = at

    @rule(key=AGGREGATES, off=st.sampled_from([0, 0, 1]))
    def remove(self, key: str, off: int) -> None:
        at = self.model.get(key)
        done = self.run(self.store.remove(key, (at.version if at else 1) + off))
        assert done == (at is not None and off == 0)
        if done:
            del self.model[key]

    @rule(seconds=st.integers(0, 40))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(limit=st.integers(0, 4), lease=st.integers(1, 30))
    def claim(self, limit: int, lease: int) -> None:
        now = self.clock.now()
        ready = {
            (key, name): timer
            for key, at in self.model.items()
            for name, timer in at.timers.items()
            if timer.ready <= now
        }
        leases = self.run(self.store.claim(limit, float(lease)))
        held = [(lease.aggregate, lease.key) for lease in leases]
        assert len(set(held)) == len(held) == min(limit, len(ready))
        assert [lease.due for lease in leases] == sorted(lease.due for lease in leases)
        left = [timer.ready for name, timer in ready.items() if name not in held]
        assert all(ready[name].ready <= other for name in held for other in left)
        for got in leases:
            timer = ready[got.aggregate, got.key]
            assert got.due == timer.due
            assert got.token not in {old.token for old in self.leases}
            timer.until, timer.token = now + lease, got.token
        self.leases += leases

    def timer_of(self, lease: Lease) -> Timer | None:
        at = self.model.get(lease.aggregate)
        timer = at.timers.get(lease.key) if at else None
        return timer if timer and timer.token == lease.token else None

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = self.timer_of(lease)
        assert self.run(self.store.done(lease)) == (held is not None)
        if held:
            del self.model[lease.aggregate].timers[lease.key]

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), wait=st.integers(-5, 30))
    def postpone(self, data: st.DataObject, wait: int) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        held = self.timer_of(lease)
        due = self.clock.now() + wait
        assert self.run(self.store.postpone(lease, due)) == (held is not None)
        if held:
            held.due, held.until, held.token = due, None, None

    @rule(age=st.integers(0, 60))
    def prune(self, age: int) -> None:
        before = self.clock.now() - age
        old = [at for at in self.model.values() if at.body is not None and at.written < before]
        assert self.run(self.store.prune_bodies(before)) == len(old)
        for at in old:
            at.body = None

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open(Path(self.folder.name)))

    @invariant()
    def records_agree(self) -> None:
        for key in ("a", "b", "ö"):
            at = self.model.get(key)
            stored = self.run(self.store.read(key))
            assert (at and (at.version, at.record)) == (stored and (stored.version, stored.record))
            assert self.run(self.store.body(key)) == (at and at.body)

    @invariant()
    def timers_agree(self) -> None:
        ready = [timer.ready for at in self.model.values() for timer in at.timers.values()]
        assert self.run(self.store.next_due()) == min(ready, default=None)

    @invariant()
    def lists_agree(self) -> None:
        phases = {id: phase for at in self.model.values() for id, phase in at.phases.items()}
        assert {line.id: line.phase for line in self.run(self.store.listings(Query("session")))} == phases
        counts = {phase: number for (_, _, phase), number in self.run(self.store.counts()).items() if number}
        assert counts == {phase: list(phases.values()).count(phase) for phase in set(phases.values())}


class ApartMachine(StoreMachine):
    async def open(self, folder: Path) -> Store:
        return StoreApart(folder, self.clock, keep_open=2)


FEW = settings(max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])

TestSqliteModel = StoreMachine.TestCase
TestSqliteModel.settings = FEW
TestApartModel = ApartMachine.TestCase
TestApartModel.settings = settings(FEW, max_examples=8)
