"""The folders of jobs on what the broker's host and the nodes share, as the broker sees them. Blocking; imports the
local platform's layout, this package's runner and states, ports and errors.

    <folder>/.runner-<hash>.pyz       what a node runs (runner.py); made once for each version of it
    <folder>/.notes/<session>.json    what the broker knows of a job (Note); out of reach of the job
    <folder>/<session>/               as adapters/local/layout.py has it, and besides
        taken                         who has begun the run; where it is, nobody begins it again
        slurm.out                     what the batch script itself wrote: why a node could not begin

A folder belongs to the account under which its job runs, which need not be the broker's: nothing that lies in one is
followed, trusted for its size, or written over.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from adapters.common.http import tidy
from adapters.local import layout, transfers
from adapters.local.jobs import REMEMBERED, STALE, rename, transfer_note
from adapters.local.layout import Spec, State
from adapters.local.outputs import open_plain, tail
from adapters.local.transfers import Transfer
from adapters.slurm.runner import TAKEN, mark
from adapters.slurm.states import Left
from broker.domain.session import TransferNote
from broker.errors import SiteRefused, SiteUnreachable

NOTES, RUNNER, OUT = ".notes", ".runner-", "slurm.out"
BROKER = "0 the broker"  # the mark of a run that never may begin

T = TypeVar("T")

_NEW = ".new-"
_WRITTEN = ("PREPARING", "RUNNING", "RELEASING", *layout.TERMINAL)  # phases that a supervisor writes
_CAP = 16 * 1024**2  # bytes of a file in a job's folder that are read
_LONGEST_NUMBER = 10  # digits; slurmctld counts to 67 043 328
_ROOT = Path(__file__).parents[2]
# All that the runner imports of ours: the standard library is all that a node need have besides.
_PARTS = (
    "adapters/__init__.py", "adapters/common/__init__.py", "adapters/common/addresses.py", "adapters/common/sigv4.py",
    "adapters/local/__init__.py", *(f"adapters/local/{name}.py" for name in (
        "bringing", "cache", "delivering", "fetching", "layout", "limits", "opening", "outputs", "processes", "pump",
        "sandbox", "staging", "steps", "supervisor", "transfers",
    )),
    "adapters/slurm/__init__.py", "adapters/slurm/runner.py",
    "broker/__init__.py", "broker/domain/__init__.py", "broker/domain/addresses.py",
)  # fmt: skip
_MAIN = """import sys
if sys.version_info < (3, 11):
    sys.exit("Python 3.11 or newer is needed on the nodes; this is %s" % sys.version.split()[0])
