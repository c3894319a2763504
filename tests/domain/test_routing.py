"""Whom to ask first, and whom not at all: what is reckoned before a site is asked never wrongs it."""

from __future__ import annotations

from math import inf
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain import locality as place
from broker.domain.experience import Correction, Experience, Factor
from broker.domain.locality import Locality, Place, Terrain
from broker.domain.located import Item, Portion, Replica
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, Ranked, Wishes, good, rank
from broker.domain.routing import Bar, Floor, Habit, Likely, Sort, beaten, floor, likely
from broker.domain.site import Link, StorageElement
from broker.domain.storages import Map
from broker.testing.candidates import EXCHANGE, NOW, candidate, moving, wishes

HOUR = 3600.0
PLAIN = wishes(value_of_time=2.0, carbon_price=0.0)


NOTHING_MOVES = Locality()


def least(locality: Locality = NOTHING_MOVES, asked: Wishes = PLAIN, **sort: Any) -> Floor:
    return floor(Sort(locality, **sort), asked, HOUR, NOW)


def test_the_floor_of_a_plain_site_is_its_run_its_egress_and_what_moves() -> None:
    found = least(moving(84.2, 1.68, staging=HOUR), leaves=True)
    assert (found.value, found.moved, found.barred) == (pytest.approx(1.68 + 2 * 2.0), 84.2e9, None)


def test_staging_counts_only_where_a_site_is_known_to_leave_it_to_us() -> None:
    assert least(moving(84.2, 1.68, staging=HOUR)).value == pytest.approx(1.68 + 2.0)


def test_of_a_broker_of_ours_nothing_is_sure_before_it_is_asked() -> None:
    found = least(moving(84.2, 1.68, staging=HOUR), ours=True, leaves=True)
    assert found == Floor(0.0, 0.0, None)


def test_the_run_of_an_interactive_session_is_not_in_the_floor() -> None:
    assert least(interactive=True).value == 0.0


@pytest.mark.parametrize(
    "unknown",
    [
        Locality(None, ("x",), None, None, "unknown", least=5e9),
        Locality(Span.of(5e9), ("x",), None, None, "unknown"),
    ],
)
def test_what_is_not_known_of_the_data_costs_nothing_in_the_floor(unknown: Locality) -> None:
    found = least(unknown, leaves=True)
    assert (found.value, found.moved) == (pytest.approx(2.0), 5e9)


def test_known_bytes_count_at_the_price_of_distance_though_their_way_is_not_known() -> None:
    near = wishes(value_of_time=0.0, carbon_price=0.0, distance_price=1.0)
    assert least(Locality(Span.of(5e9), ("x",), None, None, "unknown"), near).value == pytest.approx(5.0)


def test_a_site_where_the_data_surely_is_not_is_barred_where_that_is_required() -> None:
    required = wishes(locality="required")
    assert least(moving(84.2, 0.0), required).barred == "84.2 GB of data would have to move there"
    assert least(moving(84.2, 0.0), required, ours=True).barred is None
    assert least(Locality(None, (), None, None, "unknown"), required).barred is None


def test_a_country_is_judged_before_as_it_would_be_after() -> None:
    assert least(asked=wishes(countries_allowed=["NL"]), countries=("SE",)).barred == (
        "it may run in SE, which is not among the countries allowed"
    )
    assert least(asked=wishes(countries_allowed=["NL"]), countries=("NL",)).barred is None


def test_a_deadline_bars_where_staging_alone_exceeds_it() -> None:
    soon = wishes(deadline="2026-11-22T16:02:00Z")  # two hours after NOW, for a run of one
    assert least(moving(84.2, 0.0, staging=2 * HOUR), soon, leaves=True).barred is not None
    assert least(moving(84.2, 0.0, staging=2 * HOUR), soon).barred is None
    assert least(moving(84.2, 0.0, staging=HOUR / 2), soon, leaves=True).barred is None


def test_egress_alone_may_exceed_the_ceiling_of_money() -> None:
    cheap = wishes({"costs": [{"kind": MONEY, "type": MONETARY, "max": 1.0}]})
    assert least(moving(84.2, 1.68), cheap).barred == "may cost 1.68 EUR; the ceiling is 1.00 EUR"
    assert least(moving(84.2, 0.5), cheap).barred is None


MONEY = "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/costs/simple-minmax-float-cost.yaml"
MONETARY = "urn:ivoa:calycopis:cost:monetary"


def test_what_an_offer_has_yet_to_state_bars_nobody() -> None:
    metric = MONEY.replace("costs/simple-minmax-float-cost", "metrics/simple-minmax-float-metric")
    picky = wishes(
        {
            "costs": [{"kind": MONEY, "type": "urn:ivoa:calycopis:cost:energy", "max": 1.0}],
            "metrics": [{"kind": metric, "type": "urn:x:speed", "min": 5.0}],
        },
        sites_allowed=["elsewhere"],
    )
    assert (len(picky.ceilings), len(picky.floors)) == (1, 1)
    assert least(asked=picky).barred is None


