"""Many sites: who can win is asked first, so many at a time; who cannot is left out, with the reason."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.domain import kinds
from broker.domain.data import AbstractDataResource
from broker.domain.deadline import Deadline
from broker.domain.experience import BLANK, Correction, Experience, Factor, Measured
from broker.domain.identity import Hop
from broker.domain.locality import Place
from broker.domain.located import Located, Portion, Replica, items
from broker.domain.money import Exchange
from broker.domain.outcome import Offered, Outcome, Reason, Skipped, TimedOut
from broker.domain.quantities import Span
from broker.domain.site import Link, Profile, Registration, StorageElement
from broker.domain.storages import Map
from broker.domain.wishes import Defaults, resolve
from broker.ports import Ask, Quotes, Store
from broker.services.clock import SystemClock
from broker.services.fanout import Fanout, Target
from broker.services.gathering import Gathering
from broker.services.locating import Known
from broker.services.offers import How, SetState
from broker.services.routing import Measures, Routing
from broker.testing.bench import ADA, Bench, request
from broker.testing.clock import FakeClock
from broker.testing.planners import FakePlanner, an_ask
from broker.testing.scripted import ScriptedSite

# ── the fan-out, on a course ─────────────────────────────────────────────────────────────────────────────────


an_early_end, a_late_end = Reason("early"), Reason("late")


class Line:
    """A course that asks everybody in turn."""

    def __init__(self, targets: Sequence[Target], room: int) -> None:
        self._targets, self.room = list(targets), room
        self.heard: list[int] = []

    def next(self, outcomes: dict[str, Outcome]) -> Target | None:
        self.heard.append(len(outcomes))
        return self._targets.pop(0) if self._targets else None

    def left(self, *, early: bool) -> dict[str, Outcome]:
        return {target.name: Skipped(an_early_end if early else a_late_end) for target in self._targets}


@pytest.fixture
async def fanout() -> AsyncIterator[Fanout]:
    fanout = Fanout(SystemClock())
    yield fanout
    await fanout.close()


def within(seconds: float) -> Deadline:
    return Deadline.after(seconds, asyncio.get_running_loop().time())


async def nobody_is_late(site: str, outcome: Outcome) -> None:
    raise AssertionError(f"{site} was late with {outcome}")


async def ignored(site: str, outcome: Outcome) -> None:
    return


async def test_so_many_are_out_at_a_time_and_the_next_is_asked_as_answers_come(fanout: Fanout) -> None:
    planner = FakePlanner("wait")
    line = Line([Target(f"s{n}", planner) for n in range(7)], room=3)
    asking = asyncio.create_task(fanout.ask([], an_ask(within(60)), on_late=nobody_is_late, course=line))
    await planner.called("quote", 3)
    assert (planner.now, planner.calls["quote"]) == (3, 3)
    planner.go.set()
    outcomes = await asking
    assert list(outcomes) == [f"s{n}" for n in range(7)]
    assert all(isinstance(outcome, Offered) for outcome in outcomes.values())
    assert planner.most == 3


async def test_who_says_nothing_gives_its_place_up_and_is_waited_for_all_the_same(fanout: Fanout) -> None:
    silent, good = FakePlanner("wait"), FakePlanner()
    line = Line([Target("silent", silent), Target("good", good)], room=1)
    asking = asyncio.create_task(fanout.ask([], an_ask(within(2.0)), on_late=nobody_is_late, course=line))
    await good.called("quote", 1)
    silent.go.set()
    outcomes = await asking
    assert [type(outcome) for outcome in outcomes.values()] == [Offered, Offered]


async def test_whoever_was_not_asked_when_the_time_is_over_has_what_the_course_says(fanout: Fanout) -> None:
    line = Line([Target(f"s{n}", FakePlanner("hang")) for n in range(30)], room=2)
    outcomes = await fanout.ask([], an_ask(within(0.3)), on_late=ignored, course=line)
    asked = [name for name, outcome in outcomes.items() if isinstance(outcome, TimedOut)]
    assert 2 <= len(asked) < 30
    assert len(outcomes) == 30
    assert {outcome.reason for outcome in outcomes.values() if isinstance(outcome, Skipped)} == {a_late_end}


async def test_nobody_more_is_asked_when_enough_is_in(fanout: Fanout) -> None:
    planners = [FakePlanner() for _ in range(9)]
    line = Line([Target(f"s{n}", planner) for n, planner in enumerate(planners)], room=2)
    outcomes = await fanout.ask(
        [], an_ask(within(60)), on_late=ignored, enough=lambda found: len(found) >= 4, course=line
    )
    assert sum(planner.calls["quote"] for planner in planners) == 4
    assert [type(outcome) for outcome in outcomes.values()] == [Offered] * 4 + [Skipped] * 5
    assert outcomes["s8"] == Skipped(an_early_end)


async def test_a_caller_that_goes_away_leaves_no_offer_unknown_and_nobody_more_is_asked(fanout: Fanout) -> None:
    slow, rest = FakePlanner("wait"), FakePlanner()
    late, heard = dict[str, Outcome](), asyncio.Event()

    async def on_late(site: str, outcome: Outcome) -> None:
        late[site] = outcome
        heard.set()

    line = Line([Target("slow", slow), Target("rest", rest)], room=1)
    asking = asyncio.create_task(fanout.ask([], an_ask(within(60)), on_late=on_late, course=line))
    await slow.called("quote", 1)
    asking.cancel()
    await asyncio.wait([asking])
    slow.go.set()
    await heard.wait()
    assert list(late) == ["slow"]
    assert isinstance(late["slow"], Offered)
    assert rest.calls["quote"] == 0


async def test_a_course_with_nobody_on_it_ends_at_once(fanout: Fanout) -> None:
    assert await fanout.ask([], an_ask(within(60)), on_late=nobody_is_late, course=Line([], room=5)) == {}


# ── whole requests ───────────────────────────────────────────────────────────────────────────────────────────


class Misbehaving(FakePlanner):
    """Does what its name says when it is asked."""

    def __init__(self, manner: str) -> None:
        super().__init__()
        self.manner, self.count = manner, 0

    async def quote(self, ask: Ask) -> Quotes:
        self.count += 1
        if self.manner == "raises":
            raise RuntimeError("a bug")
        if self.manner == "cancels":
            raise asyncio.CancelledError
        if self.manner == "hangs":
            await asyncio.Event().wait()
        return Quotes((), (Reason("full"),))


@pytest.mark.parametrize("seed", range(2))
async def test_planners_that_raise_cancel_or_hang_take_nobodys_place_and_all_have_one_outcome(
    fanout: Fanout, seed: int
) -> None:
    draw = random.Random(seed)
    manners = ["hangs"] * 2 + ["raises", "cancels"] * 4 + ["answers"] * 20
    draw.shuffle(manners)
    sites = [Misbehaving(manner) for manner in manners]
    line = Line([Target(f"s{n}", site) for n, site in enumerate(sites)], room=2)
    found = await fanout.ask([], an_ask(within(1.5)), on_late=nobody_is_late, course=line)
    await fanout.close()
    told = {"answers": "Declined", "raises": "Failed", "cancels": "Failed", "hangs": "TimedOut"}
    assert {name: type(outcome).__name__ for name, outcome in found.items()} == {
        f"s{n}": told[manner] for n, manner in enumerate(manners)
    }
    assert {site.count for site in sites} == {1}


MAP_STORAGES = [StorageElement(name="ARCHIVE"), StorageElement(name="FAR")]
MAP = Map(
    MAP_STORAGES,
    [Link(source="ARCHIVE", target="*", bandwidth=100e6, price=0.05)],
    Exchange("EUR", {}),
)
CUBE: dict[str, Any] = {
    "kind": kinds.SKAO_DATA,
    "skao": {
        "namespace": "teal",
        "objectname": "cube",
        "objecttype": "FILE",
        "datasize": 84_200_000_000,
        "replicas": [{"rsename": "ARCHIVE"}],
    },
}


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


class LateCatalogue:
    """Knows that everything lies in the archive, and says so when `go` is set."""

    def __init__(self) -> None:
        self.go, self.done = asyncio.Event(), asyncio.Event()

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        return "cube"

    async def locate(self, name: str, deadline: Deadline) -> Located:
        await self.go.wait()
        self.done.set()
        return Located((Portion(84.2e9, (Replica("ARCHIVE"),)),))

    async def close(self) -> None:
        return


def federation(
    clock: FakeClock, count: int, holders: Sequence[int], **more: Any
) -> tuple[dict[str, ScriptedSite], dict[str, Registration]]:
    """`count` sites of which a few have the archive at theirs; each wants 1 EUR and a cent more than the one before."""
    names = [f"s{n:03}" for n in range(count)]
    sites = {name: ScriptedSite(name, clock, (1.0 + n / 100,), **more) for n, name in enumerate(names)}
    archive = (StorageElement(name="ARCHIVE"),)
    given = {
        name: Registration(name=name, url="http://x/", storages=archive if n in holders else ())
        for n, name in enumerate(names)
    }
    return sites, given


def asked(sites: dict[str, ScriptedSite]) -> list[str]:
    return [name for name, site in sites.items() if site.calls("quote")]


async def start(
    store: Store, clock: FakeClock, sites: Mapping[str, Any], given: Mapping[str, Registration], at_once: int,
    *, map_: Map = MAP, catalogues: Sequence[Known] = (),
) -> Bench:  # fmt: skip
    return await Bench(
        store, clock, sites, registrations=given, map_=map_, at_once=at_once, catalogues=catalogues
    ).start()


def reasons(state: SetState) -> dict[str, str]:
    return {name: "; ".join(line.reasons) for name, line in state.record.outcomes.items() if line.outcome == "Skipped"}


def ranked(bench: Bench, state: SetState) -> list[str]:
    """The sites of the offers, the best first; of each offer that passes."""
    good = [UUID(item.session) for item in state.ranking if item.excluded is None]
    return [state.record.session(uuid).site for uuid in good]


async def test_up_to_so_many_sites_all_are_asked_at_once(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 6, [5])
    bench = await start(store, clock, sites, given, at_once=6)
    state = await bench.ask(data=[CUBE])
    assert len(asked(sites)) == 6
    assert ranked(bench, state)[0] == "s005"


async def test_beyond_whoever_cannot_beat_what_is_in_is_not_asked(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 40, [7, 20, 33])
    bench = await start(store, clock, sites, given, at_once=4)
    state = await bench.ask(data=[CUBE])
    assert {"s007", "s020", "s033"} <= set(asked(sites))
    assert len(asked(sites)) == 4, "the window is filled once, and then the bar is up"
    assert ranked(bench, state)[:3] == ["s007", "s020", "s033"]
    assert set(state.record.outcomes) == set(sites), "every site has its outcome"
    assert set(reasons(state).values()) == {
        "not asked: it cannot beat 5.43 EUR: 84.2 GB would have to move there, 8.21 EUR at least"
    }
    assert len(reasons(state)) == 36


async def test_staging_leaves_a_site_out_once_its_offers_have_left_staging_to_us(
    store: Store, clock: FakeClock
) -> None:
    slow = Map(MAP_STORAGES, [Link(source="ARCHIVE", target="*", bandwidth=4e6)], Exchange("EUR", {}))
    sites, given = federation(clock, 30, [7, 15, 20])
    bench = await start(store, clock, sites, given, at_once=4, map_=slow)
    await bench.ask(data=[CUBE])
    assert len(asked(sites)) == 30, "nobody knows yet whether they state preparing of their own"
    for site in sites.values():
        site.told.clear()
    state = await bench.ask(data=[CUBE])
    assert len(asked(sites)) < 10
    assert ranked(bench, state)[:3] == ["s007", "s015", "s020"]


async def test_a_site_without_the_data_is_not_asked_where_that_is_required(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 12, [3])
    bench = await start(store, clock, sites, given, at_once=2)
    state = await bench.ask(data=[CUBE], preferences={"locality": "required"})
    assert asked(sites) == ["s003"]
    assert set(reasons(state).values()) == {"not asked: 84.2 GB of data would have to move there"}


async def test_data_of_unknown_size_leave_nobody_out(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 12, [3])
    bench = await start(store, clock, sites, given, at_once=2)
    unknown = {**CUBE, "skao": {**CUBE["skao"], "datasize": None}}
    state = await bench.ask(data=[unknown])
    assert len(asked(sites)) == 12
    assert ranked(bench, state)[0] == "s003"


async def test_brokers_of_ours_are_asked_whatever_is_known_of_the_data(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 12, [1, 2, 3], profile=Profile(broker="another"))
    bench = await start(store, clock, sites, given, at_once=2)
    await bench.ask(data=[CUBE])
    assert len(asked(sites)) == 12


async def test_equals_are_drawn_by_lot_so_that_not_always_the_same_go_first(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 30, [])
    bench = await start(store, clock, sites, given, at_once=3)
    first = set()
    for _ in range(5):
        await bench.ask(preferences={"enough": 1})
        first.add(tuple(asked(sites)))
        for site in sites.values():
            site.told.clear()
    assert len(first) > 1


async def test_who_was_cheap_and_soon_is_asked_first_the_next_time(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 30, [])
    bench = await start(store, clock, sites, given, at_once=3)
    await bench.ask()
    assert len(asked(sites)) == 30
    for site in sites.values():
        site.told.clear()
    await bench.ask(preferences={"enough": 1})
    assert asked(sites) == ["s000", "s001", "s002"]


async def test_enough_good_offers_leave_the_rest_unasked_with_that_reason(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 30, [])
    bench = await start(store, clock, sites, given, at_once=3)
    state = await bench.ask(preferences={"enough": 1})
    assert len(asked(sites)) == 3
    assert set(reasons(state).values()) == {"not asked: enough good offers were in"}


async def test_who_was_not_reached_in_time_says_how_many_came_before(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 5, [])
    bench = await start(store, clock, sites, given, at_once=2)
    entries, _ = bench.sites.screen(request())
    want = resolve(None, request(), MAP.exchange, Defaults())
    gathering = Gathering(an_ask(within(60)), want, MAP, clock.now(), 5.0, entries)
    course = Routing(MAP, bench.taken, clock, at_once=2).course(gathering, entries, lambda: (), BLANK)
    assert course is not None
    asked_ = [target.name for target in (course.next({}), course.next({})) if target is not None]
    left = course.left(early=False)
    assert left.keys() | set(asked_) == set(sites)
    assert [str(outcome.reason) for outcome in left.values() if isinstance(outcome, Skipped)] == [
        f"not asked: {n} sites came before it, and the time was over" for n in (2, 3, 4)
    ]


async def test_a_set_that_grows_is_asked_for_in_the_same_order(store: Store, clock: FakeClock) -> None:
    sites, given = federation(clock, 40, [7, 20, 33])
    bench = await start(store, clock, sites, given, at_once=4)
    state = await bench.offers.ask(request(data=[CUBE]), ADA, Hop(), How(later=True, wait=30.0))
    assert (len(asked(sites)), len(state.record.outcomes), state.record.closed) == (4, 40, True)
    assert ranked(bench, state)[:3] == ["s007", "s020", "s033"]


async def test_what_catalogues_say_late_counts_for_whom_to_ask_next(store: Store, clock: FakeClock) -> None:
    """The archive is known only when the first sites have been asked already."""
    catalogue = LateCatalogue()
    sites, given = federation(clock, 20, [17, 18, 19])
    held: dict[str, Any] = {name: Held(site) for name, site in sites.items()}
    known = Known("late", catalogue, 0, True, True, timeout=30.0)
    bench = await start(store, clock, held, given, at_once=2, catalogues=[known])
    named = {"kind": kinds.RUCIO_DATA, "rucio": {"scope": "teal", "object": "cube"}}
    asking = asyncio.create_task(bench.ask(data=[named]))
    while sum(site.asked.is_set() for site in held.values()) < 2:  # noqa: ASYNC110 - any two of them
        await asyncio.sleep(0)
    catalogue.go.set()
    await catalogue.done.wait()
    await asyncio.sleep(0)
    clock.advance(1.0)
    for site in held.values():
        site.go.set()
    state = await asking
    assert ranked(bench, state)[:3] == ["s017", "s018", "s019"]
    assert len(asked(sites)) <= 8


async def test_whom_nobody_would_ask_is_looked_at_again_when_catalogues_know_more(
    store: Store, clock: FakeClock
) -> None:
    """Nobody is left to be asked, and some that were asked have not answered yet."""
    archive, far = (StorageElement(name=name) for name in ("ARCHIVE", "FAR"))
    sites, _ = federation(clock, 6, [])
    given = {
        name: Registration(name=name, url="http://x/", storages=(archive if n < 3 else far,))
        for n, name in enumerate(sites)
    }
    bench = await start(store, clock, sites, given, at_once=3)
    asking = request(data=[CUBE], preferences={"locality": "required"})
    entries, _ = bench.sites.screen(asking)
    known = items(asking)
    want = resolve(asking.preferences, asking, MAP.exchange, Defaults())
    gathering = Gathering(an_ask(within(60)), want, MAP, clock.now(), 5.0, entries, located=lambda: known)
    course = Routing(MAP, bench.taken, clock, at_once=3).course(gathering, entries, lambda: known, BLANK)
    assert course is not None
    assert {target.name for _ in range(3) if (target := course.next({})) is not None} == {"s000", "s001", "s002"}
    assert course.next({}) is None
    known = (replace(known[0], portions=(Portion(84.2e9, (Replica("FAR"),)),)),)
    clock.advance(1.0)
    again = course.next({"s000": TimedOut(a_late_end, 1.0)})
    assert again is not None
    assert again.name in {"s003", "s004", "s005"}


async def test_ways_that_were_measured_for_one_request_serve_the_next_whatever_was_learned_of_promises() -> None:
    measures, wanted = Measures(MAP), items(request(data=[CUBE]))
    at = Place("", ("FAR",))
    seen = {("ARCHIVE", "s000"): Measured(Span(1e6, 2e6), 3, 0.0, 3.0)}
    first = measures.of(wanted, Experience(seen), 2.0)(at)
    late = {("s000", "k"): Correction(waiting=Factor(2.0, 5))}
    assert measures.of(wanted, Experience(seen, late), 2.0)(at) is first
    assert measures.of(wanted, Experience(dict(seen)), 2.0)(at) is not first


@pytest.mark.parametrize("seed", range(6))
async def test_the_first_of_all_who_were_asked_are_those_that_everybody_asked_would_have_brought(
    store: Store, clock: FakeClock, seed: int
) -> None:
    draw = random.Random(seed)
    archive, far = StorageElement(name="ARCHIVE"), StorageElement(name="FAR")
    names = [f"s{n:02}" for n in range(40)]
    at = draw.sample([(archive,)] * 6 + [(far,)] * 17 + [()] * 17, 40)
    given = {
        name: Registration(name=name, url="http://x/", storages=storages)
        for name, storages in zip(names, at, strict=True)
    }

    def sites() -> dict[str, ScriptedSite]:
        prices = random.Random(f"{seed} prices")
        return {name: ScriptedSite(name, clock, (prices.uniform(0, 9), prices.uniform(0, 9))) for name in names}

    few, all_ = sites(), sites()
    narrow = await start(store, clock, few, given, at_once=3)
    wide = await start(store, clock, all_, given, at_once=40)
    for _ in range(3):  # the later ones with what was learned of the sites
        mine, best = await narrow.ask(data=[CUBE]), await wide.ask(data=[CUBE])
        assert ranked(narrow, mine)[:3] == ranked(wide, best)[:3]
    assert sum(len(site.calls("quote")) for site in few.values()) < 3 * 40
