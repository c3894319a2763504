"""The cache of staged data before a real web server (nginx), which says when its files were changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.testing.nginx import nginx
from tests.adapters.test_local_cache import CUBE, OTHER, Jobs, jobs
from tests.adapters.test_local_platform import until

__all__ = ["jobs"]

SERVER = """
        location /tagged/ { }
        location /dated/ { etag off; }
        location /moved/ { rewrite ^/moved/(.*)$ /tagged/$1 redirect; }
"""


class Nginx(NamedTuple):
    folder: Path
    url: str

    def put(self, path: str, body: bytes, age: float = 86400.0) -> str:
        file = self.folder / "www" / path
        file.write_bytes(body)
        os.utime(file, (time.time() - age,) * 2)
        return f"{self.url}/{path}"

    async def asked(self, path: str, times: int) -> list[str]:
        """Method and status of what it was asked about the file; it writes that down after it has answered."""

        async def logged() -> list[str]:
            lines = [line.split() for line in (self.folder / "asked").read_text().splitlines()]
            found = [f"{method} {status}" for method, uri, status in lines if uri == f"/{path}"]
            return found if len(found) >= times else []

        return list(await until(logged))


@pytest.fixture(scope="module")
def server(nginx_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx")
    for name in ("tagged", "dated"):
        (folder / "www" / name).mkdir(parents=True)
    logged = f"log_format asked '$request_method $uri $status'; access_log {folder}/asked asked;"
    with nginx(folder, SERVER, logged) as url:
        yield Nginx(folder, url)


async def test_its_etags_are_asked_by(server: Nginx, jobs: Jobs) -> None:
    url = server.put("tagged/cube", CUBE)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    server.put("tagged/cube", OTHER, age=3600)
    assert [await jobs.get(url) for _ in range(2)] == [(OTHER, False), (OTHER, True)]
    expected = ["GET 200", "GET 304", "GET 200", "GET 304"]
    assert await server.asked("tagged/cube", len(expected)) == expected


async def test_its_dates_are_compared_where_it_gives_no_etags(server: Nginx, jobs: Jobs) -> None:
    url = server.put("dated/cube", CUBE)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    server.put("dated/cube", OTHER, age=7 * 86400)  # an older version was put back
    assert [await jobs.get(url) for _ in range(2)] == [(OTHER, False), (OTHER, True)]
    expected = ["GET 200", "HEAD 200", "HEAD 200", "GET 200", "HEAD 200"]
    assert await server.asked("dated/cube", len(expected)) == expected


async def test_a_file_that_was_just_written_is_not_told_by_its_date(server: Nginx, jobs: Jobs) -> None:
    url = server.put("dated/new", CUBE, age=0)
    assert await jobs.get(url) == (CUBE, False)
    server.put("dated/new", OTHER, age=0)
    assert await jobs.get(url) == (OTHER, False)


async def test_a_file_is_found_again_behind_a_redirect(server: Nginx, jobs: Jobs) -> None:
    server.put("tagged/far", CUBE)
    url = f"{server.url}/moved/far"
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    expected = ["GET 200", "GET 304"]
    assert await server.asked("tagged/far", len(expected)) == expected
