"""What every component carries: metadata, messages, options, costs, metrics, lifecycle. Imports the domain's base.

Source: ComponentMetadata, AbstractComponent, LifecycleComponent, MessageItem, Abstract{Option,CostItem,MetricItem}
and their members in execution-broker-1.0.openapi.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID

from broker.domain import kinds
from broker.domain.base import ONE_OF, Family, Int, Model, NameValueMap, Number, Text
from broker.domain.quantities import Instant
from broker.domain.schedule import LifecycleSchedule

Level = Literal["DEBUG", "WARN", "ERROR", "INFO", "OTHER"]


class LifecyclePhase(StrEnum):
    """Phases of a component, in the order they are passed through."""

    INITIALIZING = "INITIALIZING"
    WAITING = "WAITING"
    PREPARING = "PREPARING"
    AVAILABLE = "AVAILABLE"
    RUNNING = "RUNNING"
    RELEASING = "RELEASING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class MessageItem(Model):
    """One message. The standard's template, values *and* filled text are always written together."""

    kind: Text | None = None
    time: Instant | None = None
    level: Level | None = None
    template: Text | None = None
    values: NameValueMap | None = None
    message: Text | None = None

    @classmethod
    def fill(
        cls, kind: str, template: str, *, level: Level = "INFO", time: datetime | None = None, **values: object
    ) -> MessageItem:
        """`template` holds `{name}` place holders (messagetemplates.org). Values are cut to 1000 characters."""
        texts = {name: str(value)[:1000] for name, value in values.items()}
        text = fill_in(template, texts)
        return cls(kind=kind, time=time, level=level, template=template, values=texts or None, message=text)


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Each `{name}` replaced by its value, once; one without a value stays as it is."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), template)


class AbstractOption(Family, family=True):
    path: Text


class StringValueOption(AbstractOption, kind=kinds.STRING_OPTION):
    pattern: Text | None = None


class EnumValueOption(AbstractOption, kind=kinds.ENUM_OPTION):
    values: tuple[Text, ...]


class IntegerValueOption(AbstractOption, kind=kinds.INTEGER_OPTION):
    min: Int | None = None
    max: Int | None = None
    units: Text | None = None


class IntegerDeltaOption(AbstractOption, kind=kinds.DELTA_OPTION):
    min: Int | None = None
    max: Int | None = None
    units: Text | None = None


class ComponentMetadata(Model):
    uuid: UUID | None = None
    name: Text | None = None
    url: Text | None = None
    description: Text | None = None
    created: Instant | None = None
    modified: Instant | None = None
    messages: tuple[MessageItem, ...] | None = None
    options: tuple[Annotated[AbstractOption, ONE_OF], ...] | None = None


class AbstractCostItem(Family, family=True, kind=kinds.ABSTRACT_COST):
    """A cost. `kind` says how it is written, `type` what it means."""

    type: Text | None = None
    description: Text | None = None


class SimpleMinMaxFloatCost(AbstractCostItem, kind=kinds.MINMAX_COST):
    """`unit` is ours: version 1.0 has none. A currency (ISO 4217) for money, `kWh` for energy, `kg` for CO2e."""

    min: Number | None = None
    max: Number | None = None
    unit: Text | None = None


class AbstractMetricItem(Family, family=True, kind=kinds.ABSTRACT_METRIC):
    """A metric. `kind` says how it is written, `type` what it means."""

    type: Text | None = None
    description: Text | None = None


class SimpleMinMaxFloatMetric(AbstractMetricItem, kind=kinds.MINMAX_METRIC):
    min: Number | None = None
    max: Number | None = None
    unit: Text | None = None


Costs = tuple[Annotated[AbstractCostItem, ONE_OF], ...]
Metrics = tuple[Annotated[AbstractMetricItem, ONE_OF], ...]


class AbstractComponent(Family, family=True):
    meta: ComponentMetadata | None = None
    costs: Costs | None = None
    metrics: Metrics | None = None

    @property
    def name(self) -> str:
        return (self.meta.name if self.meta else None) or ""

    @property
    def uuid(self) -> UUID | None:
        return self.meta.uuid if self.meta else None


class LifecycleComponent(AbstractComponent, family=True):
    phase: LifecyclePhase | None = None
    schedule: LifecycleSchedule | None = None
