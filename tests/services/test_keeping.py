"""House-keeping by age: first what offers say in full, then all but what was decided."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest

from broker.domain import offerset
from broker.domain.identity import aggregate
from broker.errors import NotFound, Unavailable
from broker.ports import Planner, Query, Store
from broker.services.keeping import AGGREGATE, EVERY, PIECE, TIMER, Keeping, Kept
from broker.testing.bench import ADA, Bench, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite
from broker.testing.tripwire import Died, Tripwire

DAY = 86400.0
OFFERS, RECORDS = 7 * DAY, 400 * DAY


def keeping(bench: Bench, records_for: float = RECORDS) -> Keeping:
    made = Keeping(store=bench.store, records=bench.records, clock=bench.clock, offers=OFFERS, records_for=records_for)
    bench.handlers = {**bench.handlers, TIMER: made.keep}
    return made


async def sweep(bench: Bench) -> None:
    """The next one, to its end."""
    bench.clock.advance(EVERY)
    await bench.settle(60)


async def lines(bench: Bench) -> dict[str, str]:
    found = [line for kind in ("offerset", "session") for line in await bench.store.listings(Query(kind))]
    return {line.id: line.phase for line in found}


async def ended(bench: Bench, *sites: ScriptedSite) -> UUID:
    """A set of which a session was taken, which is over."""
    state = await bench.ask()
    best = uuids(state)[0]
    await bench.accept(best)
    await bench.settle(60)
    for site in sites:
        site.all_over()
    await bench.settle(600)
    assert offerset.over(await bench.record(best))
    return best


async def test_offers_go_first_and_records_stay(bench: Bench, alba: ScriptedSite) -> None:
    await keeping(bench).start()
    best = await ended(bench, alba)
    bench.clock.advance(OFFERS + 2 * EVERY)
    before = await bench.record(best)
    await bench.work()
    assert await bench.records.body(before) is None
    assert await bench.record(best) == before


async def test_of_a_set_that_is_over_the_decision_and_the_taken_session_are_left(
    bench: Bench, alba: ScriptedSite
) -> None:
    await keeping(bench).start()
    best = await ended(bench, alba)
    before = await bench.record(best)
    others = [item.uuid for item in before.sessions if item.uuid != best]
    bench.clock.advance(RECORDS)
    await sweep(bench)
    left = await bench.record(best)
    assert left.decision == before.decision is not None
    assert (left.uuid, left.owner, left.account, left.created) == (
        before.uuid, before.owner, before.account, before.created
    )  # fmt: skip
    assert [(item.uuid, item.phase, item.offer, item.body) for item in left.sessions] == [
        (best, "COMPLETED", b"", None)
    ]
    assert await lines(bench) == {str(left.uuid): "TAKEN", str(best): "COMPLETED"}
    state = await bench.sessions.get(best, ADA)
    assert (state.item.phase, state.kept) == ("COMPLETED", None)
    assert (await bench.offers.get(left.uuid, ADA)).record.taken == best
    assert others
    for uuid in others:
        with pytest.raises(NotFound):
            await bench.sessions.get(uuid, ADA)


async def test_a_set_of_which_nothing_was_taken_is_gone(bench: Bench) -> None:
    await keeping(bench).start()
    state = await bench.ask()
    await bench.settle(1000)
    bench.clock.advance(RECORDS)
    await sweep(bench)
    assert await lines(bench) == {}
    assert await bench.store.whole(aggregate(state.uuid)) is None
    for uuid in (state.uuid, uuids(state)[0]):
        with pytest.raises(NotFound):
            await bench.record(uuid)


async def test_what_is_not_over_is_left_alone_and_looked_at_again(bench: Bench, alba: ScriptedSite) -> None:
    await keeping(bench).start()
    state = await bench.ask()
    best = uuids(state)[0]
    await bench.accept(best)
    await bench.settle(60)
    bench.clock.advance(RECORDS)
    await sweep(bench)
    assert len((await bench.record(best)).sessions) > 1
    for _ in range(2):
        await sweep(bench)
    alba.all_over()
    await bench.settle(60)
    await sweep(bench)
    assert len((await bench.record(best)).sessions) == 1
    assert (await kept(bench.store)).waiting == ()


async def test_what_was_reduced_is_not_looked_at_again(bench: Bench, alba: ScriptedSite) -> None:
    await keeping(bench).start()
    best = await ended(bench, alba)
    bench.clock.advance(RECORDS)
    await sweep(bench)
    version, _ = await bench.records.versioned(best)
    until = (await kept(bench.store)).until
    assert until > (await bench.record(best)).created
    for _ in range(3):
        await sweep(bench)
    assert (await bench.records.versioned(best))[0] == version
    assert (await kept(bench.store)).until > until


async def test_many_are_reduced_some_a_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.services.keeping.PIECE", 3)
    house = keeping(bench)
    await house.start()
    for _ in range(8):
        await bench.ask()
        bench.clock.advance(0.5)
    await bench.settle(1000)
    bench.clock.advance(RECORDS)
    counts = []
    while (due := await house.keep(AGGREGATE)) is not None and due < bench.clock.now() + EVERY:
        counts.append(len(await bench.store.listings(Query("offerset"))))
    assert counts == [5, 2]
    assert await lines(bench) == {}
    assert PIECE > 3


async def test_a_worker_that_died_in_a_sweep_is_followed_by_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.services.keeping.PIECE", 3)
    first = keeping(bench)
    await first.start()
    for _ in range(8):
        await bench.ask()
        bench.clock.advance(0.5)
    await bench.settle(1000)
    bench.clock.advance(RECORDS)
    await first.keep(AGGREGATE)
    await keeping(bench).start()
    await bench.settle(EVERY + 60)
    assert await lines(bench) == {}


async def test_records_can_be_kept_for_ever(bench: Bench, alba: ScriptedSite) -> None:
    await keeping(bench, records_for=0).start()
    best = await ended(bench, alba)
    before = await bench.record(best)
    bench.clock.advance(10 * RECORDS)
    await sweep(bench)
    assert await bench.record(best) == before
    assert await bench.records.body(before) is None


async def test_a_record_that_cannot_be_read_keeps_no_other_from_it(bench: Bench) -> None:
    await keeping(bench).start()
    bad, good = await bench.ask(), await bench.ask()
    await bench.settle(1000)
    stored = await bench.store.read(aggregate(bad.uuid))
    assert stored is not None
    newer = msgspec.msgpack.encode({**msgspec.msgpack.decode(stored.record), "schema": offerset.SCHEMA + 1})
    assert await bench.store.write(aggregate(bad.uuid), stored.version, newer)
    bench.clock.advance(RECORDS)
    await sweep(bench)
    assert (await kept(bench.store)).waiting == (bad.uuid,)
    with pytest.raises(NotFound):
        await bench.record(good.uuid)
    with pytest.raises(Unavailable, match="newer broker"):
        await bench.record(bad.uuid)


async def test_of_two_replicas_one_timer_comes(bench: Bench, store: Store, clock: FakeClock) -> None:
    await keeping(bench).start()
    await keeping(bench).start()
    assert [lease.key for lease in await store.claim(10, 60)] == [TIMER]


@pytest.mark.parametrize("after", [False, True], ids=["before it", "its answer lost"])
async def test_a_sweep_that_dies_at_any_step_is_made_whole_by_the_next(
    any_store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite, after: bool
) -> None:
    """A timer that is never settled comes again when its lease ends; here, from the next life."""
    sites: dict[str, Planner] = {"alba": alba, "borealis": borealis}
    bench = await Bench(any_store, clock, sites).start()
    await keeping(bench).start()
    best = await ended(bench, alba)
    decision = (await bench.record(best)).decision
    for _ in range(3):
        await bench.ask()
    await bench.settle(1000)
    clock.advance(RECORDS)
    deaths = 0
    while True:
        wire = Tripwire(deaths, after=after)
        dying = Bench(wire.behind(any_store), clock, sites)
        try:
            await keeping(dying).keep(AGGREGATE)
        except Died:
            deaths += 1
            continue
        break
    assert deaths > 3
    left = await bench.record(best)
    assert (left.decision, len(left.sessions)) == (decision, 1)
    assert await lines(bench) == {str(left.uuid): "TAKEN", str(best): "COMPLETED"}


async def kept(store: Store) -> Kept:
    stored = await store.read(AGGREGATE)
    assert stored is not None
    return msgspec.msgpack.decode(stored.record, type=Kept)
