"""What goes to and comes from an engine in streams: tar archives both ways, and logs in frames. Imports the standard
library, errors, and this package's translation.

Archives: POSIX.1-2001 pax and GNU, as Go's archive/tar writes them. Frames: Engine API 1.41, ContainerAttach, "Stream
format". Nothing is held but a piece at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import tarfile
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import NamedTuple

from adapters.common.http import ConnectionLost
from adapters.containers.translate import Entry
from broker.errors import SiteError, SiteMisbehaved, SiteRefused

PIECE = 256 * 1024
MOST_FILES = 10_000  # results beyond these are not listed
_MOST_EXTENDED = 1024 * 1024  # bytes of a header that goes before another
_BLOCK = tarfile.BLOCKSIZE
_BARE = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE)
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


# ── to the engine ────────────────────────────────────────────────────────────────────────────────────────────────


async def tar(entries: Iterable[Entry], store: Path, when: float) -> AsyncIterator[bytes]:
    """An archive of what goes into a container. Raises OSError where a staged file cannot be read."""
    for entry in entries:
        info = tarfile.TarInfo(entry.path)
        info.mode, info.mtime = entry.mode, int(when)
        if entry.file is not None:
            async for piece in _file(info, store / entry.file):
                yield piece
        elif entry.text is not None:
            info.size = len(entry.text)
            yield _header(info) + entry.text + _padding(info.size)
        else:
            info.type, info.linkname = (tarfile.SYMTYPE, entry.link) if entry.link else (tarfile.DIRTYPE, "")
            yield _header(info)
    yield b"\0" * 2 * _BLOCK


async def _file(info: tarfile.TarInfo, path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        info.size = left = (await asyncio.to_thread(path.stat)).st_size
        yield _header(info)
        while left and (piece := await asyncio.to_thread(file.read, min(PIECE, left))):
            left -= len(piece)
            yield piece
    if left:
        raise OSError(f"{path} has become shorter")
    yield _padding(info.size)


def _header(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)


# ── from the engine ──────────────────────────────────────────────────────────────────────────────────────────────


class Archive:
    """A tar as it comes: `next`, and then `read` until it is empty, or `next` again."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._buffer = b""
        self._left = self._pad = 0

    async def next(self) -> tarfile.TarInfo | None:
        """The next member; None: there is none. Raises SiteMisbehaved for what is no archive."""
        extended: dict[str, str] = {}
        while True:
            while await self.read():
                pass
            await self._exactly(self._pad)
            block = await self._exactly(_BLOCK)
            if not block.strip(b"\0"):
                return None
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                raise SiteMisbehaved("what came from the container engine is no archive.") from None
            self._expect(0 if info.type in _BARE else info.size)
            if info.type not in _EXTENDED:
                return self._named(info, extended)
            extended |= await self._extended(info)

    async def read(self) -> bytes:
        """Some of the present member's bytes; empty: that was all."""
        if not self._left:
            return b""
        if not self._buffer and not await self._more():
            raise _cut_off()
        piece, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(piece)
        return piece

    def _expect(self, size: int) -> None:
        self._left, self._pad = size, -size % _BLOCK

    def _named(self, info: tarfile.TarInfo, extended: dict[str, str]) -> tarfile.TarInfo:
        info.name, info.linkname = extended.get("path", info.name), extended.get("linkpath", info.linkname)
        if extended.get("size", "").isdigit():
            info.size = int(extended["size"])
            self._expect(info.size)
        return info

    async def _extended(self, info: tarfile.TarInfo) -> dict[str, str]:
        if info.size > _MOST_EXTENDED:
            raise SiteMisbehaved("the container engine sent an archive with a header beyond all bounds.")
        text = b""
        while piece := await self.read():
            text += piece
        if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            name = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
            return {"path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath": name}
        return _records(text) if info.type == tarfile.XHDTYPE else {}

    async def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not await self._more():
                raise _cut_off()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    async def _more(self) -> bool:
        piece = await anext(self._pieces, b"")
        self._buffer += piece
        return bool(piece)


def _cut_off() -> SiteError:
    return ConnectionLost("what came from the container engine broke off.")


def _records(text: bytes) -> dict[str, str]:
    """Of a pax header: `length key=value` and a line's end, the length that of the whole."""
    found = {}
    while text:
        count, space, _ = text.partition(b" ")
        if not space or not count.isdigit() or not len(count) + 1 < int(count[:9]) <= len(text):
            raise SiteMisbehaved("the container engine sent an archive whose header cannot be read.")
        record, text = text[len(count) + 1 : int(count) - 1], text[int(count) :]
        key, _, value = record.partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
    return found


class File(NamedTuple):
    """A result. `name` is relative to the folder of results; `checksum` a sha256."""

    name: str
    bytes: int
    checksum: str


async def survey(pieces: AsyncIterator[bytes], most: int) -> tuple[File, ...]:
    """The plain files of an archive of one folder, by name. No link is followed but a hard one, which is a file.

    Raises SiteRefused above `most` bytes.
    """
    archive, found, total = Archive(pieces), dict[str, File](), 0
    while (info := await archive.next()) is not None and len(found) < MOST_FILES:
        name = _within(info.name)
        if name is None:
            continue
        if info.islnk() and (same := found.get(_within(info.linkname) or "")) is not None:
            found[name] = same._replace(name=name)
        elif info.isreg():
            total += info.size
            if total > most:
                raise SiteRefused(f"the results are more than {most} bytes, the most that this site hands out.")
            found[name] = File(name, info.size, await _sum(archive))
    return tuple(found[name] for name in sorted(found))


async def _sum(archive: Archive) -> str:
    summer = hashlib.sha256()
    while piece := await archive.read():
        summer.update(piece)
    return summer.hexdigest()


def _within(name: str) -> str | None:
    """`results/a/b` → `a/b`; None: the folder itself, or nothing below it."""
    top, _, below = name.removeprefix("./").partition("/")
    return below if not {"", ".", ".."} & {top, *below.split("/")} else None


async def single(pieces: AsyncIterator[bytes]) -> Archive:
    """An archive of one file, to `read` it from."""
    archive = Archive(pieces)
    info = await archive.next()
    if info is None or not info.isreg():
        raise SiteMisbehaved("the container engine sent something else than the file that it was asked for.")
    return archive


async def logs(pieces: AsyncIterator[bytes], most: int) -> tuple[bytes, bytes]:
    """The last `most` bytes of stdout and of stderr."""
    ends, buffer, kind, left = (bytearray(), bytearray()), b"", 0, 0
    async for piece in pieces:
        buffer += piece
        while buffer and (left or len(buffer) >= 8):
            if not left:
                kind, left, buffer = buffer[0], int.from_bytes(buffer[4:8], "big"), buffer[8:]
            part, buffer = buffer[:left], buffer[left:]
            left -= len(part)
            end = ends[1 if kind == 2 else 0]
            end += part
            del end[: max(0, len(end) - most)]
    return bytes(ends[0]), bytes(ends[1])


def text(log: bytes, most: int) -> str:
    """At most `most` bytes of UTF-8: what stands for bytes that are no text is longer than they were."""
    return log.decode(errors="replace").encode()[-most:].decode(errors="ignore")
