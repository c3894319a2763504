"""The local platform with real supervisors, programs and files."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from adapters.local import layout, processes
from adapters.local.jobs import Jobs
from adapters.local.options import LocalOptions
from adapters.local.platform import LocalPlatform
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest
from broker.errors import SiteError, SiteForgot, SiteMisbehaved
from broker.ports import Sighting

PATIENCE = 60.0  # seconds: a net for what hangs, not a measure


class Now:
    """The real clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def soon() -> Deadline:
    return Deadline.after(PATIENCE, time.monotonic())


def a_job(source: str, *, session: UUID | None = None, duration: float = 60.0, **more: Any) -> Job:
    """A job of a program with `source`. `more`: parts of the request, or properties of the executable."""
    parts = {name: more.pop(name) for name in ("data", "storage", "compute") if name in more}
    executable = {"kind": kinds.PYTHON_PROGRAM, "source": source} | more
    request = ExecutionRequest.model_validate({"executable": executable, **parts})
    return Job(
        session or uuid4(), "a job", Owner("test", "somebody"), request, 1, 1, 0, {}, duration=duration, start=0.0
    )


def a_platform(folder: Path, **options: Any) -> LocalPlatform:
    return LocalPlatform(LocalOptions(folder=folder, **{"grace": 0.5, "nice": 0, "isolation": "none"} | options), Now())


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What `condition` returns as soon as it is true."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await condition()):  # noqa: ASYNC110  what is awaited happens in other processes
            await asyncio.sleep(0.01)
    return found


async def seen(platform: LocalPlatform, job: Job) -> Sighting:
    sighting = (await platform.status([job], soon()))[job.session]
    assert isinstance(sighting, Sighting), sighting
    return sighting


async def ended(platform: LocalPlatform, job: Job) -> Sighting:
    async def look() -> Sighting | None:
        sighting = await seen(platform, job)
        return sighting if sighting.phase in layout.TERMINAL else None

    return await until(look)


async def ran(platform: LocalPlatform, job: Job) -> Sighting:
    await platform.start(job, soon())
    return await ended(platform, job)


async def said(platform: LocalPlatform, job: Job, line: str) -> None:
    async def look() -> bool:
        return line in ((await platform.logs(job, soon())).stdout or "")

    await until(look)


def a_supervisor(folder: Path, job: Job) -> int:
    pid = layout.holder(folder / str(job.session))
    assert pid is not None
    return pid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "jobs"


@pytest.fixture
def platform(folder: Path) -> LocalPlatform:
    return a_platform(folder)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_program_runs_and_its_result_comes_out(platform: LocalPlatform) -> None:
    job = a_job(
        "import sys, os, pathlib\n"
        "print('to', sys.argv[1:], os.environ['GREETING'])\n"
        "print('careful', file=sys.stderr)\n"
        "pathlib.Path('results/deep').mkdir()\n"
        "pathlib.Path('results/deep/answer.txt').write_text('42')\n",
        arguments=["a b", "--c"],
        environment={"GREETING": "hello"},
    )
    before = time.time()
    sighting = await ran(platform, job)
    assert (sighting.phase, sighting.messages) == ("COMPLETED", ())
    assert sighting.native is not None
    assert sighting.native.startswith("pid ")
    assert before <= (sighting.began or 0) <= (sighting.ended or 0) <= time.time()
    logs = await platform.logs(job, soon())
    assert (logs.stdout, logs.stderr) == ("to ['a b', '--c'] hello\n", "careful\n")
    (result,) = await platform.results(job, soon())
    assert (result.name, result.bytes) == ("deep/answer.txt", 2)
    assert result.checksum == "sha256:" + hashlib.sha256(b"42").hexdigest()
    assert result.kept_until == pytest.approx((sighting.ended or 0) + 7 * 86400)
    assert b"".join([piece async for piece in platform.fetch(job, "deep/answer.txt", soon())]) == b"42"


async def test_a_failing_program_fails_with_its_exit_code_and_last_words(platform: LocalPlatform) -> None:
    sighting = await ran(platform, a_job("print('so far')\nraise SystemExit('no such star')"))
    assert sighting.phase == "FAILED"
    assert sighting.messages == ("program ended with exit code 1: no such star",)


