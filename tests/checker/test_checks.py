"""Each check is shown to pass and shown to fail: a sound site, and the same site with one answer bent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from broker.checker.findings import CHECKS, Finding, Findings, Level, Report
from broker.domain import kinds

OPTIONS = [{"kind": kinds.ENUM_OPTION, "path": "phase", "values": ["ACCEPTED", "REJECTED"]}]
UUID = rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def on(when: Callable[[Any], bool], change: Callable[[Any], None]) -> Callable[[Any], None]:
    def bend(sent: Any) -> None:
        if when(sent):
            change(sent)

    return bend


def offers(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], None]:
    """Every offer, in sets alone."""

    def each(sent: Any) -> None:
        sent.rewrite(lambda document: [change(offer) for offer in document.get("offers", ())])

    return on(lambda sent: sent.is_set, each)


def a_set(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any], None]:
    return on(lambda sent: sent.is_set, lambda sent: sent.rewrite(change))


def answer(method: str, path: str, asked: bytes = b"", **values: Any) -> Callable[[Any], None]:
    """The answer to such a call, whatever it was."""

    def fits(sent: Any) -> bool:
        return bool(sent.method == method and sent.path.startswith(path) and asked in sent.asked)

    return on(fits, lambda sent: vars(sent).update(values))


def asked(**headers: str | None) -> Callable[[Any], None]:
    """Headers of the answer to the question; None removes one."""

    def change(sent: Any) -> None:
        for name, value in headers.items():
            sent.headers.pop(name, None)
            if value is not None:
                sent.headers[name] = value.replace("HERE", sent.document()["meta"]["uuid"])

    return on(lambda sent: sent.path == "/requests" and sent.status == 303, change)


def written(media: str, body: bytes, type_: str = "") -> Callable[[Any], None]:
    def change(sent: Any) -> None:
        sent.headers["Content-Type"], sent.body = type_ or media, body.replace(b"HERE", sent.path[-36:].encode())

    return on(lambda sent: sent.status == 200 and sent.path.startswith("/offersets/") and media in sent.accept, change)


def complete(sent: Any) -> None:
    """What the reference implementation leaves out: options, and two formats."""
    if sent.is_set:
        sent.rewrite(lambda document: [o["meta"].update(options=OPTIONS) for o in document.get("offers", ())])
    written("application/yaml", b"meta: {uuid: HERE}")(sent)
    written("application/xml", b"<offers-response/>")(sent)
    answer("POST", "/sessions/", b"DREAMING", status=400)(sent)


async def test_a_sound_site_conforms_and_nothing_is_left(probe: Any, levels: Any) -> None:
    report = await probe(complete, offers=3)
    assert report.conforms
    assert {check for check, level in levels(report).items() if level not in ("ok", "note")} == {"auth.identity"}
    assert (report.speaks, report.asked, report.left) == ("F", "docker-container", ())
    assert [session.phase for session in probe.site.sessions.values()] == ["REJECTED"] * 3
    assert [finding.check for finding in report.findings] == list(CHECKS)


BENT: dict[str, tuple[str, str, Any]] = {
    "no Location": ("ask.location", "fail", asked(Location=None)),
    "a Location elsewhere": ("ask.location", "fail", asked(Location="http://elsewhere.example/offersets/HERE")),
    "a Location with a slash at its end": ("ask.location", "fail", asked(Location="/offersets/HERE/")),
    "a Location with a query": ("ask.location", "fail", asked(Location="/offersets/HERE?a=b")),
    "a Location of another set": ("ask.location", "fail", asked(Location="/offersets/other")),
    "nothing in the answer": ("ask.body", "warn", answer("POST", "/requests", b"image", body=b"")),
    "a refusal": ("ask.answer", "fail", answer("POST", "/requests", status=400)),
    "a redirection of another kind": ("ask.answer", "fail", answer("POST", "/requests", status=307)),
    "a failure": ("ask.answer", "fail", answer("POST", "/requests", status=500)),
    "a bogus phase": ("set.conforms", "fail", offers(lambda o: o.update(phase="DREAMING"))),
    "an unknown kind of session": ("set.conforms", "fail", offers(lambda o: o.update(kind="uri:odd"))),
    "a number as text": ("set.conforms", "fail", offers(lambda o: o["costs"][0].update(max="2"))),
    "no uuid": ("set.conforms", "fail", offers(lambda o: o["meta"].pop("uuid"))),
    "something undocumented": ("set.additions", "warn", offers(lambda o: o.update(colour="red"))),
    "YES without offers": ("set.result", "fail", a_set(lambda d: d.pop("offers", None))),
    "NO with offers": ("set.result", "fail", a_set(lambda d: d.update(result="NO"))),
    "MAYBE": ("set.result", "fail", a_set(lambda d: d.update(result="MAYBE"))),
    "a set that is gone": ("set.read", "fail", answer("GET", "/offersets/", status=404)),
    "another set": ("set.read", "fail", on(lambda s: s.method == "GET" and s.is_set,
                                           lambda s: s.rewrite(lambda d: d["meta"].update(uuid="another")))),
    "an offer that is gone": ("set.read", "fail", on(lambda s: s.method == "GET" and s.is_set,
                                                     lambda s: s.rewrite(lambda d: d["offers"].pop()))),
    "an offer under way": ("offer.phase", "fail", offers(lambda o: o.update(phase="RUNNING"))),
    "a uuid for a path": ("offer.phase", "fail", offers(lambda o: o["meta"].update(uuid="../admin"))),
    "one uuid twice": ("offer.phase", "fail", a_set(lambda d: d["offers"].append(d["offers"][0]))),
    "no expiry": ("offer.expires", "fail", offers(lambda o: o.pop("expires"))),
    "an expiry that is none": ("offer.expires", "fail", offers(lambda o: o.update(expires="soon"))),
    "an expiry gone by": ("offer.expires", "fail", offers(lambda o: o.update(expires="2020-01-01T00:00:00Z"))),
    "no options": ("offer.options", "warn", offers(lambda o: o["meta"].pop("options"))),
    "half the options": ("offer.options", "warn", offers(
        lambda o: o["meta"].update(options=[{**OPTIONS[0], "values": ["ACCEPTED"]}]))),
    "no costs": ("offer.costs", "warn", offers(lambda o: o.pop("costs"))),
    "a cost of nothing known": ("offer.costs", "fail", offers(lambda o: o["costs"][0].pop("type"))),
    "a cost without an amount": ("offer.costs", "fail", offers(lambda o: o.update(costs=[{"type": "uri:x"}]))),
    "a cost upside down": ("offer.costs", "fail", offers(lambda o: o["costs"][0].update(min=3, max=2))),
    "no start": ("offer.start", "warn", offers(lambda o: o["compute"].pop("schedule"))),
    "a start that is none": ("offer.start", "fail", offers(
        lambda o: o["compute"]["schedule"]["available"].update(start="soon"))),
    "too little memory": ("offer.size", "fail", offers(lambda o: o["compute"].update(memory={"min": 1, "max": 1}))),
    "too many cores": ("offer.size", "warn", offers(lambda o: o["compute"].update(cores={"min": 2, "max": 2}))),
    "a session that is gone": ("session.read", "fail", answer("GET", "/sessions/", status=404)),
    "another session": ("session.read", "fail", on(lambda s: s.is_session and s.method == "GET",
                                                   lambda s: s.rewrite(lambda d: d["meta"].update(uuid="another")))),
    "a session of no documented phase": ("session.read", "fail", on(
        lambda s: s.is_session and s.method == "GET", lambda s: s.rewrite(lambda d: d.update(phase="DREAMING")))),
    "URLs that lead elsewhere": ("urls", "warn", a_set(lambda d: d["meta"].update(url="http://inside:8080/x"))),
    "no URLs": ("urls", "warn", offers(lambda o: o["meta"].pop("url"))),
    "no JSON": ("format.json", "fail", written("application/json", b"a: b", "application/yaml")),
    "JSON of something else": ("format.json", "fail", written("application/json", b'{"result": "YES", "a": []}')),
    "no YAML": ("format.yaml", "warn", written("application/yaml", b"{}", "application/json")),
    "YAML that is none": ("format.yaml", "fail", written("application/yaml", b"a: [b")),
    "no XML": ("format.xml", "warn", written("application/xml", b"{}", "application/json")),
    "XML that is none": ("format.xml", "fail", written("application/xml", b"<offers-response>")),
    "XML with entities": ("format.xml", "fail", written("application/xml", b'<!DOCTYPE a [<!ENTITY b "c">]><a/>')),
    "XML of another root": ("format.xml", "warn", written("application/xml", b"<other/>")),
    "an unknown set found": ("refuse.set", "fail", on(lambda s: s.status == 404 and s.path.startswith("/offersets"),
                                                      lambda s: vars(s).update(status=200))),
    "an unknown session found": ("refuse.session", "fail", on(
        lambda s: s.status == 404 and s.path.startswith("/sessions"), lambda s: vars(s).update(status=500))),
    "a wrong uuid that breaks it": ("refuse.uuid", "fail", answer("GET", "/sessions/no-uuid", status=500)),
    "half a body that breaks it": ("refuse.body", "fail", answer("POST", "/requests", b'{"executable": ', status=500)),
    "half a body answered NO": ("refuse.body", "warn", on(
        lambda s: s.asked == b'{"executable": ', lambda s: vars(s).update(status=200, body=b'{"result": "NO"}'))),
    "a list that breaks it": ("refuse.shape", "fail", answer("POST", "/requests", b"[1, 2]", status=500)),
    "plain text that breaks it": ("refuse.media", "fail", answer("POST", "/requests", b"please", status=500)),
    "an unknown kind that breaks it": ("refuse.kind", "fail", answer("POST", "/requests", b"unknown", status=500)),
    "an unknown phase that breaks it": ("refuse.update", "fail", answer("POST", "/sessions", b"DREAMING", status=500)),
    "an unknown phase, unsaid": ("refuse.update", "warn", answer("POST", "/sessions", b"DREAMING", status=200)),
    "a phase made up": ("refuse.update", "fail", on(lambda s: s.is_session and s.method == "GET",
                                                    lambda s: s.rewrite(lambda d: d.update(phase="RUNNING")))),
    "a rejection not kept": ("release", "fail", on(lambda s: s.is_session,
                                                   lambda s: s.rewrite(lambda d: d.update(phase="OFFERED")))),
    "an offer still open": ("left", "fail", on(lambda s: s.is_session,
                                               lambda s: s.rewrite(lambda d: d.update(phase="OFFERED")))),
    "no date": ("clock", "warn", lambda s: s.headers.update(Date="yesterday")),
}  # fmt: skip


@pytest.mark.parametrize(("check", "level", "bend"), BENT.values(), ids=BENT)
async def test_one_bent_answer_is_found(check: str, level: str, bend: Any, probe: Any, levels: Any) -> None:
    shown = set[bytes]()

    def both(sent: Any) -> None:
        complete(sent)
        bend(sent)
        shown.update(re.findall(UUID, sent.body) if sent.is_set else ())

    report = await probe(both, offers=2)
    assert levels(report)[check] == level
    assert report.conforms == ("fail" not in levels(report).values())
    # Whatever it was shown is given back, or told of.
    open_ = {uuid for uuid, session in probe.site.sessions.items() if session.phase == "OFFERED"}
    assert {uuid for uuid in open_ if uuid.encode() in shown} <= set(report.left)


OTHERWISE = {"version", "broker", "messages", "auth.post", "auth.read", "auth.identity"}  # below, and in test_dialects


def test_every_check_is_shown_to_fail() -> None:
    assert {check for check, _, _ in BENT.values()} | OTHERWISE == set(CHECKS)


async def test_a_clock_that_is_ahead_is_told_and_counted(probe: Any, levels: Any) -> None:
    report = await probe(complete, ahead=400.0)
    assert levels(report)["clock"] == "warn"
    assert levels(report)["offer.expires"] == "ok"
    clock = next(finding for finding in report.findings if finding.check == "clock")
    assert clock.said == ("its clock is 400 s ahead",)


async def test_a_message_left_unfilled_is_told(probe: Any, levels: Any) -> None:
    report = await probe(complete, declines="${name} is too small")
    assert levels(report)["messages"] == "warn"
    assert levels(report)["offer.phase"] == "skip"
    filled = {"template": "{a} is too small", "message": "{a} is too small", "level": "INFO"}
    report = await probe(a_set(lambda d: d["meta"].update(messages=[filled])), declines="x")
    assert levels(report)["messages"] == "warn"


async def test_other_kinds_are_asked_for_where_none_is_offered(probe: Any) -> None:
    report = await probe(complete, declines="too small")
    tried = [json.loads(seen.body)["executable"]["kind"] for seen in probe.site.seen("quote")[:3]]
    assert tried == [kinds.DOCKER_CONTAINER, kinds.JUPYTER_NOTEBOOK, kinds.SINGULARITY_CONTAINER]
    assert report.asked == "singularity-container"


async def test_a_broker_of_ours_is_known_by_its_id(probe: Any, levels: Any) -> None:
    def ours(sent: Any) -> None:
        complete(sent)
        sent.headers["Broker-Id"] = "radio-net"

    report = await probe(ours)
    broker = next(finding for finding in report.findings if finding.check == "broker")
    assert broker.said == ("Broker-Id radio-net",)


# ── who is let in ────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_site_that_wants_a_sign_in_tells_nothing_more(probe: Any, levels: Any) -> None:
    report = await probe(complete, users={"ann": "secret"})
    assert (report.signed_out, report.conforms, report.speaks) == (True, False, "")
    assert levels(report)["auth.post"] == "ok"
    assert set(levels(report).values()) == {"ok", "skip"}


async def test_a_401_must_say_how_one_signs_in(probe: Any, levels: Any) -> None:
    def mute(sent: Any) -> None:
        sent.headers.pop("WWW-Authenticate", None)

    report = await probe(mute, users={"ann": "secret"})
    assert (levels(report)["auth.post"], report.signed_out) == ("fail", True)
    report = await probe(mute, login="ann:secret", users={"ann": "secret"})
    assert levels(report)["auth.post"] == "fail"


async def test_signed_in_one_sees_what_others_see(probe: Any, levels: Any) -> None:
    report = await probe(complete, login="ann:secret", users={"ann": "secret"})
    assert report.conforms
    assert levels(report)["auth.post"] == "ok"
    assert levels(report)["auth.read"] == "note"  # as in the field, reading is public
    assert levels(report)["auth.identity"] == "note"
    assert "secret" not in report.url


@pytest.mark.parametrize(("to", "level"), [("signed", "ok"), ("all", "warn")])
async def test_identities_are_named_to_those_who_signed_in(to: str, level: str, probe: Any, levels: Any) -> None:
    def name(sent: Any) -> None:
        complete(sent)
        if to == "all" or sent.signed:
            sent.headers["X-VO-Authenticated"] = "ann"

    report = await probe(name, login="ann:secret", users={"ann": "secret"})
    assert levels(report)["auth.identity"] == level


async def test_private_reading_is_no_fault(probe: Any, levels: Any) -> None:
    def private(sent: Any) -> None:
        complete(sent)
        if sent.method == "GET" and not sent.signed:
            sent.status, sent.body = 401, b""
            sent.headers["WWW-Authenticate"] = 'Basic realm="x"'

    report = await probe(private, login="ann:secret", users={"ann": "secret"})
    assert levels(report)["auth.read"] == "ok"


# ── the findings ─────────────────────────────────────────────────────────────────────────────────────────────


def test_the_worst_counts_and_speaks() -> None:
    findings = Findings()
    findings.ok("clock", "fine")
    findings.fail("clock", "wrong")
    findings.warn("clock", "odd")
    findings.judge("urls", [f"fault {i}" for i in range(11)])
    found = {finding.check: finding for finding in findings.all("never")}
    assert found["clock"] == Finding("clock", Level.FAIL, ("wrong",))
    assert found["urls"].said[-1] == "and 3 more"
    assert found["left"] == Finding("left", Level.SKIP, ("never",))
    with pytest.raises(KeyError):
        findings.ok("nothing")


def test_whoever_was_not_let_in_found_no_conformance() -> None:
    assert Report("u", "F", "1.0", "", ()).conforms
    assert not Report("u", "", "", "", (), signed_out=True).conforms
