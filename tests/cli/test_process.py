"""The installed command as a process of its own: at a terminal, in a pipe, interrupted."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

from broker.testing.broker import ALBA, FakeBroker, drawn_offers, run_of
from broker.testing.children import interruptible

BROKER = str(Path(sys.executable).parent / "broker")


async def start(fake: FakeBroker, *arguments: str, **more: Any) -> asyncio.subprocess.Process:
    environ = {**os.environ, "BROKER_URL": fake.url, "COLUMNS": "80", "TZ": "Europe/Berlin"}
    return await asyncio.create_subprocess_exec(BROKER, *arguments, env=environ, preexec_fn=interruptible, **more)


async def test_at_a_terminal_the_table_is_drawn_and_progress_leaves_no_trace(fake: FakeBroker, home: Path) -> None:
    (home / "fit.py").write_text("1")
    ours, theirs = pty.openpty()
    process = await start(fake, "submit", "fit.py", stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    text = await asyncio.to_thread(_drain, ours)
    assert await process.wait() == 0
    assert "* 1 alba         1.20" in text
    assert "times CET" in text
    # Each drawing of the progress begins by clearing the line; the last one only clears it.
    assert "\r\x1b[K" in text
    assert "asking the sites" not in text.split("\r\x1b[K")[-1]


def _drain(descriptor: int) -> str:
    """All that comes until the other side closes."""
    read = bytearray()
    try:
        while piece := os.read(descriptor, 65536):
            read += piece
    except OSError:  # a closed terminal reads as an I/O error on Linux
        pass
    finally:
        os.close(descriptor)
    return read.decode()


async def test_in_a_pipe_nothing_but_data_and_no_progress(fake: FakeBroker, home: Path) -> None:
    (home / "fit.py").write_text("1")
    process = await start(fake, "submit", "fit.py", stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert out.decode().splitlines()[1].split("\t")[1] == "alba"


async def test_an_interrupted_watch_leaves_the_run_alone(fake: FakeBroker) -> None:
    accepted = run_of(drawn_offers()[0])[0]
    fake.scripts[ALBA] = [accepted, accepted]
    process = await start(fake, "accept", str(ALBA), "--watch", stdout=PIPE, stderr=PIPE)
    assert process.stdout
    assert b"ACCEPTED" in await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert err.decode() == "Stopped looking. A run that was accepted goes on: broker sessions\n"
    assert [call.body["value"] for call in fake.sent("POST")] == ["ACCEPTED"]


async def test_a_wrong_configuration_is_one_line(fake: FakeBroker, home: Path) -> None:
    (home / "broker.yaml").write_text("nam: x\n")
    for command in ("check-config", "serve"):
        process = await start(fake, command, "broker.yaml", stdout=PIPE, stderr=PIPE)
        out, err = await process.communicate()
        assert (process.returncode, out, err.count(b"\n")) == (2, b"", 1)
        assert err.startswith(b"broker.yaml nam")
