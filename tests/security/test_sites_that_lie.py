"""What a hostile site may write without harm to anybody but itself. Its sockets: tests/services, tests/adapters."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from adapters.ivoa import translate
from broker.domain import kinds
from broker.domain.offer import Offer, Reading, read
from broker.domain.outcome import Quote
from broker.domain.tame import DEEPEST, wild
from broker.errors import SiteMisbehaved

UUID_ = "00000000-0000-4000-8000-000000000001"
SITE = Reading("alba", ours=True)


def an_offer(**more: Any) -> dict[str, Any]:
    return {"kind": kinds.SCHEDULED_SESSION, "meta": {"uuid": UUID_}, "phase": "OFFERED", **more}


def raw(value: bytes) -> bytes:
    """An offer with `value` in a property that nobody knows."""
    return msgspec.json.encode(an_offer(theirs=msgspec.Raw(value)))


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    "value", [b"9" * 5000, b"1e999", b"[-1E+400]", b'"\\ud800"', b'{"\\udc00": 1}', nested(DEEPEST), nested(900)]
)
def test_what_would_break_the_readers_of_all_offers_excludes_one(value: bytes) -> None:
    verdict = read(Quote("h", raw(value)), SITE, 0.0)
    assert isinstance(verdict, str)
    assert "by everybody" in verdict or "levels deep" in verdict or "no JSON" in verdict


@pytest.mark.parametrize("value", [b"18446744073709551616", b"1e300", b'"\\u00e9 \\ud83d\\ude00"', nested(DEEPEST - 1)])
def test_what_everybody_can_read_is_kept(value: bytes) -> None:
    assert isinstance(read(Quote("h", raw(value)), SITE, 0.0), Offer)


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert wild(raw(b"[" + b",".join([b"[]"] * 500) + b"]")) == ""


@pytest.mark.parametrize("origin", ["alba\x1b[31m", "two\nlines", "x" * 201, ""])
def test_an_origin_that_cannot_be_shown_is_the_site(origin: str) -> None:
    offer = read(Quote("h", msgspec.json.encode(an_offer(origin=origin))), SITE, 0.0)
    assert isinstance(offer, Offer)
    assert offer.origin == "alba"


def test_an_offer_may_repeat_the_request_and_little_more() -> None:
    offer = an_offer(theirs="x" * 100_000)
    body = msgspec.json.encode({"result": "YES", "offers": [offer, an_offer(meta={"uuid": "small"})]})
    told = translate.quotes(body, "site", most=10, ours=False)
    assert [quote.handle for quote in told.quotes] == ["small"]
    assert "larger than 65536 bytes" in str(told.reasons[0])
    assert len(translate.quotes(body, "site", most=10, ours=False, asked=20_000).quotes) == 2


def test_values_that_hold_place_holders_do_not_grow() -> None:
    """Filled in again and again, these would come to 10^12 characters."""
    values = {chr(ord("a") + i): f"{{{chr(ord('b') + i)}}}" * 100 for i in range(6)}
    message = {"template": "{a} ${a} {z}", "values": values}
    told = translate.quotes(
        msgspec.json.encode({"result": "NO", "meta": {"messages": [message]}}), "site", most=1, ours=False
    )
    assert str(told.reasons[0]).startswith("{b}{b}")
    assert len(str(told.reasons[0])) <= 300


def test_of_many_outcomes_behind_a_broker_some_are_told() -> None:
    outcomes = [{"site": "s", "outcome": "Declined", "reasons": [f"r{i}-{j}" for j in range(30)]} for i in range(1100)]
    told = translate.quotes(msgspec.json.encode({"result": "NO", "outcomes": outcomes}), "site", most=1, ours=True)
    assert len(told.reasons) == 1000 * 20


def test_a_session_too_large_to_keep_still_tells_its_phase() -> None:
    session = {"meta": {"uuid": UUID_}, "phase": "RUNNING"}
    small = translate.sighting(msgspec.json.encode(session), UUID_, "site", ours=False)
    large = translate.sighting(msgspec.json.encode(session | {"theirs": "x" * 300_000}), UUID_, "site", ours=False)
    odd = translate.sighting(b'{"theirs":1e999,' + msgspec.json.encode(session)[1:], UUID_, "site", ours=False)
    assert small is not None
    assert small.body is not None
    for seen in (large, odd):
        assert seen is not None
        assert (seen.phase, seen.body) == ("RUNNING", None)


def test_a_broker_that_describes_itself_at_length_is_not_believed() -> None:
    storages = [{"name": f"s{i}", "prefixes": ["https://a.example/"]} for i in range(30_000)]
    with pytest.raises(SiteMisbehaved, match="in more than"):
        translate.profile(msgspec.json.encode({"storages": storages}), "id", "site")


def test_of_long_logs_the_end_is_kept() -> None:
    logs = translate.logs(msgspec.json.encode({"stdout": "x" * 2**20 + "end"}), "site")
    assert logs.stdout is not None
    assert (len(logs.stdout), logs.stdout[-4:], logs.stderr) == (2**20, "xend", None)
