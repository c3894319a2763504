"""Ways around an operator's rules."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.planning.policies import Policies
from broker.domain import kinds
from broker.domain.request import ExecutionRequest


def rules(source: str, **policies: Any) -> list[str]:
    """The rules that refuse a program of this source."""
    request = ExecutionRequest.model_validate({"executable": {"kind": kinds.PYTHON_PROGRAM, "source": source}})
    return [str(reason.rule) for reason in Policies.model_validate(policies).refuse(request)]


DENY = [{"element": "executable.source", "pattern": ".*mine_coins.*"}]
ALLOW = [{"element": "executable.source", "pattern": r"(?:print\(\d\)\n)*"}]


@pytest.mark.parametrize("padding", ["#" * 5000, "print(1)\n" * 600])
def test_padding_gets_nobody_past_a_rule(padding: str) -> None:
    assert rules(padding + "mine_coins()", deny=DENY) == ["deny"]
    assert rules(padding + "mine_coins()", allow=ALLOW) == ["allow"]


def test_what_can_be_judged_is_judged() -> None:
    assert rules("print(1)\n", deny=DENY, allow=ALLOW) == []
    assert rules("mine_coins()", deny=DENY, allow=ALLOW) == ["deny", "allow"]


def test_a_rule_without_a_pattern_judges_any_length() -> None:
    assert rules("x" * 5000, allow=[{"element": "executable.source"}]) == []
    assert rules("x" * 5000, deny=[{"element": "executable.source"}]) == ["deny"]
