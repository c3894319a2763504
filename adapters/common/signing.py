"""How calls to a platform's server are signed: bearer tokens, or a name and a password, and others for some people.
Imports the HTTP and the tokens of this package, the plugins' resources, errors, pydantic.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from adapters.common.http import Origin
from adapters.common.tokens import TokenOptions, Tokens, tokens
from broker.domain.deadline import Deadline
from broker.errors import SiteForbids
from broker.plugins import Resources


class BasicOptions(BaseModel):
    """A user's name and password, as HTTP Basic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    username: str = Field(min_length=1, pattern="^[^:]+$", description="as the server knows it")
    password_file: Path = Field(description="its first line is the password; read again when it was not taken")


class ServerOptions(BaseModel):
    """Where a server is, and as whom it is asked. For the options of a kind to begin with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field("", description="the server's address; absent: the site's `url`")
    token: TokenOptions | None = Field(None, description="bearer tokens for the server")
    basic: BasicOptions | None = Field(
        None, description="a user of the server, where it takes no tokens; neither: the site's `credentials`, or none"
    )
    users: dict[str, TokenOptions] = Field(
        default_factory=dict,
        description="whose jobs run under a token of their own, by subject or by issuer and subject → the token",
    )

    @model_validator(mode="after")
    def _one_account(self) -> Self:
        if self.token and self.basic:
            raise ValueError("token and basic are two ways to sign in; give one")
        return self


class Signer(Protocol):
    async def header(self, deadline: Deadline) -> str:
        """What goes as Authorization. Raises SiteErrors with proof: nothing was sent to the server."""

    def rejected(self, header: str) -> None:
        """The server did not take it."""

    async def close(self) -> None: ...


class Bearer:
    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def header(self, deadline: Deadline) -> str:
        return f"Bearer {await self._tokens.token(deadline)}"

    def rejected(self, header: str) -> None:
        self._tokens.rejected(header.removeprefix("Bearer "))

    async def close(self) -> None:
        await self._tokens.close()


class Basic:
    def __init__(self, options: BasicOptions) -> None:
        self._options, self._header = options, ""

    async def header(self, deadline: Deadline) -> str:
        if not self._header:
            try:
                text = await asyncio.to_thread(self._options.password_file.read_text)
            except (OSError, ValueError):
                raise SiteForbids("the file of the password cannot be read.") from None
            pair = f"{self._options.username}:{text.partition(chr(10))[0].strip()}"
            self._header = f"Basic {b64encode(pair.encode()).decode()}"
        return self._header

    def rejected(self, header: str) -> None:
        self._header = ""

    async def close(self) -> None: ...


class SignIn(NamedTuple):
    """One account at a server. `signer` goes before the credentials that the origin has, where it has any."""

    origin: Origin
    signer: Signer | None


def sign_ins(options: ServerOptions, resources: Resources) -> tuple[SignIn, dict[str, SignIn]]:
    """Everybody's, and those of people who have one of their own. No I/O. Raises SettingsError for an address that is
    none."""
    url, http, clock = options.url or resources.registration.url, resources.http, resources.clock
    plain = Origin(http, url, clock)

    def bearer(token: TokenOptions) -> SignIn:
        return SignIn(plain, Bearer(tokens(token, http, clock, plain.place)))

    users = {name: bearer(token) for name, token in options.users.items()}
    if options.token:
        return bearer(options.token), users
    if options.basic:
        return SignIn(plain, Basic(options.basic)), users
    return SignIn(Origin(http, url, clock, credentials=resources.credentials), None), users
