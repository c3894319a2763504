"""What becomes of jobs when parts of a real Slurm are killed. Each test has a cluster of its own: a slurmctld that was
killed may give numbers of jobs a second time, and nodes drain themselves then.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from broker.domain.session import TERMINAL
from broker.ports import Sighting
from broker.testing.resources import shared_http
from broker.testing.slurm_server import SlurmServer
from tests.adapters.slurm_site import a_cluster, a_job, options, over, phase, platform, soon, until


@pytest.fixture
def slurm() -> Iterator[SlurmServer]:
    with a_cluster() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with shared_http() as http:
        yield http


@pytest.mark.parametrize("number_", [signal.SIGTERM, signal.SIGKILL])
async def test_a_run_does_not_notice_that_slurmctld_is_restarted(
    slurm: SlurmServer, http: aiohttp.ClientSession, tmp_path: Path, number_: signal.Signals
) -> None:
    """Nor does whoever looks, but that Slurm cannot be asked for a while."""
    site, job = (
        platform(options(slurm), http),
        a_job("import time\ntime.sleep(1)\nopen('results/done', 'w').write('42')\n"),
    )
    await site.start(job, soon())
    await phase(site, job, "RUNNING")
    if number_ == signal.SIGKILL:
        slurm.wait_saved()
    slurm.kill("slurmctld", number_)
    (tmp_path / "go").touch()
    slurm.start_slurmctld()

    async def ended() -> Sighting | None:
        seen = (await site.status([job], soon()))[job.session]
        return seen if isinstance(seen, Sighting) and seen.phase in TERMINAL else None

    seen = await until(ended)
    assert (seen.phase, seen.messages) == ("COMPLETED", ())
    assert [result.bytes for result in await site.results(job, soon())] == [2]


async def test_a_node_that_fails_takes_its_jobs_with_it(slurm: SlurmServer, http: aiohttp.ClientSession) -> None:
    site, job = platform(options(slurm), http), a_job("import time\ntime.sleep(600)\n", cores=4)
    await site.start(job, soon())
    await phase(site, job, "RUNNING")
    node = slurm.nodes[0]
    slurm.fail(node)
    slurm.control("update", f"nodename={node}", "state=down", "reason=power")
    seen = await over(site, job)
    assert seen.phase == "FAILED"
    assert "NODE_FAIL, its node failed" in seen.messages[0]
