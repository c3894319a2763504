"""Reading sessions, and what runs left: logs and results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest

from broker.domain.identity import Caller, Owner
from broker.errors import Conflict, NotFound, SiteForgot, SiteTimeout, Unavailable
from broker.ports import Store
from broker.testing.bench import ADA, BOB, OPERATOR, Bench, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails


@pytest.fixture
async def taken(bench: Bench) -> UUID:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    return best


async def read(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_a_session_is_read_with_its_rank_and_its_offer(bench: Bench) -> None:
    best, second, _ = uuids(await bench.ask())
    state = await bench.sessions.get(second, ADA)
    assert state.ranked is not None
    assert (state.uuid, state.ranked.rank, state.kept is not None) == (second, 2, True)
    assert best != second


async def test_readers_see_expiry_before_the_timer_does(bench: Bench, clock: FakeClock) -> None:
    best = uuids(await bench.ask())[0]
    clock.advance(301)
    assert (await bench.sessions.get(best, ADA)).item.phase == "EXPIRED"


async def test_many_are_read_at_once_and_the_unknown_named(bench: Bench) -> None:
    mine, theirs = uuids(await bench.ask()), uuids(await bench.ask(BOB))
    missing = uuid4()
    states, unknown = await bench.sessions.many([mine[0], theirs[0], missing, mine[1]], ADA)
    assert [state.uuid for state in states] == mine[:2]
    assert unknown == [theirs[0], missing]


async def test_the_list_leaves_offers_out_unless_asked_and_pages(bench: Bench, clock: FakeClock) -> None:
    taken = []
    for _ in range(3):
        best = uuids(await bench.ask())[0]
        await bench.accept(best)
        taken.append(str(best))
        clock.advance(1)
    first = await bench.sessions.list(ADA, limit=2)
    assert [line.id for line in first] == taken[:0:-1]
    rest = await bench.sessions.list(ADA, limit=2, after=(first[-1].created, first[-1].id))
    assert [line.id for line in rest] == taken[:1]
    assert len(await bench.sessions.list(ADA, phases=("REJECTED",))) == 6
    assert await bench.sessions.list(BOB) == []
    assert len(await bench.sessions.list(OPERATOR, everyone=True)) == 3


async def test_logs_and_results_of_a_run(bench: Bench, taken: UUID) -> None:
    assert (await bench.sessions.logs(taken, ADA)).stdout == "out"
    assert [item.name for item in await bench.sessions.results(taken, ADA)] == ["a.txt"]
    assert await read(await bench.sessions.fetch(taken, "a.txt", ADA)) == b"ab"


async def test_a_result_that_is_not_there_is_not_found(bench: Bench, taken: UUID) -> None:
    with pytest.raises(NotFound, match=r'no result "b\.txt"'):
        await bench.sessions.fetch(taken, "b.txt", ADA)


async def test_an_offer_has_neither(bench: Bench) -> None:
    best = uuids(await bench.ask())[0]
    for call in (bench.sessions.logs, bench.sessions.results):
        with pytest.raises(Conflict, match="never ran"):
            await call(best, ADA)
    with pytest.raises(Conflict, match="never ran"):
        await bench.sessions.fetch(best, "a.txt", ADA)


async def test_strangers_get_neither(bench: Bench, taken: UUID, alba: ScriptedSite) -> None:
    for call in (bench.sessions.logs, bench.sessions.results):
        with pytest.raises(NotFound):
            await call(taken, BOB)
    with pytest.raises(NotFound):
        await bench.sessions.fetch(taken, "a.txt", BOB)
    assert not alba.calls("logs") + alba.calls("results") + alba.calls("fetch")


async def test_a_site_that_does_not_answer_is_said_to_be_so(bench: Bench, taken: UUID, alba: ScriptedSite) -> None:
    for operation in ("logs", "results", "fetch"):
        alba.steps[operation] = [fails(SiteTimeout("slow"))]
    with pytest.raises(Unavailable, match="slow"):
        await bench.sessions.logs(taken, ADA)
    with pytest.raises(Unavailable, match="slow"):
        await bench.sessions.results(taken, ADA)
    with pytest.raises(Unavailable, match="slow"):
        await bench.sessions.fetch(taken, "a.txt", ADA)


async def test_a_site_that_keeps_nothing_has_no_results(bench: Bench, taken: UUID, alba: ScriptedSite) -> None:
    alba.steps["results"] = [fails(SiteForgot("gone"))]
    assert await bench.sessions.results(taken, ADA) == ()


async def test_a_site_registered_no_more_cannot_be_asked(
    bench: Bench, store: Store, clock: FakeClock, taken: UUID, borealis: ScriptedSite
) -> None:
    after = await Bench(store, clock, {"borealis": borealis}).start()
    with pytest.raises(Unavailable, match="registered no more"):
        await after.sessions.logs(taken, ADA)


async def test_an_account_lists_what_all_its_users_have_and_no_others(bench: Bench, clock: FakeClock) -> None:
    def at(account: str, subject: str) -> Caller:
        return Caller(Owner("above", subject), account, frozenset({"user", "broker"}))

    asked = [at("parent", "ada"), at("parent", "bob"), at("other", "ada"), at("other", "ada|parent")]
    sets = []
    for caller in asked:
        sets.append(uuids(await bench.ask(caller)))
        clock.advance(1)
    mine = await bench.sessions.of_account(at("parent", "parent"), after=None, limit=100, phases=("OFFERED",))
    assert [line.id for line in mine if line.owner == "above|bob"] == sorted(map(str, sets[1]), reverse=True)
    assert {line.id for line in mine} == {str(uuid) for uuid in (*sets[0], *sets[1])}
    first = await bench.sessions.of_account(at("parent", "parent"), after=None, limit=4, phases=("OFFERED",))
    last = (first[-1].created, first[-1].id)
    rest = await bench.sessions.of_account(at("parent", "parent"), after=last, limit=4, phases=("OFFERED",))
    assert [*first, *rest] == mine


async def test_an_account_that_speaks_for_nobody_lists_its_own(bench: Bench) -> None:
    asked, _ = await bench.ask(), await bench.ask(BOB)
    mine = await bench.sessions.of_account(ADA, after=None, limit=100, phases=("OFFERED",))
    assert {line.id for line in mine} == {str(uuid) for uuid in uuids(asked)}
    assert {line.owner for line in mine} == {"here|ada"}
