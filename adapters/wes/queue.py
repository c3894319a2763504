"""A WES server as a queue of jobs. Imports the ports, the platform port, common's HTTP, and this package.

A session is found by its tag. Few jobs whose runs are known are looked at one by one, with their steps; many by the
list of runs, with the logs of those that have ended since.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from uuid import UUID

from adapters.common.parallel import each
from adapters.common.signing import SignIn, sign_ins
from adapters.common.tokens import per_user
from adapters.planning.platform import Capacity, Job
from adapters.wes import handing, translate
from adapters.wes.account import TOGETHER, Account
from adapters.wes.client import Run, Tags, Wes, read_state
from adapters.wes.info import Info
from adapters.wes.options import WesOptions
from adapters.wes.sightings import overdue, show, shown
from adapters.wes.states import OVER, meaning
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL
from broker.domain.site import Profile
from broker.errors import SiteBusy, SiteError, SiteForbids, SiteForgot, SiteMisbehaved, SiteRefused
from broker.plugins import Resources
from broker.ports import Held, Logs, Result, Sighting

_FEW = 8  # jobs that are looked at one by one
_PAUSES = (0.05, 0.2, 0.5, 1.0)  # seconds between looks at a run whose state is not known
_BEGINNING = ("UNKNOWN", "INITIALIZING", "QUEUED")
_BEGINS = (0.05, 0.1, 0.2, 0.4, 0.8, 0.8)  # seconds between looks at a run that is to be ended and has not begun
_STEPS = 20  # runs under way of which a look at many asks for the steps


class WesQueue:
    """Implements `adapters.planning.queued.Queue`. Runs are marked with our broker's id, so that several brokers can
    use one server."""

    def __init__(self, options: WesOptions, resources: Resources) -> None:
        """No I/O. Raises SettingsError for an address that is none."""
        self._options, self._clock, self._broker = options, resources.clock, resources.broker_id
        common, users = sign_ins(options, resources)
        self._common = self._made(common, "the site's registration")
        self._users = {name: self._made(one, f"the user {name}") for name, one in users.items()}
        self._known: Info | None = None

    def _made(self, one: SignIn, whose: str) -> Account:
        return Account(Wes(one.origin, one.signer, self._clock, whose), self._broker, self._clock)

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """What depends on the server is known from the first `describe` or `capacity` on."""
        return translate.refuse(request, self._options, self._known)

    def preparing(self, request: ExecutionRequest) -> float | None:
        return None

    async def describe(self, deadline: Deadline) -> Profile:
        self._known = known = await self._common.wes.info(deadline)
        options = self._options
        executables = {
            kinds.PYTHON_PROGRAM: options.program is not None and translate.runs_cwl(known),
            kinds.WORKFLOW: options.workflows and bool(known.types),
        }
        version = options.program.version if options.program else None
        results = options.results if options.results is not None else bool(options.outputs) or known.sapporo
        return Profile(
            platform="wes",
            executables=tuple(kind for kind, runs in executables.items() if runs),
            data=kinds.DATA,
            workflows=known.languages() if options.workflows else (),
            python=(version,) if version else (),
            results=results,
            reads=(*options.reads, "data"),
            reserves=False,
            repeatable=True,
            batches=True,
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        """A WES does not say how much room it has."""
        await self._info(deadline)
        return Capacity()

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        """Nor when a run would begin."""
        return None

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        found: dict[UUID, Sighting | SiteError] = {}
        by_account: dict[Account, list[Job]] = {}
        for job in jobs:
            for account in self._accounts(job):
                by_account.setdefault(account, []).append(job)
        for account, asked in by_account.items():
            wanted = [job for job in asked if not isinstance(found.get(job.session), Sighting)]
            try:
                found |= await self._find(account, wanted, deadline)
            except SiteError as error:
                if len(by_account) == 1:
                    raise
                for job in wanted:
                    found.setdefault(job.session, error)
        return found

    async def submit(self, job: Job, deadline: Deadline) -> Sighting:
        submission = translate.submission(job, self._options, await self._info(deadline), self._broker)
        account = self._account(job.owner)
        run = await account.wes.submit(submission, _boundary(job, submission), deadline)
        account.remember(run, Tags(job.session, self._broker))
        return Sighting("WAITING", native=run)

    async def end(self, job: Job, deadline: Deadline) -> None:
        for account in self._accounts(job):
            run = await self._run(account, job, deadline)
            if run is not None:
                return await self._end(account, run, deadline)
        return None

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        held: list[Held] = []
        for account in (self._common, *self._users.values()):
            found, trouble = await account.survey(deadline)
            if trouble is not None:
                raise trouble
            held += _under_way(found)
        return tuple(held)

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        account, run = await self._must_run(job, deadline)
        return await handing.logs(account.wes, run, job, self._options, deadline)

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        account, run = await self._must_run(job, deadline)
        return await handing.results(account.wes, run, job, self._options, deadline)

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        account, run = await self._must_run(job, deadline)
        async with aclosing(handing.fetch(account.wes, run, job, name, self._options, deadline)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        for account in (self._common, *self._users.values()):
            await account.wes.close()

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _info(self, deadline: Deadline) -> Info:
        if self._known is None:
            self._known = await self._common.wes.info(deadline)
        return self._known

    def _account(self, owner: Owner) -> Account:
        return per_user(self._users, owner) or self._common

    def _accounts(self, job: Job) -> tuple[Account, ...]:
        """Where its run is to be looked for. A job of which the session alone is known has no duration, and may be
        anybody's."""
        if job.duration <= 0:
            return (self._common, *self._users.values())
        own = self._account(job.owner)
        return (own,) if own is self._common else (own, self._common)  # it may be from before there was a token

    async def _find(self, account: Account, jobs: list[Job], deadline: Deadline) -> dict[UUID, Sighting | SiteError]:
        if len(jobs) <= _FEW and all(account.known(job.session) for job in jobs):
            runs = {job.session: Run(account.known(job.session) or "", "UNKNOWN") for job in jobs}
            trouble = None
        else:
            runs, trouble = await self._survey(account, jobs, deadline)
        found: dict[UUID, Sighting | SiteError] = {}
        looked = list(_to_look_at(account, jobs, runs))
        seen = await each(looked, lambda job: self._look(account, job, runs[job.session].id, deadline), TOGETHER)
        for job, sighting in zip(looked, seen, strict=True):
            if isinstance(sighting, SiteForgot):
                account.forget(job.session)
                runs.pop(job.session)
            else:
                found[job.session] = sighting
        for job in jobs:
            if job.session in runs:
                found.setdefault(job.session, _remembered(account, runs[job.session]))
            elif trouble is not None:
                found[job.session] = SiteBusy(f"it may be there: {trouble.detail}", retry_after=1.0)
        return found

    async def _survey(
        self, account: Account, jobs: Sequence[Job], deadline: Deadline
    ) -> tuple[dict[UUID, Run], SiteError | None]:
        wanted = {job.session for job in jobs}
        # sapporo can look a tag up; another server's idea of `tags` might hide what is there.
        info = await self._info(deadline)
        query = {"tags": f"{translate.SESSION}:{next(iter(wanted))}"} if info.sapporo and len(wanted) == 1 else {}
        return await account.survey(deadline, wanted, **query)

    async def _look(self, account: Account, job: Job, run: str, deadline: Deadline) -> Sighting:
        document, state = await self._stands(account, run, deadline)
        now = self._clock.now()
        sighting = await show(account.wes, document, run, state, job, self._options, now, deadline)
        account.saw(run, sighting)
        if overdue(sighting, job, self._options, now):
            await self._end(account, run, deadline)
        return sighting

    async def _end(self, account: Account, run: str, deadline: Deadline) -> None:
        """What is over may be refused: toil answers 403 then."""
        try:
            if (await self._info(deadline)).sapporo:
                await self._begun(account, run, deadline)
            await account.wes.cancel(run, deadline)
        except SiteForgot:
            return
        except (SiteRefused, SiteForbids):
            if read_state((await account.wes.run(run, deadline)).get("state")) not in OVER:
                raise

    async def _begun(self, account: Account, run: str, deadline: Deadline) -> None:
        """Waits a little for a run that is only just beginning. sapporo may lose what a cancel says to one: the state
        that follows is written over it, or the script that would end the run has not yet noted what to end."""
        for pause in _BEGINS:
            if read_state((await account.wes.run(run, deadline)).get("state")) not in _BEGINNING:
                return
            if deadline.left(self._clock.monotonic()) > 2 * pause:
                await self._clock.sleep(pause)

    async def _stands(self, account: Account, run: str, deadline: Deadline) -> tuple[dict[str, Any], str]:
        """Its log and state. sapporo says UNKNOWN while it writes another state down: then it is asked again."""
        for pause in (*_PAUSES, None):
            document = await account.wes.run(run, deadline)
            state = read_state(document.get("state"))
            if state != "UNKNOWN":
                return document, state
            if pause is None or deadline.left(self._clock.monotonic()) <= pause:
                break
            await self._clock.sleep(pause)
        raise SiteMisbehaved(f"{account.wes.place} does not say how the run {run} stands.")

    async def _run(self, account: Account, job: Job, deadline: Deadline) -> str | None:
        if (known := account.known(job.session)) is not None:
            return known
        runs, trouble = await self._survey(account, [job], deadline)
        if job.session in runs:
            return runs[job.session].id
        if trouble is not None:
            raise trouble
        return None

    async def _must_run(self, job: Job, deadline: Deadline) -> tuple[Account, str]:
        for account in self._accounts(job):
            if (run := await self._run(account, job, deadline)) is not None:
                return account, run
        raise SiteForgot(f"the server has no run of the session {job.session}.")


