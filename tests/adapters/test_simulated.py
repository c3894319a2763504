"""The pretended platform: as its plugin makes it, on the real SQLite calendar, through restarts and faults."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from adapters.simulated.adapter import plugin
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.site import Registration
from broker.errors import SettingsError, SiteError, SiteForgot, SiteRefused, SiteTimeout
from broker.plugins import Resources, load
from broker.ports import Logs, Order, Planner, Sighting
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.asks import ask, order
from broker.testing.clock import FakeClock

MINUTE = 60.0


class Site:
    def __init__(self, store: SqliteStore, clock: FakeClock) -> None:
        self.store, self.clock = store, clock
        self.planner: Planner = self.make()

    def make(self, settings: Mapping[str, Any] | None = None, name: str = "rehearsal", **options: Any) -> Planner:
        resources = Resources(
            registration=Registration(name=name, kind="simulated", country="IT"),
            calendar=self.store.calendar,
            limits=self.store.limits,
            clock=self.clock,
            http=None,  # type: ignore[arg-type]
            credentials=None,
            name="broker",
            broker_id="us",
            currency="EUR",
            site_settings=settings or {"tariff": "free"},
        )
        self.planner = plugin.make(plugin.options.model_validate(options), resources)
        return self.planner

    @property
    def deadline(self) -> Deadline:
        return Deadline.after(5.0, self.clock.monotonic())

    async def offer(self, **request: Any) -> Order:
        asked = ask(self.clock, **request)
        quotes = await self.planner.quote(asked)
        return order(quotes.quotes[0], set=asked.set)

    async def accepted(self, **request: Any) -> Order:
        item = await self.offer(**request)
        await self.planner.accept(item, self.deadline)
        return item

    async def look(self, item: Order) -> Sighting:
        seen = (await self.planner.status([item], self.deadline))[item.session]
        assert isinstance(seen, Sighting), seen
        return seen


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def site(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Site]:
    store = await open_sqlite(tmp_path / "broker.db", clock)
    yield Site(store, clock)
    await store.close()


async def outcome(site: Site, item: Order) -> str:
    site.clock.advance(2 * 3600.0)
    return (await site.look(item)).phase


def test_it_is_found_by_its_entry_point() -> None:
    assert load()["simulated"] is plugin
    assert plugin.plans


@pytest.mark.parametrize(
    "kind", ["https://example.org/kinds/executable/warp-drive.yaml", "uri:python-program-1.0", "urn:nothing"]
)
async def test_every_kind_is_taken_and_said_to_be_pretended(site: Site, kind: str) -> None:
    item = await site.offer(executable={"kind": kind, "plan": [1, 2]})
    raw = msgspec.json.decode(item.offer)
    assert raw["executable"]["kind"] == kind
    assert raw["simulated"] is True
    assert "nothing really runs" in raw["meta"]["messages"][0]["message"]
    profile = await site.planner.describe(site.deadline)
    assert (profile.simulated, profile.platform, profile.countries) == (True, "simulated", ("IT",))


async def test_a_run_goes_through_its_phases_and_every_one_says_that_it_pretends(site: Site, clock: FakeClock) -> None:
    site.make(preparing="PT2M", run="PT10M", releasing="PT1M")
    item = await site.offer()
    began = clock.now() + 2 * MINUTE
    seen = [await site.planner.accept(item, site.deadline)]
    for minutes in (2, 10, 1):
        assert seen[-1].next_look == clock.now() + minutes * MINUTE
        clock.advance(minutes * MINUTE)
        seen.append(await site.look(item))
    assert [one.phase for one in seen] == ["PREPARING", "RUNNING", "RELEASING", "COMPLETED"]
    assert all("nothing really runs here" in one.messages[-1] for one in seen)
    assert [one.began for one in seen] == [None, began, began, began]
    assert (seen[-1].ended, seen[-1].cost, seen[-1].next_look) == (began + 10 * MINUTE, 0.0, None)


def skao_data(name: str, size: int) -> dict[str, Any]:
    replica = {"dataurl": f"https://data.example/{name}"}
    return {"kind": kinds.SKAO_DATA, "skao": {"datasize": size, "replicas": [replica]}}


async def test_data_can_be_pretended_to_be_brought_in(site: Site, clock: FakeClock) -> None:
    site.make(bandwidth=100.0, preparing="PT10S", run="PT10M")
    unsized = {"kind": kinds.SIMPLE_DATA, "location": "https://data.example/c"}
    item = await site.accepted(data=[skao_data("a", 6_000_000_000), skao_data("b", 3_000_000_000), unsized])
    began = clock.now() + 10 + 60 + 30

    def brought(seen: Sighting) -> list[Any]:
        notes = msgspec.json.decode(seen.body or b"{}").get("transfers", [])
        return [(note["url"], note["bytes"], note["seconds"]) for note in notes]

    first, second = ("https://data.example/a", 6e9, 60.0), ("https://data.example/b", 3e9, 30.0)
    shown = []
    for seconds in (60, 15, 25):
        clock.advance(seconds)
        seen = await site.look(item)
        shown.append((seen.phase, brought(seen)))
    assert shown == [("PREPARING", []), ("PREPARING", [first]), ("RUNNING", [first, second])]
    clock.advance(3600)
    site.make()  # what runs was decided when it began
    last = await site.look(item)
    assert (last.phase, last.began, brought(last)) == ("COMPLETED", began, [first, second])


async def test_it_outlives_the_broker(site: Site, clock: FakeClock, tmp_path: Path) -> None:
    site.make(run="PT10M")
    item = await site.accepted()
    await site.store.close()
    site.store = await open_sqlite(tmp_path / "broker.db", clock)
    site.make(run="PT99M")  # what runs was decided when it began
    assert (await site.planner.accept(item, site.deadline)).phase == "RUNNING"
    clock.advance(10 * MINUTE)
    assert (await site.look(item)).phase == "COMPLETED"


async def test_its_length_can_be_a_share_of_what_was_asked(site: Site, clock: FakeClock) -> None:
    site.make(share=0.25)
    item = await site.accepted()
    start = clock.now()
    clock.advance(3600)
    assert (await site.look(item)).ended == start + 900


async def test_longer_than_asked_meets_the_time_limit(site: Site, clock: FakeClock) -> None:
    site.make(share=1.5)
    item = await site.accepted()
    clock.advance(3600)
    seen = await site.look(item)
    assert (seen.phase, seen.messages[0]) == ("FAILED", "the time limit was reached")


async def test_chance_is_drawn_once_for_each_session_by_the_seed(site: Site) -> None:
    site.make({"tariff": "free", "policies": {"quotas": {"offers": 100}}}, fail=0.5, seed=7)
    items = [await site.accepted(cores=1) for _ in range(30)]
    phases = [await outcome(site, item) for item in items]
    assert set(phases) == {"COMPLETED", "FAILED"}
    site.make(fail=0.0)
    assert [(await site.look(item)).phase for item in items] == phases


async def test_a_cancelled_run_stays_cancelled(site: Site, clock: FakeClock) -> None:
    site.make(run="PT10M")
    item = await site.accepted()
    clock.advance(5 * MINUTE)
    cancelled = clock.now()
    for _ in range(2):
        seen = await site.planner.update(item, "CANCELLED", site.deadline)
        assert (seen.phase, seen.ended) == ("CANCELLED", cancelled)
        clock.advance(20 * MINUTE)


async def test_what_is_over_cannot_be_cancelled(site: Site) -> None:
    item = await site.accepted()
    assert await outcome(site, item) == "COMPLETED"
    assert (await site.planner.update(item, "CANCELLED", site.deadline)).phase == "COMPLETED"


async def test_it_hands_back_words_and_one_file(site: Site) -> None:
    item = await site.accepted()
    assert await site.planner.results(item, site.deadline) == ()
    assert await outcome(site, item) == "COMPLETED"
    (result,) = await site.planner.results(item, site.deadline)
    text = b"".join([piece async for piece in site.planner.fetch(item, result.name, site.deadline)])
    assert (result.bytes, result.checksum) == (len(text), f"sha256:{hashlib.sha256(text).hexdigest()}")
    assert b"nothing really runs" in text
    logs = await site.planner.logs(item, site.deadline)
    assert logs == Logs(stdout="simulated: nothing really runs here\n", stderr="")
    with pytest.raises(SiteForgot):
        async for _ in site.planner.fetch(item, "../secret", site.deadline):
            pass


async def test_two_simulated_sites_of_one_broker_do_not_mix(site: Site) -> None:
    item = await site.accepted()
    other = site.make(name="elsewhere")
    assert isinstance((await other.status([item], site.deadline))[item.session], Sighting)  # EXPIRED: not its own
    with pytest.raises(SiteRefused):
        await other.accept(item, site.deadline)


# ── misbehaving ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("trouble", "proof"), [("refuse", True), ("busy", True), ("unreachable", True), ("garbage", False)]
)
async def test_a_start_goes_wrong_as_configured(site: Site, trouble: str, proof: bool) -> None:
    item = await site.offer()
    site.make(faults=[{"call": "start", "trouble": trouble}])
    with pytest.raises(SiteError) as caught:
        await site.planner.accept(item, site.deadline)
    assert caught.value.proof is proof
    site.make()
    assert (await site.look(item)).phase == ("EXPIRED" if proof else "RUNNING")


@pytest.mark.parametrize(
    ("call", "trouble"), [("quote", "hang"), ("start", "hang"), ("start", "lost"), ("status", "lost")]
)
async def test_no_answer_comes_by_the_deadline(site: Site, clock: FakeClock, call: str, trouble: str) -> None:
    item = await site.offer()
    site.make(faults=[{"call": call, "trouble": trouble}])
    calls: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
        "quote": lambda: site.planner.quote(ask(clock)),
        "start": lambda: site.planner.accept(item, site.deadline),
        "status": lambda: site.planner.status([msgspec.structs.replace(item, handle=str(uuid4()))], site.deadline),
    }
    task = asyncio.ensure_future(calls[call]())
    await clock.asleep()
    assert clock.next_wake() == 5.0
    clock.advance(5.0)
    with pytest.raises(SiteTimeout) as caught:
        await task
    assert not caught.value.proof
    site.make()
    if call == "start":
        assert (await site.look(item)).phase == "RUNNING"


async def test_an_answer_comes_late_as_configured(site: Site, clock: FakeClock) -> None:
    site.make(delay={"quote": "PT2S"})
    task = asyncio.ensure_future(site.offer())
    for _ in range(2):  # the quote itself, and the profile that it needs
        await clock.asleep()
        assert clock.next_wake() == 2.0
        clock.advance(2.0)
    assert (await task).handle


async def test_it_forgets_as_configured(site: Site, clock: FakeClock) -> None:
    site.make(run="PT10M", forget_after="PT5M")
    item = await site.accepted()
    clock.advance(4 * MINUTE)
    assert (await site.look(item)).phase == "RUNNING"
    clock.advance(MINUTE)
    assert isinstance((await site.planner.status([item], site.deadline))[item.session], SiteForgot)


# ── settings ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "options",
    [
        {"run": "PT1S", "share": 1.0},
        {"run": "PT0S"},
        {"fail": 2.0},
        {"fualts": []},
        {"faults": [{"call": "offer", "trouble": "hang"}]},
        {"delay": {"quote": "-PT1S"}},
    ],
)
def test_options_that_cannot_hold_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        plugin.options.model_validate(options)


async def test_site_settings_that_cannot_hold_are_refused_when_the_planner_is_made(site: Site) -> None:
    with pytest.raises(SettingsError) as caught:
        site.make({"tariff": "gratis"})
    assert caught.value.key == "tariff"