async def test_a_program_by_location(platform: LocalPlatform, folder: Path) -> None:
    job = a_job("")
    executable = {"kind": kinds.PYTHON_PROGRAM, "location": "data:text/x-python;base64,cHJpbnQoNDIp"}
    request = ExecutionRequest.model_validate({"executable": executable})
    job = Job(job.session, "", job.owner, request, 1, 1, 0, {}, 60, 0)
    assert (await ran(platform, job)).phase == "COMPLETED"
    assert (await platform.logs(job, soon())).stdout == "42\n"


async def test_a_program_learns_nothing_of_the_brokers_environment(
    platform: LocalPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", "geheim")
    monkeypatch.setenv("https_proxy", "http://me:geheim@127.0.0.1:9")
    job = a_job("import os\nprint(dict(os.environ))\nprint(open(f'/proc/{os.getppid()}/environ').read())\n")
    assert (await ran(platform, job)).phase == "COMPLETED"
    logs = await platform.logs(job, soon())
    assert "HOME" in (logs.stdout or "")
    assert "geheim" not in (logs.stdout or "")


async def test_the_end_of_a_long_log_is_kept(folder: Path) -> None:
    platform = a_platform(folder, max_log_bytes=10_000)
    job = a_job("for i in range(20000): print('line', i)")
    assert (await ran(platform, job)).phase == "COMPLETED"
    out = (await platform.logs(job, soon())).stdout or ""
    assert out.endswith("line 19999\n")
    assert 4_000 < len(out) <= 10_000


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_time_limit_ends_a_program(platform: LocalPlatform) -> None:
    sighting = await ran(platform, a_job("import time\nwhile True: time.sleep(60)", duration=0.3))
    assert sighting.phase == "FAILED"
    assert sighting.messages == ("time limit: program did not end within 0.3 s",)


async def test_memory_beyond_the_grant_is_refused_to_one_process(platform: LocalPlatform) -> None:
    sighting = await ran(platform, a_job("x = bytearray(2 * 1024**3)"))
    assert sighting.messages == ("program ended with exit code 1: MemoryError",)


async def test_memory_beyond_the_grant_ends_a_family_of_processes(platform: LocalPlatform) -> None:
    source = (
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        kept = bytearray(400 * 1024**2)\n"
        "        time.sleep(600)\n"
        "time.sleep(600)\n"
    )
    (message,) = (await ran(platform, a_job(source))).messages
    assert message.startswith("memory limit: ")


async def test_too_much_on_disk_ends_a_program(folder: Path) -> None:
    platform = a_platform(folder, max_disk_bytes=4 * 1024**2)
    source = "import time\nfor i in range(8): open(f'part{i}', 'wb').write(b'x' * 1024**2)\ntime.sleep(600)\n"
    (message,) = (await ran(platform, a_job(source))).messages
    assert message.startswith("disk limit: ")


async def test_too_many_processes_end_a_program(folder: Path) -> None:
    platform = a_platform(folder, max_processes=5)
    source = "import os, time\nfor _ in range(10):\n    if os.fork() == 0: time.sleep(600)\ntime.sleep(600)\n"
    (message,) = (await ran(platform, a_job(source))).messages
    assert message.startswith("process limit: ")


async def test_results_beyond_what_is_kept_fail_the_run(folder: Path) -> None:
    platform = a_platform(folder, max_results_bytes=10)
    job = a_job("open('results/big', 'w').write('x' * 11)")
    sighting = await ran(platform, job)
    assert (sighting.phase, sighting.messages) == ("FAILED", ("its results are 11 bytes, this site keeps 10",))
    assert await platform.results(job, soon()) == ()


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────────────────────

FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
os.wait()
if len(sys.argv) > 1:   # a daemon that wiped its environment
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={}, start_new_session=True)
print("ready", flush=True)
time.sleep(600)
"""


async def test_cancelling_ends_grandchildren_that_made_sessions_of_their_own(
    platform: LocalPlatform, folder: Path
) -> None:
    job = a_job(FAMILY, arguments=["daemon"])
    await platform.start(job, soon())
    await said(platform, job, "ready")
    family = processes.descendants(a_supervisor(folder, job))
    assert len(family) == 3
    await platform.cancel(job, soon())
    sighting = await ended(platform, job)
    assert (sighting.phase, sighting.messages) == ("CANCELLED", ("cancelled",))
    assert not [pid for pid in family if _lives(pid)]
    assert (await platform.cancel(job, soon())).phase == "CANCELLED"


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def test_left_over_processes_end_with_the_program(platform: LocalPlatform) -> None:
    job = a_job("import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(600)\n")
    assert (await ran(platform, job)).phase == "COMPLETED"
    assert not processes.marked(str(job.session), Path("/nowhere"))


async def test_a_job_cancelled_before_its_start_never_runs(platform: LocalPlatform, tmp_path: Path) -> None:
    job = a_job(f"open({str(tmp_path / 'ran')!r}, 'w')")
    assert (await platform.cancel(job, soon())).phase == "CANCELLED"
    assert (await platform.start(job, soon())).phase == "CANCELLED"
    assert not (tmp_path / "ran").exists()


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────────

STARTER = """
import json, sys
from pathlib import Path
from adapters.local.jobs import Jobs
from adapters.local.layout import Spec
Jobs(Path(sys.argv[1]), 60).start(Spec.decode(json.loads(sys.argv[2])))
print("started", flush=True)
sys.stdin.read()
"""


async def test_a_job_outlives_the_process_that_started_it(
    platform: LocalPlatform, folder: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = a_job(f"open({str(gate)!r}).read()\nopen('results/done', 'w').write('yes')")
    starter = _starter(folder, job)
    assert starter.stdout is not None
    assert await asyncio.to_thread(starter.stdout.readline) == b"started\n"
    starter.send_signal(signal.SIGKILL)
    await asyncio.to_thread(starter.communicate)
    assert (await seen(platform, job)).phase in ("PREPARING", "RUNNING")
    await asyncio.to_thread(gate.write_text, "go")
    assert (await ended(platform, job)).phase == "COMPLETED"
    assert [result.name for result in await platform.results(job, soon())] == ["done"]


def _starter(folder: Path, job: Job) -> subprocess.Popen[bytes]:
    from adapters.local import translate

    spec = translate.spec(job, LocalOptions(folder=folder))
    return subprocess.Popen(
        [sys.executable, "-c", STARTER, str(folder), json.dumps(spec.encode())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


async def test_many_starts_at_once_run_it_once(folder: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    job = a_job(f"open({str(runs)!r}, 'a').write('ran\\n')")
    others = [_starter(folder, job) for _ in range(2)]
    platforms = [a_platform(folder) for _ in range(4)]
    await asyncio.gather(*(platform.start(job, soon()) for platform in platforms))
    for other in others:
        await asyncio.to_thread(other.communicate, b"")
        assert other.returncode == 0
    assert (await ended(platforms[0], job)).phase == "COMPLETED"
    assert (await platforms[1].start(job, soon())).phase == "COMPLETED"
    assert runs.read_text() == "ran\n"


async def test_a_killed_supervisor_fails_its_job_and_leaves_no_process(platform: LocalPlatform, folder: Path) -> None:
    job = a_job(FAMILY)
    await platform.start(job, soon())
    await said(platform, job, "ready")
    supervisor = a_supervisor(folder, job)
    family = processes.descendants(supervisor)
    assert len(family) == 2
    os.kill(supervisor, signal.SIGKILL)

    sighting = await ended(platform, job)
    assert (sighting.phase, sighting.messages) == ("FAILED", ("its supervisor was killed",))
    assert sighting.ended is not None
    assert not [pid for pid in family if _lives(pid)]
    assert (await platform.start(job, soon())).phase == "FAILED"


async def test_a_job_whose_maker_died_before_the_launch_is_launched_by_a_look(
    platform: LocalPlatform, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job("print('ran')")
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "_launch", lambda *_: None)
        with pytest.raises(SiteError):
            await platform.start(job, soon())
    assert (await ended(platform, job)).phase == "COMPLETED"


FIRST = """
import os, sys
from pathlib import Path
from adapters.local import layout
folder = Path(sys.argv[1])
lock = layout.acquire(folder)
print("held", flush=True)
sys.stdin.readline()
layout.write_state(folder, layout.State("RUNNING", pid=os.getpid()))
sys.stdin.read()
"""


def _first(place: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", FIRST, str(place)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def test_a_supervisor_that_comes_second_waits_for_the_word_of_the_first(
    platform: LocalPlatform, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = a_job("print('never')")
    before = set(processes.descendants(os.getpid()))
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "_launch", lambda *_: None)
        with pytest.raises(SiteError):
            await platform.start(job, soon())
    with _first(folder / str(job.session)) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert await asyncio.to_thread(first.stdout.readline) == b"held\n"
        second = asyncio.create_task(platform.start(job, soon()))

        async def waiting() -> bool:
            # the first, the one that was started, and its fork
            return len(set(processes.descendants(os.getpid())) - before) == 3

        await until(waiting)
        first.stdin.write(b"\n")
        first.stdin.flush()
        sighting = await second
        assert (sighting.phase, sighting.native) == ("RUNNING", f"pid {first.pid}")


async def test_a_state_that_is_none_is_this_sessions_trouble_alone(platform: LocalPlatform, folder: Path) -> None:
    good, bad = a_job("pass"), a_job("pass")
    for job in (good, bad):
        assert (await ran(platform, job)).phase == "COMPLETED"
    (folder / str(bad.session) / "state.json").write_text('{"phase": 1')
    seen = await platform.status([good, bad], soon())
    assert isinstance(seen[good.session], Sighting)
    assert isinstance(seen[bad.session], SiteMisbehaved)
    with pytest.raises(SiteMisbehaved):
        await platform.cancel(bad, soon())


async def test_an_unknown_session_is_forgotten(platform: LocalPlatform) -> None:
    job = a_job("")
    assert isinstance((await platform.status([job], soon()))[job.session], SiteForgot)
    with pytest.raises(SiteForgot):
        await platform.logs(job, soon())
    with pytest.raises(SiteForgot):
        await platform.results(job, soon())


async def test_a_folder_that_cannot_be_made_is_proof_that_nothing_ran(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SiteError) as caught:
        await a_platform(tmp_path / "file" / "jobs").start(a_job(""), soon())
    assert caught.value.proof


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_only_listed_plain_files_are_handed_out(platform: LocalPlatform, folder: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim")
    source = (
        "import os\n"
        f"os.symlink({str(secret)!r}, 'results/link')\n"
        f"os.symlink({str(tmp_path)!r}, 'results/folder')\n"
        "os.mkfifo('results/pipe')\n"
        "open('results/good', 'w').write('x')\n"
    )
    job = a_job(source)
    assert (await ran(platform, job)).phase == "COMPLETED"
    assert [result.name for result in await platform.results(job, soon())] == ["good"]
    for name in ("../job.json", "../../state.json", "link", "folder/secret", "pipe", str(secret), "", "good/"):
        with pytest.raises(SiteForgot):
            [piece async for piece in platform.fetch(job, name, soon())]
    # A listed file that became a link since then leads nowhere either.
    good = folder / str(job.session) / "work/results/good"
    good.unlink()
    good.symlink_to(secret)
    with pytest.raises(SiteForgot):
        [piece async for piece in platform.fetch(job, "good", soon())]


async def test_a_sweep_clears_what_was_kept_long_enough(folder: Path) -> None:
    platform = a_platform(folder)
    job = a_job("open('results/a', 'w').write('x')")
    end = (await ran(platform, job)).ended or 0
    jobs = Jobs(folder, keep=100)
    jobs.sweep(end + 99)
    assert (folder / str(job.session) / "work").exists()
    jobs.sweep(end + 101)
    assert sorted(path.name for path in (folder / str(job.session)).iterdir()) == ["lock", "state.json"]
    assert (await platform.start(job, soon())).phase == "COMPLETED"
    assert await platform.results(job, soon()) == ()
    jobs.sweep(end + 101 + 31 * 86400)
    assert not (folder / str(job.session)).exists()


# ── notebooks, requirements, interpreters ────────────────────────────────────────────────────────────────────────


def a_notebook(*cells: str) -> str:
    """A data URL."""
    document = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "of-its-author", "display_name": "x"}},
        "cells": [
            {"id": f"c{i}", "cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": cell}
            for i, cell in enumerate(cells)
        ],
    }
    return "data:application/json;base64," + b64encode(json.dumps(document).encode()).decode()


def of(executable: dict[str, Any]) -> Job:
    job = a_job("")
    return msgspec.structs.replace(job, request=ExecutionRequest.model_validate({"executable": executable}))


async def test_a_notebook_is_executed_and_handed_back(platform: LocalPlatform) -> None:
    job = of({"kind": kinds.JUPYTER_NOTEBOOK, "location": a_notebook("x = 6 * 7", "print('it is', x)\n1 / 0", "x")})
    sighting = await ran(platform, job)
    assert sighting.phase == "FAILED"
    assert "ZeroDivisionError" in sighting.messages[0]
    assert [result.name for result in await platform.results(job, soon())] == ["notebook.ipynb"]
    text = b"".join([piece async for piece in platform.fetch(job, "notebook.ipynb", soon())])
    cells = json.loads(text)["cells"]
    assert cells[1]["outputs"][0]["text"] in ("it is 42\n", ["it is 42\n"])
    assert [cell["execution_count"] for cell in cells] == [1, 2, None]


async def test_requirements_are_installed_for_the_job_alone(folder: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "onlyhere-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("onlyhere.py", "answer = 42\n")
        archive.writestr("onlyhere-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: onlyhere\nVersion: 1.0\n")
        archive.writestr(
            "onlyhere-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("onlyhere-1.0.dist-info/RECORD", "")
    platform = a_platform(folder, install_requirements=True)
    job = a_job("import onlyhere; print(onlyhere.answer)", requirements=[f"onlyhere @ file://{wheel}"])
    sighting = await ran(platform, job)
    assert sighting.phase == "COMPLETED", sighting.messages
    assert (await platform.logs(job, soon())).stdout == "42\n"


async def test_what_cannot_be_installed_is_told(folder: Path, tmp_path: Path) -> None:
    platform = a_platform(folder, install_requirements=True)
    sighting = await ran(platform, a_job("pass", requirements=[f"absent @ file://{tmp_path}/absent-1.0.zip"]))
    assert sighting.phase == "FAILED"
    assert sighting.began is None
    assert sighting.messages[0].startswith("installing ended with exit code 1: ERROR")


async def test_data_that_cannot_be_staged_fail_the_job_in_words(platform: LocalPlatform) -> None:
    datum = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube"}, "location": "http://127.0.0.1:1/cube"}
    sighting = await ran(platform, a_job("pass", data=[datum]))
    assert (sighting.phase, sighting.began) == ("FAILED", None)
    assert sighting.messages[0].startswith('The data "cube" cannot be staged: http://127.0.0.1:1/cube cannot be')


async def test_a_program_finds_its_data_by_variables(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cube.fits").write_text("SIMPLE")
    platform = a_platform(folder, file_roots=(tmp_path,))
    datum = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube.fits"}, "location": f"file://{tmp_path}/cube.fits"}
    source = (
        "import os\n"
        "print(open(os.environ['BROKER_DATA_CUBE_FITS']).read(), open('data/cube.fits').read())\n"
        "open(os.environ['BROKER_RESULTS'] + '/done', 'w')\n"
        "print(len(os.sched_getaffinity(0)), os.environ['BROKER_CORES'], os.environ['OMP_NUM_THREADS'])\n"
    )
    job = a_job(source, data=[datum])
    sighting = await ran(platform, job)
    assert sighting.phase == "COMPLETED", sighting.messages
    assert (await platform.logs(job, soon())).stdout == "SIMPLE SIMPLE\n1 1 1\n"
    assert [result.name for result in await platform.results(job, soon())] == ["done"]


def test_a_python_that_is_not_here_is_refused_with_the_one_that_is(platform: LocalPlatform) -> None:
    def refused(python: str) -> tuple[Reason, ...]:
        return platform.refuse(a_job("pass", python=python).request)

    here = ".".join(str(number) for number in sys.version_info[:3])
    assert refused(">=3.11") == ()
    assert refused(">=99") == (Reason("Python >=99 is asked", "executable.python", nearest=here),)
    assert refused("any")[0].element == "executable.python"


async def test_another_interpreter_is_asked_what_it_can(tmp_path: Path) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    platform = a_platform(tmp_path / "jobs", python=bare, install_requirements=True)
    profile = await platform.describe(soon())
    assert profile.executables == (kinds.PYTHON_PROGRAM,)
    assert not profile.installs_requirements
    notebook = of({"kind": kinds.JUPYTER_NOTEBOOK, "location": "https://a.example/x.ipynb"})
    assert platform.refuse(notebook.request)[0].element == "executable.kind"
    assert platform.refuse(a_job("pass", requirements=["numpy"]).request)[0].element == "executable.requirements"


async def test_without_bubblewrap_nothing_runs_unprotected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    platform = a_platform(folder, isolation="bwrap")
    await platform.describe(soon())
    (reason,) = platform.refuse(a_job("pass").request)
    assert reason.rule == "isolation"
    assert reason.text.endswith("it does not work: it is not installed")


async def test_where_bubblewrap_does_not_work_programs_run_open_and_the_profile_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that has it and forbids what it does."""
    broken = tmp_path / "bin" / "bwrap"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/bin:/bin")
    platform = a_platform(tmp_path / "jobs", isolation="auto")
    assert "no sandbox" in ((await platform.describe(soon())).isolation or "")
    assert platform.refuse(a_job("pass").request) == ()
    assert (await ran(platform, a_job("pass"))).phase == "COMPLETED"
    shut = a_platform(tmp_path / "jobs", isolation="bwrap")
    await shut.describe(soon())
    (reason,) = shut.refuse(a_job("pass").request)
    assert reason.text.endswith("it does not work: No permissions to create a new namespace")


