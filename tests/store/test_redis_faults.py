"""What a Redis and its network do wrong: nothing acknowledged is lost, nothing is done twice or by half, and work
resumes by itself."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import Self

import pytest

from broker.errors import SettingsError, Unavailable, Unconfirmed
from broker.ports import Query
from broker.store.redis import RedisStore, open_redis
from broker.store.redis_nodes import CONNECTIONS, parse, partition_of
from broker.testing.redis_server import Cluster, RedisServer, Sentinels, wait_for
from broker.testing.store_base import line
from tests.conftest import want

DOCUMENT = Path(__file__).parents[2] / "docs/redis.md"

pytestmark = pytest.mark.usefixtures("redis_server")


@pytest.fixture(scope="session")
def openssl() -> None:
    want("openssl", "openssl")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One of our own, which may be killed."""
    server = RedisServer(tmp_path, "--repl-diskless-sync-delay", "0").start()
    yield server
    server.resume()
    server.kill()


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(parse(url))
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisStore]:
    async with opened(server.url) as store:
        yield store


async def resumed(call: Callable[[], Awaitable[bool]]) -> None:
    """Returns when the call is answered True; until then it may be Unavailable, for a bounded time."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(Unavailable):
                assert await call()
                return


# ── the server ends ──────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_acknowledged_outlives_a_kill_and_the_store_goes_on_by_itself(
    server: RedisServer, store: RedisStore
) -> None:
    acknowledged: list[str] = []

    async def write_until_it_fails(name: str) -> None:
        for number in range(100_000):
            if not await store.write(f"{name}-{number}", 0, b"R", body=b"B", listings=[line(f"{name}-{number}")]):
                return
            acknowledged.append(f"{name}-{number}")

    store.nodes.patience = 0.2
    writers = [asyncio.create_task(write_until_it_fails(name)) for name in "abcd"]
    async with asyncio.timeout(30):
        while len(acknowledged) < 200:
            await store.next_due()
    await asyncio.to_thread(server.kill)
    ends = await asyncio.gather(*writers, return_exceptions=True)
    assert [type(end) for end in ends] == [Unavailable] * 4
    with pytest.raises(Unavailable, match="cannot be reached") as trouble:
        await store.ping()
    assert trouble.value.retry_after > 0
    assert "127.0.0.1" not in trouble.value.detail  # any caller may hear that
    await asyncio.to_thread(server.start)
    assert [key for key in acknowledged if await store.read(key) is None] == []
    assert await store.write("after", 0, b"R")


async def test_a_server_that_reads_its_data_is_waited_for(server: RedisServer, store: RedisStore) -> None:
    server.cli("EVAL", "for n = 1, 12000 do redis.call('SET', 'x' .. n, n) end", "0")
    await store.write("a", 0, b"R")
    await asyncio.to_thread(server.kill)
    starting = asyncio.create_task(asyncio.to_thread(server.start, "--key-load-delay", "100"))
    store.nodes.patience = 0.05
    seen = set()
    async with asyncio.timeout(30):
        while "the store's server is still reading its data." not in seen:
            try:
                assert await store.read("a") is None, "it answered while it was loading, or was never seen to load"
            except Unavailable as trouble:
                seen.add(trouble.detail)
    await starting
    stored = await store.read("a")
    assert stored is not None


async def test_a_server_that_is_busy_with_a_long_script_is_waited_for(server: RedisServer, store: RedisStore) -> None:
    server.cli("CONFIG", "SET", "busy-reply-threshold", "20")
    loop = asyncio.create_task(asyncio.to_thread(server.cli, "EVAL", "while true do end", "0"))
    store.nodes.patience = 0.2
    seen = ""
    async with asyncio.timeout(30):
        while not seen:
            try:
                await store.read("a")
            except Unavailable as trouble:
                seen = trouble.detail
    assert seen == "the store's server is busy with a long script."
    await asyncio.to_thread(server.cli, "SCRIPT", "KILL")
    await loop
    assert await store.write("a", 0, b"R")


async def test_a_server_that_became_a_replica_is_not_written_to_nor_read_from(
    server: RedisServer, store: RedisStore
) -> None:
    assert await store.write("a", 0, b"R")
    store.nodes.patience = 0.2
    server.cli("REPLICAOF", "127.0.0.1", "1")
    server.cli("CLIENT", "KILL", "TYPE", "normal")
    for call in (store.write("a", 1, b"S"), store.read("a"), store.ping()):
        with pytest.raises(Unavailable, match="is a replica now"):
            await call
    server.cli("REPLICAOF", "NO", "ONE")
    assert await store.write("a", 1, b"S")


# ── memory ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_memory_refuses_writes_whole_and_lets_everything_be_freed(
    server: RedisServer, store: RedisStore
) -> None:
    for key in ("a", "b", "c"):
        await store.write(key, 0, b"R", body=b"B", timers={"t": 1.0, "u": 2.0}, listings=[line(key)])
    server.cli("CONFIG", "SET", "maxmemory", "1")
    before = server.cli("DEBUG", "DIGEST") or server.cli("DBSIZE"), await store.whole("a")
    changes = [
        store.write("a", 1, b"S", timers={"t": 9.0}, listings=[line("a", phase="RUNNING")]),
        store.write("new", 0, b"S", timers={"t": 9.0}, listings=[line("new")]),
        store.ping(),
    ]
    for change in changes:
        with pytest.raises(Unavailable, match="no memory left"):
            await change
    assert (server.cli("DEBUG", "DIGEST") or server.cli("DBSIZE"), await store.whole("a")) == before
    assert len(await store.listings(Query("session"))) == 3
    first, second, *_ = await store.claim(10, 60)
    assert await store.done(first)
    assert await store.renew(second, 60)
    assert await store.postpone(second, 1e10)
    assert await store.prune_bodies(await store.now() + 1) == 3
    for key in ("a", "b", "c"):
        assert await store.remove(key, 1)
    assert await store.next_due() is None
    server.cli("CONFIG", "SET", "maxmemory", "0")
    assert await store.write("new", 0, b"S")


# ── the answer is lost ───────────────────────────────────────────────────────────────────────────────────────


class Wire:
    """A TCP proxy before a server that resets the connection in place of an answer: whole, or after `share` of it,
    to the next request that holds `pattern`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.lost = 0
        self._pattern, self._share = b"", 0.0
        self._calls: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def lose(self, pattern: bytes, share: float = 0.0) -> None:
        self._pattern, self._share = pattern, share

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        losing = asyncio.Event()
        requests = asyncio.create_task(self._requests(reader, far_writer, losing))
        try:
            await self._answers(far_reader, writer, losing)
        except (OSError, asyncio.CancelledError):
            pass  # the test is over, or one side is gone
        finally:
            requests.cancel()
            far_writer.close()
            writer.close()

    async def _requests(
        self, reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while request := await reader.read(1 << 20):
            if self._pattern and self._pattern in request:
                self._pattern = b""
                losing.set()
            far_writer.write(request)
        far_writer.close()

    async def _answers(
        self, far_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, losing: asyncio.Event
    ) -> None:
        while answer := await far_reader.read(1 << 20):
            if losing.is_set():
                self.lost += 1
                writer.write(answer[: int(len(answer) * self._share)])
                if not self._share:
                    writer.transport.abort()
                return
            writer.write(answer)


@pytest.fixture
async def wire(server: RedisServer) -> AsyncIterator[Wire]:
    async with Wire(server.port) as wire:
        yield wire


@pytest.fixture
async def shaky(wire: Wire) -> AsyncIterator[RedisStore]:
    async with opened(wire.url) as store:
        yield store


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_a_change_whose_answer_is_lost_is_made_once_and_told_so(
    wire: Wire, shaky: RedisStore, store: RedisStore, share: float
) -> None:
    """The store asks again over a new connection, and the server knows what it has done."""
    await shaky.write("warm", 0, b"R", timers={"t": 9e9})  # the server knows the scripts
    await shaky.claim(1, 1.0)
    soon = await store.now() - 1
    wire.lose(b"tim-er", share)
    assert await shaky.write("a", 0, b"1", timers={"tim-er": soon}, listings=[line("s")])
    assert (await store.whole("a")).version == 1  # type: ignore[union-attr]  # it was written
    wire.lose(b"EVALSHA", share)  # looking for what is due changes nothing
    (lease,) = await shaky.claim(5, 60)
    assert wire.lost == 2
    wire.lose(b"postpone", share)
    assert await shaky.postpone(lease, soon)
    with Losing(shaky, wire, share):
        (lease,) = await shaky.claim(5, 60)
    assert await store.claim(5, 60) == []
    wire.lose(b"renew", share)
    assert await shaky.renew(lease, 60)
    wire.lose(b"done", share)
    assert await shaky.done(lease)
    wire.lose(b"EVALSHA", share)
    assert await shaky.remove("a", 1)
    assert wire.lost == 7
    assert await store.whole("a") is None
    assert not any((await store.counts()).values())


class Losing:
    """Within, the answer to the claim itself is lost: the second script of `Store.claim`."""

    def __init__(self, store: RedisStore, wire: Wire, share: float) -> None:
        self._store, self._wire, self._share = store, wire, share

    def __enter__(self) -> None:
        due = self._store._due

        async def then_lose(limit: int, numbers: Collection[int]) -> object:
            found = await due(limit, numbers)
            if found:
                self._wire.lose(b"EVALSHA", self._share)
            return found

        self._store._due = then_lose  # type: ignore[method-assign,assignment]  # for this once

    def __exit__(self, *exc: object) -> None:
        del self._store._due  # type: ignore[method-assign]  # the class's own again


async def test_a_large_answer_that_breaks_off_is_asked_for_again(wire: Wire, shaky: RedisStore) -> None:
    await shaky.write("a", 0, b"R", body=b"B" * 300_000)
    wire.lose(b"GET", 0.5)
    assert await shaky.body("a") == b"B" * 300_000
    assert wire.lost == 1


async def test_a_caller_that_gives_up_leaves_no_connection_in_the_middle_of_an_answer(
    server: RedisServer, store: RedisStore
) -> None:
    for number in range(20):
        await store.write(f"a{number}", 0, b"%d" % number)
    for _ in range(1 + CONNECTIONS // 20):  # were they lost, there would be none left
        server.pause()
        calls = [asyncio.create_task(store.read(f"a{number}")) for number in range(20)]
        await asyncio.wait(calls, timeout=0.02)
        for call in calls:
            call.cancel()
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(end) for end in ends} == {asyncio.CancelledError}
        server.resume()
        found = await asyncio.gather(*(store.read(f"a{number}") for number in range(20)))
        assert [stored.record if stored else None for stored in found] == [b"%d" % number for number in range(20)]
    assert int(server.info("connected_clients")) <= CONNECTIONS + 1


async def test_a_server_that_hangs_is_given_up_in_time(server: RedisServer) -> None:
    async with opened(f"{server.url}?timeout=0.2") as store:
        store.nodes.patience = 0.3
        server.pause()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.write("a", 0, b"R")
        server.resume()
        await resumed(lambda: _is_written(store, "a"))


async def _is_written(store: RedisStore, aggregate: str) -> bool:
    """Whether it is, by us now or by the call that was given up."""
    return await store.write(aggregate, 0, b"R") or await store.read(aggregate) is not None


# ── replicas ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def replica(server: RedisServer, tmp_path: Path) -> Iterator[RedisServer]:
    replica = RedisServer(tmp_path, name="replica").start("--replicaof", "127.0.0.1", str(server.port))
    wait_for(lambda: replica.info("master_link_status") == "up", "the replica follows", str)
    yield replica
    replica.resume()
    replica.kill()


async def test_a_write_that_no_replica_confirms_is_told_from_one_that_was_not_made(
    server: RedisServer, replica: RedisServer
) -> None:
    async with opened(f"{server.url}?replicas=1&timeout=2") as store:
        assert await store.write("a", 0, b"1")
        await store.ping()
        replica.pause()
        with pytest.raises(Unconfirmed, match="0 of 1 replicas"):
            await store.write("a", 1, b"2")
        stored = await store.read("a")
        assert stored is not None
        assert (stored.version, stored.record) == (2, b"2")
        assert not await store.write("a", 1, b"x"), "what changes nothing needs no confirmation"
        with pytest.raises(Unconfirmed):
            await store.remove("a", 2)
        with pytest.raises(Unconfirmed):
            await store.ping()
        replica.resume()
        await resumed(lambda: _is_written(store, "b"))


async def test_a_repeated_write_is_not_confirmed_by_what_another_connection_wrote(
    server: RedisServer, replica: RedisServer
) -> None:
    """WAIT on a connection that wrote nothing is content at once; the repetition must write something itself."""
    async with opened(f"{server.url}?timeout=20&replicas=1") as store:
        await store.write("a", 0, b"1")
    async with Wire(server.port) as wire, opened(f"{wire.url}?replicas=1&timeout=0.5") as store:
        replica.pause()
        wire.lose(b"EVALSHA")
        with pytest.raises(Unconfirmed):
            await store.write("a", 1, b"2")
        assert wire.lost == 1


# ── failover ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_after_a_failover_by_sentinels_nothing_is_lost_and_work_goes_on(tmp_path: Path) -> None:
    sentinels = Sentinels(tmp_path)
    try:
        await asyncio.to_thread(sentinels.start)
        await _fail_over(sentinels)
    finally:
        sentinels.stop()


async def _fail_over(sentinels: Sentinels) -> None:
    async with opened(f"{sentinels.url}?replicas=1") as store, opened(sentinels.url) as content:
        acknowledged = [f"a{number}" for number in range(100)]
        for key in acknowledged:
            assert await store.write(key, 0, b"R")
        old = await asyncio.to_thread(sentinels.kill_master)
        await resumed(lambda: _is_written(content, "meanwhile"))
        assert [key for key in acknowledged if await store.read(key) is None] == []
        with pytest.raises(Unconfirmed):
            await store.write("alone", 0, b"R")
        await asyncio.to_thread(sentinels.wait_failover, old)
        await asyncio.to_thread(sentinels.rejoin, old)
        await resumed(lambda: _is_written(store, "again"))


@pytest.fixture(scope="module")
def cluster(redis_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Of our own: its slots are moved and its nodes killed."""
    cluster = Cluster(tmp_path_factory.mktemp("own-cluster"))
    try:
        yield cluster.start()
    finally:
        cluster.stop()


async def test_while_a_slot_moves_nothing_is_taken_for_missing(cluster: Cluster) -> None:
    async with opened(f"{cluster.url}?prefix=moving") as store:
        await store.write("a", 0, b"R", timers={"t": 1.0}, listings=[line("s")])
        await store.write("b", 0, b"R")
        root = store.nodes.roots[partition_of("a")]
        move = Move(cluster, root)
        move.begin()
        move.take(move.keys()[:1])
        store.nodes.patience = 0.1
        for call in (store.write("a", 0, b"x"), store.write("a", 1, b"S"), store.listings(Query("session"))):
            with pytest.raises(Unavailable, match="moving data"):
                await call
        assert await store.claim(5, 60) == [], "its timers wait with it"
        assert (await store.read("a")).record == b"R"  # type: ignore[union-attr]  # it is there, on one side
        assert await store.write("b", 1, b"S") == (partition_of("b") != partition_of("a"))
        move.take(move.keys())
        move.end()
        assert await store.write("a", 1, b"S"), "it follows to the new node"
        assert (await store.whole("a")).lines == (line("s"),)  # type: ignore[union-attr]  # it was just written
        assert [lease.aggregate for lease in await store.claim(5, 60)] == ["a"]


class Move:
    """The slot of a key, on its way from its master to another."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self._cluster = cluster
        self._from = cluster.master_of(key)
        self._to = next(master for master in cluster.masters() if master is not self._from)
        self._slot = self._from.cli("CLUSTER", "KEYSLOT", key)

    def begin(self) -> None:
        assert self._to.cli("CLUSTER", "SETSLOT", self._slot, "IMPORTING", self._from.cli("CLUSTER", "MYID")) == "OK"
        assert self._from.cli("CLUSTER", "SETSLOT", self._slot, "MIGRATING", self._to.cli("CLUSTER", "MYID")) == "OK"

    def keys(self) -> list[str]:
        return self._from.cli("CLUSTER", "GETKEYSINSLOT", self._slot, "1000").splitlines()

    def take(self, keys: list[str]) -> None:
        words = ("MIGRATE", "127.0.0.1", str(self._to.port), "", "0", "5000", "KEYS", *keys)
        assert self._from.cli(*words) == "OK"

    def end(self) -> None:
        for server in (self._to, self._from):
            assert server.cli("CLUSTER", "SETSLOT", self._slot, "NODE", self._to.cli("CLUSTER", "MYID")) == "OK"


async def test_when_a_node_of_a_cluster_ends_its_replica_takes_over_and_the_others_work_on(cluster: Cluster) -> None:
    async with opened(f"{cluster.url}?prefix=ending&replicas=1") as store:
        acknowledged = [f"a{number}" for number in range(60)]
        for key in acknowledged:
            assert await store.write(key, 0, b"R")
        victim = cluster.master_of(store.nodes.roots[0])
        lost = [key for key in acknowledged if cluster.master_of(store.nodes.roots[partition_of(key)]) is victim]
        rest = [key for key in acknowledged if key not in lost]
        assert lost
        assert rest
        await asyncio.to_thread(victim.kill)
        for key in rest:
            assert await store.write(key, 1, b"S")
        assert len([await store.read(key) for key in acknowledged if await _seen(store, key)]) == 60
        await asyncio.to_thread(victim.start)
        await asyncio.to_thread(cluster.wait_ready)
        for key in lost:
            await resumed(lambda key=key: store.write(key, 1, b"S"))  # type: ignore[misc]  # mypy: default argument


async def test_a_part_of_a_cluster_that_is_gone_holds_up_no_timer_of_the_others(cluster: Cluster) -> None:
    async with opened(f"{cluster.url}?prefix=parted") as store:
        for number in range(60):
            assert await store.write(f"a{number}", 0, b"R", timers={"t": float(number)})
        gone = cluster.master_of(store.nodes.roots[partition_of("a0")])
        there = {n for n in range(60) if cluster.master_of(store.nodes.roots[partition_of(f"a{n}")]) is not gone}
        ends = [gone, cluster.replica_of(gone)]
        for server in reversed(ends):
            server.kill()
        store.nodes.patience = 0.3
        assert await store.next_due() == min(there)
        assert {int(lease.aggregate[1:]) for lease in await store.claim(100, 60)} == there
        with pytest.raises(Unavailable):
            await store.listings(Query("session"))  # half a list would be taken for the whole
        for server in ends:
            await asyncio.to_thread(server.start)
        await asyncio.to_thread(cluster.wait_ready)
        async with asyncio.timeout(30):
            left: set[int] = set()
            while left | there != set(range(60)):
                left |= {int(lease.aggregate[1:]) for lease in await store.claim(100, 60)}


async def test_a_part_of_a_cluster_that_takes_no_writes_holds_up_no_timer_of_the_others(cluster: Cluster) -> None:
    """Its timers can be read, are due for longest, and cannot be claimed."""
    async with opened(f"{cluster.url}?prefix=stubborn") as store:
        stubborn = cluster.master_of(store.nodes.roots[partition_of("a0")])
        keys = {n: cluster.master_of(store.nodes.roots[partition_of(f"a{n}")]) is stubborn for n in range(60)}
        for number, old in keys.items():
            assert await store.write(f"a{number}", 0, b"R", timers={"t": float(number if old else 100 + number)})
        assert stubborn.cli("CONFIG", "SET", "min-replicas-to-write", "5") == "OK"
        store.nodes.patience = 0.3
        there = {number for number, old in keys.items() if not old}
        some = {int(lease.aggregate[1:]) for lease in await store.claim(3, 60)}
        assert len(some) == 3
        assert some < there
        assert {int(lease.aggregate[1:]) for lease in await store.claim(100, 60)} == there - some
        with pytest.raises(Unavailable, match="too few replicas"):
            await store.claim(100, 60)
        assert stubborn.cli("CONFIG", "SET", "min-replicas-to-write", "0") == "OK"
        assert {int(lease.aggregate[1:]) for lease in await store.claim(100, 60)} == keys.keys() - there


async def _seen(store: RedisStore, key: str) -> bool:
    await resumed(lambda: _there(store, key))
    return True


async def _there(store: RedisStore, key: str) -> bool:
    return await store.read(key) is not None


# ── what the server refuses ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[RedisServer]:
    """Wants a password."""
    server = RedisServer(tmp_path, password="s:cr@t").start()
    yield server
    server.kill()


@pytest.mark.parametrize(
    ("credentials", "password", "why"),
    [
        ("", None, "wants a password"),
        (":wr-ng@", None, "does not accept"),
        ("", "wr-ng", "does not accept"),
        ("reader:pw@", None, "lacks rights"),
    ],
)
async def test_a_wrong_password_is_a_fault_of_the_settings_and_is_not_quoted(
    guarded: RedisServer, credentials: str, password: str | None, why: str
) -> None:
    guarded.cli("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@read")
    with pytest.raises(SettingsError, match=why) as trouble:
        await open_redis(parse(f"redis://{credentials}{guarded.address}", password))
    assert trouble.value.key == "store"
    assert "wr-ng" not in str(trouble.value)


async def test_the_rights_that_the_documents_name_are_enough(guarded: RedisServer) -> None:
    (rights,) = re.findall(r"^user broker on >PASSWORD (.*)$", DOCUMENT.read_text(), re.MULTILINE)
    guarded.cli("ACL", "SETUSER", "broker", "on", ">pw", *rights.split())
    async with opened(f"redis://broker:pw@{guarded.address}") as store:
        soon = await store.now() - 1
        assert await store.write("a", 0, b"R", body=b"B", timers={"t": soon}, listings=[line("s")])
        (lease,) = await store.claim(5, 60)
        assert await store.renew(lease, 60)
        assert await store.done(lease)
        assert len(await store.listings(Query("session"))) == sum((await store.counts()).values()) == 1
        assert (await store.keys())[0] == ["a"]
        assert await store.whole("a") is not None
        assert await store.prune_bodies(await store.now() + 1) == 1
        assert await store.calendar.write("s", 0, [])
        assert await store.limits.take("k", 1.0, 1) == 0.0
        assert await store.limits.enter("k", "m", 1, soon + 100)
        await store.limits.leave("k", "m")
        assert await store.remove("a", 1)
        await store.ping()


async def test_the_right_password_opens_wherever_it_comes_from(guarded: RedisServer) -> None:
    for address in (parse(f"redis://:s%3Acr%40t@{guarded.address}"), parse(f"redis://{guarded.address}", "s:cr@t")):
        store = await open_redis(address)
        assert await store.read("a") is None
        await store.close()


async def test_a_password_that_is_changed_later_is_told_as_such(guarded: RedisServer) -> None:
    async with opened(f"redis://:s%3Acr%40t@{guarded.address}") as store:
        guarded.cli("CONFIG", "SET", "requirepass", "other")
        guarded.password = "other"
        guarded.cli("CLIENT", "KILL", "TYPE", "normal")
        with pytest.raises(Unavailable, match=re.escape("does not accept the user and password")):
            await store.read("a")


async def test_a_server_that_is_not_there_is_unavailable(server: RedisServer) -> None:
    url = server.url
    server.kill()
    with pytest.raises(Unavailable, match="cannot be reached"):
        await open_redis(parse(f"{url}?timeout=0.1"))


# ── over TLS ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def certificate(tmp_path: Path, openssl: None) -> Path:
    """For 127.0.0.1, signed by itself."""
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=redis"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)]
    subprocess.run(["openssl", "req", "-x509", *words], check=True, capture_output=True)
    return file


async def test_a_server_is_spoken_to_over_tls_when_its_certificate_is_good(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(tmp_path / "key.pem"), "--tls-port", "0")
    server = RedisServer(tmp_path, *files, "--tls-auth-clients", "no").start()
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        assert server.cli("CONFIG", "SET", "tls-port", str(port)) == "OK"
        with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await open_redis(parse(f"rediss://127.0.0.1:{port}"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with opened(f"rediss://127.0.0.1:{port}") as store:
            assert await store.write("a", 0, b"R")
        async with opened(server.url) as store:
            assert await store.read("a") is not None
    finally:
        server.kill()
