"""What looks after a store, from the command line: a copy of it, and the doctor's visit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog

from broker.ports import Listing
from broker.services.clock import SystemClock
from broker.store.sqlite import open_sqlite

SPOILT = "0" * 23 + "1"
SETTINGS = "name: here\nplatform: {kind: simulated}\ntariff: free\n"


@pytest.fixture(autouse=True)
def logging() -> Iterator[None]:
    """The doctor sets up the log of a whole process."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
async def store(home: Path) -> Path:
    """A settings file beside a store that holds nothing but a line of no record."""
    (home / "here.yaml").write_text(SETTINGS)
    store = await open_sqlite(home / "broker.db", SystemClock())
    line = Listing("session", "s-1", "here|ada", 1.0, "RUNNING", "fit", "here")
    await store.write(SPOILT, 0, b"", listings=[line])
    await store.database.write(lambda sql: sql.execute("DELETE FROM aggregates WHERE key = ?", (SPOILT,)).rowcount)
    await store.close()
    return home / "broker.db"


def databases(home: Path) -> list[str]:
    return [path.name for path in home.glob("*.db*")]


async def test_a_copy_is_made_and_never_made_over_another(run: Any, store: Path) -> None:
    ran = await run("backup", "here.yaml", "copy.db")
    size = store.with_name("copy.db").stat().st_size
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"Wrote copy.db: {size} bytes, found whole (PRAGMA integrity_check).\n"
    again = await run("backup", "here.yaml", "copy.db")
    assert (again.code, again.err) == (2, "copy.db is there already, and is left as it is. Name another file.\n")


async def test_a_redis_is_copied_by_its_own_means(run: Any, home: Path) -> None:
    (home / "here.yaml").write_text("name: here\nstore: redis://127.0.0.1:1/0\n")
    ran = await run("backup", "here.yaml", "copy.db")
    assert (ran.code, ran.out, databases(home)) == (2, "", [])
    assert "the store is a Redis. Copy it by Redis's own means" in ran.err


@pytest.mark.parametrize("command", [("backup", "here.yaml", "copy.db"), ("doctor", "here.yaml")])
async def test_where_there_is_no_store_none_is_made(run: Any, home: Path, command: tuple[str, ...]) -> None:
    (home / "here.yaml").write_text(SETTINGS)
    ran = await run(*command)
    assert (ran.code, ran.out, databases(home)) == (2, "", [])
    assert "here" in ran.err


async def test_a_doctor_leaves_a_store_alone_that_no_broker_has_used(run: Any, home: Path, redis_url: str) -> None:
    """As with a wrong prefix: everything that the sites have would pass for orphans, and be ended."""
    (home / "empty.db").touch()
    for store in ("empty.db", f"{redis_url}?prefix={uuid4().hex}"):
        (home / "here.yaml").write_text(f"{SETTINGS}store: {store}\n")
        ran = await run("doctor", "here.yaml", "--mend", "--cancel-orphans")
        assert (ran.code, ran.out) == (2, "")
        assert "no broker has kept anything there yet" in ran.err


@pytest.mark.usefixtures("store")
async def test_the_doctor_tells_what_is_wrong_and_how_it_is_mended(run: Any) -> None:
    ran = await run("doctor", "here.yaml", tty=True)
    assert ran.code == 1
    assert ran.out == (
        f"WARN   leftover    {SPOILT}\n"
        "       1 line of what is there no more.\n"
        "       Mending: they are removed.\n"
    )  # fmt: skip
    assert ran.err == "0 sets looked at, 1 thing found.\nTo mend what can be: add --mend.\n"
    mended = await run("doctor", "here.yaml", "--mend")
    assert mended.code == 0
    assert mended.out.splitlines()[1] == f"WARN\tleftover\t{SPOILT}\t1 line of what is there no more.\tdone."
    assert mended.err == "0 sets looked at, 1 thing found, 1 mended.\n"
    well = await run("doctor", "here.yaml")
    assert (well.code, well.out, well.err) == (0, "", "0 sets looked at, all is well.\n")


@pytest.mark.usefixtures("store")
async def test_for_programs_it_is_a_document(run: Any) -> None:
    ran = await run("doctor", "here.yaml", "--json")
    document = json.loads(ran.out)
    assert (ran.code, document["sets"], document["unasked"]) == (1, 0, {})
    assert [(at["level"], at["what"], at["where"], at["mended"]) for at in document["findings"]] == [
        ("WARN", "leftover", SPOILT, False)
    ]


@pytest.mark.usefixtures("store")
async def test_a_site_that_cannot_be_asked_is_named(run: Any, home: Path) -> None:
    (home / "here.yaml").write_text(SETTINGS + "sites: {gone: {url: 'http://127.0.0.1:1/'}}\n")
    ran = await run("doctor", "here.yaml", "--mend")
    assert ran.code == 0
    assert "gone was not asked what it has for us: " in ran.err


@pytest.mark.usefixtures("store")
async def test_jobs_are_cancelled_by_whoever_mends_alone(run: Any) -> None:
    ran = await run("doctor", "here.yaml", "--cancel-orphans")
    assert (ran.code, ran.err) == (2, "--cancel-orphans mends. Add --mend.\n")
