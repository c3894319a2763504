"""Where runs fit: the calendar's rules, against a naive count of every instant."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.planning.slots import Need, earliest, segments, within
from broker.ports import Booking

NOW = 1000.0
times = st.integers(0, 20).map(float)
bookings = st.lists(
    st.builds(
        lambda i, set_, start, length, cores, held: Booking(
            str(i), set_, start, start + length, {"cores": float(cores)}, NOW if held else None
        ),
        st.integers(0, 10**9),
        st.sampled_from("abc"),
        times,
        st.integers(1, 8).map(float),
        st.integers(1, 4),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda b: b.id,
)


def charged(books: list[Booking], at: float, *, besides: str = "", held: bool = False) -> float:
    """The rule itself: the sum over sets of the most that one of the set takes at that instant."""
    sums: dict[str, float] = {}
    for b in books:
        if b.set != besides and b.start <= at < b.end and (b.until is not None or not held):
            sums[b.set] = max(sums.get(b.set, 0.0), b.amounts["cores"])
    return sum(sums.values())


def instants(books: list[Booking], start: float, end: float) -> list[float]:
    return sorted({t for b in books for t in (b.start, b.end) if start <= t < end} | {start})


@given(bookings, st.sampled_from(["", "a"]))
def test_segments_say_what_a_naive_count_says(books: list[Booking], besides: str) -> None:
    timeline = segments(books, besides=besides)
    assert timeline[0].start == -math.inf
    assert timeline[-1].end == math.inf
    assert all(one.end == two.start for one, two in pairwise(timeline))
    for segment in timeline[1:]:
        assert segment.charged.get("cores", 0.0) == pytest.approx(charged(books, segment.start, besides=besides))
        assert segment.open.get("cores", 0.0) == pytest.approx(
            charged(books, segment.start, besides=besides, held=True)
        )


@given(
    books=bookings,
    cores=st.integers(1, 6),
    length=st.integers(1, 6).map(float),
    until=times,
    low=times,
    span=times,
    share=st.sampled_from([None, 0.5, 1.0]),
)
def test_the_first_start_that_fits_is_found(
    books: list[Booking], cores: int, length: float, until: float, low: float, span: float, share: float | None
) -> None:
    room, need = 6.0, Need({"cores": float(cores)}, length, until)

    def fits(start: float) -> bool:
        return all(
            charged(books, at, besides="mine") + cores <= room
            and (share is None or charged(books, at, besides="mine", held=True) + cores <= share * room)
            for at in instants(books, start, need.end(start))
        )

    found = earliest(segments(books, besides="mine"), need, {"cores": room}, low, low + span, share)
    candidates = sorted({low} | {b.end for b in books if low < b.end <= low + span})
    assert found == next((start for start in candidates if fits(start)), None)
    # No start in between is better: room grows at ends of bookings alone, and all edges here are whole numbers.
    halves = [low + i / 2 for i in range(int(span * 2) + 1)]
    assert next((start for start in halves if fits(start)), None) == found


def test_a_kind_of_room_that_is_not_counted_never_stands_in_the_way() -> None:
    book = [Booking("x", "a", 0, 10, {"licences": 5.0})]
    assert earliest(segments(book), Need({"licences": 99.0}, 5, 0), {"cores": 1.0}, 0, 9, 0.5) == 0


def test_it_is_held_from_its_start_until_a_run_begun_at_the_last_moment_ends() -> None:
    assert Need({}, 60.0, until=300.0).end(100.0) == 360.0
    assert Need({}, 60.0, until=300.0).end(1000.0) == 1060.0


def test_what_never_fits_has_no_start_however_far_one_looks() -> None:
    book = segments([Booking("x", "a", 0, 10, {"cores": 1.0})])
    assert earliest(book, Need({"cores": 5.0}, 5, 0), {"cores": 4.0}, 0, math.inf, None) is None


def test_within_takes_each_kind_of_room_by_itself() -> None:
    room = {"cores": 4.0, "memory": 10.0}
    assert within({"cores": 2.0, "memory": 5.0, "other": 9.0}, room, 0.5)
    assert not within({"cores": 2.0, "memory": 6.0}, room, 0.5)
