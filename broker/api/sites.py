"""The calls about sites, for operators; and what this broker is as a site itself. Imports wire, xmlforms, needs."""

from __future__ import annotations

from aiohttp import web
from pydantic import ConfigDict, TypeAdapter, ValidationError

from broker.api.needs import Sites
from broker.api.wire import Wire
from broker.api.xmlforms import root_of
from broker.domain.base import Model
from broker.domain.identity import Caller
from broker.domain.quantities import Instant
from broker.domain.site import Name, Profile, Registration
from broker.errors import BadInput, NotFound


class Drain(Model):
    """*Ours*: until when a site is asked for nothing new; absent: until it is resumed."""

    model_config = ConfigDict(extra="forbid")

    until: Instant | None = None


class SiteCalls:
    def __init__(self, wire: Wire, sites: Sites) -> None:
        self._wire, self._sites = wire, sites
        self._name: TypeAdapter[str] = TypeAdapter(Name, config=ConfigDict(regex_engine="python-re"))

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return await self._wire.document(request, {"sites": self._sites.list()})

    async def get(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return await self._wire.document(request, self._sites.get(self._site(request)))

    async def put(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name = self._new_name(request)
        site = await self._wire.read(request, Registration)
        return await self._wire.document(request, await self._sites.put(name, site, caller))

    async def delete(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        await self._sites.delete(self._site(request), caller)
        return web.Response(status=204)

    async def drain(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name = self._site(request)
        asked = await self._wire.read(request, Drain, default=Drain())
        return await self._wire.document(request, await self._sites.drain(name, asked.until, caller))

    async def resume(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return await self._wire.document(request, await self._sites.resume(self._site(request), caller))

    async def forget(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        return await self._wire.document(request, await self._sites.forget(self._site(request), caller))

    async def profile(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """What this broker can do, for a broker above it."""
        return await self._wire.document(request, self._sites.profile().to_wire(), root=root_of(Profile))

    def _new_name(self, request: web.Request) -> str:
        try:
            return self._name.validate_python(request.match_info["name"])
        except ValidationError:
            raise BadInput(
                "a site's name is lower-case letters, digits, dots and dashes, 63 at most.", element="name"
            ) from None

    def _site(self, request: web.Request) -> str:
        """Raises NotFound for what can be no site's name."""
        try:
            return self._name.validate_python(request.match_info["name"])
        except ValidationError:
            raise NotFound("no site has such a name.", remedy="List them with GET /sites.") from None
