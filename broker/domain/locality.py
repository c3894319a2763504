"""What it takes to bring a request's bytes to a site: which replica each file comes from, how long, at what price.

Pure; imports the domain's models. Money is in the base currency. Where something is not known, it is never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum
from typing import Literal

import msgspec
from msgspec.structs import replace

from broker.domain.addresses import bare
from broker.domain.experience import BLANK, Experience
from broker.domain.located import Item, Portion, Replica
from broker.domain.quantities import Span
from broker.domain.session import LocalityNote
from broker.domain.storages import Map, Way

GB = 1e9
NOTHING = Span(0.0, 0.0)
RECALL = Span(600.0, 14400.0)  # seconds: stand-in for a tape of which nothing is configured
UNSIZED = Span(1e9, 19e9)
MOST_LOADS = 256  # for which ways are chosen one by one; of more, those in the same places travel together
_HOUR = 3600.0

Certainty = Literal["stated", "measured", "estimated", "unknown"]


class Delivery(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it takes to write the results where they are to go. `seconds` after the run; `price` in the base currency.
    `to`: the storage, or the place where no storage is declared; `bytes`: as the request expects, None: not known.
    `stand_in`: the size or the way is not known, and configured values took its place."""

    seconds: Span
    price: Span
    to: str = ""
    bytes: float | None = None
    stand_in: bool = False


class Guess(msgspec.Struct, frozen=True, omit_defaults=True):
    """What moves by the ways that there are, where configured bytes take the place of sizes that are not known. The
    same units as Locality; None: a way or its price is not known either."""

    bytes: Span
    staging: Span | None = None
    egress: Span | None = None


class Locality(msgspec.Struct, frozen=True, omit_defaults=True):
    """What moves to one site. `bytes` to move, `staging` in seconds, `egress` in the base currency; None: not known.

    `sources`: the storages that the moved bytes come from; where nothing moves, those at the site that hold the data.
    `least`: bytes that surely move, where not all sizes are known. `recall`: seconds of `staging` that tapes take.
    `cached`: bytes that need not move because the site says that it has them. `held`: the data resources, by path, of
    which it says so. `samples`: measured transfers behind the slowest way. `certainty`: "stated" where nothing moves,
    "measured" where all ways were, "unknown" where anything is None. `guess`: where `bytes` is. `near`: bytes that lie
    at the site. `delivery`: of results that are to go elsewhere.
    """

    bytes: Span | None = NOTHING
    sources: tuple[str, ...] = ()
    staging: Span | None = NOTHING
    egress: Span | None = NOTHING
    certainty: Certainty = "stated"
    least: float = 0.0
    recall: Span = NOTHING
    cached: float = 0.0
    held: tuple[str, ...] = ()
    samples: int = 0
    guess: Guess | None = None
    near: float = 0.0
    delivery: Delivery | None = None

    @property
    def here(self) -> bool:
        """The request names data, and all of it lies at the site."""
        return bool(self.sources or self.held) and self.bytes is not None and self.bytes.high == 0

    @property
    def mostly(self) -> bool:
        """More lies at the site, or in its cache, than has to move there."""
        moved = self.bytes or (self.guess.bytes if self.guess else None)
        return moved is not None and self.near + self.cached > moved.expected


class Place(msgspec.Struct, frozen=True):
    """A site, as bytes see it. `storages`: the names of those at the site; `held`: paths of the data resources that,
    by its own word, it has already."""

    site: str = ""
    storages: tuple[str, ...] = ()
    held: frozenset[str] = frozenset()


class Terrain(msgspec.Struct, frozen=True):
    """What all sites of one question are measured by. `hour`: money for an hour, which weighs a quicker way against a
    cheaper one. `unsized`: bytes that stand in for all data whose size is not known."""

    map_: Map
    experience: Experience = BLANK
    hour: float = 2.0
    unsized: Span = UNSIZED


# ── what must move ───────────────────────────────────────────────────────────────────────────────────────────


class _Copy(msgspec.Struct, frozen=True, order=True):
    """Where one copy lies; an empty name: where no storage is declared."""

    name: str
    tape: bool = False


_NOWHERE = _Copy("")


class _Load(msgspec.Struct, frozen=True):
    """Portions that lie in the same places, and have to move where none of these is a disk of the site. `guessed`:
    their size is not known, and a share of what stands in. `group`: the number of their places in `_Stock`."""

    bytes: Span
    files: int
    copies: tuple[_Copy, ...]
    guessed: bool = False
    group: int = 0


class _Route(msgspec.Struct, frozen=True):
    """How one copy comes to the site; `way` None: no way is known. `local`: it lies there, on a tape, and no byte
    moves."""

    source: str
    way: Way | None = None
    recall: Span = NOTHING
    local: bool = False


