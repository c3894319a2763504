"""From the standard's request to a container, and what in a request cannot be one. Pure.

The job's folder is /broker in the container's own file system, laid out as adapters.common.laying says. A container's
volumes are links into it, at their absolute paths; a program's are links beside it, as on every platform.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from adapters.common import refusing
from adapters.common.laying import (
    PROGRAM,
    RESULTS,
    Datum,
    Layout,
    Mount,
    inside,
    is_data,
    lay_out,
    variables,
)
from adapters.containers import images, marks
from adapters.containers.options import GIB, ContainersOptions
from adapters.containers.states import Port, written
from adapters.local.fetching import shown
from adapters.planning.platform import Job
from adapters.planning.results import kept
from broker.domain import kinds
from broker.domain.executables import DockerContainer, DockerNetworkPort, PythonProgram
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleVolumeMount

ROOT = "/broker"
FETCHED = ("http", "https")
PROTOCOLS = ("TCP", "UDP", "HTTP", "HTTPS")

# Bytes of a command, or of an image's labels: an engine's list of containers shows both, and is read for all jobs.
LONGEST = 65536
_MOST = 10_000  # data, storages or volumes of one job
_OURS = frozenset({"data", "storage", "home", "tmp", PROGRAM})  # what a program's volume is not laid over
_SYSTEM = frozenset({"proc", "sys", "dev", ROOT.strip("/")})  # nor a container's
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

# Runs before a program that has requirements: installs, and becomes the program. What pip says goes to stderr.
_INSTALL = """\
import os, subprocess, sys
count, path = int(sys.argv[1]), os.path.abspath("packages")
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir"]
code = subprocess.call([*pip, "--target", path, "--", *sys.argv[2 : 2 + count]], stdout=2)
if code:
    sys.exit(f"installing the requirements ended with {code}")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PYTHONPATH"))))
