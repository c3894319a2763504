"""The planner of a bare platform: offers that hold room, taken up exactly once, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from adapters.planning.ledger import REMEMBERED
from adapters.planning.planner import PlanningPlanner
from adapters.planning.platform import Job, Unseen
from adapters.planning.settings import site_settings
from adapters.simulated.options import SimulatedOptions
from adapters.simulated.platform import SimulatedPlatform
from broker.domain import kinds
from broker.domain import offer as broker_offer
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.quantities import Span, format_instant
from broker.domain.session import ScheduledExecutionSession
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.ports import Ask, Order, Quotes, Sighting
from broker.testing.asks import ALICE, ask, order
from broker.testing.clock import FakeClock
from broker.testing.memory import MemoryCalendar, MemoryLimits

HOUR, MINUTE = 3600.0, 60.0


class Platform(SimulatedPlatform):
    """Counts what is started for the first time; raises `trouble` at starts, before or after the deed."""

    def __init__(self, options: SimulatedOptions, calendar: MemoryCalendar, clock: FakeClock) -> None:
        super().__init__(options, calendar, clock, "alba")
        self.executed: list[UUID] = []
        self.trouble: SiteError | None = None
        self.acts = False
        self.forgets = False

    async def start(self, job: Job, deadline: Deadline) -> Sighting:
        if self.trouble and not self.acts:
            raise self.trouble
        if await self._runs.get(job.session) is None:
            self.executed.append(job.session)
        seen = await super().start(job, deadline)
        if self.trouble:
            raise self.trouble
        return seen

    async def status(self, jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        if self.forgets:
            return {job.session: SiteForgot("never heard of it.") for job in jobs}
        return await super().status(jobs, deadline)


class Site:
    """A site of 8 cores and 32 GiB, its planner, and the broker's end of it."""

    def __init__(self, options: Mapping[str, Any] | None = None, **settings: Any) -> None:
        self.clock, self.calendar = FakeClock(), MemoryCalendar()
        self.limits = MemoryLimits(self.clock)
        self.options = SimulatedOptions.model_validate({"run": "PT30M", **(options or {})})
        self.platform = Platform(self.options, self.calendar, self.clock)
        self.settings = site_settings({"capacity": {"cores": 8, "memory": 32}, **settings})
        self.planner = self.restarted()

    def restarted(self) -> PlanningPlanner:
        """Another process at the same calendar."""
        return PlanningPlanner(self.platform, self.calendar, self.limits, self.clock, self.settings, "alba", "EUR")

    def ask(self, *, user: Owner = ALICE, **more: Any) -> Ask:
        return ask(self.clock, user=user, **more)

    async def offered(self, asked: Ask | None = None, **more: Any) -> list[Order]:
        asked = asked or self.ask(**more)
        quotes = await self.planner.quote(asked)
        assert quotes.quotes, [str(reason) for reason in quotes.reasons]
        return [order(quote, user=asked.user, set=asked.set) for quote in quotes.quotes]

    async def offer(self, **more: Any) -> Order:
        return (await self.offered(**more))[0]

    async def declined(self, **more: Any) -> Quotes:
        quotes = await self.planner.quote(self.ask(**more))
        assert not quotes.quotes
        return quotes

    @property
    def deadline(self) -> Deadline:
        return Deadline.after(5.0, self.clock.monotonic())

    async def accept(self, item: Order) -> Sighting:
        return await self.planner.accept(item, self.deadline)

    async def look(self, item: Order) -> Sighting | SiteError:
        return (await self.planner.status([item], self.deadline))[item.session]

    async def phase(self, item: Order) -> str:
        seen = await self.look(item)
        return seen.phase if isinstance(seen, Sighting) else type(seen).__name__

    async def charged(self) -> list[tuple[float, float]]:
        """(start, end) of what takes cores now or later, from now."""
        book = await self.calendar.read("alba", self.clock.now())
        now = self.clock.now()
        return sorted((b.start - now, b.end - now) for b in book.bookings if b.amounts)


def document(item: Order) -> ScheduledExecutionSession:
    return ScheduledExecutionSession.model_validate(msgspec.json.decode(item.offer))


def compute(cores: Mapping[str, int], memory: Mapping[str, int] | None = None, **more: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_COMPUTE, "cores": cores, "memory": memory or {"min": 1, "max": 1}, **more}


def window(clock: FakeClock, opens: float, length: float, run: str = "PT1H") -> dict[str, Any]:
    start = f"{format_instant(clock.now() + opens)}/PT{length:.0f}S"
    return {"requested": {"duration": run, "start": start}}


