"""Which sites are asked first, and which need not be asked at all. Pure; imports the domain's ranking.

Before a site is asked, two things are reckoned of its offers, by the very rule that will rank them: the all-in that is
likely, for the order of asking, and one below which no offer of it can be (`floor`), for leaving it out. What is not
known makes the floor lower, never higher.

A floor counts a site's staging only where its offers have shown that they leave it to us: a site that states its own
preparing is ranked by that (scoring). Of a broker or a planner of ours it counts nothing of the data: it may have them
in its cache, or a machine that is quicker.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from math import inf

import msgspec
from msgspec.structs import replace

from broker.domain.experience import STAGING_SLACK, WAITING_SLACK, Correction
from broker.domain.limits import judge
from broker.domain.locality import NOTHING, Locality
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, Wishes, rank
from broker.domain.scoring import HOUR, score
from broker.domain.words import money, size

NEVER = Correction()
LEAST_GOOD = 3  # offers that are in before a site that can beat none of them is left out


class Habit(msgspec.Struct, frozen=True):
    """What a site's offers have shown. `prepares`: one of them stated the site's own preparing; `waiting`: seconds
    until the soonest of the last began; `price`: of the cheapest of the last, base currency for an hour of the run."""

    prepares: bool = False
    waiting: float = 0.0
    price: float = 0.0

    def seen(self, offers: Sequence[tuple[Candidate, float]], wishes: Wishes, now: float) -> Habit:
        """With the offers of one more answer, at least one; beside each the seconds by which its start was put off
        here."""
        prices = [_hourly(offer, wishes) for offer, _ in offers]
        waiting = min(offer.start.expected - later - now for offer, later in offers)
        return Habit(
            self.prepares or any(offer.prepares for offer, _ in offers),
            max(0.0, waiting) if waiting == waiting else 0.0,  # NaN alone differs from itself
            min((price for price in prices if price is not None), default=0.0),
        )


def _hourly(offer: Candidate, wishes: Wishes) -> float | None:
    price = wishes.exchange.convert(offer.price, offer.currency) if offer.price is not None else None
    return None if price is None or not offer.run.expected > 0 else max(0.0, price.expected) * HOUR / offer.run.expected


class Likely(msgspec.Struct, frozen=True):
    """What an offer would come to that began at once, for nothing. `value`: base currency; `staging`: seconds of it."""

    value: float
    staging: float

    def estimate(self, habit: Habit, lag: float, run: float, wishes: Wishes, by: Correction = NEVER) -> float:
        """The all-in that is likely for one site, base currency. `lag`: seconds by which all that it offers starts
        later; `run`: seconds; `by`: how what the site promised has come over."""
        staging = by.staging.applied(self.staging, STAGING_SLACK) if self.staging else 0.0
        waiting = by.waiting.applied(habit.waiting, WAITING_SLACK) + lag
        time = max(waiting, staging) - self.staging + by.run.applied(run) - run
        price = by.cost.applied(habit.price * run / HOUR)
        return self.value + price + time * wishes.weights.value_of_time / HOUR


def likely(locality: Locality, interactive: bool, wishes: Wishes, run: float, now: float) -> Likely:
    """`locality`: what is known of the way of the data; `run`: seconds that were asked for; `interactive`: which do not
    count."""
    found = score(_free(locality, run, now, interactive), wishes, now)
    return Likely(0.0, 0.0) if isinstance(found, str) else Likely(found.order[0], found.staging.expected)


class Sort(msgspec.Struct, frozen=True):
    """What sites have in common that can offer nothing better than each other. `locality`: what is known of the way of
    the data to them; `ours`: brokers and planners of ours; `leaves`: staging is surely left to us; `interactive`: the
    run does not count."""

    locality: Locality
    ours: bool = False
    leaves: bool = False
    interactive: bool = False
    countries: tuple[str, ...] = ()
    correction: Correction | None = None


class Floor(msgspec.Struct, frozen=True):
    """What no offer can be below, in the base currency. `moved`: bytes that surely move; `barred`: the hard limit that
    no offer can keep."""

    value: float
    moved: float
    barred: str | None


def floor(sort: Sort, wishes: Wishes, run: float, now: float) -> Floor:
    """`run`: seconds that were asked for."""
    sure = Locality() if sort.ours else _sure(sort.locality)
    least = replace(
        _free(sure, 0.0 if sort.ours else run, now, sort.interactive),
        prepares=not sort.leaves,
        countries=sort.countries,
        correction=None if sort.ours else sort.correction,
    )
    # What an offer may state, and how the site is called, is judged when it is in.
    open_ = replace(wishes, ceilings=(), floors=(), sites_allowed=None, sites_forbidden=frozenset())
    ranked = rank([least], open_, now)[0]
    return Floor(
        value=ranked.score.order[0] if ranked.score else 0.0,
        moved=sure.bytes.low if sure.bytes else 0.0,
        barred=ranked.excluded,
    )


def _free(locality: Locality, run: float, now: float, interactive: bool) -> Candidate:
    """The offer that none could be better than: at once, for nothing."""
    return Candidate(
        session="", origin="", site="", start=Span.of(now), run=Span.of(run), price=NOTHING,
        interactive=interactive, carbon=NOTHING, locality=locality,
    )  # fmt: skip


def _sure(known: Locality) -> Locality:
    """What moves in any case: what is not known may be nothing."""
    return replace(
        known,
        bytes=known.bytes or Span.of(known.least),
        staging=known.staging or NOTHING,
        egress=known.egress or NOTHING,
    )


# ── against what is in ───────────────────────────────────────────────────────────────────────────────────────


class Bar:
    """The best good offers that are in, as many as are wanted. A site has to be able to beat the last of them."""

    def __init__(self, wishes: Wishes, now: float) -> None:
        self._wishes, self._now = wishes, now
        self._most = max(LEAST_GOOD, wishes.enough or 0)
        self._values: list[float] = []

    @property
    def value(self) -> float:
        """Base currency; infinite while there are not as many."""
        return self._values[-1] if len(self._values) == self._most else inf

    def add(self, offers: Iterable[Candidate]) -> None:
        """What `ranking.rank` says of each, without what it says of all together, which takes four times as long."""
        for offer in offers:
            found = score(offer, self._wishes, self._now)
            if isinstance(found, str) or not found.order[0] < self.value:
                continue
            if judge(offer, found, self._wishes, self._now) is None:
                insort(self._values, found.order[0])
                del self._values[self._most :]


def beaten(floor: Floor, bar: float, wishes: Wishes) -> str:
    """`it cannot beat 3.90 EUR: 84.2 GB would have to move there, 4.40 EUR at least`."""
    moved = f"{size(floor.moved)} would have to move there, " if floor.moved else ""
    most, least = (money(wishes.shown(value), wishes.currency) for value in (bar, floor.value))
    return f"it cannot beat {most}: {moved}{least} at least"
