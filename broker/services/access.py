"""Who is calling: local users with passwords, and tokens. Imports ports and the domain.

Passwords are slow to check on purpose (argon2, well over 100 ms), so a pair found right is remembered for a minute as
a keyed hash, checks run beside the event loop in a small pool, and wrong guesses are counted before they are checked.
Where replicas share a store, guesses found wrong count for all of them; each counts its own as well, so that guesses
side by side cannot outrun the count, and goes by that alone when the store is away.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
import structlog
from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from broker.domain.identity import Caller, Owner
from broker.errors import NotSignedIn, TooMany, Unavailable
from broker.ports import Clock, Limits

_log = structlog.get_logger(__name__)

REMEMBERED = 60.0  # seconds for which a right password is not checked again
GUESSES, GUESS_EVERY = 10, 6.0  # wrong passwords for one name from one address: at once, then one in so many seconds
ADDRESS_GUESSES, ADDRESS_GUESS_EVERY = 100, 1.0  # the same for one address, whatever the names
_CHECKS = 2  # passwords checked side by side
_WAITING = 32  # … and at most so many under way; the next caller is told to come back
_PATIENCE = 1.0  # seconds for the count of the other replicas
_LONGEST = 1024  # characters of a credential
_KNOWN = 10_000  # entries of each memory


class User(msgspec.Struct, frozen=True):
    """A local account. `password_hash` is argon2's own text form; `token_sha256` the hex SHA-256 of a random token of
    at least 128 bits, which is so long that a slow hash would add nothing."""

    password_hash: str | None = None
    token_sha256: str | None = None
    roles: frozenset[str] = frozenset({"user"})
    groups: tuple[str, ...] = ()
    project: str | None = None

    def __repr__(self) -> str:
        return f"User(roles={sorted(self.roles)})"


Find = Callable[[str], Awaitable[User | None]]


class Access:
    """Signs callers in. Owns its threads: `close` gives them back."""

    def __init__(
        self,
        users: Mapping[str, User],
        issuer: str,
        *,
        clock: Clock,
        anonymous: Caller | None = None,
        find: Find | None = None,
        limits: Limits | None = None,
    ) -> None:
        """`issuer` is the broker's own name. `anonymous` is whom a caller without credentials from this very machine
        is taken for; None: nobody comes in without. `find` knows the accounts that are not of `users`; their hashes
        are of `hasher_of(users)`. `limits` are those that all replicas share; None: there can be but one."""
        self._users, self._anonymous, self._clock, self._find = dict(users), anonymous, clock, find
        self.issuer = issuer
        self._tokens = {user.token_sha256: name for name, user in users.items() if user.token_sha256}
        self._key = os.urandom(32)
        self._right = _Memory()
        self._checks: dict[bytes, asyncio.Future[bool]] = {}
        self._names = _Guesses(GUESSES, GUESS_EVERY)
        self._addresses = _Guesses(ADDRESS_GUESSES, ADDRESS_GUESS_EVERY)
        self._wrong = _Wrong(limits, clock) if limits is not None else None
        self._hasher = PasswordHasher()
        self._pool = ThreadPoolExecutor(_CHECKS, thread_name_prefix="argon2")
        self._decoy = self._pool.submit(self._make_decoy)

    async def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def sign_in(self, authorization: str | None, remote: str | None) -> Caller | None:
        """The caller behind an Authorization header that came from the address `remote`; None: no credentials came.

        Raises NotSignedIn for wrong ones, TooMany after too many wrong ones or with too many checks under way.
        """
        if authorization is None:
            return self._anonymous if self._anonymous and is_loopback(remote) else None
        scheme, _, credentials = authorization.strip().partition(" ")
        credentials = credentials.strip()
        if scheme.lower() == "bearer" and len(credentials) <= _LONGEST:
            name = self._tokens.get(_sha256(credentials))
            return self._caller(name, self._users.get(name or ""))
        if scheme.lower() != "basic":
            raise NotSignedIn("only HTTP Basic and Bearer tokens are known here.")
        name, secret = _basic(credentials)
        user = self._users.get(name)
        if user is None and self._find is not None:
            user = await self._find(name)
        right = self._tokens.get(_sha256(secret)) == name or await self._password(name, user, secret, remote or "")
        return self._caller(name, user if right else None)

    def _caller(self, name: str | None, user: User | None) -> Caller:
        if user is None or name is None:
            raise NotSignedIn(
                "name, password or token is wrong.", remedy="Check them, or ask whoever runs this broker."
            )
        return Caller(Owner(self.issuer, name, user.groups, user.project), name, user.roles)

    async def _password(self, name: str, user: User | None, secret: str, remote: str) -> bool:
        pair = hmac.digest(self._key, f"{name}:{secret}".encode(), "sha256")
        now = self._clock.monotonic()
        if self._right.get(pair, 0.0) > now:
            return True
        if pair not in self._checks:
            self._count(name, remote, now)
            self._checks[pair] = asyncio.ensure_future(self._check(name, user, secret, remote, pair))
        # Callers with the same pair wait for one check; one who leaves must not take it from the others.
        return await asyncio.shield(self._checks[pair])

    def _count(self, name: str, remote: str, now: float) -> None:
        """Every check counts as a wrong guess until it is found right: side by side, they cannot outrun the count."""
        if len(self._checks) >= _WAITING:
            raise TooMany("too many are signing in at once.", retry_after=1.0)
        wait = max(self._names.wait((remote, name), now), self._addresses.wait((remote, ""), now))
        if wait > 0:
            raise _too_many(wait)
        self._names.add((remote, name), now)
        self._addresses.add((remote, ""), now)

    async def _check(self, name: str, user: User | None, secret: str, remote: str, pair: bytes) -> bool:
        try:
            if self._wrong is not None:
                await self._refuse(self._wrong, remote, name)
            stored = user.password_hash if user else None
            # A name without a password costs as much as one with: time must not tell which names there are.
            decoy = await asyncio.wrap_future(self._decoy)
            loop = asyncio.get_running_loop()
            right = await loop.run_in_executor(self._pool, self._verify, stored or decoy, secret)
            if not right or stored is None:
                if self._wrong is not None:
                    await self._wrong.add(remote, name)
                return False
            self._right.put(pair, self._clock.monotonic() + REMEMBERED)
            self._forgive(name, remote)
            return True
        finally:
            del self._checks[pair]

    async def _refuse(self, wrong: _Wrong, remote: str, name: str) -> None:
        try:
            await wrong.refuse(remote, name)
        except TooMany:
            self._forgive(name, remote)  # it was not checked
            raise

    def _forgive(self, name: str, remote: str) -> None:
        self._names.forgive((remote, name))
        self._addresses.forgive((remote, ""))

    def _verify(self, stored: str, secret: str) -> bool:
        try:
            return self._hasher.verify(stored, secret)
        except (VerificationError, InvalidHashError):
            return False

    def _make_decoy(self) -> str:
        """A hash that nothing matches, as dear to check as the users' own; empty where nobody has a password."""
        if self._find is None and not any(user.password_hash for user in self._users.values()):
            return ""
        return hasher_of(self._users).hash(os.urandom(32))


