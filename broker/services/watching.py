"""Following accepted sessions to their end: one watch list and one timer a site. Imports ports and the domain.

The timer `follow` of a set puts its session on the site's list (an aggregate of its own); the timer `look` of the
list asks the site for all that are due, in one call where the site takes one. Nothing is written unless it changed.
When each session is worth a look is kept in memory alone: after a restart all are looked at once, and a replica that
has another's list before it for the first time looks at all of that. The timer, which all share, keeps the pace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

import msgspec
import structlog

from broker.domain import offerset, session
from broker.domain.deadline import Deadline
from broker.domain.learning import told
from broker.domain.offerset import SetRecord
from broker.errors import BrokerError, NotFound, SiteError, SiteForgot, Unavailable
from broker.ports import Clock, Order, Sighting, Store
from broker.services.orders import order, seen
from broker.services.records import Records
from broker.services.sites import Entry, Sites
from broker.services.window import Window

_log = structlog.get_logger(__name__)

FORGOTTEN_FOR = 3600.0  # seconds a site may deny a session before it counts as lost; a restore may bring it back
UNREACHED = 15.0  # seconds until a site that could not be asked is asked again
TROUBLED = 5.0  # seconds until a session whose record cannot be read or written is looked at again
BATCH = 200  # sessions in one call


class WatchList(msgspec.Struct, frozen=True):
    site: str
    sessions: frozenset[UUID] = frozenset()


def key_of(site: str) -> str:
    return f"watch:{site}"


class Watching:
    def __init__(self, *, store: Store, records: Records, sites: Sites, window: Window, clock: Clock) -> None:
        self._store, self._records, self._sites = store, records, sites
        self._window, self._clock = window, clock
        self._looks: dict[UUID, float] = {}
        self._looked: dict[UUID, float] = {}  # when each was seen last, by this replica
        self._watched: dict[str, frozenset[UUID]] = {}  # of each site, when it was last looked at here

    # ── timers ───────────────────────────────────────────────────────────────────────────────────────────────

    async def follow(self, key: str) -> float | None:
        """Put the accepted session on its site's list, then note that it is there. Idempotent."""
        record = await self._records.by_key(key)
        if record is None or record.taken is None:
            return None
        item = record.session(record.taken)
        if item.phase not in session.TERMINAL:
            # Written also where it is there already: what an earlier try wrote may not be confirmed.
            await self._change(item.site, lambda sessions: sessions | {item.uuid}, anyway=True)
        await self._records.change(item.uuid, offerset.followed)
        return None

    async def look(self, key: str) -> float | None:
        """Ask one site for its due sessions. Returns when to look next; None: nothing is left to watch."""
        site = key.removeprefix("watch:")
        _, watched = await self._load(site)
        self._forget(site, watched)
        if not watched.sessions:
            return None
        try:
            entry = self._sites.entry(site)
        except NotFound:
            return self._clock.now() + UNREACHED  # registered no more, perhaps again soon
        now = self._clock.now()
        due = sorted(uuid for uuid in watched.sessions if self._looks.get(uuid, 0.0) <= now)[:BATCH]
        ended = await self._ask(entry, due) if due else set()
        if ended:
            watched = await self._change(site, lambda sessions: sessions - ended)
            self._forget(site, watched)
        if not watched.sessions:
            return None
        soonest = min(self._looks.get(uuid, 0.0) for uuid in watched.sessions)
        return max(soonest, self._clock.now() + (0.0 if len(due) == BATCH else min(entry.site.poll, 0.5)))

    def _forget(self, site: str, watched: WatchList) -> None:
        """What is on the list no more, whichever replica took it off."""
        for uuid in self._watched.get(site, frozenset()) - watched.sessions:
            self._looks.pop(uuid, None)
            self._looked.pop(uuid, None)
        self._watched[site] = watched.sessions

    # ── one look ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask(self, entry: Entry, due: list[UUID]) -> set[UUID]:
        """The sessions that are over. One that cannot be read, or written, now keeps nobody from the others."""
        orders: dict[UUID, Order] = {}
        ended: set[UUID] = set()
        for uuid in due:
            try:
                record = await self._known(uuid)
            except BrokerError as error:
                self._pass_over(entry, uuid, error)
                continue
            if record is None:
                ended.add(uuid)
            else:
                orders[uuid] = order(record, record.session(uuid))
        try:
            answers = await self._status(entry, list(orders.values()))
        except SiteError as error:
            _log.info("site not seen", site=entry.name, sessions=len(orders), why=error.detail)
            for uuid in orders:
                self._looks[uuid] = self._clock.now() + min(UNREACHED, max(1.0, entry.site.poll))
            return ended
        for uuid in orders:
            try:
                if await self._take(entry, uuid, answers.get(uuid)):
                    ended.add(uuid)
            except BrokerError as error:
                self._pass_over(entry, uuid, error)
        return ended

    def _pass_over(self, entry: Entry, uuid: UUID, error: BrokerError) -> None:
        _log.warning("session not looked after", site=entry.name, session=str(uuid), why=error.detail)
        self._looks[uuid] = self._clock.now() + max(TROUBLED, entry.site.poll)

    async def _status(self, entry: Entry, orders: list[Order]) -> Mapping[UUID, Sighting | SiteError]:
        deadline = Deadline.after(entry.site.timeout, self._clock.monotonic())
        return await entry.planner.status(orders, deadline) if orders else {}

    async def _take(self, entry: Entry, uuid: UUID, found: Sighting | SiteError | None) -> bool:
        """Record what was seen; whether the session is over."""
        now = self._clock.now()
        self._looks[uuid] = now + entry.site.poll
        if isinstance(found, Sighting):
            if found.next_look is not None:
                self._looks[uuid] = max(now + entry.site.poll, found.next_look)
            what = msgspec.structs.replace(seen(found), before=self._looked.get(uuid))
            before, after = await self._records.change(uuid, lambda r: offerset.see(r, uuid, what, now))
            self._looked[uuid] = now
        elif isinstance(found, SiteForgot):
            before, after = await self._records.change(uuid, lambda r: self._forgotten(r, uuid, entry, now))
        else:
            return False
        self._note_start(entry, before, after, now)
        phase = after.session(uuid).phase
        if phase in session.TERMINAL and before.session(uuid).phase not in session.TERMINAL:
            self._window.ended(entry.name, phase)
            _log.info("session ended", site=entry.name, session=str(uuid), phase=phase)
        return phase in session.TERMINAL

    def _note_start(self, entry: Entry, before: SetRecord, after: SetRecord, now: float) -> None:
        old, new = before.decision, after.decision
        if old == new or new is None or new.start is None:
            return
        began = told(new, now).began
        if began is not None and (old is None or told(old, now).began is None):
            self._window.started(entry.name, began - new.start)

    def _forgotten(self, record: SetRecord, uuid: UUID, entry: Entry, now: float) -> SetRecord:
        since = record.session(uuid).lost_since
        if entry.site.restart_ends_jobs:
            return offerset.fail(record, uuid, f"{entry.name} restarted, which ends its jobs", now)
        if since is not None and now - since > FORGOTTEN_FOR:
            return offerset.fail(record, uuid, f"{entry.name} has not known the session for an hour", now)
        return offerset.lost(record, uuid, now)

    async def _known(self, uuid: UUID) -> SetRecord | None:
        """None: it is gone, or over."""
        try:
            record = await self._records.load(uuid)
        except NotFound:
            return None
        return None if record.session(uuid).phase in session.TERMINAL else record

    # ── the list ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _load(self, site: str) -> tuple[int, WatchList]:
        stored = await self._store.read(key_of(site))
        if stored is None:
            return 0, WatchList(site)
        return stored.version, msgspec.msgpack.decode(stored.record, type=WatchList)

    async def _change(
        self, site: str, step: Callable[[frozenset[UUID]], frozenset[UUID]], *, anyway: bool = False
    ) -> WatchList:
        """`anyway`: it is written even if nothing changes."""
        for _ in range(50):
            version, old = await self._load(site)
            new = WatchList(site, step(old.sessions))
            if new == old and not anyway:
                return old
            grown = anyway or bool(new.sessions - old.sessions)
            timers = {"look": self._clock.now()} if grown else None
            if await self._store.write(key_of(site), version, msgspec.msgpack.encode(new), timers=timers):
                if grown:
                    self._records.nudge()
                return new
        raise Unavailable(f"the watch list of {site} is being changed by others.", remedy="It is tried again.")
