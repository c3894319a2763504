"""Fixtures that every part of the suite shares."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CONTRACTS = ("stores", "store_timers", "store_lists", "calendars", "limits")
pytest.register_assert_rewrite(*(f"broker.testing.{suite}" for suite in CONTRACTS))

STANDARD = "ivoa/execution-broker-1.0.openapi.json"


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
