"""What a computing element tells of itself in GLUE 2, as numbers. Pure; imports the domain's spans.

Source: GLUE 2.0 (OGF GFD.147), entities ComputingShare and ComputingManager, as A-REX 6.17 renders them in JSON: a
list of one is the one alone, and every number is a text. Times are seconds, memory MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from broker.domain.quantities import Span

LAG = 60.0  # seconds that what ARC tells may be old
_UNKNOWN = 999_999_999  # GLUE 2's placeholder for a number that is not known


class Cluster(NamedTuple):
    """Of the queue that jobs go to; where that is not said, of the only one. None: it does not tell."""

    slots: int | None = None
    free: int | None = None
    waiting: int | None = None
    average: int | None = None
    worst: int | None = None
    most_slots: int | None = None
    most_memory: int | None = None
    most_time: int | None = None


def cluster(document: Mapping[str, Any], queue: str | None) -> Cluster:
    services = _below(document, "Domains", "AdminDomain", "Services", "ComputingService")
    service = next(services, {})
    shares = list(_below(service, "ComputingShare"))
    mine = [share for share in shares if queue in (None, share.get("Name"), share.get("MappingQueue"))]
    share = mine[0] if len(mine) == 1 else {}
    manager = next(_below(service, "ComputingManager"), {})
    return Cluster(
        slots=_number(manager, "TotalSlots"),
        free=_number(share, "FreeSlots"),
        waiting=_sum(share, "WaitingJobs", "LocalWaitingJobs", "PreLRMSWaitingJobs"),
        average=_number(share, "EstimatedAverageWaitingTime"),
        worst=_number(share, "EstimatedWorstWaitingTime"),
        most_slots=_number(share, "MaxSlotsPerJob"),
        most_memory=_number(share, "MaxMainMemory"),
        most_time=_number(share, "MaxWallTime"),
    )


def wait(known: Cluster, cores: int) -> Span | None:
    """Seconds until a job of so many cores would run. What the service estimates; or no wait, where slots are free and
    nobody waits for them; None: nobody can tell."""
    if known.average is not None:
        return Span(known.average, max(known.average, known.worst or 0) + LAG)
    if known.waiting == 0 and known.free is not None and known.free >= cores:
        return Span(0.0, LAG)
    return None


def _below(document: Mapping[str, Any], *path: str) -> Iterator[Mapping[str, Any]]:
    """Every element at that path."""
    if not path:
        yield document
        return
    found = document.get(path[0])
    for item in found if isinstance(found, list) else [found]:
        if isinstance(item, dict):
            yield from _below(item, *path[1:])


def _number(entity: Mapping[str, Any], name: str) -> int | None:
    text = entity.get(name)
    known = isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 18
    return int(text) if known and int(text) != _UNKNOWN else None  # type: ignore[arg-type] # `known` says it


def _sum(entity: Mapping[str, Any], *names: str) -> int | None:
    """None: none of them is told."""
    found = [number for name in names if (number := _number(entity, name)) is not None]
    return sum(found) if found else None