# ── the document ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_offer_says_what_is_granted_when_and_for_what() -> None:
    site = Site({"preparing": "PT2M"}, tariff={"core_hour": 0.5, "memory_hour": 0.1, "energy": 0.02, "carbon": 0.3})
    item = await site.offer(compute=compute({"min": 2}, {"min": 4}))
    raw, now = msgspec.json.decode(item.offer), site.clock.now()
    assert raw["kind"] == kinds.SCHEDULED_SESSION
    assert (raw["meta"]["uuid"], raw["meta"]["name"], raw["phase"]) == (item.handle, "fit", "OFFERED")
    assert raw["expires"] == format_instant(now + 300)
    assert (raw["origin"], raw["reserved"], raw["simulated"], raw["results"]) == ("alba", True, True, True)
    assert raw["compute"]["cores"] == {"min": 2, "max": 2}
    assert raw["compute"]["memory"] == {"min": 4, "max": 4}
    assert raw["compute"]["schedule"] == {
        "preparing": {"start": format_instant(now), "duration": "PT2M"},
        "available": {"start": f"{format_instant(now + 120)}/PT0S", "duration": "PT1H"},
        "releasing": {"start": format_instant(now + 120 + HOUR), "duration": "PT1M"},
    }
    costs = {c["type"]: (c["kind"], c["min"], c["max"], c["unit"]) for c in raw["costs"]}
    assert costs == {
        kinds.MONETARY: (kinds.MINMAX_COST, 1.4, 1.4, "EUR"),
        kinds.ENERGY: (kinds.MINMAX_COST, 0.04, 0.04, "kWh"),
        kinds.CARBON: (kinds.MINMAX_COST, 0.012, 0.012, "kg"),
    }
    assert raw["compute"]["costs"][0]["type"] == kinds.MONETARY
    assert any("nothing really runs" in message["message"] for message in raw["meta"]["messages"])
    assert all(m["template"] and m["values"] and m["message"] for m in raw["meta"]["messages"])


async def test_the_broker_reads_it_without_a_repair_and_finds_it_fit() -> None:
    site = Site(capacity={"cores": 8, "memory": 32, "performance": 1.5}, tariff={"core_hour": 0.5, "currency": "CHF"})
    asked = site.ask(storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "s"}, "size": {"min": 5}}])
    (quote,) = (await site.planner.quote(asked)).quotes
    offer = broker_offer.read(quote, broker_offer.Reading("alba", ours=True, margin=0.0), site.clock.now())
    assert isinstance(offer, broker_offer.Offer), offer
    assert offer.repairs == ()
    assert broker_offer.unfit(offer, broker_offer.Needs.of(asked.request)) == (None, ())
    assert (offer.price, offer.currency, offer.reserved) == (Span.of(1.0), "CHF", True)
    assert (offer.start, offer.run, offer.prepares) == (Span.of(site.clock.now()), Span.of(HOUR), False)
    assert (offer.storage, offer.metrics) == (Span.of(5.0), {kinds.COMPUTE_PERFORMANCE: Span.of(1.5)})


async def test_what_the_broker_keeps_of_an_offer_is_enough_to_run_it() -> None:
    site = Site({"preparing": "PT2M"})
    item = await site.offer(schedule=window(site.clock, HOUR, 600))
    rest, _ = broker_offer.cut(item.offer)
    kept = msgspec.structs.replace(item, offer=msgspec.json.encode(rest))
    assert (await site.accept(kept)).phase == "WAITING"
    site.clock.advance(HOUR)
    assert await site.phase(kept) == "PREPARING"


async def test_preparing_is_written_only_where_the_platform_states_it() -> None:
    schedule = msgspec.json.decode((await Site().offer()).offer)["compute"]["schedule"]
    assert "preparing" not in schedule


async def test_references_become_uuids_of_the_offer() -> None:
    site, mine = Site(), "0b3b8b52-5b0e-4a6b-9d0b-2f8f5f0f3b11"
    item = await site.offer(
        compute=compute(
            {"min": 1},
            volumes=[
                {"kind": kinds.SIMPLE_VOLUME, "path": "/in", "resource": "cube"},
                {"kind": kinds.SIMPLE_VOLUME, "mode": "READWRITE", "resource": mine},
            ],
        ),
        storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"uuid": mine, "url": "http://x/1"}, "size": {"min": 3}}],
        data=[{"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube"}, "storage": mine, "location": "http://x/cube"}],
    )
    raw = msgspec.json.decode(item.offer)
    data, storage = raw["data"][0], raw["storage"][0]
    uuids = {raw["meta"]["uuid"], *(raw[part]["meta"]["uuid"] for part in ("executable", "compute"))}
    uuids |= {data["meta"]["uuid"], storage["meta"]["uuid"], *(v["meta"]["uuid"] for v in raw["compute"]["volumes"])}
    assert len(uuids) == 7
    assert mine not in uuids
    assert (data["storage"], storage["data"]) == (storage["meta"]["uuid"], [data["meta"]["uuid"]])
    assert (storage["size"], storage["meta"].get("url")) == ({"min": 3, "max": 3}, None)
    assert [(v["resource"], v["mode"], v["path"]) for v in raw["compute"]["volumes"]] == [
        (data["meta"]["uuid"], "READONLY", "/in"),
        (storage["meta"]["uuid"], "READWRITE", f"/volumes/{mine}"),
    ]


