"""What planners say of results that are to go elsewhere, or to stay: what is refused, charged, and carried along."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from adapters.planning import offers, results
from adapters.planning.tariff import Tariff
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.request import ExecutionRequest
from broker.domain.site import Profile
from tests.adapters.test_planning import HOUR, Platform, Site

WRITES = Profile(platform="local", writes=("s3://results/",), keeps=timedelta(days=30))
GIB = 1.073741824


class Writer(Platform):
    async def describe(self, deadline: Deadline) -> Profile:
        return (await super().describe(deadline)).with_(writes=WRITES.writes, keeps=WRITES.keeps)


def writer(**settings: Any) -> Site:
    site = Site(**settings)
    site.platform = Writer(site.options, site.calendar, site.clock)
    site.planner = site.restarted()
    return site


def asked(*, storage: str = "", **outputs: Any) -> ExecutionRequest:
    parts: dict[str, Any] = {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "pass"}}
    parts["schedule"] = {"requested": {"duration": "PT1H"}}
    if storage:
        schedule = {"available": {"duration": storage}}
        parts["storage"] = [{"kind": kinds.SIMPLE_STORAGE, "size": {"min": 10}, "schedule": schedule}]
    return ExecutionRequest.model_validate({**parts, "outputs": outputs or None})


def refusals(request: ExecutionRequest, profile: Profile = WRITES, tariff: Tariff | None = None) -> list[str]:
    return [str(reason) for reason in results.refuse(request, profile, tariff)]


def tariff(**rates: Any) -> Tariff:
    return Tariff.model_validate(rates)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "request_",
    [
        asked(),
        asked(size=20),
        asked(to="s3://results/mine", size=20, keep="P30D"),
        asked(storage="PT1H"),
        asked(storage="P30D"),
    ],
)
def test_what_can_be_done_is_not_refused(request_: ExecutionRequest) -> None:
    assert refusals(request_) == []


def test_a_place_out_of_reach_is_refused_with_what_is_in_reach() -> None:
    assert refusals(asked(to="s3://elsewhere/mine")) == [
        "outputs.to: results cannot be written to s3://elsewhere/mine from here; they can to s3://results/. "
        "Nearest yes: s3://results/."
    ]
    assert refusals(asked(to="s3://results/mine"), Profile(platform="local")) == [
        "outputs.to: results cannot be written to s3://results/mine from here."
    ]


def test_a_site_that_cannot_keep_so_long_names_its_longest() -> None:
    assert refusals(asked(keep="P60D")) == ["outputs.keep: P60D asked, the longest here is P30D. Nearest yes: P30D."]
    assert "does not say how long" in refusals(asked(keep="PT1H"), Profile(platform="local"))[0]


def test_storage_that_is_to_outlive_the_run_is_judged_by_the_same() -> None:
    (reason,) = refusals(asked(storage="P60D"))
    assert reason.startswith("storage[0].schedule.available.duration: P59DT23H asked, the longest here is P30D.")


def test_what_would_be_charged_by_a_size_that_nobody_knows_is_not_promised() -> None:
    assert refusals(asked(keep="P1D"), tariff=tariff(core_hour=1)) == []
    (reason,) = refusals(asked(keep="P1D"), tariff=tariff(storage_day=0.1))
    assert reason.startswith("outputs.size: what is kept for P1D is charged by its size")
    assert refusals(asked(keep="P1D", size=1), tariff=tariff(storage_day=0.1)) == []


# ── what is charged ──────────────────────────────────────────────────────────────────────────────────────────


def test_results_are_charged_by_gigabytes_and_days() -> None:
    assert results.keeping(asked(size=20, keep="P30D")) == 600.0
    assert results.keeping(asked(size=20)) == 0.0


def test_storage_is_charged_for_its_life_and_not_for_the_run_twice() -> None:
    assert results.keeping(asked(storage="PT25H")) == pytest.approx(10 * GIB)
    assert results.keeping(asked(storage="PT30M")) == 0.0


async def test_the_price_of_an_offer_holds_the_keeping() -> None:
    site = writer(tariff={"core_hour": 1, "storage_day": 0.01})
    plain = await price(site, outputs={"size": 20})
    assert await price(site, outputs={"size": 20, "keep": "P30D"}) == pytest.approx(plain + 6.0)


async def price(site: Site, **more: Any) -> float:
    (offer, *_) = await site.offered(schedule={"requested": {"duration": "PT1H"}}, **more)
    job = offers.read(offer).job
    found = offers.ScheduledExecutionSession.model_validate_json(offer.offer)
    assert found.costs is not None
    assert job.duration == HOUR
    return float(found.costs[0].max)  # type: ignore[attr-defined]


async def test_and_so_does_the_bill_of_what_ran() -> None:
    site = writer(tariff={"core_hour": 1, "storage_day": 0.01})
    item = await site.offer(outputs={"size": 20, "keep": "P30D"})
    await site.accept(item)
    site.clock.advance(HOUR)
    seen = await site.look(item)
    assert getattr(seen, "cost", None) == pytest.approx(1.0 + 6.0)  # 2 cores for half an hour, and the keeping


# ── what is carried along ────────────────────────────────────────────────────────────────────────────────────


async def test_an_offer_carries_where_results_go_since_planners_remember_nothing() -> None:
    wanted = {"to": "s3://results/mine", "size": 20.0, "keep": "P2D"}
    item = await writer().offer(outputs=wanted)
    outputs = offers.read(item).job.request.outputs
    assert outputs is not None
    assert outputs.to_wire() == wanted


async def test_a_planner_whose_platform_writes_nowhere_declines() -> None:
    (reason,) = (await Site().declined(outputs={"to": "s3://results/mine"})).reasons
    assert reason.element == "outputs.to"
