"""The forms of version 1.0 for the hot path: what a site's offer must look like to be passed on. Imports msgspec
and the kinds.

Decoding an offer as a `Session` checks every property that 1.0 knows in one pass of a few microseconds; pydantic
takes ten times that. The pydantic models in this folder say what a property *means*; a test holds the two together.
Null counts as absent. A property that 1.0 does not know is not looked at. Source: execution-broker-1.0.openapi.json.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import Meta, Raw, Struct

from broker.domain import kinds

# The schema's patterns (ISO8601Instant, -Duration, -Interval) in other words of the same meaning, what sites mostly
# write first: matching them is half of the cost of an offer. These stay texts, since msgspec's own readers of times
# take forms that the patterns, and so clients of 1.0, refuse.
_DATE = r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_CLOCK = r"(?:[01]\d|2[0-3]):[0-5]\d"
_MOMENT = rf"{_DATE}(?:T{_CLOCK}(?::[0-5]\d(?:\.\d+)?)?(?:Z|[+\-]{_CLOCK})?)?"
_TAIL = r"(?:T(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?"
_LENGTH = rf"P(?:\d+W|(?=\d|T)(?:\d+Y)?(?:\d+M)?(?:\d+D)?{_TAIL})"
INTERVAL = rf"(?a)^(?:{_DATE}T{_CLOCK}:[0-5]\dZ/PT0S|{_MOMENT}/(?:{_MOMENT}|{_LENGTH})|{_LENGTH}/{_MOMENT})\Z"
DURATION = rf"(?a)^-?P(?:T\d+[HMS]|(?=\d|T\d)(?:\d+Y)?(?:\d+M)?(?:\d+[DW])?{_TAIL})\Z"
INSTANT = r"(?a)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[^/]+$"

Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Size = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # a negative size means nothing
Instant = Annotated[str, Meta(pattern=INSTANT)]
Interval = Annotated[str, Meta(pattern=INTERVAL)]
Duration = Annotated[str, Meta(pattern=DURATION)]
Phase = Literal[
    "INITIALIZING", "WAITING", "PREPARING", "AVAILABLE", "RUNNING", "RELEASING", "COMPLETED", "FAILED", "CANCELLED"
]  # fmt: skip


class Message(Struct, gc=False):
    kind: str | None = None
    time: datetime | None = None
    level: Literal["DEBUG", "WARN", "ERROR", "INFO", "OTHER"] | None = None
    template: str | None = None
    values: dict[str, str] | None = None
    message: str | None = None


class _Option(Struct, gc=False, tag_field="kind"):
    path: str


class StringOption(_Option, gc=False, tag=kinds.STRING_OPTION):
    pattern: str | None = None


class EnumOption(_Option, gc=False, tag=kinds.ENUM_OPTION):
    values: list[str]


class _WholeOption(_Option, gc=False):
    min: Whole | None = None
    max: Whole | None = None
    units: str | None = None


class IntegerOption(_WholeOption, gc=False, tag=kinds.INTEGER_OPTION): ...


class DeltaOption(_WholeOption, gc=False, tag=kinds.DELTA_OPTION): ...


class SessionMetadata(Struct, gc=False):
    """A session's own metadata; uuid, url and options are not looked at, for the broker writes its own."""

    name: str | None = None
    description: str | None = None
    created: datetime | None = None
    modified: datetime | None = None
    messages: list[Message] | None = None


class Metadata(SessionMetadata, gc=False):
    uuid: UUID | None = None
    url: str | None = None
    options: list[StringOption | EnumOption | IntegerOption | DeltaOption] | None = None


class _Item(Struct, gc=False, tag_field="kind"):
    type: str | None = None
    description: str | None = None


class AnyCost(_Item, gc=False, tag=kinds.ABSTRACT_COST): ...


class AnyMetric(_Item, gc=False, tag=kinds.ABSTRACT_METRIC): ...


class _Range(_Item, gc=False):
    """`unit` is ours: 1.0 has none."""

    min: float | None = None
    max: float | None = None
    unit: str | None = None


