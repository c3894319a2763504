"""The machine's clock is set an hour on or back while something is under way. In one process, by a clock of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.domain.deadline import Deadline
from broker.domain.site import Registration
from broker.errors import Conflict, SiteTimeout
from broker.ports import Order, Sighting
from broker.store.sqlite import open_sqlite
from broker.testing.bench import Bench, broken_rules, uuids
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor
from broker.testing.scripted import ScriptedSite, lost

HOUR = 3600.0


class Jumpy(ScriptedSite):
    """While it is asked to accept, the clock is set."""

    by = 0.0

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        assert isinstance(self.clock, FakeClock)
        self.clock.jump(self.by)
        return await super().accept(order, deadline)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def alba(clock: FakeClock) -> Jumpy:
    return Jumpy("alba", clock, (1.0, 2.0))


@pytest.fixture
async def bench(tmp_path: Path, clock: FakeClock, alba: Jumpy) -> AsyncIterator[Bench]:
    store = await open_sqlite(tmp_path / "broker.db", clock, executor=InlineExecutor())
    planners = {"alba": alba, "borealis": ScriptedSite("borealis", clock, (3.0,))}
    seldom = {name: Registration(name=name, url="http://x/", poll=HOUR / 4) for name in planners}
    yield await Bench(store, clock, planners, registrations=seldom).start()
    await store.close()


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["on", "back"])
@pytest.mark.parametrize("answers", [True, False], ids=["answered", "answer lost"])
async def test_set_in_the_middle_of_an_acceptance_it_is_one_run(
    bench: Bench, alba: Jumpy, by: float, answers: bool
) -> None:
    best = uuids(await bench.ask())[0]
    alba.by = by
    alba.steps["accept"] = [] if answers else [lost(SiteTimeout("lost"))]
    await bench.accept(best)
    alba.by = 0.0
    await bench.settle(2 * HOUR)
    alba.all_over()
    await bench.settle(HOUR)
    record = await bench.record(best)
    assert (record.taken, alba.runs.total()) == (best, 1)
    assert broken_rules(record, [alba], bench.clock.now()) == []
    assert {item.phase for item in record.sessions} <= {"COMPLETED", "REJECTED", "EXPIRED"}


async def test_set_on_between_offer_and_acceptance_the_offer_has_expired(
    bench: Bench, clock: FakeClock, alba: Jumpy
) -> None:
    best = uuids(await bench.ask())[0]
    clock.jump(HOUR)
    with pytest.raises(Conflict, match="expired"):
        await bench.accept(best)
    await bench.settle(60)
    assert alba.runs.total() == 0
    assert set(alba.phases.values()) == {"REJECTED"}


async def test_set_back_between_offer_and_acceptance_the_offer_stands_and_ends_in_the_end(
    bench: Bench, clock: FakeClock, alba: Jumpy
) -> None:
    first, second = uuids(await bench.ask())[0], uuids(await bench.ask())[0]
    clock.jump(-HOUR)
    await bench.accept(first)
    assert alba.runs.total() == 1
    await bench.settle(2 * HOUR)
    assert (await bench.record(second)).session(second).phase == "EXPIRED"
    assert "OFFERED" not in alba.phases.values()


@pytest.mark.parametrize("by", [HOUR, -HOUR], ids=["on", "back"])
async def test_no_deadline_hangs_on_that_clock(bench: Bench, clock: FakeClock, by: float) -> None:
    clock.jump(by)
    state = await bench.ask()
    assert {line.outcome for line in state.record.outcomes.values()} == {"Offered"}
    assert all(item.expires and 0 < item.expires - clock.now() <= 300 for item in state.record.sessions)
