"""Sizes from a real S3 server (moto), and signatures beside botocore's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from yarl import URL

from adapters.common.sigv4 import Key
from adapters.data import listing
from adapters.data.s3 import S3Catalogue, S3Options, authorized
from broker.domain.deadline import Deadline
from broker.domain.located import Located
from broker.errors import SiteForbids, SiteForgot, SiteRefused
from broker.plugins import CatalogueResources, Credentials
from broker.services.clock import SystemClock
from broker.testing.resources import shared_http
from broker.testing.s3_server import Moto, moto, signatures
from tests.conftest import want_server

CLOCK = SystemClock()
KEYS = Credentials(username="reader", password="secret")
ODD = ("a b", "a+b", "ä/ö", "a%2Fb", "a?b&c=d", "a#b", "q=1;x", "~t", "a//b", "'\"<>", "*(!)")
MANY, PAGE = 25, 10  # objects, and how many of them a page has in these tests


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with moto(want_server("moto"), tmp_path_factory.mktemp("moto")) as server:
        server.put("survey", {"cube.fits": 12_345, "empty": 0, "run/1": 10, "run/2": 32, "run/": 0, "runs": 1000})
        server.put("odd", {key: 10 + place for place, key in enumerate(ODD)})
        server.put("many", {f"part/{number:05}": 1 for number in range(MANY)})
        server.call(
            ("put_object", {"Bucket": "survey", "Key": "ice", "Body": 7, "StorageClass": "GLACIER"}),
            ("put_object", {"Bucket": "survey", "Key": "thawed", "Body": 7, "StorageClass": "DEEP_ARCHIVE"}),
            ("restore_object", {"Bucket": "survey", "Key": "thawed", "RestoreRequest": {"Days": 1}}),
            ("create_bucket", {"Bucket": "open"}),
            ("put_object", {"Bucket": "open", "Key": "cube.fits", "Body": 99, "ACL": "public-read"}),
        )
        yield server


@pytest.fixture(autouse=True)
def short_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_ON_A_PAGE", PAGE)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as session:
        yield session


async def locate(
    http: aiohttp.ClientSession, s3: Moto, name: str, keys: Credentials | None = KEYS, **options: Any
) -> Located:
    asked = S3Catalogue(S3Options(**options), CatalogueResources("s3", s3.url, CLOCK, http, keys, lambda _: False))
    return await asked.locate(name, Deadline.after(20.0, CLOCK.monotonic()))


async def test_an_object_has_its_size_and_its_checksum(http: aiohttp.ClientSession, s3: Moto) -> None:
    found = await locate(http, s3, "survey/cube.fits")
    (portion,) = found.portions
    assert (portion.bytes, portion.files) == (12_345.0, 1)
    assert [replica.url for replica in portion.replicas] == [f"{s3.url}/survey/cube.fits"]
    assert found.checksum is not None
    assert found.checksum[0] == "md5"


async def test_an_empty_object_is_an_empty_object(http: aiohttp.ClientSession, s3: Moto) -> None:
    assert (await locate(http, s3, "survey/empty")).portions[0].bytes == 0.0


@pytest.mark.parametrize(("place", "key"), list(enumerate(ODD)))
async def test_odd_keys_are_found(http: aiohttp.ClientSession, s3: Moto, place: int, key: str) -> None:
    assert (await locate(http, s3, f"odd/{key}")).portions[0].bytes == 10.0 + place


async def test_a_prefix_is_summed(http: aiohttp.ClientSession, s3: Moto) -> None:
    (portion,) = (await locate(http, s3, "survey/run/")).portions
    assert (portion.bytes, portion.files) == (42.0, 2)


async def test_a_bucket_with_odd_keys_is_summed(http: aiohttp.ClientSession, s3: Moto) -> None:
    (portion,) = (await locate(http, s3, "odd/")).portions
    assert (portion.bytes, portion.files) == (float(sum(10 + place for place in range(len(ODD)))), len(ODD))


async def test_a_list_of_several_pages_is_summed_to_its_end(http: aiohttp.ClientSession, s3: Moto) -> None:
    (portion,) = (await locate(http, s3, "many/part/")).portions
    assert (portion.bytes, portion.files) == (float(MANY), MANY)
    with pytest.raises(SiteRefused, match="more than 24 objects"):
        await locate(http, s3, "many/part/", most_files=24)


async def test_what_is_in_an_archive_is_on_tape_until_it_is_restored(http: aiohttp.ClientSession, s3: Moto) -> None:
    assert (await locate(http, s3, "survey/ice")).portions[0].replicas[0].tape
    assert not (await locate(http, s3, "survey/thawed")).portions[0].replicas[0].tape
    assert not (await locate(http, s3, "survey/cube.fits")).portions[0].replicas[0].tape
    tapes = {portion.replicas[0].tape for portion in (await locate(http, s3, "survey/")).portions}
    assert tapes == {False, True}


async def test_what_is_not_there_is_said_to_be_missing(http: aiohttp.ClientSession, s3: Moto) -> None:
    for name in ("survey/nothing", "survey/nothing/", "nowhere/x", "nowhere/"):
        with pytest.raises(SiteForgot):
            await locate(http, s3, name)


async def test_without_credentials_only_what_is_public_is_known(http: aiohttp.ClientSession, s3: Moto) -> None:
    with pytest.raises(SiteForbids, match=r"403.*wants credentials"):
        await locate(http, s3, "survey/cube.fits", keys=None)
    assert (await locate(http, s3, "open/cube.fits", keys=None)).portions[0].bytes == 99.0


async def test_a_server_that_checks_signatures_takes_ours(http: aiohttp.ClientSession, s3: Moto) -> None:
    with s3.strict() as (access, secret):
        keys = Credentials(username=access, password=secret)
        for place, key in enumerate(ODD):
            assert (await locate(http, s3, f"odd/{key}", keys)).portions[0].bytes == 10.0 + place
        assert (await locate(http, s3, "many/part/", keys)).portions[0].files == MANY
        wrong = Credentials(username=access, password=f"{secret}x")
        with pytest.raises(SiteForbids, match=r"403 for survey/cube\.fits: this catalogue's key may not"):
            await locate(http, s3, "survey/cube.fits", wrong)
        with pytest.raises(SiteForbids, match="403 SignatureDoesNotMatch for survey/run/"):
            await locate(http, s3, "survey/run/", wrong)


def test_signatures_are_those_of_botocore() -> None:
    programs: Path = want_server("moto")
    moment = 1_800_000_000.0
    paths = [f"bkt/{quote(key, safe='/~')}" for key in ODD] + [
        "bkt?list-type=2&prefix=a%20b%2F&max-keys=1000",
        "bkt?a-b=2&a=1",
    ]
    requests = [
        (method, f"{base}/{path}", {"Accept": "*/*", "X-Two": " a  b "}, "AK", "s/e+c", "eu-west-1", moment)
        for base in ("https://s3.example", "http://127.0.0.1:9000")
        for method in ("GET", "HEAD")
        for path in paths
    ]
    theirs = [_pairs(line) for line in signatures(programs, requests)]
    key = Key("AK", "s/e+c", "eu-west-1")
    for (method, url, headers, *_), told in zip(requests, theirs, strict=True):
        # Which headers are signed is free; botocore leaves Accept out.
        kept = {name: value for name, value in headers.items() if name.lower() in told["SignedHeaders"].split(";")}
        ours = _pairs(authorized(method, URL(url, encoded=True), kept, key, moment)["Authorization"])
        assert ours == told, url


def _pairs(authorization: str) -> dict[str, str]:
    _, _, rest = authorization.partition(" ")
    return dict(part.strip().partition("=")[::2] for part in rest.split(","))