class Cost(_Range, gc=False, tag=kinds.MINMAX_COST): ...


class Metric(_Range, gc=False, tag=kinds.MINMAX_METRIC): ...


class Starting(Struct, gc=False):
    start: Instant | None = None
    duration: Duration | None = None


class Available(Struct, gc=False):
    start: Interval | None = None
    duration: Duration | None = None


class Schedule(Struct, gc=False):
    preparing: Starting | None = None
    available: Available | None = None
    releasing: Starting | None = None


class MinMax(Struct, gc=False):
    min: Size | None = None
    max: Size | None = None


class _Component(Struct, gc=False, tag_field="kind"):
    meta: Metadata | None = None
    costs: list[Cost | AnyCost] | None = None
    metrics: list[Metric | AnyMetric] | None = None


class _Lifecycle(_Component, gc=False):
    phase: Phase | None = None
    schedule: Schedule | None = None


class Platform(Struct, gc=False):
    architecture: str | None = None
    os: str | None = None


class Image(Struct, gc=False):
    locations: list[str] | None = None
    digest: str | None = None
    platform: Platform | None = None


class InternalPort(Struct, gc=False):
    port: Whole | None = None


class ExternalPort(InternalPort, gc=False):
    addresses: list[str] | None = None


class Port(Struct, gc=False):
    access: bool | None = None
    internal: InternalPort | None = None
    external: ExternalPort | None = None
    protocol: str | None = None
    path: str | None = None


class Network(Struct, gc=False):
    ports: list[Port] | None = None


class Docker(_Lifecycle, gc=False, tag=kinds.DOCKER_CONTAINER):
    image: Image | None = None
    privileged: bool | None = None
    command: list[str] | None = None
    entrypoint: str | None = None
    environment: dict[str, str] | None = None
    network: Network | None = None


class Singularity(_Lifecycle, gc=False, tag=kinds.SINGULARITY_CONTAINER):
    location: str | None = None


class Notebook(_Lifecycle, gc=False, tag=kinds.JUPYTER_NOTEBOOK):
    """`mode` and `network` are *ours*."""

    location: str | None = None
    mode: Literal["interactive", "batch"] | None = None
    network: bool | None = None


class Program(_Lifecycle, gc=False, tag=kinds.PYTHON_PROGRAM):
    location: str | None = None
    source: str | None = None
    arguments: list[str] | None = None
    environment: dict[str, str] | None = None
    requirements: list[str] | None = None
    python: str | None = None
    network: bool | None = None


class WorkflowFile(Struct, gc=False):
    path: str | None = None
    location: str | None = None
    source: str | None = None


class Workflow(_Lifecycle, gc=False, tag=kinds.WORKFLOW):
    type: str | None = None
    version: str | None = None
    location: str | None = None
    attachments: list[WorkflowFile] | None = None
    parameters: dict[str, Any] | None = None
    engine: str | None = None
    network: bool | None = None


class Volume(_Component, gc=False, tag=kinds.SIMPLE_VOLUME):
    path: str | None = None
    mode: Literal["READONLY", "READWRITE"] | None = None
    resource: str | None = None


class Compute(_Lifecycle, gc=False, tag=kinds.SIMPLE_COMPUTE):
    """`extras` is ours, so its form is judged only where a request asks for some."""

    volumes: list[Volume] | None = None
    cores: MinMax | None = None
    memory: MinMax | None = None
    extras: Raw = Raw()  # empty: absent


class Storage(_Lifecycle, gc=False, tag=kinds.SIMPLE_STORAGE):
    data: list[str] | None = None
    size: MinMax | None = None


class _Data(_Lifecycle, gc=False):
    storage: str | None = None


class SimpleData(_Data, gc=False, tag=kinds.SIMPLE_DATA):
    location: str | None = None


class S3Data(_Data, gc=False, tag=kinds.S3_DATA):
    endpoint: str | None = None
    template: str | None = None
    bucket: str | None = None
    object: str | None = None


