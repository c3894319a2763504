"""Who is left out without being asked, and why."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.domain import kinds
from broker.domain.request import ExecutionRequest
from broker.domain.screen import unsuitable
from broker.domain.site import Profile, Registration

NOW = datetime(2026, 11, 22, 14, 2, tzinfo=UTC)
PLAIN = Profile()


def asks(kind: str = kinds.DOCKER_CONTAINER, *, compute: dict[str, Any] | None = None, **more: Any) -> ExecutionRequest:
    box = {"compute": {"kind": kinds.SIMPLE_COMPUTE, **compute}} if compute else {}
    return ExecutionRequest.model_validate({"executable": {"kind": kind}, **box, **more})


def why(request: ExecutionRequest, profile: Profile = PLAIN, **site: Any) -> str:
    """Empty: it is asked."""
    reason = unsuitable(request, Registration(name="alba", **site), profile, NOW)
    return "" if reason is None else str(reason)


def test_whatever_a_site_does_not_say_it_is_asked() -> None:
    size = {"cores": {"min": 1000}, "memory": {"min": 1000}}
    assert why(asks(compute=size, schedule={"requested": {"duration": "PT1000H"}})) == ""


@pytest.mark.parametrize(
    ("drained", "until", "asked"),
    [(False, None, True), (True, None, False), (True, timedelta(hours=1), False), (True, timedelta(0), True)],
)
def test_a_draining_site_is_asked_for_nothing(drained: bool, until: timedelta | None, asked: bool) -> None:
    reason = why(asks(), drained=drained, drained_until=NOW + until if until is not None else None)
    assert (reason == "") is asked
    assert asked or "draining" in reason


@pytest.mark.parametrize("kind", [kinds.DOCKER_CONTAINER, kinds.SINGULARITY_CONTAINER, kinds.JUPYTER_NOTEBOOK])
def test_a_plain_site_is_asked_for_the_kinds_of_the_standard(kind: str) -> None:
    assert why(asks(kind)) == ""


@pytest.mark.parametrize("kind", [kinds.PYTHON_PROGRAM, kinds.WORKFLOW])
def test_but_not_for_ours(kind: str) -> None:
    """It would answer 400."""
    assert why(asks(kind)) != ""


def test_a_broker_of_ours_that_says_nothing_is_asked_for_any() -> None:
    assert why(asks(kinds.PYTHON_PROGRAM), Profile(broker="b")) == ""


def test_who_says_what_it_runs_is_asked_for_that_alone() -> None:
    profile = Profile(executables=(kinds.PYTHON_PROGRAM,), broker="b")
    assert why(asks(kinds.PYTHON_PROGRAM), profile) == ""
    reason = why(asks(), profile)
    assert reason.startswith("executable.kind: alba does not run")
    assert "Nearest yes" in reason


@pytest.mark.parametrize(
    ("compute", "element"),
    [
        ({"cores": {"min": 8}}, ""),
        ({"cores": {"min": 9}}, "compute.cores.min"),
        ({"cores": {"min": 1, "max": 99}}, ""),
        ({"memory": {"min": 16}}, ""),
        ({"memory": {"min": 17}}, "compute.memory.min"),
    ],
)
def test_more_than_a_site_has_is_not_asked_of_it(compute: dict[str, Any], element: str) -> None:
    reason = why(asks(compute=compute), Profile(cores=8, memory=16))
    assert reason.split(":")[0] == element


@pytest.mark.parametrize(("duration", "asked"), [("PT4H", True), ("PT4H1S", False)])
def test_nor_a_longer_run(duration: str, asked: bool) -> None:
    request = asks(schedule={"requested": {"duration": duration}})
    assert (why(request, Profile(duration=timedelta(hours=4))) == "") is asked


@pytest.mark.parametrize(
    ("declared", "count", "asked"), [({}, 1, False), ({kinds.GPU: 1}, 1, True), ({kinds.GPU: 1}, 2, False)]
)
def test_extras_are_asked_only_of_who_declares_them(declared: dict[str, int], count: int, asked: bool) -> None:
    """A plain site would ignore them, and charge for a run without."""
    request = asks(compute={"extras": [{"type": kinds.GPU, "count": count}]})
    assert (why(request, Profile(extras=declared)) == "") is asked


def test_extras_of_one_type_count_together() -> None:
    request = asks(compute={"extras": [{"type": kinds.GPU, "count": 1}, {"type": kinds.GPU, "count": 1}]})
    assert "2 ×" in why(request, Profile(extras={kinds.GPU: 1}))


@pytest.mark.parametrize(
    ("wishes", "origins", "asked"),
    [
        ({"sites_allowed": ["alba"]}, (), True),
        ({"sites_allowed": ["borealis"]}, (), False),
        ({"sites_allowed": ["leaf"]}, ("leaf", "twig"), True),
        ({"sites_forbidden": ["alba"]}, (), False),
        ({"sites_forbidden": ["borealis"]}, (), True),
        ({"sites_forbidden": ["leaf"]}, ("leaf", "twig"), True),
        ({"sites_forbidden": ["leaf", "twig"]}, ("leaf", "twig"), False),
        ({"sites_allowed": []}, (), False),
    ],
)
def test_the_callers_own_lists(wishes: dict[str, Any], origins: tuple[str, ...], asked: bool) -> None:
    """A broker before several sites is left out only where all of them are forbidden."""
    reason = why(asks(preferences=wishes), Profile(origins=origins))
    assert (reason == "") is asked


def test_a_broker_that_is_forbidden_itself_is_not_asked() -> None:
    assert why(asks(preferences={"sites_forbidden": ["alba"]}), Profile(broker="b", origins=("leaf", "twig"))) != ""


@pytest.mark.parametrize(
    ("workflows", "asked", "said"),
    [
        ((), {"type": "CWL", "version": "v1.2"}, ""),
        (("CWL v1.0", "CWL v1.2"), {"type": "cwl", "version": "V1.2"}, ""),
        (("CWL v1.0", "CWL v1.2"), {"type": "CWL"}, ""),
        (("NFL",), {"type": "NFL", "version": "24.04"}, ""),
        (("CWL v1.2",), {}, ""),
        (
            ("CWL v1.2",),
            {"type": "CWL", "version": "v1.0"},
            "executable.version: alba runs no workflows in CWL v1.0. Nearest yes: CWL v1.2.",
        ),
        (
            ("CWL v1.2", "SMK"),
            {"type": "WDL", "version": "1.0"},
            "executable.type: alba runs no workflows in WDL. Nearest yes: CWL v1.2, SMK.",
        ),
    ],
)
def test_a_workflow_goes_to_sites_that_name_its_language_or_none(
    workflows: tuple[str, ...], asked: dict[str, Any], said: str
) -> None:
    profile = Profile(broker="b", executables=(kinds.WORKFLOW,), workflows=workflows)
    request = ExecutionRequest.model_validate({"executable": {"kind": kinds.WORKFLOW, **asked}})
    assert why(request, profile) == said
