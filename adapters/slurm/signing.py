"""Tokens for slurmrestd that the broker signs itself, with the key of Slurm's auth/jwt. Imports the tokens of
adapters/common, errors.

Claims and algorithm: https://slurm.schedmd.com/jwt.html (`sun` names the user; HS256; the whole file is the key).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from pathlib import Path

from adapters.common.tokens import Token
from broker.domain.deadline import Deadline
from broker.errors import SiteForbids
from broker.ports import Clock


class Signed:
    """A source of tokens of one user."""

    def __init__(self, key_file: Path, user: str, lifetime: float, clock: Clock) -> None:
        self._key_file, self._user, self._lifetime, self._clock = key_file, user, lifetime, clock

    async def get(self, deadline: Deadline) -> Token:
        try:
            key = await asyncio.to_thread(self._key_file.read_bytes)
        except OSError as error:
            raise SiteForbids(f"the key that signs tokens for Slurm cannot be read: {error.strerror}.") from None
        now = int(self._clock.now())
        ends = now + int(self._lifetime)
        return Token(sign(key, {"sun": self._user, "iat": now, "exp": ends}), float(ends))


def sign(key: bytes, claims: dict[str, object]) -> str:
    """A JSON Web Token (RFC 7515, 7519)."""
    head = ".".join(_plain(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{head}.{_plain(hmac.digest(key, head.encode(), hashlib.sha256))}"


def _plain(text: bytes) -> str:
    return urlsafe_b64encode(text).rstrip(b"=").decode()
