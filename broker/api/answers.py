"""Sets and sessions as JSON: what the broker writes, spliced with the sites' own bytes. Imports services and domain.

The rest of a session (executable, compute, data, connectors …) stays as its site wrote it; kind, uuid, url, phase,
expires, options and rank are the broker's own word (design, section 4). Other formats are made from this JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

import msgspec

from broker.domain import kinds, locality, located, ranking
from broker.domain import session as phases
from broker.domain.components import fill_in
from broker.domain.identity import Caller
from broker.domain.offer import Raws, cut
from broker.domain.offerset import Decision, Line, Note, SessionRecord, SetRecord, acceptable
from broker.domain.quantities import format_duration, format_instant
from broker.domain.ranking import Ranked
from broker.domain.setbody import Kept, SetBody
from broker.domain.wishes import Wishes
from broker.services.offers import SetState
from broker.services.rights import may_change, owns
from broker.services.sessions import SessionState

_JSON = msgspec.json.Encoder()
# What generated clients need of every session; a site that states one that cannot be read meant what was asked.
_INDISPENSABLE = ("executable", "compute")
_LEVELS = {"Declined": "INFO", "Skipped": "INFO", "TimedOut": "WARN", "Failed": "WARN"}


def offerset(state: SetState, base: str, caller: Caller) -> bytes:
    """The OfferSetResponse. `base` is our own address without a slash at its end."""
    record = state.record
    page = _Page.of(record, state.body, base, caller, state.now)
    items = {str(item.uuid): item for item in record.sessions if not item.excluded}
    kept = {item.candidate.session: item for item in state.body.kept} if state.body else {}
    shown = [(items[ranked.session], ranked) for ranked in state.ranking if ranked.session in items]
    standing = [item for item, _ in shown if item.phase not in ("REJECTED", "EXPIRED")]
    expiries = [item.expires for item in standing if item.phase == "OFFERED" and item.expires]
    answer: dict[str, Any] = {
        "kind": kinds.OFFERSET,
        "meta": _drop(
            uuid=page.uuid,
            name=record.name or None,
            url=f"{base}/offersets/{page.uuid}",
            created=format_instant(record.created),
            messages=[_message(note) for note in _set_notes(record, bool(standing))] or None,
        ),
        "result": "YES" if standing else "NO",
        "outcomes": [_outcome(record, site) for site in record.sites],
        "pending": len(record.pending),
        "closed": record.closed,
        "asof": format_instant(state.body.now if state.body else record.created),
    }
    if expiries:
        answer["expires"] = format_instant(max(expiries))
    if record.taken:
        answer["taken"] = str(record.taken)
    if page.wishes is not None:
        answer["preferences"] = page.wishes.preferences().to_wire()
    if state.body and state.body.located:
        answer["located"] = located.wire(state.body.located, bare=not page.own)
    return _with_offers(answer, (_session(page, item, kept.get(ranked.session), ranked) for item, ranked in shown))


def _with_offers(answer: dict[str, Any], offers: Iterable[dict[str, Any]]) -> bytes:
    """One after the other into one buffer. An answer can hold hundreds of offers of several kB each: a list of them
    all, or pieces that are put together later, cost half as much again in memory traffic (measured)."""
    written = bytearray(_JSON.encode(answer)[:-1] + b',"offers":[')
    first = len(written)
    for offer in offers:
        if len(written) > first:
            written += b","
        _JSON.encode_into(offer, written, -1)
    written += b"]}"
    return bytes(written)


def session(state: SessionState, base: str, caller: Caller) -> bytes:
    """The ScheduledExecutionSession."""
    page = _Page.of(state.record, state.body, base, caller, state.now)
    return msgspec.json.encode(_session(page, state.item, state.kept, state.ranked))


class _Page(msgspec.Struct, frozen=True):
    """What all sessions of one answer share. `rights`: the caller may change them; `own`: they are the caller's.
    `asked`: the parts of the request."""

    record: SetRecord
    uuid: str
    wishes: Wishes | None
    base: str
    rights: bool
    own: bool
    now: float
    asked: Raws

    @classmethod
    def of(cls, record: SetRecord, body: SetBody | None, base: str, caller: Caller, now: float) -> _Page:
        rights, own = may_change(record, caller), owns(record, caller)
        asked = cut(body.request)[0] if body else {}
        return cls(record, str(record.uuid), body.wishes if body else None, base, rights, own, now, asked)


def _session(page: _Page, item: SessionRecord, kept: Kept | None, ranked: Ranked | None) -> dict[str, Any]:
    rest, meta = _said(item, kept)
    if "connectors" in rest and (not page.own or item.phase in phases.TERMINAL):
        rest["connectors"] = _closed(rest["connectors"])
    written: dict[str, Any] = {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": _meta(page, item, kept, meta),
        "phase": item.phase,
        "offerset": page.uuid,
    }
    if item.expires is not None:
        written["expires"] = format_instant(item.expires)
    named = (("site", item.site), ("origin", item.origin), ("native", item.native))
    written |= {name: value for name, value in named if value}
    if kept:
        _promote(written, kept, page.wishes)
    if ranked and page.wishes:
        written["ranking"] = ranking.wire(ranked, page.wishes)
    if (promise := _promise(page.record.decision, item.uuid)) is not None:
        written["promise"] = promise
    written.update(rest)
    for name in _INDISPENSABLE:
        if name not in written and name in page.asked:
            written[name] = page.asked[name]
    return written


def _promote(written: dict[str, Any], kept: Kept, wishes: Wishes | None) -> None:
    """What the site's planner promises of the offer."""
    written["reserved"], written["results"] = kept.reserved, kept.results
    if kept.platform:
        written["platform"] = kept.platform
    if kept.simulated:
        written["simulated"] = True
    if wishes:
        written["locality"] = locality.wire(kept.locality, wishes.exchange.base)


