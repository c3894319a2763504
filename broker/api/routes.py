"""Every call that this server answers, on one page: method, path, who may, and what does it. Imports the handlers.

The order of a call: problems (errors become documents) → door (who is it, may they) → format (can the answer be read)
→ handler. Services come in finished; nothing is looked up here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from aiohttp import hdrs, web

from broker.api.auth import Door, Policy
from broker.api.doubts import DoubtCalls
from broker.api.events import EventCalls
from broker.api.health import Health, Ready
from broker.api.identities import IdentityCalls
from broker.api.manner import Repeats
from broker.api.needs import Acceptance, Doubts, Draw, Events, Identities, Keys, Offers, Sessions, Sites, Status
from broker.api.offersets import Offersets
from broker.api.problems import problems
from broker.api.sessions import SessionCalls
from broker.api.sites import SiteCalls
from broker.api.status import StatusCalls
from broker.api.wire import DEFAULT, JSON, Codec, Limits, Wire, negotiate
from broker.domain import hops
from broker.domain.identity import Caller
from broker.services.access import Access
from broker.services.rights import Readers
from broker.services.stopping import Stopping

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "") + " "
Call = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]
CALLER = web.RequestKey("caller", Caller)


@dataclass(frozen=True)
class Parts:
    """What a server is made of. `draw_offerset` and `draw_session` are of api/answers; `openapi` is the description
    as it is served; `public_url` None: URLs in answers follow each caller's own Host header;
    `default`: the format where a caller names none."""

    offers: Offers
    acceptance: Acceptance
    doubts: Doubts
    sessions: Sessions
    sites: Sites
    status: Status
    access: Access
    identities: Identities
    keys: Keys
    events: Events
    ready: Ready
    draw_offerset: Draw
    draw_session: Draw
    openapi: bytes
    broker_id: str
    version: str
    public_url: str | None = None
    readers: Readers = "own"
    limits: Limits = field(default_factory=Limits)
    default: Codec = JSON
    stopping: Stopping = field(default_factory=Stopping)


@dataclass(frozen=True)
class Route:
    """`document`: the answer is written in the caller's format, so whoever can read none of ours is told before
    anything is done. `head`: a GET that can do without sending its body answers HEAD as well."""

    method: str
    path: str
    policy: Policy
    call: Call
    document: bool = True
    head: bool = True


def routes(parts: Parts) -> Iterator[Route]:
    """Fixed paths stand before those with a name in them: the first that fits is taken."""
    wire = Wire(parts.limits, parts.public_url)
    repeats = Repeats(parts.keys)
    sets = Offersets(wire, parts.offers, repeats, parts.draw_offerset, parts.broker_id)
    sessions = SessionCalls(wire, parts.sessions, parts.acceptance, repeats, parts.draw_session, parts.broker_id)
    events = EventCalls(wire, parts.events, parts.draw_offerset, parts.draw_session)
    sites, status = SiteCalls(wire, parts.sites), StatusCalls(wire, parts.status)
    health = Health(wire, parts.ready, parts.stopping, parts.openapi, parts.version)
    identities = IdentityCalls(wire, parts.identities)
    doubts = DoubtCalls(wire, parts.doubts, parts.draw_session)
    public, reader, user, operator = Policy.PUBLIC, Policy.READER, Policy.USER, Policy.OPERATOR

    yield Route("POST", "/requests", user, sets.ask)
    yield Route("GET", "/offersets", reader, sets.list)
    yield Route("GET", "/offersets/{uuid}", reader, sets.get)
    yield Route("GET", "/offersets/{uuid}/request", reader, sets.request)
    yield Route("GET", "/offersets/{uuid}/events", reader, events.offerset, document=False, head=False)

    yield Route("POST", "/direct", user, sessions.direct)
    yield Route("GET", "/sessions", reader, sessions.list)
    yield Route("POST", "/sessions/release", user, sessions.release, document=False)
    yield Route("POST", "/sessions/status", reader, sessions.status)
    yield Route("GET", "/sessions/{uuid}", reader, sessions.get)
    yield Route("POST", "/sessions/{uuid}", user, sessions.update)
    yield Route("GET", "/sessions/{uuid}/events", reader, events.session, document=False, head=False)
    yield Route("GET", "/sessions/{uuid}/logs", reader, sessions.logs, document=False)
    yield Route("GET", "/sessions/{uuid}/results", reader, sessions.results)
    yield Route("GET", "/sessions/{uuid}/results/{name:.+}", reader, sessions.fetch, document=False, head=False)

    yield Route("GET", "/doubts", operator, doubts.list)
    yield Route("POST", "/sessions/{uuid}/resolve", operator, doubts.resolve)

    yield Route("GET", "/sites", reader, sites.list)
    yield Route("GET", "/sites/{name}", reader, sites.get)
    yield Route("PUT", "/sites/{name}", operator, sites.put)
    yield Route("DELETE", "/sites/{name}", operator, sites.delete, document=False)
    yield Route("POST", "/sites/{name}/drain", operator, sites.drain)
    yield Route("POST", "/sites/{name}/resume", operator, sites.resume)
    yield Route("POST", "/sites/{name}/forget", operator, sites.forget)
    yield Route("GET", "/profile", reader, sites.profile)

    yield Route("POST", "/admin/identities", Policy.ADMINISTRATOR, identities.make)

    yield Route("GET", "/status", reader, status.status)
    yield Route("GET", "/metrics", reader, status.metrics, document=False)
    yield Route("GET", "/openapi.json", public, health.openapi, document=False)
    yield Route("GET", "/health/live", public, health.live)
    yield Route("GET", "/health/ready", public, health.ready)


def build_app(parts: Parts) -> web.Application:
    """The web application on finished services. It owns none of them and closes none."""
    door = Door(parts.access, parts.readers, parts.public_url)
    app = web.Application(middlewares=[problems])
    app[DEFAULT] = parts.default
    methods: dict[str, list[str]] = {}
    for route in routes(parts):
        handler = _guarded(route, door)
        for method in _methods(route):
            app.router.add_route(method, route.path, handler)
            methods.setdefault(route.path, []).append(method)
    for path, allowed in methods.items():
        app.router.add_route("OPTIONS", path, _options([*allowed, "OPTIONS"]))
    app.on_shutdown.append(_ends(parts.events))
    app.on_response_prepare.append(_signature(parts.broker_id, parts.stopping))
    return app


def _methods(route: Route) -> tuple[str, ...]:
    return ("GET", "HEAD") if route.method == "GET" and route.head else (route.method,)


def _options(allowed: Sequence[str]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """For everybody: it says no more than the published description does."""

    async def options(_: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={hdrs.ALLOW: ", ".join(sorted(allowed))})

    return options


def _guarded(route: Route, door: Door) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        caller = await door.admit(request, route.policy)
        request[CALLER] = caller
        if route.document:
            negotiate(request)
        return await route.call(request, caller)

    return handle


def _ends(events: Events) -> Callable[[web.Application], Awaitable[None]]:
    """A server that stops waits for its answers, and a stream has no end of its own."""

    async def end(_: web.Application) -> None:
        events.close()

    return end


def _signature(broker_id: str, stopping: Stopping) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """Headers of every answer, errors and files included."""

    async def sign(request: web.Request, response: web.StreamResponse) -> None:
        response.headers[hops.ID] = broker_id
        response.headers["X-Content-Type-Options"] = "nosniff"
        caller = request.get(CALLER)
        # AuthVO: on authenticated answers, and on no others.
        if caller is not None and not caller.anonymous:
            response.headers["X-VO-Authenticated"] = quote(caller.owner.subject, safe=_PRINTABLE)
        if response.status == 204:
            response.headers.pop(hdrs.CONTENT_TYPE, None)
        if stopping.begun:  # nobody shall send a next call where it would be cut off
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    return sign
