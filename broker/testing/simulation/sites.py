"""Sites as state machines with a memory and a ledger. Imports ports and the domain.

The memory is what the site knows, and may forget; the ledger is what really happened there, which only the checker
reads: every offer made, every acceptance that arrived, every run begun. A site acts in one step when a request
arrives; what is slow or lost is the network's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from broker.domain import kinds, session
from broker.domain.outcome import Quote, Reason
from broker.domain.quantities import format_instant
from broker.domain.site import Profile, Registration
from broker.errors import SiteBusy, SiteError, SiteForgot, SiteRefused
from broker.ports import Ask, Clock, Order, Quotes, Sighting
from broker.ports import Held as Listed
from broker.testing.simulation.weather import Weather

SECRET = "s3cr3t-t0ken-0f-a-c0nnect0r"  # noqa: S105 - what must not be seen in any log
WORDS = ("HIBERNATING", "EXECUTING", "OFFERED", "WAITING", "")  # what an odd site says instead of the truth


@dataclass
class Fact:
    """What became of one offer, for the checker alone. `sent`: acceptances that left a replica and may have arrived;
    `runs`: how often it was begun; `voided`: the site restarted, which ended it;
    `denied`: it was forgotten for a while at least, `forgotten`: for good."""

    handle: str
    site: str
    set: UUID
    made: float
    expires: float | None
    price: float = 0.0
    sent: list[float] = field(default_factory=list)
    runs: int = 0
    voided: bool = False
    denied: bool = False
    forgotten: bool = False


@dataclass
class Held:
    """What the site remembers of an offer. `begun`: when it was accepted, by the world's time."""

    handle: str
    expires: float | None
    phase: str = "OFFERED"
    begun: float | None = None
    lasts: float = 10.0
    commits: float = 0.0  # an acceptance that the site has, and carries out only then


@dataclass(frozen=True)
class Nature:
    """What kind of site it is. `healthy`: nothing ever goes wrong with it or on the way to it. `offset`: seconds its
    clock is ahead. `enforces`: it ends its offers by itself; without, it holds them until it is told. `lazy`: seconds
    it takes to carry out an acceptance while it still reads OFFERED. `lists`: it says what it has for us."""

    healthy: bool = False
    repeatable: bool = False
    enforces: bool = True
    restart_ends_jobs: bool = False
    offset: float = 0.0
    lazy: float = 0.0
    offers: int = 2
    lists: bool = True

    @classmethod
    def of(cls, random: Random, *, healthy: bool) -> Nature:
        return cls(
            healthy=healthy,
            repeatable=random.random() < 0.4,
            enforces=random.random() < 0.5,
            restart_ends_jobs=random.random() < 0.3,
            offset=0.0 if healthy else random.choice((0.0, 0.0, 150.0, -150.0)),
            lazy=0.0 if healthy else random.choice((0.0, 0.0, 0.0, 2.0)),
            offers=random.choice((1, 2, 2, 3)),
            lists=random.random() < 0.8,
        )


