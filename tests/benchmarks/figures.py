"""Medians, intervals and tables of a benchmark. Imports the standard library alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

RESAMPLES = 4000


class Figure(NamedTuple):
    """A median of blocks, with a 95 % interval by bootstrap over the blocks."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, blocks: Sequence[float]) -> Figure:
        draw = random.Random(2026)
        medians = sorted(median(draw.choices(blocks, k=len(blocks))) for _ in range(RESAMPLES))
        return cls(median(blocks), medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES) - 1])

    def text(self, form: str = ".2f", scale: float = 1.0) -> str:
        value, low, high = (f"{part * scale:{form}}" for part in self)
        return f"{value} ({low} to {high})"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Block by block: what slowed the machine for a while slowed both."""
    return [one / other for one, other in zip(above, below, strict=True)]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the columns are as wide as they need, for whoever reads the file as it is."""
    wide = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    lines = [[text.ljust(width) for text, width in zip(row, wide, strict=True)] for row in (heads, *rows)]
    lines.insert(1, ["-" * width for width in wide])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
