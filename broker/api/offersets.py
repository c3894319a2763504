"""The calls about offer sets: asking, reading, listing. Imports wire, xmlforms, lists, hearing, hop, manner, needs."""

from __future__ import annotations

from aiohttp import web

from broker.api import lists
from broker.api.hearing import while_heard
from broker.api.hop import read_hop
from broker.api.manner import Repeats, read_manner
from broker.api.needs import Draw, Offers
from broker.api.paths import uuid_of
from broker.api.wire import Wire
from broker.api.xmlforms import root_of
from broker.domain.identity import Caller
from broker.domain.request import ExecutionRequest
from broker.domain.session import OfferSetResponse

_ROOT = root_of(OfferSetResponse)


class Offersets:
    def __init__(self, wire: Wire, offers: Offers, repeats: Repeats, draw: Draw, broker_id: str) -> None:
        self._wire, self._offers, self._repeats = wire, offers, repeats
        self._draw, self._id = draw, broker_id

    async def ask(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """303 with the set as its body: some clients read the body, some follow the Location (protocol.md 1.1)."""
        base, hop, manner = self._wire.base(request), read_hop(request, self._id), read_manner(request)
        wanted = await self._wire.read(request, ExecutionRequest)
        asking = self._repeats.new(
            manner,
            caller,
            call="POST /requests",
            asked=wanted,
            act=lambda how: self._offers.ask(wanted, caller, hop, how),
            show=lambda uuid: self._offers.get(uuid, caller),
        )
        # Who sends a key may come back with it, and then wants what the first sending made.
        state = await (asking if manner.key else while_heard(request, asking))
        location = f"{base}/offersets/{state.uuid}"
        response = await self._wire.answer(
            request, self._draw(state, base, caller), status=303, location=location, root=_ROOT
        )
        response.headers.update(manner.applied(later=True))
        return response

    async def get(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base = self._wire.base(request)
        state = await self._offers.get(uuid_of(request, "offer set"), caller)
        return await self._wire.answer(request, self._draw(state, base, caller), tagged=True, root=_ROOT)

    async def request(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        body = await self._offers.request(uuid_of(request, "offer set"), caller)
        return await self._wire.answer(request, body, tagged=True, root=root_of(ExecutionRequest))

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base, page = self._wire.base(request), lists.page(request)
        found = await self._offers.list(
            caller, after=page.after, limit=page.limit, everyone=page.everyone, name=page.name, since=page.since
        )
        return await self._wire.document(request, lists.show("offersets", found, base, page))
