"""A wire between two programs that goes wrong where a test says so: late, slow, cut, held, silent, refused.

It passes TCP bytes on and knows of HTTP only where a head ends. For tests. Imports nothing of ours.

    async with Proxy("127.0.0.1", site_port) as wire:
        stop = wire.cut(b"ACCEPTED", Point.IN_HEADERS)   # of the next request that holds these bytes
        ...
        await stop.reached()
"""

from __future__ import annotations

import asyncio
import enum
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

REACHED_WITHIN = 30.0  # seconds
_PIECE = 1 << 16
_HEAD_ENDS = b"\r\n\r\n"
_PATTERNS_FIT = 256  # bytes kept of the piece before, so that a pattern cut in two by the network is found

Sockets = Callable[[], socket.socket]


def tcp() -> socket.socket:
    """A TCP socket of the network that this process is in."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


class Point(enum.Enum):
    """Where one call stands. REQUEST: nothing of it has reached the far side. ANSWER: the far side has answered, and
    nothing of that has come back. The others: so much of the answer has come back."""

    REQUEST = enum.auto()
    ANSWER = enum.auto()
    IN_HEADERS = enum.auto()
    AFTER_HEADERS = enum.auto()
    IN_BODY = enum.auto()

    @property
    def knows_heads(self) -> bool:
        """It is of HTTP alone; the others hold for whatever is spoken."""
        return self in (Point.IN_HEADERS, Point.AFTER_HEADERS, Point.IN_BODY)

    def share(self, answer: bytes) -> int:
        """How many bytes of what has come of an answer are passed on before this point."""
        head = answer.find(_HEAD_ENDS) + len(_HEAD_ENDS)
        match self:
            case Point.REQUEST | Point.ANSWER:
                return 0
            case Point.IN_HEADERS:
                return min(20, len(answer) // 2)
            case Point.AFTER_HEADERS:
                return head
            case Point.IN_BODY:
                return head + (len(answer) - head) // 2


class Stop:
    """The next call whose request holds `pattern` comes as far as `point` and no further. It stays there until `go_on`
    lets it pass or `drop` resets the connection on both sides."""

    def __init__(self, pattern: bytes, point: Point) -> None:
        self.pattern, self.point = pattern, point
        self._reached = asyncio.Event()
        self._decided = asyncio.Event()
        self._passes = False

    async def reached(self) -> None:
        """Returns when such a call has come there. Raises TimeoutError where none does."""
        async with asyncio.timeout(REACHED_WITHIN):
            await self._reached.wait()

    def go_on(self) -> None:
        self._passes = True
        self._decided.set()

    def drop(self) -> None:
        self._decided.set()

    async def passes(self) -> bool:
        self._reached.set()
        await self._decided.wait()
        return self._passes


class Proxy:
    """`latency` (seconds for each piece, each way), `rate` (bytes a second, each way; 0: no bound), `blackhole`
    (nothing passes, nothing is refused) and `refuse` (new connections are reset) may be set while it runs.

    `near` makes the socket it listens with, `far` those it connects with: they may be of other networks
    (`broker.testing.netns`). `port` 0 takes a free one, which stays the same from then on.
    """

    def __init__(
        self, host: str, port: int, *, listen: tuple[str, int] = ("127.0.0.1", 0), near: Sockets = tcp,
        far: Sockets = tcp,
    ) -> None:  # fmt: skip
        self._target, self._listen, self._near, self._far = (host, port), listen, near, far
        self.latency, self.rate = 0.0, 0.0
        self.refuse = False
        self.connections = 0  # that were made through it, ever
        self._clear = asyncio.Event()
        self._clear.set()
        self._stops: list[Stop] = []
        self._server: asyncio.Server | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._links: set[_Link] = set()

    @classmethod
    def before(cls, url: str) -> Proxy:
        """A proxy before the server of that address."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or 80)

    # ── the test's side ──────────────────────────────────────────────────────────────────────────────────────

    @property
    def address(self) -> tuple[str, int]:
        return self._listen

    @property
    def url(self) -> str:
        return f"http://{self._listen[0]}:{self._listen[1]}"

    @property
    def blackhole(self) -> bool:
        return not self._clear.is_set()

    @blackhole.setter
    def blackhole(self, swallows: bool) -> None:
        self._clear.clear() if swallows else self._clear.set()

    def hold(self, pattern: bytes, point: Point) -> Stop:
        """Of the next call that holds `pattern`; several stops take effect in the order in which they were made."""
        self._stops.append(Stop(pattern, point))
        return self._stops[-1]

    def cut(self, pattern: bytes, point: Point) -> Stop:
        """As `hold`, and both connections are reset there at once."""
        stop = self.hold(pattern, point)
        stop.drop()
        return stop

    def kill(self) -> None:
        """Reset every connection there is; new ones are taken."""
        for link in list(self._links):
            link.reset()

    # ── the wire ─────────────────────────────────────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        listener = self._near()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(self._listen)
        self._listen = listener.getsockname()
        self._server = await asyncio.start_server(self._take, sock=listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self.kill()
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            await self._carry(reader, writer)
        except (OSError, asyncio.CancelledError):
            pass  # whoever is at the ends has seen it: both were reset
        finally:
            self._calls.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.refuse:
            _reset(writer)
            return
        try:
            far_reader, far_writer = await self._reach()
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, far_writer)
        self._links.add(link)
        ways = [
            asyncio.ensure_future(self._requests(link, reader, far_writer)),
            asyncio.ensure_future(self._answers(link, far_reader, writer)),
        ]
        try:
            await asyncio.gather(*ways)
        except BaseException:
            link.reset()
            raise
        finally:
            for way in ways:
                way.cancel()
            self._links.discard(link)
            writer.close()
            far_writer.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        sock = self._far()
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self._target)
        except BaseException:
            sock.close()
            raise
        return await asyncio.open_connection(sock=sock)

    async def _requests(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before = b""
        while piece := await reader.read(_PIECE):
            await self._delay(piece)
            if stop := self._met(before + piece):
                before = b""
                if stop.point is not Point.REQUEST:
                    link.stop = stop
                elif not await stop.passes():
                    raise ConnectionResetError
            else:
                before = (before + piece)[-_PATTERNS_FIT:]
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    async def _answers(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            await self._delay(piece)
            stop, link.stop = link.stop, None
            if stop is not None:
                while stop.point.knows_heads and _HEAD_ENDS not in piece and (more := await reader.read(_PIECE)):
                    piece += more
                share = stop.point.share(piece)
                writer.write(piece[:share])
                await writer.drain()
                if not await stop.passes():
                    raise ConnectionResetError
                piece = piece[share:]
            writer.write(piece)
            await writer.drain()
        writer.write_eof()

    async def _delay(self, piece: bytes) -> None:
        seconds = self.latency + (len(piece) / self.rate if self.rate else 0.0)
        if seconds:
            await asyncio.sleep(seconds)
        await self._clear.wait()

    def _met(self, data: bytes) -> Stop | None:
        for stop in self._stops:
            if stop.pattern in data:
                self._stops.remove(stop)
                return stop
        return None


class _Link:
    """Both ends of one connection. `stop`: what the answer to the request under way comes to."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self._ends = ends
        self.stop: Stop | None = None

    def reset(self) -> None:
        for end in self._ends:
            _reset(end)


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of an orderly end."""
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
