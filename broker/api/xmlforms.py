"""How each model looks as XML: names of elements, what is an attribute, which lists have a wrapper. Imports the domain.

Both xmltext, which reads and writes, and openapi, which describes, follow these tables. The standard's part of them is
its `xml` hints (execution-broker-1.0.openapi.json), read as OpenAPI 3.1 means them: a list is its element repeated,
under the name that `items` has or else the property's own; only `wrapped` puts another element around it. Lists that
are additions of ours are all wrapped, so that an empty one can be told from none.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from broker.domain.base import Family
from broker.domain.components import AbstractComponent, ComponentMetadata, MessageItem
from broker.domain.executables import PythonProgram, Workflow
from broker.domain.preferences import Preferences
from broker.domain.quantities import Interval
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleComputeResource
from broker.domain.schedule import MinMaxDuration
from broker.domain.session import (
    AbstractExecutionSession,
    LocalityNote,
    OfferSetResponse,
    OutcomeNote,
    RankingNote,
    SimpleExecutionSession,
)
from broker.domain.site import Profile, Registration, StorageElement
from broker.domain.updates import AbstractUpdate

# What a model is called where it is a document of its own. The standard has no name for updates, and none of ours.
ROOTS: Mapping[type[BaseModel], str] = MappingProxyType(
    {
        ExecutionRequest: "offers-request",
        OfferSetResponse: "offers-response",
        AbstractExecutionSession: "execution",
        SimpleExecutionSession: "execution",
        MessageItem: "message",
        MinMaxDuration: "duration",
        AbstractUpdate: "update",
        Registration: "site",
        Profile: "profile",
    }
)
# Lists without a wrapper whose items are not called as the property is: model → property → item.
_REPEATED: Mapping[type[BaseModel], Mapping[str, str]] = MappingProxyType(
    {
        ComponentMetadata: {"messages": "message"},
        AbstractComponent: {"costs": "cost", "metrics": "metric"},
        ExecutionRequest: {"costs": "cost", "metrics": "metric"},
    }
)
_WRAPPED: Mapping[type[BaseModel], Mapping[str, str]] = MappingProxyType(
    {
        OfferSetResponse: {"offers": "execution", "outcomes": "outcome"},
        OutcomeNote: {"reasons": "reason"},
        RankingNote: {"terms": "term"},
        LocalityNote: {"sources": "source"},
        SimpleComputeResource: {"extras": "extra"},
        PythonProgram: {"arguments": "argument", "requirements": "requirement"},
        Workflow: {"attachments": "file"},
        Preferences: {
            "countries_allowed": "country",
            "countries_forbidden": "country",
            "sites_allowed": "site",
            "sites_forbidden": "site",
        },
        Registration: {"storages": "storage", "unreliable": "field", "writes": "place"},
        StorageElement: {"prefixes": "prefix"},
        Profile: {
            "executables": "kind",
            "data": "kind",
            "storages": "storage",
            "countries": "country",
            "origins": "origin",
            "python": "version",
            "workflows": "workflow",
            "reads": "scheme",
            "writes": "place",
        },
    }
)
ENTRY = "entry"  # of a map, its key in the attribute `name`
ITEM = "item"  # of a list that has no schema


class Shape(Enum):
    TEXT = "text"
    WORD = "word"  # a text whose outer white space means nothing: enumerations, instants, uuids
    WHOLE = "whole number"
    NUMBER = "number"
    FLAG = "flag"
    MAP = "map"  # of names to `inner`
    LIST = "list"  # of `inner`
    OBJECT = "object"  # a `model`
    ANY = "anything"  # of no schema


@dataclass(frozen=True)
class Form:
    shape: Shape
    model: type[BaseModel] | None = None
    inner: Form | None = None


@dataclass(frozen=True)
class Field:
    """One property. `item`: what the elements of a list are called; for anything else, the property's own name."""

    name: str
    form: Form
    item: str
    wrapped: bool = False
    attribute: bool = False


class Root(NamedTuple):
    """The element that a document is; without a model, one of no schema."""

    name: str
    model: type[BaseModel] | None = None
    namespace: str = ""


ANSWER = Root("answer")
PROBLEM = Root("problem", namespace="urn:ietf:rfc:7807")  # RFC 9457, appendix B


def root_of(model: type[BaseModel]) -> Root:
    return Root(ROOTS.get(model, model.__name__.lower()), model)


@cache
def fields_of(model: type[BaseModel]) -> tuple[Field, ...]:
    """The model's properties, in the schema's order."""
    return tuple(_field(model, name, info.annotation) for name, info in model.model_fields.items())


@cache
def elements_of(model: type[BaseModel]) -> Mapping[str, Field]:
    """By what may stand in the model's element. Both names of a repeated list lead to it: see xmltext."""
    fields = [field for field in fields_of(model) if not field.attribute]
    repeated = {field.item: field for field in fields if not field.wrapped}
    return MappingProxyType({**repeated, **{field.name: field for field in fields}})


def _field(model: type[BaseModel], name: str, annotation: Any) -> Field:
    form = form_of(annotation)
    if wrapped := _hint(_WRAPPED, model, name):
        return Field(name, form, wrapped, wrapped=True)
    kind = name == "kind" and issubclass(model, Family)
    return Field(name, form, _hint(_REPEATED, model, name) or name, attribute=kind)


def _hint(table: Mapping[type[BaseModel], Mapping[str, str]], model: type[BaseModel], name: str) -> str:
    return next((table[base][name] for base in model.__mro__ if name in table.get(base, ())), "")


_SCALARS: Mapping[Any, Shape] = MappingProxyType(
    {bool: Shape.FLAG, int: Shape.WHOLE, float: Shape.NUMBER, Any: Shape.ANY}
)


def form_of(annotation: Any) -> Form:
    """What a field's type comes to. Raises TypeError for one that has no form."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return form_of(arguments[0])
    if origin in (Union, types.UnionType):
        (alone,) = {form_of(argument) for argument in arguments if argument is not types.NoneType}
        return alone
    if origin is tuple:
        return Form(Shape.LIST, inner=form_of(arguments[0]))
    if origin is dict:
        return Form(Shape.MAP, inner=form_of(arguments[1]))
    if annotation in _SCALARS:
        return Form(_SCALARS[annotation])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Form(Shape.OBJECT, annotation)
    if isinstance(annotation, type) and issubclass(annotation, tuple) and annotation is not Interval:
        raise TypeError(f"{annotation} has no form in XML")
    return Form(Shape.TEXT if annotation is str else Shape.WORD)
