"""One act for one Idempotency-Key: repetitions, rivals, failures and crashes, on any store."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import msgspec
import pytest

from broker.domain.identity import Caller, Hop, new_set
from broker.errors import Conflict, KeyReused, NotFound, TooMany, Unavailable
from broker.ports import Store
from broker.services.keys import HOLD, KEPT, RENEW_EVERY, Keys, Once
from broker.services.offers import How
from broker.testing.bench import ADA, BOB, Bench, request
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite


class Acts:
    """What was made, by uuid, in the store as a set would be; `error` is raised after or instead of it."""

    def __init__(self, store: Store) -> None:
        self.store, self.made, self.shown = store, 0, 0
        self.error: Exception | None = None
        self.makes = True
        self.wait: asyncio.Event | None = None
        self.begun = asyncio.Event()

    async def act(self, uuid: UUID) -> UUID:
        self.begun.set()
        if self.wait:
            await self.wait.wait()
        if self.makes:
            if not await self.store.write(f"{uuid.int & ((1 << 96) - 1):024x}", 0, b"made"):
                raise Unavailable("twice.")
            self.made += 1
        if self.error:
            raise self.error
        return uuid

    async def show(self, uuid: UUID) -> UUID:
        if await self.store.read(f"{uuid.int & ((1 << 96) - 1):024x}") is None:
            raise NotFound("not there.")
        self.shown += 1
        return uuid


@pytest.fixture
def acts(any_store: Store) -> Acts:
    return Acts(any_store)


@pytest.fixture
def keys(any_store: Store, clock: FakeClock) -> Keys:
    return Keys(any_store, clock)


def once(head: int = 1, caller: Caller = ADA, **more: Any) -> Once:
    uuid = new_set(bytes([head]) * 16)
    return msgspec.structs.replace(Once(caller, "POST /requests", "k", b"asked", uuid), **more)


async def test_a_repetition_is_shown_what_the_first_made(keys: Keys, acts: Acts) -> None:
    first = await keys.once(once(1), acts.act, acts.show)
    assert await keys.once(once(2), acts.act, acts.show) == first
    assert (acts.made, acts.shown) == (1, 1)


@pytest.mark.parametrize("other", [{"caller": BOB}, {"call": "POST /direct"}, {"key": "l"}])
async def test_a_key_is_its_senders_and_its_calls_alone(keys: Keys, acts: Acts, other: dict[str, Any]) -> None:
    first = await keys.once(once(1), acts.act, acts.show)
    assert await keys.once(once(2, **other), acts.act, acts.show) != first
    assert acts.made == 2


async def test_something_else_with_the_same_key_is_refused(keys: Keys, acts: Acts) -> None:
    await keys.once(once(1), acts.act, acts.show)
    with pytest.raises(KeyReused):
        await keys.once(once(2, asked=b"another"), acts.act, acts.show)
    assert acts.made == 1


async def test_of_many_at_the_same_instant_one_acts(keys: Keys, acts: Acts) -> None:
    acts.wait = asyncio.Event()
    rivals = [asyncio.create_task(keys.once(once(n), acts.act, acts.show)) for n in range(1, 11)]
    late = await asyncio.wait(rivals, return_when=asyncio.FIRST_EXCEPTION)
    busy = next(iter(late[0])).exception()
    assert isinstance(busy, Conflict)
    assert busy.retry_after is not None
    acts.wait.set()
    found = await asyncio.gather(*rivals, return_exceptions=True)
    assert sum(isinstance(item, UUID) for item in found) == 1
    assert sum(isinstance(item, Conflict) for item in found) == 9
    assert acts.made == 1


async def test_what_failed_and_made_nothing_may_be_sent_again(keys: Keys, acts: Acts) -> None:
    acts.error, acts.makes = TooMany("later."), False
    with pytest.raises(TooMany):
        await keys.once(once(1), acts.act, acts.show)
    acts.error, acts.makes = None, True
    assert await keys.once(once(2, asked=b"corrected"), acts.act, acts.show) == once(2).uuid


async def test_what_failed_after_it_was_made_is_not_made_again(keys: Keys, acts: Acts) -> None:
    acts.error = Unavailable("the disk is full.")
    with pytest.raises(Unavailable):
        await keys.once(once(1), acts.act, acts.show)
    acts.error = None
    assert await keys.once(once(2), acts.act, acts.show) == once(1).uuid
    assert acts.made == 1


async def test_after_a_crash_a_key_is_taken_up_when_its_worker_has_surely_ended(
    keys: Keys, acts: Acts, clock: FakeClock
) -> None:
    acts.wait = asyncio.Event()
    crashed = asyncio.create_task(keys.once(once(1), acts.act, acts.show))
    await acts.begun.wait()
    with pytest.raises(Conflict):
        await keys.once(once(2), acts.act, acts.show)
    crashed.cancel()
    await asyncio.gather(crashed, return_exceptions=True)
    acts.wait = None
    clock.advance(HOLD)
    assert await keys.once(once(3), acts.act, acts.show) == once(1).uuid
    assert (acts.made, acts.shown) == (1, 0)
    assert await keys.once(once(4), acts.act, acts.show) == once(1).uuid


async def test_a_worker_thought_dead_makes_no_second_one(keys: Keys, acts: Acts, clock: FakeClock) -> None:
    other = Acts(acts.store)
    other.wait = asyncio.Event()
    stuck = Keys(acts.store, FakeClock())  # its process is stopped, so it renews nothing
    slow = asyncio.create_task(stuck.once(once(1), other.act, other.show))
    await other.begun.wait()
    clock.advance(HOLD)
    assert await keys.once(once(3), acts.act, acts.show) == once(1).uuid
    other.wait.set()
    with pytest.raises(Unavailable):
        await slow
    assert (acts.made, other.made) == (1, 0)
    assert await keys.once(once(4), acts.act, acts.show) == once(1).uuid


async def test_whoever_takes_long_holds_its_key_as_long_as_it_lives(keys: Keys, acts: Acts, clock: FakeClock) -> None:
    acts.wait = asyncio.Event()
    slow = asyncio.create_task(keys.once(once(1), acts.act, acts.show))
    await acts.begun.wait()
    for _ in range(10):
        await clock.asleep()
        clock.advance(RENEW_EVERY)
    await clock.asleep()
    with pytest.raises(Conflict):
        await keys.once(once(2), acts.act, acts.show)
    acts.wait.set()
    assert await slow == once(1).uuid
    assert await keys.once(once(3), acts.act, acts.show) == once(1).uuid
    assert (acts.made, acts.shown) == (1, 1)


async def test_a_key_is_forgotten_after_a_day_and_not_before(
    keys: Keys, acts: Acts, any_store: Store, clock: FakeClock
) -> None:
    await keys.once(once(1), acts.act, acts.show)
    clock.advance(24 * 3600.0)
    assert await any_store.claim(10, 60) == []
    assert await keys.once(once(2), acts.act, acts.show) == once(1).uuid
    clock.advance(KEPT - 24 * 3600.0)
    [lease] = await any_store.claim(10, 60)
    assert (lease.key, await keys.forget(lease.aggregate)) == ("forget", None)
    assert await any_store.read(lease.aggregate) is None
    assert await keys.forget(lease.aggregate) is None
    assert await keys.once(once(2), acts.act, acts.show) == once(2).uuid


# ── with the services ────────────────────────────────────────────────────────────────────────────────────────


async def test_an_acceptance_that_failed_is_tried_again_by_its_key(keys: Keys, acts: Acts) -> None:
    """The session was there before: that it is there says nothing about the acceptance."""
    session = await keys.once(once(1), acts.act, acts.show)
    again = Acts(acts.store)
    again.makes, again.error = False, Conflict("it is being accepted.")
    accepting = once(uuid=session, call="POST /sessions", repeatable=True)
    with pytest.raises(Conflict):
        await keys.once(accepting, again.act, again.show)
    again.error = None
    assert await keys.once(accepting, again.act, again.show) == session
    assert again.shown == 0
    assert await keys.once(accepting, again.act, again.show) == session
    assert again.shown == 1


async def test_a_direct_request_that_a_crash_broke_off_runs_once(
    store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    """The set was saved, and nobody was asked to take it."""
    bench = await Bench(store, clock, {"alba": alba}).start()
    set_ = new_set(b"7" * 16)
    await bench.offers.ask(request(), ADA, Hop(), How(set=set_), direct=True)
    first = await bench.acceptance.directed(set_, ADA)
    again = await bench.acceptance.directed(set_, ADA)
    assert (first.item.phase, again.uuid) == ("ACCEPTED", first.uuid)
    assert sum(alba.runs.values()) == 1
    with pytest.raises(NotFound):
        await bench.acceptance.directed(set_, BOB)


async def test_a_refused_direct_request_is_refused_in_the_same_words_again(store: Store, clock: FakeClock) -> None:
    bench = await Bench(store, clock, {}).start()
    set_ = new_set(b"7" * 16)
    first = await bench.acceptance.direct(request(), ADA, Hop(), How(set=set_))
    again = await bench.acceptance.directed(set_, ADA)
    assert first.refused
    assert again.refused
    assert (again.uuid, again.item.notes) == (first.uuid, first.item.notes)
    assert len(again.record.sessions) == 1
