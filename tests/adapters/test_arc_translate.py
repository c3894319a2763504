"""What goes to ARC and what comes from it, without a service: descriptions, refusals, states, GLUE 2."""

from __future__ import annotations

import ast
import base64
import inspect
import json
import random
import re
import time
import zlib
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from adapters.arc import glue, launcher, states, translate
from adapters.arc.glue import Cluster
from adapters.arc.options import ArcOptions
from adapters.arc.states import Activity
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.domain.session import known

OPTIONS = ArcOptions(url="https://arc.example.org/arex")
SESSION = UUID("11111111-2222-4333-8444-555555555555")
ADL = "{http://www.eu-emi.eu/es/2010/12/adl}"
CUBE = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube"}, "location": "https://data.example/cube?a=1&b=2"}


def a_request(**parts: Any) -> ExecutionRequest:
    return ExecutionRequest.model_validate({"executable": python(source="pass"), **parts})


def python(**parts: Any) -> dict[str, Any]:
    return {"kind": kinds.PYTHON_PROGRAM, **parts}


def box(**parts: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1}, "memory": {"min": 1}, **parts}


def mounted(path: str, resource: str = "cube", **more: Any) -> dict[str, Any]:
    volume = {"kind": kinds.SIMPLE_VOLUME, "meta": {"name": "v"}, "path": path, "resource": resource, **more}
    return {"data": [CUBE], "compute": box(volumes=[volume])}


def described(request: ExecutionRequest, options: ArcOptions = OPTIONS, **sizes: Any) -> ElementTree.Element:
    sizes = {"cores": 1, "memory": 1, "storage": 0, "duration": 3600.0, **sizes}
    job = Job(SESSION, "job", Owner("us", "ada"), request, extras={}, start=0.0, **sizes)
    return ElementTree.fromstring(translate.description(job, options))  # noqa: S314  our own


def plan(description: ElementTree.Element) -> dict[str, Any]:
    """What the launcher is handed."""
    source = zlib.decompress(base64.b64decode(text(description, "Value") or "")).decode()
    found: dict[str, Any] = json.loads(eval(re.findall(r"json\.loads\((.*)\)\)\)$", source.strip())[-1]))  # noqa: S307
    return found


def words(description: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in description.iter() if element.text and element.tag != f"{ADL}URI"]


def text(description: ElementTree.Element, name: str) -> str | None:
    return next((element.text for element in description.iter(ADL + name)), None)


# ── descriptions ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_description_says_what_was_granted() -> None:
    options = ArcOptions(url="https://x.example/arex", queue="long", runtime_environments=("ENV/PROXY", "APPS/PY-3"))
    found = described(a_request(data=[CUBE]), options, cores=4, memory=6, storage=3, duration=3601.0)
    assert text(found, "Name") == str(SESSION)
    assert (text(found, "NumberOfSlots"), text(found, "SlotsPerHost")) == ("4", "4")
    assert text(found, "IndividualPhysicalMemory") == str(6 * 1024**3 // 4)  # ARC counts by slot
    assert text(found, "WallTime") == str(66 * 60)  # the launcher ends the program before, and lists what it has left
    assert text(found, "DiskSpaceRequirement") == str(3 * 1024**3)
    assert text(found, "QueueName") == "long"
    assert [e.findtext(f"{ADL}Name") for e in found.iter(f"{ADL}RuntimeEnvironment")] == ["ENV/PROXY", "APPS/PY-3"]
    assert text(found, "URI") == CUBE["location"]
    outputs = [e.findtext(f"{ADL}Name") for e in found.iter(f"{ADL}OutputFile")]
    assert outputs == [".broker.out", ".broker.err", ".broker.json", "results/"]


@pytest.mark.parametrize(("seconds", "fits"), [(3300.0, True), (3301.0, False)])
def test_the_queues_time_holds_what_comes_beside_the_program(seconds: float, fits: bool) -> None:
    asked = a_request(schedule={"requested": {"duration": f"PT{seconds:.0f}S"}})
    reasons = list(translate.beyond(asked, Cluster(most_time=3600)))
    assert (not reasons) is fits


@pytest.mark.parametrize("readonly", [True, False])
def test_data_in_a_cache_that_others_share_stays_as_it_is(tmp_path: Path, readonly: bool) -> None:
    """ARC links a job's inputs to its cache, whose files are not the job's own."""
    cached, folder = tmp_path / "cached", tmp_path / "job"
    cached.write_text("sky")
    cached.chmod(0o644)
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "x").symlink_to(cached)
    item = {"name": "x", "place": "data/x", "bytes": 3, "checksum": None, "readonly": readonly}
    launcher.lay_out(str(folder), {"storages": [], "data": [item], "mounts": [], "source": None})
    assert cached.stat().st_mode & 0o777 == 0o644
    assert (folder / "data" / "x").is_symlink() is readonly
    if not readonly:
        (folder / "data" / "x").write_text("my own")
    assert cached.read_text() == "sky"


