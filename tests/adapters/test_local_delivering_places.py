"""Results written to real places: S3 (moto) and WebDAV (nginx), and signatures beside those of others."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters.common.sigv4 import Key, signed
from broker.testing.nginx import nginx
from broker.testing.s3_server import Moto, moto
from tests.adapters.test_local_delivering import NAMES, SOURCE, a_writer, run, sending
from tests.adapters.test_local_platform import a_job, soon
from tests.conftest import want_server

# ── S3 ───────────────────────────────────────────────────────────────────────────────────────────────────────

# What boto3 finds: key → sha256.
_LIST = """
import hashlib, json, sys, boto3
from botocore.config import Config
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="reader",
                      aws_secret_access_key="reader", config=Config(s3={"addressing_style": "path"}))
found = client.list_objects_v2(Bucket=sys.argv[2]).get("Contents", [])
bodies = {item["Key"]: client.get_object(Bucket=sys.argv[2], Key=item["Key"])["Body"].read() for item in found}
json.dump({key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}, sys.stdout)
"""
# botocore's signature of a PUT with a body.
_SIGN = """
import datetime, json, sys
from unittest import mock
import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
url, headers, body, access, secret, token, region, moment = json.load(sys.stdin)
when = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
request = AWSRequest("PUT", url, headers=headers, data=body.encode())
with mock.patch.object(botocore.auth, "get_current_datetime", lambda *_, **__: when):
    botocore.auth.S3SigV4Auth(Credentials(access, secret, token), "s3", region).add_auth(request)
json.dump(request.headers["Authorization"], sys.stdout)
"""


def in_moto(script: str, *arguments: str, given: object = None) -> Any:
    python = want_server("moto") / "python"
    done = subprocess.run(
        [str(python), "-c", script, *arguments], input=json.dumps(given), capture_output=True, text=True, timeout=60,
        check=False, env={"HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    with moto(want_server("moto"), tmp_path_factory.mktemp("moto")) as server:
        server.call(("create_bucket", {"Bucket": "results"}))
        yield server


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    path = tmp_path / "secrets"
    path.write_text("[default]\naws_access_key_id = AKIAWRITER\naws_secret_access_key = s3cr3t/+%\n")
    return path


async def test_results_are_objects_below_the_prefix(tmp_path: Path, s3: Moto, secrets: Path) -> None:
    entry = {"prefix": "s3://results/runs", "endpoint": s3.url, "credentials_file": secrets}
    platform = a_writer(tmp_path, entry)
    job = sending(a_job(SOURCE), "s3://results/runs/{session}/a%20b")
    sighting = await run(platform, job)
    assert sighting.phase == "COMPLETED", sighting.messages
    place = f"runs/{job.session}/a b"
    assert in_moto(_LIST, s3.url, "results") == {
        f"{place}/a.txt": hashlib.sha256(b"hello").hexdigest(),
        f"{place}/sub/b ü%.txt": hashlib.sha256(b"x" * 1_000_000).hexdigest(),
    }
    urls = {result.url for result in await platform.results(job, soon())}
    assert f"s3://results/runs/{job.session}/a%20b/sub/b%20%C3%BC%25.txt" in urls


async def test_a_bucket_that_is_not_there_is_named_and_nothing_is_lost(tmp_path: Path, s3: Moto, secrets: Path) -> None:
    platform = a_writer(tmp_path, {"prefix": "s3://nowhere/", "endpoint": s3.url, "credentials_file": secrets})
    job = sending(a_job(SOURCE), "s3://nowhere/x")
    sighting = await run(platform, job)
    assert sighting.phase == "FAILED"
    assert "answers 404 NoSuchBucket" in sighting.messages[0]
    assert {result.name for result in await platform.results(job, soon())} == NAMES


def test_a_signature_is_that_of_the_documentation() -> None:
    """The example "PUT Object" of the Amazon S3 API Reference, "Authenticating Requests: Using the Authorization
    Header"."""
    key = Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    headers = {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    digest = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest()
    host, path = "examplebucket.s3.amazonaws.com", "/test%24file.text"
    found = signed("PUT", host, path, headers, key, 1369353600.0, digest=digest)["Authorization"].replace(", ", ",")
    assert found == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,"
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


@pytest.mark.parametrize("token", ["", "session+token/="])
def test_a_signature_is_that_of_botocore(token: str) -> None:
    host, path, body = "127.0.0.1:19000", "/results/a%20b/%C3%BC%25.txt", "hello"
    headers = {"Content-Type": "application/octet-stream"}
    key = Key("AKIAWRITER", "s3cr3t/+%", "eu-north-1", token)
    ours = signed("PUT", host, path, headers, key, 1795356120.0, digest=hashlib.sha256(body.encode()).hexdigest())
    given = [f"http://{host}{path}", headers, body, key.access, key.secret, token or None, key.region, 1795356120.0]
    assert ours["Authorization"] == in_moto(_SIGN, given=given)


def test_a_key_does_not_show_itself() -> None:
    assert "s3cr3t" not in repr(Key("access", "s3cr3t", "region", "s3cr3t"))


# ── WebDAV ───────────────────────────────────────────────────────────────────────────────────────────────────

SERVER = """
        location /strict/ { dav_methods PUT MKCOL; client_max_body_size 0; }
        location /small/ { dav_methods PUT MKCOL; client_max_body_size 1k; }
        location /read/ { }
"""


@pytest.fixture(scope="module")
def dav(nginx_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("nginx")
    for name in ("strict", "small", "read"):
        (folder / "www" / name).mkdir(parents=True)
    with nginx(folder, SERVER) as url:
        yield url, folder / "www"


async def test_results_are_files_of_a_webdav_server_that_wants_its_folders_made(
    tmp_path: Path, dav: tuple[str, Path]
) -> None:
    url, www = dav
    platform = a_writer(tmp_path, f"{url}/strict/")
    job = sending(a_job(SOURCE), f"{url}/strict/mine/{{session}}/")
    sighting = await run(platform, job)
    assert sighting.phase == "COMPLETED", sighting.messages
    place = www / "strict" / "mine" / str(job.session)
    assert {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()} == NAMES
    assert (place / "a.txt").read_bytes() == b"hello"


@pytest.mark.parametrize(("place", "status"), [("small", "413"), ("read", "405")])
async def test_a_server_that_will_not_have_it_is_named(
    tmp_path: Path, dav: tuple[str, Path], place: str, status: str
) -> None:
    url, _ = dav
    platform = a_writer(tmp_path, f"{url}/{place}/")
    sighting = await run(platform, sending(a_job(SOURCE), f"{url}/{place}/"))
    assert sighting.phase == "FAILED"
    assert f"answers {status} " in sighting.messages[0]
