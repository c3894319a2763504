"""Fixtures that every part of the suite shares."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.testing.redis_server import Cluster, RedisServer

CONTRACTS = ("stores", "store_timers", "store_lists", "store_walk", "calendars", "limits")
pytest.register_assert_rewrite(*(f"broker.testing.{suite}" for suite in CONTRACTS))

STANDARD = "ivoa/execution-broker-1.0.openapi.json"


# Tests run side by side, a file at a time (make test): what takes long begins first, so that all end together.
LONGEST_FIRST = ("system", "faults", "simulation", "clients", "catalogues", "store", "adapters", "services")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def standard() -> dict[str, Any] | None:
    """The standard's own OpenAPI description, from SHARED_DIR or a folder `shared` beside the project. It is not ours
    to distribute: None where it is absent. In CI it must be there."""
    folder = Path(os.environ.get("SHARED_DIR", Path(__file__).parents[2] / "shared"))
    try:
        document: dict[str, Any] = json.loads((folder / STANDARD).read_text())
    except OSError:
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI has no {STANDARD} in SHARED_DIR")
        return None
    return document


def want(command: str, package: str) -> None:
    """A program of the system that a test needs. Without it the test is skipped; in CI, which installs it, it fails."""
    if shutil.which(command) is None:
        left_out = f"no {command} here: apt-get install {package}"
        pytest.fail(left_out) if os.environ.get("CI") == "true" else pytest.skip(left_out)


def want_server(name: str) -> Path:
    """The programs of a server that is a Python package, in an environment of its own beside ours (deploy/servers).
    Without it the test is skipped; in CI, which makes it, it fails."""
    home = Path(sys.prefix) / "servers" / name
    if not (home / ".made").is_file():
        left_out = f"no {home} here: make servers"
        pytest.fail(left_out) if os.environ.get("CI") == "true" else pytest.skip(left_out)
    return home / "bin"


@pytest.fixture(scope="session")
def bubblewrap() -> None:
    """A bubblewrap that works. Many containers forbid what it does, and nothing that is installed helps there."""
    want("bwrap", "bubblewrap")
    tried = subprocess.run(["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"bubblewrap may not work here: {tried.stderr.decode(errors='replace').strip()}")


@pytest.fixture(scope="session")
def java() -> None:
    want("java", "default-jre-headless")


@pytest.fixture(scope="session")
def curl() -> None:
    want("curl", "curl")


@pytest.fixture(scope="session")
def redis_server() -> None:
    want("redis-server", "redis-server")


@pytest.fixture(scope="session")
def haproxy_server() -> None:
    want("haproxy", "haproxy")


@pytest.fixture(scope="session")
def nginx_server() -> None:
    want("nginx", "nginx")


@pytest.fixture(scope="session")
def redis_url(redis_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server for the whole run, which nobody stops: each test takes a `prefix` of its own. Whoever wants to kill
    one starts it."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server.url
    server.kill()


@pytest.fixture(scope="session")
def cluster_url(redis_server: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same of a Cluster: three masters, with a replica each."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster")).start()
    yield cluster.url
    cluster.stop()
