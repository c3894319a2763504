"""What holds of the ranking whatever is offered: properties, tried on offers that hypothesis makes up."""

import json
import math
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.domain import kinds
from broker.domain.experience import Correction, Factor
from broker.domain.locality import Locality
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, Score, Wishes, good, note, rank
from broker.testing.candidates import EXCHANGE, NOW, candidate, wishes

# Few values, so that ties and dominance are common; cents and whole seconds, as sites state them.
money = st.sampled_from([0.0, 0.01, 0.1, 0.3, 1.0, 1.1, 2.2, 3.3, 1234.56])
seconds = st.sampled_from([0.0, 1.0, 60.0, 3599.0, 3600.0, 7200.0, 86400.0])


def spans(values: st.SearchStrategy[float]) -> st.SearchStrategy[Span]:
    return st.tuples(values, values).map(lambda pair: Span(min(pair), max(pair)))


@st.composite
def localities(draw: st.DrawFn, unknown: bool) -> Locality:
    moved = draw(spans(st.sampled_from([0.0, 1e9, 3.3e9, 84.2e9])))
    missing = draw(st.sampled_from(["", "links", "all"] if unknown else [""]))
    if missing == "all":
        return Locality(None, (), None, None, "unknown")
    if missing == "links":
        return Locality(moved, ("x",), None, None, "unknown")
    return Locality(moved, ("x",), draw(spans(seconds)), draw(spans(money)), "estimated")


@st.composite
def candidates(draw: st.DrawFn, session: str, unknown: bool = True) -> Candidate:
    maybe = st.none() if unknown else st.nothing()
    start = draw(spans(seconds))
    return candidate(
        session,
        origin=draw(st.sampled_from(["x", "y"])),
        start=Span(NOW + start.low - 60, NOW + start.high - 60),
        run=draw(spans(seconds)),
        price=draw(spans(money) | maybe),
        currency=draw(st.sampled_from([None, "EUR", "USD", "GBP"])),
        prepares=draw(st.booleans()),
        interactive=draw(st.booleans()),
        performance=draw(st.none() | spans(st.sampled_from([0.5, 1.0, 3.0]))),
        carbon=draw(spans(money) | maybe),
        locality=draw(localities(unknown)),
        countries=draw(st.sampled_from([(), ("NL",), ("US",)])),
    )


@st.composite
def sets(draw: st.DrawFn, unknown: bool = True, least: int = 1) -> list[Candidate]:
    count = draw(st.integers(least, 7))
    return [draw(candidates(f"s{i}", unknown)) for i in range(count)]


