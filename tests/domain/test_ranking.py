"""Ranking by worked examples: the figures that people are shown, and the failures of other rankers."""

import itertools
from typing import Any

import msgspec
import pytest

from broker.domain import kinds
from broker.domain.experience import Correction, Factor
from broker.domain.locality import Locality
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, Ranked, Wishes, good, note, rank, wire
from broker.domain.session import RankingNote
from broker.errors import BadInput
from broker.testing.candidates import EXCHANGE, HERE, NOW, at, candidate, moving, starting, wishes

HOUR = Span.of(3600.0)


def order(candidates: list[Candidate], wanted: Wishes | None = None) -> list[str]:
    return [item.session for item in rank(candidates, wanted or wishes(), NOW) if good(item)]


def by_session(candidates: list[Candidate], wanted: Wishes | None = None) -> dict[str, Ranked]:
    return {item.session: item for item in rank(candidates, wanted or wishes(), NOW)}


def federation() -> list[Candidate]:
    """Four sites: the data's own, a sooner one, a worse one, and a free one with a queue."""
    return [
        candidate("alba", price=Span.of(1.20), start=starting("14:22", "14:40"), carbon=Span.of(0.3), locality=HERE),
        candidate(
            "borealis", price=Span.of(0.40), start=starting("14:10", "14:18"), run=Span(2820, 4380),
            carbon=Span.of(0.2), prepares=True, locality=moving(84.2, 1.68),
        ),
        candidate(
            "cumulus", price=Span.of(0.22), start=starting("14:40", "15:18"), run=Span(3480, 3720),
            carbon=Span.of(0.3), prepares=True, locality=moving(84.2, 1.68),
        ),
        candidate("delta", price=Span.of(0.0), start=starting("17:12", "20:00"), carbon=None, locality=HERE),
    ]  # fmt: skip


# ── the table that people see ────────────────────────────────────────────────────────────────────────────────


def test_the_figures_of_the_table_are_those_worked_out_by_hand() -> None:
    found = by_session(federation())
    figures = {
        name: (round(item.score.all_in.expected, 2), round(item.score.all_in.pessimistic, 2), item.score.pay.expected)
        for name, item in found.items()
        if item.score
    }
    assert figures == {
        "alba": (3.90, 4.50, 1.20),
        "borealis": (4.37, 5.07, 2.08),
        "cumulus": (5.20, 6.53, 1.90),
        "delta": (8.38, 13.98, 0.0),
    }
    assert [item.rank for item in found.values()] == [1, 2, 3, 4]


def test_each_row_says_why_it_stands_there() -> None:
    found = by_session(federation())
    assert {name: item.why for name, item in found.items()} == {
        "alba": "data is here",
        "borealis": "sooner, but egress",
        "cumulus": "1 beats it in all",
        "delta": "free, but 3.2 h queue",
    }
    assert found["borealis"].behind == "loses by 0.47: egress +1.68, price -0.80, time -0.40, CO2e -0.01"
    assert found["alba"].behind == ""


def test_trade_offs_are_marked_and_an_unknown_is_not_beaten() -> None:
    found = by_session(federation())
    assert {name for name, item in found.items() if item.trade_off} == {"alba", "borealis", "delta"}
    assert found["cumulus"].dominated_by == "alba"
    assert found["delta"].score
    assert found["delta"].score.carbon.stand_in
    assert found["delta"].score.all_in.stand_in


@pytest.mark.parametrize(
    ("preset", "first"),
    [
        ("balanced", "alba"),
        ("cheapest", "delta"),
        ("fastest", "borealis"),
        ("closest", "alba"),
        ("greenest", "borealis"),
    ],
)
def test_presets_change_the_order(preset: str, first: str) -> None:
    assert order(federation(), wishes(preset=preset))[0] == first


def test_what_is_preferred_explicitly_overrides_the_preset() -> None:
    assert order(federation(), wishes(preset="fastest", value_of_time=0.05))[0] == "delta"
    assert order(federation(), wishes(preset="balanced", value_of_time=8))[0] == "borealis"


