"""XML as it comes from outside. Imports xmlforms, jsontext, the domain, the errors, expat.

XML has no types, so it is read by a model: what each property is (xmlforms) says how its text is read, and what the
model does not know is refused by name. What has no schema carries its types along (`type="integer"`).

Reading builds from expat's *events*. There is nothing to expand and nothing to fetch: a document type is refused before
expat sees it, so no entity is ever declared; depth is judged as elements open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NoReturn
from xml.parsers import expat

from pydantic import BaseModel

from broker.api.jsontext import sane
from broker.api.xmlforms import ENTRY, ITEM, Field, Form, Shape, elements_of, root_of
from broker.domain.base import Family
from broker.domain.faults import in_place_of
from broker.errors import BadInput, Malformed

DEEPEST = 32
MOST = 10_000  # elements; each takes some microseconds of the event loop
_LONGEST = 100  # characters of a name that are told
_WHITE = " \t\r\n"
_TYPE = "type"

# ── the tree ─────────────────────────────────────────────────────────────────────────────────────────────────


class _Element:
    __slots__ = ("attributes", "children", "name", "pieces")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name, self.attributes = name, attributes
        self.pieces: list[str] = []
        self.children: list[_Element] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# What may stand before the root. Possessive throughout: no body makes it look at a byte more than twice.
_PROLOG = re.compile(rb"(?:\xef\xbb\xbf)?(?:[ \t\r\n]++|<\?(?>.*?\?>)|<!--(?>.*?-->))*+", re.DOTALL)


class _Builder:
    """Handlers for expat, and the tree they build. `_open` are the elements under construction."""

    def __init__(self) -> None:
        self.root: _Element | None = None
        self._open: list[_Element] = []
        self._left = MOST
        self._parser = parser = expat.ParserCreate("utf-8")
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.ProcessingInstructionHandler = self._instruction
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text

    def parse(self, body: bytes) -> _Element:
        if body.startswith(b"<!DOCTYPE", _PROLOG.match(body).end()):  # type: ignore[union-attr]  # it matches nothing too
            _refuse_doctype()
        try:
            self._parser.Parse(body, True)
        except expat.ExpatError as error:
            words = expat.ErrorString(error.code)
            raise Malformed(f"the body is no XML: line {error.lineno}, column {error.offset + 1}: {words}.") from None
        assert self.root is not None  # noqa: S101  expat takes no document without one
        return self.root

    def _declaration(self, version: str, encoding: str | None, standalone: int) -> None:
        if (encoding or "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
            self._refuse("only UTF-8 is read here")

    def _instruction(self, target: str, data: str) -> None:
        self._refuse("processing instructions (<?) are not read here")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) >= DEEPEST:
            self._refuse(f"nested more than {DEEPEST} levels deep")
        self._left -= 1
        if self._left < 0:
            self._refuse(f"the body holds more than {MOST} elements")
        element = _Element(name, attributes)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        self._open[-1].pieces.append(text)

    def _refuse(self, what: str) -> NoReturn:
        parser = self._parser
        raise Malformed(f"line {parser.CurrentLineNumber}, column {parser.CurrentColumnNumber + 1}: {what}.")


def _refuse_doctype(*_: object) -> NoReturn:
    raise Malformed("document types and entities (<!DOCTYPE) are not read here.", remedy="Leave them out.")


def _utf8(body: bytes) -> bytes:
    """The body, which is surely what it looks like: expat goes by a mark of another encoding even when told not to."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"the body is no UTF-8 at byte {error.start}.") from None
    if b"\0" in body:
        raise Malformed(f"the body is no XML: U+0000 at byte {body.index(0)}.")
    return body


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def decode_xml(body: bytes, model: type[BaseModel]) -> Any:
    """A `model` as its JSON form has it. Raises Malformed; BadInput naming an element or attribute that is not known.

    The caller bounds `body`. What is wrong with a value (a text for a number) is for whoever validates the document."""
    root = _Builder().parse(_utf8(body))
    names = {root_of(model).name, model.__name__}
    if issubclass(model, Family):
        names.add(model.choose(root.attributes.get("kind")).__name__)
    if root.name not in names:
        remedy = "Leave namespaces out." if root.name.rpartition(":")[2] in names else ""
        raise BadInput(f"<{root_of(model).name}> is wanted here.", element=root.name[:_LONGEST], remedy=remedy)
    return sane(_object(root, model, ""), DEEPEST)


