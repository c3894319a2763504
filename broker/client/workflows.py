"""A workflow of this machine, brought along in its request: the main document, and the files that it and its inputs
refer to. Imports the client's documents and the domain.

    run, $import, $include      documents and texts beside the one that names them: attached, at their relative paths
    a File in the inputs        `data/<name>` of a data resource stays; a URL becomes a data resource, so that sites
                                stage it, and are ranked by where it lies; a file beside the inputs is attached

Only CWL is followed (https://www.commonwl.org/v1.2/SchemaSalad.html#Document_preprocessing). Of other languages a
request names its attachments itself.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from broker.client.documents import Document, read_any, read_bytes, wrong
from broker.errors import BadInput

LARGEST = 512 * 1024  # bytes of all files that go along: a request is a message, not a transport of data
_MOST = 200  # files
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")
_DOCUMENTS = (".cwl", ".yml", ".yaml", ".json")


def bring(
    content: dict[str, Any], document: Document, inputs: Document, as_data: Callable[[str], dict[str, Any]]
) -> None:
    """Attach the main document, where it lies on this machine, and all that it and the inputs refer to. `document` is
    the request's, `inputs` that of the inputs: relative places are meant from there. `as_data`: the data resource that
    an address stands for. Changes `content`.

    Raises BadRequestFile naming file, key and line of what is not there."""
    executable = content["executable"]
    luggage = Luggage()
    given = executable.get("attachments") or []
    if not isinstance(given, list):
        return  # the check that follows says so
    attached = {item.get("path") for item in given if isinstance(item, dict)}
    location = executable.get("location")
    if isinstance(location, str) and location.partition("#")[0] not in attached and not _URL.match(location):
        _bring_documents(executable, location, document, luggage)
    _bring_inputs(content, inputs, luggage, attached, as_data)
    if packed := luggage.packed():
        executable["attachments"] = [*given, *packed]


def parameters(texts: Sequence[str]) -> dict[str, Any]:
    """`NAME=VALUE` each; a value that is JSON is what it says, any other is a text. Raises BadInput."""
    found = {}
    for text in texts:
        name, mark, value = text.partition("=")
        if not name or not mark:
            raise BadInput(f'"{text}" is no parameter.', remedy="Write NAME=VALUE.")
        try:
            found[name] = json.loads(value, parse_constant=_no_number)
        except ValueError:
            found[name] = value
    return found


def _no_number(word: str) -> None:
    """NaN and its like, which Python reads and JSON does not have."""
    raise ValueError(word)


class Luggage:
    """The files that go along, by where they lie here: `beside` each other as they lie here, and those of the `inputs`,
    each with a place of its own."""

    def __init__(self) -> None:
        self._beside: dict[Path, bytes] = {}
        self._inputs: dict[Path, tuple[str, bytes]] = {}
        self._bytes = 0

    def add(self, path: Path, document: Document, element: str, value: str) -> bool:
        """False: it was there already. The rest says what refers to it."""
        if path in self._beside:
            return False
        self._beside[path] = self._read(path, document, element, value)
        return True

    def add_input(self, path: Path, taken: set[Any], document: Document, element: str, value: str) -> str:
        """Returns its place. `taken`: those that it must not have."""
        if path not in self._inputs:
            there = {str(place).removeprefix("inputs/") for place in (*taken, *(at for at, _ in self._inputs.values()))}
            body = self._read(path, document, element, value)
            self._inputs[path] = f"inputs/{_own(_fit(path.name), there)}", body
        return self._inputs[path][0]

    def _read(self, path: Path, document: Document, element: str, value: str) -> bytes:
        if not path.is_file():
            raise wrong(document, element, "no such file.", value=value)
        body = read_bytes(path)
        self._bytes += len(body)
        if self._bytes > LARGEST or len(self._beside) + len(self._inputs) >= _MOST:
            text = f"more than {LARGEST // 1024} KiB or {_MOST} files would go along."
            raise wrong(document, element, text, "Name large files by URL: sites fetch them.", value)
        return body

    @property
    def root(self) -> Path:
        """The folder that is one at the site."""
        return Path(os.path.commonpath([path.parent for path in self._beside]))

    def packed(self) -> list[dict[str, Any]]:
        beside = [(path.relative_to(self.root).as_posix(), body) for path, body in self._beside.items()]
        return [_attachment(place, body) for place, body in (*beside, *self._inputs.values())]


def _attachment(path: str, body: bytes) -> dict[str, Any]:
    """Text as it is, anything else as a data URL (RFC 2397)."""
    try:
        return {"path": path, "source": body.decode()}
    except UnicodeDecodeError:
        return {"path": path, "location": f"data:application/octet-stream;base64,{base64.b64encode(body).decode()}"}


def _absolute(path: Path) -> Path:
    """No link is followed: a file is known to the others by the name it has here."""
    return Path(os.path.abspath(path))


def _fit(name: str) -> str:
    """As sites name files (adapters/common/laying.py)."""
    return re.sub(r"[^\w.+-]", "_", name) or "file"


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────


def _bring_documents(executable: dict[str, Any], location: str, document: Document, luggage: Luggage) -> None:
    place, mark, process = location.partition("#")
    main = _absolute(Path(document.file).parent / place)
    content = _follow(main, luggage, document, "executable.location", place)
    if main.suffix in _DOCUMENTS:
        executable.setdefault("type", "CWL")
    version = content.get("cwlVersion") if isinstance(content, dict) else None
    if isinstance(version, str):
        executable.setdefault("version", version)
    executable["location"] = main.relative_to(luggage.root).as_posix() + mark + process


def _follow(path: Path, luggage: Luggage, document: Document, element: str, value: str) -> Any:
    """Add a document and what it refers to. Returns its content."""
    if not luggage.add(path, document, element, value) or path.suffix not in _DOCUMENTS:
        return None
    read = read_any(path)
    for where, name, is_document in _references(read.content, ""):
        place = name.partition("#")[0]
        target = _absolute(path.parent / place)
        if is_document:
            _follow(target, luggage, read, where, place)
        else:
            luggage.add(target, read, where, place)
    return read.content


def _references(value: Any, element: str) -> Iterator[tuple[str, str, bool]]:
    """(element, relative path, whether it is a document) of what a document refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            where = f"{element}.{key}" if element else str(key)
            if isinstance(inner, str) and key in ("run", "$import", "$include"):
                if not _URL.match(inner) and not inner.startswith("#"):
                    yield where, inner, key != "$include"
            elif key == "default":
                yield from ((at, place, False) for at, _, place in _files(inner, where) if not _URL.match(place))
            else:
                yield from _references(inner, where)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _references(inner, f"{element}[{i}]")


