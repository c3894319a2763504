"""Links documents: which files a data set is, whom we ask for that, and what comes of documents that lie."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.data.datalink import MOST_DOCUMENTS, DatalinkCatalogue, DatalinkOptions, plugin
from adapters.data.tap import plugin as tap
from broker.domain import kinds
from broker.domain.data import AbstractDataResource, IvoaDataResource, SimpleDataResource, SkaoDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import MOST_PORTIONS, Located, Portion, Replica
from broker.errors import NotAsked, SettingsError, SiteBusy, SiteForgot, SiteTimeout, SiteUnreachable
from broker.plugins import CatalogueResources, Credentials
from broker.services.clock import SystemClock

LINKED = "application/x-votable+xml;content=datalink"
COLUMNS = ("ID", "access_url", "service_def", "error_message", "semantics", "content_type", "content_length")


def document(*rows: dict[str, str], status: str = "", columns: tuple[str, ...] = COLUMNS) -> str:
    fields = "".join(f'<FIELD name="{name}" datatype="char" arraysize="*"/>' for name in columns)
    cells = "".join("<TR>" + "".join(f"<TD>{row.get(name, '')}</TD>" for name in columns) + "</TR>" for row in rows)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><VOTABLE><RESOURCE type="results">{status}'
        f"<TABLE>{fields}<DATA><TABLEDATA>{cells}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )


def this(url: str = "https://data.example/a.fits", length: str = "5", **more: str) -> dict[str, str]:
    return {"ID": "x", "access_url": url, "semantics": "#this", "content_length": length, **more}


class Service:
    """Answers below its address as `answer` says: a text, or a whole handler. `asked`: what it was."""

    def __init__(self) -> None:
        self.answer: str | Callable[[web.Request], Any] = ""
        self.asked: list[web.Request] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, content_type=LINKED.partition(";")[0])
        made = self.answer(request)
        found: web.StreamResponse = await made if asyncio.iscoroutine(made) else made
        return found


async def serve(service: Service) -> TestServer:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", service.handle)
    server = TestServer(app)
    await server.start_server()
    return server


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def base(service: Service) -> AsyncIterator[str]:
    server = await serve(service)
    yield str(server.make_url("/")).rstrip("/")
    await server.close()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as session:
        yield session


Make = Callable[..., DatalinkCatalogue]


@pytest.fixture
def make(http: aiohttp.ClientSession) -> Make:
    def made(
        *services: str,
        url: str | None = None,
        credentials: Credentials | None = None,
        declared: Callable[[str], bool] = lambda _: False,
    ) -> DatalinkCatalogue:
        resources = CatalogueResources("links", url, SystemClock(), http, credentials, declared)
        return DatalinkCatalogue(DatalinkOptions(services=services), resources)

    return made


def soon(seconds: float = 5.0) -> Deadline:
    return Deadline.after(seconds, SystemClock().monotonic())


def ivoa(**block: Any) -> IvoaDataResource:
    return IvoaDataResource.model_validate({"kind": kinds.IVOA_DATA, "ivoa": block})


def simple(location: str) -> SimpleDataResource:
    return SimpleDataResource.model_validate({"kind": kinds.SIMPLE_DATA, "location": location})


# ── who is asked ─────────────────────────────────────────────────────────────────────────────────────────────


def test_obscore_that_leads_to_links_names_them(make: Make) -> None:
    links = "https://links.example/l?ID=ivo://x/y?z"
    resource = ivoa(obscore={"access_url": links, "access_format": LINKED})
    assert make().name(resource, ()) == links
    skao = SkaoDataResource.model_validate({"kind": kinds.SKAO_DATA, "ivoa": {"obscore": resource.ivoa.obscore}})  # type: ignore[union-attr]  # it has one
    assert make().name(skao, ()) == links


@pytest.mark.parametrize("form", ['application/x-votable+xml; content="datalink"', LINKED.upper()])
def test_the_format_is_known_however_it_is_written(make: Make, form: str) -> None:
    assert make().name(ivoa(obscore={"access_url": "https://l.example/l", "access_format": form}), ()) is not None


@pytest.mark.parametrize(
    "resource",
    [
        ivoa(),
        ivoa(obscore={"access_url": "https://data.example/a.fits", "access_format": "application/fits"}),
        ivoa(datalink={"ID": "ivo://x/y?z"}),
        simple("https://data.example/a.fits"),
        IvoaDataResource.model_validate({"kind": kinds.IVOA_DATA}),
    ],
)
def test_what_leads_to_no_links_has_no_name(make: Make, resource: AbstractDataResource) -> None:
    assert make("https://links.example/").name(resource, ("https://data.example/a.fits",)) is None


def test_an_identifier_is_asked_at_our_own_service(make: Make) -> None:
    catalogue = make(url="https://links.example/l")
    row = {"ID": "ivo://x/y?a&b#c"}
    assert catalogue.name(ivoa(datalink=row), ()) == "https://links.example/l?ID=ivo://x/y?a%26b%23c"
    assert catalogue.name(ivoa(obscore={"obs_publisher_did": "ivo://x/y"}), ()) is not None
    assert catalogue.name(ivoa(datalink={**row, "semantics": "#preview"}), ()) is None
    assert catalogue.name(ivoa(datalink={**row, "access_url": "https://data.example/a"}), ()) is None


def test_a_plain_address_below_a_links_service_is_asked_there(make: Make) -> None:
    address = "https://links.example/l/one"
    assert make("https://links.example/l").name(simple(address), (address,)) == address
    assert make("https://links.example/l/o").name(simple(address), (address,)) is None
    assert make("https://links.example/l").name(simple(address), ("https://LINKS.example:443/l/./one#x",)) == address


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1:1/admin",
        "https://links.example/other",
        "https://links.example/links-evil",
        "https://links.example/links/../other",
        "https://links.example/links/%2e%2e/other",
        "https://links.example/links/..%2fother",
        "https://links.example/links/..%5Cother",
        "http://links.example/links",
        "https://links.example:8443/links",
        "https://user@links.example/links",
        "https://links.example@evil.example/links",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "//links.example/links",
        "https://[::1",
        "https://links.example/links?" + "x" * 5000,
        " ",
    ],
)
async def test_an_address_that_nobody_named_is_not_asked_and_says_so(make: Make, address: str) -> None:
    catalogue = make("https://links.example/links/")
    name = catalogue.name(ivoa(obscore={"access_url": address, "access_format": LINKED}), ())
    assert name is not None
    with pytest.raises(NotAsked, match=r"not asked: .*catalogues\.links\.options\.services") as caught:
        await catalogue.locate(name, soon())
    assert len(caught.value.detail) < 500


@pytest.mark.parametrize(
    "address",
    ["https://evil.example/l?key=geheim", "https://u:geheim@links.example/l", "https://u:geheim@[::1/"],
)
async def test_nor_does_it_say_what_may_be_a_key(make: Make, address: str) -> None:
    with pytest.raises(NotAsked, match="not asked") as caught:
        await make("https://links.example/links/").locate(address, soon())
    assert "geheim" not in caught.value.detail


async def test_storages_that_are_declared_may_be_asked(make: Make, service: Service, base: str) -> None:
    service.answer = document(this())
    found = await make(declared=lambda url: url.startswith(base)).locate(f"{base}/l", soon())
    assert found.portions == (Portion(5.0, (Replica(None, "https://data.example/a.fits"),)),)


async def test_redirects_are_followed_to_where_we_may_ask_and_no_further(
    make: Make, service: Service, base: str
) -> None:
    def led(request: web.Request) -> web.Response:
        if request.path == "/links/old":
            raise web.HTTPSeeOther("/links/new?ID=1")
        if request.path == "/links/out":
            raise web.HTTPMovedPermanently("/admin")
        if request.path == "/links/round":
            raise web.HTTPFound("/links/round")
        return web.Response(text=document(this()))

    service.answer = led
    catalogue = make(f"{base}/links")
    assert (await catalogue.locate(f"{base}/links/old", soon())).portions[0].bytes == 5
    with pytest.raises(NotAsked, match="/admin"):
        await catalogue.locate(f"{base}/links/out", soon())
    assert "/admin" not in {request.path for request in service.asked}
    with pytest.raises(SiteForgot, match="redirects"):
        await catalogue.locate(f"{base}/links/round", soon())


async def test_credentials_go_to_our_own_service_and_nowhere_else(make: Make, service: Service, base: str) -> None:
    stranger = Service()
    other = await serve(stranger)

    def led(request: web.Request) -> web.Response:
        if request.path == "/own/away":
            raise web.HTTPFound(str(other.make_url("/l")))
        return web.Response(text=document(this()))

    service.answer, stranger.answer = led, document(this())
    catalogue = make(f"{base}/beside", str(other.make_url("/")), url=f"{base}/own", credentials=Credentials(token="t"))
    for path in ("/own/one", "/beside", "/own/away"):
        await catalogue.locate(f"{base}{path}", soon())
    assert [request.headers.get("Authorization") for request in service.asked] == ["Bearer t", None, "Bearer t"]
    assert "Authorization" not in stranger.asked[0].headers
    await other.close()


def test_settings_that_cannot_be_are_refused(make: Make) -> None:
    with pytest.raises(SettingsError, match=r"options\.services.*no http or https"):
        make("ftp://links.example/")
    with pytest.raises(SettingsError, match=r"credentials.*no url"):
        make(credentials=Credentials(token="t"))
    with pytest.raises(SettingsError, match=r"url.*no http or https"):
        make(url="links")


def test_the_more_exact_word_counts_first() -> None:
    assert plugin.trust < tap.trust


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────


async def said(make: Make, service: Service, base: str, answer: str | Callable[[web.Request], Any]) -> Located:
    service.answer = answer
    return await make(base).locate(f"{base}/l", soon())


async def test_each_row_of_the_data_itself_is_a_file_and_others_are_none(
    make: Make, service: Service, base: str
) -> None:
    answer = document(
        this("https://data.example/a.fits", "5000000000"),
        this("s3://bucket/b.fits", "7", semantics="http://www.ivoa.net/rdf/datalink/core#this"),
        this("https://data.example/a.png", "11", semantics="#preview"),
        this("https://data.example/old.fits", "13", semantics="#thisisnot"),
    )
    found = await said(make, service, base, answer)
    assert found.portions == (
        Portion(5e9, (Replica(None, "https://data.example/a.fits"),)),
        Portion(7.0, (Replica(None, "s3://bucket/b.fits"),)),
    )
    assert not found.estimated


@pytest.mark.parametrize(
    "length",
    ["", "0", "-1", "-5", "NaN", "nan", "inf", "1e30", "9" * 400, "12 kB", "0x10", "1_000", "1.5", "٣", "null", "true"],
)
async def test_a_length_that_is_none_is_not_known(make: Make, service: Service, base: str, length: str) -> None:
    found = await said(make, service, base, document(this(length=length)))
    assert found.portions == (Portion(None, (Replica(None, "https://data.example/a.fits"),)),)


@pytest.mark.parametrize(("length", "size"), [("9000000000", 9e9), ("12.0", 12.0), ("+3", 3.0), (" 4 ", 4.0)])
async def test_a_length_is_read_as_services_write_it(
    make: Make, service: Service, base: str, length: str, size: float
) -> None:
    assert (await said(make, service, base, document(this(length=length)))).portions[0].bytes == size


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "javascript://data.example/%0aalert(1)",
        "file:///etc/passwd",
        "file://data.example/a",
        "data:,x",
        "/relative",
        "not an address",
        "https://",
        "https://data.example/\u202estif.a",
        "h" * 5000,
        f"https://data.example/{'a' * 5000}",
        "https://[::1",
        "",
    ],
)
async def test_an_address_that_none_could_fetch_from_is_no_place(
    make: Make, service: Service, base: str, url: str
) -> None:
    assert (await said(make, service, base, document(this(url)))).portions == (Portion(5.0),)


async def test_what_a_service_makes_on_demand_has_no_place(make: Make, service: Service, base: str) -> None:
    found = await said(make, service, base, document(this(f"{base}/soda", service_def="soda")))
    assert found.portions == (Portion(5.0),)


async def test_documents_may_lead_to_documents(make: Make, service: Service, base: str) -> None:
    def led(request: web.Request) -> web.Response:
        row = this(f"{base}/second", content_type=LINKED) if request.path == "/l" else this()
        return web.Response(text=document(row))

    assert (await said(make, service, base, led)).portions[0].bytes == 5


async def test_of_a_great_many_files_each_has_a_place_still(make: Make, service: Service, base: str) -> None:
    rows = [this(f"https://data.example/set/{i}.fits?x={i}", "2") for i in range(MOST_PORTIONS + 1)]
    found = await said(make, service, base, document(*rows))
    folder = (Replica(None, "https://data.example/set/"),)
    assert found.portions == (Portion(2.0 * (MOST_PORTIONS + 1), folder, MOST_PORTIONS + 1),)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (document(this("", "", error_message="NotFoundFault: withdrawn")), "NotFoundFault: withdrawn"),
        (document(this(), this("", error_message="one is missing")), "one is missing"),
        (document({"semantics": "#preview", "error_message": "no such ID"}), "no such ID"),
        (document(this(semantics="#preview")), "names no data"),
        (document(), "names no data"),
        (document(status='<INFO name="QUERY_STATUS" value="ERROR">out of order</INFO>'), "out of order"),
        (document(this(), columns=("ID", "access_url")), "no links document"),
        (document(this(), status='<INFO name="QUERY_STATUS" value="OVERFLOW"/>'), "some of its links only"),
        ("<html><body>Please log in</body></html>", "<html>"),
        ("", "no XML"),
        ('<!DOCTYPE V [<!ENTITY x SYSTEM "file:///etc/passwd">]><VOTABLE>&x;</VOTABLE>', "document type"),
        ("<VOTABLE>" * 1000, "levels deep"),
        (document(*[this(f"https://data.example/{i}") for i in range(5000)]), "elements"),
    ],
)
async def test_a_document_that_tells_nothing_says_why(
    make: Make, service: Service, base: str, answer: str, words: str
) -> None:
    with pytest.raises(SiteForgot, match=words) as caught:
        await said(make, service, base, answer)
    assert base.removeprefix("http://") in caught.value.detail


async def test_documents_that_lead_in_a_circle_or_on_and_on_end(make: Make, service: Service, base: str) -> None:
    with pytest.raises(SiteForgot, match="back to itself"):
        await said(make, service, base, document(this(f"{base}/l", content_type=LINKED)))

    def onward(request: web.Request) -> web.Response:
        row = this(f"{base}/{len(service.asked)}", content_type=LINKED)
        return web.Response(text=document(row))

    service.asked.clear()
    with pytest.raises(SiteForgot, match="lead to one another"):
        await said(make, service, base, onward)
    assert len(service.asked) == MOST_DOCUMENTS
    with pytest.raises(NotAsked):
        await said(make, service, base, document(this("http://127.0.0.1:1/l", content_type=LINKED)))


async def test_a_body_without_an_end_is_left(make: Make, service: Service, base: str) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"<VOTABLE>" * 10_000)

    with pytest.raises(SiteForgot, match="more than"):
        await said(make, service, base, endless)


async def test_a_body_that_breaks_off_is_no_document(make: Make, service: Service, base: str) -> None:
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "10000"})
        await response.prepare(request)
        await response.write(document(this()).encode())
        assert request.transport is not None
        request.transport.close()
        return response

    with pytest.raises(SiteForgot, match="broke off"):
        await said(make, service, base, broken)


async def test_errors_of_http_are_told_with_the_services_words(make: Make, service: Service, base: str) -> None:
    words = document(status='<INFO name="QUERY_STATUS" value="ERROR">ID is missing</INFO>')
    with pytest.raises(SiteForgot, match="answered 400: ID is missing"):
        await said(make, service, base, lambda _: web.Response(status=400, text=words))
    with pytest.raises(SiteForgot, match=r"answered 404\."):
        await said(make, service, base, lambda _: web.Response(status=404, text="<html>"))
    with pytest.raises(SiteForgot, match="answered 403: it is embargoed"):
        await said(make, service, base, lambda _: web.Response(status=403, text="it is embargoed"))


async def test_only_a_named_service_that_is_down_counts_against_all(make: Make, service: Service, base: str) -> None:
    def busy(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "1"})

    with pytest.raises(SiteBusy):
        await said(make, service, base, busy)
    stated = make(declared=lambda _: True)
    with pytest.raises(SiteForgot):
        await stated.locate(f"{base}/l", soon())
    with pytest.raises(SiteUnreachable):
        await make("http://127.0.0.1:1/").locate("http://127.0.0.1:1/l", soon())
    with pytest.raises(SiteForgot):
        await stated.locate("http://127.0.0.1:1/l", soon())


async def test_a_service_that_says_nothing_is_left_at_the_deadline(make: Make, service: Service, base: str) -> None:
    ended = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        await ended.wait()
        return web.Response()

    service.answer = silent
    with pytest.raises(SiteTimeout):
        await make(base).locate(f"{base}/l", soon(0.2))
    ended.set()
