"""The state of one visit: what was caused, so that it can be given back, and the calls that all checks share.

Imports the dialects, web, findings, errors.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass, field

from broker.checker.dialects import Dialect, Seen, SetSeen
from broker.checker.findings import Findings
from broker.checker.web import Answer, Broken, Web
from broker.client.errors import Unreachable
from broker.errors import Malformed

_GONE = "not there"
OVER = ("REJECTED", "EXPIRED", "CANCELLED", "FAILED", "COMPLETED", _GONE)
_PATIENCE_WITH_LATE = 20.0  # seconds until a set that grows is given up waiting for
_LOOK = 0.25
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


@dataclass
class Visit:
    """`caused`: every offer that exists because of us, with the phase it was last known to have."""

    web: Web
    dialect: Dialect
    findings: Findings = field(default_factory=Findings)
    offset: float = 0.0
    spoken: bool = False  # whether the dialect is known to be the service's
    ours: str = ""  # the Broker-Id, where one was sent
    own: bool = False  # whether the request is the caller's, whatever it asks for
    asked: str = ""  # the kind of executable that offers were asked for
    set: SetSeen | None = None
    caused: dict[str, str] = field(default_factory=dict)
    _sets: dict[str, bool] = field(default_factory=dict)  # set → settled

    # ── what was caused ──────────────────────────────────────────────────────────────────────────────────────

    def note(self, seen: SetSeen) -> None:
        """Every offer of it is ours to give back."""
        if seen.ident:
            self._sets[seen.ident] = seen.settled
        for offer in seen.offers:
            # Without a uuid its URL may still tell by which name it can be given back.
            ident = offer.ident or next(iter(_UUID.findall(offer.url)), "")
            if ident:
                self.caused.setdefault(ident, offer.phase)

    @property
    def open(self) -> tuple[str, ...]:
        return tuple(ident for ident, phase in self.caused.items() if phase not in OVER)

    async def give_back(self) -> None:
        """Reject whatever is open, and what joins its set late. Idempotent; raises nothing but a cancellation. What
        could not be given back stays in `open`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.web.patience + _PATIENCE_WITH_LATE):
                await self._give_back()

    async def _give_back(self) -> None:
        tried: set[str] = set()
        while True:
            for ident in self.open:
                if ident not in tried:
                    tried.add(ident)
                    await self._reject(ident)
            waiting = [ident for ident, settled in self._sets.items() if not settled]
            if not waiting:
                return
            await asyncio.sleep(_LOOK)
            for ident in waiting:
                await self._look_again(ident)

    async def _reject(self, ident: str) -> None:
        """Whatever is answered, reading alone says what came of it."""
        with suppress(Unreachable):
            await self.update(ident, "REJECTED")
        with suppress(Unreachable, Malformed):
            await self.read(ident)

    async def _look_again(self, ident: str) -> None:
        try:
            answer = await self.web.get(self.dialect.sets, ident)
            if answer.status == 200:
                self.note(self.dialect.read_set(answer.object()))
            else:
                self._sets[ident] = True
        except (Unreachable, Malformed):
            self._sets[ident] = True

    # ── calls ────────────────────────────────────────────────────────────────────────────────────────────────

    async def post(self, document: object) -> Answer:
        """The dialect's question. Raises Unreachable."""
        method, path = self.dialect.ask
        if method == "GET":
            return await self.web.call("GET", self.web.at(path).with_query(dict(self.dialect.query)))
        try:
            return await self.web.post(path, document=document)
        except Broken as error:
            if error.begun is not None:
                await self.recover(error.begun)
            raise

    async def take(self, answer: Answer) -> SetSeen | None:
        """The set in an answer of success, noted; None for any other. Raises Malformed."""
        if answer.status not in (200, 303):
            return None
        if not answer.body.strip():
            return await self.recover(answer)
        try:
            seen = self.dialect.read_set(answer.object())
        except Malformed:
            await self.recover(answer)
            raise
        self.note(seen)
        return seen

    async def recover(self, answer: Answer) -> SetSeen | None:
        """The set where the answer points, noted: what is offered in words that cannot be read is offered all the
        same. None: nothing there can be read."""
        target = answer.location
        if answer.status not in (200, 303) or target is None or target.origin() != self.web.base.origin():
            return None
        try:
            seen = self.dialect.read_set((await self.web.call("GET", target)).object())
        except (Unreachable, Malformed):
            return None
        self.note(seen)
        return seen

    async def update(self, ident: str, phase: str) -> Answer:
        """Ask for a phase. Raises Unreachable."""
        return await self.web.post(self.dialect.sessions, ident, document=self.dialect.update(ident, phase))

    async def change(self, ident: str, phase: str) -> Seen | None:
        """The session that an update was answered with; None where it was answered with none. Raises Unreachable,
        Malformed."""
        answer = await self.update(ident, phase)
        return self._believe(ident, answer)

    async def read(self, ident: str) -> Seen | None:
        """The session as it reads now. Raises Unreachable, Malformed."""
        return self._believe(ident, await self.web.get(self.dialect.sessions, ident))

    def _believe(self, ident: str, answer: Answer) -> Seen | None:
        if answer.status in (404, 410):
            self.caused[ident] = _GONE
        if answer.status != 200 or not answer.body.strip():
            return None
        seen = self.dialect.read_session(answer.object())
        if seen.ident and seen.ident != ident:
            raise Malformed(f"{answer.status} with the session {seen.ident} where {ident} was meant.")
        if seen.phase:
            self.caused[ident] = seen.phase
        return seen
