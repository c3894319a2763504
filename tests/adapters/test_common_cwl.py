"""What a CWL document asks, read without running it; what is wrong with a workflow's files on any platform."""

from __future__ import annotations

import json
from typing import Any

import pytest

from adapters.common import cwl, workflows
from adapters.common.cwl import Amount, Reading
from broker.domain import kinds
from broker.domain.executables import Workflow


def a_workflow(main: Any = None, *, location: str = "main.cwl", **files: Any) -> Workflow:
    """Documents are written as JSON, texts as they are. `files` by path, `__` for a slash, `_` for a dot."""
    named = {"main.cwl": main} | {path.replace("__", "/").replace("_", "."): text for path, text in files.items()}
    attachments = [
        {"path": path, "source": text if isinstance(text, str) else json.dumps(text)}
        for path, text in named.items()
        if text is not None
    ]
    wire = {"kind": kinds.WORKFLOW, "type": "CWL", "location": location, "attachments": attachments}
    return Workflow.model_validate(wire)


def read(main: Any, **files: Any) -> Reading:
    return cwl.read(a_workflow(main, **files))


def a_tool(**asked: Any) -> dict[str, Any]:
    requirements = {"ResourceRequirement": asked} if asked else {}
    return {"class": "CommandLineTool", "requirements": requirements, "inputs": [], "outputs": []}


def steps(*runs: Any, **more: Any) -> dict[str, Any]:
    named = {f"s{i}": {"run": run, "in": {}, "out": []} for i, run in enumerate(runs)}
    return {"cwlVersion": "v1.2", "class": "Workflow", "inputs": [], "outputs": [], "steps": named} | more


# ── sizes ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_tools_sizes_are_read_in_our_units() -> None:
    reading = read(a_tool(coresMin=2, coresMax=8, ramMin=1025, tmpdirMin=1024, outdirMin=1025))
    assert reading.cores == Amount(2, 8, "main.cwl")
    assert reading.memory == Amount(2, 2, "main.cwl")
    assert reading.storage == Amount(3, 3, "main.cwl")
    assert reading.unknown == ()


def test_yaml_and_lists_of_requirements_are_read_too() -> None:
    text = """
        cwlVersion: v1.2
        class: CommandLineTool
        requirements:
          - class: ResourceRequirement
            coresMin: 1.5
            ramMax: 4096
    """
    reading = read(text)
    assert reading.cores == Amount(2, 2, "main.cwl")
    assert reading.memory == Amount(4, 4, "main.cwl")
    assert reading.versions == ("v1.2",)


def test_a_workflow_asks_what_the_largest_of_its_steps_asks() -> None:
    inner = steps("../tools/wide.cwl", a_tool(ramMin=9000))
    reading = read(
        steps("parts/inner.cwl", a_tool(coresMin=2)), parts__inner_cwl=inner, tools__wide_cwl=a_tool(coresMin=16)
    )
    assert reading.cores == Amount(16, 16, "s0")
    assert reading.memory == Amount(9, 9, "s1")


def test_the_nearer_requirement_counts_and_any_goes_before_a_hint() -> None:
    """https://www.commonwl.org/v1.2/Workflow.html#Requirements_and_hints"""

    def asking(cores: int) -> dict[str, Any]:
        return {"ResourceRequirement": {"coresMin": cores}}

    hinted = a_tool() | {"hints": asking(64)}
    assert read(steps(hinted)).cores == Amount(64, 64, "s0")
    assert read(steps(hinted, requirements=asking(3))).cores == Amount(3, 3, "s0")
    assert read(steps(a_tool(coresMin=5), requirements=asking(3))).cores == Amount(5, 5, "s0")
    step = {"run": a_tool(), "in": {}, "out": [], "requirements": asking(7)}
    assert read(steps(requirements=asking(3)) | {"steps": [step | {"id": "fit"}]}).cores == Amount(7, 7, "fit")


def test_a_packed_document_is_followed_from_its_main_process_or_the_one_that_is_named() -> None:
    graph = [
        {"id": "#wide", **a_tool(coresMin=12)},
        {"id": "#narrow", **a_tool(coresMin=2)},
        {"id": "#main", **steps("#wide", "#narrow")},
    ]
    packed = {"cwlVersion": "v1.1", "$graph": graph}
    assert read(packed).cores == Amount(12, 12, "s0")
    assert read(packed).versions == ("v1.1", "v1.2")
    assert cwl.read(a_workflow(packed, location="main.cwl#narrow")).cores == Amount(2, 2, "narrow")
    assert cwl.read(a_workflow(packed, location="main.cwl#none")).fault == "there is no process 'none' in it"


def test_what_is_imported_is_read() -> None:
    size = {"class": "ResourceRequirement", "coresMin": 6}
    tool = a_tool() | {"requirements": [{"$import": "size.yml"}]}
    assert read(steps({"$import": "tool.cwl"}), tool_cwl=tool, size_yml=size).cores == Amount(6, 6, "s0")


def test_expressions_are_not_evaluated_and_what_they_give_is_not_known() -> None:
    reading = read(steps(a_tool(coresMin="$(inputs.n)", ramMin="many"), a_tool(coresMin=True)))
    assert reading.cores is reading.memory is None
    assert reading.unknown == (
        "coresMin of s0 is an expression, so it is not known",
        "ramMin of s0 is no number, so it is not known",
        "coresMin of s1 is no number, so it is not known",
    )


@pytest.mark.parametrize("amount", [-1, 1e300, 2**40])
def test_an_amount_that_is_none_is_not_known(amount: float) -> None:
    assert read(a_tool(coresMin=amount)).cores is None


