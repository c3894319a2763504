"""Fixtures that every part of the suite shares."""

from __future__ import annotations

import json
import os
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
