"""From what an engine shows of a job to the standard's phases. Pure.

States: `State.Status` of ContainerInspect, Engine API 1.41 (created, running, paused, restarting, removing, exited,
dead), and those that Podman adds (libpod/define/containerstate.go: configured, initialized, stopping, stopped).
Exit codes: docs.docker.com/engine/containers/run, Exit status; above 128 by signal, as shells count.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from adapters.common.http import tidy
from adapters.containers import marks
from broker.ports import Sighting

# "": it is over, and how is said by its exit code.
PHASES = {
    "configured": "PREPARING",
    "created": "PREPARING",
    "initialized": "PREPARING",
    "running": "RUNNING",
    "paused": "RUNNING",
    "restarting": "RUNNING",
    "stopping": "RELEASING",
    "removing": "RELEASING",
    "exited": "",
    "stopped": "",
    "dead": "",
}
UNSTARTED = frozenset({"configured", "created"})
CONNECTOR = "uri:container-port-1.0"

_PREFIXES = {125: "the engine could not run it", 126: "its command cannot be executed", 127: "its command is not there"}


class Port(NamedTuple):
    """A port of a container that people are to reach. `inside` as the engine writes it: `80/tcp`."""

    inside: str
    protocol: str
    path: str


class Container(NamedTuple):
    """What is known of a container; `began`, `ended` in epoch seconds."""

    id: str
    status: str
    labels: Mapping[str, str]
    created: float | None = None
    began: float | None = None
    ended: float | None = None
    exit: int | None = None
    killed: bool = False  # for memory
    error: str = ""
    outside: Mapping[str, int] = {}  # port inside → port of the engine's machine
    memory: int = 0

    @property
    def over(self) -> bool:
        return PHASES.get(self.status) == ""

    @property
    def unstarted(self) -> bool:
        return self.status in UNSTARTED


class Mark(NamedTuple):
    """A volume of ours. `made` in epoch seconds."""

    labels: Mapping[str, str]
    made: float | None


class Seen(NamedTuple):
    """All that the engine shows of a job."""

    ticket: Mark | None = None
    end: Mark | None = None
    container: Container | None = None

    @property
    def waiting(self) -> bool:
        """It is yet to be started, and somebody has to do it."""
        if self.end is not None:
            return False
        return self.container.unstarted if self.container else self.ticket is not None


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def container(found: Mapping[str, Any]) -> Container:
    """Of ContainerInspect; what is missing or no such thing is not known."""
    state, config, settings = _part(found, "State"), _part(found, "Config"), _part(found, "NetworkSettings")
    code = state.get("ExitCode")
    began, ended = moment(state.get("StartedAt")), moment(state.get("FinishedAt"))
    if began is not None and ended is not None:
        ended = max(began, ended)  # Podman notes a start when it is through, which a quick run has ended before
    return Container(
        id=str(found.get("Id", ""))[:64],
        status=str(state.get("Status", ""))[:40],
        labels=labels(config),
        created=moment(found.get("Created")),
        began=began,
        ended=ended,
        exit=code if isinstance(code, int) else None,
        killed=state.get("OOMKilled") is True,
        error=tidy(str(state.get("Error") or "")),
        outside=dict(_outside(_part(settings, "Ports"))),
        memory=memory if isinstance(memory := _part(found, "HostConfig").get("Memory"), int) else 0,
    )


def listed(found: Mapping[str, Any]) -> Container:
    """Of an entry of ContainerList, which says less."""
    return Container(str(found.get("Id", ""))[:64], str(found.get("State", ""))[:40], labels(found))


def mark(found: Mapping[str, Any]) -> Mark:
    return Mark(labels(found), moment(found.get("CreatedAt")))


def labels(found: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in _part(found, "Labels").items()}


def moment(text: object) -> float | None:
    """RFC 3339 with up to nanoseconds, as epoch seconds; the year 1 stands for never."""
    try:
        read = datetime.fromisoformat(text) if isinstance(text, str) else None
        return read.timestamp() if read is not None and read.year > 1 else None
    except (ValueError, OverflowError):
        return None


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = found.get(name)
    return part if isinstance(part, Mapping) else {}


def _outside(ports: Mapping[str, Any]) -> list[tuple[str, int]]:
    found = []
    for inside, bindings in ports.items():
        first = bindings[0] if isinstance(bindings, list) and bindings else None
        number = str(first.get("HostPort")) if isinstance(first, Mapping) else ""
        if number.isascii() and number.isdigit() and 0 < int(number[:6]) < 65536:
            found.append((str(inside), int(number)))
    return found


# ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────


def sighting(seen: Seen, host: str, doing: str = "") -> Sighting:
    """What a session shows. `host`: where ports are reached; `doing`: what is known of its preparation."""
    run = seen.container
    if run is not None and run.unstarted and seen.end is not None:
        return Sighting("RELEASING", native=run.id[:12])  # it may be about to be started: whoever removes it will know
    if run is None or run.unstarted:
        native = run.id[:12] if run else None
        if seen.end is not None:
            return Sighting(_reason(seen.end), messages=_said(seen.end), native=native, ended=seen.end.made)
        return Sighting("PREPARING", messages=(doing,) if doing else (), native=native)
    phase, message = _phase(run, seen.end)
    return Sighting(
        phase,
        body=_connectors(run, host),
        messages=(message,) if message else (),
        native=run.id[:12],
        began=run.began,
        ended=run.ended if run.over else None,
    )


def _phase(run: Container, end: Mark | None) -> tuple[str, str]:
    if not run.over:
        # A state that nobody here knows is passed on.
        return PHASES.get(run.status, run.status), "an operator has paused it" if run.status == "paused" else ""
    late = end is not None and end.made is not None and run.ended is not None and run.ended < end.made
    if end is not None and not late:
        return _reason(end), "; ".join((*_said(end), _how(run)))
    return ("COMPLETED", "") if run.exit == 0 and run.status != "dead" else ("FAILED", _how(run))


def _reason(end: Mark) -> str:
    return "FAILED" if end.labels.get(marks.REASON) == marks.FAILED else "CANCELLED"


def _said(end: Mark) -> tuple[str, ...]:
    text = tidy(end.labels.get(marks.TEXT, ""))
    return (text,) if text else ()


def _how(run: Container) -> str:
    """In which way a container ended, for people."""
    error = f": {run.error}" if run.error else ""
    if run.killed:
        return f"it was killed because it ran out of memory; {run.memory / 1024**3:g} GiB were granted{error}"
    if run.exit is None:
        return f"it ended in a way that the engine does not tell{error}"
    if run.exit in _PREFIXES:
        return f"{_PREFIXES[run.exit]} (exit {run.exit}){error}"
    return f"exit {run.exit}{_signal(run.exit)}{error}"


def _signal(code: int) -> str:
    try:
        return f": it was ended by {signal.Signals(code - 128).name}" if code > 128 else ""
    except ValueError:
        return ""


def _connectors(run: Container, host: str) -> bytes | None:
    """A port's address stands there as long as somebody may answer at it."""
    wanted = ports(run.labels.get(marks.PORTS, ""))
    if not wanted:
        return None
    listed = []
    for port in wanted:
        outside = run.outside.get(port.inside)
        there = run.status in ("running", "paused") and outside is not None
        status = "AVAILABLE" if there else "FINISHED" if run.over or run.status == "stopping" else "PREPARING"
        shown = {"kind": CONNECTOR, "status": status, "protocol": port.protocol}
        listed.append(shown | ({"location": _address(port, host, outside)} if there else {}))
    return msgspec.json.encode({"connectors": listed})


def _address(port: Port, host: str, outside: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{port.protocol.lower()}://{shown}:{outside}{port.path}"


def ports(label: str) -> tuple[Port, ...]:
    """What `written` wrote; nothing, where it is something else."""
    try:
        return tuple(msgspec.json.decode(label, type=list[Port])) if label else ()
    except msgspec.DecodeError:
        return ()


def written(ports: tuple[Port, ...]) -> str:
    return msgspec.json.encode(ports).decode() if ports else ""
