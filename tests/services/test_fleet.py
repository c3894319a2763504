"""Several replicas on one store: one clock, one rate, one room and one set of breakers for each site."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from broker.domain.deadline import Deadline
from broker.domain.site import Registration
from broker.errors import NotAsked, SiteBusy, SiteError, SiteUnreachable, Unavailable
from broker.ports import Limits, Quotes
from broker.services.breaker import Turn
from broker.services.clock import MEASURE_EVERY, StoreClock, SystemClock
from broker.services.fleet import ANNOUNCE_EVERY, LINGER, LIVE, MUTE, Fleet
from broker.services.guard import GuardedPlanner
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryLimits
from broker.testing.planners import FakePlanner, Step, an_ask, an_order, quotes

FAILING = SiteUnreachable("alba.example: connection refused.")


class BrokenLimits(MemoryLimits):
    """`broken`: every call raises Unavailable; `hanging`: none returns. `asked` counts all calls."""

    broken = hanging = False
    asked = 0

    async def _answer(self) -> None:
        self.asked += 1
        if self.broken:
            raise Unavailable("the limits are gone.")
        if self.hanging:
            await asyncio.Event().wait()

    async def take(self, key: str, rate: float, burst: int) -> float:
        await self._answer()
        return await super().take(key, rate, burst)

    async def enter(self, key: str, member: str, ceiling: int, until: float) -> bool:
        await self._answer()
        return await super().enter(key, member, ceiling, until)

    async def leave(self, key: str, member: str) -> None:
        await self._answer()
        await super().leave(key, member)

    async def members(self, key: str) -> frozenset[str]:
        await self._answer()
        return await super().members(key)


class Replica:
    """A fleet's member and its guard of the site alba."""

    def __init__(self, limits: Limits, clock: FakeClock, *steps: Step, **site: Any) -> None:
        self.clock, self.fake = clock, FakePlanner(*steps)
        self.fleet = Fleet(limits, clock)
        self.guard = GuardedPlanner(self.fake, Registration(name="alba", **site), clock, fleet=self.fleet)

    async def quote(self, seconds: float = 60.0) -> Quotes:
        return await self.guard.quote(an_ask(Deadline.after(seconds, self.clock.monotonic())))

    async def status(self, seconds: float = 60.0) -> None:
        await self.guard.status([an_order()], Deadline.after(seconds, self.clock.monotonic()))

    async def fail(self, times: int = 5) -> None:
        for _ in range(times):
            with pytest.raises(SiteError):
                await self.quote()
        await self.said()

    async def said(self) -> None:
        """Returns when all that was to be told in the background is."""
        while self.fleet._leaving or self.fleet._tasks:  # noqa: ASYNC110 - turns of the loop, no time
            await asyncio.sleep(0)

    async def heard(self) -> None:
        await self.said()
        await self.fleet.beat()

    @property
    def offers(self) -> str:
        return self.guard.breakers()["offers"]


Make = Callable[..., Replica]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def limits(clock: FakeClock) -> BrokenLimits:
    return BrokenLimits(clock)


@pytest.fixture
def replica(limits: Limits, clock: FakeClock) -> Make:
    return lambda *steps, **site: Replica(limits, clock, *steps, **site)


# ── rate ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sites_rate_holds_for_all_replicas_together(replica: Make) -> None:
    pair = [replica(calls_per_minute=10), replica(calls_per_minute=10)]
    for n in range(10):
        await pair[n % 2].status()
    for one in pair:
        with pytest.raises(NotAsked) as caught:
            await one.status(5.0)
        assert caught.value.retry_after == pytest.approx(6.0, abs=0.1)
    assert sum(one.fake.calls["status"] for one in pair) == 10


async def test_a_token_that_another_replica_leaves_in_time_is_waited_for(replica: Make, clock: FakeClock) -> None:
    one, other = replica(calls_per_minute=10), replica(calls_per_minute=10)
    for _ in range(10):
        await one.status()
    waiting = asyncio.create_task(other.status(30.0))
    await clock.asleep()
    assert not other.fake.calls["status"]
    clock.advance(6.1)
    await waiting
    assert other.fake.calls["status"] == 1


