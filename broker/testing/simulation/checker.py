"""The judge of a history: which of the ten invariants (docs/design.md, 6) do not hold. Imports the history and sites.

It reads what users were told, what the store was made to hold, what was logged, and what the sites' ledgers say
really happened; it asks no service. Each rule yields a sentence for each breach, and nothing where all is well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple
from uuid import UUID

from broker.domain.offerset import Claim, SessionRecord, SetRecord
from broker.errors import BrokerError
from broker.services.doctor import Report
from broker.testing.simulation.history import Call, Entry, History, short
from broker.testing.simulation.loop import BEGIN, EPOCH
from broker.testing.simulation.sites import SECRET, Fact, Site

ORDER = (
    "INITIAL", "OFFERED", "ACCEPTED", "WAITING", "PREPARING", "AVAILABLE", "RUNNING", "RELEASING",
    "REJECTED", "EXPIRED", "COMPLETED", "FAILED", "CANCELLED",
)  # fmt: skip
ENDS = ORDER[8:]
UNSEEN = 60.0  # seconds for which a replica may not know that the store's clock was moved
OLD = 200.0  # seconds after which what no record knows is surely given back by the doctor
CLOCKS = 3.0  # seconds that a replica may be wrong about the store's clock, whose answers take that long at times

Timer = tuple[str, str, float, float]  # aggregate, key, due, ready


@dataclass
class Case:
    """What is judged. `left`: the timers at rest; `lines`: what is listed then, (kind, id) → phase; `stuck`: who still
    waits; `now`: that moment by the store's clock, `rest` by the loop's; `clock`: (the loop's time, by how much the
    store's is ahead from then on); `reports`: what the doctor found at the end, before mending and
    after; `held`: the offers that each site held before.

    Of what house-keeping has reduced or removed, `records` and `sessions` show what was there before."""

    history: History
    sites: Mapping[str, Site]
    left: list[Timer]
    lines: Mapping[tuple[str, str], str]
    stuck: list[str]
    now: float
    rest: float = float("inf")
    clock: Sequence[tuple[float, float]] = ((BEGIN, 0.0),)
    reports: Sequence[Report] = ()
    held: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.versions: dict[str, list[tuple[float, SetRecord]]] = defaultdict(list)
        gone = {removed.key: removed.at for removed in self.history.removals}
        # A key whose act was never marked as done makes its set again, when house-keeping has removed it.
        again = {written.key for written in self.history.writes if written.at > gone.get(written.key, float("inf"))}
        for written in sorted(self.history.writes, key=lambda written: written.version):
            record = written.set()
            if record is not None and not (written.key in again and written.at <= gone[written.key]):
                self.versions[written.key].append((written.at, record))
        self.removed = {key: at for key, at in gone.items() if key in self.versions and key not in again}
        self.last = {key: versions[-1][1] for key, versions in self.versions.items()}
        self.records = {key: self._whole(key) for key in self.versions}
        self.calls = self.history.calls()

    def _whole(self, key: str) -> SetRecord:
        return next(r for _, r in reversed(self.versions[key]) if not _shrunk(self.versions[key][0][1], r))

    @property
    def moved(self) -> float:
        """Seconds by which the store's clock, which all go by, was wrong at most."""
        return max(ahead for _, ahead in self.clock) - min(ahead for _, ahead in self.clock)

    def shown(self, at: float) -> list[float]:
        """What the store's clock may have been thought to show then."""
        ends = [moved for moved, _ in self.clock[1:]] + [float("inf")]
        return [
            EPOCH + at - BEGIN + ahead for (_, ahead), end in zip(self.clock, ends, strict=True) if end > at - UNSEEN
        ]

    def told(self) -> Iterator[tuple[Call, Entry]]:
        """Calls that were answered well, with the answer."""
        for call in self.calls:
            if call.end is not None and call.end.kind == "ok":
                yield call, call.end

    def fact(self, item: SessionRecord) -> Fact | None:
        """None: the session stands for a direct request that nobody took."""
        return self.sites[item.site].ledger[item.handle] if item.handle else None


Rule = Callable[[Case], Iterator[str]]


class Breach(NamedTuple):
    """`invariant`: its number; 0 for what none of the ten names (one key is one act; lists are true). `rule`: its
    name."""

    invariant: int
    text: str
    rule: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.text}" if self.invariant else self.text


