"""Programs that tests start beside them, such as real servers: on a free port, waited for, and gone when the test is.

Imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

PORTS = range(19_000, 32_000)  # below those that the kernel hands out, so that a restart finds its port free
READY_WITHIN = 60.0  # seconds; a machine that runs other things at the same time is slow
ANSWERS_WITHIN = 30.0  # seconds for one call
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


def listens(port: int) -> bool:
    """Whether anybody does, at that port of 127.0.0.1."""
    with socket.socket() as tried:
        tried.settimeout(1.0)
        return tried.connect_ex(("127.0.0.1", port)) == 0


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


def wait_for(condition: Callable[[], bool], what: str, trouble: Callable[[], str] = str) -> None:
    """Returns when `condition` holds. AssertionError with `what` and `trouble()` when it does not in time."""
    end = time.monotonic() + READY_WITHIN
    while not condition():
        assert time.monotonic() < end, f"{what} not within {READY_WITHIN:g} s\n{trouble()}"
        time.sleep(0.02)


def answers(url: str, process: subprocess.Popen[bytes], log: Path, *, well: bool = False) -> None:
    """Returns when the process answers HTTP there; `well`: with success, else whatever it answers. AssertionError with
    its log when it does not in time, or ends before."""

    def up() -> bool:
        assert process.poll() is None, f"ended with {process.returncode}\n{told()}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWERS_WITHIN):  # noqa: S310  a test's own address
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return not well
        except (OSError, HTTPException):
            return False

    def told() -> str:
        return log.read_text(errors="replace")[-3000:]

    wait_for(up, f"{url} answers", told)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, and SIGKILL to what is left of it."""
    with process:
        _signal(process, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_WITHIN)
        _signal(process, signal.SIGKILL)


def interruptible() -> None:
    """As `preexec_fn`: Ctrl-C reaches the child, also where we were started in a background that has none."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
