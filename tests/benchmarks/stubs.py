"""Many plain 1.0 sites in one process, as cheap as can be, for benchmarks. Imports uvloop and the kinds of the
standard.

    python stubs.py SITES THINK…

For each think time (seconds) it opens SITES ports, and writes one JSON line: think time → ports. Every site answers a
request with 303 and three offers of about 3 kB, takes acceptances and releases, and counts the releases
(`GET /count`). Nothing is parsed but what an answer depends on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import count

import uvloop

from broker.domain import kinds

OFFERS = 3
LIVES = 3600.0  # seconds: no offer expires while the benchmark runs


def offer(index: int, uuid: str, expires: str) -> dict[str, object]:
    """As the reference implementation writes one, with the costs and messages of a richer site."""
    stamp, epoch = "2026-11-22T12:00:00Z", "1970-01-01T00:00:00Z/PT0S"
    never = {"available": {"start": epoch, "duration": "PT0S"}}
    return {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": {
            "uuid": uuid, "name": f"offer-{index}", "url": f"http://site.invalid/sessions/{uuid}", "created": stamp,
            "messages": [
                {"kind": "urn:resource-limit", "time": stamp, "level": "WARN", "template": text, "values": {"n": "4"}}
                for text in ("The share of this project allows {n} more runs today.", "Held on {n} nodes of class a.")
            ],
        },
        "phase": "OFFERED",
        "expires": expires,
        "executable": {
            "kind": kinds.DOCKER_CONTAINER,
            "meta": {"uuid": uuid, "name": "executable"},
            "image": {
                "locations": ["ghcr.io/example/radio-imaging:2026.11", "registry.example.org/radio-imaging:2026.11"],
                "digest": "sha256:" + "7f" * 32,
                "platform": {"architecture": "amd64", "os": "linux"},
            },
            "command": ["/opt/imaging/run", "--field", "J1939+6342", "--cell", "0.4arcsec", "--size", "8192"],
            "environment": {f"IMAGING_OPTION_{n}": f"value-of-the-option-{n}" for n in range(6)},
            "schedule": never,
        },
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            "meta": {"uuid": uuid, "name": "compute"},
            "cores": {"min": 4, "max": 4 + index},
            "memory": {"min": 16, "max": 16},
            "volumes": [
                {"kind": kinds.SIMPLE_VOLUME, "path": "/data", "mode": "READONLY", "resource": "visibilities"}
            ],
            "schedule": {
                "preparing": {"start": f"2027-01-01T0{index}:00:00Z", "duration": "PT5M"},
                "available": {"start": f"2027-01-01T0{index}:05:00Z/PT0S", "duration": "PT2H"},
            },
            "costs": [cost(kinds.MONETARY, 1.0 + index)],
        },
        "storage": [
            {"kind": kinds.SIMPLE_STORAGE, "meta": {"uuid": uuid, "name": "scratch"},
             "size": {"min": 100, "max": 100}, "schedule": never}
        ],
        "data": [
            {"kind": kinds.SIMPLE_DATA, "meta": {"uuid": uuid, "name": "visibilities"},
             "location": "https://archive.example.org/vis/J1939.ms.tar", "schedule": never}
        ],
        "costs": [
            cost(type_, low + index)
            for type_, low in ((kinds.MONETARY, 1.0), (kinds.ENERGY, 0.8), (kinds.CARBON, 0.3))
        ],
    }  # fmt: skip


def cost(type_: str, low: float) -> dict[str, object]:
    return {"kind": kinds.MINMAX_COST, "type": type_, "min": low, "max": 1.2 * low}


class Words:
    """The answers' bytes, with holes for the uuids. The time of expiry is written anew every second."""

    def __init__(self) -> None:
        self._made = 0.0
        self._offers: list[list[bytes]] = []
        self._draw = count(1)
        self._prefix = f"{os.getpid() & 0xFFFFFFFF:08x}-5b1c-4a43-9c39-"

    def _renew(self) -> None:
        now = time.time()
        if now - self._made > 1.0:
            self._made = now
            expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now + LIVES))
            texts = (json.dumps(offer(i, "@@", expires), separators=(",", ":")) for i in range(OFFERS))
            self._offers = [text.encode().split(b"@@") for text in texts]

    def quote(self) -> bytes:
        self._renew()
        offers = b",".join(f"{self._prefix}{next(self._draw):012x}".encode().join(parts) for parts in self._offers)
        head = f'{{"kind":"{kinds.OFFERSET}","meta":{{"uuid":"{self._prefix}{next(self._draw):012x}"}},'
        return head.encode() + b'"result":"YES","offers":[' + offers + b"]}"

    def session(self, uuid: bytes, phase: bytes) -> bytes:
        self._renew()
        return uuid.join(self._offers[0]).replace(b'"OFFERED"', b'"' + phase + b'"')


class Site(asyncio.Protocol):
    """One connection. HTTP/1.1 with Content-Length, one request at a time, as aiohttp's client speaks it."""

    def __init__(self, words: Words, counts: dict[str, int], think: float) -> None:
        self._words, self._counts, self._think = words, counts, think
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        self._buffer = b""
        method, path, _ = head.split(b" ", 2)
        if method == b"POST" and path == b"/requests" and self._think:
            asyncio.get_running_loop().call_later(self._think, self._quote)
        elif method == b"POST" and path == b"/requests":
            self._quote()
        else:
            self._rest(method, path, body)

    def _quote(self) -> None:
        self._counts["quotes"] += 1
        self._answer(b"303 See Other", self._words.quote(), b"Location: /offersets/of-no-use\r\n")

    def _rest(self, method: bytes, path: bytes, body: bytes) -> None:
        if path == b"/count":
            self._answer(b"200 OK", json.dumps(self._counts).encode())
        elif path.startswith(b"/sessions/"):
            phase = b"COMPLETED" if method == b"GET" else b"REJECTED" if b'"REJECTED"' in body else b"ACCEPTED"
            self._counts[phase.decode()] = self._counts.get(phase.decode(), 0) + 1
            self._answer(b"200 OK", self._words.session(path[10:], phase))
        else:
            self._answer(b"404 Not Found", b"{}")

    def _answer(self, status: bytes, body: bytes, more: bytes = b"") -> None:
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n" % (
            status,
            more,
            len(body),
        )
        self._transport.write(head + body)


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


def _maker(words: Words, counts: dict[str, int], think: float) -> Callable[[], Site]:
    return lambda: Site(words, counts, think)


async def main(sites: int, thinks: list[float]) -> None:
    loop, words, counts = asyncio.get_running_loop(), Words(), {"quotes": 0, "REJECTED": 0}
    ports: dict[float, list[int]] = {}
    for think in thinks:
        servers = [
            await loop.create_server(_maker(words, counts, think), "127.0.0.1", 0, backlog=64) for _ in range(sites)
        ]
        ports[think] = [server.sockets[0].getsockname()[1] for server in servers]
    sys.stdout.write(json.dumps([[think, ports[think]] for think in thinks]) + "\n")
    sys.stdout.flush()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()  # until whoever started us is gone


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), [float(text) for text in sys.argv[2:]]))
