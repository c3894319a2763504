"""The plugin as the broker uses it: options, and a whole life from the question to the result."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from pydantic import ValidationError

from adapters.local.adapter import plugin
from adapters.local.cache import About, Cache
from adapters.local.layout import Shelf
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.site import Registration
from broker.errors import SettingsError
from broker.plugins import Resources, load
from broker.ports import Planner, Sighting
from broker.testing import asks
from broker.testing.memory import MemoryCalendar, MemoryLimits


class Now:
    """The real clock: programs run by it."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def soon() -> Deadline:
    return Deadline.after(20.0, time.monotonic())


def a_planner(options: dict[str, Any], **settings: Any) -> Planner:
    resources = Resources(
        registration=Registration(name="here", kind="local"),
        calendar=MemoryCalendar(),
        limits=MemoryLimits(Now()),
        clock=Now(),
        http=cast(aiohttp.ClientSession, None),
        credentials=None,
        name="here",
        broker_id="us",
        currency="EUR",
        site_settings=settings,
    )
    return plugin.make(plugin.options.model_validate(options), resources)


def test_it_is_installed_as_a_plugin() -> None:
    assert load()["local"] is plugin
    assert plugin.plans


@pytest.mark.parametrize("options", [{}, {"folder": "/x", "wrong": 1}, {"folder": "/x", "isolation": "jail"}])
def test_wrong_options_are_told(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugin.options.model_validate(options)


def test_wrong_site_settings_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        a_planner({"folder": tmp_path}, capacity={"cores": "many"})


async def test_the_profile_says_what_it_is(tmp_path: Path) -> None:
    profile = await a_planner({"folder": tmp_path, "isolation": "none"}).describe(soon())
    assert profile.platform == "local"
    assert profile.executables == (kinds.PYTHON_PROGRAM, kinds.JUPYTER_NOTEBOOK)
    assert profile.results
    assert profile.reserves
    assert profile.repeatable
    assert "no sandbox" in (profile.isolation or "")
    assert not profile.installs_requirements
    assert profile.reads == ("http", "https", "data")


async def test_from_the_question_to_the_result(tmp_path: Path) -> None:
    planner = a_planner({"folder": tmp_path / "jobs"}, tariff="free", capacity={"cores": 2, "memory": 2, "storage": 10})
    question = asks.ask(
        Now(),
        within=20.0,
        executable={"kind": kinds.PYTHON_PROGRAM, "source": "open('results/answer', 'w').write('42')"},
        compute={"kind": kinds.SIMPLE_COMPUTE, "cores": {"min": 1, "max": 1}, "memory": {"min": 1, "max": 1}},
    )
    answer = await planner.quote(question)
    assert answer.quotes, answer.reasons
    order = asks.order(answer.quotes[0], set=question.set)
    accepted = await planner.accept(order, soon())
    assert accepted.phase not in ("FAILED", "REJECTED", "EXPIRED")

    async def look() -> Sighting:
        seen = (await planner.status([order], soon()))[order.session]
        assert isinstance(seen, Sighting), seen
        return seen

    async with asyncio.timeout(20):
        while (seen := await look()).phase != "COMPLETED":  # noqa: ASYNC110  it runs in another process
            await asyncio.sleep(0.01)
    assert seen.cost == 0.0
    assert [result.name for result in await planner.results(order, soon())] == ["answer"]
    assert b"".join([piece async for piece in planner.fetch(order, "answer", soon())]) == b"42"


def simple_data(*urls: str) -> list[dict[str, Any]]:
    return [{"kind": kinds.SIMPLE_DATA, "meta": {"name": f"d{i}"}, "location": url} for i, url in enumerate(urls)]


async def test_an_offer_says_which_data_is_here_already(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/cube").write_bytes(b"x" * 1234)
    kept, absent = "https://data.example/kept", "https://data.example/absent"
    options = {"folder": tmp_path / "jobs", "file_roots": [tmp_path / "data"], "cache": {"bytes": 1e6}}
    about = About(kept, kept, 1234, '"v1"')
    with (cache := Cache(tmp_path / "jobs", Shelf(10**6, 60.0))).turn(kept):
        cache.keep(about, tmp_path / "data/cube")
    question = asks.ask(
        Now(),
        within=20.0,
        executable={"kind": kinds.PYTHON_PROGRAM, "source": "pass"},
        data=simple_data(kept, absent, f"file://{tmp_path}/data/cube"),
    )
    answer = await a_planner(options, tariff="free").quote(question)
    assert answer.quotes, answer.reasons
    assert [json.loads(quote.body)["locality"] for quote in answer.quotes] == [
        {"certainty": "stated", "held": ["data[0]", "data[2]"], "cached": 2468.0}
    ] * len(answer.quotes)


async def test_an_offer_says_nothing_of_data_where_none_is_here(tmp_path: Path) -> None:
    question = asks.ask(
        Now(),
        within=20.0,
        executable={"kind": kinds.PYTHON_PROGRAM, "source": "pass"},
        data=simple_data("https://data.example/absent"),
    )
    answer = await a_planner({"folder": tmp_path, "cache": {"bytes": 1e6}}, tariff="free").quote(question)
    assert "locality" not in json.loads(answer.quotes[0].body)


async def test_a_cache_that_cannot_be_read_costs_no_offer(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/cache").write_text("in the way")
    question = asks.ask(
        Now(),
        within=20.0,
        executable={"kind": kinds.PYTHON_PROGRAM, "source": "pass"},
        data=simple_data("https://data.example/x"),
    )
    answer = await a_planner({"folder": tmp_path / "jobs", "cache": {"bytes": 1e6}}, tariff="free").quote(question)
    assert answer.quotes


async def test_what_cannot_run_is_declined_with_its_element(tmp_path: Path) -> None:
    planner = a_planner({"folder": tmp_path}, tariff="free")
    answer = await planner.quote(asks.ask(Now(), within=20.0))
    assert not answer.quotes
    assert answer.reasons[0].element == "executable.kind"
