"""From a task of a TES server to what a session shows. Pure; imports the wire's structs, the ports' Sighting.

The states are those of components.schemas.tesState in the GA4GH Task Execution Service 1.1.0, the file
openapi/task_execution_service.openapi.yaml of ga4gh/task-execution-schemas; the table goes by its description of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from adapters.common.http import tidy
from adapters.tes.wire import Task, TaskLog
from broker.domain.quantities import parse_instant
from broker.domain.session import SYNONYMS, known
from broker.ports import Sighting

SUBMITTED, LIMIT = "broker_submitted", "broker_limit"  # tags: when it was submitted by our clock, its limit in seconds

_GRACE = 2.0  # seconds beyond its limit that a task gets
_LONGEST_WAY = 30.0  # seconds that creating a task may take
_MOST_LINES = 5  # of the server's own log, the last


class Shown(NamedTuple):
    """The phase of a state, and what is said of it besides."""

    phase: str
    words: str = ""


STATES: Mapping[str, Shown] = {
    "QUEUED": Shown("WAITING"),
    "INITIALIZING": Shown("PREPARING"),  # assigned to a worker, which starts up and brings in the inputs
    "RUNNING": Shown("RUNNING"),
    "PAUSED": Shown("RUNNING", "the platform has paused it"),
    "COMPLETE": Shown("COMPLETED"),  # only when the outputs are in their place
    "EXECUTOR_ERROR": Shown("FAILED", "its program ended with an error"),
    "SYSTEM_ERROR": Shown("FAILED", "the platform could not run it to its end"),
    "CANCELED": Shown("CANCELLED"),
    "CANCELING": Shown("RELEASING", "it was cancelled, and the platform clears up behind it"),
    "PREEMPTED": Shown("FAILED", "the platform took its machine away"),
}
OVER = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"})
WRONG = frozenset({"EXECUTOR_ERROR", "SYSTEM_ERROR", "PREEMPTED"})  # of these the whole story is wanted
_RAN = frozenset({"RUNNING", "PAUSED", "COMPLETE", "EXECUTOR_ERROR"})
# In the order in which a task goes through them: whoever asks for one after the other misses none. Asked for UNKNOWN,
# which is their word for "any", servers show all that they ever had.
ON_ITS_WAY = ("QUEUED", "INITIALIZING", "RUNNING", "PAUSED", "CANCELING")


def sighting(task: Task) -> Sighting:
    """A state that the standard does not have, and UNKNOWN, are passed on as they are, and never as a phase: REJECTED,
    for one, would be a refusal."""
    state = task.state or "UNKNOWN"
    words = tidy(state, 40)
    words = f"{words} (TES)" if known(SYNONYMS.get(words, words)) else words
    shown = STATES.get(state) or Shown(words, "the platform does not say how far it is")
    began, ended = times(task)
    if state == "CANCELED" and began is not None and ended is not None:
        limit = _number(task, LIMIT)
        if limit is not None and ended - began >= limit:  # what `overdue` led to
            shown = Shown("FAILED", f"it was ended after the {limit:.0f} s that it may run")
    messages = tuple(_words(task, state, shown.words))
    return Sighting(shown.phase, messages=messages, native=task.id, began=began, ended=ended if state in OVER else None)


def times(task: Task) -> tuple[float | None, float | None]:
    """When its program began to run, in the first attempt that came so far, and when all of it ended. Where a server
    does not say the former, the task's own beginning stands for it, of tasks that surely came so far."""
    attempts = task.logs or ()
    begins = [moment for log in attempts if (moment := _began(log, task.state in _RAN)) is not None]
    return (begins[0] if begins else None), _moment(attempts[-1].end_time) if attempts else None


def made(task: Task) -> float | None:
    """When the server made it."""
    return _moment(task.creation_time)


def overdue(task: Task, now: float) -> bool:
    """Whether a running task has run for longer than it may: TES 1.1 knows no time limit. By the server's own times,
    put right by how far its clock is ahead of ours: it says when it made the task, and a tag when we asked for it. In
    between lies the way there, which cannot be told from a clock: nothing is ended early for it."""
    began, limit = times(task)[0], _number(task, LIMIT)
    if began is None or limit is None or task.state not in ("RUNNING", "PAUSED"):
        return False
    created, asked = made(task), _number(task, SUBMITTED)
    ahead = created - asked if created is not None and asked is not None else 0.0
    return now - (began - ahead) > limit + min(max(ahead, 0.0), _LONGEST_WAY) + _GRACE


def _words(task: Task, state: str, words: str) -> Iterator[str]:
    if words:
        yield f"{words} ({tidy(state, 40)})"
    if state not in WRONG or not task.logs:
        return
    codes = [log.exit_code for log in task.logs[-1].logs or () if log.exit_code]
    if codes:
        yield f"exit code {codes[-1]}{_meaning(codes[-1])}"
    yield from filter(None, map(tidy, (task.logs[-1].system_logs or ())[-_MOST_LINES:]))


def _meaning(code: int) -> str:
    """Of the codes with which container engines and shells tell of a signal: 128 and its number."""
    return {137: ": it was killed, as is done where memory runs out", 143: ": it was terminated"}.get(code, "")


def _began(log: TaskLog, surely: bool) -> float | None:
    started = [moment for one in log.logs or () if (moment := _moment(one.start_time)) is not None]
    return started[0] if started else _moment(log.start_time) if surely else None


def _moment(text: str | None) -> float | None:
    try:
        return parse_instant(text).timestamp() if text else None
    except (ValueError, OverflowError):
        return None


def _number(task: Task, tag: str) -> float | None:
    try:
        return float((task.tags or {})[tag] or "")
    except (KeyError, ValueError):
        return None