async def test_few_wait_for_tokens_of_the_fleet(replica: Make, clock: FakeClock) -> None:
    it = replica(calls_per_minute=10)
    tasks = [asyncio.create_task(it.quote(3600.0)) for _ in range(30)]
    await clock.asleep(4)
    done, waiting = await asyncio.wait(tasks, timeout=0.0)
    assert (len(done), len(waiting)) == (26, 4)
    assert sum(isinstance(task.exception(), NotAsked) for task in done) == 16
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


# ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_sites_room_holds_for_all_replicas_together(replica: Make, clock: FakeClock) -> None:
    one, other = replica("wait", concurrency=4), replica("wait", concurrency=4)
    calls = [asyncio.create_task(it.status(3.0)) for it in (one, one, other, other)]
    await one.fake.called("status", 2)
    await other.fake.called("status", 2)
    late = asyncio.create_task(other.status(3.0))
    await clock.asleep()
    assert other.fake.calls["status"] == 2
    one.fake.go.set()
    await asyncio.gather(*calls[:2])
    await one.said()
    clock.advance(0.2)
    other.fake.go.set()
    await late
    await asyncio.gather(*calls)


async def test_without_room_by_the_deadline_nothing_is_sent(replica: Make, clock: FakeClock) -> None:
    one, other = replica("wait", concurrency=1), replica(concurrency=1)
    call = asyncio.create_task(one.status())
    await one.fake.asked.wait()
    late = asyncio.create_task(other.status(0.15))
    await clock.asleep()
    clock.advance(0.1)
    with pytest.raises(NotAsked, match="busy"):
        await late
    assert not other.fake.calls["status"]
    one.fake.go.set()
    await call


async def test_offers_of_all_replicas_leave_room_to_accept(replica: Make, clock: FakeClock) -> None:
    one, other = replica("hang", concurrency=4), replica(concurrency=4)
    hanging = [asyncio.create_task(one.quote()) for _ in range(3)]
    await one.fake.called("quote", 3)
    with pytest.raises(NotAsked):
        await other.quote(0.05)
    await other.status()
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await one.said()
    await other.quote(0.05)


async def test_the_room_of_a_replica_that_died_is_free_after_its_calls_deadline(
    replica: Make, clock: FakeClock, limits: BrokenLimits
) -> None:
    one, other = replica("hang", concurrency=1), replica(concurrency=1)
    dead = asyncio.create_task(one.status(10.0))
    await one.fake.asked.wait()
    clock.advance(12.0)
    await other.status()
    dead.cancel()
    await asyncio.gather(dead, return_exceptions=True)


async def test_a_call_costs_two_questions_and_an_answer_in_the_background(replica: Make, limits: BrokenLimits) -> None:
    it = replica()
    await it.status()
    await it.said()
    assert limits.asked == 3  # take, enter, leave


# ── when the limits are away ─────────────────────────────────────────────────────────────────────────────────


async def test_without_the_limits_a_replica_goes_by_its_own(
    replica: Make, limits: BrokenLimits, clock: FakeClock
) -> None:
    limits.broken = True
    it = replica(calls_per_minute=10)
    for _ in range(10):
        await it.status()
    with pytest.raises(NotAsked):
        await it.status(1.0)
    assert it.fake.calls["status"] == 10
    await it.said()


async def test_limits_that_failed_are_left_alone_for_a_moment(
    replica: Make, limits: BrokenLimits, clock: FakeClock
) -> None:
    it = replica()
    limits.broken = True
    await it.status()
    limits.broken = False
    await it.said()
    limits.asked = 0
    await it.status()
    await it.said()
    assert limits.asked == 1  # a place that may have been taken is given back all the same
    clock.advance(MUTE)
    await it.status()
    await it.said()
    assert limits.asked >= 3


