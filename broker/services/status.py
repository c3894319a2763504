"""The aggregated status for dashboards, and the metrics for Prometheus. Imports ports, domain, prometheus-client.

No figure without its window and its age: `now` is the present, `window` counts events of a stated length, and what is
not known is null with the reason beside it. Sessions of a nested broker count once, at the broker that is asked.
Sessions are those of the store, events those of all its replicas; how a site fares is as this replica sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from broker.domain.identity import Caller
from broker.domain.quantities import format_duration, format_instant
from broker.ports import Clock, Store
from broker.services.figures import Peers
from broker.services.sites import Entry, Sites
from broker.services.window import LENGTH, Digest, Figures, Window, quantile, together

SCHEMA = "status-1.0"
_OVER = ("REJECTED", "EXPIRED", "COMPLETED", "FAILED", "CANCELLED")
_OUTCOMES = ("Offered", "Declined", "TimedOut", "Failed", "Skipped")


class Status:
    """`peers`: the other replicas on the store; None: there can be none."""

    def __init__(
        self, *, name: str, sites: Sites, store: Store, window: Window, clock: Clock, peers: Peers | None = None
    ) -> None:
        self._name, self._sites, self._store, self._window, self._clock = name, sites, store, window, clock
        self._peers = peers

    async def snapshot(self, caller: Caller | None = None) -> dict[str, Any]:
        """The document of GET /status; safe for the public: it names sites, never users."""
        now = self._clock.now()
        counts = await self._store.counts()
        sessions = _sessions(counts)
        mine = self._window.figures()
        figures = [mine.short(), *self._peers.others] if self._peers else [mine]
        began, window = together(figures)
        entries = sorted(self._sites.entries(), key=lambda entry: entry.name)
        totals: Counter[str] = Counter()
        for phases in sessions.values():
            totals.update({phase: n for phase, n in phases.items() if phase not in _OVER})
        return {
            "schema": SCHEMA,
            "name": self._name,
            "time": format_instant(round(now)),
            **({"replica": self._peers.id} if self._peers else {}),
            "now": {
                **({"replicas": self._peers.live} if self._peers else {}),
                "sites": dict(Counter(entry.health(now) for entry in entries)),
                "sessions": dict(sorted(totals.items())),
                "unresolved": _unresolved(counts),
            },
            "window": {
                "duration": format_duration(round(min(LENGTH, now - began))),
                "requests": window["", "requests"],
                **{
                    what: sum(n for (_, event), n in window.items() if event == what)
                    for what in ("accepted", "COMPLETED", "FAILED", "CANCELLED")
                },
            },
            "sites": [self._site(entry, sessions, window, figures, now) for entry in entries],
        }

    def _site(
        self,
        entry: Entry,
        sessions: dict[str, Counter[str]],
        window: Counter[tuple[str, str]],
        figures: Sequence[Figures],
        now: float,
    ) -> dict[str, Any]:
        mine = window_of(window, entry.name)
        profile = entry.profile
        health: dict[str, Any] = {"state": entry.health(now), "since": format_instant(round(entry.since))}
        if entry.reason:
            health |= {"reason": entry.reason, "acts": entry.acts}
        return {
            "name": entry.name,
            "kind": entry.site.kind,
            "platform": profile.platform if profile else None,
            "origin": list(profile.origins or (entry.name,)) if profile else [entry.name],
            "simulated": profile.simulated if profile else None,
            "health": health,
            "seen": format_instant(round(entry.seen)) if entry.seen else None,
            "breaker": dict(entry.planner.breakers()),
            "sessions": {p: n for p, n in sorted(sessions.get(entry.name, {}).items()) if p not in _OVER},
            "capacity": {"cores_free": None, "memory_free_GiB": None, "why_null": "not reported"},
            "window": {
                "requests": sum(mine[outcome] for outcome in _OUTCOMES),
                **{what: mine[what] for what in (*_OUTCOMES, "accepted", "COMPLETED", "FAILED")},
                "latency_s": _quantiles([one.latencies.get(entry.name) for one in figures]),
            },
            "promise": {"start_late_s": _quantiles([one.late.get(entry.name) for one in figures])},
        }

    # ── Prometheus ───────────────────────────────────────────────────────────────────────────────────────────

    async def metrics(self) -> bytes:
        """The text format of Prometheus 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats)."""
        registry = CollectorRegistry()
        registry.register(_Collected([*self._events(), *await self._gauges()]))
        return generate_latest(registry)

    def _events(self) -> Iterable[Metric]:
        outcomes = CounterMetricFamily("broker_outcomes", "Outcomes of asking sites.", labels=["site", "outcome"])
        ended = CounterMetricFamily("broker_sessions_ended", "Sessions that ended.", labels=["site", "phase"])
        accepted = CounterMetricFamily("broker_accepted", "Acceptances that sites took.", labels=["site"])
        requests = CounterMetricFamily("broker_requests", "Requests for offers.")
        for (site, what), n in self._window.totals.items():
            if what == "requests":
                requests.add_metric([], n)
            elif what == "accepted":
                accepted.add_metric([site], n)
            elif what in _OUTCOMES:
                outcomes.add_metric([site, what], n)
            elif what in _OVER:
                ended.add_metric([site, what], n)
        return requests, outcomes, accepted, ended

    async def _gauges(self) -> Iterable[Metric]:
        now = self._clock.now()
        counts = await self._store.counts()
        sessions = GaugeMetricFamily("broker_sessions", "Sessions by phase.", labels=["site", "phase"])
        for site, phases in _sessions(counts).items():
            for phase, n in phases.items():
                sessions.add_metric([site, phase], n)
        up = GaugeMetricFamily("broker_site_up", "1 while the site is live or degraded.", labels=["site", "health"])
        age = GaugeMetricFamily("broker_site_seen_age_seconds", "Since the site last answered.", labels=["site"])
        for entry in self._sites.entries():
            health = entry.health(now)
            up.add_metric([entry.name, health], 1.0 if health in ("live", "degraded") else 0.0)
            if entry.seen:
                age.add_metric([entry.name], now - entry.seen)
        unresolved = GaugeMetricFamily("broker_unresolved", "Acceptances in doubt.", value=_unresolved(counts))
        return sessions, up, age, unresolved


class _Collected:
    """What prometheus-client calls a collector: figures taken already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


Counts = Mapping[tuple[str, str, str], int]  # as Store.counts gives them


def _sessions(counts: Counts) -> dict[str, Counter[str]]:
    """site → phase → how many sessions."""
    found: dict[str, Counter[str]] = {}
    for (kind, site, phase), n in counts.items():
        if kind == "session":
            found.setdefault(site, Counter())[phase] += n
    return found


def _unresolved(counts: Counts) -> int:
    """Acceptances in doubt at present."""
    return sum(n for (kind, _, phase), n in counts.items() if kind == "offerset" and phase == "DOUBT")


def window_of(window: Counter[tuple[str, str]], site: str) -> Counter[str]:
    return Counter({what: n for (name, what), n in window.items() if name == site})


def _quantiles(digests: Iterable[Digest | None]) -> dict[str, float | int | None]:
    """Null where nothing was measured."""
    found = [digest for digest in digests if digest is not None]
    p50, p99 = quantile(found, 0.5), quantile(found, 0.99)
    return {"p50": _rounded(p50), "p99": _rounded(p99), "n": sum(digest.n for digest in found)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
