"""Sizes from a real web server (nginx), and the broker's own catalogue of kind http before it."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from adapters.data.http import HttpCatalogue, HttpOptions
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.located import Located
from broker.errors import NotAsked, SiteForgot
from broker.plugins import CatalogueResources
from broker.services.clock import SystemClock
from broker.testing.nginx import nginx
from broker.testing.program import Caller, Program
from broker.testing.resources import shared_http

CLOCK = SystemClock()
TEXT = b"no sky is the same " * 1000

SERVER = """
        default_type application/octet-stream;
        location / { autoindex on; }
        location /packed/ { gzip_static on; }
        location /always/ { gzip_static always; }
        location /no-head/ { if ($request_method = HEAD) { return 405; } }
        location /no-range/ { max_ranges 0; if ($request_method = HEAD) { return 403; } }
        location /moved/ { rewrite ^/moved/(.*)$ /$1 permanent; }
        location /private/ { return 403; }
        location /login/ { rewrite ^ /page.html break; types { text/html html; } }
"""


@pytest.fixture(scope="module")
def served(nginx_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("nginx")
    www = folder / "www"
    for name in ("packed", "always", "no-head", "no-range"):
        (www / name).mkdir(parents=True)
        (www / name / "cube.fits").write_bytes(TEXT)
        (www / name / "cube.fits.gz").write_bytes(gzip.compress(TEXT))
    (www / "page.html").write_text("<html>Please log in</html>")
    with (www / "large.fits").open("wb") as large:
        large.truncate(3 * 10**12)  # of which nothing is written
    (www / "empty.fits").touch()
    with nginx(folder, SERVER) as url:
        yield url


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
async def test_a_file_has_the_size_it_has(session: aiohttp.ClientSession, served: str, path: str, size: float) -> None:
    (portion,) = (await locate(session, f"{served}/{path}")).portions
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
    session: aiohttp.ClientSession, served: str, path: str, why: str
) -> None:
    with pytest.raises((SiteForgot, NotAsked), match=why):
        await locate(session, f"{served}/{path}")


async def test_a_missing_file_is_forgotten_and_not_failed(session: aiohttp.ClientSession, served: str) -> None:
    with pytest.raises(SiteForgot):
        await locate(session, f"{served}/nothing.fits")


# ── a whole broker ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def broker(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Without a word on catalogues, before storages of which one is nginx's folder of packed files."""
    storages = [{"name": "WEB", "prefixes": [f"{served}/packed/"]}]
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
async def test_a_broker_without_catalogues_asks_the_hosts_of_its_declared_storages(
    served: str, broker: Program
) -> None:
    async with aiohttp.ClientSession() as http:
        call = Caller(http)
        asked = await call(
            "POST", f"{broker.url}/requests", _request(f"{served}/packed/cube.fits", f"{served}/large.fits")
        )
        without = await call("POST", f"{broker.url}/requests", _request())
        declared, other = asked.json()["located"]
    assert (declared["bytes"], declared["sized"]) == (len(TEXT), "http")
    assert other.get("bytes") is None
    (why,) = other["unknown"]
    assert why.startswith("http: not asked: 127.0.0.1 is on no storage that this broker declares")
    assert without.json().get("located") is None
