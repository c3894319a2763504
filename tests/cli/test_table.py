"""The table of offers: its words at 80 and 120 columns and in a pipe, and what no site may do to it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.client import table, words
from broker.client.table import Look
from broker.client.words import clock, columns, cut, money, plain, size, span, wrap
from broker.domain import kinds
from broker.domain.components import ComponentMetadata, MessageItem, SimpleMinMaxFloatCost
from broker.domain.session import OfferSetResponse, OutcomeNote, SessionPhase
from broker.testing.broker import ALBA, NOW, SET, bounds, drawn_offers, drawn_set

ZONE = ZoneInfo("Europe/Berlin")


def look(width: int) -> Look:
    return Look(width, NOW, ZONE)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_drawn_table(width: int, golden: Any) -> None:
    text = table.offers(drawn_set(), look(width))
    assert max(map(columns, text.splitlines())) <= width
    golden(f"offers-{width}.txt", text + "\n")


def test_the_pipe(golden: Any) -> None:
    golden("offers.tsv", table.tsv(drawn_set()) + "\n")


def test_the_pay_column_goes_when_all_is_free() -> None:
    free = [o.with_(ranking=o.ranking.with_(pay=bounds(0.0))) for o in drawn_offers() if o.ranking]
    text = table.offers(drawn_set(free), look(80))
    assert "PAY" not in text
    assert "ALL-IN ranks, nothing is billed: 2.00 EUR/h until result + 0.10 EUR/kg CO2e" in text


def test_a_plain_service_without_ranking_is_shown_in_its_own_order() -> None:
    first, second, *_ = drawn_offers()
    cost = SimpleMinMaxFloatCost(kind=kinds.MINMAX_COST, type=kinds.MONETARY, min=1.0, max=3.0)
    bare = [
        o.with_(ranking=None, site=None, origin=None, reserved=None, results=None, locality=None, costs=(cost,))
        for o in (second, first)
    ]
    response = OfferSetResponse(kind=kinds.OFFERSET, meta=ComponentMetadata(uuid=SET), result="YES", offers=tuple(bare))
    text = table.offers(response, look(80))
    assert text.splitlines()[2].split() == ["1", "?", "2.00", "14:10~", "15:10~"]
    assert "ALL-IN" not in text, "nobody ranked it"
    assert "no result files: everywhere" in text
    assert "~ estimate, nothing is reserved" in text


def test_no_result_files_and_nothing_real_are_said_before_acceptance() -> None:
    first, second, *rest = drawn_offers()
    response = drawn_set([first.with_(results=False), second.with_(simulated=True), *rest])
    text = table.offers(response, look(80))
    assert "\nno result files: alba\nnothing really runs: borealis\n" in text


def test_an_excluded_offer_says_why_and_has_no_rank() -> None:
    first, second, *_ = drawn_offers()
    assert second.ranking
    out = second.with_(ranking=second.ranking.with_(rank=None, excluded="after your deadline"))
    text = table.offers(drawn_set([first, out]), look(80))
    assert "NO  borealis  its offer is left out: after your deadline" in text
    assert "* 2" not in text
    assert "\n\tborealis\texcluded\t" in table.tsv(drawn_set([first, out]))


def test_why_is_not_cut_while_what_was_promised_can_go() -> None:
    first, second, *_ = drawn_offers()
    assert second.ranking
    late = second.with_(ranking=second.ranking.with_(why="cheaper, but 26 min queue, 12 min promised"))
    assert "cheaper, but 26 min queue, 12 min promised" in table.offers(drawn_set([first, late]), look(160))
    assert table.offers(drawn_set([first, late]), look(80)).splitlines()[3].endswith("cheaper, but 26 min queue")


def test_bytes_that_nobody_knows_have_their_column() -> None:
    first, *_ = drawn_offers()
    assert first.locality
    unknown = first.with_(locality=first.locality.with_(bytes=None, least=None, certainty="unknown"))
    head, row = table.offers(drawn_set([unknown]), look(80)).splitlines()[1:3]
    assert "MOVES" in head
    assert row[head.index("MOVES") + 4] == "?"


def test_a_price_that_ranks_by_experience_is_not_said_to_be_pay() -> None:
    first, *rest = drawn_offers()
    note = first.ranking
    assert note
    assert note.terms
    terms = tuple(term.with_(expected=0.6) if term.name == "price" else term for term in note.terms)
    corrected = note.with_(price=bounds(1.2), terms=terms)
    text = table.offers(drawn_set([first.with_(ranking=corrected), *rest]), look(120))
    assert "isn't billed: PAY as such prices came out + 2.00 EUR/h" in text
    assert "isn't billed: PAY + 2.00 EUR/h" in table.offers(drawn_set(), look(120))


def test_reasons_of_a_site_stand_apart_and_do_not_name_it_twice() -> None:
    reasons = ("echo: data[0]: no place. Nearest yes: http.", "data[1]: none", "fjord: no cores")
    note = OutcomeNote(site="echo", outcome="Declined", reasons=reasons)
    text = table.offers(drawn_set([], outcomes=[note]), look(120))
    assert "NO  echo  data[0]: no place. Nearest yes: http. data[1]: none; fjord: no cores" in text


def test_each_term_stays_within_the_terminal() -> None:
    first, *_ = drawn_offers()
    note = first.ranking
    assert note
    assert note.terms
    terms = tuple(term.with_(basis="waiting 0 s, staging 9 s, run 2 min; " * 3) for term in note.terms)
    text = table.explain(drawn_set([first.with_(ranking=note.with_(terms=terms))]), look(80))
    assert max(map(columns, text.splitlines())) <= 80
    assert text.count("staging 9 s") == 9, "nothing is cut"


def test_what_became_of_an_offer_is_shown() -> None:
    first, *rest = drawn_offers()
    text = table.offers(drawn_set([first.with_(phase=SessionPhase.EXPIRED), *rest], taken=str(ALBA)), look(80))
    assert "EXPIRED" in text.splitlines()[2]
    assert text.endswith("taken: session 91c2   broker watch 91c2")


def test_what_can_be_accepted_now_is_what_the_last_line_names() -> None:
    first, *rest = drawn_offers()
    gone = first.with_(phase=SessionPhase.REJECTED)
    second = rest[0].ranking
    assert second is not None
    assert f"broker accept {second.rank} (until" in table.offers(drawn_set([gone, *rest]), look(120))
    over = [o.with_(phase=SessionPhase.EXPIRED) for o in (first, *rest)]
    text = table.offers(drawn_set(over), look(120))
    assert "broker accept" not in text
    assert "broker submit --again" in text


def test_an_offer_in_doubt_is_marked_and_leads_to_its_session() -> None:
    first, *rest = drawn_offers()
    asking = MessageItem.fill("uri:acceptance-doubt", "alba did not say")
    doubtful = first.with_(meta=ComponentMetadata(uuid=ALBA, messages=(asking,)))
    text = table.offers(drawn_set([doubtful, *rest]), look(120))
    assert "in doubt" in text
    assert f"broker watch {words.short(str(ALBA))}" in text
    assert "broker accept" not in text


def test_a_stand_in_for_the_price_is_marked_and_never_free() -> None:
    first, *rest = drawn_offers()
    assert first.ranking
    unknown = first.with_(ranking=first.ranking.with_(pay=bounds(0.0, stand_in=True)))
    assert "0.00?" in table.offers(drawn_set([unknown, *rest]), look(80)).splitlines()[2]


def test_site_names_are_cut_last() -> None:
    first, *_ = drawn_offers()
    long = first.with_(site="a-very-long-name-of-a-site.of.some.university.example")
    text = table.offers(drawn_set([long]), look(80))
    assert max(map(columns, text.splitlines())) <= 80
    assert "a-very-long-name-of-a-s" in text


@given(st.text(max_size=60), st.text(max_size=200), st.integers(40, 160))
def test_no_text_of_a_site_breaks_a_line_or_reaches_the_terminal(site: str, words: str, width: int) -> None:
    first, *rest = drawn_offers()
    assert first.ranking
    evil = first.with_(site=site or "x", origin=words, ranking=first.ranking.with_(why=words, behind=words))
    note = OutcomeNote(site=site or "x", outcome="Declined", reasons=(words,))
    response = drawn_set([evil, *rest])
    response = response.with_(outcomes=(*(response.outcomes or ()), note))
    drawn, piped = table.offers(response, look(width)), table.tsv(response)
    for text in (drawn, piped, table.explain(response, look(width))):
        assert plain(text, lines=True) == text
    assert {line.count("\t") for line in piped.split("\n")} == {piped.split("\n")[0].count("\t")}
    if width >= 70:
        assert max(map(columns, drawn.split("\n"))) <= width


def test_control_and_direction_characters_are_defused() -> None:
    assert plain("a\x1b[2Jb\x9bc\u202ed\u200be\r\nf\tg") == "a?[2Jb?c?d?e  f g"
    assert plain("a\x07\r\n\tb", lines=True) == "a?\n\tb"


def test_figures_are_written_for_people() -> None:
    assert [money(x) for x in (0, 1.2, 0.004, 0.00001, 1234.5)] == ["0.00", "1.20", "0.004", "0.00001", "1234.50"]
    assert [size(x) for x in (0, 999, 84.2e9, 1.2e6, 999.99e6, 3e15)] == [
        "0", "999 B", "84.2 GB", "1.2 MB", "1.0 GB", "3.0 PB",
    ]  # fmt: skip
    assert [span(x) for x in (0, 45, 3600, 5400, 90061)] == ["0 s", "45 s", "1 h", "1 h 30 min", "1 d 1 h"]
    days = [clock(NOW + timedelta(days=d), ZONE, NOW) for d in (0, 1, 7, 60)]
    assert days == ["14:03", "Mon 14:03", "29 Nov", "2027-01-21"]


@given(st.text(max_size=80), st.integers(2, 40))
def test_cutting_keeps_the_room(text: str, room: int) -> None:
    clean = plain(text)
    assert columns(cut(clean, room)) <= room
    assert all(columns(line) <= room for line in wrap(clean, room))
