"""The wire models: what they read they write again, what is no number is refused, and what refers leads somewhere."""

import copy
import json
import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from broker.domain import kinds
from broker.domain.base import Family, Model
from broker.domain.components import (
    AbstractCostItem,
    AbstractMetricItem,
    AbstractOption,
    MessageItem,
    SimpleMinMaxFloatCost,
)
from broker.domain.data import AbstractDataResource
from broker.domain.executables import AbstractExecutable, PythonProgram
from broker.domain.quantities import (
    Interval,
    Span,
    format_duration,
    format_instant,
    parse_duration,
    parse_instant,
)
from broker.domain.request import ExecutionRequest, check
from broker.domain.resources import AbstractComputeResource, AbstractStorageResource, AbstractVolumeMount
from broker.domain.session import AbstractExecutionSession, OfferSetResponse, ScheduledExecutionSession
from broker.domain.updates import AbstractUpdate
from broker.errors import BadInput, Dangling

UUID_ = "6d1b1a2e-5f4c-4b0e-9d5e-0a1b2c3d4e5f"
META = {
    "uuid": UUID_,
    "name": "cube",
    "url": "https://x/1",
    "created": "2026-11-22T14:03:00Z",
    "messages": [{"kind": "uri:m", "time": "2026-11-22T14:03:00.500000Z", "level": "WARN", "template": "{a}",
                  "values": {"a": "1"}, "message": "1"}],
    "options": [{"kind": kinds.ENUM_OPTION, "path": "phase", "values": ["ACCEPTED"]}],
}  # fmt: skip
SCHEDULE = {
    "preparing": {"start": "2026-11-22T14:03:00Z", "duration": "PT5M"},
    "available": {"start": "2026-11-22T14:08:00Z/PT10M", "duration": "PT1H30M"},
    "releasing": {"duration": "PT0S"},
}
COSTS = [{"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "min": 1.0, "max": 2.5, "unit": "EUR"}]
METRICS = [{"kind": kinds.MINMAX_METRIC, "type": kinds.COMPUTE_PERFORMANCE, "min": 1.0}]
COMPONENT = {"meta": META, "costs": COSTS, "metrics": METRICS}
LIFECYCLE = {**COMPONENT, "phase": "PREPARING", "schedule": SCHEDULE}
DATA = {**LIFECYCLE, "storage": "s"}
IVOA = {
    "ivoid": "ivo://x/y",
    "obscore": {"obs_id": "1", "calib_level": 2, "access_url": "https://x/o"},
    "datalink": {"ID": "1", "semantics": "#this", "content_length": 2**40},
}
MEMBERS: list[tuple[type[Family], dict[str, Any]]] = [
    (AbstractExecutable, {
        "kind": kinds.DOCKER_CONTAINER, **LIFECYCLE, "privileged": False, "command": ["a"], "entrypoint": "b",
        "image": {"locations": ["x:1"], "digest": "sha256:1", "platform": {"architecture": "amd64", "os": "linux"}},
        "environment": {"A": "1"},
        "network": {"ports": [{"access": True, "internal": {"port": 80}, "protocol": "HTTP", "path": "/",
                               "external": {"port": 8080, "addresses": ["10.0.0.1"]}}]},
    }),
    (AbstractExecutable, {"kind": kinds.SINGULARITY_CONTAINER, **LIFECYCLE, "location": "https://x/a.sif"}),
    (AbstractExecutable, {
        "kind": kinds.JUPYTER_NOTEBOOK, **LIFECYCLE, "location": "https://x/a.ipynb", "mode": "batch",
        "network": False,
    }),
    (AbstractExecutable, {
        "kind": kinds.PYTHON_PROGRAM, **LIFECYCLE, "source": "print()", "arguments": ["--fast"], "python": ">=3.11",
        "environment": {"A": "1"}, "requirements": ["numpy"], "location": "file:///a.py", "network": True,
    }),
    (AbstractComputeResource, {
        "kind": kinds.SIMPLE_COMPUTE, **LIFECYCLE, "cores": {"min": 1, "max": 4}, "memory": {"min": 2},
        "extras": [{"type": kinds.GPU, "name": "g", "count": 2, "spec": {"memory": "40"}}],
        "volumes": [{"kind": kinds.SIMPLE_VOLUME, **COMPONENT, "path": "/d", "mode": "READONLY", "resource": "cube"}],
    }),
    (AbstractStorageResource, {"kind": kinds.SIMPLE_STORAGE, **LIFECYCLE, "size": {"min": 1}, "data": ["cube"]}),
    (AbstractVolumeMount, {
        "kind": kinds.SIMPLE_VOLUME, **COMPONENT, "path": "/d", "mode": "READWRITE", "resource": "x",
    }),
    (AbstractDataResource, {"kind": kinds.SIMPLE_DATA, **DATA, "location": "https://x/1"}),
    (AbstractDataResource, {
        "kind": kinds.S3_DATA, **DATA, "endpoint": "https://s3", "template": "t", "bucket": "b", "object": "o",
    }),
    (AbstractDataResource, {
        "kind": kinds.RUCIO_DATA, **DATA,
        "rucio": {"endpoint": "https://r", "scope": "s", "object": "o", "type": "FILE"},
    }),
    (AbstractDataResource, {"kind": kinds.IVOA_DATA, **DATA, "ivoa": IVOA}),
    (AbstractDataResource, {
        "kind": kinds.SKAO_DATA, **DATA, "ivoa": IVOA,
        "skao": {"namespace": "n", "objectname": "o", "objecttype": "DATASET", "datasize": 2**53,
                 "checksum": {"type": "md5", "value": "1"}, "replicas": [{"rsename": "A", "dataurl": "davs://a/o"}]},
    }),
    (AbstractCostItem, {
        "kind": kinds.MINMAX_COST, "type": "uri:t", "description": "d", "min": 0.0, "max": 1.5, "unit": "u",
    }),
    (AbstractMetricItem, {
        "kind": kinds.MINMAX_METRIC, "type": "uri:t", "description": "d", "min": 0.0, "max": 1.5, "unit": "u",
    }),
    (AbstractOption, {"kind": kinds.STRING_OPTION, "path": "p", "pattern": ".*"}),
    (AbstractOption, {"kind": kinds.ENUM_OPTION, "path": "p", "values": ["A", "B"]}),
    (AbstractOption, {"kind": kinds.INTEGER_OPTION, "path": "p", "min": -1, "max": 2**40, "units": "s"}),
    (AbstractOption, {"kind": kinds.DELTA_OPTION, "path": "p", "min": -1, "max": 1, "units": "s"}),
    (AbstractUpdate, {"kind": kinds.STRING_UPDATE, "path": "p", "value": "v"}),
    (AbstractUpdate, {"kind": kinds.ENUM_UPDATE, "path": "phase", "value": "ACCEPTED"}),
    (AbstractUpdate, {"kind": kinds.INTEGER_UPDATE, "path": "p", "value": 3, "units": "s"}),
    (AbstractUpdate, {"kind": kinds.DELTA_UPDATE, "path": "p", "delta": -3, "units": "s"}),
    (AbstractExecutionSession, {
        "kind": kinds.SIMPLE_SESSION, **COMPONENT, "phase": "OFFERED", "expires": "2026-11-22T14:03:00Z",
        "connectors": [{"kind": "uri:c", "status": "AVAILABLE", "protocol": "HTTPS", "location": "https://x"}],
    }),
    (AbstractExecutable, {
        "kind": kinds.WORKFLOW, **LIFECYCLE, "type": "CWL", "version": "v1.2", "location": "main.cwl",
        "attachments": [{"path": "main.cwl", "source": "cwlVersion: v1.2"}, {"path": "a", "location": "https://x/a"}],
        "parameters": {"n": 3, "reads": {"class": "File", "location": "https://x/r"}}, "engine": "cwltool",
        "network": True,
    }),
    (AbstractExecutionSession, {
        "kind": kinds.SCHEDULED_SESSION, **COMPONENT, "phase": "RUNNING", "schedule": SCHEDULE, "site": "a",
        "executable": {"kind": kinds.PYTHON_PROGRAM}, "compute": {"kind": kinds.SIMPLE_COMPUTE},
        "storage": [{"kind": kinds.SIMPLE_STORAGE}], "data": [{"kind": kinds.SIMPLE_DATA}],
        "ranking": {"rank": 1, "all_in": {"expected": 1.0, "pessimistic": 2.0, "unit": "EUR"}, "trade_off": True},
        "locality": {"bytes": {"expected": 0.0, "pessimistic": 0.0}, "certainty": "stated"},
    }),
]  # fmt: skip

MEMBER_NAMES = [kinds.short(wire["kind"]) for _, wire in MEMBERS]


def every_class(family: type[Family]) -> list[type[Family]]:
    return [found for child in family.__subclasses__() for found in (child, *every_class(child))]


def read(family: type[Family], wire: dict[str, Any]) -> Model:
    return family.choose(wire["kind"]).model_validate(wire)


# ── round trips ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("family", "wire"), MEMBERS, ids=MEMBER_NAMES)
def test_every_kind_is_written_as_it_was_read(family: type[Family], wire: dict[str, Any]) -> None:
    found = read(family, json.loads(json.dumps(wire)))
    assert type(found) is not family
    assert found.to_wire() == wire
    assert read(family, found.to_wire()) == found


def test_every_property_of_every_kind_is_tried() -> None:
    """A property that no example holds would go through no round trip."""
    left_out = {
        "description",
        "modified",
        "origin",
        "reserved",
        "simulated",
        "native",
        "results",
        "offerset",
        "promise",
    }
    for family, wire in MEMBERS:
        member = family.choose(wire["kind"])
        if issubclass(member, AbstractExecutionSession):
            continue
        given_ = {name for _, other in MEMBERS if other["kind"] == wire["kind"] for name in other}
        assert set(member.model_fields) - given_ <= left_out, wire["kind"]


def test_every_member_of_every_family_is_tried() -> None:
    tried = {wire["kind"] for _, wire in MEMBERS} | {kinds.OFFERSET, kinds.ABSTRACT_COST, kinds.ABSTRACT_METRIC}
    registered = {kind for family in every_class(Family) for kind in family.members}
    assert registered == tried


def a_request() -> dict[str, Any]:
    """A fresh one each time, to be changed at will."""
    wire = {
        "executable": MEMBERS[3][1],
        "compute": MEMBERS[4][1],
        "storage": [{"kind": kinds.SIMPLE_STORAGE, "meta": {"name": "scratch"}, "data": ["cube"]}],
        "data": [{"kind": kinds.SIMPLE_DATA, "meta": {"name": "cube"}, "storage": "scratch", "location": "https://x"}],
        "schedule": {"requested": {"duration": "PT1H", "start": "2026-11-22T14:00:00Z/PT2H"}},
        "costs": COSTS,
        "metrics": METRICS,
        "preferences": {"preset": "cheapest", "currency": "EUR", "risk": 0.5, "deadline": "2026-11-23T00:00:00Z"},
    }
    return copy.deepcopy(wire)


def test_a_whole_request_is_written_as_it_was_read() -> None:
    wire = a_request()
    found = ExecutionRequest.model_validate(wire)
    assert found.to_wire() == wire
    assert isinstance(found.executable, PythonProgram)
    assert ExecutionRequest.model_validate_json(json.dumps(wire)) == found
    check(found)


def test_an_offer_set_is_written_as_it_was_read() -> None:
    wire = {
        "kind": kinds.OFFERSET, **COMPONENT, "result": "YES", "offers": [MEMBERS[-1][1]],
        "outcomes": [{"site": "a", "outcome": "Offered", "offers": 1, "latency": 0.5}], "pending": 1, "closed": False,
    }  # fmt: skip
    found = OfferSetResponse.model_validate(wire)
    assert found.to_wire() == wire
    assert found.offers
    assert isinstance(found.offers[0], ScheduledExecutionSession)


STRANGE = {"a": [1, None, {"b": None, "c": 1.5}], "d": True, "é": "ü", "empty": [], "object": {}}


@pytest.mark.parametrize(
    "where", [(), ("executable",), ("executable", "meta"), ("data", 0), ("compute", "cores"), ("schedule", "requested")]
)
def test_unknown_properties_survive_at_every_depth(where: tuple[Any, ...]) -> None:
    wire = a_request()
    place = wire
    for step in where:
        place = place[step]
    place["new-property"] = STRANGE
    assert ExecutionRequest.model_validate(wire).to_wire() == wire


def test_unknown_kinds_survive_whole() -> None:
    wire = a_request()
    strange = {"kind": "uri:from-tomorrow", "meta": {"name": "cube", "colour": "red"}, "size": "large", "more": STRANGE}
    wire["data"] = [strange]
    wire["executable"] = {**strange, "meta": {"name": "fit"}}
    wire["costs"] = [{"kind": "uri:cost", "type": "uri:t", "amount": 3}]
    wire["storage"] = None
    found = ExecutionRequest.model_validate(wire)
    assert found.to_wire() == {name: value for name, value in wire.items() if value is not None}
    assert type(found.executable) is AbstractExecutable
    assert found.name == "fit"


def test_a_kind_of_another_family_is_unknown_in_this_one() -> None:
    wire = {"executable": {"kind": kinds.SIMPLE_DATA, "location": "https://x"}}
    found = ExecutionRequest.model_validate(wire)
    assert type(found.executable) is AbstractExecutable
    assert found.to_wire() == wire


@pytest.mark.parametrize("executable", [{}, {"kind": None}, {"kind": 5}, {"kind": ["x"]}, "text", None, []])
def test_an_element_without_a_kind_is_refused(executable: object) -> None:
    with pytest.raises(ValidationError) as caught:
        ExecutionRequest.model_validate({"executable": executable})
    assert caught.value.errors()[0]["loc"][0] == "executable"


def test_the_place_of_a_fault_is_named_to_the_last_step() -> None:
    wire = a_request()
    wire["compute"]["volumes"][0]["mode"] = "SOMETIMES"
    with pytest.raises(ValidationError) as caught:
        ExecutionRequest.model_validate(wire)
    assert caught.value.errors()[0]["loc"] == ("compute", "volumes", 0, "mode")


def test_models_are_frozen() -> None:
    found = ExecutionRequest.model_validate(a_request())
    with pytest.raises(ValidationError):
        found.compute = None
    assert found.with_(compute=None).compute is None
    assert found.compute is not None


# ── scalars ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("value", ["3", True, False, math.nan, math.inf, -math.inf, [1], {}, "NaN", 10**400])
def test_what_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        SimpleMinMaxFloatCost.model_validate({"kind": kinds.MINMAX_COST, "min": value})


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", '"3"', "true"])
def test_what_is_no_number_in_json_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        SimpleMinMaxFloatCost.model_validate_json(f'{{"kind": "{kinds.MINMAX_COST}", "max": {text}}}')


@pytest.mark.parametrize("value", ["3", True, 1.5, -1, 2**63, math.nan])
def test_a_core_count_is_a_whole_number(value: object) -> None:
    with pytest.raises(ValidationError):
        ExecutionRequest.model_validate(
            {**a_request(), "compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": value}}}
        )