os.execv(sys.executable, [sys.executable, "-u", *sys.argv[2 + count :]])
"""


class Known(NamedTuple):
    """What was found out of the engine; empty: not yet, and then nothing is refused for it."""

    architecture: str = ""
    python: str = ""


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


def refuse(request: ExecutionRequest, options: ContainersOptions, known: Known) -> tuple[Reason, ...]:
    """All that stands against it."""
    executable = request.executable
    if isinstance(executable, DockerContainer) and options.containers:
        first = _container(executable, options, known)
    elif isinstance(executable, PythonProgram) and options.program:
        first = _program(executable, options, known)
    else:
        nearest = " or ".join(kinds.short(kind) for kind in executables(options))
        first = iter([Reason(f"{kinds.short(executable.kind)} does not run here", "executable.kind", nearest=nearest)])
    return tuple(
        chain(
            first,
            refusing.numbers(request, _MOST),
            refusing.resources(request),
            _extras(request, options),
            refusing.data(request, lambda url, element: _unreadable(url, element, options)),
            _bound(request, options),
            _volumes(request),
        )
    )


def executables(options: ContainersOptions) -> tuple[str, ...]:
    program, container = (kinds.PYTHON_PROGRAM,), (kinds.DOCKER_CONTAINER,)
    return (container if options.containers else ()) + (program if options.program else ())


def _container(asked: DockerContainer, options: ContainersOptions, known: Known) -> Iterator[Reason]:
    if asked.privileged:
        yield Reason("nothing runs privileged here", "executable.privileged", "privileged", "false")
    digest = asked.image.digest if asked.image else None
    if digest and not images.is_digest(digest):
        yield Reason("no digest of an image", "executable.image.digest", nearest="sha256: and 64 hexadecimal digits")
    locations = (asked.image.locations if asked.image else None) or ()
    if not locations:
        yield Reason("a container needs an image", "executable.image.locations")
    reasons = [tuple(_location(one, i, digest, options)) for i, one in enumerate(locations)]
    if reasons and all(reasons):
        yield reasons[0][0]
    yield from _platform(asked, options, known)
    yield from _environment(asked.environment, (*(asked.command or ()), asked.entrypoint or ""), "command")
    for i, port in enumerate((asked.network.ports if asked.network else None) or ()):
        yield from _port(port, f"executable.network.ports[{i}]", options)


def _location(text: str, i: int, digest: str | None, options: ContainersOptions) -> Iterator[Reason]:
    element = f"executable.image.locations[{i}]"
    reference = images.read(text)
    if reference is None:
        yield Reason(f"{text[:200]!r} names no image", element, nearest="registry/repository:tag")
    elif images.below(reference, options.images) is None:
        nearest = ", ".join(options.images)
        yield Reason(f"images from {reference.repository} do not run here", element, "images", nearest)
    elif digest and images.pinned(reference, digest) is None:
        yield Reason("its own digest is another than the one asked for", element, nearest="one digest")


def _platform(asked: DockerContainer, options: ContainersOptions, known: Known) -> Iterator[Reason]:
    wanted = asked.image.platform if asked.image else None
    runs = tuple(map(images.architecture, (known.architecture, *options.architectures)))
    if wanted and wanted.os and wanted.os.lower() != "linux":
        yield Reason(f"{wanted.os[:40]} does not run here", "executable.image.platform.os", nearest="linux")
    if wanted and wanted.architecture and known.architecture and images.architecture(wanted.architecture) not in runs:
        text = f"{wanted.architecture[:40]} does not run here"
        yield Reason(text, "executable.image.platform.architecture", "architectures", ", ".join(runs))


def _environment(environment: dict[str, str] | None, words: Sequence[str], what: str) -> Iterator[Reason]:
    for name, value in (environment or {}).items():
        if not name or "=" in name or "\0" in name + value:
            yield Reason(f"{name[:100]!r} cannot be set as a variable", "executable.environment")
    yield from _size(words, what)
    if any("\0" in word for word in words):
        yield Reason("a word of it holds a null character", f"executable.{what}")


def _size(words: Iterable[str], what: str) -> Iterator[Reason]:
    size = sum(len(word.encode(errors="replace")) for word in words)
    if size > LONGEST:
        yield Reason(f"its words have {size} bytes", f"executable.{what}", nearest=f"{LONGEST} bytes together")


def _port(port: DockerNetworkPort, element: str, options: ContainersOptions) -> Iterator[Reason]:
    if options.ports is None:
        yield Reason("no ports are opened here", element, "ports", "none")
    if port.internal is None or not 0 < (port.internal.port or 0) < 65536:
        yield Reason("a port has a number from 1 to 65535", f"{element}.internal.port")
    if (port.protocol or "TCP").upper() not in PROTOCOLS:
        yield Reason("an unknown protocol", f"{element}.protocol", nearest=", ".join(PROTOCOLS))
    if port.path and not re.fullmatch(r"/[!-~]*", port.path):
        yield Reason("a path begins with a slash, and has no spaces", f"{element}.path")


def _program(program: PythonProgram, options: ContainersOptions, known: Known) -> Iterator[Reason]:
    yield from refusing.words(program)
    yield from _size((*(program.arguments or ()), *(program.requirements or ())), "arguments")
    if program.source is not None and len(program.source.encode(errors="replace")) > options.max_source_bytes:
        yield Reason("the source is too large", "executable.source", nearest=f"{options.max_source_bytes} bytes")
    if program.location is not None and _scheme(program.location) not in ("http", "https", "data"):
        text = f"{shown(program.location)!r} cannot be read from here"
        yield Reason(text, "executable.location", nearest="http, https, data")
    if program.requirements and not options.install_requirements:
        yield Reason("this site installs nothing", "executable.requirements", "install_requirements", "no requirements")
    for i, line in enumerate(program.requirements or ()):
        if not re.match(r"\s*[A-Za-z0-9]", line) or "\0" in line:
            yield Reason("a requirement begins with the name of a package", f"executable.requirements[{i}]")
    if known.architecture or known.python:
        yield from refusing.version(program.python, known.python or None, "program.version")


def _extras(request: ExecutionRequest, options: ContainersOptions) -> Iterator[Reason]:
    for what, count in request.extras.items():
        most = options.extras[what].count if what in options.extras else 0
        if count > most:
            yield Reason(f"{count} × {kinds.short(what)} are asked", "compute.extras", nearest=str(most))


def _unreadable(url: str, element: str, options: ContainersOptions) -> Iterator[Reason]:
    if _scheme(url) not in FETCHED and _below(url, options) is None:
        nearest = ", ".join((*FETCHED, *(f"file://{folder}" for folder in options.binds)))
        yield Reason(f"{shown(url)!r} cannot be read from here", element, nearest=nearest)


def _bound(request: ExecutionRequest, options: ContainersOptions) -> Iterator[Reason]:
    """What cannot be mounted where it lies."""
    laid = lay_out(request)
    for i, datum in enumerate(laid.data):
        if bound(datum, options) is not None:
            if datum.checksum:
                yield Reason("what is mounted where it lies is not summed", f"data[{i}]", nearest="no checksum")
            if laid.writable() & {datum.place, datum.place.rpartition("/")[0]}:
                yield Reason("what is mounted where it lies cannot be written", f"data[{i}]", nearest="READONLY")


def _volumes(request: ExecutionRequest) -> Iterator[Reason]:
    program = isinstance(request.executable, PythonProgram)
    seen: list[PurePosixPath] = []
    for i, volume in enumerate((request.compute.volumes if request.compute else None) or ()):
        element = f"compute.volumes[{i}]"
        if not isinstance(volume, SimpleVolumeMount):
            yield Reason("an unknown kind of volume", f"{element}.kind", nearest=kinds.short(kinds.SIMPLE_VOLUME))
            continue
        path = PurePosixPath(inside(volume.path) or "")
        if not path.parts or path.parts[0] in (_OURS if program else _SYSTEM):
            text = f"nothing can be mounted at {str(volume.path)[:200]!r}"
            yield Reason(text, f"{element}.path", nearest="a path of its own, without ..")
        elif any(path.is_relative_to(other) or other.is_relative_to(path) for other in seen):
            yield Reason(f"{str(volume.path)[:200]!r} lies over another volume", f"{element}.path")
        elif (
            program
            and path.parts[0] == RESULTS
            and (len(path.parts) > 1 or is_data(request, volume) or volume.mode != "READWRITE")
        ):
            yield Reason("the program writes its results there", f"{element}.path", nearest="another path")
        else:
            seen.append(path)


def _scheme(url: str) -> str:
    try:
        return "" if "\0" in url else urlsplit(url).scheme
    except ValueError:
        return ""


# ── where data comes from ────────────────────────────────────────────────────────────────────────────────────────


def fetched(datum: Datum) -> tuple[str, ...]:
    """The URLs that it can be brought from."""
    return tuple(url for url in datum.urls if _scheme(url) in FETCHED)


def bound(datum: Datum, options: ContainersOptions) -> str | None:
    """Where it lies on the engine's machine, below a folder that the operator names; None: it does not."""
    return next((path for url in datum.urls if (path := _below(url, options)) is not None), None)


