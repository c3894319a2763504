"""The request's aggregate: its record, and every step that may change it, as pure functions. Imports the domain.

A record is what was decided: outcomes, the index of offers, the claim, phases. It is small, and durable before
anything is acknowledged. What the offers say in full is the set's body (`SetBody`), which may be pruned by age.

    open ──claim──▶ forwarding ──taken──▶ taken
      ▲                 │  └────doubt───▶ doubt ──fence──▶ fencing
      └─────refused─────┴───────────────────┴────────────────┘

Every function takes a record and returns a new one; none knows the time but by argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.domain import session as phases
from broker.domain.identity import Owner
from broker.domain.outcome import Declined, Failed, Offered, Outcome, Reason, Skipped, TimedOut
from broker.errors import Conflict, NotFound, Unavailable

SCHEMA = 1
ON_ITS_WAY = 5.0  # seconds that a write may take at most, a failover of its store included
NOTES_KEPT = 50  # messages a session keeps: the first and the last ones
Looks = tuple[float, float]  # the last look that did not show it yet, and the first that did; epoch seconds


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message before it is filled in (MessageItem.fill)."""

    time: float
    kind: str
    template: str
    values: Mapping[str, str] = {}
    level: str = "INFO"


class SessionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One offer, from its birth to its terminal phase. `offer` is the site's own JSON, copied here at the claim;
    `body` the site's latest. `released`: the site was told that we do not want it, or need not be. `lost_since`: when
    a site that should know it said first that it does not. `requoted`: offered when the site was asked anew.
    `assumed`: the site states no expiry, and `expires` is ours alone."""

    uuid: UUID
    site: str
    handle: str
    origin: str
    phase: str = "OFFERED"
    expires: float | None = None
    excluded: str = ""
    released: bool = False
    offer: bytes = b""
    body: bytes | None = None
    native: str = ""
    notes: tuple[Note, ...] = ()
    seen: float | None = None
    modified: float = 0.0
    lost_since: float | None = None
    requoted: bool = False
    assumed: bool = False


class Owed(msgspec.Struct, frozen=True, omit_defaults=True):
    """After a proved refusal of `session` somebody is to go on with another offer. `at`: when whoever does has surely
    ended, so that others take it up. `instead_of`: the session that was asked for in the first place, where `session`
    was tried instead."""

    session: UUID
    at: float
    instead_of: UUID | None = None


class Claim(msgspec.Struct, frozen=True, omit_defaults=True):
    """The one offer that is being, or was, accepted. `state`: forwarding, doubt, fencing, taken. `until`: when whoever
    sends it has surely ended, so that its silence means its death. `tries` counts the answers that left it in
    doubt; `followed`: the session stands on its site's watch list. `token`: drawn by whoever claimed, and knows it by
    that. `instead_of`: the session in whose place this one is accepted. `owing`: what was owed when it was made, and
    is owed again if it is never sent."""

    session: UUID
    at: float
    state: str = "forwarding"
    tries: int = 0
    followed: bool = False
    reason: str = ""
    until: float = 0.0
    token: str = ""
    instead_of: UUID | None = None
    owing: Owed | None = None


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was chosen among what, with what was promised and what came. Outlives the bodies.

    Times epoch seconds, durations seconds; `cost` and `actual_cost` in the site's `currency`, `all_in`, `cheapest` and
    `mean` in the caller's, `ranked_in`. `eligible`: how many offers passed every limit; `cheapest`, `mean` of their
    expected pay; None: not known.

    `kind` of work, `prepares`, `staging` and `run`: what was promised besides, before experience corrected it; an
    empty `kind`: nothing is to be learned of it. `alone`: its site speaks for nobody else. `preparing`, `running`,
    `over`: between which looks it began that. `learned`: what came has been counted."""

    session: UUID
    site: str
    origin: str
    at: float
    rank: int | None = None
    eligible: int = 0
    currency: str = ""
    cost: float | None = None
    start: float | None = None
    duration: float | None = None
    all_in: float | None = None
    bytes_moved: float | None = None
    cheapest: float | None = None
    mean: float | None = None
    ranked_in: str = ""
    actual_cost: float | None = None
    actual_start: float | None = None
    actual_end: float | None = None
    kind: str = ""
    alone: bool = False
    prepares: bool = False
    staging: float | None = None
    run: float | None = None
    preparing: Looks | None = None
    running: Looks | None = None
    over: Looks | None = None
    learned: bool = False


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One site's outcome, as it is kept."""

    outcome: str
    latency: float = 0.0
    offers: int = 0
    reasons: tuple[str, ...] = ()
    retry_after: float | None = None
    acts: str = ""


class SetRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    uuid: UUID
    owner: Owner
    account: str
    name: str
    created: float
    sites: tuple[str, ...]  # all that were asked; the ones without a line are pending
    outcomes: Mapping[str, Line] = {}
    sessions: tuple[SessionRecord, ...] = ()
    claim: Claim | None = None
    decision: Decision | None = None
    closes: float = 0.0  # when waiting for pending sites ends
    closed: bool = False
    failover: bool = False
    requote: float | None = None  # rise of the price, as a fraction, at which its site's next offer is accepted
    owed: Owed | None = None
    direct: bool = False
    root: UUID | None = None
    path: tuple[str, ...] = ()
    schema: int = 1  # the first one's records do not say it

    @property
    def pending(self) -> tuple[str, ...]:
        """Sites whose offers may still join: silent so far, and the set open."""
        if self.closed:
            return ()
        return tuple(s for s in self.sites if s not in self.outcomes or self.outcomes[s].outcome == "TimedOut")

    @property
    def taken(self) -> UUID | None:
        return self.claim.session if self.claim and self.claim.state == "taken" else None

    @property
    def given_up(self) -> UUID | None:
        """The session FAILED that stands for a direct request which nobody took."""
        return next((item.uuid for item in self.sessions if item.phase == "FAILED" and not item.handle), None)

    def session(self, uuid: UUID) -> SessionRecord:
        """Raises NotFound."""
        found = next((item for item in self.sessions if item.uuid == uuid), None)
        if found is None:
            raise NotFound(f"no session {uuid} here.", remedy="List yours with GET /sessions.")
        return found

    def open_sessions(self, now: float) -> list[SessionRecord]:
        """Those that could be claimed at `now` if no other is."""
        return [item for item in self.sessions if acceptable(item, now)]

    def unreleased(self) -> list[SessionRecord]:
        """Offers that their sites may still hold for us though nobody will take them."""
        return [item for item in self.sessions if item.phase in phases.REFUSED and not item.released]


def acceptable(item: SessionRecord, now: float) -> bool:
    return item.phase == "OFFERED" and not item.excluded and (item.expires is None or now < item.expires)


class _Schema(msgspec.Struct):
    schema: int = 1


def encode(record: SetRecord) -> bytes:
    if record.schema != SCHEMA:
        record = replace(record, schema=SCHEMA)
    return msgspec.msgpack.encode(record)


def decode(data: bytes) -> SetRecord:
    """Raises Unavailable for a record of a newer broker, which is never guessed at; and for one that is none."""
    try:
        record = msgspec.msgpack.decode(data, type=SetRecord)
    except msgspec.MsgspecError:
        _refuse_newer(_schema(data))
        raise Unavailable("the record is damaged.", remedy="See what broker doctor says of it.") from None
    _refuse_newer(record.schema)
    return record


def _schema(data: bytes) -> int:
    try:
        return msgspec.msgpack.decode(data, type=_Schema).schema
    except msgspec.MsgspecError:
        return 0


def _refuse_newer(schema: int) -> None:
    if schema > SCHEMA:
        raise Unavailable(
            f"the record was written by a newer broker (its schema is {schema}, this one knows {SCHEMA}).",
            remedy="Run the newer broker.",
        )


# ── timers ───────────────────────────────────────────────────────────────────────────────────────────────────


def timers(record: SetRecord) -> dict[str, float]:
    """What is to be done, and when: derived from the record alone, so that no step can forget to set its timer.

    A worker postpones its own lease where something is to be tried again; that does not show here."""
    due: dict[str, float] = {}
    if not record.closed:
        due["close"] = record.closes
    claimed = record.claim.session if record.claim else None
    expiries = [s.expires for s in record.sessions if s.phase == "OFFERED" and s.uuid != claimed and s.expires]
    if expiries:
        due["expire"] = min(expiries)
    if record.unreleased():
        due["release"] = 0.0
    if record.claim and record.claim.state != "taken":
        due["claim"] = record.claim.until if record.claim.state == "forwarding" else record.claim.at
    if record.claim and record.claim.state == "taken" and not record.claim.followed:
        due["follow"] = 0.0
    if record.owed:
        due["owed"] = record.owed.at
    if lesson(record) is not None:
        due["learn"] = 0.0
    return due


