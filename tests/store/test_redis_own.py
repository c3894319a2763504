"""What is the Redis store's own: addresses, pages over partitions, news of other brokers, its clock, its versions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from uuid import UUID, uuid4

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from broker.domain.identity import aggregate, member
from broker.errors import SettingsError, Unavailable
from broker.ports import Listing, Query
from broker.settings import load_settings
from broker.store import redis_lists, redis_news
from broker.store.opening import open_store, shown
from broker.store.redis import RedisStore, open_redis
from broker.store.redis_address import Address, parse
from broker.store.redis_durability import Server, judge
from broker.store.redis_news import News
from broker.store.redis_nodes import Nodes, Script, partition_of
from broker.store.redis_schema import bring_forward
from broker.store.redis_schema import judge as judge_server
from broker.store.redis_scripts import WRITE
from broker.testing.clock import FakeClock
from broker.testing.store_base import line
from broker.wiring import check

# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://h", Address("redis", (("h", 6379),))),
        ("rediss://h:1/3", Address("rediss", (("h", 1),), database=3)),
        ("redis://[::1]:7", Address("redis", (("::1", 7),))),
        ("redis://u:p%40%2F@h", Address("redis", (("h", 6379),), "u", "p@/")),
        ("redis://:p@h", Address("redis", (("h", 6379),), "", "p")),
        ("redis+sentinel://a,b:7/m", Address("redis+sentinel", (("a", 26379), ("b", 7)), master="m")),
        ("redis+sentinel://a/m%20n/2", Address("redis+sentinel", (("a", 26379),), master="m n", database=2)),
        ("redis+cluster://a:1,b:2/0", Address("redis+cluster", (("a", 1), ("b", 2)))),
        (
            "redis://h?prefix=x.Y-1_&replicas=2&timeout=0.5",
            Address("redis", (("h", 6379),), prefix="x.Y-1_", replicas=2, timeout=0.5),
        ),
    ],
)
def test_an_address_says_where_and_how(text: str, expected: Address) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "redis://", "redis://h:0", "redis://h:99999", "redis://h:x", "redis://a,b", "redis://h/x", "redis://h/1/2",
        "redis+sentinel://h", "redis+cluster://h/1", "http://h", "redis:h", "mongo://:secret@h",
        "redis://:secret@h?prefix=", "redis://:secret@h?prefix={}", "redis://h?replicas=6", "redis://h?replicas=-1",
        "redis://:secret@h?timeout=0", "redis://h?timeout=nan", "redis://h?tiemout=1", "redis://:secret@h:p",
    ],
)  # fmt: skip
def test_any_other_address_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(SettingsError) as trouble:
        parse(text)
    assert trouble.value.key == "store"
    assert "secret" not in str(trouble.value)


def test_no_password_is_shown() -> None:
    address = parse("redis+sentinel://u:secret@a,[::1]:7/m/2?replicas=1")
    assert address.shown == "redis+sentinel://a:26379,[::1]:7/m/2"
    assert "secret" not in repr(address)
    assert shown("redis://:secret@h") == "redis://h:6379"
    assert shown("/there/broker.db") == "/there/broker.db"


def test_a_set_and_its_sessions_share_a_partition_and_any_text_has_one() -> None:
    set_ = uuid4()
    session = member(set_, b"abcd")
    assert partition_of(aggregate(set_)) == partition_of(aggregate(session)) == set_.bytes[-1]
    for key in ("", "broker", "größe/é", "0123456789abcdef01234567xx"):
        assert 0 <= partition_of(key) < 256
    assert len({partition_of(f"key-{n}") for n in range(5000)}) == 256


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────

Opener = Callable[..., Awaitable[RedisStore]]


@pytest.fixture(params=["redis_url", "cluster_url"])
async def opener(request: pytest.FixtureRequest) -> AsyncIterator[Opener]:
    """Opens one more client of the same, at first empty, data, on the server's own clock."""
    address = parse(f"{request.getfixturevalue(request.param)}?prefix={uuid4().hex}")
    async with contextlib.AsyncExitStack() as stack:

        async def open_one() -> RedisStore:
            store = await open_redis(address)
            stack.push_async_callback(store.close)
            return store

        yield open_one


@pytest.fixture
async def store(opener: Opener) -> RedisStore:
    return await opener()


