"""Asking a site anew: at what price its next offer is taken, what a person is told, and what a crash leaves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any
from uuid import UUID

import pytest

from broker.domain import offerset, setbody
from broker.domain.offerset import SetRecord
from broker.errors import Conflict, SiteRefused, SiteTimeout, SiteUnreachable
from broker.ports import Store
from broker.services.gathering import joining
from broker.services.offers import SetState
from broker.testing.bench import Bench, broken_rules, by_site, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails
from broker.testing.tripwire import Died, Tripwire

SOLD_OUT = SiteRefused("sold out", status=400)


@pytest.fixture
def alba(clock: FakeClock) -> ScriptedSite:
    return ScriptedSite("alba", clock, (1.0,))


async def asked(bench: Bench, rise: float, **more: Any) -> SetState:
    return await bench.ask(preferences={"requote": rise, **more})


def taken(record: SetRecord) -> tuple[str, float | None]:
    """Which site, at what price."""
    assert record.taken is not None
    assert record.decision is not None
    return record.session(record.taken).site, record.decision.cost


def notes(record: SetRecord, uuid: UUID) -> list[str]:
    return [note.kind for note in record.session(uuid).notes]


async def at_rest(bench: Bench, record: SetRecord, *sites: ScriptedSite) -> None:
    await bench.settle(90)
    for site in sites:
        site.all_over()
    await bench.settle(900)
    assert broken_rules(await bench.record(record.uuid), sites, bench.clock.now()) == []


@pytest.mark.parametrize("price", [0.5, 1.0, 1.1])
async def test_a_refused_offer_is_asked_anew_and_taken_within_the_accepted_rise(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, price: float
) -> None:
    first = by_site(await asked(bench, 0.1))["alba"]
    alba.prices, alba.steps["accept"] = (price,), [fails(SOLD_OUT)]
    state = await bench.accept(first)
    assert state.item.phase == "REJECTED"
    record = await bench.record(first)
    assert taken(record) == ("alba", price)
    assert notes(record, first) == ["uri:acceptance-refused", "uri:asked-anew", "uri:accepted-instead"]
    assert record.session(first).notes[-1].values["session"] == str(record.taken)
    await at_rest(bench, record, alba, borealis)


async def test_beyond_the_rise_nothing_is_taken_and_the_offer_is_there_to_be_chosen(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    first = by_site(await asked(bench, 0.1))["alba"]
    alba.prices, alba.steps["accept"] = (1.4,), [fails(SOLD_OUT)]
    await bench.accept(first)
    record = await bench.record(first)
    assert record.claim is None
    assert record.owed is None
    (fresh,) = [item.uuid for item in record.open_sessions(bench.clock.now()) if item.site == "alba"]
    words = record.session(first).notes[-1]
    assert words.values == {
        "site": "alba", "currency": "EUR", "accepted": "10%", "session": str(fresh), "price": "1.40", "before": "1.00",
    }  # fmt: skip
    assert (await bench.accept(fresh)).item.phase == "ACCEPTED"
    await at_rest(bench, record, alba, borealis)


async def test_without_a_word_on_the_rise_nobody_is_asked_anew(bench: Bench, alba: ScriptedSite) -> None:
    first = by_site(await bench.ask())["alba"]
    alba.steps["accept"] = [fails(SOLD_OUT)]
    await bench.accept(first)
    assert len(alba.calls("quote")) == 1
    assert notes(await bench.record(first), first) == ["uri:acceptance-refused"]


async def test_an_expired_offer_is_asked_anew_before_anything_is_sent(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite, clock: FakeClock
) -> None:
    first = by_site(await asked(bench, 0.0))["alba"]
    await bench.settle(400)
    state = await bench.accept(first)
    assert state.item.phase == "EXPIRED"
    record = await bench.record(first)
    assert taken(record) == ("alba", 1.0)
    assert alba.calls("accept") == [record.session(record.taken or first).handle]
    await at_rest(bench, record, alba, borealis)


async def test_an_expired_offer_that_rose_too_far_is_refused_as_expired(bench: Bench, alba: ScriptedSite) -> None:
    first = by_site(await asked(bench, 0.2))["alba"]
    await bench.settle(400)
    alba.prices = (1.3,)
    for _ in range(3):
        with pytest.raises(Conflict, match="expired"):
            await bench.accept(first)
    assert len(alba.calls("quote")) == 2  # what it offered is still open: it is not asked again and again
    assert alba.calls("accept") == []


@pytest.mark.parametrize("price", [None, 1.0])
async def test_an_unknown_price_is_never_within_a_limit(bench: Bench, alba: ScriptedSite, price: float | None) -> None:
    """Whether it was unknown before or is now."""
    alba.prices = (1.0,) if price is None else (None,)
    first = by_site(await asked(bench, 10.0))["alba"]
    alba.prices, alba.steps["accept"] = (price,), [fails(SOLD_OUT)]
    await bench.accept(first)
    assert (await bench.record(first)).claim is None


async def test_failover_goes_to_the_next_site_when_the_first_one_rose_too_far(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    first = by_site(await asked(bench, 0.1, failover=True))["alba"]
    alba.prices, alba.steps["accept"] = (1.2,), [fails(SOLD_OUT)]
    await bench.accept(first)
    record = await bench.record(first)
    assert taken(record) == ("borealis", 3.0)  # though alba, asked anew, would rank before it
    assert record.session(first).notes[-1].values["site"] == "borealis"
    await at_rest(bench, record, alba, borealis)


async def test_a_direct_request_is_asked_anew_as_well(bench: Bench, alba: ScriptedSite) -> None:
    alba.steps["accept"] = [fails(SOLD_OUT)]
    state = await bench.direct(preferences={"requote": 0.0})
    assert (state.item.phase, state.item.site) == ("ACCEPTED", "alba")
    assert len(alba.calls("quote")) == 2


async def test_a_site_that_offers_nothing_any_more_is_named_with_its_reason(bench: Bench, alba: ScriptedSite) -> None:
    first = by_site(await asked(bench, 0.1))["alba"]
    alba.prices, alba.steps["accept"] = (), [fails(SOLD_OUT)]
    await bench.accept(first)
    words = (await bench.record(first)).session(first).notes[-1]
    assert words.values["reason"] == "nothing is free"


async def test_a_site_that_fails_when_asked_anew_harms_nothing(bench: Bench, alba: ScriptedSite) -> None:
    first = by_site(await asked(bench, 0.1))["alba"]
    alba.steps["accept"], alba.steps["quote"] = [fails(SOLD_OUT)], [fails(SiteUnreachable("gone"))]
    assert (await bench.accept(first)).item.phase == "REJECTED"


async def test_two_who_accept_an_expired_offer_at_once_take_one(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    first = by_site(await asked(bench, 0.0))["alba"]
    await bench.settle(400)
    await asyncio.gather(bench.accept(first), bench.accept(first), return_exceptions=True)
    record = await bench.record(first)
    assert sum(alba.runs.values()) == 1
    body = setbody.decode(await bench.records.body(record) or b"")
    known = {item.session for item in body.kept}
    assert known == {item.uuid for item in record.sessions}  # neither asking has lost what the other brought
    await at_rest(bench, record, alba, borealis)


async def test_what_comes_late_does_not_drop_what_was_asked_anew(bench: Bench, store: Store) -> None:
    state = await asked(bench, 0.1)
    record = state.record
    fresh = offerset.SessionRecord(UUID(int=1 << 100 | record.uuid.int), "alba", "h", "alba", requoted=True)
    words = offerset.Note(0.0, "uri:asked-anew", "x")
    await bench.records.change(record.uuid, lambda r: offerset.requoted(r, r.sessions[0].uuid, [fresh], words, 0.0))
    body = await bench.records.body(record)
    assert body is not None
    grown = setbody.decode(body)
    step = joining({}, setbody.SetBody(b"other", grown.wishes, 0.0), 0.0, bench.records)
    await bench.records.rewrite(record.uuid, step)
    assert setbody.decode(await bench.records.body(record) or b"").kept == grown.kept


@pytest.mark.parametrize("failover", [False, True], ids=["requote", "failover"])
async def test_whoever_dies_after_a_refusal_leaves_its_duty_to_others(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite, failover: bool
) -> None:
    """At each call to store or site in turn: another broker goes on where the dead one stopped."""
    sites = {"alba": alba, "borealis": borealis}
    for number in range(100):
        bench = await Bench(store, clock, sites).start()
        wishes = {"failover": True} if failover else {"requote": 0.1}
        best = uuids(await bench.ask(preferences=wishes))[0]
        alba.runs.clear()
        borealis.runs.clear()
        alba.steps["accept"] = [fails(SOLD_OUT)]
        wire = Tripwire(number, after=True)
        doomed = Bench(wire.behind(store, "store"), clock, {n: wire.behind(s, n) for n, s in sites.items()})
        for entry in doomed.sites.entries():
            entry.profile = sites[entry.name].profile
        with contextlib.suppress(Died):
            await doomed.accept(best)
        alba.steps.clear()
        await bench.settle(100)
        record = await bench.record(best)
        started = sum(alba.runs.values()) + sum(borealis.runs.values())
        assert started <= 1
        assert record.owed is None
        if "uri:acceptance-refused" in notes(record, best) and not record.taken:
            # Whoever died in the middle of the next acceptance had it withdrawn: nobody knows whether it was sent.
            assert [n for item in record.sessions if item.uuid != best for n in item.notes], wire.calls
        await at_rest(bench, record, alba, borealis)
        if not wire.tripped:
            return
    pytest.fail("the story has no end")


async def test_a_silent_site_is_in_doubt_and_is_not_asked_anew(bench: Bench, alba: ScriptedSite) -> None:
    first = by_site(await asked(bench, 0.1))["alba"]
    alba.steps["accept"] = [fails(SiteTimeout("silent"))]
    alba.steps["status"] = [fails(SiteTimeout("silent"))]
    assert (await bench.accept(first)).item.phase == "OFFERED"
    assert len(alba.calls("quote")) == 1
