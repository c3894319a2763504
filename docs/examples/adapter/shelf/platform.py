"""Tools that an operator put on a shelf, run by name on this machine. Imports the platform port, runs.

A request names a tool, not a program: its executable is of the kind `uri:shelf-tool-1.0`, with `tool` and `arguments`.
Nothing here limits what a tool may use; `adapters/local` of the broker shows what that takes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from adapters.planning.platform import Capacity, Job
from broker.domain.deadline import Deadline
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot, SiteMisbehaved
from broker.ports import Held, Logs, Result, Sighting
from shelf.runs import Run

KIND = "uri:shelf-tool-1.0"
PIECE = 64 * 1024  # bytes
MOST_LOG = 1024**2  # bytes, as the port has it

T = TypeVar("T")


class ShelfPlatform:
    """The Platform port. `tools`: name → the command that runs it, the request's arguments behind."""

    def __init__(self, folder: Path, tools: Mapping[str, Sequence[str]]) -> None:
        self._folder, self._tools = folder, tools

    # ── before anything runs ─────────────────────────────────────────────────────────────────────────────────

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        wanted = request.executable.to_wire() if request.executable else {}
        if wanted.get("kind") != KIND:
            return (Reason("only tools run here.", element="executable.kind", nearest=KIND),)
        if wanted.get("tool") not in self._tools:
            return (Reason("no such tool.", element="executable.tool", nearest=", ".join(sorted(self._tools))),)
        arguments = wanted.get("arguments", [])
        if not isinstance(arguments, list) or not all(isinstance(item, str) for item in arguments):
            return (Reason("a list of texts is wanted.", element="executable.arguments"),)
        if request.data:
            return (Reason("tools fetch their data themselves.", element="data"),)
        return ()

    def preparing(self, request: ExecutionRequest) -> float | None:
        return 0.0

    async def describe(self, deadline: Deadline) -> Profile:
        return Profile(
            platform="shelf",
            executables=(KIND,),
            results=True,
            reserves=True,  # what is started runs at once, so the planner's calendar decides
            isolation="none: a tool can do what the broker's account can",
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        return Capacity(cores=os.cpu_count())

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        return None  # asked only of platforms with a queue of their own

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, job: Job, deadline: Deadline) -> Sighting:
        wanted = job.request.executable.to_wire() if job.request.executable else {}
        command = [*self._tools[wanted["tool"]], *wanted.get("arguments", [])]
        run = self._run(job)
        await _disk(run.begin, command)
        return await _disk(_seen, run)

    async def status(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        found: dict[UUID, Sighting | SiteError] = {}
        for job in jobs:
            try:
                found[job.session] = await _disk(_seen, self._run(job))
            except SiteError as error:
                found[job.session] = error
        return found

    async def cancel(self, job: Job, deadline: Deadline) -> Sighting:
        run = self._run(job)
        await _disk(run.end)
        return await _disk(_seen, run)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        return await _disk(_held, self._folder)

    # ── what is left ─────────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        run = self._run(job)
        return Logs(await _disk(_tail, run.folder / "stdout"), await _disk(_tail, run.folder / "stderr"))

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        return await _disk(_listed, self._run(job).results)

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        if name not in [result.name for result in await self.results(job, deadline)]:
            raise SiteForgot(f"there is no result {name}.")
        with (self._run(job).results / name).open("rb") as file:
            while piece := await _disk(file.read, PIECE):
                yield piece

    async def close(self) -> None: ...

    def _run(self, job: Job) -> Run:
        return Run(self._folder / str(job.session))


async def _disk(work: Callable[..., T], *arguments: object) -> T:
    """In a thread. Raises SiteMisbehaved, which proves nothing, where the disk does not do it."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except OSError as error:
        raise SiteMisbehaved(f"the shelf's folder: {error}") from error


def _seen(run: Run) -> Sighting:
    """What the folder shows. Raises SiteForgot where there is none, or nothing was ever begun in it."""
    if not run.has("begun"):
        raise SiteForgot("the shelf has no such job.")
    began, native = run.written("pid"), run.text("pid").strip() or None
    if run.alive():
        return Sighting("RUNNING" if began else "PREPARING", native=native, began=began)
    code, ended = run.text("exit").strip(), run.written("exit")
    if code == "0":
        return Sighting("COMPLETED", native=native, began=began, ended=ended)
    if code:
        return Sighting("FAILED", messages=(f"the tool ended with {code}.",), native=native, began=began, ended=ended)
    ended = run.written("cancelled")
    if ended:
        return Sighting("CANCELLED", native=native, began=began, ended=ended)
    ended = run.written("stdout") or run.written("begun")
    return Sighting("FAILED", messages=("something killed it.",), native=native, began=began, ended=ended)


def _held(folder: Path) -> tuple[Held, ...]:
    runs = [(UUID(place.name), Run(place)) for place in folder.iterdir()] if folder.exists() else []
    return tuple(Held(str(session), _seen(run).phase, session) for session, run in runs if run.alive())


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - MOST_LOG // 3))  # what is not UTF-8 trebles
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


def _listed(folder: Path) -> tuple[Result, ...]:
    """Links are left out: one could lead anywhere."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return tuple(Result(path.relative_to(folder).as_posix(), path.stat().st_size) for path in files)
