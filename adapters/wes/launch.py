"""Runs one Python program where a workflow engine has put it: `python launch.py`, beside `launch.json`. It is sent
along with each program, so it imports the standard library alone and asks no more than Python 3.8 on a POSIX system.

    launch.json     what to run (tool.py writes it)
    data/<name>     what the engine has not put there is fetched: cwltool takes an error page for the file
    results         what the program leaves there
    stdout.txt, stderr.txt
    manifest.json   names, bytes and SHA-256 of the results, written when the program has ended well

Of a program that ends otherwise, the last line of stderr says how, as JSON after MARK: an engine hands back no files of
a step that failed, but its stderr.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import zlib
from contextlib import suppress
from http.client import HTTPException, InvalidURL
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPRedirectHandler, Request, build_opener

MARK = "broker-launch: "
SAID = 4096  # characters of each stream that are told of a program that failed
PIECE = 1 << 20
SILENCE = 60.0  # seconds without a byte after which a server counts as dead
FETCHING = 3600  # seconds for all data together: a server that sends a byte now and then is not waited for
PR_SET_PDEATHSIG = 1


class Over(Exception):
    """It has come to its end: the exit code and the words."""

    def __init__(self, code: int, words: str) -> None:
        super().__init__(words)
        self.code, self.words = code, words


class Adler32:
    def __init__(self) -> None:
        self.value = 1

    def update(self, data: bytes) -> None:
        self.value = zlib.adler32(data, self.value)

    def hexdigest(self) -> str:
        return f"{self.value:08x}"


def main() -> int:
    with open("launch.json", encoding="utf-8") as file:
        told = json.load(file)
    try:
        prepare(told)
        run(told)
        with open("manifest.json", "w", encoding="utf-8") as file:
            json.dump(survey("results"), file)
    except Over as over:
        said = {"words": over.words, "code": over.code, "stdout": tail("stdout.txt"), "stderr": tail("stderr.txt")}
        sys.stderr.write("\n" + MARK + json.dumps(said) + "\n")
        return over.code
    return 0


def prepare(told: dict[str, Any]) -> None:
    """Folders and volumes, and whether the data is what it was said to be."""

    def late(_number: int, _frame: Any) -> None:
        raise Over(124, f"the data was not there within {FETCHING:g} s")

    os.makedirs("results", exist_ok=True)
    for place in told["folders"]:
        os.makedirs(place, exist_ok=True)
    signal.signal(signal.SIGALRM, late)
    signal.alarm(FETCHING)
    for datum in told["data"]:
        if datum["urls"]:
            fetch(datum["place"], datum["urls"], datum["writable"], datum["size"])
        check(datum["place"], datum["size"], datum["kind"], datum["value"])
    signal.alarm(0)
    for path, source in told["mounts"]:
        if path == "results":  # the engine collects that folder itself, so it is the other one that becomes a link
            path, source = source, path
            if os.path.isdir(path) and not os.listdir(path):
                os.rmdir(path)
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        os.symlink(os.path.abspath(source), path)


class Onward(HTTPRedirectHandler):
    """A redirect leads to http or https, and from https to https alone."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if not newurl.startswith("https://") and not (newurl.startswith("http://") and req.type == "http"):
            raise URLError("a redirect that leads elsewhere")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(place: str, urls: list[str], writable: bool, size: int | None = None) -> None:
    """From the first address that gives it. What is said of an address leaves out its user and query, which may be
    keys."""
    os.makedirs(os.path.dirname(place) or ".", exist_ok=True)
    said = []
    for url in urls:
        try:
            download(url, place, size)
        except (OSError, HTTPException, ValueError) as error:
            code = getattr(error, "code", None)
            why = f"HTTP {code}" if code else str(getattr(error, "reason", error))
            why = "it is no address" if isinstance(error, (InvalidURL, ValueError)) else why  # whose text holds it
            scheme, _, rest = url.partition("?")[0].partition("://")
            host, slash, path = rest.partition("/")
            said.append(scheme + "://" + host.rpartition("@")[2] + slash + path + ": " + why)
        else:
            os.chmod(place, 0o644 if writable else 0o444)
            return
    raise Over(1, f"{place} cannot be read: {'; '.join(said)}")


def download(url: str, place: str, size: int | None) -> None:
    count = 0
    with build_opener(Onward).open(url, timeout=SILENCE) as answer, open(place, "wb") as file:
        for piece in iter(lambda: answer.read(PIECE), b""):
            count += len(piece)
            if size is not None and count > size:
                raise OSError(f"it is larger than the {size} bytes that were stated")
            file.write(piece)
        stated = answer.headers.get("Content-Length")
    if stated is not None and int(stated) != count:
        raise OSError(f"{count} bytes came of {stated}")


def check(place: str, size: int | None, kind: str, value: str) -> None:
    count = 0
    summer: Any = Adler32() if kind == "adler32" else hashlib.new(kind) if kind else None
    with open(place, "rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            count += len(piece)
            if summer:
                summer.update(piece)
    if size is not None and count != size:
        raise Over(1, f"{place} has {count} bytes, and {size} were stated")
    if summer and summer.hexdigest() != value.lower().rjust(8, "0"):
        raise Over(1, f"the {kind} of {place} is {summer.hexdigest()}, and {value} was stated")


def run(told: dict[str, Any]) -> None:
    with open("stdout.txt", "wb") as out, open("stderr.txt", "wb") as err:
        child = subprocess.Popen(  # noqa: S603  running it is what we are for
            [sys.executable, "-u", "program.py", *told["arguments"]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment(told),
            start_new_session=True,
            preexec_fn=lambda: bound(told["memory"]),
        )
    asked: list[int] = []

    def stop(number: int, _frame: Any) -> None:
        asked.append(number)
        end(child)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        code = child.wait(told["seconds"])
    except subprocess.TimeoutExpired:
        end(child)
        child.wait()
        raise Over(124, "the time limit of {:g} s is over".format(told["seconds"])) from None
    finally:
        end(child)  # what it left running
    if asked:
        raise Over(128 + asked[0], "it was ended by the workflow engine")
    if code < 0:
        raise Over(128 - code, f"the program was ended by {signal.Signals(-code).name}")
    if code:
        raise Over(code, f"the program ended with exit code {code}")


def environment(told: dict[str, Any]) -> dict[str, str]:
    here = os.getcwd()
    places = {name: os.path.join(here, place) for name, place in told["places"].items()}
    return {**os.environ, "PYTHONUNBUFFERED": "1", **told["environment"], **told["told"], **places}


def bound(memory: int) -> None:
    """Between fork and exec. The program dies with us, however we end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if memory:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        most = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def end(child: subprocess.Popen[bytes]) -> None:
    """Its process group, at once."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)


def survey(root: str) -> list[dict[str, Any]]:
    """The plain files below it. Links are not followed, and not listed."""
    found = []
    for place, _, files in os.walk(root):
        for name in files:
            path = os.path.join(place, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                found.append(measure(path, os.path.relpath(path, root)))
    return sorted(found, key=lambda entry: entry["name"])


def measure(path: str, name: str) -> dict[str, Any]:
    count, summer = 0, hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(PIECE), b""):
            count += len(piece)
            summer.update(piece)
    return {"name": name, "bytes": count, "sha256": summer.hexdigest()}


def tail(path: str) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(-min(4 * SAID, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return file.read().decode("utf-8", "replace")[-SAID:]
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
