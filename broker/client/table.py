"""The table of offers, for a terminal of 80 or 120 columns and for a pipe. Imports the domain alone; pure.

It must be readable without colour, numbers right-aligned, and true: what is billed stands apart from what ranks, an
estimate from a reservation, a stand-in from a figure. Texts of sites are defused (`words.plain`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

from broker.client import datatable
from broker.client.facts import Facts, available, facts, in_doubt
from broker.client.words import clock, columns, count, cut, money, pad, plain, short, size, span, wrap, zone_name
from broker.domain.components import AbstractComponent
from broker.domain.quantities import format_instant
from broker.domain.request import ExecutionRequest
from broker.domain.session import Bounds, OfferSetResponse, OutcomeNote, SimpleExecutionSession

WIDE = 120
_SHORTEST_WHY, _SHORTEST_SITE, _LONGEST_NAMES = 12, 8, 16
# What goes first where a line is too short; site names are cut after that.
_SPARED = ("FROM", "ORIGIN", "(latest)", "PLATFORM", "CO2e", "GiB", "CPU", "MOVES")


@dataclass(frozen=True)
class Look:
    """How to draw: `zone` None is this machine's, `took` the seconds the answer took, where known. `hints`: with the
    commands that come next."""

    width: int
    now: datetime
    zone: tzinfo | None = None
    took: float | None = None
    hints: bool = True

    @property
    def wide(self) -> bool:
        return self.width >= WIDE


@dataclass(frozen=True)
class Column:
    """Cells are a text and a mark of one character behind it (`~`, `?` or none), so that figures stay aligned."""

    head: str
    cells: Sequence[tuple[str, str]]
    right: bool = True

    def lines(self, room: int | None = None) -> list[str]:
        marked = any(mark for _, mark in self.cells)
        texts = [text + (mark or " " if marked else "") for text, mark in self.cells]
        texts = [self.head + (" " if marked and self.right else ""), *texts]
        if room is not None:
            texts = [cut(text, room) for text in texts]
        width = max(map(columns, texts))
        return [pad(text, width, right=self.right) for text in texts]


def offers(response: OfferSetResponse, look: Look, request: ExecutionRequest | None = None) -> str:
    """The whole table, without a final line feed."""
    rows = ranked(response)
    everything = all_facts(response)
    names = [fact.site for fact in everything] + [note.site for note in _silent(response)]
    site_room = max(columns(plain(name)) for name in ("SITE", *names))
    lines = _head(response, look, rows, request)
    if rows:
        lines += _body(rows, look, site_room)
    lines += _refusals(response, everything, look, min(site_room, 24))
    lines += datatable.unknowns(response, look.width)
    lines += _legend(response, rows, look)
    return "\n".join(line.rstrip() for line in lines)


def all_facts(response: OfferSetResponse) -> list[Facts]:
    sessions = [offer for offer in response.offers or () if isinstance(offer, SimpleExecutionSession)]
    return [
        facts(session, place if session.ranking is None else session.ranking.rank)
        for place, session in enumerate(sessions, 1)
    ]


def ranked(response: OfferSetResponse) -> list[Facts]:
    """The offers that have a rank, best first."""
    rows = [fact for fact in all_facts(response) if fact.rank is not None and not fact.excluded]
    return sorted(rows, key=lambda fact: fact.rank or 0)


# ── head ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _head(response: OfferSetResponse, look: Look, rows: list[Facts], request: ExecutionRequest | None) -> list[str]:
    asked = ", ".join(_asked(response, rows, request))
    name = plain(request.name if request else _name(response)) or "request"
    left = f"{name}: {asked}" if asked else name
    right = "   ".join(part for part in (_answered(response, look), f"set {short(response.uuid)}") if part)
    if columns(left) + columns(right) + 3 <= look.width:
        return [pad(left, look.width - columns(right)) + right]
    return [*wrap(left, look.width), pad(right, look.width, right=True)]


def _name(response: OfferSetResponse) -> str:
    for offer in response.offers or ():
        executable = getattr(offer, "executable", None)
        if isinstance(executable, AbstractComponent) and executable.name:
            return executable.name
    return response.name


def _asked(response: OfferSetResponse, rows: list[Facts], request: ExecutionRequest | None) -> list[str]:
    parts = []
    if request is not None:
        parts += [_sizes(request.cores, "core"), f"{_range(request.memory)} GiB", span(request.duration)]
    elif rows and rows[0].cores is not None:
        slot = next((available(o) for o in response.offers or () if isinstance(o, SimpleExecutionSession)), None)
        parts += [count(rows[0].cores, "core"), f"{rows[0].memory} GiB" if rows[0].memory is not None else ""]
        parts += [span(slot.duration) if slot and slot.duration is not None else ""]
    preset = response.preferences.preset if response.preferences else None
    parts += [_volume(response, rows), preset if preset and preset != "balanced" else ""]
    return [part for part in parts if part]


def _volume(response: OfferSetResponse, rows: list[Facts]) -> str:
    """How much data the request names, as far as that is known."""
    volume = datatable.volume(response)
    if volume is None:
        moved = max((row.moves.expected for row in rows if row.moves and not row.moves.stand_in), default=0.0)
        return f"{size(moved)} of data" if moved else ""
    known, all_known = volume
    if not all_known:
        return f"more than {size(known)} of data" if known else "data of unknown size"
    return f"{size(known)} of data" if known else ""


def _range(pair: tuple[int, int | None]) -> str:
    low, high = pair
    return f"{low}" if high is None or high == low else f"{low} to {high}"


def _sizes(pair: tuple[int, int | None], noun: str) -> str:
    return f"{_range(pair)} {noun}" + ("" if pair[0] == 1 and pair[1] in (None, 1) else "s")


def _answered(response: OfferSetResponse, look: Look) -> str:
    notes = response.outcomes or ()
    if not notes:
        return ""
    took = look.took if look.took is not None else max((note.latency or 0.0 for note in notes), default=0.0)
    return count(len(notes), "site") + (f" in {_brief(took)}" if took else "")


def _brief(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.0f} ms"


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _body(rows: list[Facts], look: Look, site_room: int) -> list[str]:
    shown = _columns(rows, look)
    for spared in _SPARED:
        if sum(columns(column.lines()[0]) + 1 for column in shown) + site_room + _SHORTEST_WHY + 5 > look.width:
            shown = [column for column in shown if column.head != spared]
    rest = [column.lines() for column in shown]
    lead = Column("", [(f"{'*' if row.trade_off else ' '} {row.rank}", "") for row in rows], right=False).lines()
    gap = 1 if look.wide else 2
    fixed = columns(lead[0]) + 1 + gap + sum(columns(lines[0]) + gap for lines in rest)
    if fixed + site_room + _SHORTEST_WHY > look.width:
        fixed, gap = fixed - (gap - 1) * (len(rest) + 1), 1
    room = max(_SHORTEST_SITE, min(site_room, look.width - fixed - _SHORTEST_WHY))
    sites = Column("SITE", [(plain(row.site), "") for row in rows], right=False).lines(room)
    blocks = [sites, *rest]
    left = [" ".join((lead[i], (" " * gap).join(block[i] for block in blocks))) for i in range(len(rows) + 1)]
    whys = ["WHY", *(plain(row.why) for row in rows)]
    reach = columns(left[0]) + gap
    return [f"{line}{' ' * gap}{_fit(why, max(0, look.width - reach))}" for line, why in zip(left, whys, strict=True)]


def _fit(why: str, room: int) -> str:
    """What was promised goes before a word is cut: `cheaper, but 26 min queue, 12 min promised`."""
    shorter = why.rpartition(", ")[0]
    return cut(shorter if columns(why) > room and why.endswith(" promised") and shorter else why, room)


def _columns(rows: list[Facts], look: Look) -> list[Column]:
    """The columns between site and why, those left out in which every row would say the same nothing."""
    built = _wide_columns(rows, look) if look.wide else _narrow_columns(rows, look)
    return [
        column
        for column in built
        if column.head.startswith(("PAY", "PRICE"))
        or any(text.strip("-? ") for text, _ in column.cells)
        or (column.head == "MOVES" and any(row.unsure for row in rows))
    ]


def _narrow_columns(rows: list[Facts], look: Look) -> list[Column]:
    pay = [] if all(row.free for row in rows) else [_money_column("PAY", rows, lambda row: row.pay, free=True)]
    times = [_time("START", rows, look, lambda row: row.start), _time("RESULT", rows, look, lambda row: row.result)]
    return [*pay, *times, _moves(rows), _all_in(rows)]


def _wide_columns(rows: list[Facts], look: Look) -> list[Column]:
    origin = [(cut(plain(row.origin), _LONGEST_NAMES) if row.origin != row.site else "", "") for row in rows]
    prices = [] if all(row.free for row in rows) else [
        _money_column("PRICE", rows, lambda row: row.price, free=True),
        _money_column("EGRESS", rows, lambda row: row.egress, unit=False),
    ]  # fmt: skip
    platforms = [(cut(plain(row.platform), _LONGEST_NAMES), "") for row in rows]
    return [
        Column("ORIGIN", origin, right=False),
        Column("PLATFORM", platforms, right=False),
        *prices,
        _time("START", rows, look, lambda row: row.start),
        _time("RESULT", rows, look, lambda row: row.result),
        _time("(latest)", rows, look, lambda row: row.latest, marks=False),
        Column("CPU", [(str(row.cores) if row.cores is not None else "-", "") for row in rows]),
        Column("GiB", [(str(row.memory) if row.memory is not None else "-", "") for row in rows]),
        _moves(rows),
        Column("FROM", [(cut(plain(",".join(row.sources)), _LONGEST_NAMES) or "-", "") for row in rows], right=False),
        Column("CO2e", [(_figure(row.carbon), "") for row in rows]),
        _all_in(rows),
        Column("(worst)", [(money(row.all_in.pessimistic) if row.all_in else "-", "") for row in rows]),
    ]


def _money_column(
    head: str, rows: list[Facts], of: Callable[[Facts], Bounds | None], *, free: bool = False, unit: bool = True
) -> Column:
    """Amounts of one currency name it once, in the head."""
    units = {bounds.unit for row in rows if (bounds := of(row)) and bounds.unit}
    mixed = len(units) > 1
    cells = []
    for row in rows:
        bounds = of(row)
        if bounds is None:
            cells.append(("?" if free else "-", ""))
        elif free and row.free:
            cells.append(("free", ""))
        else:
            text = money(bounds.expected) + (f" {plain(bounds.unit)}" if mixed and bounds.unit else "")
            cells.append((text, "?" if bounds.stand_in else ""))
    return Column(f"{head} {plain(units.pop())}" if unit and len(units) == 1 else head, cells)


def _time(
    head: str, rows: list[Facts], look: Look, of: Callable[[Facts], datetime | None], *, marks: bool = True
) -> Column:
    cells = []
    for row in rows:
        moment = of(row)
        text = clock(moment, look.zone, look.now) if moment else "-"
        cells.append((text, "~" if moment and marks and not row.reserved else ""))
    return Column(head, cells)


def _moves(rows: list[Facts]) -> Column:
    return Column("MOVES", [_moved(row) for row in rows])


def _moved(row: Facts) -> tuple[str, str]:
    """Bytes that move; of what is known only in part, those that surely do; `0 cached`: the site has them already."""
    moves = row.moves
    if moves is None:
        return (f">{size(row.least)}" if row.least else "?", "") if row.unsure else ("-", "")
    cached = " cached" if row.cached and not moves.expected else ""
    return (size(moves.expected) + cached, "?" if moves.stand_in else "")


def _all_in(rows: list[Facts]) -> Column:
    cells = [(money(row.all_in.expected) if row.all_in else "-", "?" if row.guessed else "") for row in rows]
    return Column("ALL-IN", cells)


def _figure(bounds: Bounds | None) -> str:
    return f"{bounds.expected:.3g}" if bounds else "?"


# ── refusals and legend ──────────────────────────────────────────────────────────────────────────────────────


def _silent(response: OfferSetResponse) -> list[OutcomeNote]:
    """Sites that gave no offer: first those that say no, then those that say nothing."""
    notes = [note for note in response.outcomes or () if note.outcome != "Offered"]
    return sorted(notes, key=lambda note: (not says_no(note), note.site))


def says_no(note: OutcomeNote) -> bool:
    """The site, or the broker who knows it, says that this request does not go there: asking again changes nothing."""
    return note.outcome == "Declined" or (note.outcome == "Skipped" and note.retry_after is None and not note.acts)


def _refusals(response: OfferSetResponse, everything: list[Facts], look: Look, site_room: int) -> list[str]:
    lines = []
    for fact in everything:
        if fact.excluded:
            lines += _refusal("NO", fact.site, f"its offer is left out: {fact.excluded}", look, site_room)
    for note in _silent(response):
        mark = "NO" if says_no(note) else "--"
        lines += _refusal(mark, note.site, _reason(note), look, site_room)
    if not response.outcomes and response.result == "NO":
        for text in (item.message or item.template or "" for item in (response.meta and response.meta.messages) or ()):
            lines += wrap(plain(text), look.width)
    return lines


def _refusal(mark: str, site: str, reason: str, look: Look, site_room: int) -> list[str]:
    start = f"{mark}  {pad(cut(plain(site), site_room), site_room)}  "
    first, *more = wrap(plain(reason), max(20, look.width - columns(start)))
    return [start + first, *(" " * columns(start) + line for line in more)]


def _reason(note: OutcomeNote) -> str:
    words = {"Pending": "no answer yet; joins the set if it comes", "Declined": "no, without a reason",
             "TimedOut": "no answer in time", "Failed": "failed", "Skipped": "not asked"}  # fmt: skip
    reasons = [reason.removeprefix(f"{note.site}: ") for reason in note.reasons or ()]
    text = " ".join(_sentences(reasons)) or words.get(note.outcome, note.outcome)
    back = f" (ask again in {span(note.retry_after)})" if note.retry_after else ""
    return text + back


def _sentences(reasons: Sequence[str]) -> Iterator[str]:
    """Side by side, each but the last with a mark at its end."""
    for reason in reasons[:-1]:
        yield reason if reason.endswith((".", "!", "?")) else f"{reason};"
    yield from reasons[-1:]


def _legend(response: OfferSetResponse, rows: list[Facts], look: Look) -> list[str]:
    lines = [
        line
        for row in rows
        if row.behind and row.rank == 2
        for line in wrap(f"{row.rank} {plain(row.behind)}", look.width)
    ]
    if response.pending and not response.closed:
        lines.append(f"{count(response.pending, 'site')} pending: the set may still grow")
    if rows:
        lines += _billing(response, rows, look) + _warnings(rows, look)
        lines += _flow(_marks(rows, look), look.width)
    if rows and look.hints:
        lines += _flow(_hints(response, rows, look), look.width)
    return lines


def _billing(response: OfferSetResponse, rows: list[Facts], look: Look) -> list[str]:
    wishes = response.preferences
    if wishes is None or not any(row.all_in for row in rows):
        return []
    unit = plain(wishes.currency or "")
    terms = [(wishes.value_of_time, "h until result"), (wishes.carbon_price, "kg CO2e"),
             (wishes.distance_price, "GB moved")]  # fmt: skip
    free = all(row.free for row in rows)
    sums = [] if free else ["PAY as such prices came out" if any(row.experienced for row in rows) else "PAY"]
    sums += [f"{money(price)} {unit}/{what}".replace(" /", "/") for price, what in terms if price]
    risk = f", weighed {wishes.risk:g} towards the worst" if wishes.risk else ""
    billed = "nothing is billed" if free else "isn't billed"
    return wrap(f"ALL-IN ranks, {billed}: {' + '.join(sums)}{risk}", look.width)


def _warnings(rows: list[Facts], look: Look) -> list[str]:
    """What must be known before an acceptance."""
    lines = []
    for what, those in (
        ("no result files", [row.site for row in rows if not row.results]),
        ("nothing really runs", [row.site for row in rows if row.simulated]),
    ):
        if those:
            where = "everywhere" if len(those) == len(rows) > 1 else ", ".join(dict.fromkeys(map(plain, those)))
            lines += wrap(f"{what}: {where}", look.width)
    return lines


def _marks(rows: list[Facts], look: Look) -> list[str]:
    estimates = [not row.reserved for row in rows]
    parts = []
    if any(estimates):
        parts.append("~ estimate, else reserved" if not all(estimates) else "~ estimate, nothing is reserved")
    if any(row.guessed or (row.pay and row.pay.stand_in) or (row.moves and row.moves.stand_in) for row in rows):
        parts.append("? holds a stand-in")
    if any(row.cached and row.moves and not row.moves.expected for row in rows):
        parts.append("cached: it has the data already")
    if any(row.trade_off for row in rows):
        parts.append("* best trade-off")
    return [*parts, f"times {zone_name(look.now, look.zone)}"]


def _hints(response: OfferSetResponse, rows: list[Facts], look: Look) -> list[str]:
    if response.taken:
        return [f"taken: session {short(response.taken)}", f"broker watch {short(response.taken)}"]
    sessions = [o for o in response.offers or () if isinstance(o, SimpleExecutionSession)]
    if doubtful := next((o for o in sessions if in_doubt(o)), None):
        return [f"broker watch {short(doubtful.uuid)}", f"broker offers {short(response.uuid)} --explain"]
    open_ = {str(o.uuid): o for o in sessions if o.phase in (None, "INITIAL", "OFFERED")}
    first = next((row for row in rows if row.session in open_), None)
    if first is None:
        return [f"broker submit --again {short(response.uuid)}", f"broker offers {short(response.uuid)} --explain"]
    expires = open_[first.session].expires
    until = f" (until {clock(expires, look.zone, look.now)})" if expires else ""
    preset = response.preferences.preset if response.preferences else None
    other = "cheapest" if preset == "fastest" else "fastest"
    return [
        f"broker accept {first.rank}{until}",
        f"--prefer {other}",
        f"broker offers {short(response.uuid)} --explain",
    ]


def _flow(parts: Iterable[str], width: int) -> list[str]:
    """Parts side by side, three blanks between, as many on a line as fit."""
    lines: list[str] = []
    for part in parts:
        if lines and columns(lines[-1]) + 3 + columns(part) <= width:
            lines[-1] += f"   {part}"
        else:
            lines.append(part)
    return [cut(line, width) for line in lines]


# ── each term, and the pipe ──────────────────────────────────────────────────────────────────────────────────


def explain(response: OfferSetResponse, look: Look) -> str:
    """Every term of every score: what it comes to, at worst, and what it was worked out from."""
    sessions = {str(o.uuid): o for o in response.offers or () if isinstance(o, SimpleExecutionSession)}
    unit = plain((response.preferences and response.preferences.currency) or "")
    lines = datatable.explained(response, look.width, look.now)
    for row in ranked(response):
        note = sessions[row.session].ranking
        total = f"{money(row.all_in.expected)} {unit} (worst {money(row.all_in.pessimistic)})" if row.all_in else "-"
        lines.append(f"{row.rank} {plain(row.site)}: {total}{'  ' + plain(row.why) if row.why else ''}")
        for term in (note.terms if note else None) or ():
            mark = "?" if term.stand_in else " "
            figures = f"{money(term.expected):>10}{mark} {money(term.pessimistic):>10}"
            lines += _hanging(f"    {pad(plain(term.name), 10)}{figures}  ", plain(term.basis or ""), look.width)
        if moving := datatable.moving(sessions[row.session]):
            lines += [f"    {line}" for line in wrap(moving, look.width - 4)]
        if row.behind:
            lines += [f"    {line}" for line in wrap(plain(row.behind), look.width - 4)]
    return "\n".join(lines)


def _hanging(start: str, text: str, width: int) -> list[str]:
    """`text` behind `start`, and what does not fit below its own beginning."""
    first, *more = wrap(text, max(20, width - columns(start)), most=12)
    return [(start + first).rstrip(), *(" " * columns(start) + line for line in more)]


@dataclass(frozen=True)
class _Field:
    name: str
    of: Callable[[Facts], object] = field(repr=False)


def _expected(bounds: Bounds | None) -> object:
    return None if bounds is None else bounds.expected


_FIELDS = (
    _Field("rank", lambda row: row.rank),
    _Field("site", lambda row: row.site),
    _Field("outcome", lambda row: "excluded" if row.excluded else "Offered"),
    _Field("pay", lambda row: _expected(row.pay)),
    _Field("currency", lambda row: row.pay.unit if row.pay else None),
    _Field("start", lambda row: row.start),
    _Field("result", lambda row: row.result),
    _Field("latest", lambda row: row.latest),
    _Field("reserved", lambda row: row.reserved),
    _Field("cores", lambda row: row.cores),
    _Field("memory", lambda row: row.memory),
    _Field("moves", lambda row: _expected(row.moves)),
    _Field("carbon", lambda row: _expected(row.carbon)),
    _Field("all_in", lambda row: _expected(row.all_in)),
    _Field("worst", lambda row: row.all_in.pessimistic if row.all_in else None),
    _Field("stand_in", lambda row: row.guessed),
    _Field("trade_off", lambda row: row.trade_off),
    _Field("platform", lambda row: row.platform),
    _Field("session", lambda row: row.session),
    _Field("why", lambda row: row.excluded or row.why),
)


def tsv(response: OfferSetResponse) -> str:
    """One line an offer, then one a site without; times in UTC, bytes, GiB and kg as plain numbers, unknown empty."""
    lines = ["\t".join(field.name for field in _FIELDS)]
    rest = [fact for fact in all_facts(response) if fact.rank is None or fact.excluded]
    lines += ["\t".join(cell(field.of(row)) for field in _FIELDS) for row in [*ranked(response), *rest]]
    for note in _silent(response):
        known = {"site": note.site, "outcome": note.outcome, "why": _reason(note)}
        lines.append("\t".join(cell(known.get(field.name)) for field in _FIELDS))
    return "\n".join(lines)


def cell(value: object) -> str:
    """A value in a tab-separated line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return format_instant(value)
    return f"{value:.15g}" if isinstance(value, float) else plain(value)
