"""The execution request, its defaults, and the references between its parts. Imports the domain's models.

Source: ExecutionRequest in execution-broker-1.0.openapi.json; defaults: protocol.md 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

from broker.domain.base import ONE_OF, Model
from broker.domain.components import AbstractComponent, Costs, Metrics
from broker.domain.data import AbstractDataResource
from broker.domain.executables import AbstractExecutable
from broker.domain.located_note import LocatedNote
from broker.domain.outputs import Outputs
from broker.domain.preferences import Preferences
from broker.domain.quantities import Duration, Interval
from broker.domain.resources import (
    AbstractComputeResource,
    AbstractStorageResource,
    SimpleComputeResource,
    SimpleVolumeMount,
)
from broker.errors import BadInput, Dangling

DEFAULT_DURATION = timedelta(hours=2)
DEFAULT_CORES = 1
DEFAULT_MEMORY = 1  # GiB
_MOST_NAMES = 20  # that an error lists


class RequestedScheduleItem(Model):
    duration: Duration | None = None
    start: Interval | None = None


class RequestedScheduleBlock(Model):
    requested: RequestedScheduleItem | None = None


class ExecutionRequest(Model):
    """What a person asks of the federation. Has no `meta` in 1.0: its name is the executable's. From `preferences` on
    *ours*; `located`: what a broker above has found out of the data; `outputs`: where results go."""

    executable: Annotated[AbstractExecutable, ONE_OF]
    compute: Annotated[AbstractComputeResource, ONE_OF] | None = None
    storage: tuple[Annotated[AbstractStorageResource, ONE_OF], ...] | None = None
    data: tuple[Annotated[AbstractDataResource, ONE_OF], ...] | None = None
    schedule: RequestedScheduleBlock | None = None
    costs: Costs | None = None
    metrics: Metrics | None = None
    preferences: Preferences | None = None
    located: tuple[LocatedNote, ...] | None = None
    outputs: Outputs | None = None

    @property
    def name(self) -> str:
        return self.executable.name

    @property
    def duration(self) -> timedelta:
        asked = self.schedule.requested.duration if self.schedule and self.schedule.requested else None
        return asked if asked is not None else DEFAULT_DURATION

    @property
    def start(self) -> Interval | None:
        """The window in which the run may start; None: as soon as can be."""
        return self.schedule.requested.start if self.schedule and self.schedule.requested else None

    @property
    def cores(self) -> tuple[int, int | None]:
        """Asked minimum and maximum; None: no maximum stated."""
        return self._size("cores", DEFAULT_CORES)

    @property
    def memory(self) -> tuple[int, int | None]:
        """Asked minimum and maximum in GiB; None: no maximum stated."""
        return self._size("memory", DEFAULT_MEMORY)

    @property
    def extras(self) -> dict[str, int]:
        """Asked extras: type → count."""
        asked = (self.compute.extras or ()) if isinstance(self.compute, SimpleComputeResource) else ()
        counts: dict[str, int] = {}
        for extra in asked:
            counts[extra.type] = counts.get(extra.type, 0) + extra.count
        return counts

    def _size(self, what: str, default: int) -> tuple[int, int | None]:
        pair = getattr(self.compute, what, None) if isinstance(self.compute, SimpleComputeResource) else None
        low = pair.min if pair and pair.min is not None else default
        return low, pair.max if pair else None

    def components(self) -> Iterator[tuple[str, AbstractComponent]]:
        """Every component with its dotted path."""
        yield "executable", self.executable
        if self.compute:
            yield "compute", self.compute
            yield from ((f"compute.volumes[{i}]", volume) for i, volume in enumerate(self.compute.volumes or ()))
        yield from ((f"storage[{i}]", item) for i, item in enumerate(self.storage or ()))
        yield from ((f"data[{i}]", item) for i, item in enumerate(self.data or ()))


def check(request: ExecutionRequest) -> None:
    """What the models cannot see: minima above maxima, negative durations, references that lead nowhere.

    References are by name or uuid (protocol.md 1.4). Raises BadInput or Dangling for the first fault found.
    """
    if request.duration <= timedelta(0):
        raise BadInput("a duration above zero is wanted.", element="schedule.requested.duration")
    for what, (low, high) in {"cores": request.cores, "memory": request.memory}.items():
        if high is not None and high < low:
            raise BadInput(
                f"max {high} is below min {low}.", element=f"compute.{what}", remedy="Swap them, or leave max out."
            )
    _check_references(request)


def _check_references(request: ExecutionRequest) -> None:
    storages, data = _names(request.storage, "storage"), _names(request.data, "data")
    both = storages | data
    for i, item in enumerate(request.data or ()):
        _resolve(item.storage, storages, f"data[{i}].storage", "storage")
    for i, store in enumerate(request.storage or ()):
        for j, reference in enumerate(store.data or ()):
            _resolve(reference, data, f"storage[{i}].data[{j}]", "data")
    for i, volume in enumerate((request.compute.volumes if request.compute else None) or ()):
        if isinstance(volume, SimpleVolumeMount):
            path = f"compute.volumes[{i}].resource"
            if volume.resource is None:
                raise Dangling("a volume names what it mounts.", element=path, remedy=_known(both))
            if volume.resource in storages and volume.resource in data:
                raise BadInput(
                    f'"{volume.resource}" is both data and storage.', element=path, remedy="Name them differently."
                )
            _resolve(volume.resource, both, path, "data or storage")


def _names(items: tuple[AbstractComponent, ...] | None, where: str) -> set[str]:
    names: set[str] = set()
    for i, item in enumerate(items or ()):
        for name in filter(None, (item.name, str(item.uuid) if item.uuid else "")):
            if name in names:
                raise BadInput(
                    f'"{name}" is used twice.', element=f"{where}[{i}].meta", remedy="Name them differently."
                )
            names.add(name)
    return names


def _resolve(reference: str | None, names: set[str], element: str, what: str) -> None:
    if reference is not None and reference not in names:
        raise Dangling(f'"{reference}": no such {what}.', element=element, remedy=_known(names))


def _known(names: set[str]) -> str:
    if not names:
        return "There are none."
    shown = sorted(names)[:_MOST_NAMES]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"There are: {', '.join(shown)}{more}."
