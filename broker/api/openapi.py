"""The description of this API, generated from the models: GET /openapi.json. Imports xmlforms and the domain.

Schemas keep the standard's inheritance (`allOf`) and discriminators, so that generated clients get its classes; our
additions are marked `x-addition: true`. The table of calls below is held to the routes by a test.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from broker.api.xmlforms import ANSWER, ENTRY, PROBLEM, ROOTS, Field, Shape, fields_of
from broker.domain import data, measures, plain, schedule
from broker.domain.base import Family, Model
from broker.domain.components import MessageItem
from broker.domain.executables import PythonProgram, Workflow, WorkflowFile
from broker.domain.located_note import LocatedNote, PortionNote, ReplicaNote
from broker.domain.outputs import Outputs
from broker.domain.preferences import Preferences
from broker.domain.request import ExecutionRequest
from broker.domain.session import (
    AbstractExecutionSession,
    Bounds,
    DeliveryNote,
    LocalityNote,
    OfferSetResponse,
    OutcomeNote,
    Promise,
    RankingNote,
    SessionPhase,
    SimpleExecutionSession,
    Term,
    TransferNote,
)
from broker.domain.site import Profile, Registration
from broker.domain.updates import AbstractUpdate

_REF = "#/components/schemas/{model}"
_ROOTS: tuple[type[BaseModel], ...] = (
    ExecutionRequest, OfferSetResponse, AbstractExecutionSession, AbstractUpdate, MessageItem, Registration, Profile,
    # Of the standard's description, and used by none of its messages.
    data.RucioReplicaBlock, schedule.LifecycleDuration, schedule.LifecycleDoneDurationInterval, schedule.MinMaxDuration,
    measures.MinMaxLongUnits, measures.MinMaxComputeLong, measures.MinMaxIntegerUnits, measures.MinMaxComputeInteger,
    measures.MinMaxFloatUnits, measures.MinMaxString, measures.MinMaxStringUnits,
)  # fmt: skip
# Whole schemas that are ours, and single properties that are (those of the request stand in domain/plain).
_OURS = (
    PythonProgram,
    Workflow,
    WorkflowFile,
    Preferences,
    Outputs,
    Bounds,
    Term,
    DeliveryNote,
    LocalityNote,
    LocatedNote,
    PortionNote,
    ReplicaNote,
    TransferNote,
    RankingNote,
    Promise,
    OutcomeNote,
    Registration,
    Profile,
)
_SESSION = (
    "site origin platform reserved simulated native results offerset locality ranking promise transfers located outputs"
)
_OFFERSET = "expires outcomes pending closed taken asof preferences located"
ADDITIONS: dict[type[BaseModel], frozenset[str]] = {
    **plain.ADDITIONS,
    SimpleExecutionSession: frozenset(_SESSION.split()),
    OfferSetResponse: frozenset(_OFFERSET.split()),
}


def describe(version: str, server: str = "/") -> bytes:
    """The whole document, OpenAPI 3.1, as JSON."""
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Federated Execution Broker",
            "version": version,
            "summary": "IVOA Execution Broker 1.0, with its published additions",
            "license": {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"},
        },
        "servers": [{"url": server}],
        "paths": _paths(),
        "security": [{scheme: []} for scheme in _SCHEMES],
        "components": {
            "schemas": schemas(),
            "securitySchemes": {scheme: {"type": "http", "scheme": scheme} for scheme in _SCHEMES},
        },
    }
    return json.dumps(document, indent=1).encode()


# ── schemas ──────────────────────────────────────────────────────────────────────────────────────────────────


def schemas() -> dict[str, Any]:
    """Every schema by name, those of the standard and ours."""
    found: dict[str, Any] = {}
    for model in models():
        found |= _schema(model)
    found["Problem"] = _PROBLEM
    return dict(sorted(found.items()))


def models() -> set[type[BaseModel]]:
    """Whatever can stand on the wire."""
    waiting: list[type[BaseModel]] = list(_ROOTS)
    seen: set[type[BaseModel]] = set()
    while waiting:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        waiting += [parent for parent in (_parent(model),) if parent]
        waiting += _mentioned(model)
        if issubclass(model, Family) and "members" in vars(model):
            waiting += model.members.values()
    return seen


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of `model`, and the enumerations that it alone mentions."""
    whole = model.model_json_schema(ref_template=_REF)
    parent = _parent(model)
    inherited = parent.model_fields if parent else {}
    ours = model in _OURS
    added = ADDITIONS.get(model, frozenset())
    properties = {}
    fields = {field.name: field for field in fields_of(model)}
    for name, schema in whole.get("properties", {}).items():
        if name not in inherited:
            properties[name] = _hinted(_tidy(schema), fields[name])
            if name in added:
                properties[name] = {**properties[name], "x-addition": True}
    own: dict[str, Any] = {"type": "object", "properties": properties}
    required = [name for name in whole.get("required", ()) if name in properties and name != "kind"]
    if required:
        own["required"] = required
    if parent:
        own = {"allOf": [{"$ref": _REF.format(model=parent.__name__)}, own]}
    own |= {"title": model.__name__, "description": (model.__doc__ or model.__name__).strip()}
    if model in ROOTS:
        own["xml"] = {"name": ROOTS[model]}
    if ours:
        own["x-addition"] = True
    if issubclass(model, Family) and "members" in vars(model) and model.members:
        mapping = {kind: _REF.format(model=member.__name__) for kind, member in model.members.items()}
        own |= {"required": ["kind", *required], "discriminator": {"propertyName": "kind", "mapping": mapping}}
    enums = {name: _tidy(s) for name, s in whole.get("$defs", {}).items() if "enum" in s}
    return {model.__name__: own, **enums}


