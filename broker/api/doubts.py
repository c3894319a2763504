"""The calls about acceptances in doubt, for operators. Imports wire, xmlforms, needs, paths."""

from __future__ import annotations

from aiohttp import web
from pydantic import ConfigDict

from broker.api.needs import Doubts, Draw
from broker.api.paths import uuid_of
from broker.api.wire import Wire
from broker.api.xmlforms import root_of
from broker.domain.base import Flag, Model, Text
from broker.domain.identity import Caller
from broker.domain.quantities import format_instant
from broker.domain.session import AbstractExecutionSession
from broker.services.doubts import Doubt


class Verdict(Model):
    """*Ours*: how an acceptance ended, by the word of a person. `because`: who said so, or where it was seen."""

    model_config = ConfigDict(extra="forbid")

    taken: Flag
    because: Text


class DoubtCalls:
    def __init__(self, wire: Wire, doubts: Doubts, draw: Draw) -> None:
        self._wire, self._doubts, self._draw = wire, doubts, draw

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base = self._wire.base(request)
        found = await self._doubts.list(caller)
        return await self._wire.document(request, {"doubts": [_shown(doubt, base) for doubt in found]})

    async def resolve(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base, uuid = self._wire.base(request), uuid_of(request, "session")
        said = await self._wire.read(request, Verdict)
        state = await self._doubts.decide(uuid, said.taken, said.because, caller)
        drawn = self._draw(state, base, caller)
        return await self._wire.answer(request, drawn, root=root_of(AbstractExecutionSession))


def _shown(doubt: Doubt, base: str) -> dict[str, object]:
    return {
        "session": str(doubt.session),
        "url": f"{base}/sessions/{doubt.session}",
        "offerset": f"{base}/offersets/{doubt.set}",
        "site": doubt.site,
        "handle": doubt.handle,
        "native": doubt.native or None,
        "name": doubt.name or None,
        "owner": doubt.owner,
        "since": format_instant(round(doubt.since)),
        "tries": doubt.tries,
        "withdrawing": doubt.fencing,
        "reason": doubt.reason,
    }
