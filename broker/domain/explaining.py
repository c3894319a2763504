"""Why an offer stands where it stands, in words and terms. Pure; imports the domain's models.

Nothing here orders anything: the words are read off the scores after the order is made.
"""

from __future__ import annotations

from operator import sub

import msgspec

from broker.domain.locality import GB
from broker.domain.scoring import HOUR, Corrected, Estimate, Score
from broker.domain.wishes import Wishes, tidy
from broker.domain.words import amount, length, money, size

_NOTICED = 0.005  # of money: what two decimals show
_WRITING = "writing results"
_TERMS = ("price", "egress", _WRITING, "time", "CO2e", "distance")
_TIES = ("worst case", "result time", "pay", "bytes", "CO2e")  # the parts of Score.order after the value


class Scale(msgspec.Struct, frozen=True):
    """What one of each term costs in the wishes' currency, by _TERMS, and the words for the last three. One for all
    offers of a set."""

    currency: str
    prices: tuple[float, ...]
    risk: float
    an_hour: str
    a_kilogram: str
    a_gigabyte: str

    @classmethod
    def of(cls, wishes: Wishes) -> Scale:
        given, currency = wishes.weights, wishes.currency
        hour, kilogram, gigabyte = (
            wishes.shown(price) for price in (given.value_of_time, given.carbon_price, given.distance_price)
        )
        return cls(
            currency,
            (1.0, 1.0, 1.0, hour / HOUR, kilogram, gigabyte / GB),
            given.risk,
            f"{money(hour, currency)} an hour",
            f"{money(kilogram, currency)} a kg",
            f"{money(gigabyte, currency)} a GB",
        )


class Field(msgspec.Struct, frozen=True):
    """The set that an offer stands in, in the wishes' currency. `least_…`: the lowest expected value that any ranked
    offer has. `weighed`: the terms of the first, each by the wishes' risk."""

    scale: Scale
    first: Score
    weighed: tuple[float, ...]
    least_pay: float
    least_until: float
    least_carbon: float
    alone: bool


def field(scores: list[Score], wishes: Wishes) -> Field:
    """`scores`: ranked, best first, at least one."""
    scale = Scale.of(wishes)
    return Field(
        scale,
        scores[0],
        _weighed(scores[0], scale),
        min(score.pay.expected for score in scores),
        min(score.until.expected for score in scores),
        min(score.carbon.expected for score in scores),
        len(scores) == 1,
    )


# ── terms ────────────────────────────────────────────────────────────────────────────────────────────────────


def terms(score: Score, scale: Scale) -> list[dict[str, object]]:
    """Every term of the all-in, in the wishes' currency, as the wire has them (session.Term). They add up to it. That
    of writing results is there only where they go elsewhere."""
    found = map(_term, _TERMS, _parts(score, scale), _bases(score, scale))
    return [term for term in found if score.locality.delivery is not None or term["name"] != _WRITING]


def _term(name: str, part: Estimate, basis: str) -> dict[str, object]:
    wire: dict[str, object] = {
        "name": name, "expected": part.expected, "pessimistic": part.pessimistic, "basis": basis
    }  # fmt: skip
    if part.stand_in:
        wire["stand_in"] = True
    return wire


def bounds(part: Estimate, unit: str | None = None) -> dict[str, object]:
    """As the wire has it (session.Bounds), with what is absent left out."""
    wire: dict[str, object] = {"expected": part.expected, "pessimistic": part.pessimistic}
    if unit is not None:
        wire["unit"] = unit
    if part.stand_in:
        wire["stand_in"] = True
    return wire


def _parts(score: Score, scale: Scale) -> tuple[Estimate, ...]:
    """By _TERMS; `scale` in the currency of the score."""
    _, _, _, second, kilogram, byte = scale.prices
    return (
        score.price,
        score.egress,
        score.writing,
        _times(score.until, second),
        _times(score.carbon, kilogram),
        _times(score.bytes, byte),
    )


def _times(part: Estimate, price: float) -> Estimate:
    return Estimate(tidy(part.expected * price), tidy(part.pessimistic * price), part.stand_in)


