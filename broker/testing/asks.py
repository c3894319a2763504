"""Questions and orders as the broker would put them to a planner, for people who test adapters. Imports the ports."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import msgspec

from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Quote
from broker.domain.request import ExecutionRequest
from broker.ports import Ask, Clock, Order

ALICE = Owner("here", "alice")


def wanted(kind: str = kinds.DOCKER_CONTAINER, *, cores: int = 2, **more: Any) -> dict[str, Any]:
    """A small request in strict version 1.0. `more` replaces top-level properties."""
    return {
        "executable": {"kind": kind, "meta": {"name": "fit"}, "image": {"locations": ["registry.example/fit:1"]}},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "meta": {"name": "box"}, "cores": {"min": cores, "max": cores}},
        "schedule": {"requested": {"duration": "PT1H"}},
        **more,
    }


def ask(
    clock: Clock,
    *,
    within: float = 5.0,
    drain: float = 0.0,
    user: Owner = ALICE,
    path: tuple[str, ...] = ("us",),
    batch: UUID | None = None,
    **request: Any,
) -> Ask:
    """`within` and `drain` in seconds. `request` goes to `wanted`; the extended form carries a preference beside it."""
    document = wanted(**request)
    extended = {**document, "preferences": {"preset": "balanced"}}
    set_ = uuid4()
    return Ask(
        request=ExecutionRequest.model_validate(extended),
        plain=msgspec.json.encode(document),
        extended=msgspec.json.encode(extended),
        set=set_,
        deadline=Deadline.after(within, clock.monotonic()),
        user=user,
        root=set_,
        path=path,
        drain=drain,
        batch=batch,
    )


def order(quote: Quote, *, user: Owner = ALICE, set: UUID | None = None) -> Order:
    """An order for that offer, under a new session uuid of ours."""
    return Order(session=uuid4(), set=set or uuid4(), handle=quote.handle, offer=quote.body, user=user)
