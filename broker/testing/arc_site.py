"""A stand-in for an ARC computing element, made to its REST specification: jobs are really run, on this machine, and it
misbehaves when it is told to. It is no third-party server; `arc_server` starts the real one.

Source: "ARC CE REST interface specification" 1.0 and 1.1, https://www.nordugrid.org/arc/arc7/tech/rest/rest.html; how
answers look, and what A-REX says of failed jobs, as version 6.17.0 was seen to do it. Unlike that one it shows each
state at once. Imports aiohttp's server side, and `faults`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import ssl
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote
from xml.etree import ElementTree

import msgspec
from aiohttp import web

from broker.testing.faults import FAULTS, Scene, Sound, scripted

_ADL = "{http://www.eu-emi.eu/es/2010/12/adl}"
_KEPT = 7 * 86400.0  # seconds
LIVE = ("ACCEPTING", "PREPARING", "RUNNING", "KILLING")


@dataclass
class ArcJob:
    """`description`: as it was posted. `shows`: a state told in place of the true one. `nameless`: as long as the
    service's information does not have its name yet."""

    id: str
    description: bytes
    folder: Path
    state: str = "ACCEPTING"
    shows: str = ""
    nameless: bool = False
    killed: bool = False
    code: int | None = None
    error: str = ""
    made: float = field(default_factory=time.time)
    began: float | None = None
    ended: float | None = None
    task: asyncio.Task[None] | None = None
    process: asyncio.subprocess.Process | None = None

    @property
    def adl(self) -> ElementTree.Element:
        return ElementTree.fromstring(self.description)  # noqa: S314  of our own making

    @property
    def name(self) -> str:
        return self.adl.findtext(f"{_ADL}ActivityIdentification/{_ADL}Name") or ""

    def texts(self, *path: str) -> list[str]:
        return [element.text or "" for element in self.adl.findall("/".join(_ADL + step for step in path))]


