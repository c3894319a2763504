"""The headers that say how a call wants to be done: Idempotency-Key and Prefer, and what the answer says of them."""

from __future__ import annotations

from typing import Any

import pytest

from broker.domain import kinds

BODY = {"executable": {"kind": kinds.DOCKER_CONTAINER}}
UPDATE = {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}
SESSION = "91c20000-0000-4000-8000-00000000000b"
CALLS = [("/requests", BODY), ("/direct", BODY), (f"/sessions/{SESSION}", UPDATE)]


def onces(api: Any) -> list[Any]:
    return [call[1] for call in api.services.calls if call[0] == "once"]


@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_every_call_that_makes_something_minds_its_key(api: Any, path: str, body: Any) -> None:
    await api.call("POST", path, json=body)
    assert onces(api) == []
    answer = await api.call("POST", path, json=body, headers={"Idempotency-Key": '"k-1"'})
    assert answer.status in (200, 303)
    await api.call("POST", path, json=body, headers={"Idempotency-Key": "k-1"})
    first, second = onces(api)
    assert (first.key, first.call, first.asked) == (second.key, second.call, second.asked)
    assert first.caller.owner.subject == "ann"
    assert first.call.split()[1] == "/" + path.split("/")[1]


async def test_a_key_goes_with_what_was_asked_however_it_was_written(api: Any) -> None:
    headers = {"Idempotency-Key": "k"}
    await api.call("POST", "/requests", json={"name": "n", **BODY}, headers=headers)
    body = f'executable: {{kind: "{kinds.DOCKER_CONTAINER}"}}\nname: n\n'
    yaml = {**headers, "Content-Type": "application/yaml"}
    await api.call("POST", "/requests", data=body.encode(), headers=yaml)
    await api.call("POST", "/requests", json={"name": "m", **BODY}, headers=headers)
    first, same, other = onces(api)
    assert first.asked == same.asked != other.asked
    assert first.uuid != same.uuid


async def test_the_session_belongs_to_what_was_asked(api: Any) -> None:
    for uuid in (SESSION, SESSION.replace("91c2", "91c3")):
        await api.call("POST", f"/sessions/{uuid}", json=UPDATE, headers={"Idempotency-Key": "k"})
    first, other = onces(api)
    assert first.asked != other.asked
    assert first.repeatable


@pytest.mark.parametrize("key", ["", '""', "a b", "é", "x" * 256])
@pytest.mark.parametrize(("path", "body"), CALLS)
async def test_what_is_no_key_is_refused(api: Any, path: str, body: Any, key: str) -> None:
    answer = await api.call("POST", path, json=body, headers={"Idempotency-Key": key})
    assert (answer.status, answer.json()["element"]) == (400, "Idempotency-Key")
    assert api.services.calls == []


@pytest.mark.parametrize(
    ("prefer", "wait", "later", "applied"),
    [
        ("wait=5", 5, False, "wait"),
        ("respond-async", None, True, "respond-async"),
        ("respond-async, wait=5", 5, True, "respond-async, wait"),
        ('handling=lenient; a=b, Wait="7";x, wait=9', 7, False, "wait"),
        ("wait=99999999", 3600, False, "wait"),
        ("wait=soon, wait=3", None, False, None),
        ("wait=-1", None, False, None),
        ("return=minimal", None, False, None),
    ],
)
async def test_preferences(api: Any, prefer: str, wait: int | None, later: bool, applied: str | None) -> None:
    answer = await api.call("POST", "/requests", json=BODY, headers={"Prefer": prefer})
    assert (answer.status, answer.headers.get("Preference-Applied")) == (303, applied)
    assert (api.services.how.wait, api.services.how.later) == (wait, later)


async def test_a_direct_request_is_never_answered_early(api: Any) -> None:
    answer = await api.call("POST", "/direct", json=BODY, headers={"Prefer": "respond-async, wait=5"})
    assert (answer.status, answer.headers["Preference-Applied"]) == (303, "wait")
    assert (api.services.how.wait, api.services.how.later) == (5, False)
