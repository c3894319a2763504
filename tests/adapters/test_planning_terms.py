"""What a site charges and allows, and how its settings refuse what they cannot mean."""

from __future__ import annotations

from typing import Any

import pytest

from adapters.planning.platform import Capacity
from adapters.planning.policies import Policies
from adapters.planning.settings import CapacitySettings, site_settings
from adapters.planning.sizes import Size, amounts, choose, limits, refuse
from adapters.planning.tariff import EGRESS, Tariff, Use, price, share
from broker.domain import kinds
from broker.domain.request import ExecutionRequest
from broker.errors import SettingsError

USE = Use(cores=4, memory=16, storage=100, extras={kinds.GPU: 2})


def request(**parts: Any) -> ExecutionRequest:
    executable = {"kind": kinds.DOCKER_CONTAINER, "image": {"locations": ["docker.io/fit:latest", "quay.io/fit:1"]}}
    return ExecutionRequest.model_validate({"executable": executable, **parts})


def sized(cores: Any = None, memory: Any = None, **more: Any) -> ExecutionRequest:
    compute = {"kind": kinds.SIMPLE_COMPUTE, "cores": cores or {}, "memory": memory or {}, **more}
    return request(compute=compute)


def totals(tariff: Tariff | None, seconds: float = 7200.0) -> dict[str, tuple[float, float, str]]:
    costs = price(tariff, USE, seconds, "EUR")
    return {c.type: (c.min, c.max, c.unit) for c in costs}  # type: ignore[attr-defined, misc]


class TestTariff:
    def test_each_rate_is_charged_by_its_unit(self) -> None:
        tariff = Tariff(
            core_hour=0.05,
            memory_hour=0.01,
            accelerator_hour={kinds.GPU: 1.5},
            storage_day=0.12,
        )
        # 2 h: 4 cores 0.40, 16 GiB 0.32, 2 GPUs 6.00; 100 GiB = 107.3741824 GB for a twelfth of a day: 1.073742
        assert totals(tariff) == {kinds.MONETARY: (7.793742, 7.793742, "EUR")}

    def test_ranges_stay_ranges(self) -> None:
        tariff = site_settings({"tariff": {"core_hour": {"min": 0.1, "max": 0.2}, "currency": "CHF"}}).tariff
        assert totals(tariff) == {kinds.MONETARY: (0.8, 1.6, "CHF")}

    def test_energy_and_carbon_multiply_through(self) -> None:
        tariff = site_settings({"tariff": {"energy": 0.02, "carbon": {"min": 0.1, "max": 0.4}}}).tariff
        assert totals(tariff) == {kinds.ENERGY: (0.16, 0.16, "kWh"), kinds.CARBON: (0.016, 0.064, "kg")}

    def test_free_is_a_price_and_no_tariff_is_none(self) -> None:
        assert totals(site_settings({"tariff": "free"}).tariff) == {kinds.MONETARY: (0.0, 0.0, "EUR")}
        assert totals(site_settings({}).tariff) == {}

    def test_taking_data_out_is_stated_beside_the_total(self) -> None:
        tariff = site_settings({"tariff": {"core_hour": 1, "egress": 0.02}}).tariff
        assert totals(tariff) == {kinds.MONETARY: (8.0, 8.0, "EUR"), EGRESS: (0.02, 0.02, "EUR/GB")}

    def test_the_share_of_compute_leaves_storage_out(self) -> None:
        tariff = site_settings({"tariff": {"core_hour": 1, "storage_day": 1}}).tariff
        (cost,) = share(tariff, USE, 3600.0, "EUR")
        assert cost.max == 4.0  # type: ignore[attr-defined]
        assert totals(tariff, 3600.0)[kinds.MONETARY][1] > 4.0

    def test_a_bill_is_the_middle_of_the_range(self) -> None:
        tariff = site_settings({"tariff": {"core_hour": {"min": 1, "max": 2}}}).tariff
        assert tariff is not None
        assert tariff.bill(USE, 1800.0) == 3.0
        energy_alone = site_settings({"tariff": {"energy": 1}}).tariff
        assert energy_alone is not None
        assert energy_alone.bill(USE, 1800.0) is None


class TestPolicies:
    def test_a_denied_value_is_named_with_its_place_and_its_rule(self) -> None:
        rule = {"element": "executable.image.locations", "pattern": ".*:latest", "reason": "Pin a version."}
        (reason,) = Policies.model_validate({"deny": [rule]}).refuse(request())
        assert (reason.element, reason.rule) == ("executable.image.locations[0]", "deny")
        assert str(reason) == (
            'executable.image.locations[0]: "docker.io/fit:latest" is denied here by the pattern .*:latest. '
            "Pin a version."
        )

    def test_an_element_that_is_named_must_match_one_of_its_rules(self) -> None:
        rules = [{"element": "executable.image.locations", "pattern": p} for p in (r"quay\.io/.*", r"ghcr\.io/.*")]
        (reason,) = Policies.model_validate({"allow": rules}).refuse(request())
        assert reason.element == "executable.image.locations[0]"
        assert reason.nearest == r"a value like quay\.io/.* or ghcr\.io/.*"

    def test_what_a_request_does_not_have_is_not_judged(self) -> None:
        rule = {"element": "executable.requirements", "pattern": "numpy.*"}
        assert Policies.model_validate({"allow": [rule], "deny": [rule]}).refuse(request()) == ()

    def test_lists_are_gone_through_with_or_without_an_index(self) -> None:
        volumes = [{"kind": kinds.SIMPLE_VOLUME, "mode": mode, "resource": "x"} for mode in ("READONLY", "READWRITE")]
        asked = request(compute={"kind": kinds.SIMPLE_COMPUTE, "volumes": volumes})
        for element in ("compute.volumes.mode", "compute.volumes[0].mode"):
            (reason,) = Policies.model_validate({"deny": [{"element": element, "pattern": "READWRITE"}]}).refuse(asked)
            assert reason.element == "compute.volumes[1].mode"

    def test_numbers_and_truth_are_compared_as_they_are_written(self) -> None:
        executable = {"kind": kinds.DOCKER_CONTAINER, "privileged": True}
        asked = request(executable=executable)
        assert Policies.model_validate({"deny": [{"element": "executable.privileged", "pattern": "true"}]}).refuse(
            asked
        )


