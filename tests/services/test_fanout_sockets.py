"""One bad site among good ones, over real sockets: it costs only itself, whatever it does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from adapters.ivoa.adapter import plugin
from broker.domain.offer import Offer, Reading, read
from broker.domain.outcome import Declined, Failed, Offered, Outcome, Skipped, TimedOut
from broker.domain.site import Registration
from broker.services.clock import SystemClock
from broker.services.fanout import Fanout, Target
from broker.services.guard import GuardedPlanner
from broker.testing.asks import ask
from broker.testing.resources import planner, shared_http
from broker.testing.site import FakeSite

CLOCK = SystemClock()
CAP = 4 << 20  # the largest answer that is read here
FLOOD_MAY_TAKE = 48 << 20  # of memory: the cap, what sockets hold, and the allocator's habits; the flood has 100 MB

GOOD = {"alba": 1.0, "borealis": 2.0, "cetus": 3.0}  # name → price


@dataclass
class World:
    """Three good sites, a bad one, and one that nobody registered."""

    fanout: Fanout
    http: aiohttp.ClientSession
    good: list[FakeSite]
    bad: FakeSite
    stranger: FakeSite
    targets: list[Target]

    async def ask(self, *names: str, within: float = 20.0) -> dict[str, Outcome]:
        chosen = [target for target in self.targets if target.name in names]
        return await self.fanout.ask(chosen, ask(CLOCK, within=within), on_late=_nobody)


async def _nobody(site: str, outcome: Outcome) -> None: ...


def guarded(site: FakeSite, http: aiohttp.ClientSession) -> Target:
    inner = planner(plugin, site.url, http, CLOCK, options={"answer_cap_bytes": CAP})
    return Target(site.name, GuardedPlanner(inner, Registration(name=site.name, url=site.url), CLOCK))


@pytest.fixture
async def world() -> AsyncIterator[World]:
    tasks, sockets = asyncio.all_tasks(), open_sockets()
    async with AsyncExitStack() as stack:
        good = [await stack.enter_async_context(FakeSite(name, price=price)) for name, price in GOOD.items()]
        bad = await stack.enter_async_context(FakeSite("bad"))
        stranger = await stack.enter_async_context(FakeSite("stranger"))
        http = await stack.enter_async_context(shared_http())
        fanout = Fanout(CLOCK)
        stack.push_async_callback(fanout.close)
        yield World(fanout, http, good, bad, stranger, [guarded(site, http) for site in (bad, *good)])
    await until(lambda: asyncio.all_tasks() - tasks <= {asyncio.current_task()})
    await until(lambda: open_sockets() <= sockets)


async def until(condition: Callable[[], bool]) -> None:
    """Transports close a few turns of the loop after they are told to."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the kernel raises no event for this
            await asyncio.sleep(0.005)


def open_sockets() -> int:
    links = Path("/proc/self/fd").iterdir()
    return sum(os.readlink(link).startswith("socket:") for link in links if os.path.islink(link))


def offers(outcome: Outcome, site: str) -> list[tuple[object, ...]]:
    """What would rank, without what differs from one asking to the next."""
    assert isinstance(outcome, Offered)
    found = [read(quote, Reading(site), CLOCK.now()) for quote in outcome.quotes]
    return [(o.price, o.cores, o.memory, o.run, o.prepares, o.repairs) for o in found if isinstance(o, Offer)]


MISDEEDS: list[tuple[str, type[Outcome]]] = [
    ("hang", TimedOut),
    ("drip", TimedOut),
    ("reset", Failed),
    ("reset-in-headers", Failed),
    ("reset-in-body", Failed),
    ("half-close", Failed),
    ("not-http", Failed),
    ("flood", Failed),
    ("gzip-bomb", Failed),
    ("million", Failed),
    ("garbage", Failed),
    ("not-an-object", Failed),
    ("empty", Failed),
    ("bad-utf8", Failed),
    ("nan", Failed),
    ("deep", Failed),
    ("wrong-type", Failed),
    ("redirect:STRANGER", Failed),
    ("elsewhere:STRANGER", Failed),
    ("status:500", Failed),
    ("status:404", Failed),
    ("status:400", Declined),
    ("status:429:7", Declined),
    ("status:401", Failed),
]