async def test_unknown_kinds_and_properties_come_back_as_they_were() -> None:
    executable = {"kind": "uri:quantum-circuit-7", "qubits": 12}
    item = await Site().offer(executable=executable, data=[{"kind": "uri:tape-1", "reel": "A"}])
    raw = msgspec.json.decode(item.offer)
    assert raw["executable"].items() >= executable.items()
    assert raw["data"][0].items() >= {"kind": "uri:tape-1", "reel": "A"}.items()


async def test_no_tariff_writes_no_money_and_free_writes_none_at_all() -> None:
    assert document(await Site().offer()).costs is None
    (cost,) = document(await Site(tariff="free").offer()).costs or ()
    assert (cost.type, cost.min, cost.max) == (kinds.MONETARY, 0.0, 0.0)  # type: ignore[attr-defined]


async def test_extras_are_repeated_and_their_room_is_counted() -> None:
    site = Site(capacity={"cores": 8, "memory": 32, "extras": {kinds.GPU: 2}}, offers={"open_share": 1})
    gpu = [{"type": kinds.GPU, "count": 2, "spec": {"memory": "40"}}]
    item = await site.offer(compute=compute({"min": 1}, extras=gpu))
    assert msgspec.json.decode(item.offer)["compute"]["extras"] == gpu
    quotes = await site.declined(compute=compute({"min": 1}, extras=gpu[:1]), schedule=window(site.clock, 0, 60))
    assert quotes.retry_after == 300.0


# ── several offers ───────────────────────────────────────────────────────────────────────────────────────────


async def test_small_now_and_larger_when_there_is_room() -> None:
    site = Site(offers={"open_share": 1, "most": 3})
    busy = await site.offer(compute=compute({"min": 6}))
    await site.accept(busy)
    offers = [document(item) for item in await site.offered(compute=compute({"min": 2, "max": 6}))]
    found = [
        (o.compute.cores.min, o.compute.schedule.available.start.start.timestamp() - site.clock.now())  # type: ignore[union-attr]
        for o in offers
    ]
    assert found == [(2, 0.0), (4, HOUR + MINUTE), (6, HOUR + MINUTE)]


async def test_never_more_than_asked_and_a_word_where_less_can_be_had() -> None:
    offers = [document(item) for item in await Site().offered(compute=compute({"min": 1, "max": 99}))]
    assert [offer.compute.cores.max for offer in offers] == [1, 4, 8]  # type: ignore[union-attr]
    texts = [message.message or "" for message in (offers[0].meta.messages if offers[0].meta else None) or ()]
    assert any("99 asked, the most here is 8" in text for text in texts)


async def test_the_start_lies_in_the_window_that_was_asked_for() -> None:
    site = Site()
    item = await site.offer(schedule=window(site.clock, 2 * HOUR, 600))
    start = document(item).compute.schedule.available.start.start  # type: ignore[union-attr]
    assert start.timestamp() == site.clock.now() + 2 * HOUR


async def test_preparing_is_over_when_the_window_opens() -> None:
    site = Site({"preparing": "PT10M"})
    item = await site.offer(schedule=window(site.clock, 2 * HOUR, 0))
    schedule = msgspec.json.decode(item.offer)["compute"]["schedule"]
    assert schedule["available"]["start"] == f"{format_instant(site.clock.now() + 2 * HOUR)}/PT0S"
    await site.accept(item)
    site.clock.advance(2 * HOUR - 10 * MINUTE)
    assert await site.phase(item) == "PREPARING"
    site.clock.advance(10 * MINUTE)
    assert await site.phase(item) == "RUNNING"


@pytest.mark.parametrize(
    ("opens", "rule", "nearest"),
    [(-2 * HOUR, "window", "a start until "), (25 * HOUR, "look_ahead", "a start until ")],
)
async def test_a_window_out_of_reach_is_declined_with_the_nearest_yes(opens: float, rule: str, nearest: str) -> None:
    site = Site()
    (reason,) = (await site.declined(schedule=window(site.clock, opens, 60))).reasons
    assert (reason.rule, reason.element) == (rule, "schedule.requested.start")
    assert reason.nearest.startswith(nearest)


