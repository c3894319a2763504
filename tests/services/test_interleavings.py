"""Two at one set at the same time: callers, timers, an operator; slow ones, and ones that come back from the dead.

Each test is one interleaving by which two sessions of a set could be taken, or one be lost, if a step were careless.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from broker.domain import offerset
from broker.domain.deadline import Deadline
from broker.domain.identity import Hop, aggregate
from broker.domain.offerset import SetRecord
from broker.domain.site import Profile
from broker.errors import Conflict, NotAsked, SiteRefused, SiteTimeout, Unavailable
from broker.ports import Order, Sighting, Store
from broker.testing.bench import ADA, OPERATOR, Bench, broken_rules, by_site, request, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, Step, fails, lost, says

SOLD_OUT = SiteRefused("sold out", status=400)
SILENT = SiteTimeout("silent")
HELD_BACK = NotAsked("no room", retry_after=2.0)


class Slow:
    """A site as one broker reaches it: what it sends to accept waits until it is let go. `first`: an error that our
    own side raises then, in place of sending."""

    def __init__(self, site: ScriptedSite, first: Exception | None = None) -> None:
        self._site, self._first = site, first
        self.sending, self.go = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._site, name)

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        self.sending.set()
        await self.go.wait()
        if self._first is not None:
            raise self._first
        return await self._site.accept(order, deadline)


class SlowStore:
    """A store whose writes take so many seconds."""

    def __init__(self, store: Store, clock: FakeClock, seconds: float) -> None:
        self._store, self._clock, self._seconds = store, clock, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, *args: Any, **kwargs: Any) -> bool:
        done = await self._store.write(*args, **kwargs)
        self._clock.advance(self._seconds)
        return done


class Away:
    """A store that is away from its write number `after` on, which is made all the same, until it is `back`."""

    def __init__(self, store: Store, after: int) -> None:
        self._store, self._after = store, after
        self.back = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, aggregate: str) -> Any:
        if self._after < 0 and not self.back:
            raise Unavailable("the store is away.")
        return await self._store.read(aggregate)

    async def write(self, *args: Any, **kwargs: Any) -> bool:
        self._after -= 1
        if self._after >= 0 or self.back:
            return await self._store.write(*args, **kwargs)
        if self._after == -1:
            await self._store.write(*args, **kwargs)
        raise Unavailable("the store is away.")


def direct(**more: Any) -> tuple[Any, Any, Any]:
    return request(**more), ADA, Hop()


@asynccontextmanager
async def under_way(coroutine: Any) -> AsyncIterator[asyncio.Task[Any]]:
    task = asyncio.create_task(coroutine)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def another(store: Any, clock: FakeClock, planners: Mapping[str, Any]) -> Bench:
    return await Bench(store, clock, planners).start()


async def until_undone(bench: Bench, session: UUID) -> None:
    """Whoever sees to it has seen to it."""
    async with asyncio.timeout(5):
        while (await bench.record(session)).claim is not None:
            bench.clock.advance(1.0)
            await asyncio.sleep(0)


async def at_rest(bench: Bench, record: SetRecord, *sites: ScriptedSite) -> SetRecord:
    await bench.settle(120)
    for site in sites:
        site.all_over()
    await bench.settle(900)
    record = await bench.record(record.uuid)
    assert broken_rules(record, sites, bench.clock.now()) == []
    assert await bench.store.next_due() is None
    return record


# ── the sender, and whoever finds its claim ──────────────────────────────────────────────────────────────────


async def test_a_claim_whose_maker_is_still_at_it_is_left_alone(bench: Bench, alba: ScriptedSite) -> None:
    """The timer of an earlier claim may come while another acceptance is under way."""
    session = by_site(await bench.ask())["alba"]
    now = bench.clock.now()
    _, before = await bench.records.change(session, lambda r: offerset.claim(r, session, b"", now, 30.0, "x"))
    assert await bench.acceptance.resolve(aggregate(session)) == now + 30.0
    assert await bench.record(session) == before
    assert alba.calls("status") == []


async def test_whoever_comes_back_from_the_dead_undoes_nothing_that_others_took_up(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """It knows that it sent nothing. Another has sent the same acceptance meanwhile, and its answer was lost."""
    alba.profile = Profile(repeatable=True)
    slow = Slow(alba, HELD_BACK)
    one, other = [await another(store, clock, {"alba": a, "borealis": borealis}) for a in (slow, alba)]
    session = by_site(await one.ask())["alba"]
    async with under_way(one.accept(session)) as accepting:
        await slow.sending.wait()
        clock.advance(31)
        alba.steps["status"] = [fails(SILENT) for _ in range(3)]
        alba.steps["accept"] = [lost(SILENT)]
        await other.acceptance.resolve(aggregate(session))
        slow.go.set()
        state = await accepting
    assert state.item.phase in ("OFFERED", "ACCEPTED")
    assert (await other.record(session)).claim is not None
    assert (await at_rest(other, state.record, alba, borealis)).taken == session


async def test_what_took_too_long_to_write_down_is_not_sent(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """Others may have found the claim by then, and be withdrawing it."""
    sites = {"alba": alba, "borealis": borealis}
    session = by_site(await (await another(store, clock, sites)).ask())["alba"]
    bench = await another(SlowStore(store, clock, 25.0), clock, sites)
    with pytest.raises(Unavailable, match="too long"):
        await bench.accept(session)
    assert alba.calls("accept") == []
    assert (await bench.record(session)).claim is None


async def test_nothing_is_sent_when_the_offer_expired_while_its_claim_was_written(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    sites = {"alba": alba, "borealis": borealis}
    session = by_site(await (await another(store, clock, sites)).ask())["alba"]
    bench = await another(SlowStore(store, clock, 10.0), clock, sites)
    expires = (await bench.record(session)).session(session).expires
    assert expires is not None
    clock.advance(expires - clock.now() - 5.0)
    with pytest.raises(Unavailable):
        await bench.accept(session)
    with pytest.raises(Conflict, match="expired"):
        await bench.accept(session)
    assert alba.calls("accept") == []


@pytest.mark.parametrize("seconds", [0.0, 2.0])
async def test_a_claim_that_may_stand_though_nothing_was_sent_is_undone_as_soon_as_the_store_is_back(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite, seconds: float
) -> None:
    """Else whoever finds it would withdraw the offer, for all it knows of it."""
    sites = {"alba": alba, "borealis": borealis}
    away = Away(store, 0)
    bench = await another(away, clock, sites)
    session = by_site(await (await another(store, clock, sites)).ask())["alba"]
    with pytest.raises(Unavailable):
        await bench.accept(session)
    assert (await (await another(store, clock, sites)).record(session)).claim is not None
    clock.advance(seconds)
    away.back = True
    await until_undone(bench, session)
    record = await bench.record(session)
    assert (record.claim, record.session(session).phase) == (None, "OFFERED")
    assert (await bench.accept(session)).item.phase == "ACCEPTED"
    await bench.forwarding.close()


async def test_whoever_comes_back_after_503_need_not_wait_until_the_claim_is_undone(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    away = Away(store, 0)
    bench = await another(away, clock, {"alba": alba, "borealis": borealis})
    session = by_site(await (await another(store, clock, {"alba": alba, "borealis": borealis})).ask())["alba"]
    with pytest.raises(Unavailable):
        await bench.accept(session)
    away.back = True
    assert (await bench.accept(session)).item.phase == "ACCEPTED"
    await bench.forwarding.close()
    assert (await bench.record(session)).taken == session


# ── what is owed ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_owed_is_still_owed_when_our_own_guard_holds_the_next_one_back(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.prices = (1.0,)
    session = by_site(await bench.ask(preferences={"failover": True}))["alba"]
    alba.steps["accept"], borealis.steps["accept"] = [fails(SOLD_OUT)], [fails(HELD_BACK)]
    state = await bench.accept(session)
    assert state.item.phase == "REJECTED"
    record = await bench.record(session)
    assert record.owed is not None
    assert record.owed.session == session
    record = await at_rest(bench, record, alba, borealis)
    assert record.taken is not None
    assert record.session(record.taken).site == "borealis"
    assert record.session(session).notes[-1].kind == "uri:accepted-instead"


async def test_what_is_owed_ends_when_all_that_is_held_back_has_expired(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.prices = (1.0,)
    session = by_site(await bench.ask(preferences={"failover": True}))["alba"]
    alba.steps["accept"], borealis.steps["accept"] = [fails(SOLD_OUT)], [fails(HELD_BACK) for _ in range(100)]
    state = await bench.accept(session)
    record = await at_rest(bench, state.record, alba, borealis)
    assert (record.owed, record.claim) == (None, None)
    assert len(borealis.steps["accept"]) > 80  # tried again now and then, not without a pause


async def test_what_is_owed_is_still_owed_when_the_next_claim_is_undone(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.prices = (1.0,)
    sites = {"alba": alba, "borealis": borealis}
    session = by_site(await (await another(store, clock, sites)).ask(preferences={"failover": True}))["alba"]
    alba.steps["accept"] = [fails(SOLD_OUT)]
    away = Away(store, 2)  # the claim, and its refusal, are written; the claim of the next one is in the balance
    bench = await another(away, clock, sites)
    with pytest.raises(Unavailable):
        await bench.accept(session)
    away.back = True
    await until_undone(bench, session)
    record = await bench.record(session)
    assert record.owed is not None
    record = await at_rest(bench, record, alba, borealis)
    assert record.taken is not None
    assert record.session(record.taken).site == "borealis"
    await bench.forwarding.close()


async def test_who_ends_one_debt_leaves_another_alone(bench: Bench, alba: ScriptedSite) -> None:
    sessions = by_site(await bench.ask(preferences={"failover": True}))
    now = bench.clock.now()
    record = await bench.record(sessions["alba"])
    record = offerset.refused(offerset.claim(record, sessions["borealis"], b"", now), "REJECTED", "no", now)
    assert offerset.settled(record, sessions["alba"]) is record
    assert offerset.settled(record, sessions["borealis"]).owed is None


async def test_a_site_that_offers_for_ever_and_refuses_for_ever_is_asked_anew_once(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.prices = (1.0,)
    session = by_site(await bench.ask(preferences={"requote": 0.1, "failover": True}))["alba"]
    alba.steps["accept"] = [fails(SOLD_OUT) for _ in range(20)]
    state = await bench.accept(session)
    assert len(alba.calls("quote")) == 2
    record = await bench.record(session)
    assert record.taken is not None
    assert record.session(record.taken).site == "borealis"
    await at_rest(bench, state.record, alba, borealis)


# ── a direct request that is given up ────────────────────────────────────────────────────────────────────────


async def test_a_direct_request_is_not_given_up_while_somebody_accepts_for_it(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """Its caller's own broker, which was slow, finds nothing left; another one has taken up what was owed."""
    alba.prices = ()
    slow = Slow(borealis)
    one, other = [await another(store, clock, {"alba": alba, "borealis": b}) for b in (borealis, slow)]
    state = await one.offers.ask(*direct(), direct=True)
    (session,) = by_site(state).values()
    async with under_way(other.acceptance.directed(state.uuid, ADA)) as accepting:
        await slow.sending.wait()
        left = await one.offers.give_up(state.record, {})
        assert left.given_up is None
        assert left.session(session).phase == "OFFERED"
        slow.go.set()
        assert (await accepting).item.phase == "ACCEPTED"
    await at_rest(one, state.record, alba, borealis)


