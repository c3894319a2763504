"""One data resource of a job: from the cache, or from the first of its replicas that has it whole. Imports the standard
library alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from adapters.local.cache import Cache, Entry, describe
from adapters.local.fetching import Fetched, Full, NotModified, StagingError, ask, digest, receive, shown
from adapters.local.layout import Datum
from adapters.local.transfers import Transfer


class _Want(NamedTuple):
    """A data resource from one of its URLs, `most` bytes of it, into `target`."""

    datum: Datum
    url: str
    target: Path
    most: int

    @property
    def sum(self) -> tuple[str, str] | None:
        """The stated checksum, as it is compared."""
        return (self.datum.checksum[0], digits(*self.datum.checksum)) if self.datum.checksum else None


class Bringer:
    """`store`: where data lies, below the job's folder. `roots`: the folders that files may come from."""

    def __init__(self, store: Path, roots: tuple[str, ...], cache: Cache | None = None) -> None:
        self._store, self._roots, self._cache = store, roots, cache

    def bring(self, datum: Datum, most: int) -> Transfer:
        """Raises StagingError, which tells of every replica what is wrong with it."""
        target = self._store / datum.place
        target.parent.mkdir(parents=True, exist_ok=True)
        wants = [_Want(datum, url, target, most) for url in self._order(datum)]
        transfer = (self._by_sum(wants[0]) if wants else None) or self._by_url(wants, datum.name)
        if datum.readonly:
            target.chmod(0o400)
        return transfer

    def _order(self, datum: Datum) -> list[str]:
        """The request's own, but first what is here and need only be confirmed."""
        cache = self._cache
        if cache is None or len(datum.urls) < 2:
            return list(datum.urls)
        return sorted(datum.urls, key=lambda url: cache.about(url) is None)

    def _by_sum(self, want: _Want) -> Transfer | None:
        """Whatever URL it came from: where its checksum is stated, nobody need be asked."""
        entry = self._cache.find_sum(*want.sum) if self._cache and want.sum else None
        if entry is None:
            return None
        with closing(entry):
            return _taken(entry, want, time.monotonic())

    def _by_url(self, wants: Sequence[_Want], name: str) -> Transfer:
        troubles = []
        for want in wants:
            try:
                return self._try(want)
            except StagingError as error:
                troubles.append(str(error))
        raise StagingError(f'The data "{name}" cannot be staged: {" ".join(troubles)}')

    def _try(self, want: _Want) -> Transfer:
        """Once more where the disk was full, and the cache could make way."""
        try:
            return self._bring(want)
        except Full as full:
            want.target.unlink(missing_ok=True)
            if self._cache is None or not self._cache.give_way(full.wanted or want.datum.bytes):
                raise
        return self._bring(want)

    def _bring(self, want: _Want) -> Transfer:
        if self._cache is None or urlsplit(want.url).scheme not in ("http", "https"):
            began = time.monotonic()
            return _transfer(want.url, self._fetched(want), began)
        with self._cache.turn(want.url) as ours:
            return self._in_turn(want, self._cache if ours else None)

    def _in_turn(self, want: _Want, cache: Cache | None) -> Transfer:
        began = time.monotonic()
        found = self._known(want, cache, began) if cache else None
        if isinstance(found, Transfer):
            return found
        fetched = found or self._fetched(want)
        transfer = _transfer(want.url, fetched, began)
        if cache is not None:
            _keep(cache, want, fetched)
        return transfer

    def _known(self, want: _Want, cache: Cache, began: float) -> Transfer | Fetched | None:
        """What is here, where its checksum is stated or its server says that it is what it was; or what the server
        has sent instead. None: it is to be fetched."""
        if (entry := cache.find(want.url)) is None:
            return None
        with closing(entry):
            about = entry.about
            if want.sum is not None:
                transfer = _taken(entry, want, began)
                if transfer is not None:
                    cache.learn(about, *want.sum)
                return transfer
            if about.etag:
                try:
                    return self._fetched(want, {"If-None-Match": about.etag})
                except NotModified as answer:
                    same = about.agrees(answer.final, answer.headers)
            else:
                said = ask(want.url) if about.modified else None
                same = said is not None and said.headers is not None and about.confirmed(said.final, said.headers)
            return _taken(entry, want, began) if same else None

    def _fetched(self, want: _Want, conditions: Mapping[str, str] | None = None) -> Fetched:
        kind = want.sum[0] if want.sum else None
        fetched = receive(want.url, want.target, self._roots, want.most, kind, conditions)
        _compare(want, fetched)
        return fetched


def _taken(entry: Entry, want: _Want, began: float) -> Transfer | None:
    """A copy for this job. None: it is not what is asked for. A stated checksum is computed of what was copied: a disk
    may have changed it since."""
    count = entry.about.bytes
    if want.datum.bytes not in (None, count) or count > want.most:
        return None
    try:
        entry.copy(want.target)
        if want.sum and digest(want.sum[0], want.target) != want.sum[1]:
            return None
    except OSError:
        return None  # a disk that is full says so again when it is fetched
    entry.used()
    return Transfer(want.url, count, time.monotonic() - began, time.time(), cached=True)


def _keep(cache: Cache, want: _Want, fetched: Fetched) -> None:
    if fetched.status != 200 or fetched.headers is None:
        return
    checksums = {want.sum[0]: want.sum[1]} if want.sum else {}
    about = describe(want.url, fetched.final, fetched.bytes, fetched.headers, checksums)
    if about is not None:
        cache.keep(about, want.target)


def _transfer(url: str, fetched: Fetched, began: float) -> Transfer:
    here = urlsplit(url).scheme == "file"
    return Transfer(url, fetched.bytes, time.monotonic() - began, time.time(), cached=here)


def _compare(want: _Want, fetched: Fetched) -> None:
    if want.datum.bytes not in (None, fetched.bytes):
        raise StagingError(f"{shown(want.url)} has {fetched.bytes} bytes, {want.datum.bytes} were stated.")
    if want.datum.checksum and want.sum and fetched.checksum != want.sum[1]:
        kind, stated = want.datum.checksum
        raise StagingError(f"{shown(want.url)} has the {kind} checksum {fetched.checksum}, {stated} was stated.")


def digits(kind: str, stated: str) -> str:
    """Checksums are compared as hexadecimal; adler32 is often written without its leading zeros."""
    plain = stated.strip().lower()
    return plain.zfill(8) if kind == "adler32" else plain
