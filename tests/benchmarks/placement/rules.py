"""Which site each rule takes. Imports the broker's ranking, the world, and what was learned.

All rules see the same: what sites promise, what links are said to carry, where data lies. `ours` is the broker's own
`rank` on candidates made as services/gathering makes them; the oracle is the same `rank` on what is true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace

from broker.domain import locality
from broker.domain.experience import BLANK, Experience
from broker.domain.locality import Locality, Place, Terrain
from broker.domain.located import Item, Portion, Replica
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, StandIns, Weights, Wishes, rank
from broker.domain.storages import Map

from .federation import Federation
from .world import World

EXCHANGE = Exchange("EUR")
RULES = ("random", "cheapest", "fastest", "distance", "ours", "calibrated", "oracle")
RANKED = ("ours", "calibrated", "oracle")  # those that a value of time means anything to


@dataclass(frozen=True)
class Choice:
    """`offer`: what the site had promised, as the broker saw it."""

    site: int
    offer: Candidate


class Broker:
    """What the broker knows of a federation: its storages, its links."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.map = Map((s for site in federation.sites for s in site.storages), federation.links, EXCHANGE)
        self.at = [tuple(storage.name for storage in site.storages) for site in federation.sites]

    def offer(self, world: World, request: int, site: int, wanted: Sequence[Item], terrain: Terrain) -> Candidate:
        """As gathering reads it. `wanted`: what `items` gives."""
        asked, found = world.stream.requests[request], self.federation.sites[site]
        held = world.places[site].cache if found.shows_cache else {}
        place = Place(found.name, self.at[site], frozenset(item.path for item in wanted if item.name in held))
        return Candidate(
            session=str(site),
            origin=found.name,
            site=found.name,
            price=Span.of(world.quoted(request, site)),
            start=Span.of(world.now + world.promised(request, site)),
            run=Span.of(asked.duration),
            performance=Span.of(found.performance) if found.performance is not None else None,
            carbon=Span.of(0.0),
            locality=locality.measure(wanted, place, terrain),
            correction=terrain.experience.correction(found.name, asked.kind),
        )

    def truth(self, world: World, request: int, site: int) -> Candidate:
        """The same with what will really be, as far as it is settled now."""
        found, wanted = self.federation.sites[site], world.missing(request, site)
        moved = Span.of(sum(item.bytes for item, _ in wanted))
        return Candidate(
            session=str(site),
            origin=found.name,
            site=found.name,
            price=Span.of(world.bill(request, site)),
            start=Span.of(world.now + world.ready(request, site)),
            prepares=True,
            run=Span.of(world.run(request, site)),
            carbon=Span.of(0.0),
            locality=Locality(bytes=moved, egress=Span.of(world.egress(wanted))),
        )

    def items(self, world: World, request: int) -> tuple[Item, ...]:
        """What a catalogue says of its data: every replica, every size."""
        named = [world.data[name] for name in world.stream.requests[request].data]
        found = [
            Item(
                f"data[{i}]",
                item.name,
                (Portion(item.bytes, tuple(Replica(name) for name in item.replicas), item.files),),
                sized="catalogue",
                placed="catalogue",
            )
            for i, item in enumerate(named)
        ]
        return locality.locate(found, self.map)


def wishes(hour: float) -> Wishes:
    """Nothing but money and time."""
    return Wishes(
        weights=Weights(value_of_time=hour, carbon_price=0.0), currency="EUR", factor=1.0, exchange=EXCHANGE,
        stand_ins=StandIns(),
    )  # fmt: skip


@dataclass
class Rule:
    """One rule at one value of time. `experience`: what it has learned, for those that learn."""

    name: str
    broker: Broker
    hour: float
    experience: Callable[[], Experience] = lambda: BLANK

    def choose(self, world: World, request: int) -> Choice:
        """The site that it takes for a request that comes now."""
        terrain = Terrain(self.broker.map, self.experience(), self.hour)
        wanted = self.broker.items(world, request)
        if self.name == "ours" or self.name == "calibrated":
            offers = [self.broker.offer(world, request, i, wanted, terrain) for i in self._all]
            site = self._first(offers, world)
            return Choice(site, offers[site])
        site = self._site(world, request)
        return Choice(site, self.broker.offer(world, request, site, wanted, terrain))

    @property
    def _all(self) -> range:
        return range(len(self.broker.federation.sites))

    def _site(self, world: World, request: int) -> int:
        """Equal ones by what is quoted first, then in the order of the file."""
        match self.name:
            case "random":
                return anywhere(world, request)
            case "cheapest":
                return min(self._all, key=lambda i: (world.quoted(request, i), i))
            case "fastest":
                return min(self._all, key=lambda i: (world.promised(request, i), world.quoted(request, i), i))
            case "distance":
                return min(self._all, key=lambda i: (self._far(world, request, i), world.promised(request, i), i))
            case "oracle":
                return self._first([self.broker.truth(world, request, i) for i in self._all], world)
        raise ValueError(f"there is no rule {self.name}; there are {', '.join(RULES)}")

    def _far(self, world: World, request: int, site: int) -> float:
        """Byte kilometres to the nearest replicas; what lies in a cache, nobody tells this rule."""
        return sum(
            world.data[name].bytes * min(world.network.apart(other, site) for other in world.holders[name])
            for name in world.stream.requests[request].data
        )

    def _first(self, offers: Sequence[Candidate], world: World) -> int:
        return int(rank(offers, wishes(self.hour), world.now)[0].session)


def anywhere(world: World, request: int) -> int:
    """The same site for the same request, whoever asks."""
    draw = np.random.default_rng([world.federation.seed, 6, request])
    return int(draw.integers(len(world.federation.sites)))


def without_egress(offer: Candidate) -> Candidate:
    """A planted fault: a ranking that forgets what bytes cost."""
    return replace(offer, locality=replace(offer.locality, egress=Span(0.0, 0.0)))
