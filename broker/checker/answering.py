"""Whether the answer to a request is as it is described: where it points, what it holds, whether it can be read again.

Imports the visit and what it is made of, the generated description, the conformance helper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from broker.api.openapi import schemas
from broker.checker.dialects import Object, SetSeen, modern
from broker.checker.findings import Level
from broker.checker.visit import Visit
from broker.checker.web import Answer
from broker.client.errors import Unreachable
from broker.errors import Malformed
from broker.testing.conformance import Conformance

_UNDOCUMENTED = ": documented nowhere"
_UNFILLED = re.compile(r"\.messages\[\d+\]\.(message|template): missing$")
_OPTIONAL = re.compile(r"\.meta\.url: missing$")  # told of under `urls`
_HOLE = re.compile(r"\$?\{[A-Za-z_][\w.-]*\}")


async def judge(visit: Visit, answer: Answer) -> None:
    """Everything that one answer to a question for offers tells."""
    findings = visit.findings
    if answer.status not in (200, 303):
        findings.fail("ask.answer", f"answered {answer.said()}")
        return
    findings.ok("ask.answer", str(answer.status))
    document = await _body(visit, answer)
    if document is None:
        await visit.recover(answer)
        return
    visit.set = visit.dialect.read_set(document)
    visit.note(visit.set)
    if visit.dialect.sets:
        _location(visit, answer, visit.set)
    _conforms(visit, document)
    _result(visit, visit.set)
    if visit.dialect.sets:
        await _again(visit, visit.set)


async def _body(visit: Visit, answer: Answer) -> Object | None:
    """The set: from the answer, else from where that points. None: from nowhere."""
    try:
        if answer.body.strip():
            document = answer.object()
            visit.findings.ok("ask.body")
            return document
        target = answer.location
        if answer.status == 303 and target and target.origin() == visit.web.base.origin():
            document = (await visit.web.call("GET", target)).object()
            visit.findings.warn("ask.body", "the answer is empty; every client has to follow its Location")
            return document
        where = f"; it points to {target}, which is not followed" if target else ""
        visit.findings.fail("ask.body", f"{answer.status} with nothing in it{where}")
    except (Malformed, Unreachable) as error:
        visit.findings.fail("ask.body", str(error))
    return None


def _location(visit: Visit, answer: Answer, seen: SetSeen) -> None:
    """Generated clients follow it as a GET, keep credentials at one origin only, and take its last step as uuid."""
    target = answer.location
    if target is None:
        level = Level.FAIL if answer.status == 303 else Level.NOTE
        visit.findings.say("ask.location", level, f"{answer.status} without a Location that can be read")
        return
    faults = []
    if target.origin() != visit.web.base.origin():
        faults.append(f"it leads to {target.origin()}, where clients send no credentials")
    if target.path.endswith("/") or target.query_string:
        faults.append(f"{target.path_qs} does not end with the uuid, as clients take it")
    elif seen.ident and target.name != seen.ident:
        faults.append(f"it ends with {target.name[:60]}, the set's uuid is {seen.ident}")
    visit.findings.judge("ask.location", faults)


# ── the documents ────────────────────────────────────────────────────────────────────────────────────────────


def _conforms(visit: Visit, document: Object) -> None:
    """By the description, where the dialect has one of ours; else by what its own requires."""
    dialect, findings = visit.dialect, visit.findings
    if dialect.faults is not None:
        findings.judge("set.conforms", dialect.faults(document))
        return
    faults = described(document, "OfferSetResponse")
    findings.judge("set.conforms", grave(faults))
    undocumented = [f"{fault}, and ignored by clients" for fault in faults if fault.endswith(_UNDOCUMENTED)]
    findings.judge("set.additions", undocumented, Level.WARN)
    unfilled = [fault for fault in faults if _UNFILLED.search(fault)]
    holes = [f"{path}: {text!r} is not filled in" for path, text in _holes(document)]
    findings.judge("messages", [*unfilled, *holes], Level.WARN)


def described(document: Object, schema: str) -> list[str]:
    """The faults of a document of E or F, by the description."""
    return _law().faults(modern(document), schema)


@cache
def _law() -> Conformance:
    law = {"components": {"schemas": schemas()}}
    return Conformance(law, law)


def grave(faults: list[str]) -> list[str]:
    """Those that break a client: what is undocumented it ignores, and messages and URLs are told of elsewhere."""
    light = (_UNFILLED, _OPTIONAL)
    return [
        fault
        for fault in faults
        if not fault.endswith(_UNDOCUMENTED) and not any(pattern.search(fault) for pattern in light)
    ]


def _holes(value: Any, path: str = "$") -> Iterator[tuple[str, str]]:
    """Every filled text of a message in which a name still stands in brackets."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "message" and isinstance(item, str) and "template" in value and _HOLE.search(item):
                yield f"{path}.message", item[:80]
            yield from _holes(item, f"{path}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _holes(item, f"{path}[{i}]")


def _result(visit: Visit, seen: SetSeen) -> None:
    findings, count = visit.findings, len(seen.offers)
    if seen.result == "YES" and not count and visit.dialect.sessions:
        findings.fail("set.result", "YES, and no offer")
    elif seen.result == "NO" and any(offer.phase == "OFFERED" for offer in seen.offers):
        findings.fail("set.result", f"NO, and {count} offered")
    elif seen.result not in ("YES", "NO"):
        findings.fail("set.result", f"the result is {seen.result[:40]!r}")
    elif seen.result == "NO" and not seen.messages and visit.dialect.named:
        findings.warn("set.result", "NO without a message that says why")
    else:
        findings.ok("set.result", f"{seen.result}, {count} offered")


async def _again(visit: Visit, seen: SetSeen) -> None:
    if not seen.ident:
        visit.findings.fail("set.read", "the set has no uuid to read it by")
        return
    try:
        answer = await visit.web.get(visit.dialect.sets, seen.ident)
        if answer.status != 200:
            visit.findings.fail("set.read", f"GET /{visit.dialect.sets}/{seen.ident} answered {answer.said()}")
            return
        again = visit.dialect.read_set(answer.object())
        visit.note(again)
    except (Unreachable, Malformed) as error:
        visit.findings.fail("set.read", str(error))
        return
    faults = [] if again.ident == seen.ident else [f"another set is there: {again.ident or 'without a uuid'}"]
    there = {offer.ident: offer.phase for offer in again.offers}
    for offer in seen.offers:
        if offer.ident not in there:
            faults.append(f"the offer {offer.ident} is not in it any more")
        elif there[offer.ident] != offer.phase:
            faults.append(f"the offer {offer.ident} is {there[offer.ident][:40] or 'without a phase'} in it")
    visit.findings.judge("set.read", faults)
