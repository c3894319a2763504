"""Where a request's bytes are, and what it takes to move them to a site. Pure; imports the domain's models.

Sizes and replicas are those that the request itself carries: `skao.datasize` and `skao.replicas`, DataLink's
`content_length` and `access_url`, plain locations. What is not stated is not known, and never zero. Storages and
the links between them are configuration; prices come out in the base currency.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import fsum, inf
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
import msgspec.structs

from broker.domain.components import AbstractComponent
from broker.domain.data import (
    IvoaDataResource,
    IvoaDataResourceBlock,
    RucioDataResource,
    S3DataResource,
    SimpleDataResource,
    SkaoDataResource,
)
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.session import Bounds, LocalityNote
from broker.domain.site import Link, StorageElement

GB = 1e9
ANY = "*"
NOTHING = Span(0.0, 0.0)
_MOST = 1e15  # seconds, or money a GB: so that no absurd link leads to an infinity
_PORTS = {"http": 80, "https": 443, "dav": 80, "davs": 443, "ftp": 21, "root": 1094}

Certainty = Literal["stated", "estimated", "unknown"]


class Replica(msgspec.Struct, frozen=True):
    """One copy. `storage` as the request names it (a Rucio RSE, say), or None: then the URL tells."""

    storage: str | None = None
    url: str | None = None


class Item(msgspec.Struct, frozen=True):
    """One data resource. `path` is its dotted path in the request; `bytes` None: its size is not known."""

    path: str
    name: str
    bytes: float | None = None
    replicas: tuple[Replica, ...] = ()


class Locality(msgspec.Struct, frozen=True):
    """What moves to one site. `bytes` to move, `staging` in seconds, `egress` in the base currency; None: not known.

    `sources`: the storages that the moved bytes come from; where nothing moves, those at the site that hold the data.
    """

    bytes: Span | None = NOTHING
    sources: tuple[str, ...] = ()
    staging: Span | None = NOTHING
    egress: Span | None = NOTHING
    certainty: Certainty = "stated"

    @property
    def here(self) -> bool:
        """The request names data, and all of it lies at the site."""
        return bool(self.sources) and self.bytes is not None and self.bytes.high == 0


# ── what the request says ────────────────────────────────────────────────────────────────────────────────────


def items(request: ExecutionRequest) -> tuple[Item, ...]:
    """Every data resource, in the request's order."""
    return tuple(_item(f"data[{i}]", resource) for i, resource in enumerate(request.data or ()))


def _item(path: str, resource: AbstractComponent) -> Item:
    size, replicas = _stated(resource)
    return Item(path, resource.name, size, tuple(dict.fromkeys(r for r in replicas if r.storage or r.url)))


def _stated(resource: AbstractComponent) -> tuple[float | None, Sequence[Replica]]:
    """Size and replicas of one resource; of a kind that nobody knows, nothing is known."""
    match resource:
        case SimpleDataResource():
            return _simple(resource.location)
        case S3DataResource():
            return None, (Replica(None, _s3(resource)),)
        case RucioDataResource():
            return None, (Replica(None, _rucio(resource)),)
        case IvoaDataResource():
            return _ivoa(resource.ivoa)
        case SkaoDataResource():
            return _skao(resource)
    return None, ()


def _simple(location: str | None) -> tuple[float | None, Sequence[Replica]]:
    """A `data:` URL travels in the request itself: nothing is left to be moved."""
    if location and location[:5].lower() == "data:":
        return 0.0, ()
    return None, (Replica(None, location),)


def _s3(resource: S3DataResource) -> str | None:
    """`endpoint/bucket/object`, or `s3://bucket/object` where no endpoint is named. No object: the whole bucket."""
    if not resource.bucket:
        return None
    base = resource.endpoint.rstrip("/") if resource.endpoint else "s3:/"
    return "/".join(part for part in (base, resource.bucket, resource.object) if part)


def _rucio(resource: RucioDataResource) -> str | None:
    """`rucio:scope/object`: a storage that declares the prefix `rucio:scope` holds the whole scope."""
    block = resource.rucio
    if block is None or not block.scope:
        return None
    return f"rucio:{block.scope}/{block.object or ''}".rstrip("/")


