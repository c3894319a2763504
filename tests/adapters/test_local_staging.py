"""Staging: real files, and a real server on this machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from http.client import HTTPMessage
from io import BytesIO
from pathlib import Path
from urllib import request

import pytest
from aiohttp import web

from adapters.local.fetching import StagingError, _Redirects, fetch, local_path
from adapters.local.layout import Bounds, Datum, Mount, Spec
from adapters.local.staging import stage

CUBE = bytes(range(256)) * 5000
MIB = 1024**2
BOUNDS = Bounds(1, 1024 * MIB, 60, 4 * MIB, MIB, MIB, 1000, 100, 60, 1, 0)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """A data server: /cube, /missing, /short (breaks off), /to?place= (redirects)."""

    async def cube(asked: web.Request) -> web.Response:
        assert "Authorization" not in asked.headers
        return web.Response(body=CUBE)

    async def short(asked: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(CUBE))})
        await answer.prepare(asked)
        await answer.write(CUBE[:1000])
        assert asked.transport is not None
        asked.transport.close()
        return answer

    async def to(asked: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": asked.query.get("place", "/to")})

    app = web.Application()
    app.add_routes([web.get("/cube", cube), web.get("/short", short), web.get("/to", to)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}"
    await runner.cleanup()


def a_spec(*data: Datum, **more: object) -> Spec:
    return Spec("a-session", "program", BOUNDS, "python", {}, source="pass", data=data)._replace(**more)  # type: ignore[arg-type]


async def staged(folder: Path, spec: Spec) -> None:
    await asyncio.to_thread(stage, folder, spec)


async def refused(folder: Path, spec: Spec) -> str:
    with pytest.raises(StagingError) as caught:
        await staged(folder, spec)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("md5", hashlib.md5(CUBE).hexdigest().upper()),  # noqa: S324  a checksum in use in the field
        ("sha256", hashlib.sha256(CUBE).hexdigest()),
        ("adler32", f"{zlib.adler32(CUBE):x}"),
    ],
)
async def test_data_come_with_the_right_checksum(tmp_path: Path, server: str, kind: str, value: str) -> None:
    datum = Datum("cube.fits", (f"{server}/cube",), "data/cube.fits", (kind, value), len(CUBE))
    await staged(tmp_path, a_spec(datum))
    assert (tmp_path / "work/data/cube.fits").read_bytes() == CUBE
    assert (tmp_path / "work/data/cube.fits").stat().st_mode & 0o222 == 0
    assert (tmp_path / "work/program.py").read_text() == "pass"
    assert (tmp_path / "work/results").is_dir()


async def test_a_wrong_checksum_is_told_with_both_values(tmp_path: Path, server: str) -> None:
    datum = Datum("cube", (f"{server}/cube",), "data/cube", ("adler32", "00000001"))
    text = await refused(tmp_path, a_spec(datum))
    assert "cube" in text
    assert f"{zlib.adler32(CUBE):08x}, 00000001 was stated" in text


async def test_a_wrong_size_is_told(tmp_path: Path, server: str) -> None:
    datum = Datum("cube", (f"{server}/cube",), "data/cube", None, 7)
    assert f"has {len(CUBE)} bytes, 7 were stated" in await refused(tmp_path, a_spec(datum))


async def test_the_next_replica_is_tried(tmp_path: Path, server: str) -> None:
    urls = (f"{server}/missing", f"{server}/short", "http://127.0.0.1:1/cube", f"{server}/cube")
    await staged(tmp_path, a_spec(Datum("cube", urls, "data/cube")))
    assert (tmp_path / "work/data/cube").read_bytes() == CUBE
    text = await refused(tmp_path / "other", a_spec(Datum("cube", urls[:3], "data/cube")))
    assert "answers 404" in text
    assert "broke off after" in text
    assert "cannot be reached" in text


async def test_data_larger_than_the_room_are_cut_off(tmp_path: Path, server: str) -> None:
    small = BOUNDS._replace(disk=len(CUBE) + 10)
    twice = tuple(Datum(name, (f"{server}/cube",), f"data/{name}") for name in ("a", "b"))
    assert "larger than 10 bytes" in await refused(tmp_path, a_spec(*twice, bounds=small))


async def test_redirects_lead_to_http_alone(tmp_path: Path, server: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("geheim")
    target = tmp_path / "target"
    assert (await asyncio.to_thread(fetch, f"{server}/to?place={server}/cube", target, (), 10 * MIB))[0] == len(CUBE)
    for place in (f"file://{secret}", "ftp://127.0.0.1/x", "data:,x"):
        with pytest.raises(StagingError, match=r"302|not followed"):
            await asyncio.to_thread(fetch, f"{server}/to?place={place}", target, (str(tmp_path),), MIB)
    with pytest.raises(StagingError, match="redirect"):
        await asyncio.to_thread(fetch, f"{server}/to?place=/to", target, (), MIB)


async def test_what_comes_with_a_redirect_is_not_read(tmp_path: Path) -> None:
    """urllib would read it to its end, into memory."""
    sent, pieces = 0, 100

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        asked = await reader.readuntil(b"\r\n\r\n")
        if asked.startswith(b"GET /end"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
        else:
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /end\r\n\r\n")
            with suppress(ConnectionError):
                for _ in range(pieces):
                    writer.write(bytes(MIB))
                    await writer.drain()
                    sent += 1
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as listening:
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/begin"
        assert await asyncio.to_thread(fetch, url, tmp_path / "target", (), MIB) == (2, "")
    assert sent < pieces


async def test_a_redirect_gives_up_no_encryption() -> None:
    asked = request.Request("https://data.example/cube")
    with pytest.raises(StagingError, match="not followed"):
        _Redirects().redirect_request(asked, BytesIO(), 302, "Found", HTTPMessage(), "http://data.example/cube")


async def test_files_come_from_the_allowed_roots_alone(tmp_path: Path) -> None:
    root, outside, target = tmp_path / "root", tmp_path / "outside", tmp_path / "target"
    root.mkdir()
    outside.write_text("geheim")
    (root / "a file").write_text("good")
    (root / "link").symlink_to(outside)
    os.mkfifo(root / "pipe")
    assert fetch(f"file://{root}/a%20file", target, (str(root),), MIB) == (4, "")
    assert target.read_text() == "good"
    for url in (f"file://{outside}", f"file://{root}/../outside", f"file://{root}/link"):
        with pytest.raises(StagingError, match="outside"):
            fetch(url, target, (str(root),), MIB)
    for url in (f"file://{root}/pipe", f"file://{root}"):
        with pytest.raises(StagingError, match=r"no plain file|outside"):
            fetch(url, target, (str(root),), MIB)
    with pytest.raises(StagingError, match="another machine"):
        fetch(f"file://elsewhere{root}/a%20file", target, (str(root),), MIB)
    with pytest.raises(StagingError, match="No such file"):
        fetch(f"file://{root}/absent", target, (str(root),), MIB)
    assert local_path("http://x/y") is None


async def test_unknown_schemes_are_refused(tmp_path: Path) -> None:
    for url in ("ftp://127.0.0.1/x", "gopher://x", "nonsense", "http://[::1"):
        with pytest.raises(StagingError):
            fetch(url, tmp_path / "target", (str(tmp_path),), MIB)


async def test_volumes_show_data_and_storages_where_they_were_asked(tmp_path: Path, server: str) -> None:
    spec = a_spec(
        Datum("cube", (f"{server}/cube",), "storage/scratch/cube", readonly=False),
        Datum("mask", (f"{server}/cube",), "data/mask"),
        storages=("storage/scratch", "storage/fixed"),
        mounts=(
            Mount("scratch", "storage/scratch", readonly=False),
            Mount("fixed", "storage/fixed"),
            Mount("input/deep/mask.fits", "data/mask"),
        ),
    )
    await staged(tmp_path, spec)
    work = tmp_path / "work"
    assert (work / "scratch/cube").read_bytes() == CUBE
    assert (work / "input/deep/mask.fits").read_bytes() == CUBE
    assert sorted(path.name for path in (work / "data").iterdir()) == ["cube", "mask"]
    assert (work / "scratch").stat().st_mode & 0o200
    assert not (work / "fixed").stat().st_mode & 0o222


async def test_a_volume_may_take_the_place_of_the_data_and_results_folders(tmp_path: Path, server: str) -> None:
    spec = a_spec(
        Datum("cube", (f"{server}/cube",), "storage/in/cube"),
        storages=("storage/in", "storage/out"),
        mounts=(Mount("data", "storage/in"), Mount("results", "storage/out", readonly=False)),
    )
    await staged(tmp_path, spec)
    assert [path.name for path in (tmp_path / "work/data").iterdir()] == ["cube"]
    (tmp_path / "work/results/x").write_text("y")
    assert (tmp_path / "store/storage/out/x").read_text() == "y"


async def test_a_program_by_location_is_bounded(tmp_path: Path, server: str) -> None:
    spec = a_spec(source=None, location=f"{server}/cube")
    assert "larger than 1000 bytes" in await refused(tmp_path, spec)


# ── what is asked on behalf of users, and what is told of it ─────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "host", ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "2852039166", "[fd00:ec2::254]", "0.0.0.0"]
)
async def test_nothing_is_read_from_where_clouds_keep_a_machines_secrets(tmp_path: Path, host: str) -> None:
    with pytest.raises(StagingError, match="no address that data is read from"):
        fetch(f"http://{host}:1/latest/meta-data/", tmp_path / "target", (), MIB)


async def test_nor_by_way_of_a_redirect(tmp_path: Path, server: str) -> None:
    with pytest.raises(StagingError, match="no address that data is read from"):
        await asyncio.to_thread(fetch, f"{server}/to?place=http://169.254.169.254:1/x", tmp_path / "target", (), MIB)


@pytest.mark.parametrize("path", ["missing?key=geheim", "short?key=geheim", "to?place=ftp://u:geheim@127.0.0.1/x%3Fkey",
                                  "to?place=http://x:y:geheim@127.0.0.1:1/", "to?key=geheim"])  # fmt: skip
async def test_what_may_be_a_key_in_a_url_is_not_told(tmp_path: Path, server: str, path: str) -> None:
    with pytest.raises(StagingError) as caught:
        await asyncio.to_thread(fetch, f"{server}/{path}", tmp_path / "target", (), MIB)
    assert "geheim" not in str(caught.value)
    assert server.partition("//")[2] in str(caught.value)


@pytest.mark.parametrize("place", ["u:geheim@127.0.0.1:1", "u:ge:heim@127.0.0.1", "127.0.0.1:1/x?k=geheim y\x01"])
async def test_nor_is_it_where_nobody_can_be_asked(tmp_path: Path, place: str) -> None:
    with pytest.raises(StagingError) as caught:
        fetch(f"http://{place}", tmp_path / "target", (), MIB)
    assert "heim" not in str(caught.value)


async def test_nor_in_what_is_said_of_wrong_data(tmp_path: Path, server: str) -> None:
    for wrong in ({"bytes": 7}, {"checksum": ("md5", "0" * 32)}):
        datum = Datum("cube", (f"{server}/cube?key=geheim",), "data/cube", **wrong)  # type: ignore[arg-type]  # by name
        assert "geheim" not in await refused(tmp_path / str(len(wrong)), a_spec(datum))


async def test_what_a_server_says_is_shown_without_control_characters(tmp_path: Path) -> None:
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 \x1b[31mGone\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(StagingError, match=r"answers 404 \?\[31mGone") as caught:
            await asyncio.to_thread(fetch, f"http://127.0.0.1:{port}/x", tmp_path / "target", (), MIB)
    assert str(caught.value).isprintable()


async def test_an_address_may_hold_letters_and_spaces(tmp_path: Path, server: str) -> None:
    place = f"{server}/to?place=/cube&sky=Bü rö%20"
    assert (await asyncio.to_thread(fetch, place, tmp_path / "target", (), 10 * MIB))[0] == len(CUBE)
