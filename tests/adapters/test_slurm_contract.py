"""A real Slurm held to the contracts of platforms and planners, and what else it is to do well."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import aiohttp
import pytest
import yaml

from adapters.planning.contract import PlatformContract, Stage
from adapters.planning.platform import Job
from adapters.slurm.adapter import plugin
from broker.ports import Order
from broker.settings import load_settings
from broker.testing.memory import MemoryCalendar
from broker.testing.planner_contract import PlannerContract, Stand
from broker.testing.resources import shared_http
from broker.testing.slurm_server import SlurmServer
from broker.trying import attempt
from tests.adapters.slurm_site import CLOCK, a_cluster, options, platform, resources
from tests.adapters.test_contracts import WARP, counted, lasting, program


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmServer]:
    with a_cluster() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.fixture
def marks(slurm: SlurmServer, tmp_path: Path) -> Iterator[Path]:
    """Where runs leave their marks. Whatever still runs when the test is over ends then."""
    marks = tmp_path / "marks"
    marks.mkdir()
    yield marks
    (marks / "over").touch()
    for job in slurm.jobs():
        if job["job_state"] in ("PENDING", "RUNNING"):
            slurm.call("DELETE", f"job/{job['job_id']}")


@pytest.fixture
def name() -> str:
    """Of a site that has the cluster to itself: it does not see what another test's is still ending."""
    return f"site-{uuid4().hex[:8]}"


def began(marks: Path, what: Job | Order) -> int:
    return len(list(marks.glob(f"{what.session}.*")))


class TestSlurmPlatform(PlatformContract):
    @pytest.fixture
    async def stage(
        self, slurm: SlurmServer, http: aiohttp.ClientSession, marks: Path, tmp_path: Path, name: str
    ) -> Stage:
        calendar, given = MemoryCalendar(), options(slurm, tmp_path / "jobs")
        return Stage(
            make=lambda: platform(given, http, calendar, name),
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            failing=program("raise SystemExit(3)"),
            beyond={"executable": WARP},
            text=b"42",
            ran=lambda job: began(marks, job),
        )


class TestSlurmPlanner(PlannerContract):
    @pytest.fixture
    async def stand(
        self, slurm: SlurmServer, http: aiohttp.ClientSession, marks: Path, tmp_path: Path, name: str
    ) -> Stand:
        calendar, given = MemoryCalendar(), options(slurm, tmp_path / "jobs")
        return Stand(
            make=lambda: plugin.make(given, resources(http, calendar, site=name)),
            clock=CLOCK,
            short=counted(marks),
            long=lasting(marks),
            beyond={"executable": WARP},
            ran=lambda order: began(marks, order),
        )


async def test_what_it_would_offer_is_shown_without_a_job(slurm: SlurmServer, tmp_path: Path) -> None:
    given = options(slurm).model_dump(mode="json", include={"url", "folder", "user", "key_file"})
    site = {
        "name": "cluster", "listen": "127.0.0.1:0", "store": "cluster.db", "access": {"anonymous": "loopback"},
        "tariff": "free", "platform": {"kind": "slurm", **given},
    }  # fmt: skip
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(site))
    before = len(slurm.jobs())
    lines = await attempt(load_settings(file))
    assert "ok    platform: slurm, up to 4 cores, 7 GiB a run; results are handed back" in lines
    (offer,) = [line for line in lines if line.startswith("try")]
    assert offer.endswith("(estimate), free")
    assert len(slurm.jobs()) == before
