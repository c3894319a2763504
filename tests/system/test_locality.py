"""The demonstration with real catalogues, from a folder of its own: what it shows, and that nothing of it stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.testing.dachs import POSTGRES
from tests.conftest import want, want_server

SHOW = Path(__file__).resolve().parents[2] / "deploy" / "locality" / "locality.py"


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that it prints. Each of its steps fails by itself where the wrong site leads, or an unknown is not said."""
    want("dachs", "python3-gavo")
    want(str(POSTGRES / "postgres"), "postgresql-15-pgsphere postgresql-15-q3c")
    for name in ("rucio", "moto"):
        want_server(name)
    folder = tmp_path_factory.mktemp("locality")
    done = subprocess.run(
        [sys.executable, str(SHOW), "--folder", str(folder)],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "COLUMNS": "100"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    return done.stdout


def test_a_run_goes_where_most_of_its_bytes_are_and_says_so(shown: str) -> None:
    first, _, rest = shown.partition("2. It runs there")
    assert "* 1 alba" in first
    assert "most data is here" in first
    for element, by in (("data[0] galaxies.fits", "rucio"), ("data[1] flat.fits", "archive"),
                        ("data[2] mask.fits", "objects"), ("data[3] notes.csv", "http")):  # fmt: skip
        line = next(line for line in first.splitlines() if line.startswith(element))
        assert f"sized by {by}" in line
    assert "COMPLETED" in rest
    assert "H0" in rest


def test_it_goes_after_its_data(shown: str) -> None:
    _, _, moved = shown.partition("3. Other galaxies")
    assert "1 borealis" in moved.partition("4. A catalogue is gone")[0]


def test_what_a_lost_catalogue_knew_is_said_to_be_unknown(shown: str) -> None:
    _, _, lost = shown.partition("4. A catalogue is gone")
    assert "?? data[2] lost.fits: size not known: objects:" in lost
