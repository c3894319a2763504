"""Real processes of the program on free ports, and a program for them to run whose every start is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.domain import kinds
from broker.domain.session import TERMINAL
from broker.testing.program import Answer, Caller

PATIENCE = 60.0  # seconds after which what we wait for will not come


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        yield session


@pytest.fixture
def call(http: aiohttp.ClientSession) -> Caller:
    return Caller(http)


async def eventually(holds: Callable[[], bool]) -> None:
    """Returns when it does: for what another process does to a file."""
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.02)


class Work:
    """A Python program to be run: it writes a line when it starts, goes on until it may end, and leaves a result."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.tally, self._gate = folder / "tally", folder / "gate"

    def request(self, **more: Any) -> dict[str, Any]:
        source = (
            "import os, time\n"
            f"with open({str(self.tally)!r}, 'a') as tally:\n"
            "    print('started', file=tally)\n"
            "print('hello from the run')\n"
            "end = time.monotonic() + 60\n"
            f"while not os.path.exists({str(self._gate)!r}) and time.monotonic() < end:\n"
            "    time.sleep(0.02)\n"
            "os.makedirs('results', exist_ok=True)\n"
            "with open('results/answer.txt', 'w') as result:\n"
            "    result.write('42')\n"
        )
        return {
            "executable": {"kind": kinds.PYTHON_PROGRAM, "meta": {"name": "fit"}, "source": source},
            "schedule": {"requested": {"duration": "PT2M"}},
            **more,
        }

    def let_end(self) -> None:
        self._gate.touch()

    @property
    def started(self) -> int:
        return len(self.tally.read_text().splitlines()) if self.tally.exists() else 0

    async def running(self) -> None:
        """Returns when it has started."""
        await eventually(lambda: self.started > 0)


@pytest.fixture
def make_work(tmp_path: Path) -> Callable[[str], Work]:
    return lambda name: Work(tmp_path / name)


@pytest.fixture
def work(make_work: Callable[[str], Work]) -> Work:
    return make_work("work")


@pytest.fixture
def until(call: Caller) -> Callable[..., Awaitable[dict[str, Any]]]:
    """Reads a session until its phase is one of those, or terminal."""

    async def until_(url: str, *phases: str) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE):
            while shown.get("phase") not in (*phases, *TERMINAL):
                try:
                    answer: Answer = await call("GET", url)
                except aiohttp.ClientConnectionError:
                    answer = Answer(0, {}, b"{}")
                shown = json.loads(answer.body) if answer.status == 200 else {}
                await asyncio.sleep(0.05)
        return shown

    return until_
