"""One act for one Idempotency-Key, however often and by however many it is sent. Imports ports and the domain.

A key is kept by whose it is and what call it was sent with: the fingerprint of what was asked, and the uuid of what
comes of it. That uuid is drawn before the act, and the store makes an aggregate once: so a worker that was thought
dead makes no second one. Whoever acts holds the key for some seconds, and longer as long as it lives: after a crash it
is soon taken up by whoever sends it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import TypeVar
from uuid import UUID

import msgspec
import structlog

from broker.domain.identity import Caller, aggregate
from broker.errors import BrokerError, Conflict, KeyReused, NotFound, TooMany, Unavailable
from broker.ports import Clock, Store

_log = structlog.get_logger(__name__)

T = TypeVar("T")

KEPT = 25 * 3600.0  # seconds; at least a day is promised
TIMER = "forget"
HOLD = 15.0  # seconds for which whoever acts holds a key; renewed while it does
RENEW_EVERY = 5.0  # seconds
RETRY_AFTER = 2.0  # seconds after which a rival may look again


class Once(msgspec.Struct, frozen=True):
    """An act that is to be done once. `call`: method and route. `asked`: what was asked, in one form however it was
    written. `uuid`: of what comes of it. `repeatable`: doing it again to the same uuid does no harm."""

    caller: Caller
    call: str
    key: str
    asked: bytes
    uuid: UUID
    repeatable: bool = False


class _Record(msgspec.Struct, frozen=True, omit_defaults=True):
    fingerprint: bytes
    uuid: UUID
    until: float  # epoch seconds: somebody is at it before this
    forget: float
    done: bool = False


class _Hold:
    """The version of a key that somebody holds, which grows as the hold is renewed."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.turn = asyncio.Lock()


class Keys:
    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock

    async def once(self, once: Once, act: Callable[[UUID], Awaitable[T]], show: Callable[[UUID], Awaitable[T]]) -> T:
        """What `act` makes, the first time; afterwards what `show` says of it. Either is given the first time's uuid.

        Where a worker died before its act was marked as done, `show` is tried first (not for what is repeatable), then
        `act`. An act that failed and made nothing leaves its key free. Raises Conflict while another is at it,
        KeyReused where something else was asked with this key."""
        name, fingerprint = _name(once), blake2b(once.asked, digest_size=16).digest()
        for _ in range(3):
            stored = await self._store.read(name)
            record = msgspec.msgpack.decode(stored.record, type=_Record) if stored else None
            if record is not None:
                self._check(record, fingerprint)
                if record.done:
                    return await show(record.uuid)
            mine = self._mine(once, record, fingerprint)
            version = stored.version if stored else 0
            if await self._write(name, version, mine):
                return await self._act(
                    name, version + 1, mine, act, None if record is None or once.repeatable else show
                )
        raise _busy()

    async def forget(self, name: str) -> float | None:
        """The timer: the day is over."""
        stored = await self._store.read(name)
        if stored is not None:
            await self._store.remove(name, stored.version)
        return None

    def _check(self, record: _Record, fingerprint: bytes) -> None:
        if record.fingerprint != fingerprint:
            raise KeyReused(
                "something else was asked with this Idempotency-Key.", remedy="Draw a new key for every request."
            )
        if not record.done and self._clock.now() < record.until:
            raise _busy()

    def _mine(self, once: Once, old: _Record | None, fingerprint: bytes) -> _Record:
        now = self._clock.now()
        if old is not None:
            return msgspec.structs.replace(old, until=now + HOLD)
        return _Record(fingerprint, once.uuid, now + HOLD, now + KEPT)

    async def _act(
        self,
        name: str,
        version: int,
        record: _Record,
        act: Callable[[UUID], Awaitable[T]],
        show: Callable[[UUID], Awaitable[T]] | None,
    ) -> T:
        hold = _Hold(version)
        try:
            async with self._holding(name, hold, record):
                made = await (_again(record.uuid, act, show) if show else act(record.uuid))
        except BrokerError as error:
            # Where the store gave no answer nobody can know: what it was sent may be done yet.
            surely = not isinstance(error, Unavailable) or isinstance(error, TooMany)
            await self._undo(name, hold.version, record, surely=surely)
            raise
        try:
            if not await self._write(name, hold.version, msgspec.structs.replace(record, done=True)):
                _log.warning("another worker took a key over", key=name)
        except BrokerError as error:  # what was made stands; a repetition finds it
            _log.warning("a key was not marked as done", key=name, why=error.detail)
        return made

    @asynccontextmanager
    async def _holding(self, name: str, hold: _Hold, record: _Record) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._renew(name, hold, record))
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            async with hold.turn:  # a renewal under way has ended
                pass

    async def _renew(self, name: str, hold: _Hold, record: _Record) -> None:
        """Until cancelled, or another has taken the key over: both know the same uuid."""
        while True:
            await self._clock.sleep(RENEW_EVERY)
            longer = msgspec.structs.replace(record, until=self._clock.now() + HOLD)
            with contextlib.suppress(BrokerError):
                # Shielded: the version must be known to whoever ends this.
                if not await asyncio.shield(self._extend(name, hold, longer)):
                    return

    async def _extend(self, name: str, hold: _Hold, record: _Record) -> bool:
        async with hold.turn:
            held = await self._write(name, hold.version, record)
            hold.version += held
            return held

    async def _undo(self, name: str, version: int, record: _Record, *, surely: bool) -> None:
        """What may have been made keeps its key, to be taken up by the next who sends it. `surely`: what has not been
        made by now will not be."""
        try:
            if surely and await self._store.read(aggregate(record.uuid)) is None:
                await self._store.remove(name, version)
            else:
                await self._write(name, version, msgspec.structs.replace(record, until=0.0))
        except BrokerError as error:
            _log.warning("a key stays taken for a while", key=name, why=error.detail)

    async def _write(self, name: str, version: int, record: _Record) -> bool:
        timers = {TIMER: record.forget} if version == 0 else None
        return await self._store.write(name, version, msgspec.msgpack.encode(record), timers=timers)


async def _again(uuid: UUID, act: Callable[[UUID], Awaitable[T]], show: Callable[[UUID], Awaitable[T]]) -> T:
    try:
        return await show(uuid)
    except NotFound:
        return await act(uuid)


def _busy() -> Conflict:
    return Conflict(
        "a request with this Idempotency-Key is being worked on.",
        remedy="Send it again in some seconds: the answer is then that of the first.",
        retry_after=RETRY_AFTER,
    )


def _name(once: Once) -> str:
    parts = (once.caller.owner.by(once.caller.account), once.call, once.key)
    digest = blake2b(msgspec.json.encode(parts), digest_size=16).hexdigest()
    return f"key:{digest}"
