"""Accepting at sites on real sockets, through the IVOA adapter and the guard, whatever the wire does to it.

What a site did is counted at the site; what we hold it to is that it did it once at most, and that we know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import aiohttp
import pytest

from adapters.ivoa.adapter import plugin
from broker.domain.offerset import SetRecord
from broker.domain.site import Registration
from broker.ports import Store
from broker.testing.bench import Bench, uuids
from broker.testing.clock import FakeClock
from broker.testing.resources import planner, shared_http
from broker.testing.site import FakeSite

# The site did nothing, and what is heard proves nothing. With `after:` it accepted first.
DOUBT = [
    "hang", "reset", "reset-in-headers", "not-http", "redirect", "status:500", "status:502", "status:503", "status:408",
    "status:409", "phase:OFFERED", "phase:DREAMING",
]  # fmt: skip
GARBLED = ["reset-in-body", "half-close", "garbage", "not-an-object", "empty"]
LATE = [f"after:{fault}" for fault in DOUBT + GARBLED]
PROOF = [
    "status:400",
    "status:401",
    "status:403",
    "status:404",
    "status:422",
    "status:429",
    "phase:REJECTED",
    "phase:EXPIRED",
]
BLIND: list[str | None] = ["status:500", "garbage", "not-an-object"]


class World:
    """Two plain sites, the first one cheaper, and a broker before them that waits a second for an answer."""

    def __init__(self, bench: Bench, alba: FakeSite, borealis: FakeSite) -> None:
        self.bench, self.alba, self.borealis = bench, alba, borealis

    @property
    def executions(self) -> int:
        return self.alba.executions.total() + self.borealis.executions.total()

    async def best(self) -> UUID:
        return uuids(await self.bench.ask(preferences={"failover": True}))[0]

    async def end(self, best: UUID) -> SetRecord:
        await self.bench.settle(150)
        for site in (self.alba, self.borealis):
            for session in site.sessions.values():
                session.phase = "COMPLETED" if session.phase == "ACCEPTED" else session.phase
        await self.bench.settle(600)
        record = await self.bench.record(best)
        held = [s.phase for site in (self.alba, self.borealis) for s in site.sessions.values() if s.phase == "OFFERED"]
        assert held == []
        assert {item.phase for item in record.sessions} <= {"REJECTED", "EXPIRED", "COMPLETED"}
        return record


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.fixture(params=[None, "their-id"], ids=["plain", "ours"])
async def world(
    request: pytest.FixtureRequest, store: Store, clock: FakeClock, http: aiohttp.ClientSession
) -> AsyncIterator[World]:
    """Plain sites, and brokers of ours, which take a repeated acceptance for one."""
    ids = (request.param and f"{request.param}-{n}" for n in range(2))
    async with (
        FakeSite("alba", price=1.0, now=clock.now, broker_id=next(ids)) as alba,
        FakeSite("borealis", price=5.0, now=clock.now, broker_id=next(ids)) as borealis,
    ):
        planners = {site.name: planner(plugin, site.url, http, clock) for site in (alba, borealis)}
        seldom = {name: Registration(name=name, url="http://x/", poll=60, timeout=1.0) for name in planners}
        bench = Bench(store, clock, planners, registrations=seldom, forward=1.0)
        # Between repeated reads the adapter sleeps by the clock; nobody else moves it then.
        ticking = asyncio.create_task(_tick(clock))
        yield World(await bench.start(), alba, borealis)
        ticking.cancel()


async def _tick(clock: FakeClock) -> None:
    while True:
        await clock.asleep()
        clock.advance(clock.next_wake() or 0.0)


@pytest.mark.parametrize("fault", LATE)
async def test_an_acceptance_whose_answer_is_lost_is_found(world: World, fault: str) -> None:
    best = await world.best()
    world.alba.behave(accept=[fault])
    await world.bench.accept(best)
    record = await world.end(best)
    assert (record.taken, world.executions, world.alba.executions.total()) == (best, 1, 1)


@pytest.mark.parametrize("fault", DOUBT)
async def test_an_acceptance_that_never_arrived_leads_to_one_run(world: World, fault: str) -> None:
    """At the same site where it can be sent again, at the next one after this one was fenced."""
    best = await world.best()
    world.alba.behave(accept=[fault])
    await world.bench.accept(best)
    record = await world.end(best)
    assert record.taken is not None
    assert world.executions == 1
    assert (record.taken == best) is bool(world.alba.broker_id)


@pytest.mark.parametrize("fault", PROOF)
async def test_a_refusal_sends_it_to_the_next_at_once(world: World, fault: str) -> None:
    best = await world.best()
    world.alba.behave(accept=[fault])
    await world.bench.accept(best)
    assert world.borealis.executions.total() == 1
    record = await world.end(best)
    assert (record.taken not in (None, best), world.executions) == (True, 1)


@pytest.mark.parametrize("blind", [BLIND, [*BLIND, "reset", "status:503", "empty"]], ids=["short", "long"])
@pytest.mark.parametrize("fault", ["after:reset", "after:status:500", "reset", "status:502"])
async def test_a_site_that_cannot_be_read_for_a_while_is_waited_for(
    world: World, fault: str, blind: Sequence[str | None]
) -> None:
    best = await world.best()
    world.alba.behave(accept=[fault], status=list(blind), release=["status:500", "after:reset"])
    await world.bench.accept(best)
    record = await world.end(best)
    assert world.executions == 1
    assert record.taken is not None
    if fault.startswith("after:"):
        assert record.taken == best


async def test_a_site_that_goes_down_with_the_acceptance_and_comes_back_has_it(world: World) -> None:
    best = await world.best()
    world.alba.behave(accept=["after:reset"])
    await world.bench.accept(best)
    await world.alba.stop()
    await world.bench.settle(20)
    await world.alba.start()
    record = await world.end(best)
    assert (record.taken, world.executions) == (best, 1)
