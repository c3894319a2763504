"""What stands in the path of a call. Imports the domain, the errors, aiohttp."""

from __future__ import annotations

import re
from uuid import UUID

from aiohttp import web

from broker.errors import NotFound

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def uuid_of(request: web.Request, what: str) -> UUID:
    """Raises NotFound: what is no uuid names nothing here."""
    text = request.match_info["uuid"]
    if not _UUID.fullmatch(text):
        raise NotFound(f"no {what} has the uuid {text[:100]}.", remedy="The whole uuid is wanted.")
    return UUID(text)


def result_name(request: web.Request) -> str:
    """A relative path without steps upwards. Raises NotFound: no result is called anything else (ports.Result)."""
    name = request.match_info["name"]
    if name.startswith("/") or "\0" in name or "\\" in name or {"", ".", ".."} & set(name.split("/")):
        raise NotFound("no result has such a name.")
    return name
