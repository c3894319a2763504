"""What a site would offer, without a job: `broker check-config --try`. Imports wiring.

The planners stand on a throw-away store, so that nothing of it is booked, held or kept. The price of that: what the
real calendar holds is not known here, so the times are those of an empty one; it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import msgspec

from broker.domain import kinds
from broker.domain.components import SimpleMinMaxFloatCost
from broker.domain.data import (
    AbstractDataResource,
    IvoaDataResource,
    IvoaDataResourceBlock,
    IvoaObsCoreItem,
    RucioDataResource,
    RucioDataResourceBlock,
    S3DataResource,
    SimpleDataResource,
)
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Quote
from broker.domain.plain import strict
from broker.domain.request import ExecutionRequest
from broker.domain.session import SimpleExecutionSession
from broker.domain.site import Profile, Registration
from broker.domain.words import money
from broker.errors import SiteError, SiteForgot, SiteRefused, SiteUnreachable
from broker.ports import Ask, Clock, Planner
from broker.services.clock import SystemClock
from broker.services.locating import Known
from broker.settings import CatalogueSettings, Settings
from broker.wiring import built, built_catalogues, check

_PATIENCE = 10.0  # seconds for one site
_NAME = "check-config"  # of what no catalogue has
_UNBOUNDED = (
    "warn  capacity: the platform does not tell its size, so a request of any size is offered: "
    "write capacity: {cores: 64, memory: 256}"
)
_SILENT = "ivoa"  # a service of version 1.0 need not say more; nor does a web server that is none
_WORDS = "python-program, 1 core, 1 GiB, 10 min"
_PROBE = {
    "executable": {"kind": kinds.PYTHON_PROGRAM, "meta": {"name": "try"}, "source": "print('here')\n"},
    "schedule": {"requested": {"duration": "PT10M"}},
}


async def attempt(settings: Settings) -> list[str]:
    """The lines of `check`, then what each site says of itself, and what the platform would offer for a small program.

    Lines begin with ok, warn, NO or try. Raises SettingsError as `check` does; a site that fails is a line."""
    lines, clock = await check(settings), SystemClock()
    async with built(settings) as planners:
        for site, planner in planners:
            own = settings.platform is not None and site.name == settings.name
            lines += await (_platform if own else _remote)(site, planner, clock)
    async with built_catalogues(settings) as catalogues:
        for known in catalogues:
            lines += await _asked(known, settings.catalogues.get(known.name), clock)
    return lines


async def _asked(known: Known, given: CatalogueSettings | None, clock: Clock) -> list[str]:
    """A catalogue is asked for what there is not: that it says so shows that it answers, and lets us ask."""
    name = next((name for item, urls in _nothing(given) if (name := known.catalogue.name(item, urls))), None)
    if name is None:
        return []
    try:
        await known.catalogue.locate(name, Deadline.after(min(_PATIENCE, known.timeout), clock.monotonic()))
    except SiteForgot as error:
        return [f"ok    catalogues.{known.name}: answers; of a name that nobody has it says: {error.detail}"]
    except SiteError as error:
        return [f"warn  catalogues.{known.name}: {error.detail}"]
    return [f"ok    catalogues.{known.name}: answers"]


def _nothing(given: CatalogueSettings | None) -> Iterator[tuple[AbstractDataResource, list[str]]]:
    """Data that nobody has, by every way in which data is named; below the buckets and addresses of the options too."""
    texts = [word for value in (given.options if given else {}).values() if isinstance(value, list) for word in value]
    words = [word for word in texts if isinstance(word, str)]
    did, ivoid = RucioDataResourceBlock(scope="broker", object=_NAME), f"ivo://broker.invalid/{_NAME}"
    yield RucioDataResource(kind=kinds.RUCIO_DATA, rucio=did), []
    row = IvoaDataResourceBlock(ivoid=ivoid, obscore=IvoaObsCoreItem(obs_publisher_did=ivoid))
    yield IvoaDataResource(kind=kinds.IVOA_DATA, ivoa=row), []
    yield SimpleDataResource(kind=kinds.SIMPLE_DATA), [f"{word.rstrip('/')}/{_NAME}" for word in words if "://" in word]
    for bucket in (*words, _NAME):
        yield S3DataResource(kind=kinds.S3_DATA, bucket=bucket, object=_NAME), []


async def _remote(site: Registration, planner: Planner, clock: Clock) -> list[str]:
    """A site of others is asked who it is, and for no offers: those it might hold room for."""
    try:
        profile = await planner.describe(_soon(clock))
    except SiteError as error:
        return [f"warn  sites.{site.name}: {error.detail}"]
    if profile.platform == _SILENT:
        said = f"answers, and does not say what it is. Is url right? Run: broker check {site.url}"
        return [f"warn  sites.{site.name}: {said}"]
    return [f"ok    sites.{site.name}: answers, a {profile.platform} service; not asked for offers"]


async def _platform(site: Registration, planner: Planner, clock: Clock) -> list[str]:
    try:
        profile = await planner.describe(_soon(clock))
        quotes = await planner.quote(_question(site, clock))
    except SiteError as error:
        return [f"NO    platform: {error.detail}{_hint(error)}"]
    lines = [f"ok    platform: {_room(profile)}", *_kinds(profile)]
    if profile.cores is None:
        lines.append(_UNBOUNDED)
    lines += [f"NO    {_WORDS}: {reason}" for reason in quotes.reasons]
    lines += [f"try   {_WORDS}: would offer {_offer(quote, clock)}" for quote in quotes.quotes]
    lines.append("      No job was submitted, nothing is reserved. Times are those of an empty calendar.")
    return lines


def _hint(error: SiteError) -> str:
    """Which setting to look at, where the address may be what is wrong."""
    if isinstance(error, SiteUnreachable):
        return " Is it running, and platform.url right?"
    return " Is platform.url right?" if isinstance(error, SiteRefused) and error.status == 404 else ""


def _soon(clock: Clock) -> Deadline:
    return Deadline.after(_PATIENCE, clock.monotonic())


def _question(site: Registration, clock: Clock) -> Ask:
    request, set_ = ExecutionRequest.model_validate(_PROBE), uuid4()
    return Ask(
        request=request,
        plain=msgspec.json.encode(strict(request)),
        extended=msgspec.json.encode(request.to_wire()),
        set=set_,
        deadline=_soon(clock),
        user=Owner(site.name, "check-config"),
        root=set_,
        path=("check-config",),
    )


def _room(profile: Profile) -> str:
    """`local, up to 16 cores, 64 GiB a run; Python 3.11; results are handed back`"""
    sizes = [f"{most} {unit}" for most, unit in ((profile.cores, "cores"), (profile.memory, "GiB")) if most is not None]
    parts = [
        ", ".join([profile.platform, *([f"up to {', '.join(sizes)} a run"] if sizes else [])]),
        f"Python {', '.join(profile.python)}" if profile.python else "",
        ", ".join(profile.workflows),
        "results are handed back" if profile.results else "no result files",
    ]
    return "; ".join(part for part in parts if part)


def _kinds(profile: Profile) -> Iterator[str]:
    if profile.executables is None or "*" in profile.executables:
        return
    missing = [kinds.short(kind) for kind in kinds.EXECUTABLES if kind not in profile.executables]
    if missing:
        yield f"NO    {', '.join(missing)}: this platform runs none"


def _offer(quote: Quote, clock: Clock) -> str:
    """`14:31Z (reserved), 0.05 EUR`; an estimated start is marked `~`."""
    offer = SimpleExecutionSession.model_validate(msgspec.json.decode(quote.body))
    slot = offer.compute.schedule.available if offer.compute and offer.compute.schedule else None
    start = slot.start.start if slot and slot.start else datetime.fromtimestamp(clock.now(), UTC)
    when = f"{start:%H:%M}Z (reserved)" if offer.reserved else f"~{start:%H:%M}Z (estimate)"
    return f"{when}, {_price(offer.costs or ())}"


def _price(costs: Sequence[object]) -> str:
    for cost in costs:
        if isinstance(cost, SimpleMinMaxFloatCost) and cost.type == kinds.MONETARY and cost.max is not None:
            return money(cost.max, cost.unit or "").rstrip() if cost.max else "free"
    return "price unknown: no tariff"
