"""Which run of a server is whose: sessions are looked up by their tags, which not every list tells. Imports the ports
and this package's client.

A run whose tags the list does not tell (WES 1.0, toil) is looked at once, and what it said is remembered: the tags of
a run do not change. So a process that has just begun pays one call for each run that the server still has, and after
that one for each new one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import structlog

from adapters.common.parallel import each
from adapters.wes.client import Run, Tags, Wes, tags
from broker.domain.deadline import Deadline
from broker.errors import SiteBusy, SiteError, SiteForgot
from broker.ports import Clock, Sighting

_log = structlog.get_logger(__name__)

TOGETHER = 8  # calls under way at once
_AT_ONCE = 64  # runs that are looked at before the clock is
_REMEMBERED = 100_000  # runs whose tags are, and a tenth as many sightings
_TELLS_WITHIN = 120.0  # seconds from when a run is listed until it says whose it is; then it is nobody's
_SPARE = 0.25  # of the time that was left, for what comes after looking


class Account:
    """The runs of our broker, `broker`, under one account. What all methods raise: what the client does."""

    def __init__(self, wes: Wes, broker: str, clock: Clock) -> None:
        self.wes, self._broker, self._clock = wes, broker, clock
        self._tags: OrderedDict[str, Tags] = OrderedDict()
        self._runs: dict[UUID, str] = {}
        self._silent: dict[str, float] = {}  # runs that do not say whose they are, since when (monotonic)
        self._seen: OrderedDict[str, Sighting] = OrderedDict()  # by run, looked at last at the end

    def known(self, session: UUID) -> str | None:
        """Its run, where that was seen before."""
        return self._runs.get(session)

    def remember(self, run: str, told: Tags) -> None:
        self._tags[run] = told
        self._silent.pop(run, None)
        if told.session is not None and told.broker == self._broker:
            self._runs[told.session] = run
        while len(self._tags) > _REMEMBERED:
            _, old = self._tags.popitem(last=False)
            if old.session is not None:
                self._runs.pop(old.session, None)

    def last(self, run: str) -> Sighting | None:
        """What was seen of it when it was last looked at. A terminal phase changes no more."""
        return self._seen.get(run)

    def saw(self, run: str, sighting: Sighting) -> None:
        self._seen[run] = sighting
        self._seen.move_to_end(run)
        if len(self._seen) > _REMEMBERED // 10:
            self._seen.popitem(last=False)

    def oldest_first(self, runs: Collection[str]) -> list[str]:
        """Those never looked at, then those looked at longest ago."""
        wanted = set(runs)
        return [*(run for run in runs if run not in self._seen), *(run for run in self._seen if run in wanted)]

    def forget(self, session: UUID) -> None:
        """Its run is gone."""
        run = self._runs.pop(session, None)
        if run is not None:
            self._tags.pop(run, None)
            self._seen.pop(run, None)

    async def survey(
        self, deadline: Deadline, wanted: Collection[UUID] | None = None, **query: str
    ) -> tuple[dict[UUID, Run], SiteError | None]:
        """The runs of our sessions, all or at least those wanted, and what stood in the way of seeing all: then a
        session that is missing may be there all the same."""
        found: dict[UUID, Run] = {}
        unknown: list[Run] = []
        async for page in self.wes.runs(deadline, **query):
            for run in page:
                told = run.tags if run.tags is not None else self._tags.get(run.id)
                if told is None:
                    unknown.append(run)
                    continue
                self.remember(run.id, told)
                self._sort(run, told, found)
            if wanted is not None and found.keys() >= set(wanted):
                return found, None
        return found, await self._look_at(unknown, found, wanted, deadline)

    async def _look_at(
        self, unknown: list[Run], found: dict[UUID, Run], wanted: Collection[UUID] | None, deadline: Deadline
    ) -> SiteError | None:
        left = deadline.left(self._clock.monotonic())
        trouble: SiteError | None = None

        async def look(run: Run) -> None:
            told = _told(await self.wes.run(run.id, deadline))
            if told is None and self._may_still_tell(run):
                raise SiteBusy("a run that has just begun does not yet say whose it is.", retry_after=1.0)
            self.remember(run.id, told or Tags())
            self._sort(run, told or Tags(), found)

        while unknown:
            if wanted is not None and found.keys() >= set(wanted):
                return None
            if deadline.left(self._clock.monotonic()) < left * _SPARE:
                text = f"{len(unknown)} runs of the server are still to be looked at."
                return SiteBusy(text, retry_after=1.0)
            part, unknown = unknown[:_AT_ONCE], unknown[_AT_ONCE:]
            for answer in await each(part, look, TOGETHER):
                if isinstance(answer, SiteError) and not isinstance(answer, SiteForgot):
                    trouble = answer
        return trouble

    def _may_still_tell(self, run: Run) -> bool:
        """toil lists a run before it notes what was asked for. Not for ever: a crash may have come between."""
        if run.state not in ("UNKNOWN", "QUEUED", "INITIALIZING"):
            return False
        now = self._clock.monotonic()
        return now - self._silent.setdefault(run.id, now) < _TELLS_WITHIN

    def _sort(self, run: Run, told: Tags, found: dict[UUID, Run]) -> None:
        if told.session is None or told.broker != self._broker:
            return
        if told.session in found:
            _log.warning("two runs of one session", session=str(told.session), runs=[found[told.session].id, run.id])
        found[told.session] = run


def _told(document: Mapping[str, Any]) -> Tags | None:
    """The tags of a RunLog; None: it does not say at all what was asked for."""
    request = document.get("request")
    return tags(request.get("tags")) if isinstance(request, dict) and request else None
