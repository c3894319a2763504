"""Whom a session's connectors are shown to: whoever holds the address of one is let in."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from broker.api import answers
from broker.domain.identity import Caller, Owner
from broker.domain.offerset import Claim, SessionRecord, SetRecord
from broker.services.sessions import SessionState

OWNER = Caller(Owner("here", "anna"), "anna")
OPEN = {"kind": "uri:c", "status": "AVAILABLE", "protocol": "HTTPS", "location": "https://x/?token=sesame"}


def seen(caller: Caller, connectors: Any, phase: str = "AVAILABLE") -> Any:
    body = json.dumps({"connectors": connectors}).encode()
    item = SessionRecord(uuid4(), "alba", "h", "alba", phase, body=body)
    record = SetRecord(
        uuid4(), OWNER.owner, OWNER.account, "", 0.0, ("alba",), sessions=(item,), claim=Claim(item.uuid, 0.0, "taken")
    )
    return json.loads(answers.session(SessionState(record, item, 0.0), "http://us", caller))["connectors"]


def test_the_owner_is_shown_the_address() -> None:
    assert seen(OWNER, [OPEN]) == [OPEN]


@pytest.mark.parametrize(
    "caller",
    [
        Caller(Owner("here", "otto"), "otto"),
        Caller(Owner("here", "otto"), "otto", frozenset({"operator"})),
        Caller(Owner("here", "root"), "root", frozenset({"administrator"})),
        Caller(OWNER.owner, "another account"),
        Caller(Owner("", ""), "", anonymous=True),
    ],
)
def test_nobody_else_is(caller: Caller) -> None:
    assert seen(caller, [OPEN]) == [{name: value for name, value in OPEN.items() if name != "location"}]


def test_nobody_is_once_it_is_over() -> None:
    assert "location" not in seen(OWNER, [OPEN], "FAILED")[0]


@pytest.mark.parametrize("nonsense", ["https://x/?token=sesame", ["https://x/?token=sesame"], {"a": 1}])
def test_what_is_no_connector_is_kept_from_others_whole(nonsense: Any) -> None:
    assert seen(Caller(Owner("here", "otto"), "otto"), nonsense) == []
