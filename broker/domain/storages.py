"""The storages of a federation and the ways between them. Pure; imports the domain's models.

Storages and links are configuration; what was measured on a way corrects what is configured. Prices come out in the
base currency.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from urllib.parse import SplitResult, urlsplit

import msgspec

from broker.domain.experience import Measured, blend
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.site import Link, StorageElement

ANY = "*"
_MOST = 1e15  # seconds, or money a GB: so that no absurd link leads to an infinity
_PORTS = {"http": 80, "https": 443, "dav": 80, "davs": 443, "ftp": 21, "root": 1094}


class Way(msgspec.Struct, frozen=True):
    """What bytes go by from one storage to a site. Files of one `key` share it. `bandwidth`: bytes a second, slow to
    fast; `price`: money a GB, in the base currency, None: not known; `samples`: measured transfers behind it."""

    key: tuple[str, str]
    bandwidth: Span
    latency: float = 0.0
    concurrency: int = 1
    price: float | None = None
    samples: int = 0

    def seconds(self, count: float, files: int) -> Span:
        """For that many bytes in so many files, `concurrency` of them at a time, each round with its latency."""
        waits = ceil(files / self.concurrency) * self.latency
        return Span(
            min(count / self.bandwidth.high + waits, _MOST),
            min(count / self.bandwidth.low + waits, _MOST),
        )


class Map:
    """The storages of the federation and the links between them. Built once; does not change.

    Storages of one name are one: their prefixes add up. Two storages may not share a prefix; where they do, the
    name that sorts first has it. Of two links between the same two ends the first counts.
    """

    def __init__(self, storages: Iterable[StorageElement], links: Iterable[Link], exchange: Exchange) -> None:
        storages = list(storages)
        self._prefixes: dict[str, str] = {}
        for name, prefix in sorted((item.name, prefix) for item in storages for prefix in item.prefixes):
            self._prefixes.setdefault(normal(prefix), name)
        self._depth = max((prefix.count("/") for prefix in self._prefixes), default=0)
        self.blank = not storages  # nothing is declared: nobody here can say where anything lies
        self._recalls = {item.name: Span(*item.recall) for item in storages if item.recall}
        self._tapes = {item.name for item in storages if item.tape} | self._recalls.keys()
        self._links: dict[tuple[str, str], Link] = {}
        for link in links:
            self._links.setdefault((link.source, link.target), link)
        self.exchange = exchange

    def storage_of(self, url: str | None) -> str | None:
        """The storage that declares the longest prefix of `url`, ending where a part of its path ends; else None."""
        if not url:
            return None
        # No deeper than any prefix: of an address of a megabyte, each part costs a copy of all before it.
        part = "/".join(normal(url).split("/", self._depth + 1)[: self._depth + 1])
        while part:
            if part in self._prefixes:
                return self._prefixes[part]
            part = _shorter(part)
        return None

    def tape(self, storage: str) -> bool:
        """It is declared to be one."""
        return storage in self._tapes

    def recall(self, storage: str) -> Span | None:
        """Seconds until a file on that tape can be read; None: not configured."""
        return self._recalls.get(storage)

    def link(self, source: str | None, target: str | None) -> Link | None:
        """The most specific link; a named source is more specific than a named target, since it sets the price.
        None as an end: that end is not known, and only `*` matches it."""
        for pair in ((source, target), (source, ANY), (ANY, target), (ANY, ANY)):
            found = self._links.get((pair[0] or ANY, pair[1] or ANY))
            if found is not None:
                return found
        return None

    def way(
        self, source: str | None, target: str | None, site: str, measured: Mapping[tuple[str, str], Measured]
    ) -> Way | None:
        """By the link as configured, and by what was measured from `source` to `site`. Measured alone: its price is
        not known. None: neither."""
        link, seen = self.link(source, target), measured.get((source or "", site))
        if link is None:
            return None if seen is None else Way((source or ANY, site), seen.bandwidth, samples=seen.samples)
        slow, fast = sorted((link.bandwidth, link.bandwidth_low or link.bandwidth))
        price = self._price(link)
        key = (link.source, link.target)
        bandwidth, samples = Span(slow, fast), 0
        if seen is not None:
            key, bandwidth, samples = (source or ANY, site), blend(bandwidth, seen), seen.samples
        return Way(key, bandwidth, link.latency, link.concurrency, price, samples)

    def _price(self, link: Link) -> float | None:
        span = self.exchange.convert(Span.of(link.price), link.currency)
        return min(span.low, _MOST) if span else None


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
