"""What the local platform keeps of staged data: real files, and a real server on this machine that counts what it is
asked and changes, forgets and lies as it is told."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from email.message import Message
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from adapters.local import cache as cache_module
from adapters.local import layout
from adapters.local.bringing import Bringer
from adapters.local.cache import CACHE, About, Cache, copy, describe
from adapters.local.fetching import Full, StagingError, receive
from adapters.local.holding import held
from adapters.local.layout import Datum, Shelf
from adapters.local.transfers import Transfer
from broker.domain import kinds
from tests.adapters.test_local_platform import a_job, a_platform, a_supervisor, ended, said, seen, soon, until

CUBE = bytes(range(256)) * 400
OTHER = CUBE[::-1]
LONG_AGO = formatdate(time.time() - 86400, usegmt=True)
MIB = 1024**2


class Server:
    """`files`: path → body and headers. `asked`: method, path and status of all that was answered."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[bytes, dict[str, str]]] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.told: list[str | None] = []  # what each call said to proxies
        self.go_on = asyncio.Event()
        self.lies: dict[str, str] | None = None  # headers of a 304 that answers every condition
        self.shameless = False  # also where there is no condition
        self.deaf = False  # to conditions
        self.base = ""

    def put(self, path: str, body: bytes, **headers: str) -> str:
        self.files[path] = body, {name.replace("_", "-"): value for name, value in headers.items()}
        return f"{self.base}{path}"

    def count(self, method: str = "GET", status: int = 200) -> int:
        return sum(one[0] == method and one[2] == status for one in self.asked)

    async def answer(self, asked: web.Request) -> web.StreamResponse:
        answer = await self._answer(asked)
        self.asked.append((asked.method, asked.path, answer.status))
        self.told.append(asked.headers.get("Cache-Control"))
        return answer

    async def _answer(self, asked: web.Request) -> web.StreamResponse:
        if asked.path not in self.files:
            return web.Response(status=404)
        body, headers = self.files[asked.path]
        if "Location" in headers:
            return web.Response(status=302, headers=headers)
        wanted = asked.headers.get("If-None-Match")
        if self.lies is not None and (wanted or self.shameless):
            return web.Response(status=304, headers=self.lies)
        if wanted and not self.deaf and wanted == headers.get("ETag"):
            return web.Response(status=304, headers={"ETag": wanted})
        if "slow" not in asked.query:
            return web.Response(body=body, headers=headers, status=int(headers.get("X-Status", "200")))
        answer = web.StreamResponse(headers={**headers, "Content-Length": str(len(body))})
        await answer.prepare(asked)
        await answer.write(body[: len(body) // 2])
        await self.go_on.wait()
        await answer.write(body[len(body) // 2 :])
        return answer


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.add_routes([web.get("/{name:.*}", server.answer, allow_head=True)])
    async with TestServer(app) as running:
        server.base = str(running.make_url("")).rstrip("/")
        yield server
        server.go_on.set()


class Jobs:
    """Jobs that stage one data resource each, with a cache that they share."""

    def __init__(self, folder: Path, most: int = 100 * MIB, keep: float = 3600.0) -> None:
        self.folder, self.shelf, self.number = folder, Shelf(most, keep), 0

    @property
    def cache(self) -> Cache:
        return Cache(self.folder, self.shelf)

    def stage(self, datum: Datum) -> tuple[bytes, Transfer]:
        """As a process of its own would."""
        self.number += 1
        store = self.folder / f"job-{self.number}"
        with closing(self.cache) as cache:
            transfer = Bringer(store, (), cache).bring(datum, 100 * MIB)
        staged = store / datum.place
        assert bool(staged.stat().st_mode & 0o222) is not datum.readonly
        return staged.read_bytes(), transfer

    async def get(self, *urls: str, **more: Any) -> tuple[bytes, bool]:
        body, transfer = await asyncio.to_thread(self.stage, Datum("cube", urls, "data/cube", **more))
        assert transfer.bytes == len(body)
        return body, transfer.cached

    @property
    def kept(self) -> list[Path]:
        place = self.folder / CACHE
        return sorted(place.glob("*/data")) if place.exists() else []

    def leftovers(self) -> list[str]:
        place = self.folder / CACHE
        return [*(p.name for p in place.glob(".new-*")), *(p.name for p in place.glob(".gone-*")),
                *os.listdir(place / ".locks")]  # fmt: skip


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "jobs")


def sha256(body: bytes) -> tuple[str, str]:
    return "sha256", hashlib.sha256(body).hexdigest()


def md5(body: bytes) -> tuple[str, str]:
    return "md5", hashlib.md5(body).hexdigest()  # noqa: S324  a checksum in use in the field


# ── a file is fetched once ───────────────────────────────────────────────────────────────────────────────────────


async def test_what_has_an_etag_is_confirmed_and_not_sent_again(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    assert [await jobs.get(url) for _ in range(3)] == [(CUBE, False), (CUBE, True), (CUBE, True)]
    assert server.asked == [("GET", "/cube", 200), ("GET", "/cube", 304), ("GET", "/cube", 304)]
    assert jobs.leftovers() == []


async def test_what_has_a_date_and_a_length_is_confirmed_by_them(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, Last_Modified=LONG_AGO)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    assert server.asked == [("GET", "/cube", 200), ("HEAD", "/cube", 200)]


@pytest.mark.parametrize("checksum", [sha256, md5])
async def test_where_the_checksum_is_stated_nobody_is_asked(
    jobs: Jobs, server: Server, checksum: Callable[[bytes], tuple[str, str]]
) -> None:
    url = server.put("/cube", CUBE)
    stated = checksum(CUBE)[0], checksum(CUBE)[1].upper()
    assert [await jobs.get(url, checksum=stated) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    assert server.asked == [("GET", "/cube", 200)]


async def test_another_checksum_is_computed_of_what_is_here_and_remembered(jobs: Jobs, server: Server) -> None:
    url, other = server.put("/cube", CUBE, ETag='"v1"'), server.put("/other", CUBE)
    await jobs.get(url)
    assert await jobs.get(url, checksum=sha256(CUBE)) == (CUBE, True)
    assert await jobs.get(other, checksum=sha256(CUBE)) == (CUBE, True)
    assert server.asked == [("GET", "/cube", 200)]


async def test_a_copy_comes_from_any_url_by_a_checksum_that_leaves_no_doubt(jobs: Jobs, server: Server) -> None:
    one, two = server.put("/one", CUBE), server.put("/two", CUBE)
    await jobs.get(one, checksum=sha256(CUBE))
    assert await jobs.get(two, checksum=sha256(CUBE)) == (CUBE, True)
    assert server.count() == 1


async def test_a_checksum_that_can_be_forged_stands_for_its_own_url_alone(jobs: Jobs, server: Server) -> None:
    one, two = server.put("/one", CUBE), server.put("/two", CUBE)
    await jobs.get(one, checksum=md5(CUBE))
    assert await jobs.get(two, checksum=md5(CUBE)) == (CUBE, False)


@pytest.mark.parametrize("secret", ["?token=geheim"])
async def test_what_a_secret_url_gave_is_given_to_who_has_the_url(jobs: Jobs, server: Server, secret: str) -> None:
    one, two = server.put("/one", CUBE) + secret, server.put("/two", CUBE)
    await jobs.get(one, checksum=sha256(CUBE))
    del server.files["/two"]
    with pytest.raises(StagingError, match="404"):
        await jobs.get(two, checksum=sha256(CUBE))
    assert await jobs.get(one, checksum=sha256(CUBE)) == (CUBE, True)


async def test_the_replica_that_is_here_goes_first(jobs: Jobs, server: Server) -> None:
    near, far = server.put("/near", CUBE, ETag='"1"'), server.put("/far", CUBE, ETag='"1"')
    await jobs.get(far)
    assert await jobs.get(near, far) == (CUBE, True)
    assert server.asked[1:] == [("GET", "/far", 304)]


async def test_what_the_cache_has_no_room_for_is_fetched_each_time(tmp_path: Path, server: Server) -> None:
    jobs = Jobs(tmp_path, most=len(CUBE) - 1)
    small = server.put("/small", b"1234", ETag='"v1"')
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(small)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False)] * 2
    assert [path.read_bytes() for path in jobs.kept] == [b"1234"]


async def test_what_is_here_is_no_way_round_the_room_of_a_job(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url, checksum=sha256(CUBE))
    for stated in (None, sha256(CUBE)):
        bringer = Bringer(jobs.folder / "small", (), jobs.cache)
        with pytest.raises(StagingError, match=f"larger than {len(CUBE) - 1} bytes"):
            await asyncio.to_thread(bringer.bring, Datum("cube", (url,), "data/cube", stated), len(CUBE) - 1)


async def test_what_is_announced_as_too_large_is_not_waited_for(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE) + "?slow"
    bringer = Bringer(jobs.folder / "small", (), None)
    async with asyncio.timeout(30):
        with pytest.raises(StagingError, match="larger than"):
            await asyncio.to_thread(bringer.bring, Datum("cube", (url,), "data/cube"), len(CUBE) - 1)


# ── never stale ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_has_changed_is_fetched_anew(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    server.put("/cube", OTHER, ETag='"v2"')
    assert [await jobs.get(url) for _ in range(2)] == [(OTHER, False), (OTHER, True)]
    assert len(jobs.kept) == 1


@pytest.mark.parametrize(
    ("body", "changed"),
    [(OTHER, formatdate(time.time() - 9999, usegmt=True)), (CUBE + b"x", LONG_AGO)],
    ids=["date", "length"],  # not made of the dates: each worker would have its own
)
async def test_another_date_or_length_is_another_file(jobs: Jobs, server: Server, body: bytes, changed: str) -> None:
    url = server.put("/cube", CUBE, Last_Modified=LONG_AGO)
    await jobs.get(url)
    server.put("/cube", body, Last_Modified=changed)
    assert await jobs.get(url) == (body, False)


async def test_a_file_that_is_gone_is_not_given_from_here(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    del server.files["/cube"]
    with pytest.raises(StagingError, match="404"):
        await jobs.get(url)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"ETag": 'W/"weak"'},
        {"ETag": "no quotes"},
        {"ETag": '""'},
        {"Last_Modified": "yesterday"},
        {"Last_Modified": "now"},
        {"ETag": '"v1"', "Cache_Control": "max-age=60, No-Store"},
        {"ETag": '"v1"', "Cache_Control": 'private="x"'},
        {"ETag": '"v1"', "Vary": "*"},
        {"ETag": '"v1"', "X_Status": "203"},
    ],
)
async def test_what_cannot_or_may_not_be_kept_is_not(jobs: Jobs, server: Server, headers: dict[str, str]) -> None:
    if headers.get("Last_Modified") == "now":
        headers = {"Last_Modified": formatdate(time.time(), usegmt=True)}
    url = server.put("/cube", CUBE, **headers)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False)] * 2
    assert jobs.kept == []
    assert {one[0] for one in server.asked} == {"GET"}


