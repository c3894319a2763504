"""From the standard's request to a job of ARC in the EMI Activity Description Language, and what in a request can never
run there. Pure; imports the domain, the platform port, adapters.common, this package's launcher.

Source of the language: "EMI Execution Service Specification" 1.16, section 9.3, as A-REX 6.17 reads it: times are
seconds, sizes bytes, memory is that of one slot, and a folder among the outputs ends in a slash.

Nothing that a user writes stands in the description as it is, but for addresses. ARC makes shell scripts of the rest,
and its scripts for fork run what stands in backticks or after a dollar sign (seen with 6.17.0). All of it goes, with
the launcher, in one variable of compressed base64, which nobody else on the node can read. So submitting is one call:
there is no program to be uploaded that could be missing when the answer is lost or the broker dies.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import socket
import zlib
from base64 import b64encode
from collections.abc import Iterator
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID
from xml.etree.ElementTree import Element, SubElement, tostring

from adapters.arc.glue import Cluster
from adapters.arc.launcher import LIST, PROGRAM, RESULTS
from adapters.arc.options import ArcOptions
from adapters.common import refusing
from adapters.common.http import tidy
from adapters.common.laying import inside, lay_out, variables
from adapters.planning.platform import Job
from adapters.planning.policies import over, too_long
from broker.domain import kinds
from broker.domain.addresses import bare, serves
from broker.domain.executables import PythonProgram
from broker.domain.identity import Owner
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleVolumeMount

SCHEMES = ("http", "https")
OUT, ERR = ".broker.out", ".broker.err"

GIB = 1024**3
_ADL = "http://www.eu-emi.eu/es/2010/12/adl"
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_LONGEST = 120_000  # bytes of one variable; Linux takes 131 072 (MAX_ARG_STRLEN)
_LARGEST = 2**20  # characters of a plan: what is compressed keeps everybody waiting
_TIDYING = 300  # seconds beside the program's own: checking its data, ending it, listing what it has left
_MOST = 1000  # data, storages or volumes of one job
# No dollar sign, quote, backtick or backslash: ARC's scripts hand it to a shell.
_BEGIN = "import base64,os,sys,zlib;exec(zlib.decompress(base64.b64decode(os.environ.pop(sys.argv[1]))))"
_VARIABLE = "BROKER_JOB"
_LAUNCHER = files("adapters.arc").joinpath("launcher.py").read_text("utf-8")


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


def refuse(request: ExecutionRequest, options: ArcOptions) -> tuple[Reason, ...]:
    """All that stands against it, whatever the service is."""
    found = (
        *_executable(request, options),
        *refusing.numbers(request, _MOST),
        *refusing.resources(request),
        *_extras(request),
        *refusing.data(request, _unreadable),
        *_volumes(request),
    )
    if not found and _too_large(request):
        found = (Reason("the program is too large to go along with a job", "executable.source", nearest="a location"),)
    return found


def _too_large(request: ExecutionRequest) -> bool:
    """What is beyond all hope is not written out, nor compressed, first: that takes its time."""
    source = getattr(request.executable, "source", None) or ""
    if len(source) > _LARGEST:
        return True
    plan = json.dumps(_plan(_specimen(request)))
    return len(plan) > _LARGEST or len(_bundle(plan)) > _LONGEST


def beyond(request: ExecutionRequest, known: Cluster) -> Iterator[Reason]:
    """What its queue takes no job of."""
    cores, memory, seconds = max(1, request.cores[0]), max(1, request.memory[0]), request.duration.total_seconds()
    if known.most_slots is not None and cores > known.most_slots:
        yield over("compute.cores.min", cores, known.most_slots, "cores")
    if known.most_memory is not None and memory * GIB > known.most_memory * 10**6:
        yield over("compute.memory.min", memory, known.most_memory * 10**6 // GIB, "GiB")
    if known.most_time is not None and _wall(seconds) > known.most_time:
        yield too_long(seconds, max(0, known.most_time - _TIDYING))


def _executable(request: ExecutionRequest, options: ArcOptions) -> Iterator[Reason]:
    executable = request.executable
    if not isinstance(executable, PythonProgram):
        nearest = kinds.short(kinds.PYTHON_PROGRAM)
        yield Reason(f"{kinds.short(executable.kind)} does not run here", "executable.kind", nearest=nearest)
        return
    yield from refusing.words(executable)
    if executable.location is not None:
        yield from _unreadable(executable.location, "executable.location")
    if executable.requirements:
        yield Reason("this site installs nothing", "executable.requirements", nearest="no requirements")
    yield from refusing.version(executable.python, options.python_version, "python_version")


def _extras(request: ExecutionRequest) -> Iterator[Reason]:
    for what in request.extras:
        yield Reason(f"there is no {kinds.short(what)} here", "compute.extras")


def _unreadable(url: str, element: str) -> Iterator[Reason]:
    if not readable(url):
        yield Reason(f"{tidy(bare(url))!r} cannot be read from here", element, nearest=", ".join(SCHEMES))


def _volumes(request: ExecutionRequest) -> Iterator[Reason]:
    seen = {PROGRAM, RESULTS, "data", "storage"}
    for i, volume in enumerate((request.compute.volumes if request.compute else None) or ()):
        element = f"compute.volumes[{i}]"
        if not isinstance(volume, SimpleVolumeMount):
            yield Reason("an unknown kind of volume", f"{element}.kind", nearest=kinds.short(kinds.SIMPLE_VOLUME))
            continue
        path = inside(volume.path)
        if path is None or path in seen or path.startswith(".broker"):
            text = f"nothing can be mounted at {volume.path!r}"
            yield Reason(text, f"{element}.path", nearest="a path of its own, without ..")
        seen.add(path or "")


def readable(url: str) -> bool:
    """ARC's own addresses carry options after a semicolon in the host, and several places after a bar; none of that is
    let through, nor is a password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    plain = url.isprintable() and not re.search(r"[\s|<>\"`\\$]", url)
    return (
        plain
        and parts.scheme in SCHEMES
        and bool(re.fullmatch(r"[\w.-]+(:\d+)?|\[[\da-fA-F:]+\](:\d+)?", parts.netloc))
        and _serves(parts.hostname or "")
    )


