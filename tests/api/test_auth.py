"""Who gets in over HTTP, as whom, and past which dangers of browsers and proxies."""

from __future__ import annotations

from typing import Any

import aiohttp
import msgspec
import pytest

from broker.domain import kinds
from broker.domain.hops import USER, encode_user
from broker.domain.identity import Caller, Owner

SESSION = "/sessions/91c20000-0000-4000-8000-00000000000b"
REQUEST = {"executable": {"kind": kinds.DOCKER_CONTAINER}}


async def test_wrong_credentials_are_401_with_a_challenge(api: Any) -> None:
    for user, headers in ((None, {}), ("nobody", {}), (None, {"Authorization": "Bearer no"})):
        answer = await api.call("GET", SESSION, user=user, headers=headers)
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Basic ")
        assert "X-VO-Authenticated" not in answer.headers
    assert api.services.calls == []


async def test_authenticated_answers_name_who_it_is(api: Any, token: str) -> None:
    assert (await api.call("GET", SESSION)).headers["X-VO-Authenticated"] == "ann"
    bearer = await api.call("GET", SESSION, user=None, headers={"Authorization": f"Bearer {token}"})
    assert bearer.headers["X-VO-Authenticated"] == "tokenfolk"
    refused = await api.call("PUT", "/sites/alba", json={})
    assert (refused.status, refused.headers.get("X-VO-Authenticated")) == (403, None)
    missing = await api.call("GET", "/sessions/00000000-0000-4000-8000-000000000000")
    assert (missing.status, missing.headers["X-VO-Authenticated"]) == (404, "ann")


async def test_public_calls_do_not_even_look_at_credentials(api: Any) -> None:
    answer = await api.call("GET", "/health/live", user="nobody")
    assert answer.status == 200
    assert "X-VO-Authenticated" not in answer.headers


async def test_a_missing_role_is_403_and_says_which(api: Any) -> None:
    answer = await api.call("POST", "/sites/alba/drain")
    assert (answer.status, answer.json()["detail"]) == (403, "this is for the role operator; ann does not have it.")
    answer = await api.call("POST", "/requests", user="nil", json=REQUEST)
    assert (answer.status, answer.json()["detail"]) == (403, "this is for the role user; nil does not have it.")


async def test_an_administrator_may_all(api: Any) -> None:
    assert (await api.call("POST", "/sites/alba/resume", user="root")).status == 200
    assert (await api.call("POST", "/requests", user="root", json=REQUEST)).status == 303


# ── who may read ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_reading_is_for_those_signed_in(serve: Any) -> None:
    for readers in ("own", "all"):
        api = await serve(readers=readers)
        assert (await api.call("GET", SESSION, user=None)).status == 401


async def test_public_reading_needs_nobody_and_changes_nothing(serve: Any) -> None:
    api = await serve(readers="public")
    answer = await api.call("GET", SESSION, user=None)
    assert answer.status == 200
    assert api.caller.anonymous
    assert api.caller.roles == frozenset()
    assert "X-VO-Authenticated" not in answer.headers
    assert (await api.call("POST", SESSION, user=None, json={})).status == 401
    assert (await api.call("GET", SESSION, user="nobody")).status == 401  # wrong credentials are told all the same
    signed = await api.call("GET", SESSION)
    assert (signed.status, api.caller.account) == (200, "ann")


# ── brokers on behalf of their users ─────────────────────────────────────────────────────────────────────────


async def test_a_brokers_call_counts_for_its_user(api: Any) -> None:
    bob = Owner("radio net", "bob@example.org", ("sky", "cö"))
    answer = await api.call("POST", "/requests", user="parent", json=REQUEST, headers={USER: encode_user(bob)})
    assert answer.status == 303
    assert api.caller == Caller(bob, "parent", frozenset({"user"}))
    assert answer.headers["X-VO-Authenticated"] == "bob@example.org"


async def test_from_others_the_header_says_nothing(api: Any) -> None:
    for user in ("ann", "ops", "root"):
        await api.call("POST", "/requests", user=user, json=REQUEST, headers={USER: "x bob"})
        assert api.caller.owner.subject == user


