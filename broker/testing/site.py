"""A stateful Execution Broker 1.0 site on a real socket, scripted to behave like the field, and to misbehave.

For people who write adapters, and for this program's own tests. Imports the domain's kinds, the faults, aiohttp.

Behaves as the reference implementation does (protocol 1.0 as found in the field, 2026): 303 with the offer set as
body, for NO too; the memory of an offer holds its core count; no `options`; messages without values; 200 with an
unchanged session for a refused update; acceptances after expiry succeed; a restart forgets every session. With
`broker_id` it plays a broker of ours instead: /profile, batched status and release, logs and results.

    async with FakeSite("alba", price=1.2) as site:
        site.behave(quote="hang", accept=["after:reset", None])
        ...
        assert site.executions == {session: 1}
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import msgspec
from aiohttp import web

from broker.domain import kinds
from broker.domain.quantities import format_duration, format_instant
from broker.testing.faults import FAULTS, Scene, Sound, scripted

OPERATIONS = ("profile", "quote", "set", "accept", "release", "update", "status", "results")
_OPEN = ("INITIAL", "OFFERED", "ACCEPTED", "WAITING", "PREPARING", "AVAILABLE", "RUNNING")
# Which phases an update may start from (the reference implementation's own table).
_MOVES = {
    "ACCEPTED": ("OFFERED",),
    "REJECTED": ("OFFERED",),
    "CANCELLED": _OPEN,
    "FAILED": (*_OPEN, "RELEASING"),
}
_COURSE = ("ACCEPTED", "PREPARING", "AVAILABLE", "RELEASING", "COMPLETED")

Script = str | None | Sequence[str | None]


@dataclass
class Seen:
    """One request that came in, whatever became of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    operation: str

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Session:
    uuid: str
    set: str
    document: dict[str, Any]
    phase: str = "OFFERED"
    key: str | None = None  # the Idempotency-Key it was accepted by

    def wire(self) -> dict[str, Any]:
        return {**self.document, "phase": self.phase}


@dataclass(frozen=True)
class Terms:
    """What the site offers. `price` is the whole session's, without a unit as in the field; None: no costs.
    `starts_in`, `preparing`, `lasts` and `lives` (of the offer) are seconds."""

    price: float | None = 1.0
    energy: float | None = None
    carbon: float | None = None
    offers: int = 1
    starts_in: float = 0.0
    preparing: float | None = 5.0
    lasts: float | None = None
    lives: float = 300.0
    extra: Mapping[str, Any] = field(default_factory=dict)  # put into every session, replacing what is there


