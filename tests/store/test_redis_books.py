"""The calendar and the limits in Redis hold their contracts, on one server and on a Cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from broker.errors import Unavailable
from broker.ports import Calendar, Limits
from broker.store import redis_calendar
from broker.store.redis_calendar import RedisCalendar
from broker.store.redis_limits import RedisLimits
from broker.store.redis_nodes import Address, Nodes, parse, partition_of
from broker.testing.calendars import HOUR, CalendarContract, booking
from broker.testing.clock import FakeClock
from broker.testing.limits import LimitsContract

KINDS = ("redis_url", "cluster_url")
MASTERS = 3  # of the Cluster


async def opened(url: str, kind: type[Nodes] = Nodes) -> AsyncIterator[Nodes]:
    nodes = kind(parse(f"{url}?prefix={uuid4().hex}"))
    yield nodes
    await nodes.close()


@pytest.fixture(params=KINDS)
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    async for nodes in opened(request.getfixturevalue(request.param)):
        yield nodes


class Losing(Nodes):
    """Loses the answer to every first try: what was sent is done, and sent again."""

    async def _exchange(self, endpoint, calls):  # type: ignore[no-untyped-def]  # as its parent's
        await super()._exchange(endpoint, calls)
        for call in calls:
            if call.trouble is None and not hasattr(call, "lost"):
                call.lost = True
                call.trouble = ConnectionResetError("the answer was lost")


@pytest.fixture(params=KINDS)
async def losing(request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    async for nodes in opened(request.getfixturevalue(request.param), Losing):
        yield nodes


class Hanging(Nodes):
    """The server `hangs` answers nobody before `go_on`."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.hangs: Any = None
        self.go_on, self.all_asked = asyncio.Event(), asyncio.Event()
        self.seen: list[tuple[Any, set[int]]] = []  # server, slots

    async def _exchange(self, endpoint, calls):  # type: ignore[no-untyped-def]  # as its parent's
        self.seen.append((endpoint, {call.slot for call in calls}))
        if len(self.seen) == MASTERS:
            self.all_asked.set()
        if endpoint == self.hangs:
            await self.go_on.wait()
        await super()._exchange(endpoint, calls)

    def split(self, keys: list[str], asked: list[asyncio.Task[float]]) -> tuple[list[Any], list[Any]]:
        """Those who asked other servers, and those who asked the one that hangs."""
        stuck = {slot for endpoint, slots in self.seen if endpoint == self.hangs for slot in slots}
        hanging = [self._slots[partition_of(key)] in stuck for key in keys]
        pairs = list(zip(asked, hanging, strict=True))
        return [one for one, hangs in pairs if not hangs], [one for one, hangs in pairs if hangs]


@pytest.fixture
async def server(redis_url: str) -> AsyncIterator[Redis]:
    """The one server, past all that is ours."""
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


class TestRedisCalendar(CalendarContract):
    @pytest.fixture
    def calendar(self, nodes: Nodes, clock: FakeClock) -> Calendar:
        return RedisCalendar(nodes, clock)

    async def test_a_write_whose_answer_is_lost_is_made_once_and_told_so(self, losing: Nodes, clock: FakeClock) -> None:
        calendar = RedisCalendar(losing, clock)
        for version in range(3):
            assert await calendar.write("s", version, [booking(f"b{version}", clock.now(), clock.now() + HOUR)])
        assert not await calendar.write("s", 1, [])
        book = await calendar.read("s", clock.now())
        assert (book.version, [at.id for at in book.bookings]) == (3, ["b0", "b1", "b2"])

    async def test_it_knows_the_last_operations_only(
        self, nodes: Nodes, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_calendar, "REMEMBERED", 2)
        names = iter("abca")
        monkeypatch.setattr(redis_calendar.secrets, "token_hex", lambda _: next(names) * 16)
        calendar = RedisCalendar(nodes, clock)
        assert [await calendar.write("s", version, []) for version in (0, 1, 2)] == [True] * 3
        assert not await calendar.write("s", 0, [])  # the first one's name again: forgotten

    async def test_many_bookings_come_back_whole_and_go_whole(self, calendar: Calendar, clock: FakeClock) -> None:
        now = clock.now()
        put = [booking(f"{n:05}", now + n, now + n + HOUR, until=now + HOUR + n) for n in range(3000)]
        assert await calendar.write("s", 0, put)
        assert (await calendar.read("s", now)).bookings == tuple(put)
        assert await calendar.write("s", 1, [], [at.id for at in put])
        assert (await calendar.read("s", now)).bookings == ()

    async def test_an_endless_booking_counts_for_ever(self, calendar: Calendar, clock: FakeClock) -> None:
        endless = booking("a", clock.now(), float("inf"))
        await calendar.write("s", 0, [endless])
        assert (await calendar.read("s", clock.now() + 1e12)).bookings == (endless,)

    async def test_without_a_clock_of_its_own_it_drops_by_the_servers(self, nodes: Nodes, clock: FakeClock) -> None:
        calendar = RedisCalendar(nodes)
        await calendar.write("s", 0, [booking("long ago", 0, HOUR), booking("to come", 4e9, 5e9)])
        await calendar.write("s", 1, [])
        assert [at.id for at in (await calendar.read("s", 0)).bookings] == ["to come"]


