"""How a Redis is named in one line of the settings. Imports errors and the standard library."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, unquote

from broker.errors import SettingsError

Endpoint = tuple[str, int]  # host and port

SCHEMES = {"redis": 6379, "rediss": 6379, "redis+sentinel": 26379, "redis+cluster": 6379}  # → the usual port
FORMS = (
    "redis://HOST:PORT/DATABASE, rediss://… (TLS), redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DATABASE "
    "or redis+cluster://HOST:PORT,HOST:PORT"
)
MOST_REPLICAS = 5

_SHAPE = re.compile(r"(?P<scheme>[a-z+]+)://(?P<where>[^/?#]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?")
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(:(?P<port>\d{1,5}))?")


@dataclass(frozen=True)
class Address:
    """`hosts`: the server, the Sentinels, or some nodes of the Cluster. `replicas`: how many must confirm a write.
    `timeout`: seconds that one answer may take."""

    scheme: str
    hosts: tuple[Endpoint, ...]
    username: str = ""
    password: str = field(default="", repr=False)
    master: str = ""
    database: int = 0
    prefix: str = "broker"
    replicas: int = 0
    timeout: float = 2.0

    @property
    def tls(self) -> bool:
        return self.scheme == "rediss"

    @property
    def clustered(self) -> bool:
        return self.scheme == "redis+cluster"

    @property
    def watched(self) -> bool:
        """Sentinels say who the master is."""
        return self.scheme == "redis+sentinel"

    @property
    def shown(self) -> str:
        """As it may stand in messages and logs: without the password."""
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        path = f"/{self.master}" if self.master else ""
        database = f"/{self.database}" if self.database else ""
        return f"{self.scheme}://{hosts}{path}{database}"


def parse(text: str, password: str | None = None) -> Address:
    """The address that the setting `store` holds. `password` takes the place of the one in the address.

    Raises SettingsError that says what is allowed, and never quotes the address: it may hold a password."""
    found = _SHAPE.fullmatch(text.strip())
    if found is None or found["scheme"] not in SCHEMES:
        raise _wrong("this is no address of a Redis that can be used.")
    credentials, _, where = found["where"].rpartition("@")
    username, _, given = credentials.partition(":")
    hosts = tuple(_endpoint(part, SCHEMES[found["scheme"]]) for part in where.split(","))
    address = Address(found["scheme"], hosts, unquote(username), unquote(given) if password is None else password)
    if len(hosts) > 1 and not (address.clustered or address.watched):
        raise _wrong("several servers are named, which only Sentinels and a Cluster can be.")
    return _with_options(_with_path(address, (found["path"] or "").strip("/")), found["query"] or "")


def _wrong(what: str, remedy: str = f"Write {FORMS}.") -> SettingsError:
    return SettingsError(what, key="store", remedy=remedy)


def _endpoint(text: str, usual: int) -> Endpoint:
    found = _HOST.fullmatch(text)
    port = int(found["port"] or usual) if found else 0
    if found is None or not 0 < port < 65536:
        raise _wrong("a host, or HOST:PORT with a port from 1 to 65535, is wanted in the address.")
    return found["host"].strip("[]"), port


def _with_path(address: Address, path: str) -> Address:
    parts = path.split("/") if path else []
    if address.watched:
        if not parts:
            raise _wrong("the name that the Sentinels give the master is missing in the address.")
        address = replace(address, master=unquote(parts.pop(0)))
    if address.clustered and parts not in ([], ["0"]):
        raise _wrong("a Cluster has no database but 0.")
    if len(parts) > 1 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise _wrong("the database is a number, from 0.")
    return replace(address, database=int(parts[0]) if parts else 0)


def _with_options(address: Address, query: str) -> Address:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise _wrong(f"there is no option {name!r} of an address.", f"There are: {', '.join(OPTIONS)}.")
        address = OPTIONS[name](address, value)
    return address


def _prefix(address: Address, value: str) -> Address:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
        raise _wrong("the prefix is made of letters, digits, dots, dashes and underscores, at most 64.", "")
    return replace(address, prefix=value)


def _replicas(address: Address, value: str) -> Address:
    if value not in [str(number) for number in range(MOST_REPLICAS + 1)]:
        raise _wrong(f"replicas is a number from 0 to {MOST_REPLICAS}.", "")
    return replace(address, replicas=int(value))


def _timeout(address: Address, value: str) -> Address:
    if not re.fullmatch(r"\d{1,2}(\.\d{1,3})?", value) or not 0.05 <= float(value) <= 30:
        raise _wrong("timeout is a number of seconds from 0.05 to 30.", "")
    return replace(address, timeout=float(value))


OPTIONS: dict[str, Callable[[Address, str], Address]] = {
    "prefix": _prefix,
    "replicas": _replicas,
    "timeout": _timeout,
}
