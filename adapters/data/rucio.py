"""The replica catalogue Rucio: sizes and places of files, datasets and containers, by its REST interface.

Imports its log-in, the HTTP of adapters.common, the domain's data resources and what is located. Entry point `rucio`
of the group broker.catalogues.

Rucio leaves a file without a readable copy out of what it says of a dataset, and counts a file twice that lies in two
datasets of a container. So its list of replicas is held against its list of files: what has no place still counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from adapters.common.http import Origin
from adapters.data.rucio_login import Login, sign_in
from broker.domain.addresses import bare
from broker.domain.data import AbstractDataResource, RucioDataResource, SkaoDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, Replica, condense, total
from broker.errors import SiteError, SiteForbids, SiteForgot, SiteMisbehaved, SiteRefused, SiteTimeout
from broker.plugins import CataloguePlugin, CatalogueResources
from broker.ports import Clock

MOST_BYTES = 256 * 1024 * 1024  # of one list; a file takes some hundred bytes for each of its copies
LONGEST_LINE = 1024 * 1024  # bytes
LARGEST = 10**18  # bytes; beyond it there is a mistake
_AVAILABLE = "AVAILABLE"
_RESERVE = 1.0  # seconds, or a fifth of the time, kept from the long list for what it leaves open
_CHUNK = 1000  # files that are taken in before others have their turn
_LONGEST_URL = 2000

# More than Rucio's own schemata allow, and nothing that could lead out of an address.
_SCOPE = re.compile(r"[A-Za-z0-9_.\-]{1,100}")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,500}")
_STORAGE = re.compile(r"[A-Za-z0-9_.\-]{1,200}")
_CHECKSUMS = {"md5": re.compile(r"[0-9a-fA-F]{32}"), "adler32": re.compile(r"[0-9a-fA-F]{8}")}


class RucioOptions(BaseModel):
    """Options of a catalogue of kind `rucio`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    account: str = Field("", description="the account of Rucio that is asked for; else the name's default account")
    auth_url: str | None = Field(None, description="where to sign in, where that is not the catalogue's address")
    most_files: int = Field(
        100_000, ge=1, le=10_000_000, description="files of one data resource that are read; the rest has no place"
    )


class Did(NamedTuple):
    """How Rucio names data: a file, a dataset of files, a container of datasets."""

    scope: str
    name: str

    def __str__(self) -> str:
        return f"{self.scope}:{self.name}"


class _File(msgspec.Struct):
    """A line of a list. What may be missing or wrong without harm to the rest is looked at one by one."""

    scope: str
    name: str
    bytes: Any = None
    md5: Any = None
    adler32: Any = None
    pfns: Any = None
    states: Any = None


class _Held(msgspec.Struct):
    """What Rucio says of a name by itself. `length`: files, those in several datasets counted as often."""

    type: str
    bytes: Any = None
    length: Any = None


_file = msgspec.json.Decoder(_File)
_held = msgspec.json.Decoder(_Held)


