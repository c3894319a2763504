"""Asking: who is asked, what becomes of answers in time and late, of callers who go away, and of reading a set."""

from __future__ import annotations

import asyncio
from uuid import UUID, uuid4

import pytest

from broker.domain import kinds
from broker.domain.identity import Hop
from broker.domain.outcome import Quote
from broker.domain.site import Profile, Registration
from broker.errors import Dangling, NotAllowed, NotFound, SiteForbids, SiteTimeout, Unavailable
from broker.ports import Ask, Query, Quotes, Store
from broker.testing.bench import ADA, BOB, OPERATOR, Bench, broken_rules, by_site, uuids
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryLimits
from broker.testing.planners import FakePlanner, quotes
from broker.testing.scripted import ScriptedSite, fails


class Slow:
    """Around a site: answers to questions wait until `go`."""

    def __init__(self, site: ScriptedSite) -> None:
        self.site = site
        self.asked, self.go, self.answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self.site, name)

    async def quote(self, ask: Ask) -> Quotes:
        self.asked.set()
        await self.go.wait()
        self.answered.set()
        return await self.site.quote(ask)


@pytest.fixture
def slow(borealis: ScriptedSite) -> Slow:
    return Slow(borealis)


@pytest.fixture
async def late(store: Store, clock: FakeClock, alba: ScriptedSite, slow: Slow) -> Bench:
    """Alba answers at once, borealis when it is let."""
    return await Bench(store, clock, {"alba": alba, "borealis": slow}).start()  # type: ignore[dict-item]


async def drained(bench: Bench) -> None:
    """Every late answer was handed on."""
    while bench.fanout._tasks:
        await asyncio.wait(bench.fanout._tasks)


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_every_site_has_one_outcome_and_a_reason(store: Store, clock: FakeClock) -> None:
    sites = {name: ScriptedSite(name, clock) for name in ("fine", "full", "silent", "wrong", "dead", "gpu", "drained")}
    sites["full"].prices = ()
    sites["silent"].steps["quote"] = [fails(SiteTimeout("no answer"))]
    sites["wrong"].steps["quote"] = [fails(SiteForbids("who are you"))]
    sites["dead"].steps["describe"] = [fails(SiteTimeout("nobody there"))]
    sites["gpu"].profile = Profile(executables=(kinds.PYTHON_PROGRAM,))
    drained = {"drained": Registration(name="drained", url="http://x/", drained=True)}
    bench = await Bench(store, clock, sites, registrations=drained).start()
    record = (await bench.ask()).record
    told = {site: (line.outcome, bool(line.reasons), line.acts) for site, line in record.outcomes.items()}
    assert told == {
        "fine": ("Offered", False, ""),
        "full": ("Declined", True, ""),
        "silent": ("TimedOut", True, ""),
        "wrong": ("Failed", True, "operator"),
        "dead": ("Skipped", True, "site"),
        "gpu": ("Skipped", True, ""),
        "drained": ("Skipped", True, ""),
    }
    assert set(record.sites) == set(sites)
    assert not sites["gpu"].calls("quote")


async def test_a_wrong_request_is_refused_before_anybody_is_asked(bench: Bench, alba: ScriptedSite) -> None:
    volume = {"kind": kinds.SIMPLE_VOLUME, "path": "/data", "resource": "nowhere"}
    with pytest.raises(Dangling, match="nowhere"):
        await bench.ask(compute={"kind": kinds.SIMPLE_COMPUTE, "volumes": [volume]})
    assert not alba.calls("quote")


async def test_without_sites_there_is_a_set_that_says_no(store: Store, clock: FakeClock) -> None:
    state = await (await Bench(store, clock, {}).start()).ask()
    assert (state.record.sessions, state.record.closed, state.record.sites) == ((), True, ())


async def test_the_set_is_stored_when_the_answer_goes_out(bench: Bench) -> None:
    state = await bench.ask()
    found = await bench.offers.get(state.uuid, ADA)
    assert found.record == state.record
    assert uuids(found) == uuids(state)