def _ivoa(block: IvoaDataResourceBlock | None) -> tuple[float | None, list[Replica]]:
    if block is None:
        return None, []
    urls = [part.access_url for part in (block.datalink, block.obscore) if part]
    size = block.datalink.content_length if block.datalink else None
    return _number(size), [Replica(None, url) for url in urls]


def _skao(resource: SkaoDataResource) -> tuple[float | None, list[Replica]]:
    size, replicas = _ivoa(resource.ivoa)
    block = resource.skao
    if block is None:
        return size, replicas
    stated = [Replica(item.rsename, item.dataurl) for item in block.replicas or ()]
    return (size if block.datasize is None else float(block.datasize)), stated or replicas


def _number(size: int | None) -> float | None:
    return None if size is None else float(size)


# ── what is configured ───────────────────────────────────────────────────────────────────────────────────────


class Map:
    """The storages of the federation and the links between them. Built once; does not change.

    Storages of one name are one: their prefixes add up. Two storages may not share a prefix; where they do, the
    name that sorts first has it. Of two links between the same two ends the first counts.
    """

    def __init__(self, storages: Iterable[StorageElement], links: Iterable[Link], exchange: Exchange) -> None:
        self._prefixes: dict[str, str] = {}
        for name, prefix in sorted((item.name, prefix) for item in storages for prefix in item.prefixes):
            self._prefixes.setdefault(normal(prefix), name)
        self._links: dict[tuple[str, str], Link] = {}
        for link in links:
            self._links.setdefault((link.source, link.target), link)
        self.exchange = exchange

    def storage_of(self, url: str | None) -> str | None:
        """The storage that declares the longest prefix of `url`, ending where a part of its path ends; else None."""
        if not url:
            return None
        part = normal(url)
        while part:
            if part in self._prefixes:
                return self._prefixes[part]
            part = _shorter(part)
        return None

    def link(self, source: str | None, target: str | None) -> Link | None:
        """The most specific link; a named source is more specific than a named target, since it sets the price.
        None as an end: that end is not known, and only `*` matches it."""
        for pair in ((source, target), (source, ANY), (ANY, target), (ANY, ANY)):
            found = self._links.get((pair[0] or ANY, pair[1] or ANY))
            if found is not None:
                return found
        return None


def normal(url: str) -> str:
    """Scheme and host in lower case, no user, default port, query, fragment or empty parts: only to be compared."""
    try:
        parts = urlsplit(url.strip())
        host = _host(parts)
    except ValueError:  # a bracket or a port that is none
        return url
    path = "/".join(_tidy(parts.path))
    scheme = f"{parts.scheme}:" if parts.scheme else ""
    return f"{scheme}//{host}/{path}".rstrip("/") if parts.netloc else f"{scheme}{path}" or "/"


def _host(parts: SplitResult) -> str:
    host, port = (parts.hostname or "").rstrip("."), parts.port
    return host if port in (None, _PORTS.get(parts.scheme)) else f"{host}:{port}"


def _tidy(path: str) -> list[str]:
    """The parts of a path; `..` is worked out, as every server does before it looks for the file."""
    done: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del done[-1:]
        elif part not in ("", "."):
            done.append(part)
    return done


def _shorter(url: str) -> str:
    """`url` without its last part; empty when nothing but scheme and host was left."""
    head, slash, _ = url.rpartition("/")
    return "" if not slash or head.endswith("/") else head


# ── what must move ───────────────────────────────────────────────────────────────────────────────────────────


class _Move(msgspec.Struct, frozen=True):
    """One item by one link; `link` None: no link is known."""

    bytes: float
    source: str
    link: Link | None


def locate(wanted: Sequence[Item], map_: Map) -> tuple[Item, ...]:
    """The same items, each URL replaced by its storage: `measure` is quicker on them, where many sites are measured."""
    return tuple(
        msgspec.structs.replace(item, replicas=tuple(Replica(name or None) for name in _holders(item, map_)))
        for item in wanted
    )


