"""Asking the replica catalogues where a request's data lies. Imports ports, the domain, and the breaker.

All catalogues that may know are asked side by side; their answers are kept for a while and shared. Whatever a
catalogue does (fail, hang, lie), the request goes on: what is not known says why.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from math import inf

import msgspec
import structlog

from broker.domain.addresses import bare
from broker.domain.data import AbstractDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Item, Located, fill, items, tame, total
from broker.domain.request import ExecutionRequest
from broker.errors import NotAsked, SiteError, SiteForbids, SiteForgot, SiteMisbehaved, SiteRefused, SiteTimeout
from broker.ports import Clock, ReplicaCatalogue
from broker.services.breaker import Breaker, BreakerSettings

_log = structlog.get_logger(__name__)

TRIES = 3  # of one data resource at one catalogue: another address, where the first told nothing
QUEUE = 1000  # questions that may wait at one catalogue
LONGEST_NAME = 8000  # characters of what a catalogue is asked for: it is kept with the answer
_CLOSING = 5.0  # seconds that a catalogue may take to let go


class Known(msgspec.Struct, frozen=True):
    """A catalogue and how it is asked. `trust`: the lower first; `places`, `sizes`: what it can tell; seconds:
    `timeout` of one call, `keep` of an answer."""

    name: str
    catalogue: ReplicaCatalogue
    trust: int
    places: bool
    sizes: bool
    timeout: float = 5.0
    concurrency: int = 8
    keep: float = 3600.0


class Bounds(msgspec.Struct, frozen=True):
    """`patience`: seconds that the sites wait for the catalogues; `failures`: seconds for which what a catalogue could
    not say is not asked again; the most `answers` kept; the `most` data resources of a request that are looked up."""

    patience: float = 2.0
    failures: float = 30.0
    answers: int = 10_000
    most: int = 200


class Answer(msgspec.Struct, frozen=True):
    """`asof`, `until`: epoch seconds. `trouble`: why it is none."""

    found: Located | None
    asof: float
    until: float
    trouble: str = ""


class _NotNow(NotAsked):
    """We ask again after `wait` seconds: what is said meanwhile is of us, not of the data."""

    def __init__(self, detail: str, wait: float) -> None:
        super().__init__(detail)
        self.wait = wait


class Desk:
    """One catalogue: its room, its breaker, its answers, and the calls that are under way to it."""

    def __init__(self, known: Known, clock: Clock, bounds: Bounds) -> None:
        self.known, self._clock, self._bounds = known, clock, bounds
        self._room = asyncio.Semaphore(known.concurrency)
        self._breaker = Breaker(known.name, clock, BreakerSettings())
        self._answers: OrderedDict[str, Answer] = OrderedDict()  # the least lately used first
        self._calls: dict[str, asyncio.Task[Answer]] = {}

    def name(self, resource: AbstractDataResource, urls: Sequence[str]) -> str | None:
        try:
            found = self.known.catalogue.name(resource, urls)
            return found if found is None or len(found) <= LONGEST_NAME else None
        except Exception as error:
            _log.error("a catalogue's adapter failed", catalogue=self.known.name, exc_info=error)
            return None

    def kept(self, name: str) -> Answer | None:
        answer = self._answers.get(name)
        if answer is None or not answer.asof <= self._clock.now() < answer.until:
            return None
        self._answers.move_to_end(name)
        return answer

    def share(self) -> asyncio.Semaphore:
        """So many of its questions one request may put at a time: another's wait for a place, not for all of them."""
        return asyncio.Semaphore(max(1, self.known.concurrency // 2))

    def ask(self, name: str, share: asyncio.Semaphore | None = None) -> asyncio.Task[Answer]:
        """One call for all who want to know the same. It is not bound to any of them: what comes late is kept."""
        task = self._calls.get(name)
        if task is None:
            full = len(self._calls) >= QUEUE
            task = self._calls[name] = asyncio.create_task(self._ask(name, share or self.share(), full=full))
            task.add_done_callback(lambda _: self._calls.pop(name, None))
        return task

    async def close(self) -> None:
        """Never raises, nor waits for a catalogue that does not let go."""
        for task in (calls := list(self._calls.values())):
            task.cancel()
        if calls:
            await asyncio.wait(calls, timeout=_CLOSING)
        try:
            async with asyncio.timeout(_CLOSING):
                await self.known.catalogue.close()
        except Exception as error:
            _log.error("a catalogue's adapter failed", catalogue=self.known.name, exc_info=error)

    async def _ask(self, name: str, share: asyncio.Semaphore, *, full: bool) -> Answer:
        found, trouble, keep = None, "", self.known.keep
        try:
            if full:
                raise _NotNow("too many questions wait for it already.", 0.0)
            async with share, self._room:
                found = await self._judged(name)
        except SiteError as error:
            trouble, keep = error.detail, self._bounds.failures
            if isinstance(error, _NotNow):
                keep = min(keep, error.wait)
            elif not isinstance(error, SiteForgot):
                _log.info("a catalogue did not say", catalogue=self.known.name, asked=bare(name), why=trouble)
        now = self._clock.now()
        answer = Answer(found, now, now + keep, trouble)
        if keep > 0:
            self._answers[name] = answer
        while len(self._answers) > self._bounds.answers:
            self._answers.popitem(last=False)
        return answer

    async def _judged(self, name: str) -> Located:
        wait = self._breaker.blocked()
        if wait is not None:
            raise _NotNow(f"it failed too often, and is asked again in {wait:.0f} s: {self._breaker.reason}", wait)
        probe = self._breaker.enter()
        try:
            found = await self._located(name)
        except (SiteForgot, SiteRefused, SiteForbids, NotAsked):  # an answer; users cause these, of others' data too
            self._breaker.succeeded(probe)
            raise
        except SiteError as error:
            self._breaker.failed(probe, error.detail)
            raise
        except BaseException:
            self._breaker.abandoned(probe)
            raise
        self._breaker.succeeded(probe)
        return found

    async def _located(self, name: str) -> Located:
        """Raises nothing but SiteErrors, and the cancellation of this very task."""
        deadline = Deadline.after(self.known.timeout, self._clock.monotonic())
        try:
            async with asyncio.timeout_at(deadline.at):
                return tame(await self.known.catalogue.locate(name, deadline))
        except SiteError:
            raise
        except TimeoutError:
            raise SiteTimeout(f"no answer in {self.known.timeout:g} s.") from None
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and (task := asyncio.current_task()) and task.cancelling():
                raise  # it is we who are; else something of the adapter's own was
            _log.error("a catalogue's adapter failed", catalogue=self.known.name, asked=bare(name), exc_info=error)
            raise SiteMisbehaved(f"its adapter failed ({type(error).__name__}).") from error


class Search:
    """The data of one request. `found` may be read at any time: what has come in by then counts."""

    def __init__(self, request: ExecutionRequest, desks: Sequence[Desk], most: int) -> None:
        self._resources: tuple[AbstractDataResource, ...] = request.data or ()
        self._stated = items(request)
        self._desks, self._most = desks, most
        self._asked: dict[tuple[str, str], asyncio.Task[Answer]] = {}
        self._kept: dict[tuple[str, str], Answer] = {}
        # Of each data resource: catalogue → what it was asked for there, one after the other.
        self._names: list[dict[str, list[str]]] = [{} for _ in self._stated]
        self._shares = {desk.known.name: desk.share() for desk in desks} if self._resources else {}
        # Each as of the last answer, and the calls that were under way then: filling it in anew takes long.
        self._items: list[tuple[Item, list[asyncio.Task[Answer]]] | None] = [None] * len(self._stated)
        self._due = set(range(min(most, len(self._stated))))  # to be looked at: an answer has come
        self._more = asyncio.Event()
        self._under_way = 0

    def found(self) -> tuple[Item, ...]:
        return tuple(self._item(i) for i in range(len(self._stated)))

    async def run(self) -> None:
        """Until all that can be known is: each answer may lead to the next question. Nothing that is asked ends with
        this call's cancellation."""
        while self._due or self._under_way:
            self._more.clear()
            due, self._due = sorted(self._due), set()
            for i in due:
                self._ask(i)
            if not self._due and self._under_way:
                await self._more.wait()

    def _ask(self, i: int) -> None:
        """Ask whoever may know what is still open. What is kept counts at once, and may lead on, to whom it may."""
        again = True
        while again:
            again = False
            for desk in self._desks:
                item = self._item(i)
                if _wanted(item, desk.known):
                    again |= self._ask_one(i, item, desk)

    def _ask_one(self, i: int, item: Item, desk: Desk) -> bool:
        """Whether it has answered already."""
        asked = self._names[i].setdefault(desk.known.name, [])
        if len(asked) >= TRIES or any(self._answer(desk.known.name, name) is None for name in asked):
            return False
        urls = [url for url in item.urls if url not in asked]
        # One file's size is not that of all.
        name = desk.name(self._resources[i], urls if item.files == 1 else ())
        if name is None or name in asked:
            return False
        asked.append(name)
        self._items[i] = None
        key = (desk.known.name, name)
        if key not in self._asked and key not in self._kept:
            if (answer := desk.kept(name)) is not None:
                self._kept[key] = answer
            else:
                self._asked[key] = desk.ask(name, self._shares[desk.known.name])
        if self._answer(*key) is not None:
            return True
        self._under_way += 1
        self._asked[key].add_done_callback(lambda _: self._heard(i))
        return False

    def _heard(self, i: int) -> None:
        self._under_way -= 1
        self._due.add(i)
        self._more.set()

    def _item(self, i: int) -> Item:
        known = self._items[i]
        if known is None or any(task.done() for task in known[1]):
            keys = [(catalogue, name) for catalogue, names in self._names[i].items() for name in names]
            calls = [task for key in keys if (task := self._asked.get(key)) is not None and not task.done()]
            known = self._items[i] = self._filled(i), calls
        return known[0]

    def _filled(self, i: int) -> Item:
        said: list[tuple[str, Located, float]] = []
        failed: list[str] = []
        for desk in self._desks:
            for name in self._names[i].get(desk.known.name, ()):
                answer = self._answer(desk.known.name, name)
                if answer is None:
                    failed.append(f"{desk.known.name} has not answered yet")
                elif answer.found is None or not answer.found.portions:
                    failed.append(f"{desk.known.name}: {(answer.trouble or 'it does not say').rstrip('.')}")
                else:
                    said.append((desk.known.name, answer.found, answer.asof))
                    failed += [f"{desk.known.name}: {why.rstrip('.')}" for why in answer.found.unknown]
                    if desk.known.sizes and total(answer.found.portions) is None:
                        failed.append(f"{desk.known.name} does not say all of it")
        if not failed and not said:
            failed = [self._why_nobody(i)]
        return fill(self._stated[i], said, failed)

    def _answer(self, catalogue: str, name: str) -> Answer | None:
        task = self._asked.get((catalogue, name))
        if task is None:
            return self._kept.get((catalogue, name))
        return task.result() if task.done() and not task.cancelled() else None

    def _why_nobody(self, i: int) -> str:
        if i >= self._most:
            return f"only the first {self._most} data resources of a request are looked up"
        return "the request does not say, and no catalogue here is asked about it"


class Locating:
    """The catalogues of this broker, the most trusted first."""

    def __init__(self, catalogues: Iterable[Known], clock: Clock, bounds: Bounds) -> None:
        self._desks = [Desk(known, clock, bounds) for known in sorted(catalogues, key=lambda k: (k.trust, k.name))]
        self._bounds, self._clock = bounds, clock
        self._searches: set[asyncio.Task[None]] = set()

    async def search(self, request: ExecutionRequest, deadline: Deadline, *, most: float = inf) -> Search:
        """Returns when all is known, or after our patience, a third of the deadline's time at most and `most` seconds;
        what is still under way then goes on, and counts in what is read of the search later."""
        search = Search(request, self._desks, self._bounds.most)
        if not request.data or not self._desks:
            return search
        task = asyncio.create_task(search.run())
        self._searches.add(task)
        task.add_done_callback(self._searches.discard)
        left = deadline.left(self._clock.monotonic())
        await asyncio.wait([task], timeout=min(self._bounds.patience, left / 3, most))
        return search

    async def close(self) -> None:
        for task in (searches := list(self._searches)):
            task.cancel()
        await asyncio.gather(*searches, return_exceptions=True)
        await asyncio.gather(*(desk.close() for desk in self._desks))


def _wanted(item: Item, known: Known) -> bool:
    return (known.sizes and item.bytes is None) or (known.places and not item.placed)
