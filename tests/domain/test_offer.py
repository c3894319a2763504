"""Reading offers: conforming bytes stay, what offends is left out and said, what ranks is taken out right."""

from __future__ import annotations

import json
from copy import deepcopy
from datetime import UTC, datetime
from math import isfinite
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.domain import components, data, executables, forms, kinds, measures, resources, schedule, session
from broker.domain.base import Family, Model
from broker.domain.offer import Needs, Offer, Reading, cut, read, unfit
from broker.domain.outcome import Quote
from broker.domain.quantities import Span
from broker.domain.request import ExecutionRequest

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()
UUID = "0b6e6a2e-5b1c-4a43-9c39-4a2f0a2b1c11"
ALBA = Reading("alba", units={kinds.CARBON: "kg", kinds.ENERGY: "kWh"}, countries=("CH",))
CHILD = Reading("child", ours=True)


def money(low: Any = 1.0, high: Any = 1.5, **more: Any) -> dict[str, Any]:
    return {"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "min": low, "max": high, **more}


def an_offer(**changes: Any) -> dict[str, Any]:
    """A plain site's offer; `changes` replace top-level properties, None removes."""
    offer: dict[str, Any] = {
        "kind": kinds.SCHEDULED_SESSION,
        "meta": {
            "uuid": UUID,
            "name": "offer-0",
            "url": f"https://alba.example/sessions/{UUID}",
            "created": "2026-11-22T12:00:00.123456789Z",
            "messages": [{"kind": "urn:x", "level": "WARN", "template": "capped"}],
            "options": [{"kind": kinds.ENUM_OPTION, "path": "/phase", "values": ["ACCEPTED"]}],
        },
        "phase": "OFFERED",
        "expires": "2026-11-22T12:05:00Z",
        "executable": {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["ghcr.io/x/y:1"]}},
        "compute": {
            "kind": kinds.SIMPLE_COMPUTE,
            "cores": {"min": 4, "max": 4},
            "memory": {"min": 8, "max": 8},
            "schedule": {
                "preparing": {"start": "2026-11-22T12:05:00Z", "duration": "PT5M"},
                "available": {"start": "2026-11-22T12:10:00Z/PT0S", "duration": "PT2H"},
            },
            "costs": [money(99.0, 99.0)],
        },
        "costs": [money(), {"kind": kinds.MINMAX_COST, "type": kinds.CARBON, "min": 0.1, "max": 0.2}],
    }
    offer.update(changes)
    return {name: value for name, value in offer.items() if value is not None}


def body(offer: object) -> bytes:
    return json.dumps(offer, separators=(", ", ": ")).encode()


def reading(offer: object, site: Reading = ALBA, **more: Any) -> Offer:
    raw = offer if isinstance(offer, bytes) else body(offer)
    result = read(Quote("h-1", raw), site, NOW, **more)
    assert isinstance(result, Offer), result
    return result


def refusal(offer: object, site: Reading = ALBA) -> str:
    raw = offer if isinstance(offer, bytes) else body(offer)
    result = read(Quote("h-1", raw), site, NOW)
    assert isinstance(result, str)
    return result


def without(offer: dict[str, Any], *path: str | int) -> dict[str, Any]:
    copy = deepcopy(offer)
    node: Any = copy
    for step in path[:-1]:
        node = node[step]
    del node[path[-1]]
    return copy


def with_(offer: dict[str, Any], value: object, *path: str | int) -> dict[str, Any]:
    copy = deepcopy(offer)
    node: Any = copy
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return copy


# ── what is kept and what is cut ─────────────────────────────────────────────────────────────────────────────


def test_conforming_bytes_are_kept_to_the_letter() -> None:
    said = an_offer(unheard={"of": [1.10, "\u00e9"]})
    offer = reading(said)
    assert not offer.repairs
    assert bytes(cut(offer.body)[0]["compute"]) == body(said["compute"])
    assert bytes(cut(offer.body)[0]["unheard"]) == body(said["unheard"])
    assert bytes(cut(offer.body)[1]["messages"]) == body(said["meta"]["messages"])


