"""AWS Signature Version 4 of a request without a body, in its headers. Imports yarl.

After "Authenticating Requests: Using the Authorization Header" of the Amazon S3 API Reference. Every S3 endpoint takes
it, whoever runs it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from yarl import URL

_ALGORITHM = "AWS4-HMAC-SHA256"
_NOTHING = hashlib.sha256(b"").hexdigest()  # the digest of no body


@dataclass(frozen=True)
class Key:
    """An access key of one region. Never logged: the repr hides it."""

    access: str
    secret: str
    region: str

    def __repr__(self) -> str:
        return "Key(…)"


def signed(method: str, url: URL, headers: Mapping[str, str], key: Key, now: float) -> dict[str, str]:
    """`headers` with those that sign them. `url` is signed as it is sent: its path and query are percent-encoded
    already, all but unreserved characters and the path's slashes. `now`: epoch seconds; servers take a quarter of an
    hour off."""
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{key.region}/s3/aws4_request"
    told = {**headers, "x-amz-content-sha256": _NOTHING, "x-amz-date": moment}
    proven = {name.lower(): " ".join(value.split()) for name, value in told.items()}
    proven["host"] = url.host_port_subcomponent or ""
    names = ";".join(sorted(proven))
    lines = (
        method,
        url.raw_path,
        _query(url.raw_query_string),
        *(f"{name}:{value}" for name, value in sorted(proven.items())),
        "",
        names,
        _NOTHING,
    )
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    signature = _mac(_derived(key, scope), "\n".join((_ALGORITHM, moment, scope, digest))).hex()
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
