"""What samples amount to: recovery of planted errors, shrinkage, age, bursts, and what nobody can spoil."""

import math
import random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain import learning
from broker.domain.experience import STAGING_SLACK, WAITING_SLACK, Correction, Experience, Factor, voice
from broker.domain.learning import DAY, Lived, Sample, Told, Transfer
from broker.domain.offerset import Decision

NOW = 1_795_356_120.0


def number(n: int) -> UUID:
    return UUID(int=n)


def waited(n: int, promised: float, actual: float, *, at: float | None = None) -> Sample:
    """The n-th session, each accepted an hour after the other unless it is said."""
    accepted = NOW - DAY - n * 3600 if at is None else at
    return Sample(number(n), accepted, accepted + actual, waiting=(promised, actual))


def kept(samples: list[Sample], kind: str = "python-program") -> Lived:
    lived = Lived()
    for one in samples:
        lived = learning.add(lived, kind, one, {}, NOW)
    return lived


def waiting(samples: list[Sample], now: float = NOW) -> Factor:
    found = learning.experience({"alba": kept(samples)}, now).correction("alba", "python-program")
    return found.waiting if found else Factor()


def test_a_planted_error_is_found_and_few_samples_pull_it_towards_none() -> None:
    noise = random.Random(1)
    late = [waited(n, 600.0, 600.0 * 2.0 * math.exp(noise.gauss(0, 0.2))) for n in range(60)]
    values = [waiting(late[:count]).value for count in (1, 3, 10, 60)]
    assert values == sorted(values)
    assert 1.05 < values[0] < 1.2
    assert values[-1] == pytest.approx(1.75, abs=0.15)  # (1260 / 660), somewhat pulled back
    assert waiting(late).samples == 60


def test_without_samples_nothing_is_corrected() -> None:
    assert learning.experience({}, NOW) == Experience()
    assert learning.experience({"alba": Lived()}, NOW).correction("alba", "python-program") is None


def test_promises_that_are_kept_correct_nothing() -> None:
    factor = waiting([waited(n, 600.0, 600.0) for n in range(30)])
    assert factor.value == 1.0
    assert factor.applied(1234.5, WAITING_SLACK) == 1234.5


def test_a_promise_of_now_can_be_judged_and_does_not_stretch_the_promise_of_a_day() -> None:
    factor = waiting([waited(n, 0.0, 600.0) for n in range(60)])
    late = factor.applied(0.0, WAITING_SLACK)
    assert 300.0 < late < 600.0
    assert factor.applied(DAY, WAITING_SLACK) == pytest.approx(DAY + late)


def test_who_is_always_a_day_late_on_now_looks_it() -> None:
    factor = waiting([waited(n, 0.0, DAY, at=NOW - 2 * DAY - n * 3600) for n in range(60)])
    assert DAY / 3 < factor.applied(0.0, WAITING_SLACK) < DAY


def test_an_absurd_sample_moves_the_estimate_hardly_at_all() -> None:
    good = [waited(n, 600.0, 600.0) for n in range(20)]
    spoilt = waiting([*good, waited(99, 600.0, 9e7)])
    assert spoilt.value == pytest.approx(1.0, abs=0.02)


def test_everything_is_forgotten_after_thirty_days() -> None:
    samples = [waited(n, 600.0, 6000.0) for n in range(10)]
    assert waiting(samples, NOW + 20 * DAY).value < waiting(samples).value
    assert waiting(samples, NOW + 32 * DAY) == Factor()
    assert learning.pruned(kept(samples), NOW + 32 * DAY).newest is None


def test_older_samples_count_less() -> None:
    old = [waited(n, 600.0, 6000.0, at=NOW - 20 * DAY - n * 3600) for n in range(10)]
    new = [waited(n + 10, 600.0, 600.0, at=NOW - DAY - n * 3600) for n in range(10)]
    assert waiting([*old, *new]).value < 1.2


