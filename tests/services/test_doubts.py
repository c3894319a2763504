"""What an operator may say of an acceptance in doubt, and what follows from it."""

from __future__ import annotations

from uuid import UUID

import pytest

from broker.domain import offerset
from broker.domain.identity import aggregate
from broker.errors import BadInput, Conflict, NotAllowed, NotFound, SiteTimeout, SiteUnreachable
from broker.testing.bench import ADA, OPERATOR, Bench, broken_rules, by_site
from broker.testing.scripted import ScriptedSite, Step, fails, lost

SILENT = SiteTimeout("silent")


async def doubtful(bench: Bench, site: ScriptedSite, *, acts: bool, **wishes: bool) -> UUID:
    """An acceptance whose site took it, or did not, and never answers again."""
    session = by_site(await bench.ask(preferences=wishes))[site.name]
    site.steps["accept"] = [lost(SILENT) if acts else fails(SILENT)]
    for operation in ("status", "update", "release"):
        site.steps[operation] = [Step(acts=False, error=SiteUnreachable("gone")) for _ in range(200)]
    assert (await bench.accept(session)).item.phase == "OFFERED"
    return session


async def test_a_doubt_is_listed_with_what_a_person_needs_to_look_it_up(bench: Bench, alba: ScriptedSite) -> None:
    session = await doubtful(bench, alba, acts=True)
    (doubt,) = await bench.doubts.list(OPERATOR)
    record = await bench.record(session)
    assert (doubt.session, doubt.set, doubt.site, doubt.owner) == (session, record.uuid, "alba", str(ADA.owner))
    assert doubt.handle == record.session(session).handle
    assert doubt.tries == 1
    assert "silent" in doubt.reason


@pytest.mark.parametrize("minutes", [0, 30])
async def test_taken_by_the_word_of_an_operator_it_is_followed_and_the_others_go(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, minutes: int
) -> None:
    session = await doubtful(bench, alba, acts=True)
    await bench.settle(60.0 * minutes)
    state = await bench.doubts.decide(session, True, "olga saw job 17 run", OPERATOR)
    assert state.item.phase == "ACCEPTED"
    note = state.item.notes[-1]
    assert (note.kind, note.values["who"], note.values["reason"]) == (
        "uri:acceptance-decided", "olga", "olga saw job 17 run",
    )  # fmt: skip
    assert state.record.decision is not None
    alba.steps.clear()
    alba.all_over()
    await bench.settle(600)
    record = await bench.record(session)
    assert record.session(session).phase == "COMPLETED"
    assert broken_rules(record, (alba, borealis), bench.clock.now()) == []
    assert await bench.doubts.list(OPERATOR) == []


async def test_not_taken_by_the_word_of_an_operator_the_set_is_open_again(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    session = await doubtful(bench, alba, acts=False)
    state = await bench.doubts.decide(session, False, "they had no power", OPERATOR)
    assert state.item.phase == "REJECTED"
    other = by_site(await bench.offers.get(state.record.uuid, ADA))["borealis"]
    assert (await bench.accept(other)).item.phase == "ACCEPTED"
    await bench.settle(600)
    assert broken_rules(await bench.record(session), (alba, borealis), bench.clock.now()) == []


async def test_not_taken_leads_to_failover_where_the_request_asked_for_it(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    session = await doubtful(bench, alba, acts=False, failover=True)
    state = await bench.doubts.decide(session, False, "they had no power", OPERATOR)
    assert state.item.phase == "REJECTED"
    assert state.record.taken is not None
    assert sum(borealis.runs.values()) + sum(alba.runs.values()) == 1


@pytest.mark.parametrize("taken", [True, False])
async def test_saying_it_again_changes_nothing(bench: Bench, alba: ScriptedSite, taken: bool) -> None:
    session = await doubtful(bench, alba, acts=taken)
    await bench.doubts.decide(session, taken, "asked there", OPERATOR)
    before = await bench.record(session)
    await bench.doubts.decide(session, taken, "asked there once more", OPERATOR)
    assert await bench.record(session) == before
    with pytest.raises(Conflict):
        await bench.doubts.decide(session, not taken, "no, the other way round", OPERATOR)


async def test_what_is_not_in_doubt_cannot_be_decided(bench: Bench, alba: ScriptedSite) -> None:
    sessions = by_site(await bench.ask())
    with pytest.raises(Conflict, match="not in doubt"):
        await bench.doubts.decide(sessions["alba"], True, "x", OPERATOR)
    await bench.accept(sessions["alba"])
    with pytest.raises(Conflict):
        await bench.doubts.decide(sessions["alba"], False, "x", OPERATOR)
    with pytest.raises(NotFound):
        await bench.doubts.decide(UUID(int=5), False, "x", OPERATOR)


async def test_while_the_site_is_being_asked_nobody_else_decides(bench: Bench, alba: ScriptedSite) -> None:
    session = by_site(await bench.ask())["alba"]
    now = bench.clock.now()
    await bench.records.change(session, lambda r: offerset.claim(r, session, b"", now, 30.0))
    with pytest.raises(Conflict, match="being asked just now"):
        await bench.doubts.decide(session, False, "x", OPERATOR)


async def test_an_operator_gives_a_reason_and_nobody_else_is_heard(bench: Bench, alba: ScriptedSite) -> None:
    session = await doubtful(bench, alba, acts=True)
    with pytest.raises(NotAllowed):
        await bench.doubts.list(ADA)
    with pytest.raises(NotAllowed):
        await bench.doubts.decide(session, True, "it is mine", ADA)
    with pytest.raises(BadInput, match="because"):
        await bench.doubts.decide(session, True, "  ", OPERATOR)


async def test_a_record_that_cannot_be_read_hides_no_other_doubt(bench: Bench, alba: ScriptedSite) -> None:
    spoilt = await doubtful(bench, alba, acts=True)
    alba.steps.clear()
    session = await doubtful(bench, alba, acts=True)
    stored = await bench.store.read(aggregate(spoilt))
    assert stored is not None
    await bench.store.write(aggregate(spoilt), stored.version, b"\xc1")
    assert [doubt.session for doubt in await bench.doubts.list(OPERATOR)] == [session]
