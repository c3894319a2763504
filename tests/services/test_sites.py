"""The registry: who is asked, how sites fare, and what operators may change."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from broker.domain import kinds
from broker.domain.outcome import Skipped
from broker.domain.site import Profile, Registration
from broker.errors import BadInput, Conflict, NotAllowed, NotFound, SiteForbids, SiteUnreachable, Unavailable
from broker.ports import Listing, Store
from broker.services.sites import REFRESH_EVERY, ROSTER, SWEEP_EVERY
from broker.testing.bench import ADA, OPERATOR, Bench, request
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails

NEW = Registration(kind="ivoa", url="http://new/")


@pytest.fixture
def planners(clock: FakeClock, alba: ScriptedSite) -> dict[str, ScriptedSite]:
    """What can be spoken to, by name: `alba` is in the settings, the rest may be put."""
    return {"alba": alba, "new": ScriptedSite("new", clock), "loop": ScriptedSite("loop", clock)}


@pytest.fixture
async def registry(store: Store, clock: FakeClock, planners: dict[str, ScriptedSite]) -> Bench:
    return await again(store, clock, planners)


async def again(store: Store, clock: FakeClock, planners: dict[str, ScriptedSite]) -> Bench:
    bench = Bench(store, clock, planners)
    for name in ("new", "loop"):
        del bench.sites._entries[name], bench.sites._file[name]
    return await bench.start()


def skipped(bench: Bench, site: str) -> str:
    outcome = bench.sites.screen(request())[1][site]
    assert isinstance(outcome, Skipped)
    return str(outcome.reason)


async def test_a_site_that_was_never_reached_is_not_asked(
    store: Store, clock: FakeClock, planners: dict[str, ScriptedSite], alba: ScriptedSite
) -> None:
    alba.steps["describe"] = [fails(SiteUnreachable("cable cut"))]
    bench = await again(store, clock, planners)
    assert "cable cut" in skipped(bench, "alba")
    assert bench.sites.entry("alba").health(clock.now()) == "down"


async def test_one_that_was_reached_once_is_asked_though_it_does_not_answer_now(
    registry: Bench, alba: ScriptedSite
) -> None:
    """A request finds out sooner than a look that it is back."""
    alba.steps["describe"] = [fails(SiteUnreachable("cable cut"))]
    await registry.sites._probe(registry.sites.entry("alba"))
    assert [entry.name for entry in registry.sites.screen(request())[0]] == ["alba"]
    assert registry.sites.entry("alba").health(registry.clock.now()) == "degraded"


async def test_it_is_looked_at_again_and_again_ever_more_seldom(registry: Bench, alba: ScriptedSite) -> None:
    entry, clock = registry.sites.entry("alba"), registry.clock
    alba.steps["describe"] = [fails(SiteForbids("who are you")) for _ in range(8)]
    waits = []
    for _ in range(8):
        await registry.sites._probe(entry)
        waits.append(entry.next_probe - clock.monotonic())
        clock.advance(waits[-1])
    assert waits == sorted(waits)
    assert (round(waits[0]), round(waits[-1])) == (1, 15)
    assert (entry.health(clock.now()), entry.acts) == ("down", "operator")
    await registry.sites._probe(entry)
    assert (entry.health(clock.now()), entry.reason) == ("live", "")


async def test_the_looks_go_on_by_themselves(registry: Bench, alba: ScriptedSite) -> None:
    looking = asyncio.create_task(registry.sites.run())
    before = len(alba.calls("describe"))
    async with asyncio.timeout(20):
        await registry.clock.asleep()
        registry.clock.advance(61)
        while len(alba.calls("describe")) == before:
            await registry.clock.asleep()
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


async def test_a_site_that_is_this_broker_is_left_out(registry: Bench, planners: dict[str, ScriptedSite]) -> None:
    planners["loop"].profile = Profile(broker="us")
    await registry.sites.put("loop", NEW, OPERATOR)
    assert "the broker itself" in skipped(registry, "loop")


# ── operators ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_site_is_registered_asked_and_survives_a_restart(
    registry: Bench, planners: dict[str, ScriptedSite], store: Store, clock: FakeClock
) -> None:
    shown = await registry.sites.put("new", NEW, OPERATOR)
    assert (shown["name"], shown["health"]["state"], shown["configured"]) == ("new", "live", False)
    assert {entry.name for entry in registry.sites.screen(request())[0]} == {"alba", "new"}
    assert {entry["name"] for entry in (await again(store, clock, planners)).sites.list()} == {"alba", "new"}


async def test_one_that_cannot_be_reached_stays_a_draft(registry: Bench, planners: dict[str, ScriptedSite]) -> None:
    planners["new"].steps["describe"] = [fails(SiteUnreachable("nobody there"))]
    shown = await registry.sites.put("new", NEW, OPERATOR)
    assert shown["health"]["state"] == "draft"
    assert "nobody there" in skipped(registry, "new")


async def test_putting_again_replaces_it_and_closes_the_old(registry: Bench, planners: dict[str, ScriptedSite]) -> None:
    for _ in range(2):
        await registry.sites.put("new", NEW, OPERATOR)
    assert planners["new"].closed
    assert len(registry.sites.list()) == 2


async def test_deleting_forgets_it_and_again_changes_nothing(
    registry: Bench, planners: dict[str, ScriptedSite], store: Store, clock: FakeClock
) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    for _ in range(2):
        await registry.sites.delete("new", OPERATOR)
    assert planners["new"].closed
    with pytest.raises(NotFound):
        registry.sites.get("new")
    assert len((await again(store, clock, planners)).sites.list()) == 1


async def test_the_settings_file_has_the_last_word(registry: Bench) -> None:
    with pytest.raises(Conflict, match="settings file"):
        await registry.sites.put("alba", NEW, OPERATOR)
    with pytest.raises(Conflict, match="settings file"):
        await registry.sites.delete("alba", OPERATOR)


async def test_a_name_that_is_not_the_address_is_refused(registry: Bench) -> None:
    with pytest.raises(BadInput):
        await registry.sites.put("new", NEW.with_(name="other"), OPERATOR)


async def test_draining_asks_it_for_nothing_new_and_resuming_again(registry: Bench, alba: ScriptedSite) -> None:
    await registry.sites.drain("alba", None, OPERATOR)
    assert "draining" in skipped(registry, "alba")
    assert (await registry.ask()).ranking == ()
    assert not alba.calls("quote")
    await registry.sites.resume("alba", OPERATOR)
    assert len((await registry.ask()).ranking) == 2


async def test_draining_ends_by_itself(registry: Bench) -> None:
    until = datetime.fromtimestamp(registry.clock.now() + 60, UTC)
    await registry.sites.drain("alba", until, OPERATOR)
    assert registry.sites.entry("alba").health(registry.clock.now()) == "draining"
    registry.clock.advance(61)
    assert registry.sites.entry("alba").health(registry.clock.now()) == "live"
    assert len(registry.sites.screen(request())[0]) == 1


async def test_draining_of_a_registered_site_survives_a_restart(
    registry: Bench, planners: dict[str, ScriptedSite], store: Store, clock: FakeClock
) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    await registry.sites.drain("new", None, OPERATOR)
    assert "draining" in skipped(await again(store, clock, planners), "new")


async def test_only_operators_may(registry: Bench) -> None:
    for call in (
        registry.sites.put("new", NEW, ADA),
        registry.sites.delete("alba", ADA),
        registry.sites.drain("alba", None, ADA),
        registry.sites.resume("alba", ADA),
    ):
        with pytest.raises(NotAllowed):
            await call
    assert registry.sites.entry("alba").health(registry.clock.now()) == "live"


async def test_what_may_name_files_is_not_shown(registry: Bench, planners: dict[str, ScriptedSite]) -> None:
    site = Registration(kind="ivoa", url="http://new/", options={"folder": "/secret"})
    assert "options" not in await registry.sites.put("new", site, OPERATOR)
    assert "secret" not in str(registry.sites.list())


async def test_the_profile_is_what_all_sites_can_together(
    registry: Bench, planners: dict[str, ScriptedSite], alba: ScriptedSite
) -> None:
    alba.profile = Profile(executables=(kinds.DOCKER_CONTAINER,), cores=8, memory=None, extras={"gpu": 1}, results=True)
    planners["new"].profile = Profile(
        executables=(kinds.PYTHON_PROGRAM,), cores=64, memory=9, extras={"gpu": 4}, origins=("x", "y")
    )
    await registry.sites._probe(registry.sites.entry("alba"))
    await registry.sites.put("new", NEW, OPERATOR)
    profile = registry.sites.profile()
    assert set(profile.executables or ()) == {kinds.DOCKER_CONTAINER, kinds.PYTHON_PROGRAM}
    assert (profile.cores, profile.memory, profile.extras) == (64, None, {"gpu": 4})
    assert (profile.origins, profile.results, profile.broker) == (("alba", "x", "y"), False, "us")
    assert profile.repeatable
    assert profile.batches


# ── several replicas ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def other(store: Store, clock: FakeClock) -> Bench:
    """A second replica, with planners of its own."""
    return await again(store, clock, {name: ScriptedSite(name, clock) for name in ("alba", "new", "loop")})


async def refreshed(bench: Bench) -> None:
    """What the loop does in a second's time."""
    for entry in await bench.sites.refresh():
        await bench.sites._probe(entry)