def test_a_burst_counts_as_two_and_others_are_not_pushed_out_by_it() -> None:
    burst = [waited(n + 1000, 600.0, 6000.0, at=NOW - DAY) for n in range(500)]
    alone = waiting(burst)
    assert alone.samples == learning.BURST_KEPT
    assert alone.value < 10 ** (2 / 7)  # two samples, beside five that say nothing
    steady = [waited(n, 600.0, 600.0) for n in range(1, 40)]
    assert waiting([*steady, *burst]).value == pytest.approx(1.0, abs=0.05)


def test_of_a_burst_the_same_samples_stay_whoever_ends_first() -> None:
    burst = [waited(n, 600.0, 600.0 + n, at=NOW - DAY) for n in range(50)]
    assert kept(burst) == kept(burst[::-1])


def test_a_session_counts_once_however_often_it_is_added() -> None:
    once = kept([waited(1, 600.0, 1200.0)])
    assert learning.add(once, "python-program", waited(1, 600.0, 1200.0), {}, NOW) == once


def test_what_is_kept_is_bounded() -> None:
    lived = Lived()
    for n in range(300):
        moved = {f"s{n}": Transfer(number(n), NOW, 1e9, 10.0, NOW), "one": Transfer(number(n), NOW + n, 1e9, 10.0, NOW)}
        lived = learning.add(lived, f"kind{n % 100}", waited(n, 600.0, 600.0, at=NOW - n * 1000), moved, NOW)
    for n in range(300):
        lived = learning.add(lived, "kind1", waited(n + 1000, 600.0, 600.0, at=NOW - n * 1000), {}, NOW)
    assert len(lived.kinds) == learning.NAMES
    assert len(lived.kinds["kind1"]) == learning.SAMPLES
    assert len(lived.sources) == learning.NAMES
    assert len(lived.sources["one"]) == learning.TRANSFERS


def test_what_an_operator_had_forgotten_does_not_come_back() -> None:
    lived = Lived(forgotten=NOW - DAY)
    assert learning.add(lived, "k", waited(1, 600.0, 1200.0, at=NOW - 2 * DAY), {}, NOW) == lived
    assert learning.add(lived, "k", waited(1, 600.0, 1200.0, at=NOW - DAY + 1), {}, NOW).kinds


# ── run and cost, beside the federation ──────────────────────────────────────────────────────────────────────


def ran(n: int, ratio: float) -> Sample:
    at = NOW - DAY - n * 3600
    return Sample(number(n), at, at, run=(3600.0, 3600.0 * ratio), cost=(2.0, 2.0 * ratio))


def test_what_all_sites_have_in_common_makes_no_difference_between_them() -> None:
    """All jobs end after a quarter of what was asked for; of one site little is known, of another nothing."""
    found = learning.experience(
        {
            "known": kept([ran(n, 0.25) for n in range(60)]),
            "other": kept([ran(n, 0.25) for n in range(60)]),
            "new": kept([ran(1, 0.25)]),
        },
        NOW,
    )
    values = []
    for site in ("known", "other", "new", "unheard-of"):
        correction = found.correction(site, "python-program")
        assert correction is not None
        values.append((correction.run.value, correction.cost.value))
    assert values == [values[0]] * 4
    assert values[0][0] == pytest.approx(0.25, abs=0.05)


def test_a_site_that_runs_longer_than_others_falls_behind_by_its_own_deviation() -> None:
    sites = {f"s{n}": kept([ran(i, 0.5) for i in range(50)]) for n in range(4)}
    found = learning.experience({**sites, "slow": kept([ran(i, 1.0) for i in range(50)])}, NOW)
    slow, plain = found.correction("slow", "python-program"), found.correction("s1", "python-program")
    assert slow is not None
    assert plain is not None
    assert slow.run.value / plain.run.value == pytest.approx(2.0, abs=0.2)


def test_one_site_alone_deviates_from_nobody() -> None:
    found = learning.experience({"alone": kept([ran(n, 0.5) for n in range(50)])}, NOW)
    own, new = found.correction("alone", "python-program"), found.correction("new", "python-program")
    assert own is not None
    assert new is not None
    assert own.run.value == new.run.value < 1.0
    assert (own.run.samples, new.run.samples) == (50, 0)


