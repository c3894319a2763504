"""What sites and ways have shown so far, as far as ranking uses it. Pure; imports the domain's quantities.

`Experience` is one frozen picture: a set is ranked by the picture of its asking, whatever is learned meanwhile. How it
is made of samples: domain/learning.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from broker.domain.quantities import Span

PRIOR = 4.0  # what is configured of a way weighs as much as so many measured transfers
# Seconds added to a promise and to what came of it before the two are compared, so that "now" can be judged too.
WAITING_SLACK, STAGING_SLACK = 60.0, 10.0


class Measured(msgspec.Struct, frozen=True):
    """Transfers by one way: bytes a second, slow to fast; how many count, and when the last was (epoch seconds).
    `weight`: what they amount to, older ones counting less."""

    bandwidth: Span
    samples: int
    asof: float
    weight: float


class Factor(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a promise is multiplied by, and the number of the site's promises that were kept or broken behind it, those
    of its other kinds of work included; 0: it is what other sites have shown. `scale`: the promise up to which that was
    seen; a longer one is corrected by no more than this one. None: any."""

    value: float = 1.0
    samples: int = 0
    scale: float | None = None

    def applied(self, promised: float, slack: float = 0.0) -> float:
        """What is to be expected. Never below zero; of two promises the larger one never comes out smaller."""
        if self.value == 1.0:
            return promised
        reach = promised if self.scale is None else min(promised, self.scale)
        # Each term by itself grows with the promise, in floating point too.
        return max(0.0, reach * self.value + (promised - reach) + (self.value - 1.0) * slack)


NONE = Factor()


class Correction(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Of one site and kind of work: its waiting, staging, run and cost, each as it came over as it was promised."""

    waiting: Factor = NONE
    staging: Factor = NONE
    run: Factor = NONE
    cost: Factor = NONE


class Experience(msgspec.Struct, frozen=True):
    """`measured`: by source storage ("": none that is declared) and site; `corrections`: by site of origin, as
    `voice` names it, and kind of work. `usual`: by kind of work, of a site that has shown nothing of its own yet.
    `elsewise`: by site of origin, of a kind of work that it has not shown yet; run and cost beside the usual ones."""

    measured: Mapping[tuple[str, str], Measured] = {}
    corrections: Mapping[tuple[str, str], Correction] = {}
    usual: Mapping[str, Correction] = {}
    elsewise: Mapping[str, Correction] = {}

    def correction(self, origin: str, kind: str) -> Correction | None:
        found = self.corrections.get((origin, kind))
        if found is not None:
            return found
        usual, own = self.usual.get(kind), self.elsewise.get(origin)
        if usual is None or own is None:
            return own or usual
        return Correction(own.waiting, own.staging, _product(usual.run, own.run), _product(usual.cost, own.cost))


def _product(usual: Factor, own: Factor) -> Factor:
    return Factor(round(usual.value * own.value, 4), own.samples)


BLANK = Experience()


def voice(site: str, origin: str) -> str:
    """By which name a site of origin is known, of which `site` speaks. What a broker below says of the sites behind it
    is never laid to a site of the same name that we ask ourselves."""
    return site if origin == site else f"{site}/{origin}"


def speaker(name: str) -> str:
    """The site that is asked, of a name by `voice`."""
    return name.partition("/")[0]


def blend(configured: Span, seen: Measured) -> Span:
    """Bytes a second: the geometric mean of both, each end apart, by their weights."""
    share = seen.weight / (seen.weight + PRIOR)
    return Span(
        configured.low ** (1 - share) * seen.bandwidth.low**share,
        configured.high ** (1 - share) * seen.bandwidth.high**share,
    )
