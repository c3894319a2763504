"""The same call for many, side by side and bounded. Imports errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from broker.errors import SiteError

T = TypeVar("T")
R = TypeVar("R")


async def each(items: Iterable[T], call: Callable[[T], Awaitable[R]], most: int) -> list[R | SiteError]:
    """What `call` returns for each item, in their order, at most `most` calls under way; a SiteError takes the place
    of its item's result. Any other exception, or cancellation, ends all of them."""
    room = asyncio.Semaphore(most)

    async def one(item: T) -> R | SiteError:
        async with room:
            try:
                return await call(item)
            except SiteError as error:
                return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
