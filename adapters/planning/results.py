"""What becomes of a run's results and storage after it: what a site refuses, how long it keeps, what that is charged
by. Pure; imports the domain.

Two things can be asked to outlive the run: the results (`outputs.keep`, ours), and a storage resource whose schedule
of version 1.0 is available for longer than the run.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapters.planning.sizes import granted
from adapters.planning.tariff import DAY, GB_PER_GIB, Tariff
from broker.domain.outcome import Reason
from broker.domain.outputs import reaches
from broker.domain.quantities import format_duration
from broker.domain.request import ExecutionRequest
from broker.domain.resources import AbstractStorageResource
from broker.domain.site import Profile


def refuse(request: ExecutionRequest, profile: Profile, tariff: Tariff | None) -> Iterator[Reason]:
    """A place that the site cannot write to, a time for which it does not keep, a size that would be charged and is not
    known."""
    outputs = request.outputs
    if outputs is not None and outputs.to is not None and not reaches(profile.writes, outputs.to):
        says = ", ".join(profile.writes)
        text = f"results cannot be written to {outputs.to[:200]} from here" + (
            f"; they can to {says}." if says else "."
        )
        yield Reason(text, "outputs.to", "writes", says)
    for element, asked in _asked(request):
        if profile.keeps is None:
            # Of a storage nobody was ever told how long it lives; of results somebody asks it here.
            if element == "outputs.keep":
                yield Reason(
                    "this site does not say how long it keeps results.", element, "keeps", "no time of keeping"
                )
        elif asked > profile.keeps.total_seconds():
            longest = format_duration(profile.keeps)
            yield Reason(f"{format_duration(asked)} asked, the longest here is {longest}.", element, "keeps", longest)
    if outputs is not None and outputs.keep is not None and outputs.size is None and tariff and tariff.storage_day:
        text = f"what is kept for {format_duration(outputs.keep)} is charged by its size, which is not stated."
        yield Reason(text, "outputs.size", "tariff", "the GB that are expected")


def _asked(request: ExecutionRequest) -> Iterator[tuple[str, float]]:
    """Seconds after the run, by element."""
    if request.outputs is not None and request.outputs.keep is not None:
        yield "outputs.keep", request.outputs.keep.total_seconds()
    run = request.duration.total_seconds()
    for i, item in enumerate(request.storage or ()):
        if (beyond := _lifetime(item) - run) > 0:
            yield f"storage[{i}].schedule.available.duration", beyond


def _lifetime(item: AbstractStorageResource) -> float:
    """Seconds for which a storage resource is to be available; 0: as long as the run."""
    available = item.schedule.available if item.schedule else None
    return available.duration.total_seconds() if available and available.duration else 0.0


def kept(request: ExecutionRequest) -> float:
    """Seconds after the run for which something of it was asked to stay; 0: nothing was asked."""
    return max((seconds for _, seconds in _asked(request)), default=0.0)


def keeping(request: ExecutionRequest) -> float:
    """What stays after the run, as it was asked: GB (10^9 bytes) times days."""
    run = request.duration.total_seconds()
    days = sum(granted(item) * GB_PER_GIB * max(0.0, _lifetime(item) - run) / DAY for item in request.storage or ())
    outputs = request.outputs
    if outputs is not None and outputs.keep is not None and outputs.size is not None:
        days += outputs.size * outputs.keep.total_seconds() / DAY
    return days
