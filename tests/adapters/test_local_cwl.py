"""Workflows in CWL on the local platform, with the reference runner, real supervisors and files."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from adapters.local import translate
from adapters.local.options import LocalOptions
from adapters.local.platform import LocalPlatform
from adapters.planning.planner import PlanningPlanner
from adapters.planning.platform import Job
from adapters.planning.settings import site_settings
from broker.domain import kinds
from broker.domain import offer as broker_offer
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.ports import Sighting
from broker.services.clock import SystemClock
from broker.testing import asks
from broker.testing.memory import MemoryCalendar, MemoryLimits
from tests.conftest import want, want_server

PATIENCE = 60.0  # seconds: a net for what hangs, not a measure

CONCATENATE = """
cwlVersion: v1.2
class: CommandLineTool
baseCommand: [cat]
inputs: {files: {type: "File[]", inputBinding: {position: 1}}}
outputs: {whole: {type: stdout}}
stdout: whole.txt
"""
COUNTED = """
cwlVersion: v1.2
class: Workflow
requirements: {InlineJavascriptRequirement: {}, StepInputExpressionRequirement: {}}
inputs: {parts: "File[]", times: int}
outputs:
  table: {type: File, outputSource: join/whole}
  doubled: {type: int, outputSource: double/number}
steps:
  join: {run: tools/cat.cwl, in: {files: parts}, out: [whole]}
  double:
    in: {number: times}
    out: [number]
    run:
      class: ExpressionTool
      inputs: {number: int}
      outputs: {number: int}
      expression: "${return {number: inputs.number * 2};}"
