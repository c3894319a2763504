"""One program on platforms of every kind, all of them real but for TES, as `make demo SITES=…` shows it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker.testing.children import interruptible
from tests.conftest import want, want_server

SHOW = Path(__file__).resolve().parents[2] / "deploy" / "platforms" / "platforms.py"
SITES = {
    "local": "pid ",
    "slurm": "slurm job 1",
    "containers": "",
    "wes": "run-",
    "wes-oidc": "",
    "tes": "",
}


def show(folder: Path, sites: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SHOW), "--folder", str(folder)],
        capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "COLUMNS": "100", "SITES": sites}, preexec_fn=interruptible,
    )  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All that it prints. It fails by itself where a site makes no offer, a run does not end COMPLETED, or results
    differ."""
    for command, package in (("slurmrestd", "slurm-wlm slurmrestd munge slurm-wlm-jwt-plugin"), ("podman", "podman")):
        want(command, package)
    want("runc", "runc")
    want("busybox", "busybox-static")
    want("jq", "jq")
    for name in ("toil", "sapporo", "oidc"):
        want_server(name)
    folder = tmp_path_factory.mktemp("platforms")
    done = show(folder, ",".join(SITES))
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    return done.stdout


def test_every_platform_answers_the_one_question(shown: str) -> None:
    asked = shown.partition("The same program at each")[0]
    ranked = [line.split()[2] for line in asked.splitlines() if line.startswith(("* ", "  ")) and line[2:3].isdigit()]
    assert sorted(ranked) == sorted(SITES)
    assert ranked[0] == "local"  # the data is there


def test_each_in_turn_runs_it_and_all_results_are_the_same_to_the_byte(shown: str) -> None:
    _, _, ran = shown.partition("RESULTS (SHA-256)\n")
    lines = [line.split() for line in ran.splitlines()[: len(SITES)]]
    assert [line[0] for line in lines] == list(SITES)
    results = {tuple(line[-4:]) for line in lines}
    assert len(results) == 1
    names = [word.rstrip(",") for word in results.pop()]
    assert (names[0], names[2]) == ("fit.json", "hubble.csv")
    assert "All results are the same, to the byte." in ran


@pytest.mark.parametrize(("site", "job"), SITES.items())
def test_the_platforms_own_name_of_the_job_is_shown(shown: str, site: str, job: str) -> None:
    (line,) = (line for line in shown.partition("RESULTS (SHA-256)\n")[2].splitlines() if line.split()[:1] == [site])
    native = line[26:56].strip()
    assert native not in ("", "-")
    assert native.startswith(job)


def test_the_platforms_own_name_leads_back_to_the_session(shown: str) -> None:
    _, _, back = shown.partition("$ broker sessions --native ")
    lines = back.split("\n\n")[0].splitlines()
    assert len(lines) == 3  # the name, a head, one session
    assert list(SITES)[-1] in lines[2]
    assert "COMPLETED" in lines[2]


def test_a_platform_that_is_none_is_named(tmp_path: Path) -> None:
    done = show(tmp_path / "data", "slurm,abacus")
    assert done.returncode == 1
    assert "'abacus' is no platform that is shown; there are: local, slurm, containers" in done.stderr
