"""Two and three replicas on one Redis, with a replica or the Redis itself failing in the middle. Real processes all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import pytest_asyncio

from broker.testing.desk import REQUEST, Desk, Place, eventually, opened, place
from broker.testing.proxy import Point, Proxy
from broker.testing.redis_server import RedisServer, Sentinels
from tests.conftest import want

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

KINDS: dict[str, dict[str, Any]] = {"plain": {}, "ours": {"broker_id": "their-id"}}
DURABLE = ("--appendfsync", "always")


class World:
    """Replicas on one store, and sites that count what they begin."""

    def __init__(self, replicas: Sequence[Desk], places: dict[str, Place]) -> None:
        self.replicas, self.places = replicas, places

    @property
    def all_runs(self) -> int:
        return sum(place.runs for place in self.places.values())

    async def nothing_held(self) -> None:
        async def all_back() -> bool:
            return not any(place.held for place in self.places.values())

        await eventually(all_back)


@asynccontextmanager
async def world_on(folder: Path, store: str, replicas: int = 2) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        places = {name: await stack.enter_async_context(place(name, **terms)) for name, terms in KINDS.items()}
        settings: dict[str, Any] = {
            "store": store,
            "sites": {name: {"url": p.wire.url, "poll": 0.2, "timeout": 5.0} for name, p in places.items()},
            "acceptance": {"forward": 2.0, "patience": 2.0},
            "fanout": {"deadline": 3.0},
        }
        desks = [
            await stack.enter_async_context(opened(folder / str(n), "federation", **settings)) for n in range(replicas)
        ]
        for desk in desks:
            await desk.live(*places)
        yield World(desks, places)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    want("redis-server", "redis-server")
    server = RedisServer(tmp_path_factory.mktemp("redis"), *DURABLE).start()
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    want("redis-server", "redis-server")
    server = RedisServer(tmp_path / "redis", *DURABLE).start()
    yield server
    server.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with world_on(tmp_path_factory.mktemp("world"), redis.url) as world:
        yield world


async def test_of_two_offers_accepted_at_the_same_instant_on_two_replicas_one_is_taken(world: World) -> None:
    one, two = world.replicas
    for _ in range(5):
        first, second = await one.offers()
        runs = world.all_runs
        answers = await asyncio.gather(one.accept(first), two.accept(second))
        assert sorted(answer.status for answer in answers) == [200, 409]
        won, lost = (first, second) if answers[0].status == 200 else (second, first)
        assert await two.until(won) == "COMPLETED"
        assert await one.until(lost) == "REJECTED"
        assert world.all_runs == runs + 1
    await world.nothing_held()


async def test_one_key_sent_twice_at_once_to_two_replicas_makes_one_set(world: World) -> None:
    asked = len(world.places["plain"].site.seen("quote"))
    key = {"Idempotency-Key": str(uuid4())}
    answers = await asyncio.gather(*(desk.send("POST", "/requests", REQUEST, **key) for desk in world.replicas))
    assert {answer.status for answer in answers} <= {303, 409}
    again = [await desk.send("POST", "/requests", REQUEST, **key) for desk in world.replicas]
    made = {answer.json()["meta"]["uuid"] for answer in (*answers, *again) if answer.status == 303}
    assert (len(made), [answer.status for answer in again]) == (1, [303, 303])
    assert len(world.places["plain"].site.seen("quote")) == asked + 1


async def test_one_key_sent_twice_at_once_to_two_replicas_runs_once(world: World) -> None:
    runs, key = world.all_runs, {"Idempotency-Key": str(uuid4())}
    answers = await asyncio.gather(*(desk.send("POST", "/direct", REQUEST, **key) for desk in world.replicas))
    again = [await desk.send("POST", "/direct", REQUEST, **key) for desk in world.replicas]
    made = {answer.json()["meta"]["uuid"] for answer in (*answers, *again) if answer.status < 400}
    assert len(made) == 1
    assert await world.replicas[0].until(f"/sessions/{made.pop()}") == "COMPLETED"
    assert world.all_runs == runs + 1


async def test_redis_killed_and_started_again_in_the_middle(world: World, redis: RedisServer) -> None:
    one, two = world.replicas
    runs, kept, stories = world.all_runs, (await one.offers())[0], []
    assert (await one.accept(kept)).json()["phase"] != "OFFERED"
    for kind, site in world.places.items():
        path = (await one.offers(kind))[0]
        stop = site.wire.hold(b"ACCEPTED", Point.ANSWER)
        stories.append((path, stop, asyncio.create_task(one.accept(path))))
        await stop.reached()
    await asyncio.to_thread(redis.kill)
    for _, stop, _ in stories:
        stop.go_on()
    assert [(await accepting).status for _, _, accepting in stories] == [503, 503]
    for desk in (one, two):
        answer = await desk.ask()
        assert (answer.status, "Retry-After" in answer.headers) == (503, True)
    await asyncio.to_thread(redis.start)
    for path in (kept, *(path for path, _, _ in stories)):
        assert await one.until(path) == await two.until(path) == "COMPLETED"
    assert world.all_runs == runs + 3
    assert (await two.ask()).json()["result"] == "YES"


async def test_a_redis_that_hangs_is_not_waited_for_without_end(world: World, redis: RedisServer) -> None:
    one, two = world.replicas
    path = (await one.offers("plain"))[0]
    redis.pause()
    try:
        answers = await asyncio.gather(one.accept(path), two.ask("plain"), two.send("GET", path))
        assert [answer.status for answer in answers] == [503, 503, 503]
    finally:
        redis.resume()

    async def taken() -> bool:
        return (await two.accept(path)).status == 200

    await eventually(taken)
    assert await two.until(path) in ("COMPLETED", "REJECTED")


@pytest.mark.parametrize("word", [b"CLAIMED", b"TAKEN"])
async def test_a_reply_of_redis_that_is_cut_off_applies_nothing_twice(
    redis: RedisServer, world: World, tmp_path: Path, word: bytes
) -> None:
    """`CLAIMED` and `TAKEN` are what the lists say of a set when it is claimed, and when it is taken."""
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(Proxy("127.0.0.1", redis.port))
        sites = {name: {"url": p.wire.url, "poll": 0.2, "timeout": 5.0} for name, p in world.places.items()}
        store, limits = f"redis://{wire.address[0]}:{wire.address[1]}", {"forward": 2.0, "patience": 2.0}
        desk = await stack.enter_async_context(opened(tmp_path, store=store, sites=sites, acceptance=limits))
        await desk.live(*sites)
        runs = world.all_runs
        paths = [(await desk.offers(kind))[0] for kind in KINDS]
        for path in paths:
            stop = wire.cut(word, Point.ANSWER)
            answer = await desk.accept(path)
            await stop.reached()
            assert answer.status in (200, 503)
        ends = [await world.replicas[0].until(path) for path in paths]
        assert world.all_runs == runs + ends.count("COMPLETED")
        assert set(ends) <= ({"COMPLETED"} if word == b"TAKEN" else {"COMPLETED", "REJECTED"})


@pytest.mark.faults
async def test_what_a_dead_and_a_frozen_replica_had_in_hand_the_third_brings_to_its_end(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    """The frozen one wakes when all is over, with an answer in its hand that was overtaken long ago."""
    async with world_on(tmp_path, own_redis.url, replicas=3) as world:
        dead, frozen, third = world.replicas
        stories = []
        for desk, kind in ((dead, "plain"), (dead, "ours"), (frozen, "plain"), (frozen, "ours")):
            path = (await desk.offers(kind))[0]
            stop = world.places[kind].wire.hold(b"ACCEPTED", Point.ANSWER)
            stories.append((path, stop, asyncio.create_task(desk.accept(path))))
            await stop.reached()
        dead.program.kill()
        os.kill(frozen.program.pid, signal.SIGSTOP)
        try:
            assert [await third.until(path) for path, _, _ in stories] == ["COMPLETED"] * 4
        finally:
            os.kill(frozen.program.pid, signal.SIGCONT)
        for _, stop, _ in stories:
            stop.go_on()
        answers = await asyncio.gather(*(task for _, _, task in stories), return_exceptions=True)
        assert [isinstance(answer, aiohttp.ClientError) for answer in answers[:2]] == [True, True]
        assert [await frozen.phase(path) for path, _, _ in stories] == ["COMPLETED"] * 4
        assert world.all_runs == 4
        await world.nothing_held()


@pytest.mark.faults
async def test_a_failover_of_redis_loses_no_acknowledged_acceptance(tmp_path: Path) -> None:
    want("redis-server", "redis-server")
    want("redis-sentinel", "redis-sentinel")
    sentinels = Sentinels(tmp_path / "redis", *DURABLE)
    try:
        await asyncio.to_thread(sentinels.start)
        async with world_on(tmp_path, f"{sentinels.url}?replicas=1") as world:
            one, two = world.replicas
            acknowledged = []
            for _ in range(6):
                path = (await one.offers())[0]
                if (await two.accept(path)).json()["phase"] != "OFFERED":
                    acknowledged.append(path)
            path = (await one.offers("plain"))[0]
            stop = world.places["plain"].wire.hold(b"ACCEPTED", Point.ANSWER)
            accepting = asyncio.create_task(one.accept(path))
            await stop.reached()
            old = await asyncio.to_thread(sentinels.kill_master)
            stop.go_on()
            assert (await accepting).status in (200, 503)
            await asyncio.to_thread(sentinels.wait_failover, old)
            assert (await two.ask()).status == 503  # nobody is there to confirm
            await asyncio.to_thread(sentinels.rejoin, old)

            async def works() -> bool:
                return (await two.ask()).status == 303

            await eventually(works)
            assert len(acknowledged) == 6
            assert [await one.until(path) for path in (*acknowledged, path)] == ["COMPLETED"] * 7
            assert world.all_runs == 7
    finally:
        await asyncio.to_thread(sentinels.stop)