def names(bench: Bench) -> set[str]:
    return {entry.name for entry in bench.sites.screen(request())[0]}


async def test_a_site_put_on_one_replica_is_asked_by_all(registry: Bench, other: Bench) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    await refreshed(other)
    assert names(other) == {"alba", "new"}


async def test_a_change_reaches_all_and_closes_what_was(registry: Bench, other: Bench) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    await refreshed(other)
    old = other.sites.entry("new").planner
    await registry.sites.put("new", NEW.with_(concurrency=3), OPERATOR)
    await refreshed(other)
    assert other.sites.entry("new").site.concurrency == 3
    assert other.sites.entry("new").planner is not old


async def test_a_delete_reaches_all_and_closes_the_planner(
    registry: Bench, store: Store, clock: FakeClock, planners: dict[str, ScriptedSite]
) -> None:
    mine = {name: ScriptedSite(name, clock) for name in ("alba", "new", "loop")}
    other = await again(store, clock, mine)
    await registry.sites.put("new", NEW, OPERATOR)
    await refreshed(other)
    await registry.sites.delete("new", OPERATOR)
    await refreshed(other)
    assert names(other) == {"alba"}
    assert mine["new"].closed


async def test_a_site_can_be_deleted_on_a_replica_that_has_not_heard_of_it(registry: Bench, other: Bench) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    await other.sites.delete("new", OPERATOR)
    await refreshed(registry)
    assert names(registry) == {"alba"}


