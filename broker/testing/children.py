"""Programs that tests start beside them, such as real servers: on a free port, and gone when the test is.

Imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

PORTS = range(19_000, 32_000)  # below those that the kernel hands out, so that a restart finds its port free
ENDS_WITHIN = 10.0  # seconds from SIGTERM to SIGKILL

# PR_SET_PDEATHSIG kills a child when the thread that made it ends. This one ends with the process.
_LAUNCHER = ThreadPoolExecutor(1, "launcher")
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """One of 127.0.0.1 that nobody listens on now."""
    for port in random.sample(PORTS, 200):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port on 127.0.0.1")


def launch(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """In this process's environment and folder, unless told otherwise. The head of a process group of its own, so that
    `end` reaches its children too. It is killed when this process ends, however that does; what it started itself must
    see to that."""
    with log.open("ab") as out:
        return _LAUNCHER.submit(
            subprocess.Popen,
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            cwd=cwd,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        ).result()


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, and SIGKILL to what is left of it."""
    with process:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_WITHIN)
        _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
