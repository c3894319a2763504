"""The kind `wes` against a real toil: WES 1.0, which lists runs without their tags and leaves outputs as files.

A run takes some seconds whatever it does, so all are under way at once, and the tests look at what came of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from adapters.local.options import LocalOptions
from adapters.local.platform import LocalPlatform
from adapters.planning.contract import Stage
from adapters.planning.platform import Job
from broker.domain.session import TERMINAL
from broker.ports import Held, Logs, Sighting
from broker.testing.planner_contract import PATIENCE
from broker.testing.resources import shared_http
from broker.testing.wes_servers import ToilServer
from tests.adapters.wes_stage import (
    CLOCK,
    datum,
    lasting,
    logs,
    program,
    results,
    served,
    some_time,
    stage,
    workflow,
)
from tests.conftest import want_server

SURVEY = b"ra,dec,flux\n1.5,2.5,3\n4.5,5.5,6\n"

# What is written depends on everything that a program is told, but for where it runs.
ANALYSIS = """
import csv, hashlib, os, pathlib, sys
rows = list(csv.DictReader(open("data/survey.csv")))
folder = pathlib.Path(os.environ["BROKER_RESULTS"])
assert folder.samefile("results") and pathlib.Path(os.environ["BROKER_DATA_SURVEY_CSV"]).samefile("data/survey.csv")
(folder / "plots").mkdir()
(folder / "sum.txt").write_text(str(sum(float(row["flux"]) for row in rows)))
told = [os.environ[name] for name in ("BROKER_CORES", "BROKER_MEMORY", "OMP_NUM_THREADS", "UNIT")]
(folder / "plots" / "told.txt").write_text("|".join([*told, *sys.argv[1:]]))
os.symlink("/etc/passwd", folder / "link")
print("summed", len(rows), "rows")
print("no trouble", file=sys.stderr)
"""

TWO_STEPS = """
cwlVersion: v1.2
class: Workflow
inputs: {word: string, survey: File}
outputs:
  said: {type: File, outputSource: last/said}
steps:
  first:
    in: {word: word}
    out: [said]
    run:
      class: CommandLineTool
      baseCommand: [echo]
      inputs: {word: {type: string, inputBinding: {position: 1}}}
      outputs: {said: stdout}
      stdout: first.txt
  last:
    in: {one: first/said, two: survey}
    out: [said]
    run:
      class: CommandLineTool
      baseCommand: [cat]
      inputs:
        one: {type: File, inputBinding: {position: 1}}
        two: {type: File, inputBinding: {position: 2}}
      outputs: {said: stdout}
      stdout: said.txt