async def test_draining_and_resuming_reach_all(registry: Bench, other: Bench) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    await refreshed(other)
    planner = other.sites.entry("new").planner
    for name in ("alba", "new"):
        await registry.sites.drain(name, None, OPERATOR)
    await refreshed(other)
    assert names(other) == set()
    for name in ("alba", "new"):
        await other.sites.resume(name, OPERATOR)
    await refreshed(registry)
    assert names(registry) == names(other) == {"alba", "new"}
    assert other.sites.entry("new").planner is planner  # its calls under way go on


async def test_draining_on_one_replica_keeps_what_another_changed(registry: Bench, other: Bench) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    await refreshed(other)
    await registry.sites.put("new", NEW.with_(concurrency=3), OPERATOR)
    await other.sites.drain("new", None, OPERATOR)
    await refreshed(registry)
    site = registry.sites.entry("new").site
    assert (site.concurrency, site.drained) == (3, True)


async def test_a_site_that_another_replica_deleted_cannot_be_drained(registry: Bench, other: Bench) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    await refreshed(other)
    await registry.sites.delete("new", OPERATOR)
    with pytest.raises(NotFound):
        await other.sites.drain("new", None, OPERATOR)


async def test_draining_of_a_site_of_the_file_survives_a_restart_until_the_file_says_otherwise(
    registry: Bench, store: Store, clock: FakeClock, alba: ScriptedSite
) -> None:
    until = datetime.fromtimestamp(clock.now() + 60, UTC)
    await registry.sites.drain("alba", until, OPERATOR)
    bench = await Bench(store, clock, {"alba": alba}).start()
    assert "draining" in skipped(bench, "alba")
    later = Registration(name="alba", url="http://x/", drained=True)
    bench = await Bench(store, clock, {"alba": alba}, registrations={"alba": later}).start()
    clock.advance(61)
    assert "draining" in skipped(bench, "alba")
    await bench.sites.resume("alba", OPERATOR)
    bench = await Bench(store, clock, {"alba": alba}, registrations={"alba": later}).start()
    assert names(bench) == {"alba"}


async def test_a_site_whose_change_left_no_mark_is_found_by_the_sweep(
    registry: Bench, other: Bench, store: Store, clock: FakeClock
) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    roster = await store.read(ROSTER)
    assert roster is not None
    await store.remove(ROSTER, roster.version)
    await refreshed(other)
    assert names(other) == {"alba"}
    clock.advance(SWEEP_EVERY)
    await refreshed(other)
    assert names(other) == {"alba", "new"}


async def test_a_registration_that_this_version_cannot_read_is_left_out(registry: Bench, store: Store) -> None:
    line = Listing("site", "odd", "", 0.0, name="odd")
    await store.write("site:odd", 0, b'{"name":"odd","kind":"ivoa","orbit":"low"}', listings=[line])
    registry.sites._next_sweep = 0.0
    await refreshed(registry)
    assert names(registry) == {"alba"}


async def test_the_roster_is_followed_by_itself_and_over_a_failing_store(
    registry: Bench, other: Bench, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await registry.sites.put("new", NEW, OPERATOR)
    load, failures = other.sites._load, [Unavailable("gone"), Unavailable("gone")]

    async def failing() -> object:
        if failures:
            raise failures.pop()
        return await load()

    monkeypatch.setattr(other.sites, "_load", failing)
    following = asyncio.create_task(other.sites.follow())
    async with asyncio.timeout(20):
        while names(other) != {"alba", "new"}:
            await clock.asleep()
            clock.advance(REFRESH_EVERY)
            await asyncio.sleep(0)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await other.sites.close()
    assert not failures
