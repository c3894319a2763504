"""Accepting once: proof against doubt, fencing, failover, races, expiry, and who may do what."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from broker.domain import kinds
from broker.domain.identity import Caller, Owner
from broker.domain.offerset import SetRecord
from broker.domain.site import Profile, Registration
from broker.domain.updates import EnumValueUpdate, StringValueUpdate
from broker.errors import (
    BadInput,
    Conflict,
    NotAllowed,
    NotAsked,
    NotFound,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
    Unavailable,
)
from broker.ports import Store
from broker.testing.bench import ADA, ADMIN, BOB, OPERATOR, PATIENCE, Bench, broken_rules, by_site, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, Step, fails, lost, says

FAILOVER = {"preferences": {"failover": True}}
PROOF: list[SiteError] = [
    SiteUnreachable("refused to connect"),
    SiteRefused("sold out", status=400),
    SiteRefused("gone", status=404),
    SiteRefused("no status"),
    SiteForbids("who are you"),
    SiteBusy("later", retry_after=3.0),
]
DOUBT: list[SiteError] = [
    SiteTimeout("no answer"),
    SiteMisbehaved("500"),
    SiteRefused("timed out", status=408),
    SiteRefused("conflict", status=409),
    SiteForgot("no such session"),
]


def told(error: SiteError) -> str:
    return f"{type(error).__name__} {getattr(error, 'status', '')}".strip()


def phases(record: SetRecord) -> list[str]:
    return sorted(item.phase for item in record.sessions)


async def at_rest(bench: Bench, uuid: UUID, *sites: ScriptedSite) -> SetRecord:
    """After everything that is due was done, and with every rule kept."""
    await bench.settle(90)
    for site in sites:
        site.all_over()
    await bench.settle(600)
    record = await bench.record(uuid)
    assert broken_rules(record, sites, bench.clock.now()) == []
    return record


# ── the good case ────────────────────────────────────────────────────────────────────────────────────────────


async def test_accepting_takes_one_and_releases_every_other(
    any_store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    bench = await Bench(any_store, clock, {"alba": alba, "borealis": borealis}).start()
    state = await bench.ask()
    best = uuids(state)[0]
    accepted = await bench.accept(best)
    assert accepted.item.phase == "ACCEPTED"
    await bench.work()
    mine = accepted.item.handle
    assert alba.runs == {mine: 1}
    assert sorted(alba.phases.values()) == ["ACCEPTED", "REJECTED"]  # the chosen site's sibling is released
    assert list(borealis.phases.values()) == ["REJECTED"]
    record = await bench.record(best)
    assert phases(record) == ["ACCEPTED", "REJECTED", "REJECTED"]
    assert record.closed
    assert not record.unreleased()


async def test_the_decision_says_what_was_chosen_among_what(bench: Bench) -> None:
    state = await bench.ask()
    best = uuids(state)[0]
    await bench.accept(best)
    decision = (await bench.record(best)).decision
    assert decision is not None
    assert (decision.session, decision.site, decision.rank, decision.eligible) == (best, "alba", 1, 3)
    assert (decision.cost, decision.cheapest, decision.mean, decision.currency) == (1.0, 1.0, 2.0, "EUR")


async def test_accepting_again_answers_with_the_session_and_sends_nothing(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    assert (await bench.accept(best)).item.phase == "ACCEPTED"
    assert len(alba.calls("accept")) == 1


async def test_accepting_again_once_it_runs_shows_how_far_it_is(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    alba.all_over()
    await bench.settle(60)
    assert (await bench.accept(best)).item.phase == "COMPLETED"
    assert len(alba.calls("accept")) == 1


async def test_another_offer_of_the_set_is_refused_naming_the_taken_one(bench: Bench) -> None:
    best, second, third = uuids(await bench.ask())
    await bench.accept(best)
    for other in (second, third):
        with pytest.raises(Conflict, match=str(best)):
            await bench.accept(other)


@pytest.mark.parametrize("phase", ["WAITING", "PREPARING", "AVAILABLE", "READY", "RUNNING", "COMPLETED", "FAILED"])
async def test_a_site_that_is_further_on_already_has_accepted(bench: Bench, alba: ScriptedSite, phase: str) -> None:
    alba.steps["accept"] = [says(phase)]
    state = await bench.accept(uuids(await bench.ask())[0])
    assert state.item.phase == {"READY": "AVAILABLE"}.get(phase, phase)
    assert state.record.taken == state.uuid


# ── proof ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", PROOF, ids=told)
async def test_a_proved_failure_ends_the_offer_and_frees_the_others(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, error: SiteError
) -> None:
    alba.steps["accept"] = [fails(error)]
    best, second, _ = uuids(await bench.ask())
    refused = await bench.accept(best)
    assert refused.item.phase == "REJECTED"
    assert refused.item.notes[-1].values["reason"] == error.detail
    assert not alba.calls("status")
    bench.clock.advance(5)  # the guard minds a site that asked to wait
    assert (await bench.accept(second)).item.phase == "ACCEPTED"
    await at_rest(bench, best, alba, borealis)


@pytest.mark.parametrize("phase", ["REJECTED", "EXPIRED"])
async def test_a_refusal_in_the_answer_is_proof(bench: Bench, alba: ScriptedSite, phase: str) -> None:
    alba.steps["accept"] = [says(phase)]
    best, second, _ = uuids(await bench.ask())
    assert (await bench.accept(best)).item.phase == phase
    assert (await bench.accept(second)).item.phase == "ACCEPTED"


async def test_without_failover_nothing_else_is_accepted(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(SiteRefused("sold out", status=400))]
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    record = await at_rest(bench, best, alba, borealis)
    assert record.claim is None
    assert not alba.runs
    assert not borealis.runs


async def test_with_failover_the_next_ranked_is_accepted_on_proof(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(SiteRefused("sold out", status=400)), fails(SiteUnreachable("down"))]
    state = await bench.ask(**FAILOVER)
    first, second, third = uuids(state)
    answer = await bench.accept(first)
    assert answer.item.phase == "REJECTED"
    assert answer.record.taken == third
    assert borealis.runs.total() == 1
    assert answer.record.session(second).phase == "REJECTED"
    await at_rest(bench, first, alba, borealis)


async def test_our_own_guard_proves_nothing_against_the_offer(bench: Bench, alba: ScriptedSite) -> None:
    """What we hold back ourselves was no refusal: the offer stands, and can be accepted."""
    alba.steps["accept"] = [fails(NotAsked("no room", retry_after=7.0))]
    best = uuids(await bench.ask())[0]
    with pytest.raises(Unavailable, match="no room") as caught:
        await bench.accept(best)
    assert caught.value.retry_after == 7.0
    record = await bench.record(best)
    assert (record.claim, record.session(best).phase) == (None, "OFFERED")
    bench.clock.advance(8)
    assert (await bench.accept(best)).item.phase == "ACCEPTED"
    assert alba.runs.total() == 1


async def test_failover_is_not_made_for_what_we_held_back_ourselves(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(NotAsked("no room"))]
    best = uuids(await bench.ask(**FAILOVER))[0]
    with pytest.raises(Unavailable):
        await bench.accept(best)
    assert not borealis.runs


async def test_a_site_registered_no_more_is_proof_that_nothing_was_sent(
    bench: Bench, store: Store, clock: FakeClock, borealis: ScriptedSite
) -> None:
    best = uuids(await bench.ask())[0]
    after = await Bench(store, clock, {"borealis": borealis}).start()
    assert (await after.accept(best)).item.phase == "REJECTED"


# ── doubt ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", DOUBT, ids=told)
async def test_doubt_is_read_back_at_once_and_the_truth_recorded(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, error: SiteError
) -> None:
    """It took it, and its answer was lost."""
    alba.steps["accept"] = [lost(error)]
    best = uuids(await bench.ask(**FAILOVER))[0]
    assert (await bench.accept(best)).item.phase == "ACCEPTED"
    assert len(alba.calls("accept")) == 1
    await at_rest(bench, best, alba, borealis)
    assert not borealis.runs


@pytest.mark.parametrize("error", DOUBT, ids=told)
async def test_doubt_at_a_plain_site_is_fenced_before_anything_else(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, error: SiteError
) -> None:
    """It did not take it, and reads OFFERED: it is withdrawn, read REJECTED, and only then is the next one asked."""
    alba.steps["accept"] = [fails(error)]
    best, _, third = uuids(await bench.ask(**FAILOVER))
    doubtful = await bench.accept(best)
    assert doubtful.item.phase == "OFFERED"
    assert doubtful.record.claim is not None
    assert doubtful.record.claim.state == "doubt"
    assert doubtful.item.notes[-1].kind == "uri:acceptance-doubt"
    await bench.settle(PATIENCE - 5)
    assert not alba.calls("update")
    assert not alba.runs
    record = await at_rest(bench, best, alba, borealis)
    assert len(set(alba.calls("accept"))) == len(alba.calls("accept"))  # no offer was sent twice
    assert alba.calls("update") == [record.session(best).handle]
    assert record.session(best).phase == "REJECTED"
    assert record.taken not in (None, best)
    at = alba.told.index(("update", record.session(best).handle))
    assert all(
        name != "accept" for name, _ in alba.told[alba.told.index(("accept", record.session(best).handle)) + 1 : at]
    )
    assert alba.runs.total() + borealis.runs.total() == 1
    assert third


async def test_doubt_at_a_repeatable_site_is_sent_again_under_the_same_session(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.profile = Profile(repeatable=True)
    await bench.sites.start()
    alba.steps["accept"] = [fails(SiteTimeout("lost on the way"))]
    best = uuids(await bench.ask(**FAILOVER))[0]
    assert (await bench.accept(best)).item.phase == "OFFERED"
    record = await at_rest(bench, best, alba, borealis)
    assert record.taken == best
    assert len(alba.calls("accept")) == 2
    assert len(set(alba.calls("accept"))) == 1
    assert not alba.calls("update")
    assert alba.runs.total() == 1


@pytest.mark.parametrize("error", [*PROOF, NotAsked("held back")], ids=told)
async def test_the_failure_of_a_repetition_proves_nothing_of_the_first(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, error: SiteError
) -> None:
    """The first acceptance arrived, though nobody heard of it and reading is out of order; the second was refused."""
    alba.profile = Profile(repeatable=True)
    await bench.sites.start()
    alba.steps["accept"] = [lost(SiteTimeout("lost")), fails(error), fails(error)]
    alba.steps["status"] = [fails(SiteMisbehaved("no reading")) for _ in range(4)]
    best = uuids(await bench.ask(**FAILOVER))[0]
    await bench.accept(best)
    record = await at_rest(bench, best, alba, borealis)
    assert record.taken == best
    assert alba.runs.total() == 1
    assert not borealis.runs


async def test_while_in_doubt_nothing_else_can_be_had_and_nothing_is_lost(bench: Bench, alba: ScriptedSite) -> None:
    alba.steps["accept"] = [fails(SiteTimeout("lost"))]
    best, second, _ = uuids(await bench.ask())
    await bench.accept(best)
    with pytest.raises(Conflict, match=str(best)):
        await bench.accept(second)
    with pytest.raises(Conflict):
        await bench.update(best, "REJECTED")
    with pytest.raises(Conflict):
        await bench.update(best, "CANCELLED")
    assert (await bench.accept(best)).item.phase == "OFFERED"  # repeating it sends nothing
    assert len(alba.calls("accept")) == 1


async def test_an_answer_that_reads_offered_is_no_acceptance(bench: Bench, alba: ScriptedSite) -> None:
    alba.steps["accept"] = [says("OFFERED")]
    assert (await bench.accept(uuids(await bench.ask())[0])).item.phase == "OFFERED"


async def test_a_phase_nobody_knows_is_no_acceptance(bench: Bench, alba: ScriptedSite) -> None:
    alba.steps["accept"] = [says("DREAMING")]
    state = await bench.accept(uuids(await bench.ask())[0])
    assert (state.item.phase, state.record.claim and state.record.claim.state) == ("OFFERED", "doubt")


async def test_a_site_that_reads_accepted_late_is_believed(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [says("OFFERED")]
    best = uuids(await bench.ask(**FAILOVER))[0]
    state = await bench.accept(best)
    await bench.settle(10)
    alba.phases[state.item.handle] = "ACCEPTED"
    alba.runs[state.item.handle] += 1
    record = await at_rest(bench, best, alba, borealis)
    assert record.taken == best
    assert not alba.calls("update")


async def test_a_site_that_accepts_while_it_is_fenced_keeps_it(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """The withdrawal came too late: what it reads counts."""
    alba.steps["accept"] = [fails(SiteTimeout("slow"))]
    best = uuids(await bench.ask(**FAILOVER))[0]
    state = await bench.accept(best)
    alba.steps["update"] = [says("RUNNING")]
    await bench.settle(PATIENCE - 1)
    alba.runs[state.item.handle] += 1
    alba.steps["status"] = [says("OFFERED"), says("OFFERED")]
    await bench.settle(20)
    alba.phases[state.item.handle] = "RUNNING"
    record = await at_rest(bench, best, alba, borealis)
    assert record.taken == best
    assert not borealis.runs


async def test_a_fence_that_does_not_hold_is_tried_until_it_does(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(SiteTimeout("lost"))]
    alba.steps["update"] = [says("OFFERED"), fails(SiteTimeout("again")), lost(SiteMisbehaved("500"))]
    best = uuids(await bench.ask(**FAILOVER))[0]
    await bench.accept(best)
    record = await at_rest(bench, best, alba, borealis)
    assert record.session(best).phase == "REJECTED"
    assert record.taken not in (None, best)


async def test_a_silent_site_is_asked_ever_more_seldom_and_nothing_else_is_tried(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(SiteTimeout("gone"))]
    alba.steps["status"] = [fails(SiteTimeout("gone")) for _ in range(1000)]
    alba.steps["update"] = [fails(SiteTimeout("gone")) for _ in range(1000)]
    best = uuids(await bench.ask(**FAILOVER))[0]
    await bench.accept(best)
    await bench.settle(3600)
    record = await bench.record(best)
    assert record.claim is not None
    assert record.claim.state == "fencing"
    assert len(alba.calls("status")) < 200
    assert not borealis.runs
    assert not alba.runs
    assert len(record.session(best).notes) <= 50


async def test_a_site_that_forgot_the_session_leaves_it_in_doubt(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """404 proves nothing: a restore may bring it back."""
    alba.steps["accept"] = [lost(SiteTimeout("lost"))]
    alba.steps["status"] = [fails(SiteForgot("no such session")) for _ in range(5)]
    best = uuids(await bench.ask(**FAILOVER))[0]
    assert (await bench.accept(best)).item.phase == "OFFERED"
    record = await at_rest(bench, best, alba, borealis)
    assert record.taken == best


async def test_where_a_restart_ends_the_jobs_404_is_proof(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    site = Registration(name="alba", url="http://x/", restart_ends_jobs=True)
    bench = await Bench(store, clock, {"alba": alba, "borealis": borealis}, registrations={"alba": site}).start()
    alba.steps["accept"] = [lost(SiteTimeout("crashed"))]
    best = uuids(await bench.ask())[0]
    alba.steps["status"] = [fails(SiteForgot("no such session"))]
    assert (await bench.accept(best)).item.phase == "REJECTED"


async def test_a_planner_with_a_bug_leaves_doubt(bench: Bench, alba: ScriptedSite) -> None:
    alba.steps["accept"] = [lost(ValueError("bug"))]
    assert (await bench.accept(uuids(await bench.ask())[0])).item.phase == "ACCEPTED"


# ── races ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_a_hundred_who_accept_at_once_one_wins(store: Store, clock: FakeClock, borealis: ScriptedSite) -> None:
    alba = ScriptedSite("alba", clock, tuple(float(n) for n in range(1, 60)))
    bench = await Bench(store, clock, {"alba": alba, "borealis": borealis}).start()
    offers = uuids(await bench.ask())
    tries = [bench.accept(offers[n % len(offers)]) for n in range(100)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    won = {answer.uuid for answer in answers if not isinstance(answer, BaseException)}
    assert len(won) == 1
    assert all(isinstance(a, Conflict) for a in answers if isinstance(a, BaseException))
    record = await at_rest(bench, offers[0], alba, borealis)
    assert record.taken in won
    assert alba.runs.total() + borealis.runs.total() == 1


async def test_two_brokers_on_one_store_accept_once(
    open_store: Any, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    planners = {"alba": alba, "borealis": borealis}
    one, two = [await Bench(await open_store(), clock, planners).start() for _ in range(2)]
    best, second, _ = uuids(await one.ask())
    answers = await asyncio.gather(one.accept(best), two.accept(second), return_exceptions=True)
    assert sum(isinstance(answer, Conflict) for answer in answers) == 1
    await at_rest(one, best, alba, borealis)
    assert alba.runs.total() + borealis.runs.total() == 1


async def test_an_answer_for_a_session_given_up_does_not_take_another(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """A worker that hangs in its send comes back when others have fenced that session and taken the next one."""
    best, _, third = uuids(await bench.ask())
    before = await bench.record(best)
    await bench.records.change(best, lambda r: _claimed(r, best, clock_now=bench.clock.now()))
    stale = await bench.record(best)
    await bench.records.change(best, lambda r: _handed_on(r, third, bench.clock.now()))
    found = await bench.forwarding._record(stale, "ACCEPTED", _sighting())
    assert found.claim is not None
    assert found.claim.session == third
    assert found.taken is None
    assert before.claim is None


def _claimed(record: SetRecord, uuid: UUID, clock_now: float) -> SetRecord:
    from broker.domain import offerset

    return offerset.claim(record, uuid, b"{}", clock_now)


def _handed_on(record: SetRecord, uuid: UUID, now: float) -> SetRecord:
    from broker.domain import offerset

    return offerset.claim(offerset.refused(record, "REJECTED", "fenced", now), uuid, b"{}", now)


def _sighting() -> Any:
    from broker.ports import Sighting

    return Sighting("ACCEPTED")


# ── expiry ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_nothing_is_accepted_after_its_expiry(bench: Bench, clock: FakeClock, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    expires = (await bench.record(best)).session(best).expires
    assert expires is not None
    clock.advance(expires - clock.now())
    with pytest.raises(Conflict, match="expired"):
        await bench.accept(best)
    assert not alba.calls("accept")


async def test_just_before_its_expiry_it_is(bench: Bench, clock: FakeClock) -> None:
    best = uuids(await bench.ask())[0]
    expires = (await bench.record(best)).session(best).expires
    assert expires is not None
    clock.advance(expires - clock.now() - 0.001)
    assert (await bench.accept(best)).item.phase == "ACCEPTED"


async def test_expiry_never_touches_a_claimed_session(bench: Bench, alba: ScriptedSite, borealis: ScriptedSite) -> None:
    alba.steps["accept"] = [lost(SiteTimeout("lost"))]
    alba.steps["status"] = [fails(SiteTimeout("still")) for _ in range(30)]
    alba.steps["update"] = [fails(SiteTimeout("still")) for _ in range(30)]
    best, second, _ = uuids(await bench.ask())
    await bench.accept(best)
    await bench.settle(400)
    record = await bench.record(best)
    assert record.session(second).phase == "EXPIRED"
    assert record.session(best).phase == "OFFERED"
    alba.all_over()
    await bench.settle(3600)
    assert (await bench.record(best)).taken == best


# ── what else may be asked for ───────────────────────────────────────────────────────────────────────────────


async def test_rejecting_releases_at_the_site_and_again_changes_nothing(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    for _ in range(2):
        assert (await bench.update(best, "REJECTED")).item.phase == "REJECTED"
    await bench.work()
    assert alba.calls("release") == [(await bench.record(best)).session(best).handle]
    with pytest.raises(Conflict, match="REJECTED"):
        await bench.accept(best)


async def test_cancelling_ends_the_run_and_again_changes_nothing(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    for _ in range(2):
        assert (await bench.update(best, "CANCELLED")).item.phase == "CANCELLED"
    assert alba.calls("update") == [(await bench.record(best)).session(best).handle]
    assert list(alba.phases.values()).count("CANCELLED") == 1


async def test_what_cannot_be_cancelled_says_why(bench: Bench, alba: ScriptedSite) -> None:
    best, second, _ = uuids(await bench.ask())
    with pytest.raises(Conflict, match="OFFERED, not accepted"):
        await bench.update(best, "CANCELLED")
    await bench.accept(best)
    with pytest.raises(Conflict, match="ACCEPTED"):
        await bench.update(best, "REJECTED")
    alba.all_over()
    await bench.settle(30)
    with pytest.raises(Conflict, match="COMPLETED"):
        await bench.update(best, "CANCELLED")
    with pytest.raises(Conflict, match="REJECTED"):
        await bench.update(second, "CANCELLED")


@pytest.mark.parametrize("step", [fails(SiteTimeout("slow")), lost(SiteMisbehaved("500"))], ids=["unsent", "lost"])
async def test_a_cancellation_that_failed_can_be_repeated(bench: Bench, alba: ScriptedSite, step: Step) -> None:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    alba.steps["update"] = [step]
    with pytest.raises(Unavailable, match="could not be told"):
        await bench.update(best, "CANCELLED")
    assert (await bench.update(best, "CANCELLED")).item.phase == "CANCELLED"


async def test_cancelling_at_a_site_registered_no_more_says_so(
    bench: Bench, store: Store, clock: FakeClock, borealis: ScriptedSite
) -> None:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    after = await Bench(store, clock, {"borealis": borealis}).start()
    with pytest.raises(Unavailable, match="registered no more"):
        await after.update(best, "CANCELLED")


@pytest.mark.parametrize("value", ["RUNNING", "OFFERED", "COMPLETED", "accepted", ""])
async def test_other_phases_cannot_be_asked_for(bench: Bench, value: str) -> None:
    with pytest.raises(BadInput):
        await bench.update(uuids(await bench.ask())[0], value)


async def test_only_the_phase_can_be_updated_and_only_by_an_enum_value(bench: Bench) -> None:
    best = uuids(await bench.ask())[0]
    for update in (
        EnumValueUpdate(kind=kinds.ENUM_UPDATE, path="/expires", value="ACCEPTED"),
        StringValueUpdate(kind=kinds.STRING_UPDATE, path="/phase", value="ACCEPTED"),
    ):
        with pytest.raises(BadInput):
            await bench.acceptance.update(best, update, ADA)


async def test_what_is_not_there_is_not_found(bench: Bench) -> None:
    state = await bench.ask()
    for uuid in (uuid4(), state.uuid, UUID(int=uuids(state)[0].int ^ (1 << 127))):
        with pytest.raises(NotFound):
            await bench.accept(uuid)


# ── rights ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", ["ACCEPTED", "REJECTED", "CANCELLED"])
async def test_whoever_may_not_read_it_does_not_learn_that_it_is_there(
    bench: Bench, alba: ScriptedSite, value: str
) -> None:
    best = uuids(await bench.ask())[0]
    for stranger in (BOB, Caller(ADA.owner, "another account")):
        with pytest.raises(NotFound):
            await bench.update(best, value, stranger)
        with pytest.raises(NotFound):
            await bench.sessions.get(best, stranger)
    assert (await bench.record(best)).session(best).phase == "OFFERED"
    assert not alba.calls("accept")


async def test_whoever_may_only_read_may_not_change(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    assert (await bench.sessions.get(best, OPERATOR)).uuid == best
    with pytest.raises(NotAllowed):
        await bench.accept(best, OPERATOR)
    assert not alba.calls("accept")
    assert (await bench.accept(best, ADMIN)).item.phase == "ACCEPTED"


@pytest.mark.parametrize(
    ("readers", "caller", "reads"),
    [
        ("all", BOB, True),
        ("all", Caller(Owner("here", "anonymous"), "anonymous", anonymous=True), False),
        ("public", Caller(Owner("here", "anonymous"), "anonymous", anonymous=True), True),
    ],
)
async def test_who_reads_is_a_setting_and_who_changes_is_not(
    store: Store, clock: FakeClock, alba: ScriptedSite, readers: Any, caller: Caller, reads: bool
) -> None:
    bench = await Bench(store, clock, {"alba": alba}, readers=readers).start()
    best = uuids(await bench.ask())[0]
    if reads:
        assert (await bench.sessions.get(best, caller)).uuid == best
    with pytest.raises(NotAllowed if reads else NotFound):
        await bench.accept(best, caller)
    if reads:
        with pytest.raises(NotAllowed):
            await bench.acceptance.release([best], caller)
    else:
        await bench.acceptance.release([best], caller)  # what is not known counts as released
    assert (await bench.record(best)).session(best).phase == "OFFERED"


# ── direct ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_direct_takes_the_best(bench: Bench, alba: ScriptedSite, borealis: ScriptedSite) -> None:
    state = await bench.direct()
    assert (state.item.phase, state.item.site, state.refused) == ("ACCEPTED", "alba", False)
    assert alba.runs == {state.item.handle: 1}
    await at_rest(bench, state.uuid, alba, borealis)


async def test_direct_takes_the_next_on_proof(bench: Bench, alba: ScriptedSite, borealis: ScriptedSite) -> None:
    alba.steps["accept"] = [fails(SiteRefused("sold out", status=400)), says("EXPIRED")]
    state = await bench.direct()
    assert (state.item.phase, state.item.site) == ("ACCEPTED", "borealis")
    await at_rest(bench, state.uuid, alba, borealis)


async def test_direct_in_doubt_takes_nothing_else_until_it_is_resolved(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(SiteTimeout("lost"))]
    state = await bench.direct()
    assert (state.item.phase, state.refused) == ("OFFERED", False)
    assert not borealis.runs
    record = await at_rest(bench, state.uuid, alba, borealis)
    assert record.taken not in (None, state.uuid)


async def test_direct_that_nobody_takes_is_a_failed_session_with_the_reasons(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(SiteRefused("sold out", status=400)) for _ in range(2)]
    borealis.steps["accept"] = [fails(SiteUnreachable("cable cut"))]
    state = await bench.direct()
    assert (state.item.phase, state.refused) == ("FAILED", True)
    words = [note.values["reason"] for note in state.item.notes]
    assert any("sold out" in text for text in words)
    assert any("cable cut" in text for text in words)
    await at_rest(bench, state.uuid, alba, borealis)


async def test_direct_that_nobody_offers_is_a_failed_session_with_the_reasons(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.prices = borealis.prices = ()
    state = await bench.direct()
    assert (state.item.phase, state.refused) == ("FAILED", True)
    assert [note.values["reason"] for note in state.item.notes] == [
        "alba: nothing is free", "borealis: nothing is free",
    ]  # fmt: skip


async def test_direct_passes_over_what_our_own_guard_holds_back(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["accept"] = [fails(NotAsked("no room")) for _ in range(2)]
    state = await bench.direct()
    assert (state.item.phase, state.item.site) == ("ACCEPTED", "borealis")
    await at_rest(bench, state.uuid, alba, borealis)


async def test_direct_held_back_everywhere_says_so(bench: Bench, alba: ScriptedSite, borealis: ScriptedSite) -> None:
    alba.steps["accept"] = [fails(NotAsked("no room")) for _ in range(2)]
    borealis.steps["accept"] = [fails(NotAsked("no token"))]
    state = await bench.direct()
    assert state.refused
    words = [note.values["reason"] for note in state.item.notes]
    assert [text.split(":")[0] for text in words] == ["alba", "alba", "borealis"]
    assert "no room" in words[0]
    assert "no token" in words[2]
    await at_rest(bench, state.uuid, alba, borealis)


CEILING = {"costs": {"max": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": 10.0}]}}


@pytest.mark.parametrize(
    ("price", "ceiling", "taken"),
    [(None, False, False), (None, True, False), (1.0, False, False), (1.0, True, True), (0.0, False, True)],
)
async def test_guarded_direct_wants_a_known_price_and_a_ceiling(
    store: Store, clock: FakeClock, price: float | None, ceiling: bool, taken: bool
) -> None:
    site = ScriptedSite("alba", clock, (price,))
    bench = await Bench(store, clock, {"alba": site}, guarded=True).start()
    costs = [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": 10.0}]
    state = await bench.direct(**({"costs": costs} if ceiling else {}))
    assert state.refused is not taken
    assert site.runs.total() == taken


async def test_guarded_direct_stays_guarded_when_the_first_is_refused_late(store: Store, clock: FakeClock) -> None:
    free, dear = ScriptedSite("free", clock, (0.0,)), ScriptedSite("dear", clock, (9.0,))
    bench = await Bench(store, clock, {"free": free, "dear": dear}, guarded=True).start()
    free.steps["accept"] = [fails(SiteTimeout("lost"))]
    state = await bench.direct()
    assert state.item.phase == "OFFERED"
    await at_rest(bench, state.uuid, free, dear)
    assert not dear.runs


# ── releasing many ───────────────────────────────────────────────────────────────────────────────────────────


async def test_many_are_released_at_once_and_unknown_ones_count_as_released(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    offers = uuids(await bench.ask())
    for _ in range(2):
        await bench.acceptance.release([*offers, uuid4()], ADA)
    await bench.work()
    assert set(alba.phases.values()) | set(borealis.phases.values()) == {"REJECTED"}


async def test_a_taken_one_among_them_is_named_after_the_others_are_released(bench: Bench, alba: ScriptedSite) -> None:
    state = await bench.ask()
    best, *_ = uuids(state)
    await bench.accept(best)
    other = by_site(await bench.ask())["borealis"]
    with pytest.raises(Conflict, match="ACCEPTED"):
        await bench.acceptance.release([best, other], ADA)
    assert (await bench.record(other)).session(other).phase == "REJECTED"
    assert (await bench.record(best)).taken == best


async def test_a_run_that_is_over_counts_as_released(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    await bench.accept(best)
    alba.all_over()
    await bench.settle(30)
    await bench.acceptance.release([best], ADA)
    assert (await bench.record(best)).session(best).phase == "COMPLETED"