async def test_an_offer_expires_so_early_that_its_start_stays_in_the_window() -> None:
    site = Site()
    item = await site.offer(schedule=window(site.clock, 0, 120))
    expires = document(item).expires
    assert expires is not None
    assert expires.timestamp() == site.clock.now() + 120
    assert (await site.declined(schedule=window(site.clock, 0, 5))).reasons[0].rule == "window"


async def test_no_room_in_the_window_names_the_next_start() -> None:
    site = Site(offers={"open_share": 1})
    await site.accept(await site.offer(compute=compute({"min": 8})))
    quotes = await site.declined(schedule=window(site.clock, 0, 60))
    (reason,) = quotes.reasons
    assert reason.rule == "room"
    assert reason.nearest == f"a start at {format_instant(site.clock.now() + HOUR + MINUTE)}"
    assert quotes.retry_after is None


async def test_every_refusal_comes_at_once() -> None:
    site = Site(policies={"deny": [{"element": "executable.image.locations"}], "ceilings": {"cores": 4}})
    quotes = await site.declined(compute=compute({"min": 5}, {"min": 64}))
    assert [reason.element for reason in quotes.reasons] == [
        "executable.image.locations[0]",
        "compute.cores.min",
        "compute.memory.min",
    ]


# ── what open offers hold ────────────────────────────────────────────────────────────────────────────────────


async def test_open_offers_hold_half_the_room_and_then_a_time_to_retry_is_named() -> None:
    site = Site(offers={"look_ahead": "PT30M"})
    for _ in range(2):
        await site.offer(cores=2)
        site.clock.advance(10)
    quotes = await site.declined(cores=2)
    assert [reason.rule for reason in quotes.reasons] == ["open_share"]
    assert quotes.retry_after == 280.0
    site.clock.advance(280.0)
    await site.offer(cores=2)


async def test_accepting_leaves_the_open_half_to_others() -> None:
    site = Site(offers={"look_ahead": "PT30M"})
    await site.accept(await site.offer(cores=4))
    await site.offer(cores=4)


async def test_offers_of_one_set_exclude_each_other_and_charge_their_maximum() -> None:
    site = Site(offers={"look_ahead": "PT30M", "most": 3})
    offers = await site.offered(compute=compute({"min": 1, "max": 3}))
    assert len(offers) == 3  # 1, 2 and 3 cores: 3 of the 4 that may be held, not 6
    await site.offer(cores=1)
    await site.declined(cores=1)


async def test_one_offer_of_a_set_is_taken_and_the_next_only_when_that_was_refused() -> None:
    site = Site()
    first, second = await site.offered(compute=compute({"min": 1, "max": 2}))
    site.platform.trouble = SiteRefused("no.")
    with pytest.raises(SiteRefused):
        await site.accept(first)
    site.platform.trouble = None
    assert (await site.accept(second)).phase == "RUNNING"
    for late in await site.offered(msgspec.structs.replace(site.ask(), set=second.set)):
        with pytest.raises(SiteRefused, match="same set") as caught:
            await site.accept(late)
        assert caught.value.proof
    assert site.platform.executed == [second.session]


async def test_more_than_may_be_held_is_offered_without_holding_it() -> None:
    site = Site(offers={"look_ahead": "PT30M"})
    large, second = await site.offer(cores=6), await site.offer(cores=6)
    assert document(large).reserved is False
    assert await site.charged() == []
    assert (await site.accept(large)).phase == "RUNNING"
    with pytest.raises(SiteRefused, match="held no room") as caught:
        await site.accept(second)
    assert caught.value.proof
    assert site.platform.executed == [large.session]


async def test_a_release_frees_the_room_at_once() -> None:
    site = Site(offers={"look_ahead": "PT30M"})
    offers = await site.offered(compute=compute({"min": 2, "max": 4}))
    await site.declined(cores=4)
    for _ in range(2):
        await site.planner.release(offers, site.deadline)
    assert await site.charged() == []
    assert await site.phase(offers[0]) == "EXPIRED"
    await site.offer(cores=4)


async def test_releasing_a_taken_offer_changes_nothing() -> None:
    site = Site()
    item = await site.offer()
    await site.accept(item)
    await site.planner.release([item], site.deadline)
    assert (await site.planner.update(item, "REJECTED", site.deadline)).phase == "RUNNING"
    assert await site.phase(item) == "RUNNING"


