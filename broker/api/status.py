"""The calls of dashboards: the aggregated status and the metrics. Imports wire, needs."""

from __future__ import annotations

from hashlib import blake2b

import msgspec
from aiohttp import web

from broker.api.needs import Status
from broker.api.wire import Wire
from broker.domain.identity import Caller

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class StatusCalls:
    def __init__(self, wire: Wire, status: Status) -> None:
        self._wire, self._status = wire, status

    async def status(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """The ETag leaves out the time of the look and which replica took it: it changes when something else does."""
        snapshot = await self._status.snapshot(caller)
        lasting = {key: value for key, value in snapshot.items() if key not in ("time", "replica")}
        etag = blake2b(msgspec.json.encode(lasting), digest_size=12).hexdigest()
        return await self._wire.answer(request, msgspec.json.encode(snapshot), etag=etag)

    async def metrics(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        headers = {"Content-Type": _PROMETHEUS, "Cache-Control": "no-store"}
        return web.Response(body=await self._status.metrics(), headers=headers)
