"""A run's outputs as files with names and places. Pure; imports the standard library alone.

Of what servers say there are three shapes: a CWL output object (toil; Files and Directories anywhere in it,
https://www.commonwl.org/v1.2/CommandLineTool.html#File), a list of names and URLs (sapporo), and URLs as plain strings
(Nextflow, WDL). All of it is a stranger's word: names are made relative and plain, or the file is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

MOST = 10_000  # files of one run
_DEEPEST = 50
_LONGEST = 1000


class Output(NamedTuple):
    """`location`: a URL (file, http, https), a path on the server, or a reference relative to the run's own address.
    `sha1`: in hex, as the engine has worked it out."""

    name: str
    location: str
    bytes: int | None = None
    sha1: str = ""


def read(outputs: Any) -> dict[str, Output]:
    """By name. Of two files with one name the second is called by the output that it belongs to as well."""
    found: dict[str, Output] = {}
    for key, output in _read(outputs):
        name = output.name if output.name not in found else f"{key}/{output.name}"
        if plain(name) and name not in found:
            found[name] = output._replace(name=name)
        if len(found) >= MOST:
            break
    return found


def plain(name: str) -> bool:
    """A relative POSIX path that leads nowhere else."""
    return (
        0 < len(name) <= _LONGEST
        and name.isprintable()
        and all(step not in ("", ".", "..") and "\\" not in step for step in name.split("/"))
    )


def _read(outputs: Any) -> Iterator[tuple[str, Output]]:
    if isinstance(outputs, list):
        for item in outputs[:MOST]:
            name, url = (item.get(key) for key in ("file_name", "file_url")) if isinstance(item, dict) else (None, None)
            if isinstance(name, str) and isinstance(url, str):
                yield "", Output(name, url)
    elif isinstance(outputs, dict):
        for key, value in outputs.items():
            for output in _values(value, "", 0):
                yield re.sub(r"[^\w.-]", "_", key)[:100], output


def _values(value: Any, above: str, depth: int) -> Iterator[Output]:
    if depth > _DEEPEST:
        return
    if isinstance(value, list):
        for item in value:
            yield from _values(item, above, depth + 1)
    elif isinstance(value, dict) and value.get("class") in ("File", "Directory"):
        yield from _object(value, above, depth)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _values(item, above, depth + 1)
    elif isinstance(value, str) and re.match(r"(file|https?)://", value):
        yield Output(above + _base(value), value)


def _object(value: Mapping[str, Any], above: str, depth: int) -> Iterator[Output]:
    location = value.get("location") or value.get("path")
    if not isinstance(location, str):
        return
    basename = value.get("basename")
    name = above + (basename if isinstance(basename, str) and basename else _base(location))
    if value["class"] == "Directory":
        yield from _values(value.get("listing"), f"{name}/", depth + 1)
        return
    size, stated = value.get("size"), value.get("checksum")
    sha1 = re.fullmatch(r"sha1\$([0-9a-f]{40})", stated) if isinstance(stated, str) else None
    known = isinstance(size, int) and not isinstance(size, bool) and size >= 0
    yield Output(name, location, size if known else None, sha1[1] if sha1 else "")
    yield from _values(value.get("secondaryFiles"), above, depth + 1)


def _base(location: str) -> str:
    try:
        return PurePosixPath(unquote(urlsplit(location).path)).name
    except ValueError:
        return ""