class _Move(msgspec.Struct, frozen=True):
    """A load by one route."""

    load: _Load
    route: _Route

    @property
    def source(self) -> str:
        return self.route.source

    @property
    def way(self) -> Way | None:
        return self.route.way

    @property
    def recall(self) -> Span:
        return self.route.recall

    @property
    def local(self) -> bool:
        return self.route.local

    @property
    def bytes(self) -> Span:
        return NOTHING if self.route.local else self.load.bytes


class _Here(msgspec.Struct, frozen=True):
    """What need not move. `local`: the site's own disks, `near` the known bytes on them; `cached`: those of what the
    site says it has, `held`."""

    local: Sequence[str]
    near: float
    cached: float
    held: Sequence[str]


class _Stock(msgspec.Struct, frozen=True):
    """What has to come from somewhere, by whichever site. `disks`: of each group of portions in the same places, those
    places that are disks, and the known bytes. `loads`: the largest first."""

    disks: tuple[tuple[tuple[str, ...], float], ...]
    loads: tuple[_Load, ...]


class Wanted(tuple[Item, ...]):
    """Items by storages, as `locate` makes them. What all sites share of them is reckoned once, and kept with them."""

    stocks: dict[tuple[Map, frozenset[str], Span], _Stock]


def locate(wanted: Sequence[Item], map_: Map) -> Wanted:
    """The same items, each URL replaced by its storage: `measure` is quicker on them, where many sites are measured."""
    found = Wanted(
        replace(item, portions=tuple(replace(p, replicas=_replicas(p, map_)) for p in item.portions)) for item in wanted
    )
    found.stocks = {}
    return found


def outside(wanted: Sequence[Item], map_: Map) -> tuple[Item, ...]:
    """The same items, each address with the storage that declares it; and with a note on each that lies where none
    does: only a link from anywhere (`*`) says what it takes to move it."""
    return tuple(_outside(_named(item, map_), map_) for item in wanted)


def _named(item: Item, map_: Map) -> Item:
    return replace(
        item,
        portions=tuple(
            replace(
                portion,
                replicas=tuple(
                    r if r.storage or not (name := map_.storage_of(r.url)) else replace(r, storage=name)
                    for r in portion.replicas
                ),
            )
            for portion in item.portions
        ),
    )


def _outside(item: Item, map_: Map) -> Item:
    urls = [
        replica.url
        for portion in item.portions
        if _copies(portion, map_) == (_NOWHERE,)
        for replica in portion.replicas
        if replica.url
    ]
    if not item.placed or not urls:
        return item
    return replace(item, notes=(*item.notes, f"{bare(urls[0])} is on no storage that is declared here"))


def _replicas(portion: Portion, map_: Map) -> tuple[Replica, ...]:
    return tuple(Replica(copy.name or None, None, copy.tape) for copy in _copies(portion, map_))


def measure(wanted: Sequence[Item], place: Place, terrain: Terrain) -> Locality:
    """What it takes to bring `wanted` to a site.

    A portion with a replica on a disk of the site moves nothing, nor does what the site says it has. Of several
    replicas the one is taken whose way costs least, time at the price of an hour and egress together, given what goes
    by that way already; then the first by name. Files that go by one way share its bandwidth; different ways work side
    by side. Files on tape wait for their recall first. A portion of unknown size that has to move makes bytes, time and
    price unknown, and there is a guess of all three; a missing way makes time and price unknown.
    """
    held = [item for item in wanted if item.path in place.held and not _near(item, place, terrain.map_)]
    stock = _stock(wanted, frozenset(item.path for item in held), terrain)
    at = [next((name for name in names if name in place.storages), None) for names, _ in stock.disks]
    here = _Here(
        local=[name for name in at if name is not None],
        near=fsum(known for name, (_, known) in zip(at, stock.disks, strict=True) if name is not None),
        cached=fsum(item.bytes or 0.0 for item in held),
        held=sorted(item.path for item in held),
    )
    return _total(_assign([load for load in stock.loads if at[load.group] is None], place, terrain), here)


def _near(item: Item, place: Place, map_: Map) -> bool:
    """All of it lies on disks of the site, so that its word is not needed."""
    return all(
        any(copy.name in place.storages and not copy.tape for copy in _copies(portion, map_))
        for portion in item.portions
    )


def _stock(wanted: Sequence[Item], held: frozenset[str], terrain: Terrain) -> _Stock:
    if not isinstance(wanted, Wanted):
        return _stocked(wanted, held, terrain)
    key = terrain.map_, held, terrain.unsized
    if key not in wanted.stocks:
        wanted.stocks[key] = _stocked(wanted, held, terrain)
    return wanted.stocks[key]