def test_of_two_etags_none_is_believed() -> None:
    headers = Message()
    headers["ETag"], headers["Etag"] = '"a"', '"b"'
    assert describe("http://x/", "http://x/", 1, headers, {}) is None


@pytest.mark.parametrize(
    "twice", [("Cache-Control", "max-age=9", "private"), ("Vary", "Accept", "*"), ("Vary", "A, *", "")]
)
def test_what_is_said_in_several_headers_is_heard(twice: tuple[str, str, str]) -> None:
    headers = Message()
    headers["ETag"], headers["Content-Length"] = '"a"', "1"
    assert describe("http://x/", "http://x/", 1, headers, {}) is not None
    for value in twice[1:]:
        headers[twice[0]] = value
    assert describe("http://x/", "http://x/", 1, headers, {}) is None


async def test_what_may_have_broken_off_is_kept_under_a_checksum_alone(jobs: Jobs) -> None:
    """A server that says no length and closes may have died on the way. The ETag would confirm the half for ever."""
    whole = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = b"304 Not Modified" if b'If-None-Match: "v1"' in head else b"200 OK"
        writer.write(b'HTTP/1.1 %s\r\nETag: "v1"\r\nConnection: close\r\n\r\n' % status)
        writer.write(b"" if b"304" in status else CUBE if whole.is_set() else CUBE[:100])
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/cube"
        assert await jobs.get(url) == (CUBE[:100], False)
        whole.set()
        assert await jobs.get(url) == (CUBE, False)
        assert jobs.kept == []
        assert [await jobs.get(url, checksum=sha256(CUBE)) for _ in range(2)] == [(CUBE, False), (CUBE, True)]