class FakeSite:
    """`async with`, or `start` and `stop`: the address stays the same across them, the memory too (`restart`
    forgets). `users`: name → password; then every POST needs one, as in the field. `declines`: the template of a NO.
    `auto`: each reading of a taken session moves it one phase on. `ahead`: seconds its clock is ahead of ours.
    """

    def __init__(
        self,
        name: str = "site",
        *,
        broker_id: str | None = None,
        profile: Mapping[str, Any] | None = None,
        users: Mapping[str, str] | None = None,
        declines: str | None = None,
        auto: bool = False,
        ahead: float = 0.0,
        now: Callable[[], float] = time.time,
        **terms: Any,
    ) -> None:
        self.name = name
        self.broker_id = broker_id
        self.profile = dict(profile or {})
        self.users = users
        self.declines = declines
        self.auto = auto
        self.page = 1000  # lines of a list; 0: a list without end
        self.terms = Terms(**terms)
        self.sessions: dict[str, Session] = {}
        self.executions: Counter[str] = Counter()
        self.requests: list[Seen] = []
        self.files: dict[str, dict[str, bytes]] = {}  # session → name → bytes, of a broker of ours
        self._now: Callable[[], float] = lambda: now() + ahead
        self._scripts: dict[str, list[str | None] | str] = {}
        self._sets: dict[str, dict[str, Any]] = {}
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._ended = asyncio.Event()
        self._came = asyncio.Event()

    # ── the test's side ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def behave(self, **scripts: Script) -> None:
        """Operation → a fault's name for every call from now on, a sequence for the next calls one by one (None: a
        sound answer), or None for sound again. `after:` before the name: what was asked is done first."""
        for operation, script in scripts.items():
            if operation not in OPERATIONS:
                raise ValueError(f"{operation}: not one of {', '.join(OPERATIONS)}")
            for name in [script] if isinstance(script, str) or script is None else script:
                if name is not None and scripted(name)[1] not in FAULTS:
                    raise ValueError(f"{name}: not one of {', '.join(FAULTS)}")
            if script is None:
                self._scripts.pop(operation, None)
            else:
                self._scripts[operation] = script if isinstance(script, str) else list(script)

    def advance(self, session: str, phase: str) -> None:
        self.sessions[session].phase = phase

    def restart(self) -> None:
        """Forget every set and session, as the reference implementation does."""
        self.sessions.clear()
        self._sets.clear()

    def seen(self, operation: str) -> list[Seen]:
        return [request for request in self.requests if request.operation == operation]

    async def arrived(self, operation: str, count: int = 1) -> None:
        """Returns when `count` requests of that operation have come in, answered or not."""
        while len(self.seen(operation)) < count:
            self._came.clear()
            await self._came.wait()

    async def start(self) -> None:
        self._ended.clear()
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._ended.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        operation = _operation(request.method, request.path, body)
        self.requests.append(Seen(request.method, request.path, dict(request.headers), body, operation))
        self._came.set()
        acts_first, fault, argument = scripted(self._next(operation))
        if operation == "results" and not fault:
            return self._file(request)
        # A fault is shown the sound answer, but a site that is down or hangs has done nothing.
        keeps = not fault or acts_first or fault not in _SILENT
        before = self._snapshot()
        sound = self._answer(request, body, operation)
        if not keeps:
            self._restore(before)
        if not fault:
            return self._sign(sound).response()
        return await FAULTS[fault](Scene(request, self._sign(sound), argument, self._ended))

    def _next(self, operation: str) -> str:
        script = self._scripts.get(operation)
        if isinstance(script, list):
            return (script.pop(0) if script else None) or ""
        return script or ""

    def _snapshot(self) -> tuple[dict[str, Session], Counter[str], dict[str, dict[str, Any]]]:
        sessions = {uuid: Session(**vars(session)) for uuid, session in self.sessions.items()}
        return sessions, Counter(self.executions), dict(self._sets)

    def _restore(self, before: tuple[dict[str, Session], Counter[str], dict[str, dict[str, Any]]]) -> None:
        self.sessions, self.executions, self._sets = before

    def _sign(self, sound: Sound) -> Sound:
        ours = {"Broker-Id": self.broker_id} if self.broker_id else {}
        stamp = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self._now()))
        return Sound(sound.status, sound.document, {"Date": stamp, **ours, **sound.headers})

    def _answer(self, request: web.Request, body: bytes, operation: str) -> Sound:
        if request.method == "POST" and not self._signed_in(request):
            return Sound(401, None, {"WWW-Authenticate": 'Basic realm="site"'})
        if self.broker_id and (ours := self._answer_ours(request, body)):
            return ours
        parts = request.path.strip("/").split("/")
        if operation == "quote":
            return self._quote(body)
        if operation == "set":
            document = self._sets.get(parts[-1])
            return Sound(200, document) if document else Sound(404)
        if len(parts) == 2 and parts[0] == "sessions":
            return self._session(parts[1], request, body)
        return Sound(404)

    def _signed_in(self, request: web.Request) -> bool:
        if self.users is None:
            return True
        pairs = (b64encode(f"{name}:{password}".encode()).decode() for name, password in self.users.items())
        return request.headers.get("Authorization") in {f"Basic {pair}" for pair in pairs}

    # ── version 1.0 ──────────────────────────────────────────────────────────────────────────────────────────

    def _quote(self, body: bytes) -> Sound:
        try:
            asked = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            return Sound(400, {"status": 400, "error": "Bad Request", "message": f"JSON parse error: {error}"})
        kind = asked.get("executable", {}).get("kind", "")
        if not kind.startswith(kinds.BASE) and not self.broker_id:
            return Sound(400, {"status": 400, "error": "Bad Request", "message": f"Could not resolve type id '{kind}'"})
        uuid = str(uuid4())
        offers = [] if self.declines else [self._offer(asked, uuid, i) for i in range(self.terms.offers)]
        document: dict[str, Any] = {
            "kind": kinds.OFFERSET,
            "meta": {"uuid": uuid, "name": "null", "url": f"{self.url}/offersets/{uuid}"},
            "result": "YES" if offers else "NO",
        }
        if offers:
            document["offers"] = [offer.wire() for offer in offers]
        elif self.declines:
            document["meta"]["messages"] = [_message(self.declines)]
        self._sets[uuid] = document
        return Sound(303, document, {"Location": f"{self.url}/offersets/{uuid}"})

    def _offer(self, asked: Mapping[str, Any], set_: str, index: int) -> Session:
        uuid = str(uuid4())
        document = {
            "kind": kinds.SCHEDULED_SESSION,
            "meta": {
                "uuid": uuid,
                "name": f"null-offer-{index}",
                "url": f"{self.url}/sessions/{uuid}",
                "created": format_instant(self._now()),
            },
            "expires": format_instant(self._now() + self.terms.lives),
            "executable": {**asked.get("executable", {}), **_epoch(f"executable-{index}")},
            "compute": self._compute(asked),
            **({"costs": self._costs()} if self._costs() else {}),
            **self.terms.extra,
        }
        session = self.sessions[uuid] = Session(uuid, set_, document)
        return session

    def _compute(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        compute = asked.get("compute") or {}
        cores = 2 * int((compute.get("cores") or {}).get("min", 1))
        start = self._now() + self.terms.starts_in
        lasts = self.terms.lasts
        asked_for = ((asked.get("schedule") or {}).get("requested") or {}).get("duration", "PT2H")
        schedule = {
            "available": {
                "start": f"{format_instant(start)}/PT0S",
                "duration": asked_for if lasts is None else format_duration(lasts),
            }
        }
        if self.terms.preparing is not None:
            lead = {"start": format_instant(start - self.terms.preparing)}
            schedule["preparing"] = {**lead, "duration": format_duration(self.terms.preparing)}
        return {
            "kind": kinds.SIMPLE_COMPUTE,
            "meta": {"uuid": str(uuid4()), "name": (compute.get("meta") or {}).get("name", "compute")},
            "cores": {"min": cores, "max": cores},
            "memory": {"min": cores, "max": cores},  # the reference implementation's bug
            "schedule": schedule,
        }

    def _costs(self) -> list[dict[str, Any]]:
        amounts = {
            kinds.MONETARY: self.terms.price, kinds.ENERGY: self.terms.energy, kinds.CARBON: self.terms.carbon
        }  # fmt: skip
        return [
            {"kind": kinds.MINMAX_COST, "type": type_, "min": amount, "max": amount}
            for type_, amount in amounts.items()
            if amount is not None
        ]

    def _session(self, uuid: str, request: web.Request, body: bytes) -> Sound:
        session = self.sessions.get(uuid)
        if session is None:
            return Sound(404)
        if request.method == "POST":
            update = msgspec.json.decode(body)
            if update.get("path") in ("/phase", "phase"):
                self._move(session, str(update.get("value")), request.headers.get("Idempotency-Key"))
        else:
            self._look(session)
        return Sound(200, session.wire())

    def _look(self, session: Session) -> None:
        if self.auto and session.phase in _COURSE[:-1]:
            session.phase = _COURSE[_COURSE.index(session.phase) + 1]

    def _move(self, session: Session, phase: str, key: str | None) -> None:
        """A move that is not allowed changes nothing and says nothing."""
        if session.phase not in _MOVES.get(phase, ()):
            return
        session.phase = phase
        if phase == "ACCEPTED":
            session.key = key
            self.executions[session.uuid] += 1
            for other in self.sessions.values():
                if other.set == session.set and other.phase == "OFFERED":
                    other.phase = "REJECTED"

    # ── a broker of ours ─────────────────────────────────────────────────────────────────────────────────────

    def _answer_ours(self, request: web.Request, body: bytes) -> Sound | None:
        parts = request.path.strip("/").split("/")
        match request.method, parts:
            case "GET", ["profile"]:
                return Sound(200, {"platform": "ivoa", "repeatable": True, "batches": True, **self.profile})
            case "GET", ["sessions"]:
                return self._list(request.query.get("phase", "").split(","), int(request.query.get("after", "0")))
            case "POST", ["sessions", "status"]:
                return self._many(msgspec.json.decode(body)["sessions"])
            case "POST", ["sessions", "release"]:
                for uuid in msgspec.json.decode(body)["sessions"]:
                    if uuid in self.sessions:
                        self._move(self.sessions[uuid], "REJECTED", None)
                return Sound(204)
            case "GET", ["sessions", uuid, "logs"] if uuid in self.sessions:
                return Sound(200, {"stdout": f"this is {self.name}\n", "stderr": ""})
            case "GET", ["sessions", _, "results", name, *_]:
                return Sound(200, {"name": name})  # what a fault then spoils; sound files go out by `_file`
            case "GET", ["sessions", uuid, "results"] if uuid in self.sessions:
                files = self.files.get(uuid, {})
                return Sound(200, {"results": [{"name": name, "bytes": len(data)} for name, data in files.items()]})
        return None

    def _many(self, uuids: Sequence[str]) -> Sound:
        known = []
        for uuid in uuids:
            if session := self.sessions.get(uuid):
                self._look(session)
                known.append(session.wire())
        return Sound(200, {"sessions": known, "unknown": [uuid for uuid in uuids if uuid not in self.sessions]})

    def _list(self, phases: Sequence[str], after: int) -> Sound:
        lines = [{"uuid": uuid, "phase": s.phase} for uuid, s in self.sessions.items() if s.phase in phases]
        end = after + self.page
        more = {"next": str(end)} if end < len(lines) or not self.page else {}
        return Sound(200, {"sessions": lines[after:end], **more})

    def _file(self, request: web.Request) -> web.StreamResponse:
        _, uuid, _, name = request.path.strip("/").split("/", 3)
        data = self.files.get(uuid, {}).get(name)
        return web.Response(status=404) if data is None else web.Response(body=data)


# Faults in which a site that was not told `after:` has done nothing: the request might as well never have arrived.
_SILENT = frozenset({"hang", "reset", "reset-in-headers", "not-http", "redirect", "elsewhere", "status", "phase"})


def _operation(method: str, path: str, body: bytes) -> str:
    parts = path.strip("/").split("/")
    match method, parts:
        case "GET", ["profile"]:
            return "profile"
        case "POST", ["requests"]:
            return "quote"
        case "GET", ["offersets", _]:
            return "set"
        case "POST", ["sessions", "release"]:
            return "release"
        case "POST", ["sessions", "status"]:
            return "status"
        case "GET", ["sessions", _, "results", *rest] if rest:
            return "results"
        case "POST", ["sessions", _]:
            return _update(body)
    return "status"


def _update(body: bytes) -> str:
    try:
        value = msgspec.json.decode(body).get("value")
    except (msgspec.DecodeError, AttributeError):
        return "update"
    return {"ACCEPTED": "accept", "REJECTED": "release"}.get(value, "update")


def _message(template: str) -> dict[str, Any]:
    """As in the field: `values` and `message` are always missing."""
    stamp = format_instant(time.time())
    return {"kind": "urn:resource-limit", "time": stamp, "level": "WARN", "template": template}


def _epoch(name: str) -> dict[str, Any]:
    """What the field writes on everything but the compute resource: an offset from 1970."""
    schedule = {"available": {"start": "1970-01-01T00:00:00Z/PT0S", "duration": "PT0S"}}
    return {"meta": {"uuid": str(uuid4()), "name": name}, "schedule": schedule}
