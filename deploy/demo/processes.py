"""Processes of a demo: started into a folder, waited for, ended with all that they started. Imports nothing of ours.

What is started bears the folder's name in its environment, so that it is found again by another run of the program,
and nothing else is ever ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

START = 30.0  # seconds a process has to say that it listens
STOP = 15.0  # seconds it has to end
LOOK = 0.02  # seconds between two looks
MARK = "FEDERATION_DEMO"  # in the environment of every process started here; its value is the folder


class DemoError(Exception):
    """What went wrong, in a sentence."""


class Processes:
    """Those of one folder, each with a name and a log of that name. `stop` may be called at any moment, and twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def python(self, name: str, *arguments: str, **environment: str) -> None:
        """A program of the interpreter that runs us. Returns at once."""
        self.launch(name, sys.executable, *arguments, environment=environment)

    def launch(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Returns at once. What it prints is NAME.out, its log NAME.log; a log goes on where it was."""
        # A session of its own: Ctrl-C is ours to handle, and what is kept outlives this terminal.
        with (self._folder / f"{name}.out").open("wb") as out, (self._folder / f"{name}.log").open("ab") as log:
            self._started[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL, stdout=out, stderr=log, cwd=self._folder, start_new_session=True,
                env={**os.environ, **(environment or {}), MARK: str(self._folder)},
            )  # fmt: skip

    def said(self, name: str) -> str:
        """The last word of what it prints at its start: where it listens. Raises DemoError."""
        return self.when(name, lambda: (self._folder / f"{name}.out").read_text().strip()).split()[-1]

    def when(self, name: str, look: Callable[[], str]) -> str:
        """What `look` finds, as soon as it finds something. Raises DemoError where the process ends before that, or
        takes too long."""
        end = time.monotonic() + START
        while not (found := look()):
            if self._started[name].poll() is not None or time.monotonic() > end:
                raise DemoError(f"{name} does not start: {self._last_words(name)}")
            time.sleep(LOOK)
        return found

    def _last_words(self, name: str) -> str:
        for file in (f"{name}.log", f"{name}.out"):
            if lines := (self._folder / file).read_text(errors="replace").strip().splitlines():
                return lines[-1]
        return "it says nothing"

    def end(self, name: str, number: signal.Signals) -> None:
        """Send it the signal, and wait until it has ended. Raises DemoError where it does not."""
        process = self._started.pop(name)
        process.send_signal(number)
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            self._started[name] = process
            raise DemoError(f"{name} does not end") from None

    def stop(self) -> None:
        """End all, and what they started. From here on no signal interrupts us."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it behind
        stop_all(self._folder)
        for process in self._started.values():
            process.wait(STOP)
        self._started.clear()


def stop_all(folder: Path) -> int:
    """End the brokers of any demo in `folder`, then the jobs they started. Returns how many processes there were."""
    brokers = set(_marked(folder))
    _end(brokers, lambda: _marked(folder))
    jobs = set(_supervisors(folder))  # nobody is left who could start another; each ends all that its job forked
    _end(jobs, lambda: _supervisors(folder))
    return len(brokers | jobs)


def _end(pids: set[int], left: Callable[[], Iterator[int]]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        end = time.monotonic() + STOP
        while (pids := set(left())) and time.monotonic() < end:
            time.sleep(LOOK)
        if not pids:
            return
    raise DemoError(f"processes {', '.join(map(str, sorted(pids)))} do not end")


def _marked(folder: Path) -> Iterator[int]:
    mark = f"{MARK}={folder}".encode()
    return (pid for pid in _pids() if mark in _read(pid, "environ").split(b"\0"))


def _supervisors(folder: Path) -> Iterator[int]:
    jobs = f"{folder}/jobs/".encode()
    for pid in _pids():
        words = _read(pid, "cmdline").split(b"\0")
        if b"adapters.local.supervisor" in words and any(word.startswith(jobs) for word in words):
            yield pid


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid())


def _read(pid: int, what: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{what}").read_bytes()
    except OSError:
        return b""