def judge(case: Case) -> list[Breach]:
    """All that is broken, in the order of the invariants."""
    return [Breach(number, text, rule.__name__) for number, rule in RULES for text in rule(case)]


# ── 1 to 5: acceptance ───────────────────────────────────────────────────────────────────────────────────────


def one_is_accepted(case: Case) -> Iterator[str]:
    """At most one session of a set, unless the first is proved to have failed (its site's restart ended it)."""
    for record in case.records.values():
        ran = [item for item in record.sessions if (fact := case.fact(item)) and fact.runs and not fact.voided]
        if len(ran) > 1:
            yield f"of set {short(record.uuid)} run {_named(ran)}"
    for key, versions in case.versions.items():
        for at, record in versions:
            taken = [item for item in record.sessions if _taken(item.phase) and item.handle]
            if len(taken) > 1 and sum(item.phase != "FAILED" for item in taken) > 1:
                yield f"{_when(at)} the record {key[:8]} holds as accepted {_named(taken)}"
                break


def acknowledged_survives(case: Case) -> Iterator[str]:
    records = {item.uuid: key for key, record in case.records.items() for item in record.sessions}
    for call, answer in case.told():
        for uuid, phase in answer.phases.items():
            if not _taken(phase) or _stands_for_nobody(answer, uuid):
                continue
            key = records.get(uuid)
            if key is None or key in case.removed:
                yield f"#{call.begin.call} was told that {short(uuid)} is {phase}, and nothing is kept of it"
                continue
            kept = {item.uuid: item.phase for item in case.last[key].sessions}.get(uuid, "gone")
            if case.last[key].taken != uuid or not _taken(kept):
                yield f"#{call.begin.call} was told {phase} of {short(uuid)}, which is {kept}"


def nothing_twice(case: Case) -> Iterator[str]:
    """At a site that takes every acceptance for a new one, one may leave us; elsewhere one run comes of many."""
    for site in case.sites.values():
        for fact in site.ledger.values():
            if fact.runs > 1:
                yield f"{fact.handle} was begun {fact.runs} times"
            if not site.nature.repeatable and len(fact.sent) > 1:
                yield f"{fact.handle} was accepted {len(fact.sent)} times at a plain site"


def what_runs_is_accepted(case: Case) -> Iterator[str]:
    """No job runs of which the record says otherwise: nobody would follow it, nor know that it is paid for."""
    for record in case.records.values():
        for item in record.sessions:
            fact = case.fact(item)
            if fact is not None and fact.runs and not fact.voided and record.taken != item.uuid:
                yield f"{fact.handle} runs, and {short(item.uuid)} is {item.phase}"


def others_given_back(case: Case) -> Iterator[str]:
    """Every known offer that is not taken is released, or has expired at its site."""
    for record in case.records.values():
        claimed = record.claim.session if record.claim else None
        for item in record.sessions:
            if item.uuid == claimed or not item.handle:
                continue
            if item.phase not in ENDS:
                yield f"{short(item.uuid)} at {item.site} is still {item.phase} at rest"
            site, fact = case.sites[item.site], case.fact(item)
            expires = site.nature.enforces and fact is not None and fact.expires is not None
            denied = fact is not None and fact.denied  # what a site says it does not know counts as given back
            if item.handle in case.held[item.site] and not expires and not denied:
                yield f"{item.site} still holds {item.handle}, which is {item.phase}, released: {item.released}"


def nothing_after_expiry(case: Case) -> Iterator[str]:
    for versions in case.versions.values():
        claimed: UUID | None = None
        for at, record in versions:
            claim = record.claim
            if claim is not None and claim.session != claimed:
                yield from _in_time(case, at, record, record.session(claim.session))
            claimed = claim.session if claim is not None else None


def _in_time(case: Case, at: float, record: SetRecord, item: SessionRecord) -> Iterator[str]:
    claim, fact = record.claim, case.fact(item)
    if claim is None or fact is None:
        return
    if item.expires is not None and claim.at >= item.expires:
        yield f"{short(item.uuid)} was claimed {claim.at - item.expires:.1f} s after it expired"
    if fact.sent and fact.expires is not None and fact.sent[0] > fact.expires + CLOCKS + case.moved:
        yield f"{fact.handle} was first accepted {fact.sent[0] - fact.expires:.1f} s after it expired"
    wrong = min((claim.at - now for now in case.shown(at)), key=abs)
    if abs(wrong) > 60.0:
        yield f"{short(item.uuid)} was claimed by a clock that is wrong by {wrong:.0f} s"


