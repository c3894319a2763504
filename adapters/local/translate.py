"""From the standard's request to what the local platform runs, and what in a request it cannot run. Imports the domain,
the platform port, and this package's layout. Pure but for the options' paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from urllib.parse import quote, unquote, urlsplit

from adapters.common import cwl, refusing, workflows
from adapters.common.laying import Layout, lay_out
from adapters.local.fetching import local_path, shown
from adapters.local.layout import (
    NOTEBOOK,
    STORE,
    Attached,
    Bounds,
    Datum,
    Delivery,
    Desk,
    Flow,
    Mount,
    Shelf,
    Spec,
    notebook_name,
)
from adapters.local.options import GIB, LocalOptions
from adapters.planning.platform import Job
from adapters.planning.results import kept
from broker.domain import kinds
from broker.domain.executables import JupyterNotebook, PythonProgram, Workflow
from broker.domain.outcome import Reason
from broker.domain.outputs import SESSION, covers
from broker.domain.request import ExecutionRequest
from broker.errors import SiteRefused

RESULTS = "work/results"
STAGED = ("http", "https", "file")
CWL = ("v1.0", "v1.1", "v1.2")  # what cwltool runs without being told to go beyond the standard

_MOST = 10_000  # data, storages or volumes of one job

# What a mounted volume may not be laid over, relative to the program's folder.
_OURS = ("program.py", NOTEBOOK)


# ── what cannot run ──────────────────────────────────────────────────────────────────────────────────────────────


def refuse(request: ExecutionRequest, options: LocalOptions) -> tuple[Reason, ...]:
    """All that stands against it, whatever interpreter there is."""
    checks = (_executable, _network, _resources, _data, _volumes)
    return tuple(chain.from_iterable(check(request, options) for check in checks))


def _executable(request: ExecutionRequest, options: LocalOptions) -> Iterator[Reason]:
    executable = request.executable
    if isinstance(executable, PythonProgram):
        yield from _program(executable, options)
    elif isinstance(executable, Workflow):
        yield from _workflow(request, executable, options)
    elif isinstance(executable, JupyterNotebook):
        if not executable.location:
            yield Reason("a notebook needs its location", "executable.location")
        else:
            yield from _readable(executable.location, "executable.location", options, data_urls=True)
        if executable.mode == "interactive":
            yield from _interactive(options)
    else:
        nearest = ", ".join(map(kinds.short, (kinds.PYTHON_PROGRAM, kinds.JUPYTER_NOTEBOOK, kinds.WORKFLOW)))
        yield Reason(f"{kinds.short(executable.kind)} does not run here", "executable.kind", nearest=nearest)


def _interactive(options: LocalOptions) -> Iterator[Reason]:
    if not options.interactive.offered:
        yield Reason("notebooks are executed here, not opened", "executable.mode", "interactive.offered", "batch")


def _network(request: ExecutionRequest, options: LocalOptions) -> Iterator[Reason]:
    if options.isolation != "bwrap" or options.network is not False or not _asks_network(request):
        return
    if isinstance(request.executable, JupyterNotebook) and request.executable.mode == "interactive":
        text = "programs have no network here, so nobody reaches a notebook"
        yield Reason(text, "executable.mode", "network", "batch")
    else:
        yield Reason("programs have no network here", "executable.network", "network", "without it")


def _asks_network(request: ExecutionRequest) -> bool:
    executable = request.executable
    if isinstance(executable, Workflow) and cwl.is_cwl(executable) and cwl.read(executable).network:
        return True
    if isinstance(executable, JupyterNotebook) and executable.mode == "interactive":
        return True  # whoever sits before it comes by the network
    return getattr(executable, "network", None) is True


def _workflow(request: ExecutionRequest, executable: Workflow, options: LocalOptions) -> Iterator[Reason]:
    faults = tuple(workflows.refuse(executable, frozenset(datum.name for datum in lay_out(request).data)))
    yield from faults
    if executable.type and not cwl.is_cwl(executable):
        yield Reason(f"workflows in {executable.type[:50]!r} do not run here", "executable.type", nearest="CWL")
    if faults or not cwl.is_cwl(executable):
        return
    if executable.engine not in (None, "cwltool"):
        yield Reason(f"there is no {executable.engine[:50]!r} here", "executable.engine", nearest="cwltool")
    yield from _readable_files(executable, options)
    yield from _runnable(executable)


def _readable_files(executable: Workflow, options: LocalOptions) -> Iterator[Reason]:
    size = sum(len(text.encode(errors="replace")) for text in workflows.inline(executable).values())
    if size > options.max_source_bytes:
        text = "the attached files are too large"
        yield Reason(text, "executable.attachments", nearest=f"{options.max_source_bytes} bytes")
    if (url := workflows.main(executable).url) is not None:
        yield from _readable(url, "executable.location", options, data_urls=True)
    for i, item in enumerate(executable.attachments or ()):
        if item.location is not None:
            yield from _readable(item.location, f"executable.attachments[{i}].location", options, data_urls=True)
    for reference in workflows.references(executable):
        if workflows.is_url(reference.location):
            text = f"{shown(reference.location)!r} is not fetched for a workflow"
            nearest = "a data resource of that address, and data/<its name> here"
            yield Reason(text, reference.element, nearest=nearest)


def _runnable(executable: Workflow) -> Iterator[Reason]:
    reading = cwl.read(executable)
    for version in (executable.version, *reading.versions):
        if version is not None and version not in CWL:
            yield Reason(f"CWL {version[:20]!r} does not run here", "executable.version", nearest=", ".join(CWL))
    if reading.containers:
        text = f"{', '.join(reading.containers[:5])} runs in a container alone, and there is none here"
        yield Reason(text, "executable.attachments", nearest="DockerRequirement among the hints")


def _program(executable: PythonProgram, options: LocalOptions) -> Iterator[Reason]:
    yield from refusing.words(executable)
    if executable.source is not None and len(executable.source.encode(errors="replace")) > options.max_source_bytes:
        yield Reason("the source is too large", "executable.source", nearest=f"{options.max_source_bytes} bytes")
    if executable.location is not None:
        yield from _readable(executable.location, "executable.location", options, data_urls=True)
    if executable.requirements and not options.install_requirements:
        yield Reason("this site installs nothing", "executable.requirements", "install_requirements", "no requirements")
    for i, line in enumerate(executable.requirements or ()):
        if not re.match(r"\s*[A-Za-z0-9]", line):
            yield Reason("a requirement begins with the name of a package", f"executable.requirements[{i}]")


def _readable(url: str, element: str, options: LocalOptions, *, data_urls: bool = False) -> Iterator[Reason]:
    schemes = (*STAGED, "data") if data_urls else STAGED
    scheme = urlsplit(url).scheme if _splits(url) else ""
    if scheme not in schemes:
        nearest = ", ".join(schemes if options.file_roots else [s for s in schemes if s != "file"])
        yield Reason(f"{shown(url)!r} cannot be read from here", element, nearest=nearest)
    elif scheme == "file" and not _below_roots(url, options):
        roots = ", ".join(str(root) for root in options.file_roots)
        yield Reason(f"{shown(url)!r} is outside the folders that programs may read from", element, nearest=roots)


def _splits(url: str) -> bool:
    try:
        return bool(urlsplit(url).scheme) and "\0" not in url
    except ValueError:
        return False


def _below_roots(url: str, options: LocalOptions) -> bool:
    """By the words of the URL; staging looks at the file itself."""
    path = local_path(url)
    return path is not None and ".." not in path.parts and any(path.is_relative_to(r) for r in options.file_roots)


def _resources(request: ExecutionRequest, options: LocalOptions) -> Iterator[Reason]:
    yield from refusing.numbers(request, _MOST)
    yield from refusing.resources(request)
    for what in request.extras:
        yield Reason(f"there is no {kinds.short(what)} here", "compute.extras")


def _data(request: ExecutionRequest, options: LocalOptions) -> Iterator[Reason]:
    return refusing.data(request, lambda url, element: _readable(url, element, options))


def _volumes(request: ExecutionRequest, options: LocalOptions) -> Iterator[Reason]:
    ours = {*_OURS, notebook_name(getattr(request.executable, "location", None))}
    if isinstance(request.executable, Workflow):
        ours |= {path.partition("/")[0] for path in workflows.paths(request.executable)}
    return refusing.volumes(request, frozenset(ours))


# ── what runs ────────────────────────────────────────────────────────────────────────────────────────────────────


def spec(job: Job, options: LocalOptions) -> Spec:
    """Of a job that `refuse` has nothing against."""
    request = job.request
    layout = lay_out(request)
    executable = request.executable
    program = executable if isinstance(executable, PythonProgram) else PythonProgram(kind=kinds.PYTHON_PROGRAM)
    notebook = executable if isinstance(executable, JupyterNotebook) else None
    flow = _flow(executable) if isinstance(executable, Workflow) else None
    return Spec(
        session=str(job.session),
        kind="notebook" if notebook else "workflow" if flow else "program",
        desk=_desk(options) if notebook and notebook.mode == "interactive" else None,
        bounds=_bounds(job, options),
        python=str((options.cwl_python if flow else None) or options.python),
        environment=dict(program.environment or {}),
        source=program.source,
        location=notebook.location if notebook else program.location,
        arguments=program.arguments or (),
        requirements=program.requirements or (),
        data=tuple(_data_of(layout, options)),
        storages=layout.storages,
        mounts=tuple(Mount(*mount) for mount in layout.mounts),
        results=next((f"{STORE}/{mount.source}" for mount in layout.mounts if mount.path == "results"), RESULTS),
        file_roots=tuple(str(root) for root in options.file_roots),
        isolation=options.isolation,
        network=options.network is True or (options.network == "asked" and _asks_network(request)),
        delivery=_delivery(job, options),
        keep=kept(request) or None,
        cache=shelf(options),
        flow=flow,
    )


def _flow(executable: Workflow) -> Flow:
    main = workflows.main(executable)
    files = [Attached(item.path or "", item.source, item.location) for item in executable.attachments or ()]
    files += [Attached(main.path, None, main.url)] if main.url else []
    inputs = json.dumps(executable.parameters or {}, ensure_ascii=False)
    named = f"{main.path}#{main.process}" if main.process else main.path
    return Flow(named, workflows.INPUTS, (*files, Attached(workflows.INPUTS, inputs)))


def fetched(executable: Workflow) -> bool:
    """Whether some of a workflow's files do not come with the request."""
    return any(file.location is not None for file in _flow(executable).files)


