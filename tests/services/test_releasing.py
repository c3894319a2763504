"""Giving back what nobody will take, until it is given back."""

from __future__ import annotations

from uuid import UUID

import pytest

from broker.domain.site import Registration
from broker.errors import SiteForgot, SiteTimeout
from broker.ports import Store
from broker.services.releasing import GIVE_UP
from broker.testing.bench import Bench, uuids
from broker.testing.clock import FakeClock
from broker.testing.planners import FakePlanner, quotes
from broker.testing.scripted import ScriptedSite, fails


async def test_what_expires_is_released_at_its_site(
    any_store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    """A site that does not enforce expiry goes on holding the room."""
    bench = await Bench(any_store, clock, {"alba": alba, "borealis": borealis}).start()
    state = await bench.ask()
    await bench.settle(400)
    record = await bench.record(state.uuid)
    assert {item.phase for item in record.sessions} == {"EXPIRED"}
    assert set(alba.phases.values()) | set(borealis.phases.values()) == {"REJECTED"}
    assert not record.unreleased()
    assert await any_store.next_due() is None


async def test_each_offer_expires_at_its_own_time(bench: Bench, alba: ScriptedSite, borealis: ScriptedSite) -> None:
    borealis.lifetime = 100.0
    state = await bench.ask()
    await bench.settle(120)
    phases = {item.site: item.phase for item in (await bench.record(state.uuid)).sessions}
    assert phases == {"alba": "OFFERED", "borealis": "EXPIRED"}


async def test_a_release_is_repeated_until_the_site_hears_it(bench: Bench, alba: ScriptedSite) -> None:
    alba.steps["release"] = [fails(SiteTimeout("down")) for _ in range(6)]
    best = uuids(await bench.ask())[2]
    await bench.accept(best)
    await bench.settle(5)
    assert "OFFERED" in alba.phases.values()
    await bench.settle(400)
    assert set(alba.phases.values()) == {"REJECTED"}
    assert not (await bench.record(best)).unreleased()


async def test_a_dead_site_does_not_keep_others_waiting(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["release"] = [fails(SiteTimeout("down")) for _ in range(500)]
    for uuid in uuids(await bench.ask()):
        await bench.update(uuid, "REJECTED")
    await bench.work()
    assert list(borealis.phases.values()) == ["REJECTED"]


async def test_a_site_that_stays_away_is_not_told_for_ever(
    bench: Bench, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    alba.steps["release"] = [fails(SiteTimeout("down")) for _ in range(5000)]
    best = uuids(await bench.ask())[2]
    await bench.accept(best)
    borealis.all_over()
    await bench.settle(300 + GIVE_UP + 120)
    assert not (await bench.record(best)).unreleased()
    assert len(alba.calls("release")) < 150


async def test_nor_for_an_offer_that_could_not_even_be_read(store: Store, clock: FakeClock) -> None:
    planner = FakePlanner(quotes("h-1"), quotes("h-1", body=b"{"), SiteTimeout("down"))
    bench = await Bench(store, clock, {"alba": planner}).start()
    set_ = (await bench.ask()).uuid
    await bench.settle(GIVE_UP + 120)
    assert not (await bench.record(set_)).unreleased()
    assert await store.next_due() is None


@pytest.mark.parametrize(("enforces", "left", "told"), [(True, 20, False), (True, 60, True), (False, 20, True)])
async def test_a_site_that_enforces_expiry_is_spared_the_last_moments(
    store: Store, clock: FakeClock, alba: ScriptedSite, enforces: bool, left: float, told: bool
) -> None:
    site = Registration(name="alba", url="http://x/", enforces_expiry=enforces)
    bench = await Bench(store, clock, {"alba": alba}, registrations={"alba": site}).start()
    best, _ = uuids(await bench.ask())
    expires = (await bench.record(best)).session(best).expires
    assert expires is not None
    clock.advance(expires - clock.now() - left)
    await bench.update(best, "REJECTED")
    await bench.work()
    assert bool(alba.calls("release")) is told
    assert not (await bench.record(best)).unreleased()


async def test_a_site_registered_no_more_needs_not_be_told(
    bench: Bench, store: Store, clock: FakeClock, borealis: ScriptedSite
) -> None:
    best = uuids(await bench.ask())[0]
    await bench.update(best, "REJECTED")
    after = await Bench(store, clock, {"borealis": borealis}).start()
    await after.work()
    assert not (await after.record(best)).unreleased()


async def test_a_site_that_forgot_counts_as_told(bench: Bench, alba: ScriptedSite) -> None:
    best = uuids(await bench.ask())[0]
    alba.forget()
    await bench.update(best, "REJECTED")
    await bench.work()
    assert not (await bench.record(best)).unreleased()


async def test_timers_of_sets_that_are_gone_are_done(bench: Bench) -> None:
    for handler in (bench.releasing.close, bench.releasing.expire, bench.releasing.release, bench.acceptance.resolve):
        assert await handler("0" * 24) is None


async def test_all_of_one_site_go_in_one_call(store: Store, clock: FakeClock) -> None:
    planner = FakePlanner(quotes("h-1"), quotes(*(f"h-{n}" for n in range(20))))
    bench = await Bench(store, clock, {"alba": planner}).start()
    offers = [UUID(r.session) for r in (await bench.ask()).ranking]
    planner.steps = [SiteForgot("not this one")]
    for uuid in offers:
        await bench.update(uuid, "REJECTED")
    planner.steps = [quotes("h-1")]
    await bench.work()
    assert planner.calls["release"] == 1