# ── 6 to 10: answers ─────────────────────────────────────────────────────────────────────────────────────────


def every_site_answers_for(case: Case) -> Iterator[str]:
    """Each site has one outcome in the answer, and a reason where it offered nothing."""
    for call, answer in case.told():
        record = answer.detail.get("record")
        if call.begin.what == "ask" and not call.begin.detail["later"] and isinstance(record, SetRecord):
            yield from _complete(case, record, f"#{call.begin.call}")
    for record in case.records.values():
        yield from _complete(case, record, f"set {short(record.uuid)} at rest")


def _complete(case: Case, record: SetRecord, where: str) -> Iterator[str]:
    for name in case.sites:
        line = record.outcomes.get(name)
        if line is None:
            yield f"{where} says nothing of {name}"
        elif line.outcome != "Offered" and not any(line.reasons):
            yield f"{where} gives no reason for {line.outcome} of {name}"


def phases_go_on(case: Case) -> Iterator[str]:
    """Whoever reads after another has read sees nothing older."""
    for uuid, readings in _readings(case).items():
        for later in readings:
            before = [r for r in readings if r.ended <= later.began and not _follows(case, r, later)]
            if before:
                first = before[0]
                yield f"{short(uuid)} was {first.phase} ({first.by}), then {later.phase} ({later.by})"
                break
    for versions in case.versions.values():
        for (_, old), (at, new) in pairwise(versions):
            known = {item.uuid: item.phase for item in old.sessions}
            for item in new.sessions:
                if item.uuid in known and not _onward(known[item.uuid], item.phase):
                    yield f"{_when(at)} {short(item.uuid)} went from {known[item.uuid]} to {item.phase} in the store"


@dataclass(frozen=True)
class _Reading:
    began: float
    ended: float
    phase: str
    by: str


def _readings(case: Case) -> Mapping[UUID, list[_Reading]]:
    found: dict[UUID, list[_Reading]] = defaultdict(list)
    streams: dict[int, float] = {call.begin.call: call.begin.at for call in case.calls if call.begin.what == "follow"}
    for call, answer in case.told():
        began = call.begin.at
        if call.begin.what == "is told":  # it was looked up since the last that came on this stream
            stream = call.begin.detail["of"]
            began, streams[stream] = streams[stream], answer.at
        for uuid, phase in answer.phases.items():
            found[uuid].append(_Reading(began, answer.at, phase, f"#{call.begin.call}"))
    return found


def _follows(case: Case, before: _Reading, later: _Reading) -> bool:
    """What has expired is shown so before that is written: where the clock moves, not for ever."""
    moved = any(at <= later.ended and before.ended <= at + UNSEEN for at, _ in case.clock[1:])
    return _onward(before.phase, later.phase) or (before.phase == "EXPIRED" and moved)


def _onward(before: str, after: str) -> bool:
    """By an order of the judge's own: what is judged is not asked."""
    return before == after or (before not in ENDS and ORDER.index(after) > ORDER.index(before))


def nobody_else(case: Case) -> Iterator[str]:
    for call, _ in case.told():
        if call.begin.what.startswith("tries"):
            yield f"#{call.begin.call}: {call.begin.who} {call.begin.what} what is another's, and may"


def no_secret_logged(case: Case) -> Iterator[str]:
    for log in case.history.logs:
        if SECRET in repr(log):
            yield f"{_when(log['at'])} {log['who']} logged a secret: {log['event']}"


def work_is_finished(case: Case) -> Iterator[str]:
    """Whoever dies, the others finish it; whatever a site does, its neighbours' offers stand."""
    yield from case.stuck
    for call in case.calls:
        if call.end is None:
            yield f"#{call.begin.call} of {call.begin.who} never ended"
        elif call.end.kind == "info" and "no answer in" in call.end.detail.get("why", ""):
            yield f"#{call.begin.call} of {call.begin.who} was not answered"
    for aggregate, key, due, _ in case.left:
        if key != "look" or not _excused(case, aggregate.removeprefix("watch:")):
            yield f"the timer {key} of {aggregate[:16]} is left, {case.now - due:.0f} s overdue"
    for record in case.last.values():
        claim = record.claim
        if claim is not None and claim.state != "taken":
            yield f"{short(claim.session)} is left {claim.state}: {claim.reason}"
    for log in case.history.logs:
        error = log.get("exc_info")
        if error is not None and not isinstance(error, BrokerError):
            yield f"{_when(log['at'])} {log['who']} failed in a way that nobody foresaw: {log['event']} {error!r}"