async def test_a_request_is_read_back_by_whoever_sent_it(store: Store, clock: FakeClock, alba: ScriptedSite) -> None:
    bench = await Bench(store, clock, {"alba": alba}, readers="all").start()
    state = await bench.ask(preferences={"preset": "fastest"})
    for caller in (ADA, OPERATOR):
        assert b'"preset":"fastest"' in await bench.offers.request(state.uuid, caller)
    await bench.offers.get(state.uuid, BOB)
    with pytest.raises(NotAllowed):
        await bench.offers.request(state.uuid, BOB)


@pytest.mark.parametrize(("reads", "outcome"), [(("http", "data"), "Offered"), (("http",), "Skipped")])
async def test_a_notebook_in_a_data_url_goes_only_where_one_is_read(
    store: Store, clock: FakeClock, alba: ScriptedSite, reads: tuple[str, ...], outcome: str
) -> None:
    alba.profile = Profile(reads=reads)
    bench = await Bench(store, clock, {"alba": alba}).start()
    notebook = {"kind": kinds.JUPYTER_NOTEBOOK, "location": "data:application/x-ipynb+json;base64,e30="}
    line = (await bench.ask(executable=notebook)).record.outcomes["alba"]
    assert line.outcome == outcome
    assert [text for text in line.reasons if "data URLs" not in text] == []
    assert bool(alba.calls("quote")) == (outcome == "Offered")


