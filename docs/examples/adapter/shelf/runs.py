"""One folder for each job, and one lock that says whether it runs. Imports the standard library.

    <folder>/<session uuid>/
        door        held for a moment by whoever looks or acts, so that one does at a time
        alive       held by the run, and by every process that inherited it, for as long as one of them lives
        begun       a run was begun, or ended before it could be; never taken away
        cancelled   somebody asked for the end
        pid         of the run, which leads a process group of its own; its mtime is the beginning
        exit        the tool's exit code; its mtime is the end
        stdout stderr work/ work/results/

A process that dies anywhere in here leaves a folder from which the next one reads what is so.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

# The run writes down its own beginning and end: whoever started it may be gone by then. It looks for `cancelled` after
# it has written its pid, and whoever cancels looks for the pid after that, so that one of them sees the other.
WRAPPER = """
echo $$ > ../pid.new && mv ../pid.new ../pid
[ -e ../cancelled ] && exit
"$@" > ../stdout 2> ../stderr
echo $? > ../exit.new && mv ../exit.new ../exit
"""


class Run:
    """All of this waits for no more than a moment, on this machine's disk: call it in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.results = self.work / "results"

    def begin(self, command: Sequence[str]) -> None:
        """Run it, unless it was begun, or ended, before. Raises OSError."""
        self.results.mkdir(parents=True, exist_ok=True)
        with self._door():
            if self.has("begun"):
                return
            (self.folder / "begun").touch()
            alive = os.open(self.folder / "alive", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(alive, fcntl.LOCK_EX)
                subprocess.Popen(
                    ["/bin/sh", "-c", WRAPPER, "sh", *command],
                    cwd=self.work,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                    pass_fds=[alive],
                )
            finally:
                os.close(alive)  # the run has it too, and keeps it

    def end(self) -> None:
        """End it, or see that it never begins. What is over stays as it was. Raises OSError."""
        self.results.mkdir(parents=True, exist_ok=True)
        with self._door():
            if not self.has("begun"):
                (self.folder / "cancelled").touch()
                (self.folder / "begun").touch()
            elif self._alive():
                (self.folder / "cancelled").touch()
                self._kill()

    def alive(self) -> bool:
        with self._door():
            return self._alive()

    def has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def text(self, name: str) -> str:
        """What a small file holds; empty where there is none."""
        try:
            return (self.folder / name).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def written(self, name: str) -> float | None:
        try:
            return (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def _kill(self) -> None:
        pid = self.text("pid").strip()
        if pid:
            # While something of the run lives, the number of its process group is no stranger's.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGKILL)

    def _alive(self) -> bool:
        try:
            descriptor = os.open(self.folder / "alive", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextlib.contextmanager
    def _door(self) -> Iterator[None]:
        descriptor = os.open(self.folder / "door", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
