"""The kind URIs of version 1.0 and of our additions, and their short names. Imports nothing.

Source: the `discriminator.mapping`s of execution-broker-1.0.openapi.json. A short name is the last word of the
URI without version or `.yaml` ("docker-container"); clients may type it, the wire always carries the URI.
"""

from __future__ import annotations

BASE = "https://www.purl.org/ivoa.net/Calycopis-openapi/schema/v1.0/kinds/"

DOCKER_CONTAINER = BASE + "executable/docker-container.yaml"
SINGULARITY_CONTAINER = BASE + "executable/singularity-container.yaml"
JUPYTER_NOTEBOOK = BASE + "executable/jupyter-notebook.yaml"
PYTHON_PROGRAM = "uri:python-program-1.0"  # our addition: 1.0 has no kind for a bare program
WORKFLOW = "uri:workflow-1.0"  # our addition: nor for a workflow

SIMPLE_COMPUTE = BASE + "compute/simple-compute-resource.yaml"
SIMPLE_STORAGE = BASE + "storage/simple-storage-resource.yaml"
SIMPLE_VOLUME = BASE + "volume/simple-volume-mount.yaml"

ABSTRACT_DATA = BASE + "data/abstract-data-resource.yaml"  # a template's place for data; never sent
SIMPLE_DATA = BASE + "data/simple-data-resource.yaml"
S3_DATA = BASE + "data/S3-data-resource.yaml"
RUCIO_DATA = BASE + "data/rucio-data-resource.yaml"
IVOA_DATA = BASE + "data/ivoa-data-resource.yaml"
SKAO_DATA = BASE + "data/skao-data-resource.yaml"

SIMPLE_SESSION = BASE + "session/simple-execution-session.yaml"
SCHEDULED_SESSION = BASE + "session/scheduled-execution-session.yaml"
OFFERSET = BASE + "offerset/execution-offerset.yaml"

ABSTRACT_COST = BASE + "costs/abstract-cost-item.yaml"
MINMAX_COST = BASE + "costs/simple-minmax-float-cost.yaml"
ABSTRACT_METRIC = BASE + "metrics/abstract-metric-item.yaml"
MINMAX_METRIC = BASE + "metrics/simple-minmax-float-metric.yaml"

STRING_OPTION = "uri:string-value-option"
ENUM_OPTION = "uri:enum-value-option"
INTEGER_OPTION = "uri:integer-value-option"
DELTA_OPTION = "uri:integer-delta-option"
STRING_UPDATE = "uri:string-value-update"
ENUM_UPDATE = "uri:enum-value-update"
INTEGER_UPDATE = "uri:integer-value-update"
DELTA_UPDATE = "uri:integer-delta-update"

# Our addition: a Jupyter server for one session, reached by its connector's URL.
JUPYTER_CONNECTOR = "uri:jupyter-connector-1.0"

EXECUTABLES = (DOCKER_CONTAINER, SINGULARITY_CONTAINER, JUPYTER_NOTEBOOK, PYTHON_PROGRAM, WORKFLOW)
DATA = (SIMPLE_DATA, S3_DATA, RUCIO_DATA, IVOA_DATA, SKAO_DATA)

# What costs and metrics mean (their `type`): the URIs in use in the field (Calycopis, 2026).
MONETARY = "urn:ivoa:calycopis:cost:monetary"
ENERGY = "urn:ivoa:calycopis:cost:energy"
CARBON = "urn:ivoa:calycopis:cost:carbon"
COMPUTE_PERFORMANCE = "urn:ivoa:calycopis:metric:compute-performance"
IO_THROUGHPUT = "urn:ivoa:calycopis:metric:io-throughput"

# Types of extras (accelerators) of a compute resource. The draft of 2023 names NVIDIA chips by such URIs.
GPU = "uri:gpu-1.0"
FPGA = "uri:fpga-1.0"


def short(uri: str) -> str:
    """The last word of a kind's URI: `…/executable/docker-container.yaml` → `docker-container`."""
    word = uri.rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".yaml")
    head, dash, tail = word.rpartition("-")
    return head if dash and tail.replace(".", "").isdigit() else word


def expand(word: str, among: tuple[str, ...]) -> str | None:
    """The URI in `among` whose short name is `word` (or that is `word`), else None."""
    return next((uri for uri in among if word in (uri, short(uri))), None)