def test_no_preset_weighs_time_at_nothing() -> None:
    soon, late = candidate("soon", price=Span.of(1)), candidate("late", price=Span.of(1), start=Span.of(NOW + 60))
    for preset in ("cheapest", "fastest", "closest", "greenest", "balanced"):
        assert order([late, soon], wishes(preset=preset)) == ["soon", "late"]


# ── ready and result ─────────────────────────────────────────────────────────────────────────────────────────


def score_of(offer: Candidate, wanted: Wishes | None = None) -> Any:
    return rank([offer], wanted or wishes(), NOW)[0].score


def test_staging_runs_while_the_queue_is_waited_out() -> None:
    offer = candidate(start=Span.of(NOW + 600), locality=moving(10, 0, staging=900))
    found = score_of(offer)
    assert found.ready.expected == NOW + 900
    assert found.ready.pessimistic == NOW + 600 + 900
    assert (found.waiting.expected, found.staging.expected) == (600, 300)


def test_a_site_that_counts_its_own_preparing_is_not_charged_ours() -> None:
    offer = candidate(start=Span.of(NOW + 600), prepares=True, locality=moving(10, 0, staging=900))
    assert score_of(offer).ready.expected == NOW + 600
    assert score_of(offer).ready.pessimistic == NOW + 600


def test_a_start_in_the_past_is_now() -> None:
    found = score_of(candidate(start=Span(NOW - 7200, NOW - 3600)))
    assert (found.ready.expected, found.waiting.expected, found.until.expected) == (NOW, 0, 3600)


def test_the_run_of_an_interactive_session_is_no_fault_of_it() -> None:
    short, long = (candidate(name, interactive=True, run=Span.of(run)) for name, run in (("b", 3600), ("a", 36000)))
    assert score_of(long).until.expected == 0
    assert score_of(long).all_in == score_of(short).all_in


def test_a_faster_machine_shortens_the_run() -> None:
    found = score_of(candidate(performance=Span(1.0, 3.0)))
    assert (found.run.expected, found.run.pessimistic) == (1800, 3600)
    assert score_of(candidate(performance=Span(0.0, 3.0))).run.expected == 3600  # no machine has a speed of nothing


def test_risk_moves_from_expected_to_pessimistic() -> None:
    steady = candidate("steady", start=Span.of(NOW + 3600))
    bold = candidate("bold", start=Span(NOW, NOW + 7100))
    assert order([steady, bold], wishes(risk=0)) == ["bold", "steady"]
    assert order([steady, bold], wishes(risk=1)) == ["steady", "bold"]


# ── unknowns ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_price_is_no_gift() -> None:
    found = by_session([candidate("silent", price=None), candidate("fair", price=Span.of(1.5))])
    silent = found["silent"].score
    assert silent
    assert silent.pay.stand_in
    assert silent.pay.expected == 2.0  # 0.5 to 3.5 an hour
    assert [item.rank for item in found.values()] == [1, 2]


def test_money_that_cannot_be_converted_is_an_unknown_price() -> None:
    found = score_of(candidate(price=Span.of(3), currency="XAU"))
    assert found.price.stand_in


def test_free_is_free_in_any_money() -> None:
    found = score_of(candidate(price=Span.of(0.0), currency="core-hours"))
    assert not found.price.stand_in
    assert found.pay.expected == 0


def test_data_of_unknown_size_takes_stand_ins_for_bytes_time_and_egress() -> None:
    found = score_of(candidate(locality=Locality(None, (), None, None, "unknown")))
    assert found.bytes.stand_in
    assert found.egress.stand_in
    assert found.until.stand_in
    assert found.bytes.expected == 10e9
    assert found.egress.expected == pytest.approx(0.5)
    assert found.until.expected == pytest.approx(3600 + 100)


def test_a_tape_is_waited_for_also_where_no_link_is_known() -> None:
    found = score_of(candidate(locality=Locality(Span.of(20e9), ("x",), None, None, "unknown", recall=Span(60, 100))))
    assert found.until.expected == pytest.approx(3600 + 200 + 80)


def test_an_unknown_link_is_reckoned_by_the_known_bytes() -> None:
    found = score_of(candidate(locality=Locality(Span.of(20e9), ("x",), None, None, "unknown")))
    assert not found.bytes.stand_in
    assert found.egress.expected == pytest.approx(1.0)
    assert found.until.expected == pytest.approx(3600 + 200)


