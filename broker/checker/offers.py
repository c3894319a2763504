"""Whether each offer says what a person or a broker needs in order to choose. Imports the visit, the domain's times."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

from yarl import URL

from broker.checker.answering import described, grave
from broker.checker.dialects import CORES, MEMORY, Object, Seen, SetSeen
from broker.checker.findings import Level
from broker.checker.visit import Visit
from broker.client.errors import Unreachable
from broker.domain.quantities import Interval, parse_instant
from broker.errors import Malformed

_CHANGES = {"ACCEPTED", "REJECTED"}


async def look(visit: Visit) -> None:
    """Every check of the offers at hand; nothing is asked but one session read."""
    if visit.set is None:
        return
    if visit.dialect.named:
        _urls(visit, visit.set)
    if not visit.set.offers:
        return
    _phases(visit, visit.set)
    _expiries(visit, visit.set)
    if visit.dialect.named:
        _options(visit, visit.set)
        _costs(visit, visit.set)
    _starts(visit, visit.set)
    if not visit.own:
        _sizes(visit, visit.set)
    await _read(visit, visit.set.offers[0])


def _each(seen: SetSeen) -> Iterator[tuple[str, Seen]]:
    for i, offer in enumerate(seen.offers):
        yield f"offers[{i}]", offer


def _phases(visit: Visit, seen: SetSeen) -> None:
    faults = [
        f"{at} is {offer.phase[:40] or 'without a phase'}" for at, offer in _each(seen) if offer.phase != "OFFERED"
    ]
    faults += [f"{at} has no uuid that can stand in a path" for at, offer in _each(seen) if not offer.ident]
    counts = Counter(offer.ident for offer in seen.offers if offer.ident)
    faults += [f"{count} offers have the uuid {ident}" for ident, count in counts.items() if count > 1]
    visit.findings.judge("offer.phase", faults)


def _expiries(visit: Visit, seen: SetSeen) -> None:
    now = time.time() + visit.offset
    faults, left = [], []
    for at, offer in _each(seen):
        moment = _instant(offer.expires)
        if not offer.expires:
            faults.append(f"{at} says no expiry")
        elif moment is None:
            faults.append(f"{at}: {offer.expires[:60]!r} is no instant")
        elif moment.timestamp() <= now:
            faults.append(f"{at} ended {now - moment.timestamp():.0f} s before it was offered")
        else:
            left.append(moment.timestamp() - now)
    visit.findings.judge("offer.expires", faults, good=f"in {min(left):.0f} s at the soonest" if left else "")


def _instant(text: str) -> datetime | None:
    try:
        return parse_instant(text)
    except ValueError:
        return None


def _options(visit: Visit, seen: SetSeen) -> None:
    faults = []
    for at, offer in _each(seen):
        values = {
            value
            for option in offer.options
            if str(option.get("path", "")).strip("/") == "phase" and isinstance(option.get("values"), list)
            for value in option["values"]
            if isinstance(value, str)
        }
        if missing := _CHANGES - values:
            faults.append(f"{at} does not say that it can be {' or '.join(sorted(missing))}")
    visit.findings.judge("offer.options", faults, Level.WARN)


def _costs(visit: Visit, seen: SetSeen) -> None:
    faults = [fault for at, offer in _each(seen) for i, cost in enumerate(offer.costs) for fault in _cost(at, i, cost)]
    if faults:
        visit.findings.judge("offer.costs", faults)
        return
    without = [f"{at} says no costs: neither free nor a price" for at, offer in _each(seen) if not offer.costs]
    visit.findings.judge("offer.costs", without, Level.WARN)


def _cost(at: str, i: int, cost: Object) -> Iterator[str]:
    if not isinstance(cost.get("type"), str) or ":" not in cost["type"]:
        yield f"{at}.costs[{i}] has no type: nobody knows of what it is the amount"
    amounts = [cost[name] for name in ("min", "max") if name in cost]
    numbers = [amount for amount in amounts if isinstance(amount, int | float) and not isinstance(amount, bool)]
    if not numbers or len(numbers) < len(amounts):
        yield f"{at}.costs[{i}] has no amount"
    elif numbers != sorted(numbers):
        yield f"{at}.costs[{i}]: its minimum {numbers[0]} is above its maximum {numbers[1]}"


def _starts(visit: Visit, seen: SetSeen) -> None:
    missing = [f"{at} says no start" for at, offer in _each(seen) if not offer.start]
    wrong = [f"{at}: {offer.start[:60]!r} is no interval" for at, offer in _each(seen) if _bad(offer.start)]
    visit.findings.judge("offer.start", [*wrong, *missing], Level.FAIL if wrong else Level.WARN)


def _bad(start: str) -> bool:
    try:
        return bool(start) and Interval.parse(start) is None
    except ValueError:
        return _instant(start) is None  # the draft knows instants as well


def _sizes(visit: Visit, seen: SetSeen) -> None:
    below, above = [], []
    for at, offer in _each(seen):
        for name, asked, size in (("cores", CORES, offer.cores), ("memory", MEMORY, offer.memory)):
            amounts = [size.get(edge) for edge in ("min", "max")] if size else []
            known = [amount for amount in amounts if isinstance(amount, int | float)]
            if known and max(known) < asked:
                below.append(f"{at}: {name} {max(known)} where {asked} were asked for")
            elif known and min(known) > asked:
                above.append(f"{at}: {name} {min(known)} where at most {asked} were asked for")
    visit.findings.judge("offer.size", [*below, *above], Level.FAIL if below else Level.WARN)


async def _read(visit: Visit, offer: Seen) -> None:
    if not offer.ident:
        return
    where, faults = f"GET /{visit.dialect.sessions}/{offer.ident}", list[str]()
    try:
        answer = await visit.web.get(visit.dialect.sessions, offer.ident)
        if answer.status != 200:
            visit.findings.fail("session.read", f"{where} answered {answer.said()}")
            return
        document = answer.object()
    except (Unreachable, Malformed) as error:
        visit.findings.fail("session.read", str(error))
        return
    seen = visit.dialect.read_session(document)
    if visit.dialect.faults is None:
        faults += grave(described(document, "AbstractExecutionSession"))
    if seen.ident != offer.ident:
        faults.append(f"{where} is the session {seen.ident or 'of no uuid'}")
    if seen.phase != offer.phase:
        faults.append(f"{where} is {seen.phase[:40] or 'of no phase'}, and was offered as {offer.phase[:40]}")
    visit.findings.judge("session.read", faults)


def _urls(visit: Visit, seen: SetSeen) -> None:
    """A proxy in front that is not told of its public name shows here first."""
    faults = []
    for at, ident, url in (("the set", seen.ident, seen.url), *((at, o.ident, o.url) for at, o in _each(seen))):
        if not url:
            faults.append(f"{at} has no URL")
        elif not _leads(url, visit.web.base, ident):
            faults.append(f"{at}: {url[:100]} is not where it was asked for")
    visit.findings.judge("urls", faults, Level.WARN)


def _leads(text: str, base: URL, ident: str) -> bool:
    try:
        url = base.join(URL(text))
        return url.origin() == base.origin() and url.name == ident
    except ValueError:
        return False
