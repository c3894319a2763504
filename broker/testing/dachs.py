"""A real DaCHS with its PostgreSQL on the loopback, for tests: TAP with `ivoa.obscore`, and links documents (DataLink).

Imports `children`. Wants Debian's python3-gavo, postgresql-15-pgsphere and
postgresql-15-q3c. Where we are root they run as `postgres`, since PostgreSQL refuses to be root. It publishes one small
collection, unless told otherwise `PRODUCTS` with `LINKS`, of which no file exists. Some ten seconds until it answers.
"""

from __future__ import annotations

import csv
import grp
import os
import pwd
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from broker.testing import children
from broker.testing.children import wait_for

POSTGRES = Path("/usr/lib/postgresql/15/bin")
COLLECTION = "broker survey"
DATA = "https://data.example/survey"  # where the products would lie; nobody asks there
LINKED = "application/x-votable+xml;content=datalink"
MANY = 60  # products of the observation `many`
STEP_WITHIN = 60.0  # seconds for one command; a machine that runs other things at the same time is slow


class Product(NamedTuple):
    """A row of ObsCore. `estsize` in kB; None is NULL. No `url`: its own links document."""

    did: str
    obs_id: str
    estsize: int | None
    url: str = ""


class Linked(NamedTuple):
    """A row of a links document; `fault` instead of `url`, where it is one."""

    semantics: str
    url: str = ""
    length: int | None = None
    fault: str = ""


def did(name: str) -> str:
    return f"ivo://broker.test/survey?{name}"


PRODUCTS = (
    Product(did("plain"), "plain", 12_000, f"{DATA}/plain.fits"),
    Product(did("unsized"), "unsized", None, f"{DATA}/unsized.fits"),
    Product(did("tiny"), "tiny", 0, f"{DATA}/tiny.fits"),
    Product(did("o'brien"), "o'brien", 7, f"{DATA}/obrien.fits"),
    Product(did("pair-1"), "pair", 1_000, f"{DATA}/pair-1.fits"),
    Product(did("pair-2"), "pair", 2_000, f"{DATA}/pair-2.fits"),
    Product(did("linked"), "linked", 9_000_000),
    Product(did("unsized-links"), "unsized-links", 4_000),
    *(Product(did(f"many-{i}"), "many", 1, f"{DATA}/many-{i}.fits") for i in range(MANY)),
)

LINKS: dict[str, tuple[Linked, ...]] = {
    did("linked"): (
        Linked("#this", f"{DATA}/linked-1.fits", 5_000_000_000),
        Linked("#this", f"{DATA}/linked-2.fits", 3_000_000_000),
        Linked("#preview", f"{DATA}/linked.png", 4_096),
        Linked("#calibration", f"{DATA}/flat.fits", 1_000_000),
    ),
    did("unsized-links"): (Linked("#this", f"{DATA}/unsized-links.fits"), Linked("#preview", f"{DATA}/u.png", 10)),
    did("withdrawn"): (Linked("#this", fault="it was withdrawn"), Linked("#preview", f"{DATA}/w.png", 10)),
}

_SETTINGS = """[general]
rootDir: {root}
gavoGroup: {group}
group: {group}
maintainerAddress: nobody@localhost

[web]
serverURL: {url}
bindAddress: 127.0.0.1
serverPort: {port}
user: {user}

[ivoa]
authority: broker.test
"""

_COLLECTION = """<resource schema="survey">
  <meta name="title">A survey of nothing</meta>
  <meta name="creationDate">2026-01-01T00:00:00Z</meta>
  <meta name="description">Rows that a broker asks for, and no data.</meta>
  <meta name="subject">surveys</meta>
  <meta name="creator.name">Nobody, N.</meta>
  <table id="products" onDisk="True" adql="True">
    <meta name="_associatedDatalinkService">
      <meta name="serviceId">dl</meta>
      <meta name="idColumn">did</meta>
    </meta>
    <mixin
      dataproduct_type="'cube'"
      obs_collection="'{collection}'"
      obs_id="obs_id"
      obs_publisher_did="did"
      access_url="url"
      access_format="format"
      access_estsize="estsize"
      preview="NULL"
    >//obscore#publish</mixin>
    <column name="did" type="text"/>
    <column name="obs_id" type="text"/>
    <column name="url" type="text"/>
    <column name="format" type="text"/>
    <column name="estsize" type="bigint"><values nullLiteral="-1"/></column>
  </table>
  <data id="import">
    <sources>products.csv</sources>
    <csvGrammar/>
    <make table="products">
      <rowmaker idmaps="*">
        <map key="estsize">parseWithNull(@estsize, int, "")</map>
      </rowmaker>
    </make>
  </data>
  <service id="dl" allowed="dlmeta">
    <datalinkCore>
      <descriptorGenerator>
        <code>
          if pubDID not in {known!r}:
              return DatalinkFault.NotFoundFault(pubDID, "no data set of this name", semantics="#this")
          descriptor = ProductDescriptor(pubDID, None, None, None)
          descriptor.suppressAutoLinks = True
          return descriptor
        </code>
      </descriptorGenerator>
      <metaMaker semantics="#this">
        <code>
          for semantics, url, length, fault in {links!r}[descriptor.pubDID]:
              if fault:
                  yield DatalinkFault.NotFoundFault(descriptor.pubDID, fault, semantics=semantics)
              else:
                  yield descriptor.makeLink(url, semantics=semantics, contentLength=length)
        </code>
      </metaMaker>
    </datalinkCore>
  </service>
</resource>
"""


