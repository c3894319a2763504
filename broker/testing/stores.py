"""What every Store must hold, as a class of tests to inherit. Imports pytest, ports, errors, testing.

    class TestMine(StoreContract):
        @pytest.fixture
        async def open_store(self, clock, tmp_path): ...   # each call: one more client of the same data
        async def peek(self, store, aggregate): ...        # what is durable, read past the store

The suites of the other two ports are in `broker.testing.calendars` and `broker.testing.limits`.
"""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import Unavailable
from broker.ports import Query, Store
from broker.testing.clock import FakeClock
from broker.testing.store_base import OpenStore, Peek, line
from broker.testing.store_lists import ListsContract
from broker.testing.store_timers import TimersContract
from broker.testing.store_walk import WalkContract

KEYS = [
    "set:1", "größe/é", "größe/e\u0301", "{a}b", "a*?[b]", "it's \"quoted\"; --", " two\nlines\t", "日本語🚀", "100%",
]  # fmt: skip

__all__ = ["OpenStore", "Peek", "StoreContract", "line"]


class StoreContract(TimersContract, ListsContract, WalkContract):
    """Override `open_store` and `peek`; `settled` where lists are derived late."""

    # ── records and bodies ───────────────────────────────────────────────────────────────────────────────────

    async def test_what_was_never_written_is_not_there(self, store: Store) -> None:
        assert await store.read("a") is None
        assert await store.body("a") is None
        assert await store.next_due() is None
        assert await store.claim(10, 60) == []
        assert await store.listings(Query("session")) == []
        assert not any((await store.counts()).values())

    async def test_each_write_is_the_next_version(self, store: Store) -> None:
        for version in range(3):
            assert await store.write("a", version, b"%d" % version)
            stored = await store.read("a")
            assert stored is not None
            assert (stored.version, stored.record) == (version + 1, b"%d" % version)

    @pytest.mark.parametrize("wrong", [0, 1, 3, -1])
    async def test_a_write_against_another_version_changes_nothing(self, store: Store, wrong: int) -> None:
        await store.write("a", 0, b"one", body=b"B", timers={"t": 5.0, "u": 6.0}, listings=[line("s")])
        await store.write("a", 1, b"two")
        before = await self.peek(store, "a")
        new = line("s", phase="ACCEPTED")
        assert not await store.write("a", wrong, b"x", body=b"C", timers={"t": 9.0, "u": None}, listings=[new])
        assert await self.peek(store, "a") == before

    async def test_a_write_to_nothing_wants_version_0(self, store: Store) -> None:
        assert not await store.write("a", 1, b"x", body=b"C", timers={"t": 9.0}, listings=[line("s")])
        assert await self.peek(store, "a") is None
        await self.settled(store)
        assert await store.listings(Query("session")) == []

    async def test_what_is_acknowledged_is_durable_as_a_whole(self, store: Store) -> None:
        await store.write("a", 0, b"R", body=b"B", timers={"t": 5.0, "u": 6.0}, listings=[line("s")])
        assert await self.peek(store, "a") == Peek(1, b"R", b"B", {"t": 5.0, "u": 6.0}, {"s": "OFFERED"})
        new = line("s", phase="ACCEPTED")
        await store.write("a", 1, b"S", body=b"C", timers={"t": 7.5, "u": None}, listings=[new, line("v")])
        assert await self.peek(store, "a") == Peek(2, b"S", b"C", {"t": 7.5}, {"s": "ACCEPTED", "v": "OFFERED"})

    async def test_another_client_sees_it_at_once(self, store: Store, open_store: OpenStore) -> None:
        other = await open_store()
        await store.write("a", 0, b"R", body=b"B")
        stored = await other.read("a")
        assert stored is not None
        assert stored.record == b"R"
        assert await other.body("a") == b"B"

    async def test_it_outlives_the_client(self, store: Store, open_store: OpenStore) -> None:
        await store.write("a", 0, b"R", body=b"B", timers={"t": 5.0}, listings=[line("s")])
        await store.close()
        again = await open_store()
        assert await self.peek(again, "a") == Peek(1, b"R", b"B", {"t": 5.0}, {"s": "OFFERED"})
        assert await again.write("a", 1, b"S")

    async def test_a_body_stays_until_another_is_written(self, store: Store) -> None:
        await store.write("a", 0, b"R")
        assert await store.body("a") is None
        await store.write("a", 1, b"R", body=b"B")
        await store.write("a", 2, b"R")
        assert await store.body("a") == b"B"
        await store.write("a", 3, b"R", body=b"")
        assert await store.body("a") == b""

    @pytest.mark.parametrize("data", [bytes(range(256)), b"", b"\0", bytes(range(256)) * 2**14])
    async def test_bytes_come_back_as_they_were(self, store: Store, data: bytes) -> None:
        await store.write("a", 0, data, body=data)
        stored = await store.read("a")
        assert stored is not None
        assert stored.record == data
        assert await store.body("a") == data

    async def test_any_text_is_a_key(self, store: Store, clock: FakeClock) -> None:
        for key in KEYS:
            assert await store.write(key, 0, key.encode(), timers={key: clock.now()}, listings=[line(key, owner=key)])
        for key in KEYS:
            stored = await store.read(key)
            assert stored is not None
            assert stored.record == key.encode()
        leases = await store.claim(100, 60)
        assert sorted((lease.aggregate, lease.key) for lease in leases) == sorted((key, key) for key in KEYS)
        await self.settled(store)
        assert {(at.id, at.owner) for at in await store.listings(Query("session"))} == {(key, key) for key in KEYS}

    async def test_remove_takes_everything_of_one_aggregate(self, store: Store) -> None:
        for key in ("a", "b"):
            await store.write(key, 0, b"R", body=b"B", timers={"t": 5.0}, listings=[line(key)])
        assert await store.remove("a", 1)
        assert await store.read("a") is None
        assert await store.body("a") is None
        assert await self.peek(store, "a") is None
        assert await self.peek(store, "b") == Peek(1, b"R", b"B", {"t": 5.0}, {"b": "OFFERED"})
        await self.settled(store)
        assert [at.id for at in await store.listings(Query("session"))] == ["b"]
        assert not await store.remove("a", 1)

    async def test_nothing_of_a_removed_aggregate_comes_back(self, store: Store) -> None:
        await store.write("a", 0, b"R", body=b"B", timers={"t": 5.0}, listings=[line("s")])
        await store.remove("a", 1)
        assert await store.write("a", 0, b"S")
        assert await self.peek(store, "a") == Peek(1, b"S", None, {}, {})

    @pytest.mark.parametrize("wrong", [0, 1, 3])
    async def test_remove_against_another_version_changes_nothing(self, store: Store, wrong: int) -> None:
        await store.write("a", 0, b"R", body=b"B", timers={"t": 5.0}, listings=[line("s")])
        await store.write("a", 1, b"S")
        before = await self.peek(store, "a")
        assert not await store.remove("a", wrong)
        assert await self.peek(store, "a") == before

    # ── many writers ─────────────────────────────────────────────────────────────────────────────────────────

    async def test_of_a_hundred_one_wins(self, store: Store, open_store: OpenStore) -> None:
        clients = [store, await open_store()]
        await store.write("a", 0, b"R")
        tries = [clients[n % 2].write("a", 1, b"%d" % n, timers={"t": float(n)}) for n in range(100)]
        won = [n for n, result in enumerate(await asyncio.gather(*tries)) if result]
        assert len(won) == 1
        assert await self.peek(store, "a") == Peek(2, b"%d" % won[0], None, {"t": float(won[0])}, {})

    async def test_of_many_creators_one_wins(self, store: Store, open_store: OpenStore) -> None:
        clients = [store, await open_store()]
        tries = [clients[n % 2].write("a", 0, b"%d" % n) for n in range(20)]
        won = [n for n, result in enumerate(await asyncio.gather(*tries)) if result]
        assert len(won) == 1
        assert await self.peek(store, "a") == Peek(1, b"%d" % won[0], None, {}, {})

    async def test_no_increment_is_lost(self, store: Store, open_store: OpenStore) -> None:
        async def increment(client: Store) -> None:
            while True:
                stored = await client.read("a")
                version, record = (stored.version, stored.record) if stored else (0, b"0")
                if await client.write("a", version, b"%d" % (int(record) + 1)):
                    return

        clients = [store, await open_store()]
        await asyncio.gather(*(increment(clients[n % 2]) for n in range(16)))
        stored = await store.read("a")
        assert stored is not None
        assert (stored.version, stored.record) == (16, b"16")

    async def test_a_cancelled_write_happens_wholly_or_not_at_all(self, store: Store) -> None:
        await store.write("a", 0, b"0", body=b"0", timers={"t": 0.0}, listings=[line("s", phase="0")])
        for n in range(1, 60):
            stored = await store.read("a")
            assert stored is not None
            tag = b"%d" % n
            write = store.write(
                "a", stored.version, tag, body=tag, timers={"t": float(n)}, listings=[line("s", phase=str(n))]
            )
            task = asyncio.ensure_future(write)
            for _ in range(n % 4):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            seen = await self.peek(store, "a")
            assert seen is not None
            assert (seen.body, seen.timers) == (seen.record, {"t": float(seen.record)})
            assert seen.phases == {"s": seen.record.decode()}
        await self._still_writes(store)

    async def _still_writes(self, store: Store) -> None:
        """A cancelled write may still be under way: whoever compares and sets again gets through after it."""
        for _ in range(3):
            stored = await store.read("a")
            assert stored is not None
            if await store.write("a", stored.version, b"end"):
                break
        stored = await store.read("a")
        assert stored is not None
        assert stored.record == b"end"

    # ── age, life ────────────────────────────────────────────────────────────────────────────────────────────

    async def test_old_bodies_are_pruned_and_records_stay(self, store: Store, clock: FakeClock) -> None:
        for key in ("a", "b", "c"):
            await store.write(key, 0, b"R", body=b"B", timers={"t": 5.0}, listings=[line(key)])
        clock.advance(100)
        await store.write("b", 1, b"R", body=b"new")
        await store.write("c", 1, b"S")  # the record is young, the body is not
        assert await store.prune_bodies(clock.now()) == 2
        assert await store.prune_bodies(clock.now()) == 0
        assert [await store.body(key) for key in "abc"] == [None, b"new", None]
        assert await self.peek(store, "a") == Peek(1, b"R", None, {"t": 5.0}, {"a": "OFFERED"})
        assert await store.write("a", 1, b"R", body=b"again")
        assert await store.body("a") == b"again"

    async def test_a_store_that_works_says_so(self, store: Store) -> None:
        await store.ping()
        await store.ping()

    async def test_a_closed_store_is_unavailable(self, store: Store) -> None:
        await store.close()
        await store.close()
        with pytest.raises(Unavailable):
            await store.read("a")
        with pytest.raises(Unavailable):
            await store.write("a", 0, b"R")
        with pytest.raises(Unavailable):
            await store.claim(1, 60)
        with pytest.raises(Unavailable):
            await store.ping()
