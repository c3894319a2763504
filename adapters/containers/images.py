"""The names of images: read as Docker reads them, judged by what the site allows. Pure.

Grammar and defaults (docker.io, library/, latest): github.com/distribution/reference, reference.go and normalize.go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

_DOMAIN = r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?"
_STEP = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_WHOLE = re.compile(rf"({_DOMAIN}/)?({_STEP}(?:/{_STEP})*)(?::(\w[\w.-]{{0,127}}))?(?:@(sha256:[0-9a-f]{{64}}))?", re.A)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 400

# What people and engines write → Go's name, which images carry: go.dev/doc/install/source#environment, GOARCH.
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}


class Reference(NamedTuple):
    """An image by name. `tag` is `latest` where neither tag nor digest is written."""

    registry: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        return f"{self.registry}/{self.path}"

    @property
    def name(self) -> str:
        """What names it to an engine; a digest leaves no doubt, so no tag stands beside it."""
        return f"{self.repository}@{self.digest}" if self.digest else f"{self.repository}:{self.tag}"


def read(location: str) -> Reference | None:
    """None: it names no image."""
    match = _WHOLE.fullmatch(location) if len(location) <= _LONGEST else None
    if match is None:
        return None
    domain, path, tag, digest = (match[1] or "").rstrip("/"), match[2], match[3] or "", match[4] or ""
    if domain and not re.search(r"[.:]", domain) and domain != "localhost":
        if domain != domain.lower():
            return None
        domain, path = "", f"{domain}/{path}"
    if domain in ("", "index.docker.io"):
        domain = "docker.io"
    if domain == "docker.io" and "/" not in path:
        path = f"library/{path}"
    return Reference(domain, path, tag or ("" if digest else "latest"), digest)


def pinned(reference: Reference, digest: str | None) -> Reference | None:
    """The same with a digest that was asked for besides; None: its own is another."""
    if not digest:
        return reference
    return reference._replace(digest=digest) if reference.digest in ("", digest) else None


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def below(reference: Reference, places: Iterable[str]) -> str | None:
    """The longest of `places` (registries, or beginnings of repositories) that the image is from."""
    name = reference.repository + "/"
    return max((place for place in places if name.startswith(place.rstrip("/") + "/")), key=len, default=None)


def architecture(text: str) -> str:
    """As Go names it: `x86_64` → `amd64`."""
    plain = text.strip().lower()
    return _ARCHITECTURES.get(plain, plain)


def is_it(image: Mapping[str, Any], digest: str) -> bool:
    """Whether an engine's description of an image (ImageInspect) shows that digest: of a manifest or an index that it
    came by, or the image's own. Empty: none is asked for."""
    digests = image.get("RepoDigests")
    shown = [str(one).rpartition("@")[2] for one in digests] if isinstance(digests, list) else []
    return digest in ("", *shown, image.get("Id"))


class Progress:
    """How far a pull is, from the lines of `POST /images/create`. A line that is none is passed over."""

    def __init__(self) -> None:
        self._layers: dict[str, tuple[float, float]] = {}
        self._quarters = 0

    def add(self, line: Mapping[str, Any]) -> None:
        detail = line.get("progressDetail")
        if not isinstance(detail, Mapping) or len(self._layers) > 1000:
            return
        current, total = detail.get("current"), detail.get("total")
        if isinstance(current, int | float) and isinstance(total, int | float) and 0 <= current <= total:
            self._layers[str(line.get("id"))[:80]] = (float(current), float(total))

    def text(self) -> str:
        """Coarse, so that it changes a few times alone: every change is a message for ever. Layers are told of one
        after the other, so what was reached may shrink; that is not told. Empty: not known."""
        done, total = (sum(values) for values in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        self._quarters = max(self._quarters, int(4 * done / total) if total else 0)
        return f"{self._quarters * 25} %" if self._quarters else ""


def trouble(line: Mapping[str, Any]) -> str | None:
    """What went wrong, where a line of a pull says so: with status 200, in the middle of the stream."""
    detail = line.get("errorDetail")
    words: Sequence[object] = (line.get("error"), detail.get("message") if isinstance(detail, Mapping) else None)
    return next((word for word in words if isinstance(word, str) and word), None)


def labels(image: Mapping[str, Any]) -> int:
    """How many bytes an image's labels have."""
    config = image.get("Config")
    found = config.get("Labels") if isinstance(config, Mapping) else None
    pairs = found.items() if isinstance(found, Mapping) else ()
    return sum(len(f"{name}{value}".encode(errors="replace")) for name, value in pairs)


def variable(image: Mapping[str, Any], name: str) -> str:
    """What an image sets a variable to; empty: it does not."""
    config = image.get("Config")
    found = config.get("Env") if isinstance(config, Mapping) else None
    values = (str(one).partition("=") for one in (found if isinstance(found, list) else ()))
    return next((value[:100] for key, _, value in values if key == name), "")
