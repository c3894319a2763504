"""The local platform: runs jobs on this machine by way of their folders and supervisors. Imports the platform port,
the ports, and this package.

Holds no state of jobs. What blocks (files, processes) runs in threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar
from uuid import UUID

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from adapters.local import sandbox, translate
from adapters.local.cache import Cache
from adapters.local.holding import held
from adapters.local.jobs import Jobs, look_safely
from adapters.local.layout import RESULTS, STDERR, STDOUT, TERMINAL, read_json, read_spec
from adapters.local.options import GIB, LocalOptions
from adapters.local.outputs import PIECE, open_beneath, tail
from adapters.planning.platform import Capacity, Job
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.executables import JupyterNotebook, PythonProgram, Workflow
from broker.domain.outcome import Reason
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteTimeout
from broker.ports import Clock, Held, Logs, Result, Sighting

T = TypeVar("T")

MOST_LOG = 1024**2  # bytes of each log that are handed out: the end
OPENS = 10.0  # seconds until a notebook's server can be reached, on a machine that has other things to do as well
MOST_LOOKED = 1000  # data resources of a request that are looked for: a broker above reads no more of an offer
SWEEP = 600.0  # seconds between two sweeps of ended jobs, at least

_QUESTION = (
    "import json, platform; from importlib.util import find_spec as f;"
    "print(json.dumps([platform.python_version(), bool(f('nbclient') and f('ipykernel')), bool(f('pip')),"
    " bool(f('jupyterlab') and f('ipykernel')), bool(f('cwltool'))]))"
)


class Interpreter(NamedTuple):
    """What runs programs: its version, and whether it can execute notebooks, install requirements, open notebooks for a
    person, and run workflows."""

    version: str
    notebooks: bool
    pip: bool
    opens: bool
    cwl: bool


class Walls(NamedTuple):
    """How jobs are shut in, as was found out once. `trouble`: why bubblewrap does not work here."""

    isolation: Literal["bwrap", "none"]
    trouble: str = ""


class LocalPlatform:
    """Implements `adapters.planning.platform.Platform`."""

    def __init__(self, options: LocalOptions, clock: Clock) -> None:
        self._options, self._clock = options, clock
        self._jobs = Jobs(options.folder.absolute(), options.keep.total_seconds())
        shelf = translate.shelf(options)
        self._cache = Cache(options.folder.absolute(), shelf) if shelf else None
        self._interpreter = _own(options)
        self._walls = Walls("none") if options.isolation == "none" else None
        self._next_sweep = 0.0  # monotonic
        self._sweeping: asyncio.Task[None] | None = None

    # ── what it is ───────────────────────────────────────────────────────────────────────────────────────────

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """What depends on bubblewrap, or on an interpreter other than our own, is known from the first `describe` or
        `capacity` on."""
        walls, options = self._walls, self._options
        reasons = translate.refuse(request, _settled(options, walls) if walls else options)
        if walls and walls.isolation == "bwrap" and walls.trouble:
            text = f"programs run in bubblewrap here, and it does not work: {walls.trouble}"
            reasons += (Reason(text, rule="isolation"),)
        return reasons + tuple(_unfit(request, self._interpreter)) if self._interpreter else reasons

    def preparing(self, request: ExecutionRequest) -> float | None:
        """A program without data and requirements starts at once; else it depends on where the data lies."""
        executable = request.executable
        installs = isinstance(executable, PythonProgram) and bool(executable.requirements)
        if request.data or installs or (isinstance(executable, Workflow) and translate.fetched(executable)):
            return None
        return OPENS if isinstance(executable, JupyterNotebook) and executable.mode == "interactive" else 0.0

    async def at_hand(self, request: ExecutionRequest, deadline: Deadline) -> Mapping[str, float]:
        """What is in the cache, and what lies below `file_roots`. No server is asked whether it is still the same."""

        def look() -> dict[str, float]:
            wanted = islice(translate.wanted(request, self._options), MOST_LOOKED)
            found = ((path, held(datum, self._options.file_roots, self._cache)) for path, datum in wanted)
            return {path: float(count) for path, count in found if count is not None}

        return await self._in_thread(deadline, look) if request.data else {}

    async def describe(self, deadline: Deadline) -> Profile:
        interpreter, walls = await self._known(deadline)
        options = _settled(self._options, walls)
        opens = interpreter.opens and options.interactive.offered
        notebooks = (kinds.JUPYTER_NOTEBOOK,) if interpreter.notebooks or opens else ()
        workflows = (kinds.WORKFLOW,) if interpreter.cwl else ()
        return Profile(
            platform="local",
            executables=(kinds.PYTHON_PROGRAM, *notebooks, *workflows),
            data=kinds.DATA,
            python=(interpreter.version,),
            workflows=tuple(f"CWL {version}" for version in translate.CWL) if workflows else (),
            installs_requirements=options.install_requirements and interpreter.pip,
            results=True,
            reads=("http", "https", "data", *(("file",) if options.file_roots else ())),
            writes=tuple(entry.prefix for entry in options.writes),
            keeps=max(options.keep, options.keep_longest or options.keep),
            reserves=True,
            repeatable=True,
            batches=True,
            isolation=sandbox.describe(options.isolation, options.network, options.max_processes),
        )

    async def capacity(self, deadline: Deadline) -> Capacity:
        """The whole machine. An operator who shares it with others sets less."""
        await self._known(deadline)
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Capacity(cores=len(os.sched_getaffinity(0)), memory=memory // GIB)

    async def estimate(self, job: Job, deadline: Deadline) -> Span | None:
        """There is no queue: the planner's calendar decides."""
        return None

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self, job: Job, deadline: Deadline) -> Sighting:
        self._sweep()
        options = _settled(self._options, (await self._known(deadline))[1])
        return await self._in_thread(deadline, lambda: self._jobs.start(translate.spec(job, options)))

    async def status(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        sessions = [job.session for job in jobs]

        self._sweep()

        def look() -> dict[UUID, Sighting | SiteError]:
            return {session: look_safely(self._jobs, session) for session in sessions}

        return await self._in_thread(deadline, look)

    async def cancel(self, job: Job, deadline: Deadline) -> Sighting:
        return await self._in_thread(deadline, lambda: self._jobs.cancel(job.session))

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        return await self._in_thread(deadline, self._jobs.held)

    async def logs(self, job: Job, deadline: Deadline) -> Logs:
        place = self._jobs.place(job.session)

        def read() -> Logs:
            self._expect(job.session)
            out, err = (tail(place / name, MOST_LOG) for name in (STDOUT, STDERR))
            return Logs(_text(out), _text(err))

        return await self._in_thread(deadline, read)

    async def results(self, job: Job, deadline: Deadline) -> tuple[Result, ...]:
        """Empty until the run has ended: before, a file may still grow."""
        return await self._in_thread(deadline, lambda: self._listed(job.session))

    async def fetch(self, job: Job, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        descriptor = await self._in_thread(deadline, lambda: self._open(job.session, name))
        try:
            while piece := await asyncio.to_thread(os.read, descriptor, PIECE):
                yield piece
        finally:
            os.close(descriptor)

    async def close(self) -> None:
        """Returns when a sweep under way has ended; running jobs go on."""
        if self._sweeping is not None:
            await self._sweeping

    # ── within ───────────────────────────────────────────────────────────────────────────────────────────────

    def _expect(self, session: UUID) -> None:
        if not self._jobs.place(session).exists():
            raise SiteForgot(f"The local platform knows no session {session}.")

    def _listed(self, session: UUID) -> tuple[Result, ...]:
        self._expect(session)
        state = self._jobs.state(session)
        if state is None or state.phase not in TERMINAL:
            return ()
        files = read_json(self._jobs.place(session) / RESULTS) or []
        until = self._jobs.kept_until(state)
        return tuple(Result(file["name"], file["bytes"], file["checksum"], until, file.get("url")) for file in files)

    def _open(self, session: UUID, name: str) -> int:
        if name not in {result.name for result in self._listed(session)}:
            raise SiteForgot(f"The session {session} has no result {name!r}.")
        place = self._jobs.place(session)
        try:
            return open_beneath(place, read_spec(place).results, name)
        except OSError as error:
            raise SiteForgot(f"The result {name!r} of the session {session} is gone.") from error

    def _sweep(self) -> None:
        """Beside the call that brought us here: clearing large folders takes its time."""
        now = self._clock.monotonic()
        if now >= self._next_sweep and (self._sweeping is None or self._sweeping.done()):
            self._next_sweep = now + SWEEP
            self._sweeping = asyncio.create_task(asyncio.to_thread(self._clear, self._clock.now()))

    def _clear(self, now: float) -> None:
        self._jobs.sweep(now)
        if self._cache is not None:
            self._cache.tidy(now)

    async def _known(self, deadline: Deadline) -> tuple[Interpreter, Walls]:
        if self._interpreter is None:
            self._interpreter = await self._in_thread(deadline, lambda: _asked(self._options))
        if self._walls is None:
            self._walls = await self._in_thread(deadline, lambda: _tried(self._options))
        return self._interpreter, self._walls

    async def _in_thread(self, deadline: Deadline, work: Callable[[], T]) -> T:
        """The thread goes on to its end whatever happens to us: what it does is whole or found again."""
        try:
            async with asyncio.timeout(deadline.left(self._clock.monotonic())):
                return await asyncio.to_thread(work)
        except TimeoutError:
            raise SiteTimeout("The local platform did not answer in time.") from None
        except (OSError, ValueError, TypeError) as error:  # the latter two: a state that is no state
            raise SiteMisbehaved(f"The local platform has trouble with its files: {error}.") from error


def _settled(options: LocalOptions, walls: Walls) -> LocalOptions:
    """The options, with what was left to be found out."""
    return options.model_copy(update={"isolation": walls.isolation})


def _tried(options: LocalOptions) -> Walls:
    trouble = sandbox.trouble(str(options.python))
    return Walls("none" if options.isolation == "auto" and trouble else "bwrap", trouble)


def _asked(options: LocalOptions) -> Interpreter:
    interpreter = _ask(options.python)
    return interpreter if options.cwl_python is None else interpreter._replace(cwl=_ask(options.cwl_python).cwl)


def _own(options: LocalOptions) -> Interpreter | None:
    """Known without asking where everything runs under the broker's own interpreter."""
    if options.python != Path(sys.executable) or options.cwl_python not in (None, options.python):
        return None
    names = ("ipykernel", "nbclient", "pip", "jupyterlab", "cwltool")
    kernel, client, pip, lab, cwl = (find_spec(name) is not None for name in names)
    return Interpreter(platform.python_version(), client and kernel, pip, lab and kernel, cwl)


def _ask(python: Path) -> Interpreter:
    try:
        answer = subprocess.run(  # noqa: S603  the operator's interpreter
            [str(python), "-I", "-c", _QUESTION], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=True
        )
        version, *able = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise SiteMisbehaved(f"The interpreter {python} cannot be used: {error}.") from error
    return Interpreter(str(version), *map(bool, able))


def _unfit(request: ExecutionRequest, interpreter: Interpreter) -> list[Reason]:
    executable = request.executable
    if isinstance(executable, JupyterNotebook):
        return list(_no_notebooks(executable.mode == "interactive", interpreter))
    if isinstance(executable, Workflow) and not interpreter.cwl:
        return [Reason("cwltool is not installed here", "executable.kind")]
    if not isinstance(executable, PythonProgram):
        return []
    reasons = []
    if executable.requirements and not interpreter.pip:
        reasons.append(Reason("pip is not installed here", "executable.requirements"))
    try:
        if executable.python and not SpecifierSet(executable.python).contains(interpreter.version, prereleases=True):
            text = f"Python {executable.python} is asked"
            reasons.append(Reason(text, "executable.python", nearest=interpreter.version))
    except InvalidSpecifier:
        text = f"{executable.python!r} is no range of versions"
        reasons.append(Reason(text, "executable.python", nearest=">=3.11"))
    return reasons


def _no_notebooks(interactive: bool, interpreter: Interpreter) -> Iterator[Reason]:
    if interactive and not interpreter.opens:
        nearest = "batch" if interpreter.notebooks else ""
        yield Reason("jupyterlab and ipykernel are not installed here", "executable.mode", nearest=nearest)
    elif not interactive and not interpreter.notebooks:
        yield Reason("nbclient and ipykernel are not installed here", "executable.kind")


def _text(log: bytes | None) -> str | None:
    return log.decode(errors="replace") if log is not None else None
