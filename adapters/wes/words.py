"""What a run's own logs say, for a session's messages: how far its steps are, and what went wrong. Pure; imports
the HTTP of common for tidying, and the marks of launch.py.

A workflow engine says much that is nobody's business. Known here are the lines of cwltool ("[job x] completed
success") and toil ("Failed command standard error:"); of any other engine the last lines count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from adapters.common.http import tidy
from adapters.wes.launch import MARK

MOST_STEPS = 20
MOST_LINES = 6
_LONGEST = 300
_READ = 256 * 1024  # characters of a log, its end

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STEP = re.compile(r"\[(step|job) ([^\]\s]{1,200})\] (start|starting|completed \w+|exited with status: \d+)")
_CHATTER = re.compile(r"\s*(INFO|DEBUG|\[\d{4}-\d\d-\d\dT[\d:.+]+\] \[[^\]]*\] \[[IDW]\]|<=+|=+>|Log from job)")
_FRAMES = re.compile(
    r"(?m)^[ \t]*(?:Traceback \(most recent call last\):\n(?:[ \t]+.*\n)*|During .*:\n|The above .*:\n)"
)
_LABEL = re.compile(r"\._:[0-9a-f-]{36}$")  # what toil adds to the name of a step that has none of its own
_TOIL = re.compile(r"Failed command standard error:\s*\n(.*?)(?=\n\s*\[\d{4}-\d\d-\d\dT|\Z)", re.DOTALL)

_CWLTOOL = re.compile(r"\] \[E\] \[cwltool\] (.*)")  # what the tool runner within toil complains of


class Ending(NamedTuple):
    """What launch.py says of a program that did not end well."""

    words: str
    stdout: str
    stderr: str


def plain(text: str) -> str:
    """Without the colours of a terminal."""
    return _COLOURS.sub("", text)


def ending(log: str) -> Ending | None:
    """Of the last program in it; None: it holds no word of one."""
    try:
        said = msgspec.json.decode(log.rpartition(MARK)[2].partition("\n")[0] if MARK in log else "", type=_Said)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
    return Ending(said.words, said.stdout, said.stderr)


def failure(log: str, system: Sequence[str] = ()) -> tuple[str, ...]:
    """Why a run failed, in the words of who knows it best: the program, the tool, the server. `system`: system_logs."""
    if ended := ending(log):
        return (tidy(ended.words), *_last(ended.stderr))
    log = plain(log[-_READ:])
    parts = _TOIL.findall(log)
    errors = dict.fromkeys(_CWLTOOL.findall(log))  # toil tells them more than once
    said = parts[-1] if parts else "\n".join(errors) or _FRAMES.sub("", log)
    return (
        *_last("\n".join(system)),
        *_last("\n".join(line for line in said.splitlines() if not _CHATTER.match(line))),
    )


def steps(logs: Sequence[Mapping[str, Any]], stderr: str = "") -> tuple[str, ...]:
    """How far each step is. `logs`: Log and TaskLog objects; `stderr`: what the engine says, where there are none."""
    told = {name: state for name, state in (_task(log) for log in logs) if name} or dict(_lines(stderr))
    return tuple(f"step {name}: {state}" for name, state in told.items())[-MOST_STEPS:]


class _Said(msgspec.Struct):
    words: str
    stdout: str = ""
    stderr: str = ""


def _last(text: str) -> tuple[str, ...]:
    lines = [tidy(line, _LONGEST) for line in text[-_READ:].splitlines()]
    return tuple([line for line in lines if line.strip("^~ ")][-MOST_LINES:])


def _task(log: Mapping[str, Any]) -> tuple[str, str]:
    name, code = log.get("name"), log.get("exit_code")
    name = tidy(_LABEL.sub("", name), 100) if isinstance(name, str) else ""
    if isinstance(code, int) and not isinstance(code, bool) and code >= 0:  # toil: -1 of what has not ended
        return name, f"ended with exit code {code}"
    if log.get("end_time"):
        return name, "ended"
    return name, "runs" if log.get("start_time") else "under way"


def _lines(stderr: str) -> Iterator[tuple[str, str]]:
    for what, name, state in _STEP.findall(plain(stderr[-_READ:])):
        yield name if what == "step" else f"{name} (job)", "started" if state.startswith("start") else state