@pytest.mark.parametrize("wish", [
    {"risk": 1.1}, {"risk": -0.1}, {"value_of_time": -1}, {"value_of_time": math.inf}, {"value_of_time": "2"},
    {"currency": "euro"}, {"currency": "EUR\n"}, {"preset": "best"}, {"enough": 0}, {"enough": True}, {"failover": 1},
    {"cheap": True}, {"deadline": "tomorrow"}, {"locality": "always"},
])  # fmt: skip
def test_a_wish_that_cannot_be_meant_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        ExecutionRequest.model_validate({**a_request(), "preferences": wish})
    assert caught.value.errors()[0]["loc"] == ("preferences", *wish)


def test_maps_hold_text_whatever_a_yaml_writer_sends() -> None:
    found = PythonProgram.model_validate(
        {"kind": kinds.PYTHON_PROGRAM, "environment": {"A": 1, "B": True, "C": "x", "D": 1.5}}
    )
    assert found.environment == {"A": "1", "B": "true", "C": "x", "D": "1.5"}
    with pytest.raises(ValidationError):
        PythonProgram.model_validate({"kind": kinds.PYTHON_PROGRAM, "environment": {"A": None}})


# ── instants, durations, intervals ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-22T14:03:00Z", datetime(2026, 11, 22, 14, 3, tzinfo=UTC)),
        ("2026-11-22T14:03:00+02:00", datetime(2026, 11, 22, 12, 3, tzinfo=UTC)),
        ("2026-11-22T14:03:00.123456789Z", datetime(2026, 11, 22, 14, 3, 0, 123456, UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_instants_are_read(text: str, instant: datetime) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize("text", [
    "2026-11-22T14:03Z", "2026-11-22T14:03:00", "2026-11-22", "2026-13-22T14:03:00Z", "2026-11-22T25:03:00Z",
    "2026-11-22T14:03:00Z\n", "2026-11-22T14:03:00/x", "٢٠٢٦-11-22T14:03:00Z", "2026-11-22T14:03:00 yesterday",
    "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "", 5, True, None,
    "2026-11-22T14:03:00." + "1" * 200 + "Z",
])  # fmt: skip
def test_what_is_no_instant_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"instant|date and time"):
        parse_instant(text)


@given(st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)))
def test_instants_are_written_by_the_standards_pattern_and_read_back(moment: datetime) -> None:
    text = format_instant(moment)
    assert parse_instant(text) == moment
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z", text)


