"""What a fan-out costs by itself: bare aiohttp calls, gathered, nothing parsed. Imports aiohttp and uvloop.

    python bare.py PLAN      (a JSON file: request, think time → ports)

The same kind of process as the broker: uvloop, prebuilt URLs, keep-alive, the same bytes of the request. Commands
come on standard input, one JSON line each, and are answered by one: `quote` gathers the request to the first `sites`
ports, `times` times over, `at_once` of them side by side; `release` sends one acceptance and then the rest of a set's
releases. The same fan-out stands behind aiohttp.web, for the arm that has a door: POST /requests?sites=N&think=T on
the port of the first line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import web
from yarl import URL

JSON = {"Content-Type": "application/json", "Accept": "application/json"}
UPDATE = b'{"kind":"uri:enum-value-update","path":"/phase","value":"%b"}'


class Bare:
    def __init__(self, http: aiohttp.ClientSession, plan: dict[str, Any]) -> None:
        self._http, self._body = http, plan["request"].encode()
        self._urls = {
            think: [URL(f"http://127.0.0.1:{port}/requests") for port in ports] for think, ports in plan["ports"]
        }

    async def quote(self, sites: int, think: float) -> None:
        await asyncio.gather(*(self._post(url, self._body) for url in self._urls[think][:sites]))

    async def release(self, sites: int, think: float, offers: int) -> None:
        """One acceptance, then the release of every other offer of every site."""
        names = [
            url.with_path(f"/sessions/0b6e6a2e-5b1c-4a43-9c39-{i:012x}")
            for url in self._urls[think][:sites]
            for i in range(offers)
        ]
        await self._post(names[0], UPDATE % b"ACCEPTED")
        await asyncio.gather(*(self._post(url, UPDATE % b"REJECTED") for url in names[1:]))

    async def _post(self, url: URL, body: bytes) -> int:
        async with self._http.post(url, data=body, headers=JSON, allow_redirects=False) as answer:
            return len(await answer.read())

    async def handle(self, request: web.Request) -> web.Response:
        await request.read()
        await self.quote(int(request.query["sites"]), float(request.query["think"]))
        return web.Response(status=303, body=b"{}", content_type="application/json")


async def _timed(bare: Bare, command: dict[str, Any]) -> list[float]:
    seconds: list[float] = []
    left = iter(range(command["times"]))

    async def work() -> None:
        for _ in left:
            began = time.perf_counter()
            if command["do"] == "quote":
                await bare.quote(command["sites"], command["think"])
            else:
                await bare.release(command["sites"], command["think"], command["offers"])
            seconds.append(time.perf_counter() - began)

    await asyncio.gather(*(work() for _ in range(command["at_once"])))
    return seconds


async def main(plan: dict[str, Any]) -> None:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=75)
    jar, unlimited = aiohttp.DummyCookieJar(), aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar, timeout=unlimited) as http:
        bare = Bare(http, plan)
        app = web.Application()
        app.router.add_post("/requests", bare.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 100)
        _say(runner.addresses[0][1])
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            _say(await _timed(bare, json.loads(line)))
        await runner.cleanup()


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
