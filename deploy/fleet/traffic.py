"""Callers of a fleet: one who reads, one who follows, one who tries again and again, and many at once.

Imports the domain's kinds and aiohttp. Nothing here repeats a call: what fails is counted.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp

from broker.domain import kinds

WORKERS = 3
PAUSE = 0.05  # seconds between two calls of a worker: what is shown is a restart, not how much the machine can bear
PATIENCE = aiohttp.ClientTimeout(total=30.0)
REQUEST = {
    "executable": {"kind": kinds.PYTHON_PROGRAM, "meta": {"name": "again"}, "source": "print('never run')\n"},
    "schedule": {"requested": {"duration": "PT1M"}},
}
GIVE_BACK = {"kind": kinds.ENUM_UPDATE, "path": "/phase", "value": "REJECTED"}


class Reading(NamedTuple):
    version: str  # the ETag
    phases: tuple[str, ...]


async def read_set(url: str, offerset: str) -> Reading:
    """The set, as the replica at that address tells of it."""
    async with _http() as http, http.get(f"{url}/offersets/{offerset}") as answer:
        document = await answer.json()
        return Reading(answer.headers["ETag"], tuple(offer["phase"] for offer in document["offers"]))


class Told(NamedTuple):
    served_by: str
    replica: str
    alive: int


async def read_status(balancer: str) -> Told:
    """What whoever is next tells of the fleet."""
    async with _http() as http, http.get(f"{balancer}/status") as answer:
        status = await answer.json()
        return Told(answer.headers["Served-By"], status["replica"], status["now"]["replicas"])


class Event(NamedTuple):
    seconds: float  # since the reader came
    id: str
    phase: str


class Follower:
    """Reads the events of a session in a thread of its own, until there are no more."""

    def __init__(self, url: str, session: str) -> None:
        """Returns when the stream is open."""
        self._url = f"{url}/sessions/{session}/events"
        self._events: list[Event] = []
        self._open = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), daemon=True)
        self._thread.start()
        self._open.wait(PATIENCE.total)

    def events(self) -> list[Event]:
        """All of them, when the session has ended; those that came, where that takes too long."""
        self._thread.join(PATIENCE.total)
        return self._events

    async def _follow(self) -> None:
        began, id_ = time.monotonic(), ""
        async with _http() as http, http.get(self._url, headers={"Accept": "text/event-stream"}) as stream:
            self._open.set()
            async for line in stream.content:
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    id_ = value
                elif name == "data":
                    self._events.append(Event(time.monotonic() - began, id_, json.loads(value)["phase"]))


class Watcher:
    """Somebody who asks for offers again and again, and is told what comes of it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.answer = ""  # the last one, in a line
        self.served = True

    def look(self) -> bool:
        """Ask once. Returns whether the answer is another than before."""
        before, self.answer = self.answer, asyncio.run(self._ask())
        return self.answer != before

    async def _ask(self) -> str:
        async with _http() as http, http.post(f"{self._url}/requests", json=REQUEST, allow_redirects=False) as answer:
            document = await answer.json(content_type=None)
            self.served = answer.status == 303
            if self.served:
                return f"{answer.status}, {document['result']}"
            retry = answer.headers.get("Retry-After", "none")
            return f"{answer.status}, Retry-After: {retry}, {document.get('detail', '')}"


class Stream:
    """While the body runs, callers ask, read what they were offered, and give it all back, over and over."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), daemon=True)
        self.calls: list[tuple[str, float]] = []  # who answered, and after how many seconds
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(PATIENCE.total)

    def told(self) -> Iterator[str]:
        """What came of it, in lines."""
        served = Counter(who for who, _ in self.calls)
        shares = ", ".join(f"{who} {count}" for who, count in sorted(served.items()))
        took = sorted(seconds for _, seconds in self.calls)
        yield f"{len(self.calls)} calls ({shares}), {len(self.failures)} failed."
        half, slowest = (round(1000 * took[place]) for place in (len(took) // 2, -1))
        yield f"Half were answered within {half} ms, the slowest took {slowest} ms."
        yield from (f"{why}: {count}" for why, count in Counter(self.failures).most_common(5))

    async def _all(self) -> None:
        async with _http() as http:
            await asyncio.gather(*(self._one(http) for _ in range(WORKERS)))

    async def _one(self, http: aiohttp.ClientSession) -> None:
        while not self._stop.is_set():
            asked = await self._call(http, "POST", "/requests", 303, REQUEST)
            if not asked or asked["result"] != "YES":
                continue
            await self._call(http, "GET", f"/offersets/{asked['meta']['uuid']}", 200)
            for offer in asked["offers"]:
                await self._call(http, "POST", f"/sessions/{offer['meta']['uuid']}", 200, GIVE_BACK)

    async def _call(
        self, http: aiohttp.ClientSession, method: str, path: str, wanted: int, body: object = None
    ) -> dict[str, Any]:
        """The document; nothing: it failed."""
        began = time.monotonic()
        try:
            async with http.request(method, f"{self._url}{path}", json=body, allow_redirects=False) as answer:
                document: dict[str, Any] = await answer.json(content_type=None)
                who, status = answer.headers.get("Served-By", "the balancer"), answer.status
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            document, who, status = {"detail": f"{type(error).__name__} {error}"}, "nobody", 0
        self.calls.append((who, time.monotonic() - began))
        if status != wanted:
            self.failures.append(f"{method} {path.split('/')[1]}: {status} by {who}, {document.get('detail')}")
            document = {}
        elif document.get("result") == "NO":
            self.failures.append("a question was answered NO")
        await asyncio.sleep(PAUSE)
        return document


def _http() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=PATIENCE)
