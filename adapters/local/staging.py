"""Brings a job's program and data into its folder: `python -m adapters.local.staging FOLDER`, a child of the
supervisor, which limits and ends it. Imports the standard library alone.

Exit 0: all is in place. Exit 1: the last line on stderr says in one sentence what is wrong.
Bytes come from http and https, from files below the allowed roots, and, for the program, from data URLs. No
credentials are sent. A redirect may lead to http and https alone, and never from https to http.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, Protocol
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from adapters.local.layout import HOME, STORE, TMP, WORK, Datum, Mount, Spec, read_spec
from adapters.local.transfers import Report, Transfer

SILENCE = 60.0  # seconds without a byte after which a server counts as dead; the supervisor bounds the whole
PIECE = 1 << 20
REDIRECTS = 5

# The names of checksum types as they are compared: lower case, without dashes.
CHECKSUMS = ("adler32", "md5", "sha1", "sha256", "sha512")


class StagingError(Exception):
    """Its text is one sentence for the person whose job it is."""


def checksum_type(name: str) -> str | None:
    """`SHA-256` → `sha256`; None: none that we can compute."""
    plain = name.lower().replace("-", "")
    return plain if plain in CHECKSUMS else None


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


class _Redirects(request.HTTPRedirectHandler):
    max_redirections = REDIRECTS

    def redirect_request(
        self, req: request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> request.Request | None:
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme != "https"):
            raise StagingError(f"{req.full_url} redirects to {newurl}, which is not followed.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> request.OpenerDirector:
    """Unlike urllib's own, it opens neither files nor ftp."""
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.DataHandler(),
        _Redirects(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
        request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "federated-execution-broker"), ("Accept", "*/*")]
    return opener


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
        raise StagingError(f"{url} is on another machine.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise StagingError(f"{url} cannot be read: {error.strerror}.") from error
    opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if not any(opened.is_relative_to(Path(root).resolve()) for root in roots):
        os.close(descriptor)
        raise StagingError(f"{url} is outside the folders that programs may read from.")
    if not opened.is_file():
        os.close(descriptor)
        raise StagingError(f"{url} is no plain file.")
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
    summer = _summer(checksum) if checksum else None
    count = 0
    try:
        source = _open_file(url, roots) if urlsplit(url).scheme == "file" else _opener().open(url, timeout=SILENCE)
        with source, target.open("wb") as file:
            for piece in _pieces(source):
                count += len(piece)
                if count > most:
                    raise StagingError(f"{url} is larger than {most} bytes, the most this site takes.")
                file.write(piece)
                if summer:
                    summer.update(piece)
            announced = _announced(source)
    except HTTPError as error:
        raise StagingError(f"{url} answers {error.code} {error.reason}.") from error
    except URLError as error:
        raise StagingError(f"{url} cannot be reached: {error.reason}.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise StagingError(f"{url} cannot be fetched: {error}.") from error
    if announced is not None and announced != count:
        raise StagingError(f"{url} broke off after {count} of {announced} bytes.")
    return count, summer.hexdigest() if summer else ""


def stage_datum(datum: Datum, store: Path, roots: tuple[str, ...], most: int) -> Transfer:
    """One data resource from the first of its replicas that has it whole."""
    target = store / datum.place
    target.parent.mkdir(parents=True, exist_ok=True)
    troubles = []
    for url in datum.urls:
        began = time.monotonic()
        try:
            count, found = fetch(url, target, roots, most, datum.checksum[0] if datum.checksum else None)
            seconds = time.monotonic() - began
            _compare(datum, url, count, found)
        except StagingError as error:
            troubles.append(str(error))
        else:
            if datum.readonly:
                target.chmod(0o400)
            return Transfer(url, count, seconds, time.time(), cached=urlsplit(url).scheme == "file")
    raise StagingError(f'The data "{datum.name}" cannot be staged: {" ".join(troubles)}')


def _compare(datum: Datum, url: str, count: int, found: str) -> None:
    if datum.bytes is not None and count != datum.bytes:
        raise StagingError(f"{url} has {count} bytes, {datum.bytes} were stated.")
    if datum.checksum and found != _digits(*datum.checksum):
        kind, stated = datum.checksum
        raise StagingError(f"{url} has the {kind} checksum {found}, {stated} was stated.")


def _digits(kind: str, stated: str) -> str:
    """Checksums are compared as hexadecimal; adler32 is often written without its leading zeros."""
    plain = stated.strip().lower()
    return plain.zfill(8) if kind == "adler32" else plain


def _link(work: Path, name: str, target: Path) -> None:
    place = work / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(target.resolve(), place.parent.resolve()))


def _mount(folder: Path, mount: Mount) -> None:
    try:
        _link(folder / WORK, mount.path, folder / STORE / mount.source)
    except OSError as error:
        raise StagingError(f"The volume {mount.path} cannot be placed: {error.strerror}.") from error


def _protect(folder: Path) -> None:
    """Take the right to write from everything below; it binds all but root, who is told so by the site."""
    for place, _, files in os.walk(folder):
        for path in (Path(place, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o400)
        Path(place).chmod(0o500)


def _program(folder: Path, spec: Spec) -> None:
    target = folder / WORK / spec.script
    if spec.source is not None:
        target.write_text(spec.source, encoding="utf-8")
    elif spec.location is not None:
        fetch(spec.location, target, spec.file_roots, spec.bounds.source)
    else:
        raise StagingError("The program has neither source nor location.")


def stage(folder: Path, spec: Spec) -> None:
    """All of it. Raises StagingError."""
    store, work = folder / STORE, folder / WORK
    for place in (store / "data", work, folder / HOME, folder / TMP, *(store / name for name in spec.storages)):
        place.mkdir(parents=True, exist_ok=True)
    _program(folder, spec)
    for mount in spec.mounts:
        _mount(folder, mount)
    _views(folder, spec)
    _data(folder, spec)
    written = {mount.source for mount in spec.mounts if not mount.readonly}
    for mount in spec.mounts:
        if mount.source in spec.storages and mount.source not in written:
            _protect(store / mount.source)


def _data(folder: Path, spec: Spec) -> None:
    """What came before something went wrong is reported too."""
    room = spec.bounds.disk
    with closing(Report(folder)) as report:
        for datum in spec.data:
            transfer = stage_datum(datum, folder / STORE, spec.file_roots, room)
            room -= transfer.bytes
            report.add(transfer)


def _views(folder: Path, spec: Spec) -> None:
    """./data/<name> and ./results, unless the request mounts something of its own there."""
    work = folder / WORK
    if not (work / "data").is_symlink():
        (work / "data").mkdir(exist_ok=True)
        for datum in spec.data:
            if not os.path.lexists(work / "data" / datum.name):
                _link(work, f"data/{datum.name}", folder / STORE / datum.place)
    if not (work / "results").is_symlink():
        (work / "results").mkdir(exist_ok=True)


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    try:
        stage(folder, read_spec(folder))
    except (StagingError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
