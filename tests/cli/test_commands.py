"""The commands, run as a shell runs them, against a broker on a real socket."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from broker.domain import kinds
from broker.domain.components import ComponentMetadata, MessageItem
from broker.domain.session import OutcomeNote, SessionPhase, SimpleSessionConnector
from broker.testing.broker import ALBA, DELTA, SET, FakeBroker, bounds, drawn_offers, drawn_set, run_of


@pytest.fixture(autouse=True)
def program(home: Path) -> None:
    (home / "fit.py").write_text("print('fit')\n")
    (home / "fit.yaml").write_text(
        "executable:\n  kind: python-program\n  location: fit.py\ndata:\n  - location: https://data.example/cube.fits\n"
    )


def written(home: Path, name: str) -> list[str]:
    return [str(path.relative_to(home)) for path in home.rglob(name)]


# ── submit ───────────────────────────────────────────────────────────────────────────────────────────────────


async def test_submit_sends_a_whole_request_and_shows_the_ranked_table(run: Any, fake: FakeBroker, golden: Any) -> None:
    ran = await run(
        "submit", "fit.py", "--data", "https://data.example/cube.fits", "--cores", "4", "--memory", "16",
        "--for", "1h", "--prefer", "fastest", "--max-price", "5", "--name", "fitting", tty=True,
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    assert fake.sent("POST", "/requests")[0].body == {
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": "print('fit')\n", "meta": {"name": "fitting"}},
        "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 4}, "memory": {"min": 16}},
        "data": [
            {"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube.fits"}, "location": "https://data.example/cube.fits"}
        ],
        "schedule": {"requested": {"duration": "PT1H"}},
        "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": 5.0}],
        "preferences": {"preset": "fastest"},
    }
    golden("submit.txt", ran.out)


async def test_a_request_file_is_expanded_in_the_client(run: Any, fake: FakeBroker) -> None:
    assert (await run("submit", "fit.yaml")).code == 0
    body = fake.sent("POST", "/requests")[0].body
    assert body["executable"] == {"kind": kinds.PYTHON_PROGRAM, "source": "print('fit')\n", "meta": {"name": "fit"}}
    assert body["data"][0]["kind"] == kinds.SIMPLE_DATA


async def test_show_prints_the_request_and_sends_nothing(run: Any, fake: FakeBroker) -> None:
    ran = await run("submit", "fit.yaml", "--show")
    assert json.loads(ran.out)["executable"]["kind"] == kinds.PYTHON_PROGRAM
    assert fake.calls == []


async def test_a_pipe_gets_tab_separated_lines(run: Any, golden: Any) -> None:
    ran = await run("submit", "fit.py")
    golden("submit.tsv", ran.out)
    heads, first = (line.split("\t") for line in ran.out.splitlines()[:2])
    assert dict(zip(heads, first, strict=True))["session"] == str(ALBA)


async def test_json_is_the_document(run: Any) -> None:
    ran = await run("submit", "fit.py", "--json", tty=True)
    assert json.loads(ran.out) == drawn_set().to_wire()


async def test_an_empty_303_is_followed_to_its_location(run: Any, fake: FakeBroker) -> None:
    fake.empty_303 = True
    assert "alba" in (await run("submit", "fit.py")).out
    assert fake.sent("GET", f"/offersets/{SET}")


async def test_a_no_names_every_reason_and_ends_with_3(run: Any, fake: FakeBroker, golden: Any) -> None:
    fake.sets = [drawn_set([])]
    ran = await run("submit", "fit.py", tty=True)
    assert ran.code == 3
    assert ran.err == "NO from 2 sites: 1 says no, 1 silent.\n"
    golden("no.txt", ran.out)


async def test_a_no_with_sites_pending_is_waited_for(run: Any, fake: FakeBroker) -> None:
    growing = drawn_set([], pending=1, closed=False)
    fake.sets = [growing, growing, drawn_set()]
    ran = await run("submit", "fit.py", tty=True)
    assert ran.code == 0
    assert "* 1 alba" in ran.out


# ── spending ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("more", "word"),
    [((), "no ceiling stands"), (("--max-price", "1.0"), "above your ceiling of 1")],
)
async def test_accept_best_refuses_to_spend_unbounded(
    run: Any, fake: FakeBroker, more: tuple[str, ...], word: str
) -> None:
    ran = await run("submit", "fit.py", "--accept", "best", *more)
    assert ran.code == 2
    assert word in ran.err
    assert fake.sent("POST", "/sessions") == []


async def test_accept_best_refuses_an_unknown_price_even_under_a_ceiling(run: Any, fake: FakeBroker) -> None:
    first, *rest = drawn_offers()
    assert first.ranking
    unknown = first.with_(ranking=first.ranking.with_(pay=bounds(1.0, stand_in=True)))
    fake.sets = [drawn_set([unknown, *rest])]
    ran = await run("submit", "fit.py", "--accept", "best", "--max-price", "100")
    assert (ran.code, fake.sent("POST", "/sessions")) == (2, [])
    assert "not known" in ran.err


async def test_accept_best_takes_what_the_ceiling_covers(run: Any, fake: FakeBroker) -> None:
    ran = await run("submit", "fit.py", "--accept", "best", "--max-price", "2", tty=True)
    assert ran.code == 0
    assert ran.out.splitlines()[-1] == '14:03 ACCEPTED   alba; 3 other offers released. Session 91c2, "fit".'
    assert [call.body["value"] for call in fake.sent("POST", "/sessions")] == ["ACCEPTED"]


async def test_a_ceiling_in_the_file_counts(run: Any, home: Path) -> None:
    text = (home / "fit.yaml").read_text() + "costs:\n  - {type: monetary, max: 2}\n"
    (home / "fit.yaml").write_text(text)
    assert (await run("submit", "fit.yaml", "--accept", "1")).code == 0


async def test_what_is_free_needs_no_ceiling(run: Any) -> None:
    assert (await run("submit", "fit.py", "--accept", "4")).code == 0


# ── accept, watch, fetch ─────────────────────────────────────────────────────────────────────────────────────


async def test_accept_by_rank_and_watch_to_the_end(run: Any, golden: Any) -> None:
    await run("submit", "fit.py")
    ran = await run("accept", "1", "--watch", tty=True)
    assert (ran.code, ran.err) == (0, "")
    golden("watch.txt", ran.out)


@pytest.mark.parametrize("handle", ["91c2", str(ALBA), "7f3a/1", "91c20001-0000"])
async def test_a_handle_is_a_uuid_or_its_beginning_or_a_set_and_a_rank(run: Any, fake: FakeBroker, handle: str) -> None:
    assert (await run("accept", handle)).code == 0
    assert fake.sent("POST")[-1].path == f"/sessions/{ALBA}"


async def test_a_handle_may_be_a_url(run: Any, fake: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    await run("accept", "91c2")
    monkeypatch.delenv("BROKER_URL")
    assert (await run("watch", f"{fake.url}/sessions/{ALBA}", "--json")).code == 0


async def test_an_offer_is_not_watched_for_ever(run: Any) -> None:
    ran = await run("watch", "91c2")
    assert (ran.code, ran.err) == (3, "session 91c2 is only offered, nothing runs. First: broker accept 91c2\n")


async def test_a_name_that_many_bear_is_not_guessed(run: Any, fake: FakeBroker) -> None:
    ran = await run("cancel", "fit")
    assert ran.code == 2
    assert '"fit" may mean 91c20001 (fit, OFFERED), 91d30002 (fit, OFFERED)' in ran.err
    assert fake.sent("POST") == []


async def test_of_all_that_bear_a_name_the_run_is_meant_and_no_offer(run: Any, fake: FakeBroker) -> None:
    await run("accept", "91c2")
    ran = await run("cancel", "fit")
    assert (ran.code, ran.err) == (0, "")
    assert fake.sent("POST")[-1].path.endswith(str(ALBA))
    assert (await run("accept", "fit")).code == 2


async def test_a_failed_run_ends_with_1_and_says_why(run: Any, fake: FakeBroker) -> None:
    accepted, running, _ = run_of(drawn_offers()[0])
    meta = ComponentMetadata(uuid=ALBA, messages=(MessageItem.fill("uri:x", "exit 3: no such column"),))
    fake.scripts[ALBA] = [accepted, running, running.with_(phase=SessionPhase.FAILED, meta=meta)]
    ran = await run("accept", "91c2", "--watch", tty=True)
    assert ran.code == 1
    assert "FAILED     exit 3: no such column" in ran.out
    assert "early" not in ran.out


async def test_available_of_a_batch_run_prints_as_running_but_not_of_an_interactive_one(
    run: Any, fake: FakeBroker
) -> None:
    accepted, running, done = run_of(drawn_offers()[0])
    connector = SimpleSessionConnector(protocol="https", location="https://alba.example/lab?token=sesame")
    fake.scripts[ALBA] = [accepted, running.with_(connectors=(connector,)), done]
    out = (await run("accept", "91c2", "--watch", tty=True)).out
    assert "AVAILABLE  data already there\n      https  https://alba.example/lab    broker open 91c2\n" in out
    assert "sesame" not in out
    fake.scripts[DELTA] = run_of(drawn_offers()[3])
    assert "RUNNING" in (await run("accept", "b1d5", "--watch", tty=True)).out


async def test_a_doubtful_acceptance_says_so_and_ends_with_6(run: Any, fake: FakeBroker) -> None:
    offered = drawn_offers()[0]
    asking = MessageItem.fill("uri:x", "asking alba whether it took it")
    fake.scripts[ALBA] = [offered.with_(meta=ComponentMetadata(uuid=ALBA, messages=(asking,)))]
    ran = await run("accept", "91c2")
    assert ran.code == 6
    assert ran.err.splitlines() == [
        "OFFERED: asking alba whether it took it",
        "Look again: broker watch 91c2",
    ]


async def test_a_lost_answer_to_an_acceptance_is_read_back_and_never_sent_twice(run: Any, fake: FakeBroker) -> None:
    fake.refuse("POST", f"/sessions/{ALBA}", 0)
    ran = await run("accept", "91c2", tty=True)
    assert ran.code == 0
    assert len(fake.sent("POST", "/sessions")) == 1


async def test_fetch_writes_the_files_and_says_where(run: Any, fake: FakeBroker, home: Path) -> None:
    await run("accept", "91c2")
    ran = await run("fetch", "91c2")
    assert (ran.code, ran.out) == (0, "results/fluxes.fits\n")
    fetched = (home / "results" / "fluxes.fits").read_bytes()
    assert hashlib.sha256(fetched).digest() == hashlib.sha256(fake.files["fluxes.fits"]).digest()


async def test_fetch_never_leaves_its_folder(run: Any, fake: FakeBroker, home: Path) -> None:
    fake.files = {"sub/../../evil.txt": b"x"}
    ran = await run("fetch", "91c2", "--to", "here")
    assert ran.code == 0
    assert written(home, "evil.txt") == ["here/sub/evil.txt"]
    assert fake.sent("GET")[-1].path == f"/sessions/{ALBA}/results/sub/evil.txt"


async def test_fetch_leaves_other_files_alone_unless_forced(run: Any, home: Path) -> None:
    (home / "results").mkdir()
    (home / "results" / "fluxes.fits").write_text("mine")
    ran = await run("fetch", "91c2")
    assert ran.code == 2
    assert (home / "results" / "fluxes.fits").read_text() == "mine"
    assert (await run("fetch", "91c2", "--force")).code == 0
    assert (await run("fetch", "91c2")).code == 0, "the same content again is no clash"


async def test_logs_go_where_they_belong(run: Any, fake: FakeBroker) -> None:
    fake.logs = {"stdout": "a\x1b[31mb\n", "stderr": "warn\n"}
    ran = await run("logs", "91c2")
    assert (ran.code, ran.out, ran.err) == (0, "a\x1b[31mb\n", "warn\n")
    assert (await run("logs", "91c2", tty=True)).out == "a?[31mb\n"
    assert (await run("logs", "91c2", "--err")).out == "warn\n"


async def test_reject_and_cancel(run: Any, fake: FakeBroker) -> None:
    assert (await run("reject", "7f3a/2", tty=True)).out == "14:03 REJECTED\n"
    await run("accept", "91c2")
    ran = await run("cancel", "91c2", tty=True)
    assert (ran.code, ran.out) == (0, "14:03 CANCELLED\n")
    assert [call.body["value"] for call in fake.sent("POST", "/sessions")] == ["REJECTED", "ACCEPTED", "CANCELLED"]


async def test_who_accepts_what_was_cancelled_is_told_by_the_code(run: Any) -> None:
    await run("accept", "91c2")
    await run("cancel", "91c2")
    ran = await run("accept", "91c2", tty=True)
    assert ran.code == 1
    assert "CANCELLED" in ran.out


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_sessions_hides_what_was_only_offered(run: Any, golden: Any) -> None:
    await run("accept", "91c2")
    golden("sessions.txt", (await run("sessions", tty=True)).out)
    assert len((await run("sessions", "--all")).out.splitlines()) == 5


async def test_a_session_is_found_by_what_its_platform_calls_it(run: Any, fake: FakeBroker) -> None:
    await run("accept", "91c2")
    ours = fake.scripts[ALBA][-1] if fake.scripts.get(ALBA) else run_of(drawn_offers()[0])[0]
    fake.scripts[ALBA] = [ours.model_copy(update={"native": "slurm job 48211"})]
    found = [(await run("sessions", "--native", word)).out for word in ("48211", "slurm job 48211", "4821")]
    assert ["fit" in text for text in found] == [True, True, False]


async def test_offers_shows_the_last_set_again_and_explains_it(run: Any, golden: Any) -> None:
    await run("submit", "fit.py")
    golden("explain.txt", (await run("offers", "--explain", tty=True)).out)
    assert json.loads((await run("offers", "7f3a", "--json")).out)["meta"]["uuid"] == str(SET)
    assert "(worst)" in (await run("offers", "--wide", tty=True)).out


async def test_sites_are_put_listed_drained_and_deleted(run: Any, fake: FakeBroker, home: Path) -> None:
    (home / "alba.yaml").write_text("kind: ivoa\nurl: https://broker.alba.example\n")
    assert (await run("sites", "put", "alba", "alba.yaml")).code == 0
    assert fake.sent("PUT")[0].body == {"kind": "ivoa", "url": "https://broker.alba.example"}
    assert (await run("sites")).out.splitlines()[1].split("\t")[:2] == ["alba", "ivoa"]
    await run("sites", "drain", "alba", "--until", "2026-11-29T08:00Z")
    assert fake.sent("POST")[-1].body == {"until": "2026-11-29T08:00:00Z"}
    assert '"draining"' in (await run("sites", "show", "alba")).out
    await run("sites", "resume", "alba")
    assert (await run("sites", "delete", "alba")).out == "alba: gone\n"
    assert (await run("sites", "show", "alba")).err == 'no site "alba".\n'


LEARNED = {
    "calibration": [
        {"site": "alba", "kind": "python-program", "what": "waiting", "factor": 2.13, "samples": 34,
         "since": "2026-11-01T00:00:00Z", "says": "starts later than promised × 2.1 (34 runs)"},
        {"site": "alba", "kind": "docker-container", "what": "waiting", "factor": 1.0, "samples": 3,
         "since": "2026-11-20T00:00:00Z", "says": "starts as promised (3 runs)"},
    ],
    "measured": [
        {"source": "lund-disk", "low": 80.0, "high": 120.0, "unit": "MB/s", "samples": 12,
         "latest": "2026-11-22T00:00:00Z"}
    ],
}  # fmt: skip


async def test_what_a_sites_promises_are_worth_is_listed_explained_and_forgotten(run: Any, fake: FakeBroker) -> None:
    fake.sites["alba"] = {"name": "alba", "kind": "ivoa", "health": "live", **LEARNED}
    assert (await run("sites")).out.splitlines()[1].split("\t")[4] == "x 2.1 later (34)"
    assert "PROMISES" in (await run("sites", tty=True)).out
    lines = (await run("sites", "promises", "alba")).out.splitlines()
    assert lines[1].split("\t")[-1] == "starts later than promised × 2.1 (34 runs)"
    assert lines[3].split("\t")[1:5] == ["lund-disk", "bytes", "80-120", "12"]
    assert json.loads((await run("sites", "promises", "alba", "--json")).out) == LEARNED
    assert (await run("sites", "forget", "alba")).out == "alba: what was learned of it is forgotten\n"
    assert "nothing was learned" in (await run("sites", "promises", "alba", tty=True)).err
    assert "PROMISES" not in (await run("sites", tty=True)).out


async def test_a_wrong_registration_is_named_with_its_line(run: Any, fake: FakeBroker, home: Path) -> None:
    (home / "alba.yaml").write_text("kind: ivoa\nurll: https://broker.alba.example\n")
    ran = await run("sites", "put", "alba", "alba.yaml")
    assert (ran.code, fake.calls) == (2, [])
    assert ran.err.startswith("alba.yaml:2 urll: no such property. Nearest: url. There are: ")


async def test_status_says_who_acts(run: Any, fake: FakeBroker, golden: Any) -> None:
    reason = "credentials for slurmrestd expired"
    fake.status = {
        "schema": "status-1.0",
        "name": "radio-net",
        "now": {"replicas": 3, "sites": {"live": 1, "degraded": 1}, "sessions": {"OFFERED": 0, "RUNNING": 31}},
        "sites": [
            {"name": "alba", "health": {"state": "live"}, "sessions": {"RUNNING": 24}},
            {
                "name": "delta",
                "health": {"state": "degraded", "reason": reason, "acts": "operator"},
                "sessions": {"RUNNING": 7},
            },
        ],
    }
    golden("status.txt", (await run("status", tty=True)).out)
    assert json.loads((await run("status", "--json")).out) == fake.status


async def test_a_no_names_the_nearest_yes(run: Any, fake: FakeBroker) -> None:
    small = [
        OutcomeNote(site=site, outcome="Skipped", reasons=(f"compute.memory.min: 64 asked. Nearest yes: {n}.",))
        for site, n in (("alba", 48), ("delta", 48), ("echo", 8))
    ]
    fake.sets = [drawn_set([], outcomes=small)]
    ran = await run("submit", "fit.py", tty=True)
    assert (ran.code, ran.err) == (3, "NO from 3 sites: 3 too small (memory: largest 48). --memory 48 may get 2\n")
    assert "NO  alba   compute.memory.min: 64 asked" in ran.out


async def test_a_no_names_the_nearest_yes_of_most_sites(run: Any, fake: FakeBroker) -> None:
    told = [
        OutcomeNote(site=site, outcome="Declined", reasons=(f"outputs.keep: P30D asked. Nearest yes: {most}.",))
        for site, most in (("alba", "P7D"), ("delta", "P9D"), ("echo", "P7D"))
    ]
    fake.sets = [drawn_set([], outcomes=told), drawn_set([], outcomes=told[:1])]
    assert (await run("submit", "fit.py")).err == "NO from 3 sites: 3 say no. Nearest yes: P7D (at 2 sites).\n"
    assert (await run("submit", "fit.py")).err == "NO from 1 site: 1 says no. Nearest yes: P7D.\n"


async def test_a_no_for_data_that_would_have_to_move_names_the_nearest_yes(run: Any, fake: FakeBroker) -> None:
    reasons = ("alba: left out: 3.37 MB of data would have to move there",)
    fake.sets = [drawn_set([], outcomes=[OutcomeNote(site="alba", outcome="Declined", reasons=reasons)])]
    said = (await run("submit", "fit.py")).err
    assert said == "NO from 1 site: 1 says no. Nearest yes: preferences.locality: preferred.\n"


async def test_what_promises_are_worth_is_read_whole_on_a_narrow_terminal(run: Any, fake: FakeBroker) -> None:
    says = "runs shorter than asked for × 0.31 (34 runs; × 0.29 is usual)"
    line = {**LEARNED["calibration"][0], "says": says}
    fake.sites["alba"] = {"name": "alba", "kind": "ivoa", "health": "live", "calibration": [line]}
    shown = (await run("sites", "promises", "alba", tty=True)).out
    assert max(map(len, shown.splitlines())) <= 80
    assert says in " ".join(shown.split())
    assert "2026-11-01T" not in shown


async def test_kinds_are_listed(run: Any) -> None:
    assert "docker-container\texecutable\t" + kinds.DOCKER_CONTAINER in (await run("kinds")).out


# ── one line each ────────────────────────────────────────────────────────────────────────────────────────────


async def test_no_broker_known(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BROKER_URL")
    ran = await run("sessions")
    assert (ran.code, ran.err) == (5, "broker: no broker known. Run: broker login URL, or try: make demo\n")


async def test_nobody_listens(run: Any, unused_tcp_port: int) -> None:
    ran = await run("--url", f"http://127.0.0.1:{unused_tcp_port}", "sessions")
    assert ran.code == 5
    assert ran.err.startswith(f"broker: no broker answers at 127.0.0.1:{unused_tcp_port} (connection refused). ")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 4), (403, 4), (404, 2), (409, 3), (429, 5), (500, 5), (503, 5), (302, 5)],
)
async def test_every_refusal_is_one_line_and_its_code(run: Any, fake: FakeBroker, status: int, code: int) -> None:
    problem = {"detail": "a\x1b]0;pwned\x07 reason.", "remedy": "Do\nthat."}
    fake.refuse("POST", "/requests", status, problem, Location="http://elsewhere.example/")
    ran = await run("submit", "fit.py")
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)
    assert "\x1b" not in ran.err
    if status != 302:
        assert "a?]0;pwned? reason. Do that." in ran.err


async def test_the_brokers_refusal_of_an_element_names_the_line(run: Any, fake: FakeBroker) -> None:
    problem = {"detail": "no site reads ftp.", "element": "data[0].location"}
    fake.refuse("POST", "/requests", 400, problem)
    ran = await run("submit", "fit.yaml")
    assert ran.err == "fit.yaml:5 data[0].location: no site reads ftp.\n"


async def test_a_wrong_option_is_one_line(run: Any) -> None:
    ran = await run("submit", "fit.py", "--cores", "many")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert ran.err == "broker: Invalid value for '--cores': a whole number is wanted. See: broker --help\n"


async def test_nothing_said_is_a_question_for_help(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    ran = await run()
    assert (ran.code, ran.err) == (0, "")
    assert len(capsys.readouterr().out.splitlines()) > 20


async def test_a_rank_that_is_not_there(run: Any) -> None:
    await run("submit", "fit.py")
    assert (await run("accept", "9")).err == "set 7f3a has no offer 9. There are: 1 to 4.\n"


# ── login ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_login_is_stored_for_its_owner_alone_and_used(
    run: Any, fake: FakeBroker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "token").write_text("s3cret\n")
    monkeypatch.delenv("BROKER_URL")
    assert (await run("login", fake.url + "/", "--token-file", "token")).code == 0
    stored = home / "home" / ".config" / "broker" / "login.json"
    assert stat.S_IMODE(os.stat(stored).st_mode) == 0o600
    assert (await run("sessions")).code == 0
    assert {call.authorization for call in fake.calls} == {"Bearer s3cret"}


async def test_a_login_that_is_not_taken_is_not_stored(run: Any, fake: FakeBroker, home: Path) -> None:
    fake.refuse("GET", "/sessions", 401, {"detail": "who are you?"})
    ran = await run("login", fake.url)
    assert (ran.code, ran.err) == (4, f"who are you? Run: broker login {fake.url} --user NAME\n")
    assert written(home, "login.json") == []


async def test_whose_credential_ended_when_and_who_acts(
    run: Any, fake: FakeBroker, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BROKER_URL")
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 1_699_963_200}).encode()).decode().rstrip("=")
    for name, token in (("jwt", f"e30.{claims}.x"), ("plain", "s3cret")):
        (home / name).write_text(token)
    await run("login", fake.url, "--token-file", "jwt")
    fake.refuse("GET", "/sessions", 401, {"detail": "who are you?"})
    ran = await run("sessions")
    assert (ran.code, ran.err) == (
        4,
        "your login at 127.0.0.1 ended 2023-11-14 (who are you?). What runs goes on. "
        f"Run: broker login {fake.url} --token-file FILE.\n",
    )
    monkeypatch.setenv("BROKER_USER", "ada")
    ran = await run("sessions")
    assert ran.err == "BROKER_PASSWORD for 127.0.0.1 is not taken (who are you?). What runs goes on. Set it anew.\n"


async def test_a_pending_set_says_so(run: Any, fake: FakeBroker) -> None:
    pending = OutcomeNote(site="gulf", outcome="Pending")
    drawn = drawn_set(pending=1, closed=False)
    fake.sets = [drawn.with_(outcomes=(*(drawn.outcomes or ()), pending))]
    out = (await run("submit", "fit.py", tty=True)).out
    assert "--  gulf      no answer yet; joins the set if it comes" in out
    assert "1 site pending: the set may still grow" in out
