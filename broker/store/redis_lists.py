"""Lists of the Redis store: lines packed for its scripts, and pages merged over the partitions.

Imports ports, redis_nodes and redis_scripts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from broker.ports import Listing, Query
from broker.store.redis_nodes import Nodes
from broker.store.redis_scripts import COUNTS, PAGE

BUDGET = 2000  # lines that one script looks at: a filter that fits little must not keep others waiting
FIRST_PIECE = 2  # lines asked of one partition of a Cluster at first; few of 256 have more of a page's lines

_Line = tuple[str, str, float, str, str, str]  # aggregate, owner, created, phase, name, site


def packed(aggregate: str, line: Listing) -> bytes:
    """As the scripts keep it; kind and id stand in the keys."""
    created = float(line.created)
    if math.isnan(created):
        raise ValueError(f"the line {line.id!r} was created at no time")
    return msgspec.msgpack.encode((aggregate, line.owner, created, line.phase, line.name, line.site))


def unpacked(kind: str, id: bytes, content: bytes) -> Listing:
    _, owner, created, phase, name, site = msgspec.msgpack.decode(content, type=_Line)
    return Listing(kind, id.decode(), owner, created, phase, name, site)


class _Source:
    """A group of partitions, read newest first. `at`: the last line that was looked at."""

    def __init__(self, numbers: Sequence[int], at: tuple[float, str], piece: int, limit: int) -> None:
        self.numbers, self.at, self.piece, self._limit = numbers, at, piece, limit
        self.open = True

    def take(self, kind: str, reply: Any) -> list[Listing]:
        rows, last = reply
        self.open = bool(last)
        if last:
            self.at = (float(last[0]), last[1].decode())
        self.piece = min(2 * self.piece, self._limit)
        return [unpacked(kind, id, content) for id, content in zip(rows[::2], rows[1::2], strict=True)]


async def page(nodes: Nodes, query: Query) -> list[Listing]:
    """The newest lines that fit, of all partitions."""
    limit = max(0, query.limit)
    groups = nodes.groups()
    piece = limit if len(groups) == 1 else min(limit, FIRST_PIECE)
    sources = [_Source(numbers, query.after or (math.inf, ""), piece, limit) for numbers in groups]
    lines: list[Listing] = []
    while limit:
        lines = sorted(lines, key=_place, reverse=True)[:limit]
        edge = _place(lines[-1]) if len(lines) == limit else (-math.inf, "")
        unread = [source for source in sources if source.open and source.at > edge]
        if not unread:
            break
        asked = [(source.numbers, (_filter(query, source.at), source.piece, BUDGET)) for source in unread]
        for source, reply in zip(unread, await nodes.together(PAGE, asked), strict=True):
            lines += source.take(query.kind, reply)
    return lines


def _place(line: Listing) -> tuple[float, str]:
    return line.created, line.id


def _filter(query: Query, at: tuple[float, str]) -> bytes:
    given = {
        "kind": query.kind,
        "owner": query.owner,
        "phases": query.phases or None,
        "site": query.site,
        "name": query.name,
        "since": query.since,
        "created": at[0] if at[0] < math.inf else None,
        "id": at[1],
    }
    return msgspec.msgpack.encode({key: value for key, value in given.items() if value is not None})


async def counts(nodes: Nodes) -> Mapping[tuple[str, str, str], int]:
    """Of all partitions together."""
    totals: Counter[bytes] = Counter()
    for rows in await nodes.each(COUNTS):
        for field, number in zip(rows[::2], rows[1::2], strict=True):
            totals[field] += number
    decoder = msgspec.msgpack.Decoder(tuple[str, str, str])
    return {decoder.decode(field): number for field, number in totals.items()}
