"""One table of targets: asked together, accepted together, asked again where it failed; and a set asked once more.

The broker is a real process with a real platform, so that runs fail and succeed by what they do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.client import Broker, Unreachable
from broker.testing.program import Program, platform

FIT = """
import os, sys
os.makedirs("results", exist_ok=True)
with open("results/flux.txt", "w") as file:
    file.write(sys.argv[1])
sys.exit(3 if sys.argv[1] == "m51" and not os.path.exists(sys.argv[2]) else 0)
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("batch")
    running = Program(folder, "alba", **platform(folder / "jobs")).start()
    yield running
    running.stop()


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Program]:
    """One open set is all that a user may have there, or one batch."""
    settings = {**platform(tmp_path / "jobs"), "policies": {"quotas": {"offers": 1}}}
    running = Program(tmp_path, "alba", **settings).start()
    yield running
    running.stop()


@pytest.fixture
def gate(home: Path) -> Path:
    """While it is not there, the fit of m51 fails."""
    (home / "fit.py").write_text(FIT)
    (home / "targets.csv").write_text("target,z\nm31,0.1\nm51,0.2\nm87,0.3\n")
    return home / "gate"


@pytest.fixture
def ask(run: Any, program: Program, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("BROKER_URL", program.url)
    return run


def open_(gate: Path) -> None:
    gate.touch()


def columns(text: str, *names: str) -> list[tuple[str, ...]]:
    heads, *rows = (line.split("\t") for line in text.splitlines())
    return [tuple(row[heads.index(name)] for name in names) for row in rows]


def handle(home: Path) -> str:
    """Of the one batch that the memory holds."""
    (found,) = (home / "state" / "batches").glob("*.json")
    return f"each-{found.name[:4]}"


async def test_a_table_becomes_one_question_one_acceptance_and_one_repetition(
    ask: Any, home: Path, gate: Path, strict: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", strict.url)
    fit = ("submit", "fit.py", "--arg", "{target}", "--arg", str(gate), "--for", "2m", "--each", "targets.csv")
    asked = await ask(*fit)
    assert (asked.code, asked.err) == (0, "")
    assert columns(asked.out, "run", "state", "site", "currency") == [
        (f"fit-{target}", "OFFERED", "alba", "EUR") for target in ("m31", "m51", "m87")
    ]
    drawn = (await ask("offers", handle(home), tty=True)).out
    assert drawn.splitlines()[0].startswith("3 runs: 3 OFFERED")
    assert drawn.splitlines()[0].endswith(f"batch {handle(home)}")
    assert "Together: 0.10 EUR" in drawn
    assert f"broker accept {handle(home)} takes the best offer of each" in drawn

    taken = await ask("accept", handle(home), "--watch", tty=True)
    assert taken.code == 1
    assert "3 runs: 2 COMPLETED, 1 FAILED" in taken.out
    assert "fit-m51  program ended with exit code 3" in taken.out

    open_(gate)
    again = await ask("submit", "--again", handle(home), "--accept", "best", "--max-price", "1", "--watch")
    assert again.code == 0
    assert [state for (state,) in columns(again.out[again.out.index("run\t") :], "state")] == ["COMPLETED"] * 3
    rest = await ask("submit", "--again", handle(home))
    assert (rest.code, rest.err) == (0, f"{handle(home)}: nothing failed, so nothing is asked again.\n")
    assert (await ask("fetch", handle(home))).code == 0
    assert (home / "results" / "fit-m87" / "flux.txt").read_text() == "m87"


async def test_a_batch_spends_nothing_unseen(ask: Any, home: Path, gate: Path) -> None:
    fit = ("submit", "fit.py", "--arg", "{target}", "--arg", str(gate), "--each", "targets.csv", "--accept", "best")
    ran = await ask(*fit)
    assert (ran.code, "no ceiling stands" in ran.err) == (2, True)
    ran = await ask(*fit, "--max-price", "0.01")
    assert ran.code == 3, "the ceiling leaves every offer out"
    states = columns((await ask("sessions")).out, "name", "phase")
    assert [phase for name, phase in states if phase not in ("COMPLETED", "FAILED")] == []


async def test_a_batch_shows_what_it_would_send(ask: Any, home: Path, gate: Path) -> None:
    ran = await ask("submit", "fit.py", "--arg", "{target}", "--each", "targets.csv", "--show")
    shown = json.loads(ran.out)
    assert [request["executable"]["arguments"] for request in shown] == [["m31"], ["m51"], ["m87"]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("submit",), "a file is wanted, or --again and a set. Write: broker submit FILE\n"),
        (("submit", "x.py", "--again", "7f3a"), "a file is wanted, or --again and a set. Write: broker submit FILE\n"),
        (("submit", "fit.py", "--each", "targets.csv"),
         "row 1: no column of the table stands in the request. There are: {target}, {z}.\n"),
        (("submit", "fit.py", "--each", "nowhere.csv"), "nowhere.csv: No such file or directory.\n"),
        (("submit", "--again", "each-3c1f", "--cores", "2"),
         "a batch is asked again as it was. For a change, submit its file anew.\n"),
        (("submit", "--again", "each-3c1f"),
         "no batch each-3c1f is known on this machine. Its runs are: broker sessions\n"),
        (("cancel", "each-3c1f"), "each-3c1f is a batch. Name one of its runs: broker sessions\n"),
        (("submit", "fit.py", "--arg", "{z}", "--each", "targets.csv", "--accept", "2"),
         '"2": of a batch the best are taken. Write --accept best.\n'),
    ],
)  # fmt: skip
async def test_a_slip_is_one_line(ask: Any, gate: Path, arguments: tuple[str, ...], line: str) -> None:
    ran = await ask(*arguments)
    assert (ran.code, ran.err) == (2, line)


