"""The catalogues of kind `tap` and `datalink` against a real DaCHS: what a service of the Virtual Observatory says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from adapters.data.datalink import DatalinkCatalogue, DatalinkOptions
from adapters.data.datalink import plugin as datalink_plugin
from adapters.data.tap import ESTIMATE, TapCatalogue, TapOptions
from adapters.data.tap import plugin as tap_plugin
from broker.domain import kinds
from broker.domain.data import IvoaDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, Replica
from broker.domain.request import ExecutionRequest
from broker.errors import SiteForgot, SiteRefused
from broker.plugins import CatalogueResources
from broker.services.clock import SystemClock
from broker.services.locating import Bounds, Known, Locating
from broker.testing.asks import wanted
from broker.testing.dachs import COLLECTION, DATA, LINKED, MANY, POSTGRES, Dachs, dachs, did
from broker.testing.program import Caller, Program
from tests.conftest import want


@pytest.fixture(scope="module")
def server() -> Iterator[Dachs]:
    want("dachs", "python3-gavo")
    want(str(POSTGRES / "postgres"), "postgresql-15-pgsphere postgresql-15-q3c")
    with dachs() as running:
        yield running


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session:
        yield session


def resources(http: aiohttp.ClientSession, url: str | None) -> CatalogueResources:
    return CatalogueResources("vo", url, SystemClock(), http, None, lambda _: False)


@pytest.fixture
def tap(server: Dachs, http: aiohttp.ClientSession) -> TapCatalogue:
    return TapCatalogue(TapOptions(services=(server.links,)), resources(http, server.tap))


@pytest.fixture
def links(server: Dachs, http: aiohttp.ClientSession) -> DatalinkCatalogue:
    return DatalinkCatalogue(DatalinkOptions(), resources(http, server.links))


def ivoa(**block: Any) -> IvoaDataResource:
    return IvoaDataResource.model_validate({"kind": kinds.IVOA_DATA, "ivoa": block})


async def located(catalogue: TapCatalogue | DatalinkCatalogue, **block: Any) -> Located:
    name = catalogue.name(ivoa(**block), ())
    assert name is not None
    return await catalogue.locate(name, Deadline.after(20.0, SystemClock().monotonic()))


def at(name: str) -> tuple[Replica, ...]:
    return (Replica(None, f"{DATA}/{name}.fits"),)


async def test_tap_tells_the_size_and_place_of_a_product(tap: TapCatalogue) -> None:
    found = await located(tap, ivoid=did("plain"))
    assert found == Located((Portion(12e6, at("plain")),), estimated=True, sized=ESTIMATE)


@pytest.mark.parametrize("name", ["unsized", "tiny"])
async def test_tap_knows_no_size_where_obscore_has_null_or_zero(tap: TapCatalogue, name: str) -> None:
    assert await located(tap, ivoid=did(name)) == Located((Portion(None, at(name)),))


async def test_a_quote_in_an_identifier_reaches_adql_as_a_quote(tap: TapCatalogue) -> None:
    assert (await located(tap, ivoid=did("o'brien"))).portions == (Portion(7_000.0, at("obrien")),)


@pytest.mark.parametrize("text", [did("x' OR '1'='1"), "'; DROP TABLE survey.products; --", did("é")])
async def test_no_identifier_makes_the_database_do_anything_else(tap: TapCatalogue, text: str) -> None:
    with pytest.raises(SiteForgot, match="no such product"):
        await located(tap, ivoid=text)
    assert (await located(tap, ivoid=did("plain"))).portions


async def test_the_products_of_an_observation_are_added_up(tap: TapCatalogue) -> None:
    found = await located(tap, obscore={"obs_id": "pair", "obs_collection": COLLECTION})
    assert sorted((p.bytes, p.replicas) for p in found.portions) == [(1e6, at("pair-1")), (2e6, at("pair-2"))]
    found = await located(tap, obscore={"obs_id": "many", "obs_collection": COLLECTION, "dataproduct_type": "cube"})
    assert (sum(p.files for p in found.portions), sum(p.bytes or 0 for p in found.portions)) == (MANY, MANY * 1000)
    with pytest.raises(SiteForgot):
        await located(tap, obscore={"obs_id": "many", "obs_collection": COLLECTION, "calib_level": 3})


async def test_what_overflows_is_not_added_up(server: Dachs, http: aiohttp.ClientSession) -> None:
    few = TapCatalogue(TapOptions(most_rows=MANY - 1), resources(http, server.tap))
    with pytest.raises(SiteForgot, match="more than"):
        await located(few, obscore={"obs_id": "many", "obs_collection": COLLECTION})


async def test_a_row_that_leads_to_links_is_as_exact_as_they_are(tap: TapCatalogue) -> None:
    found = await located(tap, ivoid=did("linked"))
    assert found == Located((Portion(5e9, at("linked-1")), Portion(3e9, at("linked-2"))))
    found = await located(tap, ivoid=did("unsized-links"))
    assert found == Located((Portion(4e6, at("unsized-links")),), estimated=True, sized=ESTIMATE)


async def test_a_table_that_there_is_none_of_is_told_in_the_services_words(
    server: Dachs, http: aiohttp.ClientSession
) -> None:
    wrong = TapCatalogue(TapOptions(table="ivoa.nothing"), resources(http, server.tap))
    with pytest.raises(SiteRefused, match=r"ivoa\.nothing"):
        await located(wrong, ivoid=did("plain"))


async def test_links_tell_the_files_of_an_identifier(links: DatalinkCatalogue) -> None:
    found = await located(links, datalink={"ID": did("linked")})
    assert found == Located((Portion(5e9, at("linked-1")), Portion(3e9, at("linked-2"))))
    assert await located(links, datalink={"ID": did("unsized-links")}) == Located((Portion(None, at("unsized-links")),))


async def test_links_follow_the_services_own_redirects(server: Dachs, http: aiohttp.ClientSession) -> None:
    catalogue = DatalinkCatalogue(DatalinkOptions(services=(server.url,)), resources(http, None))
    found = await located(
        catalogue, obscore={"access_url": f"{server.obscore_links}?ID={did('linked')}", "access_format": LINKED}
    )
    assert len(found.portions) == 2


@pytest.mark.parametrize(("name", "words"), [("withdrawn", "it was withdrawn"), ("never", "no data set of this name")])
async def test_links_that_end_in_a_fault_say_why(links: DatalinkCatalogue, name: str, words: str) -> None:
    with pytest.raises(SiteForgot, match=words):
        await located(links, datalink={"ID": did(name)})


async def test_both_together_tell_of_a_request_what_each_knows_best(
    server: Dachs, tap: TapCatalogue, links: DatalinkCatalogue
) -> None:
    desk = [
        Known("obs", tap, tap_plugin.trust, tap_plugin.places, tap_plugin.sizes, timeout=20.0),
        Known("links", links, datalink_plugin.trust, datalink_plugin.places, datalink_plugin.sizes, timeout=20.0),
    ]
    clock = SystemClock()
    locating = Locating(desk, clock, Bounds(patience=20.0))
    request = ExecutionRequest.model_validate(
        {
            "executable": {"kind": kinds.PYTHON_PROGRAM, "source": "pass"},
            "data": [
                ivoa(obscore={"obs_publisher_did": did("linked")}).model_dump(exclude_none=True),
                ivoa(obscore={"obs_publisher_did": did("plain")}).model_dump(exclude_none=True),
                ivoa(obscore={"obs_publisher_did": did("unsized")}).model_dump(exclude_none=True),
            ],
        }
    )
    try:
        search = await locating.search(request, Deadline.after(60.0, clock.monotonic()))
        linked, plain, unsized = search.found()
    finally:
        await locating.close()
    assert (linked.bytes, linked.files, linked.sized, linked.placed, linked.estimated) == (
        8e9,
        2,
        "links",
        "links",
        False,
    )
    assert (plain.bytes, plain.sized, plain.placed, plain.estimated) == (12e6, ESTIMATE, "obs", True)
    assert unsized.bytes is None
    assert unsized.placed == "obs"
    assert "no data set of this name" in " ".join(unsized.unknown)


async def test_a_broker_with_both_ranks_first_where_the_files_are_and_says_what_it_does_not_know(
    server: Dachs, tmp_path: Path
) -> None:
    sites = {
        "far": {"kind": "simulated"},
        "near": {"kind": "simulated", "storages": [{"name": "SURVEY", "prefixes": [DATA]}]},
    }
    broker = Program(
        tmp_path, "net", sites=sites, tariff="free", capacity={"cores": 100, "memory": 100},
        catalogues={
            "obs": {"kind": "tap", "url": server.tap, "timeout": 60},
            "links": {"kind": "datalink", "url": server.links, "timeout": 60},
        },
        locating={"patience": 60},
    )  # fmt: skip
    strange = "http://127.0.0.1:1/links"
    blocks = [
        {"obscore": {"obs_publisher_did": did("linked")}},
        {"ivoid": did("plain")},
        {"obscore": {"access_url": f"{strange}?ID=x", "access_format": LINKED}},
    ]
    data = [{"kind": kinds.IVOA_DATA, "meta": {"name": f"d{i}"}, "ivoa": block} for i, block in enumerate(blocks)]
    try:
        broker.start()
        async with aiohttp.ClientSession() as http:
            answer = await Caller(http)("POST", f"{broker.url}/requests", wanted(data=data))
    finally:
        broker.stop()
    assert answer.status == 303, answer.body
    linked, plain, unknown = answer.json()["located"]
    assert (linked["bytes"], linked["files"], linked["sized"], linked["placed"]) == (8e9, 2, "links", "links")
    assert (plain["bytes"], plain["sized"], plain["placed"], plain["estimated"]) == (12e6, ESTIMATE, "obs", True)
    assert "bytes" not in unknown
    assert f"links: not asked: {strange} is not an address that this broker may ask" in unknown["unknown"][0]
    assert [offer["site"] for offer in answer.json()["offers"]] == ["near", "far"]
