"""What one session has shown, and what many of them amount to: samples and estimators. Pure; imports the domain.

All estimates are made on logarithms of ratios (actual over promised) or of rates (bytes a second), since twice as much
and half as much are errors of one size; and by weighted medians, which a few absurd samples cannot move far.

- **Weight of a sample**: it halves with each HALF (transfers: HALF_TRANSFER) of its age; after FORGET it is gone.
- **Bursts**: sessions accepted in one quarter of an hour met the same queue and the same network. They count as Kish's
  design effect has it (Survey Sampling, 1965): m of them as m / (1 + (m - 1) x LIKENESS), which is 2 at
  most. Of one burst BURST_KEPT samples are kept, drawn by their uuid and not by who ended first: the first to end are
  those that waited least.
- **Few samples**: an estimate of total weight w is pulled towards none by w / (w + SHRINK), as the estimators of
  Efron and Morris (JASA 70, 1975) do, with a fixed variance ratio in place of an estimated one.
- **Waiting and staging** of a site stand for themselves: (actual + c) / (promised + c), c a minute and ten seconds, so
  that a promise of "now" can be judged. A correction reaches no further than the longest promises that were tried
  (the upper quartile): what was ten minutes late on "now" is ten minutes late on "in a day".
- **Run and cost** are relative to the federation. People ask for more time than they need at every site alike
  (Mu'alem and Feitelson, IEEE TPDS 12, 2001), and a site about which much is known must not look better for it than
  one about which little is. The factor is the usual one (the median of the sites' medians, for that kind of work)
  times the site's deviation from it, each pulled towards none by its own weight.
- **Kinds of work** lean on each other at one site: one queue, one set of machines, one tariff. What a site has shown of
  a kind is pulled not towards none but towards what it has shown of its other kinds, which is pulled towards none in
  its turn. Other kinds only, so that no sample counts twice. Of run and cost it is the deviation that is shared, and of
  those kinds alone that other sites have run too: else there is nothing to deviate from.
- **Ways**: the median rate, and around it the median absolute deviation x 1.4826 (the standard deviation, were it
  normal; Rousseeuw and Croux, JASA 88, 1993), pulled towards SPREAD while samples are few. The middle of the range of
  times is then close to the mean time, not to the median one.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import exp, fsum, log
from typing import TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from broker.domain.experience import (
    NONE,
    STAGING_SLACK,
    WAITING_SLACK,
    Correction,
    Experience,
    Factor,
    Measured,
    speaker,
)
from broker.domain.offerset import Decision, Looks
from broker.domain.quantities import Span

DAY = 86400.0
FORGET = 30 * DAY
HALF = 10 * DAY
HALF_TRANSFER = 7 * DAY
BURST = 900.0  # seconds
BURST_KEPT = 4
LIKENESS = 0.5  # of two sessions of one burst (the intraclass correlation)
SHRINK = 5.0  # samples
SPREAD = 0.4  # of the logarithm of a rate: about a factor of 1.5 up and down
SPREAD_PRIOR = 2.0  # samples that this spread weighs as much as
SAMPLES, TRANSFERS, NAMES = 64, 32, 64  # kept: samples a kind, transfers a source; kinds, and sources

_FARTHEST = log(100.0)  # of one ratio of run or cost: beyond it a promise is broken, and how far says nothing
_LATEST = log(10_000.0)  # of waiting and staging, with their slack: who is always a day late on "now" must look it
_MOST_BESIDE = log(4.0)  # of a site's run and cost beside the usual ones: both are the site's own word
_MAD = 1.4826
_LONGEST = 1e8  # seconds
_LOOKED = 120.0  # seconds between two looks that tell well enough when something happened between them
_MOST_PREPARING, _INSTALLING = 4.0, 600.0  # times what transfers took, and seconds, that a site may prepare besides
AHEAD = 3600.0  # seconds that what is kept may lie after now
_SKEW = 60.0  # seconds that a site's clock may differ by

Pair = tuple[float, float]  # promised, actual


class Sample(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One session that ended. `at`: when it was accepted, `ended`; epoch seconds. The pairs in seconds, `cost` in the
    site's currency; None: nothing is learned of it."""

    session: UUID
    at: float
    ended: float
    waiting: Pair | None = None
    staging: Pair | None = None
    run: Pair | None = None
    cost: Pair | None = None

    @property
    def empty(self) -> bool:
        return self.waiting is None and self.staging is None and self.run is None and self.cost is None