def measure(wanted: Sequence[Item], at: Sequence[str], map_: Map) -> Locality:
    """What it takes to bring `wanted` to a site whose storages are named `at`.

    An item with a replica at the site moves nothing. Of several replicas the one that is soonest here is taken, then
    the cheapest, then the first by name. Files that go by one link share its bandwidth and wait out its latency one
    after another; different links work side by side. An item of unknown size that is not here makes the whole unknown;
    a missing link makes its time and price unknown.
    """
    moves: list[_Move] = []
    local: list[str] = []
    unsized: list[str] = []
    for item in wanted:
        names = _holders(item, map_)
        held = [name for name in names if name in at]
        if held or item.bytes == 0:
            local += held[:1]
        elif item.bytes is None:
            unsized += names
        else:
            moves.append(_best(item.bytes, names, at, map_))
    if unsized:
        return Locality(None, _sources([*unsized, *(move.source for move in moves)]), None, None, "unknown")
    return _total(moves, map_.exchange) if moves else Locality(sources=_sources(local))


def _holders(item: Item, map_: Map) -> tuple[str, ...]:
    """The storages that hold the item, sorted. An empty name alone: it lies where no storage is declared."""
    names = {name for replica in item.replicas for name in (replica.storage, map_.storage_of(replica.url)) if name}
    return tuple(sorted(names)) or ("",)


def _best(count: float, names: Sequence[str], at: Sequence[str], map_: Map) -> _Move:
    """By expected time, then price; what is known before what is not."""

    def order(way: tuple[str, Link | None]) -> tuple[float, float, str]:
        name, link = way
        if link is None:
            return inf, inf, name
        price = _price(link, map_.exchange)
        return _seconds(link, count, 1).expected, inf if price is None else price, name

    ways = ((name, map_.link(name or None, target or None)) for name in names for target in sorted(at) or ("",))
    name, link = min(ways, key=order)
    return _Move(count, name, link)


def _seconds(link: Link, count: float, files: int) -> Span:
    slow, fast = sorted((link.bandwidth, link.bandwidth_low or link.bandwidth))
    return Span(*(min(count / speed + files * link.latency, _MOST) for speed in (fast, slow)))


def _price(link: Link, exchange: Exchange) -> float | None:
    """Money a GB, in the base currency."""
    span = exchange.convert(Span.of(link.price), link.currency)
    return min(span.low, _MOST) if span else None


def _total(moves: Sequence[_Move], exchange: Exchange) -> Locality:
    links = {(move.link.source, move.link.target): move.link for move in moves if move.link}
    spans, prices = [], []
    for link in links.values():
        load = [move.bytes for move in moves if move.link is link]
        price = _price(link, exchange)
        spans.append(_seconds(link, fsum(load), len(load)))
        prices.append(None if price is None else price * fsum(load) / GB)
    reached = all(move.link for move in moves)
    known = [price for price in prices if price is not None]
    priced = reached and len(known) == len(prices)
    return Locality(
        Span.of(fsum(move.bytes for move in moves)),
        _sources(move.source for move in moves),
        Span(max(span.low for span in spans), max(span.high for span in spans)) if reached else None,
        Span.of(fsum(known)) if priced else None,
        "estimated" if priced else "unknown",
    )


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
    if locality.sources:
        found["sources"] = list(locality.sources)
    return found | {"certainty": locality.certainty}


def read(stated: LocalityNote, exchange: Exchange) -> Locality:
    """What a broker below says of one of its sites. A part it leaves out, or marks as a stand-in, is not known."""
    count, staging, egress = (_span(part) for part in (stated.bytes, stated.staging, stated.egress))
    if egress is not None and stated.egress is not None:
        egress = exchange.convert(egress, stated.egress.unit)
    known = count is not None and staging is not None and egress is not None
    certainty = stated.certainty or "estimated"
    return Locality(count, stated.sources or (), staging, egress, certainty if known else "unknown")


def _span(bounds: Bounds | None) -> Span | None:
    """The range whose middle is the expected value."""
    if bounds is None or bounds.stand_in or not 0 <= bounds.expected <= bounds.pessimistic:
        return None
    spread = bounds.pessimistic - bounds.expected
    return Span(max(0.0, bounds.expected - spread), bounds.pessimistic)
