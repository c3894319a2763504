"""Where bytes are and what moving them takes: what a request states, longest prefixes, links, best replicas."""

from collections.abc import Collection, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain import kinds
from broker.domain.experience import PRIOR, Experience, Measured
from broker.domain.locality import RECALL, Guess, Locality, Place, Terrain, locate, note, outside, wire
from broker.domain.locality import measure as measure_by
from broker.domain.located import REQUEST, Item, Portion, Replica, items
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.site import Link, StorageElement
from broker.domain.storages import Map, _shorter

EXCHANGE = Exchange("EUR", {"USD": 0.5})


def asked(*data: dict[str, Any]) -> tuple[Item, ...]:
    return items(ExecutionRequest.model_validate({"executable": {"kind": "uri:python-program-1.0"}, "data": data}))


def item(size: float | None, *storages: str, path: str = "data[0]") -> Item:
    return Item(path, portions=(Portion(size, tuple(Replica(name) for name in storages)),))


def replicas(found: Item) -> tuple[Replica, ...]:
    (portion,) = found.portions
    return portion.replicas


def one(size: float | None, *replicas: Replica) -> Item:
    return Item("data[0]", portions=(Portion(size, replicas),))


def measure(wanted: Sequence[Item], at: Collection[str], map_: Map, held: Collection[str] = ()) -> Locality:
    return measure_by(wanted, Place("here", tuple(at), frozenset(held)), Terrain(map_))


def link(source: str, target: str, bandwidth: float = 100e6, **rest: Any) -> Link:
    return Link(source=source, target=target, bandwidth=bandwidth, **rest)


def a_map(*links: Link, **prefixes: list[str]) -> Map:
    return Map([StorageElement(name=name, prefixes=tuple(urls)) for name, urls in prefixes.items()], links, EXCHANGE)


# ── what the request says ────────────────────────────────────────────────────────────────────────────────────


def test_a_plain_location_has_a_place_and_no_size() -> None:
    (found,) = asked({"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube"}, "location": "https://x/cube.fits"})
    assert (found.path, found.name, found.bytes, found.sized, found.placed) == ("data[0]", "cube", None, "", REQUEST)
    assert replicas(found) == (Replica(None, "https://x/cube.fits"),)


def test_data_within_the_request_has_nothing_left_to_move() -> None:
    (found,) = asked({"kind": kinds.SIMPLE_DATA, "location": "data:text/plain,hello"})
    assert (found.bytes, found.urls) == (0.0, ())
    assert measure([found], ["a"], a_map()) == Locality()


def test_an_skao_object_states_size_and_replicas() -> None:
    (found,) = asked({
        "kind": kinds.SKAO_DATA,
        "ivoa": {"datalink": {"content_length": 7, "access_url": "https://x/links"}},
        "skao": {"datasize": 84_200_000_000,
                 "replicas": [{"rsename": "ALBA", "dataurl": "davs://alba/x"}, {"dataurl": "https://y/x"}, {}]},
    })  # fmt: skip
    assert found.bytes == 84.2e9
    assert replicas(found) == (
        Replica("ALBA", "davs://alba/x"),
        Replica(None, "https://y/x"),
    )


def test_a_size_of_nothing_is_a_size() -> None:
    (found,) = asked({"kind": kinds.SKAO_DATA, "skao": {"datasize": 0}, "ivoa": {"datalink": {"content_length": 7}}})
    assert found.bytes == 0


def test_datalink_states_a_length_beyond_32_bits() -> None:
    block = {
        "datalink": {"content_length": 2**40, "access_url": "https://x/a"},
        "obscore": {"access_url": "https://x/b"},
    }
    (found,) = asked({"kind": kinds.IVOA_DATA, "ivoa": block})
    assert found.bytes == 2**40
    assert list(found.urls) == ["https://x/a"]  # ObsCore's may lead to links


@pytest.mark.parametrize(
    ("block", "url"),
    [
        ({"endpoint": "https://s3.x/", "bucket": "b", "object": "a/o"}, "https://s3.x/b/a/o"),
        ({"endpoint": "https://s3.x", "bucket": "b"}, "https://s3.x/b"),
        ({"bucket": "b", "object": "o"}, "s3://b/o"),
    ],
)
def test_s3_objects_are_named_by_url(block: dict[str, str], url: str) -> None:
    assert replicas(asked({"kind": kinds.S3_DATA, **block})[0]) == (Replica(None, url),)