"""


def a_tool(script: str, **more: Any) -> str:
    """A shell script as a tool without inputs."""
    tool = {"cwlVersion": "v1.2", "class": "CommandLineTool", "baseCommand": ["sh", "-c", script]}
    return json.dumps(tool | {"inputs": [], "outputs": []} | more)


def a_request(main: str, parameters: dict[str, Any] | None = None, **parts: Any) -> ExecutionRequest:
    more = [{"path": path, "source": text} for path, text in parts.pop("files", {}).items()]
    executable = {
        "kind": kinds.WORKFLOW,
        "type": "CWL",
        "location": "main.cwl",
        "attachments": [{"path": "main.cwl", "source": main}, *more],
        "parameters": parameters,
    } | parts.pop("executable", {})
    return ExecutionRequest.model_validate({"executable": executable, **parts})


def a_job(request: ExecutionRequest, duration: float = 60.0) -> Job:
    return Job(uuid4(), "a job", Owner("test", "somebody"), request, 1, 1, 0, {}, duration=duration, start=0.0)


def soon() -> Deadline:
    return Deadline.after(PATIENCE, time.monotonic())


@pytest.fixture
def platform(tmp_path: Path) -> LocalPlatform:
    python = want_server("cwltool") / "python"
    options = LocalOptions(folder=tmp_path / "jobs", cwl_python=python, file_roots=(tmp_path,), grace=0.5, nice=0)
    return LocalPlatform(options, SystemClock())


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := await condition()):  # noqa: ASYNC110  what is awaited happens in other processes
            await asyncio.sleep(0.02)
    return found


async def ended(platform: LocalPlatform, job: Job) -> Sighting:
    async def over() -> Sighting | None:
        seen = (await platform.status([job], soon()))[job.session]
        assert isinstance(seen, Sighting), seen
        return seen if seen.phase in ("COMPLETED", "FAILED", "CANCELLED") else None

    sighting: Sighting = await until(over)
    return sighting


async def ran(platform: LocalPlatform, request: ExecutionRequest) -> tuple[Job, Sighting]:
    job = a_job(request)
    await platform.start(job, soon())
    return job, await ended(platform, job)


async def content(platform: LocalPlatform, job: Job, name: str) -> bytes:
    return b"".join([piece async for piece in platform.fetch(job, name, soon())])


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_workflow_over_staged_data_hands_its_outputs_back(platform: LocalPlatform, tmp_path: Path) -> None:
    want("node", "nodejs")
    (tmp_path / "one.txt").write_text("first\n")
    request = a_request(
        COUNTED,
        {
            "parts": [
                {"class": "File", "location": "data/one"},
                {"class": "File", "location": "tables/two.txt"},
                {"class": "File", "basename": "three", "contents": "third\n"},
            ],
            "times": 21,
        },
        files={"tools/cat.cwl": CONCATENATE, "tables/two.txt": "second\n"},
        data=[{"kind": kinds.SIMPLE_DATA, "meta": {"name": "one"}, "location": f"file://{tmp_path}/one.txt"}],
    )
    profile = await platform.describe(soon())
    assert kinds.WORKFLOW in (profile.executables or ())
    assert profile.workflows == ("CWL v1.0", "CWL v1.1", "CWL v1.2")
    assert platform.refuse(request) == ()
    job, sighting = await ran(platform, request)
    assert sighting.phase == "COMPLETED", sighting.messages
    assert await content(platform, job, "whole.txt") == b"first\nsecond\nthird\n"
    told = json.loads(await content(platform, job, "cwl.output.json"))
    assert told["doubled"] == 42
    assert told["table"]["location"] == "whole.txt"
    assert "path" not in told["table"]
    logs = await platform.logs(job, soon())
    assert "[step join] completed success" in (logs.stderr or "")
    assert json.loads(logs.stdout or "") == told


async def test_a_failed_step_is_told_in_the_runners_and_the_tools_words(platform: LocalPlatform) -> None:
    job, sighting = await ran(platform, a_request(a_tool("echo out of plates >&2; exit 3")))
    assert sighting.phase == "FAILED"
    (message,) = sighting.messages
    assert message.startswith("the workflow ended with exit code 1: ")
    assert message.endswith("exited with status: 3: out of plates")
    assert [result.name for result in await platform.results(job, soon())] == []


async def test_what_the_runner_cannot_do_is_told_in_its_words(platform: LocalPlatform, tmp_path: Path) -> None:
    """33. The document comes by URL, so nobody has read it before."""
    (tmp_path / "tool.cwl").write_text(a_tool("true", requirements={"DockerRequirement": {"dockerPull": "debian"}}))
    request = a_request("", executable={"location": f"file://{tmp_path}/tool.cwl", "attachments": None})
    assert platform.refuse(request) == ()
    _, sighting = await ran(platform, request)
    assert sighting.phase == "FAILED"
    assert "exit code 33" in sighting.messages[0]
    assert "DockerRequirement" in sighting.messages[0]


async def test_documents_that_were_not_attached_are_not_fetched(platform: LocalPlatform) -> None:
    main = {"cwlVersion": "v1.2", "class": "Workflow", "inputs": [], "outputs": []}
    main["steps"] = {"far": {"run": "http://127.0.0.1:9/tool.cwl", "in": {}, "out": []}}  # type: ignore[assignment]
    _, sighting = await ran(platform, a_request(json.dumps(main), executable={"network": True}))
    assert sighting.phase == "FAILED"
    assert "http://127.0.0.1:9/tool.cwl" in sighting.messages[0]


async def test_a_workflow_is_ended_with_all_its_processes(platform: LocalPlatform) -> None:
    job = a_job(a_request(a_tool("echo begun >&2; sleep 600")))
    await platform.start(job, soon())

    async def begun() -> bool:
        return "\nbegun\n" in ((await platform.logs(job, soon())).stderr or "")

    await until(begun)
    await platform.cancel(job, soon())
    assert (await ended(platform, job)).phase == "CANCELLED"


async def test_a_workflow_keeps_to_its_time(platform: LocalPlatform) -> None:
    job = a_job(a_request(a_tool("sleep 600")), duration=2.0)
    await platform.start(job, soon())
    sighting = await ended(platform, job)
    assert sighting.phase == "FAILED"
    assert sighting.messages == ("time limit: workflow did not end within 2 s",)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────

OPTIONS = LocalOptions(folder=Path("/jobs"))
BOXED = a_tool("true", requirements=[{"class": "DockerRequirement", "dockerPull": "debian"}])


@pytest.mark.parametrize(
    ("request_", "element", "nearest"),
    [
        (a_request(a_tool("true"), executable={"type": "NFL"}), "executable.type", "CWL"),
        (a_request(a_tool("true"), executable={"type": None}), "executable.type", "CWL"),
        (a_request(a_tool("true"), executable={"version": "v2.0"}), "executable.version", "v1.0, v1.1, v1.2"),
        (a_request(a_tool("true", cwlVersion="draft-3")), "executable.version", "v1.0, v1.1, v1.2"),
        (a_request(a_tool("true"), executable={"engine": "toil"}), "executable.engine", "cwltool"),
        (a_request(a_tool("true"), executable={"location": "other.cwl"}), "executable.location", "main.cwl"),
        (a_request(a_tool("true"), executable={"location": None}), "executable.location", "the path of an attachment"),
        (a_request(BOXED), "executable.attachments", "DockerRequirement among the hints"),
        (
            a_request("", executable={"location": "ftp://x.example/a.cwl"}),
            "executable.location",
            "http, https, data",
        ),
        (
            a_request(a_tool("true"), {"f": {"class": "File", "location": "http://x.example/a"}}),
            "executable.parameters.f",
            "a data resource of that address, and data/<its name> here",
        ),
    ],
)
def test_what_cannot_run_is_named_with_the_nearest_that_can(
    request_: ExecutionRequest, element: str, nearest: str
) -> None:
    (reason,) = translate.refuse(request_, OPTIONS)
    assert (reason.element, reason.nearest) == (element, nearest)


def test_too_much_text_is_refused() -> None:
    (reason,) = translate.refuse(a_request(a_tool("true")), LocalOptions(folder=Path("/jobs"), max_source_bytes=10))
    assert reason.element == "executable.attachments"


def test_nothing_is_mounted_over_a_workflows_files() -> None:
    volume = {"kind": kinds.SIMPLE_VOLUME, "path": "/tools", "resource": "scratch"}
    request = a_request(
        a_tool("true"),
        files={"tools/cat.cwl": CONCATENATE},
        storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}],
        compute={"kind": kinds.SIMPLE_COMPUTE, "volumes": [volume]},
    )
    (reason,) = translate.refuse(request, OPTIONS)
    assert reason.element == "compute.volumes[0].path"


async def test_without_the_runner_workflows_are_refused(tmp_path: Path) -> None:
    platform = LocalPlatform(LocalOptions(folder=tmp_path), SystemClock())
    profile = await platform.describe(soon())
    if kinds.WORKFLOW in (profile.executables or ()):
        pytest.skip("cwltool is installed beside the broker here")
    assert profile.workflows == ()
    (reason,) = platform.refuse(a_request(a_tool("true")))
    assert str(reason) == "executable.kind: cwltool is not installed here"


def test_a_workflow_that_asks_for_the_network_gets_it() -> None:
    """By the standard's own NetworkAccess, or by the request."""
    asks = a_request(a_tool("true", requirements={"NetworkAccess": {"networkAccess": True}}))
    for request, network in ((asks, True), (a_request(a_tool("true")), False)):
        assert translate.spec(a_job(request), OPTIONS).network is network
    shut = LocalOptions(folder=Path("/jobs"), isolation="bwrap", network=False)
    (reason,) = translate.refuse(asks, shut)
    assert (reason.element, reason.rule) == ("executable.network", "network")


