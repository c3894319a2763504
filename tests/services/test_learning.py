"""Learning of what came: from the session's end to the ranking of the next request, in one place and in several."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from msgspec.structs import replace

from broker.domain import learning, offerset
from broker.domain.deadline import Deadline
from broker.domain.experience import Experience, Factor
from broker.domain.identity import aggregate
from broker.domain.money import Exchange
from broker.domain.offerset import Decision, SetRecord
from broker.domain.site import Profile, Registration, StorageElement
from broker.domain.storages import Map
from broker.errors import NotAllowed, SiteError, Unavailable
from broker.ports import Order, Sighting, Store
from broker.services.doctor import Doctor
from broker.services.learning import ANEW_EVERY, AT_ONCE, FADE, PREFIX, REFRESH_EVERY, Learning, key_of
from broker.services.offers import SetState
from broker.store.redis import open_redis
from broker.store.redis_address import parse
from broker.testing.bench import ADA, OPERATOR, Bench, by_site
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite
from broker.testing.tripwire import Died, Tripwire

DAY = 86400.0
WORK = "docker-container"
FAST = {"preset": "balanced", "value_of_time": 50.0}
MAP = Map([StorageElement(name="lund-disk", prefixes=("https://lund/",))], (), Exchange("EUR", {}))


@dataclass
class LateSite(ScriptedSite):
    """Begins every run `late` seconds after it was accepted, runs it `lasts` seconds, and ends it as `ends`. `tells`:
    it states when that was, and what it costs; else it is seen. `brought`: the transfers that it reports."""

    late: float = 0.0
    lasts: float = 60.0
    ends: str = "COMPLETED"
    tells: bool = True
    bills: float | None = None
    brought: Sequence[Any] = ()
    accepted: dict[str, float] = field(default_factory=dict)

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        self.accepted.setdefault(order.handle, self.clock.now())
        return await super().accept(order, deadline)

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        for order in orders:
            if self.phases.get(order.handle) not in (None, "CANCELLED"):
                self.phases[order.handle] = self._phase(order.handle)
        found = await super().status(orders, deadline)
        return {
            uuid: self._told(order.handle, sighting)
            for order, (uuid, sighting) in zip(orders, found.items(), strict=True)
            if isinstance(sighting, Sighting)
        }

    def _phase(self, handle: str) -> str:
        since = self.clock.now() - self.accepted[handle]
        return "WAITING" if since < self.late else "RUNNING" if since < self.late + self.lasts else self.ends

    def _told(self, handle: str, sighting: Sighting) -> Sighting:
        began = self.accepted[handle] + self.late
        body = msgspec.json.encode({"transfers": self.brought})
        if not self.tells or sighting.phase == "WAITING":
            return replace(sighting, body=body)
        ended = began + self.lasts if sighting.phase != "RUNNING" else None
        return replace(sighting, body=body, began=began, ended=ended, cost=None if ended is None else self.bills)


def bench_of(store: Store, clock: FakeClock, *sites: ScriptedSite, **more: Any) -> Bench:
    """Sites that are looked at twice a minute."""
    polled = {site.name: Registration(name=site.name, url="http://x/", poll=30.0) for site in sites}
    return Bench(store, clock, {site.name: site for site in sites}, registrations=polled, **more)


def late_site(clock: FakeClock, name: str = "alba", price: float = 1.0, **more: Any) -> LateSite:
    return LateSite(name, clock, (price,), **more)


async def ran(bench: Bench, site: str = "alba", count: int = 1, apart: float = 3600.0, **more: Any) -> UUID:
    """So many sessions at a site, one after the other; the last one's uuid."""
    for _ in range(count):
        uuid = by_site(await bench.ask(**more))[site]
        await bench.accept(uuid)
        await bench.settle(800)
        bench.clock.advance(apart)
        await bench.work()
    return uuid


def candidate(state: SetState, site: str) -> Any:
    assert state.body is not None
    return next(item.candidate for item in state.body.kept if item.candidate.site == site)


def first(state: SetState) -> str:
    return next(item.site for item in state.record.sessions if str(item.uuid) == state.ranking[0].session)


