"""A store that fails once, at each of its calls in turn, under everything that is asked of the services.

What was written though nobody heard so, and what was not written, both end well: the caller hears 503 or gets what was
asked for, asks once more, and afterwards it is as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from broker.domain import session
from broker.domain.identity import aggregate
from broker.errors import BrokerError, Conflict, SiteRefused, SiteTimeout, Unavailable, Unconfirmed
from broker.ports import Query, Store
from broker.testing.bench import ADA, OPERATOR, Bench, broken_rules, by_site
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails, lost

MOST = 100
CALLS = frozenset({"read", "body", "write", "remove", "listings", "counts", "prune_bodies"})
Act = Callable[[Bench, "Asked"], Awaitable[Any]]


class Wavering:
    """A store whose call number `at` (from 0) raises `error`; `done`: and is made all the same."""

    def __init__(self, store: Store, at: int, error: BrokerError, *, done: bool) -> None:
        self._store, self._at, self._error, self._done = store, at, error, done
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in CALLS or (isinstance(self._error, Unconfirmed) and name != "write"):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            number, self.count = self.count, self.count + 1
            if number == self._at and not self._done:
                raise self._error
            answer = await method(*args, **kwargs)
            if number == self._at:
                raise self._error
            return answer

        return call


FAULTS = [
    pytest.param(Unconfirmed("no replica answered in time."), True, id="unconfirmed"),
    pytest.param(Unavailable("the answer was lost."), True, id="answer lost"),
    pytest.param(Unavailable("the store is away."), False, id="not made"),
]


class Asked:
    """A set of the two sites' offers, before anything is done to it."""

    def __init__(self, alba: ScriptedSite, borealis: ScriptedSite) -> None:
        self.alba, self.borealis = alba, borealis
        self.sessions: dict[str, Any] = {}

    async def fresh(self, bench: Bench, **wishes: Any) -> None:
        for site in (self.alba, self.borealis):
            site.runs.clear()
            site.steps.clear()
        self.sessions = by_site(await bench.ask(preferences=wishes))

    @property
    def mine(self) -> Any:
        return self.sessions["alba"]


class Story:
    """`before`: what has happened before the store wavers; `act`: what it wavers under; `again`: what is done once it
    is well, None: the same; `ends`: the phase of alba's session afterwards."""

    def __init__(
        self, act: Act, ends: str, *, before: Act | None = None, again: Act | None = None, **wishes: Any
    ) -> None:
        self.act, self.ends, self.before, self.again, self.wishes = act, ends, before, again or act, wishes


async def accept(bench: Bench, here: Asked) -> Any:
    return await bench.accept(here.mine)


async def in_doubt(bench: Bench, here: Asked) -> None:
    here.alba.steps["accept"] = [lost(SiteTimeout("silent"))]
    here.alba.steps["status"] = [fails(SiteTimeout("silent")) for _ in range(3)]
    await bench.accept(here.mine)


async def not_there(bench: Bench, here: Asked) -> None:
    here.alba.steps["accept"] = [fails(SiteTimeout("silent"))]
    here.alba.steps["status"] = [fails(SiteTimeout("silent")) for _ in range(3)]
    await bench.accept(here.mine)


async def sold_out(bench: Bench, here: Asked) -> None:
    here.alba.steps["accept"] = [fails(SiteRefused("sold out", status=400))]
    await bench.accept(here.mine)


async def reject(bench: Bench, here: Asked) -> Any:
    return await bench.update(here.mine, "REJECTED")


async def release(bench: Bench, here: Asked) -> None:
    await bench.acceptance.release(list(here.sessions.values()), ADA)


async def cancel(bench: Bench, here: Asked) -> Any:
    return await bench.update(here.mine, "CANCELLED")


async def said_taken(bench: Bench, here: Asked) -> Any:
    return await bench.doubts.decide(here.mine, True, "olga saw it run", OPERATOR)


async def said_not_taken(bench: Bench, here: Asked) -> Any:
    return await bench.doubts.decide(here.mine, False, "they had no power", OPERATOR)


async def follow(bench: Bench, here: Asked) -> None:
    await bench.watching.follow(await _key(bench, here))


async def followed(bench: Bench, here: Asked) -> None:
    await bench.accept(here.mine)
    await bench.watching.follow(await _key(bench, here))


async def look(bench: Bench, here: Asked) -> None:
    here.alba.all_over()
    await bench.watching.look("watch:alba")


