"""What the local platform says it brought in for a session: real supervisors, and a real server on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.local import layout, transfers
from adapters.local.jobs import Jobs
from adapters.local.transfers import MOST, Report, Transfer, condensed
from broker.domain import kinds
from broker.domain.session import TransferNote
from broker.ports import Sighting
from tests.adapters.test_local_platform import a_job, a_platform, ended, ran, seen, soon, until

CUBE = bytes(range(256)) * 5000


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """/cube has it, /broken answers 500."""

    async def cube(asked: web.Request) -> web.Response:
        return web.Response(body=CUBE)

    async def broken(asked: web.Request) -> web.Response:
        return web.Response(status=500)

    app = web.Application()
    app.add_routes([web.get("/cube", cube), web.get("/broken", broken)])
    async with TestServer(app) as server:
        yield server


def data(*places: object) -> list[dict[str, Any]]:
    return [
        {"kind": kinds.SIMPLE_DATA, "meta": {"name": f"d{i}"}, "location": str(place)} for i, place in enumerate(places)
    ]


def notes(sighting: Sighting) -> list[TransferNote]:
    shown = json.loads(sighting.body or b"{}").get("transfers", [])
    return [TransferNote.model_validate(note) for note in shown]


async def test_a_session_shows_what_was_brought_in_for_it(tmp_path: Path, server: TestServer) -> None:
    (tmp_path / "here").write_bytes(b"1234")
    platform = a_platform(tmp_path / "jobs", file_roots=(tmp_path,))
    url = str(server.make_url("/cube"))
    before = time.time()
    sighting = await ran(platform, a_job("pass", data=data(f"{url}?token=geheim", f"file://{tmp_path}/here")))
    assert sighting.phase == "COMPLETED"
    far, near = notes(sighting)
    assert (far.url, far.bytes, far.files, far.cached) == (url, len(CUBE), 1, None)
    assert far.seconds > 0
    assert far.ended is not None
    assert before - 1 <= far.ended.timestamp() <= time.time()
    assert (near.url, near.bytes, near.cached) == (f"file://{tmp_path}/here", 4, True)
    assert b"geheim" not in (sighting.body or b"")


async def test_what_came_before_something_was_missing_is_shown_too(tmp_path: Path, server: TestServer) -> None:
    platform = a_platform(tmp_path / "jobs")
    sighting = await ran(platform, a_job("pass", data=data(server.make_url("/cube"), server.make_url("/broken"))))
    assert sighting.phase == "FAILED"
    assert [note.bytes for note in notes(sighting)] == [len(CUBE)]


async def test_they_are_shown_while_it_runs_by_the_next_broker_and_after_the_files_are_gone(
    tmp_path: Path, server: TestServer
) -> None:
    folder = tmp_path / "jobs"
    job = a_job("import time; time.sleep(60)", data=data(server.make_url("/cube")))
    platform = a_platform(folder)
    await platform.start(job, soon())

    async def running() -> Sighting | None:
        sighting = await seen(platform, job)
        return sighting if sighting.phase == "RUNNING" else None

    shown = notes(await until(running))
    assert [note.bytes for note in shown] == [len(CUBE)]
    again = a_platform(folder)
    await again.cancel(job, soon())
    assert notes(await ended(again, job)) == shown
    Jobs(folder, keep=0.0).sweep(time.time() + 60)
    assert not (folder / str(job.session) / layout.WORK).exists()
    assert notes(await seen(again, job)) == shown


async def test_a_job_without_data_shows_none(tmp_path: Path) -> None:
    assert (await ran(a_platform(tmp_path / "jobs"), a_job("pass"))).body is None


def a_transfer(host: str, size: int = 10, **more: Any) -> Transfer:
    return Transfer(f"https://{host}/file", size, 2.0, 1000.0, **more)


def test_of_much_data_each_host_is_told_once() -> None:
    many = [a_transfer("a") for _ in range(MOST)] + [a_transfer("b"), a_transfer("b", cached=True)]
    assert condensed(many[:MOST]) == many[:MOST]
    assert condensed(many) == [
        Transfer("https://a/", 10 * MOST, 2.0 * MOST, 1000.0, files=MOST),
        Transfer("https://b/", 10, 2.0, 1000.0),
        Transfer("https://b/", 10, 2.0, 1000.0, cached=True),
    ]


def test_of_more_hosts_than_can_be_told_the_largest_are() -> None:
    told = condensed([a_transfer(f"host{size}", size) for size in range(3 * MOST)])
    assert [transfer.bytes for transfer in told] == list(range(3 * MOST - 1, 2 * MOST - 1, -1))


def test_a_report_is_there_at_once_and_whole_when_it_is_closed(tmp_path: Path) -> None:
    report = Report(tmp_path)
    report.add(a_transfer("a"))
    assert len(transfers.read(tmp_path)) == 1
    report.add(a_transfer("b"))
    report.close()
    assert [transfer.url for transfer in transfers.read(tmp_path)] == ["https://a/file", "https://b/file"]


def test_a_report_that_cannot_be_written_is_no_trouble_of_the_job(tmp_path: Path) -> None:
    report = Report(tmp_path / "gone")
    report.add(a_transfer("a"))
    report.close()
    (tmp_path / "gone").mkdir()
    report.close()
    assert len(transfers.read(tmp_path / "gone")) == 1


@pytest.mark.parametrize("text", ["", "{", "7", '[{"url": 1}]', '["x"]'])
def test_what_is_no_report_is_shown_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / layout.TRANSFERS).write_text(text)
    assert transfers.read(tmp_path) == ()
