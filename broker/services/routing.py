"""Whom a request is sent to, and in which order, where there are many sites. Imports ports, the domain, services.

Up to `at_once` sites are asked side by side, and nothing here has a say. Beyond, those that can win go first, so
many at a time; who can no longer beat what is in is not asked. Every site has its outcome all the same.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from zlib import crc32

import msgspec

from broker.domain import locality as place
from broker.domain.executables import JupyterNotebook
from broker.domain.experience import Experience
from broker.domain.locality import Locality, Place, Terrain
from broker.domain.located import Item
from broker.domain.outcome import Outcome, Reason, Skipped
from broker.domain.ranking import Candidate, rank
from broker.domain.routing import Bar, Habit, Outlook, Sort, beaten, outlook
from broker.domain.storages import Map
from broker.ports import Clock
from broker.services.fanout import Target
from broker.services.gathering import Gathering
from broker.services.sites import Entry
from broker.services.taken import Taken

REVIEW = 0.25  # seconds between two looks at whether catalogues know more
_MOST_DATA = 64  # requests' data of which the ways to all sites are remembered
_NO_HABIT = Habit()


class Measures:
    """The ways of data to sites, measured once for each place, and kept for the next request for the same data."""

    def __init__(self, map_: Map) -> None:
        self._map = map_
        self._kept: OrderedDict[tuple[tuple[Item, ...], float], tuple[Experience, dict[Place, Locality]]] = (
            OrderedDict()
        )

    def of(self, found: tuple[Item, ...], experience: Experience, hour: float) -> Callable[[Place], Locality]:
        """`found`: as catalogues say it. The least lately used data are forgotten."""
        wanted = place.locate(found, self._map)
        key = (wanted, hour)
        picture, known = self._kept.pop(key, (experience, {}))
        if picture is not experience:
            known = {}
        self._kept[key] = (experience, known)
        while len(self._kept) > _MOST_DATA:
            self._kept.popitem(last=False)
        terrain = Terrain(self._map, experience, hour)

        def measured(at: Place) -> Locality:
            if at not in known:
                known[at] = place.measure(wanted, at, terrain)
            return known[at]

        return measured


class Routing:
    """`at_once`: so many sites are asked side by side, and at a time where there are more."""

    def __init__(self, map_: Map, taken: Taken, clock: Clock, *, at_once: int = 200) -> None:
        self.measures, self.taken, self.clock, self.at_once = Measures(map_), taken, clock, at_once
        self.habits: dict[str, Habit] = {}  # of sites that were asked by a course

    def course(
        self,
        gathering: Gathering,
        entries: Sequence[Entry],
        found: Callable[[], tuple[Item, ...]],
        experience: Experience,
    ) -> Course | None:
        """None: all are asked at once."""
        return Course(self, gathering, entries, found, experience) if len(entries) > self.at_once else None


class _Site(msgspec.Struct, frozen=True):
    entry: Entry
    outlook: Outlook
    estimate: float
    lot: int


class Course:
    """One request's way through the sites (services/fanout asks by it)."""

    def __init__(
        self,
        routing: Routing,
        gathering: Gathering,
        entries: Sequence[Entry],
        found: Callable[[], tuple[Item, ...]],
        experience: Experience,
    ) -> None:
        self._routing, self._gathering, self._found, self._experience = routing, gathering, found, experience
        self._wishes, self._now = gathering.wishes, gathering.now
        request = gathering.request
        self._run = request.duration.total_seconds()
        # Whether its run counts is known of its offers alone.
        self._interactive = isinstance(request.executable, JupyterNotebook)
        self._entries = {entry.name: entry for entry in entries}
        self._asked: set[str] = set()
        self._heard = 0  # outcomes
        self._bar = Bar(self._wishes)
        self._known = found()
        self._reviewed = routing.clock.monotonic()
        self._queue: deque[_Site] = deque()
        self._beaten: list[_Site] = []
        self._barred: list[_Site] = []
        self._arrange()

    # ── for the fan-out ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def room(self) -> int:
        return self._routing.at_once

    def next(self, outcomes: Mapping[str, Outcome]) -> Target | None:
        if self._queue:
            self._review()
            self._hear(outcomes)
        while self._queue:
            site = self._queue.popleft()
            if site.outlook.floor > self._bar.value:
                self._beaten.append(site)
                continue
            self._asked.add(site.entry.name)
            return Target(site.entry.name, site.entry.planner)
        return None

    def left(self, *, early: bool) -> dict[str, Outcome]:
        left: dict[str, Outcome] = {}
        for site in self._barred:
            left[site.entry.name] = _not_asked(site.outlook.barred or "")
        for site in self._beaten:
            left[site.entry.name] = _not_asked(beaten(site.outlook, self._bar.value, self._wishes))
        for place_, site in enumerate(self._queue, len(self._asked)):
            late = f"{place_} sites came before it, and the time was over"
            left[site.entry.name] = _not_asked("enough good offers were in" if early else late)
        return left

    # ── the order ────────────────────────────────────────────────────────────────────────────────────────────

    def _arrange(self) -> None:
        """Whoever was not asked yet, the best first; equals by lot, so that not always the same are left out."""
        sites = sorted(self._sites(), key=lambda site: (site.estimate, site.lot))
        self._barred = [site for site in sites if site.outlook.barred]
        self._queue = deque(site for site in sites if not site.outlook.barred)
        self._beaten = []

    def _sites(self) -> Iterator[_Site]:
        measured = self._routing.measures.of(self._known, self._experience, self._wishes.weights.value_of_time)
        ways = {site for _, site in self._experience.measured}
        seed = crc32(self._gathering.set.bytes)
        outlooks: dict[tuple[Place, bool, bool, tuple[str, ...]], Outlook] = {}
        for name, entry in self._entries.items():
            if name in self._asked:
                continue
            profile = entry.profile
            ours = profile is not None and profile.ours
            habit = self._routing.habits.get(name)
            leaves = habit is not None and not habit.prepares
            at = Place(name if name in ways else "", _storages(entry))
            key = (at, ours, leaves, _countries(entry))
            if key not in outlooks:
                where = measured(at) if self._known else Locality()
                outlooks[key] = outlook(
                    Sort(where, *key[1:3], self._interactive, key[3]), self._wishes, self._run, self._now
                )
            lag = self._routing.taken.lag(entry)
            estimate = outlooks[key].estimate(habit or _NO_HABIT, lag.seconds if lag else 0.0, self._run, self._wishes)
            yield _Site(entry, outlooks[key], estimate, crc32(name.encode(), seed))

    def _review(self) -> None:
        """Where catalogues know more by now, all is reckoned anew, also what is in."""
        now = self._routing.clock.monotonic()
        if now - self._reviewed < REVIEW:
            return
        self._reviewed = now
        if (found := self._found()) == self._known:
            return
        self._known = found
        self._gathering.body()  # measures its offers anew
        self._bar, self._heard = Bar(self._wishes), 0
        self._arrange()

    # ── what is in ───────────────────────────────────────────────────────────────────────────────────────────

    def _hear(self, outcomes: Mapping[str, Outcome]) -> None:
        for name, outcome in islice(outcomes.items(), self._heard, None):
            _, _, kept = self._gathering.take(name, outcome)
            if kept:
                self._bar.add(rank([item.candidate for item in kept], self._wishes, self._now))
                self._learn(name, [(item.candidate, item.later) for item in kept])
        self._heard = len(outcomes)

    def _learn(self, name: str, offers: Sequence[tuple[Candidate, float]]) -> None:
        habit = self._routing.habits.get(name, _NO_HABIT)
        self._routing.habits[name] = habit.seen(offers, self._wishes, self._now)


def _not_asked(why: str) -> Skipped:
    return Skipped(Reason(f"not asked: {why}"))


def _storages(entry: Entry) -> tuple[str, ...]:
    profile = entry.profile.storages if entry.profile else ()
    return tuple(storage.name for storage in (*entry.site.storages, *profile))


def _countries(entry: Entry) -> tuple[str, ...]:
    """As its offers will have them."""
    if entry.site.country:
        return (entry.site.country,)
    return entry.profile.countries if entry.profile else ()