class Transfer(msgspec.Struct, frozen=True, array_like=True):
    """What one session brought in from one source: `seconds` in which bytes were moving. `at`: when the session was
    seen to be over, `accepted`: when it was accepted; epoch seconds."""

    session: UUID
    at: float
    bytes: float
    seconds: float
    accepted: float


class Lived(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of one site: samples by kind of work, transfers by source, the newest last. `forgotten`: sessions
    accepted until then do not count, by an operator's word."""

    kinds: Mapping[str, tuple[Sample, ...]] = {}
    sources: Mapping[str, tuple[Transfer, ...]] = {}
    forgotten: float = 0.0

    @property
    def newest(self) -> float | None:
        """When the last of it ended; None: there is nothing."""
        ends = [item.ended for items in self.kinds.values() for item in items]
        return max([*ends, *(item.at for items in self.sources.values() for item in items)], default=None)


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────


def add(lived: Lived, kind: str, sample: Sample, transfers: Mapping[str, Transfer], now: float) -> Lived:
    """With what one session has shown, without what is too old, and bounded. Idempotent by the session. Of one burst
    the same samples stay in whatever order they come."""
    lived = bring(lived, transfers, now)
    if sample.at <= lived.forgotten or sample.empty:
        return lived
    known = [item for item in lived.kinds.get(kind, ()) if item.session != sample.session]
    return replace(lived, kinds=_latest({**lived.kinds, kind: _thinned([*known, sample])}))


def bring(lived: Lived, transfers: Mapping[str, Transfer], now: float) -> Lived:
    """As `add`, with the transfers of one session alone, by their sources."""
    lived = pruned(lived, now)
    sources = dict(lived.sources)
    for source, transfer in transfers.items():
        if transfer.accepted > lived.forgotten:
            known = [item for item in sources.get(source, ()) if item.session != transfer.session]
            sources[source] = tuple(sorted([*known, transfer], key=_when)[-TRANSFERS:])
    return replace(lived, sources=_latest(sources))


def pruned(lived: Lived, now: float) -> Lived:
    """Without what is forgotten by its age, and what a clock that was ahead has left: it would stay the newest, and
    keep all else out, until that time comes."""
    edge, last = now - FORGET, now + AHEAD
    kinds = {kind: tuple(s for s in samples if edge < s.ended <= last) for kind, samples in lived.kinds.items()}
    sources = {source: tuple(t for t in items if edge < t.at <= last) for source, items in lived.sources.items()}
    return Lived(
        {kind: samples for kind, samples in kinds.items() if samples},
        {source: transfers for source, transfers in sources.items() if transfers},
        lived.forgotten if lived.forgotten <= last else now,
    )


def _thinned(samples: list[Sample]) -> tuple[Sample, ...]:
    """The newest, of one burst no more than BURST_KEPT."""
    kept: Counter[int] = Counter()
    chosen = []
    for sample in sorted(samples, key=lambda s: (zlib.crc32(s.session.bytes), s.session)):
        kept[_burst(sample.at)] += 1
        if kept[_burst(sample.at)] <= BURST_KEPT:
            chosen.append(sample)
    return tuple(sorted(chosen, key=_when)[-SAMPLES:])


_Kept = TypeVar("_Kept", Sample, Transfer)


def _latest(named: dict[str, tuple[_Kept, ...]]) -> dict[str, tuple[_Kept, ...]]:
    if len(named) <= NAMES:
        return named
    names = sorted(named, key=lambda name: (_when(named[name][-1]), name))[-NAMES:]
    return {name: named[name] for name in named if name in names}


def _when(item: Sample | Transfer) -> tuple[float, UUID]:
    return (item.ended if isinstance(item, Sample) else item.at), item.session


def _burst(at: float) -> int:
    return int(at // BURST)


# ── estimating ───────────────────────────────────────────────────────────────────────────────────────────────


class Shown(msgspec.Struct, frozen=True):
    """What samples of one quantity amount to: the median of the logarithms of their ratios, their total weight, how
    many there are, the promise up to which they reach, and when the first ended."""

    median: float = 0.0
    weight: float = 0.0
    samples: int = 0
    scale: float = 0.0
    since: float = 0.0

    @property
    def share(self) -> float:
        """How far it counts, beside none at all."""
        return self.weight / (self.weight + SHRINK)


NOTHING = Shown()


class Habits(msgspec.Struct, frozen=True):
    """Of one site and kind of work."""

    waiting: Shown = NOTHING
    staging: Shown = NOTHING
    run: Shown = NOTHING
    cost: Shown = NOTHING


def habits(samples: Sequence[Sample], now: float) -> Habits:
    return Habits(
        _shown(samples, now, lambda s: s.waiting, WAITING_SLACK),
        _shown(samples, now, lambda s: s.staging, STAGING_SLACK),
        _shown(samples, now, lambda s: s.run),
        _shown(samples, now, lambda s: s.cost),
    )


def _shown(
    samples: Sequence[Sample], now: float, of: Callable[[Sample], Pair | None], slack: float | None = None
) -> Shown:
    """`slack` None: promises are positive, and are compared as they are."""
    found = [(pair, sample) for sample in samples if (pair := of(sample)) is not None and now - sample.ended < FORGET]
    if not found:
        return NOTHING
    weights = _weights([sample.at for _, sample in found], [sample.ended for _, sample in found], now, HALF)
    ratios = [_ratio(pair, slack or 0.0, _FARTHEST if slack is None else _LATEST) for pair, _ in found]
    return Shown(
        round(quantile(ratios, weights, 0.5), 3),
        fsum(weights),
        len(found),
        quantile([promised for (promised, _), _ in found], weights, 0.75),
        min(sample.ended for _, sample in found),
    )


def _ratio(pair: Pair, slack: float, most: float) -> float:
    promised, actual = pair
    ratio = log(max(actual + slack, 1e-9) / max(promised + slack, 1e-9))
    return max(-most, min(most, ratio))


def _weights(starts: Sequence[float], ends: Sequence[float], now: float, half: float) -> list[float]:
    """By age, and by how many stand beside it in its burst."""
    bursts = Counter(map(_burst, starts))
    return [
        0.5 ** (max(0.0, now - end) / half) / (1.0 + (bursts[_burst(start)] - 1) * LIKENESS)
        for start, end in zip(starts, ends, strict=True)
    ]


def quantile(values: Sequence[float], weights: Sequence[float], q: float) -> float:
    """Weighted, between the middles of the weights in a straight line. At least one value; weights above zero."""
    pairs = sorted(zip(values, weights, strict=True))
    goal, passed = q * fsum(weights), 0.0
    before: tuple[float, float] | None = None
    for value, weight in pairs:
        middle = passed + weight / 2
        if middle >= goal:
            if before is None:
                return value
            left, place = before
            return left + (value - left) * ((goal - place) / (middle - place))
        before, passed = (value, middle), passed + weight
    return pairs[-1][0]


def measured(transfers: Sequence[Transfer], now: float) -> Measured | None:
    """Of one way. None: no transfer counts any more."""
    found = [item for item in transfers if now - item.at < FORGET]
    if not found:
        return None
    ends = [item.at for item in found]
    weights = _weights(ends, ends, now, HALF_TRANSFER)
    rates = [log(item.bytes / item.seconds) for item in found]
    middle, weight = quantile(rates, weights, 0.5), fsum(weights)
    spread = _MAD * quantile([abs(rate - middle) for rate in rates], weights, 0.5)
    spread = (weight * spread + SPREAD_PRIOR * SPREAD) / (weight + SPREAD_PRIOR)
    return Measured(Span(exp(middle - spread), exp(middle + spread)), len(found), max(ends), weight)


# ── what ranking is told ─────────────────────────────────────────────────────────────────────────────────────


Usual = tuple[Shown, Shown]  # run and cost, at sites as a whole


def usual(own: Mapping[str, Habits]) -> Usual:
    """Run and cost of one kind of work in the federation: the sites' medians. `own`: by site, as `experience.voice`
    names it. Each that we ask counts once at most, whatever stands behind it: it is one that speaks."""
    return _usual({name: item.run for name, item in own.items()}), _usual(
        {name: item.cost for name, item in own.items()}
    )


def _usual(each: Mapping[str, Shown]) -> Shown:
    known = {name: item for name, item in each.items() if item.samples}
    if not known:
        return NOTHING
    speakers = Counter(map(speaker, known))
    parts = [1.0 / speakers[speaker(name)] for name in known]
    shares = [item.share * part for item, part in zip(known.values(), parts, strict=True)]
    middle = quantile([item.median for item in known.values()], shares, 0.5)
    weight = fsum(item.weight * part for item, part in zip(known.values(), parts, strict=True))
    # Rounded, as each median is: one more sample among thousands is no news to every site. How many sites there are is
    # told nowhere, but whether there is more than one: a site cannot be compared with itself.
    return Shown(round(middle, 3), float(f"{weight:.2g}"), min(len(speakers), 2))


def corrections(own: Mapping[str, Habits], common: Mapping[str, Usual]) -> tuple[dict[str, Correction], Correction]:
    """Of one site: by kind of work, and of every kind that it has not shown yet, beside what is usual for that.
    `common`: what is usual of each kind; also of those in `own`."""
    beside = {kind: _compared(habits_, common[kind]) for kind, habits_ in own.items()}
    found = {}
    for kind, habits_ in own.items():
        run, cost = common[kind]
        rest = [other for name, other in beside.items() if name != kind]
        found[kind] = _correction(_compared(habits_, common[kind], alone=True), rest, run, cost)
    return found, _correction(Habits(), list(beside.values()))


def _compared(own: Habits, common: Usual, *, alone: bool = False) -> Habits:
    """Its run and cost as they deviate from the usual ones; `alone`: also where no other site has shown any."""
    run, cost = common
    return replace(own, run=_deviation(own.run, run, alone=alone), cost=_deviation(own.cost, cost, alone=alone))


def _deviation(own: Shown, all_: Shown, *, alone: bool) -> Shown:
    return replace(own, median=own.median - all_.median) if alone or all_.samples > 1 else NOTHING


def _correction(own: Habits, rest: Sequence[Habits], run: Shown = NOTHING, cost: Shown = NOTHING) -> Correction:
    """`own`, `rest`: what it has shown of this kind and of each other, run and cost beside the usual ones; `run`,
    `cost`: these."""
    return Correction(
        _late(own.waiting, _together([other.waiting for other in rest]), WAITING_SLACK),
        _late(own.staging, _together([other.staging for other in rest]), STAGING_SLACK),
        _beside(own.run, _together([other.run for other in rest]), run),
        _beside(own.cost, _together([other.cost for other in rest]), cost),
    )


def _together(kinds: Sequence[Shown]) -> Shown:
    """Of one site, its kinds of work as one."""
    known = [item for item in kinds if item.samples]
    if len(known) < 2:
        return known[0] if known else NOTHING
    weights = [item.weight for item in known]
    return Shown(
        quantile([item.median for item in known], weights, 0.5),
        fsum(weights),
        sum(item.samples for item in known),
        quantile([item.scale for item in known], weights, 0.5),
        min(item.since for item in known),
    )


def _shares(own: Shown, rest: Shown) -> tuple[float, float]:
    """How far each counts; what is left counts for none."""
    return own.share, (1.0 - own.share) * rest.share


def _late(own: Shown, rest: Shown, slack: float) -> Factor:
    if not own.samples and not rest.samples:
        return NONE
    mine, other = _shares(own, rest)
    # The mean by logarithms here too: what was late on "now", and what was late on "in a day", amount to neither.
    reach = (mine * log(own.scale + slack) + other * log(rest.scale + slack)) / (mine + other)
    value = _value(mine * own.median + other * rest.median)
    return Factor(value, own.samples + rest.samples, max(0.0, round(exp(reach) - slack, 1)))


def _beside(own: Shown, rest: Shown, all_: Shown) -> Factor:
    if not all_.samples and not rest.samples:
        return NONE
    mine, other = _shares(own, rest)
    beside = mine * _bounded(own.median) + other * _bounded(rest.median)
    return Factor(_value(all_.share * all_.median + beside), own.samples + rest.samples)


def _bounded(logarithm: float) -> float:
    return max(-_MOST_BESIDE, min(_MOST_BESIDE, logarithm))


def expected(common: Usual) -> Correction:
    """Of a site that has shown nothing."""
    return _correction(Habits(), (), *common)


def _value(logarithm: float) -> float:
    return round(exp(logarithm), 4)


def experience(lived: Mapping[str, Lived], now: float) -> Experience:
    """The whole picture, of all that is kept: by the name of the site (`experience.voice`)."""
    ways = {
        (source, site): found
        for site, life in lived.items()
        for source, transfers in life.sources.items()
        if (found := measured(transfers, now)) is not None
    }
    own = {(site, kind): habits(samples, now) for site, life in lived.items() for kind, samples in life.kinds.items()}
    return picture(ways, own)


def picture(ways: Mapping[tuple[str, str], Measured], own: Mapping[tuple[str, str], Habits]) -> Experience:
    """`own`: by site and kind of work."""
    kinds = sorted({kind for _, kind in own})
    common = {kind: usual({site: item for (site, k), item in own.items() if k == kind}) for kind in kinds}
    sites: dict[str, dict[str, Habits]] = {}
    for (site, kind), item in own.items():
        sites.setdefault(site, {})[kind] = item
    found = {site: corrections(shown, common) for site, shown in sites.items()}
    return Experience(
        ways,
        {(site, kind): by for site, (each, _) in found.items() for kind, by in each.items()},
        {kind: by for kind in kinds if (by := expected(common[kind])) != Correction()},
        {site: by for site, (_, by) in found.items() if by != Correction()},
    )


def says(what: str, factor: Factor, samples: int, usual: Factor | None = None) -> str:
    """In words, for whoever runs the site. `samples`: of the factor's, those of this kind of work; `usual`: at sites as
    a whole, of run and cost."""
    runs = f"{samples} run{'s' if samples != 1 else ''}"
    if factor.samples > samples:
        runs += f", and {factor.samples - samples} of other work"
    more, less = _WORDS[what]
    word = more if factor.value >= 1.05 else less if factor.value <= 0.95 else "as promised"
    times = "" if word == "as promised" else f" × {factor.value:.2g}"
    elsewhere = f"; × {usual.value:.2g} is usual" if usual is not None else ""
    return f"{_VERBS[what]} {word}{times} ({runs}{elsewhere})"


_VERBS = {"waiting": "starts", "staging": "stages", "run": "runs", "cost": "bills"}
_WORDS = {
    "waiting": ("later than promised", "sooner than promised"),
    "staging": ("more slowly than reckoned", "faster than reckoned"),
    "run": ("longer than asked for", "shorter than asked for"),
    "cost": ("more than promised", "less than promised"),
}


# ── what one session has shown ───────────────────────────────────────────────────────────────────────────────


class Told(msgspec.Struct, frozen=True):
    """What a session's end tells, as far as it is known; epoch seconds and seconds. `start`, `staging`, `run`, `cost`
    as they were promised: `staging` by our own estimate, None where the site states its preparing (`prepares`) or
    nothing is known; `run` None: it is not to be judged. `preparing`: when it was seen to begin that."""

    at: float
    start: float | None = None
    prepares: bool = False
    staging: float | None = None
    run: float | None = None
    cost: float | None = None
    preparing: float | None = None
    began: float | None = None
    ended: float | None = None
    actual_cost: float | None = None


def told(decision: Decision, over: float) -> Told:
    """What is known of a decision whose session was seen to be `over`. What a site states of its times is believed as
    far as what was seen allows it: it did not run at a look that showed it waiting."""
    began = _moment(decision.actual_start, decision.running, decision.at, over)
    return Told(
        decision.at,
        decision.start,
        decision.prepares,
        decision.staging,
        decision.run,
        decision.cost,
        _moment(None, decision.preparing, decision.at, over),
        began,
        None if began is None else _moment(decision.actual_end, decision.over, began, over),
        decision.actual_cost,
    )


def _moment(stated: float | None, looks: Looks | None, first: float, last: float) -> float | None:
    """When it was, between `first` and `last`; None: not known well enough, or what is stated cannot be."""
    if stated is None:
        return None if looks is None or looks[1] - looks[0] > _LOOKED else (looks[0] + looks[1]) / 2
    low, high = looks or (first, last)
    if looks is None and not low - _SKEW <= stated <= high + _SKEW:
        return None
    return max(low, min(high, stated))


def believable(known: Told, moving: float) -> bool:
    """Whether transfers can be what the site says, that bytes moved for so many seconds: it was not seen preparing for
    much longer. A site that brings in terabytes in a second, and begins an hour later, would look near to all data."""
    seen = _minus(known.began, known.preparing)
    return seen is None or not moving or seen <= _MOST_PREPARING * moving + _INSTALLING


def sample(session: UUID, known: Told, *, completed: bool, over: float, moving: float | None = None) -> Sample:
    """`completed`: it ended well; else it says nothing of run and cost. `over`: when its end was seen. `moving`:
    seconds in which the bytes it reports moved; None: it reports none."""
    ready = None if known.began is None else known.began - known.at
    waiting, staging = (None, None) if ready is None else _readiness(known, ready, moving)
    run = _sound(known.run, _minus(known.ended, known.began)) if completed else None
    cost = _sound(known.cost, known.actual_cost) if completed else None
    return Sample(
        session, known.at, over, waiting, staging, run if _positive(run) else None, cost if _positive(cost) else None
    )


def _readiness(told: Told, ready: float, moving: float | None) -> tuple[Pair | None, Pair | None]:
    """Waiting and staging, `ready` being all the time until it ran.

    One that was seen preparing from its promised start on has waited until then, and staged from then. Of another, the
    longer of the two promises answers for the whole, as it does in ranking. A session that reports its transfers is
    judged by what these took: how fast bytes move is learned of the way, and must not be learned of the site again.
    """
    if told.start is None:
        return None, None
    promised = max(0.0, told.start - told.at)
    if told.prepares:
        return _sound(promised, ready), None
    staging = told.staging if moving is None else moving
    preparing = _minus(told.preparing, told.at)
    if preparing is not None and promised <= preparing <= ready:
        return _sound(promised, preparing), _sound(staging, ready - preparing)
    if staging is None:
        return None, None
    return (_sound(promised, ready), None) if promised >= staging else (None, _sound(staging, ready))


def _minus(later: float | None, earlier: float | None) -> float | None:
    return None if later is None or earlier is None else later - earlier


def _sound(promised: float | None, actual: float | None) -> Pair | None:
    """None also for what can be no length of time and no price."""
    if promised is None or actual is None:
        return None
    return (promised, actual) if 0.0 <= promised <= _LONGEST and 0.0 <= actual <= _LONGEST else None


def _positive(pair: Pair | None) -> bool:
    return pair is not None and pair[0] > 0.0 and pair[1] > 0.0
