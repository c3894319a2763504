"""YAML as it comes from outside, and as we write it: JSON in another dress. Imports jsontext, the errors, PyYAML.

Reading builds from libyaml's *events*. PyYAML's own loaders are open to attack from outside: composing recurses in C
until the stack ends (26 thousand brackets kill the process), aliases and merge keys blow up, `no` is false and
12:30:00 a number. Here nothing recurses, and anchors, aliases, tags and merge keys are refused by name.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from broker.api.jsontext import sane
from broker.errors import Malformed

DEEPEST = 32
# Scalars of YAML 1.2's JSON schema (section 10.2); all else is text.
_WORDS = {"": None, "null": None, "true": True, "false": False}
_INT = re.compile(r"-?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_LONGEST_NUMBER = 400  # characters; beyond, a float says nothing more and an int is refused anyway


def decode_yaml(body: bytes) -> Any:
    """Raises Malformed, with line and column. The caller bounds `body`: 64 kB take tens of milliseconds at worst."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is no UTF-8 at byte {error.start}.") from None
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        raise Malformed(f"the body is no YAML: {_where(error.problem_mark)}{error.problem or error.context}.") from None
    except (yaml.YAMLError, UnicodeEncodeError) as error:
        raise Malformed(f"the body is no YAML: {' '.join(str(error).split())[:200]}.") from None
    return sane(builder.document, DEEPEST)


class _Builder:
    """Builds one document. `_open` are the objects and lists under construction, each object with its pending key."""

    def __init__(self) -> None:
        self.document: Any = None
        self._open: list[dict[str, Any] | list[Any]] = []
        self._keys: list[str | None] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.NodeEvent):
            _refuse_references(event)
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.MappingStartEvent):
            self._enter({}, event)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._enter([], event)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._open.pop()
            self._keys.pop()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise _refusal(event, "a second document begins", "Send one.")

    def _enter(self, container: dict[str, Any] | list[Any], event: yaml.Event) -> None:
        if len(self._open) >= DEEPEST:
            raise _refusal(event, f"nested more than {DEEPEST} levels deep")
        if self._open and isinstance(self._open[-1], dict) and self._keys[-1] is None:
            raise _refusal(event, "a key is a text, not an object or a list")
        self._put(container)
        self._open.append(container)
        self._keys.append(None)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        if self._open and isinstance(self._open[-1], dict) and self._keys[-1] is None:
            self._key(event, self._open[-1])
        else:
            self._put(_value(event))

    def _key(self, event: yaml.ScalarEvent, container: dict[str, Any]) -> None:
        if event.value == "<<" and event.implicit[0]:
            raise _refusal(event, "merge keys (<<) are not read here", "Write the values out.")
        if event.value in container:
            raise _refusal(event, f'the key "{event.value[:100]}" stands twice in one object')
        self._keys[-1] = event.value

    def _put(self, value: Any) -> None:
        if not self._open:
            self.document = value
            return
        container = self._open[-1]
        if isinstance(container, list):
            container.append(value)
            return
        key = self._keys[-1]
        assert key is not None  # noqa: S101  a value follows its key: libyaml's own grammar
        container[key] = value
        self._keys[-1] = None


def _refuse_references(event: yaml.NodeEvent) -> None:
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _refusal(event, "anchors (&) and aliases (*) are not read here", "Write the values out, or quote them.")
    if getattr(event, "tag", None) is not None:
        raise _refusal(event, "tags (!) are not read here", "Leave the tag out, or quote the text.")


def _value(event: yaml.ScalarEvent) -> Any:
    text: str = event.value
    if not event.implicit[0]:  # quoted, or a block
        return text
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > _LONGEST_NUMBER:
        return text
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _refusal(event: yaml.Event, what: str, remedy: str = "") -> Malformed:
    return Malformed(f"{_where(event.start_mark)}{what}.", remedy=remedy)


def _where(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""


class _Dumper(yaml.CSafeDumper):
    """Quotes every text that some YAML reader, 1.1 or 1.2, would take for something else; writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# PyYAML quotes what YAML 1.1 would misread. 1.2's core schema has numbers that 1.1 lacks, such as 1e3 and 0o17.
_NUMBER_12 = re.compile(r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|0o[0-7]+)$")
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER_12, list("-+.0123456789"))


def encode_yaml(document: Any) -> bytes:
    """UTF-8; block style, keys in their order."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()