def lesson(record: SetRecord) -> Decision | None:
    """The decision whose session has ended, where nobody has learned of it yet."""
    decision = record.decision
    if decision is None or not decision.kind or decision.learned or record.taken != decision.session:
        return None
    return decision if record.session(decision.session).phase in phases.TERMINAL else None


# ── gathering ────────────────────────────────────────────────────────────────────────────────────────────────


def line(outcome: Outcome, excluded: Iterable[str] = ()) -> Line:
    """`excluded`: why offers of this site were left out."""
    match outcome:
        case Offered(quotes=quotes, latency=latency):
            return Line("Offered", latency, len(quotes), tuple(excluded))
        case Declined(reasons=reasons, latency=latency, retry_after=retry_after):
            return Line("Declined", latency, 0, texts(reasons), retry_after)
        case TimedOut(reason=reason, latency=latency):
            return Line("TimedOut", latency, 0, (str(reason),))
        case Failed(reason=reason, latency=latency, acts=acts):
            return Line("Failed", latency, 0, (str(reason),), None, acts)
        case Skipped(reason=reason, latency=latency, retry_after=retry_after, acts=acts):
            return Line("Skipped", latency, 0, (str(reason),), retry_after, acts)


def texts(reasons: Iterable[Reason]) -> tuple[str, ...]:
    return tuple(str(reason) for reason in reasons)


def join(record: SetRecord, answers: Mapping[str, tuple[Line, Sequence[SessionRecord]]], now: float) -> SetRecord:
    """Add what sites answered. To a set that is closed or claimed nothing can be added: such offers are kept as
    REJECTED, to be released; excluded ones likewise. A site whose outcome is known already changes nothing."""
    fresh = {site: answer for site, answer in answers.items() if _unanswered(record, site)}
    if not fresh:
        return record if record.closed or record.pending else replace(record, closed=True)  # nobody was there to ask
    late = record.closed or record.claim is not None
    sessions = tuple(
        replace(item, phase="REJECTED", modified=now) if late or item.excluded else item
        for _, items in fresh.values()
        for item in items
    )
    lines = {site: entry for site, (entry, _) in fresh.items()}
    joined = replace(record, outcomes={**record.outcomes, **lines}, sessions=record.sessions + sessions)
    return joined if joined.pending else replace(joined, closed=True)


def _unanswered(record: SetRecord, site: str) -> bool:
    return site not in record.outcomes or record.outcomes[site].outcome == "TimedOut"


def close(record: SetRecord, now: float, silent: str = "no answer, and none will be waited for") -> SetRecord:
    """Nothing joins any more. Sites still pending get the outcome TimedOut. Idempotent."""
    missing = {s: Line("TimedOut", 0.0, 0, (silent,)) for s in record.sites if s not in record.outcomes}
    return replace(record, closed=True, outcomes={**record.outcomes, **missing})


def shown(record: SetRecord, now: float) -> SetRecord:
    """What a reader is shown, who need not wait for the timer to write what has expired: but for a few seconds, in
    which a claim that was made in time may still be on its way into the store."""
    return expire(record, now - ON_ITS_WAY)


def expire(record: SetRecord, now: float) -> SetRecord:
    """Unclaimed offers whose time is over become EXPIRED. Never touches a claimed session."""
    claimed = record.claim.session if record.claim else None
    return _map(
        record,
        lambda item: (
            item.phase == "OFFERED" and item.uuid != claimed and item.expires is not None and item.expires <= now
        ),
        lambda item: replace(item, phase="EXPIRED", modified=now),
    )


# ── acceptance ───────────────────────────────────────────────────────────────────────────────────────────────


def claim(
    record: SetRecord,
    uuid: UUID,
    offer: bytes,
    now: float,
    within: float = 30.0,
    token: str = "",
    instead_of: UUID | None = None,
) -> SetRecord:
    """Take one offer, copying what its site said into the record. Raises Conflict, naming what stands in the way.
    Whoever claims has ended its forward `within` so many seconds; if it has not said how by then, others resolve it.

    Repeating one's own claim, also one that another session was taken instead of, returns the record unchanged."""
    item = record.session(uuid)
    if record.given_up:
        raise Conflict(
            "the direct request was given up, and its caller was told.", remedy=f"Ask anew: {_again(record)}."
        )
    if record.claim:
        if uuid in (record.claim.session, record.claim.instead_of):
            return record
        raise _in_the_way(record, record.session(record.claim.session))
    if not acceptable(item, now):
        raise Conflict(_why_not(item, now), remedy=f"Ask anew: {_again(record)}.")
    held = _one(record, uuid, lambda item: replace(item, offer=offer, modified=now))
    if record.owed:
        instead_of = record.owed.instead_of or record.owed.session
    mine = Claim(uuid, now, until=now + within, token=token, instead_of=instead_of, owing=record.owed)
    return replace(held, claim=mine, owed=None)


