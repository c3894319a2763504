"""Bytes from a URL into a file, for what is staged. Imports the standard library, and of ours what imports no more.

Bytes come from http and https, from files below the allowed roots, and from data URLs. No credentials are sent. A
redirect may lead to http and https alone, and never from https to http. Link-local addresses are not connected to:
staging reaches what a program in its sandbox does not, and clouds keep a machine's credentials there.

What is told of a URL is told without its query: it may be a key, and a session's messages are read by others.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import string
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPConnection, HTTPException, HTTPMessage, HTTPSConnection, InvalidURL
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit

from adapters.common.addresses import Barred, connect
from broker.domain.addresses import bare, serves

SILENCE = 60.0  # seconds without a byte after which a server counts as dead; the supervisor bounds the whole
PIECE = 1 << 20
REDIRECTS = 5
_SHOWN = 300  # characters of a URL, or of what a server says
# Asked together with whether something has changed: what a proxy on the way remembers is no answer to that.
_OWN_WORD = {"Cache-Control": "no-cache"}


class StagingError(Exception):
    """Its text is one sentence for the person whose job it is."""


class Full(StagingError):
    """The disk is. `wanted`: the bytes that had no room; None: not known."""

    def __init__(self, text: str, wanted: int | None) -> None:
        super().__init__(text)
        self.wanted = wanted


class NotModified(Exception):
    """A server says that the file is what it was. `final`: the URL that says so."""

    def __init__(self, final: str, headers: Message) -> None:
        super().__init__(final)
        self.final, self.headers = final, headers


class Fetched(NamedTuple):
    """`checksum`: of the type that was asked for, or "". `status` and `headers` are those of the last answer; 0 and
    None: there was none."""

    bytes: int
    checksum: str
    final: str
    status: int = 0
    headers: Message | None = None


class _Sum(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


class _Adler32:
    def __init__(self) -> None:
        self._value = 1

    def update(self, data: bytes, /) -> None:
        self._value = zlib.adler32(data, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


def _summer(kind: str) -> _Sum:
    return _Adler32() if kind == "adler32" else hashlib.new(kind, usedforsecurity=False)


def digest(kind: str, path: Path) -> str:
    """The checksum of a file, of a type that `adapters.common.refusing.checksum_type` names. Raises OSError."""
    summer = _summer(kind)
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            summer.update(piece)
    return summer.hexdigest()


class _Redirects(request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def http_error_302(self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage) -> Any:
        """What comes with it is of no use, and may have no end."""
        fp.close()
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise StagingError(f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not followed.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _connected(address: tuple[str, int], timeout: float | None, source: object = None) -> socket.socket:
    return connect(address, timeout, serves)


def _plain(host: str, **known: Any) -> HTTPConnection:
    return _judged(HTTPConnection(host, **known))


def _secure(host: str, **known: Any) -> HTTPConnection:
    return _judged(HTTPSConnection(host, **known))


def _judged(connection: HTTPConnection) -> HTTPConnection:
    # Where http.client keeps its own; the check has to be at the address that is connected to.
    connection._create_connection = _connected  # type: ignore[attr-defined]
    return connection


class _Http(request.HTTPHandler):
    def http_open(self, req: request.Request) -> Any:
        return self.do_open(_plain, req)


class _Https(request.HTTPSHandler):
    def https_open(self, req: request.Request) -> Any:
        return self.do_open(_secure, req)


def _opener() -> request.OpenerDirector:
    """Unlike urllib's own, it opens neither files nor ftp."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        _Http(),
        _Https(),
        request.DataHandler(),
        _Redirects(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "federated-execution-broker"), ("Accept", "*/*")]
    return opener


def shown(url: str) -> str:
    """For people: without user, query and fragment."""
    return _printable(bare(url))


def _printable(text: object) -> str:
    """One line of it, in bounds: it may be a server's."""
    clean = "".join(char if char.isprintable() else "?" for char in str(text)[: _SHOWN + 1])
    return clean if len(clean) <= _SHOWN else f"{clean[:_SHOWN]}…"


def local_path(url: str) -> Path | None:
    """The path of a file URL of this machine; None: it is none."""
    parts = urlsplit(url)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        return None
    return Path(unquote(parts.path))