# ── from the question to the result ──────────────────────────────────────────────────────────────────────────────


async def test_an_offer_says_what_the_documents_asked_and_is_run_by_it(platform: LocalPlatform) -> None:
    settings, clock = site_settings({"capacity": {"cores": 4, "memory": 8, "storage": 10}}), SystemClock()
    planner = PlanningPlanner(platform, MemoryCalendar(), MemoryLimits(clock), clock, settings, "here", "EUR")
    tool = a_tool("echo done > out.txt", requirements={"ResourceRequirement": {"coresMin": 3, "outdirMin": 2000}})
    tool = json.dumps(json.loads(tool) | {"outputs": {"o": {"type": "File", "outputBinding": {"glob": "out.txt"}}}})
    asked = asks.ask(clock, within=PATIENCE, **a_request(tool, compute={"kind": kinds.SIMPLE_COMPUTE}).to_wire())
    answer = await planner.quote(asked)
    assert answer.quotes, answer.reasons
    offer = broker_offer.read(answer.quotes[0], broker_offer.Reading("here", ours=True, margin=0.0), time.time())
    assert isinstance(offer, broker_offer.Offer), offer
    assert offer.repairs == ()
    assert broker_offer.unfit(offer, broker_offer.Needs.of(asked.request)) == (None, ())
    document = json.loads(answer.quotes[0].body)
    assert document["compute"]["cores"] == {"min": 3, "max": 3}
    assert document["storage"][0]["size"]["min"] == 2
    assert "here: compute.cores: 3, by the ResourceRequirement of main.cwl" in str(document["meta"]["messages"])
    order = asks.order(answer.quotes[0], set=asked.set)
    await planner.accept(order, soon())

    async def over() -> bool:
        seen = (await planner.status([order], soon()))[order.session]
        assert isinstance(seen, Sighting), seen
        assert seen.phase != "FAILED", seen.messages
        return seen.phase == "COMPLETED"

    await until(over)
    names = [result.name for result in await planner.results(order, soon())]
    assert names == ["cwl.output.json", "out.txt"]
