"""From outcomes to figures, words and a page. Imports experiment's outcomes and the tables of the benchmarks.

Seeds are the sample: each draws a federation, a stream and all luck anew, the same for every rule. So rules are
compared seed by seed, on the logarithm of the ratio of their costs, with Student's t.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import exp, log, sqrt
from statistics import fmean, stdev
from typing import NamedTuple

from tests.benchmarks.figures import table

from .experiment import Outcome
from .rules import RULES, TOLD

OURS = ("calibrated", "ours")
OTHERS = ("random", "cheapest", "fastest", "distance")
NAMES = {
    "random": "random site",
    "cheapest": "cheapest quoted price",
    "fastest": "fastest queue",
    "distance": "great-circle distance",
    "ours": "ours, uncalibrated",
    "calibrated": "ours, calibrated",
    "oracle": "oracle",
}
TELLING = {
    "source": "source of its bytes",
    "paths": "transfers",
    "speed": "speed",
    "bills": "bills",
    "startup": "start-up",
}
BEGIN, END = "<!-- written by make simulate -->", "<!-- /written by make simulate -->"
# Student's t at 97.5 %, by degrees of freedom; beyond these, the normal's.
_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120)

Key = tuple[int, float, str]  # sites, value of time, rule
Found = Mapping[Key, Mapping[int, Outcome]]  # by seed


class Ratio(NamedTuple):
    """The geometric mean of ratios, and its 95 % interval; of a single seed, no interval is known."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        logs = [log(one / other) for one, other in zip(above, below, strict=True)]
        middle, count = fmean(logs), len(logs)
        if count < 2:
            return cls(exp(middle), 0.0, float("inf"))
        half = (_T[count - 2] if count - 2 < len(_T) else 1.96) * stdev(logs) / sqrt(count)
        return cls(exp(middle), exp(middle - half), exp(middle + half))

    @property
    def inverse(self) -> Ratio:
        return Ratio(1 / self.value, 1 / self.high, float("inf") if self.low == 0 else 1 / self.low)

    @property
    def text(self) -> str:
        if self.high == float("inf"):
            return f"{_short(self.value)} (?)"
        return f"{_short(self.value)} ({_short(self.low)} to {_short(self.high)})"


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 2 else f"{value:.2f}" if value < 10 else f"{value:.0f}"


def gather(outcomes: Iterable[Outcome]) -> Found:
    found: dict[Key, dict[int, Outcome]] = defaultdict(dict)
    for outcome in outcomes:
        found[outcome.sites, outcome.hour, outcome.rule][outcome.seed] = outcome
    return found


def cells(found: Found) -> list[tuple[int, float]]:
    """Sizes and values of time, in order."""
    return sorted({(sites, hour) for sites, hour, _ in found})


def compared(found: Found, cell: tuple[int, float], rule: str, other: str) -> Ratio:
    """Cost of `rule` over that of `other`, seed by seed."""
    one, two = found[(*cell, rule)], found[(*cell, other)]
    seeds = sorted(one)
    return Ratio.of([one[seed].cost for seed in seeds], [two[seed].cost for seed in seeds])


def page(found: Found, about: Mapping[str, str]) -> str:
    """What stands between the markers of docs/locality.md."""
    parts = ["\n".join(f"- {name}: {text}" for name, text in about.items())]
    parts += ["### In words", "\n".join(f"- {line}" for line in words(found))]
    parts += [
        "### Realised cost, over the oracle's",
        table(
            ("sites", "EUR/h", *(NAMES[rule] for rule in RULES[:-1])), [_costs(found, cell) for cell in cells(found)]
        ),
        "### Realised cost of the others, over ours calibrated",
        "Above 1: ours is better. An interval that holds 1 shows no difference.",
        table(
            ("sites", "EUR/h", *(NAMES[rule] for rule in (*OTHERS, "ours"))),
            [_beside(found, cell) for cell in cells(found)],
        ),
        "### Time to the result, and bytes moved",
        "Hours from asking to the result, terabytes moved and EUR paid, a request; means over all seeds.",
        table(("sites", "EUR/h", *(NAMES[rule] for rule in RULES)), [_times(found, cell) for cell in cells(found)]),
    ]
    if told := sorted({(sites, hour) for sites, hour, rule in found if "+" in rule}):
        parts += [
            "### What it does not know",
            "Calibrated ours, over ours calibrated that is told one thing more: the replica that a site will read; how "
            "long its transfers would take now; its real speed; what it bills over what it quotes; how long it takes "
            "to begin. Above 1: to know it would save so much.",
            table(("sites", "EUR/h", *(TELLING[what] for what in TOLD)), [_told(found, cell) for cell in told]),
        ]
    return "\n\n".join(parts)


