"""HTTP to one origin, over real sockets: what is sent where, what each failure is called, and what it proves."""

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator

import aiohttp
import pytest

from adapters.common.http import (
    Answer,
    ConnectionLost,
    Origin,
    complaint,
    failure,
    http_date,
    retry_after,
    tidy,
)
from broker.domain.deadline import Deadline
from broker.errors import (
    SettingsError,
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Credentials
from broker.services.clock import SystemClock
from broker.testing.site import FakeSite

CLOCK = SystemClock()
SECRET = "correct-horse"
BODY = b'{"executable":{"kind":"uri:x"}}'


def within(seconds: float) -> Deadline:
    return Deadline.after(seconds, CLOCK.monotonic())


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture
async def site() -> AsyncIterator[FakeSite]:
    async with FakeSite(broker_id="child") as site:
        yield site


def origin(http: aiohttp.ClientSession, url: str, **more: int) -> Origin:
    return Origin(http, url, CLOCK, credentials=Credentials("alice", SECRET), **more)


async def post(origin: Origin, seconds: float = 2.0) -> Answer:
    return await origin.send("POST", origin.at("requests"), deadline=within(seconds), body=BODY)


async def test_an_answer_of_any_status_comes_whole(http: aiohttp.ClientSession, site: FakeSite) -> None:
    answer = await post(origin(http, site.url))
    assert answer.status == 303
    assert answer.body.startswith(b'{"kind"')
    assert answer.headers["broker-id"] == "child"
    sent = site.requests[0]
    assert sent.body == BODY
    assert sent.headers["Accept-Encoding"] == "identity"
    assert sent.headers["Authorization"].startswith("Basic ")


async def test_a_token_goes_as_bearer(http: aiohttp.ClientSession, site: FakeSite) -> None:
    here = Origin(http, site.url, CLOCK, credentials=Credentials(token=SECRET))
    await here.send("GET", here.at("profile"), deadline=within(2))
    assert site.requests[0].headers["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("hang", SiteTimeout),
        ("drip", SiteTimeout),
        ("late:5", SiteTimeout),
        ("reset", ConnectionLost),
        ("reset-in-headers", ConnectionLost),
        ("reset-in-body", ConnectionLost),
        ("half-close", ConnectionLost),
        ("not-http", SiteMisbehaved),
        ("flood", SiteMisbehaved),
        ("gzip-bomb", SiteMisbehaved),
    ],
)
async def test_after_sending_no_failure_is_proof(
    http: aiohttp.ClientSession, site: FakeSite, fault: str, kind: type[SiteError]
) -> None:
    site.behave(quote=fault)
    with pytest.raises(SiteError) as caught:
        await post(origin(http, site.url), 0.3)
    assert type(caught.value) is kind
    assert caught.value.proof is False
    assert SECRET not in repr(caught.value) + str(caught.value.__cause__)
    assert len(site.requests) == 1  # a POST is never sent twice


async def test_a_flood_is_left_at_the_cap(http: aiohttp.ClientSession, site: FakeSite) -> None:
    site.behave(quote="flood")
    tracemalloc.start()
    try:
        with pytest.raises(SiteMisbehaved, match="more than 100000 bytes"):
            await post(origin(http, site.url, cap_bytes=100_000), 5)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000  # the flood has 100,000,000
    finally:
        tracemalloc.stop()


async def test_an_honest_length_over_the_cap_is_not_even_read(http: aiohttp.ClientSession, site: FakeSite) -> None:
    with pytest.raises(SiteMisbehaved, match="more than 100 bytes"):
        await post(origin(http, site.url, cap_bytes=100))


async def test_no_encoding_is_undone(http: aiohttp.ClientSession, site: FakeSite) -> None:
    site.behave(quote="gzip-bomb")
    with pytest.raises(SiteMisbehaved, match="encoding"):
        await post(origin(http, site.url))


