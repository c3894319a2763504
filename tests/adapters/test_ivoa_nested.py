"""Sessions at brokers of ours, over real sockets: one call for many, end users named, logs and results handed up."""

from collections.abc import AsyncGenerator, AsyncIterator
from uuid import UUID, uuid4

import aiohttp
import msgspec
import pytest

from adapters.ivoa import translate
from adapters.ivoa.adapter import plugin
from broker.domain import hops
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.errors import SiteBusy, SiteError, SiteForgot, SiteMisbehaved
from broker.ports import Held, Logs, Order, Planner, Result, Sighting
from broker.services.clock import SystemClock
from broker.testing.asks import ALICE, ask, order
from broker.testing.resources import planner, shared_http
from broker.testing.site import FakeSite

CLOCK = SystemClock()
BOB = Owner("here", "bob")


def soon(seconds: float = 3.0) -> Deadline:
    return Deadline.after(seconds, CLOCK.monotonic())


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.fixture
async def child() -> AsyncIterator[FakeSite]:
    async with FakeSite("child", broker_id="child-1", offers=3) as child:
        yield child


@pytest.fixture
async def asked(child: FakeSite, http: aiohttp.ClientSession) -> Planner:
    asked = planner(plugin, child.url, http, CLOCK)
    await asked.describe(soon())
    return asked


async def orders(planner: Planner, user: Owner = ALICE) -> list[Order]:
    set_ = uuid4()
    return [order(quote, set=set_, user=user) for quote in (await planner.quote(ask(CLOCK, user=user))).quotes]


@pytest.mark.parametrize("batch", [None, uuid4()])
async def test_a_batch_stays_one_below(child: FakeSite, asked: Planner, batch: UUID | None) -> None:
    await asked.quote(ask(CLOCK, batch=batch))
    assert child.seen("quote")[-1].headers.get(hops.BATCH) == (str(batch) if batch else None)


async def test_an_acceptance_carries_its_key_and_its_user(child: FakeSite, asked: Planner) -> None:
    wish = (await orders(asked))[0]
    assert (await asked.accept(wish, soon())).phase == "ACCEPTED"
    headers = child.seen("accept")[0].headers
    assert headers["Idempotency-Key"] == str(wish.session)
    assert hops.decode_user(headers[hops.USER]) == ALICE


async def test_after_our_restart_the_user_is_still_named(
    child: FakeSite, http: aiohttp.ClientSession, asked: Planner
) -> None:
    wish = (await orders(asked))[0]
    fresh = planner(plugin, child.url, http, CLOCK)
    assert (await fresh.accept(wish, soon())).phase == "ACCEPTED"
    assert hops.USER in child.seen("accept")[0].headers


