"""Local users made while the broker runs, beside those of the settings file. Imports access, ports and the errors.

Each is an aggregate of its own, so every replica of a fleet knows it at once. The settings file has the last word: an
account there goes before one made here of the same name, which is how a password is changed or an account closed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from uuid import UUID, uuid5

import msgspec
import structlog
from argon2 import PasswordHasher

from broker.domain.identity import Caller
from broker.errors import BadInput, NotAllowed
from broker.ports import Clock, Store
from broker.services.access import User

_log = structlog.get_logger(__name__)

# No colon, which ends the name in HTTP Basic, and no bar, which parts issuer and subject in the keys of lists.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_RESERVED = "anonymous"  # whoever comes from this machine without signing in
SHORTEST, LONGEST = 8, 1024  # characters of a password


class Identity(msgspec.Struct, frozen=True):
    """`made`: just now. Otherwise it was there, with a password of its own."""

    uuid: UUID
    username: str
    made: bool


class _Record(msgspec.Struct, frozen=True):
    password_hash: str
    created: float
    by: str


class Identities:
    """`configured` are the names of the settings file; `namespace` is the broker's id, from which, with the name, each
    account's uuid follows. `hasher` is that of Access, so that all passwords take equally long to check."""

    def __init__(
        self, store: Store, clock: Clock, *, configured: Collection[str], namespace: UUID, hasher: PasswordHasher
    ) -> None:
        self._store, self._clock, self._hasher = store, clock, hasher
        self._configured, self._namespace = frozenset(configured), namespace

    async def find(self, name: str) -> User | None:
        """The account made under this name; None: there is none. Raises Unavailable."""
        stored = await self._store.read(_key(name)) if _NAME.fullmatch(name) else None
        if stored is None:
            return None
        return User(password_hash=msgspec.json.decode(stored.record, type=_Record).password_hash)

    async def make(self, name: str, password: str, caller: Caller) -> Identity:
        """An account with the role `user`, durable on return. One that is there stays as it is, its password too.

        Raises BadInput for a name or password that will not do, NotAllowed for whoever is no administrator."""
        if not caller.may("administrator"):
            raise NotAllowed("only an administrator may make users.", remedy="Ask whoever runs this broker.")
        _check(name, password)
        uuid = uuid5(self._namespace, name)
        if name in self._configured or await self._store.read(_key(name)) is not None:
            return Identity(uuid, name, made=False)
        hashed = await asyncio.to_thread(self._hasher.hash, password)
        record = msgspec.json.encode(_Record(hashed, self._clock.now(), caller.owner.key))
        made = await self._store.write(_key(name), 0, record)
        if made:
            _log.info("user made", username=name, by=caller.account)
        return Identity(uuid, name, made=made)


def _check(name: str, password: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInput(
            "letters, digits and . _ @ + - are wanted, 64 at most, a letter or digit first.", element="username"
        )
    if name.lower() == _RESERVED:
        raise BadInput("this name is whoever does not sign in.", element="username", remedy="Choose another.")
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadInput(f"{SHORTEST} to {LONGEST} characters are wanted.", element="password")


def _key(name: str) -> str:
    return f"identity:{name}"
