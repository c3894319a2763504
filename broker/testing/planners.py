"""A planner without a site behind it, scripted: offers, declines, hangs, raises, answers late. Imports the ports.

For tests of whoever calls planners. Events take the place of waiting: `asked` says that a call came, `go` lets it on.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from uuid import UUID, uuid4

from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Quote, Reason
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError
from broker.ports import Ask, Held, Logs, Order, Quotes, Result, Sighting

Step = Quotes | BaseException | str | Callable[[], Quotes]


def quotes(*handles: str, body: bytes = b'{"phase":"OFFERED"}') -> Quotes:
    return Quotes(tuple(Quote(handle, body) for handle in handles))


def declines(text: str = "too large") -> Quotes:
    return Quotes(reasons=(Reason(text),))


def an_ask(deadline: Deadline) -> Ask:
    """A question about the smallest request."""
    request = ExecutionRequest.model_validate({"executable": {"kind": kinds.DOCKER_CONTAINER}})
    set_ = uuid4()
    return Ask(request, b"{}", b"{}", set_, deadline, Owner("tests", "ada"), set_)


def an_order() -> Order:
    return Order(uuid4(), uuid4(), "handle-1", b"{}", Owner("tests", "ada"))


class FakePlanner:
    """The Planner port. Each call takes the next of `steps`; the last one stays.

    A step is an answer, an exception to raise, `"hang"` (until cancelled), or `"wait"` (until `go` is set, then one
    offer). Every operation but `quote` succeeds after its step. `calls` counts by operation, `now` those under way.
    """

    def __init__(self, *steps: Step) -> None:
        self.steps = list(steps) or [quotes("h-1")]
        self.calls: Counter[str] = Counter()
        self.asks: list[Ask] = []
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.now = self.most = self.cancelled = 0
        self.closed = False

    async def called(self, operation: str, times: int) -> None:
        """Returns when so many such calls have come."""
        while self.calls[operation] < times:
            self.asked.clear()
            await self.asked.wait()

    async def _step(self, operation: str) -> Quotes:
        self.calls[operation] += 1
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        self.now += 1
        self.most = max(self.most, self.now)
        self.asked.set()
        try:
            if step == "hang":
                await asyncio.Event().wait()
            if step == "wait":
                await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, Quotes):
            return step
        return step() if callable(step) else quotes("h-1")

    async def describe(self, deadline: Deadline) -> Profile:
        await self._step("describe")
        return Profile()

    async def quote(self, ask: Ask) -> Quotes:
        self.asks.append(ask)
        return await self._step("quote")

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        await self._step("accept")
        return Sighting("ACCEPTED")

    async def release(self, orders: Sequence[Order], deadline: Deadline) -> None:
        await self._step("release")

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        await self._step("status")
        return {order.session: Sighting("RUNNING") for order in orders}

    async def update(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        await self._step("update")
        return Sighting(phase)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        await self._step("held")
        return ()

    async def logs(self, order: Order, deadline: Deadline) -> Logs:
        await self._step("logs")
        return Logs("out", "")

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]:
        await self._step("results")
        return (Result("a.txt", 2),)

    async def fetch(self, order: Order, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        yield b"a"
        await self._step("fetch")
        yield b"b"

    async def close(self) -> None:
        self.closed = True
