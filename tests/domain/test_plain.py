"""A request as a plain 1.0 site may see it: nothing in it that the standard does not list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.domain import kinds
from broker.domain.plain import strict
from broker.domain.request import ExecutionRequest
from broker.testing.conformance import Conformance

PLAIN: dict[str, Any] = {
    "executable": {
        "kind": kinds.DOCKER_CONTAINER,
        "meta": {"name": "fit"},
        "image": {"locations": ["r.example/fit:1"]},
    },
    "compute": {
        "kind": kinds.SIMPLE_COMPUTE,
        "meta": {"name": "box"},
        "cores": {"min": 2, "max": 4},
        "memory": {"min": 4},
        "volumes": [{"kind": kinds.SIMPLE_VOLUME, "path": "/data", "resource": "scratch"}],
    },
    "storage": [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}, "size": {"min": 10}}],
    "schedule": {"requested": {"duration": "PT1H"}},
    "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": 5.0}],
}


def test_what_is_plain_already_stays_as_it_is() -> None:
    assert strict(ExecutionRequest.model_validate(PLAIN)) == PLAIN


def test_our_additions_are_left_out_at_every_depth() -> None:
    full = json.loads(json.dumps(PLAIN))
    full["preferences"] = {"preset": "cheapest"}
    full["compute"]["extras"] = [{"type": kinds.GPU, "count": 1}]
    full["costs"][0]["unit"] = "EUR"
    assert strict(ExecutionRequest.model_validate(full)) == PLAIN


def test_and_whatever_else_a_caller_wrote() -> None:
    full = json.loads(json.dumps(PLAIN))
    full["mood"] = "good"
    full["executable"]["colour"] = "red"
    full["executable"]["meta"]["shade"] = 1
    full["compute"]["cores"]["kind"] = "fast"
    full["storage"][0]["size"]["of"] = "disk"
    full["schedule"]["requested"]["zeal"] = True
    assert strict(ExecutionRequest.model_validate(full)) == PLAIN


def test_the_result_conforms_to_the_standard(standard: dict[str, Any] | None) -> None:
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    full = {**json.loads(json.dumps(PLAIN)), "preferences": {"preset": "cheapest"}, "odd": [1]}
    full["compute"]["odd"] = {"a": 1}
    judge = Conformance(standard)
    assert judge.faults(full, "ExecutionRequest")
    assert judge.faults(strict(ExecutionRequest.model_validate(full)), "ExecutionRequest") == []