def _below(url: str, options: ContainersOptions) -> str | None:
    parts = urlsplit(url) if _scheme(url) == "file" else None
    path = PurePosixPath(unquote(parts.path)) if parts and parts.netloc in ("", "localhost") else PurePosixPath()
    inside = ".." not in path.parts and any(path.is_relative_to(folder) for folder in options.binds)
    return str(path) if inside else None


def pulled(request: ExecutionRequest, options: ContainersOptions) -> tuple[images.Reference, ...]:
    """The images that may be run, in the order to try, with the digest that they must have."""
    asked = request.executable
    if not isinstance(asked, DockerContainer):
        own = images.read(options.program.image) if options.program else None
        return (own,) if own else ()
    spec = asked.image
    read = (images.read(text) for text in (spec.locations if spec else None) or ())
    allowed = (one for one in read if one is not None and images.below(one, options.images) is not None)
    exact = (images.pinned(one, spec.digest if spec else None) for one in allowed)
    return tuple(one for one in exact if one is not None)


def platform(request: ExecutionRequest) -> str:
    """`linux/arm64`, where an architecture is asked for; else empty, which is the engine's own."""
    asked = request.executable
    spec = asked.image.platform if isinstance(asked, DockerContainer) and asked.image else None
    return f"linux/{images.architecture(spec.architecture)}" if spec and spec.architecture else ""


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


