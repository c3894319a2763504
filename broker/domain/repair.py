"""Mending an offer that does not conform: what offends is left out, and said. Imports msgspec and the domain.

The cold path of `offer.read`: a conforming offer never comes here, and keeps its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import msgspec

from broker.domain import kinds

MOST = 16  # repairs of one offer; beyond, nothing that it says is worth passing on

_ONE, _MANY = ("executable", "compute"), ("storage", "data")
_KNOWN = frozenset({*kinds.EXECUTABLES, *kinds.DATA, kinds.SIMPLE_COMPUTE, kinds.SIMPLE_STORAGE})

_WHERE = re.compile(r" - at `(?:key in )?\$(.*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")


class Mended(msgspec.Struct, frozen=True):
    """`body` is the whole offer; `judged` the part of it whose forms are known (mostly the same bytes)."""

    body: bytes
    judged: bytes
    repairs: tuple[str, ...]


def mend(body: bytes, decoder: msgspec.json.Decoder[Any], asked: Collection[str]) -> Mended | str:
    """Leaves out one offending element after the other until `decoder` takes the rest; a text: why it cannot.

    A component of a kind outside 1.0 that the caller `asked` for is kept, unjudged.
    """
    try:
        offer = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        return f"its offer is no JSON that can be read ({error})"
    if not isinstance(offer, dict):
        return "its offer is no JSON object"
    foreign = _set_aside(offer, asked)
    repairs: list[str] = []
    while len(repairs) <= MOST:
        judged = msgspec.json.encode(offer)
        try:
            decoder.decode(judged)
        except msgspec.ValidationError as error:
            repair = _leave_out(offer, str(error))
            if repair is None:
                return f"its offer does not conform to version 1.0 ({error})"
            repairs.append(repair)
            continue
        return Mended(_put_back(offer, foreign), judged, tuple(repairs))
    return f"its offer departs from version 1.0 in more than {MOST} places (first: {repairs[0]})"


def _foreign(element: object, asked: Collection[str]) -> bool:
    kind = element.get("kind") if isinstance(element, dict) else None
    return isinstance(kind, str) and kind in asked and kind not in _KNOWN


def _set_aside(offer: dict[str, Any], asked: Collection[str]) -> dict[str, Any]:
    aside: dict[str, Any] = {name: offer.pop(name) for name in _ONE if _foreign(offer.get(name), asked)}
    for name in _MANY:
        items = offer.get(name)
        if isinstance(items, list) and any(_foreign(item, asked) for item in items):
            aside[name] = [item for item in items if _foreign(item, asked)]
            offer[name] = [item for item in items if not _foreign(item, asked)]
    return aside


def _put_back(offer: dict[str, Any], aside: dict[str, Any]) -> bytes:
    """Of a list, what was set aside comes last: its items are told apart by name and uuid, not by place."""
    whole = dict(offer)
    for name, element in aside.items():
        whole[name] = [*(whole.get(name) or ()), *element] if name in _MANY else element
    return msgspec.json.encode(whole)


def _leave_out(offer: dict[str, Any], error: str) -> str | None:
    """Removes the element that a validation error names, in place. None: the error names the whole offer."""
    where = _WHERE.search(error)
    steps = [name or index for name, index in _STEP.findall(where.group(1))] if where else []
    if not steps:
        return None
    node: Any = offer
    for step in steps[:-1]:
        node = node[int(step)] if isinstance(node, list) else node[step]
    last, path = steps[-1], _dotted(steps)
    if isinstance(node, list):
        del node[int(last)]
    elif last == "...":  # an entry of a map of texts: msgspec does not say which
        for name in [name for name, value in node.items() if not isinstance(value, str)]:
            del node[name]
        path = _dotted(steps[:-1])
    else:
        del node[last]
    return f"{path} was left out: {_words(error)}"


def _dotted(steps: list[str]) -> str:
    path = "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in steps)
    return path.removeprefix(".")


def _words(error: str) -> str:
    what = _WHERE.sub("", error)
    if "matching regex" in what:
        return "it has not the form of version 1.0"
    return what[:1].lower() + what[1:200].replace("`", "")