async def test_limits_that_hang_hold_nothing_up(
    replica: Make, limits: BrokenLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.services.fleet.PATIENCE", 0.02)
    limits.hanging = True
    it = replica()
    for _ in range(3):
        await it.status()
    assert it.fake.calls["status"] == 3
    await it.said()


# ── breakers ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_breaker_that_opens_on_one_replica_is_open_on_all(replica: Make) -> None:
    one, other = replica(FAILING), replica()
    await one.fail()
    await other.heard()
    assert other.offers == "open"
    with pytest.raises(NotAsked, match="connection refused"):
        await other.quote()
    assert not other.fake.calls["quote"]
    await other.status()  # the other operations go on


async def test_breakers_that_open_at_one_moment_are_told_in_one_round(limits: BrokenLimits, clock: FakeClock) -> None:
    """As when the network is gone: told one after the other, most would come too late, and be dropped."""
    fleet = Fleet(limits, clock)
    limits.hanging = True
    for number in range(1000):
        fleet.turned(f"site{number}", "offers", Turn(1, 10.0, "no answer"))
    async with asyncio.timeout(20):
        while limits.asked < 1000:  # noqa: ASYNC110 - turns of the loop, no time
            await asyncio.sleep(0)
    await fleet.close()


async def test_it_closes_on_all_when_one_has_an_answer(replica: Make, clock: FakeClock) -> None:
    one, other = replica(FAILING), replica()
    await one.fail()
    await other.heard()
    await one.heard()
    clock.advance(1.0)
    assert (one.offers, other.offers) == ("half-open", "half-open")
    await other.quote()
    await other.said()
    await one.heard()
    assert (one.offers, other.offers) == ("closed", "closed")
    await other.heard()
    assert other.offers == "closed"


async def test_one_replica_alone_tries_a_site_that_is_half_open(replica: Make, clock: FakeClock) -> None:
    one, other = replica(*[FAILING] * 5, "wait"), replica()
    await one.fail()
    await other.heard()
    clock.advance(1.0)
    one.fake.asked.clear()
    probe = asyncio.create_task(one.quote())
    await one.fake.asked.wait()
    with pytest.raises(NotAsked, match="being tried"):
        await other.quote()
    one.fake.go.set()
    await probe
    await one.said()
    await other.heard()
    await other.quote()


async def test_a_probe_that_failed_doubles_the_pause_of_all(replica: Make, clock: FakeClock) -> None:
    one, other = replica(FAILING), replica(FAILING)
    await one.fail()
    await other.heard()
    clock.advance(1.0)
    await other.fail(1)
    await one.heard()
    left = next(state.retry_after for state in one.guard.state() if state.operation == "offers")
    assert left == pytest.approx(2.0, abs=0.01)


async def test_a_site_that_asks_one_replica_to_wait_is_left_alone_by_all(replica: Make, clock: FakeClock) -> None:
    one, other = replica(SiteBusy("come back", retry_after=7.0)), replica()
    await one.fail(1)
    await other.heard()
    with pytest.raises(NotAsked, match="come back"):
        await other.quote()
    clock.advance(7.1)
    await other.heard()
    await other.quote()
    assert other.offers == "closed"


async def test_a_word_whose_replica_died_ends_by_itself(replica: Make, clock: FakeClock, limits: BrokenLimits) -> None:
    one, other = replica(FAILING), replica(quotes("h"))
    await one.fail()
    await other.heard()
    clock.advance(1.0 + LINGER + 1.0)
    await other.heard()
    assert other.offers == "half-open"  # nobody has had an answer yet
    await other.quote()
    assert other.offers == "closed"


async def test_a_replica_that_has_just_started_hears_what_was_said_before(replica: Make) -> None:
    await replica(FAILING).fail()
    late = replica()
    await late.fleet.beat()
    assert late.offers == "open"


async def test_a_site_registered_anew_hears_it_too_and_the_old_guard_no_more(replica: Make, clock: FakeClock) -> None:
    one, other = replica(FAILING), replica()
    again = GuardedPlanner(FakePlanner(), Registration(name="alba"), clock, fleet=other.fleet)
    await other.guard.close()
    await one.fail()
    await other.heard()
    assert (again.breakers()["offers"], other.offers) == ("open", "closed")


async def test_words_that_nobody_here_understands_are_left_alone(
    replica: Make, limits: BrokenLimits, clock: FakeClock
) -> None:
    it = replica()
    until = clock.now() + 60
    await limits.enter("breakers", "{}", 100, until)
    await limits.enter("breakers", f'["alba","teleport",1,{until},"new","r"]', 100, until)
    await limits.enter("breakers", f'["unknown","offers",1,{until},"new","r"]', 100, until)
    await it.heard()
    assert set(it.guard.breakers().values()) == {"closed"}


async def test_a_breaker_does_not_shorten_what_it_knows_itself(replica: Make) -> None:
    it = replica(FAILING)
    await it.fail()
    it.guard.told("offers", Turn(1, 0.2, "shorter"))
    state = next(state for state in it.guard.state() if state.operation == "offers")
    assert (state.retry_after, state.reason) == (pytest.approx(1.0), FAILING.detail)


# ── replicas ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_each_replica_knows_who_lives(replica: Make, clock: FakeClock) -> None:
    one, other = replica(), replica()
    await one.fleet.beat()
    await other.fleet.beat()
    assert other.fleet.replicas == {one.fleet.id, other.fleet.id}
    clock.advance(ANNOUNCE_EVERY)
    await one.fleet.beat()
    assert one.fleet.replicas == other.fleet.replicas
    await other.fleet.close()
    clock.advance(ANNOUNCE_EVERY)
    await one.fleet.beat()
    assert one.fleet.replicas == {one.fleet.id}


async def test_a_replica_that_died_is_soon_counted_no_more(replica: Make, clock: FakeClock) -> None:
    one, dead = replica(), replica()
    await dead.fleet.beat()
    clock.advance(LIVE)
    await one.fleet.beat()
    assert one.fleet.replicas == {one.fleet.id}


async def test_the_beat_goes_on_when_the_limits_come_back(
    replica: Make, limits: BrokenLimits, clock: FakeClock
) -> None:
    it = replica()
    limits.broken = True
    running = asyncio.create_task(it.fleet.run())
    async with asyncio.timeout(20):
        await clock.asleep()
        limits.broken = False
        while not await limits.members("replicas"):
            await clock.asleep()
            clock.advance(1.0)
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


# ── clocks ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_replicas_whose_clocks_are_minutes_apart_tell_one_time(clock: FakeClock) -> None:
    async def ask() -> float:
        return clock.now()

    clocks = [StoreClock(FakeClock(clock.now() + wrong), ask) for wrong in (-600.0, 0.0, 600.0)]
    for it in clocks:
        await it.measure()
        assert it.now() == pytest.approx(clock.now())


async def test_setting_this_machines_clock_changes_nothing(clock: FakeClock) -> None:
    local = FakeClock(clock.now() + 300.0)

    async def ask() -> float:
        return clock.now()

    it = StoreClock(local, ask)
    await it.measure()
    local.jump(3600.0)
    assert it.now() == pytest.approx(clock.now())
    local.advance(5.0)
    assert it.now() == pytest.approx(clock.now() + 5.0)
    assert it.monotonic() == local.monotonic()


async def test_the_quickest_answer_counts(clock: FakeClock) -> None:
    trips = iter([0.4, 0.0, 0.9])

    async def ask() -> float:
        told = clock.now()
        clock.advance(next(trips))  # the answer is on its way
        return told

    it = StoreClock(clock, ask)
    await it.measure()
    assert it.now() == pytest.approx(clock.now())


async def test_a_store_that_does_not_say_the_time_does_not_stop_the_clock(clock: FakeClock) -> None:
    says: list[float | Exception] = [clock.now() + 100.0] * 3 + [Unavailable("gone")]

    async def ask() -> float:
        said = says.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    it = StoreClock(clock, ask)
    await it.measure()
    measuring = asyncio.create_task(it.run())
    await clock.asleep()
    clock.advance(MEASURE_EVERY)
    await clock.asleep()
    assert not says
    assert it.now() == pytest.approx(clock.now() + 100.0)
    measuring.cancel()
    await asyncio.gather(measuring, return_exceptions=True)


async def test_outside_the_event_loop_it_tells_the_same_time(clock: FakeClock) -> None:
    async def ask() -> float:
        return SystemClock().now() + 500.0

    it = StoreClock(SystemClock(), ask)
    await it.measure()
    assert await asyncio.to_thread(it.now) == pytest.approx(it.now(), abs=1.0)
    assert it.now() == pytest.approx(SystemClock().now() + 500.0, abs=1.0)
