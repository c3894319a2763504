"""What a site has already decides: data that was staged once, seen through a broker above, and across a kill."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.domain import kinds
from broker.testing.program import ACCEPT, Caller, Program, above, platform

pytestmark = pytest.mark.system

CUBE = bytes(range(256)) * 10_000


class Archive:
    """Has one file, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def answer(self, asked: web.Request) -> web.Response:
        self.asked.append(asked.method)
        return web.Response(body=CUBE)


@pytest.fixture
async def archive() -> AsyncIterator[tuple[Archive, str]]:
    archive, app = Archive(), web.Application()
    app.add_routes([web.get("/cube", archive.answer, allow_head=True)])
    async with TestServer(app) as server:
        yield archive, str(server.make_url("/cube"))


def request(url: str) -> dict[str, Any]:
    return {
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": "print(len(open('data/cube', 'rb').read()))"},
        "schedule": {"requested": {"duration": "PT2M"}},
        "data": [
            {
                "kind": kinds.SKAO_DATA,
                "meta": {"name": "cube"},
                "skao": {
                    "datasize": len(CUBE),
                    "checksum": {"type": "SHA-256", "value": hashlib.sha256(CUBE).hexdigest()},
                    "replicas": [{"dataurl": url}],
                },
            }
        ],
    }


async def test_what_was_staged_once_is_offered_as_held_and_not_fetched_again(
    tmp_path: Path, archive: tuple[Archive, str], call: Caller, until: Callable[..., Awaitable[dict[str, Any]]]
) -> None:
    server, url = archive
    settings = platform(tmp_path / "jobs")
    settings["platform"]["cache"] = {"bytes": 100e6, "keep": "P7D"}
    site = Program(tmp_path, "site", **settings).start()
    top = Program(tmp_path, "top", **above(site=site)).start()
    try:

        async def run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
            """The locality of the first offer, and the transfers of the session that came of it."""
            offer = (await call("POST", f"{top.url}/requests", request(url))).json()["offers"][0]
            await call("POST", offer["meta"]["url"], ACCEPT)
            ended = await until(offer["meta"]["url"])
            assert ended["phase"] == "COMPLETED", ended
            return offer["locality"], ended["transfers"]

        first, brought = await run()
        assert "held" not in first
        assert [(note["url"], note["bytes"], note["files"]) for note in brought] == [(url, len(CUBE), 1)]
        assert "cached" not in brought[0]
        assert brought[0]["seconds"] > 0
        asked = list(server.asked)

        site.kill()
        site.start()
        below = (await call("GET", f"{site.url}/sessions")).json()["sessions"]
        shown = (await call("GET", below[0]["url"])).json()
        assert shown["transfers"] == brought

        second, brought = await run()
        assert (second["held"], second["cached"]) == (["data[0]"], len(CUBE))
        assert (second["bytes"]["expected"], second["bytes"]["pessimistic"]) == (0, 0)
        assert (second["staging"]["expected"], second["certainty"]) == (0, "stated")
        assert [(note["bytes"], note["cached"]) for note in brought] == [(len(CUBE), True)]
        # The brokers may ask where the data is; nobody fetches it.
        assert server.asked.count("GET") == asked.count("GET")
    finally:
        top.kill()
        site.kill()
