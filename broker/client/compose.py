"""Makes a whole 1.0 request of what a person writes: a program, a short file, a few options. Imports the domain.

What is left out gets the standard's defaults (protocol 1.0: one core, 1 GiB, two hours, as soon as can be). Short
kinds become URIs here: the wire carries full ones only. A local program travels inside the request, as its source.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from broker.client import workflows
from broker.client.documents import Document, read, read_text, wrong
from broker.client.errors import BadRequestFile
from broker.domain import kinds
from broker.domain.components import SimpleMinMaxFloatCost
from broker.domain.faults import parse
from broker.domain.preferences import Preset
from broker.domain.quantities import format_duration, parse_duration
from broker.domain.request import ExecutionRequest, check
from broker.errors import BadInput

PRESETS: tuple[str, ...] = get_args(Preset)
COST_TYPES = (kinds.MONETARY, kinds.ENERGY, kinds.CARBON)
METRIC_TYPES = (kinds.COMPUTE_PERFORMANCE, kinds.IO_THROUGHPUT)
# Where a kind may be left out or shortened: path → (those known, the one meant where none is named).
_PLACES: dict[str, tuple[tuple[str, ...], str]] = {
    "executable": (kinds.EXECUTABLES, ""),
    "compute": ((kinds.SIMPLE_COMPUTE,), kinds.SIMPLE_COMPUTE),
    "compute.volumes[]": ((kinds.SIMPLE_VOLUME,), kinds.SIMPLE_VOLUME),
    "storage[]": ((kinds.SIMPLE_STORAGE,), kinds.SIMPLE_STORAGE),
    "data[]": (kinds.DATA, kinds.SIMPLE_DATA),
    "costs[]": ((kinds.MINMAX_COST,), kinds.MINMAX_COST),
    "metrics[]": ((kinds.MINMAX_METRIC,), kinds.MINMAX_METRIC),
}
_SPAN = re.compile(r"^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?$")
_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([KMGT]B)?$", re.IGNORECASE)
_GIGABYTES = {"KB": 1e-6, "MB": 1e-3, "GB": 1.0, "TB": 1e3}
_COLUMN = re.compile(r"\{([^{}]+)\}")
_SUFFIXES = {".py": kinds.PYTHON_PROGRAM, ".ipynb": kinds.JUPYTER_NOTEBOOK, ".cwl": kinds.WORKFLOW}
_NUMBERS = frozenset({"cores", "memory", "size", "costs", "metrics"})
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


@dataclass(frozen=True)
class Options:
    """What can be said beside the file; what is said here wins. `memory` in GiB, `max_price` in the currency of the
    preferences; `site`: ask this one alone; `row`: what takes the place of each `{column}` in the request;
    `interactive`: a notebook is opened for a person, not executed; `results_to`: where results are written; `keep`: how
    long the site is to keep them; `expect`: how much they will be, in GB, or with a unit; `inputs`: a file with a
    workflow's inputs (YAML or JSON); `parameters`: its inputs by name, which go before those of the file; `network`: it
    needs the network itself, beside its data."""

    data: Sequence[str] = ()
    cores: int | None = None
    memory: int | None = None
    duration: timedelta | str | None = None
    prefer: str | None = None
    max_price: float | None = None
    name: str | None = None
    arguments: Sequence[str] = ()
    site: str | None = None
    row: Mapping[str, str] | None = None
    interactive: bool = False
    results_to: str | None = None
    keep: timedelta | str | None = None
    expect: float | str | None = None
    inputs: str | os.PathLike[str] | None = None
    parameters: Mapping[str, Any] | None = None
    network: bool = False


@dataclass(frozen=True)
class Draft:
    """A checked request, and where each of its elements came from."""

    request: ExecutionRequest
    document: Document

    @property
    def ceiling(self) -> float | None:
        """The most that the caller will pay; None: no ceiling."""
        tops = [
            item.max
            for item in self.request.costs or ()
            if isinstance(item, SimpleMinMaxFloatCost) and item.type == kinds.MONETARY and item.max is not None
        ]
        return min(tops, default=None)

    def locate(self, error: BadInput) -> BadInput:
        """The broker's refusal of an element, with the line that the element stands on."""
        if isinstance(error, BadRequestFile) or not self.document.file:
            return error
        return wrong(self.document, error.element, error.detail, error.remedy)


