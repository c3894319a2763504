"""Sizes from S3: which object is meant, signatures, lists to their end, and answers that are lies."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from adapters.common.sigv4 import Key
from adapters.data import listing
from adapters.data.listing import Unreadable
from adapters.data.s3 import S3Catalogue, S3Options, authorized, plugin
from broker.domain import kinds
from broker.domain.data import AbstractDataResource, RucioDataResource, S3DataResource, SimpleDataResource
from broker.domain.deadline import Deadline
from broker.domain.located import Located, Portion, Replica
from broker.errors import (
    NotAsked,
    SettingsError,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
)
from broker.plugins import CatalogueResources, Credentials
from broker.services.clock import SystemClock
from broker.testing.raw_http import RawServer, Seen, answer
from broker.testing.resources import shared_http

CLOCK = SystemClock()
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEYS = Credentials(username="AKIAIOSFODNN7EXAMPLE", password=SECRET)
MD5 = "0123456789abcdef0123456789abcdef"


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as session:
        yield session


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as running:
        yield running


def catalogue(
    http: aiohttp.ClientSession, url: str = "https://s3.example", keys: Credentials | None = None, **options: Any
) -> S3Catalogue:
    return S3Catalogue(S3Options(**options), CatalogueResources("s3", url, CLOCK, http, keys, lambda _: False))


async def locate(asked: S3Catalogue, name: str, seconds: float = 5.0) -> Located:
    return await asked.locate(name, Deadline.after(seconds, CLOCK.monotonic()))


def s3(object: str | None, *, bucket: str | None = "b", endpoint: str | None = None) -> S3DataResource:
    return S3DataResource(kind=kinds.S3_DATA, endpoint=endpoint, bucket=bucket, object=object)


def simple(location: str) -> SimpleDataResource:
    return SimpleDataResource(kind=kinds.SIMPLE_DATA, location=location)


# ── which object is meant ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        (s3("a/c.fits"), "b/a/c.fits"),
        (s3("a b%20c?+#", endpoint="https://s3.example"), "b/a b%20c?+#"),
        (s3("x", endpoint="HTTPS://S3.Example:443/"), "b/x"),
        (s3("x", endpoint="s3.example"), "b/x"),
        (s3("x", endpoint="https://other.example"), None),
        (s3("x", endpoint="http://s3.example"), None),
        (s3(None), "b/"),
        (s3("folder/"), "b/folder/"),
        (s3("x", bucket=None), None),
        (s3("x", bucket="a/b"), None),
        (s3("x", bucket=".."), None),
        (s3("x", bucket="b?x"), None),
        (RucioDataResource(kind=kinds.RUCIO_DATA), None),
    ],
)
async def test_a_resource_of_s3_is_called_by_bucket_and_key(
    http: aiohttp.ClientSession, resource: AbstractDataResource, name: str | None
) -> None:
    assert catalogue(http).name(resource, ["https://s3.example/b/other"]) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bkt/a/c d%20e", "bkt/a/c d%20e"),
        ("S3://bkt", "bkt/"),
        ("s3://s3.example/bkt/x", "bkt/x"),
        ("https://s3.example/bkt/a%20b%2Fc", "bkt/a b/c"),
        ("https://s3.example:443/bkt/x", "bkt/x"),
        ("https://s3.example/bkt/../other/x", "other/x"),
        ("https://bkt.s3.example/a/x", "bkt/a/x"),
        ("https://my.bkt.s3.example/x", None),  # a bucket with a dot cannot be told from a host
        ("https://s3.example/", None),
        ("https://s3.example/bkt/x?X-Amz-Signature=1", None),
        ("https://s3.example/bkt/x?versionId=1", None),
        ("https://ann:pw@s3.example/bkt/x", None),
        ("http://s3.example/bkt/x", None),
        ("https://other.example/bkt/x", None),
        ("https://evils3.example/bkt/x", None),
        ("https://s3.example.evil/bkt/x", None),
        ("https://[::1/bkt/x", None),
        ("s3://", None),
        ("s3:///x", None),
        ("root://s3.example/bkt/x", None),
    ],
)
async def test_an_address_below_the_endpoint_is_an_object_of_it(
    http: aiohttp.ClientSession, url: str, name: str | None
) -> None:
    assert catalogue(http).name(simple(url), ["root://first.example/x", url]) == name


@given(st.sampled_from(("", "s3://", "https://s3.example/", "https://b.s3.example/", "https://[", "S3://")), st.text())
async def test_whatever_people_write_a_name_has_a_bucket(start: str, rest: str) -> None:
    async with shared_http() as http:
        for resource in (simple("x"), s3(rest, bucket=rest or None, endpoint=start or None)):
            name = catalogue(http).name(resource, [start + rest])
            assert name is None or re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*/", name)


async def test_an_endpoint_may_have_a_path_of_its_own(http: aiohttp.ClientSession) -> None:
    asked = catalogue(http, "https://gate.example/objects/")
    assert asked.name(simple("x"), ["https://gate.example/objects/bkt/x"]) == "bkt/x"
    assert asked.name(simple("x"), ["https://gate.example/bkt/x"]) is None


async def test_buckets_that_are_not_named_are_not_asked_for(http: aiohttp.ClientSession) -> None:
    asked = catalogue(http, buckets=("survey",))
    assert asked.name(s3("x", bucket="survey"), []) == "survey/x"
    assert asked.name(s3("x", bucket="private"), []) is None
    assert asked.name(simple("x"), ["s3://private/x", "s3://survey/x"]) == "survey/x"


@pytest.mark.parametrize(
    ("url", "keys", "key"),
    [
        (None, None, "url"),
        ("ftp://s3.example", None, "url"),
        ("https://s3.example", Credentials(username="only"), "credentials"),
        ("https://s3.example", Credentials(token="t"), "credentials"),
    ],
)
async def test_settings_that_cannot_work_are_refused(
    http: aiohttp.ClientSession, url: str | None, keys: Credentials | None, key: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        S3Catalogue(S3Options(), CatalogueResources("s3", url, CLOCK, http, keys, lambda _: False))
    assert caught.value.key == key


# ── signatures ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "headers", "names", "signature"),
    [
        # "Authenticating Requests: Using the Authorization Header", Amazon S3 API Reference, but for the blanks behind
        # commas, which everybody writes:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
        (
            "https://examplebucket.s3.amazonaws.com/test.txt",
            {"Range": "bytes=0-9"},
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "https://examplebucket.s3.amazonaws.com/?lifecycle",
            {},
            "host;x-amz-content-sha256;x-amz-date",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "https://examplebucket.s3.amazonaws.com/?max-keys=2&prefix=J",
            {},
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_a_signature_is_the_published_one(url: str, headers: dict[str, str], names: str, signature: str) -> None:
    key = Key("AKIAIOSFODNN7EXAMPLE", SECRET, "us-east-1")
    told = authorized("GET", URL(url, encoded=True), headers, key, 1369353600.0)
    assert told["x-amz-date"] == "20130524T000000Z"
    assert told["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    assert told.items() >= headers.items()


def test_a_query_is_signed_by_its_names_first() -> None:
    key = Key("a", "s", "r")
    one, other = (
        authorized("GET", URL(f"https://h.example/?{query}", encoded=True), {}, key, 0.0)["Authorization"]
        for query in ("a-b=2&a=1", "a=1&a-b=2")
    )
    assert one == other


def test_a_key_is_not_shown() -> None:
    assert SECRET not in repr(Key("a", SECRET, "r"))


async def test_requests_are_signed_where_there_is_a_key_and_only_then(
    http: aiohttp.ClientSession, server: RawServer
) -> None:
    server.on("/bkt/a%20b", answer(200, {"Content-Length": 5}))
    await locate(catalogue(http, server.url), "bkt/a b")
    await locate(catalogue(http, server.url, KEYS, region="eu-west-1"), "bkt/a b")
    anonymous, ours = server.seen
    assert not any(name.startswith(("authorization", "x-amz")) for name in anonymous.headers)
    key = Key(KEYS.username, KEYS.password, "eu-west-1")
    moment = datetime.strptime(ours.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    assert abs(moment - CLOCK.now()) < 60.0
    said = authorized("HEAD", URL(f"{server.url}/bkt/a%20b", encoded=True), {"Accept": "*/*"}, key, moment)
    assert ours.headers["authorization"] == said["Authorization"]
    assert SECRET not in str(ours.headers)


# ── an object ────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_head_tells_size_checksum_and_place(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/bkt/a/c.fits", answer(200, {"Content-Length": 5_000_000_000, "ETag": f'"{MD5}"'}))
    place = Replica(None, f"{server.url}/bkt/a/c.fits")
    assert await locate(catalogue(http, server.url), "bkt/a/c.fits") == Located((Portion(5e9, (place,)),), ("md5", MD5))


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": f'"{MD5}-12"'},
        {"ETag": f'W/"{MD5}"'},
        {"ETag": f'"{MD5[:-1]}"'},
        {"ETag": f'"{MD5}"', "x-amz-server-side-encryption": "aws:kms"},
        {"ETag": f'"{MD5}"', "x-amz-server-side-encryption-customer-algorithm": "AES256"},
        {},
    ],
)
async def test_an_etag_that_is_no_md5_is_no_checksum(
    http: aiohttp.ClientSession, server: RawServer, headers: dict[str, str | int]
) -> None:
    server.on("/bkt/x", answer(200, {"Content-Length": 5, **headers}))
    assert (await locate(catalogue(http, server.url), "bkt/x")).checksum is None


@pytest.mark.parametrize(
    ("headers", "tape"),
    [
        ({}, False),
        ({"x-amz-storage-class": "STANDARD_IA"}, False),
        ({"x-amz-storage-class": "GLACIER_IR"}, False),
        ({"x-amz-storage-class": "GLACIER"}, True),
        ({"x-amz-storage-class": "DEEP_ARCHIVE"}, True),
        ({"x-amz-storage-class": "GLACIER", "x-amz-restore": 'ongoing-request="true"'}, True),
        (
            {
                "x-amz-storage-class": "GLACIER",
                "x-amz-restore": 'ongoing-request="false", expiry-date="Fri, 1 Jan 2027 00:00:00 GMT"',
            },
            False,
        ),
        ({"x-amz-storage-class": "INTELLIGENT_TIERING", "x-amz-archive-status": "ARCHIVE_ACCESS"}, True),
    ],
)
async def test_what_must_be_restored_first_is_on_tape(
    http: aiohttp.ClientSession, server: RawServer, headers: dict[str, str | int], tape: bool
) -> None:
    server.on("/bkt/x", answer(200, {"Content-Length": 5, **headers}))
    (portion,) = (await locate(catalogue(http, server.url), "bkt/x")).portions
    assert portion.replicas == (Replica(None, f"{server.url}/bkt/x", tape),)


async def test_a_stored_encoding_changes_nothing_of_the_bytes_to_move(
    http: aiohttp.ClientSession, server: RawServer
) -> None:
    server.on("/bkt/x", answer(200, {"Content-Length": 5, "Content-Encoding": "gzip"}))
    assert (await locate(catalogue(http, server.url), "bkt/x")).portions[0].bytes == 5.0


ODD = ["a b", "a+b", "ä/ö", "a%2Fb", "a?b&c=d", "a#b", "q=1;x", "~t", "a//b", "'\"<>", "tab\there", "*(!)"]


@pytest.mark.parametrize("key", ODD)
async def test_odd_keys_arrive_as_they_are(http: aiohttp.ClientSession, server: RawServer, key: str) -> None:
    server.on("*", answer(200, {"Content-Length": 5}))
    await locate(catalogue(http, server.url, KEYS), f"bkt/{key}")
    (seen,) = server.seen
    assert unquote(seen.target) == f"/bkt/{key}"
    assert "?" not in seen.target


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        (answer(404), SiteForgot, "has no bkt/x (404)"),
        (answer(403), SiteForbids, "it wants credentials, and this catalogue has none"),
        (answer(401), SiteForbids, "it wants credentials"),
        (
            answer(301, {"x-amz-bucket-region": "eu-west-1", "Location": "http://evil.example/"}),
            SiteRefused,
            "eu-west-1",
        ),
        (answer(307, {"Location": "http://169.254.169.254/"}), SiteMisbehaved, "redirect"),
        (answer(400, {"x-amz-bucket-region": "eu-west-1"}), SiteRefused, "eu-west-1"),
        (answer(400), SiteRefused, "400"),
        (answer(503, {"Retry-After": 7}), SiteBusy, "503"),
        (answer(500), SiteMisbehaved, "500"),
        (answer(200), SiteMisbehaved, "does not say how large"),
        (answer(200, {"Content-Length": "-1"}), SiteMisbehaved, "no HTTP answer"),
        (answer(200, {"Content-Length": "1e9"}), SiteMisbehaved, "no HTTP answer"),
        (answer(200, {"Content-Length": "1" * 19}), SiteMisbehaved, "does not say how large"),
        (answer(206, {"Content-Length": 1}), SiteMisbehaved, "206"),
        (b"", SiteError, "connection ended"),
    ],
)
async def test_an_answer_that_is_no_size_is_an_error_that_says_why(
    http: aiohttp.ClientSession, server: RawServer, reply: bytes, error: type[SiteError], words: str
) -> None:
    server.on("/bkt/x", reply)
    with pytest.raises(error, match=words.replace("(", r"\(").replace(")", r"\)")):
        await locate(catalogue(http, server.url), "bkt/x")


async def test_a_key_that_may_not_read_is_told_so(http: aiohttp.ClientSession, server: RawServer) -> None:
    server.on("/bkt/x", answer(403))
    with pytest.raises(SiteForbids, match="this catalogue's key may not read it"):
        await locate(catalogue(http, server.url, KEYS), "bkt/x")


@pytest.mark.parametrize("name", ["bkt/../other/x", "bkt/a/./x", "bkt/.."])
async def test_a_key_that_could_lead_out_of_its_bucket_is_not_asked_for(
    http: aiohttp.ClientSession, server: RawServer, name: str
) -> None:
    with pytest.raises(NotAsked):
        await locate(catalogue(http, server.url), name)
    assert server.seen == []


async def test_a_key_longer_than_any_is_not_asked_for(http: aiohttp.ClientSession, server: RawServer) -> None:
    with pytest.raises(SiteForgot):
        await locate(catalogue(http, server.url), "bkt/" + "ä" * 600)
    assert server.seen == []


# ── all below a prefix ───────────────────────────────────────────────────────────────────────────────────────


def entry(key: str, size: object = 1, more: str = "") -> str:
    told = "" if size is None else f"<Size>{size}</Size>"
    return f"<Contents><Key>{key}</Key>{told}<StorageClass>STANDARD</StorageClass>{more}</Contents>"


def page(*entries: str, more: str | None = None, truncated: str | None = None) -> bytes:
    goes_on = truncated or ("false" if more is None else "true")
    token = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<EncodingType>url</EncodingType><IsTruncated>{goes_on}</IsTruncated>{token}{''.join(entries)}"
        "</ListBucketResult>"
    ).encode()


def xml(body: bytes, status: int = 200) -> bytes:
    return answer(status, {"Content-Type": "application/xml", "Content-Length": len(body)}, body)


def pages(server: RawServer, *bodies: bytes) -> None:
    """One after the other; the last again and again."""
    left = list(bodies)

    async def next_page(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(xml(left.pop(0) if len(left) > 1 else left[0]))
        await writer.drain()
        writer.write_eof()

    server.on("/bkt", next_page)


async def test_all_below_a_prefix_is_summed_over_all_pages(http: aiohttp.ClientSession, server: RawServer) -> None:
    pages(server, page(entry("s/", 0), entry("s/a", 10), more="to=k/en +"), page(entry("s/b%2Bc", 32)))
    found = await locate(catalogue(http, server.url), "bkt/s/")
    assert found.portions == (Portion(42.0, (Replica(None, f"{server.url}/bkt/s/"),), files=2),)
    first, second = (parse_qs(seen.target.partition("?")[2]) for seen in server.seen)
    assert first == {"list-type": ["2"], "prefix": ["s/"], "encoding-type": ["url"], "max-keys": ["1000"]}
    assert second == {**first, "continuation-token": ["to=k/en +"]}


async def test_what_is_on_tape_is_a_portion_of_its_own(http: aiohttp.ClientSession, server: RawServer) -> None:
    restored = "".join(
        (
            "<RestoreStatus><IsRestoreInProgress>false</IsRestoreInProgress>",
            "<RestoreExpiryDate>x</RestoreExpiryDate></RestoreStatus>",
        )
    )
    ice = [entry(f"{i}", 100, more).replace("STANDARD", "GLACIER") for i, more in enumerate(("", restored))]
    pages(server, page(entry("a", 1), *ice))
    found = await locate(catalogue(http, server.url), "bkt/")
    url = f"{server.url}/bkt/"
    assert found.portions == (
        Portion(101.0, (Replica(None, url),), files=2),
        Portion(100.0, (Replica(None, url, tape=True),), files=1),
    )


async def test_nothing_below_a_prefix_is_nothing_known(http: aiohttp.ClientSession, server: RawServer) -> None:
    pages(server, page())
    with pytest.raises(SiteForgot, match="nothing below bkt/s/"):
        await locate(catalogue(http, server.url), "bkt/s/")


async def test_more_objects_than_are_counted_have_no_size(http: aiohttp.ClientSession, server: RawServer) -> None:
    pages(
        server, page(*(entry(f"{i}") for i in range(3)), more="a"), page(*(entry(f"x{i}") for i in range(3)), more="b")
    )
    with pytest.raises(SiteRefused, match="more than 5 objects"):
        await locate(catalogue(http, server.url, most_files=5), "bkt/")


async def test_pages_without_end_are_not_read(http: aiohttp.ClientSession, server: RawServer) -> None:
    turn = 0

    async def another(seen: Seen, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        turn += 1
        writer.write(xml(page(more=f"t{turn}")))
        await writer.drain()

    server.on("/bkt", another)
    with pytest.raises(SiteRefused, match="more than 7 pages"):
        await locate(catalogue(http, server.url, most_pages=7), "bkt/")
    assert len(server.seen) == 7


async def test_pages_in_a_circle_are_noticed(http: aiohttp.ClientSession, server: RawServer) -> None:
    pages(server, page(entry("a"), more="again"))
    with pytest.raises(SiteMisbehaved, match="circle"):
        await locate(catalogue(http, server.url), "bkt/")
    assert len(server.seen) == 2


async def test_a_list_of_something_else_is_not_counted(http: aiohttp.ClientSession, server: RawServer) -> None:
    """As a server does that takes no notice of the prefix."""
    pages(server, page(entry("other/a", 10)))
    with pytest.raises(SiteMisbehaved, match="does not lie below"):
        await locate(catalogue(http, server.url), "bkt/s/")


LAUGHS = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<ListBucketResult><IsTruncated>&b;</IsTruncated></ListBucketResult>"""
FILE = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>
<ListBucketResult><IsTruncated>&a;</IsTruncated></ListBucketResult>"""

BROKEN = {
    "no size": page(entry("a", None)),
    "an empty size": page(entry("a", "")),
    "a negative size": page(entry("a", -1)),
    "a fraction": page(entry("a", 1.5)),
    "an exponent": page(entry("a", "1e9")),
    "too large a size": page(entry("a", 10**18 + 1)),
    "no key": page("<Contents><Size>5</Size></Contents>"),
    "no word whether it goes on": page().replace(b"<IsTruncated>false</IsTruncated>", b""),
    "goes on nowhere": page(entry("a"), truncated="true"),
    "goes on perhaps": page(entry("a"), truncated="maybe"),
    "too many on a page": page(*(entry(str(i)) for i in range(1001))),
    "another document": b"<html><body>Welcome</body></html>",
    "no XML": b"{}",
    "cut off": page(entry("a"))[:-20],
    "empty": b"",
    "a thousand laughs": LAUGHS,
    "another's file": FILE,
    "deep": b"<ListBucketResult>" + b"<a>" * 100_000,
    "elements without end": page(entry("a")).replace(b"<IsTruncated>", b"<a/>" * 60_000 + b"<IsTruncated>"),
    "a long text": page(entry("k" * 100_000)),
    "an old version": b"<ListBucketResult><IsTruncated>true</IsTruncated><NextMarker>a</NextMarker></ListBucketResult>",
}


@pytest.mark.parametrize("lie", BROKEN)
async def test_a_list_that_cannot_be_trusted_leaves_the_size_unknown(
    http: aiohttp.ClientSession, server: RawServer, lie: str
) -> None:
    pages(server, BROKEN[lie])
    with pytest.raises(SiteMisbehaved, match="cannot be read"):
        await locate(catalogue(http, server.url), "bkt/")


@pytest.mark.parametrize("lie", ["a thousand laughs", "another's file"])
def test_a_document_type_is_refused_before_anything_is_declared(lie: str) -> None:
    with pytest.raises(Unreadable, match="document type"):
        listing.page(BROKEN[lie])


async def test_a_wrong_page_after_a_good_one_leaves_no_partial_sum(
    http: aiohttp.ClientSession, server: RawServer
) -> None:
    pages(server, page(entry("a", 10), more="t"), page(entry("b", None)))
    with pytest.raises(SiteMisbehaved):
        await locate(catalogue(http, server.url), "bkt/")


async def test_a_list_that_is_too_large_is_not_read_to_its_end(http: aiohttp.ClientSession, server: RawServer) -> None:
    async def endless(seen: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, {"Content-Type": "application/xml"}, b"<ListBucketResult>"))
        while True:
            writer.write(b"<a/>" * 20_000)
            await writer.drain()

    server.on("/bkt", endless)
    with pytest.raises(SiteMisbehaved, match="more than"):
        await locate(catalogue(http, server.url), "bkt/")


async def test_a_list_that_comes_too_slowly_is_given_up(http: aiohttp.ClientSession, server: RawServer) -> None:
    async def silent(seen: Seen, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server.on("/bkt", silent)
    with pytest.raises(SiteTimeout, match="did not list bkt/ in time"):
        await locate(catalogue(http, server.url), "bkt/", seconds=0.3)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("NoSuchBucket", 404, SiteForgot),
        ("SignatureDoesNotMatch", 403, SiteForbids),
        ("InvalidArgument", 400, SiteRefused),
    ],
)
async def test_what_the_endpoint_says_of_itself_is_told(
    http: aiohttp.ClientSession, server: RawServer, code: str, status: int, error: type[SiteError]
) -> None:
    server.on("/bkt", xml(f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode(), status))
    with pytest.raises(error) as caught:
        await locate(catalogue(http, server.url, KEYS), "bkt/")
    assert code in caught.value.detail or status == 400


async def test_a_bucket_may_be_part_of_the_hosts_name(
    http: aiohttp.ClientSession, server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = socket.getaddrinfo

    def look(host: str, port: int, *rest: Any, **more: Any) -> Any:
        return really("127.0.0.1" if str(host).endswith(".example") else host, port, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look)
    server.on("/a/c", answer(200, {"Content-Length": 5}))
    server.on("/", xml(page(entry("a/c", 5))))
    asked = catalogue(http, f"http://s3.example:{server.port}", KEYS, addressing="virtual")
    assert asked.name(s3("x", bucket="Not_A_Host"), []) is None
    for name in ("bkt/a/c", "bkt/a/"):
        assert (await locate(asked, name)).portions[0].bytes == 5.0
    assert {seen.headers["host"] for seen in server.seen} == {f"bkt.s3.example:{server.port}"}


def test_the_plugin_is_trusted_more_than_plain_http() -> None:
    assert (plugin.trust, plugin.places, plugin.sizes) == (30, True, True)
