"""What stands against a request wherever it is to run, in the same words. Pure; imports the domain and `laying`.

Each yields a reason for everything that it finds. What is a platform's own (kinds that it runs, accelerators, volumes)
its adapter says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from adapters.common.laying import RESULTS, addresses, inside, is_data
from broker.domain import kinds
from broker.domain.data import AbstractDataResource, S3DataResource, SkaoDataResource
from broker.domain.executables import PythonProgram
from broker.domain.located import Item, items
from broker.domain.outcome import Reason
from broker.domain.request import ExecutionRequest
from broker.domain.resources import SimpleStorageResource, SimpleVolumeMount

# The names of checksum types as they are compared: lower case, without dashes.
CHECKSUMS = ("adler32", "md5", "sha1", "sha256", "sha512")


def checksum_type(name: str) -> str | None:
    """`SHA-256` → `sha256`; None: none that we can compute."""
    plain = name.lower().replace("-", "")
    return plain if plain in CHECKSUMS else None


def numbers(request: ExecutionRequest, most: int) -> Iterator[Reason]:
    """More than `most` of a sort."""
    volumes = (request.compute.volumes if request.compute else None) or ()
    for element, parts in {"data": request.data, "storage": request.storage, "compute.volumes": volumes}.items():
        if len(parts or ()) > most:
            yield Reason(f"{len(parts or ())} are asked", element, nearest=str(most))


def resources(request: ExecutionRequest) -> Iterator[Reason]:
    """Kinds of compute and storage that nobody knows."""
    if request.compute is not None and request.compute.kind != kinds.SIMPLE_COMPUTE:
        yield Reason("an unknown kind of compute resource", "compute.kind", nearest=kinds.short(kinds.SIMPLE_COMPUTE))
    for i, storage in enumerate(request.storage or ()):
        if not isinstance(storage, SimpleStorageResource):
            yield Reason("an unknown kind of storage", f"storage[{i}].kind", nearest=kinds.short(kinds.SIMPLE_STORAGE))


def words(program: PythonProgram) -> Iterator[Reason]:
    """What no process can be given, and a program that is none or two."""
    if (program.source is None) == (program.location is None):
        yield Reason("a program has either a source or a location", "executable.source")
    for name, value in (program.environment or {}).items():
        if not name or "=" in name or "\0" in name + value:
            yield Reason(f"{name!r} cannot be set as a variable", "executable.environment")
    if any("\0" in argument for argument in program.arguments or ()):
        yield Reason("an argument holds a null character", "executable.arguments")


def version(asked: str | None, has: str | None, rule: str) -> Iterator[Reason]:
    """Of Python. `has` None: the operator has not said it; `rule` is where that is to be said."""
    if not asked:
        return
    try:
        fits = has is not None and SpecifierSet(asked).contains(has, prereleases=True)
    except InvalidSpecifier:
        yield Reason(f"{asked!r} is no range of versions", "executable.python", nearest=">=3.11")
        return
    if not fits:
        text = f"Python {asked} is asked" + ("" if has else ", and this site does not say which it has")
        yield Reason(text, "executable.python", rule, has or "no version")


def data(request: ExecutionRequest, unreadable: Callable[[str, str], Iterable[Reason]]) -> Iterator[Reason]:
    """What cannot be staged as one file. `unreadable`: what stands against a URL, told at that element; a datum is
    refused where something stands against each of its URLs."""
    for i, (item, known) in enumerate(zip(request.data or (), items(request), strict=True)):
        element = f"data[{i}]"
        if item.kind not in kinds.DATA:
            nearest = ", ".join(map(kinds.short, kinds.DATA))
            yield Reason(f"{kinds.short(item.kind)} cannot be staged here", f"{element}.kind", nearest=nearest)
            continue
        yield from _single(item, known, element)
        urls = addresses(known)
        if not urls:
            yield Reason("the data names no place to read it from, nor does a catalogue", element)
        reasons = [tuple(unreadable(url, element)) for url in urls]
        if reasons and all(reasons):
            yield reasons[0][0]


def _single(item: AbstractDataResource, known: Item, element: str) -> Iterator[Reason]:
    if isinstance(item, S3DataResource) and (not item.object or item.object.endswith("/")):
        yield Reason("a whole bucket or prefix cannot be staged here", f"{element}.object", nearest="one object")
    if known.files > 1:
        yield Reason(f"a data set of {known.files} files cannot be staged here", element, nearest="a single file")
    yield from stated(item, element)


def stated(item: AbstractDataResource, element: str) -> Iterator[Reason]:
    """Of the SKAO's block: a thing that is no file, a checksum that cannot be computed."""
    block = item.skao if isinstance(item, SkaoDataResource) else None
    if block and block.objecttype not in (None, "FILE"):
        yield Reason(f"a {block.objecttype} cannot be staged here", f"{element}.skao.objecttype", nearest="FILE")
    checksum = block.checksum if block else None
    if checksum and checksum.value and not checksum_type(checksum.type or ""):
        text = f"checksums of type {checksum.type!r} cannot be computed here"
        yield Reason(text, f"{element}.skao.checksum.type", nearest=", ".join(CHECKSUMS))


def volumes(request: ExecutionRequest, ours: frozenset[str]) -> Iterator[Reason]:
    """What cannot be mounted in a program's folder, in which `ours` are taken. Its results alone may be a storage."""
    seen: set[str] = set()
    for i, volume in enumerate((request.compute.volumes if request.compute else None) or ()):
        element = f"compute.volumes[{i}]"
        if not isinstance(volume, SimpleVolumeMount):
            yield Reason("an unknown kind of volume", f"{element}.kind", nearest=kinds.short(kinds.SIMPLE_VOLUME))
            continue
        path = inside(volume.path)
        if path is None or path in ours or path in seen:
            text = f"nothing can be mounted at {volume.path!r}" if path not in seen else f"{volume.path!r} comes twice"
            yield Reason(text, f"{element}.path", nearest="a path of its own, without ..")
        elif path == RESULTS and (is_data(request, volume) or volume.mode != "READWRITE"):
            yield Reason("the program writes its results there", f"{element}.path", nearest="another path")
        seen.add(path or "")