def _bases(score: Score, scale: Scale) -> tuple[str, ...]:
    """By _TERMS: what each was worked out from."""
    moved = size(score.bytes.expected)
    if score.bytes.pessimistic and score.locality.sources:
        moved += f" from {', '.join(score.locality.sources)}"
    seconds = (("waiting", score.waiting), ("staging", score.staging), ("run", score.run))
    times = ", ".join(f"{what} {length(part.expected)}{_experience(score, what)}" for what, part in seconds)
    return (
        _priced(score, scale),
        f"{moved}; a stand-in" if score.egress.stand_in else moved,
        _written(score),
        f"{times}{_after(score)}; {scale.an_hour}",
        f"{amount(score.carbon.expected)} kg; {scale.a_kilogram}",
        f"{moved}; {scale.a_gigabyte}",
    )


def _priced(score: Score, scale: Scale) -> str:
    if score.price.stand_in:
        return "not stated in money that can be converted; a stand-in"
    found = _corrected(score, "price")
    return f"{money(found.promised, scale.currency)} offered, {_by(found)}" if found else "as offered"


def _experience(score: Score, what: str) -> str:
    found = _corrected(score, what)
    return f" (promised {length(found.promised)}, {_by(found)})" if found else ""


def _corrected(score: Score, what: str) -> Corrected | None:
    return next((found for found in score.corrected if found.what == what), None)


def _by(found: Corrected) -> str:
    """`× 2.1 by 34 runs`: how such promises have come over, and how many there were."""
    count = found.factor.samples
    runs = "as at other sites" if not count else f"by {count} run{'s' if count != 1 else ''}"
    return f"× {found.factor.value:.2g} {runs}"


def _written(score: Score) -> str:
    delivery = score.locality.delivery
    if delivery is None:
        return ""
    guess = "; a stand-in" if score.writing.stand_in else ""
    much = "results of unknown size" if delivery.bytes is None else size(delivery.bytes)
    return f"{much} to {delivery.to}{guess}"


def _after(score: Score) -> str:
    return f", writing results {length(score.delivering.expected)}" if score.delivering.pessimistic else ""


# ── against the first ────────────────────────────────────────────────────────────────────────────────────────


def _weighed(score: Score, scale: Scale) -> tuple[float, ...]:
    """The terms in their order, each between expected and pessimistic by risk."""
    risk, sure = scale.risk, 1.0 - scale.risk
    money_ = (score.price, score.egress, score.writing)
    parts = zip((*money_, score.until, score.carbon, score.bytes), scale.prices, strict=True)
    # A list first: a generator takes twice as long, and this runs once for every offer.
    return tuple([(sure * part.expected + risk * part.pessimistic) * price for part, price in parts])


def excess(score: Score, field: Field) -> dict[str, float]:
    """What each term costs more than the first's."""
    mine = _weighed(score, field.scale)
    return dict(zip(_TERMS, map(sub, mine, field.weighed), strict=True))


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
    if score.locality.here:
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
    if score.locality.mostly:
        return "most data is here"
    if not merits and score.carbon.expected <= field.least_carbon and not score.carbon.stand_in:
        merits = ["least CO2e"]
    return " and ".join(merits) or "best balance"


def why_not_first(score: Score, field: Field, more: dict[str, float]) -> str:
    """The largest gain over the first, then the largest loss: `sooner, but egress`. `more` is its excess."""
    pay = more["price"] + more["egress"] + more[_WRITING]
    by = {"pay": pay, **{name: more[name] for name in ("time", "CO2e", "distance")}}
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
            word = max(("price", "egress", _WRITING), key=lambda name: more[name])
            return "dearer" if word == "price" else word
        case "time":
            return _delay(score, first)
        case "distance":
            return "more to move"  # how much, stands beside it
    return "more CO2e"


def _delay(score: Score, first: Score) -> str:
    """What makes it later than the first: its queue, its staging, its run, or the way of its results."""
    parts = (
        ("queue", score.waiting.expected, first.waiting.expected),
        ("staging", score.staging.expected, first.staging.expected),
        ("run", score.run.expected, first.run.expected),
        (_WRITING, score.delivering.expected, first.delivering.expected),
    )
    word, seconds, _ = max(parts, key=lambda part: part[1] - part[2])
    found = _corrected(score, "waiting" if word == "queue" else word)
    promised = length(found.promised) if found else length(seconds)
    told = f", {promised} promised" if promised != length(seconds) else ""
    return f"{length(seconds)} {word}{told}"
