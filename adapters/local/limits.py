"""What a child of the supervisor may use, set between fork and exec, and CPU cores allotted among jobs. Imports the
standard library alone.

The kernel bounds each process here; what the processes of a job use together is watched by the supervisor.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from adapters.local.layout import Bounds
from adapters.local.processes import PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, prctl

CPU_SLACK = 60  # seconds: a run that keeps to its cores never meets RLIMIT_CPU before the wall-clock limit


def allot_cores(folder: Path, count: int) -> tuple[frozenset[int], list[int]]:
    """`count` of our cores that no other job has. Returned with the descriptors whose locks hold them, until they are
    closed, by whatever end. Empty: not enough are free, and the kernel shares out the time as it sees fit."""
    folder.mkdir(parents=True, exist_ok=True)
    cores: set[int] = set()
    held: list[int] = []
    for core in sorted(os.sched_getaffinity(0)):
        if len(cores) == count:
            break
        descriptor = os.open(folder / str(core), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            cores.add(core)
            held.append(descriptor)
    if len(cores) == count:
        return frozenset(cores), held
    for descriptor in held:
        os.close(descriptor)
    return frozenset(), []


def _kernel_limits(bounds: Bounds, seconds: float) -> dict[int, int]:
    cpu = math.ceil(seconds) * max(1, bounds.cores) + CPU_SLACK
    return {
        # Not RLIMIT_AS: it counts address space that threads, mapped files and accelerators reserve and never use.
        resource.RLIMIT_DATA: bounds.memory,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: bounds.disk,
        resource.RLIMIT_CORE: 0,
    }


def _lower(kind: int, value: int) -> None:
    soft, hard = resource.getrlimit(kind)
    lowest = min(limit for limit in (value, soft, hard) if limit != resource.RLIM_INFINITY)
    resource.setrlimit(kind, (lowest, lowest))  # hard too, or the program could raise it again


def restriction(bounds: Bounds, seconds: float, cores: frozenset[int]) -> Callable[[], None]:
    """What the child calls before exec: it dies with the supervisor, gains no privileges, keeps to its limits, and is
    the first to go when the machine runs out of memory."""
    parent = os.getpid()
    limits = _kernel_limits(bounds, seconds)

    def restrict() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it died before we asked to be told
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        for kind, value in limits.items():
            _lower(kind, value)
        os.nice(bounds.nice)
        if cores:
            os.sched_setaffinity(0, cores)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")

    return restrict