def sending(record: SetRecord, until: float) -> SetRecord:
    """The acceptance is about to be sent once more; whoever does has ended by `until`. Before that, no person's word
    on how it ended can be true of what is sent now."""
    claim_ = _unresolved(record)
    return replace(record, claim=replace(claim_, until=max(claim_.until, until)))


def sent(record: SetRecord, until: float) -> SetRecord:
    """That sending has ended; another one, with another `until`, goes on."""
    claim_ = record.claim
    if claim_ is None or claim_.state == "taken" or claim_.until != until:
        return record
    return replace(record, claim=replace(claim_, until=0.0))


def untouched(record: SetRecord, claim_: Claim) -> bool:
    """Whether nobody has taken up this claim since it was made. What its maker knows proves nothing once others may
    have sent it too."""
    now = record.claim
    return now is not None and now.state == "forwarding" and (now.session, now.token) == (claim_.session, claim_.token)


def _again(record: SetRecord) -> str:
    return f"broker submit --again {str(record.uuid)[:8]}"


def _in_the_way(record: SetRecord, other: SessionRecord) -> Conflict:
    """A set whose offer was taken gives no other, not even after the session has ended: hence ask anew."""
    if record.taken is None:
        text = f"the offer of {other.site} is being accepted (session {other.uuid})."
        if record.claim and record.claim.tries:
            text = f"{other.site} was asked to accept session {other.uuid}, and has not said whether it did."
        return Conflict(text, remedy=f"Wait for it: broker watch {str(other.uuid)[:8]}.")
    over = other.phase in phases.TERMINAL
    first = "" if over else f"Cancel that one if you do not want it: broker cancel {str(other.uuid)[:8]}. "
    text = f"{other.site} already accepted (session {other.uuid}, {other.phase})."
    return Conflict(text, remedy=f"{first}For another, ask anew: {_again(record)}.")


def _why_not(item: SessionRecord, now: float) -> str:
    if item.excluded:
        return f"the offer was excluded: {item.excluded}."
    if item.phase == "EXPIRED" or (item.phase == "OFFERED" and item.expires is not None and item.expires <= now):
        ago = f" {_ago(now - item.expires)} ago" if item.expires else ""
        return f"the offer of {item.site} expired{ago}; nothing was accepted."
    return f"the session is {item.phase}; only an OFFERED one can be accepted."


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def doubt(record: SetRecord, now: float, reason: str, *, fencing: bool = False) -> SetRecord:
    """It is not known whether the site took it. The session reads OFFERED, with a note of what is being done."""
    claim_ = _unresolved(record)
    state = "fencing" if fencing or claim_.state == "fencing" else "doubt"
    changed = replace(claim_, state=state, tries=claim_.tries + 1, reason=reason[:300])
    if claim_.state == "forwarding":
        changed = replace(changed, until=0.0)
    values = {"site": record.session(claim_.session).site}
    template = "{site} does not say that it took the session: withdrawing it there before anything else is tried."
    if state == "doubt":
        values["reason"] = reason[:300]
        template = (
            "{site} did not say whether it took the session: it is being asked. Nothing runs twice. Cause: {reason}"
        )
    noted = note(record, claim_.session, Note(now, "uri:acceptance-doubt", template, values, "WARN"))
    words = "{site} was asked to take session {session} instead, and has not said whether it did."
    return replace(_instead(noted, claim_, words, now), claim=changed)


def _instead(record: SetRecord, claim_: Claim, template: str, now: float) -> SetRecord:
    """Say it to whoever looks at the session in whose place another was claimed."""
    if claim_.instead_of is None:
        return record
    values = {"site": record.session(claim_.session).site, "session": str(claim_.session)}
    return note(record, claim_.instead_of, Note(now, "uri:accepted-instead", template, values))


