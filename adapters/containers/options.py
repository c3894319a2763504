"""What an operator may set of a container engine. Imports the domain's quantities and pydantic."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters.common.programs import PythonVersion
from adapters.containers import images
from broker.domain.quantities import Duration

MIB = 1024**2
GIB = 1024**3

Bytes = Annotated[int, Field(ge=1)]
Path_ = Annotated[str, Field(pattern=r"^/")]

# What Docker leaves a container by default: docs.docker.com/engine/containers/run, Linux capabilities.
CAPABILITIES = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineTlsOptions(_Options):
    """Who the engine is, and who we are to it: files in PEM."""

    ca_file: Path = Field(description="who signs the engine's certificate")
    cert_file: Path = Field(description="our certificate: whoever has it rules the engine's machine")
    key_file: Path = Field(description="its key")


class ImageOptions(_Options):
    """In what Python programs run."""

    image: str = Field(description="the image, such as docker.io/library/python:3.12-slim; best with @sha256:…")
    python: str = Field("python3", description="the interpreter in it")
    version: PythonVersion | None = Field(
        None, description="its version, such as 3.12.4; absent: what the image says in PYTHON_VERSION"
    )

    @field_validator("image")
    @classmethod
    def _named(cls, image: str) -> str:
        if images.read(image) is None:
            raise ValueError("the name of an image is wanted")
        return image


class RegistryOptions(_Options):
    """Who we are to a registry. Whoever may ask for an image of it here gets it."""

    prefix: str = Field(description="a registry, or the beginning of its repositories: registry.example.org/team")
    username: str = Field(description="the account")
    password_file: Path = Field(description="a file with its password or token alone")


class ExtraOptions(_Options):
    """An accelerator that containers can be given. The engine keeps no count of them; the broker does."""

    count: Annotated[int, Field(ge=1)] = Field(description="how many all jobs may have together")
    driver: str = Field("", description="Docker: the driver that hands it out, such as nvidia; empty: any")
    capabilities: tuple[str, ...] = Field(("gpu",), description="Docker: what the driver must be able to do")
    devices: tuple[Path_, ...] = Field((), description="files of devices that each such container gets instead")


class AddressOptions(_Options):
    """Where a container's ports are reached."""

    bind: str = Field("127.0.0.1", description="the address of the engine's machine that they listen at")
    host: str = Field("127.0.0.1", description="the name or address by which people reach it")

    @field_validator("bind")
    @classmethod
    def _an_address(cls, bind: str) -> str:
        ip_address(bind)
        return bind


class UlimitOptions(_Options):
    """Of open files and processes. Both or none: Podman sets the one that is left out higher than many may."""

    nofile: Annotated[int, Field(ge=64)] = Field(description="open files of one process")
    nproc: Annotated[int, Field(ge=1)] = Field(description="processes of the account that the program runs as")


class ContainersOptions(_Options):
    """A container engine that speaks Docker's Engine API."""

    url: str = Field("unix:///var/run/docker.sock", description="unix:///path/of/the.sock, or tcp://host:2376")
    tls: EngineTlsOptions | None = Field(None, description="needed for tcp, the loopback excepted")
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,40}$")] = Field(
        "broker", description="containers are named <prefix>-<session>; also the project that Docker Compose shows"
    )
    containers: bool = Field(True, description="False: requests with an image of their own are refused")
    program: ImageOptions | None = Field(None, description="in what Python programs run; absent: they do not")
    install_requirements: bool = Field(
        False, description="whether programs may have packages installed, from within the container"
    )
    images: tuple[str, ...] = Field(
        ("docker.io", "ghcr.io", "quay.io"),
        description="registries, or beginnings of repositories, that people's images may come from; the engine "
        "connects to them",
    )
    registries: tuple[RegistryOptions, ...] = Field((), description="registries that want to know who we are")
    pull: Literal["missing", "always", "never"] = Field("missing", description="when an image is pulled")
    architectures: tuple[str, ...] = Field((), description="others than its own that the engine can run, such as arm64")
    network: str = Field("bridge", description="none, bridge, or the name of a network of the engine's")
    ports: AddressOptions | None = Field(None, description="where ports are reached; absent: none is opened")
    capabilities: tuple[Literal[CAPABILITIES], ...] = Field(  # type: ignore[valid-type]
        (), description="what programs keep of the engine's default capabilities"
    )
    user: Annotated[str, Field(pattern=r"^(\d+(:\d+)?)?$")] = Field(
        "", description="uid or uid:gid that programs run as; empty: the image's own"
    )
    userns: str = Field("", description="mode of user namespaces, such as auto (Podman); empty: the engine's default")
    pids: Annotated[int, Field(ge=1)] = Field(1000, description="the most processes of one job at once")
    ulimits: UlimitOptions | None = Field(None, description="limits of files and processes; absent: the engine's")
    binds: tuple[Path_, ...] = Field(
        (), description="folders of the engine's machine: data below them, named by file: URLs, is mounted, read-only"
    )
    extras: dict[str, ExtraOptions] = Field(
        default_factory=dict, description="type of extra, such as uri:gpu-1.0 → how it is given"
    )
    grace: Annotated[int, Field(ge=0, le=600)] = Field(
        10, description="seconds that a container has to end by itself before it is killed"
    )
    staging: Duration = Field(timedelta(hours=1), description="the longest until a job runs: image and data are there")
    folder: Path | None = Field(
        None, description="where data waits on its way to the engine, on the broker's machine; absent: its TMPDIR"
    )
    keep: Annotated[Duration, Field(ge=timedelta(hours=1))] = Field(
        timedelta(days=7), description="how long containers that have ended stay, with results and logs"
    )
    max_data_bytes: Bytes = Field(20 * GIB, description="the most data that is staged for a job")
    max_results_bytes: Bytes = Field(10 * GIB, description="the largest ./results that are handed out")
    max_source_bytes: Bytes = Field(100 * MIB, description="the largest program")

    @model_validator(mode="after")
    def _reachable(self) -> ContainersOptions:
        parts = urlsplit(self.url)
        if parts.scheme == "unix":
            if parts.netloc or not parts.path.startswith("/") or self.tls:
                raise ValueError("url: unix:///path/of/the.sock is wanted, and no tls beside it")
        elif parts.scheme != "tcp" or not parts.hostname or not parts.port or parts.path.strip("/"):
            raise ValueError("url: unix:///path/of/the.sock or tcp://host:port is wanted")
        elif self.tls is None and not _loopback(parts.hostname):
            raise ValueError("tls: tcp wants it: whoever reaches an engine rules its machine")
        if self.ports and self.network == "none":
            raise ValueError("ports: with network: none there are none")
        return self


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
