"""A Platform made of a queue: something that takes jobs and shows them, and promises nothing about taking one twice.
Imports ports, errors, the platform port and this package's starts.

    start    look whether it is there → take the right to submit (starts.py) → look again → submit → note it
    status   what the queue shows; of what it does not show, what is known of the start
    cancel   note it, so that no start comes later → end what is there

An adapter implements Queue, and its plugin says `plan(QueuedPlatform(queue, …), resources)`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol
from uuid import UUID

import structlog

from adapters.planning.platform import Capacity, Doorkeeper, Job, Lost, Unseen
from adapters.planning.starts import BEGUN, ENDED, SUBMITTED, Start, Starts
from broker.domain import session
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteRefused, SiteTimeout, SiteUnreachable
from broker.ports import Calendar, Clock, Held, Logs, Result, Sighting

_log = structlog.get_logger(__name__)

_AGAIN = 0.2  # seconds between two looks at a job that another process is submitting


class Queue(Protocol):
    """What an adapter does. Every call ends by its deadline; every failure is a SiteError whose `proof` says whether
    the platform surely did not act. No state is kept between calls that is not a copy of the platform's own: any
    process may make the next one.

    What is not described here is as in `adapters.planning.platform.Platform`.
    """

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]: ...

    def preparing(self, request: ExecutionRequest) -> float | None: ...

    async def describe(self, deadline: Deadline) -> Profile: ...

    async def capacity(self, deadline: Deadline) -> Capacity: ...

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None: ...

    async def find(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        """What the platform shows of these, in as few calls as it takes. A job is found by its session, which `submit`
        has written where it can be found: a name, a label, a tag. A session of which the platform surely has no job is
        left out. A job whose `submit` was answered is found from then on, for an hour at least after its end.
        `Sighting.native`: the platform's own name of it. Only `job.session` may be relied on (see `held`)."""

    async def submit(self, job: Job, deadline: Deadline) -> Sighting:
        """Hand it over, once: it is never called twice at a time for a session, nor after it was answered. An error
        with `proof`: surely no job was made. After one without, `find` decides."""

    async def end(self, job: Job, deadline: Deadline) -> None:
        """Ask the platform to end it with all its processes; `find` shows what comes of it. Idempotent; nothing, where
        it is over or gone."""

    async def held(self, deadline: Deadline) -> tuple[Held, ...]: ...

    async def logs(self, job: Job, deadline: Deadline) -> Logs: ...

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]: ...

    def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]: ...

    async def close(self) -> None: ...