def accepted(record: SetRecord, phase: str, decision: Decision | None, now: float) -> SetRecord:
    """The site has it: every other offer, the chosen site's siblings included, is REJECTED and to be released."""
    claim_ = _unresolved(record)
    mine = claim_.session
    turned = _map(
        expire(record, now),  # readers were shown these as EXPIRED already
        lambda item: item.uuid != mine and item.phase == "OFFERED",
        lambda item: replace(item, phase="REJECTED", modified=now),
    )
    turned = _one(turned, mine, lambda item: replace(item, phase=phase, seen=now, modified=now))
    turned = _instead(turned, claim_, "{site} was accepted instead: session {session}.", now)
    return close(replace(turned, claim=replace(claim_, state="taken"), decision=decision), now)


def decided(
    record: SetRecord, taken: bool, who: str, reason: str, decision: Decision | None, now: float, within: float = 60.0
) -> SetRecord:
    """A person who asked the site says how a doubtful acceptance ended. Raises Conflict where it is not in doubt."""
    claim_ = _unresolved(record)
    if now < claim_.until:
        raise Conflict(
            f"the site is being asked just now, for {claim_.until - now:.0f} s more at most.", remedy="Wait for that."
        )
    said = "took it" if taken else "did not take it"
    words = Note(now, "uri:acceptance-decided", "{who} says that {site} {said}: {reason}",
                 {"who": who, "site": record.session(claim_.session).site, "said": said, "reason": reason[:300]},
                 "WARN")  # fmt: skip
    noted = note(record, claim_.session, words)
    return accepted(noted, "ACCEPTED", decision, now) if taken else _freed(noted, "REJECTED", now, within)


def unclaim(record: SetRecord, now: float, within: float = 0.0) -> SetRecord:
    """The acceptance was never sent: everything is as before the claim, to be tried again. What was owed is owed
    again, to be done by the caller `within` so many seconds."""
    claim_ = _unresolved(record)
    turned = _one(record, claim_.session, lambda item: replace(item, modified=now, offer=b""))
    return replace(turned, claim=None, owed=claim_.owing and replace(claim_.owing, at=now + within))


def refused(record: SetRecord, phase: str, reason: str, now: float, within: float = 60.0) -> SetRecord:
    """It is proved that the site did not take it: the session ends (REJECTED or EXPIRED), the others are free again.
    Where the request wants it taken further, that is owed, to be done by the caller `within` so many seconds."""
    mine = _unresolved(record).session
    told = Note(now, "uri:acceptance-refused", "{site} refused: {reason}",
                {"site": record.session(mine).site, "reason": reason[:300]}, "ERROR")  # fmt: skip
    return _freed(note(record, mine, told), phase if phase in phases.REFUSED else "REJECTED", now, within)


def _freed(record: SetRecord, phase: str, now: float, within: float) -> SetRecord:
    """The claimed session has ended in `phase`, unaccepted."""
    claim_ = _unresolved(record)
    mine = claim_.session
    turned = _one(record, mine, lambda item: replace(item, phase=phase, modified=now, offer=b""))
    onward = record.failover or record.direct or record.requote is not None
    owed = Owed(mine, now + within, claim_.instead_of) if onward else None
    return replace(turned, claim=None, closed=not record.pending, owed=owed)


def settled(record: SetRecord, session: UUID) -> SetRecord:
    """What was owed after the refusal of `session` is done, or cannot be. Idempotent; another debt stands."""
    return replace(record, owed=None) if record.owed and record.owed.session == session else record


def requoted(record: SetRecord, uuid: UUID, fresh: Sequence[SessionRecord], words: Note, now: float) -> SetRecord:
    """The site of a session that ended unaccepted was asked anew: its `fresh` offers join the set, closed or not, and
    the session says in `words` what came of it. Once an offer is claimed, or the request was given up, they are kept
    as REJECTED, to be released. Idempotent: what has joined does not join again."""
    late = record.claim is not None or record.given_up is not None
    known = {item.uuid for item in record.sessions}
    sessions = tuple(
        replace(item, phase="REJECTED", modified=now) if late or item.excluded else item
        for item in fresh
        if item.uuid not in known
    )
    return note(replace(record, sessions=record.sessions + sessions), uuid, words)


def _unresolved(record: SetRecord) -> Claim:
    """Raises Conflict: another worker resolved the claim meanwhile."""
    if record.claim is None or record.claim.state == "taken":
        raise Conflict("the acceptance was resolved meanwhile.", remedy="Read the session again.")
    return record.claim


