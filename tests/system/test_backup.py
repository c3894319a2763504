"""A copy taken under load, a crash, and the copy put back: what was acknowledged before it is there, and what was
accepted after it is found running at its site, where it can be ended."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker.testing.program import ACCEPT, Caller, Program, above, platform

pytestmark = pytest.mark.system
Until = Callable[..., Awaitable[dict[str, Any]]]
PATIENCE = 60.0
ASKERS = 4
NOBODYS = {"executable": {"kind": "https://example.org/kinds/warp-drive.yaml"}}


class Place(NamedTuple):
    """Brokers, the first of which is copied and restored; the others are below it."""

    folder: Path
    top: Program
    below: tuple[Program, ...] = ()

    @property
    def settings(self) -> Path:
        return self.folder / self.top.name / "broker.yaml"

    @property
    def store(self) -> Path:
        return self.folder / self.top.name / "broker.db"

    @property
    def site(self) -> str:
        return self.below[0].name if self.below else self.top.name


@pytest.fixture(params=["the site itself", "a broker before it"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    site = Program(tmp_path, "alba", **platform(tmp_path / "jobs")).start()
    place = Place(tmp_path, site)
    if request.param == "a broker before it":
        place = Place(tmp_path, Program(tmp_path, "federation", **above(alba=site)).start(), (site,))
    yield place
    for program in (place.top, *place.below):
        program.kill()


async def command(*arguments: str | Path) -> tuple[int, str]:
    """The exit code of a `broker` command, and what it wrote to its standard output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "broker.cli.main", *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate()
    assert process.returncode is not None
    assert "Traceback" not in err.decode(), err.decode()
    return process.returncode, out.decode()


async def doctor(place: Place, *options: str) -> tuple[int, list[dict[str, Any]]]:
    code, out = await command("doctor", place.settings, "--json", *options)
    return code, json.loads(out)["findings"]


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


async def accepted(call: Caller, place: Place, work: Any) -> str:
    """The address of a session whose acceptance was acknowledged."""
    async with asyncio.timeout(PATIENCE):
        while (await call("GET", f"{place.top.url}/sites/{place.site}")).json()["health"]["state"] != "live":
            pass
    offered = (await call("POST", f"{place.top.url}/requests", work.request())).json()
    url: str = offered["offers"][0]["meta"]["url"]
    assert (await call("POST", url, ACCEPT)).json()["phase"] not in ("OFFERED", "REJECTED")
    return url


@asynccontextmanager
async def load(call: Caller, place: Place) -> AsyncIterator[list[str]]:
    """Sets asked for by several, one after the other; the list grows. Nobody can run what they ask for, so that no room
    is held."""
    sets: list[str] = []

    async def ask() -> None:
        while True:
            answer = await call("POST", f"{place.top.url}/requests", NOBODYS)
            if answer.status == 303:
                sets.append(answer.headers["Location"])

    askers = [asyncio.create_task(ask()) for _ in range(ASKERS)]
    try:
        yield sets
    finally:
        for asker in askers:
            asker.cancel()
        ended = await asyncio.gather(*askers, return_exceptions=True)
        assert [error for error in ended if not isinstance(error, asyncio.CancelledError)] == []


def put_back(place: Place, copy: Path) -> None:
    """As docs/howto/backup.md says it."""
    for name in ("broker.db", "broker.db-wal", "broker.db-shm"):
        place.store.with_name(name).unlink(missing_ok=True)
    shutil.copyfile(copy, place.store)
    place.store.chmod(0o600)


async def test_a_restored_broker_has_all_of_before_and_finds_what_came_after(
    place: Place, call: Caller, until: Until, make_work: Any
) -> None:
    early, late, copy = make_work("early"), make_work("late"), place.folder / "copy.db"
    before = await accepted(call, place, early)
    await early.running()
    async with load(call, place) as sets:
        await eventually(lambda: len(sets) >= ASKERS)
        acknowledged = list(sets)
        code, out = await command("backup", place.settings, copy)
        assert (code, out.split(": ")[0]) == (0, f"Wrote {copy}")
        assert len(sets) > len(acknowledged), "nobody was held up"
    after = await accepted(call, place, late)
    await late.running()
    place.top.kill()

    put_back(place, copy)
    code, found = await doctor(place)
    orphans = [finding for finding in found if finding["what"] == "orphan" and finding["level"] == "ERROR"]
    assert (code, len(orphans)) == (1, 1), found
    assert place.site in orphans[0]["says"]
    with closing(sqlite3.connect(copy)) as sql:
        assert sql.execute("SELECT key FROM timers WHERE aggregate = 'keeping'").fetchall() == [("keep",)]
    if not place.below:
        assert orphans[0]["where"] == after.rsplit("/", 1)[-1]

    place.top.start()
    assert (await until(before, "RUNNING"))["phase"] == "RUNNING"
    for url in acknowledged:
        assert (await call("GET", url)).status == 200
    assert (await call("GET", after)).status == 404
    code, found = await doctor(place, "--mend", "--cancel-orphans")
    assert [finding["mended"] for finding in found if finding["what"] == "orphan"] == [True], found
    await well(place)
    early.let_end()
    assert (await until(before))["phase"] == "COMPLETED"
    assert (early.started, late.started) == (1, 1)


async def well(place: Place) -> None:
    """Returns when the doctor finds nothing, with the broker running: what ends takes its time."""
    async with asyncio.timeout(PATIENCE):
        while (await doctor(place))[0]:
            pass


async def test_what_is_no_store_of_ours_is_said_in_one_line(tmp_path: Path) -> None:
    settings = tmp_path / "broker.yaml"
    settings.write_text("name: here\nstore: redis://127.0.0.1:1/0\n")
    assert (await command("backup", settings, tmp_path / "copy.db"))[0] == 2
    settings.write_text("name: here\n")
    for arguments in (("backup", settings, tmp_path / "copy.db"), ("doctor", settings)):
        assert (await command(*arguments))[0] == 2
    assert os.listdir(tmp_path) == ["broker.yaml"]