async def test_a_set_that_cannot_be_stored_is_no_set_and_its_offers_are_given_back(
    store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    bench = await Bench(store, clock, {"alba": alba}).start()
    await store.close()
    with pytest.raises(Unavailable):
        await bench.ask()
    async with asyncio.timeout(5):
        while "OFFERED" in alba.phases.values():  # noqa: ASYNC110 - beside the answer, and nothing tells of it
            await asyncio.sleep(0)
    assert len(alba.calls("release")) == len(alba.prices)


async def test_one_handle_is_one_session(store: Store, clock: FakeClock) -> None:
    planner = FakePlanner(quotes("h-1"), Quotes((*quotes("h-1", "h-2").quotes, Quote("h-1", b'{"phase":"OFFERED"}'))))
    bench = await Bench(store, clock, {"alba": planner}).start()
    assert [item.handle for item in (await bench.ask()).record.sessions] == ["h-1", "h-2"]


async def test_an_offer_nobody_can_read_is_released_and_its_site_named(store: Store, clock: FakeClock) -> None:
    planner = FakePlanner(quotes("h-1"), quotes("h-1", body=b"{"), quotes("h-1"))
    bench = await Bench(store, clock, {"alba": planner}).start()
    record = (await bench.ask()).record
    assert record.sessions[0].phase == "REJECTED"
    assert "no JSON" in record.outcomes["alba"].reasons[0]
    await bench.work()
    assert planner.calls["release"] == 1


# ── late answers ─────────────────────────────────────────────────────────────────────────────────────────────


async def answered_without(late: Bench, slow: Slow, clock: FakeClock) -> UUID:
    """Asks with a deadline of next to nothing; the set is answered while borealis has not."""
    state = await late.ask(hop=Hop(left=0.2))
    assert state.record.outcomes["borealis"].outcome == "TimedOut"
    assert state.record.pending == ("borealis",)
    return state.uuid


async def test_a_late_offer_joins_and_is_ranked(late: Bench, slow: Slow, clock: FakeClock) -> None:
    set_ = await answered_without(late, slow, clock)
    slow.go.set()
    await drained(late)
    state = await late.offers.get(set_, ADA)
    assert len(uuids(state)) == 3
    assert state.record.outcomes["borealis"].outcome == "Offered"
    assert state.record.closed
    assert (await late.accept(by_site(state)["borealis"])).item.phase == "ACCEPTED"


async def test_an_offer_that_comes_after_the_claim_is_released(
    late: Bench, slow: Slow, clock: FakeClock, alba: ScriptedSite
) -> None:
    set_ = await answered_without(late, slow, clock)
    await late.accept(uuids(await late.offers.get(set_, ADA))[0])
    slow.go.set()
    await drained(late)
    await late.work()
    record = await late.record(set_)
    assert list(slow.site.phases.values()) == ["REJECTED"]
    assert record.outcomes["borealis"].outcome == "Offered"
    assert broken_rules(record, (alba, slow.site), clock.now()) == []


async def test_an_offer_that_comes_after_the_set_was_closed_is_released(
    late: Bench, slow: Slow, clock: FakeClock
) -> None:
    set_ = await answered_without(late, slow, clock)
    await late.settle(30)
    assert (await late.record(set_)).closed
    slow.go.set()
    await drained(late)
    await late.work()
    assert list(slow.site.phases.values()) == ["REJECTED"]


async def test_two_late_ones_at_once_both_join(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    slows = [Slow(alba), Slow(borealis)]
    bench = await Bench(store, clock, {"alba": slows[0], "borealis": slows[1]}).start()  # type: ignore[dict-item]
    state = await bench.ask(hop=Hop(left=0.2))
    assert state.ranking == ()
    for one in slows:
        one.go.set()
    await drained(bench)
    assert len(uuids(await bench.offers.get(state.uuid, ADA))) == 3


async def test_a_set_waits_no_longer_than_the_grace(late: Bench, slow: Slow, clock: FakeClock) -> None:
    set_ = await answered_without(late, slow, clock)
    await late.settle(9)
    assert not (await late.record(set_)).closed
    await late.settle(2)
    record = await late.record(set_)
    assert (record.closed, record.pending) == (True, ())


# ── callers who go away ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_cancelled_question_gives_back_what_was_in_and_what_comes(
    store: Store, clock: FakeClock, alba: ScriptedSite, slow: Slow
) -> None:
    prompt = Slow(alba)
    prompt.go.set()
    bench = await Bench(store, clock, {"alba": prompt, "borealis": slow}).start()  # type: ignore[dict-item]
    asking = asyncio.create_task(bench.ask())
    await prompt.answered.wait()
    await slow.asked.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    slow.go.set()
    await drained(bench)
    assert set(alba.phases.values()) == {"REJECTED"}
    assert list(slow.site.phases.values()) == ["REJECTED"]
    assert await bench.offers.list(ADA) == []


async def test_a_question_cancelled_while_it_is_stored_is_stored_and_its_offers_end(
    store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    bench = await Bench(store, clock, {"alba": alba}).start()
    held = Held(store)
    bench.records._store = held  # type: ignore[assignment]
    asking = asyncio.create_task(bench.ask())
    await held.reached.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    held.go.set()
    await held.written.wait()
    assert len(await store.listings(Query("offerset"))) == 1
    await bench.settle(400)
    assert set(alba.phases.values()) == {"REJECTED"}


class Held:
    """A store whose writes wait."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reached, self.go, self.written = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def write(self, *args: object, **more: object) -> bool:
        self.reached.set()
        await self.go.wait()
        done = await self._store.write(*args, **more)  # type: ignore[arg-type]
        self.written.set()
        return done


# ── brokers before us ────────────────────────────────────────────────────────────────────────────────────────


async def test_a_request_that_comes_by_two_ways_is_answered_by_one(bench: Bench, alba: ScriptedSite) -> None:
    root = uuid4()
    first = await bench.ask(hop=Hop(5.0, root, ("top", "left")))
    second = await bench.ask(hop=Hop(5.0, root, ("top", "right")))
    assert len(first.ranking) == 3
    assert second.ranking == ()
    assert {line.outcome for line in second.record.outcomes.values()} == {"Skipped"}
    assert second.record.outcomes["alba"].reasons == ("asked by way of top > left",)
    assert len(alba.calls("quote")) == 1


async def test_a_request_that_comes_again_the_same_way_is_answered_again(bench: Bench) -> None:
    hop = Hop(5.0, uuid4(), ("top", "left"))
    assert len((await bench.ask(hop=hop)).ranking) == len((await bench.ask(hop=hop)).ranking) == 3


async def test_two_requests_of_one_person_are_two(bench: Bench) -> None:
    for _ in range(2):
        assert len((await bench.ask(hop=Hop(5.0, uuid4(), ("top",)))).ranking) == 3


async def test_sites_are_told_whom_we_serve_and_how_the_request_came(store: Store, clock: FakeClock) -> None:
    planner = FakePlanner()
    bench = await Bench(store, clock, {"alba": planner}, limits=MemoryLimits(clock)).start()
    root = uuid4()
    state = await bench.ask(hop=Hop(5.0, root, ("top",)))
    asked = planner.asks[0]
    assert (asked.path, asked.root, asked.user, asked.set) == (("top", "us"), root, ADA.owner, state.uuid)
    direct = await bench.ask()
    assert (planner.asks[1].path, planner.asks[1].root) == (("us",), direct.uuid)
    assert b"preferences" not in planner.asks[1].plain


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_set_is_its_owners_to_read(bench: Bench) -> None:
    state = await bench.ask()
    assert (await bench.offers.get(state.uuid, OPERATOR)).uuid == state.uuid
    with pytest.raises(NotFound):
        await bench.offers.get(state.uuid, BOB)


async def test_a_session_is_no_set(bench: Bench) -> None:
    state = await bench.ask()
    with pytest.raises(NotFound, match="session, not an offer set"):
        await bench.offers.get(uuids(state)[0], ADA)


async def test_readers_see_expiry_before_the_timer_does(bench: Bench, clock: FakeClock) -> None:
    state = await bench.ask()
    clock.advance(301)
    found = await bench.offers.get(state.uuid, ADA)
    assert {item.phase for item in found.record.sessions} == {"EXPIRED"}


async def test_a_set_whose_offers_were_pruned_can_still_be_read_and_accepted(bench: Bench, clock: FakeClock) -> None:
    state = await bench.ask()
    await bench.store.prune_bodies(clock.now() + 1)
    found = await bench.offers.get(state.uuid, ADA)
    assert (found.body, found.ranking) == (None, ())
    assert (await bench.accept(uuids(state)[0])).item.phase == "ACCEPTED"


async def test_each_lists_their_own_and_an_operator_all_when_asked(bench: Bench) -> None:
    mine, theirs = (await bench.ask(ADA)).uuid, (await bench.ask(BOB)).uuid
    assert [line.id for line in await bench.offers.list(ADA, everyone=True)] == [str(mine)]
    assert await bench.offers.list(OPERATOR) == []
    assert {line.id for line in await bench.offers.list(OPERATOR, everyone=True)} == {str(mine), str(theirs)}


async def test_the_lists_follow_the_phases(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    assert [line.phase for line in await bench.offers.list(ADA)] == ["YES"]
    assert await bench.sessions.list(ADA) == []
    await bench.accept(best)
    assert [line.phase for line in await bench.offers.list(ADA)] == ["TAKEN"]
    assert [(line.id, line.phase) for line in await bench.sessions.list(ADA)] == [(str(best), "ACCEPTED")]
    alba.all_over()
    await bench.settle(30)
    assert [line.phase for line in await bench.sessions.list(ADA)] == ["COMPLETED"]


async def test_enough_good_offers_end_the_wait(late: Bench, slow: Slow) -> None:
    state = await late.ask(preferences={"enough": 2})
    assert "enough" in state.record.outcomes["borealis"].reasons[0]
    slow.go.set()
    await drained(late)
    assert len(uuids(await late.offers.get(state.uuid, ADA))) == 3
