"""One call to a broker: who signs in where, what a redirect may do, which error an answer means. Imports aiohttp.

Credentials go to the broker's own origin and nowhere else. No redirect is followed but the standard's 303, which is
answered by its own body or, where it has none, by one GET of its Location at the same origin.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import aiohttp
from yarl import URL

from broker.client.errors import Misanswered, Unreachable
from broker.client.login import Login, signed_out
from broker.errors import (
    BadInput,
    BrokerError,
    Conflict,
    LoopDetected,
    NotAcceptable,
    NotAllowed,
    NotFound,
    NotSignedIn,
    TooLarge,
    TooMany,
    Unavailable,
    UnsupportedMediaType,
)

LARGEST = 64 * 2**20  # bytes of one document
_PIECE = 256 * 1024

# By status (RFC 9110); the words are the problem document's own (RFC 9457).
_ERRORS: dict[int, type[BrokerError]] = {
    400: BadInput,
    401: NotSignedIn,
    403: NotAllowed,
    404: NotFound,
    406: NotAcceptable,
    409: Conflict,
    410: NotFound,
    412: Conflict,
    413: TooLarge,
    415: UnsupportedMediaType,
    422: BadInput,
    429: TooMany,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    508: LoopDetected,
}


@dataclass(frozen=True)
class Answer:
    status: int
    url: URL
    headers: Mapping[str, str]
    body: bytes

    def document(self) -> dict[str, Any]:
        """The JSON object of the body. Raises Misanswered for anything else."""
        try:
            document = json.loads(self.body, parse_constant=_refuse)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise Misanswered(
                f"{self.url} answered {self.status}, but not with a JSON object.",
                remedy="Is this the address of an Execution Broker?",
                status=self.status,
            )
        return document


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON number")


class Connection:
    """Calls to one broker. `open` keeps connections between calls; without it each call opens its own, so that a
    Broker made in passing leaves nothing behind."""

    def __init__(self, login: Login | None, *, patience: float = 30.0) -> None:
        self.login = login
        self._patience = patience  # seconds for one whole call
        self._http: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self._http = self._http or _client()

    async def close(self) -> None:
        http, self._http = self._http, None
        if http:
            await http.close()

    async def call(
        self, method: str, url: URL, document: Any = None, *, headers: Mapping[str, str] | None = None, extra: float = 0
    ) -> Answer:
        """One answer of status 2xx or 303, body read whole. `extra`: seconds that the call may take beyond the usual.

        Raises Unreachable, Misanswered, or the BrokerError that the broker's refusal means.
        """
        body = None if document is None else json.dumps(document).encode()
        answer = await self._send(method, url, body, headers, extra)
        if answer.status == 303 and not answer.body.strip():
            answer = await self._send("GET", self._location(answer), None, headers, extra)
        if answer.status >= 400 or (answer.status >= 300 and answer.status != 303):
            raise self._refusal(answer)
        return answer

    def _refusal(self, answer: Answer) -> BrokerError:
        error = refusal(answer)
        return signed_out(self.login, answer.url, error, datetime.now(UTC)) if isinstance(error, NotSignedIn) else error

    async def _send(
        self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str] | None, extra: float
    ) -> Answer:
        async with self._asked(method, url, body, headers, self._patience + extra) as response:
            read = bytearray()
            async for piece in response.content.iter_chunked(_PIECE):
                read += piece
                if len(read) > LARGEST:
                    raise Misanswered(f"{url} answered with more than {LARGEST // 2**20} MiB.", status=response.status)
            return Answer(response.status, response.url, response.headers, bytes(read))

    async def pieces(self, url: URL) -> AsyncGenerator[bytes, None]:
        """The bytes of a GET as they come; no limit on all, one on the wait for the next piece."""
        async with self._asked("GET", url, None, None, None) as response:
            if response.status != 200:
                body = await response.content.read(_PIECE)
                raise self._refusal(Answer(response.status, response.url, response.headers, body))
            async for piece in response.content.iter_chunked(_PIECE):
                yield piece

    @asynccontextmanager
    async def _asked(
        self, method: str, url: URL, body: bytes | None, headers: Mapping[str, str] | None, limit: float | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to one request; what fails on the way, reading included, is Unreachable."""
        everything = {"Accept": "application/json", **(self.login.header(url) if self.login else {}), **(headers or {})}
        if body is not None:
            everything["Content-Type"] = "application/json"
        host = f"{url.host}:{url.port}"
        try:
            async with (
                asyncio.timeout(limit),
                self._client() as http,
                http.request(method, url, data=body, headers=everything, allow_redirects=False) as response,
            ):
                yield response
        except aiohttp.ClientConnectorError as error:
            raise Unreachable(
                f"no broker answers at {host} ({_why(error)}).", remedy="Is it running, and the address right?"
            ) from error
        except TimeoutError as error:
            raise Unreachable(f"{host} gave no whole answer in time.", sent=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"the connection to {host} broke ({type(error).__name__}).", sent=True) from error

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[aiohttp.ClientSession]:
        if self._http is not None:
            yield self._http
            return
        async with _client() as http:
            yield http

    @staticmethod
    def _location(answer: Answer) -> URL:
        location = answer.headers.get("Location", "")
        target = answer.url.join(URL(location))
        if not location or target.origin() != answer.url.origin():
            raise Misanswered(
                f"{answer.url} points elsewhere ({location or 'nowhere'}), which is not followed.", status=answer.status
            )
        return target


def _client() -> aiohttp.ClientSession:
    # Read timeout apart from any limit on the whole: results may be large, silence may not be long.
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300),
        headers={"User-Agent": "broker-client/1.0", "Accept-Encoding": "identity"},
    )


def _why(error: aiohttp.ClientConnectorError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted here"
    number, words = error.os_error.errno, error.os_error.strerror or ""
    if words.startswith("Connect call failed") and number:
        words = os.strerror(number).lower()  # asyncio has put the address in place of the system's words
    return words or "no connection"


def refusal(answer: Answer) -> BrokerError:
    """The error that an answer means, in the words of its problem document where it has one."""
    problem = _problem(answer)
    detail = str(problem.get("detail") or problem.get("title") or problem.get("error") or "")
    remedy = str(problem.get("remedy") or "")
    kind = _ERRORS.get(answer.status)
    if kind is None or (answer.status >= 500 and not detail):
        shown = f": {detail}" if detail else "."
        return Misanswered(f"{answer.url} answered {answer.status}{shown}", remedy=remedy, status=answer.status)
    detail = detail or _DEFAULTS.get(answer.status, f"the broker refuses ({answer.status}).")
    if issubclass(kind, BadInput):
        return kind(detail, element=str(problem.get("element") or ""), remedy=remedy)
    if issubclass(kind, Unavailable):
        return kind(detail, remedy=remedy, retry_after=_seconds(answer.headers.get("Retry-After")))
    return kind(detail, remedy=remedy)


_DEFAULTS = {
    401: "the broker wants you to log in.",
    403: "that is not yours to do.",
    404: "the broker knows no such thing.",
}


def _problem(answer: Answer) -> dict[str, Any]:
    try:
        return answer.document()
    except Misanswered:
        return {}


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() and len(text) < 7 else 5.0
