"""What the caller cares about: the one property we add to the standard's request. Imports the domain's base.

All money is in `currency`; absent, the broker's base currency. Sent only to sites known to be brokers of ours.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from broker.domain.base import Flag, Model, Number, Text
from broker.domain.quantities import Instant

Preset = Literal["cheapest", "fastest", "closest", "greenest", "balanced"]
Positive = Annotated[Number, Field(ge=0, le=1e12)]


def _country(code: str) -> str:
    """Raises ValueError for a name: no site lies in `Italy`, so forbidding that would forbid nothing."""
    if not re.fullmatch(r"\s*[A-Za-z]{2}\s*", code):
        raise ValueError("a country's code of two letters (ISO 3166-1) is wanted, such as NL")
    return code


Country = Annotated[Text, AfterValidator(_country)]


class Preferences(Model):
    """How offers are ranked and which are excluded. Absent values come from the preset (docs: ranking)."""

    model_config = ConfigDict(extra="forbid")  # a mistyped wish must not pass in silence

    preset: Preset | None = None
    currency: Annotated[Text, Field(pattern=r"^[A-Z]{3}(?!\n)$")] | None = None
    value_of_time: Positive | None = Field(None, description="money an hour until the result")
    carbon_price: Positive | None = Field(None, description="money a kg of CO2e")
    distance_price: Positive | None = Field(None, description="money a GB (10^9 bytes) moved")
    risk: Annotated[Number, Field(ge=0, le=1)] | None = Field(
        None, description="0 ranks by expected values, 1 by pessimistic ones"
    )
    deadline: Instant | None = Field(None, description="no result after this instant is wanted")
    enough: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = Field(
        None, description="good offers after which the answer need not wait"
    )
    failover: Flag | None = Field(None, description="on proof of refusal, accept the next-ranked offer")
    locality: Literal["required", "preferred"] | None = Field(None, description="required: only where the data is")
    countries_allowed: tuple[Country, ...] | None = None
    countries_forbidden: tuple[Country, ...] | None = None
    sites_allowed: tuple[Text, ...] | None = None
    sites_forbidden: tuple[Text, ...] | None = None
    requote: Annotated[Number, Field(ge=0, le=10)] | None = Field(
        None, description="accepted rise of the price, as a fraction, when an offer must be asked anew"
    )
