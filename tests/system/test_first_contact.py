"""The first five minutes of each of three people, as docs/first-steps.md tells them: what the page shows is run.

Each section of the page is one story. Its console blocks are typed into a shell at a terminal of 80 columns, in their
order; what the page shows beneath a command is what must come out, but for times, ids and what depends on the machine.
"""

from __future__ import annotations

import functools
import http.server
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from argon2 import PasswordHasher

from broker.testing.program import START_WITHIN, Program, above

pytestmark = pytest.mark.system

PAGE = Path(__file__).parents[2] / "docs" / "first-steps.md"
STEPS = re.compile(r"^<!-- save: (\S+) -->\n```\w*\n(.*?)^```$|^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PASSWORD = "correct-horse-battery"
PATIENCE = 60.0  # seconds after which what we wait for will not come
ID = re.compile(r"(?<=\bset )[0-9a-f]{4}\b|\beach-[0-9a-f]{4}\b")
# What differs from run to run, and what stands for it, in the page as in what comes out.
FORMS = (
    (r"\x1b\[[0-9;?]*[A-Za-z]", ""),
    (r"\b\d\d:\d\d(:\d\d)?Z?\b", "<time>"),
    (r"\b(\d{1,2} (Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)|\d{4}-\d\d-\d\d)\b", "<day>"),
    (r"\b[Ss]ession [0-9a-f]{4}\b", "session <id>"),
    (r"\b(set|fetch|offers|accept|--again|watch) (each-)?[0-9a-f]{4}\b", r"\1 \2<id>"),
    (r"\bbatch each-[0-9a-f]{4}\b", "batch each-<id>"),
    (r"\bin \d+(\.\d+)? m?s\b", "in <span>"),
    (r"\b\d+ cores, \d+ GiB a run; Python [0-9.]+", "<room>"),
    (r"\bPaid [0-9.e-]+ ", "Paid <money> "),
    (r"\b(\d+ (h|min|s) ?){1,2}(early|late)|on time", "<punctual>"),
    (r"\btimes [A-Z]+\b|(?<=<time>)Z", "times <zone>"),
    (r"[ \t]+", " "),
)


@dataclass
class Step:
    """A file to be saved, or a command with what it prints."""

    command: str = ""
    output: str = ""
    file: str = ""


def steps(section: str) -> list[Step]:
    """Of the section of that name."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    found: list[Step] = []
    for file, content, console in STEPS.findall(text):
        if file:
            found.append(Step(file=file, output=content))
        for line in console.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append(Step(line[2:].rstrip("\n")))
            elif line.startswith("> "):
                found[-1].command += " " + line[2:].rstrip("\n")
            else:
                found[-1].output += line
    return found


def shape(text: str) -> str:
    # What a terminal shows of a line that was drawn again and again is its last drawing.
    lines = [line.rstrip("\r").split("\x1b[K")[-1] for line in text.strip().split("\n")]
    whole = "\n".join(lines)
    for form, name in FORMS:
        whole = re.sub(form, name, whole)
    return "\n".join(line.strip() for line in whole.splitlines())


def shown(wanted: str, found: str) -> bool:
    """A line `...` of the page stands for any lines."""
    lines = [".*\n" if line == "..." else re.escape(f"{line}\n") for line in shape(wanted).splitlines()]
    pattern = "".join(f"(?:{line})?" if line == ".*\n" else line for line in lines).replace(r"\.\.\.", ".*")
    text = shape(found)
    return re.fullmatch(pattern, f"{text}\n" if text else "", re.DOTALL) is not None


@dataclass
class Shell:
    """A person at a terminal, in a home of one's own. `places`: what the page calls something → what it is here."""

    home: Path
    places: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)

    def play(self, story: list[Step]) -> int:
        """How many commands were run. Raises AssertionError where the page shows what is not so."""
        commands = 0
        for step in story:
            if step.file:
                (self.home / step.file).write_text(self._here(step.output))
                continue
            commands += 1
            found = self._there(self.type(self._here(step.command)))
            assert shown(step.output, found), f"$ {step.command}\n{found}\n--- the page shows:\n{step.output}"
            if step.command.startswith("broker init"):  # its ports may be another program's here
                for made in self.home.glob("*.yaml"):
                    made.write_text(self._here(made.read_text()))
            # An id that the page shows is what a later command of it means.
            self.ids |= dict(zip(ID.findall(step.output), ID.findall(found), strict=False))
        return commands

    def type(self, command: str) -> str:
        if command.endswith("&"):
            return self._behind(command.removesuffix("&").strip())
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            ["bash", "-c", command], cwd=self.home, env=self._environment(), stdin=theirs, stdout=theirs,
            stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        read = bytearray()
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        try:
            while piece := self._piece(ours):
                read += piece
                if read.endswith(b": ") and b"Password" in read:
                    os.write(ours, f"{PASSWORD}\n".encode())
        finally:
            timer.cancel()
            os.close(ours)
            process.wait(PATIENCE)
        return re.sub(r"Password at [^:]*(:\d+)?: \r?\n", "", read.decode())

    @staticmethod
    def _piece(descriptor: int) -> bytes:
        try:
            return os.read(descriptor, 65536)
        except OSError:  # a terminal whose other side has closed
            return b""

    def _behind(self, command: str) -> str:
        """Started, and left running; its first line says that it listens."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.home, env=self._environment(), stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        self.running.append(process)
        assert process.stdout is not None
        timer = threading.Timer(START_WITHIN, process.kill)
        timer.start()
        line = process.stdout.readline().decode()
        timer.cancel()
        return line

    def end(self) -> None:
        for process in self.running:
            process.send_signal(signal.SIGTERM)
            with process:
                process.wait(START_WITHIN)

    def _environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        # A clock that shows about noon: what the page shows ends on the day it begins, as it does at noon.
        noon = {"TZ": f"UTC{datetime.now(UTC).hour - 12:+d}"}
        return {"HOME": str(self.home), "PATH": path, "COLUMNS": "80", "TERM": "xterm", "LANG": "C.UTF-8", **noon}

    def _here(self, text: str) -> str:
        for name, place in (self.ids | self.places).items():
            text = text.replace(name, place)
        return text

    def _there(self, text: str) -> str:
        for name, place in self.places.items():
            text = text.replace(place, name)
        return text


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "home").mkdir()
    one = Shell(tmp_path / "home")
    yield one
    one.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    """The address of an archive with one catalogue."""
    folder = tmp_path / "archive"
    folder.mkdir()
    (folder / "survey.csv").write_text("ra,flux\n" + "".join(f"{i % 360},{i % 17}\n" for i in range(20_000)))
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def federation(tmp_path: Path, archive: str) -> Iterator[Program]:
    """Two sites and a broker above them, at which ada has an account."""
    sites = {
        "alba": Program(
            tmp_path, "alba", platform={"kind": "local", "folder": str(tmp_path / "alba-jobs"), "grace": 1},
            capacity={"cores": 8, "memory": 32}, tariff={"currency": "EUR", "core_hour": 0.3},
            storages=[{"name": "ALBA", "prefixes": [archive + "/"]}],
        ),
        "borealis": Program(
            tmp_path, "borealis", platform={"kind": "local", "folder": str(tmp_path / "borealis-jobs"), "grace": 1},
            capacity={"cores": 8, "memory": 16}, tariff={"currency": "EUR", "core_hour": 0.1},
        ),
    }  # fmt: skip
    for site in sites.values():
        site.launch()
    for site in sites.values():
        site.ready()
    access = {
        "users": {"ada": {"password_hash": PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)}}
    }
    net = Program(tmp_path, "radio-net", **{**above(**sites), "access": access}).start()
    yield net
    for program in (net, *sites.values()):
        program.stop()


@pytest.fixture(autouse=True)
def jq() -> None:
    if shutil.which("jq") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("jq is missing: apt-get install jq")


def test_an_astronomer(shell: Shell, federation: Program, archive: str) -> None:
    shell.places = {"https://broker.example": federation.url, "https://data.alba.example": archive}
    assert shell.play(steps("You have something to run")) >= 8


def test_an_operator(shell: Shell) -> None:
    site, net = free_port(), free_port()
    shell.places = {"127.0.0.1:8081": f"127.0.0.1:{site}", "127.0.0.1:8080": f"127.0.0.1:{net}"}
    assert shell.play(steps("You run a site")) >= 8


def test_a_dashboard(shell: Shell, federation: Program) -> None:
    shell.places = {"https://broker.example": federation.url}
    (shell.home / ".netrc").write_text(f"machine 127.0.0.1 login ada password {PASSWORD}\n")
    assert shell.play(steps("You watch over it")) >= 3
