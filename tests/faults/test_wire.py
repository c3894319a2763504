"""A site takes the acceptance, and its answer comes late, never, or is cut off: one run, and everybody knows of it.

One broker as a process, a site behind a wire for each story; the stories run side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from broker.testing.desk import Desk, Place, eventually, place
from broker.testing.program import Caller, Program
from broker.testing.proxy import Point

pytestmark = [pytest.mark.system]
FORWARD = 1.0  # seconds that one acceptance may take here

Spoil = Callable[[Place], Awaitable[None]]


class Ended(NamedTuple):
    heard: str  # the phase in the answer that the caller got
    phase: str  # what the session ended in
    runs: int
    held: int  # offers that still stand open at the site


def cut(point: Point) -> Spoil:
    async def spoil(place: Place) -> None:
        place.wire.cut(b"ACCEPTED", point)

    return spoil


def late(seconds: float) -> Spoil:
    """The site answers, and its answer is so many seconds under way."""

    async def spoil(place: Place) -> None:
        stop = place.wire.hold(b"ACCEPTED", Point.ANSWER)
        await stop.reached()
        await asyncio.sleep(seconds)
        stop.go_on()

    return spoil


async def never(place: Place) -> None:
    place.wire.hold(b"ACCEPTED", Point.ANSWER)


async def silent_line(place: Place) -> None:
    """The answer is lost, and for a while nothing can be asked either."""
    stop = place.wire.hold(b"ACCEPTED", Point.ANSWER)
    await stop.reached()
    place.wire.blackhole = True
    await asyncio.sleep(FORWARD + 2.5)  # longer than the acceptance and the reading back may take
    place.wire.blackhole = False
    stop.drop()


STORIES: dict[str, Spoil] = {
    "late": late(FORWARD / 2),
    "too late": late(FORWARD * 1.5),
    "never": never,
    "cut before the headers": cut(Point.ANSWER),
    "cut in the headers": cut(Point.IN_HEADERS),
    "cut after the headers": cut(Point.AFTER_HEADERS),
    "cut in the body": cut(Point.IN_BODY),
    "then silence": silent_line,
}
KINDS = {"plain": None, "ours": "their-id"}


async def tell(desk: Desk, place: Place, spoil: Spoil) -> Ended:
    path = (await desk.offers(place.name))[0]
    spoiling = asyncio.create_task(spoil(place))
    heard = await desk.accept(path)
    again = await desk.accept(path)
    assert (heard.status, again.status) == (200, 200)
    await spoiling
    phase = await desk.until(path)

    async def all_back() -> bool:
        return not place.held

    with suppress(TimeoutError):  # the result tells
        await eventually(all_back, 20.0)
    return Ended(heard.json()["phase"], phase, place.runs, len(place.held))


async def tell_all(folder: Path) -> dict[tuple[str, str], Ended]:
    async with AsyncExitStack() as stack:
        places: dict[tuple[str, str], Place] = {}
        for kind, id_ in KINDS.items():
            for number, name in enumerate(STORIES):
                ours = {"broker_id": f"{id_}-{number}"} if id_ else {}
                new = place(f"{kind}-{number}", offers=2, **ours)
                places[kind, name] = await stack.enter_async_context(new)
        sites = {p.name: {"url": p.wire.url, "poll": 0.2, "timeout": 1.0} for p in places.values()}
        program = Program(folder, "federation", sites=sites, acceptance={"forward": FORWARD, "patience": 60.0})
        stack.callback(program.kill)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        desk = Desk(await asyncio.to_thread(program.start), Caller(http))
        await desk.live(*sites)
        told = await asyncio.gather(*(tell(desk, p, STORIES[name]) for (_, name), p in places.items()))
        return dict(zip(places, told, strict=True))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    return asyncio.run(tell_all(tmp_path_factory.mktemp("wire")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("story", STORIES)
def test_an_acceptance_whose_answer_is_spoiled_is_one_run_and_is_found(
    ended: dict[tuple[str, str], Ended], story: str, kind: str
) -> None:
    assert ended[kind, story]._replace(heard="") == Ended("", "COMPLETED", 1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_in_time_is_acknowledged_at_once(ended: dict[tuple[str, str], Ended], kind: str) -> None:
    assert ended[kind, "late"].heard not in ("OFFERED", "REJECTED")
    assert ended[kind, "then silence"].heard == "OFFERED"