class Rucio:
    """Keeps nothing but its log-in."""

    def __init__(self, origin: Origin, login: Login, clock: Clock, most_files: int) -> None:
        self._origin, self._login, self._clock, self._most = origin, login, clock, most_files

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        match resource:
            case RucioDataResource(rucio=block) if block is not None and self._ours(block.endpoint):
                return _did(block.scope, block.object)
            case SkaoDataResource(skao=block) if block is not None:
                return _did(block.namespace, block.objectname)
        return None

    async def locate(self, name: str, deadline: Deadline) -> Located:
        did = Did(*name.split(":", 1))
        found = _Listing(did, self._most)
        question = msgspec.json.encode({"dids": [{"scope": did.scope, "name": did.name}], "domain": "all"})
        left = deadline.left(self._clock.monotonic())
        try:
            url = self._origin.at("replicas", "list")
            await self._read(found.placed, "POST", url, deadline.less(min(_RESERVE, left / 5)), question)
        except SiteTimeout:
            if not found.count:
                raise
            found.cut = True  # it answers, and there is too much of it
        return found.itself or await self._collected(did, found, deadline)

    async def close(self) -> None:
        await self._login.close()

    def _ours(self, endpoint: str | None) -> bool:
        try:
            return not endpoint or _address(URL(endpoint)) == _address(self._origin.base)
        except ValueError:
            return False

    async def _collected(self, did: Did, found: _Listing, deadline: Deadline) -> Located:
        """Of a dataset or a container. Raises SiteForgot where there is no such thing, or nothing in it."""
        held = await self._held(did, deadline)
        if held.type == "FILE":  # no list of a file's replicas leaves out the file: what it said is of others
            return Located((Portion(_size(held.bytes) or None),))
        files = _size(held.length)
        whole = not (found.cut or found.overfull)
        if whole and (files is None or files > found.count):
            await self._read(found.unplaced, "GET", self._at(did, "files"), deadline)
        if found.cut or found.overfull:
            return found.with_rest(files, _size(held.bytes), exact=held.type == "DATASET")
        if not found.count:
            raise SiteForgot(f"{self._origin.place} knows {did}, but no file in it.")
        return found.all()

    async def _held(self, did: Did, deadline: Deadline) -> _Held:
        url = self._at(did).with_query(dynamic_depth="FILE")  # else what was so when the dataset was closed
        body = bytearray()
        try:
            async with aclosing(self._pieces("GET", url, deadline)) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > LONGEST_LINE:
                        raise SiteMisbehaved(f"{self._origin.place} says of {did} more than {LONGEST_LINE} bytes.")
            return _held.decode(body)
        except SiteRefused as error:
            if error.status == 404:
                raise SiteForgot(f"{self._origin.place} knows no {did}.") from None
            raise
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            raise SiteMisbehaved(f"{self._origin.place} says of {did} what cannot be read.") from None

    def _at(self, did: Did, *more: str) -> URL:
        """Rucio takes the names apart by itself: a slash in one is no step of the path."""
        path = "/".join(quote(part, safe="") for part in ("dids", did.scope, did.name, *more))
        return URL(f"{str(self._origin.base).rstrip('/')}/{path}", encoded=True)

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(
        self, take: Callable[[_File], bool], method: str, url: URL, deadline: Deadline, body: bytes | None = None
    ) -> None:
        """A list, file by file, to its end or until `take` wants no more."""
        place, count = self._origin.place, 0
        async with (
            aclosing(self._pieces(method, url, deadline, body)) as pieces,
            aclosing(_lines(pieces, place)) as lines,
        ):
            async for line in lines:
                count += 1
                if not take(_parsed(line, count, place)):
                    return
                if count % _CHUNK == 0:
                    await asyncio.sleep(0)

    async def _pieces(
        self, method: str, url: URL, deadline: Deadline, body: bytes | None = None
    ) -> AsyncGenerator[bytes, None]:
        """An answer with 200, as it comes in. Where our token is no longer taken, we sign in once more."""
        for last in (False, True):
            token = await self._login.token(deadline)
            headers = {"X-Rucio-Auth-Token": token, "Accept": "application/x-json-stream, application/json"}
            answer = self._origin.stream(url, deadline=deadline, headers=headers, method=method, body=body)
            try:
                async with aclosing(answer):
                    async for piece in answer:
                        yield piece
                return
            except SiteForbids:
                if last or not self._login.ended(token):
                    place = self._origin.place
                    raise SiteForbids(f"{place} does not take our token, or its account may not read there.") from None
            except SiteError as error:
                raise self._login.hidden(error) from None


async def _lines(pieces: AsyncIterator[bytes], place: str) -> AsyncGenerator[bytes, None]:
    """Raises SiteMisbehaved where one, or all of them, are longer than anybody needs."""
    size, rest = 0, bytearray()
    async for piece in pieces:
        size += len(piece)
        rest += piece
        if b"\n" in piece:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if line.strip():
                    yield bytes(line)
        if len(rest) > LONGEST_LINE or size > MOST_BYTES:
            raise SiteMisbehaved(f"{place} gave a list that is too long, or a line of more than {LONGEST_LINE} bytes.")
    if rest.strip():
        yield bytes(rest)


def _parsed(line: bytes, number: int, place: str) -> _File:
    try:
        return _file.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise SiteMisbehaved(f"{place}: line {number} of its list says of no file what Rucio says.") from None


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────