# ── what it leads to ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_site_that_always_promises_too_much_falls_and_can_see_why(any_store: Store, clock: FakeClock) -> None:
    alba, borealis = late_site(clock, late=600.0), late_site(clock, "borealis", 1.5)
    bench = await bench_of(any_store, clock, alba, borealis).start()
    assert first(await bench.ask(preferences=FAST)) == "alba"
    await ran(bench, count=12)
    state = await bench.ask(preferences=FAST)
    assert first(state) == "borealis"
    assert 200.0 < state.ranking[1].score.waiting.expected < 600.0  # type: ignore[union-attr] # it has one
    assert "min queue, 0 s promised" in state.ranking[1].why
    says = next(line for line in bench.sites.get("alba")["calibration"] if line["what"] == "waiting")
    assert (says["kind"], says["samples"]) == (WORK, 12)
    assert says["says"].startswith("starts later than promised × ")


async def test_a_site_that_keeps_its_promises_stays_where_it_is(bench: Bench, store: Store, clock: FakeClock) -> None:
    bench = await bench_of(store, clock, late_site(clock)).start()
    await ran(bench, count=5)
    assert candidate(await bench.ask(), "alba").correction.waiting.value == 1.0


async def test_a_site_that_states_no_times_is_judged_by_what_was_seen(store: Store, clock: FakeClock) -> None:
    bench = await bench_of(store, clock, late_site(clock, late=600.0, tells=False)).start()
    await ran(bench, count=6)
    assert candidate(await bench.ask(), "alba").correction.waiting.value > 3


async def test_a_site_that_says_it_began_while_it_showed_itself_waiting_is_not_believed(
    store: Store, clock: FakeClock
) -> None:
    class Liar(LateSite):
        def _told(self, handle: str, sighting: Sighting) -> Sighting:
            told = super()._told(handle, sighting)
            return replace(told, began=self.accepted[handle]) if told.began is not None else told

    bench = await bench_of(store, clock, Liar("alba", clock, (1.0,), late=600.0)).start()
    await ran(bench, count=6)
    assert candidate(await bench.ask(), "alba").correction.waiting.value > 3


async def test_what_was_promised_is_kept_as_it_was_however_it_is_corrected(store: Store, clock: FakeClock) -> None:
    """Else a correction would be learned from what it has corrected, and undo itself."""
    bench = await bench_of(store, clock, late_site(clock, late=600.0)).start()
    await ran(bench, count=12)
    now = candidate(await bench.ask(), "alba").correction.waiting.value
    record = await bench.record(await ran(bench, apart=4000.0))
    decision = record.decision
    assert decision is not None
    assert (decision.kind, decision.learned) == (WORK, True)
    assert decision.start is not None
    assert decision.start - decision.at <= 1.0
    assert candidate(await bench.ask(), "alba").correction.waiting.value >= now


# ── what counts, and what does not ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "learned"),
    [
        ({"ends": "COMPLETED", "bills": 0.5}, {"waiting", "run", "cost"}),
        ({"ends": "FAILED", "bills": 0.5}, {"waiting"}),
        ({"ends": "FAILED", "late": 1e9}, set()),
    ],
)
async def test_how_a_session_ends_says_what_it_teaches(
    store: Store, clock: FakeClock, more: dict[str, Any], learned: set[str]
) -> None:
    site = late_site(clock, **more)
    bench = await bench_of(store, clock, site).start()
    uuid = by_site(await bench.ask(schedule={"duration": "PT1H"}))["alba"]
    await bench.accept(uuid)
    await bench.settle(30)
    if site.late > 1e6:  # it fails before it runs
        site.late, site.lasts, site.tells = 0.0, 0.0, False
    await bench.settle(300)
    assert (await bench.record(uuid)).decision.learned  # type: ignore[union-attr] # it was accepted
    assert {line["what"] for line in bench.learning.shown("alba")["calibration"]} == learned


async def test_a_cancelled_session_teaches_nothing(store: Store, clock: FakeClock) -> None:
    site = late_site(clock, late=600.0, lasts=1e6, brought=[{"bytes": 1e9, "seconds": 5, "source": "x"}])
    bench = await bench_of(store, clock, site).start()
    uuid = by_site(await bench.ask())["alba"]
    await bench.accept(uuid)
    await bench.settle(700)
    await bench.update(uuid, "CANCELLED")
    await bench.settle(100)
    record = await bench.record(uuid)
    assert record.session(uuid).phase == "CANCELLED"
    assert offerset.timers(record) == {}
    assert bench.learning.experience == Experience()
    assert await store.read(key_of("alba", "alba")) is None


