"""What a CWL document asks of whoever runs it, read without running anything. Pure; imports our reader of YAML.

Followed are `run`, `steps`, `$graph` and `$import`, within the files at hand. No expression is evaluated and nothing
is fetched: what would take that is said to be not known. Bounded in bytes, depth, and processes.

Source: https://www.commonwl.org/v1.2/CommandLineTool.html#ResourceRequirement (units, and what a lone minimum or
maximum means); https://www.commonwl.org/v1.2/Workflow.html#Requirements_and_hints (what overrides what);
https://www.commonwl.org/v1.2/CommandLineTool.html#NetworkAccess.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from adapters.common import workflows
from broker.api.yamltext import decode_yaml
from broker.domain.executables import Workflow
from broker.errors import Malformed

LARGEST = 256 * 1024  # bytes of all documents that are read together: some tenths of a second
MOST = 1000  # processes
DEEPEST = 20  # workflows within workflows
_MIB_A_GIB = 1024
_MOST_AMOUNT = 2**31  # cores or MiB; more is no size
_MOST_UNKNOWN = 10  # sentences about what is not known


class Amount(NamedTuple):
    """At least and at most, in cores or GiB, and the step or tool that asks most."""

    least: int
    most: int
    where: str


class Reading(NamedTuple):
    """Sizes are the largest over all steps, None where no step states any. `storage`: what a step writes, its temporary
    files too. `unknown`: what could not be known, a sentence each. `containers`: steps that run in a container alone.
    `network`: a step says that it needs it. `versions`: `cwlVersion`s. `fault`: the document cannot be run anywhere;
    `file` is the path it lies in."""

    cores: Amount | None = None
    memory: Amount | None = None
    storage: Amount | None = None
    unknown: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    network: bool = False
    versions: tuple[str, ...] = ()
    fault: str = ""
    file: str = ""


def is_cwl(workflow: Workflow) -> bool:
    return (workflow.type or "").casefold() == "cwl"


def read(workflow: Workflow) -> Reading:
    """Of a workflow in CWL. Takes its time with large documents, once for each."""
    main = workflows.main(workflow)
    if main.url is not None:
        return Reading(unknown=("its document is fetched when it runs, so what it asks is not known before",))
    return _read(main.path, main.process, tuple(workflows.inline(workflow).items()))


@lru_cache(maxsize=32)
def _read(main: str, process: str, files: tuple[tuple[str, str], ...]) -> Reading:
    reader = _Reader(dict(files))
    try:
        reader.document(main, process)
    except _Fault as fault:
        return Reading(fault=str(fault), file=fault.file)
    return reader.reading()


class _Fault(Exception):
    def __init__(self, file: str, text: str) -> None:
        super().__init__(text)
        self.file = file


class _Scope(NamedTuple):
    """What holds for a process: its own requirements first, then those of the step, then of the workflow around it.
    Any requirement goes before any hint."""

    requirements: tuple[Mapping[str, Any], ...] = ()
    hints: tuple[Mapping[str, Any], ...] = ()

    def within(self, requirements: Mapping[str, Any], hints: Mapping[str, Any]) -> _Scope:
        return _Scope((requirements, *self.requirements), (hints, *self.hints))

    def find(self, name: str) -> Any:
        return next((each[name] for each in (*self.requirements, *self.hints) if name in each), None)


class _Reader:
    """Of one workflow. `_path` are the processes that are open, so that one within itself is seen."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files
        self._documents: dict[str, Any] = {}
        self._left, self._bytes = MOST, LARGEST
        self._path: list[int] = []
        self._amounts: dict[str, Amount] = {}
        self._unknown: list[str] = []
        self._containers: list[str] = []
        self._versions: set[str] = set()
        self._network = False

    def reading(self) -> Reading:
        return Reading(
            self._amounts.get("cores"),
            self._amounts.get("memory"),
            self._amounts.get("storage"),
            tuple(dict.fromkeys(self._unknown))[:_MOST_UNKNOWN],
            tuple(dict.fromkeys(self._containers)),
            self._network,
            tuple(sorted(self._versions)),
        )

    def document(self, file: str, process: str) -> None:
        content = self._load(file)
        if content is None:
            self._unknown.append(f"{file} is fetched when it runs, so what it asks is not known before")
            return
        where = process or posixpath.basename(file)
        self._process(self._chosen(content, process, file), file, where, _Scope())

    # ── documents ────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self, file: str) -> Any:
        """None: it is not at hand."""
        if file not in self._documents:
            text = self._files.get(file)
            if text is None:
                return None
            body = text.encode(errors="replace")
            self._bytes -= len(body)
            if self._bytes < 0:
                raise _Fault(file, f"documents of more than {LARGEST // 1024} KiB are not read here")
            try:
                self._documents[file] = decode_yaml(body)
            except Malformed as error:
                raise _Fault(file, error.detail.removeprefix("the body ").rstrip(".")) from None
        return self._documents[file]

    def _chosen(self, content: Any, name: str, file: str) -> Any:
        """The process `name` of a document, or the one that is meant where none is named."""
        graph = content.get("$graph") if isinstance(content, Mapping) else None
        if not isinstance(graph, list):
            return content
        self._version(content)
        name = name or "main"
        for process in graph:
            if isinstance(process, Mapping) and _last(process.get("id")) == name:
                return process
        raise _Fault(file, f"there is no process {name[:100]!r} in it")

    def _resolved(self, reference: str, file: str) -> tuple[Any, str]:
        """What a reference leads to, and the file that it lies in. None: nowhere that is at hand."""
        place, _, name = reference.partition("#")
        if workflows.is_url(place):
            return None, file
        target = posixpath.normpath(posixpath.join(posixpath.dirname(file), place)) if place else file
        content = self._load(target)
        return (self._chosen(content, _last(name), target) if content is not None else None), target

    def _imported(self, value: Any, file: str) -> tuple[Any, str]:
        """`{"$import": …}` as what it stands for."""
        if isinstance(value, Mapping) and isinstance(value.get("$import"), str):
            return self._resolved(value["$import"], file)
        return value, file

    def _version(self, content: Mapping[str, Any]) -> None:
        if isinstance(content.get("cwlVersion"), str):
            self._versions.add(content["cwlVersion"][:20])

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────

    def _process(self, process: Any, file: str, where: str, scope: _Scope) -> None:
        if not isinstance(process, Mapping) or not isinstance(process.get("class"), str):
            raise _Fault(file, f"{where[:100]} is no process of CWL: it has no class")
        if id(process) in self._path:
            raise _Fault(file, f"{where[:100]} runs itself")
        self._left -= 1
        if self._left < 0 or len(self._path) >= DEEPEST:
            raise _Fault(file, f"more than {MOST} steps, or workflows more than {DEEPEST} deep, are not read here")
        self._version(process)
        self._path.append(id(process))
        scope = scope.within(*self._asked(process, file))
        if process["class"] == "Workflow":
            for name, step in _listed(process.get("steps"), "id"):
                self._step(step, file, _last(name) or where, scope)
        else:
            self._tool(where, scope)
        self._path.pop()

    def _step(self, step: Any, file: str, where: str, scope: _Scope) -> None:
        step, file = self._imported(step, file)
        if not isinstance(step, Mapping):
            raise _Fault(file, f"the step {where[:100]} is no object")
        scope = scope.within(*self._asked(step, file))
        run = step.get("run")
        found, file = self._resolved(run, file) if isinstance(run, str) else self._imported(run, file)
        if found is None:
            self._unknown.append(f"what the step {where[:100]} runs is not attached, so what it asks is not known")
        else:
            self._process(found, file, where, scope)

    def _asked(self, holder: Mapping[str, Any], file: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        requirements, hints = (self._classes(holder.get(key), file) for key in ("requirements", "hints"))
        return requirements, hints

    def _classes(self, value: Any, file: str) -> Mapping[str, Any]:
        """Requirements by their class, however they are written."""
        value, file = self._imported(value, file)
        found = {}
        for name, item in _listed(value, "class"):
            item, _ = self._imported(item, file)
            name = item.get("class", name) if isinstance(item, Mapping) else name
            if isinstance(name, str):
                found[_last(name)] = item
        return found

    # ── what is asked ────────────────────────────────────────────────────────────────────────────────────────

    def _tool(self, where: str, scope: _Scope) -> None:
        if any("DockerRequirement" in each for each in scope.requirements):
            self._containers.append(where)
        access = scope.find("NetworkAccess")
        self._network |= isinstance(access, Mapping) and access.get("networkAccess") not in (None, False)
        asked = scope.find("ResourceRequirement")
        if not isinstance(asked, Mapping):
            return
        self._take("cores", where, self._range(asked, "cores", where), 1)
        self._take("memory", where, self._range(asked, "ram", where), _MIB_A_GIB)
        written = [found for what in ("tmpdir", "outdir") if (found := self._range(asked, what, where)) is not None]
        if written:
            self._take("storage", where, (sum(low for low, _ in written), sum(high for _, high in written)), _MIB_A_GIB)

    def _take(self, what: str, where: str, found: tuple[float, float] | None, unit: int) -> None:
        if found is None:
            return
        least = max(1, math.ceil(found[0] / unit))
        most = max(least, math.floor(found[1] / unit))
        known = self._amounts.get(what)
        if known is not None:
            where = where if least > known.least else known.where
            least, most = max(least, known.least), max(most, known.most)
        self._amounts[what] = Amount(least, most, where)

    def _range(self, asked: Mapping[str, Any], what: str, where: str) -> tuple[float, float] | None:
        """A lone minimum is the maximum too, and the other way round; an amount that is not known is none."""
        low, high = (self._number(asked, f"{what}{end}", where) for end in ("Min", "Max"))
        known = [number for number in (low, high) if number is not None]
        return (min(known), max(known)) if known else None

    def _number(self, asked: Mapping[str, Any], name: str, where: str) -> float | None:
        value = asked.get(name)
        if value is None:
            return None
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_AMOUNT:
            return value
        what = "an expression" if isinstance(value, str) and ("$(" in value or "${" in value) else "no number"
        self._unknown.append(f"{name} of {where[:100]} is {what}, so it is not known")
        return None


def _last(name: Any) -> str:
    """The name alone: `#main`, `file.cwl#main`, `http://…#main` → `main`."""
    return name.rpartition("#")[2] if isinstance(name, str) else ""


def _listed(value: Any, key: str) -> Iterator[tuple[Any, Any]]:
    """(name, item) of what may be a list of objects or an object of objects."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from ((item.get(key) if isinstance(item, Mapping) else None, item) for item in value)