def neighbours_stand(case: Case) -> Iterator[str]:
    """A site that is well has offers or reasons in every answer, whatever the others do."""
    well = [name for name, site in case.sites.items() if site.nature.healthy]
    for call, answer in case.told():
        record = answer.detail.get("record")
        if call.begin.what != "ask" or call.begin.detail["later"] or not isinstance(record, SetRecord):
            continue
        for name in well:
            line = record.outcomes.get(name)
            if line is not None and line.outcome not in ("Offered", "Declined"):
                yield f"#{call.begin.call}: {name} is well, and its outcome is {line.outcome}: {line.reasons}"


def _excused(case: Case, site: str) -> bool:
    """A site that has forgotten for good what it took is asked for an hour."""
    items = [item for record in case.records.values() for item in record.sessions if item.site == site]
    return any((fact := case.fact(item)) is not None and fact.forgotten for item in items)


# ── what none of the ten names ───────────────────────────────────────────────────────────────────────────────


def lists_are_true(case: Case) -> Iterator[str]:
    """At rest a list says of each session what its record says, and of nothing else."""
    left = dict(case.lines)
    for key, versions in case.versions.items():
        record = next((record for at, record in reversed(versions) if at <= case.rest), None)
        if record is None or case.removed.get(key, case.rest + 1.0) <= case.rest:
            continue
        if left.pop(("offerset", str(record.uuid)), None) is None:
            yield f"set {short(record.uuid)} is not listed"
        for item in record.sessions:
            listed = left.pop(("session", str(item.uuid)), None)
            if listed != item.phase:
                yield f"{short(item.uuid)} is {item.phase}, and listed as {listed}"
    for kind, id_ in left:
        if kind not in ("site", "experience"):  # aggregates of their own
            yield f"the {kind} {id_[:8]} is listed, and is no more"


def dearer_is_asked_for(case: Case) -> Iterator[str]:
    """What a site offers anew is accepted by itself only at a price that the request allows; a person may accept
    it."""
    asked = {call.begin.detail["session"] for call in case.calls if call.begin.what == "→ ACCEPTED"}
    for record in case.records.values():
        claim = record.claim
        if claim is None or claim.session in asked or not record.session(claim.session).requoted:
            continue
        before = [item for item in record.sessions if item.uuid in asked or item.uuid in _stead(claim)]
        most = max((_price(case, item) for item in before), default=0.0) * (1.0 + (record.requote or 0.0))
        if (price := _price(case, record.session(claim.session))) > most + 1e-6:
            yield f"{short(claim.session)} was accepted by itself for {price}, and {most} was allowed"


def _stead(claim: Claim) -> tuple[UUID | None, UUID | None]:
    """In place of which it may have been accepted."""
    return claim.instead_of, claim.owing.session if claim.owing is not None else None


def _price(case: Case, item: SessionRecord) -> float:
    fact = case.fact(item)
    return fact.price if fact is not None else 0.0


def only_what_is_over_goes(case: Case) -> Iterator[str]:
    """House-keeping reduces and removes no set for which something is to be done yet."""
    for key, record in case.records.items():
        goes = key in case.removed or _shrunk(record, case.last[key])
        if goes and (why := _pending(record)):
            yield f"set {short(record.uuid)} was reduced or removed, though {why}"


def _shrunk(record: SetRecord, later: SetRecord) -> bool:
    return len(later.sites) < len(record.sites)


def _pending(record: SetRecord) -> str:
    claim = record.claim
    if not record.closed or record.owed is not None or (claim is not None and claim.state != "taken"):
        return "it is not done with"
    if claim is not None and not claim.followed:
        return "nobody follows what was taken"
    late = [item for item in record.sessions if item.phase not in ENDS or not (item.released or _ran(item.phase))]
    return f"of {_named(late)} the site was not told" if late else ""


def _ran(phase: str) -> bool:
    return phase in ("COMPLETED", "FAILED", "CANCELLED")


