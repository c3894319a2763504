"""The store for a fleet of brokers: aggregates, timers and lists in a Redis 7. Imports ports, errors and its sisters.

An aggregate lives in one slot of a Cluster, and each change of it is one script (`redis_scripts`).
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager

from redis.exceptions import RedisError

from broker.errors import SettingsError, Unavailable
from broker.ports import Clock, Lease, Listing, Query, Stored, Timer, Whole
from broker.store import redis_scripts as scripts
from broker.store.redis_calendar import RedisCalendar
from broker.store.redis_durability import warn, weak_points
from broker.store.redis_limits import RedisLimits
from broker.store.redis_lists import counts, packed, page, unpacked
from broker.store.redis_news import News
from broker.store.redis_nodes import PARTITIONS, Address, Arg, Nodes, partition_of
from broker.store.redis_schema import bring_forward, check_data, check_server
from broker.store.redis_trouble import refused, told

PRUNE_STEP = 200  # bodies dropped by one script: other work goes between


async def open_redis(address: Address, clock: Clock | None = None) -> RedisStore:
    """The store at that address, its data brought up to date. `clock` judges leases and ages; None: the server's own,
    which is the same for all brokers.

    Raises SettingsError where the server refuses us, is too old or not what the address says; Unavailable where it
    does not answer now. Logs a warning for each setting of the server that may lose what was acknowledged."""
    async with _begun(address) as nodes:
        await bring_forward(nodes)
        await warn(nodes)
        return RedisStore(nodes, clock)


async def inspect_redis(address: Address) -> list[str]:
    """What the settings of the servers may lose, each with the server's name. Changes nothing. Raises as
    `open_redis`."""
    async with _begun(address) as nodes:
        await check_data(nodes)
        found = await weak_points(nodes)
        await nodes.close()
        return found


@asynccontextmanager
async def _begun(address: Address) -> AsyncIterator[Nodes]:
    """Servers that are what the address says; closed again where what is done with them fails."""
    nodes = Nodes(address)
    try:
        await check_server(nodes)
        yield nodes
    except Unavailable as error:
        await nodes.close()
        cause = error.__cause__
        why = Unavailable(f"{error.detail.rstrip('.')}: {told(cause)}.") if cause else error
        raise (refused(cause) or why) from error
    except RedisError as error:  # such as a database that it does not have
        await nodes.close()
        answer = told(error).replace(address.password or "\0", "…")  # "unknown command" goes on with what was sent
        raise SettingsError(f"the server does not do what a broker asks for: {answer}.", key="store") from error
    except BaseException:
        await nodes.close()
        raise


class RedisStore:
    """The Backend port, on a Redis that other brokers use too."""

    shared = True

    def __init__(self, nodes: Nodes, clock: Clock | None) -> None:
        self.calendar = RedisCalendar(nodes, clock)
        self.limits = RedisLimits(nodes, clock)
        self.nodes = nodes
        self._clock = clock
        self._origin = secrets.token_hex(4)

    async def now(self) -> float:
        if self._clock is not None:
            return self._clock.now()
        seconds, micros = await self.nodes.command(0, "TIME")
        return int(seconds) + int(micros) / 1e6

    async def read(self, aggregate: str) -> Stored | None:
        at = partition_of(aggregate)
        version, record = await self.nodes.command(at, "HMGET", f"{self.nodes.roots[at]}:a:{aggregate}", "v", "r")
        return None if version is None else Stored(int(version), record)

    async def body(self, aggregate: str) -> bytes | None:
        at = partition_of(aggregate)
        body: bytes | None = await self.nodes.command(at, "GET", f"{self.nodes.roots[at]}:b:{aggregate}")
        return body

    async def write(
        self,
        aggregate: str,
        version: int,
        record: bytes,
        *,
        body: bytes | None = None,
        timers: Mapping[str, float | None] | None = None,
        listings: Sequence[Listing] = (),
        cut: Sequence[tuple[str, str]] = (),
    ) -> bool:
        args: list[Arg] = [self._given(), _operation(), self._origin, aggregate, version, record]
        args.append(len(timers or {}))
        for key, due in (timers or {}).items():
            args += (key, "" if due is None else _time(due))
        args.append(len(cut))
        for kind, id in cut:
            args += (kind, id)
        lines = {(line.kind, line.id): packed(aggregate, line) for line in listings}  # of equal ones the last
        args.append(len(lines))
        for (kind, id), line in lines.items():
            args += (kind, id, line)
        if body is not None:
            args.append(body)
        return bool(await self.nodes.run(scripts.WRITE, partition_of(aggregate), *args, confirm=True))

    async def remove(self, aggregate: str, version: int) -> bool:
        args = (_operation(), self._origin, aggregate, version)
        return bool(await self.nodes.run(scripts.REMOVE, partition_of(aggregate), *args, confirm=True))

    async def claim(self, limit: int, lease: float) -> list[Lease]:
        leases: list[Lease] = []
        numbers, trouble = set(PARTITIONS), None
        # Another may be faster at what was just seen to be due; then there is perhaps more elsewhere.
        while len(leases) < limit and (due := await self._due(limit - len(leases), numbers)):
            try:
                leases += await self._claim(due, lease)
            except Unavailable as error:
                # Servers of a Cluster that can be read and take no writes: the timers of the others come all the same,
                # and what is claimed already does not wait any longer.
                trouble = error
                if leases:
                    break
                numbers = {n for lot in await self.nodes.apart(numbers) if due.keys().isdisjoint(lot) for n in lot}
        if trouble is not None and not leases:
            raise trouble
        return sorted(leases, key=lambda lease: lease.due)

    async def _due(self, limit: int, numbers: Collection[int]) -> Counter[int]:
        """How many of the timers that have been ready for longest are in which of those partitions."""
        ready: list[tuple[float, int]] = []
        # A part of a Cluster that is gone holds up its own timers alone.
        replies = await self.nodes.each(scripts.DUE, self._given(), limit, numbers=numbers, partly=True)
        for group, rows in zip(self.nodes.groups(numbers), (reply or () for reply in replies), strict=True):
            ready += ((float(at), group[place - 1]) for place, at in zip(rows[::2], rows[1::2], strict=True))
        return Counter(number for _, number in sorted(ready)[:limit])

    async def _claim(self, due: Mapping[int, int], lease: float) -> list[Lease]:
        # Not confirmed: a lease that a failover forgets is one that ended early, and the token still fences.
        token = _operation()
        own = {number: (many,) for number, many in due.items()}
        replies = await self.nodes.each(scripts.CLAIM, self._given(), lease, token, numbers=own, own=own, partly=True)
        rows = [text.decode() for reply in replies for text in reply or ()]
        return [
            Lease(aggregate, key, float(at), token)
            for aggregate, key, at in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
        ]

    async def done(self, lease: Lease) -> bool:
        return await self._settle(lease, "done", "")

    async def postpone(self, lease: Lease, due: float) -> bool:
        return await self._settle(lease, "postpone", _time(due))

    async def renew(self, lease: Lease, seconds: float) -> bool:
        return await self._settle(lease, "renew", seconds)

    async def _settle(self, lease: Lease, what: str, value: Arg) -> bool:
        # Not confirmed: a timer that a failover brings back comes once more, and its handler is idempotent.
        args = (self._given(), _operation(), lease.aggregate, lease.key, lease.token, what, value)
        return bool(await self.nodes.run(scripts.SETTLE, partition_of(lease.aggregate), *args))

    async def next_due(self) -> float | None:
        found = [float(at) for at in await self.nodes.each(scripts.NEXT_DUE, partly=True) if at is not None]
        return min(found, default=None)

    async def listings(self, query: Query) -> list[Listing]:
        return await page(self.nodes, query)

    async def counts(self) -> Mapping[tuple[str, str, str], int]:
        return await counts(self.nodes)

    async def keys(self, cursor: str = "", limit: int = 100) -> tuple[list[str], str]:
        number, _, at = (cursor or "0 0").partition(" ")
        partition = int(number)
        found: list[bytes] = []
        while True:
            root = self.nodes.roots[partition]
            at, piece = await self.nodes.command(partition, "SSCAN", f"{root}:keys", at, "COUNT", max(1, limit))
            found += piece
            at = at.decode()
            if at == "0":
                partition += 1
            over = partition == len(self.nodes.roots)
            if over or len(found) >= limit:
                return [key.decode() for key in found], "" if over else f"{partition} {at}"

    async def whole(self, aggregate: str) -> Whole | None:
        told = await self.nodes.run(scripts.WHOLE, partition_of(aggregate), self._given(), aggregate)
        if told is None:
            return None
        version, record, timers, lines = told
        return Whole(
            int(version),
            record,
            {
                key.decode(): Timer(float(due), bool(leased))
                for key, due, leased in zip(timers[::3], timers[1::3], timers[2::3], strict=True)
            },
            tuple(
                unpacked(kind.decode(), id, line)
                for kind, id, line in zip(lines[::3], lines[1::3], lines[2::3], strict=True)
            ),
        )

    async def prune_bodies(self, before: float) -> int:
        pruned = 0
        while step := sum(await self.nodes.each(scripts.PRUNE, _operation(), before, PRUNE_STEP)):
            pruned += step
        return pruned

    async def follow(self, watched: Callable[[], Collection[str]], ring: Callable[[str], None]) -> None:
        await News(self.nodes, self._origin).follow(watched, ring)

    async def ping(self) -> None:
        """Writes at every server, and wants it confirmed as any write."""
        for number in await self.nodes.spread():
            await self.nodes.run(scripts.BEAT, number, self._given(), confirm=True)

    async def close(self) -> None:
        await self.nodes.close()

    def _given(self) -> Arg:
        """What a script is told of the time."""
        return "" if self._clock is None else self._clock.now()


def _operation() -> str:
    """Tells one change from every other, and from its own repetition."""
    return secrets.token_hex(8)


def _time(due: float) -> float:
    """A script that failed in the middle would leave half a change."""
    if math.isnan(due):
        raise ValueError("a timer is due at no time")
    return float(due)
