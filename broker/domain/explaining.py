"""Why an offer stands where it stands, in words and terms. Pure; imports the domain's models.

Nothing here orders anything: the words are read off the scores after the order is made.
"""

from __future__ import annotations

import msgspec

from broker.domain.locality import GB
from broker.domain.scoring import HOUR, Estimate, Score
from broker.domain.wishes import Weights, Wishes, tidy
from broker.domain.words import amount, length, money, size

_NOTICED = 0.005  # of money: what two decimals show
_TERMS = ("price", "egress", "time", "CO2e", "distance")
_TIES = ("worst case", "result time", "pay", "bytes", "CO2e")  # the parts of Score.order after the value


class Field(msgspec.Struct, frozen=True):
    """The set that an offer stands in, in the wishes' currency. `least_…`: the lowest expected value that any ranked
    offer has. `weighed`: the terms of the first, each by the wishes' risk."""

    weights: Weights
    first: Score
    weighed: tuple[float, ...]
    least_pay: float
    least_until: float
    least_carbon: float
    alone: bool


def field(scores: list[Score], wishes: Wishes) -> Field:
    """`scores`: ranked, best first, at least one."""
    weights = _shown(wishes)
    return Field(
        weights,
        scores[0],
        _weighed(scores[0], weights),
        min(score.pay.expected for score in scores),
        min(score.until.expected for score in scores),
        min(score.carbon.expected for score in scores),
        len(scores) == 1,
    )


# ── terms ────────────────────────────────────────────────────────────────────────────────────────────────────


def terms(score: Score, wishes: Wishes) -> list[dict[str, object]]:
    """Every term of the all-in, in the wishes' currency, as the wire has them (session.Term). They add up to it."""
    weights = _shown(wishes)
    rows = zip(_TERMS, _parts(score, weights), _bases(score, weights, wishes.currency), strict=True)
    return [{"name": name, **bounds(part), "basis": basis} for name, part, basis in rows]


def bounds(part: Estimate, unit: str | None = None) -> dict[str, object]:
    """As the wire has it (session.Bounds), with what is absent left out."""
    wire: dict[str, object] = {"expected": part.expected, "pessimistic": part.pessimistic}
    if unit is not None:
        wire["unit"] = unit
    if part.stand_in:
        wire["stand_in"] = True
    return wire


def _parts(score: Score, weights: Weights) -> tuple[Estimate, ...]:
    """By _TERMS; `weights` in the currency of the score."""
    return (
        score.price,
        score.egress,
        _times(score.until, weights.value_of_time / HOUR),
        _times(score.carbon, weights.carbon_price),
        _times(score.bytes, weights.distance_price / GB),
    )


def _times(part: Estimate, price: float) -> Estimate:
    return Estimate(tidy(part.expected * price), tidy(part.pessimistic * price), part.stand_in)


def _shown(wishes: Wishes) -> Weights:
    given, shown = wishes.weights, wishes.shown
    return Weights(shown(given.value_of_time), shown(given.carbon_price), shown(given.distance_price), given.risk)


def _bases(score: Score, weights: Weights, currency: str) -> tuple[str, ...]:
    """By _TERMS: what each was worked out from."""
    moved = size(score.bytes.expected) + (f" from {', '.join(score.sources)}" if score.bytes.pessimistic else "")
    spans = (("waiting", score.waiting), ("staging", score.staging), ("run", score.run))
    time = ", ".join(f"{name} {length(part.expected)}" for name, part in spans)
    return (
        "not stated in money that can be converted; a stand-in" if score.price.stand_in else "as offered",
        f"{moved}; a stand-in" if score.egress.stand_in else moved,
        f"{time}; {money(weights.value_of_time, currency)} an hour",
        f"{amount(score.carbon.expected)} kg; {money(weights.carbon_price, currency)} a kg",
        f"{moved}; {money(weights.distance_price, currency)} a GB",
    )


# ── against the first ────────────────────────────────────────────────────────────────────────────────────────


