"""The contracts and the ends of the kind `wes`, held against a real sapporo behind a real OpenID Connect provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.platform import Job
from adapters.wes.adapter import plugin
from broker.domain import kinds
from broker.domain.identity import Owner
from broker.errors import SiteError, SiteForbids, SiteForgot
from broker.ports import Order, Sighting
from broker.testing.oidc_server import AUDIENCE, OTHER_AUDIENCE, OidcServer
from broker.testing.planner_contract import PATIENCE, PlannerContract, Stand
from broker.testing.proxy import Point, Proxy
from broker.testing.resources import shared_http
from broker.testing.wes_servers import SapporoServer
from tests.adapters.wes_stage import (
    CLOCK,
    WARP,
    counted,
    datum,
    lasting,
    lasts,
    logs,
    platform,
    program,
    resources,
    results,
    served,
    some_time,
    stage,
    workflow,
)
from tests.conftest import want, want_server

NAMES = ("no-such-file", "../stdout", "stdout.txt", "/etc/passwd", "")


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "marks"
    folder.mkdir()
    yield folder
    (folder / "over").touch()


@pytest.fixture(scope="module")
def oidc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OidcServer]:
    want("node", "nodejs")
    with OidcServer(want_server("oidc").parent, tmp_path_factory.mktemp("oidc")) as server:
        yield server


@pytest.fixture(scope="module")
def server(oidc: OidcServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SapporoServer]:
    want("jq", "jq")
    folder = tmp_path_factory.mktemp("sapporo")
    with SapporoServer(want_server("sapporo"), folder, issuer=oidc.issuer, audience=AUDIENCE) as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as session:
        yield session


def runs(marks: Path, what: Job | Order) -> int:
    return len(list(marks.glob(f"{what.session}.*")))


class TestSapporo(PlatformContract):
    @pytest.fixture
    async def stage(self, server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, marks: Path) -> Stage:
        return Stage(
            make=platform(server.url, http, token=oidc.options()),
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            failing=program("raise SystemExit(3)"),
            beyond={"executable": WARP},
            text=b"42",
            ran=lambda job: runs(marks, job),
            pass_time=some_time,
        )

    @pytest.mark.parametrize("name", [NAMES])
    async def test_only_what_is_listed_is_handed_out(self, stage: Stage, name: Any) -> None:
        """All names of one run: a run takes a second or more."""
        job = await stage.started(stage.short)
        await stage.ended(job)
        for one in name:
            with pytest.raises(SiteForgot):
                await anext(aiter(stage.make().fetch(job, one, stage.soon())))


@pytest.mark.faults
class TestSapporoPlanner(PlannerContract):
    @pytest.fixture
    async def stand(self, server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, marks: Path) -> Stand:
        given = resources(http, server.url)
        options = plugin.options.model_validate({"program": {}, "token": oidc.options()})
        return Stand(
            make=lambda: plugin.make(options, given),
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            beyond={"executable": WARP},
            ran=lambda order: runs(marks, order),
            pass_time=some_time,
        )


# ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────


def told(end: Sighting, *words: str) -> bool:
    return end.phase == "FAILED" and all(any(word in line for line in end.messages) for word in words)


async def test_runs_that_go_wrong_say_why_in_their_own_words(
    server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    (tmp_path / "survey").write_text("hello\n")
    wrong = {"objecttype": "FILE", "checksum": {"type": "SHA-1", "value": "00" * 20}}
    tool = "{cwlVersion: v1.2, class: CommandLineTool, baseCommand: [sh, -c, %r], inputs: [], outputs: []}"
    with served(tmp_path) as url:
        summed = {**datum("survey", url), "kind": kinds.SKAO_DATA, "location": None}
        summed["skao"] = {**wrong, "replicas": [{"dataurl": f"{url}/survey"}]}
        requests: dict[str, tuple[dict[str, Any], float]] = {
            "memory": (program("bytearray(1 << 31)"), 60.0),
            "time": (program("import time; print('begun', flush=True); time.sleep(600)"), 2.0),
            "data": (program("", datum("survey", f"{url}/no-such-file?key=secret")), 60.0),
            "sum": (program("", summed), 60.0),
            "step": (workflow(tool % "echo the sky is red >&2; exit 3"), 60.0),
            "over time": (workflow(tool % "exec sleep 600"), 1.0),
        }
        there = stage(server.url, http, token=oidc.options(), grace="PT0S")
        jobs = {name: lasts(there.job(request), seconds) for name, (request, seconds) in requests.items()}
        for job in jobs.values():
            await there.make().start(job, there.soon())
        ends = dict(zip(jobs, await asyncio.gather(*map(there.ended, jobs.values())), strict=True))
    assert told(ends["memory"], "MemoryError"), ends["memory"]
    assert told(ends["time"], "the time limit of 2 s is over"), ends["time"]
    assert told(ends["data"], f"data/survey cannot be read: {url}/no-such-file: HTTP 404"), ends["data"]
    assert told(ends["sum"], "the sha1 of data/survey is f572d396fae9206628714fb2ce00f72e94f2258f"), ends["sum"]
    assert told(ends["step"], "the sky is red"), ends["step"]
    assert told(ends["over time"], "it was ended by the broker: its duration of 1 s is over"), ends["over time"]
    assert (await logs(there, jobs["time"])).stdout == "begun\n"


async def test_results_come_over_http_whatever_they_are_called(
    server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    """Of data that the engine has put in its place."""
    (tmp_path / "of-2026").write_text("42")
    names = ["plain", "in a folder/ü%2e ?#.txt"]
    source = f"import pathlib\nfor name in {names!r}:\n"
    source += "    place = pathlib.Path('results', name)\n    place.parent.mkdir(exist_ok=True)\n"
    source += "    place.write_text(name + open('data/survey').read())\nprint('done')\n"
    there = stage(server.url, http, token=oidc.options(), program={"staging": "engine"})
    with served(tmp_path) as url:
        job = await there.started(program(source, datum("survey", f"{url}/of-2026")))
        assert (await there.ended(job)).phase == "COMPLETED"
    assert await results(there, job) == {name: f"{name}42".encode() for name in names}
    assert (await logs(there, job)).stdout == "done\n"


# ── whose ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["wrong audience", "no token", "a token that is none", "one that is not taken"])
async def test_credentials_that_are_not_taken_are_said_to_be_whose(
    server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, tmp_path: Path, how: str
) -> None:
    (tmp_path / "token").write_text("not-a-token" if how == "a token that is none" else oidc.token() + "x")
    options: dict[str, Any] = {
        "wrong audience": {"token": oidc.options(audience=OTHER_AUDIENCE)},
        "no token": {},
        "a token that is none": {"users": {"ada": {"token_file": str(tmp_path / "token")}}},
        "one that is not taken": {"users": {"ada": {"token_file": str(tmp_path / "token")}}},
    }[how]
    there = stage(server.url, http, **options)
    with pytest.raises(SiteForbids) as caught:
        await there.make().start(there.job(program("")), there.soon())
    assert caught.value.proof
    assert ("of the user ada" if "users" in options else "the site's registration") in caught.value.detail
    assert (tmp_path / "token").read_text() not in caught.value.detail


async def test_users_with_tokens_of_their_own_have_runs_of_their_own(
    server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, marks: Path
) -> None:
    there = stage(server.url, http, token=oidc.options(), users={"ada": oidc.options("ada")})
    hers = await there.started(lasting(marks))
    his = msgspec.structs.replace(there.job(lasting(marks)), owner=Owner("tests", "bob"))
    await there.make().start(his, there.soon())
    held = await there.make().held(there.soon())
    assert {one.session for one in held} == {hers.session, his.session}
    for job in (hers, his):  # of which no more is known than the session
        await there.make().cancel(msgspec.structs.replace(job, owner=Owner("", ""), duration=0.0), there.soon())
        assert (await there.ended(job)).phase == "CANCELLED"


# ── what breaks ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_whose_answer_was_lost_is_found_and_not_begun_again(
    server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, marks: Path
) -> None:
    async with Proxy.before(server.url) as wire:
        there = stage(wire.url, http, token=oidc.options())
        job = there.job(counted(marks))
        stop = wire.cut(b"POST /runs ", Point.ANSWER)
        with pytest.raises(SiteError) as caught:
            await there.make().start(job, there.soon())
        await stop.reached()
        assert not caught.value.proof
        await there.make().start(job, there.soon())
        assert (await there.ended(job)).phase == "COMPLETED"
    assert runs(marks, job) == 1


async def test_a_run_goes_on_when_its_server_is_killed_and_comes_back(
    server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession, marks: Path
) -> None:
    there = stage(server.url, http, token=oidc.options())
    job = await there.started(lasting(marks))
    began = marks / f"{job.session}.began"
    async with asyncio.timeout(PATIENCE):
        while not await asyncio.to_thread(began.exists):
            await some_time()
    await asyncio.to_thread(server.kill)
    with pytest.raises(SiteError) as caught:
        await there.look(job)
    assert caught.value.proof
    (marks / "over").touch()
    await asyncio.to_thread(server.start)
    assert (await there.ended(job)).phase == "COMPLETED"


async def test_of_a_run_that_never_was_nothing_is_handed_out(
    server: SapporoServer, oidc: OidcServer, http: aiohttp.ClientSession
) -> None:
    there = stage(server.url, http, token=oidc.options())
    job = there.job(program(""))
    for call in (there.make().logs, there.make().results):
        with pytest.raises(SiteForgot):
            await call(job, there.soon())
