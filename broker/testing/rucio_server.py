"""A real Rucio on the loopback, with its tables in a file of SQLite, for tests: up in three seconds.

Imports `children`. Wants the environment `rucio` of `make servers`. Everything here
blocks, and every wait is bounded. SQLite takes one writer: fill it one call after the other.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from broker.testing import children

ACCOUNT, USERNAME, PASSWORD = "root", "broker", "not-so-secret-4711"
STEP_WITHIN = 60.0  # seconds for making the tables; a machine that runs other things at the same time is slow
ANSWER_WITHIN = 30.0

_SETTINGS = """
[common]
logdir = {home}
loglevel = WARNING

[database]
default = sqlite:///{home}/rucio.db

[bootstrap]
userpass_identity = {username}
userpass_pwd = {password}
userpass_email = broker@example.org
x509_identity = CN=broker
x509_email = broker@example.org
gss_identity = broker@EXAMPLE.ORG
gss_email = broker@example.org
ssh_identity = ssh-rsa broker
ssh_email = broker@example.org

[policy]
permission = generic
schema = generic

[alembic]
cfg = {home}/alembic.ini
"""

# The tables are made by Alembic, which wants to know how to log.
_MIGRATION = """
[alembic]
script_location = rucio:db/sqla/migrate_repo
sqlalchemy.url = sqlite:///{home}/rucio.db

[loggers]
keys = root

[handlers]
keys = console

[formatters]
keys = generic

[logger_root]
level = WARN
handlers = console

[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic

[formatter_generic]
format = %(levelname)s [%(name)s] %(message)s
"""


class Copy(NamedTuple):
    """A file at one storage element. `state`: A(vailable), U(navailable), B(ad), C(opying)."""

    rse: str
    name: str
    size: int
    state: str = "A"


class RucioServer:
    """`bin`: the programs of its environment. Everything it writes lies in `folder`."""

    def __init__(self, bin: Path, folder: Path) -> None:
        self._bin, self.folder = bin, folder
        self.port = children.free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._token = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> RucioServer:
        """Returns when it answers: with its tables, the account, and nothing else."""
        self._configure()
        self._run(str(self._bin.parent / "rucio/tools/bootstrap.py"))
        with self._tables() as tables:
            tables.execute("PRAGMA journal_mode = WAL")  # else a list that is being read holds up a log-in
        # One worker: SQLite takes no more, and several would only wait for each other.
        command = ["-w", "1", "--threads", "4", "-b", f"127.0.0.1:{self.port}", "--no-control-socket", "-t", "120"]
        application = "rucio.web.rest.flaskapi.v1.main:application"
        self._process = children.launch(
            [str(self._bin / "python"), str(self._bin / "gunicorn"), *command, application],
            self.folder / "log",
            self._environment(),
            self.folder,
        )
        children.answers(f"{self.url}/ping", self._process, self.folder / "log", well=True)
        self._token = self.sign_in()
        return self

    def stop(self) -> None:
        """Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            children.end(process)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It accepts connections and answers nothing."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    # ── what it holds ────────────────────────────────────────────────────────────────────────────────────────

    def add_scope(self, scope: str) -> None:
        self.call("POST", f"/accounts/{ACCOUNT}/scopes/{scope}")

    def add_storage(self, rse: str, prefix: str, *, tape: bool = False, reach: bool = True) -> None:
        """`prefix`: a path that begins and ends with a slash. Files lie below `https://RSE.example.org:8443`. `reach`:
        it has a protocol, so that what lies there has an address."""
        self.call("POST", f"/rses/{rse}", {"deterministic": True, "rse_type": "TAPE" if tape else "DISK"})
        if not reach:
            return
        reads = {"read": 1, "write": 1, "delete": 1}
        body = {
            "hostname": f"{rse.lower()}.example.org", "port": 8443, "prefix": prefix, "scheme": "https",
            "impl": "rucio.rse.protocols.gfal.Default",
            "domains": {"lan": reads, "wan": {**reads, "third_party_copy_read": 1, "third_party_copy_write": 1}},
        }  # fmt: skip
        self.call("POST", f"/rses/{rse}/protocols/https", body)

    def add_copies(self, scope: str, copies: Sequence[Copy]) -> None:
        """Files, where they are new, and a copy of each."""
        for rse in dict.fromkeys(copy.rse for copy in copies):
            files = [
                {"scope": scope, "name": c.name, "bytes": c.size, "adler32": checksum(c.name), "state": c.state}
                for c in copies
                if c.rse == rse
            ]
            for part in _parts(files):
                self.call("POST", "/replicas", {"rse": rse, "files": part, "ignore_availability": True})

    def add_collection(self, scope: str, name: str, kind: str, members: Sequence[str]) -> None:
        """`kind`: DATASET (of files) or CONTAINER (of both)."""
        self.call("POST", f"/dids/{scope}/{quote(name, safe='')}", {"type": kind})
        dids = [{"scope": scope, "name": member} for member in members]
        for part in _parts(dids):
            self.call("POST", f"/dids/{scope}/{quote(name, safe='')}/dids", {"dids": part})

    def end_tokens(self) -> None:
        """Every token that was given out has ended an hour ago, ours too."""
        with self._tables() as tables:
            tables.execute("UPDATE tokens SET expired_at = datetime('now', '-1 hour')")
            tables.commit()
        self._token = ""

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    def sign_in(self) -> str:
        """A token, as anybody gets one who knows the password."""
        signed = {"X-Rucio-Account": ACCOUNT, "X-Rucio-Username": USERNAME, "X-Rucio-Password": PASSWORD}
        return str(self._send("GET", "/auth/userpass", None, signed)[0]["X-Rucio-Auth-Token"])

    def call(self, method: str, path: str, body: Any = None) -> bytes:
        """As its root account. AssertionError with what it says, where it does not do it."""
        self._token = self._token or self.sign_in()
        return self._send(method, path, body, {"X-Rucio-Auth-Token": self._token})[1]

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[Any, bytes]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.url + path, data, {"Content-Type": "application/json", **headers}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_WITHIN) as answer:  # noqa: S310 - our own server
                return answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise AssertionError(f"{method} {path}: {error.code} {said}\n{self._tail()}") from None

    # ── the program ──────────────────────────────────────────────────────────────────────────────────────────

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for file, text in (("rucio.cfg", _SETTINGS), ("alembic.ini", _MIGRATION)):
            text = text.replace("{home}", str(self.folder))  # the text holds other braces and percent signs
            (self.folder / file).write_text(text.replace("{username}", USERNAME).replace("{password}", PASSWORD))

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "RUCIO_CONFIG": str(self.folder / "rucio.cfg"), "PYTHONWARNINGS": "ignore"}

    def _tables(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self.folder / "rucio.db", timeout=ANSWER_WITHIN))

    def _run(self, script: str) -> None:
        done = subprocess.run(  # noqa: S603 - a script of the environment
            [str(self._bin / "python"), script],
            env=self._environment(),
            cwd=self.folder,
            capture_output=True,
            timeout=STEP_WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]

    def _tail(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""


def _parts(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """SQLite takes no statement as deep as a thousand files make it."""
    return (items[at : at + 400] for at in range(0, len(items), 400))


def checksum(name: str) -> str:
    """The adler32 that a file of that name is given: eight hexadecimal digits."""
    return f"{sum(name.encode()):08x}"
