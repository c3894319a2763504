"""What a federation and a stream of requests are, as files. Imports the broker's models of storages and links.

Each site has two faces: what it says, which rules decide by, and its `truth`, which nobody is told. Bytes, seconds,
kilometres, bytes a second; money is in EUR.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path as File
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.domain.site import Link, StorageElement

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
M = TypeVar("M", bound="Part")


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Truth(Part):
    """What is hidden of a site. With all defaults it keeps its word."""

    waiting: Positive = Field(1.0, description="the wait it promises is the wait it foresees times this")
    noise: Amount = Field(0.0, description="spread (sigma of the logarithm) of each promise of a wait")
    startup: Amount = Field(0.0, description="median seconds from the slot to the start of work, promised by nobody")
    performance: Positive = Field(1.0, description="real speed; 1.0 is the machine that durations are asked for")
    jitter: Amount = Field(0.0, description="spread (sigma of the logarithm) of each run's length")
    price: Positive = Field(1.0, description="what is billed for an hour, over what was quoted")
    prefetch: bool = Field(True, description="stages while the session waits; else in the slot, which waits for it")


class Background(Part):
    """The work of others, which comes as a Poisson process and takes its turn like everybody's."""

    load: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the cores that it keeps busy")
    cores: Count = Field(1, description="of one of its jobs")
    duration: Positive = Field(3600.0, description="mean seconds of one of its jobs; exponential")


class Site(Part):
    name: Name
    country: str = ""
    latitude: Annotated[float, Field(ge=-90, le=90)]
    longitude: Annotated[float, Field(ge=-180, le=180)]
    cores: Count
    price: Positive = Field(description="EUR a core and hour of the time asked for")
    performance: Positive | None = Field(None, description="as it says; null: it does not, and is no site of ours")
    storages: tuple[StorageElement, ...] = Field((), description="as under `sites` in the broker's settings")
    cache: Amount = Field(0.0, description="bytes of staged data that it keeps, the latest used")
    shows_cache: bool = Field(False, description="its offers say what it has already")
    incoming: Positive = Field(2.5e9, description="bytes a second into the site, all transfers together")
    outgoing: Positive = Field(2.5e9, description="bytes a second out of its storages, all transfers together")
    background: Background = Background()
    truth: Truth = Truth()


class Network(Part):
    """What is hidden of the paths between sites. One path carries `bandwidth` up to `reach`, and beyond it falls with
    the square root of the distance; each path has its own luck, drawn by `seed`."""

    bandwidth: Positive = 2.5e9
    reach: Positive = 1500.0
    spread: Amount = Field(0.0, description="sigma of the logarithm of a path's luck")
    seed: int = 0
    surcharge: Positive = Field(1.0, description="what is billed for a GB, over what links say")


class DataSet(Part):
    name: Name
    bytes: Positive
    files: Count = 1
    replicas: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(description="names of storages")


class Federation(Part):
    """`seed`: of what is drawn while it is simulated; the same for every rule."""

    name: Name
    seed: int = 0
    sites: Annotated[tuple[Site, ...], Field(min_length=1)]
    links: tuple[Link, ...] = Field((), description="as in the broker's settings: what the broker is told")
    network: Network = Network()
    data: tuple[DataSet, ...] = ()


class Request(Part):
    at: Amount = Field(description="seconds from the beginning")
    kind: Name = "docker-container-1.0"
    cores: Count
    duration: Positive = Field(description="seconds asked for")
    share: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="of `duration` that it needs; hidden")
    data: tuple[Name, ...] = ()


class Stream(Part):
    """Requests in the order of their arrival. The first `warmup` are placed at random, by every rule alike, and only
    what comes after them is judged."""

    name: Name
    warmup: Annotated[int, Field(ge=0)] = 0
    requests: Annotated[tuple[Request, ...], Field(min_length=1)]


class Unreadable(Exception):
    """A file that is none; its text says what is wrong where."""


def load(model: type[M], file: File) -> M:
    """From JSON or YAML. Raises Unreadable."""
    try:
        raw: Any = yaml.load(file.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
        found = model.model_validate(raw)
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{file}: {error}") from None
    except yaml.YAMLError as error:
        raise Unreadable(f"{file} is neither JSON nor YAML: {error}") from None
    except ValidationError as error:
        raise Unreadable("\n".join(f"{file}: {_place(e['loc'])}: {e['msg']}" for e in error.errors())) from None
    if isinstance(found, Federation):
        _refuse(file, _contradictions(found))
    return found


def check(federation: Federation, stream: Stream) -> None:
    """Raises Unreadable for a stream that this federation cannot serve."""
    known, most = {item.name for item in federation.data}, max(site.cores for site in federation.sites)
    _refuse(File(stream.name), _unserved(stream, known, most))


def save(part: Part, file: File) -> None:
    file.write_text(part.model_dump_json(indent=1, exclude_defaults=True) + "\n", encoding="utf-8")


def _unserved(stream: Stream, known: set[str], most: int) -> Iterable[str]:
    before = 0.0
    for i, request in enumerate(stream.requests):
        for name in sorted(set(request.data) - known):
            yield f'requests[{i}].data: there is no data set "{name}"'
        if request.cores > most:
            yield f"requests[{i}].cores: {request.cores}, and no site has more than {most}"
        if request.at < before:
            yield f"requests[{i}].at: it comes before the one above it"
        before = request.at
    if stream.warmup >= len(stream.requests):
        yield f"warmup: {stream.warmup} of {len(stream.requests)} requests, so that none is judged"


def _contradictions(federation: Federation) -> Iterable[str]:
    yield from _twice("sites", (site.name for site in federation.sites))
    yield from _twice("storages", (item.name for site in federation.sites for item in site.storages))
    yield from _twice("data", (item.name for item in federation.data))
    storages = {item.name for site in federation.sites for item in site.storages}
    for i, item in enumerate(federation.data):
        for name in sorted(set(item.replicas) - storages):
            yield f'data[{i}].replicas: no site has a storage "{name}"'
    for i, site in enumerate(federation.sites):
        if any(storage.tape or storage.recall for storage in site.storages):
            yield f"sites[{i}].storages: tapes are not simulated"
        if site.background.cores > site.cores:
            yield f"sites[{i}].background.cores: {site.background.cores}, and the site has {site.cores}"


def _twice(what: str, names: Iterable[str]) -> Iterable[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            yield f'{what}: "{name}" is there twice'
        seen.add(name)


def _refuse(file: File, faults: Iterable[str]) -> None:
    found = list(faults)
    if found:
        raise Unreadable("\n".join(f"{file}: {fault}" for fault in found))


def _place(parts: tuple[int | str, ...]) -> str:
    """sites[3].truth.waiting"""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".") or "the whole"
