"""A page of an S3 bucket's list (ListObjectsV2). Pure; imports expat.

Reading is by expat's events: nothing is expanded and nothing fetched, since a document type is refused before anything
is declared in it.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.parsers import expat

from adapters.data.sizes import whole

MOST_ON_A_PAGE = 1000  # of version 2 of the call
MOST_ELEMENTS = 50 * MOST_ON_A_PAGE  # an object has a dozen; each takes a microsecond of the event loop
_DEEPEST = 16
_LONGEST = 8192  # characters of one element; a key has 1024 bytes, three characters each where they are encoded
_TAPE = ("GLACIER", "DEEP_ARCHIVE")


class Unreadable(Exception):
    """What is wrong with the list, as part of a sentence."""


class Entry(NamedTuple):
    """`tape`: it must be restored before it can be read."""

    key: str
    bytes: int
    tape: bool


class Page(NamedTuple):
    """`more`: the token of the next page; None: this is the last."""

    entries: tuple[Entry, ...]
    more: str | None


def page(body: bytes) -> Page:
    """Raises Unreadable where anything that counts is not there, or not what it should be."""
    reader = _Reader()
    reader.read(body)
    top, encoded = reader.top, reader.top.get("EncodingType") == "url"
    if reader.root != "ListBucketResult":
        raise Unreadable("it is no list of objects")
    if len(reader.objects) > MOST_ON_A_PAGE:
        raise Unreadable("it has more objects on a page than there can be")
    match top.get("IsTruncated"):
        case "false":
            more = None
        case "true":
            more = top.get("NextContinuationToken")
            if not more:
                raise Unreadable("it goes on, but does not say where")
        case _:
            raise Unreadable("it does not say whether it goes on")
    return Page(tuple(_entry(told, encoded) for told in reader.objects), more)


def fault(body: bytes) -> str:
    """The code of an error's document, such as NoSuchBucket; empty: none can be read."""
    reader = _Reader()
    try:
        reader.read(body[:65536])
    except Unreadable:
        return ""
    return reader.top.get("Code", "")[:64] if reader.root == "Error" else ""


def archived(storage_class: str | None, restored: bool) -> bool:
    return storage_class in _TAPE and not restored


def _entry(told: dict[str, str], encoded: bool) -> Entry:
    key, size = told.get("Key"), whole(told.get("Size"))
    if key is None:
        raise Unreadable("an object has no key")
    if size is None:
        raise Unreadable("an object has no size")
    restored = told.get("IsRestoreInProgress") == "false" and "RestoreExpiryDate" in told
    return Entry(unquote_plus(key) if encoded else key, size, archived(told.get("StorageClass"), restored))


class _Reader:
    """Handlers for expat. `top`: the texts right below the root; `objects`: those of each object, by name."""

    def __init__(self) -> None:
        self.root = ""
        self.top: dict[str, str] = {}
        self.objects: list[dict[str, str]] = []
        self._path: list[str] = []
        self._text: list[str] = []
        self._length = 0
        self._left = MOST_ELEMENTS
        self._parser = parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def read(self, body: bytes) -> None:
        try:
            self._parser.Parse(body, True)
        except expat.ExpatError as error:
            raise Unreadable(f"it is no XML ({expat.ErrorString(error.code)})") from None

    def _doctype(self, *_: object) -> None:
        raise Unreadable("it declares a document type, which no list does")

    def _start(self, name: str, _: dict[str, str]) -> None:
        name = name.rpartition(":")[2]
        self._left -= 1
        if self._left < 0:
            raise Unreadable("it has more elements than any page")
        if len(self._path) >= _DEEPEST:
            raise Unreadable("it is nested too deep")
        self.root = self.root or name
        self._path.append(name)
        self._text, self._length = [], 0
        if self._path[1:] == ["Contents"]:
            self.objects.append({})

    def _characters(self, text: str) -> None:
        self._length += len(text)
        if self._length > _LONGEST:
            raise Unreadable("one of its elements is too long")
        self._text.append(text)

    def _end(self, _: str) -> None:
        path, text = self._path, "".join(self._text)
        if len(path) == 2:
            self.top[path[1]] = text
        elif len(path) > 2 and path[1] == "Contents":
            self.objects[-1][path[-1]] = text
        path.pop()
        self._text = []