# ── quotas ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_user_has_so_many_open_sets_and_a_set_counts_once() -> None:
    site = Site(policies={"quotas": {"offers": 1}}, offers={"look_ahead": "PT2H", "open_share": 1})
    offers = await site.offered(compute=compute({"min": 1, "max": 3}))
    quotes = await site.declined(cores=1)
    assert (quotes.reasons[0].rule, quotes.retry_after) == ("quota", 300.0)
    await site.offer(cores=1, user=Owner("here", "bob"))
    await site.planner.release(offers[:1], site.deadline)
    await site.declined(cores=1)
    await site.planner.release(offers[1:], site.deadline)
    accepted = await site.offer(cores=1)
    await site.accept(accepted)  # decided, so it is open no more
    await site.offer(cores=1)


async def test_a_no_does_not_count_as_an_open_set() -> None:
    site = Site(policies={"quotas": {"offers": 1}})
    await site.accept(await site.offer(cores=8))
    await site.declined(schedule=window(site.clock, 0, 60))
    await site.offer()


async def test_a_batch_counts_once_and_has_a_ceiling_of_its_own() -> None:
    site, batch = Site(policies={"quotas": {"offers": 1, "batch": 2}}), uuid4()
    await site.declined(batch=batch, schedule=window(site.clock, 0, 0))
    await site.offer(cores=1)  # the batch that got nothing counts no more
    site.clock.advance(5 * MINUTE)
    for _ in range(2):
        await site.offer(cores=1, batch=batch)
    assert [reason.rule for reason in (await site.declined(cores=1, batch=batch)).reasons] == ["quota"]
    assert [reason.rule for reason in (await site.declined(cores=1)).reasons] == ["quota"]
    site.clock.advance(5 * MINUTE)
    await site.offer(cores=1)


async def test_a_user_has_so_many_running_sessions() -> None:
    site = Site(policies={"quotas": {"running": 1}})
    first, second = await site.offer(), await site.offer()
    await site.accept(first)
    with pytest.raises(SiteRefused, match="quota"):
        await site.accept(second)
    assert [reason.rule for reason in (await site.declined()).reasons] == ["quota"]
    site.clock.advance(30 * MINUTE)
    assert await site.phase(first) == "COMPLETED"
    await site.accept(await site.offer())


async def test_a_refused_acceptance_does_not_count_as_running() -> None:
    site = Site(policies={"quotas": {"running": 1}})
    item = await site.offer(cores=6)
    await site.accept(await site.offer(cores=6, user=Owner("here", "bob")))
    with pytest.raises(SiteRefused, match="no room"):
        await site.accept(item)
    await site.accept(await site.offer(cores=2))


# ── accepting ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_accepting_twice_at_once_and_later_is_accepting_once() -> None:
    site = Site()
    item = await site.offer()
    seen = await asyncio.gather(*(site.accept(item) for _ in range(5)), site.restarted().accept(item, site.deadline))
    assert {one.phase for one in seen} == {"RUNNING"}
    site.clock.advance(31 * MINUTE)
    assert (await site.accept(item)).phase == "COMPLETED"
    assert site.platform.executed == [item.session]


async def test_after_its_expiry_an_offer_is_refused_and_reads_expired() -> None:
    site = Site()
    item = await site.offer()
    assert await site.phase(item) == "OFFERED"
    site.clock.advance(300.0)
    with pytest.raises(SiteRefused, match="expired at") as caught:
        await site.accept(item)
    assert caught.value.proof
    assert await site.phase(item) == "EXPIRED"
    assert site.platform.executed == []


async def test_once_read_expired_it_is_gone_even_for_a_clock_that_is_behind() -> None:
    site = Site()
    item = await site.offer()
    site.clock.advance(301.0)
    assert await site.phase(item) == "EXPIRED"
    site.clock.jump(-200.0)
    with pytest.raises(SiteRefused):
        await site.accept(item)


async def test_taken_up_at_its_last_moment_it_still_has_its_whole_time() -> None:
    site = Site({"run": "PT59M"})
    item = await site.offer()
    site.clock.advance(299.0)
    await site.accept(item)
    assert await site.charged() == [(0.0, HOUR + MINUTE)]
    site.clock.advance(59 * MINUTE)
    assert await site.phase(item) == "COMPLETED"


async def test_a_later_slot_waits_and_another_process_starts_it_when_it_is_due() -> None:
    site = Site()
    item = await site.offer(schedule=window(site.clock, 2 * HOUR, 0))
    seen = await site.accept(item)
    assert (seen.phase, seen.next_look) == ("WAITING", site.clock.now() + 2 * HOUR)
    site.planner = site.restarted()
    assert await site.phase(item) == "WAITING"
    assert site.platform.executed == []
    site.clock.advance(2 * HOUR)
    assert await site.phase(item) == "RUNNING"
    site.clock.advance(30 * MINUTE)
    assert await site.phase(item) == "COMPLETED"
    assert site.platform.executed == [item.session]


