"""The picture: what each rule costs, over the oracle's. Imports matplotlib and the report's figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .report import NAMES, Found, cells, compared
from .rules import RULES

_OURS, _OTHER, _INK, _GRID = "#0b5fa5", "#8a8f98", "#2b2f36", "#e3e5e8"
_LONGEST = 100.0  # beyond it a rule's dot stands at the edge, with its figure


def draw(found: Found, file: Path) -> None:
    """One panel for each size and value of time; dots with their 95 % intervals, on a scale of ratios."""
    sizes, hours = sorted({cell[0] for cell in cells(found)}), sorted({cell[1] for cell in cells(found)})
    rules = [rule for rule in RULES[:-1]]
    figure = Figure(figsize=(3.1 * len(hours) + 1.6, 1.9 * len(sizes) + 0.9), layout="constrained")
    panels = figure.subplots(len(sizes), len(hours), sharex=True, sharey=True, squeeze=False)
    for row, size in zip(panels, sizes, strict=True):
        for panel, hour in zip(row, hours, strict=True):
            _panel(panel, found, (size, hour), rules)
            panel.set_title(f"{size} sites, {hour:g} EUR an hour", fontsize=9, color=_INK, loc="left")
    figure.supxlabel("realised cost ÷ the oracle's (logarithmic; 1 is best)", fontsize=9, color=_INK)
    # Text stays text, and nothing in the file depends on the day.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "placement"}):
        figure.savefig(file, format="svg", metadata={"Date": None})


def _panel(panel: Axes, found: Found, cell: tuple[int, float], rules: list[str]) -> None:
    for place, rule in enumerate(reversed(rules)):
        ratio = compared(found, cell, rule, "oracle")
        colour = _OURS if rule in ("ours", "calibrated") else _OTHER
        value = min(ratio.value, _LONGEST)
        panel.plot([min(max(ratio.low, 0.8), value), min(ratio.high, _LONGEST)], [place, place], color=colour, lw=2)
        panel.plot([value], [place], "o", color=colour, ms=6)
        text = f"{ratio.value:.2f}" if ratio.value < 10 else f"{ratio.value:.0f}"
        panel.annotate(text, (value, place), (0, 5), textcoords="offset points", fontsize=7, color=_INK, ha="center")
    panel.set_xscale("log")
    panel.set_xlim(0.85, _LONGEST * 1.3)
    panel.set_ylim(-0.6, len(rules) - 0.2)
    panel.set_yticks(range(len(rules)), [NAMES[rule] for rule in reversed(rules)], fontsize=8, color=_INK)
    panel.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"], fontsize=8, color=_INK)
    panel.minorticks_off()
    panel.axvline(1.0, color=_INK, lw=0.8)
    panel.grid(axis="x", color=_GRID, lw=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(length=0)
    for side in panel.spines.values():
        side.set_visible(False)