def test_what_the_broker_writes_is_cut() -> None:
    forged = {name: "forged" for name in ("site", "offerset", "ranking", "origin", "promise", "native", "options")}
    offer = reading(an_offer(**forged, reserved="yes", simulated=7))
    assert set(cut(offer.body)[0]) == {"executable", "compute", "costs"}
    assert set(cut(offer.body)[1]) == {"name", "created", "messages"}
    assert (offer.origin, offer.reserved, offer.simulated) == ("alba", False, False)


def test_null_metadata_is_none() -> None:
    rest, meta = cut(body(with_(an_offer(), None, "meta")))
    assert set(rest) == {"executable", "compute", "costs"}
    assert meta == {}


def test_the_last_of_two_equal_keys_is_read_and_it_alone_goes_out() -> None:
    twice = body(an_offer()).replace(b'"phase": ', b'"compute": {"kind": "x"}, "phase": ', 1)
    offer = reading(twice)
    assert offer.cores == Span(4, 4)
    assert b'"kind": "x"' not in bytes(cut(offer.body)[0]["compute"])


def test_an_offer_without_anything_is_readable() -> None:
    offer = reading({})
    assert (offer.price, offer.start, offer.cores, offer.run, offer.locality) == (None, None, None, None, None)
    assert offer.expires == NOW + 300
    assert offer.site_expires is None


def test_nulls_count_as_absent() -> None:
    nulls = {name: None for name in ("meta", "costs", "compute", "data", "schedule", "expires", "phase")}
    assert not reading(body({**an_offer(), **nulls})).repairs


# ── what ranks ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sessions_own_costs_lead_and_components_are_not_added() -> None:
    offer = reading(an_offer())
    assert (offer.price, offer.currency) == (Span(1.0, 1.5), "EUR")
    assert offer.carbon == Span(0.1, 0.2)
    assert reading(an_offer(costs=None)).price is None


@pytest.mark.parametrize(
    ("costs", "price", "currency"),
    [
        ([money(0, 0)], Span(0, 0), "EUR"),
        ([money(2.0, 1.0)], Span(1, 2), "EUR"),
        ([money(None, 2.0)], Span(2, 2), "EUR"),
        ([money(2.0, None)], Span(2, 2), "EUR"),
        ([money(None, None)], None, None),
        ([money(unit="USD")], Span(1, 1.5), "USD"),
        ([money(), money(2, 2)], Span(3, 3.5), "EUR"),
        ([money(), money(2, 2, unit="USD")], Span(1, 1.5), "EUR"),
        ([money(1e308, 1e308), money(1e308, 1e308)], Span(1e308, 1e308), "EUR"),
        ([money(-5, 1)], None, None),
        ([{"kind": kinds.ABSTRACT_COST, "type": kinds.MONETARY}], None, None),
    ],
)
def test_prices(costs: list[dict[str, Any]], price: Span | None, currency: str | None) -> None:
    offer = reading(an_offer(costs=costs))
    assert (offer.price, offer.currency) == (price, currency)


def test_a_registered_unit_comes_before_the_base_currency() -> None:
    site = Reading("alba", units={kinds.MONETARY: "CHF"}, currency="EUR")
    assert reading(an_offer(), site).currency == "CHF"


@pytest.mark.parametrize(("unit", "kilograms"), [("kg", 2.0), ("g", 0.002), ("t", 2000.0), ("pounds", None)])
def test_carbon_comes_in_kilograms_or_not_at_all(unit: str, kilograms: float | None) -> None:
    cost = {"kind": kinds.MINMAX_COST, "type": kinds.CARBON, "min": 2, "max": 2, "unit": unit}
    carbon = reading(an_offer(costs=[cost])).carbon
    assert (carbon.high if carbon else None) == kilograms


def test_a_cost_too_large_for_its_unit_is_unknown() -> None:
    cost = {"kind": kinds.MINMAX_COST, "type": kinds.CARBON, "min": 1e308, "max": 1e308, "unit": "t"}
    assert reading(an_offer(costs=[cost])).carbon is None


def test_metrics_of_the_session_lead_those_of_the_compute_resource() -> None:
    def metric(type_: str, value: float) -> dict[str, Any]:
        return {"kind": kinds.MINMAX_METRIC, "type": type_, "min": value, "max": value}

    offer = an_offer(metrics=[metric("a", 1)])
    offer["compute"]["metrics"] = [metric("a", 2), metric("b", 3)]
    assert reading(offer).metrics == {"a": Span(1, 1), "b": Span(3, 3)}


