"""What one process of `make simulate` works at. Imports experiment, generate and the files' models.

Not in `__main__`, which other processes cannot import.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from . import generate
from .experiment import Outcome, outcomes
from .federation import Federation, Stream, check, load
from .rules import RULES

REQUESTS = {5: (300, 600), 50: (600, 600), 500: (1500, 300)}  # sites → of the warm-up, and judged


class Task(NamedTuple):
    """One federation and stream. Sites and seed name what is drawn, files what is not."""

    sites: int
    seed: int
    hours: tuple[float, ...]
    rules: tuple[str, ...] = RULES
    requests: tuple[int, int] = (0, 0)  # of the warm-up, and judged
    federation: str = ""
    stream: str = ""


def world(task: Task) -> tuple[Federation, Stream]:
    if task.federation:
        federation = load(Federation, Path(task.federation)).model_copy(update={"seed": task.seed})
        return federation, load(Stream, Path(task.stream))
    federation = generate.federation(task.sites, task.seed)
    return federation, generate.stream(federation, *task.requests, task.seed)


def amounts(sites: int) -> tuple[int, int]:
    return REQUESTS[min(REQUESTS, key=lambda size: abs(size - sites))]


def work(task: Task) -> list[Outcome]:
    federation, stream = world(task)
    check(federation, stream)
    return list(outcomes(federation, stream, task.rules, task.hours))