async def test_an_interpreter_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SiteMisbehaved, match="cannot be used"):
        await a_platform(tmp_path, python=tmp_path / "absent").describe(soon())


async def test_jobs_keep_to_cores_of_their_own(folder: Path, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    source = f"import os\nprint(sorted(os.sched_getaffinity(0)), flush=True)\nopen({str(gate)!r}).read()"
    platform, jobs = a_platform(folder), [a_job(source), a_job(source)]
    for job in jobs:
        await platform.start(job, soon())
        await said(platform, job, "]")
    first, second = [(await platform.logs(job, soon())).stdout for job in jobs]
    assert first != second
    for job in jobs:
        await platform.cancel(job, soon())
        assert (await ended(platform, job)).phase == "CANCELLED"


# ── the sandbox ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("bubblewrap")
async def test_a_program_in_bubblewrap_sees_its_own_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cube").write_text("SIMPLE")
    platform = a_platform(folder, isolation="bwrap", network=False, file_roots=(tmp_path,))
    source = (
        "import os, socket\n"
        "def fails(act):\n"
        "    try: act()\n"
        "    except OSError: return True\n"
        "print(open('/in').read(), open('data/cube').read())\n"
        f"print(fails(lambda: open('/in', 'w')), fails(lambda: open({str(tmp_path / 'cube')!r})))\n"
        "print(fails(lambda: open('../state.json')), fails(lambda: open('/etc/shadow')))\n"
        "print(fails(lambda: socket.create_connection(('192.0.2.1', 9), 1)))\n"
        "open('/out/x', 'w').write('kept')\n"
        "open('results/y', 'w').write('z')\n"
    )
    volume = {"kind": kinds.SIMPLE_VOLUME}
    job = a_job(
        source,
        data=[{"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube"}, "location": f"file://{tmp_path}/cube"}],
        storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}],
        compute={
            "kind": kinds.SIMPLE_COMPUTE,
            "volumes": [
                volume | {"path": "/in", "resource": "cube"},
                volume | {"path": "/out", "resource": "scratch", "mode": "READWRITE"},
            ],
        },
    )
    sighting = await ran(platform, job)
    assert sighting.phase == "COMPLETED", (await platform.logs(job, soon())).stderr
    assert (await platform.logs(job, soon())).stdout == "SIMPLE SIMPLE\nTrue True\nTrue True\nTrue\n"
    assert (folder / str(job.session) / "store/storage/scratch/x").read_text() == "kept"
    assert [result.name for result in await platform.results(job, soon())] == ["y"]


