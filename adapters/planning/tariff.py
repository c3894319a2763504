"""What a site charges, and the typed costs that follow from it. Pure; imports the domain.

A tariff is written by the site's operator. `free` is a tariff of nothing; no tariff means that the price is not
known, and then no monetary cost is written at all. Types of costs: protocol in use, `broker.domain.kinds`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from broker.domain import kinds
from broker.domain.base import Number, Text
from broker.domain.components import AbstractCostItem, SimpleMinMaxFloatCost
from broker.domain.quantities import Span

HOUR, DAY = 3600.0, 86400.0
GB_PER_GIB = 1.073741824
# Our own type: the standard's total cannot hold a price whose amount only the run decides.
EGRESS = "uri:egress-price-1.0"


class Range(BaseModel):
    """A number, or `{min, max}` where the operator cannot say it more exactly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: Annotated[Number, Field(ge=0, le=1e12)] = Field(description="at least")
    max: Annotated[Number, Field(ge=0, le=1e12)] = Field(description="at most")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.max < self.min:
            raise ValueError(f"max {self.max:g} is below min {self.min:g}")
        return self

    @property
    def span(self) -> Span:
        return Span(self.min, self.max)


def _range(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"min": value, "max": value}
    if not isinstance(value, Mapping | Range):
        raise ValueError("a number is wanted, or {min, max}")
    return value


Rate = Annotated[Range, BeforeValidator(_range, json_schema_input_type=float | Range)]


class Use(msgspec.Struct, frozen=True):
    """What one session is granted. Memory and storage in GiB. `keeping`: GB (10^9 bytes) times days of what is to stay
    after the run."""

    cores: float
    memory: float
    storage: float = 0
    extras: Mapping[str, float] = {}
    keeping: float = 0.0


class Tariff(BaseModel):
    """Each rate is a number or `{min, max}`; a rate left out is nothing. Money is in `currency`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    currency: Annotated[Text, Field(pattern="^[A-Z]{3}$")] | None = Field(
        None, description="ISO 4217; absent: the base currency"
    )
    core_hour: Rate | None = Field(None, description="money for a core and hour")
    memory_hour: Rate | None = Field(None, description="money for a GiB of memory and hour")
    accelerator_hour: dict[str, Rate] = Field(
        default_factory=dict, description="type of extra → money for one of it and hour"
    )
    storage_day: Rate | None = Field(
        None, description="money for a GB (10^9 bytes) and day, of granted storage and of results that are to be kept"
    )
    egress: Rate | None = Field(None, description="money for a GB (10^9 bytes) taken out; stated, not in the total")
    energy: Rate | None = Field(None, description="kWh for a core and hour")
    accelerator_energy: dict[str, Rate] = Field(
        default_factory=dict, description="type of extra → kWh for one of it and hour"
    )
    carbon: Rate | None = Field(None, description="kg of CO2e for a kWh")
    free: bool = Field(False, description="charges nothing; also written as the one word `free`")

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        if isinstance(value, str):
            if value != "free":
                raise ValueError(f'"{value}" is no tariff; the word is `free`, or rates are given by name')
            return {"free": True}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Tariff:
        if self.free and (self.accelerator_hour or any((self.core_hour, self.memory_hour, self.storage_day))):
            raise ValueError("a tariff that is free has no prices")
        if self.carbon and not (self.energy or self.accelerator_energy):
            raise ValueError("carbon is worked out from energy, which is missing")
        return self

    @property
    def priced(self) -> bool:
        """Whether the total in money is known. A tariff of energy alone says nothing about money."""
        return self.free or bool(self.accelerator_hour or self.core_hour or self.memory_hour or self.storage_day)

    def compute(self, use: Use, seconds: float) -> Span:
        """Money for cores, memory and extras."""
        hours = seconds / HOUR
        total = _times(self.core_hour, use.cores * hours).plus(_times(self.memory_hour, use.memory * hours))
        for type_, count in use.extras.items():
            total = total.plus(_times(self.accelerator_hour.get(type_), count * hours))
        return total

    def storage(self, use: Use, seconds: float) -> Span:
        """Money for the storage granted, during the run and for as long as it is to stay."""
        return _times(self.storage_day, use.storage * GB_PER_GIB * seconds / DAY + use.keeping)

    def kwh(self, use: Use, seconds: float) -> Span | None:
        """Energy; None: not known."""
        if not (self.energy or self.accelerator_energy):
            return None
        hours = seconds / HOUR
        total = _times(self.energy, use.cores * hours)
        for type_, count in use.extras.items():
            total = total.plus(_times(self.accelerator_energy.get(type_), count * hours))
        return total

    def bill(self, use: Use, seconds: float) -> float | None:
        """What a run of `seconds` is charged: the middle of each range, as the operator gave no more. None: not
        known."""
        if not self.priced:
            return None
        return round(self.compute(use, seconds).plus(self.storage(use, seconds)).expected, 6)


def price(tariff: Tariff | None, use: Use, seconds: float, currency: str) -> tuple[AbstractCostItem, ...]:
    """The costs of the whole session, in `currency` where the tariff names none. None: no costs at all."""
    if tariff is None:
        return ()
    unit = tariff.currency or currency
    costs: list[AbstractCostItem] = []
    if tariff.priced:
        total = tariff.compute(use, seconds).plus(tariff.storage(use, seconds))
        kept = f", with {use.keeping:g} GB days of keeping" if use.keeping else ""
        text = f"total for {seconds / HOUR:g} h{kept}" if not tariff.free else "free"
        costs.append(_cost(kinds.MONETARY, total, unit, text))
    costs += _footprint(tariff, use, seconds)
    if tariff.egress:
        costs.append(_cost(EGRESS, tariff.egress.span, f"{unit}/GB", "for each GB taken out; not in the total"))
    return tuple(costs)


def share(tariff: Tariff | None, use: Use, seconds: float, currency: str) -> tuple[AbstractCostItem, ...]:
    """What of `price` falls on the compute resource. It is contained in the session's total, not added to it."""
    if tariff is None:
        return ()
    costs: list[AbstractCostItem] = []
    if tariff.priced:
        text = "share of the session's total: cores, memory and extras" if not tariff.free else "free"
        costs.append(_cost(kinds.MONETARY, tariff.compute(use, seconds), tariff.currency or currency, text))
    return (*costs, *_footprint(tariff, use, seconds))


def _footprint(tariff: Tariff, use: Use, seconds: float) -> list[AbstractCostItem]:
    kwh = tariff.kwh(use, seconds)
    if kwh is None:
        return []
    costs = [_cost(kinds.ENERGY, kwh, "kWh", "electricity of the run")]
    if tariff.carbon:
        kg = Span(kwh.low * tariff.carbon.min, kwh.high * tariff.carbon.max)
        costs.append(_cost(kinds.CARBON, kg, "kg", "CO2 equivalent of that electricity"))
    return costs


def _times(rate: Range | None, amount: float) -> Span:
    return rate.span.times(amount) if rate else Span.of(0.0)


def _cost(type_: str, span: Span, unit: str, description: str) -> AbstractCostItem:
    low, high = round(span.low, 6), round(span.high, 6)
    return SimpleMinMaxFloatCost(
        kind=kinds.MINMAX_COST, type=type_, min=low, max=high, unit=unit, description=description
    )
