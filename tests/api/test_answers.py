"""What answers say beside what the sites wrote."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from broker.api import answers
from broker.domain import kinds
from broker.domain.outcome import Quote
from broker.ports import Ask, Quotes
from broker.store.sqlite import open_sqlite
from broker.testing.bench import ADA, Bench
from broker.testing.clock import FakeClock
from broker.testing.scripted import ScriptedSite


class Bare:
    """Around a site: its offers say when and for how much, but not what runs on what."""

    def __init__(self, site: ScriptedSite) -> None:
        self.site = site

    def __getattr__(self, name: str) -> object:
        return getattr(self.site, name)

    async def quote(self, ask: Ask) -> Quotes:
        made = await self.site.quote(ask)
        return Quotes(tuple(Quote(quote.handle, self._bared(quote.body)) for quote in made.quotes))

    def _bared(self, body: bytes) -> bytes:
        session = msgspec.json.decode(body)
        session.pop("executable", None)
        return msgspec.json.encode(session)


@pytest.mark.parametrize("accepted", [False, True], ids=["offered", "accepted"])
async def test_a_session_whose_site_names_no_executable_shows_what_was_asked(tmp_path: Path, accepted: bool) -> None:
    """Generated clients raise on a session without one (protocol.md 1.6)."""
    clock = FakeClock()
    store = await open_sqlite(tmp_path / "broker.db", clock)
    bench = await Bench(store, clock, {"alba": Bare(ScriptedSite("alba", clock))}).start()  # type: ignore[dict-item]
    try:
        state = await bench.ask()
        uuid = state.record.sessions[0].uuid
        if accepted:
            await bench.accept(uuid)
        shown = json.loads(answers.session(await bench.sessions.get(uuid, ADA), "http://broker", ADA))
        assert shown["executable"]["kind"] in kinds.EXECUTABLES
    finally:
        await store.close()
