"""What every Store must hold of timers and leases; a part of `broker.testing.stores`. Imports ports and testing."""

from __future__ import annotations

import asyncio

from broker.ports import Store
from broker.testing.clock import FakeClock
from broker.testing.store_base import OpenStore, Peek, StoreSuite


class TimersContract(StoreSuite):
    async def test_a_timer_is_claimed_when_it_is_due(self, store: Store, clock: FakeClock) -> None:
        due = clock.now() + 10
        await store.write("a", 0, b"R", timers={"t": due})
        clock.advance(9)
        assert await store.claim(10, 60) == []
        clock.advance(1)
        (lease,) = await store.claim(10, 60)
        assert (lease.aggregate, lease.key, lease.due) == ("a", "t", due)

    async def test_the_longest_due_come_first_and_no_more_than_asked(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        for n in (3, 1, 4, 2, 5):
            await store.write(f"a{n}", 0, b"R", timers={"t": now - n})
        assert await store.claim(0, 60) == []
        assert [lease.aggregate for lease in await store.claim(2, 60)] == ["a5", "a4"]
        assert [lease.aggregate for lease in await store.claim(9, 60)] == ["a3", "a2", "a1"]

    async def test_a_lease_keeps_others_out_until_it_ends(
        self, store: Store, open_store: OpenStore, clock: FakeClock
    ) -> None:
        other = await open_store()
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (first,) = await store.claim(1, 60)
        clock.advance(59)
        assert await other.claim(1, 60) == await store.claim(1, 60) == []
        clock.advance(1)
        (second,) = await other.claim(1, 60)
        assert second.token != first.token
        assert not await store.done(first)
        assert not await store.postpone(first, 1.0)
        clock.advance(59)
        assert await store.claim(1, 60) == []  # neither call of the late one changed anything
        assert await other.done(second)

    async def test_a_renewed_lease_lasts_from_now(self, store: Store, open_store: OpenStore, clock: FakeClock) -> None:
        other = await open_store()
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (lease,) = await store.claim(1, 10)
        clock.advance(9)
        assert await store.renew(lease, 10)
        clock.advance(9)
        assert await other.claim(1, 10) == []
        clock.advance(1)
        (taken,) = await other.claim(1, 10)
        assert not await store.renew(lease, 10)  # lost: it changes nothing
        clock.advance(9)
        assert await store.claim(1, 10) == []
        assert await other.done(taken)
        assert not await other.renew(taken, 10)

    async def test_a_lease_that_ended_is_good_until_another_claims(self, store: Store, clock: FakeClock) -> None:
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (lease,) = await store.claim(1, 60)
        clock.advance(100)
        assert await store.done(lease)
        assert await store.claim(1, 60) == []

    async def test_done_removes_the_timer_once(self, store: Store, clock: FakeClock) -> None:
        await store.write("a", 0, b"R", timers={"t": clock.now(), "u": clock.now() + 500})
        (lease,) = await store.claim(1, 60)
        assert await store.done(lease)
        assert not await store.done(lease)
        assert not await store.postpone(lease, 1.0)
        assert await self.peek(store, "a") == Peek(1, b"R", None, {"u": clock.now() + 500}, {})

    async def test_postpone_moves_the_timer_and_ends_the_lease(self, store: Store, clock: FakeClock) -> None:
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (lease,) = await store.claim(1, 600)
        due = clock.now() + 30
        assert await store.postpone(lease, due)
        assert not await store.postpone(lease, due)
        assert not await store.done(lease)
        assert await store.next_due() == due
        clock.advance(29)
        assert await store.claim(1, 60) == []
        clock.advance(1)
        (again,) = await store.claim(1, 60)
        assert (again.due, again.token == lease.token) == (due, False)

    async def test_setting_a_timer_anew_voids_the_lease(self, store: Store, clock: FakeClock) -> None:
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (lease,) = await store.claim(1, 600)
        await store.write("a", 1, b"R", timers={"t": clock.now()})
        assert not await store.done(lease)
        assert not await store.postpone(lease, 1.0)
        (again,) = await store.claim(1, 600)
        assert again.due == clock.now()
        assert await store.done(again)

    async def test_removing_a_timer_voids_the_lease(self, store: Store, clock: FakeClock) -> None:
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (lease,) = await store.claim(1, 600)
        await store.write("a", 1, b"R", timers={"t": None, "never": None})
        assert not await store.postpone(lease, 1.0)
        assert not await store.done(lease)
        assert await store.next_due() is None

    async def test_removing_the_aggregate_voids_the_lease(self, store: Store, clock: FakeClock) -> None:
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (lease,) = await store.claim(1, 600)
        await store.remove("a", 1)
        assert not await store.postpone(lease, 1.0)
        assert not await store.done(lease)
        assert await store.next_due() is None

    async def test_a_write_that_names_another_timer_leaves_the_lease(self, store: Store, clock: FakeClock) -> None:
        await store.write("a", 0, b"R", timers={"t": clock.now()})
        (lease,) = await store.claim(1, 600)
        assert await store.write("a", 1, b"R", timers={"u": clock.now() + 1})
        assert not await store.write("a", 1, b"R", timers={"t": clock.now()})  # it lost, so it voids nothing
        assert await store.claim(1, 600) == []
        assert await store.done(lease)

    async def test_claimers_never_share(self, store: Store, open_store: OpenStore, clock: FakeClock) -> None:
        clients = [store, await open_store()]
        for n in range(12):
            await store.write(f"a{n}", 0, b"R", timers={f"t{m}": clock.now() - m for m in range(5)})
        claims = await asyncio.gather(*(clients[n % 2].claim(7, 60) for n in range(20)))
        held = [(lease.aggregate, lease.key) for claim in claims for lease in claim]
        assert len(held) == len(set(held)) == 60

    async def test_next_due_is_the_earliest_timer_or_end_of_lease(self, store: Store, clock: FakeClock) -> None:
        now = clock.now()
        await store.write("a", 0, b"R", timers={"t": now})
        await store.write("b", 0, b"R", timers={"t": now + 100})
        assert await store.next_due() == now
        (lease,) = await store.claim(1, 60)
        assert await store.next_due() == now + 60
        await store.write("c", 0, b"R", timers={"t": now + 40})
        assert await store.next_due() == now + 40
        await store.done(lease)
        await store.write("c", 1, b"R", timers={"t": None})
        assert await store.next_due() == now + 100
