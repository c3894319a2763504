"""Deferred work: due timers come, once at a time, again after failures, and at once when somebody nudges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from broker.errors import Conflict, Unavailable
from broker.ports import Lease, Store
from broker.services.upkeep import AT_ONCE, IDLE, LEASE, REFUSED, TROUBLE, Handler, Upkeep
from broker.testing.clock import FakeClock


class Work:
    """A handler: notes its aggregates, and returns or raises what is next in `says`; then None."""

    def __init__(self) -> None:
        self.came: list[str] = []
        self.says: list[float | BaseException | None] = []
        self._more = asyncio.Event()

    async def __call__(self, key: str) -> float | None:
        self.came.append(key)
        self._more.set()
        said = self.says.pop(0) if self.says else None
        if isinstance(said, BaseException):
            raise said
        return said

    async def times(self, count: int) -> None:
        while len(self.came) < count:
            self._more.clear()
            await self._more.wait()


@asynccontextmanager
async def running(upkeep: Upkeep, **handlers: Handler) -> AsyncIterator[None]:
    upkeep.handle(handlers)
    task = asyncio.create_task(upkeep.run())
    try:
        async with asyncio.timeout(20):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def timer(store: Store, clock: FakeClock, key: str, name: str = "t", after: float = 0.0) -> None:
    stored = await store.read(key)
    version = stored.version if stored else 0
    assert await store.write(key, version, b"R", timers={name: clock.now() + after})


@pytest.fixture
def upkeep(store: Store, clock: FakeClock) -> Upkeep:
    return Upkeep(store, clock)


@pytest.fixture
def settled(store: Store, clock: FakeClock) -> Callable[[float | None], Awaitable[None]]:
    """Returns when the earliest timer is due so many seconds from now (None: there is none)."""

    async def settled_(seconds: float | None) -> None:
        async with asyncio.timeout(20):
            while True:
                due = await store.next_due()
                if (due is None) if seconds is None else (due is not None and abs(due - clock.now() - seconds) < 0.01):
                    return

    return settled_


Settled = Callable[[float | None], Awaitable[None]]


async def test_what_is_due_is_done_and_gone(store: Store, clock: FakeClock, upkeep: Upkeep, settled: Settled) -> None:
    work = Work()
    await timer(store, clock, "a")
    async with running(upkeep, t=work):
        await work.times(1)
        await settled(None)
    assert work.came == ["a"]


async def test_what_is_due_later_comes_later(store: Store, clock: FakeClock, upkeep: Upkeep) -> None:
    work = Work()
    await timer(store, clock, "a", after=3.0)
    async with running(upkeep, t=work):
        await clock.asleep()
        assert work.came == []
        clock.advance(3.0)
        await work.times(1)


async def test_what_is_to_come_again_comes_again(store: Store, clock: FakeClock, upkeep: Upkeep) -> None:
    work = Work()
    work.says = [clock.now() + 4.0]
    await timer(store, clock, "a")
    async with running(upkeep, t=work):
        await work.times(1)
        while clock.next_wake() != 4.0:
            await clock.asleep()
            await asyncio.sleep(0)
        clock.advance(4.0)
        await work.times(2)


@pytest.mark.parametrize(
    ("error", "wait"), [(Unavailable("store busy"), TROUBLE), (Conflict("no"), TROUBLE), (KeyError("bug"), 6 * TROUBLE)]
)
async def test_a_handler_that_fails_is_called_again(
    store: Store, clock: FakeClock, upkeep: Upkeep, settled: Settled, error: Exception, wait: float
) -> None:
    work = Work()
    work.says = [error]
    await timer(store, clock, "a")
    async with running(upkeep, t=work):
        await work.times(1)
        await settled(wait)
        clock.advance(wait)
        upkeep.nudge()
        await work.times(2)
        await settled(None)


async def test_one_failure_does_not_keep_the_others_waiting(store: Store, clock: FakeClock, upkeep: Upkeep) -> None:
    good, bad = Work(), Work()
    bad.says = [KeyError("bug")]
    await timer(store, clock, "a", "bad")
    await timer(store, clock, "b", "good")
    async with running(upkeep, good=good, bad=bad):
        await good.times(1)
        await bad.times(1)


async def test_a_nudge_wakes_it_at_once(store: Store, clock: FakeClock, upkeep: Upkeep) -> None:
    work = Work()
    async with running(upkeep, t=work):
        await clock.asleep()
        await timer(store, clock, "a")
        upkeep.nudge()
        await work.times(1)  # the clock stood still


async def test_without_a_nudge_it_looks_by_itself(store: Store, clock: FakeClock, upkeep: Upkeep) -> None:
    """Another replica may have set a timer."""
    work = Work()
    async with running(upkeep, t=work):
        await clock.asleep()
        await timer(store, clock, "a")
        clock.advance(IDLE)
        await work.times(1)


async def test_a_timer_nobody_knows_is_left_for_who_does(
    store: Store, clock: FakeClock, upkeep: Upkeep, settled: Settled
) -> None:
    await timer(store, clock, "a", "tomorrow's")
    async with running(upkeep):
        await settled(60.0)


async def test_a_timer_set_anew_while_its_work_is_done_comes_again(
    store: Store, clock: FakeClock, upkeep: Upkeep
) -> None:
    """What was to be done may have changed: the handler saw the old record."""
    again = Work()

    async def handler(key: str) -> float | None:
        await again(key)
        if len(again.came) == 1:
            await timer(store, clock, "a")
        return None

    await timer(store, clock, "a")
    async with running(upkeep, t=handler):
        await again.times(2)


async def test_two_workers_share_the_work(open_store: Callable[[], Awaitable[Store]], clock: FakeClock) -> None:
    one, two = [Upkeep(await open_store(), clock) for _ in range(2)]
    work, store = Work(), await open_store()
    for n in range(100):
        await timer(store, clock, f"k{n}")
    async with running(one, t=work), running(two, t=work):
        await work.times(100)
    assert sorted(work.came) == sorted(f"k{n}" for n in range(100))


async def test_what_a_stopped_worker_had_in_hand_comes_to_another(
    open_store: Callable[[], Awaitable[Store]], clock: FakeClock
) -> None:
    one, two = [Upkeep(await open_store(), clock) for _ in range(2)]
    begun, work, store = asyncio.Event(), Work(), await open_store()

    async def hangs(key: str) -> float | None:
        begun.set()
        await asyncio.Event().wait()
        return None

    await timer(store, clock, "a")
    async with running(one, t=hangs):
        await begun.wait()
    assert await store.claim(1, 60) == []
    clock.advance(LEASE)
    async with running(two, t=work):
        await work.times(1)


async def test_a_worker_that_is_closed_lets_its_work_end_and_begins_no_more(
    store: Store, clock: FakeClock, upkeep: Upkeep, settled: Settled
) -> None:
    begun, go, late = asyncio.Event(), asyncio.Event(), Work()

    async def slow(key: str) -> float | None:
        begun.set()
        await go.wait()
        return None

    await timer(store, clock, "a")
    async with running(upkeep, t=slow, u=late):
        await begun.wait()
        closing = asyncio.create_task(upkeep.close(20.0))
        await asyncio.sleep(0)
        await timer(store, clock, "b", "u")
        upkeep.nudge()
        go.set()
        await closing
    assert not late.came
    assert [lease.aggregate for lease in await store.claim(10, 60)] == ["b"]


async def test_what_does_not_end_in_time_is_given_back_at_once(
    open_store: Callable[[], Awaitable[Store]], clock: FakeClock
) -> None:
    one, two = [Upkeep(await open_store(), clock) for _ in range(2)]
    begun, work, store = asyncio.Event(), Work(), await open_store()

    async def hangs(key: str) -> float | None:
        begun.set()
        await asyncio.Event().wait()
        return None

    await timer(store, clock, "a")
    async with running(one, t=hangs):
        await begun.wait()
        await one.close(0.0)
        async with running(two, t=work):  # the clock stood still
            await work.times(1)


async def test_what_was_claimed_while_it_was_stopped_is_given_back(store: Store, clock: FakeClock) -> None:
    late, work = Late(store), Work()
    upkeep = Upkeep(late, clock)  # type: ignore[arg-type]  # a store by delegation
    await timer(store, clock, "a")
    async with running(upkeep, t=work):
        await late.claimed.wait()
        closing = asyncio.create_task(upkeep.close(20.0))
        await asyncio.sleep(0)
        late.go.set()
        await closing
    assert not work.came
    assert len(await store.claim(10, 60)) == 1


class Late:
    """A store whose claims are made, and answered when `go` is set."""

    def __init__(self, store: Store) -> None:
        self._store, self.claimed, self.go = store, asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def claim(self, limit: int, lease: float) -> object:
        leases = await self._store.claim(limit, lease)
        self.claimed.set()
        await self.go.wait()
        return leases


async def test_no_more_than_so_many_are_done_at_once(store: Store, clock: FakeClock, upkeep: Upkeep) -> None:
    now = most = 0
    done = asyncio.Event()
    go = asyncio.Event()
    total = AT_ONCE + 10
    finished = 0

    async def handler(key: str) -> float | None:
        nonlocal now, most, finished
        now += 1
        most = max(most, now)
        if now == AT_ONCE:
            go.set()
        await go.wait()
        now -= 1
        finished += 1
        if finished == total:
            done.set()
        return None

    for n in range(total):
        await timer(store, clock, f"k{n}")
    async with running(upkeep, t=handler):
        await done.wait()
    assert most == AT_ONCE


class Broken:
    """A store that cannot be reached, so many times."""

    def __init__(self, store: Store, times: int) -> None:
        self._store, self.times = store, times

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def claim(self, limit: int, lease: float) -> object:
        if self.times:
            self.times -= 1
            raise Unavailable("the disk is full.")
        return await self._store.claim(limit, lease)


async def test_a_store_out_of_order_is_looked_at_again(store: Store, clock: FakeClock) -> None:
    work, broken = Work(), Broken(store, 3)
    upkeep = Upkeep(broken, clock)  # type: ignore[arg-type]
    await timer(store, clock, "a")
    async with running(upkeep, t=work):
        while broken.times:
            await clock.asleep()
            clock.advance(IDLE)
            await asyncio.sleep(0)
        await work.times(1)


class Unsettled(Broken):
    """What is done cannot be written down at first."""

    async def claim(self, limit: int, lease: float) -> object:
        return await self._store.claim(limit, lease)

    async def done(self, lease: Lease) -> bool:
        if self.times:
            self.times -= 1
            raise Unavailable("the disk is full.")
        return await self._store.done(lease)


async def test_what_is_done_is_written_down_as_soon_as_the_store_is_back(
    store: Store, clock: FakeClock, settled: Settled
) -> None:
    """Not only when its lease has ended, and its work has been done twice."""
    work, broken = Work(), Unsettled(store, 2)
    upkeep = Upkeep(broken, clock)  # type: ignore[arg-type]
    await timer(store, clock, "a")
    began = clock.monotonic()
    async with running(upkeep, t=work):
        await work.times(1)
        while broken.times:
            await clock.asleep()
            clock.advance(REFUSED / 4)
            await asyncio.sleep(0)
        clock.advance(REFUSED)
        await settled(None)
    assert work.came == ["a"]
    assert clock.monotonic() - began < LEASE
