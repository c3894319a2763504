"""What is known of a request's data: how large, in which places, and who says so. Pure; imports the domain's models.

What the request itself states leads: `skao.datasize` and `skao.replicas`, DataLink's `content_length` and `access_url`,
plain locations, what a broker above has found out (`located`). Catalogues fill in what it leaves open, the most
trusted first. What nobody says is not known, and never zero.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum

import msgspec
from msgspec.structs import replace

from broker.domain import addresses
from broker.domain.components import AbstractComponent
from broker.domain.data import (
    IvoaDataResource,
    IvoaDataResourceBlock,
    RucioDataResource,
    S3DataResource,
    SimpleDataResource,
    SkaoDataResource,
)
from broker.domain.located_note import LocatedNote, PortionNote
from broker.domain.quantities import format_instant
from broker.domain.request import ExecutionRequest

REQUEST = "the request"  # as who says something
MOST_BYTES, MOST_FILES = 1e21, 10**12  # of one data resource; what goes over the wire may be more (located_note)
MOST_PORTIONS, MOST_REPLICAS = 64, 32  # of one data resource, of one portion; more change no decision


class Replica(msgspec.Struct, frozen=True, omit_defaults=True):
    """One copy. `storage` as the catalogue names it (a Rucio RSE, say), or None: then the URL tells. `tape`: it has to
    be recalled before it can be read."""

    storage: str | None = None
    url: str | None = None
    tape: bool = False


class Portion(msgspec.Struct, frozen=True, omit_defaults=True):
    """Files of one data resource that lie in the same places. `bytes`: of all of them; None: not known."""

    bytes: float | None = None
    replicas: tuple[Replica, ...] = ()
    files: int = 1


class Located(msgspec.Struct, frozen=True):
    """What one catalogue says of one data resource; no portions: it says nothing. A portion without replicas: it knows
    no place. `checksum`: type and value, of a single file. `estimated`: the sizes are. `sized`: who measured them,
    where that is not the catalogue itself, such as "ObsCore access_estsize". `unknown`: why it does not say
    the rest."""

    portions: tuple[Portion, ...] = ()
    checksum: tuple[str, str] | None = None
    estimated: bool = False
    sized: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def urls(self) -> tuple[str, ...]:
        return _urls(self.portions)

    @property
    def files(self) -> int:
        return sum(portion.files for portion in self.portions)


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """One data resource. `path` is its dotted path in the request. `sized`, `placed`: who says how large it is and
    where it lies; empty: nobody. `asof`: when a catalogue said so, epoch seconds; None: the request does. `unknown`:
    why something is not known, a sentence for each catalogue that was asked. `notes`: what contradicts. `told`: the
    request says so in the name of whoever sent it on."""

    path: str
    name: str = ""
    portions: tuple[Portion, ...] = (Portion(),)
    sized: str = ""
    placed: str = ""
    asof: float | None = None
    estimated: bool = False
    checksum: tuple[str, str] | None = None
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    told: bool = False

    @property
    def by_asker(self) -> bool:
        """Its size is the asker's word, and not that of a catalogue of ours."""
        return (self.told or self.sized == REQUEST) and self.bytes != 0

    @property
    def bytes(self) -> float | None:
        """Of all files; None: not known of one of them."""
        return total(self.portions)

    @property
    def files(self) -> int:
        return sum(portion.files for portion in self.portions)

    @property
    def urls(self) -> tuple[str, ...]:
        return _urls(self.portions)


def total(portions: Iterable[Portion]) -> float | None:
    sizes = [portion.bytes for portion in portions]
    return None if None in sizes else fsum(size for size in sizes if size is not None)


def _urls(portions: Iterable[Portion]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(r.url for portion in portions for r in portion.replicas if r.url))


# ── what the request says ────────────────────────────────────────────────────────────────────────────────────


def items(request: ExecutionRequest) -> tuple[Item, ...]:
    """Every data resource, in the request's order, as far as the request states it."""
    told = {note.element: note for note in request.located or ()}
    return tuple(
        _told(_item(f"data[{i}]", resource), told.get(f"data[{i}]")) for i, resource in enumerate(request.data or ())
    )


