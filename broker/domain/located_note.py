"""What is known of a data resource, as it goes over the wire. *Ours*. Imports the domain's base."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import Field

from broker.domain.base import Flag, Model, Natural, Number, Text
from broker.domain.quantities import Instant

Size = Annotated[Number, Field(ge=0, le=1e24)]
_LAST = 253402300799  # epoch seconds: no year after 9999 can be written


class ReplicaNote(Model):
    """One copy. `storage`: the name of its storage, such as a Rucio RSE."""

    storage: Text | None = None
    url: Text | None = None
    tape: Flag | None = None


class PortionNote(Model):
    """Files that lie in the same places; `bytes` of all of them, absent: not known."""

    bytes: Size | None = None
    files: Natural | None = None
    replicas: tuple[ReplicaNote, ...] | None = None


class LocatedNote(Model):
    """One data resource. `element`: its path in the request, such as `data[0]`. `bytes` absent: not known, and
    `unknown` says why. `sized`, `placed`: who says how large it is and where it lies. `asof`: when a catalogue was
    asked; absent: the request states it. `estimated`: the size is. `notes`: what contradicts."""

    element: Text
    name: Text | None = None
    bytes: Size | None = None
    files: Natural | None = None
    portions: tuple[PortionNote, ...] | None = None
    sized: Text | None = None
    placed: Text | None = None
    asof: Instant | None = None
    estimated: Flag | None = None
    unknown: tuple[Text, ...] | None = None
    notes: tuple[Text, ...] | None = None

    @staticmethod
    def instant(epoch: float) -> datetime:
        """To the second: finer says nothing."""
        return datetime.fromtimestamp(min(round(epoch), _LAST), UTC)