class TestRedisLimits(LimitsContract):
    @pytest.fixture
    def limits(self, nodes: Nodes, clock: FakeClock) -> Limits:
        return RedisLimits(nodes, clock)

    async def test_a_token_whose_answer_is_lost_is_taken_once(self, losing: Nodes, clock: FakeClock) -> None:
        limits = RedisLimits(losing, clock)
        keys = [f"k{n}" for n in range(40)]
        for _ in range(3):
            assert set(await asyncio.gather(*(limits.take(key, 1.0, 3) for key in keys))) == {0.0}
        assert all(await asyncio.gather(*(limits.take(key, 1.0, 3) for key in keys)))

    async def test_a_member_whose_answer_is_lost_is_in_once(self, losing: Nodes, clock: FakeClock) -> None:
        limits = RedisLimits(losing, clock)
        until = clock.now() + 60
        entered = await asyncio.gather(*(limits.enter("k", member, 2, until) for member in "abc"))
        assert entered == [True, True, False]
        await limits.leave("k", "a")
        assert await limits.members("k") == {"b"}

    async def test_each_question_of_a_batch_gets_its_own_answer(self, limits: Limits, clock: FakeClock) -> None:
        until = clock.now() + 60
        await asyncio.gather(*(limits.enter(f"k{n}", "x", 1, until) for n in range(0, 60, 3)))
        asked = [limits.enter(f"k{n}", "y", 1, until) for n in range(60)]
        asked_too = [limits.take(f"k{n % 7}", 0.5, 1) for n in range(60)]
        entered, taken = await asyncio.gather(asyncio.gather(*asked), asyncio.gather(*asked_too))
        assert entered == [n % 3 != 0 for n in range(60)]
        assert taken == [0.0] * 7 + [pytest.approx(2.0)] * 53

    async def test_a_member_may_stay_for_ever(self, limits: Limits, clock: FakeClock) -> None:
        assert await limits.enter("k", "a", 1, float("inf"))
        clock.advance(1e9)
        assert await limits.members("k") == {"a"}

    async def test_who_gives_up_waiting_spoils_nothing_for_the_others(self, limits: Limits) -> None:
        asked = [asyncio.ensure_future(limits.take(f"k{n}", 1.0, 1)) for n in range(20)]
        await asyncio.sleep(0)
        for one in asked[::2]:
            one.cancel()
        assert await asyncio.gather(*asked[1::2]) == [0.0] * 10

    async def test_all_of_a_batch_are_told_when_the_store_is_gone(self, nodes: Nodes, limits: Limits) -> None:
        await nodes.close()
        asked = [limits.take(f"k{n}", 1.0, 1) for n in range(5)]
        told = await asyncio.gather(*asked, limits.leave("k", "m"), return_exceptions=True)
        assert [type(one) for one in told] == [Unavailable] * 6

    async def test_all_of_a_batch_are_told_of_a_fault_of_ours(
        self, nodes: Nodes, limits: Limits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(nodes, "apart", None)
        told = await asyncio.gather(*(limits.take(f"k{n}", 1.0, 1) for n in range(5)), return_exceptions=True)
        assert [type(one) for one in told] == [TypeError] * 5

    async def test_without_a_clock_of_its_own_it_asks_the_servers(self, nodes: Nodes, clock: FakeClock) -> None:
        limits = RedisLimits(nodes)
        assert await limits.take("k", 0.01, 1) == 0.0
        assert 90 < await limits.take("k", 0.01, 1) <= 100
        assert await limits.enter("c", "past", 1, 1e9)
        assert await limits.members("c") == frozenset()

    async def test_what_is_asked_in_one_turn_is_one_call_to_each_server(
        self, nodes: Nodes, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        each = nodes.each

        async def counted(*args: object, **kwargs: object) -> list[object]:
            calls.append(args)
            return await each(*args, **kwargs)

        monkeypatch.setattr(nodes, "each", counted)
        limits = RedisLimits(nodes, clock)
        takes = [limits.take(f"k{n}", 1.0, 1) for n in range(100)]
        enters = [limits.enter(f"k{n}", "m", 1, clock.now() + 9) for n in range(100)]
        await asyncio.gather(*takes, *enters)
        assert len(calls) == (MASTERS if nodes.address.clustered else 1)

    async def test_one_server_of_a_cluster_that_hangs_keeps_nobody_waiting_who_asks_another(
        self, cluster_url: str, clock: FakeClock
    ) -> None:
        keys = [f"k{n}" for n in range(30)]
        async for nodes in opened(cluster_url, Hanging):
            assert isinstance(nodes, Hanging)
            limits = RedisLimits(nodes, clock)
            await limits.take(keys[0], 1.0, 1)
            (nodes.hangs, *_), others = nodes.seen[0], keys[1:]
            nodes.seen.clear()
            asked = [asyncio.ensure_future(limits.take(key, 1.0, 1)) for key in others]
            async with asyncio.timeout(10):
                await nodes.all_asked.wait()
                answered, hanging = nodes.split(others, asked)
                assert await asyncio.gather(*answered) == [0.0] * len(answered)
                assert hanging
                assert not any(one.done() for one in hanging)
                nodes.go_on.set()
                assert await asyncio.gather(*hanging) == [0.0] * len(hanging)

    @pytest.mark.parametrize(("rate", "burst"), [(0.0, 1), (-1.0, 1), (float("nan"), 1), (1.0, 0)])
    async def test_a_bucket_that_never_holds_a_token_is_a_mistake(
        self, limits: Limits, rate: float, burst: int
    ) -> None:
        with pytest.raises(ValueError, match="no bucket"):
            await limits.take("k", rate, burst)


async def test_every_key_of_the_limits_ends_by_itself(redis_url: str, clock: FakeClock, server: Redis) -> None:
    async for nodes in opened(redis_url):
        limits = RedisLimits(nodes, clock)
        await limits.take("k", 0.1, 5)
        await limits.enter("k", "m", 1, clock.now() + 30)
        root = nodes.roots[partition_of("k")]
        keys = {key.decode(): await server.pttl(key) async for key in server.scan_iter(f"{root}:*")}
        bucket, cap, memory = keys.pop(f"{root}:rate:k"), keys.pop(f"{root}:cap:k"), keys.popitem()[1]
        assert 0 < memory <= 14_000
        assert 60_000 < bucket <= 70_000
        assert 80_000 < cap <= 90_000
        assert not keys


async def test_what_ended_or_lapsed_long_ago_is_dropped(redis_url: str, clock: FakeClock, server: Redis) -> None:
    async for nodes in opened(redis_url):
        calendar = RedisCalendar(nodes, clock)
        now = clock.now()
        put = [booking("ended", now, now + HOUR), booking("lapsed", now, now + 9e9, until=now + HOUR)]
        await calendar.write("s", 0, [*put, booking("counts", now, now + 9e9)])
        clock.advance(26 * HOUR)
        await calendar.write("s", 1, [])
        book = f"{nodes.roots[partition_of('s')]}:book:s"
        assert await server.hkeys(book) == [b"version", b"operations", b"bcounts"] or set(await server.hkeys(book)) == {
            b"version",
            b"operations",
            b"bcounts",
        }
        assert await server.zrange(f"{book}:ends", 0, -1) == [b"counts"]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
