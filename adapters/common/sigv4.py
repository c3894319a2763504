"""AWS Signature Version 4 of a request, in its headers. Imports the standard library alone, so that the children of a
supervisor start fast.

After "Authenticating Requests: Using the Authorization Header" of the Amazon S3 API Reference. Every S3 endpoint takes
it, whoever runs it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

_ALGORITHM = "AWS4-HMAC-SHA256"
EMPTY = hashlib.sha256(b"").hexdigest()  # the digest of no body


class Key(NamedTuple):
    """An access key of one region; `token` of one that is temporary. Never logged: the repr hides it."""

    access: str
    secret: str
    region: str
    token: str = ""

    def __repr__(self) -> str:
        return "Key(…)"


def signed(
    method: str,
    host: str,
    path: str,
    headers: Mapping[str, str],
    key: Key,
    now: float,
    *,
    query: str = "",
    digest: str = EMPTY,
) -> dict[str, str]:
    """`headers` with those that sign them. `host`: with its port where that is not the scheme's; `path` and `query`: as
    they are sent, all but unreserved characters and the path's slashes percent-encoded; `digest`: sha256 of the body,
    in hexadecimal; `now`: epoch seconds, of which servers take a quarter of an hour off."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{key.region}/s3/aws4_request"
    told = {**headers, "x-amz-content-sha256": digest, "x-amz-date": moment}
    if key.token:
        told["x-amz-security-token"] = key.token
    proven = {name.lower(): " ".join(value.split()) for name, value in told.items()} | {"host": host}
    names = ";".join(sorted(proven))
    told_of = (f"{name}:{value}" for name, value in sorted(proven.items()))
    lines = (method, path, _query(query), *told_of, "", names, digest)
    request = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    signature = _mac(_derived(key, scope), "\n".join((_ALGORITHM, moment, scope, request))).hex()
    told["Authorization"] = (
        f"{_ALGORITHM} Credential={key.access}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return told


def _query(text: str) -> str:
    """Sorted by name, then by value: not by the whole part, since `=` sorts behind `-`."""
    pairs = sorted(part.partition("=")[::2] for part in text.split("&") if part)
    return "&".join(f"{name}={value}" for name, value in pairs)


def _derived(key: Key, scope: str) -> bytes:
    secret = f"AWS4{key.secret}".encode()
    for part in scope.split("/"):
        secret = _mac(secret, part)
    return secret


def _mac(secret: bytes, text: str) -> bytes:
    return hmac.digest(secret, text.encode(), "sha256")