class Dachs:
    """`url` is where it listens; `tap` and `links` are its services of TAP and of DataLink. `obscore_links` is that
    which DaCHS has for all of ObsCore: it redirects to `links`."""

    def __init__(
        self, folder: Path, user: str, products: Sequence[Product], links: Mapping[str, Sequence[Linked]]
    ) -> None:
        self.folder, self._user = folder, user
        self._products, self._rows = products, links
        self._port, self._database = children.free_port(), children.free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.tap = f"{self.url}/tap"
        self.links = f"{self.url}/survey/q/dl/dlmeta"
        self.obscore_links = f"{self.url}/__system__/obscore/dl/dlmeta"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._write()
        data = self.folder / "database"
        self._run(POSTGRES / "initdb", "-D", data, "-A", "trust", "-E", "UTF8", "--locale", "C.UTF-8", "-N")
        listens = ("listen_addresses=127.0.0.1", f"port={self._database}", f"unix_socket_directories={self.folder}")
        settings = [word for option in (*listens, "fsync=off") for word in ("-c", option)]
        self._serve(POSTGRES / "postgres", "-D", data, *settings)
        wait_for(self._database_up, "PostgreSQL is up", self._tail)
        place = ("-h", "127.0.0.1", "-p", self._database)
        self._run(POSTGRES / "createdb", *place, "--encoding=UTF-8", "--template", "template0", "gavo")
        self._run("dachs", "init", "-d", f"host=127.0.0.1 port={self._database} user={self._user} dbname=gavo")
        self._collection()
        self._run("dachs", "import", "-m", "//tap")
        self._run("dachs", "import", "//obscore")
        self._run("dachs", "import", "survey/q")
        self._serve("dachs", "serve", "debug")
        wait_for(self._up, "DaCHS is up", self._tail)

    def stop(self) -> None:
        """Idempotent."""
        while self._processes:
            children.end(self._processes.pop())

    def _write(self) -> None:
        group = _group(self._user)
        text = _SETTINGS.format(root=self.folder / "root", group=group, url=self.url, port=self._port, user=self._user)
        (self.folder / "gavo.rc").write_text(text)

    def _collection(self) -> None:
        folder = self.folder / "root" / "inputs" / "survey"
        folder.mkdir()
        links = {key: [tuple(link) for link in rows] for key, rows in self._rows.items()}
        text = _COLLECTION.format(collection=COLLECTION, known=set(links), links=links)
        (folder / "q.rd").write_text(text)
        with (folder / "products.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("did", "obs_id", "url", "format", "estsize"))
            for item in self._products:
                own = f"{self.links}?ID={urllib.parse.quote(item.did)}"
                form = "application/fits" if item.url else LINKED
                rows.writerow(
                    (item.did, item.obs_id, item.url or own, form, "" if item.estsize is None else item.estsize)
                )

    def _up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.tap}/availability", timeout=5) as answer:  # noqa: S310 - ours
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _database_up(self) -> bool:
        command = [str(POSTGRES / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self._database)]
        return subprocess.run(command, check=False).returncode == 0  # noqa: S603 - ours

    def _tail(self) -> str:
        logs = (self.folder / name for name in ("log", "root/logs/dcErrors", "root/logs/dcInfos"))
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in logs if log.exists())

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "GAVOSETTINGS": str(self.folder / "gavo.rc"),
            "GAVOCUSTOM": str(self.folder / "none"),
            "PYTHONWARNINGS": "ignore",
        }

    def _run(self, *words: object) -> None:
        with (self.folder / "log").open("ab") as log:
            done = subprocess.run(  # noqa: S603 - ours
                self._command(words),
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=STEP_WITHIN,
                check=False,
            )
        assert done.returncode == 0, f"{words[0]} {words[1]} failed\n{self._tail()}"

    def _serve(self, *words: object) -> None:
        command = self._command(words)
        self._processes.append(children.launch(command, self.folder / "log", self._environment(), self.folder))

    def _command(self, words: tuple[object, ...]) -> list[str]:
        """With another user comes another wish to end with us."""
        command = [str(word) for word in words]
        if os.geteuid():
            return command
        identity = ("--reuid", self._user, "--regid", _group(self._user), "--clear-groups", "--pdeathsig", "KILL")
        return ["setpriv", *identity, *command]


def lacks() -> list[str]:
    """The Debian packages that are missing."""
    wanted = {"python3-gavo": shutil.which("dachs"), "postgresql-15-pgsphere": (POSTGRES / "initdb").exists()}
    return [package for package, there in wanted.items() if not there]


@contextmanager
def dachs(products: Sequence[Product] = PRODUCTS, links: Mapping[str, Sequence[Linked]] = LINKS) -> Iterator[Dachs]:
    """A DaCHS that answers, in a folder of its own, which goes with it."""
    user = pwd.getpwuid(os.geteuid()).pw_name if os.geteuid() else "postgres"
    folder = Path(tempfile.mkdtemp(prefix="broker-dachs-"))  # pytest's own may not be entered by another user
    shutil.chown(folder, user)
    server = Dachs(folder, user, products, links)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _group(user: str) -> str:
    return grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
