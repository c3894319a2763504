"""The benchmark runs, and its report has the shape that docs/benchmarks.md promises. No figure is judged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).with_name("bench.py")


@pytest.mark.system
@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU clocks of other processes")
def test_the_benchmark_measures_every_arm(tmp_path: Path) -> None:
    out = tmp_path / "benchmarks.md"
    tiny = f"--sites 2 --loads 0:1,0:2 --blocks 1 --requests 4 --accepts 1 --out {out}"
    done = subprocess.run([sys.executable, str(BENCH), *tiny.split()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    text = out.read_text(encoding="utf-8")
    assert f"python tests/benchmarks/bench.py {tiny}" in text
    rows = re.findall(r"^\| 2 .*\|$", text, re.MULTILINE)
    figures = [re.findall(r"\d+\.\d\d \(\d+\.\d\d to \d+\.\d\d\)", row) for row in rows]
    assert [len(found) for found in figures] == [5, 5, 4, 4, 5]  # CPU and time of either load, releases
    assert all(float(figure.split()[0]) > 0 for row in figures for figure in row)
