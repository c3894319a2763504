"""The real clock and the one that tests move."""

from __future__ import annotations

import asyncio
import time

import pytest

from broker.services.clock import SystemClock
from broker.testing.clock import FakeClock


async def test_the_system_clock_is_the_loops_and_the_walls() -> None:
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    before = loop.time(), time.time()
    seen = clock.monotonic(), clock.now()
    after = loop.time(), time.time()
    assert before[0] <= seen[0] <= after[0]
    assert before[1] <= seen[1] <= after[1]


async def test_the_system_clock_sleeps_as_long_as_it_says() -> None:
    """Timers of a loop fire in the order in which they are due."""
    earlier = asyncio.Event()
    asyncio.get_running_loop().call_later(0.005, earlier.set)
    await SystemClock().sleep(0.01)
    assert earlier.is_set()


def test_the_system_clock_has_no_monotonic_time_outside_a_loop() -> None:
    with pytest.raises(RuntimeError):
        SystemClock().monotonic()


async def test_advance_wakes_whoever_has_slept_enough_in_order() -> None:
    clock = FakeClock(wall=100.0, monotonic=5.0)
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [asyncio.ensure_future(sleeper(name, seconds)) for name, seconds in (("c", 9), ("b", 2), ("a", 1))]
    await clock.asleep(3)
    assert clock.next_wake() == 1
    clock.advance(2)
    await asyncio.gather(*tasks[1:])
    assert woken == ["a", "b"]
    assert clock.next_wake() == 7
    assert (clock.now(), clock.monotonic()) == (102.0, 7.0)
    clock.advance(7)
    await tasks[0]
    assert clock.next_wake() is None


async def test_jump_moves_the_wall_alone() -> None:
    clock = FakeClock(wall=100.0, monotonic=5.0)
    task = asyncio.ensure_future(clock.sleep(10))
    await clock.asleep()
    clock.jump(3600)
    clock.jump(-7200)
    assert (clock.now(), clock.monotonic(), clock.next_wake()) == (-3500.0, 5.0, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.next_wake() is None


async def test_no_sleep_is_one_turn_of_the_loop() -> None:
    clock = FakeClock()
    turns: list[str] = []

    async def other() -> None:
        turns.append("other")

    task = asyncio.ensure_future(other())
    await clock.sleep(0)
    turns.append("me")
    await task
    assert turns == ["other", "me"]


async def test_a_fake_deadline_lies_in_the_loops_future() -> None:
    clock = FakeClock()
    async with asyncio.timeout_at(clock.monotonic() + 60):
        await asyncio.sleep(0)
