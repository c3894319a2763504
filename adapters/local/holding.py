"""Which of a request's data lies on this machine already: in the cache, or as files below the allowed roots. No server
is asked. Imports the standard library and this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adapters.local.bringing import digits
from adapters.local.cache import Cache
from adapters.local.fetching import local_path
from adapters.local.layout import Datum


def held(datum: Datum, roots: Sequence[Path], cache: Cache | None) -> int | None:
    """Its bytes; None: it is not here, or it is not what the request states. What is in the cache without a stated
    checksum may have changed at its server; that shows when it is staged."""
    for count in (*(_file(url, roots) for url in datum.urls), _cached(datum, cache)):
        if count is not None and datum.bytes in (None, count):
            return count
    return None


def _file(url: str, roots: Sequence[Path]) -> int | None:
    path = local_path(url)
    try:
        real = path.resolve() if path else None
        if real is None or not real.is_file() or not any(real.is_relative_to(root.resolve()) for root in roots):
            return None
        return real.stat().st_size
    except (OSError, ValueError, RuntimeError):  # the latter: links in a circle
        return None


def _cached(datum: Datum, cache: Cache | None) -> int | None:
    if cache is None:
        return None
    abouts = [about for url in datum.urls if (about := cache.about(url)) is not None]
    if datum.checksum is None:
        found = [about for about in abouts if about.etag or about.modified]
    else:
        kind, value = datum.checksum[0], digits(*datum.checksum)
        known = cache.about_sum(kind, value)
        found = [about for about in abouts if about.checksums.get(kind) == value] + ([known] if known else [])
    return found[0].bytes if found else None
