"""Every seam of the broker in one file: Clock, Planner, Store, Calendar, Limits, Backend, ReplicaCatalogue.

Imports the domain alone. Whoever implements one of these keeps what its docstrings promise; the contract suites in
`broker/testing/` hold implementations to it. All wall-clock times are epoch seconds UTC, all durations seconds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from broker.domain.data import AbstractDataResource
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.located import Located
from broker.domain.outcome import Quote, Reason
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError


class Clock(Protocol):
    """The only source of time. Tests pass one that they move by hand (`broker.testing.clock`)."""

    def now(self) -> float:
        """Wall clock: epoch seconds, UTC. May jump."""

    def monotonic(self) -> float:
        """Never jumps; the scale of every Deadline, and the event loop's own (`loop.time()`)."""

    async def sleep(self, seconds: float) -> None:
        """Returns when `seconds` have passed on the monotonic scale."""


# ── planner ──────────────────────────────────────────────────────────────────────────────────────────────────


class Ask(msgspec.Struct, frozen=True):
    """A question to one site. `plain` is the request in strict 1.0 JSON, `extended` with our additions; both are
    serialised once for the whole fan-out. `root` is the uuid of the first request of the chain of brokers, `path`
    the ids of the brokers passed so far, ours included. `drain`: seconds after the deadline for which an answer that
    is late is still taken, beside the answer that went out without it. `batch`: what the user's requests of one batch
    share; a batch counts once against a cap on open sets."""

    request: ExecutionRequest
    plain: bytes
    extended: bytes
    set: UUID
    deadline: Deadline
    user: Owner
    root: UUID
    path: tuple[str, ...] = ()
    drain: float = 0.0
    batch: UUID | None = None

    @property
    def until(self) -> Deadline:
        """After this no answer is of any use. A site is told `deadline`; whoever waits for it may wait until here."""
        return self.deadline.less(-self.drain)


class Quotes(msgspec.Struct, frozen=True):
    """Offers, or none and the reasons why."""

    quotes: tuple[Quote, ...] = ()
    reasons: tuple[Reason, ...] = ()
    retry_after: float | None = None


class Order(msgspec.Struct, frozen=True):
    """One offer of ours at a site, as every later call names it. Planners hold no state of their own between calls:
    `handle` and `offer` are what they handed out in their Quote, and after a restart all they get."""

    session: UUID
    set: UUID
    handle: str
    offer: bytes
    user: Owner
    name: str = ""


class Sighting(msgspec.Struct, frozen=True):
    """What a site says of a session now. `phase` is a session phase of the standard, verbatim: it may be one nobody
    knows. `body`: the whole session in JSON, where the site sent one. `native` is the platform's own job name.
    `cost` and `began`/`ended` are actuals, where the site knows them."""

    phase: str
    body: bytes | None = None
    messages: tuple[str, ...] = ()
    native: str | None = None
    began: float | None = None
    ended: float | None = None
    cost: float | None = None
    currency: str | None = None
    next_look: float | None = None  # epoch seconds: nothing is expected to change before


class Result(msgspec.Struct, frozen=True):
    """One file that a run left in ./results. `name` is a relative POSIX path; `checksum` is `sha256:` and hex. `url`:
    where the site has written it to as well, because the request wants it there."""

    name: str
    bytes: int
    checksum: str | None = None
    kept_until: float | None = None
    url: str | None = None


class Logs(msgspec.Struct, frozen=True):
    """Each at most 1 MiB, the end kept where more was written. None: the site has no such thing."""

    stdout: str | None = None
    stderr: str | None = None


class Held(msgspec.Struct, frozen=True):
    """What a site has for us now: an offer that it holds open (phase OFFERED), or a session under way. `handle` as in
    its Quote. `session`, `set`: our uuids of it, where the site was told them and shows them. `user`: for whom it is.
    `since`: epoch seconds, when it was made; None: not known."""

    handle: str
    phase: str
    session: UUID | None = None
    set: UUID | None = None
    user: Owner | None = None
    since: float | None = None


