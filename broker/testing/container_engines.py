"""Real container engines for tests, each on a Unix socket of its own: Podman's service of Docker's API, and Docker.

Imports `children`. Wants root, and Debian's podman, runc, docker.io, busybox-static. Everything here blocks, and every
wait is bounded. An engine keeps all that it has in its folder; it has one image, IMAGE, made of this machine's busybox
and of the Python that this runs in, so that no registry is needed.

    with podman(tmp_path / "podman") as engine:
        options = {"url": engine.url, "program": {"image": IMAGE}, "network": "none"}
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from broker.testing import children

IMAGE = "localhost/broker/tools:latest"
ANSWER_WITHIN = 120.0  # seconds; a machine that runs other things at the same time is slow
_PODMAN_PARENT = "libpod_parent"  # the cgroup of the containers of all Podmans
_NOT_NEEDED = {
    "test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages", "unittest",
    "pydoc_data", "distutils", "xmlrpc", "curses", "sqlite3", "wsgiref", "dbm", "venv", "multiprocessing", "msilib",
}  # fmt: skip
_GRAPHICS = ("_tkinter", "_sqlite3", "_curses", "nis", "readline", "_test", "_xxtest")  # modules with large libraries

# conmon 2.1.6 writes that memory ran out into the folder it runs in; Podman 4.3 looks for that in the container's own.
_CONMON = """#!/bin/sh
before=
for word in "$@"; do
    [ "$before" = -b ] && cd "$word"
    before=$word
done
exec {conmon} "$@"
"""

# No process may have more open files than its maker; both engines ask for a million where root may not raise it.
_CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile={files}:{files}", "nproc=8192:8192"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
events_logfile_path = "{folder}/events.log"
events_logfile_max_size = "100m"
tmp_dir = "{folder}/tmp"
conmon_path = ["{folder}/conmon"]
"""
_REGISTRIES_CONF = """[[registry]]
location = "127.0.0.1"
insecure = true
"""


