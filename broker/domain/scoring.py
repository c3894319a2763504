"""One offer's all-in cost, and what it is made of. Pure; imports the domain's models.

    ready  = start, where the site states its own preparing; else max(start, now + staging)
    all-in = price + egress + writing + value of time × (ready − now + run + delivery) + carbon price × carbon
             + distance price × bytes

`writing` and `delivery` are the price and the time of writing results to where the request wants them.

Start, staging, run and price are what was promised, as experience corrects it: the expected values alone. What is
stated as the worst stays the worst, unless even what is expected is worse.

Pessimistically, ready = start + staging. A score depends on its offer, the wishes and `now`, on nothing else.

Every criterion is worked out first and tidied to 12 digits; the all-in is then a fixed sequence of additions and of
products with weights that are not negative. Each of these is monotone in floating point too, so an offer that is no
worse in every criterion never has the higher all-in, not even by one last digit (docs: ranking).
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from broker.domain.experience import STAGING_SLACK, WAITING_SLACK, Correction, Factor
from broker.domain.locality import GB, NOTHING, Locality
from broker.domain.quantities import Span
from broker.domain.wishes import Wishes, tidy

_MOST = 1e15  # money, kg
_MOST_BYTES = 1e24
_LONGEST = 5e10  # seconds; three of them after now still end before the year 9999
HOUR = 3600.0


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One offer, as far as ranking knows it. None: not known. Whatever the numbers are, ranking survives them.

    `session` names it in the answer. `price` is the whole session's, in `currency` (None: the base currency).
    `start`: earliest and latest, epoch seconds; `run`: seconds. `prepares`: the site counts its own preparing into
    `start`, so our staging is not added. `interactive`: the time until it is ready counts, its run does not.
    `performance`: 1.0 is the machine that `run` was asked for; None: taken as that. `carbon`: kg CO2e. `costs`: type →
    range and unit, for ceilings; `metrics`: type → range, for floors. `expires`: epoch seconds. `unfit`: why it is to
    be excluded whatever the ranking says. `correction`: how what this site promised has come over; None: its word is
    taken as it is."""

    session: str
    origin: str
    site: str
    start: Span
    run: Span
    price: Span | None = None
    currency: str | None = None
    prepares: bool = False
    interactive: bool = False
    performance: Span | None = None
    carbon: Span | None = None
    locality: Locality = Locality()
    costs: Mapping[str, tuple[Span, str | None]] = {}
    metrics: Mapping[str, Span] = {}
    countries: tuple[str, ...] = ()
    expires: float | None = None
    unfit: str | None = None
    correction: Correction | None = None


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """`expected` ≤ `pessimistic`, both finite. `stand_in`: not known, a configured value takes its place."""

    expected: float
    pessimistic: float
    stand_in: bool = False


class Corrected(msgspec.Struct, frozen=True, gc=False):
    """What was promised of one quantity (waiting, staging, run, price) that counts otherwise by experience: seconds, or
    money in the wishes' currency."""

    what: str
    promised: float
    factor: Factor


# Value, pessimistic all-in; then result time, pay, bytes, carbon, each expected and pessimistic.
Order = tuple[float, float, float, float, float, float, float, float, float, float]


