"""A store that writes and cannot say so: no replica has confirmed it, or the answer to the write was lost.

At each write of an acceptance in turn. Nothing is acknowledged that could be lost, nothing runs twice, and all ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.domain.site import Profile
from broker.errors import BrokerError, SiteRefused, Unavailable, Unconfirmed
from broker.ports import Store
from broker.testing.bench import Bench, broken_rules, by_site
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite, fails

MOST = 100


class Wavering:
    """A store whose write number `at` (from 0) is made, and raises `error` all the same; `before`: it is not made."""

    def __init__(self, store: Store, at: int, error: Callable[[], BrokerError], *, before: bool = False) -> None:
        self._store, self._at, self._error, self._before = store, at, error, before
        self.writes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def write(self, *args: Any, **kwargs: Any) -> bool:
        number, self.writes = self.writes, self.writes + 1
        if number == self._at and self._before:
            raise self._error()
        done = await self._store.write(*args, **kwargs)
        if number == self._at:
            raise self._error()
        return done


def unconfirmed() -> Unconfirmed:
    return Unconfirmed("no replica answered in time.")


def lost() -> Unavailable:
    return Unavailable("the answer was lost.")


async def asked(store: Store, clock: FakeClock, sites: dict[str, ScriptedSite], **wishes: object) -> Any:
    bench = await Bench(store, clock, sites).start()
    return by_site(await bench.ask(preferences=wishes))["alba"]


def wavering(store: Store, at: int, error: Callable[[], BrokerError], **more: bool) -> Any:
    return Wavering(store, at, error, **more)


async def test_an_acceptance_whose_claim_is_not_confirmed_is_not_sent(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    sites = {"alba": alba, "borealis": borealis}
    session = await asked(store, clock, sites)
    bench = await Bench(wavering(store, 0, unconfirmed), clock, sites).start()
    with pytest.raises(Unconfirmed):
        await bench.accept(session)
    assert alba.calls("accept") == []
    assert (await bench.record(session)).claim is None  # undone: the offer stands, and can be accepted again
    assert (await bench.accept(session)).item.phase == "ACCEPTED"


async def test_an_acceptance_whose_record_is_not_confirmed_is_not_acknowledged(
    store: Store, clock: FakeClock, alba: ScriptedSite, borealis: ScriptedSite
) -> None:
    sites = {"alba": alba, "borealis": borealis}
    session = await asked(store, clock, sites)
    bench = await Bench(wavering(store, 1, unconfirmed), clock, sites).start()
    state = await bench.accept(session)
    assert state.item.phase == "OFFERED"
    assert state.item.notes[-1].kind == "uri:acceptance-doubt"
    assert (await bench.accept(session)).item.phase == "ACCEPTED"
    assert sum(alba.runs.values()) == 1


FAULTS = [(unconfirmed, False), (lost, False), (lost, True)]


@pytest.mark.parametrize(
    ("repeatable", "sold_out"), [(False, False), (True, False), (False, True)], ids=["plain", "repeatable", "sold out"]
)
@pytest.mark.parametrize(("error", "before"), FAULTS, ids=["unconfirmed", "answer lost", "not made"])
async def test_whichever_write_wavers_nothing_is_lost_and_nothing_runs_twice(
    store: Store,
    clock: FakeClock,
    alba: ScriptedSite,
    borealis: ScriptedSite,
    repeatable: bool,
    sold_out: bool,
    error: Callable[[], BrokerError],
    before: bool,
) -> None:
    sites = {"alba": alba, "borealis": borealis}
    for site in sites.values():
        site.profile = Profile(repeatable=repeatable)
    for number in range(MOST):
        session = await asked(store, clock, sites, failover=True)
        for site in sites.values():
            site.runs.clear()
        alba.steps["accept"] = [fails(SiteRefused("sold out", status=400))] if sold_out else []
        faulty = wavering(store, number, error, before=before)
        bench = await Bench(faulty, clock, sites).start()
        acknowledged = None
        try:
            state = await bench.accept(session)
            acknowledged = state.record.taken
        except Unavailable:
            pass
        await bench.settle(100)
        for site in sites.values():
            site.all_over()
        await bench.settle(900)
        record = await bench.record(session)
        assert broken_rules(record, list(sites.values()), clock.now()) == []
        assert acknowledged is None or record.taken == acknowledged
        assert record.owed is None
        assert await store.next_due() is None
        if faulty.writes <= number:
            assert number > 3
            return
    pytest.fail("the story has no end")
