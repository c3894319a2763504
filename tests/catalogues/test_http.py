"""Sizes by HTTP: what is asked of whom, what counts as a size, and what nobody may make this broker do."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import socket
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import cycle
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from adapters.common.http import Answer, Origin
from adapters.data import sizes
from adapters.data.http import HttpCatalogue, HttpOptions, Quiet, plugin
from adapters.data.reach import PublicReach
from broker.domain import kinds
from broker.domain.addresses import public
from broker.domain.data import (
    AbstractDataResource,
    IvoaDataResource,
    RucioDataResource,
    S3DataResource,
    SimpleDataResource,
    SkaoDataResource,
    SkaoDataResourceBlock,
)
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion
from broker.errors import NotAsked, SettingsError, SiteError, SiteForgot
from broker.plugins import CatalogueResources
from broker.services.breaker import BreakerSettings
from broker.services.clock import SystemClock
from broker.services.locating import Bounds, Desk, Known
from broker.testing.clock import FakeClock
from broker.testing.raw_http import RawServer, Seen, answer
from broker.testing.resources import shared_http

CLOCK = SystemClock()
DATA = "application/fits"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as session:
        yield session


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as running:
        yield running


def resources(
    http: aiohttp.ClientSession, declared: Callable[[str], bool] = lambda _: True, clock: Any = CLOCK
) -> CatalogueResources:
    return CatalogueResources("http", None, clock, http, None, declared)


def catalogue(http: aiohttp.ClientSession, declared: Callable[[str], bool] = lambda _: True) -> HttpCatalogue:
    return HttpCatalogue(HttpOptions(), resources(http, declared))


async def locate(asked: HttpCatalogue, url: str, seconds: float = 5.0) -> Located:
    return await asked.locate(url, Deadline.after(seconds, CLOCK.monotonic()))


async def trouble(asked: HttpCatalogue, url: str, seconds: float = 5.0) -> str:
    """What is told of an address of which nothing is known."""
    with pytest.raises((SiteForgot, NotAsked)) as caught:
        await locate(asked, url, seconds)
    return caught.value.detail


def methods(server: RawServer) -> list[str]:
    return [seen.method for seen in server.seen]


# ── which address ────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_first_address_that_may_be_asked_is_the_name(http: aiohttp.ClientSession) -> None:
    asked = catalogue(http, lambda url: url.startswith("https://data.example/"))
    one = SimpleDataResource(kind=kinds.SIMPLE_DATA, location="x")
    assert (
        asked.name(one, ["root://a/b", "https://far.example/x", "https://data.example/x"]) == "https://data.example/x"
    )
    assert asked.name(one, ["root://a/b", "https://far.example/x"]) == "https://far.example/x"
    assert asked.name(one, ["root://a/b", "s3://b/c", "data:,x"]) is None


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("https://ann:secret@data.example/x#part", "https://data.example/x"),
        ("HTTPS://Data.Example:443/a/../x", "https://data.example/x"),
        ("https://data.example/a b?q=1", "https://data.example/a%20b?q=1"),
        ("file:///etc/passwd", None),
        ("http://data.example/..%2fsecret", None),
        ("http://good.example\\@evil.example/", None),
        ("http://data.example:99999/", None),
        ("http://[::1", None),
        ("http:///x", None),
        ("https://data.example/" + "x" * 5000, None),
    ],
)
async def test_an_address_is_asked_without_what_is_secret_in_it(
    http: aiohttp.ClientSession, written: str, asked: str | None
) -> None:
    assert catalogue(http).name(SimpleDataResource(kind=kinds.SIMPLE_DATA, location=written), [written]) == asked


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (IvoaDataResource(kind=kinds.IVOA_DATA), "https://data.example/first"),
        (
            SkaoDataResource(kind=kinds.SKAO_DATA, skao=SkaoDataResourceBlock(objecttype="FILE")),
            "https://data.example/first",
        ),
        (SkaoDataResource(kind=kinds.SKAO_DATA, skao=SkaoDataResourceBlock(objecttype="CONTAINER")), None),
        (RucioDataResource(kind=kinds.RUCIO_DATA), None),
        (
            S3DataResource(kind=kinds.S3_DATA, endpoint="https://s3.example/", bucket="b", object="a b/c%d"),
            "https://s3.example/b/a%20b/c%25d",
        ),
        (S3DataResource(kind=kinds.S3_DATA, endpoint="https://s3.example", bucket="b"), None),
        (S3DataResource(kind=kinds.S3_DATA, endpoint="https://s3.example", bucket="b", object="folder/"), None),
        (S3DataResource(kind=kinds.S3_DATA, bucket="b", object="c"), None),
    ],
)
async def test_only_a_single_file_has_a_size_that_an_address_can_tell(
    http: aiohttp.ClientSession, resource: AbstractDataResource, name: str | None
) -> None:
    assert catalogue(http).name(resource, ["https://data.example/first"]) == name


SCHEMES = ("", "http://", "https://", "HTTP://[", "http://h:", "s3://", "data:", "//", "http://a@", "http://xn--")


@given(st.sampled_from(SCHEMES), st.text(max_size=40))
async def test_whatever_people_write_a_name_is_an_address_or_none(scheme: str, rest: str) -> None:
    async with shared_http() as http:
        written = scheme + rest
        resource = S3DataResource(kind=kinds.S3_DATA, endpoint=written, bucket="b", object=rest or None)
        for name in (
            catalogue(http).name(SimpleDataResource(kind=kinds.SIMPLE_DATA, location="x"), [written]),
            catalogue(http).name(resource, [written]),
        ):
            assert name is None or (URL(name).scheme in ("http", "https") and str(URL(name)) == name)


# ── what counts as a size ────────────────────────────────────────────────────────────────────────────────────


async def test_a_head_tells_the_size_and_the_checksum(http: aiohttp.ClientSession, server: RawServer) -> None:
    digest = hashlib.sha256(b"x").digest()
    told: dict[str, str | int] = {
        "Content-Length": 5_000_000_000,
        "Content-Type": DATA,
        "Repr-Digest": f"sha-256=:{b64encode(digest).decode()}:",
    }
    server.on("/cube", answer(200, told))
    found = await locate(catalogue(http), f"{server.url}/cube?q=1")
    assert found == Located((Portion(5e9),), ("sha256", digest.hex()))
    (seen,) = server.seen
    assert seen.method == "HEAD"
    assert seen.target == "/cube?q=1"
    assert seen.headers["accept-encoding"] == "identity"
    assert "authorization" not in seen.headers
    assert "cookie" not in seen.headers


@pytest.mark.parametrize("status", [400, 403, 405, 501])
async def test_where_head_is_refused_the_first_byte_tells(
    http: aiohttp.ClientSession, server: RawServer, status: int
) -> None:
    server.on("/cube", answer(status, {"Content-Length": 0}), method="HEAD")
    server.on("/cube", answer(206, {"Content-Range": "bytes 0-0/1234", "Content-Length": 1}, b"x"), method="GET")
    assert (await locate(catalogue(http), f"{server.url}/cube")).portions == (Portion(1234.0),)
    assert methods(server) == ["HEAD", "GET"]
    assert server.seen[1].headers["range"] == "bytes=0-0"


@pytest.mark.parametrize("head", [{}, {"Content-Length": 0}, {"Content-Length": 7, "Content-Type": "text/html"}])
async def test_where_head_tells_no_length_the_first_byte_does(
    http: aiohttp.ClientSession, server: RawServer, head: dict[str, str | int]
) -> None:
    server.on("/cube", answer(200, head), method="HEAD")
    server.on("/cube", answer(206, {"Content-Range": "bytes 0-0/99", "Content-Length": 1}, b"x"), method="GET")
    assert (await locate(catalogue(http), f"{server.url}/cube")).portions == (Portion(99.0),)


async def test_of_a_server_without_ranges_the_length_counts_and_the_body_is_not_read(
    http: aiohttp.ClientSession, server: RawServer
) -> None:
    sent = 0
    stopped = asyncio.Event()

    async def endless(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(answer(200, {"Content-Length": 10**15}))
        try:
            while True:
                writer.write(bytes(65_536))
                await writer.drain()
                sent += 65_536
        except ConnectionError:
            stopped.set()
            raise

    server.on("/cube", answer(405), method="HEAD")
    server.on("/cube", endless, method="GET")
    assert (await locate(catalogue(http), f"{server.url}/cube")).portions == (Portion(1e15),)
    await asyncio.wait_for(stopped.wait(), 5.0)
    assert sent < 32 * 2**20  # what fits into the buffers on the way


async def test_an_empty_file_is_one_of_which_both_calls_say_so(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/empty", answer(200, {"Content-Length": 0}))
    server.on("/none", answer(200, {"Content-Length": 0}), method="HEAD")
    server.on("/none", answer(416, {"Content-Range": "bytes */0", "Content-Length": 0}), method="GET")
    for name in ("empty", "none"):
        assert (await locate(catalogue(http), f"{server.url}/{name}")).portions == (Portion(0.0),)


LIES = {
    "negative": answer(200, {"Content-Length": -5}),
    "a fraction": answer(200, {"Content-Length": "1.5"}),
    "an exponent": answer(200, {"Content-Length": "1e30"}),
    "more than there is": answer(200, {"Content-Length": "9" * 30}),
    "just beyond": answer(200, {"Content-Length": str(10**18 + 1)}),
    "signed": answer(200, {"Content-Length": "+5"}),
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
    "two in one": answer(200, {"Content-Length": "5, 6"}),
    "Arabic digits": "HTTP/1.1 200 OK\r\nContent-Length: ٥\r\n\r\n".encode(),
    "chunks": answer(200, {"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n"),
    "compressed": answer(200, {"Content-Length": 5, "Content-Encoding": "gzip"}),
    "compressed part": answer(206, {"Content-Range": "bytes 0-0/5", "Content-Encoding": "gzip"}),
    "a page for everything": answer(200, {"Content-Length": 812, "Content-Type": "text/html; charset=utf-8"}),
    "unknown whole": answer(206, {"Content-Range": "bytes 0-0/*", "Content-Length": 1}),
    "another range": answer(206, {"Content-Range": "bytes 1-1/500", "Content-Length": 1}),
    "a longer range": answer(206, {"Content-Range": "bytes 0-499/500", "Content-Length": 500}),
    "a range of nothing": answer(206, {"Content-Range": "bytes 0-0/0", "Content-Length": 1}),
    "a negative range": answer(206, {"Content-Range": "bytes 0-0/-5", "Content-Length": 1}),
    "other units": answer(206, {"Content-Range": "rows 0-0/5", "Content-Length": 1}),
    "parts": answer(206, {"Content-Type": "multipart/byteranges; boundary=x", "Content-Length": 5}),
    "no range": answer(206, {"Content-Length": 1}),
    "a refused range of something": answer(416, {"Content-Range": "bytes */500", "Content-Length": 0}),
    "not yet": answer(202, {"Content-Length": 5}),
    "nothing": answer(204),
    "an error": answer(500, {"Content-Length": 5}),
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "no answer": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "wants a login": answer(401, {"WWW-Authenticate": "Basic", "Content-Length": 5}),
    "a thousand headers": answer(200, {f"X-{i}": i for i in range(1000)} | {"Content-Length": 5}),
    "a long header": answer(200, {"X": "x" * 100_000, "Content-Length": 5}),
}


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("lie", LIES)
async def test_what_is_no_size_leaves_the_size_unknown(
    http: aiohttp.ClientSession, server: RawServer, lie: str, head: bool
) -> None:
    server.on("/cube", LIES[lie])
    if not head:
        server.on("/cube", answer(405, {"Content-Length": 0}), method="HEAD")
    words = await trouble(catalogue(http), f"{server.url}/cube")
    assert words.endswith(".")
    assert "127.0.0.1" in words


async def test_a_page_that_was_asked_for_has_a_size(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/notes.html", answer(200, {"Content-Length": 812, "Content-Type": "text/html"}))
    assert (await locate(catalogue(http), f"{server.url}/notes.html")).portions == (Portion(812.0),)


async def test_a_folder_is_not_asked_for(http: aiohttp.ClientSession, server: RawServer) -> None:
    assert "ends in a slash" in await trouble(catalogue(http), f"{server.url}/survey/")
    assert server.seen == []


async def test_a_missing_file_is_not_asked_for_twice(http: aiohttp.ClientSession, server: RawServer) -> None:
    assert await trouble(catalogue(http), f"{server.url}/cube") == "127.0.0.1 has no such file (404)."
    assert methods(server) == ["HEAD"]


@pytest.mark.parametrize(
    ("headers", "part", "found"),
    [
        ({"Content-MD5": b64encode(b"m" * 16).decode()}, False, ("md5", (b"m" * 16).hex())),
        ({"Content-MD5": b64encode(b"m" * 16).decode()}, True, None),
        ({"Content-MD5": b64encode(b"m" * 15).decode()}, False, None),
        ({"Digest": "adler32=03da0195"}, True, ("adler32", "03da0195")),
        ({"Digest": "unixsum=1, SHA-256=" + b64encode(b"s" * 32).decode()}, True, ("sha256", (b"s" * 32).hex())),
        ({"Repr-Digest": "md5=:" + b64encode(b"m" * 16).decode() + ":"}, True, ("md5", (b"m" * 16).hex())),
        ({"Repr-Digest": "md5=" + b64encode(b"m" * 16).decode()}, False, None),
        ({"Repr-Digest": "sha-256=:not base64:"}, False, None),
        ({"Content-Digest": "md5=:" + b64encode(b"m" * 16).decode() + ":"}, False, None),
        ({}, False, None),
    ],
)
def test_a_checksum_is_of_the_whole_file_or_none(
    headers: dict[str, str], part: bool, found: tuple[str, str] | None
) -> None:
    assert sizes.checksum(headers, part=part) == found


# ── who may be asked ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_host_that_nobody_has_declared_is_not_asked(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/cube", answer(200, {"Content-Length": 5}))
    words = await trouble(catalogue(http, lambda _: False), f"{server.url}/cube")
    assert words == "not asked: 127.0.0.1 is on no storage that this broker declares."
    assert server.seen == []


async def test_a_host_of_the_options_is_asked_at_its_port(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/cube", answer(200, {"Content-Length": 5}))

    def listing(*hosts: str) -> HttpCatalogue:
        return HttpCatalogue(HttpOptions(hosts=hosts), resources(http, lambda _: False))

    assert (await locate(listing(f"127.0.0.1:{server.port}"), f"{server.url}/cube")).portions == (Portion(5.0),)
    assert "no storage" in await trouble(listing("127.0.0.1"), f"{server.url}/cube")


def test_hosts_are_named_with_their_domains_and_ports() -> None:
    reach = PublicReach(lambda _: False, ("data.example", "*.cosmos.example", "alba.example:8080"), (), anyone=False)
    for asked in (
        "https://data.example/x",
        "http://Data.Example./x",
        "https://a.b.cosmos.example/",
        "http://alba.example:8080/",
    ):
        assert reach.allows(URL(asked)), asked
    for not_asked in (
        "https://data.example:8443/", "https://cosmos.example/", "https://evilcosmos.example/", "http://alba.example/",
        "https://data.example.evil/",
    ):  # fmt: skip
        assert not reach.allows(URL(not_asked)), not_asked


@pytest.mark.parametrize("text", ["", "https://data.example", "a b", "*.", "host:port", "host/path"])
async def test_what_is_no_host_is_refused_at_the_start(http: aiohttp.ClientSession, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        HttpCatalogue(HttpOptions(hosts=(text,)), resources(http))
    assert caught.value.key == "options.hosts"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed_where_its_target_may_be_asked(
    http: aiohttp.ClientSession, server: RawServer, status: int
) -> None:
    server.on("/cube", answer(status, {"Location": "/mirror/cube", "Content-Length": 0}))
    server.on("/mirror/cube", answer(200, {"Content-Length": 5}))
    assert (await locate(catalogue(http), f"{server.url}/cube")).portions == (Portion(5.0),)
    asked = catalogue(http, lambda url: url.endswith("/cube") and "mirror" not in url)
    assert "no storage" in await trouble(asked, f"{server.url}/cube")
    assert [seen.path for seen in server.seen] == ["/cube", "/mirror/cube", "/cube"]


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/iam",
        "file:///etc/passwd",
        "gopher://x/1",
        "//[::1",
        "",
        "http://127.0.0.1:1/",
    ],
)
async def test_a_redirect_to_what_may_not_be_asked_is_not_followed(
    http: aiohttp.ClientSession, server: RawServer, target: str
) -> None:
    server.on("/cube", answer(302, {"Location": target, "Content-Length": 0}))
    asked = catalogue(http, lambda url: url.startswith(server.url))
    assert await trouble(asked, f"{server.url}/cube")
    assert methods(server) == ["HEAD"]


async def test_a_link_local_address_is_refused_even_where_it_is_declared(http: aiohttp.ClientSession) -> None:
    assert "169.254.169.254" in await trouble(catalogue(http), "http://169.254.169.254/latest/meta-data")


async def test_redirects_that_go_round_end(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/cube", answer(302, {"Location": "/cube", "Content-Length": 0}))
    assert "more than 5 times" in await trouble(catalogue(http), f"{server.url}/cube")
    assert len(server.seen) == 6


async def test_no_redirect_leads_from_https_to_http(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    async def head(self: Origin, url: Any, **_: Any) -> Answer:
        seen.append(str(url))
        return Answer(302, {"Location": "http://data.example/cube"}, b"")

    monkeypatch.setattr(Origin, "head", head)
    assert "from https to http" in await trouble(catalogue(http), "https://data.example/cube")
    assert seen == ["https://data.example/cube"]


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "2a00:1450::1", "64:ff9b::808:808", "2002:808:808::1",
        "::ffff:8.8.8.8",
    ],
)  # fmt: skip
def test_a_public_address_is_one(address: str) -> None:
    assert public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "100.64.0.1", "169.254.169.254", "192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1", "2001:db8::1",
        "2001::1", "2001:20::1", "3fff::1", "5f00::1", "4000::1",
        "2002:7f00:1::", "2002:a00:1::1", "2002:a9fe:a9fe::", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1",
        "64:ff9b:1::808:808",
    ],
)  # fmt: skip
def test_any_other_address_is_none(address: str) -> None:
    assert not public(address)


def test_no_address_that_python_calls_private_is_public() -> None:
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "169.254.0.0/16", "100.64.0.0/10"):
        found = ipaddress.ip_network(network)
        for text in (str(found[0]), str(found[-1])):
            assert not public(text)
            assert not public(f"::ffff:{text}")


@pytest.fixture
async def strangers(http: aiohttp.ClientSession) -> AsyncIterator[Callable[..., HttpCatalogue]]:
    """Catalogues that ask anyone. 127.0.0.2 stands for a public address, since tests have none."""
    made: list[HttpCatalogue] = []

    def make(*ports: int, allowed: Callable[[str], bool] = lambda address: address == "127.0.0.2") -> HttpCatalogue:
        options = HttpOptions(reach="public", ports=ports)
        made.append(HttpCatalogue(options, resources(http, lambda _: False), allowed))
        return made[-1]

    yield make
    for one in made:
        await one.close()


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Each look-up of a name gives the next of them. What was looked up is kept."""
    turn, asked, really = cycle(addresses), [], socket.getaddrinfo

    def look(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if not str(host).endswith(".example"):
            return really(host, port, *rest, **more)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(turn), port))]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    return asked


