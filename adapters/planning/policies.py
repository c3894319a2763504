"""What a site's operator allows: elements and patterns, ceilings, quotas. Pure; imports the domain.

Every refusal is a Reason that names the element, the rule and, where there is one, the nearest YES.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from broker.domain.base import Natural, Text
from broker.domain.outcome import Reason
from broker.domain.quantities import Duration, format_duration
from broker.domain.request import ExecutionRequest

_LONGEST = 4096  # characters of a value that a pattern is tried on
_ANY = ".*"
_INDEX = re.compile(r"\[\d*\]")


class Rule(BaseModel):
    """`element` is a dotted path in the request, such as `executable.image.locations`; lists are gone through, so an
    index is neither needed nor looked at. `pattern` is a regular expression for the whole value; absent: any value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    element: Text = Field(description="dotted path in the request; no index is needed in lists")
    pattern: Text = Field(_ANY, description="regular expression for the whole value")
    reason: Text | None = Field(None, description="said to the user with the refusal")
    _regex: re.Pattern[str] = PrivateAttr()

    @model_validator(mode="after")
    def _compiled(self) -> Rule:
        # A rule that names nothing would protect from nothing, in silence.
        root = _INDEX.sub("", self.element).split(".")[0]
        if root not in ExecutionRequest.model_fields:
            raise ValueError(f'a request has no "{root}"; it has {", ".join(ExecutionRequest.model_fields)}')
        try:
            self._regex = re.compile(self.pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is no regular expression: {error}") from None
        return self

    def values(self, wire: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """(path, value) of everything in the request's wire form that `element` names."""
        return _walk(wire, _INDEX.sub("", self.element).split("."), "")

    def judges(self, value: str) -> bool:
        """Whether the value is short enough to be tried. By its beginning alone, padding would get past a rule."""
        return len(value) <= _LONGEST or self.pattern == _ANY

    def matches(self, value: str) -> bool:
        return self._regex.fullmatch(value) is not None


def _walk(node: Any, path: list[str], where: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, list | tuple):
        for i, item in enumerate(node):
            yield from _walk(item, path, f"{where}[{i}]")
    elif path and isinstance(node, Mapping):
        if path[0] in node:
            yield from _walk(node[path[0]], path[1:], f"{where}.{path[0]}" if where else path[0])
    elif not path:
        yield where, _text(node)


def _text(node: Any) -> str:
    return ("true" if node else "false") if isinstance(node, bool) else str(node)


class Ceilings(BaseModel):
    """The most that one request can be given. Absent: the site's whole room."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cores: Natural | None = Field(None, description="the most for one request")
    memory: Natural | None = Field(None, description="GiB")
    storage: Natural | None = Field(None, description="GiB, all storage resources together")
    duration: Duration | None = Field(None, description="the longest run")
    extras: dict[str, Natural] = Field(default_factory=dict, description="type of extra → count")


class Quotas(BaseModel):
    """What one user can hold at this site."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    running: Annotated[Natural, Field(ge=1)] | None = Field(None, description="accepted sessions not yet ended")
    offers: Annotated[Natural, Field(ge=1)] = Field(
        10, description="open offer sets; a set counts once, and so does a batch"
    )
    batch: Annotated[Natural, Field(ge=1)] = Field(200, description="open offer sets within one batch")


class Policies(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    deny: tuple[Rule, ...] = Field((), description="a value that matches any of these is refused")
    allow: tuple[Rule, ...] = Field(
        (), description="an element named here must match one of its rules; elements not named are free"
    )
    ceilings: Ceilings = Field(Ceilings(), description="the most that one request can be given")
    quotas: Quotas = Field(Quotas(), description="the most that one user can hold")

    def refuse(self, request: ExecutionRequest) -> tuple[Reason, ...]:
        """By element and pattern. Sizes are judged against the room, by `largest`."""
        if not (self.deny or self.allow):
            return ()
        wire = request.to_wire()
        return (*self._denied(wire), *self._not_allowed(wire))

    def _denied(self, wire: Mapping[str, Any]) -> Iterator[Reason]:
        for rule in self.deny:
            for path, value in rule.values(wire):
                if not rule.judges(value):
                    yield _unjudged(path, value, "deny")
                elif rule.matches(value):
                    because = f" {rule.reason}" if rule.reason else ""
                    text = f'"{_short(value)}" is denied here by the pattern {rule.pattern}.{because}'
                    yield Reason(text, element=path, rule="deny")

    def _not_allowed(self, wire: Mapping[str, Any]) -> Iterator[Reason]:
        by_element: dict[str, list[Rule]] = {}
        for rule in self.allow:
            by_element.setdefault(rule.element, []).append(rule)
        for rules in by_element.values():
            for path, value in rules[0].values(wire):
                if not all(rule.judges(value) for rule in rules):
                    yield _unjudged(path, value, "allow")
                elif not any(rule.matches(value) for rule in rules):
                    patterns = " or ".join(rule.pattern for rule in rules)
                    because = "".join(f" {rule.reason}" for rule in rules if rule.reason)
                    text = f'"{_short(value)}" is not among what is allowed here.{because}'
                    yield Reason(text, element=path, rule="allow", nearest=f"a value like {patterns}")


def _unjudged(path: str, value: str, rule: str) -> Reason:
    text = f"{len(value)} characters are more than the rules here are tried on."
    return Reason(text, element=path, rule=rule, nearest=f"{_LONGEST} characters")


def over(element: str, asked: float, ceiling: float, unit: str = "", what: str = "ceiling") -> Reason:
    """The refusal of a size."""
    sized = f"{asked:g} {unit}".strip()
    nearest = f"{ceiling:g}" if ceiling > 0 else ""  # nothing at all is no wish that anybody has
    return Reason(f"{sized} asked, {what} {ceiling:g}.", element=element, rule=what, nearest=nearest)


def too_long(asked: float, ceiling: float) -> Reason:
    """The refusal of a duration; both in seconds."""
    text = f"{format_duration(asked)} asked, ceiling {format_duration(ceiling)}."
    return Reason(text, "schedule.requested.duration", "ceiling", format_duration(ceiling))


def _short(value: str) -> str:
    return value if len(value) <= 120 else value[:119] + "…"