async def test_a_record_of_an_older_broker_is_left_alone(store: Store, clock: FakeClock) -> None:
    bench = await bench_of(store, clock, late_site(clock)).start()
    record = await bench.record(await ran(bench))
    assert record.decision is not None
    bare = Decision(record.decision.session, "alba", "alba", record.decision.at)
    assert offerset.timers(replace(record, decision=bare)) == {}
    assert offerset.over(replace(record, decision=bare))


async def test_a_burst_of_sessions_is_no_proof(store: Store, clock: FakeClock) -> None:
    bench = await bench_of(store, clock, late_site(clock, late=600.0)).start()
    clock.advance(learning.BURST - clock.now() % learning.BURST)
    asked = [by_site(await bench.ask())["alba"] for _ in range(20)]
    for uuid in asked:
        await bench.accept(uuid)
    await bench.settle(900)
    assert all([(await bench.record(uuid)).decision.learned for uuid in asked])  # type: ignore[union-attr] # accepted
    waiting = candidate(await bench.ask(), "alba").correction.waiting
    assert (waiting.samples, waiting.value < 3) == (learning.BURST_KEPT, True)


# ── transfers ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_transfers_that_a_site_reports_measure_its_ways(store: Store, clock: FakeClock) -> None:
    brought = [
        {"url": "https://lund/cube", "bytes": 2e9, "seconds": 20},
        {"url": "https://lund/half", "bytes": 2e9, "seconds": 20, "cached": True},
        {"url": "https://lund/lie", "bytes": 1e300, "seconds": -1},
    ]
    bench = await bench_of(store, clock, late_site(clock, brought=brought), map_=MAP).start()
    await ran(bench, count=3)
    seen = bench.learning.experience.measured["lund-disk", "alba"]
    assert (seen.samples, seen.bandwidth.low < 1e8 < seen.bandwidth.high) == (3, True)
    shown = bench.sites.get("alba")["measured"]
    assert [(way["source"], way["unit"], way["samples"]) for way in shown] == [("lund-disk", "MB/s", 3)]


async def test_a_site_that_says_bytes_came_at_once_and_prepares_for_an_hour_measures_no_way(
    store: Store, clock: FakeClock
) -> None:
    class Boaster(LateSite):
        def _phase(self, handle: str) -> str:
            phase = super()._phase(handle)
            return "PREPARING" if phase == "WAITING" else phase

    brought = [{"url": "https://lund/cube", "bytes": 1e12, "seconds": 1}]
    bench = await bench_of(store, clock, Boaster("alba", clock, (1.0,), late=3600.0, brought=brought), map_=MAP).start()
    await ran(bench, count=3)
    assert bench.learning.experience.measured == {}
    assert bench.learning.experience.corrections


async def test_a_broker_below_speaks_for_none_of_our_ways_nor_for_a_site_of_ours(
    store: Store, clock: FakeClock
) -> None:
    class Below(LateSite):
        def _offer(self, handle: str, price: float | None) -> Any:
            quote = super()._offer(handle, price)
            return replace(quote, body=msgspec.json.encode({**msgspec.json.decode(quote.body), "origin": "alba"}))

    profile = Profile(broker="another", origins=("alba", "cirrus"))
    below = Below("net-b", clock, (2.0,), profile=profile, late=600.0, brought=[{"bytes": 1e9, "seconds": 9}])
    bench = await bench_of(store, clock, late_site(clock), below).start()
    await ran(bench, "net-b", 4)
    assert bench.learning.experience.measured == {}
    assert list(bench.learning.experience.corrections) == [("net-b/alba", WORK)]
    state = await bench.ask()
    assert candidate(state, "alba").correction.waiting == Factor()
    assert candidate(state, "net-b").correction.waiting.value > 2
    assert {line["site"] for line in bench.sites.get("net-b")["calibration"]} == {"net-b/alba"}


async def test_a_broker_with_one_place_behind_it_speaks_for_its_ways_by_whatever_name_we_know_it(
    store: Store, clock: FakeClock
) -> None:
    class Renamed(LateSite):
        def _offer(self, handle: str, price: float | None) -> Any:
            quote = super()._offer(handle, price)
            return replace(quote, body=msgspec.json.encode({**msgspec.json.decode(quote.body), "origin": "alba"}))

    site = Renamed("alba-new", clock, (1.0,), brought=[{"bytes": 1e9, "seconds": 9, "source": "lund-disk"}])
    site.profile = Profile(broker="another", origins=("alba",))
    bench = await bench_of(store, clock, site).start()
    await ran(bench, "alba-new")
    assert list(bench.learning.experience.measured) == [("lund-disk", "alba-new")]
    assert bench.sites.get("alba-new")["measured"]
    await bench.sites.forget("alba-new", OPERATOR)
    assert bench.learning.experience == Experience()


