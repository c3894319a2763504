"""docs/faults.md holds what it claims: every fault has its row, and every test that is named there exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", PAGE, re.MULTILINE)
NAMED = re.compile(r"`((?:tests|broker)/[\w/]+\.py)::(\w+)`")
WRITTEN = 53


def test_every_fault_has_one_row() -> None:
    assert sorted(int(number) for number, _ in ROWS) == list(range(1, WRITTEN + 1))


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[number for number, _ in ROWS])
def test_every_fault_is_shown_by_tests_that_exist(number: str, row: str) -> None:
    *_, expected, seen, tests = (cell.strip() for cell in row.split("|"))
    named = NAMED.findall(tests)
    assert expected
    assert seen
    assert named, f"fault {number} names no test"
    assert [f"{file}::{name}" for file, name in named if not _defines(file, name)] == []


def test_every_test_of_faults_is_named_here() -> None:
    named = {(file, name) for file, name in NAMED.findall(PAGE)}
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / "tests" / "faults").glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert found - named == set()


def _defines(file: str, name: str) -> bool:
    path = ROOT / file
    return path.exists() and bool(
        re.search(rf"^\s*(?:async )?def {name}\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    )
