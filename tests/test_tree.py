"""What holds of every file of the project, whoever wrote it."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_000_000  # bytes

# Put together here, so that this file does not hold them itself.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"), ("npmjs", "org"), ("proxy", "golang", "org"),
        ("crates", "io"),
    )
]  # fmt: skip
MACHINE = ["/".join(("", *parts)) for parts in (("work", "main"), ("work", "shared"), ("root", ""), ("opt", "wheels"))]
OUTSIDE = ["/".join(("..", "shared"))]


def committed() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("no git repository: nothing says which files belong to the project")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return committed()


@pytest.fixture(scope="module")
def texts(files: list[Path]) -> dict[str, str]:
    found = {}
    for path in files:
        try:
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


@pytest.mark.parametrize("word", [*REGISTRIES, *MACHINE, *OUTSIDE])
def test_no_file_names(word: str, texts: dict[str, str]) -> None:
    assert [name for name, text in texts.items() if word in text] == []


def test_no_file_is_large(files: list[Path]) -> None:
    assert [path.name for path in files if path.stat().st_size > LARGEST] == []


def test_every_text_ends_with_one_line_feed(texts: dict[str, str]) -> None:
    assert [name for name, text in texts.items() if text and (not text.endswith("\n") or text.endswith("\n\n"))] == []


def test_every_module_says_what_it_is_for(texts: dict[str, str]) -> None:
    modules = {name: text for name, text in texts.items() if name.endswith(".py") and text.strip()}
    assert len(modules) > 100
    assert [name for name, text in modules.items() if not ast.get_docstring(ast.parse(text))] == []


def test_no_test_is_expected_to_fail(texts: dict[str, str]) -> None:
    mark = "x" + "fail"
    assert [name for name, text in texts.items() if name.startswith("tests/") and mark in text] == []


@pytest.mark.parametrize("script", [".ci/run", "deploy/servers"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
