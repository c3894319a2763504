"""Looking through a whole store, and at the sites, for what is not as it should be; and mending it on request.

Imports ports, the domain, findings and orphans. Works beside running brokers: what it sees of one aggregate is one
moment's, what concerns two is looked at again before it is said, and every change is a compare-and-set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from uuid import UUID

import msgspec

from broker.domain import offerset
from broker.domain import session as phases
from broker.domain.deadline import Deadline
from broker.domain.identity import aggregate
from broker.domain.offerset import SetRecord
from broker.errors import BrokerError, NotFound, SiteError
from broker.ports import Clock, Store, Whole
from broker.services import findings, keeping, learning
from broker.services.findings import Finding
from broker.services.orphans import Orphan, Orphans
from broker.services.sites import Sites
from broker.services.watching import WatchList, key_of

WATCH = key_of("")
PIECE = 200  # keys at a time
SETTLED = 60.0  # seconds after its end that a session may still stand on a watch list
_TRIES = 10


class Report(msgspec.Struct, frozen=True):
    """`unasked`: site → why nobody could be asked there what it has for us. `sets`: how many were looked at."""

    findings: tuple[Finding, ...]
    unasked: Mapping[str, str]
    sets: int

    @property
    def left(self) -> int:
        """How many were not mended."""
        return sum(not finding.mended for finding in self.findings)


class Doctor:
    """One visit each: make a new one for the next. `mend`: what can be made anew from the records is, and offers that
    nobody knows are given back; `cancel`: jobs that nobody follows are cancelled, too."""

    def __init__(self, *, store: Store, sites: Sites, clock: Clock, mend: bool = False, cancel: bool = False) -> None:
        self._store, self._sites, self._clock = store, sites, clock
        self._mend, self._cancel = mend, cancel
        self._names = {entry.name for entry in sites.entries()}
        self._orphans = Orphans(sites.entries(), store, clock)
        self._late: Counter[str] = Counter()
        self._latest: tuple[float, str] = (0.0, "")
        self._sets = 0

    async def visit(self) -> Report:
        """Look at everything. Raises Unavailable where the store cannot be read."""
        await self._orphans.ask()
        found = [finding async for finding in self._aggregates()]
        found += [await self._end(orphan) for orphan in await self._orphans.left(await self._store.now())]
        found += self._overdue()
        order = {"ERROR": 0, "WARN": 1}
        unique = sorted(dict.fromkeys(found), key=lambda at: (order[at.level], at.what, at.where))
        return Report(tuple(unique), dict(sorted(self._orphans.unasked.items())), self._sets)

    async def _aggregates(self) -> AsyncIterator[Finding]:
        cursor, last = "", False
        while not last:
            keys, cursor = await self._store.keys(cursor, PIECE)
            last = not cursor
            for key in dict.fromkeys(keys):
                whole = await self._store.whole(key)
                if whole is not None:
                    async for finding in self._one(key, whole):
                        yield finding

    async def _one(self, key: str, whole: Whole) -> AsyncIterator[Finding]:
        now = await self._store.now()
        if not whole.version:
            yield await self._clear(findings.leftover(key, whole), key)
        elif findings.is_set(key):
            async for finding in self._set(key, whole, now):
                yield finding
        else:
            self._count(key, whole, now)
            if key.startswith(WATCH):
                async for finding in self._watch_list(key, whole, now):
                    yield finding
            elif (timer := _wanted(key)) and timer not in whole.timers:
                missing = Finding("ERROR", "timer", key, f"the timer {timer} is missing.", "it is set")
                yield await self._set_timer(missing, key, timer)

    def _count(self, key: str, whole: Whole, now: float, changed: float = 0.0) -> None:
        for timer, late in findings.overdue(whole, now, changed):
            self._late[timer] += 1
            self._latest = max(self._latest, (late, f"{timer} of {key}"))

    def _overdue(self) -> Iterator[Finding]:
        if self._late:
            each = ", ".join(f"{count} {timer}" for timer, count in sorted(self._late.items()))
            late, which = self._latest
            says = f"timers that nobody works off: {each}; the oldest ({which}) since {findings.long(late)}."
            yield Finding("ERROR", "overdue", "store", f"{says} Start a broker on this store, or see its log.")

    # ── a set ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _set(self, key: str, whole: Whole, now: float) -> AsyncIterator[Finding]:
        self._sets += 1
        try:
            record = offerset.decode(whole.record)
        except BrokerError as error:
            yield Finding("ERROR", "unreadable", key, f"{error.detail} {error.remedy}")
            return
        self._count(key, whole, now, findings.changed(record))
        wrong = list(findings.of_set(record, whole, now, self._names))
        mended = self._mend and await self._rewrite(key) if any(finding.mends for finding in wrong) else False
        for finding in wrong:
            yield finding.done() if mended and finding.mends else finding
        if (unwatched := await self._unwatched(record)) is not None:
            yield unwatched
        for orphan in self._orphans.compare(record, now):
            yield await self._end(orphan)

    async def _rewrite(self, key: str) -> bool:
        """Lines and timers, from the present record. Whether they are right now."""
        for _ in range(_TRIES):
            whole = await self._store.whole(key)
            if whole is None or not whole.version:
                return False
            wrong = findings.repair(offerset.decode(whole.record), whole, await self._store.now())
            if not wrong or await self._store.write(
                key, whole.version, whole.record, timers=wrong.timers, listings=wrong.put, cut=wrong.cut
            ):
                return True
        return False

    async def _unwatched(self, record: SetRecord) -> Finding | None:
        """The session that runs, where nobody looks at it."""
        if not _watched(record):
            return None
        item = record.session(record.taken) if record.taken else record.sessions[0]
        if item.uuid in (await self._list(key_of(item.site)))[1].sessions:
            return None
        again = await self._record(item.uuid)
        if again is None or not _watched(again):
            return None  # it has ended meanwhile
        says = f"it is {item.phase} at {item.site}, and nobody looks at it: it is on no watch list."
        finding = Finding("ERROR", "watch", str(item.uuid), says, "it is put on the list")
        mended = self._mend and await self._change_list(key_of(item.site), put=frozenset({item.uuid}))
        return finding.done() if mended else finding

    # ── a watch list ─────────────────────────────────────────────────────────────────────────────────────────

    async def _watch_list(self, key: str, whole: Whole, now: float) -> AsyncIterator[Finding]:
        try:
            watched = msgspec.msgpack.decode(whole.record, type=WatchList)
        except msgspec.MsgspecError:
            yield Finding("ERROR", "unreadable", key, "the watch list is damaged. Restore the store from a backup.")
            return
        gone = frozenset([uuid for uuid in watched.sessions if await self._over(uuid, now)])
        if gone:
            says = f"the watch list names {len(gone)} that are over or gone, such as {min(map(str, gone))}."
            finding = Finding("WARN", "watch", watched.site, says, "they are taken off the list")
            mended = self._mend and await self._change_list(key, drop=gone)
            yield finding.done() if mended else finding
        timer = whole.timers.get("look")
        if watched.sessions - gone and (timer is None or timer.due > now + findings.PUT_OFF):
            missing = Finding("ERROR", "timer", watched.site, "the timer look is missing, or far off.", "it is set")
            yield await self._set_timer(missing, key, "look")

    async def _over(self, uuid: UUID, now: float) -> bool:
        """Whether nobody needs to look at the session any more, and that for some time."""
        record = await self._record(uuid)
        if record is None:
            return await self._store.read(aggregate(uuid)) is None
        item = next((item for item in record.sessions if item.uuid == uuid), None)
        return item is None or (item.phase in phases.TERMINAL and now - item.modified > SETTLED)

    async def _list(self, key: str) -> tuple[int, WatchList]:
        stored = await self._store.read(key)
        if stored is None:
            return 0, WatchList(key.removeprefix(WATCH))
        return stored.version, msgspec.msgpack.decode(stored.record, type=WatchList)

    async def _change_list(
        self, key: str, put: frozenset[UUID] = frozenset(), drop: frozenset[UUID] = frozenset()
    ) -> bool:
        for _ in range(_TRIES):
            version, old = await self._list(key)
            new = WatchList(old.site, (old.sessions | put) - drop)
            timers = {"look": await self._store.now()} if put else None
            if new == old or await self._store.write(key, version, msgspec.msgpack.encode(new), timers=timers):
                return True
        return False

    # ── mending ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _clear(self, finding: Finding, key: str) -> Finding:
        """A record made and removed takes with it what hung on none."""
        mended = self._mend and await self._store.write(key, 0, b"") and await self._store.remove(key, 1)
        return finding.done() if mended else finding

    async def _set_timer(self, finding: Finding, key: str, timer: str) -> Finding:
        stored = await self._store.read(key) if self._mend else None
        if stored is None:
            return finding
        timers = {timer: await self._store.now()}
        return finding.done() if await self._store.write(key, stored.version, stored.record, timers=timers) else finding

    async def _end(self, orphan: Orphan) -> Finding:
        if not (self._mend and (self._cancel or not orphan.runs)):
            return orphan.finding
        deadline = Deadline.after(orphan.entry.site.timeout, self._clock.monotonic())
        try:
            await orphan.end(deadline)
        except SiteError as error:
            return msgspec.structs.replace(orphan.finding, says=f"{orphan.finding.says} It stays: {error.detail}")
        return orphan.finding.done()

    async def _record(self, uuid: UUID) -> SetRecord | None:
        """None: there is none, or none that can be read."""
        stored = await self._store.read(aggregate(uuid))
        try:
            return offerset.decode(stored.record) if stored else None
        except BrokerError:
            return None


def _wanted(key: str) -> str:
    """The timer that an aggregate always has; empty: it may have none."""
    return keeping.TIMER if key == keeping.AGGREGATE else learning.FADE if key.startswith(learning.PREFIX) else ""


def _watched(record: SetRecord) -> bool:
    """Whether a session of it should stand on a watch list."""
    if record.taken is None or record.claim is None or not record.claim.followed:
        return False
    try:
        return record.session(record.taken).phase not in phases.TERMINAL
    except NotFound:
        return False
