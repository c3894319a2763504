"""The disk is full: nothing is acknowledged that is not kept, nothing is sent, and all goes on when there is room.

A small file system of its own, with the store and the log on it. Linux and root.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from broker.testing.desk import Desk, eventually, opened, place

pytestmark = [pytest.mark.system]
SIZE = 4 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        left_out = f"no file system can be mounted here: {mounted.stderr.strip()}"
        pytest.fail(left_out) if os.environ.get("CI") == "true" else pytest.skip(left_out)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    """To the last byte."""
    piece = 1 << 20
    with path.open("wb", buffering=0) as file:
        while piece:
            try:
                file.write(b"x" * piece)
            except OSError:
                piece //= 2


async def ask_until_refused(desk: Desk) -> list[str]:
    """The sets that were acknowledged while there was room in the files that there are already."""
    acknowledged = []
    for _ in range(100):
        answer = await desk.ask()
        if answer.status == 503:
            assert "full" in answer.json()["detail"]
            assert "Retry-After" in answer.headers
            return acknowledged
        acknowledged.append(f"/offersets/{answer.json()['meta']['uuid']}")
    pytest.fail("the disk is not full")


async def test_a_full_disk_acknowledges_nothing_and_sends_nothing(small: Path) -> None:
    async with AsyncExitStack() as stack:
        alba = await stack.enter_async_context(place("alba"))
        borealis = await stack.enter_async_context(place("borealis", price=5.0))
        sites = {p.name: {"url": p.wire.url, "poll": 0.2, "timeout": 1.0} for p in (alba, borealis)}
        desk = await stack.enter_async_context(opened(small, sites=sites, fanout={"deadline": 2.0}))
        await desk.live("alba", "borealis")
        kept, other = (await desk.offers())[0], (await desk.offers())[0]
        assert (await desk.accept(kept)).json()["phase"] not in ("OFFERED", "REJECTED")
        fill(small / "waste")
        kept_sets = await ask_until_refused(desk)
        answer = await desk.accept(other)
        assert answer.status == 503
        assert "Retry-After" in answer.headers
        assert alba.runs == 1
        assert await desk.phase(other) == "OFFERED"
        assert await desk.phase(kept) not in ("", "OFFERED", "FAILED")
        assert (await desk.send("GET", "/health/live")).status == 200
        (small / "waste").unlink()

        async def takes_it() -> bool:
            return (await desk.accept(other)).status == 200

        await eventually(takes_it)
        assert [await desk.until(path) for path in (kept, other)] == ["COMPLETED", "COMPLETED"]
        assert sorted(alba.site.executions.values()) == [1, 1]
        desk.program.kill()
        await asyncio.to_thread(desk.program.start)
        assert [(await desk.send("GET", path)).status for path in kept_sets] == [200] * len(kept_sets)
        assert [await desk.until(path) for path in (kept, other)] == ["COMPLETED", "COMPLETED"]


async def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "mute").mkdir()
    (tmp_path / "mute" / "log").symlink_to("/dev/full")
    async with AsyncExitStack() as stack:
        alba = await stack.enter_async_context(place("alba"))
        sites = {"alba": {"url": alba.wire.url, "poll": 0.2}}
        desk = await stack.enter_async_context(opened(tmp_path, "mute", sites=sites))
        await desk.live("alba")
        path = (await desk.offers())[0]
        assert (await desk.accept(path)).status == 200
        assert (await desk.until(path), alba.runs) == ("COMPLETED", 1)