class Engine:
    """What both have in common. `socket`: where it is spoken to."""

    kind = ""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.socket, self.log = folder, folder / "api.sock", folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Returns when it answers. Also after `kill`."""
        self._process = children.launch(self._command(), self.log, self._environment())
        children.wait_for(self._up, f"{self.kind} is up", self._tail)

    def kill(self) -> None:
        """SIGKILL to the service. What runs in it goes on."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()

    def stop(self) -> None:
        """Ends it, and everything that runs in it. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError, http.client.HTTPException):
            for one in self.call("GET", "/containers/json?all=true")[1]:
                self.call("DELETE", f"/containers/{one['Id']}?force=true&v=true")
        children.end(process)
        self._clean()
        for place in re.findall(rf"^\S+ ({re.escape(str(self.folder))}/\S+)", Path("/proc/mounts").read_text(), re.M):
            subprocess.run(["umount", "--lazy", place], check=False, capture_output=True)  # noqa: S603, S607

    def call(
        self,
        method: str,
        path: str,
        body: Path | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """One call of version 1.41, and its answer: what its lines are in JSON, or text. A path is sent as a tar."""
        with _connected(self.socket) as connection:
            if isinstance(body, Path):
                with body.open("rb") as file:
                    connection.request(method, f"/v1.41{path}", file, {"Content-Type": "application/x-tar"})
                    answer = connection.getresponse()
            else:
                text = None if body is None else json.dumps(body)
                connection.request(
                    method, f"/v1.41{path}", text, {"Content-Type": "application/json", **(headers or {})}
                )
                answer = connection.getresponse()
            said = answer.read()
        try:
            return answer.status, json.loads(said or b"null")
        except ValueError:
            return answer.status, said.decode(errors="replace")

    def starts(self, name: str) -> int:
        """How often a container of that name was started."""
        filters = quote(json.dumps({"container": [name], "event": ["start"]}))
        for _ in range(5):  # Podman may read nothing from the end of its file
            lines = self.call("GET", f"/events?since=1&until={int(time.time()) + 1}&filters={filters}")[1]
            if lines is not None:
                return len(lines.splitlines()) if isinstance(lines, str) else 1
            time.sleep(0.1)
        return 0

    def import_image(self, root: Path, name: str) -> None:
        """A file system in a tar, as `name:latest`."""
        said = self.call("POST", f"/images/create?fromSrc=-&repo={quote(name, safe='')}&tag=latest", root)
        assert self.call("GET", f"/images/{name}:latest/json")[0] == 200, said

    def push(self, name: str, login: tuple[str, str] | None = None) -> None:
        """`name:latest` to the registry in its name, and off the engine."""
        words = {"username": login[0], "password": login[1]} if login else {}
        sent = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(words).encode()).decode()}
        said = self.call("POST", f"/images/{name}/push?tag=latest&tlsVerify=false", headers=sent)
        assert "digest: sha256:" in str(said), said
        self.call("DELETE", f"/images/{name}:latest?force=true")

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _clean(self) -> None:
        raise NotImplementedError

    def _up(self) -> bool:
        try:
            return self.call("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class Podman(Engine):
    """`apart`: in a network of its own, which goes with it, bridges and rules too."""

    kind = "podman"

    def __init__(self, folder: Path, *, apart: bool = False) -> None:
        super().__init__(folder)
        self._apart = apart
        self._run = tempfile.mkdtemp(prefix="podman-")  # it takes no path of more than 50 characters here
        wrapper = folder / "conmon"
        wrapper.write_text(_CONMON.format(conmon=shutil.which("conmon") or "/usr/bin/conmon"))
        wrapper.chmod(0o755)
        (folder / "containers.conf").write_text(_CONTAINERS_CONF.format(files=_open_files(), folder=folder))
        (folder / "registries.conf").write_text(_REGISTRIES_CONF)

    def _command(self) -> list[str]:
        network = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"] if self._apart else []
        return [*network, *self._podman(), "system", "service", "--time=0", self.url]

    def inside(self, *command: str) -> str:
        """What a command prints that runs in its network."""
        assert self._process is not None
        words = ["nsenter", f"--net=/proc/{self._process.pid}/ns/net", *command]
        return subprocess.run(words, check=True, capture_output=True, text=True, timeout=ANSWER_WITHIN).stdout  # noqa: S603

    def _podman(self) -> list[str]:
        return ["podman", "--root", str(self.folder / "root"), "--runroot", self._run]

    def _environment(self) -> dict[str, str]:
        settings = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_REGISTRIES_CONF": "registries.conf"}
        return super()._environment() | {name: str(self.folder / file) for name, file in settings.items()}

    def _clean(self) -> None:
        left = [*self._podman(), "rm", "--all", "--force", "--time=0"]  # of a service that was not there to be asked
        subprocess.run(left, check=False, capture_output=True, env=self._environment(), timeout=ANSWER_WITHIN)  # noqa: S603
        shutil.rmtree(self._run, ignore_errors=True)
        _remove_cgroup(_PODMAN_PARENT)


class Docker(Engine):
    kind = "docker"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._parent = f"broker-tests-{uuid4().hex[:8]}"  # the cgroup of its containers

    def kill(self) -> None:
        """Its containerd ends with it. Docker would wait for that, as long as nobody has reaped it."""
        super().kill()
        (self.folder / "run/containerd/containerd.pid").unlink(missing_ok=True)

    def _command(self) -> list[str]:
        places = {"data-root": "root", "exec-root": "run", "pidfile": "pid"}
        files = _open_files()
        return [
            "dockerd",
            f"--host={self.url}",
            *(f"--{option}={self.folder / name}" for option, name in places.items()),
            "--live-restore",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--oom-score-adjust=0",
            f"--cgroup-parent=/{self._parent}",
            f"--default-ulimit=nofile={files}:{files}",
        ]

    def _clean(self) -> None:
        for file in Path("/sys/fs/cgroup").glob(f"**/{self._parent}/*/cgroup.procs"):
            for number in file.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(number), signal.SIGKILL)
        _remove_cgroup(self._parent)


@contextmanager
def podman(folder: Path, *, apart: bool = False) -> Iterator[Podman]:
    """Up, with IMAGE."""
    yield from _running(Podman(folder, apart=apart))


@contextmanager
def docker(folder: Path) -> Iterator[Docker]:
    """Up, with IMAGE. It has no network but `none` and `host`."""
    yield from _running(Docker(folder))


def _running(engine: Any) -> Iterator[Any]:
    try:
        engine.start()
        root = engine.folder / "image.tar"
        write_root(root)
        engine.import_image(root, IMAGE.rpartition(":")[0])
        root.unlink()
        yield engine
    finally:
        engine.stop()


def write_root(target: Path, *, python: bool = True) -> None:
    """The file system of IMAGE: busybox with all its names, and the Python that this runs in, at its own place and as
    /usr/bin/python3."""
    busybox = shutil.which("busybox") or "/bin/busybox"
    names = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()  # noqa: S603
    with tarfile.open(target, "w") as tar:
        for name, mode in {"tmp": 0o1777, "proc": 0o755, "sys": 0o755, "dev": 0o755, "etc": 0o755}.items():
            _add(tar, name, mode, kind=tarfile.DIRTYPE)
        _add(tar, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        tar.add(busybox, "bin/busybox")
        for name in set(names) - {"busybox"}:
            _add(tar, f"bin/{name}", 0o777, link="busybox")
        if python:
            _add_python(tar)


def _add_python(tar: tarfile.TarFile) -> None:
    python, stdlib = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    modules = [file for file in stdlib.glob("lib-dynload/*.so") if not file.name.startswith(_GRAPHICS)]
    for file in {python, *_libraries([python, *modules])}:
        tar.add(file.resolve(), str(file))
    tar.add(stdlib, str(stdlib), filter=_slim)
    _add(tar, "usr/bin/python3", 0o777, link=str(python))


def _slim(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = info.name.rpartition("/")[2]
    left_out = name in _NOT_NEEDED or name.startswith(("config-", *_GRAPHICS)) or ".opt-" in name
    return None if left_out else info


def _add(tar: tarfile.TarFile, name: str, mode: int, text: bytes = b"", link: str = "", kind: bytes = b"") -> None:
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.linkname = mode, len(text), link
    info.type = kind or (tarfile.SYMTYPE if link else tarfile.REGTYPE)
    tar.addfile(info, io.BytesIO(text))


def _libraries(files: list[Path]) -> set[Path]:
    """The shared libraries of these, as the loader finds them."""
    told = subprocess.run(["ldd", *map(str, files)], check=False, capture_output=True, text=True).stdout  # noqa: S603, S607
    return {Path(path) for path in re.findall(r"(?:=>\s+|^\s+)(/\S+)", told, re.M)}


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)


def _remove_cgroup(name: str) -> None:
    """Of all hierarchies; another engine may have containers in it still."""
    for place in (Path("/sys/fs/cgroup") / name, *Path("/sys/fs/cgroup").glob(f"*/{name}")):
        with suppress(OSError):
            place.rmdir()


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=ANSWER_WITHIN)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_WITHIN)
        self.sock.connect(str(self._path))


@contextmanager
def _connected(path: Path) -> Iterator[_Unix]:
    connection = _Unix(path)
    try:
        yield connection
    finally:
        connection.close()
