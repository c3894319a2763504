"""A stand-in for a GA4GH TES 1.1 server, for tests: made to the official OpenAPI document, and no product of anybody.

It really runs what it is given, as processes of this machine and *without containers*: an image is a name that it knows
or does not, and of the paths in a container it sees to it by writing its own in their place, in commands and
environment. Inputs come from http, https, file, S3 or inline; outputs go to files, by PUT to http, or to S3. What it
leaves out: wildcards in outputs, directories as inputs, zones; nothing bounds cores and disk. Memory is watched.

Where it is told to, it misbehaves (`behave`, with the table of `faults`), or shows a state that is not so (`show`).

    async with TesServer(folder) as server:          # in this process
        server.url

    with serving(folder) as url:                     # in one of its own: python -m broker.testing.tes_server

Source: openapi/task_execution_service.openapi.yaml of ga4gh/task-execution-schemas, version 1.1.0. Imports aiohttp, the
launcher, the table of faults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

import aiohttp
import msgspec
from aiohttp import web

from broker.domain.quantities import format_instant
from broker.testing import children
from broker.testing.faults import FAULTS, Scene, Sound

OPERATIONS = ("info", "list", "create", "task", "cancel")
OVER = ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED")
IMAGE = "python:3"  # what it knows by itself
PATH = "/ga4gh/tes/v1"

_STATES = ("UNKNOWN", "QUEUED", "INITIALIZING", "RUNNING", "PAUSED", "CANCELING", *OVER)
_VIEWS = ("MINIMAL", "BASIC", "FULL")
_LOOK = 0.02  # seconds between two looks at the memory of what runs
_PIECE = 1 << 16
# moto takes any key, and no signature is looked at.
_S3 = {"Authorization": "AWS4-HMAC-SHA256 Credential=any/20260101/us-east-1/s3/aws4_request, SignedHeaders=host"}

Script = str | Sequence[str | None] | None


class Trouble(Exception):
    """Why the system could not run a task; its text goes to the system's log."""


class Run:
    """One task. `document` is what was posted, but for what the standard has left out of it."""

    def __init__(self, id: str, document: dict[str, Any], user: str, root: Path, warnings: Sequence[str]) -> None:
        self.id, self.document, self.user, self.root = id, document, user, root
        self.state, self.created = "QUEUED", time.time()
        self.began: float | None = None
        self.ended: float | None = None
        self.executors: list[dict[str, Any]] = []
        self.outputs: list[dict[str, str]] = []
        self.system = list(warnings)
        self.task: asyncio.Task[None] | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.ending = ""  # the state that somebody has asked it to end in
        self.shown = ""

    def view(self, view: str) -> dict[str, Any]:
        shown: dict[str, Any] = {"id": self.id, "state": self.shown or self.state}
        if view == "MINIMAL":
            return shown
        full = view == "FULL"
        inputs = [item if full else _without(item, "content") for item in self.document.get("inputs", ())]
        logs = [item if full else _without(item, "stdout", "stderr") for item in self.executors]
        log = {"logs": logs, "outputs": self.outputs, "metadata": {"server": "stand-in"}}
        log |= {"system_logs": self.system} if full else {}
        log |= {"start_time": format_instant(self.began)} if self.began else {}
        log |= {"end_time": format_instant(self.ended)} if self.ended else {}
        began = self.began is not None or self.system
        return {
            **self.document,
            **({"inputs": inputs} if inputs else {}),
            **shown,
            "creation_time": format_instant(self.created),
            "logs": [log] if began else [],
        }

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


