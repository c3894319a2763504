"""What every Limits must hold, as a class of tests to inherit. Imports pytest, ports, testing's clock."""

from __future__ import annotations

import asyncio

import pytest

from broker.ports import Limits
from broker.testing.clock import FakeClock


class LimitsContract:
    """Override `limits`, which must tell the time by `clock`."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def limits(self, clock: FakeClock) -> Limits:
        raise NotImplementedError("return limits of which nothing is used")

    # ── rates ────────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.mark.parametrize("rate", [0.001, 1 / 3, 1.0, 7.0, 1000.0])
    async def test_a_full_bucket_gives_its_burst_and_says_when_to_come_back(
        self, limits: Limits, clock: FakeClock, rate: float
    ) -> None:
        assert [await limits.take("k", rate, 5) for _ in range(5)] == [0.0] * 5
        wait = await limits.take("k", rate, 5)
        assert wait == pytest.approx(1 / rate, abs=1e-5)
        clock.advance(wait)
        assert await limits.take("k", rate, 5) == 0.0
        assert await limits.take("k", rate, 5) > 0

    async def test_a_refusal_takes_nothing(self, limits: Limits, clock: FakeClock) -> None:
        await limits.take("k", 1.0, 1)
        clock.advance(0.25)
        waits = [await limits.take("k", 1.0, 1) for _ in range(50)]
        assert waits == pytest.approx([0.75] * 50, abs=1e-5)

    async def test_it_fills_up_to_its_burst_only(self, limits: Limits, clock: FakeClock) -> None:
        for _ in range(3):
            await limits.take("k", 10.0, 3)
        clock.advance(1000)
        taken = [await limits.take("k", 10.0, 3) for _ in range(4)]
        assert taken[:3] == [0.0] * 3
        assert taken[3] > 0

    async def test_it_never_gives_more_than_burst_and_rate_allow(self, limits: Limits, clock: FakeClock) -> None:
        given, passed = 0, 0.0
        for n in range(300):
            given += await limits.take("k", 2.0, 4) == 0.0
            assert given <= 4 + 2.0 * passed + 1e-3
            step = (0.05, 0.31, 0.0, 1.7, 0.11)[n % 5]
            clock.advance(step)
            passed += step
        assert given >= 2.0 * passed / 2  # and it gives

    async def test_each_key_has_its_own_bucket(self, limits: Limits) -> None:
        assert await limits.take("k", 1.0, 1) == 0.0
        assert await limits.take("l", 1.0, 1) == 0.0
        assert await limits.take("k", 1.0, 1) > 0

    async def test_the_burst_holds_for_many_at_once(self, limits: Limits) -> None:
        waits = await asyncio.gather(*(limits.take("k", 1.0, 10) for _ in range(100)))
        assert waits.count(0.0) == 10

    async def test_a_clock_set_back_does_not_lock_the_bucket(self, limits: Limits, clock: FakeClock) -> None:
        for _ in range(3):
            await limits.take("k", 1.0, 3)
        clock.jump(-3600)
        assert await limits.take("k", 1.0, 3) <= 1.0 + 1e-5
        clock.advance(1)
        assert await limits.take("k", 1.0, 3) == 0.0

    # ── caps ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def test_a_set_holds_up_to_its_ceiling(self, limits: Limits, clock: FakeClock) -> None:
        until = clock.now() + 60
        assert [await limits.enter("k", member, 2, until) for member in "abc"] == [True, True, False]
        assert await limits.members("k") == {"a", "b"}
        assert not await limits.enter("none", "a", 0, until)
        assert await limits.members("none") == frozenset()

    async def test_who_leaves_makes_room(self, limits: Limits, clock: FakeClock) -> None:
        until = clock.now() + 60
        await limits.enter("k", "a", 1, until)
        await limits.leave("k", "a")
        await limits.leave("k", "a")
        await limits.leave("never", "a")
        assert await limits.enter("k", "b", 1, until)
        assert await limits.members("k") == {"b"}

    async def test_a_member_leaves_by_itself(self, limits: Limits, clock: FakeClock) -> None:
        now = clock.now()
        await limits.enter("k", "a", 2, now + 10)
        await limits.enter("k", "b", 2, now + 20)
        clock.advance(9.5)
        assert await limits.members("k") == {"a", "b"}
        assert not await limits.enter("k", "c", 2, now + 30)
        clock.advance(0.5)
        assert await limits.members("k") == {"b"}
        assert await limits.enter("k", "c", 2, now + 30)

    async def test_who_enters_again_stays_longer_even_when_it_is_full(self, limits: Limits, clock: FakeClock) -> None:
        now = clock.now()
        await limits.enter("k", "a", 1, now + 10)
        assert await limits.enter("k", "a", 1, now + 30)
        assert await limits.enter("k", "a", 0, now + 30)  # the ceiling was lowered: nobody is thrown out
        clock.advance(20)
        assert await limits.members("k") == {"a"}
        assert not await limits.enter("k", "b", 1, now + 30)

    async def test_who_enters_again_for_less_stays_as_long(self, limits: Limits, clock: FakeClock) -> None:
        now = clock.now()
        await limits.enter("k", "a", 1, now + 30)
        await limits.enter("k", "a", 1, now + 10)
        clock.advance(20)
        assert await limits.members("k") == {"a"}

    async def test_each_key_has_its_own_set(self, limits: Limits, clock: FakeClock) -> None:
        until = clock.now() + 60
        assert await limits.enter("k", "a", 1, until)
        assert await limits.enter("l", "a", 1, until)
        await limits.leave("k", "a")
        assert await limits.members("l") == {"a"}

    async def test_the_ceiling_holds_for_many_at_once(self, limits: Limits, clock: FakeClock) -> None:
        until = clock.now() + 60
        entered = await asyncio.gather(*(limits.enter("k", str(n), 7, until) for n in range(50)))
        assert entered.count(True) == 7
        assert await limits.members("k") == {str(n) for n, result in enumerate(entered) if result}
