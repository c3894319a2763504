"""A real S3 server on the loopback, for tests: moto, with objects in memory. Imports nothing of ours but the launcher.

It takes any key, and refuses who has none where an object is not public. Within `Moto.strict` it checks keys, rights
and signatures too. `signatures` are botocore's, which lives in the same environment. Everything here blocks.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from broker.testing.children import answers, end, free_port, launch

STEP_WITHIN = 60.0

# What boto3 is told to do, as JSON on its standard input: [[operation, arguments], …].
_CALLS = """
import base64, json, sys
import boto3
from botocore.config import Config
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="maker",
                      aws_secret_access_key="maker", config=Config(s3={"addressing_style": "path"}))
for operation, arguments in json.load(sys.stdin):
    body = arguments.get("Body")
    if body is not None:
        arguments["Body"] = body.encode() if isinstance(body, str) else bytes(body)
    getattr(client, operation)(**arguments)
"""
# Somebody who may read, and nothing else: prints their access key and secret.
_READER = """
import boto3, json, sys
client = boto3.client("iam", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="maker",
                      aws_secret_access_key="maker")
name = json.load(sys.stdin)
client.create_user(UserName=name)
rights = {"Effect": "Allow", "Action": ["s3:GetObject", "s3:HeadObject", "s3:ListBucket"], "Resource": "*"}
policy = {"Version": "2012-10-17", "Statement": [rights]}
client.put_user_policy(UserName=name, PolicyName="read", PolicyDocument=json.dumps(policy))
key = client.create_access_key(UserName=name)["AccessKey"]
print(json.dumps([key["AccessKeyId"], key["SecretAccessKey"]]))
"""
# The same for signatures: [[method, url, headers, access, secret, region, moment], …] to [Authorization, …].
_SIGNATURES = """
import datetime, json, sys
from unittest import mock
import botocore.auth, botocore.compat
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
signed = []
for method, url, headers, access, secret, region, moment in json.load(sys.stdin):
    when = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
    request = AWSRequest(method, url, headers=headers)
    with mock.patch.object(botocore.auth, "get_current_datetime", lambda *_, **__: when):
        botocore.auth.S3SigV4Auth(Credentials(access, secret), "s3", region).add_auth(request)
    signed.append(request.headers["Authorization"])
json.dump(signed, sys.stdout)
"""


class Moto:
    """A server that answers at `url`. `programs`: the folder of its environment's programs."""

    def __init__(self, url: str, programs: Path) -> None:
        self.url, self._programs = url, programs

    def call(self, *calls: tuple[str, Mapping[str, Any]]) -> None:
        """Calls of boto3's client, such as `("create_bucket", {"Bucket": "b"})`. A body is text, or a number of zero
        bytes."""
        _python(self._programs, _CALLS, [self.url], calls)

    def put(self, bucket: str, objects: Mapping[str, int | str]) -> None:
        """A bucket with those objects: key → their size, or their text."""
        puts = [("put_object", {"Bucket": bucket, "Key": key, "Body": body}) for key, body in objects.items()]
        self.call(("create_bucket", {"Bucket": bucket}), *puts)

    @contextmanager
    def strict(self) -> Iterator[tuple[str, str]]:
        """The access key and the secret of somebody who may read; nobody else may, nor whoever signs wrongly. Once."""
        access, secret = json.loads(_python(self._programs, _READER, [self.url], "reader"))
        self._free_calls("0")
        try:
            yield access, secret
        finally:
            self._free_calls("inf")

    def _free_calls(self, count: str) -> None:
        """How many further calls are taken from anybody."""
        headers = {"Content-Type": "text/plain"}
        told = Request(f"{self.url}/moto-api/reset-auth", count.encode(), headers, method="POST")  # noqa: S310  ours
        with urlopen(told, timeout=STEP_WITHIN):  # noqa: S310  our own address
            pass


@contextmanager
def moto(programs: Path, folder: Path) -> Iterator[Moto]:
    """From when it answers to when it is gone."""
    port, log = free_port(), folder / "moto.log"
    command = [str(programs / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = launch(command, log, _environment(), folder)
    try:
        answers(f"http://127.0.0.1:{port}/moto-api/data.json", process, log)
        yield Moto(f"http://127.0.0.1:{port}", programs)
    finally:
        end(process)


def signatures(programs: Path, requests: Sequence[Sequence[object]]) -> list[str]:
    """What botocore writes as Authorization: of method, url, headers, access key, secret key, region, epoch seconds."""
    signed: list[str] = json.loads(_python(programs, _SIGNATURES, [], requests))
    return signed


def _python(programs: Path, script: str, arguments: Sequence[str], given: object) -> str:
    done = subprocess.run(  # noqa: S603  the environment's own interpreter
        [str(programs / "python"), "-c", script, *arguments],
        input=json.dumps(given), capture_output=True, text=True, timeout=STEP_WITHIN, check=False, env=_environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def _environment() -> dict[str, str]:
    """Nothing of whoever runs the tests: neither keys nor proxies."""
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}
