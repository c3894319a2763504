"""The planner for services that speak the IVOA Execution Broker API 1.0: other sites, and brokers of ours.

Imports the adapter's client, adapters.common, the ports. Entry point `ivoa` of the group broker.planners.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from adapters.common.http import CAP_BYTES, Answer, ConnectionLost, Origin, failure
from adapters.common.parallel import each
from adapters.ivoa import translate
from adapters.ivoa.client import NO_SUCH_CALL, Client
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.session import TERMINAL, taken
from broker.domain.site import Profile
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Plugin, Resources
from broker.ports import Ask, Clock, Held, Logs, Order, Planner, Quotes, Result, Sighting

_NOT_ASKED = (SiteUnreachable, SiteTimeout, ConnectionLost, SiteBusy, SiteForbids)
_BATCH = 500  # sessions in one call to a broker of ours


class IvoaOptions(BaseModel):
    """Options of a site of kind `ivoa`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parallel: int = Field(
        8, ge=1, le=64, description="sessions looked at or released at once, where the site has no call for many"
    )
    answer_cap_bytes: int = Field(
        CAP_BYTES, ge=4096, le=1 << 30, description="the largest answer that is read; what is larger fails the call"
    )
    most_offers: int = Field(
        200, ge=1, le=10_000, description="how many offers are taken from one answer, from the first"
    )


class IvoaPlanner:
    """Holds nothing but whom it last heard at the site's address. Speaks strict 1.0 until it has heard a broker of
    ours there."""

    def __init__(self, client: Client, clock: Clock, parallel: int) -> None:
        self._client = client
        self._clock = clock
        self._parallel = parallel

    async def describe(self, deadline: Deadline) -> Profile:
        return await self._client.describe(deadline)

    async def quote(self, ask: Ask) -> Quotes:
        return await self._client.ask(ask)

    async def accept(self, order: Order, deadline: Deadline) -> Sighting:
        """As the port says. A 200 is not trusted: the phase is read from the body, and read back where the body does
        not show an acceptance. Once the acceptance was sent, no error of the reading back is proof of anything."""
        await self._client.learn(deadline)
        answer = await self._client.accept(order, deadline)
        if not 200 <= answer.status < 300:
            raise failure(answer, self._client.place, self._clock.now(), doubtful=True)
        seen = self._shown(answer, order)
        if seen is not None and (taken(seen.phase) or seen.phase in TERMINAL):
            return seen
        try:
            return await self._client.session(order, deadline)
        except SiteForgot:
            raise
        except SiteTimeout as error:
            raise SiteTimeout(f"accepted or not, reading back failed: {error.detail}") from error
        except SiteError as error:
            raise SiteMisbehaved(f"accepted or not, reading back failed: {error.detail}") from error

    def _shown(self, answer: Answer, order: Order) -> Sighting | None:
        try:
            return self._client.seen(answer, order)
        except SiteMisbehaved:
            return None  # the acceptance was answered, if not in words; reading decides

    async def release(self, orders: Sequence[Order], deadline: Deadline) -> None:
        await self._client.learn(deadline)
        for user, batch in _batches(orders) if self._client.peer else ():
            answer = await self._client.release_of([order.handle for order in batch], user, deadline)
            if answer.status in NO_SUCH_CALL:
                break
            if not 200 <= answer.status < 300:
                raise failure(answer, self._client.place, self._clock.now())
        else:
            if self._client.peer:
                return
        await self._release_each(orders, deadline)

    async def _release_each(self, orders: Sequence[Order], deadline: Deadline) -> None:
        async def one(order: Order) -> None:
            try:
                seen = await self._client.change(order, "REJECTED", deadline)
            except SiteForgot:
                return
            if seen.phase not in TERMINAL:
                raise SiteRefused(
                    f"{self._client.place} keeps {order.handle} at {seen.phase} though it was given back.", status=409
                )

        for outcome in await each(orders, one, self._parallel):
            if isinstance(outcome, SiteError):
                raise outcome

    async def status(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        if not orders:
            return {}
        await self._client.learn(deadline)
        found: dict[UUID, Sighting | SiteError] = {}
        for user, batch in _batches(orders) if self._client.peer else ():
            many = await self._many(user, batch, deadline)
            if many is None:
                break
            found.update(many)
        rest = [order for order in orders if order.session not in found]
        found.update(await self._status_each(rest, deadline))
        return found

    async def _many(
        self, user: Owner, orders: Sequence[Order], deadline: Deadline
    ) -> Mapping[UUID, Sighting | SiteError] | None:
        """None: the broker there has no such call."""
        answer = await self._client.status_of([order.handle for order in orders], user, deadline)
        if answer.status in NO_SUCH_CALL:
            return None
        if answer.status != 200:
            raise failure(answer, self._client.place, self._clock.now())
        many = translate.many(answer.body, [order.handle for order in orders], self._client.place)
        return {order.session: many[order.handle] for order in orders}

    async def _status_each(self, orders: Sequence[Order], deadline: Deadline) -> Mapping[UUID, Sighting | SiteError]:
        seen = await each(orders, lambda order: self._client.session(order, deadline), self._parallel)
        if seen and all(isinstance(entry, _NOT_ASKED) for entry in seen):
            raise next(entry for entry in seen if isinstance(entry, SiteError))
        return {order.session: entry for order, entry in zip(orders, seen, strict=True)}

    async def update(self, order: Order, phase: str, deadline: Deadline) -> Sighting:
        await self._client.learn(deadline)
        return await self._client.change(order, phase, deadline)

    async def held(self, deadline: Deadline) -> tuple[Held, ...]:
        """Brokers of ours list what they have for our account; version 1.0 has no such call."""
        await self._client.learn(deadline)
        if not self._client.peer:
            raise SiteRefused(f"{self._client.place} speaks version 1.0, which has no list of sessions.")
        return await self._client.held(deadline)

    async def logs(self, order: Order, deadline: Deadline) -> Logs:
        """Version 1.0 has none; brokers of ours do."""
        await self._client.learn(deadline)
        return await self._client.logs(order, deadline) if self._client.peer else Logs()

    async def results(self, order: Order, deadline: Deadline) -> tuple[Result, ...]:
        """Version 1.0 has none; brokers of ours do."""
        await self._client.learn(deadline)
        return await self._client.results(order, deadline) if self._client.peer else ()

    async def fetch(self, order: Order, name: str, deadline: Deadline) -> AsyncGenerator[bytes, None]:
        await self._client.learn(deadline)
        if not self._client.peer:
            raise SiteForgot(f"{self._client.place} hands back no results.")
        async with aclosing(self._client.result(order, name, deadline)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """The session is the broker's; there is nothing of ours to give back."""


def _batches(orders: Sequence[Order]) -> Iterator[tuple[Owner, Sequence[Order]]]:
    """By user, because a call names one, and of a bounded size."""
    by_user: dict[Owner, list[Order]] = {}
    for order in orders:
        by_user.setdefault(order.user, []).append(order)
    for user, theirs in by_user.items():
        for start in range(0, len(theirs), _BATCH):
            yield user, theirs[start : start + _BATCH]


def make(options: IvoaOptions, resources: Resources) -> Planner:
    """Raises SettingsError naming `url` where the registration has none that can be asked."""
    origin = Origin(
        resources.http,
        resources.registration.url,
        resources.clock,
        credentials=resources.credentials,
        cap_bytes=options.answer_cap_bytes,
    )
    client = Client(origin, resources.clock, resources.broker_id, options.most_offers)
    return IvoaPlanner(client, resources.clock, options.parallel)


plugin = Plugin(options=IvoaOptions, make=make)
