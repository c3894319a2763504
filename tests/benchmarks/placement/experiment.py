"""One federation, one stream, every rule, at several values of time. Imports rules, learned and world.

The requests of the warm-up are placed once, at random; every rule goes on from a copy of that world.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .federation import Federation, Stream
from .learned import Memory
from .rules import RANKED, RULES, Broker, Rule
from .world import HOUR, World

HOURS = (0.0, 5.0, 50.0)  # EUR for an hour until the result


class Outcome(NamedTuple):
    """What one rule came to, over all requests that are judged. EUR; `hours`: of all requests, from asking to the
    result; `bytes` that moved for them; `seconds` it took us."""

    sites: int
    seed: int
    hour: float
    rule: str
    requests: int
    cost: float
    paid: float
    egress: float
    hours: float
    bytes: float
    seconds: float


class Start(NamedTuple):
    """Where every rule begins."""

    world: World
    memory: Memory
    broker: Broker


def prepare(federation: Federation, stream: Stream) -> Start:
    """The warm-up, to its last request."""
    broker, world, memory = Broker(federation), World(federation, stream), Memory()
    rule = Rule("random", broker, 0.0)
    for number in range(stream.warmup):
        world.advance(stream.requests[number].at)
        choice = memory.choices[number] = rule.choose(world, number)
        world.place(number, choice.site)
    return Start(world, memory, broker)


def run(start: Start, name: str, hour: float) -> tuple[World, Memory]:
    """One rule over all requests that are judged, until the last has ended. `start` is left as it is."""
    world, memory = start.world.copy(), start.memory.copy()
    learns = {"experience": lambda: memory.experience(world)} if name.startswith("calibrated") else {}
    rule = Rule(name, start.broker, hour, **learns)
    stream = world.stream
    for number in range(stream.warmup, len(stream.requests)):
        world.advance(stream.requests[number].at)
        choice = memory.choices[number] = rule.choose(world, number)
        world.place(number, choice.site)
    world.finish()
    return world, memory


def outcome(world: World, name: str, hour: float, seconds: float) -> Outcome:
    stream = world.stream
    jobs = [world.jobs[number] for number in range(stream.warmup, len(stream.requests))]
    paid, egress = sum(job.billed for job in jobs), sum(job.egress for job in jobs)
    hours = sum((job.ended or 0.0) - job.came for job in jobs) / HOUR
    return Outcome(
        sites=len(world.federation.sites),
        seed=world.federation.seed,
        hour=hour,
        rule=name,
        requests=len(jobs),
        cost=paid + egress + hour * hours,
        paid=paid,
        egress=egress,
        hours=hours,
        bytes=sum(job.moved for job in jobs),
        seconds=seconds,
    )


def outcomes(
    federation: Federation, stream: Stream, rules: Sequence[str] = RULES, hours: Sequence[float] = HOURS
) -> Iterable[Outcome]:
    """A rule that ranks runs once for each value of time; the others go the same way at all of them."""
    start = prepare(federation, stream)
    for name in rules:
        world: World | None = None
        for hour in hours:
            began = time.process_time()
            if world is None or name.partition("+")[0] in RANKED:
                world, _ = run(start, name, hour)
            yield outcome(world, name, hour, time.process_time() - began)
