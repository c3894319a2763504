"""For whoever supervises this process, and for whoever wants to know how to call it. Imports wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.api.wire import Wire
from broker.domain.identity import Caller
from broker.errors import Unavailable
from broker.services.stopping import Stopping

Ready = Callable[[], Awaitable[None]]  # raises Unavailable
WELL_FOR = 0.2  # seconds for which a store that took a write is not asked again


class Once:
    """Whether we are ready, asked once for all who want to know at the same moment, and for a moment after: the
    question is a durable write, and may be put by anybody."""

    def __init__(self, ready: Ready) -> None:
        self._ready = ready
        self._asking: asyncio.Future[None] | None = None
        self._well_until = 0.0  # monotonic

    async def __call__(self) -> None:
        """Raises Unavailable."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._well_until:
            return
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self._ready())
        await asyncio.shield(self._asking)
        self._well_until = loop.time() + WELL_FOR


class Health:
    def __init__(self, wire: Wire, ready: Ready, stopping: Stopping, openapi: bytes, version: str) -> None:
        self._wire, self._ready, self._stopping = wire, Once(ready), stopping
        self._openapi, self._version = openapi, version

    async def live(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The process answers; nothing else is looked at, since a restart would mend nothing else."""
        return await self._wire.document(request, {"status": "live", "version": self._version})

    async def ready(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """503 while what is needed to serve (the store) is away, and when we are to stop: send callers elsewhere."""
        if self._stopping.begun:
            raise Unavailable("this process is about to stop.", retry_after=1.0)
        await self._ready()
        return await self._wire.document(request, {"status": "ready"})

    async def openapi(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return web.Response(body=self._openapi, content_type="application/json")
