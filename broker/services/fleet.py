"""What the replicas on one store have in common: the rate and the room of each site, its breakers, and who they are.

Imports ports, errors and the breaker. All of it is in `Limits`, and none of it is worth a call to a site: where the
limits cannot be reached each replica goes by its own, and what was said of a breaker comes late or not at all.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar
from uuid import uuid4

import msgspec
import structlog

from broker.errors import BrokerError, Unavailable
from broker.ports import Clock, Limits
from broker.services.breaker import Turn

_log = structlog.get_logger(__name__)

T = TypeVar("T")
About = tuple[str, str]  # the site and the operation of a breaker

BEAT = 1.0  # seconds between two looks at what the others say
ANNOUNCE_EVERY, LIVE = 3.0, 10.0  # seconds; for how long a replica counts as live that says nothing more
PATIENCE = 1.0  # seconds for one answer of the limits
MUTE = 2.0  # seconds for which limits that failed are not asked again: calls to sites must not queue at them
LINGER = 60.0  # seconds for which a word is kept when the breaker may be tried: till then its end is news
SPARE = 1.0  # seconds for which a place is kept beyond the deadline of its call
_WORDS, _REPLICAS = "breakers", "replicas"
_MANY = 1_000_000  # a ceiling that none reaches
_LONGEST_REASON = 200  # characters


class Seat(msgspec.Struct, frozen=True):
    """A place among the calls that are under way to one site; `leave` gives it back."""

    key: str
    member: str


class Pace(msgspec.Struct, frozen=True):
    """How often one site may be called: `rate` a second, `burst` at once."""

    key: str
    rate: float
    burst: int


class Word(msgspec.Struct, frozen=True, array_like=True):
    """What one replica says of a breaker: open until then (epoch seconds), for the `opened`-th time in a row."""

    site: str
    operation: str
    opened: int
    until: float
    reason: str
    replica: str

    @property
    def about(self) -> About:
        return self.site, self.operation

    @property
    def kept_until(self) -> float:
        return self.until + (LINGER if self.opened else 0.0)


class Guard(Protocol):
    """Whoever keeps the breakers of one site in this process."""

    def told(self, operation: str, turn: Turn) -> None: ...

    def relieved(self, operation: str) -> None: ...


class Fleet:
    """This replica among the others. `id` is drawn anew with each process."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._limits, self._clock = limits, clock
        self.id = uuid4().hex[:12]
        self.replicas: frozenset[str] = frozenset((self.id,))
        self._guards: dict[str, list[Guard]] = {}  # of a site that is registered anew, for a moment two
        self._words: dict[About, dict[str, Word]] = {}  # as last heard, by the text that they are in the limits
        self._mine: dict[About, str] = {}  # what we said last of a breaker, which nobody may have heard yet
        self._taken_back: set[str] = set()
        self._muted_until = 0.0  # monotonic
        self._away = False  # the limits did not answer when they were last asked
        self._announced = float("-inf")  # monotonic
        # What is said of one breaker goes out in the order in which it was said; what is said of many, together: when
        # the network is gone, a thousand open at once.
        self._telling = defaultdict[About, asyncio.Lock](asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: list[Seat] = []
        self._numbers = itertools.count()

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────

    async def beat(self) -> None:
        """Say that we live, and hear what the others say. Raises Unavailable."""
        if self._clock.monotonic() - self._announced >= ANNOUNCE_EVERY:
            self.replicas = await self.roll(_REPLICAS, LIVE)
            self._announced = self._clock.monotonic()
        self._hear(await self._bounded(self._limits.members(_WORDS)))

    async def roll(self, key: str, seconds: float) -> frozenset[str]:
        """Put our id on this roll for so many seconds, and read whose are on it. Raises Unavailable."""
        await self._bounded(self._limits.enter(key, self.id, _MANY, self._clock.now() + seconds))
        return await self._bounded(self._limits.members(key)) | {self.id}

    async def run(self) -> None:
        """Beat, over and over, until cancelled."""
        while True:
            try:
                await self.beat()
            except BrokerError as error:
                _log.info("the fleet was not heard", why=error.detail)
            await self._clock.sleep(BEAT)

    async def close(self) -> None:
        """Say that we go, and let what is being said get out."""
        self._leave_all()
        self._start(lambda: self._limits.leave(_REPLICAS, self.id))
        await asyncio.wait(self._tasks, timeout=PATIENCE)
        for task in self._tasks:
            task.cancel()

    # ── rate and room of a site ──────────────────────────────────────────────────────────────────────────────

    async def admit(
        self, pace: Pace, seat: Seat | None, ceiling: int, seconds: float, *, tokened: bool
    ) -> tuple[bool, float]:
        """Ask side by side for a place (None: none is wanted), to be kept for so many seconds at most where fewer than
        `ceiling` are taken, and for a token, unless there is one. Returns whether the place is ours, and the seconds
        until there is a token; 0.0: it is ours. Raises Unavailable; then either may be ours all the same."""
        return await self._bounded(self._admit(pace, seat, ceiling, seconds, tokened))

    def seat(self, site: str) -> Seat:
        return Seat(f"room:{site}", self._new_name())

    def leave(self, seat: Seat) -> None:
        """Given back in the background; a seat that cannot be given back ends with its time."""
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._leave_all)
        self._leaving.append(seat)

    async def _admit(
        self, pace: Pace, seat: Seat | None, ceiling: int, seconds: float, tokened: bool
    ) -> tuple[bool, float]:
        taking = None if tokened else asyncio.ensure_future(self._limits.take(pace.key, pace.rate, pace.burst))
        try:
            seated = seat is None or await self._enter(seat, ceiling, seconds)
            return seated, 0.0 if taking is None else await taking
        except BaseException:
            if taking is not None:
                taking.cancel()
                taking.add_done_callback(_seen)
            raise

    async def _enter(self, seat: Seat, ceiling: int, seconds: float) -> bool:
        until = self._clock.now() + max(0.0, seconds) + SPARE
        return await self._limits.enter(seat.key, seat.member, ceiling, until)

    def _leave_all(self) -> None:
        """Those of one turn of the event loop together."""
        seats, self._leaving = self._leaving, []
        self._start(lambda: _all(self._limits.leave(seat.key, seat.member) for seat in seats))

    def _new_name(self) -> str:
        """Of no other member, whichever replica drew it."""
        return f"{self.id}.{next(self._numbers)}"

    async def probe(self, site: str, operation: str, seconds: float) -> Seat | None:
        """The right to try a site that is half-open, for so many seconds; None: another replica is at it. Where
        nobody can say, we may."""
        seat = Seat(f"probe:{site}:{operation}", self._new_name())
        try:
            return seat if await self._bounded(self._enter(seat, 1, seconds)) else None
        except Unavailable:
            return seat

    # ── breakers ─────────────────────────────────────────────────────────────────────────────────────────────

    def join(self, site: str, guard: Guard) -> None:
        """From now on `guard` hears what the others say of the site."""
        self._guards.setdefault(site, []).append(guard)

    def part(self, site: str, guard: Guard) -> None:
        """Idempotent."""
        left = [other for other in self._guards.pop(site, ()) if other is not guard]
        if left:
            self._guards[site] = left

    def turned(self, site: str, operation: str, turn: Turn | None) -> None:
        """A breaker of ours has opened, or closed (None): tell the others, in the background."""
        about = (site, operation)
        old = set(self._words.get(about, ()))
        if (mine := self._mine.pop(about, None)) is not None:
            old.add(mine)
        word = None
        if turn is not None:
            until = round(self._clock.now() + turn.left, 3)
            word = Word(site, operation, turn.opened, until, turn.reason[:_LONGEST_REASON], self.id)
            self._mine[about] = _text(word)
            old.discard(_text(word))
        self._taken_back |= old
        self._start(lambda: self._tell(about, word, old))

    async def _tell(self, about: About, word: Word | None, old: Iterable[str]) -> None:
        """The new word first: between the two nobody shall think that the breaker has closed."""
        async with self._telling[about]:
            if word is not None:
                await self._limits.enter(_WORDS, _text(word), _MANY, word.kept_until)
            await _all(self._limits.leave(_WORDS, text) for text in old)

    def _hear(self, texts: frozenset[str]) -> None:
        """Words that are new open our breakers; one that ended before its time, with no other in its place, closes
        them: somebody had an answer."""
        now, before = self._clock.now(), self._words
        self._words = _sorted(texts - self._taken_back)
        for about in before.keys() - self._words.keys():
            for text, word in before[about].items():
                if text not in self._taken_back and now < word.kept_until:
                    self._relieve(word)
        self._taken_back &= texts
        for words in self._words.values():
            for word in words.values():
                self._pass_on(word, word.until - now)

    def _pass_on(self, word: Word, left: float) -> None:
        if word.replica != self.id and left > 0:
            for guard in self._guards.get(word.site, ()):
                guard.told(word.operation, Turn(word.opened, left, word.reason))

    def _relieve(self, word: Word) -> None:
        for guard in self._guards.get(word.site, ()):
            guard.relieved(word.operation)

    # ── notes ────────────────────────────────────────────────────────────────────────────────────────────────

    def post(self, key: str, text: str, seconds: float) -> None:
        """Leave a note for the other replicas, for so many seconds. In the background; it may never be read."""

        async def enter() -> None:
            await self._limits.enter(key, text, _MANY, self._clock.now() + seconds)

        self._start(enter)

    def withdraw(self, key: str, text: str) -> None:
        """In the background. A note that was posted just now may outlive it, until its time is over."""
        self._start(lambda: self._limits.leave(key, text))

    async def posted(self, key: str) -> frozenset[str]:
        """The notes of all replicas, ours among them. Raises Unavailable."""
        return await self._bounded(self._limits.members(key))

    # ── asking the limits ────────────────────────────────────────────────────────────────────────────────────

    async def _bounded(self, asking: Coroutine[Any, Any, T]) -> T:
        """Raises Unavailable for whatever keeps them from answering soon, and for a while after that at once."""
        if self._clock.monotonic() < self._muted_until:
            asking.close()
            raise Unavailable("the limits of the fleet did not answer just now.")
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await asking
        except TimeoutError:
            self._mute("no answer in time")
            raise Unavailable("the limits of the fleet do not answer.") from None
        except Unavailable as error:
            self._mute(error.detail)
            raise
        if self._away:
            self._away = False
            _log.info("the limits of the fleet answer again")
        return answer

    def _mute(self, why: str) -> None:
        self._muted_until = self._clock.monotonic() + MUTE
        if not self._away:
            self._away = True
            _log.warning("the limits of the fleet are out of reach; those of this process hold", why=why)

    def _start(self, ask: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.ensure_future(self._quietly(ask))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _quietly(self, ask: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await ask()
        except (TimeoutError, BrokerError) as error:
            _log.debug("the fleet was not told", why=str(error))


async def _all(calls: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*calls)


def _seen(task: asyncio.Future[float]) -> None:
    """Nobody waits for it any more, nor shall anybody be told that it failed."""
    if not task.cancelled():
        task.exception()


def _sorted(texts: Iterable[str]) -> dict[About, dict[str, Word]]:
    """By the breaker that they speak of, those left out that a newer replica has said."""
    words = defaultdict[About, dict[str, Word]](dict)
    for text in texts:
        if (word := _word(text)) is not None:
            words[word.about][text] = word
    return dict(words)


def _text(word: Word) -> str:
    return msgspec.json.encode(word).decode()


def _word(text: str) -> Word | None:
    """None: of a newer version."""
    try:
        return msgspec.json.decode(text, type=Word)
    except msgspec.MsgspecError:
        return None
