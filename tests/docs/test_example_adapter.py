"""The example adapter is what it says: a package whose plugin loads, and which passes both contract suites."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "adapter"

pytestmark = pytest.mark.system


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """As somebody has it who takes it away to begin with: nothing of this project's own settings is above it."""
    return Path(shutil.copytree(EXAMPLE, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__")))


def run(folder: Path, *command: str) -> str:
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_its_own_tests_pass(copied: Path) -> None:
    said = run(copied, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shelf.py")
    passed = re.search(r"(\d+) passed", said)
    assert passed, said
    assert int(passed[1]) > 30


def test_the_broker_finds_its_plugin(copied: Path, tmp_path: Path) -> None:
    """By the entry point that its pyproject.toml declares, as an installation would leave it."""
    declared = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]["entry-points"]
    installed = tmp_path / "shelf_adapter-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf-adapter\nVersion: 0.1.0\n")
    (installed / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {at}\n" for name, at in of.items()) for group, of in declared.items()
        )
    )
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); from broker.plugins import load; print(load()['shelf'].plans)"
    )
    assert run(copied, "-c", code) == "True\n"


def test_it_imports_what_is_shipped_alone() -> None:
    """The broker's tests are not installed, so nothing of an adapter may rest on them."""
    for source in EXAMPLE.glob("**/*.py"):
        assert not re.search(r"^(from|import) (tests|docs)\b", source.read_text(), re.MULTILINE), source
