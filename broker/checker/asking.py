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
# Asked for one after the other, until one is offered. Whatever is offered is given back.
_TRIED = (kinds.DOCKER_CONTAINER, kinds.JUPYTER_NOTEBOOK, kinds.SINGULARITY_CONTAINER)
_APART = 5.0  # seconds between two clocks from which on offers expire at another time than is written


async def probe(visit: Visit, request: Mapping[str, Any] | None) -> bool:
    """Find the dialect, ask for offers in it, and keep the set. False: a sign-in is wanted that we do not have.

    F first; where its path is not there, the older ones in the order in which they were left."""
    absent: set[str] = set()
    for dialect in (F, E, D, C, B, A):
        path = dialect.ask[1]
        if path in absent:
            continue
        visit.dialect = dialect
        try:
            answer = await visit.post(_question(dialect, kinds.DOCKER_CONTAINER, request))
        except Unreachable as error:
            visit.findings.fail("ask.answer", str(error), "what it may have offered is not known here, and will expire")
            return True
        if answer.status in _SIGN_IN:
            doors.closed(visit, answer)
            return False
        if answer.status in _ABSENT:
            absent.add(path)
        elif dialect is F or _speaks(dialect, answer):
            _version(visit, answer)
            await _ask_on(visit, answer, request)
            return True
    visit.dialect = F
    said = "no path of any dialect is answered as that dialect would"
    visit.findings.fail("version", f"{said}: is this the address of an Execution Broker?")
    return True


def _question(dialect: Dialect, kind: str, request: Mapping[str, Any] | None) -> Any:
    return request if request is not None and dialect is F else dialect.request(kind)


def _speaks(dialect: Dialect, answer: Answer) -> bool:
    try:
        return answer.status in (200, 303) and dialect.fits(answer.object())
    except Malformed:
        return False


def _version(visit: Visit, answer: Answer) -> None:
    dialect = visit.dialect
    visit.spoken = True
    if dialect is F:
        visit.findings.ok("version")
    else:
        visit.findings.fail("version", f"it speaks dialect {dialect.letter}, {dialect.name}")
    visit.ours = answer.headers.get(hops.ID, "").strip()[:200]
    visit.findings.note("broker", f"Broker-Id {visit.ours}" if visit.ours else "no Broker-Id: another implementation")
    offset = answer.clock_offset()
    visit.offset = offset or 0.0
    if offset is None:
        visit.findings.warn("clock", "no Date header that can be read")
    elif abs(offset) > _APART:
        visit.findings.warn("clock", f"its clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}")
    else:
        visit.findings.ok("clock")


async def _ask_on(visit: Visit, answer: Answer, request: Mapping[str, Any] | None) -> None:
    """Ask for one kind after the other until one is offered; what is judged is the last answer."""
    tried = [kinds.DOCKER_CONTAINER, *((*_TRIED[1:], *_ours(visit)) if visit.dialect is F and not request else ())]
    for kind in tried:
        visit.asked = "what was given" if request else kinds.short(kind)
        try:
            if kind != tried[0]:
                answer = await visit.post(request_now(kind))
            seen = await visit.take(answer)
        except (Unreachable, Malformed):
            break  # the answer is judged below
        if seen is not None and seen.offers:
            break
    await answering.judge(visit, answer)


def _ours(visit: Visit) -> Sequence[str]:
    return (kinds.PYTHON_PROGRAM,) if visit.ours else ()
