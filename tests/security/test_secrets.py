"""Secrets of the settings file: where they may be sent, and where they may not be read."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.api.routes import Parts
from broker.domain.identity import Caller, Owner
from broker.domain.site import Registration
from broker.errors import BadInput, SettingsError
from broker.services.sites import Sites
from broker.settings import Settings, load_settings
from broker.wiring import open_services

SECRET = "a-secret-that-is-the-sites-alone"
OPERATOR = Caller(Owner("net", "olga"), "olga", frozenset({"operator"}))


class Listener:
    """A server that remembers how callers signed in, and is no broker."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", self._hear)
        self.server = TestServer(app, host="127.0.0.1")

    async def _hear(self, request: web.Request) -> web.Response:
        self.heard.append(request.headers.get("Authorization"))
        return web.json_response({}, status=404)

    @property
    def url(self) -> str:
        return str(self.server.make_url("/broker"))


@pytest.fixture
async def theirs() -> AsyncIterator[Listener]:
    async with _listening() as listener:
        yield listener


@pytest.fixture
async def others() -> AsyncIterator[Listener]:
    async with _listening() as listener:
        yield listener


@asynccontextmanager
async def _listening() -> AsyncIterator[Listener]:
    listener = Listener()
    async with listener.server:
        yield listener


def settings(folder: Path, **given: Any) -> Settings:
    return Settings(name="net", store=str(folder / "broker.db"), **given)


def written(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def sites(parts: Parts) -> Sites:
    assert isinstance(parts.sites, Sites)
    return parts.sites


def asking(url: str) -> Registration:
    return Registration(url=url, credentials="alba")


async def test_a_registered_site_gets_no_secret_of_another_address(
    tmp_path: Path, theirs: Listener, others: Listener
) -> None:
    file = settings(
        tmp_path,
        credentials={"alba": {"token": SECRET}},
        sites={"alba": {"url": theirs.url, "credentials": "alba"}},
    )
    async with open_services(file) as parts:
        with pytest.raises(BadInput) as refusal:
            await sites(parts).put("mine", asking(others.url), OPERATOR)
        assert refusal.value.element == "credentials"
        assert "credentials.alba.origins" in refusal.value.remedy
        assert [site["name"] for site in sites(parts).list()] == ["alba"]
        await sites(parts).put("alba-too", asking(theirs.url), OPERATOR)
    assert set(theirs.heard) == {f"Bearer {SECRET}"}
    assert others.heard == []


async def test_the_file_says_where_else_a_secret_may_go(tmp_path: Path, others: Listener) -> None:
    origin = str(others.server.make_url("/"))
    allowed = settings(tmp_path, credentials={"alba": {"token": SECRET, "origins": [origin]}})
    async with open_services(allowed) as parts:
        await sites(parts).put("mine", asking(others.url), OPERATOR)
    assert set(others.heard) == {f"Bearer {SECRET}"}

    others.heard.clear()
    narrowed = settings(tmp_path, credentials={"alba": {"token": SECRET}})
    async with open_services(narrowed) as parts:
        assert sites(parts).list() == []  # left out, and the broker starts without it
    assert others.heard == []


async def test_no_view_and_no_file_of_ours_holds_a_secret(tmp_path: Path, theirs: Listener) -> None:
    hash_ = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$aGFzaA"
    file = settings(
        tmp_path,
        access={"users": {"ann": {"password_hash": hash_}, "bob": {"token_sha256": "ab" * 32}}},
        credentials={"alba": {"token": SECRET}, "basic": {"username": "us", "password": SECRET}},
        sites={"alba": {"url": theirs.url, "credentials": "alba"}},
    )
    assert not [secret for secret in (SECRET, hash_, "ab" * 32) if secret in repr(file) + str(file)]
    async with open_services(file) as parts:
        shown = str(sites(parts).list()) + repr(parts) + str(await parts.status.snapshot(OPERATOR))
        assert SECRET not in shown
    assert SECRET.encode() not in written(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        f'  token: "{SECRET}',
        f"  token: {SECRET}: x",
        f"  token: {SECRET}\x07",
        f"  token: !{SECRET} x",
        f"  token: *{SECRET}",
    ],
)
def test_a_fault_in_the_settings_file_quotes_no_secret(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broker.yaml"
    file.write_text(f"name: net\ncredentials:\n alba:\n{text}\n")
    with pytest.raises(SettingsError) as fault:
        load_settings(file)
    assert SECRET not in f"{fault.value} {fault.value.__cause__}"
    assert str(file) in str(fault.value)


@pytest.mark.parametrize("wrong", [{"token": [SECRET]}, {"tokn": SECRET}, {"token": SECRET, "password": 7}])
def test_a_wrong_credential_is_told_without_it(tmp_path: Path, wrong: dict[str, Any]) -> None:
    file = tmp_path / "broker.yaml"
    file.write_text(json.dumps({"name": "net", "credentials": {"alba": wrong}}))
    with pytest.raises(SettingsError) as fault:
        load_settings(file)
    assert "credentials.alba" in str(fault.value)
    assert SECRET not in str(fault.value)
