"""Adapters arrive here, built-in and third-party alike, through two entry-point groups. Imports ports and errors.

A plugin is a kind's options (validated at start) and how to make a planner, or a replica catalogue, from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from types import UnionType
from typing import Any, TypeVar, Union, get_origin

import aiohttp
from pydantic import BaseModel, ValidationError

from broker.domain.site import Registration
from broker.errors import SettingsError
from broker.ports import Calendar, Clock, Limits, Planner, ReplicaCatalogue

GROUP = "broker.planners"
CATALOGUES = "broker.catalogues"

P = TypeVar("P")


@dataclass(frozen=True)
class Credentials:
    """What signs us in at one origin. Never logged: the repr hides it. `username` and `password` go as HTTP Basic,
    `token` as Bearer."""

    username: str = ""
    password: str = ""
    token: str = ""

    def __repr__(self) -> str:
        return "Credentials(…)"


@dataclass(frozen=True)
class Resources:
    """What a planner may use. `http` is shared and is not closed by the planner; `broker_id` and `name` are ours."""

    registration: Registration
    calendar: Calendar
    limits: Limits
    clock: Clock
    http: aiohttp.ClientSession
    credentials: Credentials | None
    name: str
    broker_id: str
    currency: str
    site_settings: Mapping[str, Any]  # tariff, policies, capacity … of a site that this broker plans for


@dataclass(frozen=True)
class Plugin:
    """`options` validates a registration's `options`; `make` must not do I/O: the planner opens lazily.
    `plans`: the kind is a bare platform, and takes the site settings (tariff, policies, capacity)."""

    options: type[BaseModel]
    make: Callable[[Any, Resources], Planner]
    plans: bool = False


@dataclass(frozen=True)
class CatalogueResources:
    """What a replica catalogue may use. `name`: what the settings call it; `url`: its address, where it has one.
    `http` is shared and is not closed by it. `declared`: whether an address lies on a storage that the operator has
    declared; others may be asked only as the options say, for users write them."""

    name: str
    url: str | None
    clock: Clock
    http: aiohttp.ClientSession
    credentials: Credentials | None
    declared: Callable[[str], bool]


@dataclass(frozen=True)
class CataloguePlugin:
    """`trust`: whose word counts where two disagree, the lower first. `places`, `sizes`: what it can tell. `make` must
    not do I/O: the catalogue opens lazily."""

    options: type[BaseModel]
    make: Callable[[Any, CatalogueResources], ReplicaCatalogue]
    trust: int
    places: bool
    sizes: bool = True


def load() -> dict[str, Plugin]:
    """Every installed planner's plugin by kind. Raises SettingsError when one cannot be imported."""
    return _load(GROUP, Plugin)


def load_catalogues() -> dict[str, CataloguePlugin]:
    """Every installed replica catalogue's plugin by kind. Raises SettingsError when one cannot be imported."""
    return _load(CATALOGUES, CataloguePlugin)


def _load(group: str, wanted: type[P]) -> dict[str, P]:
    found: dict[str, P] = {}
    for entry in entry_points(group=group):
        try:
            plugin = entry.load()
        except Exception as error:
            raise SettingsError(f"the adapter {entry.name} ({entry.value}) cannot be loaded: {error}") from error
        if not isinstance(plugin, wanted):
            raise SettingsError(f"the adapter {entry.name} ({entry.value}) is no broker.plugins.{wanted.__name__}")
        found[entry.name] = plugin
    return found


# pydantic's sort of fault → what is wanted, and how it is written.
_LIST = ("a list is wanted.", "Write it in brackets, with commas between: [a, b].")
_TEXT = ("a text is wanted.", "Write it in quotes.")
_WANTED = {
    "tuple_type": _LIST, "list_type": _LIST, "set_type": _LIST, "frozen_set_type": _LIST,
    "string_type": _TEXT, "path_type": ("a path is wanted.", ""),
    "int_type": ("a whole number is wanted.", ""), "int_parsing": ("a whole number is wanted.", ""),
    "float_type": ("a number is wanted.", ""), "float_parsing": ("a number is wanted.", ""),
    "bool_type": ("true or false is wanted.", ""), "bool_parsing": ("true or false is wanted.", ""),
}  # fmt: skip
_UNIONS = (Union, UnionType)


def settings_fault(
    error: ValidationError, model: type[BaseModel], *, file: str = "", prefix: str = ""
) -> SettingsError:
    """The first fault that `model` found in settings, as one line: file, dotted key, what is wrong, what is allowed."""
    faults = error.errors()
    # What is missing was often mistyped: the key that nobody knows is what to look at.
    mistyped = (fault for fault in faults if fault["type"] == "extra_forbidden" and faults[0]["type"] == "missing")
    first = next(mistyped, faults[0])
    keys = [str(part) for part in first["loc"]]
    message = re.sub(r"^Value error, ", "", first["msg"])
    named = re.match(r"^([a-z_][\w.]*): (.*)$", message) if first["type"] == "value_error" and not keys else None
    if named:
        keys, message = [named[1]], named[2]
    remedy = ""
    if first["type"] == "extra_forbidden":
        message, remedy = "no such key.", _nearest(keys, model)
    elif first["type"] == "missing":
        message = "is missing."
    elif first["type"] == "float_type" and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", str(first["input"])):
        digits, power = re.split(r"[eE]\+?", first["input"])  # YAML takes it for a text
        message = "a number is wanted."
        remedy = f"Write {digits if '.' in digits else f'{digits}.0'}e+{power}."
    elif first["type"] in _WANTED:
        message, remedy = _WANTED[first["type"]]
        if first["input"] is None:  # the key stands there, and nothing after it
            message, remedy = f"is empty: {message}", ""
    elif first["type"] in ("model_type", "dict_type", "model_attributes_type"):
        message, remedy = "keys with values are wanted.", _keys(keys, model)
    return SettingsError(message, file=file, key=".".join(filter(None, [prefix, *keys])), remedy=remedy)


def _nearest(keys: list[str], model: type[BaseModel]) -> str:
    model = _inner(keys[:-1], model)
    allowed = sorted(model.model_fields)
    close = get_close_matches(keys[-1], allowed, 1)
    below = sorted(name for name in allowed for part in _parts(model, name) if keys[-1] in part.model_fields)
    if below and not close:
        return f"It belongs below {' or '.join(dict.fromkeys(below))}."
    return (f"Nearest: {close[0]}. " if close else "") + f"Allowed: {', '.join(allowed)}."


def _keys(keys: list[str], model: type[BaseModel]) -> str:
    """Those that stand there, where that is known."""
    field = _inner(keys[:-1], model).model_fields.get(keys[-1]) if keys else None
    names = next((sorted(part.model_fields) for part in (_models(field.annotation) if field else ())), [])
    return f"There are: {', '.join(names)}." if names else ""


def _inner(keys: list[str], model: type[BaseModel]) -> type[BaseModel]:
    for key in keys:
        field = model.model_fields.get(key)
        model = next(_models(field.annotation), model) if field else model  # a map's key names no field
    return model


def _parts(model: type[BaseModel], name: str) -> Iterator[type[BaseModel]]:
    """What the field holds itself, and not in a map or a list."""
    annotation = model.model_fields[name].annotation
    for one in (annotation, *(getattr(annotation, "__args__", ()) if get_origin(annotation) in _UNIONS else ())):
        if isinstance(one, type) and issubclass(one, BaseModel):
            yield one


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)
