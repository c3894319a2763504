"""The loop of the simulation: virtual time, drawn order, and one history for one seed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from random import Random

import pytest

from broker.testing.simulation.loop import BEGIN, EPOCH, Stuck, world
from broker.testing.simulation.run import ground, simulate


def test_a_day_passes_in_no_time() -> None:
    with world(Random(1)) as loop:
        loop.run_until_complete(asyncio.sleep(86400))
        assert loop.time() == BEGIN + 86400
        assert time.time() == EPOCH + 86400


def test_a_timeout_comes_at_its_moment() -> None:
    async def late() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
        return asyncio.get_running_loop().time()

    with world(Random(1)) as loop:
        assert loop.run_until_complete(late()) == BEGIN + 5


def orders(seeds: int) -> set[tuple[int, ...]]:
    """In which orders three tasks that are ready together come."""

    async def all_at_once() -> tuple[int, ...]:
        came: list[int] = []

        async def one(number: int) -> None:
            came.append(number)

        await asyncio.gather(*(one(number) for number in range(3)))
        return tuple(came)

    found = set()
    for seed in range(seeds):
        with world(Random(seed)) as loop:
            found.add(loop.run_until_complete(all_at_once()))
    return found


def test_the_seed_draws_who_is_next() -> None:
    assert len(orders(1)) == 1
    assert len(orders(100)) == 6


def test_chance_and_names_are_the_seeds_own() -> None:
    def draws(seed: int) -> tuple[bytes, float]:
        with world(Random(seed)):
            return os.urandom(16), time.monotonic()

    assert draws(1) == draws(1)
    assert draws(1)[0] != draws(2)[0]
    assert os.urandom(16) != os.urandom(16)


def test_waiting_for_nothing_is_said() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    with world(Random(1)) as loop, pytest.raises(Stuck):
        loop.run_until_complete(never())


def test_one_seed_is_one_history() -> None:
    with ground() as here:
        first = [simulate(seed, here).history.told() for seed in (4, 5, 6)]
        again = [simulate(seed, here).history.told() for seed in (6, 5, 4)]
    assert first == again[::-1]
    assert len(set(first)) == 3


def test_another_process_with_other_hashes_tells_the_same_history() -> None:
    def told(hashes: str) -> str:
        command = [sys.executable, "-m", "broker.testing.simulation", "7"]
        ran = subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return ran.stdout

    assert told("1") == told("2") != ""
