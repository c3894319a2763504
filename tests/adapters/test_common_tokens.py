"""Tokens for a platform's server: where they come from, when they are renewed, and what is said where there is none."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from pydantic import ValidationError

from adapters.common.tokens import Token, TokenOptions, Tokens, ends, per_user, tokens
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.errors import (
    SettingsError,
    SiteError,
    SiteForbids,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.testing.clock import FakeClock
from broker.testing.resources import shared_http

PLACE = "cluster.example"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as session:
        yield session


def soon(clock: FakeClock) -> Deadline:
    return Deadline.after(20.0, clock.monotonic())


def jwt(exp: object = None) -> str:
    claims = {"sub": "svc"} | ({"exp": exp} if exp is not None else {})
    return ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims, "s"))


def of_file(file: Path, http: aiohttp.ClientSession, clock: FakeClock, **more: Any) -> Tokens:
    return tokens(TokenOptions(token_file=file, **more), http, clock, PLACE)


# ── from files and commands ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_files_first_line_is_the_token(tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock) -> None:
    file = tmp_path / "token"
    file.write_text("secret-1\nnothing else\n")
    assert await of_file(file, http, clock).token(soon(clock)) == "secret-1"


async def test_a_token_is_renewed_before_it_ends(tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock) -> None:
    file = tmp_path / "token"
    first, second = jwt(clock.now() + 3600), jwt(clock.now() + 7200)
    file.write_text(first)
    source = of_file(file, http, clock)
    assert await source.token(soon(clock)) == first
    file.write_text(second)
    clock.advance(3500)
    assert await source.token(soon(clock)) == first  # it serves until a minute before its end
    clock.advance(45)
    assert await source.token(soon(clock)) == second


async def test_a_token_that_ended_is_not_sent_and_it_is_said_when_it_did(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    file = tmp_path / "token"
    file.write_text(jwt(clock.now() - 60))
    with pytest.raises(SiteForbids, match=r"the token for cluster\.example ended \d{4}-.*Z") as caught:
        await of_file(file, http, clock).token(soon(clock))
    assert caught.value.proof
    assert caught.value.acts == "operator"


async def test_a_token_that_does_not_say_when_it_ends_serves_for_its_lifetime(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    file = tmp_path / "token"
    file.write_text("plain")
    os.utime(file, (clock.now(), clock.now() - 1000))
    with pytest.raises(SiteForbids, match="ended"):
        await of_file(file, http, clock, lifetime="PT10M").token(soon(clock))
    assert await of_file(file, http, clock, lifetime="PT1H").token(soon(clock)) == "plain"


async def test_one_that_was_refused_is_not_sent_again_unless_its_source_gives_another(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    file = tmp_path / "token"
    file.write_text("bad")
    source = of_file(file, http, clock)
    source.rejected(await source.token(soon(clock)))
    with pytest.raises(SiteForbids, match="does not take the token"):
        await source.token(soon(clock))
    file.write_text("good")
    assert await source.token(soon(clock)) == "good"
    source.rejected("bad")  # told late, by a call that was under way
    assert await source.token(soon(clock)) == "good"


@pytest.mark.parametrize("text", ["", "two words", "\x00", "x" * 20_000, "naïve"])
async def test_what_is_no_token_is_not_sent(
    text: str, tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(SiteForbids, match="holds no token"):
        await of_file(file, http, clock).token(soon(clock))


async def test_a_file_that_is_not_there_is_the_operators_to_mend(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    with pytest.raises(SiteForbids, match="cannot be read: No such file"):
        await of_file(tmp_path / "none", http, clock).token(soon(clock))


async def test_a_command_is_run_once_for_all_who_wait(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    tally = tmp_path / "tally"
    command = ("sh", "-c", f"echo run >> {tally}; echo SLURM_JWT={jwt(clock.now() + 600)}")
    source = tokens(TokenOptions(token_command=command), http, clock, PLACE)
    found = await asyncio.gather(*(source.token(soon(clock)) for _ in range(5)))
    assert set(found) == {jwt(clock.now() + 600)}
    assert tally.read_text() == "run\n"


@pytest.mark.parametrize(
    ("command", "error", "words"),
    [
        (("sh", "-c", "echo my-secret >&2; exit 3"), SiteForbids, r"sh, ended with 3\. What it said is kept"),
        (("no-such-command",), SiteForbids, "cannot be run"),
        (("sh", "-c", "sleep 60"), SiteUnreachable, "did not end in time|by the deadline"),
        (("sh", "-c", "yes"), SiteForbids, "ended with|holds no token"),
    ],
)
async def test_a_command_that_fails_says_nothing_of_what_it_printed(
    command: tuple[str, ...], error: type[Exception], words: str, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    source = tokens(TokenOptions(token_command=command), http, clock, PLACE)
    with pytest.raises(error, match=words) as caught:
        await source.token(Deadline.after(1.0, clock.monotonic()))
    assert "my-secret" not in str(caught.value)
    await source.close()


async def test_a_command_may_leave_an_agent_behind_that_keeps_its_output_open(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    left = tmp_path / "left"
    command = ("sh", "-c", f"setsid sleep 30 & echo $! > {left}; echo my-token")
    source = tokens(TokenOptions(token_command=command), http, clock, PLACE)
    try:
        async with asyncio.timeout(10.0):
            assert await source.token(soon(clock)) == "my-token"
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)


async def test_a_token_serves_until_its_end_where_no_other_is_to_be_had(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> None:
    file = tmp_path / "token"
    file.write_text(first := jwt(clock.now() + 3600))
    source = of_file(file, http, clock)
    assert await source.token(soon(clock)) == first
    file.unlink()
    clock.advance(3550.0)
    assert await source.token(soon(clock)) == first
    clock.advance(50.0)
    with pytest.raises(SiteForbids):
        await source.token(soon(clock))


async def test_a_token_that_serves_is_sent_in_time_where_its_source_is_silent(clock: FakeClock) -> None:
    class Silent:
        asked = False

        async def get(self, deadline: Deadline) -> Token:
            if self.asked:
                await asyncio.sleep(30.0)
            self.asked = True
            return Token("present", clock.now() + 3600.0)

    source = Tokens(Silent(), clock, PLACE)
    assert await source.token(soon(clock)) == "present"
    clock.advance(3550.0)
    async with asyncio.timeout(0.9):
        assert await source.token(Deadline.after(1.0, clock.monotonic())) == "present"
    await source.close()


class Slow:
    """A source that takes five seconds, and raises where its deadline is nearer."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock, self.asked = clock, 0

    async def get(self, deadline: Deadline) -> Token:
        self.asked += 1
        left = deadline.left(self._clock.monotonic())
        await self._clock.sleep(min(5.0, left))
        if left < 5.0:
            raise SiteTimeout("no answer")
        return Token("late", None)


