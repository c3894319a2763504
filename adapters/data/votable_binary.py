"""The two packed forms of a VOTable's rows (VOTable 1.5, sections 5.3 and 5.4). Imports the errors.

Cells come out as texts, like those of the other form. Arrays of numbers, which nobody here needs, come out as None.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite, prod
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from broker.errors import SiteMisbehaved

MOST_CELLS = 50_000  # each takes a microsecond or two of the event loop
MOST_SIZES = 10  # dimensions of an array; they are multiplied

# A type's bytes, and how struct has it; none: it is a text, or nothing that anybody wants to know.
_TYPES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "boolean": (1, ""),
        "bit": (1, ""),  # an eighth
        "unsignedByte": (1, ">B"),
        "short": (2, ">h"),
        "int": (4, ">i"),
        "long": (8, ">q"),
        "char": (1, ""),
        "unicodeChar": (2, ""),
        "float": (4, ">f"),
        "double": (8, ">d"),
        "floatComplex": (8, ""),
        "doubleComplex": (16, ""),
    }
)
_TEXTS: Mapping[str, str] = MappingProxyType({"char": "utf-8", "unicodeChar": "utf-16-be"})


class Field(NamedTuple):
    """`null`: how the table writes that there is no value. `arraysize`: None is a single value."""

    name: str
    datatype: str = "char"
    arraysize: str | None = None
    null: str | None = None


def unpack(stream: str, fields: Sequence[Field], *, flagged: bool) -> Iterator[list[str | None]]:
    """The rows of base64 text. `flagged`: it is BINARY2, in which flags before each row say what is null. Raises
    SiteMisbehaved."""
    try:
        packed = base64.b64decode(stream)
    except (binascii.Error, ValueError):  # the latter for what is not even ASCII
        _refuse("no base64")
    shapes = [_Shape(field) for field in fields]
    position, left = 0, MOST_CELLS
    while position < len(packed):
        left -= len(fields)
        if left < 0:
            _refuse(f"more than {MOST_CELLS} cells")
        begin = position
        flags = b""
        if flagged:
            flags, position = _take(packed, position, (len(fields) + 7) // 8)
        cells: list[str | None] = []
        for i, shape in enumerate(shapes):
            text, position = shape.read(packed, position)
            cells.append(None if flags and flags[i // 8] & (0x80 >> i % 8) else text)
        if position == begin:
            _refuse("rows of no bytes")
        yield cells


class _Shape:
    """How one field's cells lie in the bytes."""

    def __init__(self, field: Field) -> None:
        if field.datatype not in _TYPES:
            _refuse(f"a type that there is none of: {field.datatype[:40]}")
        self._type = field.datatype
        self._size, self._code = _TYPES[field.datatype]
        sizes = (field.arraysize or "1").split("x")
        self._varies = sizes[-1].endswith("*")
        numbers = sizes[:-1] if self._varies else sizes
        if len(sizes) > MOST_SIZES or not all(
            number.isascii() and number.isdigit() and len(number) < 10 for number in numbers
        ):
            _refuse(f"an arraysize that is none: {(field.arraysize or '')[:40]}")
        self._count = 0 if self._varies else prod(map(int, numbers))
        self._single = field.arraysize in (None, "1")

    def read(self, packed: bytes, position: int) -> tuple[str | None, int]:
        count = self._count
        if self._varies:
            length, position = _take(packed, position, 4)
            count = int.from_bytes(length, "big")
        piece, position = _take(packed, position, (count + 7) // 8 if self._type == "bit" else count * self._size)
        if self._type in _TEXTS:
            return piece.decode(_TEXTS[self._type], "replace").partition("\0")[0], position
        if not self._single or not self._code:
            return None, position
        (number,) = struct.unpack(self._code, piece)
        return (str(number) if isfinite(number) else None), position


def _take(packed: bytes, position: int, count: int) -> tuple[bytes, int]:
    end = position + count
    if end > len(packed):
        _refuse("a row that breaks off")
    return packed[position:end], end


def _refuse(what: str) -> NoReturn:
    raise SiteMisbehaved(f"it answered with a packed table that holds {what}.")
