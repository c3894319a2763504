"""The registry: which sites there are, how they fare, and who is asked. Imports ports, domain, and the guard.

Sites come from the settings and by PUT /sites/{name}; the latter are kept in the store, one aggregate each. A site
that was never reached is not asked: whether it is a broker of ours decides what may be sent to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import structlog

from broker.domain.deadline import Deadline
from broker.domain.identity import Caller
from broker.domain.outcome import Outcome, Reason, Skipped
from broker.domain.quantities import format_instant
from broker.domain.request import ExecutionRequest
from broker.domain.screen import unsuitable
from broker.domain.site import Health, Profile, Registration, union
from broker.errors import BadInput, Conflict, NotAllowed, NotFound, SettingsError, SiteError
from broker.ports import Clock, Listing, Planner, Query, Store

_log = structlog.get_logger(__name__)

PROBE_TIMEOUT = 5.0  # seconds; a site that takes longer to describe itself will not answer requests in time either
PROBE_SOON, PROBE_LATER = 1.0, 60.0  # seconds between looks: at a site that is down (growing), at one that is well


class Guarded(Planner, Protocol):
    """A planner behind the guard, which knows how its breakers stand: operation → closed, open, half-open."""

    def breakers(self) -> Mapping[str, str]: ...


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
    ) -> None:
        self._store, self._clock, self._build = store, clock, build
        self._id = broker_id
        self._entries = {site.name: self._entry(site, configured=True) for site in configured}

    def _entry(self, site: Registration, *, configured: bool) -> Entry:
        return Entry(site, self._build(site), configured, self._clock.now())

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Read the registrations that the store holds, and look at every site once, side by side. One that does not
        hold any more, since the settings file has changed, is left out, and logged."""
        for line in await self._store.listings(Query("site", limit=10_000)):
            stored = await self._store.read(_key(line.id))
            if stored and line.id not in self._entries:
                site = Registration.model_validate(msgspec.json.decode(stored.record))
                try:
                    self._entries[site.name] = self._entry(site, configured=False)
                except SettingsError as error:
                    _log.error("registered site left out", site=site.name, why=str(error))
        await asyncio.gather(*(self._probe(entry) for entry in self._entries.values()))

    async def run(self) -> None:
        """Look at the sites, over and over, until cancelled."""
        while True:
            now = self._clock.monotonic()
            due = [entry for entry in self._entries.values() if entry.next_probe <= now]
            await asyncio.gather(*(self._probe(entry) for entry in due))
            soonest = min((entry.next_probe for entry in self._entries.values()), default=now + PROBE_LATER)
            await self._clock.sleep(max(0.05, min(PROBE_LATER, soonest - self._clock.monotonic())))

    async def close(self) -> None:
        for entry in self._entries.values():
            await entry.planner.close()

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
            storages=tuple(s for e in known if e.profile for s in (*e.site.storages, *e.profile.storages)),
            countries=tuple(sorted({country for entry in known for country in _countries(entry)})),
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
        old = self._entries.get(name)
        if old and old.configured:
            raise Conflict(f"{name} stands in the settings file.", remedy="Change it there.")
        if site.name not in ("", name):
            raise BadInput(f'the address says "{name}".', element="name", remedy="Leave name out.")
        site = Registration.model_validate({**site.model_dump(), "name": name})
        try:
            entry = self._entry(site, configured=False)
        except SettingsError as error:
            raise BadInput(error.detail, element=error.key, remedy=error.remedy) from error
        await self._save(site)
        self._entries[name] = entry
        if old:
            await old.planner.close()
        await self._probe(entry)
        return self._view(entry)

    async def delete(self, name: str, caller: Caller) -> None:
        """Forget a site registered by `put`. Idempotent. Its running sessions are followed no more."""
        _operator(caller)
        entry = self._entries.get(name)
        if entry is None:
            return
        if entry.configured:
            raise Conflict(f"{name} stands in the settings file.", remedy="Remove it there.")
        stored = await self._store.read(_key(name))
        if stored:
            await self._store.remove(_key(name), stored.version)
        del self._entries[name]
        await entry.planner.close()

    async def drain(self, name: str, until: datetime | None, caller: Caller) -> dict[str, Any]:
        """Ask it for nothing new; what runs goes on. Idempotent. For a site of the settings file it holds until
        this process restarts: the file has the last word."""
        return await self._draining(name, True, until, caller)

    async def resume(self, name: str, caller: Caller) -> dict[str, Any]:
        return await self._draining(name, False, None, caller)

    async def _draining(self, name: str, drained: bool, until: datetime | None, caller: Caller) -> dict[str, Any]:
        _operator(caller)
        entry = self.entry(name)
        entry.site = entry.site.with_(drained=drained, drained_until=until)
        if not entry.configured:
            await self._save(entry.site)
        return self._view(entry)

    async def _save(self, site: Registration) -> None:
        key, record = _key(site.name), msgspec.json.encode(site.to_wire())
        line = Listing("site", site.name, "", self._clock.now(), name=site.name)
        for _ in range(10):
            stored = await self._store.read(key)
            if await self._store.write(key, stored.version if stored else 0, record, listings=[line]):
                return
        raise Conflict(f"{site.name} is being changed by others.", remedy="Try again.")

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
        }


def _key(name: str) -> str:
    return f"site:{name}"


def _operator(caller: Caller) -> None:
    if not caller.may("operator"):
        raise NotAllowed("only an operator may change sites.", remedy="Ask whoever runs this broker.")


def _countries(entry: Entry) -> tuple[str, ...]:
    return (entry.site.country,) if entry.site.country else (entry.profile.countries if entry.profile else ())
