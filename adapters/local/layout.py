"""What a job's folder holds, and how its parts are written, read and locked. Imports the standard library alone.

    <folder>/cache/              what is kept for other jobs (cache.py)
    <folder>/<session uuid>/     mode 0700; made whole under another name, then renamed into place
        job.json       what to run (Spec); mode 0600: it holds the program's environment
        lock           POSIX lock, held by the supervisor while it lives; its mtime is the supervisor's pulse
        state.json     where the run stands (State); there is none before a supervisor has taken the job
        cancel         somebody asked for the end
        stdout stderr  what was written, with stdout.1 and stderr.1 before them; staging and pip write to stderr
        transfers.json what was brought in for it, written while it is staged
        results.json   the files in the results folder, written when the run has ended; with their URLs once they were
                       written elsewhere as well
        store/         the bytes: store/data/<name> and store/storage/<name>
        work/          where the program runs: program.py or a notebook, data/, results/, mounted volumes
        home/ tmp/     the program's HOME and TMPDIR; tmp/opened: the port of a Jupyter server that listens

The supervisor and its helpers import this, so it stays small: they start once for each job.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import struct
import threading
from pathlib import Path
from typing import Any, NamedTuple

JOB, LOCK, STATE, CANCEL, RESULTS = "job.json", "lock", "state.json", "cancel", "results.json"
TRANSFERS = "transfers.json"
STDOUT, STDERR, SUPERVISOR_LOG = "stdout", "stderr", "supervisor.log"
STORE, WORK, HOME, TMP, PACKAGES = "store", "work", "home", "tmp", "packages"

NOTEBOOK = "notebook.ipynb"
OPENED = "opened"

CONTENT = (STORE, WORK, HOME, TMP, PACKAGES)  # what a run fills

TERMINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED"})
MARKER = "BROKER_SESSION"  # in the environment of every process of a job; its value is the session uuid
KILLED = "its supervisor was killed"

_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


class State(NamedTuple):
    """`began` and `ended` are epoch seconds of the program itself; `exit` its code, negative: the signal. `connector`:
    of an interactive session, as it stands on the wire; its location, which holds the token, is there only while the
    server is to be reached. `keep`: seconds after `ended` for which files stay, where the request asked for it.
    `delivering`: the run has ended well, and all that is left is to list its results in results.json and to write them
    elsewhere, by this epoch second; whoever takes the lock goes on with it. `delivered`: results.json says where they
    are."""

    phase: str
    message: str = ""
    pid: int | None = None
    began: float | None = None
    ended: float | None = None
    exit: int | None = None
    connector: dict[str, str] | None = None
    keep: float | None = None
    delivering: float | None = None
    delivered: bool = False


class Datum(NamedTuple):
    """One data resource. `place` is relative to store/; `urls` are tried in order."""

    name: str
    urls: tuple[str, ...]
    place: str
    checksum: tuple[str, str] | None = None
    bytes: int | None = None
    readonly: bool = True


class Mount(NamedTuple):
    """A volume. `path` is relative to work/, `source` to store/."""

    path: str
    source: str
    readonly: bool = True


class Bounds(NamedTuple):
    """What a run may use. Memory, disk, log, results and source in bytes, the rest in seconds or pieces."""

    cores: int
    memory: int
    duration: float
    disk: int
    log: int
    results: int
    source: int
    processes: int
    staging: float
    grace: float
    nice: int


class Desk(NamedTuple):
    """How a notebook is opened for a person. The server listens at `host`, on one of the `ports` (the first and the
    last; 0: any free one), and is reached from outside at `url`, `{port}` in it. `idle` in seconds."""

    host: str
    ports: tuple[int, int]
    url: str
    idle: float


class Shelf(NamedTuple):
    """How much of what was staged is kept for other jobs: bytes, and seconds since it was last used."""

    bytes: int
    keep: float


class Delivery(NamedTuple):
    """Where results are written to: `to` as the request says it, `target` as it is reached by http or https. `kind`:
    "http" or "s3", of that `region`. `credentials`: the path of the site's file; empty: none are sent. `above`: steps
    of the target's path that are there already. `public`: hosts at public addresses alone. `within`: seconds that it
    may take; `kept`: seconds for which results stay at the site as well."""

    to: str
    target: str
    kind: str
    within: float
    kept: float
    region: str = ""
    credentials: str = ""
    above: int = 0
    public: bool = False


class Attached(NamedTuple):
    """A file of a workflow. `path` is relative to work/; of `source` and `location` one is set."""

    path: str
    source: str | None = None
    location: str | None = None


class Flow(NamedTuple):
    """A workflow: its files, and of them the main one, with the process in it that is meant (`main.cwl#align`), and the
    one that holds its inputs."""

    main: str
    inputs: str
    files: tuple[Attached, ...]

    def encode(self) -> dict[str, Any]:
        return {**self._asdict(), "files": [file._asdict() for file in self.files]}

    @classmethod
    def decode(cls, record: dict[str, Any]) -> Flow:
        """The inverse, of what JSON has made of it."""
        return cls(**{**record, "files": tuple(Attached(**file) for file in record["files"])})


class Spec(NamedTuple):
    """What to run. Of `source`, `location` and `flow` one is set. `python`: the interpreter, of a workflow the one that
    has its runner. `desk`: of an interactive notebook alone. `binds`: cores are allotted among the jobs beside it;
    False: whoever starts the supervisor has seen to that."""

    session: str
    kind: str  # "program", "notebook" or "workflow"
    bounds: Bounds
    python: str
    environment: dict[str, str]
    source: str | None = None
    location: str | None = None
    arguments: tuple[str, ...] = ()
    requirements: tuple[str, ...] = ()
    data: tuple[Datum, ...] = ()
    storages: tuple[str, ...] = ()  # relative to store/
    mounts: tuple[Mount, ...] = ()
    results: str = "work/results"  # relative to the job's folder
    file_roots: tuple[str, ...] = ()
    isolation: str = "none"
    network: bool = True
    binds: bool = True
    desk: Desk | None = None
    delivery: Delivery | None = None
    keep: float | None = None
    cache: Shelf | None = None
    flow: Flow | None = None

    @property
    def script(self) -> str:
        """The name of what is run, in work/. Whoever sits before a notebook knows it by its own name."""
        if self.kind == "program":
            return "program.py"
        return notebook_name(self.location) if self.desk else NOTEBOOK

    def encode(self) -> dict[str, Any]:
        return {
            **self._asdict(),
            "bounds": self.bounds._asdict(),
            "data": [datum._asdict() for datum in self.data],
            "mounts": [mount._asdict() for mount in self.mounts],
            "desk": self.desk._asdict() if self.desk else None,
            "delivery": self.delivery._asdict() if self.delivery else None,
            "cache": self.cache._asdict() if self.cache else None,
            "flow": self.flow.encode() if self.flow else None,
        }

    @classmethod
    def decode(cls, record: dict[str, Any]) -> Spec:
        """The inverse, of what JSON has made of it."""
        whole = {
            **record,
            "bounds": Bounds(**record["bounds"]),
            "data": [Datum(**_tuples(datum)) for datum in record["data"]],
            "mounts": [Mount(**mount) for mount in record["mounts"]],
            "desk": Desk(**_tuples(record["desk"])) if record.get("desk") else None,
            "delivery": Delivery(**record["delivery"]) if record.get("delivery") else None,
            "cache": Shelf(**record["cache"]) if record.get("cache") else None,
            "flow": Flow.decode(record["flow"]) if record.get("flow") else None,
        }
        return cls(**_tuples(whole))


def notebook_name(location: str | None) -> str:
    """What a notebook is called in the results: as the one it was made from."""
    name = (location or "").partition("?")[0].rpartition("/")[2]
    return name if name.endswith(".ipynb") and re.fullmatch(r"\w[\w.-]*", name) else NOTEBOOK


def _tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}


def write_json(path: Path, record: dict[str, Any] | list[Any]) -> None:
    """Replaces the file whole and durably; readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """None: there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


def read_spec(folder: Path) -> Spec:
    record = read_json(folder / JOB)
    if record is None:
        raise FileNotFoundError(folder / JOB)
    return Spec.decode(record)


def read_state(folder: Path) -> State | None:
    """None: no supervisor has taken the job yet, or there is no job."""
    record = read_json(folder / STATE)
    return State(**record) if record is not None else None


def write_state(folder: Path, state: State) -> None:
    write_json(folder / STATE, state._asdict())


def closed(state: State) -> State:
    """With the connector as it is once nobody can reach the server: without the address, and the token in it."""
    if state.connector is None:
        return state
    rest = {name: value for name, value in state.connector.items() if name != "location"}
    return state._replace(connector={**rest, "status": "FINISHED"})


def acquire(folder: Path) -> int | None:
    """Take the job. The descriptor holds the lock until it, or any other of this file in the process, is closed;
    a child does not inherit it. None: another process has it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def holder(folder: Path) -> int | None:
    """The pid of the supervisor, as the kernel knows it; None: none lives. Takes nothing, unlike a trial lock, so it
    never stands in a supervisor's way."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    finally:
        os.close(descriptor)
    return pid if kind != fcntl.F_UNLCK else None


def pulse(folder: Path) -> float | None:
    """When the supervisor was last seen alive, epoch seconds."""
    try:
        return (folder / LOCK).stat().st_mtime
    except FileNotFoundError:
        return None
