"""Scripts and commands at the servers of a Redis, whatever they are: one, under Sentinels, a Cluster.

All keys of a partition begin with its *root*, such as `{broker:3f}`, whose braces keep them in one slot of a Cluster.
A script is given roots as its KEYS and makes its keys from them; and one more that its prelude takes off again, a key
that is never there. While a slot is on its way to another node, half of its keys are gone; a node then refuses what
names two keys of which one is missing (TRYAGAIN), and else would run the script on the other half.
Imports redis-py, errors, domain and its sisters.

redis-py is used for connections alone. Its own repeating is off: it cannot know what may be repeated. Here all is
repeated whose answer was lost, within `patience`; so a script that changes something is told an operation id by its
caller and recognises what it has done already.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection, BlockingConnectionPool, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, NoPermissionError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from broker.domain.identity import partition
from broker.errors import Unavailable, Unconfirmed
from broker.store.redis_address import Address, Endpoint, parse
from broker.store.redis_maps import ClusterMap, Map, PlainMap, SentinelMap
from broker.store.redis_trouble import passing, told, unavailable

_log = structlog.get_logger(__name__)

__all__ = ["PARTITIONS", "Address", "Nodes", "Script", "parse", "partition_of"]

PARTITIONS = range(256)

Arg = str | bytes | int | float
Command = tuple[Arg, ...]

CONNECTIONS = 64  # to each server; whoever finds none free waits
# Of the timeout, what replicas get to confirm a write. Twice fits into it: a script that the server does not know yet
# is sent, and waited for, once more.
CONFIRMATION = 0.4
SHORTEST, LONGEST = 0.02, 0.25  # seconds between repetitions
SAY_EVERY = 5.0  # seconds between two lines of the log that say that the servers are away

_TAIL = re.compile("[0-9a-f]{24}")


def partition_of(key: str) -> int:
    """0 to 255. Keys of sets and sessions carry it (docs/adr/0004); that of any other text is a byte of its hash."""
    if _TAIL.fullmatch(key):
        return partition(key)
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=1).digest()[0]


class Script:
    """Lua that runs wholly or not at all. `flags` are the server's: `no-writes` for one that only reads, `allow-oom`
    for one that frees memory. Any other is refused before its first write when the memory is full, when the server is
    a replica, and when it has too few of them.

    `now(given)` is there for all: the time that the caller gave, else the server's own."""

    PRELUDE = """
    KEYS[#KEYS] = nil
    local function now(given)
        if given ~= '' then return tonumber(given) end
        local time = redis.call('TIME')
        return tonumber(time[1]) + tonumber(time[2]) / 1000000
    end
    """

    def __init__(self, body: str, *flags: str) -> None:
        declared = f" flags={','.join(flags)}" if flags else ""
        self.text = f"#!lua{declared}\n{self.PRELUDE}{body}"
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class _Call:
    """What goes to one slot: a command or a script, and the WAIT after it. `trouble`: why there is no reply yet."""

    def __init__(self, slot: int, command: Command, script: Script | None = None, wait: Command | None = None) -> None:
        self.slot = slot
        self.commands = [command] if wait is None else [command, wait]
        self.script = script
        self.replies: list[Any] = []
        self.trouble: Exception | None = None

    def settle(self, replies: list[Any]) -> None:
        self.replies = replies
        self.trouble = next((reply for reply in replies if isinstance(reply, Exception)), None)


def _trouble(call: _Call) -> Exception:
    assert call.trouble is not None  # noqa: S101 - of a call that is still to be answered
    return call.trouble