"""


class End(NamedTuple):
    """What came of a run, and all that was said of it on the way."""

    seen: Sighting
    said: frozenset[str]
    results: dict[str, bytes]
    logs: Logs


class Ends(NamedTuple):
    runs: dict[str, End]
    held: tuple[Held, ...]  # while all were under way
    sessions: frozenset[str]
    lasting: str  # the one that does not end by itself
    again: Sighting  # of the first, by a process that knows nothing


def analysis(url: str) -> dict[str, Any]:
    return program(ANALYSIS, datum("survey.csv", url), arguments=["a $(b)", "ö"], environment={"UNIT": "Jy ${x}"})


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "of-2026.csv").write_bytes(SURVEY)
    with served(folder) as url:
        yield f"{url}/of-2026.csv"


@pytest.fixture(scope="module")
def ends(survey: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    home, marks = want_server("toil"), tmp_path_factory.mktemp("marks")
    with ToilServer(home, tmp_path_factory.mktemp("toil")) as server:
        yield asyncio.run(all_ends(server, survey, marks))
    (marks / "over").touch()


async def all_ends(server: ToilServer, survey: str, marks: Path) -> Ends:
    place = {"class": "File", "location": "data/survey.csv"}
    requests = {
        "analysis": analysis(survey),
        "failing": program("print('on the way'); raise ValueError('the sky is not blue')"),
        "workflow": workflow(TWO_STEPS, datum("survey.csv", survey), parameters={"word": "hello", "survey": place}),
        "bad input": workflow(TWO_STEPS, parameters={"word": "hello"}),
        "cancelled": lasting(marks),
    }
    async with shared_http() as http:
        there = stage(server.url, http, "us", outputs=[str(server.folder / "runs")])
        jobs = {name: await there.started(request) for name, request in requests.items()}
        held = await there.make().held(there.soon())
        seen = await asyncio.gather(*(follow(there, name, job, marks) for name, job in jobs.items()))
        fresh = stage(server.url, http, "us")
        again = await fresh.look(jobs["analysis"])
        sessions = {name: str(job.session) for name, job in jobs.items()}
        runs = dict(zip(jobs, seen, strict=True))
        return Ends(runs, held, frozenset(sessions.values()), sessions["cancelled"], again)


async def follow(there: Stage, name: str, job: Job, marks: Path) -> End:
    """To its end; of the run that does not end by itself, once it has begun."""
    said: set[str] = set()
    began = marks / f"{job.session}.began"
    async with asyncio.timeout(2 * PATIENCE):
        while (seen := await there.look(job)).phase not in TERMINAL:
            said.update(seen.messages)
            if began.exists():
                await there.make().cancel(job, there.soon())
            await some_time()
    return End(seen, frozenset(said), await results(there, job), await logs(there, job))


def test_a_program_leaves_what_it_leaves_on_this_machine_to_the_byte(ends: Ends, survey: str, tmp_path: Path) -> None:
    options = LocalOptions(folder=tmp_path / "jobs", isolation="none", grace=0.5, nice=0)

    async def here() -> tuple[dict[str, bytes], Logs]:
        local = Stage(lambda: LocalPlatform(options, CLOCK), CLOCK, {}, {})
        job = await local.started(analysis(survey))
        assert (await local.ended(job)).phase == "COMPLETED"
        return await results(local, job), await logs(local, job)

    found = ends.runs["analysis"]
    assert found.seen.phase == "COMPLETED", found
    assert (found.results, found.logs) == asyncio.run(here())
    assert found.results == {"sum.txt": b"9.0", "plots/told.txt": b"1|1073741824|1|Jy ${x}|a $(b)|" + "ö".encode()}


def test_a_run_says_when_it_was_and_what_the_server_calls_it(ends: Ends) -> None:
    seen = ends.runs["analysis"].seen
    assert seen.began is not None
    assert seen.ended is not None
    assert CLOCK.now() - 600 < seen.began < seen.ended < CLOCK.now()
    assert seen.native is not None
    assert seen.native.startswith("run-")


def test_a_process_that_has_just_begun_finds_runs_whose_tags_are_not_listed(ends: Ends) -> None:
    assert ends.again == ends.runs["analysis"].seen
    held = {one.handle for one in ends.held}
    assert ends.lasting in held <= ends.sessions  # the others may be over already


def test_a_program_that_fails_is_told_in_its_own_words(ends: Ends) -> None:
    found = ends.runs["failing"]
    assert found.seen.phase == "FAILED"
    assert "the program ended with exit code 1" in found.seen.messages
    assert found.seen.messages[-1] == "ValueError: the sky is not blue"
    assert found.logs.stdout == "on the way\n"
    assert found.results == {}


def test_a_workflow_hands_back_its_outputs_and_shows_its_steps(ends: Ends) -> None:
    found = ends.runs["workflow"]
    assert found.seen.phase == "COMPLETED", found
    assert found.results == {"said.txt": b"hello\n" + SURVEY}
    assert any("last" in line and "exit code 0" in line for line in found.said), found.said


def test_inputs_that_do_not_fit_are_told_in_the_engines_words(ends: Ends) -> None:
    found = ends.runs["bad input"]
    assert found.seen.phase == "FAILED"
    assert any("Missing required input parameter 'survey'" in line for line in found.seen.messages)
    assert not any('File "' in line for line in found.seen.messages)


def test_a_run_that_is_cancelled_ends(ends: Ends) -> None:
    assert ends.runs["cancelled"].seen.phase == "CANCELLED"