async def give_back(bench: Bench, here: Asked) -> None:
    await bench.releasing.release(await _key(bench, here))


async def _key(bench: Bench, here: Asked) -> str:
    return aggregate((await bench.record(here.mine)).uuid)


STORIES = {
    "accept": Story(accept, "COMPLETED"),
    "accept, refused, the next": Story(sold_out, "REJECTED", again=accept, failover=True),
    "accept, refused, asked anew": Story(sold_out, "REJECTED", again=accept, requote=0.1),
    "reject": Story(reject, "REJECTED"),
    "release": Story(release, "REJECTED"),
    "cancel": Story(cancel, "CANCELLED", before=accept),
    "taken, says a person": Story(said_taken, "COMPLETED", before=in_doubt),
    "not taken, says a person": Story(said_not_taken, "REJECTED", before=not_there, failover=True),
    "follow": Story(follow, "COMPLETED", before=accept),
    "look": Story(look, "COMPLETED", before=followed),
    "give back": Story(give_back, "COMPLETED", before=accept),
}


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
@pytest.mark.parametrize(("error", "done"), FAULTS)
async def test_whatever_is_asked_ends_well_wherever_the_store_wavers(
    store: Store,
    clock: FakeClock,
    alba: ScriptedSite,
    borealis: ScriptedSite,
    story: Story,
    error: BrokerError,
    done: bool,
) -> None:
    sites = {"alba": alba, "borealis": borealis}
    here = Asked(alba, borealis)
    for number in range(MOST):
        well = await Bench(store, clock, sites).start()
        await here.fresh(well, **story.wishes)
        if story.before is not None:
            await story.before(well, here)
        wavering: Any = Wavering(store, number, error, done=done)
        ill = Bench(wavering, clock, sites)
        for entry in ill.sites.entries():
            entry.profile = sites[entry.name].profile
        await _done(story.act(ill, here))
        await _done(story.again(well, here))
        await _at_rest(well, here)
        record = await well.record(here.mine)
        assert record.session(here.mine).phase == story.ends, number
        assert broken_rules(record, (alba, borealis), clock.now()) == []
        assert record.owed is None
        await ill.forwarding.close()
        if story.wishes:
            assert record.taken is not None, number
        assert await store.next_due() is None
        if wavering.count <= number:
            assert number > 0
            return
    pytest.fail("the story has no end")


async def _done(act: Awaitable[Any]) -> Any:
    """What it gave; None where the store was at fault, or it was done already."""
    try:
        return await act
    except (Unavailable, Conflict):
        return None


async def _at_rest(bench: Bench, here: Asked) -> None:
    await bench.settle(120)
    for site in (here.alba, here.borealis):
        site.steps.clear()
        site.all_over()
    await bench.settle(900)
    record = await bench.record(here.mine)
    assert all(item.phase in session.TERMINAL for item in record.sessions)


@pytest.mark.parametrize("direct", [False, True], ids=["ask", "direct"])
@pytest.mark.parametrize(("error", "done"), FAULTS)
async def test_a_set_that_was_made_or_not_while_the_store_wavers_leaves_nothing_behind(
    store: Store,
    clock: FakeClock,
    alba: ScriptedSite,
    borealis: ScriptedSite,
    direct: bool,
    error: BrokerError,
    done: bool,
) -> None:
    sites = {"alba": alba, "borealis": borealis}
    for number in range(MOST):
        for site in sites.values():
            site.runs.clear()
            site.phases.clear()
        known = {line.id for line in await store.listings(Query("offerset"))}
        well = await Bench(store, clock, sites).start()
        wavering: Any = Wavering(store, number, error, done=done)
        ill = Bench(wavering, clock, sites)
        for entry in ill.sites.entries():
            entry.profile = sites[entry.name].profile
        told = await _done(ill.direct() if direct else ill.ask())
        await well.settle(120)
        for site in sites.values():
            site.all_over()
        await well.settle(900)
        made = [line.id for line in await store.listings(Query("offerset")) if line.id not in known]
        assert len(made) <= 1
        for uuid in made:
            record = await well.record(UUID(uuid))
            assert broken_rules(record, (alba, borealis), clock.now()) == []
            assert all(item.phase in session.TERMINAL for item in record.sessions)
        assert made or not (alba.runs or borealis.runs)
        await ill.forwarding.close()
        assert await store.next_due() is None
        if wavering.count <= number:
            assert told is not None
            assert number > 0
            return
    pytest.fail("the story has no end")