class Nodes:
    """The way to the servers. All methods raise Unavailable when they do not answer, within about `patience` seconds
    and one timeout; a change may then be made all the same. Safe to cancel: what was sent is then waited for in the
    background, so no connection is given back in the middle of an answer."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.roots = tuple(f"{{{address.prefix}:{number:02x}}}" for number in PARTITIONS)
        self.patience = 4.0 if address.clustered or address.watched else 2.0  # a failover takes 1 to 3
        self.troubles = 0  # so many times had something to be repeated; a failover, which may lose data, is one
        self._slots = tuple(key_slot(root.encode()) for root in self.roots)
        self._map: Map = _map(address)
        self._pools: dict[Endpoint, BlockingConnectionPool] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._said, self._unsaid = -math.inf, 0  # when the log was last told of trouble, and troubles since
        self._closed = False

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, script: Script, number: int, *args: Arg, confirm: bool = False) -> Any:
        """What the script returns, with the root of partition `number` as KEYS[1] and `args` as ARGV.

        `confirm`: as many replicas as the address wants have it. A script that is confirmed returns 0 where it wrote
        nothing, and writes *something* where it finds that it has been done already: WAIT speaks of what this very
        connection wrote last, and the repetition goes over another one. Raises Unconfirmed when it is written, but
        too few confirm."""
        replicas = self.address.replicas if confirm else 0
        wait = ("WAIT", replicas, int(self.address.timeout * CONFIRMATION * 1000)) if replicas else None
        call = _Call(self._slots[number], _evaluation(script, [self.roots[number]], args), script, wait)
        await self._serve([call])
        if replicas and call.replies[0] != 0 and call.replies[1] < replicas:
            raise Unconfirmed(
                f"the store has written it, but {call.replies[1]} of {replicas} replicas confirm that they have it.",
                remedy="Repeat it; if this stays so, look at the store's replicas.",
            )
        return call.replies[0]

    async def command(self, number: int, *command: Arg) -> Any:
        """A plain command on keys of partition `number`; one that may be repeated."""
        call = _Call(self._slots[number], command)
        await self._serve([call])
        return call.replies[0]

    async def each(
        self,
        script: Script,
        *args: Arg,
        numbers: Iterable[int] = PARTITIONS,
        own: Mapping[int, Sequence[Arg]] | None = None,
        partly: bool = False,
    ) -> list[Any]:
        """One reply for each group of partitions that a script may see at once (`groups`), in that order. A script
        finds the roots of its group in KEYS, and in ARGV first `args`, then what is each partition's `own`. `partly`:
        as `together`."""
        groups = self.groups(numbers)
        mine = [[arg for number in group for arg in own[number]] if own else [] for group in groups]
        asked = [(group, [*args, *some]) for group, some in zip(groups, mine, strict=True)]
        return await self.together(script, asked, partly=partly)

    async def together(
        self, script: Script, asked: Sequence[tuple[Sequence[int], Sequence[Arg]]], *, partly: bool = False
    ) -> list[Any]:
        """One reply for each of `asked`, partitions and ARGV, in that order; all that goes to one server goes at
        once. Not atomic: some may be done when this raises. `partly`: where some servers answer and others do not, as
        when a part of a Cluster is gone, the reply of those is None."""
        calls = []
        for numbers, args in asked:
            keys = [self.roots[number] for number in numbers]
            calls.append(_Call(self._slots[numbers[0]], _evaluation(script, keys, args), script))
        await self._serve(calls, partly=partly)
        return [None if call.trouble else call.replies[0] for call in calls]

    def groups(self, numbers: Iterable[int] = PARTITIONS) -> list[list[int]]:
        """One server: all together. A Cluster: each partition alone, as a script may see one slot only."""
        numbers = list(numbers)
        return [[number] for number in numbers] if self.address.clustered else [numbers] if numbers else []

    async def spread(self) -> list[int]:
        """One partition of each server that takes writes."""
        found: dict[Endpoint, int] = {}
        await self._serve([_Call(self._slots[0], ("PING",))])  # learns who they are
        for number in PARTITIONS:
            try:
                found.setdefault(await self._map.find(self._slots[number]), number)
            except (RedisError, OSError) as error:
                raise unavailable(error) from error
        return list(found.values())

    async def apart(self, numbers: Iterable[int]) -> list[list[int]]:
        """Those partitions by the server that serves them, as far as is known: whoever asks for each such lot by itself
        gets an answer from the others while one is down."""
        lots: dict[Endpoint | None, list[int]] = {}
        for number in numbers:
            try:
                holder = await self._map.find(self._slots[number])
            except (RedisError, OSError):
                holder = None  # whoever asks hears of it
            lots.setdefault(holder, []).append(number)
        return list(lots.values())

    async def everywhere(self, *command: Arg) -> dict[Endpoint, Any]:
        """The replies of every server that takes writes, errors that they answered with among them."""
        await self._serve([_Call(self._slots[0], ("PING",))])  # learns who they are
        endpoints = self._map.endpoints()
        calls = [_Call(-1, command) for _ in endpoints]
        await self._go([self._exchange(at, [call]) for at, call in zip(endpoints, calls, strict=True)])
        for call in calls:
            if call.trouble is not None and not isinstance(call.trouble, ResponseError):
                raise unavailable(call.trouble) from call.trouble
        return {at: call.replies[0] for at, call in zip(endpoints, calls, strict=True)}

    async def close(self) -> None:
        """Idempotent. What is under way may end first."""
        self._closed = True
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=self.address.timeout)
        for pool in self._pools.values():
            await pool.disconnect()
        await self._map.close()

    # ── repeating ────────────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, calls: Sequence[_Call], *, partly: bool = False) -> None:
        """Returns when each has its replies, or `partly` when some have; what has none is asked for again, as long as
        that may help."""
        loop = asyncio.get_running_loop()
        until, pause, asked = loop.time() + self.patience, 0.0, calls
        while calls := await self._unanswered(calls, until):
            lasting = [call for call in calls if not passing(_trouble(call))]
            trouble = _trouble((lasting or calls)[0])
            if lasting or loop.time() + pause > until:
                if partly and any(call.trouble is None for call in asked):
                    return
                if not lasting:
                    self._say(trouble)
                raise unavailable(trouble) from trouble
            await asyncio.sleep(pause)
            pause = min(max(2 * pause, SHORTEST), LONGEST)
            await self._look_again(trouble, until)

    def _say(self, trouble: Exception) -> None:
        """In the log, now and then: while the servers are away each call to each replica would be a line."""
        now = asyncio.get_running_loop().time()
        self._unsaid += 1
        if now >= self._said + SAY_EVERY:
            _log.warning("store not reached", why=told(trouble), times=self._unsaid)
            self._said, self._unsaid = now, 0

    async def _unanswered(self, calls: Sequence[_Call], until: float) -> list[_Call]:
        """Ask once, all servers side by side. Returns those that have no answer yet."""
        if self._closed:
            raise Unavailable("the store is closed.")
        try:
            by_node: dict[Endpoint, list[_Call]] = {}
            async with asyncio.timeout_at(until):
                for call in calls:
                    by_node.setdefault(await self._map.find(call.slot), []).append(call)
        except (RedisError, OSError) as error:
            for call in calls:
                call.trouble = error
        else:
            await self._go([self._exchange(endpoint, some) for endpoint, some in by_node.items()])
        return [call for call in calls if call.trouble is not None]

    async def _look_again(self, trouble: Exception, until: float) -> None:
        """Who holds what may have changed; where that cannot be learnt now, the old map serves on."""
        self.troubles += 1
        with contextlib.suppress(RedisError, OSError):
            async with asyncio.timeout_at(until):
                await self._map.refresh(trouble)
        for endpoint in self._pools.keys() - set(self._map.endpoints()):
            if not self._under_way and (pool := self._pools.pop(endpoint, None)):
                await pool.disconnect()

    # ── one exchange ─────────────────────────────────────────────────────────────────────────────────────────

    async def _go(self, exchanges: Sequence[Any]) -> None:
        """Run to the end even when the caller is cancelled: an answer read half would be taken for the next one's."""
        tasks = [asyncio.ensure_future(exchange) for exchange in exchanges]
        for task in tasks:
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        for task in tasks:
            await asyncio.shield(task)

    async def _exchange(self, endpoint: Endpoint, calls: Sequence[_Call]) -> None:
        """Never raises: each call gets its replies or its trouble."""
        try:
            async with self._connection(endpoint) as connection:
                await _converse(connection, calls)
        except (RedisError, OSError) as error:
            for call in calls:
                call.trouble = error
        for call in calls:
            if isinstance(call.trouble, AskError) and call.trouble.status_code == "ASK":
                await self._ask(call, call.trouble)

    async def _ask(self, call: _Call, told: AskError) -> None:
        """The slot is on its way to another node, which serves this one call."""
        try:
            async with self._connection((told.host, told.port)) as connection:
                await _send(connection, [("ASKING",)])
                await _converse(connection, [call])
        except (RedisError, OSError) as error:
            call.trouble = error

    @contextlib.asynccontextmanager
    async def _connection(self, endpoint: Endpoint) -> AsyncIterator[AbstractConnection]:
        """All that is sent within goes over one connection; one that failed in the middle is not used again."""
        pool = self._pool(endpoint)
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py types a part of itself
        whole = False
        try:
            async with asyncio.timeout(self.address.timeout):
                yield connection
            whole = True
        finally:
            if not whole:
                await connection.disconnect(nowait=True)
            await pool.release(connection)

    def _pool(self, endpoint: Endpoint) -> BlockingConnectionPool:
        if endpoint not in self._pools:
            self._pools[endpoint] = BlockingConnectionPool(
                max_connections=CONNECTIONS,
                timeout=self.address.timeout,
                connection_class=SSLConnection if self.address.tls else Connection,
                host=endpoint[0],
                port=endpoint[1],
                redis_connect_func=None if self.address.clustered else _greet_master,
                **options(self.address),
            )
        return self._pools[endpoint]


