"""What a run leaves, handed back: logs, results, their bytes. Imports the ports, the platform port, and this package;
of the local platform what opens files below a folder.

Outputs are read over HTTP from the server's own origin, or as files below the folders that the operator has named, and
of both only where the run's id is a step of the path: servers keep runs apart so, and an output's location is the
workflow's own word. What lies elsewhere is not handed out. Of a program, launch.py has written sizes and SHA-256 into a
manifest; of a workflow the engine's SHA-1 holds where it says one. Either is looked at again while the bytes go out.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec
from yarl import URL

from adapters.common.parallel import each
from adapters.local.outputs import PIECE, open_beneath
from adapters.planning.platform import Job
from adapters.wes import outputs, words
from adapters.wes.client import MOST_LOG, Wes, read_state
from adapters.wes.options import WesOptions
from adapters.wes.outputs import Output, plain
from adapters.wes.tool import MANIFEST, STDERR, STDOUT
from broker.domain.deadline import Deadline
from broker.domain.executables import Workflow
from broker.errors import SiteError, SiteForgot, SiteMisbehaved
from broker.ports import Logs, Result

_MANIFEST_BYTES = 8 * 1024**2
_TOGETHER = 8


class Beneath(NamedTuple):
    """A file below one of the operator's folders, by its path from there."""

    folder: Path
    name: str


class Found(NamedTuple):
    """One result."""

    name: str
    at: URL | Beneath
    bytes: int | None = None
    sha1: str = ""
    sha256: str = ""


class _Line(msgspec.Struct):
    name: str
    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


async def logs(wes: Wes, run: str, job: Job, options: WesOptions, deadline: Deadline) -> Logs:
    """A program's own, as far as the engine has them; else the engine's."""
    document = await wes.run(run, deadline)
    if not isinstance(job.request.executable, Workflow):
        left = _outputs(wes, run, document, options)
        out, err = left.get(STDOUT), left.get(STDERR)
        if out is not None and err is not None:
            return Logs(*[await _end_of(wes, found, deadline) for found in (out, err)])
    log = document.get("run_log")
    stdout, stderr = [await wes.text((log or {}).get(key), run, deadline) for key in ("stdout", "stderr")]
    if ended := words.ending(stderr or ""):
        return Logs(ended.stdout, ended.stderr)
    return Logs(stdout, words.plain(stderr) if stderr is not None else None)


async def results(wes: Wes, run: str, job: Job, options: WesOptions, deadline: Deadline) -> tuple[Result, ...]:
    """Of a run that has ended well; else none."""
    found = await _found(wes, run, job, options, deadline)

    async def measured(one: Found) -> Result | None:
        size = one.bytes if one.bytes is not None else await _size(wes, one, deadline)
        checksum = f"sha256:{one.sha256}" if one.sha256 else None
        return Result(one.name, size, checksum) if size is not None else None

    answers = await each(found.values(), measured, _TOGETHER)
    for answer in answers:
        if isinstance(answer, SiteError) and not isinstance(answer, SiteForgot):
            raise answer
    return tuple(answer for answer in answers if isinstance(answer, Result))


async def fetch(
    wes: Wes, run: str, job: Job, name: str, options: WesOptions, deadline: Deadline
) -> AsyncGenerator[bytes, None]:
    """Raises SiteMisbehaved at the end of what is not what it was said to be."""
    one = (await _found(wes, run, job, options, deadline)).get(name)
    if one is None:
        raise SiteForgot(f"the run has no result {name[:200]!r}.")
    count, sha1, sha256 = 0, hashlib.sha1(usedforsecurity=False), hashlib.sha256()
    async with aclosing(_pieces(wes, one, deadline)) as pieces:
        async for piece in pieces:
            count += len(piece)
            sha1.update(piece)
            sha256.update(piece)
            yield piece
    wrong = [
        one.bytes is not None and one.bytes != count,
        bool(one.sha1) and one.sha1 != sha1.hexdigest(),
        bool(one.sha256) and one.sha256 != sha256.hexdigest(),
    ]
    if any(wrong):
        raise SiteMisbehaved(f"the result {name!r} is not what the run has written.")


