"""Reading one site's offer on the hot path: conforming bytes kept, what ranks taken out. Imports msgspec, the domain.

An offer is decoded twice in C: once by 1.0's forms, which checks all of it, and, when it is shown, into slices of its
bytes, which are passed on as they came. What the broker itself writes is cut out of the slices (design, section 4). A
few microseconds an offer; a large fan-out reads thousands in a second.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from typing import Literal

import msgspec
from msgspec import Raw, Struct

from broker.domain import forms, kinds
from broker.domain.locality import Delivery
from broker.domain.outcome import Quote
from broker.domain.quantities import Interval, Span, parse_duration
from broker.domain.repair import mend
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleStorageResource
from broker.domain.site import Profile, Registration
from broker.domain.tame import wild

Raws = dict[str, Raw]

_PLAIN: msgspec.json.Decoder[forms.Session] = msgspec.json.Decoder(forms.Session)
_OURS: msgspec.json.Decoder[forms.Session] = msgspec.json.Decoder(forms.OurSession)
_ENVELOPE = msgspec.json.Decoder(dict[str, Raw])
_META = msgspec.json.Decoder(dict[str, Raw] | None)

# What the broker writes of a session and of its metadata; nobody else's word on these goes out.
_WRITTEN = frozenset({
    "kind", "meta", "phase", "expires", "options", "site", "origin", "platform", "reserved", "simulated", "native",
    "results", "offerset", "locality", "ranking", "promise",
})  # fmt: skip
_WRITTEN_META = frozenset({"uuid", "url", "options"})

_KILOGRAMS = {"kg": 1.0, "g": 1e-3, "t": 1e3}
_KILOWATT_HOURS = {"kWh": 1.0, "Wh": 1e-3, "MWh": 1e3, "J": 1 / 3.6e6, "MJ": 1 / 3.6}


class Reading(Struct, frozen=True):
    """What is known of a site whose offers are read. `ours`: it is a broker or a planner of ours, and its additions
    (origin, platform, reserved, simulated, results, locality) are believed. Seconds: `clock_offset` (its clock ahead
    of ours), `margin` (taken off its expiry), `lifetime` (of an offer without expiry), `longest` (that any is kept)."""

    name: str
    units: Mapping[str, str] = {}
    unreliable: tuple[str, ...] = ()
    clock_offset: float = 0.0
    countries: tuple[str, ...] = ()
    currency: str = "EUR"
    ours: bool = False
    platform: str = ""
    simulated: bool = False
    results: bool = False
    margin: float = 5.0
    lifetime: float = 300.0
    longest: float = 7 * 86400.0

    @classmethod
    def of(
        cls,
        registration: Registration,
        profile: Profile,
        *,
        currency: str,
        ours: bool,
        margin: float = 5.0,
        lifetime: float = 300.0,
    ) -> Reading:
        """`currency` is the broker's base currency, for money without a unit."""
        return cls(
            name=registration.name,
            units=registration.units,
            unreliable=registration.unreliable,
            clock_offset=profile.clock_offset,
            countries=profile.countries or ((registration.country,) if registration.country else ()),
            currency=currency,
            ours=ours,
            platform=profile.platform,
            simulated=profile.simulated,
            results=profile.results,
            margin=margin,
            lifetime=lifetime,
        )


class Stated(Struct, frozen=True):
    """The locality terms as a broker of ours below states them. Bytes, seconds, money in `currency`; None: unknown."""

    bytes: Span | None
    sources: tuple[str, ...]
    staging: Span | None
    egress: Span | None
    currency: str
    certainty: Literal["stated", "measured", "estimated", "unknown"]
    least: float = 0.0
    recall: Span = Span(0.0, 0.0)
    held: tuple[str, ...] = ()
    cached: float = 0.0
    samples: int = 0
    delivery: Delivery | None = None  # its price in `currency`