async def test_what_a_proxy_remembers_is_no_word_of_the_server(jobs: Jobs, server: Server) -> None:
    for url in (server.put("/etag", CUBE, ETag='"v1"'), server.put("/date", CUBE, Last_Modified=LONG_AGO)):
        assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    assert server.told == [None, "no-cache", None, "no-cache"]


async def test_what_only_a_checksum_tells_apart_is_fetched_by_who_states_none(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE)
    await jobs.get(url, checksum=sha256(CUBE))
    assert await jobs.get(url) == (CUBE, False)
    assert server.asked == [("GET", "/cube", 200)] * 2


async def test_an_unchanged_that_nobody_asked_for_is_an_error(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    server.lies, server.shameless = {"ETag": '"v2"'}, True
    with pytest.raises(StagingError, match="304"):
        await jobs.get(url)


@pytest.mark.parametrize("lie", [{"Last-Modified": LONG_AGO}, {"ETag": '"v3"'}], ids=lambda lie: next(iter(lie)))
async def test_an_unchanged_that_contradicts_itself_is_not_believed(
    jobs: Jobs, server: Server, lie: dict[str, str]
) -> None:
    changed = formatdate(time.time() - 9999, usegmt=True)
    url = server.put("/cube", CUBE, ETag='"v1"', Last_Modified=changed)
    await jobs.get(url)
    server.put("/cube", OTHER, ETag='"v1"')
    server.lies = lie
    assert await jobs.get(url) == (OTHER, False)
    assert server.asked[1:] == [("GET", "/cube", 304), ("GET", "/cube", 200)]


@pytest.mark.parametrize(("length", "agrees"), [("7", False), ("10", True), ("0", True), (None, True)])
def test_an_unchanged_of_another_length_is_not_believed(length: str | None, agrees: bool) -> None:
    headers = Message()
    if length is not None:
        headers["Content-Length"] = length
    assert About("http://x/", "http://x/", 10, '"v1"').agrees("http://x/", headers) is agrees


async def test_what_is_sent_under_an_old_etag_is_taken_as_it_is_sent(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    server.put("/cube", OTHER, ETag='"v1"')
    server.deaf = True
    assert await jobs.get(url) == (OTHER, False)
    server.deaf = False
    assert await jobs.get(url) == (OTHER, True)


async def test_an_etag_counts_for_the_place_that_gave_it(jobs: Jobs, server: Server) -> None:
    one, two = server.put("/one", CUBE, ETag='"1"'), server.put("/two", OTHER, ETag='"1"')
    url = server.put("/latest", b"", Location=one)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    server.put("/latest", b"", Location=two)
    assert await jobs.get(url) == (OTHER, False)


async def test_another_stated_size_or_checksum_is_another_file(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    server.lies = {}
    server.put("/cube", OTHER + b"x", ETag='"v2"')
    assert await jobs.get(url, checksum=sha256(OTHER + b"x")) == (OTHER + b"x", False)
    server.put("/cube", OTHER, ETag='"v3"')
    assert await jobs.get(url, bytes=len(OTHER)) == (OTHER, False)


async def test_a_wrong_checksum_is_told_and_nothing_is_kept_under_it(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    for _ in range(2):
        with pytest.raises(StagingError, match="was stated"):
            await jobs.get(url, checksum=sha256(OTHER))
    assert jobs.kept == []
    assert await jobs.get(url) == (CUBE, False)
    assert await jobs.get(url) == (CUBE, True)


@pytest.mark.parametrize("value", ["../../../etc", "x" * 64, "", "ab"])
async def test_what_is_no_checksum_leads_nowhere(jobs: Jobs, server: Server, value: str) -> None:
    assert jobs.cache.find_sum("sha256", value) is None
    url = server.put("/cube", CUBE)
    with pytest.raises(StagingError, match="was stated"):
        await jobs.get(url, checksum=("sha256", value))


# ── what a disk does ─────────────────────────────────────────────────────────────────────────────────────────────


def spoil(path: Path, body: bytes) -> None:
    path.chmod(0o600)
    path.write_bytes(body)


async def test_what_is_broken_here_is_fetched_anew(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url, checksum=sha256(CUBE))
    spoil(jobs.kept[0], OTHER)
    assert await jobs.get(url, checksum=sha256(CUBE)) == (CUBE, False)
    assert await jobs.get(url, checksum=sha256(CUBE)) == (CUBE, True)
    spoil(jobs.kept[0], CUBE[:-1])
    assert await jobs.get(url) == (CUBE, False)
    (jobs.kept[0].parent / "about.json").write_text("{")
    assert await jobs.get(url) == (CUBE, False)
    assert await jobs.get(url) == (CUBE, True)


async def test_a_cache_that_cannot_be_is_no_trouble_of_the_job(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    jobs.folder.mkdir()
    (jobs.folder / CACHE).write_text("in the way")
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False)] * 2


async def test_where_the_disk_has_no_room_to_spare_nothing_is_kept(
    jobs: Jobs, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nearly_full(_: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1000, 51, 51, 0, 0, 0, 0, 255))

    monkeypatch.setattr(cache_module.os, "statvfs", nearly_full)
    url = server.put("/cube", CUBE, ETag='"v1"')
    assert await jobs.get(url) == (CUBE, False)
    assert jobs.kept == []
    assert await jobs.get(server.put("/small", b"1234", ETag='"v1"')) == (b"1234", False)
    assert [path.read_bytes() for path in jobs.kept] == [b"1234"]


async def test_what_is_none_of_ours_in_its_folder_stays_and_is_in_nobodys_way(jobs: Jobs, server: Server) -> None:
    """As in a disk of its own, whose folder `lost+found` is not even readable."""
    place = jobs.folder / CACHE
    (place / "lost+found").mkdir(parents=True)
    (place / "README").write_text("a disk of its own")
    url = server.put("/cube", CUBE, ETag='"v1"')
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    assert jobs.cache.tidy(time.time() + 7200.0) == 0
    assert jobs.kept == []
    assert (place / "lost+found").is_dir()
    assert (place / "README").read_text() == "a disk of its own"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    tried = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], check=False, capture_output=True
    )
    if tried.returncode:
        pytest.skip(f"no disk can be mounted here: {tried.stderr.decode(errors='replace').strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


async def test_when_the_disk_is_full_the_cache_makes_way_for_a_job(small_disk: Path, server: Server) -> None:
    jobs = Jobs(small_disk)
    old = server.put("/old", random.Random(1).randbytes(1_500_000), ETag='"v1"')
    await jobs.get(old)
    assert len(jobs.kept) == 1
    assert await jobs.get(server.put("/large", CUBE * 20)) == (CUBE * 20, False)  # 2 MB, where there was 1 MB
    assert jobs.kept == []
    with pytest.raises(StagingError, match="the disk is full"):
        await jobs.get(server.put("/again", CUBE * 20))


async def test_the_cache_makes_no_more_way_than_is_needed(small_disk: Path, server: Server) -> None:
    jobs = Jobs(small_disk)
    urls = [server.put(f"/{i}", random.Random(i).randbytes(700_000), ETag='"v1"') for i in range(2)]
    for url in urls:
        await jobs.get(url)
    assert len(jobs.kept) == 2
    await jobs.get(server.put("/large", random.Random(7).randbytes(1_900_000)))  # 1.4 MB were free
    assert [jobs.cache.about(url) is not None for url in urls] == [False, True]


async def test_full_is_said_with_what_had_no_room(small_disk: Path, server: Server) -> None:
    url = server.put("/large", CUBE * 60)
    with pytest.raises(Full) as caught:
        await asyncio.to_thread(receive, url, small_disk / "target", (), 100 * MIB)
    assert caught.value.wanted == len(CUBE) * 60


async def test_a_cache_on_a_disk_of_its_own_makes_no_way_where_that_helps_nobody(
    small_disk: Path, tmp_path: Path, server: Server
) -> None:
    (tmp_path / "disk" / "inner").mkdir()
    jobs = Jobs(tmp_path)
    (tmp_path / CACHE).symlink_to(small_disk / "inner")
    await jobs.get(server.put("/old", CUBE, ETag='"v1"'))
    assert not jobs.cache.give_way(None)
    assert len(list((small_disk / "inner").glob("*/data"))) == 1


def test_a_copy_goes_on_where_the_kernel_cannot_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: object) -> int:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(cache_module.os, "copy_file_range", unable)
    (tmp_path / "one").write_bytes(CUBE)
    with (tmp_path / "one").open("rb") as file:
        copy(file.fileno(), tmp_path / "two")
    assert (tmp_path / "two").read_bytes() == CUBE


# ── making room ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_was_not_used_for_longest_goes_first(tmp_path: Path, server: Server) -> None:
    jobs = Jobs(tmp_path, most=len(CUBE) * 7 // 2)
    urls = [server.put(f"/{i}", CUBE, ETag='"v1"') for i in range(4)]
    for url in (urls[0], urls[1], urls[2], urls[0], urls[3]):
        await jobs.get(url)
    assert len(jobs.kept) == 3
    assert [(await jobs.get(url))[1] for url in (urls[0], urls[2], urls[3])] == [True] * 3
    assert not (await jobs.get(urls[1]))[1]
    assert sum(path.stat().st_size for path in jobs.kept) <= len(CUBE) * 7 // 2


async def test_what_was_not_used_for_long_goes_and_what_was_stays(jobs: Jobs, server: Server) -> None:
    one, two = (server.put(f"/{i}", CUBE, ETag='"v1"') for i in range(2))
    await jobs.get(one, checksum=sha256(CUBE))
    await jobs.get(two)
    for entry in jobs.kept:
        os.utime(entry.parent / "about.json", (time.time() - 4000,) * 2)
    await jobs.get(two)
    assert jobs.cache.tidy() == len(CUBE)
    assert not (await jobs.get(one))[1]
    jobs.cache.tidy(now=time.time() + 4000)
    assert jobs.kept == []
    assert list((jobs.folder / CACHE / ".sums").iterdir()) == []


async def test_who_has_an_entry_open_keeps_it(jobs: Jobs, server: Server, tmp_path: Path) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    entry = jobs.cache.find(url)
    assert entry is not None
    with closing(entry):
        jobs.cache.tidy(now=time.time() + 1e6)
        assert jobs.kept == []
        entry.copy(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CUBE


async def test_what_somebody_is_about_to_change_is_left_to_them(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    with jobs.cache.turn(url) as ours:
        assert ours
        assert jobs.cache.tidy(now=time.time() + 1e6) == len(CUBE)
    assert jobs.cache.tidy(now=time.time() + 1e6) == 0


async def test_what_was_killed_half_way_leaves_nothing_for_long(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    await jobs.get(url)
    place = jobs.folder / CACHE
    key, other = jobs.kept[0].parent.name, "0" * 64
    for name in (f".new-{key}", f".gone-{key}", f".new-{other}"):
        (place / name).mkdir()
        (place / name / "data").write_bytes(b"half")
    (place / other).mkdir()
    (place / ".locks" / "abc").touch()
    assert await jobs.get(url) == (CUBE, True)
    server.put("/cube", OTHER, ETag='"v2"')
    assert [await jobs.get(url) for _ in range(2)] == [(OTHER, False), (OTHER, True)]
    jobs.cache.tidy()
    assert jobs.leftovers() == []
    assert sorted(p.name for p in place.iterdir() if not p.name.startswith(".")) == [key]


async def test_more_files_than_can_be_looked_through_are_not_kept(
    jobs: Jobs, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "MOST_FILES", 20)
    for i in range(25):
        await jobs.get(server.put(f"/{i}", b"x", ETag='"v1"'))
        assert len(jobs.kept) <= 20
    assert len(jobs.kept) >= 19


def test_those_that_add_at_once_pass_the_bound_by_little_and_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "STEP", 4)
    jobs = Jobs(tmp_path / "jobs", most=1000)
    (tmp_path / "source").write_bytes(b"x" * 25)
    one, two = jobs.cache, jobs.cache
    totals = []
    for i in range(100):
        cache, url = (one, two)[i % 2], f"https://data.example/{i}"
        with cache.turn(url):
            cache.keep(About(url, url, 25, '"v1"'), tmp_path / "source")
        totals.append(25 * len(jobs.kept))
        if i > 80 and totals[-1] > 1000:
            break
    assert 1000 < max(totals) <= 1000 + 2 * 250
    assert totals[-1] > 1000
    one.close()
    assert len(jobs.kept) * 25 <= 1000


# ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_of_those_that_want_a_file_at_once_one_fetches_it(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE, ETag='"v1"')
    under_way = [asyncio.create_task(jobs.get(f"{url}?slow")) for _ in range(6)]

    async def begun() -> bool:
        return len(list((jobs.folder / CACHE / ".locks").glob("*"))) == 1

    await until(begun)
    server.go_on.set()
    answers = await asyncio.gather(*under_way)
    assert sorted(cached for _, cached in answers) == [False] + [True] * 5
    assert {body for body, _ in answers} == {CUBE}
    assert (server.count(status=200), server.count(status=304)) == (1, 5)


async def test_who_has_waited_has_the_turn_alone(jobs: Jobs) -> None:
    url, inside, leave = "https://data.example/x", threading.Event(), threading.Event()

    def wait_and_stay() -> None:
        with jobs.cache.turn(url) as ours:
            assert ours
            inside.set()
            assert leave.wait(30)

    def waits() -> bool:
        """Whether the kernel has somebody in a queue for a lock of this process."""
        lines = Path("/proc/locks").read_text().splitlines()
        return any("-> FLOCK" in line and f" {os.getpid()} " in line for line in lines)

    async def queued() -> bool:
        return waits()

    with jobs.cache.turn(url):
        waiting = asyncio.create_task(asyncio.to_thread(wait_and_stay))
        await until(queued)
        assert not inside.is_set()
    assert await asyncio.to_thread(inside.wait, 30)
    key = hashlib.sha256(url.encode()).hexdigest()
    assert jobs.cache._lock(key, wait=False) is None
    leave.set()
    await waiting
    lock = jobs.cache._lock(key, wait=False)
    assert lock is not None
    os.close(lock)


async def test_where_the_first_fails_the_next_fetches(jobs: Jobs, server: Server) -> None:
    url = server.put("/cube", CUBE)
    server.go_on.set()
    answers = await asyncio.gather(
        *(jobs.get(f"{url}?slow", checksum=stated) for stated in (sha256(OTHER), sha256(CUBE), sha256(CUBE))),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, StagingError) for answer in answers) == 1
    assert sorted(answer[1] for answer in answers if isinstance(answer, tuple)) == [False, True]


async def test_everybody_gets_what_they_asked_for_while_all_is_cleared_and_changed(
    tmp_path: Path, server: Server
) -> None:
    bodies = [bytes([i]) * 20_000 for i in range(8)]
    jobs = Jobs(tmp_path, most=70_000)
    urls = [server.put(f"/{i}", body, ETag=f'"{i}"') for i, body in enumerate(bodies)]

    def work(seed: int) -> bool:
        chance, folder = random.Random(seed), tmp_path / f"worker-{seed}"
        for turn in range(25):
            i = chance.randrange(len(urls))
            stated = sha256(bodies[i]) if chance.random() < 0.3 else None
            datum = Datum("x", (urls[i],), f"data/{turn}", stated)
            with closing(jobs.cache) as cache:
                Bringer(folder, (), cache).bring(datum, MIB)
                if chance.random() < 0.2:
                    cache.tidy(now=time.time() + chance.choice((0, 1e6)))
            if (folder / datum.place).read_bytes() != bodies[i]:
                return False
        return True

    async with asyncio.timeout(60):
        assert all(await asyncio.gather(*(asyncio.to_thread(work, seed) for seed in range(6))))
    left = jobs.cache.tidy()
    assert left is not None
    assert left <= 70_000
    assert jobs.leftovers() == []


# ── with jobs ────────────────────────────────────────────────────────────────────────────────────────────────────

KEPT: dict[str, Any] = {"cache": {"bytes": 100e6, "keep": "P7D"}}


def data(*urls: str) -> list[dict[str, Any]]:
    return [{"kind": kinds.SIMPLE_DATA, "meta": {"name": f"d{i}"}, "location": url} for i, url in enumerate(urls)]


def transfers(body: bytes | None) -> list[dict[str, Any]]:
    return json.loads(body or b"{}").get("transfers", [])  # type: ignore[no-any-return]


async def test_jobs_share_what_was_staged_and_say_so(tmp_path: Path, server: Server) -> None:
    platform = a_platform(tmp_path, **KEPT)
    url = server.put("/cube", CUBE, ETag='"v1"')
    jobs = [a_job("print(len(open('data/d0', 'rb').read()))", data=data(f"{url}?slow")) for _ in range(3)]
    for job in jobs:
        await platform.start(job, soon())
    server.go_on.set()
    shown = [await ended(platform, job) for job in jobs]
    assert [sighting.phase for sighting in shown] == ["COMPLETED"] * 3
    notes = [note for sighting in shown for note in transfers(sighting.body)]
    assert sorted(note.get("cached", False) for note in notes) == [False, True, True]
    assert {note["bytes"] for note in notes} == {len(CUBE)}
    assert (server.count(status=200), server.count(status=304)) == (1, 2)


async def test_without_the_option_nothing_is_kept(tmp_path: Path, server: Server) -> None:
    platform = a_platform(tmp_path)
    for _ in range(2):
        job = a_job("pass", data=data(server.put("/cube", CUBE, ETag='"v1"')))
        await platform.start(job, soon())
        assert (await ended(platform, job)).phase == "COMPLETED"
    assert server.count() == 2
    assert not (tmp_path / CACHE).exists()


SPOIL = """
import os
os.chmod('data/d0', 0o600)
with open('data/d0', 'r+b') as file:
    file.write(b'spoilt')
try:
    print(sorted(os.listdir({cache!r})))
except OSError as error:
    print('no cache seen')
"""


@pytest.mark.parametrize("isolation", ["none", "bwrap"])
async def test_what_a_program_does_to_its_data_it_does_to_its_own(
    tmp_path: Path, server: Server, isolation: str, request: pytest.FixtureRequest
) -> None:
    if isolation == "bwrap":
        request.getfixturevalue("bubblewrap")
    platform = a_platform(tmp_path / "jobs", isolation=isolation, **KEPT)
    url = server.put("/cube", CUBE, ETag='"v1"')
    source = SPOIL.format(cache=str(tmp_path / "jobs" / CACHE))
    job = a_job(source, data=data(url))
    for again in (False, True):
        job = a_job(source, data=data(url))
        await platform.start(job, soon())
        sighting = await ended(platform, job)
        assert sighting.phase == "COMPLETED", (await platform.logs(job, soon())).stderr
        assert [note.get("cached", False) for note in transfers(sighting.body)] == [again]
        staged = tmp_path / "jobs" / str(job.session) / layout.STORE / "data/d0"
        assert staged.read_bytes() == b"spoilt" + CUBE[6:]
    if isolation == "bwrap":
        assert (await platform.logs(job, soon())).stdout == "no cache seen\n"
    assert [path.read_bytes() for path in (tmp_path / "jobs" / CACHE).glob("*/data")] == [CUBE]


async def test_a_supervisor_killed_in_mid_download_leaves_it_to_who_waits(tmp_path: Path, server: Server) -> None:
    platform = a_platform(tmp_path, **KEPT)
    url = server.put("/cube", CUBE * 20, ETag='"v1"') + "?slow"
    first, second = (a_job("print('staged', flush=True)", data=data(url)) for _ in range(2))
    await platform.start(first, soon())

    async def half() -> bool:
        place = tmp_path / str(first.session) / layout.STORE / "data/d0"
        return place.exists() and place.stat().st_size >= len(CUBE) * 10

    async def waits() -> bool:
        return (tmp_path / str(second.session) / layout.STORE / "data").exists()

    await until(half)
    await platform.start(second, soon())
    await until(waits)
    os.kill(a_supervisor(tmp_path, first), signal.SIGKILL)
    assert (await ended(platform, first)).phase == "FAILED"
    assert list((tmp_path / CACHE).glob("*/data")) == []
    server.go_on.set()
    await said(platform, second, "staged")
    sighting = await ended(platform, second)
    assert [note.get("cached", False) for note in transfers(sighting.body)] == [False]
    assert [path.read_bytes() for path in (tmp_path / CACHE).glob("*/data")] == [CUBE * 20]
    Cache(tmp_path, Shelf(100 * MIB, 60.0)).tidy()
    assert os.listdir(tmp_path / CACHE / ".locks") == []
    assert transfers((await seen(platform, first)).body) == []


async def test_the_broker_clears_what_was_not_used_for_long(tmp_path: Path, server: Server) -> None:
    jobs = Jobs(tmp_path)
    await jobs.get(server.put("/cube", CUBE, ETag='"v1"'))
    os.utime(jobs.kept[0].parent / "about.json", (1.0, 1.0))
    platform = a_platform(tmp_path, **KEPT)
    await platform.status([], soon())
    await platform.close()
    assert jobs.kept == []


# ── what is here ─────────────────────────────────────────────────────────────────────────────────────────────────


async def test_what_is_here_is_known_without_asking(jobs: Jobs, server: Server, tmp_path: Path) -> None:
    url, plain = server.put("/cube", CUBE, ETag='"v1"'), server.put("/plain", OTHER)
    await jobs.get(url, checksum=md5(CUBE))
    await jobs.get(plain, checksum=sha256(OTHER))
    asked = len(server.asked)

    def here(*urls: str, **more: Any) -> int | None:
        return held(Datum("x", urls, "data/x", **more), (tmp_path / "root",), jobs.cache)

    elsewhere = "https://elsewhere.example/x"
    assert here(url) == here(elsewhere, url) == here(url, checksum=md5(CUBE)) == here(url, bytes=len(CUBE)) == len(CUBE)
    assert here(elsewhere, checksum=sha256(OTHER)) == here(plain, checksum=sha256(OTHER)) == len(OTHER)
    for nothing in (here(), here(elsewhere), here(plain), here(url, bytes=7), here(url, checksum=md5(OTHER)),
                    here(elsewhere, checksum=md5(CUBE)), here(url, checksum=sha256(CUBE))):  # fmt: skip
        assert nothing is None
    assert len(server.asked) == asked
    server.put("/plain", CUBE)
    await jobs.get(plain, checksum=sha256(CUBE))  # in the place of what was there
    assert here(elsewhere, checksum=sha256(OTHER)) is None


def test_files_below_the_roots_are_here(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_bytes(b"1234")
    (tmp_path / "secret").write_bytes(b"1234")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "circle").symlink_to(root / "circle")

    def here(url: str, **more: Any) -> int | None:
        return held(Datum("x", (url,), "data/x", **more), (root,), None)

    assert here(f"file://{root}/a") == here(f"file://{root}/a", bytes=4) == 4
    wrong = [f"file://{root}/{name}" for name in ("b", "out", "circle", "../secret", "")]
    assert [here(url) for url in (*wrong, f"file://host{root}/a", "http://x/a")] == [None] * 7
    assert here(f"file://{root}/a", bytes=5) is None
