"""`broker check` as people use it: against our own broker as a process; text, JSON and JUnit; its exit codes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from argon2 import PasswordHasher

from broker.checker.findings import CHECKS, Finding, Level, Report
from broker.checker.reports import document, junit, text
from broker.cli.desk import Desk
from broker.cli.main import main
from broker.cli.memory import Memory
from broker.cli.screen import Screen
from broker.testing.children import interruptible
from broker.testing.dialects import OldSite
from broker.testing.site import FakeSite

BROKER = str(Path(sys.executable).parent / "broker")
PAGE = Path(__file__).parents[2] / "docs" / "check.md"
SITE = """
name: alba
listen: 127.0.0.1:0
store: alba.db
platform: {kind: simulated}
tariff: {core_hour: 0.05}
capacity: {cores: 8, memory: 32}
"""


@dataclass
class Ran:
    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith(("BROKER_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(home: Path) -> Run:
    async def call(*arguments: str) -> Ran:
        out, err = io.StringIO(), io.StringIO()
        desk = Desk(Screen(out, err, False, 80), Memory(home / "last.json"))
        # A thread: the command runs a loop of its own, the site's goes on in this one.
        code = await asyncio.to_thread(main, ["check", *arguments], desk)
        return Ran(code, out.getvalue(), err.getvalue())

    return call


@asynccontextmanager
async def serving(folder: Path, settings: dict[str, Any]) -> AsyncIterator[str]:
    """`broker serve`, and its address."""
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(BROKER, "serve", "site.yaml", cwd=folder, stdout=PIPE, stderr=PIPE)
    try:
        assert process.stdout
        line = (await process.stdout.readline()).decode()
        found = re.search(r"http://\S+", line)
        assert found, line
        yield found[0]
    finally:
        process.send_signal(signal.SIGTERM)
        await process.communicate()


def settings(**more: Any) -> dict[str, Any]:
    return {**yaml.safe_load(SITE), **more}


# ── our own broker ───────────────────────────────────────────────────────────────────────────────────────────


async def test_our_own_broker_conforms(home: Path, run: Run) -> None:
    async with serving(home, settings(access={"anonymous": "loopback"})) as url:
        ran = await run(url, "--json")
        assert (ran.code, ran.err) == (0, "")
        report = json.loads(ran.out)
        assert (report["schema"], report["dialect"], report["conforms"], report["left"]) == ("check-1.0", "F", True, [])
        assert {f["check"] for f in report["findings"] if f["level"] in ("warn", "fail")} == set()
        assert [f["check"] for f in report["findings"]] == list(CHECKS)


async def test_our_own_broker_behind_a_door(home: Path, run: Run) -> None:
    user = {"password_hash": PasswordHasher(1, 8, 1).hash("secret"), "roles": ["user"]}
    async with serving(home, settings(access={"users": {"ann": user}})) as url:
        ran = await run(url)
        assert ran.code == 4
        assert ran.out.endswith("It tells nothing before one signs in.\n")
        ran = await run(url.replace("://", "://ann:secret@"), "--json")
        levels = {f["check"]: f["level"] for f in json.loads(ran.out)["findings"]}
        assert (ran.code, levels["auth.post"], levels["auth.read"], levels["auth.identity"]) == (0, "ok", "ok", "ok")
        assert "secret" not in ran.out


async def test_above_other_sites_it_conforms_too(home: Path, run: Run, compute: dict[str, Any]) -> None:
    """What a site of the field leaves out, the broker before it makes good."""
    async with FakeSite(offers=2, extra={"compute": compute}) as site:
        above = {"name": "net", "listen": "127.0.0.1:0", "store": "net.db", "access": {"anonymous": "loopback"}}
        async with serving(home, {**above, "sites": {"alba": {"url": site.url}}}) as url:
            ran = await run(url, "--json")
        levels = {f["check"]: f["level"] for f in json.loads(ran.out)["findings"]}
        assert {check for check, level in levels.items() if level in ("warn", "fail")} == set()
        assert levels["offer.options"] == levels["release"] == levels["left"] == "ok"
        assert (ran.code, site.executions) == (0, {})


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_does_not_conform_ends_with_one(run: Run) -> None:
    async with OldSite("D") as site:
        ran = await run(site.url)
    assert (ran.code, ran.err) == (1, "")
    assert "speaks the dialect of October 2025, dialect D" in ran.out
    assert ran.out.endswith("It does not conform to version 1.0.\n")
    assert max(map(len, ran.out.splitlines())) <= 80


async def test_nobody_there_ends_with_five(run: Run) -> None:
    async with FakeSite() as site:
        pass
    ran = await run(site.url)
    assert (ran.code, ran.out) == (5, "")
    assert ran.err.startswith("broker: nobody answers at 127.0.0.1:")


@pytest.mark.parametrize(
    "arguments", [("nowhere",), ("http://h", "--request", "none.yaml"), ("http://h", "--patience", "0")]
)
async def test_wrong_input_ends_with_two(arguments: tuple[str, ...], run: Run) -> None:
    ran = await run(*arguments)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)


async def test_a_request_of_ones_own_is_asked(home: Path, run: Run) -> None:
    (home / "ask.yaml").write_text('executable: {kind: "https://x.example/own", location: "a"}\n')
    async with FakeSite(broker_id="net") as site:
        ran = await run(site.url, "--request", "ask.yaml")
        assert json.loads(site.seen("quote")[0].body)["executable"]["location"] == "a"
    assert "asked  for offers to what was given" in ran.out
    assert "offer.size" in ran.out.split("skip", 1)[1]


@pytest.mark.parametrize("content", ["[1]", "a: [", '"text"'])
async def test_a_file_that_is_no_request_is_refused(content: str, home: Path, run: Run) -> None:
    (home / "ask.yaml").write_text(content)
    ran = await run("http://127.0.0.1:1", "--request", "ask.yaml")
    assert (ran.code, ran.err.startswith("ask.yaml")) == (2, True)


async def test_credentials_go_to_their_own_broker_alone(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeSite() as site:
        for known, sent in ((None, False), ("http://elsewhere.example", False), (site.url + "/", True)):
            site.requests.clear()
            monkeypatch.setenv("BROKER_TOKEN", "t0ken")
            monkeypatch.delenv("BROKER_URL", raising=False)
            if known:
                monkeypatch.setenv("BROKER_URL", known)
            await run(site.url)
            assert any("Authorization" in seen.headers for seen in site.requests) == sent


async def test_an_interruption_gives_back_what_was_offered(home: Path) -> None:
    async with FakeSite(offers=2) as site:
        site.behave(set=[None, "hang"])
        process = await asyncio.create_subprocess_exec(
            BROKER, "check", site.url, cwd=home, stdout=PIPE, stderr=PIPE, preexec_fn=interruptible
        )
        await site.arrived("set", 2)
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out) == (130, b"")
        assert err == b"Stopped. What was offered until then was given back.\n"
        assert {session.phase for session in site.sessions.values()} == {"REJECTED"}


async def test_junit_for_a_build_server(home: Path, run: Run) -> None:
    async with FakeSite() as site:
        ran = await run(site.url, "--junit", "check.xml")
        assert ran.code == 1
        suite = ElementTree.parse(home / "check.xml").getroot()[0]  # noqa: S314  # written by us
    cases = {case.get("name"): case for case in suite}
    assert list(cases) == list(CHECKS)
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    assert failed == {"offer.size"}
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (str(len(CHECKS)), "1", "1")
    assert cases["auth.identity"].find("skipped") is not None
    assert "memory 2 where 3 were asked for" in (cases["offer.size"].find("failure").text or "")  # type: ignore[union-attr]
    ran = await run("http://127.0.0.1:1", "--junit", "no/such/folder.xml")
    assert ran.code == 5


def test_what_a_service_says_has_no_power_over_a_terminal() -> None:
    said = ("a\x1b[2Jb\x07", "\u202eright")
    report = Report(
        "http://h", "F", "1.0", "x", (Finding("urls", Level.FAIL, said), Finding("clock", Level.NOTE, said))
    )
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text(report, 80))
    ElementTree.fromstring(junit(report))  # noqa: S314  # written by us
    assert document(report)["findings"][0]["said"] == list(said)


# ── the page about it ────────────────────────────────────────────────────────────────────────────────────────


def _normal(shown: str) -> str:
    shown = re.sub(r"127\.0\.0\.1:\d+", "HERE", shown)
    shown = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", shown)
    return re.sub(r"in \d+ s", "in N s", shown).strip()


def _transcript(number: int) -> str:
    found = re.findall(r"^```console\n\$ broker check [^\n]*\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return _normal(found[number])


async def test_the_page_shows_our_own_broker_as_it_is(home: Path, run: Run) -> None:
    example = re.search(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert example
    async with serving(home, {**yaml.safe_load(example[1]), "listen": "127.0.0.1:0"}) as url:
        ran = await run(url)
    assert _normal(ran.out) == _transcript(0)


async def test_the_page_shows_a_site_of_the_field_as_it_is(run: Run) -> None:
    async with FakeSite() as site:
        ran = await run(site.url)
    assert _normal(ran.out) == _transcript(1)


def test_the_page_names_every_check() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) \| (.*?) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [(name, check.title, check.law) for name, check in CHECKS.items()]