async def test_a_cancelled_wait_is_never_started() -> None:
    site = Site()
    item = await site.offer(schedule=window(site.clock, 2 * HOUR, 0))
    await site.accept(item)
    assert (await site.planner.update(item, "CANCELLED", site.deadline)).phase == "CANCELLED"
    assert await site.charged() == []
    site.clock.advance(2 * HOUR)
    assert await site.phase(item) == "CANCELLED"
    assert (await site.accept(item)).phase == "CANCELLED"
    assert site.platform.executed == []


@pytest.mark.parametrize("missed", [2 * HOUR + 3 * MINUTE, 2 * HOUR + 50 * MINUTE, 30 * HOUR])
async def test_a_slot_that_nobody_was_there_to_start_is_moved_not_lost(missed: float) -> None:
    site = Site(offers={"open_share": 1})
    item = await site.offer(cores=8, schedule=window(site.clock, 2 * HOUR, 0))
    await site.accept(item)
    site.clock.advance(missed)
    site.planner = site.restarted()
    assert await site.phase(item) == "RUNNING"
    assert await site.charged() == [(0.0, HOUR + MINUTE)]
    assert site.platform.executed == [item.session]


async def test_an_acceptance_is_kept_even_where_the_site_has_shrunk() -> None:
    site = Site()
    item = await site.offer(cores=4, schedule=window(site.clock, 2 * HOUR, 0))
    await site.accept(item)
    site.settings = site_settings({"capacity": {"cores": 2, "memory": 32}})
    site.planner = site.restarted()
    site.clock.advance(3 * HOUR)
    assert await site.phase(item) == "RUNNING"


async def test_a_missed_slot_waits_where_others_have_the_room_now() -> None:
    site = Site(offers={"open_share": 1})
    item = await site.offer(cores=8, schedule=window(site.clock, 1 * HOUR, 0, "PT30M"))
    await site.accept(item)
    other = await site.offer(cores=8, schedule=window(site.clock, 2 * HOUR, 0))
    await site.accept(other)
    site.clock.advance(2 * HOUR + 1)
    assert await site.phase(other) == "RUNNING"
    seen = await site.look(item)
    assert isinstance(seen, Sighting)
    assert (seen.phase, seen.next_look) == ("WAITING", site.clock.now() - 1 + HOUR + MINUTE)
    site.clock.advance(HOUR + MINUTE)
    assert await site.phase(other) == "COMPLETED"
    assert await site.phase(item) == "RUNNING"


# ── trouble in between ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("acts", [False, True])
async def test_a_start_without_an_answer_is_finished_by_looking(acts: bool) -> None:
    site = Site()
    item = await site.offer()
    site.platform.trouble, site.platform.acts = SiteTimeout("no answer."), acts
    with pytest.raises(SiteTimeout) as caught:
        await site.accept(item)
    assert not caught.value.proof
    site.platform.trouble = None
    site.planner = site.restarted()
    assert await site.phase(item) == "RUNNING"
    assert (await site.accept(item)).phase == "RUNNING"
    assert site.platform.executed == [item.session]


async def test_the_first_surely_failed_start_gives_the_room_back_with_proof() -> None:
    site = Site()
    item = await site.offer()
    site.platform.trouble = SiteBusy("full.")
    with pytest.raises(SiteBusy) as caught:
        await site.accept(item)
    assert caught.value.proof
    assert await site.charged() == []
    site.platform.trouble = None
    assert await site.phase(item) == "EXPIRED"
    assert site.platform.executed == []


async def test_a_repeated_start_that_fails_proves_nothing() -> None:
    site = Site()
    item = await site.offer()
    site.platform.trouble, site.platform.acts = SiteTimeout("no answer."), True
    with pytest.raises(SiteTimeout):
        await site.accept(item)
    site.platform.trouble, site.platform.acts = SiteRefused("no."), False
    with pytest.raises(SiteMisbehaved) as caught:
        await site.accept(item)
    assert not caught.value.proof
    assert await site.phase(item) == "RUNNING"


async def test_a_due_job_that_the_platform_refuses_has_failed_and_frees_its_room() -> None:
    site = Site()
    item = await site.offer(schedule=window(site.clock, 2 * HOUR, 0))
    await site.accept(item)
    site.clock.advance(2 * HOUR)
    site.platform.trouble = SiteUnreachable("away.")
    seen = await site.look(item)
    assert isinstance(seen, Sighting)
    assert (seen.phase, seen.messages) == ("WAITING", ("not started yet: away.",))
    site.platform.trouble = SiteRefused("its source is gone.")
    assert await site.phase(item) == "FAILED"
    assert await site.charged() == []


