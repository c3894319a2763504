"""What happened in the last hour, counted in this process. Imports the domain alone.

Every figure of a status is either `now` or of a window with its length and its n (docs: status). The window begins
when the process does, so its length is stated each time. What several replicas counted is added up by `together`.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from broker.domain.outcome import Outcome

LENGTH = 3600.0  # seconds
_KEPT = 200_000  # events; beyond it the oldest are forgotten and the window is shorter

_POINTS = 100  # values that stand for the many that a replica has measured


class Digest(msgspec.Struct, frozen=True, array_like=True):
    """`n` measured values, sorted; where there are many, some at even distances stand for all."""

    n: int
    values: tuple[float, ...]

    def short(self) -> Digest:
        if len(self.values) <= _POINTS:
            return self
        step = len(self.values) / _POINTS  # each point is the middle one of those that it stands for
        return Digest(self.n, tuple(self.values[int((i + 0.5) * step)] for i in range(_POINTS)))


class Figures(msgspec.Struct, frozen=True):
    """What a window held at one moment. `began`: epoch seconds. `counts`: site → what → how often, the site empty for
    what concerns none; `latencies` and `late`: site → seconds."""

    began: float = math.inf
    counts: dict[str, dict[str, int]] = {}
    latencies: dict[str, Digest] = {}
    late: dict[str, Digest] = {}

    def short(self) -> Figures:
        """Small enough to be told to others."""
        latencies = {site: digest.short() for site, digest in self.latencies.items()}
        late = {site: digest.short() for site, digest in self.late.items()}
        return msgspec.structs.replace(self, latencies=latencies, late=late)


def together(figures: Iterable[Figures]) -> tuple[float, Counter[tuple[str, str]]]:
    """When the earliest began, and (site, what) → how often in all."""
    began, counts = math.inf, Counter[tuple[str, str]]()
    for one in figures:
        began = min(began, one.began)
        for site, events in one.counts.items():
            counts.update({(site, what): n for what, n in events.items()})
    return began, counts


def quantile(digests: Sequence[Digest], q: float) -> float | None:
    """Nearest rank among all that was measured; None where nothing was."""
    if len(digests) == 1:  # sorted already, and may be long
        values = digests[0].values
        return values[min(len(values) - 1, int(q * len(values)))]
    weighed = sorted((value, digest.n / len(digest.values)) for digest in digests for value in digest.values)
    rank, passed = q * sum(weight for _, weight in weighed), 0.0
    for value, weight in weighed:
        passed += weight
        if passed > rank + 1e-9:
            return value
    return weighed[-1][0] if weighed else None


class Window:
    """`now` tells epoch seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began = now()
        self._events: deque[tuple[float, str, str, float]] = deque(maxlen=_KEPT)
        self.totals: Counter[tuple[str, str]] = Counter()

    def asked(self, outcomes: Mapping[str, Outcome]) -> None:
        self._add("", "requests")
        for site, outcome in outcomes.items():
            self.answered(site, outcome)

    def answered(self, site: str, outcome: Outcome) -> None:
        self._add(site, type(outcome).__name__, outcome.latency)

    def accepted(self, site: str) -> None:
        self._add(site, "accepted")

    def ended(self, site: str, phase: str) -> None:
        self._add(site, phase)

    def started(self, site: str, late: float) -> None:
        """A run began `late` seconds after the start it was promised (before it: below zero)."""
        self._add(site, "started", late)

    def figures(self) -> Figures:
        """What happened since `began`, which is the hour's or the process's beginning, or later where too much did."""
        self._forget()
        counts: dict[str, dict[str, int]] = {}
        for _, site, what, _ in self._events:
            of_site = counts.setdefault(site, {})
            of_site[what] = of_site.get(what, 0) + 1
        full = self._events[0][0] if len(self._events) == _KEPT else self._began
        return Figures(full, counts, self._seconds("Offered", "Declined"), self._seconds("started"))

    def _seconds(self, *wanted: str) -> dict[str, Digest]:
        found: dict[str, list[float]] = {}
        for _, site, what, seconds in self._events:
            if what in wanted:
                found.setdefault(site, []).append(seconds)
        return {site: Digest(len(values), tuple(sorted(values))) for site, values in found.items()}

    def _add(self, site: str, what: str, seconds: float = 0.0) -> None:
        self.totals[site, what] += 1
        self._events.append((self._now(), site, what, seconds))

    def _forget(self) -> None:
        edge = self._now() - LENGTH
        while self._events and self._events[0][0] < edge:
            self._events.popleft()
