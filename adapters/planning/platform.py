"""The port to a bare platform: something that runs jobs but makes no offers. Imports broker's ports and domain.

`adapters/planning/planner.py` makes a Planner of it, by composition. All wall-clock times are epoch seconds UTC, all
durations seconds, memory and storage GiB.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, runtime_checkable
from uuid import UUID

import msgspec

from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteBusy, SiteError, SiteForgot
from broker.ports import Held, Logs, Result, Sighting


class Capacity(msgspec.Struct, frozen=True):
    """The whole room of the platform for the jobs of this broker, busy or not. None: not known, so not counted.
    `largest`: the most that one job can have of it, such as what a node has; keys: cores, memory, storage and types of
    extras; a missing one: all there is."""

    cores: float | None = None
    memory: float | None = None
    storage: float | None = None
    extras: Mapping[str, float] = {}
    largest: Mapping[str, float] = {}


class Job(msgspec.Struct, frozen=True):
    """One accepted offer, as it is to run.

    It is built anew from the offer's bytes at every call, so it is equal after any restart. `request` is what was
    asked with the sizes *granted* (min = max) and every reference between its parts turned into a uuid that one of
    its components carries in `meta.uuid`. `storage` is the sum over `request.storage`.
    """

    session: UUID
    name: str
    owner: Owner
    request: ExecutionRequest
    cores: int
    memory: int
    storage: int
    extras: Mapping[str, int]
    duration: float  # the longest it may run; staging and tidying up do not count
    start: float  # not before; the planner calls `start` no earlier


class Unseen(SiteBusy):
    """The platform had taken the job, and does not show it now. It is never started again."""


class Lost(SiteForgot):
    """The platform may have run the job, and knows it no more. It is never started again."""


class Platform(Protocol):
    """What a platform does. Every call ends by its deadline; every failure is a SiteError whose `proof` says whether
    the platform surely did not act. No call needs one before it in the same process: what the platform must know of
    a job it keeps itself, durably, by `Job.session`.

    A `Sighting.body` holds those properties alone that the run adds to the session, such as its connectors.
    """

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """Everything in the request that can never run here (kind, no source, a missing interpreter …), however much
        room there is; empty: it can. Sizes, prices and policies are judged by the planner. No I/O that may block."""

    def preparing(self, request: ExecutionRequest) -> float | None:
        """How long it takes from start until the program runs (staging, installing); None: not stated, and then
        whoever ranks the offer works it out from where the data lies."""

    async def describe(self, deadline: Deadline) -> Profile:
        """Kinds, Python versions, isolation, `results`, `reads`, `simulated`, `platform`. `reserves`: the platform
        runs what it is given at once, so that the planner's calendar decides; False: it keeps its own queue. Largest
        sizes, storages, countries and currency are filled in by the planner."""

    async def capacity(self, deadline: Deadline) -> Capacity:
        """May be asked at each quote. Settings of the site override it."""

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        """When the job would begin to run, earliest to latest, if it were submitted now. Asked only of a platform
        with its own queue; None: it cannot say. Submits nothing."""

    async def start(self, job: Job, deadline: Deadline) -> Sighting:
        """Run it. Idempotent by `job.session`, from any process, also after a restart and concurrently: at most one
        run ever; a repeat answers what the job shows now. A job that `cancel` has seen is never run: CANCELLED."""

    async def status(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        """The present state of each, by session. SiteForgot as an entry: the platform has no trace of that job; the
        planner may then start it, if its time has come and no start was ever confirmed; Unseen or Lost confirm that
        there was one. `began` and `ended` are wanted: the actual cost and the freeing of the room rest on them."""

    async def cancel(self, job: Job, deadline: Deadline) -> Sighting:
        """End it with all its processes. Idempotent. A job never started is remembered as CANCELLED, so that a start
        that is still under way cannot run it. Returns what it shows now: a terminal phase, or the phase it is
        leaving."""

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        """Every job that the platform has of this broker and that is not over, by session; `handle` is the session's
        uuid as text. Also such as nobody remembers: `cancel` may then be given a Job of which nothing but the session
        is true. Changes nothing. Raises SiteRefused where the platform cannot list."""

    async def logs(self, job: Job, deadline: Deadline) -> Logs: ...

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]: ...

    def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        """The bytes of one result, in pieces. Raises SiteForgot for a name that `results` does not list."""

    async def close(self) -> None:
        """Give back connections and files; running jobs go on."""


@runtime_checkable
class Doorkeeper(Protocol):
    """What a platform may do besides: know whom it lets in."""

    def turned_away(self, owner: Owner) -> tuple[Reason, ...]:
        """Why nothing runs here for this person, such as for want of an account; empty: it does. No I/O."""


@runtime_checkable
class Keeper(Protocol):
    """What a platform may do besides: know which data it has."""

    async def at_hand(self, request: ExecutionRequest, deadline: Deadline) -> Mapping[str, float]:
        """The bytes of each data resource, by its path in the request (`data[0]`), that need not be brought in. No
        network; a platform that would have to ask elsewhere leaves it out."""