class Offer(Struct, frozen=True):
    """One usable offer. Times are epoch seconds by *our* clock; None is unknown, never zero.

    `body` is what the site wrote, mended where it had to be; `cut` takes out what is passed on. `price` is the
    session's own total: what components state beside it is not added (protocol.md 1.4). `cores` count, `memory` and
    `storage` are in GiB, `energy` in kWh, `carbon` in kg, `run` is the length of the slot in seconds. `start` is None
    where the site states none: it could be at once. `prepares`: the site states its own preparing, so `start` has it.
    `repairs` are warnings: what was left out.
    """

    handle: str
    site: str
    origin: str
    expires: float
    site_expires: float | None
    price: Span | None
    currency: str | None
    energy: Span | None
    carbon: Span | None
    costs: Mapping[str, tuple[Span, str | None]]
    metrics: Mapping[str, Span]
    cores: Span | None
    memory: Span | None
    storage: Span | None
    extras: Mapping[str, int]
    start: Span | None
    prepares: bool
    run: Span | None
    platform: str
    reserved: bool
    simulated: bool
    results: bool
    locality: Stated | None
    countries: tuple[str, ...]
    body: bytes
    repairs: tuple[str, ...] = ()


def read(quote: Quote, site: Reading, now: float, asked: Collection[str] = ()) -> Offer | str:
    """The offer, or in a sentence's end why it is unusable ("its offer …"). Never raises on what a site wrote.

    `asked` are the kinds in the request: one outside 1.0 may come back to whoever asked for it, to nobody else.
    An unusable offer may still hold room at its site; its handle can be released.
    """
    decoder = _OURS if site.ours else _PLAIN
    body = quote.body
    repairs: tuple[str, ...] = ()
    try:
        body.decode()  # msgspec does not look into the texts that it skips
        said = decoder.decode(body)
    except msgspec.ValidationError:
        mended = mend(body, decoder, asked)
        if isinstance(mended, str):
            return mended
        body, repairs = mended.body, mended.repairs
        said = decoder.decode(mended.judged)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return f"its offer is no JSON that can be read ({error})"
    if fault := wild(body):
        return f"its offer {fault}"
    if said.phase is not None and said.phase != "OFFERED":
        return f"its offer is in phase {said.phase[:40]}, not OFFERED"
    return _take(quote.handle, said, body, repairs, site, now)


def _take(
    handle: str, said: forms.Session, body: bytes, repairs: tuple[str, ...], site: Reading, now: float
) -> Offer | str:
    expires, site_expires = _expiry(said.expires, site, now)
    if expires <= now:
        return f"its offer had expired when it came ({said.expires})"
    notes: list[str] = []
    try:
        start, run, prepares = _times(said, site.clock_offset)
        costs = _costs(said.costs, site, notes)
        extras = _extras(said.compute, notes)
    except (ValueError, OverflowError) as error:
        return f"its offer states a time that is none ({error})"
    compute = said.compute
    price = costs.get(kinds.MONETARY)
    ours = said if isinstance(said, forms.OurSession) else _NOTHING_OURS
    return Offer(
        handle=handle,
        site=site.name,
        origin=_origin(ours.origin) or site.name,
        expires=expires,
        site_expires=site_expires,
        price=price[0] if price else None,
        currency=price[1] if price else None,
        energy=_in(costs.get(kinds.ENERGY), _KILOWATT_HOURS),
        carbon=_in(costs.get(kinds.CARBON), _KILOGRAMS),
        costs=costs,
        metrics=_metrics(said.metrics, compute.metrics if compute else None),
        cores=_size(compute.cores) if compute else None,
        memory=_size(compute.memory) if compute else None,
        storage=_storage(said.storage),
        extras=extras,
        start=start,
        prepares=prepares,
        run=run,
        reserved=ours.reserved,
        platform=ours.platform or site.platform,
        simulated=ours.simulated or site.simulated,
        results=ours.results or site.results,
        locality=_locality(ours.locality, site.currency),
        countries=site.countries,
        body=body,
        repairs=(*repairs, *notes) if notes else repairs,
    )


