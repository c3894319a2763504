"""The version of a Redis store's data, and how older data is brought forward. Imports errors and its sisters.

A migration is a script that is run on every partition; migration number n (from 1) leads to version n + 1. It may be
run again on what it has changed already: a broker may end in the middle, and another opens the same store. Published
migrations are never changed: a new one is added at the end.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ResponseError

from broker.errors import SettingsError
from broker.store.redis_nodes import Nodes, Script
from broker.store.redis_trouble import refused

OLDEST = 7  # the first whose scripts say beforehand whether they write

MIGRATIONS: Sequence[Script] = ()


async def check_server(nodes: Nodes) -> None:
    """Raises SettingsError where a server is not what the address says, or too old."""
    try:
        told = await nodes.everywhere("INFO", "server")
    except ResponseError as error:
        if "cluster support disabled" in str(error):
            judge({"redis_mode": "standalone"}, clustered=True)
        raise
    for reply in told.values():
        if isinstance(reply, Exception):
            raise refused(reply) or reply
        judge(fields(reply), clustered=nodes.address.clustered)


def fields(info: bytes) -> dict[str, str]:
    """What INFO says, by name."""
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def judge(server: dict[str, str], *, clustered: bool) -> None:
    """Errors as for `check_server`."""
    mode = server.get("redis_mode", "standalone")
    if mode == "sentinel":
        raise SettingsError("this is a Sentinel.", key="store", remedy="Write redis+sentinel://HOST:PORT/MASTER.")
    if (mode == "cluster") != clustered:
        remedy = "Write redis://…" if clustered else "Write redis+cluster://…"
        raise SettingsError(f"the server runs as {mode}.", key="store", remedy=remedy)
    version = server.get("redis_version", "0")
    if int("0" + version.partition(".")[0]) < OLDEST:
        raise SettingsError(
            f"the server is Redis {version}.", key="store", remedy=f"The store needs Redis {OLDEST} or newer."
        )


async def bring_forward(nodes: Nodes, migrations: Sequence[Script] = MIGRATIONS) -> None:
    """Mark what is new with our version, and migrate what is older. Raises as `check_data`."""
    key, ours = _key(nodes), len(migrations) + 1
    await nodes.command(0, "SET", key, ours, "NX")
    for number in range(await check_data(nodes, migrations) or ours, ours):
        await nodes.each(migrations[number - 1])
        await nodes.command(0, "SET", key, number + 1)


async def check_data(nodes: Nodes, migrations: Sequence[Script] = MIGRATIONS) -> int:
    """The version of the data, 0 where there is none. Changes nothing. SettingsError where it is a newer broker's, or
    somebody else's."""
    key, ours = _key(nodes), len(migrations) + 1
    found: Any = b"?"
    with contextlib.suppress(ResponseError):  # not a text
        found = await nodes.command(0, "GET", key) or b"0"
    if not re.fullmatch(rb"\d{1,9}", found):
        raise SettingsError(f"{key} is not of our making.", key="store", remedy="Write another prefix in the address.")
    if int(found) > ours:
        raise SettingsError(
            f"the store's data has version {int(found)}; this broker knows {ours}.",
            key="store",
            remedy="Use a newer broker.",
        )
    return int(found)


def _key(nodes: Nodes) -> str:
    return f"{nodes.roots[0]}:schema"
