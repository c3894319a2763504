"""What becomes of jobs when parts of a real Slurm are killed, and what a Slurm does that is set up otherwise. Each test
has a cluster of its own: a slurmctld that was killed may give numbers of jobs a second time, and nodes drain themselves
then.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from broker.domain.session import TERMINAL
from broker.ports import Sighting
from broker.testing.resources import shared_http
from broker.testing.slurm_server import SlurmServer
from tests.adapters.slurm_site import a_cluster, a_job, options, over, phase, platform, soon, until
from tests.conftest import want


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


# ── set up otherwise ─────────────────────────────────────────────────────────────────────────────────────────────

# Memory that several processes share, which no limit of one process bounds.
_SHARED = """import mmap
whole = mmap.mmap(-1, 3 * 2**30)
for at in range(0, len(whole), 4096):
    whole[at] = 1
"""
# RS256, as an identity provider signs.
_SIGNS = """set -eu
plain() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
now=$(date +%s)
head=$(printf '{"alg":"RS256","typ":"JWT","kid":"k1"}' | plain)
body=$(printf '{"sun":"root","iat":%d,"exp":%d}' "$now" "$((now + 300))" | plain)
tail=$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -sign "$1" -binary | plain)
printf '%s.%s.%s\n' "$head" "$body" "$tail"
"""


def key_pair(folder: Path) -> tuple[Path, Path]:
    """A private key, and the set with its public half."""
    key, jwks = folder / "rsa.pem", folder / "jwks.json"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    told = subprocess.run(["openssl", "rsa", "-in", key, "-noout", "-modulus"], check=True, capture_output=True)
    modulus = bytes.fromhex(told.stdout.decode().strip().partition("=")[2])
    n, e = (urlsafe_b64encode(number).rstrip(b"=").decode() for number in (modulus, b"\x01\x00\x01"))
    jwks.write_text(json.dumps({"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "k1", "n": n, "e": e}]}))
    return key, jwks


async def test_slurm_takes_tokens_of_a_provider_and_bounds_the_memory(
    http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    want("openssl", "openssl")
    if not os.path.isdir("/sys/fs/cgroup/memory"):  # noqa: ASYNC240
        pytest.skip("no cgroups of version 1 here")
    key, jwks = key_pair(tmp_path)
    with a_cluster(cgroups=True, jwks=str(jwks)) as slurm:
        command = ["sh", "-c", _SIGNS, "sh", str(key)]
        site = platform(options(slurm, key_file=None, token={"token_command": command}, overhead=0), http)
        job = a_job(_SHARED)
        await site.start(job, soon())
        seen = await over(site, job)
        assert seen.phase == "FAILED"
        # Slurm's cgroup is quicker than the supervisor, which looks twice a second; but for a very busy machine.
        assert "OUT_OF_MEMORY" in seen.messages[-1] or "memory limit" in seen.messages[0]