def _item(path: str, resource: AbstractComponent) -> Item:
    size, stated = _stated(resource)
    replicas = tuple(dict.fromkeys(replica for replica in stated if replica.storage or replica.url))
    named = isinstance(resource, RucioDataResource)  # a name that a prefix may declare; nobody states a place
    return Item(
        path,
        resource.name,
        (Portion(size, replicas[:MOST_REPLICAS]),),
        sized="" if size is None else REQUEST,
        placed=REQUEST if (replicas and not named) or size == 0 else "",
        checksum=_checksum(resource),
    )


def _stated(resource: AbstractComponent) -> tuple[float | None, Sequence[Replica]]:
    """Size and replicas of one resource; of a kind that nobody knows, nothing is known."""
    match resource:
        case SimpleDataResource():
            return _simple(resource.location)
        case S3DataResource():
            return None, (Replica(None, s3_url(resource)),)
        case RucioDataResource():
            return None, (Replica(None, _rucio(resource)),)
        case IvoaDataResource():
            return _ivoa(resource.ivoa)
        case SkaoDataResource():
            return _skao(resource)
    return None, ()


def _simple(location: str | None) -> tuple[float | None, Sequence[Replica]]:
    """A `data:` URL travels in the request itself: nothing is left to be moved."""
    if location and location[:5].lower() == "data:":
        return 0.0, ()
    return None, (Replica(None, location),)


def s3_url(resource: S3DataResource) -> str | None:
    """`endpoint/bucket/object`, or `s3://bucket/object` where no endpoint is named. No object: the whole bucket."""
    if not resource.bucket:
        return None
    base = resource.endpoint.rstrip("/") if resource.endpoint else "s3:/"
    return "/".join(part for part in (base, resource.bucket, resource.object) if part)


def _rucio(resource: RucioDataResource) -> str | None:
    """`rucio:scope/object`: a storage that declares the prefix `rucio:scope` holds the whole scope."""
    block = resource.rucio
    if block is None or not block.scope:
        return None
    return f"rucio:{block.scope}/{block.object or ''}".rstrip("/")


def _ivoa(block: IvoaDataResourceBlock | None) -> tuple[float | None, list[Replica]]:
    if block is None:
        return None, []
    size = block.datalink.content_length if block.datalink else None
    url = block.datalink.access_url if block.datalink else None
    # DataLink's first: ObsCore's may lead to links, whether or not it says so.
    if not url and block.obscore and not is_linked(block.obscore.access_format):
        url = block.obscore.access_url
    return _number(size), [Replica(None, url)]


def is_linked(form: str | None) -> bool:
    """The address leads to a links document, and not to bytes, by ObsCore's access_format or DataLink's content_type
    (DataLink 1.1, 3.3)."""
    return "content=datalink" in (form or "").replace(" ", "").replace('"', "").lower()


def _skao(resource: SkaoDataResource) -> tuple[float | None, list[Replica]]:
    size, replicas = _ivoa(resource.ivoa)
    block = resource.skao
    if block is None:
        return size, replicas
    stated = [Replica(item.rsename, item.dataurl) for item in block.replicas or ()]
    return (size if block.datasize is None else float(block.datasize)), stated or replicas


def _checksum(resource: AbstractComponent) -> tuple[str, str] | None:
    block = resource.skao if isinstance(resource, SkaoDataResource) else None
    stated = block.checksum if block else None
    return (stated.type, stated.value) if stated and stated.type and stated.value else None


def _number(size: int | None) -> float | None:
    return None if size is None else float(size)


# ── what others say ──────────────────────────────────────────────────────────────────────────────────────────


def tame(found: Located) -> Located:
    """What may be reckoned with: a size that is none is not known, and of a great many places the most count."""
    return replace(found, portions=condense(_sane(found.portions)))


def _sane(portions: Iterable[Portion]) -> list[Portion]:
    """Without sizes that are none, or that are none together."""
    sane = [replace(p, bytes=_size(p.bytes), files=min(max(1, p.files), MOST_FILES)) for p in portions]
    if fsum(p.bytes or 0.0 for p in sane) <= MOST_BYTES and sum(p.files for p in sane) <= MOST_FILES:
        return sane
    return [replace(p, bytes=None, files=1) for p in sane]


