"""What sites have shown is learned from their sessions, outlives the broker, shows, and is forgotten on request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from broker.domain import kinds
from broker.testing.program import ACCEPT, Caller, Program, above

pytestmark = pytest.mark.system

PATIENCE = 60.0  # seconds after which what we wait for will not come

REQUEST = {
    "executable": {"kind": kinds.PYTHON_PROGRAM, "source": "print(1)"},
    "schedule": {"requested": {"duration": "PT10M"}},
    "data": [
        {
            "kind": kinds.SKAO_DATA,
            "meta": {"name": "cube"},
            "skao": {"datasize": 20_000_000, "replicas": [{"dataurl": "https://lund.example/cube.fits"}]},
        }
    ],
}


async def test_what_a_site_has_shown_corrects_its_next_offers_and_outlives_the_broker(
    tmp_path: Path, call: Caller, until: Callable[..., Awaitable[dict[str, Any]]]
) -> None:
    simulated = {"kind": "simulated", "run": "PT1S", "bandwidth": 40}
    site = Program(tmp_path, "site", platform=simulated, tariff={"core_hour": 1.0}, capacity={"cores": 4, "memory": 8})
    lund = {"name": "lund-disk", "prefixes": ["https://lund.example/"]}
    top = Program(tmp_path, "top", **above(site=site.start().url), storages=[lund])
    try:
        await run_twice(top.start(), call, until)
        before = await learned(top, call)
        assert [(way["source"], way["samples"]) for way in before["measured"]] == [("lund-disk", 2)]
        assert before["measured"][0]["low"] < 40 < before["measured"][0]["high"]
        assert {(line["what"], line["kind"]) for line in before["calibration"]} >= {("run", "python-program")}
        top.kill()
        top.start()
        again = (await call("GET", f"{top.url}/sites/site")).json()
        assert (again["measured"], again["calibration"]) == (before["measured"], before["calibration"])
        offer = (await call("POST", f"{top.url}/requests", REQUEST)).json()["offers"][0]
        assert offer["locality"]["samples"] == 2
        time = next(term for term in offer["ranking"]["terms"] if term["name"] == "time")
        assert "(promised 10 min, × " in time["basis"]
        assert "by 2 runs)" in time["basis"]
        assert (await call("POST", f"{top.url}/sites/site/forget", {})).json()["calibration"] == []
        plain = (await call("POST", f"{top.url}/requests", REQUEST)).json()["offers"][0]
        assert "promised" not in str(plain["ranking"]["terms"])
    finally:
        top.kill()
        site.kill()


async def run_twice(top: Program, call: Caller, until: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    for _ in range(2):
        offer = (await call("POST", f"{top.url}/requests", REQUEST)).json()["offers"][0]
        await call("POST", offer["meta"]["url"], ACCEPT)
        assert (await until(offer["meta"]["url"]))["phase"] == "COMPLETED"


async def learned(top: Program, call: Caller) -> dict[str, Any]:
    """The site as it shows when both runs have been counted, which is soon after they have ended."""
    site: dict[str, Any] = {}
    async with asyncio.timeout(PATIENCE):
        while [way["samples"] for way in site.get("measured", ())] != [2]:
            site = (await call("GET", f"{top.url}/sites/site")).json()
            await asyncio.sleep(0.05)
    return site
