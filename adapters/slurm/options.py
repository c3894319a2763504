"""What an operator may set of a Slurm cluster. Imports the local platform's options, those of tokens, and pydantic."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapters.common.tokens import TokenOptions
from adapters.local.options import LocalOptions, RunOptions
from broker.domain import kinds
from broker.domain.quantities import Duration

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w.@-]*$", max_length=100)]
NodePath = Annotated[str, Field(pattern=r"^/\S*$")]
GresName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(:[A-Za-z0-9_.-]+)?$")]


class AccountOptions(BaseModel):
    """As whom somebody's jobs run. What is absent is as for everybody."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: Name | None = Field(None, description="the user of Slurm, and of the nodes; its folders are given to it")
    account: Name | None = Field(None, description="the account of Slurm that is charged")
    qos: Name | None = Field(None, description="the quality of service")
    token: TokenOptions | None = Field(
        None, description="tokens of that user; absent: the site's, which then serve for other users too"
    )


class SlurmOptions(RunOptions):
    """Options of a site of kind `slurm`: programs run as batch jobs, by way of slurmrestd."""

    url: str = Field("", description="slurmrestd, such as https://slurm.example.org:6820; absent: the site's `url`")
    api: Annotated[str, Field(pattern=r"^(v0\.0\.\d+)?$")] = Field(
        "", description="version of its API, such as v0.0.38; empty: the newest that both speak"
    )
    folder: Path = Field(
        description="where jobs live, at the same absolute path on the broker's machine and on every node; one folder "
        "serves one site"
    )
    user: Name = Field(description="the user of Slurm under whom jobs are submitted")
    account: Name | None = Field(None, description="the account of Slurm that is charged; absent: the user's default")
    qos: Name | None = Field(None, description="the quality of service; absent: the account's default")
    token: TokenOptions | None = Field(None, description="tokens of that user for slurmrestd")
    key_file: Path | None = Field(
        None, description="the key of Slurm's auth/jwt (jwt_key), with which the broker signs tokens itself, by HS256"
    )
    token_lifetime: Annotated[Duration, Field(ge=timedelta(minutes=2), le=timedelta(days=1))] = Field(
        timedelta(minutes=10), description="how long a token lasts that is signed with key_file"
    )
    users: dict[str, AccountOptions] = Field(
        default_factory=dict,
        description='people who run as somebody else: subject, or "issuer subject", to user, account and qos',
    )
    others: bool = Field(True, description="False: who is not among `users` gets a no, with the words of `apply`")
    apply: str = Field("", description="where an account is applied for: words, or a URL, said with that no")
    partitions: tuple[Name, ...] = Field(
        (), description="where jobs may go; empty: the cluster's default, or all where it does not say which that is"
    )
    constraint: Annotated[str, Field(pattern=r"^[\w.&|!()\[\]*,-]*$")] = Field(
        "", description="features that nodes must have, as for sbatch --constraint"
    )
    reservation: Name | None = Field(None, description="a reservation of Slurm that jobs use")
    extras: dict[str, GresName] = Field(
        default_factory=lambda: {kinds.GPU: "gpu", kinds.FPGA: "fpga"},
        description="type of extra → generic resource (GRES) of the cluster, such as gpu or gpu:a100",
    )
    python: NodePath = Field("/usr/bin/python3", description="the interpreter of programs, on the nodes")
    python_version: Annotated[str, Field(pattern=r"^(\d+\.\d+(\.\d+)?)?$")] = Field(
        "", description="what version that is; empty: programs that ask for one are refused"
    )
    runner: NodePath | None = Field(
        None, description="the interpreter of the broker's own part on the nodes, 3.11 or newer; absent: `python`"
    )
    apptainer: NodePath | None = Field(
        None, description="Apptainer on the nodes, such as /usr/bin/apptainer; absent: containers are refused"
    )
    overhead: Annotated[int, Field(ge=0, le=4096)] = Field(
        64, description="MiB that are asked of Slurm beside the program's memory, for the broker's own part"
    )
    snapshot: Annotated[Duration, Field(gt=timedelta(0), le=timedelta(hours=1))] = Field(
        timedelta(minutes=1), description="how old what is known of partitions, nodes and queue may be"
    )
    answer_cap_bytes: Annotated[int, Field(ge=1 << 20, le=1 << 30)] = Field(
        256 << 20, description="the largest answer that is read; a list of jobs takes some 3 kB for each job"
    )

    @model_validator(mode="after")
    def _consistent(self) -> SlurmOptions:
        if self.token is not None and self.key_file is not None:
            raise ValueError("token or key_file is wanted, and not both")
        if not self.folder.is_absolute():
            raise ValueError("folder: an absolute path is wanted, the same on every node")
        return self

    def as_local(self) -> LocalOptions:
        """What translating a request for the supervisor wants to know."""
        shared = {name: getattr(self, name) for name in RunOptions.model_fields}
        return LocalOptions(folder=self.folder, python=Path(self.python), isolation="none", nice=0, **shared)