def test_rucio_names_are_urls_that_a_storage_can_declare() -> None:
    (found,) = asked({"kind": kinds.RUCIO_DATA, "rucio": {"scope": "survey", "object": "cube"}})
    assert replicas(found) == (Replica(None, "rucio:survey/cube"),)
    assert a_map(alba=["rucio:survey"]).storage_of("rucio:survey/cube") == "alba"


@pytest.mark.parametrize(
    "data",
    [
        {"kind": "uri:unheard-of", "location": "https://x"},
        {"kind": kinds.SIMPLE_DATA},
        {"kind": kinds.S3_DATA, "object": "o"},
        {"kind": kinds.RUCIO_DATA},
        {"kind": kinds.IVOA_DATA},
        {"kind": kinds.SKAO_DATA},
    ],
)
def test_what_is_not_stated_is_not_known(data: dict[str, Any]) -> None:
    assert asked(data) == (Item("data[0]"),)


# ── storages and links ───────────────────────────────────────────────────────────────────────────────────────


MAP = a_map(
    alba=["https://alba.example/data", "root://alba.example:1094//store"],
    deep=["https://alba.example/data/deep/"],
    whole=["s3://bucket"],
    disk=["file:///mnt/disk"],
)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://alba.example/data", "alba"),
        ("https://alba.example/data/", "alba"),
        ("https://alba.example/data/x.fits", "alba"),
        ("HTTPS://ALBA.example:443/data//x.fits?token=1#top", "alba"),
        ("https://user@alba.example/data/x", "alba"),
        ("https://alba.example/database/x", None),
        ("https://alba.example/", None),
        ("https://alba.example/data/../private/x", None),
        ("https://alba.example/public/../data/x", "alba"),
        ("https://alba.example:8443/data/x", None),
        ("http://alba.example/data/x", None),
        ("https://alba.example.evil/data/x", None),
        ("https://alba.example/data/deep", "deep"),
        ("https://alba.example/data/deep/er/x", "deep"),
        ("https://alba.example/data/deeper", "alba"),
        ("root://alba.example//store/x", "alba"),
        ("s3://bucket/any/thing", "whole"),
        ("s3://bucket2/any", None),
        ("file:///mnt/disk/x", "disk"),
        ("https://[broken/x", None),
        ("https://alba.example:port/data", None),
        ("", None),
        (None, None),
    ],
)
def test_the_longest_prefix_wins_at_a_boundary(url: str | None, name: str | None) -> None:
    assert MAP.storage_of(url) == name


def test_two_storages_of_one_prefix_are_told_apart_by_name_not_by_order() -> None:
    one, two = StorageElement(name="a", prefixes=("https://x/",)), StorageElement(name="b", prefixes=("https://x",))
    assert {Map(pair, [], EXCHANGE).storage_of("https://x/1") for pair in ([one, two], [two, one])} == {"a"}


def test_the_most_specific_link_wins() -> None:
    everyone, from_a, to_b, exact = link("*", "*", 1), link("a", "*", 2), link("*", "b", 3), link("a", "b", 4)
    map_ = a_map(everyone, from_a, to_b, exact)
    assert map_.link("a", "b") == exact
    assert map_.link("a", "c") == from_a
    assert map_.link("c", "b") == to_b
    assert map_.link("c", "d") == everyone
    assert a_map(to_b, from_a).link("a", "b") == from_a
    assert a_map(exact).link(None, "b") is None
    assert a_map(to_b).link(None, "b") == to_b


# ── what must move ───────────────────────────────────────────────────────────────────────────────────────────


def test_no_data_is_nothing_to_move() -> None:
    found = measure([], ["a"], a_map())
    assert found == Locality(Span.of(0), (), Span.of(0), Span.of(0), "stated")
    assert not found.here


def test_data_at_the_site_moves_nothing_and_is_said_to_be_here() -> None:
    found = measure([item(5e9, "b", "a"), item(None, "a")], ["a", "c"], a_map())
    assert found == Locality(Span.of(0), ("a",), Span.of(0), Span.of(0), "stated", near=5e9)
    assert found.here


