"""A real Slurm on the loopback, with slurmrestd, for tests: up in two seconds. Wants root, and Debian's slurm-wlm,
slurmrestd, munge and slurm-wlm-jwt-plugin.

Imports `children`. Everything here blocks, and every wait is bounded. Several nodes are one machine: each has a slurmd
of its own, and as many cores and as much memory as it says it has.

    n1   4 cores, 8000 MiB, two accelerators that nothing stands behind     partitions main, short
    n2   2 cores, 3000 MiB, the feature `old`                               partitions main, short
    n3   1 core, 2000 MiB                                                   partition aside, for what takes its time
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from typing import Any

from broker.testing import children
from broker.testing.children import wait_for

API = "v0.0.38"
ANSWER_WITHIN = 30.0
TRIES = 3  # of finding ports that stay free until they are taken

_SETTINGS = """
ClusterName={prefix}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={slurmctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
AuthAltTypes=auth/jwt
AuthAltParameters={keys}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
KillWait=2
MinJobAge={remembers}
MpiDefault=none
PropagateResourceLimits=NONE
ProctrackType={proctrack}
TaskPlugin={task}
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmctldTimeout=30
SlurmdTimeout=30
SlurmdParameters=config_overrides
SwitchType=switch/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName={prefix}1 NodeAddr=127.0.0.1 NodeHostname=localhost Port={port1} CPUs=4 RealMemory=8000 Gres=gpu:2
NodeName={prefix}2 NodeAddr=127.0.0.1 NodeHostname=localhost Port={port2} CPUs=2 RealMemory=3000 Feature=old
NodeName={prefix}3 NodeAddr=127.0.0.1 NodeHostname=localhost Port={port3} CPUs=1 RealMemory=2000
PartitionName=main Nodes={prefix}[1-2] Default=YES MaxTime=03:00:00 State=UP
PartitionName=short Nodes={prefix}[1-2] MaxTime=00:02:00 State=UP
PartitionName=aside Nodes={prefix}3 MaxTime=INFINITE State=UP
"""

_CGROUPS = """
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
CgroupAutomount=no
ConstrainRAMSpace=yes
ConstrainSwapSpace=yes
AllowedSwapSpace=0
ConstrainCores=no
"""


class SlurmServer:
    """A cluster. `folder` is traversable by all accounts; `shared` in it is what nodes and broker share."""

    def __init__(self, *, remembers: int = 300, cgroups: bool = False, jwks: str = "") -> None:
        """`remembers`: seconds for which slurmctld knows a job that has ended. `cgroups`: Slurm bounds the memory of
        jobs. `jwks`: a file of public keys, by which tokens are taken as well."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets want short paths
        self.folder.chmod(0o755)
        self.prefix = f"n{secrets.token_hex(3)}-"  # cgroups are named by it, and others may run here too
        self.port = children.free_port()
        self.key_file = self.folder / "jwt.key"
        self.shared = self.folder / "shared"
        self._remembers, self._cgroups, self._jwks = remembers, cgroups, jwks
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = [children.free_port() for _ in range(4)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def nodes(self) -> tuple[str, str, str]:
        return f"{self.prefix}1", f"{self.prefix}2", f"{self.prefix}3"

    def start(self) -> SlurmServer:
        """Returns when all nodes are idle and slurmrestd answers. Others may take a port that was free a moment ago:
        then it begins again on other ports."""
        for more in range(TRIES - 1, -1, -1):
            try:
                self._start()
            except AssertionError as error:
                if not more or "Address already in use" not in str(error):
                    raise
                self._end()
                self.port, *self._ports = (children.free_port() for _ in range(5))
            else:
                break
        return self

    def _start(self) -> None:
        self._configure()
        munge = self.folder / "munge"
        names = ("socket", "pid-file", "log-file", "seed-file")
        files = [f"--{name}={munge}/{name.partition('-')[0]}" for name in names]
        self._launch("munged", "munged", "--foreground", "--force", f"--key-file={munge}/key", *files)
        wait_for((munge / "socket").exists, "munged is up", self._tail)
        self.start_slurmctld()
        for node in self.nodes:
            self.start_slurmd(node)
        at = f"127.0.0.1:{self.port}"
        self._launch("slurmrestd", "slurmrestd", "-a", "rest_auth/jwt", "-s", f"openapi/{API}", at)
        self.wait_idle()

    def stop(self) -> None:
        """Idempotent. Nothing of it lives afterwards."""
        self._end()
        self._kill_left()
        for place in (Path("/sys/fs/cgroup/freezer"), Path("/sys/fs/cgroup/memory")):
            for node in self.nodes:
                _remove_cgroup(place / f"slurm_{node}")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self) -> None:
        for name in reversed(list(self._processes)):
            children.end(self._processes.pop(name))

    # ── its parts ────────────────────────────────────────────────────────────────────────────────────────────

    def start_slurmctld(self) -> None:
        """Returns when it takes connections: slurmrestd waits for nine seconds before it tries again."""
        self._launch("slurmctld", "slurmctld", "-D")
        wait_for(lambda: self._lives() and children.listens(self._ports[0]), "slurmctld listens", self._tail)

    def start_slurmd(self, node: str) -> None:
        self._launch(node, "slurmd", "-D", "-N", node)

    def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        """`slurmctld`, `slurmrestd`, or a node, of which the slurmd is killed and not the jobs."""
        process = self._processes.pop(part)
        process.send_signal(number)
        process.wait(ANSWER_WITHIN)

    def fail(self, node: str) -> None:
        """The node goes with all that runs on it, as when the power is cut."""
        self.kill(node)
        self._kill_left(node)

    def control(self, *words: str) -> str:
        """scontrol."""
        done = subprocess.run(  # noqa: S603  a program of Slurm's
            ["scontrol", *words],  # noqa: S607
            env=self._environment(),
            capture_output=True,
            timeout=ANSWER_WITHIN,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
        return done.stdout.decode()

    def wait_idle(self) -> None:
        """Returns when all nodes can be had."""
        wait_for(self._up, "Slurm is up", self._tail)

    def wait_saved(self) -> None:
        """Returns when slurmctld has written down what it knows now. It does so within some seconds; what it had no
        time to write, it has forgotten when it comes back."""
        since, file = time.time(), self.folder / "state" / "job_state"
        wait_for(lambda: file.exists() and file.stat().st_mtime > since, "slurmctld has saved its state", self._tail)

    def forget(self, seconds: int) -> None:
        """From now on it knows jobs that have ended no longer than that."""
        self._remembers = seconds
        self._configure()
        self.control("reconfigure")

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    def token(self, user: str = "root", seconds: float = 600.0) -> str:
        """As `scontrol token` makes it."""
        claims = {"sun": user, "iat": int(time.time()) - 60, "exp": int(time.time() + seconds)}
        head = ".".join(_plain(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
        return f"{head}.{_plain(hmac.digest(self.key_file.read_bytes(), head.encode(), hashlib.sha256))}"

    def call(self, method: str, path: str, body: Any = None, user: str = "root") -> dict[str, Any]:
        """As somebody else would call it. AssertionError with what it says, where it does not do it."""
        headers = {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": self.token(user)}
        headers["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310  our own server
            f"{self.url}/slurm/{API}/{path}", data, headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_WITHIN) as answer:  # noqa: S310  our own server
                return dict(json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise AssertionError(f"{method} {path}: {error.code} {said}\n{self._tail()}") from None

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "jobs")["jobs"])

    # ── the programs ─────────────────────────────────────────────────────────────────────────────────────────

    def _configure(self) -> None:
        for name in ("munge", "state", "shared", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.shared.chmod(0o711)
        for path, size in ((self.folder / "munge" / "key", 128), (self.key_file, 32)):
            if not path.exists():
                path.touch(mode=0o600)
                path.write_bytes(secrets.token_bytes(size))
        kinds = ("proctrack/cgroup", "task/cgroup") if self._cgroups else ("proctrack/linuxproc", "task/none")
        text = _SETTINGS.format(
            folder=self.folder,
            prefix=self.prefix,
            slurmctld=self._ports[0],
            port1=self._ports[1],
            port2=self._ports[2],
            port3=self._ports[3],
            keys=",".join([f"jwt_key={self.key_file}", *([f"jwks={self._jwks}"] if self._jwks else [])]),
            remembers=self._remembers,
            proctrack=kinds[0],
            task=kinds[1],
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text(_CGROUPS)
        devices = (f"NodeName={self.prefix}1 Name=gpu File=/dev/{name}\n" for name in ("null", "zero"))
        (self.folder / "gres.conf").write_text("".join(devices))

    def _environment(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        return {**plain, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def _launch(self, name: str, *command: str) -> None:
        environment = self._environment()
        if name == "slurmrestd":  # it speaks with its callers' tokens alone, and wants no account of its own
            environment |= {"SLURM_JWT": "daemon", "SLURMRESTD_SECURITY": "disable_user_check"}
        self._processes[name] = children.launch(command, self.folder / f"{name}.out", environment, self.folder)

    def _lives(self) -> bool:
        for name, process in self._processes.items():
            assert process.poll() is None, f"{name} ended\n{self._tail()}"
        return True

    def _up(self) -> bool:
        self._lives()
        try:
            nodes = self.call("GET", "nodes")["nodes"]
        except (AssertionError, OSError):
            return False
        return [node["state"] for node in nodes] == ["idle"] * len(self.nodes)

    def _kill_left(self, node: str = "") -> None:
        """What slurmd has started lives on without it: jobs, and before each the daemon that would tell slurmctld of
        its end."""
        wanted = {f"SLURM_CONF={self.folder}/slurm.conf".encode()} | (
            {f"SLURMD_NODENAME={node}".encode()} if node else set()
        )

        def gone() -> bool:
            found = [pid for pid in _pids() if wanted <= _environment_of(pid)]
            for pid in (*map(_step_daemon, found), *found):
                if pid:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            return not found

        wait_for(gone, "what slurmd has started is gone")

    def _tail(self) -> str:
        logs = sorted(self.folder.glob("*.out")) + sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1500:]}" for log in logs)


def _plain(text: bytes) -> str:
    return urlsafe_b64encode(text).rstrip(b"=").decode()


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _environment_of(pid: int) -> set[bytes]:
    """Of a process that lives; empty: of one that does not, or is not ours to look at."""
    with suppress(OSError):
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    return set()


def _step_daemon(pid: int) -> int:
    """The one that has started it; 0: there is none, or it is one itself."""
    with suppress(OSError, ValueError):
        parent = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
        if Path(f"/proc/{parent}/cmdline").read_bytes().startswith(b"slurmstepd"):
            return parent
    return 0


def _remove_cgroup(place: Path) -> None:
    """With all below it; the kernel takes a moment to let go of the last process."""
    if not place.exists():
        return

    def gone() -> bool:
        for folder, _, _ in os.walk(place, topdown=False):
            with suppress(OSError):
                os.rmdir(folder)
        return not place.exists()

    wait_for(gone, f"{place} is removed")