def test_nothing_to_move_needs_no_stand_in() -> None:
    found = score_of(candidate(locality=Locality(Span.of(0.0), ("x",), None, None, "unknown")))
    assert not found.all_in.stand_in


# ── hard limits ──────────────────────────────────────────────────────────────────────────────────────────────


def ceiling(type_: str, most: float, unit: str | None = None) -> dict[str, Any]:
    return {"costs": [{"kind": kinds.MINMAX_COST, "type": type_, "max": most, **({"unit": unit} if unit else {})}]}


def floor(type_: str, least: float) -> dict[str, Any]:
    return {"metrics": [{"kind": kinds.MINMAX_METRIC, "type": type_, "min": least}]}


ENERGY = {kinds.ENERGY: (Span(1.0, 3.0), "kWh")}
SPEED = {kinds.COMPUTE_PERFORMANCE: Span(0.8, 2.0)}

BROKEN = [
    ({"unfit": "offers 2 cores"}, {}, {}, "offers 2 cores"),
    ({"expires": NOW}, {}, {}, "has expired"),
    ({}, {}, {"sites_allowed": ["b"]}, "a is not among the sites allowed"),
    ({}, {}, {"sites_allowed": []}, "a is not among the sites allowed"),
    ({"site": "fed"}, {}, {"sites_forbidden": ["a"]}, "a is among the sites forbidden"),
    ({}, {}, {"countries_allowed": ["NL"]}, "its country is not known, and countries are limited"),
    ({}, {}, {"countries_forbidden": ["NL"]}, "its country is not known, and countries are limited"),
    (
        {"countries": ("NL", "US")}, {}, {"countries_allowed": ["nl"]},
        "it may run in US, which is not among the countries allowed",
    ),
    (
        {"countries": ("us",)}, {}, {"countries_forbidden": ["US"]},
        "it may run in US, which is among the countries forbidden",
    ),
    ({"locality": moving(84.2, 0)}, {}, {"locality": "required"}, "84.2 GB of data would have to move there"),
    (
        {"locality": Locality(None, (), None, None, "unknown")}, {}, {"locality": "required"},
        "it is not known whether its data is there, and that is required",
    ),
    ({"price": Span(1, 6.1)}, ceiling(kinds.MONETARY, 6), {}, "may cost 6.10 EUR; the ceiling is 6.00 EUR"),
    (
        {"locality": moving(84.2, 1.68)}, ceiling(kinds.MONETARY, 2), {},
        "may cost 2.68 EUR; the ceiling is 2.00 EUR",
    ),
    ({"price": None}, ceiling(kinds.MONETARY, 6), {}, "its price is not known, and a ceiling of 6.00 EUR stands"),
    (
        {"price": Span.of(10)}, ceiling(kinds.MONETARY, 10), {"currency": "USD"},
        "may cost 10.87 USD; the ceiling is 10.00 USD",
    ),
    (
        {"price": Span.of(10)}, ceiling(kinds.MONETARY, 10, "USD"), {},
        "may cost 10.00 EUR; the ceiling is 9.20 EUR",
    ),
    ({}, ceiling(kinds.ENERGY, 2), {}, "states no energy, and a ceiling of 2.00 kWh stands"),
    ({"costs": ENERGY}, ceiling(kinds.ENERGY, 2), {}, "energy up to 3.00 kWh; the ceiling is 2.00 kWh"),
    ({"costs": ENERGY}, ceiling(kinds.ENERGY, 9, "MJ"), {}, "energy up to 10.80 MJ; the ceiling is 9.00 MJ"),
    ({"costs": ENERGY}, ceiling(kinds.ENERGY, 9, "kg"), {}, "states its energy in kWh, and the ceiling is in kg"),
    ({}, ceiling(kinds.CARBON, 0.1), {}, "carbon up to 0.20 kg; the ceiling is 0.10 kg"),
    ({}, floor(kinds.COMPUTE_PERFORMANCE, 1), {}, "states no compute-performance, and at least 1.00 is wanted"),
    (
        {"metrics": SPEED}, floor(kinds.COMPUTE_PERFORMANCE, 1), {},
        "compute-performance may be 0.80; at least 1.00 is wanted",
    ),
    (
        {}, {}, {"deadline": "2026-11-22T15:01:59Z"},
        "its result comes at 2026-11-22T15:02:00Z; the deadline is 2026-11-22T15:01:59Z",
    ),
    (
        {"start": Span(NOW, NOW + 600)}, {}, {"deadline": "2026-11-22T15:07:30Z"},
        "its result may come as late as 2026-11-22T15:12:00Z; the deadline is 2026-11-22T15:07:30Z",
    ),
    ({"start": Span.of(float("nan"))}, {}, {}, "states no start that can be read"),
    ({"run": Span.of(-1)}, {}, {}, "states no duration that can be read"),
]  # fmt: skip


