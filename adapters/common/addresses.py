"""Connecting for users, who write down names: judged at the connection itself, by the address that is connected to.

Imports the standard library alone, so that the children of a supervisor start fast.
"""

from __future__ import annotations

import socket
from collections.abc import Callable


class Barred(Exception):
    """A name has no address that may be connected to. Its text is the name."""


def connect(address: tuple[str, int], timeout: float | None, allowed: Callable[[str], bool]) -> socket.socket:
    """To the first of a name's addresses that is `allowed` and takes the connection; `timeout` is for each. What a name
    meant a moment before counts for nothing. Raises Barred, OSError."""
    host, port = address
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise Barred(host) from None
    trouble: OSError | None = None
    for family, kind, proto, _, place in found:
        if not allowed(str(place[0])):
            continue
        one = socket.socket(family, kind, proto)
        try:
            one.settimeout(timeout)
            one.connect(place)
            return one
        except OSError as error:
            one.close()
            trouble = error
    if trouble is None:
        raise Barred(host)
    raise trouble
