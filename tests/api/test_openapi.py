"""The description we serve, and the helper that judges documents by it: it is shown to fail on mutants."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from broker.api.openapi import describe, schemas
from broker.domain import kinds
from broker.testing.conformance import Conformance

UUID = "c0d8902e-2b58-433f-8629-271d96b24e1b"
URL = "http://localhost/sessions/" + UUID


@pytest.fixture(scope="module")
def served() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(describe("0"))
    return document


@pytest.fixture(scope="module", params=["standard", "own"])
def judge(request: pytest.FixtureRequest, served: dict[str, Any], standard: dict[str, Any] | None) -> Conformance:
    if request.param == "own":
        return Conformance(served, served)
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    return Conformance(standard, served)


def offerset() -> dict[str, Any]:
    message = {"level": "INFO", "template": "a {b}", "values": {"b": "c"}, "message": "a c"}
    session = {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": {"uuid": UUID, "url": URL, "messages": [message],
                 "options": [{"kind": kinds.ENUM_OPTION, "path": "/phase", "values": ["ACCEPTED"]}]},
        "phase": "OFFERED",
        "expires": "2026-11-22T14:00:00Z",
        "costs": [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "min": 1.0, "max": 2, "unit": "EUR"}],
        "executable": {"kind": kinds.PYTHON_PROGRAM, "source": "pass"},
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            "cores": {"min": 1, "max": 2},
            "extras": [{"type": kinds.GPU, "count": 1}],
            "schedule": {"available": {"start": "2026-03-31T12:10:00Z/PT0S", "duration": "PT2H"}},
        },
        "ranking": {"rank": 1, "all_in": {"expected": 1.0, "pessimistic": 2.0}},
    }  # fmt: skip
    return {
        "kind": kinds.OFFERSET,
        "meta": {"uuid": UUID, "url": URL},
        "result": "YES",
        "offers": [session],
        "pending": 0,
    }


def test_a_whole_offer_set_conforms(judge: Conformance) -> None:
    assert judge.faults(offerset(), "OfferSetResponse") == []


MUTANTS: dict[str, Any] = {
    "a bogus phase": lambda d: d["offers"][0].update(phase="DREAMING"),
    "a renamed key": lambda d: d["offers"][0].update(stage=d["offers"][0].pop("phase")),
    "a missing uuid": lambda d: d["offers"][0]["meta"].pop("uuid"),
    "no uuid of the set": lambda d: d["meta"].pop("uuid"),
    "a uuid that is none": lambda d: d["meta"].update(uuid="91c2"),
    "no result": lambda d: d.pop("result"),
    "a result that is none": lambda d: d.update(result="MAYBE"),
    "an unknown kind of session": lambda d: d["offers"][0].update(kind="uri:odd"),
    "an unknown kind of executable": lambda d: d["offers"][0]["executable"].update(kind="uri:odd"),
    "a cost as text": lambda d: d["offers"][0]["costs"][0].update(max="2"),
    "a count as true": lambda d: d["offers"][0]["compute"]["cores"].update(min=True),
    "a level outside the enumeration": lambda d: d["offers"][0]["meta"]["messages"][0].update(level="LOUD"),
    "a message left unfilled": lambda d: d["offers"][0]["meta"]["messages"][0].pop("message"),
    "an option without its path": lambda d: d["offers"][0]["meta"]["options"][0].pop("path"),
    "an option without its values": lambda d: d["offers"][0]["meta"]["options"][0].pop("values"),
    "an undocumented property": lambda d: d["offers"][0]["compute"].update(colour="red"),
    "an undocumented property of ours": lambda d: d["offers"][0]["ranking"].update(mood="good"),
    "an expiry without zone": lambda d: d["offers"][0].update(expires="2026-11-22T14:00:00"),
    "offers as an object": lambda d: d.update(offers={}),
    "an empty object": lambda d: d.clear(),
}


@pytest.mark.parametrize("mutate", MUTANTS.values(), ids=MUTANTS.keys())
def test_mutants_do_not(judge: Conformance, mutate: Any) -> None:
    document = copy.deepcopy(offerset())
    mutate(document)
    assert judge.faults(document, "OfferSetResponse")


def test_a_malformed_interval_fails_by_the_standard(served: dict[str, Any], standard: dict[str, Any] | None) -> None:
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    document = offerset()
    document["offers"][0]["compute"]["schedule"]["available"]["start"] = "soon"
    assert Conformance(standard, served).faults(document, "OfferSetResponse")


def test_every_schema_of_the_standard_is_served(standard: dict[str, Any] | None) -> None:
    """Lists and scalars are written in place; every object and every kind has its schema, under its own name."""
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    law = standard["components"]["schemas"]
    objects = {name for name, schema in law.items() if schema.get("type") == "object" and name != "NameValueMap"}
    bases = {"SimpleExecutionComponents", "ExecutionRequestComponents"}  # folded into what they are a part of
    assert objects - bases - set(schemas()) == set()


def test_every_property_of_the_standard_is_served(standard: dict[str, Any] | None, served: dict[str, Any]) -> None:
    if standard is None:
        pytest.skip("the standard's description is not beside the project (SHARED_DIR)")
    law, ours = Conformance(standard), Conformance(served)
    for name, schema in standard["components"]["schemas"].items():
        if name in served["components"]["schemas"] and schema.get("type") == "object":
            reference = {"$ref": f"#/components/schemas/{name}"}
            assert set(law._shape(reference).properties) <= set(ours._shape(reference).properties), name


def test_references_lead_somewhere(served: dict[str, Any]) -> None:
    names = set(served["components"]["schemas"])
    text = json.dumps(served)
    mentioned = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert mentioned <= names


def test_nothing_here_names_this_machine(served: dict[str, Any]) -> None:
    assert str(Path.cwd()) not in json.dumps(served)
