"""Reads a request's file, YAML or JSON, and remembers on which line each element stands. Imports yaml and errors.

YAML is read as JSON is meant: `no` and `12:30:00` are texts, no tags, anchors or repeated keys. The files are the
caller's own, so the guard is against slips, not attacks: the pure Python parser is used, which cannot crash.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from broker.client.errors import BadRequestFile

_LARGEST = 4 * 2**20  # bytes
_INT = re.compile(r"-?(0|[1-9]\d*)$")
_FLOAT = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$")
_WORDS = {"true": True, "false": False, "null": None, "": None}


@dataclass(frozen=True)
class Document:
    """`lines`: dotted path of an element → its line, from 1. Empty for JSON."""

    content: dict[str, Any]
    file: str = ""
    lines: dict[str, int] = field(default_factory=dict)

    def line(self, element: str) -> int:
        """The line of `element`, or of the nearest element around it that has one; 0: not known."""
        while element not in self.lines:
            if not element:
                return 0
            element = re.sub(r"(\.?[^.\[]*|\[\d+\])$", "", element)
        return self.lines[element]


def read(path: Path, wanted: str = "an object with the key executable") -> Document:
    """Raises BadRequestFile for what cannot be read."""
    document = read_any(path)
    if not isinstance(document.content, dict):
        raise BadRequestFile(f"{wanted} is wanted.", file=str(path))
    return document


def read_any(path: Path) -> Document:
    """As `read`; the content may be a list or a scalar too."""
    text = read_text(path)
    if path.suffix == ".json":
        return Document(_json(text, str(path)), str(path))
    lines: dict[str, int] = {}
    return Document(_yaml(text, str(path), lines), str(path), lines)


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError:
        raise BadRequestFile("not UTF-8.", file=str(path)) from None


def read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LARGEST:
            raise BadRequestFile(f"larger than {_LARGEST // 2**20} MiB.", file=str(path))
        return path.read_bytes()
    except OSError as error:
        raise BadRequestFile(f"{error.strerror or 'cannot be read'}.", file=str(path)) from None


def wrong(document: Document, element: str, detail: str, remedy: str = "", value: object = None) -> BadRequestFile:
    """A fault in a document, with the line it stands on."""
    return BadRequestFile(
        detail, element=element, remedy=remedy, value=value, file=document.file, line=document.line(element)
    )  # fmt: skip


def _json(text: str, file: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadRequestFile(f"not JSON: {error.msg}.", file=file, line=error.lineno) from None
    except RecursionError:
        raise BadRequestFile("nested too deeply.", file=file) from None


def _yaml(text: str, file: str, lines: dict[str, int]) -> Any:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        return _Builder(file, lines).build(node, "") if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BadRequestFile(
            f"not YAML: {error.problem or error.context}.", file=file, line=mark.line + 1 if mark else 0
        ) from None
    except yaml.YAMLError as error:
        raise BadRequestFile(f"not YAML: {str(error).splitlines()[0]}.", file=file) from None
    except RecursionError:
        raise BadRequestFile("nested too deeply.", file=file) from None


class _Builder:
    """From YAML nodes to JSON's values. An alias would be the same node a second time."""

    def __init__(self, file: str, lines: dict[str, int]) -> None:
        self._file = file
        self._lines = lines
        self._seen: set[int] = set()

    def build(self, node: yaml.Node, path: str) -> Any:
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if id(node) in self._seen:
            raise self._wrong("anchors and aliases are not read; write it out.", path, line)
        self._seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, f"{path}[{i}]") for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: str) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise self._wrong("a key is one word.", path, line)
            inner = f"{path}.{key.value}" if path else key.value
            if key.value in mapping:
                raise self._wrong("stands twice.", inner, line)
            self._lines[inner] = line
            mapping[key.value] = self.build(value, inner)
        return mapping

    def _scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        if getattr(node, "style", None) is not None:  # quoted or a block: a text, whatever it looks like
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.match(text) and len(text) < 20:
            return int(text)
        return float(text) if _FLOAT.match(text) and len(text) < 40 and abs(float(text)) < 1e308 else text

    def _wrong(self, detail: str, path: str, line: int) -> BadRequestFile:
        return BadRequestFile(detail, element=path, file=self._file, line=line)
