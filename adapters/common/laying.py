"""What a program finds where it runs: the same names in the same places on every platform. Pure; imports the domain.

    data/<name>        its data, staged before it starts
    results            what it writes there is kept and handed back
    <path>             its volumes
    BROKER_DATA, BROKER_DATA_<NAME>, BROKER_RESULTS, BROKER_VOLUME_<PATH>, BROKER_SESSION, BROKER_CORES, BROKER_MEMORY

Places are relative: each platform has its own folder for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from broker.domain.components import AbstractComponent
from broker.domain.data import AbstractDataResource, SkaoDataResource
from broker.domain.located import Item, items
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleVolumeMount

DATA, RESULTS, PROGRAM = "data", "results", "program.py"

_LONGEST_NAME = 200  # bytes; file systems take 255


class Datum(NamedTuple):
    """One data resource. `place`: `data/<name>`, or `storage/<storage>/<name>` where it is to lie on a storage. `urls`
    in the order to try, none where neither the request nor a catalogue names a place. `checksum`: type and value, as
    stated; `bytes` as stated."""

    name: str
    place: str
    urls: tuple[str, ...]
    checksum: tuple[str, str] | None = None
    bytes: int | None = None


class Mount(NamedTuple):
    """A volume at `path` of what lies at `source`: a datum's place, or a storage's."""

    path: str
    source: str
    readonly: bool = True


class Layout(NamedTuple):
    """In the request's order. `storages`: their places, `storage/<name>`."""

    storages: tuple[str, ...]
    data: tuple[Datum, ...]
    mounts: tuple[Mount, ...]

    def writable(self) -> frozenset[str]:
        """What volumes give to be written: data, and storages with what lies on them."""
        return frozenset(mount.source for mount in self.mounts if not mount.readonly)


def lay_out(request: ExecutionRequest) -> Layout:
    """Volumes that lead nowhere, or to nothing, are left out; `refuse` of an adapter names them."""
    data, storage = request.data or (), request.storage or ()
    storages = [f"storage/{name}" for name in _file_names(storage, "storage")]
    known = _index(storage, storages)
    places = [
        f"{known.get(item.storage or '', DATA)}/{name}"
        for item, name in zip(data, _file_names(data, DATA), strict=True)
    ]
    laid = (_datum(*of) for of in zip(data, items(request), places, strict=True))
    return Layout(tuple(storages), tuple(laid), tuple(_mounts(request, known | _index(data, places))))


def variables(layout: Layout, root: str) -> dict[str, str]:
    """What tells the program where things are, below `root`, the absolute path of its folder."""
    told = {"BROKER_DATA": f"{root}/{DATA}", "BROKER_RESULTS": f"{root}/{RESULTS}"}
    told |= {f"BROKER_DATA_{upper(datum.name)}": f"{root}/{datum.place}" for datum in layout.data}
    return told | {f"BROKER_VOLUME_{upper(mount.path)}": f"{root}/{mount.path}" for mount in layout.mounts}


def upper(name: str) -> str:
    """`survey-2.fits` → `SURVEY_2_FITS`."""
    return re.sub(r"\W", "_", name, flags=re.ASCII).upper()


def inside(path: str | None) -> str | None:
    """`/data/input` → `data/input`; None: it leads nowhere below the program's folder."""
    parts = [part for part in PurePosixPath(path or "").parts if part != "/"]
    return "/".join(parts) if parts and ".." not in parts and "\0" not in (path or "") else None


def is_data(request: ExecutionRequest, volume: SimpleVolumeMount) -> bool:
    """Whether it is a data resource that the volume mounts."""
    return any(volume.resource in _references(item) for item in request.data or ())


def addresses(item: Item) -> tuple[str, ...]:
    """Where the bytes are, in the order to try, by the request's word or a catalogue's. WebDAV is read as the HTTP that
    it is; a name is no place."""
    urls = (re.sub(r"^dav(s?)://", r"http\1://", url) for url in item.urls)
    return tuple(url for url in urls if not url.startswith("rucio:"))


def _datum(item: AbstractDataResource, known: Item, place: str) -> Datum:
    skao = item.skao if isinstance(item, SkaoDataResource) else None
    stated = skao.checksum if skao else None
    checksum = (stated.type or "", stated.value) if stated and stated.value else None
    return Datum(place.rpartition("/")[2], place, addresses(known), checksum, skao.datasize if skao else None)


def _index(items: Sequence[AbstractComponent], places: Sequence[str]) -> dict[str, str]:
    return {reference: place for item, place in zip(items, places, strict=True) for reference in _references(item)}


def _references(item: AbstractComponent) -> tuple[str, ...]:
    """What other parts of the request may call it by."""
    return tuple(filter(None, (item.name, str(item.uuid) if item.uuid else "")))


def _file_names(items: Sequence[AbstractComponent], kind: str) -> list[str]:
    """The components' names, made fit for files and kept apart."""
    names: dict[str, None] = {}
    for i, item in enumerate(items, 1):
        name = re.sub(r"[^\w.+-]", "_", item.name)
        name = name.encode()[:_LONGEST_NAME].decode(errors="ignore")
        name = name if name.strip(".") else f"{kind}-{i}"
        while name in names:
            name = f"{i}-{name}"
        names[name] = None
    return list(names)


def _mounts(request: ExecutionRequest, known: dict[str, str]) -> Iterator[Mount]:
    for volume in (request.compute.volumes if request.compute else None) or ():
        if isinstance(volume, SimpleVolumeMount):
            path, source = inside(volume.path), known.get(volume.resource or "")
            if path and source:
                yield Mount(path, source, volume.mode != "READWRITE")
