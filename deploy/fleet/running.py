"""The processes of the fleet: three sites, a Redis, three replicas of one broker, and HAProxy before them.

Imports processes. Each listens on a free port of 127.0.0.1, and on the same one again when it is restarted.
"""

from __future__ import annotations

import csv
import random
import shutil
import signal
import socket
from pathlib import Path
from string import Template
from urllib.request import urlopen

from processes import DemoError, Processes, stop_all

HERE = Path(__file__).resolve().parent
REPLICAS = ("one", "two", "three")
SITES = ("alba", "borealis", "cumulus")
PORTS = range(19_000, 32_000)  # below those that the kernel hands out, so that a restart finds its port free
WANTED = {"redis-server": "redis-server", "haproxy": "haproxy"}  # command → the Debian package that brings it


class Fleet:
    """The processes, their addresses, and the folder that they write to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes = Processes(folder)
        self.places = dict[str, str]()  # what the templates of configs/ are filled with
        self.stop = self._processes.stop

    @property
    def balancer(self) -> str:
        return self.places["balancer"]

    def url(self, replica: str) -> str:
        return f"http://{self.places[replica]}"

    def start(self) -> None:
        """An empty folder; sites and Redis side by side, then the replicas, then what stands before them. Raises
        DemoError."""
        self._prepare()
        for site in SITES:
            self._serve(site, site)
        self.start_redis()
        for site in SITES:
            self.places[site] = self._processes.said(site)
        for replica in REPLICAS:
            self._launch(replica)
        for replica in REPLICAS:
            self._processes.said(replica)
        self._processes.launch("haproxy", "haproxy", "-db", "-f", str(self._fill("haproxy.cfg")))
        self._processes.when("haproxy", lambda: "all" if len(self._balanced()) == len(REPLICAS) else "")

    def kill(self, name: str) -> None:
        """As by `kill -9`: nothing is told, nothing is tidied up."""
        self._processes.end(name, signal.SIGKILL)

    def start_redis(self) -> None:
        """Returns when it has read its file, and answers."""
        self._processes.launch("redis", "redis-server", str(self._fill("redis.conf")))
        self._processes.when("redis", self._pong)

    def restart(self, replica: str) -> None:
        """As an operator does: SIGTERM, wait for its end, start, wait until the balancer sends it calls again."""
        self._processes.end(replica, signal.SIGTERM)
        self.start_replica(replica)

    def start_replica(self, replica: str) -> None:
        """Returns when the balancer sends it calls."""
        self._launch(replica)
        self._processes.said(replica)
        self._processes.when(replica, lambda: replica if replica in self._balanced() else "")

    def _prepare(self) -> None:
        stop_all(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder / "redis").mkdir(parents=True)
        balancer, redis, state, *replicas = free_ports(3 + len(REPLICAS))
        self.places = {
            "folder": str(self._folder),
            "balancer": f"http://127.0.0.1:{balancer}", "balancer_port": str(balancer),
            "redis": f"redis://127.0.0.1:{redis}/0", "redis_port": str(redis),
            "state": f"http://127.0.0.1:{state}/", "state_port": str(state),
            **{name: f"127.0.0.1:{port}" for name, port in zip(REPLICAS, replicas, strict=True)},
        }  # fmt: skip
        (self._folder / "count.py").write_text(Template((HERE / "count.py").read_text()).substitute(self.places))

    def _fill(self, name: str) -> Path:
        path = self._folder / name
        path.write_text(Template((HERE / "configs" / name).read_text()).substitute(self.places))
        return path

    def _launch(self, replica: str) -> None:
        self._serve(replica, "fleet", BROKER_LISTEN=self.places[replica])

    def _serve(self, name: str, config: str, **environment: str) -> None:
        file = self._fill(f"{config}.yaml")
        self._processes.python(name, "-m", "broker.cli.main", "serve", str(file), **environment)

    def _pong(self) -> str:
        """What Redis says to a PING, once it has read its file."""
        try:
            with socket.create_connection(("127.0.0.1", int(self.places["redis_port"])), 1.0) as redis:
                redis.sendall(b"PING\r\n")
                return "PONG" if redis.recv(64) == b"+PONG\r\n" else ""
        except OSError:
            return ""

    def _balanced(self) -> set[str]:
        """The replicas that the balancer sends calls to."""
        try:
            with urlopen(f"{self.places['state']};csv", timeout=1.0) as answer:  # noqa: S310 - our own address
                lines = csv.DictReader(answer.read().decode().removeprefix("# ").splitlines())
        except OSError:
            return set()
        return {line["svname"] for line in lines if line["svname"] in REPLICAS and line["status"] == "UP"}


def free_ports(count: int) -> list[int]:
    """Raises DemoError where there are not so many."""
    found: list[int] = []
    for port in random.sample(PORTS, 500):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise DemoError(f"{count} free ports are wanted.")


def missing() -> str:
    """What to install, in a sentence; empty: nothing."""
    left = [package for command, package in WANTED.items() if shutil.which(command) is None]
    are = "is" if len(left) == 1 else "are"
    return f"{' and '.join(left)} {are} not installed. Run: make servers." if left else ""