@pytest.mark.usefixtures("bubblewrap")
async def test_a_program_in_bubblewrap_cannot_make_the_system_writable(folder: Path) -> None:
    """Not even where the broker is root."""
    source = (
        "import os, subprocess\n"
        "told = subprocess.run(['mount', '-o', 'remount,rw,bind', '/usr'], capture_output=True)\n"
        "print(told.returncode != 0)\n"
        "try: open('/usr/ours', 'w')\n"
        "except OSError as error: print(error.strerror)\n"
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('CapEff')).strip('0'))\n"
        "print([pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) > 20])\n"
    )
    platform, job = a_platform(folder, isolation="auto"), a_job(source)
    assert "bubblewrap" in ((await platform.describe(soon())).isolation or "")
    assert (await ran(platform, job)).phase == "COMPLETED"
    assert (await platform.logs(job, soon())).stdout == "True\nRead-only file system\n\n[]\n"


@pytest.mark.usefixtures("bubblewrap")
async def test_a_program_in_bubblewrap_reaches_the_network_when_its_request_says_so(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        source = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 30)\n"
        platform = a_platform(folder, isolation="auto")
        refused = await ran(platform, a_job(source))
        asked = a_job(source, network=True)
        reached = await ran(platform, asked)
    assert refused.phase == "FAILED"
    assert "ConnectionRefusedError" in refused.messages[0]
    assert reached.phase == "COMPLETED", reached.messages
    never = a_platform(folder, isolation="auto", network=False)
    await never.describe(soon())
    (reason,) = never.refuse(asked.request)
    assert (reason.element, reason.rule) == ("executable.network", "network")


