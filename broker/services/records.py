"""Reading and changing the records of sets: one compare-and-set loop, with the timers that follow. Imports ports.

Every service changes a record through `change`, so no step can forget its timers: they are derived from the record
(`domain.offerset.timers`), and only those that differ are written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol
from uuid import UUID

import structlog

from broker.domain import offerset
from broker.domain.identity import aggregate
from broker.domain.offerset import SessionRecord, SetRecord
from broker.errors import NotFound, Unavailable, Unconfirmed
from broker.ports import Clock, Listing, Store
from broker.services.hub import Hub

_log = structlog.get_logger(__name__)
_TRIES = 50  # a conflict means that somebody else advanced; more in a row than this is a fault of ours


class Nudge(Protocol):
    """`due`: when there is something to do, epoch seconds; 0: now."""

    def __call__(self, due: float = 0.0) -> None: ...


class Records:
    """`nudge` is called after each write that set timers, with the earliest, so that due work starts at once; `hub`
    rings after each write."""

    def __init__(self, store: Store, clock: Clock, nudge: Nudge, hub: Hub | None = None) -> None:
        self._store, self._clock, self.nudge = store, clock, nudge
        self._hub = hub or Hub()

    async def create(self, record: SetRecord, body: bytes) -> None:
        """Durable on return. Raises Unavailable; then nothing was stored."""
        due = dict(offerset.timers(record))
        written = await self._write(record, 0, body=body, timers=due, listings=_listings(None, record))
        if not written:
            raise Unavailable("a uuid was drawn twice.", remedy="Send the request again.")

    async def load(self, uuid: UUID) -> SetRecord:
        """The record that holds this set or session. Raises NotFound."""
        return (await self._load(aggregate(uuid)))[1]

    async def versioned(self, uuid: UUID) -> tuple[int, SetRecord]:
        """As `load`, with the version, which every change raises."""
        return await self._load(aggregate(uuid))

    async def by_key(self, key: str) -> SetRecord | None:
        stored = await self._store.read(key)
        return offerset.decode(stored.record) if stored else None

    async def body(self, record: SetRecord) -> bytes | None:
        """None: pruned by age."""
        return await self._store.body(aggregate(record.uuid))

    async def change(
        self, uuid: UUID, step: Callable[[SetRecord], SetRecord], *, body: bytes | None = None
    ) -> tuple[SetRecord, SetRecord]:
        """Apply `step` to the present record, as often as others come in between. Returns before and after; nothing
        is written where `step` returns its argument. What `step` raises is raised, and nothing changed."""

        async def both(before: SetRecord) -> tuple[SetRecord, bytes | None]:
            return step(before), body

        return await self.rewrite(uuid, both)

    async def rewrite(
        self, uuid: UUID, step: Callable[[SetRecord], Awaitable[tuple[SetRecord, bytes | None]]]
    ) -> tuple[SetRecord, SetRecord]:
        """As `change`, for a step that makes the body too, from what it reads of the present one; None leaves it."""
        key = aggregate(uuid)
        for _ in range(_TRIES):
            version, before = await self._load(key)
            after, body = await step(before)
            if after is before and body is None:
                return before, after
            timers = _difference(before, after)
            # Shielded: a caller that goes away must not leave us guessing whether the write happened.
            lines, gone = _listings(before, after), _gone(before, after)
            writing = self._write(after, version, body=body, timers=timers, listings=lines, cut=gone)
            if await asyncio.shield(writing):
                return before, after
        raise Unavailable("too many changes at once.", remedy="Try again.")

    async def remove(self, record: SetRecord, version: int) -> bool:
        """The set with all that hangs on it. False: it was changed meanwhile, and stays."""
        key = aggregate(record.uuid)
        removed = await self._store.remove(key, version)
        if removed:
            self._hub.ring(key)
        return removed

    async def _load(self, key: str) -> tuple[int, SetRecord]:
        stored = await self._store.read(key)
        if stored is None:
            raise NotFound(
                "no such offer set or session here.", remedy="List yours with GET /sessions or GET /offersets."
            )
        return stored.version, offerset.decode(stored.record)

    async def _write(
        self,
        record: SetRecord,
        version: int,
        *,
        body: bytes | None,
        timers: Mapping[str, float | None],
        listings: Sequence[Listing],
        cut: Sequence[tuple[str, str]] = (),
    ) -> bool:
        key = aggregate(record.uuid)
        data = offerset.encode(record)
        try:
            written = await self._store.write(key, version, data, body=body, timers=timers, listings=listings, cut=cut)
        except Unconfirmed:
            self._tell(key, timers)  # it stands all the same
            raise
        if written:
            self._tell(key, timers)
        return written

    def _tell(self, key: str, timers: Mapping[str, float | None]) -> None:
        if set_ := [due for due in timers.values() if due is not None]:
            self.nudge(min(set_))
        self._hub.ring(key)


def _difference(before: SetRecord, after: SetRecord) -> dict[str, float | None]:
    old, new = offerset.timers(before), offerset.timers(after)
    changed: dict[str, float | None] = {key: None for key in old if key not in new}
    changed.update({key: due for key, due in new.items() if old.get(key) != due})
    return changed


def _listings(before: SetRecord | None, after: SetRecord) -> list[Listing]:
    """The lines that differ: the set's own, and one for each session."""
    lines = []
    if before is None or _set_phase(before) != _set_phase(after):
        lines.append(Listing("offerset", str(after.uuid), _whose(after), after.created, _set_phase(after), after.name))
    old = {item.uuid: item for item in before.sessions} if before else {}
    lines.extend(
        _session_line(after, item)
        for item in after.sessions
        if item.uuid not in old or old[item.uuid].phase != item.phase
    )
    return lines


def lines(record: SetRecord) -> list[Listing]:
    """All that lists should say of this set."""
    return _listings(None, record)


def _gone(before: SetRecord, after: SetRecord) -> list[tuple[str, str]]:
    """Lines of sessions that the record holds no more."""
    if len(before.sessions) <= len(after.sessions):
        return []  # sessions only ever leave when a set is reduced
    left = {item.uuid for item in after.sessions}
    return [("session", str(item.uuid)) for item in before.sessions if item.uuid not in left]


def _session_line(record: SetRecord, item: SessionRecord) -> Listing:
    return Listing("session", str(item.uuid), _whose(record), record.created, item.phase, record.name, item.site)


def _whose(record: SetRecord) -> str:
    return record.owner.by(record.account)


def _set_phase(record: SetRecord) -> str:
    if record.claim:
        return "TAKEN" if record.taken else "DOUBT" if record.claim.tries else "CLAIMED"
    return "YES" if any(item.phase == "OFFERED" for item in record.sessions) else "NO"
