"""Offers and wishes made by hand, for tests of whatever ranks. Imports the domain."""

from __future__ import annotations

from typing import Any

from broker.domain.locality import Locality
from broker.domain.money import Exchange
from broker.domain.quantities import Span
from broker.domain.ranking import Candidate, Defaults, Wishes, resolve
from broker.domain.request import ExecutionRequest

NOW = 1_795_356_120.0  # 2026-11-22T14:02:00Z
EXCHANGE = Exchange("EUR", {"USD": 0.92, "GBP": 1.17, "SEK": 0.087}, "2026-11-20")
HERE = Locality(sources=("alba-disk",))


def at(clock: str) -> float:
    """`15:22` on the day of NOW, in epoch seconds."""
    hours, minutes = clock.split(":")
    return NOW - 14 * 3600 - 2 * 60 + int(hours) * 3600 + int(minutes) * 60


def starting(expected: str, latest: str) -> Span:
    """The range whose middle is `expected`."""
    return Span(2 * at(expected) - at(latest), at(latest))


def candidate(session: str = "a", **known: Any) -> Candidate:
    """An offer that starts now, runs an hour, costs 1 EUR and emits 0.2 kg; `known` says what differs."""
    plain: dict[str, Any] = {
        "origin": session,
        "site": session,
        "start": Span.of(NOW),
        "run": Span.of(3600.0),
        "price": Span.of(1.0),
        "carbon": Span.of(0.2),
    }
    return Candidate(session=session, **plain | known)


def moving(gigabytes: float, egress: float, staging: float = 0.0) -> Locality:
    """Data that comes from alba, at a price in the base currency, in `staging` seconds."""
    return Locality(Span.of(gigabytes * 1e9), ("alba-disk",), Span.of(staging), Span.of(egress), "estimated")


def wishes(request: dict[str, Any] | None = None, *, exchange: Exchange = EXCHANGE, **preferences: Any) -> Wishes:
    """`request`: what a request of a Python program has besides; `preferences` as a caller writes them."""
    wire = {"executable": {"kind": "uri:python-program-1.0"}, **(request or {}), "preferences": preferences}
    asked = ExecutionRequest.model_validate(wire)
    return resolve(asked.preferences, asked, exchange, Defaults())
