"""POST /admin/identities: what it answers, in the words that tools of the field read, and to whom."""

from __future__ import annotations

from typing import Any

import pytest

PATH = "/admin/identities"
ADA = {"username": "ada", "password": "correct horse"}
SET = "7f3a0000-0000-4000-8000-00000000000a"


async def test_a_new_user_is_201(api: Any) -> None:
    answer = await api.call("POST", PATH, user="root", json=ADA)
    assert answer.status == 201
    assert answer.json() == {"uuid": SET, "username": "ada"}
    assert api.services.calls[-1][:3] == ("make", "ada", "correct horse")


async def test_a_user_who_is_there_is_409_with_the_uuid(api: Any) -> None:
    answer = await api.call("POST", PATH, user="root", json={**ADA, "username": "ann"})
    assert answer.status == 409
    told = answer.json()
    assert (told["uuid"], told["username"]) == (SET, "ann")
    assert "ann" in told["error"]
    assert told["type"] == "uri:problem-conflict-1.0"


@pytest.mark.parametrize(
    "body", [{}, {"username": "ada"}, {"password": "correct horse"}, {**ADA, "roles": ["operator"]}, [], "ada"]
)
async def test_what_cannot_be_used_is_400_with_an_error(api: Any, body: object) -> None:
    answer = await api.call("POST", PATH, user="root", json=body)
    assert answer.status == 400
    assert answer.json()["error"]
    assert api.services.calls == []


@pytest.mark.parametrize(("user", "status"), [("ann", 403), ("ops", 403), ("parent", 403), (None, 401)])
async def test_only_administrators_are_let_in(api: Any, user: str | None, status: int) -> None:
    answer = await api.call("POST", PATH, user=user, json=ADA)
    assert answer.status == status
    assert api.services.calls == []


async def test_nobody_is_let_in_for_coming_from_this_machine(serve: Any) -> None:
    api = await serve(anonymous=True)
    assert (await api.call("POST", PATH, user=None, json=ADA)).status == 403


async def test_no_page_of_another_origin_makes_users(api: Any) -> None:
    answer = await api.call("POST", PATH, user="root", json=ADA, headers={"Origin": "https://elsewhere.example"})
    assert answer.status == 403
    assert api.services.calls == []


async def test_it_is_written_in_yaml_too(api: Any) -> None:
    answer = await api.call("POST", PATH, user="root", json=ADA, headers={"Accept": "application/yaml"})
    assert (answer.status, answer.headers["Content-Type"]) == (201, "application/yaml")
    assert b"username: ada" in answer.body


async def test_it_is_read_in_xml_too(api: Any) -> None:
    body = b"<identity><username>ada</username><password>correct horse</password></identity>"
    headers = {"Content-Type": "application/xml", "Accept": "application/xml"}
    answer = await api.call("POST", PATH, user="root", data=body, headers=headers)
    assert (answer.status, answer.headers["Content-Type"]) == (201, "application/xml")
    assert b"<username>ada</username>" in answer.body