async def test_without_a_broker_a_batch_says_so_once(ask: Any, gate: Path, unused_tcp_port: int) -> None:
    nowhere = f"http://127.0.0.1:{unused_tcp_port}"
    ran = await ask("--url", nowhere, "submit", "fit.py", "--arg", "{target}", "--each", "targets.csv")
    assert (ran.code, ran.err.count("\n")) == (5, 1)
    with pytest.raises(Unreachable):
        await Broker(nowhere).submit_each("fit.py", [{"t": "1"}, {"t": "2"}], arguments=["{t}"])


async def test_a_set_is_asked_once_more_as_it_was_or_changed(ask: Any, home: Path, gate: Path) -> None:
    first = await ask("submit", "fit.py", "--arg", "m31", "--arg", "x", "--json", "--for", "3m")
    uuid = json.loads(first.out)["meta"]["uuid"]
    await ask("reject", f"{uuid[:8]}/1")
    (home / "fit.py").unlink()
    shown = json.loads((await ask("submit", "--again", uuid[:8], "--show", "--site", "alba", "--cores", "2")).out)
    assert shown["executable"]["arguments"] == ["m31", "x"]
    assert (shown["compute"]["cores"], shown["preferences"]["sites_allowed"]) == ({"min": 2}, ["alba"])
    again = await ask("submit", "--again", uuid[:8], "--site", "alba")
    assert (again.code, columns(again.out, "site")) == (0, [("alba",)])
    nobody = await ask("submit", "--again", uuid, "--site", "elsewhere", tty=True)
    assert nobody.code == 3
    assert "not among the sites you allow" in nobody.out


async def test_in_a_program_too(program: Program, home: Path, gate: Path) -> None:
    open_(gate)
    async with Broker(program.url) as broker:
        rows = [{"target": "m31"}, {"target": "m51"}]
        batch = await broker.submit_each("fit.py", rows, arguments=["{target}", str(gate)], duration="2m")
        assert [member.state for member in batch] == ["OFFERED", "OFFERED"]
        await (await batch.accept()).finished(poll=(0.05, 0.2))
        assert repr(batch).endswith("2 COMPLETED)")
        assert batch.failed == []
