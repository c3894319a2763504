"""Sizes and checksums out of HTTP headers. Pure; imports nothing of ours.

What another's server writes there is taken only where it is what it should be; all else is None, which is not zero.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as NoBase64
from collections.abc import Mapping

MOST = 10**18  # bytes; nobody has a larger file, and beyond it there is a mistake
_DIGITS = re.compile(r"[0-9]{1,19}")
_FIRST = re.compile(r"bytes 0-0/([0-9]{1,19})")
_NONE = re.compile(r"bytes \*/0")
_HEX = re.compile(r"[0-9a-fA-F]{8}")
# name in the header → how checksums are called in requests, and their length in bytes
_DIGESTS = {"md5": ("md5", 16), "sha-256": ("sha256", 32), "sha": ("sha1", 20), "sha-512": ("sha512", 64)}


def whole(text: str | None) -> int | None:
    """A number of bytes, written in digits and nothing else."""
    if text is None or not _DIGITS.fullmatch(text := text.strip()) or int(text) > MOST:
        return None
    return int(text)


def of_range(text: str | None) -> int | None:
    """The size of the whole, by the Content-Range of its first byte alone."""
    found = _FIRST.fullmatch((text or "").strip())
    return (whole(found[1]) or None) if found else None


def none_at_all(text: str | None) -> bool:
    """Whether a refused range says that there is not a single byte."""
    return _NONE.fullmatch((text or "").strip()) is not None


def checksum(headers: Mapping[str, str], *, part: bool = False) -> tuple[str, str] | None:
    """Type and hexadecimal value, of the whole file. `part`: the answer holds a part of it, and Content-MD5 is of
    that part. Repr-Digest: RFC 9530; Digest: RFC 3230, with adler32 as dCache and XRootD write it."""
    for name, opened in (("Repr-Digest", ":"), ("Digest", "")):
        if (found := _digest(headers.get(name, ""), opened)) is not None:
            return found
    if not part and (value := _decoded(headers.get("Content-MD5", ""), 16)):
        return "md5", value
    return None


def _digest(text: str, mark: str) -> tuple[str, str] | None:
    """The first that is known of a list such as `sha-256=:…:, md5=:…:`. `mark` stands around each value."""
    for entry in text[:2048].split(","):
        name, _, value = entry.strip().partition("=")
        name = name.lower()
        if name == "adler32" and not mark and _HEX.fullmatch(value):
            return "adler32", value.lower()
        if name not in _DIGESTS or not (value.startswith(mark) and value.endswith(mark)):
            continue
        called, length = _DIGESTS[name]
        if found := _decoded(value.strip(":") if mark else value, length):
            return called, found
    return None


def _decoded(text: str, length: int) -> str | None:
    try:
        value = b64decode(text.strip(), validate=True)
    except (NoBase64, ValueError):
        return None
    return value.hex() if len(value) == length else None