def compose(what: str | os.PathLike[str] | ExecutionRequest | Mapping[str, Any], options: Options) -> Draft:
    """`what`: a program (`.py`), a notebook (`.ipynb`), a workflow (`.cwl`), a request's file (YAML or JSON), or a
    request itself.

    Raises BadRequestFile for the first fault found; nothing was sent.
    """
    document = _read(what)
    content = deepcopy(document.content)
    folder = Path(document.file).parent if document.file else Path()
    inputs = read(Path(options.inputs), "an object of names and values") if options.inputs is not None else None
    _apply(content, options, document)
    _apply_inputs(content, inputs, options)
    if options.row is not None:
        _keep_apart(content)
        fill_row(content, options.row)
    _expand(content, document)
    _bring_along(content, document, folder)
    executable = content.get("executable")
    if isinstance(executable, dict) and executable.get("kind") == kinds.WORKFLOW:
        workflows.bring(content, document, inputs or document, named_data)
    return Draft(_validated(content, document), document)


def _read(what: str | os.PathLike[str] | ExecutionRequest | Mapping[str, Any]) -> Document:
    if isinstance(what, ExecutionRequest):
        return Document(what.to_wire())
    if isinstance(what, Mapping):
        return Document(dict(what))
    path = Path(what)
    kind = _SUFFIXES.get(path.suffix.partition("#")[0])
    if kind is None:
        return read(path)
    # The path is taken from here, not from the folder of a request's file: it is absolute.
    return Document({"executable": {"kind": kind, "location": str(path.absolute()), "meta": {"name": path.stem}}})


def _apply(content: dict[str, Any], options: Options, document: Document) -> None:
    """The options, written into the document. What the document holds wrongly is left for the check that follows."""
    _apply_data(content, options.data, document)
    _apply_executable(content, options)
    _apply_outputs(content, options)
    if options.site is not None:
        _into(content, "preferences")["sites_allowed"] = [options.site]
    for what, low in (("cores", options.cores), ("memory", options.memory)):
        if low is not None:
            _into(content, "compute")[what] = {"min": low}
    if options.duration is not None:
        _into(_into(content, "schedule"), "requested")["duration"] = format_duration(parse_span(options.duration))
    if options.prefer is not None:
        _into(content, "preferences")["preset"] = preset(options.prefer)
    if options.max_price is not None:
        others = [cost for cost in _listed(content.get("costs")) if not _is_money(cost)]
        content["costs"] = [*others, {"kind": kinds.MINMAX_COST, "type": kinds.MONETARY, "max": options.max_price}]


def _apply_outputs(content: dict[str, Any], options: Options) -> None:
    if options.results_to is not None:
        _into(content, "outputs")["to"] = options.results_to
    if options.keep is not None:
        _into(content, "outputs")["keep"] = format_duration(parse_span(options.keep))
    if options.expect is not None:
        _into(content, "outputs")["size"] = parse_size(options.expect)


def _apply_executable(content: dict[str, Any], options: Options) -> None:
    if not (options.arguments or options.interactive or options.network or options.name is not None):
        return
    executable = _into(content, "executable")
    kind = kinds.short(str(executable.get("kind")))
    if options.arguments:
        if kind != kinds.short(kinds.PYTHON_PROGRAM):
            raise BadInput("arguments are for a Python program.", remedy="Write a container's into its command.")
        executable["arguments"] = list(options.arguments)
    if options.interactive:
        if kind != kinds.short(kinds.JUPYTER_NOTEBOOK):
            raise BadInput("only a notebook is interactive.", remedy="Leave --interactive out.")
        executable["mode"] = "interactive"
    if options.network:
        if kind not in map(kinds.short, _SUFFIXES.values()):
            raise BadInput("the network is asked for by programs, notebooks and workflows.")
        executable["network"] = True
    if options.name is not None:
        _into(executable, "meta")["name"] = options.name


def _apply_inputs(content: dict[str, Any], inputs: Document | None, options: Options) -> None:
    if inputs is None and not options.parameters:
        return
    executable = _into(content, "executable")
    if kinds.short(str(executable.get("kind"))) != kinds.short(kinds.WORKFLOW):
        raise BadInput("inputs are for a workflow.", remedy="Write a program's as its arguments.")
    given = deepcopy(inputs.content) if inputs is not None else _into(executable, "parameters")
    executable["parameters"] = {**given, **deepcopy(dict(options.parameters or {}))}


