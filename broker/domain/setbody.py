"""What the offers of a set say in full: one blob beside the record, with an age. Imports the domain.

Pieces of the sites' JSON are kept as the bytes they came in and are spliced into answers; what ranks is kept typed,
so that the order can be derived again at any time, by the preferences and the `now` of the asking.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from uuid import UUID

import msgspec

from broker.domain.locality import Locality
from broker.domain.located import Item
from broker.domain.offer import Offer
from broker.domain.ranking import Candidate, Ranked, Wishes, rank


class Kept(msgspec.Struct, frozen=True):
    """One offer. `raw` is what the site wrote, which its planner wants back at acceptance; `mended` the same without
    what did not conform, where that had to be left out: each is held once, since writing them is much of a request's
    cost. `work`: core-seconds that an estimate takes of its site, 0 for one that is reserved; `later`: seconds by which
    the broker has put its start off."""

    session: UUID
    candidate: Candidate
    raw: bytes
    mended: bytes = b""
    platform: str = ""
    reserved: bool = False
    simulated: bool = False
    results: bool = False
    warnings: tuple[str, ...] = ()
    work: float = 0.0
    later: float = 0.0

    @property
    def said(self) -> bytes:
        """What may be passed on, but for what the broker writes itself (`offer.cut`)."""
        return self.mended or self.raw

    @property
    def locality(self) -> Locality:
        return self.candidate.locality


class SetBody(msgspec.Struct, frozen=True):
    request: bytes  # as the caller sent it, our additions included, in JSON
    wishes: Wishes
    now: float
    kept: tuple[Kept, ...] = ()
    located: tuple[Item, ...] = ()  # what was known of the request's data when it was ranked

    def by_session(self) -> Mapping[UUID, Kept]:
        return {item.session: item for item in self.kept}

    def ranking(self, among: Collection[UUID] | None = None) -> tuple[Ranked, ...]:
        """Best first, excluded ones last; `among` limits it to some sessions (those still open, say)."""
        return rank(
            [item.candidate for item in self.kept if among is None or item.session in among], self.wishes, self.now
        )


def keep(session: UUID, offer: Offer, candidate: Candidate, raw: bytes, warnings: tuple[str, ...]) -> Kept:
    return Kept(
        session=session,
        candidate=candidate,
        raw=raw,
        mended=offer.body if offer.body is not raw else b"",
        platform=offer.platform,
        reserved=offer.reserved,
        simulated=offer.simulated,
        results=offer.results,
        warnings=warnings,
    )


def encode(body: SetBody) -> bytes:
    return msgspec.msgpack.encode(body)


def decode(data: bytes) -> SetBody:
    return msgspec.msgpack.decode(data, type=SetBody)
