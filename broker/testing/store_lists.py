"""What every Store must hold of lists and counts; a part of `broker.testing.stores`. Imports ports and testing."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from broker.ports import Listing, Query, Store
from broker.testing.store_base import StoreSuite, line


class ListsContract(StoreSuite):
    async def test_a_line_comes_back_as_it_was(self, store: Store) -> None:
        new = Listing("offerset", "id", "ö", 1_700_000_000.123457, phase="YES", name="名", site="s/1")
        bare = Listing("offerset", "idle", "ö", 1.0)
        await store.write("a", 0, b"R", listings=[new, bare])
        await self.settled(store)
        assert await store.listings(Query("offerset")) == [new, bare]

    async def test_a_line_replaces_the_one_of_its_kind_and_id(self, store: Store) -> None:
        await store.write("a", 0, b"R", listings=[line("s"), line("s", kind="offerset")])
        new = line("s", owner="bob", created=9.0, phase="RUNNING", name="n", site="there")
        await store.write("a", 1, b"R", listings=[new])
        await self.settled(store)
        assert await store.listings(Query("session")) == [new]
        assert await store.listings(Query("session", owner="alice")) == []
        assert await store.listings(Query("offerset")) == [line("s", kind="offerset")]

    async def test_the_last_of_two_equal_lines_holds(self, store: Store) -> None:
        await store.write("a", 0, b"R", listings=[line("s", phase=str(n)) for n in range(80)])
        await self.settled(store)
        assert await store.listings(Query("session")) == [line("s", phase="79")]
        assert _positive(await store.counts()) == {("session", "here", "79"): 1}

    async def test_lines_are_cut_by_kind_and_id_together_with_the_write(self, store: Store) -> None:
        await store.write("a", 0, b"R", listings=[line("1"), line("2"), line("2", kind="offerset")])
        await store.write("b", 0, b"R", listings=[line("3")])
        assert not await store.write("a", 7, b"R", cut=[("session", "1")])
        assert await store.write("a", 1, b"R", cut=[("session", "2"), ("session", "never"), ("session", "3")])
        await self.settled(store)
        assert sorted(at.id for at in await store.listings(Query("session"))) == ["1", "3"]
        assert [at.id for at in await store.listings(Query("offerset"))] == ["2"]
        assert _positive(await store.counts()) == {
            ("session", "here", "OFFERED"): 2,
            ("offerset", "here", "OFFERED"): 1,
        }
        assert await store.write("a", 2, b"R", cut=[("session", "1")], listings=[line("1", phase="RUNNING")])
        await self.settled(store)
        assert [at.phase for at in await store.listings(Query("session", phases=("RUNNING",)))] == ["RUNNING"]

    async def test_the_filters(self, store: Store) -> None:
        lines = [
            line("1", owner="bob", phase="RUNNING"),
            line("2", site="there"),
            line("3", kind="offerset"),
            line("4", phase="RUNNING"),
        ]
        await store.write("a", 0, b"R", listings=lines)
        await self.settled(store)

        async def ids(query: Query) -> list[str]:
            return sorted(at.id for at in await store.listings(query))

        assert await ids(Query("session")) == ["1", "2", "4"]
        assert await ids(Query("session", owner="alice")) == ["2", "4"]
        assert await ids(Query("session", phases=("RUNNING", "FAILED"))) == ["1", "4"]
        assert await ids(Query("session", owner="alice", phases=("RUNNING",))) == ["4"]
        assert await ids(Query("session", site="there")) == ["2"]
        assert await ids(Query("session", site="nowhere")) == []
        assert await ids(Query("session", limit=0)) == []

    async def test_lines_of_a_name_and_of_a_time(self, store: Store) -> None:
        names = ("fit", "Fit", "", "fit")
        lines = [line(str(n), name=name, created=n + 0.5, owner="ab"[n % 2]) for n, name in enumerate(names)]
        await store.write("a", 0, b"R", listings=lines)
        await self.settled(store)

        async def ids(query: Query) -> list[str]:
            return [at.id for at in await store.listings(query)]

        assert await ids(Query("session", name="fit")) == ["3", "0"]
        assert await ids(Query("session", owner="b", name="fit")) == ["3"]
        assert await ids(Query("session", name="")) == ["2"]
        assert await ids(Query("session", since=1.5)) == ["3", "2", "1"]
        assert await ids(Query("session", since=1.6, after=(3.5, "3"))) == ["2"]
        assert await ids(Query("session", owner="a", since=0.5, limit=1)) == ["2"]
        assert await ids(Query("session", name="fit", since=9.0)) == []

    @pytest.mark.parametrize("owner", [None, "alice"])
    async def test_pages_show_each_line_once_newest_first(self, store: Store, owner: str | None) -> None:
        for n in range(5):  # three lines of one instant, in several aggregates
            await store.write(f"a{n}", 0, b"R", listings=[line(f"{n}{m}", created=n // 2 + 0.5) for m in range(3)])
        await self.settled(store)
        seen: list[Listing] = []
        after = None
        for late in range(4):
            page = await store.listings(Query("session", owner=owner, after=after, limit=4))
            assert 3 <= len(page) <= 4
            seen += page
            after = (page[-1].created, page[-1].id)
            await store.write("late", late, b"R", listings=[line(f"late{late}", created=99)])
            await self.settled(store)  # a new line belongs before the first page: it moves none
        assert await store.listings(Query("session", owner=owner, after=after, limit=4)) == []
        assert sorted(at.id for at in seen) == sorted(f"{n}{m}" for n in range(5) for m in range(3))
        assert [at.created for at in seen] == sorted((at.created for at in seen), reverse=True)

    async def test_counts_follow_every_change(self, store: Store) -> None:
        lines = [line("1"), line("2"), line("3", site="there"), line("4", kind="site", phase="")]
        await store.write("a", 0, b"R", listings=lines[:3])
        await store.write("b", 0, b"R", listings=lines[3:])
        await self.settled(store)
        assert _positive(await store.counts()) == {
            ("session", "here", "OFFERED"): 2,
            ("session", "there", "OFFERED"): 1,
            ("site", "here", ""): 1,
        }
        await store.write("a", 1, b"R", listings=[line("1"), line("2", phase="RUNNING"), line("3")])
        await self.settled(store)
        assert _positive(await store.counts()) == {
            ("session", "here", "OFFERED"): 2,
            ("session", "here", "RUNNING"): 1,
            ("site", "here", ""): 1,
        }
        await store.remove("a", 2)
        await self.settled(store)
        assert _positive(await store.counts()) == {("site", "here", ""): 1}


def _positive(counts: Mapping[tuple[str, str, str], int]) -> dict[tuple[str, str, str], int]:
    """A store may keep lines that count nothing."""
    return {key: number for key, number in counts.items() if number}
