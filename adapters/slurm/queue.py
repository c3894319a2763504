"""A Slurm cluster as a queue: submits jobs whose folders lie on what it shares with the broker, and shows them. Imports
the planning's ports, this package, ports and errors.

What is remembered here between calls is a copy of the cluster's own, as old as the option `snapshot` says.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Generic, NamedTuple, Protocol, TypeVar
from uuid import UUID

import msgspec
import structlog

from adapters.common.http import tidy
from adapters.common.parallel import each
from adapters.local.layout import STDERR, STDOUT
from adapters.local.outputs import PIECE, open_beneath
from adapters.planning.platform import Capacity, Job
from adapters.slurm import cluster, records, states, translate
from adapters.slurm.client import NEVER_NOW, Client, Signer
from adapters.slurm.cluster import Place, Snapshot, Want
from adapters.slurm.folders import OUT, Folders, Note
from adapters.slurm.options import AccountOptions, SlurmOptions
from adapters.slurm.states import Left, Shown
from adapters.slurm.translate import Where
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.executables import PythonProgram
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL, TransferNote
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteRefused, SiteTimeout, SiteUnreachable
from broker.ports import Clock, Held, Logs, Result, Sighting

_log = structlog.get_logger(__name__)

T = TypeVar("T")

FEW = 4  # jobs that are asked for one by one rather than by a list of all that the cluster has
THREADS = 16  # that wait for the shared folder
MOST_LOG = 1024**2  # bytes of each log that are handed out: the end
SWEEP = 600.0  # seconds between two sweeps of ended jobs, at least
NEVER = Span(math.inf, math.inf)  # of a size that fits nowhere


class Known(NamedTuple):
    """What the shared folder tells of a job."""

    note: Note
    left: Left
    brought: tuple[TransferNote, ...] = ()

    @property
    def number(self) -> int | None:
        """Of the job in Slurm that counts, where there are several: the one that began the run."""
        return next(iter(self.numbers), None)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The one that began the run by the folder's word, which the job can write; and the one that we submitted."""
        return tuple(dict.fromkeys(filter(None, (self.left.taken_by, self.note.number))))


class Signers(Protocol):
    def of(self, user: str) -> Signer:
        """How calls are made as a user of Slurm."""

    async def close(self) -> None: ...