class Score(msgspec.Struct, frozen=True):
    """Money in the wishes' currency, durations in seconds from `now`, `carbon` in kg.

    `all_in` is what ranks; `value` is the one number of it, between expected and pessimistic by risk. `pay` is what is
    expected to be billed: price, egress, and `writing` results elsewhere, which takes `delivering` after the run;
    `quoted` and `quoted_price` are the same as the site offers them, before experience corrects them. `staging` is what
    it adds to the waiting; `delay`: from now to ready; `until`: from now to the result, where it is wanted. `locality`:
    the offer's. `order` is what offers are compared by, in the base currency."""

    all_in: Estimate
    value: float
    pay: Estimate
    price: Estimate
    egress: Estimate
    waiting: Estimate
    staging: Estimate
    delay: Estimate
    run: Estimate
    until: Estimate
    carbon: Estimate
    bytes: Estimate
    locality: Locality
    now: float
    order: Order
    quoted: Estimate
    quoted_price: Estimate
    writing: Estimate = Estimate(0.0, 0.0)
    delivering: Estimate = Estimate(0.0, 0.0)
    corrected: tuple[Corrected, ...] = ()

    @property
    def ready(self) -> Estimate:
        """Epoch seconds."""
        delay = self.delay
        return Estimate(self.now + delay.expected, self.now + delay.pessimistic, delay.stand_in)

    @property
    def result(self) -> Estimate:
        """Epoch seconds."""
        return Estimate(self.now + self.until.expected, self.now + self.until.pessimistic, self.until.stand_in)

    @property
    def criteria(self) -> tuple[float, ...]:
        """What dominance compares: result time, pay, bytes, carbon, each expected, then pessimistic."""
        return self.order[2:]

    @property
    def known(self) -> bool:
        """No stand-in in any criterion: it can dominate and be dominated."""
        return not self.all_in.stand_in


def score(offer: Candidate, wishes: Wishes, now: float) -> Score | str:
    """The score, or why there is none: a start or a run that is no time at all."""
    start, run = offer.start, _range(offer.run, _LONGEST)
    if start.low != start.low or start.high != start.high:  # NaN alone differs from itself
        return "states no start that can be read"
    if run is None:
        return "states no duration that can be read"
    moved = _bytes(offer, wishes)
    egress = _egress(offer, wishes, moved)
    price = quoted_price = _price(offer, wishes, run)
    writing, delivering = _delivery(offer, wishes)
    carbon = _carbon(offer, wishes, run)
    waiting = _waiting(start, now)
    transfer = _NONE if offer.prepares else _staging(offer, wishes, moved)
    working = _run(offer, run)
    corrected: tuple[Corrected, ...] = ()
    if offer.correction is not None:
        stated = price, waiting, transfer, working
        price, waiting, transfer, working = _corrected(offer.correction, *stated)
        corrected = _moved(offer.correction, stated, (price, waiting, transfer, working), wishes)
    pay = quoted = _pay(price, egress, writing)
    if price is not quoted_price:
        quoted = _pay(quoted_price, egress, writing)
    delay = _delay(waiting, transfer)
    until = _until(delay, working, delivering)
    staging = Estimate(max(0.0, transfer.expected - waiting.expected), transfer.pessimistic, transfer.stand_in)
    all_in, value = _all_in(wishes, pay, until, carbon, moved)
    order = (
        value, all_in.pessimistic, until.expected, until.pessimistic, pay.expected, pay.pessimistic,
        moved.expected, moved.pessimistic, carbon.expected, carbon.pessimistic,
    )  # fmt: skip
    if wishes.factor != 1.0:
        all_in, pay, price, egress, writing = (_shown(part, wishes) for part in (all_in, pay, price, egress, writing))
        quoted, quoted_price = _shown(quoted, wishes), _shown(quoted_price, wishes)
        value = wishes.shown(value)
    return Score(
        all_in, value, pay, price, egress, waiting, staging, delay, working, until, carbon, moved,
        offer.locality, now, order, quoted, quoted_price, writing, delivering, corrected,
    )  # fmt: skip


_NONE = Estimate(0.0, 0.0)


def _pay(price: Estimate, egress: Estimate, writing: Estimate) -> Estimate:
    return Estimate(
        tidy(price.expected + egress.expected + writing.expected),
        tidy(price.pessimistic + egress.pessimistic + writing.pessimistic),
        price.stand_in or egress.stand_in or writing.stand_in,
    )


def _shown(part: Estimate, wishes: Wishes) -> Estimate:
    return Estimate(wishes.shown(part.expected), wishes.shown(part.pessimistic), part.stand_in)


