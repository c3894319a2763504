"""Small sites on real sockets that speak the older dialects of the Execution Broker, for tests of whoever meets one.

Letters and forms: docs/protocol.md 1.7. Each knows its own words alone: a question in another dialect is refused with
400, an unknown path with 404. Imports aiohttp's server side and the domain's times.

    async with OldSite("C") as site:
        ...
        assert set(site.phases.values()) == {"REJECTED"}
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import yaml
from aiohttp import web

from broker.domain.quantities import format_instant

_PURL = "https://www.purl.org/ivoa.net/"
_FORMER = f"{_PURL}EB/schema/v1.0/types/"
_DOCKER = {
    "E": f"{_FORMER}executable/docker-container-1.0",
    "D": f"{_PURL}EB/schema/types/executable/docker-container-1.0",
    "C": f"{_PURL}EB/schema/types/executables/docker-container-1.0",
    "B": f"{_PURL}executable-types/docker-container",
}
_COMPUTE = {
    "E": f"{_FORMER}compute/simple-compute-resource-1.0",
    "D": f"{_PURL}EB/schema/types/compute/simple-compute-resource-1.0",
    "C": f"{_PURL}EB/schema/types/resources/compute/simple-compute-resource-1.0",
}
_LIFE = 300.0  # seconds
_HOUR = "PT1H"


@dataclass(frozen=True)
class Refused(Exception):
    status: int
    text: str = ""


@dataclass
class OldSite:
    """`letter` is one of A to E. `declines`: every answer is NO. `phases`: offer → phase, as the site has it; `stuck`:
    it answers every update with 200 and changes nothing."""

    letter: str
    declines: bool = False
    stuck: bool = False
    phases: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # method and path of every call
    url: str = ""

    def __post_init__(self) -> None:
        self._asks, self._draw = _SPEECH[self.letter]
        self._sets: dict[str, list[str]] = {}
        self._expires = format_instant(time.time() + _LIFE)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.path))
        try:
            return self._write(request, *self._answer(request, await request.read()))
        except Refused as refused:
            return web.json_response({"status": refused.status, "message": refused.text}, status=refused.status)

    def _answer(self, request: web.Request, body: bytes) -> tuple[int, Mapping[str, Any], str]:
        """Status, document, Location. Raises Refused."""
        parts = request.path.strip("/").split("/")
        if (request.method, parts) == (self._asks[0], [self._asks[1]]):
            return self._quote(request, body)
        if self.letter in "CDE" and parts[0] == "offersets" and parts[-1] in self._sets and request.method == "GET":
            return 200, self._set(parts[-1]), ""
        place = "offers" if self.letter == "B" else "sessions"
        if self.letter != "A" and parts[0] == place and parts[-1] in self.phases:
            if request.method == "POST":
                self._update(parts[-1], _read(body))
            return 200, self._draw(self, parts[-1]), ""
        raise Refused(404)

    def _quote(self, request: web.Request, body: bytes) -> tuple[int, Mapping[str, Any], str]:
        if self.letter == "A":
            known = request.query.get("tasktype") == "docker-container" and not self.declines
            return 200, {"reponseword": "YES" if known else "NO", **({"url": f"{self.url}/run"} if known else {})}, ""
        document = _read(body)
        self._understood(document)
        name = str(uuid4())
        self._sets[name] = [] if self.declines else [str(uuid4()), str(uuid4())]
        self.phases.update(dict.fromkeys(self._sets[name], "OFFERED"))
        if self.letter == "B":
            return 200, self._response(name), ""
        return 303, self._set(name), f"{self.url}/offersets/{name}"

    def _understood(self, document: Mapping[str, Any]) -> None:
        """Raises Refused, in the words of a Java service, for another dialect's request."""
        request = document.get("request", {}) if self.letter == "B" else document
        named = "kind" if self.letter == "E" else "type"
        said = (request.get("executable") or {}).get(named)
        if said != _DOCKER[self.letter]:
            raise Refused(400, f"Could not resolve type id '{said}': known type ids = [{_DOCKER[self.letter]}]")
        if self.letter == "C" and "resources" not in request:
            raise Refused(400, "resources is missing")

    def _update(self, name: str, document: Mapping[str, Any]) -> None:
        """Raises Refused for what is no update of this dialect."""
        if self.letter == "B":
            value = document.get("offer", {}).get("status")
        elif self.letter == "E":
            value = document.get("value") if "kind" in document else None
        else:
            value = document.get("update", {}).get("value")
        if value is None:
            raise Refused(400, "no update")
        if value in ("ACCEPTED", "REJECTED") and self.phases[name] == "OFFERED" and not self.stuck:
            self.phases[name] = value

    # ── the words ────────────────────────────────────────────────────────────────────────────────────────────

    def _set(self, name: str) -> dict[str, Any]:
        offers = [self._draw(self, offer) for offer in self._sets[name]]
        document: dict[str, Any] = {"result": "YES" if offers else "NO"}
        reasons = (
            [] if offers else [{"kind": "urn:no", "level": "WARN", "template": "too small", "message": "too small"}]
        )
        if self.letter == "E":
            kind = f"{_FORMER}offerset/execution-offerset-1.0"
            meta = {"uuid": name, "url": f"{self.url}/offersets/{name}", "messages": reasons}
            return {"kind": kind, "meta": meta, **document, "offers": offers}
        flat = {"uuid": name, "href": f"{self.url}/offersets/{name}", "messages": reasons}
        return {**flat, **document, "offers": offers}

    def _response(self, name: str) -> dict[str, Any]:
        if not self._sets[name]:
            return {"response": {"result": "NO", "reasons": [{"path": "/request", "text": "too small"}]}}
        offers = [self._draw(self, offer)["offer"] for offer in self._sets[name]]
        return {"response": {"result": "YES", "offers": offers}}

    def _write(self, request: web.Request, status: int, document: Mapping[str, Any], location: str) -> web.Response:
        headers = {"Location": location} if location else {}
        if self.letter == "B" and "json" not in request.headers.get("Accept", ""):
            text = yaml.safe_dump(dict(document))
            return web.Response(status=status, text=text, content_type="application/yaml", headers=headers)
        return web.json_response(dict(document), status=status, headers=headers)