def _open_file(url: str, roots: tuple[str, ...]) -> IO[bytes]:
    """Judges the file that was really opened, so that no link can be changed in between."""
    path = local_path(url)
    if path is None:
        raise StagingError(f"{shown(url)} is on another machine.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise StagingError(f"{shown(url)} cannot be read: {error.strerror}.") from error
    opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if not any(opened.is_relative_to(Path(root).resolve()) for root in roots):
        os.close(descriptor)
        raise StagingError(f"{shown(url)} is outside the folders that programs may read from.")
    if not opened.is_file():
        os.close(descriptor)
        raise StagingError(f"{shown(url)} is no plain file.")
    return os.fdopen(descriptor, "rb")


def _pieces(source: Any) -> Iterator[bytes]:
    # read1 where there is one: it hands over what has come instead of waiting for a whole piece.
    read = getattr(source, "read1", source.read)
    while piece := read(PIECE):
        yield piece


def _announced(source: Any) -> int | None:
    """Content-Length; http.client itself passes a body that ends early as whole when it is read in pieces."""
    text = source.headers.get("Content-Length") if hasattr(source, "headers") else None
    return int(text) if text and text.isdigit() else None


def fetch(url: str, target: Path, roots: tuple[str, ...], most: int, checksum: str | None = None) -> tuple[int, str]:
    """Write the bytes of `url` to `target`. Returns their number and their checksum of that type, or "".

    Raises StagingError; then `target` may hold a part.
    """
    return receive(url, target, roots, most, checksum)[:2]


def receive(
    url: str,
    target: Path,
    roots: tuple[str, ...],
    most: int,
    checksum: str | None = None,
    conditions: Mapping[str, str] | None = None,
) -> Fetched:
    """As `fetch`, with `conditions` for the headers of the request. Raises NotModified where they do not hold; then
    `target` is as it was."""
    summer = _summer(checksum) if checksum else None
    with _told(url):
        source = (
            _open_file(url, roots)
            if urlsplit(url).scheme == "file"
            else _open_url(url, {**conditions, **_OWN_WORD} if conditions else {})
        )
        with source:
            announced = _announced(source)
            if announced is not None and announced > most:
                raise StagingError(_too_large(url, most))
            try:
                count = _write(source, target, most, summer, url)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise Full(f"{shown(url)} cannot be fetched: the disk is full.", announced) from error
                raise
            fetched = Fetched(count, summer.hexdigest() if summer else "", *_answer(source, url))
    if announced is not None and announced != count:
        raise StagingError(f"{shown(url)} broke off after {count} of {announced} bytes.")
    return fetched


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What goes wrong, as a sentence."""
    try:
        yield
    except HTTPError as error:
        raise StagingError(f"{shown(url)} answers {error.code}{_told_by(error)}.") from error
    except URLError as error:
        raise StagingError(f"{shown(url)} cannot be reached: {_printable(error.reason)}.") from error
    except Barred as error:
        text = f"{shown(url)} cannot be fetched: {_printable(error)} is at no address that data is read from."
        raise StagingError(text) from error
    except (InvalidURL, ValueError) as error:  # whose text holds the URL
        raise StagingError(f"{shown(url)} cannot be fetched: it is, or leads to, no address.") from error
    except (OSError, HTTPException) as error:
        raise StagingError(f"{shown(url)} cannot be fetched: {_printable(error)}.") from error


def _told_by(error: HTTPError) -> str:
    """What urllib says of a redirect that it does not follow has several lines, and where that leads."""
    if error.code != 304 and 300 <= error.code < 400:
        return ", a redirect to nowhere, in a circle, or to no http or https address"
    return f" {_printable(error.reason)}".rstrip()


def _open_url(url: str, headers: Mapping[str, str], method: str | None = None) -> Any:
    try:
        url = url if url[:5].lower() == "data:" else quote(url, safe=string.punctuation)
        asked = request.Request(url, headers=dict(headers), method=method)  # noqa: S310  the opener knows no file URLs
        return _opener().open(asked, timeout=SILENCE)
    except HTTPError as error:
        if error.code == 304 and "If-None-Match" in headers:
            error.close()
            raise NotModified(error.url, error.headers) from None
        raise


def _write(source: Any, target: Path, most: int, summer: _Sum | None, url: str) -> int:
    count = 0
    with target.open("wb") as file:
        for piece in _pieces(source):
            count += len(piece)
            if count > most:
                raise StagingError(_too_large(url, most))
            file.write(piece)
            if summer:
                summer.update(piece)
    return count


def _too_large(url: str, most: int) -> str:
    return f"{shown(url)} is larger than {most} bytes, the most this site takes."


def _answer(source: Any, url: str) -> tuple[str, int, Message | None]:
    if not hasattr(source, "geturl"):
        return url, 0, None
    return source.geturl(), source.status or 0, source.headers


def ask(url: str) -> Fetched | None:
    """What a server says of a file that is not sent. None: it does not say."""
    try:
        with _told(url), _open_url(url, _OWN_WORD, "HEAD") as source:
            return Fetched(0, "", *_answer(source, url))
    except StagingError:
        return None
