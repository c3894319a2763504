"""Transfers that share the doors of sites. Imports the files' models.

One transfer runs at what its path carries, at its share of the sending site's door, or at its share of the receiving
one's, whichever is least. So a door is never over-full; what one transfer leaves of its share nobody else takes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from math import asin, cos, exp, radians, sin, sqrt

import numpy as np

from .federation import Federation, Site

EARTH = 6371.0  # km


def distance(one: Site, other: Site) -> float:
    """Kilometres along the great circle."""
    a, b = radians(one.latitude), radians(other.latitude)
    half = sin((b - a) / 2) ** 2 + cos(a) * cos(b) * sin(radians(other.longitude - one.longitude) / 2) ** 2
    return 2 * EARTH * asin(min(1.0, sqrt(half)))


@dataclass(eq=False)
class Transfer:
    """`left`: bytes, as of `since`. `owner`: whom it is for."""

    source: int
    target: int
    bytes: float
    owner: object
    data: str
    begun: float
    left: float
    since: float
    rate: float = 0.0
    turn: int = 0  # counts the changes of rate, so that what was foreseen before one is known to be void


@dataclass
class Network:
    """Sites by number. `moved`: bytes that have arrived."""

    federation: Federation
    moved: float = 0.0
    sending: dict[int, list[Transfer]] = field(default_factory=lambda: defaultdict(list))
    receiving: dict[int, list[Transfer]] = field(default_factory=lambda: defaultdict(list))
    paths: dict[tuple[int, int], float] = field(default_factory=dict)
    kilometres: dict[tuple[int, int], float] = field(default_factory=dict)

    def apart(self, one: int, other: int) -> float:
        key = (one, other) if one < other else (other, one)
        if key not in self.kilometres:
            sites = self.federation.sites
            self.kilometres[key] = distance(sites[key[0]], sites[key[1]])
        return self.kilometres[key]

    def path(self, source: int, target: int) -> float:
        """Bytes a second that the path carries for one transfer."""
        if (source, target) not in self.paths:
            law = self.federation.network
            luck = np.random.default_rng([law.seed, 3, source, target]).normal(0.0, law.spread) if law.spread else 0.0
            reach = sqrt(min(1.0, law.reach / max(self.apart(source, target), 1.0)))
            self.paths[source, target] = law.bandwidth * reach * exp(luck)
        return self.paths[source, target]

    def rate(self, source: int, target: int, sent: int = 0, received: int = 0) -> float:
        """Bytes a second of a transfer, where so many more leave the one and come to the other."""
        sites = self.federation.sites
        out = sites[source].outgoing / (len(self.sending[source]) + sent)
        into = sites[target].incoming / (len(self.receiving[target]) + received)
        return min(self.path(source, target), out, into)

    def begin(self, transfer: Transfer, now: float) -> list[Transfer]:
        """Those whose rate has changed."""
        self.sending[transfer.source].append(transfer)
        self.receiving[transfer.target].append(transfer)
        return self._share(transfer, now)

    def end(self, transfer: Transfer, now: float) -> list[Transfer]:
        """The same."""
        self.moved += transfer.bytes
        self.sending[transfer.source].remove(transfer)
        self.receiving[transfer.target].remove(transfer)
        return self._share(transfer, now)

    def _share(self, around: Transfer, now: float) -> list[Transfer]:
        touched = dict.fromkeys([*self.sending[around.source], *self.receiving[around.target]])
        for transfer in touched:
            transfer.left = max(0.0, transfer.left - transfer.rate * (now - transfer.since))
            transfer.since = now
            transfer.rate = self.rate(transfer.source, transfer.target)
            transfer.turn += 1
        return list(touched)
