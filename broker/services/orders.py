"""How a session of ours is named to the planner of its site, and how what comes back is read. Imports ports."""

from __future__ import annotations

from broker.domain.offerset import Seen, SessionRecord, SetRecord
from broker.ports import Order, Sighting


def order(record: SetRecord, item: SessionRecord, offer: bytes = b"") -> Order:
    """`offer`: the site's own JSON, where the record does not hold it (before a claim)."""
    return Order(item.uuid, record.uuid, item.handle, item.offer or offer, record.owner, record.name)


def seen(sighting: Sighting) -> Seen:
    return Seen(
        phase=sighting.phase,
        body=sighting.body,
        native=sighting.native or "",
        began=sighting.began,
        ended=sighting.ended,
        cost=sighting.cost,
        messages=sighting.messages,
    )