async def test_a_public_host_is_asked_at_the_ports_that_are_named(
    strangers: Callable[..., HttpCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.2")
    async with RawServer("127.0.0.2") as server:
        server.on("/cube", answer(200, {"Content-Length": 5}))
        address = f"http://data.example:{server.port}/cube"
        assert (await locate(strangers(server.port), address)).portions == (Portion(5.0),)
        assert "which is not one of those" in await trouble(strangers(443), address)
        assert len(server.seen) == 1


async def test_a_name_that_means_another_address_the_second_time_is_refused_then(
    strangers: Callable[..., HttpCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the address is judged as it is connected to."""
    looked_up = resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with RawServer("127.0.0.2") as outside, RawServer("127.0.0.1", outside.port) as inside:
        outside.on("/cube", answer(405, {"Content-Length": 0}))
        inside.on("/cube", answer(200, {"Content-Length": 5}))
        words = await trouble(strangers(outside.port), f"http://data.example:{outside.port}/cube")
    assert "its address is not a public one" in words
    assert "127.0.0.1" not in words
    assert (methods(outside), methods(inside)) == (["HEAD"], [])
    assert looked_up == ["data.example", "data.example"]


async def test_a_name_with_a_public_and_a_private_address_leads_to_the_public_one_at_most(
    strangers: Callable[..., HttpCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = socket.getaddrinfo

    def both(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if host != "data.example":
            return really(host, port, *rest, **more)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    async with RawServer("127.0.0.2") as outside, RawServer("127.0.0.1", outside.port) as inside:
        outside.on("/cube", answer(200, {"Content-Length": 7}))
        inside.on("/cube", answer(200, {"Content-Length": 5}))
        found = await locate(strangers(outside.port), f"http://data.example:{outside.port}/cube")
    assert found.portions == (Portion(7.0),)
    assert inside.seen == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "localhost", "0x7f000001", "127.1", "2130706433", "[::ffff:127.0.0.1]"]
)
async def test_no_way_to_write_it_leads_to_an_address_of_ours(
    strangers: Callable[..., HttpCatalogue], server: RawServer, host: str
) -> None:
    words = await trouble(strangers(server.port, allowed=public), f"http://{host}:{server.port}/cube")
    assert "its address is not a public one" in words or "its address is not valid" in words
    assert server.seen == []


async def test_a_public_host_leads_to_no_private_one(
    strangers: Callable[..., HttpCatalogue], server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.2")
    async with RawServer("127.0.0.2") as outside:
        target = f"http://127.0.0.1:{server.port}/secret"
        outside.on("/cube", answer(302, {"Location": target, "Content-Length": 0}))
        words = await trouble(strangers(outside.port, server.port), f"http://data.example:{outside.port}/cube")
    assert "not a public one" in words
    assert server.seen == []


# ── hosts that keep one waiting ──────────────────────────────────────────────────────────────────────────────


async def drip(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-A: 1\r\n" * 1000)
        await writer.drain()


async def silent(seen: Seen, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("behaviour", [drip, endless, silent])
async def test_a_host_that_does_not_come_to_an_end_is_given_up_in_time(
    http: aiohttp.ClientSession, server: RawServer, behaviour: Any
) -> None:
    server.on("/cube", behaviour)
    began = time.monotonic()
    assert await trouble(catalogue(http), f"{server.url}/cube", seconds=0.5)
    assert time.monotonic() - began < 3.0


async def test_a_host_that_does_not_answer_is_left_alone_for_a_while(
    http: aiohttp.ClientSession, server: RawServer
) -> None:
    server.on("/cube", b"")
    server.on("/other", answer(200, {"Content-Length": 5}))
    asked = catalogue(http)
    for _ in range(Quiet.MOST):
        assert "not asked" not in await trouble(asked, f"{server.url}/cube")
    calls = len(server.seen)
    assert "did not answer 3 times in a row" in await trouble(asked, f"{server.url}/other")
    assert len(server.seen) == calls


def test_a_host_is_asked_again_after_a_pause_and_an_answer_clears_it() -> None:
    clock = FakeClock()
    quiet = Quiet(clock)
    for _ in range(Quiet.MOST):
        quiet.check("data.example")
        quiet.failed("data.example")
    quiet.check("other.example")
    with pytest.raises(NotAsked):
        quiet.check("data.example")
    clock.advance(Quiet.PAUSE + 1)
    quiet.check("data.example")
    quiet.failed("data.example")
    with pytest.raises(NotAsked):
        quiet.check("data.example")
    quiet.answered("data.example")
    quiet.check("data.example")


def test_of_countless_hosts_the_last_are_remembered() -> None:
    quiet = Quiet(FakeClock())
    for number in range(2 * Quiet.KEPT):
        for _ in range(Quiet.MOST):
            quiet.failed(f"host{number}.example")
    quiet.check("host0.example")
    with pytest.raises(NotAsked):
        quiet.check(f"host{2 * Quiet.KEPT - 1}.example")


async def test_one_hosts_trouble_is_none_of_the_catalogue(http: aiohttp.ClientSession, server: RawServer) -> None:
    """A breaker shuts a catalogue that fails; nobody's address may shut out those of all others."""
    for reply in (b"", answer(500), answer(403)):
        server.on("/cube", reply)
        with pytest.raises(SiteError) as caught:
            await locate(catalogue(http), f"{server.url}/cube")
        assert isinstance(caught.value, (SiteForgot, NotAsked))


async def test_hosts_that_are_silent_do_not_shut_out_others(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/cube", answer(200, {"Content-Length": 5}))
    async with AsyncExitStack() as stack:
        mute = [await stack.enter_async_context(RawServer()) for _ in range(2 * BreakerSettings().failures)]
        known = Known("http", catalogue(http), 40, places=False, sizes=True, timeout=2.0, concurrency=len(mute))
        desk = Desk(known, CLOCK, Bounds())
        for one in mute:
            one.on("/cube", silent)
        answers = await asyncio.gather(*(desk.ask(f"{one.url}/cube") for one in mute))
        assert all("by the deadline" in answer.trouble for answer in answers)
        found = (await desk.ask(f"{server.url}/cube")).found
        await desk.close()
    assert found == Located((Portion(5.0),))


def test_the_plugin_tells_sizes_and_no_places() -> None:
    assert (plugin.trust, plugin.places, plugin.sizes) == (40, False, True)