def _stocked(wanted: Sequence[Item], held: frozenset[str], terrain: Terrain) -> _Stock:
    unsized = sum(portion.bytes is None for item in wanted for portion in item.portions)
    share = terrain.unsized.times(1 / unsized) if unsized else NOTHING
    groups: dict[tuple[_Copy, ...], list[Portion]] = {}
    for item in wanted:
        if item.path not in held:
            for portion in item.portions:
                groups.setdefault(_copies(portion, terrain.map_), []).append(portion)
    count = sum(map(len, groups.values()))
    most = count if count <= MOST_LOADS else max(1, MOST_LOADS // len(groups))
    disks, loads = [], []
    for i, (copies, portions) in enumerate(groups.items()):
        disks.append((tuple(copy.name for copy in copies if not copy.tape), fsum(p.bytes or 0.0 for p in portions)))
        loads += _loads(portions, copies, share, i, most)
    loads.sort(key=lambda load: (-load.bytes.expected, load.copies, load.files, load.guessed))
    return _Stock(tuple(disks), tuple(loads))


def _loads(portions: Sequence[Portion], copies: tuple[_Copy, ...], share: Span, group: int, most: int) -> list[_Load]:
    """At most `most` of known size, and as many of unknown; of a great many portions, several travel together."""
    sized = sorted((p for p in portions if p.bytes), key=lambda p: (-(p.bytes or 0.0), p.files))
    lots = [sized[i::most] for i in range(min(most, len(sized)))]
    loads = [
        _Load(Span.of(fsum(p.bytes or 0.0 for p in lot)), sum(p.files for p in lot), copies, group=group)
        for lot in lots
    ]
    open_ = sorted((p for p in portions if p.bytes is None), key=lambda p: p.files)
    lots = [open_[i::most] for i in range(min(most, len(open_)))]
    return loads + [_Load(share.times(len(lot)), sum(p.files for p in lot), copies, True, group) for lot in lots]


def _copies(portion: Portion, map_: Map) -> tuple[_Copy, ...]:
    """Sorted. An empty name alone: it lies where no storage is declared. One on a disk goes before the same on tape."""
    found: dict[str, bool] = {}
    for replica in portion.replicas:
        for name in (replica.storage, map_.storage_of(replica.url)):
            if name:
                tape = replica.tape or map_.tape(name)
                found[name] = tape and found.get(name, True)
    return tuple(_Copy(name, tape) for name, tape in sorted(found.items())) or (_NOWHERE,)


def _assign(loads: Sequence[_Load], place: Place, terrain: Terrain) -> list[_Move]:
    """The largest first, each where it costs least beside what was given to the ways before it."""
    given: dict[tuple[str, str], tuple[float, int]] = {}
    routes: dict[_Copy, list[_Route]] = {}
    choices: dict[int, list[_Route]] = {}  # of each group
    moves = []
    for load in loads:
        if load.group not in choices:
            for copy in load.copies:
                if copy not in routes:
                    routes[copy] = _routes(copy, place, terrain)
            choices[load.group] = [route for copy in load.copies for route in routes[copy]]
        options = choices[load.group]
        best = options[0] if len(options) == 1 else min(options, key=lambda o: _order(load, o, given, terrain))
        moves.append(_Move(load, best))
        if best.way is not None:
            before, waiting = given.get(best.way.key, (0.0, 0))
            given[best.way.key] = (before + load.bytes.expected, waiting + load.files)
    return moves


def _routes(copy: _Copy, place: Place, terrain: Terrain) -> list[_Route]:
    map_ = terrain.map_
    recall = (map_.recall(copy.name) or RECALL) if copy.tape else NOTHING
    if copy.name in place.storages:
        return [_Route(copy.name, None, recall, True)]
    ways = [
        map_.way(copy.name or None, target or None, place.site, terrain.experience.measured)
        for target in sorted(place.storages) or ("",)
    ]
    return [_Route(copy.name, way, recall) for way in ways]


def _order(
    load: _Load, route: _Route, given: dict[tuple[str, str], tuple[float, int]], terrain: Terrain
) -> tuple[bool, bool, float, str]:
    """What is known before what is not; then by cost, then by name."""
    if route.local:
        return False, False, route.recall.expected * terrain.hour / _HOUR, route.source
    way, count = route.way, load.bytes.expected
    if way is None:
        return True, True, 0.0, route.source
    before, waiting = given.get(way.key, (0.0, 0))
    seconds = way.seconds(before + count, waiting + load.files).expected + route.recall.expected
    return False, way.price is None, seconds * terrain.hour / _HOUR + (way.price or 0.0) * count / GB, route.source


def _total(moves: Sequence[_Move], here: _Here) -> Locality:
    moved = [move for move in moves if not move.local]
    sources = _sources([move.source for move in moved] or [*here.local, *(move.source for move in moves)])
    near = here.near + fsum(move.load.bytes.low for move in moves if move.local and not move.load.guessed)
    found = Locality(sources=sources, cached=here.cached, held=tuple(here.held), near=near)
    if not moves:
        return found
    staging, recall, samples = _time(moves)
    count, egress = _sum([move.bytes for move in moved]), _egress(moved)
    if any(move.load.guessed for move in moved):
        least = fsum(move.bytes.low for move in moved if not move.load.guessed)
        guess = Guess(count, staging, egress)
        return replace(
            found, bytes=None, staging=None, egress=None, certainty="unknown", least=least, recall=recall, guess=guess
        )
    certainty: Certainty = "unknown" if staging is None or egress is None else "estimated"
    if certainty == "estimated" and samples and not recall.high:
        certainty = "measured"
    return replace(
        found, bytes=count, staging=staging, egress=egress, certainty=certainty, recall=recall, samples=samples
    )


def _time(moves: Sequence[_Move]) -> tuple[Span | None, Span, int]:
    """Staging, the recall in it, and the measured transfers behind the way that has fewest of them."""
    recall = _longest([move.recall for move in moves])
    ways: dict[tuple[str, str], Way] = {}
    loads: dict[tuple[str, str], list[_Move]] = {}
    for move in moves:
        if move.way is not None:
            ways[move.way.key] = move.way
            loads.setdefault(move.way.key, []).append(move)
    samples = min((way.samples for way in ways.values()), default=0)
    if any(move.way is None and not move.local for move in moves):
        return None, recall, samples
    spans = [move.recall for move in moves if move.local]
    for key, way in ways.items():
        load = loads[key]
        files, count = sum(move.load.files for move in load), _sum([move.bytes for move in load])
        span = Span(way.seconds(count.low, files).low, way.seconds(count.high, files).high)
        spans.append(span.plus(_longest([move.recall for move in load])))
    return _longest(spans), recall, samples


def _longest(spans: Sequence[Span]) -> Span:
    return Span(max((span.low for span in spans), default=0.0), max((span.high for span in spans), default=0.0))


def _sum(spans: Sequence[Span]) -> Span:
    return Span(fsum(span.low for span in spans), fsum(span.high for span in spans))


def _egress(moves: Sequence[_Move]) -> Span | None:
    """None: the price of one of the ways is not known."""
    prices = [None if move.way is None else move.way.price for move in moves]
    if None in prices:
        return None
    return _sum([move.bytes.times((price or 0.0) / GB) for price, move in zip(prices, moves, strict=True)])


def _sources(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name}))