@pytest.mark.parametrize(("offer", "request_", "preferences", "reason"), BROKEN)
def test_a_broken_limit_excludes_with_its_reason(
    offer: dict[str, Any], request_: dict[str, Any], preferences: dict[str, Any], reason: str
) -> None:
    wanted = wishes(request_, **preferences)
    (found,) = rank([candidate(**offer)], wanted, NOW)
    assert not good(found)
    assert (found.excluded, found.rank, found.trade_off) == (reason, None, False)
    assert note(found, wanted).excluded == reason


KEPT = [
    ({"expires": NOW + 1}, {}, {}),
    ({"site": "fed"}, {}, {"sites_allowed": ["fed"]}),
    ({"site": "fed"}, {}, {"sites_allowed": ["a"]}),
    ({"countries": ("nl",)}, {}, {"countries_allowed": ["NL"], "countries_forbidden": ["US"]}),
    ({"locality": HERE}, {}, {"locality": "required"}),
    ({"price": Span.of(5)}, ceiling(kinds.MONETARY, 5), {}),
    ({"price": Span.of(5), "currency": "USD"}, ceiling(kinds.MONETARY, 5, "USD"), {}),
    ({"price": Span.of(5), "currency": "USD"}, ceiling(kinds.MONETARY, 5), {"currency": "USD"}),
    ({"costs": ENERGY}, ceiling(kinds.ENERGY, 10.8, "MJ"), {}),
    ({}, ceiling(kinds.CARBON, 200, "g"), {}),
    ({"metrics": SPEED}, floor(kinds.COMPUTE_PERFORMANCE, 0.8), {}),
    ({}, {}, {"deadline": "2026-11-22T15:02:00Z"}),
]


@pytest.mark.parametrize(("offer", "request_", "preferences"), KEPT)
def test_a_limit_that_is_just_kept_excludes_nobody(
    offer: dict[str, Any], request_: dict[str, Any], preferences: dict[str, Any]
) -> None:
    (found,) = rank([candidate(**offer)], wishes(request_, **preferences), NOW)
    assert (found.excluded, found.rank) == (None, 1)


def test_excluded_offers_come_last_by_origin_and_session() -> None:
    offers = [candidate("b", unfit="no", price=Span.of(0)), candidate("c"), candidate("a", unfit="no")]
    assert [item.session for item in rank(offers, wishes(), NOW)] == ["c", "a", "b"]


def test_an_excluded_offer_beats_nobody() -> None:
    offers = [candidate("a", unfit="no", price=Span.of(0)), candidate("b")]
    assert by_session(offers)["b"].trade_off


# ── ties ─────────────────────────────────────────────────────────────────────────────────────────────────────


TIED = {
    "its worst case": ({}, {"run": Span(1800, 5400)}),
    "its result time": (
        {"price": Span.of(3), "run": Span.of(1800), "carbon": Span.of(0)},
        {"price": Span.of(2), "run": Span.of(3600), "carbon": Span.of(0)},
    ),
    "its pay": (
        {"price": Span.of(1), "carbon": Span.of(10), "locality": moving(5, 0)},
        {"price": Span.of(2), "carbon": Span.of(0)},
    ),
    "its bytes": ({"locality": moving(1, 0)}, {"locality": moving(2, 0)}),
}


