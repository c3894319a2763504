"""Repeating a call that may be repeated. Imports tenacity, the ports.

For reading, and for what is idempotent by the port's contract (release, an update). Never for an acceptance, never
for a question: the first is decided once, the second leaves offers behind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from adapters.common.http import ConnectionLost
from broker.domain.deadline import Deadline
from broker.errors import SiteTimeout, SiteUnreachable
from broker.ports import Clock

T = TypeVar("T")

ATTEMPTS = 3
# Named one by one: tenacity's negative predicates repeat a cancelled call.
REPEATED = (SiteUnreachable, SiteTimeout, ConnectionLost)


async def repeat(call: Callable[[], Awaitable[T]], *, clock: Clock, deadline: Deadline) -> T:
    """What `call` returns, tried at most ATTEMPTS times; the last error as it came. No try begins after the
    deadline, and cancellation ends it at once."""
    try:
        return await call()
    except REPEATED as error:
        # Only now: tenacity's machinery costs as much as a call to a site (measured), and mostly there is one try.
        return await _again(call, error, clock, deadline)


async def _again(call: Callable[[], Awaitable[T]], error: Exception, clock: Clock, deadline: Deadline) -> T:
    """`error` is what the first try came to."""
    failed: list[Exception] = [error]

    def enough(state: RetryCallState) -> bool:
        return state.attempt_number >= ATTEMPTS or deadline.left(clock.monotonic()) <= state.upcoming_sleep

    async def attempt() -> T:
        # tenacity awaits coroutine functions alone; of a lambda it would return the coroutine, and repeat nothing.
        if failed:
            raise failed.pop()
        return await call()

    retrying = AsyncRetrying(
        retry=retry_if_exception_type(REPEATED),
        stop=enough,
        wait=wait_exponential_jitter(multiplier=0.05, max=1.0, jitter=0.05),
        sleep=clock.sleep,
        reraise=True,
    )
    return await retrying(attempt)
