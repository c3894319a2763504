"""What it takes to write results elsewhere, and what that does to the ranking."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.domain.delivering import deliver
from broker.domain.explaining import Scale, terms
from broker.domain.limits import judge
from broker.domain.locality import NOTHING, Delivery, Locality, Place, Terrain, wire
from broker.domain.outputs import Outputs
from broker.domain.quantities import Span
from broker.domain.ranking import rank
from broker.domain.scoring import Candidate, Score, score
from broker.domain.site import Link
from broker.domain.storages import Map
from broker.domain.wishes import StandIns
from broker.testing.candidates import NOW, candidate, wishes
from tests.domain.test_locality import a_map, link
from tests.domain.test_offer import CHILD, an_offer, reading

STAND_INS = StandIns()
RESULTS = {"results": ["s3://results"], "elsewhere": ["https://far.example.org/"]}


def over(*links: Link) -> Map:
    return a_map(*links, **RESULTS)


def delivered(map_: Map, *at: str, site: str = "here", **outputs: Any) -> Delivery:
    found = deliver(Outputs(**outputs), Place(site, at), Terrain(map_), STAND_INS)
    assert found is not None
    return found


# ── what it takes ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("outputs", [None, Outputs(size=20.0), Outputs(keep="P30D")])
def test_what_stays_at_the_site_takes_nothing(outputs: Outputs | None) -> None:
    assert deliver(outputs, Place("here"), Terrain(over()), STAND_INS) is None


def test_results_go_by_the_link_from_the_site_to_the_place() -> None:
    map_ = over(link("disk", "results", 100e6, bandwidth_low=50e6, price=0.02), link("results", "disk", 1e6, price=9.0))
    found = delivered(map_, "disk", to="s3://results/mine", size=20.0)
    assert found == Delivery(Span(200.0, 400.0), Span.of(0.4), "results", 20e9)


def test_nothing_moves_to_a_storage_of_the_site_itself_however_much_it_is() -> None:
    found = delivered(over(), "results", to="s3://results/mine")
    assert found == Delivery(NOTHING, NOTHING, "results", None)


def test_of_several_storages_of_the_site_that_sends_which_does_it_for_least() -> None:
    map_ = over(link("dear", "results", 100e6, price=1.0), link("cheap", "results", 100e6, price=0.01))
    assert delivered(map_, "dear", "cheap", to="s3://results/mine", size=10.0).price == Span.of(0.1)


def test_a_size_that_is_not_known_is_not_nothing() -> None:
    found = delivered(over(link("disk", "results", 100e6, price=0.1)), "disk", to="s3://results/mine")
    assert found.stand_in
    assert found.bytes is None
    assert found.seconds == Span(STAND_INS.bytes.low / 100e6, STAND_INS.bytes.high / 100e6)
    assert found.price.low == pytest.approx(0.1)
    assert found.price.high == pytest.approx(1.9)


@pytest.mark.parametrize("at", [("disk",), ()])
def test_nor_is_a_way_that_is_not_known(at: tuple[str, ...]) -> None:
    found = delivered(over(), *at, to="s3://results/mine", size=18.0)
    assert found.stand_in
    assert found.seconds == Span(100.0, 900.0)
    assert found.price.high == pytest.approx(1.8)


def test_a_place_that_is_on_no_storage_is_reached_by_the_link_to_any() -> None:
    found = delivered(over(link("disk", "*", 1e9)), "disk", to="https://nobody.example.org/x/", size=1.0)
    assert (found.to, found.seconds, found.stand_in) == ("https://nobody.example.org/x/", Span.of(1.0), False)


def test_a_place_in_rucio_is_its_storage_element() -> None:
    found = delivered(over(), "ALBA", to="rucio:user.ada/x", rse="ALBA", size=1.0)
    assert found == Delivery(NOTHING, NOTHING, "ALBA", 1e9)


# ── what it does to the ranking ──────────────────────────────────────────────────────────────────────────────


def sends(price: float, seconds: float, *, stand_in: bool = False, **known: Any) -> Candidate:
    delivery = Delivery(Span.of(seconds), Span.of(price), "results", 20e9, stand_in)
    return candidate(locality=Locality(delivery=delivery), **known)


def scored(offer: Candidate) -> Score:
    found = score(offer, wishes(), NOW)
    assert isinstance(found, Score)
    return found


def test_it_is_paid_for_and_waited_for() -> None:
    plain, sent = scored(candidate()), scored(sends(0.4, 600.0))
    assert sent.pay.expected == pytest.approx(plain.pay.expected + 0.4)
    assert sent.until.expected == plain.until.expected + 600.0
    assert sent.all_in.expected == pytest.approx(plain.all_in.expected + 0.4 + 2.0 / 6)


def test_a_person_does_not_wait_for_it_but_pays() -> None:
    sent = scored(sends(0.4, 600.0, interactive=True))
    assert sent.until == scored(candidate(interactive=True)).until
    assert sent.writing.expected == 0.4


def test_it_stands_among_the_terms_with_what_it_was_worked_out_from() -> None:
    of = {term["name"]: term for term in terms(scored(sends(0.4, 600.0)), Scale.of(wishes()))}
    assert of["writing results"] == {
        "name": "writing results", "expected": 0.4, "pessimistic": 0.4, "basis": "20 GB to results",
    }  # fmt: skip
    assert "writing results 10 min" in str(of["time"]["basis"])
    guessed = {term["name"]: term for term in terms(scored(sends(0.4, 600.0, stand_in=True)), Scale.of(wishes()))}
    assert guessed["writing results"]["stand_in"] is True


def test_the_terms_add_up_to_the_all_in() -> None:
    sent = scored(sends(0.4, 600.0))
    parts = [float(str(term["expected"])) for term in terms(sent, Scale.of(wishes()))]
    assert sum(parts) == pytest.approx(sent.all_in.expected)


def test_results_that_stay_have_no_term() -> None:
    assert "writing results" not in [term["name"] for term in terms(scored(candidate()), Scale.of(wishes()))]


def test_the_offer_whose_results_are_there_already_wins_and_the_other_says_why_it_loses() -> None:
    here, away = sends(0.0, 0.0, session="here"), sends(0.4, 60.0, session="away", carbon=Span.of(0.1))
    first, second = rank([away, here], wishes(), NOW)
    assert (first.session, second.session) == ("here", "away")
    assert second.why == "less CO2e, but writing results"
    assert second.behind is not None
    assert "writing results +0.40" in second.behind


def test_a_deadline_is_one_for_the_results_where_they_are_wanted() -> None:
    wanted = replace(wishes(), deadline=NOW + 3600.0 + 300.0)
    assert judge(candidate(), scored(candidate()), wanted, NOW) is None
    late = judge(sends(0.0, 600.0), scored(sends(0.0, 600.0)), wanted, NOW)
    assert late is not None
    assert "deadline" in late


amounts = st.floats(0.0, 1e6)


@given(amounts, amounts, amounts, amounts)
def test_writing_that_costs_more_or_takes_longer_never_ranks_higher(
    price: float, seconds: float, more: float, longer: float
) -> None:
    better, worse = sends(price, seconds, session="z"), sends(price + more, seconds + longer, session="a")
    assert scored(better).value <= scored(worse).value


# ── on the wire ──────────────────────────────────────────────────────────────────────────────────────────────


def test_it_goes_up_through_brokers_in_the_terms_of_the_locality() -> None:
    note = wire(Locality(delivery=Delivery(Span(1.0, 3.0), Span.of(0.4), "results", 20e9)), "EUR")
    assert note["delivery"] == {
        "to": "results",
        "seconds": {"expected": 2.0, "pessimistic": 3.0, "unit": "s"},
        "price": {"expected": 0.4, "pessimistic": 0.4, "unit": "EUR"},
        "bytes": 20e9,
    }


SAID = {
    "to": "results",
    "seconds": {"expected": 2.0, "pessimistic": 3.0, "unit": "s"},
    "price": {"expected": 0.4, "pessimistic": 0.4, "unit": "USD"},
    "bytes": 20e9,
    "stand_in": True,
}


def said(**changes: Any) -> Delivery | None:
    found = reading(an_offer(locality={"certainty": "unknown", "delivery": SAID | changes}), CHILD)
    assert found.locality is not None
    return found.locality.delivery


def test_what_a_broker_below_says_of_it_is_believed() -> None:
    assert said() == Delivery(Span(1.0, 3.0), Span.of(0.4), "results", 20e9, stand_in=True)


@pytest.mark.parametrize("changes", [{"seconds": None}, {"price": None}, {"to": "x" * 3000}, {"to": "a\x1bb"}])
def test_what_leaves_something_open_is_measured_here(changes: dict[str, Any]) -> None:
    assert said(**changes) is None


def test_no_word_of_it_pays_or_goes_back_in_time() -> None:
    found = said(
        seconds={"expected": -5.0, "pessimistic": -5.0}, price={"expected": -1.0, "pessimistic": -1.0}, bytes=-1
    )
    assert found == Delivery(NOTHING, NOTHING, "results", None, stand_in=True)


def test_two_currencies_in_one_note_are_no_price() -> None:
    egress = {"expected": 1.0, "pessimistic": 1.0, "unit": "EUR"}
    found = reading(an_offer(locality={"egress": egress, "delivery": SAID}), CHILD)
    assert found.locality is not None
    assert found.locality.delivery is None