async def test_a_confirmed_start_is_never_repeated_even_if_the_platform_forgets() -> None:
    site = Site()
    item = await site.offer()
    await site.accept(item)
    site.platform.forgets = True
    assert await site.phase(item) == "SiteForgot"
    site.clock.advance(8 * 24 * HOUR)
    assert await site.phase(item) == "SiteForgot"
    with pytest.raises(SiteForgot):
        await site.accept(item)
    assert site.platform.executed == [item.session]


async def test_a_calendar_that_fails_after_the_start_is_no_refusal() -> None:
    site = Site()
    item = await site.offer()

    class Failing(Platform):
        async def start(self, job: Job, deadline: Deadline) -> Sighting:
            seen = await super().start(job, deadline)
            site.calendar.broken = True
            return seen

    site.platform = Failing(site.options, site.calendar, site.clock)
    site.planner = site.restarted()
    assert (await site.accept(item)).phase == "RUNNING"
    site.calendar.broken = False
    assert await site.phase(item) == "RUNNING"
    assert site.platform.executed == [item.session]


async def test_a_calendar_out_of_order_is_a_site_out_of_reach() -> None:
    site = Site()
    item = await site.offer()
    site.calendar.broken = True
    for call in (site.planner.quote(site.ask()), site.accept(item), site.planner.status([item], site.deadline)):
        with pytest.raises(SiteUnreachable) as caught:
            await call
        assert caught.value.proof
    site.calendar.broken = False
    assert (await site.accept(item)).phase == "RUNNING"


async def test_a_lost_race_is_run_again_and_not_for_ever() -> None:
    site = Site()
    site.calendar.losing = 5
    item = await site.offer()
    site.calendar.losing = 5
    assert (await site.accept(item)).phase == "RUNNING"
    site.calendar.losing = 1000
    with pytest.raises(SiteBusy):
        await site.planner.quote(site.ask())
    site.calendar.losing = 0
    assert await site.limits.members("offers|alba|here|alice") == frozenset()


async def test_many_quotes_at_once_from_two_processes_keep_to_the_rules() -> None:
    site = Site(offers={"look_ahead": "PT30M"}, policies={"quotas": {"offers": 100}})
    planners = [site.planner, site.restarted()]
    answers = await asyncio.gather(*(planners[i % 2].quote(site.ask(cores=1)) for i in range(20)))
    assert sum(bool(answer.quotes) for answer in answers) == 4


async def test_bytes_that_are_no_offer_of_ours_are_refused_with_proof() -> None:
    site = Site()
    item = await site.offer()
    for junk in (b"", b"{}", b"\xff", b'{"kind": 3}'):
        broken = msgspec.structs.replace(item, offer=junk)
        with pytest.raises(SiteRefused) as caught:
            await site.accept(broken)
        assert caught.value.proof
        assert await site.phase(broken) == "SiteForgot"


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_ends_early_frees_the_rest_and_is_billed_for_what_it_used() -> None:
    site = Site(tariff={"core_hour": {"min": 0.8, "max": 1.2}})
    item = await site.offer(cores=4)
    await site.accept(item)
    assert len(await site.charged()) == 1
    site.clock.advance(30 * MINUTE)
    seen = await site.look(item)
    assert isinstance(seen, Sighting)
    assert (seen.phase, seen.cost, seen.currency) == ("COMPLETED", 2.0, "EUR")
    assert await site.charged() == []


async def test_cancelling_a_run_frees_the_rest_and_is_billed_until_then() -> None:
    site = Site(tariff={"core_hour": 1})
    item = await site.offer(cores=4)
    await site.accept(item)
    site.clock.advance(15 * MINUTE)
    for _ in range(2):
        seen = await site.planner.update(item, "CANCELLED", site.deadline)
        assert (seen.phase, seen.cost) == ("CANCELLED", 1.0)
    assert await site.charged() == []


async def test_cancelling_an_open_offer_ends_it() -> None:
    site = Site()
    item = await site.offer()
    assert (await site.planner.update(item, "CANCELLED", site.deadline)).phase == "CANCELLED"
    with pytest.raises(SiteRefused):
        await site.accept(item)


async def test_a_rejection_beats_a_later_acceptance() -> None:
    site = Site()
    item = await site.offer()
    assert (await site.planner.update(item, "REJECTED", site.deadline)).phase == "REJECTED"
    with pytest.raises(SiteRefused):
        await site.accept(item)
    assert site.platform.executed == []


async def test_what_overruns_keeps_its_room() -> None:
    site = Site({"run": "PT1H", "releasing": "PT3H"}, offers={"open_share": 1})
    item = await site.offer(cores=8)
    await site.accept(item)
    site.clock.advance(2 * HOUR)  # longer than planned, and nobody looked when the booking ended
    assert await site.phase(item) == "RELEASING"
    assert await site.charged() == [(0.0, MINUTE)]
    await site.declined(schedule=window(site.clock, 0, 30))