class FakeArc:
    """`async with`. `folder`: where jobs run. `versions`: what it says that it speaks. `tokens`: those that it takes;
    None: it asks for none. `tls`: it is spoken. `info`: of its queue, in GLUE 2. `web`: what can be staged, by URL."""

    def __init__(
        self,
        folder: Path,
        *,
        versions: Sequence[str] = ("1.0",),
        tokens: Sequence[str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.folder, self.versions, self.tokens, self._tls = folder, versions, tokens, tls
        self.jobs: dict[str, ArcJob] = {}
        self.calls: Counter[str] = Counter()
        self.signed: list[str] = []  # Authorization of each call
        self.paths: list[str] = []
        self.info: dict[str, str] = {
            "Name": "grid",
            "FreeSlots": "2",
            "WaitingJobs": "0",
            "MaxSlotsPerJob": "999999999",
        }
        self.web: dict[str, bytes] = {}
        self.refuses = ""  # a reason for which it takes no job
        self.holds = False  # jobs stay where they are
        self._scripts: dict[str, list[str]] = {}
        self._ended = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0

    # ── the test's side ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}/arex"

    def behave(self, operation: str, *faults: str) -> None:
        """What goes wrong in the next calls of that operation, one by one: names of `faults.FAULTS`. `after:` before
        the name: what was asked is done first. An empty name: a sound answer. Operations: versions, list, new, info,
        kill, cluster, file."""
        self._scripts[operation] = list(faults)

    def named(self, name: str) -> list[ArcJob]:
        return [job for job in self.jobs.values() if job.name == name]

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for job in self.jobs.values():
            self._kill(job)
        await asyncio.gather(*(job.task for job in self.jobs.values() if job.task is not None))
        if self._runner is not None:
            await self._runner.cleanup()

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        parts = [unquote(part) for part in request.raw_path.partition("?")[0].split("/")[2:]]
        operation = _operation(request, parts)
        self.calls[operation] += 1
        self.paths.append(request.raw_path)
        self.signed.append(request.headers.get("Authorization", ""))
        script = self._scripts.get(operation) or [""]
        fault = script.pop(0)
        after, name, argument = scripted(fault)
        if operation == "file" and not fault:
            return self._file(request, parts)
        sound = self._answer(request, parts, operation, body) if after or not name else Sound(200, {})
        if name:
            return await FAULTS[name](Scene(request, sound, argument, self._ended))
        return web.Response(status=sound.status, body=sound.body, content_type="application/json")

    def _answer(self, request: web.Request, parts: Sequence[str], operation: str, body: bytes) -> Sound:
        if self.tokens is not None and self.signed[-1].removeprefix("Bearer ") not in self.tokens:
            return Sound(403)
        if operation == "versions":
            return Sound(200, {"version": _alone(list(self.versions))})
        if len(parts) < 2 or parts[1] not in self.versions:
            return Sound(404)
        if operation == "cluster":
            return Sound(200, self._glue())
        if operation == "list":
            return self._list(request.query.get("state", ""))
        if operation == "new":
            return self._new(body)
        if operation in ("info", "kill"):
            answer = self._info_of if operation == "info" else self._kill_of
            ids = [entry["id"] for entry in msgspec.json.decode(body)["job"]]
            return _listed([{"id": id, **answer(self.jobs.get(id))} for id in ids], 201)
        return Sound(404)

    def _list(self, states: str) -> Sound:
        wanted = states.split(",") if states else []
        jobs = [job for job in self.jobs.values() if not wanted or job.state in wanted]
        return _listed([{"id": job.id, **({"state": job.state} if wanted else {})} for job in jobs], 200)

    def _new(self, body: bytes) -> Sound:
        if self.refuses:
            return _listed([{"status-code": "500", "reason": self.refuses}], 201)
        id = f"FAKE{len(self.jobs)}n{time.time_ns()}"
        job = self.jobs[id] = ArcJob(id, body, self.folder / id)
        if not self.holds:
            job.task = asyncio.create_task(self._run(job))
        return _listed([{"status-code": "201", "reason": "Created", "id": id, "state": "ACCEPTING"}], 201)

    def _info_of(self, job: ArcJob | None) -> dict[str, Any]:
        if job is None:
            return {"status-code": "404", "reason": "Job not found", "info_document": ""}
        state = job.shows or job.state
        shown: dict[str, Any] = {
            "Name": "" if job.nameless else job.name,
            "State": ["nordugrid:" + state, "arcrest:" + state],
            "SubmissionTime": _stamp(job.made),
            "StartTime": _stamp(job.began),
            "EndTime": _stamp(job.ended),
            "WorkingAreaEraseTime": _stamp(job.ended + _KEPT if job.ended else None),
            "ExitCode": "" if job.code is None else str(job.code),
            "Error": job.error,
        }
        shown = {name: value for name, value in shown.items() if value}
        return {"status-code": "200", "reason": "OK", "info_document": {"ComputingActivity": shown}}

    def _kill_of(self, job: ArcJob | None) -> dict[str, Any]:
        if job is None:
            return {"status-code": "404", "reason": "Job not found"}
        self._kill(job)
        return {"status-code": "202", "reason": "Queued for killing"}

    def _glue(self) -> dict[str, Any]:
        other = {"Name": "other", "MappingQueue": "other", "FreeSlots": "0", "WaitingJobs": "9"}
        service = {"ComputingShare": [self.info, other], "ComputingManager": {"TotalSlots": "4"}}
        return {"Domains": {"AdminDomain": {"Services": {"ComputingService": service}}}}

    def _file(self, request: web.Request, parts: Sequence[str]) -> web.Response:
        job = self.jobs.get(parts[3])
        if job is not None and parts[4:] == ["diagnose", "local"]:
            return web.Response(text=f"lrms=fork\njobname={job.name}\n")
        path = job.folder.joinpath(*parts[5:]) if job is not None else None
        if path is None or not path.is_file() or ".." in parts:
            return web.Response(status=404)
        text = path.read_bytes()
        if asked := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", "")):
            return web.Response(status=206, body=text[int(asked[1]) :])
        return web.Response(body=text)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _kill(self, job: ArcJob) -> None:
        if job.state not in LIVE:
            return
        job.killed = True
        if job.process is not None:
            with contextlib.suppress(ProcessLookupError):
                job.process.send_signal(signal.SIGTERM)
            job.state = "KILLING"
        elif job.task is None:
            job.state, job.ended = "KILLED", time.time()

    async def _run(self, job: ArcJob) -> None:
        job.folder.mkdir(parents=True)
        job.state = "PREPARING"
        if trouble := self._stage(job):
            job.state, job.error = "FAILED", f"Failed in data staging: {trouble}"
            return
        await asyncio.sleep(0)
        if not job.killed:
            await self._execute(job)
        job.ended = time.time()
        self._clear(job)
        if job.killed:
            job.state, job.error = "KILLED", "Job is canceled by external request"
        elif job.code:
            job.state = "FAILED"
            job.error = f"LRMS error: ({job.code}) Job finished with wrong exit code - {job.code} != 0"
        else:
            job.state = "FINISHED"

    def _stage(self, job: ArcJob) -> str:
        """What stood in the way."""
        for file in job.adl.iter(f"{_ADL}InputFile"):
            url = file.findtext(f"{_ADL}Source/{_ADL}URI") or ""
            if url not in self.web:
                return f"Failed checking source replica {url}: Not Found"
            place = job.folder / (file.findtext(f"{_ADL}Name") or "")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(self.web[url])
        return ""

    async def _execute(self, job: ArcJob) -> None:
        path = [*job.texts("Application", "Executable", "Path"), *job.texts("Application", "Executable", "Argument")]
        out, err = (job.folder / job.texts("Application", name)[0] for name in ("Output", "Error"))
        with out.open("wb") as stdout, err.open("wb") as stderr:
            job.began, job.state = time.time(), "RUNNING"
            names = job.texts("Application", "Environment", "Name")
            told = dict(zip(names, job.texts("Application", "Environment", "Value"), strict=True))
            job.process = await asyncio.create_subprocess_exec(
                *path,
                cwd=job.folder,
                env={**os.environ, **told},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
            )
            if job.killed:  # while it was made
                job.process.send_signal(signal.SIGTERM)
            job.code = await job.process.wait()

    def _clear(self, job: ArcJob) -> None:
        """What is no output goes."""
        kept = {name.strip("/") for name in job.texts("DataStaging", "OutputFile", "Name")}
        for path in job.folder.iterdir():
            if path.name not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _operation(request: web.Request, parts: Sequence[str]) -> str:
    match parts:
        case ["rest"]:
            return "versions"
        case ["rest", _, "info"]:
            return "cluster"
        case ["rest", _, "jobs"]:
            return request.query.get("action", "list")
        case ["rest", _, "jobs", _, "session" | "diagnose", *_]:
            return "file"
    return "unknown"


def _alone(items: list[Any]) -> Any:
    """As A-REX 6 writes lists in JSON."""
    return items[0] if len(items) == 1 else items


def _listed(entries: list[Mapping[str, Any]], status: int) -> Sound:
    return Sound(status, {"job": _alone(entries)} if entries else None)


def _stamp(moment: float | None) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) if moment is not None else ""
