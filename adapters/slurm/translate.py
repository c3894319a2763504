"""From the standard's request to a job of Slurm, and what in a request can never run. Pure; imports the domain, the
platform port, the local platform's translation, and this package's options.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from adapters.common.tokens import per_user
from adapters.local import translate
from adapters.local.layout import Spec
from adapters.planning.platform import Job
from adapters.slurm import containers
from adapters.slurm.cluster import Rules, Want
from adapters.slurm.options import AccountOptions, SlurmOptions
from broker.domain import kinds
from broker.domain.executables import PythonProgram
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest

BEGINNING = 60  # seconds that a node has to start Python from the shared folder, and to end
_LONGEST_COMMENT = 900  # bytes; slurmctld takes 1023
_UUID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


def refuse(request: ExecutionRequest, options: SlurmOptions) -> tuple[Reason, ...]:
    """All that stands against it, whatever the cluster has."""
    executable = request.executable
    if executable.kind not in runs(options):
        nearest = " or ".join(kinds.short(kind) for kind in runs(options))
        return (Reason(f"{kinds.short(executable.kind)} does not run here", "executable.kind", nearest=nearest),)
    if isinstance(executable, PythonProgram):
        return (*_general(request, options), *_version(executable, options))
    return tuple(containers.refuse(executable)) or tuple(_general(_as_program(request, options), options))


def runs(options: SlurmOptions) -> tuple[str, ...]:
    """The kinds of executables."""
    return (kinds.PYTHON_PROGRAM, *(containers.KINDS if options.apptainer else ()))


def _as_program(request: ExecutionRequest, options: SlurmOptions) -> ExecutionRequest:
    """With what runs on the node in a container's place."""
    if isinstance(request.executable, PythonProgram):
        return request
    accelerated = kinds.GPU in request.extras
    program = containers.program(request.executable, options, accelerated=accelerated)
    return request.model_copy(update={"executable": program})


def _general(request: ExecutionRequest, options: SlurmOptions) -> Iterator[Reason]:
    """As on the local platform; but that accelerators are the cluster's to have."""
    for reason in translate.refuse(request, options.as_local()):
        if reason.element != "compute.extras":
            yield reason
    for type_ in request.extras:
        if type_ not in options.extras:
            nearest = ", ".join(kinds.short(known) for known in options.extras)
            yield Reason(f"there is no {kinds.short(type_)} here", "compute.extras", nearest=nearest)


def _version(executable: PythonProgram, options: SlurmOptions) -> Iterator[Reason]:
    if not executable.python:
        return
    version = options.python_version
    try:
        if not version:
            yield Reason("which version of Python the nodes have is not known here", "executable.python")
        elif not SpecifierSet(executable.python).contains(version, prereleases=True):
            yield Reason(f"Python {executable.python} is asked", "executable.python", nearest=version)
    except InvalidSpecifier:
        yield Reason(f"{executable.python!r} is no range of versions", "executable.python", nearest=">=3.11")


# ── who ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def account(owner: Owner, options: SlurmOptions) -> AccountOptions | None:
    """As whom somebody's jobs run, whole; None: nothing of theirs runs."""
    found = per_user(options.users, owner)
    if found is None and not options.others:
        return None
    found = found or AccountOptions()
    given = {name: getattr(found, name) or getattr(options, name) for name in ("user", "account", "qos")}
    return found.model_copy(update=given)


def no_account(options: SlurmOptions) -> Reason:
    text = "you have no account on this cluster"
    return Reason(f"{text}: {options.apply}" if options.apply else text, rule="account")


# ── what is asked of the cluster ─────────────────────────────────────────────────────────────────────────────────


def rules(options: SlurmOptions, who: AccountOptions) -> Rules:
    return Rules(
        partitions=options.partitions,
        constraint=options.constraint,
        account=who.account or "",
        qos=who.qos or "",
        reservation=options.reservation or "",
        extras=options.extras,
        overhead=options.overhead,
    )


def want(request: ExecutionRequest, cores: int, memory: int, duration: float, options: SlurmOptions) -> Want:
    """Of a job of that size; `memory` in GiB, `duration` in seconds."""
    generic: dict[str, int] = {}
    for type_, count in request.extras.items():
        if name := options.extras.get(type_):
            generic[name] = generic.get(name, 0) + count
    return Want(max(1, cores), max(1, memory) * 1024 + options.overhead, generic, minutes(request, duration, options))


