"""Reading sessions, and fetching what they left: logs and results. Imports ports and the domain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import msgspec

from broker.domain import offerset, session
from broker.domain.deadline import Deadline
from broker.domain.identity import Caller
from broker.domain.offerset import SessionRecord, SetRecord
from broker.domain.ranking import Ranked
from broker.domain.setbody import Kept, SetBody
from broker.errors import Conflict, NotFound, SiteError, SiteForgot, Unavailable
from broker.ports import Clock, Listing, Logs, Order, Planner, Query, Result, Store
from broker.services.offers import Offers
from broker.services.orders import order
from broker.services.records import Records
from broker.services.rights import Readers, must_read
from broker.services.sites import Sites

DEFAULT_PHASES = tuple(str(phase) for phase in session.SessionPhase if phase not in ("OFFERED", "REJECTED", "EXPIRED"))
_SCAN = 1000  # lines read at a time by whoever looks for an account's own
FETCH_LIMIT = 3600.0  # seconds for one result file


class SessionState(msgspec.Struct, frozen=True):
    """A session as it stands at `now` (epoch seconds). `kept` and `ranked` are None once the offers were pruned.
    `refused`: the outcome of a /direct that nobody took."""

    record: SetRecord
    item: SessionRecord
    now: float
    kept: Kept | None = None
    ranked: Ranked | None = None
    body: SetBody | None = None
    refused: bool = False

    @property
    def uuid(self) -> UUID:
        return self.item.uuid


class Sessions:
    def __init__(
        self, *, records: Records, offers: Offers, sites: Sites, store: Store, clock: Clock, readers: Readers
    ) -> None:
        self._records, self._offers, self._sites = records, offers, sites
        self._store, self._clock, self._readers = store, clock, readers

    async def get(self, uuid: UUID, caller: Caller) -> SessionState:
        """Raises NotFound, also for what the caller may not read."""
        now = self._clock.now()
        record = await self._records.load(uuid)
        must_read(record, caller, self._readers)
        return await self.state(record, uuid, now=now)

    async def many(self, uuids: Sequence[UUID], caller: Caller) -> tuple[list[SessionState], list[UUID]]:
        """The readable ones, and the ones that are not known here (or not to this caller)."""
        states: list[SessionState] = []
        unknown: list[UUID] = []
        for uuid in uuids:
            try:
                states.append(await self.get(uuid, caller))
            except NotFound:
                unknown.append(uuid)
        return states, unknown

    async def of_account(
        self, caller: Caller, *, after: tuple[float, str] | None, limit: int, phases: tuple[str, ...]
    ) -> list[Listing]:
        """What all users of the caller's account have, newest first: a broker above looks after all that it asked for,
        whoever it was for. `owner` of each line is the user's key. Reads on until the page is full.

        An account that speaks for nobody else has its own lines alone, so that these are looked up, not looked for."""
        owner = None if caller.may("broker") else caller.owner.by(caller.account)
        found: list[Listing] = []
        while len(found) < limit:
            page = await self._store.listings(Query("session", owner, phases, None, after, _SCAN))
            for line in page:
                whose = await self._user(line, caller.account)
                if whose is not None and len(found) < limit:
                    found.append(msgspec.structs.replace(line, owner=whose))
            if len(page) < _SCAN:
                break
            after = page[-1].created, page[-1].id
        return found

    async def _user(self, line: Listing, account: str) -> str | None:
        """The key of the user whose session it is; None: of another account. A line's own text does not tell surely:
        names may hold what stands between them there."""
        if not line.owner.endswith(f"|{account}"):
            return None
        try:
            record = await self._records.load(UUID(line.id))
        except NotFound:
            return None
        return record.owner.key if record.account == account else None

    async def list(
        self,
        caller: Caller,
        *,
        after: tuple[float, str] | None = None,
        limit: int = 100,
        phases: tuple[str, ...] = DEFAULT_PHASES,
        everyone: bool = False,
        site: str | None = None,
        name: str | None = None,
        since: float | None = None,
    ) -> list[Listing]:
        """The caller's own, newest first; `everyone`: all, for operators. `since`: epoch seconds. To a person an offer
        is no job: by default OFFERED, REJECTED and EXPIRED are left out."""
        owner = None if everyone and caller.may("operator") else caller.owner.by(caller.account)
        return await self._store.listings(Query("session", owner, phases, site, after, limit, name, since))

    async def state(
        self, record: SetRecord, uuid: UUID, *, refused: bool = False, now: float | None = None
    ) -> SessionState:
        """`uuid` may be that of the record's set only if it names a session; raises NotFound. `now`: an instant before
        the record was read, so that nothing is shown as EXPIRED that has become something else meanwhile; None: this
        one, for a record just written."""
        now = self._clock.now() if now is None else now
        record = offerset.shown(record, now)  # readers need not wait for the timer
        item = record.session(uuid)
        body = await self._offers.body(record)
        kept = body.by_session().get(uuid) if body else None
        ranked = next((r for r in body.ranking() if r.session == str(uuid)), None) if body and kept else None
        return SessionState(record, item, now, kept, ranked, body, refused)

    # ── what a run left ──────────────────────────────────────────────────────────────────────────────────────

    async def logs(self, uuid: UUID, caller: Caller) -> Logs:
        """Raises Conflict for an offer, Unavailable when the site cannot be asked."""
        planner, order_, deadline = await self._running(uuid, caller)
        try:
            return await planner.logs(order_, deadline)
        except SiteError as error:
            raise _unavailable(error) from error

    async def results(self, uuid: UUID, caller: Caller) -> tuple[Result, ...]:
        """Empty where the run left nothing, or its site hands nothing back."""
        planner, order_, deadline = await self._running(uuid, caller)
        try:
            return await planner.results(order_, deadline)
        except SiteForgot:
            return ()
        except SiteError as error:
            raise _unavailable(error) from error

    async def fetch(self, uuid: UUID, name: str, caller: Caller) -> AsyncIterator[bytes]:
        """The bytes of one result. What can be wrong is raised before the first piece: NotFound, Unavailable."""
        planner, order_, _ = await self._running(uuid, caller)
        pieces = planner.fetch(order_, name, Deadline.after(FETCH_LIMIT, self._clock.monotonic()))
        try:
            first = await anext(pieces, b"")
        except SiteForgot as error:
            raise NotFound(f'no result "{name}".', remedy=f"List them: GET /sessions/{uuid}/results.") from error
        except SiteError as error:
            raise _unavailable(error) from error
        return _chain(first, pieces)

    async def _running(self, uuid: UUID, caller: Caller) -> tuple[Planner, Order, Deadline]:
        record = await self._records.load(uuid)
        must_read(record, caller, self._readers)
        item = record.session(uuid)
        if record.taken != uuid:
            raise Conflict(f"the session is {item.phase}: it never ran.", remedy="Accept it first.")
        try:
            entry = self._sites.entry(item.site)
        except NotFound as error:
            raise Unavailable(f"{item.site} is registered no more.", remedy="Ask the operator.") from error
        return entry.planner, order(record, item), Deadline.after(entry.site.timeout, self._clock.monotonic())


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def _unavailable(error: SiteError) -> Unavailable:
    return Unavailable(
        f"the site cannot be asked: {error.detail}", remedy="Try again later; the session is unaffected."
    )