@pytest.mark.parametrize("decided", TIED)
def test_of_equal_costs_the_named_criterion_decides(decided: str) -> None:
    better, worse = TIED[decided]
    offers = [candidate("z", **better), candidate("a", **worse)]
    found = rank(offers, wishes(), NOW)
    assert [item.session for item in found] == ["z", "a"]
    assert found[1].behind == f"costs the same; loses by {decided}"


def test_where_all_is_equal_origin_and_session_decide() -> None:
    offers = [candidate("b", origin="x"), candidate("c", origin="w"), candidate("a", origin="x")]
    assert order(offers) == ["c", "a", "b"]
    assert rank(offers, wishes(), NOW)[2].behind == "costs the same; the order is by name"
    assert all(item.trade_off for item in rank(offers, wishes(), NOW))


# ── what other rankers got wrong ─────────────────────────────────────────────────────────────────────────────


def test_the_winner_does_not_change_with_the_order_of_the_list() -> None:
    # A ranker that divides by the first offer's figures puts A first in [A, B] and B first in [B, A].
    a, b = candidate("A", run=Span.of(100), price=Span.of(1)), candidate("B", run=Span.of(10), price=Span.of(10))
    assert order([a, b]) == order([b, a]) == ["A", "B"]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_free_offer_is_no_division_by_nothing(place: int) -> None:
    offers = [candidate("fair"), candidate("dear", price=Span.of(4))]
    offers.insert(place, candidate("free", price=Span.of(0.0)))
    found = rank(offers, wishes(), NOW)
    assert [item.session for item in found] == ["free", "fair", "dear"]
    assert found[0].score
    assert found[0].score.all_in.expected == pytest.approx(2.02)


def test_a_bad_third_offer_does_not_turn_the_first_two_round() -> None:
    pair = [candidate("a", price=Span.of(2)), candidate("b", start=Span.of(NOW + 3600))]
    for third in ({"price": Span.of(1e6)}, {"start": Span.of(NOW + 1e7)}, {"price": Span.of(0), "start": Span.of(NOW)}):
        both = order([*pair, candidate("c", **third)])
        assert both.index("a") < both.index("b")


# ── money ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_prices_in_many_currencies_are_compared_in_one() -> None:
    offers = [
        candidate("eur", price=Span.of(1.00)),
        candidate("usd", price=Span.of(1.05), currency="USD"),
        candidate("gbp", price=Span.of(0.90), currency="GBP"),
    ]
    assert order(offers) == ["usd", "eur", "gbp"]


def test_figures_come_in_the_callers_currency() -> None:
    wanted = wishes(currency="USD")
    (found,) = rank([candidate(price=Span.of(0.92))], wanted, NOW)
    shown = note(found, wanted).to_wire()
    assert shown["pay"] == {"expected": 1.0, "pessimistic": 1.0, "unit": "USD"}
    assert sum(term["expected"] for term in shown["terms"]) == pytest.approx(shown["all_in"]["expected"])


def test_a_value_of_time_is_in_the_callers_currency() -> None:
    mine, base = wishes(currency="USD", value_of_time=10), wishes(value_of_time=9.2)
    assert mine.weights == base.weights
    assert mine.preferences().value_of_time == 10


def test_an_unknown_currency_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BadInput, match=r"There are: EUR, GBP, SEK, USD\.") as caught:
        wishes(currency="CHF")
    assert caught.value.element == "preferences.currency"
    with pytest.raises(BadInput) as caught:
        wishes(ceiling(kinds.MONETARY, 5, "CHF"))
    assert caught.value.element == "costs[0].unit"


def test_the_lowest_of_several_ceilings_counts() -> None:
    item = {"kind": kinds.MINMAX_COST, "type": kinds.MONETARY}
    assert wishes({"costs": [{**item, "max": 5}, {**item, "max": 3, "unit": "USD"}]}).budget == 2.76


def test_an_absurd_rate_is_no_rate() -> None:
    exchange = Exchange("EUR", {"AAA": 0.0, "BBB": float("nan"), "CCC": float("inf"), "DDD": -1.0})
    assert exchange.known == ("EUR",)
    assert all(exchange.convert(HOUR, unit) is None for unit in exchange.rates)


