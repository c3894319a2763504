"""What is believed of the transfers that a site reports."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain import reported
from broker.domain.learning import Transfer
from broker.domain.reported import Moved

NOW = 1_795_356_120.0
SESSION = UUID(int=7)


def storage(url: str) -> str | None:
    return "alba-disk" if url.startswith("https://alba/") else None


def moves(*notes: Any) -> list[Moved]:
    return reported.moves(msgspec.json.encode({"transfers": list(notes)}), storage)


def ways(*notes: Any) -> dict[str, Transfer]:
    return reported.transfers(SESSION, moves(*notes), NOW - 3600, NOW)


def note(**more: Any) -> dict[str, Any]:
    return {"url": "https://alba/cube.fits", "bytes": 1e9, "seconds": 10.0, **more}


def instant(seconds: float) -> str:
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


def test_a_transfer_counts_for_the_storage_that_declares_its_address() -> None:
    assert ways(note(source="elsewhere")) == {"alba-disk": Transfer(SESSION, NOW, 1e9, 10.0, NOW - 3600)}


def test_without_a_declared_storage_the_name_that_the_site_gives_counts_and_else_none() -> None:
    found = ways(note(url="https://x/a", source="x-disk"), note(url="https://y/a"), note(url=None))
    assert {source: transfer.bytes for source, transfer in found.items()} == {"x-disk": 1e9, "": 2e9}


def test_files_that_moved_side_by_side_shared_the_way() -> None:
    two = ways(note(ended=instant(-100)), note(ended=instant(-95)))
    assert two["alba-disk"] == Transfer(SESSION, NOW, 2e9, 15.0, NOW - 3600)
    assert ways(note(ended=instant(-100)), note())["alba-disk"].seconds == 20.0


def test_cached_and_small_ones_measure_no_way() -> None:
    assert ways(note(cached=True), note(bytes=999_999)) == {}
    assert reported.moving(moves(note(cached=True))) == 0.0
    assert reported.moving(moves(note(bytes=10))) == 10.0
    assert reported.moving([]) is None


@pytest.mark.parametrize(
    "nonsense",
    [
        note(bytes=-1), note(seconds=-1), note(seconds=0), note(bytes=1e30), note(bytes="1e9"), note(seconds=None),
        note(bytes=True), note(seconds=1e9), note(seconds=1e-9), note(seconds=3700), None, 7, "text", [], {},
    ],
)  # fmt: skip
def test_what_can_be_no_transfer_is_left_out(nonsense: Any) -> None:
    assert ways(nonsense, note())["alba-disk"] == Transfer(SESSION, NOW, 1e9, 10.0, NOW - 3600)


def test_thousands_of_notes_are_one_transfer_of_the_first_thousand() -> None:
    found = ways(*[note(bytes=1e6, seconds=0.01) for _ in range(5000)])
    assert found["alba-disk"].bytes == 1e9


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b'{"transfers": {}}', b'{"transfers": NaN}', b"[" * 100_000, b"\xff"]
)
def test_a_body_that_is_none_reports_nothing(body: bytes) -> None:
    assert reported.moves(body, storage) == []


scalars = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["url", "bytes", "seconds", "source", "ended"]) | st.text(max_size=3), inner)
    ),
    max_leaves=20,
)


@given(anything)
def test_nothing_that_a_site_writes_breaks_the_reading(said: Any) -> None:
    for move in reported.moves(msgspec.json.encode({"transfers": said}), storage):
        assert 0 <= move.bytes <= 1e18
        assert 0 <= move.seconds <= 1e8
