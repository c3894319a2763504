"""Whether a document conforms to an OpenAPI description of the Execution Broker: a check that can fail.

Plain JSON Schema validation of the published description accepts `{}` as an offer set and a bogus phase inside one:
discriminators are no part of it, and every property is optional. This helper follows `discriminator.mapping` to the
concrete schema, refuses properties that are documented neither in the law nor among the additions, and wants what no
client can do without. Imports
the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

JsonObject = Mapping[str, Any]

# What generated clients need though 1.0 calls it optional: they follow uuid, phase and result.
NEEDED: Mapping[str, tuple[str, ...]] = {
    "OfferSetResponse": ("kind", "meta.uuid", "meta.url", "result"),
    "SimpleExecutionSession": ("kind", "meta.uuid", "meta.url", "phase"),
    "MessageItem": ("level", "template", "message"),
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_FORMATS = {
    "uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
    "uri": re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+"),
    "date-time": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"),
}


@dataclass(frozen=True)
class _Shape:
    """One schema with all its `allOf` folded in. `names`: every schema it is made of."""

    schema: JsonObject
    names: frozenset[str] = frozenset()
    properties: Mapping[str, JsonObject] = field(default_factory=dict)
    required: frozenset[str] = frozenset()


class Conformance:
    """`law` is the standard's own document; `additions` a document whose further properties and kinds are allowed
    (a broker's own /openapi.json): those marked `x-addition`, and nothing else of it."""

    def __init__(self, law: JsonObject, additions: JsonObject | None = None) -> None:
        self._law = law["components"]["schemas"]
        self._more = additions["components"]["schemas"] if additions else {}

    def faults(self, document: object, schema: str) -> list[str]:
        """Each fault as `path: what is wrong`; an empty list is conformance."""
        return list(self._check(document, {"$ref": f"#/components/schemas/{schema}"}, "$"))

    def _check(self, value: object, schema: JsonObject, path: str) -> Iterator[str]:
        shape = self._shape(schema)
        kind = value.get("kind") if isinstance(value, dict) else None
        mapping = self._mapping(shape)
        if mapping is not None:
            if not isinstance(kind, str) or kind not in mapping:
                yield f"{path}.kind: {kind!r} is no documented kind"
                return
            shape = self._shape({"$ref": mapping[kind]})
        yield from self._scalar(value, shape.schema, path)
        if isinstance(value, dict):
            yield from self._object(value, shape, path)
        if isinstance(value, list):
            for i, item in enumerate(value):
                yield from self._check(item, shape.schema.get("items", {}), f"{path}[{i}]")

    def _scalar(self, value: object, schema: JsonObject, path: str) -> Iterator[str]:
        wanted = schema.get("type")
        if wanted and (not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean")):
            yield f"{path}: {type(value).__name__} where {wanted} is documented"
            return
        if "enum" in schema and value not in schema["enum"]:
            yield f"{path}: {value!r} is none of {', '.join(map(str, schema['enum']))}"
        if isinstance(value, str):
            if "pattern" in schema and not re.search(schema["pattern"], value):
                yield f"{path}: {value!r} does not have the documented form"
            form = _FORMATS.get(schema.get("format", ""))
            if form and not form.fullmatch(value):
                yield f"{path}: {value!r} is no {schema['format']}"

    def _object(self, value: Mapping[str, Any], shape: _Shape, path: str) -> Iterator[str]:
        needed = {name for schema in shape.names for name in NEEDED.get(schema, ())}
        for name in sorted(shape.required | needed):
            if _dig(value, name) is None:
                yield f"{path}.{name}: missing"
        free = shape.schema.get("additionalProperties")
        for name, item in value.items():
            if name in shape.properties:
                yield from self._check(item, shape.properties[name], f"{path}.{name}")
            elif isinstance(free, dict):
                yield from self._check(item, free, f"{path}.{name}")
            elif shape.properties:
                yield f"{path}.{name}: documented nowhere"

    def _mapping(self, shape: _Shape) -> Mapping[str, str] | None:
        """Kind → schema, where this is an abstract family; ours beside the law's."""
        own = shape.schema.get("discriminator")
        if own is None:
            return None
        mapping = dict(own["mapping"])
        more = self._more.get(str(shape.schema.get("title")), {}).get("discriminator", {}).get("mapping", {})
        for kind, reference in more.items():
            if self._more[_name(reference)].get("x-addition"):
                mapping.setdefault(kind, reference)
        return mapping

    def _shape(self, schema: JsonObject) -> _Shape:
        name = _name(schema["$ref"]) if "$ref" in schema else ""
        found = self._law.get(name, self._more.get(name)) if name else schema
        if found is None:
            raise KeyError(f"{name} is described nowhere")
        names, properties = {name} - {""}, dict(found.get("properties", {}))
        required = set(found.get("required", ()))
        for part in found.get("allOf", ()):
            inner = self._shape(part)
            names |= inner.names
            properties |= inner.properties
            required |= inner.required
        # An addition to a schema of the law is documented in ours, under the same name, and marked so.
        for part in self._parts(name):
            for key, item in part.get("properties", {}).items():
                if item.get("x-addition"):
                    properties.setdefault(key, item)
        merged = {key: value for key, value in found.items() if key != "allOf"}
        if properties:
            merged.setdefault("type", "object")
        return _Shape(merged, frozenset(names), properties, frozenset(required))

    def _parts(self, name: str) -> Iterator[JsonObject]:
        own = self._more.get(name, {})
        yield own
        yield from (part for part in own.get("allOf", ()) if "$ref" not in part)


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[-1]


def _dig(value: Mapping[str, Any], path: str) -> object:
    found: object = value
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