def test_instants_are_written_from_epoch_seconds_too() -> None:
    assert format_instant(0) == "1970-01-01T00:00:00Z"
    assert format_instant(1_795_356_120.5) == "2026-11-22T14:02:00.500000Z"


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("PT1H30M", timedelta(hours=1, minutes=30)),
        ("PT0.5S", timedelta(milliseconds=500)),
        ("P1DT2H", timedelta(days=1, hours=2)),
        ("P2W", timedelta(weeks=2)),
        ("P1M", timedelta(days=30)),
        ("P1Y", timedelta(days=365)),
        ("-PT5M", timedelta(minutes=-5)),
        ("PT90S", timedelta(seconds=90)),
    ],
)
def test_durations_are_read(text: str, span: timedelta) -> None:
    assert parse_duration(text) == span


@pytest.mark.parametrize("text", [
    "P", "PT", "1H", "P1H", "PT1H\n", "P٣D", "PT1.5H", "P1D1W", "PT" + "9" * 400 + "S", "P99999Y", "P-1D", "", 5, None,
])  # fmt: skip
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.timedeltas(timedelta(days=-1000), timedelta(days=3_000_000)))
def test_durations_are_written_so_that_strict_clients_read_them(span: timedelta) -> None:
    text = format_duration(span)
    assert parse_duration(text) == span
    assert re.fullmatch(r"-?P(\d+D)?(T(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?", text)
    assert not text.endswith(("P", "T"))


