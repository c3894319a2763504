"""The dialects that services in the field speak: how each is asked, how its answers read, how an offer is changed.

Letters and sources: docs/protocol.md 1.7. Pure; imports the domain's kinds and findings of nobody. Every reader takes
whatever was sent: what is not of the wanted type reads as absent, and is for the checks to tell of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from broker.domain import kinds

Object = Mapping[str, Any]

_IDENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,199}")
_PURL = "https://www.purl.org/ivoa.net/"
_NAME = "broker-check"
# Never pulled: what is offered for it is given back.
_IMAGE = "docker.io/library/hello-world:latest"
_DIGEST = "sha256:d37ada95d47ad12224c205a938129df7a3e52345828b4fa27b03a98825d1e2e7"
CORES, MEMORY = 1, 3  # asked for; unequal, since one may be written in the other's place
_DURATION = "PT10M"


@dataclass(frozen=True)
class Seen:
    """An offer, or the session that it is. `ident` is empty where none stands there that can be put into a path."""

    ident: str
    phase: str = ""
    expires: str = ""
    url: str = ""
    start: str = ""
    cores: Object | None = None
    memory: Object | None = None
    options: tuple[Object, ...] = ()
    costs: tuple[Object, ...] = ()
    messages: tuple[Object, ...] = ()
    simulated: bool = False  # it says that nothing really runs


@dataclass(frozen=True)
class SetSeen:
    """`settled`: no offer can join any more (a broker's own word; plain services answer once)."""

    ident: str
    result: str
    offers: tuple[Seen, ...]
    url: str = ""
    messages: tuple[Object, ...] = ()
    settled: bool = True


@dataclass(frozen=True)
class Dialect:
    """`ask` is a method and a path, `query` what goes with it. `sets` and `sessions` are where these are read;
    empty: nowhere. `named`: whether answers carry uuids and URLs, as from 2025 on."""

    letter: str
    name: str
    ask: tuple[str, str]
    sets: str
    sessions: str
    request: Callable[[str], Any]
    update: Callable[[str, str], Any]
    read_set: Callable[[Object], SetSeen]
    read_session: Callable[[Object], Seen]
    faults: Callable[[Object], list[str]] | None  # None: judged by the generated description
    fits: Callable[[Object], bool]
    named: bool = True
    query: Mapping[str, str] = field(default_factory=dict)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


def _of(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _text(value: Any, *path: str) -> str:
    found = _of(value, *path)
    return found if isinstance(found, str) else ""


def _objects(value: Any, *path: str) -> tuple[Object, ...]:
    found = _of(value, *path)
    return tuple(item for item in found if isinstance(item, Mapping)) if isinstance(found, list) else ()


def _object(value: Any, *path: str) -> Object | None:
    found = _of(value, *path)
    return found if isinstance(found, Mapping) else None


def _ident(text: str) -> str:
    return text if _IDENT.fullmatch(text) else ""


def _phase(value: Object) -> str:
    """The draft has three words for the one thing."""
    return next((_text(value, word) for word in ("phase", "state", "status") if _text(value, word)), "")


def _session_now(value: Object) -> Seen:
    """1.0, and what came just before it."""
    return Seen(
        _ident(_text(value, "meta", "uuid")),
        _phase(value),
        _text(value, "expires"),
        _text(value, "meta", "url"),
        _text(value, "compute", "schedule", "available", "start"),
        _object(value, "compute", "cores"),
        _object(value, "compute", "memory"),
        _objects(value, "meta", "options"),
        _objects(value, "costs"),
        _objects(value, "meta", "messages"),
        _of(value, "simulated") is True,
    )


def _set_now(value: Object) -> SetSeen:
    pending = _of(value, "pending")
    return SetSeen(
        _ident(_text(value, "meta", "uuid")),
        _text(value, "result"),
        tuple(_session_now(offer) for offer in _objects(value, "offers")),
        _text(value, "meta", "url"),
        _objects(value, "meta", "messages"),
        settled=_of(value, "closed") is not False and not (isinstance(pending, int) and pending > 0),
    )


def _session_2025(value: Object) -> Seen:
    compute = next(iter(_objects(value, "resources", "compute")), _object(value, "compute") or {})
    cores, memory = _object(compute, "cores"), _object(compute, "memory")
    starts = (
        _text(value, "schedule", "executing", "start"),
        _text(value, "schedule", "offered", "executing", "start"),
        _text(value, "schedule", "available", "start"),
        _text(compute, "schedule", "available", "start"),
    )
    return Seen(
        _ident(_text(value, "uuid")),
        _phase(value),
        _text(value, "expires"),
        _text(value, "href"),
        next(filter(None, starts), ""),
        _object(cores, "offered") or cores,
        _object(memory, "offered") or memory,
        _objects(value, "options"),
        _objects(value, "costs"),
        _objects(value, "messages"),
    )


def _set_2025(value: Object) -> SetSeen:
    return SetSeen(
        _ident(_text(value, "uuid")),
        _text(value, "result"),
        tuple(_session_2025(offer) for offer in _objects(value, "offers")),
        _text(value, "href"),
        _objects(value, "messages"),
    )


def _session_draft(value: Object) -> Seen:
    offer = _object(value, "offer") or value
    compute = next(iter(_objects(offer, "request", "resources", "compute")), {})
    times = _objects(offer, "request", "datetime")
    cores, memory = _object(compute, "spec", "cores"), _object(compute, "spec", "memory")
    return Seen(
        _ident(_text(offer, "ident")),
        _phase(offer),
        _text(offer, "expires"),
        start=_text(times[0], "start") if times else "",
        cores=_object(cores, "offered") or cores,
        memory=_object(memory, "offered") or memory,
    )


def _set_draft(value: Object) -> SetSeen:
    response = _object(value, "response") or {}
    offers = tuple(_session_draft(offer) for offer in _objects(response, "offers"))
    return SetSeen("", _text(response, "result"), offers)


def _set_note(value: Object) -> SetSeen:
    # The note's own example spells the word so.
    words = (_text(value, name) for name in ("responseword", "reponseword", "response"))
    return SetSeen("", next(filter(None, words), "").upper(), ())


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────


def executable(kind: str) -> dict[str, Any]:
    """A small thing of that kind, named for what it is."""
    known: dict[str, dict[str, Any]] = {
        kinds.DOCKER_CONTAINER: {"image": {"locations": [_IMAGE], "digest": _DIGEST}},
        kinds.SINGULARITY_CONTAINER: {"location": "docker://hello-world"},
        kinds.JUPYTER_NOTEBOOK: {"location": "https://example.org/check.ipynb"},
        kinds.PYTHON_PROGRAM: {"source": "pass"},
    }
    return {"kind": kind, "meta": {"name": _NAME}, **known.get(kind, {})}


def request_now(kind: str) -> dict[str, Any]:
    """A request of version 1.0, and nothing of our own in it but the kind."""
    return {
        "executable": executable(kind),
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            # Without a name the reference implementation fails while it words a refusal.
            "meta": {"name": _NAME},
            "cores": {"min": CORES, "max": CORES},
            "memory": {"min": MEMORY, "max": MEMORY},
        },
        "schedule": {"requested": {"duration": _DURATION}},
    }


def _former(kind: str) -> str:
    """The URI of a kind before June 2026."""
    group, name = kind.removeprefix(kinds.BASE).removesuffix(".yaml").split("/")
    return f"{_PURL}EB/schema/v1.0/types/{group}/{name}-1.0"


_FORMER = re.compile(re.escape(f"{_PURL}EB/schema/v1.0/types/") + r"([a-z]+)/([A-Za-z0-9-]+)-1\.0")


def modern(value: Any) -> Any:
    """The document with today's URIs in place of the former ones."""
    if isinstance(value, Mapping):
        return {key: modern(item) for key, item in value.items()}
    if isinstance(value, list):
        return [modern(item) for item in value]
    match = _FORMER.fullmatch(value) if isinstance(value, str) else None
    return f"{kinds.BASE}{match[1]}/{match[2]}.yaml" if match else value


def _request_e(kind: str) -> Any:
    request = request_now(kind)
    for part in ("executable", "compute"):
        request[part]["kind"] = _former(request[part]["kind"])
    return request


def _request_d(kind: str) -> Any:
    image = {"locations": [_IMAGE], "digest": _DIGEST}
    return {
        "name": _NAME,
        "executable": {
            "type": f"{_PURL}EB/schema/types/executable/docker-container-1.0", "name": _NAME, "image": image,
        },
        "compute": {
            "type": f"{_PURL}EB/schema/types/compute/simple-compute-resource-1.0",
            "name": _NAME,
            "cores": {"min": CORES, "max": CORES},
            "memory": {"min": MEMORY, "max": MEMORY},
        },
        "schedule": {"requested": {"duration": _DURATION}},
    }  # fmt: skip


def _request_c(kind: str) -> Any:
    request = _request_d(kind)
    request["executable"]["type"] = f"{_PURL}EB/schema/types/executables/docker-container-1.0"
    compute = request.pop("compute")
    compute["type"] = f"{_PURL}EB/schema/types/resources/compute/simple-compute-resource-1.0"
    for size in ("cores", "memory"):
        compute[size] = {"requested": compute[size]}
    return {**request, "resources": {"compute": [compute]}}


def _request_b(kind: str) -> Any:
    repository, _, tag = _IMAGE.rpartition(":")
    compute = {
        "name": _NAME,
        "type": f"{_PURL}resource-types/generic-compute",
        "spec": {"cores": {"min": CORES, "max": CORES}, "memory": {"min": MEMORY, "max": MEMORY}},
    }
    image = {"repo": "docker.io", "image": repository.removeprefix("docker.io/"), "tag": tag, "digest": _DIGEST}
    return {
        "request": {
            "executable": {"type": f"{_PURL}executable-types/docker-container", "spec": image},
            "resources": {"compute": [compute]},
            "datetime": [{"duration": {"min": _DURATION, "max": _DURATION}}],
        }
    }


def _update_now(ident: str, phase: str) -> Any:
    return {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": phase}


def _update_2025(ident: str, phase: str) -> Any:
    return {"update": {"type": kinds.ENUM_UPDATE, "path": "/phase", "value": phase}}


def _update_draft(ident: str, phase: str) -> Any:
    return {"offer": {"ident": ident, "status": phase}}


# ── the forms that have no description of ours ───────────────────────────────────────────────────────────────

_PHASES_2025 = frozenset(
    {"PROPOSED", "INITIAL", "OFFERED", "ACCEPTED", "REJECTED", "EXPIRED", "WAITING", "PREPARING", "READY", "RUNNING"}
    | {"RELEASING", "COMPLETED", "FAILED", "CANCELLED"}
)
_PHASES_DRAFT = _PHASES_2025 | {"TEARDOWN", "EXECUTING"}


def _wanted(value: Object, path: str, *names: str) -> Iterator[str]:
    """`a|b`: one of the two."""
    for name in names:
        if not any(_text(value, choice) for choice in name.split("|")):
            yield f"{path}.{name.replace('|', ' or ')}: missing"


def _faults_2025(value: Object) -> list[str]:
    """Required by the descriptions of April and October 2025."""
    found = list(_wanted(value, "$", "uuid", "href", "result"))
    for i, offer in enumerate(_objects(value, "offers")):
        found += _wanted(offer, f"$.offers[{i}]", "uuid", "href", "type", "state|phase")
        found += _phase_fault(offer, f"$.offers[{i}]", _PHASES_2025)
        if not _text(offer, "executable", "type"):
            found.append(f"$.offers[{i}].executable.type: missing")
    return found


def _faults_draft(value: Object) -> list[str]:
    response = _object(value, "response")
    if response is None:
        return ["$.response: missing"]
    found = list(_wanted(response, "$.response", "result"))
    for i, offer in enumerate(_objects(response, "offers")):
        found += _wanted(offer, f"$.response.offers[{i}]", "ident", "status|state|phase")
        found += _phase_fault(offer, f"$.response.offers[{i}]", _PHASES_DRAFT)
    for i, reason in enumerate(_objects(response, "reasons")):
        found += _wanted(reason, f"$.response.reasons[{i}]", "text")
    return found


def _phase_fault(offer: Object, path: str, known: frozenset[str]) -> Iterator[str]:
    if _phase(offer) and _phase(offer) not in known:
        yield f"{path}: {_phase(offer)[:60]!r} is no documented phase"


def _faults_note(value: Object) -> list[str]:
    return [] if _set_note(value).result in ("YES", "NO") else ["$: no response word"]


def _has_meta(value: Object) -> bool:
    return isinstance(_of(value, "meta"), Mapping)


def _is_flat(value: Object) -> bool:
    return not _has_meta(value) and bool(_text(value, "uuid") or _text(value, "result"))


F = Dialect("F", "version 1.0 (June 2026)", ("POST", "requests"), "offersets", "sessions", request_now,
            _update_now, _set_now, _session_now, None, _has_meta)  # fmt: skip
E = Dialect("E", "what became 1.0 (November 2025 to June 2026)", ("POST", "offersets"), "offersets", "sessions",
            _request_e, _update_now, _set_now, _session_now, None, _has_meta)  # fmt: skip
D = Dialect("D", "the dialect of October 2025", ("POST", "offersets"), "offersets", "sessions",
            _request_d, _update_2025, _set_2025, _session_2025, _faults_2025, _is_flat)  # fmt: skip
C = Dialect("C", "the dialect of April 2025", ("POST", "offersets"), "offersets", "sessions",
            _request_c, _update_2025, _set_2025, _session_2025, _faults_2025, _is_flat)  # fmt: skip
B = Dialect("B", "the draft of 2023 and 2024", ("POST", "request"), "", "offers", _request_b, _update_draft,
            _set_draft, _session_draft, _faults_draft, lambda value: "response" in value, named=False)  # fmt: skip
A = Dialect("A", "the endorsed note of 2022", ("GET", "accepts"), "", "",
            lambda kind: None, lambda ident, phase: None, _set_note, lambda value: Seen(""), _faults_note,
            lambda value: bool(_set_note(value).result), named=False,
            query={"tasktype": "docker-container"})  # fmt: skip
