"""The judge is judged: brokers with one fault each, planted here, are caught, and by the invariant that they break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.domain import offerset
from broker.domain.deadline import Deadline
from broker.domain.offerset import SetRecord
from broker.domain.session import known
from broker.errors import SiteError
from broker.ports import Order, Sighting
from broker.services import acceptance, fanout, forwarding, offers, records, releasing, rights, sessions, upkeep
from broker.services.guard import GuardedPlanner
from broker.services.keys import Keys, Once
from broker.testing.simulation.checker import Breach, judge
from broker.testing.simulation.run import Ground, ground, simulate

MOST = 150  # histories until a planted fault must have been caught

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def here() -> Iterator[Ground]:
    with ground() as found:
        yield found


def caught(here: Ground, invariant: int) -> Breach | None:
    """The first breach of that invariant, in the first histories."""
    for seed in range(MOST):
        for breach in judge(simulate(seed, here).case()):
            if breach.invariant == invariant:
                return breach
    return None


# ── brokers with a fault ─────────────────────────────────────────────────────────────────────────────────────


def takes_silence_for_a_no(patch: pytest.MonkeyPatch) -> None:
    """A time-out is taken for a refusal, and the next offer is accepted."""
    patch.setattr(SiteError, "proof", True)


def sends_again_blindly(patch: pytest.MonkeyPatch) -> None:
    sends_once = GuardedPlanner.accept

    async def accept(self: GuardedPlanner, order: Order, deadline: Deadline) -> Sighting:
        try:
            return await sends_once(self, order, deadline)
        except SiteError:
            return await sends_once(self, order, deadline)

    patch.setattr(GuardedPlanner, "accept", accept)


def tells_before_it_is_durable(patch: pytest.MonkeyPatch) -> None:
    """A record that holds an acceptance is written when there is time, and told at once."""
    writes = records.Records._write

    async def write(self: records.Records, record: SetRecord, version: int, **rest: Any) -> bool:
        if record.taken is None:
            return await writes(self, record, version, **rest)
        await asyncio.sleep(0)
        asyncio.get_running_loop().create_task(later(self, record, version, **rest))
        return True

    async def later(self: records.Records, record: SetRecord, version: int, **rest: Any) -> None:
        await asyncio.sleep(5.0)
        await writes(self, record, version, **rest)

    patch.setattr(records.Records, "_write", write)


def forgets_what_it_holds(patch: pytest.MonkeyPatch) -> None:
    """No timer comes for what is to be given back."""
    derives = offerset.timers

    def timers(record: SetRecord) -> dict[str, float]:
        return {key: due for key, due in derives(record).items() if key != "release"}

    patch.setattr(offerset, "timers", timers)


def takes_a_failed_release_for_done(patch: pytest.MonkeyPatch) -> None:
    async def at(self: releasing.Releasing, site: str, record: SetRecord, items: list[Any]) -> list[UUID]:
        return [item.uuid for item in items]

    patch.setattr(releasing.Releasing, "_at", at)


def knows_no_expiry(patch: pytest.MonkeyPatch) -> None:
    derives = offerset.timers

    def timers(record: SetRecord) -> dict[str, float]:
        return {key: due for key, due in derives(record).items() if key != "expire"}

    patch.setattr(offerset, "timers", timers)
    patch.setattr(offerset, "acceptable", lambda item, now: item.phase == "OFFERED" and not item.excluded)


def leaves_a_site_out(patch: pytest.MonkeyPatch) -> None:
    """Who says nothing is not in the answer."""
    joins = offerset.join

    def join(record: SetRecord, answers: Mapping[str, Any], now: float) -> SetRecord:
        joined = joins(record, answers, now)
        outcomes = {site: line for site, line in joined.outcomes.items() if line.outcome != "TimedOut"}
        return replace(joined, outcomes=outcomes)

    patch.setattr(offerset, "join", join)


def gives_no_reason(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(offerset, "texts", lambda reasons: ())


def believes_every_phase(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(offerset.phases, "forward", lambda now, seen: known(seen) and now != seen)


def lets_everybody(patch: pytest.MonkeyPatch) -> None:
    for module in (rights, offers, sessions):
        patch.setattr(module, "must_read", lambda *_: None)
    patch.setattr(acceptance, "must_change", lambda *_: None)


def logs_what_it_gets(patch: pytest.MonkeyPatch) -> None:
    judges = forwarding.Forwarding._judge

    async def judge_(self: forwarding.Forwarding, record: SetRecord, sighting: Sighting, why: str) -> SetRecord:
        forwarding._log.info("answered", body=sighting.body)
        return await judges(self, record, sighting, why)

    patch.setattr(forwarding.Forwarding, "_judge", judge_)


def gives_a_timer_up(patch: pytest.MonkeyPatch) -> None:
    """A timer whose handler failed is done with."""
    handles = upkeep.Upkeep.handle

    def careless(handler: Callable[[str], Awaitable[float | None]]) -> Callable[[str], Awaitable[float | None]]:
        async def handle(key: str) -> float | None:
            await handler(key)
            return None

        return handle

    def handle(self: upkeep.Upkeep, handlers: Mapping[str, Any]) -> None:
        handles(self, {key: careless(handler) for key, handler in handlers.items()})

    patch.setattr(upkeep.Upkeep, "handle", handle)


def lets_one_site_spoil_all(patch: pytest.MonkeyPatch) -> None:
    asks = fanout.Fanout.ask

    async def ask(self: fanout.Fanout, *args: Any, **kwargs: Any) -> dict[str, Any]:
        outcomes = await asks(self, *args, **kwargs)
        bad = next((o for o in outcomes.values() if isinstance(o, fanout.TimedOut | fanout.Failed)), None)
        return outcomes if bad is None else dict.fromkeys(outcomes, bad)

    patch.setattr(fanout.Fanout, "ask", ask)


def raises_what_nobody_foresaw(patch: pytest.MonkeyPatch) -> None:
    async def expire(self: releasing.Releasing, key: str) -> float | None:
        raise KeyError(key)

    patch.setattr(releasing.Releasing, "expire", expire)


def hears_no_key(patch: pytest.MonkeyPatch) -> None:
    async def once(self: Keys, once: Once, act: Callable[[UUID], Awaitable[Any]], show: Any) -> Any:
        return await act(once.uuid)

    patch.setattr(Keys, "once", once)


def shows_what_was_read_long_ago(patch: pytest.MonkeyPatch) -> None:
    """A reader is shown what the replica knew at its first look."""
    loads = records.Records.load
    seen: dict[tuple[int, UUID], SetRecord] = {}

    async def load(self: records.Records, uuid: UUID) -> SetRecord:
        record = await loads(self, uuid)
        if asyncio.current_task() is None or record.taken is None:
            seen.setdefault((id(self), record.uuid), record)
        return seen.get((id(self), record.uuid), record)

    patch.setattr(records.Records, "load", load)


PLANTED: list[tuple[Plant, int]] = [
    (takes_silence_for_a_no, 1),
    (tells_before_it_is_durable, 2),
    (sends_again_blindly, 3),
    (forgets_what_it_holds, 4),
    (takes_a_failed_release_for_done, 4),
    (knows_no_expiry, 5),
    (leaves_a_site_out, 6),
    (gives_no_reason, 6),
    (believes_every_phase, 7),
    (shows_what_was_read_long_ago, 7),
    (lets_everybody, 8),
    (logs_what_it_gets, 9),
    (gives_a_timer_up, 10),
    (lets_one_site_spoil_all, 10),
    (raises_what_nobody_foresaw, 10),
    (hears_no_key, 0),
]


@pytest.mark.parametrize(("plant", "invariant"), PLANTED, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_planted_fault_is_caught(plant: Plant, invariant: int, here: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught(here, invariant) is not None