def _said(item: SessionRecord, kept: Kept | None) -> tuple[Raws, Raws]:
    """What the site wrote, latest first: of the session, and of its `meta`."""
    if item.body is None and kept is not None:
        return cut(kept.said)
    source = item.body or item.offer
    return cut(source) if source else ({}, {})


_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_CONNECTORS = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])


def _closed(connectors: msgspec.Raw) -> msgspec.Raw:
    """Without their locations: whoever holds one is let in, and a session is its owner's alone."""
    try:
        found = _CONNECTORS.decode(connectors)
    except msgspec.MsgspecError:
        return msgspec.Raw(b"[]")
    return msgspec.Raw(msgspec.json.encode([{n: v for n, v in one.items() if n != "location"} for one in found]))


def _meta(page: _Page, item: SessionRecord, kept: Kept | None, theirs: Raws) -> dict[str, Any]:
    record, uuid = page.record, str(item.uuid)
    notes = [_message(note) for note in item.notes]
    if kept:
        notes += [_warning(text, record.created) for text in kept.warnings]
    if item.excluded:
        notes.append(_warning(f"Excluded: {item.excluded}", record.created))
    written: dict[str, Any] = {
        **theirs,
        "uuid": uuid,
        "url": f"{page.base}/sessions/{uuid}",
        "options": _options(page, item),
    }
    if record.name:
        written["name"] = record.name
    if notes:
        said = theirs.get("messages")
        written["messages"] = [*(_LIST.decode(said) if said else ()), *notes]
    if item.modified > record.created:
        written["modified"] = format_instant(item.modified)
    return written


def _options(page: _Page, item: SessionRecord) -> list[dict[str, Any]]:
    """Exactly what this caller may do now."""
    record, values = page.record, []
    if item.phase == "OFFERED" and record.claim is None and acceptable(item, page.now):
        values = ["ACCEPTED", "REJECTED"]
    elif item.phase == "OFFERED" and record.claim and record.claim.session != item.uuid:
        values = ["REJECTED"]
    elif phases.taken(item.phase) and item.phase not in phases.TERMINAL:
        values = ["CANCELLED"]
    return [{"kind": kinds.ENUM_OPTION, "path": "/phase", "values": values}] if values and page.rights else []


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
        text = "No answer yet from {sites}; this NO may become YES."
        yield Note(record.created, "uri:pending", text, {"sites": ", ".join(record.pending)}, "WARN")
    if not record.sites:
        yield Note(record.created, "uri:no-sites", "No site is registered here.", {}, "ERROR")


def _site_note(site: str, line: Line, time: float) -> Note:
    values = {"site": site, "outcome": line.outcome, "reason": "; ".join(line.reasons) or "no reason given"}
    level = _LEVELS.get(line.outcome, "INFO")
    text = "{site}: left out: {reason}" if line.outcome == "Offered" else "{site} {outcome}: {reason}"
    return Note(time, f"uri:site-{line.outcome.lower()}", text, values, level)


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
