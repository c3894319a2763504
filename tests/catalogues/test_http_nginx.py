"""Sizes from a real web server (nginx), and the broker's own catalogue of kind http before it."""

from __future__ import annotations

import gzip
import http.client
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from adapters.data.http import HttpCatalogue, HttpOptions
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.located import Located
from broker.errors import NotAsked, SiteForgot
from broker.plugins import CatalogueResources
from broker.services.clock import SystemClock
from broker.testing.children import end, free_port, launch
from broker.testing.program import Caller, Program
from broker.testing.resources import shared_http

CLOCK = SystemClock()
READY_WITHIN = 30.0
TEXT = b"no sky is the same " * 1000

CONF = """
{user}
pid {folder}/pid;
daemon off;
worker_processes 1;
error_log stderr;
events {{}}
http {{
    access_log {folder}/access.log combined;
    default_type application/octet-stream;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        location / {{ autoindex on; }}
        location /packed/ {{ gzip_static on; }}
        location /always/ {{ gzip_static always; }}
        location /no-head/ {{ if ($request_method = HEAD) {{ return 405; }} }}
        location /no-range/ {{ max_ranges 0; if ($request_method = HEAD) {{ return 403; }} }}
        location /moved/ {{ rewrite ^/moved/(.*)$ /$1 permanent; }}
        location /private/ {{ return 403; }}
        location /login/ {{ rewrite ^ /page.html break; types {{ text/html html; }} }}
    }}
}}
"""


@pytest.fixture(scope="module")
def nginx(nginx_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    www = folder / "www"
    for name in ("packed", "always", "no-head", "no-range"):
        (www / name).mkdir(parents=True)
        (www / name / "cube.fits").write_bytes(TEXT)
        (www / name / "cube.fits.gz").write_bytes(gzip.compress(TEXT))
    (www / "page.html").write_text("<html>Please log in</html>")
    with (www / "large.fits").open("wb") as large:
        large.truncate(3 * 10**12)  # of which nothing is written
    (www / "empty.fits").touch()
    file = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker may not read our folder
    file.write_text(CONF.format(folder=folder, port=port, user=user))
    command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(file)]
    process = launch(command, folder / "log", {"PATH": os.environ["PATH"]}, folder)
    try:
        _wait(port, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)


def _wait(port: int, log: Path) -> None:
    until = time.monotonic() + READY_WITHIN
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            connection.request("HEAD", "/")
            assert connection.getresponse().status == 200
            return
        except OSError:
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        finally:
            connection.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as opened:
        yield opened


async def locate(session: aiohttp.ClientSession, url: str) -> Located:
    asked = HttpCatalogue(HttpOptions(), CatalogueResources("http", None, CLOCK, session, None, lambda _: True))
    return await asked.locate(url, Deadline.after(10.0, CLOCK.monotonic()))


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("large.fits", 3e12),
        ("empty.fits", 0),
        ("packed/cube.fits", len(TEXT)),
        ("no-head/cube.fits", len(TEXT)),
        ("no-range/cube.fits", len(TEXT)),
        ("moved/large.fits", 3e12),
        ("page.html", 26),
    ],
)
async def test_a_file_has_the_size_it_has(session: aiohttp.ClientSession, nginx: str, path: str, size: float) -> None:
    (portion,) = (await locate(session, f"{nginx}/{path}")).portions
    assert (portion.bytes, portion.files, portion.replicas) == (float(size), 1, ())


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("always/cube.fits", "sends it encoded"),
        ("nothing.fits", "has no such file"),
        ("private/cube.fits", "it wants credentials"),
        ("login/cube.fits", "answered with a page"),
        ("packed", "ends in a slash"),
    ],
)
async def test_what_it_does_not_tell_stays_unknown(
    session: aiohttp.ClientSession, nginx: str, path: str, why: str
) -> None:
    with pytest.raises((SiteForgot, NotAsked), match=why):
        await locate(session, f"{nginx}/{path}")


async def test_a_missing_file_is_forgotten_and_not_failed(session: aiohttp.ClientSession, nginx: str) -> None:
    with pytest.raises(SiteForgot):
        await locate(session, f"{nginx}/nothing.fits")


# ── a whole broker ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def broker(nginx: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Without a word on catalogues, before storages of which one is nginx's folder of packed files."""
    storages = [{"name": "WEB", "prefixes": [f"{nginx}/packed/"]}]
    program = Program(
        tmp_path_factory.mktemp("broker"), "one", platform={"kind": "simulated"}, tariff="free", storages=storages
    ).start()
    yield program
    program.kill()


def _request(*locations: str) -> dict[str, object]:
    data = [{"kind": kinds.SIMPLE_DATA, "meta": {"name": f"d{i}"}, "location": url} for i, url in enumerate(locations)]
    program = {"kind": kinds.PYTHON_PROGRAM, "meta": {"name": "fit"}, "source": "print(1)"}
    return {"executable": program, **({"data": data} if data else {})}


@pytest.mark.system
async def test_a_broker_without_catalogues_asks_the_hosts_of_its_declared_storages(nginx: str, broker: Program) -> None:
    async with aiohttp.ClientSession() as http:
        call = Caller(http)
        asked = await call(
            "POST", f"{broker.url}/requests", _request(f"{nginx}/packed/cube.fits", f"{nginx}/large.fits")
        )
        without = await call("POST", f"{broker.url}/requests", _request())
        declared, other = asked.json()["located"]
    assert (declared["bytes"], declared["sized"]) == (len(TEXT), "http")
    assert other.get("bytes") is None
    (why,) = other["unknown"]
    assert why.startswith("http: not asked: 127.0.0.1 is on no storage that this broker declares")
    assert without.json().get("located") is None
