"""Histories of whole brokers under faults, each judged by the ten invariants.

`make test` lives through a fixed number of seeds, the same ones each time; `make test-faults` through as many as
HISTORIES says, from another beginning each day. A failing seed is printed with the command that tells its history.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from broker.testing.simulation.checker import judge
from broker.testing.simulation.run import Ground, ground, simulate

HERE = 600  # histories in `make test`
CHUNK = 100  # histories in one test
LONG = int(os.environ.get("HISTORIES", "20000"))
LONGEST = float(os.environ.get("HISTORIES_SECONDS", "600"))  # no matter how many are left then
BEGIN = int(os.environ.get("HISTORIES_FROM", str(1_000_000 + int(time.time()) // 86400 * 100_000)))


@pytest.fixture(scope="module")
def here() -> Iterator[Ground]:
    with ground() as found:
        yield found


def broken(seed: int, here: Ground) -> str:
    """What a person needs to see it again; empty where all is well."""
    breaches = judge(simulate(seed, here).case())
    said = "\n  ".join(str(breach) for breach in breaches)
    return f"\n  {said}\n  python -m broker.testing.simulation {seed}" if breaches else ""


@pytest.mark.parametrize("first", range(0, HERE, CHUNK))
def test_no_history_breaks_an_invariant(first: int, here: Ground) -> None:
    for seed in range(first, first + CHUNK):
        if said := broken(seed, here):
            pytest.fail(said, pytrace=False)


@pytest.mark.faults
def test_no_history_of_many_breaks_an_invariant(here: Ground) -> None:
    began, told = time.perf_counter(), 0
    for seed in range(BEGIN, BEGIN + LONG):
        if said := broken(seed, here):
            pytest.fail(said, pytrace=False)
        told += 1
        if time.perf_counter() - began > LONGEST:
            break
    print(f"{told} histories from seed {BEGIN} on")  # noqa: T201 - with -s; a bound in time must not pass in silence
    assert told > 0
