"""Errors as RFC 9457 problem documents, in the caller's format. Imports wire, the errors, aiohttp.

Services raise the classes of broker/errors.py and know no HTTP; this table is where the two meet. Members beside the
standard's: `element` (dotted path of what is wrong) and `remedy` (what to do next). What nobody expected is logged
with its traceback under an incident number, and the caller gets that number and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
import structlog
from aiohttp import hdrs, web

from broker import errors
from broker.api.wire import preferred
from broker.api.xmlforms import PROBLEM
from broker.errors import BadInput, BrokerError, SettingsError

_log = structlog.get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CHALLENGE = 'Basic realm="execution broker", charset="UTF-8"'


class Problem(NamedTuple):
    status: int
    slug: str
    title: str

    @property
    def type(self) -> str:
        return f"uri:problem-{self.slug}-1.0"


# The nearest class of an error's ancestry counts.
TABLE: Mapping[type[BrokerError], Problem] = MappingProxyType(
    {
        errors.BadInput: Problem(400, "bad-input", "The request cannot be used"),
        errors.Malformed: Problem(400, "malformed", "The body cannot be read"),
        errors.Dangling: Problem(400, "dangling", "A reference leads nowhere"),
        errors.UnknownKind: Problem(400, "unknown-kind", "A kind is unknown"),
        errors.NotSignedIn: Problem(401, "not-signed-in", "Signing in is needed"),
        errors.NotAllowed: Problem(403, "not-allowed", "Not allowed"),
        errors.NotFound: Problem(404, "not-found", "Not found"),
        errors.NotAcceptable: Problem(406, "not-acceptable", "No such format is written here"),
        errors.Conflict: Problem(409, "conflict", "Not possible now"),
        errors.TooLarge: Problem(413, "too-large", "Too large"),
        errors.UnsupportedMediaType: Problem(415, "unsupported-media-type", "No such format is read here"),
        errors.KeyReused: Problem(422, "key-reused", "The Idempotency-Key belongs to another request"),
        errors.TooMany: Problem(429, "too-many", "Too many"),
        errors.Unavailable: Problem(503, "unavailable", "Not available now"),
        errors.LoopDetected: Problem(508, "loop", "The request has been here already"),
        # At run time settings come in by PUT /sites/{name} alone, so they are the caller's.
        errors.SettingsError: Problem(400, "bad-settings", "A setting cannot be used"),
        errors.SiteError: Problem(502, "site", "A site failed"),
        errors.SiteUnreachable: Problem(502, "site-unreachable", "A site cannot be reached"),
        errors.SiteRefused: Problem(502, "site-refused", "A site refused"),
        errors.SiteForbids: Problem(502, "site-forbids", "A site does not let us in"),
        errors.SiteBusy: Problem(503, "site-busy", "A site is busy"),
        errors.SiteTimeout: Problem(504, "site-timeout", "A site did not answer in time"),
        errors.SiteMisbehaved: Problem(502, "site-misbehaved", "A site answered with something that is no answer"),
        errors.SiteForgot: Problem(404, "site-forgot", "The site knows no such thing"),
    }
)
_INTERNAL = Problem(500, "internal", "Something went wrong here")


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: whatever leaves the handlers as an exception leaves the server as a document."""
    try:
        return await handler(request)
    except BrokerError as error:
        return known(request, error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _http(request, error)
    except Exception:
        incident = str(uuid4())
        _log.exception("incident", incident=incident, method=request.method, path=request.path)
        return _render(
            request,
            _INTERNAL,
            {
                "detail": f"Incident {incident}.",
                "remedy": "Tell this number to whoever runs this broker.",
                "instance": f"urn:uuid:{incident}",
            },
        )


def problem_of(error: BrokerError) -> Problem:
    """The table's line for the error's nearest ancestor."""
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), _INTERNAL)


def known(request: web.Request, error: BrokerError, /, **more: str) -> web.Response:
    """The document of an error of ours, with `more` members."""
    members: dict[str, Any] = {**more, "detail": error.detail}
    if isinstance(error, BadInput):
        members["element"] = error.element
    elif isinstance(error, SettingsError):
        members["element"] = error.key
    members["remedy"] = error.remedy
    headers: dict[str, str] = {}
    wait = getattr(error, "retry_after", None)  # of those that may pass by themselves
    if wait is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(wait)))
    problem = problem_of(error)
    if problem.status == 401:
        headers[hdrs.WWW_AUTHENTICATE] = CHALLENGE
    return _render(request, problem, members, headers)


def _http(request: web.Request, error: web.HTTPException) -> web.Response:
    """aiohttp's own: no such path, no such method …"""
    members, headers = {"detail": f"{error.reason}."}, dict[str, str]()
    if isinstance(error, web.HTTPNotFound):
        members = {"detail": f"nothing is at {request.path}.", "remedy": "GET /openapi.json says what is where."}
    elif isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        members = {"detail": f"{request.method} cannot be done at {request.path}.", "remedy": f"There are: {allowed}."}
        headers[hdrs.ALLOW] = allowed
    slug = error.reason.lower().replace(" ", "-")
    return _render(request, Problem(error.status, slug, error.reason), members, headers)


def _render(
    request: web.Request, problem: Problem, members: Mapping[str, str], headers: Mapping[str, str] | None = None
) -> web.Response:
    codec = preferred(request)
    document = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "instance": request.path,
        # Texts of any origin: header names are no plain str, and a header's bytes may be half a character.
        **{name: text.encode(errors="replace").decode() for name, text in members.items() if text},
    }
    return web.Response(
        body=codec.encode(msgspec.json.encode(document), PROBLEM),
        status=problem.status,
        content_type=codec.problem,
        headers={hdrs.VARY: "Accept, Authorization", hdrs.CACHE_CONTROL: "no-store", **(headers or {})},
    )
