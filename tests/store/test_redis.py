"""The Redis store holds the contract, on one server and on a Cluster, also when every answer is lost at first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from redis.asyncio import Redis, RedisCluster

from broker.ports import Store
from broker.store.redis import RedisStore, open_redis
from broker.store.redis_nodes import Nodes, parse, partition_of
from broker.testing.clock import FakeClock
from broker.testing.stores import OpenStore, Peek, StoreContract

Client = Redis | RedisCluster


class RedisContract(StoreContract):
    """Override `url` and `client`."""

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError("return the address of a server")

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[Client]:
        raise NotImplementedError("yield a client that reads past the store")
        yield  # noqa: PT022 - makes it the generator that the children's are

    @pytest.fixture
    async def open_store(self, url: str, client: Client, clock: FakeClock) -> AsyncIterator[OpenStore]:
        self.client = client
        address = parse(f"{url}{'&' if '?' in url else '?'}prefix={uuid4().hex}")
        async with AsyncExitStack() as stack:

            async def open_one() -> Store:
                store = await open_redis(address, clock)
                stack.push_async_callback(store.close)
                return self.spoilt(store)

            yield open_one

    def spoilt(self, store: RedisStore) -> Store:
        return store

    async def peek(self, store: Store, aggregate: str) -> Peek | None:
        assert isinstance(store, RedisStore)
        root = store.nodes.roots[partition_of(aggregate)]
        fields = await self.client.hgetall(f"{root}:a:{aggregate}")
        body = await self.client.get(f"{root}:b:{aggregate}")
        ready = dict(await self.client.zrange(f"{root}:timers", 0, -1, withscores=True))
        of_timers, of_lines = await self._leftovers(root, aggregate)
        if not fields:
            assert (body, of_timers, of_lines) == (None, set(), {}), "parts of an aggregate that is not there"
            return None
        timers = {key[2:].decode(): float(text.split()[0]) for key, text in fields.items() if key[:2] == b"t:"}
        owned = {key.split(b":", 2)[2][7:].decode() for key in fields if key[:2] == b"l:"}
        assert (of_timers, of_lines.keys()) == (timers.keys(), owned), "what scripts look up is what the aggregate has"
        assert len(ready) >= len(timers)
        return Peek(int(fields[b"v"]), fields[b"r"], body, timers, of_lines)

    async def _leftovers(self, root: str, aggregate: str) -> tuple[set[str], dict[str, str]]:
        """The keys of its timers and the phases of its lines (of sessions), as the partition has them."""
        begin = f"{len(aggregate.encode())}:{aggregate}".encode()
        members = await self.client.zrange(f"{root}:timers", 0, -1)
        timers = {at.removeprefix(begin).decode() for at in members if at.startswith(begin)}
        rows = await self.client.hgetall(f"{root}:lines:session")
        lines = {id.decode(): msgspec.msgpack.decode(row) for id, row in rows.items()}
        return timers, {id: row[3] for id, row in lines.items() if row[0] == aggregate}


class TestOneServer(RedisContract):
    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    async def client(self, url: str) -> AsyncIterator[Client]:
        async with Redis.from_url(url) as client:
            yield client


class TestCluster(RedisContract):
    @pytest.fixture
    def url(self, cluster_url: str) -> str:
        return f"{cluster_url}?replicas=1"

    @pytest.fixture
    async def client(self, cluster_url: str) -> AsyncIterator[Client]:
        client: RedisCluster = RedisCluster.from_url(f"redis://{cluster_url.partition('://')[2].split(',')[0]}")
        async with client:
            yield client


class LosingNodes(Nodes):
    """Loses the answer to the first try of everything: what was sent is done, and sent again."""

    async def _exchange(self, endpoint: Any, calls: Any) -> None:
        await super()._exchange(endpoint, calls)
        for call in calls:
            if call.trouble is None and not hasattr(call, "lost"):
                call.lost, call.trouble = True, ConnectionResetError("the answer was lost")


class TestLostAnswers(TestOneServer):
    """Every change is repeated, and none is made twice: the contract would see it."""

    def spoilt(self, store: RedisStore) -> Store:
        store.nodes.__class__ = LosingNodes
        return store