def day(number: int, hour: int = 0) -> datetime:
    return datetime(2023, 8, number, hour, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2023-08-09T12:00:00Z/2023-08-09T13:00:00Z", day(9, 12), day(9, 13)),  # the schema's own examples
        ("2023-08-09/PT2H", day(9), day(9, 2)),
        ("PT2H/2023-08-09", day(8, 22), day(9)),
        ("2023-08-09/2023-08-10", day(9), day(10)),
        ("2023-08-09T12:00Z/PT0S", day(9, 12), day(9, 12)),
        ("2023-08-09T12:00+02:00/P1W", day(9, 10), day(16, 10)),
        ("2023-08-09T12:00:00/PT1H", day(9, 12), day(9, 13)),
    ],
)
def test_intervals_are_read(text: str, start: datetime, end: datetime) -> None:
    found = Interval.parse(text)
    assert found == Interval(start, end)
    assert Interval.parse(str(found)) == found
    assert found.length == end - start


@pytest.mark.parametrize("text", [
    "2023-08-09", "2023-08-10/2023-08-09", "2023-08-09/", "/PT2H", "PT2H/PT2H", "2023-08-09/-PT1H", "2023-02-31/PT1H",
    "2023-08-09/PT2H/PT2H", "9999-12-31/P1Y", "P1Y/0001-01-01", "2023-08-09/PT2H\n", "2023-8-9/PT2H", "", None, 5, "/",
    "2023-08-09T24:00Z/PT1H",
])  # fmt: skip
def test_what_is_no_interval_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"interval|duration|date"):
        Interval.parse(text)


