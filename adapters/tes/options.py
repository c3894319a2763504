"""What an operator may set of a TES site. Imports the domain's places, the tokens' options, pydantic."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from adapters.common.programs import PythonVersion
from adapters.common.signing import ServerOptions
from broker.domain.outputs import Outputs

_ABSOLUTE = r"^(/[\w+-][\w.+-]*)+$"
_HERE = ("localhost", "127.0.0.1", "::1")


class ProgramOptions(BaseModel):
    """What Python programs run in: TES runs containers alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str = Field(min_length=1, description="the image, by its digest if it is always to be the same one")
    python: str = Field("python3", min_length=1, description="the interpreter in it")
    version: PythonVersion | None = Field(
        None, description="the interpreter's version, such as 3.11.9; absent: programs that ask for one are refused"
    )


class OutputOptions(BaseModel):
    """A place that the TES server can write to, and the broker can read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    place: str = Field(
        description="where results go, in a folder for each session: s3://bucket/prefix, https://host/folder or "
        "file:///folder (a file system that the broker shares)"
    )
    endpoint: str = Field("", description="where the broker speaks S3 for it, such as https://s3.example.org")
    region: str = Field("us-east-1", description="the region in the broker's signatures of S3")
    credentials_file: Path | None = Field(
        None,
        description="what the broker reads it with, a file with a section [default]: aws_access_key_id and "
        "aws_secret_access_key for s3, token, or username and password, for http; absent: nothing",
    )

    @model_validator(mode="after")
    def _consistent(self) -> OutputOptions:
        parts = urlsplit(self.place)
        if "{" in self.place:
            raise ValueError("each session has a folder of its own below it: nothing is filled in")
        if parts.scheme == "file":
            if parts.netloc or ".." in parts.path.split("/") or len(parts.path.strip("/")) == 0:
                raise ValueError("a file place is file:/// and an absolute folder")
        elif parts.scheme in ("http", "https", "s3"):
            Outputs(to=self.place)
        else:
            raise ValueError("file, http, https or s3 is wanted")
        if (parts.scheme == "s3") != bool(self.endpoint):
            raise ValueError("a place in s3 needs its endpoint, and no other has one")
        if self.endpoint and (urlsplit(self.endpoint).scheme not in ("http", "https") or "?" in self.endpoint):
            raise ValueError("the endpoint is an http or https URL")
        if self.credentials_file and not _may_be_told_secrets(self.endpoint or self.place):
            raise ValueError("credentials are sent over https alone")
        return self


class TesOptions(ServerOptions):
    """Options of a site of kind `tes`: containers and Python programs at a GA4GH TES server."""

    url: str = Field(
        "", description="the server, such as https://tes.example.org/ga4gh/tes/v1; absent: the site's `url`"
    )
    program: ProgramOptions | None = Field(None, description="what Python programs run in; absent: they are refused")
    containers: bool = Field(True, description="False: requests with an image of their own are refused")
    architectures: tuple[str, ...] = Field(("amd64",), description="of the machines that run them, as Docker says it")
    outputs: OutputOptions | None = Field(
        None, description="where results go; absent: what runs write is lost, but for the end of their logs"
    )
    writes: tuple[str, ...] = Field(
        (),
        description="schemes and beginnings of URLs that the TES server can write users' results to, by its own "
        "credentials, such as s3://results/; empty: none",
    )
    reads: tuple[str, ...] | None = Field(
        None,
        description="schemes and beginnings of URLs that the TES server may read data from, by its own credentials; "
        "absent: http, https and the storage that its service-info names",
    )
    workdir: Annotated[str, Field(pattern=_ABSOLUTE)] = Field(
        "/broker", description="the folder in a container where a program finds its data, and leaves its results"
    )
    disk: Annotated[float, Field(ge=0, le=1e6)] = Field(
        0.0, description="GiB asked for each task beyond the storage that its request asks for: its data, its results"
    )
    preemptible: bool = Field(False, description="tasks may run where the platform can take the machine away")
    zones: tuple[str, ...] = Field((), description="where tasks may run, as the server calls it; empty: anywhere")
    backend_parameters: dict[str, str] = Field(
        default_factory=dict, description="for the server's own needs, such as {queue: astro}; sent with each task"
    )
    accelerators: dict[str, str] = Field(
        default_factory=dict,
        description="type of an accelerator, such as uri:gpu-1.0 → the backend parameter that says how many; their "
        "number at the site belongs to `capacity.extras`",
    )
    strict: bool = Field(
        True, description="the server fails a task rather than leave out a backend parameter that it does not know"
    )
    max_source_bytes: Annotated[int, Field(ge=1)] = Field(
        128 * 1024, description="the largest program in a request; TES servers take 128 KiB at least"
    )

    @field_validator("writes", "reads")
    @classmethod
    def _places(cls, entries: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for entry in entries or ():
            if not re.match(r"[a-z][a-z0-9+.-]*(://|$)", entry):
                raise ValueError(f"{entry!r} is neither a scheme nor the beginning of a URL")
        return entries


def _may_be_told_secrets(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _HERE)
