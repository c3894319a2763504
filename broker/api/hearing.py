"""Work that is for the caller's ears alone: it ends when nobody listens any more. Imports aiohttp.

The server lets a handler go on when its caller has hung up, which is right for all that changes something. Asking
sites is not of that kind: what they offer would be held for somebody who never learns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiohttp import web

T = TypeVar("T")

LOOK_EVERY = 0.5  # seconds


async def while_heard(request: web.Request, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises. It is cancelled when the caller hangs up, and when we are."""
    task = asyncio.create_task(work)
    try:
        while not (await asyncio.wait((task,), timeout=LOOK_EVERY))[0]:
            if request.transport is None or request.transport.is_closing():
                task.cancel()
        return await task
    finally:
        task.cancel()
