"""A Python program as a CWL tool of one step. Pure; imports the domain, the platform port, laying, launch.

    program.cwl     the tool, in JSON, which is YAML too
    launch.py       what the tool runs: it prepares, bounds and measures (launch.py beside this file)
    launch.json     what it is told: the program's own words are kept out of the tool, where $(…) would be evaluated
    program.py      the program, unless it is read from a URL

Source: https://www.commonwl.org/v1.2/CommandLineTool.html (InitialWorkDirRequirement: paths in `entryname` came with
1.2; ResourceRequirement: ram in MiB).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from adapters.common.laying import PROGRAM, RESULTS, Layout, lay_out, variables
from adapters.planning.platform import Job
from adapters.wes import launch
from adapters.wes.options import ProgramOptions
from broker.domain.executables import PythonProgram

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


def tool(job: Job, program: PythonProgram, options: ProgramOptions, reads: Collection[str]) -> Tool:
    """Of a program that `translate.refuse` has nothing against. `reads`: schemes of URLs."""
    layout = lay_out(job.request)
    files = {LAUNCHER: Path(launch.__file__).read_bytes(), TOLD: msgspec.json.encode(_told(job, program, layout))}
    parameters: dict[str, Any] = {}
    inputs: dict[str, Any] = {LAUNCHER: _beside(LAUNCHER), TOLD: _beside(TOLD)}
    source = text(program)
    if source is None:
        inputs[PROGRAM], parameters["program"] = "File", _file(program.location or "")
    else:
        inputs[PROGRAM], files[PROGRAM] = _beside(PROGRAM), source
    writable = layout.writable()
    for datum in layout.data:
        inputs[datum.place], parameters[_input(datum.place, layout)] = "File", _file(readable(datum.urls, reads))
    staged = [
        {"entryname": place, "entry": f"$(inputs.{_input(place, layout)})", "writable": _is_writable(place, writable)}
        for place in inputs
    ]
    document = {
        "cwlVersion": VERSION,
        "class": "CommandLineTool",
        "baseCommand": [options.python, LAUNCHER],
        "requirements": {
            "InitialWorkDirRequirement": {"listing": staged},
            "ResourceRequirement": {
                "coresMin": max(1, job.cores), "coresMax": max(1, job.cores), "ramMin": max(1, job.memory) * 1024,
            },
            "NetworkAccess": {"networkAccess": True},  # as on the other platforms, where it runs in a container
        },
        "hints": {"DockerRequirement": {"dockerPull": options.image}} if options.image else {},
        "inputs": {_input(place, layout): kind for place, kind in inputs.items()},
        "outputs": dict(_outputs()),
    }  # fmt: skip
    return Tool({TOOL: msgspec.json.encode(document), **files}, parameters)


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


def _told(job: Job, program: PythonProgram, layout: Layout) -> dict[str, Any]:
    memory, cores = max(1, job.memory) * GIB, str(max(1, job.cores))
    environment = dict.fromkeys(_THREADS, cores) | dict(program.environment or {})
    told = {"BROKER_SESSION": str(job.session), "BROKER_CORES": cores, "BROKER_MEMORY": str(memory)}
    sums = [(datum, datum.checksum or ("", "")) for datum in layout.data]
    return {
        "arguments": program.arguments or (),
        "environment": environment,
        "told": told,
        "places": {name: place.lstrip("/") for name, place in variables(layout, "").items()},
        "folders": layout.storages,
        "mounts": [(mount.path, mount.source) for mount in layout.mounts],
        "data": [
            {"place": datum.place, "size": datum.bytes, "kind": sum_type(kind) or "", "value": value}
            for datum, (kind, value) in sums
            if value or datum.bytes is not None
        ],
        "memory": memory,
        "seconds": job.duration,
    }


def readable(urls: Iterable[str], reads: Collection[str]) -> str:
    """The first that the server's engines can read: CWL takes one alone."""
    return next(url for url in urls if url.partition(":")[0].lower() in reads)


def sum_type(kind: str) -> str | None:
    """`SHA-256` → `sha256`; None: none that is computed."""
    plain = kind.lower().replace("-", "")
    return plain if plain in launch.SUMS else None


def _outputs() -> Iterator[tuple[str, Any]]:
    """All but the results may be missing: of a program that fails."""
    yield "results", {"type": "Directory", "outputBinding": {"glob": RESULTS}}
    for name, file in (("stdout", STDOUT), ("stderr", STDERR), ("manifest", MANIFEST)):
        yield name, {"type": "File?", "outputBinding": {"glob": file}}


def _beside(name: str) -> dict[str, Any]:
    """An input that is the file attached under that name."""
    return {"type": "File", "default": _file(name)}


def _file(location: str) -> dict[str, str]:
    return {"class": "File", "location": location}


def _input(place: str, layout: Layout) -> str:
    ours = {LAUNCHER: "launcher", TOLD: "told", PROGRAM: "program"}
    if place in ours:
        return ours[place]
    return f"data_{[datum.place for datum in layout.data].index(place)}"


def _is_writable(place: str, writable: frozenset[str]) -> bool:
    return not writable.isdisjoint((place, place.rpartition("/")[0]))
