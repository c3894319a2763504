"""A broker on a real socket, a terminal or a pipe made of memory, and golden texts."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from broker.cli.desk import Desk
from broker.cli.main import main
from broker.cli.memory import Memory
from broker.cli.screen import Screen
from broker.testing.broker import NOW, FakeBroker

GOLDEN = Path(__file__).parent / "golden"


@dataclass
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, a folder of one's own, no broker known."""
    for name in [name for name in os.environ if name.startswith(("BROKER_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def fake() -> AsyncIterator[FakeBroker]:
    async with FakeBroker() as broker:
        yield broker


@pytest.fixture
def run(fake: FakeBroker, home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one command as a shell would, at a terminal of 80 columns (`tty`) or in a pipe, against the fake broker."""
    monkeypatch.setenv("BROKER_URL", fake.url)

    async def call(*arguments: str, tty: bool = False, width: int = 80) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        screen = Screen(out, err, tty, width, drawn=False, zone=ZoneInfo("Europe/Berlin"), clock=lambda: NOW)
        memory = Memory(home / "state" / "last.json")
        # A thread: the command runs a loop of its own, the broker's goes on in this one.
        code = await asyncio.to_thread(main, arguments, Desk(screen, memory, poll=(0.0, 0.0)))
        return Ran(code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    """`golden(name, text)` compares with the file; UPDATE_GOLDEN=1 writes it instead, for a person to read the diff."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return compare
