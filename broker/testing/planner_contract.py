"""What every Planner must hold, as a class of tests to inherit. Imports pytest, the ports and testing's asks.

    class TestMine(PlannerContract):
        @pytest.fixture
        async def stand(self, tmp_path): return Stand(make=lambda: ..., ...)

It holds a planner to the docstrings of `broker.ports.Planner`: what must be true of a sound site. What happens when
the site is not sound (lost answers, nonsense, silence) depends on what it speaks, and wants tests of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from broker.domain.deadline import Deadline
from broker.domain.session import TERMINAL, ScheduledExecutionSession, taken
from broker.errors import SiteError, SiteForgot, SiteRefused
from broker.ports import Clock, Order, Planner, Quotes, Sighting
from broker.testing.asks import ask, order

PATIENCE = 60.0  # seconds: a net for what hangs, not a measure


async def real_time() -> None:
    """Lets a little real time pass: for a site whose work happens in other processes."""
    await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Stand:
    """What the contract needs to know of a site.

    `make`: a planner of the one site, as a process that has just begun has it; called several times in a test.
    `short` and `long`: parts of a request (see `broker.testing.asks.wanted`) that is offered; a run of the first ends
    COMPLETED when time passes, one of the second is still on its way for as long as a test takes. `beyond`: parts of
    one that is declined. `pass_time`: awaited again and again until something has happened. `ran`: how often the
    order was really begun at the site, where that can be known.
    """

    make: Callable[[], Planner]
    clock: Clock
    short: Mapping[str, Any]
    long: Mapping[str, Any]
    beyond: Mapping[str, Any]
    pass_time: Callable[[], Awaitable[None]] = real_time
    ran: Callable[[Order], int] | None = None

    def soon(self) -> Deadline:
        return Deadline.after(PATIENCE, self.clock.monotonic())

    async def quotes(self, request: Mapping[str, Any]) -> Quotes:
        return await self.make().quote(ask(self.clock, within=PATIENCE, **request))

    async def offer(self, request: Mapping[str, Any]) -> Order:
        """An offer as the broker keeps it."""
        asked = ask(self.clock, within=PATIENCE, **request)
        answer = await self.make().quote(asked)
        assert answer.quotes, [str(reason) for reason in answer.reasons]
        return order(answer.quotes[0], set=asked.set)

    async def accepted(self, request: Mapping[str, Any]) -> Order:
        item = await self.offer(request)
        await self.make().accept(item, self.soon())
        return item

    async def look(self, item: Order) -> Sighting:
        seen = (await self.make().status([item], self.soon()))[item.session]
        assert isinstance(seen, Sighting), seen
        return seen

    async def ended(self, item: Order) -> Sighting:
        async with asyncio.timeout(PATIENCE):
            while (seen := await self.look(item)).phase not in TERMINAL:
                await self.pass_time()
        return seen

    def runs(self, item: Order, expected: int) -> None:
        if self.ran is not None:
            assert self.ran(item) == expected


class PlannerContract:
    """Override `stand`."""

    @pytest.fixture
    async def stand(self) -> Stand:
        raise NotImplementedError("return the Stand of a fresh site")

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def test_what_it_can_do_is_the_same_to_every_process(self, stand: Stand) -> None:
        assert await stand.make().describe(stand.soon()) == await stand.make().describe(stand.soon())

    async def test_an_offer_has_a_handle_and_is_a_session(self, stand: Stand) -> None:
        answer = await stand.quotes(stand.short)
        assert answer.quotes
        handles = [quote.handle for quote in answer.quotes]
        assert all(handles)
        assert len(set(handles)) == len(handles)
        for quote in answer.quotes:
            assert ScheduledExecutionSession.model_validate(msgspec.json.decode(quote.body)).kind

    async def test_a_no_has_no_offers_and_reasons_have_words(self, stand: Stand) -> None:
        answer = await stand.quotes(stand.beyond)
        assert not answer.quotes
        assert all(reason.text for reason in answer.reasons)

    async def test_an_offer_stays_open_and_nothing_runs(self, stand: Stand) -> None:
        item = await stand.offer(stand.short)
        assert [(await stand.look(item)).phase for _ in range(2)] == ["OFFERED", "OFFERED"]
        stand.runs(item, 0)

    # ── accepting ────────────────────────────────────────────────────────────────────────────────────────────

    async def test_an_acceptance_is_seen_by_every_process(self, stand: Stand) -> None:
        item = await stand.offer(stand.long)
        seen = await stand.make().accept(item, stand.soon())
        assert taken(seen.phase)
        assert taken((await stand.look(item)).phase)

    async def test_accepting_again_is_accepting_once(self, stand: Stand) -> None:
        if not (await stand.make().describe(stand.soon())).repeatable:
            pytest.skip("the profile does not say repeatable, so nobody accepts twice")
        item = await stand.accepted(stand.long)
        assert taken((await stand.make().accept(item, stand.soon())).phase)
        again = await asyncio.gather(*(stand.make().accept(item, stand.soon()) for _ in range(5)))
        assert all(taken(seen.phase) for seen in again)
        await stand.make().update(item, "CANCELLED", stand.soon())
        assert (await stand.ended(item)).phase == "CANCELLED"
        if stand.ran is not None:
            assert stand.ran(item) <= 1

    async def test_what_has_ended_is_not_begun_anew(self, stand: Stand) -> None:
        if not (await stand.make().describe(stand.soon())).repeatable:
            pytest.skip("the profile does not say repeatable, so nobody accepts twice")
        item = await stand.accepted(stand.short)
        phase = (await stand.ended(item)).phase
        assert (await stand.make().accept(item, stand.soon())).phase == phase
        stand.runs(item, 1)

    async def test_an_acceptance_too_late_that_proves_itself_did_nothing(self, stand: Stand) -> None:
        item = await stand.offer(stand.long)
        late = Deadline(stand.clock.monotonic() - 1.0)
        try:
            async with asyncio.timeout(PATIENCE):
                seen = await stand.make().accept(item, late)
        except SiteError as error:
            if error.proof:
                assert not taken((await stand.look(item)).phase)
                stand.runs(item, 0)
        else:
            assert taken(seen.phase) == taken((await stand.look(item)).phase)

    async def test_whoever_is_cancelled_is_cancelled(self, stand: Stand) -> None:
        item = await stand.offer(stand.long)
        call = asyncio.ensure_future(stand.make().accept(item, stand.soon()))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled() or call.exception() is None
        # Whatever the broken-off call had set going, or has yet to, meets its end.
        await stand.make().update(item, "CANCELLED", stand.soon())
        assert (await stand.ended(item)).phase != "COMPLETED"

    # ── giving back ──────────────────────────────────────────────────────────────────────────────────────────

    async def test_what_was_given_back_cannot_be_taken(self, stand: Stand) -> None:
        item = await stand.offer(stand.short)
        for _ in range(2):
            await stand.make().release([item], stand.soon())
        with contextlib.suppress(SiteError):
            assert not taken((await stand.make().accept(item, stand.soon())).phase)
        stand.runs(item, 0)

    async def test_what_the_site_never_knew_counts_as_given_back(self, stand: Stand) -> None:
        item = await stand.offer(stand.short)
        await stand.make().release([self.stranger(item)], stand.soon())
        assert (await stand.look(item)).phase == "OFFERED"

    async def test_an_offer_can_be_rejected(self, stand: Stand) -> None:
        item = await stand.offer(stand.short)
        assert (await stand.make().update(item, "REJECTED", stand.soon())).phase == "REJECTED"
        with contextlib.suppress(SiteError):
            assert not taken((await stand.make().update(item, "REJECTED", stand.soon())).phase)
        stand.runs(item, 0)

    async def test_what_is_taken_can_be_cancelled_and_again(self, stand: Stand) -> None:
        item = await stand.accepted(stand.long)
        await stand.make().update(item, "CANCELLED", stand.soon())
        assert (await stand.ended(item)).phase == "CANCELLED"
        assert (await stand.make().update(item, "CANCELLED", stand.soon())).phase == "CANCELLED"

    # ── following ────────────────────────────────────────────────────────────────────────────────────────────

    async def test_the_trouble_of_one_is_its_own(self, stand: Stand) -> None:
        item = await stand.accepted(stand.long)
        stranger = self.stranger(item)
        found = await stand.make().status([stranger, item], stand.soon())
        assert set(found) == {stranger.session, item.session}
        known, unknown = found[item.session], found[stranger.session]
        assert isinstance(known, Sighting)
        assert taken(known.phase)
        assert isinstance(unknown, SiteError) or not taken(unknown.phase)

    async def test_of_nothing_there_is_nothing_to_say(self, stand: Stand) -> None:
        assert dict(await stand.make().status([], stand.soon())) == {}

    async def test_what_runs_goes_on_when_the_planner_is_closed(self, stand: Stand) -> None:
        planner = stand.make()
        item = await stand.offer(stand.short)
        await planner.accept(item, stand.soon())
        await planner.close()
        assert (await stand.ended(item)).phase == "COMPLETED"

    async def test_what_it_holds_is_what_is_offered_and_what_is_under_way(self, stand: Stand) -> None:
        try:
            assert await stand.make().held(stand.soon()) == ()
        except SiteRefused:
            pytest.skip("the site cannot list what it has")
        over = await stand.accepted(stand.short)
        await stand.ended(over)
        running, offered = await stand.accepted(stand.long), await stand.offer(stand.short)
        held = await stand.make().held(stand.soon())
        assert {one.phase for one in held if one.handle == offered.handle} == {"OFFERED"}
        others = [one for one in held if one.phase != "OFFERED"]
        assert [taken(one.phase) for one in others] == [True]
        assert running.handle == others[0].handle or running.session == others[0].session
        assert all(one.handle not in (over.handle, str(over.session)) for one in held)

    async def test_what_it_holds_can_be_given_back_and_ended_without_the_offer(self, stand: Stand) -> None:
        running, offered = await stand.accepted(stand.long), await stand.offer(stand.short)
        try:
            held = await stand.make().held(stand.soon())
        except SiteRefused:
            pytest.skip("the site cannot list what it has")
        for one in held:
            order = Order(one.session or uuid4(), one.set or uuid4(), one.handle, b"", one.user or offered.user)
            if one.phase == "OFFERED":
                await stand.make().release([order], stand.soon())
            else:
                await stand.make().update(order, "CANCELLED", stand.soon())
        assert (await stand.ended(running)).phase == "CANCELLED"
        with contextlib.suppress(SiteError):
            assert not taken((await stand.make().accept(offered, stand.soon())).phase)
        assert await stand.make().held(stand.soon()) == ()

    async def test_a_run_hands_back_what_it_says_that_it_does(self, stand: Stand) -> None:
        item = await stand.accepted(stand.short)
        assert (await stand.ended(item)).phase == "COMPLETED"
        planner = stand.make()
        if not (await planner.describe(stand.soon())).results:
            pytest.skip("the profile does not say results")
        await planner.logs(item, stand.soon())
        for result in await planner.results(item, stand.soon()):
            path = PurePosixPath(result.name)
            assert not path.is_absolute()
            assert ".." not in path.parts
            pieces = [piece async for piece in planner.fetch(item, result.name, stand.soon())]
            assert sum(map(len, pieces)) == result.bytes
        with pytest.raises(SiteForgot):
            await anext(aiter(planner.fetch(item, "no such result", stand.soon())))

    @staticmethod
    def stranger(item: Order) -> Order:
        """An order for something that no site ever offered; its bytes are those of a real offer."""
        return Order(uuid4(), uuid4(), str(uuid4()), item.offer, item.user)