def test_start_slot_and_preparing() -> None:
    offer = reading(an_offer())
    assert offer.start == Span.of(NOW + 600)
    assert offer.run == Span.of(7200)
    assert offer.prepares
    assert not reading(without(an_offer(), "compute", "schedule", "preparing")).prepares


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2026-11-22T12:10:00Z/2026-11-22T12:40:00Z", 600, 2400),
        ("2026-11-22T12:10:00+00:00/PT30M", 600, 2400),
        ("PT30M/2026-11-22T12:40:00Z", 600, 2400),
        ("2026-11-22T13:10:00.000+01:00/PT0S", 600, 600),
        ("2026-11-22T12:10:00/PT0S", 600, 600),
    ],
)
def test_start_intervals(text: str, low: float, high: float) -> None:
    offer = with_(an_offer(), text, "compute", "schedule", "available", "start")
    assert reading(offer).start == Span(NOW + low, NOW + high)


def test_the_sessions_schedule_serves_where_the_compute_resource_has_none() -> None:
    offer = without(an_offer(), "compute", "schedule")
    offer["schedule"] = {"available": {"start": "2026-11-22T13:00:00Z/PT0S", "duration": "P1D"}}
    assert reading(offer).start == Span.of(NOW + 3600)
    assert reading(offer).run == Span.of(86400)


def test_times_are_told_by_our_clock() -> None:
    ahead = Reading("alba", clock_offset=60.0)
    offer = reading(an_offer(), ahead)
    assert offer.start == Span.of(NOW + 540)
    assert offer.expires == pytest.approx(NOW + 240 - 5)
    assert offer.site_expires == NOW + 300


@pytest.mark.parametrize(
    ("expires", "margin", "left"),
    [
        ("2026-11-22T12:05:00Z", 5.0, 295.0),
        ("2026-11-22T12:00:10Z", 5.0, 9.5),
        ("2026-11-22T12:05:00", 0.0, 300.0),
        ("9999-12-31T23:59:59Z", 5.0, 7 * 86400.0),
    ],
)
def test_expiry_less_a_margin(expires: str, margin: float, left: float) -> None:
    offer = reading(an_offer(expires=expires), Reading("alba", margin=margin))
    assert offer.expires - NOW == pytest.approx(left)


def test_extras_are_counted() -> None:
    extras = [{"type": kinds.GPU, "count": 2}, {"type": kinds.GPU}, {"type": kinds.FPGA}]
    assert reading(with_(an_offer(), extras, "compute", "extras")).extras == {kinds.GPU: 3, kinds.FPGA: 1}


def test_extras_of_a_sites_own_form_are_kept_and_not_counted() -> None:
    offer = reading(with_(an_offer(), {"wifi": True}, "compute", "extras"))
    assert offer.extras == {}
    assert b'"wifi"' in bytes(cut(offer.body)[0]["compute"])
    assert "extras" in offer.repairs[0]


# ── brokers of ours ──────────────────────────────────────────────────────────────────────────────────────────

TERMS = {
    "bytes": {"expected": 5e9, "pessimistic": 6e9},
    "sources": ["store-a"],
    "staging": {"expected": 30.0, "pessimistic": 40.0},
    "egress": {"expected": 0.5, "pessimistic": 0.5, "unit": "USD"},
    "certainty": "estimated",
}


def test_additions_of_ours_are_believed() -> None:
    offer = reading(an_offer(origin="leaf", reserved=True, simulated=True, results=True, locality=TERMS), CHILD)
    assert (offer.origin, offer.site) == ("leaf", "child")
    assert offer.reserved
    assert offer.simulated
    assert offer.results
    assert offer.locality is not None
    assert offer.locality.bytes == Span(4e9, 6e9)
    assert offer.locality.bytes.expected == 5e9
    assert offer.locality.staging == Span(20, 40)
    assert (offer.locality.egress, offer.locality.currency) == (Span(0.5, 0.5), "USD")


def test_a_plain_sites_locality_is_not_believed() -> None:
    assert reading(an_offer(locality=TERMS)).locality is None


