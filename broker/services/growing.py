"""A set that was answered before anybody was asked: sites join it as they answer. Imports ports and the domain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from broker.domain.outcome import Outcome
from broker.ports import Ask, Clock
from broker.services.fanout import Course, Fanout, OnLate, Target
from broker.services.gathering import Gathering, joining
from broker.services.records import Records


class Grower:
    """Writes what is in, as long as more comes: while one write is under way the next answers gather, so a thousand
    sites that answer at once cost few writes. The set of `gathering` is saved already."""

    def __init__(self, gathering: Gathering, records: Records, clock: Clock) -> None:
        self.gathering = gathering
        self._records, self._clock = records, clock
        self._outcomes: Mapping[str, Outcome] = {}
        self._more = asyncio.Event()
        self._joined: set[str] = set()

    async def run(
        self, fanout: Fanout, targets: Sequence[Target], ask: Ask, on_late: OnLate, course: Course | None = None
    ) -> Mapping[str, Outcome]:
        """Returns when the answer would have gone out; what comes after that goes to `on_late`."""
        joining = asyncio.create_task(self._join_on())
        try:
            self._outcomes = await fanout.ask(targets, ask, on_late=on_late, enough=self._progress, course=course)
        finally:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
        await self._join()
        return self._outcomes

    def _progress(self, outcomes: Mapping[str, Outcome]) -> bool:
        self._outcomes = dict(outcomes)
        self._more.set()
        return self.gathering.wishes.enough is not None and self.gathering.enough(outcomes)

    async def _join_on(self) -> None:
        while True:
            await self._more.wait()
            self._more.clear()
            await self._join()

    async def _join(self) -> None:
        gathering = self.gathering
        new = {site: outcome for site, outcome in self._outcomes.items() if site not in self._joined}
        if not new:
            return
        async with gathering.lock:
            answers = {site: gathering.take(site, outcome) for site, outcome in new.items()}
            body = gathering.body()
            sessions = gathering.sessions(answers, body.ranking())
            step = joining(sessions, body, self._clock.now(), self._records)
            await self._records.rewrite(gathering.set, step)
        self._joined.update(new)