def test_data_that_is_somebody_elses_is_no_reason_to_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def barred(path: str, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("sky")
    monkeypatch.setattr(launcher.os, "chmod", barred)
    item = {"name": "x", "place": "data/x", "bytes": 3, "checksum": None, "readonly": True}
    launcher.lay_out(str(tmp_path), {"storages": [], "data": [item], "mounts": [], "source": None})


def test_what_is_not_asked_is_not_said() -> None:
    found = described(a_request())
    for name in ("QueueName", "RuntimeEnvironment", "DiskSpaceRequirement", "InputFile"):
        assert text(found, name) is None
        assert found.find(f".//{ADL}{name}") is None


nasty = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@given(nasty, st.lists(nasty, max_size=3), st.dictionaries(nasty, nasty, max_size=3))
def test_nothing_that_a_user_writes_reaches_a_shell(source: str, given: list[str], environment: dict[str, str]) -> None:
    """ARC makes scripts of a description, and its shell reads what stands in them. Nor does it stand on a command line,
    which everybody on a node can read."""
    found = described(a_request(executable=python(source=source, arguments=given, environment=environment)))
    assert all(re.fullmatch(r"[\w./=+(),;\[\] -]*", word, re.ASCII) for word in words(found))
    assert [e.text for e in found.iter(f"{ADL}Argument")] == [
        e.text for e in described(a_request()).iter(f"{ADL}Argument")
    ]
    handed = plan(found)
    assert (handed["source"], handed["arguments"]) == (source, given)
    ours = {"BROKER_SESSION", "BROKER_CORES", "BROKER_MEMORY"}
    assert {name: handed["environment"][name] for name in environment.keys() - ours} == {
        name: environment[name] for name in environment.keys() - ours
    }


def test_the_launcher_is_told_where_things_are() -> None:
    handed = plan(described(a_request(**mounted("/in/cube", mode="READWRITE"))))
    assert handed["mounts"] == [["in/cube", "data/cube"]]
    assert handed["data"] == [
        {"name": "cube", "place": "data/cube", "bytes": None, "checksum": None, "readonly": False}
    ]
    assert handed["places"] == {
        "BROKER_DATA": "/data", "BROKER_RESULTS": "/results", "BROKER_DATA_CUBE": "/data/cube",
        "BROKER_VOLUME_IN_CUBE": "/in/cube",
    }  # fmt: skip


def test_the_launcher_runs_on_older_interpreters() -> None:
    ast.parse(inspect.getsource(launcher), feature_version=(3, 7))


# ── refusals ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parts", "element"),
    [
        ({"executable": {"kind": kinds.DOCKER_CONTAINER}}, "executable.kind"),
        ({"executable": {"kind": "https://example.org/kinds/warp.yaml"}}, "executable.kind"),
        ({"executable": python()}, "executable.source"),
        ({"executable": python(source="", location="https://a.example/p.py")}, "executable.source"),
        ({"executable": python(location="file:///etc/passwd")}, "executable.location"),
        ({"executable": python(location="data:,pass")}, "executable.location"),
        ({"executable": python(source="", requirements=["numpy"])}, "executable.requirements"),
        ({"executable": python(source="", environment={"A=B": "1"})}, "executable.environment"),
        ({"executable": python(source="", arguments=["\0"])}, "executable.arguments"),
        ({"executable": python(source="", python=">=3.9")}, "executable.python"),
        ({"executable": python(source="", python="newest")}, "executable.python"),
        ({"compute": {"kind": "https://example.org/kinds/compute.yaml"}}, "compute.kind"),
        ({"compute": box(extras=[{"type": kinds.GPU}])}, "compute.extras"),
        ({"storage": [{"kind": "https://example.org/kinds/tape.yaml", "meta": {"name": "t"}}]}, "storage[0].kind"),
        ({"data": [CUBE | {"kind": "https://example.org/kinds/data.yaml"}]}, "data[0].kind"),
        ({"data": [{"kind": kinds.SIMPLE_DATA, "meta": {"name": "x"}}]}, "data[0]"),
        ({"data": [CUBE | {"location": "srm://se.example/cube"}]}, "data[0]"),
        ({"data": [CUBE] * 1001}, "data"),
        (mounted("/results"), "compute.volumes[0].path"),
        (mounted("/program.py"), "compute.volumes[0].path"),
        (mounted("/.broker.json"), "compute.volumes[0].path"),
        (mounted("/a/../../b"), "compute.volumes[0].path"),
        (mounted("/x", kind="https://example.org/kinds/volume.yaml"), "compute.volumes[0].kind"),
    ],
)
def test_what_cannot_run_is_refused_by_name(parts: dict[str, Any], element: str) -> None:
    reasons = translate.refuse(a_request(**parts), OPTIONS)
    assert [reason.element for reason in reasons] == [element]
    assert all(reason.text for reason in reasons)


