"""The folders of all jobs, as the broker sees them: make, launch, look, cancel, clear. Blocking; imports layout,
processes and transfers of this package, the domain, ports and errors.

Nothing of a job is remembered here between calls. All methods may run in several processes at once: who renames a
folder into place first has made the job, and who holds its lock has the say over its state.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from adapters.local import layout, processes, transfers
from adapters.local.layout import CANCEL, JOB, KILLED, TERMINAL, Spec, State
from adapters.local.steps import passed
from adapters.local.transfers import Transfer
from broker.domain.session import TransferNote
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteUnreachable
from broker.ports import Held, Sighting

LAUNCH = 20.0  # seconds within which a supervisor has taken its job
STALE = 3600.0  # seconds after which a half-made folder belongs to nobody
REMEMBERED = 30 * 86400.0  # seconds: the state outlives logs and results by this, so that no late start runs it again

_NEW = ".new-"


class Jobs:
    """`keep`: seconds from a job's end to the removal of its files."""

    def __init__(self, folder: Path, keep: float) -> None:
        self._folder, self._keep = folder, keep
        self._mended: set[str] = set()  # jobs whose supervisor is dead, and that one of our threads sees to
        self._guard = threading.Lock()

    def place(self, session: UUID) -> Path:
        return self._folder / str(session)

    def start(self, spec: Spec) -> Sighting:
        """Make the job and see a supervisor take it. Idempotent by the session. Raises SiteUnreachable when the
        folder could not be made; any later SiteError is doubt, and a later look launches it."""
        session = UUID(spec.session)
        if not self.place(session).exists():
            self._make(session, lambda new: layout.write_json(new / JOB, spec.encode()))
        return self.look(session)

    def look(self, session: UUID) -> Sighting:
        """What the job shows now. A job that was made and never taken, because its maker died, is launched; one whose
        supervisor died is buried. Raises SiteForgot: there is no such job."""
        folder = self.place(session)
        state = self._state(folder)
        if state is None:
            if not (folder / JOB).exists():
                raise SiteForgot(f"The local platform knows no session {session}.")
            self._launch(folder)
            state = self._state(folder)
        if state is None:
            raise SiteMisbehaved(f"No supervisor took the session {session}.", remedy=f"See {folder}/supervisor.log.")
        return _sighting(state, transfers.read(folder))

    def cancel(self, session: UUID) -> Sighting:
        """Idempotent. A job that was never made is remembered as CANCELLED."""
        folder = self.place(session)
        if not folder.exists():
            gone = State("CANCELLED", "cancelled before it started", ended=time.time())
            self._make(session, lambda new: layout.write_state(new, gone))
        (folder / CANCEL).touch(mode=0o600)
        pid = layout.holder(folder)
        if pid is not None:
            processes.tell(pid, signal.SIGTERM, lambda: layout.holder(folder))
        return self.look(session)

    def state(self, session: UUID) -> State | None:
        """As it was last written, whoever lives; None: no job, or none taken."""
        return layout.read_state(self.place(session))

    def held(self) -> tuple[Held, ...]:
        """Every job that is not over, as it was last written; a folder that cannot be read counts as one."""
        names = os.listdir(self._folder) if self._folder.exists() else ()
        found = [self._held(session) for name in names if (session := _session(name)) is not None]
        return tuple(job for job in found if job is not None)

    def _held(self, session: UUID) -> Held | None:
        place = self.place(session)
        try:
            state, since = layout.read_state(place), place.stat().st_ctime
        except FileNotFoundError:
            return None  # swept meanwhile
        except (OSError, ValueError, TypeError):
            return Held(str(session), "", session)
        phase = state.phase if state else "ACCEPTED"
        return None if phase in TERMINAL else Held(str(session), phase, session, since=since)

    # ── making and launching ─────────────────────────────────────────────────────────────────────────────────

    def _make(self, session: UUID, fill: Callable[[Path], None]) -> None:
        """Whole or not at all. Somebody else's folder, made meanwhile, is left as it is."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=_NEW, dir=self._folder))
            try:
                fill(new)
                rename(new, self.place(session))
            finally:
                shutil.rmtree(new, ignore_errors=True)
        except OSError as error:
            raise SiteUnreachable(f"The folder of a job cannot be made: {error}.") from error
        layout.sync(self._folder)  # a fault from here on proves nothing: the job is made

    def _launch(self, folder: Path) -> None:
        """Returns when a supervisor has the job, or has had it. It inherits no secret of ours, no open file, and no
        tie to this process."""
        command = [sys.executable, "-P", "-m", "adapters.local.supervisor", str(folder)]
        try:
            with (folder / layout.SUPERVISOR_LOG).open("ab") as log:
                subprocess.run(  # noqa: S603  our own program
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=passed(),
                    start_new_session=True,
                    timeout=LAUNCH,
                    check=False,
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise SiteMisbehaved(f"The supervisor of a job cannot be started: {error}.") from error

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    def _state(self, folder: Path) -> State | None:
        """The lock of a job tells processes apart, not our own threads: each of them has it that asks for it, and each
        that looks whose it is gives it back for all. So of them one sees to a job."""
        with self._guard:
            if folder.name in self._mended:
                return layout.read_state(folder)
            self._mended.add(folder.name)
        try:
            return self._mend(folder)
        finally:
            with self._guard:
                self._mended.remove(folder.name)

    def _mend(self, folder: Path) -> State | None:
        state = layout.read_state(folder)
        if state is None or state.phase in TERMINAL or layout.holder(folder) is not None:
            return state
        # It may have ended between the two looks; only a state that stands still without a holder is a dead one's.
        state = layout.read_state(folder)
        if state is None or state.phase in TERMINAL:
            return state
        if state.delivering is not None:
            return self._revive(folder, state)
        return self._bury(folder, state)

    def _revive(self, folder: Path, state: State) -> State:
        """The supervisor was killed while it wrote results elsewhere. Another goes on with that: it may be done
        twice, and its time is bounded by what the state says, whoever does it."""
        lock = layout.acquire(folder)
        if lock is None:
            return state
        try:
            self._clear_away(folder)
        finally:
            os.close(lock)
        self._launch(folder)
        return layout.read_state(folder) or state

    def _bury(self, folder: Path, state: State) -> State:
        """The supervisor was killed: so are the processes it had, and the job has FAILED."""
        lock = layout.acquire(folder)
        if lock is None:
            return state
        try:
            self._clear_away(folder)
            ended = max(layout.pulse(folder) or 0.0, state.began or 0.0) or None
            dead = layout.closed(state)._replace(phase="FAILED", message=KILLED, ended=state.ended or ended)
            layout.write_state(folder, dead)
            return dead
        finally:
            os.close(lock)

    def _clear_away(self, folder: Path) -> None:
        if not processes.kill_marked(folder.name, folder):
            raise SiteMisbehaved(f"Processes of the session {folder.name} live on and cannot be killed.")

    # ── clearing ─────────────────────────────────────────────────────────────────────────────────────────────

    def kept_until(self, state: State) -> float | None:
        if state.phase not in TERMINAL or state.ended is None:
            return None
        return state.ended + max(self._keep, state.keep or 0.0)

    def sweep(self, now: float) -> None:
        """Remove what has been kept long enough, and what nobody finished making. Errors leave things for the next
        sweep."""
        for name in os.listdir(self._folder) if self._folder.exists() else ():
            place = self._folder / name
            with suppress(OSError, ValueError, TypeError):
                if not name.startswith("."):
                    self._clear(place, now)
                elif name.startswith(_NEW) and now - place.stat().st_mtime > STALE:
                    remove(place)

    def _clear(self, place: Path, now: float) -> None:
        state = layout.read_state(place)
        until = self.kept_until(state) if state else None
        if until is None or now <= until:
            return
        if now > until + REMEMBERED:
            remove(place)
            return
        stays = {layout.STATE, layout.LOCK, layout.TRANSFERS}
        if state is not None and state.delivered:
            stays.add(layout.RESULTS)  # which says where they are
        for entry in place.iterdir():
            if entry.name not in stays:
                remove(entry)


def remove(place: Path) -> None:
    """A file, or a folder with all below it, also where a program or we ourselves took the right to write from it.

    Folders are moved up before they are emptied: a program can nest them deeper than any recursion, or path, goes."""
    if not place.is_dir() or place.is_symlink():
        place.unlink(missing_ok=True)
        return
    place.chmod(0o700)
    while entries := list(os.scandir(place)):
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _empty(entry.path, place)
                os.rmdir(entry.path)
            else:
                os.unlink(entry.path)
    place.rmdir()


def _empty(folder: str, top: Path) -> None:
    """Its files are removed, its folders moved to `top`."""
    os.chmod(folder, 0o700)
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                os.chmod(entry.path, 0o700)
                os.rename(entry.path, top / uuid4().hex)
            else:
                os.unlink(entry.path)


def _session(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def rename(source: Path, target: Path) -> None:
    """Nothing is changed where `target` is: no job's folder is ever empty, and Linux replaces empty ones alone."""
    try:
        source.rename(target)
    except OSError:
        if not target.exists():
            raise


def _sighting(state: State, brought: Sequence[Transfer]) -> Sighting:
    native: dict[str, Any] = {"native": f"pid {state.pid}"} if state.pid is not None else {}
    messages = (state.message,) if state.message else ()
    added: dict[str, Any] = {"connectors": [state.connector]} if state.connector else {}
    if brought:
        added["transfers"] = [transfer_note(transfer).to_wire() for transfer in brought]
    body = json.dumps(added).encode() if added else None
    return Sighting(phase=state.phase, body=body, messages=messages, began=state.began, ended=state.ended, **native)


def transfer_note(transfer: Transfer) -> TransferNote:
    return TransferNote(
        url=transfer.url,
        bytes=transfer.bytes,
        seconds=round(transfer.seconds, 6),
        files=transfer.files,
        ended=datetime.fromtimestamp(transfer.ended, UTC),
        cached=transfer.cached or None,
    )


def look_safely(jobs: Jobs, session: UUID) -> Sighting | SiteError:
    """One session's trouble is its own."""
    try:
        return jobs.look(session)
    except SiteError as error:
        return error
    except (OSError, ValueError, TypeError) as error:
        return SiteMisbehaved(f"The folder of the session {session} cannot be read: {error}.")
