"""What a run has left in its folder of results, read from the engine. Imports the ports, and this package.

Podman (4.3) takes a container's file system down for a moment after its end, to put it up again when it is asked for;
what comes in that moment is an empty archive, or the answer that nothing is there. So both are asked for again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import aclosing

from adapters.common.http import ConnectionLost
from adapters.containers import marks, streams
from adapters.containers.client import Engine
from adapters.containers.states import Container
from adapters.containers.streams import File
from broker.domain.deadline import Deadline
from broker.errors import SiteError, SiteRefused
from broker.ports import Clock

_AGAIN = (0.1, 0.3, 1.0, 2.0)  # seconds before each further try
_LISTS = 1000  # runs of which a process remembers what they left
_FILES = 100_000  # and files of them all together


class Results:
    """Of runs that are over."""

    def __init__(self, engine: Engine, clock: Clock, most: int) -> None:
        """`most`: bytes of one run's."""
        self._engine, self._clock, self._most = engine, clock, most
        self._listed: OrderedDict[str, tuple[File, ...]] = OrderedDict()

    async def files(self, run: Container, deadline: Deadline) -> tuple[File, ...]:
        """All of them, read through once by each process: sizes and checksums are those of the bytes themselves.
        Nothing, where the program has removed the folder."""
        if run.id not in self._listed:
            self._listed[run.id] = await self._survey(run, deadline)
            while len(self._listed) > _LISTS or (
                len(self._listed) > 1 and sum(map(len, self._listed.values())) > _FILES
            ):
                self._listed.popitem(last=False)
        return self._listed[run.id]

    async def _survey(self, run: Container, deadline: Deadline) -> tuple[File, ...]:
        for wait in (*_AGAIN, None):
            try:
                async with aclosing(self._engine.archive(run.id, _folder(run), deadline)) as pieces:
                    return await streams.survey(pieces, self._most)
            except SiteError as error:
                if not _passing(error) or (wait is None and isinstance(error, ConnectionLost)):
                    raise
            if wait is not None:
                await self._clock.sleep(wait)
        return ()

    async def read(self, run: Container, name: str, deadline: Deadline) -> AsyncIterator[bytes]:
        """The bytes of one that `files` lists."""
        begun = False
        for wait in (*_AGAIN, None):
            try:
                async with aclosing(self._engine.archive(run.id, f"{_folder(run)}/{name}", deadline)) as pieces:
                    file = await streams.single(pieces)
                    begun = True
                    while piece := await file.read():
                        yield piece
                    return
            except SiteError as error:
                if begun or wait is None or not _passing(error):
                    raise
            await self._clock.sleep(wait)


def _folder(run: Container) -> str:
    return run.labels.get(marks.RESULTS, "")


def _passing(error: SiteError) -> bool:
    return isinstance(error, ConnectionLost) or (isinstance(error, SiteRefused) and error.status == 404)
