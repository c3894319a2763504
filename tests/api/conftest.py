"""A real server on a free port, with small stand-ins for the services, and a client to call it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import pytest
from aiohttp import web
from argon2 import PasswordHasher

from broker.api.routes import Parts, build_app
from broker.api.wire import Limits
from broker.domain.identity import Caller, Owner
from broker.domain.site import Profile
from broker.errors import Conflict, NotFound, SiteMisbehaved
from broker.ports import Listing, Logs, Result
from broker.services.access import Access, User
from broker.testing.clock import FakeClock

SET = UUID("7f3a0000-0000-4000-8000-00000000000a")
SESSION = UUID("91c20000-0000-4000-8000-00000000000b")
TOKEN = "t0ken-" + "x" * 40
_CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


@dataclass
class State:
    uuid: UUID
    phase: str = "OFFERED"
    refused: bool = False


@dataclass
class Made:
    uuid: UUID
    username: str
    made: bool


@dataclass
class FakeServices:
    """All services in one. `calls` is what was asked of them; `error`, when set, is what every call raises."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    error: BaseException | None = None
    refused: bool = False
    how: Any = None
    changes: list[Any] = field(default_factory=list)
    closed: bool = False
    lines: list[Listing] = field(default_factory=list)
    log: Logs = field(default_factory=lambda: Logs(stdout="out é", stderr=None))
    pieces: list[bytes | BaseException] = field(default_factory=lambda: [b"one", b"two"])
    snapshot_: dict[str, Any] = field(default_factory=lambda: {"schema": "status-1.0", "time": "1", "n": 1})

    def note(self, *call: Any) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    async def once(self, once: Any, act: Callable[[UUID], Awaitable[Any]], show: Any) -> Any:
        self.note("once", once, once.caller)
        return await act(once.uuid)

    async def ask(self, request: Any, caller: Caller, hop: Any, how: Any) -> State:
        self.note("ask", request, caller, hop)
        self.how = how
        return State(SET)

    async def direct(self, request: Any, caller: Caller, hop: Any, how: Any) -> State:
        self.note("direct", request, caller, hop)
        self.how = how
        return State(SESSION, "FAILED" if self.refused else "ACCEPTED", self.refused)

    async def directed(self, set_: UUID, caller: Caller) -> State:
        self.note("directed", set_, caller)
        return State(SESSION, "ACCEPTED")

    async def get(self, uuid: UUID, caller: Caller) -> State:
        self.note("get", uuid, caller)
        if uuid not in (SET, SESSION):
            raise NotFound("no such thing.")
        return State(uuid)

    async def request(self, uuid: UUID, caller: Caller) -> bytes:
        self.note("request", uuid, caller)
        return b'{"executable":{"kind":"uri:python-program-1.0","source":"1"}}'

    async def list(self, caller: Caller, **query: Any) -> list[Listing]:
        self.note("list", caller, query)
        return self.lines[: query["limit"]]

    async def update(self, uuid: UUID, update: Any, caller: Caller) -> State:
        self.note("update", uuid, update, caller)
        return State(uuid, update.value)

    async def release(self, uuids: Any, caller: Caller) -> None:
        self.note("release", list(uuids), caller)

    async def many(self, uuids: Any, caller: Caller) -> tuple[list[State], list[UUID]]:
        self.note("many", list(uuids), caller)
        return [State(uuid) for uuid in uuids if uuid == SESSION], [uuid for uuid in uuids if uuid != SESSION]

    async def logs(self, uuid: UUID, caller: Caller) -> Logs:
        self.note("logs", uuid, caller)
        return self.log

    async def results(self, uuid: UUID, caller: Caller) -> tuple[Result, ...]:
        self.note("results", uuid, caller)
        return (Result("a/flu xes.fits", 7, "sha256:00", 1_800_000_000.0), Result("b", 0))

    async def fetch(self, uuid: UUID, name: str, caller: Caller) -> AsyncIterator[bytes]:
        self.note("fetch", uuid, name, caller)

        async def pieces() -> AsyncIterator[bytes]:
            for piece in self.pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece

        return pieces()

    async def snapshot(self, caller: Caller) -> dict[str, Any]:
        self.note("snapshot", caller)
        return self.snapshot_

    async def make(self, name: str, password: str, caller: Caller) -> Made:
        self.note("make", name, password, caller)
        return Made(SET, name, name != "ann")

    async def follow_set(self, uuid: UUID, caller: Caller, after: int | None) -> Any:
        self.note("follow_set", uuid, after, caller)
        return await self._follow(uuid, caller)

    async def follow_session(self, uuid: UUID, caller: Caller, after: int | None) -> Any:
        self.note("follow_session", uuid, after, caller)
        return await self._follow(uuid, caller)

    async def _follow(self, uuid: UUID, caller: Caller) -> Any:
        await self.get(uuid, caller)

        async def changes() -> AsyncIterator[Any]:
            for change in self.changes:
                if isinstance(change, BaseException):
                    raise change
                yield change

        return changes() if self.changes else None

    def close(self) -> None:
        self.closed = True

    async def metrics(self) -> bytes:
        self.note("metrics")
        return b"broker_up 1\n"

    async def ready(self) -> None:
        self.note("ready")


