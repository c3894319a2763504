"""What the kind `wes` reads and writes, without a server: states, times, service-info, requests, outputs, words."""

from __future__ import annotations

import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import ValidationError

from adapters.planning.platform import Job
from adapters.wes import info, launch, outputs, states, tool, translate, words
from adapters.wes.client import form, tags
from adapters.wes.options import WesOptions
from adapters.wes.outputs import Output
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.domain.session import known
from broker.errors import SiteRefused
from broker.testing.children import wait_for
from tests.adapters.wes_stage import SMALL, WARP, datum, program, workflow

SESSION = UUID("5a1f5b1e-0000-4000-8000-00000000abcd")
OPTIONS = WesOptions.model_validate({"program": {"version": "3.11.7"}})

TOIL = {
    "supported_wes_versions": ["1.0.0"],
    "workflow_engine_versions": {"toil": "9.6.0"},
    "workflow_type_versions": {
        "cwl": {"workflow_type_version": ["v1.0", "v1.1", "v1.2"]},
        "wdl": {"workflow_type_version": ["draft-2", "1.0"]},
    },
}
SAPPORO = {
    "supported_wes_versions": ["sapporo-wes-2.1.0"],
    "workflow_engine_versions": {name: {"workflow_engine_version": ["1"]} for name in ("cwltool", "nextflow", "toil")},
    "workflow_type_versions": {
        "CWL": {"workflow_type_version": ["v1.0", "v1.1", "v1.2"]},
        "NFL": {"workflow_type_version": ["DSL2"]},
        "WDL": {"workflow_type_version": ["1.0"]},
    },
}


def job(request: dict[str, Any]) -> Job:
    read = ExecutionRequest.model_validate(request)
    return Job(SESSION, "fit", Owner("idp", "ada"), read, 2, 3, 0, {}, duration=600.0, start=0.0)


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_state_of_the_schema_has_a_phase_of_the_standard() -> None:
    schema = "QUEUED INITIALIZING RUNNING PAUSED COMPLETE EXECUTOR_ERROR SYSTEM_ERROR CANCELED CANCELING PREEMPTED"
    assert set(states.STATES) == set(schema.split())
    assert all(known(said.phase) for said in states.STATES.values())
    over = {state for state, said in states.STATES.items() if said.phase in ("COMPLETED", "FAILED", "CANCELLED")}
    assert over == states.OVER


def test_a_state_nobody_knows_is_passed_on() -> None:
    assert states.meaning("DELETING").phase == "DELETING"
    assert "DELETING" in states.meaning("DELETING").words


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T22:32:11Z", 1795386731.0),
        ("2026-11-22T22:32:12", 1795386732.0),
        ("2026-11-22T22:32:22.154170", 1795386742.15417),
        ("2026-11-22T23:32:12+01:00", 1795386732.0),
        ("", None),
        ("soon", None),
        (None, None),
        (17, None),
        ("9" * 100, None),
    ],
)
def test_times_are_read_as_servers_write_them(text: object, moment: float | None) -> None:
    assert states.moment(text) == moment


# ── service-info ─────────────────────────────────────────────────────────────────────────────────────────────


def test_service_info_is_read_as_each_server_writes_it() -> None:
    toil, sapporo = info.read(TOIL), info.read(SAPPORO)
    assert (toil.sapporo, sapporo.sapporo) == (False, True)
    assert (toil.type("CWL"), sapporo.type("cwl")) == ("cwl", "CWL")
    assert toil.languages() == ("CWL v1.0", "CWL v1.1", "CWL v1.2", "WDL draft-2", "WDL 1.0")
    assert (sapporo.type("Nextflow"), sapporo.type("SMK")) == ("NFL", None)
    assert (toil.version("cwl", "1.2"), toil.version("cwl", None), toil.version("cwl", "v2")) == ("v1.2", "v1.2", None)
    assert (toil.engine("cwl", None), sapporo.engine("CWL", None), sapporo.engine("WDL", None)) == (
        "toil",
        "cwltool",
        "toil",
    )
    assert (sapporo.engine("CWL", "TOIL"), sapporo.engine("CWL", "arvados")) == ("toil", None)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"workflow_type_versions": [], "workflow_engine_versions": 7, "supported_wes_versions": {}},
        {"workflow_type_versions": {"\n": {}, "x" * 500: {}}, "supported_wes_versions": [None, 3]},
    ],
)
def test_service_info_that_says_nothing_counts_as_not_said(document: dict[str, Any]) -> None:
    assert info.read(document) == info.Info({})


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────