def test_what_can_run_is_not_refused() -> None:
    options = ArcOptions(url="https://x.example", python_version="3.11.2")
    request = a_request(executable=python(source="pass", python=">=3.9"), **mounted("/in/cube"))
    assert translate.refuse(request, options) == ()
    assert translate.beyond(request, Cluster()) is not None


def test_a_program_that_no_command_line_holds_is_refused() -> None:
    noise = "".join(f"{i * 7919 % 104729:x}" for i in range(60_000))
    reasons = translate.refuse(a_request(executable=python(source=f"# {noise}")), OPTIONS)
    assert [reason.element for reason in reasons] == ["executable.source"]
    assert not translate.refuse(a_request(executable=python(source="x = 1\n" * 100_000)), OPTIONS)
    assert translate.refuse(a_request(executable=python(source="x = 1\n" * 200_000)), OPTIONS)


@pytest.mark.parametrize("part", [{"arguments": ["x" * 1000] * 2000}, {"environment": {"X": "x" * 2_000_000}}])
def test_what_is_beyond_all_hope_is_not_compressed_first(part: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(translate.zlib, "compress")
    assert translate.refuse(a_request(executable=python(source="pass", **part)), OPTIONS)


def test_no_source_takes_its_time_to_be_compressed() -> None:
    """While it is, the broker does nothing else."""
    odd = "".join(random.Random(1).choices("ab", k=1_000_000))
    began = time.process_time()
    translate.refuse(a_request(executable=python(source=odd)), OPTIONS)
    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("url", "fine"),
    [
        ("https://a.example:8443/b c", False),
        ("https://a.example:8443/b%20c?d=e&f=%24g", True),
        ("http://[::1]:80/x", True),
        ("http://10.0.0.1/x", True),
        ("http://169.254.169.254/latest/meta-data", False),
        ("http://2852039166/latest/meta-data", False),
        ("http://0xa9.254.43518/latest/meta-data", False),
        ("http://[fe80::1]/x", False),
        ("http://[::ffff:a9fe:a9fe]/x", False),
        ("https://user:secret@a.example/x", False),
        ("https://a.example;threads=9/x", False),
        ("https://a.example|https://b.example/x", False),
        ("https://a.example/`id`", False),
        ("https://a.example/$(id)", False),
        ("https://a.example/\n", False),
        ("https://[/x", False),
        ("ftp://a.example/x", False),
        ("/etc/passwd", False),
        ("", False),
    ],
)
def test_addresses_carry_nothing_but_an_address(url: str, fine: bool) -> None:
    assert translate.readable(url) is fine


