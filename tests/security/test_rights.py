"""Whose is what, where several accounts speak for people of one name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.domain.identity import Caller, Owner
from broker.store.sqlite import open_sqlite
from broker.testing.bench import Bench
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor
from broker.testing.scripted import ScriptedSite

VICTIM = Owner("hub", "victim")
THROUGH_ONE, THROUGH_OTHER = Caller(VICTIM, "one"), Caller(VICTIM, "other")


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock()
    store = await open_sqlite(tmp_path / "broker.db", clock, executor=InlineExecutor())
    yield await Bench(store, clock, {"alba": ScriptedSite("alba", clock, (1.0,))}).start()
    await store.close()


async def test_a_broker_lists_nothing_that_was_asked_through_another(bench: Bench) -> None:
    state = await bench.ask(THROUGH_ONE)
    assert await bench.offers.list(THROUGH_OTHER, everyone=True) == []
    assert await bench.sessions.list(THROUGH_OTHER, phases=(), everyone=True) == []
    assert [line.id for line in await bench.offers.list(THROUGH_ONE)] == [str(state.uuid)]
    assert len(await bench.sessions.list(THROUGH_ONE, phases=())) == len(state.record.sessions)


def test_who_signs_in_is_listed_under_a_plain_name() -> None:
    assert Owner("here", "ada").by("ada") == "here|ada"
    assert Owner("here", "ada").by("one") != Owner("here", "ada").by("other")
