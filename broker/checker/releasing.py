"""Whether an offer can be given back, and reads so afterwards. Imports the visit and what it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator

from broker.checker.visit import OVER, Visit
from broker.client.errors import Unreachable
from broker.errors import Malformed

_DREAM = "DREAMING"
_WATCHED = 3  # offers


async def release(visit: Visit) -> None:
    """The first offers, closely watched; whatever else there is, `give_back` rejects."""
    if not visit.dialect.sessions or visit.set is None:
        return
    watched = [offer.ident for offer in visit.set.offers if offer.ident and offer.phase == "OFFERED"][:_WATCHED]
    if watched and visit.dialect.named:
        await _dream(visit, watched[0])
    for ident in watched:
        visit.findings.judge("release", [fault async for fault in _released(visit, ident)])


async def _dream(visit: Visit, ident: str) -> None:
    """A phase that is none: refused, or, as in the field, answered 200 with the session as it was."""
    try:
        answer = await visit.update(ident, _DREAM)
        seen = await visit.read(ident)
    except (Unreachable, Malformed) as error:
        visit.findings.fail("refuse.update", str(error))
        return
    if answer.status >= 500:
        visit.findings.fail("refuse.update", f"answered {answer.said()}")
    elif seen is None or seen.phase != "OFFERED":
        visit.findings.fail("refuse.update", f"afterwards the offer reads {seen.phase[:40] if seen else 'as nothing'}")
    elif answer.status == 200:
        visit.findings.warn("refuse.update", "200, and nothing says that it was refused")
    else:
        visit.findings.ok("refuse.update", str(answer.status))


async def _released(visit: Visit, ident: str) -> AsyncIterator[str]:
    try:
        told = await visit.change(ident, "REJECTED")
        if told is not None and told.phase not in OVER:
            yield f"{ident}: REJECTED was answered with {told.phase[:40] or 'no phase'}"
        seen = await visit.read(ident)
        if seen is None or seen.phase not in OVER:
            yield f"{ident}: reads {seen.phase[:40] if seen else 'as nothing'} after it was rejected"
    except (Unreachable, Malformed) as error:
        yield f"{ident}: {error}"
