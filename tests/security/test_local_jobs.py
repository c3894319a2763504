"""What users' programs and requests may do to the local platform's folders and threads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from adapters.local import translate
from adapters.local.jobs import remove
from adapters.local.options import LocalOptions
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest

OPTIONS = LocalOptions(folder=Path("/jobs"))


def a_request(**parts: Any) -> ExecutionRequest:
    return ExecutionRequest.model_validate({"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "pass"}, **parts})


def a_datum(name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_DATA, "meta": {"name": name}, "location": "https://a.example/x", **more}


def staged(request: ExecutionRequest) -> list[str]:
    job = Job(UUID(int=1), "a job", Owner("here", "ada"), request, 1, 1, 0, {}, duration=60.0, start=0.0)
    return [datum.place for datum in translate.spec(job, OPTIONS).data]


def dig(place: Path, levels: int, name: str) -> None:
    """Folders in folders, deeper than any path goes."""
    here = os.open(place, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.fchmod(here, 0o500)
    os.close(here)


@pytest.mark.parametrize(("levels", "name"), [(2100, "d"), (50, "x" * 250)])
def test_folders_nested_without_end_are_removed(tmp_path: Path, levels: int, name: str) -> None:
    """What cannot be removed would fill the disk, and stop the sweep of everything after it."""
    assert levels * (len(name) + 1) > os.pathconf(tmp_path, "PC_PATH_MAX")
    place = tmp_path / str(uuid4())
    place.mkdir()
    dig(place, levels, name)
    (place / "link").symlink_to(tmp_path)
    (tmp_path / "kept").touch()
    remove(place)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_names_are_fit_for_files_and_kept_apart() -> None:
    names = ["3-x", "x", "../x", "..", "\u03b1" * 300, "\u03b1" * 301, ".._x", "2-.._x"]
    places = staged(a_request(data=[a_datum(name) for name in names]))
    assert len(set(places)) == len(names)
    assert all(place.startswith("data/") and place.count("/") == 1 for place in places)
    assert not {"data/.", "data/.."} & set(places)
    assert max(len(place.encode()) for place in places) <= 220


def test_what_would_keep_the_platform_busy_is_refused() -> None:
    many = a_request(data=[a_datum(f"d{i}") for i in range(10_001)])
    assert [(reason.element, reason.nearest) for reason in translate.refuse(many, OPTIONS)] == [("data", "10000")]
    storages = [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": f"s{i}"}} for i in range(10_001)]
    assert [reason.element for reason in translate.refuse(a_request(storage=storages), OPTIONS)] == ["storage"]


def test_data_can_be_written_where_a_volume_gives_it_or_its_storage() -> None:
    scratch = {"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}
    volume = {"kind": kinds.SIMPLE_VOLUME, "path": "/out", "resource": "scratch", "mode": "READWRITE"}
    request = a_request(
        storage=[scratch],
        data=[a_datum("on", storage="scratch"), a_datum("off")],
        compute={"kind": kinds.SIMPLE_COMPUTE, "volumes": [volume]},
    )
    job = Job(UUID(int=1), "a job", Owner("here", "ada"), request, 1, 1, 0, {}, duration=60.0, start=0.0)
    assert [datum.readonly for datum in translate.spec(job, OPTIONS).data] == [False, True]
