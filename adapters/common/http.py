"""HTTP to one registered origin: deadlines, caps, credentials, and errors that say whether the call can have arrived.

For every adapter that speaks HTTP. Imports aiohttp, the ports' errors, the domain's deadline.

The session is shared and comes from the broker; this module asks of it `TCPConnector(limit=0)`, a `DummyCookieJar`
and no `trust_env`. Whatever else matters (redirects, decompression, time limits) is set on each call here.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import aiohttp
import msgspec
from aiohttp.abc import AbstractStreamWriter
from aiohttp.payload import BytesPayload
from yarl import URL

from broker.domain.deadline import Deadline
from broker.errors import (
    SettingsError,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Credentials
from broker.ports import Clock

CAP_BYTES = 32 * 1024 * 1024
_LONGEST_RETRY_AFTER = 86400.0
_LONGEST_TEXT = 300
_LONGEST_COMPLAINT = 65_536  # bytes
# aiohttp's own limits round up to whole seconds above 5 s; ours is the deadline alone.
_UNLIMITED = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)


class ConnectionLost(SiteMisbehaved):
    """The connection ended before the answer did. The site may have acted."""


# The first that matches counts, so the narrow ones come first. "Unreachable" is said only of what aiohttp raises
# before it hands the first byte to a connection.
_ERRORS: tuple[tuple[type[Exception], type[SiteError], str], ...] = (
    (aiohttp.ClientConnectorCertificateError, SiteUnreachable, "its certificate is not valid"),
    (aiohttp.ClientConnectorDNSError, SiteUnreachable, "its name has no address"),
    (aiohttp.ClientSSLError, SiteUnreachable, "it does not speak TLS as it should"),
    (aiohttp.ClientConnectorError, SiteUnreachable, "no connection"),
    (aiohttp.ConnectionTimeoutError, SiteUnreachable, "no connection in time"),
    (aiohttp.InvalidURL, SiteUnreachable, "its address is not valid"),
    (aiohttp.ClientPayloadError, ConnectionLost, "its answer broke off"),
    (aiohttp.ClientConnectionError, ConnectionLost, "the connection ended before an answer"),
    (aiohttp.ClientResponseError, SiteMisbehaved, "what it sent is no HTTP answer"),
    (aiohttp.ClientError, SiteMisbehaved, "its answer cannot be read"),
    (OSError, ConnectionLost, "the connection ended before an answer"),
    (ValueError, SiteMisbehaved, "its answer cannot be read"),
)


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]  # its keys in any case
    body: bytes


class _Body(BytesPayload):
    """Knows whether its first byte was handed over: until then the site cannot have acted."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value, content_type="application/json")
        self.begun = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.begun = True
        await super().write_with_length(writer, content_length)


