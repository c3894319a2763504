"""The headers of brokers above, over real HTTP."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from broker.domain import kinds
from broker.domain.identity import Hop

REQUEST = {"executable": {"kind": kinds.DOCKER_CONTAINER}}
ROOT = "12345678-1234-4234-8234-123456789abc"


async def hop(api: Any, path: str = "/requests", **headers: str) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.call("POST", path, json=REQUEST, headers=names)


@pytest.mark.parametrize("path", ["/requests", "/direct"])
async def test_what_came_is_handed_to_the_service(api: Any, path: str) -> None:
    await hop(api, path, Broker_Deadline="2500", Broker_Path="a, b.example:8080 ,c", Broker_Request=ROOT)
    assert api.services.calls[-1][3] == Hop(2.5, UUID(ROOT), ("a", "b.example:8080", "c"))
    await hop(api, path, Broker_Batch=ROOT)
    assert api.services.calls[-1][3] == Hop(batch=UUID(ROOT))


async def test_a_request_from_a_person_is_the_first(api: Any) -> None:
    await hop(api)
    assert api.services.calls[-1][3] == Hop(None, None, ())


async def test_our_own_id_in_the_path_is_a_loop(api: Any) -> None:
    answer = await hop(api, Broker_Path="a,me-id,b")
    assert (answer.status, answer.json()["type"]) == (508, "uri:problem-loop-1.0")
    assert "a, me-id, b" in answer.json()["detail"]
    assert api.services.calls == []


async def test_eight_brokers_are_the_most(api: Any) -> None:
    assert (await hop(api, Broker_Path=",".join("abcdefgh"))).status == 303
    assert (await hop(api, Broker_Path=",".join("abcdefghi"))).status == 508


async def test_a_loop_is_told_before_the_body_is_read(api: Any) -> None:
    answer = await api.call("POST", "/requests", data=b"{", headers={"Broker-Path": "me-id"})
    assert answer.status == 508


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Broker_Deadline", "soon"),
        ("Broker_Deadline", "-1"),
        ("Broker_Deadline", "1.5"),
        ("Broker_Deadline", "9" * 30),
        ("Broker_Deadline", "٣"),
        ("Broker_Request", "x"),
        ("Broker_Path", "a b"),
        ("Broker_Path", "é"),
        ("Broker_Path", "x" * 101),
    ],
)
async def test_what_cannot_be_read_is_400(api: Any, header: str, value: str) -> None:
    answer = await hop(api, **{header: value})
    assert (answer.status, answer.json()["element"]) == (400, header.replace("_", "-"))
    assert api.services.calls == []
