"""The table of a batch: a line a run, what they come to together, what can be done next. Imports the table; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from broker.client.batch import Batch, Member
from broker.client.facts import Facts, facts
from broker.client.table import Column, Look, cell
from broker.client.words import clock, columns, count, cut, money, pad, plain, size, zone_name
from broker.domain.session import Bounds, SimpleExecutionSession

HANDLE = "each-"
_LONGEST = 24  # of a name or a site

_HEADS = ("run", "state", "site", "pay", "currency", "start", "result", "bytes", "set", "session", "why")


def handle(batch: Batch) -> str:
    return f"{HANDLE}{str(batch.uuid)[:4]}"


def table(batch: Batch, look: Look) -> str:
    """Without a final line feed."""
    known = [(member, _facts(member)) for member in batch]
    left = f"{count(len(batch), 'run')}: {_states(batch)}"
    right = f"batch {handle(batch)}"
    lines = [pad(left, look.width - columns(right) - 1) + f" {right}"]
    lines += _lines(known, look)
    lines += _totals(known, look)
    lines += _next(batch, look)
    return "\n".join(cut(line.rstrip(), look.width) for line in lines)


def tsv(batch: Batch) -> str:
    """Times in UTC, bytes and money as plain numbers, what is not known empty."""
    lines = ["\t".join(_HEADS)]
    for member in batch:
        found = _facts(member)
        pay = found.pay if found else None
        known: tuple[object, ...] = (
            member.name, member.state, found.site if found else None, pay.expected if pay else None,
            pay.unit if pay else None, found.start if found else None, found.result if found else None,
            found.moves.expected if found and found.moves else None, member.offers.uuid if member.offers else None,
            found.session if found else None, why(member),
        )  # fmt: skip
        lines.append("\t".join(cell(value) for value in known))
    return "\n".join(lines)


def why(member: Member) -> str:
    """What stands in the way of a run that failed; empty for others."""
    if member.error is not None:
        return plain(member.error)
    if not member.failed:
        return ""
    if member.session is not None:
        return plain(member.session.messages[-1] if member.session.messages else "")
    told = [
        f"{note.site}: {note.reasons[0]}" for note in (member.offers.outcomes if member.offers else ()) if note.reasons
    ]
    return plain("; ".join(told))


def _facts(member: Member) -> Facts | None:
    document: SimpleExecutionSession | None = None
    if member.session is not None:
        document = member.session.document
    elif member.best is not None:
        document = member.best.document
    return facts(document, 1) if document is not None else None


def _states(batch: Batch) -> str:
    states = [member.state for member in batch]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _lines(known: Sequence[tuple[Member, Facts | None]], look: Look) -> list[str]:
    good = [(member, found) for member, found in known if found is not None and not member.failed]
    bad = [member for member, found in known if member.failed or found is None]
    names = [cut(plain(member.name), _LONGEST) for member, _ in good]
    lines = []
    if good:
        drawn = [
            Column("RUN", [(name, "") for name in names], right=False),
            Column("SITE", [(cut(plain(found.site), _LONGEST), "") for _, found in good], right=False),
            Column(f"PAY {_unit(good)}".strip(), [_money(found.pay) for _, found in good]),
            Column("START", [(_time(found.start, look), "" if found.reserved else "~") for _, found in good]),
            Column("RESULT", [(_time(found.result, look), "" if found.reserved else "~") for _, found in good]),
            Column("MOVES", [(_moved(found.moves), "") for _, found in good]),
            Column("STATE", [(member.state, "") for member, _ in good], right=False),
        ]
        rows = zip(*(column.lines() for column in drawn), strict=True)
        lines = ["    " + "  ".join(row) for row in rows]
    room = max((columns(plain(member.name)) for member in bad), default=0)
    lines += [
        f"{_mark(member)} {pad(cut(plain(member.name), _LONGEST), min(room, _LONGEST))}  {why(member)}"
        for member in bad
    ]
    return lines


def _mark(member: Member) -> str:
    return "NO " if member.state == "NO" else "-- "


def _unit(known: Sequence[tuple[Member, Facts]]) -> str:
    units = {found.pay.unit for _, found in known if found.pay and found.pay.unit}
    return units.pop() if len(units) == 1 else ""


def _money(pay: Bounds | None) -> tuple[str, str]:
    if pay is None:
        return "?", ""
    return ("free" if pay.pessimistic <= 0 else money(pay.expected)), "?" if pay.stand_in else ""


def _time(when: datetime | None, look: Look) -> str:
    return clock(when, look.zone, look.now) if when else "?"


def _moved(moves: Bounds | None) -> str:
    return size(moves.expected) if moves else "?"


def _totals(known: Sequence[tuple[Member, Facts | None]], look: Look) -> list[str]:
    """What all runs that have offers, or are taken, come to. What is not known is counted apart, never as nothing."""
    good = [found for member, found in known if found is not None and not member.failed]
    pays = [found.pay for found in good if found.pay is not None and not found.pay.stand_in]
    if not good:
        return []
    units = sorted({pay.unit or "" for pay in pays})
    sums = [_sum([pay for pay in pays if (pay.unit or "") == unit], unit) for unit in units]
    if len(pays) < len(good):
        sums.append(f"{len(good) - len(pays)} of unknown price")
    ends = [found.result for found in good if found.result is not None]
    last = f"; last result {_time(max(ends), look)}" if ends else ""
    return [f"Together: {', '.join(sums)}{last}   times {zone_name(look.now, look.zone)}"]


def _sum(pays: Sequence[Bounds], unit: str) -> str:
    expected, worst = sum(pay.expected for pay in pays), sum(pay.pessimistic for pay in pays)
    if worst <= 0:
        return "free"
    most = f" (at most {money(worst)})" if money(worst) != money(expected) else ""
    return f"{money(expected)} {unit}{most}".replace("  ", " ")


def _next(batch: Batch, look: Look) -> list[str]:
    if not look.hints:
        return []
    open_ = [member for member in batch if member.session is None and member.best is not None]
    lines = []
    if open_:
        ends = [member.best.document.expires for member in open_ if member.best and member.best.document.expires]
        until = f" (until {_time(min(ends), look)})" if ends else ""
        lines.append(f"broker accept {handle(batch)} takes the best offer of each{until}")
    if batch.failed:
        lines.append(f"broker submit --again {handle(batch)} asks anew for {len(batch.failed)} that failed")
    return lines
