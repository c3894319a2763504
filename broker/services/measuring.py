"""What the data of one request takes to be brought to each site, by the latest that is known of it. Imports the domain.

Whose word counts about a site: what we know of its storages; else what a broker below states; else its profile. What a
site says that it has already, it has. All offers of a set are measured by the same knowledge (docs/adr/0024).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from broker.domain import locality as place
from broker.domain.delivering import deliver
from broker.domain.experience import Experience
from broker.domain.locality import Delivery, Guess, Locality, Place, Terrain
from broker.domain.located import Item, items
from broker.domain.offer import Stated
from broker.domain.request import ExecutionRequest
from broker.domain.storages import Map
from broker.domain.wishes import Wishes
from broker.services.sites import Entry

_Site = tuple[str, tuple[str, ...]]  # its name, and the data resources that it says it has


class Measuring:
    """`located`: what is known of the data now; None: what the request states."""

    def __init__(
        self,
        request: ExecutionRequest,
        wishes: Wishes,
        map_: Map,
        experience: Experience,
        located: Callable[[], tuple[Item, ...]] | None,
    ) -> None:
        stated = items(request) if located is None else ()
        self._located = located or (lambda: stated)
        self._outputs, self._wishes, self._map = request.outputs, wishes, map_
        self._terrain = Terrain(map_, experience, wishes.weights.value_of_time, wishes.stand_ins.bytes)
        self._items = self._located()
        self._paths = frozenset(item.path for item in self._items)
        self._wanted = place.locate(self._items, map_)
        self._here: dict[_Site, Locality] = {}
        self._guesses: dict[_Site, Guess | None] = {}  # of offers that do not know

    @property
    def items(self) -> tuple[Item, ...]:
        """What the offers are measured by, with a note on what lies where no storage is declared."""
        return place.outside(self._items, self._map)

    def look_again(self) -> bool:
        """Whether more is known than was; what was measured before is then to be measured anew."""
        if (found := self._located()) == self._items:
            return False
        self._items, self._wanted = found, place.locate(found, self._map)
        self._here.clear()
        self._guesses.clear()
        return True

    def locality(self, stated: Stated | None, entry: Entry) -> Locality:
        """Of one offer; `stated`: what it says itself."""
        moving, delivery = self._moving(stated, entry), self._delivery(stated, entry)
        return msgspec.structs.replace(moving, delivery=delivery) if delivery else moving

    def _delivery(self, stated: Stated | None, entry: Entry) -> Delivery | None:
        """Of results that are to go elsewhere; as with data, what we know of the site's storages leads."""
        if self._outputs is None or self._outputs.to is None:
            return None
        if not entry.site.storages and stated is not None and stated.delivery is not None:
            price = self._map.exchange.convert(stated.delivery.price, stated.currency)
            if price is not None:
                return msgspec.structs.replace(stated.delivery, price=price)
        return deliver(self._outputs, _place(entry), self._terrain, self._wishes.stand_ins)

    def _moving(self, stated: Stated | None, entry: Entry) -> Locality:
        if not self._wanted:
            return Locality()
        if not entry.site.storages and stated is not None and not _only_held(stated):
            return self._told(stated, entry)
        held = stated.held if stated is not None else ()
        if (entry.name, held) not in self._here:
            where = _place(entry, frozenset(held))
            self._here[entry.name, held] = place.measure(self._wanted, where, self._terrain)
        return self._here[entry.name, held]

    def _told(self, stated: Stated, entry: Entry) -> Locality:
        """Where it does not know how much moves, what we know by now says what that may come to: all but what it has,
        since which storages are at which of its sites is not ours to know."""
        egress = self._map.exchange.convert(stated.egress, stated.currency) if stated.egress else None
        held = tuple(path for path in stated.held if path in self._paths)
        open_ = stated.bytes is None or stated.staging is None or egress is None
        told = Locality(
            stated.bytes, stated.sources, stated.staging, egress, "unknown" if open_ else stated.certainty,
            stated.least, stated.recall, stated.cached, held, stated.samples,
        )  # fmt: skip
        if stated.bytes is not None:
            return told
        if (entry.name, held) not in self._guesses:
            found = place.measure(self._wanted, Place(entry.name, held=frozenset(held)), self._terrain)
            guess = found.guess if found.bytes is None else Guess(found.bytes, found.staging, found.egress)
            self._guesses[entry.name, held] = guess
        return msgspec.structs.replace(told, guess=self._guesses[entry.name, held])


def _place(entry: Entry, held: frozenset[str] = frozenset()) -> Place:
    return Place(entry.name, tuple(storage.name for storage in entry.storages), held)


def _only_held(stated: Stated) -> bool:
    """A site that knows its own cache, and nothing of where the rest lies. A broker that does not know it either says
    that it is unknown: its storages are those of many sites."""
    return bool(stated.held) and stated.bytes is None and stated.staging is None and stated.certainty != "unknown"
