"""A running broker as those who call it see it, and a site behind a wire that can be spoiled. For tests with faults.

Imports aiohttp and its sisters here. Every wait has an end: what has not come within `PATIENCE` will not.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from broker.domain import kinds
from broker.domain.session import TERMINAL
from broker.testing.program import ACCEPT, Answer, Caller, Program
from broker.testing.proxy import Proxy
from broker.testing.site import FakeSite

PATIENCE = 60.0
REJECT = {**ACCEPT, "value": "REJECTED"}
REQUEST = {"executable": {"kind": kinds.DOCKER_CONTAINER}}


class Place:
    """A site, and the wire before it."""

    def __init__(self, site: FakeSite, wire: Proxy) -> None:
        self.site, self.wire = site, wire

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def runs(self) -> int:
        """How often something was begun there."""
        return self.site.executions.total()

    @property
    def held(self) -> list[str]:
        """What stands open there for somebody to take."""
        return [session.uuid for session in self.site.sessions.values() if session.phase == "OFFERED"]


@asynccontextmanager
async def place(name: str, **terms: Any) -> AsyncIterator[Place]:
    """`terms`: those of a FakeSite. Its sessions go on by themselves when they are looked at."""
    async with AsyncExitStack() as stack:
        site = await stack.enter_async_context(FakeSite(name, auto=True, **terms))
        wire = await stack.enter_async_context(Proxy.before(site.url))
        yield Place(site, wire)


class Desk:
    """`base`: where it is called, where that is not its own address (a wire before it)."""

    def __init__(self, program: Program, call: Caller) -> None:
        self.program, self.call = program, call
        self.base = ""

    @property
    def url(self) -> str:
        return self.base or self.program.url

    async def send(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return await self.call(method, f"{self.url}{path}", body, **headers)

    async def dial(self, path: str, body: object, share: float = 1.0) -> asyncio.StreamWriter:
        """Sends so much of the body of a POST, and leaves the line open."""
        data = json.dumps(body).encode()
        parts = urlsplit(self.url)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(head.encode() + data[: int(len(data) * share)])
        await writer.drain()
        return writer

    async def live(self, *sites: str) -> None:
        """Returns when the broker has seen them all."""

        async def seen() -> bool:
            found = (await self.send("GET", "/sites")).json()["sites"]
            return {site["name"] for site in found if site["health"]["state"] == "live"} >= set(sites)

        await eventually(seen)

    async def ask(self, *sites: str, **preferences: Any) -> Answer:
        """A question to these sites alone; without names to all."""
        wishes = {**preferences, **({"sites_allowed": list(sites)} if sites else {})}
        return await self.send("POST", "/requests", {**REQUEST, **({"preferences": wishes} if wishes else {})})

    async def offers(self, *sites: str, **preferences: Any) -> list[str]:
        """The paths of the sessions that were offered, the best one first."""
        answer = await self.ask(*sites, **preferences)
        assert answer.json().get("result") == "YES", answer.body
        return [f"/sessions/{offer['meta']['uuid']}" for offer in answer.json()["offers"]]

    async def accept(self, path: str, **headers: str) -> Answer:
        return await self.send("POST", path, ACCEPT, **headers)

    async def reject(self, path: str) -> Answer:
        return await self.send("POST", path, REJECT)

    async def read(self, path: str) -> dict[str, Any]:
        """Empty: nobody answered, or with an error."""
        try:
            answer = await self.send("GET", path)
        except aiohttp.ClientConnectionError:
            return {}
        shown: dict[str, Any] = answer.json() if answer.status == 200 else {}
        return shown

    async def phase(self, path: str) -> str:
        return str((await self.read(path)).get("phase", ""))

    async def until(self, path: str, *phases: str) -> str:
        """Its phase, when that is one of those or terminal, or after `PATIENCE` whatever it is."""
        found = ""

        async def there() -> bool:
            nonlocal found
            found = await self.phase(path)
            return found in (*phases, *TERMINAL)

        with suppress(TimeoutError):
            await eventually(there)
        return found


@asynccontextmanager
async def opened(folder: Path, name: str = "federation", **settings: Any) -> AsyncIterator[Desk]:
    """A broker with these settings, as a process that is killed on leaving."""
    program = Program(folder, name, **settings)
    try:
        await asyncio.to_thread(program.start)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http:
            yield Desk(program, Caller(http))
    finally:
        program.kill()


async def eventually(holds: Callable[[], Awaitable[bool]], patience: float = PATIENCE) -> None:
    """Returns when it does. For what other processes do: no event tells of it."""
    async with asyncio.timeout(patience):
        while not await holds():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.05)