async def test_nobody_goes_without_for_another_who_had_less_time(clock: FakeClock) -> None:
    source = Tokens(slow := Slow(clock), clock, PLACE)
    hasty = asyncio.create_task(source.token(Deadline.after(1.0, clock.monotonic())))
    patient = asyncio.create_task(source.token(soon(clock)))
    for _ in range(10):
        for _ in range(10):
            await asyncio.sleep(0)
        clock.advance(1.0)
    assert await patient == "late"
    with pytest.raises(SiteUnreachable):
        await hasty
    assert slow.asked == 2


# ── from an OpenID Connect provider ──────────────────────────────────────────────────────────────────────────────


Provider = Callable[..., Any]


@pytest.fixture
async def provider(
    tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock
) -> AsyncIterator[Callable[[web.Response], Tokens]]:
    """Tokens of a provider that answers so; what it was sent is in `seen`."""
    runners = []
    (tmp_path / "secret").write_text("s3cret/&\n")

    async def started(answer: Callable[[], web.Response], seen: list[Any], path: str = "/token") -> Tokens:
        async def token(request: web.Request) -> web.Response:
            seen.append((request.headers.get("Authorization"), dict(await request.post())))
            return answer()

        app = web.Application()
        app.router.add_post(path, token)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        runners.append(runner)
        oidc = {
            "token_url": f"http://127.0.0.1:{runner.addresses[0][1]}{path}",
            "client_id": "broker",
            "client_secret_file": tmp_path / "secret",
            "audience": "urn:site",
        }
        return tokens(TokenOptions.model_validate({"oidc": oidc}), http, clock, PLACE)

    yield started  # type: ignore[misc]
    for runner in runners:
        await runner.cleanup()


