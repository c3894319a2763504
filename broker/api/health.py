"""For whoever supervises this process, and for whoever wants to know how to call it. Imports wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.api.wire import Wire
from broker.domain.identity import Caller
from broker.errors import Unavailable
from broker.services.stopping import Stopping

Ready = Callable[[], Awaitable[None]]  # raises Unavailable


class Health:
    def __init__(self, wire: Wire, ready: Ready, stopping: Stopping, openapi: bytes, version: str) -> None:
        self._wire, self._ready, self._stopping = wire, ready, stopping
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
