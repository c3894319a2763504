"""The simulated site with each fault, and every older dialect: the check ends, tells it, and leaves nothing open."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.checker.checking import check
from broker.checker.findings import Report
from broker.client.errors import Unreachable
from broker.client.login import parse
from broker.testing.dialects import OldSite
from broker.testing.faults import FAULTS
from broker.testing.site import FakeSite

ARGUMENTS = {
    "late": "late:30",
    "status": "status:503:7",
    "redirect": "redirect:http://127.0.0.1:1/x",
    "elsewhere": "elsewhere:http://127.0.0.1:1/x",
    "phase": "phase:RUNNING",
    "uuid": "uuid:11111111-1111-4111-8111-111111111111",
}
SLOW = {"hang", "late", "drip"}
# Faults that are none in that call: 200 is an answer to a question, and nobody needs the answer to a rejection.
HARMLESS = {"quote": {"ok"}, "set": {"ok"}, "status": {"ok"}, "release": {"ok", "empty", "see-other"}}
FIRST = {"quote": "ask.", "set": "set.read", "status": "session.read", "release": "release"}


# A late answer is to the other calls what none is.
EACH = [(fault, operation) for fault in FAULTS for operation in FIRST if fault != "late" or operation == "quote"]


@pytest.mark.parametrize(("fault", "operation"), EACH)
async def test_each_fault_is_told(fault: str, operation: str) -> None:
    async with FakeSite(offers=2) as site:
        script = ARGUMENTS.get(fault, fault)
        # One slow answer will do: the first, but for the greeting, which reads a set that is not there.
        once = [None, script] if operation == "set" else [script]
        site.behave(**{operation: once if fault in SLOW else script})
        report = await check(parse(site.url), patience=1.0 if fault in SLOW else 10.0)
        told = {f.check for f in report.findings if f.level in ("fail", "warn")}
        found = any(name.startswith((FIRST[operation], "offer.phase")) for name in told)
        assert found or fault in HARMLESS[operation]
        assert site.executions == {}
        open_ = {uuid for uuid, session in site.sessions.items() if session.phase == "OFFERED"}
        if fault in SLOW and operation == "quote":
            assert any("will expire" in said for f in report.findings for said in f.said)
        else:
            assert open_ <= set(report.left)


async def test_what_is_offered_in_words_nobody_can_read_is_given_back() -> None:
    """The answer is spoilt, yet says where the set is."""
    async with FakeSite(offers=2) as site:
        site.behave(quote="garbage")
        await check(parse(site.url))
        assert {session.phase for session in site.sessions.values()} == {"REJECTED"}


async def test_offers_that_join_late_are_given_back_too() -> None:
    """A broker of ours says that its set still grows; what comes then is rejected as well."""
    async with FakeSite(offers=2, broker_id="radio-net") as site:
        site.behave(set=[None] * 4)
        whole = site._answer

        def growing(request: Any, body: bytes, operation: str) -> Any:
            sound = whole(request, body, operation)
            if operation in ("quote", "set") and sound.document and "offers" in sound.document:
                late = operation == "set" and len(site.seen("set")) > 6
                document = {**sound.document, "pending": 0 if late else 1, "closed": late}
                document["offers"] = sound.document["offers"][: None if late else 1]
                return type(sound)(sound.status, document, sound.headers)
            return sound

        site._answer = growing  # type: ignore[method-assign]
        report = await check(parse(site.url))
        assert {session.phase for session in site.sessions.values()} == {"REJECTED"}
        assert report.left == ()


async def test_interrupted_it_gives_back_all_the_same() -> None:
    async with FakeSite(offers=3) as site:
        site.behave(set=[None, "hang"])  # the greeting is answered, the second reading is not
        task = asyncio.create_task(check(parse(site.url)))
        await site.arrived("set", 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert {session.phase for session in site.sessions.values()} == {"REJECTED"}
        assert site.executions == {}


async def test_nobody_there_is_no_finding() -> None:
    async with FakeSite() as site:
        pass
    with pytest.raises(Unreachable):
        await check(parse(site.url))


# ── the older dialects ───────────────────────────────────────────────────────────────────────────────────────


def level(report: Report, check: str) -> str:
    return next(str(finding.level) for finding in report.findings if finding.check == check)


@pytest.mark.parametrize("letter", "ABCDE")
async def test_each_older_dialect_is_known_asked_and_given_back(letter: str) -> None:
    async with OldSite(letter) as site:
        report = await check(parse(site.url))
        assert (report.speaks, report.conforms, report.left) == (letter, False, ())
        # It is another version, and sound in itself.
        assert {f.check for f in report.findings if f.level == "fail"} == {"version"}
        assert set(site.phases.values()) == (set() if letter == "A" else {"REJECTED"})
        if letter != "A":
            assert level(report, "offer.expires") == level(report, "offer.size") == level(report, "release") == "ok"


@pytest.mark.parametrize("letter", "BCDE")
async def test_an_older_site_that_keeps_its_offers_is_told(letter: str) -> None:
    async with OldSite(letter, stuck=True) as site:
        report = await check(parse(site.url))
        assert level(report, "release") == level(report, "left") == "fail"
        assert set(report.left) == set(site.phases)


@pytest.mark.parametrize("letter", "ABCDE")
async def test_an_older_site_that_declines_is_known_by_its_no(letter: str) -> None:
    async with OldSite(letter, declines=True) as site:
        report = await check(parse(site.url))
        assert (report.speaks, site.phases) == (letter, {})
        assert level(report, "set.result") == "ok"


MISSING = {"C": "uuid", "D": "href", "E": "phase", "B": "ident", "A": "reponseword"}


@pytest.mark.parametrize(("letter", "name"), MISSING.items())
async def test_what_an_older_dialect_wants_is_judged(letter: str, name: str) -> None:
    async with OldSite(letter) as site:
        write = site._write

        def without(request: Any, status: int, document: Any, location: str) -> Any:
            spoilt = json.loads(json.dumps(dict(document)).replace(f'"{name}"', '"nothing"'))
            spoilt.update({"response": ""} if letter == "A" else {})
            return write(request, status, spoilt, location)

        site._write = without  # type: ignore[method-assign]
        report = await check(parse(site.url))
        if letter == "A":  # nothing else tells that it is one
            assert report.speaks == ""
        else:
            assert (report.speaks, level(report, "set.conforms")) == (letter, "fail")


@pytest.mark.parametrize("script", ["wrong-type", "redirect:https://127.0.0.1:1/requests"])
async def test_an_answer_of_no_broker_is_no_version(script: str) -> None:
    """A page, or a proxy that sends elsewhere: nothing is followed, and what was offered behind it is found."""
    async with FakeSite() as site:
        site.behave(quote=script)
        report = await check(parse(site.url))
        assert (report.speaks, level(report, "version")) == ("", "fail")
        assert {session.phase for session in site.sessions.values()} <= {"REJECTED"}


async def test_a_lenient_site_is_known_by_its_answer() -> None:
    """It takes any dialect's question, and answers in its own: what it offered the first time is given back too."""
    async with OldSite("D") as site:
        site._understood = lambda document: None  # type: ignore[method-assign]
        report = await check(parse(site.url))
        assert (report.speaks, report.left) == ("D", ())
        assert [path for method, path in site.asked if method == "POST"][:2] == ["/requests", "/offersets"]
        assert set(site.phases.values()) == {"REJECTED"}


async def test_a_web_server_is_no_broker() -> None:
    from aiohttp import web

    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        report = await check(parse(f"http://127.0.0.1:{runner.addresses[0][1]}"))
    finally:
        await runner.cleanup()
    assert (report.speaks, level(report, "version")) == ("", "fail")
