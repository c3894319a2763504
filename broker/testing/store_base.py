"""What the parts of the Store's contract suite share. Imports pytest, ports, testing's clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import msgspec
import pytest

from broker.ports import Listing, Store
from broker.testing.clock import FakeClock

OpenStore = Callable[[], Awaitable[Store]]


class Peek(msgspec.Struct, frozen=True):
    """An aggregate at one moment. `timers`: key → due. `phases`: id of a line → its phase."""

    version: int
    record: bytes
    body: bytes | None
    timers: Mapping[str, float]
    phases: Mapping[str, str]


def line(id: str, **changes: object) -> Listing:
    plain = Listing(kind="session", id=id, owner="alice", created=1.0, phase="OFFERED", name="fit", site="here")
    return msgspec.structs.replace(plain, **changes)


class StoreSuite:
    """Override `open_store` and `peek`; `settled` where lists are derived late."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def open_store(self) -> OpenStore:
        raise NotImplementedError("return a function that opens one more client of the same, at first empty, data")

    @pytest.fixture
    async def store(self, open_store: OpenStore) -> Store:
        return await open_store()

    async def peek(self, store: Store, aggregate: str) -> Peek | None:
        raise NotImplementedError("read what is durable past the store, so that it is not tested by itself")

    async def settled(self, store: Store) -> None:
        """Returns when every line written so far is in the lists."""
