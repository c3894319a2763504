"""XML over real HTTP: what it is called, what is refused, problems, versions; and the format where nobody says one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from broker.api.openapi import describe
from broker.api.wire import YAML, Limits
from broker.api.xmlforms import root_of
from broker.api.xmlwrite import encode_xml
from broker.domain import kinds
from broker.domain.request import ExecutionRequest

REQUEST = {"executable": {"kind": kinds.DOCKER_CONTAINER, "command": ["a", "b"]}}
BODY = encode_xml(REQUEST, root_of(ExecutionRequest))
SESSION = "/sessions/91c20000-0000-4000-8000-00000000000b"


async def ask(api: Any, body: bytes, content_type: str | None = "application/xml", **headers: str) -> Any:
    headers = {**({"Content-Type": content_type} if content_type else {}), **headers}
    skip = None if content_type else ["Content-Type"]
    return await api.call("POST", "/requests", data=body, headers=headers, skip_auto_headers=skip)


@pytest.mark.parametrize(
    "content_type",
    ["application/xml", "text/xml", "Text/XML; charset=UTF-8", "application/vnd.ivoa.offers+xml", "text/xml; a=b"],
)
async def test_reads_xml(api: Any, content_type: str) -> None:
    assert (await ask(api, BODY, content_type)).status == 303
    ((_, request, _, _),) = api.services.calls
    assert request.to_wire() == REQUEST


@pytest.mark.parametrize("content_type", ["application/xhtml+xml", "image/svg+xml", "text/xml; charset=latin-1"])
async def test_other_documents_are_415(api: Any, content_type: str) -> None:
    assert (await ask(api, BODY, content_type)).status == 415
    assert api.services.calls == []


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/xml", "application/xml"),
        ("text/xml", "text/xml"),
        ("text/xml;q=0.5, application/xml", "text/xml"),
        ("application/vnd.ivoa+xml", "application/xml"),
        ("application/problem+xml", "application/xml"),
        ("application/json;q=0.5, application/xml;q=0.6", "application/xml"),
        ("application/yaml;q=0, application/json;q=0, */*;q=0.1", "application/xml"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "application/xml"),
        ("application/xml;q=0.2, */*;q=0.1", "application/xml"),
    ],
)
async def test_answers_in_xml_where_it_is_preferred(api: Any, accept: str, content_type: str) -> None:
    answer = await api.call("GET", "/sites/alba", headers={"Accept": accept})
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    assert answer.body.endswith(b"<answer><name>alba</name></answer>")


@pytest.mark.parametrize("accept", ["application/xml;q=0.8, application/yaml;q=0.9", "application/xml;q=0, */*"])
async def test_answers_in_another_format_where_that_is_preferred(api: Any, accept: str) -> None:
    answer = await api.call("GET", "/sites/alba", headers={"Accept": accept})
    assert answer.headers["Content-Type"] in ("application/yaml", "application/json")


async def test_an_update_in_xml_is_answered_with_a_session(api: Any) -> None:
    update = f'<update kind="{kinds.ENUM_UPDATE}"><path>/phase</path><value>ACCEPTED</value></update>'
    headers = {"Content-Type": "application/xml", "Accept": "text/xml"}
    answer = await api.call("POST", SESSION, data=update.encode(), headers=headers)
    assert answer.status == 200
    assert api.services.calls[-1][2].value == "ACCEPTED"
    assert answer.body.partition(b"\n")[2] == b"<execution></execution>"  # all that a document of no kind comes to


async def test_a_batch_is_read_in_xml(api: Any) -> None:
    body = f"<handles><sessions>{SESSION.rpartition('/')[2]}</sessions></handles>"
    answer = await api.call(
        "POST", "/sessions/release", data=body.encode(), headers={"Content-Type": "application/xml"}
    )
    assert answer.status == 204
    assert [str(uuid) for uuid in api.services.calls[-1][1]] == [SESSION.rpartition("/")[2]]


async def test_a_site_is_registered_in_xml(api: Any) -> None:
    options = b'<options><entry name="a" type="integer">1</entry></options>'
    body = b"<site><url>http://x</url><concurrency>3</concurrency>%s</site>" % options
    answer = await api.call("PUT", "/sites/b", user="ops", data=body, headers={"Content-Type": "text/xml"})
    assert answer.status == 200
    site = api.services.calls[-1][2]
    assert (site.concurrency, site.options) == (3, {"a": 1})


DESCRIBED = json.loads(describe("0"))


def xml_roots(part: str) -> list[Any]:
    """(method, path, name of the root in XML) of each body that is described as XML."""
    found = []
    for path, calls in DESCRIBED["paths"].items():
        for method, call in calls.items():
            bodies = [call.get("requestBody", {})] if part == "requests" else call["responses"].values()
            for body in bodies:
                schema = body.get("content", {}).get("application/xml", {}).get("schema", {})
                schema = DESCRIBED["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], schema)
                if schema.get("type", "object") != "string" and schema:
                    found.append((method.upper(), path, schema["xml"]["name"]))
    return found


@pytest.mark.parametrize(("method", "path", "root"), xml_roots("requests"))
async def test_the_described_roots_are_those_that_are_read(api: Any, method: str, path: str, root: str) -> None:
    path = path.replace("{uuid}", SESSION.rpartition("/")[2]).replace("{name}", "alba")
    kind = f' kind="{kinds.ENUM_UPDATE}"' if root == "update" else ""
    wrong, right = [
        await api.call(method, path, user="root", data=body.encode(), headers={"Content-Type": "application/xml"})
        for body in ("<nothing/>", f"<{root}{kind}/>")
    ]
    assert wrong.json()["detail"] == f"<{root}> is wanted here."
    assert right.status < 500
    assert "is wanted here" not in right.body.decode()


def test_every_answer_that_is_described_as_xml_has_a_root() -> None:
    roots = {root for _, _, root in xml_roots("responses")}
    assert roots == {"answer", "offers-request", "offers-response", "execution", "profile"}


async def test_problems_are_told_in_xml_as_their_standard_has_it(api: Any) -> None:
    answer = await ask(api, BODY.replace(b"<command>a", b"<comand>a", 1), Accept="application/xml")
    assert (answer.status, answer.headers["Content-Type"]) == (400, "application/problem+xml")
    # The first start tag is now unbalanced: what is wrong is told by line and column.
    assert b'<problem xmlns="urn:ietf:rfc:7807"><type>uri:problem-malformed-1.0</type>' in answer.body
    body = b'<offers-request><executable kind="uri:x"/><colour/></offers-request>'
    answer = await ask(api, body, Accept="application/xml")
    assert b"<element>colour</element>" in answer.body
    answer = await api.call("GET", "/nowhere", headers={"Accept": "text/xml"})
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+xml")


async def test_bodies_are_bounded(serve: Any) -> None:
    api = await serve(limits=Limits(xml_bytes=1000))
    fits = BODY + b" " * (1000 - len(BODY))
    assert (await ask(api, fits)).status == 303
    assert (await ask(api, fits + b" ")).status == 413


BOMBS = {
    "external entity": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><offers-request>&b;</offers-request>',
    "external subset": b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd"><offers-request/>',
    "billion laughs": b"<!DOCTYPE l [<!ENTITY a0 'ha'>"
    + b"".join(b"<!ENTITY a%d '%s'>" % (i, b"&a%d;" % (i - 1) * 10) for i in range(1, 99))
    + b"]><offers-request>&a98;</offers-request>",
    "depth": b"<a>" * 80_000,
    "width": b"<offers-request>" + b"<a/>" * 60_000,
    "attributes": b"<a " + b" ".join(b"a%d=''" % i for i in range(20_000)) + b"/>",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
async def test_bombs_are_400_and_the_process_lives(api: Any, bomb: bytes) -> None:
    answer = await ask(api, bomb)
    assert answer.status == 400
    assert b"root:" not in answer.body
    assert api.services.calls == []
    assert (await api.call("GET", "/health/live")).status == 200


async def test_xml_has_a_tag_of_its_own(api: Any) -> None:
    tags = set()
    for accept in ("application/json", "application/yaml", "application/xml"):
        first = await api.call("GET", SESSION, headers={"Accept": accept})
        tags.add(first.headers["ETag"])
        again = await api.call("GET", SESSION, headers={"Accept": accept, "If-None-Match": first.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")
    assert len(tags) == 3


async def test_the_answer_to_head_is_as_long_as_that_to_get(api: Any) -> None:
    get, head = [await api.call(method, SESSION, headers={"Accept": "text/xml"}) for method in ("GET", "HEAD")]
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.body))
    assert head.headers["Content-Type"] == "text/xml"


async def test_large_answers_come_in_xml_too(serve: Any) -> None:
    api = await serve()
    api.services.snapshot_ = {"numbers": [str(n) for n in range(10_000)], "time": "1"}
    answer = await api.call("GET", "/status", headers={"Accept": "application/xml"})
    assert answer.body.count(b"<item>") == 10_000


# ── where nobody says which ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/yaml"),
        ("*/*", "application/yaml"),
        ("application/*", "application/yaml"),
        ("application/json, application/yaml", "application/yaml"),
        ("application/json", "application/json"),
        ("application/json, */*;q=0.5", "application/json"),
        ("application/yaml;q=0, */*", "application/json"),
        ("application/xml", "application/xml"),
    ],
)
async def test_yaml_is_the_format_where_the_settings_say_so(serve: Any, accept: str | None, content_type: str) -> None:
    api = await serve(default=YAML)
    headers = {"Accept": accept} if accept else {}
    answer = await api.call("GET", "/sites/alba", headers=headers, skip_auto_headers=None if accept else ["Accept"])
    assert answer.headers["Content-Type"] == content_type


async def test_a_body_of_no_format_is_read_in_the_default_one(serve: Any) -> None:
    api = await serve(default=YAML)
    written = f"executable: {{kind: '{kinds.DOCKER_CONTAINER}', command: [a, b]}}"
    for body in (written.encode(), msgspec.json.encode(REQUEST)):
        assert (await ask(api, body, None)).status == 303
        assert api.services.calls[-1][1].to_wire() == REQUEST


async def test_problems_come_in_the_default_format_too(serve: Any) -> None:
    api = await serve(default=YAML)
    answer = await api.call("GET", "/nowhere", skip_auto_headers=["Accept"])
    assert (answer.status, answer.headers["Content-Type"]) == (404, "application/problem+yaml")
