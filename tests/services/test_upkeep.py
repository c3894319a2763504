"""The timers' loop rests until there is something to do: a timer far off does not wake it, a near one does."""

from __future__ import annotations

import asyncio

import pytest

from broker.ports import Lease, Store
from broker.services.upkeep import IDLE, Upkeep
from broker.testing.clock import FakeClock


@pytest.fixture
def looks(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moments at which the loop looked for due timers."""
    seen: list[float] = []
    claim = store.claim

    async def watched(limit: int, lease: float) -> list[Lease]:
        seen.append(limit)
        return await claim(limit, lease)

    monkeypatch.setattr(store, "claim", watched)
    return seen


async def test_a_timer_far_off_wakes_nobody_and_a_near_one_does(
    store: Store, clock: FakeClock, looks: list[float]
) -> None:
    upkeep, done = Upkeep(store, clock), asyncio.Event()

    async def handle(key: str) -> None:
        done.set()

    upkeep.handle({"close": handle})
    running = asyncio.create_task(upkeep.run())
    try:
        await clock.asleep()
        assert len(looks) == 1
        upkeep.nudge(clock.now() + IDLE + 1)
        await asyncio.sleep(0)
        await clock.asleep()
        assert len(looks) == 1
        await store.write("set", 0, b"record", timers={"close": clock.now()})
        upkeep.nudge(clock.now())
        async with asyncio.timeout(10):
            await done.wait()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def test_a_timer_set_while_the_loop_is_looking_is_not_slept_over(store: Store, clock: FakeClock) -> None:
    upkeep, done, next_due = Upkeep(store, clock), asyncio.Event(), store.next_due

    async def handle(key: str) -> None:
        done.set()

    async def slow_next_due() -> float | None:
        """What it says is out of date when it is heard."""
        due = await next_due()
        if due is None:
            await store.write("set", 0, b"record", timers={"close": clock.now()})
            upkeep.nudge(clock.now())
        return due

    upkeep.handle({"close": handle})
    store.next_due = slow_next_due  # type: ignore[method-assign]
    running = asyncio.create_task(upkeep.run())
    try:
        async with asyncio.timeout(10):
            await done.wait()  # though the clock never moves
    finally:
        running.cancel()
        await asyncio.wait([running])
