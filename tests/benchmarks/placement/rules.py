"""Which site each rule takes. Imports the broker's ranking, the world, and what was learned.

All rules see the same: what sites promise, what links are said to carry, where data lies. `ours` is the broker's own
`rank` on candidates made as services/gathering makes them; the oracle is the same `rank` on what is true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from msgspec.structs import replace

from broker.domain import locality
from broker.domain.experience import BLANK, NONE, Experience
from broker.domain.locality import Locality, Place, Terrain
from broker.domain.located import Item, Portion, Replica
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, StandIns, Weights, Wishes, rank
from broker.domain.storages import Map

from .federation import DataSet, Federation
from .world import World

EXCHANGE = Exchange("EUR")
RULES = ("random", "cheapest", "fastest", "distance", "ours", "calibrated", "oracle")
RANKED = ("ours", "calibrated", "oracle")  # those that a value of time means anything to
# What ours can be told besides, one at a time, to see what not knowing it costs: "calibrated+source" and so on.
TOLD = ("source", "paths", "speed", "bills", "startup")


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

    def told(
        self, world: World, request: int, site: int, wanted: Sequence[Item], terrain: Terrain, what: str
    ) -> Candidate:
        """The offer as the broker would see it, if it knew one thing more."""
        if what == "source":
            wanted = self.items(world, request, site)
        offer = self.offer(world, request, site, wanted, terrain)
        truth, by = self.federation.sites[site].truth, offer.correction
        if what == "paths":
            staging = Span.of(world.staging(world.missing(request, site), site))
            offer = replace(offer, locality=replace(offer.locality, staging=staging))
            by = by and replace(by, staging=NONE)
        elif what == "speed":
            offer = replace(offer, performance=Span.of(truth.performance))
            by = by and replace(by, run=NONE)
        elif what == "bills":
            offer = replace(offer, price=Span.of(world.quoted(request, site) * truth.price / truth.performance))
            by = by and replace(by, cost=NONE)
        elif what == "startup":
            offer = replace(offer, start=Span.of(offer.start.expected + truth.startup))
            by = by and replace(by, waiting=NONE)
        return replace(offer, correction=by)

    def items(self, world: World, request: int, read_at: int | None = None) -> tuple[Item, ...]:
        """What a catalogue says of its data: every replica, every size. `read_at`: only the replica that this site
        would read."""
        near = {} if read_at is None else {item.name: source for item, source in world.missing(request, read_at)}
        named = [world.data[name] for name in world.stream.requests[request].data]
        found = [
            Item(
                f"data[{i}]",
                item.name,
                (Portion(item.bytes, self._replicas(item, near.get(item.name)), item.files),),
                sized="catalogue",
                placed="catalogue",
            )
            for i, item in enumerate(named)
        ]
        return locality.locate(found, self.map)

    def _replicas(self, item: DataSet, source: int | None) -> tuple[Replica, ...]:
        return tuple(Replica(name) for name in item.replicas if source is None or name in self.at[source])


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
        name, _, told = self.name.partition("+")
        if name in ("ours", "calibrated"):
            see = partial(self.broker.told, what=told) if told else self.broker.offer
            offers = [see(world, request, i, wanted, terrain) for i in self._all]
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
