"""A scripted broker on a real socket, for whoever tests a client. Imports the domain and aiohttp.

It answers with documents made of the domain's models: one offer set with the offers of a radio astronomer's fit, the
sessions behind them, each a script of states that reading moves on. Any call can be made to fail (`refuse`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from aiohttp import web

from broker.domain import kinds
from broker.domain.components import (
    ComponentMetadata,
    EnumValueOption,
    MessageItem,
    SimpleMinMaxFloatCost,
)
from broker.domain.executables import PythonProgram
from broker.domain.preferences import Preferences
from broker.domain.quantities import Interval
from broker.domain.resources import SimpleComputeCores, SimpleComputeMemory, SimpleComputeResource
from broker.domain.schedule import LifecycleSchedule, LifecycleStartDurationInterval
from broker.domain.session import (
    Bounds,
    LocalityNote,
    OfferSetResponse,
    OutcomeNote,
    Promise,
    RankingNote,
    ScheduledExecutionSession,
    SessionPhase,
    Term,
)

NOW = datetime(2026, 11, 22, 13, 3, tzinfo=UTC)
TAIL = "-0000-4000-8000-00000000feed"
SET = UUID("7f3a0001" + TAIL)
ALBA, BOREALIS = UUID("91c20001" + TAIL), UUID("91d30002" + TAIL)
CUMULUS, DELTA = UUID("a0c40003" + TAIL), UUID("b1d50004" + TAIL)

_OPEN = EnumValueOption(kind=kinds.ENUM_OPTION, path="phase", values=("ACCEPTED", "REJECTED"))


def _at(hour: int, minute: int) -> datetime:
    return NOW.replace(hour=hour, minute=minute)


def bounds(expected: float, pessimistic: float | None = None, *, unit: str = "EUR", stand_in: bool = False) -> Bounds:
    worst = expected if pessimistic is None else pessimistic
    return Bounds(expected=expected, pessimistic=worst, unit=unit, stand_in=stand_in or None)


def offer(
    uuid: UUID,
    site: str,
    rank: int,
    start: datetime,
    *,
    price: float,
    egress: float = 0.0,
    all_in: tuple[float, float],
    moves: float = 0.0,
    carbon: float | None = 0.3,
    reserved: bool = True,
    trade_off: bool = True,
    why: str = "",
    behind: str | None = None,
    latest: datetime | None = None,
    **more: Any,
) -> ScheduledExecutionSession:
    """One ranked offer of an hour with four cores."""
    hour = timedelta(hours=1)
    schedule = LifecycleSchedule(available=LifecycleStartDurationInterval(start=Interval(start, start), duration=hour))
    costs = [SimpleMinMaxFloatCost(kind=kinds.MINMAX_COST, type=kinds.MONETARY, min=price, max=price, unit="EUR")]
    if carbon is not None:
        costs.append(
            SimpleMinMaxFloatCost(kind=kinds.MINMAX_COST, type=kinds.CARBON, min=carbon, max=carbon, unit="kg")
        )
    terms = (
        Term(name="price", expected=price, pessimistic=price, basis="4 core h x 0.30 EUR" if price else "free"),
        Term(name="egress", expected=egress, pessimistic=egress, basis="84.2 GB x 0.02 EUR" if egress else None),
        Term(name="CO2e", expected=0.03, pessimistic=0.1, stand_in=carbon is None or None),
    )
    known: dict[str, Any] = {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": ComponentMetadata(uuid=uuid, options=(_OPEN,)),
        "phase": SessionPhase.OFFERED,
        "expires": _at(13, 7),
        "executable": PythonProgram(kind=kinds.PYTHON_PROGRAM, meta=ComponentMetadata(name="fit"), source="1"),
        "compute": SimpleComputeResource(
            kind=kinds.SIMPLE_COMPUTE,
            cores=SimpleComputeCores(min=4, max=4),
            memory=SimpleComputeMemory(min=16, max=16),
            schedule=schedule,
        ),
        "costs": tuple(costs),
        "site": site,
        "origin": site,
        "platform": {"borealis": "tes", "cumulus": "k8s"}.get(site, "slurm"),
        "reserved": reserved,
        "results": True,
        "offerset": str(SET),
        "locality": LocalityNote(
            bytes=bounds(moves, unit="B"),
            sources=("alba",) if moves else (),
            staging=bounds(moves / 1e8, unit="s"),
            certainty="estimated" if moves else "stated",
        ),
        "ranking": RankingNote(
            rank=rank,
            all_in=bounds(*all_in),
            pay=bounds(price + egress),
            ready=start,
            result=start + hour,
            result_latest=latest or start + hour,
            terms=terms,
            trade_off=trade_off,
            behind=behind,
            why=why,
        ),
    }
    return ScheduledExecutionSession(**{**known, **more})


def drawn_offers() -> tuple[ScheduledExecutionSession, ...]:
    """Four offers: here and now; sooner but with egress; beaten in all; free after a queue."""
    gigabytes = 84.2e9
    return (
        offer(ALBA, "alba", 1, _at(13, 22), price=1.20, all_in=(3.90, 4.50), why="data is here", latest=_at(14, 40)),
        offer(BOREALIS, "borealis", 2, _at(13, 10), price=0.40, egress=1.68, all_in=(4.37, 5.07), moves=gigabytes,
              carbon=0.2, why="sooner, but egress", latest=_at(14, 31),
              behind="loses by 0.47: egress +1.68, price -0.80, time -0.40, CO2e -0.01"),
        offer(CUMULUS, "cumulus", 3, _at(13, 40), price=0.22, egress=1.68, all_in=(5.19, 6.52), moves=gigabytes,
              carbon=0.2, trade_off=False, why="1 beats it in all", latest=_at(15, 20)),
        offer(DELTA, "delta", 4, _at(16, 12), price=0.0, all_in=(8.38, 13.98), carbon=None, reserved=False,
              why="3 h queue", latest=_at(20, 0)),
    )  # fmt: skip


def drawn_set(offers: Sequence[ScheduledExecutionSession] | None = None, **more: Any) -> OfferSetResponse:
    """The set of those offers, beside one site that is too small and one that is silent."""
    shown = drawn_offers() if offers is None else tuple(offers)
    given = [
        OutcomeNote(site=one.site or "?", outcome="Offered", offers=1, latency=0.2 + i / 10)
        for i, one in enumerate(shown)
    ]
    too_small = OutcomeNote(
        site="echo",
        outcome="Declined",
        latency=0.3,
        reasons=("compute.memory.min 16 GiB; its largest node has 8",),
    )
    silent = OutcomeNote(
        site="fjord", outcome="TimedOut", latency=5.0, reasons=("no answer in 5 s; joins the set if it comes",)
    )
    known: dict[str, Any] = {
        "kind": kinds.OFFERSET,
        "meta": ComponentMetadata(uuid=SET),
        "result": "YES" if shown else "NO",
        "offers": shown,
        "outcomes": (*given, too_small, silent),
        "pending": 0,
        "closed": True,
        "asof": NOW,
        "expires": _at(13, 7),
        "preferences": Preferences(preset="balanced", currency="EUR", value_of_time=2.0, carbon_price=0.1),
    }
    return OfferSetResponse(**{**known, **more})


def run_of(offered: ScheduledExecutionSession) -> list[ScheduledExecutionSession]:
    """What reading an accepted session shows, one after the other, to its end."""
    start, end = _at(13, 22), _at(14, 20)
    promised = Promise(start=start, duration=timedelta(hours=1), cost=1.2, unit="EUR")
    actual = promised.with_(
        actual_start=start, actual_end=end, actual_duration=end - start, actual_cost=1.14
    )  # fmt: skip
    phases = (
        ("ACCEPTED", promised, ()),
        ("AVAILABLE", promised.with_(actual_start=start), ("data already there",)),
        ("COMPLETED", actual, ("data already there", "exit 0")),
    )
    return [
        offered.with_(phase=SessionPhase(phase), promise=promise, meta=_meta(offered.uuid, texts))
        for phase, promise, texts in phases
    ]


def _meta(uuid: UUID | None, texts: tuple[str, ...]) -> ComponentMetadata:
    items = tuple(MessageItem.fill("uri:test", text) for text in texts)
    return ComponentMetadata(uuid=uuid, created=NOW, modified=NOW, messages=items or None)


@dataclass
class Call:
    """One call that came in."""

    method: str
    path: str
    query: dict[str, str]
    authorization: str | None
    body: Any
    prefer: str | None = None


@dataclass
class _Refusal:
    method: str
    path: str
    status: int
    document: dict[str, Any] | None
    headers: dict[str, str]
    times: int


@dataclass
class FakeBroker:
    """`async with FakeBroker() as fake:` listens on a free port of the loopback; `fake.url` is its address.

    `sets`: what each reading of the set shows, the last for good; `scripts`: the same for a session, after its
    acceptance (`scripts_before`: before it). `files` are every session's results, `logs` its logs.
    """

    sets: list[OfferSetResponse] = field(default_factory=lambda: [drawn_set()])
    scripts: dict[UUID, list[ScheduledExecutionSession]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=lambda: {"fluxes.fits": b"SIMPLE  =" + b" " * 1_199_991})
    logs: dict[str, str] = field(default_factory=lambda: {"stdout": "fitted 12 sources\n", "stderr": ""})
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    empty_303: bool = False
    calls: list[Call] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._refusals: list[_Refusal] = []
        self._current: dict[UUID, ScheduledExecutionSession] = {}
        self._accepted: set[UUID] = set()
        self._runner: web.AppRunner | None = None

    def refuse(
        self, method: str, path: str, status: int, document: dict[str, Any] | None = None, *, times: int = 10**6,
        **headers: str,
    ) -> None:  # fmt: skip
        """Answer calls whose path begins so with `status` and the problem `document`. Status 0: hang up without answer,
        after the call took effect."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._refusals.append(_Refusal(method, path, status, document, named, times))

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=8 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        for one in self.sets[-1].offers or ():
            if isinstance(one, ScheduledExecutionSession) and one.uuid:
                self._current[one.uuid] = one
                self.scripts.setdefault(one.uuid, run_of(one))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner:
            await self._runner.cleanup()

    def sent(self, method: str, path: str = "") -> list[Call]:
        """The calls of that method whose path begins so."""
        return [call for call in self.calls if call.method == method and call.path.startswith(path)]

    # ── answering ────────────────────────────────────────────────────────────────────────────────────────────

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(request.method, request.path, dict(request.query), request.headers.get("Authorization"),
                    json.loads(body) if body else None, request.headers.get("Prefer"))  # fmt: skip
        self.calls.append(call)
        for refusal in self._refusals:
            if refusal.method == call.method and call.path.startswith(refusal.path) and refusal.times > 0:
                refusal.times -= 1
                return self._refused(request, call, refusal)
        return self._answer(call)

    def _refused(self, request: web.Request, call: Call, refusal: _Refusal) -> web.StreamResponse:
        if refusal.status:
            text = json.dumps(refusal.document) if refusal.document is not None else ""
            return web.Response(
                status=refusal.status, text=text, headers=refusal.headers, content_type="application/problem+json"
            )
        self._answer(call)
        if request.transport:
            request.transport.abort()
        return web.Response()

    def _answer(self, call: Call) -> web.StreamResponse:
        first, *rest = call.path.strip("/").split("/")
        if first == "requests":
            return self._submitted()
        if first == "offersets":
            return self._set() if rest else _json({"offersets": [_line(SET, "fit", "YES")], "next": None})
        if first == "sessions":
            return self._session(call, rest) if rest else self._sessions()
        if first == "sites":
            return self._site(call, rest)
        return _json(self.status) if first == "status" else web.Response(status=404)

    def _submitted(self) -> web.StreamResponse:
        headers = {"Location": f"/offersets/{SET}"}
        if self.empty_303:
            return web.Response(status=303, headers=headers)
        answer = self._set()
        answer.set_status(303)
        answer.headers.update(headers)
        return answer

    def _set(self) -> web.Response:
        return _json((self.sets.pop(0) if len(self.sets) > 1 else self.sets[0]).to_wire())

    def _sessions(self) -> web.Response:
        lines = [_line(uuid, "fit", str(one.phase), one.site or "") for uuid, one in self._current.items()]
        return _json({"sessions": lines, "next": None})

    def _session(self, call: Call, rest: list[str]) -> web.StreamResponse:
        uuid = UUID(rest[0])
        if uuid not in self._current:
            return web.Response(status=404)
        if rest[1:2] == ["logs"]:
            return _json(self.logs)
        if rest[1:2] == ["results"]:
            return self._results("/".join(rest[2:]))
        if call.method == "POST":
            self._update(uuid, call.body["value"])
        elif uuid in self._accepted and len(self.scripts[uuid]) > 1:
            self._current[uuid] = self.scripts[uuid].pop(0)
        elif uuid in self._accepted:
            self._current[uuid] = self.scripts[uuid][0]
        return _json(self._current[uuid].to_wire())

    def _update(self, uuid: UUID, phase: str) -> None:
        if phase == "ACCEPTED" and uuid not in self._accepted:
            self._accepted.add(uuid)
            self._current[uuid] = self.scripts[uuid].pop(0)
        elif phase != "ACCEPTED":
            self._current[uuid] = self._current[uuid].with_(phase=SessionPhase(phase))
            self.scripts[uuid] = [self._current[uuid]]

    def _results(self, name: str) -> web.Response:
        if name:
            # By the last step of the name: a client may well refuse to ask for the others as they stand.
            found = [body for known, body in self.files.items() if known.split("/")[-1] == name.split("/")[-1]]
            return web.Response(body=found[0]) if found else web.Response(status=404)
        entries = [
            {
                "name": name,
                "bytes": len(content),
                "checksum": f"sha256:{hashlib.sha256(content).hexdigest()}",
                "url": f"http://elsewhere.example/{name}",
                "kept_until": "2026-11-29T14:20:00Z",
            }
            for name, content in self.files.items()
        ]
        return _json({"results": entries})

    def _site(self, call: Call, rest: list[str]) -> web.Response:
        if not rest:
            return _json({"sites": list(self.sites.values())})
        name = rest[0]
        if call.method == "PUT":
            self.sites[name] = {"name": name, **call.body}
        if name not in self.sites:
            return _json({"title": "Not found", "detail": f'no site "{name}".'}, status=404)
        if call.method == "DELETE":
            del self.sites[name]
            return web.Response(status=204)
        if rest[1:]:
            if rest[1] == "forget":
                self.sites[name] |= {"calibration": [], "measured": []}
            else:
                self.sites[name]["health"] = {"state": "draining" if rest[1] == "drain" else "live"}
        return _json(self.sites[name])


def _line(uuid: UUID, name: str, phase: str, site: str = "") -> dict[str, Any]:
    return {"uuid": str(uuid), "url": f"http://broker.example/{uuid}", "name": name, "phase": phase, "site": site,
            "created": "2026-11-22T13:03:00Z"}  # fmt: skip


def _json(document: object, status: int = 200) -> web.Response:
    return web.Response(status=status, text=json.dumps(document), content_type="application/json")
