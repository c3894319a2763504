"""From request to result through two levels of brokers, and what is said when something is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NamedTuple

import pytest

from broker.domain import kinds
from broker.testing.program import ACCEPT, CANCEL, Caller, Program, above, platform

pytestmark = pytest.mark.system

Until = Callable[..., Awaitable[dict[str, Any]]]


class World(NamedTuple):
    """Left and right stand before one platform, top before both."""

    leaf: Program
    left: Program
    right: Program
    top: Program


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    leaf = Program(folder, "leaf", **platform(folder / "jobs")).start()
    left = Program(folder, "left", **above(leaf=leaf)).launch()
    right = Program(folder, "right", **above(leaf=leaf)).launch()
    top = Program(folder, "top", **above(left=left.ready(), right=right.ready())).start()
    yield World(leaf, left, right, top)
    for program in (leaf, left, right, top):
        program.kill()


def words(document: Any) -> list[str]:
    """Every message of an offer set."""
    return [message["message"] for message in document["meta"].get("messages", [])]


async def test_a_request_becomes_a_result(world: World, call: Caller, until: Until, work: Any) -> None:
    top, site = world.left, world.leaf
    asked = await call("POST", f"{top.url}/requests", work.request())
    assert asked.status == 303
    offers = asked.json()["offers"]
    assert asked.json()["result"] == "YES"
    assert asked.headers["Location"] == asked.json()["meta"]["url"]
    session = offers[0]["meta"]["url"]
    accepted = await call("POST", session, ACCEPT)
    assert (accepted.status, accepted.json()["phase"] in ("OFFERED", "EXPIRED")) == (200, False)
    await work.running()
    work.let_end()
    ended = await until(session)
    assert ended["phase"] == "COMPLETED"
    assert (ended["site"], ended["origin"]) == ("leaf", "leaf")
    assert work.started == 1
    listed = (await call("GET", f"{session}/results")).json()["results"]
    assert [(item["name"], item["bytes"]) for item in listed] == [("answer.txt", 2)]
    assert (await call("GET", listed[0]["url"])).body == b"42"
    assert (await call("GET", f"{session}/logs")).json() == {"stdout": "hello from the run\n", "stderr": ""}
    assert ended["promise"]["actual_start"] <= ended["promise"]["actual_end"]
    others = (await call("GET", asked.headers["Location"])).json()["offers"]
    assert {one["phase"] for one in others} == {"COMPLETED", "REJECTED"} or len(others) == 1
    below = (await call("GET", f"{site.url}/sessions")).json()
    assert below["sessions"][0]["phase"] == "COMPLETED"


async def test_a_run_that_is_cancelled_at_the_top_ends_at_the_bottom(
    world: World, call: Caller, until: Until, work: Any
) -> None:
    top, site = world.left, world.leaf
    session = (await call("POST", f"{top.url}/requests", work.request())).json()["offers"][0]["meta"]["url"]
    await call("POST", session, ACCEPT)
    await work.running()
    await call("POST", session, CANCEL)
    assert (await until(session))["phase"] == "CANCELLED"
    below = (await call("GET", f"{site.url}/sessions")).json()["sessions"]
    assert below[0]["phase"] == "CANCELLED"


async def test_direct_runs_the_best(world: World, call: Caller, until: Until, work: Any) -> None:
    top = world.left
    work.let_end()
    direct = await call("POST", f"{top.url}/direct", work.request())
    assert direct.status in (200, 303)
    assert (await until(direct.json()["meta"]["url"]))["phase"] == "COMPLETED"
    assert work.started == 1


def _volume(name: str) -> dict[str, Any]:
    volume = {"kind": kinds.SIMPLE_VOLUME, "path": "/in", "resource": name}
    return {"kind": kinds.SIMPLE_COMPUTE, "volumes": [volume]}


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a reference that leads nowhere": ({"compute": _volume("nowhere")}, "compute.volumes[0].resource"),
    "a number that is none": ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": "four"}}}, "compute.cores"),
    "more at least than at most": (
        {"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 4, "max": 2}}}, "compute.cores",
    ),
    "a duration that is none": ({"schedule": {"requested": {"duration": "soon"}}}, "schedule.requested.duration"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_is_said_in_one_clear_line(world: World, call: Caller, work: Any, name: str) -> None:
    change, element = WRONG[name]
    answer = await call("POST", f"{world.top.url}/requests", work.request() | change)
    problem = answer.json()
    assert answer.status == 400
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert problem["element"].startswith(element)
    assert problem["detail"]
    assert "\n" not in problem["detail"]


async def test_a_kind_nobody_runs_is_a_no_with_each_sites_reason(world: World, call: Caller, work: Any) -> None:
    answer = (await call("POST", f"{world.left.url}/requests", work.request(executable={"kind": "uri:magic"}))).json()
    assert (answer["result"], len(words(answer))) == ("NO", 1)
    assert "leaf does not run magic" in words(answer)[0]


async def test_a_dead_site_is_one_line(world: World, call: Caller, work: Any) -> None:
    top = world.right
    await call("PUT", f"{top.url}/sites/dead", {"kind": "ivoa", "url": "http://127.0.0.1:9"})
    asked = (await call("POST", f"{top.url}/requests", work.request())).json()
    direct = await call("POST", f"{top.url}/direct", work.request(executable={"kind": "uri:magic"}))
    assert (await call("DELETE", f"{top.url}/sites/dead")).status == 204
    assert asked["result"] == "YES"
    (line,) = [text for text in words(asked) if text.startswith("dead")]
    assert "dead Skipped: not reached since" in line
    assert (direct.status, direct.json()["phase"]) == (400, "FAILED")
    assert any("not reached since" in text for text in words(direct.json()))


async def test_what_is_not_there_says_where_to_look(world: World, call: Caller) -> None:
    nothing = await call("GET", f"{world.top.url}/sessions/00000000-0000-4000-8000-000000000000")
    assert (nothing.status, "GET /sessions" in nothing.json()["remedy"]) == (404, True)


# ── brokers behind brokers ───────────────────────────────────────────────────────────────────────────────────


class Hung:
    """Takes connections, and answers only for its profile's absence: a plain site that never offers."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        self.asked.set()
        await reader.read()
        writer.close()


