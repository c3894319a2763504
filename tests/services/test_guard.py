"""The guard: breakers by operation, room, rate, deadlines, and what becomes of a planner's errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from broker.domain.deadline import Deadline
from broker.domain.site import Registration
from broker.errors import (
    NotAsked,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.ports import Quotes
from broker.services.breaker import LONGEST_PAUSE, BreakerSettings
from broker.services.clock import SystemClock
from broker.services.guard import GuardedPlanner
from broker.services.throttle import Throttle
from broker.testing.clock import FakeClock
from broker.testing.planners import FakePlanner, Step, an_ask, an_order, quotes

FAILING = SiteUnreachable("alba.example: connection refused.")


class Guarded:
    """A guarded fake with a clock to move; `far` is a deadline nobody reaches."""

    def __init__(self, *steps: Step, settings: BreakerSettings | None = None, **site: Any) -> None:
        self.clock = FakeClock()
        self.fake = FakePlanner(*steps)
        self.guard = GuardedPlanner(self.fake, Registration(name="alba", **site), self.clock, settings)

    @property
    def far(self) -> Deadline:
        return Deadline.after(60.0, self.clock.monotonic())

    async def quote(self) -> Quotes:
        return await self.guard.quote(an_ask(self.far))

    async def fail(self, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(SiteError):
                await self.quote()

    def state(self, operation: str = "offers") -> str:
        return self.guard.breakers()[operation]


# ── breakers ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_failures_in_a_row_open_the_breaker_and_nothing_more_is_sent() -> None:
    it = Guarded(FAILING)
    await it.fail(5)
    assert it.fake.calls["quote"] == 5
    assert it.state() == "open"
    with pytest.raises(NotAsked) as caught:
        await it.quote()
    assert it.fake.calls["quote"] == 5
    assert caught.value.retry_after == pytest.approx(1.0)
    assert "connection refused" in caught.value.detail
    assert caught.value.proof


async def test_a_success_between_failures_keeps_it_closed() -> None:
    it = Guarded(*[FAILING] * 4, quotes("h"), *[FAILING] * 4, quotes("h"))
    await it.fail(4)
    await it.quote()
    await it.fail(4)
    assert it.state() == "closed"


async def test_one_probe_goes_out_after_the_back_off_and_its_success_closes() -> None:
    it = Guarded(*[FAILING] * 5, "wait")
    await it.fail(5)
    it.fake.asked.clear()
    it.clock.advance(1.0)
    assert it.state() == "half-open"
    probe = asyncio.create_task(it.quote())
    await it.fake.asked.wait()
    with pytest.raises(NotAsked):
        await it.quote()
    it.fake.go.set()
    assert (await probe).quotes
    assert it.state() == "closed"


async def test_failed_probes_double_the_back_off_up_to_a_cap() -> None:
    it = Guarded(FAILING, settings=BreakerSettings(cap=5.0))
    await it.fail(5)
    waits = []
    for _ in range(5):
        state = next(state for state in it.guard.state() if state.operation == "offers")
        waits.append(round(state.retry_after, 3))
        it.clock.advance(state.retry_after)
        await it.fail()
    assert waits == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert it.fake.calls["quote"] == 10


async def test_after_a_recovery_the_back_off_begins_anew() -> None:
    it = Guarded(*[FAILING] * 6, quotes("h"), FAILING)
    await it.fail(5)
    it.clock.advance(1.0)
    await it.fail()
    it.clock.advance(2.0)
    await it.quote()
    await it.fail(5)
    with pytest.raises(NotAsked) as caught:
        await it.quote()
    assert caught.value.retry_after == pytest.approx(1.0)


async def test_a_cancelled_probe_lets_the_next_one_go() -> None:
    it = Guarded(*[FAILING] * 5, "hang", quotes("h"))
    await it.fail(5)
    it.clock.advance(1.0)
    it.fake.asked.clear()
    probe = asyncio.create_task(it.quote())
    await it.fake.asked.wait()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert (await it.quote()).quotes


async def test_a_failure_sent_before_the_breaker_opened_is_not_taken_for_the_probe() -> None:
    early, probe_answer, probing = asyncio.Event(), asyncio.Event(), asyncio.Event()
    it = Guarded()

    async def scripted(ask: object) -> Quotes:
        it.fake.calls["quote"] += 1
        number = it.fake.calls["quote"]
        if number == 1:
            await early.wait()
        if number == 7:
            probing.set()
            await probe_answer.wait()
            return quotes("h")
        raise SiteUnreachable("no")

    it.fake.quote = scripted  # type: ignore[method-assign, assignment]
    first = asyncio.create_task(it.quote())
    await asyncio.sleep(0)
    await it.fail(5)
    it.clock.advance(1.0)
    probe = asyncio.create_task(it.quote())
    await probing.wait()
    early.set()
    with pytest.raises(SiteUnreachable):
        await first
    with pytest.raises(NotAsked):  # the probe is still out
        await it.quote()
    probe_answer.set()
    await probe
    assert it.state() == "closed"


CALLS: dict[str, Callable[[Guarded], Awaitable[object]]] = {
    "offers": lambda it: it.quote(),
    "accept": lambda it: it.guard.accept(an_order(), it.far),
    "release": lambda it: it.guard.release([an_order()], it.far),
    "status": lambda it: it.guard.status([an_order()], it.far),
    "other": lambda it: it.guard.update(an_order(), "CANCELLED", it.far),
}


@pytest.mark.parametrize("broken", list(CALLS))
async def test_an_open_breaker_blocks_its_own_operation_alone(broken: str) -> None:
    it = Guarded(FAILING)
    for _ in range(5):
        with pytest.raises(SiteUnreachable):
            await CALLS[broken](it)
    it.fake.steps = [quotes("h")]
    with pytest.raises(NotAsked):
        await CALLS[broken](it)
    for name, call in CALLS.items():
        if name != broken:
            await call(it)
    assert {name for name, state in it.guard.breakers().items() if state == "open"} == {broken}


async def test_describe_is_never_blocked() -> None:
    it = Guarded(FAILING)
    for _ in range(20):
        with pytest.raises(SiteUnreachable):
            await it.guard.describe(it.far)
    it.fake.steps = [quotes("h")]
    await it.guard.describe(it.far)


@pytest.mark.parametrize("error", [SiteRefused("no", status=400), SiteForbids("no"), SiteForgot("no")])
async def test_an_answer_that_refuses_is_no_failure(error: SiteError) -> None:
    it = Guarded(*[FAILING] * 4, error, *[FAILING] * 4, error)
    await it.fail(30)
    assert it.fake.calls["quote"] == 30
    assert it.state() == "closed"


async def test_a_decline_is_no_failure() -> None:
    it = Guarded(Quotes())
    for _ in range(20):
        await it.quote()
    assert it.state() == "closed"


async def test_a_site_that_asks_to_wait_is_left_alone_so_long_and_not_longer() -> None:
    it = Guarded(SiteBusy("come back", retry_after=7.0), quotes("h"))
    with pytest.raises(SiteBusy):
        await it.quote()
    it.clock.advance(6.9)
    with pytest.raises(NotAsked) as caught:
        await it.quote()
    assert caught.value.retry_after == pytest.approx(0.1)
    assert "come back" in caught.value.detail
    it.clock.advance(0.2)
    await it.quote()
    assert it.state() == "closed"


async def test_nobody_can_ask_to_wait_for_ever() -> None:
    it = Guarded(SiteBusy("come back", retry_after=1e12), quotes("h"))
    await it.fail()
    it.clock.advance(LONGEST_PAUSE)
    await it.quote()


async def test_the_state_says_since_when_and_why() -> None:
    it = Guarded(FAILING)
    it.clock.advance(100.0)
    await it.fail(5)
    state = next(state for state in it.guard.state() if state.operation == "offers")
    assert (state.state, state.since, state.reason) == ("open", it.clock.now(), FAILING.detail)
    assert all(other.state == "closed" for other in it.guard.state() if other.operation != "offers")


# ── deadlines, on the real clock ─────────────────────────────────────────────────────────────────────────────


def real(fake: FakePlanner, settings: BreakerSettings | None = None, **site: Any) -> GuardedPlanner:
    return GuardedPlanner(fake, Registration(name="alba", **site), SystemClock(), settings)


def soon(seconds: float = 0.05) -> Deadline:
    return Deadline.after(seconds, asyncio.get_running_loop().time())


async def test_a_planner_that_overruns_its_deadline_is_cut_off() -> None:
    fake = FakePlanner("hang")
    with pytest.raises(SiteTimeout):
        await real(fake).accept(an_order(), soon())
    assert fake.cancelled == 1


async def test_the_registered_timeout_shortens_a_longer_deadline() -> None:
    fake = FakePlanner("hang")
    with pytest.raises(SiteTimeout):
        await real(fake, timeout=0.05).status([an_order()], soon(3600))


async def test_a_caller_in_a_hurry_does_not_open_the_breaker() -> None:
    guard = real(FakePlanner("hang"))
    for _ in range(6):
        with pytest.raises(SiteTimeout):
            await guard.quote(an_ask(soon(0.01)))
    assert guard.breakers()["offers"] == "closed"


async def test_timeouts_of_calls_that_had_time_open_it() -> None:
    guard = real(FakePlanner("hang"), BreakerSettings(failures=2, fair=0.01))
    for _ in range(2):
        with pytest.raises(SiteTimeout):
            await guard.quote(an_ask(soon(0.05)))
    assert guard.breakers()["offers"] == "open"


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_planners_bug_is_doubt() -> None:
    it = Guarded(KeyError("Authorization: Basic abc"))
    with pytest.raises(SiteMisbehaved) as caught:
        await it.guard.accept(an_order(), it.far)
    assert not caught.value.proof
    assert "KeyError" in caught.value.detail
    assert "Basic" not in caught.value.detail


async def test_a_cancellation_that_nobody_asked_for_is_a_bug_too() -> None:
    it = Guarded(asyncio.CancelledError())
    with pytest.raises(SiteMisbehaved):
        await it.guard.accept(an_order(), it.far)


async def test_cancellation_propagates() -> None:
    it = Guarded("hang")
    task = asyncio.create_task(it.quote())
    await it.fake.asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert it.fake.cancelled == 1


async def test_the_rest_of_the_port_passes_through() -> None:
    it = Guarded()
    assert (await it.guard.logs(an_order(), it.far)).stdout == "out"
    assert (await it.guard.results(an_order(), it.far))[0].name == "a.txt"
    assert [piece async for piece in it.guard.fetch(an_order(), "a.txt", it.far)] == [b"a", b"b"]
    await it.guard.close()
    assert it.fake.closed


async def test_a_download_that_breaks_says_so_as_a_site_error() -> None:
    it = Guarded(RuntimeError("bug"))
    pieces = it.guard.fetch(an_order(), "a.txt", it.far)
    assert await anext(pieces) == b"a"
    with pytest.raises(SiteMisbehaved):
        await anext(pieces)


# ── room ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_more_calls_at_once_than_registered() -> None:
    it = Guarded("wait", concurrency=8)
    tasks = [asyncio.create_task(it.guard.status([an_order()], it.far)) for _ in range(30)]
    await it.fake.asked.wait()
    it.fake.go.set()
    await asyncio.gather(*tasks)
    assert it.fake.most == 8
    assert it.fake.calls["status"] == 30


async def test_offers_that_hang_leave_room_to_accept() -> None:
    it = Guarded("hang", concurrency=4)
    hanging = [asyncio.create_task(it.quote()) for _ in range(20)]
    await it.fake.called("quote", 3)
    it.fake.steps = [quotes("h")]
    await it.guard.accept(an_order(), it.far)
    assert it.fake.calls["quote"] == 3
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    await it.quote()  # and all room is given back


async def test_without_room_by_the_deadline_nothing_is_sent() -> None:
    fake = FakePlanner("hang")
    guard = real(fake, concurrency=1)
    first = asyncio.create_task(guard.quote(an_ask(soon(60))))
    await fake.asked.wait()
    with pytest.raises(NotAsked):
        await guard.quote(an_ask(soon()))
    assert fake.calls["quote"] == 1
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


# ── rate ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_without_a_token_in_time_the_site_is_skipped_at_once() -> None:
    it = Guarded(calls_per_minute=1)
    await it.quote()
    with pytest.raises(NotAsked) as caught:
        await it.guard.quote(an_ask(Deadline.after(5.0, it.clock.monotonic())))
    assert 50 < caught.value.retry_after <= 60
    assert it.fake.calls["quote"] == 1


async def test_a_token_that_comes_in_time_is_waited_for() -> None:
    fake = FakePlanner()
    guard = real(fake, calls_per_minute=6000)  # 100 a second
    for _ in range(101):
        await guard.status([an_order()], soon(30))
    assert fake.calls["status"] == 101


async def test_a_site_that_may_be_called_often_is_queued_at_rather_than_left_out() -> None:
    fake = FakePlanner()
    guard = real(fake, calls_per_minute=6000, concurrency=64)  # 100 a second, of which offers may be 48 at once
    for _ in range(100):
        await guard.status([an_order()], soon(30))
    await asyncio.gather(*(guard.quote(an_ask(soon(30))) for _ in range(20)))
    assert fake.calls["quote"] == 20


async def test_few_wait_for_tokens_and_the_others_are_told_when_to_come_back() -> None:
    guard = real(FakePlanner(), calls_per_minute=10)
    tasks = [asyncio.create_task(guard.quote(an_ask(soon(3600)))) for _ in range(30)]
    done: set[asyncio.Task[Quotes]] = set()
    while len(done) < 26:
        done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=0.01)
    skipped = [error for task in done if isinstance(error := task.exception(), NotAsked)]
    assert (len(skipped), len(waiting)) == (30 - 10 - 4, 4)
    assert all(0 < error.retry_after <= 600 for error in skipped)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_the_rate_holds_over_a_longer_time() -> None:
    throttle = Throttle(3000)  # 50 a second
    began = time.monotonic()
    for _ in range(51):
        await throttle.take()
    assert time.monotonic() - began >= 1.0  # 50 at once, one after a second


def test_the_wait_is_foretold() -> None:
    throttle = Throttle(1)
    assert throttle.wait() == 0.0
    asyncio.run(throttle.take())
    assert throttle.wait() == pytest.approx(60.0, abs=1.0)
    throttle.waiting = 2
    assert throttle.wait() == pytest.approx(180.0, abs=1.0)
