"""Hard limits: what excludes an offer, and in which words. Pure; imports the domain's models.

A limit is kept only if it is kept in the worst case that the offer states, or that experience expects where that is
worse; what an offer does not state cannot be shown to keep it. The one exception is egress, which is our own
estimate: a stand-in counts like a figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from broker.domain import kinds
from broker.domain.quantities import Span, format_instant
from broker.domain.scoring import Candidate, Score
from broker.domain.wishes import Ceiling, Floor, Wishes, tidy
from broker.domain.words import amount, money, size

# unit → (what it measures, how many of that quantity's base unit it is)
_UNITS: Mapping[str, tuple[str, float]] = {
    "Wh": ("energy", 1e-3), "kWh": ("energy", 1.0), "MWh": ("energy", 1e3),
    "J": ("energy", 1 / 3.6e6), "kJ": ("energy", 1 / 3.6e3), "MJ": ("energy", 1 / 3.6),
    "g": ("mass", 1e-3), "kg": ("mass", 1.0), "t": ("mass", 1e3),
}  # fmt: skip
_USUAL = {kinds.ENERGY: "kWh", kinds.CARBON: "kg"}


def judge(offer: Candidate, score: Score, wishes: Wishes, now: float) -> str | None:
    """The first limit that the offer breaks, as a reason to show; None: it passes all."""
    return next(_breaches(offer, score, wishes, now), None)


def _breaches(offer: Candidate, score: Score, wishes: Wishes, now: float) -> Iterator[str]:
    if offer.unfit:
        yield offer.unfit
    if offer.expires is not None and not now < offer.expires:
        yield "has expired"
    yield from _sites(offer, wishes)
    if wishes.countries_allowed is not None or wishes.countries_forbidden:
        yield from _countries(offer, wishes)
    if wishes.locality_required:
        yield from _locality(score)
    if wishes.budget is not None:
        yield from _budget(score, wishes, wishes.budget)
    for ceiling in wishes.ceilings:
        yield from _cost(offer, ceiling)
    for floor in wishes.floors:
        yield from _metric(offer, floor)
    if wishes.deadline is not None:
        yield from _deadline(score, wishes.deadline)


def _sites(offer: Candidate, wishes: Wishes) -> Iterator[str]:
    names = {offer.site, offer.origin}
    if wishes.sites_allowed is not None and not names & wishes.sites_allowed:
        yield f"{offer.origin} is not among the sites allowed"
    for name in sorted(names & wishes.sites_forbidden):
        yield f"{name} is among the sites forbidden"


def _countries(offer: Candidate, wishes: Wishes) -> Iterator[str]:
    places = sorted(code.upper() for code in offer.countries)
    if not places:
        yield "its country is not known, and countries are limited"
    for place in places:
        if wishes.countries_allowed is not None and place not in wishes.countries_allowed:
            yield f"it may run in {place}, which is not among the countries allowed"
        if place in wishes.countries_forbidden:
            yield f"it may run in {place}, which is among the countries forbidden"


def _locality(score: Score) -> Iterator[str]:
    if score.bytes.stand_in:
        yield "it is not known whether its data is there, and that is required"
    elif score.bytes.pessimistic > 0:
        yield f"{size(score.bytes.pessimistic)} of data would have to move there"


def _budget(score: Score, wishes: Wishes, budget: float) -> Iterator[str]:
    ceiling = money(budget, wishes.currency)
    if score.price.stand_in:
        yield f"its price is not known, and a ceiling of {ceiling} stands"
    elif score.pay.pessimistic > budget:
        guess = ", egress estimated" if score.egress.stand_in else ""
        worst = f"{money(score.pay.pessimistic, wishes.currency)}{guess}{_experience(score, 'price')}"
        yield f"may cost {worst}; the ceiling is {ceiling}"


def _cost(offer: Candidate, ceiling: Ceiling) -> Iterator[str]:
    name, usual = kinds.short(ceiling.type), _USUAL.get(ceiling.type)
    unit = ceiling.unit or usual
    stated = offer.costs.get(ceiling.type)
    if stated is None and ceiling.type == kinds.CARBON and offer.carbon is not None:
        stated = (offer.carbon, "kg")
    if stated is None:
        yield f"states no {name}, and a ceiling of {_with(ceiling.most, unit)} stands"
        return
    span, its = stated
    most = _converted(max(span.low, span.high), its or usual, unit)
    if most is None:
        yield f"states its {name} in {its or 'no unit'}, and the ceiling is in {unit or 'no unit'}"
    elif not most <= ceiling.most:
        yield f"{name} up to {_with(most, unit)}; the ceiling is {_with(ceiling.most, unit)}"


def _converted(value: float, unit: str | None, to: str | None) -> float | None:
    if unit == to:
        return value
    source, target = _UNITS.get(unit or ""), _UNITS.get(to or "")
    if source is None or target is None or source[0] != target[0]:
        return None
    return tidy(value * source[1] / target[1])


def _metric(offer: Candidate, floor: Floor) -> Iterator[str]:
    name, span = kinds.short(floor.type), offer.metrics.get(floor.type)
    least = _lowest(span)
    if least is None:
        yield f"states no {name}, and at least {amount(floor.least)} is wanted"
    elif least < floor.least:
        yield f"{name} may be {amount(least)}; at least {amount(floor.least)} is wanted"


def _lowest(span: Span | None) -> float | None:
    if span is None or span.low != span.low or span.high != span.high:
        return None
    return min(span.low, span.high)


def _deadline(score: Score, deadline: float) -> Iterator[str]:
    worst, expected = score.result.pessimistic, score.result.expected
    if worst > deadline:
        when = f"may come as late as {_moment(worst)}" if expected <= deadline else f"comes at {_moment(expected)}"
        told = _experience(score, "waiting", "staging", "run")
        yield f"its result {when}{told}; the deadline is {_moment(deadline)}"


def _experience(score: Score, *of: str) -> str:
    """Where the worst is worse than anything that the offer states."""
    worse = any(found.what in of and found.factor.value > 1.0 for found in score.corrected)
    return ", by what such promises have come to" if worse else ""


def _moment(epoch: float) -> str:
    return format_instant(float(round(epoch)))


def _with(value: float, unit: str | None) -> str:
    return f"{amount(value)} {unit}" if unit else amount(value)
