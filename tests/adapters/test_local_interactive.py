"""Notebooks that a person sits before: real Jupyter servers under real supervisors, and a real browser."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright
from playwright.async_api import TimeoutError as Late
from pydantic import ValidationError

from adapters.local import layout
from adapters.local.jobs import Jobs
from adapters.local.options import LocalOptions
from adapters.local.platform import Interpreter, LocalPlatform, _unfit
from adapters.planning.platform import Job
from broker.domain import kinds
from broker.domain.deadline import Deadline
from broker.domain.identity import Owner
from broker.domain.request import ExecutionRequest
from broker.domain.session import TERMINAL
from broker.ports import Sighting
from broker.services.clock import SystemClock
from broker.testing.program import ACCEPT, CANCEL, Caller, Program, above
from broker.testing.program import platform as planned

PATIENCE = 90.0  # seconds: a net for what hangs, not a measure
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def a_notebook(source: str = "print(6 * 7)") -> dict[str, Any]:
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": [cell], "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}


def a_request(**more: Any) -> dict[str, Any]:
    data = base64.b64encode(json.dumps(a_notebook()).encode()).decode()
    executable = {"kind": kinds.JUPYTER_NOTEBOOK, "location": f"data:application/json;base64,{data}"}
    return {"executable": {**executable, "mode": "interactive"}, **more}


def a_job(duration: float = 600.0) -> Job:
    request = ExecutionRequest.model_validate(a_request())
    return Job(uuid4(), "a look", Owner("test", "somebody"), request, 1, 2, 0, {}, duration=duration, start=0.0)


def soon() -> Deadline:
    return Deadline.after(PATIENCE, time.monotonic())


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What `condition` returns as soon as it is true."""
    async with asyncio.timeout(PATIENCE):
        while not (found := await condition()):  # noqa: ASYNC110  what is awaited happens in other processes
            await asyncio.sleep(0.05)
    return found