def test_a_site_that_promises_too_much_is_expected_later_and_its_floor_is_higher() -> None:
    slow = Correction(run=Factor(2.0, 9), staging=Factor(3.0, 9))
    where = moving(84.2, 0.0, staging=HOUR)
    assert least(where, leaves=True, correction=slow).value > least(where, leaves=True).value
    easy = likely(where, False, PLAIN, HOUR, NOW)
    assert easy.estimate(Habit(), 0.0, HOUR, PLAIN, slow) == pytest.approx(
        (2 * HOUR + 3 * HOUR + 20.0) * 2.0 / HOUR  # of staging, ten seconds are added before it is compared
    )


def test_what_is_likely_counts_price_and_waiting_as_they_were_seen_and_work_just_taken() -> None:
    here = likely(Locality(), False, PLAIN, HOUR, NOW)
    assert here == Likely(pytest.approx(2.0), 0.0)
    assert here.estimate(Habit(price=1.5), 0.0, HOUR, PLAIN) == pytest.approx(3.5)
    assert here.estimate(Habit(waiting=HOUR / 2), 0.0, HOUR, PLAIN) == pytest.approx(3.0)
    assert here.estimate(Habit(), HOUR / 4, HOUR, PLAIN) == pytest.approx(2.5)


def test_data_that_come_while_it_waits_anyway_cost_no_more_time() -> None:
    far = likely(moving(84.2, 0.0, staging=HOUR), False, PLAIN, HOUR, NOW)
    assert far.estimate(Habit(waiting=HOUR / 2), 0.0, HOUR, PLAIN) == pytest.approx(4.0)
    assert far.estimate(Habit(waiting=2 * HOUR), 0.0, HOUR, PLAIN) == pytest.approx(6.0)


def test_a_habit_is_what_the_last_answer_shows_but_for_preparing_which_is_remembered() -> None:
    offers = [
        (candidate(start=Span.of(NOW + 700.0), price=Span.of(3.0), prepares=True), 100.0),
        (candidate(start=Span.of(NOW + 900.0), price=Span.of(5.0), run=Span.of(2 * HOUR)), 100.0),
    ]
    first = Habit().seen(offers, PLAIN, NOW)
    assert first == Habit(True, 600.0, 2.5)
    assert first.seen([(candidate(price=None), 0.0)], PLAIN, NOW) == Habit(True, 0.0, 0.0)
    nan = candidate(start=Span(float("nan"), float("nan")), currency="XXX")
    assert Habit().seen([(nan, 0.0)], PLAIN, NOW) == Habit()


def test_the_bar_stands_when_as_many_good_offers_are_in_as_are_wanted() -> None:
    bar = Bar(PLAIN, NOW)
    for price, value in ((3.0, inf), (1.0, inf), (2.0, 5.0), (0.5, 4.0), (9.0, 4.0)):
        bar.add([candidate(price=Span.of(price), carbon=Span.of(0.0))])
        assert bar.value == pytest.approx(value)
    more = Bar(wishes(enough=5), NOW)
    more.add(candidate(f"s{n}") for n in range(4))
    assert more.value == inf
    more.add([candidate("s4")])
    assert more.value < inf


def test_excluded_offers_do_not_raise_the_bar() -> None:
    bar = Bar(PLAIN, NOW)
    bar.add(candidate(f"s{n}", unfit="too small") for n in range(9))
    assert bar.value == inf


def test_who_is_left_out_reads_what_it_would_have_to_beat_and_why_it_cannot() -> None:
    assert beaten(Floor(4.4, 84.2e9, None), 3.9, PLAIN) == (
        "it cannot beat 3.90 EUR: 84.2 GB would have to move there, 4.40 EUR at least"
    )
    assert beaten(Floor(4.4, 0.0, None), 3.9, PLAIN) == "it cannot beat 3.90 EUR: 4.40 EUR at least"
    assert "USD" in beaten(Floor(4.4, 0.0, None), 3.9, wishes(currency="USD"))


# ── whatever the federation ──────────────────────────────────────────────────────────────────────────────────

STORAGES = ["a", "b", "c", "d"]
MAP = Map(
    [*(StorageElement(name=name, tape=name == "d") for name in STORAGES)],
    [
        Link(source="a", target="*", bandwidth=20e6, price=0.05),
        Link(source="b", target="c", bandwidth=500e6),
        Link(source="b", target="*", bandwidth=5e6, bandwidth_low=1e6),
        Link(source="d", target="*", bandwidth=1e9, price=0.01),
    ],
    EXCHANGE,
)


