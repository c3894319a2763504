"""What is known of a request's data: whose word counts, what adds up, what stays unknown."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from broker.domain import kinds
from broker.domain.located import (
    MOST_PORTIONS,
    REQUEST,
    Item,
    Located,
    Portion,
    Replica,
    condense,
    fill,
    items,
    notes,
    total,
    wire,
)
from broker.domain.request import ExecutionRequest


def request(*data: dict[str, Any], **rest: Any) -> ExecutionRequest:
    return ExecutionRequest.model_validate({"executable": {"kind": "uri:python-program-1.0"}, "data": data, **rest})


def portion(size: float | None, *storages: str, files: int = 1) -> Portion:
    return Portion(size, tuple(Replica(name) for name in storages), files)


DID = {"kind": kinds.RUCIO_DATA, "rucio": {"scope": "survey", "object": "cubes"}}
STATED = Item("data[0]", "", (portion(10.0, "ALBA"),), REQUEST, REQUEST)


# ── what the request states ──────────────────────────────────────────────────────────────────────────────────


def test_a_rucio_name_is_no_place_yet() -> None:
    (found,) = items(request(DID))
    assert (found.bytes, found.placed, found.urls) == (None, "", ("rucio:survey/cubes",))


@pytest.mark.parametrize(
    "form", ["application/x-votable+xml;content=datalink", 'application/x-votable+xml; content="DataLink"']
)
def test_an_address_that_leads_to_links_is_no_place_of_bytes(form: str) -> None:
    links = {"access_url": "https://x/links?ID=1", "access_format": form}
    (found,) = items(request({"kind": kinds.IVOA_DATA, "ivoa": {"obscore": links}}))
    assert (found.urls, found.placed) == ((), "")


def test_a_checksum_is_taken_along() -> None:
    (found,) = items(request({"kind": kinds.SKAO_DATA, "skao": {"checksum": {"type": "adler32", "value": "0a"}}}))
    assert found.checksum == ("adler32", "0a")


# ── what others say ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_catalogue_fills_in_size_and_places() -> None:
    (item,) = items(request(DID))
    told = Located((portion(3e9, "ALBA", files=2), portion(1e9, "BOREALIS")))
    found = fill(item, [("ska", told, 77.0)], ["http: 404"])
    assert (found.bytes, found.files, found.sized, found.placed, found.asof) == (4e9, 3, "ska", "ska", 77.0)
    assert found.unknown == ()  # nothing is open any more


def test_the_requests_own_word_stands_and_who_says_otherwise_is_noted() -> None:
    found = fill(STATED, [("ska", Located((portion(12.0, "BOREALIS"),)), 77.0)])
    assert (found.bytes, found.portions, found.sized, found.placed, found.asof) == (
        10.0, STATED.portions, REQUEST, REQUEST, None,
    )  # fmt: skip
    assert found.notes == ("the request says 10 bytes, ska 12",)


def test_the_most_trusted_leads_and_the_next_fills_what_it_left() -> None:
    (item,) = items(request(DID))
    places = Located((portion(None, "ALBA", files=3), portion(None, "BOREALIS")))
    sizes = Located((Portion(8.0, (), 4),))
    found = fill(item, [("ska", places, 1.0), ("http", sizes, 2.0)])
    assert (found.bytes, found.sized, found.placed) == (8.0, "http", "ska")
    assert [part.bytes for part in found.portions] == [6.0, 2.0]  # by the number of files


def test_a_size_without_a_place_keeps_the_stated_places() -> None:
    (item,) = items(request({"kind": kinds.SIMPLE_DATA, "location": "https://x/cube"}))
    found = fill(item, [("http", Located((Portion(5.0),)), 1.0)])
    assert (found.bytes, found.urls, found.placed, found.sized) == (5.0, ("https://x/cube",), REQUEST, "http")


def test_the_size_of_one_file_is_not_that_of_all() -> None:
    (item,) = items(request(DID))
    places = Located((portion(None, "ALBA", files=2),))
    found = fill(item, [("links", places, 1.0), ("http", Located((Portion(8.0),)), 2.0)], ["links: no lengths"])
    assert (found.bytes, found.sized, found.unknown) == (None, "", ("links: no lengths",))


def test_what_somebody_sized_keeps_its_size_and_the_rest_is_shared() -> None:
    (item,) = items(request(DID))
    places = Located((portion(9.0, "ALBA"), portion(None, "BOREALIS", files=3)))
    sizes = Located((Portion(12.0, (), 4),))
    found = fill(item, [("ska", places, 1.0), ("tap", sizes, 2.0)])
    assert {part.replicas[0].storage: part.bytes for part in found.portions} == {"ALBA": 9.0, "BOREALIS": 3.0}
    less = fill(item, [("ska", places, 1.0), ("tap", Located((Portion(8.0, (), 4),)), 2.0)])
    assert [part.bytes for part in less.portions] == [6.0, 2.0]  # one of the two is wrong: by files


def test_files_with_addresses_of_their_own_are_counted_by_folder() -> None:
    files = [Portion(1.0, (Replica(None, f"https://x/{i % 2}/{i}.fits?v=1"),)) for i in range(200)]
    assert condense(files) == (
        Portion(100.0, (Replica(None, "https://x/0/"),), 100),
        Portion(100.0, (Replica(None, "https://x/1/"),), 100),
    )


def test_what_nobody_says_stays_unknown_with_the_reasons() -> None:
    (item,) = items(request(DID))
    found = fill(item, [("empty", Located(), 1.0)], ["ska: no answer in 5 s", "http: not asked"])
    assert found.bytes is None
    assert found.unknown == ("ska: no answer in 5 s", "http: not asked")


def test_who_counts_what_lies_in_one_place_tells_its_files_and_tapes() -> None:
    (item,) = items(request({"kind": kinds.S3_DATA, "bucket": "b", "object": "deep/"}))
    old, new = Portion(5.0, (Replica(None, "x", True),), 2), Portion(3.0, (Replica(None, "x"),), 7)
    found = fill(item, [("s3", Located((old, new)), 1.0)])
    place = "s3://b/deep/"
    assert set(found.portions) == {
        Portion(5.0, (Replica(None, place, True),), 2),
        Portion(3.0, (Replica(None, place),), 7),
    }


def test_an_estimate_is_marked_and_contradicts_nobody() -> None:
    (item,) = items(request(DID))
    guess = Located((portion(9.0, "A"),), estimated=True, sized="ObsCore access_estsize")
    found = fill(item, [("tap", guess, 1.0)])
    assert (found.estimated, found.sized) == (True, "ObsCore access_estsize")
    assert fill(STATED, [("tap", guess, 1.0)]).notes == ()


# ── portions ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_in_the_same_places_are_one_portion_wherever_their_urls_point() -> None:
    files = [Portion(2.0, (Replica("A", f"https://a/{i}"), Replica("B", f"https://b/{i}"))) for i in range(5)]
    assert condense(files) == (Portion(10.0, (Replica("A"), Replica("B")), 5),)


def test_a_single_file_keeps_its_addresses() -> None:
    only = Portion(2.0, (Replica("A", "https://a/1"),))
    assert condense([only]) == (only,)


def test_one_unknown_size_makes_its_portion_unknown_and_no_other() -> None:
    found = condense([portion(2.0, "A"), portion(None, "A"), portion(3.0, "B")])
    assert [(part.bytes, part.files) for part in found] == [(None, 2), (3.0, 1)]


sizes = st.none() | st.sampled_from([0.0, 1.0, 2.5e9])
parts = st.lists(
    st.builds(lambda size, at, files: portion(size, *sorted(at), files=files), sizes,
              st.sets(st.sampled_from([f"S{i}" for i in range(8)]), max_size=4), st.integers(1, 9)),
    max_size=150,
)  # fmt: skip


@given(parts)
def test_condensing_loses_no_byte_and_no_file_and_is_bounded(portions: list[Portion]) -> None:
    found = condense(portions)
    assert len(found) <= MOST_PORTIONS
    assert sum(part.files for part in found) == sum(part.files for part in portions)
    assert total(found) == (None if total(portions) is None else pytest.approx(total(portions)))


@given(parts, st.randoms(use_true_random=False))
def test_no_order_of_files_changes_the_portions(portions: list[Portion], random: Any) -> None:
    shuffled = list(portions)
    random.shuffle(shuffled)
    again, found = condense(shuffled), condense(portions)
    assert [(part.replicas, part.files) for part in again] == [(part.replicas, part.files) for part in found]


# ── from broker to broker ────────────────────────────────────────────────────────────────────────────────────


@given(parts, st.booleans())
def test_what_is_written_at_once_is_what_the_models_write(portions: list[Portion], estimated: bool) -> None:
    found = [
        STATED,
        Item("data[1]", "cube", condense(portions), "a", "b", 7.6, estimated, None, ("why",), ("otherwise",)),
        Item("data[2]", portions=(Portion(None, (Replica(None, "https://x/1?v=2", True),)),)),
    ]
    assert wire(found) == [note.to_wire() for note in notes(found)]


def test_all_that_is_known_is_written() -> None:
    tape = Portion(None, (Replica("VAULT", "https://x/1?v=2", True), Replica("ALBA")), 3)
    (written,) = wire([Item("data[1]", "cube", (tape,), "a", "b", 7.0, True, None, ("why",), ("otherwise",))])
    assert written == {
        "element": "data[1]",
        "name": "cube",
        "files": 3,
        "portions": [
            {
                "files": 3,
                "replicas": [{"storage": "VAULT", "url": "https://x/1?v=2", "tape": True}, {"storage": "ALBA"}],
            }
        ],
        "sized": "a",
        "placed": "b",
        "asof": "1970-01-01T00:00:07Z",
        "estimated": True,
        "unknown": ["why"],
        "notes": ["otherwise"],
    }
    (sized,) = wire([Item("data[0]", portions=(Portion(5.0),))])
    assert sized == {
        "element": "data[0]",
        "bytes": 5.0,
        "files": 1,
        "portions": [{"bytes": 5.0, "files": 1, "replicas": []}],
    }


def test_others_are_shown_no_address_that_is_a_key() -> None:
    signed = Item("data[0]", portions=(Portion(None, (Replica(None, "https://me:secret@x/a@b/1?sig=secret#p"),)),))
    (shown,) = wire([signed], bare=True)
    assert shown["portions"] == [{"files": 1, "replicas": [{"url": "https://x/a@b/1"}]}]


def test_a_broker_below_takes_what_the_one_above_has_found_out() -> None:
    (item,) = items(request(DID))
    told = Located((portion(3e9, "ALBA", files=2), portion(1e9, "BOREALIS")), estimated=True)
    found = fill(item, [("ska", told, 77.0)])
    below = items(request(DID, located=[note.to_wire() for note in notes([found])]))
    assert below == (replace(found, told=True),)
    assert below[0].by_asker
    assert not found.by_asker
    assert STATED.by_asker


def test_what_the_one_above_did_not_find_out_is_open_below() -> None:
    found = fill(items(request(DID))[0], [], ["ska: no answer"])
    (below,) = items(request(DID, located=[note.to_wire() for note in notes([found])]))
    assert (below.bytes, below.placed, below.unknown) == (None, "", ())


@pytest.mark.parametrize(
    "part",
    [
        {"bytes": 1e24, "replicas": [{"storage": "A"}]},
        {"bytes": 1.0, "files": 2**63 - 1, "replicas": [{"storage": "A"}]},
    ],
)
@pytest.mark.parametrize("places", [1, 3])
def test_sizes_that_are_none_together_are_not_known_and_can_be_passed_on(part: dict[str, Any], places: int) -> None:
    parts = [{**part, "replicas": [{"storage": f"A{i % places}"}]} for i in range(3)]
    told = {"element": "data[0]", "sized": "x", "placed": "x", "portions": parts}
    (found,) = items(request(DID, located=[told]))
    assert (found.bytes, found.placed) == (None, "x")
    (note,) = notes([found])
    assert (note.bytes, len(note.portions or ())) == (None, places)


def test_the_end_of_all_time_can_be_passed_on() -> None:
    told = {"element": "data[0]", "sized": "x", "asof": "9999-12-31T23:59:59.9Z", "portions": [{"bytes": 1.0}]}
    found = items(request(DID, located=[told]))
    assert notes(found)[0].to_wire()["asof"] == "9999-12-31T23:59:59Z"


def test_a_copy_that_is_nowhere_is_no_place() -> None:
    told = {"element": "data[0]", "placed": "x", "portions": [{"replicas": [{}]}]}
    (found,) = items(request(DID, located=[told]))
    assert (found.placed, found.urls) == ("", ("rucio:survey/cubes",))


def test_no_byte_is_lost_of_more_portions_than_are_kept() -> None:
    parts = [{"bytes": 1.0, "replicas": [{"storage": f"A{i}"}]} for i in range(2 * MOST_PORTIONS)]
    (found,) = items(request(DID, located=[{"element": "data[0]", "sized": "x", "placed": "x", "portions": parts}]))
    assert (found.bytes, found.files, len(found.portions)) == (2.0 * MOST_PORTIONS, 2 * MOST_PORTIONS, MOST_PORTIONS)