async def test_no_broker_speaks_for_our_own_users(api: Any) -> None:
    answer = await api.call("POST", "/requests", user="parent", json=REQUEST, headers={USER: "me ann"})
    assert answer.status == 403
    assert api.services.calls == []


@pytest.mark.parametrize("header", ["x", "x ", " bob", "x " + "y" * 5000, "x a%0d%0aSet-Cookie:%20a", "x a%00"])
async def test_a_user_that_cannot_be_read_is_400(api: Any, header: str) -> None:
    answer = await api.call("GET", SESSION, user="parent", headers={USER: header})
    assert (answer.status, answer.json()["element"]) == (400, "Broker-User")


async def test_subjects_beyond_ascii_are_percent_encoded_in_headers(api: Any) -> None:
    bob = Owner("x", "bö 100%")
    answer = await api.call("GET", SESSION, user="parent", headers={USER: encode_user(bob)})
    assert answer.headers["X-VO-Authenticated"] == "b%C3%B6 100%25"


async def test_a_broker_without_a_user_is_itself(api: Any, token: str) -> None:
    await api.call("POST", "/sessions/status", user="parent", json={"sessions": []})
    assert (api.caller.account, api.caller.roles) == ("parent", frozenset({"broker"}))


# ── the anonymous, browsers, proxies ─────────────────────────────────────────────────────────────────────────


async def test_the_demo_lets_in_who_calls_from_this_machine(serve: Any) -> None:
    api = await serve(anonymous=True)
    answer = await api.call("POST", "/requests", user=None, json=REQUEST)
    assert answer.status == 303
    assert "X-VO-Authenticated" not in answer.headers
    by_name = api.url.replace("127.0.0.1", "localhost").removeprefix("http://")
    assert (await api.call("GET", SESSION, user=None, headers={"Host": by_name})).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "192.0.2.1"},
        {"Forwarded": "for=192.0.2.1"},
        {"Via": "1.1 proxy"},
        {"Host": "evil.example.org"},  # a name that resolves to this machine
        {"Host": "evil.example.org:8080"},
        {"Host": "127.0.0.1.evil.example.org"},
        {"Host": "localhost@evil.example.org"},
        {"Host": "[::1"},
    ],
)
async def test_but_nobody_through_a_proxy_or_by_another_name(serve: Any, headers: dict[str, str]) -> None:
    api = await serve(anonymous=True)
    answer = await api.call("GET", SESSION, user=None, headers=headers)
    assert answer.status in (400, 401)
    assert api.services.calls == []


@pytest.mark.parametrize("origin", ["https://evil.example.org", "null", "http://127.0.0.1:1", "http://[", ""])
async def test_pages_of_other_origins_change_nothing(serve: Any, origin: str) -> None:
    api = await serve(anonymous=True)
    for user in (None, "ops"):
        answer = await api.call("POST", "/sites/alba/resume", user=user, headers={"Origin": origin})
        assert answer.status == 403
    assert api.services.calls == []
    assert (await api.call("GET", SESSION, headers={"Origin": origin})).status == 200


async def test_our_own_pages_may(serve: Any) -> None:
    api = await serve(public_url="https://broker.example.org/")
    for origin in (api.url, "https://broker.example.org"):
        answer = await api.call("POST", "/requests", headers={"Origin": origin}, json=REQUEST)
        assert answer.status == 303


async def test_a_refused_caller_s_body_is_not_read(api: Any) -> None:
    body = msgspec.json.encode({"executable": None})
    answer = await api.call("POST", "/requests", user=None, data=body)
    assert answer.status == 401


async def test_too_many_wrong_passwords_are_429(api: Any) -> None:
    wrong = {"Authorization": aiohttp.encode_basic_auth("ann", "wrong")}
    statuses = [(await api.call("GET", SESSION, headers=wrong)).status for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    answer = await api.call("GET", SESSION, headers=wrong)
    assert answer.headers["Retry-After"] == "6"
    api.clock.advance(60.0)
    assert (await api.call("GET", SESSION)).status == 200
