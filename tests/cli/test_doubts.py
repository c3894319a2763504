"""`broker resolve` against a real broker whose site took a job and never answers again."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from broker.cli.desk import Desk
from broker.cli.main import main
from broker.cli.memory import Memory
from broker.cli.screen import Screen
from broker.domain import kinds
from broker.testing.program import Program, above
from broker.testing.site import FakeSite

SILENT = "after:status:500"


class Shell:
    def __init__(self, home: Path) -> None:
        self._memory = home / "last.json"

    async def __call__(self, *words: str, tty: bool = False) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        desk = Desk(Screen(out, err, tty, 200, drawn=False), Memory(self._memory), poll=(0.05, 0.05))
        code = await asyncio.to_thread(main, words, desk)
        return code, out.getvalue(), err.getvalue()


@pytest.fixture
async def shell(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    async with FakeSite("alba", price=1.0) as site:
        site.behave(accept=SILENT, status="status:500", release="status:500")
        top = Program(tmp_path / "brokers", "federation", **above(alba=site.url))
        await asyncio.to_thread(top.start)
        monkeypatch.setenv("BROKER_URL", top.url)
        container = {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["docker://a/b:1"]}}
        (home / "fit.yaml").write_text(json.dumps({"executable": container}))
        yield Shell(home)
        await asyncio.to_thread(top.stop)


async def doubtful(shell: Shell) -> str:
    code, out, err = await shell("submit", "fit.yaml", "--json")
    assert code == 0, err
    session = str(json.loads(out)["offers"][0]["meta"]["uuid"])
    code, _, err = await shell("accept", "1")
    assert "nothing is sent twice" in err
    return session


def row(text: str) -> dict[str, Any]:
    heads, line = (line.split("\t") for line in text.splitlines())
    return dict(zip(heads, line, strict=True))


async def test_an_operator_lists_the_doubts_and_ends_one(shell: Shell) -> None:
    assert (await shell("resolve", tty=True))[2] == "no acceptance is in doubt.\n"
    session = await doubtful(shell)
    shown = row((await shell("resolve"))[1])
    assert (shown["session"], shown["site"]) == (session, "alba")
    assert "500" in shown["reason"]
    code, _, err = await shell("resolve", session[:8], "--taken")
    assert (code, "who said so" in err) == (2, True)
    code, out, err = await shell("resolve", session[:8], "--taken", "--because", "job 17 runs there")
    assert (code, out, err) == (0, f"session {session[:4]}: ACCEPTED\n", "")
    assert json.loads((await shell("resolve", "--json"))[1]) == {"doubts": []}
    again = await shell("resolve", session, "--not-taken", "--because", "no, it does not")
    assert (again[0], "not in doubt" in again[2]) == (3, True)


async def test_what_nobody_doubts_is_named(shell: Shell) -> None:
    code, _, err = await shell("resolve", "deadbeef", "--taken", "--because", "x")
    assert (code, err) == (2, '"deadbeef" is not in doubt. See: broker resolve\n')
