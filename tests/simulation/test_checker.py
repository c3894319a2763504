"""The judge is judged: brokers with one fault each, planted here, are caught, and by the rule that they break."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from broker.domain import offerset
from broker.domain.deadline import Deadline
from broker.domain.offerset import SessionRecord, SetRecord
from broker.domain.session import known
from broker.domain.setbody import SetBody
from broker.errors import SiteError
from broker.ports import Order, Sighting
from broker.services import (
    acceptance,
    doubts,
    fanout,
    forwarding,
    offers,
    orphans,
    records,
    releasing,
    requoting,
    rights,
    sessions,
    upkeep,
    watching,
)
from broker.services.guard import GuardedPlanner
from broker.services.keys import Keys, Once
from broker.testing.simulation import checker
from broker.testing.simulation.checker import RULES, Breach, Rule, judge
from broker.testing.simulation.run import Ground, ground, simulate

MOST = 300  # histories until a planted fault must have been caught

Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def here() -> Iterator[Ground]:
    with ground() as found:
        yield found


def caught(here: Ground, rule: Rule) -> Breach | None:
    """The first breach of that rule, in the first histories."""
    for seed in range(MOST):
        for breach in judge(simulate(seed, here).case()):
            if breach.rule == rule.__name__:
                return breach
    return None


# ── brokers with a fault ─────────────────────────────────────────────────────────────────────────────────────


def lets_two_be_accepted(patch: pytest.MonkeyPatch) -> None:
    """Whoever comes second does not see that another offer is being accepted."""
    claims = offerset.claim

    def claim(record: SetRecord, uuid: UUID, *rest: Any) -> SetRecord:
        other = record.claim is not None and record.claim.session != uuid
        return claims(replace(record, claim=None) if other else record, uuid, *rest)

    patch.setattr(offerset, "claim", claim)


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


def gives_up_what_it_cannot_learn(patch: pytest.MonkeyPatch) -> None:
    """What no site says any more is taken for not accepted after a while, without being withdrawn."""
    pursues = forwarding.Forwarding.pursue

    async def pursue(self: forwarding.Forwarding, record: SetRecord) -> SetRecord:
        if record.claim is not None and record.claim.tries > 1:
            return await self._refuse(record, "REJECTED", "it does not say")
        return await pursues(self, record)

    patch.setattr(forwarding.Forwarding, "pursue", pursue)


def removes_what_was_taken(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(offerset, "reduced", lambda record: None)


def reduces_what_is_not_over(patch: pytest.MonkeyPatch) -> None:
    """By the phases alone, whatever is to be done yet."""
    ends = offerset.phases.TERMINAL
    patch.setattr(offerset, "over", lambda record: all(item.phase in ends for item in record.sessions))


def leaves_lines_of_what_is_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(records, "_gone", lambda before, after: [])


def takes_any_price(patch: pytest.MonkeyPatch) -> None:
    def within(body: SetBody, record: SetRecord, old: UUID, fresh: list[SessionRecord]) -> UUID | None:
        return next((item.uuid for item in fresh if not item.excluded), None)

    patch.setattr(requoting, "_within", within)


def hears_a_word_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(doubts, "_stands", lambda record, uuid, taken: False)


def follows_nothing(patch: pytest.MonkeyPatch) -> None:
    """What is accepted is noted as followed, and stands on no watch list."""

    async def follow(self: watching.Watching, key: str) -> float | None:
        record = await self._records.by_key(key)
        if record is not None:
            await self._records.change(record.uuid, offerset.followed)
        return None

    patch.setattr(watching.Watching, "follow", follow)


def says_it_gave_back(patch: pytest.MonkeyPatch) -> None:
    async def end(self: orphans.Orphan, deadline: Deadline) -> None:
        return

    patch.setattr(orphans.Orphan, "end", end)


PLANTED: list[tuple[Plant, Rule]] = [
    (lets_two_be_accepted, checker.one_is_accepted),
    (takes_silence_for_a_no, checker.what_runs_is_accepted),
    (tells_before_it_is_durable, checker.acknowledged_survives),
    (sends_again_blindly, checker.nothing_twice),
    (forgets_what_it_holds, checker.others_given_back),
    (takes_a_failed_release_for_done, checker.others_given_back),
    (knows_no_expiry, checker.nothing_after_expiry),
    (leaves_a_site_out, checker.every_site_answers_for),
    (gives_no_reason, checker.every_site_answers_for),
    (believes_every_phase, checker.phases_go_on),
    (shows_what_was_read_long_ago, checker.phases_go_on),
    (lets_everybody, checker.nobody_else),
    (logs_what_it_gets, checker.no_secret_logged),
    (gives_a_timer_up, checker.work_is_finished),
    (lets_one_site_spoil_all, checker.neighbours_stand),
    (raises_what_nobody_foresaw, checker.work_is_finished),
    (hears_no_key, checker.one_key_one_act),
    (gives_up_what_it_cannot_learn, checker.what_runs_is_accepted),
    (removes_what_was_taken, checker.acknowledged_survives),
    (reduces_what_is_not_over, checker.only_what_is_over_goes),
    (leaves_lines_of_what_is_gone, checker.lists_are_true),
    (takes_any_price, checker.dearer_is_asked_for),
    (hears_a_word_once, checker.words_are_heard),
    (follows_nothing, checker.nothing_for_the_doctor),
    (says_it_gave_back, checker.nothing_for_the_doctor),
]


@pytest.mark.parametrize(("plant", "rule"), PLANTED, ids=lambda value: value.__name__)
def test_a_planted_fault_is_caught(plant: Plant, rule: Rule, here: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert caught(here, rule) is not None


def test_each_rule_has_a_fault_that_it_catches() -> None:
    assert {rule for _, rule in PLANTED} == {rule for _, rule in RULES}
