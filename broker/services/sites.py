"""The registry: which sites there are, how they fare, and who is asked. Imports ports, domain, and the guard.

Sites come from the settings and by PUT /sites/{name}; the latter are kept in the store, one aggregate each. A site
that was never reached is not asked: whether it is a broker of ours decides what may be sent to it.

What one replica is told the others find in the roster, one small aggregate that they look at each second: a mark for
each registered site, which differs after every change, and who of the settings file is drained. It is a hint: the
site's own aggregate is the truth, and a change whose mark got lost is found by the sweep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol
from uuid import uuid4

import msgspec
import structlog
from pydantic import ValidationError

from broker.domain.deadline import Deadline
from broker.domain.identity import Caller
from broker.domain.outcome import Outcome, Reason, Skipped
from broker.domain.quantities import format_instant
from broker.domain.request import ExecutionRequest
from broker.domain.screen import unsuitable
from broker.domain.site import Health, Profile, Registration, StorageElement, union
from broker.errors import BadInput, BrokerError, Conflict, NotAllowed, NotFound, SettingsError, SiteError
from broker.ports import Clock, Listing, Planner, Query, Store

_log = structlog.get_logger(__name__)

PROBE_TIMEOUT = 5.0  # seconds; a site that takes longer to describe itself will not answer requests in time either
PROBE_SOON, PROBE_LATER = 1.0, 60.0  # seconds between looks: at a site that is down (growing), at one that is well
REFRESH_EVERY = 1.0  # seconds between two looks at the roster
SWEEP_EVERY = 60.0  # seconds between two looks at the list of all sites
ROSTER = "sites"
_TRIES = 10


class Drain(msgspec.Struct, frozen=True):
    """What was last said by a call of a site of the settings file. It holds while the file says of draining what it
    said then (`file`), and so outlives a restart; whoever changes the file has the last word."""

    drained: bool
    until: float | None
    file: str


class Roster(msgspec.Struct, frozen=True):
    marks: dict[str, str] = {}
    drains: dict[str, Drain] = {}


class Guarded(Planner, Protocol):
    """A planner behind the guard, which knows how its breakers stand: operation → closed, open, half-open."""

    def breakers(self) -> Mapping[str, str]: ...


class Memory(Protocol):
    """What was learned of sites (services/learning)."""

    def shown(self, site: str, origins: Iterable[str] = ()) -> dict[str, Any]: ...

    async def forget(self, site: str, origins: Iterable[str] = ()) -> None: ...


@dataclass
class Entry:
    """A site in this process. `since` and `seen` are epoch seconds."""

    site: Registration
    planner: Guarded
    configured: bool
    since: float
    profile: Profile | None = None
    seen: float | None = None
    reason: str = "not reached yet"
    acts: str = "site"
    failures: int = 0
    next_probe: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def name(self) -> str:
        return self.site.name

    @property
    def ours(self) -> bool:
        """Known to be a broker of our kind."""
        return self.profile is not None and self.profile.ours

    @property
    def storages(self) -> tuple[StorageElement, ...]:
        """As declared here, and as it says itself."""
        return (*self.site.storages, *(self.profile.storages if self.profile else ()))

    @property
    def countries(self) -> tuple[str, ...]:
        """As its offers will have them."""
        if self.site.country:
            return (self.site.country,)
        return self.profile.countries if self.profile else ()

    @property
    def writes(self) -> tuple[str, ...]:
        """Where its results may go. A plain site cannot be told, whatever is said of it."""
        if self.profile is None or not self.profile.ours:
            return ()
        return self.site.writes or self.profile.writes

    def health(self, now: float) -> Health:
        if self.profile is None:
            return "down" if self.configured else "draft"
        if self.site.drained and (self.site.drained_until is None or self.site.drained_until.timestamp() > now):
            return "draining"
        if self.failures >= 2:
            return "down"
        if self.failures or any(state != "closed" for state in self.planner.breakers().values()):
            return "degraded"
        return "live"


class Sites:
    """`build` makes the guarded planner of a registration; it raises SettingsError for options that do not hold."""

    def __init__(
        self,
        configured: Iterable[Registration],
        *,
        store: Store,
        clock: Clock,
        build: Callable[[Registration], Guarded],
        broker_id: str,
        memory: Memory | None = None,
    ) -> None:
        self._store, self._clock, self._build = store, clock, build
        self._id, self._memory = broker_id, memory
        self._file = {site.name: site for site in configured}
        self._entries = {site.name: self._entry(site, configured=True) for site in self._file.values()}
        self._roster, self._seen = Roster(), 0  # as last looked at, and its version
        self._next_sweep = 0.0  # monotonic
        self._changing = asyncio.Lock()  # one change of the entries at a time
        self._looking: set[asyncio.Task[None]] = set()

    def _entry(self, site: Registration, *, configured: bool) -> Entry:
        return Entry(site, self._build(site), configured, self._clock.now())

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Read the registrations that the store holds, and look at every site once, side by side. One that does not
        hold any more, since the settings file has changed, is left out, and logged."""
        await self.refresh()
        await asyncio.gather(*(self._probe(entry) for entry in self._entries.values()))

    async def run(self) -> None:
        """Look at the sites, over and over, until cancelled."""
        while True:
            now = self._clock.monotonic()
            due = [entry for entry in self._entries.values() if entry.next_probe <= now]
            await asyncio.gather(*(self._probe(entry) for entry in due))
            soonest = min((entry.next_probe for entry in self._entries.values()), default=now + PROBE_LATER)
            await self._clock.sleep(max(0.05, min(PROBE_LATER, soonest - self._clock.monotonic())))

    async def follow(self) -> None:
        """Take over what other replicas are told of sites, until cancelled."""
        while True:
            await self._clock.sleep(REFRESH_EVERY)
            try:
                for entry in await self.refresh():
                    self._look_at(entry)
            except BrokerError as error:
                _log.info("the roster of sites was not read", why=error.detail)

    async def refresh(self) -> list[Entry]:
        """Take over what has changed since the last time. Returns the sites that are new or changed, which nobody has
        looked at yet. Raises Unavailable."""
        async with self._changing:
            version, roster = await self._load()
            sweep = self._clock.monotonic() >= self._next_sweep
            if version == self._seen and not sweep:
                return []
            changed = {name for name, mark in roster.marks.items() if self._roster.marks.get(name) != mark}
            changed |= {entry.name for entry in self._entries.values() if not entry.configured} - roster.marks.keys()
            if sweep:
                changed |= {line.id for line in await self._store.listings(Query("site", limit=10_000))}
            found = [await self._reload(name) for name in sorted(changed)]
            self._roster, self._seen = roster, version
            self._go_by(roster)
            if sweep:
                self._next_sweep = self._clock.monotonic() + SWEEP_EVERY
            return [entry for entry in found if entry is not None]

    async def close(self) -> None:
        for task in self._looking:
            task.cancel()
        await asyncio.gather(*self._looking, return_exceptions=True)
        for entry in self._entries.values():
            await entry.planner.close()

    def _look_at(self, entry: Entry) -> None:
        task = asyncio.create_task(self._probe(entry))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _reload(self, name: str) -> Entry | None:
        """As the store has it. Returns the entry where it is a new one."""
        old = self._entries.get(name)
        if old is not None and old.configured:
            return None  # the file goes first
        stored = await self._store.read(_key(name))
        if stored is None:
            await self._replace(name, None)
            return None
        try:
            site = Registration.model_validate(msgspec.json.decode(stored.record))
            if old is not None and _but_draining(old.site, site) == site:
                old.site = site
                return None
            entry = self._entry(site, configured=False)
        except (SettingsError, ValidationError) as error:  # also what a newer replica has written
            _log.error("registered site left out", site=name, why=str(error))
            await self._replace(name, None)
            return None
        await self._replace(name, entry)
        return entry

    async def _replace(self, name: str, entry: Entry | None) -> None:
        old = self._entries.pop(name, None)
        if entry is not None:
            self._entries[name] = entry
        if old is not None:
            await old.planner.close()

    async def _probe(self, entry: Entry) -> None:
        async with entry.lock:
            now = self._clock.monotonic()
            try:
                entry.profile = await entry.planner.describe(Deadline.after(PROBE_TIMEOUT, now))
            except SiteError as error:
                entry.failures += 1
                entry.reason, entry.acts = error.detail, error.acts
                if entry.failures == 1:
                    entry.since = self._clock.now()
                entry.next_probe = now + min(PROBE_LATER / 4, PROBE_SOON * 2 ** min(entry.failures - 1, 5))
                _log.info("site not reached", site=entry.name, reason=error.detail)
                return
            if entry.failures or entry.seen is None:
                entry.since = self._clock.now()
            entry.failures, entry.reason, entry.acts = 0, "", ""
            entry.seen = self._clock.now()
            entry.next_probe = now + PROBE_LATER

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    def screen(self, request: ExecutionRequest) -> tuple[list[Entry], dict[str, Outcome]]:
        """Who is asked, and for every other why not. Also whoever loops back to us: a site that is this broker."""
        asked: list[Entry] = []
        left: dict[str, Outcome] = {}
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        for entry in self._entries.values():
            if entry.profile is None:
                text = f"not reached since {format_instant(round(entry.since))}: {entry.reason}"
                left[entry.name] = Skipped(Reason(text), acts=entry.acts)
            elif entry.profile.broker == self._id:
                left[entry.name] = Skipped(Reason("this is the broker itself."), acts="operator")
            elif reason := unsuitable(request, entry.site, entry.profile, now):
                left[entry.name] = Skipped(reason)
            else:
                asked.append(entry)
        return asked, left

    def entry(self, name: str) -> Entry:
        """Raises NotFound."""
        if name not in self._entries:
            known = ", ".join(sorted(self._entries)) or "none"
            raise NotFound(f'no site "{name}".', remedy=f"There are: {known}.")
        return self._entries[name]

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def profile(self) -> Profile:
        """What this broker can do, for a broker above it."""
        known = [entry for entry in self._entries.values() if entry.profile is not None]
        profiles = [entry.profile for entry in known if entry.profile is not None]
        return union(profiles).with_(
            broker=self._id,
            storages=tuple(storage for entry in known for storage in entry.storages),
            writes=tuple(sorted({place for entry in known for place in entry.writes})),
            countries=tuple(sorted({country for entry in known for country in entry.countries})),
            origins=tuple(sorted({o for e in known if e.profile for o in e.profile.origins or (e.name,)})),
        )

    # ── registering ──────────────────────────────────────────────────────────────────────────────────────────

    def list(self) -> list[dict[str, Any]]:
        return [self._view(entry) for entry in sorted(self._entries.values(), key=lambda entry: entry.name)]

    def get(self, name: str) -> dict[str, Any]:
        return self._view(self.entry(name))

    async def put(self, name: str, site: Registration, caller: Caller) -> dict[str, Any]:
        """Register, or change what was registered by this call. Probed before it goes live: while it cannot be
        reached it stays `draft` and is not asked. Idempotent. Raises Conflict for a site of the settings file."""
        _operator(caller)
        if name in self._file:
            raise Conflict(f"{name} stands in the settings file.", remedy="Change it there.")
        if site.name not in ("", name):
            raise BadInput(f'the address says "{name}".', element="name", remedy="Leave name out.")
        site = Registration.model_validate({**site.model_dump(), "name": name})
        async with self._changing:
            try:
                entry = self._entry(site, configured=False)
            except SettingsError as error:
                raise BadInput(error.detail, element=error.key, remedy=error.remedy) from error
            try:
                await self._save(name, lambda _: site)
            except BaseException:
                await entry.planner.close()
                raise
            await self._replace(name, entry)
        await self._probe(entry)
        return self._view(entry)

    async def delete(self, name: str, caller: Caller) -> None:
        """Forget a site registered by `put`. Idempotent. Its running sessions are followed no more."""
        _operator(caller)
        if name in self._file:
            raise Conflict(f"{name} stands in the settings file.", remedy="Remove it there.")
        async with self._changing:
            for _ in range(_TRIES):
                stored = await self._store.read(_key(name))
                if stored is None or await self._store.remove(_key(name), stored.version):
                    break
            else:
                raise _contended(name)
            await self._mark(name, gone=True)
            await self._replace(name, None)

    async def drain(self, name: str, until: datetime | None, caller: Caller) -> dict[str, Any]:
        """Ask it for nothing new; what runs goes on. Idempotent. Holds for all replicas and over restarts; for a site
        of the settings file until what the file says of draining changes."""
        return await self._draining(name, True, until, caller)

    async def resume(self, name: str, caller: Caller) -> dict[str, Any]:
        return await self._draining(name, False, None, caller)

    async def _draining(self, name: str, drained: bool, until: datetime | None, caller: Caller) -> dict[str, Any]:
        _operator(caller)
        async with self._changing:
            entry = self.entry(name)
            if entry.configured:
                said = Drain(drained, until.timestamp() if until else None, _of_file(self._file[name]))
                self._go_by(await self._change(lambda old: Roster(old.marks, {**old.drains, name: said})))
            else:
                entry.site = await self._save(name, lambda old: _drained(_known(old, name), drained, until))
            return self._view(entry)

    async def forget(self, name: str, caller: Caller) -> dict[str, Any]:
        """Drop what was learned of a site, and of the sites behind it: it begins anew. Idempotent."""
        _operator(caller)
        entry = self.entry(name)
        if self._memory is not None:
            await self._memory.forget(name, entry.profile.origins if entry.profile else ())
            _log.info("what was learned of a site is forgotten", site=name, by=caller.account)
        return self._view(entry)

    # ── the store ────────────────────────────────────────────────────────────────────────────────────────────

    async def _save(self, name: str, step: Callable[[Registration | None], Registration]) -> Registration:
        """Change a registration as the store has it, None where it has none, and mark that it has changed."""
        for _ in range(_TRIES):
            stored = await self._store.read(_key(name))
            old = Registration.model_validate(msgspec.json.decode(stored.record)) if stored else None
            site = step(old)
            record, line = msgspec.json.encode(site.to_wire()), Listing("site", name, "", self._clock.now(), name=name)
            if await self._store.write(_key(name), stored.version if stored else 0, record, listings=[line]):
                await self._mark(name)
                return site
        raise _contended(name)

    async def _mark(self, name: str, *, gone: bool = False) -> None:
        others, new = {name}, {} if gone else {name: uuid4().hex[:12]}
        await self._change(
            lambda old: Roster({n: m for n, m in old.marks.items() if n not in others} | new, old.drains)
        )

    async def _change(self, step: Callable[[Roster], Roster]) -> Roster:
        for _ in range(_TRIES):
            version, roster = await self._load()
            new = step(roster)
            if await self._store.write(ROSTER, version, msgspec.json.encode(new)):
                return new
        raise _contended("the roster of sites")

    async def _load(self) -> tuple[int, Roster]:
        stored = await self._store.read(ROSTER)
        return (stored.version, msgspec.json.decode(stored.record, type=Roster)) if stored else (0, Roster())

    def _go_by(self, roster: Roster) -> None:
        """Drain sites of the file as it says."""
        for name, site in self._file.items():
            said = roster.drains.get(name)
            if said is not None and said.file == _of_file(site):
                until = datetime.fromtimestamp(said.until, UTC) if said.until is not None else None
                site = _drained(site, said.drained, until)
            self._entries[name].site = site

    def _view(self, entry: Entry) -> dict[str, Any]:
        now = self._clock.now()
        shown = entry.site.to_wire()
        shown.pop("options", None)  # may name files and accounts
        return {
            **shown,
            "configured": entry.configured,
            "health": {
                "state": entry.health(now),
                "since": format_instant(round(entry.since)),
                **({"reason": entry.reason, "acts": entry.acts} if entry.reason else {}),
            },
            "seen": format_instant(round(entry.seen)) if entry.seen else None,
            "breaker": dict(entry.planner.breakers()),
            "profile": entry.profile.to_wire() if entry.profile else None,
            **(self._memory.shown(entry.name, entry.profile.origins if entry.profile else ()) if self._memory else {}),
        }


def _key(name: str) -> str:
    return f"site:{name}"


def _drained(site: Registration, drained: bool, until: datetime | None) -> Registration:
    return site.with_(drained=drained, drained_until=until)


def _known(site: Registration | None, name: str) -> Registration:
    if site is None:
        raise NotFound(f'no site "{name}" any more.', remedy="List them with GET /sites.")
    return site


def _but_draining(old: Registration, new: Registration) -> Registration:
    """The old one, drained or not as the new one is."""
    return _drained(old, new.drained, new.drained_until)


def _of_file(site: Registration) -> str:
    """What the settings file says of draining."""
    return f"{site.drained} {site.drained_until}"


def _contended(what: str) -> Conflict:
    return Conflict(f"{what} is being changed by others.", remedy="Try again.")


def _operator(caller: Caller) -> None:
    if not caller.may("operator"):
        raise NotAllowed("only an operator may change sites.", remedy="Ask whoever runs this broker.")
