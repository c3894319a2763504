"""The platforms that can be shown: what each lacks here, and how a real one is started. Imports the test kit.

`start` yields the site broker's settings, `platform` among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from broker.testing import tes_server

Settings = Mapping[str, Any]


class Part(NamedTuple):
    """`lacks`: what has to be installed first; empty: nothing."""

    about: str
    lacks: Callable[[], str]
    start: Callable[[Path], AbstractContextManager[Settings]]


@contextmanager
def _local(folder: Path) -> Iterator[Settings]:
    yield {"platform": {"kind": "local", "folder": str(folder / "jobs")}}


@contextmanager
def _tes(folder: Path) -> Iterator[Settings]:
    with tes_server.serving(folder / "server") as url:
        program, outputs = {"image": tes_server.IMAGE}, {"place": (folder / "outputs").as_uri()}
        yield {"platform": {"kind": "tes", "url": url, "program": program, "outputs": outputs}}


PARTS: Mapping[str, Part] = {
    "local": Part("programs on this very machine", str, _local),
    "tes": Part("containers by GA4GH TES, at a stand-in that runs them as plain processes", str, _tes),
}
