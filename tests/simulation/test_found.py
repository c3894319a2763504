"""What the simulation has found, each once more by hand: so that it stays mended when its seed draws something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from broker.domain import offerset
from broker.domain.identity import Owner, new_set
from broker.domain.offerset import Note, SessionRecord, SetRecord
from broker.domain.site import Profile, Registration
from broker.errors import SiteTimeout, SiteUnreachable, Unavailable
from broker.ports import Listing, Store
from broker.services.keys import Keys, Once
from broker.services.upkeep import REFUSED, Upkeep
from broker.store.sqlite import open_sqlite
from broker.testing.bench import ADA, Bench, by_site
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor
from broker.testing.scripted import ScriptedSite, fails, lost

SET = UUID(int=1)
WORDS = Note(0.0, "uri:asked-anew", "", {})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    opened = await open_sqlite(tmp_path / "broker.db", clock, executor=InlineExecutor())
    yield opened
    await opened.close()


def record(*sessions: SessionRecord) -> SetRecord:
    return SetRecord(SET, Owner("here", "ada"), "ada", "", 0.0, ("alba",), sessions=sessions, closed=True)


def offer(number: int, expires: float) -> SessionRecord:
    return SessionRecord(UUID(int=number), "alba", f"h{number}", "alba", expires=expires)


def phases(changed: SetRecord) -> list[str]:
    return [item.phase for item in changed.sessions]


# ── what was shown as EXPIRED stays so ───────────────────────────────────────────────────────────────────────


def test_an_acceptance_leaves_expired_what_has_expired() -> None:
    claimed = offerset.claim(record(offer(2, 100.0), offer(3, 10.0)), UUID(int=2), b"", 5.0)
    assert phases(offerset.accepted(claimed, "ACCEPTED", None, 20.0)) == ["ACCEPTED", "EXPIRED"]


def test_an_expired_offer_that_is_rejected_stays_expired() -> None:
    assert phases(offerset.reject(record(offer(2, 10.0)), UUID(int=2), 20.0)) == ["EXPIRED"]


def test_a_direct_request_that_nobody_took_leaves_expired_what_has_expired() -> None:
    given_up = offerset.give_up(record(offer(2, 10.0), offer(3, 100.0)), UUID(int=4), ["no"], 20.0)
    assert phases(given_up) == ["EXPIRED", "REJECTED", "FAILED"]


async def test_a_record_that_was_long_on_its_way_shows_nothing_as_expired_that_was_not_then(
    store: Store, clock: FakeClock
) -> None:
    bench = await Bench(Slow(store, clock), clock, {"alba": ScriptedSite("alba", clock, lifetime=300.0)}).start()
    state = await bench.ask()
    clock.advance(state.record.sessions[0].expires - clock.now() - 1.0)  # type: ignore[operator] # it has one
    assert [item.phase for item in (await bench.offers.get(state.uuid, ADA)).record.sessions] == ["OFFERED"]


class Slow:
    """A store whose answers to `body` take two seconds."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        self._store, self._clock = store, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def body(self, aggregate: str) -> bytes | None:
        self._clock.advance(2.0)
        return await self._store.body(aggregate)


# ── steps and timers ─────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_site_offers_anew_joins_once_however_often_the_write_is_tried() -> None:
    joined = offerset.requoted(record(offer(2, 10.0)), UUID(int=2), [offer(3, 100.0)], WORDS, 20.0)
    again = offerset.requoted(joined, UUID(int=2), [offer(3, 100.0)], WORDS, 20.0)
    assert [item.uuid.int for item in again.sessions] == [2, 3]


async def test_a_timer_of_expiry_that_comes_too_early_comes_again(store: Store, clock: FakeClock) -> None:
    bench = await Bench(store, clock, {"alba": ScriptedSite("alba", clock)}).start()
    state = await bench.ask()
    key = f"{state.uuid.int & ((1 << 96) - 1):024x}"
    assert await bench.handlers["expire"](key) == state.record.sessions[0].expires


async def test_a_disk_that_is_full_is_not_asked_for_timers_without_a_pause(clock: FakeClock) -> None:
    upkeep = Upkeep(Full(), clock)  # type: ignore[arg-type] # it has what is called
    running = asyncio.create_task(upkeep.run())
    await clock.asleep()
    assert clock.next_wake() == pytest.approx(REFUSED)
    running.cancel()
    await asyncio.wait([running])


class Full:
    """A store that shows a timer overdue, and cannot write."""

    async def claim(self, limit: int, lease: float) -> list[Any]:
        raise Unavailable("the disk is full.")

    async def next_due(self) -> float | None:
        return 0.0