def _read(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        raise Refused(400, "no JSON") from None
    if not isinstance(document, dict):
        raise Refused(400, "no object")
    return document


# ── an offer, in each dialect ────────────────────────────────────────────────────────────────────────────────


def _start() -> str:
    return f"{format_instant(int(time.time()))}/PT0S"


def _draw_e(site: OldSite, name: str) -> dict[str, Any]:
    schedule = {"available": {"start": _start(), "duration": _HOUR}}
    return {
        "kind": f"{_FORMER}session/scheduled-execution-session-1.0",
        "meta": {"uuid": name, "url": f"{site.url}/sessions/{name}"},
        "phase": site.phases[name],
        "expires": site._expires,
        "executable": {"kind": _DOCKER["E"]},
        "compute": {
            "kind": _COMPUTE["E"], "cores": {"min": 1, "max": 1}, "memory": {"min": 3, "max": 3}, "schedule": schedule,
        },
    }  # fmt: skip


def _flat(site: OldSite, name: str) -> dict[str, Any]:
    return {
        "uuid": name,
        "href": f"{site.url}/sessions/{name}",
        "type": f"{_PURL}EB/schema/types/session/execution-session-1.0",
        "expires": site._expires,
        "executable": {"type": _DOCKER[site.letter]},
        "options": [{"type": "uri:enum-value-option", "path": "/phase", "values": ["ACCEPTED", "REJECTED"]}],
    }


def _draw_d(site: OldSite, name: str) -> dict[str, Any]:
    schedule = {"available": {"start": _start(), "duration": _HOUR}}
    compute = {"type": _COMPUTE["D"], "cores": {"min": 1, "max": 1}, "memory": {"min": 3, "max": 3}}
    return {**_flat(site, name), "phase": site.phases[name], "compute": {**compute, "schedule": schedule}}


def _draw_c(site: OldSite, name: str) -> dict[str, Any]:
    """As its description has it: `state`, and pairs of what was requested and what is offered."""
    pair = {"requested": {"min": 1, "max": 1}, "offered": {"min": 1, "max": 1}}
    three = {"requested": {"min": 3, "max": 3}, "offered": {"min": 3, "max": 3}}
    compute = {"type": _COMPUTE["C"], "cores": pair, "memory": three}
    schedule = {"executing": {"start": _start(), "duration": _HOUR}}
    resources = {"compute": [compute]}
    return {**_flat(site, name), "state": site.phases[name], "resources": resources, "schedule": schedule}


def _draw_b(site: OldSite, name: str) -> dict[str, Any]:
    spec = {"cores": {"min": 1, "max": 1}, "memory": {"min": 3, "max": 3}}
    filled = {
        "executable": {"type": _DOCKER["B"], "spec": {}},
        "resources": {"compute": [{"name": "broker-check", "spec": spec}]},
        "datetime": [{"start": _start(), "duration": {"min": _HOUR, "max": _HOUR}}],
    }
    offer = {"ident": name, "status": site.phases[name], "expires": site._expires, "request": filled}
    return {"offer": offer}


def _draw_a(site: OldSite, name: str) -> dict[str, Any]:
    raise Refused(404)


Draw = Callable[[OldSite, str], dict[str, Any]]
_SPEECH: Mapping[str, tuple[tuple[str, str], Draw]] = {
    "E": (("POST", "offersets"), _draw_e),
    "D": (("POST", "offersets"), _draw_d),
    "C": (("POST", "offersets"), _draw_c),
    "B": (("POST", "request"), _draw_b),
    "A": (("GET", "accepts"), _draw_a),
}
