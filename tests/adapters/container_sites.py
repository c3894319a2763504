"""Sites on a real container engine, for the tests of this folder: made again and again, as processes make them, and
gone with all that they left on the engine when a test is over."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast
from urllib.parse import quote
from uuid import uuid4

import aiohttp

from adapters.containers import marks
from adapters.containers.adapter import plugin
from adapters.containers.options import ContainersOptions
from adapters.containers.queue import ContainerQueue
from adapters.planning.contract import Stage
from adapters.planning.platform import Job
from adapters.planning.queued import QueuedPlatform
from broker.domain import kinds
from broker.domain.site import Registration
from broker.plugins import Resources
from broker.ports import Order, Planner
from broker.services.clock import SystemClock
from broker.testing.container_engines import IMAGE, Engine
from broker.testing.memory import MemoryCalendar, MemoryLimits
from tests.conftest import want

CLOCK = SystemClock()
WARP = {"kind": "https://example.org/kinds/executable/warp-drive.yaml"}
ONE = {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 1}, "memory": {"min": 1, "max": 1}}
ANSWER = "open('results/answer', 'w').write('42')"


def program(source: str, **parts: Any) -> dict[str, Any]:
    return {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": source}, "compute": ONE, **parts}


def container(*command: str, **parts: Any) -> dict[str, Any]:
    asked = {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": [IMAGE]}, "command": command, **parts}
    return {"executable": asked, "compute": ONE}


LASTING = program("import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: exit(1))\ntime.sleep(600)")


def want_engine(kind: str) -> None:
    """Root, and its packages."""
    want(*{"podman": ("podman", "podman"), "docker": ("dockerd", "docker.io")}[kind])
    want("runc", "runc")
    want("busybox", "busybox-static")


async def a_while() -> None:
    """Each look is several calls, and an engine has to work meanwhile."""
    await asyncio.sleep(0.05)


class Sites:
    """One site, of many processes."""

    def __init__(self, engine: Engine, **options: Any) -> None:
        self.engine, self._made = engine, list[Any]()
        self.name = f"site-{uuid4().hex[:8]}"
        self.calendar, self.limits = MemoryCalendar(), MemoryLimits(CLOCK)
        self._options = {
            "url": engine.url,
            "program": {"image": IMAGE},
            "images": ["localhost", "127.0.0.1"],
            "network": "none",
            "grace": 1,
            **options,
        }

    def options(self, **options: Any) -> ContainersOptions:
        return ContainersOptions.model_validate(self._options | options)

    def queue(self, **options: Any) -> ContainerQueue:
        queue = ContainerQueue(self.options(**options), self.limits, CLOCK, self._site)
        self._made.append(queue)
        return queue

    def platform(self, **options: Any) -> QueuedPlatform:
        return QueuedPlatform(self.queue(**options), self.calendar, self.name, CLOCK)

    def planner(self) -> Planner:
        resources = Resources(
            registration=Registration(name=self.name),
            calendar=self.calendar,
            limits=self.limits,
            clock=CLOCK,
            http=cast(aiohttp.ClientSession, None),
            credentials=None,
            name=self.name,
            broker_id="us",
            currency="EUR",
            site_settings={"tariff": "free", "capacity": {"cores": 8, "memory": 32, "storage": 100}},
        )
        planner = plugin.make(self.options(), resources)
        self._made.append(planner)
        return planner

    def stage(self, short: Mapping[str, Any], long: Mapping[str, Any], **options: Any) -> Stage:
        return Stage(lambda: self.platform(**options), CLOCK, short, long, ran=self.ran, pass_time=a_while)

    def ran(self, what: Job | Order) -> int:
        return self.engine.starts(marks.name("broker", what.session))

    def left(self) -> list[str]:
        """The names of volumes that are there."""
        return [volume["Name"] for volume in self._list("/volumes")["Volumes"]]

    async def hang_up(self) -> None:
        """All processes end."""
        for made in self._made:
            await made.close()

    async def close(self) -> None:
        await self.hang_up()
        for one in self._list("/containers/json?all=true&"):
            self.engine.call("DELETE", f"/containers/{one['Id']}?force=true&v=true")
        for name in self.left():
            self.engine.call("DELETE", f"/volumes/{name}")

    @property
    def _site(self) -> str:
        return f"us/{self.name}"

    def _list(self, path: str) -> Any:
        filters = quote(json.dumps({"label": [f"{marks.SITE}={self._site}"]}))
        return self.engine.call("GET", f"{path}{'' if path.endswith('&') else '?'}filters={filters}")[1]


@asynccontextmanager
async def sites(engine: Engine, **options: Any) -> AsyncIterator[Sites]:
    made = Sites(engine, **options)
    try:
        yield made
    finally:
        await made.close()