class Site(msgspec.Struct, frozen=True):
    storages: tuple[str, ...]
    ours: bool
    prepares: bool
    asked_before: bool
    has_it_all: bool
    offers: tuple[tuple[float, float, float], ...]  # price, waiting, performance
    correction: Correction | None


few = st.sampled_from([0.0, 0.4, 1.0, 3.0, 50.0])
factors = st.builds(
    Factor, st.sampled_from([0.01, 0.5, 1.0, 2.5, 40.0]), st.just(5), st.sampled_from([None, 0.0, 300.0, 9000.0])
)
sites = st.builds(
    Site,
    storages=st.lists(st.sampled_from(STORAGES), max_size=2, unique=True).map(tuple),
    ours=st.booleans(),
    prepares=st.booleans(),
    asked_before=st.booleans(),
    has_it_all=st.booleans(),
    offers=st.lists(st.tuples(few, few, st.sampled_from([0.5, 1.0, 4.0])), min_size=1, max_size=3).map(tuple),
    correction=st.none() | st.builds(Correction, factors, factors, factors, factors),
)
replicas = st.lists(st.sampled_from([*STORAGES, None]), min_size=1, max_size=3, unique=True).map(
    lambda names: tuple(Replica(name, None if name else "https://nobody.example/x") for name in names)
)
data = st.lists(st.tuples(st.sampled_from([None, 0.0, 1e9, 84.2e9]), replicas), max_size=3).map(
    lambda found: tuple(Item(f"data[{i}]", portions=(Portion(size, where),)) for i, (size, where) in enumerate(found))
)
asked = st.builds(
    lambda time, distance, risk, required, enough: wishes(
        value_of_time=time,
        distance_price=distance,
        risk=risk,
        enough=enough,
        locality="required" if required else "preferred",
    ),
    st.sampled_from([0.0, 2.0, 50.0]),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.booleans(),
    st.sampled_from([None, 5]),
)


def measured(site: Site, wanted: tuple[Item, ...], hour: float) -> Locality:
    return place.measure(wanted, Place("", site.storages), Terrain(MAP, Experience(), hour))


def answer(name: str, site: Site, wanted: tuple[Item, ...], hour: float) -> list[Candidate]:
    """What the site says when it is asked: it may have in its cache what no catalogue knows."""
    where = Locality() if site.ours and site.has_it_all else measured(site, wanted, hour)
    return [
        candidate(
            f"{name}-{n}", site=name, origin=name, price=Span.of(price), start=Span(NOW, NOW + 2 * HOUR * waiting),
            locality=where, prepares=site.prepares, correction=site.correction,
            performance=Span.of(performance) if site.ours else None,
        )
        for n, (price, waiting, performance) in enumerate(site.offers)
    ]  # fmt: skip


def sort(site: Site, wanted: tuple[Item, ...], hour: float) -> Sort:
    leaves = site.asked_before and not site.prepares
    return Sort(measured(site, wanted, hour), site.ours, leaves, correction=site.correction)


@settings(max_examples=1000)
@given(sites, data, asked)
def test_no_offer_is_below_its_floor_and_none_of_a_barred_site_is_good(
    site: Site, wanted: tuple[Item, ...], want: Wishes
) -> None:
    hour = want.weights.value_of_time
    least = floor(sort(site, wanted, hour), want, HOUR, NOW)
    for item in rank(answer("s", site, wanted, hour), want, NOW):
        assert item.score is not None
        assert item.score.order[0] >= least.value
        assert least.barred is None or not good(item)


def routed(federation: dict[str, Site], wanted: tuple[Item, ...], want: Wishes) -> tuple[Ranked, ...]:
    """What is ranked of all sites when each is asked only if it can still win, the likeliest first."""
    hour, bar, offers = want.weights.value_of_time, Bar(want, NOW), []
    ways = {name: measured(site, wanted, hour) for name, site in federation.items()}
    order = sorted(ways, key=lambda name: likely(ways[name], False, want, HOUR, NOW).value)
    for name in order:
        site = federation[name]
        least = floor(sort(site, wanted, hour), want, HOUR, NOW)
        if least.barred is None and least.value <= bar.value:
            offers += answer(name, site, wanted, hour)
            bar.add(answer(name, site, wanted, hour))
    return rank(offers, want, NOW)


@given(st.lists(sites, min_size=8, max_size=14), data, asked)
def test_the_best_offers_are_those_that_everybody_asked_would_have_brought(
    found: list[Site], wanted: tuple[Item, ...], want: Wishes
) -> None:
    federation = {f"s{n}": site for n, site in enumerate(found)}
    hour = want.weights.value_of_time
    everybody = [offer for name, site in federation.items() for offer in answer(name, site, wanted, hour)]
    best = [item.session for item in rank(everybody, want, NOW) if good(item)]
    mine = [item.session for item in routed(federation, wanted, want) if good(item)]
    assert mine[: max(3, want.enough or 0)] == best[: max(3, want.enough or 0)]
