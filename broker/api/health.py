"""For whoever supervises this process, and for whoever wants to know how to call it. Imports wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web

from broker.api.wire import Wire
from broker.domain.identity import Caller

Ready = Callable[[], Awaitable[None]]  # raises Unavailable


class Health:
    def __init__(self, wire: Wire, ready: Ready, openapi: bytes, version: str) -> None:
        self._wire, self._ready, self._openapi, self._version = wire, ready, openapi, version

    async def live(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The process answers; nothing else is looked at, since a restart would mend nothing else."""
        return await self._wire.document(request, {"status": "live", "version": self._version})

    async def ready(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """503 while what is needed to serve (the store) is away: send callers elsewhere."""
        await self._ready()
        return await self._wire.document(request, {"status": "ready"})

    async def openapi(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return web.Response(body=self._openapi, content_type="application/json")