@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_the_expected_value_of_a_range_lies_within_it(one: float, other: float) -> None:
    span = Span(min(one, other), max(one, other))
    assert span.low * (1 - 1e-15) <= span.expected <= span.pessimistic


# ── references ───────────────────────────────────────────────────────────────────────────────────────────────


def request_with(**parts: Any) -> ExecutionRequest:
    return ExecutionRequest.model_validate({"executable": {"kind": kinds.PYTHON_PROGRAM}, **parts})


def data(name: str = "cube", **rest: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_DATA, "meta": {"name": name}, **rest}


def storage(name: str = "scratch", **rest: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_STORAGE, "meta": {"name": name}, **rest}


def mounting(**volume: Any) -> dict[str, Any]:
    return {"kind": kinds.SIMPLE_COMPUTE, "volumes": [{"kind": kinds.SIMPLE_VOLUME, **volume}]}


@pytest.mark.parametrize(
    ("parts", "element", "there_are"),
    [
        ({"data": [data(storage="scrach")], "storage": [storage()]}, "data[0].storage", "There are: scratch."),
        ({"data": [data(storage="s")]}, "data[0].storage", "There are none."),
        ({"storage": [storage("a"), storage("b", data=["x"])]}, "storage[1].data[0]", "There are none."),
        (
            {"compute": mounting(resource="cub"), "data": [data()], "storage": [storage()]},
            "compute.volumes[0].resource", "There are: cube, scratch.",
        ),
        ({"compute": mounting(path="/d"), "data": [data()]}, "compute.volumes[0].resource", "There are: cube."),
    ],
)  # fmt: skip
def test_a_dangling_reference_is_named_with_what_there_is(parts: dict[str, Any], element: str, there_are: str) -> None:
    with pytest.raises(Dangling) as caught:
        check(request_with(**parts))
    assert (caught.value.element, caught.value.remedy) == (element, there_are)


