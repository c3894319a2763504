"""What an operator may set of the local platform. Imports the domain's quantities and pydantic."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from broker.domain.outputs import Outputs
from broker.domain.quantities import Duration

Bytes = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]

_HERE = ("localhost", "127.0.0.1", "::1")

MIB = 1024**2
GIB = 1024**3


class InteractiveOptions(BaseModel):
    """How interactive notebooks are opened. Each server asks for a token of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    offered: bool = Field(True, description="False: interactive notebooks are refused")
    idle: Duration = Field(
        timedelta(hours=1), description="a session in which nothing was computed and saved for so long is ended"
    )
    host: str = Field("127.0.0.1", description="the address that the servers listen at")
    ports: tuple[Port, Port] | None = Field(None, description="the first and the last port they may take; none: any")
    url: str = Field(
        "",
        description="where they are reached from outside, with {port} for the port, such as "
        "https://lab.example.org/notebooks/{port}/; empty: http at host and port",
    )

    @field_validator("ports")
    @classmethod
    def _ordered(cls, ports: tuple[int, int] | None) -> tuple[int, int] | None:
        if ports is not None and ports[0] > ports[1]:
            raise ValueError("the first port comes first")
        return ports

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str) -> str:
        """A path that ends in a slash, and nothing behind it: the server's own paths and the token follow."""
        parts = urlsplit(url.replace("{port}", "1"))
        if url and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment):
            raise ValueError("an http or https URL is wanted, without query and fragment")
        if url and "{port}" not in url:
            raise ValueError("{port} is wanted in it: each session has a server of its own")
        return url if not url or url.endswith("/") else f"{url}/"

    @property
    def reached(self) -> str:
        """As `url`, never empty."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.url or f"http://{host}:{{port}}/"


class CacheOptions(BaseModel):
    """Data that was staged over http and https, kept for the next job that wants it, whoever's it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: Annotated[float, Field(ge=1, le=2**62)] = Field(description="the most that is kept, such as 100e9")
    keep: Annotated[Duration, Field(gt=timedelta(0))] = Field(
        timedelta(days=7), description="how long a file is kept after it was last used"
    )


class WriteOptions(BaseModel):
    """A place that results can be written to. Written as a word alone, it is the prefix."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prefix: str = Field(
        description="beginning of the URLs, such as s3://results/ or https://store.example.org/results/; or https, "
        "which is every host at a public address"
    )
    endpoint: str = Field("", description="where s3 is spoken for it, such as https://s3.example.org")
    region: str = Field("us-east-1", description="the region in signatures of S3")
    credentials_file: Path | None = Field(
        None,
        description="a file with a section [default]: aws_access_key_id and aws_secret_access_key for s3, token, or "
        "username and password, for https; absent: none are sent",
    )

    @model_validator(mode="after")
    def _consistent(self) -> WriteOptions:
        parts = urlsplit(self.prefix)
        if self.prefix in ("http", "https"):
            if self.credentials_file:
                raise ValueError(
                    "credentials are for a prefix with a host: else they would go to whomever a user names"
                )
            return self
        if parts.scheme not in ("http", "https", "s3"):
            raise ValueError("http, https or s3 is wanted")
        Outputs(to=self.prefix)
        if (parts.scheme == "s3") != bool(self.endpoint):
            raise ValueError("a prefix of s3 needs its endpoint, and no other has one")
        if self.endpoint and (urlsplit(self.endpoint).scheme not in ("http", "https") or "?" in self.endpoint):
            raise ValueError("the endpoint is an http or https URL")
        if parts.scheme == "http" and self.credentials_file and parts.hostname not in _HERE:
            raise ValueError("credentials are not sent over http")
        return self


def _word(value: Any) -> Any:
    return {"prefix": value} if isinstance(value, str) else value


Write = Annotated[WriteOptions, BeforeValidator(_word, json_schema_input_type=str | WriteOptions)]


class RunOptions(BaseModel):
    """What bounds each run that a supervisor sees to, and what it may read and write."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file_roots: tuple[Path, ...] = Field(
        (), description="folders that file URLs may read from; empty: file URLs are refused"
    )
    keep: Duration = Field(
        timedelta(days=7), description="how long logs and results of an ended job are kept; its state for 30 days more"
    )
    keep_longest: Duration | None = Field(
        None, description="the longest that a request can have them kept; absent: as `keep`"
    )
    writes: tuple[Write, ...] = Field(
        (), description="where results can be written to; empty: they stay here and are fetched"
    )
    delivering: Duration = Field(
        timedelta(hours=1), description="the longest that writing results elsewhere may take, all tries together"
    )
    install_requirements: bool = Field(
        False, description="install the requirements of a program with pip into its own folder; False: refuse such jobs"
    )
    grace: Annotated[float, Field(ge=0, le=600)] = Field(
        10.0, description="seconds that processes have to end by themselves before they are killed"
    )
    staging: Duration = Field(timedelta(hours=1), description="the longest that staging, and installing, may take")
    max_processes: Annotated[int, Field(ge=1)] = Field(1000, description="the most processes of one job at once")
    max_disk_bytes: Bytes = Field(
        20 * GIB, description="what a job may write, data included, beyond the storage that its request asks for"
    )
    max_results_bytes: Bytes = Field(10 * GIB, description="the most that is kept of ./results")
    max_log_bytes: Bytes = Field(64 * MIB, description="the most that is kept of stdout, and of stderr: their end")
    max_source_bytes: Bytes = Field(100 * MIB, description="the largest program or notebook")


class LocalOptions(RunOptions):
    """Options of a site of kind `local`: programs and notebooks run on the broker's own machine (Linux)."""

    folder: Path = Field(
        description="where jobs live: one folder each, named by the session's uuid; made when it is not there. "
        "One folder serves one site, and lies on a disk of this machine"
    )
    python: Path = Field(Path(sys.executable), description="the interpreter of programs and notebooks")
    cwl_python: Path | None = Field(
        None, description="an interpreter that has cwltool, which runs workflows in CWL; absent: that of programs"
    )
    isolation: Literal["auto", "bwrap", "none"] = Field(
        "auto",
        description="bwrap: programs run in bubblewrap, and see the system's files, read-only, and their own folder; "
        "where it does not work, nothing runs. none: they can read and change what the broker's account can. auto: "
        "bwrap where it works, else none; each offer says which",
    )
    network: Literal["asked"] | bool = Field(
        "asked",
        description="in bubblewrap: whether programs reach the network; asked: those whose request asks for it. "
        "Staging always does",
    )
    nice: Annotated[int, Field(ge=0, le=19)] = Field(5, description="how far jobs stand back behind the broker")
    cache: CacheOptions | None = Field(None, description="data kept for the next job that wants it; absent: none is")
    interactive: InteractiveOptions = Field(
        InteractiveOptions(), description="notebooks that a person sits before, each with a Jupyter server of its own"
    )
