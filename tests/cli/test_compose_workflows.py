"""A workflow of this machine becomes a whole request: what it refers to goes along, and every slip is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.client import workflows
from broker.client.compose import Options, compose
from broker.client.errors import BadRequestFile
from broker.domain import kinds
from broker.domain.executables import Workflow
from broker.errors import BadInput

MAIN = """cwlVersion: v1.2
class: Workflow
inputs: {n: int, cube: File}
outputs: []
steps:
  fit:
    run: tools/fit.cwl
    in: {n: n}
    out: []
"""
FIT = """class: CommandLineTool
requirements: {InlineJavascriptRequirement: {expressionLib: [{$include: ../lib/help.js}]}}
inputs:
  table: {type: File, default: {class: File, location: table.csv}}
  far: {type: File, default: {class: File, location: "https://x.example/far"}}
outputs: []
"""


def written(home: Path, **files: str) -> None:
    """`files` by path, `__` for a slash, `_` for a dot."""
    for name, text in files.items():
        path = home / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def flow(home: Path) -> Path:
    written(home, main_cwl=MAIN, tools__fit_cwl=FIT, tools__table_csv="a,b\n", lib__help_js="1;")
    return home


def composed(what: Any, options: Options = Options()) -> tuple[Workflow, dict[str, Any]]:  # noqa: B008  it is frozen
    request = compose(what, options).request
    assert isinstance(request.executable, Workflow)
    return request.executable, request.to_wire()


def test_a_document_goes_along_with_all_that_it_refers_to(flow: Path) -> None:
    executable, _ = composed("main.cwl")
    assert (executable.type, executable.version, executable.location) == ("CWL", "v1.2", "main.cwl")
    assert executable.name == "main"
    assert [(item.path, item.source) for item in executable.attachments or ()] == [
        ("main.cwl", MAIN),
        ("tools/fit.cwl", FIT),
        ("lib/help.js", "1;"),
        ("tools/table.csv", "a,b\n"),
    ]


def test_what_lies_above_the_main_document_keeps_its_place_beside_it(flow: Path) -> None:
    executable, _ = composed("tools/fit.cwl")
    assert executable.location == "tools/fit.cwl"
    assert {item.path for item in executable.attachments or ()} == {"tools/fit.cwl", "lib/help.js", "tools/table.csv"}


def test_inputs_come_from_a_file_and_single_ones_by_name(flow: Path) -> None:
    written(flow, runs__in_yml="n: 3\nwords: [a, b]\n")
    executable, _ = composed("main.cwl", Options(inputs="runs/in.yml", parameters={"n": 4, "x": True}))
    assert executable.parameters == {"n": 4, "words": ["a", "b"], "x": True}
    assert workflows.parameters(["n=4", "x=true", "word=a=b", 's="1"', "e=", "nan=NaN"]) == {
        "n": 4, "x": True, "word": "a=b", "s": "1", "e": "", "nan": "NaN",
    }  # fmt: skip
    with pytest.raises(BadInput, match="NAME=VALUE"):
        workflows.parameters(["n"])


def test_files_among_the_inputs_are_staged_or_go_along(flow: Path) -> None:
    (flow / "runs").mkdir()
    (flow / "runs" / "small.txt").write_text("few")
    (flow / "small.txt").write_text("other")
    (flow / "runs" / "cube.fits").write_bytes(b"\xff\x00")
    files = {
        "named": "data/survey.fits",
        "again": "https://x.example/survey.fits",
        "far": "https://x.example/far/survey.fits?k=1",
        "rucio": "rucio:SCOPE:NAME",
        "near": "small.txt",
        "above": "../small.txt",
        "odd": "cube.fits",
        "twice": "../tools/table.csv",
    }
    inputs = {name: {"class": "File", "path" if name == "odd" else "location": at} for name, at in files.items()}
    (flow / "runs" / "in.json").write_text(json.dumps(inputs))
    options = Options(inputs="runs/in.json", data=["https://x.example/survey.fits"])
    executable, wire = composed("main.cwl", options)
    places = {name: item["location"] for name, item in (executable.parameters or {}).items()}
    assert places == {
        "named": "data/survey.fits",
        "again": "data/survey.fits",
        "far": "data/2-survey.fits",
        "rucio": "data/NAME",
        "near": "inputs/small.txt",
        "above": "inputs/2-small.txt",
        "odd": "inputs/cube.fits",
        "twice": "inputs/table.csv",
    }
    attached = {item.path: item.source or item.location for item in executable.attachments or ()}
    assert attached["inputs/table.csv"] == attached["tools/table.csv"] == "a,b\n"
    assert attached["inputs/small.txt"] == "few"
    assert attached["inputs/2-small.txt"] == "other"
    assert attached["inputs/cube.fits"] == "data:application/octet-stream;base64,/wA="
    assert [(item["meta"]["name"], item["kind"]) for item in wire["data"]] == [
        ("survey.fits", kinds.SIMPLE_DATA),
        ("2-survey.fits", kinds.SIMPLE_DATA),
        ("NAME", kinds.RUCIO_DATA),
    ]


def test_a_requests_file_names_its_workflow_as_it_names_a_program(flow: Path) -> None:
    written(
        flow,
        r_yaml="executable: {kind: workflow, location: main.cwl#fit, parameters: {t: {class: File, path: in.txt}}}\n",
        in_txt="1",
    )
    executable, _ = composed("r.yaml")
    assert executable.location == "main.cwl#fit"
    assert (executable.attachments or ())[-1].path == "inputs/in.txt"
    by_url = {"executable": {"kind": "workflow", "type": "CWL", "location": "https://x.example/main.cwl"}}
    assert composed(by_url)[0].attachments is None
    written(flow, b_nf="process fit {}")
    assert composed({"executable": {"kind": "workflow", "location": "b.nf"}})[0].type is None
    whole = {
        "kind": "workflow",
        "type": "NFL",
        "location": "main.nf",
        "attachments": [{"path": "main.nf", "source": "x"}],
    }
    assert composed({"executable": whole})[0].attachments[0].source == "x"  # type: ignore[index]


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({"tools__fit_cwl": None}, 'main.cwl:7 steps.fit.run "tools/fit.cwl": no such file.'),
        (
            {"lib__help_js": None},
            'tools/fit.cwl:2 requirements.InlineJavascriptRequirement.expressionLib[0].$include "../lib/help.js": '
            "no such file.",
        ),
        ({"main_cwl": "a: [\n"}, "main.cwl:2: not YAML: "),
        ({"in_yml": "cube: {class: File, location: none.fits}\n"}, 'in.yml:1 cube "none.fits": no such file.'),
        (
            {"in_yml": "a: 1\nall: {class: Directory, path: tools}\n"},
            'in.yml:2 all "tools": a folder does not go along. Name its files.',
        ),
        ({"in_yml": "- 1\n"}, "in.yml: an object of names and values is wanted."),
        (
            {"in_yml": "c: {class: File, path: big}\n", "big": "x" * (workflows.LARGEST + 1)},
            'in.yml:1 c "big": more than 512 KiB or 200 files would go along. Name large files by URL',
        ),
        ({"in_yml": "c: {class: File, path: 'rucio:half'}\n"}, '"rucio:half" is no Rucio name.'),
    ],
)
def test_a_slip_is_one_line(flow: Path, files: dict[str, str | None], line: str) -> None:
    written(flow, **{name: text for name, text in ({"in_yml": "{}\n"} | files).items() if text is not None})
    for name in [name for name, text in files.items() if text is None]:
        (flow / name.replace("__", "/").replace("_", ".")).unlink()
    with pytest.raises(BadInput) as caught:
        compose("main.cwl", Options(inputs="in.yml"))
    assert str(caught.value).replace(f"{flow}/", "").startswith(line)


def test_a_document_that_is_not_there_is_told(home: Path) -> None:
    with pytest.raises(BadRequestFile, match=r'executable.location ".*": no such file.'):
        compose("none.cwl", Options())


def test_inputs_are_for_workflows(home: Path) -> None:
    written(home, fit_py="1")
    with pytest.raises(BadInput, match="inputs are for a workflow"):
        compose("fit.py", Options(parameters={"n": 1}))
    written(home, main_cwl="class: CommandLineTool\n")
    with pytest.raises(BadInput, match="arguments are for a Python program"):
        compose("main.cwl", Options(arguments=["-v"]))


def test_the_network_is_asked_for_by_what_can_ask(flow: Path) -> None:
    assert composed("main.cwl", Options(network=True))[0].network is True
    container = {"executable": {"kind": "docker-container", "image": {"locations": ["x"]}}}
    with pytest.raises(BadInput, match="asked for by programs, notebooks and workflows"):
        compose(container, Options(network=True))


def test_each_row_of_a_table_fills_the_inputs_and_not_the_documents(flow: Path) -> None:
    written(flow, main_cwl=MAIN + "doc: '{n}'\n")
    executable, _ = composed("main.cwl", Options(parameters={"n": "{n}"}, row={"n": "m31"}))
    assert executable.parameters == {"n": "m31"}
    assert "doc: '{n}'" in ((executable.attachments or ())[0].source or "")
    assert executable.name == "main-m31"
