"""XML as we write it. Imports xmlforms alone.

What a model knows is written by the model; a document of no schema in the form of xmltext, which carries its types
along; a problem as RFC 9457 has it.
"""

from __future__ import annotations

import json
import re
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from broker.api.xmlforms import ENTRY, ITEM, PROBLEM, Field, Form, Root, Shape, fields_of
from broker.domain.base import Family

_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_ELEMENT = re.compile(r"(?![xX][mM][lL])[A-Za-z_][A-Za-z0-9_.-]*")
# Of the characters that JSON can carry, XML 1.0 has no form for these; the bare carriage return would become a newline.
_SPECIAL = re.compile("[&<>\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_IN_ATTRIBUTES = re.compile(_SPECIAL.pattern[:-1] + '"\t\n]')
_ESCAPED = MappingProxyType(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
)


def encode_xml(document: Any, root: Root) -> bytes:
    """UTF-8. With a model, what the model does not know is left out, and what is none of its shapes. Characters that
    XML cannot carry become U+FFFD."""
    out: list[str] = [_HEAD]
    if root.model is not None:
        _write_object(out, root.name, root.model, document)
    elif root is PROBLEM:
        _write_plain(out, root.name, document, f' xmlns="{root.namespace}"')
    else:
        _write_anything(out, root.name, document)
    return "".join(out).encode()


def _write_object(out: list[str], name: str, model: type[BaseModel], value: Any) -> None:
    if not isinstance(value, dict):
        return
    kind = ""
    if issubclass(model, Family):
        named = value.get("kind")
        model, kind = model.choose(named), f' kind="{_attribute(named)}"' if isinstance(named, str) else ""
    out.append(f"<{name}{kind}>")
    for field in fields_of(model):
        if not field.attribute and value.get(field.name) is not None:
            _write_property(out, field, value[field.name])
    out.append(f"</{name}>")


def _write_property(out: list[str], field: Field, value: Any) -> None:
    if field.form.shape is not Shape.LIST:
        _write_value(out, field.name, field.form, value)
        return
    if not isinstance(value, list) or field.form.inner is None:
        return
    if field.wrapped:
        out.append(f"<{field.name}>")
    for item in value:
        _write_value(out, field.item, field.form.inner, item)
    if field.wrapped:
        out.append(f"</{field.name}>")


def _write_value(out: list[str], name: str, form: Form, value: Any, attributes: str = "") -> None:
    if form.shape is Shape.OBJECT and form.model is not None:
        _write_object(out, name, form.model, value)
    elif form.shape is Shape.MAP and form.inner is not None:
        if isinstance(value, dict):
            out.append(f"<{name}>")
            for key, item in value.items():
                _write_value(out, ENTRY, form.inner, item, f' name="{_attribute(key)}"')
            out.append(f"</{name}>")
    elif form.shape is Shape.ANY:
        _write_anything(out, name, value, attributes)
    elif isinstance(value, str | int | float):
        out.append(f"<{name}{attributes}>{_text(value)}</{name}>")


def _write_anything(out: list[str], name: str, value: Any, attributes: str = "") -> None:
    if isinstance(value, dict):
        out.append(f"<{name}{attributes}>" if value else f'<{name}{attributes} type="object">')
        for key, item in value.items():
            if key != ENTRY and _ELEMENT.fullmatch(key):
                _write_anything(out, key, item)
            else:
                _write_anything(out, ENTRY, item, f' name="{_attribute(key)}"')
    elif isinstance(value, list):
        out.append(f'<{name}{attributes} type="array">')
        for item in value:
            _write_anything(out, ITEM, item)
    else:
        out.append(f"<{name}{attributes}{_type_of(value)}>{_text(value)}")
    out.append(f"</{name}>")


def _type_of(value: Any) -> str:
    if isinstance(value, str):
        return ""
    named = {bool: "boolean", int: "integer", float: "number"}.get(type(value), "null")
    return f' type="{named}"'


def _write_plain(out: list[str], name: str, value: Any, attributes: str = "") -> None:
    """As RFC 9457 has it: no types, `i` for the items of a list."""
    out.append(f"<{name}{attributes}>")
    if isinstance(value, dict):
        for key, item in value.items():
            if _ELEMENT.fullmatch(key):
                _write_plain(out, key, item)
    elif isinstance(value, list):
        for item in value:
            _write_plain(out, "i", item)
    else:
        out.append(_text(value))
    out.append(f"</{name}>")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value)
    return _SPECIAL.sub(_escape, text)


def _attribute(text: str) -> str:
    return _IN_ATTRIBUTES.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return _ESCAPED.get(match[0], "\N{REPLACEMENT CHARACTER}")
