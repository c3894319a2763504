"""How a job is ended, and kept from beginning. Imports the ports, and this package."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

import structlog

from adapters.containers import marks, states
from adapters.containers.client import Engine
from adapters.containers.options import ContainersOptions
from broker.domain.deadline import Deadline
from broker.errors import SiteError
from broker.ports import Clock

_log = structlog.get_logger(__name__)

_BEYOND = 60.0  # seconds that an engine may take to end a container, beyond its time of grace


class Ending:
    """Of one process; whatever is broken off is done by whoever looks next."""

    def __init__(self, engine: Engine, options: ContainersOptions, clock: Clock, site: str) -> None:
        self._engine, self._options, self._clock, self._site = engine, options, clock, site
        self._stopping: dict[UUID, asyncio.Task[None]] = {}

    async def end(
        self,
        session: UUID,
        reason: str,
        text: str,
        deadline: Deadline,
        settled: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Written down first, so that nobody starts it from then on. Of two that want its end, the first says why. What
        runs is sent its signal, and is killed after its time of grace; that is not waited for. `settled`: awaited where
        there is no container, which somebody may be making."""
        labels = marks.end(self._site, session, reason, text)
        await self._engine.make_volume(marks.end_name(self._options.prefix, session), labels, deadline)
        name = marks.name(self._options.prefix, session)
        if settled is not None and await self._engine.container(name, deadline) is None:
            await settled()
        if await self.clear(session, deadline):
            self.stop(session)

    async def clear(self, session: UUID, deadline: Deadline) -> bool:
        """Remove what has not begun. True: it has, and is not over."""
        name = marks.name(self._options.prefix, session)
        found = await self._engine.container(name, deadline)
        if found is not None and states.container(found).unstarted:
            try:
                await self._engine.remove(name, deadline)
            except SiteError:
                found = await self._engine.container(name, deadline)  # it may have been started meanwhile
                if found is not None and states.container(found).unstarted:
                    raise
            else:
                found = None
        await self._engine.remove_volume(name, deadline)
        return found is not None and not states.container(found).over

    def stop(self, session: UUID) -> None:
        """Beside the call that asks for it; nothing, where it is under way."""
        if session not in self._stopping:
            task = asyncio.create_task(self._stop(session))
            self._stopping[session] = task
            task.add_done_callback(lambda _: self._stopping.pop(session, None))

    async def _stop(self, session: UUID) -> None:
        grace = self._options.grace
        deadline = Deadline.after(grace + _BEYOND, self._clock.monotonic())
        try:
            await self._engine.stop(marks.name(self._options.prefix, session), grace, deadline)
        except SiteError as error:
            _log.info("a container has not ended yet", site=self._site, session=str(session), why=error.detail)

    async def close(self) -> None:
        tasks = list(self._stopping.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