def test_no_site_can_make_itself_cheap_without_bound() -> None:
    sites = {f"s{n}": kept([ran(i, 1.0) for i in range(50)]) for n in range(4)}
    found = learning.experience({**sites, "liar": kept([ran(i, 1e-6) for i in range(60)])}, NOW)
    liar = found.correction("liar", "python-program")
    assert liar is not None
    assert liar.cost.value > 0.25


def test_a_broker_below_with_many_names_behind_it_is_one_voice_in_what_is_usual() -> None:
    """Else it would say what is usual everywhere, and look quick and cheap beside it."""
    sites = {f"s{n}": kept([ran(i, 1.0) for i in range(50)]) for n in range(4)}
    names = {f"net-b/invented-{n}": kept([ran(i, 0.01) for i in range(50)]) for n in range(200)}
    assert found_of({**sites, **names}, "s1", "python-program").run.value == pytest.approx(1.0, abs=0.1)


# ── one site's kinds of work ─────────────────────────────────────────────────────────────────────────────────


def mixed(**kinds: list[Sample]) -> Lived:
    lived = Lived()
    for kind, samples in kinds.items():
        for one in samples:
            lived = learning.add(lived, kind, one, {}, NOW)
    return lived


def found_of(sites: dict[str, Lived], site: str, kind: str) -> Correction:
    found = learning.experience(sites, NOW).correction(site, kind)
    assert found is not None
    return found


