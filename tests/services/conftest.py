"""Fixtures of the services' tests: a clock moved by hand, a store on disk, and a bench of services upon it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from broker.ports import Store
from broker.store.sqlite import open_sqlite
from broker.testing.apart import StoreApart
from broker.testing.bench import Bench
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor
from broker.testing.scripted import ScriptedSite

OpenStore = Callable[[], Awaitable[Store]]
MakeBench = Callable[..., Awaitable[Bench]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def open_store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[OpenStore]:
    """Opens the same file each time: the second one is another process's view, or life after a crash."""
    opened: list[Store] = []

    async def open_() -> Store:
        store = await open_sqlite(tmp_path / "broker.db", clock, executor=InlineExecutor())
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: OpenStore) -> Store:
    return await open_store()


@pytest.fixture(params=["one file", "a file for each aggregate"])
async def any_store(request: pytest.FixtureRequest, tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    """What works on the second needs no atomicity across two aggregates."""
    if request.param == "one file":
        store: Store = await open_sqlite(tmp_path / "any.db", clock, executor=InlineExecutor())
    else:
        store = StoreApart(tmp_path / "apart", clock)
    yield store
    await store.close()


@pytest.fixture
def alba(clock: FakeClock) -> ScriptedSite:
    """The cheaper one, with two offers."""
    return ScriptedSite("alba", clock, (1.0, 2.0))


@pytest.fixture
def borealis(clock: FakeClock) -> ScriptedSite:
    return ScriptedSite("borealis", clock, (3.0,))


@pytest.fixture
async def bench(store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite) -> Bench:
    return await Bench(store, clock, {"alba": alba, "borealis": borealis}).start()
