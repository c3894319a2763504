"""Where results may be said to go, and which sites are asked then."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain import kinds
from broker.domain.faults import parse
from broker.domain.outputs import Outputs, covers, reaches
from broker.domain.plain import strict
from broker.domain.request import ExecutionRequest
from broker.domain.screen import unsuitable
from broker.domain.site import Profile, Registration, union
from broker.errors import BadInput
from tests.domain.test_screen import NOW

OURS = Profile(platform="local", writes=("s3://results/", "https"))


def asks(**outputs: Any) -> ExecutionRequest:
    return parse(ExecutionRequest, {"executable": {"kind": kinds.JUPYTER_NOTEBOOK}, "outputs": outputs})


def why(request: ExecutionRequest, profile: Profile, **site: Any) -> str:
    """Empty: it is asked."""
    reason = unsuitable(request, Registration(name="alba", **site), profile, NOW)
    return "" if reason is None else str(reason)


# ── what can be said ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "place",
    [
        "s3://results/mine",
        "https://store.example.org/results/mine/",
        "http://localhost:19000/x/{session}/",
        "https://store.example.org/a%20b/",
    ],
)
def test_a_place_is_taken_as_it_was_written(place: str) -> None:
    outputs = asks(to=place, size=20, keep="P30D").outputs
    assert outputs is not None
    assert (outputs.to, outputs.size, outputs.keep) == (place, 20.0, timedelta(days=30))


@pytest.mark.parametrize(
    "place",
    [
        "",
        "results",
        "/results",
        "s3:",
        "s3://",
        "https:///x",
        "https://user:pass@store.example.org/x",
        "https://store.example.org/x?sig=secret",
        "https://store.example.org/x?",
        "https://store.example.org/x#y",
        "https://store.example.org/mine/../theirs",
        "https://store.example.org/mine/%2e%2E/theirs",
        "https://store.example.org/mine/%252e%252e/theirs",
        "https://store.example.org/mine%2f..%2ftheirs",
        "https://store.example.org/mine/..%5ctheirs",
        "https://store.example.org/mine/..;x=1/theirs",
        "https://store.example.org/./mine",
        "https://{session}.example.org/x",
        "https://store.example.org:x/",
        "https://[::1/",
        "https://store.example.org/a b",
        "https://store.example.org/a\nHost: other",
        "https://störe.example.org/",
        "https://store.example.org/" + "x" * 2000,
    ],
)
def test_a_place_that_leads_elsewhere_or_holds_a_secret_is_refused(place: str) -> None:
    with pytest.raises(BadInput) as caught:
        asks(to=place)
    assert caught.value.element == "outputs.to"


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"size": -1}, {"size": "1"}, {"keep": "PT0S"}, {"keep": "-P1D"}, {"two": "s3://x/y"}]
)
def test_nothing_is_guessed(wrong: dict[str, Any]) -> None:
    """A size of nothing would be a price of nothing."""
    with pytest.raises(BadInput):
        asks(**wrong)


def test_a_place_in_rucio_needs_its_storage_element_and_no_other_has_one() -> None:
    outputs = asks(to="rucio:user.ada/results", rse="ALBA_DISK").outputs
    assert outputs is not None
    assert outputs.rse == "ALBA_DISK"
    for wrong in ({"to": "rucio:user.ada/results"}, {"to": "s3://x/y", "rse": "ALBA_DISK"}, {"rse": "ALBA_DISK"}):
        with pytest.raises(BadInput, match="rse"):
            asks(**wrong)


# ── who is asked ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entry", "place", "covered"),
    [
        ("https", "https://anywhere.example.org/x", True),
        ("HTTPS", "https://anywhere.example.org/x", True),
        ("https", "http://anywhere.example.org/x", False),
        ("s3://results/", "s3://results/mine", True),
        ("s3://results", "s3://results/", True),
        ("s3://results/", "s3://results2/mine", False),
        ("s3://results/mine", "s3://results/mine2", False),
        ("https://Store.example.org:443/r/", "https://store.example.org/r/x", True),
        ("https://store.example.org/r/", "http://store.example.org/r/x", False),
        ("https://store.example.org/", "https://store.example.org.evil.org/", False),
        ("rucio", "rucio:user.ada/results", True),
        ("rucio:user.ada", "rucio:user.ada/results", True),
        ("rucio:user.ad", "rucio:user.ada/results", False),
    ],
)
def test_a_scheme_or_a_prefix_covers_a_place(entry: str, place: str, covered: bool) -> None:
    assert covers(entry, place) is covered


@given(st.text(alphabet="ab./%", max_size=12))
def test_no_place_that_is_taken_leads_out_of_its_prefix(path: str) -> None:
    place = f"https://store.example.org/r/{path}"
    try:
        asks(to=place)
    except BadInput:
        return
    assert covers("https://store.example.org/r/", place)


def test_a_site_that_cannot_write_there_is_not_asked_and_says_what_it_can() -> None:
    assert why(asks(to="s3://results/mine"), OURS) == ""
    assert why(asks(to="s3://elsewhere/mine"), OURS) == (
        "outputs.to: alba cannot write results to s3://elsewhere/mine: it writes to s3://results/, https. "
        "Nearest yes: s3://results/, https."
    )
    assert "it names no place" in why(asks(to="s3://x/y"), Profile(platform="local"))


def test_the_operator_of_the_federation_may_know_better() -> None:
    assert why(asks(to="s3://elsewhere/mine"), OURS, writes=("s3://elsewhere",)) == ""
    assert why(asks(to="s3://results/mine"), OURS, writes=("s3://elsewhere",)) != ""


@pytest.mark.parametrize("outputs", [{"to": "s3://results/mine"}, {"keep": "P30D"}])
def test_a_plain_site_is_never_asked_to_write(outputs: dict[str, Any]) -> None:
    """It would run, and write nothing, whatever the operator of the federation says of it."""
    reason = why(asks(**outputs), Profile(), writes=("s3://results",))
    assert "plain 1.0 service" in reason


def test_how_much_is_expected_leaves_nobody_out() -> None:
    assert why(asks(size=20), Profile()) == ""


def test_a_broker_before_several_sites_writes_where_any_of_them_does() -> None:
    both = union([OURS, Profile(platform="local", writes=("s3://other/",))])
    assert reaches(both.writes, "s3://other/x")
    assert reaches(both.writes, "s3://results/x")
    assert not reaches(both.writes, "ftp://x/y")


def test_a_plain_site_does_not_see_it() -> None:
    assert "outputs" not in strict(asks(size=20))


def test_it_comes_back_as_it_was_sent() -> None:
    sent = asks(to="s3://results/mine", size=20, keep="P30D").outputs
    assert sent is not None
    assert Outputs.model_validate(sent.to_wire()) == sent
