"""Where data is, through brokers behind brokers: what one below says of it, and what is made of that above."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from broker.api import answers
from broker.domain import kinds, ranking
from broker.domain.data import AbstractDataResource, RucioDataResource
from broker.domain.deadline import Deadline
from broker.domain.identity import Hop
from broker.domain.located import Located, Portion, Replica
from broker.domain.money import Exchange
from broker.domain.outcome import Quote
from broker.domain.request import ExecutionRequest
from broker.domain.setbody import Kept
from broker.domain.site import Link, Profile, Registration, StorageElement
from broker.domain.storages import Map
from broker.errors import SiteForgot
from broker.ports import Ask, Quotes, Store
from broker.services.locating import Known
from broker.services.offers import SetState
from broker.testing.bench import ADA, Bench
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite

ALBA, BOREALIS = StorageElement(name="ALBA"), StorageElement(name="BOREALIS")
LINKS = [Link(source="*", target="*", bandwidth=1e8, price=0.05)]
MAP = Map([ALBA, BOREALIS], LINKS, Exchange("EUR", {}))
NOTHING = Map([], [], Exchange("EUR", {}))
PLANNER = Profile(platform="local")


def data(*names: str) -> list[dict[str, Any]]:
    return [{"kind": kinds.RUCIO_DATA, "rucio": {"scope": "survey", "object": name}} for name in names]


class Rucio:
    """Knows where some data sets are; `places`: name → storage and bytes."""

    def __init__(self, **places: tuple[str, float]) -> None:
        self.places = places

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        block = resource.rucio if isinstance(resource, RucioDataResource) else None
        return block.object if block else None

    async def locate(self, name: str, deadline: Deadline) -> Located:
        if name not in self.places:
            raise SiteForgot(f"no {name} here.")
        storage, size = self.places[name]
        return Located((Portion(size, (Replica(storage),)),))

    async def close(self) -> None: ...


class Says(ScriptedSite):
    """A planner of ours, or a broker, that states these locality terms with its offers."""

    def __init__(self, name: str, clock: FakeClock, locality: dict[str, Any], profile: Profile = PLANNER) -> None:
        super().__init__(name, clock, profile=profile)
        self.locality = locality

    def _offer(self, handle: str, price: float | None) -> Quote:
        quote = super()._offer(handle, price)
        body = msgspec.json.decode(quote.body)
        return Quote(quote.handle, msgspec.json.encode({**body, "locality": self.locality}))


class Behind(ScriptedSite):
    """A broker below, as its answers show it."""

    def __init__(self, name: str, clock: FakeClock, bench: Bench) -> None:
        super().__init__(name, clock)
        self.bench, self.profile = bench, bench.sites.profile().with_(broker=name)

    async def quote(self, ask: Ask) -> Quotes:
        request = ExecutionRequest.model_validate(msgspec.json.decode(ask.extended))
        state = await self.bench.offers.ask(request, ADA, Hop(root=ask.root, path=ask.path))
        offers = msgspec.json.decode(answers.offerset(state, "http://below", ADA))["offers"]
        return Quotes(tuple(Quote(offer["meta"]["uuid"], msgspec.json.encode(offer)) for offer in offers))


async def opened(
    store: Store, clock: FakeClock, rucio: Rucio | None, map_: Map, *sites: ScriptedSite, **storages: StorageElement
) -> Bench:
    catalogues = [Known("ska", rucio, 1, places=True, sizes=True)] if rucio else []
    given = {name: Registration(name=name, url="http://x/", storages=(at,)) for name, at in storages.items()}
    planners = {site.name: site for site in sites}
    return await Bench(store, clock, planners, registrations=given, catalogues=catalogues, map_=map_).start()


def kept(state: SetState) -> dict[str, Kept]:
    """site → its offer."""
    assert state.body is not None
    return {item.candidate.origin: item for item in state.body.kept}


def best(state: SetState) -> str:
    origins = {str(item.uuid): item.origin for item in state.record.sessions}
    return next(origins[ranked.session] for ranked in state.ranking if ranking.good(ranked))


async def test_what_only_the_one_above_finds_is_measured_below_by_its_own_storages(
    store: Store, clock: FakeClock
) -> None:
    near, far = ScriptedSite("near", clock), ScriptedSite("far", clock)
    below = await opened(store, clock, None, MAP, near, far, near=ALBA, far=BOREALIS)
    above = await opened(store, clock, Rucio(cube=("ALBA", 36e9)), NOTHING, Behind("child", clock, below))
    state = await above.ask(data=data("cube"))
    found = kept(state)
    assert found["near"].locality.here
    assert found["far"].locality.bytes is not None
    assert found["far"].locality.bytes.expected == 36e9
    assert (best(state), found["far"].locality.sources) == ("near", ("ALBA",))


async def test_the_one_above_that_knows_the_storages_of_the_one_below_leads(store: Store, clock: FakeClock) -> None:
    below = await opened(store, clock, None, NOTHING, ScriptedSite("near", clock))
    child, rucio = Behind("child", clock, below), Rucio(cube=("ALBA", 36e9))
    unknowing = await opened(store, clock, rucio, MAP, child)
    assert not kept(await unknowing.ask(data=data("cube")))["near"].locality.here
    knowing = await opened(store, clock, rucio, MAP, child, child=ALBA)
    assert kept(await knowing.ask(data=data("cube")))["near"].locality.here


@pytest.mark.parametrize("catalogue", [True, False])
async def test_what_a_site_has_in_its_cache_comes_up_through_two_brokers(
    store: Store, clock: FakeClock, catalogue: bool
) -> None:
    """Whether or not anybody knows how large it is."""
    caching = Says("caching", clock, {"held": ["data[0]"], "cached": 36e9, "certainty": "stated"})
    lowest = await opened(store, clock, None, MAP, caching, ScriptedSite("plain", clock))
    middle = await opened(store, clock, None, MAP, Behind("lowest", clock, lowest))
    rucio = Rucio(cube=("ALBA", 36e9)) if catalogue else None
    above = await opened(store, clock, rucio, MAP, Behind("middle", clock, middle))
    state = await above.ask(data=data("cube"))
    found = kept(state)
    assert found["caching"].locality.held == ("data[0]",)
    assert found["caching"].locality.here
    assert not found["plain"].locality.here
    assert found["caching"].locality.cached == (36e9 if catalogue else 0.0)
    assert best(state) == "caching"


async def test_a_broker_that_does_not_know_is_not_taken_for_all_its_storages(store: Store, clock: FakeClock) -> None:
    """One of the sites below has one thing in its cache, and another has a storage with the other thing: no site has
    both, and the storages of a broker are none of one site's."""
    unknown = {"held": ["data[0]"], "cached": 1e9, "certainty": "unknown"}
    child = Says("child", clock, unknown, Profile(broker="child", storages=(ALBA,)))
    above = await opened(store, clock, Rucio(a=("BOREALIS", 1e9), b=("ALBA", 36e9)), MAP, child)
    (found,) = kept(await above.ask(data=data("a", "b"))).values()
    assert (found.locality.bytes, found.locality.certainty) == (None, "unknown")
    assert found.locality.held == ("data[0]",)