class Entry(NamedTuple):
    """What is put into a container, below its root. Of `text`, `file` (a place below the staged data) and `link` one
    is set; none: a folder."""

    path: str
    mode: int
    text: bytes | None = None
    file: str | None = None
    link: str | None = None


def container(job: Job, options: ContainersOptions, site: str, image: str) -> dict[str, Any]:
    """The body of ContainerCreate, of a job that `refuse` has nothing against."""
    asked, layout = job.request.executable, lay_out(job.request)
    ports = tuple(_wanted(asked)) if isinstance(asked, DockerContainer) and options.ports else ()
    labels = marks.ticket(site, job) | marks.compose(options.prefix, job)
    labels |= {
        marks.NAME: job.name[:300],
        marks.DURATION: repr(job.duration),
        marks.KEEP: repr(max(kept(job.request), options.keep.total_seconds())),
        marks.RESULTS: results(layout, isinstance(asked, PythonProgram)),
        marks.PORTS: written(tuple(port for port, listed in ports if listed)),
    }
    return {
        "Image": image,
        **_command(job, options),
        "Env": [f"{name}={value}" for name, value in environment(job, layout).items()],
        "User": options.user,
        "Labels": labels,
        "ExposedPorts": {port.inside: {} for port, _ in ports},
        "HostConfig": _host(job, options, layout, [port for port, _ in ports]),
    }


def _command(job: Job, options: ContainersOptions) -> dict[str, Any]:
    asked = job.request.executable
    if isinstance(asked, PythonProgram) and options.program:
        run = [PROGRAM, *(asked.arguments or ())]
        if asked.requirements:
            run = ["-c", _INSTALL, str(len(asked.requirements)), *asked.requirements, *run]
        return {"Entrypoint": [options.program.python], "Cmd": ["-u", *run], "WorkingDir": ROOT}
    command = {"Cmd": list(asked.command)} if isinstance(asked, DockerContainer) and asked.command else {}
    entry = {"Entrypoint": [asked.entrypoint]} if isinstance(asked, DockerContainer) and asked.entrypoint else {}
    return command | entry


def environment(job: Job, layout: Layout) -> dict[str, str]:
    """The request's own variables go before the defaults; those that tell where things are cannot be set."""
    asked = job.request.executable
    cores = str(max(1, job.cores))
    told = variables(layout, ROOT)
    defaults: dict[str, str] = {}
    if isinstance(asked, PythonProgram):
        defaults = dict.fromkeys(_THREADS, cores) | {"PYTHONUNBUFFERED": "1"}
        defaults |= {"HOME": f"{ROOT}/home", "TMPDIR": f"{ROOT}/tmp"}  # noqa: S108  inside the container
    else:
        told |= {name: value.removeprefix(ROOT) for name, value in told.items() if name.startswith("BROKER_VOLUME_")}
    own = (asked.environment if isinstance(asked, PythonProgram | DockerContainer) else None) or {}
    granted = {"BROKER_CORES": cores, "BROKER_MEMORY": str(_memory(job)), "BROKER_SESSION": str(job.session)}
    return defaults | dict(own) | told | granted