def _apply_data(content: dict[str, Any], urls: Sequence[str], document: Document) -> None:
    """Data takes the places that an execution template keeps open for it, in their order, and then stands beside what
    there is. The standard's placeholder is for clients alone: no service knows its kind (protocol.md 1.2)."""
    left = list(urls)
    for path, item in _at(content, "data[]"):
        if item.get("kind") not in (kinds.ABSTRACT_DATA, kinds.short(kinds.ABSTRACT_DATA)):
            continue
        if not left:
            name = (item.get("meta") or {}).get("name") if isinstance(item.get("meta"), dict) else None
            what = f'a placeholder, "{name}".' if name else "a placeholder."
            raise wrong(document, path, what, "Fill it: --data URL")
        item |= named_data(left.pop(0))
    if left:
        content["data"] = [*_listed(content.get("data")), *map(named_data, left)]


def named_data(text: str) -> dict[str, Any]:
    """The data resource that one word stands for: `rucio:SCOPE:NAME`, `s3://BUCKET/OBJECT`, an IVOA publisher's
    identifier (`ivo://…`), or any other address. Raises BadInput for a Rucio name or an S3 object that is half one."""
    if text.startswith("rucio:"):
        scope, _, name = text.removeprefix("rucio:").partition(":")
        if not scope or not name:
            raise BadInput(f'"{text}" is no Rucio name.', remedy="Write rucio:SCOPE:NAME.")
        return {"kind": kinds.RUCIO_DATA, "rucio": {"scope": scope, "object": name}}
    if text.startswith("s3://"):
        bucket, _, key = text.removeprefix("s3://").partition("/")
        if not bucket or not key:
            raise BadInput(f'"{text}" is no S3 object.', remedy="Write s3://BUCKET/OBJECT.")
        return {"kind": kinds.S3_DATA, "bucket": bucket, "object": key}
    if text.startswith("ivo://"):
        return {"kind": kinds.IVOA_DATA, "ivoa": {"obscore": {"obs_publisher_did": text}}}
    return {"kind": kinds.SIMPLE_DATA, "location": text}


