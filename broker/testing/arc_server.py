"""A real ARC computing element on the loopback, A-REX with its REST interface and the fork back-end: up in some five
seconds, and slow after that, for it renews what it shows once a minute.

Wants root, `openssl`, and Debian's nordugrid-arc-arex, which `make servers` leaves out. Its certificates come from an
authority of its own. Jobs run as `nobody`. Imports `children`. Everything here blocks, and every wait is bounded.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from broker.testing import children

PACKAGES = "nordugrid-arc-arex nordugrid-arc-client"
_SHARE = Path("/usr/share/arc")
_WITHIN = 60.0  # seconds for one step; a machine that runs other things at the same time is slow
_NAME = "/DC=org/DC=example/CN="

_SETTINGS = """
[common]
hostname = localhost
x509_host_key = {home}/host.key
x509_host_cert = {home}/host.pem
x509_cert_dir = {home}/certificates

[authgroup:all]
subject = /DC=org/DC=example/CN=broker

[mapping]
map_to_user = all nobody:nogroup

[lrms]
lrms = fork

[arex]
controldir = {home}/control
sessiondir = {home}/session
runtimedir = {home}/rte
logfile = {home}/arex.log
joblog = {home}/jobs.log
pidfile = {home}/arex.pid
tmpdir = {home}/tmp
helperlog = {home}/helper.log
wakeupperiod = 2

[arex/ws]
wsurl = https://localhost:{port}/arex
logfile = {home}/ws.log
pidfile = {home}/ws.pid

[arex/ws/jobs]
allowaccess = all

[infosys]
logfile = {home}/infosys.log

[infosys/glue2]

[infosys/cluster]

[queue:fork]
"""


def missing() -> str:
    """What stands in its way here; empty: nothing."""
    if not (_SHARE / "arc-arex-ws-start").exists():
        return f"no ARC here: apt-get install --no-install-recommends {PACKAGES}"
    if shutil.which("openssl") is None:
        return "no openssl here: apt-get install openssl"
    return "" if os.geteuid() == 0 else "A-REX hands jobs to another account: it wants root"


class ArcServer:
    """`with`. `ca`, `certificate`, `key`: what a client needs. `home`: everything it writes, readable by all, for jobs
    run below it; gone afterwards."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="arc-"))
        self.port = children.free_port()
        self.ca = self.home / "certificates" / "ca.pem"
        self.certificate, self.key = self.home / "user.pem", self.home / "user.key"
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/arex"

    def __enter__(self) -> Self:
        try:
            self._configure()
            self._certify()
            self._launch()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Idempotent. Jobs that still run are killed: the fork back-end leaves them."""
        while self._processes:
            children.end(self._processes.pop())
        for pid in self.running():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)

    def proxy(self) -> Path:
        """One of the broker's certificate (RFC 3820), with its key, in one file."""
        (self.home / "extensions").write_text("proxyCertInfo=critical,language:id-ppl-inheritAll\n")
        self._openssl("req", *_new("broker/CN=4711", "proxy"), "-out", "proxy.csr")
        signed = ["-CA", "user.pem", "-CAkey", "user.key", "-CAcreateserial", "-extfile", "extensions"]
        self._openssl("x509", "-req", "-in", "proxy.csr", *signed, "-days", "1", "-out", "proxy.pem")
        file = self.home / "x509up"
        file.write_bytes(b"".join((self.home / name).read_bytes() for name in ("proxy.pem", "proxy.key", "user.pem")))
        return file

    def running(self) -> list[int]:
        """Processes that work in a job's folder."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if process.joinpath("cwd").readlink().is_relative_to(self.home / "session"):
                    found.append(int(process.name))
        return found

    # ── how it is set up ─────────────────────────────────────────────────────────────────────────────────────

    def _configure(self) -> None:
        self.home.chmod(0o755)
        for folder in ("certificates", "control", "session", "rte", "tmp"):
            (self.home / folder).mkdir()
        (self.home / "tmp").chmod(0o1777)
        (self.home / "arc.conf").write_text(_SETTINGS.format(home=self.home, port=self.port))
        # There is no setting for the address that it listens at.
        script = (_SHARE / "arc-arex-ws-start").read_text()
        listens = "<tcp:Listen><tcp:Interface>127.0.0.1</tcp:Interface><tcp:Port>"
        here = self.home / "ws-start"
        here.write_text(script.replace("<tcp:Listen><tcp:Port>", listens))
        here.chmod(0o755)
        # Otherwise its start script makes parameters of 4096 bits, for minutes.
        self._openssl("dhparam", "-dsaparam", "-out", "control/dhparam.pem", "2048")

    def _certify(self) -> None:
        """An authority, as grids lay them out, and what it has signed for the host and the broker."""
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-days", "2"]
        self._openssl("req", "-x509", *_new("ca"), *usage, "-out", "certificates/ca.pem")
        name = self._openssl("x509", "-in", "certificates/ca.pem", "-noout", "-hash").strip()
        (self.ca.parent / f"{name}.0").symlink_to("ca.pem")
        rights = f"access_id_CA X509 '{_NAME}ca'\npos_rights globus CA:sign\ncond_subjects globus '\"*\"'\n"
        (self.ca.parent / f"{name}.signing_policy").write_text(rights)
        for who, extensions in (
            ("host", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n"),
            ("broker", "extendedKeyUsage=clientAuth\n"),
        ):
            file = "user" if who == "broker" else who
            (self.home / "extensions").write_text(extensions)
            self._openssl("req", *_new(who, file), "-out", f"{file}.csr")
            signed = ["-CA", "certificates/ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions"]
            self._openssl("x509", "-req", "-in", f"{file}.csr", *signed, "-days", "2", "-out", f"{file}.pem")
            (self.home / f"{file}.key").chmod(0o400)

    def _openssl(self, *words: str) -> str:
        done = subprocess.run(  # noqa: S603 - what we write
            ["openssl", *words],  # noqa: S607 - the system's
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=_WITHIN,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def _launch(self) -> None:
        environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "ARC_CONFIG": str(self.home / "arc.conf")}
        for name, script in (("arex", _SHARE / "arc-arex-start"), ("ws", self.home / "ws-start")):
            log = self.home / f"{name}.out"
            self._processes.append(children.launch([str(script), "-f"], log, environment, self.home))
        children.wait_for(self._up, "ARC answers", self._tail)

    def _up(self) -> bool:
        """With what it tells of itself, which comes last."""
        ended = [process.poll() for process in self._processes]
        assert ended == [None, None], f"A-REX ended: {ended}\n{self._tail()}"
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(self.certificate, self.key)
        asked = urllib.request.Request(f"{self.url}/rest/1.0/info", headers={"Accept": "application/json"})  # noqa: S310
        try:
            with urllib.request.urlopen(asked, timeout=_WITHIN, context=context) as answer:  # noqa: S310 - our own
                return bool(re.search(rb'"FreeSlots"', answer.read()))
        except (urllib.error.URLError, OSError):
            return False

    def _tail(self) -> str:
        logs = (self.home / name for name in ("arex.out", "ws.out", "arex.log", "ws.log"))
        return "\n".join(log.read_text(errors="replace")[-1500:] for log in logs if log.exists())


def _new(who: str, file: str = "") -> list[str]:
    return ["-newkey", "rsa:2048", "-nodes", "-keyout", f"{file or who}.key", "-subj", f"{_NAME}{who}"]
