"""Learning of what came: one lesson a session, kept for each site, and the picture that ranking is given.

Imports ports and the domain. The timer `learn` of a set puts what its session has shown into the site's aggregate
(`experience:…`), then notes in the record that it has. Two aggregates are never written at once: what is counted
twice counts once, by its session. The timer `fade` removes an aggregate of which nothing counts any more.

Each aggregate has a line in the list `experience`, made anew with each write, so that the other replicas find what has
changed without reading it all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from hashlib import sha256
from typing import Any

import msgspec
import structlog

from broker.domain import learning, offerset, reported
from broker.domain.experience import BLANK, Correction, Experience, Factor, Measured, speaker, voice
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
FEW = 50  # sites that have shown a kind of work; where they are more, what is usual is looked at now and then
AT_ONCE, DRAWN_AT_ONCE = 10, 50  # sites in one turn, to estimate and to correct: a turn takes milliseconds
_PAGE = 500
_TRIES = 50
_ENDED = ("COMPLETED", "FAILED")

_Corrected = tuple[dict[str, Correction], Correction]  # by kind of work, and of any other


class Kept(msgspec.Struct, frozen=True):
    """The aggregate of one site. `name`: as `experience.voice` has it."""

    name: str
    lived: Lived = Lived()


class Learning:
    """What few lessons change is worked out when somebody asks for the picture; what many change, as after a start, in
    the background, and the picture stays as it was until all is in it."""

    def __init__(self, *, store: Store, records: Records, clock: Clock, map_: Map) -> None:
        self._store, self._records, self._clock, self._map = store, records, clock, map_
        self._versions: dict[str, int] = {}  # by key, as read last
        self._keys: dict[str, str] = {}  # by site
        self._lived: dict[str, Lived] = {}
        self._estimated: dict[str, float] = {}  # when (monotonic)
        self._ways: dict[str, dict[str, Measured]] = {}  # site → source
        self._habits: dict[str, dict[str, Habits]] = {}  # site → kind
        self._usual: dict[str, Usual] = {}  # by kind
        self._changed: set[str] = set()  # sites whose estimates are to be made anew
        self._unweighed: set[str] = set()  # kinds of work of which another figure may be usual
        self._digesting = False
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
        now = self._clock.now()
        due = _faded(learning.pruned(kept.lived, now)) if kept.name else now + DAY
        if due > self._clock.now():
            return due
        await self._store.remove(key, version)
        self._take(key, 0, Kept(kept.name))
        return None

    async def _count(self, decision: Decision, item: SessionRecord) -> None:
        over = item.modified
        moves = reported.moves(item.body, self._map.storage_of) if decision.alone and item.body else []
        told, moving = learning.told(decision, over), reported.moving(moves)
        if moving is not None and not learning.believable(told, moving):
            moves, moving = [], None
        sample = learning.sample(item.uuid, told, completed=item.phase == "COMPLETED", over=over, moving=moving)
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
        for origin in sorted({site, *origins, *self._behind(site)}):
            if origin == site or (await self._read(key_of(site, origin)))[0]:
                await self._change(site, origin, lambda _: Lived(forgotten=now))

    def _behind(self, site: str) -> list[str]:
        """The sites behind it of which something is kept, whether or not it names them still."""
        return [name.removeprefix(f"{site}/") for name in sorted(self._keys) if speaker(name) == site]

    # ── the picture ──────────────────────────────────────────────────────────────────────────────────────────

    @property
    def experience(self) -> Experience:
        """The present picture. It is replaced whenever something was learned, and never changes itself."""
        if self._changed and not self._digesting:
            names = self._some_changed()
            self._unweighed |= self._estimate(names)
            moved = self._weighed({kind for kind in self._unweighed if self._few(kind)})
            self._present = self._drawn(names, moved, self._corrections(self._stale(names, moved)))
        return self._present

    async def run(self) -> None:
        """Read what is kept, and keep the picture fresh, until cancelled."""
        while True:
            try:
                await self.refresh()
            except BrokerError as error:
                _log.info("what was learned of sites was not read; it is tried again", why=error.detail)
            await self._clock.sleep(REFRESH_EVERY)

    async def refresh(self) -> None:
        """Take over what has changed since the last time, and make anew some estimates that are old. Raises
        Unavailable."""
        now, read = self._clock.now(), list[tuple[str, int, int, Kept]]()
        async for line in self._lines(min(self._asof, now) - LATE):
            key = PREFIX + line.id
            known = self._versions.get(key, 0)
            if str(known) != line.name:
                read.append((key, known, *await self._read(key)))
        for key, known, version, kept in read:  # all at once: half a picture would wrong those whom it shows
            if self._versions.get(key, 0) == known:
                self._take(key, version, kept)
        self._asof = now
        edge = self._clock.monotonic() - ANEW_EVERY
        self._changed.update([name for name, at in self._estimated.items() if at <= edge][:AT_ONCE])
        await self._digest()

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
            self._keys[kept.name] = key
            self._lived[kept.name] = kept.lived
            self._changed.add(kept.name)

    # ── working it out ───────────────────────────────────────────────────────────────────────────────────────

    async def _digest(self) -> None:
        """Work in whatever has changed, some sites a turn, and draw the picture when all is in."""
        names = set[str]()
        self._digesting = True
        try:
            while self._changed:
                some = self._some_changed()
                names |= some
                self._unweighed |= self._estimate(some)
                await asyncio.sleep(0)
            moved = self._weighed(self._unweighed)
            stale, found = sorted(self._stale(names, moved)), dict[str, _Corrected]()
            for at in range(0, len(stale), DRAWN_AT_ONCE):
                found |= self._corrections(stale[at : at + DRAWN_AT_ONCE])
                await asyncio.sleep(0)
            if found:
                self._present = self._drawn(names, moved, found)
        finally:
            self._digesting = False

    def _some_changed(self) -> set[str]:
        some = set(sorted(self._changed)[:AT_ONCE])
        self._changed -= some
        return some

    def _estimate(self, names: Collection[str]) -> set[str]:
        """Anew, of these sites. Returns the kinds of work that they have shown, or had."""
        now, kinds = self._clock.now(), set[str]()
        for name in names:
            lived = learning.pruned(self._lived.get(name, Lived()), now)
            kinds |= self._habits.get(name, {}).keys() | lived.kinds.keys()
            self._drop(name)
            if lived.newest is None:
                self._versions.pop(self._keys.pop(name, ""), None)  # should it come again, it begins at the first
                continue
            self._lived[name], self._estimated[name] = lived, self._clock.monotonic()
            found = ((source, learning.measured(items, now)) for source, items in lived.sources.items())
            self._ways[name] = {source: seen for source, seen in found if seen is not None}
            self._habits[name] = {kind: learning.habits(samples, now) for kind, samples in lived.kinds.items()}
        return kinds

    def _drop(self, name: str) -> None:
        for known in (self._lived, self._estimated, self._ways, self._habits):
            known.pop(name, None)

    def _few(self, kind: str) -> bool:
        return kind not in self._usual or sum(kind in own for own in self._habits.values()) <= FEW

    def _weighed(self, kinds: Collection[str]) -> set[str]:
        """Work out what is usual in the federation for these kinds of work. Returns those for which that is another
        figure now, and with it the corrections of all sites that have shown them."""
        moved = set()
        for kind in kinds:
            own = {site: shown[kind] for site, shown in self._habits.items() if kind in shown}
            before, self._usual[kind] = self._usual.get(kind), learning.usual(own)
            if before != self._usual[kind]:
                moved.add(kind)
        self._unweighed -= set(kinds)
        return moved

    def _stale(self, names: Collection[str], moved: Collection[str]) -> set[str]:
        """Sites whose corrections are to be made anew; `moved`: kinds of work of which another figure is usual now."""
        return {*names, *(name for name, own in self._habits.items() if not own.keys().isdisjoint(moved))}

    def _corrections(self, names: Iterable[str]) -> dict[str, _Corrected]:
        """None of a site of which nothing counts any more."""
        return {name: learning.corrections(self._habits.get(name, {}), self._usual) for name in names}

    def _drawn(self, names: Collection[str], moved: Collection[str], found: Mapping[str, _Corrected]) -> Experience:
        """The present picture, with the ways of these sites and with these corrections."""
        old = self._present
        ways = {key: seen for key, seen in old.measured.items() if key[1] not in names}
        for name in names:
            ways |= {(source, name): seen for source, seen in self._ways.get(name, {}).items()}
        by_kind = {key: by for key, by in old.corrections.items() if key[0] not in found}
        for name, (each, _) in found.items():
            by_kind |= {(name, kind): by for kind, by in each.items()}
        other = {**old.elsewise, **{name: by for name, (_, by) in found.items()}}
        usual = {**old.usual, **{kind: learning.expected(self._usual[kind]) for kind in moved}}
        # The same ones, as long as nothing is new: what was reckoned by them stays (services/routing).
        return Experience(old.measured if ways == old.measured else ways, by_kind, _some(usual), _some(other))

    # ── for people ───────────────────────────────────────────────────────────────────────────────────────────

    def shown(self, site: str, origins: Iterable[str] = ()) -> dict[str, Any]:
        """`calibration`: what promises of a site, and of those behind it, have come to; `measured`: how fast bytes
        reached it."""
        picture = self.experience
        names = dict.fromkeys(voice(site, origin) for origin in (site, *origins, *self._behind(site)))
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