async def test_who_does_not_know_does_not_win_over_who_does(store: Store, clock: FakeClock) -> None:
    """The one below was asked before it was known that there are 36 TB. What is known by now counts for its offer."""
    child = Says("child", clock, {"certainty": "unknown"}, Profile(broker="child"))
    plain = ScriptedSite("plain", clock)
    above = await opened(store, clock, Rucio(cube=("ALBA", 36e12)), MAP, child, plain)
    found = kept(await above.ask(data=data("cube")))
    guess = found["child"].locality.guess
    assert found["child"].locality.bytes is None
    assert found["plain"].locality.bytes is not None
    assert guess is not None
    assert (guess.bytes, guess.staging) == (found["plain"].locality.bytes, found["plain"].locality.staging)


@pytest.mark.parametrize(
    "lie",
    [
        {"samples": 10**40},
        {"held": ["data[7]", "data[0]x"], "bytes": {"expected": 0.0, "pessimistic": 0.0, "unit": "B"}},
        {"bytes": {"expected": 1e308, "pessimistic": 1e308, "unit": "B"}, "least": 1e308, "cached": 1e308},
        {"certainty": "measured", "samples": 5},
        {"sources": ["A" * 10_000] * 3},
    ],
)
async def test_no_lie_of_one_below_breaks_the_answer(store: Store, clock: FakeClock, lie: dict[str, Any]) -> None:
    child = Says("child", clock, lie, Profile(broker="child"))
    above = await opened(store, clock, Rucio(cube=("ALBA", 36e9)), MAP, child)
    state = await above.ask(data=data("cube"))
    answer = msgspec.json.decode(answers.offerset(state, "http://us", ADA))
    (found,) = [offer["locality"] for offer in answer["offers"]] or [{}]
    assert not found.get("held")
    if "bytes" not in found:
        assert found.get("certainty") in (None, "unknown")
    assert found.get("samples", 0) <= 10**9
    assert None not in found.values()