def test_bytes_time_and_price_of_one_file() -> None:
    map_ = a_map(link("a", "b", 100e6, bandwidth_low=50e6, latency=2, price=0.02, currency="USD"))
    found = measure([item(10e9, "a")], ["b"], map_)
    assert found == Locality(Span.of(10e9), ("a",), Span(102, 202), Span.of(pytest.approx(0.1)), "estimated")
    assert not found.here


def test_files_share_a_link_and_wait_for_it_in_turn() -> None:
    map_ = a_map(link("a", "b", 100e6, latency=3))
    found = measure([item(10e9, "a"), item(20e9, "a")], ["b"], map_)
    assert found.staging == Span.of(306)


def test_different_links_work_side_by_side() -> None:
    map_ = a_map(link("a", "c", 100e6, price=0.1), link("b", "c", 100e6, price=0.2))
    found = measure([item(10e9, "a"), item(20e9, "b")], ["c"], map_)
    assert (found.bytes, found.sources, found.staging) == (Span.of(30e9), ("a", "b"), Span.of(200))
    assert found.egress == Span.of(pytest.approx(5.0))


def test_one_wildcard_link_is_one_link_for_all_that_it_serves() -> None:
    found = measure([item(10e9, "a"), item(20e9, "b")], ["c"], a_map(link("*", "*", 100e6)))
    assert found.staging == Span.of(300)


@pytest.mark.parametrize(
    ("links", "source"),
    [
        ([link("a", "s", 1e6), link("b", "s", 2e6, price=0.1)], "b"),  # 500 s sooner, worth 0.28
        ([link("a", "s", 1e6), link("b", "s", 2e6, price=0.5)], "a"),
        ([link("a", "s", 1e6, price=2), link("b", "s", 1e6, price=1)], "b"),
        ([link("a", "s", 1e6, price=1, currency="XXX"), link("b", "s", 1e6, price=5)], "b"),
        ([link("a", "s", 1e6), link("b", "s", 1e6)], "a"),
        ([link("b", "s", 1.0)], "b"),  # a known way before an unknown one
    ],
)
def test_the_best_replica_is_taken(links: list[Link], source: str) -> None:
    for order in (["a", "b"], ["b", "a"]):
        for ways in (links, links[::-1]):
            assert measure([item(1e9, *order)], ["s"], a_map(*ways)).sources == (source,)


def test_of_a_sites_storages_the_quickest_to_reach_is_used() -> None:
    map_ = a_map(link("a", "slow", 1e6), link("a", "fast", 1e9))
    assert measure([item(1e9, "a")], ["slow", "fast"], map_).staging == Span.of(1)


def test_a_missing_size_makes_the_whole_unknown() -> None:
    found = measure([item(5e9, "b"), item(None, "c")], ["a"], a_map(link("*", "*", 100e6, price=0.1)))
    guess = Guess(Span(6e9, 24e9), Span(60, 240), Span(pytest.approx(0.6), pytest.approx(2.4)))
    assert found == Locality(None, ("b", "c"), None, None, "unknown", least=5e9, guess=guess)


def test_what_stands_in_is_for_all_sizes_that_are_not_known_together() -> None:
    map_ = a_map(link("*", "*", 100e6))
    both = measure([item(None, "b"), item(None, "c")], ["a"], map_)
    one_here = measure([item(None, "b"), item(None, "a")], ["a"], map_)
    assert both.guess is not None
    assert both.guess.bytes == Span(1e9, 19e9)
    assert one_here.guess is not None
    assert one_here.guess.bytes == Span(0.5e9, 9.5e9)


def test_a_size_that_is_not_known_is_no_reason_to_fetch_what_lies_on_a_tape_here() -> None:
    map_ = Map([StorageElement(name="T", recall=(60, 60))], [link("*", "*", 1e6, price=0.1)], EXCHANGE)
    found = measure([item(None, "T", "far")], ["T"], map_)
    assert (found.bytes, found.sources, found.recall) == (Span.of(0), ("T",), Span.of(60))


