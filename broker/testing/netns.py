"""Two networks of their own, joined by one cable that can be pulled: for faults that no proxy can play.

Linux and root. A process is put into a network by the words before its command (`Network.within`), a socket of this
process by `Network.tcp`. For tests. Imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_RESOLVERS = Path("/etc/netns")


def hindrance() -> str:
    """Why no network can be made here; empty: one can."""
    if os.geteuid() != 0:
        return "not root"
    missing = [command for command in ("ip", "iptables") if shutil.which(command) is None]
    if missing:
        return f"no {', '.join(missing)} here: apt-get install iproute2 iptables"
    try:
        with ExitStack() as stack:
            _made(stack, f"try{uuid4().hex[:8]}")
    except (subprocess.CalledProcessError, OSError) as error:
        return f"ip netns may not work here: {error}"
    return ""


class Network:
    """One of the two. `address`: its end of the cable. It has a loopback of its own."""

    def __init__(self, name: str, cable: str, address: str) -> None:
        self.name, self.cable, self.address = name, cable, address

    @property
    def within(self) -> tuple[str, ...]:
        """What to write before a command, so that it runs in here, by the resolver of this network."""
        return ("ip", "netns", "exec", self.name)

    def run(self, *command: str) -> None:
        _run(*self.within, *command)

    def tcp(self) -> socket.socket:
        return self._socket(socket.SOCK_STREAM)

    def udp(self) -> socket.socket:
        return self._socket(socket.SOCK_DGRAM)

    def _socket(self, kind: socket.SocketKind) -> socket.socket:
        """A socket stays in the network in which it was made; a thread can change its network, for itself alone."""
        made: list[socket.socket] = []
        failed: list[OSError] = []

        def make() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            with (Path("/run/netns") / self.name).open("rb") as handle:
                if libc.setns(handle.fileno(), _NEW_NETWORK) != 0:
                    failed.append(OSError(ctypes.get_errno(), f"setns {self.name}"))
                    return
            made.append(socket.socket(socket.AF_INET, kind))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return made[0]

    def pull(self) -> None:
        """The cable out of this end: what is under way is lost, nothing is told to anybody."""
        self.run("ip", "link", "set", self.cable, "down")

    def plug(self) -> None:
        self.run("ip", "link", "set", self.cable, "up")

    def lose(self, share: float) -> None:
        """From now on so much of what is sent from here is lost, by chance; 0: nothing."""
        self.run("iptables", "-F", "OUTPUT")
        if share:
            chance = ("-m", "statistic", "--mode", "random", "--probability", str(share)) if share < 1 else ()
            self.run("iptables", "-A", "OUTPUT", "-o", self.cable, *chance, "-j", "DROP")


class Networks(NamedTuple):
    here: Network
    there: Network


@contextmanager
def two_networks(resolver: str | None = None, known: str = "") -> Iterator[Networks]:
    """Both are gone on leaving, with all that was set in them. `resolver`: the address that programs in `here` ask
    for names; None: this machine's. `known`: a name for `there` that they find without asking."""
    mark = uuid4().hex[:8]
    with ExitStack() as stack:
        here = Network(f"here{mark}", f"h{mark}", "10.231.0.1")
        there = Network(f"there{mark}", f"t{mark}", "10.231.0.2")
        for network in (here, there):
            _made(stack, network.name)
            network.run("ip", "link", "set", "lo", "up")
        if resolver is not None:
            folder = _RESOLVERS / here.name
            stack.callback(_remove, folder)
            folder.mkdir(parents=True)
            (folder / "resolv.conf").write_text(f"nameserver {resolver}\n")
            (folder / "hosts").write_text(f"127.0.0.1 localhost\n{there.address} {known}\n")
        here.run("ip", "link", "add", here.cable, "type", "veth", "peer", "name", there.cable, "netns", there.name)
        for network in (here, there):
            network.run("ip", "address", "add", f"{network.address}/30", "dev", network.cable)
            network.plug()
        yield Networks(here, there)


def _made(stack: ExitStack, name: str) -> None:
    _run("ip", "netns", "add", name)
    stack.callback(_run, "ip", "netns", "delete", name)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # others may have theirs beside it
        folder.parent.rmdir()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - the words are this module's and the test's