_NOTHING_OURS = forms.OurSession()
_MOST_HELD = 1000  # data resources that one offer names
_MOST_SAMPLES = 10**9
_LONGEST_ORIGIN = 200  # characters
_LONGEST_PLACE = 2000  # characters


def _origin(stated: str | None) -> str | None:
    """A name that can be shown; None for any other."""
    return stated if stated and len(stated) <= _LONGEST_ORIGIN and stated.isprintable() else None


# ── times ────────────────────────────────────────────────────────────────────────────────────────────────────


def _epoch(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _expiry(stated: datetime | None, site: Reading, now: float) -> tuple[float, float | None]:
    """When the offer ends for us, by our clock, and when the site says it ends, by its own."""
    if stated is None:
        return now + min(site.lifetime, site.longest), None
    ends = _epoch(stated)
    left = ends - site.clock_offset - now
    return now + min(left - min(site.margin, 0.05 * left), site.longest), ends


def _times(said: forms.Session, offset: float) -> tuple[Span | None, Span | None, bool]:
    """Start, length of the slot, and whether the site states its own preparing. Raises ValueError."""
    schedule = said.compute.schedule if said.compute else None
    # The session's own schedule is a field of 1.0 that the reference implementation never fills (protocol.md 1.4).
    available = (schedule and schedule.available) or (said.schedule and said.schedule.available) or None
    preparing = (schedule and schedule.preparing) or (said.schedule and said.schedule.preparing) or None
    start = _start(available.start, offset) if available and available.start else None
    run = Span.of(_seconds(available.duration)) if available and available.duration else None
    return start, run, preparing is not None and preparing.duration is not None


def _start(text: str, offset: float) -> Span:
    left, _, right = text.partition("/")
    if right == "PT0S":  # what sites in the field write; the full parser takes ten times as long
        return Span.of(_epoch(datetime.fromisoformat(left)) - offset)
    interval = Interval.parse(text)
    return Span(interval.start.timestamp() - offset, interval.end.timestamp() - offset)


def _seconds(text: str) -> float:
    if text.startswith("PT") and text.endswith("H") and text[2:-1].isdecimal() and len(text) < 9:
        return int(text[2:-1]) * 3600.0
    return parse_duration(text).total_seconds()


# ── quantities ───────────────────────────────────────────────────────────────────────────────────────────────


def _range(low: float | None, high: float | None) -> Span | None:
    """A lone bound is the value; a range written the wrong way round is turned."""
    if low is None:
        return None if high is None else Span(high, high)
    if high is None:
        return Span(low, low)
    return Span(low, high) if low <= high else Span(high, low)


def _size(pair: forms.MinMax | None) -> Span | None:
    return _range(pair.min, pair.max) if pair else None


def _storage(items: list[forms.Storage] | None) -> Span | None:
    total: Span | None = None
    for item in items or ():
        size = _size(item.size)
        if size is not None:
            total = total.plus(size) if total else size
    return total


def _in(cost: tuple[Span, str | None] | None, factors: Mapping[str, float]) -> Span | None:
    """In the unit whose factor is 1; None: no such cost, or in a unit nobody here knows."""
    factor = factors.get(cost[1] or "") if cost else None
    span = cost[0].times(factor) if cost and factor is not None else None
    return span if span and isfinite(span.high) else None


def _costs(
    items: Sequence[forms.Cost | forms.AnyCost] | None, site: Reading, notes: list[str]
) -> dict[str, tuple[Span, str | None]]:
    """By type. Items of one type and unit add up: a list of costs holds them all (protocol.md 1.4)."""
    costs: dict[str, tuple[Span, str | None]] = {}
    for item in items or ():
        span = _range(item.min, item.max) if isinstance(item, forms.Cost) else None
        if span is None or item.type is None or not isinstance(item, forms.Cost):
            continue
        if span.low < 0:  # would pay the user, or undo another cost
            notes.append(f"its {kinds.short(item.type)} cost below zero was not counted")
            continue
        unit = item.unit or site.units.get(item.type) or (site.currency if item.type == kinds.MONETARY else None)
        first = costs.get(item.type)
        if first is None:
            costs[item.type] = span, unit
        elif first[1] == unit and isfinite(first[0].high + span.high):
            costs[item.type] = first[0].plus(span), unit
        else:
            notes.append(f"a second {kinds.short(item.type)} cost in {unit or 'no unit'} was not counted")
    return costs


def _metrics(*levels: Sequence[forms.Metric | forms.AnyMetric] | None) -> dict[str, Span]:
    """By type; the session's own lead, its compute resource's follow. Of two of one type the first counts."""
    metrics: dict[str, Span] = {}
    for items in levels:
        for item in items or ():
            span = _range(item.min, item.max) if isinstance(item, forms.Metric) else None
            if span is not None and item.type is not None:
                metrics.setdefault(item.type, span)
    return metrics


def _extras(compute: forms.Compute | None, notes: list[str]) -> dict[str, int]:
    if compute is None or not compute.extras:
        return {}
    counts: dict[str, int] = {}
    try:
        for extra in msgspec.json.decode(compute.extras, type=list[forms.Extra] | None) or ():
            counts[extra.type] = counts.get(extra.type, 0) + extra.count
    except (msgspec.MsgspecError, RecursionError):
        notes.append("its compute.extras are of a form nobody here knows, and were not counted")
        return {}
    return counts


def _locality(stated: forms.Locality | None, currency: str) -> Stated | None:
    if stated is None:
        return None
    currency = _unit(stated.egress) or _unit(stated.delivery.price if stated.delivery else None) or currency
    return Stated(
        bytes=_bounds(stated.bytes),
        sources=tuple(stated.sources or ()),
        staging=_bounds(stated.staging),
        egress=_bounds(stated.egress),
        currency=currency,
        certainty=stated.certainty,
        least=max(0.0, stated.least),
        recall=_bounds(stated.recall) or Span(0.0, 0.0),
        held=tuple(stated.held or ())[:_MOST_HELD],
        cached=max(0.0, stated.cached),
        samples=min(max(0, stated.samples), _MOST_SAMPLES),
        delivery=_delivery(stated.delivery, currency),
    )


def _unit(stated: forms.Bounds | None) -> str | None:
    return stated.unit if stated else None


def _delivery(stated: forms.Delivery | None, currency: str) -> Delivery | None:
    """None also where it leaves something open, or speaks of several currencies: then it is measured here."""
    if stated is None or stated.seconds is None or (_unit(stated.price) or currency) != currency:
        return None
    seconds, price = _bounds(stated.seconds), _bounds(stated.price)
    if seconds is None or price is None or len(stated.to) > _LONGEST_PLACE or not stated.to.isprintable():
        return None
    size = stated.bytes if stated.bytes is None or stated.bytes >= 0 else None
    return Delivery(seconds, price, stated.to, size, stated.stand_in)


def _bounds(stated: forms.Bounds | None) -> Span | None:
    """The range whose middle and upper end were stated, so that a parent ranks by the child's own figures."""
    if stated is None:
        return None
    high = max(0.0, stated.expected, stated.pessimistic)
    return Span(min(high, max(0.0, 2 * stated.expected - high)), high)


# ── does it fit? ─────────────────────────────────────────────────────────────────────────────────────────────


class Needs(Struct, frozen=True):
    """What a request asks of any offer, taken out once. GiB, seconds; `window` is epoch seconds."""

    cores: tuple[int, int | None]
    memory: tuple[int, int | None]
    storage: int
    extras: Mapping[str, int]
    duration: float
    window: tuple[float, float] | None

    @classmethod
    def of(cls, request: ExecutionRequest) -> Needs:
        sizes = [item.size for item in request.storage or () if isinstance(item, SimpleStorageResource)]
        window = request.start
        return cls(
            cores=request.cores,
            memory=request.memory,
            storage=sum(size.min or 0 for size in sizes if size),
            extras=request.extras,
            duration=request.duration.total_seconds(),
            window=(window.start.timestamp(), window.end.timestamp()) if window else None,
        )


def unfit(offer: Offer, needs: Needs, unreliable: Sequence[str] = ()) -> tuple[str | None, tuple[str, ...]]:
    """Why the offer is excluded (None: it is not), and warnings about one that is kept.

    Below an asked minimum: excluded, but only warned of where the field (such as `compute.memory`; a prefix names
    all below it) is among the site's `unreliable` ones. Above an asked maximum: warned of. Not stated: warned of.
    """
    warnings: list[str] = []
    for reason, field in _shortfalls(offer, needs, warnings):
        if not any(field == name or field.startswith(name + ".") for name in unreliable):
            return reason, tuple(warnings)
        warnings.append(f"{reason}; not relied on: this site's {field} is known to be wrong")
    return None, tuple(warnings)


def _shortfalls(offer: Offer, needs: Needs, warnings: list[str]) -> list[tuple[str, str]]:
    """Every asked minimum that the offer misses, with its field; what is only worth saying goes to `warnings`."""
    found: list[tuple[str, str]] = []
    for name, offered, (low, high), unit in (
        ("cores", offer.cores, needs.cores, "cores"),
        ("memory", offer.memory, needs.memory, "GiB of memory"),
    ):
        if offered is None:
            warnings.append(f"it does not state its {name}; {low} {unit} were asked for")
        elif offered.low < low:
            found.append((f"it offers {offered.low:g} {unit}, and at least {low} were asked for", f"compute.{name}"))
        elif high is not None and offered.high > high:
            warnings.append(f"it offers {offered.high:g} {unit}, more than the {high} asked for")
    _short_of_storage(offer, needs, found, warnings)
    _short_of_extras(offer, needs, found)
    _short_of_time(offer, needs, found)
    return found


def _short_of_storage(offer: Offer, needs: Needs, found: list[tuple[str, str]], warnings: list[str]) -> None:
    if needs.storage and offer.storage is None:
        warnings.append(f"it does not state its storage; {needs.storage} GiB were asked for")
    elif offer.storage is not None and offer.storage.high < needs.storage:
        text = f"it offers {offer.storage.high:g} GiB of storage, and at least {needs.storage} were asked for"
        found.append((text, "storage.size"))


def _short_of_extras(offer: Offer, needs: Needs, found: list[tuple[str, str]]) -> None:
    for type_, count in needs.extras.items():
        offered = offer.extras.get(type_, 0)
        if offered < count:
            found.append((f"it offers {offered} of {kinds.short(type_)}, and {count} were asked for", "compute.extras"))


def _short_of_time(offer: Offer, needs: Needs, found: list[tuple[str, str]]) -> None:
    if offer.run is not None and offer.run.high < needs.duration:
        text = f"its slot is {offer.run.high:g} s long, and {needs.duration:g} s were asked for"
        found.append((text, "compute.schedule.available.duration"))
    if needs.window is None or offer.start is None:
        return
    if offer.start.low > needs.window[1]:
        found.append(("it starts after the asked window", "compute.schedule.available.start"))
    elif offer.start.high < needs.window[0]:
        found.append(("it starts before the asked window", "compute.schedule.available.start"))


def cut(body: bytes) -> tuple[Raws, Raws]:
    """Of a session as its site shows it: the properties that the broker does not write, and those of its `meta`, as
    slices of its bytes. Two empty ones for what is no JSON object."""
    try:
        raws = _ENVELOPE.decode(body)
        meta = raws.pop("meta", None)
        metas = _META.decode(meta) if meta is not None else None
    except msgspec.MsgspecError:
        return {}, {}
    rest = {name: raw for name, raw in raws.items() if name not in _WRITTEN}
    return rest, {name: raw for name, raw in metas.items() if name not in _WRITTEN_META} if metas else {}