# ── afterwards ───────────────────────────────────────────────────────────────────────────────────────────────


def reject(record: SetRecord, uuid: UUID, now: float) -> SetRecord:
    """The caller does not want this offer. Repeating it changes nothing. Raises Conflict for one that is taken."""
    record = expire(record, now)
    item = record.session(uuid)
    if item.phase in phases.REFUSED:
        return record
    must_not_be_in_doubt(record, uuid)
    if item.phase != "OFFERED":
        raise Conflict(
            f"the session is {item.phase}; only an OFFERED one can be rejected.",
            remedy="" if item.phase in phases.TERMINAL else "Cancel it instead.",
        )
    return _one(record, uuid, lambda item: replace(item, phase="REJECTED", modified=now))


def must_not_be_in_doubt(record: SetRecord, uuid: UUID) -> None:
    """Raises Conflict for a session that is being accepted: nobody knows yet what there is to end."""
    if record.claim and record.claim.session == uuid and record.claim.state != "taken":
        site = record.session(uuid).site
        raise Conflict(
            f"{site} is being asked whether it took it.", remedy="Wait for the answer. If it did, cancel it then."
        )


def followed(record: SetRecord) -> SetRecord:
    """The accepted session stands on its site's watch list now. Idempotent."""
    return replace(record, claim=replace(record.claim, followed=True)) if record.claim else record


def released(record: SetRecord, uuids: Iterable[UUID], now: float) -> SetRecord:
    gone = set(uuids)
    return _map(record, lambda item: item.uuid in gone and not item.released, lambda item: replace(item, released=True))


class Seen(msgspec.Struct, frozen=True):
    """What a site said of a session, reduced to what is kept. `before`: when it was last looked at, None: not known."""

    phase: str
    body: bytes | None = None
    native: str = ""
    began: float | None = None
    ended: float | None = None
    cost: float | None = None
    messages: tuple[str, ...] = ()
    before: float | None = None


def see(record: SetRecord, uuid: UUID, seen: Seen, now: float) -> SetRecord:
    """Take over what a site shows. The phase only ever goes onward: a step back, or a word nobody knows, becomes a
    message. Returns the record unchanged (`is`) where nothing is new."""
    item = record.session(uuid)
    changed = replace(item, native=seen.native or item.native, lost_since=None)
    phase = phases.SYNONYMS.get(seen.phase, seen.phase)
    if phase in phases.REFUSED and phases.taken(item.phase) and item.phase not in phases.TERMINAL:
        ended = Note(now, "uri:phase-at-site", "{site} says {phase} of a session that it had accepted: it has failed.",
                     {"site": item.site, "phase": phase}, "ERROR")  # fmt: skip
        changed = replace(_noted(changed, ended), phase="FAILED")
    elif phases.forward(item.phase, phase):
        changed = replace(changed, phase=phase, body=seen.body or item.body)
    elif phase != item.phase and item.phase not in phases.TERMINAL:
        words = Note(now, "uri:phase-at-site", "{site} says {phase}; the session stays {kept}.",
                     {"site": item.site, "phase": phase[:60], "kept": item.phase})  # fmt: skip
        changed = _noted(changed, words)
    for text in _unsaid(seen.messages, changed.body or item.offer):
        changed = _noted(changed, Note(now, "uri:site-message", "{text}", {"text": text[:1000]}))
    decision = _actual(record.decision, seen, item.phase, changed, now)
    if changed == item and decision == record.decision:
        return record
    changed = replace(changed, seen=now, modified=now)
    return replace(_one(record, uuid, lambda _: changed), decision=decision)


def _unsaid(messages: Sequence[str], body: bytes) -> list[str]:
    """Those that the site's own document does not carry to the reader already."""
    return [text for text in messages if msgspec.json.encode(text)[1:-1] not in body]


def lost(record: SetRecord, uuid: UUID, now: float) -> SetRecord:
    """The site knows the session no more: noted, the phase kept; see services/watching for when that ends it."""
    item = record.session(uuid)
    if item.lost_since is not None:
        return record
    words = Note(now, "uri:site-forgot", "{site} does not know this session at present.", {"site": item.site}, "WARN")
    return note(_one(record, uuid, lambda item: replace(item, lost_since=now)), uuid, words)


