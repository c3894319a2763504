"""Being told to stop: callers can see it coming, nothing under way is cut off, and streams say when to come back."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.testing.program import Caller, Program
from broker.testing.site import FakeSite

pytestmark = pytest.mark.system
WITHIN = 30.0


@pytest.fixture
async def top(tmp_path: Path) -> AsyncIterator[Program]:
    """A broker that drains for ten minutes, unless it is told to hurry."""
    async with FakeSite() as site:
        settings: dict[str, Any] = {"sites": {"alba": {"url": site.url}}, "stop": {"drain": "PT10M"}}
        program = await asyncio.to_thread(Program(tmp_path, "federation", **settings).start)
        yield program
        program.kill()


async def eventually(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN):
        while not await holds():  # noqa: ASYNC110 - no event tells of another process
            await asyncio.sleep(0.02)


async def test_while_it_drains_it_is_not_ready_and_serves_all_the_same(
    top: Program, call: Caller, work: Any, http: aiohttp.ClientSession
) -> None:
    assert (await call("GET", f"{top.url}/health/ready")).status == 200
    asked = (await call("POST", f"{top.url}/requests", work.request())).json()
    stream = await http.get(f"{top.url}/offersets/{asked['meta']['uuid']}/events")
    os.kill(top.pid, signal.SIGTERM)

    async def not_ready() -> bool:
        return (await call("GET", f"{top.url}/health/ready")).status == 503

    await eventually(not_ready)
    answer = await call("POST", f"{top.url}/requests", work.request())
    assert (answer.status, answer.headers["Connection"]) == (303, "close")
    assert (await call("GET", f"{top.url}/health/live")).status == 200
    assert not stream.content.at_eof()

    assert await asyncio.to_thread(top.stop) == 0  # the second signal cuts the drain short
    async with asyncio.timeout(WITHIN):
        told = await stream.content.read()
    assert told.startswith(b"retry: ")
    with pytest.raises(aiohttp.ClientConnectionError):
        await call("GET", f"{top.url}/health/live")
