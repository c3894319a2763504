"""Real GA4GH WES servers on the loopback, for tests: toil, and sapporo, which takes an OpenID Connect provider. Both
run CWL without containers, and are up in a few seconds.

Imports `children`. Wants the environments `toil` and `sapporo` of `make servers`, and
jq for sapporo. Everything here blocks, and every wait is bounded. All that they write lies in their folder; what their
engines leave running when they are stopped is found by that folder, and killed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.testing import children

_ANSWER_WITHIN = 30.0
_GONE_WITHIN = 10.0
_MARK = "WES_SERVER_OF_A_TEST"


class WesServer:
    """`bin`: the programs of its environment. The same port after a restart."""

    base = ""  # where the WES begins

    def __init__(self, bin: Path, folder: Path) -> None:
        self._bin, self.folder = bin, folder.resolve()
        self.port = children.free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.base}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when it answers."""
        for folder in (self.folder, self.folder / "tmp", self.folder / "runs"):
            folder.mkdir(parents=True, exist_ok=True)
        # HOME and TMPDIR: engines leave things about in both.
        environment = {
            **os.environ,
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder / "tmp"),
            _MARK: str(self.folder),
        }
        log = self.folder / "log"
        self._process = children.launch(self._command(), log, {**environment, **self._variables()}, self.folder)
        children.answers(f"{self.url}/service-info", self._process, log, well=True)

    def stop(self) -> None:
        """With everything that its engines run. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            children.end(process)
        self._sweep()

    def kill(self) -> None:
        """The server alone, at once; runs may go on."""
        process, self._process = self._process, None
        if process is not None:
            with process:
                process.kill()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _variables(self) -> dict[str, str]:
        return {}

    def _sweep(self) -> None:
        end = time.monotonic() + _GONE_WITHIN
        while left := list(_processes_of(self.folder)):
            assert time.monotonic() < end, f"processes of {self.folder} do not end: {left}"
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


class ToilServer(WesServer):
    """Toil's WES, of version 1.0. It tries a step that failed no second time."""

    base = "/ga4gh/wes/v1"

    def _command(self) -> list[str]:
        runs = self.folder / "runs"
        engine = ["--batchSystem=single_machine", "--retryCount=0", f"--workDir={self.folder / 'tmp'}"]
        engine += [f"--coordinationDir={self.folder / 'tmp'}", "--disableProgress"]
        options = ["--host", "127.0.0.1", "--port", str(self.port), "-w", "1", "--work_dir", str(runs)]
        # Its own processes run the workflows: no Celery, and no message broker.
        return [str(self._bin / "toil"), "server", "--bypass_celery", *options, *(f"--opt={one}" for one in engine)]


class SapporoServer(WesServer):
    """Sapporo, of version 1.1 and more. `issuer` and `audience`: of the tokens that it wants; empty: it wants none."""

    def __init__(self, bin: Path, folder: Path, *, issuer: str = "", audience: str = "") -> None:
        super().__init__(bin, folder)
        self._issuer, self._audience = issuer, audience

    def _command(self) -> list[str]:
        script, auth = self.folder / "run.sh", self.folder / "auth.json"
        script.write_text(self._script())
        script.chmod(0o755)
        auth.write_text(json.dumps(self._auth()))
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--run-dir", str(self.folder / "runs")]
        return [str(self._bin / "sapporo"), *options, "--run-sh", str(script), "--auth-config", str(auth)]

    def _variables(self) -> dict[str, str]:
        return {"SAPPORO_ALLOW_INSECURE_IDP": "true", "SAPPORO_CANCEL_GRACE_SECONDS": "1"}

    def _script(self) -> str:
        """Its own, which starts every engine by Docker: here cwltool is a program of the environment, and no summary
        (RO-Crate) is made, which wants Docker as well. Both functions are there for operators to change."""
        (found,) = self._bin.parent.glob("lib/python*/site-packages/sapporo/run.sh")
        runs = (
            'cd "${exe_dir}"\n'
            f'local -a cmd_arr=("{self._bin / "cwltool"}" --no-container --outdir "${{outputs_dir}}")\n'
            "_append_engine_params cmd_arr\n"
            'cmd_arr+=("${wf_url}" "${wf_params}")\n'
            "_write_and_run cmd_arr"
        )
        return _replaced(_replaced(found.read_text(), "run_cwltool", runs), "generate_ro_crate", ":")

    def _auth(self) -> dict[str, object]:
        external = {"idp_url": self._issuer or "http://127.0.0.1:1", "jwt_audience": self._audience}
        users = {"secret_key": os.urandom(16).hex(), "expires_delta_hours": 1, "users": []}
        return {
            "auth_enabled": bool(self._issuer),
            "idp_provider": "external" if self._issuer else "sapporo",
            "sapporo_auth_config": users,
            "external_config": {**external, "client_mode": "public", "client_id": "tests", "client_secret": "none"},
        }


def _replaced(script: str, function: str, body: str) -> str:
    """With another body of a function that ends with a brace in the first column."""
    text, count = re.subn(
        rf"(?ms)^function {function}\(\) \{{$.*?^\}}$", lambda _: f"function {function}() {{\n{body}\n}}", script
    )
    assert count == 1, f"run.sh has no {function}"
    return text


def _processes_of(folder: Path) -> Iterator[int]:
    """Those that were started from below it, or work in it."""
    mark = f"{_MARK}={folder}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            place = os.readlink(entry / "cwd")  # nothing is to be read of a zombie
            if place.startswith(f"{folder}/") or mark in (entry / "environ").read_bytes().split(b"\0"):
                yield int(entry.name)
