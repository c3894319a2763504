"""Sizes by HTTP: what a server says of a file at an address, without fetching it. Imports aiohttp, the ports' errors.

HEAD, and where that tells nothing the file's first byte, whose Content-Range tells the size of the whole. No body is
ever read, and no credentials are ever sent. What one host does says nothing of the next: whatever goes wrong there is
"nothing is known of this address", and a host that keeps us waiting is left alone for a while.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Literal
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from adapters.common.http import Answer, Origin
from adapters.data import sizes
from adapters.data.reach import PublicReach, strict
from broker.domain.addresses import public
from broker.domain.data import (
    AbstractDataResource,
    RucioDataResource,
    S3DataResource,
    SkaoDataResource,
)
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion
from broker.errors import NotAsked, SiteError, SiteForbids, SiteForgot, SiteMisbehaved, SiteRefused, SiteTimeout
from broker.plugins import CataloguePlugin, CatalogueResources
from broker.ports import Clock

REDIRECTS = 5
_MOVED = (301, 302, 303, 307, 308)
_GONE = (404, 410)
_LONGEST_ADDRESS = 4096  # characters
_PLAIN = {"Accept": "*/*", "Accept-Encoding": "identity"}
_FIRST_BYTE = {**_PLAIN, "Range": "bytes=0-0"}
_MARGIN = 0.2  # of the time: we end before whoever waits for us, who would take a host's delay for the catalogue's
_PAGES = ("text/html", "application/xhtml+xml")


class HttpOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    reach: Literal["declared", "public"] = Field(
        "declared",
        description="which hosts are asked: declared: those of storages that are declared; public: any public one too",
    )
    hosts: tuple[str, ...] = Field(
        (),
        description="hosts that are asked besides: `host`, `*.domain`; with `:port` where it is not the scheme's own",
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = Field(
        (80, 443, 8080, 8443), description="with reach public: the ports of hosts that nobody here has named"
    )


class Quiet:
    """Hosts that did not answer in time, or not at all, `MOST` times in a row: they are left alone for `PAUSE` seconds.
    One request may name hundreds of files of one host, each of which would wait as long as it may."""

    MOST, PAUSE, KEPT = 3, 30.0, 1000

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()  # host → failures in a row, the last one

    def check(self, place: str) -> None:
        """Raises NotAsked."""
        failures, last = self._failures.get(place, (0, 0.0))
        left = last + self.PAUSE - self._clock.monotonic()
        if failures >= self.MOST and left > 0:
            raise NotAsked(f"not asked: {place} did not answer {failures} times in a row; again in {left:.0f} s.")

    def answered(self, place: str) -> None:
        self._failures.pop(place, None)

    def failed(self, place: str) -> None:
        failures, _ = self._failures.pop(place, (0, 0.0))
        self._failures[place] = failures + 1, self._clock.monotonic()
        while len(self._failures) > self.KEPT:
            self._failures.popitem(last=False)


class HttpCatalogue:
    """Of files at http and https addresses. `allowed`: to which addresses it connects for hosts that nobody here has
    named."""

    def __init__(
        self, options: HttpOptions, resources: CatalogueResources, allowed: Callable[[str], bool] = public
    ) -> None:
        """Raises SettingsError."""
        anyone = options.reach == "public"
        self._reach = PublicReach(resources.declared, options.hosts, options.ports, anyone=anyone)
        self._clock, self._http, self._allowed = resources.clock, resources.http, allowed
        self._strict: aiohttp.ClientSession | None = None
        self._quiet = Quiet(resources.clock)

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        """Its first address that may be asked; where there is none, its first, so that `locate` says why not."""
        found = [address for text in _addresses(resource, urls) if (address := _address(text)) is not None]
        best = next((address for address in found if self._reach.allows(address)), found[0] if found else None)
        return None if best is None else str(best)

    async def locate(self, name: str, deadline: Deadline) -> Located:
        margin = _MARGIN * deadline.left(self._clock.monotonic())
        try:
            size, checksum = await self._measured(URL(name), deadline.less(margin))
        except (NotAsked, SiteForgot):
            raise
        except SiteError as error:
            raise SiteForgot(error.detail) from None  # one host's trouble, which is no fault of a catalogue
        return Located((Portion(float(size)),), checksum)

    async def close(self) -> None:
        if self._strict is not None:
            await self._strict.close()

    async def _measured(self, url: URL, deadline: Deadline) -> tuple[int, tuple[str, str] | None]:
        answer, seen = await self._follow("HEAD", url, _PLAIN, deadline)
        if answer.status == 200:
            with suppress(SiteMisbehaved):
                # Zero is what servers tell as well that would have to make the file first.
                if size := _of_whole(answer, seen):
                    return size, sizes.checksum(answer.headers)
        answer, seen = await self._follow("GET", url, _FIRST_BYTE, deadline)
        match answer.status:
            case 206:
                return _of_part(answer, seen), sizes.checksum(answer.headers, part=True)
            case 200:
                return _of_whole(answer, seen), sizes.checksum(answer.headers)
            case 416 if sizes.none_at_all(answer.headers.get("Content-Range")):
                return 0, None
            case 401 | 403:
                raise SiteForbids(f"{seen.host} answered {answer.status}: it wants credentials, and none are sent.")
        raise SiteRefused(f"{seen.host} answered {answer.status}.", status=answer.status)

    async def _follow(self, method: str, url: URL, headers: dict[str, str], deadline: Deadline) -> tuple[Answer, URL]:
        """The answer that is no redirect, and whose it is. Raises SiteForgot where there is no such file."""
        for _ in range(REDIRECTS + 1):
            answer = await self._asked(method, url, headers, deadline)
            if answer.status in _GONE:
                raise SiteForgot(f"{url.host} has no such file ({answer.status}).")
            if answer.status not in _MOVED:
                return answer, url
            url = _target(answer, url)
        raise SiteMisbehaved(f"it leads on more than {REDIRECTS} times, at last to {url.host}.")

    async def _asked(self, method: str, url: URL, headers: dict[str, str], deadline: Deadline) -> Answer:
        self._reach.check(url)
        if url.path.endswith("/") and not url.query_string:
            raise NotAsked("not asked: its address ends in a slash, so what comes would be a folder's page.")
        http = self._http if self._reach.named(url) else self._strangers()
        origin = Origin(http, str(url.origin()), self._clock)
        self._quiet.check(origin.place)
        if not deadline.left(self._clock.monotonic()):
            raise SiteTimeout(f"{origin.place} told nothing of it in time.")
        try:
            answer = await origin.head(url, method=method, headers=headers, deadline=deadline)
        except SiteError:
            self._quiet.failed(origin.place)
            raise
        self._quiet.answered(origin.place)
        return answer

    def _strangers(self) -> aiohttp.ClientSession:
        if self._strict is None:
            self._strict = aiohttp.ClientSession(
                connector=strict(self._allowed), cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            )
        return self._strict


def _addresses(resource: AbstractDataResource, urls: Sequence[str]) -> Iterator[str]:
    """Those at which one file would be the whole of it."""
    match resource:
        case RucioDataResource():
            return  # its addresses are of its files, and may be many
        case S3DataResource(endpoint=str(endpoint), bucket=str(bucket), object=str(key)) if (
            bucket and key and not key.endswith("/")
        ):
            yield f"{endpoint.rstrip('/')}/{_quoted(bucket)}/{_quoted(key)}"
        case S3DataResource():
            return  # a bucket's page is a list, and no list has the size of what it names
        case SkaoDataResource() if resource.skao and resource.skao.objecttype in ("CONTAINER", "DATASET"):
            return
        case _:
            yield from urls


def _quoted(text: str) -> str:
    return quote(text, safe="/~", errors="replace")


def _address(text: str) -> URL | None:
    """As it is asked: without the user's name and password, and without a fragment. None: it cannot be asked, or it
    holds what some servers take for a way upwards (`..%2F`)."""
    if len(text) > _LONGEST_ADDRESS:
        return None
    try:
        url = URL(text.strip())
        if url.scheme not in ("http", "https") or not url.raw_host or not url.port:
            return None
        if ".." in re.split(r"[/\\]", url.path):
            return None
        url = url.with_port(None) if url.is_default_port() else url
        return url.with_user(None).with_fragment(None)
    except ValueError:
        return None


def _target(answer: Answer, seen: URL) -> URL:
    location = answer.headers.get("Location", "")
    try:
        target = _address(str(seen.join(URL(location)))) if location else None
    except ValueError:
        target = None
    if target is None:
        raise SiteMisbehaved(f"{seen.host} leads on to what is no http or https address.")
    if seen.scheme == "https" and target.scheme == "http":
        raise NotAsked(f"not asked: {seen.host} leads on from https to http.")
    return target


def _of_whole(answer: Answer, seen: URL) -> int:
    _judge(answer, seen)
    size = sizes.whole(answer.headers.get("Content-Length"))
    if size is None:
        raise SiteMisbehaved(f"{seen.host} does not say how large it is.")
    return size


def _of_part(answer: Answer, seen: URL) -> int:
    _judge(answer, seen)
    size = sizes.of_range(answer.headers.get("Content-Range"))
    if size is None:
        raise SiteMisbehaved(f"{seen.host} does not say how large it is, though it sends a part.")
    return size


def _judge(answer: Answer, seen: URL) -> None:
    """Raises SiteMisbehaved where the length is not that of the file."""
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SiteMisbehaved(f"{seen.host} sends it encoded, so that its length is not the file's.")
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in _PAGES and not seen.path.lower().endswith((".html", ".htm", ".xhtml")):
        raise SiteMisbehaved(f"{seen.host} answered with a page, which is hardly the data.")


def _make(options: HttpOptions, resources: CatalogueResources) -> HttpCatalogue:
    return HttpCatalogue(options, resources)


plugin = CataloguePlugin(options=HttpOptions, make=_make, trust=40, places=False)
