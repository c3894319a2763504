"""A workflow from a person's folder to its results: real broker, real platform, the reference runner; JSON and XML."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from broker.testing.program import Program, platform
from tests.conftest import want_server

MAIN = """cwlVersion: v1.2
class: Workflow
inputs: {table: File, far: File}
outputs: {counted: {type: File, outputSource: count/counted}}
steps:
  count: {run: count.cwl, in: {table: table, far: far}, out: [counted]}
"""
COUNT = """cwlVersion: v1.2
class: CommandLineTool
requirements: {ResourceRequirement: {coresMin: 2, ramMin: 1500}}
baseCommand: [cat]
inputs:
  table: {type: File, inputBinding: {position: 1}}
  far: {type: File, inputBinding: {position: 2}}
outputs: {counted: {type: stdout}}
stdout: counted.txt
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That the site may read from."""
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "far.txt").write_text("far\n")
    return folder


@pytest.fixture(scope="module")
def program(folder: Path) -> Iterator[Program]:
    settings = platform(folder / "jobs")
    settings["platform"] |= {"cwl_python": str(want_server("cwltool") / "python"), "file_roots": [str(folder)]}
    running = Program(folder, "alba", **settings).start()
    yield running
    running.stop()


async def test_a_workflow_goes_out_with_what_it_needs_and_its_results_come_back(
    run: Any, home: Path, program: Program, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER_URL", program.url)
    (home / "main.cwl").write_text(MAIN)
    (home / "count.cwl").write_text(COUNT)
    (home / "near.txt").write_text("near\n")
    (home / "inputs.yml").write_text("table: {class: File, location: near.txt}\n")
    far = '{"class": "File", "location": "data/far.txt"}'
    url = f"file://{folder}/far.txt"
    words = ["submit", "main.cwl", "inputs.yml", "--param", f"far={far}", "--data", url, "--for", "5m"]
    shown = await run(*words, "--accept", "best", "--max-price", "9", "--watch")
    assert shown.code == 0, shown.out + shown.err
    fetched = await run("fetch", "1", "--to", "results")
    assert fetched.code == 0, fetched.err
    assert (home / "results" / "counted.txt").read_text() == "near\nfar\n"
    offers = json.loads((await run("offers", "--json")).out)["offers"]
    assert offers[0]["compute"]["cores"]["min"] == 2
    assert offers[0]["compute"]["memory"]["min"] == 2
    assert "by the ResourceRequirement of count" in str(offers[0]["meta"]["messages"])


async def test_the_same_in_xml(run: Any, home: Path, program: Program) -> None:
    body = f"""<offers-request>
      <executable kind="uri:workflow-1.0">
        <type>CWL</type><location>count.cwl</location>
        <attachments><file><path>count.cwl</path><source>{COUNT}</source></file></attachments>
        <parameters>
          <entry name="table"><class>File</class><contents>a</contents><basename>a</basename></entry>
          <entry name="n" type="integer">3</entry>
        </parameters>
      </executable>
    </offers-request>"""
    headers = {"Content-Type": "application/xml", "Accept": "application/xml"}
    async with aiohttp.ClientSession() as http, http.post(f"{program.url}/requests", data=body, headers=headers) as got:
        text = await got.text()
    assert got.status == 200, text
    assert '<parameters><entry name="table"><class>File</class>' in text
    assert '<entry name="n" type="integer">3</entry>' in text
    assert "compute.cores: 2, by the ResourceRequirement of count.cwl" in text
