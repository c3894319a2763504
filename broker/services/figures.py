"""What each replica has counted, told to the others, so that the status of any of them is of the whole fleet.

Imports ports, errors, the fleet and the window. A replica's figures are an aggregate of its own, written every few
seconds when they have changed. They outlive it for some minutes, so that a rolling restart does not show as a gap;
then a timer removes them.
"""

from __future__ import annotations

import asyncio

import msgspec
import structlog

from broker.errors import BrokerError
from broker.ports import Clock, Store
from broker.services.fleet import Fleet
from broker.services.window import Figures, Window

_log = structlog.get_logger(__name__)

TIMER = "silent"
PUBLISH_EVERY = 5.0  # seconds
SILENT = 600.0  # seconds for which the figures of a replica count that says nothing more
_LAST = 2.0  # seconds for the last figures of a replica that stops


class Peers:
    def __init__(self, *, fleet: Fleet, store: Store, window: Window, clock: Clock) -> None:
        self._fleet, self._store, self._window, self._clock = fleet, store, window, clock
        self._published: Figures | None = None
        self._published_at = float("-inf")  # monotonic
        self._version = 0
        self.others: tuple[Figures, ...] = ()

    @property
    def id(self) -> str:
        """This replica's."""
        return self._fleet.id

    @property
    def live(self) -> int:
        """How many replicas there are, this one included."""
        return len(self._fleet.replicas)

    async def run(self) -> None:
        """Tell, and hear, over and over, until cancelled."""
        while True:
            try:
                await self.publish()
                await self.gather()
            except BrokerError as error:
                _log.info("figures not exchanged", why=error.detail)
            await self._clock.sleep(PUBLISH_EVERY)

    async def publish(self) -> None:
        """Write our own where they have changed, or have not been written for long. Raises Unavailable."""
        figures, now = self._window.figures().short(), self._clock.monotonic()
        if figures == self._published and now - self._published_at < SILENT / 4:
            return
        key, timers = _key(self._fleet.id), {TIMER: self._clock.now() + SILENT}
        if not await self._store.write(key, self._version, msgspec.msgpack.encode(figures), timers=timers):
            stored = await self._store.read(key)  # an answer was lost; nobody else writes it
            self._version = stored.version if stored else 0
            return
        self._version += 1
        self._published, self._published_at = figures, now

    async def gather(self) -> None:
        """Read those of the others. Raises Unavailable."""
        ids = await self._fleet.roll("figures", SILENT) - {self._fleet.id}
        stored = [await self._store.read(_key(id_)) for id_ in sorted(ids)]
        self.others = tuple(_read(found.record) for found in stored if found is not None)

    async def forget(self, key: str) -> float | None:
        """The timer: its replica has been silent for long."""
        stored = await self._store.read(key)
        if stored is not None:
            await self._store.remove(key, stored.version)
        return None

    async def close(self) -> None:
        """Tell the others what we counted last."""
        try:
            async with asyncio.timeout(_LAST):
                await self.publish()
        except (BrokerError, TimeoutError) as error:
            _log.info("the last figures were not told", why=str(error))


def _key(replica: str) -> str:
    return f"replica:{replica}"


def _read(record: bytes) -> Figures:
    try:
        return msgspec.msgpack.decode(record, type=Figures)
    except msgspec.MsgspecError:  # a newer replica's
        return Figures()
