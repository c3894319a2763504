"""Bodies in, answers out, over real HTTP: formats, limits, versions, files."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import msgspec
import pytest
import yaml
from aiohttp import ClientPayloadError

from broker.api.wire import Limits
from broker.api.yamltext import decode_yaml
from broker.domain import kinds

REQUEST = {"executable": {"kind": kinds.DOCKER_CONTAINER, "colour": "no", "list": [1, None]}}
JSON = msgspec.json.encode(REQUEST)
YAML = yaml.safe_dump(REQUEST).encode()


async def ask(api: Any, body: bytes, content_type: str | None, **headers: str) -> Any:
    headers = {**({"Content-Type": content_type} if content_type else {}), **headers}
    skip = None if content_type else ["Content-Type"]
    return await api.call("POST", "/requests", data=body, headers=headers, skip_auto_headers=skip)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", JSON),
        ("application/json; charset=UTF-8", JSON),
        ("Application/JSON", JSON),
        ("application/vnd.ivoa+json", JSON),
        (None, JSON),
        ("application/yaml", YAML),
        ("text/yaml; charset=utf-8", YAML),
        ("text/x-yaml", YAML),
        ("application/x-yaml", YAML),
        ("application/vnd.ivoa+yaml", YAML),
        ("application/yaml", JSON),  # JSON is YAML
    ],
)
async def test_reads_json_and_yaml_alike(api: Any, content_type: str | None, body: bytes) -> None:
    answer = await ask(api, body, content_type)
    assert answer.status == 303
    ((_, request, _, _),) = api.services.calls
    assert request.to_wire() == {"executable": {**REQUEST["executable"], "list": [1, None]}}


@pytest.mark.parametrize(
    ("content_type", "words"),
    [
        ("application/pdf", "application/pdf is not read here"),
        ("image/svg+xml", "image/svg+xml is not read here"),
        ("text/plain", "text/plain is not read here"),
        ("application/x-www-form-urlencoded", "is not read here"),
        ("application/json; charset=utf-16", "only UTF-8"),
    ],
)
async def test_other_formats_are_415(api: Any, content_type: str, words: str) -> None:
    answer = await ask(api, JSON, content_type)
    assert answer.status == 415
    assert words in answer.json()["detail"]
    assert api.services.calls == []


async def test_compressed_bodies_are_415(api: Any) -> None:
    answer = await ask(api, gzip.compress(JSON), "application/json", **{"Content-Encoding": "gzip"})
    assert answer.status == 415
    assert "compressed" in answer.json()["detail"]


@pytest.mark.parametrize(("content_type", "limit"), [("application/json", 2000), ("application/yaml", 1000)])
async def test_bodies_are_bounded_by_format(serve: Any, content_type: str, limit: int) -> None:
    api = await serve(limits=Limits(json_bytes=2000, yaml_bytes=1000))
    fits = JSON + b" " * (limit - len(JSON))
    assert (await ask(api, fits, content_type)).status == 303
    answer = await ask(api, fits + b" ", content_type)
    assert (answer.status, answer.json()["type"]) == (413, "uri:problem-too-large-1.0")


async def test_bodies_without_a_stated_length_are_bounded_too(serve: Any) -> None:
    api = await serve(limits=Limits(json_bytes=2000))

    async def flood() -> Any:
        for _ in range(100):
            yield b" " * 100

    answer = await api.call("POST", "/requests", data=flood(), headers={"Content-Type": "application/json"})
    assert answer.status == 413


async def test_a_body_that_drips_is_408(serve: Any) -> None:
    api = await serve(limits=Limits(body_seconds=0.05))
    over = asyncio.Event()

    async def drip() -> Any:
        yield b"{"
        await over.wait()

    call = asyncio.ensure_future(
        api.call("POST", "/requests", data=drip(), headers={"Content-Type": "application/json"})
    )
    answer = await call
    over.set()
    assert (answer.status, answer.json()["title"]) == (408, "Request Timeout")


async def test_faults_of_the_body_are_problems_with_element_and_remedy(api: Any) -> None:
    document = {**REQUEST, "compute": {"kind": kinds.SIMPLE_COMPUTE, "memory": {"min": "16GB"}}}
    answer = await ask(api, msgspec.json.encode(document), "application/json")
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json() == {
        "type": "uri:problem-bad-input-1.0",
        "title": "The request cannot be used",
        "status": 400,
        "instance": "/requests",
        "detail": '"16GB": a whole number of GiB is wanted.',
        "element": "compute.memory.min",
        "remedy": "Write 16.",
    }


async def test_yaml_that_would_kill_a_loader_is_400(api: Any) -> None:
    answer = await ask(api, b"[" * 26_000 + b"]" * 26_000, "application/yaml")
    assert (answer.status, answer.json()["type"]) == (400, "uri:problem-malformed-1.0")
    assert (await api.call("GET", "/health/live")).status == 200


async def test_yaml_beyond_its_limit_is_413_by_default(api: Any) -> None:
    assert (await ask(api, b"a: " + b"x" * 65_536, "application/yaml")).status == 413


# ── negotiation ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json, application/yaml", "application/json"),
        ("application/yaml", "application/yaml"),
        ("Application/YAML", "application/yaml"),
        ("text/yaml", "text/yaml"),
        ("text/*", "application/yaml"),
        ("application/json;q=0.5, application/x-yaml", "application/x-yaml"),
        ("application/json;q=0, */*", "application/yaml"),
        ("application/yaml;q=0.4, */*;q=0.3", "application/yaml"),
        ("text/html, */*;q=0.8", "application/json"),
        ("text/html, application/xhtml+xml, image/svg+xml, */*;q=0.8", "application/json"),
        ("application/problem+json", "application/json"),
        ("application/vnd.ivoa+yaml", "application/yaml"),
        ("nonsense", "application/json"),
    ],
)
async def test_answers_in_the_format_asked_for(api: Any, accept: str | None, content_type: str) -> None:
    headers = {"Accept": accept} if accept else {}
    skip = None if accept else ["Accept"]
    answer = await api.call("GET", "/sites/alba", headers=headers, skip_auto_headers=skip)
    assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
    assert decode_yaml(answer.body) == {"name": "alba"}
    assert answer.headers["Vary"] == "Accept, Authorization"


@pytest.mark.parametrize("accept", ["text/html", "application/xhtml+xml", "application/json;q=0", "*/*;q=0", "a/b;q=x"])
async def test_formats_that_are_not_written_are_406_before_anything_is_done(api: Any, accept: str) -> None:
    answer = await ask(api, JSON, "application/json", Accept=accept)
    assert answer.status == 406
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["remedy"] == "There are: application/json, application/yaml, application/xml."
    assert api.services.calls == []


async def test_large_answers_come_in_yaml_too(serve: Any) -> None:
    api = await serve()
    api.services.snapshot_ = {"numbers": [str(n) for n in range(10_000)], "time": "1"}
    answer = await api.call("GET", "/status", headers={"Accept": "application/yaml"})
    assert yaml.safe_load(answer.body) == api.services.snapshot_


# ── versions ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("accept", ["application/json", "application/yaml"])
async def test_a_known_version_is_304(api: Any, accept: str) -> None:
    path = "/sessions/91c20000-0000-4000-8000-00000000000b"
    first = await api.call("GET", path, headers={"Accept": accept})
    tag = first.headers["ETag"]
    for known in (tag, f'"other", {tag}', "*", f"W/{tag}"):
        again = await api.call("GET", path, headers={"Accept": accept, "If-None-Match": known})
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
    other = await api.call("GET", path, headers={"Accept": accept, "If-None-Match": '"other"'})
    assert (other.status, other.body) == (200, first.body)


async def test_each_format_has_its_own_tag(api: Any) -> None:
    tags = {(await api.call("GET", "/status", headers={"Accept": a})).headers["ETag"] for a in ("text/yaml", "*/*")}
    assert len(tags) == 2


async def test_the_status_changes_its_tag_when_something_but_the_time_changes(api: Any) -> None:
    first = (await api.call("GET", "/status")).headers["ETag"]
    api.services.snapshot_ = {**api.services.snapshot_, "time": "2"}
    again = await api.call("GET", "/status", headers={"If-None-Match": first})
    assert again.status == 304
    assert again.headers["Cache-Control"] == "private, no-cache"
    api.services.snapshot_ = {**api.services.snapshot_, "n": 2}
    changed = await api.call("GET", "/status", headers={"If-None-Match": first})
    assert (changed.status, changed.json()["n"]) == (200, 2)
    assert changed.headers["ETag"] != first


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────

FILE = "/sessions/91c20000-0000-4000-8000-00000000000b/results/"


async def test_files_are_handed_on_as_bytes_and_nothing_else(api: Any) -> None:
    answer = await api.call("GET", FILE + "a/flu%20x%22.html")
    assert (answer.status, answer.body) == (200, b"onetwo")
    assert api.services.calls[-1][2] == 'a/flu x".html'
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''flu%20x%22.html"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_an_empty_file_is_an_empty_file(api: Any) -> None:
    api.services.pieces = []
    answer = await api.call("GET", FILE + "empty")
    assert (answer.status, answer.body) == (200, b"")


async def test_what_fails_before_the_first_byte_is_a_problem(api: Any, site_error: Exception) -> None:
    api.services.pieces = [site_error]
    answer = await api.call("GET", FILE + "x")
    assert (answer.status, answer.json()["detail"]) == (502, "alba sent half a file.")


@pytest.mark.parametrize("fault", ["site", "bug"])
async def test_half_a_file_is_never_taken_for_a_whole_one(api: Any, site_error: Exception, fault: str) -> None:
    api.services.pieces = [b"half", site_error if fault == "site" else ZeroDivisionError()]
    with pytest.raises(ClientPayloadError):
        await api.call("GET", FILE + "x")
    assert (await api.call("GET", "/health/live")).status == 200
