"""All offers to one request, ranked, with what each site said. Imports the domain, sessions and the table."""

from __future__ import annotations

import asyncio
import html
import importlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self
from uuid import UUID

from pydantic import ValidationError
from yarl import URL

from broker.client import facts, table
from broker.client.errors import Misanswered
from broker.client.http import Answer, Connection
from broker.client.sessions import SOONEST, Session
from broker.domain.request import ExecutionRequest
from broker.domain.session import OfferSetResponse, OutcomeNote, SimpleExecutionSession
from broker.errors import BadInput, BrokerError, NotFound


class Offer(Session):
    """A session that is offered. `rank` 1 is the best; None: excluded, see `facts.excluded`."""

    def __init__(self, connection: Connection, url: URL, document: SimpleExecutionSession, rank: int | None) -> None:
        super().__init__(connection, url, document)
        self.rank = rank

    @property
    def facts(self) -> facts.Facts:
        """What the offer says, read into figures: what is paid, when, what moves, why it stands where it stands."""
        return facts.facts(self.document, self.rank)


class Offers:
    """Offers in their order of rank: `offers.best`, `offers[1]` (counted from 1), `len`, `for offer in offers`.

    Excluded offers are not among them: see `excluded`, and `outcomes` for what came of asking each site.
    """

    def __init__(
        self, connection: Connection, url: URL, response: OfferSetResponse, request: ExecutionRequest | None = None
    ) -> None:
        self._connection = connection
        self.url = url
        self.request = request
        self.response = response
        self._set(response)

    def _set(self, response: OfferSetResponse) -> None:
        self.response = response
        self._ranked: list[Offer] = []
        self.excluded: list[Offer] = []
        sessions = [offer for offer in response.offers or () if isinstance(offer, SimpleExecutionSession)]
        for place, session in enumerate(sessions, 1):
            if session.uuid is None:
                continue  # without a name nobody can act on it
            url = self.url.parent.parent / "sessions" / str(session.uuid)
            note = session.ranking
            # A broker that ranks nothing still lists its offers in an order of its own.
            rank = place if note is None else note.rank
            offer = Offer(self._connection, url, session, rank)
            (self._ranked if rank is not None and not (note and note.excluded) else self.excluded).append(offer)
        self._ranked.sort(key=lambda offer: offer.rank or 0)

    def __len__(self) -> int:
        return len(self._ranked)

    def __iter__(self) -> Iterator[Offer]:
        return iter(self._ranked)

    def __getitem__(self, rank: int) -> Offer:
        """The offer of that rank. Raises NotFound, naming the ranks that there are."""
        for offer in self._ranked:
            if offer.rank == rank:
                return offer
        there = f"There are: 1 to {len(self)}." if self._ranked else "There are none."
        raise NotFound(f"set {str(self.uuid)[:4]} has no offer {rank}.", remedy=there)

    @property
    def best(self) -> Offer:
        """Raises NotFound where nobody offers."""
        return self[self._ranked[0].rank or 1] if self._ranked else self[1]

    @property
    def uuid(self) -> UUID:
        return self.response.uuid or UUID(self.url.name)

    @property
    def yes(self) -> bool:
        return self.response.result == "YES"

    @property
    def outcomes(self) -> tuple[OutcomeNote, ...]:
        return self.response.outcomes or ()

    @property
    def pending(self) -> int:
        """Sites that have not answered and still may: a NO is not final before there are none."""
        return 0 if self.response.closed else self.response.pending or 0

    @property
    def now(self) -> datetime:
        """The instant the ranks hold for."""
        return self.response.asof or datetime.now(UTC)

    async def refresh(self) -> Self:
        self._set(read_set(await self._connection.call("GET", self.url)))
        return self

    async def complete(
        self,
        progress: Callable[[Offers], None] | None = None,
        *,
        limit: float = 60.0,
        enough: bool = False,
        poll: float = SOONEST,
    ) -> Self:
        """Wait until no site is pending, at most `limit` seconds. `enough`: the first offer is enough."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        while self.pending and not (enough and self.yes) and loop.time() < end:
            if progress:
                progress(self)
            await asyncio.sleep(poll)
            await self.refresh()
        return self

    def _ipython_display_(self) -> None:
        """In a notebook: the table, which fills in its place while sites still answer."""
        shown = importlib.import_module("IPython.display")
        handle = shown.display(self._both(), raw=True, display_id=True)
        if self.pending and handle is not None:
            with suppress(RuntimeError):  # no loop runs: the table is what it is now
                self._filling = asyncio.get_running_loop().create_task(self._fill(handle))

    async def _fill(self, handle: Any) -> None:
        with suppress(BrokerError):  # what was drawn last stays; the next call of the user tells what is wrong
            await self.complete(lambda _: handle.update(self._both(), raw=True))
        handle.update(self._both(), raw=True)

    def _both(self) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def __repr__(self) -> str:
        return table.offers(self.response, table.Look(width=80, now=self.now), self.request)

    def _repr_html_(self) -> str:
        text = table.offers(self.response, table.Look(width=120, now=self.now), self.request)
        return f"<pre>{html.escape(text)}</pre>"


def read_set(answer: Answer) -> OfferSetResponse:
    """Raises Misanswered for a body that is no offer set."""
    try:
        response = OfferSetResponse.model_validate(answer.document())
    except ValidationError as error:
        fault = error.errors()[0]
        raise Misanswered(
            f"{answer.url} answered with what is no offer set: {'.'.join(map(str, fault['loc']))}: {fault['msg']}."
        ) from None
    if response.uuid is None:
        raise Misanswered(f"{answer.url} answered with an offer set that has no uuid.")
    return response


def money_guard(offer: Offer, ceiling: float | None) -> None:
    """Refuse to spend unseen: a price that is not known, or none that a ceiling holds down. Raises BadInput."""
    pay = offer.facts.pay
    if pay is None or pay.stand_in:
        raise BadInput(
            f"what offer {offer.rank} ({offer.site}) costs is not known, so it is not accepted unseen.",
            remedy=f"Look, then: broker accept {str(offer.uuid)[:8]}",
        )
    if pay.pessimistic <= 0:
        return
    if ceiling is None:
        raise BadInput(
            f"offer {offer.rank} ({offer.site}) costs up to {facts.amount(pay)}, and no ceiling stands.",
            remedy=f"Name one: --max-price, or take it: broker accept {str(offer.uuid)[:8]}",
        )
    if pay.pessimistic > ceiling:
        raise BadInput(
            f"offer {offer.rank} ({offer.site}) costs up to {facts.amount(pay)}, above your ceiling of {ceiling:g}.",
            remedy="Raise --max-price, or look at the others.",
        )