from adapters.slurm.runner import main
sys.exit(main(sys.argv[1:]))
"""


class Note(NamedTuple):
    """`user`: whose it is in Slurm. `keep`: seconds after its end for which files stay, where the request asked for it.
    `number`: Slurm's of the job; None: no submit was answered. `final`: how it ended, once that cannot change; as
    `states.Shown`."""

    user: str
    since: float
    keep: float | None = None
    number: int | None = None
    final: dict[str, Any] | None = None


class File(msgspec.Struct):
    """A result. What the job wrote of it, of the right types."""

    name: str
    bytes: int
    checksum: str | None = None
    url: str | None = None


class _Run(msgspec.Struct):
    """What of state.json is read."""

    phase: str
    message: str = ""
    began: float | None = None
    ended: float | None = None
    exit: int | None = None


class _Brought(msgspec.Struct):
    url: str
    bytes: int
    seconds: float
    ended: float
    cached: bool = False
    files: int = 1


class Folders:
    """`keep`: seconds from a job's end to the removal of its files."""

    def __init__(self, folder: Path, keep: float) -> None:
        self.folder, self._keep = folder, keep
        self._runner: Path | None = None

    def place(self, session: UUID) -> Path:
        return self.folder / str(session)

    # ── making ───────────────────────────────────────────────────────────────────────────────────────────────

    def make(self, spec: Spec, note: Note) -> Path:
        """The job's folder, as it was if it was there, and its note. Returns the runner's path. Raises SiteUnreachable
        (nothing of it can be submitted) and SiteRefused (nor ever under this account)."""
        session, owner = UUID(spec.session), _account(note.user)
        try:
            if not self.folder.exists():
                self.folder.mkdir(parents=True, exist_ok=True)
                self.folder.chmod(0o711)
            (self.folder / NOTES).mkdir(mode=0o700, exist_ok=True)
            runner = self._put_runner()
            if not self.place(session).exists():
                self._make(spec, owner)
            self.write_note(session, note)
        except OSError as error:
            raise SiteUnreachable(f"the shared folder cannot be written: {error}.") from error
        return runner

    def _make(self, spec: Spec, owner: tuple[int, int] | None) -> None:
        new = Path(tempfile.mkdtemp(prefix=_NEW, dir=self.folder))
        try:
            layout.write_json(new / layout.JOB, spec.encode())
            if owner is not None:
                for path in (new / layout.JOB, new):
                    os.chown(path, *owner)
            rename(new, self.place(UUID(spec.session)))
        finally:
            shutil.rmtree(new, ignore_errors=True)
        layout.sync(self.folder)

    def _put_runner(self) -> Path:
        """The same bytes for the same version, whoever makes it; put into place whole."""
        if self._runner is not None and self._runner.exists():
            return self._runner
        texts = {part: (_ROOT / part).read_bytes() for part in _PARTS} | {"__main__.py": _MAIN.encode()}
        version = hashlib.sha256(b"".join(name.encode() + text for name, text in texts.items())).hexdigest()[:16]
        path = self.folder / f"{RUNNER}{version}.pyz"
        if not path.exists():
            descriptor, new = tempfile.mkstemp(prefix=_NEW, dir=self.folder)
            with os.fdopen(descriptor, "wb") as file:
                with zipfile.ZipFile(file, "w") as archive:
                    for name, text in texts.items():
                        archive.writestr(zipfile.ZipInfo(name), text)
                os.fsync(file.fileno())
            os.chmod(new, 0o644)
            os.replace(new, path)
        self._runner = path
        return path

    def remove(self, session: UUID) -> None:
        """Of a job that surely never was: as if nobody had asked."""
        shutil.rmtree(self.place(session), ignore_errors=True)
        (self.folder / NOTES / f"{session}.json").unlink(missing_ok=True)

    # ── notes ────────────────────────────────────────────────────────────────────────────────────────────────

    def note(self, session: UUID) -> Note | None:
        """None: no such job was ever begun to be submitted."""
        record = layout.read_json(self.folder / NOTES / f"{session}.json")
        return Note(**record) if record is not None else None

    def write_note(self, session: UUID, note: Note) -> None:
        layout.write_json(self.folder / NOTES / f"{session}.json", note._asdict())

    def notes(self) -> Iterator[tuple[UUID, Note]]:
        """All that can be read."""
        for path in sorted((self.folder / NOTES).glob("*-*.json")):
            with suppress(OSError, ValueError, TypeError):
                if (note := self.note(session := UUID(path.stem))) is not None:
                    yield session, note

    # ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────

    def left(self, session: UUID) -> Left:
        place = self.place(session)
        return Left(
            state=_state(_read_json(place / layout.STATE)),
            taken_by=_taken_by(place),
            pulse=_changed(place / layout.LOCK),
            ending=_changed(place / layout.CANCEL) is not None,
            words=_last_line(place / OUT),
        )

    def results(self, session: UUID) -> tuple[File, ...]:
        """As results.json lists them; empty: there is no such list."""
        return _list(self.place(session) / layout.RESULTS, File)

    def transfers(self, session: UUID) -> tuple[TransferNote, ...]:
        """What was brought in for it."""
        found = _list(self.place(session) / layout.TRANSFERS, _Brought)[: transfers.MOST]
        with suppress(ValueError, OverflowError):  # numbers that are no times, or below nothing
            return tuple(transfer_note(Transfer(**msgspec.structs.asdict(one))) for one in found)
        return ()

    def log(self, session: UUID, name: str, most: int) -> str | None:
        with suppress(OSError):
            text = tail(self.place(session) / name, most)
            return None if text is None else text.decode(errors="replace")
        return None

    # ── ending ───────────────────────────────────────────────────────────────────────────────────────────────

    def ask_to_end(self, session: UUID) -> None:
        """What runs ends by itself when it sees this, whether or not Slurm can be asked; what has not begun never
        does."""
        with suppress(FileNotFoundError, FileExistsError):
            os.close(os.open(self.place(session) / layout.CANCEL, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644))

    def forbid(self, session: UUID) -> bool:
        """No run begins any more, whatever Slurm does. False: one has begun."""
        with suppress(FileNotFoundError):  # then it cannot begin either
            return mark(self.place(session), BROKER) or _taken_by(self.place(session)) is None
        return True

    # ── clearing ─────────────────────────────────────────────────────────────────────────────────────────────

    def kept_until(self, note: Note) -> float | None:
        """Epoch seconds; None: it is not over."""
        if note.final is None:
            return None
        return float(note.final["ended"]) + max(self._keep, note.keep or 0.0)

    def sweep(self, now: float) -> None:
        """Remove what has been kept long enough, and what nobody finished making. Errors leave things for the next
        sweep."""
        for session, note in self.notes():
            until = self.kept_until(note)
            if until is not None and now > until:
                shutil.rmtree(self.place(session), ignore_errors=True)
            never = note.number is None and note.final is None and now > note.since + REMEMBERED
            if never or (until is not None and now > until + REMEMBERED):
                shutil.rmtree(self.place(session), ignore_errors=True)
                (self.folder / NOTES / f"{session}.json").unlink(missing_ok=True)
        for path in self.folder.glob(f"{_NEW}*"):
            with suppress(OSError):
                if now - path.stat().st_mtime > STALE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _account(user: str) -> tuple[int, int] | None:
    """To whom a job's folder is given; None: it is ours. Raises SiteRefused where we may not give it away."""
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        raise SiteRefused(f"the broker's machine knows no account {user!r}, under which the job would run.") from None
    if known.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise SiteRefused(f"the broker cannot give the folder of a job to {user!r}: it does not run as root.")
    return known.pw_uid, known.pw_gid


