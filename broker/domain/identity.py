"""Who somebody is, and uuids that carry their aggregate. Imports msgspec and the standard library.

Every set and session of one request share the last 96 bits of their uuids, the *tail*; the first 32 bits tell
them apart. The tail names the aggregate, so no index is needed from a session to its set, and one byte of it
is the partition that a clustered store hashes by (docs/adr/0004).
"""

from __future__ import annotations

from uuid import UUID

import msgspec

_TAIL = (1 << 96) - 1


class Owner(msgspec.Struct, frozen=True):
    """Issuer and subject, as OpenID Connect has them; a local user's issuer is the broker's own name."""

    issuer: str
    subject: str
    groups: tuple[str, ...] = ()
    project: str | None = None

    @property
    def key(self) -> str:
        return f"{self.issuer}|{self.subject}"

    def by(self, account: str) -> str:
        """Under what key lists hold what this person asked for through `account`: two brokers may know two people by
        one name, and neither may list the other's."""
        return self.key if self.subject == account else f"{self.key}|{account}"

    def __str__(self) -> str:
        return f"{self.subject}@{self.issuer}"


ROLES = ("user", "operator", "administrator", "broker")


class Caller(msgspec.Struct, frozen=True):
    """Who is asking now. `account` signed in; `owner` is whom it acts for (they differ behind a broker)."""

    owner: Owner
    account: str
    roles: frozenset[str] = frozenset({"user"})
    anonymous: bool = False

    def may(self, role: str) -> bool:
        return role in self.roles or "administrator" in self.roles


class Hop(msgspec.Struct, frozen=True):
    """How a request came here through other brokers (docs: brokers behind brokers). `left`: seconds that the caller
    gives us, None: our own default. `root` is the first broker's request, None: this is the first. `batch`: the uuid
    that the caller's requests of one batch share."""

    left: float | None = None
    root: UUID | None = None
    path: tuple[str, ...] = ()
    batch: UUID | None = None


def new_set(random: bytes) -> UUID:
    """A version 4 uuid from 16 random bytes."""
    return UUID(bytes=random, version=4)


def member(set_: UUID, head: bytes) -> UUID:
    """A session of `set_`: its own first 4 bytes, the set's tail."""
    return UUID(int=int.from_bytes(head[:4], "big") << 96 | (set_.int & _TAIL))


def members(set_: UUID, random: bytes, taken: set[UUID], count: int) -> list[UUID]:
    """`count` fresh sessions of `set_`, none in `taken`. `random` seeds them: at least 4 bytes."""
    head = int.from_bytes(random[:4], "big")
    fresh: list[UUID] = []
    while len(fresh) < count:
        uuid = member(set_, head.to_bytes(4, "big"))
        # An odd stride walks all 2^32 heads, and looks random enough to be typed as a short prefix.
        head = (head + 0x9E3779B1) & 0xFFFFFFFF
        if uuid != set_ and uuid not in taken:
            fresh.append(uuid)
    return fresh


def aggregate(uuid: UUID) -> str:
    """The key of the aggregate that holds this set or session."""
    return f"{uuid.int & _TAIL:024x}"


def partition(key: str) -> int:
    """0 to 255, from an aggregate's key: the last byte of the tail."""
    return int(key[-2:], 16)