# ── inputs ───────────────────────────────────────────────────────────────────────────────────────────────────


def _bring_inputs(
    content: dict[str, Any],
    inputs: Document,
    luggage: Luggage,
    attached: set[Any],
    as_data: Callable[[str], dict[str, Any]],
) -> None:
    executable = content["executable"]
    named = {item["meta"]["name"] for item in content.get("data") or () if _is_named(item)}
    # Where the inputs have a file of their own, its keys are the elements that are told.
    prefix = "" if "executable" not in inputs.content else "executable.parameters"
    for element, item, place in list(_files(executable.get("parameters"), prefix)):
        element = element.removeprefix(".")
        if place in attached or place == "data" or place.removeprefix("data/") in {_fit(name) for name in named}:
            continue
        if item["class"] == "Directory":
            raise wrong(inputs, element, "a folder does not go along.", "Name its files.", place)
        if _URL.match(place) and not place.lower().startswith("file:"):
            moved = _staged(content, as_data(place), place, named)
        else:
            path = Path(unquote(urlsplit(place).path)) if _URL.match(place) else Path(inputs.file).parent / place
            moved = luggage.add_input(_absolute(path), attached, inputs, element, place)
        item.pop("path", None)
        item["location"] = moved


def _is_named(item: Any) -> bool:
    meta = item.get("meta") if isinstance(item, dict) else None
    return isinstance(meta, dict) and isinstance(meta.get("name"), str)


def _staged(content: dict[str, Any], wanted: dict[str, Any], url: str, named: set[str]) -> str:
    """The place of a data resource for the workflow; it is added to the request where it is not among its data."""
    data = content["data"] = list(content.get("data") or ())
    for item in data:
        if _is_named(item) and {key: value for key, value in item.items() if key != "meta"} == wanted:
            return f"data/{_fit(item['meta']['name'])}"
    stem = _fit(re.split(r"[/:]", unquote(re.split(r"[?#]", url)[0]))[-1][-100:])
    name = _own(stem, named)
    named.add(name)
    data.append({**wanted, "meta": {"name": name}})
    return f"data/{name}"


def _own(name: str, taken: Container[str]) -> str:
    """The name, or one like it that nothing has."""
    found, i = name, 1
    while found in taken:
        i += 1
        found = f"{i}-{name}"
    return found


def _files(value: Any, element: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """(element, the object, its place) of each File and Directory that names one."""
    if isinstance(value, dict):
        place = value.get("location") or value.get("path")
        if value.get("class") in ("File", "Directory") and isinstance(place, str):
            yield element, value, place
        for key, inner in value.items():
            yield from _files(inner, f"{element}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _files(inner, f"{element}[{i}]")