def _object(element: _Element, model: type[BaseModel], path: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    known = True
    if issubclass(model, Family):
        found["kind"] = kind = _kind(element, path)
        model = model.choose(kind)
        known = ":" in kind  # a kind that is no URI is refused itself, and better words are found for it
    _check(element, path, "kind" if found else "")
    fields = elements_of(model)
    for name, group in _groups(element).items():
        if name in fields:
            where = _join(path, fields[name].name)
            if fields[name].name in found:
                raise BadInput("stands there both with and without a wrapper.", element=where)
            found[fields[name].name] = _property(group, fields[name], where)
        elif known:
            raise _unknown(name, model, path)
    return found


def _kind(element: _Element, path: str) -> str:
    if "kind" not in element.attributes:
        remedy = f'It is an attribute: <{element.name} kind="…">.'
        raise BadInput("is missing.", element=_join(path, "kind"), remedy=remedy)
    return element.attributes["kind"]


def _property(group: list[_Element], field: Field, path: str) -> Any:
    if field.form.shape is Shape.LIST:
        assert field.form.inner is not None  # noqa: S101  xmlforms gives every list one
        inner = field.form.inner
        return [_value(item, inner, f"{path}[{i}]") for i, item in enumerate(_items(group, field, path))]
    return _value(_alone(group, path), field.form, path)


def _items(group: list[_Element], field: Field, path: str) -> list[_Element]:
    if not _wraps(group[0], field):
        return group
    wrapper = _alone(group, path)
    _check(wrapper, path)
    if wrong := next((child.name for child in wrapper.children if child.name != field.item), ""):
        raise BadInput("no such element.", element=_join(path, wrong), remedy=f"There are: {field.item}.")
    return wrapper.children


def _wraps(element: _Element, field: Field) -> bool:
    """Many a writer puts a wrapper around any list. Where item and list have one name, an item is told by its `kind`,
    or by holding other things than itself."""
    if field.name != field.item:
        return element.name == field.name
    return not element.attributes and {child.name for child in element.children} == {field.item}


def _value(element: _Element, form: Form, path: str) -> Any:
    if form.shape is Shape.OBJECT:
        assert form.model is not None  # noqa: S101  xmlforms gives every object one
        return _object(element, form.model, path)
    if form.shape is Shape.MAP:
        return _map(element, form, path)
    if form.shape is Shape.ANY:
        return _anything(element, path)
    _check(element, path, "name" if element.name == ENTRY else "", scalar=True)
    return _scalar(element.text, form.shape)


def _map(element: _Element, form: Form, path: str) -> dict[str, Any]:
    assert form.inner is not None  # noqa: S101  xmlforms gives every map one
    inner = form.inner
    _check(element, path)
    if wrong := next((child.name for child in element.children if child.name != ENTRY), ""):
        remedy = f'Write <entry name="{wrong[:_LONGEST]}">.'
        raise BadInput("no such element.", element=_join(path, wrong), remedy=remedy)
    return _named(element, path, lambda child, where: _value(child, inner, where))


def _named(element: _Element, path: str, value: Callable[[_Element, str], Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for child in element.children:
        name = _entry_name(child, path) if child.name == ENTRY else child.name
        if name in found:
            raise BadInput("stands twice.", element=_join(path, name))
        found[name] = value(child, _join(path, name))
    return found


def _entry_name(element: _Element, path: str) -> str:
    if "name" not in element.attributes:
        remedy = 'Write <entry name="…">.'
        raise BadInput("an entry has a name.", element=_join(path, ENTRY), remedy=remedy)
    return element.attributes["name"]


_TRUTH = MappingProxyType({"true": True, "1": True, "false": False, "0": False})  # XML Schema's booleans
_WHOLE = re.compile(r"[+-]?[0-9]{1,400}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,9})?")


def _scalar(text: str, shape: Shape) -> Any:
    """The text itself where it is none of its shape."""
    word = text.strip(_WHITE)
    if shape is Shape.FLAG:
        return _TRUTH.get(word, text)
    if shape is Shape.WHOLE:
        return int(word) if _WHOLE.fullmatch(word) else text
    if shape is Shape.NUMBER:
        return float(word) if _NUMBER.fullmatch(word) else text
    return word if shape is Shape.WORD else text


# ── what has no schema ───────────────────────────────────────────────────────────────────────────────────────

_SHAPES = MappingProxyType(
    {"integer": Shape.WHOLE, "number": Shape.NUMBER, "boolean": Shape.FLAG, "string": Shape.TEXT}
)
_TYPES = (*_SHAPES, "object", "array", "null")


def _anything(element: _Element, path: str) -> Any:
    """By the attribute `type`; without it an object where there are elements, else a text."""
    kind = element.attributes.get(_TYPE, "object" if element.children else "string")
    if kind not in _TYPES:
        wrong = json.dumps(kind[:_LONGEST])
        raise BadInput(f"{wrong}: unknown.", element=_join(path, f"@{_TYPE}"), remedy=in_place_of(kind, _TYPES))
    _check(element, path, _TYPE, "name" if element.name == ENTRY else "", scalar=kind not in ("object", "array"))
    if kind == "array":
        if wrong := next((child.name for child in element.children if child.name != ITEM), ""):
            raise BadInput("no such element.", element=_join(path, wrong), remedy=f"There are: {ITEM}.")
        return [_anything(child, f"{path}[{i}]") for i, child in enumerate(element.children)]
    if kind == "object":
        return _named(element, path, _anything)
    return None if kind == "null" else _typed(element.text, kind, path)


def _typed(text: str, kind: str, path: str) -> Any:
    value = _scalar(text, _SHAPES[kind])
    if kind != "string" and isinstance(value, str):
        raise BadInput(f"{json.dumps(text[:_LONGEST])}: {kind} is wanted.", element=path)
    return value


# ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────


def _groups(element: _Element) -> dict[str, list[_Element]]:
    groups: dict[str, list[_Element]] = {}
    for child in element.children:
        groups.setdefault(child.name, []).append(child)
    return groups


def _alone(group: list[_Element], path: str) -> _Element:
    if len(group) > 1:
        raise BadInput("stands twice.", element=path)
    return group[0]


def _check(element: _Element, path: str, *allowed: str, scalar: bool = False) -> None:
    """No attributes but those allowed; elements or text, whichever it is that belongs there."""
    for name in element.attributes:
        if name not in allowed:
            known = ", ".join(filter(None, allowed))
            remedy = "Leave namespaces out." if name.partition(":")[0] == "xmlns" else f"There are: {known or 'none'}."
            raise BadInput("no such attribute.", element=_join(path, f"@{name}"), remedy=remedy)
    if scalar and element.children:
        raise BadInput("a text is wanted, not elements.", element=path)
    if not scalar and element.text.strip(_WHITE):
        raise BadInput("elements are wanted, not a text.", element=path or element.name)


def _unknown(name: str, model: type[BaseModel], path: str) -> BadInput:
    if issubclass(model, Family) and "members" in vars(model):
        # The family itself stands for a kind that nobody registered.
        remedy = "What is beyond the standard travels in JSON or YAML."
    else:
        remedy = in_place_of(name[:_LONGEST], elements_of(model))
    return BadInput("no such element.", element=_join(path, name), remedy=remedy)


def _join(path: str, name: str) -> str:
    name = name[:_LONGEST]
    return f"{path}.{name}" if path else name
