"""Which dialect is spoken, and one request in it. Imports the judging of the answer, the visit, the dialects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from broker.checker import answering, doors
from broker.checker.dialects import A, B, C, D, Dialect, E, F, request_now
from broker.checker.visit import Visit
from broker.checker.web import Answer
from broker.client.errors import Unreachable
from broker.domain import hops, kinds
from broker.errors import Malformed

_ABSENT = (404, 405, 410, 501)
_SIGN_IN = (401, 403)
_DIALECTS = (F, E, D, C, B, A)
# Asked for where no container is offered, one after the other. Whatever is offered is given back.
_OTHERS = (kinds.JUPYTER_NOTEBOOK, kinds.SINGULARITY_CONTAINER)
_APART = 5.0  # seconds between two clocks from which on offers expire at another time than is written


async def probe(visit: Visit, request: Mapping[str, Any] | None) -> bool:
    """Find the dialect, ask for offers in it, and keep the set. False: a sign-in is wanted that we do not have.

    F first; where its path is not there, the older ones in the order in which they were left."""
    absent: set[tuple[str, str]] = set()
    for dialect in _DIALECTS:
        if dialect.ask in absent:
            continue
        visit.dialect, visit.own = dialect, request is not None and dialect is F
        try:
            answer = await visit.post(request if visit.own else dialect.request(kinds.DOCKER_CONTAINER))
        except Unreachable as error:
            visit.findings.fail("ask.answer", str(error), "what it may have offered is not known here, and will expire")
            return True
        if answer.status in _SIGN_IN:
            doors.closed(visit, answer)
            return False
        if answer.status in _ABSENT:
            absent.add(dialect.ask)
        elif heard := _heard(dialect, answer):
            visit.dialect = heard
            await _converse(visit, answer)
            return True
        elif dialect is F:
            visit.findings.fail("version", "POST /requests is answered, but not as any Execution Broker would")
            await answering.judge(visit, answer)
            return True
    visit.dialect = F
    said = "no path of any dialect is answered as that dialect would"
    visit.findings.fail("version", f"{said}: is this the address of an Execution Broker?")
    return True


def _heard(asked: Dialect, answer: Answer) -> Dialect | None:
    """In which dialect the answer is. A lenient service may answer, in its own, what was asked in another."""
    if asked is F:
        strange = answer.media == "text/html" or (300 <= answer.status < 400 and answer.status != 303)
        return None if strange else F
    try:
        document = answer.object() if answer.status in (200, 303) else {}
    except Malformed:
        return None
    alike = (asked, *(dialect for dialect in _DIALECTS if dialect.ask == asked.ask))
    return next((dialect for dialect in alike if document and dialect.fits(document)), None)


async def _converse(visit: Visit, answer: Answer) -> None:
    _version(visit)
    visit.ours = answer.headers.get(hops.ID, "").strip()[:200]
    visit.findings.note("broker", f"Broker-Id {visit.ours}" if visit.ours else "no Broker-Id: another implementation")
    _clock(visit, answer)
    await _ask_on(visit, answer)


def _version(visit: Visit) -> None:
    dialect = visit.dialect
    visit.spoken = True
    if dialect is F:
        visit.findings.ok("version")
    else:
        visit.findings.fail("version", f"it speaks dialect {dialect.letter}, {dialect.name}")


def _clock(visit: Visit, answer: Answer) -> None:
    offset = answer.clock_offset()
    visit.offset = offset or 0.0
    if offset is None:
        visit.findings.warn("clock", "no Date header that can be read")
    elif abs(offset) > _APART:
        visit.findings.warn("clock", f"its clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}")
    else:
        visit.findings.ok("clock")


async def _ask_on(visit: Visit, answer: Answer) -> None:
    """Ask for one kind after the other until one is offered; what is judged is the last answer."""
    visit.asked = "what was given" if visit.own else kinds.short(kinds.DOCKER_CONTAINER)
    others = (*_OTHERS, *_ours(visit)) if visit.dialect is F and not visit.own else ()
    try:
        seen = await visit.take(answer)
        for kind in others:
            if seen is not None and seen.offers:
                break
            visit.asked = kinds.short(kind)
            answer = await visit.post(request_now(kind))
            seen = await visit.take(answer)
    except (Unreachable, Malformed):
        pass  # the answer that there is is judged
    await answering.judge(visit, answer)


def _ours(visit: Visit) -> Sequence[str]:
    return (kinds.PYTHON_PROGRAM,) if visit.ours else ()
