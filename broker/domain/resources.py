"""Compute, storage and volumes. Imports the domain's base.

Source: Abstract{Compute,Storage}Resource, AbstractVolumeMount and members in execution-broker-1.0.openapi.json;
`extras` (accelerators) is our addition, after the draft of 2023: docs/adr/0003.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from broker.domain import kinds
from broker.domain.base import ONE_OF, Model, NameValueMap, Natural, Text
from broker.domain.components import AbstractComponent, LifecycleComponent
from broker.domain.measures import MinMaxLong


class AbstractVolumeMount(AbstractComponent, family=True): ...


class SimpleVolumeMount(AbstractVolumeMount, kind=kinds.SIMPLE_VOLUME):
    """`resource` is the name or uuid of a data or storage component. Standard default of `mode`: READONLY."""

    path: Text | None = None
    mode: Literal["READONLY", "READWRITE"] | None = None
    resource: Text | None = None


class Extra(Model):
    """An accelerator or other extra of a compute resource. `type` is a URI such as `uri:gpu-1.0`."""

    type: Text
    name: Text | None = None
    count: Annotated[Natural, Field(ge=1)] = 1
    spec: NameValueMap | None = None


class AbstractComputeResource(LifecycleComponent, family=True):
    volumes: tuple[Annotated[AbstractVolumeMount, ONE_OF], ...] | None = None


class SimpleComputeCores(MinMaxLong): ...


class SimpleComputeMemory(MinMaxLong):
    """GiB."""


class SimpleComputeResource(AbstractComputeResource, kind=kinds.SIMPLE_COMPUTE):
    """`cores` are CPU cores, `memory` is in GiB. Absent minimum: 1 core, 1 GiB (protocol.md 1.4)."""

    cores: SimpleComputeCores | None = None
    memory: SimpleComputeMemory | None = None
    extras: tuple[Extra, ...] | None = None


class AbstractStorageResource(LifecycleComponent, family=True):
    data: tuple[Text, ...] | None = None


class SimpleStorageSize(MinMaxLong):
    """GiB."""


class SimpleStorageResource(AbstractStorageResource, kind=kinds.SIMPLE_STORAGE):
    """`size` is in GiB."""

    size: SimpleStorageSize | None = None