# ── crashes, replicas ────────────────────────────────────────────────────────────────────────────────────────


async def ended(any_store: Store, clock: FakeClock) -> tuple[Bench, UUID]:
    """A session that has ended, of which nobody has learned yet."""
    site = late_site(clock, late=600.0, brought=[{"bytes": 2e9, "seconds": 20, "source": "lund"}])
    bench = await bench_of(any_store, clock, site).start()
    uuid = by_site(await bench.ask())["alba"]
    await bench.accept(uuid)
    handlers, bench.handlers = bench.handlers, {**bench.handlers, "learn": _not_now}
    await bench.settle(900)
    bench.handlers = handlers
    assert offerset.timers(await bench.record(uuid)) == {"learn": 0.0}
    return bench, uuid


async def _not_now(key: str) -> float | None:
    raise Unavailable("not now")


@pytest.mark.parametrize("after", [False, True])
async def test_whoever_dies_on_the_way_one_session_counts_once(any_store: Store, clock: FakeClock, after: bool) -> None:
    bench, uuid = await ended(any_store, clock)
    deaths = 0
    while True:
        wire = Tripwire(deaths, after=after)
        other = bench_of(wire.behind(any_store), clock, late_site(clock))
        try:
            await other.learning.learn(aggregate(uuid))
        except Died:
            deaths += 1
            continue
        break
    assert deaths >= 3
    assert (await bench.record(uuid)).decision.learned  # type: ignore[union-attr] # it was accepted
    await bench.learning.refresh()
    shown = bench.learning.shown("alba")
    assert {line["samples"] for line in shown["calibration"]} == {1}
    assert [way["samples"] for way in shown["measured"]] == [1]


async def test_two_replicas_that_learn_of_one_session_count_it_once(any_store: Store, clock: FakeClock) -> None:
    bench, uuid = await ended(any_store, clock)
    first_, second = (bench_of(any_store, clock, late_site(clock)) for _ in range(2))
    record: SetRecord = await bench.record(uuid)
    assert record.decision is not None
    await first_.learning._count(record.decision, record.session(uuid))
    await second.learning.learn(aggregate(uuid))
    await first_.learning.learn(aggregate(uuid))
    assert {line["samples"] for line in second.learning.shown("alba")["calibration"]} == {1}


async def test_what_one_replica_learns_the_others_know_within_half_a_minute(any_store: Store, clock: FakeClock) -> None:
    bench = await bench_of(any_store, clock, late_site(clock, late=600.0)).start()
    other = await bench_of(any_store, clock, late_site(clock)).start()
    for count in (1, 2):
        await ran(bench)
        await other.learning.refresh()
        assert {line["samples"] for line in other.learning.shown("alba")["calibration"]} == {count}
    assert other.learning.experience == bench.learning.experience
    await bench.sites.forget("alba", OPERATOR)
    clock.advance(REFRESH_EVERY)
    await other.learning.refresh()
    assert other.learning.experience == Experience()


async def test_a_store_that_cannot_be_read_at_the_start_is_read_later(store: Store, clock: FakeClock) -> None:
    bench = await bench_of(store, clock, late_site(clock, late=600.0)).start()
    await ran(bench)

    class Refusing:
        def __getattr__(self, name: str) -> Any:
            raise Unavailable("the store is away")

    later = Learning(store=Refusing(), records=bench.records, clock=clock, map_=MAP)  # type: ignore[arg-type] # a stand-in
    running = asyncio.create_task(later.run())
    await clock.asleep()
    assert later.experience == Experience()
    later._store = store
    clock.advance(REFRESH_EVERY)
    await clock.asleep()
    assert later.experience == bench.learning.experience
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_fleet_on_redis_learns_together(redis_url: str, clock: FakeClock) -> None:
    redis_store = await open_redis(parse(f"{redis_url}?prefix=learning-{uuid4().hex}"), clock)
    bench = await bench_of(redis_store, clock, late_site(clock, late=600.0)).start()
    await ran(bench, count=2)
    other = await bench_of(redis_store, clock, late_site(clock)).start()
    assert {line["samples"] for line in other.learning.shown("alba")["calibration"]} == {2}
    await redis_store.close()


