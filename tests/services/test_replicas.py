"""Replicas as they are wired, on one real Redis: whatever is told to one of them holds for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

from broker.api.routes import Parts
from broker.domain import kinds
from broker.domain.identity import Caller, Hop, Owner
from broker.domain.request import ExecutionRequest
from broker.domain.site import Registration
from broker.domain.updates import EnumValueUpdate
from broker.errors import SiteUnreachable, Unavailable
from broker.plugins import Plugin, Resources
from broker.services import clock as clocks
from broker.services import figures, fleet, learning
from broker.services.clock import SystemClock
from broker.services.offers import How
from broker.settings import Settings
from broker.testing.redis_server import RedisServer
from broker.testing.scripted import ScriptedSite, fails
from broker.wiring import open_services

ADA = Caller(Owner("here", "ada"), "ada")
OPERATOR = Caller(Owner("here", "olga"), "olga", frozenset({"user", "operator"}))
WITHIN = 20.0  # seconds after which what we wait for will not come


class Options(BaseModel):
    """None."""


class Ahead(SystemClock):
    """The clock of a machine that is set wrong."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def now(self) -> float:
        return super().now() + self._seconds


class World:
    """Sites that all replicas speak to, and as many replicas as are asked for."""

    def __init__(self, store: str, stack: AsyncExitStack) -> None:
        self.sites = {name: ScriptedSite(name, SystemClock(), (1.0,)) for name in ("alba", "new")}
        self._store, self._stack = store, stack

    def _planner(self, options: Any, resources: Resources) -> ScriptedSite:
        return self.sites[resources.registration.name]

    async def replica(self, ahead: float = 0.0, stack: AsyncExitStack | None = None) -> Parts:
        """`ahead`: how wrong its machine's clock is. It ends with `stack`, or with the test."""
        plugin = Plugin(Options, self._planner)
        settings = Settings(
            name="us", store=self._store, sites={"alba": {"kind": "scripted", "poll": 0.1, "room_cores": 1}}
        )
        services = open_services(settings, clock=Ahead(ahead), kinds={"scripted": plugin})
        return await (stack or self._stack).enter_async_context(services)


@pytest.fixture
async def world(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(fleet, "ANNOUNCE_EVERY", 0.5)
    monkeypatch.setattr(figures, "PUBLISH_EVERY", 0.5)
    monkeypatch.setattr(learning, "REFRESH_EVERY", 0.5)
    async with AsyncExitStack() as stack:
        yield World(f"{redis_url}?prefix={uuid4().hex}", stack)


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN):
        while not await holds():  # noqa: ASYNC110 - no event of this replica tells of what another does
            await asyncio.sleep(0.05)


async def ask(parts: Parts) -> Any:
    request = ExecutionRequest.model_validate({"executable": {"kind": kinds.DOCKER_CONTAINER}})
    return await parts.offers.ask(request, ADA, Hop(), How())


async def accept(parts: Parts, state: Any) -> Any:
    update = EnumValueUpdate(kind=kinds.ENUM_UPDATE, path="/phase", value="ACCEPTED")
    return await parts.acceptance.update(state.record.sessions[0].uuid, update, ADA)


async def test_an_offer_of_one_replica_is_accepted_followed_and_ended_at_another(world: World) -> None:
    one, other = await world.replica(), await world.replica()
    state = await ask(one)
    changes = await one.events.follow_set(state.uuid, ADA, None)
    assert changes is not None
    assert await anext(changes) is not None
    waiting = asyncio.create_task(anext(changes))
    await accept(other, state)
    async with asyncio.timeout(WITHIN):
        while (change := await waiting) is None or change.state.record.sessions[0].phase == "OFFERED":  # type: ignore[attr-defined]  # a set's
            waiting = asyncio.create_task(anext(changes))
    await changes.aclose()
    world.sites["alba"].all_over()

    async def ended() -> bool:
        found = await other.sessions.get(state.record.sessions[0].uuid, ADA)
        return bool(found.item.phase == "COMPLETED")  # type: ignore[attr-defined]  # the service's own state

    await eventually(ended)
    assert sum(world.sites["alba"].runs.values()) == 1