# ── on the wire ──────────────────────────────────────────────────────────────────────────────────────────────


def note(locality: Locality, currency: str) -> LocalityNote:
    """For the wire; `currency` is the base currency, in which `egress` stands."""
    return LocalityNote.model_validate(wire(locality, currency))


def wire(locality: Locality, currency: str) -> dict[str, object]:
    """The same, ready for JSON: what `note(…).to_wire()` gives, without the detour by the model."""
    parts = (("bytes", locality.bytes, "B"), ("staging", locality.staging, "s"), ("egress", locality.egress, currency))
    found: dict[str, object] = {
        name: {"expected": span.expected, "pessimistic": span.high, "unit": unit}
        for name, span, unit in parts
        if span is not None
    }
    if locality.recall.high:
        found["recall"] = {"expected": locality.recall.expected, "pessimistic": locality.recall.high, "unit": "s"}
    if locality.sources:
        found["sources"] = list(locality.sources)
    if locality.bytes is None and locality.least:
        found["least"] = locality.least
    if locality.held:
        found |= {"held": list(locality.held), "cached": locality.cached}
    if locality.samples:
        found["samples"] = locality.samples
    if locality.delivery:
        found["delivery"] = _delivery(locality.delivery, currency)
    return found | {"certainty": locality.certainty}


def _delivery(delivery: Delivery, currency: str) -> dict[str, object]:
    found: dict[str, object] = {"to": delivery.to}
    for name, span, unit in (("seconds", delivery.seconds, "s"), ("price", delivery.price, currency)):
        found[name] = {"expected": span.expected, "pessimistic": span.high, "unit": unit}
    if delivery.bytes is not None:
        found["bytes"] = delivery.bytes
    if delivery.stand_in:
        found["stand_in"] = True
    return found
