"""From the standard's request to a run of the WES, and what in a request it cannot run. Pure; imports the domain, the
platform port, common's laying, refusing and readers of workflows, and this package.

Source: RunRequest in GA4GH's workflow_execution_service.openapi.yaml 1.1.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from adapters.common import cwl, laying, refusing, workflows
from adapters.common.laying import lay_out
from adapters.planning.platform import Job
from adapters.wes import tool
from adapters.wes.info import Info, same_type
from adapters.wes.options import WesOptions
from broker.domain import kinds
from broker.domain.executables import PythonProgram, Workflow
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest

CWL = "CWL"

# Tags of a run. Servers keep them with the run; where they can be looked up stands in queue.py.
SESSION, BROKER, USER, NAME = "broker_session", "broker_id", "broker_user", "broker_name"

_MOST = 1000  # data, storages or volumes of one run
# Servers write attachments under a name that they make plain first (werkzeug's secure_filename), so that another name
# would not be found again.
_PLAIN_STEP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Submission(NamedTuple):
    """`fields`: of the form; `files`: attachments by path."""

    fields: dict[str, str]
    files: dict[str, bytes]


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


def refuse(request: ExecutionRequest, options: WesOptions, info: Info | None) -> tuple[Reason, ...]:
    """All that stands against it. `info`: None, where the server was not asked yet."""
    executable = request.executable
    if isinstance(executable, PythonProgram) and options.program is not None:
        checks = chain(_program(executable, options, info), _volumes(request))
    elif isinstance(executable, Workflow) and options.workflows:
        checks = chain(_workflow(executable, request, options, info), _no_volumes(request))
    else:
        here = {kinds.PYTHON_PROGRAM: options.program is not None, kinds.WORKFLOW: options.workflows}
        nearest = " or ".join(kinds.short(kind) for kind, runs in here.items() if runs)
        return (Reason(f"{kinds.short(executable.kind)} does not run here", "executable.kind", nearest=nearest),)
    return (
        *checks,
        *refusing.numbers(request, _MOST),
        *refusing.resources(request),
        *_extras(request),
        *refusing.data(request, lambda url, element: _readable(url, element, options)),
    )


def _program(program: PythonProgram, options: WesOptions, info: Info | None) -> Iterator[Reason]:
    if info is not None and not runs_cwl(info):
        text = f"programs run as tools in CWL {tool.VERSION} here, which the server does not have"
        yield Reason(text, "executable.kind", nearest=", ".join(info.types))
    yield from refusing.words(program)
    yield from refusing.version(program.python, options.program.version if options.program else None, "program.version")
    yield from _source(program, options)
    if program.requirements:
        yield Reason("this site installs nothing", "executable.requirements", nearest="no requirements")


def runs_cwl(info: Info) -> bool:
    type_ = info.type(CWL)
    return type_ is not None and info.version(type_, tool.VERSION) is not None


def _source(program: PythonProgram, options: WesOptions) -> Iterator[Reason]:
    try:
        source = tool.text(program)
    except ValueError:
        yield Reason("the data URL cannot be read", "executable.location")
        return
    except UnicodeEncodeError:
        yield Reason("the source is no text", "executable.source")
        return
    if source is not None and len(source) > options.max_source_bytes:
        yield Reason("the source is too large", "executable.source", nearest=f"{options.max_source_bytes} bytes")
    if source is None and program.location is not None:
        yield from _readable(program.location, "executable.location", options, "data")


def _workflow(
    workflow: Workflow, request: ExecutionRequest, options: WesOptions, info: Info | None
) -> Iterator[Reason]:
    names = frozenset(datum.name for datum in lay_out(request).data)
    yield from workflows.refuse(workflow, names)
    if info is not None and workflow.type:
        yield from _language(workflow, options, info)
    for i, item in enumerate(workflow.attachments or ()):
        element = f"executable.attachments[{i}]"
        if item.source is None and item.location is not None:
            text = "the server takes files along with a workflow, and fetches none"
            yield Reason(text, f"{element}.location", nearest="source")
        if item.path and not all(_PLAIN_STEP.fullmatch(step) for step in item.path.split("/")):
            nearest = "letters, digits, dots, dashes and underscores"
            yield Reason(f"the server would rename {item.path[:200]!r}", f"{element}.path", nearest=nearest)
    size = sum(len((item.source or "").encode(errors="replace")) for item in workflow.attachments or ())
    if size > options.max_source_bytes:
        text = f"its files have {size} bytes together"
        yield Reason(text, "executable.attachments", nearest=f"{options.max_source_bytes} bytes")
    location = workflow.location or ""
    if workflows.is_url(location):
        yield from _readable(location, "executable.location", options)
    for reference in workflows.references(workflow):  # file: would be a file of the server's
        if workflows.is_url(reference.location):
            yield from _readable(reference.location, reference.element, options)


def _language(workflow: Workflow, options: WesOptions, info: Info) -> Iterator[Reason]:
    type_ = info.type(workflow.type or "")
    if type_ is None:
        yield Reason(f"the server runs no {workflow.type}", "executable.type", nearest=", ".join(info.types))
        return
    version = _version(workflow)
    if info.version(type_, version) is None:
        text = f"the server does not run {type_} {version}"
        yield Reason(text, "executable.version", nearest=", ".join(info.types[type_]))
    if info.engine(type_, workflow.engine) is None:
        text = f"the server has no engine {workflow.engine}"
        yield Reason(text, "executable.engine", nearest=", ".join(info.engines))


def _readable(url: str, element: str, options: WesOptions, *more: str) -> Iterator[Reason]:
    schemes = (*options.reads, *more)
    if _scheme(url) not in schemes:
        yield Reason("an address of this kind cannot be read from here", element, nearest=", ".join(schemes))


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme if url.isprintable() else ""
    except ValueError:
        return ""


def _version(workflow: Workflow) -> str | None:
    """Of its language, as the request or else its own documents say; None: neither does."""
    if workflow.version is not None or not cwl.is_cwl(workflow) or not workflow.location:
        return workflow.version
    return next(reversed(cwl.read(workflow).versions), None)


def _extras(request: ExecutionRequest) -> Iterator[Reason]:
    for what in request.extras:
        yield Reason(f"there is no {kinds.short(what)} here", "compute.extras")


def _volumes(request: ExecutionRequest) -> Iterator[Reason]:
    return refusing.volumes(request, tool.OURS)


def _no_volumes(request: ExecutionRequest) -> Iterator[Reason]:
    if request.compute is not None and request.compute.volumes:
        text = "a workflow finds its data by its inputs, and mounts nothing"
        yield Reason(text, "compute.volumes", nearest="inputs with the location data/<name>")


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


def submission(job: Job, options: WesOptions, info: Info, broker: str) -> Submission:
    """Of a job that `refuse` has nothing against."""
    executable = job.request.executable
    if isinstance(executable, Workflow):
        type_, version, engine = executable.type or "", _version(executable), executable.engine
        url = executable.location or ""
        files = {path: source.encode() for path, source in workflows.inline(executable).items()}
        parameters = _parameters(executable, job.request, options)
    else:
        assert isinstance(executable, PythonProgram)  # noqa: S101  `refuse` has seen to it
        assert options.program is not None  # noqa: S101  and to this
        type_, version, engine, url = CWL, tool.VERSION, None, tool.TOOL
        files, parameters = tool.tool(job, executable, options.program, options.reads)
    type_ = info.type(type_) or type_
    engine = engine or next((name for of, name in options.engines.items() if same_type(of, type_)), None)
    fields = {
        "workflow_type": type_,
        "workflow_type_version": (info.version(type_, version) if type_ in info.types else version) or version or "",
        "workflow_url": url,
        "workflow_params": _json(parameters),
        "tags": _json(tags(job, broker)),
        "workflow_engine": info.engine(type_, engine) or "",
        "workflow_engine_parameters": _json(options.engine_parameters) if options.engine_parameters else "",
    }
    return Submission({name: value for name, value in fields.items() if value}, files)


def tags(job: Job, broker: str) -> dict[str, str]:
    return {SESSION: str(job.session), BROKER: broker, USER: job.owner.subject, NAME: job.name}


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _parameters(workflow: Workflow, request: ExecutionRequest, options: WesOptions) -> dict[str, Any]:
    """The workflow's inputs, with the request's data in the place of `data/<name>`: in CWL where a File or Directory
    is said to lie, in other languages wherever such a text stands alone."""
    places = {datum.place: tool.readable(datum.urls, options.reads) for datum in lay_out(request).data}
    is_cwl = cwl.is_cwl(workflow)
    return {name: _placed(value, places, is_cwl=is_cwl) for name, value in (workflow.parameters or {}).items()}


def _placed(value: Any, places: Mapping[str, str], *, is_cwl: bool) -> Any:
    if isinstance(value, list | tuple):
        return [_placed(item, places, is_cwl=is_cwl) for item in value]
    if isinstance(value, str) and not is_cwl:
        return places.get(value.removeprefix("./"), value)
    if not isinstance(value, Mapping):
        return value
    location = value.get("location") or value.get("path")
    if is_cwl and value.get("class") in ("File", "Directory") and isinstance(location, str):
        return _located(value, location.removeprefix("./").rstrip("/"), places)
    return {name: _placed(item, places, is_cwl=is_cwl) for name, item in value.items()}


def _located(value: Mapping[str, Any], place: str, places: Mapping[str, str]) -> Any:
    rest = {
        name: _placed(item, places, is_cwl=True) for name, item in value.items() if name not in ("location", "path")
    }
    if place == laying.DATA:
        files = [_named(place, url) for place, url in places.items()]
        return {**rest, "class": "Directory", "basename": laying.DATA, "listing": files}
    if place in places:
        return _named(place, places[place]) | rest
    return {**rest, "location": value.get("location") or value.get("path")}


def _named(place: str, url: str) -> dict[str, str]:
    return {"class": "File", "location": url, "basename": place.rpartition("/")[2]}