def words_are_heard(case: Case) -> Iterator[str]:
    """Whoever says what was seen at a site is not told that it is otherwise, nor when it is said again.
    Of a job that its site's restart has ended it is as true that it was taken as that it was not."""
    items = [item for record in case.records.values() for item in record.sessions]
    voided = {item.uuid for item in items if (fact := case.fact(item)) is not None and fact.voided}
    for call in case.calls:
        why = call.end.detail.get("why", "") if call.end is not None and call.end.kind == "fail" else ""
        if call.begin.what == "decides" and "not in doubt" in why and call.begin.detail["session"] not in voided:
            yield f"#{call.begin.call} was refused: {why}"


def nothing_for_the_doctor(case: Case) -> Iterator[str]:
    """At rest it finds at most offers that no answer told of, or whose site had forgotten that they were given back,
    or ends them by itself a little later than a clock that jumped would have it; it gives them back, and then finds at
    most such as were too young before, or at a site that could not be asked."""
    sessions = {str(item.uuid): item.handle for record in case.records.values() for item in record.sessions}
    facts = {fact.handle: fact for site in case.sites.values() for fact in site.ledger.values()}
    unknown = facts.keys() - sessions.values()
    for number, report in enumerate(case.reports):
        for finding in report.findings:
            fact = facts.get(sessions.get(finding.where) or finding.says.rpartition("(")[2].partition(")")[0])
            if finding.what != "orphan" or fact is None or not _lost(case, fact, unknown, again=number > 0):
                yield f"the doctor finds at visit {number + 1} {finding.what} {finding.where}: {finding.says}"
    for handle in sorted(unknown):
        site = case.sites[facts[handle].site]
        if case.reports and not _spared(case, facts[handle]) and site.phase(handle) == "OFFERED":
            yield f"{site.name} still holds {handle}, which nobody knows"


def _lost(case: Case, fact: Fact, unknown: Set[str], *, again: bool) -> bool:
    """Whether that offer may be found. `again`: what could be mended has been."""
    excused = fact.handle in unknown or fact.denied or _ends_soon(case, fact)
    return not fact.runs and excused and (not again or _spared(case, fact))


def _ends_soon(case: Case, fact: Fact) -> bool:
    """Whether its site ends it by itself, and had not yet when all was at rest."""
    return case.sites[fact.site].nature.enforces and fact.expires is not None and fact.expires > case.rest


def _spared(case: Case, fact: Fact) -> bool:
    """Whether the doctor cannot have given it back at the first visit."""
    return case.rest - fact.made <= OLD or fact.site in case.reports[0].unasked


def one_key_one_act(case: Case) -> Iterator[str]:
    """Whatever is sent with one key makes one set, and every answer shows it."""
    named: dict[str, set[UUID]] = defaultdict(set)
    for record in case.records.values():
        named[record.name].add(record.uuid)
    for call in case.calls:
        if call.begin.what in ("ask", "direct") and call.begin.detail.get("key") is not None:
            sets = named.pop(call.begin.detail["name"], set())
            if len(sets) > 1:
                yield f"{call.begin.detail['name']} was asked with one key, and made {len(sets)} sets"


def _taken(phase: str) -> bool:
    return phase not in ("INITIAL", "OFFERED", "REJECTED", "EXPIRED")


def _named(items: list[SessionRecord]) -> str:
    return ", ".join(f"{short(item.uuid)} at {item.site} ({item.phase})" for item in items)


def _when(at: float) -> str:
    return f"at {at - BEGIN:.3f}"


def _stands_for_nobody(answer: Entry, uuid: UUID) -> bool:
    """A session FAILED that stands for a direct request which nobody took."""
    record = answer.detail.get("record")
    return isinstance(record, SetRecord) and record.given_up == uuid


RULES: tuple[tuple[int, Rule], ...] = (
    (1, one_is_accepted),
    (2, acknowledged_survives),
    (3, nothing_twice),
    (3, what_runs_is_accepted),
    (4, others_given_back),
    (5, nothing_after_expiry),
    (6, every_site_answers_for),
    (7, phases_go_on),
    (8, nobody_else),
    (9, no_secret_logged),
    (10, work_is_finished),
    (10, neighbours_stand),
    (0, one_key_one_act),
    (0, lists_are_true),
    (0, dearer_is_asked_for),
    (0, only_what_is_over_goes),
    (0, words_are_heard),
    (10, nothing_for_the_doctor),
)
