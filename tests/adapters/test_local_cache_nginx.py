"""The cache of staged data before a real web server (nginx), which says when its files were changed."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.testing.children import end, free_port, launch
from tests.adapters.test_local_cache import CUBE, OTHER, Jobs, jobs
from tests.adapters.test_local_platform import until

__all__ = ["jobs"]

READY_WITHIN = 30.0
CONF = """
{user}
pid {folder}/pid;
daemon off;
worker_processes 1;
error_log stderr;
events {{}}
http {{
    log_format asked '$request_method $uri $status';
    access_log {folder}/asked asked;
    client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
    uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/www;
        location /tagged/ {{ }}
        location /dated/ {{ etag off; }}
        location /moved/ {{ rewrite ^/moved/(.*)$ /tagged/$1 redirect; }}
    }}
}}
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
def nginx(nginx_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    for name in ("tagged", "dated"):
        (folder / "www" / name).mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker may not read our folder
    (folder / "nginx.conf").write_text(CONF.format(folder=folder, port=port, user=user))
    command = ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    process = launch(command, folder / "log", {"PATH": os.environ["PATH"]}, folder)
    try:
        _wait(port, folder / "log")
        yield Nginx(folder, f"http://127.0.0.1:{port}")
    finally:
        end(process)


def _wait(port: int, log: Path) -> None:
    last = time.monotonic() + READY_WITHIN
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            connection.request("HEAD", "/")
            connection.getresponse()
            return
        except OSError:
            assert time.monotonic() < last, log.read_text()
            time.sleep(0.05)
        finally:
            connection.close()


async def test_its_etags_are_asked_by(nginx: Nginx, jobs: Jobs) -> None:
    url = nginx.put("tagged/cube", CUBE)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    nginx.put("tagged/cube", OTHER, age=3600)
    assert [await jobs.get(url) for _ in range(2)] == [(OTHER, False), (OTHER, True)]
    expected = ["GET 200", "GET 304", "GET 200", "GET 304"]
    assert await nginx.asked("tagged/cube", len(expected)) == expected


async def test_its_dates_are_compared_where_it_gives_no_etags(nginx: Nginx, jobs: Jobs) -> None:
    url = nginx.put("dated/cube", CUBE)
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    nginx.put("dated/cube", OTHER, age=7 * 86400)  # an older version was put back
    assert [await jobs.get(url) for _ in range(2)] == [(OTHER, False), (OTHER, True)]
    expected = ["GET 200", "HEAD 200", "HEAD 200", "GET 200", "HEAD 200"]
    assert await nginx.asked("dated/cube", len(expected)) == expected


async def test_a_file_that_was_just_written_is_not_told_by_its_date(nginx: Nginx, jobs: Jobs) -> None:
    url = nginx.put("dated/new", CUBE, age=0)
    assert await jobs.get(url) == (CUBE, False)
    nginx.put("dated/new", OTHER, age=0)
    assert await jobs.get(url) == (OTHER, False)


async def test_a_file_is_found_again_behind_a_redirect(nginx: Nginx, jobs: Jobs) -> None:
    nginx.put("tagged/far", CUBE)
    url = f"{nginx.url}/moved/far"
    assert [await jobs.get(url) for _ in range(2)] == [(CUBE, False), (CUBE, True)]
    expected = ["GET 200", "GET 304"]
    assert await nginx.asked("tagged/far", len(expected)) == expected