def test_what_is_late_with_one_kind_of_work_is_thought_late_with_another() -> None:
    late = [waited(n, 600.0, 1260.0) for n in range(40)]
    alone = found_of({"alba": mixed(a=late)}, "alba", "a").waiting
    assert found_of({"alba": mixed(a=late)}, "alba", "b").waiting == alone
    kept_ = [waited(n + 100, 600.0, 600.0) for n in range(40)]
    values = [found_of({"alba": mixed(a=late, b=kept_[:n])}, "alba", "b").waiting.value for n in (0, 1, 5, 20, 40)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < 1.15 < 1.6 < values[0]


def test_a_slow_site_is_slow_for_a_kind_of_work_that_only_others_have_shown() -> None:
    """Beside the usual of that kind, which is far from the usual of the first."""
    sites = {f"s{n}": mixed(a=[ran(i, 0.5) for i in range(50)], b=[ran(i, 0.1) for i in range(50)]) for n in range(4)}
    sites["slow"] = mixed(a=[ran(i, 1.0) for i in range(50)])
    plain, slow = (found_of(sites, name, "b").run for name in ("s1", "slow"))
    assert slow.value / plain.value == pytest.approx(2.0, abs=0.25)
    assert (slow.samples, plain.samples) == (50, 100)
    assert found_of(sites, "new", "b").run.samples == 0


def test_a_sample_counts_once_though_kinds_of_work_lean_on_each_other() -> None:
    late = [waited(n, 600.0, 1260.0) for n in range(3)]
    assert found_of({"alba": mixed(a=late)}, "alba", "a").waiting == waiting(late)


def test_a_kind_of_work_that_no_other_site_has_run_says_nothing_of_a_site_beside_others() -> None:
    common = [ran(n, 1.0) for n in range(50)]
    sites = {f"s{n}": mixed(a=common) for n in range(3)}
    sites["slow"] = mixed(a=[ran(n, 2.0) for n in range(50)])
    beside = found_of(sites, "slow", "b").run
    sites["slow"] = mixed(a=[ran(n, 2.0) for n in range(50)], c=[ran(n, 1.0) for n in range(50)])
    assert found_of(sites, "slow", "b").run == beside


def test_what_was_late_on_now_with_one_kind_does_not_stretch_the_long_promises_of_another() -> None:
    now = [waited(n, 0.0, 600.0) for n in range(5)]
    long = [waited(n + 100, 3600.0, 3600.0) for n in range(40)]
    factor = found_of({"alba": mixed(a=now, b=long)}, "alba", "a").waiting
    assert factor.applied(3600.0, WAITING_SLACK) - 3600.0 < 1200.0


def test_a_liar_in_one_kind_of_work_gains_no_more_than_the_bound_in_another() -> None:
    sites = {f"s{n}": mixed(a=[ran(i, 1.0) for i in range(50)], b=[ran(i, 1.0) for i in range(9)]) for n in range(4)}
    sites["liar"] = mixed(a=[ran(i, 1e-6) for i in range(60)])
    assert found_of(sites, "liar", "b").cost.value > 0.25


# ── ways ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_rate_of_a_way_is_found_with_its_spread() -> None:
    noise = random.Random(2)
    moved = [
        Transfer(number(n), NOW - n * 3600, 1e9 * math.exp(noise.gauss(0, 0.3)), 10.0, NOW)
        for n in range(learning.TRANSFERS)
    ]
    found = learning.measured(moved, NOW)
    assert found is not None
    assert found.bandwidth.low < 1e8 < found.bandwidth.high
    assert math.sqrt(found.bandwidth.low * found.bandwidth.high) == pytest.approx(1e8, rel=0.15)
    assert math.log(found.bandwidth.high / found.bandwidth.low) / 2 == pytest.approx(0.3, abs=0.12)
    assert found.asof == NOW
    assert 20 < found.weight < 32


def test_one_transfer_is_as_unsure_as_any_first_one() -> None:
    found = learning.measured([Transfer(number(1), NOW, 1e9, 10.0, NOW)], NOW)
    assert found is not None
    assert found.bandwidth.high / found.bandwidth.low > 1.5
    assert (found.samples, found.weight) == (1, 1.0)
    assert learning.measured([Transfer(number(1), NOW, 1e9, 10.0, NOW)], NOW + 31 * DAY) is None


# ── one session ──────────────────────────────────────────────────────────────────────────────────────────────


def told(**more: float | bool | None) -> Told:
    return Told(NOW, **more)  # type: ignore[arg-type] # by name


def end(told_: Told, **more: float | bool | None) -> Sample:
    wanted = {"completed": True, "over": NOW + 9000, **more}
    return learning.sample(number(1), told_, **wanted)  # type: ignore[arg-type] # by name


def test_a_site_that_states_its_preparing_is_judged_by_when_it_runs() -> None:
    found = end(told(start=NOW + 600, prepares=True, staging=300.0, preparing=NOW + 500, began=NOW + 900))
    assert (found.waiting, found.staging) == ((600.0, 900.0), None)


def test_waiting_ends_where_preparing_is_seen_to_begin() -> None:
    found = end(told(start=NOW + 600, staging=100.0, preparing=NOW + 700, began=NOW + 950))
    assert (found.waiting, found.staging) == ((600.0, 700.0), (100.0, 250.0))


def test_where_preparing_is_not_seen_the_longer_promise_answers_for_the_whole() -> None:
    assert end(told(start=NOW + 600, staging=100.0, began=NOW + 900)).waiting == (600.0, 900.0)
    found = end(told(start=NOW, staging=100.0, began=NOW + 900))
    assert (found.waiting, found.staging) == (None, (100.0, 900.0))
    assert end(told(start=NOW + 600, began=NOW + 900)).empty


def test_staging_with_reported_transfers_is_judged_by_these() -> None:
    found = end(told(start=NOW, staging=5.0, preparing=NOW + 10, began=NOW + 130), moving=100.0)
    assert found.staging == (100.0, 120.0)


def test_transfers_are_not_believed_where_it_was_seen_preparing_for_much_longer() -> None:
    seen = told(start=NOW, staging=3600.0, preparing=NOW + 10, began=NOW + 3610)
    assert not learning.believable(seen, 1.0)
    assert learning.believable(seen, 800.0)
    assert learning.believable(seen, 0.0)  # all from its cache: no way is learned of that
    assert learning.believable(told(start=NOW, began=NOW + 3610), 1.0)
    assert learning.believable(told(start=NOW, preparing=NOW, began=NOW + 600), 1.0)


def test_a_failed_run_says_nothing_of_run_and_cost() -> None:
    known = told(start=NOW + 60, prepares=True, began=NOW + 60, ended=NOW + 660, run=3600.0, cost=2.0, actual_cost=0.4)
    assert end(known).run == (3600.0, 600.0)
    assert end(known).cost == (2.0, 0.4)
    failed = end(known, completed=False)
    assert (failed.run, failed.cost, failed.waiting) == (None, None, (60.0, 60.0))


@pytest.mark.parametrize("bad", [-5.0, math.nan, math.inf, 1e30])
def test_what_is_no_number_of_this_world_teaches_nothing(bad: float) -> None:
    known = told(start=NOW, prepares=True, began=NOW + bad, ended=NOW + bad, run=60.0, cost=1.0, actual_cost=bad)
    assert end(known).empty


def test_a_free_site_teaches_nothing_of_cost() -> None:
    assert end(told(cost=0.0, actual_cost=5.0)).cost is None


def test_what_a_broker_says_of_sites_behind_it_is_not_laid_to_ours() -> None:
    assert voice("alba", "alba") == "alba"
    assert voice("net-b", "alba") == "net-b/alba"


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────

numbers = st.floats(0, 1e8, allow_nan=False)
factors = st.builds(Factor, st.floats(0.01, 100), st.integers(0, 64), st.none() | numbers)


@given(factors, st.lists(numbers, min_size=2, max_size=2), st.sampled_from([0.0, STAGING_SLACK, WAITING_SLACK]))
def test_of_two_promises_the_larger_never_comes_out_smaller(factor: Factor, two: list[float], slack: float) -> None:
    low, high = sorted(two)
    assert 0.0 <= factor.applied(low, slack) <= factor.applied(high, slack)


@given(st.lists(st.tuples(numbers, st.floats(1e-6, 10)), min_size=1, max_size=20), st.floats(0, 1))
def test_a_quantile_lies_among_its_values_whatever_their_order(pairs: list[tuple[float, float]], q: float) -> None:
    values, weights = zip(*pairs, strict=True)
    found = learning.quantile(values, weights, q)
    assert min(values) <= found * (1 + 1e-9) + 1e-9
    assert found <= max(values) * (1 + 1e-9) + 1e-9
    back = learning.quantile(values[::-1], weights[::-1], q)
    assert found == pytest.approx(back)


# ── a decision, as it was seen to come ───────────────────────────────────────────────────────────────────────


def decision(**more: Any) -> Decision:
    return Decision(number(1), "alba", "alba", NOW, **more)


def test_a_site_cannot_have_begun_before_a_look_that_showed_it_waiting() -> None:
    lied = learning.told(decision(actual_start=NOW + 10, running=(NOW + 500, NOW + 515)), NOW + 9000)
    assert lied.began == NOW + 500
    assert (
        learning.told(decision(actual_start=NOW + 507, running=(NOW + 500, NOW + 515)), NOW + 9000).began == NOW + 507
    )


def test_what_a_site_does_not_state_is_as_it_was_seen_where_the_looks_were_close() -> None:
    assert learning.told(decision(running=(NOW + 500, NOW + 520)), NOW + 9000).began == NOW + 510
    assert learning.told(decision(running=(NOW + 500, NOW + 5000)), NOW + 9000).began is None
    assert learning.told(decision(running=(NOW, NOW + 20), over=(NOW + 600, NOW + 640)), NOW + 640).ended == NOW + 620


def test_times_before_the_acceptance_or_after_the_end_are_not_believed() -> None:
    assert learning.told(decision(actual_start=NOW - 86400), NOW + 9000).began is None
    assert learning.told(decision(actual_start=NOW - 20), NOW + 9000).began == NOW
    assert learning.told(decision(actual_start=NOW + 10, actual_end=NOW + 99999), NOW + 9000).ended is None
