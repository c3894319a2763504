"""From the standard's request to a TES task, and what in a request TES cannot run. Pure; imports the domain, the
platform port's Job, the laying of adapters/common, this package's options.

Source: tesTask, tesExecutor, tesInput, tesOutput and tesResources of the GA4GH Task Execution Service 1.1.0. Sizes are
GB (10^9 bytes) there and GiB (2^30 bytes) with us.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from adapters.common import refusing
from adapters.common.laying import (
    DATA,
    PROGRAM,
    RESULTS,
    Datum,
    Layout,
    inside,
    is_data,
    lay_out,
    upper,
    variables,
)
from adapters.local.steps import THREADS
from adapters.planning.platform import Job
from adapters.tes.options import ProgramOptions, TesOptions
from adapters.tes.states import LIMIT, SUBMITTED
from broker.domain import kinds
from broker.domain.addresses import bare
from broker.domain.executables import DockerContainer, PythonProgram
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.outputs import SESSION as SESSION_IN_A_PLACE
from broker.domain.outputs import covers, reaches
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleVolumeMount

BROKER, SITE, SESSION, OWNER = "broker", "broker_site", "broker_session", "broker_owner"  # tags

_GIB = 2**30
_MOST = 1000  # data, storages or volumes of one task
# Isolated from nothing: it only sees to the folders, and becomes the program, so that signals reach that.
_LAUNCHER = (
    "import os, sys\n"
    f"for folder in ({DATA!r}, {RESULTS!r}): os.makedirs(folder, exist_ok=True)\n"
    f"os.execv(sys.executable, [sys.executable, '-u', {PROGRAM!r}, *sys.argv[1:]])\n"
)
_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}


class Server(NamedTuple):
    """What is known of the server. `reads`: schemes and beginnings of URLs that it takes inputs from; None: not known
    yet, and nothing is held against. `parameters`: its backend parameters in lower case (they are told apart by
    nothing else); None: it does not say."""

    reads: tuple[str, ...] | None = None
    parameters: frozenset[str] | None = None


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


def refuse(request: ExecutionRequest, options: TesOptions, server: Server) -> tuple[Reason, ...]:
    """All that stands against it."""
    checks = (_executable, _resources, _parameters, _data, _volumes, _outputs)
    return tuple(chain.from_iterable(check(request, options, server) for check in checks))


def out_of_reach(request: ExecutionRequest, options: TesOptions, server: Server) -> tuple[Reason, ...]:
    """Places in it that the server may not be made to read or write, which may have changed since it was offered."""
    executable = request.executable
    location = executable.location if isinstance(executable, PythonProgram) else None
    elsewhere = location if location and location[:5].lower() != "data:" else None
    program = _readable(elsewhere, "executable.location", options, server) if elsewhere else ()
    return (*program, *_data(request, options, server), *_outputs(request, options, server))


def _executable(request: ExecutionRequest, options: TesOptions, server: Server) -> Iterator[Reason]:
    executable = request.executable
    runs = executables(options)
    if executable.kind not in runs:
        nearest = " or ".join(map(kinds.short, runs))
        yield Reason(f"{kinds.short(executable.kind)} does not run here", "executable.kind", nearest=nearest)
    elif isinstance(executable, PythonProgram) and options.program is not None:
        yield from _program(executable, options, options.program, server)
    elif isinstance(executable, DockerContainer):
        yield from _container(executable, options)


def _program(
    executable: PythonProgram, options: TesOptions, runs_in: ProgramOptions, server: Server
) -> Iterator[Reason]:
    yield from refusing.words(executable)
    yield from refusing.version(executable.python, runs_in.version, "program.version")
    try:
        content = _content(executable)
    except ValueError:
        content = ""
        yield Reason("the data URL holds no text in UTF-8", "executable.location")
    if content is None and executable.location:
        yield from _readable(executable.location, "executable.location", options, server)
    elif content is not None and len(content.encode(errors="replace")) > options.max_source_bytes:
        yield Reason("the source is too large", "executable.source", nearest=f"{options.max_source_bytes} bytes")
    if executable.requirements:
        text = "nothing is installed here: the image has what it has"
        yield Reason(text, "executable.requirements", "program.image", "no requirements")


def _container(executable: DockerContainer, options: TesOptions) -> Iterator[Reason]:
    for name, value in (executable.environment or {}).items():
        if not name or "=" in name or "\0" in name + value:
            yield Reason(f"{name!r} cannot be set as a variable", "executable.environment")
    if image(executable) is None:
        yield Reason("a container needs the location of its image", "executable.image.locations")
    stated = executable.image.platform if executable.image else None
    architecture = _ARCHITECTURES.get((stated and stated.architecture) or "", stated and stated.architecture)
    if architecture and architecture not in options.architectures:
        nearest = ", ".join(options.architectures)
        yield Reason(
            f"no machine here is {architecture}", "executable.image.platform.architecture", "architectures", nearest
        )
    if stated and stated.os and stated.os.lower() != "linux":
        yield Reason(f"no machine here runs {stated.os}", "executable.image.platform.os", nearest="linux")
    if executable.privileged:
        yield Reason("nothing runs privileged here", "executable.privileged", nearest="false")
    if not argv(executable):
        text = "TES starts nothing by an image's own command: it has to be said"
        yield Reason(text, "executable.command", nearest="a command, or an entrypoint")
    if executable.network and executable.network.ports:
        yield Reason("TES has no ports to be reached at", "executable.network.ports", nearest="no ports")


def _resources(request: ExecutionRequest, options: TesOptions, server: Server) -> Iterator[Reason]:
    yield from refusing.numbers(request, _MOST)
    yield from refusing.resources(request)
    for what in request.extras:
        if what not in options.accelerators:
            nearest = ", ".join(map(kinds.short, options.accelerators))
            yield Reason(f"there is no {kinds.short(what)} here", "compute.extras", "accelerators", nearest)


def _parameters(request: ExecutionRequest, options: TesOptions, server: Server) -> Iterator[Reason]:
    """With `strict` the server would fail the task."""
    if server.parameters is None or not options.strict:
        return
    for name in (*options.backend_parameters, *(options.accelerators.get(what, "") for what in request.extras)):
        if name and name.lower() not in server.parameters:
            yield Reason(f"its server knows no backend parameter {name}", rule="backend_parameters")


def _data(request: ExecutionRequest, options: TesOptions, server: Server) -> Iterator[Reason]:
    return refusing.data(request, lambda url, element: _readable(url, element, options, server))


def _readable(url: str, element: str, options: TesOptions, server: Server) -> Iterator[Reason]:
    """Results of others lie below the place of the outputs, and the server would read them by its own credentials."""
    shown = bare(url)[:200]
    if not _plain(url) or url.endswith("/") or (server.reads is not None and not reaches(server.reads, url)):
        nearest = ", ".join(server.reads or ())
        yield Reason(f"{shown!r} cannot be read from here", element, "reads", nearest)
    elif options.outputs is not None and _meets(options.outputs.place, url):
        yield Reason(f"{shown!r} is where this site keeps results", element, "outputs.place")


def _plain(url: str) -> bool:
    """A URL that means one place to whoever reads it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    steps = unquote(unquote(parts.path)).replace("\\", "/").split("/")
    return bool(parts.scheme) and parts.scheme != "data" and url.isprintable() and not {".", ".."} & set(steps)


