"""What cannot be done is refused: a 4xx each time, never a 5xx, never an offer. Imports the visit, the kinds."""

from __future__ import annotations

from collections.abc import Awaitable, Container
from uuid import uuid4

from broker.checker.visit import Visit
from broker.checker.web import JSON, Answer
from broker.client.errors import Unreachable
from broker.domain import kinds
from broker.errors import Malformed

_STRANGE = "uri:broker-check-unknown-1.0"


async def refusals(visit: Visit) -> None:
    """Ask for what is not there and send what cannot be read."""
    sets, sessions = visit.dialect.sets, visit.dialect.sessions
    if sets:
        await _expect(visit, "refuse.set", (404, 410), visit.web.get(sets, str(uuid4())))
    if sessions:
        await _expect(visit, "refuse.session", (404, 410), visit.web.get(sessions, str(uuid4())))
        await _expect(visit, "refuse.uuid", range(400, 500), visit.web.get(sessions, "no-uuid"))
    method, path = visit.dialect.ask
    if method != "POST":
        return
    url, refused = visit.web.at(path), range(400, 500)
    bodies = {"refuse.body": (b'{"executable": ', JSON), "refuse.shape": (b"[1, 2]", JSON)}
    bodies["refuse.media"] = (b"an executable, please", "text/plain")
    for check, (body, media) in bodies.items():
        answer = visit.web.call("POST", url, body=body, media=media)
        await _expect(visit, check, refused, answer)
    if visit.dialect.faults is None:
        await _strange(visit)


async def _expect(visit: Visit, check: str, good: Container[int], call: Awaitable[Answer]) -> None:
    try:
        answer = await call
        taken = await visit.take(answer) if answer.method == "POST" else None
    except (Unreachable, Malformed) as error:
        visit.findings.fail(check, str(error))
        return
    if answer.status in good or answer.status in (401, 403):
        visit.findings.ok(check, str(answer.status))
    elif taken is not None and taken.result == "NO":
        visit.findings.warn(check, "answered NO where the request cannot be read")
    else:
        visit.findings.fail(check, f"answered {answer.said()}")


async def _strange(visit: Visit) -> None:
    """The draft promises NO; services in the field refuse with 400. Both are answers."""
    request = visit.dialect.request(kinds.DOCKER_CONTAINER)
    request = {**request, "executable": {**request["executable"], "kind": _STRANGE}}
    try:
        answer = await visit.post(request)
        seen = await visit.take(answer)
    except (Unreachable, Malformed) as error:
        visit.findings.fail("refuse.kind", str(error))
        return
    if 400 <= answer.status < 500:
        visit.findings.ok("refuse.kind", str(answer.status))
    elif seen is not None and seen.result == "NO":
        visit.findings.ok("refuse.kind", "NO")
    elif seen is not None and seen.offers and all(offer.simulated for offer in seen.offers):
        visit.findings.note("refuse.kind", "offered by a rehearsal, which takes every kind")
    elif seen is not None and seen.offers:
        visit.findings.fail("refuse.kind", f"offered {len(seen.offers)} times, though nobody knows it")
    else:
        visit.findings.fail("refuse.kind", f"answered {answer.said()}")
