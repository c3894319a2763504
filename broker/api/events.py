"""Sets and sessions as streams of server-sent events. Imports wire, paths, needs, the domain, aiohttp.

Each event is the whole document in JSON, as GET has it, under the aggregate's version as its id. A client that comes
back with Last-Event-ID goes on from there; 204 tells it that nothing more will come (WHATWG HTML, 9.2).
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

import structlog
from aiohttp import hdrs, web

from broker.api.needs import Change, Draw, Events
from broker.api.paths import uuid_of
from broker.api.wire import Wire, accepts
from broker.domain.identity import Caller
from broker.errors import BrokerError, NotAcceptable, TooMany

_log = structlog.get_logger(__name__)

MEDIA = "text/event-stream"
MOST = 100  # streams of one account at a time
RETRY = 2000  # milliseconds after which a client comes back
STALL = 30.0  # seconds for which a reader may take nothing


class EventCalls:
    def __init__(self, wire: Wire, events: Events, draw_offerset: Draw, draw_session: Draw) -> None:
        self._wire, self._events = wire, events
        self._draw_offerset, self._draw_session = draw_offerset, draw_session
        self._open: Counter[str] = Counter()

    async def offerset(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        uuid = uuid_of(request, "offer set")
        with self._counted(request, caller):
            changes = await self._events.follow_set(uuid, caller, _cursor(request))
            return await self._stream(request, caller, "offerset", changes, self._draw_offerset)

    async def session(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        uuid = uuid_of(request, "session")
        with self._counted(request, caller):
            changes = await self._events.follow_session(uuid, caller, _cursor(request))
            return await self._stream(request, caller, "session", changes, self._draw_session)

    @contextmanager
    def _counted(self, request: web.Request, caller: Caller) -> Iterator[None]:
        if not accepts(request, MEDIA):
            raise NotAcceptable("events are written as text/event-stream alone.", remedy=f"Accept {MEDIA}.")
        if self._open[caller.account] >= MOST:
            raise TooMany(f"{MOST} streams of yours are open.", remedy="Close one.", retry_after=RETRY / 1000)
        self._open[caller.account] += 1
        try:
            yield
        finally:
            self._open[caller.account] -= 1

    async def _stream(
        self,
        request: web.Request,
        caller: Caller,
        name: str,
        changes: AsyncGenerator[Change | None, None] | None,
        draw: Draw,
    ) -> web.StreamResponse:
        if changes is None:
            return web.Response(status=204)
        base = self._wire.base(request)
        response = web.StreamResponse(headers={hdrs.CACHE_CONTROL: "no-store", "X-Accel-Buffering": "no"})
        response.content_type = MEDIA
        await response.prepare(request)
        try:
            await _write(response, b"retry: %d\n\n" % RETRY)
            last = b""
            async with aclosing(changes):
                async for change in changes:
                    body = draw(change.state, base, caller) if change else last
                    # A session's aggregate is its set's: it may have changed in what does not concern the session.
                    piece = b":\n\n" if change is None or body == last else _event(name, change.cursor, body)
                    last = body
                    await _write(response, piece)
        except (ConnectionError, TimeoutError) as error:
            _log.info("reader left", stream=request.path, error=type(error).__name__)
        except BrokerError as error:  # the reader comes back, and is told then
            _log.info("stream ended", stream=request.path, why=error.detail)
        except Exception:
            _log.exception("stream broken off", stream=request.path)
        return response


def _cursor(request: web.Request) -> int | None:
    """None: from the present state on, also for what is no cursor of ours."""
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None


def _event(name: str, cursor: int, body: bytes) -> bytes:
    """What sites wrote stands in the document as they wrote it, line ends between its tokens too."""
    data = b"\n".join(b"data: " + line for line in body.splitlines())
    return b"event: %s\nid: %d\n%s\n\n" % (name.encode(), cursor, data)


async def _write(response: web.StreamResponse, piece: bytes) -> None:
    async with asyncio.timeout(STALL):
        await response.write(piece)
