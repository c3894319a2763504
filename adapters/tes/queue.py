"""A TES server as a queue: jobs are tasks, found again by a tag. Imports the platform port, ports, errors, and this
package.

A look at many jobs is one list of ids and states (view MINIMAL); of those whose state has changed since this process
last saw them, the task itself. What is remembered for that is a copy of what the server said.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple
from uuid import UUID

import msgspec
import structlog

from adapters.common.laying import RESULTS
from adapters.common.parallel import each
from adapters.common.signing import SignIn, sign_ins
from adapters.common.tokens import per_user
from adapters.planning.platform import Capacity, Job
from adapters.tes import states, stored, translate
from adapters.tes.client import Client
from adapters.tes.options import TesOptions
from adapters.tes.translate import SESSION, Server
from adapters.tes.wire import ServiceInfo, Task
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteRefused, SiteUnreachable
from broker.plugins import Resources
from broker.ports import Held, Logs, Result, Sighting

_log = structlog.get_logger(__name__)

MOST_LOG = 1024**2  # characters of each log that are handed out: the end
_FEW = 3  # jobs that are asked for one by one
_AT_ONCE = 8  # calls
_PAGES = 10  # of a list that is read to ask for many jobs at once; the rest are asked for one by one
_REMEMBERED = 20_000  # tasks


class _Seen(NamedTuple):
    """Of one task, when it was last read whole."""

    task: Task
    sighting: Sighting


class _Account:
    """Whoever the server takes us for, and what we know of its tasks."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._seen: OrderedDict[UUID, _Seen] = OrderedDict()

    def recall(self, session: UUID) -> _Seen | None:
        return self._seen.get(session)

    def remember(self, session: UUID, seen: _Seen) -> None:
        self._seen[session] = seen
        self._seen.move_to_end(session)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)

    def forget(self, session: UUID) -> None:
        self._seen.pop(session, None)


