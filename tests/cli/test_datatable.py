"""What the table says of a request's data: how much, where, by whose word, and what nobody knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.client import datatable
from broker.domain import kinds
from broker.domain.session import OfferSetResponse, ScheduledExecutionSession

NOW = datetime(2026, 11, 22, 14, 0, tzinfo=UTC)


def answer(*located: dict[str, Any]) -> OfferSetResponse:
    return OfferSetResponse.model_validate({"kind": kinds.OFFERSET, "located": list(located)})


def portion(size: float | None, *storages: str, **more: Any) -> dict[str, Any]:
    return {"bytes": size, "files": 1, "replicas": [{"storage": name, **more} for name in storages]}


CUBE = {
    "element": "data[0]", "name": "cube", "bytes": 4e9, "files": 3, "sized": "ska", "placed": "ska",
    "asof": (NOW - timedelta(minutes=5)).isoformat(),
    "portions": [portion(3e9, "ALBA", "BOREALIS"), portion(1e9, "TAPES", tape=True)],
}  # fmt: skip
FLAT = {
    "element": "data[1]", "name": "flat", "files": 1, "placed": "the request", "portions": [portion(None, "ALBA")],
    "unknown": ["http: it answers 405"],
}  # fmt: skip


def test_what_is_known_is_explained_with_who_says_so_and_when() -> None:
    assert datatable.explained(answer(CUBE), 100, NOW) == [
        "data[0] cube: 4.0 GB, 3 files, sized by ska, asked 5 min ago",
        "    3.0 GB at ALBA, BOREALIS",
        "    1.0 GB at TAPES (tape)",
    ]


def test_every_unknown_has_a_line_with_its_reason() -> None:
    lines = datatable.unknowns(answer(CUBE, FLAT), 100)
    assert lines == ["?? data[1] flat: size not known: http: it answers 405"]
    assert datatable.volume(answer(CUBE, FLAT)) == (4e9, False)


def test_of_many_unknowns_the_first_are_told_and_how_many_more() -> None:
    lines = datatable.unknowns(answer(*[FLAT | {"element": f"data[{i}]"} for i in range(50)]), 100)
    assert len(lines) == 6
    assert lines[-1] == "?? and of 45 more data resources: --explain"


def test_that_no_storage_declares_an_address_is_told_once() -> None:
    far = FLAT | {
        "unknown": ["http: not asked: far.example is on no storage that this broker declares"],
        "notes": ["https://far.example/x is on no storage that is declared here", "the request says 1 bytes, ska 2"],
    }
    assert datatable.unknowns(answer(far), 200) == [
        "?? data[1] flat: size not known: http: not asked: far.example is on no storage that this broker declares; "
        "the request says 1 bytes, ska 2"
    ]
    assert "on no storage" in datatable.unknowns(answer(far | {"bytes": 1.0}), 200)[0]


def test_an_unknown_without_a_reason_is_told_all_the_same() -> None:
    bare = {"element": "data[0]", "files": 1, "portions": [portion(None)]}
    assert datatable.unknowns(answer(bare), 100) == ["?? data[0]: size and place not known: nobody says"]


def test_what_contradicts_is_told() -> None:
    lines = datatable.unknowns(answer(CUBE | {"notes": ["the request says 1 bytes, ska 2"]}), 100)
    assert lines == ["?? data[0] cube: the request says 1 bytes, ska 2"]


def test_what_catalogues_write_has_no_power_over_a_terminal() -> None:
    lines = datatable.explained(answer(CUBE | {"name": "a\x1b[31m", "portions": [portion(1.0, "B\x07")]}), 100, NOW)
    assert "\x1b" not in "".join(lines)
    assert "\x07" not in "".join(lines)


def test_many_places_are_cut_and_counted() -> None:
    parts = [portion(1.0, f"S{i}") for i in range(9)]
    assert datatable.explained(answer(CUBE | {"portions": parts}), 100, NOW)[-1] == "    and in 3 other places"


def offer(locality: dict[str, Any], **more: Any) -> ScheduledExecutionSession:
    return ScheduledExecutionSession.model_validate({"kind": kinds.SCHEDULED_SESSION, "locality": locality, **more})


MOVES = {
    "bytes": {"expected": 3e9, "pessimistic": 3e9}, "sources": ["ALBA"],
    "staging": {"expected": 90.0, "pessimistic": 120.0},
}  # fmt: skip


@pytest.mark.parametrize(
    ("locality", "text"),
    [
        (MOVES | {"certainty": "estimated"}, "moves 3.0 GB from ALBA, 1 min to 2 min as links are configured"),
        (MOVES | {"certainty": "measured", "samples": 7},
         "moves 3.0 GB from ALBA, 1 min to 2 min by 7 measured transfers"),
        ({"bytes": {"expected": 0, "pessimistic": 0}, "sources": ["TAPES"], "certainty": "estimated",
          "staging": {"expected": 60, "pessimistic": 60}, "recall": {"expected": 60, "pessimistic": 60}},
         "data is here at TAPES, 1 min as links are configured, of which tapes take 1 min"),
        ({"bytes": {"expected": 0, "pessimistic": 0}, "held": ["data[0]"], "cached": 5e9},
         "data is here, 5.0 GB in its cache"),
        ({"sources": ["ALBA"], "least": 2e9, "certainty": "unknown"}, "moves more than 2.0 GB from ALBA"),
        ({"certainty": "unknown"}, "moves bytes of unknown number from nobody knows where"),
        ({"bytes": {"expected": 0, "pessimistic": 0}}, ""),
        ({"bytes": {"expected": 3e9, "pessimistic": 3e9}, "certainty": "unknown"},
         "moves 3.0 GB from no declared storage, nobody knows how long"),
    ],
)  # fmt: skip
def test_an_offer_says_what_its_data_takes_and_how_sure_that_is(locality: dict[str, Any], text: str) -> None:
    assert datatable.moving(offer(locality)) == text


def test_a_sites_own_preparing_stands_beside_ours() -> None:
    schedule = {"preparing": {"start": "2026-11-22T14:00:00Z", "duration": "PT40S"}}
    said = datatable.moving(offer(MOVES, schedule=schedule))
    assert said.endswith("; the site itself counts 40 s of preparing into its start, and that leads")