class Place:
    """A local platform, and what a test does with it. What it started is ended in the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "jobs"
        self._jobs: list[tuple[LocalPlatform, Job]] = []

    def platform(self, isolation: str = "none", **interactive: Any) -> LocalPlatform:
        options = {"folder": self.folder, "grace": 2, "nice": 0, "isolation": isolation, "interactive": interactive}
        return LocalPlatform(LocalOptions.model_validate(options), SystemClock())

    async def start(self, platform: LocalPlatform, job: Job, *phases: str) -> Sighting:
        self._jobs.append((platform, job))
        await platform.start(job, soon())
        return await self.reached(platform, job, *phases)

    async def reached(self, platform: LocalPlatform, job: Job, *phases: str) -> Sighting:
        async def look() -> Sighting | None:
            seen = (await platform.status([job], soon()))[job.session]
            assert isinstance(seen, Sighting), seen
            return seen if seen.phase in phases or seen.phase in layout.TERMINAL else None

        found: Sighting = await until(look)
        return found

    async def end(self) -> None:
        for platform, job in self._jobs:
            await platform.cancel(job, soon())
            await self.reached(platform, job)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path)
    yield place
    await place.end()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        yield session


def connector(seen: Sighting) -> dict[str, str]:
    assert seen.body is not None, seen
    (found,) = json.loads(seen.body)["connectors"]
    assert found.pop("kind") == kinds.JUPYTER_CONNECTOR
    return dict(found)


# ── a server's life ──────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_server_opens_to_its_token_alone_and_ends_when_nobody_uses_it(
    place: Place, http: aiohttp.ClientSession
) -> None:
    platform, job = place.platform(idle="PT4S"), a_job()
    seen = await place.start(platform, job, "AVAILABLE")
    assert seen.phase == "AVAILABLE", seen
    shown = connector(seen)
    assert (shown["status"], shown["protocol"]) == ("AVAILABLE", "HTTP")
    page, _, token = shown["location"].partition("?token=")
    assert page.startswith("http://127.0.0.1:")
    assert page.endswith("/lab/tree/notebook.ipynb")
    server = page.removesuffix("lab/tree/notebook.ipynb")
    async with http.get(f"{server}api/contents", params={"no_track_activity": "1"}) as refused:
        assert refused.status == 403
    signed = {"Authorization": f"token {token}"}
    async with http.get(f"{server}api/contents/notebook.ipynb", headers=signed) as answer:
        assert (await answer.json())["content"]["cells"][0]["source"] == "print(6 * 7)"

    async def forgotten() -> bool:
        """A page left open asks for the files again and again."""
        try:
            async with http.get(f"{server}api/contents", headers=signed) as answer:
                return answer.status != 200
        except aiohttp.ClientConnectionError:
            return True

    await until(forgotten)
    over = await place.reached(platform, job)
    assert over.phase == "COMPLETED"
    assert over.messages == ("nothing was computed or saved for 4 s, so it was ended",)
    assert connector(over) == {"status": "FINISHED", "protocol": "HTTP"}
    assert [result.name for result in await platform.results(job, soon())] == ["notebook.ipynb"]
    logs = await platform.logs(job, soon())
    assert "is running at" in (logs.stderr or "")
    assert token not in f"{logs.stdout}{logs.stderr}"
    assert token not in (place.folder / str(job.session) / layout.STATE).read_text()


async def test_its_time_ends_it_and_what_was_saved_is_kept(place: Place, http: aiohttp.ClientSession) -> None:
    platform, job = place.platform(), a_job(duration=5.0)
    seen = await place.start(platform, job, "AVAILABLE")
    location = connector(seen)["location"]
    page, token = location.partition("lab/")[0], location.partition("?token=")[2]
    saved = {"type": "notebook", "format": "json", "content": a_notebook("mine")}
    async with http.put(
        f"{page}api/contents/mine.ipynb", json=saved, headers={"Authorization": f"token {token}"}
    ) as answer:
        assert answer.status == 201
    over = await place.reached(platform, job)
    assert (over.phase, over.messages) == ("COMPLETED", ("its time was up: 5 s were granted",))
    assert [result.name for result in await platform.results(job, soon())] == ["mine.ipynb", "notebook.ipynb"]
    pieces = [piece async for piece in platform.fetch(job, "mine.ipynb", soon())]
    assert json.loads(b"".join(pieces))["cells"][0]["source"] == ["mine"]
    assert over.began is not None
    assert over.ended is not None


async def test_it_is_reached_where_the_operator_says(place: Place, http: aiohttp.ClientSession) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    platform = place.platform(url="https://lab.example/notebooks/{port}", ports=[port, port])
    job = a_job()
    shown = connector(await place.start(platform, job, "AVAILABLE"))
    assert shown["protocol"] == "HTTPS"
    before, _, token = shown["location"].partition("?token=")
    assert before == f"https://lab.example/notebooks/{port}/lab/tree/notebook.ipynb"
    # As the operator's proxy would ask.
    url = f"http://127.0.0.1:{port}/notebooks/{port}/api/status"
    signed = {"Authorization": f"token {token}", "Host": "lab.example"}
    async with http.get(url, headers=signed) as answer:
        assert answer.status == 200
    async with http.get(url, headers={**signed, "Host": "evil.example"}) as answer:
        assert answer.status == 403
    await platform.cancel(job, soon())
    over = await place.reached(platform, job)
    assert (over.phase, connector(over)["status"]) == ("CANCELLED", "FINISHED")


@pytest.fixture
def sandboxed() -> None:
    if shutil.which("bwrap") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no bubblewrap here: make servers")


@pytest.mark.usefixtures("sandboxed")
async def test_it_opens_from_within_the_sandbox(place: Place, http: aiohttp.ClientSession) -> None:
    shown = connector(await place.start(place.platform(isolation="bwrap"), a_job(), "AVAILABLE"))
    async with http.get(shown["location"]) as answer:
        assert "JupyterLab" in await answer.text()


async def test_a_server_without_a_port_fails_and_says_so(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        seen = await place.start(place.platform(ports=[port, port]), a_job())
    assert seen.phase == "FAILED"
    assert f"none of the ports {port} to {port} of 127.0.0.1 is free" in seen.messages[0]
    assert connector(seen) == {"status": "FINISHED", "protocol": "HTTP"}


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def test_what_cannot_be_opened_is_refused_with_its_remedy(tmp_path: Path) -> None:
    request = ExecutionRequest.model_validate(a_request())

    def reasons(**options: Any) -> list[str]:
        platform = LocalPlatform(LocalOptions.model_validate({"folder": tmp_path, **options}), SystemClock())
        return [str(reason) for reason in platform.refuse(request) if reason.element == "executable.mode"]

    assert reasons() == []
    shut = reasons(interactive={"offered": False})
    assert shut == ["executable.mode: notebooks are executed here, not opened. Nearest yes: batch."]
    alone = reasons(isolation="bwrap", network=False)
    assert alone == [
        "executable.mode: programs have no network here, so nobody reaches a notebook. Nearest yes: batch."
    ]


def test_an_interpreter_without_jupyter_is_named_with_what_to_install() -> None:
    request = ExecutionRequest.model_validate(a_request())
    (reason,) = _unfit(request, Interpreter("3.11.2", notebooks=True, pip=True, opens=False, cwl=False))
    assert str(reason) == ("executable.mode: jupyterlab and ipykernel are not installed here. Nearest yes: batch.")
    assert _unfit(request, Interpreter("3.11.2", notebooks=False, pip=True, opens=True, cwl=False)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "https://lab.example/"},
        {"url": "ftp://lab.example/{port}"},
        {"url": "https://lab.example/{port}?a=b"},
        {"ports": [9000, 8000]},
        {"ports": [0, 8000]},
        {"idle": "soon"},
    ],
)
def test_wrong_options_are_told(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LocalOptions.model_validate({"folder": tmp_path, "interactive": wrong})


# ── by way of two brokers, with a browser ────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    if CHROMIUM is None:
        if os.environ.get("CI") == "true":
            pytest.fail("CI has no chromium: make servers")
        pytest.skip("no chromium here: make servers")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        yield page
        await browser.close()


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Program]:
    """Two levels: a broker of a federation, and before a local platform one of its own."""
    site = Program(tmp_path, "alba", **planned(tmp_path / "jobs")).start()
    federation = Program(tmp_path, "federation", **above(alba=site)).start()
    yield federation
    federation.kill()
    site.kill()
    jobs = Jobs(tmp_path / "jobs", 60.0)  # what they started goes on without them
    for session in (UUID(job.parent.name) for job in (tmp_path / "jobs").glob("*/job.json")):
        jobs.cancel(session)


async def reached(call: Caller, url: str, *phases: str) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await call("GET", url)).json()
        return shown if shown["phase"] in (*phases, *TERMINAL) else None

    found: dict[str, Any] = await until(look)
    return found


async def compute_and_save(page: Page, location: str) -> None:
    await page.goto(location)
    await page.locator(".jp-Notebook .jp-CodeCell .cm-content").first.click()

    async def computed() -> bool:
        # JupyterLab drops what is run before it is connected to the kernel, and shows no sign of either.
        await page.keyboard.press("Control+Enter")
        try:
            await page.locator(".jp-OutputArea-output", has_text="42").wait_for(timeout=3000)
        except Late:
            return False
        return True

    await until(computed)
    async with page.expect_response(lambda response: response.request.method == "PUT" and response.ok):
        await page.keyboard.press("Control+s")


async def test_a_person_computes_in_the_browser_and_gets_the_notebook_back(
    federation: Program, page: Page, http: aiohttp.ClientSession, tmp_path: Path
) -> None:
    call = Caller(http)
    offered = (await call("POST", f"{federation.url}/requests", a_request())).json()
    assert offered["result"] == "YES", offered
    best = offered["offers"][0]
    assert best["executable"]["mode"] == "interactive"
    assert best["ranking"]["result"] == best["ranking"]["ready"]  # a person's time in it is no waiting
    url = best["meta"]["url"]
    assert (await call("POST", url, ACCEPT)).status == 200
    shown = await reached(call, url, "AVAILABLE")
    assert shown["phase"] == "AVAILABLE", shown
    (open_,) = shown["connectors"]
    assert (open_["kind"], open_["status"]) == (kinds.JUPYTER_CONNECTOR, "AVAILABLE")

    await compute_and_save(page, open_["location"])

    await call("POST", url, CANCEL)
    over = await reached(call, url)
    assert over["phase"] == "CANCELLED", over
    assert over["connectors"] == [{"kind": kinds.JUPYTER_CONNECTOR, "status": "FINISHED", "protocol": "HTTP"}]
    answer = await call("GET", f"{url}/results/notebook.ipynb")
    (cell,) = [cell for cell in json.loads(answer.body)["cells"] if cell["source"]]
    assert cell["outputs"][0]["text"] in ("42\n", ["42\n"])
    token = open_["location"].partition("?token=")[2]
    for log in (federation.log, tmp_path / "alba" / "log"):
        assert token not in log.read_text()