def minutes(request: ExecutionRequest, duration: float, options: SlurmOptions) -> int:
    """Slurm's limit for all that happens on the node. The supervisor ends the program itself after `duration`."""
    executable = request.executable
    program = executable if isinstance(executable, PythonProgram) else None
    fetches = bool(request.data) or (program is not None and bool(program.location or program.requirements))
    seconds = duration + options.grace + BEGINNING
    seconds += options.staging.total_seconds() * (1 + bool(program and program.requirements)) if fetches else 0.0
    seconds += options.delivering.total_seconds() if request.outputs and request.outputs.to else 0.0
    return math.ceil(seconds / 60)


# ── the job ──────────────────────────────────────────────────────────────────────────────────────────────────────


def spec(job: Job, options: SlurmOptions) -> Spec:
    """What the supervisor on the node is to run. Slurm binds its cores."""
    job = msgspec.structs.replace(job, request=_as_program(job.request, options))
    return translate.spec(job, options.as_local())._replace(binds=False)


def name(site: str, session: UUID, owner: Owner) -> str:
    """What the job is called, and found by: `<site>-<session>-<person>`."""
    return f"{_plain(site, 40)}-{session}-{_plain(owner.subject, 40)}"


def session_of(name: str | None, site: str) -> UUID | None:
    """None: it is no job of this site."""
    match = re.match(rf"{re.escape(_plain(site, 40))}-({_UUID})(?:-|$)", name or "")
    return UUID(match[1]) if match else None


class Where(NamedTuple):
    """`partitions`: as sbatch takes them; `place`: the job's folder; `runner`: what the node runs."""

    partitions: str
    place: Path
    runner: Path


def submission(
    api: str, job: Job, site: str, broker: str, who: AccountOptions, asked: Want, where: Where, options: SlurmOptions
) -> dict[str, Any]:
    """The body of POST job/submit. Properties by the descriptions at /openapi/v3: 0.0.38 of Slurm 22.05.8 (where
    `requeue` false does nothing, and `no_requeue` does), 0.0.44 of 25.11."""
    described = {
        "name": name(site, job.session, job.owner),
        "comment": _comment(job, broker),
        "partition": where.partitions,
        "account": who.account,
        "qos": who.qos,
        "reservation": options.reservation,
        "constraints": options.constraint,
        "current_working_directory": str(where.place),
        "standard_output": str(where.place / "slurm.out"),
        "tasks": 1,
        "cpus_per_task": asked.cores,
        **(_early if api == "v0.0.38" else _late)(asked),
    }
    return {
        "script": _script(options, where),
        "job": {key: value for key, value in described.items() if value not in (None, "")},
    }


_PATH = "/usr/local/bin:/usr/bin:/bin"


def _early(asked: Want) -> dict[str, Any]:
    return {
        "environment": {"PATH": _PATH, "LANG": "C.UTF-8"},
        "nodes": [1, 1],
        "memory_per_node": asked.memory,
        "time_limit": asked.minutes,
        "no_requeue": True,
        "gres": ",".join(f"{name}:{count}" for name, count in asked.gres.items()),
    }


def _late(asked: Want) -> dict[str, Any]:
    return {
        "environment": [f"PATH={_PATH}", "LANG=C.UTF-8"],
        "minimum_nodes": 1,
        "maximum_nodes": 1,
        "memory_per_node": _set(asked.memory),
        "time_limit": _set(asked.minutes),
        "requeue": False,
        "tres_per_node": ",".join(f"gres/{name}:{count}" for name, count in asked.gres.items()),
    }


def _set(number: int) -> Mapping[str, Any]:
    return {"set": True, "infinite": False, "number": number}


def _script(options: SlurmOptions, where: Where) -> str:
    """The shell is replaced, so that Slurm's signals reach the supervisor."""
    command = [options.runner or options.python, str(where.runner), "run", str(where.place)]
    return f"#!/bin/sh\nexec {shlex.join(command)}\n"


def _comment(job: Job, broker: str) -> str:
    """For the cluster's people: whose it is, of which session, and of which broker."""
    text = f"{_mark(job.session, broker)}{job.owner.subject} ({job.owner.issuer})" + (
        f": {job.name}" if job.name else ""
    )
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line.encode()[:_LONGEST_COMMENT].decode(errors="ignore")


def is_of(comment: str | None, session: UUID, broker: str) -> bool:
    """Whether that broker submitted it: another may call its site, and so its jobs, as we do."""
    return (comment or "").startswith(_mark(session, broker))


def _mark(session: UUID, broker: str) -> str:
    return f"session {session} of {_plain(broker, 100)} for "


def _plain(text: str, most: int) -> str:
    return re.sub(r"[^A-Za-z0-9._]", "_", text)[:most]
