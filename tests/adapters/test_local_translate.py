"""What of a request the local platform refuses, and what it makes of the rest. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.local import sandbox, translate
from adapters.local.layout import Datum, Mount, Spec, notebook_name
from adapters.local.options import GIB, LocalOptions
from adapters.local.steps import preparations, program
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest

OPTIONS = LocalOptions(folder=Path("/jobs"), file_roots=(Path("/data"),))
PROGRAM = {"kind": kinds.PYTHON_PROGRAM, "source": "pass"}
STORAGE = {"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}
CUBE = {"kind": kinds.SIMPLE_DATA, "meta": {"name": "my cube.fits"}, "location": "https://data.example/cube.fits"}


def a_request(executable: dict[str, Any] | None = None, **parts: Any) -> ExecutionRequest:
    return ExecutionRequest.model_validate({"executable": executable or PROGRAM, **parts})


def volumes(*volumes: dict[str, Any]) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_COMPUTE, "volumes": [{"kind": kinds.SIMPLE_VOLUME} | volume for volume in volumes]}


def skao(**block: Any) -> dict[str, Any]:
    replicas = [{"rsename": "A", "dataurl": "root://a/cube"}, {"rsename": "B", "dataurl": "https://b.example/cube"}]
    return {"kind": kinds.SKAO_DATA, "meta": {"name": "cube"}, "skao": {"replicas": replicas, **block}}


RUCIO = {"kind": kinds.RUCIO_DATA, "rucio": {"scope": "s", "object": "o"}}


def located(*urls: str, files: int = 1) -> dict[str, Any]:
    """What a catalogue says of the first data resource."""
    portion = {"bytes": 9, "files": files, "replicas": [{"storage": "D", "url": url} for url in urls]}
    return {"element": "data[0]", "portions": [portion], "sized": "ska", "placed": "ska"}


def spec(request: ExecutionRequest, **job: Any) -> Spec:
    sizes = {"cores": 2, "memory": 3, "storage": 4, "duration": 60.0} | job
    return translate.spec(
        Job(UUID(int=7), "name", Owner("a", "b"), request, extras={}, start=0.0, **sizes),  # type: ignore[arg-type]
        OPTIONS,
    )


@pytest.mark.parametrize(
    ("request_", "element"),
    [
        (a_request({"kind": kinds.DOCKER_CONTAINER}), "executable.kind"),
        (a_request({"kind": "uri:never-heard-of"}), "executable.kind"),
        (a_request({"kind": kinds.JUPYTER_NOTEBOOK}), "executable.location"),
        (a_request({"kind": kinds.PYTHON_PROGRAM}), "executable.source"),
        (a_request(PROGRAM | {"location": "https://a.example/x.py"}), "executable.source"),
        (a_request({"kind": kinds.PYTHON_PROGRAM, "location": "ftp://a.example/x.py"}), "executable.location"),
        (a_request({"kind": kinds.PYTHON_PROGRAM, "location": "file:///etc/passwd"}), "executable.location"),
        (a_request({"kind": kinds.PYTHON_PROGRAM, "location": "file:///data/../etc/passwd"}), "executable.location"),
        (a_request({"kind": kinds.PYTHON_PROGRAM, "location": "http://[::1"}), "executable.location"),
        (a_request(PROGRAM | {"requirements": ["astropy"]}), "executable.requirements"),
        (a_request(PROGRAM | {"environment": {"A=B": "c"}}), "executable.environment"),
        (a_request(PROGRAM | {"arguments": ["a\0b"]}), "executable.arguments"),
        (a_request(data=[{"kind": "uri:strange"}]), "data[0].kind"),
        (a_request(data=[{"kind": kinds.S3_DATA, "endpoint": "https://s3.example", "bucket": "b"}]), "data[0].object"),
        (a_request(data=[{"kind": kinds.RUCIO_DATA, "rucio": {"scope": "s", "object": "o"}}]), "data[0]"),
        (a_request(data=[RUCIO], located=[located("https://d.example/1", files=2)]), "data[0]"),
        (a_request(data=[{"kind": kinds.SIMPLE_DATA}]), "data[0]"),
        (a_request(data=[CUBE, {"kind": kinds.SIMPLE_DATA, "location": "s3://b/c"}]), "data[1]"),
        (a_request(data=[skao(objecttype="CONTAINER")]), "data[0].skao.objecttype"),
        (a_request(data=[skao(checksum={"type": "crc64", "value": "1"})]), "data[0].skao.checksum.type"),
        (a_request(compute={"kind": "uri:strange"}), "compute.kind"),
        (a_request(compute={"kind": kinds.SIMPLE_COMPUTE, "extras": [{"type": kinds.GPU}]}), "compute.extras"),
        (a_request(storage=[{"kind": "uri:strange"}]), "storage[0].kind"),
        (a_request(compute=volumes({"path": "../x", "resource": "scratch"})), "compute.volumes[0].path"),
        (a_request(compute=volumes({"path": "/", "resource": "scratch"})), "compute.volumes[0].path"),
        (a_request(compute=volumes({"path": "/program.py", "resource": "scratch"})), "compute.volumes[0].path"),
        (a_request(compute=volumes({"path": "a"}, {"path": "/a/"})), "compute.volumes[1].path"),
        (a_request(compute=volumes({"path": "/results", "resource": "scratch"})), "compute.volumes[0].path"),
    ],
)
def test_what_cannot_run_is_refused_by_element(request_: ExecutionRequest, element: str) -> None:
    assert [reason.element for reason in translate.refuse(request_, OPTIONS)] == [element]


def test_what_can_run_is_not_refused() -> None:
    request = a_request(
        PROGRAM | {"environment": {"A": "b"}, "arguments": ["-x"]},
        data=[CUBE, skao(checksum={"type": "ADLER32", "value": "1"}), CUBE | {"location": "file:///data/x"}],
        storage=[STORAGE],
        compute=volumes({"path": "/results", "resource": "scratch", "mode": "READWRITE"}),
    )
    assert translate.refuse(request, OPTIONS) == ()
    notebook = a_request({"kind": kinds.JUPYTER_NOTEBOOK, "location": "data:application/json,{}"})
    assert translate.refuse(notebook, OPTIONS) == ()


def test_requirements_are_names_of_packages_never_options_of_pip() -> None:
    options = OPTIONS.model_copy(update={"install_requirements": True})
    request = a_request(PROGRAM | {"requirements": ["astropy>=6", "--index-url=https://evil.example", "./here"]})
    elements = [reason.element for reason in translate.refuse(request, options)]
    assert elements == ["executable.requirements[1]", "executable.requirements[2]"]


def test_sizes_become_bytes() -> None:
    bounds = spec(a_request()).bounds
    assert (bounds.cores, bounds.memory, bounds.duration) == (2, 3 * GIB, 60.0)
    assert bounds.disk == 4 * GIB + OPTIONS.max_disk_bytes


def test_a_spec_survives_its_file() -> None:
    whole = spec(
        a_request(
            PROGRAM | {"arguments": ["a"]}, data=[skao(checksum={"type": "md5", "value": "a"})], storage=[STORAGE]
        )
    )
    assert Spec.decode(json.loads(json.dumps(whole.encode()))) == whole


def test_what_a_catalogue_has_found_is_read_from_there() -> None:
    s3 = {"kind": kinds.S3_DATA, "endpoint": "https://s3.example", "bucket": "b", "object": "a/cube"}
    request = a_request(data=[RUCIO, s3], located=[located("davs://d.example/cube", "root://d.example//cube")])
    assert not translate.refuse(request, OPTIONS)
    assert [datum.urls for datum in spec(request).data] == [
        ("https://d.example/cube",),
        ("https://s3.example/b/a/cube",),
    ]


def test_data_of_every_kind_know_where_they_come_from() -> None:
    link = {"datalink": {"access_url": "https://l/x"}, "obscore": {"access_url": "https://o/x"}}
    request = a_request(
        data=[
            CUBE,
            skao(datasize=9, checksum={"type": "SHA-256", "value": "ab"}),
            {"kind": kinds.IVOA_DATA, "ivoa": link},
            {"kind": kinds.SKAO_DATA, "meta": {"name": "cube"}, "ivoa": {"obscore": {"access_url": "https://o/y"}}},
        ]
    )
    assert spec(request).data == (
        Datum("my_cube.fits", ("https://data.example/cube.fits",), "data/my_cube.fits"),
        Datum("cube", ("https://b.example/cube",), "data/cube", ("sha256", "ab"), 9),
        Datum("data-3", ("https://l/x",), "data/data-3"),
        Datum("4-cube", ("https://o/y",), "data/4-cube"),
    )


def test_volumes_find_what_they_mount_by_name_or_uuid() -> None:
    uuid = str(uuid4())
    request = a_request(
        data=[CUBE | {"storage": "scratch"}, CUBE | {"meta": {"name": "mask", "uuid": uuid}}],
        storage=[STORAGE],
        compute=volumes(
            {"path": "/work/../work", "resource": "mask"},
            {"path": "/scratch/", "resource": "scratch", "mode": "READWRITE"},
            {"path": "in/mask", "resource": uuid},
        ),
    )
    found = spec(request)
    assert found.mounts == (Mount("scratch", "storage/scratch", False), Mount("in/mask", "data/mask", True))
    assert [(datum.place, datum.readonly) for datum in found.data] == [
        ("storage/scratch/my_cube.fits", False),
        ("data/mask", True),
    ]


def test_a_storage_mounted_on_results_holds_the_results() -> None:
    storage = volumes({"path": "/results", "resource": "scratch", "mode": "READWRITE"})
    assert spec(a_request(storage=[STORAGE], compute=storage)).results == "store/storage/scratch"
    assert spec(a_request()).results == "work/results"


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("https://a.example/dir/fit.ipynb?raw=1", "fit.ipynb"),
        ("data:application/json,{}", "notebook.ipynb"),
        ("https://a.example/..%2f.ipynb", "notebook.ipynb"),
    ],
)
def test_an_executed_notebook_keeps_its_name(location: str, name: str) -> None:
    assert notebook_name(spec(a_request({"kind": kinds.JUPYTER_NOTEBOOK, "location": location})).location) == name


def test_bubblewrap_shows_the_jobs_own_folder_alone() -> None:
    request = a_request(
        data=[CUBE],
        storage=[STORAGE],
        compute=volumes(
            {"path": "/in", "resource": "my cube.fits"}, {"path": "/out", "resource": "scratch", "mode": "READWRITE"}
        ),
    )
    shut = spec(request)._replace(isolation="bwrap", network=False)
    command = program(Path("/jobs/7"), shut).command
    assert command[0] == "bwrap"
    assert "--share-net" not in command
    line = " ".join(command)
    assert "--ro-bind /jobs/7/store/data/my_cube.fits /in" in line
    assert "--bind /jobs/7/store/storage/scratch /out" in line
    assert "--bind-try /jobs/7/work /jobs/7/work" in line
    assert line.endswith("-u program.py")
    assert " /jobs/7 " not in line
    assert program(Path("/jobs/7"), spec(request)).command[0] != "bwrap"


def test_what_installs_sees_nothing_that_the_programs_sandbox_is_made_from(tmp_path: Path) -> None:
    request = a_request(
        {"kind": kinds.PYTHON_PROGRAM, "source": "pass", "requirements": ["numpy"], "environment": {"LD_PRELOAD": "x"}},
        storage=[STORAGE],
        compute=volumes({"path": "/out", "resource": "scratch", "mode": "READWRITE"}),
    )
    shut = spec(request)._replace(isolation="bwrap", network=False)
    installing = preparations(tmp_path, shut)[-1]
    assert installing.what == "installing"
    line = " ".join(installing.command)
    assert "--share-net" in line
    assert f"--bind-try {tmp_path}/packages {tmp_path}/packages" in line
    assert not [name for name in ("store", "work") if f"{tmp_path}/{name}" in line]
    assert "LD_PRELOAD" not in installing.environment | installing.inside
    run = program(tmp_path, shut)
    assert "LD_PRELOAD" not in run.environment
    assert run.inside["LD_PRELOAD"] == "x"


def test_isolation_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert "root" in sandbox.describe("none", network=True, processes=7)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "no sandbox" in sandbox.describe("none", network=True, processes=7)
    shut = sandbox.describe("bwrap", network=False, processes=7)
    assert "; no network; memory as granted, at most 7 processes" in shut
    assert "; no network unless asked;" in sandbox.describe("bwrap", network="asked", processes=7)
    assert "; the network is open;" in sandbox.describe("bwrap", network=True, processes=7)


@pytest.mark.parametrize(
    "url", ["ftp://u:geheim@x.example/a?key=geheim", "root://x//a?authz=geheim", "https://[u:geheim"]
)
def test_why_an_address_cannot_be_read_tells_no_key(url: str) -> None:
    reasons = translate.refuse(a_request(data=[CUBE | {"location": url}]), OPTIONS)
    assert "cannot be read from here" in str(reasons)
    assert "geheim" not in str(reasons)


S3 = {"prefix": "s3://results/a/b/", "endpoint": "https://s3.example", "credentials_file": "/secret"}
WEBDAV = {"prefix": "https://store.example/a/b", "credentials_file": "/secret"}


@pytest.mark.parametrize(
    ("to", "place", "target"),
    [
        ("s3://results/a/b/c/", "s3://results/a/b/c/", "https://s3.example/results/a/b/c"),
        ("S3://results/a/b/c", "s3://results/a/b/c", "https://s3.example/results/a/b/c"),
        ("s3://RESULTS/a/b", "s3://results/a/b", "https://s3.example/results/a/b"),
        ("s3://results./a/b/x", "s3://results/a/b/x", "https://s3.example/results/a/b/x"),
        ("s3://results//a///b//c", "s3://results/a/b/c", "https://s3.example/results/a/b/c"),
        ("s3://results/a/b/c%20d", "s3://results/a/b/c%20d", "https://s3.example/results/a/b/c%20d"),
        ("https://STORE.example:443/a/b/", "https://store.example/a/b/", "https://store.example/a/b/"),
        ("https://store.example//a//b/c//d/", "https://store.example/a/b/c/d/", "https://store.example/a/b/c/d/"),
        ("https://other.example//a//b/", "https://other.example//a//b/", "https://other.example//a//b/"),
    ],
)
def test_what_reads_like_a_place_below_a_prefix_is_one(to: str, place: str, target: str) -> None:
    """To a server `a//b` is another folder than `a/b`, and `RESULTS` another bucket: not those that the credentials
    are for."""
    options = LocalOptions.model_validate({"folder": "/jobs", "writes": [S3, WEBDAV, "https"]})
    job = Job(UUID(int=7), "name", Owner("a", "b"), a_request(outputs={"to": to}), 1, 1, 0, {}, 60.0, 0.0)
    delivery = translate.spec(job, options).delivery
    assert delivery is not None
    assert (delivery.to, delivery.target) == (place, target)
    assert bool(delivery.credentials) is ("other" not in to)
