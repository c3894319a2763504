"""Sets and sessions as JSON: what the broker writes, spliced with the sites' own bytes. Imports services and domain.

The rest of a session (executable, compute, data, connectors …) stays as its site wrote it; kind, uuid, url, phase,
expires, options and rank are the broker's own word (design, section 4). Other formats are made from this JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from broker.domain import kinds, locality, ranking
from broker.domain import session as phases
from broker.domain.components import fill_in
from broker.domain.identity import Caller
from broker.domain.offer import cut
from broker.domain.offerset import Decision, Line, Note, SessionRecord, SetRecord, acceptable
from broker.domain.quantities import format_duration, format_instant
from broker.domain.ranking import Ranked
from broker.domain.setbody import Kept
from broker.domain.wishes import Wishes
from broker.services.offers import SetState
from broker.services.rights import may_change
from broker.services.sessions import SessionState

_LEVELS = {"Declined": "INFO", "Skipped": "INFO", "TimedOut": "WARN", "Failed": "WARN"}


def offerset(state: SetState, base: str, caller: Caller) -> bytes:
    """The OfferSetResponse. `base` is our own address without a slash at its end."""
    record, now = state.record, state.now
    rights = may_change(record, caller)
    items = {str(item.uuid): item for item in record.sessions}
    kept = state.body.by_session() if state.body else {}
    wishes = state.body.wishes if state.body else None
    shown = [ranked for ranked in state.ranking if ranked.session in items and not items[ranked.session].excluded]
    offers = [
        _session(record, items[r.session], kept.get(items[r.session].uuid), r, wishes, base, rights, now) for r in shown
    ]
    standing = [items[r.session] for r in shown if items[r.session].phase not in ("REJECTED", "EXPIRED")]
    expiries = [item.expires for item in standing if item.phase == "OFFERED" and item.expires]
    answer: dict[str, Any] = {
        "kind": kinds.OFFERSET,
        "meta": _drop(
            uuid=str(record.uuid),
            name=record.name or None,
            url=f"{base}/offersets/{record.uuid}",
            created=format_instant(record.created),
            messages=[_message(note) for note in _set_notes(record, bool(standing))] or None,
        ),
        "result": "YES" if standing else "NO",
        "offers": [msgspec.Raw(offer) for offer in offers],
        "outcomes": [_outcome(record, site) for site in record.sites],
        "pending": len(record.pending),
        "closed": record.closed,
        "asof": format_instant(state.body.now if state.body else record.created),
    }
    if expiries:
        answer["expires"] = format_instant(max(expiries))
    if record.taken:
        answer["taken"] = str(record.taken)
    if wishes is not None:
        answer["preferences"] = wishes.preferences().to_wire()
    return msgspec.json.encode(answer)


def session(state: SessionState, base: str, caller: Caller) -> bytes:
    """The ScheduledExecutionSession."""
    wishes = state.body.wishes if state.body else None
    rights = may_change(state.record, caller)
    return _session(state.record, state.item, state.kept, state.ranked, wishes, base, rights, state.now)


def _session(
    record: SetRecord,
    item: SessionRecord,
    kept: Kept | None,
    ranked: Ranked | None,
    wishes: Wishes | None,
    base: str,
    rights: bool,
    now: float,
) -> bytes:
    rest, meta = _said(item, kept)
    written: dict[str, Any] = {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": _meta(record, item, kept, meta, base, rights, now),
        "phase": item.phase,
    }
    if item.expires is not None:
        written["expires"] = format_instant(item.expires)
    written |= _drop(
        site=item.site or None,
        origin=item.origin or None,
        reserved=kept.reserved if kept else None,
        simulated=True if kept and kept.simulated else None,
        results=kept.results if kept else None,
        native=item.native or None,
        offerset=str(record.uuid),
        promise=_promise(record.decision, item.uuid),
    )
    if kept and wishes:
        base_currency = wishes.exchange.base
        written["locality"] = locality.note(kept.locality, base_currency).to_wire()
    if ranked and wishes:
        written["ranking"] = ranking.note(ranked, wishes).to_wire()
    return _splice(written, rest)


def _said(item: SessionRecord, kept: Kept | None) -> tuple[bytes, bytes]:
    """What the site wrote, latest first: `rest` and `meta` as JSON objects."""
    if item.body is None and kept is not None:
        return kept.rest, kept.meta
    source = item.body or item.offer
    rest, meta = cut(source) if source else ({}, {})
    return msgspec.json.encode(rest), msgspec.json.encode(meta)


def _splice(written: Mapping[str, Any], rest: bytes) -> bytes:
    head = msgspec.json.encode(written)
    return head if rest == b"{}" else head[:-1] + b"," + rest[1:]


def _meta(
    record: SetRecord, item: SessionRecord, kept: Kept | None, site_meta: bytes, base: str, rights: bool, now: float
) -> msgspec.Raw:
    notes = [_message(note) for note in item.notes]
    if kept:
        notes += [_warning(text, record.created) for text in kept.warnings]
    if item.excluded:
        notes.append(_warning(f"Excluded: {item.excluded}", record.created))
    written: dict[str, Any] = {
        "uuid": str(item.uuid),
        "url": f"{base}/sessions/{item.uuid}",
        "options": _options(record, item, rights, now),
    }
    theirs = msgspec.json.decode(site_meta, type=dict[str, msgspec.Raw])
    if record.name:
        theirs.pop("name", None)
        written["name"] = record.name
    if notes:
        said = theirs.pop("messages", None)
        written["messages"] = [*(msgspec.json.decode(said, type=list[msgspec.Raw]) if said else ()), *notes]
    if item.modified > record.created:
        theirs.pop("modified", None)
        written["modified"] = format_instant(item.modified)
    return msgspec.Raw(_splice(written, msgspec.json.encode(theirs)))


def _options(record: SetRecord, item: SessionRecord, rights: bool, now: float) -> list[dict[str, Any]]:
    """Exactly what this caller may do now."""
    values: list[str] = []
    if item.phase == "OFFERED" and record.claim is None and acceptable(item, now):
        values = ["ACCEPTED", "REJECTED"]
    elif item.phase == "OFFERED" and record.claim and record.claim.session != item.uuid:
        values = ["REJECTED"]
    elif phases.taken(item.phase) and item.phase not in phases.TERMINAL:
        values = ["CANCELLED"]
    return [{"kind": kinds.ENUM_OPTION, "path": "/phase", "values": values}] if values and rights else []


def _promise(decision: Decision | None, uuid: UUID) -> dict[str, Any] | None:
    if decision is None or decision.session != uuid:
        return None
    began, ended = decision.actual_start, decision.actual_end
    return _drop(
        start=format_instant(decision.start) if decision.start is not None else None,
        duration=format_duration(decision.duration) if decision.duration is not None else None,
        cost=decision.cost,
        unit=decision.currency or None,
        actual_start=format_instant(began) if began is not None else None,
        actual_end=format_instant(ended) if ended is not None else None,
        actual_duration=format_duration(ended - began) if began is not None and ended is not None else None,
        actual_cost=decision.actual_cost,
    )


def _outcome(record: SetRecord, site: str) -> dict[str, Any]:
    line = record.outcomes.get(site)
    if line is None:
        return {"site": site, "outcome": "Pending"}
    reasons = list(line.reasons)
    if site in record.pending:
        reasons = [*reasons, "joins the set if it comes"]
    return {
        "site": site,
        "outcome": line.outcome,
        "latency": round(line.latency, 4),
        **_drop(
            offers=line.offers or None, reasons=reasons or None, retry_after=line.retry_after, acts=line.acts or None
        ),
    }


def _set_notes(record: SetRecord, yes: bool) -> Iterable[Note]:
    for site, line in record.outcomes.items():
        if line.outcome != "Offered" or line.reasons:
            yield _site_note(site, line, record.created)
    if not yes and record.pending:
        text = "{n} sites have not answered; this NO may become YES."
        yield Note(record.created, "uri:pending", text, {"n": str(len(record.pending))}, "WARN")
    if not record.sites:
        yield Note(record.created, "uri:no-sites", "No site is registered here.", {}, "ERROR")


def _site_note(site: str, line: Line, time: float) -> Note:
    values = {"site": site, "outcome": line.outcome, "reason": "; ".join(line.reasons) or "no reason given"}
    level = _LEVELS.get(line.outcome, "INFO")
    return Note(time, f"uri:site-{line.outcome.lower()}", "{site} {outcome}: {reason}", values, level)


def _message(note: Note) -> dict[str, Any]:
    """Template, values *and* the filled text, as MessageItem has them."""
    return {
        "kind": note.kind,
        "time": format_instant(note.time),
        "level": note.level,
        "template": note.template,
        "values": dict(note.values),
        "message": fill_in(note.template, note.values),
    }


def _warning(text: str, time: float) -> dict[str, Any]:
    return _message(Note(time, "uri:offer-warning", "{text}", {"text": text}, "WARN"))


def _drop(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
