"""Ways to a container engine and to what runs in it: TLS with client certificates, and ports. On Podman, in a network
of its own."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from broker.domain.deadline import Deadline
from broker.errors import SiteForbids, SiteUnreachable
from broker.testing.container_engines import Podman, podman
from tests.adapters.container_sites import CLOCK, container, sites, want_engine
from tests.conftest import want


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    want_engine("podman")
    want("openssl", "openssl")
    with podman(tmp_path_factory.mktemp("podman"), apart=True) as engine:
        yield engine


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and of it `server` for 127.0.0.1 and `client`; `stranger`, who signed for itself."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    for who in ("ca", "stranger"):
        openssl(folder, *new, "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.pem")
    for who in ("server", "client"):
        named = ("-subj", f"/CN={who}", "-addext", "subjectAltName=IP:127.0.0.1", "-CA", "ca.pem", "-CAkey", "ca.key")
        openssl(folder, *new, *named, "-keyout", f"{who}.key", "-out", f"{who}.pem")
    return folder


@asynccontextmanager
async def guarded(engine: Podman, certificates: Path) -> AsyncIterator[str]:
    """The engine behind TLS that asks for a client's certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    tasks = set[asyncio.Task[None]]()

    async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(engine.socket))
        tasks.update({asyncio.create_task(pump(reader, far_writer)), asyncio.create_task(pump(far_reader, writer))})

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def tls(folder: Path, ca: str = "ca", who: str = "client") -> dict[str, Path]:
    return {"ca_file": folder / f"{ca}.pem", "cert_file": folder / f"{who}.pem", "key_file": folder / f"{who}.key"}


async def test_an_engine_behind_tls_runs_what_it_is_given(engine: Podman, certificates: Path) -> None:
    async with guarded(engine, certificates) as url, sites(engine, url=url, tls=tls(certificates)) as here:
        stage = here.stage(container("true"), container("true"))
        assert (await stage.ended(await stage.started(stage.short))).phase == "COMPLETED"


async def test_nothing_is_sent_to_whom_nobody_vouches_for(engine: Podman, certificates: Path) -> None:
    async with (
        guarded(engine, certificates) as url,
        sites(engine, url=url, tls=tls(certificates, ca="stranger")) as here,
    ):
        with pytest.raises(SiteUnreachable, match="certificate is not valid"):
            await here.platform().describe(Deadline.after(30.0, CLOCK.monotonic()))
        nowhere = tls(certificates) | {"key_file": certificates / "none.key"}
        with pytest.raises(SiteForbids, match="certificates for the container engine cannot be used"):
            await here.platform(tls=nowhere).describe(Deadline.after(30.0, CLOCK.monotonic()))


# ── ports ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_port_is_reached_where_its_connector_says(engine: Podman) -> None:
    serve = "mkdir /tmp/lab; echo hello >/tmp/lab/index.html; exec httpd -f -p 8080 -h /tmp"
    network = {"ports": [{"internal": {"port": 8080}, "protocol": "HTTP", "path": "/lab/"}]}
    request = container("sh", "-c", serve, network=network)
    async with sites(engine, network="bridge", ports={}) as here:
        stage = here.stage(request, request)
        job = await stage.started(request)
        async with asyncio.timeout(60):
            while (seen := await stage.look(job)).phase != "RUNNING":
                await stage.pass_time()
        (connector,) = msgspec.json.decode(seen.body or b"")["connectors"]
        assert connector["status"] == "AVAILABLE"
        assert connector["location"].endswith("/lab/")
        fetched = f"for i in $(seq 100); do busybox wget -qO- {connector['location']} && break; sleep 0.1; done"
        assert await asyncio.to_thread(engine.inside, "sh", "-c", fetched) == "hello\n"
        await stage.make().cancel(job, stage.soon())
        ended = await stage.ended(job)
        assert msgspec.json.decode(ended.body or b"")["connectors"][0]["status"] == "FINISHED"
        assert "location" not in (ended.body or b"").decode()
