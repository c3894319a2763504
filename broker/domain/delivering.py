"""What it takes to write a run's results where the request wants them. Pure; imports the domain's models.

The bytes go from a storage of the site to the place by the same map of storages and links as data goes to the site. A
way that was measured was measured towards a site, so here the links as configured count.
"""

from __future__ import annotations

from broker.domain.locality import GB, NOTHING, Delivery, Place, Terrain
from broker.domain.outputs import Outputs
from broker.domain.quantities import Span
from broker.domain.storages import Way
from broker.domain.wishes import StandIns

_HOUR = 3600.0
_MOST = 1e15  # money, seconds
_FILES = 1  # nobody knows beforehand how many there will be


def deliver(outputs: Outputs | None, place: Place, terrain: Terrain, stand_ins: StandIns) -> Delivery | None:
    """None: results stay at the site. Where they go to a storage of the site itself, nothing moves. A size or a way
    that is not known is a stand-in, and never nothing. Of several ways the one counts that costs least, time at the
    price of an hour and money together."""
    if outputs is None or outputs.to is None:
        return None
    size = None if outputs.size is None else outputs.size * GB
    target = outputs.rse or terrain.map_.storage_of(outputs.to)
    if target is not None and target in place.storages:
        return Delivery(NOTHING, NOTHING, target, size)
    span = stand_ins.bytes if size is None else Span.of(size)
    ways = [
        way
        for source in sorted(place.storages) or ("",)
        if (way := terrain.map_.way(source or None, target, place.site, {})) is not None
    ]
    best = min((_by(way, span, stand_ins) for way in ways), key=lambda cost: _worth(cost, terrain.hour), default=None)
    seconds, price = best or (_unknown(span, stand_ins), _egress(span, stand_ins))
    return Delivery(seconds, price, target or outputs.to, size, stand_in=best is None or size is None)


def _by(way: Way, span: Span, stand_ins: StandIns) -> tuple[Span, Span]:
    """Links have a price always; nothing is one too."""
    fast, slow = way.seconds(span.low, _FILES), way.seconds(span.high, _FILES)
    price = way.price
    return Span(fast.low, slow.high), _egress(span, stand_ins) if price is None else span.times(price / GB)


def _worth(cost: tuple[Span, Span], hour: float) -> float:
    seconds, price = cost
    return seconds.expected * hour / _HOUR + price.expected


def _unknown(span: Span, stand_ins: StandIns) -> Span:
    speed = stand_ins.bandwidth
    return Span(min(span.low / max(speed.high, 1.0), _MOST), min(span.high / max(speed.low, 1.0), _MOST))


def _egress(span: Span, stand_ins: StandIns) -> Span:
    price = stand_ins.egress
    return Span(price.low * span.low / GB, price.high * span.high / GB)
