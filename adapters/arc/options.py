"""What an operator may set of an ARC computing element. Imports pydantic and the tokens' options."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from adapters.common.tokens import TokenOptions

# Names that end up in the scripts that ARC writes for its batch system.
Word = Annotated[str, StringConstraints(pattern=r"^[\w./@+:-]{1,200}$")]


class AccountOptions(BaseModel):
    """How somebody signs in at the service: with an X.509 certificate, with tokens, or with both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    certificate: Path | None = Field(
        None, description="client certificate, or proxy, with its chain (PEM); read again when the file changes"
    )
    key: Path | None = Field(
        None, description="its private key, without a pass phrase; absent: in the certificate's file, as in a proxy"
    )
    tokens: TokenOptions | None = Field(None, description="where bearer tokens come from")

    @model_validator(mode="after")
    def _whole(self) -> AccountOptions:
        if self.key and not self.certificate:
            raise ValueError("a key belongs to a certificate")
        return self


class ArcOptions(AccountOptions):
    """Options of a site of kind `arc`: an ARC computing element, by its REST interface."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="the service, such as https://arc.example.org:443/arex, without /rest")
    ca: Path | None = Field(
        None, description="who is trusted to sign the service's certificate: a file, or a folder of hashed names such "
        "as /etc/grid-security/certificates; absent: whom this system trusts"
    )  # fmt: skip
    users: dict[str, AccountOptions] = Field(
        default_factory=dict,
        description="other accounts for some users, by subject, or by issuer and subject with a space between",
    )
    queue: Word | None = Field(None, description="the queue that jobs go to; absent: the service chooses")
    runtime_environments: tuple[Word, ...] = Field(
        (), description="runtime environments that every job asks for, such as ENV/PROXY"
    )
    python: Word = Field("python3", description="the interpreter on the nodes: a name on their path, or a path")
    python_version: str | None = Field(
        None, description="its version, such as 3.11.2; absent: requests that ask for certain versions are refused"
    )

    @model_validator(mode="after")
    def _sound(self) -> ArcOptions:
        if self.python_version and not re.fullmatch(r"\d+\.\d+(\.\d+)?", self.python_version):
            raise ValueError("python_version: a version such as 3.11.2 is wanted")
        return self
