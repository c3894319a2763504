"""Whatever is spoilt in a store is found, and mended by what the records say; so is what sites have beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID, uuid4

import msgspec
import pytest

from broker.domain import offerset
from broker.domain.identity import aggregate
from broker.errors import SiteRefused, SiteTimeout
from broker.ports import Held, Listing, Query, Store
from broker.services import keeping
from broker.services.doctor import Doctor, Report
from broker.services.orphans import Orphans
from broker.services.watching import WatchList
from broker.store.redis import open_redis
from broker.store.redis_address import parse
from broker.testing.bench import Bench, uuids
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, Step, fails, lost
from broker.testing.tripwire import Died, Tripwire

NOT_REALLY = Step(acts=False)  # the site says that it did, and has not

Spoil = Callable[[Store, "Case"], Awaitable[None]]


class Case(msgspec.Struct):
    """A set of which a session runs at alba."""

    set: UUID
    taken: UUID
    other: UUID

    @property
    def key(self) -> str:
        return aggregate(self.set)


@pytest.fixture
async def case(bench: Bench) -> Case:
    state = await bench.ask()
    best, other, _ = uuids(state)
    await bench.accept(best)
    await bench.settle(400)
    return Case(state.uuid, best, other)


async def visit(bench: Bench, *, mend: bool = False, cancel: bool = False) -> Report:
    return await Doctor(store=bench.store, sites=bench.sites, clock=bench.clock, mend=mend, cancel=cancel).visit()


def said(report: Report) -> list[tuple[str, str, str]]:
    return [(at.level, at.what, at.where) for at in report.findings]


async def beside(store: Store, key: str, timers: dict[str, float | None], *lines: Listing) -> None:
    """Spoils what hangs on a record, not the record."""
    stored = await store.read(key)
    assert stored is not None
    assert await store.write(key, stored.version, stored.record, timers=timers, listings=lines)


async def replaced(store: Store, key: str, record: bytes) -> None:
    stored = await store.read(key)
    assert await store.write(key, stored.version if stored else 0, record)


# ── nothing ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_store_that_is_well_is_found_well_at_every_moment(bench: Bench, alba: ScriptedSite) -> None:
    assert said(await visit(bench)) == []
    state = await bench.ask()
    for _ in range(3):
        assert said(await visit(bench)) == []
        await bench.accept(uuids(state)[0])
        assert said(await visit(bench)) == []
        await bench.settle(100)
    alba.all_over()
    await bench.settle(400)
    report = await visit(bench)
    assert (said(report), report.sets, report.left) == ([], 1, 0)


async def test_looking_changes_nothing(bench: Bench, case: Case) -> None:
    await spoil_the_phase(bench.store, case)
    before = await bench.store.whole(case.key)
    assert (await visit(bench)).left == 1
    assert await bench.store.whole(case.key) == before


# ── what follows from a record ───────────────────────────────────────────────────────────────────────────────


async def spoil_the_phase(store: Store, case: Case) -> None:
    line = (await store.listings(Query("session", phases=("ACCEPTED",))))[0]
    await beside(store, case.key, {}, msgspec.structs.replace(line, phase="OFFERED"))


async def lose_a_line(store: Store, case: Case) -> None:
    stored = await store.read(case.key)
    assert stored is not None
    await store.write(case.key, stored.version, stored.record, cut=[("session", str(case.other))])


async def invent_a_line(store: Store, case: Case) -> None:
    await beside(store, case.key, {}, Listing("session", str(uuid4()), "here|ada", 1.0, "RUNNING", "", "alba"))


async def lose_the_watch(store: Store, case: Case) -> None:
    await replaced(store, "watch:alba", msgspec.msgpack.encode(WatchList("alba")))


async def lose_the_list(store: Store, case: Case) -> None:
    stored = await store.read("watch:alba")
    assert stored is not None
    assert await store.remove("watch:alba", stored.version)


async def watch_what_is_over(store: Store, case: Case) -> None:
    await replaced(
        store, "watch:alba", msgspec.msgpack.encode(WatchList("alba", frozenset({case.taken, case.other, uuid4()})))
    )


async def lose_the_look(store: Store, case: Case) -> None:
    await beside(store, "watch:alba", {"look": None})


async def put_the_look_off(store: Store, case: Case) -> None:
    await beside(store, "watch:alba", {"look": await store.now() + 1e6})


async def invent_a_timer(store: Store, case: Case) -> None:
    await beside(store, case.key, {"expire": await store.now() + 50})


async def leave_a_timer(store: Store, case: Case) -> None:
    """As a record that was lost would."""
    key = aggregate(uuid4())
    assert await store.write(
        key, 0, b"", timers={"claim": 5.0}, listings=[Listing("session", str(uuid4()), "here|ada", 1.0)]
    )
    await _drop_record(store, key)


async def _drop_record(store: Store, key: str) -> None:
    database = store.database  # type: ignore[attr-defined]  # the bench stands on one file
    await database.write(lambda sql: sql.execute("DELETE FROM aggregates WHERE key = ?", (key,)).rowcount)


async def lose_the_keeping(store: Store, case: Case) -> None:
    assert await store.write(keeping.AGGREGATE, 0, msgspec.msgpack.encode(keeping.Kept()))


SPOILT: dict[str, tuple[Spoil, list[tuple[str, str]]]] = {
    "a line says another phase": (spoil_the_phase, [("WARN", "line")]),
    "a line is missing": (lose_a_line, [("WARN", "line")]),
    "a line is invented": (invent_a_line, [("WARN", "line")]),
    "a session is on no watch list": (lose_the_watch, [("ERROR", "watch")]),
    "the watch list is gone": (lose_the_list, [("ERROR", "watch")]),
    "a watch list names what is over": (watch_what_is_over, [("WARN", "watch")]),
    "nobody looks": (lose_the_look, [("ERROR", "timer")]),
    "nobody looks for long": (put_the_look_off, [("ERROR", "timer")]),
    "a timer is invented": (invent_a_timer, [("WARN", "timer")]),
    "a timer and a line are left over": (leave_a_timer, [("WARN", "leftover")]),
    "nobody keeps house": (lose_the_keeping, [("ERROR", "timer")]),
}


@pytest.mark.parametrize("what", SPOILT)
async def test_what_is_spoilt_is_found_and_mended(bench: Bench, case: Case, what: str) -> None:
    spoil, expected = SPOILT[what]
    await spoil(bench.store, case)
    assert [(level, kind) for level, kind, _ in said(await visit(bench))] == expected
    mended = await visit(bench, mend=True)
    assert (len(mended.findings), mended.left) == (len(expected), 0)
    assert said(await visit(bench)) == []


async def test_after_mending_the_session_is_followed_to_its_end(bench: Bench, case: Case, alba: ScriptedSite) -> None:
    await lose_the_list(bench.store, case)
    alba.all_over()
    await bench.settle(400)
    assert (await bench.record(case.taken)).session(case.taken).phase == "ACCEPTED"
    await visit(bench, mend=True)
    await bench.settle(5)
    assert (await bench.record(case.taken)).session(case.taken).phase == "COMPLETED"


@pytest.mark.parametrize("due", [None, 1.0, 1e12])
async def test_a_timer_that_a_record_needs_is_set_again(bench: Bench, due: float | None) -> None:
    state = await bench.ask()
    await beside(bench.store, aggregate(state.uuid), {"expire": due})
    assert [(level, what) for level, what, _ in said(await visit(bench, mend=True))] == [("ERROR", "timer")]
    await bench.settle(400)
    assert {item.phase for item in (await bench.record(state.uuid)).sessions} == {"EXPIRED"}
    assert said(await visit(bench)) == []


async def test_mending_beside_a_writer_goes_by_what_was_written_last(bench: Bench, case: Case) -> None:
    await spoil_the_phase(bench.store, case)
    change = bench.records.change(case.taken, lambda r: offerset.see(r, case.taken, offerset.Seen("RUNNING"), 1.0))
    await asyncio.gather(visit(bench, mend=True), change)
    assert [line.phase for line in await bench.store.listings(Query("session", phases=("RUNNING", "ACCEPTED")))] == [
        "RUNNING"
    ]
    assert said(await visit(bench)) == []


@pytest.mark.parametrize("after", [False, True], ids=["before it", "its answer lost"])
@pytest.mark.parametrize("what", ["a line says another phase", "the watch list is gone", "nobody looks"])
async def test_whoever_dies_while_mending_leaves_nothing_worse(
    any_store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite, what: str, after: bool
) -> None:
    bench = await Bench(any_store, clock, {"alba": alba, "borealis": borealis}).start()
    state = await bench.ask()
    best, other, _ = uuids(state)
    await bench.accept(best)
    await bench.settle(400)
    await SPOILT[what][0](any_store, Case(state.uuid, best, other))
    deaths = 0
    while True:
        wire = Tripwire(deaths, after=after)
        try:
            await Doctor(store=wire.behind(any_store), sites=bench.sites, clock=clock, mend=True).visit()
        except Died:
            deaths += 1
            continue
        break
    assert deaths > 5
    assert said(await visit(bench)) == []
    alba.all_over()
    await bench.settle(5)
    assert (await bench.record(best)).session(best).phase == "COMPLETED"


@pytest.fixture
async def on_redis(
    redis_url: str, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> AsyncIterator[Bench]:
    address = parse(f"{redis_url}?prefix=doctor-{uuid4().hex}")
    store = await open_redis(address, clock)
    yield await Bench(store, clock, {"alba": alba, "borealis": borealis}).start()
    await store.close()


@pytest.mark.parametrize("what", sorted(SPOILT.keys() - {"a timer and a line are left over"}))
async def test_on_a_redis_it_is_found_and_mended_as_well(on_redis: Bench, what: str) -> None:
    state = await on_redis.ask()
    best, other, _ = uuids(state)
    await on_redis.accept(best)
    await on_redis.settle(400)
    assert said(await visit(on_redis)) == []
    spoil, expected = SPOILT[what]
    await spoil(on_redis.store, Case(state.uuid, best, other))
    mended = await visit(on_redis, mend=True)
    assert [(at.level, at.what, at.mended) for at in mended.findings] == [(*pair, True) for pair in expected]
    assert said(await visit(on_redis)) == []


# ── what takes a person ──────────────────────────────────────────────────────────────────────────────────────


async def test_timers_that_nobody_works_off_are_told_together(bench: Bench, clock: FakeClock) -> None:
    for _ in range(3):
        await bench.ask()
    clock.advance(4000)
    report = await visit(bench, mend=True)
    assert said(report) == [("ERROR", "overdue", "store")]
    assert "3 expire" in report.findings[0].says
    assert report.left == 1
    await bench.work()
    assert said(await visit(bench)) == []


async def test_what_is_to_be_done_at_once_is_overdue_only_after_a_while(bench: Bench, clock: FakeClock) -> None:
    state = await bench.ask()
    await bench.accept(uuids(state)[0])
    assert said(await visit(bench)) == []
    clock.advance(400)
    report = await visit(bench)
    assert "1 follow, 1 release" in report.findings[0].says


async def test_an_acceptance_long_in_doubt_is_told(bench: Bench, alba: ScriptedSite) -> None:
    state = await bench.ask()
    alba.steps["accept"] = [lost(SiteTimeout("no answer"))]
    for call in ("status", "update"):
        alba.steps[call] = [fails(SiteTimeout("silent"))] * 1000
    await bench.accept(uuids(state)[0])
    assert said(await visit(bench)) == []
    await bench.settle(700)
    report = await visit(bench)
    assert said(report) == [("ERROR", "doubt", str(uuids(state)[0]))]
    assert "broker resolve" in report.findings[0].says


async def test_a_session_at_a_site_that_is_registered_no_more_is_told(
    bench: Bench, case: Case, store: Store, clock: FakeClock, borealis: ScriptedSite
) -> None:
    other = await Bench(store, clock, {"borealis": borealis}).start()
    assert said(await visit(other)) == [("ERROR", "site", str(case.taken))]


async def test_what_cannot_be_read_is_told_and_left_alone(bench: Bench, case: Case) -> None:
    await replaced(bench.store, case.key, b"\xc1")
    await replaced(bench.store, "watch:alba", b"\xc1")
    before = await bench.store.read(case.key)
    report = await visit(bench, mend=True)
    assert {what for _, what, _ in said(report)} >= {"unreadable"}
    assert {at.where for at in report.findings if at.what == "unreadable"} == {case.key, "watch:alba"}
    assert await bench.store.read(case.key) == before


# ── what sites have ──────────────────────────────────────────────────────────────────────────────────────────


async def test_what_runs_though_its_record_is_gone_is_told_and_cancelled_only_on_request(
    bench: Bench, case: Case, alba: ScriptedSite
) -> None:
    stored = await bench.store.read(case.key)
    assert stored is not None
    await bench.store.remove(case.key, stored.version)
    handle = next(handle for handle, phase in alba.phases.items() if phase == "ACCEPTED")
    report = await visit(bench, mend=True)
    orphan = next(at for at in report.findings if at.what == "orphan")
    assert (orphan.level, orphan.where, orphan.mended) == ("ERROR", "alba", False)
    assert handle in orphan.says
    assert alba.phases[handle] == "ACCEPTED"
    again = await visit(bench, mend=True, cancel=True)
    assert [(at.what, at.mended) for at in again.findings] == [("orphan", True)]
    assert alba.phases[handle] == "CANCELLED"
    assert said(await visit(bench)) == []


async def test_what_runs_though_the_record_says_otherwise_is_told(bench: Bench, case: Case, alba: ScriptedSite) -> None:
    handle = next(handle for handle, phase in alba.phases.items() if phase == "ACCEPTED")
    alba.all_over()
    await bench.settle(400)
    alba.phases[handle] = "RUNNING"
    assert said(await visit(bench)) == [("ERROR", "orphan", str(case.taken))]
    other = next(handle for handle, phase in alba.phases.items() if phase == "REJECTED")
    alba.phases.update({handle: "COMPLETED", other: "RUNNING"})
    assert said(await visit(bench)) == [("ERROR", "orphan", str(case.other))]


async def test_an_offer_that_a_site_keeps_though_it_was_given_back_is_given_back_again(
    bench: Bench, alba: ScriptedSite
) -> None:
    alba.lifetime = 3600
    alba.steps["release"] = [NOT_REALLY]
    state = await bench.ask()
    await bench.accept(uuids(state)[0])
    await bench.settle(400)
    kept = [handle for handle, phase in alba.phases.items() if phase == "OFFERED"]
    assert len(kept) == 1
    report = await visit(bench, mend=True)
    assert [(at.what, at.mended) for at in report.findings] == [("orphan", True)]
    assert [phase for phase in alba.phases.values() if phase == "OFFERED"] == []


@pytest.mark.parametrize(("lifetime", "found"), [(100, True), (390, False), (420, False), (3600, True)])
async def test_an_offer_given_back_is_left_to_expire_where_it_is_about_to_and_not_where_it_does_not(
    bench: Bench, alba: ScriptedSite, lifetime: float, found: bool
) -> None:
    alba.lifetime = lifetime
    alba.steps["release"] = [NOT_REALLY]
    state = await bench.ask()
    await bench.accept(uuids(state)[0])
    await bench.settle(400)
    assert "OFFERED" in alba.phases.values()
    assert bool((await visit(bench)).findings) is found


async def test_young_offers_and_those_of_unknown_age_may_yet_be_saved(
    bench: Bench, alba: ScriptedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = bench.clock.now()
    ages = {"unknown": None, "young": now - 5, "old": now - 500}
    held = [Held(handle, "OFFERED", since=since) for handle, since in ages.items()]

    async def has(deadline: object) -> tuple[Held, ...]:
        return tuple(held)

    monkeypatch.setattr(alba, "held", has)
    alba.phases["old"] = "OFFERED"
    report = await visit(bench, mend=True)
    assert [(at.level, at.what, at.mended) for at in report.findings] == [("WARN", "orphan", True)]
    assert "(old)" in report.findings[0].says
    assert alba.phases["old"] == "REJECTED"


async def test_an_offer_whose_answer_was_lost_is_found_though_its_set_is_there(
    bench: Bench, case: Case, alba: ScriptedSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def has(deadline: object) -> tuple[Held, ...]:
        return (Held("unheard", alba.phases["unheard"], set=case.set, since=bench.clock.now() - 500),)

    monkeypatch.setattr(alba, "held", has)
    alba.phases["unheard"] = "OFFERED"
    report = await visit(bench, mend=True)
    assert [(at.what, at.mended) for at in report.findings] == [("orphan", True)]
    assert alba.phases["unheard"] == "REJECTED"


async def test_what_is_saved_while_the_doctor_looks_is_no_orphan(bench: Bench, alba: ScriptedSite) -> None:
    state = await bench.ask()
    item = state.record.sessions[0]
    orphans = Orphans(bench.sites.entries(), bench.store, bench.clock)
    alba.phases = {item.handle: "ACCEPTED"}
    await orphans.ask()
    named = Held(item.handle, "ACCEPTED", set=state.uuid)
    orphans._by_handle[item.site, item.handle.lower()] = named  # as a site does that is told our uuids
    assert await orphans.left(bench.clock.now()) == []


async def test_a_site_that_cannot_say_what_it_has_is_named(bench: Bench, case: Case, alba: ScriptedSite) -> None:
    alba.steps["held"] = [fails(SiteRefused("it has no list."))]
    report = await visit(bench)
    assert (report.findings, dict(report.unasked)) == ((), {"alba": "it has no list."})


async def test_an_orphan_that_cannot_be_ended_stays(bench: Bench, case: Case, alba: ScriptedSite) -> None:
    stored = await bench.store.read(case.key)
    assert stored is not None
    await bench.store.remove(case.key, stored.version)
    await visit(bench, mend=True)
    alba.steps["update"] = [fails(SiteTimeout("silent"))]
    report = await visit(bench, mend=True, cancel=True)
    assert report.left == 1
    assert "It stays: silent" in report.findings[0].says
