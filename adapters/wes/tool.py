"""A Python program as a CWL tool of one step. Pure; imports the domain, errors, the platform port, laying, launch.

    program.cwl     the tool, in JSON, which is YAML too
    launch.py       what the tool runs: it prepares, bounds and measures (launch.py beside this file)
    launch.json     what it is told: the program's own words are kept out of the tool, where $(…) would be evaluated
    program.py      the program, unless it is read from a URL

Source: https://www.commonwl.org/v1.2/CommandLineTool.html (InitialWorkDirRequirement: paths in `entryname` came with
1.2; ResourceRequirement: ram in MiB).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from adapters.common.laying import PROGRAM, RESULTS, Layout, lay_out, variables
from adapters.common.refusing import checksum_type
from adapters.planning.platform import Job
from adapters.wes import launch
from adapters.wes.options import ProgramOptions
from broker.domain.executables import PythonProgram
from broker.errors import SiteRefused

TOOL, LAUNCHER, TOLD, MANIFEST = "program.cwl", "launch.py", "launch.json", "manifest.json"
STDOUT, STDERR = "stdout.txt", "stderr.txt"
VERSION = "v1.2"
OURS = frozenset({TOOL, LAUNCHER, TOLD, MANIFEST, STDOUT, STDERR, PROGRAM})  # in the program's folder
GIB = 1024**3

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Tool(NamedTuple):
    """`files`: what is attached, by name; the document is `TOOL`. `parameters`: its inputs."""

    files: dict[str, bytes]
    parameters: dict[str, Any]


class Staged(NamedTuple):
    """A file in the program's folder. `urls`: launch.py fetches it; `location`: the engine puts it there."""

    place: str
    urls: tuple[str, ...] = ()
    location: str = ""
    writable: bool = False


def tool(job: Job, program: PythonProgram, options: ProgramOptions, reads: Collection[str]) -> Tool:
    """Of a program that `translate.refuse` has nothing against. `reads`: schemes of URLs. Raises SiteRefused for data
    that none of them reads."""
    layout, source = lay_out(job.request), text(program)
    data = [_staged(datum.place, datum.urls, options, reads, layout) for datum in layout.data]
    if source is None:
        data.append(_staged(PROGRAM, (program.location or "",), options, reads, layout))
    told = msgspec.json.encode(_told(job, program, layout, data))
    files = {LAUNCHER: Path(launch.__file__).read_bytes(), TOLD: told}
    files |= {PROGRAM: source} if source is not None else {}
    by_engine = {f"data_{i}": staged for i, staged in enumerate(data) if staged.location}
    attached = {f"file_{i}": name for i, name in enumerate(files)}
    listing = [
        *({"entryname": name, "entry": f"$(inputs.{key})"} for key, name in attached.items()),
        *(
            {"entryname": staged.place, "entry": f"$(inputs.{key})", "writable": staged.writable}
            for key, staged in by_engine.items()
        ),
    ]
    document = {
        "cwlVersion": VERSION,
        "class": "CommandLineTool",
        "baseCommand": [options.python, LAUNCHER],
        "requirements": {
            "InitialWorkDirRequirement": {"listing": listing},
            "ResourceRequirement": {
                "coresMin": max(1, job.cores), "coresMax": max(1, job.cores), "ramMin": max(1, job.memory) * 1024,
            },
            # Of use in a container alone. launch.py fetches from within it.
            "NetworkAccess": {"networkAccess": bool(program.network) or any(staged.urls for staged in data)},
        },
        "hints": {"DockerRequirement": {"dockerPull": options.image}} if options.image else {},
        "inputs": {key: {"type": "File", "default": _file(name)} for key, name in attached.items()}
        | dict.fromkeys(by_engine, "File"),
        "outputs": dict(_outputs()),
    }  # fmt: skip
    parameters = {key: _file(staged.location) for key, staged in by_engine.items()}
    return Tool({TOOL: msgspec.json.encode(document), **files}, parameters)


def _staged(place: str, urls: Sequence[str], options: ProgramOptions, reads: Collection[str], layout: Layout) -> Staged:
    writable = not layout.writable().isdisjoint((place, place.rpartition("/")[0]))
    fetched = tuple(url for url in urls if _scheme(url) in reads and _scheme(url) in ("http", "https"))
    if fetched and options.staging == "tool":
        return Staged(place, urls=fetched, writable=writable)
    return Staged(place, location=readable(urls, reads), writable=writable)


def text(program: PythonProgram) -> bytes | None:
    """Its source, where that is in the request: inline, or as a data URL. None: it lies elsewhere. Raises ValueError
    for a data URL that is none."""
    if program.source is not None:
        return program.source.encode()
    location = program.location or ""
    if location[:5].lower() != "data:":
        return None
    head, comma, body = location[5:].partition(",")
    if not comma:
        raise ValueError("a data URL without a comma")
    content = unquote_to_bytes(body)
    return base64.b64decode(content, validate=True) if head.endswith(";base64") else content


def _told(job: Job, program: PythonProgram, layout: Layout, data: Sequence[Staged]) -> dict[str, Any]:
    memory, cores = max(1, job.memory) * GIB, str(max(1, job.cores))
    return {
        "arguments": program.arguments or (),
        "environment": dict.fromkeys(_THREADS, cores) | dict(program.environment or {}),
        "told": {"BROKER_SESSION": str(job.session), "BROKER_CORES": cores, "BROKER_MEMORY": str(memory)},
        "places": {name: place.lstrip("/") for name, place in variables(layout, "").items()},
        "folders": layout.storages,
        "mounts": [(mount.path, mount.source) for mount in layout.mounts],
        "data": [_stated(item, layout) for item in data],
        "memory": memory,
        "seconds": job.duration,
    }


def _stated(item: Staged, layout: Layout) -> dict[str, Any]:
    """With the size and checksum that the request says it has."""
    datum = next((datum for datum in layout.data if datum.place == item.place), None)
    kind, value = (datum.checksum if datum else None) or ("", "")
    said = {"size": datum.bytes if datum else None, "kind": checksum_type(kind) or "", "value": value}
    return {"place": item.place, "urls": item.urls, "writable": item.writable, **said}


def readable(urls: Iterable[str], reads: Collection[str]) -> str:
    """The first that the server's engines can read: CWL takes one alone. Raises SiteRefused where there is none."""
    for url in urls:
        if _scheme(url) in reads:
            return url
    raise SiteRefused("the data names no place that can be read from here.")


def _outputs() -> Iterator[tuple[str, Any]]:
    """All but the results may be missing: of a program that fails."""
    yield "results", {"type": "Directory", "outputBinding": {"glob": RESULTS}}
    for name, file in (("stdout", STDOUT), ("stderr", STDERR), ("manifest", MANIFEST)):
        yield name, {"type": "File?", "outputBinding": {"glob": file}}


def _file(location: str) -> dict[str, str]:
    return {"class": "File", "location": location}


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()