def test_a_tape_is_waited_for_unless_another_copy_is_sooner_and_cheaper() -> None:
    map_ = Map([StorageElement(name="T", recall=(3600, 7200))], [link("b", "s", 100e6, price=0.1)], EXCHANGE)
    near, far = item(1e9, "T", "b"), item(100e9, "T", "b")
    assert measure([near], ["s", "T"], map_).sources == ("b",)  # 10 s and 0.10 against an hour and a half
    assert measure([far], ["s", "T"], map_) == Locality(
        Span.of(0), ("T",), Span(3600, 7200), Span.of(0), "estimated", recall=Span(3600, 7200), near=100e9
    )
    moved = Map([StorageElement(name="T", recall=(3600, 7200))], [link("T", "s", 100e6)], EXCHANGE)
    tape = measure([item(1e9, "T")], ["s"], moved)
    assert (tape.staging, tape.recall) == (Span(3610, 7210), Span(3600, 7200))


def test_a_catalogue_may_know_a_tape_that_nobody_declared() -> None:
    found = measure([one(1e9, Replica("T", None, True))], ["s"], a_map(link("*", "*", 100e6)))
    assert found.recall == RECALL


def test_several_files_at_a_time_wait_together() -> None:
    wanted = Item("data[0]", portions=(Portion(10e9, (Replica("a"),), 10),))
    assert measure([wanted], ["b"], a_map(link("a", "b", 100e6, latency=3, concurrency=4))).staging == Span.of(109)


def test_each_portion_of_a_data_set_comes_from_where_it_lies() -> None:
    parts = (Portion(10e9, (Replica("s"),), 5), Portion(5e9, (Replica("a"),), 5), Portion(1e9, (Replica("b"),)))
    found = measure([Item("data[0]", portions=parts)], ["s"], a_map(link("*", "*", 100e6)))
    assert (found.bytes, found.sources, found.staging) == (Span.of(6e9), ("a", "b"), Span.of(60))


def test_copies_share_out_over_the_ways_that_there_are() -> None:
    """Alone each would come by the quick way; together the second is sooner by the other."""
    map_ = a_map(link("a", "s", 120e6), link("b", "s", 100e6))
    found = measure([item(6e9, "a", "b"), item(5e9, "a", "b")], ["s"], map_)
    assert (found.sources, found.staging) == (("a", "b"), Span.of(50))


def test_what_the_site_has_by_its_own_word_does_not_move() -> None:
    map_ = a_map(link("*", "*", 100e6))
    found = measure([item(5e9, "b"), item(3e9, "b", path="data[1]")], ["a"], map_, held={"data[0]"})
    assert (found.bytes, found.cached, found.held) == (Span.of(3e9), 5e9, ("data[0]",))
    assert measure([item(None, "b")], ["a"], map_, held={"data[0]"}).here


def test_what_lies_on_a_sites_own_disk_is_there_whatever_it_says_of_a_cache() -> None:
    found = measure([item(5e9, "a")], ["a"], a_map(), held={"data[0]"})
    assert (found.near, found.cached, found.held, found.sources) == (5e9, 0.0, (), ("a",))


def test_what_was_measured_corrects_what_is_configured() -> None:
    map_ = a_map(link("a", "s", 100e6, latency=1))
    seen = Measured(Span(25e6, 25e6), samples=4, asof=0.0, weight=PRIOR)
    terrain = Terrain(map_, Experience({("a", "here"): seen}))
    found = measure_by([item(1e9, "a")], Place("here", ("s",)), terrain)
    assert (found.samples, found.certainty) == (4, "measured")
    assert found.staging == Span(pytest.approx(21), pytest.approx(21))
    elsewhere = measure_by([item(1e9, "a")], Place("there", ("s",)), terrain)
    assert (elsewhere.staging, elsewhere.samples) == (Span.of(11), 0)


def test_a_way_that_was_measured_and_never_configured_has_a_time_and_no_price() -> None:
    terrain = Terrain(a_map(), Experience({("a", "here"): Measured(Span(50e6, 100e6), 9, 0.0, 9.0)}))
    found = measure_by([item(1e9, "a")], Place("here"), terrain)
    assert (found.staging, found.egress, found.certainty) == (Span(10, 20), None, "unknown")


def test_more_here_than_has_to_move_is_most_of_it() -> None:
    map_ = a_map(link("*", "*", 100e6))
    assert measure([item(3e9, "a"), item(2e9, "b")], ["a"], map_).mostly
    assert not measure([item(2e9, "a"), item(3e9, "b")], ["a"], map_).mostly
    assert not measure([item(2e9, "a"), item(None, "b")], ["a"], map_).mostly  # what stands in may be more


