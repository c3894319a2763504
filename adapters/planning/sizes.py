"""How much a request is given: what limits it, and which sizes are worth offering. Pure; imports the domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from adapters.planning.platform import Capacity
from adapters.planning.policies import Ceilings, over, too_long
from adapters.planning.settings import CapacitySettings
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest
from broker.domain.resources import AbstractStorageResource, SimpleStorageResource

PLAIN = ("cores", "memory", "storage")
LONGEST = 10 * 365 * 86400.0  # seconds of one run, whatever the settings say: calendars end with the year 9999
DEFAULT_STORAGE = 1  # GiB, of a storage resource that states no size


class Size(msgspec.Struct, frozen=True):
    cores: int
    memory: int


class Limits(msgspec.Struct, frozen=True):
    """What the site has (`room`), and the most that one request gets of it (`most`). Keys: cores, memory, storage
    and types of extras; a missing one is not limited."""

    room: Mapping[str, float]
    most: Mapping[str, float]
    seconds: float = LONGEST

    def cap(self, what: str, amount: int) -> int:
        return int(min(amount, self.most.get(what, amount)))


def limits(capacity: Capacity, settings: CapacitySettings, ceilings: Ceilings) -> Limits:
    """The settings override what the platform says of itself; a ceiling only ever lowers."""
    room: dict[str, float] = {}
    for what in PLAIN:
        stated = getattr(settings, what)
        amount = stated if stated is not None else getattr(capacity, what)
        if amount is not None:
            room[what] = float(amount)
    room.update(settings.extras or capacity.extras)
    most = dict(room)
    for what, ceiling in (*capacity.largest.items(), *_ceilings(ceilings)):
        most[what] = min(most.get(what, ceiling), ceiling)
    seconds = ceilings.duration.total_seconds() if ceilings.duration else LONGEST
    return Limits(room, most, min(seconds, LONGEST))


def _ceilings(ceilings: Ceilings) -> Iterator[tuple[str, float]]:
    for what in PLAIN:
        if (ceiling := getattr(ceilings, what)) is not None:
            yield what, float(ceiling)
    yield from ceilings.extras.items()


def refuse(request: ExecutionRequest, bounds: Limits) -> tuple[Reason, ...]:
    """Every minimum that is beyond what one request can get here."""
    return tuple(_refusals(request, bounds))


def _refusals(request: ExecutionRequest, bounds: Limits) -> Iterator[Reason]:
    for element, what, asked, unit in (
        ("compute.cores.min", "cores", max(1, request.cores[0]), "cores"),
        ("compute.memory.min", "memory", max(1, request.memory[0]), "GiB"),
        ("storage", "storage", storage(request), "GiB"),
    ):
        if asked > bounds.most.get(what, asked):
            yield over(element, asked, bounds.most[what], unit)
    for what, (_, asked_max) in (("cores", request.cores), ("memory", request.memory)):
        if asked_max == 0:
            yield Reason("nothing runs on none.", element=f"compute.{what}.max", rule="floor", nearest="1")
    for type_, count in request.extras.items():
        # An extra that calls itself `cores` would be charged in the place of the cores.
        has = bounds.most.get(type_, 0) if type_ not in PLAIN else 0
        if not has:
            yield Reason(f"there is no {type_} here.", element="compute.extras", rule="ceiling", nearest="none")
        elif count > has:
            yield over("compute.extras", count, has, type_)
    seconds = request.duration.total_seconds()
    if seconds > bounds.seconds:
        yield too_long(seconds, bounds.seconds)


def choose(request: ExecutionRequest, bounds: Limits, most: int) -> tuple[Size, ...]:
    """At most `most` sizes, evenly from the minima to the asked maxima within the limits; never beyond what was
    asked. Without an asked maximum, the minimum alone."""
    low = Size(max(1, request.cores[0]), max(1, request.memory[0]))
    high = Size(
        max(low.cores, bounds.cap("cores", request.cores[1] or low.cores)),
        max(low.memory, bounds.cap("memory", request.memory[1] or low.memory)),
    )
    steps = max(1, most - 1)
    sizes = [
        Size(low.cores + (high.cores - low.cores) * i // steps, low.memory + (high.memory - low.memory) * i // steps)
        for i in range(most)
    ]
    return tuple(dict.fromkeys(sizes))


def capped(request: ExecutionRequest, bounds: Limits) -> Iterator[tuple[str, int, int]]:
    """(what, asked maximum, the most there is) where more was asked than can be had."""
    for what, asked in (("cores", request.cores[1]), ("memory", request.memory[1])):
        if asked is not None and bounds.cap(what, asked) < asked:
            yield what, asked, bounds.cap(what, asked)


def storage(request: ExecutionRequest) -> int:
    """GiB granted over all storage resources."""
    return sum(granted(item) for item in request.storage or ())


def granted(item: AbstractStorageResource) -> int:
    """GiB granted to one: its minimum."""
    size = item.size if isinstance(item, SimpleStorageResource) else None
    return size.min if size and size.min is not None else DEFAULT_STORAGE


def amounts(size: Size, request: ExecutionRequest) -> dict[str, float]:
    """What a run of this size charges the calendar."""
    asked = {"cores": size.cores, "memory": size.memory, "storage": storage(request), **request.extras}
    return {what: float(amount) for what, amount in asked.items() if amount > 0}