@st.composite
def wanted(draw: st.DrawFn, limits: bool = True) -> Wishes:
    weight = st.none() | st.sampled_from([0.0, 0.01, 2.0, 3.7, 1e12])
    stated: dict[str, Any] = {
        "preset": draw(st.sampled_from([None, "cheapest", "fastest", "closest", "greenest", "balanced"])),
        "currency": draw(st.sampled_from([None, "EUR", "USD", "SEK"])),
        "risk": draw(st.none() | st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        "value_of_time": draw(weight),
        "carbon_price": draw(weight),
        "distance_price": draw(weight),
    }
    request: dict[str, Any] = {}
    if limits and draw(st.booleans()):
        stated["countries_forbidden"] = ["US"]
        request["costs"] = [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": draw(money)}]
    return wishes(request, **{name: value for name, value in stated.items() if value is not None})


def order(offers: list[Candidate], wish: Wishes, now: float = NOW) -> list[str]:
    return [item.session for item in rank(offers, wish, now)]


def score(offer: Candidate, wish: Wishes) -> Score:
    found = rank([offer], wish, NOW)[0].score
    assert found is not None
    return found


@given(sets(), wanted(), st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(offers: list[Candidate], wish: Wishes, random: Any) -> None:
    shuffled = list(offers)
    random.shuffle(shuffled)
    assert rank(shuffled, wish, NOW) == rank(offers, wish, NOW)


@given(sets(least=2), wanted())
def test_other_offers_change_neither_score_nor_pair(offers: list[Candidate], wish: Wishes) -> None:
    whole = rank(offers, wish, NOW)
    places = {item.session: i for i, item in enumerate(whole)}
    scores = {item.session: item.score for item in whole}
    for first in offers:
        assert rank([first], wish, NOW)[0].score == scores[first.session]
        for second in offers:
            if places[first.session] < places[second.session]:
                assert order([second, first], wish) == [first.session, second.session]


def dominates(better: Score, worse: Score) -> bool:
    """The definition, spelt out: no worse in pay, result time, bytes and carbon, expected and pessimistic, and better
    in one; what holds a stand-in is not compared."""
    pairs = [(better.pay, worse.pay), (better.until, worse.until), (better.bytes, worse.bytes), (better.carbon, worse.carbon)]  # fmt: skip # noqa: E501
    if any(a.stand_in or b.stand_in for a, b in pairs):
        return False
    values = [(a.expected, b.expected) for a, b in pairs] + [(a.pessimistic, b.pessimistic) for a, b in pairs]
    return all(a <= b for a, b in values) and any(a < b for a, b in values)


@given(sets(least=2), wanted(limits=False))
def test_a_dominated_offer_is_never_above_its_dominator_and_is_marked(offers: list[Candidate], wish: Wishes) -> None:
    ranked = rank(offers, wish, NOW)
    for i, item in enumerate(ranked):
        above = [
            other.session for other in ranked[:i] if other.score and item.score and dominates(other.score, item.score)
        ]
        below = [
            other.session
            for other in ranked[i + 1 :]
            if other.score and item.score and dominates(other.score, item.score)
        ]
        assert below == []
        assert item.dominated_by == (above[0] if above else None)
        assert item.trade_off == (not above)
        assert item.dominator == (order(offers, wish).index(above[0]) + 1 if above else None)


# Neighbouring floating-point numbers: where rounding could turn an order round, if anything could.
close = st.sampled_from([1.0, 0.1, 1 / 3, 1e-9, 1e9, 123456.789]).flatmap(
    lambda base: st.integers(0, 6).map(lambda steps: base + steps * math.ulp(base))
)
factors = st.floats(0, 1e6) | st.sampled_from([1 / 3, 0.1, 1e12, 5e-324])


@given(
    st.lists(st.tuples(close, close, close, close), min_size=2, max_size=4),
    st.tuples(factors, factors, factors, st.floats(0, 1)),
)
def test_no_last_digit_turns_dominance_round(
    rows: list[tuple[float, float, float, float]], weights: tuple[float, float, float, float]
) -> None:
    time_, carbon, distance, risk = weights
    wish = wishes(value_of_time=time_, carbon_price=carbon, distance_price=min(distance, 1e12), risk=risk)
    offers = [
        candidate(
            f"s{9 - i}",
            price=Span(price, price * 1.7),
            run=Span(run, run * 1.3),
            carbon=Span(kilograms, kilograms),
            locality=Locality(Span.of(moved * 1e9), ("x",), Span.of(0.0), Span.of(price), "estimated"),
        )
        for i, (price, run, kilograms, moved) in enumerate(rows)
    ]
    ranked = rank(offers, wish, NOW)
    for i, item in enumerate(ranked):
        for other in ranked[i + 1 :]:
            assert item.score
            assert other.score
            assert not dominates(other.score, item.score)


RISES = {
    "price": lambda offer, by: {"price": _wider(offer.price, by)},
    "start": lambda offer, by: {"start": _wider(offer.start, by)},
    "run": lambda offer, by: {"run": _wider(offer.run, by)},
    "carbon": lambda offer, by: {"carbon": _wider(offer.carbon, by)},
    "bytes": lambda offer, by: {"locality": replace(offer.locality, bytes=_wider(offer.locality.bytes, by))},
    "staging": lambda offer, by: {"locality": replace(offer.locality, staging=_wider(offer.locality.staging, by))},
    "egress": lambda offer, by: {"locality": replace(offer.locality, egress=_wider(offer.locality.egress, by))},
}


def _wider(span: Span | None, by: tuple[float, float]) -> Span:
    assert span
    return Span(span.low + min(by), span.high + max(by))


@pytest.mark.parametrize("what", RISES)
@given(offer=candidates("a", unknown=False), wish=wanted(limits=False), by=st.tuples(money, money))
def test_more_of_anything_is_never_better(what: str, offer: Candidate, wish: Wishes, by: tuple[float, float]) -> None:
    before, after = score(offer, wish), score(replace(offer, **RISES[what](offer, by)), wish)
    assert after.value >= before.value
    assert after.all_in.expected >= before.all_in.expected
    assert after.all_in.pessimistic >= before.all_in.pessimistic
    worse = replace(offer, session="b", **RISES[what](offer, by))
    assert order([worse, offer], wish) == ["a", "b"]


@given(sets(), wanted())
def test_the_pessimistic_is_never_below_the_expected(offers: list[Candidate], wish: Wishes) -> None:
    for item in rank(offers, wish, NOW):
        found = item.score
        assert found
        parts = (found.all_in, found.pay, found.price, found.egress, found.waiting, found.staging, found.run,
                 found.until, found.carbon, found.bytes, found.ready, found.result)  # fmt: skip
        assert all(0 <= part.expected <= part.pessimistic for part in parts)
        assert found.all_in.expected <= found.value * (1 + 1e-11)
        assert found.value <= found.all_in.pessimistic * (1 + 1e-11)


@given(
    sets(unknown=False), st.sampled_from(["USD", "GBP", "SEK"]), st.sampled_from(["balanced", "closest", "greenest"])
)
def test_the_callers_currency_changes_no_order(offers: list[Candidate], currency: str, preset: str) -> None:
    assert order(offers, wishes(preset=preset, currency=currency)) == order(offers, wishes(preset=preset))


@given(sets(unknown=False), st.sampled_from(["USD", "GBP", "SEK"]))
def test_prices_restated_in_another_currency_change_no_order(offers: list[Candidate], currency: str) -> None:
    rate = EXCHANGE.rate(currency)
    assert rate
    stated = wishes(value_of_time=2.0 / rate, carbon_price=0.1 / rate, currency=currency)
    restated = [
        replace(offer, price=EXCHANGE.convert(offer.price, offer.currency, currency), currency=currency)
        for offer in offers
        if offer.price
    ]
    assert order(restated, stated) == order(offers, wishes(value_of_time=2.0, carbon_price=0.1))


@given(sets(unknown=False))
def test_another_base_currency_changes_no_order(offers: list[Candidate]) -> None:
    in_dollars = Exchange("USD", {"EUR": 1 / 0.92, "GBP": 1.17 / 0.92, "SEK": 0.087 / 0.92})

    def converted(span: Span | None) -> Span | None:
        return EXCHANGE.convert(span, "EUR", "USD") if span else None

    moved = [
        replace(
            offer,
            currency=offer.currency or "EUR",
            locality=replace(offer.locality, egress=converted(offer.locality.egress)),
        )
        for offer in offers
    ]
    weights = {"value_of_time": 2.0, "carbon_price": 0.1, "distance_price": 0.5, "currency": "EUR"}
    assert order(moved, wishes(exchange=in_dollars, **weights)) == order(offers, wishes(**weights))


@given(st.floats(0.01, 1e6).map(lambda price: round(price, 2)), st.sampled_from(["EUR", "USD", "GBP", "SEK"]))
def test_one_price_in_many_currencies_is_one_price(price: float, shown: str) -> None:
    """Conversion leaves noise in the last digits; it must decide nothing."""
    offers = []
    for session, currency in zip("dcba", ("EUR", "USD", "GBP", "SEK"), strict=True):
        stated = EXCHANGE.convert(Span.of(price), "EUR", currency)
        offers.append(candidate(session, price=stated, currency=currency))
    ranked = rank(offers, wishes(currency=shown), NOW)
    assert [item.session for item in ranked] == ["a", "b", "c", "d"]
    assert all(item.trade_off for item in ranked)


# ── whatever comes in ────────────────────────────────────────────────────────────────────────────────────────


anything = st.floats(allow_nan=True, allow_infinity=True)
any_span = st.builds(Span, anything, anything)
wild = st.builds(
    candidate,
    st.sampled_from("abcdefgh"),
    start=any_span,
    run=any_span,
    price=st.none() | any_span,
    currency=st.sampled_from([None, "USD", "nothing", ""]),
    prepares=st.booleans(),
    interactive=st.booleans(),
    performance=st.none() | any_span,
    carbon=st.none() | any_span,
    locality=st.builds(
        Locality,
        st.none() | any_span,
        st.just(("x",)),
        st.none() | any_span,
        st.none() | any_span,
        st.just("estimated"),
    ),
    costs=st.dictionaries(st.sampled_from([kinds.ENERGY, kinds.CARBON]), st.tuples(any_span, st.none() | st.just("J"))),
    metrics=st.dictionaries(st.just(kinds.COMPUTE_PERFORMANCE), any_span),
    expires=st.none() | anything,
)
weight = st.floats(0, 1e12)
WILD_REQUEST = {
    "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.ENERGY, "max": 1e300}],
    "metrics": [{"kind": kinds.MINMAX_METRIC, "type": kinds.COMPUTE_PERFORMANCE, "min": -1e300}],
}


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [found for item in value.values() for found in numbers(item)]
    if isinstance(value, list | tuple):
        return [found for item in value for found in numbers(item)]
    return [value] if isinstance(value, float) else []


@given(st.lists(wild, max_size=6), weight, weight, weight, st.floats(0, 1), st.booleans())
def test_no_nan_and_no_infinity_come_out_whatever_comes_in(
    offers: list[Candidate], time_: float, carbon: float, distance: float, risk: float, limited: bool
) -> None:
    wish = wishes(
        WILD_REQUEST if limited else {}, value_of_time=time_, carbon_price=carbon, distance_price=distance, risk=risk,
        currency="SEK",
    )  # fmt: skip
    ranked = rank(offers, wish, NOW)
    assert len(ranked) == len(offers)
    assert [item.rank for item in ranked if good(item)] == list(range(1, 1 + sum(map(good, ranked))))
    for item in ranked:
        assert good(item) or item.excluded
        shown = item.score and msgspec.structs.replace(item.score, locality=Locality())  # that is what came in
        assert all(math.isfinite(found) for found in numbers(msgspec.to_builtins(shown)))
        wire = note(item, wish).to_wire()  # the models refuse NaN, infinities and instants out of range themselves
        assert all(math.isfinite(found) for found in numbers(wire))
        json.dumps(wire, allow_nan=False)


@given(st.lists(wild, max_size=6, unique_by=lambda offer: offer.session), st.randoms(use_true_random=False))
def test_garbage_has_an_order_too(offers: list[Candidate], random: Any) -> None:
    shuffled = list(offers)
    random.shuffle(shuffled)
    assert order(shuffled, wishes()) == order(offers, wishes())


PROGRAM = """
from broker.domain.quantities import Span
from broker.domain.ranking import note, rank
from broker.testing.candidates import NOW, candidate, wishes
offers = [candidate(name, origin=f"o{int(name[1:]) % 3}", countries=("US",)[: len(name) - 2])
          for name in {f"s{i}" for i in range(40)}]
wish = wishes(countries_forbidden=["US", "FR"], sites_allowed=["o0", "o1", "s2"])
for item in rank(offers, wish, NOW):
    print(note(item, wish).to_wire())
for item in rank(offers, wishes(), NOW):
    print(note(item, wishes()).to_wire())
"""


def test_another_process_with_another_hash_seed_says_the_same() -> None:
    # The program goes through a set of names, in an order that the seed decides.
    said = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(said) == 1
    assert len(said.pop().splitlines()) == 80


# ── what experience corrects ─────────────────────────────────────────────────────────────────────────────────

turns = st.builds(Factor, st.sampled_from([0.25, 0.5, 1.0, 1.3, 2.1, 40.0]), st.just(9), st.none() | seconds)
corrections = st.builds(Correction, turns, turns, turns, turns)


@st.composite
def corrected_sets(draw: st.DrawFn) -> list[Candidate]:
    return [replace(offer, correction=draw(st.none() | corrections)) for offer in draw(sets(least=2))]


@given(sets(), wanted())
def test_a_correction_of_nothing_changes_no_figure(offers: list[Candidate], wish: Wishes) -> None:
    assert rank([replace(offer, correction=Correction()) for offer in offers], wish, NOW) == rank(offers, wish, NOW)


@given(corrected_sets(), wanted(limits=False))
def test_a_dominated_offer_is_never_above_its_dominator_when_promises_are_corrected(
    offers: list[Candidate], wish: Wishes
) -> None:
    ranked = rank(offers, wish, NOW)
    for i, item in enumerate(ranked):
        for other in ranked[i + 1 :]:
            assert not (other.score and item.score and dominates(other.score, item.score))


@given(corrected_sets(), wanted())
def test_corrections_of_others_change_neither_score_nor_pair(offers: list[Candidate], wish: Wishes) -> None:
    whole = rank(offers, wish, NOW)
    places = {item.session: i for i, item in enumerate(whole)}
    for first in offers:
        alone = rank([first], wish, NOW)[0].score
        assert alone == next(item.score for item in whole if item.session == first.session)
        for second in offers:
            if places[first.session] < places[second.session]:
                assert order([second, first], wish) == [first.session, second.session]


@given(candidates("a", unknown=False), corrections, wanted(limits=False))
def test_a_correction_moves_what_is_expected_and_never_makes_the_worst_better(
    offer: Candidate, by: Correction, wish: Wishes
) -> None:
    plain, turned = score(offer, wish), score(replace(offer, correction=by), wish)
    for before, after in (
        (plain.price, turned.price), (plain.waiting, turned.waiting), (plain.run, turned.run), (plain.pay, turned.pay),
    ):  # fmt: skip
        assert after.expected <= after.pessimistic
        assert after.pessimistic >= before.pessimistic
    assert (turned.egress, turned.carbon, turned.bytes) == (plain.egress, plain.carbon, plain.bytes)
    assert turned.pay.expected == pytest.approx(turned.price.expected + turned.egress.expected)
    times = turned.waiting.expected + turned.staging.expected + turned.run.expected
    assert turned.until.expected == pytest.approx(times, abs=0.01)


@given(candidates("a", unknown=False), st.sampled_from([1.0, 1.5, 2.0]), wanted(limits=False))
def test_a_site_that_has_kept_its_promises_worse_is_never_better(offer: Candidate, more: float, wish: Wishes) -> None:
    def by(value: float) -> Correction:
        return Correction(*[Factor(value, 9, 600.0)] * 4)

    kept, broken = (score(replace(offer, correction=by(value)), wish) for value in (1.2, 1.2 * more))
    assert all(mine <= its for mine, its in zip(kept.criteria, broken.criteria, strict=True))
    assert kept.value <= broken.value