def test_what_lies_where_no_storage_is_declared_is_noted() -> None:
    (noted,) = outside(asked({"kind": kinds.SIMPLE_DATA, "location": "https://else.where/x"}), a_map())
    assert noted.notes == ("https://else.where/x is on no storage that is declared here",)
    signed = asked({"kind": kinds.SIMPLE_DATA, "location": "https://me:secret@else.where/x?sig=secret#secret"})
    assert outside(signed, a_map())[0].notes == noted.notes
    inside = asked({"kind": kinds.SIMPLE_DATA, "location": "https://alba.example/data/x"})
    (told,) = outside(inside, MAP)
    assert (told.notes, replicas(told)) == ((), (Replica("alba", "https://alba.example/data/x"),))


def test_a_missing_link_is_unknown_not_free() -> None:
    found = measure([item(5e9, "b"), item(1e9, "c")], ["a"], a_map(link("b", "a")))
    assert found == Locality(Span.of(6e9), ("b", "c"), None, None, "unknown")


def test_a_price_in_unknown_money_is_unknown() -> None:
    found = measure([item(1e9, "b")], ["a"], a_map(link("b", "a", 100e6, price=1, currency="XXX")))
    assert (found.staging, found.egress, found.certainty) == (Span.of(10), None, "unknown")


def test_a_place_that_no_storage_declares_and_a_site_without_storages_are_reached_by_wildcards_alone() -> None:
    nowhere = one(1e9, Replica(None, "https://else.where/x"))
    assert measure([nowhere], ["a"], a_map(link("*", "a", 1e9))).staging == Span.of(1)
    assert measure([nowhere], ["a"], a_map(link("b", "a", 1e9))).staging is None
    assert measure([item(1e9, "b")], [], a_map(link("b", "*", 1e9))).staging == Span.of(1)
    assert measure([item(1e9, "b")], [], a_map(link("b", "a", 1e9))).staging is None
    assert measure([one(1e9)], [], a_map(link("*", "*", 1e9))).staging == Span.of(1)


def test_a_named_storage_goes_before_a_place_nobody_declares() -> None:
    both = one(1e9, Replica(None, "https://else.where/x"), Replica("b"))
    assert measure([both], ["a"], a_map(link("*", "a", 1e9), link("b", "a", 1e6))).staging == Span.of(1000)


def test_a_replica_is_at_the_site_by_name_or_by_url() -> None:
    map_ = a_map(alba=["https://alba.example"])
    by_url = one(1e9, Replica("ALBA_RSE", "https://alba.example/x"))
    assert measure([by_url], ["alba"], map_).here
    assert measure([by_url], ["ALBA_RSE"], map_).here


def test_an_absurd_link_leads_to_no_infinity() -> None:
    found = measure([item(1e18, "a")], ["b"], a_map(link("a", "b", 5e-324, price=1e308)))
    assert note(found, "EUR").to_wire()["staging"]["expected"] == 1e15


sizes = st.none() | st.sampled_from([0.0, 1e9, 3.3e9])
wanted = st.lists(st.builds(lambda size, at: item(size, *at), sizes, st.sets(st.sampled_from("abcd"))), max_size=5)
links = st.lists(
    st.builds(
        lambda source, target, speed, price: link(source, target, speed, latency=1, price=price),
        st.sampled_from("abcd*"), st.sampled_from("abcd*"), st.sampled_from([1e6, 1e9]), st.sampled_from([0.0, 0.1]),
    ),
    max_size=6, unique_by=lambda way: (way.source, way.target),
)  # fmt: skip


@given(wanted, links, st.sets(st.sampled_from("abcd")), st.randoms(use_true_random=False))
def test_no_order_of_items_links_or_storages_changes_anything(
    data: list[Item], ways: list[Link], at: set[str], random: Any
) -> None:
    found = measure(data, sorted(at), a_map(*ways))
    shuffled, other_ways, other_at = list(data), list(ways), list(at)
    for listed in (shuffled, other_ways, other_at):
        random.shuffle(listed)
    assert measure(shuffled, other_at, a_map(*other_ways)) == found
    assert measure(locate(shuffled, a_map()), other_at, a_map(*other_ways)) == found


