"""Which addresses that users write down may be asked, and by which connections. Imports the ports' errors, aiohttp.

Whoever writes an address into a request makes this broker call it. So it calls what its operator has named; of all
else only what the whole world can call too, and that is judged at the connection, by the address that is connected to:
what a name meant a moment before counts for nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable
from typing import Any

import aiohttp
from yarl import URL

from broker.errors import NotAsked, SettingsError
from broker.outward import Names

_GLOBAL = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")  # NAT64: the last 32 bits are an IPv4 address
_SPECIAL = tuple(
    ipaddress.ip_network(text)
    # What Python 3.11 takes for global, and no host on the Internet has: IETF's own, 6to4's relays, IPv6 for documents.
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "3fff::/20")
)


def public(address: str) -> bool:
    """Whether anybody on the Internet could connect to it: none of a private, local, shared, reserved or multicast
    network, nor one that leads to such a network by 6to4, NAT64 or as an IPv4 address in IPv6's clothes."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = _inner(found)
        if inner is not None:
            return public(str(inner))
        if found not in _GLOBAL:
            return False
    special = any(found.version == network.version and found in network for network in _SPECIAL)
    return found.is_global and not found.is_multicast and not found.is_reserved and not special


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


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