def test_conversion_goes_there_and_back() -> None:
    there = EXCHANGE.convert(Span(1.0, 2.0), "GBP", "USD")
    assert there
    back = EXCHANGE.convert(there, "USD", "GBP")
    assert back
    assert (back.low, back.high) == (pytest.approx(1.0), pytest.approx(2.0))
    assert EXCHANGE.convert(Span.of(1.0), "CHF", "CHF") == Span.of(1.0)


# ── what goes out ────────────────────────────────────────────────────────────────────────────────────────────


def test_the_note_shows_every_term() -> None:
    wanted = wishes()
    shown = note(by_session(federation())["borealis"], wanted).to_wire()
    assert {term["name"]: round(term["expected"], 2) for term in shown["terms"]} == {
        "price": 0.4, "egress": 1.68, "time": 2.27, "CO2e": 0.02, "distance": 0.0,
    }  # fmt: skip
    bases = {term["name"]: term["basis"] for term in shown["terms"]}
    assert bases["time"] == "waiting 8 min, staging 0 s, run 60 min; 2.00 EUR an hour"
    assert bases["egress"] == "84.2 GB from alba-disk"
    assert (shown["ready"], shown["result"]) == ("2026-11-22T14:10:00Z", "2026-11-22T15:10:00Z")
    assert shown["result_latest"] == "2026-11-22T15:31:00Z"
    assert (shown["rank"], shown["trade_off"]) == (2, True)
    assert RankingNote.model_validate(shown).to_wire() == shown


def test_data_of_unknown_place_comes_from_nowhere_by_name() -> None:
    wanted = wishes()
    lost = candidate("lost", locality=msgspec.structs.replace(moving(84.2, 1.68), sources=()))
    terms = note(rank([lost], wanted, NOW)[0], wanted).to_wire()["terms"]
    assert [term["basis"] for term in terms if term["name"] == "egress"] == ["84.2 GB"]


def test_the_short_way_to_the_wire_ends_at_the_same_place() -> None:
    offers = [*federation(), candidate("out", unfit="no"), candidate("lost", run=Span.of(float("nan")))]
    for wanted in (wishes(), wishes(currency="SEK", risk=0.5)):
        for item in rank(offers, wanted, NOW):
            assert note(item, wanted).to_wire() == wire(item, wanted)


def test_the_terms_add_up_for_every_offer() -> None:
    for preset in ("cheapest", "closest", "greenest"):
        wanted = wishes(preset=preset, currency="SEK")
        for item in rank(federation(), wanted, NOW):
            shown = note(item, wanted)
            assert shown.all_in
            assert sum(term.expected for term in shown.terms or ()) == pytest.approx(shown.all_in.expected)
            assert sum(term.pessimistic for term in shown.terms or ()) == pytest.approx(shown.all_in.pessimistic)


@pytest.mark.parametrize(
    ("offers", "words"),
    [
        ([{}], ["the only offer"]),
        ([{}, {"price": Span.of(2), "start": Span.of(NOW - 1)}], ["cheapest and soonest", "1 beats it in all"]),
        ([{}, {"price": Span.of(2), "carbon": None}], ["cheapest and soonest", "dearer"]),
        ([{}, {"start": Span.of(NOW + 7200), "price": Span.of(0.5)}], ["soonest", "cheaper, but 2 h queue"]),
        ([{}, {"run": Span.of(9000), "price": Span.of(0.5)}], ["soonest", "cheaper, but 2.5 h run"]),
        (
            [{}, {"locality": moving(90, 0, 5400), "price": Span.of(0.5)}],
            ["soonest", "cheaper, but 1.5 h staging"],
        ),
        ([{}, {"carbon": Span.of(4), "price": Span.of(0.8)}], ["soonest", "cheaper, but more CO2e"]),
        ([{}, {"carbon": Span.of(0.21), "price": Span.of(0.9999)}], ["soonest", "much like the first"]),
    ],
)
def test_why_in_a_few_words(offers: list[dict[str, Any]], words: list[str]) -> None:
    found = rank([candidate(str(i), **offer) for i, offer in enumerate(offers)], wishes(), NOW)
    assert [item.why for item in found] == words
    assert all(len(word) <= 26 for word in words)