@pytest.mark.usefixtures("bubblewrap")
@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import os, time\nfor _ in range(60): os.fork() or time.sleep(600)\ntime.sleep(600)", "process limit"),
        ("import os, time\nfor _ in range(2): os.fork()\nkept = bytearray(400 << 20)\ntime.sleep(600)", "memory limit"),
        ("kept = bytearray(2 << 30)", "MemoryError"),
    ],
)
async def test_what_a_program_may_use_in_bubblewrap_is_bounded(folder: Path, source: str, word: str) -> None:
    sighting = await ran(a_platform(folder, isolation="auto", max_processes=50), a_job(source))
    assert sighting.phase == "FAILED"
    assert word in sighting.messages[0]


@pytest.mark.usefixtures("bubblewrap")
async def test_a_notebook_in_bubblewrap_is_executed_and_cancelled(folder: Path) -> None:
    platform = a_platform(folder, isolation="bwrap", network=False)
    good = of({"kind": kinds.JUPYTER_NOTEBOOK, "location": a_notebook("print(6 * 7)")})
    sighting = await ran(platform, good)
    assert sighting.phase == "COMPLETED", sighting.messages
    endless = of({"kind": kinds.JUPYTER_NOTEBOOK, "location": a_notebook("import time; time.sleep(600)")})
    await platform.start(endless, soon())
    await said(platform, endless, "cell 1 of 1")
    family = processes.descendants(a_supervisor(folder, endless))
    await platform.cancel(endless, soon())
    assert (await ended(platform, endless)).phase == "CANCELLED"
    assert family
    assert not [pid for pid in family if _lives(pid)]