async def test_a_direct_request_is_given_up_once_and_nothing_of_it_is_taken_afterwards(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.prices, borealis.prices = (1.0,), ()
    question = direct(preferences={"requote": 0.0})
    state = await bench.offers.ask(*question, direct=True)
    (session,) = by_site(state).values()
    await bench.settle(400)
    first, again = [await bench.offers.give_up(state.record, {}) for _ in range(2)]
    assert again == first
    with pytest.raises(Conflict, match="given up"):
        await bench.accept(session)
    record = await at_rest(bench, first, alba, borealis)
    assert record.taken is None


# ── an operator's word ───────────────────────────────────────────────────────────────────────────────────────


async def test_no_word_counts_while_the_acceptance_is_being_sent_once_more(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """That it was not taken would be true only until the next instant, and something else would run by then."""
    alba.profile = Profile(repeatable=True)
    slow = Slow(alba)
    one, other = [await another(store, clock, {"alba": a, "borealis": borealis}) for a in (alba, slow)]
    session = by_site(await one.ask(preferences={"failover": True}))["alba"]
    alba.steps["accept"] = [fails(SILENT)]
    alba.steps["status"] = [fails(SILENT) for _ in range(2)]
    await one.accept(session)
    async with under_way(other.acceptance.resolve(aggregate(session))) as resolving:
        await slow.sending.wait()
        with pytest.raises(Conflict, match="being asked just now"):
            await one.doubts.decide(session, False, "they had no power", OPERATOR)
        slow.go.set()
        await resolving
    record = await at_rest(one, await one.record(session), alba, borealis)
    assert record.taken == session


async def test_between_two_sendings_the_word_counts_at_once(store: Store, clock: FakeClock, alba: ScriptedSite) -> None:
    alba.profile = Profile(repeatable=True)
    bench = await another(store, clock, {"alba": alba})
    session = by_site(await bench.ask())["alba"]
    for operation in ("accept", "status"):
        alba.steps[operation] = [fails(SILENT) for _ in range(200)]
    await bench.accept(session)
    await bench.settle(100)
    assert len(alba.calls("accept")) > 3
    assert (await bench.doubts.decide(session, False, "they had no power", OPERATOR)).item.phase == "REJECTED"


async def test_the_word_of_a_person_is_not_put_into_the_mouth_of_the_site(bench: Bench, alba: ScriptedSite) -> None:
    session = by_site(await bench.ask())["alba"]
    alba.steps["accept"] = [fails(SILENT)]
    alba.steps["status"] = [fails(SILENT) for _ in range(9)]
    await bench.accept(session)
    state = await bench.doubts.decide(session, False, "they had no power", OPERATOR)
    assert [note.kind for note in state.item.notes] == ["uri:acceptance-doubt", "uri:acceptance-decided"]


# ── asked anew ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_offered_anew_and_cannot_be_kept_is_given_back(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    sites = {"alba": alba, "borealis": borealis}
    alba.prices = (1.0,)
    bench = await another(store, clock, sites)
    session = by_site(await bench.ask(preferences={"requote": 0.0}))["alba"]
    await bench.settle(400)
    doomed = await another(Full(store), clock, sites)
    with pytest.raises(Unavailable):
        await doomed.accept(session)
    assert len(alba.calls("quote")) == 2
    assert [phase for phase in alba.phases.values() if phase == "OFFERED"] == []


class Full:
    """A store that takes nothing more."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, *args: Any, **kwargs: Any) -> bool:
        raise Unavailable("the disk is full.")


async def test_a_caller_who_goes_away_while_a_site_is_asked_anew_leaves_its_offers_known(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.prices = (1.0,)
    bench = await another(store, clock, {"alba": alba, "borealis": borealis})
    session = by_site(await bench.ask(preferences={"requote": 0.0}))["alba"]
    await bench.settle(400)
    asking, answer = asyncio.Event(), asyncio.Event()
    quote = alba.quote

    async def slowly(ask: Any) -> Any:
        asking.set()
        quotes = await quote(ask)
        await answer.wait()
        return quotes

    alba.quote = slowly  # type: ignore[method-assign]  # the same site, slower
    async with under_way(bench.accept(session)):
        await asking.wait()
    answer.set()
    async with asyncio.timeout(5):
        while len((await bench.record(session)).sessions) < 3:  # noqa: ASYNC110 - nobody is told of it but the store
            await asyncio.sleep(0)
    await at_rest(bench, await bench.record(session), alba, borealis)


async def test_of_several_offers_made_anew_the_best_within_the_limit_is_taken(bench: Bench, alba: ScriptedSite) -> None:
    alba.prices = (1.0,)
    session = by_site(await bench.ask(preferences={"requote": 0.1}))["alba"]
    alba.prices, alba.steps["accept"] = (1.3, 1.05, 1.2), [fails(SOLD_OUT)]
    await bench.accept(session)
    record = await bench.record(session)
    assert record.decision is not None
    assert record.decision.cost == 1.05


async def test_offers_made_anew_join_once_however_often_they_are_written(bench: Bench) -> None:
    record = (await bench.ask()).record
    fresh = [offerset.SessionRecord(UUID(int=1 << 100 | record.uuid.int), "alba", "h", "alba", requoted=True)]
    words = offerset.Note(0.0, "uri:asked-anew", "x")
    once = offerset.requoted(record, record.sessions[0].uuid, fresh, words, 0.0)
    assert offerset.requoted(once, record.sessions[0].uuid, fresh, words, 0.0) == once


# ── what an owner is told meanwhile ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("wanted", ["CANCELLED", "REJECTED"])
async def test_an_owner_who_wants_it_no_more_while_in_doubt_is_told_to_wait(
    bench: Bench, alba: ScriptedSite, wanted: str
) -> None:
    session = by_site(await bench.ask())["alba"]
    alba.steps["accept"] = [fails(SILENT)]
    alba.steps["status"] = [says("OFFERED"), Step(acts=False, error=SILENT)]
    await bench.accept(session)
    with pytest.raises(Conflict, match="whether it took it") as caught:
        await bench.update(session, wanted)
    assert "cancel it then" in caught.value.remedy


@pytest.mark.parametrize("ends", ["ACCEPTED", "doubt"])
async def test_whoever_asked_for_the_first_is_led_to_the_last_that_was_tried_in_its_place(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, ends: str
) -> None:
    """Also by asking for the first again, and not only from the one before it."""
    alba.prices = (1.0, 1.5)
    state = await bench.ask(preferences={"failover": True})
    first, last = uuids(state)[0], by_site(state)["borealis"]
    alba.steps["accept"] = [fails(SOLD_OUT), fails(SOLD_OUT)]
    if ends == "doubt":
        borealis.steps["accept"] = [lost(SILENT)]
        borealis.steps["status"] = [fails(SILENT)]
    for _ in range(2):
        told = (await bench.accept(first)).item.notes[-1]
        assert (told.kind, told.values["session"]) == ("uri:accepted-instead", str(last))
    record = await at_rest(bench, state.record, alba, borealis)
    assert record.taken == last


async def test_a_long_doubt_says_what_it_saw_last_and_not_all_it_ever_saw(bench: Bench, alba: ScriptedSite) -> None:
    session = by_site(await bench.ask())["alba"]
    alba.steps["accept"] = [fails(SILENT)]
    for operation in ("status", "update"):
        alba.steps[operation] = [fails(SILENT) for _ in range(200)]
    await bench.accept(session)
    await bench.settle(1200)
    (doubt,) = await bench.doubts.list(OPERATOR)
    assert (doubt.tries > 30, doubt.reason) == (True, "silent")
    assert len((await bench.record(session)).session(session).notes) < 5
