"""A run as the broker shows it: phase, times, and messages with the run's own words. Imports the ports, the platform
port, and this package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters.planning.platform import Job
from adapters.wes import words
from adapters.wes.client import Wes, times
from adapters.wes.options import WesOptions
from adapters.wes.states import meaning
from broker.domain.deadline import Deadline
from broker.domain.executables import Workflow
from broker.errors import SiteError
from broker.ports import Sighting

SETTLES = 5.0  # seconds after the end of a run without outputs until it is known to have none: toil notes them later


def shown(state: str, run: str) -> Sighting:
    """What a state alone says."""
    said = meaning(state)
    return Sighting(said.phase, messages=(said.words,) if said.words else (), native=run)


async def show(
    wes: Wes,
    document: Mapping[str, Any],
    run: str,
    state: str,
    job: Job,
    options: WesOptions,
    now: float,
    deadline: Deadline,
) -> Sighting:
    """Of a RunLog. A log that cannot be read costs its words, not the sighting."""
    sighting = shown(state, run)
    began, ended = times(document)
    sighting = msgspec.structs.replace(sighting, began=began, ended=ended)
    log = document.get("run_log")
    log = log if isinstance(log, dict) else {}
    if sighting.phase == "CANCELLED" and _over_time(began, ended, job, options):
        text = f"it was ended by the broker: its duration of {job.duration:g} s is over"
        return msgspec.structs.replace(sighting, phase="FAILED", messages=(text,))
    if (
        sighting.phase == "COMPLETED"
        and not document.get("outputs")
        and ended is not None
        and abs(now - ended) < SETTLES
    ):
        return msgspec.structs.replace(sighting, phase="RELEASING", messages=("the server is noting the outputs",))
    more: tuple[str, ...] = ()
    try:
        if sighting.phase == "RUNNING":
            stderr = log.get("stderr")
            more = words.steps(await wes.steps(document, run, deadline), stderr if isinstance(stderr, str) else "")
        elif sighting.phase == "FAILED":
            system = [line for line in log.get("system_logs") or () if isinstance(line, str)]
            more = words.failure(await wes.text(log.get("stderr"), run, deadline) or "", system)
    except SiteError as error:
        more = (f"its logs cannot be read: {error.detail}",)
    return msgspec.structs.replace(sighting, messages=(*sighting.messages, *more))


def overdue(sighting: Sighting, job: Job, options: WesOptions, now: float) -> bool:
    """WES has no time limit. A program has one of its own (launch.py)."""
    return sighting.phase == "RUNNING" and _over_time(sighting.began, now, job, options)


def _over_time(began: float | None, ended: float | None, job: Job, options: WesOptions) -> bool:
    if began is None or ended is None or job.duration <= 0 or not isinstance(job.request.executable, Workflow):
        return False
    return ended - began >= job.duration + options.grace.total_seconds()
