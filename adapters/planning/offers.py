"""Offers as documents: written from what was planned, and read back as the job they stand for. Pure.

Imports the domain. Source: ScheduledExecutionSession in execution-broker-1.0.openapi.json; what the field does with
references, defaults and schedules: protocol.md 1.4. An offer carries all that is needed to run it, because planners
hold no state.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid5

import msgspec
from pydantic import ValidationError

from adapters.planning import sizes
from adapters.planning.platform import Job
from adapters.planning.sizes import Size
from broker.domain import kinds
from broker.domain.components import (
    AbstractComponent,
    ComponentMetadata,
    Costs,
    MessageItem,
    Metrics,
)
from broker.domain.data import AbstractDataResource
from broker.domain.quantities import Interval, Span
from broker.domain.request import ExecutionRequest, RequestedScheduleBlock, RequestedScheduleItem
from broker.domain.resources import (
    AbstractComputeResource,
    AbstractStorageResource,
    AbstractVolumeMount,
    SimpleComputeCores,
    SimpleComputeMemory,
    SimpleComputeResource,
    SimpleStorageResource,
    SimpleStorageSize,
    SimpleVolumeMount,
)
from broker.domain.schedule import (
    LifecycleSchedule,
    LifecycleStartDurationInstant,
    LifecycleStartDurationInterval,
)
from broker.domain.session import LocalityNote, ScheduledExecutionSession, SessionPhase
from broker.errors import SiteRefused
from broker.ports import Order

C = TypeVar("C", bound=AbstractComponent)

_PROPERTIES = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Plan(msgspec.Struct, frozen=True):
    """One offer as it was planned. `start`: when the platform is told to start, earliest to latest; `preparing`:
    seconds from there until it runs, None: not stated. `reserved`: room is held for it. `guessed`: the platform did
    not say when it would start."""

    handle: UUID
    size: Size
    start: Span
    preparing: float | None
    duration: float
    turnaround: float
    until: float
    reserved: bool
    guessed: bool = False


class Words(msgspec.Struct, frozen=True):
    """What an offer says besides the plan. `at_hand`: bytes of the data that is here already, by path."""

    site: str
    created: float
    costs: Costs = ()
    share: Costs = ()
    metrics: Metrics = ()
    messages: tuple[MessageItem, ...] = ()
    platform: str | None = None
    simulated: bool = False
    results: bool = False
    at_hand: Mapping[str, float] = {}


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────


def granted(request: ExecutionRequest, plan: Plan) -> ExecutionRequest:
    """The request with what is granted in the place of what was asked: sizes, uuids, references by uuid."""
    names = _Names(request, plan.handle)
    compute = request.compute or SimpleComputeResource(kind=kinds.SIMPLE_COMPUTE)
    return request.with_(
        executable=_identified(request.executable, plan.handle, "executable"),
        compute=_compute(compute, plan, names),
        storage=tuple(_storage(item, i, names, request) for i, item in enumerate(request.storage or ())) or None,
        data=tuple(_data(item, i, names) for i, item in enumerate(request.data or ())) or None,
        schedule=RequestedScheduleBlock(
            requested=RequestedScheduleItem(duration=timedelta(seconds=plan.duration), start=request.start)
        ),
        costs=None,
        metrics=None,
        preferences=None,
    )


def write(request: ExecutionRequest, plan: Plan, words: Words) -> bytes:
    """The offer in JSON. `request` is what `granted` made."""
    schedule = _schedule(plan)
    compute = request.compute
    if compute is not None:
        compute = compute.with_(schedule=schedule, costs=words.share or None, metrics=words.metrics or None)
    meta = ComponentMetadata(
        uuid=plan.handle, name=request.name or None, created=_instant(words.created), messages=words.messages or None
    )
    session = ScheduledExecutionSession(
        kind=kinds.SCHEDULED_SESSION,
        meta=meta,
        phase=SessionPhase.OFFERED,
        expires=_instant(plan.until),
        schedule=schedule,
        executable=request.executable,
        compute=compute,
        storage=request.storage,
        data=request.data,
        located=request.located,
        outputs=request.outputs,
        costs=words.costs or None,
        metrics=words.metrics or None,
        origin=words.site,
        platform=words.platform,
        reserved=plan.reserved,
        simulated=words.simulated or None,
        results=words.results,
        locality=_locality(words.at_hand),
    )
    return msgspec.json.encode(session.to_wire())


def _locality(at_hand: Mapping[str, float]) -> LocalityNote | None:
    """What the site has, and nothing of what it has not: whoever ranks the offer knows more of that."""
    if not at_hand:
        return None
    return LocalityNote(held=tuple(at_hand), cached=math.fsum(at_hand.values()), certainty="stated")


def _schedule(plan: Plan) -> LifecycleSchedule:
    staging = plan.preparing or 0.0
    begins = Interval(_instant(plan.start.low + staging), _instant(plan.start.high + staging))
    length = timedelta(seconds=plan.duration)
    return LifecycleSchedule(
        preparing=None
        if plan.preparing is None
        else LifecycleStartDurationInstant(start=_instant(plan.start.low), duration=timedelta(seconds=staging)),
        available=LifecycleStartDurationInterval(start=begins, duration=length),
        releasing=LifecycleStartDurationInstant(start=begins.end + length, duration=timedelta(seconds=plan.turnaround)),
    )


class _Names:
    """New uuids of data and storage, by the names and uuids the request calls them."""

    def __init__(self, request: ExecutionRequest, handle: UUID) -> None:
        self.handle = handle
        self.storage = self._index(request.storage or (), "storage")
        self.data = self._index(request.data or (), "data")
        self.stored: dict[str, list[str]] = {}  # storage → its data: what both sides say
        for i, item in enumerate(request.data or ()):
            if item.storage is not None:
                self._note(self.storage.get(item.storage, item.storage), str(uuid5(handle, f"data[{i}]")))
        for i, store in enumerate(request.storage or ()):
            for reference in store.data or ():
                self._note(str(uuid5(handle, f"storage[{i}]")), self.data.get(reference, reference))

    def _index(self, items: Sequence[AbstractComponent], where: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for i, item in enumerate(items):
            for name in filter(None, (item.name, str(item.uuid) if item.uuid else "")):
                found[name] = str(uuid5(self.handle, f"{where}[{i}]"))
        return found

    def _note(self, storage: str, data: str) -> None:
        known = self.stored.setdefault(storage, [])
        if data not in known:
            known.append(data)


def _compute(compute: AbstractComputeResource, plan: Plan, names: _Names) -> AbstractComputeResource:
    volumes = tuple(_volume(item, i, names) for i, item in enumerate(compute.volumes or ())) or None
    compute = _identified(compute, plan.handle, "compute").with_(volumes=volumes)
    if not isinstance(compute, SimpleComputeResource):
        return compute
    cores, memory = plan.size.cores, plan.size.memory
    return compute.with_(
        cores=SimpleComputeCores(min=cores, max=cores), memory=SimpleComputeMemory(min=memory, max=memory)
    )


def _volume(item: AbstractVolumeMount, i: int, names: _Names) -> AbstractVolumeMount:
    item = _identified(item, names.handle, f"compute.volumes[{i}]")
    if not isinstance(item, SimpleVolumeMount) or item.resource is None:
        return item
    resource = names.data.get(item.resource) or names.storage.get(item.resource, item.resource)
    path = item.path or f"/volumes/{item.resource}"
    return item.with_(resource=resource, mode=item.mode or "READONLY", path=path)


def _storage(
    item: AbstractStorageResource, i: int, names: _Names, request: ExecutionRequest
) -> AbstractStorageResource:
    item = _identified(item, names.handle, f"storage[{i}]")
    item = item.with_(data=tuple(names.stored.get(str(item.uuid), ())) or None)
    if not isinstance(item, SimpleStorageResource):
        return item
    size = sizes.granted(item)
    return item.with_(size=SimpleStorageSize(min=size, max=size))


def _data(item: AbstractDataResource, i: int, names: _Names) -> AbstractDataResource:
    item = _identified(item, names.handle, f"data[{i}]")
    return item.with_(storage=names.storage.get(item.storage, item.storage) if item.storage else None)


def _identified(component: C, handle: UUID, path: str) -> C:
    """With a uuid of ours; the client's own served to match its references (protocol.md 1.4)."""
    uuid = uuid5(handle, path)
    meta = component.meta.with_(uuid=uuid, url=None) if component.meta else ComponentMetadata(uuid=uuid)
    return component.with_(meta=meta)