ObjectType = Literal["FILE", "CONTAINER", "DATASET"]


class Rucio(Struct, gc=False):
    endpoint: str | None = None
    scope: str | None = None
    object: str | None = None
    type: ObjectType | None = None


class RucioData(_Data, gc=False, tag=kinds.RUCIO_DATA):
    rucio: Rucio | None = None


class ObsCore(Struct, gc=False):
    obs_id: str | None = None
    obs_collection: str | None = None
    obs_publisher_did: str | None = None
    obs_creator_did: str | None = None
    dataproduct_type: str | None = None
    calib_level: Whole | None = None
    access_url: str | None = None
    access_format: str | None = None


class DataLink(Struct, gc=False):
    ID: str | None = None
    access_url: str | None = None
    service_def: str | None = None
    error_message: str | None = None
    description: str | None = None
    semantics: str | None = None
    content_type: str | None = None
    content_length: Size | None = None
    content_qualifier: str | None = None
    local_semantics: str | None = None
    link_auth: str | None = None
    link_authorized: str | None = None


class Ivoa(Struct, gc=False):
    ivoid: str | None = None
    obscore: ObsCore | None = None
    datalink: DataLink | None = None


class IvoaData(_Data, gc=False, tag=kinds.IVOA_DATA):
    ivoa: Ivoa | None = None


class Checksum(Struct, gc=False):
    type: str | None = None
    value: str | None = None


class Replica(Struct, gc=False):
    rsename: str | None = None
    dataurl: str | None = None


class Skao(Struct, gc=False):
    namespace: str | None = None
    objectname: str | None = None
    objecttype: ObjectType | None = None
    datasize: Size | None = None
    checksum: Checksum | None = None
    replicas: list[Replica] | None = None


class SkaoData(_Data, gc=False, tag=kinds.SKAO_DATA):
    ivoa: Ivoa | None = None
    skao: Skao | None = None


class Connector(Struct, gc=False):
    kind: str | None = None
    status: Literal["PREPARING", "AVAILABLE", "FINISHED"] | None = None
    protocol: str | None = None
    location: str | None = None


class Extra(Struct, gc=False):
    """*Ours*: an accelerator or other extra of a compute resource."""

    type: str
    count: Annotated[int, Meta(ge=1, le=2**31)] = 1


class Session(Struct, gc=False):
    """One offer of a plain 1.0 site. `phase` and `expires` are read and then written by the broker."""

    phase: str | None = None
    expires: datetime | None = None
    meta: SessionMetadata | None = None
    executable: Docker | Singularity | Notebook | Program | Workflow | None = None
    compute: Compute | None = None
    storage: list[Storage] | None = None
    data: list[SimpleData | S3Data | RucioData | IvoaData | SkaoData] | None = None
    schedule: Schedule | None = None
    connectors: list[Connector] | None = None
    costs: list[Cost | AnyCost] | None = None
    metrics: list[Metric | AnyMetric] | None = None


class Bounds(Struct, gc=False):
    expected: float
    pessimistic: float
    unit: str | None = None


class Delivery(Struct, gc=False):
    seconds: Bounds | None = None
    price: Bounds | None = None
    to: str = ""
    bytes: float | None = None
    stand_in: bool = False


class Locality(Struct, gc=False):
    bytes: Bounds | None = None
    sources: list[str] | None = None
    staging: Bounds | None = None
    egress: Bounds | None = None
    certainty: Literal["stated", "measured", "estimated", "unknown"] = "unknown"
    least: float = 0.0
    recall: Bounds | None = None
    held: list[str] | None = None
    cached: float = 0.0
    samples: int = 0
    delivery: Delivery | None = None


class OurSession(Session, gc=False):
    """One offer of a broker or a planner of ours, whose additions are believed."""

    origin: str | None = None
    platform: str | None = None
    reserved: bool = False
    simulated: bool = False
    results: bool = False
    locality: Locality | None = None
