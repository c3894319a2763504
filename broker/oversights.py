"""What a settings file says of data and its ways that is possible, and hardly meant: lines for check-config.

Imports the settings and the domain; pure. What cannot be at all is refused when the file is read (broker.settings).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches

from broker.domain.site import Link, StorageElement
from broker.domain.storages import ANY, normal
from broker.settings import Settings

_SLOWEST = 1e4  # bytes a second; less was meant in another unit
_MOST_NAMES = 5


def oversights(settings: Settings) -> list[str]:
    """Each with the key and what to do, without a mark before it."""
    declared = list(_declared(settings))
    return [
        *_links(settings, {item.name for _, item in declared}),
        *_prefixes(declared),
        *_bare(settings),
        *_writes(settings),
        *_catalogues(settings),
    ]


def _declared(settings: Settings) -> Iterator[tuple[str, StorageElement]]:
    """Every storage, with its key."""
    for i, item in enumerate(settings.storages):
        yield f"storages.{i}", item
    for name, site in settings.sites.items():
        for i, item in enumerate(site.storages):
            yield f"sites.{name}.storages.{i}", item


# ── links ────────────────────────────────────────────────────────────────────────────────────────────────────


def _links(settings: Settings, names: set[str]) -> Iterator[str]:
    ends = Counter((link.source, link.target) for link in settings.links)
    for i, link in enumerate(settings.links):
        key = f"links.{i}"
        for what, end in (("source", link.source), ("target", link.target)):
            if end != ANY and end not in names:
                yield f"{key}.{what}: no storage here is called {end}{_instead(end, names, settings)}"
        if ends.pop((link.source, link.target), 1) > 1:
            yield f"{key}: {link.source} to {link.target} stands here more than once, and the first counts"
        yield from _figures(key, link, settings)


def _instead(end: str, names: set[str], settings: Settings) -> str:
    """The likeliest storage; sites that say themselves what they have may have it after all."""
    site = settings.sites.get(end)
    if site is not None:
        of = ", ".join(item.name for item in site.storages) or "none are declared"
        return f"; that is a site, and a link leads to a storage: {of}"
    if ANY in end:
        return '; "*" stands for all storages, and for no part of a name'
    close = get_close_matches(end, names, 1, 0.5)
    return f". Nearest: {close[0]}" if close else ", so it counts only where a site says itself that it has it"


def _figures(key: str, link: Link, settings: Settings) -> Iterator[str]:
    if link.bandwidth < _SLOWEST:
        yield f"{key}.bandwidth: {link.bandwidth:g} bytes a second; 1 Gbit/s is written 125.0e+6"
    if link.bandwidth_low is not None and link.bandwidth_low > link.bandwidth:
        yield f"{key}.bandwidth_low: more than bandwidth, which is that of a good day; they are taken the other way"
    money = settings.currencies
    if link.currency not in (None, money.base, *money.rates):
        yield f"{key}.currency: {link.currency} has no rate, so the price is not known. Add it to currencies.rates"


# ── storages ─────────────────────────────────────────────────────────────────────────────────────────────────


def _prefixes(declared: list[tuple[str, StorageElement]]) -> Iterator[str]:
    owners: dict[str, set[str]] = {}
    for key, item in declared:
        for prefix in item.prefixes:
            owners.setdefault(normal(prefix), set()).add(item.name)
            if "://" not in prefix:
                yield f"{key}.prefixes: {prefix} begins no URL. Write it with its scheme, such as https:// or s3://"
    for key, item in declared:
        for prefix in item.prefixes:
            first = min(owners[normal(prefix)])
            if first != item.name:
                yield f"{key}.prefixes: {prefix} is said to be on {first} as well, and counts as being there"


def _bare(settings: Settings) -> Iterator[str]:
    """Who has no storages while others have: nothing ever counts as being there."""
    bare = [name for name, site in settings.sites.items() if not site.storages]
    if bare and (settings.links or settings.catalogues or len(bare) < len(settings.sites)):
        more = f" and {len(bare) - _MOST_NAMES} more" if len(bare) > _MOST_NAMES else ""
        yield (
            f"sites: no storages are declared for {', '.join(bare[:_MOST_NAMES])}{more}: unless they say themselves "
            "what they have, no data counts as being there"
        )


def _writes(settings: Settings) -> Iterator[str]:
    for name, site in settings.sites.items():
        for entry in site.writes:
            if "://" not in entry and not re.fullmatch(r"[a-z][a-z0-9+.-]*|rucio:.+", entry):
                yield f"sites.{name}.writes: {entry} is no scheme, nor the beginning of a place such as s3://results/"


# ── catalogues ───────────────────────────────────────────────────────────────────────────────────────────────


def _catalogues(settings: Settings) -> Iterator[str]:
    if settings.locating.patience >= settings.fanout.deadline:
        yield (
            "locating.patience: sites wait for the catalogues until their answers come too late: less than "
            f"fanout.deadline ({settings.fanout.deadline:g} s) is wanted"
        )
    for name, item in settings.catalogues.items():
        if item.kind == "http" and item.url is not None:
            yield f"catalogues.{name}.url: the kind http asks the addresses of the data itself, and not this one"
