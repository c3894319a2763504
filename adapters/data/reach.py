"""Which addresses that users write down may be asked, and by which connections. Imports the errors, aiohttp, yarl.

Whoever writes an address into a request makes this broker call it. So it calls what its operator has named; of all
else only what the whole world can call too, and that is judged at the connection, by the address that is connected to:
what a name meant a moment before counts for nothing.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp
from yarl import URL

from broker.domain.addresses import public
from broker.errors import NotAsked, SettingsError
from broker.outward import Names


class PublicReach:
    """`declared`: the storages that the operator has declared. `hosts`: further ones, as `host`, `host:port` or
    `*.domain`; without a port, the scheme's own. `anyone`: any public host too, at one of `ports`. Raises
    SettingsError for what is no host."""

    def __init__(
        self, declared: Callable[[str], bool], hosts: Iterable[str], ports: Iterable[int], *, anyone: bool
    ) -> None:
        self._declared, self._anyone, self._ports = declared, anyone, frozenset(ports)
        self._hosts = frozenset(_host(text) for text in hosts)

    def named(self, url: URL) -> bool:
        """The operator has named it, wherever it lies."""
        return self._declared(str(url)) or not self._hosts.isdisjoint(_names(url))

    def allows(self, url: URL) -> bool:
        """It may be asked; where it is not `named`, over `strict` connections alone."""
        return self.named(url) or (self._anyone and url.port in self._ports)

    def check(self, url: URL) -> None:
        """Raises NotAsked."""
        if self.allows(url):
            return
        if self._anyone:
            raise NotAsked(f"not asked: {url.host} at port {url.port}, which is not one of those that are asked.")
        raise NotAsked(f"not asked: {url.host} is on no storage that this broker declares.")


def strict(allowed: Callable[[str], bool] = public) -> aiohttp.TCPConnector:
    """Within a running loop. Connects to addresses that are `allowed`, and keeps neither connections nor names."""

    def opened(info: tuple[Any, ...]) -> socket.socket:
        family, kind, proto, _, address = info
        if not allowed(address[0]):
            # Which address it was is not told: the name may be one of a network that is nobody else's business.
            raise OSError(errno.EADDRNOTAVAIL, "its address is not a public one")
        return socket.socket(family, kind, proto)

    return aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False, resolver=Names(), socket_factory=opened)


def _names(url: URL) -> Iterable[str]:
    """What in `hosts` names it."""
    host = (url.raw_host or "").rstrip(".").lower()
    ports = (f":{url.port}", "") if url.is_default_port() else (f":{url.port}",)
    parts = host.split(".")
    wild = [f"*.{'.'.join(parts[i:])}" for i in range(1, len(parts))]
    return [f"{name}{port}" for name in (host, *wild) for port in ports]


def _host(text: str) -> str:
    host, _, port = text.strip().lower().partition(":")
    if not host.removeprefix("*.") or any(c in text for c in "/@?# ") or (port and not port.isdecimal()):
        raise SettingsError(
            f'"{text}" is no host.', key="options.hosts", remedy="Write data.example.org, *.example.org or host:8080."
        )
    return f"{host}:{int(port)}" if port else host
