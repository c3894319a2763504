"""How a call wants to be done: the headers Idempotency-Key and Prefer (RFC 7240). Imports needs and the domain.

What cannot be read in Prefer is passed over, as that standard has it; a key that cannot be read is an error, for
whoever sends one relies on it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from broker.api.needs import Keys
from broker.domain.base import Model
from broker.domain.identity import Caller, new_set
from broker.errors import BadInput
from broker.services.keys import Once
from broker.services.offers import AT_ONCE, How

T = TypeVar("T")

KEY, PREFER, APPLIED = "Idempotency-Key", "Prefer", "Preference-Applied"
LONGEST_WAIT = 3600  # seconds; the settings bound it further
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class Manner(msgspec.Struct, frozen=True):
    """`wait` in seconds, `later`: respond-async."""

    key: str | None = None
    wait: int | None = None
    later: bool = False

    def applied(self, *, later: bool) -> dict[str, str]:
        """The header that says which preferences counted. `later`: respond-async is possible with this call. Without
        the seconds: the settings may have let fewer count."""
        said = ["respond-async"] if self.later and later else []
        if self.wait is not None:
            said.append("wait")
        return {APPLIED: ", ".join(said)} if said else {}


def read_manner(request: web.BaseRequest) -> Manner:
    """Raises BadInput for a key that is none."""
    asked = _preferences(request)
    wait = asked.get("wait")
    seconds = min(LONGEST_WAIT, int(wait)) if wait is not None and re.fullmatch(r"[0-9]{1,9}", wait) else None
    return Manner(_key(request), seconds, "respond-async" in asked)


def _key(request: web.BaseRequest) -> str | None:
    """As it stands, or in quotes as the draft of the header has it: both are the same key."""
    given = request.headers.getall(KEY, [])
    if not given:
        return None
    text = given[0].strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if len(given) > 1 or not _KEY.fullmatch(text):
        raise BadInput("one key of 1 to 255 printable ASCII characters is wanted.", element=KEY)
    return text


def _preferences(request: web.BaseRequest) -> dict[str, str]:
    """Name → value; of several of one name the first counts (RFC 7240, section 2)."""
    found: dict[str, str] = {}
    for item in ",".join(request.headers.getall(PREFER, [])).split(","):
        name, _, value = item.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), value.strip().strip('"'))
    return found


class Repeats:
    """Calls that come with a key are done once; without one, each time."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def new(
        self,
        manner: Manner,
        caller: Caller,
        *,
        call: str,
        asked: Model,
        act: Callable[[How], Awaitable[T]],
        show: Callable[[UUID], Awaitable[T]],
    ) -> T:
        """`act` makes a set, or what is known by one."""
        how = How(None, manner.wait, manner.later) if manner.wait is not None or manner.later else AT_ONCE
        if manner.key is None:
            return await act(how)
        once = Once(caller, call, manner.key, _body(asked), new_set(os.urandom(16)))
        return await self._keys.once(once, lambda uuid: act(msgspec.structs.replace(how, set=uuid)), show)

    async def existing(
        self,
        manner: Manner,
        caller: Caller,
        *,
        call: str,
        asked: Model,
        uuid: UUID,
        act: Callable[[UUID], Awaitable[T]],
        show: Callable[[UUID], Awaitable[T]],
    ) -> T:
        """`act` changes what has this uuid."""
        if manner.key is None:
            return await act(uuid)
        body = uuid.bytes + _body(asked)
        return await self._keys.once(Once(caller, call, manner.key, body, uuid, repeatable=True), act, show)


def _body(asked: Model) -> bytes:
    """One form however it was written: a repetition may be YAML where the first was JSON."""
    return msgspec.json.encode(asked.to_wire(), order="sorted")