def _volumes(request: ExecutionRequest, options: TesOptions, server: Server) -> Iterator[Reason]:
    taken = {f"{options.workdir}/{name}" for name in (PROGRAM, DATA, RESULTS, "storage")}
    taken |= {f"{options.workdir}/{datum.place}" for datum in lay_out(request).data}
    for i, volume in enumerate((request.compute.volumes if request.compute else None) or ()):
        element = f"compute.volumes[{i}]"
        if not isinstance(volume, SimpleVolumeMount):
            yield Reason("an unknown kind of volume", f"{element}.kind", nearest=kinds.short(kinds.SIMPLE_VOLUME))
            continue
        path = mounted(request, volume.path, options.workdir)
        if path is None or path in taken or path.startswith(f"{options.workdir}/{RESULTS}/"):
            text = f"nothing can be mounted at {volume.path!r}"
            yield Reason(text, f"{element}.path", nearest="a path of its own, without ..")
        elif volume.mode == "READWRITE" and is_data(request, volume):
            yield Reason("data cannot be written to here", f"{element}.mode", nearest="READONLY")
        taken.add(path or "")


def _meets(place: str, url: str) -> bool:
    """Whether one lies in the other, also by another spelling: below a folder that holds the place, a program can name
    its files as it wants."""
    plain = unquote(unquote(url))
    if urlsplit(plain).scheme == "file":
        plain = f"file://{urlsplit(plain).path}"
    return any(covers(place, one) or covers(one, place) for one in (url, plain))


