"""Death at every step: the broker dies, or its caller goes away, at each call to the store and to a site in turn.

Whatever the moment, another broker on the same store ends with one run at most, with an acceptance that was
acknowledged still standing, and with no offer held for nobody.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from uuid import UUID

import pytest

from broker.domain.site import Profile, Registration
from broker.errors import BrokerError, SiteMisbehaved, SiteRefused, SiteTimeout
from broker.ports import Store
from broker.testing.bench import Bench, broken_rules, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails, lost, says
from broker.testing.tripwire import Died, Tripwire

SELDOM = {name: Registration(name=name, url="http://x/", poll=100) for name in ("alba", "borealis")}
MOST = 200  # calls of one story; a story that makes more than this never ends


def well(site: ScriptedSite) -> None:
    """Nothing goes wrong but the broker."""


def answer_lost(site: ScriptedSite) -> None:
    site.steps["accept"] = [lost(SiteTimeout("lost"))]
    site.steps["status"] = [fails(SiteMisbehaved("500")), fails(SiteTimeout("slow"))]


def never_arrived(site: ScriptedSite) -> None:
    site.steps["accept"] = [fails(SiteTimeout("lost"))]
    site.steps["update"] = [says("OFFERED"), lost(SiteTimeout("lost"))]


def sold_out(site: ScriptedSite) -> None:
    site.steps["accept"] = [fails(SiteRefused("sold out", status=400))]


FAULTS = [well, answer_lost, never_arrived, sold_out]
Fault = Callable[[ScriptedSite], None]
NewWorld = Callable[[Fault, bool], "World"]


class World:
    """What outlives a broker: its store's file, its sites, the time."""

    def __init__(self, store: Store, clock: FakeClock, fault: Fault, repeatable: bool) -> None:
        self.store, self.clock = store, clock
        profile = Profile(repeatable=repeatable)
        self.alba = ScriptedSite("alba", clock, (1.0, 2.0), profile=profile)
        self.borealis = ScriptedSite("borealis", clock, (3.0,), profile=profile)
        fault(self.alba)

    async def broker(self, wire: Tripwire | None = None) -> Bench:
        sites = {"alba": self.alba, "borealis": self.borealis}
        if wire is None:
            return await Bench(self.store, self.clock, sites, registrations=SELDOM).start()
        wired = {name: wire.behind(site, name) for name, site in sites.items()}
        return Bench(wire.behind(self.store, "store"), self.clock, wired, registrations=SELDOM)

    async def ask(self) -> UUID:
        return uuids(await (await self.broker()).ask(preferences={"failover": True}))[0]

    async def end(self, best: UUID, acknowledged: bool) -> None:
        """A broker that lives brings everything to its end."""
        bench = await self.broker()
        await bench.settle(200)
        sites = (self.alba, self.borealis)
        for site in sites:
            site.all_over()
        await bench.settle(700)
        record = await bench.record(best)
        assert broken_rules(record, sites, self.clock.now()) == []
        assert record.claim is None or record.taken is not None
        if acknowledged:
            assert record.taken == best
        assert all(item.phase != "OFFERED" for item in record.sessions)
        assert await self.store.next_due() is None


@pytest.fixture
def world(store: Store, clock: FakeClock) -> NewWorld:
    """A new world on the one store: nothing of the one before may be left to do in it."""
    return lambda fault, repeatable: World(store, clock, fault, repeatable)


@pytest.mark.parametrize("repeatable", [False, True], ids=["plain", "repeatable"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_whoever_dies_at_any_call_leaves_nothing_undone(world: NewWorld, fault: Fault, repeatable: bool) -> None:
    for number in range(MOST):
        here = world(fault, repeatable)
        best = await here.ask()
        wire = Tripwire(number, after=True)  # before a call is after the one before it
        bench = await _start(here, wire)
        acknowledged = await _life_or_death(bench, best)
        await here.end(best, acknowledged)
        if not wire.tripped:
            assert number > 4
            return
    pytest.fail("the story has no end")


async def _start(here: World, wire: Tripwire) -> Bench:
    """A broker that is up, and whose calls are counted from now on."""
    bench = await here.broker(wire)
    for entry in bench.sites.entries():
        entry.profile = (here.alba if entry.name == "alba" else here.borealis).profile
    return bench


async def _life_or_death(bench: Bench, best: UUID) -> bool:
    acknowledged = False
    try:
        acknowledged = (await bench.accept(best)).item.phase == "ACCEPTED"
        await bench.settle(45)
    except Died:
        pass
    except BrokerError:
        pass
    return acknowledged


@pytest.mark.parametrize("seed", range(40))
async def test_many_deaths_in_a_row_change_nothing(world: NewWorld, seed: int) -> None:
    luck = random.Random(seed)
    here = world(luck.choice(FAULTS), luck.random() < 0.5)
    best = await here.ask()
    acknowledged = False
    for _ in range(4):
        wire = Tripwire(luck.randrange(12), after=luck.random() < 0.5)
        acknowledged |= await _life_or_death(await _start(here, wire), best)
        here.clock.advance(luck.choice([0.0, 1.0, 61.0, 91.0]))
    await here.end(best, acknowledged)


@pytest.mark.parametrize("repeatable", [False, True], ids=["plain", "repeatable"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_caller_who_goes_away_at_any_call_leaves_nothing_undone(
    world: NewWorld, fault: Fault, repeatable: bool
) -> None:
    """The same broker lives on; the handler alone is cancelled while a call hangs."""
    for number in range(MOST):
        here = world(fault, repeatable)
        best = await here.ask()
        wire = Tripwire(number, after=True, hangs=True)
        bench = await _start(here, wire)
        accepting = asyncio.create_task(bench.accept(best))
        reached = asyncio.create_task(wire.reached.wait())
        await asyncio.wait((accepting, reached), return_when=asyncio.FIRST_COMPLETED)
        accepting.cancel()
        reached.cancel()
        await asyncio.gather(accepting, reached, return_exceptions=True)
        await here.end(best, False)
        if not wire.tripped:
            assert number > 2
            return
    pytest.fail("the story has no end")
