"""The processes of a job, found by way of /proc and ended with all their children. Imports the standard library alone.

Linux alone: it rests on /proc and on the sub-reaper. Under a living supervisor, which is the sub-reaper, every process
of a job is its descendant, whatever it forked, and whatever session it made for itself. After a killed supervisor
the marker in the environment and the working folder tell a job's processes from others.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from adapters.local.layout import MARKER

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

_PAGE = os.sysconf("SC_PAGE_SIZE")


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _parent(pid: int) -> int | None:
    """None: gone, or dead and only waiting to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The name may hold anything, brackets and spaces too; the fields follow its last bracket.
    state, parent = text[text.rindex(b")") + 2 :].split()[:2]
    return None if state in (b"Z", b"X") else int(parent)


def descendants(root: int) -> set[int]:
    """All living processes below `root`, itself excepted."""
    children: dict[int, list[int]] = {}
    for pid in _pids():
        parent = _parent(pid)
        if parent is not None:
            children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    open_ = [root]
    while open_:
        below = children.get(open_.pop(), [])
        found.update(below)
        open_.extend(below)
    return found


def marked(session: str, folder: Path) -> set[int]:
    """Living processes of a job whose supervisor is gone: by the marker in their environment, or by a working folder
    inside the job's. A process that wiped the first and left the second is not found."""
    mark = f"{MARKER}={session}".encode()
    inside = str(folder.resolve())
    return {
        pid
        for pid in _pids()
        if pid != os.getpid() and _parent(pid) is not None and (_carries(pid, mark) or _works_in(pid, inside))
    }


def _carries(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _works_in(pid: int, folder: str) -> bool:
    try:
        place = os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return False
    return place == folder or place.startswith(folder + "/")


def send(pids: Iterable[int], number: int) -> None:
    """To each that still lives and is ours."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def kill_marked(session: str, folder: Path, patience: float = 10.0) -> bool:
    """Kills what a dead supervisor left behind. False: something still lives after `patience` seconds."""
    end = time.monotonic() + patience
    while left := marked(session, folder):
        send(left, signal.SIGKILL)
        if time.monotonic() > end:
            return False
        time.sleep(0.01)  # a killed process needs the kernel to take it down
    return True


def tell(pid: int, number: int, holds: Callable[[], int | None]) -> None:
    """Signal the process that `holds` a lock. The pid cannot have passed to another in between: the descriptor is
    opened first, and then the lock is looked at again."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if holds() == pid:
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)


def memory(pids: Iterable[int], worth: int) -> int:
    """Bytes that the processes hold together. Shared pages are counted once for each (fast), unless that comes above
    `worth`: then each page is shared out among its users (slow and right)."""
    pids = tuple(pids)
    rough = sum(_resident(pid) for pid in pids)
    return rough if rough <= worth else sum(_share(pid) for pid in pids)


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _share(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return 0
    return 0
