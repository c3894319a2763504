"""What of a request a container engine refuses, what it makes of the rest, and how its states are read. Pure."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from pydantic import ValidationError

from adapters.common.http import ConnectionLost
from adapters.containers import images, marks, states, streams, translate
from adapters.containers.options import ContainersOptions
from adapters.containers.states import Container, Mark, Port, Seen
from adapters.containers.translate import Entry, Known
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.errors import SiteError, SiteMisbehaved, SiteRefused

DIGEST = "sha256:" + "ab" * 32
OPTIONS = ContainersOptions.model_validate(
    {
        "program": {"image": "python:3.12"},
        "ports": {"host": "jobs.example.org", "bind": "0.0.0.0"},
        "binds": ["/srv/archive"],
        "extras": {
            "uri:gpu-1.0": {"count": 2, "driver": "nvidia"},
            "uri:fpga-1.0": {"count": 1, "devices": ["/dev/fpga0"]},
        },
        "capabilities": ["CHOWN"],
        "ulimits": {"nofile": 1024, "nproc": 100},
    }
)
PROGRAM = {"kind": kinds.PYTHON_PROGRAM, "source": "pass"}
STORAGE = [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}]


def box(**parts: Any) -> dict[str, Any]:
    return {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["docker.io/library/box:1"]}, **parts}


def asked(executable: dict[str, Any] | None = None, **parts: Any) -> ExecutionRequest:
    return ExecutionRequest.model_validate({"executable": executable or PROGRAM, **parts})


def ports(*ports: dict[str, Any]) -> dict[str, Any]:
    return {"network": {"ports": list(ports)}}


def volumes(*volumes: tuple[str, str, str]) -> dict[str, Any]:
    listed = [{"kind": kinds.SIMPLE_VOLUME, "path": path, "resource": of, "mode": mode} for path, of, mode in volumes]
    return {"kind": kinds.SIMPLE_COMPUTE, "volumes": listed}


def simple(url: str, name: str = "cube") -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_DATA, "meta": {"name": name}, "location": url}


def skao(url: str, **block: Any) -> dict[str, Any]:
    replicas = [{"rsename": "A", "dataurl": url}]
    return {"kind": kinds.SKAO_DATA, "meta": {"name": "cube"}, "skao": {"replicas": replicas, **block}}


def job(request: ExecutionRequest, **extras: int) -> Job:
    counts = {f"uri:{name}-1.0": count for name, count in extras.items()}
    return Job(UUID(int=7), "fit", Owner("i", "ada"), request, 2, 3, 4, counts, duration=60.0, start=0.0)


# ── refusing ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_", "element"),
    [
        (asked({"kind": kinds.JUPYTER_NOTEBOOK, "location": "https://x/n.ipynb"}), "executable.kind"),
        (asked(box(privileged=True)), "executable.privileged"),
        (asked(box(image={"locations": []})), "executable.image.locations"),
        (asked(box(image={"locations": ["No Image"]})), "executable.image.locations[0]"),
        (asked(box(image={"locations": ["169.254.169.254/x"]})), "executable.image.locations[0]"),
        (asked(box(image={"locations": ["ghcr.io.evil.org/x"]})), "executable.image.locations[0]"),
        (
            asked(box(image={"locations": [f"box@{DIGEST}"], "digest": "sha256:" + "0" * 64})),
            "executable.image.locations[0]",
        ),
        (asked(box(image={"locations": ["box"], "digest": "md5:1"})), "executable.image.digest"),
        (asked(box(image={"locations": ["box"], "platform": {"os": "windows"}})), "executable.image.platform.os"),
        (
            asked(box(image={"locations": ["box"], "platform": {"architecture": "arm64"}})),
            "executable.image.platform.architecture",
        ),
        (asked(box(environment={"A=B": "c"})), "executable.environment"),
        (asked(box(command=["a\0b"])), "executable.command"),
        (asked(box(command=["a" * 40_000, "b" * 40_000])), "executable.command"),
        (asked(box(**ports({"internal": {"port": 0}}))), "executable.network.ports[0].internal.port"),
        (asked(box(**ports({"internal": {"port": 80}, "protocol": "SCTP"}))), "executable.network.ports[0].protocol"),
        (asked(box(**ports({"internal": {"port": 80}, "path": "x y"}))), "executable.network.ports[0].path"),
        (asked({"kind": kinds.PYTHON_PROGRAM}), "executable.source"),
        (asked({"kind": kinds.PYTHON_PROGRAM, "location": "file:///x.py"}), "executable.location"),
        (asked(PROGRAM | {"requirements": ["numpy"]}), "executable.requirements"),
        (asked(PROGRAM | {"python": ">=4"}), "executable.python"),
        (asked(PROGRAM | {"python": "newest"}), "executable.python"),
        (asked(PROGRAM | {"arguments": ["\0"]}), "executable.arguments"),
        (asked(compute={"kind": "uri:other"}), "compute.kind"),
        (
            asked(compute={"kind": kinds.SIMPLE_COMPUTE, "extras": [{"type": "uri:gpu-1.0", "count": 3}]}),
            "compute.extras",
        ),
        (asked(storage=[{"kind": "uri:other", "meta": {"name": "s"}}]), "storage[0].kind"),
        (asked(data=[simple("ftp://x/y")]), "data[0]"),
        (asked(data=[simple("file:///etc/passwd")]), "data[0]"),
        (asked(data=[simple("file:///srv/archive/../passwd")]), "data[0]"),
        (asked(data=[simple("file:///srv/archives/x")]), "data[0]"),
        (asked(data=[skao("file:///srv/archive/x", checksum={"type": "md5", "value": "1"})]), "data[0]"),
        (asked(data=[skao("https://x/y", checksum={"type": "crc32", "value": "1"})]), "data[0].skao.checksum.type"),
        (asked(data=[skao("https://x/y", objecttype="CONTAINER")]), "data[0].skao.objecttype"),
        (asked(data=[{"kind": kinds.S3_DATA, "endpoint": "https://s3", "bucket": "b"}]), "data[0].object"),
        (asked(storage=STORAGE, compute=volumes(("../x", "scratch", "READWRITE"))), "compute.volumes[0].path"),
        (asked(storage=STORAGE, compute=volumes(("/data/x", "scratch", "READWRITE"))), "compute.volumes[0].path"),
        (asked(storage=STORAGE, compute=volumes(("results", "scratch", "READONLY"))), "compute.volumes[0].path"),
        (
            asked(storage=STORAGE, compute=volumes(("a", "scratch", "READWRITE"), ("a/b", "scratch", "READWRITE"))),
            "compute.volumes[1].path",
        ),
        (
            asked(box(), storage=STORAGE, compute=volumes(("/proc/x", "scratch", "READWRITE"))),
            "compute.volumes[0].path",
        ),
        (
            asked(box(), storage=STORAGE, compute=volumes(("/broker", "scratch", "READWRITE"))),
            "compute.volumes[0].path",
        ),
        (
            asked(data=[simple("file:///srv/archive/x")], compute=volumes(("/x", "cube", "READWRITE"))),
            "data[0]",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_name(request_: ExecutionRequest, element: str) -> None:
    reasons = translate.refuse(request_, OPTIONS, Known("amd64", "3.12.4"))
    assert [reason.element for reason in reasons] == [element]
    assert reasons[0].text


@pytest.mark.parametrize(
    "request_",
    [
        asked(),
        asked(PROGRAM | {"python": ">=3.11"}, data=[simple("https://x/y"), simple("file:///srv/archive/z", "z")]),
        asked(box(command=["a"], **ports({"internal": {"port": 80}, "protocol": "HTTP", "path": "/lab?x"}))),
        asked(box(image={"locations": ["nowhere.org/x", "ghcr.io/a/b"], "platform": {"architecture": "x86_64"}})),
        asked(storage=STORAGE, compute=volumes(("results", "scratch", "READWRITE"))),
        asked(box(), storage=STORAGE, compute=volumes(("/data/x", "scratch", "READWRITE"))),
    ],
)
def test_what_can_run_is_not_refused(request_: ExecutionRequest) -> None:
    assert translate.refuse(request_, OPTIONS, Known("amd64", "3.12.4")) == ()


def test_no_range_of_versions_is_promised_where_the_version_is_not_known() -> None:
    request = asked(PROGRAM | {"python": ">=3.11"})
    assert translate.refuse(request, OPTIONS, Known("amd64", ""))[0].element == "executable.python"
    assert translate.refuse(request, OPTIONS, Known()) == ()  # nobody has asked yet


def test_ports_are_refused_where_none_are_opened() -> None:
    request = asked(box(**ports({"internal": {"port": 80}})))
    reason = translate.refuse(request, ContainersOptions(), Known())[0]
    assert reason.element == "executable.network.ports[0]"


# ── translating ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_container_gets_what_was_granted_and_no_more() -> None:
    open_ = ports(
        {"internal": {"port": 80}, "protocol": "HTTP", "path": "/lab"},
        {"internal": {"port": 80}, "protocol": "TCP"},
        {"internal": {"port": 53}, "protocol": "udp", "access": False},
    )
    request = asked(box(command=["a", "b c"], entrypoint="/run", environment={"X": "1", "BROKER_CORES": "9"}, **open_))
    body = translate.container(job(request, gpu=2, fpga=1), OPTIONS, "us/here", "box@sha256:1")
    host = body["HostConfig"]
    assert (body["Entrypoint"], body["Cmd"]) == (["/run"], ["a", "b c"])
    assert {"X=1", "BROKER_CORES=2", f"BROKER_MEMORY={3 * 1024**3}"} <= set(body["Env"])
    assert not any(one.startswith(("HOME=", "OMP_")) for one in body["Env"])
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"]) == (3 * 1024**3, 3 * 1024**3, 2 * 10**9)
    assert (host["Privileged"], host["CapDrop"], host["CapAdd"]) == (False, ["ALL"], ["CHOWN"])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["PortBindings"] == {key: [{"HostIp": "0.0.0.0", "HostPort": ""}] for key in ("80/tcp", "53/udp")}
    assert host["DeviceRequests"] == [{"Driver": "nvidia", "Count": 2, "Capabilities": [["gpu"]]}]
    assert [one["PathOnHost"] for one in host["Devices"]] == ["/dev/fpga0"]
    assert {one["Name"] for one in host["Ulimits"]} == {"nofile", "nproc"}
    assert states.ports(body["Labels"][marks.PORTS]) == (Port("80/tcp", "HTTP", "/lab"),)


def test_what_lies_on_the_engine_is_mounted_and_not_brought() -> None:
    request = asked(data=[simple("file:///srv/archive/a%20b"), simple("https://x/y", "far")])
    body = translate.container(job(request), OPTIONS, "us/here", "box")
    target = {"Type": "bind", "Source": "/srv/archive/a b", "Target": "/broker/data/cube", "ReadOnly": True}
    assert body["HostConfig"]["Mounts"] == [target]
    assert [entry.file for entry in translate.entries(job(request), OPTIONS) if entry.file] == ["data/far"]


def test_a_program_finds_its_volumes_beside_it_and_a_container_at_their_paths() -> None:
    data = [simple("https://x/y") | {"meta": {"name": "cube"}}]
    parts = {"storage": STORAGE, "data": data}
    mounts = volumes(("/deep/in", "cube", "READONLY"), ("results", "scratch", "READWRITE"))
    of_program = list(translate.entries(job(asked(compute=mounts, **parts)), OPTIONS))
    links = {entry.path: entry.link for entry in of_program if entry.link}
    assert links == {"broker/deep/in": "../data/cube", "broker/results": "storage/scratch"}
    body = translate.container(job(asked(compute=mounts, **parts)), OPTIONS, "us/here", "box")
    assert body["Labels"][marks.RESULTS] == "/broker/storage/scratch"
    assert "BROKER_VOLUME_DEEP_IN=/broker/deep/in" in body["Env"]
    of_container = list(translate.entries(job(asked(box(), compute=mounts, **parts)), OPTIONS))
    assert {entry.path: entry.link for entry in of_container if entry.link} == {
        "deep/in": "/broker/data/cube",
        "results": "/broker/storage/scratch",
    }
    assert {entry.path: oct(entry.mode) for entry in of_container if "storage" in entry.path} == {
        "broker/storage/scratch": "0o777"
    }


def test_requirements_are_installed_before_a_program_begins() -> None:
    options = OPTIONS.model_copy(update={"install_requirements": True})
    request = asked(PROGRAM | {"requirements": ["numpy>2", "astropy"], "arguments": ["--x"]})
    assert translate.refuse(request, options, Known()) == ()
    command = translate.container(job(request), options, "us/here", "box")["Cmd"]
    assert command[:2] == ["-u", "-c"]
    assert command[3:] == ["2", "numpy>2", "astropy", "program.py", "--x"]


def test_another_job_is_not_taken_for_it() -> None:
    mine = job(asked())
    assert marks.fingerprint(mine) == marks.fingerprint(job(asked()))
    bare = msgspec.structs.replace(mine, cores=0, duration=0.0)
    assert len({marks.fingerprint(one) for one in (mine, bare, job(asked(PROGRAM | {"source": "x"})))}) == 3


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("ska/box:1.0", "docker.io/ska/box:1.0"),
        ("index.docker.io/box", "docker.io/library/box:latest"),
        ("localhost/box", "localhost/box:latest"),
        ("127.0.0.1:5000/a/b_c--d:V1", "127.0.0.1:5000/a/b_c--d:V1"),
        (f"ghcr.io/ivoa/x:1@{DIGEST}", f"ghcr.io/ivoa/x@{DIGEST}"),
        ("Upper/case", None),
        ("a//b", None),
        ("box:", None),
        ("../box", None),
        ("box@md5:1", None),
        ("docker://box", None),
        ("box:1\n", None),
        ("a" * 500, None),
    ],
)
def test_names_of_images_are_read_as_docker_reads_them(text: str, name: str | None) -> None:
    read = images.read(text)
    assert (read.name if read else None) == name


@pytest.mark.parametrize(
    ("image", "places", "found"),
    [
        ("ghcr.io/ivoa/x", ("ghcr.io", "ghcr.io/ivoa", "ghcr.io/iv"), "ghcr.io/ivoa"),
        ("ghcr.io/ivoa/x", ("ghcr.io/ivoa/x",), "ghcr.io/ivoa/x"),
        ("ghcr.io/ivoa/xy", ("ghcr.io/ivoa/x",), None),
        ("ghcr.io.evil.org/x", ("ghcr.io",), None),
    ],
)
def test_an_image_is_below_whole_steps_alone(image: str, places: tuple[str, ...], found: str | None) -> None:
    read = images.read(image)
    assert read is not None
    assert images.below(read, places) == found


def test_a_pull_is_told_of_in_quarters_that_never_shrink() -> None:
    progress, told = images.Progress(), []
    for current, layer in ((0, "a"), (50, "a"), (100, "a"), (0, "b"), (100, "b")):
        progress.add({"id": layer, "progressDetail": {"current": current, "total": 100}})
        told.append(progress.text())
    progress.add({"id": "c", "progressDetail": {"current": "x", "total": -1}})
    assert told == ["", "50 %", "100 %", "100 %", "100 %"]
    assert images.trouble({"errorDetail": {"message": "no"}}) == "no"
    assert images.trouble({"status": "Pulling"}) is None


# ── states ───────────────────────────────────────────────────────────────────────────────────────────────────

CANCELLED = Mark({marks.REASON: marks.CANCELLED}, 50.0)
FAILED = Mark({marks.REASON: marks.FAILED, marks.TEXT: "no image"}, 50.0)


def a(status: str, exit_: int | None = None, **known: Any) -> Container:
    return Container("c0ffee", status, {}, **({"began": 10.0, "ended": 60.0, "exit": exit_} | known))


@pytest.mark.parametrize(
    ("seen", "phase", "words"),
    [
        (Seen(ticket=CANCELLED), "PREPARING", ""),
        (Seen(ticket=CANCELLED, container=a("created")), "PREPARING", ""),
        (Seen(container=a("created")), "PREPARING", ""),
        (Seen(container=a("initialized")), "PREPARING", ""),
        (Seen(container=a("running")), "RUNNING", ""),
        (Seen(container=a("paused")), "RUNNING", "paused"),
        (Seen(container=a("restarting")), "RUNNING", ""),
        (Seen(container=a("stopping")), "RELEASING", ""),
        (Seen(container=a("removing")), "RELEASING", ""),
        (Seen(container=a("exited", 0)), "COMPLETED", ""),
        (Seen(container=a("stopped", 0)), "COMPLETED", ""),
        (Seen(ticket=CANCELLED, container=a("exited", 0)), "COMPLETED", ""),
        (Seen(container=a("exited", 1)), "FAILED", "exit 1"),
        (Seen(container=a("exited", 137)), "FAILED", "SIGKILL"),
        (Seen(container=a("exited", 255)), "FAILED", "exit 255"),
        (Seen(container=a("exited", 127, error="no such file")), "FAILED", "not there (exit 127): no such file"),
        (Seen(container=a("exited", 137, killed=True, memory=1024**3)), "FAILED", "memory; 1 GiB"),
        (Seen(container=a("exited", None)), "FAILED", "does not tell"),
        (Seen(container=a("dead", 0)), "FAILED", "exit 0"),
        (Seen(end=CANCELLED), "CANCELLED", ""),
        (Seen(end=FAILED), "FAILED", "no image"),
        (Seen(end=FAILED, ticket=CANCELLED), "FAILED", "no image"),
        (Seen(end=CANCELLED, container=a("created")), "RELEASING", ""),
        (Seen(end=CANCELLED, container=a("running")), "RUNNING", ""),
        (Seen(end=CANCELLED, container=a("exited", 143)), "CANCELLED", "SIGTERM"),
        (Seen(end=CANCELLED, container=a("exited", 0, ended=40.0)), "COMPLETED", ""),
        (Seen(end=FAILED, container=a("exited", 137)), "FAILED", "no image; exit 137"),
        (Seen(container=a("hibernating")), "hibernating", ""),
    ],
)
def test_what_an_engine_shows_is_read_as_a_phase(seen: Seen, phase: str, words: str) -> None:
    shown = states.sighting(seen, "")
    assert shown.phase == phase
    assert words in " ".join(shown.messages)
    assert bool(shown.messages) == bool(words)


@pytest.mark.parametrize(
    ("status", "outside", "shown"),
    [
        ("created", None, None),
        ("running", {}, {"status": "PREPARING"}),
        ("running", {"80/tcp": 32768}, {"status": "AVAILABLE", "location": "http://[::1]:32768/lab"}),
        ("exited", {}, {"status": "FINISHED"}),
    ],
)
def test_a_port_is_a_connector(status: str, outside: dict[str, int] | None, shown: dict[str, str] | None) -> None:
    labels = {marks.PORTS: states.written((Port("80/tcp", "HTTP", "/lab"),))}
    body = states.sighting(Seen(container=Container("c", status, labels, outside=outside or {})), "::1").body
    connectors = msgspec.json.decode(body)["connectors"] if body else [None]
    expected = {"kind": states.CONNECTOR, "protocol": "HTTP", **shown} if shown else None
    assert connectors == [expected]


def test_what_an_engine_says_wrongly_is_not_known() -> None:
    nonsense = {
        "Id": 7,
        "State": {"Status": None, "StartedAt": "soon", "ExitCode": "x"},
        "Config": [],
        "NetworkSettings": 1,
    }
    read = states.container(nonsense)
    assert (read.began, read.exit, read.labels, dict(read.outside)) == (None, None, {}, {})
    assert states.moment("0001-01-01T00:00:00Z") is None
    assert states.moment("2026-11-22T22:33:18.883968684Z") == pytest.approx(1795386798.883968)
    binding = {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "81/tcp": None, "82/tcp": [{"HostPort": "-1"}]}
    assert dict(states.container({"NetworkSettings": {"Ports": binding}}).outside) == {"80/tcp": 8080}


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────


async def pieces(text: bytes, size: int = 100) -> AsyncIterator[bytes]:
    for i in range(0, len(text), size):
        yield text[i : i + size]


def packed(*entries: tuple[str, bytes | str], format_: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format_) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize("format_", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
async def test_results_are_the_plain_files_of_an_archive(format_: int) -> None:
    long = "d/" * 100 + "é"
    text = packed(("results/b", b"b" * 700), (f"results/{long}", b"x"), ("results/l", "/etc/passwd"), format_=format_)
    found = await streams.survey(pieces(text), 1000)
    assert [(file.name, file.bytes) for file in found] == [("b", 700), (long, 1)]
    with pytest.raises(SiteRefused, match="more than 700 bytes"):
        await streams.survey(pieces(text), 700)


@pytest.mark.parametrize("name", ["results/../x", "results", "/x", "results//x", "results/a/../../x"])
async def test_no_result_leads_out_of_its_folder(name: str) -> None:
    assert await streams.survey(pieces(packed((name, b"x"))), 10) == ()


@pytest.mark.parametrize(
    ("text", "error"), [(b"", ConnectionLost), (b"x" * 600, SiteMisbehaved), (b"x" * 9, SiteError)]
)
async def test_what_is_no_archive_is_no_result(text: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        await streams.survey(pieces(text), 10)


async def test_an_archive_that_breaks_off_is_no_result() -> None:
    with pytest.raises(ConnectionLost):
        await streams.survey(pieces(packed(("results/b", b"b" * 700))[:900]), 1000)


async def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"f" * 1000)
    entries = [Entry("r", 0o755), Entry("r/" + "n" * 150, 0o444, text=b"1"), Entry("r/f", 0o400, file="f")]
    text = b"".join([piece async for piece in streams.tar([*entries, Entry("r/l", 0o777, link="f")], tmp_path, 1e9)])
    with tarfile.open(fileobj=io.BytesIO(text)) as tar:
        shown = {one.name: (oct(one.mode), one.size, one.linkname) for one in tar}
    assert shown == {
        "r": ("0o755", 0, ""),
        "r/" + "n" * 150: ("0o444", 1, ""),
        "r/f": ("0o400", 1000, ""),
        "r/l": ("0o777", 0, "f"),
    }


async def test_of_logs_the_end_of_each_stream_is_kept() -> None:
    def frame(kind: int, text: bytes) -> bytes:
        return bytes([kind, 0, 0, 0]) + len(text).to_bytes(4, "big") + text

    text = frame(1, b"abc") + frame(2, b"err") + frame(1, b"") + frame(1, b"d" * 300)
    for size in (1, 7, 1000):
        assert await streams.logs(pieces(text, size), 5) == (b"d" * 5, b"err")
    assert len(streams.text(b"\xff" * 9, 9).encode()) <= 9


# ── options ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://host"},
        {"url": "unix://relative"},
        {"url": "tcp://engine.example.org:2376"},
        {"url": "tcp://127.0.0.1"},
        {"user": "root"},
        {"capabilities": ["SYS_ADMIN"]},
        {"network": "none", "ports": {}},
        {"ulimits": {"nofile": 1024}},
        {"program": {"image": "No Image"}},
        {"keep": "PT1M"},
    ],
)
def test_options_that_would_not_do_are_told_at_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ContainersOptions.model_validate(options)
