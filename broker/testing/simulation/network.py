"""The way between replicas and sites: delay, loss, repetition, partitions. Imports ports' words and errors.

What a caller hears is what an adapter would tell it: SiteUnreachable only where the request surely did not leave,
SiteTimeout and SiteMisbehaved where the site may have acted. A request that is under way arrives even when whoever
sent it has died or gone away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from broker.domain.deadline import Deadline
from broker.errors import SiteMisbehaved, SiteTimeout, SiteUnreachable
from broker.testing.simulation.weather import Weather

T = TypeVar("T")

FATES = ("refused", "lost", "unheard", "reset before", "reset after", "late", "twice", "error before", "error after")


@dataclass(frozen=True)
class Letter:
    """One request: from which replica to which site, what for, and whether the network may bring it twice. `safe`: it
    never goes astray (to a site that is to stay healthy)."""

    replica: str
    site: str
    operation: str
    repeats: bool
    safe: bool


class Network:
    def __init__(self, loop: asyncio.AbstractEventLoop, weather: Weather) -> None:
        self._loop, self._weather = loop, weather
        self._cut: dict[tuple[str, str], float] = {}  # (replica, site) → until when nothing gets through
        self._hung: dict[str, float] = {}

    def cut(self, replica: str, site: str, seconds: float) -> None:
        self._cut[replica, site] = self._loop.time() + seconds

    def hang(self, site: str, seconds: float) -> None:
        """The site takes requests, and answers none."""
        self._hung[site] = self._loop.time() + seconds

    def mend(self) -> None:
        self._cut.clear()
        self._hung.clear()

    async def call(self, letter: Letter, act: Callable[[], T], deadline: Deadline, sent: Callable[[], None]) -> T:
        """`act` is what the site does when the request arrives, at once; it may raise SiteErrors. `sent` is called
        when the request may have left."""
        fate = self._fate(letter)
        if fate == "refused":
            await asyncio.sleep(self._weather.way())
            raise SiteUnreachable(f"{letter.site} refused the connection.")
        sent()
        answer: asyncio.Future[T] = self._loop.create_future()
        if fate != "lost":
            self._deliver(letter, fate, act, answer)
        try:
            async with asyncio.timeout_at(deadline.at):
                return await answer
        except TimeoutError:
            raise SiteTimeout(f"{letter.site} did not answer in time.") from None

    def _fate(self, letter: Letter) -> str:
        random = self._weather.random
        if self._cut.get((letter.replica, letter.site), 0.0) > self._loop.time():
            return random.choice(("refused", "lost"))
        if self._hung.get(letter.site, 0.0) > self._loop.time():
            return random.choice(("lost", "unheard"))
        if letter.safe or not self._weather.strikes(self._weather.network):
            return ""
        fate = random.choice(FATES)
        return "unheard" if fate == "twice" and not letter.repeats else fate

    def _deliver(self, letter: Letter, fate: str, act: Callable[[], T], answer: asyncio.Future[T]) -> None:
        way, back = self._weather.way(safe=letter.safe), self._weather.way(safe=letter.safe)
        if fate == "late":
            way += self._weather.random.uniform(5.0, 40.0)

        def arrive(*, again: bool = False) -> None:
            if fate in ("reset before", "error before"):
                self._loop.call_later(back, _fail, answer, _broken(letter, fate))
                return
            outcome = _done(act)
            if fate == "unheard":
                return
            if again and outcome[1] is not None:
                return  # whoever repeats a request does not pass a failure on, but says what came of the second
            if fate in ("reset after", "error after"):
                self._loop.call_later(back, _fail, answer, _broken(letter, fate))
            else:
                self._loop.call_later(back, _tell, answer, outcome)

        self._loop.call_later(way, partial(arrive, again=fate == "twice"))
        if fate == "twice":
            self._loop.call_later(way + self._weather.random.uniform(0.0, 5.0), arrive)


def _broken(letter: Letter, fate: str) -> Exception:
    if fate.startswith("reset"):
        return SiteMisbehaved(f"{letter.site} broke the connection off.")
    return SiteMisbehaved(f"{letter.site} answered 500.")


def _done(act: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return act(), None
    except Exception as error:
        return None, error


def _tell(answer: asyncio.Future[Any], outcome: tuple[Any, Exception | None]) -> None:
    value, error = outcome
    if error is not None:
        _fail(answer, error)
    elif not answer.done():
        answer.set_result(value)


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