@pytest.mark.parametrize(("misdeed", "outcome"), MISDEEDS)
async def test_a_bad_site_costs_only_itself(world: World, misdeed: str, outcome: type[Outcome]) -> None:
    world.bad.behave(quote=misdeed.replace("STRANGER", f"{world.stranger.url}/requests"))
    without = await world.ask(*GOOD)
    among = await world.ask("bad", *GOOD, within=0.5 if outcome is TimedOut else 20.0)
    assert isinstance(among["bad"], outcome), among["bad"]
    for name in GOOD:
        assert offers(among[name], name) == offers(without[name], name) != []
    assert not world.stranger.requests


@pytest.mark.parametrize("misdeed", ["flood", "gzip-bomb", "million"])
async def test_a_flood_takes_no_more_memory_than_its_cap(world: World, misdeed: str) -> None:
    world.bad.behave(quote=misdeed)
    await world.ask(*GOOD)
    before = memory("VmRSS")
    begin_peak()
    outcomes = await world.ask("bad", *GOOD)
    assert isinstance(outcomes["bad"], Failed)
    assert memory("VmHWM") - before < FLOOD_MAY_TAKE


def begin_peak() -> None:
    """VmHWM counts anew from here."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(what))


async def test_a_site_that_keeps_failing_is_left_alone_and_the_others_are_not(world: World) -> None:
    world.bad.behave(quote="reset")
    outcomes = [(await world.ask("bad", *GOOD)) for _ in range(8)]
    assert [type(each["bad"]) for each in outcomes] == [Failed] * 5 + [Skipped] * 3
    assert len(world.bad.seen("quote")) == 5
    assert all(isinstance(each[name], Offered) for each in outcomes for name in GOOD)


async def test_a_late_sites_offers_come_after_the_answer(world: World) -> None:
    world.bad.behave(quote="late:0.5")
    late: asyncio.Queue[tuple[str, Outcome]] = asyncio.Queue()

    async def keep(site: str, outcome: Outcome) -> None:
        await late.put((site, outcome))

    asked = [target for target in world.targets if target.name == "bad"]
    answered = await world.fanout.ask(asked, ask(CLOCK, within=0.2), on_late=keep)
    assert isinstance(answered["bad"], TimedOut)
    name, outcome = await late.get()
    assert name == "bad"
    assert offers(outcome, name)


async def test_a_site_that_nobody_runs_is_known_at_once(world: World) -> None:
    await world.bad.stop()
    outcomes = await world.ask("bad", *GOOD)
    assert isinstance(outcomes["bad"], Failed)


async def test_a_caller_who_goes_leaves_no_connection_behind(world: World) -> None:
    for site in world.good:
        site.behave(quote="hang")
    asking = asyncio.create_task(world.ask(*GOOD))
    await until(lambda: all(site.seen("quote") for site in world.good))
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert world.fanout.draining == 3
    await world.fanout.close()
    assert world.fanout.draining == 0


async def test_all_misdeeds_in_one_fan_out(world: World) -> None:
    async with AsyncExitStack() as stack:
        targets = [target for target in world.targets if target.name != "bad"]
        for number, (misdeed, _) in enumerate(MISDEEDS):
            site = await stack.enter_async_context(FakeSite(f"bad{number}"))
            site.behave(quote=misdeed.replace("STRANGER", f"{world.stranger.url}/requests"))
            targets.append(guarded(site, world.http))
        enough = len(MISDEEDS) - sum(kind is TimedOut for _, kind in MISDEEDS) + len(GOOD)
        outcomes = await world.fanout.ask(
            targets, ask(CLOCK, within=15.0), on_late=_nobody, enough=lambda found: len(found) == enough
        )
        assert {name: type(outcomes[name]) for name in GOOD} == dict.fromkeys(GOOD, Offered)
        assert [type(outcomes[f"bad{n}"]) for n in range(len(MISDEEDS))] == [kind for _, kind in MISDEEDS]
        await world.fanout.close()
    assert not world.stranger.requests
