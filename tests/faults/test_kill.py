"""`kill -9` of the broker at each step of an acceptance: no run is lost, and none is begun twice.

One broker as a process, a site behind a wire for each step. Every story is brought to its step and held there; then
one kill hits them all.
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
from broker.testing.program import ACCEPT, Caller, Program
from broker.testing.proxy import Point, Proxy, Stop

pytestmark = [pytest.mark.system]


class Ended(NamedTuple):
    first: str  # what became of the session that was being accepted
    runs: int  # in the end, after another offer was taken where the first was given up
    held: int  # offers that still stand open at the sites


class Scene:
    """`desk`: the broker; `door`: the wire before it; `site`: the one that is taken; `other`: one that is not."""

    def __init__(self, desk: Desk, door: Proxy, site: Place, other: Place) -> None:
        self.desk, self.door, self.site, self.other = desk, door, site, other
        self.path = ""
        self.stop: Stop | None = None
        self.line: asyncio.StreamWriter | None = None
        self.lost: list[asyncio.Task[object]] = []

    async def ask(self) -> None:
        paths = await self.desk.offers(self.site.name, self.other.name, preset="cheapest")
        self.path = paths[0]

    def accept(self, desk: Desk | None = None) -> None:
        """Nobody will hear the answer."""
        self.lost.append(asyncio.create_task((desk or self.desk).accept(self.path)))

    async def hold(self, place: Place, pattern: bytes, point: Point) -> None:
        self.stop = place.wire.hold(pattern, point)
        self.accept()
        await self.stop.reached()


Step = Callable[[Scene], Awaitable[None]]


async def half_a_request(scene: Scene) -> None:
    scene.line = await scene.desk.dial(scene.path, ACCEPT, 0.5)


async def claimed(scene: Scene) -> None:
    await scene.hold(scene.site, b"ACCEPTED", Point.REQUEST)


async def at_the_site(scene: Scene) -> None:
    await scene.hold(scene.site, b"ACCEPTED", Point.ANSWER)


async def half_answered(scene: Scene) -> None:
    await scene.hold(scene.site, b"ACCEPTED", Point.IN_BODY)


async def answered(scene: Scene) -> None:
    """By the broker, whose answer does not reach the caller."""
    scene.stop = scene.door.hold(scene.path.encode(), Point.ANSWER)
    desk = Desk(scene.desk.program, scene.desk.call)
    desk.base = scene.door.url
    scene.accept(desk)
    await scene.stop.reached()


async def releasing(scene: Scene) -> None:
    """The caller has the answer; the other site has not been told."""
    scene.stop = scene.other.wire.hold(b"elease" if scene.other.site.broker_id else b"REJECTED", Point.REQUEST)
    assert (await scene.desk.accept(scene.path)).json()["phase"] not in ("OFFERED", "REJECTED")
    await scene.stop.reached()


# Step → what brings the story there, when what was held is let go: dropped at the kill, passed on after the new start,
# or passed on when all is over.
STEPS: dict[str, tuple[Step, str]] = {
    "the request is half sent": (half_a_request, ""),
    "claimed, and never sent": (claimed, "drop"),
    "claimed, and the sending arrives after the restart": (claimed, "restart"),
    "claimed, and the sending arrives when all is over": (claimed, "end"),
    "the site has it": (at_the_site, "drop"),
    "the site's answer is half here": (half_answered, "drop"),
    "recorded, and the caller has no answer": (answered, "drop"),
    "during the releases": (releasing, "drop"),
}
KINDS = {"plain": None, "ours": "their-id"}
# At a plain site what may not have been sent is withdrawn; a site that takes it once is sent it again.
GIVEN_UP = {
    ("plain", "claimed, and never sent"),
    ("plain", "claimed, and the sending arrives when all is over"),
}


async def finish(scene: Scene, lets_go: str) -> Ended:
    if lets_go == "restart" and scene.stop:
        scene.stop.go_on()
    if not lets_go:
        await scene.desk.accept(scene.path)
    first = last = await scene.desk.until(scene.path)
    if lets_go == "end" and scene.stop:
        scene.stop.go_on()
        scene.site.site.requests.clear()
        async with asyncio.timeout(20):
            await scene.site.site.arrived("accept")
    if first == "REJECTED":
        sibling = next(path for path in await siblings(scene) if path != scene.path)
        await scene.desk.accept(sibling)
        last = await scene.desk.until(sibling)
    assert last == "COMPLETED", (scene.site.name, first, last)

    async def all_back() -> bool:
        return not scene.site.held and not scene.other.held

    with suppress(TimeoutError):  # the result tells
        await eventually(all_back, 20.0)
    return Ended(first, scene.site.runs + scene.other.runs, len(scene.site.held) + len(scene.other.held))


async def siblings(scene: Scene) -> list[str]:
    """Those of its set that can still be taken, the best one first."""
    session = await scene.desk.read(scene.path)
    found = (await scene.desk.send("GET", "/offersets/" + session["offerset"].rpartition("/")[2])).json()
    return [f"/sessions/{offer['meta']['uuid']}" for offer in found["offers"] if offer["phase"] == "OFFERED"]


async def tell_all(folder: Path) -> dict[tuple[str, str], Ended]:
    async with AsyncExitStack() as stack:
        names = [(kind, step) for kind in KINDS for step in STEPS]
        places: list[tuple[Place, Place]] = []
        for number, (kind, _) in enumerate(names):
            pair = []
            for letter, price in (("a", 1.0), ("b", 9.0)):
                ours = {"broker_id": f"their-{number}{letter}"} if KINDS[kind] else {}
                new = place(f"site-{number}{letter}", price=price, **ours)
                pair.append(await stack.enter_async_context(new))
            places.append((pair[0], pair[1]))
        sites = {p.name: {"url": p.wire.url, "poll": 0.2, "timeout": 2.0} for pair in places for p in pair}
        program = Program(folder, "federation", sites=sites, acceptance={"forward": 5.0, "patience": 1.0})
        stack.callback(program.kill)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        desk = Desk(await asyncio.to_thread(program.start), Caller(http))
        door = await stack.enter_async_context(Proxy.before(program.url))
        await desk.live(*sites)
        scenes = [Scene(desk, door, *pair) for pair in places]
        await asyncio.gather(*(scene.ask() for scene in scenes))
        await asyncio.gather(*(STEPS[step][0](scene) for scene, (_, step) in zip(scenes, names, strict=True)))
        program.kill()
        for scene, (_, step) in zip(scenes, names, strict=True):
            if STEPS[step][1] == "drop" and scene.stop:
                scene.stop.drop()
        await asyncio.gather(*(task for scene in scenes for task in scene.lost), return_exceptions=True)
        await asyncio.to_thread(program.start)
        told = await asyncio.gather(*(finish(s, STEPS[step][1]) for s, (_, step) in zip(scenes, names, strict=True)))
        return dict(zip(names, told, strict=True))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Ended]:
    return asyncio.run(tell_all(tmp_path_factory.mktemp("kill")))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", STEPS)
def test_killed_at_this_step_it_runs_once_and_nothing_stays_held(
    ended: dict[tuple[str, str], Ended], step: str, kind: str
) -> None:
    first = "REJECTED" if (kind, step) in GIVEN_UP else "COMPLETED"
    assert ended[kind, step] == Ended(first, 1, 0)
