"""Following sets and sessions: nothing is missed, whoever was away goes on, and every stream ends when it must."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

import pytest

from broker.errors import NotFound
from broker.ports import Store
from broker.services.events import LONGEST, Change, Events
from broker.testing.bench import ADA, BOB, Bench, by_site
from broker.testing.clock import FakeClock

Stream = AsyncGenerator[Change | None, None]


@pytest.fixture
def events(bench: Bench, clock: FakeClock) -> Events:
    """It waits for the bell for as long as a test may take."""
    return Events(
        records=bench.records, offers=bench.offers, sessions=bench.sessions, hub=bench.hub, clock=clock, beat=60.0
    )


async def set_(events: Events, uuid: UUID, after: int | None = None) -> Stream:
    found = await events.follow_set(uuid, ADA, after)
    assert found is not None
    return found


async def session(events: Events, uuid: UUID, after: int | None = None) -> Stream:
    found = await events.follow_session(uuid, ADA, after)
    assert found is not None
    return found


async def soon(stream: Stream) -> asyncio.Task[Any]:
    """The next change, waited for by somebody who listens by now."""

    async def next_() -> Change | None:
        return await anext(stream, None)

    task = asyncio.create_task(next_())
    await asyncio.sleep(0)
    return task


async def test_the_present_state_comes_at_once_and_then_every_change(bench: Bench, events: Events) -> None:
    state = await bench.ask()
    alba = by_site(state)["alba"]
    stream = await session(events, alba)
    first = await anext(stream)
    assert first is not None
    assert first.state.item.phase == "OFFERED"
    waiting = await soon(stream)
    await bench.accept(alba)
    phases, cursor = [], first.cursor
    change = await waiting
    while change is not None and change.state.item.phase != "ACCEPTED":
        change = await anext(stream)
    assert change is not None
    assert change.cursor > cursor
    assert change.state.item.phase == "ACCEPTED"
    waiting = await soon(stream)
    await bench.update(alba, "CANCELLED")
    change = await waiting
    while change is not None:
        phases.append(change.state.item.phase)
        change = await anext(stream, None)
    assert phases[-1] == "CANCELLED"
    assert not bench.hub._bells


async def test_whoever_was_away_is_told_what_changed_meanwhile(bench: Bench, events: Events) -> None:
    state = await bench.ask()
    alba = by_site(state)["alba"]
    stream = await session(events, alba)
    first = await anext(stream)
    await stream.aclose()
    assert first is not None
    await bench.accept(alba)
    again = await session(events, alba, first.cursor)
    change = await anext(again)
    assert change is not None
    assert change.state.item.phase == "ACCEPTED"
    await again.aclose()
    last = await session(events, alba, change.cursor)
    waiting = await soon(last)
    assert not waiting.done()
    events.close()
    assert await waiting is None


async def test_a_set_is_told_of_until_nothing_more_can_come(bench: Bench, events: Events) -> None:
    state = await bench.ask()
    stream = await set_(events, state.uuid)
    cursors = [change.cursor for change in [await anext(stream)] if change]
    waiting = await soon(stream)
    for uuid in [item.uuid for item in state.record.sessions]:
        await bench.update(uuid, "REJECTED")
    change = await waiting
    while change is not None:
        cursors.append(change.cursor)
        change = await anext(stream, None)
    assert cursors == sorted(set(cursors))
    assert await events.follow_set(state.uuid, ADA, cursors[-1]) is None
    assert await events.follow_set(state.uuid, ADA, cursors[0]) is not None


async def test_offers_that_expire_are_told_of_when_that_is_written(
    bench: Bench, events: Events, clock: FakeClock
) -> None:
    """By the time, it is over before; a stream that ended then would never tell."""
    state = await bench.ask()
    alba = by_site(state)["alba"]
    first = await anext(await session(events, alba))
    assert first is not None
    clock.advance(400)
    stream = await session(events, alba, first.cursor)
    waiting = await soon(stream)
    await bench.work()
    change = await waiting
    assert change is not None
    assert (change.state.item.phase, await anext(stream, None)) == ("EXPIRED", None)


async def test_a_quiet_stream_gives_signs_of_life_and_sees_what_others_wrote(
    bench: Bench, store: Store, clock: FakeClock
) -> None:
    """Another process on the same store rings no bell here."""
    state = await bench.ask()
    events = Events(
        records=bench.records, offers=bench.offers, sessions=bench.sessions, hub=bench.hub, clock=clock, beat=0.001
    )
    stream = await set_(events, state.uuid)
    await anext(stream)
    assert await anext(stream) is None
    other = await Bench(store, clock, {}).start()
    await other.update(by_site(state)["alba"], "REJECTED")
    change = await anext(stream)
    while change is None:
        change = await anext(stream)
    assert change.state.record.session(by_site(state)["alba"]).phase == "REJECTED"


async def test_what_one_may_not_read_one_may_not_follow(bench: Bench, events: Events) -> None:
    state = await bench.ask()
    for follow, uuid in (
        (events.follow_set, state.uuid),
        (events.follow_session, by_site(state)["alba"]),
    ):
        with pytest.raises(NotFound):
            await follow(uuid, BOB, None)
    with pytest.raises(NotFound):
        await events.follow_set(by_site(state)["alba"], ADA, None)
    with pytest.raises(NotFound):
        await events.follow_session(state.uuid, ADA, None)


async def test_a_stream_ends_after_a_while_so_that_its_reader_signs_in_again(
    bench: Bench, events: Events, clock: FakeClock
) -> None:
    state = await bench.ask()
    stream = await set_(events, state.uuid)
    await anext(stream)
    waiting = await soon(stream)
    clock.advance(LONGEST)
    bench.hub.ring("another")
    assert not waiting.done()
    await bench.update(by_site(state)["alba"], "REJECTED")
    assert await waiting is None