class TesServer:
    """`images`: the names that it knows. `storage`, `parameters`: as service-info tells them. `tokens`: bearer token →
    user, and `passwords`: user → password; with either, each user sees their own tasks alone. `s3`: an endpoint for
    s3 URLs. `most`: tasks on a page, at most."""

    def __init__(
        self,
        folder: Path,
        *,
        images: Sequence[str] = (IMAGE,),
        storage: Sequence[str] = (),
        parameters: Sequence[str] = (),
        tokens: Mapping[str, str] | None = None,
        passwords: Mapping[str, str] | None = None,
        s3: str = "",
        most: int = 256,
    ) -> None:
        self.folder, self.images, self.storage, self.parameters = folder, images, storage, parameters
        self.tokens, self.passwords, self.s3, self.most = dict(tokens or {}), dict(passwords or {}), s3, most
        self.runs: dict[str, Run] = {}
        self.calls: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(16)
        self._scripts: dict[str, list[str | None] | str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._http: aiohttp.ClientSession | None = None

    # ── the test's side ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{PATH}"

    def behave(self, **scripts: Script) -> None:
        """Operation → a fault's name for every call from now on, a sequence for the next calls one by one (None: a
        sound answer), or None for sound again. `after:` before the name: what was asked is done first."""
        for operation, script in scripts.items():
            if operation not in OPERATIONS:
                raise ValueError(f"{operation}: not one of {', '.join(OPERATIONS)}")
            if script is None:
                self._scripts.pop(operation, None)
            else:
                self._scripts[operation] = script if isinstance(script, str) else list(script)

    def of(self, key: str, value: str) -> list[Run]:
        """The tasks with that tag, the oldest first."""
        return [run for run in self.runs.values() if run.document.get("tags", {}).get(key) == value]

    def slots(self, most: int) -> None:
        """How many tasks run at once from now on; what waits for room goes on waiting."""
        self._slots = asyncio.Semaphore(most)

    def show(self, id: str, state: str) -> None:
        """Another state than it is in, from now on; empty: the true one."""
        self.runs[id].shown = state

    def pause(self, id: str) -> None:
        run = self.runs[id]
        assert run.process is not None
        os.killpg(run.process.pid, signal.SIGSTOP)
        run.state = "PAUSED"

    def end(self, id: str, state: str) -> None:
        """As CANCELED, by the user, or PREEMPTED, by the system."""
        run = self.runs[id]
        if run.state in OVER or run.ending:
            return
        run.ending = state
        if run.state == "QUEUED" and run.task is not None:
            run.task.cancel()
            run.state, run.ended = state, time.time()
        else:
            run.state = "CANCELING" if state == "CANCELED" else run.state
            run.kill()

    async def __aenter__(self) -> TesServer:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self, port: int = 0) -> TesServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self._http = aiohttp.ClientSession(auto_decompress=False)
        return self

    async def stop(self) -> None:
        """All that runs is killed. Idempotent."""
        self._ended.set()
        for id in self.runs:
            self.end(id, "CANCELED")
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        runner, self._runner = self._runner, None
        if runner is not None and self._http is not None:
            await self._http.close()
            await runner.cleanup()

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        operation, answer = self._called(request, body)
        self.calls[operation] += 1
        script = self._next(operation)
        first, _, rest = script.partition(":")
        acts_first, script = first == "after", rest if first == "after" else script
        name, _, argument = script.partition(":")
        if not name:
            return self._answered(request, answer).response()
        # What only reads does no harm, and a fault is shown the sound answer.
        acts = acts_first or request.method == "GET"
        sound = self._answered(request, answer) if acts else Sound(200, {})
        return await FAULTS[name](Scene(request, sound, argument, self._ended))

    def _next(self, operation: str) -> str:
        script = self._scripts.get(operation)
        if isinstance(script, list):
            return (script.pop(0) if script else None) or ""
        return script or ""

    def _called(self, request: web.Request, body: bytes) -> tuple[str, Callable[[str], Sound]]:
        method, path = request.method, unquote(request.path).removeprefix(PATH)
        if not request.path.startswith(PATH):
            return "", lambda user: _wrong(404, "no such path")
        if (method, path) == ("GET", "/service-info"):
            return "info", lambda user: Sound(200, self._info())
        if (method, path) == ("GET", "/tasks"):
            return "list", lambda user: self._list(request, user)
        if (method, path) == ("POST", "/tasks"):
            return "create", lambda user: self._create(body, user)
        id = path.removeprefix("/tasks/")
        if method == "GET" and id != path:
            return "task", lambda user: self._one(id, request, user)
        if method == "POST" and id.endswith(":cancel"):
            return "cancel", lambda user: self._cancel(id.removesuffix(":cancel"), user)
        return "", lambda user: _wrong(404, "no such path")

    def _answered(self, request: web.Request, answer: Callable[[str], Sound]) -> Sound:
        user = self._user(request)
        if user is None:
            return Sound(401, {"message": "sign in"}, {"WWW-Authenticate": "Bearer"})
        return answer(user)

    def _user(self, request: web.Request) -> str | None:
        """Empty: everybody is the same. None: nobody whom it knows."""
        if not self.tokens and not self.passwords:
            return ""
        told = request.headers.get("Authorization", "")
        for user, password in self.passwords.items():
            if told == f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}":
                return user
        return self.tokens.get(told.removeprefix("Bearer "))

    def _info(self) -> dict[str, Any]:
        return {
            "id": "org.example.stand-in",
            "name": "stand-in",
            "type": {"group": "org.ga4gh", "artifact": "tes", "version": "1.1.0"},
            "organization": {"name": "tests", "url": "https://example.org"},
            "version": "0",
            "storage": list(self.storage),
            "tesResources_backend_parameters": list(self.parameters),
        }

    def _list(self, request: web.Request, user: str) -> Sound:
        asked = request.query
        view, state, size = asked.get("view", "MINIMAL"), asked.get("state", ""), asked.get("page_size", "256")
        start = asked.get("page_token", "0")
        if view not in _VIEWS or (state and state not in _STATES):
            return _wrong(400, "no such view or state")
        if not size.isdigit() or not 0 < int(size) < 2048 or not start.isdigit():
            return _wrong(400, "page_size is from 1 to 2047, and page_token as it was given")
        keys, values = asked.getall("tag_key", []), asked.getall("tag_value", [])
        wanted = dict(zip(keys, [*values, *[""] * len(keys)], strict=False))
        found = [
            run
            for run in reversed(self.runs.values())
            if self._sees(user, run)
            and _tagged(run.document.get("tags", {}), wanted)
            and str(run.document.get("name", "")).startswith(asked.get("name_prefix", ""))
            and (not state or (run.shown or run.state) == state)
        ]
        end = int(start) + min(int(size), self.most)
        more = {"next_page_token": str(end)} if end < len(found) else {}
        return Sound(200, {"tasks": [run.view(view) for run in found[int(start) : end]], **more})

    def _one(self, id: str, request: web.Request, user: str) -> Sound:
        run, view = self.runs.get(id), request.query.get("view", "MINIMAL")
        if run is None or not self._sees(user, run):
            return _wrong(404, "no such task")
        return Sound(200, run.view(view)) if view in _VIEWS else _wrong(400, "no such view")

    def _sees(self, user: str, run: Run) -> bool:
        return run.user == user

    def _cancel(self, id: str, user: str) -> Sound:
        run = self.runs.get(id)
        if run is None or not self._sees(user, run):
            return _wrong(404, "no such task")
        self.end(id, "CANCELED")
        return Sound(200, {})

    def _create(self, body: bytes, user: str) -> Sound:
        try:
            document = msgspec.json.decode(body, type=dict[str, Any])
            _checked(document)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            return _wrong(400, str(error))
        id = uuid4().hex[:20]
        warnings = self._known_parameters(document)
        run = Run(id, document, user, self.folder / id / "root", warnings)
        self.runs[id] = run
        run.task = asyncio.create_task(self._run(run))
        self._tasks.add(run.task)
        run.task.add_done_callback(self._tasks.discard)
        return Sound(200, {"id": id})

    def _known_parameters(self, document: dict[str, Any]) -> list[str]:
        """What the standard says of those that are not supported: they are not kept, and the system's log warns."""
        asked = document.get("resources", {}).get("backend_parameters", {})
        known = {name.lower() for name in self.parameters}
        unknown = [name for name in asked if name.lower() not in known]
        for name in unknown:
            del asked[name]
        return [f"backend parameter {name} is not supported" for name in unknown]

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _run(self, run: Run) -> None:
        try:
            async with self._slots:
                state = run.ending or await self._through(run)
        except Trouble as trouble:
            run.system.append(str(trouble))
            state = "SYSTEM_ERROR"
        except (OSError, aiohttp.ClientError, ValueError) as error:
            run.system.append(f"{type(error).__name__}: {error}")
            state = "SYSTEM_ERROR"
        run.ended = time.time()
        run.state = run.ending or state

    async def _through(self, run: Run) -> str:
        run.state, run.began = "INITIALIZING", time.time()
        strict = run.document.get("resources", {}).get("backend_parameters_strict")
        if strict and run.system:
            raise Trouble("backend_parameters_strict, and not all are supported")
        for executor in run.document["executors"]:
            if executor["image"].partition("@")[0] not in self.images:
                raise Trouble(f"no such image: {executor['image']}")
        for item in run.document.get("inputs", ()):
            await self._stage(run, item)
        for folder in (*run.document.get("volumes", ()), *_folders(run.document.get("outputs", ()))):
            _within(run, folder).mkdir(parents=True, exist_ok=True)
        good = await self._execute_all(run)
        if run.ending:
            return run.ending
        for item in run.document.get("outputs", ()):
            await self._write(run, item)
        return "COMPLETE" if good else "EXECUTOR_ERROR"

    async def _execute_all(self, run: Run) -> bool:
        """Whether all went well. What was asked to end meanwhile goes no further."""
        for executor in run.document["executors"]:
            if run.ending:
                break
            run.state = "RUNNING"
            if await self._execute(run, executor) and not executor.get("ignore_error"):
                return False
        return True

    async def _execute(self, run: Run, executor: Mapping[str, Any]) -> int:
        """The exit code, 128 and the signal's number where one ended it."""
        place = _places(run)
        command = [place(word) for word in executor["command"]]
        environment = {name: place(value) for name, value in executor.get("env", {}).items()}
        own = {"PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}", "LANG": "C.UTF-8"}
        folder = _within(run, executor.get("workdir", "/"))
        folder.mkdir(parents=True, exist_ok=True)
        at = len(run.executors)
        log: dict[str, Any] = {"start_time": format_instant(time.time())}
        run.executors.append({**log, "exit_code": 0})
        out, err = (run.root.parent / f"{name}.{at}" for name in ("stdout", "stderr"))
        given = _within(run, executor["stdin"]) if executor.get("stdin") else Path(os.devnull)
        with given.open("rb") as stdin, out.open("wb") as stdout, err.open("wb") as stderr:
            try:
                run.process = await asyncio.create_subprocess_exec(
                    *command, stdin=stdin, stdout=stdout, stderr=stderr,
                    env=own | environment, cwd=folder, start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                stderr.write(f"{executor['command'][0]}: {error.strerror}\n".encode())
                code = 127
            else:
                code = await self._waited(run, run.process)
        texts = {name: path.read_text(errors="replace") for name, path in (("stdout", out), ("stderr", err))}
        run.executors[at] = {**log, **texts, "exit_code": code, "end_time": format_instant(time.time())}
        for name, path in (("stdout", out), ("stderr", err)):
            if wanted := executor.get(name):
                _within(run, wanted).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, _within(run, wanted))
        return code

    async def _waited(self, run: Run, process: asyncio.subprocess.Process) -> int:
        if run.ending:  # it was asked for before there was a process
            run.kill()
        most = run.document.get("resources", {}).get("ram_gb")
        waiting = asyncio.ensure_future(process.wait())
        while not waiting.done():
            await asyncio.wait([waiting], timeout=_LOOK if most else None)
            if most and not waiting.done() and _memory(process.pid) > most * 1e9:
                run.system.append(f"OOMKilled: it used more than {most} GB")
                run.kill()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind
        code = waiting.result()
        return code if code >= 0 else 128 - code

    async def _stage(self, run: Run, item: Mapping[str, Any]) -> None:
        if item.get("type", "FILE") != "FILE":
            raise Trouble(f"no directories are staged: {item['path']}")
        target = _within(run, item["path"])
        target.parent.mkdir(parents=True, exist_ok=True)
        if item.get("content"):
            target.write_text(item["content"])
            return
        url = item["url"]
        if urlsplit(url).scheme == "file":
            await asyncio.to_thread(shutil.copyfile, unquote(urlsplit(url).path), target)
            return
        assert self._http is not None
        there, headers = self._there(url)
        async with self._http.get(there, headers=headers) as answer:
            if answer.status != 200:
                raise Trouble(f"{url}: {answer.status}")
            with target.open("wb") as file:
                async for piece in answer.content.iter_chunked(_PIECE):
                    file.write(piece)

    async def _write(self, run: Run, item: Mapping[str, Any]) -> None:
        source, url = _within(run, item["path"]), item["url"].rstrip("/")
        if item.get("type", "FILE") == "FILE":
            await self._put(run, source, item["path"], url)
            return
        for below in _names(source):
            await self._put(run, source / below, f"{item['path'].rstrip('/')}/{below}", f"{url}/{quote(below)}")

    async def _put(self, run: Run, source: Path, path: str, url: str) -> None:
        try:
            data = await asyncio.to_thread(source.read_bytes)
        except FileNotFoundError:
            raise Trouble(f"there is no output {path}") from None
        if urlsplit(url).scheme == "file":
            target = Path(unquote(urlsplit(url).path))
            target.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(target.write_bytes, data)
        else:
            assert self._http is not None
            there, headers = self._there(url)
            async with self._http.put(there, headers=headers, data=data) as answer:
                if answer.status not in (200, 201, 204):
                    raise Trouble(f"{url}: {answer.status}")
        run.outputs.append({"path": path, "url": url, "size_bytes": str(len(data))})

    def _there(self, url: str) -> tuple[str, dict[str, str]]:
        """Where http is spoken for it."""
        parts = urlsplit(url)
        if parts.scheme in ("http", "https"):
            return url, {}
        if parts.scheme == "s3" and self.s3:
            return f"{self.s3}/{parts.netloc}{parts.path}", _S3
        raise Trouble(f"no storage of that kind: {url}")