def _instant(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


class Terms(msgspec.Struct, frozen=True):
    """An order's offer, read back. `start`: as for a Plan, the earliest."""

    job: Job
    amounts: Mapping[str, float]
    preparing: float
    expires: float | None

    @property
    def length(self) -> float:
        """Seconds from start to the end of the run, without turnaround."""
        return self.preparing + self.job.duration


def read(order: Order) -> Terms:
    """Also what a broker keeps of an offer: without what it writes itself, such as kind, uuid and expiry. Raises
    SiteRefused, with proof, for bytes that are no offer of a planner of ours."""
    try:
        raw = msgspec.json.decode(order.offer, type=dict[str, Any])
        return _terms(order, ScheduledExecutionSession.model_validate({"kind": kinds.SCHEDULED_SESSION, **raw}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SiteRefused(f"this is no offer of this site: {where}: {first['msg']}.") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise SiteRefused(f"this is no offer of this site: {error}.") from None


def _terms(order: Order, session: ScheduledExecutionSession) -> Terms:
    compute = session.compute
    schedule = compute.schedule if compute else None
    slot = schedule.available if schedule else None
    if session.executable is None or compute is None or slot is None or slot.start is None or slot.duration is None:
        raise ValueError("it states no executable, compute resource or schedule")
    request = _as_request(session, slot.duration)
    size = Size(request.cores[0], request.memory[0])
    preparing = schedule.preparing.duration if schedule and schedule.preparing else None
    staging = preparing.total_seconds() if preparing else 0.0
    job = Job(
        session=order.session,
        name=order.name or request.name,
        owner=order.user,
        request=request,
        cores=size.cores,
        memory=size.memory,
        storage=sizes.storage(request),
        extras=request.extras,
        duration=slot.duration.total_seconds(),
        start=slot.start.start.timestamp() - staging,
    )
    expires = session.expires.timestamp() if session.expires else None
    return Terms(job, sizes.amounts(size, request), staging, expires)


def _as_request(session: ScheduledExecutionSession, duration: timedelta) -> ExecutionRequest:
    parts: dict[str, Any] = {"executable": session.executable, "compute": session.compute}
    schedule = RequestedScheduleBlock(requested=RequestedScheduleItem(duration=duration))
    return ExecutionRequest(
        **parts,
        storage=session.storage,
        data=session.data,
        located=session.located,
        schedule=schedule,
        outputs=session.outputs,
    )


def gained(offer: bytes, added: bytes) -> bytes:
    """The session: an offer, with the properties that its platform shows of it now."""
    return msgspec.json.encode(_PROPERTIES.decode(offer) | _PROPERTIES.decode(added))


def messages(site: str, texts: Iterable[tuple[str, str]]) -> tuple[MessageItem, ...]:
    """(level, text) of what the site has to say."""
    levels: dict[str, Any] = {"WARN": "WARN"}
    return tuple(
        MessageItem.fill("uri:site-note", "{site}: {text}", level=levels.get(level, "INFO"), site=site, text=text)
        for level, text in texts
    )
