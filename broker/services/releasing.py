"""Giving back what nobody will take: the timers `close`, `expire` and `release` of a set. Imports ports and the domain.

Every known offer that is not taken, the chosen site's siblings included, is released or has expired. One timer a
set; a broker of ours takes all its offers in one call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from uuid import UUID

import structlog

from broker.domain import offerset
from broker.domain.deadline import Deadline
from broker.domain.offerset import SessionRecord, SetRecord
from broker.errors import NotFound, SiteError
from broker.ports import Clock
from broker.services.orders import order
from broker.services.records import Records
from broker.services.sites import Sites

_log = structlog.get_logger(__name__)

NOT_WORTH_A_CALL = 30.0  # seconds an offer has left at a site known to enforce expiry: it is left to expire
GIVE_UP = 3600.0  # seconds past its expiry after which an unreachable site's offer counts as expired
RETRY_LEAST, RETRY_MOST = 1.0, 60.0


class Releasing:
    def __init__(self, *, records: Records, sites: Sites, clock: Clock) -> None:
        self._records, self._sites, self._clock = records, sites, clock

    async def close(self, key: str) -> float | None:
        """The wait for silent sites is over."""
        record = await self._records.by_key(key)
        if record is not None:
            await self._records.change(record.uuid, lambda r: r if r.closed else offerset.close(r, self._clock.now()))
        return None

    async def expire(self, key: str) -> float | None:
        """Offers whose time is over become EXPIRED. Returns when the next one's is: also where the store's clock is a
        little ahead of ours, and the timer came before anything had expired."""
        record = await self._records.by_key(key)
        if record is None:
            return None
        _, after = await self._records.change(record.uuid, lambda r: offerset.expire(r, self._clock.now()))
        return offerset.timers(after).get("expire")

    async def release(self, key: str) -> float | None:
        """Tell the sites. Returns when to try again what failed. Idempotent at every site."""
        record = await self._records.by_key(key)
        if record is None:
            return None
        by_site: dict[str, list[SessionRecord]] = {}
        for item in record.unreleased():
            by_site.setdefault(item.site, []).append(item)
        done = await asyncio.gather(*(self._at(site, record, items) for site, items in by_site.items()))
        gone = {uuid for uuids in done for uuid in uuids}
        _, after = await self._records.change(record.uuid, lambda r: offerset.released(r, gone, self._clock.now()))
        left = after.unreleased()
        if not left:
            return None
        age = self._clock.now() - min(item.modified for item in left)
        return self._clock.now() + max(RETRY_LEAST, min(RETRY_MOST, age / 2))

    async def _at(self, site: str, record: SetRecord, items: Iterable[SessionRecord]) -> list[UUID]:
        """The sessions that are released, or need not be, at one site."""
        now = self._clock.now()
        try:
            entry = self._sites.entry(site)
        except NotFound:
            return [item.uuid for item in items]  # registered no more: nobody is left to tell
        enforced = entry.site.enforces_expiry or entry.ours
        needless = [item.uuid for item in items if _needless(item, now, enforced=enforced)]
        tell = [item for item in items if item.uuid not in needless]
        if not tell:
            return needless
        deadline = Deadline.after(entry.site.timeout, self._clock.monotonic())
        try:
            await entry.planner.release([order(record, item) for item in tell], deadline)
        except SiteError as error:
            _log.info("release failed", site=site, offers=len(tell), why=error.detail)
            return needless
        return needless + [item.uuid for item in tell]


def _needless(item: SessionRecord, now: float, *, enforced: bool) -> bool:
    ends = item.modified if item.expires is None else item.expires  # None: it could not even be read
    ended_there = enforced and item.expires is not None and not item.assumed
    return ends - now < NOT_WORTH_A_CALL if ended_there else now - ends > GIVE_UP
