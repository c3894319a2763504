"""Whoever stops reading gives back what is held for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.test_utils import TestServer

from broker.api.wire import Limits, Wire

PATIENCE = 30.0  # seconds: a net for what hangs, not a measure


async def test_a_reader_who_stops_gives_the_sites_connection_back() -> None:
    over = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 2**20
        finally:
            over.set()

    wire = Wire(Limits(stall_seconds=0.2))

    async def fetch(request: web.Request) -> web.StreamResponse:
        return await wire.stream(request, endless(), "cube")

    app = web.Application()
    app.router.add_get("/", fetch)
    async with TestServer(app, host="127.0.0.1") as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(PATIENCE):
            await over.wait()
        writer.close()
