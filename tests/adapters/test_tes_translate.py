"""What a request becomes at a TES server, what cannot run there, and what its states are to a session."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import ValidationError

from adapters.local.steps import THREADS
from adapters.planning.platform import Job
from adapters.tes import states, stored, translate
from adapters.tes.options import TesOptions
from adapters.tes.translate import Server
from adapters.tes.wire import Task
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.quantities import format_instant
from broker.domain.request import ExecutionRequest

SESSION = UUID("6f3e9a4e-6f2c-4b1e-9a43-2f1d0e7c5b11")
SERVER = Server(("http", "https", "s3://archive"), frozenset({"queue", "gpus"}))
GIB = 2**30


def options(**more: Any) -> TesOptions:
    given = {
        "program": {"image": "python:3.11@sha256:aa", "python": "python3.11", "version": "3.11.9"},
        "outputs": {"place": "s3://results/broker", "endpoint": "https://s3.example.org"},
        **more,
    }
    return TesOptions.model_validate(given)


def request(**parts: Any) -> ExecutionRequest:
    program = {"kind": kinds.PYTHON_PROGRAM, "source": "print(1)"}
    return ExecutionRequest.model_validate({"executable": program, **parts})


def container(**more: Any) -> dict[str, Any]:
    image = {"locations": ["registry.example:5000/a/fit:1"]}
    return {"kind": kinds.DOCKER_CONTAINER, "image": image, "command": ["fit", "--fast"], **more}


def job(asked: ExecutionRequest, **more: Any) -> Job:
    given = {"cores": 2, "memory": 3, "storage": 0, "extras": {}, "duration": 3600.0, "start": 0.0, **more}
    return Job(SESSION, "a run", Owner("https://idp.example", "ada"), asked, **given)


def task(asked: ExecutionRequest, given: TesOptions | None = None, **more: Any) -> dict[str, Any]:
    tags = {translate.BROKER: "us", translate.SITE: "here"}
    return translate.task(job(asked, **more), given or options(), SERVER, tags, 1000.0)


def data(location: str, name: str = "sky.fits", **more: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_DATA, "meta": {"name": name}, "location": location, **more}


def compute(**more: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_COMPUTE, "meta": {"name": "box"}, **more}


def volume(path: str, resource: str, mode: str | None = None) -> dict[str, Any]:
    named = {"path": path, "resource": resource, "mode": mode}
    return {"kind": kinds.SIMPLE_VOLUME, "meta": {"name": "v"}, **{k: v for k, v in named.items() if v}}


def storage(name: str) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_STORAGE, "meta": {"name": name}, "size": {"min": 5}}


def refusals(asked: ExecutionRequest, given: TesOptions | None = None, server: Server = SERVER) -> list[str]:
    return [reason.element or reason.rule for reason in translate.refuse(asked, given or options(), server)]


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_program_goes_along_and_runs_in_the_sites_image() -> None:
    program = {
        "kind": kinds.PYTHON_PROGRAM,
        "source": "print('hé')",
        "arguments": ["--n", "3"],
        "environment": {"MODE": "x", "BROKER_SESSION": "forged"},
    }
    made = task(request(executable=program, data=[data("https://data.example/sky.fits")]))
    assert made["inputs"] == [
        {
            "name": "sky.fits",
            "url": "https://data.example/sky.fits",
            "path": "/broker/data/sky.fits",
            "type": "FILE",
        },
        {"path": "/broker/program.py", "type": "FILE", "content": "print('hé')"},
    ]
    (executor,) = made["executors"]
    assert executor["image"] == "python:3.11@sha256:aa"
    assert (executor["command"][:2], executor["command"][3:]) == (["python3.11", "-c"], ["--n", "3"])
    assert executor["workdir"] == "/broker"
    assert executor["env"] == {
        **dict.fromkeys(THREADS, "2"),
        "PYTHONUNBUFFERED": "1",
        "MODE": "x",
        "BROKER_DATA": "/broker/data",
        "BROKER_DATA_SKY_FITS": "/broker/data/sky.fits",
        "BROKER_RESULTS": "/broker/results",
        "BROKER_SESSION": str(SESSION),
        "BROKER_CORES": "2",
        "BROKER_MEMORY": str(3 * GIB),
    }
    place = f"s3://results/broker/{SESSION}/results"
    assert made["outputs"] == [{"path": "/broker/results", "url": place, "type": "DIRECTORY"}]
    assert made["tags"] == {
        "broker": "us",
        "broker_site": "here",
        "broker_session": str(SESSION),
        "broker_owner": "https://idp.example ada",
        "broker_limit": "3600.000",
        "broker_submitted": "1000.000",
    }
    assert made["name"] == f"broker-{SESSION}"


def test_a_container_runs_as_it_is_asked() -> None:
    image = {"locations": ["docker://registry.example:5000/a/fit:1", "other"], "digest": "sha256:bb"}
    asked = container(image=image, entrypoint="/bin/sh", command=["-c", "fit | sort"], environment={"A": "b"})
    (executor,) = task(request(executable=asked))["executors"]
    assert executor["image"] == "registry.example:5000/a/fit:1@sha256:bb"
    assert executor["command"] == ["/bin/sh", "-c", "fit | sort"]
    assert executor["env"]["A"] == "b"
    assert "workdir" not in executor


@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("https://code.example/fit.py", {"url": "https://code.example/fit.py"}),
        ("data:text/x-python;base64,cHJpbnQoMSk=", {"content": "print(1)"}),
        ("data:,print(%221%22)", {"content": 'print("1")'}),
    ],
)
def test_a_program_may_be_elsewhere_or_in_its_address(location: str, part: dict[str, str]) -> None:
    asked = request(executable={"kind": kinds.PYTHON_PROGRAM, "location": location})
    assert refusals(asked) == []
    assert task(asked)["inputs"] == [{"path": "/broker/program.py", "type": "FILE", **part}]


@pytest.mark.parametrize(
    ("gib", "gb"), [(1, 1.073742), (3, 3.221226), (16, 17.179870), (1000, 1073.741824), (0.5, 0.536871)]
)
def test_gigabytes_are_never_less_than_what_was_granted(gib: float, gb: float) -> None:
    assert translate.gigabytes(gib) == gb
    assert gb * 1e9 >= gib * GIB


@pytest.mark.parametrize("gib", [*range(1, 2000, 7), 4096, 65_536, 1_000_000])
def test_gigabytes_are_never_less_nor_much_more(gib: int) -> None:
    assert 0 <= round(translate.gigabytes(gib) * 1e9) - gib * GIB < 1000
    assert int(translate.gigabytes(gib) * 1e9) >= gib * GIB  # as a server may well reckon


def test_the_servers_own_needs_go_along() -> None:
    given = options(
        disk=2, preemptible=True, zones=["a"], backend_parameters={"queue": "astro"}, accelerators={kinds.GPU: "gpus"}
    )
    assert task(request(), given, storage=10, extras={kinds.GPU: 2})["resources"] == {
        "cpu_cores": 2,
        "ram_gb": 3.221226,
        "disk_gb": translate.gigabytes(12),
        "preemptible": True,
        "zones": ["a"],
        "backend_parameters": {"queue": "astro", "gpus": "2"},
        "backend_parameters_strict": True,
    }
    assert task(request())["resources"] == {"cpu_cores": 2, "ram_gb": 3.221226, "preemptible": False}


def test_what_is_mounted_is_brought_in_where_it_is_mounted() -> None:
    asked = request(
        data=[data("https://d.example/a", "a"), data("https://d.example/b", "b", storage="disk")],
        storage=[storage("disk")],
        compute=compute(volumes=[volume("/in/a", "a"), volume("scratch", "disk", "READWRITE")]),
    )
    assert refusals(asked) == []
    made = task(asked)
    assert [(item["url"][-1:], item["path"]) for item in made["inputs"] if "url" in item] == [
        ("a", "/broker/data/a"),
        ("a", "/broker/in/a"),
        ("b", "/broker/storage/disk/b"),
        ("b", "/broker/scratch/b"),
    ]
    assert made["volumes"] == ["/broker/scratch"]
    env = made["executors"][0]["env"]
    assert (env["BROKER_VOLUME_IN_A"], env["BROKER_VOLUME_SCRATCH"]) == ("/broker/in/a", "/broker/scratch")


def test_a_container_finds_its_volumes_where_it_wants_them() -> None:
    asked = request(
        executable=container(),
        data=[data("https://d.example/a", "a")],
        storage=[storage("disk")],
        compute=compute(volumes=[volume("/in/a", "a"), volume("/scratch", "disk", "READWRITE")]),
    )
    assert refusals(asked) == []
    made = task(asked)
    assert [item["path"] for item in made["inputs"]] == ["/broker/data/a", "/in/a"]
    assert made["volumes"] == ["/scratch"]
    assert made["executors"][0]["env"]["BROKER_VOLUME_SCRATCH"] == "/scratch"


def test_the_first_place_that_the_server_reads_is_taken() -> None:
    item = {
        "kind": kinds.SKAO_DATA,
        "meta": {"name": "x"},
        "skao": {"replicas": [{"dataurl": "gsiftp://d.example/x"}, {"dataurl": "davs://d.example/x"}]},
    }
    assert refusals(request(data=[item])) == []
    assert task(request(data=[item]))["inputs"][0]["url"] == "https://d.example/x"


def test_results_can_go_to_a_second_place() -> None:
    asked = request(outputs={"to": "s3://mine/{session}/"})
    assert refusals(asked, options(writes=["s3://mine"])) == []
    assert [item["url"] for item in task(asked)["outputs"]] == [
        f"s3://results/broker/{SESSION}/results",
        f"s3://mine/{SESSION}",
    ]


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("parts", "elements"),
    [
        ({"executable": {"kind": kinds.JUPYTER_NOTEBOOK, "location": "https://x.example/n"}}, ["executable.kind"]),
        ({"executable": {"kind": kinds.PYTHON_PROGRAM}}, ["executable.source"]),
        ({"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "x" * 200_000}}, ["executable.source"]),
        (
            {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "", "requirements": ["numpy"]}},
            ["executable.requirements"],
        ),
        ({"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "", "python": "<3.11"}}, ["executable.python"]),
        ({"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "", "python": "new"}}, ["executable.python"]),
        ({"executable": {"kind": kinds.PYTHON_PROGRAM, "location": "ftp://x.example/p"}}, ["executable.location"]),
        ({"executable": {"kind": kinds.PYTHON_PROGRAM, "location": "data:;base64,/w=="}}, ["executable.location"]),
        ({"executable": {"kind": kinds.PYTHON_PROGRAM, "location": "data:;base64,*"}}, ["executable.location"]),
        ({"executable": container(command=None)}, ["executable.command"]),
        ({"executable": container(image={"locations": []})}, ["executable.image.locations"]),
        ({"executable": container(image={"locations": ["https://x.example/i"]})}, ["executable.image.locations"]),
        ({"executable": container(image={"locations": ["-v /:/host i"]})}, ["executable.image.locations"]),
        ({"executable": container(privileged=True)}, ["executable.privileged"]),
        (
            {"executable": container(network={"ports": [{"access": True, "internal": {"port": 80}}]})},
            ["executable.network.ports"],
        ),
        (
            {
                "executable": container(
                    image={"locations": ["i"], "platform": {"architecture": "arm64", "os": "windows"}}
                )
            },
            ["executable.image.platform.architecture", "executable.image.platform.os"],
        ),
        ({"executable": container(environment={"A=B": "c"})}, ["executable.environment"]),
        ({"compute": compute(extras=[{"type": kinds.GPU}])}, ["compute.extras"]),
        ({"data": [data("gsiftp://d.example/x")]}, ["data[0]"]),
        ({"data": [data("s3://archive/../results/x")]}, ["data[0]"]),
        ({"data": [data("s3://archive/%2e%2e/results/x")]}, ["data[0]"]),
        ({"data": [data("s3://secret/x")]}, ["data[0]"]),
        ({"data": [data("https://d.example/folder/")]}, ["data[0]"]),
        ({"compute": compute(volumes=[volume("../up", "x")])}, ["compute.volumes[0].path"]),
        ({"compute": compute(volumes=[volume("results/x", "x")])}, ["compute.volumes[0].path"]),
        (
            {
                "data": [data("https://d.example/a", "a")],
                "compute": compute(volumes=[volume("in", "a", "READWRITE")]),
            },
            ["compute.volumes[0].mode"],
        ),
        (
            {
                "executable": container(),
                "data": [data("https://d.example/a", "a")],
                "compute": compute(volumes=[volume("/broker/x", "a")]),
            },
            ["compute.volumes[0].path"],
        ),
        ({"outputs": {"to": "s3://results/broker/mine"}}, ["outputs.to"]),
    ],
)
def test_what_cannot_run_is_named(parts: dict[str, Any], elements: list[str]) -> None:
    assert refusals(request(**parts)) == elements
    assert all(reason.text for reason in translate.refuse(request(**parts), options(), SERVER))


def test_results_of_others_are_no_data() -> None:
    """The server reads by its own credentials, which reach the results of everybody."""
    assert refusals(request(data=[data("s3://results/broker/other/results/x")]), server=Server(("s3",))) == ["data[0]"]
    assert refusals(request(data=[data("s3://results/other/x")]), server=Server(("s3",))) == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///srv/out/s/results/x",
        "file://localhost/srv/out/s/results/x",
        "file:/srv/out/s/results/x",
        "FILE:///srv//out/s/results/x",
        "file:///srv/%6fut/s/results/x",
        "file:///srv/out",
        "file:///srv",
    ],
)
def test_results_of_others_are_no_data_by_any_spelling(url: str) -> None:
    given = options(outputs={"place": "file:///srv/out"})
    assert refusals(request(data=[data(url)]), given, Server(("file",))) == ["data[0]"]
    assert refusals(request(data=[data("file:///srv/outer/x")]), given, Server(("file",))) == []


@pytest.mark.parametrize("to", ["s3://results", "s3://results/", "s3://results/brok%65r", "s3://results/broker/"])
def test_nobody_writes_around_the_results_of_others(to: str) -> None:
    """A program that writes results/broker/<session>/… there would write over them."""
    assert refusals(request(outputs={"to": to}), options(writes=["s3://results/"])) == ["outputs.to"]


def test_nothing_is_held_against_places_before_the_server_was_asked() -> None:
    assert refusals(request(data=[data("gs://bucket/x")]), server=Server()) == []


def test_backend_parameters_that_the_server_does_not_know_are_told_before() -> None:
    given = options(backend_parameters={"Queue": "a", "partition": "b"})
    assert refusals(request(), given) == ["backend_parameters"]
    assert refusals(request(), options(strict=False, backend_parameters={"partition": "b"})) == []
    assert refusals(request(), given, Server(("https",))) == []


def test_kinds_are_as_the_operator_has_set_up() -> None:
    assert translate.executables(options()) == (kinds.PYTHON_PROGRAM, kinds.DOCKER_CONTAINER)
    assert refusals(request(), options(program=None)) == ["executable.kind"]
    assert refusals(request(executable=container()), options(containers=False)) == ["executable.kind"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"outputs": {"place": "s3://b/x"}},
        {"outputs": {"place": "gs://b/x"}},
        {"outputs": {"place": "https://h.example/{session}"}},
        {"outputs": {"place": "file:///"}},
        {"outputs": {"place": "file:///a/../b"}},
        {"outputs": {"place": "https://h.example/x", "endpoint": "https://s3.example"}},
        {"outputs": {"place": "http://h.example/x", "credentials_file": "/x"}},
        {"outputs": {"place": "https://me:pw@h.example/x"}},
        {"workdir": "broker"},
        {"workdir": "/a/../b"},
        {"writes": ["/results"]},
        {"program": {"image": "python", "version": "new"}},
        {"basic": {"username": "a:b", "password_file": "/x"}},
        {"basic": {"username": "a", "password_file": "/x"}, "token": {"token_file": "/x"}},
        {"nothing": 1},
    ],
)
def test_settings_that_do_not_hold_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TesOptions.model_validate(wrong)


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────────

LOG = {
    "start_time": "2026-11-22T12:00:00Z",
    "end_time": "2026-11-22T12:10:00.000000001Z",
    "logs": [{"start_time": "2026-11-22T12:01:00+00:00", "exit_code": 3, "stderr": "no"}],
    "system_logs": ["pulled\nthe image", "gone"],
}
TWELVE = 1795348800.0


def shown(state: str | None, logs: list[dict[str, Any]] | None = None, **more: Any) -> Any:
    document = {"id": "t-1", "state": state, "logs": [LOG] if logs is None else logs, **more}
    return states.sighting(msgspec.convert(document, Task))


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ("QUEUED", "WAITING"),
        ("INITIALIZING", "PREPARING"),
        ("RUNNING", "RUNNING"),
        ("PAUSED", "RUNNING"),
        ("COMPLETE", "COMPLETED"),
        ("EXECUTOR_ERROR", "FAILED"),
        ("SYSTEM_ERROR", "FAILED"),
        ("CANCELED", "CANCELLED"),
        ("CANCELING", "RELEASING"),
        ("PREEMPTED", "FAILED"),
        ("UNKNOWN", "UNKNOWN"),
        ("HIBERNATING", "HIBERNATING"),
        (None, "UNKNOWN"),
    ],
)
def test_each_state_has_its_phase_and_no_other_is_guessed(state: str | None, phase: str) -> None:
    seen = shown(state)
    assert (seen.phase, seen.native, seen.began) == (phase, "t-1", TWELVE + 60)
    assert seen.ended == (TWELVE + 600 if state in states.OVER else None)
    assert seen.messages or state in ("QUEUED", "INITIALIZING", "RUNNING", "COMPLETE", "CANCELED")


def test_what_went_wrong_is_told_in_the_platforms_words() -> None:
    assert shown("EXECUTOR_ERROR").messages == (
        "its program ended with an error (EXECUTOR_ERROR)",
        "exit code 3",
        "pulled the image",
        "gone",
    )
    killed = {**LOG, "logs": [{"exit_code": 137}], "system_logs": None}
    assert "killed" in shown("EXECUTOR_ERROR", [killed]).messages[1]
    assert shown("COMPLETE").messages == ()


def test_times_are_those_of_the_first_begin_and_the_last_end() -> None:
    first, second = {**LOG, "end_time": None}, {**LOG, "logs": [], "end_time": "2026-11-22T13:00:00Z"}
    seen = shown("COMPLETE", [first, second])
    assert (seen.began, seen.ended) == (TWELVE + 60, TWELVE + 3600)
    vague = {"start_time": "yesterday", "end_time": "", "logs": [{"start_time": "2026-11-22T12:00:00"}]}
    seen = shown("COMPLETE", [vague])
    assert (seen.began, seen.ended) == (None, None)
    assert shown("QUEUED", []).began is None


@pytest.mark.parametrize(
    ("state", "began"),
    [("INITIALIZING", None), ("RUNNING", TWELVE), ("COMPLETE", TWELVE), ("SYSTEM_ERROR", None), ("CANCELED", None)],
)
def test_a_server_that_does_not_time_executors_is_read_by_its_tasks(state: str, began: float | None) -> None:
    assert shown(state, [{**LOG, "logs": []}]).began == began


@pytest.mark.parametrize(
    ("limit", "phase"), [("539", "FAILED"), ("540", "FAILED"), ("541", "CANCELLED"), ("soon", "CANCELLED")]
)
def test_what_was_ended_when_its_time_was_over_has_failed(limit: str, phase: str) -> None:
    seen = shown("CANCELED", tags={states.LIMIT: limit})
    assert seen.phase == phase
    assert bool(seen.messages) == (phase == "FAILED")


@pytest.mark.parametrize(
    ("state", "now", "ahead", "over"),
    [
        ("RUNNING", 101.0, 0.0, False),
        ("RUNNING", 103.0, 0.0, True),
        ("PAUSED", 103.0, 0.0, True),
        ("COMPLETE", 103.0, 0.0, False),
        ("RUNNING", 101.0, -10_000.0, False),
        ("RUNNING", 103.0, -10_000.0, True),
        ("RUNNING", 131.0, 10_000.0, False),  # the server's clock is ahead of ours, or our call was long under way
        ("RUNNING", 133.0, 10_000.0, True),
        ("RUNNING", 103.0, 5.0, False),
    ],
)
def test_time_is_over_by_our_clock(state: str, now: float, ahead: float, over: bool) -> None:
    def at(seconds: float) -> str:
        return format_instant(TWELVE + 60 + seconds + ahead)

    document = {
        "id": "t",
        "state": state,
        "tags": {states.LIMIT: "100", states.SUBMITTED: str(TWELVE + 50)},
        "creation_time": at(-10),
        "logs": [{"logs": [{"start_time": at(0)}]}],
    }
    assert states.overdue(msgspec.convert(document, Task), TWELVE + 60 + now) is over


# ── results ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_only_fit_names_with_sizes_are_results() -> None:
    written = [
        ("/broker/results/answer", "2"),
        ("/broker/results/a/b c.txt", 3),
        ("/broker/results/../../etc/passwd", "1"),
        ("/broker/results//x", "1"),
        ("/broker/results/", "1"),
        ("/elsewhere/x", "1"),
        ("/broker/results/minus", "-1"),
        ("/broker/results/none", None),
        ("/broker/results/n\x1bext", "1"),
    ]
    logs = [{"outputs": [{"path": path, "size_bytes": size, "url": "file:///etc/passwd"} for path, size in written]}]
    found = stored.logged(msgspec.convert({"id": "t", "logs": logs}, Task), "/broker/results")
    assert found == {"answer": 2, "a/b c.txt": 3}
    urls = [result.url for result in stored.results(found, "s3://mine/x/")]
    assert urls == ["s3://mine/x/a/b%20c.txt", "s3://mine/x/answer"]


@pytest.mark.parametrize("state", ["REJECTED", "EXPIRED", "COMPLETED", "OFFERED", "EXECUTING"])
def test_no_state_of_a_servers_own_reads_as_a_phase(state: str) -> None:
    """A refusal, for one, would be taken for proof that it does not run."""
    assert shown(state).phase == f"{state} (TES)"
