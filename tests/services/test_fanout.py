"""The fan-out: one outcome a site, one deadline, late answers handed on, nothing lost and nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from broker.domain.deadline import Deadline
from broker.domain.outcome import Declined, Failed, Offered, Outcome, Skipped, TimedOut
from broker.errors import (
    NotAsked,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.services.clock import SystemClock
from broker.services.fanout import Fanout, Target
from broker.testing.planners import FakePlanner, Step, an_ask, declines, quotes


class Late:
    """Where late outcomes go."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._more = asyncio.Event()

    async def __call__(self, site: str, outcome: Outcome) -> None:
        self.outcomes[site] = outcome
        self._more.set()

    async def reached(self, count: int) -> None:
        while len(self.outcomes) < count:
            self._more.clear()
            await self._more.wait()


@pytest.fixture
async def fanout() -> AsyncIterator[Fanout]:
    fanout = Fanout(SystemClock())
    before = asyncio.all_tasks()
    yield fanout
    await fanout.close()
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


@pytest.fixture
def late() -> Late:
    return Late()


def within(seconds: float) -> Deadline:
    return Deadline.after(seconds, asyncio.get_running_loop().time())


def targets(**planners: FakePlanner) -> list[Target]:
    return [Target(name, planner) for name, planner in planners.items()]


async def idle(fanout: Fanout) -> None:
    """Returns when nothing is drained any more."""
    while tasks := [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]:
        await asyncio.wait(tasks)
    assert fanout.draining == 0


async def test_every_site_has_one_outcome_in_the_order_asked(fanout: Fanout, late: Late) -> None:
    asked = targets(b=FakePlanner(quotes("h-1", "h-2")), a=FakePlanner(declines("too large")))
    outcomes = await fanout.ask(asked, an_ask(within(60)), on_late=late)
    assert list(outcomes) == ["b", "a"]
    b, a = outcomes.values()
    assert isinstance(b, Offered)
    assert [quote.handle for quote in b.quotes] == ["h-1", "h-2"]
    assert isinstance(a, Declined)
    assert [reason.text for reason in a.reasons] == ["too large"]
    assert not late.outcomes


async def test_nobody_asked_is_nobody_answered(fanout: Fanout, late: Late) -> None:
    assert await fanout.ask([], an_ask(within(60)), on_late=late) == {}


ERRORS: list[tuple[Step, type[Outcome], str]] = [
    (SiteRefused("no kind", status=400), Declined, ""),
    (SiteBusy("later", retry_after=7.0), Declined, ""),
    (NotAsked("no token", retry_after=7.0), Skipped, ""),
    (SiteTimeout("silent"), TimedOut, ""),
    (SiteUnreachable("refused"), Failed, "site"),
    (SiteMisbehaved("garbage"), Failed, "site"),
    (SiteForbids("401"), Failed, "operator"),
    (ZeroDivisionError("a bug"), Failed, "operator"),
    (asyncio.CancelledError(), Failed, "operator"),
]


@pytest.mark.parametrize(("error", "kind", "acts"), ERRORS)
async def test_what_a_planner_raises_is_an_outcome(
    fanout: Fanout, late: Late, error: BaseException, kind: type[Outcome], acts: str
) -> None:
    asked = targets(bad=FakePlanner(error), good=FakePlanner())
    outcomes = await fanout.ask(asked, an_ask(within(60)), on_late=late)
    bad = outcomes["bad"]
    assert isinstance(bad, kind)
    assert isinstance(outcomes["good"], Offered)
    if isinstance(bad, Failed):
        assert bad.acts == acts
    if isinstance(bad, Declined | Skipped) and isinstance(error, SiteBusy):
        assert bad.retry_after == 7.0
    text = str(bad.reasons[0] if isinstance(bad, Declined) else bad.reason)  # type: ignore[union-attr]
    assert text == str(error) if isinstance(error, SiteError) else type(error).__name__ in text


async def test_a_no_without_words_gets_some(fanout: Fanout, late: Late) -> None:
    outcome = (await fanout.ask(targets(a=FakePlanner(declines)), an_ask(within(60)), on_late=late))["a"]
    assert isinstance(outcome, Declined)
    assert outcome.reasons


async def test_the_answer_does_not_wait_beyond_the_deadline(fanout: Fanout, late: Late) -> None:
    asked = targets(slow=FakePlanner("hang"), good=FakePlanner())
    deadline = within(0.2)
    outcomes = await fanout.ask(asked, an_ask(deadline), on_late=late)
    assert isinstance(outcomes["slow"], TimedOut)
    assert isinstance(outcomes["good"], Offered)
    assert fanout.draining == 1


async def test_a_deadline_that_is_over_gets_an_answer_all_the_same(fanout: Fanout, late: Late) -> None:
    outcomes = await fanout.ask(targets(a=FakePlanner("hang")), an_ask(within(-1)), on_late=late)
    assert isinstance(outcomes["a"], TimedOut)


async def test_late_offers_are_handed_on(fanout: Fanout, late: Late) -> None:
    slow = FakePlanner("wait")
    outcomes = await fanout.ask(targets(slow=slow, good=FakePlanner()), an_ask(within(0.05)), on_late=late)
    assert isinstance(outcomes["slow"], TimedOut)
    slow.go.set()
    await late.reached(1)
    assert isinstance(late.outcomes["slow"], Offered)
    assert late.outcomes["slow"].latency > outcomes["slow"].latency


async def test_planners_are_told_how_long_a_late_answer_is_of_use(fanout: Fanout, late: Late) -> None:
    planner = FakePlanner()
    ask = an_ask(within(60))
    await fanout.ask(targets(a=planner), ask, on_late=late)
    assert planner.asks[0].deadline == ask.deadline
    assert planner.asks[0].until.at == pytest.approx(ask.deadline.at + 10.0)