class TestSizes:
    BOUNDS = limits(
        Capacity(cores=8, memory=48),
        CapacitySettings(),
        site_settings({"policies": {"ceilings": {"cores": 4, "duration": "PT4H"}}}).policies.ceilings,
    )

    @pytest.mark.parametrize(
        ("asked", "text"),
        [
            (sized(memory={"min": 64}), "compute.memory.min: 64 GiB asked, ceiling 48. Nearest yes: 48."),
            (sized(cores={"min": 5}), "compute.cores.min: 5 cores asked, ceiling 4. Nearest yes: 4."),
            (
                request(schedule={"requested": {"duration": "PT5H"}}),
                "schedule.requested.duration: PT5H asked, ceiling PT4H. Nearest yes: PT4H.",
            ),
            (
                sized(cores={"min": 0, "max": 0}),
                "compute.cores.max: nothing runs on none. Nearest yes: 1.",
            ),
            (
                sized(extras=[{"type": kinds.GPU}]),
                "compute.extras: there is no uri:gpu-1.0 here. Nearest yes: none.",
            ),
        ],
    )
    def test_a_minimum_beyond_the_ceiling_names_the_nearest_yes(self, asked: ExecutionRequest, text: str) -> None:
        assert [str(reason) for reason in refuse(asked, self.BOUNDS)] == [text]

    def test_sizes_go_evenly_from_the_minima_to_the_asked_maxima(self) -> None:
        asked = sized({"min": 1, "max": 4}, {"min": 4, "max": 10})
        assert choose(asked, self.BOUNDS, 3) == (Size(1, 4), Size(2, 7), Size(4, 10))
        assert choose(asked, self.BOUNDS, 1) == (Size(1, 4),)

    def test_an_asked_maximum_is_cut_at_the_ceiling_and_never_exceeded(self) -> None:
        assert choose(sized({"min": 2, "max": 99}), self.BOUNDS, 2) == (Size(2, 1), Size(4, 1))
        assert choose(sized({"min": 2}), self.BOUNDS, 5) == (Size(2, 1),)
        assert choose(sized({"max": 3}), self.BOUNDS, 2) == (Size(1, 1), Size(3, 1))
        assert choose(sized({"min": 0, "max": 2}), self.BOUNDS, 2) == (Size(1, 1), Size(2, 1))

    def test_settings_override_what_the_platform_says(self) -> None:
        bounds = limits(Capacity(cores=8, extras={kinds.GPU: 4}), CapacitySettings(cores=2), Policies().ceilings)
        assert bounds.room == {"cores": 2.0, kinds.GPU: 4.0}

    def test_no_run_is_longer_than_any_calendar(self) -> None:
        bounds = limits(Capacity(), CapacitySettings(), Policies().ceilings)
        (reason,) = refuse(request(schedule={"requested": {"duration": "P9000Y"}}), bounds)
        assert reason.element == "schedule.requested.duration"

    @pytest.mark.parametrize("name", ["cores", "memory", "storage"])
    def test_an_extra_cannot_take_the_place_of_cores_in_the_calendar(self, name: str) -> None:
        asked = sized({"min": 4}, extras=[{"type": name, "count": 1}])
        assert [reason.element for reason in refuse(asked, self.BOUNDS)] == ["compute.extras"]

    def test_storage_without_a_size_counts_one_gib(self) -> None:
        storage = [{"kind": kinds.SIMPLE_STORAGE}, {"kind": kinds.SIMPLE_STORAGE, "size": {"min": 5, "max": 9}}]
        assert amounts(Size(1, 2), request(storage=storage)) == {"cores": 1.0, "memory": 2.0, "storage": 6.0}


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"tariff": {"core_hour": "dear"}}, "tariff.core_hour", "a number is wanted, or {min, max}"),
        ({"tariff": {"core_hour": {"min": 2, "max": 1}}}, "tariff.core_hour", "max 1 is below min 2"),
        ({"tariff": "gratis"}, "tariff", "the word is `free`"),
        ({"tariff": {"free": True, "core_hour": 1}}, "tariff", "free has no prices"),
        ({"tariff": {"carbon": 1}}, "tariff", "energy, which is missing"),
        ({"offers": {"lifetime": "PT0S"}}, "offers.lifetime", "greater than"),
        ({"policies": {"deny": [{"element": "executable.kind", "pattern": "("}]}}, "policies.deny.0", "regular"),
        ({"policies": {"deny": [{"element": "exectable.kind"}]}}, "policies.deny.0", 'no "exectable"'),
        ({"polices": {}}, "polices", "no such key"),
    ],
)
def test_settings_that_cannot_hold_are_named(values: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        site_settings(values)
    assert caught.value.key == key
    assert words in caught.value.detail
