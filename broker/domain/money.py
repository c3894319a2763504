"""Money of several currencies, brought to one by dated rates that somebody wrote down. Imports the domain's quantities.

Rates are configuration, never fetched: the same offers rank the same tomorrow, and every figure can be traced.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import msgspec

from broker.domain.quantities import Span

_LEAST, _MOST = 1e-12, 1e12  # a rate outside is a mistake, and is read as not known


class Exchange(msgspec.Struct, frozen=True):
    """`rates`: currency (ISO 4217) → units of `base` for 1 of it. `dated`: as of when, in the operator's words."""

    base: str = "EUR"
    rates: Mapping[str, float] = {}
    dated: str = ""

    @property
    def known(self) -> tuple[str, ...]:
        """Every currency that can be converted, the base first."""
        usable = (unit for unit in self.rates if unit != self.base and self.rate(unit) is not None)
        return (self.base, *sorted(usable))

    def rate(self, unit: str | None) -> float | None:
        """Units of `base` for 1 `unit`; None: not known. No unit means `base`."""
        if unit is None or unit == self.base:
            return 1.0
        rate = self.rates.get(unit)
        return rate if rate is not None and _LEAST <= rate <= _MOST else None

    def convert(self, span: Span, unit: str | None, to: str | None = None) -> Span | None:
        """`span` in `to` (absent: in `base`). None: one of the two is not known. Nothing is nothing in any currency,
        so that a free offer stays free whatever its site calls its money."""
        unit, to = unit or self.base, to or self.base
        if unit == to or span.low == span.high == 0:
            return span
        source, target = self.rate(unit), self.rate(to)
        if source is None or target is None:
            return None
        factor = source / target
        return Span(_finite(span.low * factor), _finite(span.high * factor))


def _finite(value: float) -> float:
    """NaN stays: it was one before."""
    return max(-sys.float_info.max, min(sys.float_info.max, value)) if value == value else value
