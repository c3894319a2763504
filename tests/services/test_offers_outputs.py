"""A question whose results are to go somewhere: who is asked, who leads, and whose word on the way counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.domain.locality import NOTHING, Delivery
from broker.domain.money import Exchange
from broker.domain.outcome import Quote
from broker.domain.quantities import Span
from broker.domain.site import Link, Profile, Registration, StorageElement
from broker.domain.storages import Map
from broker.ports import Ask, Quotes, Store
from broker.testing.bench import Bench
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite

ALBA, BOREALIS = StorageElement(name="ALBA", prefixes=("s3://results/",)), StorageElement(name="BOREALIS")
MAP = Map([ALBA, BOREALIS], [Link(source="*", target="*", bandwidth=1e8, price=0.05)], Exchange("EUR", {"USD": 0.5}))
WRITER = Profile(platform="local", broker="b", writes=("s3://results/",))
SENT = {"to": "s3://results/mine/", "size": 20}
SAID = {
    "to": "results",
    "seconds": {"expected": 7.0, "pessimistic": 7.0, "unit": "s"},
    "price": {"expected": 4.0, "pessimistic": 4.0, "unit": "USD"},
    "bytes": 20e9,
}


class Telling(ScriptedSite):
    """A broker whose offers say what the way of results takes."""

    async def quote(self, ask: Ask) -> Quotes:
        found = await super().quote(ask)
        return Quotes(tuple(Quote(quote.handle, _telling(quote.body)) for quote in found.quotes))


def _telling(body: bytes) -> bytes:
    return msgspec.json.encode({**msgspec.json.decode(body), "locality": {"certainty": "stated", "delivery": SAID}})


async def asked(
    store: Store, clock: FakeClock, *sites: ScriptedSite, storages: bool = True, **more: Any
) -> dict[str, Delivery | None]:
    """Of those that offer, in the order of the ranking: what the way of the results takes."""
    at = {"alba": (ALBA,), "borealis": (BOREALIS,)} if storages else {}
    registrations = {
        site.name: Registration(name=site.name, url="http://x/", storages=at.get(site.name, ())) for site in sites
    }
    planners = {site.name: site for site in sites}
    bench = await Bench(store, clock, planners, registrations=registrations, map_=MAP).start()
    state = await bench.ask(**more)
    assert state.body is not None
    kept = {str(item.session): item.candidate for item in state.body.kept}
    found = {kept[ranked.session].site: kept[ranked.session].locality.delivery for ranked in state.ranking}
    await bench.offers.close()
    return found


async def test_the_site_at_whose_storage_the_place_lies_leads(store: Store, clock: FakeClock) -> None:
    alba, borealis = (ScriptedSite(name, clock, profile=WRITER) for name in ("alba", "borealis"))
    found = await asked(store, clock, borealis, alba, outputs=SENT)
    assert list(found) == ["alba", "borealis"]
    assert found["alba"] == Delivery(NOTHING, NOTHING, "ALBA", 20e9)
    assert found["borealis"] == Delivery(Span.of(200.0), Span.of(1.0), "ALBA", 20e9)


async def test_results_that_stay_take_nothing(store: Store, clock: FakeClock) -> None:
    found = await asked(store, clock, ScriptedSite("alba", clock, profile=WRITER), outputs={"size": 20, "keep": "P1D"})
    assert found == {"alba": None}


@pytest.mark.parametrize("profile", [Profile(), Profile(platform="local", writes=("s3://other/",))])
async def test_who_cannot_write_there_is_not_asked(store: Store, clock: FakeClock, profile: Profile) -> None:
    site = ScriptedSite("borealis", clock, profile=profile)
    assert list(await asked(store, clock, site, ScriptedSite("alba", clock, profile=WRITER), outputs=SENT)) == ["alba"]
    assert site.calls("quote") == []


async def test_a_broker_below_is_believed_where_nothing_is_known_of_its_storages(
    store: Store, clock: FakeClock
) -> None:
    found = await asked(store, clock, Telling("child", clock, profile=WRITER), storages=False, outputs=SENT)
    assert found == {"child": Delivery(Span.of(7.0), Span.of(2.0), "results", 20e9)}


async def test_and_not_where_they_are_known(store: Store, clock: FakeClock) -> None:
    found = await asked(store, clock, Telling("borealis", clock, profile=WRITER), outputs=SENT)
    assert found["borealis"] == Delivery(Span.of(200.0), Span.of(1.0), "ALBA", 20e9)


async def test_what_nobody_asked_about_is_not_heard(store: Store, clock: FakeClock) -> None:
    assert await asked(store, clock, Telling("child", clock, profile=WRITER), storages=False) == {"child": None}
