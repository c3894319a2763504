"""What is written on the engine, so that any process finds a job again. Pure.

    <prefix>-<session>        a volume, the *ticket*: the job was taken, and not all is in place for it to run
    <prefix>-<session>        a container: the run. Made once the image is there; filled; then the ticket goes; started
    <prefix>-end-<session>    a volume, the *end*: the job is not to run, or no longer; its labels say why

Volumes serve as marks because an engine makes one of a name at once, whole, with labels, and gives back the one that is
there: Engine API 1.41, VolumeCreate. They hold no bytes. No name is the beginning of another: Podman takes a beginning
for the whole. What a job shows is:

    ticket alone               image being brought          ticket, container created    data being brought
    container created          about to be started          container beyond that        the run
    end, and nothing running   over before it began, or ended by us

A container that is removed by somebody leaves nothing, and its job is not run again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from uuid import UUID

from adapters.planning.platform import Job
from broker.domain.identity import Owner

_OURS = "execution-broker."
SITE, SESSION, JOB = _OURS + "site", _OURS + "session", _OURS + "job"
SUBJECT, ISSUER, NAME = _OURS + "subject", _OURS + "issuer", _OURS + "name"
DURATION, KEEP, RESULTS, PORTS = _OURS + "duration", _OURS + "keep", _OURS + "results", _OURS + "ports"
REASON, TEXT = _OURS + "reason", _OURS + "text"

CANCELLED, FAILED = "cancelled", "failed"  # reasons of an end
_LONGEST = 300


def name(prefix: str, session: UUID) -> str:
    return f"{prefix}-{session}"


def end_name(prefix: str, session: UUID) -> str:
    return f"{prefix}-end-{session}"


def names(prefix: str, session: UUID) -> set[str]:
    return {name(prefix, session), end_name(prefix, session)}


def ticket(site: str, job: Job) -> dict[str, str]:
    """Labels that every mark of a job has."""
    return {
        SITE: site,
        SESSION: str(job.session),
        JOB: fingerprint(job),
        SUBJECT: job.owner.subject[:_LONGEST],
        ISSUER: job.owner.issuer[:_LONGEST],
    }


def end(site: str, session: UUID, reason: str, text: str = "") -> dict[str, str]:
    """Labels of an end alone; `REASON` tells it from a ticket."""
    return {SITE: site, SESSION: str(session), REASON: reason, TEXT: text[:_LONGEST]}


def compose(prefix: str, job: Job) -> dict[str, str]:
    """What Docker Compose writes on its containers (pkg/api/labels.go of docker/compose): its `ls` and `ps` list what
    has these, and `ps` asks for a config-hash."""
    return {
        "com.docker.compose.project": prefix,
        "com.docker.compose.service": str(job.session),
        "com.docker.compose.container-number": "1",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.config-hash": fingerprint(job),
    }


def fingerprint(job: Job) -> str:
    """Of all that is asked and granted: whoever knows a job by its session alone does not go on with it."""
    asked = job.request.model_dump_json(exclude_none=True)
    sizes = (job.session, job.cores, job.memory, job.storage, sorted(job.extras.items()), job.duration)
    return hashlib.sha256(f"{sizes}{asked}".encode()).hexdigest()


def session(labels: Mapping[str, str]) -> UUID | None:
    try:
        return UUID(labels.get(SESSION, ""))
    except ValueError:
        return None


def owner(labels: Mapping[str, str]) -> Owner | None:
    subject, issuer = labels.get(SUBJECT), labels.get(ISSUER)
    return Owner(issuer or "", subject) if subject else None


def seconds(labels: Mapping[str, str], label: str) -> float | None:
    try:
        return float(labels[label])
    except (KeyError, ValueError):
        return None
