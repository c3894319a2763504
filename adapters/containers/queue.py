"""A container engine as a queue of jobs. Imports the platform port, and this package.

It keeps nothing of a job that is not a copy of what the engine shows; a copy is kept of what cannot change any more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import structlog

from adapters.common.parallel import each
from adapters.containers import images, marks, states, streams, translate
from adapters.containers.client import Engine
from adapters.containers.ending import Ending
from adapters.containers.options import GIB, ContainersOptions
from adapters.containers.preparing import Preparer
from adapters.containers.results import Results
from adapters.containers.states import Container, Seen
from adapters.containers.translate import Known
from adapters.planning.platform import Capacity, Job
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL, TransferNote
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot
from broker.ports import Clock, Held, Limits, Logs, Result, Sighting

_log = structlog.get_logger(__name__)

MOST_LOG = 1024**2  # bytes of each log that are handed out: the end
SWEEP = 600.0  # seconds between two sweeps of what has ended, at least
_AT_ONCE = 8  # calls under way
_BY_NAME = 16  # jobs up to which an engine is asked for them by name, and not for all that it has of ours
_COPIES = 10_000
_SWEEPING = 300.0  # seconds for a sweep


class ContainerQueue:
    """Implements `adapters.planning.queued.Queue`."""

    def __init__(self, options: ContainersOptions, limits: Limits, clock: Clock, site: str) -> None:
        """`site`: by what jobs of this broker and site are told from others on the engine; equal for all replicas."""
        self._options, self._clock, self._site = options, clock, site
        self._engine = Engine(options, clock)
        self._ending = Ending(self._engine, options, clock, site)
        self._preparer = Preparer(self._engine, self._ending, options, limits, clock, site)
        self._known = Known(python=(options.program.version if options.program else None) or "")
        self._copies: OrderedDict[str, Container] = OrderedDict()
        self._results = Results(self._engine, clock, options.max_results_bytes)
        self._next_sweep = 0.0  # monotonic
        self._sweeping: asyncio.Task[None] | None = None

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """What depends on the engine is known from the first `describe` or `capacity` on."""
        return translate.refuse(request, self._options, self._known)

    def preparing(self, request: ExecutionRequest) -> float | None:
        """Whether an image has to be pulled is not known without asking."""
        return None

    async def describe(self, deadline: Deadline) -> Profile:
        known, options = await self._asked(deadline), self._options
        return Profile(
            platform="containers",
            executables=translate.executables(options),
            data=kinds.DATA,
            python=(known.python,) if options.program and known.python else (),
            installs_requirements=bool(options.program and options.install_requirements),
            results=True,
            reads=("http", "https", "data", *(("file",) if options.binds else ())),
            keeps=options.keep,
            reserves=True,
            repeatable=True,
            batches=True,
            isolation=_isolation(options, (await self._engine.about(deadline)).name),
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        """The engine's whole machine. An operator who shares it with others sets less."""
        await self._asked(deadline)
        about = await self._engine.about(deadline)
        return Capacity(
            cores=about.cores,
            memory=about.memory // GIB if about.memory is not None else None,
            extras={what: extra.count for what, extra in self._options.extras.items()},
        )

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        """There is no queue: the planner's calendar decides."""
        return None

    async def _asked(self, deadline: Deadline) -> Known:
        """An image that is not there yet is asked again."""
        about = await self._engine.about(deadline)
        self._known = Known(about.architecture, self._known.python or await self._python(deadline))
        return self._known

    async def _python(self, deadline: Deadline) -> str:
        """As the image says it, where it is there: official images set PYTHON_VERSION."""
        own = images.read(self._options.program.image) if self._options.program else None
        found = await self._engine.image(own.name, deadline) if own else None
        return images.variable(found, "PYTHON_VERSION") if found else ""

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        """Besides, whatever waits is gone on with, and what is beyond its time is ended."""
        self._sweep()
        seen, now = await self._seen([job.session for job in jobs], deadline)
        shown: dict[UUID, Sighting | SiteError] = {}
        for job in jobs:
            found = seen.get(job.session)
            if found is None:
                continue
            if isinstance(found, SiteError):
                shown[job.session] = found
                continue
            self._go_on(job, found, now)
            shown[job.session] = self._sighting(job.session, found)
        overdue = [(s, one) for s, one in seen.items() if isinstance(one, Seen) and _overdue(one, now)]
        await each(overdue, lambda one: self._end_overdue(*one, deadline), _AT_ONCE)
        return shown

    async def submit(self, job: Job, deadline: Deadline) -> Sighting:
        """Takes it: from then on it is on the engine, and is made ready beside the calls."""
        name = marks.name(self._options.prefix, job.session)
        await self._engine.make_volume(name, marks.ticket(self._site, job), deadline)
        self._preparer.care(job, 0.0)
        return self._sighting(job.session, Seen(ticket=states.Mark({}, None)))

    async def end(self, job: Job, deadline: Deadline) -> None:
        seen, _ = await self._seen([job.session], deadline)
        found = seen.get(job.session)
        if isinstance(found, SiteError):
            raise found
        if found is not None and not (found.container and found.container.over):
            session = job.session
            await self._ending.end(session, marks.CANCELLED, "", deadline, lambda: self._preparer.settled(session))

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        seen, _ = await self._seen(None, deadline)
        held = []
        for session, found in seen.items():
            if isinstance(found, SiteError):
                raise found
            shown = self._sighting(session, found)
            if shown.phase not in TERMINAL:
                one = found.container or found.ticket
                since = found.ticket.made if found.ticket else found.container.created if found.container else None
                user = marks.owner(one.labels) if one else None
                held.append(Held(str(session), shown.phase, session, user=user, since=since))
        return tuple(held)

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        run = await self._run(job, deadline)
        if run is None or run.unstarted:
            return Logs()
        async with aclosing(self._engine.logs(run.id, deadline)) as pieces:
            out, err = await streams.logs(pieces, MOST_LOG)
        return Logs(streams.text(out, MOST_LOG), streams.text(err, MOST_LOG))

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        """Empty until the run has ended: before, a file may still grow."""
        run = await self._run(job, deadline)
        if run is None or not run.over:
            return ()
        keep = marks.seconds(run.labels, marks.KEEP)
        until = run.ended + keep if run.ended is not None and keep is not None else None
        files = await self._results.files(run, deadline)
        return tuple(Result(file.name, file.bytes, f"sha256:{file.checksum}", until) for file in files)

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        run = await self._run(job, deadline)
        files = await self._results.files(run, deadline) if run and run.over else ()
        if run is None or name not in {file.name for file in files}:
            raise SiteForgot(f"the session {job.session} has no result {name[:200]!r}.")
        async for piece in self._results.read(run, name, deadline):
            yield piece

    async def _run(self, job: Job, deadline: Deadline) -> Container | None:
        """None: it is known, and has no container. Raises SiteForgot."""
        seen, _ = await self._seen([job.session], deadline)
        found = seen.get(job.session)
        if found is None:
            raise SiteForgot(f"the container engine knows no session {job.session}.")
        if isinstance(found, SiteError):
            raise found
        return found.container

    async def close(self) -> None:
        """What runs goes on; what waits is gone on with by whoever looks next."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)
        await self._preparer.close()
        await self._ending.close()
        await self._engine.close()

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _seen(
        self, sessions: Sequence[UUID] | None, deadline: Deadline
    ) -> tuple[dict[UUID, Seen | SiteError], float]:
        """What the engine shows, and its time; None: of all that it has of ours. Marks are looked at before, since a
        ticket goes when the container is there, and after what has just ended, since an end is marked before that."""
        label, wanted = f"{marks.SITE}={self._site}", None if sessions is None else frozenset(sessions)
        few = wanted is not None and len(wanted) <= _BY_NAME
        names = {name for s in wanted or () for name in marks.names(self._options.prefix, s)} if few else set()
        seen: dict[UUID, Seen | SiteError] = {}
        volumes, now = await self._engine.volumes(label, names, deadline)
        _add_marks(seen, volumes)
        listed = (states.listed(one) for one in await self._engine.containers(label, names, deadline))
        runs = {s: run for run in listed if (s := marks.session(run.labels)) and (wanted is None or s in wanted)}
        gone_on = {run.id for run in runs.values() if not ((copy := self._copies.get(run.id)) and copy.over)}
        found = await each(runs.values(), lambda run: self._container(run, deadline), _AT_ONCE)
        for session, run in zip(runs, found, strict=True):
            if run is not None:
                seen[session] = run if isinstance(run, SiteError) else _seen_of(seen, session)._replace(container=run)
        if any(isinstance(run, Container) and run.over and run.id in gone_on for run in found):
            _add_marks(seen, (await self._engine.volumes(label, names, deadline))[0])
        return {s: one for s, one in seen.items() if wanted is None or s in wanted}, now

    async def _container(self, listed: Container, deadline: Deadline) -> Container | None:
        """All about it, asked again where it may have changed. None: it is gone."""
        known = self._copies.get(listed.id)
        if known is not None and known.status == listed.status:
            return known
        found = await self._engine.container(listed.id, deadline)
        if found is None:
            return None
        run = states.container(found)
        if run.over or run.status == "running":
            self._copies[run.id] = run
            while len(self._copies) > _COPIES:
                self._copies.popitem(last=False)
        return run

    def _go_on(self, job: Job, seen: Seen, now: float) -> None:
        labels = seen.container.labels if seen.container else seen.ticket.labels if seen.ticket else {}
        # Whoever knows no more than the session (see `held`) would prepare something else.
        if seen.waiting and labels.get(marks.JOB) == marks.fingerprint(job):
            self._preparer.care(job, now - self._clock.now())

    def _sighting(self, session: UUID, seen: Seen) -> Sighting:
        host = self._options.ports.host if self._options.ports else ""
        shown = states.sighting(seen, host, self._preparer.doing(session))
        brought = self._preparer.brought(session)
        if not brought:
            return shown
        notes = [
            TransferNote(
                url=one.url,
                bytes=one.bytes,
                seconds=round(one.seconds, 6),
                files=one.files,
                ended=datetime.fromtimestamp(one.ended, UTC),
            ).to_wire()
            for one in brought
        ]
        added = msgspec.json.decode(shown.body) if shown.body else {}
        return msgspec.structs.replace(shown, body=msgspec.json.encode(added | {"transfers": notes}))

    # ── tidying ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _end_overdue(self, session: UUID, seen: Seen, deadline: Deadline) -> None:
        """It has no time left; or its end was asked for, and whoever did so is gone."""
        if seen.end is not None:
            if await self._ending.clear(session, deadline):
                self._ending.stop(session)
            return
        limit = marks.seconds(seen.container.labels, marks.DURATION) if seen.container else None
        text = f"it was ended after its time limit, {limit:g} s" if limit is not None else ""
        await self._ending.end(session, marks.FAILED, text, deadline)

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_sweep and (self._sweeping is None or self._sweeping.done()):
            self._next_sweep = now + SWEEP
            self._sweeping = asyncio.create_task(self._cleared())

    async def _cleared(self) -> None:
        """What has ended long ago is removed, containers before their marks."""
        deadline = Deadline.after(_SWEEPING, self._clock.monotonic())
        try:
            seen, now = await self._seen(None, deadline)
            old = [session for session, one in seen.items() if isinstance(one, Seen) and self._old(one, now)]
            troubles = await each(old, lambda session: self._remove(session, deadline), _AT_ONCE)
            for trouble in filter(None, troubles):
                raise trouble
        except SiteError as error:
            _log.info("what has ended is not removed yet", site=self._site, why=error.detail)

    def _old(self, seen: Seen, now: float) -> bool:
        run, keep = seen.container, self._options.keep.total_seconds()
        if run is None:
            return seen.ticket is None and seen.end is not None and (seen.end.made or now) + keep < now
        return run.over and (run.ended or now) + (marks.seconds(run.labels, marks.KEEP) or keep) < now

    async def _remove(self, session: UUID, deadline: Deadline) -> None:
        prefix = self._options.prefix
        await self._engine.remove(marks.name(prefix, session), deadline)
        await self._engine.remove_volume(marks.name(prefix, session), deadline)
        await self._engine.remove_volume(marks.end_name(prefix, session), deadline)


def _seen_of(seen: Mapping[UUID, Seen | SiteError], session: UUID) -> Seen:
    found = seen.get(session)
    return found if isinstance(found, Seen) else Seen()


def _add_marks(seen: dict[UUID, Seen | SiteError], volumes: Iterable[Mapping[str, Any]]) -> None:
    for volume in volumes:
        mark = states.mark(volume)
        session = marks.session(mark.labels)
        if session is not None and not isinstance(seen.get(session), SiteError):
            so_far = _seen_of(seen, session)
            seen[session] = so_far._replace(end=mark) if marks.REASON in mark.labels else so_far._replace(ticket=mark)


def _overdue(seen: Seen, now: float) -> bool:
    run = seen.container
    if run is None or run.unstarted:
        return seen.end is not None and (run is not None or seen.ticket is not None)
    if run.over:
        return False
    limit = marks.seconds(run.labels, marks.DURATION)
    return seen.end is not None or (run.began is not None and limit is not None and run.began + limit < now)


def _isolation(options: ContainersOptions, engine: str) -> str:
    kept = f"the capabilities {', '.join(options.capabilities)}" if options.capabilities else "no capabilities"
    network = "no network" if options.network == "none" else f"the network {options.network}"
    return f"a container of its own ({engine}): {kept}, no new privileges, {network}"