def _outputs(request: ExecutionRequest, options: TesOptions, server: Server) -> Iterator[Reason]:
    to = request.outputs.to if request.outputs else None
    if to is not None and options.outputs is not None and _meets(options.outputs.place, to):
        yield Reason("this site keeps the results of others there", "outputs.to", "outputs.place")


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


def executables(options: TesOptions) -> tuple[str, ...]:
    """The kinds that run."""
    programs = (kinds.PYTHON_PROGRAM,) if options.program else ()
    return (*programs, *((kinds.DOCKER_CONTAINER,) if options.containers else ()))


def task(job: Job, options: TesOptions, server: Server, tags: dict[str, str], now: float) -> dict[str, Any]:
    """The document that makes a task of a job that `refuse` has nothing against. `now`: by our clock."""
    layout = lay_out(job.request)
    inputs = [*_inputs(job.request, layout, options, server)]
    executable = job.request.executable
    if isinstance(executable, PythonProgram):
        inputs.append({"path": f"{options.workdir}/{PROGRAM}", "type": "FILE", **_program_from(executable)})
    document = {
        "name": f"broker-{job.session}",
        "description": job.name,
        "inputs": inputs,
        "outputs": list(_written(job, options)),
        "resources": resources(job, options),
        "executors": [_executor(job, layout, options)],
        "volumes": [_at(job.request, m.path, options.workdir) for m in layout.mounts if m.source in layout.storages],
        "tags": {
            **tags,
            SESSION: str(job.session),
            OWNER: owned(job.owner),
            LIMIT: f"{job.duration:.3f}",
            SUBMITTED: f"{now:.3f}",
        },
    }
    return {key: value for key, value in document.items() if value}


def resources(job: Job, options: TesOptions) -> dict[str, Any]:
    """Never less than was granted: GB are smaller than GiB."""
    disk = job.storage + options.disk
    parameters = {options.accelerators[what]: str(count) for what, count in job.extras.items() if count}
    parameters = {**options.backend_parameters, **parameters}
    asked = {
        "cpu_cores": max(1, job.cores),
        "ram_gb": gigabytes(max(1, job.memory)),
        "disk_gb": gigabytes(disk) if disk else None,
        "preemptible": options.preemptible,
        "zones": list(options.zones) or None,
        "backend_parameters": parameters or None,
        "backend_parameters_strict": options.strict if parameters else None,
    }
    return {key: value for key, value in asked.items() if value is not None}


def gigabytes(gib: float) -> float:
    """GB (10^9 bytes) of so many GiB (2^30), rounded up to a kilobyte: 1 → 1.073742."""
    return math.ceil(gib * _GIB / 1000) / 1e6


def owned(owner: Owner) -> str:
    return f"{owner.issuer} {owner.subject}"


def argv(container: DockerContainer) -> list[str]:
    """The entrypoint, which is one word, and the command's words."""
    return [*([container.entrypoint] if container.entrypoint else ()), *(container.command or ())]


def image(container: DockerContainer) -> str | None:
    """The first location, by its digest where that is stated; None: there is none that a container engine reads."""
    stated = container.image
    location = next(iter((stated and stated.locations) or ()), "").removeprefix("docker://")
    if not re.fullmatch(r"[\w.:/@-]+", location, re.ASCII) or "://" in location:
        return None
    return f"{location.partition('@')[0]}@{stated.digest}" if stated and stated.digest else location


def mounted(request: ExecutionRequest, path: str | None, folder: str) -> str | None:
    """Where a volume is in the container: at an absolute path in one that the user brings, below the folder of a
    program otherwise. None: nowhere."""
    below = inside(path)
    if below is None:
        return None
    if isinstance(request.executable, DockerContainer) and (path or "").startswith("/"):
        ours = f"/{below}/".startswith(f"{folder}/") or f"{folder}/".startswith(f"/{below}/")
        return None if ours else f"/{below}"
    return f"{folder}/{below}"