def give_up(record: SetRecord, uuid: UUID, reasons: Sequence[str], now: float) -> SetRecord:
    """Nobody took a direct request: a session FAILED stands for it, and every offer left is to be released. Idempotent;
    a set in which somebody has claimed an offer meanwhile is not given up, and returned as it is."""
    if record.claim is not None or record.given_up is not None:
        return record
    words = tuple(Note(now, "uri:direct-refused", "{reason}", {"reason": text[:1000]}, "ERROR") for text in reasons)
    failed = SessionRecord(uuid, "", "", "", "FAILED", released=True, notes=words[:NOTES_KEPT], modified=now)
    turned = _map(
        expire(record, now),
        lambda item: item.phase == "OFFERED",
        lambda item: replace(item, phase="REJECTED", modified=now),
    )
    return close(replace(turned, sessions=(*turned.sessions, failed), owed=None), now)


def fail(record: SetRecord, uuid: UUID, reason: str, now: float) -> SetRecord:
    item = record.session(uuid)
    if item.phase in phases.TERMINAL:
        return record
    words = Note(now, "uri:session-failed", "{reason}", {"reason": reason[:1000]}, "ERROR")
    return note(_one(record, uuid, lambda item: replace(item, phase="FAILED", modified=now)), uuid, words)


def over(record: SetRecord) -> bool:
    """Whether nothing is left to be done for any session of it, nor to be waited for."""
    return all(item.phase in phases.TERMINAL for item in record.sessions) and not timers(record)


def reduced(record: SetRecord) -> SetRecord | None:
    """What outlives a set that is `over`: whose it was, the session that was taken, without what its site wrote, and
    the decision. None: nothing was taken, so nothing is left. A record that is reduced already comes back as it is."""
    if record.taken is None:
        return None
    item = record.session(record.taken)
    small = replace(
        record,
        sessions=(replace(item, offer=b"", body=None),),
        sites=(item.site,),
        outcomes={site: line for site, line in record.outcomes.items() if site == item.site},
    )
    return record if small == record else small


def note(record: SetRecord, uuid: UUID, words: Note) -> SetRecord:
    """Add a message to a session; one that says what the last of its kind said is left out."""
    return _one(record, uuid, lambda item: _noted(item, words))


def _noted(item: SessionRecord, words: Note) -> SessionRecord:
    last = next((old for old in reversed(item.notes) if old.kind == words.kind), None)
    if last and (last.template, last.values) == (words.template, words.values):
        return item
    notes = (*item.notes, words)
    if len(notes) > NOTES_KEPT:
        notes = (*notes[: NOTES_KEPT // 2], *notes[-NOTES_KEPT // 2 :])
    return replace(item, notes=notes)


def learned(record: SetRecord) -> SetRecord:
    """What came of the decision has been counted. Idempotent."""
    decision = record.decision
    if decision is None or decision.learned:
        return record
    return replace(record, decision=replace(decision, learned=True))


_WAITS = frozenset({"ACCEPTED", "WAITING"})
_RUNS = frozenset({"AVAILABLE", "RUNNING"})


def _actual(decision: Decision | None, seen: Seen, before: str, item: SessionRecord, now: float) -> Decision | None:
    """`before`: the phase that the session had; `item`: as it is now."""
    if decision is None or decision.session != item.uuid:
        return decision
    looks = (max(decision.at, seen.before or 0.0), now)
    if before in _WAITS and item.phase == "PREPARING":
        decision = replace(decision, preparing=looks)
    elif before in _WAITS | {"PREPARING"} and item.phase in _RUNS:
        decision = replace(decision, running=looks)
    elif before in _RUNS and (item.phase == "RELEASING" or item.phase in phases.TERMINAL):
        decision = replace(decision, over=looks)
    return replace(
        decision,
        actual_start=seen.began if seen.began is not None else decision.actual_start,
        actual_end=seen.ended if seen.ended is not None else decision.actual_end,
        actual_cost=seen.cost if seen.cost is not None else decision.actual_cost,
    )


def _one(record: SetRecord, uuid: UUID, change: Callable[[SessionRecord], SessionRecord]) -> SetRecord:
    return _map(record, lambda item: item.uuid == uuid, change)


def _map(
    record: SetRecord, which: Callable[[SessionRecord], bool], change: Callable[[SessionRecord], SessionRecord]
) -> SetRecord:
    turned = tuple(change(item) if which(item) else item for item in record.sessions)
    return record if turned == record.sessions else replace(record, sessions=turned)
