"""The client as a Python program uses it, against a broker on a real socket."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from broker.client import Broker, Misanswered, NoBroker, Undecided, Unreachable
from broker.client.login import Login, find, parse, store
from broker.domain.executables import PythonProgram
from broker.domain.kinds import PYTHON_PROGRAM
from broker.domain.request import ExecutionRequest
from broker.domain.session import SessionPhase
from broker.errors import BadInput, Conflict, NotFound, NotSignedIn, TooMany
from broker.testing.broker import ALBA, SET, FakeBroker, drawn_offers, drawn_set, run_of

REQUEST = ExecutionRequest(executable=PythonProgram(kind=PYTHON_PROGRAM, source="1"))
AT_ONCE = (0.0, 0.0)


async def test_from_a_request_to_its_result(fake: FakeBroker, home: Path) -> None:
    async with Broker(fake.url) as broker:
        offers = await broker.submit(REQUEST)
        assert (len(offers), offers.yes, [offer.rank for offer in offers]) == (4, True, [1, 2, 3, 4])
        assert offers.best.uuid == offers[1].uuid == ALBA
        seen: list[str] = []
        session = await offers.best.accept()
        await session.finished(lambda s: seen.append(s.state), poll=AT_ONCE)
    assert seen[-2:] == ["RUNNING", "COMPLETED"]
    path = await session.results["fluxes.fits"].fetch()
    assert path.read_bytes() == fake.files["fluxes.fits"]


async def test_without_a_context_nothing_stays_open(fake: FakeBroker) -> None:
    session = await Broker(fake.url).session("91c2")
    assert (session.phase, session.open, session.site) == ("OFFERED", True, "alba")


async def test_the_table_is_what_a_notebook_shows(fake: FakeBroker) -> None:
    offers = await Broker(fake.url).submit(REQUEST)
    assert "* 1 alba" in repr(offers)
    evil = drawn_offers()[0].with_(site="<script>")
    fake.sets = [drawn_set([evil])]
    shown = (await offers.refresh())._repr_html_()
    assert "&lt;script&gt;" in shown
    assert "<script>" not in shown


async def test_a_set_is_read_by_its_beginning_and_grows(fake: FakeBroker) -> None:
    fake.sets = [drawn_set([], pending=2, closed=False), drawn_set()]
    offers = await Broker(fake.url).offerset("7f3a")
    assert (offers.uuid, offers.yes, offers.pending) == (SET, False, 2)
    pending: list[int] = []
    await offers.complete(lambda o: pending.append(o.pending), poll=0)
    assert (pending, offers.yes) == ([2], True)


async def test_credentials_go_to_the_brokers_own_origin_alone(fake: FakeBroker) -> None:
    async with FakeBroker() as other:
        broker = Broker(fake.url, username="ada", password="x")
        await broker.session(ALBA)
        await broker.session(f"{other.url}/sessions/{ALBA}")
        assert {call.authorization for call in fake.calls} == {"Basic YWRhOng="}
        assert {call.authorization for call in other.calls} == {None}


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_elsewhere_is_not_followed(fake: FakeBroker, status: int) -> None:
    async with FakeBroker() as other:
        fake.refuse("POST", "/requests", status, None, Location=f"{other.url}/requests")
        with pytest.raises(Misanswered):
            await Broker(fake.url, token="t").submit(REQUEST)
        assert other.calls == []


async def test_an_empty_303_to_another_origin_is_not_followed(fake: FakeBroker) -> None:
    async with FakeBroker() as other:
        fake.refuse("POST", "/requests", 303, None, Location=f"{other.url}/offersets/{SET}")
        with pytest.raises(Misanswered, match="points elsewhere"):
            await Broker(fake.url, token="t").submit(REQUEST)
        assert other.calls == []


@pytest.mark.parametrize(
    ("status", "kind"), [(400, BadInput), (401, NotSignedIn), (404, NotFound), (409, Conflict), (429, TooMany)]
)
async def test_problems_come_as_typed_errors(fake: FakeBroker, status: int, kind: type[Exception]) -> None:
    fake.refuse("GET", "/status", status, {"detail": "so it is.", "remedy": "Wait."}, Retry_After="7")
    with pytest.raises(kind, match=r"so it is\. Wait\.") as caught:
        await Broker(fake.url).status()
    if isinstance(caught.value, TooMany):
        assert caught.value.retry_after == 7.0


@pytest.mark.parametrize("body", [{"kind": "x", "result": "PERHAPS"}, [], {"kind": "x"}, {}])
async def test_what_is_no_offer_set_is_said_to_be_none(fake: FakeBroker, body: Any) -> None:
    fake.refuse("POST", "/requests", 200, body)
    with pytest.raises(Misanswered):
        await Broker(fake.url).submit(REQUEST)


async def test_a_broker_that_is_not_there_surely_did_nothing(unused_tcp_port: int) -> None:
    with pytest.raises(Unreachable) as caught:
        await Broker(f"http://127.0.0.1:{unused_tcp_port}").status()
    assert not caught.value.sent


async def test_an_acceptance_whose_answer_and_reading_are_lost_is_undecided(fake: FakeBroker) -> None:
    session = await Broker(fake.url).session(ALBA)
    fake.refuse("POST", "/sessions", 0)
    fake.refuse("GET", "/sessions", 503, {"detail": "starting"})
    with pytest.raises(Undecided):
        await session.accept()
    assert len(fake.sent("POST")) == 1


async def test_an_acceptance_that_the_site_refuses_is_a_conflict(fake: FakeBroker) -> None:
    fake.scripts[ALBA] = [drawn_offers()[0].with_(phase=SessionPhase.REJECTED)]
    with pytest.raises(Conflict, match="alba did not take it"):
        await (await Broker(fake.url).session(ALBA)).accept()


async def test_following_sits_out_a_restart_of_the_broker(fake: FakeBroker) -> None:
    session = await (await Broker(fake.url).session(ALBA)).accept()
    fake.refuse("GET", f"/sessions/{ALBA}", 503, {"detail": "starting"}, times=3)
    fake.refuse("GET", f"/sessions/{ALBA}", 0, times=2)
    silences: list[str] = []
    await session.finished(silent=lambda error: silences.append(error.detail), poll=AT_ONCE)
    assert (session.phase, silences) == ("COMPLETED", ["starting"])


async def test_following_gives_up_when_its_patience_ends(fake: FakeBroker) -> None:
    session = await (await Broker(fake.url).session(ALBA)).accept()
    fake.refuse("GET", f"/sessions/{ALBA}", 503, {"detail": "starting"})
    with pytest.raises(Exception, match="starting"):
        await session.finished(poll=AT_ONCE, patience=0.0)


async def test_a_file_with_other_content_than_listed_is_not_kept(fake: FakeBroker, home: Path) -> None:
    fake.scripts[ALBA] = run_of(drawn_offers()[0])
    session = await Broker(fake.url).session(ALBA)
    files = await session.load_results()
    fake.files["fluxes.fits"] = b"y" * len(fake.files["fluxes.fits"])
    with pytest.raises(Misanswered, match="other content"):
        await files["fluxes.fits"].fetch("out.fits")
    assert os.listdir(home) == []


async def test_an_unsettled_result_is_an_error_not_an_empty_list(fake: FakeBroker) -> None:
    session = await Broker(fake.url).session(ALBA)
    with pytest.raises(BadInput, match="not been asked"):
        _ = session.results


# ── which broker ─────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_broker_known_is_said_at_the_first_call() -> None:
    with pytest.raises(NoBroker):
        await Broker().status()


def test_argument_then_environment_then_login(home: Path) -> None:
    environ = {"HOME": str(home)}
    store(Login(parse("https://stored.example").url, token="stored"), environ)
    assert find(environ=environ).header(parse("https://stored.example/x").url) == {"Authorization": "Bearer stored"}
    named = environ | {"BROKER_URL": "https://named.example/eb/", "BROKER_USER": "ada", "BROKER_PASSWORD": "x"}
    assert str(find(environ=named).url) == "https://named.example/eb"
    assert find(environ=named).username == "ada"
    assert find("https://given.example", environ=environ).token == "", "a stored secret stays with its origin"
    assert find("https://stored.example/other", environ=environ).token == "stored"


def test_no_secret_shows_in_a_repr() -> None:
    login = parse("https://ada:s3cret@broker.example")
    assert (login.username, login.password, str(login.url)) == ("ada", "s3cret", "https://broker.example")
    assert "s3cret" not in repr(login)


@pytest.mark.parametrize("text", ["", "broker.example", "ftp://x", "http://", "http://[::1"])
def test_what_is_no_brokers_url(text: str) -> None:
    with pytest.raises(BadInput):
        parse(text)