async def _found(wes: Wes, run: str, job: Job, options: WesOptions, deadline: Deadline) -> dict[str, Found]:
    document = await wes.run(run, deadline)
    if read_state(document.get("state")) != "COMPLETE":
        return {}
    left = _outputs(wes, run, document, options)
    if isinstance(job.request.executable, Workflow):
        return left
    return dict(await _of_program(wes, left, deadline))


async def _of_program(wes: Wes, left: Mapping[str, Found], deadline: Deadline) -> list[tuple[str, Found]]:
    manifest = left.get(MANIFEST)
    if manifest is None:
        return []
    body = b""
    async with aclosing(_pieces(wes, manifest, deadline)) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > _MANIFEST_BYTES:
                raise SiteMisbehaved("the list of the run's results is too long.")
    try:
        lines = msgspec.json.decode(body, type=list[_Line])
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise SiteMisbehaved("the list of the run's results cannot be read.") from None
    return [
        (line.name, left[of]._replace(name=line.name, bytes=line.bytes, sha256=line.sha256))
        for line in lines[: outputs.MOST]
        if plain(line.name) and (of := f"results/{line.name}") in left
    ]


def _outputs(wes: Wes, run: str, document: Mapping[str, Any], options: WesOptions) -> dict[str, Found]:
    """Those within reach, by name."""
    said = document.get("outputs")
    found = {}
    for name, output in outputs.read(said).items():
        at = wes.output(run, name) if isinstance(said, list) else _at(wes, run, output, options)
        if at is not None:
            found[name] = Found(name, at, output.bytes, output.sha1)
    return found


def _at(wes: Wes, run: str, output: Output, options: WesOptions) -> URL | Beneath | None:
    if (url := wes.address(output.location, run)) is not None:
        return url
    path = _path(output.location)
    if path is None or run not in path.parts:  # of another run, or nobody's: a workflow writes what it likes here
        return None
    for folder in options.outputs:
        if path != folder and path.is_relative_to(folder):
            return Beneath(folder, path.relative_to(folder).as_posix())
    return None


def _path(location: str) -> Path | None:
    try:
        parts = urlsplit(location)
    except ValueError:
        return None
    text = unquote(parts.path) if parts.scheme == "file" and parts.netloc in ("", "localhost") else location
    return Path(text) if text.startswith("/") and "\0" not in text else None


async def _size(wes: Wes, one: Found, deadline: Deadline) -> int | None:
    if isinstance(one.at, URL):
        return await wes.size(one.at, deadline)
    descriptor = await _open(one.at)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


async def _pieces(wes: Wes, one: Found, deadline: Deadline) -> AsyncGenerator[bytes, None]:
    if isinstance(one.at, URL):
        async with aclosing(wes.bytes_at(one.at, deadline)) as pieces:
            async for piece in pieces:
                yield piece
        return
    descriptor = await _open(one.at)
    try:
        while piece := await asyncio.to_thread(os.read, descriptor, PIECE):
            yield piece
    finally:
        os.close(descriptor)


async def _open(at: Beneath) -> int:
    """No link is followed below the folder, by whomever it was made: programs write there."""
    folder = at.folder.resolve()
    try:
        return await asyncio.to_thread(open_beneath, folder.parent, folder.name, at.name)
    except OSError:
        raise SiteForgot(f"the file of the result {at.name[:200]!r} is not to be read.") from None


async def _end_of(wes: Wes, one: Found, deadline: Deadline) -> str:
    if isinstance(one.at, Beneath):
        descriptor = await _open(one.at)
        try:
            start = max(0, os.fstat(descriptor).st_size - MOST_LOG)
            return (await asyncio.to_thread(os.pread, descriptor, MOST_LOG, start)).decode(errors="replace")
        finally:
            os.close(descriptor)
    kept = b""
    async with aclosing(_pieces(wes, one, deadline)) as pieces:
        async for piece in pieces:
            kept = (kept + piece)[-MOST_LOG:]
    return kept.decode(errors="replace")
