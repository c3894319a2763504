"""ARC as a queue of jobs: implements `adapters.planning.queued.Queue`. Imports this package, adapters.common, ports.

A job is named by its session's uuid. Which of the service's jobs has which name never changes, so that much is
remembered; everything else is asked each time. One account at a service is for one broker: every job in it that is
named by a uuid is taken for one of ours.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from pathlib import PurePosixPath
from typing import NamedTuple
from uuid import UUID

import msgspec

from adapters.arc import glue, states, translate
from adapters.arc.client import Account
from adapters.arc.glue import Cluster
from adapters.arc.launcher import LIST, RESULTS
from adapters.arc.options import ArcOptions
from adapters.arc.states import LIVE, Activity
from adapters.common.parallel import each
from adapters.common.tokens import per_user
from adapters.planning.platform import Capacity, Job
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot, SiteMisbehaved
from broker.ports import Clock, Held, Logs, Result, Sighting

MOST_LOG = 1024**2  # bytes of each log that are handed out: the end
_MOST_RESULTS = 100_000
_SHA256 = re.compile(r"[0-9a-f]{64}")
_AT_ONCE = 8
_ISOLATION = "what the batch system of the ARC site gives; programs run under the account that it maps the broker to"


class Place(NamedTuple):
    """Where a job is: in whose account, under which id."""

    account: Account
    id: str


class ArcQueue:
    """`accounts`: the site's own, and those of some users, by subject or by issuer and subject."""

    def __init__(self, options: ArcOptions, own: Account, users: Mapping[str, Account], clock: Clock) -> None:
        self._options, self._clock = options, clock
        self._own, self._users = own, users
        self._names: dict[Account, dict[str, UUID | None]] = {account: {} for account in (own, *users.values())}
        self._cluster, self._cluster_until = Cluster(), 0.0  # monotonic

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """The limits of the queue, too, once the service has told them."""
        return (*translate.refuse(request, self._options), *translate.beyond(request, self._cluster))

    def preparing(self, request: ExecutionRequest) -> float | None:
        return None

    async def describe(self, deadline: Deadline) -> Profile:
        await self._known(deadline)
        return Profile(
            platform="arc",
            executables=(kinds.PYTHON_PROGRAM,),
            data=kinds.DATA,
            python=(self._options.python_version,) if self._options.python_version else (),
            results=True,
            reads=translate.SCHEMES,
            reserves=False,
            isolation=_ISOLATION,
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        return Capacity(cores=(await self._known(deadline)).slots)

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        wait = glue.wait(await self._known(deadline), job.cores)
        return Span.of(self._clock.now()).plus(wait) if wait is not None else None

    async def _known(self, deadline: Deadline) -> Cluster:
        """As the service told it a minute ago at most: it renews it no sooner."""
        now = self._clock.monotonic()
        if now >= self._cluster_until:
            self._cluster = glue.cluster(await self._own.cluster(deadline), self._options.queue)
            self._cluster_until = now + glue.LAG
        return self._cluster

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def find(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        """One call for all of them, once we know their ids; the list of all jobs where one is new to us."""
        shown: dict[UUID, Sighting | SiteError] = {}
        sessions = {job.session for job in jobs}
        failed: dict[Account, SiteError] = {}
        known = {session for names in self._names.values() for session in names.values()}
        new = not sessions <= known

        async def look(account: Account) -> None:
            try:
                if new:
                    await self._list(account, deadline)
                await self._look(account, sessions, shown, deadline)
            except SiteError as error:
                failed[account] = error

        await each(self._names, look, _AT_ONCE)
        for job in jobs:
            # Where its account cannot be asked, or the one from before that, nobody knows whether it is there.
            error = failed.get(self._account(job.owner)) or failed.get(self._own)
            if error is not None:
                shown.setdefault(job.session, error)
        return shown

    async def submit(self, job: Job, deadline: Deadline) -> Sighting:
        account = self._account(job.owner)
        id = await account.submit(translate.description(job, self._options), deadline)
        self._names[account][id] = job.session
        return states.sighting(Activity(str(job.session), "ACCEPTING"), id)

    async def end(self, job: Job, deadline: Deadline) -> None:
        if places := await self._places(job, deadline):
            await places[0].account.kill([place.id for place in places], deadline)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        found: list[Held] = []
        for account, names in self._names.items():
            ids = await account.jobs(deadline, only=LIVE)
            await self._learn(account, ids, deadline)
            ours = [id for id in ids if names.get(id) is not None]
            for id, seen in (await account.info(ours, deadline) if ours else {}).items():
                session = names.get(id)
                if session is not None and isinstance(seen, Activity):
                    phase = states.sighting(seen, id).phase
                    if phase not in TERMINAL:
                        found.append(Held(str(session), phase, session, since=seen.made))
        return tuple(found)

    async def _look(
        self,
        account: Account,
        sessions: set[UUID],
        shown: dict[UUID, Sighting | SiteError],
        deadline: Deadline,
    ) -> None:
        """At those of an account's jobs that have these names."""
        names = self._names[account]
        ids = [id for id, session in names.items() if session in sessions]
        for id, seen in (await account.info(ids, deadline) if ids else {}).items():
            session = names.get(id)
            if isinstance(seen, SiteForgot):
                names.pop(id, None)
            elif session is not None:
                what = states.sighting(seen, id) if isinstance(seen, Activity) else seen
                _keep(shown, session, what)

    async def _list(self, account: Account, deadline: Deadline) -> None:
        names = self._names[account]
        before = set(names)  # what is submitted meanwhile may not be in the list
        ids = await account.jobs(deadline)
        for gone in before.difference(ids):
            names.pop(gone, None)
        await self._learn(account, ids, deadline)

    async def _learn(self, account: Account, ids: Iterable[str], deadline: Deadline) -> None:
        """The names of jobs that are new to us."""
        names = self._names[account]
        new = [id for id in ids if id not in names]
        nameless = []
        for id, seen in (await account.info(new, deadline) if new else {}).items():
            if isinstance(seen, Activity) and seen.name:
                names[id] = _session(seen.name)
            elif isinstance(seen, Activity):
                nameless.append(id)
            elif not isinstance(seen, SiteForgot):
                raise seen
        for id, name in zip(
            nameless, await each(nameless, lambda id: account.name(id, deadline), _AT_ONCE), strict=True
        ):
            if isinstance(name, str):
                names[id] = _session(name)
            elif not isinstance(name, SiteForgot):
                raise name

    async def _places(self, job: Job, deadline: Deadline) -> list[Place]:
        """Where its job is, in one account; none, where there is none. Raises what an account answers instead."""
        own = self._account(job.owner)
        for account in (own, *(account for account in self._names if account is not own)):
            names = self._names[account]
            if job.session not in names.values():
                await self._list(account, deadline)
            found = [Place(account, id) for id, session in names.items() if session == job.session]
            if found:
                return found
        return []

    async def _place(self, job: Job, deadline: Deadline) -> Place:
        places = await self._places(job, deadline)
        if not places:
            raise SiteForgot(f"{self._own.place} has no such job.")
        return places[0]

    def _account(self, owner: Owner) -> Account:
        return per_user(self._users, owner) or self._own

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        place = await self._place(job, deadline)
        return Logs(
            await self._end_of(place, translate.OUT, deadline), await self._end_of(place, translate.ERR, deadline)
        )

    async def _end_of(self, place: Place, name: str, deadline: Deadline) -> str | None:
        try:
            size = await place.account.size(place.id, name, deadline)
            text = await place.account.file(place.id, name, deadline, begin=max(0, size - MOST_LOG)) if size else b""
        except SiteForgot:
            return None
        # What is no text takes three bytes instead of one.
        return text[-MOST_LOG:].decode(errors="replace").encode()[-MOST_LOG:].decode(errors="ignore")

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        place = await self._place(job, deadline)
        seen = (await place.account.info([place.id], deadline)).get(place.id)
        kept = seen.erased if isinstance(seen, Activity) else None
        return tuple(msgspec.structs.replace(result, kept_until=kept) for result in await self._listed(place, deadline))

    async def _listed(self, place: Place, deadline: Deadline) -> list[Result]:
        """None before the program has ended, and where it was ended before the launcher could list them."""
        try:
            text = await place.account.file(place.id, LIST, deadline)
        except SiteForgot:
            return []
        try:
            entries = msgspec.json.decode(text, type=list[tuple[str, int, str]])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SiteMisbehaved("the list of the results is none: did the program write it?") from None
        return [
            Result(name, size, f"sha256:{sum}" if _SHA256.fullmatch(sum) else None)
            for name, size, sum in entries[:_MOST_RESULTS]
            if _sound(name, size)
        ]

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        place = await self._place(job, deadline)
        if name not in [result.name for result in await self._listed(place, deadline)]:
            raise SiteForgot(f"there is no result {name[:200]!r}.")
        async with aclosing(place.account.stream(place.id, f"{RESULTS}/{name}", deadline)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        for account in self._names:
            await account.close()


def _keep(shown: dict[UUID, Sighting | SiteError], session: UUID, seen: Sighting | SiteError) -> None:
    """Of several jobs of one name, the one that goes on: that is what there is to be ended."""
    known = shown.get(session)
    if not isinstance(known, Sighting) or (known.phase in TERMINAL and isinstance(seen, Sighting)):
        shown[session] = seen


def _session(name: str) -> UUID | None:
    """None: none of ours."""
    try:
        session = UUID(name)
    except ValueError:
        return None
    return session if str(session) == name else None


def _sound(name: str, size: int) -> bool:
    """The program could have written the list: it is its word alone."""
    parts = PurePosixPath(name).parts
    plain = bool(parts) and name == "/".join(parts) and parts[0] != "/" and ".." not in parts
    return plain and len(name) <= 4096 and "\0" not in name and 0 <= size < 2**63