class Planner(Protocol):
    """The one way to a site, whatever it speaks.

    Every call ends by its deadline. Every failure is a SiteError whose `proof` says whether the site surely did
    not act. Cancellation of the caller propagates. No method is retried by its caller blindly.
    """

    async def describe(self, deadline: Deadline) -> Profile:
        """What the site can do; changes nothing there."""

    async def quote(self, ask: Ask) -> Quotes:
        """Ask for offers by `ask.deadline`, and go on waiting for a late answer until `ask.until`. No offers and no
        reasons is a NO without words."""

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        """Take the offer. Idempotent by `order.session` where the profile says `repeatable`.

        Return: what the site shows now; a phase below ACCEPTED is not an acceptance, a terminal one before it a
        refusal. SiteError with `proof`: surely not taken.
        """

    async def release(self, orders: Sequence[Order], deadline: Deadline) -> None:
        """Give offers of one set back. Idempotent; an offer the site has expired or forgotten counts as released.
        On return all are; on SiteError some may be, and the caller repeats all."""

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        """The present state of each, by session uuid; changes nothing. One session's trouble is its own entry
        (SiteForgot: the site knows it no more); SiteError is raised when the site could not be asked at all."""

    async def update(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        """Ask for a phase: REJECTED (of an offer) or CANCELLED (of an accepted session, with all its processes).
        Idempotent. The returned phase is the site's own, changed or not."""

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        """All that the site has for us, also what we know nothing of; nothing that is over. Changes nothing.

        What it names can be given back by `release`, and ended by `update`, with an Order that has no offer: its
        handle, and whatever else is told here. Raises SiteRefused where a site cannot say what it has."""

    async def logs(self, order: Order, deadline: Deadline) -> Logs: ...

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]: ...

    def fetch(self, order: Order, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        """The bytes of one result, in pieces. Raises SiteForgot for a name that `results` does not list."""

    async def close(self) -> None:
        """Give back connections and files; running jobs go on."""


# ── store ────────────────────────────────────────────────────────────────────────────────────────────────────


class Stored(msgspec.Struct, frozen=True):
    version: int  # 1 after the first write
    record: bytes


class Listing(msgspec.Struct, frozen=True):
    """A line of a list: derived from an aggregate, never the truth. `kind` is offerset, session or site."""

    kind: str
    id: str
    owner: str
    created: float
    phase: str = ""
    name: str = ""
    site: str = ""


class Query(msgspec.Struct, frozen=True):
    """Newest first. `after` is the (created, id) of the last line of the page before; `since`: created then or
    later."""

    kind: str
    owner: str | None = None
    phases: tuple[str, ...] = ()
    site: str | None = None
    after: tuple[float, str] | None = None
    limit: int = 100
    name: str | None = None
    since: float | None = None


class Lease(msgspec.Struct, frozen=True):
    """A timer that is ours until the lease ends by the store's clock. `token` fences whoever held it before."""

    aggregate: str
    key: str
    due: float
    token: str


class Timer(msgspec.Struct, frozen=True):
    """A timer as it stands. `leased`: a worker has it now, by the store's clock."""

    due: float
    leased: bool = False


class Whole(msgspec.Struct, frozen=True):
    """One aggregate with all that hangs on it, at one moment. `version` 0 and an empty record: there is no record."""

    version: int
    record: bytes
    timers: Mapping[str, Timer]
    lines: tuple[Listing, ...]


class Store(Protocol):
    """Durable aggregates with their timers, and lists derived from them.

    An aggregate is a key, a record (small, what was decided), a body (large, with an age, may be pruned) and timers.
    One `write` is atomic and durable (fsync) before it returns; nothing is atomic across two aggregates.
    A write whose caller is cancelled happens wholly or not at all. All methods raise Unavailable when the store
    cannot be reached or is full; then nothing was acknowledged. A change may be made all the same, when the answer to
    it was lost; `write` and `remove` then say False or raise, and whoever needs to know reads.
    """

    async def now(self) -> float:
        """The store's own clock, which judges leases and ages: epoch seconds UTC."""

    async def read(self, aggregate: str) -> Stored | None:
        """The last committed record; None: never written, or removed."""

    async def body(self, aggregate: str) -> bytes | None:
        """The body last written; None: none, or pruned."""

    async def write(
        self,
        aggregate: str,
        version: int,
        record: bytes,
        *,
        body: bytes | None = None,
        timers: Mapping[str, float | None] | None = None,
        listings: Sequence[Listing] = (),
        cut: Sequence[tuple[str, str]] = (),
    ) -> bool:
        """Compare and set. True: the stored version was `version` (0: there was none) and is now `version + 1`.
        False: it was not, and nothing changed. `body` None leaves the old body. `timers`: key → due (sets or moves
        it, and voids any lease on it) or None (removes it). `listings` replace lines of the same kind and id; `cut`
        removes lines of this aggregate by kind and id, unknown ones are ignored.

        Raises Unconfirmed where the change is made, but not on as many servers as the settings want."""

    async def remove(self, aggregate: str, version: int) -> bool:
        """Compare and remove record, body, timers and listings of the aggregate. False: version differed."""

    async def claim(self, limit: int, lease: float) -> list[Lease]:
        """At most `limit` timers that are due by the store's clock and not under another's lease, each leased for
        `lease` seconds. Two callers never hold the same timer at once."""

    async def done(self, lease: Lease) -> bool:
        """Remove the timer. False: the lease was lost (it ended and another claimed it, or the timer was set anew);
        nothing changed."""

    async def postpone(self, lease: Lease, due: float) -> bool:
        """Move the timer to `due` and end the lease. False: the lease was lost; nothing changed."""

    async def renew(self, lease: Lease, seconds: float) -> bool:
        """Let the lease last `seconds` from now. A worker renews while it works, so that leases can be short, and a
        crash costs no more than one. False: the lease was lost; nothing changed."""

    async def next_due(self) -> float | None:
        """When the earliest unleased timer, or the earliest lease's end, comes; None: there is none."""

    async def listings(self, query: Query) -> list[Listing]:
        """One page. A line written just now may be missing in a store that derives lists late."""

    async def counts(self) -> Mapping[tuple[str, str, str], int]:
        """(kind, site, phase) → number of lines."""

    async def keys(self, cursor: str = "", limit: int = 100) -> tuple[list[str], str]:
        """A piece of the keys of all aggregates, those of which only timers or lines are left included, and the cursor
        of the next piece. "" begins, and comes back with the last piece. What was there from the first call to the
        last is named at least once, perhaps twice; `limit` is a wish. For whoever looks after the store."""

    async def whole(self, aggregate: str) -> Whole | None:
        """None: nothing is left of it. What is left without a record is cleared by writing one, at version 0, and
        removing it."""

    async def prune_bodies(self, before: float) -> int:
        """Drop bodies last written before that instant; records stay. Returns how many."""

    async def follow(self, watched: Callable[[], Collection[str]], ring: Callable[[str], None]) -> None:
        """Call `ring` for each aggregate among those `watched` that another process has written, soon after it was;
        for all of them when some news may have been missed. Until cancelled; returns at once in a store that no other
        process writes to."""

    async def ping(self) -> None:
        """Raises Unavailable when a write would fail."""

    async def close(self) -> None: ...


# ── calendar ─────────────────────────────────────────────────────────────────────────────────────────────────


class Booking(msgspec.Struct, frozen=True):
    """Room of one site from `start` to `end`. `amounts`: what → how much (cores, memory in GiB, storage in GiB, an
    extra's type). An open offer is `held` until `until`; after that it charges nothing. An accepted one has no
    `until`. Offers of one `set` exclude each other: together they charge their maximum at each instant."""

    id: str
    set: str
    start: float
    end: float
    amounts: Mapping[str, float]
    until: float | None = None


class Book(msgspec.Struct, frozen=True):
    version: int
    bookings: tuple[Booking, ...]


class Calendar(Protocol):
    """The bookings of sites that we plan for. The rules of what fits are the planner's (adapters/planning); the
    calendar keeps them, atomically per site and durably."""

    async def read(self, site: str, now: float) -> Book:
        """All bookings that end after `now` and are accepted or held beyond it."""

    async def write(self, site: str, version: int, put: Sequence[Booking], remove: Sequence[str] = ()) -> bool:
        """Compare and set, durable on return. `put` adds or replaces by id, `remove` ignores unknown ids. False: the
        book is no longer at `version`, nothing changed. Bookings long ended may be dropped at any write."""


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────


class Limits(Protocol):
    """Rates and caps that hold for the whole fleet of replicas."""

    async def take(self, key: str, rate: float, burst: int) -> float:
        """One token of a bucket of `burst` that refills `rate` a second (GCRA). 0.0: taken; else the seconds until
        one is there, nothing taken."""

    async def enter(self, key: str, member: str, ceiling: int, until: float) -> bool:
        """Add `member` to a set that holds at most `ceiling` live members. True: it is in (again: `until` is moved
        on, never back); False: full. A member leaves by itself at `until` (epoch seconds, the store's clock)."""

    async def leave(self, key: str, member: str) -> None:
        """Idempotent."""

    async def members(self, key: str) -> frozenset[str]:
        """The live ones."""


# ── backend ──────────────────────────────────────────────────────────────────────────────────────────────────


class Backend(Store, Protocol):
    """What a broker keeps its state in: a store, and the calendar and the limits that live in the same place and end
    with its `close`. `shared`: other replicas may be working on it."""

    @property
    def calendar(self) -> Calendar: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def shared(self) -> bool: ...


# ── replica catalogues ───────────────────────────────────────────────────────────────────────────────────────


class ReplicaCatalogue(Protocol):
    """Says where data lies and how large it is, beyond what a request states. Its answers are kept and shared by all
    who ask (services/locating); it keeps nothing itself but connections and log-ins.

    What it answers is another's word: whoever implements this bounds its size, and takes nothing for a number, a name
    or an address that is none. A size that is not told is None, never zero.
    """

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        """What the data resource is called here, such as `survey:cube` or an address; None: it has nothing to say of
        one like this. `urls`: where it lies, as far as that is known. Pure; never raises. Equal names, equal answers:
        the name is all that `locate` gets."""

    async def locate(self, name: str, deadline: Deadline) -> Located:
        """What it says of it, by the deadline. SiteForgot: it knows no such thing; other SiteErrors: it could not be
        asked. Their text is shown to the person whose request it is. Cancellation propagates."""

    async def close(self) -> None: ...
