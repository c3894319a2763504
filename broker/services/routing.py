"""Whom a request is sent to, and in which order, where there are many sites. Imports ports, the domain, services.

Up to `at_once` sites are asked side by side, and nothing here has a say. Beyond, those that can win go first, so
many at a time; who can no longer beat what is in is not asked. Every site has its outcome all the same.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from zlib import crc32

from broker.domain import kinds
from broker.domain import locality as place
from broker.domain.executables import JupyterNotebook
from broker.domain.experience import Correction, Experience, Measured, voice
from broker.domain.locality import Locality, Place, Terrain
from broker.domain.located import Item
from broker.domain.outcome import Outcome, Reason, Skipped
from broker.domain.ranking import Candidate
from broker.domain.routing import NEVER, Bar, Floor, Habit, Likely, Sort, beaten, floor, likely
from broker.domain.storages import Map
from broker.ports import Clock
from broker.services.fanout import Target
from broker.services.gathering import Gathering
from broker.services.sites import Entry
from broker.services.taken import Taken

REVIEW = 0.25  # seconds between two looks at whether catalogues know more
_MOST_DATA = 64  # requests' data of which the ways to all sites are remembered
_NO_HABIT = Habit()
_Ways = Mapping[tuple[str, str], Measured]  # as they were measured


class Measures:
    """The ways of data to sites, measured once for each place, and kept for the next request for the same data."""

    def __init__(self, map_: Map) -> None:
        self._map = map_
        self._kept: OrderedDict[tuple[tuple[Item, ...], float], tuple[_Ways, dict[Place, Locality]]] = OrderedDict()

    def of(self, found: tuple[Item, ...], experience: Experience, hour: float) -> Callable[[Place], Locality]:
        """`found`: as catalogues say it. The least lately used data are forgotten."""
        wanted = place.locate(found, self._map)
        key = (wanted, hour)
        ways, known = self._kept.pop(key, (experience.measured, {}))
        if ways is not experience.measured:
            known = {}
        self._kept[key] = (experience.measured, known)
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


_Site = tuple[float, int, str]  # estimate, lot, name: of equals the lot decides who goes first


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
        self._kind = kinds.short(request.executable.kind)
        self._entries = {entry.name: entry for entry in entries}
        self._measured_ways = {site for _, site in experience.measured}
        self._corrected = bool(experience.corrections or experience.usual)
        self._asked: set[str] = set()
        self._heard = 0  # outcomes
        self._reviewed = routing.clock.monotonic()
        self._begin(found())

    def _begin(self, known: tuple[Item, ...]) -> None:
        """With what is known of the data now."""
        self._known = known
        self._bar = Bar(self._wishes, self._now)
        self._floors: dict[Sort, Floor] = {}
        self._beaten: dict[str, Floor] = {}
        self._barred: dict[str, str] = {}
        # Else all floors are the same, and below whatever is offered.
        self._telling = bool(known or self._corrected or any(entry.ours for entry in self._entries.values()))
        self._measured = self._routing.measures.of(known, self._experience, self._wishes.weights.value_of_time)
        self._queue = deque(sorted(self._sites()))

    # ── for the fan-out ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def room(self) -> int:
        return self._routing.at_once

    def next(self, outcomes: Mapping[str, Outcome]) -> Target | None:
        if len(self._asked) < len(self._entries):
            self._review()
        self._hear(outcomes)  # the last ones too: the next request goes by them
        while self._queue:
            _, _, name = self._queue.popleft()
            least = self._floor(self._entries[name])
            if least.barred:
                self._barred[name] = least.barred
            elif least.value > self._bar.value:
                self._beaten[name] = least
            else:
                self._asked.add(name)
                return Target(name, self._entries[name].planner)
        return None

    def left(self, *, early: bool) -> dict[str, Outcome]:
        left: dict[str, Outcome] = {name: _not_asked(why) for name, why in self._barred.items()}
        for name, least in self._beaten.items():
            left[name] = _not_asked(beaten(least, self._bar.value, self._wishes))
        for before, (_, _, name) in enumerate(self._queue, len(self._asked)):
            late = f"{before} sites came before it, and the time was over"
            left[name] = _not_asked("enough good offers were in" if early else late)
        return left

    # ── the order ────────────────────────────────────────────────────────────────────────────────────────────

    def _sites(self) -> Iterator[_Site]:
        """Those that were not asked yet, each with what is likely of its offers."""
        seed = crc32(self._gathering.set.bytes)
        lag, habits = self._routing.taken.lag, self._routing.habits
        ways: dict[Locality, Likely] = {}
        plain: dict[Place, Likely] = {}
        for name, entry in self._entries.items():
            if name in self._asked:
                continue
            at = self._place(entry)
            if at not in plain:
                way = self._locality(at)
                if way not in ways:
                    ways[way] = likely(way, self._interactive, self._wishes, self._run, self._now)
                plain[at] = ways[way]
            habit, later, correction = habits.get(name), lag(entry), self._correction(name)
            estimate = plain[at].value
            if habit is not None or later is not None or correction is not None:
                seconds = later.seconds if later is not None else 0.0
                estimate = plain[at].estimate(habit or _NO_HABIT, seconds, self._run, self._wishes, correction or NEVER)
            yield estimate, crc32(name.encode(), seed), name

    def _correction(self, name: str) -> Correction | None:
        return self._experience.correction(voice(name, name), self._kind)

    def _floor(self, entry: Entry) -> Floor:
        habit = self._routing.habits.get(entry.name)
        sort = Sort(
            locality=self._locality(self._place(entry)),
            ours=entry.ours,
            leaves=habit is not None and not habit.prepares,
            interactive=self._interactive,
            countries=entry.countries,
            correction=self._correction(entry.name),
        )
        if sort not in self._floors:
            self._floors[sort] = floor(sort, self._wishes, self._run, self._now)
        return self._floors[sort]

    def _place(self, entry: Entry) -> Place:
        """Sites that no transfer was measured to are told apart by their storages alone."""
        at = tuple(storage.name for storage in entry.storages)
        return Place(entry.name if entry.name in self._measured_ways else "", at)

    def _locality(self, at: Place) -> Locality:
        return self._measured(at) if self._known else Locality()

    def _review(self) -> None:
        """Where catalogues know more by now, all is reckoned anew, also what is in."""
        now = self._routing.clock.monotonic()
        if now - self._reviewed < REVIEW:
            return
        self._reviewed = now
        if (found := self._found()) != self._known:
            self._gathering.body()  # measures its offers anew
            self._heard = 0
            self._begin(found)

    # ── what is in ───────────────────────────────────────────────────────────────────────────────────────────

    def _hear(self, outcomes: Mapping[str, Outcome]) -> None:
        for name, outcome in islice(outcomes.items(), self._heard, None):
            _, _, kept = self._gathering.take(name, outcome)
            if kept:
                if self._telling:
                    self._bar.add(item.candidate for item in kept)
                self._learn(name, [(item.candidate, item.later) for item in kept])
        self._heard = len(outcomes)

    def _learn(self, name: str, offers: Sequence[tuple[Candidate, float]]) -> None:
        habit = self._routing.habits.get(name, _NO_HABIT)
        self._routing.habits[name] = habit.seen(offers, self._wishes, self._now)


def _not_asked(why: str) -> Skipped:
    return Skipped(Reason(f"not asked: {why}"))
