"""What the sessions of one simulated world have shown, by the broker's own estimators. Imports domain/learning.

Every site says when a session began to prepare, ran and ended, and what it cost; sites of ours report their transfers
too. A session teaches when it has ended, not before.
"""

from __future__ import annotations

from uuid import UUID

from broker.domain import learning, reported
from broker.domain.experience import BLANK, Experience, Measured
from broker.domain.learning import Habits, Lived, Told
from broker.domain.reported import Moved
from broker.domain.scoring import promises

from .rules import Choice
from .world import Job, World

EPOCH = 1_800_000_000.0  # the world's zero; estimators want instants


class Memory:
    """Lives beside one world, and is told of it."""

    def __init__(self) -> None:
        self.choices: dict[int, Choice] = {}
        self._lived: dict[str, Lived] = {}
        self._read = 0
        self._ways: dict[tuple[str, str], Measured] = {}
        self._own: dict[tuple[str, str], Habits] = {}
        self._picture: Experience = BLANK

    def copy(self) -> Memory:
        other = Memory()
        other.choices, other._lived, other._read = dict(self.choices), dict(self._lived), self._read
        other._ways, other._own, other._picture = dict(self._ways), dict(self._own), self._picture
        return other

    def experience(self, world: World) -> Experience:
        """With all that has ended by now."""
        if self._read < len(world.finished):
            fresh = world.finished[self._read :]
            self._read = len(world.finished)
            for name in {self._learn(world, job) for job in fresh}:
                self._estimate(name, EPOCH + world.now)
            self._picture = learning.picture(self._ways, self._own)
        return self._picture

    def _learn(self, world: World, job: Job) -> str:
        assert job.request is not None
        assert job.ended is not None
        site, asked = world.federation.sites[job.site], world.stream.requests[job.request]
        session, ended = UUID(int=job.request), EPOCH + job.ended
        told = _told(job, self.choices[job.request])
        moves = _moves(world, job) if site.performance is not None else []
        moving = reported.moving(moves)
        found = learning.sample(session, told, completed=True, over=ended, moving=moving)
        ways = reported.transfers(session, moves, told.at, ended)
        self._lived[site.name] = learning.add(self._lived.get(site.name, Lived()), asked.kind, found, ways, ended)
        return site.name

    def _estimate(self, name: str, now: float) -> None:
        lived = self._lived[name]
        self._own |= {(name, kind): learning.habits(samples, now) for kind, samples in lived.kinds.items()}
        for source, transfers in lived.sources.items():
            if (measured := learning.measured(transfers, now)) is not None:
                self._ways[source, name] = measured


def _told(job: Job, choice: Choice) -> Told:
    assert job.slot is not None
    assert job.begun is not None
    assert job.ended is not None
    offer = choice.offer
    staging, run = promises(offer)
    return Told(
        at=EPOCH + job.came,
        start=EPOCH + offer.start.expected,
        staging=staging,
        run=run,
        cost=offer.price.expected if offer.price else None,
        preparing=EPOCH + job.slot,
        began=EPOCH + job.begun,
        ended=EPOCH + job.ended,
        actual_cost=job.billed,
    )


def _moves(world: World, job: Job) -> list[Moved]:
    assert job.staged is not None
    return [
        Moved(world.federation.sites[source].storages[0].name, count, seconds, EPOCH + at)
        for source, count, seconds, at in job.transfers
    ]
