"""How figures, times and foreign texts are written for a person. Imports the domain alone; pure.

Money with two decimals, memory in GiB (elsewhere), bytes moved in powers of ten, times in the reader's zone.
"""

from __future__ import annotations

import unicodedata
from datetime import datetime, timedelta, tzinfo

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Format characters that print nothing, yet turn the direction of a line or hide letters.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def plain(text: object, *, lines: bool = False) -> str:
    """`text` without power over a terminal: control and direction characters become `?`, white space a blank.

    `lines` keeps line feeds and tabs, for texts of many lines such as logs.
    """
    return "".join(_plain(char, lines) for char in str(text))


def _plain(char: str, lines: bool) -> str:
    if char in "\n\t":
        return char if lines else " "
    if char == "\r":
        return "" if lines else " "
    return "?" if unicodedata.category(char) in _HIDDEN else char


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, room: int) -> str:
    """`text` in at most `room` columns; `…` marks what is missing."""
    if columns(text) <= room:
        return text
    if room < 1:
        return ""
    kept = ""
    for char in text:
        if columns(kept) + _columns(char) > room - 1:
            break
        kept += char
    return kept.rstrip() + "…"


def pad(text: str, room: int, *, right: bool = False) -> str:
    blanks = " " * max(0, room - columns(text))
    return blanks + text if right else text + blanks


def wrap(text: str, room: int, *, most: int = 4) -> list[str]:
    """`text` in at most `most` lines of `room` columns, broken between words; the last is cut where it must be."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if columns(longer) <= room or not lines[-1] or len(lines) == most:
            lines[-1] = longer
        else:
            lines.append(word)
    return [cut(line, room) for line in lines]


def money(amount: float) -> str:
    """Two decimals; below one cent, two digits that count, since a cheap offer is no free one."""
    if 0 < abs(amount) < 0.01:
        return f"{amount:.2g}" if abs(amount) >= 1e-4 else f"{amount:.5f}" if abs(amount) >= 1e-5 else f"{amount:.0e}"
    return f"{amount:.2f}"


def size(amount: float) -> str:
    """Bytes in powers of ten, as networks and disks count them."""
    if amount < 1000:
        return f"{amount:.0f} B" if amount else "0"
    step = next((i for i in (1, 2, 3, 4) if amount < 999.95 * 1000**i), 5)
    scaled, unit = amount / 1000**step, ("kB", "MB", "GB", "TB", "PB")[step - 1]
    return f"{scaled:.1f} {unit}" if scaled < 99.95 else f"{scaled:.0f} {unit}"


def span(length: timedelta | float) -> str:
    """`1 h`, `1 h 30 min`, `2 d`, `45 s`: the two largest units that are not zero."""
    seconds = round(length.total_seconds() if isinstance(length, timedelta) else length)
    parts = []
    for unit, seconds_each in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, seconds = divmod(seconds, seconds_each)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def clock(moment: datetime, zone: tzinfo | None, now: datetime) -> str:
    """`14:22` today, `Mon 14:22` within six days of `now`, else `29 Nov`. `zone` None: this machine's own."""
    there, today = moment.astimezone(zone), now.astimezone(zone)
    days = (there.date() - today.date()).days
    if days == 0:
        return f"{there:%H:%M}"
    if abs(days) < 7:
        return f"{_DAYS[there.weekday()]} {there:%H:%M}"
    if there.year == today.year:
        return f"{there.day} {_MONTHS[there.month - 1]}"
    return f"{there:%Y-%m-%d}"


def zone_name(moment: datetime, zone: tzinfo | None) -> str:
    return moment.astimezone(zone).tzname() or "UTC"


def short(uuid: object) -> str:
    """The first four hexadecimal digits: enough to tell one's own sessions apart; a clash is told when it happens."""
    return str(uuid)[:4]


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
