"""What a run leaves: its logs while it writes them, and its result files. Imports the standard library alone.

Both are judged by what is really there: no symbolic link is followed, by whomever it was made.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

PIECE = 256 * 1024
MOST_FILES = 10_000  # results beyond these are not listed


class Log:
    """Keeps the end of a stream: when half of `most` bytes are written, the file becomes `<name>.1` and a new one
    begins. A full disk loses log lines, never the run."""

    def __init__(self, path: Path, most: int) -> None:
        self._path, self._half = path, max(1, most // 2)
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, piece: bytes) -> None:
        try:
            while piece:
                if self._size >= self._half:
                    self._turn()
                written = self._file.write(piece[: self._half - self._size]) or 0
                self._size += written
                piece = piece[written:]
        except OSError:
            return

    def _turn(self) -> None:
        self._file.close()
        self._path.replace(older(self._path))
        self._file, self._size = self._path.open("ab", buffering=0), 0

    def close(self) -> None:
        self._file.close()


def older(path: Path) -> Path:
    return path.with_name(path.name + ".1")


def tail(path: Path, most: int) -> bytes | None:
    """At most the last `most` bytes of a log; None: there is none. OSError: something else is in its place."""
    kept = b""
    for part in (path, older(path)):
        try:
            with os.fdopen(open_plain(part), "rb") as file:
                file.seek(-min(most - len(kept), os.fstat(file.fileno()).st_size), os.SEEK_END)
                kept = file.read(most - len(kept)) + kept
        except FileNotFoundError:
            if part is path:
                return None
    return kept


def used(folder: Path) -> int:
    """Bytes on disk below the folder; holes in sparse files do not count. Files that go meanwhile are left out."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:
                continue
    return total


def escaped(name: str) -> str:
    """A file's name as a path in a URL, whatever bytes it is made of."""
    return quote(os.fsencode(name), safe="/-._~")


def survey(folder: Path, root: str) -> tuple[list[dict[str, Any]], int]:
    """The plain files below `root` (relative to `folder`) by name, each with bytes and sha256, and the sum of all
    bytes. Nothing is found where the program has put a link in the place of `root`, or of a folder on the way."""
    found: list[dict[str, Any]] = []
    total = 0
    for name in sorted(_names(folder, root)):
        if len(found) == MOST_FILES:
            break
        try:
            entry = _measure(folder, root, name)
        except OSError:
            continue
        found.append(entry)
        total += entry["bytes"]
    return found, total


def _names(folder: Path, root: str) -> Iterator[str]:
    try:
        top = open_folder(folder, root.split("/"))
    except OSError:
        return
    try:
        for place, _, files, here in os.fwalk(".", dir_fd=top):
            for file in files:
                with suppress(OSError):
                    if stat.S_ISREG(os.stat(file, dir_fd=here, follow_symlinks=False).st_mode):
                        yield PurePosixPath(place, file).as_posix()
    finally:
        os.close(top)


def _measure(folder: Path, root: str, name: str) -> dict[str, Any]:
    summer = hashlib.sha256()
    count = 0
    with os.fdopen(open_beneath(folder, root, name), "rb", buffering=0) as file:
        while piece := file.read(PIECE):
            summer.update(piece)
            count += len(piece)
    return {"name": name, "bytes": count, "checksum": f"sha256:{summer.hexdigest()}"}


def open_beneath(folder: Path, root: str, name: str) -> int:
    """A descriptor of the plain file `name` (relative, POSIX) below `root`, itself relative to `folder`. Raises
    OSError for anything else: a name that leads out, a link anywhere on the way from `folder`, a folder, a device."""
    *above, last = name.split("/")
    if last in ("", ".", ".."):
        raise FileNotFoundError(name)
    place = open_folder(folder, [*root.split("/"), *above])
    try:
        return open_plain(last, place)
    finally:
        os.close(place)


def open_plain(name: str | Path, folder: int | None = None) -> int:
    """A descriptor of a plain file, to read; OSError for anything else, such as a link."""
    # Non-blocking: opening a pipe that somebody put here must not wait for its writer.
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise FileNotFoundError(name)
    return file


def open_folder(folder: Path, parts: Sequence[str]) -> int:
    """A descriptor of a folder below `folder`; OSError where a link lies on the way. A sandboxed program can move
    everything below `folder`, and we look at it from outside the sandbox."""
    if any(part in ("", ".", "..") for part in parts):
        raise FileNotFoundError("/".join(parts))
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for part in parts:
        try:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
        finally:
            os.close(place)
        place = below
    return place