def _size(stated: float | None) -> float | None:
    return float(stated) if stated is not None and 0 <= stated <= MOST_BYTES else None


def fill(item: Item, said: Iterable[tuple[str, Located, float]], failed: Iterable[str] = ()) -> Item:
    """The item with what it leaves open taken from those who know, the most trusted first: (who, what, when). The
    request's own size and places stand; who says otherwise is noted. `failed`: why others say nothing, kept where
    something stays unknown."""
    for who, found, asof in said:
        item = _filled(item, who, found, asof)
    why = tuple(failed) if item.bytes is None or not item.placed else ()
    return replace(item, unknown=(*item.unknown, *why))


def _filled(item: Item, who: str, found: Located, asof: float) -> Item:
    size, theirs = item.bytes, total(found.portions) if found.portions else None
    placed = any(portion.replicas for portion in found.portions)
    notes = item.notes
    if size is not None and theirs is not None and size != theirs and not found.estimated:
        notes = (*notes, f"{item.sized} says {size:.0f} bytes, {who} {theirs:.0f}")
    if not item.placed and placed:
        portions = condense(found.portions)
        if size is not None:
            portions = _scaled(portions, size)
        sized = item.sized or (_by(found, who) if theirs is not None else "")
        estimated = item.estimated or (not item.sized and found.estimated)
        return replace(
            item, portions=portions, placed=who, sized=sized, asof=asof, estimated=estimated, notes=notes,
            checksum=item.checksum or found.checksum,
        )  # fmt: skip
    if size is None and theirs is not None and found.files >= item.files:  # of some files only: no size of the whole
        return replace(
            item, portions=_sized(item.portions, found, theirs), sized=_by(found, who), asof=asof, notes=notes,
            estimated=found.estimated, checksum=item.checksum or found.checksum,
        )  # fmt: skip
    return replace(item, notes=notes)


def _by(found: Located, who: str) -> str:
    return found.sized or who


def _sized(stated: Sequence[Portion], found: Located, size: float) -> tuple[Portion, ...]:
    """What lies in one place has its files from whoever has counted them there, and their tapes."""
    if len(stated) != 1 or len(stated[0].replicas) > 1:
        return _scaled(stated, size)
    return condense(
        replace(
            p, replicas=tuple(replace(r, tape=r.tape or any(f.tape for f in p.replicas)) for r in stated[0].replicas)
        )
        for p in found.portions
    )


def _scaled(portions: Sequence[Portion], size: float) -> tuple[Portion, ...]:
    """So that they add up to `size`: by their own sizes. What those leave over is shared by files among the portions
    of which no size is known."""
    own = fsum(portion.bytes or 0.0 for portion in portions)
    open_ = sum(portion.files for portion in portions if portion.bytes is None)
    if open_ and own <= size:
        left = size - own
        return tuple(p if p.bytes is not None else replace(p, bytes=left * p.files / open_) for p in portions)
    if open_ or own == 0:
        files = sum(portion.files for portion in portions)
        return tuple(replace(p, bytes=size * p.files / files) for p in portions)
    return tuple(replace(p, bytes=(p.bytes or 0.0) * size / own) for p in portions)


def condense(portions: Iterable[Portion]) -> tuple[Portion, ...]:
    """Those in the same places as one, the largest first; of a great many, the rest as one portion in the places that
    all of it has. No size is lost: an unknown one makes its portion's unknown."""
    by_places: dict[tuple[Replica, ...], list[Portion]] = defaultdict(list)
    for portion in portions:
        by_places[_places(portion.replicas)].append(portion)
    joined = [_joined(replicas, group) for replicas, group in by_places.items()]
    joined.sort(key=lambda p: (p.bytes is not None, -(p.bytes or 0.0), _order(p.replicas)))
    if len(joined) <= MOST_PORTIONS:
        return tuple(joined)
    folders = [_folders(portion) for portion in joined]
    if folders != joined:  # each file has its own address, and those of one folder lie together
        return condense(folders)
    rest = joined[MOST_PORTIONS - 1 :]
    common = frozenset.intersection(*(frozenset(portion.replicas) for portion in rest))
    return (*joined[: MOST_PORTIONS - 1], _joined(_places(common), rest))