def test_of_many_names_an_error_lists_some() -> None:
    with pytest.raises(Dangling) as caught:
        check(request_with(data=[data(f"cube{i:03}") for i in range(99)] + [data(storage="x")], storage=[storage()]))
    assert caught.value.remedy == "There are: scratch."
    with pytest.raises(Dangling) as caught:
        check(request_with(data=[data(f"cube{i:03}") for i in range(99)], storage=[storage(data=["x"])]))
    assert caught.value.remedy.endswith("cube018, cube019 and 79 more.")


def test_references_lead_by_name_or_uuid() -> None:
    check(request_with(compute=mounting(resource=UUID_), data=[{"kind": kinds.SIMPLE_DATA, "meta": {"uuid": UUID_}}]))
    check(request_with(data=[data(storage="scratch")], storage=[storage(data=["cube"])]))


@pytest.mark.parametrize(
    ("parts", "element"),
    [
        ({"data": [data(), data()]}, "data[1].meta"),
        (
            {"compute": mounting(resource="x"), "data": [data("x")], "storage": [storage("x")]},
            "compute.volumes[0].resource",
        ),
        ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 4, "max": 2}}}, "compute.cores"),
        ({"compute": {"kind": kinds.SIMPLE_COMPUTE, "memory": {"max": 0}}}, "compute.memory"),
        ({"schedule": {"requested": {"duration": "PT0S"}}}, "schedule.requested.duration"),
        ({"schedule": {"requested": {"duration": "-PT1H"}}}, "schedule.requested.duration"),
    ],
)
def test_what_contradicts_itself_is_refused_by_element(parts: dict[str, Any], element: str) -> None:
    with pytest.raises(BadInput) as caught:
        check(request_with(**parts))
    assert caught.value.element == element