@pytest.mark.parametrize("seed", range(4))
async def test_a_picture_that_was_drawn_bit_by_bit_is_the_one_drawn_at_once(
    store: Store, clock: FakeClock, seed: int
) -> None:
    bench, random, at = bench_of(store, clock), Random(seed), clock.now() - DAY
    for n in range(80):
        site, kind = f"s{random.randrange(6)}", random.choice("abc")
        pair = (600.0, 600.0 * random.uniform(0.3, 3.0))
        sample = learning.Sample(UUID(int=n), at + 1000 * n, at + 1000 * n, pair, None, pair if n % 3 else None, pair)
        moved = {"lund": learning.Transfer(UUID(int=n), at, 1e9, random.uniform(5, 50), at)}
        await bench.learning._change(
            site, site, lambda old, k=kind, s=sample, m=moved: learning.add(old, k, s, m, clock.now())
        )
        if random.random() < 0.5:
            _ = bench.learning.experience
        if n % 40 == 20:
            await bench.learning.forget("s1")
    found, whole = bench.learning.experience, learning.experience(bench.learning._lived, clock.now())
    assert found == whole
    assert len(whole.corrections) > 10
    assert whole.elsewise


async def waited(bench: Bench, site: str, late: float, number: int = 1, kind: str = WORK) -> None:
    """One more session of the site has shown so many seconds, run and wait alike, where ten minutes were promised."""
    now = bench.clock.now()
    sample = learning.Sample(UUID(int=number), now, now, (600.0, late), None, (600.0, late))
    await bench.learning._change(site, site, lambda old: learning.add(old, kind, sample, {}, now))


async def test_what_many_sites_have_shown_is_in_the_picture_all_at_once_and_holds_up_nobody(
    store: Store, clock: FakeClock
) -> None:
    """One that held the half would wrong those of which it knows already."""
    bench = bench_of(store, clock)
    for n in range(60):
        await waited(bench, f"s{n}", 1200.0)
    other, seen = bench_of(store, clock), list[int]()
    reading = asyncio.create_task(other.learning.refresh())
    while not reading.done():
        seen.append(len(other.learning.experience.corrections))
        await asyncio.sleep(0)
    await reading
    assert len(seen) > 60 / AT_ONCE
    assert (set(seen) - {60}, len(other.learning.experience.corrections)) == ({0}, 60)
    assert other.learning.experience == learning.experience(other.learning._lived, clock.now())


async def test_what_is_usual_at_many_sites_is_looked_at_now_and_then(store: Store, clock: FakeClock) -> None:
    bench = bench_of(store, clock)
    for n in range(60):
        await waited(bench, f"s{n}", 300.0)
    await bench.learning.refresh()
    before = bench.learning.experience.usual
    for n in range(60):
        await waited(bench, f"s{n}", 150.0, number=2 + n)
        assert bench.learning.experience.usual == before
    await bench.learning.refresh()
    assert bench.learning.experience.usual[WORK].run.value < before[WORK].run.value
    assert bench.learning.experience == learning.experience(bench.learning._lived, clock.now())


async def test_a_lesson_that_teaches_no_ways_leaves_them_as_they_were(store: Store, clock: FakeClock) -> None:
    """What was reckoned by them for a thousand sites stays."""
    bench = bench_of(store, clock)
    moved = {"lund": learning.Transfer(UUID(int=1), clock.now(), 1e9, 10.0, clock.now())}
    await bench.learning._change("alba", "alba", lambda old: learning.bring(old, moved, clock.now()))
    before = bench.learning.experience.measured
    await waited(bench, "alba", 1200.0)
    assert bench.learning.experience.corrections
    assert bench.learning.experience.measured is before


async def test_a_site_that_was_forgotten_by_its_age_is_heard_of_again(any_store: Store, clock: FakeClock) -> None:
    bench, other = bench_of(any_store, clock), bench_of(any_store, clock)
    await waited(bench, "alba", 1200.0)
    await other.learning.refresh()
    assert other.learning.experience.corrections
    await bench.settle(31 * DAY)
    await other.learning.refresh()
    assert other.learning.experience == Experience()
    await waited(bench, "alba", 1200.0)
    await other.learning.refresh()
    assert other.learning.experience.corrections