def test_an_addition_of_a_wrong_form_is_left_out() -> None:
    offer = reading(an_offer(origin=7, locality={"bytes": "all"}), CHILD)
    assert offer.origin == "child"
    assert len(offer.repairs) == 2


# ── repairs ──────────────────────────────────────────────────────────────────────────────────────────────────

OFFENCES: list[tuple[tuple[str | int, ...], object, str]] = [
    (("compute", "cores", "min"), "4", "compute.cores.min"),
    (("compute", "cores", "min"), -1, "compute.cores.min"),
    (("compute", "cores", "min"), True, "compute.cores.min"),
    (("compute", "cores"), [4], "compute.cores"),
    (("compute", "schedule", "available", "duration"), "pt2h", "compute.schedule.available.duration"),
    (("compute", "schedule", "available", "start"), "tomorrow/PT2H", "compute.schedule.available.start"),
    (("compute", "schedule", "preparing", "start"), "2026-11-22 12:00:00Z", "compute.schedule.preparing.start"),
    (("compute", "phase"), "BOGUS", "compute.phase"),
    (("compute", "meta"), {"uuid": "no-uuid"}, "compute.meta.uuid"),
    (("executable",), {"kind": "urn:unheard"}, "executable.kind"),
    (("executable", "image"), {"locations": "one"}, "executable.image.locations"),
    (("executable", "environment"), {"A": "b", "C": 3}, "executable.environment"),
    (("costs", 1, "kind"), "urn:unheard", "costs[1].kind"),
    (("costs", 1, "min"), "cheap", "costs[1].min"),
    (("costs",), "free", "costs"),
    (("meta", "messages", 0, "level"), "LOUD", "meta.messages[0].level"),
    (("meta", "created"), "yesterday", "meta.created"),
    (("meta",), 7, "meta"),
    (("data",), [{"kind": "urn:unheard"}], "data[0].kind"),
    (("expires",), "later", "expires"),
    (("connectors",), [{"status": "MAYBE"}], "connectors[0].status"),
]


@pytest.mark.parametrize(("path", "value", "named"), OFFENCES)
def test_what_offends_is_left_out_and_said(path: tuple[str | int, ...], value: object, named: str) -> None:
    offer = reading(with_(an_offer(), value, *path))
    assert offer.repairs[0].startswith(f"{named} was left out: ")
    rest = {name: json.loads(bytes(raw)) for name, raw in cut(offer.body)[0].items()}
    again = reading({**rest, "phase": "OFFERED"})
    assert not again.repairs


def test_a_repair_leaves_the_rest_alone() -> None:
    offer = reading(with_(an_offer(unheard=[1, 2]), "four", "compute", "cores", "max"))
    compute = json.loads(bytes(cut(offer.body)[0]["compute"]))
    assert compute["cores"] == {"min": 4}
    assert compute["memory"] == {"min": 8, "max": 8}
    assert json.loads(bytes(cut(offer.body)[0]["unheard"])) == [1, 2]
    assert offer.price == Span(1.0, 1.5)


def test_repairs_are_bounded() -> None:
    text = refusal(an_offer(data=[{"kind": "urn:unheard"}] * 40))
    assert "more than 16 places" in text
    assert "data[0].kind" in text


