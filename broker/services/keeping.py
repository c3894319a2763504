"""House-keeping by age, in two stages: what offers say in full goes first, then all but what was decided.

Imports ports and the domain. One durable timer drives it, so in a fleet one replica at a time does it. A sweep goes
back through the list of sets to where the last one ended, some sets a turn; sets that are not over yet are noted, and
looked at again by the next sweep.
"""

from __future__ import annotations

from uuid import UUID

import msgspec
import structlog

from broker.domain import offerset
from broker.errors import BrokerError, NotFound
from broker.ports import Clock, Listing, Query, Store
from broker.services.records import Records

_log = structlog.get_logger(__name__)

AGGREGATE, TIMER = "keeping", "keep"
EVERY = 3600.0  # seconds between two sweeps
PIECE = 100  # sets in one turn
PAUSE = 0.2  # seconds between two turns of a sweep: others' timers come in between


class Kept(msgspec.Struct, frozen=True):
    """How far it is. All sets made before `until` are done with, but for those `waiting`. `goal`: what the present
    sweep makes of `until`; None: none is under way. `after`: the last line that it has seen."""

    until: float = 0.0
    waiting: tuple[UUID, ...] = ()
    goal: float | None = None
    after: tuple[float, str] | None = None


class Keeping:
    """Seconds: `offers`, for which the bodies of sets are kept; `records`, after which a set that is over is reduced
    to what outlives it, or removed where nothing was taken. 0: records are kept as they are."""

    def __init__(self, *, store: Store, records: Records, clock: Clock, offers: float, records_for: float) -> None:
        self._store, self._records, self._clock = store, records, clock
        self._offers, self._for = offers, records_for

    async def start(self) -> None:
        """Set the timer, where the store has none yet. Idempotent."""
        if await self._store.read(AGGREGATE) is None:
            await self._store.write(AGGREGATE, 0, msgspec.msgpack.encode(Kept()), timers={TIMER: self._clock.now()})

    async def keep(self, key: str) -> float | None:
        """The timer: one turn. Returns when the next is due."""
        version, kept = await self._load()
        if kept.goal is None:
            pruned = await self._store.prune_bodies(self._clock.now() - self._offers)
            if pruned:
                _log.info("offers dropped by age", sets=pruned)
            if not self._for:
                return self._clock.now() + EVERY
            kept = await self._begin(kept)
        kept = await self._turn(kept)
        # Lost only to another replica, which has done the same: every step of a sweep may be done twice.
        await self._store.write(AGGREGATE, version, msgspec.msgpack.encode(kept))
        return self._clock.now() + (EVERY if kept.goal is None else PAUSE)

    async def _load(self) -> tuple[int, Kept]:
        stored = await self._store.read(AGGREGATE)
        return (stored.version, msgspec.msgpack.decode(stored.record, type=Kept)) if stored else (0, Kept())

    async def _begin(self, kept: Kept) -> Kept:
        """A sweep begins with those that were not over the last time."""
        waiting = [uuid for uuid in kept.waiting if not await self._reduce(uuid)]
        return msgspec.structs.replace(
            kept, waiting=tuple(waiting), goal=max(kept.until, self._clock.now() - self._for), after=None
        )

    async def _turn(self, kept: Kept) -> Kept:
        lines = await self._page(kept)
        found = [UUID(line.id) for line in lines]
        waiting = (*kept.waiting, *[uuid for uuid in found if not await self._reduce(uuid)])
        waiting = tuple(dict.fromkeys(waiting))
        if len(lines) < PIECE:
            return Kept(kept.until if kept.goal is None else kept.goal, waiting)
        return msgspec.structs.replace(kept, waiting=waiting, after=(lines[-1].created, lines[-1].id))

    async def _page(self, kept: Kept) -> list[Listing]:
        after = kept.after or (kept.goal or 0.0, "")
        return await self._store.listings(Query("offerset", after=after, since=kept.until, limit=PIECE))

    async def _reduce(self, uuid: UUID) -> bool:
        """Whether the set is done with. One that cannot be read is not, and keeps nobody else from it."""
        try:
            version, record = await self._records.versioned(uuid)
            if not offerset.over(record):
                return False
            if offerset.reduced(record) is None:
                return await self._records.remove(record, version)
            await self._records.change(uuid, _reduced)
        except NotFound:
            return True
        except BrokerError as error:
            _log.warning("a set could not be reduced", set=str(uuid), why=error.detail)
            return False
        return True


def _reduced(record: offerset.SetRecord) -> offerset.SetRecord:
    """Left as it is, where somebody has found something to do for it meanwhile."""
    return (offerset.reduced(record) or record) if offerset.over(record) else record
