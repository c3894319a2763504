"""One request for each row of a table: asked together, accepted together, asked again where it failed.

A batch is the client's: the broker knows sets and sessions, and that the sets of one batch count once against caps.
Imports the client's parts and the domain.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self
from uuid import UUID, uuid4

from broker.client.compose import Draft, Options, compose
from broker.client.documents import read_text
from broker.client.errors import BadRequestFile, NoBroker, Unreachable
from broker.client.offers import Offer, Offers, money_guard
from broker.client.sessions import LATEST, SOONEST, Session
from broker.domain.session import REFUSED, taken
from broker.errors import BadInput, BrokerError, NotSignedIn

MOST = 1000  # rows of a table
AT_ONCE = 4  # calls on their way at the same time: a batch is one user among others


class Asking(Protocol):
    """What a batch needs of a `Broker`."""

    async def send(self, draft: Draft, *, batch: UUID | None = None) -> Offers: ...

    async def offerset(self, handle: str | UUID) -> Offers: ...

    async def session(self, handle: str | UUID) -> Session: ...


@dataclass
class Member:
    """One run of a batch. `error`: why the last call about it failed; None: it did not."""

    draft: Draft
    offers: Offers | None = None
    session: Session | None = None
    error: BrokerError | None = None

    @property
    def name(self) -> str:
        return self.draft.request.name

    @property
    def best(self) -> Offer | None:
        """The best offer that can be accepted now."""
        return next((offer for offer in self.offers or () if offer.open), None)

    @property
    def state(self) -> str:
        """The session's phase; before there is one OFFERED, NO, EXPIRED, FAILED where nothing is known."""
        if self.session is not None:
            return self.session.state
        if self.offers is None:
            return "FAILED"
        return "OFFERED" if self.best else "EXPIRED" if len(self.offers) else "NO"

    @property
    def failed(self) -> bool:
        """Neither offered, nor under way, nor COMPLETED: it has to be asked again."""
        if self.session is not None:
            return self.session.ended and self.session.phase != "COMPLETED"
        return self.best is None

    @property
    def ended(self) -> bool:
        return self.session.ended if self.session is not None else self.failed


class Batch:
    """`for member in batch`, `len`, `batch.failed`. `uuid` is what its requests share, those asked again too."""

    def __init__(self, broker: Asking, members: Sequence[Member], uuid: UUID | None = None) -> None:
        self._broker = broker
        self.uuid = uuid or uuid4()
        self.members = list(members)

    @classmethod
    def compose(
        cls,
        broker: Asking,
        what: Any,
        rows: Sequence[Mapping[str, str]],
        options: Callable[[Mapping[str, str]], Options],
    ) -> Self:
        """Nothing is sent. Raises BadInput for the first row that makes no request, naming it."""
        members = []
        for number, row in enumerate(rows, 1):
            try:
                members.append(Member(compose(what, options(row))))
            except BadInput as error:
                raise BadInput(f"row {number}: {error}") from error
        return cls(broker, members)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    def __repr__(self) -> str:
        states = [member.state for member in self.members]
        told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        return f"Batch({str(self.uuid)[:4]}, {told or 'empty'})"

    @property
    def failed(self) -> list[Member]:
        return [member for member in self.members if member.failed]

    async def ask(self, progress: Callable[[int], None] | None = None) -> Self:
        """Ask for every member that has no offers yet. `progress`: how many were asked.

        What fails is told at its member. Raises what fails for all: NoBroker, NotSignedIn, Unreachable.
        """
        waiting = [member for member in self.members if member.offers is None and member.session is None]
        done = 0

        async def one(member: Member) -> None:
            nonlocal done
            member.offers = await self._broker.send(member.draft, batch=self.uuid)
            await member.offers.complete(enough=True)
            done += 1
            if progress:
                progress(done)

        await _each(waiting, one)
        return self

    def guard(self, ceiling: float | None = None) -> None:
        """Refuse to spend unseen: a price that is not known, or that no ceiling holds down. `ceiling`: for each run,
        beside those of the requests. Raises BadInput, and then nothing was accepted."""
        for member in self.members:
            if member.session is None and member.best is not None:
                tops = [top for top in (ceiling, member.draft.ceiling) if top is not None]
                money_guard(member.best, min(tops, default=None))

    async def accept(self) -> Self:
        """Take the best offer of every member that has one. Repeating it is safe: what is taken stays.

        What fails is told at its member."""

        async def one(member: Member) -> None:
            if (best := member.best) is not None:
                member.session = best
                await best.accept()

        await _each([member for member in self.members if member.session is None], one)
        for member in self.members:
            # Refused, and proved so: the next call to `again` asks anew.
            if member.session is not None and member.session.phase == "OFFERED" and member.session.open:
                member.session = None
        return self

    async def again(self, progress: Callable[[int], None] | None = None) -> Self:
        """Ask anew for what failed."""
        for member in self.failed:
            member.offers = member.session = member.error = None
        return await self.ask(progress)

    async def refresh(self) -> Self:
        """Read every member's present state, but for those that have ended."""

        async def one(member: Member) -> None:
            if member.session is not None:
                await member.session.refresh()
            elif member.offers is not None:
                await member.offers.refresh()
                if member.offers.response.taken:
                    member.session = await self._broker.session(member.offers.response.taken)

        await _each([member for member in self.members if not member.ended], one)
        return self

    async def finished(
        self,
        progress: Callable[[Member], None] | None = None,
        *,
        poll: tuple[float, float] = (SOONEST, LATEST),
    ) -> Self:
        """Follow every accepted run to its end; `progress` at each that ends. A member that cannot be read for the
        moment is read again."""
        pause, running = poll[0], [member for member in self.members if member.session and not member.ended]
        while running:
            await self.refresh()
            for member in running:
                if member.ended and progress:
                    progress(member)
            running = [member for member in running if not member.ended]
            if running:
                await asyncio.sleep(pause)
                pause = min(poll[1], pause * 1.2)
        return self

    # ── keeping it ───────────────────────────────────────────────────────────────────────────────────────────

    def document(self) -> dict[str, Any]:
        """What is needed to take it up again elsewhere."""
        return {"uuid": str(self.uuid), "members": [_written(member) for member in self.members]}

    @classmethod
    async def restore(cls, broker: Asking, document: Mapping[str, Any]) -> Self:
        """The inverse, read anew from the broker. What it no longer knows has failed."""
        members = [Member(compose(entry["request"], Options())) for entry in document["members"]]
        places = dict(zip(map(id, members), document["members"], strict=True))

        async def one(member: Member) -> None:
            entry = places[id(member)]
            if entry.get("session"):
                member.session = await broker.session(UUID(entry["session"]))
            elif entry.get("set"):
                member.offers = await broker.offerset(UUID(entry["set"]))
                if member.offers.response.taken:
                    member.session = await broker.session(member.offers.response.taken)

        await _each(members, one)
        return cls(broker, members, UUID(document["uuid"]))