def test_what_is_not_at_hand_is_not_fetched_and_said_to_be_unknown() -> None:
    reading = read(steps("http://x.example/tool.cwl", "missing.cwl", a_tool(coresMin=2)))
    assert reading.cores == Amount(2, 2, "s2")
    assert reading.unknown == (
        "what the step s0 runs is not attached, so what it asks is not known",
        "what the step s1 runs is not attached, so what it asks is not known",
    )
    by_url = cwl.read(a_workflow(location="https://x.example/main.cwl"))
    assert by_url.unknown == ("its document is fetched when it runs, so what it asks is not known before",)


def test_containers_and_the_network_are_told() -> None:
    boxed = a_tool() | {"requirements": {"DockerRequirement": {"dockerPull": "debian"}}}
    reading = read(steps(boxed, a_tool() | {"hints": {"DockerRequirement": {}}}))
    assert reading.containers == ("s0",)
    assert not reading.network
    assert read(a_tool() | {"requirements": {"NetworkAccess": {"networkAccess": True}}}).network


# ── hostile documents ────────────────────────────────────────────────────────────────────────────────────────────

LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (LAUGHS, "line 1, column 4: anchors (&) and aliases (*) are not read here"),
        ("[" * 5000, "line 1, column 33: nested more than 32 levels deep"),
        ("x: " + "a" * cwl.LARGEST, "documents of more than 256 KiB are not read here"),
        ("class: Workflow\nclass: Workflow\n", 'line 2, column 1: the key "class" stands twice in one object'),
        ("a: [", "is no YAML: line 2, column 1: did not find expected node content"),
        ("!!python/object:os.system {}", "line 1, column 1: tags (!) are not read here"),
        ("just a text", "main.cwl is no process of CWL: it has no class"),
        (steps("main.cwl"), "s0 runs itself"),
        (steps(7), "s0 is no process of CWL: it has no class"),
        ({"$graph": []}, "there is no process 'main' in it"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(main: Any, fault: str) -> None:
    reading = read(main)
    assert (reading.fault, reading.file) == (fault, "main.cwl")


def test_workflows_that_run_each_other_are_told() -> None:
    assert read(steps("one.cwl"), one_cwl=steps("two.cwl"), two_cwl=steps("one.cwl")).fault == "s0 runs itself"


def test_steps_that_multiply_are_told() -> None:
    """Ten documents, each of which runs the next ten times, are 10^10 steps."""
    files = {f"n{i}_cwl": steps(*[f"n{i + 1}.cwl"] * 10) for i in range(10)}
    assert read(steps("n0.cwl"), **files, n10_cwl=a_tool()).fault.startswith("more than 1000 steps")


@pytest.mark.parametrize("odd", [None, 7, "x", [], [[]], {"a": None}, [{"class": 3}], [None, "x"]])
def test_no_odd_part_is_taken_for_what_it_is_not(odd: Any) -> None:
    read(a_tool() | {"requirements": odd, "hints": odd})
    read(steps(a_tool()) | {"steps": odd})
    read({"cwlVersion": odd, "$graph": odd})


# ── a workflow's files ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("location", "main"),
    [
        ("a/main.cwl#fit", ("a/main.cwl", None, "fit")),
        ("https://x.example/a/flow.cwl?key=1#fit", ("flow.cwl", "https://x.example/a/flow.cwl?key=1", "fit")),
        ("https://x.example/", ("main.cwl", "https://x.example/", "")),
        ("https://x.example/data", ("main.cwl", "https://x.example/data", "")),
        ("data:text/plain,a/b", ("main.cwl", "data:text/plain,a/b", "")),
    ],
)
def test_the_main_document_has_a_place(location: str, main: tuple[str, str | None, str]) -> None:
    assert workflows.main(a_workflow(location=location)) == main


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../up", "a/../b", "a//b", "data/x", "results", "cwl.inputs.json", "a\nb", "x" * 300]
)
def test_no_file_is_attached_where_it_cannot_lie(path: str) -> None:
    wire = a_workflow({}).to_wire()
    wire["attachments"].append({"path": path, "source": ""})
    (reason,) = workflows.refuse(Workflow.model_validate(wire), frozenset())
    assert reason.element == "executable.attachments[1].path"


def test_attachments_that_stand_in_each_others_way_are_told() -> None:
    wire = a_workflow({}).to_wire()
    wire["attachments"] += [{"path": "main.cwl/x", "source": ""}, {"path": "main.cwl", "location": "http://x.example"}]
    wire["attachments"] += [{"path": "both", "source": "", "location": "http://x.example"}, {"path": "none"}]
    found = [reason.element for reason in workflows.refuse(Workflow.model_validate(wire), frozenset())]
    assert found == [
        "executable.attachments[1].path",
        "executable.attachments[2].path",
        "executable.attachments[3]",
        "executable.attachments[4]",
    ]


def test_inputs_name_data_of_the_request_and_attached_files() -> None:
    workflow = a_workflow({}, tables__one_txt="1").with_(
        parameters={
            "good": [
                {"class": "File", "location": "data/cube.fits"},
                {"class": "File", "path": "./tables/one.txt", "secondaryFiles": [{"class": "File", "contents": ""}]},
                {"class": "Directory", "location": "tables/"},
                {"class": "Directory", "location": "data"},
                {"location": "no file at all"},
            ],
            "bad": [{"class": "File", "location": "data/none"}, {"deep": {"class": "File", "path": "/etc/passwd"}}],
        }
    )
    found = list(workflows.refuse(workflow, frozenset({"cube.fits"})))
    assert [reason.element for reason in found] == [
        "executable.parameters.bad[0]",
        "executable.parameters.bad[1].deep",
    ]
    assert found[0].nearest == "data/cube.fits"
