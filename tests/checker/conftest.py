"""A sound site of version 1.0, a proxy that bends its answers, and one whole check over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from broker.checker.checking import check
from broker.checker.dialects import CORES, MEMORY
from broker.checker.findings import Report
from broker.client.login import parse
from broker.domain import kinds
from broker.domain.quantities import format_instant
from broker.testing.site import FakeSite


@dataclass
class Sent:
    """An answer on its way through the proxy; what is changed in it is what the checker gets."""

    method: str
    path: str
    accept: str
    signed: bool
    asked: bytes
    status: int
    headers: dict[str, str]
    body: bytes

    def document(self) -> Any:
        return json.loads(self.body)

    def rewrite(self, change: Callable[[dict[str, Any]], Any]) -> None:
        document = self.document()
        change(document)
        self.body = json.dumps(document).encode()

    @property
    def is_set(self) -> bool:
        return self.status in (200, 303) and b'"result"' in self.body

    @property
    def is_session(self) -> bool:
        return self.status == 200 and self.path.startswith("/sessions/")


Bend = Callable[[Sent], None]


@dataclass
class Proxy:
    """In front of a site; URLs of the site in its answers become the proxy's. `bend` changes an answer in place."""

    site: FakeSite
    bend: Bend = field(default=lambda sent: None)
    url: str = ""

    async def run(self, stack: AsyncExitStack) -> None:
        self._http = await stack.enter_async_context(aiohttp.ClientSession())
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _handle(self, request: web.Request) -> web.Response:
        asked = await request.read()
        kept = {name: value for name, value in request.headers.items() if name in ("Authorization", "Content-Type")}
        url = self.site.url + request.path_qs
        async with self._http.request(request.method, url, data=asked, headers=kept, allow_redirects=False) as answer:
            ours, theirs = self.url.encode(), self.site.url.encode()
            headers = {n: v for n, v in answer.headers.items() if n in ("Location", "WWW-Authenticate", "Date")}
            headers |= {"Content-Type": answer.headers.get("Content-Type", "")}
            sent = Sent(
                request.method, request.path, request.headers.get("Accept", ""), "Authorization" in request.headers,
                asked, answer.status, {n: v.replace(self.site.url, self.url) for n, v in headers.items()},
                (await answer.read()).replace(theirs, ours),
            )  # fmt: skip
        self.bend(sent)
        return web.Response(status=sent.status, headers=sent.headers, body=sent.body)


def sound_compute() -> dict[str, Any]:
    """Exactly what is asked for, which the reference implementation does not offer."""
    start = format_instant(int(time.time()))
    return {
        "kind": kinds.SIMPLE_COMPUTE,
        "cores": {"min": CORES, "max": CORES},
        "memory": {"min": MEMORY, "max": MEMORY},
        "schedule": {"available": {"start": f"{start}/PT0S", "duration": "PT10M"}},
    }


@pytest.fixture
def compute() -> dict[str, Any]:
    return sound_compute()


Probe = Callable[..., Awaitable[Report]]


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    """Check a sound site through a proxy that bends its answers; `site` keeps what it was asked."""
    async with AsyncExitStack() as stack:

        async def run(
            bend: Bend = lambda sent: None, *, login: str = "", patience: float = 10.0, **site: Any
        ) -> Report:
            terms = {"extra": {"compute": sound_compute()}, **site}
            fake = await stack.enter_async_context(FakeSite(**terms))
            proxy = Proxy(fake, bend)
            await proxy.run(stack)
            run.site = fake  # type: ignore[attr-defined]
            report = await check(parse(proxy.url.replace("://", f"://{login}@" if login else "://")), patience=patience)
            assert fake.executions == {}  # whatever is found, nothing is accepted
            return report

        yield run


@pytest.fixture
def levels() -> Callable[[Report], dict[str, str]]:
    return lambda report: {finding.check: str(finding.level) for finding in report.findings}