async def test_sites_breakers_and_figures_are_the_fleets(world: World) -> None:
    one, other = await world.replica(), await world.replica()
    await one.sites.put("new", Registration(kind="scripted", url="http://new/"), OPERATOR)

    async def known() -> bool:
        return {site["name"]: site["health"]["state"] for site in other.sites.list()} == {"alba": "live", "new": "live"}

    await eventually(known)
    world.sites["alba"].steps["quote"] = [fails(SiteUnreachable("cable cut")) for _ in range(5)]
    for _ in range(5):
        await ask(one)

    async def opened() -> bool:
        return bool(other.sites.get("alba")["breaker"]["offers"] != "closed")

    await eventually(opened)

    async def counted() -> bool:
        shown = await other.status.snapshot(ADA)
        return bool(shown["window"]["requests"] == 5 and shown["now"]["replicas"] == 2)

    await eventually(counted)

    async def tried_again() -> bool:
        await ask(other)
        return all(parts.sites.get("alba")["breaker"]["offers"] == "closed" for parts in (one, other))

    await eventually(tried_again)


async def test_replicas_whose_clocks_are_ten_minutes_apart_keep_one_time(world: World) -> None:
    """An offer lives for five minutes: neither replica may think that it has ended, or never will."""
    late, early = await world.replica(-600.0), await world.replica(600.0)
    for made, taken in ((late, early), (early, late)):
        state = await ask(made)
        assert (await accept(taken, state)).item.phase == "ACCEPTED"
    assert sum(world.sites["alba"].runs.values()) == 2
    told = [datetime.fromisoformat((await parts.status.snapshot(ADA))["time"]) for parts in (late, early)]
    assert abs((told[1] - told[0]).total_seconds()) < 60


async def test_a_replica_that_stops_leaves_nothing_for_the_others_to_wait_for(world: World) -> None:
    other = await world.replica()
    async with AsyncExitStack() as stack:
        one = await world.replica(stack=stack)
        state = await ask(one)

        async def two() -> bool:
            return bool((await other.status.snapshot(ADA))["now"]["replicas"] == 2)

        await eventually(two)
    await accept(other, state)

    async def alone() -> bool:
        shown = await other.status.snapshot(ADA)
        return bool(shown["now"]["replicas"] == 1 and shown["window"]["requests"] == 1)

    await eventually(alone)


async def test_what_one_replica_accepts_and_learns_counts_at_the_other_also_when_the_first_is_gone(
    world: World,
) -> None:
    other = await world.replica()

    async def put_off() -> bool:
        state = await ask(other)
        return any("were accepted there in the last minute" in words for words in state.body.kept[0].warnings)

    async def learned() -> bool:
        lines = other.sites.get("alba")["calibration"]
        return [line["samples"] for line in lines if line["what"] == "waiting"] == [1]

    async with AsyncExitStack() as stack:
        one = await world.replica(stack=stack)
        assert not await put_off()
        state = await ask(one)
        await accept(one, state)
        await eventually(put_off)
        world.sites["alba"].all_over("RUNNING")

        async def running() -> bool:
            found = await other.sessions.get(state.record.sessions[0].uuid, ADA)
            return bool(found.item.phase == "RUNNING")  # type: ignore[attr-defined]  # the service's own state

        await eventually(running)
        world.sites["alba"].all_over()
        await eventually(learned)
    assert await put_off()
    late = await world.replica()

    async def read() -> bool:
        return bool(late.sites.get("alba")["calibration"] == other.sites.get("alba")["calibration"])

    await eventually(read)


async def test_all_goes_on_by_itself_when_the_store_comes_back(
    redis_server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What replicas hold in common as well: none of their loops has ended meanwhile."""
    monkeypatch.setattr(fleet, "ANNOUNCE_EVERY", 0.5)
    monkeypatch.setattr(figures, "PUBLISH_EVERY", 0.5)
    monkeypatch.setattr(learning, "REFRESH_EVERY", 0.5)
    monkeypatch.setattr(clocks, "MEASURE_EVERY", 0.1)
    server = await asyncio.to_thread(RedisServer(tmp_path).start)
    try:
        async with AsyncExitStack() as stack:
            world = World(server.url, stack)
            one, other = await world.replica(), await world.replica(300.0)
            await asyncio.to_thread(server.kill)
            with pytest.raises(Unavailable):
                await ask(one)
            await asyncio.to_thread(server.start)

            async def serves() -> bool:
                try:
                    await accept(other, await ask(one))
                except Unavailable:
                    return False
                return True

            await eventually(serves)
            await one.sites.put("new", Registration(kind="scripted", url="http://new/"), OPERATOR)

            async def known() -> bool:
                shown = await other.status.snapshot(ADA)
                names = {site["name"] for site in other.sites.list()}
                return bool(
                    names == {"alba", "new"} and shown["window"]["accepted"] >= 1 and shown["now"]["replicas"] == 2
                )

            await eventually(known)
    finally:
        await asyncio.to_thread(server.kill)
