"""A question about data that catalogues know: who is told what was found, and what it does to the order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
import pytest

from broker.domain import kinds, ranking, setbody
from broker.domain.data import AbstractDataResource, RucioDataResource
from broker.domain.deadline import Deadline
from broker.domain.experience import Experience, Measured
from broker.domain.identity import Hop
from broker.domain.located import Item, Located, Portion, Replica
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.setbody import SetBody
from broker.domain.site import Link, Registration, StorageElement
from broker.domain.storages import Map
from broker.errors import SiteRefused
from broker.ports import Ask, Quotes, Store
from broker.services.gathering import joining
from broker.services.learning import Learning
from broker.services.locating import Known
from broker.services.offers import SetState
from broker.testing.bench import ADA, Bench
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails

ALBA, BOREALIS = StorageElement(name="ALBA"), StorageElement(name="BOREALIS")
MAP = Map([ALBA, BOREALIS], [Link(source="*", target="*", bandwidth=1e7, price=0.05)], Exchange("EUR", {}))
SITES = {
    "alba": Registration(name="alba", url="http://x/", storages=(ALBA,)),
    "borealis": Registration(name="borealis", url="http://x/", storages=(BOREALIS,)),
}
DATA = [{"kind": kinds.RUCIO_DATA, "rucio": {"scope": "survey", "object": "cube"}}]


class Rucio:
    """Knows where the cube is, as soon as it is let."""

    def __init__(self, at: str, *, let: bool = True) -> None:
        self.at, self.go = at, asyncio.Event()
        if let:
            self.go.set()

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        return "survey:cube" if isinstance(resource, RucioDataResource) else None

    async def locate(self, name: str, deadline: Deadline) -> Located:
        await self.go.wait()
        return Located((Portion(36e9, (Replica(self.at),)),))

    async def close(self) -> None: ...


async def opened(store: Store, clock: FakeClock, rucio: Rucio, *sites: ScriptedSite) -> Bench:
    catalogues = [Known("ska", rucio, 1, places=True, sizes=True)]
    planners = {site.name: site for site in sites}
    return await Bench(store, clock, planners, registrations=SITES, catalogues=catalogues, map_=MAP).start()


async def _written(bench: Bench, state: SetState, change: Callable[[SetBody], SetBody]) -> None:
    assert state.body is not None
    body = setbody.encode(change(state.body))
    await bench.records.change(state.uuid, lambda record: msgspec.structs.replace(record, name="x"), body=body)


def order(state: SetState) -> list[str]:
    sites = {str(item.uuid): item.site for item in state.record.sessions}
    return [sites[ranked.session] for ranked in state.ranking if ranking.good(ranked)]


async def test_the_site_that_has_the_bytes_leads_wherever_they_are(store: Store, clock: FakeClock) -> None:
    for at in ("ALBA", "BOREALIS"):
        sites = ScriptedSite("alba", clock), ScriptedSite("borealis", clock)
        bench = await opened(store, clock, Rucio(at), *sites)
        state = await bench.ask(data=DATA)
        assert order(state)[0] == at.lower()
        assert state.body is not None
        (found,) = state.body.located
        assert (found.bytes, found.placed) == (36e9, "ska")
        await bench.offers.close()


class Listening(ScriptedSite):
    """Remembers the questions, and answers when it is let."""

    def __init__(self, name: str, clock: FakeClock) -> None:
        super().__init__(name, clock)
        self.asks: list[Ask] = []
        self.heard, self.go = asyncio.Event(), asyncio.Event()

    async def quote(self, ask: Ask) -> Quotes:
        self.asks.append(ask)
        self.heard.set()
        await self.go.wait()
        return await super().quote(ask)


async def test_brokers_below_are_told_and_what_is_kept_is_the_users_own_request(store: Store, clock: FakeClock) -> None:
    site = Listening("alba", clock)
    site.go.set()
    bench = await opened(store, clock, Rucio("ALBA"), site)
    state = await bench.ask(data=DATA)
    told = ExecutionRequest.model_validate(msgspec.json.decode(site.asks[0].extended))
    assert told.located is not None
    assert (told.located[0].element, told.located[0].bytes, told.located[0].placed) == ("data[0]", 36e9, "ska")
    assert b"located" not in site.asks[0].plain
    assert state.body is not None
    assert b"located" not in state.body.request
    assert await bench.offers.request(state.uuid, ADA) == state.body.request


async def test_brokers_below_are_not_told_more_than_they_would_read(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.services.offers.MOST_TOLD", 100)
    site = Listening("alba", clock)
    site.go.set()
    bench = await opened(store, clock, Rucio("ALBA"), site)
    state = await bench.ask(data=DATA)
    assert b"located" not in site.asks[0].extended
    assert state.body is not None
    assert state.body.located[0].placed == "ska"
    assert state.body.kept[0].locality.here


async def test_a_set_of_an_older_version_is_read_and_ranked(store: Store, clock: FakeClock) -> None:
    bench = await opened(store, clock, Rucio("BOREALIS"), ScriptedSite("alba", clock))
    state = await bench.ask(data=DATA)
    assert state.body is not None
    written = msgspec.msgpack.decode(setbody.encode(state.body))
    del written["located"]
    for kept in written["kept"]:
        told = kept["candidate"]["locality"]
        kept["candidate"]["locality"] = {
            name: told[name] for name in ("bytes", "sources", "staging", "egress", "certainty") if name in told
        }
    old = setbody.decode(msgspec.msgpack.encode(written))
    assert old.located == ()
    assert [ranked.session for ranked in old.ranking()] == [ranked.session for ranked in state.ranking]
    assert old.kept[0].locality.bytes == state.body.kept[0].locality.bytes


async def test_what_a_catalogue_says_while_sites_answer_counts_for_all_of_them(store: Store, clock: FakeClock) -> None:
    """The first offer is read before anybody knows where the data is, the second after: both are measured alike."""
    rucio = Rucio("BOREALIS", let=False)
    alba, borealis = Listening("alba", clock), Listening("borealis", clock)
    bench = await opened(store, clock, rucio, alba, borealis)
    asking = asyncio.create_task(bench.ask(data=DATA))
    await alba.heard.wait()
    alba.go.set()
    await borealis.heard.wait()
    rucio.go.set()
    borealis.go.set()
    state = await asking
    assert state.body is not None
    here = {kept.candidate.site: kept.locality.here for kept in state.body.kept}
    assert here == {"alba": False, "borealis": True}
    assert order(state)[0] == "borealis"


async def test_nobody_is_kept_from_asking_by_a_catalogue_that_hangs(store: Store, clock: FakeClock) -> None:
    site = ScriptedSite("alba", clock)
    bench = await opened(store, clock, Rucio("ALBA", let=False), site)
    state = await bench.ask(data=DATA)
    assert state.body is not None
    (kept,), (found,) = state.body.kept, state.body.located
    assert (kept.locality.bytes, kept.locality.certainty) == (None, "unknown")
    assert found.unknown == ("ska has not answered yet",)
    assert state.ranking[0].score is not None
    assert state.ranking[0].score.bytes.stand_in


async def test_an_offer_asked_anew_of_a_set_of_an_older_version_is_not_taken_to_move_nothing(
    store: Store, clock: FakeClock
) -> None:
    """Such a set does not say what was known of the data."""
    alba = ScriptedSite("alba", clock)
    bench = await opened(store, clock, Rucio("BOREALIS"), alba)
    state = await bench.ask(data=DATA, preferences={"requote": 0.5})
    (first,) = [item.uuid for item in state.record.sessions]
    await _written(bench, state, lambda body: msgspec.structs.replace(body, located=()))
    alba.steps["accept"] = [fails(SiteRefused("sold out", status=400))]
    alba.prices = (100.0,)
    await bench.accept(first)
    body = (await bench.offers.get(state.uuid, ADA)).body
    assert body is not None
    fresh = body.kept[-1]
    assert fresh.session != first
    assert fresh.locality.certainty == "unknown"
    await bench.offers.close()


async def test_an_offer_asked_anew_is_measured_by_the_transfers_too(
    store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No link is configured here: what is known of the way was measured."""
    seen = Experience({("BOREALIS", "alba"): Measured(Span.of(1e8), 9, clock.now(), 9.0)})
    monkeypatch.setattr(Learning, "experience", seen)
    alba = ScriptedSite("alba", clock)
    catalogues = [Known("ska", Rucio("BOREALIS"), 1, places=True, sizes=True)]
    bare = Map([ALBA, BOREALIS], [], Exchange("EUR", {}))
    bench = await Bench(store, clock, {"alba": alba}, registrations=SITES, catalogues=catalogues, map_=bare).start()
    state = await bench.ask(data=DATA, preferences={"requote": 0.5})
    alba.steps["accept"] = [fails(SiteRefused("sold out", status=400))]
    await bench.accept(state.record.sessions[0].uuid)
    body = (await bench.offers.get(state.uuid, ADA)).body
    assert body is not None
    first, fresh = (item.locality for item in body.kept)
    assert first.staging == Span.of(360.0)
    assert fresh == first