def _to_look_at(account: Account, jobs: Sequence[Job], runs: Mapping[UUID, Run]) -> Iterator[Job]:
    """Those whose own log is wanted: what has ended since, and of what is under way some, each in its turn."""
    by_run = {runs[job.session].id: job for job in jobs if job.session in runs}
    states = {run.id: run.state for run in runs.values()}
    left = _STEPS
    for run in account.oldest_first(by_run):
        last = account.last(run)
        if last is not None and last.phase in TERMINAL:
            continue
        if states[run] == "UNKNOWN" or states[run] in OVER:
            yield by_run[run]
        elif states[run] == "RUNNING" and left > 0:
            left -= 1
            yield by_run[run]


def _remembered(account: Account, run: Run) -> Sighting:
    """Of a run that is not looked at now: what was seen of it, where it still stands so."""
    now, last = shown(run.state, run.id), account.last(run.id)
    return last if last is not None and (last.phase == now.phase or last.phase in TERMINAL) else now


def _under_way(found: Mapping[UUID, Run]) -> Iterator[Held]:
    for session, run in found.items():
        if run.state not in OVER:
            yield Held(str(session), meaning(run.state).phase, session)


def _boundary(job: Job, submission: translate.Submission) -> str:
    """The session's uuid is in the form, so it is made longer until it stands nowhere."""
    boundary = f"broker-{job.session.hex}"
    parts = [*(value.encode(errors="replace") for value in submission.fields.values()), *submission.files.values()]
    while any(boundary.encode() in part for part in parts):
        boundary += "-"
    return boundary
