"""Sessions and offer sets as they stand on the wire, and the drawn order of phases. Imports the domain's models.

Source: AbstractExecutionSession, SimpleExecutionSession, ScheduledExecutionSession, OfferSetResponse in
execution-broker-1.0.openapi.json; what the field does with phases: protocol.md 1.3. Properties marked *ours* are
additions that 1.0 clients ignore.

    INITIAL → OFFERED → ACCEPTED → WAITING → PREPARING → AVAILABLE → RUNNING → RELEASING → COMPLETED
                 │          └──────────────────────┬───────────────────────────────┘
                 ├→ REJECTED                       ├→ FAILED
                 └→ EXPIRED                        └→ CANCELLED
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from broker.domain import kinds
from broker.domain.base import ONE_OF, Flag, Int, Model, Natural, Number, Text
from broker.domain.components import AbstractComponent
from broker.domain.data import AbstractDataResource
from broker.domain.executables import AbstractExecutable
from broker.domain.located_note import LocatedNote
from broker.domain.outputs import Outputs
from broker.domain.preferences import Preferences
from broker.domain.quantities import Duration, Instant
from broker.domain.resources import AbstractComputeResource, AbstractStorageResource
from broker.domain.schedule import ScheduledExecutionSchedule


class SessionPhase(StrEnum):
    INITIAL = "INITIAL"
    OFFERED = "OFFERED"
    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    WAITING = "WAITING"
    PREPARING = "PREPARING"
    AVAILABLE = "AVAILABLE"
    RUNNING = "RUNNING"
    RELEASING = "RELEASING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


_ORDER = {
    "INITIAL": 0, "OFFERED": 1, "ACCEPTED": 2, "WAITING": 3, "PREPARING": 4, "AVAILABLE": 5, "RUNNING": 6,
    "RELEASING": 7, "REJECTED": 8, "EXPIRED": 8, "COMPLETED": 8, "FAILED": 8, "CANCELLED": 8,
}  # fmt: skip

REFUSED = frozenset({"REJECTED", "EXPIRED"})
TERMINAL = frozenset({"REJECTED", "EXPIRED", "COMPLETED", "FAILED", "CANCELLED"})
# The same phase by the names of older dialects (protocol.md 1.7).
SYNONYMS = {"READY": "AVAILABLE", "PROPOSED": "INITIAL", "TEARDOWN": "RELEASING", "EXECUTING": "RUNNING"}


def known(phase: str) -> bool:
    return phase in _ORDER


def taken(phase: str) -> bool:
    """ACCEPTED or later, refusals excepted: the site has the session."""
    return _ORDER.get(phase, -1) >= 2 and phase not in REFUSED


def forward(now: str, seen: str) -> bool:
    """Whether a reader who saw `now` may be shown `seen`: only ever onward, and nothing after a terminal phase."""
    return now not in TERMINAL and known(seen) and _ORDER[seen] > _ORDER[now]


class SimpleSessionConnector(Model):
    kind: Text | None = None
    status: Literal["PREPARING", "AVAILABLE", "FINISHED"] | None = None
    protocol: Text | None = None
    location: Text | None = None


class Bounds(Model):
    """*Ours*: a range as it is ranked. `stand_in`: not known, a configured value takes its place."""

    expected: Number
    pessimistic: Number
    unit: Text | None = None
    stand_in: Flag | None = None


class Term(Model):
    """*Ours*: one term of a score, in money. `basis` is what it was worked out from, such as "1.5 h × 2 EUR/h"."""

    name: Text
    expected: Number
    pessimistic: Number
    stand_in: Flag | None = None
    basis: Text | None = None


class DeliveryNote(Model):
    """*Ours*: what it takes to write the results where they are to go, after the run. `to`: the storage, or the place
    itself; `bytes`: as the request expects. `stand_in`: size or way are not known, configured values count."""

    to: Text | None = None
    seconds: Bounds | None = None
    price: Bounds | None = None
    bytes: Number | None = None
    stand_in: Flag | None = None


class LocalityNote(Model):
    """*Ours*: what must move to where the session would run. Bytes; `staging` in seconds, the `recall` from tapes in
    it. `least`: bytes that surely move, where not all sizes are known. `held`: the data resources, by path, that the
    site says it has already; `cached`: their bytes. `samples`: measured transfers behind it."""

    bytes: Bounds | None = None
    sources: tuple[Text, ...] | None = None
    staging: Bounds | None = None
    egress: Bounds | None = None
    certainty: Literal["stated", "measured", "estimated", "unknown"] | None = None
    least: Number | None = None
    recall: Bounds | None = None
    held: tuple[Text, ...] | None = None
    cached: Number | None = None
    samples: Natural | None = None
    delivery: DeliveryNote | None = None


class TransferNote(Model):
    """*Ours*: bytes that a site has brought in for a session. `source`: the storage they came from, where the site
    knows it by name; `url`: where they came from. `cached`: they were there already, and nothing moved."""

    url: Text | None = None
    source: Text | None = None
    bytes: Number
    seconds: Number
    files: Natural | None = None
    ended: Instant | None = None
    cached: Flag | None = None


class RankingNote(Model):
    """*Ours*: why an offer stands where it stands. `all_in` ranks and is not billed; `pay` is: `price`, and what moving
    data costs. Both as offered; `terms` hold what such offers have come to. `excluded`: not ranked, and why.
    `trade_off`: no other offer is better in all (Pareto). `behind`: what it loses by to the first."""

    rank: Int | None = None
    all_in: Bounds | None = None
    pay: Bounds | None = None
    price: Bounds | None = None
    ready: Instant | None = None
    result: Instant | None = None
    result_latest: Instant | None = None
    terms: tuple[Term, ...] | None = None
    trade_off: Flag | None = None
    dominated_by: Text | None = None
    excluded: Text | None = None
    behind: Text | None = None
    why: Text | None = None


class Promise(Model):
    """*Ours*: what was offered at acceptance beside what came. Instants, durations, money in `unit`."""

    start: Instant | None = None
    duration: Duration | None = None
    cost: Number | None = None
    unit: Text | None = None
    actual_start: Instant | None = None
    actual_end: Instant | None = None
    actual_duration: Duration | None = None
    actual_cost: Number | None = None


class AbstractExecutionSession(AbstractComponent, family=True): ...


class SimpleExecutionSession(AbstractExecutionSession, kind=kinds.SIMPLE_SESSION):
    """From `site` on *ours*."""

    phase: SessionPhase | None = None
    expires: Instant | None = None
    executable: Annotated[AbstractExecutable, ONE_OF] | None = None
    compute: Annotated[AbstractComputeResource, ONE_OF] | None = None
    storage: tuple[Annotated[AbstractStorageResource, ONE_OF], ...] | None = None
    data: tuple[Annotated[AbstractDataResource, ONE_OF], ...] | None = None
    connectors: tuple[SimpleSessionConnector, ...] | None = None

    site: Text | None = None
    origin: Text | None = None
    platform: Text | None = None
    reserved: Flag | None = None
    simulated: Flag | None = None
    native: Text | None = None
    results: Flag | None = None
    offerset: Text | None = None
    locality: LocalityNote | None = None
    ranking: RankingNote | None = None
    promise: Promise | None = None
    transfers: tuple[TransferNote, ...] | None = None
    located: tuple[LocatedNote, ...] | None = None
    outputs: Outputs | None = None


class ScheduledExecutionSession(SimpleExecutionSession, kind=kinds.SCHEDULED_SESSION):
    schedule: ScheduledExecutionSchedule | None = None


class OutcomeNote(Model):
    """*Ours*: what came of asking one site. `latency` in seconds."""

    site: Text
    outcome: Literal["Offered", "Declined", "TimedOut", "Failed", "Skipped", "Pending"]
    offers: Int | None = None
    reasons: tuple[Text, ...] | None = None
    latency: Number | None = None
    retry_after: Number | None = None
    acts: Text | None = None


class OfferSetResponse(AbstractComponent, kind=kinds.OFFERSET):
    """Ranked, best first. Excluded offers are not among them; `outcomes` says why. From `expires` on *ours*."""

    result: Literal["YES", "NO"] | None = None
    description: Text | None = None
    offers: tuple[Annotated[AbstractExecutionSession, ONE_OF], ...] | None = None

    expires: Instant | None = None
    outcomes: tuple[OutcomeNote, ...] | None = None
    pending: Int | None = None
    closed: Flag | None = None
    taken: Text | None = None
    asof: Instant | None = None
    preferences: Preferences | None = None
    located: tuple[LocatedNote, ...] | None = None
