"""What the caller wants, worked out: presets, explicit preferences, ceilings. Pure; imports the domain's models.

A preset is a set of prices for what is not money: an hour of waiting, a kilogram of CO2e, a gigabyte moved. They are
in the base currency, and so is all ranking: in which currency somebody likes to read the figures cannot change their
order. `Wishes.shown` and `Wishes.factor` turn them into the caller's currency.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from broker.domain import kinds
from broker.domain.components import SimpleMinMaxFloatCost, SimpleMinMaxFloatMetric
from broker.domain.money import Exchange
from broker.domain.preferences import Preferences, Preset
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest
from broker.errors import BadInput

_MOST = 1e15  # of any price, so that no product of two overflows


class Weights(msgspec.Struct, frozen=True):
    """Money an hour until the result, a kg of CO2e, a GB moved; `risk` 0 ranks by expected, 1 by pessimistic values."""

    value_of_time: float
    carbon_price: float
    distance_price: float = 0.0
    risk: float = 0.0


# None weighs time at nothing, and price always counts in full: otherwise one free second, or one free cent, would
# be worth any sum. `closest` charges a GB so much that bytes decide before anything else.
PRESETS: Mapping[str, Weights] = {
    "balanced": Weights(value_of_time=2.0, carbon_price=0.1),
    "cheapest": Weights(value_of_time=0.05, carbon_price=0.01),
    "fastest": Weights(value_of_time=100.0, carbon_price=0.1),
    "closest": Weights(value_of_time=2.0, carbon_price=0.1, distance_price=100.0),
    "greenest": Weights(value_of_time=0.5, carbon_price=100.0),
}


class StandIns(msgspec.Struct, frozen=True):
    """What takes the place of an unknown, marked as such. Money in the base currency.

    `price`: an hour of the run; `carbon`: kg an hour of the run; `bytes`: of all data, where its size is not known;
    `egress`: a GB moved; `bandwidth`: bytes a second of an unknown link."""

    price: Span = Span(0.5, 3.5)
    carbon: Span = Span(0.5, 0.5)
    bytes: Span = Span(1e9, 19e9)
    egress: Span = Span(0.0, 0.1)
    bandwidth: Span = Span(20e6, 180e6)


class Defaults(msgspec.Struct, frozen=True):
    """What the operator configures. `presets` replaces or adds to PRESETS by name."""

    preset: Preset = "balanced"
    presets: Mapping[str, Weights] = {}
    stand_ins: StandIns = StandIns()
    enough: int | None = None
    failover: bool = False
    requote: float | None = None

    def weights(self, preset: str) -> Weights:
        return self.presets.get(preset) or PRESETS[preset]


class Ceiling(msgspec.Struct, frozen=True):
    """The most of one type of cost. `unit` None: the usual unit of the type."""

    type: str
    most: float
    unit: str | None = None


class Floor(msgspec.Struct, frozen=True):
    type: str
    least: float


class Wishes(msgspec.Struct, frozen=True):
    """Preferences with every gap filled. `weights` and `stand_ins` are in the base currency.

    `currency` is the caller's, in which figures are shown; `factor`: what 1 of the base currency is in it. `budget`,
    in `currency`, is the most to pay. `deadline` in epoch seconds. `enough`
    None: wait for all. Country codes are in upper case. `…_allowed` None: every one."""

    weights: Weights
    currency: str
    factor: float
    exchange: Exchange
    stand_ins: StandIns
    preset: Preset = "balanced"
    budget: float | None = None
    ceilings: tuple[Ceiling, ...] = ()
    floors: tuple[Floor, ...] = ()
    deadline: float | None = None
    enough: int | None = None
    failover: bool = False
    requote: float | None = None
    locality_required: bool = False
    countries_allowed: frozenset[str] | None = None
    countries_forbidden: frozenset[str] = frozenset()
    sites_allowed: frozenset[str] | None = None
    sites_forbidden: frozenset[str] = frozenset()

    def shown(self, amount: float) -> float:
        """`amount` of the base currency in the currency to show."""
        return tidy(amount * self.factor) if self.factor != 1.0 else amount

    def preferences(self) -> Preferences:
        """As they were applied, for the answer: the numbers that the preset stood for among them."""
        return Preferences(
            preset=self.preset,
            currency=self.currency,
            value_of_time=self.shown(self.weights.value_of_time),
            carbon_price=self.shown(self.weights.carbon_price),
            distance_price=self.shown(self.weights.distance_price),
            risk=self.weights.risk,
            deadline=None if self.deadline is None else datetime.fromtimestamp(self.deadline, UTC),
            enough=self.enough,
            failover=self.failover,
            locality="required" if self.locality_required else "preferred",
            countries_allowed=_listed(self.countries_allowed),
            countries_forbidden=_listed(self.countries_forbidden or None),
            sites_allowed=_listed(self.sites_allowed),
            sites_forbidden=_listed(self.sites_forbidden or None),
            requote=self.requote,
        )


def tidy(value: float) -> float:
    """To 12 significant digits: what two ways of working out the same sum differ by, then differs no more. Never
    turns the order of two values round."""
    return float(f"{value:.12g}")


def resolve(
    preferences: Preferences | None, request: ExecutionRequest, exchange: Exchange, defaults: Defaults
) -> Wishes:
    """Raises BadInput for a currency without a rate, naming those that have one."""
    asked = preferences or Preferences()
    currency = asked.currency or exchange.base
    rate = _rate(currency, exchange, "preferences.currency")
    preset = asked.preset or defaults.preset
    return Wishes(
        weights=_weights(asked, defaults.weights(preset), rate),
        currency=currency,
        factor=1.0 / rate,
        exchange=exchange,
        stand_ins=defaults.stand_ins,
        preset=preset,
        budget=_budget(request, currency, rate, exchange),
        ceilings=_ceilings(request),
        floors=_floors(request),
        deadline=asked.deadline.timestamp() if asked.deadline else None,
        enough=asked.enough or defaults.enough,
        failover=defaults.failover if asked.failover is None else asked.failover,
        requote=defaults.requote if asked.requote is None else asked.requote,
        locality_required=asked.locality == "required",
        countries_allowed=None if asked.countries_allowed is None else _codes(asked.countries_allowed),
        countries_forbidden=_codes(asked.countries_forbidden),
        sites_allowed=None if asked.sites_allowed is None else frozenset(asked.sites_allowed),
        sites_forbidden=frozenset(asked.sites_forbidden or ()),
    )


def _weights(asked: Preferences, preset: Weights, rate: float) -> Weights:
    def price(stated: float | None, default: float) -> float:
        return default if stated is None else tidy(min(stated * rate, _MOST))

    return Weights(
        price(asked.value_of_time, preset.value_of_time),
        price(asked.carbon_price, preset.carbon_price),
        price(asked.distance_price, preset.distance_price),
        preset.risk if asked.risk is None else asked.risk,
    )


def _rate(currency: str, exchange: Exchange, element: str) -> float:
    rate = exchange.rate(currency)
    if rate is None:
        known = ", ".join(exchange.known)
        raise BadInput(f'"{currency}": no rate is configured for it.', element=element, remedy=f"There are: {known}.")
    return rate


def _budget(request: ExecutionRequest, currency: str, rate: float, exchange: Exchange) -> float | None:
    """The lowest monetary ceiling, in `currency`, in which one without a unit is."""
    ceilings = [
        tidy(item.max * _rate(item.unit or currency, exchange, f"costs[{i}].unit") / rate)
        for i, item in enumerate(request.costs or ())
        if isinstance(item, SimpleMinMaxFloatCost) and item.type == kinds.MONETARY and item.max is not None
    ]
    return min(ceilings, default=None)


def _ceilings(request: ExecutionRequest) -> tuple[Ceiling, ...]:
    return tuple(
        Ceiling(item.type, item.max, item.unit)
        for item in request.costs or ()
        if isinstance(item, SimpleMinMaxFloatCost) and item.type and item.max is not None
        if item.type != kinds.MONETARY
    )


def _floors(request: ExecutionRequest) -> tuple[Floor, ...]:
    return tuple(
        Floor(item.type, item.min)
        for item in request.metrics or ()
        if isinstance(item, SimpleMinMaxFloatMetric) and item.type and item.min is not None
    )


def _codes(countries: tuple[str, ...] | None) -> frozenset[str]:
    return frozenset(code.strip().upper() for code in countries or ())


def _listed(names: frozenset[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(names))