def _hinted(schema: dict[str, Any], field: Field) -> dict[str, Any]:
    """With how the property looks in XML, where that is not what OpenAPI takes for granted."""
    if field.attribute:
        return {**schema, "xml": {"attribute": True}}
    if field.form.shape is Shape.MAP:
        return {
            **schema,
            "description": f'In XML, <{ENTRY} name="…"> for each. {schema.get("description", "")}'.strip(),
        }
    if field.item != field.name:
        schema = {**schema, "items": {**schema["items"], "xml": {"name": field.item}}}
    return {**schema, "xml": {"name": field.name, "wrapped": True}} if field.wrapped else schema


def _parent(model: type[BaseModel]) -> type[BaseModel] | None:
    base = model.__mro__[1]
    return base if issubclass(base, BaseModel) and base not in (Model, Family, BaseModel) else None


def _mentioned(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for field in model.model_fields.values():
        yield from _models(field.annotation)
        yield from (model for extra in field.metadata for model in _models(extra))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def _tidy(schema: Any) -> Any:
    """Absent is how null is written here, so `null` arms and defaults go; families become references."""
    if isinstance(schema, list):
        return [_tidy(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "x-family" in schema:
        return {"$ref": _REF.format(model=schema["x-family"])}
    arms = [arm for arm in schema.get("anyOf", ()) if arm != {"type": "null"}]
    if len(arms) == 1:
        schema = {**{key: value for key, value in schema.items() if key != "anyOf"}, **arms[0]}
        return _tidy(schema)
    dropped = ("title", "default")
    return {key: _tidy(value) for key, value in schema.items() if key not in dropped or isinstance(value, dict)}


_PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "RFC 9457, with the offending element and what to do next.",
    "x-addition": True,
    "xml": {"name": PROBLEM.name, "namespace": PROBLEM.namespace},
    "required": ["type", "title", "status"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "element": {"type": "string"},
        "remedy": {"type": "string"},
        "instance": {"type": "string"},
        "error": {"type": "string", "description": "POST /admin/identities: what is wrong, in one text"},
        "uuid": {"type": "string", "format": "uuid", "description": "POST /admin/identities: of the user there is"},
        "username": {"type": "string", "description": "POST /admin/identities: of the user there is"},
    },
}

# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────

_FORMATS = ("application/json", "application/yaml", "application/xml")
_PROBLEMS = ("application/problem+json", "application/problem+yaml", "application/problem+xml")
# The names of inline bodies in XML are those of their models, as xmlforms.root_of has them.
_SESSIONS = {
    "type": "object",
    "xml": {"name": "handles"},
    "required": ["sessions"],
    "properties": {"sessions": {"type": "array", "items": {"type": "string", "format": "uuid"}}},
}
_DRAIN = {
    "type": "object",
    "xml": {"name": "drain"},
    "properties": {"until": {"type": "string", "format": "date-time", "description": "absent: until it is resumed"}},
}
_VERDICT = {
    "type": "object",
    "xml": {"name": "verdict"},
    "required": ["taken", "because"],
    "properties": {
        "taken": {"type": "boolean", "description": "the site took the session; false: it surely did not"},
        "because": {"type": "string", "description": "who at the site said so, or where it was seen"},
    },
}
_NEW_IDENTITY = {
    "type": "object",
    "xml": {"name": "identity"},
    "required": ["username", "password"],
    "properties": {"username": {"type": "string"}, "password": {"type": "string", "format": "password"}},
}
_IDENTITY = {
    "type": "object",
    "required": ["uuid", "username"],
    "properties": {"uuid": {"type": "string", "format": "uuid"}, "username": {"type": "string"}},
}
# Answers that have one form, whatever is accepted.
_EVENTS = {"type": "string", "contentMediaType": "text/event-stream"}
_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
_FIGURES = {"type": "string", "contentMediaType": "text/plain"}
_ITSELF = {"type": "object", "contentMediaType": "application/json"}
# method, path, operationId, summary, body, {status: schema}
_CALLS: tuple[tuple[str, str, str, str, Any, dict[str, Any]], ...] = (
    ("post", "/requests", "ExecutionRequest", "Ask the federation for offers.", "ExecutionRequest",
     {"303": "OfferSetResponse", "200": "OfferSetResponse"}),
    ("post", "/direct", "DirectExecution", "Ask, and accept the best offer.", "ExecutionRequest",
     {"303": "AbstractExecutionSession", "200": "AbstractExecutionSession", "400": "AbstractExecutionSession"}),
    ("get", "/offersets", "OfferSetList", "One's own offer sets, newest first.", None, {"200": {"type": "object"}}),
    ("get", "/offersets/{uuid}", "OfferSetSelect", "An offer set.", None, {"200": "OfferSetResponse"}),
    ("get", "/offersets/{uuid}/request", "OfferSetRequest", "The request of a set, as it was sent.", None,
     {"200": "ExecutionRequest"}),
    ("get", "/offersets/{uuid}/events", "OfferSetEvents", "A set whenever it changes, as server-sent events.", None,
     {"200": _EVENTS, "204": None}),
    ("get", "/sessions", "SessionList", "One's own sessions, newest first.", None, {"200": {"type": "object"}}),
    ("get", "/sessions/{uuid}", "SessionSelect", "A session.", None, {"200": "AbstractExecutionSession"}),
    ("post", "/sessions/{uuid}", "SessionUpdate", "Change the phase: ACCEPTED, REJECTED, CANCELLED.", "AbstractUpdate",
     {"200": "AbstractExecutionSession"}),
    ("post", "/sessions/release", "SessionsRelease", "Give back many offers.", _SESSIONS, {"204": None}),
    ("post", "/sessions/status", "SessionsStatus", "Many sessions at once.", _SESSIONS, {"200": {"type": "object"}}),
    ("get", "/sessions/{uuid}/events", "SessionEvents", "A session whenever it changes, as server-sent events.", None,
     {"200": _EVENTS, "204": None}),
    ("get", "/sessions/{uuid}/logs", "SessionLogs", "Standard output and error.", None, {"200": {"type": "object"}}),
    ("get", "/sessions/{uuid}/results", "SessionResults", "The files left in ./results.", None,
     {"200": {"type": "object"}}),
    ("get", "/sessions/{uuid}/results/{name}", "SessionResult", "One result file.", None, {"200": _FILE}),
    ("get", "/doubts", "DoubtList", "Acceptances of which it is not known how they ended.", None,
     {"200": {"type": "object"}}),
    ("post", "/sessions/{uuid}/resolve", "SessionResolve", "Say how an acceptance in doubt ended.", _VERDICT,
     {"200": "AbstractExecutionSession"}),
    ("get", "/sites", "SiteList", "The registered sites.", None, {"200": {"type": "object"}}),
    ("get", "/sites/{name}", "SiteSelect", "A site.", None, {"200": {"type": "object"}}),
    ("put", "/sites/{name}", "SitePut", "Register a site, or change it.", "Registration", {"200": {"type": "object"}}),
    ("delete", "/sites/{name}", "SiteDelete", "Forget a site.", None, {"204": None}),
    ("post", "/sites/{name}/drain", "SiteDrain", "Ask a site for nothing new.", _DRAIN,
     {"200": {"type": "object"}}),
    ("post", "/sites/{name}/resume", "SiteResume", "Ask a site again.", None, {"200": {"type": "object"}}),
    ("post", "/sites/{name}/forget", "SiteForget", "Drop what was learned of a site.", None,
     {"200": {"type": "object"}}),
    ("get", "/profile", "ProfileSelect", "What this broker can do, for a broker above it.", None, {"200": "Profile"}),
    ("post", "/admin/identities", "IdentityCreate", "Make a local user.", _NEW_IDENTITY, {"201": _IDENTITY}),
    ("get", "/status", "StatusSelect", "The aggregated status.", None, {"200": {"type": "object"}}),
    ("get", "/metrics", "Metrics", "Figures for Prometheus.", None, {"200": _FIGURES}),
    ("get", "/openapi.json", "OpenApi", "This description.", None, {"200": _ITSELF}),
    ("get", "/health/live", "HealthLive", "The process answers.", None, {"200": {"type": "object"}}),
    ("get", "/health/ready", "HealthReady", "It can take requests.", None, {"200": {"type": "object"}}),
)  # fmt: skip


_SAYS = {
    "Idempotency-Key": "1 to 255 printable ASCII characters: sent again with the same key, the call is done once.",
    "Prefer": "RFC 7240: wait=N, seconds for the answer; respond-async, an open set at once.",
}
_HEADERS = {
    ("post", "/requests"): ("Idempotency-Key", "Prefer"),
    ("post", "/direct"): ("Idempotency-Key", "Prefer"),
    ("post", "/sessions/{uuid}"): ("Idempotency-Key",),
}
_INSTANT = {"type": "string", "format": "date-time"}
_ASKED: dict[str, dict[str, Any]] = {
    "after": {"type": "string", "description": "`next` of the page before"},
    "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
    "phase": {"type": "array", "items": {"type": "string", "enum": [phase.value for phase in SessionPhase]}},
    "all": {"type": "boolean", "description": "offers and refusals too"},
    "everyone": {"type": "boolean", "description": "others' too, for operators"},
    "account": {"type": "boolean", "description": "of every user of one's own account: for brokers above"},
    "site": {"type": "string"},
    "name": {"type": "string"},
    "since": {**_INSTANT, "description": "made then or later"},
    "stream": {"type": "string", "enum": ["stdout", "stderr"], "description": "this one alone, as plain text"},
}
_QUERIES = {
    ("get", "/offersets"): ("after", "limit", "everyone", "name", "since"),
    ("get", "/sessions"): ("after", "limit", "phase", "all", "everyone", "account", "site", "name", "since"),
    ("get", "/sessions/{uuid}/logs"): ("stream",),
}
_TAGGED = (
    ("get", "/offersets/{uuid}"), ("get", "/offersets/{uuid}/request"), ("get", "/sessions/{uuid}"), ("get", "/status"),
)  # fmt: skip
# Calls that mind no Accept: what they answer has one form, or none.
_UNFORMATTED = ("/metrics", "/openapi.json", "/sessions/release", "/sessions/{uuid}/results/{name}")
_MORE: dict[tuple[str, str], tuple[str, ...]] = {
    ("post", "/requests"): ("409", "422", "508"),
    ("post", "/direct"): ("409", "422", "508"),
    ("post", "/sessions/{uuid}"): ("409", "422"),
    ("post", "/sessions/release"): ("409",),
    ("post", "/sessions/{uuid}/resolve"): ("409",),
    ("get", "/sessions/{uuid}/logs"): ("409",),
    ("get", "/sessions/{uuid}/results"): ("409",),
    ("get", "/sessions/{uuid}/results/{name}"): ("409",),
    ("put", "/sites/{name}"): ("409",),
    ("delete", "/sites/{name}"): ("409",),
    ("post", "/admin/identities"): ("409",),
    ("get", "/health/ready"): ("503",),
}
_SCHEMES = ("basic", "bearer")
_PUBLIC = ("/openapi.json", "/health/live", "/health/ready")  # nobody need sign in, whatever the settings say


def _paths() -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for method, path, operation, summary, body, answers in _CALLS:
        call: dict[str, Any] = {"operationId": operation, "summary": summary, "responses": {}}
        names = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
        headers, queries = _HEADERS.get((method, path), ()), _QUERIES.get((method, path), ())
        if names or headers or queries:
            call["parameters"] = [*map(_parameter, names), *map(_header, headers), *map(_query, queries)]
        if body is not None:
            call["requestBody"] = {"required": path != "/sites/{name}/drain", "content": _content(body)}
        for status, schema in answers.items():
            call["responses"][status] = _response(status, schema)
        if path.endswith("/logs"):  # one stream of them, by itself
            call["responses"]["200"]["content"] |= _content(_FIGURES)
        for status in sorted(_refusals(method, path, body)):
            _refuse(call["responses"], status)
        if (method, path) in _TAGGED:
            call["responses"]["304"] = {"description": "The one of If-None-Match is the present one."}
        _refuse(call["responses"], "default")
        if path in _PUBLIC:
            call["security"] = []
        paths.setdefault(path, {})[method] = call
    return paths


def _refusals(method: str, path: str, body: Any) -> set[str]:
    """The statuses of problem documents that this call answers with; 500 alone is what nobody expected."""
    found = {"400"} if path not in _PUBLIC else set()
    if path not in _PUBLIC:
        found |= {"401", "403", "429", "503"}
    if "{" in path:
        found.add("404")
    if body is not None:
        found |= {"408", "413", "415"}
    if path not in _UNFORMATTED:
        found.add("406")
    return found | set(_MORE.get((method, path), ()))


def _refuse(responses: dict[str, Any], status: str) -> None:
    """Beside what the standard has under the same status: `/direct` refuses with a session."""
    response = responses.setdefault(status, {"description": "What is wrong, and what to do.", "content": {}})
    response["content"].update({media: {"schema": {"$ref": _REF.format(model="Problem")}} for media in _PROBLEMS})


def _parameter(name: str) -> dict[str, Any]:
    schema = {"type": "string", "format": "uuid"} if name == "uuid" else {"type": "string"}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _header(name: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": _SAYS[name], "schema": {"type": "string"}, "x-addition": True}


def _query(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": _ASKED[name], "x-addition": True}


def _response(status: str, schema: Any) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": {"204": "Done.", "303": "See Location; the body says it too."}.get(status, "OK")
    }
    if isinstance(schema, dict) and schema["type"] == "object" and "contentMediaType" not in schema:
        schema = {**schema, "xml": {"name": ANSWER.name}}
    if schema is not None:
        response["content"] = _content(schema)
    if status == "303":
        response["headers"] = {"Location": {"required": True, "schema": {"type": "string", "format": "uri"}}}
    return response


def _content(schema: Any) -> dict[str, Any]:
    if isinstance(schema, dict) and "contentMediaType" in schema:
        return {schema["contentMediaType"]: {"schema": {"type": schema["type"]}}}
    body = {"$ref": _REF.format(model=schema)} if isinstance(schema, str) else schema
    return {media: {"schema": body} for media in _FORMATS}
