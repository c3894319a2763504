"""Data resources: where a request's bytes are named. Imports the domain's base.

Source: AbstractDataResource and its members in execution-broker-1.0.openapi.json. Sizes are bytes.
`content_length` is read as a long, as DataLink 1.1 has it; the 1.0 description's int32 holds 2 GB at most.
"""

from __future__ import annotations

from typing import Literal

from broker.domain import kinds
from broker.domain.base import Int, Model, Natural, Text
from broker.domain.components import LifecycleComponent

ObjectType = Literal["FILE", "CONTAINER", "DATASET"]


class AbstractDataResource(LifecycleComponent, family=True):
    """`storage` is the name or uuid of a storage component."""

    storage: Text | None = None


class SimpleDataResource(AbstractDataResource, kind=kinds.SIMPLE_DATA):
    location: Text | None = None


class S3DataResource(AbstractDataResource, kind=kinds.S3_DATA):
    endpoint: Text | None = None
    template: Text | None = None
    bucket: Text | None = None
    object: Text | None = None


class RucioReplicaBlock(Model):
    rse: Text | None = None
    url: Text | None = None


class RucioDataResourceBlock(Model):
    endpoint: Text | None = None
    scope: Text | None = None
    object: Text | None = None
    type: ObjectType | None = None


class RucioDataResource(AbstractDataResource, kind=kinds.RUCIO_DATA):
    rucio: RucioDataResourceBlock | None = None


class IvoaObsCoreItem(Model):
    obs_id: Text | None = None
    obs_collection: Text | None = None
    obs_publisher_did: Text | None = None
    obs_creator_did: Text | None = None
    dataproduct_type: Text | None = None
    calib_level: Int | None = None
    access_url: Text | None = None
    access_format: Text | None = None


class IvoaDataLinkItem(Model):
    ID: Text | None = None
    access_url: Text | None = None
    service_def: Text | None = None
    error_message: Text | None = None
    description: Text | None = None
    semantics: Text | None = None
    content_type: Text | None = None
    content_length: Natural | None = None
    content_qualifier: Text | None = None
    local_semantics: Text | None = None
    link_auth: Text | None = None
    link_authorized: Text | None = None


class IvoaDataResourceBlock(Model):
    ivoid: Text | None = None
    obscore: IvoaObsCoreItem | None = None
    datalink: IvoaDataLinkItem | None = None


class IvoaDataResource(AbstractDataResource, kind=kinds.IVOA_DATA):
    ivoa: IvoaDataResourceBlock | None = None


class SkaoChecksumItem(Model):
    type: Text | None = None
    value: Text | None = None


class SkaoReplicaItem(Model):
    rsename: Text | None = None
    dataurl: Text | None = None


class SkaoDataResourceBlock(Model):
    namespace: Text | None = None
    objectname: Text | None = None
    objecttype: ObjectType | None = None
    datasize: Natural | None = None
    checksum: SkaoChecksumItem | None = None
    replicas: tuple[SkaoReplicaItem, ...] | None = None


class SkaoDataResource(AbstractDataResource, kind=kinds.SKAO_DATA):
    ivoa: IvoaDataResourceBlock | None = None
    skao: SkaoDataResourceBlock | None = None
