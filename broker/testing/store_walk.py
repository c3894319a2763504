"""The Store's contract on walking through everything that it holds. Imports pytest, ports, testing's clock."""

from __future__ import annotations

from broker.ports import Store, Timer, Whole
from broker.testing.clock import FakeClock
from broker.testing.store_base import StoreSuite, line


class WalkContract(StoreSuite):
    async def test_of_nothing_there_is_nothing_to_walk(self, store: Store) -> None:
        assert await store.keys() == ([], "")
        assert await store.whole("a") is None

    async def test_a_walk_names_every_aggregate(self, store: Store) -> None:
        wanted = {f"{n:03}" for n in range(25)}
        for key in wanted:
            await store.write(key, 0, b"R")
        assert await self._walk(store, 10) == wanted
        assert await self._walk(store, 25) == wanted
        assert await self._walk(store, 1000) == wanted

    async def test_what_is_there_all_the_time_is_named_whatever_comes_and_goes(self, store: Store) -> None:
        stays = {f"{n:03}-stays" for n in range(20)}
        for key in stays:
            await store.write(key, 0, b"R")
            await store.write(f"{key}-not", 0, b"R")
        seen: set[str] = set()
        piece, cursor = await store.keys("", 4)
        while True:
            seen.update(piece)
            for key in [key for key in piece if key.endswith("-not")]:
                await store.remove(key, 1)
            await store.write(f"new-{len(seen)}", 0, b"R")
            if not cursor or len(seen) > 1000:
                break
            piece, cursor = await store.keys(cursor, 4)
        assert stays <= seen

    async def test_a_whole_is_the_record_with_all_that_hangs_on_it(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        await store.write("a", 0, b"R", timers={"t": now - 5, "u": now + 5}, listings=[line("s"), line("v")])
        await store.write("b", 0, b"R", timers={"t": now + 50}, listings=[line("w")])
        await self.settled(store)
        found = await store.whole("a")
        assert found is not None
        assert (found.version, found.record, found.timers) == (1, b"R", {"t": Timer(now - 5), "u": Timer(now + 5)})
        assert sorted(found.lines, key=lambda at: at.id) == [line("s"), line("v")]

    async def test_it_says_who_is_being_worked_on(self, store: Store, clock: FakeClock) -> None:
        due = clock.now() - 5
        await store.write("a", 0, b"R", timers={"t": due})
        await store.claim(1, 60)
        assert await store.whole("a") == Whole(1, b"R", {"t": Timer(due, leased=True)}, ())
        clock.advance(61)
        assert await store.whole("a") == Whole(1, b"R", {"t": Timer(due)}, ())

    async def test_of_what_was_removed_nothing_is_left(self, store: Store) -> None:
        await store.write("a", 0, b"R", body=b"B", timers={"t": 5.0}, listings=[line("s")])
        await store.remove("a", 1)
        await self.settled(store)
        assert await store.whole("a") is None
        assert await self._walk(store, 10) == set()

    @staticmethod
    async def _walk(store: Store, limit: int) -> set[str]:
        found, (piece, cursor) = set[str](), await store.keys("", limit)
        found.update(piece)
        while cursor and len(found) < 10_000:
            piece, cursor = await store.keys(cursor, limit)
            found.update(piece)
        return found
