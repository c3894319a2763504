"""Learning of what came: one lesson a session, kept for each site, and the picture that ranking is given.

Imports ports and the domain. The timer `learn` of a set puts what its session has shown into the site's aggregate
(`experience:…`), then notes in the record that it has. Two aggregates are never written at once: what is counted
twice counts once, by its session. The timer `fade` removes an aggregate of which nothing counts any more.

Each aggregate has a line in the list `experience`, made anew with each write, so that the other replicas find what has
changed without reading it all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec
import structlog

from broker.domain import learning, offerset, reported
from broker.domain.experience import BLANK, Correction, Experience, Factor, Measured, voice
from broker.domain.learning import DAY, FORGET, Habits, Lived, Shown, Usual
from broker.domain.offerset import Decision, SessionRecord
from broker.domain.quantities import format_instant
from broker.domain.storages import Map
from broker.errors import BrokerError, Unavailable
from broker.ports import Clock, Listing, Query, Store
from broker.services.records import Records

_log = structlog.get_logger(__name__)

PREFIX, KIND = "experience:", "experience"
FADE = "fade"
REFRESH_EVERY = 30.0  # seconds between two looks at what other replicas have learned
LATE = 120.0  # seconds that a line may come into the list after it was written
ANEW_EVERY = 3600.0  # seconds after which an estimate is made anew though nothing was added: samples grow old
FEW = 50  # sites
AT_ONCE = 10  # such estimates in one turn: a turn takes milliseconds
_PAGE = 500
_TRIES = 50
_ENDED = ("COMPLETED", "FAILED")


class Kept(msgspec.Struct, frozen=True):
    """The aggregate of one site. `name`: as `experience.voice` has it."""

    name: str
    lived: Lived = Lived()


class Learning:
    """Nothing is worked out but when somebody asks for the picture, and then of those sites that have changed."""

    def __init__(self, *, store: Store, records: Records, clock: Clock, map_: Map) -> None:
        self._store, self._records, self._clock, self._map = store, records, clock, map_
        self._versions: dict[str, int] = {}  # by key, as read last
        self._lived: dict[str, Lived] = {}
        self._estimated: dict[str, float] = {}  # when
        self._ways: dict[str, dict[str, Measured]] = {}  # site → source
        self._habits: dict[str, dict[str, Habits]] = {}  # site → kind
        self._usual: dict[str, Usual] = {}  # by kind
        self._weighed: dict[str, float] = {}  # kind → when
        self._changed: set[str] = set()  # sites whose estimates are to be made anew
        self._asof = 0.0
        self._present: Experience = BLANK

    # ── timers ───────────────────────────────────────────────────────────────────────────────────────────────

    async def learn(self, key: str) -> float | None:
        """The timer of a set whose session has ended: count what it has shown, then note that. Idempotent."""
        record = await self._records.by_key(key)
        decision = offerset.lesson(record) if record is not None else None
        if record is None or decision is None:
            return None
        item = record.session(decision.session)
        if item.phase in _ENDED:
            await self._count(decision, item)
        await self._records.change(decision.session, offerset.learned)
        return None

    async def fade(self, key: str) -> float | None:
        """The timer of a site's aggregate: remove it where nothing of it counts any more. Idempotent."""
        version, kept = await self._read(key)
        if not version:
            return None
        due = _faded(kept.lived) if kept.name else self._clock.now() + DAY
        if due > self._clock.now():
            return due
        await self._store.remove(key, version)
        self._take(key, 0, Kept(kept.name))
        return None

    async def _count(self, decision: Decision, item: SessionRecord) -> None:
        over = item.modified
        moves = reported.moves(item.body, self._map.storage_of) if decision.alone and item.body else []
        told = learning.told(decision, over)
        sample = learning.sample(
            item.uuid, told, completed=item.phase == "COMPLETED", over=over, moving=reported.moving(moves)
        )
        transfers = reported.transfers(item.uuid, moves, decision.at, over)
        now = self._clock.now()
        if not sample.empty:
            await self._change(
                item.site, decision.origin, lambda old: learning.add(old, decision.kind, sample, {}, now)
            )
        if transfers:
            await self._change(item.site, item.site, lambda old: learning.bring(old, transfers, now))

    # ── forgetting by word ───────────────────────────────────────────────────────────────────────────────────

    async def forget(self, site: str, origins: Iterable[str] = ()) -> None:
        """Drop what is kept of a site, and of the sites behind it. Sessions accepted until now do not count any more.
        Idempotent."""
        now = self._clock.now()
        for origin in sorted({site, *origins}):
            if origin == site or (await self._read(key_of(site, origin)))[0]:
                await self._change(site, origin, lambda _: Lived(forgotten=now))

    # ── the picture ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def experience(self) -> Experience:
        """The present picture. It is replaced whenever something was learned, and never changes itself."""
        self._catch_up()
        return self._present

    def _catch_up(self) -> None:
        if self._changed:
            names, self._changed = self._changed, set()
            self._estimate(names)

    async def start(self) -> None:
        """Read all that is kept. Where the store does not give it, it is read later."""
        try:
            await self.refresh()
        except BrokerError as error:
            _log.warning("what was learned of sites is not read yet", why=error.detail)
        self._catch_up()  # now, and not while the first request waits

    async def run(self) -> None:
        """Keep the picture fresh, until cancelled."""
        while True:
            await self._clock.sleep(REFRESH_EVERY)
            try:
                await self.refresh()
            except BrokerError as error:
                _log.info("what other replicas have learned was not read", why=error.detail)

    async def refresh(self) -> None:
        """Take over what has changed since the last time, and make anew some estimates that are old. Raises
        Unavailable."""
        now = self._clock.now()
        async for line in self._lines(self._asof - LATE):
            key = PREFIX + line.id
            if str(self._versions.get(key, 0)) != line.name:
                version, kept = await self._read(key)
                self._take(key, version, kept)
        self._asof = now
        old = [name for name, at in self._estimated.items() if now - at >= ANEW_EVERY]
        self._changed.update(old[:AT_ONCE])

    async def _lines(self, since: float) -> AsyncIterator[Listing]:
        after: tuple[float, str] | None = None
        while True:
            page = await self._store.listings(Query(KIND, after=after, since=since, limit=_PAGE))
            for line in page:
                yield line
            if len(page) < _PAGE:
                return
            after = page[-1].created, page[-1].id

    def _take(self, key: str, version: int, kept: Kept) -> None:
        """What was read or written. Version 0: it is there no more."""
        self._versions[key] = version
        if kept.name:
            self._lived[kept.name] = kept.lived
            self._changed.add(kept.name)

    def _estimate(self, names: Collection[str]) -> None:
        """Anew, of these sites; then the picture, of all."""
        now = self._clock.now()
        touched: set[str] = set()  # kinds
        for name in names:
            lived = self._lived[name] = learning.pruned(self._lived.get(name, Lived()), now)
            touched |= self._habits.get(name, {}).keys() | lived.kinds.keys()
            self._forget(name)
            if lived.newest is None:
                del self._lived[name]
                continue
            self._estimated[name] = now
            found = ((source, learning.measured(items, now)) for source, items in lived.sources.items())
            self._ways[name] = {source: seen for source, seen in found if seen is not None}
            self._habits[name] = {kind: learning.habits(samples, now) for kind, samples in lived.kinds.items()}
        self._present = self._picture(names, touched)

    def _forget(self, name: str) -> None:
        for known in (self._estimated, self._ways, self._habits):
            known.pop(name, None)

    def _picture(self, names: Collection[str], touched: Collection[str]) -> Experience:
        """The present one, with these sites' parts made anew, and those of all where what is usual of a kind of work
        has changed. `touched`: kinds of which that may be."""
        moved = {kind for kind in touched if self._weigh(kind)}
        stale = {*names, *(name for name, own in self._habits.items() if not moved.isdisjoint(own))}
        old = self._present
        ways = {key: seen for key, seen in old.measured.items() if key[1] not in names}
        for name in names:
            ways |= {(source, name): seen for source, seen in self._ways.get(name, {}).items()}
        by_kind = {key: by for key, by in old.corrections.items() if key[0] not in stale}
        other = {name: by for name, by in old.elsewise.items() if name not in stale}
        for name in stale & self._habits.keys():
            each, other[name] = learning.corrections(self._habits[name], self._usual)
            by_kind |= {(name, kind): by for kind, by in each.items()}
        usual = {**old.usual, **{kind: learning.expected(self._usual[kind]) for kind in moved}}
        return Experience(ways, by_kind, _some(usual), _some(other))

    def _weigh(self, kind: str) -> bool:
        """What is usual in the federation for this kind of work; whether it has changed, and with it the corrections
        of all sites. Where these are many one of them moves it hardly at all, and it is looked at now and then."""
        now, before = self._clock.now(), self._usual.get(kind)
        sites = [own[kind] for own in self._habits.values() if kind in own]
        if before is not None and len(sites) > FEW and now - self._weighed.get(kind, 0.0) < REFRESH_EVERY:
            return False
        self._usual[kind], self._weighed[kind] = learning.usual(sites), now
        return before != self._usual[kind]

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────

    def shown(self, site: str, origins: Iterable[str] = ()) -> dict[str, Any]:
        """`calibration`: what promises of a site, and of those behind it, have come to; `measured`: how fast bytes
        reached it."""
        picture = self.experience
        names = list(dict.fromkeys([site, *(voice(site, origin) for origin in origins)]))
        found = [line for name in names for line in self._calibration(name, picture)]
        ways = [
            {
                "source": source,
                "low": round(seen.bandwidth.low / 1e6, 3),
                "high": round(seen.bandwidth.high / 1e6, 3),
                "unit": "MB/s",
                "samples": seen.samples,
                "latest": format_instant(round(seen.asof)),
            }
            for source, seen in sorted(self._ways.get(site, {}).items())
        ]
        return {"calibration": found, "measured": ways}

    def _calibration(self, name: str, picture: Experience) -> Iterable[dict[str, Any]]:
        for kind, own in sorted(self._habits.get(name, {}).items()):
            by = picture.corrections.get((name, kind))
            if by is None:
                continue
            for what in ("waiting", "staging", "run", "cost"):
                seen: Shown = getattr(own, what)
                if seen.samples:
                    line = _line(what, seen, getattr(by, what), picture.usual.get(kind))
                    yield {"site": name, "kind": kind, **line}

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, key: str) -> tuple[int, Kept]:
        """Version 0: there is none. One that cannot be read, a newer replica's or a damaged one, counts as empty."""
        stored = await self._store.read(key)
        if stored is None:
            return 0, Kept("")
        try:
            return stored.version, msgspec.msgpack.decode(stored.record, type=Kept)
        except msgspec.MsgspecError as error:
            _log.warning("what was learned cannot be read, and is learned anew", key=key, why=str(error))
            return stored.version, Kept("")

    async def _change(self, site: str, origin: str, step: Callable[[Lived], Lived]) -> None:
        """Raises Unavailable."""
        key, name = key_of(site, origin), voice(site, origin)
        for _ in range(_TRIES):
            version, old = await self._read(key)
            new = Kept(name, step(old.lived))
            if version and new == old:
                return self._take(key, version, old)
            line = Listing(KIND, key.removeprefix(PREFIX), "", self._clock.now(), name=str(version + 1), site=site)
            timers = {FADE: _faded(new.lived)}
            if await self._store.write(key, version, msgspec.msgpack.encode(new), timers=timers, listings=[line]):
                self._records.nudge(timers[FADE])
                return self._take(key, version + 1, new)
        raise Unavailable(f"what is learned of {name} is being changed by others.", remedy="It is tried again.")


def key_of(site: str, origin: str) -> str:
    """What a broker below calls the sites behind it may be any text, which no key should hold."""
    return PREFIX + (site if origin == site else f"{site}/{sha256(origin.encode()).hexdigest()[:20]}")


def _faded(lived: Lived) -> float:
    """When nothing of it counts any more."""
    return max(lived.newest or 0.0, lived.forgotten) + FORGET


def _some(named: Mapping[str, Correction]) -> dict[str, Correction]:
    return {name: by for name, by in named.items() if by != Correction()}


def _line(what: str, seen: Shown, factor: Factor, usual: Correction | None) -> dict[str, Any]:
    elsewhere: Factor | None = getattr(usual, what) if usual is not None and what in ("run", "cost") else None
    return {
        "what": what,
        "factor": factor.value,
        **({"usual": elsewhere.value} if elsewhere is not None else {}),
        "samples": seen.samples,
        "since": format_instant(round(seen.since)),
        "says": learning.says(what, factor, seen.samples, elsewhere),
    }
