"""The way out of the house: how names of sites are looked up, and which addresses are never connected to.

Imports aiohttp, the domain's addresses. One connector for all sites; its own limit is off, for reused connections
pass it by, and the guard counts instead.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from broker.domain.addresses import serves

AT_ONCE = 128  # names looked up side by side
_NUMBERS = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_Infos = list[tuple[Any, ...]]  # as socket.getaddrinfo returns them


def connector() -> aiohttp.TCPConnector:
    """Within a running loop. Refused addresses are refused at the connection itself: whatever a name meant when its
    site was registered, and however an address is written."""
    return aiohttp.TCPConnector(
        limit=0, ttl_dns_cache=300, keepalive_timeout=75, resolver=Names(), socket_factory=_socket
    )


class Names(AbstractResolver):
    """Looks each name up in a thread of its own. The loop has a few threads for that, and shares them with everything
    that it opens: a resolver that says nothing keeps each for ten seconds and longer, and a handful of names would
    stop the lot."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(AT_ONCE)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises socket.gaierror, when the system's own resolver has given up. The connector asks once for all who
        wait for a name, and goes on when none of them does any more."""
        await self._room.acquire()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[_Infos] = loop.create_future()

        def settle(infos: _Infos, error: OSError | None) -> None:
            self._room.release()
            if found.done():
                return
            if error is None:
                found.set_result(infos)
            else:
                found.set_exception(error)

        def look() -> None:
            infos: _Infos = []
            failed: OSError | None = None
            try:
                infos = list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
            except (OSError, UnicodeError) as error:
                failed = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error))
            with suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(settle, infos, failed)

        # A daemon: a broker that is told to stop does not wait for names.
        threading.Thread(target=look, name=f"name {host}", daemon=True).start()
        return [_result(host, info) for info in await found]

    async def close(self) -> None: ...


def _result(host: str, info: tuple[Any, ...]) -> ResolveResult:
    family, _, proto, _, address = info
    return ResolveResult(hostname=host, host=address[0], port=address[1], family=family, proto=proto, flags=_NUMBERS)


def _socket(info: tuple[Any, ...]) -> socket.socket:
    """The socket of one connection. Raises OSError for an address that no site has."""
    family, kind, proto, _, address = info
    if not serves(address[0]):
        raise OSError(errno.EADDRNOTAVAIL, f"{address[0]} is no address of a site")
    return socket.socket(family, kind, proto)