def refused(request: dict[str, Any], said: dict[str, Any] | None = None, **options: Any) -> set[tuple[str, str]]:
    read = WesOptions.model_validate({**OPTIONS.model_dump(), **options})
    found = translate.refuse(ExecutionRequest.model_validate(request), read, info.read(said) if said else None)
    assert all(reason.text and reason.element for reason in found)
    return {(reason.element or "", reason.nearest or "") for reason in found}


def elsewhere(location: str) -> dict[str, Any]:
    return {"executable": {"kind": kinds.PYTHON_PROGRAM, "location": location}}


MAIN = "cwlVersion: v1.2\nclass: CommandLineTool\n"


@pytest.mark.parametrize(
    ("request_", "element", "nearest"),
    [
        ({"executable": WARP}, "executable.kind", "python-program or workflow"),
        (program("", requirements=["numpy"]), "executable.requirements", "no requirements"),
        (program("", python=">=3.12"), "executable.python", "3.11.7"),
        (program("", python="seven"), "executable.python", ">=3.11"),
        (program("", location="https://example.org/a.py"), "executable.source", ""),
        (elsewhere("file:///a.py"), "executable.location", "http, https, data"),
        (elsewhere("data:,x;"), "", ""),
        (elsewhere("data:;base64,?"), "executable.location", ""),
        (program("", environment={"A=B": "c"}), "executable.environment", ""),
        (program("", arguments=["\0"]), "executable.arguments", ""),
        (program("x" * 9_000_000), "executable.source", "8388608 bytes"),
        (program("", datum("d", "s3://bucket/key")), "data[0]", "http, https"),
        (program("", datum("d", "file:///etc/passwd")), "data[0]", "http, https"),
        (
            {**program(""), "compute": {**SMALL, "volumes": [{"kind": kinds.SIMPLE_VOLUME, "path": "../x"}]}},
            "compute.volumes[0].path",
            "a path of its own, without ..",
        ),
        (
            {**program(""), "compute": {**SMALL, "volumes": [{"kind": kinds.SIMPLE_VOLUME, "path": "launch.py"}]}},
            "compute.volumes[0].path",
            "a path of its own, without ..",
        ),
        (
            {**workflow(MAIN), "compute": {**SMALL, "volumes": [{"kind": kinds.SIMPLE_VOLUME, "path": "x"}]}},
            "compute.volumes",
            "inputs with the location data/<name>",
        ),
        (workflow(MAIN, location="other.cwl"), "executable.location", "main.cwl"),
        (workflow(MAIN, location="file:///main.cwl", attachments=[]), "executable.location", "http, https"),
        (workflow(MAIN, type="Galaxy"), "executable.type", "CWL, NFL, WDL"),
        (workflow(MAIN, version="v3"), "executable.version", "v1.0, v1.1, v1.2"),
        (workflow(MAIN.replace("1.2", "1.3")), "executable.version", "v1.0, v1.1, v1.2"),
        (workflow(MAIN, engine="arvados"), "executable.engine", "cwltool, nextflow, toil"),
        (
            workflow(MAIN, attachments=[{"path": "main.cwl", "location": "https://example.org/main.cwl"}]),
            "executable.attachments[0].location",
            "source",
        ),
        (
            workflow(MAIN, attachments=[{"path": "my main.cwl", "source": MAIN}], location="my main.cwl"),
            "executable.attachments[0].path",
            "letters, digits, dots, dashes and underscores",
        ),
        (
            workflow(MAIN, parameters={"x": [{"class": "File", "location": "file:///etc/passwd"}]}),
            "executable.parameters.x[0]",
            "http, https",
        ),
        (workflow("#" * 9_000_000), "executable.attachments", "8388608 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_told_with_the_nearest_that_can(
    request_: dict[str, Any], element: str, nearest: str
) -> None:
    found = refused(request_, SAPPORO)
    assert found == ({(element, nearest)} if element else set())


def test_what_runs_is_not_refused() -> None:
    data = datum("survey.fits", "https://example.org/s.fits")
    assert refused(program("", data, python=">=3.8"), TOIL) == set()
    assert (
        refused(workflow(MAIN, data, parameters={"x": {"class": "File", "location": "data/survey.fits"}}), TOIL)
        == set()
    )
    assert refused(program("", datum("d", "s3://bucket/key")), reads=("s3",)) == set()


def test_a_site_can_leave_programs_or_workflows_out() -> None:
    assert refused(program(""), program=None) == {("executable.kind", "workflow")}
    assert refused(workflow(MAIN), workflows=False) == {("executable.kind", "python-program")}
    old = {**TOIL, "workflow_type_versions": {"wdl": {"workflow_type_version": ["1.0"]}}}
    assert refused(program(""), old) == {("executable.kind", "wdl")}


@pytest.mark.parametrize("wrong", [{"outputs": ["relative"]}, {"outputs": ["/"]}, {"program": {"version": "new"}}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        WesOptions.model_validate(wrong)


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_program_is_a_tool_that_holds_none_of_its_words() -> None:
    """A CWL engine evaluates $(…) wherever it finds it."""
    data = datum("survey.fits", "https://example.org/s.fits")
    request = program("print('$(inputs)')", data, arguments=["$(1+1)"], environment={"A": "${x}"})
    sent = translate.submission(job(request), OPTIONS, info.read(TOIL), "us")
    document = json.loads(sent.files["program.cwl"])
    assert sent.fields["workflow_url"] == "program.cwl"
    assert (sent.fields["workflow_type"], sent.fields["workflow_type_version"]) == ("cwl", "v1.2")
    assert json.loads(sent.fields["workflow_params"]) == {}
    assert document["requirements"]["NetworkAccess"] == {"networkAccess": True}
    assert document["requirements"]["ResourceRequirement"] == {"coresMin": 2, "coresMax": 2, "ramMin": 3072}
    assert set(sent.files) == {"program.cwl", "launch.py", "launch.json", "program.py"}
    entries = {
        item["entryname"]: item["entry"] for item in document["requirements"]["InitialWorkDirRequirement"]["listing"]
    }
    assert set(entries) == set(sent.files) - {"program.cwl"}
    told = json.loads(sent.files["launch.json"])
    assert told["data"][0]["urls"] == ["https://example.org/s.fits"]
    assert told["told"] == {"BROKER_SESSION": str(SESSION), "BROKER_CORES": "2", "BROKER_MEMORY": str(3 * 1024**3)}
    assert told["places"]["BROKER_DATA_SURVEY_FITS"] == "data/survey.fits"


def test_an_engine_stages_what_the_tool_does_not() -> None:
    options = WesOptions.model_validate({"program": {"staging": "engine", "image": "python:3.12"}})
    request = program("", datum("survey.fits", "https://example.org/s.fits"))
    sent = translate.submission(job(request), options, info.read(SAPPORO), "us")
    document = json.loads(sent.files["program.cwl"])
    assert json.loads(sent.fields["workflow_params"]) == {
        "data_0": {"class": "File", "location": "https://example.org/s.fits"}
    }
    assert document["requirements"]["InitialWorkDirRequirement"]["listing"][-1] == {
        "entryname": "data/survey.fits", "entry": "$(inputs.data_0)", "writable": False,
    }  # fmt: skip
    assert document["hints"] == {"DockerRequirement": {"dockerPull": "python:3.12"}}
    assert sent.fields["workflow_engine"] == "cwltool"


def test_data_that_no_engine_reads_is_refused_with_proof() -> None:
    with pytest.raises(SiteRefused) as caught:
        translate.submission(job(program("", datum("d", "ftp://example.org/d"))), OPTIONS, info.read(TOIL), "us")
    assert caught.value.proof


def test_a_program_comes_inline_by_a_data_url_or_from_elsewhere() -> None:
    def files(location: str) -> dict[str, bytes]:
        return translate.submission(job(elsewhere(location)), OPTIONS, info.read(TOIL), "us").files

    assert files("data:text/x-python,print(%27%C3%B6%27)")["program.py"] == "print('ö')".encode()
    assert files("data:;base64,cHJpbnQoMSk=")["program.py"] == b"print(1)"
    fetched = files("https://example.org/fit.py")
    assert "program.py" not in fetched
    assert json.loads(fetched["launch.json"])["data"][0]["place"] == "program.py"


def test_a_workflow_gets_the_requests_data_where_its_inputs_name_it() -> None:
    file = {"class": "File", "location": "./data/d", "format": "x"}
    inputs = {"one": file, "many": [file], "all": {"class": "Directory", "path": "data"}, "word": "data/d", "n": 3}
    request = workflow(MAIN, datum("d", "https://example.org/cube"), parameters=inputs, engine="TOIL")
    sent = translate.submission(job(request), OPTIONS, info.read(SAPPORO), "us")
    there = {"class": "File", "location": "https://example.org/cube", "basename": "d"}
    assert json.loads(sent.fields["workflow_params"]) == {
        "one": {**there, "format": "x"},
        "many": [{**there, "format": "x"}],
        "all": {"class": "Directory", "basename": "data", "listing": [there]},
        "word": "data/d",
        "n": 3,
    }
    assert (sent.fields["workflow_engine"], sent.fields["workflow_type_version"]) == ("toil", "v1.2")
    older = translate.submission(job(workflow(MAIN.replace("1.2", "1.0"))), OPTIONS, info.read(TOIL), "us")
    assert older.fields["workflow_type_version"] == "v1.0"
    assert sent.files == {"main.cwl": MAIN.encode()}


def test_in_other_languages_a_text_that_names_data_stands_for_it() -> None:
    request = workflow(
        "", datum("d", "https://example.org/cube"), type="nextflow", parameters={"in": "data/d", "x": "d"}
    )
    sent = translate.submission(job(request), OPTIONS, info.read(SAPPORO), "us")
    assert json.loads(sent.fields["workflow_params"]) == {"in": "https://example.org/cube", "x": "d"}
    assert (sent.fields["workflow_type"], sent.fields["workflow_type_version"]) == ("NFL", "DSL2")
    assert sent.fields["workflow_engine"] == "nextflow"


def test_tags_say_whose_a_run_is_and_are_read_back() -> None:
    told = translate.tags(job(program("")), "us")
    assert tags(told) == (SESSION, "us")
    for other in (None, {}, {"broker_session": "x", "broker_id": "us"}, {"broker_session": str(SESSION)}, [1]):
        assert tags(other) == (None, None)


def test_the_form_is_one_that_servers_read() -> None:
    sent = translate.Submission({"workflow_type": "CWL"}, {"a/b.cwl": b"\r\n--x\r\n"})
    assert form(sent, "edge") == (
        b'--edge\r\nContent-Disposition: form-data; name="workflow_type"\r\n\r\nCWL\r\n'
        b'--edge\r\nContent-Disposition: form-data; name="workflow_attachment"; filename="a/b.cwl"\r\n'
        b"Content-Type: application/octet-stream\r\n\r\n\r\n--x\r\n\r\n--edge--\r\n"
    )


# ── launch.py ────────────────────────────────────────────────────────────────────────────────────────────────


def launched(folder: Path, source: str, **told: Any) -> subprocess.CompletedProcess[str]:
    """As an engine runs it, with `folder` as the tool's own."""
    sent = tool.tool(job(program(source)), job(program(source)).request.executable, OPTIONS.program, ("http",))  # type: ignore[arg-type]
    for name, content in sent.files.items():
        (folder / name).write_bytes(content)
    changed = {**json.loads(sent.files["launch.json"]), **told}
    (folder / "launch.json").write_text(json.dumps(changed))
    return subprocess.run(
        [sys.executable, "launch.py"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_program_leaves_results_and_their_sums(tmp_path: Path) -> None:
    done = launched(
        tmp_path, "open('results/x', 'w').write('1')", mounts=[["results", "storage/out"]], folders=["storage/out"]
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "manifest.json").read_text()) == [
        {"name": "x", "bytes": 1, "sha256": hashlib.sha256(b"1").hexdigest()}
    ]
    assert (tmp_path / "storage/out/x").read_text() == "1"


def test_a_volume_shows_what_it_mounts(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "d").write_text("seen")
    done = launched(tmp_path, "print(open('in/put').read())", mounts=[["in/put", "data/d"]])
    assert (done.returncode, (tmp_path / "stdout.txt").read_text()) == (0, "seen\n")


@pytest.mark.parametrize(
    ("kind", "value", "right"),
    [
        ("adler32", "062c0215", True),
        ("adler32", "62c0215", True),
        ("md5", hashlib.md5(b"hello", usedforsecurity=False).hexdigest().upper(), True),
        ("sha256", "00", False),
    ],
)
def test_data_is_summed_before_the_program_runs(tmp_path: Path, kind: str, value: str, right: bool) -> None:
    (tmp_path / "d").write_text("hello")
    datum = {"place": "d", "urls": [], "writable": False, "size": 5, "kind": kind, "value": value}
    done = launched(tmp_path, "print('ran')", data=[datum])
    assert (tmp_path / "stdout.txt").exists() is right
    assert done.returncode == (0 if right else 1)


@contextmanager
def dripping(head: bytes) -> Iterator[str]:
    """A server that answers `head`, and then a byte now and then, for ever."""

    def serve() -> None:
        with suppress(OSError):
            taken, _ = listening.accept()
            with taken:
                taken.recv(65536)
                taken.sendall(head)
                while True:
                    taken.sendall(b"x")
                    time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/d?key=s3cret"


@pytest.mark.parametrize(
    ("head", "size", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", None, "the data was not there within 1 s"),
        (b"HTTP/1.1 200 OK\r\nX-Y: ", None, "the data was not there within 1 s"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (3 << 20), 5, "larger than the 5 bytes that were stated"),
    ],
)
def test_a_server_without_an_end_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, size: int | None, said: str
) -> None:
    short = tmp_path / "short.py"
    short.write_text(Path(launch.__file__).read_text().replace("FETCHING = 3600", "FETCHING = 1"))
    monkeypatch.setattr(launch, "__file__", str(short))
    (folder := tmp_path / "run").mkdir()
    with dripping(head) as url:
        datum = {"place": "d", "urls": [url], "writable": False}
        done = launched(folder, "print('ran')", data=[{**datum, "size": size, "kind": "", "value": ""}])
    ended = words.ending(done.stderr)
    assert ended is not None
    assert said in ended.words
    assert "s3cret" not in done.stderr
    assert not (folder / "stdout.txt").exists()


@pytest.mark.parametrize("place", ["127.0.0.1:1", "127.0.0.1"])
def test_what_opens_an_address_is_not_told(tmp_path: Path, place: str) -> None:
    url = f"http://ada:s3cret@{place}/d?key=s3cret"
    datum = {"place": "d", "urls": [url], "writable": False, "size": None, "kind": "", "value": ""}
    done = launched(tmp_path, "", data=[datum])
    ended = words.ending(done.stderr)
    assert ended is not None
    assert f"http://{place}/d: " in ended.words
    assert "s3cret" not in done.stderr


def _gone(pid: int) -> bool:
    """Also where nobody has reaped it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_what_a_program_leaves_running_ends_with_it(tmp_path: Path) -> None:
    source = (
        "import subprocess, sys\nprint(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )
    assert launched(tmp_path, source).returncode == 0
    pid = int((tmp_path / "stdout.txt").read_text())
    wait_for(lambda: _gone(pid), "what it left behind is killed")


def test_a_program_that_is_killed_says_by_what(tmp_path: Path) -> None:
    done = launched(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 137
    ended = words.ending(done.stderr)
    assert ended is not None
    assert ended.words == "the program was ended by SIGKILL"


# ── outputs ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_outputs_are_read_in_every_shape_that_servers_have() -> None:
    file = {
        "class": "File",
        "location": "file:///w/o/a%20b",
        "basename": "a b",
        "size": 3,
        "checksum": "sha1$" + "0" * 40,
    }
    folder = {"class": "Directory", "location": "file:///w/o/d", "basename": "d", "listing": [file]}
    assert outputs.read({"x": file, "y": [folder, None], "n": 3, "s": "text", "u": "https://example.org/p/q.txt"}) == {
        "a b": Output("a b", "file:///w/o/a%20b", 3, "0" * 40),
        "d/a b": Output("d/a b", "file:///w/o/a%20b", 3, "0" * 40),
        "q.txt": Output("q.txt", "https://example.org/p/q.txt"),
    }
    assert outputs.read([{"file_name": "r/x", "file_url": "http://h/x"}, {"file_name": 3}, 7]) == {
        "r/x": Output("r/x", "http://h/x")
    }
    assert outputs.read(None) == {}


def test_two_outputs_of_one_name_are_kept_apart() -> None:
    def at(place: str) -> dict[str, str]:
        return {"class": "File", "location": place, "basename": "out.txt"}

    assert set(outputs.read({"one": at("/a"), "two": at("/b")})) == {"out.txt", "two/out.txt"}


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".", "a\nb", "a\\b", "x" * 2000])
def test_names_that_lead_elsewhere_are_left_out(name: str) -> None:
    assert outputs.read([{"file_name": name, "file_url": "http://h/x"}]) == {}


def test_a_bottomless_output_ends() -> None:
    deep: Any = {"class": "File", "location": "/x", "basename": "x"}
    for _ in range(200):
        deep = {"class": "Directory", "location": "/d", "basename": "d", "listing": [deep]}
    assert outputs.read({"x": deep}) == {}


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_steps_are_told_by_logs_or_by_what_the_engine_says() -> None:
    toil = [
        {"name": "main.last._:5b5ce307-984a-4caf-b8c0-1d798e9afaed", "exit_code": 0},
        {"name": "b", "exit_code": -1},
    ]
    assert words.steps(toil) == ("step main.last: ended with exit code 0", "step b: under way")
    assert words.steps([{"name": "x", "start_time": "…"}, {}]) == ("step x: runs",)
    stderr = "\x1b[1;30mINFO\x1b[0m [step one] start\nINFO [job one] completed success\n[step one] completed success\n"
    assert words.steps([], stderr) == ("step one: completed success", "step one (job): completed success")


def test_a_failure_is_told_by_whoever_knows_it_best() -> None:
    said = {"words": "the program ended with exit code 1", "code": 1, "stdout": "", "stderr": "a\nValueError: no\n"}
    log = f"INFO chatter\n\t{launch.MARK}{msgspec.json.encode(said).decode()}\nWARNING [job] exited with status: 1"
    assert words.failure(log) == ("the program ended with exit code 1", "a", "ValueError: no")
    assert words.failure("INFO x\nERROR bad\n", ["disk full"]) == ("disk full", "ERROR bad")
    when = "[2026-11-22T22:33:16+0000] [MainThread]"
    toil = f"{when} [E] [toil.cwl.cwltoil] Failed command standard error:\n\n\tsky is red\n\n{when} [W] [x] y\n"
    assert words.failure(toil) == ("sky is red",)
    worker = f"\t{when} [E] [cwltool] 'no' not found\n\t{when} [C] [toil.worker] Worker crashed with traceback:\n"
    assert words.failure(worker + worker) == ("'no' not found",)
    frames = 'Traceback (most recent call last):\n  File "x", line 1, in <module>\n    go()\nKeyError: 3\n'
    assert words.failure(frames) == ("KeyError: 3",)


@pytest.mark.parametrize(
    "log", ["", launch.MARK, launch.MARK + "[]", launch.MARK + '{"words": 3}', "\ud800" + launch.MARK]
)
def test_what_is_no_word_of_a_program_is_none(log: str) -> None:
    assert words.ending(log) is None
    words.failure(log)