class QueuedPlatform:
    """Implements `adapters.planning.platform.Platform` on top of a Queue: a job is submitted at most once, whatever
    crashes, is lost or comes twice, and one that was cancelled before never is. A queue may be a Doorkeeper."""

    def __init__(self, queue: Queue, calendar: Calendar, site: str, clock: Clock) -> None:
        """`site`: the name under which starts are kept; equal for all replicas."""
        self._queue, self._clock = queue, clock
        self._starts = Starts(calendar, site, clock)

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        return self._queue.refuse(request)

    def turned_away(self, owner: Owner) -> tuple[Reason, ...]:
        return self._queue.turned_away(owner) if isinstance(self._queue, Doorkeeper) else ()

    def preparing(self, request: ExecutionRequest) -> float | None:
        return self._queue.preparing(request)

    async def describe(self, deadline: Deadline) -> Profile:
        return await self._queue.describe(deadline)

    async def capacity(self, deadline: Deadline) -> Capacity:
        return await self._queue.capacity(deadline)

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        return await self._queue.estimate(job, deadline)

    # ── starting ─────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, job: Job, deadline: Deadline) -> Sighting:
        """Where another process is submitting the job, it is waited for."""
        turn, others = random.random(), False  # noqa: S311  nobody is kept out by it
        while True:
            try:
                if (seen := await self._look(job, deadline)) is not None:
                    return seen
                known = await self._starts.begin(job.session, deadline.left(self._clock.monotonic()), turn)
            except SiteError as error:
                raise _unsaid(error, others=others or await self._is_known(job)) from error
            if known is None:
                return await self._submit(job, turn, deadline)
            if known.word == ENDED:
                return _ended(known)
            if known == Start(BEGUN, False):
                return await self._take_over(job, turn, deadline)
            if not known.live:
                return await self._must_be_there(job, deadline)
            others = True
            if deadline.left(self._clock.monotonic()) <= _AGAIN:
                raise SiteTimeout("the job is being submitted by another process, which has not said how that ended.")
            await self._clock.sleep(_AGAIN)

    async def _is_known(self, job: Job) -> bool:
        try:
            return bool(await self._starts.read([job.session]))
        except SiteError:  # whoever makes something of a proof needs the same calendar
            return False

    async def _take_over(self, job: Job, turn: float, deadline: Deadline) -> Sighting:
        """Another process began and never said how it ended, long enough ago: what it made is to be seen by now."""
        try:
            seen = await self._look(job, deadline)
        except SiteError as error:  # nor do we know whether it made any
            raise _unsaid(error, others=True) from error
        if seen is None:
            return await self._submit(job, turn, deadline)
        await self._noted(job, deadline)
        return seen

    async def _must_be_there(self, job: Job, deadline: Deadline) -> Sighting:
        try:
            seen = await self._look(job, deadline)
        except SiteError as error:
            raise _unsaid(error, others=True) from error
        if seen is None:
            raise Lost("the platform had taken the job, and knows it no more.")
        return seen

    async def _submit(self, job: Job, turn: float, deadline: Deadline) -> Sighting:
        try:
            seen = await self._queue.submit(job, deadline)
        except SiteError as error:
            if error.proof:
                await self._withdraw(job, turn)
            raise
        await self._noted(job, deadline)
        return seen

    async def _withdraw(self, job: Job, turn: float) -> None:
        """Where that fails the right lapses by itself."""
        try:
            await self._starts.withdraw(job.session, turn)
        except SiteError as error:
            _log.warning("a start that failed stays noted for a while", session=str(job.session), why=error.detail)

    async def _noted(self, job: Job, deadline: Deadline) -> None:
        """It runs, whether or not that can be noted. Ends it where its end was asked for while it was submitted."""
        try:
            wanted = await self._starts.submitted(job.session)
        except SiteError as error:
            _log.warning("a start is not noted", session=str(job.session), why=error.detail)
            return
        if not wanted:
            await self._end_again(job, deadline)

    async def _end_again(self, job: Job, deadline: Deadline) -> None:
        """Where that fails, the next look tries it again."""
        try:
            await self._queue.end(job, deadline)
        except SiteError as error:
            _log.info("a job whose end was asked for goes on", session=str(job.session), why=error.detail)

    # ── following ────────────────────────────────────────────────────────────────────────────────────────────

    async def status(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        """The starts are read first: what is submitted in between is found."""
        starts = await self._starts.read([job.session for job in jobs])
        found = await self._queue.find(jobs, deadline)
        shown: dict[UUID, Sighting | SiteError] = {}
        for job in jobs:
            known, seen = starts.get(job.session), found.get(job.session)
            shown[job.session] = _unseen(known) if seen is None else seen
        late = [job for job in jobs if _goes_on(found.get(job.session)) and _is_ended(starts.get(job.session))]
        await asyncio.gather(*(self._end_again(job, deadline) for job in late))
        return shown

    async def cancel(self, job: Job, deadline: Deadline) -> Sighting:
        seen = await self._look(job, deadline)
        if seen is not None and seen.phase in session.TERMINAL:
            return seen
        known = await self._starts.end(job.session, unseen=seen is None)
        if seen is None:
            seen = await self._look(job, deadline)  # it may have been submitted before that
        if seen is not None:
            await self._queue.end(job, deadline)
            return await self._look(job, deadline) or seen
        if known is not None and known.word == SUBMITTED:
            raise Lost("the platform had taken the job, and knows it no more.")
        return _ended(known)

    async def _look(self, job: Job, deadline: Deadline) -> Sighting | None:
        """Raises what the platform has to say of it where that is an error."""
        seen = (await self._queue.find([job], deadline)).get(job.session)
        if isinstance(seen, SiteForgot):
            return None
        if isinstance(seen, SiteError):
            raise seen
        return seen

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        return await self._queue.held(deadline)

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        return await self._queue.logs(job, deadline)

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        return await self._queue.results(job, deadline)

    def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        return self._queue.fetch(job, name, deadline)

    async def close(self) -> None:
        await self._queue.close()


def _unsaid(error: SiteError, *, others: bool) -> SiteError:
    """A look, or the right to submit, that failed. That is no refusal of the job; and where `others` are known to have
    begun, it proves nothing."""
    if others:
        return SiteMisbehaved(f"whether it was submitted before cannot be seen: {error.detail}")
    return SiteUnreachable(error.detail) if isinstance(error, SiteRefused) else error


def _ended(known: Start | None) -> Sighting:
    """`known`: before its end was asked for. What may still turn up is not over: it is ended when it does."""
    if known is not None and known.live:
        return Sighting("WAITING", messages=("it is being submitted, and is ended at once after that",))
    return Sighting("CANCELLED", messages=("it was ended before it began",))


def _unseen(known: Start | None) -> Sighting | SiteError:
    """Of what the platform does not show. A submit whose answer was lost stays in doubt until its lease ends; from then
    on what it made would be seen, for as long as the platform surely knows it."""
    if known is None or known == Start(BEGUN, False):
        return SiteForgot("the platform has no such job.")
    if known.word == ENDED:
        return _ended(known)
    if known.old:
        return Lost("the platform was given the job, and knows it no more.")
    if known.word == SUBMITTED:
        return Unseen("the platform had taken the job, and does not show it now.", retry_after=5.0)
    return Sighting("WAITING", messages=("it is being submitted",))


def _goes_on(seen: Sighting | SiteError | None) -> bool:
    return isinstance(seen, Sighting) and seen.phase not in session.TERMINAL


def _is_ended(known: Start | None) -> bool:
    return known is not None and known.word == ENDED
