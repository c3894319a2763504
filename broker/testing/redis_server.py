"""Real Redis servers on the loopback, for tests: one, a master with its replica under Sentinels, or a Cluster.

Imports `children`. Wants `redis-server` and `redis-cli` 7 (Debian: redis-server). Everything here blocks, like
`broker.testing.program`, and every wait is bounded. No server outlives the process that started it, however it ends.
"""

from __future__ import annotations

import signal
import subprocess
from functools import partial
from pathlib import Path

from broker.testing.children import READY_WITHIN, free_port, launch, wait_for

ANSWER_WITHIN = 5.0  # seconds, for one command
MASTER = "m"  # what the Sentinels call their master
SLOTS = 16_384
REPLICATION = ("--repl-diskless-sync", "no")  # else a replica that follows is sent nothing for another second


class RedisServer:
    """One server that listens on 127.0.0.1 alone, on a free port at first and on the same one from then on. It keeps
    an append-only file in `folder`, so that a restart finds what was written; `options` are redis-server's own, such
    as `"--appendfsync", "always"`, and win over those set here."""

    def __init__(self, folder: Path, *options: str, password: str | None = None, name: str = "redis") -> None:
        self.folder, self.name, self.password, self.port = folder / name, name, password, 0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}{self.address}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def running(self) -> bool:
        """Also while paused."""
        return self._process is not None and self._process.poll() is None

    def start(self, *options: str) -> RedisServer:
        """Returns when it answers, with all it had loaded. `options` are for this start alone."""
        assert not self.running, f"{self.name} runs already"
        for _ in range(5):
            found = self.port or free_port()
            self._launch(found, options)
            wait_for(partial(self._up_or_gone, found), f"{self.name} is up", self._tail)
            if self.running:
                self.port = found
                return self
            assert not self.port, f"{self.name} did not start again\n{self._tail()}"
        raise AssertionError(f"{self.name} did not start\n{self._tail()}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Idempotent."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: it writes out its file first. Idempotent."""
        self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT. Idempotent."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def cli(self, *words: str) -> str:
        """One command by redis-cli, and what that prints into a pipe, errors included; empty where no answer came."""
        return self._cli(self.port, *words)

    def info(self, field: str) -> str:
        """One field of INFO; empty: there is none, or no answer."""
        lines = (line.partition(":") for line in self.cli("INFO").splitlines())
        return next((value for key, _, value in lines if key == field), "")

    def _command(self, port: int) -> list[str]:
        """What is run, without the options."""
        return ["redis-server", "--port", str(port), "--save", "", "--appendonly", "yes"]

    def _launch(self, port: int, options: tuple[str, ...]) -> None:
        command = [*self._command(port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--requirepass", self.password] if self.password else []
        self._process = launch([*command, *self._options, *options], self.log)

    def _up_or_gone(self, port: int) -> bool:
        return not self.running or self._cli(port, "PING") == "PONG"

    def _cli(self, port: int, *words: str) -> str:
        secret = ["-a", self.password, "--no-auth-warning"] if self.password else []
        command = ["redis-cli", "-h", "127.0.0.1", "-p", str(port), *secret, *words]
        try:
            told = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_WITHIN, check=False)  # noqa: S603 - ours
        except subprocess.TimeoutExpired:
            return ""
        return told.stdout.rstrip("\n")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)  # one that is paused would not hear a SIGTERM
        with process:
            process.wait(READY_WITHIN)

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]


class _Sentinel(RedisServer):
    """Keeps its state in its settings file, which it writes itself."""

    def __init__(self, folder: Path, name: str, master: RedisServer, down_after: int) -> None:
        super().__init__(folder, name=name)
        self._settings = (
            f"sentinel monitor {MASTER} 127.0.0.1 {master.port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} {down_after}\n"
            f"sentinel failover-timeout {MASTER} 2000\n"
        )

    def _command(self, port: int) -> list[str]:
        file = self.folder / "sentinel.conf"
        if not file.exists():
            file.write_text(self._settings)
        return ["redis-server", str(file), "--sentinel", "--port", str(port)]

    def start(self, *options: str) -> RedisServer:
        super().start(*options)
        # What takes 10 s and 2 s otherwise: seeing a replica, and seeing each other. The period of its pings stays:
        # a replica that was not heard of for five of them is no good replica, and in need it is asked once a second.
        self.cli("SENTINEL", "DEBUG", "INFO-PERIOD", "300", "PUBLISH-PERIOD", "200")
        return self

    def knows(self, field: str, of: str = "MASTER") -> str:
        """A field of what it knows of the master, or of its one replica (`REPLICAS`)."""
        words = self.cli("SENTINEL", of, MASTER).splitlines()
        return dict(zip(words[::2], words[1::2], strict=False)).get(field, "")

    def ready(self) -> bool:
        """Whether it knows two others, a master that is up and a replica of it that could take over."""
        others, flags = self.knows("num-other-sentinels"), self.knows("flags")
        replica, link = self.knows("flags", "REPLICAS"), self.knows("master-link-status", "REPLICAS")
        return (others, flags, replica, link) == ("2", "master", "slave", "ok")


class Sentinels:
    """A master and its replica, watched by three Sentinels. `options` are those of the two servers."""

    def __init__(self, folder: Path, *options: str, down_after: int = 500) -> None:
        """`down_after`: milliseconds without an answer until the first Sentinel takes a server for down."""
        self._folder, self._down_after = folder, down_after
        self.servers = [RedisServer(folder, *REPLICATION, *options, name=f"server-{n}") for n in range(2)]
        self.sentinels: list[_Sentinel] = []

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(at.address for at in self.sentinels)}/{MASTER}"

    def start(self) -> Sentinels:
        """Returns when the replica follows and the Sentinels know of it and of each other."""
        first, second = self.servers
        first.start()
        second.start("--replicaof", "127.0.0.1", str(first.port))
        self._wait_linked(second)
        for n in range(3):
            # Three that see it at the same instant split their votes, and try again seconds later.
            self.sentinels.append(_Sentinel(self._folder, f"sentinel-{n}", first, self._down_after + 250 * n))
            self.sentinels[-1].start()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Returns when all Sentinels that run see what a failover needs."""
        wait_for(lambda: all(at.ready() for at in self.sentinels if at.running), "a failover could be", self._tails)

    def master(self) -> RedisServer:
        """The one that the first living Sentinel names."""
        named = self._named()
        return next(server for server in self.servers if server.port == named)

    def replica(self) -> RedisServer:
        """The other one, alive or not."""
        named = self._named()
        return next(server for server in self.servers if server.port != named)

    def kill_master(self) -> RedisServer:
        """SIGKILL. Returns the dead one, at once; `wait_failover` waits for the other to take over."""
        server = self.master()
        server.kill()
        return server

    def wait_failover(self, old: RedisServer) -> RedisServer:
        """Returns the new master when all Sentinels that run name one other than `old`, and it takes writes."""

        def over() -> bool:
            seen = [(at.knows("port") != str(old.port), at.knows("flags")) for at in self.sentinels if at.running]
            return set(seen) == {(True, "master")} and self.master().info("role") == "master"

        wait_for(over, "a failover", self._tails)
        return self.master()

    def rejoin(self, old: RedisServer) -> None:
        """Start a killed server as the replica of the present master. Returns when it has all that that one has."""
        old.start("--replicaof", "127.0.0.1", str(self.master().port))
        self._wait_linked(old)
        self.wait_ready()

    def stop(self) -> None:
        """Kill all that runs. Idempotent."""
        for server in (*self.sentinels, *self.servers):
            server.kill()

    def _named(self) -> int:
        living = next(at for at in self.sentinels if at.running)
        return int(living.knows("port") or 0)

    def _wait_linked(self, server: RedisServer) -> None:
        wait_for(lambda: server.info("master_link_status") == "up", f"{server.name} follows", self._tails)

    def _tails(self) -> str:
        return "\n".join(f"── {at.name}\n{at._tail()}" for at in (*self.servers, *self.sentinels))


class Cluster:
    """Three masters with a replica each. A slot whose servers are gone does not stop the others."""

    def __init__(self, folder: Path, *options: str, masters: int = 3, replicas: int = 1) -> None:
        settings = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", *REPLICATION]
        settings += ["--cluster-require-full-coverage", "no", "--cluster-allow-replica-migration", "no"]
        self._masters = masters
        self.servers = [_Node(folder, *settings, *options, name=f"node-{n}") for n in range(masters * (1 + replicas))]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(server.address for server in self.servers)}"

    def start(self) -> Cluster:
        """Returns when every slot is served and every replica follows."""
        for n, server in enumerate(self.servers):
            server.start()
            server.cli("CLUSTER", "SET-CONFIG-EPOCH", str(n + 1))
        for n, server in enumerate(self.servers[: self._masters]):
            first, last = SLOTS * n // self._masters, SLOTS * (n + 1) // self._masters - 1
            server.cli("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        for server in self.servers[1:]:
            self.servers[0].cli("CLUSTER", "MEET", "127.0.0.1", str(server.port), str(server.bus))
        wait_for(self._all_met, "the nodes know each other", self._tails)
        for n, server in enumerate(self.servers[self._masters :]):
            server.cli("CLUSTER", "REPLICATE", self.servers[n % self._masters].cli("CLUSTER", "MYID"))
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Returns when all that run agree that every slot is served, and every replica among them follows."""

        def ready() -> bool:
            living = [server for server in self.servers if server.running]
            return all(self._whole(server) for server in living)

        wait_for(ready, "the Cluster is whole", self._tails)

    def masters(self) -> list[RedisServer]:
        """Those that run and hold slots."""
        return [server for server in self.servers if server.running and server.info("role") == "master"]

    def master_of(self, key: str) -> RedisServer:
        """The one that serves the key, by the word of any node that runs."""
        asked = next(server for server in self.servers if server.running)
        slot = int(asked.cli("CLUSTER", "KEYSLOT", key))
        for line in asked.cli("CLUSTER", "NODES").splitlines():
            _, address, flags, _, _, _, _, _, *ranges = line.split()
            port = int(address.partition("@")[0].rpartition(":")[2])
            if "master" in flags and "fail" not in flags and any(_within(slot, at) for at in ranges):
                return next(server for server in self.servers if server.port == port)
        raise LookupError(f"no master serves slot {slot}")

    def replica_of(self, master: RedisServer) -> RedisServer:
        """A server that runs and follows that one."""
        return next(
            server for server in self.servers if server.running and server.info("master_port") == str(master.port)
        )

    def stop(self) -> None:
        """Kill all that runs. Idempotent."""
        for server in self.servers:
            server.kill()

    def _all_met(self) -> bool:
        return all(
            server.cli("CLUSTER", "NODES").count(" connected") == len(self.servers)
            and "handshake" not in server.cli("CLUSTER", "NODES")
            for server in self.servers
        )

    def _whole(self, server: RedisServer) -> bool:
        state = dict(line.partition(":")[::2] for line in server.cli("CLUSTER", "INFO").splitlines())
        if (state.get("cluster_state"), state.get("cluster_slots_ok")) != ("ok", str(SLOTS)):
            return False
        roles = [line.split()[2] for line in server.cli("CLUSTER", "NODES").splitlines()]
        masters = sum("master" in flags and "fail" not in flags for flags in roles)
        return masters == self._masters and server.info("master_link_status") in ("", "up")

    def _tails(self) -> str:
        return "\n".join(f"── {server.name}\n{server._tail()}" for server in self.servers)


class _Node(RedisServer):
    """One of a Cluster. Its nodes talk among themselves on `bus`."""

    bus = 0

    def _command(self, port: int) -> list[str]:
        if port != self.port:
            self.bus = free_port()
        return [*super()._command(port), "--cluster-port", str(self.bus)]


def _within(slot: int, ranges: str) -> bool:
    """Whether a slot is in `7` or `7-9`; a slot on its way elsewhere is written otherwise, and in neither."""
    first, _, last = ranges.partition("-")
    return first.isdigit() and int(first) <= slot <= int(last or first)
