"""What was just accepted, and how much later a site that does not know it yet can begin. Imports ports, and the fleet.

A site whose offers are estimates learns of an acceptance when it comes, and counts it some time after. Until then the
broker counts for it: the work that it accepted there, over the room of the site, is how much later the next begins. So
a burst of requests for one popular data set spreads, where it would all go to the site that has the data.

Nothing here is durable, or exact: after a minute the site's own figures have it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol
from uuid import UUID

import msgspec

from broker.domain.words import amount, length
from broker.errors import Unavailable
from broker.ports import Clock
from broker.services.sites import Entry

KNOWN_AFTER = 60.0  # seconds after an acceptance, a site's own figures have it
HEAR_EVERY = 0.5  # seconds between two looks at what other replicas have accepted
PATIENCE = 0.1  # seconds that a question waits for such a look
KEY = "taken"
_HOUR = 3600.0


class Board(Protocol):
    """Where replicas leave notes for each other (services/fleet)."""

    def post(self, key: str, text: str, seconds: float) -> None: ...

    def withdraw(self, key: str, text: str) -> None: ...

    async def posted(self, key: str) -> frozenset[str]: ...


class Taking(msgspec.Struct, frozen=True, array_like=True):
    """One offer that was accepted. `work`: core-seconds; `until`: epoch seconds, when it counts no more."""

    site: str
    session: str
    work: float
    until: float


class Lag(msgspec.Struct, frozen=True):
    """How much later a site begins than it says, in seconds, and why, in words."""

    seconds: float
    why: str


class Taken:
    """`board` None: no other replica is there to be told."""

    def __init__(self, clock: Clock, board: Board | None = None) -> None:
        self._clock, self._board = clock, board
        self._mine: dict[str, Taking] = {}  # by session
        self._theirs: dict[str, Taking] = {}
        self._texts: dict[str, str] = {}  # of every session, as it stands on the board
        self._by_site: dict[str, list[Taking]] = {}
        self._back: set[str] = set()  # taken back, though they may still stand on the board
        self._heard_mine: set[str] = set()  # of ours, what the board has shown
        self._heard = float("-inf")  # monotonic
        self._hearing: asyncio.Task[None] | None = None

    # ── what was accepted ────────────────────────────────────────────────────────────────────────────────────

    def note(self, site: str, session: UUID, work: float) -> None:
        """An offer that is an estimate was claimed at the site. Idempotent. `work`: core-seconds."""
        taking = Taking(site, str(session), work, round(self._clock.now() + KNOWN_AFTER, 3))
        if not work > 0 or taking.session in self._mine:
            return
        self._back.discard(taking.session)
        self._mine[taking.session] = taking
        self._arrange()
        if self._board is not None:
            self._texts[taking.session] = _text(taking)
            self._board.post(KEY, _text(taking), KNOWN_AFTER)

    def forget(self, session: UUID) -> None:
        """The claim was refused or undone, or the session is over already. Idempotent; also of one that another
        replica noted."""
        name = str(session)
        if name not in self._mine and name not in self._theirs:
            return
        self._mine.pop(name, None)
        self._theirs.pop(name, None)
        text = self._texts.pop(name, None)
        self._arrange()
        if self._board is not None and text is not None:
            self._back.add(name)
            self._board.withdraw(KEY, text)

    def lag(self, entry: Entry) -> Lag | None:
        """How much later the estimates of a site begin; None: no later. Where it is not known how many cores the site
        has, nothing can be said; one that reserves knows itself what it has taken."""
        takings = self._live(entry.name) if entry.name in self._by_site else []
        profile = entry.profile
        room = entry.site.room_cores or (profile.room if profile else None)
        if not takings or not room or (profile is not None and profile.reserves):
            return None
        work = sum(taking.work for taking in takings)
        return Lag(
            work / room,
            f"{amount(work / _HOUR)} core-hours of work were accepted there in the last minute; "
            f"it starts about {length(work / room)} later than it says",
        )

    def _live(self, site: str) -> list[Taking]:
        now = self._clock.now()
        live = [taking for taking in self._by_site[site] if _counts(taking, now)]
        if live:
            self._by_site[site] = live
        else:
            del self._by_site[site]
        return live

    def _arrange(self) -> None:
        now = self._clock.now()
        self._mine = {name: taking for name, taking in self._mine.items() if _counts(taking, now)}
        known = {**self._theirs, **self._mine}
        self._texts = {name: text for name, text in self._texts.items() if name in known}
        by_site = defaultdict[str, list[Taking]](list)
        for taking in known.values():
            by_site[taking.site].append(taking)
        self._by_site = dict(by_site)

    # ── what other replicas have accepted ────────────────────────────────────────────────────────────────────

    async def hear(self) -> None:
        """Look at the board, if that was not done just now. Never waits long, never raises: where the board does not
        answer, what was heard last counts."""
        if self._board is None:
            return
        now = self._clock.monotonic()
        if self._hearing is None and now - self._heard >= HEAR_EVERY:
            self._heard = now
            self._hearing = asyncio.create_task(self._hear(self._board))
        if self._hearing is not None:
            await asyncio.wait([self._hearing], timeout=PATIENCE)

    async def close(self) -> None:
        if self._hearing is not None:
            self._hearing.cancel()
            await asyncio.gather(self._hearing, return_exceptions=True)

    async def _hear(self, board: Board) -> None:
        try:
            texts = await board.posted(KEY)
        except Unavailable:
            return
        finally:
            self._hearing = None
        found = dict(_read(texts))
        self._back &= found.keys()
        for name in self._heard_mine - found.keys():  # another replica has taken it back
            self._mine.pop(name, None)
        self._heard_mine = self._mine.keys() & found.keys()
        self._theirs = {
            name: taking for name, (taking, _) in found.items() if name not in self._mine and name not in self._back
        }
        self._texts |= {name: found[name][1] for name in self._theirs}
        self._arrange()


def _counts(taking: Taking, now: float) -> bool:
    """What ends later than anything that is noted now was noted by a clock that has been set back since."""
    return now < taking.until <= now + 2 * KNOWN_AFTER


def _text(taking: Taking) -> str:
    return msgspec.json.encode(taking).decode()


def _read(texts: Iterable[str]) -> Iterable[tuple[str, tuple[Taking, str]]]:
    """By session; what a newer replica has written is left out."""
    for text in texts:
        try:
            taking = msgspec.json.decode(text, type=Taking)
        except msgspec.MsgspecError:
            continue
        yield taking.session, (taking, text)
