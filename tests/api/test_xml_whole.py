"""One request in three formats, through a whole broker and three sites over real sockets: the same ranked offers."""

from __future__ import annotations

import json
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


async def test_every_call_that_answers_documents_does_so_in_xml(whole: Whole) -> None:
    _, headers, _ = await whole.call("POST", f"{whole.url}/requests", FORMATS[0], REQUEST, ExecutionRequest)
    lists = ("/offersets", "/sessions?all=true", "/sites", "/sites/low", "/profile", "/status", "/health/ready")
    for path in lists:
        status, answered, body = await whole.call("GET", whole.url + path, "application/xml")
        assert (status, answered["Content-Type"]) == (200, "application/xml"), path
        assert body.startswith(b'<?xml version="1.0" encoding="UTF-8"?>\n<'), path
    assert headers["Location"].startswith(whole.url)
