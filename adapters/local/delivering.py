"""Writes a job's results to where its request wants them: `python -m adapters.local.delivering FOLDER SECONDS`, a child
of the supervisor, which limits and ends it. Imports the standard library, and of ours what imports no more.

Exit 0: every file is there. Exit 1: the last line on stderr says in one sentence what is wrong.

Each file is one PUT, by http, https or S3, under its own name below the place. Whoever does it twice does it once: a
delivery that was cut short is done again from its beginning. What may pass is tried again until the time is up; what
will not (a 4xx, no room left, a redirect to another host) ends it. Credentials are those of the site, read from its
file; they go to the host of the place alone.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from configparser import ConfigParser, Error
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from select import select
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from adapters.common import sigv4
from adapters.common.addresses import Barred, connect
from adapters.local.layout import RESULTS, Delivery, Spec, read_json, read_spec
from adapters.local.outputs import MOST_FILES, escaped, open_beneath
from broker.domain.addresses import public

SILENCE = 60.0  # seconds without progress after which a connection counts as dead
PIECE = 256 * 1024
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries, doubled each time
REDIRECTS = 3
LARGEST_S3 = 5 * 1024**3  # bytes of one PUT; more would need a multi-part upload
_SHOWN = 200  # characters of what a server says

_UNREADABLE = "this site's credentials for it cannot be read: its operator has to look."
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})  # may be another on the next try
_FOLLOWED = frozenset({307, 308})  # say that the same request, body and all, belongs elsewhere
_NO_FOLDER = frozenset({404, 409, 500})  # what servers say of a file in a folder that is not there; nginx says 500
_CODE = re.compile(rb"<Code>([A-Za-z]{1,60})</Code>")


class DeliveryError(Exception):
    """Its text is one sentence for the person whose job it is. `passing`: another try may go well."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


class Credentials:
    """What a site writes with: an access key for S3, a bearer token or a name and password for WebDAV; or nothing."""

    def __init__(self, path: str) -> None:
        """The section `default` of a file in the manner of AWS's. Raises DeliveryError for one that cannot be read."""
        self._found: dict[str, str] = {}
        if not path:
            return
        parser = ConfigParser(interpolation=None)
        try:
            with open(path, encoding="utf-8") as file:
                parser.read_file(file)
            self._found = dict(parser["default"])
        except (OSError, KeyError, Error, UnicodeDecodeError):
            # Not the error's text: that of a parser shows the line, and the line holds the secret.
            raise DeliveryError(_UNREADABLE) from None
        if not all(value.isascii() and value.isprintable() for value in self._found.values()):
            raise DeliveryError(_UNREADABLE)

    def key(self, region: str) -> sigv4.Key | None:
        access, secret = self._found.get("aws_access_key_id"), self._found.get("aws_secret_access_key")
        if not access or not secret:
            return None
        return sigv4.Key(access, secret, region, self._found.get("aws_session_token", ""))

    def authorization(self) -> dict[str, str]:
        if token := self._found.get("token"):
            return {"Authorization": f"Bearer {token}"}
        if "username" in self._found:
            pair = f"{self._found['username']}:{self._found.get('password', '')}"
            return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
        return {}


