"""The whole check of one service, in order: find out, ask, look, give back. Imports every other part of the checker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from broker.checker import asking, doors, formats, offers, refusing, releasing
from broker.checker.dialects import F
from broker.checker.findings import Report
from broker.checker.visit import Visit
from broker.checker.web import Web
from broker.client.errors import Unreachable
from broker.client.login import Login


async def check(login: Login, *, request: Mapping[str, Any] | None = None, patience: float = 30.0) -> Report:
    """Probe the service at `login.url`. `request`: what to ask for in place of a small container; `patience`: seconds
    for one call.

    Accepts nothing, and gives back every offer it caused and was told of, when it is interrupted too; what could not
    be given back stands in the report. Raises Unreachable where nobody answers at all; what else fails is a finding.
    """
    async with Web(login, patience) as web:
        visit = Visit(web, F)
        await _greet(visit)
        try:
            signed_in = await asking.probe(visit, request)
            if signed_in:
                await _look(visit)
        finally:
            await visit.give_back()
        _left(visit)
        return _report(visit, signed_in)


async def _greet(visit: Visit) -> None:
    """A reading that changes nothing tells whether anybody is there. Raises Unreachable where nobody is."""
    try:
        await visit.web.get(visit.dialect.sets, str(uuid4()))
    except Unreachable as error:
        if not error.sent:
            raise


async def _look(visit: Visit) -> None:
    await offers.look(visit)
    await formats.formats(visit)
    await doors.doors(visit)
    await refusing.refusals(visit)
    await releasing.release(visit)


def _left(visit: Visit) -> None:
    if visit.caused:
        faults = [f"{ident} is still {visit.caused[ident] or 'there'}" for ident in visit.open]
        visit.findings.judge("left", faults, good=f"{len(visit.caused)} given back")
    elif visit.dialect.sessions:
        visit.findings.ok("left", "nothing was offered")


def _report(visit: Visit, signed_in: bool) -> Report:
    return Report(
        url=str(visit.web.base),
        speaks=visit.dialect.letter if visit.spoken else "",
        dialect=visit.dialect.name if visit.spoken else "",
        asked=visit.asked,
        findings=visit.findings.all(_why(visit, signed_in)),
        left=visit.open,
        signed_out=not signed_in,
    )


def _why(visit: Visit, signed_in: bool) -> str:
    """Why what nobody came to was not looked at."""
    if not signed_in:
        return "it wants a sign-in first"
    if visit.set is None:
        return "there was no offer set to look at"
    if not visit.set.offers and visit.dialect.sessions:
        return "nothing was offered to what we asked for"
    return f"not looked at in dialect {visit.dialect.letter}"