def _written(member: Member) -> dict[str, Any]:
    session = member.session if member.session is not None and _kept(member.session) else None
    return {
        "request": member.draft.request.to_wire(),
        **({"set": str(member.offers.uuid)} if member.offers is not None else {}),
        **({"session": str(session.uuid)} if session is not None else {}),
    }


def _kept(session: Session) -> bool:
    """It is taken, or being decided; a refused one is asked again."""
    return taken(session.phase) or session.phase not in REFUSED


async def _each(members: Sequence[Member], work: Callable[[Member], Awaitable[None]]) -> None:
    """A few at a time. A failure is told at its member; one that would meet all the others ends it all."""
    waiting = iter(members)

    async def worker() -> None:
        for member in waiting:
            try:
                await work(member)
                member.error = None
            except (NoBroker, NotSignedIn):
                raise
            except Unreachable as error:
                if not error.sent and all(other.error is None and other.offers is None for other in members):
                    raise
                member.error = error
            except BrokerError as error:
                member.error = error

    workers = [asyncio.create_task(worker()) for _ in range(min(AT_ONCE, len(members)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def read_rows(path: Path) -> list[dict[str, str]]:
    """A table of a `.csv` (or `.tsv`) file, UTF-8, whose first line names the columns. Raises BadRequestFile."""
    lines = read_text(path).lstrip("\ufeff").splitlines()
    reader = csv.reader(lines, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
    try:
        table = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise BadRequestFile(f"not CSV: {error}.", file=str(path), line=reader.line_num) from None
    if len(table) < 2:
        raise BadRequestFile("a line with the names of the columns is wanted, and rows.", file=str(path))
    (_, heads), *rows = table
    if len(set(heads)) != len(heads) or not all(heads):
        raise BadRequestFile("every column wants a name of its own.", file=str(path), line=1)
    if len(rows) > MOST:
        raise BadRequestFile(f"{len(rows)} rows; {MOST} are the most.", file=str(path))
    for line, row in rows:
        if len(row) != len(heads):
            raise BadRequestFile(f"{len(row)} values for {len(heads)} columns.", file=str(path), line=line)
    return [dict(zip(heads, row, strict=True)) for _, row in rows]