@pytest.mark.parametrize(
    "options",
    [
        {"queue": "a b"}, {"queue": "$(id)"}, {"python": "python3; id"}, {"runtime_environments": ["a`b"]},
        {"python_version": "three"}, {"key": "/k.pem"}, {"users": {"ada": {"key": "/k.pem"}}}, {"queue": "x\n"},
    ],
)  # fmt: skip
def test_options_that_a_shell_would_read_are_no_options(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ArcOptions.model_validate({"url": "https://x.example", **options})


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_state_of_the_manual_has_a_phase_of_the_standard() -> None:
    assert all(known(phase) for phase in states.PHASES.values())
    assert len(states.PHASES) == 17
    assert {state for state in states.PHASES if state not in states.LIVE} == {"FINISHED", "FAILED", "KILLED", "WIPED"}


KILLED = "the program was ended by SIGKILL: was it out of memory?"
WIPED = "ARC has wiped it: how it ended is no longer known, and its results are gone"


@pytest.mark.parametrize(
    ("seen", "phase", "words"),
    [
        (Activity("", "QUEUING"), "WAITING", ["ARC: QUEUING (what ARC shows is renewed about once a minute)"]),
        (Activity("", "FINISHED", code=0), "COMPLETED", []),
        (Activity("", "KILLED", errors=("Job is canceled",)), "CANCELLED", ["Job is canceled"]),
        (Activity("", "FAILED", code=137, errors=("LRMS",)), "FAILED", ["LRMS", f"exit code 137, {KILLED}"]),
        (Activity("", "FAILED", code=139), "FAILED", ["exit code 139, the program was ended by SIGSEGV"]),
        (Activity("", "FAILED", code=255), "FAILED", ["exit code 255"]),
        (Activity("", "FAILED"), "FAILED", ["ARC gives no reason"]),
        (Activity("", "WIPED"), "FAILED", [WIPED]),
        (Activity("", "NEWLY"), "NEWLY", ["ARC: NEWLY (what ARC shows is renewed about once a minute)"]),
    ],
)  # fmt: skip
def test_what_is_seen_is_told(seen: Activity, phase: str, words: list[str]) -> None:
    found = states.sighting(seen, "id")
    assert (found.phase, list(found.messages), found.native) == (phase, words, "id")


def test_an_activity_is_read_as_arex_writes_it() -> None:
    """A failed job of A-REX 6.17.0, shortened."""
    seen = states.activity(
        {
            "Name": str(SESSION),
            "State": ["nordugrid:FAILED::INLRMS", "bes:Failed", "arcrest:FAILED", "emies:terminal"],
            "ExitCode": "3",
            "Error": "LRMS error: (3) Job finished with wrong exit code - 3 != 0",
            "SubmissionTime": "2026-11-22T22:32:24Z",
            "StartTime": "2026-11-22T22:32:26Z",
            "ComputingManagerEndTime": "2026-11-22T22:32:27Z",
            "WorkingAreaEraseTime": "2026-11-29T22:32:27Z",
        }
    )
    assert (seen.name, seen.state, seen.code) == (str(SESSION), "FAILED", 3)
    assert seen.began is not None
    assert seen.ended == seen.began + 1
    assert seen.erased == seen.ended + 7 * 86400


@pytest.mark.parametrize("value", [None, "", [], {}, 7, [None, {}], "x" * 100_000, "\x1b[31m"])
def test_what_is_no_activity_is_read_as_none(value: Any) -> None:
    seen = states.activity(dict.fromkeys(("Name", "State", "ExitCode", "Error", "StartTime", "EndTime"), value))
    assert (seen.state, seen.code, seen.began, seen.ended) == ("", None, None, None)
    assert all(error.isprintable() and len(error) <= 300 for error in seen.errors)


# ── GLUE 2 ───────────────────────────────────────────────────────────────────────────────────────────────────────


def told(shares: Any, **manager: str) -> dict[str, Any]:
    service = {"ComputingShare": shares, "ComputingManager": manager}
    return {"Domains": {"AdminDomain": {"Services": {"ComputingService": service}}}}


def test_the_queue_that_is_used_is_what_counts() -> None:
    shares = [{"Name": "a", "FreeSlots": "1"}, {"Name": "b", "MappingQueue": "long", "FreeSlots": "2"}]
    assert glue.cluster(told(shares, TotalSlots="8"), "long") == Cluster(slots=8, free=2)
    assert glue.cluster(told(shares), None) == Cluster()  # the service may choose either
    assert glue.cluster(told(shares[0], TotalSlots="999999999"), None) == Cluster(free=1)


@pytest.mark.parametrize("document", [{}, {"Domains": []}, told("\n  "), told([7, {"FreeSlots": {"x": 1}}])])
def test_what_is_not_told_is_not_known(document: dict[str, Any]) -> None:
    assert glue.cluster(document, None) == Cluster()


@pytest.mark.parametrize(
    ("known", "cores", "wait"),
    [
        (Cluster(average=300, worst=900), 1, Span(300, 960)),
        (Cluster(average=300), 1, Span(300, 360)),
        (Cluster(free=2, waiting=0), 2, Span(0, 60)),
        (Cluster(free=2, waiting=0), 3, None),
        (Cluster(free=2, waiting=1), 1, None),
        (Cluster(free=2), 1, None),
        (Cluster(), 1, None),
    ],
)
def test_a_wait_is_stated_where_there_is_a_ground_for_it(known: Cluster, cores: int, wait: Span | None) -> None:
    assert glue.wait(known, cores) == wait


@pytest.mark.parametrize("state", ["REJECTED", "EXPIRED", "COMPLETED", "OFFERED", "EXECUTING"])
def test_no_state_of_a_services_own_reads_as_a_phase(state: str) -> None:
    """A refusal, for one, would be taken for proof that it does not run."""
    assert states.sighting(Activity("", state), "x").phase == f"{state} (ARC)"