async def test_the_drain_ends_with_the_grace(late: Late) -> None:
    fanout = Fanout(SystemClock(), grace=0.05)
    slow = FakePlanner("hang")
    await fanout.ask(targets(slow=slow), an_ask(within(0.05)), on_late=late)
    await idle(fanout)
    assert slow.cancelled == 1
    assert not late.outcomes


async def test_no_more_are_drained_than_allowed_and_the_oldest_goes_first(late: Late) -> None:
    fanout = Fanout(SystemClock(), most_draining=2)
    slow = [FakePlanner("wait") for _ in range(4)]
    for number, planner in enumerate(slow):
        await fanout.ask(targets(**{f"s{number}": planner}), an_ask(within(0.02)), on_late=late)
    assert fanout.draining == 2
    for planner in slow:
        planner.go.set()
    await idle(fanout)
    assert set(late.outcomes) == {"s2", "s3"}
    assert [planner.cancelled for planner in slow] == [1, 1, 0, 0]


async def test_enough_good_offers_end_the_waiting(fanout: Fanout, late: Late) -> None:
    slow = FakePlanner("wait")
    seen: list[set[str]] = []

    def enough(outcomes: Mapping[str, Outcome]) -> bool:
        seen.append(set(outcomes))
        return any(isinstance(outcome, Offered) for outcome in outcomes.values())

    asked = targets(no=FakePlanner(declines()), yes=FakePlanner(), slow=slow)
    outcomes = await fanout.ask(asked, an_ask(within(3600)), on_late=late, enough=enough)
    assert isinstance(outcomes["yes"], Offered)
    assert isinstance(outcomes["slow"], TimedOut)
    assert "enough" in outcomes["slow"].reason.text
    assert seen[-1] == {"no", "yes"}
    slow.go.set()
    await late.reached(1)
    assert set(late.outcomes) == {"slow"}


async def test_too_few_good_offers_do_not_end_it(fanout: Fanout, late: Late) -> None:
    asked = targets(a=FakePlanner(), b=FakePlanner())
    outcomes = await fanout.ask(asked, an_ask(within(3600)), on_late=late, enough=lambda outcomes: False)
    assert all(isinstance(outcome, Offered) for outcome in outcomes.values())


async def test_a_caller_who_goes_leaves_no_offer_unknown(fanout: Fanout, late: Late) -> None:
    quick, slow = FakePlanner(), FakePlanner("wait")
    asking = asyncio.create_task(fanout.ask(targets(quick=quick, slow=slow), an_ask(within(3600)), on_late=late))
    await slow.called("quote", 1)
    await quick.called("quote", 1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    slow.go.set()
    await late.reached(2)
    assert {name: type(outcome) for name, outcome in late.outcomes.items()} == {"quick": Offered, "slow": Offered}


async def test_a_judgement_that_fails_loses_no_offer_either(fanout: Fanout, late: Late) -> None:
    def enough(outcomes: Mapping[str, Outcome]) -> bool:
        raise ArithmeticError

    slow = FakePlanner("wait")
    with pytest.raises(ArithmeticError):
        await fanout.ask(targets(a=FakePlanner(), slow=slow), an_ask(within(3600)), on_late=late, enough=enough)
    slow.go.set()
    await late.reached(2)


async def test_one_late_answer_that_cannot_be_handed_on_harms_no_other(fanout: Fanout) -> None:
    late = Late()

    async def picky(site: str, outcome: Outcome) -> None:
        if site == "a":
            raise OSError("disk full")
        await late(site, outcome)

    slow = {name: FakePlanner("wait") for name in "ab"}
    await fanout.ask(targets(**slow), an_ask(within(0.02)), on_late=picky)
    for planner in slow.values():
        planner.go.set()
    await late.reached(1)
    assert set(late.outcomes) == {"b"}


async def test_handing_on_cannot_hang_for_ever() -> None:
    fanout = Fanout(SystemClock(), settle=0.02)

    async def stuck(site: str, outcome: Outcome) -> None:
        await asyncio.Event().wait()

    slow = FakePlanner("wait")
    await fanout.ask(targets(a=slow), an_ask(within(0.02)), on_late=stuck)
    slow.go.set()
    await idle(fanout)


async def test_closing_waits_for_what_is_late_and_then_gives_it_up(late: Late) -> None:
    fanout = Fanout(SystemClock())
    soon, never = FakePlanner("wait"), FakePlanner("hang")
    await fanout.ask(targets(soon=soon, never=never), an_ask(within(0.02)), on_late=late)
    soon.go.set()
    await fanout.close(patience=0.1)
    assert set(late.outcomes) == {"soon"}
    assert never.cancelled == 1
    await idle(fanout)


async def test_a_thousand_sites_and_the_bad_ones_cost_only_themselves(fanout: Fanout, late: Late) -> None:
    good = {f"good{n}": FakePlanner(quotes(f"h-{n}")) for n in range(900)}
    bad: dict[str, FakePlanner] = {}
    for n in range(25):
        bad |= {
            f"hang{n}": FakePlanner("hang"),
            f"bug{n}": FakePlanner(ValueError("bug")),
            f"down{n}": FakePlanner(SiteUnreachable("down")),
            f"no{n}": FakePlanner(declines()),
        }
    alone = await fanout.ask(targets(**good), an_ask(within(60)), on_late=late)
    among = await fanout.ask(targets(**bad, **good), an_ask(within(2.0)), on_late=late)
    assert len(among) == 1000
    assert {name: among[name].quotes for name in good} == {name: alone[name].quotes for name in good}  # type: ignore[union-attr]
    assert sum(isinstance(among[name], TimedOut) for name in bad) == 25
    assert fanout.draining == 25
