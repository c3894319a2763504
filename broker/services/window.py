"""What happened in the last hour, counted in this process. Imports the domain alone.

Every figure of a status is either `now` or of a window with its length and its n (docs: status). The window begins
when the process does, so its length is stated each time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping

from broker.domain.outcome import Outcome

LENGTH = 3600.0  # seconds
_KEPT = 200_000  # events; beyond it the oldest are forgotten and the window is shorter


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

    def length(self) -> float:
        """Seconds that the window covers at present."""
        now = self._now()
        full = self._events[0][0] if len(self._events) == _KEPT else self._began
        return min(LENGTH, now - full)

    def counts(self) -> Counter[tuple[str, str]]:
        """(site, what) → how often; site is empty for what concerns none."""
        self._forget()
        return Counter((site, what) for _, site, what, _ in self._events)

    def latencies(self) -> dict[str, list[float]]:
        """site → seconds of its answers, sorted; silent and skipped sites have none."""
        return self._seconds("Offered", "Declined")

    def late_starts(self) -> dict[str, list[float]]:
        """site → seconds by which runs began later than promised, sorted."""
        return self._seconds("started")

    def _seconds(self, *wanted: str) -> dict[str, list[float]]:
        self._forget()
        found: dict[str, list[float]] = {}
        for _, site, what, seconds in self._events:
            if what in wanted:
                found.setdefault(site, []).append(seconds)
        return {site: sorted(values) for site, values in found.items()}

    def _add(self, site: str, what: str, seconds: float = 0.0) -> None:
        self.totals[site, what] += 1
        self._events.append((self._now(), site, what, seconds))

    def _forget(self) -> None:
        edge = self._now() - LENGTH
        while self._events and self._events[0][0] < edge:
            self._events.popleft()
