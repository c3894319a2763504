"""Where a run's results go, how much they are, and how long they stay: *ours*, as the preferences are. Imports the
domain's base and storages.

Sent only to sites known to be brokers or planners of ours. A plain 1.0 site cannot be told, so it is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from broker.domain.base import Model, Number, Text
from broker.domain.quantities import Duration
from broker.domain.storages import normal

SESSION = "{session}"  # in `to`: the uuid by which the site knows the session
RUCIO = "rucio"
_LONGEST = 2000  # characters
_FORMS = "s3://bucket/prefix, https://host/folder/ or rucio:scope/dataset"


def _place(text: str) -> str:
    """Raises ValueError for what no site should be made to write to: credentials, and ways out of a prefix."""
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > _LONGEST:
        raise ValueError(f"a URL of at most {_LONGEST} characters is wanted, escaped where it has to be")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"no URL: {error}") from None
    if not parts.scheme or not (parts.path if parts.scheme == RUCIO else parts.hostname):
        raise ValueError(f"a place is wanted, such as {_FORMS}")
    if "@" in parts.netloc or parts.query or parts.fragment or "?" in text or "#" in text:
        raise ValueError("no user, query or fragment is possible here: sites write with credentials of their own")
    if "{" in parts.netloc or _leads_out(parts.path):
        raise ValueError("the place has to be written out: no . or .. among its steps")
    return text


def _leads_out(path: str) -> bool:
    """Also when a server unescapes it, once or more."""
    while (plain := unquote(path)) != path:
        path = plain
    # Some servers take `..;` for a step upwards with parameters.
    return "\\" in path or any(step.partition(";")[0] in (".", "..") for step in path.split("/"))


class Outputs(Model):
    """What becomes of what a run writes to ./results. Absent `to`: it stays at the site, to be fetched. `keep`: how
    long the site is to keep it, from the end of the run; absent: as long as the site keeps by itself. `size`: absent
    is not known."""

    model_config = ConfigDict(extra="forbid")  # a mistyped place must not pass in silence

    to: Annotated[Text, AfterValidator(_place)] | None = Field(
        None, description=f"where they are written to: {_FORMS}; {SESSION} in it stands for the session's uuid"
    )
    rse: Text | None = Field(None, description="the storage element (RSE) of a Rucio place")
    size: Annotated[Number, Field(gt=0, le=1e9)] | None = Field(
        None, description="GB (10^9 bytes) that are expected; absent: not known"
    )
    keep: Annotated[Duration, Field(gt=timedelta(0))] | None = Field(
        None, description="how long the site is to keep them; absent: as it does by itself"
    )

    @model_validator(mode="after")
    def _complete(self) -> Outputs:
        rucio = self.to is not None and urlsplit(self.to).scheme == RUCIO
        if rucio and not self.rse:
            raise ValueError("a place in Rucio needs its storage element: outputs.rse, in a request's file")
        if self.rse and not rucio:
            raise ValueError("an rse belongs to a place in Rucio: rucio:scope/dataset")
        return self

    @property
    def asks(self) -> bool:
        """It wants something of the site, and does not only say how much there will be."""
        return self.to is not None or self.keep is not None


def reaches(writes: Iterable[str], to: str) -> bool:
    """Whether one of what a site can write to, schemes such as `https` and prefixes such as `s3://results/`, covers
    the place. A prefix ends where a step of the path ends."""
    return any(covers(entry, to) for entry in writes)


def covers(entry: str, to: str) -> bool:
    """`entry`: a scheme or a prefix."""
    if ":" not in entry:
        return urlsplit(to).scheme == entry.lower()
    prefix, place = normal(entry), normal(to)
    return place == prefix or place.startswith(prefix.rstrip("/") + "/")
