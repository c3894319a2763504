"""Sets that are answered before anybody was asked: they grow, are taken while they grow, and outlive a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from broker.domain.identity import Hop
from broker.ports import Ask, Quotes, Store
from broker.services.offers import How, SetState
from broker.testing.bench import ADA, Bench, broken_rules, by_site, request, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite

LATER = How(later=True)


class Held:
    """Around a site: answers to questions wait until `go`."""

    def __init__(self, site: ScriptedSite) -> None:
        self.site, self.asked, self.go = site, asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self.site, name)

    async def quote(self, ask: Ask) -> Quotes:
        self.asked.set()
        await self.go.wait()
        return await self.site.quote(ask)


@pytest.fixture
def held(alba: ScriptedSite, borealis: ScriptedSite) -> dict[str, Any]:
    return {"alba": Held(alba), "borealis": Held(borealis)}


@pytest.fixture
async def bench(store: Store, clock: FakeClock, held: dict[str, Any]) -> AsyncIterator[Bench]:
    bench = await Bench(store, clock, held).start()
    yield bench
    await bench.offers.close()
    await bench.fanout.close()


async def ask(bench: Bench, how: How = LATER, **more: Any) -> SetState:
    return await bench.offers.ask(request(**more), ADA, Hop(), how)


async def grown(bench: Bench, state: SetState, sites: int) -> SetState:
    """The set when so many sites have joined it."""
    while len((await bench.record(state.uuid)).outcomes) < sites:  # noqa: ASYNC110 - a condition of the store
        await asyncio.sleep(0)
    return await bench.offers.get(state.uuid, ADA)


async def test_it_is_answered_and_stored_before_anybody_was_asked(bench: Bench, held: dict[str, Any]) -> None:
    state = await ask(bench)
    assert (state.record.pending, state.record.closed, state.ranking) == (("alba", "borealis"), False, ())
    assert (await bench.offers.get(state.uuid, ADA)).record == state.record
    assert (await bench.offers.request(state.uuid, ADA)).startswith(b"{")
    await held["alba"].asked.wait()


async def test_sites_join_it_one_by_one_and_the_last_one_closes_it(bench: Bench, held: dict[str, Any]) -> None:
    state = await ask(bench)
    held["borealis"].go.set()
    first = await grown(bench, state, 1)
    assert (first.record.pending, len(first.ranking)) == (("alba",), 1)
    held["alba"].go.set()
    whole = await grown(bench, state, 2)
    assert (whole.record.closed, [ranked.rank for ranked in whole.ranking]) == (True, [1, 2, 3])
    assert whole.record.session(uuids(whole)[0]).site == "alba"


async def test_a_set_that_nobody_could_host_is_closed_at_once(store: Store, clock: FakeClock) -> None:
    bench = await Bench(store, clock, {}).start()
    assert (await ask(bench)).record.closed


async def test_what_comes_after_an_acceptance_is_given_back(
    bench: Bench, held: dict[str, Any], borealis: ScriptedSite, alba: ScriptedSite, clock: FakeClock
) -> None:
    state = await ask(bench)
    held["borealis"].go.set()
    first = await grown(bench, state, 1)
    await bench.accept(by_site(first)["borealis"])
    held["alba"].go.set()
    while bench.offers._growing:
        await asyncio.wait(bench.offers._growing)
    await bench.settle(1)
    record = await bench.record(state.uuid)
    assert broken_rules(record, (alba, borealis), clock.now()) == []
    assert record.session(by_site(first)["borealis"]).phase == "ACCEPTED"
    assert sum(borealis.runs.values()) == 1


async def test_after_a_crash_its_timer_closes_it_and_names_who_never_answered(
    bench: Bench, held: dict[str, Any], store: Store, clock: FakeClock
) -> None:
    state = await ask(bench)
    held["borealis"].go.set()
    await grown(bench, state, 1)
    await bench.fanout.close()  # with the process, everything that waits is gone
    await bench.offers.close()
    again = await Bench(store, clock, held).start()
    await again.settle(60)
    record = await again.record(state.uuid)
    assert record.closed
    assert {site: line.outcome for site, line in record.outcomes.items()} == {"borealis": "Offered", "alba": "TimedOut"}
    assert "no answer" in record.outcomes["alba"].reasons[0]


async def test_with_a_wait_the_answer_comes_when_all_is_in(bench: Bench, held: dict[str, Any]) -> None:
    asking = asyncio.create_task(ask(bench, How(later=True, wait=600.0)))
    for site in held.values():
        await site.asked.wait()
        site.go.set()
    state = await asking
    assert (state.record.closed, len(state.ranking)) == (True, 3)


async def test_with_a_wait_the_answer_comes_when_it_has_passed(bench: Bench, held: dict[str, Any]) -> None:
    state = await ask(bench, How(later=True, wait=0.01))
    assert state.record.pending == ("alba", "borealis")


async def test_as_many_good_offers_as_are_wanted_end_the_asking(bench: Bench, held: dict[str, Any]) -> None:
    state = await ask(bench, preferences={"enough": 1})
    held["borealis"].go.set()
    found = await grown(bench, state, 2)
    assert (found.record.outcomes["alba"].outcome, found.record.closed) == ("TimedOut", False)
    held["alba"].go.set()
    while not (await bench.record(state.uuid)).closed:  # noqa: ASYNC110 - a condition of the store
        await asyncio.sleep(0)
    assert len((await bench.offers.get(state.uuid, ADA)).ranking) == 3


@pytest.mark.parametrize(
    ("wait", "left", "given"), [(None, None, 10), (2.0, None, 2), (0.0, None, 1), (300.0, None, 60), (50.0, 10.0, 9)]
)
async def test_a_caller_sets_the_time_for_the_answer_within_limits(
    bench: Bench, held: dict[str, Any], wait: float | None, left: float | None, given: float
) -> None:
    """The default is 10 s, the longest 60 s; a broker above that gives less has the last word."""
    deadline = bench.offers._deadline(Hop(left=left), wait)
    assert deadline.left(bench.clock.monotonic()) == pytest.approx(given)
