"""Pages of lists: what a query asks for, and how a page is shown. Imports ports, the domain, the errors, aiohttp.

Newest first. `next` is an opaque cursor for `?after=`; absent on the last page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web

from broker.domain.quantities import format_instant, parse_instant
from broker.domain.session import SessionPhase
from broker.errors import BadInput
from broker.ports import Listing

LIMIT, MOST = 100, 1000  # lines of a page
_CURSOR = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)_([A-Za-z0-9.-]{1,100})")
# To a person an offer is no job: these come with `all=true` or by name.
_HIDDEN = frozenset({"OFFERED", "REJECTED", "EXPIRED"})
_SHOWN = tuple(phase.value for phase in SessionPhase if phase not in _HIDDEN)


class Page(msgspec.Struct, frozen=True):
    """`phases` empty: all. `everyone`: others' lines too, where the caller may see them. `account`: those of all users
    of the caller's account. `since`: epoch seconds."""

    after: tuple[float, str] | None
    limit: int
    phases: tuple[str, ...]
    everyone: bool
    site: str | None = None
    name: str | None = None
    since: float | None = None
    account: bool = False


def page(request: web.BaseRequest) -> Page:
    """`after`, `limit`, `phase` (several, or with commas between), `all`, `everyone`, `account`, `site`, `name`,
    `since`. Raises BadInput."""
    return Page(
        _after(request),
        _limit(request),
        _phases(request),
        _flag(request, "everyone"),
        _text(request, "site"),
        _text(request, "name"),
        _since(request),
        _flag(request, "account"),
    )


def _text(request: web.BaseRequest, name: str) -> str | None:
    """What cannot be UTF-8 is in no list."""
    text = request.query.get(name)
    return text if text is None else text.encode(errors="replace").decode()


def _since(request: web.BaseRequest) -> float | None:
    text = request.query.get("since")
    if text is None:
        return None
    try:
        # A plus that was not encoded has become a space on the way.
        return parse_instant(text.replace(" ", "+")).timestamp()
    except (ValueError, OverflowError):
        raise BadInput("an instant is wanted, such as 2026-11-22T13:00:00Z.", element="since") from None


def _after(request: web.BaseRequest) -> tuple[float, str] | None:
    text = request.query.get("after")
    if text is None:
        return None
    cursor = _CURSOR.fullmatch(text)
    if not cursor:
        raise BadInput("a cursor is wanted, as `next` of the page before has it.", element="after")
    return float(cursor[1]), cursor[2]


def _limit(request: web.BaseRequest) -> int:
    text = request.query.get("limit", str(LIMIT))
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= MOST:
        raise BadInput(f"a whole number from 1 to {MOST} is wanted.", element="limit")
    return int(text)


def _phases(request: web.BaseRequest) -> tuple[str, ...]:
    asked = tuple(part for text in request.query.getall("phase", []) for part in text.split(",") if part)
    for phase in asked:
        if phase not in SessionPhase.__members__:
            known = ", ".join(SessionPhase.__members__)
            raise BadInput("no such phase.", element="phase", remedy=f"There are: {known}.")
    return asked or (() if _flag(request, "all") else _SHOWN)


def _flag(request: web.BaseRequest, name: str) -> bool:
    text = request.query.get(name, "false")
    if text not in ("true", "false"):
        raise BadInput("true or false is wanted.", element=name)
    return text == "true"


def show(what: str, lines: Sequence[Listing], base: str, asked: Page) -> dict[str, Any]:
    """`what` is offersets or sessions: the list's own name, and the place of its members."""
    shown: dict[str, Any] = {
        what: [_line(line, f"{base}/{what}/{line.id}", asked.everyone or asked.account) for line in lines]
    }
    if len(lines) >= asked.limit:
        shown["next"] = f"{lines[-1].created!r}_{lines[-1].id}"  # the shortest digits that read back the same
    return shown


def _line(line: Listing, url: str, owned: bool) -> dict[str, Any]:
    created = format_instant(math.floor(line.created))
    drawn = {"uuid": line.id, "url": url, "name": line.name, "phase": line.phase, "created": created}
    if line.kind == "session":
        drawn["site"] = line.site
    if owned:
        drawn["owner"] = line.owner
    return drawn