def _at(request: ExecutionRequest, path: str, folder: str) -> str:
    """The same of a laid mount: whether its path was absolute is known by the request's own."""
    volumes = (request.compute.volumes if request.compute else None) or ()
    asked = (volume.path for volume in volumes if isinstance(volume, SimpleVolumeMount) and inside(volume.path) == path)
    return mounted(request, next(asked, None), folder) or f"{folder}/{path}"


def _inputs(request: ExecutionRequest, layout: Layout, options: TesOptions, server: Server) -> Iterator[dict[str, str]]:
    """Each datum at its own place, and once more wherever it is mounted, or the storage on which it lies."""
    for datum in layout.data:
        url = next((url for url in datum.urls if not any(_readable(url, "", options, server))), datum.urls[0])
        own, mounts = f"{options.workdir}/{datum.place}", _mounts_of(request, layout, datum, options.workdir)
        for path in dict.fromkeys((own, *mounts)):
            yield {"name": datum.name, "url": url, "path": path, "type": "FILE"}


def _mounts_of(request: ExecutionRequest, layout: Layout, datum: Datum, folder: str) -> Iterator[str]:
    for mount in layout.mounts:
        at = _at(request, mount.path, folder)
        if mount.source == datum.place:
            yield at
        elif mount.source == datum.place.rpartition("/")[0]:
            yield f"{at}/{datum.name}"


def _content(executable: PythonProgram) -> str | None:
    """What goes along with the task: an inline source, or a data URL's; None: it is to be read from a location. Raises
    ValueError for a data URL that holds no text."""
    location = executable.location or ""
    if executable.source is not None or location[:5].lower() != "data:":
        return executable.source
    head, _, body = location.partition(",")
    data = unquote_to_bytes(body)
    return (b64decode(data, validate=True) if head.lower().endswith(";base64") else data).decode()


def _program_from(executable: PythonProgram) -> dict[str, str]:
    content = _content(executable)
    if content is None:
        return {"url": executable.location or ""}
    return {"content": content or "\n"}  # an empty one counts as none, and then a URL is wanted


def _executor(job: Job, layout: Layout, options: TesOptions) -> dict[str, Any]:
    executable = job.request.executable
    environment = {**(getattr(executable, "environment", None) or {}), **_told(job, layout, options)}
    if isinstance(executable, DockerContainer):
        return {"image": image(executable), "command": argv(executable), "env": environment}
    runs_in, program = options.program, executable
    arguments = (program.arguments or ()) if isinstance(program, PythonProgram) else ()
    return {
        "image": runs_in.image if runs_in else "",
        "command": [runs_in.python if runs_in else "", "-c", _LAUNCHER, *arguments],
        "workdir": options.workdir,
        "env": {**dict.fromkeys(THREADS, str(max(1, job.cores))), "PYTHONUNBUFFERED": "1", **environment},
    }


def _told(job: Job, layout: Layout, options: TesOptions) -> dict[str, str]:
    """What the request cannot set."""
    volumes = {f"BROKER_VOLUME_{upper(m.path)}": _at(job.request, m.path, options.workdir) for m in layout.mounts}
    return {
        **variables(layout, options.workdir),
        **volumes,
        "BROKER_SESSION": str(job.session),
        "BROKER_CORES": str(max(1, job.cores)),
        "BROKER_MEMORY": str(max(1, job.memory) * _GIB),
    }


def _written(job: Job, options: TesOptions) -> Iterator[dict[str, str]]:
    ours = results_place(options.outputs.place, str(job.session)) if options.outputs else None
    for place in filter(None, (ours, elsewhere(job))):
        yield {"path": f"{options.workdir}/{RESULTS}", "url": place.rstrip("/"), "type": "DIRECTORY"}


def elsewhere(job: Job) -> str | None:
    """Where the request wants its results; None: nowhere."""
    to = job.request.outputs.to if job.request.outputs else None
    return to.replace(SESSION_IN_A_PLACE, str(job.session)) if to else None


def results_place(place: str, session: str) -> str:
    return f"{place.rstrip('/')}/{session}/{RESULTS}"
