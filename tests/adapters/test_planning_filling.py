"""What a workflow's documents say of the sizes that its request leaves open."""

from __future__ import annotations

import json
from typing import Any

from adapters.planning.filling import Filled, fill, fillable
from broker.domain import kinds
from broker.domain.request import ExecutionRequest


def a_request(asked: dict[str, Any] | str, **parts: Any) -> ExecutionRequest:
    tool = {"class": "CommandLineTool", "requirements": {"ResourceRequirement": asked}}
    source = asked if isinstance(asked, str) else json.dumps(tool)
    executable = {"kind": kinds.WORKFLOW, "type": "cwl", "location": "fit.cwl"}
    executable["attachments"] = [{"path": "fit.cwl", "source": source}]  # type: ignore[assignment]
    return ExecutionRequest.model_validate({"executable": executable, **parts})


def compute(**sizes: Any) -> dict[str, Any]:
    return {"compute": {"kind": kinds.SIMPLE_COMPUTE, **sizes}}


def notes(filled: Filled) -> list[str]:
    return [text for _, text in filled.notes]


def test_what_is_left_open_is_filled_and_said() -> None:
    filled = fill(a_request({"coresMin": 4, "coresMax": 8, "ramMin": 6000, "outdirMin": 3000}))
    assert filled.request.cores == (4, 8)
    assert filled.request.memory == (6, 6)
    (storage,) = filled.request.storage or ()
    assert storage.to_wire()["size"] == {"min": 3}
    assert notes(filled) == [
        "compute.cores: 4, by the ResourceRequirement of fit.cwl",
        "compute.memory: 6 GiB, by the ResourceRequirement of fit.cwl",
        "storage: 3 GiB, by the ResourceRequirement of fit.cwl",
    ]


def test_what_is_stated_stays_and_too_little_is_warned_of() -> None:
    stated = a_request(
        {"coresMin": 4, "ramMin": 6000, "outdirMin": 3000},
        **compute(cores={"min": 2, "max": 3}, memory={"min": 16}),
        storage=[{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}}],
    )
    filled = fill(stated)
    assert filled.request == stated
    assert filled.notes == (
        ("WARN", "compute.cores: 2 as asked, though it is 4 by the ResourceRequirement of fit.cwl"),
    )


def test_a_maximum_alone_is_kept_and_one_that_is_too_small_is_refused() -> None:
    assert fill(a_request({"coresMin": 4}, **compute(cores={"max": 6}))).request.cores == (4, 6)
    (reason,) = fill(a_request({"coresMin": 4}, **compute(cores={"max": 2}))).reasons
    assert str(reason) == ("compute.cores.max: 2 at most are allowed, and fit.cwl asks for 4. Nearest yes: 4.")


def test_what_is_not_known_is_said_and_has_its_default() -> None:
    filled = fill(a_request({"coresMin": "$(inputs.n)"}))
    assert filled.request.cores == (1, None)
    assert notes(filled) == [
        "coresMin of fit.cwl is an expression, so it is not known: what the request leaves open has its default"
    ]
    assert fill(a_request({"coresMin": "$(inputs.n)"}, **compute(cores={"min": 1}, memory={"min": 1}))).notes == ()


def test_a_document_that_cannot_be_read_is_refused() -> None:
    (reason,) = fill(a_request("a: &a [*a]")).reasons
    assert reason.element == "executable.attachments[0].source"
    assert reason.text.startswith("fit.cwl: line 1, column 4: anchors")


def test_other_languages_and_kinds_are_left_alone() -> None:
    other = a_request("process fit {}")
    other = other.with_(executable=other.executable.with_(type="NFL"))
    program = ExecutionRequest.model_validate({"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "1"}})
    for request in (other, program):
        assert not fillable(request)
        assert fill(request) == Filled(request)