def wanted(request: ExecutionRequest, options: LocalOptions) -> Iterator[tuple[str, Datum]]:
    """Each data resource as it would be staged, by its path in the request."""
    for i, datum in enumerate(_data_of(lay_out(request), options)):
        yield f"data[{i}]", datum


def shelf(options: LocalOptions) -> Shelf | None:
    """What is kept for other jobs; None: nothing is."""
    cache = options.cache
    return Shelf(int(cache.bytes), cache.keep.total_seconds()) if cache else None


def _delivery(job: Job, options: LocalOptions) -> Delivery | None:
    """By the longest prefix that covers the place."""
    outputs = job.request.outputs
    if outputs is None or outputs.to is None:
        return None
    to = outputs.to.replace(SESSION, str(job.session))
    entry = max((e for e in options.writes if covers(e.prefix, to)), key=lambda e: len(e.prefix), default=None)
    if entry is None:
        raise SiteRefused(f"results cannot be written to {to[:200]} from here.")
    named = ":" in entry.prefix
    to = _written(entry.prefix, to) if named else to
    s3 = urlsplit(to).scheme == "s3"
    return Delivery(
        to=to,
        target=_object(to, entry.endpoint) if s3 else to,
        kind="s3" if s3 else "http",
        within=options.delivering.total_seconds(),
        kept=max(kept(job.request), options.keep.total_seconds()),
        region=entry.region,
        credentials=str(entry.credentials_file.absolute()) if entry.credentials_file else "",
        above=len(_steps(entry.prefix)) if named else 0,
        public=not named,
    )