def test_a_kind_outside_the_standard_comes_back_to_whoever_asked_for_it() -> None:
    mine = {"kind": "urn:mine", "anything": [1]}
    said = an_offer(executable=mine, compute=mine, data=[mine], storage=[mine])
    kept = reading(said, asked=("urn:mine",))
    assert not kept.repairs
    assert {
        name: json.loads(bytes(cut(kept.body)[0][name])) for name in ("executable", "compute", "data", "storage")
    } == {name: said[name] for name in ("executable", "compute", "data", "storage")}
    others = reading(said)
    assert "executable" not in cut(others.body)[0]
    assert len(others.repairs) >= 4


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "no JSON"),
        (b"offer", "no JSON"),
        (b"[]", "no JSON object"),
        (b'{"costs": [NaN]}', "no JSON"),
        (b'{"unheard": "\xff"}', "no JSON"),
        (b'{"unheard": NaN}', "no JSON"),
        (b'{"unheard": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON"),
        (b'{"phase": "ACCEPTED"}', "ACCEPTED"),
        (b'{"expires": "2026-11-22T11:59:00Z"}', "expired"),
        (b'{"expires": "1970-01-01T00:00:00Z"}', "expired"),
        (b'{"schedule": {"available": {"start": "2026-02-31T00:00:00Z/PT0S"}}}', "a time that is none"),
        (b'{"schedule": {"available": {"duration": "P99999Y"}}}', "a time that is none"),
        (b'{"schedule": {"available": {"start": "9999-12-31T00:00:00Z/P9Y"}}}', "a time that is none"),
    ],
)
def test_unusable_offers_say_why(raw: bytes, words: str) -> None:
    assert words in refusal(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([1e308, -1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [path for path, _, _ in OFFENCES]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PATHS), JSON, st.booleans())
def test_whatever_a_site_writes_nothing_raises_and_nothing_is_infinite(
    path: tuple[str | int, ...], value: object, ours: bool
) -> None:
    result = read(Quote("h", body(with_(an_offer(), value, *path))), CHILD if ours else ALBA, NOW)
    if isinstance(result, Offer):
        spans = [result.price, result.energy, result.carbon, result.cores, result.memory, result.start, result.run]
        assert all(isfinite(span.low) and isfinite(span.high) and span.low <= span.high for span in spans if span)
        assert result.expires > NOW
        msgspec.json.decode(msgspec.json.encode(cut(result.body)[0]))


# ── does it fit? ─────────────────────────────────────────────────────────────────────────────────────────────


def needs(**more: Any) -> Needs:
    request = {"executable": {"kind": kinds.DOCKER_CONTAINER}, **more}
    return Needs.of(ExecutionRequest.model_validate(request))


def compute(**more: Any) -> dict[str, Any]:
    return {"compute": {"kind": kinds.SIMPLE_COMPUTE, **more}}


def test_an_offer_that_fits() -> None:
    assert unfit(reading(an_offer()), needs(**compute(cores={"min": 2, "max": 4}))) == (None, ())


def test_above_the_maximum_is_kept_with_a_warning() -> None:
    reason, warnings = unfit(reading(an_offer()), needs(**compute(cores={"min": 2, "max": 3})))
    assert reason is None
    assert warnings == ("it offers 4 cores, more than the 3 asked for",)


@pytest.mark.parametrize("unreliable", ["compute.memory", "compute"])
def test_below_the_minimum_is_excluded_unless_the_field_is_unreliable(unreliable: str) -> None:
    asked = needs(**compute(memory={"min": 16}))
    reason, _ = unfit(reading(an_offer()), asked)
    assert reason == "it offers 8 GiB of memory, and at least 16 were asked for"
    kept, warnings = unfit(reading(an_offer()), asked, (unreliable,))
    assert kept is None
    assert "not relied on" in warnings[0]


def test_an_unreliable_field_does_not_cover_another_shortfall() -> None:
    asked = needs(**compute(memory={"min": 16}, cores={"min": 16}))
    reason, _ = unfit(reading(an_offer()), asked, ("compute.memory",))
    assert reason == "it offers 4 cores, and at least 16 were asked for"


def test_asked_extras_must_come_back() -> None:
    asked = needs(**compute(extras=[{"type": kinds.GPU, "count": 2}]))
    assert unfit(reading(an_offer()), asked)[0] == "it offers 0 of gpu, and 2 were asked for"
    offer = with_(an_offer(), [{"type": kinds.GPU, "count": 2}], "compute", "extras")
    assert unfit(reading(offer), asked)[0] is None


def test_storage_is_compared_as_a_whole() -> None:
    sizes = [{"kind": kinds.SIMPLE_STORAGE, "size": {"min": 10}} for _ in range(2)]
    asked = needs(storage=sizes)
    assert unfit(reading(an_offer(storage=sizes)), asked) == (None, ())
    assert "10 GiB of storage" in str(unfit(reading(an_offer(storage=sizes[:1])), asked)[0])
    assert "does not state its storage" in unfit(reading(an_offer()), asked)[1][0]


def test_a_slot_too_short_and_a_start_outside_the_window_are_excluded() -> None:
    assert "7200 s long" in str(unfit(reading(an_offer()), needs(schedule={"requested": {"duration": "PT3H"}}))[0])
    for window, words in (
        ("2026-11-22T12:00:00Z/PT5M", "after the asked window"),
        ("2026-11-22T13:00:00Z/PT5M", "before the asked window"),
    ):
        assert words in str(unfit(reading(an_offer()), needs(schedule={"requested": {"start": window}}))[0])
    fitting = needs(schedule={"requested": {"start": "2026-11-22T12:00:00Z/PT1H"}})
    assert unfit(reading(an_offer()), fitting) == (None, ())


def test_sizes_that_are_not_stated_are_warned_of() -> None:
    reason, warnings = unfit(reading({}), needs(**compute(cores={"min": 2})))
    assert reason is None
    assert "it does not state its cores; 2 cores were asked for" in warnings


# ── the forms and the models are one standard ────────────────────────────────────────────────────────────────

FAMILIES: list[tuple[type[Family], Any]] = [
    (executables.AbstractExecutable, forms.Session.__annotations__["executable"]),
    (data.AbstractDataResource, forms.Session.__annotations__["data"]),
    (resources.AbstractComputeResource, forms.Session.__annotations__["compute"]),
    (resources.AbstractStorageResource, forms.Session.__annotations__["storage"]),
    (resources.AbstractVolumeMount, forms.Compute.__annotations__["volumes"]),
    (components.AbstractCostItem, forms.Session.__annotations__["costs"]),
    (components.AbstractMetricItem, forms.Session.__annotations__["metrics"]),
    (components.AbstractOption, forms.Metadata.__annotations__["options"]),
]


def structs(hint: object) -> set[type[msgspec.Struct]]:
    if isinstance(hint, str):
        hint = eval(hint, vars(forms))  # noqa: S307 - the annotations of our own module
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return {hint}
    return {found for inner in get_args(hint) for found in structs(inner)}


@pytest.mark.parametrize(("family", "hint"), FAMILIES)
def test_every_kind_of_the_models_has_its_form_with_the_same_properties(family: type[Family], hint: object) -> None:
    by_kind = {struct.__struct_config__.tag: struct for struct in structs(hint)}
    assert set(by_kind) == set(family.members)
    for kind, model in family.members.items():
        assert {*by_kind[kind].__struct_fields__, "kind"} == set(model.model_fields), kind


PAIRS: list[tuple[type[Model], type[msgspec.Struct]]] = [
    (components.ComponentMetadata, forms.Metadata),
    (components.MessageItem, forms.Message),
    (schedule.LifecycleStartDurationInstant, forms.Starting),
    (schedule.LifecycleStartDurationInterval, forms.Available),
    (schedule.LifecycleSchedule, forms.Schedule),
    (measures.MinMaxLong, forms.MinMax),
    (executables.DockerImageSpec, forms.Image),
    (executables.DockerPlatformSpec, forms.Platform),
    (executables.DockerNetworkSpec, forms.Network),
    (executables.DockerNetworkPort, forms.Port),
    (executables.DockerExternalPort, forms.ExternalPort),
    (data.IvoaDataResourceBlock, forms.Ivoa),
    (data.IvoaObsCoreItem, forms.ObsCore),
    (data.IvoaDataLinkItem, forms.DataLink),
    (data.SkaoDataResourceBlock, forms.Skao),
    (data.SkaoReplicaItem, forms.Replica),
    (data.SkaoChecksumItem, forms.Checksum),
    (data.RucioDataResourceBlock, forms.Rucio),
    (session.SimpleSessionConnector, forms.Connector),
    (session.LocalityNote, forms.Locality),
]


@pytest.mark.parametrize(("model", "form"), PAIRS)
def test_blocks_have_the_same_properties(model: type[Model], form: type[msgspec.Struct]) -> None:
    assert set(model.model_fields) == set(form.__struct_fields__)


def test_the_sessions_form_knows_every_standard_property_of_a_session() -> None:
    ours = {
        "site",
        "origin",
        "reserved",
        "simulated",
        "platform",
        "native",
        "results",
        "offerset",
        "locality",
        "ranking",
        "promise",
        "transfers",
        "outputs",
        "located",
    }
    standard = set(session.ScheduledExecutionSession.model_fields) - ours
    assert standard == {*forms.Session.__struct_fields__, "kind"}