def test_bytes_are_named_where_they_decide() -> None:
    found = rank([candidate("a"), candidate("b", locality=moving(7, 0))], wishes(preset="closest"), NOW)
    assert found[1].why == "1 beats it in all"
    found = rank([candidate("a"), candidate("b", locality=moving(7, 0), price=Span.of(0.5))],
                 wishes(preset="closest"), NOW)  # fmt: skip
    assert found[1].why == "cheaper, but more to move"


def test_offers_and_wishes_can_be_kept_and_read_back() -> None:
    wanted = wishes(ceiling(kinds.ENERGY, 2), currency="USD", countries_allowed=["NL"], deadline="2026-11-23T00:00:00Z")
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(wanted), type=Wishes)
    assert again == wanted
    offer = federation()[1]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(offer), type=Candidate) == offer


def test_nobody_to_rank_is_nobody_ranked() -> None:
    assert rank([], wishes(), NOW) == ()


def test_all_orders_of_a_list_give_one_order() -> None:
    orders = {tuple(order(list(offers))) for offers in itertools.permutations(federation())}
    assert orders == {("alba", "borealis", "cumulus", "delta")}


def test_the_day_of_the_examples() -> None:
    assert at("14:02") == NOW


# ── by experience ────────────────────────────────────────────────────────────────────────────────────────────


LATE = Correction(waiting=Factor(2.1, 34, 3600.0))


def test_a_start_that_comes_later_than_promised_is_counted_so_and_says_by_how_many_runs() -> None:
    late = candidate("a", start=Span.of(NOW + 720.0), correction=LATE)
    other = candidate("b", start=Span.of(NOW + 900.0), price=Span.of(1.2))
    ranked = rank([late, other], wishes(), NOW)
    assert [item.session for item in ranked] == ["b", "a"]
    score = ranked[1].score
    assert score is not None
    assert score.waiting.expected == pytest.approx(2.1 * (720.0 + 60.0) - 60.0)
    assert "waiting 26 min (promised 12 min, × 2.1 by 34 runs)" in str(wire(ranked[1], wishes()))
    assert ranked[1].why == "cheaper, but 26 min queue, 12 min promised"


def test_a_price_that_is_exceeded_is_counted_so_and_says_what_was_offered() -> None:
    dear = candidate("a", price=Span(1.0, 3.0), correction=Correction(cost=Factor(1.2, 1)))
    item = rank([dear], wishes(currency="EUR"), NOW)[0]
    assert item.score is not None
    assert (item.score.price.expected, item.score.price.pessimistic) == (pytest.approx(2.4), 3.0)
    assert "2.00 EUR offered, × 1.2 by 1 run" in str(wire(item, wishes()))


def test_a_limit_is_judged_by_what_is_expected_where_that_is_worse_than_what_is_stated() -> None:
    dear = candidate("a", price=Span.of(9.0), correction=Correction(cost=Factor(1.5, 20)))
    most = ceiling(kinds.MONETARY, 10)
    reason = rank([dear], wishes(most), NOW)[0].excluded
    assert reason == "may cost 13.50 EUR, by what such promises have come to; the ceiling is 10.00 EUR"
    soon = wishes(deadline="2026-11-22T15:20:00Z")
    late = candidate("a", start=Span.of(NOW + 720.0), correction=LATE)
    assert rank([msgspec.structs.replace(late, correction=None)], soon, NOW)[0].excluded is None
    assert "by what such promises have come to" in (rank([late], soon, NOW)[0].excluded or "")


def test_what_other_sites_have_shown_is_said_to_be_theirs() -> None:
    item = rank([candidate("a", correction=Correction(run=Factor(0.25)))], wishes(), NOW)[0]
    assert "run 15 min (promised 60 min, × 0.25 as at other sites)" in str(wire(item, wishes()))


def test_a_stand_in_is_nobodys_promise() -> None:
    unknown = candidate("a", price=None, locality=Locality(None, (), None, None, "unknown"))
    by = Correction(staging=Factor(3.0, 9), cost=Factor(3.0, 9))
    assert rank([unknown], wishes(), NOW) == rank([msgspec.structs.replace(unknown, correction=by)], wishes(), NOW)
