"""From a WES state to the standard's phase, and from its times to ours. Pure; imports the domain's words.

Source: State in GA4GH's workflow_execution_service.openapi.yaml 1.1.0 (components/schemas/State); 1.0 lacks PREEMPTED.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple


class Meaning(NamedTuple):
    """`words`: what is said of it beside the phase; empty: the phase says enough."""

    phase: str
    words: str = ""


# UNKNOWN is left out on purpose: the schema has it for a state that is missing, so it says nothing of the run.
STATES = {
    "QUEUED": Meaning("WAITING"),
    "INITIALIZING": Meaning("PREPARING"),  # assigned to a worker, which may be fetching inputs
    "RUNNING": Meaning("RUNNING"),
    "PAUSED": Meaning("RUNNING", "the server has paused the run"),
    "COMPLETE": Meaning("COMPLETED"),  # ended without error, and the outputs are in their place
    "EXECUTOR_ERROR": Meaning("FAILED", "the workflow engine ended with an error (EXECUTOR_ERROR)"),
    "SYSTEM_ERROR": Meaning("FAILED", "the server had an error of its own (SYSTEM_ERROR)"),
    "CANCELED": Meaning("CANCELLED"),
    "CANCELING": Meaning("RELEASING", "the server is ending the run"),
    "PREEMPTED": Meaning("FAILED", "the server has taken the room for other work (PREEMPTED)"),
}
OVER = frozenset({"COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED"})


def meaning(state: str) -> Meaning:
    """A state that is not in the table is passed on as it is."""
    return STATES.get(state, Meaning(state, f"the server calls the state of the run {state}"))


def moment(text: object) -> float | None:
    """Epoch seconds. The schema wants "%Y-%m-%dT%H:%M:%SZ"; sapporo leaves out the Z of an end, toil of both, and both
    mean UTC where they run in it. None: it is no time."""
    if not isinstance(text, str) or len(text) > 40:
        return None
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
