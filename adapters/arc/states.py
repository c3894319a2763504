"""What ARC says of a job, as the standard's phases and words for people. Pure; imports the ports' Sighting.

Source of the states: "ARC CE REST interface specification", section "REST interface job states",
https://www.nordugrid.org/arc/arc6/tech/rest/rest.html (the same in
https://www.nordugrid.org/arc/arc7/tech/rest/rest.html). Source of the properties: GLUE 2.0 (OGF GFD.147), entity
ComputingActivity, as A-REX 6.17 renders it in JSON.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from adapters.arc.launcher import DROPPED, LATE, WRONG
from adapters.common.http import tidy
from broker.domain.session import SYNONYMS, TERMINAL, known
from broker.ports import Sighting

# "REST interface job states", in its order.
PHASES = {
    "ACCEPTING": "WAITING",  # there is a session folder; A-REX has yet to see it
    "ACCEPTED": "WAITING",  # waits for a limit of A-REX's
    "PREPARING": "PREPARING",  # data is staged in
    "PREPARED": "WAITING",  # waits to be submitted
    "SUBMITTING": "WAITING",  # is handed to the batch system
    "QUEUING": "WAITING",  # the batch system has it
    "RUNNING": "RUNNING",
    "HELD": "WAITING",  # the batch system holds or has suspended it
    "EXITINGLRMS": "RELEASING",  # the batch system ends it
    "OTHER": "WAITING",  # the batch system has it in a state that ARC does not know
    "EXECUTED": "RELEASING",  # waits for what comes after
    "FINISHING": "RELEASING",  # outputs are moved, the folder is cleared
    "FINISHED": "COMPLETED",
    "FAILED": "FAILED",
    "KILLING": "RELEASING",
    "KILLED": "CANCELLED",  # somebody asked ARC for it
    "WIPED": "FAILED",  # files and most of what was known are gone, how it ended too
}
LIVE = tuple(state for state, phase in PHASES.items() if phase not in TERMINAL)

_LAG = "what ARC shows is renewed about once a minute"
_SAID = {
    "HELD": "the batch system holds it, or has suspended it",
    "OTHER": "the batch system has it in a state that ARC does not know",
    "KILLING": "it is being ended",
    "WIPED": "ARC has wiped it: how it ended is no longer known, and its results are gone",
}
_CODES = {
    WRONG: "its data was not what was stated, or could not be laid out: see stderr",
    LATE: "time limit: it did not end within the time that was granted",
    DROPPED: "it was ended from outside (SIGTERM)",
}


class Activity(NamedTuple):
    """A job as ARC shows it. `began`, `ended`, `made`, `erased`: epoch seconds."""

    name: str
    state: str
    code: int | None = None
    errors: tuple[str, ...] = ()
    made: float | None = None
    began: float | None = None
    ended: float | None = None
    erased: float | None = None


def activity(document: Mapping[str, Any]) -> Activity:
    """Of a ComputingActivity; whatever is not there, or not as it should be, is left out. A property that is there
    several times is a list in JSON, else the value itself."""
    states = [text[8:] for text in _texts(document.get("State")) if text.startswith("arcrest:")]
    code = _first(document, "ExitCode")
    return Activity(
        name=_first(document, "Name"),
        state=tidy(states[0], 40) if states else "",
        code=int(code) if re.fullmatch(r"-?\d{1,4}", code) else None,
        errors=tuple(tidy(text) for text in _texts(document.get("Error"))[:5]),
        made=_instant(_first(document, "SubmissionTime")),
        began=_instant(_first(document, "StartTime")),
        ended=_instant(_first(document, "EndTime") or _first(document, "ComputingManagerEndTime")),
        erased=_instant(_first(document, "WorkingAreaEraseTime")),
    )


def sighting(seen: Activity, native: str) -> Sighting:
    """A state that nobody knows is passed on as it is, and never as a phase: REJECTED, for one, would be a refusal."""
    unknown = f"{seen.state} (ARC)" if known(SYNONYMS.get(seen.state, seen.state)) else seen.state
    phase = PHASES.get(seen.state, unknown or "WAITING")
    messages = tuple(_messages(seen, phase))
    return Sighting(phase, messages=messages, native=native, began=_order(seen), ended=seen.ended)


def _order(seen: Activity) -> float | None:
    """They come from two clocks."""
    return min(seen.began, seen.ended) if seen.began is not None and seen.ended is not None else seen.began


def _messages(seen: Activity, phase: str) -> list[str]:
    if phase == "FAILED":
        return [*seen.errors, *_told(seen)] or ["ARC gives no reason"]
    if phase in TERMINAL:
        return list(seen.errors)
    said = f": {_SAID[seen.state]}" if seen.state in _SAID else ""
    return [f"ARC: {seen.state}{said} ({_LAG})"]


def _told(seen: Activity) -> list[str]:
    if seen.state in _SAID:
        return [_SAID[seen.state]]
    code = seen.code
    if code is None or code == 0:
        return []
    if code not in _CODES and code > 128 and code - 128 in signal.Signals.__members__.values():
        name = signal.Signals(code - 128).name
        out = ": was it out of memory?" if name == "SIGKILL" else ""
        return [f"exit code {code}, the program was ended by {name}{out}"]
    return [f"exit code {code}" + (f", {_CODES[code]}" if code in _CODES else "")]


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [text for text in values if isinstance(text, str) and text]


def _first(document: Mapping[str, Any], name: str) -> str:
    return next(iter(_texts(document.get(name))), "")[:300]


def _instant(text: str) -> float | None:
    """Of `2026-11-22T22:28:22Z`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
