"""The program itself, as a process: started from a settings file, killed without warning, started again.

For tests that must not share a process with what they test. Imports aiohttp, PyYAML and the conformance helper.
"""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import yaml

from broker.domain import kinds
from broker.testing.conformance import Conformance

START_WITHIN = 30.0  # seconds; a machine that runs other things at the same time is slow to import
_LISTENS = re.compile(rb"listens on (http://127\.0\.0\.1:(\d+))\s*$")


class Program:
    """One broker. `settings` are those of its file, but for name, listen, store and access. `within`: words before
    its command, such as those that put it into a network of its own. It belongs to no event loop: `ready`, `kill` and
    `stop` block, for as long as a process takes to start or to end."""

    def __init__(self, folder: Path, name: str, *, within: Sequence[str] = (), **settings: Any) -> None:
        self.name, self.url = name, ""
        self._within = tuple(within)
        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._settings = {
            "name": name,
            "store": "broker.db",
            "access": {"anonymous": "loopback"},
            "log": {"format": "json"},
            **settings,
        }
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self._folder / "log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def launch(self) -> Program:
        """Returns at once; `ready` waits."""
        file = self._folder / "broker.yaml"
        file.write_text(yaml.safe_dump({**self._settings, "listen": f"127.0.0.1:{self._port}"}))
        command = [*self._within, sys.executable, "-m", "broker.cli.main", "serve", str(file)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)  # noqa: S603 - ours
        return self

    def ready(self) -> Program:
        """Returns when it listens: on a free port at first, on the same one from then on."""
        assert self._process is not None
        assert self._process.stdout is not None
        there, _, _ = select.select([self._process.stdout], [], [], START_WITHIN)
        line = self._process.stdout.readline() if there else b""
        found = _LISTENS.search(line)
        assert found, f"{self.name} did not start: {line!r} {self.log.read_text()[-2000:]}"
        self.url, self._port = found[1].decode(), int(found[2])
        return self

    def start(self) -> Program:
        return self.launch().ready()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. What it started goes on."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        with process:
            return process.wait(START_WITHIN)


ACCEPT = {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}
CANCEL = {**ACCEPT, "value": "CANCELLED"}


def platform(jobs: Path) -> dict[str, Any]:
    """Programs run open: they and a test talk to each other through files."""
    return {
        "platform": {"kind": "local", "folder": str(jobs), "isolation": "none", "grace": 1},
        "tariff": {"core_hour": 1.0},
        "capacity": {"cores": 64, "memory": 64},
    }


def above(**sites: Program | str) -> dict[str, Any]:
    """Settings of a broker before those: short waits, so that what a crash left is taken up soon."""
    urls = {name: site if isinstance(site, str) else site.url for name, site in sites.items()}
    return {
        "sites": {name: {"url": url, "poll": 0.2} for name, url in urls.items()},
        "acceptance": {"forward": "PT2S"},
    }


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Caller:
    """Calls a running program, and judges every document that comes back. `faults` is what was wrong with them.

    `law` is what documents are judged by; None: they are not."""

    def __init__(self, http: aiohttp.ClientSession, law: Mapping[str, Any] | None = None) -> None:
        self._http, self._law = http, law
        self.judges: dict[str, Conformance] = {}
        self.faults: list[str] = []
        self.judged = 0

    async def __call__(
        self, method: str, url: str, body: object = None, *, accept: str = "application/json", **headers: str
    ) -> Answer:
        sent = {"Accept": accept, **({"Content-Type": "application/json"} if body is not None else {}), **headers}
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        async with self._http.request(method, url, data=data, headers=sent, allow_redirects=False) as response:
            answer = Answer(response.status, response.headers, await response.read())
        if self._law is not None:
            await self._judge(method, url, answer)
        return answer

    async def _judge(self, method: str, url: str, answer: Answer) -> None:
        kind = answer.headers.get("Content-Type", "").split(";")[0]
        if kind not in ("application/json", "application/yaml", "application/problem+json") or not answer.body:
            return
        document = yaml.safe_load(answer.body) if kind == "application/yaml" else answer.json()
        schema = _schema(document, kind)
        if schema is None:
            return
        base = "/".join(url.split("/")[:3])
        if base not in self.judges:
            async with self._http.get(f"{base}/openapi.json") as response:
                self.judges[base] = Conformance(self._law or {}, await response.json())
        self.judged += 1
        found = self.judges[base].faults(document, schema)
        self.faults += [f"{method} {url} {answer.status}: {fault}" for fault in found]


def _schema(document: Any, kind: str) -> str | None:
    """What the answer claims to be; None: nothing that the standard or we describe by name."""
    if kind == "application/problem+json":
        return "Problem"
    claimed = document.get("kind", "") if isinstance(document, dict) else ""
    if "offerset" in claimed:
        return "OfferSetResponse"
    return "AbstractExecutionSession" if "/session/" in claimed else None
