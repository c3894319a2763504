"""A server that answers just the bytes that a test says, also where they are no HTTP. Imports nothing of ours.

async with RawServer() as server:
    server.on("/cube", b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")
    ...
    assert [seen.method for seen in server.seen] == ["HEAD", "GET"]
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

MOST_READ = 65_536  # bytes of one request's head


class Seen(NamedTuple):
    """A request. `target` as it was sent, with its query; `headers` by names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


Reply = bytes | Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


class RawServer:
    """One request a connection. A reply is found by method and path, else by path, else as `*`, else it is a 404. One
    that is a function writes for itself, and may go on for ever: it is cancelled at the end."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port
        self.seen: list[Seen] = []
        self._replies: dict[str, Reply] = {}
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def on(self, path: str, reply: Reply, *, method: str = "") -> None:
        self._replies[f"{method} {path}".strip()] = reply

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, self.host, self.port, limit=MOST_READ)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in (left := list(self._open)):
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            with suppress(OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError):
                await self._answer(reader, writer)
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = _seen(await reader.readuntil(b"\r\n\r\n"))
        self.seen.append(seen)
        missing = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
        names = (f"{seen.method} {seen.path}", seen.path, "*")
        reply = next((self._replies[name] for name in names if name in self._replies), missing)
        if isinstance(reply, bytes):
            writer.write(reply)
            await writer.drain()
            writer.write_eof()
            await reader.read()  # until the other side has closed too
        else:
            await reply(seen, writer)


def answer(status: int, headers: Mapping[str, str | int] | None = None, body: bytes = b"") -> bytes:
    """`headers` and nothing else: no Content-Length is added."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body


def _seen(head: bytes) -> Seen:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in rest if line)
    return Seen(method, target, {name.strip().lower(): value.strip() for name, _, value in pairs})
