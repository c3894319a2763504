"""The client in a notebook: a table that fills, results that are files, a session picked up by its URL; no await."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from astropy.table import Table
from nbclient import NotebookClient

from broker.client import Broker as AsyncBroker
from broker.client.sync import Broker
from broker.domain import kinds
from broker.errors import BadInput, NotFound
from broker.testing.broker import ALBA, SET, FakeBroker, drawn_set
from broker.testing.program import Program, platform

REQUEST = {"executable": {"kind": kinds.PYTHON_PROGRAM, "source": "1", "meta": {"name": "fit"}}}
AT_ONCE = (0.0, 0.0)


async def test_a_set_is_had_at_once_where_nobody_wants_to_wait(fake: FakeBroker) -> None:
    broker = AsyncBroker(fake.url)
    for wait in (None, 0, 2.0):
        await broker.submit(REQUEST, wait=wait)
    assert [call.prefer for call in fake.sent("POST")] == [None, "respond-async", "wait=2"]


async def test_a_set_that_is_had_at_once_grows_until_every_site_has_answered(site: Program) -> None:
    async with AsyncBroker(site.url) as broker:
        offers = await broker.submit(REQUEST, wait=0)
        await offers.complete(poll=0.02)
        assert (offers.pending, offers.yes, offers.best.site) == (0, True, "alba")


async def test_the_table_of_a_notebook_fills_as_sites_answer(fake: FakeBroker, home: Path) -> None:
    (home / "home").mkdir()  # where kernels keep what they keep
    fake.sets = [drawn_set([], pending=6, closed=False), drawn_set([], pending=6, closed=False), drawn_set()]
    # In one cell, since this reader of notebooks, unlike a browser, drops what comes for a cell that has ended.
    cell = f"""from broker.client import Broker
offers = await Broker({fake.url!r}).submit({REQUEST!r}, wait=0)
display(offers)
print(offers.pending, "pending")
await offers._filling"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": str(home)}})
    await client.async_execute()
    shown, said = notebook.cells[0].outputs
    assert said["text"] == "6 pending\n"
    assert "* 1 alba" in shown["data"]["text/plain"]
    assert shown["data"]["text/html"].startswith("<pre>")


async def test_a_result_is_read_by_astropy_in_one_line(fake: FakeBroker, home: Path) -> None:
    made = io.BytesIO()
    Table({"flux": [1.5, 2.5]}).write(made, format="fits")
    fake.files = {"fluxes.fits": made.getvalue()}
    s = await (await AsyncBroker(fake.url).session(ALBA)).accept()
    await s.finished(poll=AT_ONCE)
    assert list(Table.read(await s.results["fluxes.fits"].fetch())["flux"]) == [1.5, 2.5]


# ── without await ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("notebook")
    running = Program(folder, "alba", **platform(folder / "jobs")).start()
    yield running
    running.stop()


def test_the_same_names_without_await(site: Program, home: Path) -> None:
    fit = "import os\nos.makedirs('results', exist_ok=True)\nopen('results/flux.txt', 'w').write('12 Jy')\n"
    (home / "fit.py").write_text(fit + "print('fitted')\n")
    with Broker(site.url) as broker:
        offers = broker.submit("fit.py", cores=1, memory=1, duration="2m")
        assert (len(offers), offers.yes, offers.pending) == (len(list(offers)), True, 0)
        assert "* 1 alba" in repr(offers)
        with pytest.raises(NotFound):
            _ = offers[99]
        session = offers.best.accept()
        with pytest.raises(BadInput, match="not been asked"):
            _ = session.results
        assert session.finished(poll=(0.05, 0.2)).phase == "COMPLETED"
        assert session.logs().stdout == "fitted\n"
        assert str(session.uuid) in {line.uuid for line in broker.sessions()}
        url = str(session.url)

    # Tomorrow, on another machine, which knows of no broker: the URL is enough, and results are files.
    with Broker() as elsewhere:
        path = elsewhere.session(url).results["flux.txt"].fetch("there/flux.txt")
    with open(path) as file:
        assert file.read() == "12 Jy"


async def test_it_works_where_a_loop_runs_already(fake: FakeBroker) -> None:
    def work() -> str:
        with Broker(fake.url) as broker:
            return str(broker.offerset(SET).best.accept().uuid)

    assert await asyncio.to_thread(work) == str(ALBA)


def test_a_batch_without_await(site: Program, home: Path) -> None:
    (home / "fit.py").write_text("1")
    with Broker(site.url) as broker:
        batch = broker.submit_each("fit.py", [{"n": "1"}, {"n": "2"}], arguments=["{n}"], duration="2m")
        assert [member.state for member in batch.accept().finished()] == ["COMPLETED", "COMPLETED"]
        assert batch.failed == []


def test_both_faces_have_the_same_names() -> None:
    from broker import client
    from broker.client import sync

    left_out = {
        "send",
        "put_site",
        "delete_site",
        "drain_site",
        "resume_site",
        "forget_site",
        "whoami",
    }  # of operators, and of the command
    for face in ("Broker", "Session", "Offers", "File"):
        ours, theirs = getattr(sync, face), getattr(client, face)
        wanted = {name for name, value in vars(theirs).items() if not name.startswith("_") and _called(value)}
        assert wanted - set(vars(ours)) - left_out == set(), face


def _called(value: Any) -> bool:
    return asyncio.iscoroutinefunction(value)
