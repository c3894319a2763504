"""The call that makes local users, for administrators. Imports wire, problems, needs.

Its answers carry `uuid`, `username` and `error` beside what our own documents have: tools of the field look for them.
"""

from __future__ import annotations

import msgspec
from aiohttp import web
from pydantic import ConfigDict, Field

from broker.api.needs import Identities
from broker.api.problems import known
from broker.api.wire import Wire
from broker.domain.base import Model
from broker.domain.identity import Caller
from broker.errors import BadInput, Conflict


class Identity(Model):
    """*Ours*: a local user to be made, with the role `user`."""

    model_config = ConfigDict(extra="forbid")

    username: str
    password: str = Field(repr=False)


class IdentityCalls:
    def __init__(self, wire: Wire, identities: Identities) -> None:
        self._wire, self._identities = wire, identities

    async def make(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """201; 409 where there is such a user, who stays as he is; 400 for a name or password that will not do."""
        try:
            asked = await self._wire.read(request, Identity)
            user = await self._identities.make(asked.username, asked.password, caller)
        except BadInput as error:
            return known(request, error, error=str(error))
        about = {"uuid": str(user.uuid), "username": user.username}
        if not user.made:
            there = Conflict(f'there is a user "{user.username}".', remedy="Choose another name, or leave it so.")
            return known(request, there, error=str(there), **about)
        return await self._wire.answer(request, msgspec.json.encode(about), status=201)
