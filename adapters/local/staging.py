"""Brings a job's program and data into its folder: `python -m adapters.local.staging FOLDER`, a child of the
supervisor, which limits and ends it. Imports the standard library alone.

Exit 0: all is in place. Exit 1: the last line on stderr says in one sentence what is wrong.
"""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path

from adapters.local.bringing import Bringer
from adapters.local.cache import Cache
from adapters.local.fetching import StagingError, fetch
from adapters.local.layout import HOME, STORE, TMP, WORK, Flow, Mount, Spec, read_spec
from adapters.local.transfers import Report


def _link(work: Path, name: str, target: Path) -> None:
    place = work / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(target.resolve(), place.parent.resolve()))


def _mount(folder: Path, mount: Mount) -> None:
    try:
        _link(folder / WORK, mount.path, folder / STORE / mount.source)
    except OSError as error:
        raise StagingError(f"The volume {mount.path} cannot be placed: {error.strerror}.") from error


def _protect(folder: Path) -> None:
    """Take the right to write from everything below; it binds all but root, who is told so by the site."""
    for place, _, files in os.walk(folder):
        for path in (Path(place, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o400)
        Path(place).chmod(0o500)


def _program(folder: Path, spec: Spec) -> None:
    if spec.flow is not None:
        _flow(folder / WORK, spec.flow, spec)
        return
    target = folder / WORK / spec.script
    if spec.source is not None:
        target.write_text(spec.source, encoding="utf-8")
    elif spec.location is not None:
        fetch(spec.location, target, spec.file_roots, spec.bounds.source)
    else:
        raise StagingError("The program has neither source nor location.")


def _flow(work: Path, flow: Flow, spec: Spec) -> None:
    room = spec.bounds.source
    for file in flow.files:
        target = work / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.source is not None:
            target.write_text(file.source, encoding="utf-8")
        elif file.location is not None:
            room -= fetch(file.location, target, spec.file_roots, room)[0]


def stage(folder: Path, spec: Spec) -> None:
    """All of it. Raises StagingError."""
    store, work = folder / STORE, folder / WORK
    for place in (store / "data", work, folder / HOME, folder / TMP, *(store / name for name in spec.storages)):
        place.mkdir(parents=True, exist_ok=True)
    _program(folder, spec)
    for mount in spec.mounts:
        _mount(folder, mount)
    _views(folder, spec)
    _data(folder, spec)
    written = {mount.source for mount in spec.mounts if not mount.readonly}
    for mount in spec.mounts:
        if mount.source in spec.storages and mount.source not in written:
            _protect(store / mount.source)


def _data(folder: Path, spec: Spec) -> None:
    """What came before something went wrong is reported too."""
    room = spec.bounds.disk
    cache = Cache(folder.parent, spec.cache) if spec.cache and spec.data else None
    bringer = Bringer(folder / STORE, spec.file_roots, cache)
    with closing(Report(folder)) as report:
        for datum in spec.data:
            transfer = bringer.bring(datum, room)
            room -= transfer.bytes
            report.add(transfer)
    if cache is not None:
        cache.close()


def _views(folder: Path, spec: Spec) -> None:
    """./data/<name> and ./results, unless the request mounts something of its own there."""
    work = folder / WORK
    if not (work / "data").is_symlink():
        (work / "data").mkdir(exist_ok=True)
        for datum in spec.data:
            if not os.path.lexists(work / "data" / datum.name):
                _link(work, f"data/{datum.name}", folder / STORE / datum.place)
    if not (work / "results").is_symlink():
        (work / "results").mkdir(exist_ok=True)


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0])
    try:
        stage(folder, read_spec(folder))
    except (StagingError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
