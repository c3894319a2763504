"""Adapters arrive here, built-in and third-party alike, through one entry-point group. Imports ports and errors.

A plugin is a kind's options (validated at start) and how to make a planner from them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any

import aiohttp
from pydantic import BaseModel, ValidationError

from broker.domain.site import Registration
from broker.errors import SettingsError
from broker.ports import Calendar, Clock, Limits, Planner

GROUP = "broker.planners"


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


def load() -> dict[str, Plugin]:
    """Every installed plugin by kind. Raises SettingsError when one cannot be imported."""
    plugins: dict[str, Plugin] = {}
    for entry in entry_points(group=GROUP):
        try:
            plugin = entry.load()
        except Exception as error:
            raise SettingsError(f"the adapter {entry.name} ({entry.value}) cannot be loaded: {error}") from error
        if not isinstance(plugin, Plugin):
            raise SettingsError(f"the adapter {entry.name} ({entry.value}) is no broker.plugins.Plugin")
        plugins[entry.name] = plugin
    return plugins


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
    return SettingsError(message, file=file, key=".".join(filter(None, [prefix, *keys])), remedy=remedy)


def _nearest(keys: list[str], model: type[BaseModel]) -> str:
    for key in keys[:-1]:
        field = model.model_fields.get(key)
        model = next(_models(field.annotation), model) if field else model  # a map's key names no field
    allowed = sorted(model.model_fields)
    close = get_close_matches(keys[-1], allowed, 1)
    return (f"Nearest: {close[0]}. " if close else "") + f"Allowed: {', '.join(allowed)}."


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)
