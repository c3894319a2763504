"""What staging brought in for a job: counted by staging, kept in the job's folder, shown with the session. Imports the
standard library alone.

The report outlives the run as long as the state does, so that every later look shows it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from adapters.local.layout import TRANSFERS, read_json, write_json
from broker.domain.addresses import bare

MOST = 64  # entries of a report; of more data, what came from one host the same way is told as one
WRITTEN = 1.0  # seconds between two writings: each of them waits for the disk


class Transfer(NamedTuple):
    """Bytes that came from one URL, or, where `files` is more than one, from one host. `seconds`: from asking for them
    until they were in place. `ended` in epoch seconds. `cached`: they were on this machine already."""

    url: str
    bytes: int
    seconds: float
    ended: float
    cached: bool = False
    files: int = 1


class Report:
    """Of one job. What has been added is in the folder a second later, or when the report is closed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / TRANSFERS
        self._added: list[Transfer] = []
        self._next = 0.0  # monotonic

    def add(self, transfer: Transfer) -> None:
        self._added.append(transfer._replace(url=bare(transfer.url)))
        if time.monotonic() >= self._next:
            self._write()
            self._next = time.monotonic() + WRITTEN

    def close(self) -> None:
        if self._added:
            self._write()

    def _write(self) -> None:
        """On a full disk the report is lost, and not the job."""
        with suppress(OSError):
            write_json(self._path, [transfer._asdict() for transfer in condensed(self._added)])


def read(folder: Path) -> tuple[Transfer, ...]:
    """Empty: nothing was brought in yet, or what stands there is no report; a session is shown without it then."""
    try:
        return tuple(Transfer(**entry) for entry in read_json(folder / TRANSFERS) or ())
    except (ValueError, TypeError):
        return ()


def condensed(transfers: list[Transfer]) -> list[Transfer]:
    """At most MOST of them, the largest where there are more hosts than that."""
    if len(transfers) <= MOST:
        return transfers
    groups: dict[tuple[str, bool], list[Transfer]] = {}
    for transfer in transfers:
        groups.setdefault((_host(transfer.url), transfer.cached), []).append(transfer)
    sums = [_sum(host, cached, group) for (host, cached), group in groups.items()]
    return sorted(sums, key=lambda transfer: -transfer.bytes)[:MOST]


def _sum(host: str, cached: bool, group: Iterable[Transfer]) -> Transfer:
    count, seconds, ended, files = zip(*((t.bytes, t.seconds, t.ended, t.files) for t in group), strict=True)
    return Transfer(host, sum(count), sum(seconds), max(ended), cached, sum(files))


def _host(url: str) -> str:
    return urlsplit(url)._replace(path="/").geturl()
