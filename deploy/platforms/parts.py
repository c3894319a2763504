"""The platforms that can be shown: what each lacks here, and how a real one is started. Imports the test kit.

`start` yields the site broker's settings, `platform` among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

Settings = Mapping[str, Any]


class Part(NamedTuple):
    """`lacks`: what has to be installed first; empty: nothing."""

    about: str
    lacks: Callable[[], str]
    start: Callable[[Path], AbstractContextManager[Settings]]


@contextmanager
def _local(folder: Path) -> Iterator[Settings]:
    yield {"platform": {"kind": "local", "folder": str(folder / "jobs")}}


PARTS: Mapping[str, Part] = {
    "local": Part("programs on this very machine", str, _local),
}
