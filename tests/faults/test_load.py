"""A load with faults: many people ask and accept while replicas, sites and the store are killed at random.

At the end, when all has settled: nothing was submitted twice, no acknowledged acceptance is lost, no offer is held for
nobody. The quick form is one broker on SQLite; the long one, three replicas on a Redis with an append-only file.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
import pytest

from broker.domain.session import TERMINAL
from broker.testing.desk import REQUEST, Desk, Place, eventually, opened, place
from broker.testing.program import Answer
from broker.testing.redis_server import RedisServer
from tests.conftest import want

pytestmark = [pytest.mark.system]

TERMS: dict[str, dict[str, Any]] = {
    "plain-a": {"price": 1.0},
    "plain-b": {"price": 1.1, "offers": 2},
    "ours-a": {"price": 1.0, "broker_id": "their-a"},
    "ours-b": {"price": 1.2, "broker_id": "their-b", "offers": 2},
}
UNHEARD = (aiohttp.ClientError, TimeoutError, ConnectionError)


class Scale(NamedTuple):
    replicas: int
    seconds: float  # of load and faults
    people: int
    pause: float  # seconds between two faults, at most
    lives: float  # seconds that an offer stands


QUICK = Scale(replicas=1, seconds=4.0, people=6, pause=1.5, lives=6.0)
LONG = Scale(replicas=3, seconds=120.0, people=24, pause=3.0, lives=30.0)


class Told:
    """What people were told, and what they know of."""

    def __init__(self) -> None:
        self.asked = self.refused = self.tried = 0
        self.sets: dict[str, dict[str, str]] = {}  # set → its sessions → the site of each
        self.acknowledged: set[str] = set()  # sessions
        self.faults: Counter[str] = Counter()


class Person:
    """Asks, takes an offer or leaves it, and repeats what was not heard at whichever replica."""

    def __init__(self, desks: Sequence[Desk], told: Told, chance: random.Random) -> None:
        self._desks, self._told, self._chance = desks, told, chance

    async def live(self, end: float) -> None:
        while time.monotonic() < end:
            offers = await self._ask(end)
            if offers and self._chance.random() < 0.8:
                await self._take(self._chance.choice(offers[:3]), end)

    async def _ask(self, end: float) -> list[str]:
        key = {"Idempotency-Key": str(uuid4())}
        self._told.asked += 1
        answer = await self._insist(lambda desk: desk.send("POST", "/requests", REQUEST, **key), end)
        if answer is None or answer.status != 303:
            return []
        document = answer.json()
        found = {f"/sessions/{offer['meta']['uuid']}": offer["site"] for offer in document["offers"]}
        self._told.sets[document["meta"]["uuid"]] = found
        return list(found)

    async def _take(self, path: str, end: float) -> None:
        self._told.tried += 1
        while time.monotonic() < end:
            answer = await self._insist(lambda desk: desk.accept(path), end)
            if answer is None or answer.status != 200:
                return  # expired meanwhile, or refused
            phase = answer.json()["phase"]
            if phase != "OFFERED":
                if phase not in ("REJECTED", "EXPIRED", "FAILED"):
                    self._told.acknowledged.add(path)
                return
            await asyncio.sleep(0.2)  # in doubt: it is being resolved

    async def _insist(self, call: Callable[[Desk], Awaitable[Answer]], end: float) -> Answer | None:
        """Until somebody answers with more than "not now"."""
        while time.monotonic() < end:
            try:
                answer = await call(self._chance.choice(self._desks))
            except UNHEARD:
                await asyncio.sleep(0.1)
                continue
            busy = answer.status == 409 and b"worked on" in answer.body
            if answer.status != 503 and not busy:
                return answer
            self._told.refused += 1
            await asyncio.sleep(0.2)
        return None


class Weather:
    """Breaks something at random, and mends it."""

    def __init__(
        self, desks: Sequence[Desk], places: Sequence[Place], redis: RedisServer | None, told: Told,
        chance: random.Random,
    ) -> None:  # fmt: skip
        self._desks, self._places, self._store, self._told, self._chance = desks, places, redis, told, chance

    async def rage(self, end: float, pause: float) -> None:
        kinds = [self._replica, self._site, self._wire, *([self._redis] if self._store else [])]
        while time.monotonic() < end:
            await asyncio.sleep(self._chance.uniform(0.3, pause))
            breaks = self._chance.choice(kinds)
            self._told.faults[breaks.__name__.strip("_")] += 1
            await breaks()

    async def _replica(self) -> None:
        program = self._chance.choice(self._desks).program
        await asyncio.to_thread(program.kill)
        await asyncio.to_thread(program.start)

    async def _redis(self) -> None:
        assert self._store is not None
        await asyncio.to_thread(self._store.kill)
        await asyncio.sleep(self._chance.uniform(0.1, 1.0))
        await asyncio.to_thread(self._store.start)

    async def _site(self) -> None:
        """It goes down with all its connections, and comes back with its memory, as one with a database does."""
        found = self._chance.choice(self._places)
        await found.site.stop()
        await asyncio.sleep(self._chance.uniform(0.1, 1.0))
        await found.site.start()

    async def _wire(self) -> None:
        """Every connection is reset, whatever was on it; for a moment no new one is taken."""
        found = self._chance.choice(self._places)
        found.wire.refuse = True
        found.wire.kill()
        await asyncio.sleep(self._chance.uniform(0.1, 0.5))
        found.wire.refuse = False


class Figures(NamedTuple):
    lost: int  # acknowledged acceptances that did not become a run
    twice: int  # sessions that began more than once, or were submitted more than once where that may not be
    shared: int  # sets of which more than one session ran
    held: int  # offers of theirs that their sites were never told to let go
    strange: int  # runs that no set of ours knows of


async def settle(desk: Desk, told: Told, places: Sequence[Place]) -> dict[str, str]:
    """The phase of every session that people know of, when nothing moves any more."""
    phases: dict[str, str] = {}
    paths = [path for sessions in told.sets.values() for path in sessions]

    async def over() -> bool:
        for path in paths:
            if phases.get(path) not in TERMINAL:
                phases[path] = await desk.phase(path)
        return all(phase in TERMINAL for phase in phases.values())

    with suppress(TimeoutError):
        await eventually(over, 120.0)

    async def all_back() -> bool:
        return held_for_nobody(told, places) == 0

    with suppress(TimeoutError):
        await eventually(all_back, 60.0)
    return phases


def held_for_nobody(told: Told, places: Sequence[Place]) -> int:
    """At the sites that end no offer themselves: offers of sets that people know of, all over by now, which nobody
    has told the site to let go. What was offered to a question without an answer is known to nobody but its site."""
    known = Counter(site for sessions in told.sets.values() for site in sessions.values())
    plain = [found for found in places if not found.site.broker_id]
    return sum(max(0, len(found.held) - (len(found.site.sessions) - known[found.name])) for found in plain)


def judge(told: Told, phases: dict[str, str], places: Sequence[Place]) -> Figures:
    begun = Counter[str]()
    for found in places:
        begun.update(found.site.executions)
        if not found.site.broker_id:
            begun.update(Counter(seen.path for seen in found.site.seen("accept")))
    ran = {path for path, phase in phases.items() if phase == "COMPLETED"}
    return Figures(
        lost=len(told.acknowledged - ran),
        twice=sum(count > 1 for count in begun.values()),
        shared=sum(len(ran & set(paths)) > 1 for paths in told.sets.values()),
        held=held_for_nobody(told, places),
        strange=sum(found.runs for found in places) - len(ran),
    )


async def storm(folder: Path, scale: Scale, redis: RedisServer | None, seed: int) -> tuple[Told, Figures, str]:
    told, chance = Told(), random.Random(seed)
    async with AsyncExitStack() as stack:
        places = [
            await stack.enter_async_context(place(name, lives=scale.lives, **terms)) for name, terms in TERMS.items()
        ]
        settings: dict[str, Any] = {
            "sites": {p.name: {"url": p.wire.url, "poll": 0.5, "timeout": 2.0} for p in places},
            "acceptance": {"forward": 1.0, "patience": 2.0},
            "fanout": {"deadline": 2.0, "grace": 2.0},
            **({"store": redis.url} if redis else {}),
        }
        desks = [
            await stack.enter_async_context(opened(folder / str(n), "federation", **settings))
            for n in range(scale.replicas)
        ]
        for desk in desks:
            await desk.live(*TERMS)
        end = time.monotonic() + scale.seconds
        people = [Person(desks, told, random.Random(chance.random())) for _ in range(scale.people)]
        weather = Weather(desks, places, redis, told, chance)
        await asyncio.gather(weather.rage(end, scale.pause), *(person.live(end) for person in people))
        phases = await settle(desks[0], told, places)
        figures = judge(told, phases, places)
        left = sum(len(found.held) for found in places)
        ended = Counter(phases.values())
        text = (
            f"seed {seed}: {told.asked} questions, {len(told.sets)} sets, {told.tried} acceptances tried, "
            f"{len(told.acknowledged)} acknowledged, {told.refused} times told to come back; "
            f"faults {dict(told.faults)}; {sum(found.runs for found in places)} runs; sessions {dict(ended)}; "
            f"{left} offers left to expire at their sites; {figures}"
        )
        return told, figures, text


async def test_a_short_storm_over_one_broker(tmp_path: Path) -> None:
    told, figures, text = await storm(tmp_path, QUICK, None, random.SystemRandom().randrange(10**6))
    print(text)  # noqa: T201 - what a run is for
    assert figures == Figures(0, 0, 0, 0, 0), text
    assert told.acknowledged, text


@pytest.mark.faults
async def test_a_long_storm_over_three_replicas_and_their_redis(tmp_path: Path) -> None:
    want("redis-server", "redis-server")
    redis = RedisServer(tmp_path / "redis", "--appendfsync", "always").start()
    try:
        told, figures, text = await storm(tmp_path, LONG, redis, random.SystemRandom().randrange(10**6))
    finally:
        redis.kill()
    print(text)  # noqa: T201 - what a run is for
    assert figures == Figures(0, 0, 0, 0, 0), text
    assert len(told.acknowledged) > 500, text