def _written(prefix: str, to: str) -> str:
    """A place below a prefix, as the prefix is written: what compares as below it, such as another case of a bucket's
    name or `a//b`, is elsewhere to a server, and the credentials are for the prefix."""
    below = _steps(to)[len(_steps(prefix)) :]
    return "/".join((prefix.rstrip("/"), *below)) + ("/" if to.endswith("/") else "")


def _steps(place: str) -> list[str]:
    return [step for step in urlsplit(place).path.split("/") if step]


def _object(place: str, endpoint: str) -> str:
    """Of a place in S3, by path addressing."""
    parts = urlsplit(place)
    return f"{endpoint.rstrip('/')}/{parts.netloc}/{quote(unquote(parts.path.strip('/')), safe='/-._~')}"


def _desk(options: LocalOptions) -> Desk:
    interactive = options.interactive
    return Desk(interactive.host, interactive.ports or (0, 0), interactive.reached, interactive.idle.total_seconds())


def _bounds(job: Job, options: LocalOptions) -> Bounds:
    return Bounds(
        cores=max(1, job.cores),
        memory=max(1, job.memory) * GIB,
        duration=job.duration,
        disk=max(0, job.storage) * GIB + options.max_disk_bytes,
        log=options.max_log_bytes,
        results=options.max_results_bytes,
        source=options.max_source_bytes,
        processes=options.max_processes,
        staging=options.staging.total_seconds(),
        grace=options.grace,
        nice=options.nice,
    )


def _data_of(layout: Layout, options: LocalOptions) -> Iterator[Datum]:
    writable = layout.writable()
    for laid in layout.data:
        kind = refusing.checksum_type(laid.checksum[0]) if laid.checksum else None
        yield Datum(
            name=laid.name,
            urls=tuple(url for url in laid.urls if not any(_readable(url, "", options))),
            place=laid.place,
            checksum=(kind, laid.checksum[1]) if kind and laid.checksum else None,
            bytes=laid.bytes,
            readonly=writable.isdisjoint((laid.place, laid.place.rpartition("/")[0])),
        )