def hasher_of(users: Mapping[str, User]) -> PasswordHasher:
    """What makes hashes that are as dear to check as the users' own."""
    hashes = [user.password_hash for user in users.values() if user.password_hash]
    try:
        return PasswordHasher.from_parameters(extract_parameters(hashes[0])) if hashes else PasswordHasher()
    except InvalidHashError:
        return PasswordHasher()


def is_loopback(remote: str | None) -> bool:
    """Whether the address, or the host's name, is this machine's own."""
    host = (remote or "").strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _basic(credentials: str) -> tuple[str, str]:
    """RFC 7617: base64 of name, colon, password, in UTF-8."""
    if len(credentials) <= 2 * _LONGEST:
        try:
            name, colon, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            name, colon, secret = "", "", ""
        if colon and len(secret) <= _LONGEST:
            return name, secret
    raise NotSignedIn("the Authorization header holds no name and password.")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


class _Memory(OrderedDict[bytes, float]):
    """Forgets the oldest entry when it is full."""

    def put(self, key: bytes, value: float) -> None:
        self[key] = value
        while len(self) > _KNOWN:
            self.popitem(last=False)


class _Guesses:
    """A leaky bucket per key, which holds `most` and loses one in `every` seconds. Kept as the moment at which it
    will be empty (GCRA)."""

    def __init__(self, most: int, every: float) -> None:
        self._most, self._every = most, every
        self._empty: OrderedDict[tuple[str, str], float] = OrderedDict()

    def wait(self, key: tuple[str, str], now: float) -> float:
        """Seconds until another one fits in; 0: it does now."""
        full = now + (self._most - 1) * self._every
        return max(0.0, self._empty.get(key, 0.0) - full)

    def add(self, key: tuple[str, str], now: float) -> None:
        self._empty[key] = max(self._empty.get(key, 0.0), now) + self._every
        self._empty.move_to_end(key)
        while len(self._empty) > _KNOWN:
            self._empty.popitem(last=False)

    def forgive(self, key: tuple[str, str]) -> None:
        """Take one back."""
        if key in self._empty:
            self._empty[key] -= self._every


class _Wrong:
    """The guesses that any replica has lately found wrong: each counts for the time in which one is allowed again. A
    store that is away lets them through."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits, self._clock = limits, clock

    async def refuse(self, remote: str, name: str) -> None:
        """Raises TooMany."""
        for key, most, every in self._buckets(remote, name):
            try:
                async with asyncio.timeout(_PATIENCE):
                    counted = len(await self._limits.members(key))
            except (TimeoutError, Unavailable) as error:
                _log.warning("wrong passwords of other replicas are not counted", why=str(error))
                return
            if counted >= most:
                raise _too_many(every)

    async def add(self, remote: str, name: str) -> None:
        guess, now = os.urandom(8).hex(), self._clock.now()
        for key, most, every in self._buckets(remote, name):
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._limits.enter(key, guess, most, now + most * every)
            except (TimeoutError, Unavailable) as error:
                _log.warning("a wrong password is not counted for other replicas", why=str(error))
                return

    def _buckets(self, remote: str, name: str) -> list[tuple[str, int, float]]:
        """A name may be a password in the wrong field: it is not kept in the clear."""
        pair = hashlib.blake2b(f"{remote} {name}".encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return [
            (f"guesses:{pair}", GUESSES, GUESS_EVERY),
            (f"guesses:{remote}", ADDRESS_GUESSES, ADDRESS_GUESS_EVERY),
        ]


def _too_many(wait: float) -> TooMany:
    return TooMany("too many wrong passwords.", remedy="Wait, then check name and password.", retry_after=wait)


NOBODY = Caller(Owner("", ""), "", frozenset(), anonymous=True)
"""Whoever reads what is public without signing in. Owns nothing and has no role."""
