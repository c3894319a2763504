"""What an operator may set of a WES site. Imports the domain's quantities, signing and tokens of common, pydantic."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from adapters.common.programs import PythonVersion
from adapters.common.signing import ServerOptions
from broker.domain.quantities import Duration

MIB = 1024**2


class ProgramOptions(BaseModel):
    """What Python programs run in. Each is sent as a CWL tool of one step."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    python: str = Field("python3", min_length=1, description="the interpreter, 3.8 or newer, where the tool runs")
    version: PythonVersion | None = Field(
        None, description="the interpreter's version, such as 3.11.9; absent: programs that ask for one are refused"
    )
    image: str | None = Field(
        None, description="the container image that the tool runs in, where the engine has containers; absent: none"
    )

    staging: Literal["tool", "engine"] = Field(
        "tool",
        description="who reads data over http and https: the tool, where it runs, or the workflow engine, for machines "
        "without a network; cwltool then takes a server's error page for the file",
    )


class WesOptions(ServerOptions):
    """Options of a site of kind `wes`: workflows and Python programs at a GA4GH WES server."""

    url: str = Field(
        "", description="the server, such as https://wes.example.org/ga4gh/wes/v1; absent: the site's `url`"
    )
    program: ProgramOptions | None = Field(None, description="what Python programs run in; absent: they are refused")
    workflows: bool = Field(True, description="False: requests with a workflow of their own are refused")
    engines: dict[str, str] = Field(
        default_factory=dict,
        description="type of workflow, such as CWL → the engine that is to run it, as the server calls it; absent: the "
        "usual one of the type, where the server lists it",
    )
    engine_parameters: dict[str, str | None] = Field(
        default_factory=dict, description="sent with each run as `workflow_engine_parameters`"
    )
    outputs: tuple[Path, ...] = Field(
        (),
        description="folders that the WES server writes outputs to and that this broker sees at the same paths; "
        "outputs that lie as files elsewhere are not handed out",
    )
    results: bool | None = Field(
        None,
        description="whether runs hand back results; absent: yes where `outputs` is set, or the server is known to "
        "serve them over HTTP",
    )
    reads: tuple[str, ...] = Field(
        ("http", "https"), description="schemes of URLs that the server's engines read data from"
    )
    grace: Annotated[Duration, Field(ge=timedelta(0))] = Field(
        timedelta(minutes=1),
        description="how much longer than its duration a workflow may be under way, for fetching and tidying up, "
        "before it is ended",
    )
    max_source_bytes: Annotated[int, Field(ge=1)] = Field(
        8 * MIB, description="the largest program, and the most that a workflow's files have together"
    )

    @field_validator("outputs")
    @classmethod
    def _absolute(cls, outputs: tuple[Path, ...]) -> tuple[Path, ...]:
        if any(not path.is_absolute() or ".." in path.parts or len(path.parts) < 2 for path in outputs):
            raise ValueError("absolute folders are wanted")
        return outputs
