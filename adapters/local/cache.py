"""What was staged for one job and is kept for the next: files from http and https, by their URL. Imports the standard
library alone.

    <jobs>/cache/          mode 0700; shared by all users of the site, which is why nothing fetched with credentials of
                           anybody may ever be put here
        <key>/data         the bytes; the key is a hash of the URL
        <key>/about.json   what the server said of them (About); its mtime is when they were last used
        .sums/<checksum>   a link to the entry with that checksum, from whichever URL it came
        .locks/<key>       locked by whoever changes the entry, or fetches what is to become it
        .new-<key>         an entry that is being made, .gone-<key> one that is being removed; whoever has the lock may
                           clear what a process that was killed has left of them

An entry is renamed into place whole. Who reads one has it open, so it may be removed meanwhile. Jobs get copies, which
share the disk's blocks where the file system can do that, and never hard links: a program runs under the account that
owns the cache, and could give itself the right to write to the one file behind both names.

Nothing in here is an error of a job: what cannot be kept or read is fetched.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from adapters.local.layout import Shelf

CACHE = "cache"  # in the folder of all jobs

# Of these checksums nobody can make a second file that has the same; they alone stand for a file from elsewhere.
STRONG = {"sha256": 64, "sha512": 128}
MOST_FILES = 100_000
STEP = 20  # this part of the cache is added, at most, before it is counted anew; and as much is cleared at once
SPARED = 20  # this part of the disk is left free
SETTLED = 60.0  # seconds after a change from which Last-Modified tells one version from the next (RFC 9110, 8.8.2.2)

_DATA, _ABOUT, _SUMS, _LOCKS, _NEW, _GONE = "data", "about.json", ".sums", ".locks", ".new-", ".gone-"
_FICLONE = 0x40049409  # ioctl of Linux: share the blocks of another file
_KEY = re.compile(r"[0-9a-f]{64}")  # as `_key` makes them
_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]{1,1000}"')


class About(NamedTuple):
    """What was kept, and what the server said of it: `final` is where the URL led to. `etag`: a strong one; `modified`:
    Last-Modified, where it tells versions apart; empty: there was none. `checksums`: those that were computed."""

    url: str
    final: str
    bytes: int
    etag: str = ""
    modified: str = ""
    checksums: dict[str, str] = {}  # noqa: RUF012  never changed

    @property
    def public(self) -> bool:
        """Whether its URL holds nothing that could be a permission to read it, so that others may have it too."""
        return not urlsplit(self.url).query and "@" not in urlsplit(self.url).netloc

    def agrees(self, final: str, headers: Message) -> bool:
        """Whether what a server says of a file that it calls unchanged contradicts nothing that it said before."""
        length, etag, modified = headers.get("Content-Length"), headers.get("ETag"), headers.get("Last-Modified")
        return (
            final == self.final
            and length in (None, "0", str(self.bytes))  # 0: as some write for an answer without a body
            and (not etag or not self.etag or etag == self.etag)
            and (not modified or not self.modified or modified == self.modified)
        )

    def confirmed(self, final: str, headers: Message) -> bool:
        """Whether a HEAD shows the same file, where there is no ETag to ask by."""
        length, modified = headers.get("Content-Length"), headers.get("Last-Modified")
        return final == self.final and length == str(self.bytes) and bool(self.modified) and modified == self.modified


def describe(url: str, final: str, count: int, headers: Message, checksums: dict[str, str]) -> About | None:
    """None: it may not be kept, or nothing would tell it from a later version."""
    if {"no-store", "private"} & _words(headers, "Cache-Control") or "*" in _words(headers, "Vary"):
        return None
    if not checksums and not _ends(headers):
        return None
    about = About(url, final, count, _etag(headers), _modified(headers), checksums)
    return about if about.etag or about.modified or about.checksums else None


def _words(headers: Message, name: str) -> set[str]:
    """Of all headers of that name, without what each is set to."""
    listed = ",".join(str(value) for value in headers.get_all(name) or ())
    return {word.strip().partition("=")[0].strip().lower() for word in listed.split(",")}


def _ends(headers: Message) -> bool:
    """Whether the answer said where it ends. Of one that ended with its connection nobody knows whether it was whole,
    and its ETag would confirm for ever what was cut off."""
    return headers.get("Content-Length") is not None or "chunked" in _words(headers, "Transfer-Encoding")


def _etag(headers: Message) -> str:
    found = headers.get_all("ETag") or []
    return found[0] if len(found) == 1 and _ETAG.fullmatch(found[0]) else ""


def _modified(headers: Message) -> str:
    """Only beside a length, and when it was long enough ago that a further change would have changed it."""
    modified, now = headers.get("Last-Modified"), headers.get("Date")
    if not modified or not now or headers.get("Content-Length") is None:
        return ""
    try:
        age = (parsedate_to_datetime(now) - parsedate_to_datetime(modified)).total_seconds()
    except (ValueError, TypeError):
        return ""
    return modified if age >= SETTLED else ""


class Entry:
    """An entry that is open: its bytes stay what they are until it is closed, whatever becomes of its name."""

    def __init__(self, place: Path, about: About, data: int) -> None:
        self._place, self.about, self._data = place, about, data

    @classmethod
    def open(cls, place: Path) -> Self | None:
        """None: there is none, or none that is whole."""
        try:
            folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            with os.fdopen(os.open(_ABOUT, os.O_RDONLY, dir_fd=folder)) as file:
                about = About(**json.load(file))
            data = os.open(_DATA, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
        except (OSError, ValueError, TypeError):
            return None
        finally:
            os.close(folder)
        if os.fstat(data).st_size == about.bytes:
            return cls(place, about, data)
        os.close(data)
        return None

    def copy(self, target: Path) -> None:
        """Raises OSError; then `target` may hold a part."""
        copy(self._data, target)

    def used(self) -> None:
        with suppress(OSError):
            os.utime(self._place / _ABOUT)

    def close(self) -> None:
        os.close(self._data)


def copy(source: int, target: Path) -> None:
    """Of an open file, with shared blocks where the file system can do that."""
    with target.open("wb", buffering=0) as file:
        try:
            fcntl.ioctl(file.fileno(), _FICLONE, source)
        except OSError:
            _copy_bytes(source, file.fileno())


def _copy_bytes(source: int, target: int) -> None:
    left, done, within = os.fstat(source).st_size, 0, True
    while left > 0:
        try:
            count = (
                os.copy_file_range(source, target, left, done) if within else os.sendfile(target, source, done, left)
            )
        except OSError as error:
            if not within or error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                raise
            within = False
            continue
        if not count:
            raise OSError(errno.EIO, "the file became shorter")
        left, done = left - count, done + count


class Cache:
    """All of it may be called in many processes at once."""

    def __init__(self, jobs: Path, shelf: Shelf) -> None:
        self._folder, self._most, self._keep = jobs / CACHE, shelf.bytes, shelf.keep
        self._counted: int | None = None  # bytes at the last look, with what we have added since
        self._added = 0

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, url: str) -> Entry | None:
        """To be closed by the caller."""
        entry = Entry.open(self._folder / _key(url))
        if entry is None or entry.about.url == url:
            return entry
        entry.close()
        return None

    def find_sum(self, kind: str, value: str) -> Entry | None:
        """From whichever URL it came, where the checksum leaves no doubt. To be closed by the caller."""
        if (link := self._sum(kind, value)) is None:
            return None
        try:
            entry = Entry.open(self._folder / Path(os.readlink(link)).name)
        except OSError:
            return None
        if entry is None or entry.about.checksums.get(kind) == value:
            return entry
        entry.close()
        return None

    def about(self, url: str) -> About | None:
        if (entry := self.find(url)) is None:
            return None
        with closing(entry):
            return entry.about

    def about_sum(self, kind: str, value: str) -> About | None:
        if (entry := self.find_sum(kind, value)) is None:
            return None
        with closing(entry):
            return entry.about

    def _sum(self, kind: str, value: str) -> Path | None:
        whole = re.fullmatch(r"[0-9a-f]+", value) and len(value) == STRONG.get(kind)
        return self._folder / _SUMS / f"{kind}-{value}" if whole else None

    # ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def turn(self, url: str) -> Iterator[bool]:
        """For one process at a time, so that two that want a file do not both fetch it. Waits; who waits is bounded by
        the time that staging may take. False: the lock cannot be had, and nothing may be kept."""
        try:
            lock = self._lock(_key(url), wait=True)
        except OSError:
            lock = None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                self._unlock(_key(url), lock)

    def keep(self, about: About, source: Path) -> None:
        """Take a copy of `source`. To be called in the turn of its URL."""
        room = self._room(about.bytes)
        if not room:
            return
        key = _key(about.url)
        new = self._folder / f"{_NEW}{key}"
        try:
            self._clear(key)
            new.mkdir(mode=0o700)
            _fill(new, about, source)
            self._replace(key, new)
            self._link(key, about)
        except OSError:
            with suppress(OSError):
                self._clear(key)
            return
        self._added += about.bytes

    def learn(self, about: About, kind: str, value: str) -> None:
        """What the checksum of that kind is of what is kept. To be called in the turn of its URL."""
        if kind in about.checksums:
            return
        about = about._replace(checksums={**about.checksums, kind: value})
        with suppress(OSError):
            _write_about(self._folder / _key(about.url), about)
            self._link(_key(about.url), about)

    def close(self) -> None:
        if self._added:
            self.tidy()

    def _room(self, size: int) -> bool:
        if size > self._most or not self._spares(size):
            return False
        stale = self._counted is None or self._added + size > self._most // STEP
        if stale or (self._counted or 0) + self._added + size > self._most:
            self._counted, self._added = self.tidy(incoming=size), 0
        return self._counted is not None and self._counted + size <= self._most

    def _spares(self, size: int) -> bool:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize - size >= disk.f_blocks * disk.f_frsize // SPARED

    def _replace(self, key: str, new: Path) -> None:
        place, gone = self._folder / key, self._folder / f"{_GONE}{key}"
        with suppress(FileNotFoundError):
            place.rename(gone)
        new.rename(place)
        shutil.rmtree(gone, ignore_errors=True)

    def _link(self, key: str, about: About) -> None:
        for kind, value in about.checksums.items():
            link = self._sum(kind, value) if about.public else None
            if link is not None:
                new = link.with_name(f"{_NEW}{os.getpid()}")
                new.unlink(missing_ok=True)
                new.symlink_to(f"../{key}")
                new.replace(link)

    def _clear(self, key: str) -> None:
        """What somebody left who was killed."""
        for prefix in (_NEW, _GONE):
            if (left := self._folder / f"{prefix}{key}").exists():
                shutil.rmtree(left)

    # ── making room ──────────────────────────────────────────────────────────────────────────────────────────

    def tidy(self, now: float | None = None, incoming: int = 0) -> int | None:
        """Remove what was not used for too long, and, where `incoming` bytes have no room, what was not used for
        longest. What somebody is about to change stays. Returns the bytes that are left; None: it cannot be done."""
        if not incoming and not self._folder.exists():
            return 0
        try:
            with self._alone():
                entries = self._entries()
                oldest = (time.time() if now is None else now) - self._keep
                left = [entry for entry in entries if entry[0] >= oldest or not self._remove(entry[2])]
                self._tidy_links()
                return self._shrink(left, incoming)
        except OSError:
            return None

    def give_way(self, wanted: int | None) -> bool:
        """The disk is full: clear until `wanted` bytes are free, or all, where that is not known. False: nothing was
        cleared."""
        cleared = False
        with suppress(OSError), self._alone():
            if self._folder.stat().st_dev != self._folder.parent.stat().st_dev:
                return False  # it has a disk of its own, which is no room for jobs
            for _, _, key in sorted(self._entries()):
                disk = os.statvfs(self._folder)
                if wanted is not None and disk.f_bavail * disk.f_frsize >= wanted:
                    break
                cleared |= self._remove(key)
        self._counted = None
        return cleared

    @contextmanager
    def _alone(self) -> Iterator[None]:
        for name in ("", _LOCKS, _SUMS):
            (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / ".tidy", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _entries(self) -> list[tuple[float, int, str]]:
        """When each was last used, its bytes, its key. What was killed while it was made or removed is cleared."""
        found = []
        for name in os.listdir(self._folder):
            key = name.removeprefix(_NEW).removeprefix(_GONE)
            if not _KEY.fullmatch(key):
                continue  # ours otherwise, or nobody's: a disk of its own has a folder `lost+found`
            if key != name:
                self._remove(key, whole=False)
                continue
            try:
                place = self._folder / name
                found.append(((place / _ABOUT).stat().st_mtime, (place / _DATA).stat().st_size, name))
            except OSError:  # gone meanwhile, or somebody meddled
                self._remove(name)
        return found

    def _shrink(self, entries: list[tuple[float, int, str]], incoming: int) -> int:
        total, count = sum(size for _, size, _ in entries), len(entries)
        if total + incoming <= self._most and count < MOST_FILES:
            return total
        most, files = self._most - max(incoming, self._most // STEP), MOST_FILES - MOST_FILES // STEP
        for _, size, key in sorted(entries):
            if total <= most and count <= files:
                break
            if self._remove(key):
                total, count = total - size, count - 1
        return total

    def _remove(self, key: str, *, whole: bool = True) -> bool:
        """The entry, or only what was left of it half made. False: somebody is about to change it, or it cannot be."""
        try:
            lock = self._lock(key, wait=False)
            if lock is None:
                return False
            try:
                self._clear(key)
                if whole:
                    with suppress(FileNotFoundError):
                        (self._folder / key).rename(self._folder / f"{_GONE}{key}")
                    self._clear(key)
            finally:
                self._unlock(key, lock)
        except OSError:
            return False
        return True

    def _tidy_links(self) -> None:
        """Links to nothing, and locks that nobody holds, whose holders were killed."""
        for link in (self._folder / _SUMS).iterdir():
            if not link.exists():
                link.unlink(missing_ok=True)
        for name in os.listdir(self._folder / _LOCKS):
            lock = self._lock(name, wait=False)
            if lock is not None:
                self._unlock(name, lock)

    # ── locks ────────────────────────────────────────────────────────────────────────────────────────────────

    def _lock(self, key: str, *, wait: bool) -> int | None:
        """The kernel gives it back when its holder dies. None: somebody else has it."""
        folder = self._folder / _LOCKS
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(folder / key, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                if _is(folder / key, descriptor):
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # its last holder has removed it meanwhile

    def _unlock(self, key: str, descriptor: int) -> None:
        """The file goes first: who has waited for it sees that, and begins anew."""
        with suppress(OSError):
            (self._folder / _LOCKS / key).unlink()
        os.close(descriptor)


def _fill(new: Path, about: About, source: Path) -> None:
    with source.open("rb") as file:
        copy(file.fileno(), new / _DATA)
    with (new / _DATA).open("rb") as file:
        os.fsync(file.fileno())
    (new / _DATA).chmod(0o400)
    if (new / _DATA).stat().st_size != about.bytes:
        raise OSError(errno.EIO, "it is not what was fetched")
    _write_about(new, about)


def _write_about(place: Path, about: About) -> None:
    """Does not wait for the disk: what a crash makes of it is no JSON, and then there is no entry."""
    new = place / f"{_NEW}{_ABOUT}"
    new.write_text(json.dumps(about._asdict()))
    new.replace(place / _ABOUT)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _key(url: str) -> str:
    return hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()
