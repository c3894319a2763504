"""The placement simulator keeps its books, calls the broker's own ranking, and says what its figures say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from broker.domain.quantities import Span
from broker.domain.ranking import Candidate
from broker.domain.site import Link, StorageElement
from tests.benchmarks.placement import __main__ as command
from tests.benchmarks.placement import experiment, generate, report
from tests.benchmarks.placement.experiment import Outcome, Start, outcomes, prepare
from tests.benchmarks.placement.federation import (
    Background,
    DataSet,
    Federation,
    Network,
    Request,
    Site,
    Stream,
    Truth,
    Unreadable,
    check,
    load,
    save,
)
from tests.benchmarks.placement.network import Network as Wires
from tests.benchmarks.placement.rules import RULES, TOLD, Broker
from tests.benchmarks.placement.world import World


def drawn(sites: int, seed: int, warmup: int = 40, judged: int = 80) -> tuple[Federation, Stream]:
    federation = generate.federation(sites, seed)
    return federation, generate.stream(federation, warmup, judged, seed)


def cost(start: Start, rule: str, hour: float = 5.0) -> float:
    world, _ = experiment.run(start, rule, hour)
    return experiment.outcome(world, rule, hour, 0.0).cost


def plain(name: str, **said: object) -> Site:
    """A site at the corner of the map, with a storage of its own."""
    given = {"latitude": 0.0, "longitude": 0.0, "cores": 4, "price": 1.0, "storages": (StorageElement(name=name),)}
    return Site.model_validate({"name": name.lower(), **given, **said})


# ── the world ────────────────────────────────────────────────────────────────────────────────────────────────


def test_sessions_are_served_first_come_first_served() -> None:
    requests = [(0.0, 4, 100.0), (10.0, 2, 50.0), (20.0, 4, 10.0), (30.0, 1, 5.0)]
    stream = Stream(
        name="four", requests=tuple(Request(at=at, cores=cores, duration=run) for at, cores, run in requests)
    )
    world = World(Federation(name="one", sites=(plain("A"),)), stream)
    waits = []
    for number, (at, cores, _) in enumerate(requests):
        world.advance(at)
        waits.append(world.wait(0, cores))
        world.place(number, 0)
    world.finish()
    assert waits == [0.0, 90.0, 130.0, 130.0]  # and nobody passes the third
    assert [world.jobs[number].ended for number in range(4)] == [100.0, 150.0, 160.0, 165.0]
    assert world.jobs[0].billed == pytest.approx(4 * 100 / 3600)


def test_transfers_by_one_door_share_it() -> None:
    sets = tuple(DataSet(name=name, bytes=1000.0, replicas=("A",)) for name in ("one", "two"))
    federation = Federation(
        name="two", sites=(plain("A", outgoing=100.0), plain("B")), data=sets, network=Network(bandwidth=1e9)
    )
    requests = tuple(Request(at=at, cores=1, duration=1.0, data=(name,)) for at, name in ((0.0, "one"), (5.0, "two")))
    world = World(federation, Stream(name="two", requests=requests))
    for number, request in enumerate(requests):
        world.advance(request.at)
        world.place(number, 1)
    world.finish()
    assert [world.jobs[number].staged for number in (0, 1)] == pytest.approx([15.0, 20.0])
    assert world.network.moved == 2000.0


def test_no_core_and_no_byte_is_made_or_lost() -> None:
    federation, stream = drawn(5, 3)
    start = prepare(federation, stream)
    world, _ = experiment.run(start, "random", 0.0)
    assert {job.ended is not None for job in world.jobs.values()} == {True}
    assert world.network.moved == sum(job.moved for job in world.jobs.values()) > 0
    assert all(job.moved == sum(item.bytes for item, _ in job.wanted) for job in world.jobs.values())
    assert not any(world.network.sending.values())
    for site, place in zip(federation.sites, world.places, strict=True):
        assert place.free == site.cores - sum(job.cores for _, _, job in place.ends)
        assert place.free >= 0
        assert sum(place.cache.values()) <= site.cache


def test_no_door_is_ever_over_full(monkeypatch: pytest.MonkeyPatch) -> None:
    federation, stream = drawn(5, 4)
    before, seen = Wires.begin, []

    def begin(self: Wires, *given: object) -> object:
        changed = before(self, *given)  # type: ignore[arg-type] # passed on as it came
        for number, site in enumerate(federation.sites):
            seen.append(sum(t.rate for t in self.sending[number]) / site.outgoing)
            seen.append(sum(t.rate for t in self.receiving[number]) / site.incoming)
        return changed

    monkeypatch.setattr(Wires, "begin", begin)
    prepare(federation, stream)
    assert 0.5 < max(seen) <= 1.0 + 1e-9


def test_a_copy_of_a_world_goes_its_own_way() -> None:
    federation, stream = drawn(5, 5)
    start = prepare(federation, stream)
    before = (start.world.now, start.world.network.moved, [place.free for place in start.world.places])
    experiment.run(start, "distance", 5.0)
    assert before == (start.world.now, start.world.network.moved, [place.free for place in start.world.places])


def test_the_distance_is_that_of_the_great_circle() -> None:
    perth, cambridge = plain("P", latitude=-31.9, longitude=115.9), plain("C", latitude=52.2, longitude=0.1)
    assert Wires(Federation(name="two", sites=(perth, cambridge))).apart(0, 1) == pytest.approx(14_570, rel=0.01)


def test_what_a_site_has_fetched_it_keeps_as_far_as_it_has_room() -> None:
    sets = tuple(DataSet(name=name, bytes=1000.0, replicas=("A",)) for name in ("one", "two"))
    requests = tuple(
        Request(at=100.0 * i, cores=1, duration=1.0, data=(n,)) for i, n in enumerate(("one", "one", "two", "one"))
    )
    federation = Federation(name="two", sites=(plain("A"), plain("B", cache=1500.0)), data=sets)
    world = World(federation, Stream(name="four", requests=requests))
    for number, request in enumerate(requests):
        world.advance(request.at)
        world.place(number, 1)
    world.finish()
    assert [world.jobs[number].moved for number in range(4)] == [1000.0, 0.0, 1000.0, 1000.0]


# ── the rules ────────────────────────────────────────────────────────────────────────────────────────────────


def bare(outcome: Outcome) -> Outcome:
    return outcome._replace(seconds=0.0)


def test_a_seed_decides_everything() -> None:
    one, again, other = (list(map(bare, outcomes(*drawn(5, seed, 20, 30), hours=(5.0,)))) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_nothing_beats_the_oracle_in_the_mean() -> None:
    found = {rule: 0.0 for rule in RULES}
    for seed in (1, 2, 3):
        for outcome in outcomes(*drawn(5, seed), hours=(5.0,)):
            found[outcome.rule] += outcome.cost
    assert min(found, key=lambda rule: found[rule]) == "oracle"


def truthful(federation: Federation) -> Federation:
    """Every site keeps its word, every link carries what it is said to, and all of a data set lies in one place."""
    sites = tuple(
        site.model_copy(update={"truth": Truth(), "performance": None, "incoming": 1e12, "shows_cache": True})
        for site in federation.sites
    )
    links = tuple(link.model_copy(update={"bandwidth_low": None, "latency": 0.0}) for link in federation.links)
    data = tuple(item.model_copy(update={"replicas": item.replicas[:1]}) for item in federation.data)
    network = Network(bandwidth=1e12, reach=1e6)
    return federation.model_copy(update={"sites": sites, "links": links, "data": data, "network": network})


def test_where_everybody_keeps_his_word_ours_is_the_oracle() -> None:
    federation, stream = drawn(5, 2)
    # One data set each, an hour between them: what another transfer takes of a door is nothing that anybody promised.
    requests = tuple(
        request.model_copy(update={"share": 1.0, "at": 40_000.0 + 3600.0 * number, "data": request.data[:1]})
        for number, request in enumerate(stream.requests)
    )
    start = prepare(truthful(federation), stream.model_copy(update={"requests": requests}))
    sites = {
        rule: [job.site for _, job in sorted(experiment.run(start, rule, 5.0)[0].jobs.items())]
        for rule in ("ours", "calibrated", "oracle")
    }
    assert sites["ours"] == sites["calibrated"] == sites["oracle"]
    assert len(set(sites["ours"])) > 1


def test_calibration_finds_who_is_slower_than_the_others() -> None:
    """Two sites that promise the same, but work takes twice as long at one of them, which is a little cheaper."""
    start = prepare(*pair(Truth(performance=0.5)))
    assert cost(start, "calibrated", 50.0) == cost(start, "oracle", 50.0) < 0.6 * cost(start, "ours", 50.0)


def test_calibration_finds_who_bills_more_than_he_quotes() -> None:
    start = prepare(*pair(Truth(price=2.0)))
    assert cost(start, "calibrated", 0.0) == cost(start, "oracle", 0.0) < 0.6 * cost(start, "ours", 0.0)


def pair(truth: Truth) -> tuple[Federation, Stream]:
    """A site that keeps its word, and a cheaper one that keeps it as `truth` says."""
    sites = (plain("A", cores=400, price=0.02), plain("B", cores=400, price=0.0199, truth=truth))
    requests = tuple(Request(at=7200.0 * number, cores=4, duration=3000.0, share=0.5) for number in range(60))
    return Federation(name="two", sites=sites), Stream(name="sixty", warmup=30, requests=requests)


def test_a_ranking_that_forgets_what_bytes_cost_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    start = prepare(*dear())
    sound = cost(start, "ours")
    offer = Broker.offer

    def forgetful(*given: object) -> Candidate:
        found = offer(*given)  # type: ignore[arg-type] # passed on as it came
        return replace(found, locality=replace(found.locality, egress=Span(0.0, 0.0)))

    monkeypatch.setattr(Broker, "offer", forgetful)
    assert cost(start, "ours") > 1.2 * sound


def test_ours_can_be_told_what_it_does_not_know() -> None:
    """Both replicas are within reach, and the site reads the nearer one, which costs: ours believes in the other."""
    home, cloud = plain("HOME", price=0.05, longitude=90.0), plain("CLOUD", price=0.9)
    work = plain("WORK", price=0.04, longitude=1.0)
    links = (Link(source="CLOUD", target="*", bandwidth=2.5e9, price=0.08), Link(source="*", target="*", bandwidth=1e9))
    data = tuple(DataSet(name=f"set-{i}", bytes=1e11, replicas=("CLOUD", "HOME")) for i in range(5))
    requests = tuple(Request(at=7200.0 * i, cores=2, duration=3600.0, data=(f"set-{i}",)) for i in range(5))
    federation = Federation(name="three", sites=(home, cloud, work), links=links, data=data)
    start = prepare(federation, Stream(name="five", requests=requests))
    assert cost(start, "ours+source", 0.0) == cost(start, "oracle", 0.0) == pytest.approx(5 * 2 * 0.05)
    assert cost(start, "ours", 0.0) == pytest.approx(5 * (2 * 0.04 + 8.0))
    for what in TOLD:
        assert cost(start, f"ours+{what}") > 0.0
    with pytest.raises(ValueError, match="there is no rule luck; there are random"):
        cost(start, "luck")


def dear() -> tuple[Federation, Stream]:
    """Data in a cloud that charges for every GB out of it; the site beside it works for a little less."""
    sites = (plain("CLOUD", cores=64, price=0.05), plain("CAMPUS", cores=64, price=0.04))
    data = tuple(DataSet(name=f"set-{i}", bytes=1e11, replicas=("CLOUD",)) for i in range(20))
    links = (Link(source="CLOUD", target="*", bandwidth=2.5e9, price=0.08), Link(source="*", target="*", bandwidth=1e9))
    requests = tuple(Request(at=7200.0 * i, cores=8, duration=3600.0, data=(f"set-{i}",)) for i in range(20))
    return Federation(name="dear", sites=sites, links=links, data=data), Stream(name="twenty", requests=requests)


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_say_what_was_drawn(tmp_path: Path) -> None:
    federation, stream = drawn(5, 1, 3, 3)
    save(federation, tmp_path / "f.json")
    save(stream, tmp_path / "s.json")
    assert load(Federation, tmp_path / "f.json") == federation
    assert load(Stream, tmp_path / "s.json") == stream


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: x\nsites: [{name: a, latitude: 91, longitude: 0, cores: 1, price: 1}]", "sites[0].latitude"),
        ("name: x\nsites: [{name: a, latitude: 0, longitude: 0, cores: 1, price: 1, speed: 2}]", "sites[0].speed"),
        ("name: x\nsites: []", "sites"),
        ("name: x\nsites: [{name: a, latitude: 0, longitude: 0, cores: 1, price: .nan}]", "sites[0].price"),
        ("{", "neither JSON nor YAML"),
        ("12", "the whole"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_place(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "f.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Unreadable) as refused:
        load(Federation, file)
    assert words in str(refused.value)
    assert str(file) in str(refused.value)


def test_contradictions_are_refused_by_name(tmp_path: Path) -> None:
    data = (DataSet(name="d", bytes=1.0, replicas=("NOWHERE",)),) * 2
    tape = plain("T", storages=(StorageElement(name="T", tape=True),))
    save(Federation(name="x", sites=(plain("A"), plain("A"), tape), data=data), tmp_path / "f.json")
    with pytest.raises(Unreadable) as refused:
        load(Federation, tmp_path / "f.json")
    for words in ('sites: "a" is there twice', 'storage "NOWHERE"', 'data: "d" is there twice', "tapes are not"):
        assert words in str(refused.value)


@pytest.mark.parametrize(
    ("request_", "warmup", "words"),
    [
        (Request(at=1, cores=1, duration=1, data=("x",)), 0, 'no data set "x"'),
        (Request(at=1, cores=5, duration=1), 0, "no site has more than 4"),
        (Request(at=0, cores=1, duration=1), 0, "before the one above"),
        (Request(at=1, cores=1, duration=1), 2, "none is judged"),
    ],
)
def test_a_stream_that_cannot_be_served_is_refused(request_: Request, warmup: int, words: str) -> None:
    first = Request(at=1, cores=1, duration=1)
    with pytest.raises(Unreadable, match=words):
        check(Federation(name="one", sites=(plain("A"),)), Stream(name="s", warmup=warmup, requests=(first, request_)))


def test_the_page_on_files_shows_files_and_names_every_field(tmp_path: Path) -> None:
    page = (command.ROOT / "docs/howto/simulate.md").read_text(encoding="utf-8")
    files = []
    for number, text in enumerate(re.findall(r"^```text\n(.*?)^```", page, re.MULTILINE | re.DOTALL)):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(text, encoding="utf-8")
    federation, stream = files
    check(load(Federation, federation), load(Stream, stream))
    for model in (Federation, Site, Truth, Background, Network, DataSet, Request, Stream):
        for name in model.model_fields:
            assert re.search(rf"\b{name}\b", page), f"{model.__name__}.{name}"


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────


def told(**costs: tuple[float, ...]) -> report.Found:
    """Outcomes of one cell that cost so much, seed by seed; rules that are not named cost 10."""
    return report.gather(
        Outcome(5, seed, 5.0, rule, 100, value, value, 0.0, 10.0, 1e12, 0.0)
        for rule in RULES
        for seed, value in enumerate(costs.get(rule, (10.0, 10.0, 10.0)))
    )


def test_where_ours_costs_more_the_words_say_so() -> None:
    said = "\n".join(report.words(told(distance=(8.0, 8.1, 7.9), random=(20.0, 21.0, 19.0), fastest=(5.0, 20.0, 9.0))))
    assert (
        "great-circle distance*: ours, calibrated, costs less in 0 of 1 cases. **Ours costs more** at 5 sites" in said
    )
    assert "random site*: ours, calibrated, costs less in 1 of 1 cases." in said
    assert "fastest queue*: ours, calibrated, costs less in 0 of 1 cases. No difference is shown" in said
    assert "pay in 0 of 1 cases; they harm in none" in said
    assert "**they harm** at 5 sites" in "\n".join(report.words(told(ours=(9.0, 9.1, 8.9))))


def test_an_interval_is_students() -> None:
    found = report.Ratio.of((2.0, 4.0, 8.0), (1.0, 1.0, 1.0))
    assert found.value == pytest.approx(4.0)
    assert (found.low, found.high) == pytest.approx((4.0 / 5.597, 4.0 * 5.597), rel=1e-3)  # 4.303 × ln 2 / √3
    assert report.Ratio.of((2.0,), (1.0,)).text == "2.00 (?)"


def test_a_page_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="the page has no"):
        report.insert("text", "# A page")


def test_the_command_writes_the_page_and_the_picture(tmp_path: Path) -> None:
    page = tmp_path / "locality.md"
    page.write_text(f"# Own words\n\n{report.BEGIN}\nold\n{report.END}\nmore\n", encoding="utf-8")
    given = f"--sizes 3:2 --requests 5:10 --hours 5 --workers 1 --out {tmp_path}"
    assert command.main(given.split()) == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# Own words\n")
    assert text.endswith("more\n")
    assert "\nold\n" not in text
    assert "20 requests judged" in text
    assert "<svg" in (tmp_path / "placement" / "cost.svg").read_text(encoding="utf-8")


def test_the_command_takes_files_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    federation, stream = drawn(3, 1, 5, 10)
    save(federation, tmp_path / "f.json")
    save(stream, tmp_path / "s.json")
    given = ["--federation", str(tmp_path / "f.json"), "--stream", str(tmp_path / "s.json"), "--seeds", "2"]
    assert command.main([*given, "--hours", "5", "--workers", "1"]) == 0
    assert "| 3     | 5 " in capsys.readouterr().out
    (tmp_path / "s.json").write_text("[]", encoding="utf-8")
    assert command.main(given) == 2
    assert "s.json: the whole" in capsys.readouterr().err
