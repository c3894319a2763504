"""Following a set or a session: its state whenever it has changed. Imports ports and the domain.

No history is kept. What is handed on is the present state with the version of its aggregate as a cursor: whoever comes
back with an old cursor is told the present state at once, so no change is missed, though several may come as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from uuid import UUID

import msgspec

from broker.domain import session
from broker.domain.identity import Caller, aggregate
from broker.domain.offerset import SetRecord
from broker.ports import Clock
from broker.services.hub import Hub
from broker.services.offers import Offers, SetState
from broker.services.records import Records
from broker.services.sessions import Sessions, SessionState

BEAT = 15.0  # seconds between two signs of life, and two looks at what another process may have written
LONGEST = 3600.0  # seconds; then whoever follows signs in again


class Change(msgspec.Struct, frozen=True):
    cursor: int
    state: SetState | SessionState


Changes = AsyncGenerator[Change | None, None]
_Look = Callable[[], Awaitable[tuple[int, SetState | SessionState, bool]]]


class Events:
    def __init__(
        self, *, records: Records, offers: Offers, sessions: Sessions, hub: Hub, clock: Clock, beat: float = BEAT
    ) -> None:
        self._records, self._offers, self._sessions = records, offers, sessions
        self._hub, self._clock, self._beat = hub, clock, beat

    async def follow_set(self, uuid: UUID, caller: Caller, after: int | None) -> Changes | None:
        """The states from the one after the cursor on, None as a sign of life between them; it ends when nothing
        more can come. No iterator: that was the last already. Raises NotFound, also when rights end."""

        async def look() -> tuple[int, SetState, bool]:
            version, record = await self._records.versioned(uuid)
            return version, await self._offers.get(uuid, caller), _over(record)

        return await self._changes(uuid, look, after)

    async def follow_session(self, uuid: UUID, caller: Caller, after: int | None) -> Changes | None:
        """As `follow_set`."""

        async def look() -> tuple[int, SessionState, bool]:
            # The version first: a write in between is told again, not lost. And whether it is over by what is written,
            # not by what the time makes of it: that write is still to come.
            version, record = await self._records.versioned(uuid)
            return version, await self._sessions.get(uuid, caller), record.session(uuid).phase in session.TERMINAL

        return await self._changes(uuid, look, after)

    def close(self) -> None:
        """End every iterator, also those to come: the process is to stop."""
        self._hub.close()

    async def _changes(self, uuid: UUID, look: _Look, after: int | None) -> Changes | None:
        version, _, over = await look()
        return None if over and version == after else self._follow(aggregate(uuid), look, after)

    async def _follow(self, key: str, look: _Look, after: int | None) -> Changes:
        until = self._clock.monotonic() + LONGEST
        with self._hub.listen(key) as bell:
            while not self._hub.closed and self._clock.monotonic() < until:
                bell.clear()
                version, state, over = await look()
                if version != after:
                    after = version
                    yield Change(version, state)
                if over:
                    return
                if not await self._rung(bell):
                    yield None

    async def _rung(self, bell: asyncio.Event) -> bool:
        try:
            async with asyncio.timeout(self._beat):
                return await bell.wait()
        except TimeoutError:
            return False


def _over(record: SetRecord) -> bool:
    return record.closed and all(item.phase in session.TERMINAL for item in record.sessions)