def _weighed(score: Score, weights: Weights) -> tuple[float, ...]:
    """The terms in their order, each between expected and pessimistic by risk."""
    risk, sure = weights.risk, 1.0 - weights.risk
    prices = (1.0, 1.0, weights.value_of_time / HOUR, weights.carbon_price, weights.distance_price / GB)
    parts = (score.price, score.egress, score.until, score.carbon, score.bytes)
    return tuple(
        (sure * part.expected + risk * part.pessimistic) * price for part, price in zip(parts, prices, strict=True)
    )


def excess(score: Score, field: Field) -> dict[str, float]:
    """What each term costs more than the first's."""
    mine = _weighed(score, field.weights)
    return {name: here - there for name, here, there in zip(_TERMS, mine, field.weighed, strict=True)}


def behind(score: Score, field: Field, more: dict[str, float]) -> str:
    """`loses by 0.47: egress +1.68, price -0.80, time -0.40, CO2e -0.01`: what it costs more than the first, term by
    term, the largest first; what cannot be seen in two decimals is left out. `more` is its excess."""
    loss = score.value - field.first.value
    if loss <= 0:
        return f"costs the same; {_tie(score, field.first)}"
    seen = min(_NOTICED, loss / 2)
    parts = sorted((-abs(part), name, part) for name, part in more.items() if abs(part) >= seen)
    return f"loses by {amount(loss)}: " + ", ".join(f"{name} {amount(part, sign=True)}" for _, name, part in parts)


def _tie(score: Score, first: Score) -> str:
    for i, (mine, its) in enumerate(zip(score.order[1:], first.order[1:], strict=True)):
        if mine != its:
            return f"loses by its {_TIES[(i + 1) // 2]}"
    return "the order is by name"


# ── why, in some twenty characters ───────────────────────────────────────────────────────────────────────────


def why_first(score: Score, field: Field) -> str:
    if score.here:
        return "data is here"
    if field.alone:
        return "the only offer"
    merits = [
        word
        for word, is_best in (
            ("cheapest", score.pay.expected <= field.least_pay),
            ("soonest", score.until.expected <= field.least_until),
        )
        if is_best
    ]
    if not merits and score.carbon.expected <= field.least_carbon and not score.carbon.stand_in:
        merits = ["least CO2e"]
    return " and ".join(merits) or "best balance"


def why_not_first(score: Score, field: Field, more: dict[str, float]) -> str:
    """The largest gain over the first, then the largest loss: `sooner, but egress`. `more` is its excess."""
    by = {"pay": more["price"] + more["egress"], **{name: more[name] for name in ("time", "CO2e", "distance")}}
    gain, loss = min(by, key=lambda name: by[name]), max(by, key=lambda name: by[name])
    better = _gain(gain, score) if by[gain] <= -_NOTICED else ""
    worse = _loss(loss, score, field.first, more) if by[loss] >= _NOTICED else ""
    return ", but ".join(part for part in (better, worse) if part) or "much like the first"


def _gain(name: str, score: Score) -> str:
    if name == "pay":
        return "free" if score.pay.pessimistic == 0 else "cheaper"
    return {"time": "sooner", "CO2e": "less CO2e", "distance": "closer"}[name]


def _loss(name: str, score: Score, first: Score, more: dict[str, float]) -> str:
    match name:
        case "pay":
            return "egress" if more["egress"] > more["price"] else "dearer"
        case "time":
            return _delay(score, first)
        case "distance":
            return f"{size(score.bytes.expected)} to move"
    return "more CO2e"


def _delay(score: Score, first: Score) -> str:
    """What makes it later than the first: its queue, its staging, or its run."""
    parts = (
        ("queue", score.waiting.expected, first.waiting.expected),
        ("staging", score.staging.expected, first.staging.expected),
        ("run", score.run.expected, first.run.expected),
    )
    word, seconds, _ = max(parts, key=lambda part: part[1] - part[2])
    return f"{length(seconds)} {word}"
