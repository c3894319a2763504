"""A demo on a terminal: its command line, the commands that it runs as a person would, and how it ends.

Imports the command line of the broker, and processes.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from processes import DemoError, stop_all

from broker.cli.desk import INTERRUPTED, Desk
from broker.cli.main import main as broker
from broker.cli.memory import Memory
from broker.cli.screen import Screen
from broker.errors import BrokerError


def say(text: str = "") -> None:
    print(text, flush=True)


class Terminal:
    """Runs the commands of the broker. `places`: words in them, as they are shown → what they stand for."""

    def __init__(self, folder: Path, places: Mapping[str, str]) -> None:
        width = min(100, shutil.get_terminal_size((80, 24)).columns)
        drawn = sys.stderr.isatty()
        self._desk = Desk(Screen(sys.stdout, sys.stderr, True, width, drawn), Memory(folder / "memory.json"))
        self._places = places

    def command(self, *arguments: str) -> None:
        """Run it, and show it as it would be typed. Raises DemoError when it fails."""
        say(f"$ broker {' '.join(arguments)}")
        code = broker([self._places.get(word, word) for word in arguments], self._desk)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise DemoError(f"`broker {' '.join(arguments)}` ended with {code}")
        say()


def main(name: str, what: str, folder: Path, demo: Callable[[Path, bool], None]) -> int:
    """Run `demo` in a folder, `folder` unless another is named, or stop what was kept there. Returns the exit code."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--keep", action="store_true", help="leave all running")
    parser.add_argument("--stop", action="store_true", help="stop what was kept")
    parser.add_argument("--folder", type=Path, default=folder, help="made anew each time")
    given = parser.parse_args()
    folder = given.folder.resolve()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupted)
    try:
        if given.stop:
            say(f"{stop_all(folder)} processes ended")
        else:
            demo(folder, given.keep)
    except KeyboardInterrupt:
        say("\nInterrupted; all that was started is stopped.")
        return INTERRUPTED
    except (DemoError, BrokerError, OSError) as error:
        sys.stderr.write(f"{name}: {error} What was written is in {folder}\n")
        return 1
    return 0


def _interrupted(number: int, frame: object) -> None:
    raise KeyboardInterrupt
