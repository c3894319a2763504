"""The calls about sessions: reading, changing, listing, logs and results, and `/direct`.

Imports wire, xmlforms, lists, hop, manner, needs.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote
from uuid import UUID

import msgspec
from aiohttp import web
from pydantic import ConfigDict, Field

from broker.api import lists
from broker.api.hop import read_hop
from broker.api.manner import Repeats, read_manner
from broker.api.needs import Acceptance, Draw, Sessions
from broker.api.paths import result_name, uuid_of
from broker.api.wire import Wire
from broker.api.xmlforms import root_of
from broker.domain.base import Model, Text
from broker.domain.identity import Caller
from broker.domain.quantities import format_instant
from broker.domain.request import ExecutionRequest
from broker.domain.session import AbstractExecutionSession
from broker.domain.updates import AbstractUpdate
from broker.errors import BadInput, NotFound
from broker.ports import Result

_ROOT = root_of(AbstractExecutionSession)
MOST = 10_000  # sessions in one batch


class Handles(Model):
    """*Ours*: the body of a batch: the uuids of sessions."""

    model_config = ConfigDict(extra="forbid")

    sessions: Annotated[tuple[Text, ...], Field(max_length=MOST)]

    def sorted(self) -> tuple[list[UUID], list[str]]:
        """Those that can be sessions of ours, and those that cannot."""
        uuids, others = [], []
        for text in self.sessions:
            try:
                uuids.append(UUID(text))
            except ValueError:
                others.append(text)
        return uuids, others


class SessionCalls:
    def __init__(
        self, wire: Wire, sessions: Sessions, acceptance: Acceptance, repeats: Repeats, draw: Draw, broker_id: str
    ) -> None:
        self._wire, self._sessions, self._acceptance, self._repeats = wire, sessions, acceptance, repeats
        self._draw, self._id = draw, broker_id

    async def get(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base = self._wire.base(request)
        state = await self._sessions.get(uuid_of(request, "session"), caller)
        return await self._wire.answer(request, self._draw(state, base, caller), tagged=True, root=_ROOT)

    async def list(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base, page = self._wire.base(request), lists.page(request)
        if page.account:
            mine = await self._sessions.of_account(caller, after=page.after, limit=page.limit, phases=page.phases)
            return await self._wire.document(request, lists.show("sessions", mine, base, page))
        found = await self._sessions.list(
            caller,
            after=page.after,
            limit=page.limit,
            phases=page.phases,
            everyone=page.everyone,
            site=page.site,
            name=page.name,
            since=page.since,
        )
        return await self._wire.document(request, lists.show("sessions", found, base, page))

    async def update(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base, uuid = self._wire.base(request), uuid_of(request, "session")
        update = await self._wire.read(request, AbstractUpdate)
        state = await self._repeats.existing(
            read_manner(request),
            caller,
            call="POST /sessions",
            asked=update,
            uuid=uuid,
            act=lambda uuid: self._acceptance.update(uuid, update, caller),
            show=lambda uuid: self._sessions.get(uuid, caller),
        )
        return await self._wire.answer(request, self._draw(state, base, caller), root=_ROOT)

    async def direct(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """A refusal is, by the standard, a 400 with a session FAILED and its messages, not a problem document."""
        base, hop, manner = self._wire.base(request), read_hop(request, self._id), read_manner(request)
        wanted = await self._wire.read(request, ExecutionRequest)
        state = await self._repeats.new(
            manner,
            caller,
            call="POST /direct",
            asked=wanted,
            act=lambda how: self._acceptance.direct(wanted, caller, hop, msgspec.structs.replace(how, later=False)),
            show=lambda uuid: self._acceptance.directed(uuid, caller),
        )
        body = self._draw(state, base, caller)
        status, location = (400, None) if state.refused else (303, f"{base}/sessions/{state.uuid}")
        response = await self._wire.answer(request, body, status=status, location=location, root=_ROOT)
        response.headers.update(manner.applied(later=False))
        return response

    # ── batches, for brokers above ───────────────────────────────────────────────────────────────────────────

    async def release(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        uuids, _ = (await self._wire.read(request, Handles)).sorted()
        await self._acceptance.release(uuids, caller)
        return web.Response(status=204)

    async def status(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base = self._wire.base(request)
        uuids, others = (await self._wire.read(request, Handles)).sorted()
        states, unknown = await self._sessions.many(uuids, caller)
        drawn = [msgspec.Raw(self._draw(state, base, caller)) for state in states]
        return await self._wire.document(request, {"sessions": drawn, "unknown": [*map(str, unknown), *others]})

    # ── what a run left ──────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Both streams as a document, or one of them (`?stream=stdout`) as plain text."""
        stream = request.query.get("stream")
        if stream not in (None, "stdout", "stderr"):
            raise BadInput("stdout or stderr is wanted.", element="stream")
        logs = await self._sessions.logs(uuid_of(request, "session"), caller)
        if stream is None:
            return await self._wire.document(request, {"stdout": logs.stdout, "stderr": logs.stderr})
        return _text(logs.stdout if stream == "stdout" else logs.stderr, stream)

    async def results(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        base, uuid = self._wire.base(request), uuid_of(request, "session")
        found = await self._sessions.results(uuid, caller)
        return await self._wire.document(request, {"results": [_result(item, base, uuid) for item in found]})

    async def fetch(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        name = result_name(request)
        pieces = await self._sessions.fetch(uuid_of(request, "session"), name, caller)
        return await self._wire.stream(request, pieces, name)


def _text(text: str | None, stream: str) -> web.Response:
    if text is None:
        raise NotFound(f"the site keeps no {stream} of this session.")
    return web.Response(body=text.encode(errors="replace"), content_type="text/plain", charset="utf-8")


def _result(item: Result, base: str, uuid: UUID) -> dict[str, object]:
    """`url`: where it was written to, if it was; else where it is handed out from here, as it is in both cases."""
    return {
        "name": item.name,
        "bytes": item.bytes,
        "checksum": item.checksum,
        "url": item.url or f"{base}/sessions/{uuid}/results/{quote(item.name)}",
        "kept_until": format_instant(item.kept_until) if item.kept_until is not None else None,
        **({"written": True} if item.url else {}),
    }
