"""The caller hangs up in the middle: what was begun is brought to its end, and nothing is held for nobody."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from broker.testing.desk import REQUEST, Desk, Place, eventually, opened, place
from broker.testing.program import ACCEPT
from broker.testing.proxy import Point

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]


class World:
    def __init__(self, desk: Desk, alba: Place, borealis: Place) -> None:
        self.desk, self.alba, self.borealis = desk, alba, borealis

    async def nothing_held(self, *places: Place) -> None:
        async def all_back() -> bool:
            return not any(place.held for place in places or (self.alba, self.borealis))

        await eventually(all_back, 30.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with place("alba") as alba, place("borealis", price=5.0) as borealis:
        sites = {p.name: {"url": p.wire.url, "poll": 0.2, "timeout": 10.0} for p in (alba, borealis)}
        folder = tmp_path_factory.mktemp("callers")
        async with opened(folder, sites=sites, acceptance={"forward": 10.0}) as desk:
            await desk.live("alba", "borealis")
            yield World(desk, alba, borealis)


async def test_hung_up_while_sites_are_asked_every_offer_is_given_back(world: World) -> None:
    stop = world.alba.wire.hold(b"/requests", Point.ANSWER)
    line = await world.desk.dial("/requests", REQUEST)
    await stop.reached()
    await world.borealis.site.arrived("quote")
    line.transport.abort()
    await world.nothing_held(world.borealis)
    stop.go_on()  # and what comes later is given back too
    await world.nothing_held()
    assert world.alba.site.sessions


async def test_hung_up_while_it_is_accepted_it_is_accepted(world: World) -> None:
    path, runs = (await world.desk.offers())[0], world.alba.runs
    stop = world.alba.wire.hold(b"ACCEPTED", Point.ANSWER)
    line = await world.desk.dial(path, ACCEPT)
    await stop.reached()
    line.transport.abort()
    assert await world.desk.phase(path) == "OFFERED"
    stop.go_on()
    assert (await world.desk.until(path), world.alba.runs) == ("COMPLETED", runs + 1)
    await world.nothing_held()


async def test_hung_up_in_the_middle_of_a_request_nothing_has_happened(world: World) -> None:
    path, runs, asked = (await world.desk.offers())[0], world.alba.runs, len(world.alba.site.seen("quote"))
    for target, body in ((path, ACCEPT), ("/requests", REQUEST)):
        (await world.desk.dial(target, body, 0.5)).transport.abort()
    assert await world.desk.phase(path) == "OFFERED"
    assert (await world.desk.accept(path)).status == 200
    assert (await world.desk.until(path), world.alba.runs) == ("COMPLETED", runs + 1)
    assert len(world.alba.site.seen("quote")) == asked
