"""How a bare platform comes to make offers. Imports ports and the domain.

judge (policies, ceilings, what the platform cannot run) → count the user's open sets → sizes
    → slots in the calendar, held by one compare-and-set → documents
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from uuid import uuid4

import msgspec
import structlog

from adapters.planning import offers, results, sizes
from adapters.planning.filling import Filled, fill, fillable
from adapters.planning.ledger import Ledger, Step
from adapters.planning.offers import Plan, Words
from adapters.planning.platform import Doorkeeper, Job, Keeper, Platform
from adapters.planning.settings import SiteSettings
from adapters.planning.sizes import Size
from adapters.planning.slots import Need, Segment, earliest, segments, within
from adapters.planning.tariff import Use, price, share
from broker.domain import kinds
from broker.domain.components import SimpleMinMaxFloatMetric
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.outcome import Quote, Reason
from broker.domain.quantities import Span, format_duration, format_instant
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from broker.errors import SiteError, SiteUnreachable, Unavailable
from broker.ports import Ask, Book, Booking, Clock, Limits, Quotes

_log = structlog.get_logger(__name__)

PROFILE_AGE = 60.0  # seconds a profile is believed
LOOK = 1.0  # seconds that looking for data that is here may take, at most
LEAST_LIFE = 10.0  # seconds an offer must live to be worth making
HELD, ESTIMATED = 300.0, 1800.0  # seconds an offer lives, where the settings say nothing


class Window(msgspec.Struct, frozen=True):
    """When the platform may be told to start, from the request and from how far the site looks ahead. Epoch seconds."""

    low: float
    high: float


def _counted(ask: Ask) -> str:
    """What the quota of open sets counts."""
    return str(ask.batch or ask.set)


class Quoting:
    def __init__(
        self,
        platform: Platform,
        ledger: Ledger,
        limits: Limits,
        clock: Clock,
        settings: SiteSettings,
        name: str,
        currency: str,
    ) -> None:
        self._platform, self._ledger, self._limits, self._clock = platform, ledger, limits, clock
        self._settings, self._name, self._currency = settings, name, currency
        self._profile: tuple[float, Profile] | None = None

    # ── what the site is ─────────────────────────────────────────────────────────────────────────────────────

    async def profile(self, deadline: Deadline, *, fresh: bool = False) -> Profile:
        """A minute old at most, or `fresh`."""
        now = self._clock.monotonic()
        if not fresh and self._profile is not None and now - self._profile[0] < PROFILE_AGE:
            return self._profile[1]
        bare, bounds = await self._platform.describe(deadline), await self.bounds(deadline)
        tariff = self._settings.tariff
        profile = bare.with_(
            cores=_whole(bounds.most.get("cores")),
            memory=_whole(bounds.most.get("memory")),
            room=_whole(bounds.room.get("cores")),
            extras={what: int(most) for what, most in bounds.most.items() if what not in sizes.PLAIN},
            duration=self._settings.policies.ceilings.duration or bare.duration,
            storages=(*bare.storages, *self._settings.storages),
            countries=(self._settings.country,) if self._settings.country else bare.countries,
            origins=(self._name,),
            currency=(tariff.currency if tariff else None) or self._currency,
            repeatable=True,
            batches=True,
        )
        self._profile = (now, profile)
        return profile

    async def bounds(self, deadline: Deadline) -> sizes.Limits:
        capacity = await self._platform.capacity(deadline)
        return sizes.limits(capacity, self._settings.capacity, self._settings.policies.ceilings)

    def offers_key(self, owner: Owner) -> str:
        return f"offers|{self._name}|{owner.key}"

    def running_key(self, owner: Owner) -> str:
        return f"running|{self._name}|{owner.key}"

    # ── quoting ──────────────────────────────────────────────────────────────────────────────────────────────

    async def quote(self, ask: Ask) -> Quotes:
        bounds = await self.bounds(ask.until)
        profile = await self.profile(ask.until)
        filled = Filled(ask.request)
        if fillable(ask.request):
            filled = await asyncio.to_thread(fill, ask.request)
            ask = msgspec.structs.replace(ask, request=filled.request)
        window = self._window(ask.request)
        refusals = (*self._turned_away(ask.user), *filled.reasons)
        reasons = refusals or self._refusals(ask.request, bounds, window, profile)
        if reasons:
            return Quotes(reasons=reasons)
        until = self._clock.now() + self._lifetime(profile)
        full = await self._count(ask, until)
        if full is not None:
            return full
        try:
            planned = await self._plan(ask, bounds, profile, window, until)
        except SiteError:
            await self._uncount(ask)
            raise
        if isinstance(planned, Quotes):
            await self._uncount(ask)
            return planned
        at_hand = await self._at_hand(ask)
        return Quotes(tuple(self._write(filled, plan, bounds, profile, at_hand) for plan in planned))

    def _refusals(
        self, request: ExecutionRequest, bounds: sizes.Limits, window: Window, profile: Profile
    ) -> tuple[Reason, ...]:
        return (
            *self._settings.policies.refuse(request),
            *self._platform.refuse(request),
            *sizes.refuse(request, bounds),
            *results.refuse(request, profile, self._settings.tariff),
            *self._too_late(window),
        )

    def _turned_away(self, owner: Owner) -> tuple[Reason, ...]:
        return self._platform.turned_away(owner) if isinstance(self._platform, Doorkeeper) else ()

    def _window(self, request: ExecutionRequest) -> Window:
        now = self._clock.now()
        ahead = now + self._settings.offers.look_ahead.total_seconds()
        if request.start is None:
            return Window(now, ahead)
        # What was asked for is when it runs; the platform is told to start earlier, by its preparing.
        staging = self._platform.preparing(request) or 0.0
        low, high = request.start.start.timestamp() - staging, request.start.end.timestamp() - staging
        return Window(max(now, low), min(ahead, high))

    def _too_late(self, window: Window) -> Iterator[Reason]:
        now, ahead = self._clock.now(), self._settings.offers.look_ahead.total_seconds()
        element = "schedule.requested.start"
        if window.low <= window.high and window.high >= now + LEAST_LIFE:
            return
        if window.high < now + LEAST_LIFE:
            soon = f"a start until {format_instant(math.ceil(now + LEAST_LIFE))} or later"
            text = "the start window is over, or closes too soon to accept an offer."
            yield Reason(text, element, "window", soon)
        else:
            last = format_instant(round(now + ahead))
            text = f"the site looks {format_duration(ahead)} ahead."
            yield Reason(text, element, "look_ahead", f"a start until {last}")

    def _lifetime(self, profile: Profile) -> float:
        stated = self._settings.offers.lifetime
        return stated.total_seconds() if stated else HELD if profile.reserves else ESTIMATED

    # ── the user's open sets ─────────────────────────────────────────────────────────────────────────────────

    async def _count(self, ask: Ask, until: float) -> Quotes | None:
        """Count this set as open; a NO where the user's quotas are full."""
        quotas = self._settings.policies.quotas
        try:
            if quotas.running and len(await self._limits.members(self.running_key(ask.user))) >= quotas.running:
                text = f"{quotas.running} of your sessions are under way here, which is the quota."
                return Quotes(reasons=(Reason(text, rule="quota", nearest="when one of them ends"),))
            most = quotas.offers
            entered = await self._limits.enter(self.offers_key(ask.user), _counted(ask), most, until)
            if entered and ask.batch:
                most = quotas.batch
                entered = await self._limits.enter(self._batch_key(ask), str(ask.set), most, until)
        except Unavailable as error:
            raise SiteUnreachable(f"the limits cannot be read: {error.detail}") from error
        if entered:
            return None
        text = f"{most} offer sets are open for you here, which is the quota."
        reason = Reason(text, rule="quota", nearest="after accepting or rejecting one of them")
        return Quotes(reasons=(reason,), retry_after=until - self._clock.now())

    async def _uncount(self, ask: Ask) -> None:
        """A batch counts while one of its sets does. Sets that are decided leave it only when they would have expired:
        an acceptance does not say of what batch its set was."""
        if ask.batch:
            await tell(self._limits.leave(self._batch_key(ask), str(ask.set)))
            if await self._limits.members(self._batch_key(ask)):
                return
        await tell(self._limits.leave(self.offers_key(ask.user), _counted(ask)))

    def _batch_key(self, ask: Ask) -> str:
        return f"batch|{self._name}|{ask.user.key}|{ask.batch}"

    # ── planning ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _plan(
        self, ask: Ask, bounds: sizes.Limits, profile: Profile, window: Window, until: float
    ) -> list[Plan] | Quotes:
        chosen = sizes.choose(ask.request, bounds, self._settings.offers.most)
        drafts = [self._draft(ask.request, size, window, until) for size in chosen]
        if not profile.reserves:
            return await self._estimated(ask, drafts, window)
        return await self._ledger.change(lambda book: self._held(book, ask, drafts, bounds, window))

    def _draft(self, request: ExecutionRequest, size: Size, window: Window, until: float) -> Plan:
        return Plan(
            handle=uuid4(),
            size=size,
            start=Span.of(window.low),
            preparing=self._platform.preparing(request),
            duration=request.duration.total_seconds(),
            turnaround=self._settings.offers.turnaround.total_seconds(),
            until=until,
            reserved=True,
        )

    def _held(
        self, book: Book, ask: Ask, drafts: Sequence[Plan], bounds: sizes.Limits, window: Window
    ) -> tuple[Step, list[Plan] | Quotes]:
        """Each size at the first time at which it fits; all held together."""
        timeline = segments(book.bookings, besides=str(ask.set))
        plans = [plan for draft in drafts if (plan := self._slot(timeline, draft, ask, bounds, window))]
        if not plans:
            return Step(), self._no_room(book, timeline, drafts[0], ask, bounds, window)
        return Step(put=[self._hold(plan, ask) for plan in plans]), plans

    def _slot(
        self, timeline: list[Segment], draft: Plan, ask: Ask, bounds: sizes.Limits, window: Window
    ) -> Plan | None:
        amounts = sizes.amounts(draft.size, ask.request)
        # More than open offers may ever hold together: offered, but without holding it.
        open_share = self._settings.offers.open_share
        reserved = within(amounts, bounds.room, open_share)
        need = Need(amounts, _length(draft), draft.until if reserved else 0.0)
        start = earliest(timeline, need, bounds.room, window.low, window.high, open_share if reserved else None)
        if start is None:
            return None
        # Taken up at its last moment it must still start within the window that was asked for.
        until = min(draft.until, max(start, window.high))
        return msgspec.structs.replace(draft, start=Span.of(start), until=until, reserved=reserved)

    def _hold(self, plan: Plan, ask: Ask) -> Booking:
        amounts = sizes.amounts(plan.size, ask.request) if plan.reserved else {}
        end = max(plan.start.low, plan.until) + _length(plan)
        return Booking(str(plan.handle), str(ask.set), plan.start.low, end, amounts, plan.until)

    def _no_room(
        self, book: Book, timeline: list[Segment], least: Plan, ask: Ask, bounds: sizes.Limits, window: Window
    ) -> Quotes:
        """Which of the two rules stood in the way of the smallest size, and when asking again may help."""
        now, amounts = self._clock.now(), sizes.amounts(least.size, ask.request)
        need = Need(amounts, _length(least), least.until)
        taken = segments([b for b in book.bookings if b.until is None], besides=str(ask.set))
        if earliest(taken, need, bounds.room, window.low, window.high, None) is not None:
            lapses = [b.until for b in book.bookings if b.until is not None and b.amounts]
            retry = float(math.ceil(max(1.0, min(lapses, default=now) - now)))
            text = "the room is held by open offers, which hold a share of it at most."
            reason = Reason(text, "compute", "open_share", f"asking again in {retry:g} s")
            return Quotes(reasons=(reason,), retry_after=retry)
        free = earliest(timeline, need, bounds.room, window.low, math.inf, None)
        nearest = f"a start at {format_instant(round(free))}" if free is not None else ""
        text = f"there is no room for {least.size.cores} cores and {least.size.memory} GiB in the start window."
        return Quotes(reasons=(Reason(text, "schedule.requested.start", "room", nearest),))

    async def _estimated(self, ask: Ask, drafts: Sequence[Plan], window: Window) -> list[Plan] | Quotes:
        """At a platform with its own queue: no room is held, and the platform says when each might run."""
        plans, holds = [], []
        for draft in drafts:
            start = await self._platform.estimate(self._job(ask, draft), ask.until)
            said = start is not None
            wait = self._settings.offers.wait.total_seconds()
            start = start or Span(window.low, min(window.high, window.low + wait))
            if start.low <= window.high:
                start = Span(max(start.low, window.low), max(start.high, window.low))
                plans.append(msgspec.structs.replace(draft, start=start, reserved=False, guessed=not said))
                # Handed to the platform as soon as the window opens, whatever the estimate.
                holds.append(self._hold(msgspec.structs.replace(draft, reserved=False), ask))
        if not plans:
            text = "the queue is longer than the start window."
            return Quotes(reasons=(Reason(text, "schedule.requested.start", "queue", "a later window"),))
        await self._ledger.apply(lambda book: Step(put=list(holds)))
        return plans

    def _job(self, ask: Ask, plan: Plan) -> Job:
        request = offers.granted(ask.request, plan)
        return Job(
            session=plan.handle,
            name=request.name,
            owner=ask.user,
            request=request,
            cores=plan.size.cores,
            memory=plan.size.memory,
            storage=sizes.storage(request),
            extras=request.extras,
            duration=plan.duration,
            start=plan.start.low,
        )

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _at_hand(self, ask: Ask) -> Mapping[str, float]:
        """What of the data is here. No offer is lost over it, nor late."""
        if not ask.request.data or not isinstance(self._platform, Keeper):
            return {}
        now = self._clock.monotonic()
        try:
            return await self._platform.at_hand(ask.request, ask.until.at_most(min(LOOK, ask.until.left(now) / 2), now))
        except SiteError as error:
            _log.info("cache not looked at", site=self._name, why=error.detail)
            return {}

    def _write(
        self,
        filled: Filled,
        plan: Plan,
        bounds: sizes.Limits,
        profile: Profile,
        at_hand: Mapping[str, float],
    ) -> Quote:
        request = filled.request
        storage, keeping = sizes.storage(request), results.keeping(request)
        use = Use(plan.size.cores, plan.size.memory, storage, dict(request.extras), keeping)
        tariff = self._settings.tariff
        words = Words(
            site=self._name,
            created=self._clock.now(),
            costs=price(tariff, use, plan.duration, self._currency),
            share=share(tariff, use, plan.duration, self._currency),
            metrics=tuple(self._metrics()),
            messages=offers.messages(self._name, (*filled.notes, *self._notes(request, plan, bounds, profile))),
            platform=profile.platform,
            simulated=profile.simulated,
            results=profile.results,
            at_hand=at_hand,
        )
        return Quote(str(plan.handle), offers.write(offers.granted(request, plan), plan, words))

    def _metrics(self) -> Iterator[SimpleMinMaxFloatMetric]:
        capacity = self._settings.capacity
        for type_, rate, unit in (
            (kinds.COMPUTE_PERFORMANCE, capacity.performance, None),
            (kinds.IO_THROUGHPUT, capacity.io_throughput, "MB/s"),
        ):
            if rate:
                yield SimpleMinMaxFloatMetric(
                    kind=kinds.MINMAX_METRIC, type=type_, min=rate.min, max=rate.max, unit=unit
                )

    def _notes(
        self, request: ExecutionRequest, plan: Plan, bounds: sizes.Limits, profile: Profile
    ) -> Iterator[tuple[str, str]]:
        if profile.simulated:
            yield "WARN", "simulated: nothing really runs here"
        if not profile.reserves:
            yield "INFO", "an estimate: the platform keeps its own queue, no room is held"
            if plan.guessed:
                wait = format_duration(self._settings.offers.wait)
                yield "INFO", f"the platform does not say when a job would start; it is taken to wait {wait} at most"
        elif not plan.reserved:
            yield "INFO", "no room is held, as this is more than open offers may hold; it is looked for on acceptance"
        if request.outputs is not None and request.outputs.to is not None:
            yield "INFO", f"results are written to {request.outputs.to}"
        if seconds := results.kept(request):
            yield "INFO", f"kept for {format_duration(seconds)} after the run"
        for what, asked, most in sizes.capped(request, bounds):
            yield "WARN", f"compute.{what}.max: {asked} asked, the most here is {most}"
        if profile.isolation:
            yield "INFO", f"isolation: {profile.isolation}"


async def tell(call: Awaitable[None]) -> None:
    """Leaving a limit. Where it cannot be told, the member leaves by itself at its time."""
    try:
        await call
    except Unavailable as error:
        _log.warning("limits not told", why=error.detail)


def _length(plan: Plan) -> float:
    return (plan.preparing or 0.0) + plan.duration + plan.turnaround


def _whole(amount: float | None) -> int | None:
    return None if amount is None else int(amount)