async def test_no_redirect_is_followed(http: aiohttp.ClientSession, site: FakeSite) -> None:
    async with FakeSite() as other:
        site.behave(quote=f"redirect:{other.url}/requests")
        answer = await post(origin(http, site.url))
        assert answer.status == 307
        assert other.requests == []


async def test_an_address_of_another_origin_is_never_asked(http: aiohttp.ClientSession, site: FakeSite) -> None:
    async with FakeSite() as other:
        here, there = origin(http, site.url), origin(http, other.url)
        with pytest.raises(SiteMisbehaved, match="another origin"):
            await here.send("GET", there.at("profile"), deadline=within(2))
        assert other.requests == []


async def test_a_refused_connection_is_proof(http: aiohttp.ClientSession, site: FakeSite) -> None:
    await site.stop()
    with pytest.raises(SiteUnreachable, match=r"no connection \(connection refused\)") as caught:
        await post(origin(http, site.url))
    assert caught.value.proof is True


async def test_a_name_without_address_is_proof(http: aiohttp.ClientSession) -> None:
    with pytest.raises(SiteUnreachable, match="no address"):
        await post(origin(http, "http://no-such-host.invalid"))


async def test_tls_to_a_plain_port_is_proof(http: aiohttp.ClientSession, site: FakeSite) -> None:
    with pytest.raises(SiteUnreachable):
        await post(origin(http, site.url.replace("http:", "https:")))
    assert site.requests == []


async def test_a_connection_that_does_not_come_about_by_the_deadline_is_proof(http: aiohttp.ClientSession) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]  # fill the backlog: the next connection is not answered
        try:
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            url = f"http://127.0.0.1:{full.getsockname()[1]}"
            with pytest.raises(SiteUnreachable, match="by the deadline") as caught:
                await post(origin(http, url), 0.2)
            assert caught.value.proof is True
        finally:
            for each in waiting:
                each.close()


async def test_a_deadline_that_has_passed_sends_nothing(http: aiohttp.ClientSession, site: FakeSite) -> None:
    with pytest.raises(SiteUnreachable, match="no time left"):
        await post(origin(http, site.url), 0.0)
    assert site.requests == []


async def test_cancellation_passes_through(http: aiohttp.ClientSession, site: FakeSite) -> None:
    site.behave(quote="hang")
    task = asyncio.create_task(post(origin(http, site.url), 60))
    await site.arrived("quote")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_connection_with_an_answer_left_unread_is_not_used_again(
    http: aiohttp.ClientSession, site: FakeSite
) -> None:
    here = origin(http, site.url, cap_bytes=5000)
    site.behave(quote=["flood", None])
    with pytest.raises(SiteMisbehaved):
        await post(here)
    assert (await post(here)).status == 303


async def test_a_stream_comes_in_pieces_and_ends_by_the_deadline(http: aiohttp.ClientSession, site: FakeSite) -> None:
    here = origin(http, site.url, cap_bytes=10)
    url = here.at("offersets", "x")
    with pytest.raises(SiteRefused):
        async for _ in here.stream(url, deadline=within(2)):
            pass
    got = b"".join([piece async for piece in here.stream(here.at("profile"), deadline=within(2))])
    assert got.startswith(b'{"platform"')  # longer than the cap, which is for answers held in memory
    for fault, kind in {"hang": SiteTimeout, "drip": SiteTimeout, "half-close": ConnectionLost}.items():
        site.behave(profile=fault)
        with pytest.raises(kind):
            async for _ in here.stream(here.at("profile"), deadline=within(0.2)):
                pass


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    [None, "", "alba", "ftp://alba", "http://", "http://user:secret@alba", "http://alba/?a=b", "http://alba/#x"],
)
async def test_an_address_that_cannot_be_a_site_is_a_setting_to_mend(
    http: aiohttp.ClientSession, url: str | None
) -> None:
    with pytest.raises(SettingsError) as caught:
        Origin(http, url, CLOCK)
    assert caught.value.key == "url"
    assert "secret" not in str(caught.value)


