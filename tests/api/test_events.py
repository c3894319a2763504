"""Streams of events on the wire: their form, their cursor, their end, and who may open how many."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import pytest

from broker.api import events
from broker.errors import NotFound, Unavailable

SET = "7f3a0000-0000-4000-8000-00000000000a"
SESSION = "91c20000-0000-4000-8000-00000000000b"
PATHS = [
    (f"/offersets/{SET}/events", "offerset", "follow_set"),
    (f"/sessions/{SESSION}/events", "session", "follow_session"),
]


@dataclass
class State:
    uuid: str
    phase: str


@dataclass
class Change:
    cursor: int
    phase: str

    @property
    def state(self) -> State:
        return State(SESSION, self.phase)


def parsed(body: bytes) -> list[tuple[str, str, Any]]:
    """Event, id and data of each, as the standard of the web has it; comments are left out."""
    found = []
    for block in body.decode().split("\n\n"):
        fields: dict[str, list[str]] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            fields.setdefault(name, []).append(value)
        if "data" in fields:
            data = msgspec.json.decode("\n".join(fields["data"]))
            found.append((fields["event"][0], fields["id"][0], data["phase"]))
    return found


@pytest.mark.parametrize(("path", "name", "call"), PATHS)
async def test_each_change_is_an_event_with_its_version(api: Any, path: str, name: str, call: str) -> None:
    api.services.changes = [Change(3, "OFFERED"), None, Change(5, "ACCEPTED")]
    answer = await api.call("GET", path, headers={"Last-Event-ID": "2", "Accept": "text/event-stream"})
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/event-stream")
    assert answer.headers["Cache-Control"] == "no-store"
    assert parsed(answer.body) == [(name, "3", "OFFERED"), (name, "5", "ACCEPTED")]
    assert answer.body.startswith(b"retry: ")
    assert b"\n\n:\n\n" in answer.body
    assert (call, 2) == (api.services.calls[0][0], api.services.calls[0][2])


async def test_what_changed_for_others_is_a_sign_of_life(api: Any) -> None:
    api.services.changes = [Change(3, "OFFERED"), Change(4, "OFFERED"), Change(5, "ACCEPTED")]
    answer = await api.call("GET", PATHS[1][0])
    assert [item[1] for item in parsed(answer.body)] == ["3", "5"]


async def test_line_ends_that_sites_wrote_stay_in_the_document() -> None:
    piece = events._event("session", 7, b'{"phase":\r\n"A",\n\n"b":1}')
    assert piece == b'event: session\nid: 7\ndata: {"phase":\ndata: "A",\ndata: \ndata: "b":1}\n\n'


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1" * 30, "2; 3"])
async def test_what_is_no_cursor_begins_with_the_present(api: Any, cursor: str) -> None:
    api.services.changes = [Change(3, "OFFERED")]
    answer = await api.call("GET", PATHS[0][0], headers={"Last-Event-ID": cursor})
    assert (answer.status, api.services.calls[0][2]) == (200, None)


async def test_where_nothing_more_can_come_a_client_is_told_to_stay_away(api: Any) -> None:
    answer = await api.call("GET", PATHS[0][0], headers={"Last-Event-ID": "9"})
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("path", [PATHS[0][0], PATHS[1][0], "/sessions/7f3/events"])
async def test_what_is_not_there_is_an_ordinary_error(api: Any, path: str) -> None:
    api.services.error = NotFound("no such thing.")
    answer = await api.call("GET", path, headers={"Accept": "text/event-stream"})
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+json")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream;q=0, */*"])
async def test_who_reads_no_events_gets_none(api: Any, accept: str) -> None:
    answer = await api.call("GET", PATHS[0][0], headers={"Accept": accept})
    assert (answer.status, api.services.calls) == (406, [])


@pytest.mark.parametrize("error", [Unavailable("no store."), RuntimeError("a bug")])
async def test_an_error_on_the_way_ends_the_stream_after_what_came_before(api: Any, error: BaseException) -> None:
    api.services.changes = [Change(3, "OFFERED"), error]
    answer = await api.call("GET", PATHS[0][0])
    assert parsed(answer.body) == [("offerset", "3", "OFFERED")]


async def test_one_account_can_open_so_many_and_they_are_given_back(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST", 1)
    gate = asyncio.Event()

    async def gated(uuid: Any, caller: Any, after: Any) -> Any:
        async def changes() -> Any:
            yield Change(1, "OFFERED")
            await gate.wait()

        return changes()

    api.services.follow_set = gated
    headers = {"Authorization": aiohttp.encode_basic_auth("ann", "ann-secret")}
    async with api.http.get(api.url + PATHS[0][0], headers=headers) as first:
        assert await first.content.readline()
        refused = await api.call("GET", PATHS[0][0])
        assert (refused.status, refused.headers["Retry-After"]) == (429, "2")
        gate.set()
        await first.read()
    assert (await api.call("GET", PATHS[0][0])).status == 200
