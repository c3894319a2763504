"""Sizes of objects at one S3 endpoint, whoever runs it. Imports aiohttp, the ports' errors.

HEAD of an object, the list of a prefix. Where a bucket lies the request says itself: the endpoint is the place. What
is kept on tape, or in a cloud's archive, is marked as such.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field
from yarl import URL

from adapters.common.http import Answer, Origin, failure
from adapters.common.retry import repeat
from adapters.common.sigv4 import Key, signed
from adapters.data import listing, sizes
from adapters.data.listing import Entry, Page, Unreadable
from broker.domain.data import AbstractDataResource, RucioDataResource, S3DataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, Replica
from broker.domain.storages import normal
from broker.errors import (
    NotAsked,
    SettingsError,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
)
from broker.plugins import CataloguePlugin, CatalogueResources, Credentials

PAGE_BYTES = 16 * 1024 * 1024  # a thousand of the longest keys, encoded
_LONGEST_KEY = 1024  # bytes
_LONGEST_TOKEN = 4096
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_HOSTED = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # a bucket that can be part of a host's name
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_ENCRYPTED = ("aws:kms", "aws:kms:dsse")  # then the ETag is no MD5
_ACCEPT = {"Accept": "*/*"}


class S3Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    region: str = Field("us-east-1", description="what requests are signed for; endpoints without regions take any")
    addressing: Literal["path", "virtual"] = Field(
        "path", description="path: endpoint/bucket/object; virtual: bucket.endpoint/object"
    )
    buckets: tuple[str, ...] = Field((), description="the buckets that are asked for; empty: any")
    most_files: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        100_000, description="objects below one prefix that are counted; of more the size is not known"
    )
    most_pages: Annotated[int, Field(ge=1, le=100_000)] = Field(
        200, description="pages of the list of one prefix that are read; of more the size is not known"
    )


class S3Catalogue:
    """A name is the bucket, a slash, and the object's key; one without a key, or whose key ends in a slash, is
    whatever lies below it."""

    def __init__(self, options: S3Options, resources: CatalogueResources) -> None:
        """Raises SettingsError."""
        if not resources.url:
            raise SettingsError("the address of the endpoint is missing.", key="url", remedy="Write url: https://…")
        self._options, self._clock, self._http = options, resources.clock, resources.http
        self._base = _plain(Origin(resources.http, resources.url, resources.clock).base)
        self._key = _key(resources.credentials, options.region)
        if options.addressing == "virtual" and _is_number(self._base.host or ""):
            raise SettingsError("a number has no names below it.", key="options.addressing", remedy="Write path.")

    # ── what is meant ────────────────────────────────────────────────────────────────────────────────────────

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        match resource:
            case S3DataResource():
                ours = not resource.endpoint or self._is_ours(resource.endpoint)
                return self._named(resource.bucket or "", resource.object or "") if ours else None
            case RucioDataResource():
                return None  # its addresses are of its files, and may be many
        return next((name for url in urls if (name := self._read(url)) is not None), None)

    def _is_ours(self, endpoint: str) -> bool:
        base = normal(str(self._base))
        return normal(endpoint) == base or normal(f"{self._base.scheme}://{endpoint}") == base

    def _named(self, bucket: str, key: str) -> str | None:
        valid = _BUCKET if self._options.addressing == "path" else _HOSTED
        if not valid.fullmatch(bucket) or (self._options.buckets and bucket not in self._options.buckets):
            return None
        return f"{bucket}/{key}"

    def _read(self, text: str) -> str | None:
        """What an address names here: `s3://bucket/key`, `s3://endpoint/bucket/key`, or an http one below ours."""
        scheme, _, rest = text.strip().partition("://")
        if scheme.lower() == "s3":
            place, _, path = rest.partition("/")
            if place in (self._base.authority, self._base.host):
                place, _, path = path.partition("/")
            return self._named(place, path)
        try:
            url = _plain(URL(text.strip()))
            if url.scheme not in ("http", "https") or url.user is not None or url.query_string:
                return None  # signed for somebody, or of one version
            return self._below(url)
        except ValueError:
            return None

    def _below(self, url: URL) -> str | None:
        root = self._base.raw_path.rstrip("/") + "/"
        if not url.raw_path.startswith(root):
            return None
        path = unquote(url.raw_path.removeprefix(root))
        if url.origin() == self._base.origin():
            bucket, _, path = path.partition("/")
        else:
            bucket, _, host = (url.host or "").partition(".")
            if not host or url.with_host(host).origin() != self._base.origin():
                return None
        return self._named(bucket, path)

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def locate(self, name: str, deadline: Deadline) -> Located:
        bucket, _, key = name.partition("/")
        if len(key.encode("utf-8", "replace")) > _LONGEST_KEY:
            raise SiteForgot(f"no key of S3 is longer than {_LONGEST_KEY} bytes.")
        if any(part in (".", "..") for part in key.split("/")):
            raise NotAsked("not asked: its key holds . or .., which servers on the way take for folders.")
        root = self._root(bucket)
        origin = Origin(self._http, str(root.origin()), self._clock, cap_bytes=PAGE_BYTES)
        if key and not key.endswith("/"):
            return await self._object(origin, root, name, deadline)
        return await self._prefix(origin, root, name, deadline)

    async def close(self) -> None: ...

    def _root(self, bucket: str) -> URL:
        """The bucket's address, without a slash at its end."""
        base = str(self._base).rstrip("/")
        if self._options.addressing == "path":
            return URL(f"{base}/{bucket}", encoded=True)
        return self._base.with_host(f"{bucket}.{self._base.host}")

    async def _object(self, origin: Origin, root: URL, name: str, deadline: Deadline) -> Located:
        _, _, key = name.partition("/")
        url = URL(f"{str(root).rstrip('/')}/{quote(key, safe='/~', errors='replace')}", encoded=True)

        async def head() -> Answer:
            return await origin.head(url, headers=self._signed("HEAD", url), deadline=deadline)

        answer = await repeat(head, clock=self._clock, deadline=deadline)
        if answer.status != 200:
            raise self._refusal(answer, origin.place, name, "")
        size = sizes.whole(answer.headers.get("Content-Length"))
        if size is None:
            raise SiteMisbehaved(f"{origin.place} does not say how large {name} is.")
        tape = _on_tape(answer)
        return Located((Portion(float(size), self._place(name, tape=tape)),), _md5(answer))

    async def _prefix(self, origin: Origin, root: URL, name: str, deadline: Deadline) -> Located:
        """All objects below it, counted to the last: of a part of them nothing is told."""
        _, _, prefix = name.partition("/")
        disk, tape = Count(), Count()
        tokens: set[str | None] = {None}
        token: str | None = None
        for _ in range(self._options.most_pages):
            page = await self._page(origin, root, name, token, deadline)
            for entry in page.entries:
                if not entry.key.startswith(prefix):
                    raise SiteMisbehaved(f"{origin.place} lists what does not lie below {name}.")
                (tape if entry.tape else disk).add(entry)
            if disk.objects + tape.objects > self._options.most_files:
                raise SiteRefused(f"{name} has more than {self._options.most_files} objects; they are not counted.")
            token = page.more
            if token is None:
                return self._counted(origin, name, disk, tape)
            if token in tokens or len(token) > _LONGEST_TOKEN:
                raise SiteMisbehaved(f"the list of {name} at {origin.place} goes in a circle.")
            tokens.add(token)
        raise SiteRefused(f"the list of {name} has more than {self._options.most_pages} pages; they are not read.")

    def _counted(self, origin: Origin, name: str, disk: Count, tape: Count) -> Located:
        if not disk.objects and not tape.objects:
            raise SiteForgot(f"{origin.place} has nothing below {name}.")
        counted = [(count, count is tape) for count in (disk, tape) if count.files]
        return Located(
            tuple(Portion(float(c.bytes), self._place(name, tape=on_tape), c.files) for c, on_tape in counted)
            or (Portion(0.0, self._place(name, tape=False), 0),)
        )

    async def _page(self, origin: Origin, root: URL, name: str, token: str | None, deadline: Deadline) -> Page:
        _, _, prefix = name.partition("/")
        asked = {"encoding-type": "url", "list-type": "2", "max-keys": str(listing.MOST_ON_A_PAGE), "prefix": prefix}
        if token is not None:
            asked["continuation-token"] = token
        query = "&".join(f"{key}={quote(value, safe='~', errors='replace')}" for key, value in sorted(asked.items()))
        url = URL(f"{root}?{query}", encoded=True)
        restored = {"x-amz-optional-object-attributes": "RestoreStatus"}

        async def get() -> Answer:
            return await origin.send("GET", url, headers=self._signed("GET", url, restored), deadline=deadline)

        try:
            answer = await repeat(get, clock=self._clock, deadline=deadline)
        except SiteTimeout:
            raise SiteTimeout(f"{origin.place} did not list {name} in time.") from None
        if answer.status != 200:
            raise self._refusal(answer, origin.place, name, listing.fault(answer.body))
        try:
            return listing.page(answer.body)
        except Unreadable as error:
            raise SiteMisbehaved(f"the list of {name} at {origin.place} cannot be read: {error}.") from None

    def _signed(self, method: str, url: URL, more: dict[str, str] | None = None) -> dict[str, str]:
        headers = {**_ACCEPT, **(more or {})}
        return headers if self._key is None else authorized(method, url, headers, self._key, self._clock.now())

    def _place(self, name: str, *, tape: bool) -> tuple[Replica, ...]:
        return (Replica(None, f"{str(self._base).rstrip('/')}/{name}", tape),)

    def _refusal(self, answer: Answer, place: str, name: str, code: str) -> SiteError:
        why = f"{answer.status} {code}".rstrip()
        region = answer.headers.get("x-amz-bucket-region", "")[:64]
        if answer.status in (301, 307, 400) and region not in ("", self._options.region) and region.isascii():
            return SiteRefused(f"{place} keeps {name} in the region {region}; this catalogue asks for another.")
        if answer.status == 404:
            return SiteForgot(f"{place} has no {name} ({why}).")
        if answer.status in (401, 403) and self._key is None:
            return SiteForbids(f"{place} answered {why} for {name}: it wants credentials, and this catalogue has none.")
        if answer.status in (401, 403):
            return SiteForbids(f"{place} answered {why} for {name}: this catalogue's key may not read it.")
        return failure(answer._replace(body=b""), place, self._clock.now())


