"""Lists of sessions and sites, and the status: columns for a terminal, tab-separated lines for a pipe.

Imports the client. A broker's documents are read with patience: what is missing stays empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from broker.cli.screen import Screen
from broker.client.sessions import Line
from broker.client.table import cell
from broker.client.words import clock, columns, cut, pad, plain, short, wrap
from broker.domain import kinds
from broker.domain.quantities import format_instant

_SHORTEST = 20
_HEALTH = ("live", "degraded", "draining", "down", "draft")


def print_rows(
    screen: Screen, heads: Sequence[str], rows: Sequence[Sequence[object]], *, spared: Sequence[str] = ()
) -> None:
    """Numbers stand to the right, the last column is cut where the terminal ends. `spared`: heads of the columns that
    go before that, in this order; the last column then has lines below its own."""
    if not screen.tty:
        screen.say("\n".join("\t".join(map(cell, row)) for row in (_names(heads), *rows)))
        return
    texts = [[_shown(screen, value) for value in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(heads))]
    widths = [max(columns(line[i]) for line in ([*heads], *texts)) for i in range(len(heads))]
    kept = list(range(len(heads)))
    for head in spared:
        if sum(widths[i] + 2 for i in kept) - 2 > screen.width:
            kept.remove(heads.index(head))
    for line in ([*heads], *texts):
        *front, last = [pad(line[i], widths[i], right=right[i]) for i in kept]
        start = "".join(f"{text}  " for text in front)
        first, *more = wrap(last, max(_SHORTEST, screen.width - columns(start))) if spared else [last]
        screen.say(cut((start + first).rstrip(), screen.width))
        for text in more:
            screen.say(" " * columns(start) + text)


def _names(heads: Sequence[str]) -> list[str]:
    return [head.lower() for head in heads]


def _shown(screen: Screen, value: object) -> str:
    if isinstance(value, datetime):
        return clock(value, screen.zone, screen.clock())
    return "" if value is None else plain(value)


def print_sessions(screen: Screen, lines: Sequence[Line], *, json: bool) -> None:
    if json:
        screen.json({"sessions": [_plainly(line) for line in lines]})
    elif not lines and screen.tty:
        screen.note("no sessions. Offers, and what was refused: broker sessions --all")
    else:
        rows = [
            [short(line.uuid) if screen.tty else line.uuid, line.name, _state(line.phase), line.site, line.created]
            for line in lines
        ]
        print_rows(screen, ("SESSION", "NAME", "PHASE", "SITE", "CREATED"), rows)


def _state(phase: str) -> str:
    # A list does not tell batch from interactive; most are batch, and to them AVAILABLE is running.
    return "RUNNING" if phase == "AVAILABLE" else phase


def _plainly(line: Line) -> dict[str, str | None]:
    created = format_instant(line.created) if line.created else None
    return {"uuid": line.uuid, "name": line.name, "phase": line.phase, "site": line.site, "created": created}


def _part(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = document.get(key)
    return part if isinstance(part, Mapping) else {}


def _health(site: Mapping[str, Any]) -> tuple[str, str]:
    """State and reason, the reason naming who acts."""
    health = site.get("health")
    if isinstance(health, str):
        return health, ""
    inner = _part(site, "health")
    acts = f" ({inner['acts']} acts)" if inner.get("acts") and inner.get("reason") else ""
    return str(inner.get("state") or ""), f"{inner.get('reason') or ''}{acts}"


def print_sites(screen: Screen, sites: Sequence[Mapping[str, Any]], *, json: bool) -> None:
    if json:
        screen.json({"sites": list(sites)})
        return
    rows = []
    for site in sites:
        state, reason = _health(site)
        platform = site.get("platform") or _part(site, "profile").get("platform")
        rows.append([site.get("name"), site.get("kind"), platform, state, _promises(site), reason])
    heads: tuple[str, ...] = ("SITE", "KIND", "PLATFORM", "HEALTH", "PROMISES", "REASON")
    if screen.tty and not any(row[4] for row in rows):  # a pipe has the same columns always
        heads, rows = (*heads[:4], heads[5]), [[*row[:4], row[5]] for row in rows]
    print_rows(screen, heads, rows)


def _listed(site: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    items = site.get(key)
    return [item for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []


def _promises(site: Mapping[str, Any]) -> str:
    """How its starts have come, by the kind of work of which most is known: `x 2.1 later (34)`."""
    found = [line for line in _listed(site, "calibration") if line.get("what") == "waiting"]
    best = max(found, key=lambda line: _figure(line.get("samples")), default=None)
    if best is None:
        return ""
    factor, count = _figure(best.get("factor")), int(_figure(best.get("samples")))
    word = f"x {factor:.2g} later" if factor >= 1.05 else f"x {factor:.2g} sooner" if factor <= 0.95 else "kept"
    return f"{word} ({count})"


def _figure(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def print_promises(screen: Screen, site: Mapping[str, Any], *, json: bool) -> None:
    """What promises have come to, then the ways by which bytes reach the site."""
    calibration, measured = _listed(site, "calibration"), _listed(site, "measured")
    if json:
        screen.json({"calibration": calibration, "measured": measured})
        return
    if not calibration and not measured and screen.tty:
        screen.note("nothing was learned of it yet: its promises are taken as they are.")
        return
    rows = [
        [
            *(line.get(key) for key in ("site", "kind", "what", "factor", "samples")),
            _day(screen, line.get("since")),
            line.get("says"),
        ]
        for line in calibration
    ]
    ways = [
        [site.get("name"), way.get("source") or "anywhere", "bytes", _rates(way), way.get("samples"),
         _day(screen, way.get("latest")), f"brings in {_rates(way)} {way.get('unit') or ''}"]
        for way in measured
    ]  # fmt: skip
    heads = ("SITE", "OF", "WHAT", "FACTOR", "RUNS", "SINCE", "SAYS")
    print_rows(screen, heads, [*rows, *ways], spared=("FACTOR", "RUNS", "SINCE", "SITE"))


def _day(screen: Screen, moment: object) -> object:
    """For a person in their own zone; a pipe gets what the broker wrote."""
    if not screen.tty or not isinstance(moment, str):
        return moment
    try:
        return datetime.fromisoformat(moment)
    except ValueError:
        return moment


def _rates(way: Mapping[str, Any]) -> str:
    return f"{_figure(way.get('low')):.3g}-{_figure(way.get('high')):.3g}"


def print_status(screen: Screen, status: Mapping[str, Any], *, json: bool) -> None:
    """The head says how it stands now; then a line a site."""
    if json:
        screen.json(status)
        return
    now = _part(status, "now")
    sites, sessions = _part(now, "sites"), _part(now, "sessions")
    if screen.tty:
        health = ", ".join(f"{sites[word]} {word}" for word in _HEALTH if sites.get(word)) or "no sites"
        running = ", ".join(f"{count} {plain(phase)}" for phase, count in sessions.items() if count) or "no sessions"
        replicas = now.get("replicas")
        of = f" ({plain(replicas)} replica{'' if replicas == 1 else 's'})" if replicas else ""
        screen.say(cut(f"{plain(status.get('name') or 'broker')}{of}: {health}; {running}", screen.width))
    rows = []
    for site in status.get("sites") or ():
        state, reason = _health(site)
        counts = _part(site, "sessions")
        running_here = int(counts.get("RUNNING") or 0) + int(counts.get("AVAILABLE") or 0)
        rows.append([site.get("name"), state, running_here, reason])
    print_rows(screen, ("SITE", "HEALTH", "RUNNING", "REASON"), rows)


def print_kinds(screen: Screen) -> None:
    families = (("executable", kinds.EXECUTABLES), ("data", kinds.DATA))
    rows = [[kinds.short(uri), family, uri] for family, uris in families for uri in uris]
    print_rows(screen, ("KIND", "FAMILY", "URI"), rows)