def _into(content: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`, made where there is none. Where something else stands, one that leads nowhere."""
    if content.get(key) is None:
        content[key] = {}
    inner = content[key]
    return inner if isinstance(inner, dict) else {}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _is_money(cost: Any) -> bool:
    return isinstance(cost, dict) and cost.get("type") in (kinds.MONETARY, "monetary")


def parse_span(text: timedelta | str) -> timedelta:
    """`1h`, `1h30m`, `2d`, or ISO 8601. Raises BadInput."""
    if isinstance(text, timedelta):
        return text
    match = _SPAN.match(text.strip().lower()) if text.strip() else None
    if match and any(match.groups()):
        days, hours, minutes, seconds = (int(group or 0) for group in match.groups())
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    try:
        return parse_duration(text)
    except ValueError:
        raise BadInput(f'"{text}" is no duration.', remedy="Write 90m, 1h30m, 2d or PT1H30M.") from None


def parse_size(text: float | str) -> float:
    """GB (10^9 bytes): `20`, `20GB`, `500 MB`, `1.5TB`. Raises BadInput."""
    match = _SIZE.match(str(text).strip())
    if not match:
        raise BadInput(f'"{text}" is no size.', remedy="Write 20GB, 500MB or 1.5TB.")
    return float(match[1]) * _GIGABYTES[(match[2] or "GB").upper()]


def preset(word: str) -> str:
    """Raises BadInput, naming the nearest."""
    if word not in PRESETS:
        raise BadInput(f'"{word}" is no preset.{_nearest(word, PRESETS)}', remedy=f"There are: {', '.join(PRESETS)}.")
    return word


# ── one request for each row of a table ─────────────────────────────────────────────────────────────────────────


def _keep_apart(content: Mapping[str, Any]) -> None:
    """Runs that write to one and the same place would write over each other's results."""
    outputs = content.get("outputs")
    to = outputs.get("to") if isinstance(outputs, dict) else None
    if isinstance(to, str) and not _COLUMN.search(to):
        remedy = "Write {session}, or a column, into it."
        raise BadInput("every run would write its results to the same place.", element="outputs.to", remedy=remedy)


def fill_row(content: dict[str, Any], row: Mapping[str, str]) -> None:
    """Each `{column}` of the document, but for the text of a program, becomes the row's value; other braces stay. A
    run that would be called like all the others gets the row's first value behind its name.

    Raises BadInput where no column stands in the document: every run would be the same."""
    used: set[str] = set()
    executable = content.get("executable")
    source = executable.pop("source", None) if isinstance(executable, dict) else None
    if isinstance(executable, dict):
        _name(executable)
    named = _written_name(content)
    filled = _filled(content, row, used, sizes=False)
    if not used:
        there = ", ".join(f"{{{column}}}" for column in row)
        raise BadInput("no column of the table stands in the request.", remedy=f"There are: {there}.")
    content |= filled
    if source is not None:
        content["executable"]["source"] = source
    if named and _written_name(content) == named:
        content["executable"]["meta"]["name"] = f"{named}-{next(iter(row.values()))}"


def _written_name(content: Mapping[str, Any]) -> str:
    executable = content.get("executable")
    meta = executable.get("meta") if isinstance(executable, dict) else None
    return str(meta.get("name") or "") if isinstance(meta, dict) else ""


def _filled(value: Any, row: Mapping[str, str], used: set[str], *, sizes: bool) -> Any:
    """`sizes`: a number is wanted here, and what a table holds is text."""
    if isinstance(value, dict):
        return {key: _filled(item, row, used, sizes=sizes or key in _NUMBERS) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, row, used, sizes=sizes) for item in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        if match[1] not in row:
            return match[0]
        used.add(match[1])
        return row[match[1]]

    text = _COLUMN.sub(put, value)
    if sizes and text != value and re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text) if "." in text else int(text)
    return text


# ── kinds ────────────────────────────────────────────────────────────────────────────────────────────────────


def _expand(content: dict[str, Any], document: Document) -> None:
    """Short kinds and types become URIs, sizes given as one number become minima."""
    for place, (known, default) in _PLACES.items():
        for path, item in _at(content, place):
            _expand_kind(item, path, known, default, document)
    for place, types in (("costs[]", COST_TYPES), ("metrics[]", METRIC_TYPES)):
        for _, item in _at(content, place):
            item["type"] = kinds.expand(str(item.get("type")), types) or item.get("type")
    compute = content.get("compute")
    for size in ("cores", "memory"):
        # Words too: the check that follows then says which number is wanted.
        if isinstance(compute, dict) and type(compute.get(size)) in (int, float, str):
            compute[size] = {"min": compute[size]}


def _at(content: dict[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects at a place such as `compute.volumes[]`, each with its path; changing them changes `content`."""
    *parents, last = place.split(".")
    holder: Any = content
    for parent in parents:
        holder = holder.get(parent) if isinstance(holder, dict) else None
    if not isinstance(holder, dict):
        return
    if last.endswith("[]"):
        key = last[:-2]
        for i, item in enumerate(_listed(holder.get(key))):
            if isinstance(item, dict):
                yield f"{place[:-2]}[{i}]", item
    elif isinstance(holder.get(last), dict):
        yield place, holder[last]


def _expand_kind(item: dict[str, Any], path: str, known: tuple[str, ...], default: str, document: Document) -> None:
    word = item.get("kind", default or None)
    if word is None:
        raise wrong(document, f"{path}.kind", "missing.", f"There are: {_shorts(known)}.")
    if not isinstance(word, str):
        raise wrong(document, f"{path}.kind", "a text is wanted.", f"There are: {_shorts(known)}.", word)
    uri = kinds.expand(word, known) or (word if _URL.match(word) else None)
    if uri is None:
        raise wrong(
            document, f"{path}.kind", f"unknown.{_nearest(word, [kinds.short(k) for k in known])}",
            "All: broker kinds", word,
        )  # fmt: skip
    item["kind"] = uri


def _shorts(uris: Sequence[str]) -> str:
    return ", ".join(kinds.short(uri) for uri in uris)


def _nearest(word: str, among: Sequence[str]) -> str:
    inside = [one for one in among if word and word.lower() in one]
    near = inside or get_close_matches(word.lower(), among, n=1, cutoff=0.5)
    return f" Nearest: {near[0]}." if near else ""


# ── what lies on this machine ────────────────────────────────────────────────────────────────────────────────


def _bring_along(content: dict[str, Any], document: Document, folder: Path) -> None:
    """A local program goes along inside the request; local data cannot, and that is said here and not by every site."""
    executable = content.get("executable")
    if isinstance(executable, dict):
        _name(executable)
        location = executable.get("location")
        local = isinstance(location, str) and location != "" and not _URL.match(location)
        if local and executable["kind"] != kinds.WORKFLOW:  # which brings more than itself, at the end
            _inline(executable, folder / str(location), document)
        if executable["kind"] == kinds.PYTHON_PROGRAM and not {"location", "source"} & executable.keys():
            near = get_close_matches("location", [key for key in executable if key != "kind"], n=1, cutoff=0.6)
            raise wrong(document, "executable.location", "missing.", f'You wrote "{near[0]}".' if near else "")
    for path, item in _at(content, "data[]"):
        location = item.get("location")
        if isinstance(location, str) and not _URL.match(location):
            raise wrong(
                document, f"{path}.location", "a URL is wanted.", "Sites cannot read this machine's files.", location
            )
    _name_data(content)


def _name_data(content: dict[str, Any]) -> None:
    """Data without a name gets that of its file, under which a program finds it; not where two would be called so."""
    metas = [item.get("meta") for place in ("data[]", "storage[]") for _, item in _at(content, place)]
    taken = [meta["name"] for meta in metas if isinstance(meta, dict) and isinstance(meta.get("name"), str)]
    unnamed = [item for _, item in _at(content, "data[]") if not item.get("meta")]
    files = [_file(_address(item)) for item in unnamed]
    for item, file in zip(unnamed, files, strict=True):
        if file and (*taken, *files).count(file) == 1:
            item["meta"] = {"name": file}


def _address(item: Mapping[str, Any]) -> Any:
    """What is likest to a path in it."""
    rucio = item.get("rucio")
    named = rucio.get("object") if isinstance(rucio, dict) else None
    return item.get("location") or item.get("object") or named


def _file(location: Any) -> str:
    """The last step of a URL's path."""
    return re.split(r"[?#]", location)[0].rpartition("/")[2] if isinstance(location, str) else ""


def _name(executable: dict[str, Any]) -> None:
    """The stem of what is run, unless it has a name."""
    meta = executable.get("meta") or {}
    if not isinstance(meta, dict) or meta.get("name"):
        return
    image = executable.get("image")
    places = image.get("locations") if isinstance(image, dict) else None
    where = executable.get("location") or (places[0] if isinstance(places, list) and places else "")
    stem = Path(re.split(r"[?#@]", str(where))[0].rstrip("/")).name
    stem = stem.split(":")[0].rsplit(".", 1)[0] if stem else ""
    executable["meta"] = {**meta, "name": stem or kinds.short(str(executable.get("kind")))}


def _inline(executable: dict[str, Any], path: Path, document: Document) -> None:
    if not path.is_file():
        raise wrong(document, "executable.location", "no such file.", "", executable["location"])
    kind = executable.get("kind")
    if kind == kinds.PYTHON_PROGRAM:
        del executable["location"]
        executable["source"] = read_text(path)
    elif kind == kinds.JUPYTER_NOTEBOOK:
        # The kind has no room for a notebook's text; a data URL (RFC 2397) is a location like any other.
        text = base64.b64encode(read_text(path).encode()).decode()
        executable["location"] = f"data:application/x-ipynb+json;base64,{text}"
    else:
        raise wrong(document, "executable.location", "a URL is wanted.", "", executable["location"])


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────


def _validated(content: dict[str, Any], document: Document) -> ExecutionRequest:
    try:
        request = parse(ExecutionRequest, content)
        check(request)
    except BadInput as error:
        quoted = re.match(r'"([^"]*)": (.*)', error.detail)  # the value goes with the element, as users write it
        value, detail = (quoted[1], quoted[2]) if quoted else (None, error.detail)
        raise wrong(document, error.element, detail, error.remedy, value) from None
    return request