def _range(span: Span | None, most: float) -> Span | None:
    """What a site says, made fit to reckon with: a reversed range is turned round, what is too large is cut. Negative
    numbers and NaN are no quantities (-1 often means "not known"): None."""
    if span is None:
        return None
    low, high = span.low, span.high
    if 0.0 <= low <= high <= most:
        return span
    if low > high:
        low, high = high, low
    return Span(min(low, most), min(high, most)) if 0.0 <= low <= high else None


def _estimate(span: Span) -> Estimate:
    return Estimate(span.expected, span.high)


def _stand_in(span: Span, factor: Span) -> Estimate:
    return Estimate(span.expected * factor.expected, span.high * factor.high, True)


def _price(offer: Candidate, wishes: Wishes, run: Span) -> Estimate:
    stated = wishes.exchange.convert(offer.price, offer.currency) if offer.price is not None else None
    price = _range(stated, _MOST)
    return _estimate(price) if price is not None else _stand_in(wishes.stand_ins.price, run.times(1 / HOUR))


def _carbon(offer: Candidate, wishes: Wishes, run: Span) -> Estimate:
    carbon = _range(offer.carbon, _MOST)
    if carbon is None:
        return _stand_in(wishes.stand_ins.carbon, run.times(1 / HOUR))
    return Estimate(tidy(carbon.expected), tidy(carbon.high))


def _bytes(offer: Candidate, wishes: Wishes) -> Estimate:
    moved = _range(offer.locality.bytes, _MOST_BYTES)
    if moved is not None:
        return _estimate(moved)
    guess = offer.locality.guess
    count = guess.bytes if guess else wishes.stand_ins.bytes.plus(Span.of(max(0.0, offer.locality.least)))
    return Estimate(min(count.expected, _MOST_BYTES), min(count.high, _MOST_BYTES), True)


def _egress(offer: Candidate, wishes: Wishes, moved: Estimate) -> Estimate:
    egress = _range(offer.locality.egress, _MOST)
    if egress is not None:
        return _estimate(egress)
    guess = offer.locality.guess
    if guess is not None and guess.egress is not None:
        return Estimate(guess.egress.expected, guess.egress.high, True)
    price = wishes.stand_ins.egress
    return Estimate(price.expected * moved.expected / GB, price.high * moved.pessimistic / GB, moved.pessimistic > 0)


def _staging(offer: Candidate, wishes: Wishes, moved: Estimate) -> Estimate:
    staging = _range(offer.locality.staging, _LONGEST)
    if staging is not None:
        return _estimate(staging)
    guess = offer.locality.guess
    if guess is not None and guess.staging is not None:
        return Estimate(guess.staging.expected, guess.staging.high, True)
    speed = wishes.stand_ins.bandwidth
    recall = _range(offer.locality.recall, _LONGEST) or NOTHING
    return Estimate(
        min(recall.expected + moved.expected / max(speed.expected, 1.0), _LONGEST),
        min(recall.high + moved.pessimistic / max(speed.low, 1.0), _LONGEST),
        moved.pessimistic > 0,
    )


def _delivery(offer: Candidate, wishes: Wishes) -> tuple[Estimate, Estimate]:
    """Money and seconds of writing the results elsewhere. A person who sits before the session does not wait for it."""
    delivery = offer.locality.delivery
    if delivery is None:
        return _NONE, _NONE
    stand_ins, guess = wishes.stand_ins, delivery.stand_in
    price, seconds = _range(delivery.price, _MOST), _range(delivery.seconds, _LONGEST)
    if price is None or seconds is None:  # stated by another broker, and no quantity
        speed, most = max(stand_ins.bandwidth.low, 1.0), stand_ins.bytes
        price, guess = Span(0.0, stand_ins.egress.high * most.high / GB), True
        seconds = Span(0.0, min(most.high / speed, _LONGEST))
    writing = Estimate(price.expected, price.high, guess)
    return writing, _NONE if offer.interactive else Estimate(seconds.expected, seconds.high, guess)


