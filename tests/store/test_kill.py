"""kill -9 in the middle of writing: what was acknowledged is there, and no aggregate is torn.

Run as a program this file is the victim: it writes as fast as it can and acknowledges on its standard output.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from broker.ports import Listing, Query
from broker.store.sqlite import SqliteStore, open_sqlite
from broker.testing.clock import FakeClock

ROUNDS = 5
WRITERS = 12


async def write_for_ever(store: SqliteStore, aggregate: str) -> None:
    stored = await store.read(aggregate)
    version = stored.version if stored else 0
    while True:
        text = str(version + 1)
        line = Listing("session", aggregate, "me", 1.0, phase=text)
        written = await store.write(
            aggregate,
            version,
            text.encode(),
            body=text.encode() * 500,
            timers={"now": float(text), f"before{version}": None, f"before{version + 1}": float(text)},
            listings=[line],
        )
        assert written
        version += 1
        os.write(1, f"{aggregate} {version}\n".encode())  # so short a line is never split


async def victim(path: str) -> None:
    store = await open_sqlite(path, FakeClock())
    await asyncio.gather(*(write_for_ever(store, f"a{n}") for n in range(WRITERS)))


def kill_after(path: Path, acknowledgements: int) -> dict[str, int]:
    """The last acknowledged version of each aggregate."""
    process = subprocess.Popen([sys.executable, __file__, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    last: dict[str, int] = {}
    try:
        for number, line in enumerate(process.stdout):
            aggregate, version = line.split()
            last[aggregate.decode()] = int(version)
            if number == acknowledgements:
                process.send_signal(signal.SIGKILL)  # and read on what it had acknowledged by then
    finally:
        process.kill()
        process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return last


async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    chance = random.Random(11)
    acknowledged: dict[str, int] = {}
    for _ in range(ROUNDS):
        acknowledged |= kill_after(path, chance.randrange(20, 300))
        store = await open_sqlite(path, FakeClock())
        phases = {line.id: line.phase for line in await store.listings(Query("session"))}
        timers: dict[str, dict[str, float]] = {}
        for lease in await store.claim(1000, 0.0):
            timers.setdefault(lease.aggregate, {})[lease.key] = lease.due
        for n in range(WRITERS):
            aggregate = f"a{n}"
            stored = await store.read(aggregate)
            version = stored.version if stored else 0
            assert version >= acknowledged.get(aggregate, 0)
            if stored:
                text = stored.record.decode()
                assert version == int(text)
                assert await store.body(aggregate) == stored.record * 500
                assert timers[aggregate] == {"now": float(text), f"before{text}": float(text)}
                assert phases[aggregate] == text
            acknowledged[aggregate] = version
        await store.close()
    with closing(sqlite3.connect(path)) as sql:
        assert sql.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert sum(acknowledged.values()) > ROUNDS * 20


if __name__ == "__main__":
    asyncio.run(victim(sys.argv[1]))
