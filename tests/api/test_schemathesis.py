"""A stranger that knows our description alone calls everything in it, in every format: schemathesis, on a live server.

Nothing it sends makes us answer with a 5xx, or with a status, a format or a document that we do not describe. What is
sent follows a fixed seed. Half of what it sends fits the description and half does not; beside what it makes up itself,
paths name a set and a session that there are, and bodies are a request that there are offers for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
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
        self.held: list[str] = []
        document = self.http.get(f"{url}/openapi.json", timeout=30).json()
        # Signing in is the other tests' matter: here everybody from this machine may, and wrong names would be slowed
        # down.
        document.pop("security")
        self.schema = schemathesis.openapi.from_dict(document)

    def close(self) -> None:
        self.http.close()

    def session(self) -> tuple[str, str]:
        """A new set and its best session. The one before is given back: a user may hold so many open."""
        self.http.post(f"{self.url}/sessions/release", json={"sessions": self.held}, timeout=30)
        made = self.http.post(f"{self.url}/requests", json=REQUEST, timeout=30, allow_redirects=False).json()
        self.held = [offer["meta"]["uuid"] for offer in made["offers"]]
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


@pytest.mark.parametrize(("path", "method"), CALLS)
def test_whatever_is_sent_is_answered_as_described(live: Live, path: str, method: str) -> None:
    operation = live.schema[path][method]
    set_, session = live.session()
    known = {"path_parameters": {"uuid": session if "sessions" in path else set_}} if path.count("{") == 1 else {}
    if "uuid" not in path or path.endswith("/events"):  # a stream of what there is has no end
        known = {}
    modes = MODES if operation.path_parameters or operation.query or operation.headers or operation.body else MODES[:1]
    cases = st.one_of(*(operation.as_strategy(mode, **more) for mode in modes for more in ({}, known)))

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