def _folders(portion: Portion) -> Portion:
    """With the folders of its addresses, which storages are declared by."""
    found = (r if r.storage or not r.url else replace(r, url=_folder(r.url)) for r in portion.replicas)
    return replace(portion, replicas=tuple(found))


def _folder(url: str) -> str:
    """`https://x/a/b?c` → `https://x/a/`; itself, where there is no folder."""
    head, _, _ = re.split(r"[?#]", url)[0].rpartition("/")
    return f"{head}/" if "//" in head and not head.endswith("/") else url


def _places(replicas: Iterable[Replica]) -> tuple[Replica, ...]:
    """Each storage once, since files of one portion differ in their URLs; a disk's copy before a tape's."""
    found: dict[tuple[str | None, str | None], Replica] = {}
    for replica in sorted(replicas, key=lambda r: (r.tape, r.storage or "", r.url or "")):
        key = (replica.storage, None if replica.storage else replica.url)
        found.setdefault(key, Replica(replica.storage, None, replica.tape) if replica.storage else replica)
    return tuple(list(found.values())[:MOST_REPLICAS])


def _order(replicas: tuple[Replica, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((replica.storage or "", replica.url or "") for replica in replicas)


def _joined(replicas: tuple[Replica, ...], group: Sequence[Portion]) -> Portion:
    if len(group) == 1:
        return replace(group[0], replicas=group[0].replicas[:MOST_REPLICAS])  # with its addresses
    return Portion(total(group), replicas, sum(portion.files for portion in group))


# ── on the wire ──────────────────────────────────────────────────────────────────────────────────────────────


def learned(found: Sequence[Item]) -> bool:
    """Whether catalogues said more than the request does."""
    return any(item.asof is not None for item in found)


def notes(found: Sequence[Item]) -> tuple[LocatedNote, ...]:
    """For answers, and for brokers below, which then need not ask the same catalogues again."""
    return tuple(LocatedNote.model_validate(written) for written in wire(found))


def wire(found: Sequence[Item], *, bare: bool = False) -> list[dict[str, object]]:
    """The same, ready for JSON. `bare`: addresses without queries and users, which may be somebody's key."""
    return [_wire(item, bare) for item in found]


def _wire(item: Item, bare: bool) -> dict[str, object]:
    asof = None if item.asof is None else format_instant(LocatedNote.instant(item.asof))
    written: dict[str, object | None] = {
        "element": item.path,
        "name": item.name or None,
        "bytes": item.bytes,
        "files": item.files,
        "portions": [_wire_of_portion(portion, bare) for portion in item.portions],
        "sized": item.sized or None,
        "placed": item.placed or None,
        "asof": asof,
        "estimated": item.estimated or None,
        "unknown": list(item.unknown) or None,
        "notes": list(item.notes) or None,
    }
    return _stated_only(written)


def _wire_of_portion(portion: Portion, bare: bool) -> dict[str, object]:
    replicas = [
        _stated_only(
            {"storage": r.storage, "url": addresses.bare(r.url) if bare and r.url else r.url, "tape": r.tape or None}
        )
        for r in portion.replicas
    ]
    return _stated_only({"bytes": portion.bytes, "files": portion.files, "replicas": replicas})


def _stated_only(written: dict[str, object | None]) -> dict[str, object]:
    return {name: value for name, value in written.items() if value is not None}


def _told(item: Item, note: LocatedNote | None) -> Item:
    """With what a broker above has found out, as far as it did."""
    if note is None or not note.portions:
        return item
    portions = tuple(
        Portion(p.bytes if note.sized else None, _replicas_of(p) if note.placed else (), p.files or 1)
        for p in note.portions
    )
    found = tame(Located(portions, estimated=bool(note.estimated), sized=note.sized or ""))
    asof = note.asof.timestamp() if note.asof else None
    told = _filled(item, note.placed or note.sized or REQUEST, found, 0.0)
    return replace(told, asof=asof, told=True) if told != item else item


def _replicas_of(note: PortionNote) -> tuple[Replica, ...]:
    found = (r for r in (note.replicas or ())[:MOST_REPLICAS] if r.storage or r.url)
    return tuple(Replica(r.storage, r.url, bool(r.tape)) for r in found)
