"""The servers of tests keep what they were told, and never outlive the tests."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.testing.redis_server import RedisServer, wait_for

pytestmark = pytest.mark.usefixtures("redis_server")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    yield server
    server.kill()


def listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_a_killed_server_comes_back_where_it_was_with_what_it_had(server: RedisServer) -> None:
    url = server.url
    assert server.cli("SET", "a", "1") == "OK"
    server.kill()
    assert not server.running
    assert not listens(server.port)
    server.start()
    assert (server.url, server.cli("GET", "a")) == (url, "1")


def test_a_server_with_a_password_wants_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path, password="open sesame").start()
    try:
        assert server.cli("PING") == "PONG"
        bare = subprocess.run(
            ["redis-cli", "-p", str(server.port), "PING"], capture_output=True, text=True, check=False
        )
        assert bare.stdout.startswith("NOAUTH")
    finally:
        server.kill()


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    assert server.cli("PING") == "PONG"
    server.kill()


def test_a_server_ends_with_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from broker.testing.redis_server import RedisServer\n"
        "print(RedisServer(Path(sys.argv[1])).start().port, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert listens(port)
        process.send_signal(signal.SIGKILL)
    wait_for(lambda: not listens(port), "the server is gone")