class Count:
    """Objects, files among them (a folder's mark is none), and their bytes."""

    def __init__(self) -> None:
        self.objects = self.files = self.bytes = 0

    def add(self, entry: Entry) -> None:
        self.objects += 1
        self.bytes += entry.bytes
        self.files += not (entry.key.endswith("/") and entry.bytes == 0)


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _plain(url: URL) -> URL:
    """Without a port that its scheme has anyway: it is not sent, and so not signed, and origins are compared."""
    return url.with_port(None) if url.is_default_port() else url


def _on_tape(answer: Answer) -> bool:
    restored = 'ongoing-request="false"' in answer.headers.get("x-amz-restore", "")
    archived = "x-amz-archive-status" in answer.headers  # of what AWS itself puts away where nobody reads it
    return listing.archived(answer.headers.get("x-amz-storage-class"), restored) or (archived and not restored)


def _md5(answer: Answer) -> tuple[str, str] | None:
    """The ETag of what was sent in one piece and is not encrypted by another's key."""
    told = answer.headers
    if told.get("x-amz-server-side-encryption") in _ENCRYPTED:
        return None
    if "x-amz-server-side-encryption-customer-algorithm" in told:
        return None
    found = _MD5.fullmatch(told.get("ETag", ""))
    return ("md5", found[1]) if found else None


def _key(credentials: Credentials | None, region: str) -> Key | None:
    if credentials is None:
        return None
    if not credentials.username or not credentials.password:
        raise SettingsError(
            "S3 wants an access key and its secret key.",
            key="credentials", remedy="Write them as username and password.",
        )  # fmt: skip
    return Key(credentials.username, credentials.password, region)


def _make(options: S3Options, resources: CatalogueResources) -> S3Catalogue:
    return S3Catalogue(options, resources)


plugin = CataloguePlugin(options=S3Options, make=_make, trust=30, places=True)


def authorized(method: str, url: URL, headers: Mapping[str, str], key: Key, now: float) -> dict[str, str]:
    """`headers` with those that sign a request without a body; `url` as it is sent."""
    host = url.host_port_subcomponent or ""
    return signed(method, host, url.raw_path, headers, key, now, query=url.raw_query_string)