async def test_a_client_signs_in_and_again_before_the_token_ends(provider: Provider, clock: FakeClock) -> None:
    seen: list[Any] = []
    source = await provider(lambda: web.json_response({"access_token": f"t{len(seen)}", "expires_in": 600}), seen)
    assert await source.token(soon(clock)) == "t1"
    assert await source.token(soon(clock)) == "t1"
    clock.advance(545)
    assert await source.token(soon(clock)) == "t2"
    authorization, form = seen[0]
    assert authorization == aiohttp.encode_basic_auth("broker", "s3cret%2F%26")
    assert form == {"grant_type": "client_credentials", "audience": "urn:site", "resource": "urn:site"}


@pytest.mark.parametrize(
    ("status", "body", "error", "words"),
    [
        (
            401,
            {"error": "invalid_client", "error_description": "s3cret"},
            SiteForbids,
            "no token: invalid_client",
        ),
        (400, {"error": "<script>"}, SiteForbids, r"gives broker no token\."),
        (200, {"token": "x"}, SiteForbids, "holds no token"),
        (200, [1], SiteForbids, "holds no token"),
        (500, {"detail": "s3cret"}, SiteUnreachable, "answered 500"),
    ],
)
async def test_a_provider_that_refuses_is_told_without_its_words(
    status: int, body: object, error: type[Exception], words: str, provider: Provider, clock: FakeClock
) -> None:
    source = await provider(lambda: web.json_response(body, status=status), [])
    with pytest.raises(error, match=words) as caught:
        await source.token(soon(clock))
    assert "s3cret" not in str(caught.value)


# ── small matters ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "a.e30.c", jwt("soon"), jwt(True), jwt(-1), jwt(1e300), f"a.{'A' * 9}.c"]
)
def test_what_does_not_say_when_it_ends_is_not_guessed(token: str) -> None:
    assert ends(token) is None


def test_the_end_of_a_token_is_what_it_says() -> None:
    moment = float(int(time.time()))
    assert ends(jwt(moment)) == moment


@pytest.mark.parametrize("given", [{}, {"token_file": "a", "token_command": ["b"]}, {"token_fil": "a"}])
def test_one_source_is_wanted(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TokenOptions.model_validate(given)


def test_an_endpoint_that_is_no_address_is_named(http: aiohttp.ClientSession, clock: FakeClock) -> None:
    oidc = {"token_url": "idp.example", "client_id": "a", "client_secret_file": "b"}
    with pytest.raises(SettingsError) as caught:
        tokens(TokenOptions.model_validate({"oidc": oidc}), http, clock, PLACE)
    assert caught.value.key == "oidc.token_url"


def test_some_users_have_tokens_of_their_own(tmp_path: Path, http: aiohttp.ClientSession, clock: FakeClock) -> None:
    ada, bob = (of_file(tmp_path / name, http, clock) for name in ("ada", "bob"))
    users = {"https://idp.example ada": ada, "bob": bob}
    assert per_user(users, Owner("https://idp.example", "ada")) is ada
    assert per_user(users, Owner("https://other.example", "ada")) is None
    assert per_user(users, Owner("anywhere", "bob")) is bob
    assert per_user(users, Owner("https://other.example", "https://idp.example ada")) is None


@pytest.mark.parametrize("error", [SiteRefused("not found", status=404), SiteRefused("conflict", status=409)])
async def test_a_source_that_refuses_is_no_refusal_of_what_was_to_be_sent(clock: FakeClock, error: SiteError) -> None:
    """A server's 404 means that there is no such task, and a 400 that a job is refused for good."""

    class Gone:
        async def get(self, deadline: Deadline) -> Any:
            raise error

    with pytest.raises(SiteUnreachable):
        await Tokens(Gone(), clock, PLACE).token(soon(clock))


async def test_an_endpoint_may_end_in_a_slash(provider: Provider, clock: FakeClock) -> None:
    seen: list[Any] = []
    source = await provider(lambda: web.json_response({"access_token": "t"}), seen, "/token/")
    assert await source.token(soon(clock)) == "t"


async def test_a_token_that_nobody_can_be_asked_for_is_proof_that_nothing_was_sent(clock: FakeClock) -> None:
    class Broken:
        async def get(self, deadline: Deadline) -> Any:
            raise SiteMisbehaved("it speaks in riddles")

    with pytest.raises(SiteUnreachable, match="riddles"):
        await Tokens(Broken(), clock, PLACE).token(soon(clock))
