"""Which server holds which slot of a Redis: one, the master that Sentinels name, or the nodes of a Cluster.

redis-py has a Cluster client of its own, but no way to send WAIT over the connection that wrote. Imports redis-py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, MovedError, RedisError

from broker.store.redis_address import Endpoint

SLOTS = 16384


class Map(Protocol):
    """All methods raise redis-py's errors, or OSError."""

    async def find(self, slot: int) -> Endpoint:
        """Who takes writes for `slot`, as far as is known."""

    async def refresh(self, trouble: Exception) -> None:
        """Learn anew who holds what, after that trouble."""

    def endpoints(self) -> tuple[Endpoint, ...]:
        """All that take writes, as far as is known."""

    async def close(self) -> None: ...


class PlainMap:
    """One server."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def find(self, slot: int) -> Endpoint:
        return self._endpoint

    async def refresh(self, trouble: Exception) -> None:
        """It stays where it is."""

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (self._endpoint,)

    async def close(self) -> None:
        """Holds nothing."""


class SentinelMap:
    """The master that the Sentinels name. They are asked at first, and again after every trouble."""

    def __init__(self, sentinels: Sequence[Endpoint], master: str, timeout: float) -> None:
        limits = {"socket_timeout": timeout, "socket_connect_timeout": min(1.0, timeout)}
        kind = {"retry": Retry(NoBackoff(), 0), "protocol": 2, "driver_info": None}
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py types a part of itself
            list(sentinels), sentinel_kwargs={**limits, **kind}
        )
        self._master = master
        self._found: Endpoint | None = None
        self._turn = asyncio.Lock()

    async def find(self, slot: int) -> Endpoint:
        return self._found or await self._discover(None)

    async def refresh(self, trouble: Exception) -> None:
        await self._discover(self._found)

    async def _discover(self, known: Endpoint | None) -> Endpoint:
        async with self._turn:
            if self._found is None or self._found == known:  # else another has just looked
                host, port = await self._sentinel.discover_master(self._master)
                self._found = (str(host), int(port))
            return self._found

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (self._found,) if self._found else ()

    async def close(self) -> None:
        for sentinel in self._sentinel.sentinels:
            await sentinel.aclose()


class ClusterMap:
    """Every slot's master, by CLUSTER SLOTS from whichever node answers first."""

    def __init__(self, seeds: Sequence[Endpoint], options: dict[str, Any]) -> None:
        self._seeds = tuple(seeds)
        self._options = options
        self._masters: list[Endpoint | None] = []
        self._known: tuple[Endpoint, ...] = ()
        self._looks = 0
        self._turn = asyncio.Lock()

    async def find(self, slot: int) -> Endpoint:
        if not self._masters:
            await self._look(self._looks, ())
        found = self._masters[slot] if self._masters else None  # none: another has just looked in vain
        if found is None:
            raise ClusterDownError("no node serves this slot", status_code="CLUSTERDOWN")
        return found

    async def refresh(self, trouble: Exception) -> None:
        first = ((trouble.host, trouble.port),) if isinstance(trouble, MovedError) else ()
        await self._look(self._looks, first)

    def endpoints(self) -> tuple[Endpoint, ...]:
        return self._known

    async def close(self) -> None:
        """Its connections end with each look."""

    async def _look(self, looks: int, first: Sequence[Endpoint]) -> None:
        async with self._turn:
            if looks != self._looks:  # another has just looked
                return
            self._looks += 1
            last: Exception = ClusterDownError("no node of the Cluster answers", status_code="CLUSTERDOWN")
            for endpoint in dict.fromkeys((*first, *self._known, *self._seeds)):
                try:
                    self._learn(endpoint, await self._slots(endpoint))
                except (RedisError, OSError) as error:
                    last = error
                else:
                    return
            raise last

    async def _slots(self, endpoint: Endpoint) -> Any:
        client = Redis(host=endpoint[0], port=endpoint[1], single_connection_client=True, **self._options)
        try:
            return await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]  # as above
        finally:
            with contextlib.suppress(RedisError, OSError):
                await client.aclose()

    def _learn(self, asked: Endpoint, ranges: Any) -> None:
        masters: list[Endpoint | None] = [None] * SLOTS
        for first, last, master, *_ in ranges:
            # An empty host: the one that was asked.
            endpoint = ((master[0] or b"").decode() or asked[0], int(master[1]))
            masters[first : last + 1] = [endpoint] * (last + 1 - first)
        self._masters = masters
        self._known = tuple(sorted({endpoint for endpoint in masters if endpoint}))
