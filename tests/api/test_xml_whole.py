"""One request in three formats, through a whole broker and three sites over real sockets: the same ranked offers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from broker.api.routes import build_app
from broker.api.xmlforms import root_of
from broker.api.xmltext import decode_xml
from broker.api.xmlwrite import encode_xml
from broker.api.yamltext import decode_yaml, encode_yaml
from broker.domain import kinds
from broker.domain.request import ExecutionRequest
from broker.domain.session import AbstractExecutionSession, OfferSetResponse
from broker.domain.updates import AbstractUpdate
from broker.settings import load_settings
from broker.testing.conformance import Conformance
from broker.testing.site import FakeSite
from broker.wiring import open_services

REQUEST: dict[str, Any] = {
    "executable": {
        "kind": kinds.DOCKER_CONTAINER,
        "meta": {"name": "fit <&> é"},
        "image": {"locations": ["docker://a/b:1", "docker://c/d:1"], "digest": "sha256:00"},
        "privileged": False,
        "environment": {"A": "1", "b c": " x\ny "},
    },
    "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 2}, "memory": {"min": 1}},
    "data": [{"kind": kinds.SIMPLE_DATA, "meta": {"name": "in"}, "location": "http://127.0.0.1:9/in?a=1&b=2"}],
    "schedule": {"requested": {"duration": "PT1H"}},
    "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": 9.5}],
    "preferences": {"preset": "cheapest", "sites_forbidden": ["dear"], "failover": False},
}
UPDATE = {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "ACCEPTED"}
FORMATS = ("application/json", "application/yaml", "application/xml")


def written(document: dict[str, Any], model: Any, media: str) -> bytes:
    if media == "application/xml":
        return encode_xml(document, root_of(model))
    return encode_yaml(document) if media == "application/yaml" else msgspec.json.encode(document)


def read(body: bytes, model: Any, media: str) -> Any:
    if media == "application/xml":
        return decode_xml(body, model)
    return decode_yaml(body) if media == "application/yaml" else msgspec.json.decode(body)


class Whole:
    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self.http = url, http

    async def call(self, method: str, url: str, media: str, document: Any = None, model: Any = None) -> tuple[Any, ...]:
        headers = {"Accept": media, **({"Content-Type": media} if document else {})}
        body = written(document, model, media) if document else None
        async with self.http.request(method, url, data=body, headers=headers, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.read()


@pytest.fixture
async def whole(tmp_path: Path) -> AsyncIterator[Whole]:
    async with AsyncExitStack() as stack:
        sites = [
            await stack.enter_async_context(FakeSite(name, price=price, extra={"x_site": {"odd": True}}))
            for name, price in (("mid", 2.0), ("low", 1.0), ("over", 10.0), ("dear", 3.0))
        ]
        file = tmp_path / "broker.yaml"
        document = {
            "name": "whole",
            "listen": "127.0.0.1:0",
            "access": {"anonymous": "loopback"},
            "sites": {site.name: {"url": site.url} for site in sites},
        }
        file.write_text(json.dumps(document))
        parts = await stack.enter_async_context(open_services(load_settings(file)))
        runner = web.AppRunner(build_app(parts), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Whole(f"http://127.0.0.1:{runner.addresses[0][1]}", http)


def essence(offers: list[dict[str, Any]]) -> list[Any]:
    """What two answers to one request share: the times of day and the uuids differ."""
    return [
        (offer["site"], offer["phase"], offer["kind"], offer["costs"], offer["executable"]["image"],
         offer["executable"]["environment"], offer["compute"]["cores"], offer["ranking"]["rank"],
         offer["ranking"]["pay"], [term["name"] for term in offer["ranking"]["terms"]],
         offer["meta"]["options"])
        for offer in offers
    ]  # fmt: skip


async def test_one_request_in_three_formats_gets_the_same_ranked_offers(whole: Whole) -> None:
    seen = []
    for media in FORMATS:
        status, headers, body = await whole.call("POST", f"{whole.url}/requests", media, REQUEST, ExecutionRequest)
        assert (status, headers["Content-Type"]) == (303, media)
        offerset = read(body, OfferSetResponse, media)
        assert offerset["result"] == "YES"
        outcomes = {line["site"]: line["outcome"] for line in offerset["outcomes"]}
        seen.append((essence(offerset["offers"]), outcomes, offerset["preferences"]["preset"]))
    assert [offer[0] for offer in seen[0][0]] == ["low", "mid"]
    assert seen[0][0][0][4:7] == (
        {"locations": ["docker://a/b:1", "docker://c/d:1"], "digest": "sha256:00"},
        {"A": "1", "b c": " x\ny "},
        {"min": 4, "max": 4},
    )
    assert seen[0] == seen[1] == seen[2]


async def test_a_set_says_the_same_in_three_formats_but_for_what_a_site_added(whole: Whole) -> None:
    _, headers, _ = await whole.call("POST", f"{whole.url}/requests", FORMATS[0], REQUEST, ExecutionRequest)
    _, _, described = await whole.call("GET", f"{whole.url}/openapi.json", FORMATS[0])
    judge = Conformance(json.loads(described), json.loads(described))
    answers = {}
    for media in FORMATS:
        status, _, body = await whole.call("GET", headers["Location"], media)
        assert status == 200
        answers[media] = read(body, OfferSetResponse, media)
    assert answers["application/yaml"] == answers["application/json"]
    for offer in answers["application/json"]["offers"]:
        assert offer.pop("x_site") == {"odd": True}
    assert answers["application/xml"] == answers["application/json"]
    assert judge.faults(answers["application/xml"], "OfferSetResponse") == []


async def test_an_offer_is_accepted_in_xml_and_reads_the_same_in_all(whole: Whole) -> None:
    media = "application/xml"
    _, _, body = await whole.call("POST", f"{whole.url}/requests", media, REQUEST, ExecutionRequest)
    best, other = (offer["meta"]["url"] for offer in read(body, OfferSetResponse, media)["offers"])
    status, _, body = await whole.call("POST", best, media, UPDATE, AbstractUpdate)
    assert (status, read(body, AbstractExecutionSession, media)["phase"]) == (200, "ACCEPTED")
    status, headers, body = await whole.call("POST", other, media, UPDATE, AbstractUpdate)
    assert (status, headers["Content-Type"]) == (409, "application/problem+xml")
    assert b"<status>409</status>" in body
    phases = set()
    for media in FORMATS:
        _, _, body = await whole.call("GET", best, media)
        phases.add(read(body, AbstractExecutionSession, media)["offerset"])
    assert len(phases) == 1


async def test_a_request_reads_back_in_all_formats_as_it_was_sent_in_xml(whole: Whole) -> None:
    media = "application/xml"
    _, headers, _ = await whole.call("POST", f"{whole.url}/requests", media, REQUEST, ExecutionRequest)
    for media in FORMATS:
        status, _, body = await whole.call("GET", f"{headers['Location']}/request", media)
        assert (status, read(body, ExecutionRequest, media)) == (200, REQUEST)


async def test_every_reading_call_answers_in_xml_with_the_root_that_is_described(whole: Whole) -> None:
    _, _, described = await whole.call("GET", f"{whole.url}/openapi.json", FORMATS[0])
    document = json.loads(described)
    _, headers, body = await whole.call("POST", f"{whole.url}/requests", FORMATS[0], REQUEST, ExecutionRequest)
    places = {"/offersets": headers["Location"], "/sessions": json.loads(body)["offers"][0]["meta"]["url"]}
    seen = 0
    for path, calls in document["paths"].items():
        answer = calls.get("get", {}).get("responses", {}).get("200", {}).get("content", {}).get("application/xml", {})
        schema = answer.get("schema", {"type": "string"})
        schema = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
        if schema.get("type") == "string" or path == "/openapi.json":
            continue
        start, _, rest = path.partition("/{")
        url = places[start] + rest.partition("}")[2] if rest and start in places else whole.url + start
        status, answered, body = await whole.call(
            "GET", url + ("/low" if start == "/sites" and rest else ""), "text/xml"
        )
        if status == 200:  # what an offer has not yet is 404 or 409
            assert answered["Content-Type"] == "text/xml"
            assert re.match(rb"<\?xml[^>]*>\n<([\w-]+)", body)[1].decode() == schema["xml"]["name"], path
            seen += 1
    assert seen >= 11
