"""Which calls are repeated, how often, until when; and many at once."""

import asyncio

import pytest

from adapters.common.http import ConnectionLost
from adapters.common.parallel import each
from adapters.common.retry import ATTEMPTS, repeat
from broker.domain.deadline import Deadline
from broker.errors import SiteError, SiteForgot, SiteMisbehaved, SiteTimeout, SiteUnreachable
from broker.testing.clock import FakeClock


class Site:
    """Raises what it was given, in turn, then answers."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def call(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


class Patient(FakeClock):
    """Sleeps by moving itself on."""

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        await asyncio.sleep(0)


async def run(site: Site, seconds: float = 60.0) -> str:
    clock = Patient()
    return await repeat(lambda: site.call(), clock=clock, deadline=Deadline.after(seconds, clock.monotonic()))


@pytest.mark.parametrize("kind", [SiteUnreachable, SiteTimeout, ConnectionLost])
async def test_what_may_pass_is_tried_again(kind: type[SiteError]) -> None:
    site = Site(kind("a"), kind("b"))
    assert await run(site) == "done"
    assert site.calls == 3


async def test_the_last_error_comes_as_it_is() -> None:
    site = Site(*(SiteUnreachable(str(i)) for i in range(9)))
    with pytest.raises(SiteUnreachable, match=str(ATTEMPTS - 1)):
        await run(site)
    assert site.calls == ATTEMPTS


@pytest.mark.parametrize("error", [SiteMisbehaved("x"), SiteForgot("x"), ValueError("x"), asyncio.CancelledError()])
async def test_everything_else_is_raised_at_once(error: BaseException) -> None:
    site = Site(error)
    with pytest.raises(type(error)):
        await run(site)
    assert site.calls == 1


async def test_no_try_begins_after_the_deadline() -> None:
    site = Site(*(SiteUnreachable(str(i)) for i in range(9)))
    with pytest.raises(SiteUnreachable):
        await run(site, seconds=0.01)
    assert site.calls == 1


async def test_cancelled_while_waiting_it_stops() -> None:
    clock, site = FakeClock(), Site(SiteUnreachable("x"))
    task = asyncio.create_task(repeat(site.call, clock=clock, deadline=Deadline.after(60, clock.monotonic())))
    await clock.asleep()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.calls == 1


async def test_each_keeps_the_order_and_the_bound() -> None:
    under_way = most = 0

    async def one(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        if item == 3:
            raise SiteForgot("three")
        return item * 10

    got = await each(range(6), one, 2)
    assert got[:3] + got[4:] == [0, 10, 20, 40, 50]
    assert isinstance(got[3], SiteForgot)
    assert most == 2
