"""Every call that is answered is described, and every call that is described is answered."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from typing import Any

import pytest

from broker.api.auth import Policy
from broker.api.openapi import describe
from broker.api.routes import Parts, Route, routes


def table() -> list[Route]:
    """No service is asked for this."""
    nothing: Any = None
    given = {field.name: nothing for field in fields(Parts) if field.default is field.default_factory is MISSING}
    return list(routes(Parts(**given)))


def answered() -> set[tuple[str, str]]:
    """Method and path, with the path's patterns taken out: `{name:.+}` is `{name}`."""
    return {(route.method.lower(), re.sub(r":[^}]*}", "}", route.path)) for route in table()}


@pytest.fixture
def described() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(describe("0"))
    return document


def test_what_is_answered_is_described_and_the_reverse(described: dict[str, Any]) -> None:
    found = {(method, path) for path, calls in described["paths"].items() for method in calls}
    assert answered() == found


def test_every_call_has_a_name_of_its_own_and_says_what_it_is_for(described: dict[str, Any]) -> None:
    calls = [call for calls in described["paths"].values() for call in calls.values()]
    names = [call["operationId"] for call in calls]
    assert len(set(names)) == len(names)
    assert all(call["summary"].endswith(".") for call in calls)
    assert all("default" in call["responses"] for call in calls)


def test_what_is_public_and_nothing_else_is_described_without_signing_in(described: dict[str, Any]) -> None:
    assert set(described["components"]["securitySchemes"]) == {name for item in described["security"] for name in item}
    free = {
        (method, path)
        for path, calls in described["paths"].items()
        for method, call in calls.items()
        if call.get("security") == []
    }
    assert free == {(route.method.lower(), route.path) for route in table() if route.policy is Policy.PUBLIC}


def test_every_part_of_a_path_is_described(described: dict[str, Any]) -> None:
    for path, calls in described["paths"].items():
        wanted = set(re.findall(r"{(\w+)}", path))
        for method, call in calls.items():
            assert {part["name"] for part in call.get("parameters", ())} >= wanted, (method, path)


def test_the_calls_of_the_standard_keep_their_names(described: dict[str, Any], standard: dict[str, Any] | None) -> None:
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    ours = {
        (method, path): call["operationId"]
        for path, calls in described["paths"].items()
        for method, call in calls.items()
    }
    for path, calls in standard["paths"].items():
        for method in calls:
            assert (method, path) in ours, (method, path)
