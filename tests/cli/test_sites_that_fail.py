"""The commands against a real broker whose sites refuse, or take a job and never answer again."""

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
async def alba() -> AsyncIterator[FakeSite]:
    async with FakeSite("alba", price=1.0) as site:
        yield site


@pytest.fixture
async def shell(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alba: FakeSite) -> AsyncIterator[Shell]:
    async with FakeSite("bora", price=2.0) as bora:
        top = Program(tmp_path / "brokers", "federation", **above(alba=alba.url, bora=bora.url))
        await asyncio.to_thread(top.start)
        monkeypatch.setenv("BROKER_URL", top.url)
        yield Shell(home)
        await asyncio.to_thread(top.stop)


async def submit(shell: Shell, home: Path, **preferences: object) -> list[str]:
    """The offered sessions, best first: alba's is the cheaper one."""
    container = {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["docker://a/b:1"]}}
    (home / "fit.yaml").write_text(json.dumps({"executable": container, "preferences": preferences}))
    code, out, err = await shell("submit", "fit.yaml", "--json")
    assert code == 0, err
    return [offer["meta"]["uuid"] for offer in json.loads(out)["offers"]]


async def doubtful(shell: Shell, home: Path, alba: FakeSite) -> str:
    session = (await submit(shell, home))[0]
    alba.behave(accept=SILENT, status="status:500", release="status:500")
    _, _, err = await shell("accept", "1")
    assert "Nothing runs twice" in err
    return session


def row(text: str) -> dict[str, Any]:
    heads, line = (line.split("\t") for line in text.splitlines())
    return dict(zip(heads, line, strict=True))


async def test_an_operator_lists_the_doubts_and_ends_one(shell: Shell, home: Path, alba: FakeSite) -> None:
    assert (await shell("resolve", tty=True))[2] == "no acceptance is in doubt.\n"
    session = await doubtful(shell, home, alba)
    shown = row((await shell("resolve"))[1])
    assert (shown["session"], shown["site"]) == (session, "alba")
    assert "500" in shown["reason"]
    code, _, err = await shell("resolve", session[:8], "--taken")
    assert (code, "who said so" in err) == (2, True)
    code, _, err = await shell("resolve", "--taken", "--because", "job 17 runs there")
    assert (code, err) == (2, "which session is wanted. See: broker resolve\n")
    code, out, err = await shell("resolve", session[:8], "--taken", "--because", "job 17 runs there")
    assert (code, out, err) == (0, f"session {session[:4]}: ACCEPTED\n", "")
    assert json.loads((await shell("resolve", "--json"))[1]) == {"doubts": []}
    again = await shell("resolve", session, "--not-taken", "--because", "no, it does not")
    assert (again[0], "not in doubt" in again[2]) == (3, True)


async def test_what_nobody_doubts_is_named(shell: Shell) -> None:
    code, _, err = await shell("resolve", "deadbeef", "--taken", "--because", "x")
    assert (code, err) == (2, '"deadbeef" is not in doubt. See: broker resolve\n')


async def test_whoever_asked_for_failover_is_led_to_what_was_accepted_instead(
    shell: Shell, home: Path, alba: FakeSite
) -> None:
    first, second = await submit(shell, home, failover=True)
    alba.behave(accept="status:400")
    code, out, err = await shell("accept", "1", "--json")
    assert (code, err) == (0, ""), err
    taken = json.loads(out)
    assert (taken["meta"]["uuid"], taken["phase"]) == (second, "ACCEPTED")
    code, _, err = await shell("accept", first)  # repeated, it leads there again
    assert (code, err) == (0, ""), err


async def test_without_failover_the_refusal_is_told(shell: Shell, home: Path, alba: FakeSite) -> None:
    await submit(shell, home)
    alba.behave(accept="status:400")
    code, _, err = await shell("accept", "1")
    assert (code, err.startswith("alba did not take it: ")) == (3, True)
