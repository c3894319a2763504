"""Runs one job to its end, apart from the broker: `python -m adapters.local.supervisor FOLDER`. Imports the standard
library alone, so that it starts fast.

The process that is started forks once, waits until the fork has taken the job or has seen that another has, and leaves
with 0 or 3. The fork lives on without parent, terminal or ties to the broker. It holds the lock, is the sub-reaper of
whatever the job forks, runs the steps (staging, installing, the program) one after another as children, bounds them,
and writes state.json at every transition. SIGTERM, or a file `cancel` in the folder, ends the job.

A job is taken only by who holds the lock and finds no state.json: this is what makes it run once at most. The one
exception is a job that has run and of which only the results are to be written elsewhere: that may be done twice.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from adapters.local import layout, limits, opening, processes, sandbox
from adapters.local.layout import Delivery, Spec, State, read_json, write_json, write_state
from adapters.local.outputs import Log, escaped, survey, tail, used
from adapters.local.pump import Pump
from adapters.local.steps import UNUSED, Step, delivering, preparations, program, server

TICK = 0.5  # seconds between two looks at memory, processes and the cancel file
PULSE = 5.0  # seconds between two signs of life
DISK_LOOK = 2.0  # seconds between two looks at the disk, at least
DISK_SHARE = 20  # and at least this many times as long as a look takes
BUSY = 3  # exit code: the job is not ours to run


class Over(Exception):
    """The job has come to its end, and how."""

    def __init__(self, phase: str, message: str = "", code: int | None = None) -> None:
        super().__init__(message)
        self.phase, self.message, self.code = phase, message, code


class Supervisor:
    """Of one job that this process has taken: it holds the lock, and state.json is written."""

    def __init__(self, folder: Path, spec: Spec, state: State, pump: Pump) -> None:
        self._folder, self._spec, self._state, self._pump = folder, spec, state, pump
        self._reaped: dict[int, int] = {}  # pid → exit code, negative: the signal
        self._asked = False  # to end, by a signal
        self._cores: frozenset[int] = frozenset()
        self._next_look = self._next_disk = self._next_pulse = 0.0  # monotonic

    def run(self) -> None:
        """Returns when the job is at a terminal phase and nothing of it lives."""
        if self._state.delivering is None:
            try:
                self._steps()
                over = Over("COMPLETED", code=0)
            except Over as end:
                over = end
            over = self._finish(over)
        else:
            over = Over("COMPLETED", code=self._state.exit)
            if not (self._folder / layout.RESULTS).exists():
                over = self._collect(over)
        if self._spec.delivery and over.phase == "COMPLETED":
            over = self._deliver(self._spec.delivery, over)
        self._to(phase=over.phase, message=over.message, ended=self._state.ended, exit=over.code, delivering=None)

    def abort(self, message: str) -> None:
        """After a fault of ours: end the job's processes, and say so."""
        self._end_all(0.0)
        self._state = layout.closed(self._state)
        self._to(phase="FAILED", message=message, ended=time.time())

    def ask_to_end(self, *_: object) -> None:
        """The handler of SIGTERM."""
        self._asked = True

    def _to(self, **changes: Any) -> None:
        self._state = self._state._replace(**changes)
        write_state(self._folder, self._state)

    # ── from the first phase to the last ─────────────────────────────────────────────────────────────────────

    def _steps(self) -> None:
        self._heed()
        held: list[int] = []
        if self._spec.binds:
            self._cores, held = limits.allot_cores(self._folder.parent / ".cores", self._spec.bounds.cores)
        try:
            for step in preparations(self._folder, self._spec):
                self._run(step)
            if self._spec.desk:
                self._to(connector=opening.preparing(self._spec.desk))
                self._run(server(self._folder, self._spec, self._spec.desk, secrets.token_urlsafe(24)))
            else:
                self._to(phase="RUNNING", began=time.time())
                self._run(program(self._folder, self._spec))
        finally:
            for descriptor in held:
                os.close(descriptor)

    def _finish(self, over: Over) -> Over:
        """Returns how it ended, which too many results may change."""
        ended = time.time()
        self._state = layout.closed(self._state)
        if self._state.began is not None:
            self._to(phase="RELEASING", ended=ended, exit=over.code)
        if self._spec.desk:
            opening.keep(self._folder, self._spec)
        if self._spec.delivery and over.phase == "COMPLETED":
            # From here on another may do what is left, should we be killed.
            self._to(delivering=time.time() + self._spec.delivery.within)
        over = self._collect(over)
        # Written with the phase that follows. The time for writing begins then.
        self._state = self._state._replace(ended=ended, delivering=None)
        return over

    def _collect(self, over: Over) -> Over:
        """What the run has left. May be done twice."""
        files, total = survey(self._folder, self._spec.results)
        most = self._spec.bounds.results
        if total > most:
            files = []
            if over.phase == "COMPLETED":
                over = Over("FAILED", f"its results are {total} bytes, this site keeps {most}", over.code)
        write_json(self._folder / layout.RESULTS, files)
        return over

    def _deliver(self, delivery: Delivery, over: Over) -> Over:
        """Write the results where they are wanted. What cannot be brought there is no loss: it is kept here, but the
        session has not done what was asked of it."""
        end = self._state.delivering or time.time() + delivery.within
        self._to(phase="RELEASING", exit=over.code, delivering=end)
        try:
            # Never more than was set, should the clock have been set back since.
            left = min(max(0.0, end - time.time()), delivery.within)
            self._run(delivering(self._folder, self._spec, left))
        except Over as trouble:
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime((self._state.ended or 0.0) + delivery.kept))
            what = "was cancelled before" if trouble.phase == "CANCELLED" else "ran, but"
            why = f"{what} results could not be written to {delivery.to}: {str(trouble).rstrip('.')}."
            text = f"{why} They are kept here until {until}."
            return Over(trouble.phase, text, over.code)
        files = read_json(self._folder / layout.RESULTS) or []
        place = delivery.to.rstrip("/")
        urls = [{**file, "url": f"{place}/{escaped(file['name'])}"} for file in files]
        write_json(self._folder / layout.RESULTS, urls)
        self._state = self._state._replace(delivered=True)
        return Over("COMPLETED", over.message or f"results were written to {delivery.to}", over.code)

    def _heed(self) -> None:
        """Raises Over when somebody asked for the end."""
        now = time.monotonic()
        if now >= self._next_pulse:
            os.utime(self._folder / layout.LOCK)
            self._next_pulse = now + PULSE
        if self._asked or (self._folder / layout.CANCEL).exists():
            raise Over("CANCELLED", "cancelled")

    # ── one step ─────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self, step: Step) -> None:
        """Raises Over unless the step ends by itself with exit code 0. Nothing of it lives when this returns."""
        with ExitStack() as stack:
            logs = {name: Log(self._folder / name, self._spec.bounds.log) for name in (layout.STDOUT, layout.STDERR)}
            for log in logs.values():
                stack.callback(log.close)
            stack.callback(self._pump.drain)
            child = self._spawn(step, logs)
            try:
                self._watch(child.pid, step)
            except Over as over:
                self._end_all(self._spec.bounds.grace)
                over.code = child.returncode = self._reaped.pop(child.pid)
                raise
            self._end_all(self._spec.bounds.grace)
            child.returncode = self._reaped.pop(child.pid)
        if self._spec.desk and step.token and child.returncode == UNUSED:
            raise Over("COMPLETED", opening.unused(self._spec.desk), UNUSED)
        if child.returncode:
            raise Over("FAILED", self._fault(step, child.returncode), child.returncode)

    def _spawn(self, step: Step, logs: dict[str, Log]) -> subprocess.Popen[bytes]:
        out, err = self._pump.add(logs[step.out]), self._pump.add(logs[layout.STDERR])
        work = self._folder / layout.WORK
        work.mkdir(exist_ok=True)
        inside = sandbox.told(step.inside)
        try:
            return subprocess.Popen(  # noqa: S603  to run what users send is what this is for
                sandbox.telling(step.command, inside) if step.inside else step.command,
                pass_fds=(inside,) if step.inside else (),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=work,
                env=step.environment,
                start_new_session=True,
                preexec_fn=limits.restriction(self._spec.bounds, step.within, self._cores),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise Over("FAILED", f"{step.what} cannot be started: {error}") from error
        finally:
            for descriptor in (out, err, inside):
                os.close(descriptor)

    def _watch(self, child: int, step: Step) -> None:
        """Until the child ends; raises Over at a limit or when asked to end."""
        opens = bool(step.token)
        end = time.monotonic() + (self._spec.bounds.staging if opens else step.within)
        self._reap()
        while child not in self._reaped:
            now = time.monotonic()
            if opens and self._opened(step):
                opens, end = False, now + step.within
            if now >= end:
                raise self._late(step, opens=opens)
            self._heed()
            if now >= self._next_look:
                self._next_look = now + TICK
                self._look(now)
            self._pump.wait(min(TICK, end - now))
            self._reap()

    def _opened(self, step: Step) -> bool:
        """Whether the server can be reached; then the session is AVAILABLE."""
        desk, connector = self._spec.desk, self._state.connector
        location = opening.location(self._folder, self._spec, desk, step.token) if desk else None
        if location is None or connector is None:
            return False
        connector = {**connector, "status": "AVAILABLE", "location": location}
        self._to(phase="AVAILABLE", began=time.time(), connector=connector)
        return True

    def _late(self, step: Step, *, opens: bool) -> Over:
        if opens:
            return Over("FAILED", f"{step.what} did not open within {self._spec.bounds.staging:g} s")
        if step.token:
            return Over("COMPLETED", f"its time was up: {step.within:g} s were granted")
        return Over("FAILED", f"time limit: {step.what} did not end within {step.within:g} s")

    def _look(self, now: float) -> None:
        """At what all processes of the job use together; raises Over when that is too much."""
        bounds = self._spec.bounds
        family = processes.descendants(os.getpid())
        if len(family) > bounds.processes:
            raise Over("FAILED", f"process limit: {len(family)} at once, this site allows {bounds.processes}")
        if (held := processes.memory(family, bounds.memory)) > bounds.memory:
            raise Over("FAILED", f"memory limit: {held} bytes in use, {bounds.memory} were granted")
        if now >= self._next_disk:
            on_disk = sum(used(self._folder / name) for name in layout.CONTENT)
            self._next_disk = now + max(DISK_LOOK, DISK_SHARE * (time.monotonic() - now))
            if on_disk > bounds.disk:
                raise Over("FAILED", f"disk limit: {on_disk} bytes in use, {bounds.disk} were granted")

    def _fault(self, step: Step, code: int) -> str:
        written = (tail(self._folder / layout.STDERR, 4096) or b"").decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(written) if line.strip()), "")
        if step.speaks and last and code > 0:  # else it had no time to speak, and the last word is the program's
            return last
        if code == -signal.SIGKILL:
            return f"{step.what} was ended by SIGKILL, not by this site: was the machine out of memory?"
        if code < 0:
            return f"{step.what} was ended by {signal.Signals(-code).name}"
        return f"{step.what} ended with exit code {code}" + (f": {last}" if last else "")

    # ── the job's processes ──────────────────────────────────────────────────────────────────────────────────

    def _reap(self) -> bool:
        """As sub-reaper we are the parent of everything the job leaves behind. True: some of it is still to come; a
        dead process comes only when the last of its threads has ended."""
        with suppress(ChildProcessError):
            while (pair := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                self._reaped[pair[0]] = os.waitstatus_to_exitcode(pair[1])
            return True
        return False

    def _alive(self) -> set[int]:
        self._reap()
        return processes.descendants(os.getpid())

    def _end_all(self, grace: float) -> None:
        """Ask all, then force them. Returns when none is left, however long the kernel takes over it."""
        processes.send(self._alive(), signal.SIGTERM)
        end = time.monotonic() + grace
        while self._alive() and time.monotonic() < end:
            self._pump.wait(min(TICK / 10, max(0.0, end - time.monotonic())))
        while left := self._alive():
            # Stopped first: what forks faster than it is killed cannot go on forking.
            processes.send(left, signal.SIGSTOP)
            processes.send(left, signal.SIGKILL)
            self._pump.wait(TICK / 50)
        while self._reap():
            self._pump.wait(TICK / 50)


def take(folder: Path) -> tuple[Spec, State] | None:
    """Make the job ours. None: another has it or had it. The lock is held until this process ends."""
    while (held := layout.acquire(folder)) is None and layout.read_state(folder) is None:
        time.sleep(TICK / 100)  # whoever has the lock is about to write the state, or has just died
    state = layout.read_state(folder)
    if held is None or (state is not None and state.delivering is None):
        return None
    spec = layout.read_spec(folder)
    state = state._replace(pid=os.getpid()) if state else State("PREPARING", pid=os.getpid(), keep=spec.keep)
    write_state(folder, state)
    return spec, state


def supervise(folder: Path, spec: Spec, state: State) -> None:
    """The whole life of a supervisor that has taken its job."""
    reader, writer = os.pipe()
    for descriptor in (reader, writer):
        os.set_blocking(descriptor, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    supervisor = Supervisor(folder, spec, state, Pump(reader))
    signal.signal(signal.SIGTERM, supervisor.ask_to_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler is needed for the wake-up descriptor to be written
    try:
        processes.prctl(processes.PR_SET_CHILD_SUBREAPER, 1)
        supervisor.run()
    except Exception as error:
        supervisor.abort(f"its supervisor failed: {error}")
        raise


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]).resolve()
    os.umask(0o077)
    ours, theirs = os.pipe()
    if os.fork():
        os.close(theirs)
        return 0 if os.read(ours, 1) == b"y" else BUSY
    os.close(ours)
    os.chdir("/")
    taken = take(folder)
    os.write(theirs, b"y" if taken else b"n")
    os.close(theirs)
    if taken:
        supervise(folder, *taken)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