class _Listing:
    """The files of one data resource, as lines come in. `cut`: they did not all come in time; `overfull`: there are
    more than are read. `itself`: the data resource is a file, and this is all of it."""

    def __init__(self, did: Did, most: int) -> None:
        self.itself: Located | None = None
        self.cut = self.overfull = False
        self._did, self._most = did, most
        self._seen: set[tuple[str, str]] = set()
        self._portions: list[Portion] = []

    @property
    def count(self) -> int:
        return len(self._seen)

    def placed(self, file: _File) -> bool:
        """From a list of replicas. False: no more is wanted."""
        portion = Portion(_size(file.bytes), _replicas(file))
        if (file.scope, file.name) == self._did:
            self.itself = Located(condense((portion,)), _checksum(file))
            return False
        return self._add(file, portion)

    def unplaced(self, file: _File) -> bool:
        """From a list of files, those that have no place yet. False: no more is wanted."""
        return self._add(file, Portion(_size(file.bytes)))

    def all(self) -> Located:
        return Located(condense(self._portions))

    def with_rest(self, files: int | None, size: int | None, *, exact: bool) -> Located:
        """With what was not read, in places that nobody knows, by how many files there are and how large together."""
        found = self.all()
        known, more = total(found.portions), max(0, (files or 0) - self.count)
        if files is not None and not more and not self.overfull:
            return found  # all had come, but the end
        rest = None if size is None or known is None or size < known else size - known
        return Located(condense((*found.portions, Portion(rest, (), more or 1))), estimated=not exact)

    def _add(self, file: _File, portion: Portion) -> bool:
        key = (file.scope, file.name)
        if key in self._seen:
            return True
        if len(self._seen) >= self._most:
            self.overfull = True
            return False
        self._seen.add(key)
        self._portions.append(portion)
        if len(self._portions) >= _CHUNK:
            self._portions = list(condense(self._portions))
        return True


def _size(value: Any) -> int | None:
    """Bytes, or a count."""
    return value if type(value) is int and 0 <= value <= LARGEST else None


def _checksum(file: _File) -> tuple[str, str] | None:
    for kind, value in (("md5", file.md5), ("adler32", file.adler32)):
        if isinstance(value, str) and _CHECKSUMS[kind].fullmatch(value):
            return kind, value.lower()
    return None


def _replicas(file: _File) -> tuple[Replica, ...]:
    """The copies that can be read: AVAILABLE ones, with an address. Of several addresses of one storage, that for
    anybody (`wan`), and which Rucio prefers."""
    states = file.states if isinstance(file.states, dict) else {}
    best: dict[str, tuple[tuple[bool, float], Replica]] = {}
    for address, said in file.pfns.items() if isinstance(file.pfns, dict) else ():
        replica = _replica(address, said)
        if replica is None or replica.storage is None or states.get(replica.storage, _AVAILABLE) != _AVAILABLE:
            continue
        priority = _size(said.get("priority"))
        order = (said.get("domain") != "wan", LARGEST if priority is None else priority)
        if replica.storage not in best or order < best[replica.storage][0]:
            best[replica.storage] = (order, replica)
    return tuple(replica for _, replica in best.values())


def _replica(address: str, said: Any) -> Replica | None:
    storage = said.get("rse") if isinstance(said, dict) else None
    url = _plain(address)
    if url is None or not isinstance(storage, str) or not _STORAGE.fullmatch(storage):
        return None
    return Replica(storage, url, said.get("type") == "TAPE")


def _plain(address: str) -> str | None:
    """Without what may stand for a permission: Rucio signs addresses for accounts that may have them, ours among them,
    and what we say of data is read by all. None: no address."""
    if len(address) > _LONGEST_URL or not address.isprintable():
        return None
    try:
        parts = urlsplit(bare(address))
    except ValueError:
        return None
    return parts.geturl() if parts.scheme and parts.netloc else None


def _address(url: URL) -> tuple[str | None, ...]:
    return url.scheme, url.host, str(url.port), url.path.rstrip("/")


def _did(scope: str | None, name: str | None) -> str | None:
    """None: no name that Rucio could know."""
    if not scope or not name or not _SCOPE.fullmatch(scope) or not _NAME.fullmatch(name):
        return None
    steps = {scope, *name.split("/")}
    return None if steps & {".", ".."} else str(Did(scope, name))


def _make(options: RucioOptions, resources: CatalogueResources) -> Rucio:
    origin = Origin(resources.http, resources.url, resources.clock)
    login = sign_in(options.account, options.auth_url, origin, resources)
    return Rucio(origin, login, resources.clock, options.most_files)


plugin = CataloguePlugin(options=RucioOptions, make=_make, trust=10, places=True, sizes=True)