async def test_a_clock_that_was_ahead_keeps_out_nothing_that_comes_after_it(store: Store, clock: FakeClock) -> None:
    bench, other = bench_of(store, clock), bench_of(store, clock)
    clock.jump(400 * DAY)
    for n in range(learning.SAMPLES):
        await waited(bench, "alba", 6000.0, number=n)
    await bench.learning.forget("borealis")
    await other.learning.refresh()
    clock.jump(-400 * DAY)
    for site in ("alba", "borealis"):
        await waited(bench, site, 600.0, number=1000)
        clock.jump(10.0)
        await waited(bench, site, 600.0, number=1001)
    await other.learning.refresh()
    for learned in (bench.learning, other.learning):
        found = learned.experience
        assert {site: by.waiting for (site, _), by in found.corrections.items()} == {
            "alba": Factor(1.0, 2, 600.0),
            "borealis": Factor(1.0, 1, 600.0),
        }


# ── forgetting ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_operator_has_a_site_forgotten_and_what_was_accepted_before_does_not_come_back(
    store: Store, clock: FakeClock
) -> None:
    site = late_site(clock, late=600.0)
    bench = await bench_of(store, clock, site).start()
    await ran(bench, count=3)
    running = by_site(await bench.ask())["alba"]
    await bench.accept(running)
    with pytest.raises(NotAllowed):
        await bench.sites.forget("alba", ADA)
    assert (await bench.sites.forget("alba", OPERATOR))["calibration"] == []
    await bench.settle(900)
    assert (await bench.record(running)).decision.learned  # type: ignore[union-attr] # it was accepted
    assert candidate(await bench.ask(), "alba").correction is None
    await ran(bench)
    assert candidate(await bench.ask(), "alba").correction is not None


async def test_sites_that_a_broker_below_names_no_more_are_shown_and_forgotten_with_it(
    store: Store, clock: FakeClock
) -> None:
    bench = bench_of(store, clock)
    now = clock.now()
    sample = learning.Sample(UUID(int=1), now, now, (600.0, 1200.0))
    await bench.learning._change("net-b", "gone", lambda old: learning.add(old, WORK, sample, {}, now))
    assert [line["site"] for line in bench.learning.shown("net-b")["calibration"]] == ["net-b/gone"]
    await bench.learning.forget("net-b")
    assert bench.learning.experience == Experience()


async def test_after_thirty_days_nothing_is_left_not_even_of_a_site_that_is_registered_no_more(
    any_store: Store, clock: FakeClock
) -> None:
    bench = await bench_of(any_store, clock, late_site(clock, late=600.0)).start()
    await ran(bench)
    bench = await bench_of(any_store, clock, late_site(clock, "borealis")).start()
    assert bench.learning.experience.corrections
    report = await Doctor(store=any_store, sites=bench.sites, clock=clock).visit()
    assert [at for at in report.findings if PREFIX in at.where] == []
    await bench.settle(29 * DAY)
    assert await any_store.read(key_of("alba", "alba")) is not None
    await bench.settle(2 * DAY)
    assert await any_store.read(key_of("alba", "alba")) is None
    assert bench.learning.experience == Experience()


async def test_the_doctor_sets_the_timer_by_which_what_was_learned_goes(any_store: Store, clock: FakeClock) -> None:
    bench = await bench_of(any_store, clock, late_site(clock)).start()
    await ran(bench)
    key = key_of("alba", "alba")
    stored = await any_store.read(key)
    assert stored is not None
    await any_store.write(key, stored.version, stored.record, timers={FADE: None})
    report = await Doctor(store=any_store, sites=bench.sites, clock=clock, mend=True).visit()
    assert [(at.what, at.where, at.mended) for at in report.findings] == [("timer", key, True)]
    assert await bench.work() == 1
    assert (await Doctor(store=any_store, sites=bench.sites, clock=clock).visit()).findings == ()


async def test_samples_grow_old_though_nothing_new_comes(store: Store, clock: FakeClock) -> None:
    bench = await bench_of(store, clock, late_site(clock, late=600.0)).start()
    await ran(bench, count=6)
    before = bench.learning.experience.correction("alba", WORK)
    clock.advance(20 * DAY)
    await bench.learning.refresh()
    after = bench.learning.experience.correction("alba", WORK)
    assert before is not None
    assert after is not None
    assert 1.0 < after.waiting.value < before.waiting.value
    clock.advance(ANEW_EVERY / 2)
    assert bench.learning.experience.correction("alba", WORK) is after


async def test_what_cannot_be_read_is_learned_anew(store: Store, clock: FakeClock) -> None:
    bench = await bench_of(store, clock, late_site(clock, late=600.0)).start()
    await store.write(key_of("alba", "alba"), 0, b"\xc1 damaged")
    await ran(bench)
    assert {line["samples"] for line in bench.learning.shown("alba")["calibration"]} == {1}
