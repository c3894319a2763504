"""Whether a broker is ready may be asked by anybody, as often as they like: the store is asked now and then."""

from __future__ import annotations

import asyncio

import pytest

from broker.api import health
from broker.api.health import Once
from broker.errors import Unavailable


class Store:
    """Answers when it is `let`."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = asyncio.Event()
        self.away = False

    async def ping(self) -> None:
        self.asked += 1
        await self.let.wait()
        if self.away:
            raise Unavailable("gone.")


async def test_the_store_is_asked_once_for_all_and_one_who_hangs_up_takes_nothing_from_the_others() -> None:
    store = Store()
    ready = Once(store.ping)
    some = [asyncio.ensure_future(ready()) for _ in range(50)]
    await asyncio.sleep(0)
    some.pop(0).cancel()
    store.let.set()
    await asyncio.gather(*some)
    await ready()
    assert store.asked == 1


async def test_a_store_that_goes_is_noticed_and_so_is_one_that_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "WELL_FOR", 0.0)
    store = Store()
    store.let.set()
    ready = Once(store.ping)
    await ready()
    store.away = True
    for _ in range(2):
        with pytest.raises(Unavailable):
            await ready()
    store.away = False
    await ready()
    assert store.asked == 4