class Cached(Generic[T]):
    """What `load` brought, at most `age` seconds old; one load at a time, for all who wait."""

    def __init__(self, age: float, clock: Clock) -> None:
        self._age, self._clock = age, clock
        self._lock, self._at = asyncio.Lock(), -math.inf
        self.last: T | None = None

    async def get(self, load: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        try:
            async with asyncio.timeout(deadline.left(self._clock.monotonic())), self._lock:
                if self.last is None or self._clock.monotonic() - self._at >= self._age:
                    self.last, self._at = await load(), self._clock.monotonic()
                return self.last
        except TimeoutError:
            raise SiteUnreachable("what the cluster has was not learnt by the deadline.") from None


class SlurmQueue:
    """Implements `adapters.planning.queued.Queue`, and is a Doorkeeper."""

    def __init__(
        self, options: SlurmOptions, client: Client, signers: Signers, site: str, broker: str, clock: Clock
    ) -> None:
        """`site`: what jobs are called by; `broker`: whose they are; the same for all replicas."""
        self._options, self._client, self._clock = options, client, clock
        self._site, self._broker = site, broker
        self._signers, self._signer = signers, signers.of
        self._folders = Folders(options.folder, options.keep.total_seconds())
        age = options.snapshot.total_seconds()
        self._snapshot: Cached[Snapshot] = Cached(age, clock)
        self._queue: Cached[list[records.Job]] = Cached(age, clock)
        # Its own: a shared folder that hangs keeps threads, and those of the process resolve the names of all sites.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="slurm")
        self._next_sweep = 0.0  # monotonic
        self._sweeping: asyncio.Task[None] | None = None

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    def turned_away(self, owner: Owner) -> tuple[Reason, ...]:
        return () if translate.account(owner, self._options) else (translate.no_account(self._options),)

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """What depends on the cluster is known from the first `describe` or `capacity` on."""
        reasons = translate.refuse(request, self._options)
        known = self._snapshot.last
        if reasons or known is None:
            return reasons
        rules = translate.rules(self._options, self._everybody)
        found = cluster.places(known, rules)
        if not found:
            return (Reason(cluster.shut(known, rules), rule="partitions"),)
        seconds = request.duration.total_seconds()
        wanted = translate.want(request, request.cores[0], request.memory[0], seconds, self._options)
        most = max(place.cores() for place in found), max(place.memory() for place in found)
        if wanted.cores > most[0] or wanted.memory > most[1]:
            return ()  # the planner says it, by `capacity`
        return cluster.refusals(found, wanted)

    def preparing(self, request: ExecutionRequest) -> float | None:
        executable = request.executable
        ready = isinstance(executable, PythonProgram) and not executable.requirements
        return 0.0 if ready and not request.data else None

    async def describe(self, deadline: Deadline) -> Profile:
        options = self._options
        found = await self._places(self._everybody, deadline)
        longest = max((place.partition.minutes or math.inf for place in found), default=0.0)
        seconds = longest * 60 - options.grace - translate.BEGINNING
        return Profile(
            platform="slurm",
            executables=translate.runs(options),
            data=kinds.DATA,
            duration=timedelta(seconds=max(0.0, seconds)) if found and math.isfinite(seconds) else None,
            python=(options.python_version,) if options.python_version else (),
            installs_requirements=options.install_requirements,
            results=True,
            reads=("http", "https", "data", *(("file",) if options.file_roots else ())),
            writes=tuple(entry.prefix for entry in options.writes),
            keeps=max(options.keep, options.keep_longest or options.keep),
            reserves=False,
            batches=True,
            isolation=f"processes of the account {options.user} on the cluster's nodes, no sandbox: programs can read "
            "and change what that account can",
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        """All nodes of the partitions; for one job, the largest of them."""
        found = await self._places(self._everybody, deadline)
        nodes, spare = cluster.nodes_of(found), self._options.overhead
        generic = [(type_, [records.gres(node.gres).get(name, 0) for node in nodes]) for type_, name in self._extras()]
        largest = {
            "cores": max((place.cores() for place in found), default=0),
            "memory": float(cluster.gib(max((place.memory() for place in found), default=0), spare)),
            **{type_: float(max(counts)) for type_, counts in generic if any(counts)},
        }
        return Capacity(
            cores=sum(node.cpus for node in nodes),
            memory=sum(cluster.gib(node.real_memory, spare) for node in nodes),
            extras={type_: float(sum(counts)) for type_, counts in generic if any(counts)},
            largest=largest,
        )

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        who = self._account(job.owner)
        found, wanted = await self._places(who, deadline), self._want(job)
        if cluster.refusals(found, wanted):
            return NEVER
        jobs = await self._queue.get(lambda: self._client.jobs(self._signer(self._options.user), deadline), deadline)
        known = self._snapshot.last
        reservations = known.reservations if known else ()
        own = self._options.reservation or ""
        return cluster.begins(found, wanted, reservations, own, jobs, self._clock.now())

    # ── submitting ───────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, job: Job, deadline: Deadline) -> Sighting:
        who = self._account(job.owner)
        user = who.user or self._options.user
        found, wanted = await self._places(who, deadline), self._want(job)
        if reasons := cluster.refusals(found, wanted):
            raise SiteRefused(". ".join(str(reason).rstrip(".") for reason in reasons) + ".")
        signer = self._signer(user)
        api = await self._client.api(signer, deadline)
        spec = translate.spec(job, self._options)
        note = Note(user, self._clock.now(), spec.keep)
        runner = await self._in_thread(deadline, lambda: self._folders.make(spec, note))
        where = Where(cluster.partitions(found, wanted), self._folders.place(job.session), runner)
        body = translate.submission(api, job, self._site, self._broker, who, wanted, where, self._options)
        try:
            said = await self._client.submit(body, signer, deadline)
        except SiteError as error:
            if error.proof:
                await self._run(lambda: self._folders.remove(job.session))
            raise
        number = said.job_id or 0
        await self._noted(job.session, note._replace(number=number))
        if any(error.number == NEVER_NOW for error in said.errors or ()):
            await self._take_back(job.session, number, signer, deadline)
        told = [f"slurm job {number} was submitted", *(e.text for e in said.errors or () if e.number)]
        told += [said.job_submit_user_msg] if said.job_submit_user_msg else []
        return Sighting("WAITING", messages=tuple(map(_tidy, told)), native=f"slurm job {number}")

    async def _take_back(self, session: UUID, number: int, signer: Signer, deadline: Deadline) -> None:
        """Slurm has taken what can never begin as the cluster is, and would keep it for ever. Raises SiteRefused: it
        surely never runs, for its run can begin no more."""
        why = "its partition cannot run it"
        with suppress(SiteError):
            shown = await self._client.job(number, signer, deadline)
            why = states.pending(shown) if shown else why
        if not await self._in_thread(deadline, lambda: self._folders.forbid(session)):
            return  # it runs after all
        with suppress(SiteError):
            await self._client.end(number, signer, deadline)
        await self._run(lambda: self._folders.remove(session))
        raise SiteRefused(f"Slurm would let it wait for ever: {why}.")

    async def _noted(self, session: UUID, note: Note) -> None:
        """Where that fails the job is found by its name."""
        try:
            await self._run(lambda: self._folders.write_note(session, note))
        except OSError as error:
            _log.warning("a job's number is not noted", session=str(session), number=note.number, why=str(error))

    # ── following ────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        self._sweep()
        read = await self._known([job.session for job in jobs], deadline)
        found: dict[UUID, Sighting | SiteError] = {s: item for s, item in read.items() if isinstance(item, SiteError)}
        known = {session: item for session, item in read.items() if isinstance(item, Known)}
        seen = await self._seen({s: item for s, item in known.items() if item.note.final is None}, deadline)
        for session, item in known.items():
            if item.note.final is not None:
                found[session] = _final(item)
            elif (shown := await self._judged(session, item, seen[session])) is not None:
                found[session] = shown
        return found

    async def _known(self, sessions: Iterable[UUID], deadline: Deadline) -> dict[UUID, Known | SiteError]:
        """Of those of which there is anything. One session's trouble is its own."""

        def look(session: UUID) -> Known | SiteError | None:
            try:
                note = self._folders.note(session)
            except (OSError, ValueError, TypeError) as error:
                return SiteMisbehaved(f"the note of the session {session} cannot be read: {_tidy(str(error))}.")
            if note is None:
                return None
            left = Left() if note.final else self._folders.left(session)
            return Known(note, left, self._folders.transfers(session))

        def looked() -> dict[UUID, Known | SiteError]:
            return {session: item for session in sessions if (item := look(session)) is not None}

        return await self._in_thread(deadline, looked)

    async def _seen(
        self, known: Mapping[UUID, Known], deadline: Deadline
    ) -> dict[UUID, records.Job | SiteError | None]:
        """What Slurm shows of each; None: it has none. A user's jobs are asked for as that user, who sees them
        whatever PrivateData says."""
        groups: dict[str, list[UUID]] = defaultdict(list)
        for session, item in known.items():
            groups[item.note.user].append(session)
        seen: dict[UUID, records.Job | SiteError | None] = {}
        for user, sessions in groups.items():
            try:
                seen |= await self._seen_of(user, {session: known[session] for session in sessions}, deadline)
            except SiteError as error:
                seen |= dict.fromkeys(sessions, error)
        return seen

    async def _seen_of(
        self, user: str, known: Mapping[UUID, Known], deadline: Deadline
    ) -> dict[UUID, records.Job | SiteError | None]:
        signer = self._signer(user)
        numbers = {session: item.numbers for session, item in known.items()}
        if len(numbers) <= FEW and all(numbers.values()):

            async def ask(asked: tuple[UUID, tuple[int, ...]]) -> records.Job | None:
                for number in asked[1]:
                    job = await self._client.job(number, signer, deadline)
                    if self._is_ours(job, asked[0], user):
                        return job
                return None

            return dict(zip(numbers, await each(numbers.items(), ask, FEW), strict=True))
        listed = self._by_session(await self._client.jobs(signer, deadline), user)
        return {session: _counting(listed.get(session, []), numbers[session]) for session in numbers}

    def _is_ours(self, job: records.Job | None, session: UUID, user: str) -> bool:
        """Numbers come again, should slurmctld lose its state; and anybody may call a job as we do."""
        named = job is not None and translate.session_of(job.name, self._site) == session
        return named and job is not None and job.user_name in (user, "", None)

    def _by_session(self, jobs: Iterable[records.Job], user: str) -> dict[UUID, list[records.Job]]:
        found: dict[UUID, list[records.Job]] = defaultdict(list)
        for job in jobs:
            session = translate.session_of(job.name, self._site)
            if session is not None and self._is_ours(job, session, user):
                found[session].append(job)
        return found

    async def _judged(
        self, session: UUID, item: Known, job: records.Job | SiteError | None
    ) -> Sighting | SiteError | None:
        """None: there surely is no job."""
        now = self._clock.now()
        if isinstance(job, SiteError):
            over = item.left.over
            return job if over is None else _sighting(states.shown(None, item.left, item.number, now), item)
        if job is None and item.number is None and item.left.taken_by is None:
            return None
        if job is not None and item.note.number != job.job_id:
            item = item._replace(note=item.note._replace(number=job.job_id))
            await self._noted(session, item.note)
        shown = states.shown(job, item.left, item.number, now)
        if shown.unbegun and not await self._run(lambda: self._folders.forbid(session)):
            return Sighting("PREPARING", messages=(f"slurm job {item.number} begins",), native=_native(item))
        if shown.final:
            final = shown._replace(ended=shown.ended or now)._asdict()
            await self._noted(session, item.note._replace(final=final))
        return _sighting(shown, item)

    async def end(self, job: Job, deadline: Deadline) -> None:
        item = await self._one(job.session, deadline)
        if item is not None and item.note.final is not None:
            return
        user = item.note.user if item else self._options.user
        await self._in_thread(deadline, lambda: self._folders.ask_to_end(job.session))
        signer = self._signer(user)
        numbers = list(item.numbers[::-1]) if item else []  # ours first
        if not numbers:
            listed = self._by_session(await self._client.jobs(signer, deadline), user)
            numbers = [found.job_id for found in listed.get(job.session, [])]
        for number in numbers:
            await self._client.end(number, signer, deadline)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        """By the notes, and by the names of jobs of which there is none."""
        notes = dict(await self._in_thread(deadline, lambda: list(self._folders.notes())))
        read = await self._known([s for s, note in notes.items() if note.final is None], deadline)
        open_ = {session: item for session, item in read.items() if isinstance(item, Known)}
        held = {}
        for session, seen in (await self._seen(open_, deadline)).items():
            shown = await self._judged(session, open_[session], seen)
            if isinstance(shown, SiteError):
                raise shown
            if shown is not None and shown.phase not in TERMINAL:
                held[session] = Held(str(session), shown.phase, session, since=open_[session].note.since)
        user = self._options.user
        for session, jobs in self._by_session(await self._client.jobs(self._signer(user), deadline), user).items():
            ours = (job for job in jobs if translate.is_of(job.comment, session, self._broker))
            going = [job for job in ours if not states.is_over(job)]
            if session not in notes and going:
                phase = states.PHASES.get(states.word(going[0]), "")
                held[session] = Held(str(session), phase, session, since=records.amount(going[0].submit_time))
        return tuple(held.values())

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        """Of a run that never began, what the batch script said."""
        await self._expect(job.session, deadline)

        def read() -> Logs:
            out, err = (self._folders.log(job.session, name, MOST_LOG) for name in (STDOUT, STDERR))
            return Logs(out, err if err is not None else self._folders.log(job.session, OUT, MOST_LOG))

        return await self._in_thread(deadline, read)

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        """Empty until the run has ended: before, a file may still grow."""
        item = await self._expect(job.session, deadline)
        if item.note.final is None and item.left.over is None:
            return ()
        files = await self._in_thread(deadline, lambda: self._folders.results(job.session))
        until = self._folders.kept_until(item.note)
        outputs = job.request.outputs
        elsewhere = outputs is not None and outputs.to is not None
        return tuple(Result(f.name, f.bytes, f.checksum, until, f.url if elsewhere else None) for f in files)

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        if name not in {result.name for result in await self.results(job, deadline)}:
            raise SiteForgot(f"the session {job.session} has no result {name!r}.")
        place, root = self._folders.place(job.session), translate.spec(job, self._options).results
        try:
            descriptor = await self._run(lambda: open_beneath(place, root, name))
        except OSError as error:
            raise SiteForgot(f"the result {name!r} of the session {job.session} is gone.") from error
        try:
            while piece := await self._run(lambda: os.read(descriptor, PIECE)):
                yield piece
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Returns when a sweep under way has ended."""
        if self._sweeping is not None:
            await self._sweeping
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._signers.close()

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def _everybody(self) -> AccountOptions:
        options = self._options
        return AccountOptions(user=options.user, account=options.account, qos=options.qos)

    def _account(self, owner: Owner) -> AccountOptions:
        found = translate.account(owner, self._options)
        if found is None:
            raise SiteRefused(f"{translate.no_account(self._options)}.")
        return found

    def _extras(self) -> list[tuple[str, str]]:
        return list(self._options.extras.items())

    def _want(self, job: Job) -> Want:
        return translate.want(job.request, job.cores, job.memory, job.duration, self._options)

    async def _places(self, who: AccountOptions, deadline: Deadline) -> tuple[Place, ...]:
        snapshot = await self._snapshot.get(lambda: self._load(deadline), deadline)
        return cluster.places(snapshot, translate.rules(self._options, who))

    async def _load(self, deadline: Deadline) -> Snapshot:
        signer = self._signer(self._options.user)
        await self._client.api(signer, deadline)
        return Snapshot(
            await self._client.partitions(signer, deadline),
            await self._client.nodes(signer, deadline),
            await self._client.reservations(signer, deadline),
        )

    async def _one(self, session: UUID, deadline: Deadline) -> Known | None:
        item = (await self._known([session], deadline)).get(session)
        if isinstance(item, SiteError):
            raise item
        return item

    async def _expect(self, session: UUID, deadline: Deadline) -> Known:
        item = await self._one(session, deadline)
        if item is None:
            raise SiteForgot(f"the cluster knows no session {session}.")
        return item

    def _sweep(self) -> None:
        """Beside the call that brought us here."""
        now = self._clock.monotonic()
        if now >= self._next_sweep and (self._sweeping is None or self._sweeping.done()):
            self._next_sweep = now + SWEEP
            self._sweeping = asyncio.create_task(self._run(lambda: self._folders.sweep(self._clock.now())))

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _in_thread(self, deadline: Deadline, work: Callable[[], T]) -> T:
        """The thread goes on to its end whatever happens to us: what it does is whole or found again."""
        try:
            async with asyncio.timeout(deadline.left(self._clock.monotonic())):
                return await self._run(work)
        except TimeoutError:
            raise SiteTimeout("the shared folder did not answer in time.") from None
        except (OSError, ValueError, TypeError) as error:  # the latter two: a record that is none
            raise SiteMisbehaved(f"the shared folder gives trouble: {_tidy(str(error))}.") from error


def _counting(jobs: Sequence[records.Job], numbers: Sequence[int]) -> records.Job | None:
    """Of those of one session the one that counts: the first of these numbers, else the latest."""
    if not numbers:
        return max(jobs, key=lambda job: job.job_id, default=None)
    return next((job for number in numbers for job in jobs if job.job_id == number), None)


def _native(item: Known) -> str | None:
    return f"slurm job {item.number}" if item.number else None


def _sighting(shown: Shown, item: Known) -> Sighting:
    brought = [transfer.to_wire() for transfer in item.brought]
    return Sighting(
        phase=shown.phase,
        body=msgspec.json.encode({"transfers": brought}) if brought else None,
        messages=tuple(map(_tidy, shown.messages)),
        native=_native(item),
        began=shown.began,
        ended=shown.ended,
    )


def _final(item: Known) -> Sighting:
    """As it was noted."""
    told = item.note.final or {}
    shown = Shown(told["phase"], tuple(told.get("messages") or ()), told.get("began"), told.get("ended"))
    return _sighting(shown, item)


def _tidy(text: str) -> str:
    return tidy(text, 600)