def _host(job: Job, options: ContainersOptions, layout: Layout, ports: Sequence[Port]) -> dict[str, Any]:
    bind = {"HostIp": options.ports.bind, "HostPort": ""} if options.ports else {}
    limits = [("nofile", options.ulimits.nofile), ("nproc", options.ulimits.nproc)] if options.ulimits else []
    return {
        "Privileged": False,
        "CapDrop": ["ALL"],
        "CapAdd": list(options.capabilities),
        "SecurityOpt": ["no-new-privileges"],
        "UsernsMode": options.userns,
        "PidsLimit": options.pids,
        "Memory": _memory(job),
        "MemorySwap": _memory(job),  # memory and swap together: none of the latter
        "NanoCpus": max(1, job.cores) * 10**9,
        "NetworkMode": options.network,
        "PortBindings": {port.inside: [bind] for port in ports},
        "Mounts": [
            {"Type": "bind", "Source": source, "Target": f"{ROOT}/{datum.place}", "ReadOnly": True}
            for datum in layout.data
            if (source := bound(datum, options)) is not None
        ],
        "RestartPolicy": {"Name": "no"},
        "Ulimits": [{"Name": name, "Soft": most, "Hard": most} for name, most in limits],
        **_devices(job, options),
    }


def _devices(job: Job, options: ContainersOptions) -> dict[str, Any]:
    requests, devices = [], []
    for what, count in job.extras.items():
        option = options.extras[what]
        if option.devices:
            devices += [_device(path) for path in option.devices]
        else:
            needs = [list(option.capabilities)]
            requests.append({"Driver": option.driver, "Count": count, "Capabilities": needs})
    return ({"DeviceRequests": requests} if requests else {}) | ({"Devices": devices} if devices else {})


def _device(path: str) -> dict[str, str]:
    return {"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"}


def _memory(job: Job) -> int:
    return max(1, job.memory) * GIB


def _wanted(asked: DockerContainer) -> Iterator[tuple[Port, bool]]:
    """Each port once, and whether it is to be listed among the session's connectors."""
    seen: set[str] = set()
    for port in (asked.network.ports if asked.network else None) or ():
        protocol = (port.protocol or "TCP").upper()
        inside = f"{port.internal.port if port.internal else 0}/{'udp' if protocol == 'UDP' else 'tcp'}"
        if inside not in seen:
            seen.add(inside)
            yield Port(inside, protocol, port.path or ""), port.access is not False


def results(layout: Layout, program: bool) -> str:
    """The folder in the container that is handed back."""
    moved = next((mount.source for mount in layout.mounts if program and mount.path == RESULTS), RESULTS)
    return f"{ROOT}/{moved}"


def entries(job: Job, options: ContainersOptions) -> Iterator[Entry]:
    """What goes into the container, folders before what is in them. It belongs to root, and its modes say who may
    write: a job is alone in there."""
    layout, asked = lay_out(job.request), job.request.executable
    program, base, writable = isinstance(asked, PythonProgram), ROOT.strip("/"), layout.writable()
    yield Entry(base, 0o777)
    yield Entry(f"{base}/data", 0o755)
    for place in layout.storages:
        yield Entry(f"{base}/{place}", 0o777 if place in writable else 0o755)
    if results(layout, program) == f"{ROOT}/{RESULTS}":
        yield Entry(f"{base}/{RESULTS}", 0o777)
    if isinstance(asked, PythonProgram):
        yield from (Entry(f"{base}/{own}", 0o777) for own in ("home", "tmp"))
        text = asked.source.encode(errors="surrogatepass") if asked.source is not None else None
        yield Entry(f"{base}/{PROGRAM}", 0o444, text=text, file=PROGRAM if text is None else None)
    for datum in layout.data:
        if bound(datum, options) is None:
            free = not writable.isdisjoint((datum.place, datum.place.rpartition("/")[0]))
            yield Entry(f"{base}/{datum.place}", 0o666 if free else 0o444, file=datum.place)
        if not datum.place.startswith("data/"):
            yield Entry(f"{base}/data/{datum.name}", 0o777, link=f"../{datum.place}")
    yield from (_link(mount, base if program else "") for mount in layout.mounts)


def _link(mount: Mount, base: str) -> Entry:
    if not base:
        return Entry(mount.path, 0o777, link=f"{ROOT}/{mount.source}")
    return Entry(f"{base}/{mount.path}", 0o777, link=os.path.relpath(mount.source, os.path.dirname(mount.path) or "."))
