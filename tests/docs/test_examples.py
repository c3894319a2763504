"""What the documents show in a shell is run, against two brokers, one above the other; what they show as its output
is what comes out, but for uuids, instants and addresses.

In a page, `<!-- file: NAME -->` before a block makes that file, `<!-- run -->` before a console block runs it, all
blocks of a page in one shell. A line `...` in an output stands for any lines.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from broker.testing.program import Program, above, platform

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/howto/*.md"), *ROOT.glob("deploy/*.md")])
MARKED = re.compile(r"^<!-- (run|file: \S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ALONE = re.compile(r"^    (curl .*)$", re.MULTILINE)
PUBLISHED = "https://broker.example"
PASSWORD = "correct-horse-battery"
MARK = "-- ended with"
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
_FORMS = (
    (re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uuid>"),
    (re.compile(r"--again [0-9a-f]{8}"), "--again <set>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z"), "<instant>"),
    (re.compile(r"sha256:[0-9a-f]{64}"), "<checksum>"),
)


@dataclass
class Command:
    text: str
    output: str = ""


def pages(marker: re.Pattern[str]) -> list[Any]:
    return [
        pytest.param(path, id=str(path.relative_to(ROOT)))
        for path in PAGES
        if marker.search(path.read_text(encoding="utf-8"))
    ]


def commands(block: str) -> Iterator[Command]:
    """As a console shows them: `$` begins one, `>` goes on with it, the rest is what it prints."""
    command: Command | None = None
    for line in block.splitlines(keepends=True):
        if line.startswith("$ "):
            if command:
                yield command
            command = Command(line[2:])
        elif command is None:
            raise AssertionError(f"a block to be run begins with a command, not {line!r}")
        elif line.startswith("> ") and not command.output:
            command.text += line[2:]
        else:
            command.output += line
    if command:
        yield command


def shape(text: str) -> str:
    for form, name in _FORMS:
        text = form.sub(name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def shown(expected: str, found: str) -> bool:
    wanted = re.escape(shape(expected)).replace(r"\.\.\.", ".*")
    return re.fullmatch(wanted, shape(found), re.DOTALL) is not None


class Shell:
    """Runs a page's commands in one shell, in a home of its own."""

    def __init__(self, home: Path, broker: Program) -> None:
        self._home, self._url = home, broker.url
        for name, user in ((".netrc", "ada"), (".netrc-admin", "root")):
            (home / name).write_text(f"machine 127.0.0.1 login {user} password {PASSWORD}\n")

    def write(self, name: str, text: str) -> None:
        (self._home / name).write_text(text)

    def run(self, given: list[Command]) -> list[str]:
        """What each printed, on either stream. Every command must end well."""
        script = "".join(f'{command.text}\nprintf "\\n{MARK} %d\\n" $?\n' for command in given)
        (self._home / "script").write_text(script.replace(PUBLISHED, self._url))
        ran = subprocess.run(
            ["bash", "script"],
            cwd=self._home,
            env={
                "HOME": str(self._home),
                "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
                "BROKER_URL": self._url,
                "BROKER_USER": "ada",
                "BROKER_PASSWORD": PASSWORD,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=90,
        )
        parts = re.split(rf"\n{MARK} (\d+)\n", ran.stdout.decode().replace(self._url, PUBLISHED))
        outputs, codes = parts[0:-1:2], parts[1::2]
        assert codes == ["0"] * len(given), ran.stdout.decode()
        return outputs


def check(page: str, shell: Shell) -> int:
    """How many commands were run. Raises AssertionError where a page shows what is not so."""
    given: list[Command] = []
    for what, block in MARKED.findall(page):
        if what == "run":
            given += commands(block)
        else:
            shell.write(what.removeprefix("file: "), block)
    for command, found in zip(given, shell.run(given), strict=True):
        assert shown(command.output, found), f"$ {command.text}\nshown:\n{command.output}\nfound:\n{found}"
    return len(given)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("world")
    site = Program(folder, "alba", **platform(folder / "jobs")).start()
    hashed = _CHEAP.hash(PASSWORD)
    users = {
        "ada": {"password_hash": hashed},
        "root": {"password_hash": hashed, "roles": ["administrator"]},
    }
    top = Program(folder, "federation", **{**above(alba=site), "access": {"users": users}}).start()
    yield top
    for program in (top, site):
        program.kill()


@pytest.fixture
def shell(curl: None, broker: Program, tmp_path: Path) -> Shell:
    return Shell(tmp_path, broker)


@pytest.mark.parametrize("page", pages(MARKED))
def test_what_a_page_shows_is_so(page: Path, shell: Shell) -> None:
    assert check(page.read_text(encoding="utf-8"), shell) > 0


@pytest.mark.parametrize("page", pages(ALONE))
def test_every_other_call_of_curl_is_answered(page: Path, shell: Shell) -> None:
    calls = ALONE.findall(page.read_text(encoding="utf-8"))
    given = [Command(call.replace("curl -u ada ", f"curl -u ada:{PASSWORD} ") + " -fsS\n") for call in calls]
    assert len(shell.run(given)) == len(calls)


def test_there_are_pages_to_run() -> None:
    assert {param.id for param in pages(MARKED)} >= {"docs/clients.md"}


@pytest.mark.parametrize(
    "page",
    [
        "<!-- run -->\n```console\n$ echo one\ntwo\n```\n",
        "<!-- run -->\n```console\n$ echo one\n```\n",
        "<!-- run -->\n```console\n$ false\n```\n",
        "<!-- run -->\n```console\n$ true\nsomething\n```\n",
        "<!-- run -->\n```console\none\n```\n",
        "<!-- file: a -->\n```json\n1\n```\n\n<!-- run -->\n```console\n$ cat a\n2\n```\n",
    ],
)
def test_a_page_that_is_not_so_is_found(page: str, shell: Shell) -> None:
    with pytest.raises(AssertionError):
        check(page, shell)


def test_a_page_that_is_so_passes(shell: Shell) -> None:
    page = "<!-- run -->\n```console\n$ for n in 1 2 3; do\n> echo $n\n> done\n1\n...\n3\n$ a=1\n$ echo $a\n1\n```\n"
    assert check(page, shell) == 3
