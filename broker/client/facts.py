"""What an offer says, read into figures for tables and guards. Imports the domain alone; pure.

A broker of ours ranks and writes `ranking`; of a plain 1.0 service only the standard's costs and schedules are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from broker.client.words import money
from broker.domain import kinds
from broker.domain.components import AbstractComponent, SimpleMinMaxFloatCost
from broker.domain.resources import SimpleComputeResource
from broker.domain.schedule import ScheduledExecutionSchedule, ScheduleStartDurationInterval
from broker.domain.session import Bounds, RankingNote, SimpleExecutionSession


@dataclass(frozen=True)
class Facts:
    """Money in `pay.unit`, CO2e in kg, moves in bytes, memory in GiB. None: not known, never zero. `least`: bytes that
    surely move; `cached`: that the site has already; `unsure`: something of its data is not known."""

    session: str
    rank: int | None
    site: str
    origin: str
    pay: Bounds | None
    price: Bounds | None
    ranked_price: Bounds | None
    egress: Bounds | None
    carbon: Bounds | None
    all_in: Bounds | None
    start: datetime | None
    result: datetime | None
    latest: datetime | None
    cores: int | None
    memory: int | None
    moves: Bounds | None
    sources: tuple[str, ...]
    least: float
    cached: float
    unsure: bool
    platform: str
    reserved: bool
    simulated: bool
    results: bool
    trade_off: bool
    excluded: str
    behind: str
    why: str

    @property
    def guessed(self) -> bool:
        """A configured value stands in for something that nobody knows."""
        return bool(self.all_in and self.all_in.stand_in)

    @property
    def experienced(self) -> bool:
        """The price ranks by what such prices have come to, and so ALL-IN holds another than PAY shows."""
        return bool(self.price and self.ranked_price and self.price.expected != self.ranked_price.expected)

    @property
    def free(self) -> bool:
        return bool(self.pay and not self.pay.stand_in and self.pay.pessimistic <= 0)


def facts(session: SimpleExecutionSession, rank: int | None) -> Facts:
    note = session.ranking or RankingNote()
    start, result = _times(session, note)
    compute = session.compute if isinstance(session.compute, SimpleComputeResource) else None
    locality = session.locality
    guessed = any(term.stand_in for term in note.terms or ())
    all_in = note.all_in.with_(stand_in=True) if note.all_in and guessed else note.all_in
    return Facts(
        session=str(session.uuid or ""),
        rank=rank,
        site=session.site or session.origin or session.name or "?",
        origin=session.origin or "",
        pay=note.pay or cost(session, kinds.MONETARY),
        price=note.price or _term(note, "price") or cost(session, kinds.MONETARY),
        ranked_price=_term(note, "price"),
        egress=_term(note, "egress"),
        carbon=cost(session, kinds.CARBON),
        all_in=all_in,
        start=start,
        result=result,
        latest=note.result_latest,
        cores=compute.cores.min if compute and compute.cores else None,
        memory=compute.memory.min if compute and compute.memory else None,
        moves=locality.bytes if locality else None,
        sources=(locality.sources or ()) if locality else (),
        least=(locality.least or 0.0) if locality else 0.0,
        cached=(locality.cached or 0.0) if locality else 0.0,
        unsure=locality is not None and locality.certainty == "unknown",
        platform=session.platform or "",
        reserved=session.reserved is True,
        simulated=session.simulated is True,
        results=session.results is True,
        trade_off=note.trade_off is True,
        excluded=note.excluded or "",
        behind=note.behind or "",
        why=_standing(session) or note.why or "",
    )


def in_doubt(session: SimpleExecutionSession) -> bool:
    """The broker asked the site to take it, and does not know yet whether it did."""
    messages = (session.meta.messages if session.meta else None) or ()
    return session.phase == "OFFERED" and any(message.kind == "uri:acceptance-doubt" for message in messages)


def _standing(session: SimpleExecutionSession) -> str:
    """What has become of an offer that is none any more, such as `EXPIRED`."""
    if in_doubt(session):
        return "in doubt: did it take it?"
    return "" if session.phase in (None, "OFFERED", "INITIAL") else str(session.phase)


def available(session: SimpleExecutionSession) -> ScheduleStartDurationInterval | None:
    """When it can run. A session's own schedule is often empty: then that of its compute resource holds."""
    for schedule in schedules(session):
        if schedule.available is not None and schedule.available.start is not None:
            return schedule.available
    return None


def schedules(session: SimpleExecutionSession) -> Iterator[ScheduledExecutionSchedule]:
    """Its compute resource's, then its own. A simple session has none; what stands there of that name is nobody's."""
    for component in (session.compute, session):
        schedule = getattr(component, "schedule", None)
        if isinstance(schedule, ScheduledExecutionSchedule):
            yield schedule


def _times(session: SimpleExecutionSession, note: RankingNote) -> tuple[datetime | None, datetime | None]:
    slot = available(session)
    start = note.ready or (slot.start.start if slot and slot.start else None)
    result = note.result
    if result is None and start and slot and slot.duration is not None:
        result = start + slot.duration
    return start, result


def cost(component: AbstractComponent, type_: str) -> Bounds | None:
    """The component's cost of that type as a range: its middle, its maximum."""
    for item in component.costs or ():
        if item.type == type_ and isinstance(item, SimpleMinMaxFloatCost):
            low, high = item.min, item.max
            low, high = (low if low is not None else high), (high if high is not None else low)
            if low is not None and high is not None:
                return Bounds(expected=low / 2 + high / 2, pessimistic=high, unit=item.unit)
    return None


def _term(note: RankingNote, name: str) -> Bounds | None:
    for term in note.terms or ():
        if term.name == name:
            return Bounds(expected=term.expected, pessimistic=term.pessimistic, stand_in=term.stand_in)
    return None


def amount(pay: Bounds) -> str:
    return f"{money(pay.pessimistic)} {pay.unit or ''}".strip()
