"""Faults of a document: one line each, with the path in the caller's own document and what to write."""

from __future__ import annotations

from typing import Any

import pytest

from broker.domain import kinds
from broker.domain.faults import parse
from broker.domain.request import ExecutionRequest
from broker.domain.site import Registration
from broker.domain.updates import AbstractUpdate, EnumValueUpdate
from broker.errors import BadInput, UnknownKind

DOCKER = {"kind": kinds.DOCKER_CONTAINER}


def compute(**values: Any) -> dict[str, Any]:
    return {"executable": DOCKER, "compute": {"kind": kinds.SIMPLE_COMPUTE, **values}}


def preferences(**values: Any) -> dict[str, Any]:
    return {"executable": DOCKER, "preferences": values}


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ([], "an object is wanted, not a list."),
        (None, "an object is wanted, not null."),
        ({}, "executable: is missing."),
        ({"executble": DOCKER}, 'executable: is missing. You wrote "executble".'),
        ({"executable": {}}, "executable.kind: is missing."),
        ({"executable": "fit.py"}, 'executable: "fit.py": an object with a kind is wanted.'),
        ({"executable": {"kind": 3}}, 'executable.kind: 3: a text is wanted. Write "3".'),
        (
            {"executable": {**DOCKER, "image": {"locations": [True]}}},
            'executable.image.locations[0]: true: a text is wanted. Write "true".',
        ),
        (
            {"executable": {**DOCKER, "image": {"locations": "x"}}},
            'executable.image.locations: "x": a list is wanted.',
        ),
        ({"executable": {**DOCKER, "meta": {"uuid": "x"}}}, 'executable.meta.uuid: "x": a UUID is wanted.'),
        (
            {"executable": {**DOCKER, "environment": {"A": {}}}},
            "executable.environment.A: an object: a text is wanted.",
        ),
        (compute(memory={"min": "16GB"}), 'compute.memory.min: "16GB": a whole number of GiB is wanted. Write 16.'),
        (compute(cores={"min": "4"}), 'compute.cores.min: "4": a whole number is wanted. Write 4.'),
        (compute(cores={"min": 1.5}), "compute.cores.min: 1.5: a whole number is wanted."),
        (compute(cores={"min": True}), "compute.cores.min: true: a whole number is wanted."),
        (compute(cores={"max": -1}), "compute.cores.max: -1: at least 0 is wanted."),
        (compute(cores=4), "compute.cores: 4: an object is wanted."),
        ({"executable": DOCKER, "data": {}}, "data: an object: a list is wanted."),
        ({"executable": DOCKER, "data": [3]}, "data[0]: 3: an object with a kind is wanted."),
        (
            {"executable": DOCKER, "schedule": {"requested": {"duration": "1h"}}},
            'schedule.requested.duration: "1h": an ISO 8601 duration is wanted, such as PT1H or P1D.',
        ),
        (preferences(risk=3), "preferences.risk: 3: at most 1.0 is wanted."),
        (preferences(risk="0.5"), 'preferences.risk: "0.5": a number is wanted. Write 0.5.'),
        (preferences(failover="yes"), 'preferences.failover: "yes": true or false is wanted.'),
        (preferences(currency="eur"), 'preferences.currency: "eur": a text of the form ^[A-Z]{3}$ is wanted.'),
        (
            preferences(countries_forbidden=["NL", "Italy"]),
            'preferences.countries_forbidden[1]: "Italy": '
            "a country's code of two letters (ISO 3166-1) is wanted, such as NL.",
        ),
        (
            {"executable": DOCKER, "outputs": {"to": "rucio:ada/fits"}},
            "outputs: a place in Rucio needs its storage element: outputs.rse, in a request's file.",
        ),
        (
            preferences(preset="cheap"),
            'preferences.preset: "cheap": unknown. Nearest: cheapest. '
            "There are: cheapest, fastest, closest, greenest, balanced.",
        ),
        (
            {"executable": {**DOCKER, "phase": "RUNING"}},
            'executable.phase: "RUNING": unknown. Nearest: RUNNING. There are: INITIALIZING, WAITING, PREPARING, '
            "AVAILABLE, RUNNING, RELEASING, COMPLETED, FAILED, CANCELLED.",
        ),
        (
            {"executable": {"kind": "docker"}},
            f'executable.kind: "docker": unknown. Nearest: docker-container, {kinds.DOCKER_CONTAINER}',
        ),
        (
            {"executable": {"kind": "docker-container"}},
            f'executable.kind: "docker-container": a URI is wanted. Write {kinds.DOCKER_CONTAINER}',
        ),
        (
            {"executable": DOCKER, "compute": {"kind": "zzz"}},
            'compute.kind: "zzz": unknown. There are: simple-compute-resource.',
        ),
        (
            {"executable": DOCKER, "costs": [{"kind": "simple-minmax-float-cost"}]},
            f'costs[0].kind: "simple-minmax-float-cost": a URI is wanted. Write {kinds.MINMAX_COST}',
        ),
    ],
)
def test_one_line_says_what_where_and_what_instead(document: Any, line: str) -> None:
    with pytest.raises(BadInput) as fault:
        parse(ExecutionRequest, document)
    assert str(fault.value) == line


def test_an_unknown_property_names_its_neighbours() -> None:
    with pytest.raises(BadInput) as fault:
        parse(ExecutionRequest, preferences(presett="fastest"))
    assert str(fault.value).startswith("preferences.presett: no such property. Nearest: preset. There are: preset, ")


def test_also_in_a_list_of_a_registration() -> None:
    with pytest.raises(BadInput) as fault:
        parse(Registration, {"storages": [{"name": "disk", "prefix": []}]})
    assert str(fault.value) == (
        "storages[0].prefix: no such property. Nearest: prefixes. There are: name, prefixes, country, tape, recall."
    )


def test_a_family_is_read_as_the_member_that_its_kind_names() -> None:
    document = {"kind": kinds.ENUM_UPDATE, "path": "phase", "value": "ACCEPTED"}
    assert isinstance(parse(AbstractUpdate, document), EnumValueUpdate)
    with pytest.raises(BadInput, match="value: is missing"):
        parse(AbstractUpdate, {"kind": kinds.ENUM_UPDATE, "path": "phase"})


def test_kinds_of_others_pass_and_keep_all_they_hold() -> None:
    document = {"executable": {"kind": "https://example.org/kinds/quantum.yaml", "qubits": [1, {"a": None}]}}
    request = parse(ExecutionRequest, document)
    assert request.to_wire() == document


def test_what_is_called_kind_inside_something_unknown_is_its_own_affair() -> None:
    document = {"executable": {"kind": "https://example.org/kinds/quantum.yaml", "gate": {"kind": "hadamard"}}}
    assert parse(ExecutionRequest, document).to_wire() == document


def test_a_kind_of_ours_in_bare_words_is_told_apart_from_a_wrong_one() -> None:
    with pytest.raises(UnknownKind):
        parse(ExecutionRequest, {"executable": {"kind": "jupyter-notebook"}})


def test_long_values_are_quoted_in_part() -> None:
    with pytest.raises(BadInput) as fault:
        parse(ExecutionRequest, preferences(currency="E" * 5000))
    assert len(fault.value.detail) < 200
