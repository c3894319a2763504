"""Results where a TES server has put them: listed and read. Imports the HTTP of adapters/common, the pieces of S3 of
adapters/data, what the local platform reads credentials and files with.

A name is a relative path below the session's own folder, and only such a name is ever asked for. What a server says of
where a file lies is not believed: the place is ours.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from yarl import URL

from adapters.common.http import Answer, Origin, failure
from adapters.common.sigv4 import Key
from adapters.data import listing
from adapters.data.listing import Unreadable
from adapters.data.s3 import PAGE_BYTES, authorized
from adapters.local.delivering import Credentials, DeliveryError
from adapters.local.outputs import MOST_FILES, PIECE, open_beneath
from adapters.tes.options import OutputOptions
from adapters.tes.translate import results_place
from adapters.tes.wire import OutputLog, Task
from broker.domain.deadline import Deadline
from broker.errors import SiteForbids, SiteForgot, SiteMisbehaved, SiteRefused, SiteTimeout
from broker.ports import Clock, Result

_ANY = {"Accept": "*/*"}
_LONGEST_NAME = 1024
_MOST_PAGES = 100  # of a list in S3


class Store(Protocol):
    async def listed(self, session: str, logged: Mapping[str, int], deadline: Deadline) -> Mapping[str, int]:
        """The session's results, name → bytes. `logged`: what the server's log says that it has written."""

    def read(self, session: str, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        """Raises SiteForgot where it is not there."""


def store(options: OutputOptions, http: aiohttp.ClientSession, clock: Clock) -> Store:
    match urlsplit(options.place).scheme:
        case "file":
            return _Files(options, clock)
        case "s3":
            return _Objects(options, http, clock)
    return _Web(options, http, clock)


def results(sizes: Mapping[str, int], to: str | None) -> tuple[Result, ...]:
    """`to`: where they were written as well."""
    below = f"{to.rstrip('/')}/" if to else ""
    return tuple(
        Result(name, size, url=f"{below}{quote(name)}" if to else None) for name, size in sorted(sizes.items())
    )


def logged(task: Task, folder: str) -> dict[str, int]:
    """The files below `folder` in the container, by what the last attempt says that it wrote. What has no fit name or
    no size is left out."""
    found: dict[str, int] = {}
    entries = (task.logs[-1].outputs if task.logs else None) or ()
    for entry in entries[: 2 * MOST_FILES]:  # twice, where they were written to a second place
        name, size = (entry.path or "").removeprefix(f"{folder}/"), _size(entry)
        if size is not None and name != entry.path and fit(name) and len(found) < MOST_FILES:
            found[name] = size
    return found


def fit(name: str) -> bool:
    """A relative path that leads nowhere else."""
    plain = 0 < len(name) <= _LONGEST_NAME and name.isprintable() and "\\" not in name
    return plain and not {"", ".", ".."} & set(name.split("/"))


def _size(entry: OutputLog) -> int | None:
    text = str(entry.size_bytes)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


class _Files:
    """On a file system that the broker shares. A program can put links there: none is followed."""

    def __init__(self, options: OutputOptions, clock: Clock) -> None:
        self._root, self._clock = Path(unquote(urlsplit(options.place).path)), clock

    async def listed(self, session: str, logged: Mapping[str, int], deadline: Deadline) -> Mapping[str, int]:
        return logged

    async def read(self, session: str, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        folder = results_place("", session).lstrip("/")
        try:
            async with asyncio.timeout(deadline.left(self._clock.monotonic())):
                file = await asyncio.to_thread(open_beneath, self._root, folder, name)
        except TimeoutError:
            raise SiteTimeout("the file system of the results did not answer in time.") from None
        except OSError:
            raise SiteForgot(f"the result {name!r} is not where it was written to.") from None
        try:
            while piece := await asyncio.to_thread(os.read, file, PIECE):
                yield piece
        finally:
            os.close(file)


class _Remote:
    """What http and S3 have in common. `base`: where the places of all sessions lie."""

    def __init__(self, options: OutputOptions, base: str, http: aiohttp.ClientSession, clock: Clock) -> None:
        self._options, self._base, self._clock = options, base.rstrip("/"), clock
        self._origin = Origin(http, str(URL(base).origin()), clock, cap_bytes=PAGE_BYTES)

    async def read(self, session: str, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        url = URL(f"{results_place(self._base, session)}/{quote(name, safe='/~')}", encoded=True)
        headers = await self._signed(url)
        try:
            async with aclosing(self._origin.stream(url, deadline=deadline, headers=headers)) as pieces:
                async for piece in pieces:
                    yield piece
        except SiteRefused as error:
            if error.status == 404:
                raise SiteForgot(f"the result {name!r} is not where it was written to.") from None
            raise

    async def _signed(self, url: URL) -> dict[str, str]:
        raise NotImplementedError

    async def _credentials(self) -> Credentials:
        try:
            return await asyncio.to_thread(Credentials, str(self._options.credentials_file or ""))
        except DeliveryError as error:
            raise SiteForbids(f"results: {error}") from None


class _Web(_Remote):
    def __init__(self, options: OutputOptions, http: aiohttp.ClientSession, clock: Clock) -> None:
        super().__init__(options, options.place, http, clock)

    async def listed(self, session: str, logged: Mapping[str, int], deadline: Deadline) -> Mapping[str, int]:
        return logged

    async def _signed(self, url: URL) -> dict[str, str]:
        return {**_ANY, **(await self._credentials()).authorization()}


class _Objects(_Remote):
    """S3 by path addressing. What lies there is asked of S3 itself."""

    def __init__(self, options: OutputOptions, http: aiohttp.ClientSession, clock: Clock) -> None:
        place = urlsplit(options.place)
        self._bucket = f"{options.endpoint.rstrip('/')}/{place.netloc}"
        self._prefix = unquote(place.path).strip("/")
        super().__init__(options, f"{self._bucket}/{quote(self._prefix)}", http, clock)

    async def listed(self, session: str, logged: Mapping[str, int], deadline: Deadline) -> Mapping[str, int]:
        prefix = results_place(self._prefix, session).lstrip("/") + "/"
        found: dict[str, int] = {}
        token: str | None = None
        for _ in range(_MOST_PAGES):
            page = await self._page(prefix, token, deadline)
            for entry in page.entries:
                name = entry.key.removeprefix(prefix)
                if name != entry.key and fit(name):
                    found[name] = entry.bytes
            token = page.more
            if token is None or len(found) >= MOST_FILES:
                break
        return dict(list(found.items())[:MOST_FILES])

    async def _page(self, prefix: str, token: str | None, deadline: Deadline) -> listing.Page:
        asked = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        asked |= {"continuation-token": token} if token else {}
        query = "&".join(f"{key}={quote(value, safe='~')}" for key, value in sorted(asked.items()))
        url = URL(f"{self._bucket}?{query}", encoded=True)
        answer = await self._origin.send("GET", url, headers=await self._signed(url), deadline=deadline)
        place = self._origin.place
        if answer.status != 200:
            plain = Answer(answer.status, answer.headers, listing.fault(answer.body).encode())
            raise failure(plain, place, self._clock.now())
        try:
            return listing.page(answer.body)
        except Unreadable as error:
            raise SiteMisbehaved(f"the list of the results at {place} cannot be read: {error}.") from None

    async def _signed(self, url: URL) -> dict[str, str]:
        key: Key | None = (await self._credentials()).key(self._options.region)
        return dict(_ANY) if key is None else authorized("GET", url, _ANY, key, self._clock.now())
