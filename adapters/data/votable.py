"""VOTables, as services of the Virtual Observatory answer in. Imports `votable_binary`, the errors, and expat.

What is read is another's word: no document type and so no entity, bounded in depth and elements, and in bytes by
whoever fetched it. The first table with data is read, in whichever of the serialisations that travel inside the
document (TABLEDATA, BINARY, BINARY2; VOTable 1.5, section 5). A table that cannot be read whole is not read at all:
a row that is lost would be a file that counts for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn
from xml.parsers import expat

from adapters.data.votable_binary import Field, unpack
from broker.errors import SiteMisbehaved

DEEPEST = 32
MOST_ELEMENTS = 20_000  # each takes a microsecond or two of the event loop
MOST_FIELDS = 500
_ENCODINGS = ("utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1")
_PACKED = ("BINARY", "BINARY2")

Row = Mapping[str, str | None]


class Votable(NamedTuple):
    """`rows`: each cell by its field's name in lower case; what is null, or blank, is None. `fields`: those names;
    none: there is no table. `status`: what QUERY_STATUS says, such as OK or ERROR, with its `words`; empty: it does
    not say. `overflow`: there are more rows than these."""

    fields: tuple[str, ...]
    rows: tuple[Row, ...]
    status: str = ""
    words: str = ""
    overflow: bool = False


def read(body: bytes) -> Votable:
    """Raises SiteMisbehaved, whose text goes on after a name of the service: "it answered with …"."""
    document = _Document()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.XmlDeclHandler = document.declaration
    parser.StartDoctypeDeclHandler = document.doctype
    parser.StartElementHandler = document.start
    parser.EndElementHandler = document.end
    parser.CharacterDataHandler = document.characters
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        words = expat.ErrorString(error.code)
        raise SiteMisbehaved(f"it answered with what is no XML (line {error.lineno}: {words}).") from None
    return document.read()


class _Document:
    """Takes events in, and keeps what counts of them. `_path`: the elements that are open, without namespaces."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._left = MOST_ELEMENTS
        self._text: list[str] | None = None  # where characters go now; None: nowhere
        self._taken = 0  # how deep the element lies whose characters they are
        self._fields: list[Field] = []
        self._form = ""  # how the table's data is written; empty: none has come yet
        self._over = False  # the table that is read has ended
        self._cells: list[list[str | None]] = []
        self._stream: list[str] = []
        self._status, self._words, self._overflow = "", "", False

    def read(self) -> Votable:
        rows: Iterable[list[str | None]] = self._cells
        if self._form in _PACKED:
            rows = unpack("".join(self._stream), self._fields, flagged=self._form == "BINARY2")
        return Votable(
            tuple(field.name for field in self._fields),
            tuple(self._row(cells) for cells in rows),
            self._status,
            self._words,
            self._overflow,
        )

    def _row(self, cells: list[str | None]) -> Row:
        if len(cells) != len(self._fields):
            _refuse(f"a table in which a row has {len(cells)} cells, for {len(self._fields)} fields")
        return {field.name: _value(text, field) for field, text in zip(self._fields, cells, strict=True)}

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if (encoding or "utf-8").lower() not in _ENCODINGS:
            _refuse("an encoding that is not read here")

    def doctype(self, *_: object) -> None:
        _refuse("a document type (<!DOCTYPE), which is not read here")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._left -= 1
        if self._left < 0:
            _refuse(f"more than {MOST_ELEMENTS} elements")
        if len(self._path) >= DEEPEST:
            _refuse(f"elements that are nested more than {DEEPEST} levels deep")
        if not self._path and name != "VOTABLE":
            _refuse(f"<{name[:40]}> and not with a VOTable")
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        if name == "INFO":
            self._info(attributes)
        elif not self._over:
            self._start_in_table(parent, name, attributes)

    def _start_in_table(self, parent: str, name: str, attributes: dict[str, str]) -> None:
        match parent, name:
            case "RESOURCE", "TABLE":
                self._fields = []  # those of a table before, which had no data
            case "TABLE", "FIELD":
                self._field(attributes)
            case "FIELD", "VALUES" if self._fields:
                self._fields[-1] = self._fields[-1]._replace(null=attributes.get("null"))
            case "DATA", _:
                if name not in ("TABLEDATA", *_PACKED, "INFO"):
                    _refuse(f"a table as {name[:40]}, which is not read here")
                self._form = name
            case "TABLEDATA", "TR":
                self._cells.append([])
            case "TR", "TD" if self._cells:
                self._take([])
            case (("BINARY" | "BINARY2"), "STREAM"):
                if "href" in attributes or attributes.get("encoding") != "base64":
                    _refuse("a table that lies elsewhere, or is packed as is not read here")
                self._take(self._stream)

    def _field(self, attributes: dict[str, str]) -> None:
        if len(self._fields) >= MOST_FIELDS:
            _refuse(f"a table of more than {MOST_FIELDS} fields")
        name = attributes.get("name") or attributes.get("ID") or ""
        self._fields.append(Field(name.strip().lower(), attributes.get("datatype", ""), attributes.get("arraysize")))

    def _info(self, attributes: dict[str, str]) -> None:
        """OVERFLOW comes after the table, and does not take back what was said before it."""
        if attributes.get("name") != "QUERY_STATUS":
            return
        status = attributes.get("value", "").strip().upper()
        if status == "OVERFLOW":
            self._overflow = True
        else:
            self._status = status
            self._take([])

    def _take(self, text: list[str]) -> None:
        self._text, self._taken = text, len(self._path)

    def characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def end(self, name: str) -> None:
        depth, name = len(self._path), self._path.pop()
        if name == "TABLE" and self._form:
            self._over = True
        if self._text is None or depth != self._taken:
            return
        if name == "TD":
            self._cells[-1].append("".join(self._text))
        elif name == "INFO":
            self._words = " ".join("".join(self._text).split())
        self._text = None


def _value(text: str | None, field: Field) -> str | None:
    text = text.strip() if text else ""
    return None if not text or text == field.null else text


def _refuse(what: str) -> NoReturn:
    raise SiteMisbehaved(f"it answered with {what}.")
