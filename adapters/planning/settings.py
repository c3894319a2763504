"""The settings of a site that this broker plans for. Imports the domain and this package's tariff and policies."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from adapters.planning.policies import Policies
from adapters.planning.tariff import Rate, Tariff
from broker.domain.base import Natural, Number, Text
from broker.domain.quantities import Duration
from broker.domain.site import StorageElement
from broker.plugins import settings_fault

Positive = Annotated[Duration, Field(gt=timedelta(0))]


class CapacitySettings(BaseModel):
    """The room that the broker may fill, and how fast it is. Absent: what the platform itself says it has."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cores: Natural | None = Field(None, description="for all jobs of this broker together")
    memory: Natural | None = Field(None, description="GiB")
    storage: Natural | None = Field(None, description="GiB")
    extras: dict[str, Natural] = Field(default_factory=dict, description="type of extra, such as uri:gpu-1.0 → count")
    performance: Rate | None = Field(
        None, description="compute performance of a core, as a multiple of the federation's reference"
    )
    io_throughput: Rate | None = Field(None, description="reading and writing, in MB (10^6 bytes) a second")


class OfferSettings(BaseModel):
    """How offers are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lifetime: Positive | None = Field(
        None, description="until an offer expires; absent: PT5M when it holds room, PT30M when it is an estimate"
    )
    most: Annotated[int, Field(strict=True, ge=1, le=20)] = Field(3, description="offers to one request")
    look_ahead: Positive = Field(timedelta(hours=24), description="how far ahead a start is looked for")
    wait: Positive = Field(
        timedelta(hours=1),
        description="how long a job is taken to wait at most, where the platform keeps a queue and cannot say",
    )
    open_share: Annotated[Number, Field(gt=0, le=1)] = Field(
        0.5, description="share of each kind of room that offers not yet accepted may hold together"
    )
    turnaround: Positive = Field(
        timedelta(minutes=1), description="kept free after each run, for starting late and tidying up"
    )


class SiteSettings(BaseModel):
    """Everything a bare platform needs to make offers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tariff: Tariff | None = Field(
        None, description="what is charged, or the word `free`; absent: the price is not known, which is not free"
    )
    capacity: CapacitySettings = Field(
        CapacitySettings(), description="the room that may be filled, and how fast it is"
    )
    policies: Policies = Field(Policies(), description="what is allowed, ceilings, quotas")
    offers: OfferSettings = Field(OfferSettings(), description="how offers are made")
    country: Annotated[Text, Field(pattern="^[A-Z]{2}$")] | None = Field(None, description="ISO 3166-1 alpha-2")
    storages: tuple[StorageElement, ...] = Field((), description="storages at the site, by the names that replicas use")


def site_settings(values: Any) -> SiteSettings:
    """Raises SettingsError naming the first wrong key."""
    try:
        return SiteSettings.model_validate(dict(values))
    except ValidationError as error:
        raise settings_fault(error, SiteSettings) from None