def _read(path: Path) -> bytes | None:
    """None: there is no such plain file."""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            return file.read(_CAP)
    except OSError:
        return None


def _read_json(path: Path) -> Any:
    """None: there is none that can be read."""
    with suppress(ValueError, RecursionError):
        return json.loads(_read(path) or b"null")
    return None


def _taken_by(place: Path) -> int | None:
    """None: nobody has begun the run, though we may have seen to it that nobody does."""
    text = _read(place / TAKEN)
    if text is None or text.decode(errors="replace").strip() == BROKER:
        return None
    number = text.split(b" ")[0]
    return int(number) if number.isdigit() and len(number) <= _LONGEST_NUMBER else 0


def _list(path: Path, shape: type[T]) -> tuple[T, ...]:
    """Empty: there is none that can be read."""
    with suppress(msgspec.ValidationError):
        return msgspec.convert(_read_json(path) or (), tuple[shape, ...])  # type: ignore[valid-type] # as it is called
    return ()


def _state(record: Any) -> State | None:
    """None: it is none, or holds what no supervisor writes."""
    with suppress(msgspec.ValidationError, TypeError):
        run = msgspec.convert(record, _Run)
        times = [value for value in (run.began, run.ended) if value is not None]
        if run.phase in _WRITTEN and all(0.0 <= value < 1e11 for value in times):
            return State(run.phase, tidy(run.message), began=run.began, ended=run.ended, exit=run.exit)
    return None


def _changed(path: Path) -> float | None:
    """When it was last changed, epoch seconds; None: it is not there."""
    with suppress(OSError):
        return path.lstat().st_mtime
    return None


def _last_line(path: Path) -> str:
    with suppress(OSError):
        lines = (tail(path, 4096) or b"").decode(errors="replace").splitlines()
        return tidy(next((line for line in reversed(lines) if line.strip()), ""))
    return ""
