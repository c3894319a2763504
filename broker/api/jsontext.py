"""JSON as it comes from outside: RFC 8259 to the letter, and bounded. Imports the errors alone.

`sane` is what every decoder of this package passes its result through: afterwards the document can be walked,
stored and written in any of our formats without a surprise.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NoReturn

from broker.errors import Malformed

DEEPEST = 64  # levels of nesting; a request of the standard needs eight
MOST = 100_000  # elements and properties in all; to say what is wrong with millions takes the event loop many seconds
_SMALLEST, _LARGEST = -(2**63), 2**64 - 1  # what every JSON encoder in use can write


def decode_json(body: bytes) -> Any:
    """Raises Malformed: no UTF-8, no JSON, a key twice in one object, NaN, infinities, too deep, huge integers."""
    try:
        document = _DECODER.decode(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is no UTF-8 at byte {error.start}.") from None
    except RecursionError:
        raise _too_deep(DEEPEST) from None
    except json.JSONDecodeError as error:
        raise Malformed(f"the body is no JSON: line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except ValueError:  # Python refuses to convert integers of more than 4300 digits
        raise Malformed("the body holds a number that is too long.") from None
    return sane(document, DEEPEST)


def sane(document: Any, deepest: int) -> Any:
    """The document itself. Raises Malformed: too deep, too many elements; or, naming the element, a number or a text
    that no format can carry on (infinite, beyond 64 bits, half a surrogate pair, U+0000)."""
    level: list[Any] = [[document]]
    left = MOST
    for _ in range(deepest + 1):
        left -= sum(map(len, level))
        if left < 0:
            raise Malformed(f"the body holds more than {MOST} elements.", remedy="Ask for less at once.")
        inner: list[Any] = []
        for item in chain.from_iterable(map(_items, level)):
            if isinstance(item, dict | list):
                inner.append(item)
            elif fault := _fault(item):
                raise Malformed(fault, element=_printable(next(_paths(document, item), "")))
        if not inner:
            return document
        level = inner
    raise _too_deep(deepest)


def _items(container: Any) -> Iterable[Any]:
    return chain(container, container.values()) if isinstance(container, dict) else container


def _fault(value: Any) -> str:
    if isinstance(value, str):
        return _text_fault(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "the number is too large."
    if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
        return "a whole number of at most 64 bits is wanted."
    return ""


def _text_fault(text: str) -> str:
    if "\0" in text:
        return "the text holds the character U+0000."
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "the text holds half a surrogate pair."
    return ""


def _paths(container: Any, wanted: Any, path: str = "", depth: int = DEEPEST) -> Iterator[str]:
    """Where `wanted` itself stands, as key or value, within `depth` levels."""
    if not isinstance(container, dict | list) or not depth:
        return
    for key, item in container.items() if isinstance(container, dict) else enumerate(container):
        here = f"{path}[{key}]" if isinstance(key, int) else f"{path}.{key}" if path else key
        if key is wanted or item is wanted:
            yield here
        yield from _paths(item, wanted, here, depth - 1)


def _printable(path: str) -> str:
    return path.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _too_deep(deepest: int) -> Malformed:
    return Malformed(f"the body is nested more than {deepest} levels deep.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Readers differ in which of two equal keys they take, so what we checked may not be what a site reads.
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise Malformed(f"the key {json.dumps(twice[:100])} stands twice in one object.")
    return found


def _constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is no JSON.", remedy="Leave out what is not known.")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
