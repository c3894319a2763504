"""Sites that forget, go back on what they said, use words of their own, and live minutes apart from us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio

from broker.testing.desk import Desk, Place, eventually, opened, place
from broker.testing.proxy import Point

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

TERMS: dict[str, dict[str, Any]] = {
    "forgets": {},
    "ends": {},
    "ends-early": {},
    "back": {},
    "dreams": {},
    "brief": {"lives": 3.0},
    "behind": {"ahead": -300.0, "lives": 60.0},
    "ahead": {"ahead": 300.0, "lives": 3.0},
}


class World:
    def __init__(self, desk: Desk, places: dict[str, Place]) -> None:
        self.desk, self.places = desk, places

    async def running(self, name: str) -> str:
        """A session there that has come as far as AVAILABLE, and goes no further by itself."""
        path = (await self.desk.offers(name))[0]
        self.places[name].site.auto = False
        assert (await self.desk.accept(path)).json()["phase"] == "ACCEPTED"
        self.say(name, "AVAILABLE")
        assert await self.desk.until(path, "AVAILABLE") == "AVAILABLE"
        return path

    def say(self, name: str, phase: str) -> None:
        site = self.places[name].site
        site.advance(next(iter(site.executions)), phase)

    async def looked(self, name: str) -> None:
        """Returns when the broker has looked at that site twice more."""
        site = self.places[name].site
        await site.arrived("status", len(site.seen("status")) + 2)

    async def messages(self, path: str) -> str:
        return str((await self.desk.read(path))["meta"].get("messages", []))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for all; each test has sites of its own."""
    async with AsyncExitStack() as stack:
        places = {name: await stack.enter_async_context(place(name, **terms)) for name, terms in TERMS.items()}
        sites: dict[str, dict[str, Any]] = {
            name: {"url": p.wire.url, "poll": 0.1, "timeout": 10.0} for name, p in places.items()
        }
        for name in ("ends", "ends-early"):
            sites[name]["restart_ends_jobs"] = True
        settings = {"sites": sites, "acceptance": {"forward": 10.0, "patience": 1.0}}
        desk = await stack.enter_async_context(opened(tmp_path_factory.mktemp("sites"), **settings))
        await desk.live(*TERMS)
        yield World(desk, places)


async def test_a_site_that_restarts_and_forgets_is_waited_for_or_believed(world: World) -> None:
    """Where a restart ends the jobs they have failed; elsewhere the site may remember yet."""
    kept, ended = await world.running("forgets"), await world.running("ends")
    memory = dict(world.places["forgets"].site.sessions)
    for name in ("forgets", "ends"):
        world.places[name].site.restart()
    assert await world.desk.until(ended) == "FAILED"
    await world.looked("forgets")
    assert await world.desk.phase(kept) == "AVAILABLE"
    world.places["forgets"].site.sessions.update(memory)
    world.say("forgets", "COMPLETED")
    assert await world.desk.until(kept) == "COMPLETED"
    assert [world.places[name].runs for name in ("forgets", "ends")] == [1, 1]


async def test_a_site_that_forgets_while_it_accepts_begins_nothing_twice(world: World) -> None:
    ends = world.places["ends-early"]
    path = (await world.desk.offers("ends-early"))[0]
    ends.wire.cut(b"ACCEPTED", Point.ANSWER)
    stop = ends.wire.hold(b"GET /sessions/", Point.REQUEST)  # the reading back
    accepting = asyncio.create_task(world.desk.accept(path))
    await stop.reached()
    ends.site.restart()
    stop.go_on()
    await accepting
    assert (await world.desk.until(path), ends.runs) == ("REJECTED", 1)


async def test_no_reader_sees_a_phase_go_back_or_a_word_that_nobody_knows(world: World) -> None:
    back, dreams = await world.running("back"), await world.running("dreams")
    world.say("back", "PREPARING")
    world.say("dreams", "DREAMING")
    await asyncio.gather(world.looked("back"), world.looked("dreams"))
    assert [await world.desk.phase(path) for path in (back, dreams)] == ["AVAILABLE", "AVAILABLE"]
    assert "PREPARING" in await world.messages(back)
    assert "DREAMING" in await world.messages(dreams)
    for name in ("back", "dreams"):
        world.say(name, "COMPLETED")
    assert [await world.desk.until(path) for path in (back, dreams)] == ["COMPLETED", "COMPLETED"]


async def test_an_offer_that_expires_while_it_is_accepted_is_taken_and_one_that_has_expired_is_not(
    world: World,
) -> None:
    brief = world.places["brief"]
    taken, missed = (await world.desk.offers("brief"))[0], (await world.desk.offers("brief"))[0]
    stop = brief.wire.hold(b"ACCEPTED", Point.ANSWER)
    accepting = asyncio.create_task(world.desk.accept(taken))
    await stop.reached()
    assert await world.desk.until(missed) == "EXPIRED"
    assert (await world.desk.accept(missed)).status == 409
    assert await world.desk.phase(taken) == "OFFERED"
    stop.go_on()
    assert (await accepting).json()["phase"] == "ACCEPTED"
    assert (await world.desk.until(taken), brief.runs) == ("COMPLETED", 1)


async def test_sites_whose_clocks_are_minutes_off_are_read_by_their_own_clock(world: World) -> None:
    """What is behind us writes an expiry in our past; what is ahead of us writes one that is minutes too late."""
    behind, ahead = (await world.desk.offers("behind"))[0], (await world.desk.offers("ahead"))[0]
    assert await world.desk.until(ahead) == "EXPIRED"
    assert (await world.desk.accept(ahead)).status == 409
    assert (await world.desk.accept(behind)).status == 200
    assert await world.desk.until(behind) == "COMPLETED"
    assert [world.places[name].runs for name in ("behind", "ahead")] == [1, 0]

    async def all_back() -> bool:
        return not world.places["ahead"].held

    await eventually(all_back)