def _checked(document: dict[str, Any]) -> None:
    """Raises ValueError for what the schema does not allow, where that would matter."""
    if not isinstance(document.get("executors"), list) or not document["executors"]:
        raise ValueError("a task has executors")
    for executor in document["executors"]:
        _checked_executor(executor)
    for item in (*document.get("inputs", ()), *document.get("outputs", ())):
        if not str(item.get("path", "")).startswith("/") or ".." in PurePosixPath(item["path"]).parts:
            raise ValueError("a path is absolute")
        if not item.get("url") and not item.get("content"):
            raise ValueError("an input or output has a url")
    if not all(isinstance(value, str) for value in document.get("tags", {}).values()):
        raise ValueError("tags are texts")
    for name in ("id", "state", "logs", "creation_time"):  # readOnly
        document.pop(name, None)


def _checked_executor(executor: Mapping[str, Any]) -> None:
    if not isinstance(executor.get("image"), str) or not executor.get("image"):
        raise ValueError("an executor has an image")
    command, env = executor.get("command"), executor.get("env", {})
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        raise ValueError("an executor has a command, which is a list of words")
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise ValueError("env is a map of texts")


def _tagged(tags: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """By the table in the description of `tag_key`: an empty value stands for any."""
    return all(key in tags and value in ("", tags[key]) for key, value in wanted.items())


def _names(folder: Path) -> list[str]:
    """The plain files below it."""
    found = (Path(place, name) for place, _, files in os.walk(folder) for name in files)
    return sorted(path.relative_to(folder).as_posix() for path in found if not path.is_symlink())


def _folders(outputs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a container engine would mount, so that the outputs can be written."""
    for item in outputs:
        path = PurePosixPath(item["path"])
        yield str(path if item.get("type") == "DIRECTORY" else path.parent)


def _within(run: Run, path: str) -> Path:
    return run.root / path.lstrip("/")


def _places(run: Run) -> Callable[[str], str]:
    """Puts our own paths for those in the container, of all folders that the task names."""
    document = run.document
    named = {str(PurePosixPath(item["path"]).parent) for item in document.get("inputs", ())}
    named |= {*_folders(document.get("outputs", ())), *document.get("volumes", ())}
    named |= {executor["workdir"] for executor in document["executors"] if executor.get("workdir")}
    folders = sorted((f.rstrip("/") for f in named if f.rstrip("/")), key=len, reverse=True)
    if not folders:
        return lambda text: text
    pattern = re.compile(rf"(?<![\w./-])({'|'.join(map(re.escape, folders))})(?![\w.-])")
    return lambda text: pattern.sub(lambda found: f"{run.root}{found[1]}", text)


def _memory(pid: int) -> int:
    """Bytes that it holds in memory; 0: it is gone."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _without(item: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in item.items() if key not in names}


def _wrong(status: int, why: str) -> Sound:
    return Sound(status, {"message": why})


# ── a process of its own ─────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def serving(folder: Path, *images: str) -> Iterator[str]:
    """Its address, from when it answers to when it is gone. Blocks. `images`: besides the one that it knows."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = children.free_port(), folder / "log"
    command = [sys.executable, "-m", "broker.testing.tes_server", str(folder), str(port), *images]
    process = children.launch(command, log)
    url = f"http://127.0.0.1:{port}{PATH}"
    try:
        children.answers(f"{url}/service-info", process, log)
        yield url
    finally:
        children.end(process)


async def _serve(folder: Path, port: int, images: Sequence[str]) -> None:
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    server = await TesServer(folder, images=(IMAGE, *images)).start(port)
    await over.wait()
    await server.stop()


def main() -> None:
    reader = argparse.ArgumentParser(description="A stand-in for a GA4GH TES 1.1 server. It runs what it is given.")
    reader.add_argument("folder", type=Path)
    reader.add_argument("port", type=int)
    reader.add_argument("images", nargs="*", help=f"names that it knows besides {IMAGE}")
    told = reader.parse_args()
    asyncio.run(_serve(told.folder, told.port, told.images))


if __name__ == "__main__":
    main()
