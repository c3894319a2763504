"""Who is let in, and how those are told who are not. Imports the visit and what it is made of."""

from __future__ import annotations

from broker.checker.visit import Visit
from broker.checker.web import Answer
from broker.client.errors import Unreachable


async def doors(visit: Visit) -> None:
    """With credentials: the same calls without. A body that cannot be read makes no offer where all may ask."""
    if not visit.web.signed:
        visit.findings.note("auth.post", "open: we asked without signing in")
        visit.findings.skip("auth.identity", "we did not sign in")
        if visit.set is not None and visit.dialect.sets:
            visit.findings.note("auth.read", "public: we read without signing in")
        return
    method, path = visit.dialect.ask
    try:
        if method == "POST":
            answer = await visit.web.call("POST", visit.web.at(path), body=b'{"', signed=False)
            _door(visit, "auth.post", answer, "whoever comes may ask")
        if visit.set is not None and visit.set.ident and visit.dialect.sets:
            answer = await visit.web.get(visit.dialect.sets, visit.set.ident, signed=False)
            _door(visit, "auth.read", answer, "public" if answer.status == 200 else "")
            signed = await visit.web.get(visit.dialect.sets, visit.set.ident)
            _identity(visit, signed, answer)
    except Unreachable as error:
        visit.findings.fail("auth.post", str(error))


def closed(visit: Visit, answer: Answer) -> None:
    """Nothing is told before one signs in; how that is said can still be judged."""
    _door(visit, "auth.post", answer, "")


def _door(visit: Visit, check: str, answer: Answer, open_: str) -> None:
    challenge = answer.headers.get("WWW-Authenticate", "")
    if answer.status == 401 and not challenge:
        visit.findings.fail(check, "401 without WWW-Authenticate, so no client knows how to sign in")
    elif answer.status == 401:
        visit.findings.ok(check, f"401, {challenge.partition(' ')[0]}")
    elif answer.status in (403, 404):
        visit.findings.note(check, f"{answer.status}: not without signing in, and nothing says how")
    elif answer.status >= 500:
        visit.findings.fail(check, f"answered {answer.said()}")
    else:
        visit.findings.note(check, open_ or f"answered {answer.said()}")


def _identity(visit: Visit, signed: Answer, unsigned: Answer) -> None:
    name = "X-VO-Authenticated"
    if name in unsigned.headers:
        visit.findings.warn("auth.identity", "an answer to nobody in particular names an identity")
    elif name in signed.headers:
        visit.findings.ok("auth.identity")
    else:
        visit.findings.note("auth.identity", f"no {name}")
