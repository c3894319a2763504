"""A stranger that knows our description alone calls everything in it, in every format: schemathesis, on a live server.

Nothing it sends makes us answer with a 5xx, or with a status, a format or a document that we do not describe. What is
sent follows a fixed seed. Half of what it sends fits the description and half does not; beside what it makes up itself,
paths name a set and a session that there are, and bodies are a request that there are offers for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)

from broker.api.openapi import describe
from broker.domain import kinds
from broker.testing.program import Program

EXAMPLES = 6  # of each kind, for each call
FORMATS = ("application/json", "application/yaml", "application/xml")
SPEAKS = st.sampled_from([*FORMATS, "*/*", "application/yaml;q=0.5, application/xml;q=0.4", "text/html"])
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
JUDGES = [
    not_a_server_error,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
REQUEST = {
    "executable": {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["docker://a/b:1"]}},
    "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 2}, "memory": {"min": 1}},
    "schedule": {"requested": {"duration": "PT1H"}},
}
UPDATES = [{"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": phase} for phase in ("ACCEPTED", "CANCELLED", "OFF")]
CALLS = [(path, method) for path, calls in json.loads(describe("0"))["paths"].items() for method in calls]


class Live:
    def __init__(self, url: str) -> None:
        self.url, self.http = url, requests.Session()
        document = self.http.get(f"{url}/openapi.json", timeout=30).json()
        # Signing in is the other tests' matter: here everybody from this machine may, and wrong names would be slowed
        # down.
        document.pop("security")
        self.schema = schemathesis.openapi.from_dict(document)

    def close(self) -> None:
        self.http.close()

    def session(self) -> tuple[str, str]:
        """A new set and its best session. Those before are given back: a user may hold so many open."""
        held = self.http.get(f"{self.url}/sessions?phase=OFFERED&limit=1000", timeout=30).json()["sessions"]
        self.http.post(f"{self.url}/sessions/release", json={"sessions": [line["uuid"] for line in held]}, timeout=30)
        made = self.http.post(f"{self.url}/requests", json=REQUEST, timeout=30, allow_redirects=False).json()
        return made["meta"]["uuid"], made["offers"][0]["meta"]["uuid"]

    def send(self, case: Case, accept: str) -> requests.Response:
        headers = {**{k: v for k, v in (case.headers or {}).items() if k != "Authorization"}, "Accept": accept}
        response: requests.Response = case.call(
            base_url=self.url, session=self.http, headers=headers, timeout=30, allow_redirects=False
        )
        return response


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    program = Program(
        tmp_path_factory.mktemp("live"),
        "live",
        platform={"kind": "simulated"},
        tariff={"core_hour": 1.0},
        capacity={"cores": 100_000, "memory": 100_000},
    )
    live = Live(program.start().url)
    yield live
    live.close()
    assert program.stop() == 0


def judge(operation: APIOperation, case: Case, response: Any) -> None:
    described = operation.definition.raw["responses"]
    assert str(response.status_code) in described, (response.status_code, response.text[:500])
    case.validate_response(response, checks=JUDGES)


def harmless(case: Case) -> bool:
    """A site that is registered is called: not to be made up."""
    return case.method != "PUT" or not str(getattr(case.body, "get", lambda _: "")("url") or "").startswith("http")


def sounder(case: Case) -> Case:
    """With an executable and a compute resource that there are offers for; the rest as it was made up."""
    if case.path in ("/requests", "/direct") and isinstance(case.body, dict):
        case.body = {**case.body, **REQUEST}
    return case


@pytest.mark.parametrize(("path", "method"), CALLS)
def test_whatever_is_sent_is_answered_as_described(live: Live, path: str, method: str) -> None:
    operation = live.schema[path][method]
    set_, session = live.session()
    known = {"path_parameters": {"uuid": session if "sessions" in path else set_}} if path.count("{") == 1 else {}
    if "uuid" not in path or path.endswith("/events"):  # a stream of what there is has no end
        known = {}
    modes = MODES if operation.path_parameters or operation.query or operation.headers or operation.body else MODES[:1]
    cases = st.one_of(*(operation.as_strategy(mode, **more) for mode in modes for more in ({}, known)))
    cases |= cases.map(sounder)

    @seed(20261122)
    @settings(
        max_examples=EXAMPLES * 4,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases.filter(harmless), accept=SPEAKS)
    def calls(case: Case, accept: str) -> None:
        judge(operation, case, live.send(case, accept))

    calls()


@pytest.mark.parametrize("media", FORMATS)
@pytest.mark.parametrize(
    ("path", "bodies"), [("/requests", [REQUEST]), ("/direct", [REQUEST]), ("/sessions/{uuid}", UPDATES)]
)
def test_what_is_meant_well_is_answered_as_described(live: Live, path: str, bodies: list[Any], media: str) -> None:
    operation = live.schema[path]["POST"]
    for body in bodies:
        parameters = {"uuid": live.session()[1]} if "{" in path else {}
        case = operation.Case(path_parameters=parameters, body=body, media_type="application/json")
        response = live.send(case, media)
        judge(operation, case, response)
        assert response.headers["content-type"][0].split(";")[0] in (media, media.replace("/", "/problem+"))


def _without_its_status(responses: dict[str, Any]) -> None:
    del responses["200"]


def _with_another_format(responses: dict[str, Any]) -> None:
    responses["200"]["content"] = {"text/html": {}}


def _with_what_is_not_there(responses: dict[str, Any]) -> None:
    responses["200"]["content"]["application/json"]["schema"] = {"type": "object", "required": ["nonsense"]}


@pytest.mark.parametrize("wrong", [_without_its_status, _with_another_format, _with_what_is_not_there])
def test_what_is_not_as_described_is_noticed(live: Live, wrong: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(describe("0"))
    wrong(document["paths"]["/profile"]["get"]["responses"])
    operation = schemathesis.openapi.from_dict(document)["/profile"]["get"]
    case = operation.Case()
    with pytest.raises((AssertionError, FailureGroup)):
        judge(operation, case, live.send(case, "application/json"))
    sound = live.schema["/profile"]["get"]
    judge(sound, sound.Case(), live.send(sound.Case(), "application/json"))
