"""What sites and ways have shown so far, as far as ranking uses it. Pure; imports the domain's quantities.

`Experience` is one frozen picture: a set is ranked by the picture of its asking, whatever is learned meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from broker.domain.quantities import Span

PRIOR = 4.0  # what is configured of a way weighs as much as so many measured transfers


class Measured(msgspec.Struct, frozen=True):
    """Transfers by one way: bytes a second, slow to fast; how many count, and when the last was (epoch seconds).
    `weight`: what they amount to, older ones counting less."""

    bandwidth: Span
    samples: int
    asof: float
    weight: float


class Factor(msgspec.Struct, frozen=True):
    """What a promise is multiplied by, and the number of promises that were kept or broken behind it."""

    value: float = 1.0
    samples: int = 0


NONE = Factor()


class Correction(msgspec.Struct, frozen=True):
    """Of one site and kind of work: its waiting, staging, run and cost, each as it came over as it was promised."""

    waiting: Factor = NONE
    staging: Factor = NONE
    run: Factor = NONE
    cost: Factor = NONE


class Experience(msgspec.Struct, frozen=True):
    """`measured`: by source storage and site; `corrections`: by site of origin and kind of work."""

    measured: Mapping[tuple[str, str], Measured] = {}
    corrections: Mapping[tuple[str, str], Correction] = {}

    def correction(self, origin: str, kind: str) -> Correction | None:
        return self.corrections.get((origin, kind))


BLANK = Experience()


def blend(configured: Span, seen: Measured) -> Span:
    """Bytes a second: the geometric mean of both, each end apart, by their weights."""
    share = seen.weight / (seen.weight + PRIOR)
    return Span(
        configured.low ** (1 - share) * seen.bandwidth.low**share,
        configured.high ** (1 - share) * seen.bandwidth.high**share,
    )
