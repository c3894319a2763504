"""Numbers as people read them in one short line: money, bytes, lengths of time. Imports nothing."""

from __future__ import annotations


def amount(value: float, *, sign: bool = False) -> str:
    """Two decimals; small ones to two digits, so that no difference reads as none; very large ones in powers."""
    plus = "+" if sign else ""
    size = abs(value)
    if size >= 1e7:
        return f"{value:{plus}.3g}"
    if size and size < 0.005:
        return f"{value:{plus}.1e}" if size < 1e-6 else f"{value:{plus}.2g}"
    return f"{value:{plus}.2f}"


def money(value: float, currency: str) -> str:
    return f"{amount(value)} {currency}"


def size(count: float) -> str:
    """Bytes in decimal units, as networks and archives count them: `84.2 GB`."""
    for unit, one in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= 0.9995 * one:  # what would be written as 1000 of the next smaller unit
            return f"{count / one:.3g} {unit}"
    return f"{count:.0f} B"


def length(seconds: float) -> str:
    """`45 s`, `8 min`, `3 h`, `2.5 d`: the coarsest unit that says enough."""
    for unit, one, floor in (("d", 86400.0, 172800.0), ("h", 3600.0, 5400.0), ("min", 60.0, 90.0)):
        if seconds >= floor:
            count = seconds / one
            return (
                f"{count:.0f} {unit}"
                if count >= 10 or unit == "min"
                else f"{count:.1f}".removesuffix(".0") + f" {unit}"
            )
    return f"{seconds:.0f} s"
