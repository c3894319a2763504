"""What is never connected to, whatever a site's name means by now."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from adapters.common.http import Origin
from broker.domain.addresses import serves
from broker.domain.deadline import Deadline
from broker.errors import SiteUnreachable
from broker.outward import Names
from broker.services.clock import SystemClock
from broker.testing.resources import shared_http
from broker.testing.site import FakeSite

CLOCK = SystemClock()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


def binds(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """From now on every name means that address."""

    async def resolve(self: Names, host: str, port: int = 0, family: int = 0) -> list[dict[str, object]]:
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [{"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}]

    monkeypatch.setattr(Names, "resolve", resolve)


async def get(http: aiohttp.ClientSession, url: str) -> int:
    origin = Origin(http, url, CLOCK)
    answer = await origin.send("GET", origin.base, deadline=Deadline.after(5.0, CLOCK.monotonic()))
    return answer.status


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fd00:ec2::254", "0.0.0.0"]
)
async def test_a_name_bound_anew_to_where_secrets_are_is_refused_at_the_connection(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    async with FakeSite() as site:
        port = site.url.rpartition(":")[2]
        binds(monkeypatch, "127.0.0.1")
        assert await get(http, f"http://alba.example:{port}") == 404
        binds(monkeypatch, address)
        with pytest.raises(SiteUnreachable, match="no address of a site") as refused:
            await get(http, f"http://borealis.example:{port}")
        assert refused.value.proof
        assert len(site.requests) == 1


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "[fe80::1]"])
async def test_so_is_the_address_itself_however_it_is_written(http: aiohttp.ClientSession, host: str) -> None:
    with pytest.raises(SiteUnreachable, match="no address of a site"):
        await get(http, f"http://{host}:80")


def test_other_addresses_may_be_a_sites() -> None:
    assert all(serves(address) for address in ("127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "2001:db8::1"))


async def test_a_name_that_is_none_has_no_address(http: aiohttp.ClientSession) -> None:
    for name in ("nowhere.invalid", "a" * 64 + ".example", "x..example"):
        with pytest.raises(SiteUnreachable) as refused:
            await get(http, f"http://{name}")
        assert refused.value.proof