@given(wanted, links, st.sets(st.sampled_from("abcd")))
def test_bytes_are_counted_once_and_only_where_they_are_not(data: list[Item], ways: list[Link], at: set[str]) -> None:
    found = measure(data, sorted(at), a_map(*ways))
    away = [one.bytes for one in data if not {r.storage for r in replicas(one)} & at and one.bytes != 0]
    if None in away:
        assert (found.bytes, found.certainty) == (None, "unknown")
    else:
        assert found.bytes == Span.of(pytest.approx(sum(size for size in away if size)))
        assert (found.certainty == "stated") == (not away)


# ── on the wire ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "found",
    [
        Locality(),
        Locality(None, ("a",), None, None, "unknown", least=3.0),
        Locality(Span(1, 2), ("a", "b"), recall=Span(1, 3), cached=4.0, held=("data[0]",), samples=3),
    ],
)
def test_the_short_way_to_the_wire_ends_at_the_same_place(found: Locality) -> None:
    assert note(found, "EUR").to_wire() == wire(found, "EUR")


def test_an_address_of_a_megabyte_is_looked_up_no_deeper_than_storages_are_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    map_ = a_map(A=["https://a/b/c"])
    steps = 0

    def counted(url: str) -> str:
        nonlocal steps
        steps += 1
        return _shorter(url)

    monkeypatch.setattr("broker.domain.storages._shorter", counted)
    assert map_.storage_of("https://a/b/c/" + "d/" * 100_000) == "A"
    assert map_.storage_of("https://a/x/" + "d/" * 100_000) is None
    assert steps < 10


def test_of_a_great_many_portions_no_byte_is_lost_and_the_time_is_about_the_same() -> None:
    """Thousands of portions are measured in bundles: the ways are shared out a little less evenly, and that is all."""
    links = [link(f"S{i}", "*", 1e8, price=0.01) for i in range(6)]
    map_ = a_map(*links, **{f"S{i}": [f"https://s{i}"] for i in range(6)})
    many = tuple(
        Item(
            f"data[{i}]",
            portions=tuple(
                Portion(1e9 + 1e6 * ((37 * i + j) % 100), (Replica(f"S{j % 6}"), Replica(f"S{(j + 1 + i % 3) % 6}")))
                for j in range(30)
            ),
        )
        for i in range(100)
    )
    size = sum(wanted.bytes or 0.0 for wanted in many)
    found = measure(many, (), map_)
    assert found.bytes is not None
    assert found.staging is not None
    assert found.egress is not None
    assert found.bytes.expected == pytest.approx(size)
    assert found.egress.expected == pytest.approx(size / 1e9 * 0.01)
    assert found.staging.expected == pytest.approx(size / 6 / 1e8, rel=0.05)
    near = measure(many, ("S0",), map_)
    assert near.bytes is not None
    assert near.near + near.bytes.expected == pytest.approx(size)
    assert measure(locate(many, map_), ("S0",), map_) == near


sized = st.none() | st.sampled_from([0.0, 1e6, 3e9, 4e9])
some = st.lists(
    st.lists(st.tuples(sized, st.sets(st.sampled_from("ABC"), max_size=2)), min_size=1, max_size=4), max_size=5
)


@given(some, st.sets(st.sampled_from("ABC")), st.sets(st.integers(0, 4)), st.randoms(use_true_random=False))
def test_neither_the_order_of_data_nor_what_was_measured_before_changes_the_figures(
    data: Any, at: set[str], having: set[int], random: Any
) -> None:
    map_ = a_map(link("A", "*", 1e8, price=0.02), link("B", "*", 5e7, price=0.01), A=["https://a"], B=["https://b"])
    wanted = [
        Item(f"data[{i}]", portions=tuple(Portion(size, tuple(map(Replica, sorted(names)))) for size, names in parts))
        for i, parts in enumerate(data)
    ]
    held = {f"data[{i}]" for i in having if i < len(wanted)}
    found = measure(wanted, at, map_, held)
    located = locate(random.sample(wanted, len(wanted)), map_)
    for other in (set(), held, held):
        again = measure(located, at, map_, other)
    assert again == found
    if held < {one.path for one in wanted}:
        assert measure(located, at, map_) == measure(wanted, at, map_)
