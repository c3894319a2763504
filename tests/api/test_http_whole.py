"""HTTP as clients of any make use it, through a whole broker and its sites over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from broker.api.routes import build_app
from broker.domain import kinds
from broker.settings import load_settings
from broker.testing.site import FakeSite
from broker.wiring import open_services

REQUEST: dict[str, Any] = {
    "executable": {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["docker://a/b:1"]}},
    "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 2}, "memory": {"min": 1}},
    "schedule": {"requested": {"duration": "PT1H"}},
}
ACCEPT = {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}


class Answer:
    def __init__(self, status: int, headers: Any, body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)


class Whole:
    def __init__(self, url: str, http: aiohttp.ClientSession, runner: web.AppRunner) -> None:
        self.url, self.http, self.runner = url, http, runner

    async def call(self, method: str, path: str, document: Any = None, **headers: str) -> Answer:
        url = path if path.startswith("http") else self.url + path
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.http.request(method, url, json=document, headers=given, allow_redirects=False) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    async with AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(FakeSite(name, price=price))
            for name, price in (("alba", 1.0), ("bora", 2.0))
        ]
        file = tmp_path / "broker.yaml"
        document = {
            "name": "whole",
            "listen": "127.0.0.1:0",
            "access": {"anonymous": "loopback"},
            "sites": {site.name: {"url": site.url, "poll": 0.2} for site in sites},
        }
        file.write_text(json.dumps(document))
        parts = await stack.enter_async_context(open_services(load_settings(file)))
        runner = web.AppRunner(build_app(parts), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Whole(f"http://127.0.0.1:{runner.addresses[0][1]}", http, runner)


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_one_set_is_made_however_often_its_key_comes_at_one_instant(whole: Whole) -> None:
    answers = await asyncio.gather(*(whole.call("POST", "/requests", REQUEST, Idempotency_Key="k1") for _ in range(12)))
    assert sorted({answer.status for answer in answers}) == [303, 409]
    made = {answer.headers["Location"] for answer in answers if answer.status == 303}
    assert len(made) == 1
    busy = next(answer for answer in answers if answer.status == 409)
    assert busy.json()["type"] == "uri:problem-conflict-1.0"
    assert int(busy.headers["Retry-After"]) >= 1
    again = await whole.call("POST", "/requests", REQUEST, Idempotency_Key="k1")
    assert (again.status, again.headers["Location"]) == (303, *made)
    listed = (await whole.call("GET", "/offersets")).json()["offersets"]
    assert [line["url"] for line in listed] == list(made)


async def test_a_replay_answers_what_was_made_as_it_is_now(whole: Whole) -> None:
    first = (await whole.call("POST", "/requests", REQUEST, Idempotency_Key="k1")).json()
    best = first["offers"][0]["meta"]["uuid"]
    taken = await whole.call("POST", f"/sessions/{best}", ACCEPT, Idempotency_Key="k1")
    assert (taken.status, taken.json()["meta"]["uuid"]) == (200, best)
    now = (await whole.call("POST", "/requests", REQUEST, Idempotency_Key="k1")).json()
    assert (now["meta"]["uuid"], now.get("taken")) == (first["meta"]["uuid"], best)
    cancelled = await whole.call("POST", f"/sessions/{best}", {**ACCEPT, "value": "CANCELLED"})
    replayed = await whole.call("POST", f"/sessions/{best}", ACCEPT, Idempotency_Key="k1")
    assert replayed.json()["phase"] == cancelled.json()["phase"]
    other = await whole.call("POST", "/requests", {**REQUEST, "name": "other"}, Idempotency_Key="k1")
    assert (other.status, other.json()["type"]) == (422, "uri:problem-key-reused-1.0")


async def test_a_direct_request_with_a_key_runs_once(whole: Whole) -> None:
    first = await whole.call("POST", "/direct", REQUEST, Idempotency_Key="k1")
    again = await whole.call("POST", "/direct", REQUEST, Idempotency_Key="k1")
    assert first.status == again.status
    assert first.headers.get("Location") == again.headers.get("Location")
    assert first.json()["meta"]["uuid"] == again.json()["meta"]["uuid"]
    assert len((await whole.call("GET", "/offersets")).json()["offersets"]) == 1


async def test_a_key_whose_request_was_refused_is_free(whole: Whole) -> None:
    volume = {"kind": kinds.SIMPLE_VOLUME, "path": "/data", "resource": "nowhere"}
    wrong = {**REQUEST, "compute": {**REQUEST["compute"], "volumes": [volume]}}
    assert (await whole.call("POST", "/requests", wrong, Idempotency_Key="k1")).status == 400
    assert (await whole.call("POST", "/requests", REQUEST, Idempotency_Key="k1")).status == 303


# ── preferences ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_answer_at_once_is_an_open_set_that_fills(whole: Whole) -> None:
    answer = await whole.call("POST", "/requests", REQUEST, Prefer="respond-async")
    assert (answer.status, answer.headers["Preference-Applied"]) == (303, "respond-async")
    document = answer.json()
    assert (document["result"], document["pending"], document["closed"]) == ("NO", 2, False)
    while not document["closed"]:
        document = (await whole.call("GET", answer.headers["Location"])).json()
    assert (document["result"], len(document["offers"])) == ("YES", 2)
    waited = await whole.call("POST", "/requests", REQUEST, Prefer="respond-async, wait=30")
    assert (waited.json()["closed"], waited.json()["result"]) == (True, "YES")


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────


class Reader:
    """Reads events one by one from an open stream."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> tuple[str, Any]:
        """The id and the document; EOFError at the end of the stream."""
        fields: dict[str, str] = {}
        while True:
            line = (await self.response.content.readline()).decode()
            if not line:
                raise EOFError
            name, _, value = line.rstrip("\n").partition(": ")
            if not name and "data" in fields:
                return fields["id"], json.loads(fields["data"])
            fields[name] = value

    async def rest(self) -> list[tuple[str, Any]]:
        """All until the stream ends as it should; a connection that is broken off is an error of its own."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(await self.next())
        return found


async def test_a_growing_set_is_followed_until_it_is_closed_and_on_from_where_one_was(whole: Whole) -> None:
    answer = await whole.call("POST", "/requests", REQUEST, Prefer="respond-async")
    url = f"{answer.headers['Location']}/events"
    async with whole.http.get(url) as response:
        cursor, document = await Reader(response).next()
        reader = Reader(response)
        while not document["closed"]:
            cursor, document = await reader.next()
    assert len(document["offers"]) == 2
    for offer in document["offers"]:
        await whole.call("POST", f"/sessions/{offer['meta']['uuid']}", {**ACCEPT, "value": "REJECTED"})
    async with whole.http.get(url, headers={"Last-Event-ID": cursor}) as response:
        cursor, document = (await Reader(response).rest())[-1]
    assert (document["result"], document["closed"]) == ("NO", True)
    # What is released at the sites afterwards changes the version once more; in the end nothing more can come.
    while (again := await whole.call("GET", url, Last_Event_ID=cursor)).status == 200:
        cursor = again.body.decode().partition("id: ")[2].partition("\n")[0]
    assert again.status == 204


async def test_a_session_is_followed_to_its_end(whole: Whole) -> None:
    best = (await whole.call("POST", "/requests", REQUEST)).json()["offers"][0]
    async with whole.http.get(f"{best['meta']['url']}/events") as response:
        reader = Reader(response)
        _, document = await reader.next()
        seen = [document["phase"]]
        await whole.call("POST", f"/sessions/{best['meta']['uuid']}", ACCEPT)
        while seen[-1] not in ("ACCEPTED", "PREPARING", "AVAILABLE", "RUNNING"):
            seen.append((await reader.next())[1]["phase"])
        await whole.call("POST", f"/sessions/{best['meta']['uuid']}", {**ACCEPT, "value": "CANCELLED"})
        seen += [document["phase"] for _, document in await reader.rest()]
    assert (seen[0], seen[-1]) == ("OFFERED", "CANCELLED")


async def test_a_server_that_stops_ends_its_streams_instead_of_waiting_for_them(whole: Whole) -> None:
    best = (await whole.call("POST", "/requests", REQUEST)).json()["offers"][0]
    async with whole.http.get(f"{best['meta']['url']}/events") as response:
        reader = Reader(response)
        await reader.next()
        await whole.runner.cleanup()
        assert {document["phase"] for _, document in await reader.rest()} <= {"OFFERED"}


# ── lists, conditions, updates ───────────────────────────────────────────────────────────────────────────────


async def test_lists_show_what_is_looked_for(whole: Whole) -> None:
    for name in ("fit", "flat", "fit"):
        executable = {**REQUEST["executable"], "meta": {"name": name}}
        await whole.call("POST", "/requests", {**REQUEST, "executable": executable})

    async def listed(path: str) -> list[Any]:
        (lines,) = (await whole.call("GET", path)).json().values()
        return list(lines)

    sets = await listed("/offersets")
    assert [line["name"] for line in sets] == ["fit", "flat", "fit"]
    assert [line["name"] for line in await listed("/offersets?name=flat")] == ["flat"]
    assert await listed("/offersets?since=2100-01-01T00:00:00Z") == []
    assert await listed("/offersets?since=2020-01-01T00:00:00Z") == sets
    assert {line["site"] for line in await listed("/sessions?all=true&site=bora")} == {"bora"}
    assert len(await listed("/sessions?all=true&site=bora&name=fit")) == 2


async def test_what_one_has_is_not_sent_again(whole: Whole) -> None:
    offerset = await whole.call("POST", "/requests", REQUEST)
    session = offerset.json()["offers"][0]["meta"]["url"]
    for url in (offerset.headers["Location"], session):
        tag = (await whole.call("GET", url)).headers["ETag"]
        for method in ("GET", "HEAD"):
            same = await whole.call(method, url, If_None_Match=tag)
            assert (same.status, same.body, same.headers["ETag"]) == (304, b"", tag)
            assert (await whole.call(method, url, If_None_Match='"other"')).headers["ETag"] == tag
        assert (await whole.call("GET", url, If_None_Match=tag, Accept="application/yaml")).status == 200
    await whole.call("POST", session.removeprefix(whole.url), ACCEPT)
    assert (await whole.call("GET", session, If_None_Match=tag)).status == 200


@pytest.mark.parametrize(
    "update",
    [
        {"kind": kinds.STRING_UPDATE, "path": "/phase", "value": "ACCEPTED"},
        {"kind": kinds.INTEGER_UPDATE, "path": "/compute/cores/min", "value": 2, "units": "cores"},
        {"kind": kinds.DELTA_UPDATE, "path": "/compute/cores/min", "delta": -1},
        {"kind": kinds.ENUM_UPDATE, "path": "/name", "value": "ACCEPTED"},
    ],
)
async def test_every_kind_of_update_is_read_and_what_cannot_be_updated_is_said(whole: Whole, update: Any) -> None:
    best = (await whole.call("POST", "/requests", REQUEST)).json()["offers"][0]["meta"]["url"]
    answer = await whole.call("POST", best, update)
    assert (answer.status, answer.json()["element"]) == (400, "path")
    assert kinds.ENUM_UPDATE in answer.json()["remedy"]
    assert (await whole.call("GET", best)).json()["phase"] == "OFFERED"