class Courier:
    """Brings files to one place, over one connection at a time. `end`: monotonic, when the time is up."""

    def __init__(
        self, delivery: Delivery, end: float, credentials: Credentials, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._delivery, self._end, self._sleep = delivery, end, sleep
        self._credentials = credentials
        self._base = urlsplit(delivery.target)
        self._host = _host(self._base)
        self._connection: HTTPConnection | None = None

    def bring(self, name: str, size: int, sha256: str, source: Callable[[], int]) -> None:
        """One file, until it is there. `source` opens it anew for each try. Raises DeliveryError."""
        wait = FIRST_WAIT
        while True:
            try:
                self._put(name, size, sha256, source)
                self._verify(name, size)
            except (OSError, HTTPException, DeliveryError) as error:
                self.close()
                trouble = error if isinstance(error, DeliveryError) else _lost(self._base, error)
                if not trouble.passing:
                    raise trouble from error
                if time.monotonic() + wait >= self._end:
                    raise DeliveryError(f"{trouble} The time for it is up.") from error
                self._sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                return

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # ── one try ──────────────────────────────────────────────────────────────────────────────────────────────

    def _put(self, name: str, size: int, sha256: str, source: Callable[[], int]) -> None:
        path, made = self._path(name), False
        for _ in range(REDIRECTS + 2):
            status, reason, location = self._send("PUT", path, size, sha256, source)
            if 200 <= status < 300:
                return
            if status in _FOLLOWED:
                path = self._followed(path, location)
            elif status in _NO_FOLDER and not made and self._delivery.kind != "s3":
                self._make_folders(name)
                made = True
            else:
                raise _refused(self._base, status, reason)
        raise DeliveryError(f"{self._base.netloc} redirects without end.")

    def _verify(self, name: str, size: int) -> None:
        """A place that says yes and has it not, or has a part of it, has not got it. One that does not let us look is
        believed."""
        connection = self._connect()
        path = self._path(name)
        headers = self._headers("HEAD", path, {}, sigv4.EMPTY)
        connection.request("HEAD", path, headers={**headers, "Host": self._host})
        with connection.getresponse() as answer:
            stated = answer.headers.get("Content-Length", "")
            encoded = answer.headers.get("Content-Encoding", "identity") != "identity"
            gone = answer.status == 404
            short = answer.status == 200 and not encoded and stated.isdecimal() and int(stated) != size
            answer.read()  # nothing: it is a HEAD's
            self._settle(answer)
        if gone or short:
            what = "has it not" if gone else f"has {stated} of {size} bytes"
            raise DeliveryError(f"{self._base.netloc} took {_shown(name)}, and {what}.", passing=True)

    def _send(
        self, method: str, path: str, size: int, sha256: str, source: Callable[[], int] | None
    ) -> tuple[int, str, str]:
        """Status, what the server says, and where it leads to."""
        connection = self._connect()
        headers = {"Content-Length": str(size)}
        if source is not None:
            headers |= {"Content-Type": "application/octet-stream", "Content-Digest": _digest(sha256)}
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for header, value in self._headers(method, path, headers, sha256).items():
            connection.putheader(header, value)
        connection.putheader("Host", self._host)
        connection.endheaders()
        if source is None:
            return self._answer(connection)
        try:
            whole = self._stream(connection, source(), size)
        except (BrokenPipeError, ConnectionResetError) as error:
            # Who will not have it often says so, and closes before all has come.
            with suppress(OSError, HTTPException):
                return self._answer(connection)
            raise error
        answer = self._answer(connection)
        if not whole:
            self.close()
        return answer

    def _stream(self, connection: HTTPConnection, descriptor: int, size: int) -> bool:
        """False: an answer has come before all was sent."""
        left = size
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while left and (piece := file.read(min(PIECE, left))):
                if time.monotonic() >= self._end:
                    raise DeliveryError(f"{self._base.netloc} takes it too slowly: the time for it is up.")
                if not self._push(connection.sock, piece):
                    return False
                left -= len(piece)
        if left:
            raise DeliveryError("a result has changed while it was written.")
        return True

    def _push(self, to: socket.socket, piece: bytes) -> bool:
        """False: there is an answer already. Over TLS that cannot be seen, as servers send other things as well."""
        if self._base.scheme == "https":
            to.sendall(piece)
            return True
        left = memoryview(piece)
        while left:
            readable, writable, _ = select([to], [to], [], to.gettimeout())
            if readable:
                return False
            if not writable:
                raise TimeoutError("timed out")
            left = left[to.send(left) :]
        return True

    def _answer(self, connection: HTTPConnection) -> tuple[int, str, str]:
        with connection.getresponse() as answer:
            body = b""
            with suppress(OSError, HTTPException):  # how it went has been said
                body = answer.read(4096)
            code = _CODE.search(body)
            said = code[1].decode() if code else answer.reason
            found = answer.status, _shown(said), answer.headers.get("Location", "")
            self._settle(answer)
        return found

    def _settle(self, answer: HTTPResponse) -> None:
        """A connection whose answer was not read to its end is of no more use: what is left of it would be taken for
        the next one. To be asked before the answer is closed."""
        if not answer.isclosed() or answer.will_close:
            self.close()

    def _connect(self) -> HTTPConnection:
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeliveryError(f"the time for writing to {self._base.netloc} is up.")
        patience = min(SILENCE, left)
        if self._connection is None:
            kind = HTTPSConnection if self._base.scheme == "https" else HTTPConnection
            self._connection = kind(self._base.hostname or "", self._base.port, timeout=patience)
            if self._delivery.public:
                # As http.client's own, which it keeps there; the check has to be at the address that is connected to.
                self._connection._create_connection = _connect_in_public  # type: ignore[attr-defined]
        elif self._connection.sock is not None:
            self._connection.sock.settimeout(patience)
        return self._connection

    # ── what is said to the server ───────────────────────────────────────────────────────────────────────────

    def _path(self, name: str) -> str:
        return f"{self._base.path.rstrip('/')}/{escaped(name)}"

    def _headers(self, method: str, path: str, headers: dict[str, str], sha256: str) -> dict[str, str]:
        headers = {"User-Agent": "federated-execution-broker", "Accept-Encoding": "identity", **headers}
        if self._delivery.kind != "s3":
            return headers | self._credentials.authorization()
        key = self._credentials.key(self._delivery.region)
        if key is None:
            return headers
        return sigv4.signed(method, self._host, path, headers, key, time.time(), digest=sha256)

    def _followed(self, path: str, location: str) -> str:
        """The path that a redirect leads to, on the same host alone: what we send is for that one."""
        here = (self._base.scheme, self._base.netloc)
        try:
            target = urlsplit(urljoin(f"{'://'.join(here)}{path}", location))
            plain = not target.query and re.fullmatch(r"[\x21-\x7e]*", target.path)
        except ValueError:
            plain = None
        if not plain or (target.scheme, target.netloc) != here:
            raise DeliveryError(f"{self._base.netloc} redirects to another place, which is not followed.")
        return target.path

    def _make_folders(self, name: str) -> None:
        """WebDAV puts nothing into a folder that is not there (RFC 4918, 9.7.1). Those above the site's own prefix are
        not ours to make. What a server answers does not matter: the file itself is tried again."""
        steps = [step for step in self._path(name).split("/") if step][:-1]
        for i in range(self._delivery.above, len(steps)):
            self._send("MKCOL", f"/{'/'.join(steps[: i + 1])}/", 0, sigv4.EMPTY, None)


def _host(base: SplitResult) -> str:
    """As it stands in the header: without the port that is the scheme's own."""
    name = base.hostname or ""
    name = f"[{name}]" if ":" in name else name
    usual = {"http": 80, "https": 443}.get(base.scheme)
    return name if base.port in (None, usual) else f"{name}:{base.port}"


def _connect_in_public(address: tuple[str, int], timeout: float | None, source: object = None) -> socket.socket:
    """To a host that a user has named: a network that only this machine reaches is not theirs to write to."""
    try:
        return connect(address, timeout, public)
    except Barred:
        raise DeliveryError(f"{address[0]} is at no public address, and this site writes to those alone.") from None


def _digest(sha256: str) -> str:
    """RFC 9530."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"


def _shown(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)[:_SHOWN]


def _lost(base: SplitResult, error: Exception) -> DeliveryError:
    said = _shown(str(error) or type(error).__name__)
    return DeliveryError(f"{base.netloc} cannot be written to: {said}.", passing=True)


def _refused(base: SplitResult, status: int, reason: str) -> DeliveryError:
    return DeliveryError(f"{base.netloc} answers {status} {reason}.", passing=status in _PASSING)


def deliver(folder: Path, spec: Spec, delivery: Delivery, sleep: Callable[[float], None] = time.sleep) -> None:
    """All files that results.json lists, within the delivery's time. Raises DeliveryError."""
    files: list[dict[str, Any]] = read_json(folder / RESULTS) or []
    if len(files) >= MOST_FILES:
        raise DeliveryError(f"there are {MOST_FILES} files or more: pack them into fewer.")
    for file in files:
        if delivery.kind == "s3" and file["bytes"] > LARGEST_S3:
            raise DeliveryError(f"{_shown(file['name'])} is larger than {LARGEST_S3} bytes, the most for one object.")
    courier = Courier(delivery, time.monotonic() + delivery.within, Credentials(delivery.credentials), sleep)
    try:
        for file in files:
            courier.bring(
                file["name"],
                file["bytes"],
                file["checksum"].removeprefix("sha256:"),
                partial(open_beneath, folder, spec.results, file["name"]),
            )
    finally:
        courier.close()


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    try:
        spec = read_spec(folder)
        if spec.delivery is not None:
            deliver(folder, spec, spec.delivery._replace(within=float(arguments[1])))
    except (DeliveryError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
