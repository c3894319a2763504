"""The platforms that can be shown: what each lacks here, and how a real one is started. Imports the test kit.

`start` yields the site broker's settings, `platform` among them.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from broker.testing import tes_server
from broker.testing.oidc_server import AUDIENCE, OidcServer
from broker.testing.wes_servers import SapporoServer, ToilServer

SERVERS = Path(sys.prefix) / "servers"  # where `make servers` puts what is no package of the system

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
def _wes(folder: Path) -> Iterator[Settings]:
    with ToilServer(SERVERS / "toil" / "bin", folder) as server:
        yield {"platform": {"kind": "wes", "url": server.url, "program": {}, "outputs": [str(folder)]}}


@contextmanager
def _wes_oidc(folder: Path) -> Iterator[Settings]:
    programs = SERVERS / "sapporo" / "bin"
    with (
        OidcServer(SERVERS / "oidc", folder / "oidc") as signing,
        SapporoServer(programs, folder / "wes", issuer=signing.issuer, audience=AUDIENCE) as server,
    ):
        yield {"platform": {"kind": "wes", "url": server.url, "program": {}, "token": signing.options()}}


@contextmanager
def _tes(folder: Path) -> Iterator[Settings]:
    with tes_server.serving(folder / "server") as url:
        outputs = {"place": (folder / "outputs").as_uri()}
        yield {"platform": {"kind": "tes", "url": url, "program": {"image": tes_server.IMAGE}, "outputs": outputs}}


def _missing(*servers: str, command: str = "") -> str:
    missing = [name for name in servers if not (SERVERS / name / ".made").exists()]
    return ", ".join([*missing, *([command] if command and shutil.which(command) is None else [])])


PARTS: Mapping[str, Part] = {
    "local": Part("programs on this very machine", str, _local),
    "wes": Part("GA4GH WES: toil, which runs CWL", partial(_missing, "toil"), _wes),
    "wes-oidc": Part(
        "GA4GH WES behind OpenID Connect: sapporo, with cwltool",
        partial(_missing, "sapporo", "oidc", command="jq"),
        _wes_oidc,
    ),
    "tes": Part("GA4GH TES, at a stand-in that runs its containers as plain processes", str, _tes),
}
