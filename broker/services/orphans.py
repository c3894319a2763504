"""What sites have for us that nobody here follows any more. Imports ports and the domain.

The sites are asked first and the records read after that: whatever is accepted stood in a record before its site had
it, so what no record knows then is an orphan. An offer is saved only after it was made, so young ones are passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from uuid import UUID, uuid4

from broker.domain import offerset
from broker.domain import session as phases
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner, aggregate
from broker.domain.offerset import SessionRecord, SetRecord
from broker.errors import BrokerError, SiteError
from broker.ports import Clock, Held, Order, Store
from broker.services.findings import Finding, Level
from broker.services.orders import order
from broker.services.sites import Entry

YOUNG = 180.0  # seconds an offer may exist before its set is saved, or a change be known here before it is there
_SOON_OVER = 30.0  # seconds: an offer with less left is not given back, but left to expire
_ENDED = 180.0  # seconds after its end that a site may still show it; one that does so longer does not let it expire


class Orphan:
    """One of them, and how it could be ended: an offer is given back, a job is cancelled."""

    def __init__(self, entry: Entry, held: Held, finding: Finding, known: Order | None = None) -> None:
        self.entry, self.held, self.finding, self._known = entry, held, finding, known

    @property
    def runs(self) -> bool:
        return self.held.phase != "OFFERED"

    async def end(self, deadline: Deadline) -> None:
        """Idempotent. Raises SiteError."""
        held = self.held
        user = held.user or Owner("", "")
        order_ = self._known or Order(held.session or uuid4(), held.set or uuid4(), held.handle, b"", user)
        if self.runs:
            await self.entry.planner.update(order_, "CANCELLED", deadline)
        else:
            await self.entry.planner.release([order_], deadline)


class Orphans:
    """`ask` first; then `compare` with each record that there is; what is `left` then, no record knows. `unasked`:
    site → why it could not be asked."""

    def __init__(self, entries: Iterable[Entry], store: Store, clock: Clock) -> None:
        self._entries, self._store, self._clock = {entry.name: entry for entry in entries}, store, clock
        self.unasked: dict[str, str] = {}
        self._by_handle: dict[tuple[str, str], Held] = {}
        self._by_session: dict[tuple[str, UUID], Held] = {}

    async def ask(self) -> None:
        await asyncio.gather(*(self._ask(entry) for entry in self._entries.values()))

    async def _ask(self, entry: Entry) -> None:
        deadline = Deadline.after(entry.site.timeout, self._clock.monotonic())
        try:
            found = await entry.planner.held(deadline)
        except SiteError as error:
            self.unasked[entry.name] = error.detail
            return
        for held in found:
            self._by_handle[entry.name, held.handle.lower()] = held
            if held.session is not None:
                self._by_session[entry.name, held.session] = held

    def compare(self, record: SetRecord, now: float) -> Iterator[Orphan]:
        """Those of which the record says that they are over, or never began."""
        for item in record.sessions:
            for held in self._of(item):
                entry = self._entries[item.site]
                if (level_and_text := _wrong(record, item, held, now)) is not None:
                    level, text = level_and_text
                    finding = Finding(level, "orphan", str(item.uuid), f"{item.site} {text}", _mends(held))
                    yield Orphan(entry, held, finding, order(record, item))

    def _of(self, item: SessionRecord) -> list[Held]:
        named = self._by_handle.pop((item.site, item.handle.lower()), None)
        job = self._by_session.pop((item.site, item.uuid), None)
        if job is not None:
            self._by_handle.pop((item.site, job.handle.lower()), None)
        return [held for held in (named, job) if held is not None]

    async def left(self, now: float) -> list[Orphan]:
        """Those that no record knows."""
        return [
            self._unknown(site, held)
            for (site, _), held in sorted(self._by_handle.items())
            if not _may_be_saved_yet(held, now) and not await self._saved_meanwhile(site, held)
        ]

    async def _saved_meanwhile(self, site: str, held: Held) -> bool:
        """Whether its record, read once more, knows it. That there is one says nothing: what a site offered in an
        answer that was lost belongs to a set, and stands in none."""
        uuid = held.session or held.set
        stored = await self._store.read(aggregate(uuid)) if uuid is not None else None
        if stored is None:
            return False
        try:
            record = offerset.decode(stored.record)
        except BrokerError:
            return True  # nobody can say
        names = (held.session, held.handle.lower())
        return any(
            item.site == site and (item.uuid in names or item.handle.lower() in names) for item in record.sessions
        )

    def _unknown(self, site: str, held: Held) -> Orphan:
        what = "an offer open" if held.phase == "OFFERED" else f"a session {held.phase or 'in an unknown phase'}"
        whose = f" for {held.user}" if held.user else ""
        text = f"{site} has {what}{whose} of which nothing is known here ({held.handle})."
        level: Level = "WARN" if held.phase == "OFFERED" else "ERROR"
        where = str(held.session) if held.session else site
        return Orphan(self._entries[site], held, Finding(level, "orphan", where, text, _mends(held)))


def _mends(held: Held) -> str:
    return "it is given back" if held.phase == "OFFERED" else "it is cancelled, with --cancel-orphans"


def _may_be_saved_yet(held: Held, now: float) -> bool:
    """Where it is not known how old an offer is, it may be. It expires by itself, or is found here again."""
    return held.phase == "OFFERED" and (held.since is None or now - held.since < YOUNG)


def _wrong(record: SetRecord, item: SessionRecord, held: Held, now: float) -> tuple[Level, str] | None:
    """None: it is as the record says, or may be on its way there."""
    if record.claim and record.claim.session == item.uuid and record.claim.state != "taken":
        return None  # in doubt: whoever resolves it looks there too
    if now - item.modified < YOUNG:
        return None
    if held.phase == "OFFERED":
        left = item.expires - now if item.expires is not None else None
        expires = left is not None and -_ENDED < left <= _SOON_OVER
        return ("WARN", "keeps the offer open that was given back.") if item.released and not expires else None
    if item.phase in phases.TERMINAL:
        return "ERROR", f"says {held.phase or 'something'} of it, and the record {item.phase}."
    if record.taken != item.uuid:
        return "ERROR", f"says {held.phase or 'something'} of it, and nobody has accepted it."
    return None