def test_what_a_request_leaves_out_has_the_standards_defaults() -> None:
    bare = request_with()
    assert (bare.duration, bare.start, bare.cores, bare.memory) == (timedelta(hours=2), None, (1, None), (1, None))
    asked = request_with(
        compute={"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 2, "max": 4}, "memory": {"max": 8},
                 "extras": [{"type": kinds.GPU}, {"type": kinds.GPU, "count": 2}]},
    )  # fmt: skip
    assert (asked.cores, asked.memory, asked.extras) == ((2, 4), (1, 8), {kinds.GPU: 3})


def test_every_component_has_its_path() -> None:
    paths = [path for path, _ in ExecutionRequest.model_validate(a_request()).components()]
    assert paths == ["executable", "compute", "compute.volumes[0]", "storage[0]", "data[0]"]


# ── messages and kinds ───────────────────────────────────────────────────────────────────────────────────────


def test_a_message_holds_template_values_and_text() -> None:
    found = MessageItem.fill("uri:m", "{site} asks {n} of {other}", site="alba", n=3, level="WARN")
    assert found.to_wire() == {
        "kind": "uri:m", "level": "WARN", "template": "{site} asks {n} of {other}",
        "values": {"site": "alba", "n": "3"}, "message": "alba asks 3 of {other}",
    }  # fmt: skip


def test_a_value_that_looks_like_a_place_holder_is_not_filled_in_again() -> None:
    assert MessageItem.fill("uri:m", "{a} and {b}", a="{b}", b="{a}").message == "{b} and {a}"


def test_long_values_are_cut_and_no_values_are_left_out() -> None:
    assert len(MessageItem.fill("uri:m", "{a}", a="x" * 5000).message or "") == 1000
    assert "values" not in MessageItem.fill("uri:m", "plain").to_wire()


@pytest.mark.parametrize("kind", [*kinds.EXECUTABLES, *kinds.DATA])
def test_a_short_kind_leads_to_its_uri(kind: str) -> None:
    among = (*kinds.EXECUTABLES, *kinds.DATA)
    assert kinds.expand(kinds.short(kind), among) == kind
    assert kinds.expand(kind, among) == kind
    assert kinds.expand("docker", among) is None


def test_uuids_are_uuids() -> None:
    found = ExecutionRequest.model_validate({"executable": {"kind": "uri:x", "meta": {"uuid": UUID_.upper()}}})
    assert found.executable.uuid == UUID(UUID_)
    with pytest.raises(ValidationError):
        ExecutionRequest.model_validate({"executable": {"kind": "uri:x", "meta": {"uuid": "1"}}})
