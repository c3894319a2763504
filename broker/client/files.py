"""One result file of a session: listed, fetched, checked. Imports errors and the connection."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Mapping
from contextlib import aclosing
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from yarl import URL

from broker.client.errors import Misanswered
from broker.client.http import Connection
from broker.domain.quantities import parse_instant
from broker.errors import BadInput

_PIECE = 2**20


class File:
    """`checksum` is `sha256:` and hexadecimal digits, where the broker knows it. `written_to`: the URL at which the
    site has put it, because the request asked for that."""

    def __init__(self, connection: Connection, folder: URL, entry: Mapping[str, Any]) -> None:
        """`folder`: the URL of the session's results. Raises Misanswered for an entry that is none."""
        self._connection = connection
        try:
            self.name = str(entry["name"])
            self.bytes = int(entry["bytes"])
            self.checksum: str | None = entry.get("checksum")
            self.kept_until: datetime | None = parse_instant(entry["kept_until"]) if entry.get("kept_until") else None
            self.written_to: str | None = str(entry["url"]) if entry.get("written") else None
        except (KeyError, TypeError, ValueError):
            raise Misanswered(f"{folder} lists something that is no file.") from None
        # Neither the listed URL nor the raw name is used: a site must not lead the caller's credentials elsewhere.
        self._url = folder.joinpath(*self.safe.parts)

    def __repr__(self) -> str:
        return f"File({self.name!r}, {self.bytes} bytes)"

    @property
    def safe(self) -> PurePosixPath:
        """The name as a relative path that cannot leave its folder, whatever the site calls its file."""
        steps = [step for step in PurePosixPath(self.name).parts if step not in ("/", "//", "..", ".")]
        return PurePosixPath(*steps) if steps else PurePosixPath("result")

    async def fetch(self, path: str | os.PathLike[str] | None = None, *, overwrite: bool = False) -> Path:
        """Write the file to `path` (default: its name under `results/`) and return where it is.

        It appears whole or not at all, its checksum compared. A file of the same content is left as it is. Raises
        BadInput where another file is in the way and `overwrite` is not set, Misanswered for other content than listed.
        """
        target = Path(path) if path is not None else Path("results") / self.safe
        if await asyncio.to_thread(target.is_dir):
            target = target / self.safe
        if not overwrite and await asyncio.to_thread(target.exists):
            if await asyncio.to_thread(self._same, target):
                return target
            raise BadInput(f"{target} is there already, and differs.", remedy="Name another place, or overwrite it.")
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            with await asyncio.to_thread(part.open, "wb") as file:
                await self._download(file)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    async def _download(self, file: IO[bytes]) -> None:
        digest, size = hashlib.sha256(), 0
        async with aclosing(self._connection.pieces(self._url)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(file.write, piece)
                digest.update(piece)
                size += len(piece)
        if size != self.bytes or self._differs(digest.hexdigest()):
            raise Misanswered(f"{self.name} came with other content than listed; nothing was kept.")

    def _differs(self, digest: str) -> bool:
        kind, _, wanted = (self.checksum or "").partition(":")
        return kind == "sha256" and wanted.lower() != digest

    def _same(self, path: Path) -> bool:
        if not path.is_file() or path.stat().st_size != self.bytes or not self.checksum:
            return False
        with path.open("rb") as file:
            return not self._differs(hashlib.file_digest(file, "sha256").hexdigest())
