"""One call to the service that is checked, whatever comes back: nothing is followed, decoded or believed.

Imports aiohttp, the client's login and errors, the API's decoders.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from broker.api.jsontext import decode_json
from broker.client.errors import Unreachable
from broker.client.login import Login
from broker.errors import Malformed

LARGEST = 8 * 2**20  # bytes of an answer; a set of a hundred offers is far below a tenth of it
JSON = "application/json"


@dataclass(frozen=True)
class Answer:
    """`sent` and `received` are seconds of our clock."""

    method: str
    status: int
    url: URL
    headers: Mapping[str, str]
    body: bytes
    sent: float
    received: float

    @property
    def media(self) -> str:
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    @property
    def location(self) -> URL | None:
        """Where the answer points; None: nowhere that can be read."""
        try:
            target = self.url.join(URL(self.headers.get("Location", "")))
        except ValueError:
            return None
        return target if self.headers.get("Location") and target.host else None

    def object(self) -> dict[str, Any]:
        """The JSON object of the body. Raises Malformed, saying what stands there instead."""
        if "json" not in self.media:
            raise Malformed(f"{self.status} with {self.media or 'no Content-Type'} where JSON was asked for.")
        document = decode_json(self.body)
        if not isinstance(document, dict):
            raise Malformed(f"{self.status} with a JSON {type(document).__name__} where an object is documented.")
        return document

    def said(self) -> str:
        """The status and the beginning of what was said with it."""
        try:
            document = decode_json(self.body) if "json" in self.media else {}
        except Malformed:
            document = {}
        document = document if isinstance(document, dict) else {}
        words = next((document[key] for key in ("detail", "message", "title", "error") if document.get(key)), "")
        return f"{self.status} {str(words)[:120]}".strip()

    def clock_offset(self) -> float | None:
        """Seconds that the service's clock is ahead; zero where the header's cut to whole seconds could be all of it.
        None: no Date that can be read."""
        try:
            date = parsedate_to_datetime(self.headers.get("Date", "")).timestamp()
        except (ValueError, OverflowError):
            return None
        offset = date + 0.5 - (self.sent + self.received) / 2
        return offset if abs(offset) > 0.5 + (self.received - self.sent) / 2 else 0.0


class Broken(Unreachable):
    """An answer that did not come, or not whole. `begun`: its status and headers, where these did."""

    def __init__(self, detail: str, begun: Answer | None) -> None:
        super().__init__(detail, sent=True)
        self.begun = begun


class Web:
    """`async with`. Calls go to `base` and below; the credentials go to its origin only. `patience`: seconds a call."""

    def __init__(self, login: Login, patience: float) -> None:
        self.base = login.url
        self.patience = patience
        self.signed = bool(login.username or login.token)
        self._login = login

    async def __aenter__(self) -> Self:
        # Every call on a connection of its own: a service that breaks one off must not spoil the next check.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": "broker-check/1.0", "Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    def at(self, *steps: str) -> URL:
        """Each of `steps` is one step of the path, whatever stands in it."""
        return self.base.joinpath(*(step.replace("/", "%2F") for step in steps))

    async def get(self, *steps: str, accept: str = JSON, signed: bool = True) -> Answer:
        return await self.call("GET", self.at(*steps), accept=accept, signed=signed)

    async def post(self, *steps: str, document: Any, signed: bool = True) -> Answer:
        return await self.call("POST", self.at(*steps), body=json.dumps(document).encode(), signed=signed)

    async def call(
        self,
        method: str,
        url: URL,
        *,
        body: bytes | None = None,
        media: str = JSON,
        accept: str = JSON,
        signed: bool = True,
    ) -> Answer:
        """Any answer of any status, body whole. Raises Unreachable where nobody is there, Broken for none, or one
        that is too large or broken off."""
        headers = {"Accept": accept, **(self._login.header(url) if signed else {})}
        if body is not None:
            headers["Content-Type"] = media
        sent, begun = time.time(), None
        try:
            async with (
                asyncio.timeout(self.patience),
                self._http.request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                begun = Answer(method, response.status, response.url, response.headers, b"", sent, time.time())
                return replace(begun, body=await _whole(response))
        except aiohttp.ClientConnectorError as error:
            why = (error.os_error.strerror if error.os_error else "") or "no connection"
            raise Unreachable(f"nobody answers at {url.host}:{url.port} ({why}).") from error
        except TimeoutError as error:
            raise Broken(f"{method} {url.path}: no whole answer in {self.patience:g} s.", begun) from error
        except _Unread as error:
            raise Broken(f"{method} {url.path}: {error}", begun) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            text = f"{method} {url.path}: the connection broke ({type(error).__name__})."
            raise Broken(text, begun) from error


class _Unread(Exception): ...


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Unread("the answer is compressed, though that was not accepted.")
    read = bytearray()
    async for piece in response.content.iter_any():
        read += piece
        if len(read) > LARGEST:
            raise _Unread(f"an answer of more than {LARGEST // 2**20} MiB.")
    return bytes(read)
