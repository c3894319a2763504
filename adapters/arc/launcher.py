"""What runs first on a node: lays out the data, runs the program, says what it has left.

It goes there as text, inside the job's description: it imports the standard library alone, and keeps to what Python 3.7
knows. It is given a plan (adapters/arc/translate.py) and works in the folder that it is started in, the job's own.

    .broker.run   there while the job is; the service removes it with whatever is no output when the job is over
    .broker.json  the results: name, bytes, SHA-256; written when the program has ended
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zlib
from typing import Any

MARK, LIST, PROGRAM, RESULTS = ".broker.run", ".broker.json", "program.py", "results"
WRONG, LATE, DROPPED = 113, 114, 143
TICK = 0.1  # seconds between two looks at what was asked, and at the time
TICKS = 10  # between two looks at the folder, which may lie on a disk that many share
GRACE = 10.0  # seconds from SIGTERM to SIGKILL
PIECE = 1 << 20  # bytes


class Wrong(Exception):
    """Its text is one sentence for the person whose job it is."""


def main(plan: dict[str, Any]) -> int:
    root, asked = os.getcwd(), []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: asked.append(number))
    open(MARK, "w").close()
    try:
        lay_out(root, plan)
    except (Wrong, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return WRONG
    code = DROPPED if asked else run(root, plan, asked)
    with open(LIST + ".new", "w", encoding="utf-8") as file:
        json.dump(survey(os.path.join(root, RESULTS)), file)
    os.rename(LIST + ".new", LIST)
    return code


# ── before ───────────────────────────────────────────────────────────────────────────────────────────────────────


def lay_out(root: str, plan: dict[str, Any]) -> None:
    for folder in ["data", RESULTS] + plan["storages"]:
        os.makedirs(os.path.join(root, folder), exist_ok=True)
    for item in plan["data"]:
        check(os.path.join(root, item["place"]), item)
    for path, source in plan["mounts"]:
        target = os.path.join(root, path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.path.join(root, source), target)
    if plan["source"] is not None:
        with open(os.path.join(root, PROGRAM), "w", encoding="utf-8", errors="replace", newline="") as file:
            file.write(plan["source"])


def check(path: str, item: dict[str, Any]) -> None:
    """Raises Wrong where a datum is not what was stated."""
    name, stated, sums = item["name"], item["bytes"], item["checksum"]
    if not os.path.isfile(path):
        raise Wrong(f"{name} was not brought in")
    size = os.path.getsize(path)
    if stated is not None and size != stated:
        raise Wrong(f"{name} has {size} bytes, {stated} were stated")
    if sums is not None:
        found = checksum(path, sums[0])
        if found != sums[1].lower():
            raise Wrong(f"{name} has the {sums[0]} {found}, {sums[1]} was stated")
    if os.path.islink(path):  # into a cache that others share
        if not item["readonly"]:
            shutil.copyfile(path, path + ".new")
            os.rename(path + ".new", path)
    elif item["readonly"]:
        with contextlib.suppress(OSError):  # it is somebody else's: nor can the program write to it
            os.chmod(path, 0o444)


def checksum(path: str, kind: str) -> str:
    digest, adler = (None, 1) if kind == "adler32" else (hashlib.new(kind), 1)
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            if digest is None:
                adler = zlib.adler32(piece, adler)
            else:
                digest.update(piece)
    return f"{adler:08x}" if digest is None else digest.hexdigest()


# ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────────


def run(root: str, plan: dict[str, Any], asked: list[int]) -> int:
    """The exit code as a shell would say it. `asked`: the signals that came; they end the program."""
    environment = dict(os.environ)
    environment.update(plan["defaults"])
    environment.update(plan["environment"])
    environment.update((name, root + place) for name, place in plan["places"].items())
    child = subprocess.Popen(  # noqa: S603  to run what users send is what this is for
        [sys.executable, "-u", PROGRAM] + plan["arguments"],
        stdin=subprocess.DEVNULL,
        cwd=root,
        env=environment,
        preexec_fn=os.setpgrp,  # a group of its own, so that all of it can be ended
    )
    code = watch(child, time.monotonic() + plan["seconds"], plan["seconds"], asked)
    end(child)
    return code if code >= 0 else 128 - code


def watch(child: subprocess.Popen[bytes], until: float, seconds: float, asked: list[int]) -> int:
    # Not every back-end of ARC ends the processes of a job that is killed; but the job's folder is cleared.
    while os.path.exists(MARK):
        for _ in range(TICKS):
            try:
                return child.wait(TICK)
            except subprocess.TimeoutExpired:
                pass
            if asked:
                return DROPPED
            if time.monotonic() >= until:
                sys.stderr.write(f"time limit: the program did not end within {seconds:g} s\n")
                return LATE
    return DROPPED


def end(child: subprocess.Popen[bytes]) -> None:
    """The program, and what it has started: asked first, then forced."""
    until = time.monotonic() + GRACE
    if send(child.pid, signal.SIGTERM):
        while time.monotonic() < until and send(child.pid, 0):
            child.poll()
            time.sleep(0.02)
        send(child.pid, signal.SIGKILL)
    child.wait()


def send(group: int, number: int) -> bool:
    """Whether there is anything left of it."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


# ── after ────────────────────────────────────────────────────────────────────────────────────────────────────────


def survey(top: str) -> list[list[Any]]:
    """Regular files alone: a link may lead anywhere."""
    found = []
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            told = os.path.relpath(path, top).replace(os.sep, "/")
            if stat.S_ISREG(os.lstat(path).st_mode) and fit(told):
                found.append([told, os.path.getsize(path), checksum(path, "sha256")])
    return sorted(found)


def fit(name: str) -> bool:
    """A name that is no text cannot be asked for."""
    try:
        name.encode("utf-8")
    except UnicodeError:
        return False
    return True