class TesQueue:
    """Implements `adapters.planning.queued.Queue`."""

    def __init__(self, options: TesOptions, resources: Resources) -> None:
        """No I/O. Raises SettingsError."""
        self._options, self._clock = options, resources.clock
        common, users = sign_ins(options, resources)
        self._everybody, self._users = self._account(common), {name: self._account(one) for name, one in users.items()}
        self._store = stored.store(options.outputs, resources.http, self._clock) if options.outputs else None
        site = resources.registration.name or resources.name
        self._mine = ((translate.BROKER, resources.broker_id), (translate.SITE, site))
        self._server = Server()

    def _account(self, one: SignIn) -> _Account:
        return _Account(Client(one.origin, one.signer, self._clock))

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """What depends on the server is known from the first `describe` on."""
        return translate.refuse(request, self._options, self._server)

    def preparing(self, request: ExecutionRequest) -> float | None:
        return None

    async def describe(self, deadline: Deadline) -> Profile:
        self._server = _known(await self._everybody.client.info(deadline), self._options)
        program = self._options.program
        return Profile(
            platform="tes",
            executables=translate.executables(self._options),
            data=kinds.DATA,
            python=(program.version,) if program and program.version else (),
            results=self._store is not None,
            reads=(*dict.fromkeys(entry.partition(":")[0] for entry in self._server.reads or ()), "data"),
            writes=self._options.writes,
            reserves=False,
            repeatable=True,
            batches=True,
            isolation="a container of the platform's for each run",
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        """TES does not tell."""
        return Capacity()

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        """Nor this."""
        return None

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, job: Job, deadline: Deadline) -> Sighting:
        if self._server.reads is None:
            await self._learn(deadline)
        if reasons := translate.out_of_reach(job.request, self._options, self._server):
            raise SiteRefused(" ".join(map(str, reasons)))
        document = translate.task(job, self._options, self._server, dict(self._mine), self._clock.now())
        account = self._accounts(job)[0]
        id = await account.client.create(msgspec.json.encode(document), deadline)
        seen = Sighting("WAITING", native=id)
        account.remember(job.session, _Seen(Task(id), seen))
        return seen

    async def _learn(self, deadline: Deadline) -> None:
        """Which of a datum's places the server reads. Where that cannot be known nothing was submitted."""
        try:
            await self.describe(deadline)
        except SiteError as error:
            raise error if error.proof else SiteUnreachable(error.detail) from error

    async def find(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        found: dict[UUID, Sighting | SiteError] = {}
        left = {job.session: self._accounts(job) for job in jobs}
        while left:
            at: dict[_Account, list[UUID]] = {}
            for session, accounts in left.items():
                at.setdefault(accounts[0], []).append(session)
            for account, sessions in at.items():
                for session, seen in (await self._found_at(account, sessions, deadline)).items():
                    if isinstance(seen, Sighting):
                        found[session] = seen
                    else:
                        found.setdefault(session, seen)
            left = {
                session: accounts[1:]
                for session, accounts in left.items()
                if len(accounts) > 1 and not isinstance(found.get(session), Sighting)
            }
        return found

    async def end(self, job: Job, deadline: Deadline) -> None:
        """All that carry its tag. The trouble with one of them does not keep the others."""
        for account in self._accounts(job):
            tasks = await self._tasks_of(account, job.session, deadline)
            ids = [task.id for task in tasks if task.state not in states.OVER]

            async def cancel(id: str, client: Client = account.client) -> None:
                await client.cancel(id, deadline)

            for answer in await each(ids, cancel, _AT_ONCE):
                if isinstance(answer, SiteError):
                    raise answer
            if tasks:
                return

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        """A state after the other, in the order in which tasks go through them, so that none slips through."""
        found: dict[str, Held] = {}
        for account in (self._everybody, *self._users.values()):
            for state in states.ON_ITS_WAY:
                async for task in account.client.tasks(self._mine, "BASIC", deadline, state=state):
                    if task.state in states.ON_ITS_WAY and (one := _held(task, self._mine)) is not None:
                        found[task.id] = one
        return tuple(found.values())

    # ── what is left ─────────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        account, task = await self._task_of(job, deadline)
        whole = await account.client.task(task.id, "FULL", deadline)
        executors = (whole.logs[-1].logs if whole.logs else None) or ()
        return Logs(_joined(log.stdout for log in executors), _joined(log.stderr for log in executors))

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        """Empty until the run has ended: before, a file may still grow."""
        return stored.results(await self._sizes(job, deadline), translate.elsewhere(job))

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        if self._store is None or name not in await self._sizes(job, deadline):
            raise SiteForgot(f"The session {job.session} has no result {name!r}.")
        async with aclosing(self._store.read(str(job.session), name, deadline)) as pieces:
            async for piece in pieces:
                yield piece

    async def _sizes(self, job: Job, deadline: Deadline) -> Mapping[str, int]:
        _, task = await self._task_of(job, deadline)
        if self._store is None or task.state not in states.OVER:
            return {}
        logged = stored.logged(task, f"{self._options.workdir}/{RESULTS}")
        return await self._store.listed(str(job.session), logged, deadline)

    async def close(self) -> None:
        await asyncio.gather(*(account.client.close() for account in (self._everybody, *self._users.values())))

    # ── finding ──────────────────────────────────────────────────────────────────────────────────────────────

    def _accounts(self, job: Job) -> list[_Account]:
        """Where it may be: its owner's, and everybody's, from before they had one. All, where nothing but the session
        is true of the job: such a one has no duration."""
        own = per_user(self._users, job.owner) or self._everybody
        others = (self._everybody, *(() if job.duration else self._users.values()))
        return [own, *(one for one in others if one is not own)]

    async def _found_at(
        self, account: _Account, sessions: Sequence[UUID], deadline: Deadline
    ) -> Mapping[UUID, Sighting | SiteError]:
        try:
            return await self._find_at(account, sessions, deadline)
        except SiteError as error:  # the trouble of one account is not that of the others
            return dict.fromkeys(sessions, error)

    async def _find_at(
        self, account: _Account, sessions: Sequence[UUID], deadline: Deadline
    ) -> dict[UUID, Sighting | SiteError]:
        now = await self._states(account, sessions, deadline)
        unchanged = {s: seen.sighting for s in sessions if (seen := account.recall(s)) and _same(seen, now)}
        rest = [session for session in sessions if session not in unchanged]
        read = await self._read_many(account, rest, deadline)
        rest = [session for session in rest if session not in read]

        async def look(session: UUID) -> Task | None:
            return await self._look(account, session, deadline)

        async def show(pair: tuple[UUID, Task]) -> Sighting:
            return await self._shown(account, *pair, deadline)

        looked = read | dict(zip(rest, await each(rest, look, _AT_ONCE), strict=True))
        changed = [(session, task) for session, task in looked.items() if isinstance(task, Task)]
        found: dict[UUID, Sighting | SiteError] = dict(unchanged)
        found |= {session: task for session, task in looked.items() if isinstance(task, SiteError)}
        found |= zip((session for session, _ in changed), await each(changed, show, _AT_ONCE), strict=True)
        await self._end_overdue(account, found, deadline)
        return found

    async def _states(self, account: _Account, sessions: Sequence[UUID], deadline: Deadline) -> dict[str, str]:
        """id → state of tasks that are known, by one list where they are many."""
        ids = {seen.task.id for session in sessions if (seen := account.recall(session))}
        found: dict[str, str] = {}
        if len(ids) <= _FEW:
            return found
        async with aclosing(account.client.tasks(self._mine, "MINIMAL", deadline, pages=_PAGES)) as tasks:
            async for task in tasks:
                if task.id in ids:
                    found[task.id] = task.state or ""
                    if len(found) == len(ids):
                        break
        return found

    async def _read_many(self, account: _Account, sessions: Sequence[UUID], deadline: Deadline) -> dict[UUID, Task]:
        """Those that this process has never seen, by one list where they are many."""
        wanted = {session for session in sessions if account.recall(session) is None}
        found: dict[UUID, list[Task]] = {}
        if len(wanted) <= _FEW:
            return {}
        async for task in account.client.tasks(self._mine, "BASIC", deadline, pages=_PAGES):
            if (session := _session(task)) in wanted:
                found.setdefault(session, []).append(task)
        return {session: _chosen(tasks) for session, tasks in found.items()}

    async def _look(self, account: _Account, session: UUID, deadline: Deadline) -> Task | None:
        """By its id where that is known, else by its tag."""
        if seen := account.recall(session):
            try:
                return await account.client.task(seen.task.id, "BASIC", deadline)
            except SiteForgot:
                account.forget(session)
        tasks = await self._tasks_of(account, session, deadline)
        return _chosen(tasks) if tasks else None

    async def _tasks_of(self, account: _Account, session: UUID, deadline: Deadline) -> list[Task]:
        """All that carry the session's tag: more than one, should somebody else have made it."""
        tags = ((SESSION, str(session)),)
        return [task async for task in account.client.tasks(tags, "BASIC", deadline) if _session(task) == session]

    async def _task_of(self, job: Job, deadline: Deadline) -> tuple[_Account, Task]:
        for account in self._accounts(job):
            if (task := await self._look(account, job.session, deadline)) is not None:
                return account, task
        raise SiteForgot(f"the platform has no task of the session {job.session}.")

    async def _shown(self, account: _Account, session: UUID, task: Task, deadline: Deadline) -> Sighting:
        """Of what went wrong the whole is read: the server's own words are in no smaller view."""
        if task.state in states.WRONG:
            try:
                task = msgspec.structs.replace(task, logs=(await account.client.task(task.id, "FULL", deadline)).logs)
            except SiteError as error:
                _log.info("why a task failed is not known", task=task.id, why=error.detail)
                return states.sighting(task)
        seen = _Seen(_lean(task), states.sighting(task))
        account.remember(session, seen)
        return seen.sighting

    async def _end_overdue(
        self, account: _Account, found: Mapping[UUID, Sighting | SiteError], deadline: Deadline
    ) -> None:
        """TES has no time limit, so whoever looks ends what has used up its own. Where that fails, the next look tries
        again."""
        now = self._clock.now()
        for session in found:
            seen = account.recall(session)
            if seen is None or not states.overdue(seen.task, now):
                continue
            try:
                await account.client.cancel(seen.task.id, deadline)
            except SiteError as error:
                _log.info("a task goes on beyond its time", task=seen.task.id, why=error.detail)


def _known(info: ServiceInfo, options: TesOptions) -> Server:
    if info.type and info.type.artifact and info.type.artifact.lower() != "tes":
        raise SiteMisbehaved(f"its service-info says that it is {info.type.artifact[:40]!r}, and no TES.")
    names = info.tesResources_backend_parameters
    parameters = None if names is None else frozenset(name.lower() for name in names)
    if options.reads is not None:
        return Server(options.reads, parameters)
    storage = (entry.partition(":")[0] if entry.endswith(":///") else entry for entry in info.storage or ())
    return Server(tuple(dict.fromkeys(("http", "https", *storage))), parameters)


def _held(task: Task, mine: Iterable[tuple[str, str]]) -> Held | None:
    """None: it is not ours; a server may know no filters."""
    session, tags = _session(task), task.tags or {}
    if session is None or any(tags.get(key) != value for key, value in mine):
        return None
    issuer, _, subject = (tags.get(translate.OWNER) or "").partition(" ")
    user = Owner(issuer, subject) if issuer and subject else None
    return Held(str(session), states.sighting(task).phase, session, user=user, since=states.made(task))


def _session(task: Task) -> UUID | None:
    try:
        return UUID((task.tags or {})[SESSION] or "")
    except (KeyError, ValueError):
        return None


def _chosen(tasks: Sequence[Task]) -> Task:
    """Of several the first that was made."""
    return min(tasks, key=lambda task: (states.made(task) or 0.0, task.id))


def _same(seen: _Seen, now: Mapping[str, str]) -> bool:
    """Whether its state is what it was, and there is nothing left to be told of it: when it began, of one that runs."""
    begins = seen.task.state in ("RUNNING", "PAUSED") and seen.sighting.began is None
    return seen.task.id in now and now[seen.task.id] == seen.task.state and not begins


def _lean(task: Task) -> Task:
    """What is looked at again: not the logs' texts and files, of which there may be much."""
    logs = tuple(
        msgspec.structs.replace(
            log,
            outputs=None,
            system_logs=None,
            logs=tuple(msgspec.structs.replace(one, stdout=None, stderr=None) for one in log.logs or ()),
        )
        for log in task.logs or ()
    )
    return msgspec.structs.replace(task, logs=logs)


def _joined(parts: Iterable[str | None]) -> str | None:
    """The end, at most so many bytes."""
    known = [part for part in parts if part is not None]
    return "".join(known).encode()[-MOST_LOG:].decode(errors="ignore") if known else None