async def test_asking_anew_keeps_what_has_become_known_of_the_data_meanwhile(store: Store, clock: FakeClock) -> None:
    alba = Listening("alba", clock)
    alba.go.set()
    bench = await opened(store, clock, Rucio("BOREALIS"), alba)
    state = await bench.ask(data=DATA, preferences={"requote": 0.5})
    (first,) = [item.uuid for item in state.record.sessions]
    alba.steps["accept"] = [fails(SiteRefused("sold out", status=400))]
    alba.go.clear()
    alba.heard.clear()
    accepting = asyncio.create_task(bench.accept(first))
    await alba.heard.wait()
    await _written(bench, state, lambda body: msgspec.structs.replace(body, located=(Item("data[0]", "later"),)))
    alba.go.set()
    await accepting
    body = (await bench.offers.get(state.uuid, ADA)).body
    assert body is not None
    assert [item.name for item in body.located] == ["later"]
    assert len(body.kept) == 2
    await bench.offers.close()


async def test_who_comes_late_to_a_set_that_was_added_to_is_still_to_be_seen(store: Store, clock: FakeClock) -> None:
    """One site was asked anew while another had not answered yet: the set shows the offers of both."""
    alba, borealis = ScriptedSite("alba", clock), ScriptedSite("borealis", clock)
    bench = await opened(store, clock, Rucio("BOREALIS"), alba, borealis)
    state = await bench.ask(data=DATA)
    assert state.body is not None
    body, record = state.body, state.record
    mine = [item for item in record.sessions if item.site == "borealis"]
    fresh = msgspec.structs.replace(record.sessions[0], requoted=True)
    before = msgspec.structs.replace(
        record, sessions=(fresh,), outcomes={"alba": record.outcomes["alba"]}, closed=False
    )
    first = msgspec.structs.replace(body, kept=tuple(k for k in body.kept if k.session == fresh.uuid))
    late = msgspec.structs.replace(body, kept=tuple(k for k in body.kept if k.session != fresh.uuid))
    await bench.records.change(record.uuid, lambda r: before, body=setbody.encode(first))
    step = joining({"borealis": (record.outcomes["borealis"], mine)}, late, clock.now(), bench.records)
    _, after = await bench.records.rewrite(record.uuid, step)
    written = await bench.records.body(after)
    assert {item.site for item in after.sessions} == {"alba", "borealis"}
    assert written is not None
    assert {item.session for item in setbody.decode(written).kept} == {item.uuid for item in after.sessions}


async def test_a_broker_that_knows_no_storage_leaves_required_locality_to_the_one_that_asks(
    store: Store, clock: FakeClock
) -> None:
    bench = await Bench(store, clock, {"alba": ScriptedSite("alba", clock)}).start()
    wishes = {"locality": "required"}
    asked_by_a_person = await bench.ask(data=DATA, preferences=wishes)
    assert asked_by_a_person.ranking[0].excluded is not None
    asked_by_a_broker = await bench.ask(hop=Hop(path=("above",)), data=DATA, preferences=wishes)
    assert asked_by_a_broker.ranking[0].excluded is None