class FakeDoubts:
    def __init__(self, services: FakeServices) -> None:
        self._services = services

    async def list(self, caller: Caller) -> list[Any]:
        self._services.note("doubts", caller)
        return []

    async def decide(self, uuid: UUID, taken: bool, because: str, caller: Caller) -> State:
        self._services.note("decide", uuid, taken, because, caller)
        return State(uuid)


class FakeSites:
    def __init__(self, services: FakeServices) -> None:
        self._services = services

    def list(self) -> list[dict[str, Any]]:
        return [{"name": "alba"}]

    def get(self, name: str) -> dict[str, Any]:
        if name != "alba":
            raise NotFound(f'no site "{name}".')
        return {"name": name}

    def profile(self) -> Profile:
        return Profile(broker="me", cores=8)

    async def put(self, name: str, site: Any, caller: Caller) -> dict[str, Any]:
        self._services.note("put", name, site, caller)
        return {"name": name, "url": site.url}

    async def delete(self, name: str, caller: Caller) -> None:
        self._services.note("delete", name, caller)
        if name == "fixed":
            raise Conflict("it stands in the settings file.", remedy="Remove it there.")

    async def drain(self, name: str, until: Any, caller: Caller) -> dict[str, Any]:
        self._services.note("drain", name, until, caller)
        return {"name": name, "drained": True}

    async def resume(self, name: str, caller: Caller) -> dict[str, Any]:
        self._services.note("resume", name, caller)
        return {"name": name, "drained": False}

    async def forget(self, name: str, caller: Caller) -> dict[str, Any]:
        self._services.note("forget", name, caller)
        return {"name": name, "calibration": []}


def draw(state: State, base: str, caller: Caller) -> bytes:
    return msgspec.json.encode(
        {"uuid": str(state.uuid), "url": f"{base}/x/{state.uuid}", "phase": state.phase, "for": caller.owner.subject}
    )


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Api:
    """`users`: ann (password), root (administrator), ops (operator), parent (broker; also by TOKEN)."""

    url: str
    services: FakeServices
    access: Access
    clock: FakeClock
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, *, user: str | None = "ann", **options: Any) -> Answer:
        headers = dict(options.pop("headers", {}))
        if user:
            headers.setdefault("Authorization", aiohttp.encode_basic_auth(user, f"{user}-secret"))
        options.setdefault("allow_redirects", False)
        async with self.http.request(method, self.url + path, headers=headers, **options) as response:
            return Answer(response.status, response.headers, await response.read())

    @property
    def caller(self) -> Caller:
        """Of the last call that reached a service."""
        return next(item for item in reversed(self.services.calls[-1]) if isinstance(item, Caller))


@pytest.fixture(scope="session")
def users() -> dict[str, User]:
    def user(name: str, *roles: str, **more: Any) -> User:
        return User(password_hash=_CHEAP.hash(f"{name}-secret"), roles=frozenset(roles), **more)

    return {
        "ann": user("ann", "user", groups=("sky",), project="p1"),
        "ops": user("ops", "user", "operator"),
        "root": user("root", "administrator"),
        "nil": user("nil"),
        "parent": user("parent", "broker"),
        "tokenfolk": User(token_sha256=hashlib.sha256(TOKEN.encode()).hexdigest(), roles=frozenset({"broker"})),
    }


@pytest.fixture
def token() -> str:
    return TOKEN


@pytest.fixture
async def serve(users: dict[str, User]) -> AsyncIterator[Callable[..., Awaitable[Api]]]:
    """Starts servers; `anonymous`, `limits`, `readers`, `public_url` as in Parts and Access."""
    runners: list[web.AppRunner] = []
    accesses: list[Access] = []
    async with aiohttp.ClientSession() as http:

        async def start(*, anonymous: bool = False, limits: Limits | None = None, **parts: Any) -> Api:
            services, clock = FakeServices(), FakeClock()
            guest = Caller(Owner("me", "guest"), "guest", frozenset({"user"}), anonymous=True) if anonymous else None
            access = Access(users, "me", clock=clock, anonymous=guest)
            accesses.append(access)
            app = build_app(
                Parts(
                    offers=services, acceptance=services, doubts=FakeDoubts(services), sessions=services,
                    sites=FakeSites(services), status=services, access=access, identities=services, keys=services,
                    events=services, ready=services.ready,
                    draw_offerset=draw, draw_session=draw, openapi=b'{"openapi":"3.1.0"}',
                    broker_id="me-id", version="1.2.3", limits=limits or Limits(), **parts,
                )
            )  # fmt: skip
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            return Api(url, services, access, clock, http)

        yield start
    for runner in runners:
        await runner.cleanup()
    for access in accesses:
        await access.close()


@pytest.fixture
async def api(serve: Callable[..., Awaitable[Api]]) -> Api:
    return await serve()


@pytest.fixture
def site_error() -> SiteMisbehaved:
    return SiteMisbehaved("alba sent half a file.")