async def test_nothing_is_remembered_of_what_has_ended() -> None:
    site = Site()
    item = await site.offer()
    await site.accept(item)
    site.clock.advance(HOUR)
    await site.look(item)
    assert site.calendar.all("alba") == ()


async def test_an_acceptance_nobody_followed_is_forgotten_at_last() -> None:
    site = Site()
    item = await site.offer()
    await site.accept(item)
    site.clock.advance(REMEMBERED + 2 * HOUR)
    assert (await site.calendar.read("alba", site.clock.now())).bookings == ()


# ── the profile, and platforms with a queue of their own ─────────────────────────────────────────────────────


async def test_the_profile_says_what_one_request_can_have() -> None:
    site = Site(
        capacity={"cores": 8, "memory": 32, "extras": {kinds.GPU: 2}},
        policies={"ceilings": {"cores": 4, "duration": "PT3H"}},
        country="CH",
        storages=[{"name": "RSE1", "prefixes": ["https://data.example/"]}],
        tariff={"core_hour": 1, "currency": "CHF"},
    )
    profile = await site.planner.describe(site.deadline)
    assert (profile.platform, profile.cores, profile.memory, profile.extras) == ("simulated", 4, 32, {kinds.GPU: 2})
    assert (profile.countries, profile.origins, profile.currency) == (("CH",), ("alba",), "CHF")
    assert profile.duration is not None
    assert profile.duration.total_seconds() == 3 * HOUR
    assert [storage.name for storage in profile.storages] == ["RSE1"]
    assert (profile.reserves, profile.repeatable, profile.batches, profile.simulated) == (True, True, True, True)


async def test_a_platform_with_a_queue_of_its_own_gives_estimates_and_holds_nothing() -> None:
    site = Site({"queue": "PT20M"})
    item = await site.offer(cores=8)
    offer = document(item)
    assert offer.reserved is False
    assert offer.expires is not None
    assert offer.expires.timestamp() == site.clock.now() + 1800
    assert offer.compute.schedule.available.start.start.timestamp() == site.clock.now() + 1200  # type: ignore[union-attr]
    assert await site.charged() == []
    second = await site.offer(cores=8)
    assert (await site.accept(item)).phase == "WAITING"
    assert (await site.accept(second)).phase == "WAITING"
    site.clock.advance(20 * MINUTE)
    assert [await site.phase(one) for one in (item, second)] == ["RUNNING", "RUNNING"]
    assert await site.charged() == []


async def test_a_queue_that_does_not_say_how_long_it_is_is_taken_to_be_as_long_as_the_operator_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def nothing(*_: Any) -> None:
        return None

    monkeypatch.setattr(SimulatedPlatform, "estimate", nothing)
    site = Site({"queue": "PT20M"}, offers={"wait": "PT2H"})
    offer = document(await site.offer())
    start = offer.compute.schedule.available.start  # type: ignore[union-attr]
    assert start.start.timestamp() == site.clock.now()  # type: ignore[union-attr]
    assert start.end.timestamp() == site.clock.now() + 2 * HOUR  # type: ignore[union-attr]
    said = [item.message for item in offer.meta.messages]  # type: ignore[union-attr]
    assert any("does not say when a job would start; it is taken to wait PT2H" in (text or "") for text in said)


async def test_a_queue_longer_than_the_window_is_a_no() -> None:
    site = Site({"queue": "PT2H"})
    (reason,) = (await site.declined(schedule=window(site.clock, 0, 600))).reasons
    assert reason.rule == "queue"


async def test_what_the_platform_says_it_was_given_is_never_started_again() -> None:
    """Though the broker died before it could note that, and the platform knows nothing of it later."""
    site = Site()
    item = await site.offer()
    site.platform.trouble, site.platform.acts = SiteTimeout("no answer"), True
    with pytest.raises(SiteTimeout):
        await site.accept(item)
    site.platform.trouble = None
    shown: dict[UUID, Sighting | SiteError] = {item.session: Unseen("it does not show it now.")}
    started: list[Job] = []

    async def status(jobs: Sequence[Job], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        return shown

    async def start(job: Job, deadline: Deadline) -> Sighting:
        started.append(job)
        return Sighting("RUNNING")

    site.platform.status, site.platform.start = status, start  # type: ignore[method-assign]
    assert await site.phase(item) == "Unseen"
    shown[item.session] = SiteForgot("never heard of it.")
    assert await site.phase(item) == "SiteForgot"
    assert not started