def _waiting(start: Span, now: float) -> Estimate:
    low, high = (start.low, start.high) if start.low <= start.high else (start.high, start.low)
    first, last = min(max(0.0, low - now), _LONGEST), min(max(0.0, high - now), _LONGEST)
    return Estimate(first / 2 + last / 2, last)


def _run(offer: Candidate, run: Span) -> Estimate:
    if offer.interactive:
        return _NONE
    speed = _range(offer.performance, 1e9)
    if speed is None or speed.low <= 0.0:
        return _estimate(run)
    return Estimate(min(run.expected / speed.expected, _LONGEST), min(run.high / speed.low, _LONGEST))


_Four = tuple[Estimate, Estimate, Estimate, Estimate]  # price, waiting, staging, run


def _corrected(by: Correction, price: Estimate, waiting: Estimate, staging: Estimate, run: Estimate) -> _Four:
    """Stand-ins are nobody's promise, and stay. So does what needs no staging, or no run."""
    return (
        _by(by.cost, price),
        _by(by.waiting, waiting, WAITING_SLACK),
        _by(by.staging, staging, STAGING_SLACK) if staging.pessimistic else staging,
        _by(by.run, run),
    )


def _by(factor: Factor, part: Estimate, slack: float = 0.0) -> Estimate:
    if factor.value == 1.0 or part.stand_in:
        return part
    expected = min(factor.applied(part.expected, slack), _MOST)
    return Estimate(expected, max(part.pessimistic, expected))


def _moved(by: Correction, stated: _Four, counted: _Four, wishes: Wishes) -> tuple[Corrected, ...]:
    factors = zip(("price", "waiting", "staging", "run"), (by.cost, by.waiting, by.staging, by.run), strict=True)
    return tuple(
        Corrected(what, wishes.shown(before.expected) if what == "price" else before.expected, factor)
        for (what, factor), before, after in zip(factors, stated, counted, strict=True)
        if after.expected != before.expected
    )


def promises(offer: Candidate) -> tuple[float | None, float | None]:
    """Expected seconds of staging and of the run, before anything corrects them, as `learning.Told` wants them: what
    the site counts into its start, what is not known, and a person's own time are None."""
    staging = None if offer.prepares else _range(offer.locality.staging, _LONGEST)
    run = None if offer.interactive else _range(offer.run, _LONGEST)
    return (
        None if staging is None else staging.expected,
        None if run is None else _run(offer, run).expected,
    )


def _delay(waiting: Estimate, transfer: Estimate) -> Estimate:
    return Estimate(
        max(waiting.expected, transfer.expected), waiting.pessimistic + transfer.pessimistic, transfer.stand_in
    )


def _until(delay: Estimate, run: Estimate, delivering: Estimate) -> Estimate:
    """To the millisecond: finer differences are noise."""
    return Estimate(
        round(delay.expected + run.expected + delivering.expected, 3),
        round(delay.pessimistic + run.pessimistic + delivering.pessimistic, 3),
        delay.stand_in or delivering.stand_in,
    )


def _all_in(
    wishes: Wishes, pay: Estimate, until: Estimate, carbon: Estimate, moved: Estimate
) -> tuple[Estimate, float]:
    """Keep the operations and their order the same for both: the module's proof of monotony rests on them."""
    weights = wishes.weights
    second, kilogram, byte = weights.value_of_time / HOUR, weights.carbon_price, weights.distance_price / GB
    expected = pay.expected + until.expected * second + carbon.expected * kilogram + moved.expected * byte
    worst = pay.pessimistic + until.pessimistic * second + carbon.pessimistic * kilogram + moved.pessimistic * byte
    # Not expected + risk × (worst − expected): that can fall, by a last digit, where `expected` rises.
    value = tidy((1.0 - weights.risk) * expected + weights.risk * worst)
    stand_in = pay.stand_in or until.stand_in or carbon.stand_in or moved.stand_in
    return Estimate(tidy(expected), tidy(worst), stand_in), value
