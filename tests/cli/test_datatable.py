"""What the table says of a request's data: how much, where, by whose word, and what nobody knows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from broker.client import datatable
from broker.domain import kinds
from broker.domain.session import OfferSetResponse

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
