"""Runs of containers on real engines, and all their ends: Podman and Docker."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tarfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from adapters.containers import marks
from adapters.planning.contract import Stage
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.errors import SiteUnreachable
from broker.ports import Sighting
from broker.testing.container_engines import Engine, docker, podman
from broker.testing.planner_contract import PATIENCE
from tests.adapters.container_sites import ANSWER, CLOCK, LASTING, ONE, Sites, container, program, sites, want_engine

CUBE = bytes(range(256)) * 5000
SUM = hashlib.sha256(CUBE).hexdigest()


@pytest.fixture(scope="module", params=["podman", pytest.param("docker", marks=pytest.mark.faults)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    want_engine(request.param)
    with {"podman": podman, "docker": docker}[request.param](tmp_path_factory.mktemp(request.param)) as engine:
        yield engine


alike = pytest.mark.parametrize("engine", ["podman"], indirect=True)  # what no engine does in its own way


@pytest.fixture
async def here(engine: Engine) -> AsyncIterator[Sites]:
    async with sites(engine) as here:
        yield here


def data(name: str, url: str, **block: Any) -> dict[str, Any]:
    replicas = [{"rsename": "A", "dataurl": url}]
    return {"kind": kinds.SKAO_DATA, "meta": {"name": name}, "skao": {"replicas": replicas, **block}}


def mounted(request: dict[str, Any], **volumes: tuple[str, str]) -> dict[str, Any]:
    """`resource=(path, mode)`."""
    listed = [
        {"kind": kinds.SIMPLE_VOLUME, "path": path, "mode": mode, "resource": resource}
        for resource, (path, mode) in volumes.items()
    ]
    return {**request, "compute": {**ONE, "volumes": listed}}


class Archive:
    """Serves the cube; `held`: nothing comes until it is let go."""

    def __init__(self) -> None:
        self.asked, self.held = 0, asyncio.Event()
        self.held.set()
        self.url = ""

    async def serve(self, request: web.Request) -> web.Response:
        self.asked += 1
        await self.held.wait()
        return web.Response(body=CUBE)


@asynccontextmanager
async def archive() -> AsyncIterator[Archive]:
    served, app = Archive(), web.Application()
    app.router.add_get("/cube", served.serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}/cube"
    try:
        yield served
    finally:
        served.held.set()
        await runner.cleanup()


async def run(here: Sites, request: dict[str, Any], **options: Any) -> tuple[Stage, Job, Sighting]:
    stage = here.stage(request, request, **options)
    job = await stage.started(request)
    return stage, job, await stage.ended(job)


async def until(stage: Stage, job: Job, phase: str) -> Sighting:
    async with asyncio.timeout(PATIENCE):
        while (seen := await stage.look(job)).phase != phase:
            await stage.pass_time()
    return seen


async def files(stage: Stage, job: Job) -> dict[str, bytes]:
    platform = stage.make()
    listed = [file.name for file in await platform.results(job, stage.soon())]
    return {name: b"".join([piece async for piece in platform.fetch(job, name, stage.soon())]) for name in listed}


def lives(pid: int) -> bool:
    """More than as an entry that nobody has reaped."""
    return Path(f"/proc/{pid}/exe").is_symlink() and bool(Path(f"/proc/{pid}/maps").read_bytes())


def inspected(here: Sites, job: Job) -> tuple[int, dict[str, Any]]:
    status, found = here.engine.call("GET", f"/containers/{marks.name('broker', job.session)}/json")
    return status, found


# ── what a run has, and leaves ───────────────────────────────────────────────────────────────────────────────


READ = """
import hashlib, json, os, sys
from pathlib import Path
cube = Path("data/cube")
told = {name: value for name, value in os.environ.items() if name.startswith("BROKER_")}
shown = {
    "sum": hashlib.sha256(cube.read_bytes()).hexdigest(),
    "same": Path(os.environ["BROKER_DATA_CUBE"]).samefile(cube) and Path("in/deep").samefile(cube),
    "told": sorted(told), "cwd": os.getcwd(), "arguments": sys.argv[1:], "mine": os.environ["MINE"],
}
Path("scratch/x").write_text("scratch")
Path("results/deep").mkdir()
Path("results/deep/shown.json").write_text(json.dumps(shown))
Path("results/é\\n").write_text("odd")
os.symlink("/etc/passwd", "results/passwd")
os.link("results/deep/shown.json", "results/hard")
print("out"); print("err", file=sys.stderr)
"""


async def test_a_program_finds_its_data_and_leaves_results_and_logs(here: Sites) -> None:
    async with archive() as served:
        checksum = {"type": "SHA-256", "value": SUM}
        storage = [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}]
        request = program(READ, data=[data("cube", served.url, checksum=checksum)], storage=storage)
        request["executable"] |= {"arguments": ["a b", "$c"], "environment": {"MINE": "ä=b", "BROKER_CORES": "9"}}
        request = mounted(request, cube=("/in/deep", "READONLY"), scratch=("scratch", "READWRITE"))
        stage, job, seen = await run(here, request)
    assert seen.phase == "COMPLETED", seen
    found = await files(stage, job)
    assert sorted(found) == ["deep/shown.json", "hard", "é\n"]
    shown = json.loads(found["deep/shown.json"])
    assert found["hard"] == found["deep/shown.json"]
    assert (shown["sum"], shown["same"], shown["cwd"]) == (SUM, True, "/broker")
    assert (shown["arguments"], shown["mine"]) == (["a b", "$c"], "ä=b")
    assert {
        "BROKER_DATA",
        "BROKER_DATA_CUBE",
        "BROKER_RESULTS",
        "BROKER_SESSION",
        "BROKER_CORES",
        "BROKER_MEMORY",
    } < set(shown["told"])
    logs = await stage.make().logs(job, stage.soon())
    assert (logs.stdout, logs.stderr) == ("out\n", "err\n")
    assert here.left() == []  # no marks are left of a run that went its way


@alike
async def test_a_container_finds_its_volumes_where_it_asked_for_them(here: Sites) -> None:
    async with archive() as served:
        script = 'wc -c <"$BROKER_VOLUME_IN_CUBE"; cmp /in/cube "$BROKER_DATA_CUBE" && echo 1 >"$BROKER_RESULTS/same"'
        request = container(script, entrypoint="/bin/sh") | {"data": [data("cube", served.url)]}
        request["executable"]["command"] = ["-c", script]
        stage, job, seen = await run(here, mounted(request, cube=("/in/cube", "READONLY")))
    assert seen.phase == "COMPLETED", seen
    assert await files(stage, job) == {"same": b"1\n"}
    assert (await stage.make().logs(job, stage.soon())).stdout == f"{len(CUBE)}\n"


async def test_a_container_has_no_more_rights_than_it_is_given(here: Sites) -> None:
    stage, job, _ = await run(
        here, container("sh", "-c", "grep -E '^(Cap|NoNew)' /proc/self/status; id -u"), user="65534"
    )
    lines = ((await stage.make().logs(job, stage.soon())).stdout or "").split()
    assert lines[1::2][:5] == ["0" * 16] * 5
    assert lines[-3:] == ["NoNewPrivs:", "1", "65534"]
    host = inspected(here, job)[1]["HostConfig"]
    assert (host["Privileged"], host["Memory"], host["MemorySwap"]) == (False, 1024**3, 1024**3)
    assert host["PidsLimit"] == 1000


@alike
async def test_docker_compose_would_list_it_as_its_own(here: Sites) -> None:
    _, job, _ = await run(here, container("true"))
    labels = inspected(here, job)[1]["Config"]["Labels"]
    shown = {key.rpartition(".")[2]: value for key, value in labels.items() if key.startswith("com.docker.compose.")}
    assert shown.pop("config-hash")
    assert shown == {"project": "broker", "service": str(job.session), "container-number": "1", "oneoff": "False"}


# ── how it can end ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (program("import sys; sys.exit(3)"), "exit 3"),
        (program("x = bytearray(3 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1"), "ran out of memory; 1 GiB"),
        (container("no-such-command"), "no-such-command"),
        (container("sh", "-c", "exit 139"), "SIGSEGV"),
        (program("import subprocess\n[subprocess.Popen(['sleep', '9']) for _ in range(40)]"), "exit 1"),
    ],
    ids=["exit", "memory", "command", "signal", "processes"],
)
async def test_a_run_that_goes_wrong_says_how(here: Sites, request_: dict[str, Any], words: str) -> None:
    _, _, seen = await run(here, request_, pids=20)
    assert seen.phase == "FAILED"
    assert words in " ".join(seen.messages)


@alike
async def test_its_time_limit_ends_it(here: Sites) -> None:
    stage = here.stage(LASTING, LASTING)
    job = msgspec.structs.replace(stage.job(LASTING), duration=1.0)
    await stage.make().start(job, stage.soon())
    seen = await stage.ended(job)
    assert seen.phase == "FAILED"
    assert "it was ended after its time limit, 1 s" in seen.messages[0]


async def test_what_ignores_its_signal_is_killed(here: Sites) -> None:
    deaf = program("import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(1)\ntime.sleep(600)")
    stage = here.stage(deaf, deaf)
    job = await stage.started(deaf)
    await until(stage, job, "RUNNING")
    pid = inspected(here, job)[1]["State"]["Pid"]
    await stage.make().cancel(job, stage.soon())
    assert (await stage.ended(job)).phase == "CANCELLED"
    assert not lives(pid)
    assert inspected(here, job)[1]["State"]["ExitCode"] in (137, 143)


async def test_what_is_cancelled_while_its_data_comes_never_runs(here: Sites) -> None:
    async with archive() as served:
        served.held.clear()
        request = program(ANSWER, data=[data("cube", served.url)])
        stage = here.stage(request, request)
        job = await stage.started(request)
        async with asyncio.timeout(PATIENCE):
            while not served.asked:
                await stage.pass_time()
        assert (await stage.make().cancel(job, stage.soon())).phase == "CANCELLED"
        served.held.set()
        assert (await stage.ended(job)).phase == "CANCELLED"
    assert here.ran(job) == 0
    async with asyncio.timeout(PATIENCE):
        while inspected(here, job)[0] != 404:
            await stage.pass_time()
    assert here.left() == [marks.end_name("broker", job.session)]


@alike
@pytest.mark.parametrize("stated", [{"checksum": {"type": "md5", "value": "0" * 32}}, {"datasize": 7}])
async def test_data_that_is_not_what_was_stated_ends_it(here: Sites, stated: dict[str, Any]) -> None:
    async with archive() as served:
        _, job, seen = await run(here, program(ANSWER, data=[data("cube", served.url, **stated)]))
    assert seen.phase == "FAILED"
    assert "stated" in seen.messages[0]
    assert here.ran(job) == 0


@alike
async def test_an_image_that_is_not_there_ends_it_where_none_is_pulled(here: Sites) -> None:
    request = container("true")
    request["executable"]["image"] = {"locations": ["localhost/broker/none:1", "localhost/broker/no:2"]}
    _, _, seen = await run(here, request, pull="never")
    assert seen.phase == "FAILED"
    assert "localhost/broker/no:2 is not on the engine, and this site pulls none" in seen.messages[0]


@alike
async def test_an_image_for_another_processor_is_not_run(here: Sites) -> None:
    request = container("true")
    request["executable"]["image"]["platform"] = {"architecture": "arm64"}
    _, _, seen = await run(here, request, pull="never", architectures=["arm64"])
    assert seen.phase == "FAILED"
    assert "is for amd64, and not for arm64" in seen.messages[0]


# ── what outlives what ───────────────────────────────────────────────────────────────────────────────────────


async def test_an_engine_that_is_killed_and_started_again_has_its_runs(here: Sites, tmp_path: Path) -> None:
    request = container("sh", "-c", "while [ ! -e /broker/over ]; do sleep 0.1; done; exit 9")
    stage = here.stage(request, request)
    job = await stage.started(request)
    await until(stage, job, "RUNNING")
    here.engine.kill()
    with pytest.raises(SiteUnreachable):
        await stage.make().status([job], stage.soon())
    here.engine.start()
    assert (await stage.look(job)).phase == "RUNNING"
    over = tmp_path / "over.tar"
    with tarfile.open(over, "w") as tar:
        tar.addfile(tarfile.TarInfo("over"))
    here.engine.call("PUT", f"/containers/{marks.name('broker', job.session)}/archive?path=/broker", over)
    seen = await stage.ended(job)
    assert (seen.phase, seen.messages) == ("FAILED", ("exit 9",))
    assert here.ran(job) <= 1


@alike
async def test_another_process_goes_on_with_what_one_was_preparing(here: Sites) -> None:
    async with archive() as served:
        served.held.clear()
        request = program(ANSWER, data=[data("cube", served.url)])
        stage = here.stage(request, request)
        job, first = stage.job(request), here.platform()
        assert (await first.start(job, stage.soon())).phase == "PREPARING"
        async with asyncio.timeout(PATIENCE):
            while not served.asked:
                await stage.pass_time()
        await first.close()
        served.held.set()
        assert (await stage.ended(job)).phase == "COMPLETED"
    assert served.asked == 2
    assert here.ran(job) == 1


@alike
async def test_what_somebody_removes_is_not_run_again(here: Sites) -> None:
    stage, job, _ = await run(here, program(ANSWER))
    here.engine.call("DELETE", f"/containers/{marks.name('broker', job.session)}?force=true")
    seen = (await stage.make().status([job], stage.soon()))[job.session]
    assert not isinstance(seen, Sighting)
    assert here.ran(job) == 1


@alike
async def test_two_sites_of_an_engine_do_not_see_each_other(here: Sites) -> None:
    stage = here.stage(LASTING, LASTING)
    job = await stage.started(LASTING)
    async with sites(here.engine) as other:
        assert await other.platform().held(stage.soon()) == ()
        assert [one.session for one in await here.platform().held(stage.soon())] == [job.session]


@alike
async def test_what_has_ended_long_ago_is_removed(here: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    request = container("true")
    stage, job, _ = await run(here, request)
    over = await here.platform().cancel(cancelled := stage.job(request), stage.soon())
    assert over.phase == "CANCELLED"
    monkeypatch.setattr("adapters.containers.client.http_date", lambda _: CLOCK.now() + 8 * 86400.0)
    async with asyncio.timeout(PATIENCE):
        while inspected(here, job)[0] != 404 or here.left():
            await stage.make().status([job, cancelled], stage.soon())
            await stage.pass_time()
