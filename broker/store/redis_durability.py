"""What a Redis may lose of what it has acknowledged, by its settings. Imports its sisters.

A broker says this once when it starts; docs/redis.md says it at length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from broker.store.redis_nodes import Nodes
from broker.store.redis_schema import fields

_log = structlog.get_logger(__name__)

ASKED = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "save")


@dataclass(frozen=True)
class Server:
    """What one server says of itself. `settings` None: it does not say."""

    name: str
    settings: Mapping[str, str] | None
    replicas: int


async def warn(nodes: Nodes) -> None:
    """Log each weakness of each server."""
    for weakness in await weak_points(nodes):
        _log.warning("the store may lose what it acknowledged", why=weakness)


async def weak_points(nodes: Nodes) -> list[str]:
    """A sentence for each weakness of each server, which it names."""
    return [f"{server.name}: {weakness}" for server in await look(nodes) for weakness in judge(server, nodes)]


async def look(nodes: Nodes) -> list[Server]:
    """The servers that take writes."""
    settings = await nodes.everywhere("CONFIG", "GET", *ASKED)
    replication = await nodes.everywhere("INFO", "replication")
    return [
        Server(f"{host}:{port}", _settings(reply), _replicas(replication.get((host, port))))
        for (host, port), reply in settings.items()
    ]


def _settings(reply: Any) -> Mapping[str, str] | None:
    if isinstance(reply, Exception):
        return None
    texts = [text.decode() for text in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _replicas(reply: Any) -> int:
    if not isinstance(reply, bytes):
        return 0
    told = fields(reply)
    return sum(name.startswith("slave") and "state=online" in value for name, value in told.items())


def judge(server: Server, nodes: Nodes) -> list[str]:
    """A sentence for each setting that may lose what was acknowledged."""
    wanted = nodes.address.replicas
    found = []
    if server.replicas < wanted:
        found.append(f"{server.replicas} replicas follow, of {wanted} that must confirm: writes are not acknowledged")
    if server.settings is None:
        return [*found, "CONFIG is forbidden, so what a crash may lose cannot be judged"]
    return [*found, *_of_settings(server.settings, wanted)]


def _of_settings(settings: Mapping[str, str], wanted: int) -> list[str]:
    found = []
    if settings.get("appendonly") != "yes":
        saved = "what was written since its last snapshot" if settings.get("save") else "everything"
        rest = "" if not wanted else ", unless a replica takes over"
        found.append(f"appendonly is not yes: when the server ends, {saved} is lost{rest}")
    elif settings.get("appendfsync") != "always" and not wanted:
        span = "up to about a second" if settings.get("appendfsync") == "everysec" else "up to half a minute"
        found.append(f"appendfsync is not always: when the power fails, {span} of writes is lost")
    if settings.get("maxmemory-policy", "noeviction") != "noeviction":
        found.append("maxmemory-policy is not noeviction: when the memory is full, records are thrown away")
    return found
