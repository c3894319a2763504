"""The platforms that can be shown: what each lacks here, and how a real one is started. Imports the test kit.

`start` yields the site broker's settings, `platform` among them.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from broker.testing import tes_server
from broker.testing.container_engines import IMAGE, Engine, docker, podman
from broker.testing.oidc_server import AUDIENCE, OidcServer
from broker.testing.slurm_server import SlurmServer
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
def _slurm(folder: Path) -> Iterator[Settings]:
    server = SlurmServer()
    try:
        server.start()
        jobs = str(server.shared / "jobs")  # below a folder that is open to the cluster's users
        options = {"user": "root", "key_file": str(server.key_file), "python": sys.executable}
        # Its nodes have 11 GiB together; the rest the cluster tells itself.
        yield {"platform": {"kind": "slurm", "url": server.url, "folder": jobs, **options}, "capacity": {"memory": 10}}
    finally:
        server.stop()


@contextmanager
def _engine(start: Callable[[Path], AbstractContextManager[Engine]], folder: Path) -> Iterator[Settings]:
    with start(folder) as engine:
        options = {"program": {"image": IMAGE}, "images": ["localhost"], "network": "none"}
        yield {"platform": {"kind": "containers", "url": engine.url, **options}}


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


def _missing(*servers: str, commands: tuple[str, ...] = (), root: bool = False) -> str:
    missing = [name for name in servers if not (SERVERS / name / ".made").exists()]
    missing += [command for command in commands if shutil.which(command) is None]
    return ", ".join([*missing, *(["the rights of root"] if root and os.geteuid() != 0 else [])])


PARTS: Mapping[str, Part] = {
    "local": Part("programs on this very machine", str, _local),
    "slurm": Part(
        "a Slurm cluster, by slurmrestd", partial(_missing, commands=("slurmrestd", "munged"), root=True), _slurm
    ),
    "containers": Part(
        "a container engine: Podman, by Docker's Engine API",
        partial(_missing, commands=("podman", "runc", "busybox"), root=True),
        partial(_engine, podman),
    ),
    "docker": Part(
        "a container engine: Docker",
        partial(_missing, commands=("dockerd", "runc", "busybox"), root=True),
        partial(_engine, docker),
    ),
    "wes": Part("GA4GH WES: toil, which runs CWL", partial(_missing, "toil"), _wes),
    "wes-oidc": Part(
        "GA4GH WES behind OpenID Connect: sapporo, with cwltool",
        partial(_missing, "sapporo", "oidc", commands=("jq",)),
        _wes_oidc,
    ),
    "tes": Part("GA4GH TES, at a stand-in that runs its containers as plain processes", str, _tes),
}
