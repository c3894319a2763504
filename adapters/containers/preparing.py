"""From a job's ticket to its run: the image is brought, a container made and filled, the ticket removed, the container
started. Imports the ports, and this package.

It takes long, so it is done beside the calls, in tasks. Whoever looks at a job and finds it waiting goes on where it
stands, one process at a time (a lease); each step can be done again. A job whose end was asked for is not started: the
end is written before the container is looked for and removed, and looked for after the container is made, so one of the
two sees the other.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from adapters.common.http import ConnectionLost, tidy
from adapters.common.laying import PROGRAM, lay_out
from adapters.common.refusing import checksum_type
from adapters.containers import images, marks, states, translate
from adapters.containers.client import Engine
from adapters.containers.ending import Ending
from adapters.containers.options import ContainersOptions
from adapters.containers.staging import STORE, WANTED
from adapters.containers.streams import tar
from adapters.local.layout import write_json
from adapters.local.steps import passed
from adapters.local.transfers import Transfer
from adapters.local.transfers import read as read_transfers
from adapters.planning.platform import Job
from broker.domain.deadline import Deadline
from broker.domain.executables import PythonProgram
from broker.errors import BrokerError, SiteError, SiteMisbehaved, SiteRefused
from broker.ports import Clock, Limits

_log = structlog.get_logger(__name__)

LEASE = 30.0  # seconds after which another goes on with what nobody renewed
CALL = 60.0  # seconds for a call that is not known to take long
_LOOK, _LOOKS = 0.05, 60  # seconds between two looks at a lease, and their number
_AT_ONCE = 8  # jobs that one process prepares
_MOST_BROUGHT = 1000  # sessions of which one process remembers what was brought in


class Hopeless(Exception):
    """It can never run. Its text is for the person whose job it is."""


class Preparer:
    """Of one process. `site` names the leases; equal for all replicas."""

    def __init__(
        self, engine: Engine, ending: Ending, options: ContainersOptions, limits: Limits, clock: Clock, site: str
    ) -> None:
        self._engine, self._ending, self._options = engine, ending, options
        self._limits, self._clock, self._site = limits, clock, site
        self._us = uuid4().hex
        self._tasks: dict[UUID, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._doing: dict[UUID, str] = {}
        self._brought: dict[UUID, tuple[Transfer, ...]] = {}

    def care(self, job: Job, offset: float) -> None:
        """See to it that somebody goes on with it. `offset`: seconds that the engine's clock is ahead."""
        if job.session not in self._tasks:
            task = asyncio.create_task(self._leased(job, offset))
            self._tasks[job.session] = task
            task.add_done_callback(lambda _: self._tasks.pop(job.session, None))

    async def settled(self, session: UUID) -> None:
        """Returns when nobody prepares it, or after a moment: long enough for a container to be made, and to be seen to
        be wanted no more."""
        with suppress(BrokerError):  # of our own store: then it is ended at once
            for _ in range(_LOOKS):
                if not await self._limits.members(self._lease(session)):
                    return
                await self._clock.sleep(_LOOK)

    def doing(self, session: UUID) -> str:
        """How far it is, where this process knows."""
        return self._doing.get(session, "")

    def brought(self, session: UUID) -> tuple[Transfer, ...]:
        """What this process has brought in for it."""
        return self._brought.get(session, ())

    async def close(self) -> None:
        """Another process goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ── one at a time ────────────────────────────────────────────────────────────────────────────────────────

    async def _leased(self, job: Job, offset: float) -> None:
        key = self._lease(job.session)
        try:
            if not await self._enter(key):
                return
            renewing = asyncio.create_task(self._renewed(key, asyncio.current_task()))
            try:
                async with self._room:
                    await self._whole(job, offset)
            finally:
                renewing.cancel()
                await self._limits.leave(key, self._us)
        except (BrokerError, OSError) as error:  # of the engine, our store, our disk; whoever looks next tries again
            why = error.detail if isinstance(error, BrokerError) else f"{error.strerror or error}."
            self._doing[job.session] = f"it waits: {why}"
            _log.info("a job is not ready yet", site=self._site, session=str(job.session), why=why)

    def _lease(self, session: UUID) -> str:
        return f"containers:{self._site}:{session}"

    async def _enter(self, key: str) -> bool:
        return await self._limits.enter(key, self._us, 1, self._clock.now() + LEASE)

    async def _renewed(self, key: str, task: asyncio.Task[None] | None) -> None:
        """Ends `task` where the lease is lost, or cannot be known to be ours: then another goes on with it."""
        until = self._clock.monotonic() + LEASE
        while True:
            await self._clock.sleep(LEASE / 3)
            asked, ours = self._clock.monotonic(), True
            with suppress(BrokerError, TimeoutError):
                async with asyncio.timeout(LEASE / 3):
                    ours = await self._enter(key)
                until = asked + LEASE
            if task is not None and (not ours or self._clock.monotonic() + LEASE / 3 >= until):
                task.cancel()

    async def _whole(self, job: Job, offset: float) -> None:
        try:
            await self._prepare(job, offset)
        except Hopeless as error:
            await self._ending.end(job.session, marks.FAILED, str(error), self._soon())
        self._doing.pop(job.session, None)

    # ── the steps ────────────────────────────────────────────────────────────────────────────────────────────

    async def _prepare(self, job: Job, offset: float) -> None:
        """What it shows now counts: another may have gone on with it until we had the lease."""
        name = marks.name(self._options.prefix, job.session)
        ticket, found = await self._engine.volume(name, self._soon()), await self._engine.container(name, self._soon())
        if (ticket is None and found is None) or (found is not None and not states.container(found).unstarted):
            return
        if ticket is not None:
            deadline = self._until(states.mark(ticket).made, offset)
            if found is None:
                await self._make(job, deadline)
            await self._fill(job, deadline)
            await self._engine.remove_volume(name, self._soon())
        await self._start(job.session)

    def _until(self, made: float | None, offset: float) -> Deadline:
        """Until when it is to be ready, its ticket being from `made` by the engine's clock."""
        whole = self._options.staging.total_seconds()
        left = whole if made is None else whole + made - (self._clock.now() + offset)
        if left <= 0:
            raise Hopeless(f"it was not ready within {whole:g} s")
        return Deadline.after(left, self._clock.monotonic())

    async def _run(self, name: str) -> states.Container | None:
        found = await self._engine.container(name, self._soon())
        return states.container(found) if found is not None else None

    async def _make(self, job: Job, deadline: Deadline) -> None:
        image, platform = await self._image(job, deadline), translate.platform(job.request)
        if await self._engine.volume(marks.end_name(self._options.prefix, job.session), self._soon()) is not None:
            raise SiteRefused("its end was asked for.")
        name = marks.name(self._options.prefix, job.session)
        body = translate.container(job, self._options, self._site, image)
        try:
            await self._engine.create(name, platform, body, self._soon())
        except SiteError as error:
            if await self._engine.container(name, self._soon()) is not None:
                return  # it was taken, whatever was answered, or another was faster
            if _answered(error):
                raise Hopeless(f"the engine makes no container of it: {error.detail}") from error
            raise

    async def _fill(self, job: Job, deadline: Deadline) -> None:
        with self._folder() as folder:
            await self._stage(job, folder, deadline)
            self._doing[job.session] = "its data goes into the container"
            files = tar(translate.entries(job, self._options), folder / STORE, self._clock.now())
            name = marks.name(self._options.prefix, job.session)
            try:
                await self._engine.put(name, "/", files, deadline)
            except SiteError as error:
                if not _answered(error) or (isinstance(error, SiteRefused) and error.status == 404):
                    raise  # a container that is gone was removed because its end was asked for
                raise Hopeless(f"the engine does not take its data: {error.detail}") from error

    async def _start(self, session: UUID) -> None:
        """Started once: a container that ran is never started again by us."""
        name, prefix = marks.name(self._options.prefix, session), self._options.prefix
        if await self._engine.volume(marks.end_name(prefix, session), self._soon()) is not None:
            await self._ending.clear(session, self._soon())
            return
        if (run := await self._run(name)) is None or not run.unstarted:
            return  # an engine starts what is over once more
        try:
            await self._engine.start(name, self._soon())
        except SiteError as error:
            run = await self._run(name)
            if run is not None and run.unstarted and _answered(error):
                raise Hopeless(f"the engine cannot start it: {error.detail}") from error

    # ── the image ────────────────────────────────────────────────────────────────────────────────────────────

    async def _image(self, job: Job, deadline: Deadline) -> str:
        """The name of the first image that is there, or can be brought, and is what was asked for."""
        troubles = []
        for reference in translate.pulled(job.request, self._options):
            try:
                return await self._brought_image(job, reference, deadline)
            except Hopeless as error:
                troubles.append(str(error))
        raise Hopeless(" ".join(troubles) or "it has no image that may run here")

    async def _brought_image(self, job: Job, reference: images.Reference, deadline: Deadline) -> str:
        found = await self._there(reference)
        if self._options.pull == "always" or (found is None and self._options.pull == "missing"):
            await self._pull(job, reference, deadline)
            found = await self._there(reference)
        if found is None:
            how = "this site pulls none" if self._options.pull == "never" else "what was pulled is not it"
            raise Hopeless(f"{reference.name} is not on the engine, and {how}.")
        name, image = found
        await self._check(image, reference, job)
        return name

    async def _there(self, reference: images.Reference) -> tuple[str, dict[str, Any]] | None:
        """An image that the engine has, by the name to run it by. One that came from no registry has a tag alone, and
        its own digest."""
        if (image := await self._engine.image(reference.name, self._soon())) is not None:
            return (reference.name, image) if images.is_it(image, reference.digest) else None
        if reference.digest and reference.tag:
            image = await self._engine.image(f"{reference.repository}:{reference.tag}", self._soon())
            if image is not None and images.is_it(image, reference.digest):
                return reference.digest, image
        return None

    async def _check(self, image: dict[str, Any], reference: images.Reference, job: Job) -> None:
        """That it is for a processor that is asked for, or is here, and that its labels, which its containers have too,
        are of a size to be read with those of all jobs."""
        size = images.labels(image)
        if size > translate.LONGEST:
            raise Hopeless(f"the labels of {reference.name} have {size} bytes; {translate.LONGEST} are the most.")
        about = await self._engine.about(self._soon())
        its, wanted = images.architecture(str(image.get("Architecture", ""))), translate.platform(job.request)
        runs = {wanted.partition("/")[2]} if wanted else {about.architecture, *self._options.architectures}
        if its and its not in runs:
            raise Hopeless(f"{reference.name} is for {its[:40]}, and not for {', '.join(sorted(runs))}.")

    async def _pull(self, job: Job, reference: images.Reference, deadline: Deadline) -> None:
        progress, what = images.Progress(), f"{reference.name} is pulled"
        self._doing[job.session] = what
        try:
            lines = self._engine.pull(reference, translate.platform(job.request), self._login(reference), deadline)
            async for line in lines:
                if (trouble := images.trouble(line)) is not None:
                    raise Hopeless(f"{reference.name} cannot be pulled: {tidy(trouble)}")
                progress.add(line)
                self._doing[job.session] = f"{what}: {text}" if (text := progress.text()) else what
        except SiteError as error:
            if not _answered(error):
                raise
            raise Hopeless(f"{reference.name} cannot be pulled: {error.detail}") from error

    def _login(self, reference: images.Reference) -> tuple[str, str] | None:
        """Of the longest prefix that the image is below: what is sent goes to that registry alone."""
        entries = {entry.prefix: entry for entry in self._options.registries}
        entry = entries.get(images.below(reference, entries) or "")
        if entry is None:
            return None
        try:
            return entry.username, entry.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Hopeless(f"the password for {entry.prefix} cannot be read: {error.strerror}.") from error

    # ── the data ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _stage(self, job: Job, folder: Path, deadline: Deadline) -> None:
        """What is not in the request itself is brought to `folder`, by a child."""
        wanted = _wanted(job, self._options)
        if not wanted["data"] and not wanted["program"]:
            return
        self._doing[job.session] = "its data is brought"
        await asyncio.to_thread(write_json, folder / WANTED, wanted)
        command = (sys.executable, "-P", "-m", "adapters.containers.staging", str(folder))
        child = await asyncio.create_subprocess_exec(
            *command, env=passed(), stdin=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(deadline.left(self._clock.monotonic())):
                _, said = await child.communicate()
        except TimeoutError:
            raise Hopeless("its data was not there in time") from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        self._brought[job.session] = read_transfers(folder)
        while len(self._brought) > _MOST_BROUGHT:
            self._brought.pop(next(iter(self._brought)))
        if child.returncode:
            raise Hopeless(tidy(said.decode(errors="replace").strip().rpartition("\n")[2]) or "staging broke off")

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix="containers-", dir=self._options.folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _soon(self) -> Deadline:
        return Deadline.after(CALL, self._clock.monotonic())


def _answered(error: SiteError) -> bool:
    """The engine has said what is wrong, as against being gone or busy. Both say 500 of most mistakes."""
    return isinstance(error, SiteRefused) or (
        isinstance(error, SiteMisbehaved) and not isinstance(error, ConnectionLost)
    )


def _wanted(job: Job, options: ContainersOptions) -> dict[str, Any]:
    """What the child brings: `adapters.local.layout.Datum`s, and where a program comes from."""
    asked, data = job.request.executable, []
    for datum in lay_out(job.request).data:
        if translate.bound(datum, options) is None:
            kind = checksum_type(datum.checksum[0]) if datum.checksum else None
            checksum = (kind, datum.checksum[1]) if kind and datum.checksum else None
            urls = translate.fetched(datum)
            data.append(
                {"name": datum.name, "urls": urls, "place": datum.place, "checksum": checksum, "bytes": datum.bytes}
            )
    return {
        "program": asked.location if isinstance(asked, PythonProgram) and asked.source is None else None,
        "script": PROGRAM,
        "most_source": options.max_source_bytes,
        "most": options.max_data_bytes,
        "data": data,
    }
