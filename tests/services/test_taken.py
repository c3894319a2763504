"""What was just accepted counts at once, where a site does not know it yet; so a burst spreads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from broker.domain import kinds
from broker.domain.money import Exchange
from broker.domain.outcome import Quote
from broker.domain.site import Link, Profile, Registration, StorageElement
from broker.domain.storages import Map
from broker.errors import NotAsked, SiteTimeout, Unavailable
from broker.ports import Store
from broker.services.fleet import Fleet
from broker.services.forwarding import HeldBack
from broker.services.sites import Entry
from broker.services.taken import HEAR_EVERY, KEY, KNOWN_AFTER, Taken
from broker.testing.bench import Bench
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryLimits
from broker.testing.planners import FakePlanner
from broker.testing.scripted import ScriptedSite, fails, says

HOUR = 3600.0


def entry(name: str = "alba", *, room: int | None = 10, profile: Profile | None = None) -> Entry:
    site = Registration(name=name, url="http://x/", room_cores=room)
    planner: Any = FakePlanner()
    return Entry(site, planner, True, 0.0, profile or Profile())


@pytest.fixture
def taken(clock: FakeClock) -> Taken:
    return Taken(clock)


# ── what is counted ──────────────────────────────────────────────────────────────────────────────────────────


def test_work_that_was_accepted_puts_a_site_off_by_its_share_of_the_room(taken: Taken) -> None:
    taken.note("alba", uuid4(), 12 * 2 * HOUR)
    lag = taken.lag(entry(room=48))
    assert lag is not None
    assert lag.seconds == pytest.approx(1800.0)
    assert lag.why == (
        "24.00 core-hours of work were accepted there in the last minute; it starts about 30 min later than it says"
    )


def test_several_add_up(taken: Taken) -> None:
    for _ in range(3):
        taken.note("alba", uuid4(), HOUR)
    lag = taken.lag(entry())
    assert lag is not None
    assert (lag.seconds, lag.why[:18]) == (pytest.approx(1080.0), "3.00 core-hours of")


def test_other_sites_are_as_they_were(taken: Taken) -> None:
    taken.note("alba", uuid4(), HOUR)
    assert taken.lag(entry("borealis")) is None


def test_after_a_minute_the_sites_own_figures_count(taken: Taken, clock: FakeClock) -> None:
    taken.note("alba", uuid4(), HOUR)
    clock.advance(KNOWN_AFTER - 1)
    assert taken.lag(entry()) is not None
    clock.advance(1)
    assert taken.lag(entry()) is None


def test_a_clock_that_is_set_back_lets_nothing_count_for_longer(taken: Taken, clock: FakeClock) -> None:
    taken.note("alba", uuid4(), HOUR)
    clock.jump(-HOUR)
    assert taken.lag(entry()) is None
    taken.note("alba", uuid4(), 2 * HOUR)
    lag = taken.lag(entry())
    assert lag is not None
    assert lag.seconds == pytest.approx(720.0)


def test_noted_twice_it_counts_once(taken: Taken) -> None:
    session = uuid4()
    taken.note("alba", session, HOUR)
    taken.note("alba", session, HOUR)
    lag = taken.lag(entry())
    assert lag is not None
    assert lag.seconds == pytest.approx(360.0)


def test_what_was_refused_counts_no_more(taken: Taken) -> None:
    session = uuid4()
    taken.note("alba", session, HOUR)
    taken.forget(session)
    taken.forget(session)
    assert taken.lag(entry()) is None


def test_of_a_site_whose_room_is_not_known_nothing_is_said(taken: Taken) -> None:
    taken.note("alba", uuid4(), HOUR)
    assert taken.lag(entry(room=None)) is None
    assert taken.lag(entry(room=None, profile=Profile(room=10))) is not None


def test_a_site_that_reserves_knows_it_itself(taken: Taken) -> None:
    taken.note("alba", uuid4(), HOUR)
    assert taken.lag(entry(profile=Profile(reserves=True))) is None


@pytest.mark.parametrize("work", [0.0, -1.0, float("nan")])
def test_work_that_is_none_counts_nothing(taken: Taken, work: float) -> None:
    taken.note("alba", uuid4(), work)
    assert taken.lag(entry()) is None


# ── among replicas ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def fleets(clock: FakeClock) -> AsyncIterator[list[Fleet]]:
    limits = MemoryLimits(clock)
    made = [Fleet(limits, clock) for _ in range(2)]
    yield made
    for fleet in made:
        await fleet.close()


async def told(fleets: list[Fleet], count: int) -> None:
    """Returns when so many notes are on the board."""
    while len(await fleets[0].posted(KEY)) != count:  # noqa: ASYNC110 - a condition of the limits
        await asyncio.sleep(0)


async def test_what_one_replica_accepts_the_others_count_half_a_second_later(
    fleets: list[Fleet], clock: FakeClock
) -> None:
    here, there = (Taken(clock, fleet) for fleet in fleets)
    await there.hear()
    here.note("alba", uuid4(), HOUR)
    await told(fleets, 1)
    await there.hear()
    assert there.lag(entry()) is None, "it looked just now"
    clock.advance(HEAR_EVERY)
    await there.hear()
    assert there.lag(entry()) == here.lag(entry()) is not None


async def test_our_own_are_not_counted_again_when_they_are_heard(fleets: list[Fleet], clock: FakeClock) -> None:
    here = Taken(clock, fleets[0])
    here.note("alba", uuid4(), HOUR)
    before = here.lag(entry())
    await told(fleets, 1)
    await here.hear()
    assert here.lag(entry()) == before


async def test_a_replica_takes_back_what_another_noted(fleets: list[Fleet], clock: FakeClock) -> None:
    here, there = (Taken(clock, fleet) for fleet in fleets)
    session = uuid4()
    here.note("alba", session, HOUR)
    await told(fleets, 1)
    await there.hear()
    there.forget(session)
    assert there.lag(entry()) is None
    await told(fleets, 0)
    clock.advance(HEAR_EVERY)
    await there.hear()
    assert there.lag(entry()) is None


async def test_the_one_that_noted_it_hears_that_another_took_it_back(fleets: list[Fleet], clock: FakeClock) -> None:
    here, there = (Taken(clock, fleet) for fleet in fleets)
    session = uuid4()
    here.note("alba", session, HOUR)
    await told(fleets, 1)
    for taken in (here, there):
        await taken.hear()
    there.forget(session)
    await told(fleets, 0)
    clock.advance(HEAR_EVERY)
    await here.hear()
    assert here.lag(entry()) is None


async def test_what_a_newer_replica_writes_is_left_out(fleets: list[Fleet], clock: FakeClock) -> None:
    there = Taken(clock, fleets[1])
    fleets[0].post(KEY, '{"of":"another version"}', 60.0)
    await told(fleets, 1)
    await there.hear()
    assert there.lag(entry()) is None


class Silent:
    """A board that fails, or does not answer."""

    def __init__(self) -> None:
        self.asked, self.fails = 0, False

    def post(self, key: str, text: str, seconds: float) -> None: ...

    def withdraw(self, key: str, text: str) -> None: ...

    async def posted(self, key: str) -> frozenset[str]:
        self.asked += 1
        if self.fails:
            raise Unavailable("gone.")
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_board_that_does_not_answer_holds_nobody_up(clock: FakeClock) -> None:
    board = Silent()
    taken = Taken(clock, board)
    taken.note("alba", uuid4(), HOUR)
    await asyncio.gather(*(taken.hear() for _ in range(20)))
    assert board.asked == 1
    assert taken.lag(entry()) is not None
    await taken.close()


async def test_a_board_that_fails_leaves_what_was_known(clock: FakeClock) -> None:
    board = Silent()
    board.fails = True
    taken = Taken(clock, board)
    taken.note("alba", uuid4(), HOUR)
    await taken.hear()
    assert taken.lag(entry()) is not None


# ── whole requests ───────────────────────────────────────────────────────────────────────────────────────────

MAP = Map([], [Link(source="ARCHIVE", target="*", bandwidth=100e6)], Exchange("EUR", {}))
SURVEY: dict[str, Any] = {
    "kind": kinds.SKAO_DATA,
    "skao": {
        "namespace": "teal",
        "objectname": "survey",
        "objecttype": "FILE",
        "datasize": 90_000_000_000,
        "replicas": [{"rsename": "ARCHIVE"}],
    },
}
ASKED = {"data": [SURVEY], "schedule": {"requested": {"duration": "PT1H"}}, "compute": {"kind": kinds.SIMPLE_COMPUTE}}


async def opened(
    store: Store, clock: FakeClock, *sites: ScriptedSite, room: int | None = 1280, at_once: int = 200
) -> Bench:
    """The first of the sites has the archive."""
    archive = (StorageElement(name="ARCHIVE"),)
    given = {
        site.name: Registration(name=site.name, url="http://x/", storages=archive if site is sites[0] else (),
                                room_cores=room)
        for site in sites
    }  # fmt: skip
    planners = {site.name: site for site in sites}
    return await Bench(store, clock, planners, registrations=given, map_=MAP, at_once=at_once).start()


def first(state: Any) -> UUID:
    return UUID(state.ranking[0].session)


async def burst(bench: Bench, count: int) -> Counter[str]:
    """So many requests for the same data, one every tenth of a second, each taking the best."""
    placed = Counter[str]()
    for _ in range(count):
        state = await bench.ask(**ASKED)
        placed[state.record.session(first(state)).site] += 1
        await bench.accept(first(state))
        bench.clock.advance(0.1)  # type: ignore[attr-defined] # it is a FakeClock
    return placed


async def test_a_burst_for_one_data_set_spreads_where_the_room_is_known(store: Store, clock: FakeClock) -> None:
    """Each takes 64 core-hours, 180 s of a site of 1280 cores. The way to the other site takes 900 s, which are hidden
    as soon as its queue is longer: the best split of many is even."""
    sites = [ScriptedSite(name, clock, (1.0,)) for name in ("alba", "borealis")]
    placed = await burst(await opened(store, clock, *sites), 100)
    assert placed == {"alba": 50, "borealis": 50}


async def test_a_burst_for_one_data_set_goes_to_one_site_where_no_room_is_known(store: Store, clock: FakeClock) -> None:
    sites = [ScriptedSite(name, clock, (1.0,)) for name in ("alba", "borealis")]
    assert await burst(await opened(store, clock, *sites, room=None), 100) == {"alba": 100}


async def test_an_offer_that_was_put_off_says_so_and_the_sites_own_promise_is_kept(
    store: Store, clock: FakeClock
) -> None:
    bench = await opened(store, clock, ScriptedSite("alba", clock, (1.0,)))
    await bench.accept(first(await bench.ask(**ASKED)))
    state = await bench.ask(**ASKED)
    assert state.body is not None
    [kept] = state.body.kept
    assert kept.candidate.start.expected - clock.now() == pytest.approx(180.0)
    assert "it starts about 3 min later than it says" in kept.warnings[-1]
    assert state.ranking[0].score is not None
    assert state.ranking[0].score.waiting.expected == pytest.approx(180.0)
    record = (await bench.accept(first(state))).record
    assert record.decision is not None
    assert record.decision.start is not None
    assert abs(record.decision.start - clock.now()) < 1.0


class Reserving(ScriptedSite):
    """Some of its offers hold room, others do not: it says so of each."""

    def _offer(self, handle: str, price: float | None) -> Quote:
        quote = super()._offer(handle, price)
        return Quote(handle, msgspec.json.encode({**msgspec.json.decode(quote.body), "reserved": price == 1.0}))


async def test_reserved_offers_are_left_as_they_are_and_are_not_counted(store: Store, clock: FakeClock) -> None:
    bench = await opened(store, clock, Reserving("alba", clock, (1.0, 2.0), profile=Profile(broker="another")))
    await bench.accept(first(await bench.ask(**ASKED)))
    assert bench.taken.lag(bench.sites.entry("alba")) is None, "the best offer was reserved"
    bench.taken.note("alba", uuid4(), 64 * HOUR)
    state = await bench.ask(**ASKED)
    assert state.body is not None
    assert {kept.reserved: kept.later for kept in state.body.kept} == {True: 0.0, False: pytest.approx(180.0)}


async def test_the_order_of_asking_counts_what_was_just_accepted(store: Store, clock: FakeClock) -> None:
    sites = [ScriptedSite(name, clock, (1.0,)) for name in ("alba", "borealis")]
    bench = await opened(store, clock, *sites, at_once=1)
    await bench.ask(**ASKED)
    for _ in range(9):
        bench.taken.note("alba", uuid4(), 64 * HOUR)
    await bench.ask(**ASKED, preferences={"enough": 1})
    assert [len(site.calls("quote")) for site in sites] == [1, 2], "borealis alone was asked the second time"


async def test_a_refused_acceptance_is_taken_back(store: Store, clock: FakeClock) -> None:
    alba = ScriptedSite("alba", clock, (1.0,))
    bench = await opened(store, clock, alba)
    alba.steps["accept"].append(says("REJECTED"))
    state = await bench.ask(**ASKED)
    await bench.accept(first(state))
    assert bench.taken.lag(bench.sites.entry("alba")) is None


async def test_an_acceptance_that_was_never_sent_is_taken_back(store: Store, clock: FakeClock) -> None:
    alba = ScriptedSite("alba", clock, (1.0,))
    bench = await opened(store, clock, alba)
    alba.steps["accept"].append(fails(NotAsked("no room")))
    with pytest.raises(HeldBack):
        await bench.accept(first(await bench.ask(**ASKED)))
    assert bench.taken.lag(bench.sites.entry("alba")) is None


async def test_a_cancelled_session_is_taken_back(store: Store, clock: FakeClock) -> None:
    bench = await opened(store, clock, ScriptedSite("alba", clock, (1.0,)))
    state = await bench.ask(**ASKED)
    await bench.accept(first(state))
    assert bench.taken.lag(bench.sites.entry("alba")) is not None
    await bench.update(first(state), "CANCELLED")
    assert bench.taken.lag(bench.sites.entry("alba")) is None


async def test_an_offer_in_doubt_counts_until_it_is_known(store: Store, clock: FakeClock) -> None:
    alba = ScriptedSite("alba", clock, (1.0,))
    bench = await opened(store, clock, alba)
    alba.steps["accept"].append(fails(SiteTimeout("lost")))
    alba.steps["status"].append(fails(SiteTimeout("lost")))
    await bench.accept(first(await bench.ask(**ASKED)))
    assert bench.taken.lag(bench.sites.entry("alba")) is not None