@pytest.mark.usefixtures("bubblewrap")
async def test_a_programs_variables_reach_the_program_and_not_bubblewrap(folder: Path) -> None:
    platform = a_platform(folder, isolation="bwrap", network=False)
    variables = {"LD_PRELOAD": "data/none.so", "PATH": "../packages/bin", "EMPTY": "", "TEXT": "a b\n-é"}
    job = a_job("import os\nprint([os.environ[n] for n in ('PATH', 'EMPTY', 'TEXT')])", environment=variables)
    assert (await ran(platform, job)).phase == "COMPLETED"
    logs = await platform.logs(job, soon())
    assert logs.stdout == f"{[variables[name] for name in ('PATH', 'EMPTY', 'TEXT')]}\n"
    # The loader complains once: in the sandbox. Outside, what it loads would run as the broker's account.
    assert (logs.stderr or "").count("LD_PRELOAD") == 1


@pytest.mark.parametrize("storage", [False, True])
async def test_a_link_in_the_place_of_the_results_hands_back_nothing(
    folder: Path, tmp_path: Path, storage: bool
) -> None:
    """A sandboxed program cannot read what it links to; the supervisor, outside, could."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "secret").write_text("hunter2")
    volume = {"kind": kinds.SIMPLE_VOLUME, "path": "results", "resource": "scratch", "mode": "READWRITE"}
    parts = {
        "storage": [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}],
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "volumes": [volume]},
    }
    source = (
        "import os\n"
        "place = os.path.realpath('results')\n"
        "os.rmdir(place)\n"
        f"os.symlink({str(tmp_path / 'theirs')!r}, place)\n"
        "print(os.listdir(place))\n"
    )
    platform = a_platform(folder)
    job = a_job(source, **(parts if storage else {}))
    assert (await ran(platform, job)).phase == "COMPLETED"
    assert (await platform.logs(job, soon())).stdout == "['secret']\n"
    assert await platform.results(job, soon()) == ()


async def test_results_swapped_for_a_link_after_the_run_are_gone(folder: Path, tmp_path: Path) -> None:
    platform, job = a_platform(folder), a_job("open('results/x', 'w').write('mine')")
    await ran(platform, job)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "x").write_text("hunter2")
    results = folder / str(job.session) / "work" / "results"
    results.rename(tmp_path / "away")
    results.symlink_to(tmp_path / "theirs")
    with pytest.raises(SiteForgot):
        [piece async for piece in platform.fetch(job, "x", soon())]
