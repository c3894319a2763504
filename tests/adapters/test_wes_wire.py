"""What the kind `wes` makes of a server that misbehaves: what each failure proves, and what is never believed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from adapters.planning.platform import Job
from adapters.wes.options import WesOptions
from adapters.wes.queue import WesQueue
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.errors import (
    SiteBusy,
    SiteError,
    SiteForbids,
    SiteForgot,
    SiteMisbehaved,
    SiteRefused,
    SiteTimeout,
    SiteUnreachable,
)
from broker.plugins import Credentials
from broker.ports import Logs, Sighting
from broker.testing.raw_http import RawServer, Seen, answer
from broker.testing.resources import shared_http
from tests.adapters.wes_stage import CLOCK, a_job, resources, workflow

SECRET = "correct-horse"
INFO = {"workflow_type_versions": {"CWL": {"workflow_type_version": ["v1.2"]}}}


def said(document: Any, status: int = 200, **headers: str) -> bytes:
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    return answer(status, {"Content-Length": len(body), "Connection": "close", **headers}, body)


def soon(seconds: float = 30.0) -> Deadline:
    return Deadline.after(seconds, CLOCK.monotonic())


@pytest.fixture
async def server() -> AsyncIterator[RawServer]:
    async with RawServer() as server:
        server.on("/service-info", said(INFO))
        server.on("/runs", said({"runs": [], "next_page_token": ""}), method="GET")
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as session:
        yield session


def queue(server: RawServer, http: aiohttp.ClientSession, **options: Any) -> WesQueue:
    read = WesOptions.model_validate({"program": {}, **options})
    return WesQueue(read, resources(http, server.url, "us", credentials=Credentials(token=SECRET)))


def listed(job: Job, run: str, state: str = "RUNNING", broker: str = "us") -> dict[str, Any]:
    return {"run_id": run, "state": state, "tags": {"broker_session": str(job.session), "broker_id": broker}}


def logged(job: Job, state: str, **more: Any) -> dict[str, Any]:
    return {"run_id": "r1", "state": state, "request": {"tags": listed(job, "r1")["tags"]}, **more}


def asked(server: RawServer, method: str, path: str) -> int:
    return sum(1 for seen in server.seen if (seen.method, seen.path) == (method, path))


async def hang(seen: Seen, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(600)


async def flood(seen: Seen, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n{")
    while True:
        writer.write(b" " * 65_536)
        await writer.drain()


# ── submitting ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reply", "error", "proof"),
    [
        (said({"msg": "no such engine", "status_code": 400}, 400), SiteRefused, True),
        (said({"msg": "who are you"}, 401), SiteForbids, True),
        (said({"msg": "not you"}, 403), SiteForbids, True),
        (said({}, 429, **{"Retry-After": "7"}), SiteBusy, True),
        (said({"msg": "Failed to run: internal server error."}, 500), SiteMisbehaved, False),
        (said({}, 503, **{"Retry-After": "7"}), SiteMisbehaved, False),
        (said({}, 409), SiteRefused, False),
        (said(b"", 302, Location="http://127.0.0.1:1/"), SiteMisbehaved, False),
        (said({"run": "r1"}), SiteMisbehaved, False),
        (said({"run_id": "../../etc"}), SiteMisbehaved, False),
        (said(b"<html>"), SiteMisbehaved, False),
        (answer(200, {"Content-Length": 100}, b"{"), SiteMisbehaved, False),
        (flood, SiteMisbehaved, False),
    ],
)
async def test_what_an_answer_to_a_submission_proves(
    server: RawServer, http: aiohttp.ClientSession, reply: Any, error: type[SiteError], proof: bool
) -> None:
    server.on("/runs", reply, method="POST")
    with pytest.raises(error) as caught:
        await queue(server, http).submit(a_job(), soon())
    assert caught.value.proof is proof
    assert SECRET not in caught.value.detail
    assert asked(server, "POST", "/runs") == 1


async def test_a_submission_that_is_not_answered_is_in_doubt(server: RawServer, http: aiohttp.ClientSession) -> None:
    server.on("/runs", hang, method="POST")
    with pytest.raises(SiteTimeout):
        await queue(server, http).submit(a_job(), soon(1.0))


async def test_a_submission_that_did_not_leave_is_not(http: aiohttp.ClientSession) -> None:
    async with RawServer() as gone:
        pass
    with pytest.raises(SiteUnreachable) as caught:
        await queue(gone, http).submit(a_job(), soon())
    assert caught.value.proof


# ── finding ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reply", [said({"msg": "x"}, 500), said([]), said({"runs": 7}), said(b"\xff"), flood])
async def test_a_list_that_cannot_be_read_is_no_proof_that_a_run_is_not_there(
    server: RawServer, http: aiohttp.ClientSession, reply: Any
) -> None:
    server.on("/runs", reply, method="GET")
    with pytest.raises(SiteMisbehaved):
        await queue(server, http).find([a_job()], soon())


async def test_a_list_without_an_end_is_none(server: RawServer, http: aiohttp.ClientSession) -> None:
    server.on("/runs", said({"runs": [], "next_page_token": "again"}), method="GET")
    with pytest.raises(SiteMisbehaved):
        await queue(server, http).find([a_job()], soon())
    assert asked(server, "GET", "/runs") == 2  # the same page comes again


async def test_what_is_no_run_is_passed_over(server: RawServer, http: aiohttp.ClientSession) -> None:
    job = a_job()
    rows = [None, 7, {}, {"run_id": 3}, {"run_id": "../x", "state": "RUNNING"}, listed(job, "r0", broker="them")]
    server.on("/runs", said({"runs": [*rows, listed(job, "r1", "QUEUED")]}), method="GET")
    found = await queue(server, http).find([job], soon())
    assert found == {job.session: Sighting("WAITING", native="r1")}


async def test_runs_whose_tags_are_not_listed_are_looked_at_once(
    server: RawServer, http: aiohttp.ClientSession
) -> None:
    job = a_job()
    server.on("/runs", said({"workflows": [{"run_id": f"r{i}", "state": "QUEUED"} for i in range(3)]}), method="GET")
    server.on("/runs/r0", said({"state": "QUEUED", "request": {"workflow_url": "x"}}))
    server.on("/runs/r1", said(logged(job, "QUEUED")))
    server.on("/runs/r2", said({"state": "QUEUED", "request": {"tags": "none"}}))
    there = queue(server, http)
    stranger = a_job()
    for _ in range(3):
        assert set(await there.find([stranger, job], soon())) == {job.session}
    assert [asked(server, "GET", f"/runs/r{i}") for i in range(3)] == [1, 1, 1]
    assert [held.session for held in await there.held(soon())] == [job.session]


@pytest.mark.parametrize("log", [said({"msg": "x"}, 500), said({"state": "QUEUED", "request": {}})])
async def test_while_a_run_does_not_say_whose_it_is_none_is_known_to_be_absent(
    server: RawServer, http: aiohttp.ClientSession, log: bytes
) -> None:
    """toil lists a run before it has noted what was asked for."""
    job = a_job()
    server.on("/runs", said({"workflows": [{"run_id": "r0", "state": "QUEUED"}]}), method="GET")
    server.on("/runs/r0", log)
    found = (await queue(server, http).find([job], soon()))[job.session]
    assert isinstance(found, SiteBusy)
    with pytest.raises(SiteError):
        await queue(server, http).held(soon())


async def test_a_run_that_is_gone_but_for_its_name_stands_in_nobodys_way(
    server: RawServer, http: aiohttp.ClientSession
) -> None:
    """sapporo lists what was deleted, without its tags."""
    server.on("/runs", said({"runs": [{"run_id": "r0", "state": "DELETED", "tags": {}}]}), method="GET")
    server.on("/runs/r0", said({"state": "DELETED", "request": None}))
    assert await queue(server, http).find([a_job()], soon()) == {}


async def test_many_jobs_take_few_calls(server: RawServer, http: aiohttp.ClientSession) -> None:
    jobs = [a_job() for _ in range(100)]
    states = ["COMPLETE", "QUEUED", "CANCELING", *["PAUSED"] * 97]
    rows = [listed(job, f"r{i}", state) for i, (job, state) in enumerate(zip(jobs, states, strict=True))]
    server.on("/runs", said({"runs": rows}), method="GET")
    server.on("/runs/r0", said(logged(jobs[0], "COMPLETE", run_log={"end_time": "2026-11-22T22:32:11Z"})))
    there = queue(server, http)
    for _ in range(2):
        found = await there.find(jobs, soon())
        phases = [sighting.phase for sighting in found.values() if isinstance(sighting, Sighting)]
        assert sorted(phases) == sorted(["COMPLETED", "WAITING", "RELEASING", *["RUNNING"] * 97])
    assert (asked(server, "GET", "/runs"), asked(server, "GET", "/runs/r0")) == (2, 1)


async def test_of_many_that_run_each_is_looked_at_in_its_turn(server: RawServer, http: aiohttp.ClientSession) -> None:
    jobs = [a_job() for _ in range(50)]
    server.on("/runs", said({"runs": [listed(job, f"r{i}") for i, job in enumerate(jobs)]}), method="GET")
    for i, job in enumerate(jobs):
        server.on(f"/runs/r{i}", said(logged(job, "RUNNING", task_logs=[{"name": f"s{i}"}])))
    there = queue(server, http)
    for _ in range(3):
        found = await there.find(jobs, soon())
    said_of = [sighting.messages for sighting in found.values() if isinstance(sighting, Sighting)]
    assert sorted(said_of) == sorted((f"step s{i}: under way",) for i in range(50))
    assert sum(asked(server, "GET", f"/runs/r{i}") for i in range(50)) == 60


async def test_a_user_of_the_server_signs_in_by_a_password(
    server: RawServer, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "password").write_text(f"{SECRET}\n")
    basic = {"username": "broker", "password_file": str(tmp_path / "password")}
    assert await queue(server, http, basic=basic).find([a_job()], soon()) == {}
    pair = b64encode(f"broker:{SECRET}".encode()).decode()
    assert {seen.headers["authorization"] for seen in server.seen} == {f"Basic {pair}"}


async def test_a_run_is_not_over_before_its_outputs_are_noted(server: RawServer, http: aiohttp.ClientSession) -> None:
    """toil says COMPLETE before it writes them down."""
    job, end = a_job(), datetime.now(UTC)
    server.on("/runs", said({"workflows": [{"run_id": "r1", "state": "COMPLETE"}]}), method="GET")
    phases = []
    for outputs, ended in (({}, end), ({"x": 1}, end), ({}, end - timedelta(minutes=1))):
        log = {"end_time": ended.isoformat()}
        server.on("/runs/r1", said(logged(job, "COMPLETE", outputs=outputs, run_log=log)))
        seen = (await queue(server, http).find([job], soon()))[job.session]
        assert isinstance(seen, Sighting)
        phases.append(seen.phase)
    assert phases == ["RELEASING", "COMPLETED", "COMPLETED"]


async def test_states_are_neither_guessed_nor_made_up(server: RawServer, http: aiohttp.ClientSession) -> None:
    unknown, odd = a_job(), a_job()
    server.on(
        "/runs", said({"runs": [listed(unknown, "r1", "UNKNOWN"), listed(odd, "r2", "HIBERNATING")]}), method="GET"
    )
    server.on("/runs/r1", said({}))
    found = await queue(server, http).find([unknown, odd], soon())
    assert isinstance(found[unknown.session], SiteMisbehaved)
    seen = found[odd.session]
    assert isinstance(seen, Sighting)
    assert (seen.phase, seen.messages) == ("HIBERNATING", ("the server calls the state of the run HIBERNATING",))


async def test_a_run_that_is_gone_is_not_shown(server: RawServer, http: aiohttp.ClientSession) -> None:
    job = a_job()
    server.on("/runs", said({"run_id": "r1"}), method="POST")
    there = queue(server, http)
    assert (await there.submit(job, soon())).native == "r1"
    assert await there.find([job], soon()) == {}


async def test_a_log_that_cannot_be_read_costs_its_words_alone(server: RawServer, http: aiohttp.ClientSession) -> None:
    job = a_job()
    server.on("/runs", said({"runs": [listed(job, "r1", "SYSTEM_ERROR")]}), method="GET")
    server.on(
        "/runs/r1", said(logged(job, "SYSTEM_ERROR", run_log={"stderr": "/log/r1", "system_logs": ["disk full", 3]}))
    )
    server.on("/log/r1", said({"msg": "x"}, 500))
    seen = (await queue(server, http).find([job], soon()))[job.session]
    assert isinstance(seen, Sighting)
    assert (seen.phase, len(seen.messages)) == ("FAILED", 2)
    assert "cannot be read" in seen.messages[1]


async def test_steps_come_from_where_the_server_says(server: RawServer, http: aiohttp.ClientSession) -> None:
    """WES 1.1; an address elsewhere is not followed."""
    job = a_job()
    server.on("/runs", said({"runs": [listed(job, "r1")]}), method="GET")
    server.on("/runs/r1", said(logged(job, "RUNNING", task_logs=None, task_logs_url="r1/tasks")))
    server.on("/runs/r1/tasks", said({"task_logs": [{"name": "fit", "start_time": "x"}]}))
    seen = (await queue(server, http).find([job], soon()))[job.session]
    assert isinstance(seen, Sighting)
    assert seen.messages == ("step fit: runs",)
    async with RawServer() as elsewhere:
        elsewhere.on("*", said({"task_logs": [{"name": "lie"}]}))
        server.on("/runs/r1", said(logged(job, "RUNNING", task_logs_url=f"{elsewhere.url}/tasks")))
        await queue(server, http).find([job], soon())
        assert elsewhere.seen == []


async def test_a_user_whose_token_is_not_taken_is_no_trouble_of_others(
    server: RawServer, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("ended")
    hers, his = a_job(), msgspec.structs.replace(a_job(), owner=Owner("tests", "bob"))

    async def list_runs(seen: Seen, writer: asyncio.StreamWriter) -> None:
        taken = seen.headers["authorization"] == f"Bearer {SECRET}"
        writer.write(said({"runs": [listed(his, "r1", "QUEUED")]}) if taken else said({"msg": "no"}, 401))
        await writer.drain()

    server.on("/runs", list_runs, method="GET")
    there = queue(server, http, users={"tests ada": {"token_file": str(tmp_path / "token")}})
    found = await there.find([hers, his], soon())
    assert isinstance(found[hers.session], SiteForbids)
    assert found[his.session] == Sighting("WAITING", native="r1")


# ── ending ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("state", "over"), [("EXECUTOR_ERROR", True), ("RUNNING", False)])
async def test_a_refusal_to_end_what_is_over_is_none(
    server: RawServer, http: aiohttp.ClientSession, state: str, over: bool
) -> None:
    job = a_job()
    server.on("/runs", said({"runs": [listed(job, "r1", state)]}), method="GET")
    server.on("/runs/r1", said(logged(job, state)))
    server.on("/runs/r1/cancel", said({"msg": "cannot be cancelled"}, 403))
    if over:
        await queue(server, http).end(job, soon())
    else:
        with pytest.raises(SiteForbids):
            await queue(server, http).end(job, soon())


# ── what a run leaves ────────────────────────────────────────────────────────────────────────────────────────


async def left(server: RawServer, http: aiohttp.ClientSession, job: Job, found: Any, **options: Any) -> WesQueue:
    server.on("/runs", said({"runs": [listed(job, "r1", "COMPLETE")]}), method="GET")
    server.on("/runs/r1", said(logged(job, "COMPLETE", outputs=found)))
    return queue(server, http, **options)


async def fetched(there: WesQueue, job: Job, name: str) -> bytes:
    return b"".join([piece async for piece in there.fetch(job, name, soon())])


def file(location: str, **more: Any) -> dict[str, Any]:
    return {"class": "File", "location": location, **more}


async def test_outputs_are_read_from_the_servers_own_origin_alone(
    server: RawServer, http: aiohttp.ClientSession
) -> None:
    job = a_job(workflow("class: CommandLineTool"))
    async with RawServer() as elsewhere:
        outputs = {
            "one": file(f"{server.url}/o/r1/mine"),
            "two": file(f"{elsewhere.url}/o/theirs"),
            "three": file("s3://b/k"),
        }
        there = await left(server, http, job, outputs)
        server.on("/o/r1/mine", said(b"42"))
        assert [(result.name, result.bytes) for result in await there.results(job, soon())] == [("mine", 2)]
        assert await fetched(there, job, "mine") == b"42"
        with pytest.raises(SiteForgot):
            await fetched(there, job, "theirs")
        assert elsewhere.seen == []
    assert all(seen.headers["authorization"] == f"Bearer {SECRET}" for seen in server.seen)


@pytest.mark.parametrize(
    "place",
    ["/runs", "/runs/r2", "/runs/r1/../r2", "/runs/r1/%2e%2e/r2", "/runs/r1/%2E%2e%2Fr2", "/runs/r2?r1", "/r1x"],
)
async def test_what_belongs_to_other_runs_is_not_read_by_our_credentials(
    server: RawServer, http: aiohttp.ClientSession, place: str
) -> None:
    """A workflow can write any address into its outputs, and on some servers into its log."""
    job = a_job(workflow("class: CommandLineTool"))
    address = f"{server.url}{place}"
    there = await left(server, http, job, {"one": address, "two": file(address, basename="two")})
    assert await there.results(job, soon()) == ()
    for name in ("one", "two", place.rpartition("/")[2]):
        with pytest.raises(SiteForgot):
            await fetched(there, job, name)
    server.on("/runs/r1", said(logged(job, "EXECUTOR_ERROR", run_log={"stdout": address, "stderr": place})))
    assert await there.logs(job, soon()) == Logs(None, None)
    asked = {seen.target for seen in server.seen if "page_size=" not in seen.target}
    assert asked <= {"/runs/r1", "/service-info"}


async def test_files_are_read_below_the_operators_folders_alone(
    server: RawServer, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    for run in ("r1", "r2"):
        (tmp_path / "runs" / run).mkdir(parents=True)
    (tmp_path / "r1").mkdir()
    for secret in ("secret", "r1/secret", "runs/secret", "runs/r2/secret"):
        (tmp_path / secret).write_text("s")
    (tmp_path / "runs" / "r1" / "fine").write_text("42")
    os.symlink(tmp_path / "secret", tmp_path / "runs" / "r1" / "link")
    os.symlink(tmp_path, tmp_path / "runs" / "r1" / "up")
    others = ["runs/secret", "runs/r2/secret", "runs/r1/../r2/secret"]
    outside = ["runs/r1/../../secret", "secret", "r1/secret", "runs/r1/link", "runs/r1/up/secret", "runs", "runs/r1"]
    places = ["runs/r1/fine", *others, *outside]
    outputs = {str(i): file(f"file://{tmp_path}/{place}", basename=f"f{i}") for i, place in enumerate(places)}
    job = a_job(workflow("class: CommandLineTool"))
    there = await left(server, http, job, outputs, outputs=[str(tmp_path / "runs")])
    assert await fetched(there, job, "f0") == b"42"
    for i in range(1, len(places)):
        with pytest.raises(SiteForgot):
            await fetched(there, job, f"f{i}")
    assert [result.name for result in await there.results(job, soon())] == ["f0"]


@pytest.mark.parametrize(
    "wrong", [{"size": 3}, {"checksum": "sha1$" + hashlib.sha1(b"43", usedforsecurity=False).hexdigest()}]
)
async def test_a_file_that_is_not_what_the_engine_wrote_is_found_out(
    server: RawServer, http: aiohttp.ClientSession, wrong: dict[str, Any]
) -> None:
    job = a_job(workflow("class: CommandLineTool"))
    there = await left(server, http, job, {"one": file(f"{server.url}/o/r1/x", **wrong)})
    server.on("/o/r1/x", said(b"42"))
    with pytest.raises(SiteMisbehaved):
        await fetched(there, job, "x")


@pytest.mark.parametrize(
    ("manifest", "names"),
    [
        ([{"name": "a", "bytes": 2, "sha256": "0" * 64}, {"name": "../b", "bytes": 1, "sha256": "0" * 64}], ["a"]),
        ([{"name": "unheard", "bytes": 2, "sha256": "0" * 64}], []),
        ([{"name": "a", "bytes": -1, "sha256": "0" * 64}], None),
        ([{"name": "a", "bytes": 2, "sha256": "0\n"}], None),
        ({"name": "a"}, None),
        (b"nonsense", None),
        (b" " * 9_000_000, None),
    ],
)
async def test_what_a_program_says_of_its_results_is_not_believed_unseen(
    server: RawServer, http: aiohttp.ClientSession, manifest: Any, names: list[str] | None
) -> None:
    """It can write whatever it likes in the place of the manifest."""
    job = a_job()
    outputs = [{"file_name": name, "file_url": "x"} for name in ("manifest.json", "results/a", "results/../b", "b")]
    there = await left(server, http, job, outputs)
    server.on("/runs/r1/outputs/manifest.json", said(manifest))
    server.on("/runs/r1/outputs/results/a", said(b"42"))
    if names is None:
        with pytest.raises(SiteMisbehaved):
            await there.results(job, soon())
        return
    assert [result.name for result in await there.results(job, soon())] == names
    if names:
        with pytest.raises(SiteMisbehaved):  # its SHA-256 is another
            await fetched(there, job, "a")


async def test_a_log_elsewhere_is_not_read(server: RawServer, http: aiohttp.ClientSession) -> None:
    job = a_job()
    async with RawServer() as elsewhere:
        server.on("/runs", said({"runs": [listed(job, "r1", "EXECUTOR_ERROR")]}), method="GET")
        log = {"stdout": f"{elsewhere.url}/out", "stderr": "what went wrong\nstands here"}
        server.on("/runs/r1", said(logged(job, "EXECUTOR_ERROR", run_log=log)))
        found = await queue(server, http).logs(job, soon())
        assert (found.stdout, found.stderr) == (None, "what went wrong\nstands here")
        assert elsewhere.seen == []


# ── what it is ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (said({"msg": "x"}, 500), SiteMisbehaved),
        (said(b"<html>", 200), SiteMisbehaved),
        (said(b"", 307, Location="/elsewhere"), SiteMisbehaved),
        (said({}, 404), SiteRefused),
        (said({}, 401), SiteForbids),
        (flood, SiteMisbehaved),
    ],
)
async def test_a_server_that_cannot_be_asked_is_not_described(
    server: RawServer, http: aiohttp.ClientSession, reply: Any, error: type[SiteError]
) -> None:
    server.on("/service-info", reply)
    with pytest.raises(error):
        await queue(server, http).describe(soon())


async def test_what_a_server_says_decides_what_runs(server: RawServer, http: aiohttp.ClientSession) -> None:
    there = queue(server, http)
    profile = await there.describe(soon())
    assert (profile.results, profile.reserves) == (False, False)
    assert len(profile.executables or ()) == 2
    server.on("/service-info", said({"workflow_type_versions": {"WDL": {}}, "supported_wes_versions": ["9"]}))
    assert len((await there.describe(soon())).executables or ()) == 1
    refused = there.refuse(a_job().request)
    assert [reason.element for reason in refused] == ["executable.kind"]