def _told(found: Found, cell: tuple[int, float]) -> list[str]:
    gains = (compared(found, cell, f"calibrated+{what}", "calibrated") for what in TOLD)
    return [*_cell(cell), *(gain.inverse.text for gain in gains)]


def _costs(found: Found, cell: tuple[int, float]) -> list[str]:
    return [*_cell(cell), *(compared(found, cell, rule, "oracle").text for rule in RULES[:-1])]


def _beside(found: Found, cell: tuple[int, float]) -> list[str]:
    return [*_cell(cell), *(compared(found, cell, rule, "calibrated").text for rule in (*OTHERS, "ours"))]


def _times(found: Found, cell: tuple[int, float]) -> list[str]:
    return [*_cell(cell), *(_mean(list(found[(*cell, rule)].values())) for rule in RULES)]


def _mean(outcomes: Sequence[Outcome]) -> str:
    requests = sum(item.requests for item in outcomes)
    hours, moved, paid = (
        sum(part) / requests
        for part in zip(*((o.hours, o.bytes / 1e12, o.paid + o.egress) for o in outcomes), strict=True)
    )
    return f"{hours:.2f} h, {moved:.3f} TB, {paid:.2f}"


def _cell(cell: tuple[int, float]) -> list[str]:
    return [str(cell[0]), f"{cell[1]:g}"]


# ── in words ─────────────────────────────────────────────────────────────────────────────────────────────────


def words(found: Found) -> list[str]:
    """What the figures say, good or bad: nothing here is written by hand."""
    return [*(_against(found, rule) for rule in OTHERS), _calibration(found), *_regret(found)]


def _against(found: Found, other: str) -> str:
    """Ours, calibrated, beside one rule that is not ours, everywhere."""
    better: list[str] = []
    same: list[str] = []
    worse: list[str] = []
    for cell in cells(found):
        ratio = compared(found, cell, other, "calibrated")
        where = f"{_where(cell)}: {ratio.text}"
        (better if ratio.low > 1 else worse if ratio.high < 1 else same).append(where)
    text = f"Beside *{NAMES[other]}*: ours, calibrated, costs less in {len(better)} of {len(cells(found))} cases."
    if same:
        text += f" No difference is shown at {'; '.join(same)}."
    return text + (f" **Ours costs more** at {'; '.join(worse)}." if worse else "")


def _calibration(found: Found) -> str:
    gains = {cell: compared(found, cell, "ours", "calibrated") for cell in cells(found)}
    better = [_where(cell) for cell, ratio in gains.items() if ratio.low > 1]
    worse = [f"{_where(cell)}: {ratio.text}" for cell, ratio in gains.items() if ratio.high < 1]
    text = f"Calibration and measured ways pay in {len(better)} of {len(gains)} cases"
    if better:
        text += f" ({'; '.join(better)})"
    return text + (f"; **they harm** at {'; '.join(worse)}." if worse else "; they harm in none, beyond the interval.")


def _regret(found: Found) -> list[str]:
    """How far each of ours stays behind the oracle."""
    lines = []
    for rule in OURS:
        ratios = [compared(found, cell, rule, "oracle") for cell in cells(found)]
        least, most = min(ratios), max(ratios)
        mean = exp(fmean(log(ratio.value) for ratio in ratios))
        at = _where(cells(found)[ratios.index(most)])
        lines.append(
            f"{NAMES[rule].capitalize()}: {mean:.3f} times the oracle's cost in the (geometric) mean of all cases, "
            f"between {_short(least.value)} and {_short(most.value)} (at {at})."
        )
    return lines


def _where(cell: tuple[int, float]) -> str:
    return f"{cell[0]} sites and {cell[1]:g} EUR/h"


def insert(text: str, page_: str) -> str:
    """The page with what stands between its markers replaced. Raises ValueError where they are not."""
    before, begin, rest = page_.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"
