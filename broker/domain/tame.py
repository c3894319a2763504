"""JSON that a site wrote and that is handed on as it came: can everybody read it? Imports msgspec.

Typed decoders look at what they know, and skip the rest: a whole number of five thousand digits in a property nobody
knows would pass them, and then the reader of the answer, with the offers of all other sites in it, fails.
"""

from __future__ import annotations

import msgspec

DEEPEST = 64  # levels of nesting, as in what comes from users

_ANY = msgspec.json.Decoder()
_NOT_OPENING = bytes(byte for byte in range(256) if byte not in b"[{")


def wild(body: bytes) -> str:
    """Why a document cannot be handed on ("it …"): numbers beyond every reader's range, halves of characters, too
    deep; empty: it can. Costs half of what reading an offer costs."""
    try:
        document = _ANY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"cannot be read by everybody ({error})"
    if len(body.translate(None, _NOT_OPENING)) <= DEEPEST:  # two thirds of the time of two counts
        return ""
    level = [document]
    for _ in range(DEEPEST):
        level = [inner for item in level for inner in _inside(item) if isinstance(inner, dict | list)]
        if not level:
            return ""
    return f"is nested more than {DEEPEST} levels deep"


def _inside(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []
