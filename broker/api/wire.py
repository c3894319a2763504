"""Syntax alone: bodies into models, JSON into what the caller wants to read. Imports the codecs, the domain, aiohttp.

A format is one line of `CODECS`; reading, negotiation, answers and problem documents all follow that table. JSON and
YAML say themselves what is a number; XML needs to be told what a document is, so every codec is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import structlog
from aiohttp import hdrs, web
from pydantic import BaseModel

from broker.api.jsontext import decode_json
from broker.api.xmlforms import ANSWER, Root
from broker.api.xmltext import decode_xml
from broker.api.xmlwrite import encode_xml
from broker.api.yamltext import decode_yaml, encode_yaml
from broker.domain.faults import parse
from broker.errors import BadInput, BrokerError, NotAcceptable, TooLarge, UnsupportedMediaType

_log = structlog.get_logger(__name__)

M = TypeVar("M", bound=BaseModel)

_OTHERS = frozenset({"application/xhtml+xml", "image/svg+xml"})  # what browsers ask for, and is not ours
_LARGE = 32 * 1024  # bytes of JSON from which on writing another format is no work for the event loop
_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Limits:
    """Bodies: bytes, and seconds within which a whole one arrives."""

    json_bytes: int = 4 * 2**20
    yaml_bytes: int = 64 * 2**10
    xml_bytes: int = 256 * 2**10
    body_seconds: float = 30.0
    stall_seconds: float = 60.0  # for which a reader of a file may take nothing


@dataclass(frozen=True)
class Codec:
    """`media` are the names by which it is asked for, the first its own; `suffix` (RFC 6839) covers the rest.
    `decode` reads what is to become a model, and raises Malformed; `encode` turns our own JSON into this format, as the
    root says."""

    name: str
    media: tuple[str, ...]
    suffix: str
    problem: str
    limit: Callable[[Limits], int]
    decode: Callable[[bytes, type[BaseModel]], Any]
    encode: Callable[[bytes, Root], bytes]

    def speaks(self, media: str) -> bool:
        return media in self.media or (media.endswith(self.suffix) and media not in _OTHERS)


JSON = Codec(
    name="json",
    media=("application/json",),
    suffix="+json",
    problem="application/problem+json",
    limit=lambda limits: limits.json_bytes,
    decode=lambda body, model: decode_json(body),
    encode=lambda body, root: body,
)
YAML = Codec(
    name="yaml",
    media=("application/yaml", "text/yaml", "application/x-yaml", "text/x-yaml"),
    suffix="+yaml",
    problem="application/problem+yaml",
    limit=lambda limits: limits.yaml_bytes,
    decode=lambda body, model: decode_yaml(body),
    encode=lambda body, root: encode_yaml(msgspec.json.decode(body)),
)
XML = Codec(
    name="xml",
    media=("application/xml", "text/xml"),
    suffix="+xml",
    problem="application/problem+xml",
    limit=lambda limits: limits.xml_bytes,
    decode=decode_xml,
    encode=lambda body, root: encode_xml(msgspec.json.decode(body), root),
)
CODECS = (JSON, YAML, XML)  # in the order in which they are taken where the caller has no preference
_READABLE = ", ".join(codec.media[0] for codec in CODECS)


# ── negotiation (RFC 9110, 12.5.1) ───────────────────────────────────────────────────────────────────────────


DEFAULT = web.AppKey("default", Codec)  # what an application reads and writes where nobody says; JSON if it has none


def negotiate(request: web.Request) -> tuple[Codec, str]:
    """The format to answer in and the media type to call it. Raises NotAcceptable."""
    asked = _ranges(request.headers.getall(hdrs.ACCEPT, []))
    best = max((_default(request), *CODECS), key=lambda codec: _quality(codec, asked))  # of equals the first
    if _quality(best, asked) <= 0:
        raise NotAcceptable("no format of those in Accept is written here.", remedy=f"There are: {_READABLE}.")
    return best, next((media for media in asked if media in best.media), best.media[0])


def accepts(request: web.Request, media: str) -> bool:
    """Whether what is no format of `CODECS`, such as a stream, may be answered."""
    asked = _ranges(request.headers.getall(hdrs.ACCEPT, []))
    return asked.get(media, asked.get(f"{media.partition('/')[0]}/*", asked.get("*/*", 0.0))) > 0


def preferred(request: web.Request) -> Codec:
    """As `negotiate`, but the default for whoever accepts nothing: an error must be told in some way."""
    try:
        return negotiate(request)[0]
    except NotAcceptable:
        return _default(request)


def _default(request: web.Request) -> Codec:
    return request.app.get(DEFAULT, JSON)


def _ranges(headers: list[str]) -> dict[str, float]:
    """Media range → quality; nothing asked: everything will do."""
    asked: dict[str, float] = {}
    for item in ",".join(headers).split(","):
        media, *parameters = (part.strip().lower() for part in item.split(";"))
        if "/" in media:
            asked[media] = next((_weight(p[2:]) for p in parameters if p.startswith("q=")), 1.0)
    return asked or {"*/*": 1.0}


def _weight(text: str) -> float:
    return float(text) if re.fullmatch(r"[01](?:\.\d{0,3})?", text) else 0.0


def _quality(codec: Codec, asked: dict[str, float]) -> float:
    """By the most specific range that names the codec."""
    exact = [quality for media, quality in asked.items() if codec.speaks(media)]
    if exact:
        return max(exact)
    partly = [asked[part] for part in {f"{media.partition('/')[0]}/*" for media in codec.media} if part in asked]
    return max(partly, default=asked.get("*/*", 0.0))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


class Wire:
    """Reads and writes for one server. `public_url` is what clients call us by; without it, their own Host header."""

    def __init__(self, limits: Limits, public_url: str | None = None) -> None:
        self._limits = limits
        self._public = public_url.rstrip("/") if public_url else None

    async def read(self, request: web.Request, model: type[M], *, default: M | None = None) -> M:
        """The body as a `model`; `default`, where given, stands for no body at all.

        Raises UnsupportedMediaType, TooLarge, Malformed, BadInput; HTTPRequestTimeout for a body that drips."""
        if default is not None and not request.body_exists:
            return default
        codec = _codec_of(request)
        body = await self._body(request, codec.limit(self._limits))
        return parse(model, codec.decode(body, model))

    async def _body(self, request: web.Request, limit: int) -> bytes:
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                async for piece in request.content.iter_any():
                    body += piece
                    if len(body) > limit:
                        raise _too_large(limit)
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        return bytes(body)

    def base(self, request: web.Request) -> str:
        """What every URL in an answer begins with, without a slash at the end. Raises BadInput."""
        if self._public:
            return self._public
        # The Host header is the caller's own; what is no host must not get into the URLs that we hand out.
        if not _HOST.fullmatch(request.host):
            raise BadInput("the header names no host.", element=hdrs.HOST)
        return f"{request.scheme}://{request.host}"

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def answer(
        self,
        request: web.Request,
        body: bytes,
        *,
        status: int = 200,
        location: str | None = None,
        etag: str | None = None,
        tagged: bool = False,
        root: Root = ANSWER,
    ) -> web.Response:
        """`body`, which is our own JSON of a `root`, in the format that the caller asked for. With `etag`, or `tagged`
        by the body itself, a caller who has this version already gets 304. Raises NotAcceptable."""
        codec, media = negotiate(request)
        headers = {hdrs.VARY: "Accept, Authorization", hdrs.CACHE_CONTROL: "private, no-cache"}
        if location:
            headers[hdrs.LOCATION] = location
        if tagged:
            etag = blake2b(body, digest_size=12).hexdigest()
        if etag is not None:
            tag = f"{etag}.{codec.name}"  # a strong tag names one representation
            headers[hdrs.ETAG] = f'"{tag}"'
            if _has(request, tag):
                return web.Response(status=304, headers=headers)
        if codec is not JSON and len(body) > _LARGE:
            body = await asyncio.to_thread(codec.encode, body, root)
        else:
            body = codec.encode(body, root)
        return web.Response(body=body, status=status, headers=headers, content_type=media)

    async def document(self, request: web.Request, document: Any, *, root: Root = ANSWER) -> web.Response:
        """As `answer`, for anything that msgspec can write."""
        return await self.answer(request, msgspec.json.encode(document), root=root)

    async def stream(self, request: web.Request, pieces: AsyncIterator[bytes], name: str) -> web.StreamResponse:
        """A file, handed on piece by piece. What fails before the first piece is an ordinary error; what fails later
        breaks the connection off, so that nobody takes half a file for a whole one. So does a reader who stops reading:
        the site's connection is held meanwhile."""
        first = await anext(pieces, b"")
        # The bytes are somebody's: as a page of our origin they could act with the reader's credentials.
        disposition = f"attachment; filename*=UTF-8''{quote(name.rpartition('/')[2], safe='')}"
        response = web.StreamResponse(headers={hdrs.CONTENT_DISPOSITION: disposition})
        response.content_type = "application/octet-stream"
        await response.prepare(request)
        try:
            await self._write(response, first)
            async for piece in pieces:
                await self._write(response, piece)
        except (ConnectionError, TimeoutError) as error:
            _log.info("reader left", file=name, error=type(error).__name__)
            _break_off(request)
        except BrokerError as error:
            _log.warning("file broken off", file=name, reason=str(error))
            _break_off(request)
        except Exception:
            _log.exception("file broken off", file=name)
            _break_off(request)
        return response

    async def _write(self, response: web.StreamResponse, piece: bytes) -> None:
        async with asyncio.timeout(self._limits.stall_seconds):
            await response.write(piece)


def _codec_of(request: web.Request) -> Codec:
    """By Content-Type, else the default. Compressed bodies are not read: the limits count what is sent."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise UnsupportedMediaType("compressed bodies are not read here.", remedy="Leave Content-Encoding out.")
    if hdrs.CONTENT_TYPE not in request.headers:
        return _default(request)
    media = request.content_type.lower()
    codec = next((codec for codec in CODECS if codec.speaks(media)), None)
    if codec is None:
        raise UnsupportedMediaType(f"{media} is not read here.", remedy=f"Send one of: {_READABLE}.")
    if (request.charset or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType("only UTF-8 is read here.", remedy="Leave charset out.")
    return codec


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes.", remedy="Name large files by location, not inline.")


def _has(request: web.Request, tag: str) -> bool:
    tags = request.if_none_match or ()
    return request.method in ("GET", "HEAD") and any(known.value in ("*", tag) for known in tags)


def _break_off(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