def _serves(host: str) -> bool:
    """The service fetches data itself, from where it stands: an address of its cloud's own is no place for any, by
    whatever spelling. What a name means there cannot be told from here."""
    with contextlib.suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))
    try:
        return serves(host)
    except ValueError:
        return True


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


def description(job: Job, options: ArcOptions) -> bytes:
    """Of a job that `refuse` has nothing against. Its name is the session's uuid."""
    root = Element("ActivityDescription", xmlns=_ADL)
    _text(SubElement(root, "ActivityIdentification"), "Name", str(job.session))
    application = SubElement(root, "Application")
    executable = SubElement(application, "Executable")
    _text(executable, "Path", "/usr/bin/env")
    for argument in (options.python, "-c", _BEGIN, _VARIABLE):
        _text(executable, "Argument", argument)
    _text(application, "Output", OUT)
    _text(application, "Error", ERR)
    variable = SubElement(application, "Environment")
    _text(variable, "Name", _VARIABLE)
    _text(variable, "Value", _bundle(json.dumps(_plan(job))))
    _needs(SubElement(root, "Resources"), job, options)
    staging = SubElement(root, "DataStaging")
    for name, url in _inputs(job.request):
        file = SubElement(staging, "InputFile")
        _text(file, "Name", name)
        _text(SubElement(file, "Source"), "URI", url)
    for name in (OUT, ERR, LIST, f"{RESULTS}/"):
        _text(SubElement(staging, "OutputFile"), "Name", name)
    text: bytes = tostring(root, "utf-8", xml_declaration=True)
    return text


def _needs(resources: Element, job: Job, options: ArcOptions) -> None:
    cores = max(1, job.cores)
    for name in options.runtime_environments:
        _text(SubElement(resources, "RuntimeEnvironment"), "Name", name)
    slots = SubElement(resources, "SlotRequirement")
    _text(slots, "NumberOfSlots", str(cores))
    _text(slots, "SlotsPerHost", str(cores))  # a program runs on one node
    if options.queue:
        _text(resources, "QueueName", options.queue)
    _text(resources, "IndividualPhysicalMemory", str(math.ceil(max(1, job.memory) * GIB / cores)))
    if job.storage > 0:
        _text(resources, "DiskSpaceRequirement", str(job.storage * GIB))
    _text(resources, "WallTime", str(_wall(job.duration)))


def _wall(seconds: float) -> int:
    """For the batch system, which counts minutes and ends all of a job: the launcher is to end the program before, and
    to say so."""
    return 60 * math.ceil((max(1.0, seconds) + _TIDYING) / 60)


def _text(parent: Element, name: str, text: str) -> None:
    SubElement(parent, name).text = text


def _inputs(request: ExecutionRequest) -> Iterator[tuple[str, str]]:
    """ARC asks the first address of a file alone."""
    executable = request.executable
    if isinstance(executable, PythonProgram) and executable.location is not None:
        yield PROGRAM, executable.location
    for datum in lay_out(request).data:
        yield datum.place, next(filter(readable, datum.urls))


def _bundle(plan: str) -> str:
    """Compressed as is usual: to make it a little smaller takes seconds where a source is odd (measured)."""
    return b64encode(zlib.compress(f"{_LAUNCHER}\nsys.exit(main(json.loads({plan!r})))\n".encode())).decode()


def _plan(job: Job) -> dict[str, Any]:
    """What the launcher is to do. Places are below the job's folder, whose path its node alone knows."""
    layout, executable = lay_out(job.request), job.request.executable
    program = executable if isinstance(executable, PythonProgram) else PythonProgram(kind=kinds.PYTHON_PROGRAM)
    cores, writable = str(max(1, job.cores)), layout.writable()
    told = {"BROKER_SESSION": str(job.session), "BROKER_CORES": cores, "BROKER_MEMORY": str(max(1, job.memory) * GIB)}
    return {
        "source": program.source,
        "arguments": list(program.arguments or ()),
        "defaults": {**dict.fromkeys(_THREADS, cores), "PYTHONUNBUFFERED": "1"},
        "environment": {**(program.environment or {}), **told},
        "places": variables(layout, ""),
        "storages": list(layout.storages),
        "data": [
            {
                "name": datum.name,
                "place": datum.place,
                "bytes": datum.bytes,
                "checksum": _stated(datum.checksum),
                "readonly": writable.isdisjoint((datum.place, datum.place.rpartition("/")[0])),
            }
            for datum in layout.data
        ],
        "mounts": [[mount.path, mount.source] for mount in layout.mounts],
        "seconds": job.duration,
    }


def _stated(checksum: tuple[str, str] | None) -> list[str] | None:
    kind = refusing.checksum_type(checksum[0]) if checksum else None
    return [kind, checksum[1]] if kind and checksum else None


def _specimen(request: ExecutionRequest) -> Job:
    """A job of that request, as large in writing as any."""
    return Job(UUID(int=0), "", Owner("", ""), request, 10**6, 10**6, 0, {}, duration=1e9 + 0.123456, start=0.0)
