"""The status and its figures: of one process, and of a fleet whichever replica answers."""

from __future__ import annotations

import random
from typing import Any

import pytest

from broker.domain.outcome import Declined, Reason
from broker.ports import Store
from broker.services.figures import SILENT, TIMER, Peers
from broker.services.fleet import Fleet
from broker.services.status import Status
from broker.services.window import Digest, Figures, Window, quantile
from broker.testing.bench import Bench
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryLimits
from broker.testing.scripted import ScriptedSite


class Replica:
    """What a process has for its status."""

    def __init__(self, bench: Bench, limits: MemoryLimits) -> None:
        self.bench, self.clock = bench, bench.clock
        self.fleet = Fleet(limits, bench.clock)
        self.peers = Peers(fleet=self.fleet, store=bench.store, window=bench.window, clock=bench.clock)
        self.status = Status(
            name="us", sites=bench.sites, store=bench.store, window=bench.window, clock=bench.clock, peers=self.peers
        )

    async def beat(self) -> None:
        self.clock.advance(3.0)
        await self.fleet.beat()
        await self.peers.publish()
        await self.peers.gather()


@pytest.fixture
async def pair(store: Store, clock: FakeClock, alba: ScriptedSite) -> list[Replica]:
    limits = MemoryLimits(clock)
    return [Replica(await Bench(store, clock, {"alba": alba}).start(), limits) for _ in range(2)]


async def seen(replica: Replica) -> dict[str, Any]:
    return await replica.status.snapshot()


async def test_alone_nothing_is_said_of_replicas(bench: Bench) -> None:
    status = Status(name="us", sites=bench.sites, store=bench.store, window=bench.window, clock=bench.clock)
    await bench.ask()
    shown = await status.snapshot()
    assert "replica" not in shown
    assert "replicas" not in shown["now"]
    assert (shown["window"]["requests"], shown["sites"][0]["window"]["Offered"]) == (1, 1)
    assert shown["sites"][0]["window"]["latency_s"]["n"] == 1


async def test_every_replica_answers_for_all(pair: list[Replica]) -> None:
    for n, replica in enumerate(pair):
        for _ in range(n + 1):
            await replica.bench.ask()
    for replica in (*pair, *pair):
        await replica.beat()
    for replica in pair:
        shown = await seen(replica)
        assert shown["window"]["requests"] == 3
        assert shown["sites"][0]["window"]["Offered"] == 3
        assert shown["sites"][0]["window"]["latency_s"]["n"] == 3
        assert shown["now"]["replicas"] == 2
        assert shown["now"]["sessions"] == {"OFFERED": 6}
    assert {(await seen(replica))["replica"] for replica in pair} == {replica.fleet.id for replica in pair}


async def test_a_replica_that_stopped_counts_for_some_minutes_more(pair: list[Replica], store: Store) -> None:
    one, gone = pair
    await gone.bench.ask()
    await gone.beat()
    await gone.bench.ask()
    await gone.peers.close()
    await gone.fleet.close()
    await one.beat()
    assert (await seen(one))["window"]["requests"] == 2
    assert (await seen(one))["now"]["replicas"] == 1
    one.clock.advance(SILENT)
    (lease,) = [lease for lease in await store.claim(10, 60) if lease.key == TIMER and gone.fleet.id in lease.aggregate]
    assert await one.peers.forget(lease.aggregate) is None
    await one.beat()
    assert (await seen(one))["window"]["requests"] == 0
    assert await store.read(lease.aggregate) is None


async def test_figures_that_did_not_change_are_not_written_again(pair: list[Replica], store: Store) -> None:
    one = pair[0]
    for _ in range(3):
        await one.beat()
    stored = await store.read(f"replica:{one.fleet.id}")
    assert stored is not None
    assert stored.version == 1
    one.clock.advance(SILENT / 2)
    await one.peers.publish()
    stored = await store.read(f"replica:{one.fleet.id}")
    assert stored is not None
    assert stored.version == 2


async def test_figures_whose_write_was_not_acknowledged_are_written_next_time(
    pair: list[Replica], store: Store
) -> None:
    one, other = pair
    await store.write(f"replica:{one.fleet.id}", 0, b"\x00")
    await other.peers.gather()
    await one.bench.ask()
    await one.beat()
    await one.beat()
    await other.beat()
    assert (await seen(other))["window"]["requests"] == 1


async def test_figures_that_nobody_here_understands_count_for_nothing(pair: list[Replica], store: Store) -> None:
    one, newer = pair
    await newer.peers.gather()
    await store.write(f"replica:{newer.fleet.id}", 0, b"\x00")
    await one.beat()
    assert (await seen(one))["window"]["requests"] == 0


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_quantile_of_parts_is_that_of_the_whole() -> None:
    drawn = random.Random(7)
    whole = [drawn.expovariate(1.0) for _ in range(5000)]
    parts = [whole[:3000], whole[3000:3050], whole[3050:]]
    digests = [Digest(len(part), tuple(sorted(part))).short() for part in parts]
    assert all(len(digest.values) <= 100 for digest in digests)
    for q in (0.5, 0.99):
        exact = sorted(whole)[int(q * len(whole))]
        assert quantile(digests, q) == pytest.approx(exact, rel=0.15)


def test_a_quantile_of_few_is_exact() -> None:
    assert quantile([Digest(2, (1.0, 4.0)), Digest(2, (2.0, 3.0))], 0.5) == 3.0
    assert quantile([Digest(4, (1.0, 2.0, 3.0, 4.0))], 0.5) == 3.0
    assert quantile([Digest(1, (9.0,))], 0.99) == quantile([Digest(1, (9.0,)), Digest(1, (1.0,))], 0.99) == 9.0
    assert quantile([], 0.5) is None


def test_a_window_forgets_what_is_older_than_an_hour(clock: FakeClock) -> None:
    window = Window(clock.now)
    window.answered("alba", Declined((Reason("no"),), 0.5))
    assert window.figures() == Figures(clock.now(), {"alba": {"Declined": 1}}, {"alba": Digest(1, (0.5,))}, {})
    clock.advance(3601)
    assert window.figures().counts == {}