class Origin:
    """One registered address. Its credentials are sent here and nowhere else; no redirect is ever followed."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str | None,
        clock: Clock,
        *,
        credentials: Credentials | None = None,
        cap_bytes: int = CAP_BYTES,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`tls`: whom to trust, and with which certificate to sign in; None: whom the system trusts, and none. Raises
        SettingsError, naming `url`, where it is none that could be asked."""
        self.base = _base(url)
        self.place = self.base.authority
        self._http = http
        self._clock = clock
        self._cap = cap_bytes
        self._tls: ssl.SSLContext | bool = tls or True
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **_authorization(credentials),
        }

    def at(self, *segments: str) -> URL:
        """An address below the registered one. Raises SiteMisbehaved for a segment that would lead out of it: names
        come from sites."""
        if any(segment in ("", ".", "..") or "/" in segment for segment in segments):
            raise SiteMisbehaved(f"{self.place} gave a name that cannot stand in an address.")
        return self.base.joinpath(*segments)

    def same(self, location: str, seen_from: URL) -> URL | None:
        """What a `Location` says, where that is of this origin; else None."""
        try:
            target = seen_from.join(URL(location))
            return target if target.origin() == self.base.origin() and not target.user else None
        except ValueError:
            return None

    async def send(
        self,
        method: str,
        url: URL,
        *,
        deadline: Deadline,
        body: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call, answered whole, of whatever status, by the deadline and within the cap. A body in pieces goes out
        as they come; of it, nothing is ever proved unsent but a connection that was refused.

        Raises SiteUnreachable (surely not sent), SiteTimeout, ConnectionLost or SiteMisbehaved (maybe sent).
        """
        payload = _Body(body) if isinstance(body, bytes) else body
        try:
            async with asyncio.timeout(self._left(deadline)):
                response = await self._request(method, url, payload, headers)
                try:
                    return Answer(response.status, response.headers, await self._read(response))
                finally:
                    response.release()  # closes the connection if the answer was not read to its end
        except SiteError:
            raise
        except Exception as error:
            # No cause is chained: aiohttp's errors carry the request's headers, credentials among them.
            raise self._told(error, payload) from None

    async def head(
        self, url: URL, *, deadline: Deadline, method: str = "HEAD", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Status and headers alone, in whatever encoding; its body is empty. Of another method than HEAD the body is
        not read, which costs the connection. Raises what `send` does."""
        try:
            async with asyncio.timeout(self._left(deadline)):
                response = await self._request(method, url, None, headers)
                response.release()
                return Answer(response.status, response.headers, b"")
        except Exception as error:
            raise self._told(error, None) from None

    async def stream(
        self,
        url: URL,
        *,
        deadline: Deadline,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        body: bytes | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """An answer in pieces and without a cap; anything but 200 raises what `failure` makes of it. Close it when done
        (`contextlib.aclosing`): that gives the connection back."""
        payload = None if body is None else _Body(body)
        try:
            async with asyncio.timeout(self._left(deadline)):
                response = await self._request(method, url, payload, headers)
        except Exception as error:
            raise self._told(error, payload) from None
        try:
            if response.status != 200:
                said = await self._beginning(response, deadline)
                raise failure(Answer(response.status, response.headers, said), self.place, self._clock.now())
            self._plain(response)
            while piece := await self._piece(response, deadline):
                yield piece
        finally:
            response.release()

    async def _beginning(self, response: aiohttp.ClientResponse, deadline: Deadline) -> bytes:
        """Of an error's body, as much of it as comes: the status says enough without."""
        said = b""
        try:
            self._plain(response)
            while len(said) < _LONGEST_COMPLAINT and (piece := await self._piece(response, deadline)):
                said += piece
        except SiteError:
            pass
        return said

    async def _piece(self, response: aiohttp.ClientResponse, deadline: Deadline) -> bytes:
        try:
            async with asyncio.timeout(self._left(deadline)):
                return await response.content.readany()
        except Exception as error:
            raise self._told(error, None) from None

    async def _request(
        self, method: str, url: URL, payload: _Body | AsyncIterable[bytes] | None, headers: Mapping[str, str] | None
    ) -> aiohttp.ClientResponse:
        if url.origin() != self.base.origin():
            raise SiteMisbehaved(f"{self.place} pointed to another origin; nothing was sent there.")
        return await self._http.request(
            method,
            url,
            data=payload,
            headers={**self._headers, **headers} if headers else self._headers,
            allow_redirects=False,
            auto_decompress=False,
            timeout=_UNLIMITED,
            ssl=self._tls,
        )

    def _plain(self, response: aiohttp.ClientResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise SiteMisbehaved(f"{self.place} answered in an encoding that was not accepted.")

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        self._plain(response)
        size, pieces = response.content_length or 0, []
        if size <= self._cap:
            size = 0
            async for piece in response.content.iter_any():
                size += len(piece)
                pieces.append(piece)
                if size > self._cap:
                    break
        if size > self._cap:
            raise SiteMisbehaved(f"{self.place} answered with more than {self._cap} bytes.")
        return b"".join(pieces)

    def _left(self, deadline: Deadline) -> float:
        left = deadline.left(self._clock.monotonic())
        if not left:
            raise SiteUnreachable(f"{self.place} was not asked: there was no time left.")
        return left

    def _told(self, error: Exception, payload: object) -> Exception:
        """What to raise for `error`; itself, where it is ours already or none that a site can cause."""
        unsent = isinstance(payload, _Body) and not payload.begun
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientError):
            if unsent:
                return SiteUnreachable(f"{self.place}: no connection by the deadline.")
            return SiteTimeout(f"{self.place} gave no whole answer by the deadline.")
        for known, mapped, words in _ERRORS:
            if isinstance(error, known):
                mapped = SiteUnreachable if unsent else mapped
                return mapped(f"{self.place}: {words}{_reason(error)}.")
        return error


def failure(answer: Answer, place: str, now: float, *, doubtful: bool = False) -> SiteError:
    """The error that an answer other than success is. `doubtful`: the call may not be sent again by guess, so that
    no 5xx may count as proof that the site did not act."""
    status, barred = answer.status, answer.status in (401, 403)
    # How to sign in is told to the site's own users; of us, the operator mends the registration.
    text = complaint(answer, remedy=not barred)
    words = f"{place} answered {status}{': ' + text if text else '.'}"
    ended = words if words.endswith((".", "…")) else f"{words}."
    after = retry_after(answer, now)
    if barred:
        return SiteForbids(f"{ended} Its registration needs credentials that it takes.")
    if status == 429 or (status == 503 and after is not None and not doubtful):
        return SiteBusy(words, retry_after=5.0 if after is None else after)
    if 400 <= status < 500:
        return SiteRefused(words, status=status)
    if 300 <= status < 400:
        return SiteMisbehaved(f"{place} answered {status}, a redirect; none is followed.")
    return SiteMisbehaved(words)


def complaint(answer: Answer, *, remedy: bool = True) -> str:
    """What an error's body says, for a person: an RFC 9457 problem, a Spring, GA4GH or Rucio error, plain text; else
    empty. `remedy`: with what our own kind advises."""
    text = answer.body[:_LONGEST_COMPLAINT].decode("utf-8", "replace")
    try:
        document = msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "" if text.lstrip().startswith(("<", "{", "[")) else tidy(text)
    if not isinstance(document, dict):
        return tidy(document) if isinstance(document, str) else ""
    words = (document.get(name) for name in ("detail", "message", "msg", "error", "title", "ExceptionMessage"))
    said = next((word for word in words if isinstance(word, str) and word.strip()), "")
    advice = document.get("remedy") if remedy else None
    return tidy(f"{said} {advice}" if isinstance(advice, str) else said)


def tidy(text: str, most: int = _LONGEST_TEXT) -> str:
    """One line of printable characters, cut to `most`: what sites write is shown to people."""
    clean = text[: 8 * most]
    if not clean.isprintable():
        clean = "".join(char if char.isprintable() else " " for char in clean)
    line = " ".join(clean.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def retry_after(answer: Answer, now: float) -> float | None:
    """The header's seconds or date, as seconds from `now`, at most a day; None: absent or unreadable."""
    text = answer.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_RETRY_AFTER)
    moment = http_date(text)
    return None if moment is None else min(max(0.0, moment - now), _LONGEST_RETRY_AFTER)


def http_date(text: str) -> float | None:
    """Epoch seconds; None: no date."""
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _base(url: str | None) -> URL:
    if not url:
        raise SettingsError("the address of the site is missing.", key="url", remedy="Write url: https://…")
    try:
        base = URL(url.rstrip("/"))
    except ValueError:
        raise SettingsError("this is no address.", key="url") from None
    if base.scheme not in ("http", "https") or not base.host:
        raise SettingsError("an address that starts with https:// or http:// is wanted.", key="url")
    if base.user is not None or base.password is not None:
        raise SettingsError(
            "an address must hold no user name or password.", key="url", remedy="Put them under credentials."
        )
    if base.query_string or base.fragment:
        raise SettingsError("an address without ? and # is wanted.", key="url")
    return base


def _authorization(credentials: Credentials | None) -> dict[str, str]:
    if credentials is None:
        return {}
    if credentials.token:
        return {"Authorization": f"Bearer {credentials.token}"}
    pair = b64encode(f"{credentials.username}:{credentials.password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def _reason(error: Exception) -> str:
    """The operating system's words, which hold no secret."""
    if not isinstance(error, aiohttp.ClientConnectorError):
        return ""
    # asyncio puts the address in place of the system's words; the number under it says them.
    number, words = error.os_error.errno, error.strerror
    if str(words).startswith("Connect call failed") and number:
        words = os.strerror(number).lower()
    return f" ({tidy(words)})" if isinstance(words, str) else ""