@pytest.fixture
async def hung() -> AsyncIterator[tuple[Hung, str]]:
    hung = Hung()
    server = await asyncio.start_server(hung.serve, "127.0.0.1", 0)
    yield hung, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


async def test_three_levels_with_a_hung_leaf_answer_in_time(
    world: World, call: Caller, work: Any, hung: tuple[Hung, str]
) -> None:
    """With the promise kept at every level, top answers within what it was given, and says who was silent."""
    site, url = hung
    await call("PUT", f"{world.right.url}/sites/hung", {"kind": "ivoa", "url": url})
    # Registered anew, so that top learns at once that more kinds than the platform's can run there.
    await call("PUT", f"{world.top.url}/sites/anew", {"kind": "ivoa", "url": world.right.url})
    request = work.request(executable={"kind": kinds.DOCKER_CONTAINER})
    async with asyncio.timeout(4.0):
        answer = (await call("POST", f"{world.top.url}/requests", request, **{"Broker-Deadline": "4000"})).json()
    assert (await call("DELETE", f"{world.top.url}/sites/anew")).status == 204
    assert (await call("DELETE", f"{world.right.url}/sites/hung")).status == 204
    assert site.asked.is_set()
    assert answer["result"] == "NO"
    line = next(line for line in answer["outcomes"] if line["site"] == "anew")
    assert line["outcome"] == "Declined"
    assert any("hung: no answer" in reason for reason in line["reasons"]), line


async def test_a_site_reached_by_two_ways_is_asked_once(world: World, call: Caller, work: Any) -> None:
    answer = (await call("POST", f"{world.top.url}/requests", work.request())).json()
    offering = {offer["site"] for offer in answer["offers"]}
    assert {offer["origin"] for offer in answer["offers"]} == {"leaf"}
    assert len(offering) == 1
    (other,) = {"left", "right"} - offering
    line = next(line for line in answer["outcomes"] if line["site"] == other)
    assert line["outcome"] == "Declined"
    assert any("asked by way of" in reason for reason in line["reasons"])


async def test_a_circle_of_brokers_ends(world: World, call: Caller, work: Any) -> None:
    """Each is a site of the other: neither asks for ever, and the platform below is offered once."""
    await call("PUT", f"{world.leaf.url}/sites/left", {"kind": "ivoa", "url": world.left.url})
    answer = (await call("POST", f"{world.left.url}/requests", work.request())).json()
    from_below = (await call("POST", f"{world.leaf.url}/requests", work.request())).json()
    assert (await call("DELETE", f"{world.leaf.url}/sites/left")).status == 204
    assert {offer["origin"] for offer in answer["offers"]} == {"leaf"}
    assert {offer["site"] for offer in from_below["offers"]} == {"leaf"}
    line = next(line for line in from_below["outcomes"] if line["site"] == "left")
    assert line["outcome"] == "Declined"
    assert any("has had the request already" in reason for reason in line["reasons"])


async def test_a_broker_that_is_its_own_site_does_not_ask_itself(world: World, call: Caller, work: Any) -> None:
    await call("PUT", f"{world.leaf.url}/sites/me", {"kind": "ivoa", "url": world.leaf.url})
    answer = (await call("POST", f"{world.leaf.url}/requests", work.request())).json()
    assert (await call("DELETE", f"{world.leaf.url}/sites/me")).status == 204
    outcome = next(line for line in answer["outcomes"] if line["site"] == "me")
    assert outcome["outcome"] == "Skipped"
    assert "broker itself" in outcome["reasons"][0]
