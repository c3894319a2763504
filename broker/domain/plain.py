"""A request in strict version 1.0, for sites that know nothing of our additions. Imports the domain's models.

A plain 1.0 service may answer an unknown property with 400 (protocol.md 1.1), so everything the standard's
description does not list is left out, at every depth.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from broker.domain.base import Model
from broker.domain.components import SimpleMinMaxFloatCost, SimpleMinMaxFloatMetric
from broker.domain.executables import JupyterNotebook
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleComputeResource

# Our published additions among the declared fields: class → names.
ADDITIONS: dict[type[BaseModel], frozenset[str]] = {
    ExecutionRequest: frozenset({"preferences", "located", "outputs"}),
    SimpleComputeResource: frozenset({"extras"}),
    JupyterNotebook: frozenset({"mode", "network"}),
    SimpleMinMaxFloatCost: frozenset({"unit"}),
    SimpleMinMaxFloatMetric: frozenset({"unit"}),
}


def strict(model: Model, wire: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON-ready form with the standard's own properties alone. `wire`: the model's whole form, where it is at
    hand; it is not changed."""
    return _cut(model, model.to_wire() if wire is None else wire)


def _cut(model: BaseModel, wire: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name in type(model).model_fields:
        if name in wire and name not in ADDITIONS.get(type(model), ()):
            kept[name] = _cut_value(getattr(model, name), wire[name])
    return kept


def _cut_value(value: object, wire: Any) -> Any:
    if isinstance(value, BaseModel):
        return _cut(value, wire)
    if isinstance(value, tuple) and isinstance(wire, list) and len(value) == len(wire):
        return [_cut_value(item, form) for item, form in zip(value, wire, strict=True)]
    return wire