def spread(count: int) -> Iterator[tuple[str, str]]:
    """Keys of aggregates in all partitions, with the id of a session of each."""
    random = Random(7)
    for _ in range(count):
        uuid = UUID(bytes=random.randbytes(16), version=4)
        yield aggregate(uuid), str(uuid)


async def test_pages_are_merged_over_all_partitions_and_filters_look_at_little_at_a_time(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(3)
    lines = []
    for key, id in spread(400):
        phase, site = random.choice(["RUNNING", "OFFERED", "OFFERED", "OFFERED"]), random.choice(["here", "there"])
        lines.append(line(id, owner=random.choice("ab"), created=float(random.randrange(60)), phase=phase, site=site))
        await store.write(key, 0, b"R", listings=lines[-1:])
    lines.sort(key=lambda at: (at.created, at.id), reverse=True)
    for budget in (3, 2000):
        monkeypatch.setattr(redis_lists, "BUDGET", budget)
        assert await _pages(store, Query("session", limit=90)) == lines
        query = Query("session", owner="a", phases=("RUNNING",), site="here", limit=7)
        wanted = [at for at in lines if (at.owner, at.phase, at.site) == ("a", "RUNNING", "here")]
        assert len(wanted) > 7
        assert await _pages(store, query) == wanted
        assert await _pages(store, Query("session", name="nothing")) == []
        assert await _pages(store, Query("session", since=58.0)) == [at for at in lines if at.created >= 58]


async def _pages(store: RedisStore, query: Query) -> list[Listing]:
    found: list[Listing] = []
    after = None
    while page := await store.listings(Query(**{**_fields(query), "after": after})):
        found += page
        after = (page[-1].created, page[-1].id)
    return found


def _fields(query: Query) -> dict[str, object]:
    return {name: getattr(query, name) for name in query.__struct_fields__}


async def test_the_clock_is_the_servers(store: RedisStore) -> None:
    """Not ours, whatever it shows."""
    now = await store.now()
    assert abs(now - time.time()) < 5
    await store.write("past", 0, b"R", body=b"B", timers={"t": now - 1})
    await store.write("future", 0, b"R", timers={"t": now + 1000})
    (lease,) = await store.claim(10, 1000)
    assert lease.aggregate == "past"
    ready = await store.next_due()
    assert ready is not None
    assert now + 999 < ready <= now + 1010
    assert await store.prune_bodies(now - 10) == 0
    assert await store.prune_bodies(await store.now() + 1) == 1


async def test_what_is_due_in_many_partitions_is_claimed_by_age(store: RedisStore) -> None:
    keys = [key for key, _ in spread(100)]
    for number, key in enumerate(keys):
        await store.write(key, 0, b"R", timers={"t": 1000.0 + number})
    assert await store.next_due() == 1000.0
    claimed = [lease.aggregate for _ in range(5) for lease in await store.claim(20, 60)]
    assert claimed == keys
    assert await store.claim(20, 60) == []


async def test_a_time_that_is_none_changes_nothing(store: RedisStore) -> None:
    due = float("nan")
    with pytest.raises(ValueError, match="at no time"):
        await store.write("a", 0, b"R", timers={"t": due})
    with pytest.raises(ValueError, match="at no time"):
        await store.write("a", 0, b"R", listings=[line("s", created=due)])
    assert await store.read("a") is None


async def test_a_creation_that_is_repeated_after_a_removal_brings_nothing_back(store: RedisStore) -> None:
    """Its answer was lost, and another client was faster with the removal than it with its repetition."""
    args: list[str | bytes | int] = ["", "0123456789abcdef", "me", "a", 0, b"R", 0, 0, 0]
    write = scripted_write(store)
    assert await write(*args) == 1
    assert await store.remove("a", 1)
    assert await write(*args) == 0
    assert await store.read("a") is None
    args[1] = "another operatio"
    assert await write(*args) == 1


def scripted_write(store: RedisStore) -> Callable[..., Awaitable[int]]:
    """The script of `write`, which is told which operation it is."""
    return lambda *args: store.nodes.run(WRITE, partition_of("a"), *args)


# ── news ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Listener:
    """Follows what is `watched`."""

    def __init__(self, store: RedisStore, *watched: str) -> None:
        self.watched = set(watched)
        self.heard: list[str] = []
        self._rang = asyncio.Event()
        self._task = asyncio.create_task(store.follow(lambda: self.watched, self._ring))

    def _ring(self, key: str) -> None:
        self.heard.append(key)
        self._rang.set()

    async def hears(self, *keys: str) -> None:
        async with asyncio.timeout(20):
            while not set(keys) <= set(self.heard):
                self._rang.clear()
                await self._rang.wait()

    async def end(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.fixture
async def listen(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Listener]]:
    monkeypatch.setattr(redis_news, "EVERY", 0.01)
    monkeypatch.setattr(redis_news, "TROUBLE", 0.01)
    listeners: list[Listener] = []

    def begin(*watched: str) -> Listener:
        listeners.append(Listener(store, *watched))
        return listeners[-1]

    yield begin
    for listener in listeners:
        await listener.end()


async def test_what_another_broker_writes_is_heard_and_nothing_else(
    store: RedisStore, opener: Opener, listen: Callable[..., Listener]
) -> None:
    other = await opener()
    for key in ("a", "b", "c"):
        await store.write(key, 0, b"R")
    listener = listen("a", "b")
    await listener.hears("a", "b")  # it begins: some may have been missed
    listener.heard.clear()
    await store.write("a", 1, b"S")
    await other.write("c", 1, b"S")
    assert not await other.write("a", 7, b"S")
    await other.write("b", 1, b"S")
    await listener.hears("b")
    await other.remove("b", 2)
    listener.heard.remove("b")
    await listener.hears("b")
    assert set(listener.heard) == {"b"}
    listener.watched.add("c")
    await listener.hears("c")


async def test_when_news_may_have_been_missed_all_are_rung(store: RedisStore, opener: Opener) -> None:
    """The stream was cut beyond what was read, or was lost with the server's memory."""
    other, news, heard = await opener(), News(store.nodes, "me"), list[str]()
    quiet = f"a-{_same_partition('a')}"  # nobody writes it: it is rung when all are
    at = partition_of("a")
    stream = f"{store.nodes.roots[at]}:news"

    async def after(*spoilt: str | int) -> set[str]:
        """What is rung when two things were written since the last look, and the stream was spoilt between them."""
        heard.clear()
        await other.write("a", await _version(other, "a"), b"S")
        if spoilt:
            await store.nodes.command(at, *spoilt)
        await other.write("a", await _version(other, "a"), b"S")
        await news._look({"a", quiet}, heard.append)
        return set(heard)

    assert await after() == {"a", quiet}  # the first look
    assert await after() == {"a"}
    assert await after("XTRIM", stream, "MAXLEN", 0) == {"a", quiet}
    assert await after() == {"a"}
    assert await after("DEL", stream) == {"a", quiet}
    assert await after() == {"a"}
    store.nodes.troubles += 1  # a failover, perhaps to a server that knew less and counts on
    assert await after() == {"a", quiet}
    assert await after() == {"a"}


async def test_when_news_could_not_be_read_all_are_rung_afterwards(
    store: RedisStore, listen: Callable[..., Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = listen("a", "b")
    await listener.hears("a", "b")
    listener.heard.clear()
    serve = store.nodes._serve

    async def fail(*asked: object, **how: object) -> None:
        monkeypatch.setattr(store.nodes, "_serve", serve)
        raise Unavailable("the network is gone.")

    with capture_logs() as logs:
        monkeypatch.setattr(store.nodes, "_serve", fail)
        await listener.hears("a", "b")
    assert [entry["why"] for entry in logs] == ["the network is gone."]


def _same_partition(key: str) -> int:
    return next(n for n in range(100_000) if partition_of(f"{key}-{n}") == partition_of(key))


async def _version(store: RedisStore, key: str) -> int:
    stored = await store.read(key)
    return stored.version if stored else 0


# ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("server", "clustered", "why"),
    [
        ({"redis_version": "6.2.14"}, False, "Redis 6.2.14"),
        ({"redis_version": "0.9"}, False, "Redis 0.9"),
        ({}, False, "Redis 0"),
        ({"redis_version": "7.0.0", "redis_mode": "cluster"}, False, "runs as cluster"),
        ({"redis_version": "7.0.0", "redis_mode": "standalone"}, True, "runs as standalone"),
        ({"redis_version": "7.0.0", "redis_mode": "sentinel"}, False, "is a Sentinel"),
    ],
)
def test_a_server_that_cannot_be_used_is_refused(server: dict[str, str], clustered: bool, why: str) -> None:
    with pytest.raises(SettingsError, match=why):
        judge_server(server, clustered=clustered)


@pytest.mark.parametrize("version", ["7.0.15", "7.4.1", "8.2.0", "10.0"])
def test_a_server_that_is_new_enough_is_not(version: str) -> None:
    judge_server({"redis_version": version}, clustered=False)


async def test_an_address_of_another_kind_of_server_is_refused(redis_url: str, cluster_url: str) -> None:
    host = redis_url.partition("://")[2]
    node = cluster_url.partition("://")[2].partition(",")[0]
    with pytest.raises(SettingsError, match="runs as standalone"):
        await open_redis(parse(f"redis+cluster://{host}"))
    with pytest.raises(SettingsError, match="runs as cluster"):
        await open_redis(parse(f"redis://{node}"))


# Not idempotent on purpose: the test sees how often it ran where it was not interrupted.
MIGRATION = Script("for _, root in ipairs(KEYS) do redis.call('APPEND', root .. ':mark', 'x') end return 1")


async def test_older_data_is_brought_forward_once_and_newer_data_refused(store: RedisStore, opener: Opener) -> None:
    await bring_forward(store.nodes, [MIGRATION])
    await bring_forward(store.nodes, [MIGRATION])
    marks = [await store.nodes.command(number, "GET", f"{root}:mark") for number, root in enumerate(store.nodes.roots)]
    assert marks == [b"x"] * 256
    with pytest.raises(SettingsError, match="version 2; this broker knows 1"):
        await opener()
    await bring_forward(store.nodes, [MIGRATION, MIGRATION])
    assert await store.nodes.command(9, "GET", f"{store.nodes.roots[9]}:mark") == b"xx"


@pytest.mark.parametrize("words", [("SET", "x"), ("LPUSH", "x")])
async def test_what_is_not_ours_is_left_alone(store: RedisStore, opener: Opener, words: tuple[str, str]) -> None:
    key = f"{store.nodes.roots[0]}:schema"
    await store.nodes.command(0, "DEL", key)
    await store.nodes.command(0, words[0], key, words[1])
    with pytest.raises(SettingsError, match="not of our making"):
        await opener()


# ── durability ───────────────────────────────────────────────────────────────────────────────────────────────

SAFE = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}


@pytest.mark.parametrize(
    ("changes", "replicas", "wanted", "expected"),
    [
        ({}, 0, 0, []),
        ({}, 1, 1, []),
        ({"appendfsync": "everysec"}, 0, 0, ["about a second"]),
        ({"appendfsync": "no"}, 0, 0, ["half a minute"]),
        ({"appendfsync": "everysec"}, 1, 1, []),
        ({"appendonly": "no"}, 0, 0, ["everything is lost"]),
        ({"appendonly": "no", "save": "3600 1"}, 0, 0, ["since its last snapshot is lost"]),
        ({"appendonly": "no"}, 1, 1, ["unless a replica takes over"]),
        ({"maxmemory-policy": "allkeys-lru"}, 0, 0, ["records are thrown away"]),
        ({}, 1, 2, ["1 replicas follow, of 2"]),
        (None, 0, 0, ["CONFIG is forbidden"]),
    ],
)
def test_each_setting_that_may_lose_something_is_told(
    changes: dict[str, str] | None, replicas: int, wanted: int, expected: list[str]
) -> None:
    settings = None if changes is None else {**SAFE, **changes}
    found = judge(Server("h:1", settings, replicas), Nodes(parse(f"redis://h?replicas={wanted}")))
    assert len(found) == len(expected)
    for told, part in zip(found, expected, strict=True):
        assert part in told


async def test_the_warnings_are_logged_for_each_server_when_a_store_is_opened(opener: Opener) -> None:
    with capture_logs() as logs:
        store = await opener()
    masters = 3 if store.nodes.address.clustered else 1
    assert [(entry["log_level"], "about a second" in entry["why"]) for entry in logs] == [("warning", True)] * masters
    assert len({entry["why"].partition(": ")[0] for entry in logs}) == masters


async def test_a_check_says_what_the_store_may_lose_and_makes_none(redis_url: str, tmp_path: Path) -> None:
    file = tmp_path / "broker.yaml"
    prefix = uuid4().hex
    file.write_text(f"name: x\nstore: {redis_url}?prefix={prefix}\n")
    lines = await check(load_settings(file))
    assert any(at.startswith("warn  store: 127.0.0.1:") and "about a second" in at for at in lines)
    nodes = Nodes(parse(f"{redis_url}?prefix={prefix}"))
    assert await nodes.command(0, "KEYS", f"{{{prefix}:*") == []
    await nodes.close()


async def test_a_check_refuses_what_a_start_would(redis_url: str, tmp_path: Path) -> None:
    prefix = uuid4().hex
    nodes = Nodes(parse(f"{redis_url}?prefix={prefix}"))
    await nodes.command(0, "SET", f"{nodes.roots[0]}:schema", "9", "EX", 60)
    await nodes.close()
    (tmp_path / "other.db").write_bytes(b"of some other program, and no database at all" * 100)
    wrong = {
        f"{redis_url}?prefix={prefix}": "version 9; this broker knows 1",
        f"{redis_url}/9999": "DB index is out of range",
        redis_url.replace("redis://", "redis+sentinel://") + "/m": "SENTINEL",
        "other.db": "no SQLite database",
    }
    for store, why in wrong.items():
        file = tmp_path / "broker.yaml"
        file.write_text(f"name: x\nstore: {store}\n")
        with pytest.raises(SettingsError, match=why):
            await check(load_settings(file))
        with pytest.raises(SettingsError, match=why):
            await open_store(load_settings(file).store, FakeClock())


async def test_a_server_that_quotes_what_it_was_sent_gives_no_password_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async def quote(*asked: object) -> None:
        raise ResponseError("unknown command 'AUTH', with args beginning with: 'hush-hush'")

    monkeypatch.setattr(Nodes, "everywhere", quote)
    with pytest.raises(SettingsError, match="unknown command 'AUTH'") as trouble:
        await open_store("redis://:hush-hush@127.0.0.1:1", FakeClock())
    assert "hush" not in str(trouble.value)


async def test_a_cluster_that_was_never_reached_is_unavailable_each_time() -> None:
    nodes = Nodes(parse("redis+cluster://127.0.0.1:1,127.0.0.1:2?timeout=0.1"))
    nodes.patience = 0.1
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be reached"):
            await nodes.command(0, "PING")
    await nodes.close()


async def test_the_log_says_once_in_a_while_that_the_server_is_away() -> None:
    nodes = Nodes(parse("redis://127.0.0.1:1?timeout=0.1"))
    nodes.patience = 0.01
    with capture_logs() as logs:
        for _ in range(20):
            with pytest.raises(Unavailable):
                await nodes.command(0, "PING")
    assert [(entry["event"], entry["times"]) for entry in logs] == [("store not reached", 1)]
    await nodes.close()


async def test_a_check_goes_on_where_the_store_cannot_be_reached(tmp_path: Path) -> None:
    file = tmp_path / "broker.yaml"
    file.write_text("name: x\nstore: redis://:secret@127.0.0.1:1?timeout=0.1\n")
    lines = await check(load_settings(file))
    assert any(at.startswith("warn  store: ") and "cannot be reached" in at for at in lines)
    assert "secret" not in str(lines)


def test_a_wrong_address_is_told_with_the_file_and_the_key(tmp_path: Path) -> None:
    file = tmp_path / "broker.yaml"
    file.write_text("name: x\nstore: redis://:secret@h?replicas=9\nstore_password_file: pw\n")
    with pytest.raises(SettingsError, match="replicas is a number") as trouble:
        load_settings(file)
    assert (trouble.value.file, trouble.value.key) == (str(file), "store")
    assert "secret" not in str(trouble.value)
    file.write_text("name: x\nstore: redis://h\nstore_password_file: pw\n")
    assert load_settings(file).store_password_file == tmp_path / "pw"


async def test_a_password_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read") as trouble:
        await open_store("redis://h", FakeClock(), tmp_path / "none")
    assert trouble.value.key == "store_password_file"
