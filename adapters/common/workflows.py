"""A workflow's files: what they are called, what its inputs refer to, what is wrong with them on any platform. Pure;
imports the domain.

Wherever a workflow runs, its main document and its attachments lie in one folder, and so does the request's data:

    <path>          each attachment; the main document, where it comes by URL, under the last step of that URL
    data/<name>     the request's data resource of that name, as a program finds it (laying.py)

An input file names one of these as its `location` (or `path`): `{"class": "File", "location": "data/survey.fits"}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from adapters.common.laying import DATA, RESULTS
from broker.domain.executables import Workflow
from broker.domain.outcome import Reason

INPUTS = "cwl.inputs.json"  # the name that the inputs' own document has in the folder
MOST = 1000  # attachments

_OURS = frozenset({DATA, RESULTS, INPUTS})
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class Main(NamedTuple):
    """The main document: its path in the folder, the URL it is read from (None: it is an attachment), and the process
    in it that is meant (the fragment; empty: the language's own default)."""

    path: str
    url: str | None
    process: str = ""


class Reference(NamedTuple):
    """A file or folder that the inputs name. `element`: where, in the request."""

    element: str
    location: str


def is_url(location: str) -> bool:
    return _URL.match(location) is not None


def main(workflow: Workflow) -> Main:
    """Of a workflow that has a location."""
    place, _, process = (workflow.location or "").partition("#")
    if not is_url(place):
        return Main(place, None, process)
    name = "" if place[:5].lower() == "data:" else urlsplit(place).path.rpartition("/")[2]
    fit = re.fullmatch(r"\w[\w.+-]{0,199}", name) and name not in _OURS
    return Main(name if fit else "main.cwl", place, process)


def inline(workflow: Workflow) -> dict[str, str]:
    """The attachments whose text is in the request itself, by path."""
    return {item.path: item.source for item in workflow.attachments or () if item.path and item.source is not None}


def paths(workflow: Workflow) -> frozenset[str]:
    """Of all its files."""
    return frozenset({main(workflow).path, *(item.path for item in workflow.attachments or () if item.path)})


def references(workflow: Workflow) -> Iterator[Reference]:
    """Every file and folder that the inputs name by place; literals, which carry their contents, are none."""
    yield from _named(workflow.parameters or {}, "executable.parameters")


def _named(value: Any, element: str) -> Iterator[Reference]:
    """The caller has bounded how deep a document goes (the wire, api/jsontext)."""
    if isinstance(value, Mapping):
        location = value.get("location") or value.get("path")
        if value.get("class") in ("File", "Directory") and isinstance(location, str):
            yield Reference(element, location)
        for name, inner in value.items():
            yield from _named(inner, f"{element}.{name}")
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _named(inner, f"{element}[{i}]")


def refuse(workflow: Workflow, data: frozenset[str]) -> Iterator[Reason]:
    """What no platform can do with it. `data`: the names of the request's data, as files."""
    yield from _attachments(workflow)
    if not workflow.type:
        yield Reason("the language of a workflow is wanted", "executable.type", nearest="CWL")
    if not workflow.location:
        yield Reason("a workflow needs its main document", "executable.location", nearest="the path of an attachment")
        return
    attached = {item.path for item in workflow.attachments or () if item.path}
    first = main(workflow)
    if first.url is None and first.path not in attached:
        nearest = ", ".join(sorted(attached)[:5]) or "a URL"
        yield Reason(f"{first.path[:200]!r} is no attachment", "executable.location", nearest=nearest)
    elif first.url is not None and first.path in attached:
        yield Reason(f"the main document is called {first.path!r} as well", "executable.attachments")
    yield from _references(workflow, data, paths(workflow))


def _attachments(workflow: Workflow) -> Iterator[Reason]:
    items = workflow.attachments or ()
    if len(items) > MOST:
        yield Reason(f"{len(items)} files are attached", "executable.attachments", nearest=str(MOST))
        return
    folders = {f"{item.path}/" for item in items if item.path}
    seen: set[str] = set()
    for i, item in enumerate(items):
        element = f"executable.attachments[{i}]"
        if (item.source is None) == (item.location is None):
            yield Reason("an attachment has either a source or a location", element)
        path = item.path or ""
        if not _fit(path) or not folders.isdisjoint(_above(path)):
            text = f"no file can lie at {path[:200]!r}"
            yield Reason(text, f"{element}.path", nearest="a relative path of its own, without .., not below data")
        elif path in seen:
            yield Reason(f"{path!r} comes twice", f"{element}.path")
        seen.add(path)


def _fit(path: str) -> bool:
    """Relative, plain, and none of the places that are there already."""
    steps = path.split("/")
    plain = all(step not in ("", ".", "..") and len(step.encode(errors="replace")) <= 255 for step in steps)
    return plain and len(path) <= 1000 and path.isprintable() and "\\" not in path and steps[0] not in _OURS


def _above(path: str) -> list[str]:
    """The folders on the way to it: `a/b/c` → `a/`, `a/b/`."""
    return [path[: i + 1] for i, letter in enumerate(path) if letter == "/"]


def _references(workflow: Workflow, data: frozenset[str], attached: frozenset[str]) -> Iterator[Reason]:
    known = (
        attached
        | {above.rstrip("/") for path in attached for above in _above(path)}
        | {DATA}
        | {f"{DATA}/{name}" for name in data}
    )
    for reference in references(workflow):
        if not is_url(reference.location) and reference.location.removeprefix("./").rstrip("/") not in known:
            nearest = ", ".join(f"{DATA}/{name}" for name in sorted(data)[:5]) or "a data resource, and data/<its name>"
            text = f"{reference.location[:200]!r} is neither data of this request nor attached"
            yield Reason(text, reference.element, nearest=nearest)