async def test_many_are_released_in_one_call(child: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    await asked.release(wishes, soon())
    assert {session.phase for session in child.sessions.values()} == {"REJECTED"}
    assert [(seen.path, len(seen.json()["sessions"])) for seen in child.seen("release")] == [("/sessions/release", 3)]
    child.restart()
    await asked.release(wishes, soon())  # what it forgot is released


async def test_many_are_seen_in_one_call_a_user(child: FakeSite, asked: Planner) -> None:
    alices, bobs = await orders(asked), await orders(asked, BOB)
    gone = alices[2]
    del child.sessions[gone.handle]
    found = await asked.status([alices[0], bobs[0], alices[1], gone, bobs[1]], soon())
    assert len(child.seen("status")) == 2
    users = {hops.decode_user(request.headers[hops.USER]) for request in child.seen("status")}
    assert users == {ALICE, BOB}
    assert isinstance(found[gone.session], SiteForgot)
    there = [entry for session, entry in found.items() if session != gone.session]
    assert len(there) == 4
    assert all(isinstance(entry, Sighting) and entry.phase == "OFFERED" for entry in there)


@pytest.mark.parametrize("fault", ["status:404", "status:405", "status:501"])
async def test_without_the_call_for_many_each_is_done_by_itself(child: FakeSite, asked: Planner, fault: str) -> None:
    wishes = await orders(asked)
    child.behave(status=[fault, None, None, None], release=[fault, None, None, None])
    assert all(isinstance(entry, Sighting) for entry in (await asked.status(wishes, soon())).values())
    await asked.release(wishes, soon())
    assert {session.phase for session in child.sessions.values()} == {"REJECTED"}


@pytest.mark.parametrize(("fault", "kind"), [("status:500", SiteMisbehaved), ("status:503:4", SiteBusy)])
async def test_calls_for_many_fail_as_what_they_are(
    child: FakeSite, asked: Planner, fault: str, kind: type[SiteError]
) -> None:
    wishes = await orders(asked)
    child.behave(status=fault, release=fault)
    with pytest.raises(kind):
        await asked.status(wishes, soon())
    with pytest.raises(kind):
        await asked.release(wishes, soon())


async def test_garbage_for_many_is_an_error(child: FakeSite, asked: Planner) -> None:
    wishes = await orders(asked)
    child.behave(status="garbage")
    with pytest.raises(SiteMisbehaved):
        await asked.status(wishes, soon())


def test_what_a_broker_says_nothing_of_is_not_forgotten() -> None:
    body = b'{"sessions":[{"phase":"RUNNING","meta":{"uuid":"A-1"}},{"meta":{"uuid":"a-2"}},5],"unknown":["a-3"]}'
    seen = translate.many(body, ["a-1", "a-2", "a-3", "a-4"], "child")
    assert isinstance(seen["a-1"], Sighting)
    assert [type(seen[name]) for name in ("a-2", "a-3", "a-4")] == [SiteMisbehaved, SiteForgot, SiteMisbehaved]


async def test_logs_and_results_are_handed_up(child: FakeSite, asked: Planner) -> None:
    wish = (await orders(asked))[0]
    child.files[wish.handle] = {"fit.json": b"{}", "plots/a b.png": b"\x00" * 300_000}
    assert await asked.logs(wish, soon()) == Logs("this is child\n", "")
    assert await asked.results(wish, soon()) == (Result("fit.json", 2), Result("plots/a b.png", 300_000))
    for name, data in child.files[wish.handle].items():
        assert b"".join([piece async for piece in asked.fetch(wish, name, soon())]) == data


async def test_a_result_need_not_be_read_to_its_end(
    child: FakeSite, asked: Planner, http: aiohttp.ClientSession
) -> None:
    wish = (await orders(asked))[0]
    child.files[wish.handle] = {"big": b"\x00" * 5_000_000}
    pieces = asked.fetch(wish, "big", soon())
    assert isinstance(pieces, AsyncGenerator)
    assert await anext(pieces)
    in_use = http.connector._acquired  # type: ignore[union-attr]  # no public count of connections in use
    assert in_use
    await pieces.aclose()
    assert not in_use


@pytest.mark.parametrize("name", ["none", "../logs", "", "a//b", "/etc/passwd", "a/../../.."])
async def test_a_result_that_is_not_there_is_forgotten(child: FakeSite, asked: Planner, name: str) -> None:
    wish = (await orders(asked))[0]
    before = len(child.seen("results"))
    with pytest.raises(SiteForgot):
        async for _ in asked.fetch(wish, name, soon()):
            pass
    assert len(child.seen("results")) - before == (name == "none")


async def test_of_a_session_that_is_gone_nothing_is_left(child: FakeSite, asked: Planner) -> None:
    wish = (await orders(asked))[0]
    child.restart()
    with pytest.raises(SiteForgot):
        await asked.logs(wish, soon())
    with pytest.raises(SiteForgot):
        await asked.results(wish, soon())


async def test_a_result_that_breaks_off_is_no_whole_result(child: FakeSite, asked: Planner) -> None:
    wish = (await orders(asked))[0]
    child.files[wish.handle] = {"fit.json": b"{}"}
    child.behave(results="half-close")
    with pytest.raises(SiteMisbehaved):
        async for _ in asked.fetch(wish, "fit.json", soon()):
            pass


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"results":[]}'],
)
def test_no_results_are_no_error(body: bytes) -> None:
    assert translate.results(body, "child") == ()


def test_names_that_lead_elsewhere_are_no_results() -> None:
    names = ["a/b.png", "../a", "/etc/passwd", "a//b", "", ".", "a\nb"]
    body = msgspec.json.encode({"results": [{"name": name, "bytes": 1} for name in names]})
    assert [result.name for result in translate.results(body, "child")] == ["a/b.png"]


@pytest.mark.parametrize(
    "body",
    [b"", b"5", b'{"results":[{"name":5}]}', b'{"results":[{"name":"a"}]}', b'{"results":[{"name":"a","bytes":-1}]}'],
)
def test_results_that_cannot_be_read_are_an_error(body: bytes) -> None:
    with pytest.raises(SiteMisbehaved):
        translate.results(body, "child")


# ── what it holds ────────────────────────────────────────────────────────────────────────────────────────────


def test_whose_a_held_session_is_stands_in_its_line() -> None:
    line = b'{"uuid":"s-1","phase":"RUNNING","owner":"here|bo|b","created":"2027-01-15T08:00:00Z"}'
    body = b'{"sessions":[' + line + b',{"uuid":"../x","phase":"RUNNING"}],"next":"5_x"}'
    expected = Held("s-1", "RUNNING", user=Owner("here", "bo|b"), since=1_800_000_000.0)
    assert translate.held(body, "child") == ([expected], "5_x")


async def test_all_pages_of_what_it_holds_are_read(child: FakeSite, asked: Planner) -> None:
    child.page = 2
    wishes = await orders(asked)
    assert sorted(one.handle for one in await asked.held(soon())) == sorted(wish.handle for wish in wishes)


async def test_a_list_without_end_is_no_list(child: FakeSite, asked: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.ivoa.client._MOST_PAGES", 3)
    child.page = 0
    with pytest.raises(SiteMisbehaved, match="without end"):
        await asked.held(soon())
