"""What can be executed: containers, notebooks, and (our additions) Python programs and workflows. Imports the domain's
base.

Source: AbstractExecutable and its members in execution-broker-1.0.openapi.json; PythonProgram and
Workflow: docs/adr/0003.
"""

from __future__ import annotations

from typing import Any, Literal

from broker.domain import kinds
from broker.domain.base import Flag, Int, Model, NameValueMap, Text
from broker.domain.components import LifecycleComponent


class AbstractExecutable(LifecycleComponent, family=True): ...


class DockerPlatformSpec(Model):
    architecture: Text | None = None
    os: Text | None = None


class DockerImageSpec(Model):
    locations: tuple[Text, ...] | None = None
    digest: Text | None = None
    platform: DockerPlatformSpec | None = None


class DockerInternalPort(Model):
    port: Int | None = None


class DockerExternalPort(Model):
    port: Int | None = None
    addresses: tuple[Text, ...] | None = None


class DockerNetworkPort(Model):
    access: Flag | None = None
    internal: DockerInternalPort | None = None
    external: DockerExternalPort | None = None
    protocol: Text | None = None
    path: Text | None = None


class DockerNetworkSpec(Model):
    ports: tuple[DockerNetworkPort, ...] | None = None


class DockerContainer(AbstractExecutable, kind=kinds.DOCKER_CONTAINER):
    image: DockerImageSpec | None = None
    privileged: Flag | None = None
    command: tuple[Text, ...] | None = None
    entrypoint: Text | None = None
    environment: NameValueMap | None = None
    network: DockerNetworkSpec | None = None


class SingularityContainer(AbstractExecutable, kind=kinds.SINGULARITY_CONTAINER):
    location: Text | None = None


class JupyterNotebook(AbstractExecutable, kind=kinds.JUPYTER_NOTEBOOK):
    """`mode` and `network` are *ours*. interactive: it is opened for a person, who reaches it by the session's
    connector; batch: it is executed from top to bottom and handed back with its outputs. Not said: as the site does it.
    `network`: as of a program."""

    location: Text | None = None
    mode: Literal["interactive", "batch"] | None = None
    network: Flag | None = None


class PythonProgram(AbstractExecutable, kind=kinds.PYTHON_PROGRAM):
    """A Python program: its source by `location` (http, https, file, data URL) or inline as `source`; one of the two.

    `requirements` are PEP 508 lines; `python` is a PEP 440 range such as ">=3.11". The program runs in its own
    folder; what it writes to `./results` is kept and handed back. `network`: true where it needs the network itself,
    beside its data; else it may find none.
    """

    location: Text | None = None
    source: Text | None = None
    arguments: tuple[Text, ...] | None = None
    environment: NameValueMap | None = None
    requirements: tuple[Text, ...] | None = None
    python: Text | None = None
    network: Flag | None = None


class WorkflowFile(Model):
    """A file that goes along with a workflow. `path` is relative to its main document; its bytes come from `location`
    or stand inline as `source`; one of the two."""

    path: Text | None = None
    location: Text | None = None
    source: Text | None = None


class Workflow(AbstractExecutable, kind=kinds.WORKFLOW):
    """A workflow in a language of its own, or a tool described in one.

    `type` is the language as the GA4GH WES names it (CWL, WDL, NFL, SMK), `version` that of the language ("v1.2").
    `location` is the main document: a URL, or the `path` of one of the `attachments`. `parameters` are its inputs, as
    the language writes them in JSON; a file's place among them is `data/<name>`, for the request's data resource of
    that name, or the path of an attachment. `engine`: what is to run it, such as "cwltool"; None: the site decides.
    `network`: as of a program.
    """

    type: Text | None = None
    version: Text | None = None
    location: Text | None = None
    attachments: tuple[WorkflowFile, ...] | None = None
    parameters: dict[str, Any] | None = None
    engine: Text | None = None
    network: Flag | None = None
