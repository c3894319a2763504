"""Runs one job on the node that Slurm gave it: `python runner.pyz run FOLDER`, in the foreground of the batch script.
Imports the standard library and the local platform's supervisor, which imports no more.

The archive is put into the shared folder by folders.py; a node needs nothing of ours but it. Whoever first makes the
mark `taken` in the job's folder runs the job; everybody else leaves it alone, so a job that Slurm runs again (after a
crash of slurmctld, a failed node, or by an administrator's hand) does not run twice. No lock is needed: those of shared
file systems cannot be relied on from node to node.

Exit codes: 0 COMPLETED, 1 FAILED, 2 CANCELLED, 3 the job is not ours to run.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from adapters.local import delivering, layout, staging, supervisor
from adapters.local.layout import Spec, State

TAKEN = "taken"  # who has begun the run: Slurm's number of the job, and the node's name
CODES = {"COMPLETED": 0, "FAILED": 1, "CANCELLED": 2}
BUSY = 3


def take(folder: Path) -> tuple[Spec, State] | None:
    """Make the run ours. None: it has begun before, or never may."""
    spec = layout.read_spec(folder)
    if not mark(folder, f"{os.environ.get('SLURM_JOB_ID', '0')} {socket.gethostname()}"):
        return None
    (folder / layout.LOCK).touch(mode=0o600)  # its mtime is the pulse
    state = State("PREPARING", pid=os.getpid(), keep=spec.keep)
    layout.write_state(folder, state)
    return spec, state


def mark(folder: Path, words: str) -> bool:
    """Made by one alone, on NFS too (open(2), O_EXCL). False: somebody else has."""
    try:
        descriptor = os.open(folder / TAKEN, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(f"{words}\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def run(folder: Path) -> int:
    """Returns when nothing of the job lives any more."""
    os.umask(0o077)
    taken = take(folder)
    if taken is None:
        sys.stderr.write("this job has begun before; it runs once\n")
        return BUSY
    os.chdir("/")
    supervisor.supervise(folder, *taken)
    state = layout.read_state(folder)
    return CODES.get(state.phase if state else "", 1)


def main(arguments: list[str]) -> int:
    """Also of what the supervisor starts: staging and delivering, by these names."""
    part, *rest = arguments
    if part == "run":
        return run(Path(rest[0]))
    return {"staging": staging.main, "delivering": delivering.main}[part](rest)