def options(address: Address) -> dict[str, Any]:
    """How redis-py connects to any server of this address."""
    return {
        "db": address.database,
        "username": address.username or None,
        "password": address.password or None,
        "socket_timeout": address.timeout,
        "socket_connect_timeout": min(1.0, address.timeout),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }


def _map(address: Address) -> Map:
    if address.clustered:
        return ClusterMap(address.hosts, options(address))
    if address.watched:
        return SentinelMap(address.hosts, address.master, address.timeout)
    return PlainMap(address.hosts[0])


def _evaluation(script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Command:
    return ("EVALSHA", script.sha, len(keys) + 1, *keys, f"{keys[0]}:never", *args)


async def _greet_master(connection: AbstractConnection) -> None:
    """A replica answers reads too, from the past: a server that was made one must not be taken for the master."""
    await connection.on_connect()
    await connection.send_command("ROLE")
    try:
        role = await connection.read_response()
    except NoPermissionError:
        return
    if role[0] != b"master":
        raise ReadOnlyError("this server is a replica", status_code="READONLY")


async def _converse(connection: AbstractConnection, calls: Sequence[_Call]) -> None:
    """Send all calls and take their replies, after teaching the server the scripts that it does not know."""
    await _take(connection, calls)
    unknown = [call for call in calls if isinstance(call.trouble, NoScriptError)]
    if unknown:
        texts = {call.script.text for call in unknown if call.script is not None}
        await _send(connection, [("SCRIPT", "LOAD", text) for text in texts])
        await _take(connection, unknown)


async def _take(connection: AbstractConnection, calls: Sequence[_Call]) -> None:
    replies = iter(await _send(connection, [command for call in calls for command in call.commands]))
    for call in calls:
        call.settle([next(replies) for _ in call.commands])


async def _send(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    """The replies in order; those that are errors as the exceptions that redis-py makes of them."""
    await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(await connection.read_response(timeout=math.inf))  # the caller's timeout holds
        except ResponseError as error:
            replies.append(error)
    return replies