class Site:
    """`clock` is the site's own, `time` the world's."""

    def __init__(self, name: str, nature: Nature, weather: Weather, clock: Clock, time: Callable[[], float]) -> None:
        self.name, self.nature = name, nature
        self.clock, self._time, self._weather = clock, time, weather
        self.memory: dict[str, Held] = {}
        self.away: dict[str, Held] = {}  # forgotten for a while
        self.ledger: dict[str, Fact] = {}
        self.profile = Profile(repeatable=nature.repeatable, clock_offset=nature.offset)
        self.registration = Registration(
            name=name, url="http://x/", poll=10.0, restart_ends_jobs=nature.restart_ends_jobs,
            enforces_expiry=nature.enforces, timeout=10.0,
        )  # fmt: skip

    # ── what befalls it ──────────────────────────────────────────────────────────────────────────────────────

    def restart(self, *, for_good: bool) -> None:
        """It forgets: for good, or until `remember`. Where a restart ends its jobs, it does."""
        for held in self.memory.values():
            self._settle(held)
            fact = self.ledger[held.handle]
            fact.denied, fact.forgotten = True, fact.forgotten or for_good
            if self.nature.restart_ends_jobs:
                fact.voided = fact.forgotten = True
        if not self.nature.restart_ends_jobs and not for_good:
            self.away.update(self.memory)
        self.memory.clear()

    def remember(self) -> None:
        self.memory.update(self.away)
        self.away.clear()

    def measured(self, ahead: float) -> None:
        """Brokers go by a clock that is so many seconds ahead of the world's now."""
        self.profile = self.profile.model_copy(update={"clock_offset": self.nature.offset - ahead})

    def looked_up(self, handle: str, *, withdraw: bool) -> bool | None:
        """Whether it took that offer, as a person sees who looks there by other ways, and withdraws it if it has not;
        None: that may change yet. Only a no that stays one is told."""
        if self.ledger[handle].runs:
            return True
        held = self.memory.get(handle)
        if held is None:
            return None if handle in self.away else False
        self._withdraw(held) if withdraw else self._settle(held)
        return False if held.phase in session.REFUSED else None

    # ── what it does when a request arrives ──────────────────────────────────────────────────────────────────

    def describe(self) -> Profile:
        self._mood()
        return self.profile

    def quote(self, ask: Ask) -> Quotes:
        self._mood()
        random = self._weather.random
        if not self.nature.healthy and random.random() < 0.1:
            return Quotes(reasons=(Reason("nothing is free"),))
        return Quotes(tuple(self._offer(ask.set) for _ in range(self.nature.offers)))

    def accept(self, order: Order) -> Sighting:
        self._mood()
        held = self._held(order.handle)
        if held.phase == "OFFERED" and self._odd():
            held.phase = "REJECTED"
            raise SiteRefused(f"{self.name} is sold out.", status=400)
        if held.phase == "OFFERED" and not held.commits and self.nature.lazy:
            held.commits = self._time() + self.nature.lazy
        elif held.phase == "OFFERED" and not held.commits:
            self._begin(held)
        elif session.taken(held.phase) and not self.nature.repeatable:
            self.ledger[held.handle].runs += 1  # it takes every acceptance for a new one
        return self._show(held)

    def release(self, orders: Sequence[Order]) -> None:
        self._mood()
        for order in orders:
            held = self.memory.get(order.handle)
            if held is not None:
                self._withdraw(held)

    def status(self, orders: Sequence[Order]) -> Mapping[UUID, Sighting | SiteError]:
        self._mood()
        found: dict[UUID, Sighting | SiteError] = {}
        for order in orders:
            try:
                found[order.session] = self._show(self._held(order.handle), odd=self._odd())
            except SiteForgot as error:
                found[order.session] = error
        return found

    def update(self, order: Order, phase: str) -> Sighting:
        self._mood()
        held = self._held(order.handle)
        if phase == "REJECTED":
            self._withdraw(held)
        elif session.taken(held.phase) and held.phase not in session.TERMINAL:
            held.phase = "CANCELLED"
        return self._show(held)

    def held(self) -> tuple[Listed, ...]:
        self._mood()
        if not self.nature.lists:
            raise SiteRefused(f"{self.name} does not say what it has.", status=404)
        for held in self.memory.values():
            self._settle(held)
        return tuple(self._listed(held) for held in self.memory.values() if held.phase not in session.TERMINAL)

    # ── its state ────────────────────────────────────────────────────────────────────────────────────────────

    def _listed(self, held: Held) -> Listed:
        since = self.clock.now() - self.profile.clock_offset - (self._time() - self.ledger[held.handle].made)
        return Listed(held.handle, held.phase, set=self.ledger[held.handle].set, since=since)

    def phase(self, handle: str) -> str | None:
        """As it knows it now; None: it does not."""
        held = self.memory.get(handle)
        if held is not None:
            self._settle(held)
        return held.phase if held is not None else None

    def _mood(self) -> None:
        if not self.nature.healthy and self._weather.strikes(self._weather.sites / 4):
            raise SiteBusy(f"{self.name} asks to come back.", retry_after=self._weather.random.uniform(0.1, 5.0))

    def _odd(self) -> bool:
        return not self.nature.healthy and self._weather.strikes(self._weather.sites)

    def _held(self, handle: str) -> Held:
        held = self.memory.get(handle)
        if held is None:
            raise SiteForgot(f"{self.name} knows no {handle}.")
        self._settle(held)
        return held

    def _settle(self, held: Held) -> None:
        """Bring one offer to where the time has brought it."""
        now = self._time()
        if held.phase == "OFFERED" and held.commits and now >= held.commits:
            self._begin(held)
        if held.phase == "OFFERED" and self.nature.enforces and held.expires is not None and now >= held.expires:
            held.phase = "EXPIRED"
        if held.begun is not None and held.phase not in session.TERMINAL:
            held.phase = _progress(now - held.begun, held.lasts)

    def _begin(self, held: Held) -> None:
        held.phase, held.begun = "ACCEPTED", self._time()
        self.ledger[held.handle].runs += 1

    def _withdraw(self, held: Held) -> None:
        self._settle(held)
        if held.phase == "OFFERED":
            held.phase, held.commits = "REJECTED", 0.0

    def _show(self, held: Held, *, odd: bool = False) -> Sighting:
        phase = self._weather.random.choice(WORDS) if odd and session.taken(held.phase) else held.phase
        body = {"phase": phase, "connectors": [{"location": f"https://{self.name}/?token={SECRET}"}]}
        return Sighting(phase, body=msgspec.json.encode(body), native=f"job-{held.handle}")

    def _offer(self, set_: UUID) -> Quote:
        handle = f"{self.name}-{len(self.ledger)}"
        random, now = self._weather.random, self._time()
        price = random.randrange(1, 20)
        left = random.choice((20.0, 40.0, 60.0, 120.0, None))
        expires = None if left is None else now + left
        lasts = random.uniform(5.0, 40.0)
        self.memory[handle] = Held(handle, expires, lasts=lasts)
        self.ledger[handle] = Fact(handle, self.name, set_, now, expires, price)
        body: dict[str, Any] = {
            "kind": kinds.SCHEDULED_SESSION,
            "phase": "OFFERED",
            "executable": {"kind": kinds.DOCKER_CONTAINER},
            "compute": {
                "kind": kinds.SIMPLE_COMPUTE,
                "cores": {"min": 64, "max": 64},
                "memory": {"min": 64, "max": 64},
                "schedule": {"available": {"start": f"{format_instant(self.clock.now())}/PT0S", "duration": "PT24H"}},
            },
            "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "min": price, "max": price}],
        }
        if left is not None:
            body["expires"] = format_instant(self.clock.now() + left)
        return Quote(handle, msgspec.json.encode(body))


def _progress(age: float, lasts: float) -> str:
    if age < 1.0:
        return "ACCEPTED"
    if age < 3.0:
        return "WAITING"
    return "RUNNING" if age < lasts else "COMPLETED"
