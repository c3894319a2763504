"""The servers and brokers of the demonstration, and what lies where. Imports the demo's processes and the test kit.

ALBA-DISK      galaxies.fits, which Rucio knows (and has on ALBA-TAPE too); flat.fits, which DaCHS knows
BOREALIS-S3    mask.fits, an object in a bucket of moto's
BOREALIS-DISK  deep.fits, another catalogue of galaxies, which Rucio knows
CUMULUS-DISK   notes.csv, at a plain address
"""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

import sky
from processes import Processes, stop_all

from broker.testing.dachs import Linked, Product, dachs, lacks
from broker.testing.rucio_server import PASSWORD, USERNAME, RucioServer
from broker.testing.s3_server import Moto, moto

HERE = Path(__file__).resolve().parent
DEMO = HERE.parent / "demo"
SERVERS = Path(sys.prefix) / "servers"  # where `make servers` puts those that are Python packages
SITES = ("alba", "borealis", "cumulus")
SCOPE, FLAT = "survey", "ivo://alba.example/calibration?flat"
MASK, NOTES = 800_000, 60_000  # bytes
FLAT_BYTES = 400_000


def missing() -> str:
    """What has to be installed first; empty: nothing."""
    wanted = [name for name in ("rucio", "moto") if not (SERVERS / name / "bin" / "python").exists()]
    return ", ".join([*wanted, *lacks()])


class World:
    """`urls`: name → where it listens. Everything is written to `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes = Processes(folder)
        self._servers = ExitStack()
        self._moto = ExitStack()
        self.urls: dict[str, str] = {}

    # ── what is there ────────────────────────────────────────────────────────────────────────────────────────

    def prepare(self) -> None:
        """An empty folder, and the files of each disk."""
        stop_all(self._folder)
        shutil.rmtree(self._folder, ignore_errors=True)
        for site in SITES:
            (self._folder / "disks" / site).mkdir(parents=True)
        shutil.copy(DEMO / "fit.py", self._folder / "fit.py")
        disks = self._folder / "disks"
        self.galaxies, self.checksum = sky.write_catalogue(disks / "alba" / "galaxies.fits")
        shutil.copy(disks / "alba" / "galaxies.fits", disks / "borealis" / "deep.fits")
        (disks / "alba" / "flat.fits").write_bytes(bytes(FLAT_BYTES))
        (disks / "cumulus" / "notes.csv").write_bytes(b"n\n" * (NOTES // 2))

    def start(self) -> None:
        """The disks, then the catalogues, then the brokers. Raises DemoError."""
        for site in SITES:
            self._processes.python(f"{site}_data", str(DEMO / "sky.py"), "serve", str(self._folder / "disks" / site))
        for site in SITES:
            self.urls[f"{site}_data"] = self._processes.said(f"{site}_data")
        self._start_objects()
        self._start_rucio()
        self._start_archive()
        for site in SITES:
            self._serve(site)
        for site in SITES:
            self.urls[site] = self._processes.said(site)
        self._serve("federation")
        self.urls["federation"] = self._processes.said("federation")

    def stop(self) -> None:
        self._processes.stop()
        self._moto.close()
        self._servers.close()

    def lose_objects(self) -> None:
        """The S3 server is gone."""
        self._moto.close()

    def request(self, galaxies: str, mask: str = "mask.fits") -> Path:
        """The request for a run on that catalogue of galaxies, with that mask."""
        notes = f"{self.urls['cumulus_data']}/notes.csv"
        names = {"galaxies": f"{galaxies}.fits", "mask": mask, "flat": FLAT}
        return self._fill("request.yaml", f"{galaxies}.yaml", notes=notes, **names)

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────

    def _start_objects(self) -> None:
        server: Moto = self._moto.enter_context(moto(SERVERS / "moto" / "bin", self._folder))
        public = {"Bucket": "surveys", "Key": "mask.fits", "Body": MASK, "ACL": "public-read"}
        server.call(("create_bucket", {"Bucket": "surveys"}), ("put_object", public))
        self.urls["s3"] = server.url

    def _start_rucio(self) -> None:
        server = RucioServer(SERVERS / "rucio" / "bin", self._folder / "rucio")
        self._servers.callback(server.stop)
        server.start()
        server.add_scope(SCOPE)
        for storage, disk, name in (
            ("ALBA-DISK", "alba", "galaxies.fits"),
            ("ALBA-TAPE", "alba", "vault/galaxies.fits"),
            ("BOREALIS-DISK", "borealis", "deep.fits"),
        ):
            self._add_copy(server, storage, f"{self.urls[f'{disk}_data']}/{name}")
        self.urls["rucio"] = server.url

    def _add_copy(self, server: RucioServer, storage: str, url: str) -> None:
        """Where files lie at addresses of their own, as at an archive that was there before Rucio."""
        parts = urlsplit(url)
        tape = storage.endswith("TAPE")
        server.call("POST", f"/rses/{storage}", {"deterministic": False, "rse_type": "TAPE" if tape else "DISK"})
        reads = {"read": 1, "write": 1, "delete": 1}
        protocol = {
            "hostname": parts.hostname, "port": parts.port, "prefix": "/", "scheme": "http",
            "impl": "rucio.rse.protocols.gfal.Default",
            "domains": {"lan": reads, "wan": {**reads, "third_party_copy_read": 1, "third_party_copy_write": 1}},
        }  # fmt: skip
        server.call("POST", f"/rses/{storage}/protocols/http", protocol)
        file = {
            "scope": SCOPE, "name": parts.path.rpartition("/")[2], "bytes": self.galaxies, "adler32": "00000001",
            "pfn": url, "state": "A",
        }  # fmt: skip
        server.call("POST", "/replicas", {"rse": storage, "files": [file], "ignore_availability": True})

    def _start_archive(self) -> None:
        product = Product(FLAT, "flat", FLAT_BYTES // 1000)
        link = Linked("#this", f"{self.urls['alba_data']}/flat.fits", FLAT_BYTES)
        server = self._servers.enter_context(dachs((product,), {FLAT: (link,)}))
        self.urls |= {"dachs": server.url, "tap": server.tap}

    def _serve(self, name: str) -> None:
        self._processes.python(name, "-m", "broker.cli.main", "serve", str(self._fill(f"{name}.yaml", f"{name}.yaml")))

    def _fill(self, template: str, name: str, **values: str) -> Path:
        text = Template((HERE / "configs" / template).read_text())
        path = self._folder / name
        given = {**self.urls, **values}
        path.write_text(text.substitute(given, rucio_user=USERNAME, rucio_password=PASSWORD))
        return path
