"""The catalogue Rucio against servers that lie, break off, flood, or are none; and what it asks, and whom."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.data import rucio as module
from adapters.data.rucio import Rucio, RucioOptions, plugin
from broker.domain import kinds
from broker.domain.data import (
    AbstractDataResource,
    IvoaDataResource,
    RucioDataResource,
    SimpleDataResource,
    SkaoDataResource,
)
from broker.domain.deadline import Deadline
from broker.domain.located import MOST_PORTIONS, MOST_REPLICAS, Located, Portion, Replica
from broker.errors import (
    SettingsError,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteTimeout,
)
from broker.plugins import CatalogueResources, Credentials
from broker.testing.clock import FakeClock

PASSWORD = "horse-battery-4711"
WALL = 1_800_000_000.0
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Liar:
    """A Rucio that says what a test wants. `lists`, `dids`, `files` and `logins` are answers; what it was asked is
    kept."""

    def __init__(self) -> None:
        self.lists: Handler = answer("")
        self.dids: Handler = answer('{"ExceptionMessage": "Data identifier not found"}', 404)
        self.files: Handler = answer("")
        self.logins: Handler | None = None
        self.lasts, self.ahead = 3600.0, 0.0
        self.tokens: list[str] = []
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[Any] = []
        self.headers: list[Any] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._any)
        self.server = TestServer(app)

    @property
    def url(self) -> str:
        return str(self.server.make_url("")).rstrip("/")

    @property
    def log_ins(self) -> int:
        return sum(path == "/auth/userpass" for _, path in self.asked)

    async def _any(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.raw_path))
        self.headers.append(request.headers)
        if request.path == "/auth/userpass":
            return await (self.logins or self._log_in)(request)
        if request.path == "/replicas/list":
            self.bodies.append(await request.json())
            return await self.lists(request)
        return await (self.files if request.path.endswith("/files") else self.dids)(request)

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(f"token-number-{len(self.tokens)}")
        headers = {
            "X-Rucio-Auth-Token": self.tokens[-1],
            "X-Rucio-Auth-Token-Expires": formatdate(WALL + self.ahead + self.lasts).replace("-0000", "UTC"),
            "Date": formatdate(WALL + self.ahead, usegmt=True),
        }
        return web.Response(headers=headers)


def answer(text: str | bytes, status: int = 200, kind: str = "application/x-json-stream", **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = text if isinstance(text, bytes) else text.encode()
        return web.Response(body=body, status=status, headers={"Content-Type": kind, **headers})

    return handle


def line(name: str = "cube", size: Any = 1000, **more: Any) -> str:
    """A file on the disk A, unless told otherwise."""
    file = {"scope": "s", "name": name, "bytes": size, "adler32": "0000abcd", "md5": None, "pfns": pfns("A"), **more}
    return json.dumps(file) + "\n"


def resource(**block: Any) -> AbstractDataResource:
    """Of the kind that the name of its one property tells."""
    model, kind = {
        "rucio": (RucioDataResource, kinds.RUCIO_DATA),
        "skao": (SkaoDataResource, kinds.SKAO_DATA),
        "ivoa": (IvoaDataResource, kinds.IVOA_DATA),
        "location": (SimpleDataResource, kinds.SIMPLE_DATA),
    }[next(iter(block))]
    return model.model_validate({"kind": kind, **block})


def pfns(*storages: str, **more: Any) -> dict[str, Any]:
    return {f"https://{s.lower()}.example.org/data/x": {"rse": s, "type": "DISK", **more} for s in storages}


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    liar = Liar()
    async with liar.server:
        yield liar


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(WALL)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def rucio(liar: Liar, clock: FakeClock, http: aiohttp.ClientSession) -> AsyncIterator[Rucio]:
    made = make(liar.url, clock, http)
    yield made
    await made.close()


def make(
    url: str | None,
    clock: FakeClock,
    http: aiohttp.ClientSession,
    credentials: Credentials | None = None,
    **options: Any,
) -> Rucio:
    given = credentials or Credentials("broker", PASSWORD)
    resources = CatalogueResources("ska", url, clock, http, given, lambda url: False)
    made = plugin.make(RucioOptions.model_validate({"account": "root", **options}), resources)
    assert isinstance(made, Rucio)
    return made


async def ask(rucio: Rucio, clock: FakeClock, name: str = "s:cube", seconds: float = 30.0) -> Located:
    return await rucio.locate(name, Deadline.after(seconds, clock.monotonic()))


# ── numbers, names and addresses that are none ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize("size", [-1, "1000", 10**19, 1.5, True, None, [1], {"bytes": 1}])
async def test_a_size_that_is_none_is_unknown_and_not_zero(
    liar: Liar, rucio: Rucio, clock: FakeClock, size: Any
) -> None:
    liar.lists = answer(line(size=size))

    [portion] = (await ask(rucio, clock)).portions

    assert portion.bytes is None
    assert [r.storage for r in portion.replicas] == ["A"]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
async def test_a_number_that_json_has_not_spoils_the_list(
    liar: Liar, rucio: Rucio, clock: FakeClock, number: str
) -> None:
    liar.lists = answer(line(size=4711).replace("4711", number))
    with pytest.raises(SiteMisbehaved, match="line 1 of its list"):
        await ask(rucio, clock)


@pytest.mark.parametrize(
    "said",
    [
        {"no address": {"rse": "A", "type": "DISK"}},
        {"https://": {"rse": "A"}},
        {"http://[::1": {"rse": "A"}},
        {"https://a.example.org/" + "x" * 3000: {"rse": "A"}},
        {"https://a.example.org/\u202e": {"rse": "A"}},
        {"https://a.example.org/x": {"rse": ""}},
        {"https://a.example.org/x": {"rse": 7}},
        {"https://a.example.org/x": {"rse": "A\nB"}},
        {"https://a.example.org/x": {"rse": "A" * 300}},
        {"https://a.example.org/x": "A"},
        {"https://a.example.org/x": None},
        ["https://a.example.org/x"],
        "https://a.example.org/x",
        None,
    ],
)
async def test_a_place_that_is_none_is_left_out(liar: Liar, rucio: Rucio, clock: FakeClock, said: Any) -> None:
    liar.lists = answer(line(pfns=said))

    [portion] = (await ask(rucio, clock)).portions

    assert portion == Portion(1000)


@pytest.mark.parametrize("states", [{"A": "BAD"}, {"A": "UNAVAILABLE"}, {"A": None}, {"A": 1}])
async def test_a_copy_that_is_not_available_is_no_place(
    liar: Liar, rucio: Rucio, clock: FakeClock, states: Any
) -> None:
    liar.lists = answer(line(states=states))
    assert (await ask(rucio, clock)).portions == (Portion(1000),)


@pytest.mark.parametrize("states", [{"A": "AVAILABLE"}, {}, None, "BAD", ["BAD"], {"B": "BAD"}])
async def test_no_word_on_a_copys_state_leaves_it_where_it_is(
    liar: Liar, rucio: Rucio, clock: FakeClock, states: Any
) -> None:
    liar.lists = answer(line(states=states))
    assert [r.storage for r in (await ask(rucio, clock)).portions[0].replicas] == ["A"]


async def test_of_several_addresses_the_one_for_all_and_preferred_is_taken(
    liar: Liar, rucio: Rucio, clock: FakeClock
) -> None:
    said = {
        "root://a.example.org//x": {"rse": "A", "type": "DISK", "domain": "lan", "priority": 1},
        "davs://a.example.org/x": {"rse": "A", "type": "DISK", "domain": "wan", "priority": 3},
        "https://a.example.org/x": {"rse": "A", "type": "DISK", "domain": "wan", "priority": 2},
        "gsiftp://a.example.org/x": {"rse": "A", "type": "DISK", "domain": "wan", "priority": "0"},
    }
    liar.lists = answer(line(pfns=said))
    assert (await ask(rucio, clock)).portions[0].replicas == (Replica("A", "https://a.example.org/x"),)


async def test_an_address_loses_what_may_stand_for_a_permission(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    signed = "https://key:secret@a.example.org:8443/b/x?X-Amz-Signature=secret&#secret"
    liar.lists = answer(line(pfns={signed: {"rse": "A", "type": "DISK"}}))
    assert (await ask(rucio, clock)).portions[0].replicas == (Replica("A", "https://a.example.org:8443/b/x"),)


@pytest.mark.parametrize(
    ("said", "checksum"),
    [
        ({"md5": "0" * 31 + "F"}, ("md5", "0" * 31 + "f")),
        ({"md5": "0" * 31, "adler32": "0000ABCD"}, ("adler32", "0000abcd")),
        ({"md5": 7, "adler32": "xyz"}, None),
        ({"adler32": None}, None),
    ],
)
async def test_a_checksum_that_is_none_is_left_out(
    liar: Liar, rucio: Rucio, clock: FakeClock, said: dict[str, Any], checksum: object
) -> None:
    liar.lists = answer(line(**said))
    assert (await ask(rucio, clock)).checksum == checksum


async def test_a_great_many_places_are_bounded(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    liar.lists = answer(line(pfns=pfns(*(f"S{i:04}" for i in range(3000)))))
    assert len((await ask(rucio, clock)).portions[0].replicas) == MOST_REPLICAS


async def test_files_each_in_other_places_are_bounded_and_no_byte_is_lost(
    liar: Liar, rucio: Rucio, clock: FakeClock
) -> None:
    liar.lists = answer("".join(line(f"f{i}", 10, pfns=pfns(f"S{i}")) for i in range(2500)))
    liar.dids = answer('{"type": "DATASET", "bytes": 25000, "length": 2500}')

    found = await ask(rucio, clock)

    assert len(found.portions) <= MOST_PORTIONS
    assert sum(p.bytes or 0 for p in found.portions) == 25_000
    assert sum(p.files for p in found.portions) == 2500


# ── lists that are none ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "said",
    [
        "<!DOCTYPE html>\n<html>Sign in</html>\n",
        "[]\n",
        "null\n",
        '"cube"\n',
        "{}\n",
        '{"scope": "s"}\n',
        '{"scope": 1, "name": "cube"}\n',
        '{"scope": "s", "name": "cube", "bytes"\n',
        "[" * 100_000 + "\n",
        '{"scope": "s", "name": "x", "pfns": ' + "[" * 50_000 + "\n",
        b'{"scope": "s", "name": "\xff\xfe"}\n',
    ],
)
async def test_a_line_that_names_no_file_spoils_the_list(
    liar: Liar, rucio: Rucio, clock: FakeClock, said: str | bytes
) -> None:
    liar.lists = answer(said, kind="text/html")
    with pytest.raises(SiteMisbehaved, match="line 1 of its list"):
        await ask(rucio, clock)


async def test_the_kind_of_the_answer_does_not_matter_where_its_lines_are_right(
    liar: Liar, rucio: Rucio, clock: FakeClock
) -> None:
    liar.lists = answer("\n\n" + line() + "\r\n", kind="text/plain")
    assert (await ask(rucio, clock)).portions[0].bytes == 1000


async def test_the_last_line_may_end_with_the_answer(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    liar.lists = answer(line().rstrip("\n"))
    assert (await ask(rucio, clock)).portions[0].bytes == 1000


async def test_an_answer_that_breaks_off_is_none(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100000"})
        await response.prepare(request)
        await response.write(line("other").encode())
        assert request.transport is not None
        request.transport.close()
        return response

    liar.lists = half
    with pytest.raises(SiteMisbehaved, match="broke off"):
        await ask(rucio, clock)


def dripping(lines: str, stop: asyncio.Event) -> Handler:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(lines.encode())
        await stop.wait()
        return response

    return drip


async def test_an_answer_that_never_begins_ends_by_the_deadline(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    stop = asyncio.Event()
    liar.lists = dripping("", stop)
    with pytest.raises(SiteTimeout):
        await ask(rucio, clock, seconds=0.5)
    stop.set()


@pytest.mark.parametrize(
    ("length", "rest"), [(5, (Portion(3000, (), 3),)), (2, ()), (None, (Portion(3000),)), (-1, (Portion(3000),))]
)
async def test_of_a_list_that_takes_too_long_what_came_in_time_has_places_and_the_rest_a_size(
    liar: Liar, rucio: Rucio, clock: FakeClock, length: int | None, rest: tuple[Portion, ...]
) -> None:
    stop = asyncio.Event()
    liar.lists = dripping(line("a") + line("b"), stop)
    liar.dids = answer(json.dumps({"type": "DATASET", "bytes": 5000, "length": length}))

    found = await ask(rucio, clock, seconds=1.0)

    assert set(found.portions) == {Portion(2000, (Replica("A"),), 2), *rest}
    stop.set()


async def test_a_line_without_an_end_is_not_read_to_it(
    liar: Liar, rucio: Rucio, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 10_000)
    liar.lists = answer('{"scope": "' + "s" * 3_000_000)
    with pytest.raises(SiteMisbehaved, match="a line of more than 10000 bytes"):
        await ask(rucio, clock)


async def test_a_list_without_an_end_is_not_read_to_it(
    liar: Liar, rucio: Rucio, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100_000)
    liar.lists = answer(line("other") * 2_000)  # the same file again and again
    with pytest.raises(SiteMisbehaved, match="too long"):
        await ask(rucio, clock)


async def test_the_same_file_twice_counts_once(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    liar.lists = answer(line("a") + line("b") + line("a", 5))
    liar.dids = answer('{"type": "DATASET", "bytes": 2000, "length": 2}')
    assert (await ask(rucio, clock)).portions == (Portion(2000, (Replica("A"),), 2),)


async def test_of_a_file_what_is_said_of_others_does_not_count(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    liar.lists = answer(line("other", 7) + line("cube", 1000) + line("more", 9))
    assert [p.bytes for p in (await ask(rucio, clock)).portions] == [1000]

    liar.lists = answer(line("other", 7))
    liar.dids = answer('{"type": "FILE", "bytes": 1000}')
    assert (await ask(rucio, clock)).portions == (Portion(1000),)


async def test_a_file_of_the_same_name_in_another_scope_is_another(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    liar.lists = answer(line("cube", 7, scope="other") + line("a"))
    liar.dids = answer('{"type": "DATASET", "bytes": 1007, "length": 2}')
    assert (await ask(rucio, clock)).portions == (Portion(1007, (Replica("A"),), 2),)


async def test_the_size_of_a_file_that_rucio_writes_as_nothing_is_unknown(
    liar: Liar, rucio: Rucio, clock: FakeClock
) -> None:
    """Rucio writes 0 there for a size that it does not have."""
    liar.dids = answer('{"type": "FILE", "bytes": 0}')
    assert (await ask(rucio, clock)).portions == (Portion(),)


@pytest.mark.parametrize(
    "said", ["", "<html>", "[]", '{"bytes": 1}', '{"type": 7}', '{"type": "FILE"' + " " * 2_000_000]
)
async def test_a_description_that_is_none_is_said(liar: Liar, rucio: Rucio, clock: FakeClock, said: str) -> None:
    liar.lists = answer(line("a"))
    liar.dids = answer(said)
    with pytest.raises(SiteMisbehaved, match="says of s:cube"):
        await ask(rucio, clock)


@pytest.mark.parametrize("length", [-5, "3", None, 10**19])
async def test_a_number_of_files_that_is_none_is_found_out_by_their_list(
    liar: Liar, rucio: Rucio, clock: FakeClock, length: Any
) -> None:
    liar.lists = answer(line("a"))
    liar.dids = answer(json.dumps({"type": "DATASET", "bytes": -1, "length": length}))
    liar.files = answer(line("a") + line("b", 5))
    assert (await ask(rucio, clock)).portions == (
        Portion(1000, (Replica("A", "https://a.example.org/data/x"),)),
        Portion(5),
    )


async def test_more_files_than_were_promised_are_not_read_without_end(
    liar: Liar, clock: FakeClock, http: aiohttp.ClientSession
) -> None:
    liar.dids = answer('{"type": "DATASET", "bytes": 100, "length": 2}')
    liar.files = answer("".join(line(f"f{i}", 1) for i in range(5_000)))
    rucio = make(liar.url, clock, http, most_files=10)

    found = await ask(rucio, clock)

    assert sum(p.files for p in found.portions) == 11
    assert sum(p.bytes or 0 for p in found.portions) == 100


async def test_the_size_of_the_rest_is_unknown_where_it_would_be_negative(
    liar: Liar, clock: FakeClock, http: aiohttp.ClientSession
) -> None:
    liar.lists = answer("".join(line(f"f{i}") for i in range(20)))
    liar.dids = answer('{"type": "DATASET", "bytes": 5, "length": 20}')

    found = await ask(make(liar.url, clock, http, most_files=10), clock)

    assert Portion(None, (), 10) in found.portions


@pytest.mark.parametrize(
    ("status", "headers", "error"),
    [
        (400, {}, SiteError),
        (403, {}, SiteForbids),
        (404, {}, SiteError),
        (429, {"Retry-After": "7"}, SiteBusy),
        (500, {}, SiteMisbehaved),
        (503, {"Retry-After": "7"}, SiteBusy),
        (302, {"Location": "http://127.0.0.1:1/"}, SiteMisbehaved),
    ],
)
async def test_an_answer_other_than_a_list_is_called_by_its_name(
    liar: Liar, rucio: Rucio, clock: FakeClock, status: int, headers: dict[str, str], error: type[SiteError]
) -> None:
    liar.lists = answer('{"ExceptionMessage": "The database is away"}', status, "application/json", **headers)
    with pytest.raises(error) as caught:
        await ask(rucio, clock)
    assert ("The database is away" in caught.value.detail) == (status not in (302, 403))


# ── whom it asks, and with what ──────────────────────────────────────────────────────────────────────────────


async def test_it_asks_for_the_name_alone_and_signs_in_once(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    liar.lists = answer(line())
    await ask(rucio, clock)
    await ask(rucio, clock)

    assert liar.asked == [("GET", "/auth/userpass"), ("POST", "/replicas/list"), ("POST", "/replicas/list")]
    assert liar.bodies[0] == {"dids": [{"scope": "s", "name": "cube"}], "domain": "all"}
    assert liar.headers[0]["X-Rucio-Account"] == "root"
    assert "X-Rucio-Password" not in liar.headers[1]
    assert liar.headers[1]["X-Rucio-Auth-Token"] == "token-number-0"


async def test_a_name_cannot_lead_out_of_its_place_in_the_address(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    with pytest.raises(SiteForgot):
        await ask(rucio, clock, "s:a/b?dynamic=1#x%2e+é")
    assert liar.asked[-1] == ("GET", "/dids/s/a%2Fb%3Fdynamic%3D1%23x%252e%2B%C3%A9?dynamic_depth=FILE")


@pytest.mark.parametrize("ahead", [0.0, 5000.0, -5000.0])
async def test_a_token_is_not_used_in_its_last_minute_whatever_the_clock_of_rucio_says(
    liar: Liar, rucio: Rucio, clock: FakeClock, ahead: float
) -> None:
    liar.ahead, liar.lists = ahead, answer(line())
    await ask(rucio, clock)
    clock.advance(3600 - 61)
    await ask(rucio, clock)
    assert liar.log_ins == 1
    clock.advance(2)
    await ask(rucio, clock)
    assert liar.log_ins == 2


@pytest.mark.parametrize("lasts", [-7200.0, 0.0])
async def test_a_token_that_has_ended_already_serves_the_one_question(
    liar: Liar, rucio: Rucio, clock: FakeClock, lasts: float
) -> None:
    liar.lasts, liar.lists = lasts, answer(line())
    await ask(rucio, clock)
    await ask(rucio, clock)
    assert liar.log_ins == 2


async def test_a_token_that_is_refused_costs_one_more_log_in_and_no_more(
    liar: Liar, rucio: Rucio, clock: FakeClock
) -> None:
    liar.lists = answer("", 401)
    with pytest.raises(SiteForbids, match="does not take our token"):
        await ask(rucio, clock)
    assert liar.log_ins == 2


async def test_all_who_ask_at_once_wait_for_the_same_log_in(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    async def by_token(request: web.Request) -> web.StreamResponse:
        good = request.headers["X-Rucio-Auth-Token"] != "token-number-0"
        return await answer(line() if good else "", 200 if good else 401)(request)

    liar.lists = by_token
    await asyncio.gather(*(ask(rucio, clock) for _ in range(20)))
    assert liar.log_ins == 2


async def test_a_refusal_that_comes_late_takes_no_newer_token_from_the_others(
    liar: Liar, rucio: Rucio, clock: FakeClock
) -> None:
    waits, go_on = asyncio.Event(), asyncio.Event()

    async def by_token(request: web.Request) -> web.StreamResponse:
        if request.headers["X-Rucio-Auth-Token"] != "token-number-0":
            return await answer(line())(request)
        if not waits.is_set():
            waits.set()
            await go_on.wait()
        return web.Response(status=401)

    liar.lists = by_token
    late = asyncio.create_task(ask(rucio, clock))
    await waits.wait()
    await ask(rucio, clock)
    go_on.set()
    await late
    assert liar.log_ins == 2


async def test_whoever_gives_up_takes_the_log_in_from_nobody_else(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        begun.set()
        await go_on.wait()
        return await liar._log_in(request)

    liar.logins, liar.lists = slow, answer(line())
    first = asyncio.create_task(ask(rucio, clock))
    second = asyncio.create_task(ask(rucio, clock))
    await begun.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    go_on.set()
    assert (await second).portions[0].bytes == 1000
    assert liar.log_ins == 1


async def test_closing_ends_a_log_in_that_is_under_way(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    begun, never = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        begun.set()
        await never.wait()
        return web.Response()

    liar.logins = hang
    asking = asyncio.create_task(ask(rucio, clock))
    await begun.wait()
    await rucio.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    never.set()


@pytest.mark.parametrize("token", [None, "", "two words", "x" * 7000])
async def test_a_log_in_without_a_token_is_said(liar: Liar, rucio: Rucio, clock: FakeClock, token: str | None) -> None:
    liar.logins = answer("<html>", 200, "text/html", **({} if token is None else {"X-Rucio-Auth-Token": token}))
    if token and len(token) > 5000:
        liar.lists = answer(line())
        assert (await ask(rucio, clock)).portions  # long ones there are: tokens that carry rights
        return
    with pytest.raises(SiteMisbehaved, match="without a token: it may be no Rucio"):
        await ask(rucio, clock)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
async def test_a_password_that_the_other_side_writes_into_its_answer_is_shown_to_nobody(
    liar: Liar, rucio: Rucio, clock: FakeClock, status: int
) -> None:
    liar.logins = answer(f"{'x ' * 133}no user broker with {PASSWORD} and {PASSWORD}", status, "text/plain")
    with pytest.raises(SiteError) as caught:
        await ask(rucio, clock)
    assert PASSWORD[:9] not in f"{caught.value} {caught.value.args} {caught.value.__cause__!r}"


async def test_a_token_that_the_other_side_writes_into_its_answer_is_shown_to_nobody(
    liar: Liar, rucio: Rucio, clock: FakeClock
) -> None:
    liar.lists = answer("token-number-0 is a nice token", 500, "text/plain")
    with pytest.raises(SiteMisbehaved, match="… is a nice token") as caught:
        await ask(rucio, clock)
    assert "token-number" not in f"{caught.value} {caught.value.args}"


async def test_a_redirected_log_in_is_not_followed(liar: Liar, rucio: Rucio, clock: FakeClock) -> None:
    other = Liar()
    async with other.server:
        liar.logins = answer("", 307, Location=f"{other.url}/auth/userpass")
        with pytest.raises(SiteMisbehaved, match="a redirect; none is followed"):
            await ask(rucio, clock)
        assert other.asked == []


async def test_the_password_goes_to_the_address_of_the_log_in_and_the_token_to_the_catalogue(
    liar: Liar, clock: FakeClock, http: aiohttp.ClientSession
) -> None:
    door = Liar()
    liar.lists = answer(line())
    async with door.server:
        await ask(make(liar.url, clock, http, auth_url=door.url), clock)
    assert door.asked == [("GET", "/auth/userpass")]
    assert liar.asked == [("POST", "/replicas/list")]
    assert "X-Rucio-Password" not in liar.headers[0]


# ── settings and names ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "credentials", "options", "key"),
    [
        (None, None, {}, "url"),
        ("ftp://rucio.example.org", None, {}, "url"),
        ("http://rucio.example.org", Credentials(), {}, "credentials"),
        ("http://rucio.example.org", Credentials("broker"), {}, "credentials"),
        ("http://rucio.example.org", Credentials("broker", "a\nb"), {}, "credentials"),
        ("http://rucio.example.org", Credentials(token="a b"), {}, "credentials"),
        ("http://rucio.example.org", None, {"auth_url": "rucio"}, "options.auth_url"),
    ],
)
async def test_settings_that_cannot_work_are_named_at_the_start(
    clock: FakeClock,
    http: aiohttp.ClientSession,
    url: str | None,
    credentials: Credentials | None,
    options: Any,
    key: str,
) -> None:
    with pytest.raises(SettingsError) as caught:
        make(url, clock, http, credentials, **options)
    assert caught.value.key == key


async def test_without_credentials_it_does_not_start(clock: FakeClock, http: aiohttp.ClientSession) -> None:
    resources = CatalogueResources("ska", "http://rucio.example.org", clock, http, None, lambda url: False)
    with pytest.raises(SettingsError, match="answers nobody who is not signed in"):
        plugin.make(RucioOptions(), resources)


@pytest.mark.parametrize(
    ("scope", "name", "asked"),
    [
        ("survey", "cube.fits", "survey:cube.fits"),
        ("user.jo-2_a", "dir/2026:x+y", "user.jo-2_a:dir/2026:x+y"),
        (None, "x", None),
        ("s", None, None),
        ("", "x", None),
        ("a:b", "x", None),
        ("a/b", "x", None),
        ("..", "x", None),
        ("s", "..", None),
        ("s", "a/../../b", None),
        ("s", "a b", None),
        ("s", "a\x00b", None),
        ("s", "x" * 501, None),
        ("s" * 101, "x", None),
    ],
)
async def test_what_could_be_a_name_in_rucio_is_asked_for_and_nothing_else(
    clock: FakeClock, http: aiohttp.ClientSession, scope: str | None, name: str | None, asked: str | None
) -> None:
    rucio = make("http://rucio.example.org", clock, http)
    assert rucio.name(resource(rucio={"scope": scope, "object": name}), ()) == asked
    assert rucio.name(resource(skao={"namespace": scope, "objectname": name}), ()) == asked


@pytest.mark.parametrize(
    ("endpoint", "ours"),
    [
        (None, True),
        ("https://rucio.example.org", True),
        ("https://RUCIO.example.org:443/", True),
        ("http://rucio.example.org", False),
        ("https://rucio.example.org/other", False),
        ("https://other.example.org", False),
        ("https://[", False),
        ("rucio", False),
    ],
)
async def test_a_name_of_another_rucio_is_not_asked_here(
    clock: FakeClock, http: aiohttp.ClientSession, endpoint: str | None, ours: bool
) -> None:
    rucio = make("https://rucio.example.org/", clock, http)
    asked = rucio.name(resource(rucio={"endpoint": endpoint, "scope": "s", "object": "x"}), ())
    assert asked == ("s:x" if ours else None)


async def test_of_other_data_it_has_nothing_to_say(clock: FakeClock, http: aiohttp.ClientSession) -> None:
    rucio = make("http://rucio.example.org", clock, http)
    others = [
        resource(rucio=None),
        resource(skao=None),
        resource(ivoa=None),
        resource(location="https://a.example.org/x"),
    ]
    assert [rucio.name(other, ("rucio:s/x",)) for other in others] == [None] * 4
