"""What a workflow's own documents say of the sizes that its request leaves open (docs/adr/0026). Pure; imports the
domain and the reader of CWL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from adapters.common import cwl
from adapters.common.cwl import Amount, Reading
from broker.domain import kinds
from broker.domain.components import ComponentMetadata
from broker.domain.executables import Workflow
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest
from broker.domain.resources import (
    SimpleComputeCores,
    SimpleComputeMemory,
    SimpleComputeResource,
    SimpleStorageResource,
    SimpleStorageSize,
)

STORAGE = "workflow"  # the name of a storage that is added


class Filled(NamedTuple):
    """The request with its gaps filled; what is to be said of that, each with its level; what stands against it."""

    request: ExecutionRequest
    notes: tuple[tuple[str, str], ...] = ()
    reasons: tuple[Reason, ...] = ()


def fillable(request: ExecutionRequest) -> bool:
    """Whether `fill` has anything to read; it may take some tenths of a second then."""
    return isinstance(request.executable, Workflow) and cwl.is_cwl(request.executable)


def fill(request: ExecutionRequest) -> Filled:
    """What the request states itself is left as it is, even where the documents ask for more."""
    executable = request.executable
    if not isinstance(executable, Workflow) or not cwl.is_cwl(executable) or not executable.location:
        return Filled(request)
    reading = cwl.read(executable)
    if reading.fault:
        return Filled(
            request, reasons=(Reason(f"{reading.file}: {reading.fault}", _element(executable, reading.file)),)
        )
    reasons = tuple(_too_little(request, reading))
    if reasons:
        return Filled(request, reasons=reasons)
    notes = [*_sizes(request, reading), *_storage(request, reading)]
    gaps = _open(request, "cores") or _open(request, "memory")
    unknown = [f"{text}: what the request leaves open has its default" for text in reading.unknown if gaps]
    return Filled(_filled(request, reading), (*notes, *(("INFO", text) for text in unknown)))


def _element(workflow: Workflow, file: str) -> str:
    paths = [item.path for item in workflow.attachments or ()]
    return f"executable.attachments[{paths.index(file)}].source" if file in paths else "executable.location"


def _open(request: ExecutionRequest, what: str) -> bool:
    """Whether the request states no minimum of `cores` or `memory`."""
    size = getattr(request.compute, what, None)
    return size is None or size.min is None


def _fills(request: ExecutionRequest, reading: Reading) -> Iterator[tuple[str, str, Amount, int | None]]:
    """What the documents ask: element, unit, amount, and the maximum of the request."""
    if request.compute is None or isinstance(request.compute, SimpleComputeResource):
        if reading.cores:
            yield "cores", "", reading.cores, request.cores[1]
        if reading.memory:
            yield "memory", " GiB", reading.memory, request.memory[1]


def _too_little(request: ExecutionRequest, reading: Reading) -> Iterator[Reason]:
    for what, unit, amount, most in _fills(request, reading):
        if most is not None and most < amount.least and _open(request, what):
            text = f"{most}{unit} at most are allowed, and {amount.where} asks for {amount.least}{unit}"
            yield Reason(text, f"compute.{what}.max", nearest=str(amount.least))


def _sizes(request: ExecutionRequest, reading: Reading) -> Iterator[tuple[str, str]]:
    for what, unit, amount, _ in _fills(request, reading):
        source = f"by the ResourceRequirement of {amount.where}"
        stated = getattr(request, what)[0]
        if _open(request, what):
            yield "INFO", f"compute.{what}: {amount.least}{unit}, {source}"
        elif stated < amount.least:
            yield "WARN", f"compute.{what}: {stated}{unit} as asked, though it is {amount.least}{unit} {source}"


def _storage(request: ExecutionRequest, reading: Reading) -> Iterator[tuple[str, str]]:
    if reading.storage and not request.storage:
        yield "INFO", f"storage: {reading.storage.least} GiB, by the ResourceRequirement of {reading.storage.where}"


def _filled(request: ExecutionRequest, reading: Reading) -> ExecutionRequest:
    changes: dict[str, object] = {}
    compute = request.compute or SimpleComputeResource(kind=kinds.SIMPLE_COMPUTE)
    sizes: dict[str, object] = {}
    for what, _, amount, most in _fills(request, reading):
        if _open(request, what):
            high = most if most is not None else amount.most
            model = SimpleComputeCores if what == "cores" else SimpleComputeMemory
            sizes[what] = model(min=amount.least, max=high)
    if sizes:
        changes["compute"] = compute.with_(**sizes)
    if reading.storage and not request.storage:
        size = SimpleStorageSize(min=reading.storage.least)
        meta = ComponentMetadata(name=STORAGE)
        changes["storage"] = (SimpleStorageResource(kind=kinds.SIMPLE_STORAGE, meta=meta, size=size),)
    return request.with_(**changes) if changes else request
