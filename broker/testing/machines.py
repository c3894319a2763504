"""What the stateful tests of the ports share: an implementation beside a model of it, driven by hypothesis.

Imports hypothesis, the stores, testing's clock.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import ClassVar, Generic, TypeVar
from uuid import uuid4

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from broker.store.redis_nodes import Nodes, parse
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.clock import FakeClock
from broker.testing.executor import InlineExecutor

T = TypeVar("T")

LONG = os.environ.get("FAULTS") == "1"  # `make test-faults`: many more examples, each of more steps


class Machine(RuleBasedStateMachine):
    """Rules of subclasses are plain functions; they call the port through `run`, on an event loop of this machine.
    `address` is where a server listens, for those that need one; `folder` is the machine's own."""

    address: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self._prefix = uuid4().hex

    @property
    def url(self) -> str:
        """`address`, with a prefix that is this machine's own."""
        return f"{self.address}?prefix={self._prefix}"

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def together(self, *work: Awaitable[T]) -> list[T]:
        """The answers to what is asked at the same moment."""

        async def gathered() -> list[T]:
            return list(await asyncio.gather(*work))

        return self.run(gathered())

    def teardown(self) -> None:
        self.run(self.ended())
        self.loop.close()
        self._folder.cleanup()

    async def ended(self) -> None:
        """Override: close what was opened."""


class SqliteClients(Machine, Generic[T]):
    """Two clients of a part of the SQLite store, for a machine that keeps them in `clients`; stands before it among the
    bases. Override `of`."""

    def __init__(self) -> None:
        self.stores: list[SqliteStore] = []
        super().__init__()

    def of(self, store: SqliteStore) -> T:
        raise NotImplementedError("the part of the store that is driven")

    async def open(self, client: int) -> T:
        """Both are the one process that may write to such a file; a reconnection closes it and opens it anew."""
        if client == 0 or not self.stores:
            await self.ended()
            self.stores = [await open_sqlite(self.folder / "store.db", self.clock, executor=InlineExecutor())]
            self.clients = [self.of(self.stores[0])] * 2
        return self.of(self.stores[0])

    async def ended(self) -> None:
        for store in self.stores:
            await store.close()


class RedisClients(Machine, Generic[T]):
    """The same on a Redis, each client with connections of its own."""

    def __init__(self) -> None:
        self.nodes: dict[int, Nodes] = {}
        super().__init__()

    def of(self, nodes: Nodes) -> T:
        raise NotImplementedError("the part of the store that is driven")

    async def open(self, client: int) -> T:
        if client in self.nodes:
            await self.nodes.pop(client).close()
        self.nodes[client] = Nodes(parse(self.url))
        return self.of(self.nodes[client])

    async def ended(self) -> None:
        for nodes in self.nodes.values():
            await nodes.close()


def drive(machine: type[Machine], address: str = "", *, examples: int = 15, steps: int = 20) -> None:
    """Find a sequence of rules after which implementation and model differ. Raises what the machine raised then."""

    class At(machine):  # type: ignore[misc, valid-type]  # a class made at run time
        pass

    At.address = address
    At.__qualname__ = At.__name__ = machine.__name__
    run_state_machine_as_test(At, settings=_effort(examples, steps))


def _effort(examples: int, steps: int) -> settings:
    return settings(
        max_examples=5 * examples if LONG else examples,
        stateful_step_count=2 * steps if LONG else steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