async def test_names_from_a_site_cannot_lead_elsewhere(http: aiohttp.ClientSession) -> None:
    here = origin(http, "http://alba/base/")
    assert str(here.at("sessions", "a b")) == "http://alba/base/sessions/a%20b"
    assert str(here.at("sessions", "%2e%2e")) == "http://alba/base/sessions/%252e%252e"
    for name in ("..", ".", "", "a/b", "/etc"):
        with pytest.raises(SiteMisbehaved):
            here.at("sessions", name)


async def test_only_a_location_of_the_same_origin_counts(http: aiohttp.ClientSession) -> None:
    here = origin(http, "http://alba:8080/base")
    asked = here.at("requests")
    assert str(here.same("/offersets/1", asked)) == "http://alba:8080/offersets/1"
    assert str(here.same("http://alba:8080/offersets/1", asked)) == "http://alba:8080/offersets/1"
    for location in (
        "http://alba/x",
        "https://alba:8080/x",
        "//evil/x",
        "http://evil:8080/x",
        "http://[",
        "http://u@alba:8080/",
    ):
        assert here.same(location, asked) is None


# ── statuses and texts ───────────────────────────────────────────────────────────────────────────────────────


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize(
    ("given", "doubtful", "kind", "proof"),
    [
        (answer(400), True, SiteRefused, True),
        (answer(404), True, SiteRefused, True),
        (answer(408), True, SiteRefused, False),
        (answer(409), True, SiteRefused, False),
        (answer(401), True, SiteForbids, True),
        (answer(403), True, SiteForbids, True),
        (answer(429), True, SiteBusy, True),
        (answer(500), True, SiteMisbehaved, False),
        (answer(503), True, SiteMisbehaved, False),
        (answer(503, Retry_After="7"), True, SiteMisbehaved, False),
        (answer(503, Retry_After="7"), False, SiteBusy, True),
        (answer(307), True, SiteMisbehaved, False),
        (answer(202), True, SiteMisbehaved, False),
    ],
)
def test_what_a_status_means(given: Answer, doubtful: bool, kind: type[SiteError], proof: bool) -> None:
    error = failure(given, "alba", 0.0, doubtful=doubtful)
    assert type(error) is kind
    assert error.proof is proof
    assert "alba" in str(error)


def test_whoever_registered_a_site_mends_its_credentials_and_not_who_asks() -> None:
    body = b'{"detail": "a token is needed here.", "remedy": "Run: broker login URL"}'
    said = "a token is needed here. Its registration needs credentials that it takes."
    assert str(failure(answer(401, body), "alba", 0.0)) == f"alba answered 401: {said}"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("99999999999999", 86400.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("-3", None),
        ("soon", None),
        ("", None),
        ("²", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(answer(429, Retry_After=text), 60.0) == seconds


def test_what_is_no_date_is_none() -> None:
    assert http_date("Sun, 22 Nov 2026 13:19:47 GMT") == 1795353587.0
    assert [http_date(text) for text in ("", "x", "Sun, 99 Nov 2026 13:19:47 GMT", "1 2 3 4 5 6 7")] == [None] * 4


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"detail": "no room.", "remedy": "Wait."}', "no room. Wait."),
        (
            b'{"status": 400, "error": "Bad Request", "message": "Could not resolve type id"}',
            "Could not resolve type id",
        ),
        (b'{"status": 500, "error": "Internal Server Error"}', "Internal Server Error"),
        (b"<html><h1>Oops</h1></html>", ""),
        (b"", ""),
        (b"[1]", ""),
        (b'"just words"', "just words"),
        (b"plain words\r\nand more", "plain words and more"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b'{"detail": 5}', ""),
        (b"[" * 100_000, ""),
    ],
)
def test_what_an_error_says(body: bytes, words: str) -> None:
    assert complaint(answer(400, body)) == words


def test_a_sites_words_cannot_move_the_cursor() -> None:
    assert tidy("a\x1b[31mred\r\n\u202e b" + "x" * 1000).startswith("a [31mred b")
    assert len(tidy("x" * 10_000)) == 300
