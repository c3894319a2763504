"""Results that are to go elsewhere, from the request to the place, through a broker above the site."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.domain import kinds
from broker.testing.program import ACCEPT, Caller, Program, above, platform

pytestmark = pytest.mark.system

SOURCE = "open('results/a.txt', 'w').write('hello')"


@pytest.fixture
async def store() -> AsyncIterator[tuple[dict[str, bytes], str]]:
    """A place that takes what is put."""
    files: dict[str, bytes] = {}

    async def put(asked: web.Request) -> web.Response:
        files[asked.path] = await asked.read()
        return web.Response(status=201)

    app = web.Application()
    app.add_routes([web.put("/{path:.*}", put)])
    async with TestServer(app) as server:
        yield files, str(server.make_url("/")).rstrip("/")


def request(**outputs: Any) -> dict[str, Any]:
    return {
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": SOURCE},
        "schedule": {"requested": {"duration": "PT2M"}},
        "outputs": outputs,
    }


async def test_results_go_where_the_request_wants_them_by_a_site_that_can_write_there(
    tmp_path: Path,
    store: tuple[dict[str, bytes], str],
    call: Caller,
    until: Callable[..., Awaitable[dict[str, Any]]],
) -> None:
    files, url = store
    settings = platform(tmp_path / "jobs")
    settings["platform"] |= {"writes": [f"{url}/results/"], "keep_longest": "P30D"}
    settings["tariff"]["storage_day"] = 0.01
    site = Program(tmp_path, "site", **settings).start()
    other = Program(tmp_path, "other", **platform(tmp_path / "others")).start()
    federation = above(site=site, other=other)
    federation["sites"]["site"]["storages"] = [{"name": "disk"}]
    federation["sites"]["other"]["storages"] = [{"name": "store", "prefixes": [f"{url}/results/"]}]
    federation["links"] = [{"source": "disk", "target": "store", "bandwidth": 100e6, "price": 0.02}]
    top = Program(tmp_path, "top", **federation).start()
    try:
        wanted = request(to=f"{url}/results/{{session}}/", size=20, keep="P20D")
        answer = (await call("POST", f"{top.url}/requests", wanted)).json()
        lines = {line["site"]: line for line in answer["outcomes"]}
        assert lines["other"]["outcome"] == "Skipped"
        assert lines["other"]["reasons"] == [
            f"outputs.to: other cannot write results to {wanted['outputs']['to']}: it names no place that it writes to."
            " Nearest yes: without outputs.to, and results are fetched."
        ]
        (offer,) = answer["offers"]
        terms = {term["name"]: term for term in offer["ranking"]["terms"]}
        assert terms["writing results"]["expected"] == pytest.approx(0.4)
        assert terms["writing results"]["basis"] == "20 GB to store"
        assert terms["price"]["expected"] == pytest.approx(2 / 60 + 20 * 20 * 0.01, rel=1e-3)
        assert offer["locality"]["delivery"]["seconds"]["expected"] == 200.0

        await call("POST", offer["meta"]["url"], ACCEPT)
        ended = await until(offer["meta"]["url"])
        assert ended["phase"] == "COMPLETED", ended
        ((path, body),) = files.items()
        assert (path.rpartition("/")[2], body) == ("a.txt", b"hello")
        (listed,) = (await call("GET", f"{offer['meta']['url']}/results")).json()["results"]
        assert (listed["url"], listed["written"]) == (f"{url}{path}", True)
        fetched = await call("GET", f"{offer['meta']['url']}/results/a.txt")
        assert fetched.body == b"hello"

        longer = (await call("POST", f"{top.url}/requests", request(size=20, keep="P60D"))).json()
        reasons = {line["site"]: " ".join(line.get("reasons", ())) for line in longer["outcomes"]}
        assert longer["result"] == "NO"
        assert "outputs.keep: P60D asked, the longest here is P30D. Nearest yes: P30D." in reasons["site"]
    finally:
        for program in (top, site, other):
            program.kill()
