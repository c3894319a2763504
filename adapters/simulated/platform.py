"""A platform on which nothing really runs: for rehearsal, teaching and load. Imports adapters/planning and ports.

It takes every kind, unknown ones too, and says in its profile, its offers and with every state that it pretends.
Chance is a hash of the seed and the session, so that a restart does not roll the dice again.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from math import fsum
from uuid import UUID

import msgspec

from adapters.planning.platform import Capacity, Job
from adapters.simulated.options import Call, Fault, SimulatedOptions
from adapters.simulated.runs import Run, Runs
from broker.domain import located
from broker.domain.deadline import Deadline
from broker.domain.located import Item
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.session import TransferNote
from broker.domain.site import Profile
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.ports import Calendar, Clock, Held, Logs, Result, Sighting

NOTE = "simulated: nothing really runs here"
MB = 1e6
ROOM = Capacity(cores=64, memory=256, storage=10_000)
_FILE = "simulated.txt"


class SimulatedPlatform:
    """The Platform port. Delays and faults of the call `quote` show in `capacity`, which each quote asks for."""

    def __init__(self, options: SimulatedOptions, calendar: Calendar, clock: Clock, site: str) -> None:
        self._options, self._clock = options, clock
        self._runs = Runs(calendar, site, clock, options.keep.total_seconds())
        self._calls = count()

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        return ()

    def preparing(self, request: ExecutionRequest) -> float | None:
        stated = self._options.preparing
        return stated.total_seconds() if stated is not None else None

    async def describe(self, deadline: Deadline) -> Profile:
        await self._answer("describe", deadline)
        return Profile(
            platform="simulated",
            results=True,
            installs_requirements=True,
            reads=("http", "https", "data"),
            reserves=self._options.queue is None,
            simulated=True,
            isolation="nothing runs, so nothing is isolated",
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        await self._answer("quote", deadline)
        return ROOM

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        wait = self._options.queue.total_seconds() if self._options.queue is not None else 0.0
        return Span.of(self._clock.now() + wait)

    async def start(self, job: Job, deadline: Deadline) -> Sighting:
        fault = await self._answer("start", deadline)
        run = await self._runs.change(job.session, lambda old: old or self._new(job))
        return await self._said(run, job, fault, deadline)

    async def status(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        await self._answer("status", deadline)
        found: dict[UUID, Sighting | SiteError] = {}
        for job in jobs:
            try:
                found[job.session] = self._shown(await self._known(job), job)
            except SiteForgot as error:
                found[job.session] = error
        return found

    async def cancel(self, job: Job, deadline: Deadline) -> Sighting:
        fault = await self._answer("cancel", deadline)
        now = self._clock.now()

        def cancel(old: Run | None) -> Run:
            if old is None:
                return Run(start=now, cancelled=now)
            over = old.cancelled is not None or old.gone <= now
            return old if over else msgspec.structs.replace(old, cancelled=now)

        return await self._said(await self._runs.change(job.session, cancel), job, fault, deadline)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        await self._answer("status", deadline)
        now = self._clock.now()
        runs = [(uuid, run, run.sighting(now).phase) for uuid, run in (await self._runs.all()).items()]
        return tuple(Held(str(uuid), phase, uuid, since=run.start) for uuid, run, phase in runs if now < _over(run))

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        await self._answer("logs", deadline)
        run = await self._known(job)
        return Logs(stdout=f"{NOTE}\n" if run.began <= self._clock.now() else "", stderr="")

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        await self._answer("results", deadline)
        run = await self._known(job)
        if run.sighting(self._clock.now()).phase != "COMPLETED":
            return ()
        text = _report(job)
        checksum = f"sha256:{hashlib.sha256(text).hexdigest()}"
        return (Result(_FILE, len(text), checksum, run.gone + self._options.keep.total_seconds()),)

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        if name not in [result.name for result in await self.results(job, deadline)]:
            raise SiteForgot(f"there is no result {name}.")
        yield _report(job)

    async def close(self) -> None: ...

    # ── pretending ───────────────────────────────────────────────────────────────────────────────────────────

    def _new(self, job: Job) -> Run:
        options, wanted = self._options, self._options.seconds(job.duration)
        rate = (options.bandwidth or 0.0) * MB
        return Run(
            start=self._clock.now(),
            queue=options.queue.total_seconds() if options.queue else 0.0,
            preparing=(options.preparing.total_seconds() if options.preparing else 0.0) + _moving(job, rate),
            run=min(wanted, job.duration),
            releasing=options.releasing.total_seconds(),
            fails=self._chance("fail", str(job.session)) < options.fail,
            cut=wanted > job.duration,
            rate=rate,
        )

    async def _known(self, job: Job) -> Run:
        """Raises SiteForgot."""
        run, after = await self._runs.get(job.session), self._options.forget_after
        if run is None or (after is not None and self._clock.now() >= run.start + after.total_seconds()):
            raise SiteForgot("no such pretended run.")
        return run

    def _shown(self, run: Run, job: Job) -> Sighting:
        now = self._clock.now()
        shown, brought = run.sighting(now), [note.to_wire() for note in _brought(run, job, now)]
        body = msgspec.json.encode({"transfers": brought}) if brought else None
        return msgspec.structs.replace(shown, body=body, messages=(*shown.messages, NOTE), native="simulated")

    async def _said(self, run: Run, job: Job, fault: Fault | None, deadline: Deadline) -> Sighting:
        if fault is not None:  # lost: it is done, and nobody hears of it
            await self._hang(deadline)
        return self._shown(run, job)

    # ── misbehaving ──────────────────────────────────────────────────────────────────────────────────────────

    async def _answer(self, call: Call, deadline: Deadline) -> Fault | None:
        """Wait as configured, then go wrong as configured. Returns the fault that strikes after the deed."""
        delay = self._options.delay.get(call)
        if delay is not None:
            if delay.total_seconds() >= deadline.left(self._clock.monotonic()):
                await self._hang(deadline)
            await self._clock.sleep(delay.total_seconds())
        number = str(next(self._calls))
        for fault in self._options.faults:
            if fault.call == call and self._chance(call, fault.trouble, number) < fault.probability:
                return await self._strike(fault, deadline)
        return None

    async def _strike(self, fault: Fault, deadline: Deadline) -> Fault:
        match fault.trouble:
            case "refuse":
                raise SiteRefused("refused, as configured.")
            case "busy":
                raise SiteBusy("busy, as configured.", retry_after=5.0)
            case "unreachable":
                raise SiteUnreachable("not reached, as configured.")
            case "garbage":
                raise SiteMisbehaved("answered nonsense, as configured.")
            case "lost" if fault.call in ("start", "cancel"):
                return fault
            case _:
                await self._hang(deadline)
        return fault

    async def _hang(self, deadline: Deadline) -> None:
        await self._clock.sleep(deadline.left(self._clock.monotonic()))
        raise SiteTimeout("no answer by the deadline, as configured.")

    def _chance(self, *parts: str) -> float:
        """From 0 to below 1, the same for the same seed and parts."""
        text = "|".join((str(self._options.seed), *parts))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def _sized(job: Job) -> list[tuple[Item, float]]:
    """The data resources that state their sizes, with them."""
    return [(item, item.bytes) for item in located.items(job.request) if item.bytes is not None]


def _moving(job: Job, rate: float) -> float:
    """Seconds in which its data would be brought in."""
    return fsum(size / rate for _, size in _sized(job)) if rate else 0.0


def _brought(run: Run, job: Job, now: float) -> Iterator[TransferNote]:
    """What has been brought in by now, or by its end. It is the last part of its preparing."""
    until = min(now, run.cancelled or now)
    ended = run.began - _moving(job, run.rate)
    for item, size in _sized(job) if run.rate else ():
        ended += size / run.rate
        if ended <= until or run.began <= until:
            when = datetime.fromtimestamp(ended, UTC)
            url = next(iter(item.urls), None)
            yield TransferNote(url=url, bytes=size, seconds=size / run.rate, files=item.files, ended=when)


def _report(job: Job) -> bytes:
    return f"{NOTE}\n{job.name or job.session}: {job.cores} cores, {job.memory} GiB were pretended.\n".encode()


def _over(run: Run) -> float:
    """When it is, or was."""
    return run.gone if run.cancelled is None else run.cancelled
