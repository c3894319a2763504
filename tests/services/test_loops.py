"""The loops of a broker, such as that of its timers, outlive a fault that nobody foresaw."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker import wiring
from broker.ports import Backend, Lease
from broker.settings import load_settings
from broker.store.opening import open_store


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiring, "BEGUN_ANEW", 0.0)


async def test_a_loop_that_fails_is_begun_anew_until_it_returns() -> None:
    begun = []

    async def loop() -> None:
        begun.append(1)
        if len(begun) < 3:
            raise ValueError("nobody foresaw this")

    with capture_logs() as logs:
        await wiring.over_and_over(loop)
    assert len(begun) == 3
    assert [entry["log_level"] for entry in logs] == ["error", "error"]


async def test_a_fault_of_the_store_that_is_no_error_of_ours_does_not_end_deferred_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose script somebody has killed says what no adapter knows."""
    asked = asyncio.Event()

    async def opened(*given: object) -> Backend:
        store = await open_store(str(tmp_path / "broker.db"), *given[1:])  # type: ignore[arg-type]  # as it was called
        claim, faults = store.claim, [ValueError("Script killed by user")]

        async def claim_(limit: int, lease: float) -> list[Lease]:
            if faults:
                raise faults.pop()
            asked.set()
            return await claim(limit, lease)

        monkeypatch.setattr(store, "claim", claim_)
        return store

    monkeypatch.setattr(wiring, "open_store", opened)
    async with running(tmp_path), asyncio.timeout(20):
        await asked.wait()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[None]:
    (folder / "broker.yaml").write_text("name: here\nplatform: {kind: simulated}\ntariff: free\n")
    async with wiring.open_services(load_settings(folder / "broker.yaml")):
        yield