# ── acceptance ───────────────────────────────────────────────────────────────────────────────────────────────


class Between:
    """A store before whose n-th read something else happens, once `meanwhile` is set."""

    meanwhile: Callable[[], Awaitable[Any]] | None = None

    def __init__(self, store: Store, number: int) -> None:
        self._store, self._left = store, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, aggregate: str) -> Any:
        if self.meanwhile is not None:
            self._left -= 1
            if self._left == 0:
                await self.meanwhile()
        return await self._store.read(aggregate)


@pytest.mark.parametrize("repeatable", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
async def test_what_a_slow_worker_finds_of_one_offer_is_not_taken_for_the_next_one(
    store: Store, clock: FakeClock, number: int, repeatable: bool
) -> None:
    """Two withdraw the same offer; the quicker one has gone on to another before the slower one does."""
    alba = ScriptedSite("alba", clock)
    borealis = ScriptedSite("borealis", clock, profile=Profile(repeatable=repeatable), lifetime=3600.0)
    between = Between(store, number)
    bench = await Bench(between, clock, {"alba": alba, "borealis": borealis}).start()  # type: ignore[arg-type] # it has what is called
    other = await Bench(store, clock, {"alba": alba, "borealis": borealis}).start()
    state = await bench.ask(preferences={"failover": True})
    alba.steps["accept"] = [fails(SiteTimeout("silent"))]
    borealis.steps["accept"] = [lost(SiteTimeout("silent"))]
    borealis.steps["status"] = [fails(SiteUnreachable("down"))]
    await bench.accept(by_site(state)["alba"])
    clock.advance(31.0)
    between.meanwhile = lambda: other.acceptance.resolve(key_of(state.uuid))
    await bench.acceptance.resolve(key_of(state.uuid))
    await bench.settle(60.0)
    assert (await bench.record(state.uuid)).taken == by_site(state)["borealis"]
    assert sum(borealis.runs.values()) == 1
    assert sum(alba.runs.values()) == 0


# ── sites ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_offer_whose_site_states_no_expiry_is_given_back_where_offers_end_by_themselves(
    store: Store, clock: FakeClock
) -> None:
    alba = ScriptedSite("alba", clock, lifetime=None)
    bench = await Bench(store, clock, {"alba": alba}, registrations=enforcing("alba")).start()
    await bench.ask()
    await bench.settle(400)
    assert list(alba.phases.values()) == ["REJECTED"]


async def test_nothing_is_sent_again_after_its_expiry(store: Store, clock: FakeClock) -> None:
    """Its worker died before anything was sent; the site takes one session once, and does not look at expiries."""
    alba = ScriptedSite("alba", clock, profile=Profile(repeatable=True))
    bench = await Bench(store, clock, {"alba": alba}).start()
    uuid = by_site(await bench.ask())["alba"]
    alba.steps["accept"] = [fails(SiteUnreachable("down")) for _ in range(1000)]
    alba.steps["status"] = [fails(SiteUnreachable("down"))]
    claimed = await bench.records.load(uuid)
    await bench.records.change(uuid, lambda r: offerset.claim(r, uuid, b"", clock.now(), 30.0))
    clock.advance(400.0)
    alba.steps["accept"].clear()
    await bench.settle(100.0)
    assert claimed.session(uuid).expires is not None
    assert sum(alba.runs.values()) == 0
    assert (await bench.record(uuid)).session(uuid).phase == "REJECTED"


def enforcing(*names: str) -> Mapping[str, Registration]:
    return {name: Registration(name=name, url="http://x/", enforces_expiry=True) for name in names}


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_set_that_the_store_makes_after_it_was_given_up_is_found_by_its_key(
    store: Store, clock: FakeClock
) -> None:
    """A store's answer may be lost, and what was sent done later than the key was let go."""
    keys, late = Keys(store, clock), []

    async def act(uuid: UUID) -> UUID:
        late.append(uuid)
        raise Unavailable("no answer in time.")

    async def show(uuid: UUID) -> UUID:
        return uuid if await store.read(key_of(uuid)) else await act(uuid)

    with pytest.raises(Unavailable):
        await keys.once(asked(1), act, show)
    await store.write(key_of(late[0]), 0, b"made", listings=[Listing("offerset", str(late[0]), "", 0.0)])
    assert await keys.once(asked(2), act, show) == late[0]


def key_of(uuid: UUID) -> str:
    return f"{uuid.int & ((1 << 96) - 1):024x}"


def asked(head: int) -> Once:
    return Once(ADA, "POST /requests", "k", b"asked", new_set(bytes([head]) * 16))
