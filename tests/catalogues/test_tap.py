"""ObsCore through TAP: what is asked, whom a text may not make do what, and what comes of answers that lie."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from pydantic import ValidationError

from adapters.data.datalink import MOST_DOCUMENTS, Links
from adapters.data.tap import ESTIMATE, TapCatalogue, TapOptions
from broker.domain import kinds
from broker.domain.data import IvoaDataResource, SimpleDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, Replica
from broker.errors import SettingsError, SiteForgot, SiteMisbehaved, SiteRefused, SiteTimeout
from broker.plugins import CatalogueResources
from broker.services.clock import SystemClock

LINKED = "application/x-votable+xml;content=datalink"
COLUMNS = ("obs_publisher_did", "access_url", "access_format", "access_estsize")
DATA = "https://data.example"


def table(*rows: tuple[str, ...], columns: tuple[str, ...] = COLUMNS, after: str = "") -> str:
    fields = "".join(f'<FIELD name="{name}" datatype="char" arraysize="*"/>' for name in columns)
    cells = "".join("<TR>" + "".join(f"<TD>{cell}</TD>" for cell in row) + "</TR>" for row in rows)
    return (
        f'<VOTABLE><RESOURCE type="results"><INFO name="QUERY_STATUS" value="OK"/>'
        f"<TABLE>{fields}<DATA><TABLEDATA>{cells}</TABLEDATA></DATA></TABLE>{after}</RESOURCE></VOTABLE>"
    )


def links(*rows: tuple[str, str]) -> str:
    return table(*(("#this", *row) for row in rows), columns=("semantics", "access_url", "content_length"))


def failed(words: str) -> str:
    return f'<VOTABLE><RESOURCE><INFO name="QUERY_STATUS" value="ERROR">{words}</INFO></RESOURCE></VOTABLE>'


class Service:
    """`rows` answers a query, each of `documents` its path below /links/. `asked`: the queries, and those paths."""

    def __init__(self) -> None:
        self.rows: str | Callable[[web.Request], web.StreamResponse] = table()
        self.documents: dict[str, str] = {}
        self.asked: list[Any] = []

    async def query(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        return web.Response(text=self.rows) if isinstance(self.rows, str) else self.rows(request)

    async def document(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        self.asked.append(name)
        if name == "silent":
            await asyncio.Event().wait()
        return web.Response(text=self.documents.get(name, links((f"{DATA}/{name}.fits", "5"))))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def base(service: Service) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/tap/sync", service.query)
    app.router.add_get("/links/{name}", service.document)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0)
    yield str(server.make_url("/")).rstrip("/")
    await server.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session:
        yield session


@pytest.fixture
def catalogue(http: aiohttp.ClientSession, base: str) -> TapCatalogue:
    resources = CatalogueResources("obs", f"{base}/tap", SystemClock(), http, None, lambda _: False)
    return TapCatalogue(TapOptions(most_rows=100, services=(f"{base}/links",)), resources)


def soon(seconds: float = 5.0) -> Deadline:
    return Deadline.after(seconds, SystemClock().monotonic())


def ivoa(**block: Any) -> IvoaDataResource:
    return IvoaDataResource.model_validate({"kind": kinds.IVOA_DATA, "ivoa": block})


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_publishers_identifier_is_the_condition_wherever_it_stands(catalogue: TapCatalogue) -> None:
    wanted = "obs_publisher_did = 'ivo://x/y?z'"
    assert catalogue.name(ivoa(ivoid="ivo://x/y?z"), ()) == wanted
    assert catalogue.name(ivoa(ivoid="ivo://other", obscore={"obs_publisher_did": "ivo://x/y?z"}), ()) == wanted


def test_an_observation_of_a_collection_is_named_by_both_and_narrowed_by_what_else_is_said(
    catalogue: TapCatalogue,
) -> None:
    row = {"obs_id": "7", "obs_collection": "survey"}
    assert catalogue.name(ivoa(obscore=row), ()) == "obs_collection = 'survey' AND obs_id = '7'"
    narrowed = catalogue.name(ivoa(obscore={**row, "dataproduct_type": "cube", "calib_level": 2}), ())
    assert narrowed == "obs_collection = 'survey' AND obs_id = '7' AND dataproduct_type = 'cube' AND calib_level = 2"


@pytest.mark.parametrize("block", [{}, {"obscore": {}}, {"obscore": {"obs_id": "7"}}, {"datalink": {"ID": "x"}}])
def test_what_names_no_row_has_no_name(catalogue: TapCatalogue, block: dict[str, Any]) -> None:
    assert catalogue.name(ivoa(**block), ("https://data.example/a",)) is None


def test_only_data_of_the_virtual_observatory_has_a_name(catalogue: TapCatalogue) -> None:
    simple = SimpleDataResource.model_validate({"kind": kinds.SIMPLE_DATA, "location": "https://data.example/a"})
    assert catalogue.name(simple, ("https://data.example/a",)) is None


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", "''; DROP TABLE x; --", "o'brien", "'", "''", "a' UNION SELECT * FROM b WHERE 'x'='x"]
)
def test_a_text_does_not_get_out_of_its_quotes(catalogue: TapCatalogue, text: str) -> None:
    name = catalogue.name(ivoa(ivoid=text), ())
    assert name is not None
    literal = re.fullmatch(r"obs_publisher_did = '((?:[^']|'')*)'", name)
    assert literal is not None
    assert literal[1].replace("''", "'") == text


@pytest.mark.parametrize("text", ["\\' OR 1=1 --", "\\", "a\nb", "a\0b", "a\u2028b", "x" * 1001, ""])
def test_a_text_that_is_no_identifier_is_not_asked(catalogue: TapCatalogue, text: str) -> None:
    assert catalogue.name(ivoa(ivoid=text), ()) is None
    assert catalogue.name(ivoa(obscore={"obs_id": "7", "obs_collection": text}), ()) is None


async def test_the_query_asks_for_so_many_rows_in_the_format_that_every_service_has(
    catalogue: TapCatalogue, service: Service
) -> None:
    service.rows = table(("d", f"{DATA}/a.fits", "application/fits", "3"))
    name = catalogue.name(ivoa(ivoid="a+b&c=d%20é"), ())
    assert name is not None
    await catalogue.locate(name, soon())
    assert service.asked == [
        {
            "REQUEST": "doQuery",
            "LANG": "ADQL",
            "RESPONSEFORMAT": "votable",
            "MAXREC": "100",
            "QUERY": "SELECT obs_publisher_did, access_url, access_format, access_estsize FROM ivoa.obscore "
            "WHERE obs_publisher_did = 'a+b&c=d%20é'",
        }
    ]


@pytest.mark.parametrize("table", ["obscore; DROP", "a b", "", "a.b.c.d", "x'"])
def test_a_table_that_is_no_name_is_refused(table: str) -> None:
    with pytest.raises(ValidationError):
        TapOptions(table=table)


def test_a_service_has_an_address(http: aiohttp.ClientSession) -> None:
    with pytest.raises(SettingsError, match="url"):
        TapCatalogue(TapOptions(), CatalogueResources("obs", None, SystemClock(), http, None, lambda _: False))


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────


async def said(catalogue: TapCatalogue, service: Service, *rows: tuple[str, ...]) -> Located:
    service.rows = table(*rows)
    return await catalogue.locate("x = 'y'", soon())


def at(*urls: str) -> tuple[Replica, ...]:
    return tuple(Replica(None, url) for url in urls)


async def test_an_estimate_is_told_as_one_in_bytes(catalogue: TapCatalogue, service: Service) -> None:
    found = await said(catalogue, service, ("d", f"{DATA}/a.fits", "application/fits", "12"))
    assert found == Located((Portion(12_000.0, at(f"{DATA}/a.fits")),), estimated=True, sized=ESTIMATE)


@pytest.mark.parametrize("size", ["", "0", "-1", "NaN", "inf", "1e30", "12 kB", "9" * 400])
async def test_an_estimate_that_is_none_is_not_known(catalogue: TapCatalogue, service: Service, size: str) -> None:
    found = await said(catalogue, service, ("d", f"{DATA}/a.fits", "application/fits", size))
    assert found == Located((Portion(None, at(f"{DATA}/a.fits")),))


async def test_products_of_one_observation_are_files_and_formats_of_one_product_are_not(
    catalogue: TapCatalogue, service: Service
) -> None:
    found = await said(
        catalogue,
        service,
        ("one", f"{DATA}/1.fits", "application/fits", "9"),
        ("one", f"{DATA}/1.hdf5", "application/x-hdf5", "10"),
        ("two", f"{DATA}/2.fits", "application/fits", "4.5"),
        ("", f"{DATA}/3.fits", "application/fits", "2"),
        ("", f"{DATA}/4.fits", "application/fits", "1"),
    )
    assert found.portions == (
        Portion(10_000.0, at(f"{DATA}/1.fits", f"{DATA}/1.hdf5")),
        Portion(4_500.0, at(f"{DATA}/2.fits")),
        Portion(2_000.0, at(f"{DATA}/3.fits")),
        Portion(1_000.0, at(f"{DATA}/4.fits")),
    )


async def test_a_links_document_is_exact_and_leads(catalogue: TapCatalogue, service: Service, base: str) -> None:
    service.documents["two"] = links((f"{DATA}/1.fits", "7"), (f"{DATA}/2.fits", "5"))
    found = await said(catalogue, service, ("d", f"{base}/links/two", LINKED, "1"))
    assert found == Located((Portion(7.0, at(f"{DATA}/1.fits")), Portion(5.0, at(f"{DATA}/2.fits"))))


async def test_where_a_links_document_knows_no_lengths_the_estimate_counts(
    catalogue: TapCatalogue, service: Service, base: str
) -> None:
    service.documents["two"] = links((f"{DATA}/1.fits", "7"), (f"{DATA}/2.fits", ""))
    found = await said(catalogue, service, ("d", f"{base}/links/two", LINKED, "4"))
    assert found.portions == (Portion(2000.0, at(f"{DATA}/1.fits")), Portion(2000.0, at(f"{DATA}/2.fits")))
    assert (found.estimated, found.sized) == (True, ESTIMATE)
    found = await said(catalogue, service, ("d", f"{base}/links/two", LINKED, ""))
    assert sorted(portion.bytes or 0 for portion in found.portions) == [0, 7]
    assert not found.estimated


async def test_where_links_tell_nothing_the_size_is_known_and_no_place(
    catalogue: TapCatalogue, service: Service, base: str
) -> None:
    service.documents["gone"] = failed("it was withdrawn")
    for url in (f"{base}/links/gone", "http://127.0.0.1:1/admin", "javascript:alert(1)"):
        found = await said(catalogue, service, ("d", url, LINKED, "4"))
        assert (found.portions, found.estimated, found.sized) == ((Portion(4000.0),), True, ESTIMATE)
        assert len(found.unknown) == 1  # why there is no place
    with pytest.raises(SiteForgot, match="it was withdrawn"):
        await said(catalogue, service, ("d", f"{base}/links/gone", LINKED, ""))
    with pytest.raises(SiteForgot, match=r"not asked: http://127.0.0.1:1/admin .*options\.services"):
        await said(catalogue, service, ("d", "http://127.0.0.1:1/admin", LINKED, ""))
    with pytest.raises(SiteForgot, match="neither a size nor an address"):
        await said(catalogue, service, ("d", "javascript:alert(1)", "text/html", "0"))


async def test_links_that_hang_do_not_cost_the_estimate(catalogue: TapCatalogue, service: Service, base: str) -> None:
    service.rows = table(("d", f"{base}/links/silent", LINKED, "4"))
    found = await catalogue.locate("x = 'y'", soon(1.0))
    assert found.portions == (Portion(4000.0),)


async def test_links_have_to_answer_before_the_whole_does(
    catalogue: TapCatalogue, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Deadline] = []

    async def files(self: Links, address: str, deadline: Deadline) -> tuple[Portion, ...]:
        given.append(deadline)
        raise SiteTimeout("no answer.")

    monkeypatch.setattr(Links, "files", files)
    service.rows = table(("d", "https://links.example/l", LINKED, "4"))
    deadline = soon()
    assert (await catalogue.locate("x = 'y'", deadline)).portions == (Portion(4000.0),)
    assert given[0].at < deadline.at


async def test_so_many_links_documents_are_read_and_no_more(
    catalogue: TapCatalogue, service: Service, base: str
) -> None:
    rows = [(f"d{i}", f"{base}/links/{i}", LINKED, "4") for i in range(MOST_DOCUMENTS + 3)]
    found = await said(catalogue, service, *rows)
    assert len(service.asked) == 1 + MOST_DOCUMENTS
    assert sum(portion.files for portion in found.portions) == MOST_DOCUMENTS + 3
    assert sum(portion.bytes or 0 for portion in found.portions) == 5 * MOST_DOCUMENTS + 3 * 4000


async def test_more_rows_than_are_read_make_the_size_unknown(catalogue: TapCatalogue, service: Service) -> None:
    row = ("", f"{DATA}/a.fits", "application/fits", "1")
    with pytest.raises(SiteForgot, match="more than 100 products"):
        await said(catalogue, service, *[row] * 101)
    service.rows = table(row, after='<INFO name="QUERY_STATUS" value="OVERFLOW"/>')
    with pytest.raises(SiteForgot, match="more than 100 products"):
        await catalogue.locate("x = 'y'", soon())


async def test_no_row_is_no_such_product(catalogue: TapCatalogue, service: Service) -> None:
    with pytest.raises(SiteForgot, match=r"no such product in ivoa\.obscore"):
        await said(catalogue, service)


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (failed("no table ivoa.obscore"), SiteRefused, "no table ivoa.obscore"),
        (failed(""), SiteRefused, "it failed"),
        (table(("d", "u"), columns=COLUMNS[:2]), SiteMisbehaved, "columns of ObsCore"),
        (table(("d", "u")), SiteMisbehaved, "2 cells, for 4 fields"),
        ("<html>log in</html>", SiteMisbehaved, "<html>"),
        ("<VOTABLE/>", SiteMisbehaved, "columns of ObsCore"),
        ('<!DOCTYPE V [<!ENTITY a "b">]><VOTABLE>&a;</VOTABLE>', SiteMisbehaved, "document type"),
    ],
)
async def test_an_answer_that_is_none_says_why(
    catalogue: TapCatalogue, service: Service, answer: str, error: type[Exception], words: str
) -> None:
    service.rows = answer
    with pytest.raises(error, match=words):
        await catalogue.locate("x = 'y'", soon())


async def test_a_service_that_answers_by_jobs_alone_or_refuses_is_quoted(
    catalogue: TapCatalogue, service: Service
) -> None:
    service.rows = lambda _: web.Response(status=405, text="use /async")
    with pytest.raises(SiteRefused, match="answered 405: use /async"):
        await catalogue.locate("x = 'y'", soon())
    service.rows = lambda _: web.Response(status=400, text=failed("column not found"))
    with pytest.raises(SiteRefused, match="answered 400: column not found"):
        await catalogue.locate("x = 'y'", soon())


async def test_a_result_may_lie_elsewhere_at_the_service_and_nowhere_else(
    catalogue: TapCatalogue, service: Service, base: str
) -> None:
    moved = table(("d", f"{DATA}/a.fits", "application/fits", "1"))

    def led(request: web.Request) -> web.StreamResponse:
        if "run" in request.query:
            return web.Response(text=moved)
        raise web.HTTPSeeOther(f"{base}/tap/sync?run=1")

    service.rows = led
    assert (await catalogue.locate("x = 'y'", soon())).portions[0].bytes == 1000
    service.rows = lambda _: web.Response(status=303, headers={"Location": f"{base}/admin"})
    with pytest.raises(Exception, match="not asked"):
        await catalogue.locate("x = 'y'", soon())
