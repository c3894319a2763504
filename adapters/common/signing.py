"""How calls to a platform's server are signed: bearer tokens, or a name and a password. Imports the tokens of this
package, errors, pydantic.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from adapters.common.tokens import Tokens
from broker.domain.deadline import Deadline
from broker.errors import SiteForbids


class BasicOptions(BaseModel):
    """A user's name and password, as HTTP Basic."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    username: str = Field(min_length=1, pattern="^[^:]+$", description="as the server knows it")
    password_file: Path = Field(description="its first line is the password; read again when it was not taken")


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
