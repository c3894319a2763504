"""Every answer of the running program conforms: to the standard's own description where it is there, and to ours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import pytest
import yaml

from broker.domain import kinds
from broker.testing.program import ACCEPT, CANCEL, Caller, Program, above, platform

pytestmark = pytest.mark.system
YAML = "application/yaml"


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("world")
    site = Program(folder, "alba", **platform(folder / "jobs")).start()
    top = Program(folder, "federation", **above(alba=site, dead="http://127.0.0.1:9")).start()
    yield top
    for program in (site, top):
        program.kill()


async def served(http: aiohttp.ClientSession, top: Program) -> dict[str, Any]:
    async with http.get(f"{top.url}/openapi.json") as response:
        document: dict[str, Any] = await response.json()
    return document


@pytest.fixture(params=["standard", "own"])
async def judged(
    request: pytest.FixtureRequest, http: aiohttp.ClientSession, top: Program, standard: dict[str, Any] | None
) -> Caller:
    if request.param == "own":
        return Caller(http, await served(http, top))
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    return Caller(http, standard)


async def test_the_whole_story_conforms(
    judged: Caller, top: Program, work: Any, until: Callable[..., Awaitable[dict[str, Any]]]
) -> None:
    call, url = judged, top.url
    request = work.request(
        compute={"kind": kinds.SIMPLE_COMPUTE, "meta": {"name": "box"}, "cores": {"min": 1, "max": 4}},
        preferences={"preset": "fastest", "failover": True},
    )
    asked = await call("POST", f"{url}/requests", request)
    offers = asked.json()["offers"]
    session = offers[0]["meta"]["url"]
    for accept in ("application/json", YAML):
        for address in (asked.headers["Location"], session):
            answer = await call("GET", address, accept=accept)
            assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (200, accept)
    written = yaml.safe_dump(request).encode()
    again = await call("POST", f"{url}/requests", written, accept=YAML, **{"Content-Type": YAML})
    assert (again.status, yaml.safe_load(again.body)["result"]) == (303, "YES")

    assert (await call("POST", session, ACCEPT, accept=YAML)).status == 200
    assert (await call("POST", offers[-1]["meta"]["url"], ACCEPT)).status == (200 if len(offers) == 1 else 409)
    await work.running()
    await call("GET", session)
    work.let_end()
    await until(session)
    await call("GET", session)
    await call("GET", asked.headers["Location"])

    other = (await call("POST", f"{url}/direct", work.request())).json()["meta"]["url"]
    await call("POST", other, CANCEL)
    await call("GET", other)
    refused = await call(
        "POST", f"{url}/direct", work.request(executable={"kind": kinds.JUPYTER_NOTEBOOK}), accept=YAML
    )
    assert yaml.safe_load(refused.body)["phase"] == "FAILED" or refused.status == 303
    no = await call("POST", f"{url}/requests", work.request(executable={"kind": kinds.DOCKER_CONTAINER}))
    assert no.json()["result"] == "NO"
    assert call.faults == []
    assert call.judged > 15


async def test_every_error_is_a_problem(judged: Caller, top: Program) -> None:
    call, url = judged, top.url
    nobody = "00000000-0000-4000-8000-000000000000"
    told = [
        await call("GET", f"{url}/sessions/{nobody}"),
        await call("GET", f"{url}/offersets/none"),
        await call("GET", f"{url}/nowhere"),
        await call("DELETE", f"{url}/requests"),
        await call("POST", f"{url}/requests", b"{"),
        await call("POST", f"{url}/requests", {}),
        await call("POST", f"{url}/requests", b"x", **{"Content-Type": "text/html"}),
        await call("POST", f"{url}/sessions/{nobody}", {"kind": "uri:odd"}),
        await call("GET", f"{url}/sessions/{nobody}", accept="text/html"),
        await call("PUT", f"{url}/sites/dead", {"kind": "ivoa"}),
        await call("GET", f"{url}/sites/nobody"),
    ]
    assert [answer.status for answer in told] == [404, 404, 404, 405, 400, 400, 415, 400, 406, 409, 404]
    assert {answer.headers["Content-Type"].split(";")[0] for answer in told} == {"application/problem+json"}
    assert call.faults == []
    assert call.judged == len(told)


@pytest.mark.parametrize("path", ["status", "sites", "profile", "offersets", "sessions", "health/live", "health/ready"])
async def test_lists_and_figures_are_the_same_in_both_formats(call: Caller, top: Program, path: str) -> None:
    read, written = [await call("GET", f"{top.url}/{path}", accept=accept) for accept in ("application/json", YAML)]
    assert (read.status, written.status) == (200, 200)
    one, two = read.json(), yaml.safe_load(written.body)
    assert one.keys() == two.keys()
